# ---
# title: The feed-forward network
# lab: ch02/lab03
# minutes: 90
# difficulty: 3
# hardware: cpu
# needs: [ch01/lab03]
# builds: [relu, silu, gelu, gelu_tanh, FeedForward, swiglu_hidden, SwiGLU, parameter_shares]
# ---

# %% [markdown]
# # Lab 2.3 · The feed-forward network
#
# ## The idea
#
# Attention fetches. Once the weights are known, every output is a weighted sum of values, and sums cannot make
# decisions. Take a token with two features, and ask for the larger one first: (3, 5) should become (5, 3). So should
# (5, 3). A map `x @ w + b` sends the midpoint of two inputs to the midpoint of their outputs, so it must send (4, 4)
# to (5, 3) as well. The right answer there is (4, 4). No matrix sorts two numbers.
#
# Two matrices with a bend between them do. The first one asks four questions: how far is the first feature above the
# second, how far below, what is the sum, and what is minus the sum? For (3, 5) that is $-2, 2, 8, -8$. The bend,
# $\text{relu}(z) = \max(0, z)$, keeps the answers that are positive: $0, 2, 8, 0$. The second matrix puts them
# together again:
#
# $$ \text{larger} = \tfrac12 (0 + 2 + 8 - 0) = 5 \qquad \text{smaller} = \tfrac12 (-0 - 2 + 8 - 0) = 3 $$
#
# For (5, 3) the first two answers change places, and the result is the same. Here is the feed-forward network of a
# transformer, complete: **expand** two features to four, **activate**, **contract** to two. A token of GPT-2 has 768
# features and asks 3,072 questions. Every token goes through it alone, with the same weights, and no token sees another.
#
# The bend has changed over the years. ReLU has a corner; GELU and SiLU are smooth. In newer models the network has a
# third matrix: one product is bent and then *multiplied* with another. That is SwiGLU, and it can do something that no
# sum of these bends can: multiply two features exactly. You will build all of them, move weights over from real
# implementations, and count which part of a model holds most of its parameters.
#
# The curves with their derivatives, and why each replaced the one before, are on the page [The feed-forward
# network](../../book/ch02_block/feed_forward_network.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `x` | `(..., d_model)` | tokens; mostly `(B, T, d_model)`, but any leading axes do |
# | `w_in`, `b_in` | `(d_model, d_ff)`, `(d_ff,)` | expand: one column for each hidden unit |
# | `hidden` | `(..., d_ff)` | after the activation; often `d_ff = 4 * d_model` |
# | `w_out`, `b_out` | `(d_ff, d_model)`, `(d_model,)` | contract: one row for each hidden unit |
# | `w_gate`, `w_up` | `(d_model, d_ff)` | SwiGLU: what is bent, and what it is multiplied with |
# | `w_down` | `(d_ff, d_model)` | SwiGLU: contract |
#
# As in [Lab 1.3](../ch01_attention/lab03_multihead.ipynb), matrices are plain `nn.Parameter`s, used as `x @ w`.

# %% given
import math

import torch
from torch import nn

# %% [markdown]
# ## A picture
#
# Why expand? With one feature going in and ReLU as the bend, each hidden unit adds one corner to the output, at the
# place where `x * w_in + b_in` passes zero. Below, the corners are spread evenly and the best `w_out` and
# `b_out` for a sine wave are computed by least squares. Move the slider: the only thing that you change is `d_ff`.

# %%
import plotly.graph_objects as go

from coursekit import plots

x_axis = torch.linspace(-3, 3, 301, dtype=torch.float64)
target = torch.sin(2 * x_axis)
figure = go.Figure()
widths, titles = [1, 2, 4, 8, 16, 32], []
figure.add_scatter(x=x_axis.tolist(), y=target.tolist(), name="target", line={"color": plots.GREY, "dash": "dash"})
for width in widths:
    corners = torch.linspace(-3, 3, width + 1, dtype=torch.float64)[:-1]  # where each unit starts to count
    hidden = torch.relu(x_axis[:, None] - corners)  # (301, d_ff)
    with_bias = torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1)
    fitted = with_bias @ torch.linalg.lstsq(with_bias, target[:, None]).solution[:, 0]
    at_corners = [float(fitted[(x_axis - corner).abs().argmin()]) for corner in corners]
    titles.append(f"d_ff = {width}: largest error {float((fitted - target).abs().max()):.3f}")
    shown = width == 8
    figure.add_scatter(
        x=x_axis.tolist(),
        y=fitted.tolist(),
        name="network",
        visible=shown,
        line={"color": plots.COLOURS[0], "width": 3},
    )
    figure.add_scatter(
        x=corners.tolist(),
        y=at_corners,
        name="corner",
        mode="markers",
        visible=shown,
        marker={"color": plots.COLOURS[1], "size": 9},
        hovertemplate="unit with its corner at %{x:.2f}<extra></extra>",
    )
steps = [
    {
        "label": str(width),
        "method": "update",
        "args": [
            {"visible": [True] + [(i - 1) // 2 == chosen for i in range(1, 2 * len(widths) + 1)]},
            {"title.text": titles[chosen]},
        ],
    }
    for chosen, width in enumerate(widths)
]
figure.update_layout(
    height=420,
    title=titles[3],
    xaxis_title="the feature",
    yaxis_title="output",
    yaxis_range=[-1.6, 1.6],
    legend={"orientation": "h", "y": 1.0, "x": 1, "xanchor": "right", "yanchor": "bottom"},
    sliders=[{"active": 3, "steps": steps, "pad": {"t": 50}, "currentvalue": {"prefix": "hidden units: "}}],
    margin={"t": 90},
)
figure.show()

# %% [markdown]
# ## Exercise 1 · `relu` and `silu`
#
# The bend of the first transformer, and the bend inside SwiGLU. Each is one line, and there are several ways to write that
# line. They agree on almost every number. Where they do not, it is mostly the gradient that differs, at exactly 0 and at
# large inputs, and no value shows it. So read what the docstrings say about 0, about NaN and about inputs like $-10^4$.
#
# *Difficulty 1 of 5 · 10 minutes · 3 points*


# %% exercise="relu" difficulty=1 minutes=10 forbid=["relu", "relu_", "silu", "ReLU", "SiLU"]
def relu(x: torch.Tensor) -> torch.Tensor:
    """The rectifier of finite numbers: x where x is positive, 0 where it is not.

    Args:
        x: tensor of any shape, floating point. It is not changed.

    Returns:
        Tensor of x's shape and dtype. NaN stays NaN, so that a broken number is not hidden. Gradients flow: 1 where x
        is positive, 0 where x is negative, and 0 at exactly 0 (the convention of PyTorch).
    """
    ### BEGIN SOLUTION
    return x.masked_fill(x <= 0, 0.0)  # NaN <= 0 is False, so NaN stays
    ### END SOLUTION


def silu(x: torch.Tensor) -> torch.Tensor:
    """The sigmoid linear unit, also called swish: x * sigmoid(x), with sigmoid(x) = 1 / (1 + exp(-x)).

    Args:
        x: tensor of any shape, floating point. It is not changed.

    Returns:
        Tensor of x's shape and dtype. Values and gradients are finite for all inputs between -10,000 and 10,000, in
        float32 and in float64.

    Source: Elfwing, Uchibe and Doya, Sigmoid-Weighted Linear Units for Neural Network Function Approximation in
        Reinforcement Learning, 2017.
    """
    ### BEGIN SOLUTION
    return x * torch.sigmoid(x)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>For <code>relu</code>: which elements have to be replaced by zero? Ask the question such that NaN is not among them.
# For <code>silu</code>: PyTorch has a sigmoid that knows about large numbers.</details>
# <details><summary>A bigger nudge</summary>Autograd gives a replaced element no gradient, so a comparison that includes 0 settles the gradient at 0
# too. If your <code>silu</code> has an exponential of its own: at -10,000 it is infinite, and the chain rule then multiplies infinity by
# zero.</details>

# %% test="relu" points=1
from coursekit import check

import torch
from torch.nn import functional as F

x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
check.close(relu(x), torch.tensor([0.0, 0.0, 0.0, 0.5, 2.0]), "relu of -2, -0.5, 0, 0.5 and 2")
check.close(
    relu(torch.tensor([float("nan"), 1.0])),
    torch.tensor([float("nan"), 1.0]),
    "relu of NaN and 1: NaN stays NaN",
    hint="Every comparison with NaN is False. Which branch does an element take when your comparison is False?",
)
check.gradients(relu, F.relu, [x], "the gradient of relu at -2, -0.5, 0, 0.5 and 2; at 0 it is 0")
### BEGIN HIDDEN TESTS
for dtype in (torch.float64, torch.float32, torch.bfloat16):
    x = torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(check.seed(1))).to(dtype).transpose(0, 2)
    check.close(relu(x), F.relu(x), f"random numbers in a non-contiguous {dtype} tensor", atol=0, rtol=0)
large = torch.tensor([-1e4, -100.0, -1e-30, 0.0, 1e-30, 6.5, 100.0, 1e4])
check.close(relu(large), F.relu(large), "inputs from -10,000 to 10,000", atol=0, rtol=0)
check.close(relu(torch.zeros(0, 3)), torch.zeros(0, 3), "no tokens at all")
check.close(relu(torch.tensor(-3.0)), torch.tensor(0.0), "a single number, without axes")
x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(2)))
x[1] = 0
check.gradients(relu, F.relu, [x], "gradients of relu, with a row of zeros")
check.gradients(relu, F.relu, [large], "gradients of relu from -10,000 to 10,000")
### END HIDDEN TESTS

# %% test="relu" points=2
from coursekit import check

import torch
from torch.nn import functional as F

x = torch.tensor([-1e4, -2.0, -1.0, 0.0, 1.0, 2.0, 1e4])
# sigmoid(1) = 0.731059 and sigmoid(2) = 0.880797; sigmoid(-z) = 1 - sigmoid(z)
by_hand = torch.tensor([0.0, -0.238406, -0.268941, 0.0, 0.731059, 1.761594, 1e4])
check.close(silu(x), by_hand, "silu of -10000, -2, -1, 0, 1, 2 and 10000")
check.gradients(silu, F.silu, [x], "the gradient of silu at -10000, -2, -1, 0, 1, 2 and 10000")
### BEGIN HIDDEN TESTS
for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
    x = 3 * torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(check.seed(3)))
    x = x.to(dtype).transpose(0, 2)
    check.close(
        silu(x), F.silu(x), f"random numbers in a non-contiguous {dtype} tensor", atol=tolerance, rtol=tolerance
    )
for dtype in (torch.float32, torch.float64):
    large = torch.tensor([-1e4, -1e3, -100.0, -90.0, -30.0, 30.0, 90.0, 100.0, 1e3, 1e4], dtype=dtype)
    check.close(silu(large), F.silu(large), f"large inputs in {dtype}")
    check.gradients(silu, F.silu, [large], f"gradients of silu at large inputs in {dtype}")
check.close(silu(torch.tensor(-1.0)), F.silu(torch.tensor(-1.0)), "a single number, without axes")
x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(4)))
check.gradients(silu, F.silu, [x], "gradients of silu at random numbers", atol=1e-9)
### END HIDDEN TESTS


# %% alternative="relu"
def relu(x):
    print("relu of", tuple(x.shape))
    return x * (x > 0)


def silu(x):
    wide = x.double()
    return (wide / (1 + torch.exp(-wide.clamp(min=-500)))).to(x.dtype)


# %% alternative="relu"
def relu(x):
    positive = torch.where(x > 0, 1.0, 0.0).to(x.dtype)
    return torch.einsum("...,...->...", x, positive)


def silu(x):
    return x * (0.5 + 0.5 * torch.tanh(x / 2))


# %% mistakes="relu"
{
    "the gradient of relu at exactly 0 is 1, as torch.clamp has it": (
        "return x.masked_fill(x <= 0, 0.0)",
        "return x.clamp(min=0)",
    ),
    "the gradient of relu at exactly 0 is one half, as torch.maximum has it": (
        "return x.masked_fill(x <= 0, 0.0)",
        "return torch.maximum(x, torch.zeros_like(x))",
    ),
    "relu turns NaN into 0, because a comparison with NaN is False": (
        "return x.masked_fill(x <= 0, 0.0)",
        "return torch.where(x > 0, x, 0.0)",
    ),
    "relu lets a hundredth of negative numbers through (the leaky variant)": (
        "return x.masked_fill(x <= 0, 0.0)",
        "return torch.where(x <= 0, 0.01 * x, x)",
    ),
    "relu turns negative numbers into positive ones": ("return x.masked_fill(x <= 0, 0.0)", "return x.abs()"),
    "relu keeps the negative side and drops the positive one": ("x.masked_fill(x <= 0", "x.masked_fill(x >= 0"),
    "relu returns 1 for positive numbers, not the numbers": (
        "return x.masked_fill(x <= 0, 0.0)",
        "return x.masked_fill(x <= 0, 0.0).sign() + 0 * x",
    ),
    "relu detaches its result, so no gradient gets through": (
        "return x.masked_fill(",
        "return x.detach().masked_fill(",
    ),
    "the sigmoid of silu is written with exp(-x): at -10,000 the value is right and the gradient is NaN": (
        "return x * torch.sigmoid(x)",
        "return x / (1 + torch.exp(-x))",
    ),
    "the sigmoid of silu is written as exp(x) / (1 + exp(x)), which is infinity over infinity for large x": (
        "return x * torch.sigmoid(x)",
        "return x * (torch.exp(x) / (1 + torch.exp(x)))",
    ),
    "the gate of silu is detached, so the gradient lacks the slope of the sigmoid": (
        "return x * torch.sigmoid(x)",
        "return x * torch.sigmoid(x.detach())",
    ),
    "silu returns the sigmoid alone, without the factor x": ("return x * torch.sigmoid(x)", "return torch.sigmoid(x)"),
    "the sign in the sigmoid of silu is wrong, so it passes the negative side": (
        "return x * torch.sigmoid(x)",
        "return x * torch.sigmoid(-x)",
    ),
    "silu multiplies by tanh(x), not by sigmoid(x)": ("return x * torch.sigmoid(x)", "return x * torch.tanh(x)"),
    "silu scales x by 1.702 before the sigmoid, which is an approximation of GELU": (
        "return x * torch.sigmoid(x)",
        "return x * torch.sigmoid(1.702 * x)",
    ),
    "silu uses the straight-line sigmoid (the hard variant)": (
        "return x * torch.sigmoid(x)",
        "return x * ((x + 3) / 6).clamp(0, 1)",
    ),
    "silu takes a softmax over the last axis where an element-wise sigmoid belongs": (
        "return x * torch.sigmoid(x)",
        "return x * torch.softmax(torch.atleast_1d(x), -1).reshape(x.shape)",
    ),
    "silu detaches its result, so no gradient gets through": (
        "return x * torch.sigmoid(x)",
        "return (x * torch.sigmoid(x)).detach()",
    ),
}

# %% [markdown]
# ## Exercise 2 · `gelu` and `gelu_tanh`
#
# GELU multiplies a number by a probability: how likely is a standard normal number to be smaller than it? That
# probability is $\Phi(x) = \tfrac12\left(1 + \operatorname{erf}(x / \sqrt 2)\right)$. For $x = 1$ it is 0.8413, so
# $\text{gelu}(1) = 0.8413$ and $\text{gelu}(-1) = -0.1587$.
#
# The paper also gives a formula with `tanh`, for those to whom speed is worth more than exactness. GPT-2 uses the formula;
# in the library transformers, BERT uses the exact form. The two differ in the fourth decimal place. That is too little to
# see in a plot and too much for a test: a loaded GPT-2 with the wrong one runs, talks, and is not the model that was trained.
#
# *Difficulty 2 of 5 · 10 minutes · 4 points*


# %% exercise="gelu" difficulty=2 minutes=10 forbid=["gelu", "GELU"]
def gelu(x: torch.Tensor) -> torch.Tensor:
    """The Gaussian error linear unit, exact: x * Phi(x), with Phi(x) = (1 + erf(x / sqrt(2))) / 2.

    Args:
        x: tensor of any shape, floating point. It is not changed.

    Returns:
        Tensor of x's shape and dtype. Values and gradients are finite for all inputs between -10,000 and 10,000, in
        float32 and in float64.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units (GELUs), 2016.
    """
    ### BEGIN SOLUTION
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    ### END SOLUTION


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """The approximation of GELU that GPT-2 uses: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2.

    Args:
        x: tensor of any shape, floating point. It is not changed.

    Returns:
        Tensor of x's shape and dtype. Values and gradients are finite for all inputs between -10,000 and 10,000, in
        float32 and in float64.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units (GELUs), 2016, section 2.
    """
    ### BEGIN SOLUTION
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + torch.tanh(inner))
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Each formula stands in the docstring, and PyTorch has <code>erf</code> and <code>tanh</code>. If a check fails, put in
# $x = 1$ and compare each intermediate value with a pocket calculator.</details>
# <details><summary>A bigger nudge</summary>Three constants are easily misread. The root in <code>gelu</code> divides <em>inside</em> erf. The root in
# <code>gelu_tanh</code> is that of 2 / pi. The cube belongs to x alone, not to the product. And a hand-made tanh out of exponentials does not survive
# 10,000.</details>

# %% test="gelu" points=2
from coursekit import check

import torch
from torch.nn import functional as F

x = torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
check.close(
    gelu(x),
    F.gelu(x),
    "gelu at the whole numbers from -3 to 3, to nine decimal places",
    atol=1e-9,
    hint="Is the largest difference a few times 1e-4? Then this is the other GELU. Otherwise try x = 1: erf(1 / sqrt(2)) is 0.6827.",
)
ends = torch.tensor([-1e4, 1e4])
check.close(gelu(ends), torch.tensor([0.0, 1e4]), "gelu of -10000 and 10000")
check.gradients(gelu, F.gelu, [ends], "the gradient of gelu at -10000 and 10000: 0 and 1")
### BEGIN HIDDEN TESTS
for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
    x = 2 * torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(check.seed(1)))
    x = x.to(dtype).transpose(0, 2)
    check.close(
        gelu(x), F.gelu(x), f"random numbers in a non-contiguous {dtype} tensor", atol=tolerance, rtol=tolerance
    )
for dtype in (torch.float32, torch.float64):
    large = torch.tensor([-1e4, -1e3, -100.0, -30.0, -9.0, 9.0, 30.0, 100.0, 1e3, 1e4], dtype=dtype)
    check.close(gelu(large), F.gelu(large), f"large inputs in {dtype}")
    check.gradients(gelu, F.gelu, [large], f"gradients of gelu at large inputs in {dtype}")
check.close(gelu(torch.tensor(-1.0)), F.gelu(torch.tensor(-1.0)), "a single number, without axes")
x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(2)))
check.gradients(gelu, F.gelu, [x], "gradients of gelu at random numbers", atol=1e-9)
### END HIDDEN TESTS

# %% test="gelu" points=2
from coursekit import check

import torch
from torch.nn import functional as F

x = torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
check.close(
    gelu_tanh(x),
    F.gelu(x, approximate="tanh"),
    "gelu_tanh at the whole numbers from -3 to 3, to nine decimal places",
    atol=1e-9,
    hint="Is the largest difference a few times 1e-4? Then this is the exact GELU. Otherwise try x = 1: the argument of tanh is 0.8336.",
)
ends = torch.tensor([-1e4, 1e4])
check.close(gelu_tanh(ends), torch.tensor([0.0, 1e4]), "gelu_tanh of -10000 and 10000")
check.gradients(gelu_tanh, F.gelu, [ends], "the gradient of gelu_tanh at -10000 and 10000: 0 and 1")
### BEGIN HIDDEN TESTS


def tanh_form(x):
    return F.gelu(x, approximate="tanh")


for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 3e-2)):
    x = 2 * torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(check.seed(3)))
    x = x.to(dtype).transpose(0, 2)
    check.close(
        gelu_tanh(x), tanh_form(x), f"random numbers in a non-contiguous {dtype} tensor", atol=tolerance, rtol=tolerance
    )
for dtype in (torch.float32, torch.float64):
    large = torch.tensor([-1e4, -1e3, -100.0, -30.0, -9.0, 9.0, 30.0, 100.0, 1e3, 1e4], dtype=dtype)
    check.close(gelu_tanh(large), tanh_form(large), f"large inputs in {dtype}")
    check.gradients(gelu_tanh, tanh_form, [large], f"gradients of gelu_tanh at large inputs in {dtype}")
check.close(gelu_tanh(torch.tensor(-1.0)), tanh_form(torch.tensor(-1.0)), "a single number, without axes")
x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(4)))
check.gradients(gelu_tanh, tanh_form, [x], "gradients of gelu_tanh at random numbers", atol=1e-9)
### END HIDDEN TESTS


# %% alternative="gelu"
def gelu(x):
    print("by the normal distribution")
    return x * torch.special.ndtr(x.double()).to(x.dtype)


def gelu_tanh(x):
    # (1 + tanh(a)) / 2 is sigmoid(2 a)
    wide = x.double()
    return (wide * torch.sigmoid(2 * (2 / math.pi) ** 0.5 * (wide + 0.044715 * wide.pow(3)))).to(x.dtype)


# %% mistakes="gelu"
{
    "gelu is the tanh approximation, and the exact form is asked for": (
        "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        "return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))",
    ),
    "gelu_tanh is the exact form, and the approximation is asked for": (
        "return 0.5 * x * (1 + torch.tanh(inner))",
        "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
    ),
    "the two have changed places": [
        (
            "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
            "return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))",
        ),
        ("return 0.5 * x * (1 + torch.tanh(inner))", "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))"),
    ],
    "gelu is x * sigmoid(1.702 * x), a coarser approximation": (
        "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        "return x * torch.sigmoid(1.702 * x)",
    ),
    "gelu_tanh is x * sigmoid(1.702 * x), a coarser approximation": (
        "return 0.5 * x * (1 + torch.tanh(inner))",
        "return x * torch.sigmoid(1.702 * x)",
    ),
    "the division by sqrt(2) inside erf is left out": ("torch.erf(x / math.sqrt(2))", "torch.erf(x)"),
    "x is divided by 2 inside erf, not by its root": ("x / math.sqrt(2)", "x / 2"),
    "x is multiplied by sqrt(2) inside erf": ("x / math.sqrt(2)", "x * math.sqrt(2)"),
    "the factor 1/2 of gelu is left out": ("0.5 * x * (1 + torch.erf(", "x * (1 + torch.erf("),
    "the 1 of gelu is left out, so the result is symmetric": (
        "0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        "0.5 * x * torch.erf(x / math.sqrt(2))",
    ),
    "gelu returns the probability alone, without the factor x": ("0.5 * x * (1 + torch.erf(", "0.5 * (1 + torch.erf("),
    "gelu multiplies by the density of the normal distribution, not by the probability": (
        "0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        "x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)",
    ),
    "the cubic term of gelu_tanh is left out": (
        "inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)",
        "inner = math.sqrt(2 / math.pi) * x",
    ),
    "the constant of gelu_tanh is 0.44715, not 0.044715": (
        "inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)",
        "inner = math.sqrt(2 / math.pi) * (x + 0.44715 * x**3)",
    ),
    "x squared stands where x cubed belongs": (
        "inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)",
        "inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**2)",
    ),
    "the constant is cubed together with x": (
        "inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)",
        "inner = math.sqrt(2 / math.pi) * (x + (0.044715 * x) ** 3)",
    ),
    "the root of pi / 2 is taken, not that of 2 / pi": ("2 / math.pi", "math.pi / 2"),
    "the root of 2 / pi is not taken": ("math.sqrt(2 / math.pi)", "(2 / math.pi)"),
    "the root of 2 / pi multiplies only x, not the cubic term": (
        "math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)",
        "math.sqrt(2 / math.pi) * x + 0.044715 * x**3",
    ),
    "the tanh is made of exponentials, which are infinity over infinity for large x": (
        "torch.tanh(inner)",
        "(torch.exp(2 * inner) - 1) / (torch.exp(2 * inner) + 1)",
    ),
    "the factor 1/2 of gelu_tanh is left out": (
        "return 0.5 * x * (1 + torch.tanh(inner))",
        "return x * (1 + torch.tanh(inner))",
    ),
    "the gate of gelu is detached, so the gradient lacks the slope of the probability": (
        "torch.erf(x / math.sqrt(2))",
        "torch.erf(x.detach() / math.sqrt(2))",
    ),
    "the gate of gelu_tanh is detached, so the gradient lacks its slope": (
        "torch.tanh(inner)",
        "torch.tanh(inner.detach())",
    ),
}

# %% [markdown]
# ## Exercise 3 · `FeedForward`
#
# Expand, activate, contract. `parameter_gradients` is given; the tests use it, so leave it as it is.
#
# The network acts on the last axis alone, whatever stands before it. The tests hold your module to that: exchange two
# tokens and their outputs change places, change one token and no other output moves.
#
# The two matrices start at different scales. An entry of `x @ w_in` is a sum of `d_model` products, an entry of `hidden @ w_out`
# a sum of `d_ff`. Each matrix gets a variance of one over the length of its sum.
#
# *Difficulty 3 of 5 · 20 minutes · 7 points*


# %% exercise="FeedForward" difficulty=3 minutes=20 forbid=["Linear", "Conv1d"]
class FeedForward(nn.Module):
    """Two matrices with an activation between them, applied to every token alone.

    Args:
        d_model: features of a token.
        d_ff: hidden units, at least 1; often 4 * d_model.
        activation: "relu", "gelu" (exact), "gelu_tanh" or "silu", which means your function of that name.
        seed: the same seed gives the same first weights, another seed gives others.

    State:
        Four float32 parameters and nothing else: ``w_in`` (d_model, d_ff), ``b_in`` (d_ff,), ``w_out`` (d_ff, d_model)
        and ``b_out`` (d_model,), used as ``x @ w + b``. At first the biases are 0; the entries of the matrices are
        independent with mean 0, and with variance 1 / d_model in w_in and 1 / d_ff in w_out (normal or uniform, as you
        like).

    Raises:
        ValueError: if activation is none of the four names.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.3.
    """

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu_tanh", seed: int = 0):
        super().__init__()
        ### BEGIN SOLUTION
        known = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}
        if activation not in known:
            raise ValueError(f"activation must be one of {sorted(known)}, got {activation!r}")
        self.activation = known[activation]
        generator = torch.Generator().manual_seed(seed)
        self.w_in = nn.Parameter(torch.randn(d_model, d_ff, generator=generator) / math.sqrt(d_model))
        self.b_in = nn.Parameter(torch.zeros(d_ff))
        self.w_out = nn.Parameter(torch.randn(d_ff, d_model, generator=generator) / math.sqrt(d_ff))
        self.b_out = nn.Parameter(torch.zeros(d_model))
        ### END SOLUTION

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Expand, activate, contract.

        Args:
            x: (..., d_model) with any number of leading axes, none included; of the parameters' dtype, contiguous or
                not.

        Returns:
            Tensor of x's shape and dtype: activation(x @ w_in + b_in) @ w_out + b_out.
        """
        ### BEGIN SOLUTION
        hidden = self.activation(x @ self.w_in + self.b_in)  # (..., d_model) -> (..., d_ff)
        return hidden @ self.w_out + self.b_out  # (..., d_ff) -> (..., d_model)
        ### END SOLUTION

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% [markdown]
# <details><summary>A nudge</summary><code>x @ w</code> works on the last axis and leaves all others alone, and a bias of shape (d_ff,) broadcasts to them.
# So <code>forward</code> needs no reshape and no loop.</details>
# <details><summary>A bigger nudge</summary>Choose the activation once, when the module is built: a dict from its name to your function. Draw both
# matrices from <em>one</em> generator, one after the other; a variance of 1 / n is a standard deviation of one over the root of n.</details>

# %% test="FeedForward" points=3
from coursekit import check

import torch

# The network of "The idea", which sorts two features.
sort = FeedForward(2, 4, activation="relu")
check.equal(
    sorted(sort.state_dict()),
    ["b_in", "b_out", "w_in", "w_out"],
    "the names of the parameters",
    hint="Each is an nn.Parameter of the module itself, with the name that the docstring gives.",
)
sort.load_state_dict(
    {
        "w_in": torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]]),
        "b_in": torch.zeros(4),
        "w_out": torch.tensor([[0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, -0.5]]),
        "b_out": torch.zeros(2),
    }
)
tokens = torch.tensor([[[3.0, 5.0], [5.0, 3.0], [4.0, 4.0], [-7.0, 2.0], [-1.0, -6.0]]])
in_order = torch.tensor([[[5.0, 3.0], [5.0, 3.0], [4.0, 4.0], [2.0, -7.0], [-1.0, -6.0]]])
check.close(sort(tokens), in_order, "the network of The idea puts the larger feature first, in each of five tokens")
sort.load_state_dict({**sort.state_dict(), "b_in": torch.tensor([0.0, 0, 0, 9]), "b_out": torch.tensor([10.0, 20.0])})
check.close(
    sort(torch.tensor([[3.0, 5.0]])),
    torch.tensor([[14.5, 22.5]]),
    "with biases: the hidden values are 0, 2, 8 and relu(-8 + 9) = 1, and 10 and 20 are added at the end",
)
### BEGIN HIDDEN TESTS
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

theirs = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu"}  # Hugging Face's names
cases = [
    ("relu", (3, 63), 60, 17),
    ("gelu", (1, 63), 15, 60),
    ("gelu_tanh", (3, 7), 60, 240),
    ("silu", (2, 5), 12, 12),
    ("gelu_tanh", (1, 1), 1, 1),
    ("gelu", (5,), 7, 3),
    ("relu", (), 8, 32),
    ("silu", (2, 3, 4), 6, 9),
]
for number, (activation, leading, d_model, d_ff) in enumerate(cases):
    generator = torch.Generator().manual_seed(check.seed(10 + number))
    state = {
        "w_in": torch.randn(d_model, d_ff, dtype=torch.float64, generator=generator) / d_model**0.5,
        "b_in": torch.randn(d_ff, dtype=torch.float64, generator=generator),
        "w_out": torch.randn(d_ff, d_model, dtype=torch.float64, generator=generator) / d_ff**0.5,
        "b_out": torch.randn(d_model, dtype=torch.float64, generator=generator),
    }
    oracle = GPT2MLP(
        d_ff, GPT2Config(n_embd=d_model, n_head=1, activation_function=theirs[activation], resid_pdrop=0.0)
    )
    oracle.double().load_state_dict(
        {
            "c_fc.weight": state["w_in"],
            "c_fc.bias": state["b_in"],
            "c_proj.weight": state["w_out"],
            "c_proj.bias": state["b_out"],
        }
    )
    mine = FeedForward(d_model, d_ff, activation)
    mine.double()
    mine.load_state_dict(state)
    x = torch.randn(d_model, *reversed(leading), dtype=torch.float64, generator=generator)
    x = x.permute(*reversed(range(x.ndim)))  # (*leading, d_model), not contiguous
    case = f"{activation}, x {tuple(x.shape)}, d_ff={d_ff}, float64"
    for factor in (1.0, 1e3):
        want = oracle((factor * x).reshape(1, -1, d_model)).reshape(x.shape).detach()
        check.close(
            mine(factor * x), want, f"{case}, times {factor:g}: equal to GPT2MLP of transformers", atol=1e-9, rtol=1e-9
        )
    check.gradients(
        mine,
        lambda x, oracle=oracle: oracle(x.reshape(1, -1, x.shape[-1])).reshape(x.shape),
        [x],
        f"{case}: gradients",
        atol=1e-9,
    )
generator = torch.Generator().manual_seed(check.seed(30))
state = {
    "w_in": torch.randn(60, 240, generator=generator) / 60**0.5,
    "b_in": torch.randn(240, generator=generator),
    "w_out": torch.randn(240, 60, generator=generator) / 240**0.5,
    "b_out": torch.randn(60, generator=generator),
}
single = FeedForward(60, 240)
single.load_state_dict(state)
oracle = GPT2MLP(240, GPT2Config(n_embd=60, n_head=1, resid_pdrop=0.0))  # gelu_new, the tanh form, is GPT-2's own
oracle.load_state_dict(
    {
        "c_fc.weight": state["w_in"],
        "c_fc.bias": state["b_in"],
        "c_proj.weight": state["w_out"],
        "c_proj.bias": state["b_out"],
    }
)
x = torch.randn(2, 9, 60, generator=generator)
check.close(single(x), oracle(x).detach(), "float32, the activation left out: GPT-2's feed-forward network")
### END HIDDEN TESTS

# %% test="FeedForward" points=2
from coursekit import check

import torch

generator = torch.Generator().manual_seed(0)
network = FeedForward(6, 10, activation="gelu")
network.load_state_dict(
    {
        "w_in": torch.randn(6, 10, generator=generator) / 6**0.5,
        "b_in": torch.zeros(10),
        "w_out": torch.randn(10, 6, generator=generator) / 10**0.5,
        "b_out": torch.zeros(6),
    }
)
x = torch.randn(2, 5, 6, generator=generator)
order = [4, 0, 3, 1, 2]
check.close(network(x[:, order]), network(x)[:, order], "tokens in another order: the outputs follow them")
changed = x.clone()
changed[:, 2] += 3
rest = [0, 1, 3, 4]
check.close(network(changed)[:, rest], network(x)[:, rest], "token 2 changes, and the outputs of all others stay")
moved = (network(changed)[:, 2] - network(x)[:, 2]).detach().abs().max()
check.that(float(moved) > 1e-3, "token 2 changes, and its own output with it")
### BEGIN HIDDEN TESTS
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

for number, (activation, batch, length, d_model, d_ff) in enumerate(
    (("gelu_new", 3, 7, 12, 30), ("relu", 1, 11, 6, 6), ("silu", 2, 1, 5, 3), ("gelu", 3, 3, 3, 3))
):
    generator = torch.Generator().manual_seed(check.seed(40 + number))
    shapes = {"w_in": (d_model, d_ff), "b_in": (d_ff,), "w_out": (d_ff, d_model), "b_out": (d_model,)}
    state = {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()}
    oracle = GPT2MLP(d_ff, GPT2Config(n_embd=d_model, n_head=1, activation_function=activation, resid_pdrop=0.0))
    names = {"c_fc.weight": "w_in", "c_fc.bias": "b_in", "c_proj.weight": "w_out", "c_proj.bias": "b_out"}
    oracle.double().load_state_dict({theirs: state[ours] for theirs, ours in names.items()})
    mine = FeedForward(d_model, d_ff, "gelu_tanh" if activation == "gelu_new" else activation)
    mine.double()
    mine.load_state_dict(state)
    x = torch.randn(batch, length, d_model, dtype=torch.float64, generator=generator)
    direction = torch.randn(batch, length, d_model, dtype=torch.float64, generator=generator)
    oracle.zero_grad()
    (oracle(x) * direction).sum().backward()
    found = [mine.parameter_gradients(x, direction) for _ in range(2)][-1]  # asked twice: nothing piles up
    for theirs, wanted in oracle.named_parameters():
        ours = names[theirs]
        check.that(
            found[ours] is not None, f"a gradient reaches {ours}", hint="Look for .data, .detach() or torch.no_grad()."
        )
        check.close(found[ours], wanted.grad, f"the gradient of {ours}, {activation}, d_ff={d_ff}", atol=1e-9)
    flat = x.reshape(-1, d_model)
    check.close(mine(x).reshape(-1, d_model), mine(flat).detach(), "batch and time are only more tokens", atol=1e-9)
    shuffled = torch.randperm(batch * length, generator=generator)
    check.close(mine(flat[shuffled]), mine(flat)[shuffled].detach(), "any order of all tokens", atol=1e-9)
### END HIDDEN TESTS

# %% test="FeedForward" points=2
from coursekit import check

import torch

state = FeedForward(12, 20).state_dict()
check.equal(
    sorted(state),
    ["b_in", "b_out", "w_in", "w_out"],
    "the names of the parameters",
    hint="Wrap each matrix and each bias in nn.Parameter, and store nothing else as a parameter or buffer.",
)
check.equal(
    {name: list(value.shape) for name, value in state.items()},
    {"w_in": [12, 20], "b_in": [20], "w_out": [20, 12], "b_out": [12]},
    "the shapes of the parameters",
)
check.close(state["b_in"], torch.zeros(20), "the first b_in")
check.close(state["b_out"], torch.zeros(12), "the first b_out")
check.raises(ValueError, lambda: FeedForward(12, 20, activation="tanh"), "there is no activation called tanh")
### BEGIN HIDDEN TESTS
for wrong in ("RELU", "swish", "", None):
    check.raises(ValueError, lambda wrong=wrong: FeedForward(12, 20, wrong), f"there is no activation called {wrong!r}")
d_model, d_ff = 128, 512
state = FeedForward(d_model, d_ff, seed=5).state_dict()
for name, length in (("w_in", d_model), ("w_out", d_ff)):
    w = state[name]
    check.equal(str(w.dtype), "torch.float32", f"the dtype of {name}")
    # 65,536 entries: the sample variance is within 0.6% of the true one two times in three, so 5% is far outside.
    check.close(
        float(w.var() * length),
        1.0,
        f"the variance of the first {name}, times {length}",
        atol=0.05,
        hint="a * randn has the variance a**2. Uniform numbers between -a and a have the variance a**2 / 3.",
    )
    check.close(
        float(w.mean() * length**0.5), 0.0, f"the mean of the first {name}, times the root of {length}", atol=0.03
    )
scale = (d_model * d_ff) ** 0.5
for what, other in (("", state["w_out"].reshape(d_model, d_ff)), (", transposed", state["w_out"].T)):
    correlation = float((state["w_in"] * other).mean() * scale)
    check.close(
        correlation, 0.0, f"the first w_in and w_out{what} are independent of each other (their correlation)", atol=0.05
    )
again, another = (FeedForward(d_model, d_ff, seed=seed).state_dict() for seed in (5, 6))
for name in ("w_in", "w_out"):
    check.equal(
        again[name],
        state[name],
        f"the same seed gives the same {name}",
        hint="Draw from a torch.Generator that is seeded with seed.",
    )
    check.that(not torch.equal(another[name], state[name]), f"another seed gives another {name}")
default, zero = FeedForward(12, 20).state_dict(), FeedForward(12, 20, "gelu_tanh", 0).state_dict()
check.equal(default["w_in"], zero["w_in"], "the seed is 0 where it is left out")
square = FeedForward(256, 256, seed=2).state_dict()
for what, other in (("", square["w_out"]), (", transposed", square["w_out"].T)):
    correlation = float((square["w_in"] * other).mean() * 256)
    check.close(correlation, 0.0, f"as many hidden units as features: w_in and w_out{what} are independent", atol=0.05)
### END HIDDEN TESTS


# %% alternative="FeedForward"
class FeedForward(nn.Module):
    # F.linear on transposed weights, in float64, uniform first weights, an activation looked up at each call.
    def __init__(self, d_model, d_ff, activation="gelu_tanh", seed=0):
        super().__init__()
        if activation not in ("relu", "gelu", "gelu_tanh", "silu"):
            raise ValueError(activation)
        self.kind = activation
        torch.manual_seed(seed)
        self.b_out = nn.Parameter(torch.zeros(d_model))
        self.w_out = nn.Parameter(torch.empty(d_ff, d_model).uniform_(-1, 1) * (3 / d_ff) ** 0.5)
        self.b_in = nn.Parameter(torch.zeros(d_ff))
        self.w_in = nn.Parameter(torch.empty(d_model, d_ff).uniform_(-1, 1) * (3 / d_model) ** 0.5)

    def forward(self, x):
        hidden = nn.functional.linear(x.double(), self.w_in.double().t(), self.b_in.double())
        hidden = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}[self.kind](hidden)
        return nn.functional.linear(hidden, self.w_out.double().t(), self.b_out.double()).to(x.dtype)

    def parameter_gradients(self, x, direction):
        loss = (self(x) * direction).sum()
        self.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% alternative="FeedForward"
class FeedForward(nn.Module):
    # A sum over hidden units, one at a time.
    def __init__(self, d_model, d_ff, activation="gelu_tanh", seed=0):
        super().__init__()
        self.functions = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}
        if activation not in self.functions:
            raise ValueError(f"unknown activation {activation}")
        self.function = self.functions[activation]
        g = torch.Generator()
        g.manual_seed(seed)
        self.w_in = nn.Parameter(torch.empty(d_model, d_ff).normal_(std=d_model**-0.5, generator=g))
        self.w_out = nn.Parameter(torch.empty(d_ff, d_model).normal_(std=d_ff**-0.5, generator=g))
        self.b_in, self.b_out = nn.Parameter(torch.zeros(d_ff)), nn.Parameter(torch.zeros(d_model))

    def forward(self, x):
        output = self.b_out.expand_as(x)
        for j in range(self.w_in.shape[1]):
            unit = self.function(torch.einsum("...i,i->...", x, self.w_in[:, j]) + self.b_in[j])
            output = output + unit[..., None] * self.w_out[j]
        return output

    def parameter_gradients(self, x, direction):
        loss = (self(x) * direction).sum()
        self.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% mistakes="FeedForward"
{
    "the activation comes after the contraction, so the two matrices collapse into one": [
        ("hidden = self.activation(x @ self.w_in + self.b_in)", "hidden = x @ self.w_in + self.b_in"),
        ("return hidden @ self.w_out + self.b_out", "return self.activation(hidden @ self.w_out + self.b_out)"),
    ],
    "there is no activation at all": (
        "hidden = self.activation(x @ self.w_in + self.b_in)",
        "hidden = x @ self.w_in + self.b_in",
    ),
    "the output is activated as well": (
        "return hidden @ self.w_out + self.b_out",
        "return self.activation(hidden @ self.w_out + self.b_out)",
    ),
    "b_in is added after the activation": (
        "hidden = self.activation(x @ self.w_in + self.b_in)",
        "hidden = self.activation(x @ self.w_in) + self.b_in",
    ),
    "b_in is left out": ("x @ self.w_in + self.b_in", "x @ self.w_in"),
    "b_out is left out": ("return hidden @ self.w_out + self.b_out", "return hidden @ self.w_out"),
    "the biases are subtracted": [
        ("x @ self.w_in + self.b_in", "x @ self.w_in - self.b_in"),
        ("hidden @ self.w_out + self.b_out", "hidden @ self.w_out - self.b_out"),
    ],
    "the activation is ReLU, whatever was asked for": ("known[activation]", 'known["relu"]'),
    "the activation is the tanh GELU, whatever was asked for": ("known[activation]", 'known["gelu_tanh"]'),
    '"gelu_tanh" is taken to mean the exact GELU': ('"gelu_tanh": gelu_tanh', '"gelu_tanh": gelu'),
    '"gelu" is taken to mean the tanh approximation': ('"gelu": gelu,', '"gelu": gelu_tanh,'),
    "the activation is ReLU where it is left out": ('activation: str = "gelu_tanh"', 'activation: str = "relu"'),
    "the activation is the exact GELU where it is left out": (
        'activation: str = "gelu_tanh"',
        'activation: str = "gelu"',
    ),
    "an unknown activation is not refused with a ValueError": [
        ("if activation not in known:", "if False:"),
        ("known[activation]", "known.get(activation, gelu_tanh)"),
    ],
    "the input is added to the output, which is the work of the block around the network": (
        "return hidden @ self.w_out + self.b_out",
        "return x + hidden @ self.w_out + self.b_out",
    ),
    "the hidden values are averaged over the tokens, so every token sees the others": (
        "return hidden @ self.w_out + self.b_out",
        "return hidden.flatten(0, -2).mean(0).expand_as(hidden) @ self.w_out + self.b_out",
    ),
    "the hidden values are normalised with a softmax": (
        "return hidden @ self.w_out + self.b_out",
        "return torch.softmax(hidden, -1) @ self.w_out + self.b_out",
    ),
    "a tenth of the hidden values is dropped at random": (
        "return hidden @ self.w_out",
        "return nn.functional.dropout(hidden, 0.1, True) @ self.w_out",
    ),
    "w_out is the transpose of w_in: the two matrices are tied": ("hidden @ self.w_out", "hidden @ self.w_in.T"),
    "the matrices are stored the way nn.Linear has them and used as x @ w.T": [
        ("torch.randn(d_model, d_ff, generator=generator)", "torch.randn(d_ff, d_model, generator=generator)"),
        (
            "torch.randn(d_ff, d_model, generator=generator) / math.sqrt(d_ff)",
            "torch.randn(d_model, d_ff, generator=generator) / math.sqrt(d_ff)",
        ),
        ("x @ self.w_in", "x @ self.w_in.T"),
        ("hidden @ self.w_out", "hidden @ self.w_out.T"),
    ],
    "both matrices are used as x @ w.T, which goes unnoticed only where d_ff equals d_model": [
        ("x @ self.w_in", "x @ self.w_in.T"),
        ("hidden @ self.w_out", "hidden @ self.w_out.T"),
    ],
    "the matrices are used through .data, so they get no gradient and never learn": [
        ("x @ self.w_in", "x @ self.w_in.data"),
        ("hidden @ self.w_out", "hidden @ self.w_out.data"),
    ],
    "the hidden values are detached, so nothing before them learns": (
        "return hidden @ self.w_out",
        "return hidden.detach() @ self.w_out",
    ),
    "the parameters are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(",
        "(",
        "all",
    ),
    "the biases are plain tensors, so they are not saved and not trained": [
        ("nn.Parameter(torch.zeros(d_ff))", "torch.zeros(d_ff)"),
        ("nn.Parameter(torch.zeros(d_model))", "torch.zeros(d_model)"),
    ],
    "the first weights have variance 1": [
        (" / math.sqrt(d_model)", ""),
        (" / math.sqrt(d_ff)", ""),
    ],
    "the variance of the first w_out is 1 / d_model, though it sums over d_ff hidden units": (
        "/ math.sqrt(d_ff)",
        "/ math.sqrt(d_model)",
    ),
    "the variance of the first w_in is 1 / d_ff, though it sums over d_model features": (
        "/ math.sqrt(d_model)",
        "/ math.sqrt(d_ff)",
    ),
    "the first weights have a standard deviation (not a variance) of 1 / d_model and 1 / d_ff": [
        ("/ math.sqrt(d_model)", "/ d_model"),
        ("/ math.sqrt(d_ff)", "/ d_ff"),
    ],
    "the first weights are uniform between 0 and 1, not centred on zero": ("torch.randn(", "torch.rand(", "all"),
    "both matrices restart the generator, so they begin with the same numbers": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
        "all",
    ),
    "w_out begins as the transpose of w_in": (
        "torch.randn(d_ff, d_model, generator=generator) / math.sqrt(d_ff)",
        "self.w_in.data.T * math.sqrt(d_model / d_ff)",
    ),
    "the seed is ignored": ("manual_seed(seed)", "manual_seed(0)"),
    "the first biases are random, not zero": [
        ("torch.zeros(d_ff)", "torch.randn(d_ff, generator=generator)"),
        ("torch.zeros(d_model)", "torch.randn(d_model, generator=generator)"),
    ],
}

# %% [markdown]
# ## Exercise 4 · `SwiGLU`
#
# A gated network has two products in place of one. The first goes through SiLU and decides how much to let through; the second is what
# it is let through *of*. They are multiplied, element by element.
#
# Here is what a product is good for. Since $\text{silu}(z) - \text{silu}(-z) = z$, two hidden units with the gates $a$
# and $-a$, the same up-projection $b$ and the output weights 1 and -1 give
# $\text{silu}(a)\,b - \text{silu}(-a)\,b = a \cdot b$. That is a product of two features, exactly, for all numbers. The
# visible check builds it.
#
# A third matrix costs parameters. To compare fairly with $2 \cdot d_\text{model} \cdot 4 d_\text{model}$, choose $d_\text{ff}$ such that
# $3 \cdot d_\text{model} \cdot d_\text{ff}$ is the same: $d_\text{ff} = \tfrac83 d_\text{model}$. Hardware likes round numbers, so it is
# then rounded *up* to a multiple of 64, 256 or the like.
#
# *Difficulty 3 of 5 · 20 minutes · 7 points*


# %% exercise="SwiGLU" difficulty=3 minutes=20 forbid=["Linear", "glu", "GLU"]
def swiglu_hidden(d_model: int, multiple_of: int = 256) -> int:
    """The number of hidden units that gives SwiGLU as many parameters as two matrices with 4 * d_model, or more: the rounding.

    Args:
        d_model: features of a token, at least 1.
        multiple_of: the result is a multiple of this number, at least 1.

    Returns:
        The smallest multiple of ``multiple_of`` that is not less than 8 / 3 * d_model. For example 11,008 for
        d_model = 4,096 and multiples of 256. With multiple_of = 1 and d_model = 10 it is 27, because 26 would be less than
        80 / 3 = 26.67.

    Raises:
        ValueError: if d_model or multiple_of is less than 1.

    Source: Touvron et al., LLaMA: Open and Efficient Foundation Language Models, 2023, section 2.2.
    """
    ### BEGIN SOLUTION
    if d_model < 1 or multiple_of < 1:
        raise ValueError(f"d_model and multiple_of must be at least 1, got {d_model} and {multiple_of}")
    steps = math.ceil(8 * d_model / (3 * multiple_of))
    return steps * multiple_of
    ### END SOLUTION


class SwiGLU(nn.Module):
    """The gated feed-forward network of Llama: three matrices, no biases, applied to every token alone.

    Args:
        d_model: features of a token.
        d_ff: hidden units, at least 1.
        seed: the same seed gives the same first weights, another seed gives others.

    State:
        Three float32 parameters and nothing else: ``w_gate`` and ``w_up``, each (d_model, d_ff), and ``w_down``
        (d_ff, d_model), used as ``x @ w``. At first all entries are independent with mean 0; the variance is
        1 / d_model in w_gate and w_up, and 1 / d_ff in w_down (normal or uniform, as you like).

    Source: Shazeer, GLU Variants Improve Transformer, 2020.
    """

    def __init__(self, d_model: int, d_ff: int, seed: int = 0):
        super().__init__()
        ### BEGIN SOLUTION
        generator = torch.Generator().manual_seed(seed)
        self.w_gate = nn.Parameter(torch.randn(d_model, d_ff, generator=generator) / math.sqrt(d_model))
        self.w_up = nn.Parameter(torch.randn(d_model, d_ff, generator=generator) / math.sqrt(d_model))
        self.w_down = nn.Parameter(torch.randn(d_ff, d_model, generator=generator) / math.sqrt(d_ff))
        ### END SOLUTION

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate, multiply, contract.

        Args:
            x: (..., d_model) with any number of leading axes, none included; of the parameters' dtype, contiguous or
                not.

        Returns:
            Tensor of x's shape and dtype: (silu(x @ w_gate) * (x @ w_up)) @ w_down.
        """
        ### BEGIN SOLUTION
        gate = silu(x @ self.w_gate)  # (..., d_ff)
        hidden = gate * (x @ self.w_up)  # (..., d_ff)
        return hidden @ self.w_down  # (..., d_model)
        ### END SOLUTION

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% [markdown]
# <details><summary>A nudge</summary>Only one of the two products goes through <code>silu</code>, and the name of its matrix says which. For the width:
# how many steps of <code>multiple_of</code> does it take to reach 8 / 3 of d_model?</details>
# <details><summary>A bigger nudge</summary>Round once, and at the end. If you cut 8 / 3 of d_model down to a whole number first, the result is too
# small for some small multiples. An exact multiple must not be pushed to the next one.</details>

# %% test="SwiGLU" points=2
from coursekit import check

check.equal(swiglu_hidden(4096), 11008, "d_model 4096, multiples of 256: the width of Llama 7B")
check.equal(swiglu_hidden(5120), 13824, "d_model 5120, multiples of 256: the width of Llama 13B")
check.equal(swiglu_hidden(96), 256, "d_model 96: 8 / 3 of it is exactly 256")
check.equal(swiglu_hidden(10, 1), 27, "d_model 10, multiples of 1: 26.67 is rounded up")
check.raises(ValueError, lambda: swiglu_hidden(10, 0), "there are no multiples of 0 to choose from")
### BEGIN HIDDEN TESTS
for d_model in (1, 2, 3, 6, 10, 47, 48, 49, 97, 192, 768, 1000, 5120, 8192):
    for multiple in (1, 2, 7, 8, 13, 64, 256, 1000):
        width = swiglu_hidden(d_model, multiple)
        check.that(
            width % multiple == 0,
            f"d_model {d_model}: the width is a multiple of {multiple}",
            why=f"it is {width}",
        )
        found = [3 * width >= 8 * d_model, 3 * (width - multiple) >= 8 * d_model]
        check.equal(
            found,
            [True, False],
            f"d_model {d_model}, multiples of {multiple}: the width {width} suffices, and one step less does not",
        )
        check.equal(str(width), str(int(width)), f"d_model {d_model}: the width is a whole number")
for bad in ((0, 8), (-3, 8), (8, 0), (8, -8)):
    check.raises(ValueError, lambda bad=bad: swiglu_hidden(*bad), f"swiglu_hidden{bad}")
### END HIDDEN TESTS

# %% test="SwiGLU" points=3
from coursekit import check

import torch

one = SwiGLU(1, 1)
check.equal(
    sorted(one.state_dict()),
    ["w_down", "w_gate", "w_up"],
    "the names of the parameters",
    hint="Each is an nn.Parameter of the module itself, with the name that the docstring gives.",
)
one.load_state_dict({"w_gate": torch.tensor([[1.0]]), "w_up": torch.tensor([[-1.0]]), "w_down": torch.tensor([[0.75]])})
check.close(
    one(torch.tensor([[-2.0]])),
    torch.tensor([[-0.357609]]),
    "one hidden unit, the weights gate 1, up -1, down 0.75, the input -2: silu(-2) * 2 * 0.75; silu(-2) is -0.238406",
)
# Gates a, -a, a, -a; ups b, b, a, a; so the outputs are a * b and a * a, exactly.
product = SwiGLU(2, 4)
product.load_state_dict(
    {
        "w_gate": torch.tensor([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]]),
        "w_up": torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]),
        "w_down": torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]),
    }
)
tokens = torch.tensor([[[3.0, 5.0], [-2.0, 4.0], [0.5, -6.0]]])
check.close(
    product(tokens),
    torch.tensor([[[15.0, 9.0], [-8.0, 4.0], [-3.0, 0.25]]]),
    "four hidden units turn the features (a, b) into (a * b, a * a), in each of three tokens",
)
### BEGIN HIDDEN TESTS
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

cases = [
    ((3, 63), 60, 17),
    ((1, 7), 15, 40),
    ((2, 5), 12, 12),
    ((1, 1), 1, 1),
    ((5,), 7, 3),
    ((), 8, 24),
    ((2, 3, 4), 6, 9),
]
for number, (leading, d_model, d_ff) in enumerate(cases):
    generator = torch.Generator().manual_seed(check.seed(60 + number))
    shapes = {"w_gate": (d_model, d_ff), "w_up": (d_model, d_ff), "w_down": (d_ff, d_model)}
    state = {
        name: torch.randn(shape, dtype=torch.float64, generator=generator) / shape[0] ** 0.5
        for name, shape in shapes.items()
    }
    oracle = LlamaMLP(LlamaConfig(hidden_size=d_model, intermediate_size=d_ff, num_attention_heads=1, head_dim=2))
    theirs = {"gate_proj.weight": "w_gate", "up_proj.weight": "w_up", "down_proj.weight": "w_down"}
    oracle.double().load_state_dict({name: state[ours].T for name, ours in theirs.items()})
    mine = SwiGLU(d_model, d_ff)
    mine.double()
    mine.load_state_dict(state)
    x = torch.randn(d_model, *reversed(leading), dtype=torch.float64, generator=generator)
    x = x.permute(*reversed(range(x.ndim)))  # (*leading, d_model), not contiguous
    case = f"x {tuple(x.shape)}, d_ff={d_ff}, float64"
    for factor in (1.0, 1e3):
        want = oracle(factor * x).detach()
        check.close(
            mine(factor * x), want, f"{case}, times {factor:g}: equal to LlamaMLP of transformers", atol=1e-9, rtol=1e-9
        )
    check.gradients(mine, oracle, [x], f"{case}: gradients", atol=1e-9)
    direction = torch.randn(*leading, d_model, dtype=torch.float64, generator=generator)
    oracle.zero_grad()
    (oracle(x) * direction).sum().backward()
    found = [mine.parameter_gradients(x, direction) for _ in range(2)][-1]  # asked twice: nothing piles up
    for name, wanted in oracle.named_parameters():
        ours = theirs[name]
        check.that(
            found[ours] is not None, f"a gradient reaches {ours}", hint="Look for .data, .detach() or torch.no_grad()."
        )
        check.close(found[ours], wanted.grad.T, f"the gradient of {ours}, {case}", atol=1e-9)
generator = torch.Generator().manual_seed(check.seed(80))
state = {
    "w_gate": torch.randn(60, 160, generator=generator) / 60**0.5,
    "w_up": torch.randn(60, 160, generator=generator) / 60**0.5,
    "w_down": torch.randn(160, 60, generator=generator) / 160**0.5,
}
single = SwiGLU(60, 160)
single.load_state_dict(state)
oracle = LlamaMLP(LlamaConfig(hidden_size=60, intermediate_size=160, num_attention_heads=1))
oracle.load_state_dict({name: state[ours].T for name, ours in theirs.items()})
x = torch.randn(3, 9, 60, generator=generator)
check.close(single(x), oracle(x).detach(), "float32: equal to LlamaMLP of transformers")
order = torch.randperm(9, generator=generator)
check.close(single(x[:, order]), single(x)[:, order].detach(), "tokens in another order: the outputs follow them")
### END HIDDEN TESTS

# %% test="SwiGLU" points=2
from coursekit import check

import torch

state = SwiGLU(12, 20).state_dict()
check.equal(
    {name: list(value.shape) for name, value in sorted(state.items())},
    {"w_down": [20, 12], "w_gate": [12, 20], "w_up": [12, 20]},
    "the names and shapes of the parameters",
    hint="Wrap each matrix in nn.Parameter, and store nothing else as a parameter or buffer. There are no biases.",
)
### BEGIN HIDDEN TESTS
d_model, d_ff = 192, 512
state = SwiGLU(d_model, d_ff, seed=5).state_dict()
for name, length in (("w_gate", d_model), ("w_up", d_model), ("w_down", d_ff)):
    w = state[name]
    check.equal(str(w.dtype), "torch.float32", f"the dtype of {name}")
    # 98,304 entries: the sample variance is within 0.5% of the true one two times in three, so 5% is far outside.
    check.close(
        float(w.var() * length),
        1.0,
        f"the variance of the first {name}, times {length}",
        atol=0.05,
        hint="a * randn has the variance a**2. Uniform numbers between -a and a have the variance a**2 / 3.",
    )
    check.close(
        float(w.mean() * length**0.5), 0.0, f"the mean of the first {name}, times the root of {length}", atol=0.03
    )
unit = {name: w / w.std() for name, w in state.items()}
pairs = {
    "w_gate and w_down": (unit["w_gate"], unit["w_down"].reshape(d_model, d_ff)),
    "w_gate and w_up": (unit["w_gate"], unit["w_up"]),
    "w_gate and w_down, transposed": (unit["w_gate"], unit["w_down"].T),
    "w_up and w_down": (unit["w_up"], unit["w_down"].reshape(d_model, d_ff)),
    "w_up and w_down, transposed": (unit["w_up"], unit["w_down"].T),
}
for what, (one, other) in pairs.items():
    check.close(
        float((one * other).mean()),
        0.0,
        f"the first {what} are independent of each other (their correlation)",
        atol=0.05,
    )
again, another = (SwiGLU(d_model, d_ff, seed=seed).state_dict() for seed in (5, 6))
for name in ("w_gate", "w_up", "w_down"):
    check.equal(
        again[name],
        state[name],
        f"the same seed gives the same {name}",
        hint="Draw from a torch.Generator that is seeded with seed.",
    )
    check.that(not torch.equal(another[name], state[name]), f"another seed gives another {name}")
check.equal(
    SwiGLU(12, 20).state_dict()["w_up"], SwiGLU(12, 20, 0).state_dict()["w_up"], "the seed is 0 where it is left out"
)
### END HIDDEN TESTS


# %% alternative="SwiGLU"
def swiglu_hidden(d_model, multiple_of=256):
    if min(d_model, multiple_of) <= 0:
        raise ValueError("too small")
    width = multiple_of
    while 3 * width < 8 * d_model:
        width += multiple_of
    return width


class SwiGLU(nn.Module):
    # Gate and up in one product, uniform first weights.
    def __init__(self, d_model, d_ff, seed=0):
        super().__init__()
        import warnings

        warnings.warn("a learner's own warning", stacklevel=1)
        g = torch.Generator().manual_seed(seed + 1_000)
        for name, shape in (("w_down", (d_ff, d_model)), ("w_up", (d_model, d_ff)), ("w_gate", (d_model, d_ff))):
            w = (torch.rand(shape, generator=g) * 2 - 1) * (3 / shape[0]) ** 0.5
            self.register_parameter(name, nn.Parameter(w))

    def forward(self, x):
        both = torch.einsum("...i,ij->...j", x, torch.cat([self.w_up, self.w_gate], dim=1))
        up, gate = both.chunk(2, dim=-1)
        return torch.einsum("...j,ji->...i", up * gate * torch.sigmoid(gate), self.w_down)

    def parameter_gradients(self, x, direction):
        loss = (self(x) * direction).sum()
        self.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% mistakes="SwiGLU"
{
    "gate and up have changed places: silu is applied to x @ w_up": [
        ("gate = silu(x @ self.w_gate)", "gate = silu(x @ self.w_up)"),
        ("gate * (x @ self.w_up)", "gate * (x @ self.w_gate)"),
    ],
    "silu is applied to both products": ("gate * (x @ self.w_up)", "gate * silu(x @ self.w_up)"),
    "silu is applied after the multiplication, to the product of gate and up": [
        ("gate = silu(x @ self.w_gate)", "gate = x @ self.w_gate"),
        ("gate * (x @ self.w_up)", "silu(gate * (x @ self.w_up))"),
    ],
    "silu is applied after the contraction": [
        ("gate = silu(x @ self.w_gate)", "gate = x @ self.w_gate"),
        ("return hidden @ self.w_down", "return silu(hidden @ self.w_down)"),
    ],
    "nothing is bent: the gate is x @ w_gate as it is": ("gate = silu(x @ self.w_gate)", "gate = x @ self.w_gate"),
    "the gate is a plain sigmoid, which is the older GLU": (
        "gate = silu(x @ self.w_gate)",
        "gate = torch.sigmoid(x @ self.w_gate)",
    ),
    "the gate is a GELU, which is the variant called GEGLU": (
        "gate = silu(x @ self.w_gate)",
        "gate = gelu(x @ self.w_gate)",
    ),
    "the gate is a ReLU, which is the variant called ReGLU": (
        "gate = silu(x @ self.w_gate)",
        "gate = relu(x @ self.w_gate)",
    ),
    "gate and up are added, not multiplied": ("gate * (x @ self.w_up)", "gate + (x @ self.w_up)"),
    "there is no up-projection: the gate alone is contracted": ("gate * (x @ self.w_up)", "gate"),
    "the gate is multiplied by x @ w_gate again, and w_up is never used": (
        "gate * (x @ self.w_up)",
        "gate * (x @ self.w_gate)",
    ),
    "the input is added to the output, which is the work of the block around the network": (
        "return hidden @ self.w_down",
        "return x + hidden @ self.w_down",
    ),
    "the gate is detached, so w_gate never learns": (
        "gate = silu(x @ self.w_gate)",
        "gate = silu(x @ self.w_gate).detach()",
    ),
    "the matrices are used through .data, so they get no gradient and never learn": [
        ("x @ self.w_gate", "x @ self.w_gate.data"),
        ("x @ self.w_up", "x @ self.w_up.data"),
        ("hidden @ self.w_down", "hidden @ self.w_down.data"),
    ],
    "the matrices are used as x @ w.T, the way nn.Linear stores them": [
        ("x @ self.w_gate", "x @ self.w_gate.T"),
        ("x @ self.w_up", "x @ self.w_up.T"),
        ("hidden @ self.w_down", "hidden @ self.w_down.T"),
    ],
    "the parameters are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(",
        "(",
        "all",
    ),
    "w_gate and w_up begin with the same numbers": (
        "self.w_up = nn.Parameter(torch.randn(d_model, d_ff, generator=generator) / math.sqrt(d_model))",
        "self.w_up = nn.Parameter(self.w_gate.data.clone())",
    ),
    "every matrix restarts the generator, so all three begin with the same numbers": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
        "all",
    ),
    "the variance of the first w_down is 1 / d_model, though it sums over d_ff hidden units": (
        "/ math.sqrt(d_ff)",
        "/ math.sqrt(d_model)",
    ),
    "the first weights have variance 1": [
        (" / math.sqrt(d_model)", "", "all"),
        (" / math.sqrt(d_ff)", ""),
    ],
    "the first weights have a standard deviation (not a variance) of 1 / d_model and 1 / d_ff": [
        ("/ math.sqrt(d_model)", "/ d_model", "all"),
        ("/ math.sqrt(d_ff)", "/ d_ff"),
    ],
    "the first weights are uniform between 0 and 1, not centred on zero": ("torch.randn(", "torch.rand(", "all"),
    "the seed is ignored": ("manual_seed(seed)", "manual_seed(0)"),
    "the width is 4 * d_model, so the third matrix makes the network half as large again": (
        "8 * d_model / (3 * multiple_of)",
        "4 * d_model / multiple_of",
    ),
    "the width is rounded down, so there are fewer parameters than in the two matrices": (
        "math.ceil(8 * d_model / (3 * multiple_of))",
        "8 * d_model // (3 * multiple_of)",
    ),
    "the width is rounded to the nearest multiple": ("math.ceil(", "round("),
    "a width that is a multiple already is pushed to the next one": (
        "math.ceil(8 * d_model / (3 * multiple_of))",
        "8 * d_model // (3 * multiple_of) + 1",
    ),
    "8 / 3 of d_model is cut down to a whole number before it is rounded up to a multiple": (
        "math.ceil(8 * d_model / (3 * multiple_of))",
        "math.ceil((8 * d_model // 3) / multiple_of)",
    ),
    "the width is not rounded to a multiple at all": (
        "return steps * multiple_of",
        "return math.ceil(8 * d_model / 3)",
    ),
    "the number of steps is returned, not the width": ("return steps * multiple_of", "return steps"),
    "the width is 2 / 3 of d_model: the factor 4 is missing": (
        "8 * d_model / (3 * multiple_of)",
        "2 * d_model / (3 * multiple_of)",
    ),
    "a multiple_of or a d_model below 1 is accepted": [
        ("if d_model < 1 or multiple_of < 1:", "if False:"),
        ("math.ceil(8 * d_model / (3 * multiple_of))", "math.ceil(8 * d_model / (3 * (multiple_of or 1)))"),
    ],
}

# %% [markdown]
# ## Exercise 5 · `parameter_shares`
#
# Attention has the name, but where are the parameters? Count a whole decoder: tables, attention, feed-forward, norms.
# The feed-forward network and attention were yours to build. Of the rest you need only the shapes, and the docstring
# lists them.
#
# *Difficulty 2 of 5 · 15 minutes · 3 points*


# %% exercise="parameter_shares" difficulty=2 minutes=15 forbid=["numel", "parameters", "Linear", "Embedding"]
def parameter_shares(
    d_model: int,
    d_ff: int,
    n_layers: int,
    vocab_size: int,
    context: int = 0,
    gated: bool = False,
    biases: bool = True,
    tied: bool = True,
) -> dict[str, float]:
    """Which share of a decoder's parameters sits in which part. A parameter is one number, not one tensor.

    The model has a table of tokens (vocab_size, d_model) and a table of positions (context, d_model); n_layers blocks,
    each with two norms, attention and a feed-forward network; one norm after the last block; and an output head, a
    matrix (d_model, vocab_size) without a bias. Attention has four matrices (d_model, d_model). Every norm has a weight
    (d_model,).

    Args:
        d_model, d_ff: features of a token and hidden units.
        n_layers: number of blocks.
        vocab_size: number of tokens in the vocabulary.
        context: rows of the table of positions; 0 for models that have none.
        gated: whether the feed-forward network has three matrices (gate, up, down), not two (in, out).
        biases: whether every norm has a bias (d_model,) too, and every matrix of attention and of the feed-forward
            network has a bias, as long as that product's output.
        tied: whether the head uses the table of tokens, so that its matrix is not counted again.

    Returns:
        A dict with the keys "embeddings" (both tables, and the head if it is not tied), "attention", "feed_forward" and
        "norms"; each value is that part's parameters divided by all of them, so the four values add up to 1.
    """
    ### BEGIN SOLUTION
    attention = 4 * d_model * d_model
    wide = 2 if gated else 1  # matrices that end in d_ff; one more ends in d_model
    feed_forward = (wide + 1) * d_model * d_ff
    norm = d_model
    if biases:
        attention += 4 * d_model
        feed_forward += wide * d_ff + d_model
        norm += d_model
    rows = vocab_size + context if tied else 2 * vocab_size + context
    counts = {
        "embeddings": rows * d_model,
        "attention": n_layers * attention,
        "feed_forward": n_layers * feed_forward,
        "norms": (2 * n_layers + 1) * norm,
    }
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Count one block first, then multiply. Two things are not inside any block: the tables, and one of the
# norms.</details>
# <details><summary>A bigger nudge</summary>A bias is as long as its product's output. Of the feed-forward matrices all but the last end in d_ff, and the
# last ends in d_model.</details>

# %% test="parameter_shares" points=3
from coursekit import check

PARTS = ("embeddings", "attention", "feed_forward", "norms")
# A layer: 4 matrices of 4 and 4 biases of 2 are 24; two matrices of 16 and biases of 8 and 2 are 42. Five norms of 4: 20.
# Tables: 3 + 1 rows of 2.
shares = parameter_shares(d_model=2, d_ff=8, n_layers=2, vocab_size=3, context=1)
check.equal(sorted(shares), sorted(PARTS), "the names of the parts")
check.close(
    [shares[part] for part in PARTS],
    [8 / 160, 48 / 160, 84 / 160, 20 / 160],
    "d_model=2, d_ff=8, two layers, 3 tokens, 1 position: 8, 48, 84 and 20 of 160 parameters",
    atol=1e-9,
)
# 4 matrices of 4: 16. Three matrices of 12: 36. Three norms of 2: 6. The table and the head: 2 times 3 rows of 2.
shares = parameter_shares(d_model=2, d_ff=6, n_layers=1, vocab_size=3, gated=True, biases=False, tied=False)
check.close(
    [shares[part] * 70 for part in PARTS],
    [12.0, 16.0, 36.0, 6.0],
    "gated, no biases, a head of its own: 12, 16, 36 and 6 of 70 parameters (shares times 70)",
    atol=1e-9,
)
### BEGIN HIDDEN TESTS
import torch
from torch import nn
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaForCausalLM


def counted(model, kinds):
    sizes = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        sizes[next(part for mark, part in kinds if mark in name)] += parameter.numel()
    return [sizes[part] / sum(sizes.values()) for part in PARTS]


with torch.device("meta"):
    gpt2 = GPT2Model(
        GPT2Config(
            n_embd=12,
            n_head=2,
            n_inner=30,
            n_layer=3,
            vocab_size=19,
            n_positions=11,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    llama = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=12,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=20,
            num_hidden_layers=2,
            vocab_size=17,
            tie_word_embeddings=False,
        )
    )
marks = (("attn", "attention"), ("mlp", "feed_forward"), ("ln_", "norms"), ("norm", "norms"), ("", "embeddings"))
found = parameter_shares(12, 30, 3, 19, context=11)
check.close([found[part] for part in PARTS], counted(gpt2, marks), "a small GPT-2, counted in transformers", atol=1e-12)
found = parameter_shares(12, 20, 2, 17, gated=True, biases=False, tied=False)
check.close(
    [found[part] for part in PARTS], counted(llama, marks), "a small Llama, counted in transformers", atol=1e-12
)


def by_modules(d_model, d_ff, n_layers, vocab_size, context, gated, biases, tied):
    def linear(rows, columns):
        return nn.Linear(rows, columns, bias=biases)

    with torch.device("meta"):
        model = nn.ModuleDict(
            {
                "attn": nn.ModuleList(linear(d_model, d_model) for _ in range(4 * n_layers)),
                "mlp": nn.ModuleList(
                    layer
                    for _ in range(n_layers)
                    for layer in (*(linear(d_model, d_ff) for _ in range(1 + gated)), linear(d_ff, d_model))
                ),
                "norm": nn.ModuleList(nn.LayerNorm(d_model, bias=biases) for _ in range(2 * n_layers + 1)),
                "tables": nn.ModuleList(nn.Embedding(rows, d_model) for rows in (vocab_size, context) if rows),
                "head": nn.ModuleList() if tied else nn.Linear(d_model, vocab_size, bias=False),
            }
        )
    return counted(model, marks)


for sizes in ((12, 48, 3, 50, 9), (7, 5, 1, 3, 0)):
    for gated in (False, True):
        for biases in (False, True):
            for tied in (False, True):
                found = parameter_shares(*sizes, gated=gated, biases=biases, tied=tied)
                check.close(
                    [found[part] for part in PARTS],
                    by_modules(*sizes, gated, biases, tied),
                    f"(d_model, d_ff, n_layers, vocab_size, context) = {sizes}, gated={gated}, biases={biases}, tied={tied}",
                    atol=1e-12,
                )
found = parameter_shares(12, 48, 3, 50)
check.close(
    [found[part] for part in PARTS],
    by_modules(12, 48, 3, 50, 0, False, True, True),
    "what stands where it is left out",
    atol=1e-12,
)
### END HIDDEN TESTS


# %% alternative="parameter_shares"
def parameter_shares(d_model, d_ff, n_layers, vocab_size, context=0, gated=False, biases=True, tied=True):
    from fractions import Fraction

    def product(rows, columns):
        return rows * columns + columns * biases

    sizes = {"norms": d_model * (1 + biases), "embeddings": (vocab_size + context) * d_model}
    sizes["attention"] = sizes["feed_forward"] = 0
    for _ in range(n_layers):
        sizes["attention"] += sum(product(d_model, d_model) for _ in "qkvo")
        sizes["feed_forward"] += product(d_model, d_ff) * (1 + gated) + product(d_ff, d_model)
        sizes["norms"] += 2 * d_model * (1 + biases)
    if not tied:
        sizes["embeddings"] += vocab_size * d_model
    print(sizes)
    return {part: float(Fraction(size, sum(sizes.values()))) for part, size in sizes.items()}


# %% mistakes="parameter_shares"
{
    "a gated network is counted with two matrices": ("wide = 2 if gated else 1", "wide = 1"),
    "every feed-forward network is counted with three matrices": ("wide = 2 if gated else 1", "wide = 2"),
    "the biases of the feed-forward network are all counted as long as d_model": (
        "wide * d_ff + d_model",
        "(wide + 1) * d_model",
    ),
    "the biases of the feed-forward network are all counted as long as d_ff": (
        "wide * d_ff + d_model",
        "(wide + 1) * d_ff",
    ),
    "the gate's bias is forgotten: two products end in d_ff, and one bias of that length is counted": (
        "wide * d_ff + d_model",
        "d_ff + d_model",
    ),
    "only the bias of the first feed-forward matrix is counted": ("wide * d_ff + d_model", "wide * d_ff"),
    "the biases of attention are not counted": ("        attention += 4 * d_model\n", ""),
    "the biases of the norms are not counted": ("        norm += d_model\n", ""),
    "the biases are counted although there are none": ("if biases:", "if True:"),
    "the biases are never counted": ("if biases:", "if False:"),
    "the norm after the last block is forgotten": ("(2 * n_layers + 1) * norm", "2 * n_layers * norm"),
    "one norm is counted in each block, not two": ("(2 * n_layers + 1) * norm", "(n_layers + 1) * norm"),
    "the head is counted although it is tied to the table of tokens": (
        "vocab_size + context if tied else 2 * vocab_size + context",
        "2 * vocab_size + context",
    ),
    "the head is not counted although it is not tied": (
        "vocab_size + context if tied else 2 * vocab_size + context",
        "vocab_size + context",
    ),
    "the table of positions is left out": [
        ("vocab_size + context if tied", "vocab_size if tied"),
        ("else 2 * vocab_size + context", "else 2 * vocab_size"),
    ],
    "the output projection of attention is left out": ("attention = 4 * d_model", "attention = 3 * d_model"),
    "the tables are left out of the sum, so the other shares add up to 1": (
        "total = sum(counts.values())",
        'total = sum(counts.values()) - counts["embeddings"]',
    ),
    "one block is counted, whatever n_layers is": [
        ("n_layers * attention", "attention"),
        ("n_layers * feed_forward", "feed_forward"),
        ("(2 * n_layers + 1) * norm", "3 * norm"),
    ],
    "the hidden width is taken to be 4 * d_model, whatever d_ff is": (
        "feed_forward = (wide + 1) * d_model * d_ff",
        "d_ff = 4 * d_model\n    feed_forward = (wide + 1) * d_model * d_ff",
    ),
    "the numbers of parameters are returned, not their shares": ("count / total for", "count for"),
    "the shares are given in per cent": ("count / total for", "100 * count / total for"),
}

# %% [markdown]
# ## Look at it
#
# First, your function on models that exist. The sizes are those of the papers; of GPT-2, the smallest and the largest.

# %%
MODELS = {
    "GPT-2 small": parameter_shares(768, 3072, 12, 50_257, context=1024),
    "GPT-2 XL": parameter_shares(1600, 6400, 48, 50_257, context=1024),
    "Llama 7B": parameter_shares(4096, 11_008, 32, 32_000, gated=True, biases=False, tied=False),
    "Llama 65B": parameter_shares(8192, 22_016, 80, 32_000, gated=True, biases=False, tied=False),
}
print(f"{'':12}" + "".join(f"{part:>14}" for part in MODELS["Llama 7B"]))
for name, shares in MODELS.items():
    print(f"{name:12}" + "".join(f"{share:14.2%}" for share in shares.values()))

# %% [markdown]
# In each of them the feed-forward network holds about twice as many parameters as attention. Can you derive the factor 2
# without a computer, for both kinds of network? And what makes the embeddings of the smallest model so heavy?
#
# Second, the networks themselves, trained on two jobs. A token has eight features, taken as four pairs $(a, b)$. The first
# job is to sort each pair. The second takes a pair as a complex number and squares it: $(a^2 - b^2,\; 2ab)$. Three
# networks of about the same size learn each job three times, from different first weights. A point is the error of
# one run on tokens that it has not seen, divided by the variance of the target: 1 is no better than a constant.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

torch.set_num_threads(1)
D_MODEL, STEPS = 8, 600


def tokens(count, seed):
    return torch.randn(count, D_MODEL, generator=torch.Generator().manual_seed(seed))


def sorted_pairs(x):
    return x.unflatten(-1, (-1, 2)).sort(-1, descending=True).values.flatten(-2)


def squared_pairs(x):
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * a - b * b, 2 * a * b], -1).flatten(-2)


NETWORKS = {
    "ReLU": lambda seed: FeedForward(D_MODEL, 4 * D_MODEL, "relu", seed),
    "GELU": lambda seed: FeedForward(D_MODEL, 4 * D_MODEL, "gelu_tanh", seed),
    "SwiGLU": lambda seed: SwiGLU(D_MODEL, swiglu_hidden(D_MODEL, 1), seed),
}


def train(network, job, seed):
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = 0.02 * (1 - step / STEPS)
        x = tokens(128, 1_000 * (seed + 1) + step)
        loss = (network(x) - job(x)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = tokens(4_000, 999_999)
    with torch.no_grad():
        return float((network(x) - job(x)).square().mean() / job(x).var(0).mean())


jobs = {"sort pairs": sorted_pairs, "square pairs": squared_pairs}
figure = make_subplots(rows=1, cols=2, subplot_titles=list(jobs), shared_yaxes=True, horizontal_spacing=0.14)
for panel, (what, job) in enumerate(jobs.items(), start=1):
    x = tokens(4_000, 999_999)
    with_one = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    best = with_one @ torch.linalg.lstsq(with_one, job(x)).solution  # one matrix and a bias, no activation
    print(
        f"{what}: one matrix alone, at its best, leaves {float((best - job(x)).square().mean() / job(x).var(0).mean()):.3f}"
    )
    for colour, (name, make) in zip(plots.COLOURS, NETWORKS.items(), strict=False):
        errors = [train(make(seed), job, seed) for seed in range(3)]
        size = sum(p.numel() for p in make(0).parameters())
        print(f"    {name:6} ({size} parameters): " + ", ".join(f"{error:.5f}" for error in errors))
        figure.add_scatter(
            x=[name] * 3,
            y=errors,
            mode="markers",
            name=name,
            showlegend=False,
            marker={"color": colour, "size": 11},
            hovertemplate=f"{name}, {size} parameters<br>error %{{y:.5f}}<extra></extra>",
            row=1,
            col=panel,
        )
figure.update_yaxes(type="log", exponentformat="power", dtick=1)
figure.update_yaxes(title_text="error on new tokens (share of variance)", col=1)
figure.update_layout(height=380)
figure.show()

# %% [markdown]
# Which network would you choose for which job, and could you have said so before training? One of them can do the
# first job exactly, with 16 of its 32 hidden units (how?). One of them can do the second job exactly. Does training find those
# solutions? Change `STEPS` and see who gains from more time.
#
# These are two small jobs and not a language model. That gated networks help there is a result of measurements, not of
# this picture: Noam Shazeer's report ends by offering no explanation.
#
# ## Common mistakes
#
# - **The activation in the wrong place.** Bent after the contraction, the two matrices collapse into one. The shapes are right, the loss falls,
#   and the hidden width does nothing.
# - **One GELU for the other.** The outputs agree to three decimal places. Loaded weights then give a slightly different model,
#   and no error. Compare in float64, with a tolerance far below the difference.
# - **Gate and up exchanged.** Trained from scratch, nobody will ever notice: the names are only names. With weights from
#   elsewhere the output is wrong. Llama calls them `gate_proj` and `up_proj`; other code has `w1` and `w3`, with `w2` in between.
# - **`4 * d_model` for a gated network.** It has half as many parameters again, and may win by that alone. Compare at equal size.
# - **An exponential of your own.** `x / (1 + exp(-x))` gives the right value at $-10^4$ and a gradient of NaN. One such
#   element is enough: two steps of the optimiser later, every weight of the network is NaN.
# - **Weights stored the other way round.** GPT-2's first matrix is stored as `(d_model, d_ff)`, Llama's as `(d_ff, d_model)`. Where both sizes are equal,
#   nothing complains.
# - **A bias that is not a parameter.** As a plain tensor it works, stays zero for ever, and is missing from the saved file.
#
# The next lab, [Lab 2.4](lab04_transformer_block.ipynb), puts the network beside attention in a block.
#
# ## Going further
#
# - **What does a hidden unit know?** Write the output as a sum over hidden units: activation times a row of `w_out`. The column of
#   `w_in` says when a unit speaks, the row of `w_out` what it says. Train a tiny network on a job of your own and read a
#   few units. (Mor Geva, Roei Schuster, Jonathan Berant, Omer Levy, Transformer Feed-Forward Layers Are Key-Value Memories, 2021.)
# - **Other bends.** Add `relu(x) ** 2` to `FeedForward` and run the comparison again. It was found by a search over
#   programs. With this one a network without a gate can multiply exactly. How? (David So and others, Primer: Searching for Efficient Transformers for Language Modeling, 2021.)
# - **Digits lost.** In float32, compute `gelu(torch.tensor(-6.0))` and compare with float64. Where did the value go? PyTorch has
#   `torch.special.erfc`: does it help, and would a model care?
