# ---
# title: Residuals, layer norm and the feed-forward network
# lab: ch00/lab03
# minutes: 120
# difficulty: 3
# hardware: cpu
# needs: [ch00/lab01, ch00/lab02]
# builds: [ReLU, GELU, FeedForward, LayerNorm, Residual, jacobian]
# ---

# %% [markdown]
# # Lab 0.3 · Residuals, layer norm and the feed-forward network
#
# ## The idea
#
# Attention, from [Lab 0.2](lab02_attention.ipynb), moves information between tokens. Three more parts make a block out of
# it, and two of them are there so that many blocks can stand on each other.
#
# Depth is hard on gradients. On its way down a gradient is multiplied in every layer. Thirty factors of 0.8 make 0.001,
# thirty of 1.25 make 808. The remedy is one addition, the *residual connection*: a layer computes not the new vector but
# a change of the old one.
#
# $$ y = x + f(x) $$
#
# On the way back, $x$ was used twice: once as it is, and once by $f$. *What was used several times collects the gradient of
# each use*, so the gradient for $x$ is what arrives, plus what $f$ makes of it. Take $f(x) = 0.1\,x$, thirty
# times. Without the addition the factor is $0.1^{30}$, and nothing is left. With it, the factor is $1.1^{30} = 17$.
#
# So nothing vanishes, but things may grow. *Layer norm* is the volume control. It takes the features of one token, subtracts
# their mean and divides by their standard deviation. The token $[1, 7, 9, 15]$ has the mean 8. The differences $-7, -1, 1, 7$
# have squares that add up to 100, so the variance is $100 / 4 = 25$, and the result is $[-1.4, -0.2, 0.2, 1.4]$. The token
# $[10, 70, 90, 150]$ gives the same: how loud a token was can no longer be seen. A learned scale and a learned shift for each feature follow.
#
# The third part does the work. A *feed-forward network* takes each token alone, expands it to more features, bends each of
# them, and contracts the result to the old width.
#
# For each part you write the way there and the way back. The norm has the finest backward pass of the chapter.
# The page [Residuals, layer norm, feed-forward](../../book/ch00_numpy/residual_layernorm_ffn.md) derives and
# measures it.
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `x` | `(..., d_model)`, mostly `(B, T, d_model)` | tokens; features on the last axis |
# | hidden | `(..., d_ff)` | the expanded token inside the feed-forward network |
# | `inner.weight`, `outer.weight` | `(d_model, d_ff)`, `(d_ff, d_model)` | its two matrices, each with a bias |
# | mean, variance | `(..., 1)` | two numbers for each token |
# | `LayerNorm.weight`, `.bias` | `(d_model,)` | a scale and a shift for each feature |
# | `grad` | as the layer's output | $\partial L/\partial(\text{output})$ |
# | Jacobian | `(output.size, x.size)` | entry $[i, j]$: how output number $i$ changes with input number $j$ |
#
# The interface is that of [Lab 0.1](lab01_embeddings_and_positions.ipynb): `forward` computes and remembers, `backward` answers for the last
# `forward` and *adds* to `parameter.grad`. `Linear` is yours, from Lab 0.2. `Times` is a layer for the tests; read it as a worked example.

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")

# %% given side="learner"
new_rng = carry("ch00/lab01", "new_rng")
Linear = carry("ch00/lab02", "Linear")


class Times(Layer):
    """For the tests: multiply each feature by a learned number, and all of them by a factor that is handed in."""

    def __init__(self, d_model: int, rng: np.random.Generator):
        self.weight = Parameter(rng.normal(size=d_model))

    def forward(self, x, factor=1.0):
        self.x, self.factor = x, factor
        return factor * x * self.weight.value

    def backward(self, grad):
        tokens = tuple(range(grad.ndim - 1))  # all axes but the features
        self.weight.grad += (self.factor * grad * self.x).sum(axis=tokens)
        return self.factor * grad * self.weight.value


# %% [markdown]
# ## A picture
#
# Two hundred stacks of thirty layers. Each layer has a single number, and a slope that is drawn at random: the slider says how large
# (its standard deviation). What is left of a gradient of 1, after so many layers? Lines are medians; eight of ten stacks end inside the band.

# %%
import plotly.graph_objects as go

from coursekit import plots

DEPTH = 30
drawn = np.random.default_rng(0).normal(size=(200, DEPTH))
strengths = [0.1, 0.2, 0.5, 1.0]


def what_is_left(slopes):
    """The 10%, 90% and 50% quantiles of the product's size after 0, 1, ... DEPTH layers."""
    products = np.cumprod(np.abs(slopes), axis=1)
    return [[1.0, *quantile] for quantile in np.quantile(products, [0.1, 0.9, 0.5], axis=0)]


curves = [what_is_left(strength * drawn) + what_is_left(1 + strength * drawn) for strength in strengths]
figure = go.Figure()
for number, y in enumerate(curves[1]):
    name, colour, filling = ("f(x)", "x + f(x)")[number // 3], plots.COLOURS[1 - number // 3], number % 3 < 2
    figure.add_scatter(
        x=list(range(DEPTH + 1)),
        y=y,
        name=name,
        line={"color": colour, "width": 0 if filling else 3},
        fill="tonexty" if number % 3 == 1 else None,
        showlegend=not filling,
        hoverinfo="skip" if filling else None,
        hovertemplate=None if filling else "after %{x} layers: %{y:.2g}",
    )
steps = [
    {"label": f"{strength:g}", "method": "restyle", "args": [{"y": y}]}
    for strength, y in zip(strengths, curves, strict=True)
]
figure.update_xaxes(title_text="layers passed")
figure.update_yaxes(title_text="size of the gradient", type="log", range=[-42, 12], exponentformat="power", dtick=10)
figure.update_layout(
    height=420,
    legend={"orientation": "h", "y": 1.12},
    sliders=[{"steps": steps, "active": 1, "currentvalue": {"prefix": "slopes of about "}, "pad": {"t": 50}}],
)
figure.show()

# %% [markdown]
# The lower line is lost at every position of the slider. The upper one holds while a layer changes its input by little. From 0.5 on it sinks and its
# band grows wide: a slope near -1 takes away what the addition has brought. The addition keeps a road open, and it does not calm a layer that shouts. For that
# there is the norm.
#
# ## Exercise 1 · `ReLU` and `GELU`
#
# First the bend. Without it the two matrices of a feed-forward network would be one matrix. ReLU cuts off what is negative. GELU does the same
# with a soft edge, and in the form that GPT-2 uses it is
#
# $$ \operatorname{gelu}(x) = \tfrac12\, x\, \bigl(1 + \tanh u\bigr), \qquad u = \sqrt{2/\pi}\,\bigl(x + 0.044715\, x^3\bigr) $$
#
# Both work on each number alone. Then the backward pass is one product: the gradient that arrives, times the slope at the place where `forward` was.
# You need the product rule, the chain rule and $\tanh' = 1 - \tanh^2$. (At 0, where ReLU has a corner, the slope is 0 by convention.)
#
# *Difficulty 2 of 5 · 20 minutes · 4 points*


# %% exercise="GELU" difficulty=2 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class ReLU(Layer):
    """max(x, 0), number by number. No parameters."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return max(x, 0), a new array of x's shape and dtype (float32 or float64). x has any number of axes."""
        ### BEGIN SOLUTION
        self.positive = x > 0
        return np.maximum(x, 0)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x: grad where the x of the last `forward` was positive, and 0 elsewhere, at x = 0 too."""
        ### BEGIN SOLUTION
        return grad * self.positive
        ### END SOLUTION


class GELU(Layer):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))), number by number. No parameters.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, the form with tanh.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return gelu(x), an array of x's shape and dtype (float32 or float64).

        Args:
            x: any number of axes, and numbers up to 10,000 in size. Far out gelu(x) is x on the right and 0 on the
                left.
        """
        ### BEGIN SOLUTION
        self.x = x
        self.t = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))
        return 0.5 * x * (1 + self.t)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for the x of the last `forward`: grad times the slope of gelu there, in x's dtype."""
        ### BEGIN SOLUTION
        x, t = self.x, self.t
        du = (2 / np.pi) ** 0.5 * (1 + 3 * 0.044715 * x**2)  # the slope of what stands inside the tanh
        return grad * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>What does <code>backward</code> have to know of <code>forward</code>? For ReLU, one bit for each number. For GELU keep
# x and the tanh, so that you need not compute it twice.</details>
# <details><summary>A bigger nudge</summary>gelu is a product of x/2 and (1 + tanh u), so its slope has two summands: the slope of the first factor times the
# second, and the first times the slope of the second. That last slope is (1 − tanh² u) times the slope of u, and u is a polynomial in x. As to the dtype:
# <code>np.sqrt(2 / np.pi)</code> is a NumPy number of 64 bits and turns float32 into float64. <code>(2 / np.pi) ** 0.5</code> is a plain one and
# does not.</details>

# %% test="GELU" points=2
from coursekit import check

import numpy as np

x = np.array([[-2.0, -1.0, 0.0], [0.5, 1.0, 10.0]])
positive = np.array([[0.0, 0.0, 0.0], [0.5, 1.0, 10.0]])
check.close(ReLU().forward(x.copy()), positive, "ReLU of -2, -1, 0 and of 0.5, 1, 10")
check.close(
    GELU().forward(x.copy()),
    np.array([[-0.04540231, -0.15880801, 0.0], [0.34571401, 0.84119199, 10.0]]),
    "GELU of -2, -1, 0 and of 0.5, 1, 10",
)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

draw = np.random.default_rng(check.seed(1))
for shape in ((3, 7, 5), (1, 63), (4,), (2, 3, 4, 5), (2, 0, 3)):
    x = 2 * draw.normal(size=shape)
    case = f"x of shape {shape}"
    check.close(ReLU().forward(x), F.relu(torch.tensor(x)).numpy(), f"ReLU, {case}", atol=1e-12)
    want = F.gelu(torch.tensor(x), approximate="tanh").numpy()
    check.close(GELU().forward(x), want, f"GELU, {case}", atol=1e-8, rtol=1e-8)
    check.close(GELU()(x), want, f"GELU, {case}, called as layer(x)", atol=1e-8, rtol=1e-8)
x = np.linspace(-8, 8, 401)
check.close(
    GELU().forward(x),
    F.gelu(torch.tensor(x), approximate="tanh").numpy(),
    "GELU from -8 to 8",
    atol=1e-8,
    rtol=1e-8,
    hint="There are two GELUs. This is the one with tanh, which differs from the exact one by less than 0.001.",
)
far = np.array([-1e4, -30.0, -0.0, 30.0, 1e4], dtype="float32")
for name, layer in (("ReLU", ReLU()), ("GELU", GELU())):
    found = layer.forward(far)
    check.close(found, np.maximum(far, 0), f"{name} far out, in float32")
    check.equal(
        str(np.asarray(found).dtype),
        "float32",
        f"{name}: the dtype of the output for a float32 x",
        hint="A number out of np.sqrt has 64 bits and makes everything float64 that it meets. 2**0.5 is a plain one.",
    )
    check.equal(list(layer.parameters()), [], f"{name} has no parameters")
across = draw.normal(size=(5, 3)).T
check.close(
    GELU().forward(across),
    F.gelu(torch.tensor(across.copy()), approximate="tanh").numpy(),
    "GELU of an x that is not contiguous",
    atol=1e-8,
)
### END HIDDEN TESTS

# %% test="GELU" points=2
from coursekit import check

import numpy as np

x = np.array([[-2.0, -1.0, 0.0], [0.5, 1.0, 10.0]])
grad = np.array([[10.0, 20.0, 30.0], [40.0, 50.0, -60.0]])
found = passes(ReLU(), (x,), grad)
check.close(
    found.get("grad", np.nan),
    np.array([[0.0, 0.0, 0.0], [40.0, 50.0, -60.0]]),
    "ReLU lets the gradient through where x was positive, and at 0 it does not",
)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


slope = (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5
found = passes(GELU(), (x,), grad)
check.close(found.get("grad", np.nan) / grad, slope, "GELU: the gradient over grad is the slope of the curve at x")
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

draw = np.random.default_rng(check.seed(2))
for make, bend in ((ReLU, F.relu), (GELU, lambda x: F.gelu(x, approximate="tanh"))):
    name = "ReLU" if bend is F.relu else "GELU"
    for shape in ((3, 7, 5), (1, 63), (4,), (2, 3, 4, 5)):
        x, other, grad = 2 * draw.normal(size=shape), draw.normal(size=shape), draw.normal(size=shape)
        leaf = torch.tensor(x, requires_grad=True)
        bend(leaf).backward(torch.tensor(grad))
        layer = make()
        layer.forward(other)
        found = passes(layer, (x,), grad)
        case = f"{name}, x of shape {shape}"
        check.close(found.get("grad", np.nan), leaf.grad.numpy(), f"{case}: the gradient", atol=1e-8, rtol=1e-8)
        again = layer.backward(grad)
        check.close(again, leaf.grad.numpy(), f"{case}: backward once more, from the same forward", atol=1e-8)
        layer.forward(other)
        layer.forward(x)
        check.close(layer.backward(grad), leaf.grad.numpy(), f"{case}: after two forwards, about the second", atol=1e-8)
    far = np.array([-1e4, -30.0, 30.0, 1e4], dtype="float32")
    found = passes(make(), (far,), np.array([1.0, 2.0, 3.0, 4.0], dtype="float32")).get("grad", np.nan)
    check.close(found, np.array([0.0, 0.0, 3.0, 4.0]), f"{name}: the gradient far out, in float32")
    check.equal(str(np.asarray(found).dtype), "float32", f"{name}: the dtype of the gradient in float32")
x, step = np.linspace(-5, 5, 41), 1e-5
layer = GELU()
slope = (layer.forward(x + step) - layer.forward(x - step)) / (2 * step)
layer.forward(x)
check.close(layer.backward(np.ones(41)), slope, "GELU: backward is the slope of your own forward", atol=1e-8)
### END HIDDEN TESTS


# %% alternative="GELU"
class ReLU(Layer):
    def forward(self, x):
        self.x = np.array(x)
        y = self.x.copy()
        y[y < 0] = 0
        return y

    def backward(self, grad):
        return np.where(self.x > 0, grad, np.zeros_like(grad))


class GELU(Layer):
    # As x * sigmoid(2 u), in float64 inside, and a slope from the rule for sigmoids.
    def forward(self, x):
        self.x = x.astype(np.float64)
        self.u2 = 2 * np.sqrt(2 / np.pi) * (self.x + 0.044715 * self.x * self.x * self.x)
        self.s = np.exp(-np.logaddexp(0, -self.u2))
        print("bending", x.size, "numbers")
        return (self.x * self.s).astype(x.dtype)

    def backward(self, grad):
        slope_of_u2 = 2 * np.sqrt(2 / np.pi) * (1 + 0.134145 * np.square(self.x))
        slope = self.s + self.x * self.s * (1 - self.s) * slope_of_u2
        return (grad * slope).astype(grad.dtype)


# %% mistakes="GELU"
{
    "the slope of GELU is half of 1 + tanh, and the summand with the slope of the tanh is forgotten": (
        "0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du",
        "0.5 * (1 + t)",
    ),
    "the slope of GELU has only the summand with the slope of the tanh, and half of 1 + tanh is forgotten": (
        "0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du",
        "0.5 * x * (1 - t**2) * du",
    ),
    "the slope of what stands inside the tanh is forgotten": ("(1 - t**2) * du)", "(1 - t**2))"),
    "the slope of the cube is x**2 and not 3 x**2": ("(1 + 3 * 0.044715 * x**2)", "(1 + 0.044715 * x**2)"),
    "the slope of the cube is left out, so what stands inside the tanh is taken for a straight line": (
        "(1 + 3 * 0.044715 * x**2)",
        "1",
    ),
    "the slope of tanh is taken for 1 - tanh, without the square": ("(1 - t**2) * du", "(1 - t) * du"),
    "the slope of tanh is taken for 1 - u**2, with what stands inside it and not with its value": (
        "(1 - t**2) * du",
        "(1 - ((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)) ** 2) * du",
    ),
    "the factor sqrt(2 / pi) is missing from the slope": (
        "du = (2 / np.pi) ** 0.5 * (1 + 3",
        "du = (1 + 3",
    ),
    "backward of GELU returns the slope and leaves out the gradient that arrives": (
        "return grad * (0.5 * (1 + t)",
        "return np.ones_like(grad) * (0.5 * (1 + t)",
    ),
    "backward of GELU takes the slope at grad and not at the x of forward": (
        "x, t = self.x, self.t",
        "x = grad; t = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))",
    ),
    "backward of GELU takes the tanh of the first forward and not of the last": (
        "self.t = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))\n        return 0.5 * x * (1 + self.t)",
        't = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))\n        self.t = getattr(self, "t", t)\n        return 0.5 * x * (1 + t)',
    ),
    "the exact GELU is computed, with the error function, and its slope": [
        (
            "self.t = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))",
            "import math; self.t = np.vectorize(math.erf, otypes=[x.dtype])(x / 2**0.5)",
        ),
        (
            "(1 - t**2) * du)",
            "2 * np.exp(-(x**2) / 2) / (2 * np.pi) ** 0.5)",
        ),
    ],
    "the third form of GELU is computed, x * sigmoid(1.702 x)": [
        ("(2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)", "0.851 * x"),
        ("(2 / np.pi) ** 0.5 * (1 + 3 * 0.044715 * x**2)", "0.851"),
    ],
    "0.044715 is mistyped as 0.44715, in forward as in backward": ("0.044715", "0.44715", "all"),
    "the root of 2 / pi is not taken, in forward nor in backward": ("(2 / np.pi) ** 0.5", "(2 / np.pi)", "all"),
    "x is squared and not cubed": ("0.044715 * x**3", "0.044715 * x**2"),
    "the half is missing, so GELU grows like 2 x": ("return 0.5 * x * (1 + self.t)", "return x * (1 + self.t)"),
    "GELU is tanh alone: the factor x is missing": ("return 0.5 * x * (1 + self.t)", "return 0.5 * (1 + self.t)"),
    "a factor out of np.sqrt turns the float32 output of GELU into float64": (
        "np.tanh((2 / np.pi) ** 0.5 *",
        "np.tanh(np.sqrt(2 / np.pi) *",
    ),
    "ReLU lets every gradient through": ("return grad * self.positive", "return grad"),
    "at x = 0 the slope of ReLU is 1": ("self.positive = x > 0", "self.positive = x >= 0"),
    "at x = 0 the slope of ReLU is one half": (
        "self.positive = x > 0",
        "self.positive = np.heaviside(x, 0.5).astype(x.dtype)",
    ),
    "ReLU cuts off the gradient where the gradient is negative, and not where x was": (
        "return grad * self.positive",
        "return np.maximum(grad, 0)",
    ),
    "ReLU cuts off the gradient where the gradient is negative, and where x was, too": (
        "return grad * self.positive",
        "return np.maximum(grad, 0) * self.positive",
    ),
    "backward of ReLU multiplies by the output and not by the slope": (
        "self.positive = x > 0",
        "self.positive = np.maximum(x, 0)",
    ),
    "backward of ReLU looks at the x of the first forward and not of the last": (
        "self.positive = x > 0",
        'self.positive = getattr(self, "positive", x > 0)',
    ),
    "ReLU is the absolute value": [
        ("np.maximum(x, 0)", "np.abs(x)"),
        ("self.positive = x > 0", "self.positive = np.sign(x)"),
    ],
    "ReLU keeps what is negative and cuts off the rest": [
        ("np.maximum(x, 0)", "np.minimum(x, 0)"),
        ("self.positive = x > 0", "self.positive = x < 0"),
    ],
    "ReLU is leaky: a hundredth of what is negative comes through": [
        ("np.maximum(x, 0)", "np.where(x > 0, x, x * 0.01)"),
        ("self.positive = x > 0", "self.positive = np.where(x > 0, x * 0 + 1, x * 0 + 0.01)"),
    ],
}

# %% [markdown]
# How do the three curves of this kind compare, and why do models prefer the soft ones? That is the subject of [The feed-forward
# network](../../book/ch02_block/feed_forward_network.md).
#
# ## Exercise 2 · `FeedForward`
#
# Now the network: expand, bend, contract. For once the way back needs no calculus at all. Each of the three steps has its own `backward`; you
# call them in the opposite order.
#
# Here is one that computes something. It has $d_\text{model} = d_\text{ff} = 2$, no biases, and ReLU:
#
# $$ W_\text{inner} = \begin{pmatrix} 1 & -1 \\ -1 & 1 \end{pmatrix}, \qquad W_\text{outer} = \begin{pmatrix} 1 & 0 \\ 1 & 1 \end{pmatrix} $$
#
# The token $(3, 5)$ gives $(-2, 2)$, after the bend $(0, 2)$, and the output $(2, 2)$: how far apart the two features are, and by how much
# the second is ahead. The token $(5, 3)$ gives $(2, 0)$. Now backwards from $(1, 0)$, for the first token: through the outer matrix $(1, 1)$, through the bend $(0, 1)$,
# through the inner matrix $(-1, 1)$. And indeed, the distance shrinks when the first feature grows.
#
# *Difficulty 2 of 5 · 15 minutes · 5 points*


# %% exercise="FeedForward" difficulty=2 minutes=15 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class FeedForward(Layer):
    """Two linear layers with a bend between them; each token goes through alone.

    Args:
        d_model: features of a token, before and after.
        d_ff: features in the middle.
        rng: all random numbers come from it.
        activation: "gelu" or "relu".

    Parameters:
        Those of two of your `Linear` layers with bias: ``inner.weight`` (d_model, d_ff), ``inner.bias`` (d_ff,),
        ``outer.weight`` (d_ff, d_model), ``outer.bias`` (d_model,). First values as `Linear` draws them, different
        ones for the two.

    Raises:
        ValueError: if activation is neither of the two.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.3.
    """

    def __init__(self, d_model: int, d_ff: int, rng: np.random.Generator, activation: str = "gelu"):
        ### BEGIN SOLUTION
        if activation not in ("gelu", "relu"):
            raise ValueError(f"activation is 'gelu' or 'relu', not {activation!r}")
        self.inner = Linear(d_model, d_ff, rng)
        self.activation = GELU() if activation == "gelu" else ReLU()
        self.outer = Linear(d_ff, d_model, rng)
        ### END SOLUTION

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return outer(activation(inner(x))); x and the result have the shape (..., d_model)."""
        ### BEGIN SOLUTION
        hidden = self.activation(self.inner(x))  # (..., d_ff)
        return self.outer(hidden)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, of the same shape; adds to the gradients of all four parameters."""
        ### BEGIN SOLUTION
        grad_hidden = self.outer.backward(grad)  # (..., d_ff)
        return self.inner.backward(self.activation.backward(grad_hidden))
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Keep three layers in <code>self</code>. Nothing else has to be remembered between <code>forward</code> and
# <code>backward</code>: each layer remembers its own part.</details>
# <details><summary>A bigger nudge</summary>The gradient comes in where the output went out, at the outer layer. What its <code>backward</code> returns is the gradient
# for its input, which is the output of the activation, and so on down.</details>

# %% test="FeedForward" points=3
from coursekit import check

import numpy as np

layer = FeedForward(2, 2, new_rng(0), activation="relu")
shapes = {name: list(p.value.shape) for name, p in FeedForward(3, 5, new_rng(0)).parameters().items()}
check.equal(
    sorted(shapes.items()),
    [("inner.bias", [5]), ("inner.weight", [3, 5]), ("outer.bias", [3]), ("outer.weight", [5, 3])],
    "the names and shapes of the parameters, for d_model=3 and d_ff=5",
)
layer.inner.weight.value = np.array([[1.0, -1.0], [-1.0, 1.0]])
layer.outer.weight.value = np.array([[1.0, 0.0], [1.0, 1.0]])
layer.outer.bias.value = np.array([0.0, 100.0])
x, grad = np.array([[3.0, 5.0], [5.0, 3.0], [-1.0, -4.0]]), np.array([[1.0, 0.0], [-10.0, 5.0], [100.0, 10.0]])
found = passes(layer, (x,), grad)
check.close(
    found["output"],
    np.array([[2.0, 102.0], [2.0, 100.0], [3.0, 100.0]]),
    "the tokens (3, 5), (5, 3) and (-1, -4) through the network in the text, with the outer bias (0, 100)",
)
check.close(
    found.get("grad", np.nan),
    np.array([[-1.0, 1.0], [-10.0, 10.0], [100.0, -100.0]]),
    "the gradients for the three tokens, when (1, 0), (-10, 5) and (100, 10) arrive",
)
by_hand = {
    "outer.weight": np.array([[280.0, 40.0], [2.0, 0.0]]),
    "outer.bias": np.array([91.0, 15.0]),
    "inner.weight": np.array([[-150.0, 3.0], [-430.0, 5.0]]),
    "inner.bias": np.array([90.0, 1.0]),
}
for name, value in by_hand.items():
    check.close(found[f"grad.{name}"], value, f"the gradient of {name}, summed over the three tokens")
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

draw = np.random.default_rng(check.seed(1))
for kind, bend in (("gelu", lambda h: F.gelu(h, approximate="tanh")), ("relu", F.relu)):
    for shape, d_ff in (((3, 7, 5), 11), ((1, 63, 6), 24), ((4,), 3), ((2, 3, 4, 5), 5), ((2, 3, 1), 1)):
        d_model = shape[-1]
        case = f"{kind}, x of shape {shape}, d_ff={d_ff}"
        values = {
            "inner.weight": draw.normal(size=(d_model, d_ff)),
            "inner.bias": draw.normal(size=d_ff),
            "outer.weight": draw.normal(size=(d_ff, d_model)),
            "outer.bias": draw.normal(size=d_model),
        }
        x, grad = draw.normal(size=shape), draw.normal(size=shape)
        layer = FeedForward(d_model, d_ff, new_rng(0), activation=kind)
        layer.inner.weight.value, layer.inner.bias.value = values["inner.weight"], values["inner.bias"]
        layer.outer.weight.value, layer.outer.bias.value = values["outer.weight"], values["outer.bias"]
        leaves = {name: torch.tensor(value, requires_grad=True) for name, value in (values | {"x": x}).items()}
        hidden = bend(F.linear(leaves["x"], leaves["inner.weight"].T, leaves["inner.bias"]))
        output = F.linear(hidden, leaves["outer.weight"].T, leaves["outer.bias"])
        output.backward(torch.tensor(grad))
        layer.forward(1 - x)
        found = passes(layer, (x,), grad)
        check.close(found["output"], output.detach().numpy(), f"{case}: the output", atol=1e-8, rtol=1e-8)
        want = leaves["x"].grad.numpy()
        check.close(found.get("grad", np.nan), want, f"{case}: the gradient for x", atol=1e-8, rtol=1e-8)
        layer.backward(grad)
        for name, parameter in layer.parameters().items():
            want = leaves[name].grad.numpy()
            check.close(found[f"grad.{name}"], want, f"{case}: the gradient of {name}", atol=1e-8, rtol=1e-8)
            check.close(parameter.grad, 2 * want, f"{case}: backward again adds to {name}", atol=1e-8, rtol=1e-8)
layer = FeedForward(3, 5, new_rng(0))
layer.astype("float32")
found = passes(layer, (np.ones((2, 3), dtype="float32"),), np.ones((2, 3), dtype="float32"))
check.equal(sorted({str(value.dtype) for value in found.values()}), ["float32"], "all dtypes after astype('float32')")
### END HIDDEN TESTS

# %% test="FeedForward" points=2
from coursekit import check

import numpy as np

for activation in ("swish", "GELU"):
    check.raises(
        ValueError,
        lambda activation=activation: FeedForward(2, 3, new_rng(0), activation=activation),
        f"the activation {activation!r} is refused",
    )
bent = np.array([0.84119199, -0.15880801])
for name, layer in (
    ("activation='gelu'", FeedForward(2, 2, new_rng(0), activation="gelu")),
    ("no activation given, so GELU", FeedForward(2, 2, new_rng(0))),
):
    layer.inner.weight.value = layer.outer.weight.value = np.eye(2)
    check.close(layer.forward(np.array([1.0, -1.0])), bent, f"{name}: (1, -1), with unit matrices and no bias")
### BEGIN HIDDEN TESTS
for activation in ("", None, "tanh"):
    check.raises(
        ValueError,
        lambda activation=activation: FeedForward(2, 3, new_rng(0), activation=activation),
        f"the activation {activation!r} is refused",
    )
layer = FeedForward(150, 400, new_rng(check.seed(2)))
values = {name: np.asarray(parameter.value) for name, parameter in layer.parameters().items()}
unit = (2 / 550) ** 0.5
for name in ("inner.weight", "outer.weight"):
    # 60,000 numbers: their standard deviation is within 0.2% of the true one two times in three.
    check.close(float(values[name].std() / unit), 1.0, f"the spread of the first {name}, over Xavier's", atol=0.02)
    check.close(
        float(np.abs(values[name]).max() / unit),
        3**0.5,
        f"the largest entry of the first {name}, as Xavier's",
        atol=0.02,
    )
for name in ("inner.bias", "outer.bias"):
    check.close(values[name], np.zeros(values[name].shape), f"the first {name} is zero")
for what, inner in (("inner.weight", values["inner.weight"]), ("its transpose", values["inner.weight"].T)):
    correlation = np.corrcoef(inner.ravel(), values["outer.weight"].ravel())[0, 1]
    check.that(abs(correlation) < 0.05, f"the first outer.weight has nothing to do with {what}")
same, again, other = (FeedForward(3, 4, new_rng(check.seed(3) + k)).outer.weight.value for k in (0, 0, 1))
check.that(np.array_equal(same, again), "generators with the same seed give the same network", hint="Draw from rng.")
check.that(not np.array_equal(same, other), "another seed gives another network", hint="Draw from rng.")
### END HIDDEN TESTS


# %% alternative="FeedForward"
class FeedForward(Layer):
    # Three steps in a list, and a layer for the bend that is chosen from a table.
    def __init__(self, d_model, d_ff, rng, activation="gelu"):
        bends = {"relu": ReLU, "gelu": GELU}
        if activation not in bends:
            raise ValueError(activation)
        self.outer = Linear(d_ff, d_model, rng)
        self.inner = Linear(d_model, d_ff, rng)
        self.bend = bends[activation]()

    def steps(self):
        return self.inner, self.bend, self.outer

    def forward(self, x):
        for step in self.steps():
            print("through", type(step).__name__)
            x = step.forward(x)
        return x

    def backward(self, grad):
        for step in reversed(self.steps()):
            grad = step.backward(grad)
        return grad


# %% mistakes="FeedForward"
{
    "the bend is left out, so two matrices do the work of one": [
        ("self.activation(self.inner(x))", "self.inner(x)"),
        ("self.activation.backward(grad_hidden)", "grad_hidden"),
    ],
    "backward goes past the bend: the slope of the activation is left out": (
        "self.activation.backward(grad_hidden)",
        "grad_hidden",
    ),
    "in backward the activation itself is applied to the gradient, and not its slope": (
        "self.activation.backward(grad_hidden)",
        "self.activation(grad_hidden)",
    ),
    "the bend is applied to the output, too": [
        (
            "return self.outer(hidden)",
            "self.last = type(self.activation)()\n        return self.last(self.outer(hidden))",
        ),
        ("self.outer.backward(grad)", "self.outer.backward(self.last.backward(grad))"),
    ],
    "the bend comes first, before the inner layer": [
        ("self.activation(self.inner(x))", "self.inner(self.activation(x))"),
        (
            "self.inner.backward(self.activation.backward(grad_hidden))",
            "self.activation.backward(self.inner.backward(grad_hidden))",
        ),
    ],
    "the input is added to the output, which is the work of the residual around it": [
        ("return self.outer(hidden)", "return x + self.outer(hidden)"),
        ("return self.inner.backward(", "return grad + self.inner.backward("),
    ],
    "the input is added to the output on the way there, and forgotten on the way back": (
        "return self.outer(hidden)",
        "return x + self.outer(hidden)",
    ),
    "backward begins by setting all gradients to zero": (
        "grad_hidden = self.outer.backward(grad)",
        "self.zero_grad(); grad_hidden = self.outer.backward(grad)",
    ),
    "backward never reaches the inner layer, which so never learns": (
        "return self.inner.backward(self.activation.backward(grad_hidden))",
        "return self.activation.backward(grad_hidden) @ self.inner.weight.value.T",
    ),
    "backward never reaches the outer layer, which so never learns": (
        "self.outer.backward(grad)",
        "grad @ self.outer.weight.value.T",
    ),
    "backward returns the gradient of the hidden layer and not that of x": (
        "return self.inner.backward(self.activation.backward(grad_hidden))",
        "grad_hidden = self.activation.backward(grad_hidden)\n        self.inner.backward(grad_hidden)\n        return grad_hidden",
    ),
    "backward returns nothing": (
        "return self.inner.backward(self.activation.backward(grad_hidden))",
        "self.inner.backward(self.activation.backward(grad_hidden))",
    ),
    "backward goes through the inner layer twice, so its gradients are twice as large": (
        "return self.inner.backward(self.activation.backward(grad_hidden))",
        "self.inner.backward(self.activation.backward(grad_hidden)); return self.inner.backward(self.activation.backward(grad_hidden))",
    ),
    "the inner layer has no bias": (
        "self.inner = Linear(d_model, d_ff, rng)",
        "self.inner = Linear(d_model, d_ff, rng, bias=False)",
    ),
    "the outer layer has no bias": (
        "self.outer = Linear(d_ff, d_model, rng)",
        "self.outer = Linear(d_ff, d_model, rng, bias=False)",
    ),
    "d_ff is ignored: the middle is always four times as wide as the token": [
        ("Linear(d_model, d_ff, rng)", "Linear(d_model, 4 * d_model, rng)"),
        ("Linear(d_ff, d_model, rng)", "Linear(4 * d_model, d_model, rng)"),
    ],
    "the activation is always GELU": ('GELU() if activation == "gelu" else ReLU()', "GELU()"),
    "the activation is always ReLU": ('GELU() if activation == "gelu" else ReLU()', "ReLU()"),
    "relu and gelu have changed places": ('activation == "gelu" else', 'activation == "relu" else'),
    "the activation is ReLU where nothing is said": ('activation: str = "gelu"', 'activation: str = "relu"'),
    "any word but gelu means relu": ('if activation not in ("gelu", "relu"):', "if False:"),
    "rng is ignored: every network is drawn with seed 0": (
        "self.inner = Linear(d_model, d_ff, rng)",
        "rng = np.random.default_rng(0); self.inner = Linear(d_model, d_ff, rng)",
    ),
    "the outer layer is drawn like the inner one, from a copy of rng": (
        "self.inner = Linear(d_model, d_ff, rng)",
        "import copy; self.inner = Linear(d_model, d_ff, copy.deepcopy(rng))",
    ),
    "inner and outer are named the other way round": [
        ("self.inner", "self.first", "all"),
        ("self.outer", "self.inner", "all"),
        ("self.first", "self.outer", "all"),
    ],
}

# %% [markdown]
# ## Exercise 3 · `LayerNorm`
#
# $$ \hat x_i = \frac{x_i - \mu}{s}, \qquad s = \sqrt{\sigma^2 + \varepsilon}, \qquad y_i = \gamma_i\,\hat x_i + \beta_i $$
#
# with the mean $\mu$ and the variance $\sigma^2$ of one token. The way there is a few lines. On the way back, look at $x_i$: it appears in $y_i$, and by the
# mean and the root in *every* output of its token. The page adds up these roads; two short means are all that is left of them. With
# $g_i = \gamma_i\,\partial L/\partial y_i$, what arrives at $\hat x$:
#
# $$ \frac{\partial L}{\partial x_i} = \frac1s\Bigl(g_i - \operatorname{mean}(g) - \hat x_i\,\operatorname{mean}(g\,\hat x)\Bigr) $$
#
# The norm cannot see a shift of the token, nor a factor. So moving $x$ in these two directions changes nothing, and the gradient has no part in them. That is what the two means
# take out. For the token $[1, 7, 9, 15]$ and $g = (4, 0, 0, 0)$ they are $1$ and $-1.4$, and the gradient is
#
# $$ \tfrac15\,(4 - 1 - 1.96,\;\; 0 - 1 - 0.28,\;\; 0 - 1 + 0.28,\;\; 0 - 1 + 1.96) = (0.208,\; -0.256,\; -0.144,\; 0.192) . $$
#
# Add its entries up. Then multiply them with those of $\hat x$ and add that up.
#
# The parameters are shared by all tokens. You know what that means for their gradients.
#
# *Difficulty 4 of 5 · 35 minutes · 8 points*


# %% exercise="LayerNorm" difficulty=4 minutes=35 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class LayerNorm(Layer):
    """Normalise each token by its own mean and variance, then scale and shift each feature.

    Args:
        d_model: features of a token.
        eps: added to the variance, inside the root.

    Parameters:
        ``weight`` (d_model,), at first ones, and ``bias`` (d_model,), at first zeros.

    Source: Ba, Kiros and Hinton, Layer Normalization, 2016.
    """

    def __init__(self, d_model: int, eps: float = 1e-5):
        ### BEGIN SOLUTION
        self.weight = Parameter(np.ones(d_model))
        self.bias = Parameter(np.zeros(d_model))
        self.eps = eps
        ### END SOLUTION

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return (x - mean) / sqrt(variance + eps) * weight + bias.

        Args:
            x: (..., d_model) with any number of axes in front, also none; of the parameters' dtype.

        Returns:
            Array of x's shape and dtype. Mean and variance are those of the last axis, and the variance is the mean of
            the squared differences (divided by d_model, not by d_model - 1). It has to be right far from zero, too: in
            float32, features around 10,000 with a spread of 1 give results within 0.01. A token whose features are all
            equal gives the bias.
        """
        ### BEGIN SOLUTION
        centred = x - x.mean(axis=-1, keepdims=True)  # (..., d)
        variance = (centred**2).mean(axis=-1, keepdims=True)  # (..., 1)
        self.root = np.sqrt(variance + self.eps)  # (..., 1)
        self.normal = centred / self.root  # (..., d)
        return self.normal * self.weight.value + self.bias.value
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, and on the way those of weight and bias.

        Args:
            grad: (..., d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            The gradient for x, of the same shape. To ``weight.grad`` and ``bias.grad`` is added the sum over all
            tokens, however many axes there are in front of the features.
        """
        ### BEGIN SOLUTION
        tokens = tuple(range(grad.ndim - 1))  # all axes but the features
        self.weight.grad += (grad * self.normal).sum(axis=tokens)
        self.bias.grad += grad.sum(axis=tokens)
        g = grad * self.weight.value  # what arrives at the normalised token, (..., d)
        shift = g.mean(axis=-1, keepdims=True)  # (..., 1)
        loudness = (g * self.normal).mean(axis=-1, keepdims=True)  # (..., 1)
        return (g - shift - self.normal * loudness) / self.root
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary><code>keepdims=True</code> keeps the last axis, with length 1, so that two numbers for each token line up with its features. Keep the
# normalised token and the root in <code>self</code>; <code>backward</code> needs nothing else.</details>
# <details><summary>A bigger nudge</summary>The formula is about g, the gradient <i>after</i> it has been multiplied by the weight; the gradients of weight and bias are about the one
# before. In y = γ · normal + β, γ is multiplied by the normalised token, so its gradient is the product of that and what arrives, added up over every axis but the
# last: <code>tuple(range(grad.ndim - 1))</code>. And subtract the mean before you square. The mean of the squares minus the square of the mean is the same on paper only.</details>

# %% test="LayerNorm" points=2
from coursekit import check

import numpy as np

layer = LayerNorm(4)
values = {name: p.value for name, p in layer.parameters().items()}
check.equal(sorted(values), ["bias", "weight"], "the names of the parameters")
check.close(np.stack([values["weight"], values["bias"]]), np.array([[1.0] * 4, [0.0] * 4]), "weight and bias at first")
x = np.array([[[1.0, 7.0, 9.0, 15.0], [10.0, 70.0, 90.0, 150.0]]])
normal = np.array([-1.4, -0.2, 0.2, 1.4])
check.close(layer.forward(x), np.array([[normal, normal]]), "the tokens [1, 7, 9, 15] and [10, 70, 90, 150]")
check.close(
    LayerNorm(4, eps=11.0).forward(x[0, 0]),
    np.array([-7.0, -1.0, 1.0, 7.0]) / 6,
    "the first of them alone, with eps = 11: the variance is 25, and the root of 25 + 11 is 6",
)
layer.weight.value, layer.bias.value = np.array([1.0, 2.0, 1.0, 1.0]), np.array([0.0, 0.0, 10.0, 0.0])
check.close(
    layer.forward(x),
    np.array([[[-1.4, -0.4, 10.2, 1.4]] * 2]),
    "the same tokens, with the weight [1, 2, 1, 1] and the bias [0, 0, 10, 0]",
)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

draw = np.random.default_rng(check.seed(1))
for shape, eps in (((3, 7, 6), 1e-5), ((1, 63, 60), 1e-5), ((5, 5, 5), 0.5), ((2, 3, 4, 6), 1e-3), ((9,), 0.1)):
    x, weight, bias = draw.normal(size=shape), draw.normal(size=shape[-1]), draw.normal(size=shape[-1])
    gamma, beta = torch.tensor(weight), torch.tensor(bias)
    layer = LayerNorm(shape[-1], eps=eps)
    layer.weight.value, layer.bias.value = weight, bias
    for factor in (1.0, 0.01, 100.0):
        case = f"x of shape {shape}, eps={eps:g}, times {factor:g}"
        want = F.layer_norm(torch.tensor(factor * x), shape[-1:], gamma, beta, eps)
        check.close(layer.forward(factor * x), want.numpy(), case, atol=1e-8, rtol=1e-8)
quiet = 0.01 * draw.normal(size=(2, 3, 6))
want = F.layer_norm(torch.tensor(quiet), (6,)).numpy()
check.close(LayerNorm(6).forward(quiet), want, "quiet tokens, eps left out", atol=1e-8, rtol=1e-8)
layer = LayerNorm(60)
layer.astype("float32")
x = draw.normal(size=(60, 7, 3)).astype("float32").T
want = F.layer_norm(torch.tensor(x.copy()).double(), (60,)).numpy()
found = layer.forward(x)
check.close(found, want, "float32, an x of shape (3, 7, 60) that is not contiguous", atol=1e-5)
check.equal(str(found.dtype), "float32", "the dtype of the output after astype('float32')")
far = (1e4 + x).astype("float32")
want = F.layer_norm(torch.tensor(far.copy()).double(), (60,)).numpy()
check.close(
    layer.forward(far),
    want,
    "float32, features around 10,000 with a spread of 1",
    atol=0.01,
    hint="Subtract the mean before you square. The difference of two huge numbers has lost its digits.",
)
layer = LayerNorm(3)
layer.bias.value = np.array([1.0, -2.0, 3.0])
found = layer.forward(np.array([[5.0, 5.0, 5.0], [0.0, 0.0, 0.0]]))
check.close(found, np.array([[1.0, -2.0, 3.0]] * 2), "tokens whose features are all equal give the bias")
### END HIDDEN TESTS

# %% test="LayerNorm" points=4
from coursekit import check

import numpy as np

layer = LayerNorm(4, eps=0.0)
layer.weight.value = np.array([1.0, 2.0, 1.0, 1.0])
x = np.array([[[1.0, 7.0, 9.0, 15.0], [10.0, 70.0, 90.0, 150.0]]])
grad = np.array([[[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]])
found = passes(layer, (x,), grad).get("grad", np.nan)
check.close(
    found,
    np.array([[[0.208, -0.256, -0.144, 0.192], [-0.0256, 0.0592, -0.0192, -0.0144]]]),
    "the gradient for x by hand. First token: the one in the text. Second token, with g = (0, 4, 0, 0) because of the "
    "weight: the means are 1 and -0.2, and the root is 50",
    atol=1e-6,
)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

draw = np.random.default_rng(check.seed(2))
for shape, eps in (((3, 7, 6), 1e-5), ((1, 63, 60), 1e-5), ((5, 5, 5), 0.5), ((2, 3, 4, 6), 1e-3), ((9,), 0.1)):
    x, grad, weight = draw.normal(size=shape), draw.normal(size=shape), draw.normal(size=shape[-1])
    for factor in (1.0, 0.01, 100.0):
        case = f"x of shape {shape}, eps={eps:g}, times {factor:g}"
        leaf = torch.tensor(factor * x, requires_grad=True)
        F.layer_norm(leaf, shape[-1:], torch.tensor(weight), None, eps).backward(torch.tensor(grad))
        layer = LayerNorm(shape[-1], eps=eps)
        layer.weight.value = weight
        layer.forward(x + 1)
        layer.forward(grad)
        found = passes(layer, (factor * x,), grad).get("grad", np.nan)
        check.close(found, leaf.grad.numpy(), f"{case}: the gradient for x", atol=1e-8, rtol=1e-8)
        sums = np.asarray(found).sum(axis=-1)
        check.close(sums, np.zeros(shape[:-1]), f"{case}: it sums to zero, since a shift changes nothing", atol=1e-8)

# Against the definition: move one number of x a little, and watch the loss.
x, direction, step = draw.normal(size=(2, 3, 4)) + 3 * np.arange(4), draw.normal(size=(2, 3, 4)), 1e-5
layer = LayerNorm(4)
found = passes(layer, (x,), direction).get("grad", np.nan)
for place in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
    losses = []
    for sign in (1, -1):
        moved = x.copy()
        moved[place] += sign * step
        losses.append((layer.forward(moved) * direction).sum())
    slope = float((losses[0] - losses[1]) / (2 * step))
    check.close(float(found[place]), slope, f"the gradient at {list(place)} is the slope of the loss", atol=1e-5)

found = passes(LayerNorm(3), (np.full((2, 3), 5.0),), np.ones((2, 3))).get("grad", np.nan)
check.close(found, np.zeros((2, 3)), "tokens whose features are all equal have a finite gradient", atol=1e-8)
layer = LayerNorm(60)
layer.astype("float32")
x, grad = (draw.normal(size=(2, 5, 60)).astype("float32") for _ in range(2))
leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
F.layer_norm(leaf, (60,)).backward(torch.tensor(grad, dtype=torch.float64))
found = passes(layer, (x,), grad)
check.close(found.get("grad", np.nan), leaf.grad.numpy(), "float32: the gradient for x", atol=1e-4)
check.equal(sorted({str(value.dtype) for value in found.values()}), ["float32"], "all dtypes after astype('float32')")
### END HIDDEN TESTS

# %% test="LayerNorm" points=2
from coursekit import check

import numpy as np

layer = LayerNorm(4, eps=0.0)
layer.weight.value = np.array([1.0, 2.0, 1.0, 1.0])
token, loud = np.array([1.0, 7.0, 9.0, 15.0]), np.array([1.0, 10.0, 100.0])
x = np.stack([loud[:, None] * token, loud[:, None] * token[::-1]])  # two texts of three tokens
grad = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])[..., None] * np.ones(4)
layer.forward(x)
layer.backward(grad)
normal = np.array([-1.4, -0.2, 0.2, 1.4])
check.close(
    layer.weight.grad,
    6 * normal + 60 * normal[::-1],
    "weight.grad: gradient times normalised token, added up over three tokens of two texts",
)
check.close(layer.bias.grad, np.full(4, 66.0), "bias.grad: the gradients of three tokens of two texts")
layer.forward(x[:1])
layer.backward(grad[:1])
check.close(layer.weight.grad, -48 * normal, "weight.grad: then the first text once more, on top of what was there")
check.close(layer.bias.grad, np.full(4, 72.0), "bias.grad: then the first text once more, on top of what was there")
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

draw = np.random.default_rng(check.seed(3))
for shape, eps in (((3, 7, 6), 1e-5), ((1, 63, 60), 1e-5), ((5, 5, 5), 0.5), ((2, 3, 4, 6), 1e-3), ((9,), 0.1)):
    d = shape[-1]
    x, grad, weight = draw.normal(size=shape), draw.normal(size=shape), draw.normal(size=d)
    gamma, beta = torch.tensor(weight, requires_grad=True), torch.zeros(d, dtype=torch.float64, requires_grad=True)
    F.layer_norm(torch.tensor(x), (d,), gamma, beta, eps).backward(torch.tensor(grad))
    layer = LayerNorm(d, eps=eps)
    layer.weight.value = weight
    found = passes(layer, (x,), grad)
    case = f"x of shape {shape}, eps={eps:g}"
    check.close(found["grad.weight"], gamma.grad.numpy(), f"{case}: the gradient of weight", atol=1e-8, rtol=1e-8)
    check.close(found["grad.bias"], beta.grad.numpy(), f"{case}: the gradient of bias", atol=1e-8, rtol=1e-8)
### END HIDDEN TESTS


# %% alternative="LayerNorm"
class LayerNorm(Layer):
    # The whole Jacobian of every token, as a matrix, one token after the other.
    def __init__(self, d_model, eps=1e-5):
        self.d, self.eps = d_model, eps
        self.bias, self.weight = Parameter(np.zeros(d_model)), Parameter(np.ones(d_model))

    def forward(self, x):
        rows = x.reshape(-1, self.d).astype(np.float64)
        self.jacobians, self.hats = [], []
        for row in rows:
            difference = row - row.sum() / self.d
            s = (difference.dot(difference) / self.d + self.eps) ** 0.5
            hat = difference / s if s > 0 else difference
            self.hats.append(hat)
            self.jacobians.append((np.eye(self.d) - 1 / self.d - np.outer(hat, hat) / self.d) / s)
        y = np.array(self.hats).reshape(x.shape) * self.weight.value + self.bias.value
        return y.astype(x.dtype)

    def backward(self, grad):
        into = []
        for g, hat, jacobian in zip(grad.reshape(-1, self.d), self.hats, self.jacobians, strict=True):
            self.weight.grad = self.weight.grad + (g * hat).astype(g.dtype)
            self.bias.grad = self.bias.grad + g
            into.append(jacobian @ (g * self.weight.value))
        return np.array(into).reshape(grad.shape).astype(grad.dtype)


# %% alternative="LayerNorm"
class LayerNorm(Layer):
    # The chain rule step by step, back through every line of forward.
    def __init__(self, d_model, eps=1e-5):
        self.weight, self.bias, self.eps = Parameter(np.ones(d_model)), Parameter(np.zeros(d_model)), eps

    def forward(self, x):
        self.centred = x - np.mean(x, -1, keepdims=True)
        self.inverse = 1 / np.sqrt(np.var(x, axis=-1, keepdims=True) + self.eps)
        return np.einsum("...d,d->...d", self.centred * self.inverse, self.weight.value) + self.bias.value

    def backward(self, grad):
        d = grad.shape[-1]
        rows, normal = grad.reshape(-1, d), (self.centred * self.inverse).reshape(-1, d)
        self.weight.grad += np.einsum("nd,nd->d", rows, normal)
        self.bias.grad += np.ones(len(rows), dtype=rows.dtype) @ rows
        to_normal = grad * self.weight.value
        to_inverse = (to_normal * self.centred).sum(-1, keepdims=True)
        to_variance = -0.5 * to_inverse * self.inverse**3
        to_centred = to_normal * self.inverse + to_variance * 2 * self.centred / d
        return to_centred - to_centred.sum(-1, keepdims=True) / d


# %% mistakes="LayerNorm"
{
    "mean and variance are taken for constants: both mean terms of the backward pass are forgotten": (
        "(g - shift - self.normal * loudness)",
        "g",
    ),
    "the mean of g is forgotten in the backward pass": (
        "(g - shift - self.normal * loudness)",
        "(g - self.normal * loudness)",
    ),
    "the mean of g times the normalised token is forgotten in the backward pass": (
        "(g - shift - self.normal * loudness)",
        "(g - shift)",
    ),
    "the second mean is subtracted without the normalised token in front of it": (
        "self.normal * loudness)",
        "loudness)",
    ),
    "the second mean is added and not subtracted": ("- self.normal * loudness", "+ self.normal * loudness"),
    "in the backward pass the features are added up where the means belong": [
        ("shift = g.mean(", "shift = g.sum("),
        ("(g * self.normal).mean(", "(g * self.normal).sum("),
    ],
    "the means of the backward pass run over all tokens and not over the features of one": [
        ("shift = g.mean(axis=-1, keepdims=True)", "shift = g.mean()"),
        ("(g * self.normal).mean(axis=-1, keepdims=True)", "(g * self.normal).mean()"),
    ],
    "the means of the backward pass run over the tokens, feature by feature, as in a batch norm": [
        ("shift = g.mean(axis=-1, keepdims=True)", "shift = g.mean(axis=tokens)"),
        ("(g * self.normal).mean(axis=-1, keepdims=True)", "(g * self.normal).mean(axis=tokens)"),
    ],
    "the weight is left out of the gradient for x": ("g = grad * self.weight.value", "g = grad"),
    "the weight is multiplied last, after the means have been subtracted": [
        ("g = grad * self.weight.value", "g = grad"),
        ("loudness) / self.root", "loudness) / self.root * self.weight.value"),
    ],
    "the gradient for x is not divided by the root": ("loudness) / self.root", "loudness)"),
    "the gradient for x is multiplied by the root": ("loudness) / self.root", "loudness) * self.root"),
    "the gradient for x is divided by the variance": ("loudness) / self.root", "loudness) / self.root**2"),
    "backward divides by the root of the first forward and not of the last": (
        "self.root = np.sqrt(variance + self.eps)  # (..., 1)\n        self.normal = centred / self.root",
        'root = np.sqrt(variance + self.eps)\n        self.root = getattr(self, "root", root)\n        self.normal = centred / root',
    ),
    "backward returns the gradient as it came": (
        "return (g - shift - self.normal * loudness) / self.root",
        "return grad",
    ),
    "backward returns nothing, so the layers before it never learn": (
        "return (g - shift - self.normal * loudness) / self.root",
        "return None",
    ),
    "weight.grad and bias.grad are averaged over the tokens and not summed": (
        ".sum(axis=tokens)",
        ".mean(axis=tokens)",
        "all",
    ),
    "weight.grad and bias.grad are summed over the tokens of a text but not over the batch": (
        ".sum(axis=tokens)",
        ".sum(axis=tokens[1:])",
        "all",
    ),
    "weight.grad and bias.grad are summed over the batch but not over the tokens of a text": (
        ".sum(axis=tokens)",
        ".sum(axis=tokens[:1])",
        "all",
    ),
    "weight.grad and bias.grad come from the first text of the batch alone": [
        ("(grad * self.normal).sum(axis=tokens)", "(grad * self.normal)[:1].sum(axis=tokens)"),
        ("grad.sum(axis=tokens)", "grad[:1].sum(axis=tokens)"),
    ],
    "weight.grad is overwritten and not added to": ("self.weight.grad +=", "self.weight.grad ="),
    "bias.grad is overwritten and not added to": ("self.bias.grad +=", "self.bias.grad ="),
    "weight.grad is the sum of the gradients alone, without the normalised token": (
        "(grad * self.normal).sum(axis=tokens)",
        "grad.sum(axis=tokens)",
    ),
    "weight.grad takes the token with its mean subtracted but not divided by the root": (
        "(grad * self.normal).sum(axis=tokens)",
        "(grad * self.normal * self.root).sum(axis=tokens)",
    ),
    "weight.grad has the weight in it": (
        "(grad * self.normal).sum(axis=tokens)",
        "(grad * self.normal * self.weight.value).sum(axis=tokens)",
    ),
    "bias.grad has the weight in it": ("+= grad.sum(axis=tokens)", "+= (grad * self.weight.value).sum(axis=tokens)"),
    "bias.grad is forgotten, so the bias never learns": ("self.bias.grad += grad.sum(axis=tokens)", "pass"),
    "weight.grad is forgotten, so the weight never learns": (
        "self.weight.grad += (grad * self.normal).sum(axis=tokens)",
        "pass",
    ),
    "the variance is divided by d_model - 1, as a statistician would": (
        "(centred**2).mean(axis=-1, keepdims=True)",
        "(centred**2).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1)",
    ),
    "eps is added outside the root": ("np.sqrt(variance + self.eps)", "(np.sqrt(variance) + self.eps)"),
    "eps is left out": ("np.sqrt(variance + self.eps)", "np.sqrt(variance)"),
    "eps is 1e-6 where it is left out": ("eps: float = 1e-5", "eps: float = 1e-6"),
    "eps is always 1e-5, whatever is asked for": ("self.eps = eps", "self.eps = 1e-5"),
    "the token is divided by its variance and not by the root of it": ("centred / self.root", "centred / self.root**2"),
    "the mean is not subtracted": ("centred = x - x.mean(axis=-1, keepdims=True)", "centred = x"),
    "the variance is the mean of the squares minus the square of the mean, which loses its digits far from zero": (
        "variance = (centred**2).mean(axis=-1, keepdims=True)",
        "variance = np.maximum((x**2).mean(axis=-1, keepdims=True) - x.mean(axis=-1, keepdims=True) ** 2, 0)",
    ),
    "mean and variance are taken over the tokens of the text, feature by feature": [
        ("x.mean(axis=-1, keepdims=True)", "x.mean(axis=max(x.ndim - 2, 0), keepdims=True)"),
        ("(centred**2).mean(axis=-1, keepdims=True)", "(centred**2).mean(axis=max(x.ndim - 2, 0), keepdims=True)"),
    ],
    "mean and variance are those of all numbers of the batch": [
        ("x.mean(axis=-1, keepdims=True)", "x.mean()"),
        ("(centred**2).mean(axis=-1, keepdims=True)", "(centred**2).mean() + 0 * x[..., :1]"),
    ],
    "the bias is added before the weight is multiplied": (
        "self.normal * self.weight.value + self.bias.value",
        "(self.normal + self.bias.value) * self.weight.value",
    ),
    "the bias is left out": (" + self.bias.value", ""),
    "the weight is left out": ("self.normal * self.weight.value", "self.normal"),
    "the weight begins at zero, so nothing comes through": ("np.ones(d_model)", "np.zeros(d_model)"),
    "weight and bias are called gamma and beta": [
        ("self.weight", "self.gamma", "all"),
        ("self.bias", "self.beta", "all"),
    ],
}

# %% [markdown]
# What does the gradient do with a token's loudness? The same direction arrives at one token, ten times and a hundred times as loud.

# %%
rng = np.random.default_rng(0)
token, direction = rng.normal(size=60), rng.normal(size=60)
norm = LayerNorm(60)
print("token times    output's spread   gradient's length   along a shift   along the token")
for factor in (0.01, 1, 10, 100):
    y = norm(factor * token)
    back = norm.backward(direction)
    unit = (token - token.mean()) / np.linalg.norm(token - token.mean())
    print(f"{factor:11g}{y.std():19.3f}{np.linalg.norm(back):20.4f}{back.sum():16.1e}{back @ unit:18.1e}")

# %% [markdown]
# From the second row on the output is the same, and a hundred times as loud means a hundredth of the gradient: the louder a token, the less its norm lets
# down. In the first row you see $\varepsilon$ at work. Why is the last number there not as small as the others?
#
# ## Exercise 4 · `Residual`
#
# Now put the parts together. `Residual` wraps a layer, any layer that keeps the shape, and adds what goes in to what comes out. In the figure of the paper it is the box "Add & Norm".
# The norm may stand in two places:
#
# | | forward |
# |---|---|
# | `"pre"` | `x + layer(norm(x))` |
# | `"post"` | `norm(x + layer(x))` |
# | `"none"` | `x + layer(x)` |
#
# The first transformer had "post", GPT-2 and most models since have "pre". Write down for each of the three which ways lead from the output back to `x`.
# Where a road forks on the way there, gradients are added on the way back.
#
# Attention needs a mask beside its input. So `forward` takes further arguments and hands them on to the layer, whatever they are.
#
# *Difficulty 3 of 5 · 20 minutes · 5 points*


# %% exercise="Residual" difficulty=3 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class Residual(Layer):
    """A layer with a road around it, and a norm before it, behind the sum, or not at all.

    Args:
        layer: any layer whose output has the shape of its input, (..., d_model).
        d_model: features of a token.
        norm: "pre" for ``x + layer(norm(x))``, "post" for ``norm(x + layer(x))``, "none" for ``x + layer(x)``.

    Parameters:
        Those of the layer under ``layer.``, and ``norm.weight`` and ``norm.bias`` of a `LayerNorm` of its own, with
        that layer's eps and first values; without a norm only the layer's.

    Raises:
        ValueError: if norm is none of the three.

    Sources: He et al., Deep Residual Learning for Image Recognition, 2015; Vaswani et al., Attention Is All You Need,
    2017 ("post"); Radford et al., Language Models are Unsupervised Multitask Learners, 2019 ("pre").
    """

    def __init__(self, layer: Layer, d_model: int, norm: str = "pre"):
        ### BEGIN SOLUTION
        if norm not in ("pre", "post", "none"):
            raise ValueError(f"norm is 'pre', 'post' or 'none', not {norm!r}")
        self.place = norm
        self.layer = layer
        self.norm = None if norm == "none" else LayerNorm(d_model)
        ### END SOLUTION

    def forward(self, x: np.ndarray, *args) -> np.ndarray:
        """The sum with its norm, an array of x's shape (..., d_model); args go to the layer, behind its input."""
        ### BEGIN SOLUTION
        if self.place == "pre":
            return x + self.layer(self.norm(x), *args)
        total = x + self.layer(x, *args)
        return total if self.norm is None else self.norm(total)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, of the same shape; adds to the gradients of the layer's and the norm's parameters."""
        ### BEGIN SOLUTION
        if self.place == "pre":
            return grad + self.norm.backward(self.layer.backward(grad))
        if self.place == "post":
            grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it
        return grad + self.layer.backward(grad)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Draw the three as graphs, with a fork where <code>x</code> is used twice and a plus sign where the roads meet again. Then walk each graph
# from the output to the input: at a plus sign the gradient goes into both roads as it is, and at the fork what comes out of them is added.</details>
# <details><summary>A bigger nudge</summary>With "pre" the norm stands on one road only, the one through the layer, and the other road is free. With "post" it stands behind the plus sign,
# so the gradient passes it first and then goes both ways. Call each <code>backward</code> exactly once: it adds to the gradients of its parameters.</details>

# %% test="Residual" points=3
from coursekit import check

import numpy as np

x, grad = np.array([[1.0, 7.0, 9.0, 15.0]]), np.array([[4.0, 0.0, 0.0, 0.0]])
normal = np.array([[-1.4, -0.2, 0.2, 1.4]])
outputs = {"none": 3 * x, "pre": x + 2 * normal, "post": normal}
# What a norm makes of this gradient at this token is worked out in exercise 3; at a token three times as loud, a third.
through = np.array([[0.208, -0.256, -0.144, 0.192]])
gradients = {"none": 3 * grad, "pre": grad + 2 * through, "post": through / 3 + 2 * through / 3}
for norm in ("none", "pre", "post"):
    layer = Times(4, new_rng(0))
    layer.weight.value = np.full(4, 2.0)
    around = Residual(layer, 4, norm=norm)
    wanted = ["layer.weight"] if norm == "none" else ["layer.weight", "norm.bias", "norm.weight"]
    check.equal(sorted(around.parameters()), wanted, f"{norm}: the names of the parameters")
    found = passes(around, (x,), grad)
    check.close(found["output"], outputs[norm], f"{norm}: the token [1, 7, 9, 15], around a layer that doubles")
    check.close(
        found.get("grad", np.nan), gradients[norm], f"{norm}: the gradient for x, when (4, 0, 0, 0) arrives", atol=1e-6
    )
layer = Times(4, new_rng(0))
layer.weight.value = np.full(4, 2.0)
check.close(
    Residual(layer, 4, norm="none").forward(x, 10.0), 21 * x, "forward(x, 10.0) hands 10.0 on to the layer: x + 20 x"
)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

draw = np.random.default_rng(check.seed(1))
for norm in ("pre", "post", "none"):
    for shape in ((3, 7, 5), (1, 63, 6), (4,), (2, 3, 4, 5), (3, 1, 2)):
        d, factor = shape[-1], 1.7
        case = f"{norm}, x of shape {shape}, a layer with a factor"
        values = {name: draw.normal(size=d) for name in ("layer.weight", "norm.weight", "norm.bias")}
        x, grad = draw.normal(size=shape), draw.normal(size=shape)
        leaves = {name: torch.tensor(value, requires_grad=True) for name, value in (values | {"x": x}).items()}
        gamma, beta = leaves["norm.weight"], leaves["norm.bias"]
        if norm == "pre":
            output = leaves["x"] + factor * F.layer_norm(leaves["x"], (d,), gamma, beta) * leaves["layer.weight"]
        else:
            output = leaves["x"] + factor * leaves["x"] * leaves["layer.weight"]
            output = F.layer_norm(output, (d,), gamma, beta) if norm == "post" else output
        output.backward(torch.tensor(grad))
        inner = Times(d, new_rng(0))
        inner.weight.value = values["layer.weight"]
        around, other = Residual(inner, d, norm=norm), Residual(Times(d, new_rng(1)), d, norm=norm)
        if norm != "none":
            around.norm.weight.value, around.norm.bias.value = values["norm.weight"], values["norm.bias"]
        around.forward(1 - x)
        found = passes(around, (x, factor), grad)
        check.close(found["output"], output.detach().numpy(), f"{case}: the output", atol=1e-8, rtol=1e-8)
        want = leaves["x"].grad.numpy()
        check.close(found.get("grad", np.nan), want, f"{case}: the gradient for x", atol=1e-8, rtol=1e-8)
        other.forward(3 * x)
        again = around.backward(grad)
        check.close(again, want, f"{case}: once more, after another Residual was used", atol=1e-8, rtol=1e-8)
        for name, parameter in around.parameters().items():
            want = leaves[name].grad.numpy()
            check.close(found[f"grad.{name}"], want, f"{case}: the gradient of {name}", atol=1e-8, rtol=1e-8)
            check.close(parameter.grad, 2 * want, f"{case}: backward again adds to {name}", atol=1e-8, rtol=1e-8)
### END HIDDEN TESTS

# %% test="Residual" points=2
from coursekit import check

import numpy as np

for norm in ("before", "PRE"):
    check.raises(
        ValueError, lambda norm=norm: Residual(Times(4, new_rng(0)), 4, norm=norm), f"norm={norm!r} is refused"
    )
x = np.array([[1.0, 7.0, 9.0, 15.0]])
default = Residual(Times(4, new_rng(1)), 4).forward(x)
check.close(default, Residual(Times(4, new_rng(1)), 4, norm="pre").forward(x), "the norm is pre where nothing is said")
y = x
for norm in ("pre", "none", "pre"):
    layer = Times(4, new_rng(0))
    layer.weight.value = np.zeros(4)
    y = Residual(layer, 4, norm=norm).forward(y)
check.close(y, x, "three on each other, around layers that put out nothing but zeros: the token arrives as it was")
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

for norm in ("", None, "post ", "None"):
    check.raises(
        ValueError, lambda norm=norm: Residual(Times(4, new_rng(0)), 4, norm=norm), f"norm={norm!r} is refused"
    )
draw = np.random.default_rng(check.seed(2))
for norm in ("pre", "post", "none"):
    # Two blocks on each other, each around a network of its own.
    d, d_ff = 5, 7
    x, grad = draw.normal(size=(2, 3, d)), draw.normal(size=(2, 3, d))
    stack = [Residual(FeedForward(d, d_ff, new_rng(k)), d, norm=norm) for k in range(2)]
    leaves = []
    for block in stack:
        values = {name: draw.normal(size=np.shape(p.value)) for name, p in block.parameters().items()}
        block.layer.inner.weight.value = values["layer.inner.weight"]
        block.layer.inner.bias.value = values["layer.inner.bias"]
        block.layer.outer.weight.value = values["layer.outer.weight"]
        block.layer.outer.bias.value = values["layer.outer.bias"]
        if norm != "none":
            block.norm.weight.value, block.norm.bias.value = values["norm.weight"], values["norm.bias"]
        leaves.append({name: torch.tensor(value, requires_grad=True) for name, value in values.items()})

    def by_torch(x, leaf, norm=norm, d=d):
        def normalised(x):
            return F.layer_norm(x, (d,), leaf["norm.weight"], leaf["norm.bias"])

        inner = normalised(x) if norm == "pre" else x
        hidden = F.gelu(inner @ leaf["layer.inner.weight"] + leaf["layer.inner.bias"], approximate="tanh")
        total = x + hidden @ leaf["layer.outer.weight"] + leaf["layer.outer.bias"]
        return normalised(total) if norm == "post" else total

    start = torch.tensor(x, requires_grad=True)
    output = by_torch(by_torch(start, leaves[0]), leaves[1])
    output.backward(torch.tensor(grad))
    first = stack[0].forward(x)
    second = passes(stack[1], (first,), grad)
    into = stack[0].backward(second.get("grad", np.nan))
    check.close(second["output"], output.detach().numpy(), f"{norm}: the output of two", atol=1e-8, rtol=1e-8)
    check.close(into, start.grad.numpy(), f"{norm}: the gradient for the input of two", atol=1e-8, rtol=1e-8)
    for number, (block, leaf) in enumerate(zip(stack, leaves, strict=True)):
        for name, parameter in block.parameters().items():
            want = leaf[name].grad.numpy()
            check.close(parameter.grad, want, f"{norm}: the gradient of {name} in block {number}", atol=1e-8, rtol=1e-8)
    small = Residual(FeedForward(4, 6, new_rng(0)), 4, norm=norm)
    small.astype("float32")
    found = passes(small, (np.arange(8, dtype="float32").reshape(2, 4),), np.ones((2, 4), dtype="float32"))
    check.equal(sorted({str(v.dtype) for v in found.values()}), ["float32"], f"{norm}: dtypes after astype('float32')")
fresh = Residual(Times(3, new_rng(0)), 3, norm="post")
check.close(
    np.stack([fresh.norm.weight.value, fresh.norm.bias.value]), np.array([[1.0] * 3, [0.0] * 3]), "the norm at first"
)
### END HIDDEN TESTS


# %% alternative="Residual"
class Residual(Layer):
    # A table of steps: which norm stands where, with a layer that does nothing in the other places.
    class Nothing:
        def __call__(self, x):
            return x

        def backward(self, grad):
            return grad

    def __init__(self, layer, d_model, norm="pre"):
        if norm not in {"pre", "post", "none"}:
            raise ValueError(norm)
        if norm != "none":
            self.norm = LayerNorm(d_model)
        self.before = Around(self.norm) if norm == "pre" else self.Nothing()
        self.behind = Around(self.norm) if norm == "post" else self.Nothing()
        self.layer = layer

    def forward(self, x, *args):
        print("around", type(self.layer).__name__)
        return self.behind(np.add(self.layer.forward(self.before(x), *args), x))

    def backward(self, grad):
        arriving = self.behind.backward(grad)
        return self.before.backward(self.layer.backward(arriving)) + arriving


class Around:
    """Hides a layer's parameters, which would be found under two names."""

    def __init__(self, layer):
        self.forward, self.backward = layer.forward, layer.backward

    def __call__(self, x):
        return self.forward(x)


# %% mistakes="Residual"
{
    "the road around the layer is forgotten on the way back: only the layer's gradient is returned": [
        ("return grad + self.norm.backward(", "return self.norm.backward("),
        ("return grad + self.layer.backward(grad)", "return self.layer.backward(grad)"),
    ],
    "the road through the layer is forgotten on the way back: the gradient is returned as it came, and the layer never learns": [
        ("return grad + self.norm.backward(self.layer.backward(grad))", "return grad"),
        ("return grad + self.layer.backward(grad)", "return grad"),
    ],
    "with pre, the way back goes past the norm": (
        "self.norm.backward(self.layer.backward(grad))",
        "self.layer.backward(grad)",
    ),
    "with pre, both roads go back through the norm, and only one of them came through it": (
        "grad + self.norm.backward(self.layer.backward(grad))",
        "self.norm.backward(grad + self.layer.backward(grad))",
    ),
    "with pre, norm and layer are gone through in the order of forward on the way back": (
        "self.norm.backward(self.layer.backward(grad))",
        "self.layer.backward(self.norm.backward(grad))",
    ),
    "with pre, the normalised token is carried on and not the token itself": [
        ("return x + self.layer(self.norm(x), *args)", "x = self.norm(x)\n            return x + self.layer(x, *args)"),
        (
            "grad + self.norm.backward(self.layer.backward(grad))",
            "self.norm.backward(grad + self.layer.backward(grad))",
        ),
    ],
    "with pre, the token is carried on normalised, and the way back is that of the right formula": (
        "return x + self.layer(self.norm(x), *args)",
        "x = self.norm(x)\n            return x + self.layer(x, *args)",
    ),
    "with post, the way back goes past the norm": (
        "grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it",
        "pass",
    ),
    "with post, only the road through the layer goes back through the norm": (
        "grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it",
        "return grad + self.layer.backward(self.norm.backward(grad))",
    ),
    "with post, only the road around the layer goes back through the norm": (
        "grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it",
        "return self.norm.backward(grad) + self.layer.backward(grad)",
    ),
    "with post, the gradient passes the norm last, after the two roads have been added": (
        "grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it",
        "return self.norm.backward(grad + self.layer.backward(grad))",
    ),
    "with post, the norm is put on the layer's output and not on the sum": [
        (
            "total if self.norm is None else self.norm(total)",
            "total if self.norm is None else x + self.norm(total - x)",
        ),
        (
            "grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it",
            "return grad + self.layer.backward(self.norm.backward(grad))",
        ),
    ],
    "pre and post have changed places": (
        "self.place = norm",
        'self.place = {"pre": "post", "post": "pre"}.get(norm, norm)',
    ),
    "the norm is never used, with pre nor with post": [
        ("self.layer(self.norm(x), *args)", "self.layer(x, *args)"),
        ("total if self.norm is None else self.norm(total)", "total"),
        ("grad + self.norm.backward(self.layer.backward(grad))", "grad + self.layer.backward(grad)"),
        ("grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it", "pass"),
    ],
    "there is no addition: the output is the layer's alone": [
        ("return x + self.layer(self.norm(x), *args)", "return self.layer(self.norm(x), *args)"),
        ("total = x + self.layer(x, *args)", "total = self.layer(x, *args)"),
        ("return grad + self.norm.backward(", "return self.norm.backward("),
        ("return grad + self.layer.backward(grad)", "return self.layer.backward(grad)"),
    ],
    "the two roads are averaged and not added": [
        ("return x + self.layer(self.norm(x), *args)", "return (x + self.layer(self.norm(x), *args)) / 2"),
        ("total = x + self.layer(x, *args)", "total = (x + self.layer(x, *args)) / 2"),
        (
            "return grad + self.norm.backward(self.layer.backward(grad))",
            "return (grad + self.norm.backward(self.layer.backward(grad))) / 2",
        ),
        ("return grad + self.layer.backward(grad)", "return (grad + self.layer.backward(grad)) / 2"),
    ],
    "the layer's output is subtracted": [
        ("return x + self.layer(self.norm(x), *args)", "return x - self.layer(self.norm(x), *args)"),
        ("total = x + self.layer(x, *args)", "total = x - self.layer(x, *args)"),
        ("return grad + self.norm.backward(", "return grad - self.norm.backward("),
        ("return grad + self.layer.backward(grad)", "return grad - self.layer.backward(grad)"),
    ],
    "the layer's backward is called twice, so the gradients of its parameters are twice as large": [
        (
            "return grad + self.norm.backward(self.layer.backward(grad))",
            "self.layer.backward(grad)\n            return grad + self.norm.backward(self.layer.backward(grad))",
        ),
        (
            "return grad + self.layer.backward(grad)",
            "self.layer.backward(grad)\n        return grad + self.layer.backward(grad)",
        ),
    ],
    "backward begins by setting all gradients to zero": (
        'if self.place == "pre":\n            return grad +',
        'self.zero_grad()\n        if self.place == "pre":\n            return grad +',
    ),
    "the further arguments are not handed on to the layer": (", *args)\n", ")\n", "all"),
    "with none there is a norm all the same, and training would not notice that it is idle": [
        ('None if norm == "none" else LayerNorm(d_model)', "LayerNorm(d_model)"),
        ("total if self.norm is None else self.norm(total)", 'total if self.place == "none" else self.norm(total)'),
    ],
    "with pre, the norm is run once more behind the sum, so on the way back it remembers another token": (
        "return x + self.layer(self.norm(x), *args)",
        "total = x + self.layer(self.norm(x), *args)\n            self.norm(total)\n            return total",
    ),
    "the norm is post where nothing is said": ('norm: str = "pre"', 'norm: str = "post"'),
    "any word but pre and none means post": (
        'if norm not in ("pre", "post", "none"):',
        "if False:",
    ),
    "capitals are accepted": (
        'if norm not in ("pre", "post", "none"):',
        'norm = str(norm).lower()\n        if norm not in ("pre", "post", "none"):',
    ),
}

# %% [markdown]
# [Residuals and normalisation](../../book/ch02_block/residuals_and_normalization.md) compares the places of the norm in full transformers, and
# [Lab 2.4](../ch02_block/lab04_transformer_block.ipynb) builds the block in torch.
#
# ## Exercise 5 · `jacobian`
#
# `backward` answers one question: given how much the loss minds each output, how much does it mind each input? To see the *whole* derivative of a layer you ask it once for each
# output: what if the loss were this one number? The gradient that arrives is then 1 in one place and 0 elsewhere, and what comes back is one row of the Jacobian.
#
# With it you can look at a layer as a matrix. That of $x + f(x)$ is the unit matrix plus the one of $f$. That of a layer norm swallows two directions. And the singular
# values of a whole stack's Jacobian say which directions survive the way down, and how well.
#
# *Difficulty 3 of 5 · 15 minutes · 4 points*


# %% exercise="jacobian" difficulty=3 minutes=15 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def jacobian(layer: Layer, x: np.ndarray) -> np.ndarray:
    """All partial derivatives of a layer at x, by its own backward pass.

    Args:
        layer: any layer whose forward takes x alone, and whose backward returns the gradient for x.
        x: float64 array of any shape.

    Returns:
        float64 array (output.size, x.size), exact but for rounding, so not by finite differences. Entry [i, j] is the
        derivative of number i of the output by number j of x, both counted in the order of ``ravel()``. The output may
        have another shape than x.

    The gradients of the layer's parameters are in the end what they were before.
    """
    ### BEGIN SOLUTION
    before = {name: parameter.grad.copy() for name, parameter in layer.parameters().items()}
    output = layer.forward(x)
    rows = []
    for i in range(output.size):
        unit = np.zeros(output.size)
        unit[i] = 1
        rows.append(layer.backward(unit.reshape(output.shape)).ravel())
    for name, parameter in layer.parameters().items():
        parameter.grad = before[name]
    return np.stack(rows)  # (output.size, x.size)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>One <code>forward</code>, and then as many <code>backward</code> as the output has numbers. A layer may be asked as often as you like about its last
# <code>forward</code>.</details>
# <details><summary>A bigger nudge</summary>Make the gradient flat, of length <code>output.size</code>, put the 1 into place i, and give it the output's shape. Each <code>backward</code> adds to
# the gradients of the parameters, so remember them before, as copies: <code>+=</code> changes an array in place, and every name for it sees that.</details>

# %% test="jacobian" points=4
from coursekit import check

import numpy as np

layer = Linear(2, 3, new_rng(0))
layer.weight.value = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
want = np.array([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
check.close(jacobian(layer, np.array([7.0, 8.0])), want, "x @ [[1, 2, 3], [4, 5, 6]]: output 0 is x0 + 4 x1, and so on")
layer.weight.grad = np.full((2, 3), 9.0)
zero = np.zeros((3, 2))
check.close(
    jacobian(layer, np.array([[7.0, 8.0], [1.0, 1.0]])),
    np.block([[want, zero], [zero, want]]),
    "two tokens: six outputs, four inputs, and no token acts on the other",
)
check.close(layer.weight.grad, np.full((2, 3), 9.0), "the gradient of the weight is what it was before")
times = Times(2, new_rng(0))
times.weight.value = np.array([3.0, 5.0])
found = jacobian(Residual(times, 2, norm="none"), np.array([7.0, 8.0]))
check.close(found, np.array([[4.0, 0.0], [0.0, 6.0]]), "x + 3 x and x + 5 x: the unit matrix and the layer's")
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

draw = np.random.default_rng(check.seed(1))
for shape in ((5,), (2, 5), (2, 1, 5), (1, 1, 5)):
    x, weight, bias = draw.normal(size=shape), draw.normal(size=(5, 3)), draw.normal(size=3)
    linear = Linear(5, 3, new_rng(0))
    linear.weight.value, linear.bias.value = weight, bias
    cases = {
        "Linear": (linear, lambda x, w=weight: x @ torch.tensor(w)),
        "GELU": (GELU(), lambda x: F.gelu(x, approximate="tanh")),
        "LayerNorm": (LayerNorm(5, eps=0.1), lambda x: F.layer_norm(x, (5,), eps=0.1)),
    }
    for norm in ("pre", "post"):
        network = FeedForward(5, 4, new_rng(check.seed(2)))
        w = {name: torch.tensor(np.asarray(p.value)) for name, p in network.parameters().items()}

        def around(x, w=w, norm=norm):
            inner = F.layer_norm(x, (5,)) if norm == "pre" else x
            hidden = F.gelu(inner @ w["inner.weight"] + w["inner.bias"], approximate="tanh")
            total = x + hidden @ w["outer.weight"] + w["outer.bias"]
            return F.layer_norm(total, (5,)) if norm == "post" else total

        cases[f"Residual, {norm}"] = (Residual(network, 5, norm=norm), around)
    for name, (layer, function) in cases.items():
        case = f"{name}, x of shape {shape}"
        passes(layer, (x,), np.ones(function(torch.tensor(x)).shape))
        before = {key: np.array(p.grad) for key, p in layer.parameters().items()}
        want = torch.autograd.functional.jacobian(function, torch.tensor(x)).reshape(-1, x.size)
        found = jacobian(layer, x)
        # Differences are right to ten or eleven digits at best. This is exact.
        check.close(
            found, want.numpy(), case, atol=1e-12, rtol=1e-12, hint="Exact but for rounding: ask backward, row by row."
        )
        check.equal(str(np.asarray(found).dtype), "float64", f"{case}: the dtype")
        for key, parameter in layer.parameters().items():
            check.close(parameter.grad, before[key], f"{case}: the gradient of {key} afterwards", atol=0.0, rtol=0.0)
        other = draw.normal(size=shape)
        want = torch.autograd.functional.jacobian(function, torch.tensor(other)).reshape(-1, x.size)
        check.close(jacobian(layer, other), want.numpy(), f"{case}: at another x", atol=1e-8, rtol=1e-8)
x = draw.normal(size=7)
found = jacobian(LayerNorm(7, eps=0.0), x)
check.close(found @ np.ones(7), np.zeros(7), "a layer norm swallows a shift", atol=1e-8)
check.close(found @ (x - x.mean()), np.zeros(7), "with eps = 0 it swallows a factor", atol=1e-8)
### END HIDDEN TESTS


# %% alternative="jacobian"
def jacobian(layer, x):
    import copy

    layer = copy.deepcopy(layer)
    y = layer(x)
    print("asking", y.size, "times")
    result = np.empty((*y.shape, *x.shape))
    for place in np.ndindex(y.shape):
        only = np.zeros(y.shape)
        only[place] = 1.0
        result[place] = layer.backward(only)
    return result.reshape(y.size, x.size)


# %% mistakes="jacobian"
{
    "the gradients of all questions stay in the parameters, as they do when they are remembered without a copy": (
        "parameter.grad = before[name]",
        "pass",
    ),
    "the gradients of the parameters are set to zero at the end": (
        "parameter.grad = before[name]",
        "parameter.grad = np.zeros_like(parameter.value)",
    ),
    "the matrix is transposed: the inputs are counted by the rows": (
        "return np.stack(rows)",
        "return np.stack(rows).T",
    ),
    "the ones are never taken out again, so row i is the sum of the first i + 1 rows": [
        ("unit = np.zeros(output.size)\n        unit[i] = 1", "unit[i] = 1"),
        ("rows = []", "rows = []\n    unit = np.zeros(output.size)"),
    ],
    "every row is the sum of all rows, since all ones arrive at once": ("unit[i] = 1", "unit[:] = 1"),
    "only the last row is right, and the others are zero": ("unit[i] = 1", "unit[i] = i == output.size - 1"),
    "only the diagonal is kept, as if each output depended on its own input alone": (
        "return np.stack(rows)",
        "return np.stack(rows) * np.eye(output.size, x.size)",
    ),
    "the rows are divided by the number of outputs": ("unit[i] = 1", "unit[i] = 1 / output.size"),
    "it is the Jacobian at zero and not at x": ("layer.forward(x)", "layer.forward(np.zeros_like(x))"),
    "it is made of finite differences, and right to a few digits only": (
        "return np.stack(rows)",
        "step = 1e-5 * np.eye(x.size).reshape(-1, *x.shape)\n    return np.stack([((layer.forward(x + s) - layer.forward(x - s)) / 2e-5).ravel() for s in step], axis=1)",
    ),
    "the shapes of output and x are kept, and not flattened": (
        "return np.stack(rows)",
        "return np.stack(rows).reshape(*output.shape, *x.shape)",
    ),
    "output and x are counted in the order of their columns": [
        ("unit.reshape(output.shape)", 'unit.reshape(output.shape, order="F")'),
        (".ravel())", '.ravel(order="F"))'),
    ],
    "only the outputs of the first token are asked about": (
        "for i in range(output.size):",
        "for i in range(output.shape[-1]):",
    ),
}

# %% [markdown]
# ## Look at it
#
# Ten feed-forward networks on each other, untrained, in five arrangements. The norm of a gradient would be one number for each; the Jacobian from input to output shows all
# 32 directions of a token, sorted by how much of them comes through.


# %%
def stack_of(kind, depth, d_model, d_ff, rng):
    """Networks on each other: with a norm but no road around ("no residual"), with neither, or as Residual has it."""
    layers = []
    for _ in range(depth):
        network = FeedForward(d_model, d_ff, rng)
        if kind in ("pre", "post", "none"):
            layers.append(Residual(network, d_model, norm=kind))
        else:
            layers += [network] if kind == "neither" else [LayerNorm(d_model), network]
    return Stack(layers if kind == "post" else [*layers, LayerNorm(d_model)])


class Stack(Layer):
    """Layers one after the other."""

    def __init__(self, layers):
        self.layers = layers

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, grad):
        for layer in reversed(self.layers):
            grad = layer.backward(grad)
        return grad


kinds = {
    "pre": "pre",
    "post": "post",
    "none": "residual, no norm",
    "no residual": "norm, no residual",
    "neither": "neither",
}
x = np.random.default_rng(1).normal(size=32)
figure = go.Figure()
print("singular values of the way through ten layers     largest    median   smallest but two")
for kind, name in kinds.items():
    bare = Stack([*stack_of(kind, 10, 32, 128, np.random.default_rng(2)).layers][: None if kind == "post" else -1])
    values = np.linalg.svd(jacobian(bare, x), compute_uv=False)
    figure.add_scatter(
        x=list(range(1, 33)), y=values.tolist(), mode="lines+markers", name=name, hovertemplate="%{x}: %{y:.2g}"
    )
    print(f"{name:45}{values[0]:12.2g}{np.median(values):10.2g}{values[-3]:19.2g}")
figure.update_xaxes(title_text="direction of the token, by size")
figure.update_yaxes(title_text="singular value", type="log", range=[-8, 3], exponentformat="power")
figure.update_layout(height=420, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
figure.show()

# %% [markdown]
# A direction with a small singular value is one in which the top of the stack cannot tell two inputs apart, and from which no gradient gets down. Which arrangements keep all 32? Why has the
# second curve a cliff at its end? (Count the directions that a layer norm swallows.)
#
# And does it matter? Here the five learn something: to guess the next character of an English text from the four before it. The text is the reference of the Python language, as it
# lies on your machine. The four characters become one token of 32 features, by your embedding; a last linear layer makes 27 scores, and softmax makes probabilities of
# them. The loss is the mean of $-\ln p$ of the right character ([Lab 0.6](lab06_softmax_and_loss.ipynb) is about it). All take the same number of
# steps, and every step is equally long, so that no arrangement is favoured by its gradients' size.

# %%
from pydoc_data.topics import topics

Embedding = carry("ch00/lab01", "Embedding")
lower = " ".join(topics[name].lower() for name in sorted(topics))
characters = " abcdefghijklmnopqrstuvwxyz"
words = "".join(c if c in characters else " " for c in lower).split()
text = np.array([characters.index(c) for c in " ".join(words)])
V, STEPS, BATCH = len(characters), 200, 64
share = np.bincount(text) / len(text)


def learn(kind):
    """Train one arrangement; the loss at every step, and the norms of the lowest and the highest network's gradients at the start."""
    rng = np.random.default_rng(0)
    table, stack, head = Embedding(V, 8, rng), stack_of(kind, 10, 32, 64, rng), Linear(32, V, rng)
    table.weight.value *= 50
    model = Stack([table, stack, head])
    losses, ends = [], None
    for step in range(STEPS):
        places = rng.integers(4, len(text), size=BATCH)
        context = text[places[:, None] + np.arange(-4, 0)]  # (B, 4)
        scores = head(stack(table(context).reshape(BATCH, 32)))  # (B, 27)
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        right = np.arange(BATCH), text[places]
        losses.append(-np.log(p[right]).mean())
        p[right] -= 1  # Lab 0.6 says why
        model.zero_grad()
        table.backward(stack.backward(head.backward(p / BATCH)).reshape(BATCH, 4, 8))
        parameters = model.parameters()
        if step == 0:
            inner = [np.linalg.norm(q.grad) for name, q in parameters.items() if name.endswith("inner.weight")]
            ends = inner[0], inner[-1]
        length = np.sqrt(sum((q.grad**2).sum() for q in parameters.values()))
        for q in parameters.values():
            q.value -= 0.3 * (1 - step / STEPS) * q.grad / length
    return losses, ends


figure = go.Figure()
print(f"knowing the frequencies only: {-(share * np.log(share)).sum():.2f} nats")
print("                         gradient, lowest and highest network   loss at the end")
for kind, name in kinds.items():
    losses, (low, high) = learn(kind)
    smooth = np.convolve(losses, np.ones(20) / 20, mode="valid")
    figure.add_scatter(x=list(range(20, STEPS + 1)), y=smooth.tolist(), name=name, hovertemplate="step %{x}: %{y:.2f}")
    print(f"{name:25}{low:18.1e}{high:18.1e}{smooth[-1]:20.2f}")
figure.update_xaxes(title_text="step")
figure.update_yaxes(title_text="loss (nats, mean of 20 steps)")
figure.update_layout(height=400, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
figure.show()

# %% [markdown]
# Compare the last column with the loss of somebody who knows the frequencies only. The stack with neither device has learned nothing else, although the
# gradients of its networks were not tiny (look at the two columns before). The norm at the very end divides by a tiny root, and so repairs their size. It cannot repair what the first picture shows: hardly anything of the token comes through. What does the last norm see of a
# token, once the biases of ten networks have moved a little?
#
# One seed, one length of step, small networks: a demonstration and no proof. Change one thing: twice the depth, a step of another length. Which curves move?
#
# ## Common mistakes
#
# - **A branch that is forgotten.** `return self.layer.backward(grad)` in a residual layer has the right shape, and everything above it trains. What is below gets the gradient of a
#   model without roads. Whenever a name is used twice in `forward`, look for a plus sign in `backward`.
# - **Two means too few.** A layer norm whose backward pass takes mean and variance for constants gives outputs that are right to the last digit, and a gradient that pushes in two
#   directions in which nothing can be won. It trains, worse. Only a comparison of gradients finds it.
# - **The norm on the wrong road.** `x = self.norm(x); return x + self.layer(x)` looks like pre-norm and has no free road: the
#   stream itself is normalised in every layer. Check it with a layer that puts out zeros: the token must arrive as it was.
# - **`x += self.layer(x)`.** It saves an array and writes into the caller's. If a layer below has kept that array for its own backward pass, its gradient is now
#   about another input.
# - **One object in two places.** Two residuals that share a norm, or one ReLU object used twice in a network, share its memory. The first backward is right, the second answers
#   for the wrong forward. Share a `Parameter`, never a layer.
# - **Statistics over the wrong axes.** `x.mean()` without an axis works for a single token, and couples all of them when there are more.
# - **The unbiased variance.** `np.var(x, axis=-1)` divides by d, `torch.var` and `statistics.variance` by d − 1. With 64 features the result is off by less than a hundredth, and nothing
#   looks wrong.
# - **A mean where a sum belongs.** `weight.grad` is a sum over all tokens. The mean over the batch belongs to the loss.
#
# [Lab 0.4](lab04_stacking_blocks.ipynb) makes a block of attention and these parts, and stacks it. The norm in torch, with batch norm beside it, is in [Lab
# 2.1](../ch02_block/lab01_layer_norm.ipynb), gated networks in [Lab 2.3](../ch02_block/lab03_feed_forward.ipynb).
#
# ## Going further
#
# - **Leave out the mean.** RMSNorm divides by the root of the mean square and subtracts nothing. Which of the two terms of the backward pass goes away, and which directions does
#   it swallow? Check with `jacobian`. (Biao Zhang, Rico Sennrich, Root Mean Square Layer Normalization, 2019.)
# - **No norm at all.** Multiply each layer's output by a learned number that begins at zero: `x + a * layer(x)`. At the start the stack is the identity, at any depth. Write it as a
#   layer, derive the gradient of `a`, and add it to the comparison above. (Thomas Bachlechner and others, ReZero is All You Need: Fast Convergence at Large Depth, 2020.)
