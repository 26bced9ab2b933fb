# ---
# title: The dot product that looks things up
# lab: ch01/lab01
# minutes: 75
# difficulty: 2
# hardware: cpu
# needs: []
# builds: [attention_scores, softmax, attention, self_attention, attention_cost]
# ---

# %% [markdown]
# # Lab 1.1 · The dot product that looks things up
#
# ## The idea
#
# A dictionary answers one question: is there an entry under *exactly* this key? Ask a table of HTTP statuses for
# `"not fuond"` and you get a `KeyError`. The 404 was two swapped letters away, and being close counted for nothing.
#
# In most programs that is what you want. In a program that must *learn*, it is useless. Learning means: nudge the query
# a little, see whether the answer gets a little better. The answer of an exact lookup does not move a little. It stays
# where it is, and then it jumps. There is no slope to follow.
#
# Attention is that lookup with three parts replaced, so that everything has a slope:
#
# | a dictionary | attention |
# |---|---|
# | compares: `key == query` | a dot product: *how well* do they agree? |
# | picks the entry that matches | softmax: turns the scores into shares that sum to one |
# | returns its value | returns the mean of *all* values, weighted by the shares |
#
# Here is one lookup, by hand. Every key is a vector of $d_k = 4$ numbers, every value is a single number, and the query
# is $q = (2, 0, 0, 2)$:
#
# | key | value | $q \cdot k$ | $s = q \cdot k / \sqrt{4}$ | $e^s$ | share |
# |---|---|---|---|---|---|
# | $(1,0,0,1)$ | 10 | 4 | 2 | 7.39 | 0.665 |
# | $(0,1,1,0)$ | 50 | 0 | 0 | 1.00 | 0.090 |
# | $(1,1,0,0)$ | 30 | 2 | 1 | 2.72 | 0.245 |
#
# The answer is $0.665 \cdot 10 + 0.090 \cdot 50 + 0.245 \cdot 30 \approx 18.5$. No entry was refused, and none was simply taken.
# Move the query towards the second key and the answer drifts towards 50. With all queries, keys and values as rows of
# matrices, the whole table is one line:
#
# $$ \mathrm{attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{d_k}}\right) V $$
#
# Why we divide by $\sqrt{d_k}$ is measured on the page
# [Scaled dot-product attention](../../book/ch01_attention/scaled_dot_product.md); which problem all this solved is told in
# [What attention is for](../../book/ch01_attention/attention_intuition.md). In this lab you build it, five functions,
# about twenty lines in all. At the end, yours will find the 404 under `"not fuond"`.
#
# ## Shapes
#
# `...` stands for any number of leading axes, none included: a batch `B`, or a batch and heads `B, H`.
#
# | name | shape | meaning |
# |---|---|---|
# | `q` | `(..., T_q, d_k)` | what is looked for, one row for each query |
# | `k` | `(..., T_k, d_k)` | what each entry is filed under |
# | `v` | `(..., T_k, d_v)` | what each entry holds; `d_v` need not be `d_k` |
# | `mask` | broadcasts to `(..., T_q, T_k)` | bool; `True`: this query *may* look at this key |
# | scores, weights | `(..., T_q, T_k)` | one row for each query, one column for each key |
# | output | `(..., T_q, d_v)` | one answer for each query |
# | `x` | `(..., T, d_model)` | a sequence that looks things up in itself |
# | `w_q`, `w_k`, `w_v` | `(d_model, d_k)`, `(d_model, d_k)`, `(d_model, d_v)` | what makes queries, keys and values out of `x` |

# %% given
import math

import torch

# %% [markdown]
# ## A picture
#
# Keys and queries with two numbers each can be drawn as arrows. Turn the query with the slider and watch the shares. Then
# choose the long query: same directions, same keys. What does the length of a query say?

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

keys = 2.0 * torch.tensor([[math.cos(a), math.sin(a)] for a in (0.3, 1.2, 2.6, 4.4)])
key_names = ["key A", "key B", "key C", "key D"]
angles = torch.linspace(0, 2 * math.pi, 25)[:-1]
lengths = {"short query": 1.0, "long query": 4.0}


def shares(query):
    return torch.softmax(keys @ query / math.sqrt(2), dim=0)


figure = make_subplots(cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.15)
for name, key, colour in zip(key_names, keys, plots.COLOURS, strict=False):
    x, y = key.tolist()
    figure.add_scatter(
        x=[0, x],
        y=[0, y],
        mode="lines+markers+text",
        text=["", name[-1]],
        textposition="top center",
        name=name,
        line={"color": colour, "width": 3},
        marker={"size": [0, 9]},
        showlegend=False,
        row=1,
        col=1,
    )
for index, length in enumerate(lengths.values()):
    query = length * torch.tensor([math.cos(angles[0]), math.sin(angles[0])])
    figure.add_scatter(
        x=[0, query[0].item()],
        y=[0, query[1].item()],
        mode="lines+markers",
        name="query",
        showlegend=False,
        line={"color": plots.GREY, "width": 4, "dash": "dot"},
        marker={"size": [0, 12], "symbol": "diamond"},
        visible=index == 0,
        row=1,
        col=1,
    )
    figure.add_bar(
        x=key_names,
        y=shares(query).tolist(),
        marker={"color": plots.COLOURS[:4]},
        showlegend=False,
        hovertemplate="%{x} gets %{y:.3f}<extra></extra>",
        visible=index == 0,
        row=1,
        col=2,
    )
steps = []
for angle in angles:
    queries = [length * torch.stack([angle.cos(), angle.sin()]) for length in lengths.values()]
    xs, ys = [], []
    for query in queries:
        xs += [[0, query[0].item()], key_names]
        ys += [[0, query[1].item()], shares(query).tolist()]
    steps.append(
        {"method": "restyle", "label": f"{math.degrees(angle):.0f}°", "args": [{"x": xs, "y": ys}, [4, 5, 6, 7]]}
    )
buttons = [
    {"method": "restyle", "label": name, "args": [{"visible": [i == 0, i == 0, i == 1, i == 1]}, [4, 5, 6, 7]]}
    for i, name in enumerate(lengths)
]
figure.update_layout(
    title="Four keys, one query, and the share that each key gets",
    height=460,
    sliders=[{"steps": steps, "currentvalue": {"prefix": "direction of the query: "}, "pad": {"t": 65}}],
    updatemenus=[{"type": "buttons", "direction": "right", "buttons": buttons, "x": 1, "xanchor": "right", "y": 1.14}],
)
figure.update_xaxes(title="first number", range=[-4.5, 4.5], row=1, col=1)
figure.update_yaxes(title="second number", range=[-4.5, 4.5], row=1, col=1)
figure.update_xaxes(title="key", row=1, col=2)
figure.update_yaxes(title="share", range=[0, 1], row=1, col=2)
figure.show()

# %% [markdown]
# <details><summary>What we see</summary>The direction of the query says <em>what</em> is looked for, its length how strictly. A
# longer query spreads the scores further apart, and softmax turns that into sharper shares.</details>
#
# ## Exercise 1 · `attention_scores`
#
# How well does each query agree with each key? Fill the fourth column of the table above, for all queries and all keys at
# once. One line is enough.
#
# *Difficulty 1 of 5 · 5 minutes · 2 points*


# %% exercise="attention_scores" difficulty=1 minutes=5 forbid=["scaled_dot_product_attention"]
def attention_scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The dot product of every query with every key, divided by the square root of d_k.

    Args:
        q: queries, float tensor of shape (..., T_q, d_k).
        k: keys, float tensor of shape (..., T_k, d_k). The leading axes of q and k broadcast, as in ``@``.

    Returns:
        Scores of shape (..., T_q, T_k) and q's dtype: a row for each query, a column for each key.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.1.
    """
    ### BEGIN SOLUTION
    d_k = q.shape[-1]
    return q @ k.transpose(-2, -1) / math.sqrt(d_k)  # (..., T_q, d_k) @ (..., d_k, T_k) -> (..., T_q, T_k)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>A matrix product takes dot products of the rows on its left with the <em>columns</em> on its
# right. The keys are rows.</details>
# <details><summary>A bigger nudge</summary>Turn the last two axes of the keys around, and leave the leading axes where they are.
# `d_k` is the length of one query: the last axis.</details>

# %% test="attention_scores" points=2
from coursekit import check
import torch

q = torch.tensor([[2.0, 0.0, 0.0, 2.0], [4.0, 0.0, 0.0, 4.0]])
k = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
scores = torch.tensor([[2.0, 0.0, 1.0], [4.0, 0.0, 2.0]])
check.close(attention_scores(q, k), scores, "the three keys of the table, for its query and for one twice as long")
check.close(
    attention_scores(torch.stack([q, -q]), torch.stack([k, 2 * k])),
    torch.stack([scores, -2 * scores]),
    "a batch of two: the same again, and with the queries turned round and the keys twice as long",
)
for d_k in (16, 1024):
    noise = torch.Generator().manual_seed(d_k)
    spread = attention_scores(torch.randn(50, d_k, generator=noise), torch.randn(60, d_k, generator=noise)).std().item()
    check.that(
        0.9 < spread < 1.1,
        f"scores of random vectors spread by about 1, whatever d_k is (here {d_k})",
        why=f"the standard deviation of your scores is {spread:.3f}",
        hint="A dot product of d_k random numbers grows with d_k. By what power?",
    )
### BEGIN HIDDEN TESTS
from torch import einsum

noise = torch.Generator().manual_seed(check.seed(11))


def random(*shape):
    return torch.randn(*shape, generator=noise, dtype=torch.float64)


def oracle(q, k):
    return einsum("...qd,...kd->...qk", q, k) * q.shape[-1] ** -0.5


for q, k, what in [
    (random(63, 60), random(41, 60), "63 queries and 41 keys of 60 numbers"),
    (random(7, 7), random(7, 7), "as many queries as keys as numbers in each"),
    (random(3, 5, 4), random(3, 6, 4), "a batch of 3"),
    (random(2, 3, 5, 4), random(2, 3, 1, 4), "a batch of 2 with 3 heads and one key"),
    (random(3, 1, 5, 4), random(2, 6, 4), "leading axes (3, 1) and (2,) broadcast to (3, 2)"),
    (random(4, 5).T, random(4, 6).T, "inputs that are transposed views"),
    (random(5, 1), random(6, 1), "d_k = 1"),
]:
    check.close(attention_scores(q.clone(), k.clone()), oracle(q, k), what, atol=1e-10, rtol=1e-10)
q, k = random(2, 5, 3), random(2, 4, 3)
check.close(attention_scores(q.float(), k.float()), oracle(q, k).float(), "float32 in, float32 out")
check.gradients(attention_scores, oracle, [q, k], "gradients reach the queries and the keys", atol=1e-9)
### END HIDDEN TESTS

# %% mistakes="attention_scores"
{
    "the scores are not divided by the square root of d_k": (" / math.sqrt(d_k)", ""),
    "the scores are divided by d_k itself, not by its square root": ("math.sqrt(d_k)", "d_k"),
    "the scores are multiplied by the square root of d_k": ("/ math.sqrt(d_k)", "* math.sqrt(d_k)"),
    "the scores are divided by the square root of the number of keys": ("math.sqrt(d_k)", "math.sqrt(k.shape[-2])"),
    "the scores are divided by the square root of the number of queries, not of the length of one": (
        "d_k = q.shape[-1]",
        "d_k = q.shape[-2]",
    ),
    "d_k is read from axis 1, counted from the front: that is the length of a query only where there is no batch": (
        "d_k = q.shape[-1]",
        "d_k = q.shape[1]",
    ),
    "queries and keys have changed places, so that rows stand for keys": (
        "q @ k.transpose(-2, -1)",
        "k @ q.transpose(-2, -1)",
    ),
    "the keys are turned around with .T, which turns all axes around, the leading ones too": (
        "k.transpose(-2, -1)",
        "k.T",
    ),
    "the first two axes of the keys are swapped, which are the last two only where there is no batch": (
        "k.transpose(-2, -1)",
        "k.transpose(0, 1)",
    ),
    "the keys are reshaped to (d_k, T_k) where they should be transposed: the shape is right, the numbers are shuffled": (
        "k.transpose(-2, -1)",
        "k.reshape(*k.shape[:-2], d_k, k.shape[-2])",
    ),
    "the cosine of the angle is computed, in which the lengths of query and key no longer count": [
        (" / math.sqrt(d_k)", ""),
        (
            "q @ k.transpose(-2, -1)",
            "(q / q.norm(dim=-1, keepdim=True)) @ (k / k.norm(dim=-1, keepdim=True)).transpose(-2, -1)",
        ),
    ],
    "every vector is first scaled to length 1 (cosine similarity), so that the length of a query no longer counts": (
        "q @ k.transpose(-2, -1)",
        "(q / q.norm(dim=-1, keepdim=True)) @ (k / k.norm(dim=-1, keepdim=True)).transpose(-2, -1)",
    ),
}


# %% alternative="attention_scores"
def attention_scores(q, k):
    """With einsum, in float64 inside, and with something printed."""
    print("shapes", q.shape, k.shape)
    return (torch.einsum("...qd,...kd->...qk", q.double(), k.double()) / q.size(-1) ** 0.5).to(q.dtype)


# %% [markdown]
# ## Exercise 2 · `softmax`
#
# Turn scores into shares: $\mathrm{softmax}(x)_i = e^{x_i} / \sum_j e^{x_j}$. That formula has a trap, because $e^{x}$ leaves the
# range of float32 before $x$ reaches 89. A correct one works for every score, and it also has an answer for a row in which
# *every* score is $-\infty$: a query that may look at nothing gets shares of zero. The values are the smaller half of that:
# the gradients must stay free of NaN, too. Write it from `exp`, sums and maxima; `torch.softmax` and `logsumexp` would do the
# work for you, and are not allowed.
#
# *Difficulty 2 of 5 · 15 minutes · 4 points*


# %% exercise="softmax" difficulty=2 minutes=15 forbid=["softmax", "log_softmax", "logsumexp", "Softmax"]
def softmax(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Shares along one axis: ``exp(x)`` divided by its sum, computed so that nothing overflows.

    Args:
        x: float tensor of any shape with at least one axis. Entries are finite or -inf; the axis is not empty.
        dim: the axis along which the shares sum to one.

    Returns:
        Tensor of x's shape and dtype. A slice along ``dim`` sums to one, and adding a constant to it changes nothing.
        An entry of -inf gets exactly 0. A slice of nothing but -inf gets zeros, and gradients of zero: no NaN anywhere.
    """
    ### BEGIN SOLUTION
    # Subtracting the largest entry changes no share, and no exponent is above 0. Where the largest is -inf itself,
    # -inf - (-inf) would be NaN: the lowest finite number does the same job there.
    largest = x.amax(dim=dim, keepdim=True).clamp(min=torch.finfo(x.dtype).min)
    exponentials = torch.exp(x - largest)
    # The largest entry contributes exp(0) = 1, so only a slice of nothing but -inf has a sum below 1.
    return exponentials / exponentials.sum(dim=dim, keepdim=True).clamp(min=1)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Work out by hand what happens to the shares when 100 is subtracted from every entry. Then ask
# which number would be the most useful one to subtract, and along which axis it must be found.</details>
# <details><summary>A bigger nudge</summary>For a row of nothing but -inf two lines go wrong: -inf - (-inf), and 0 / 0. Keep each of
# them from happening. Do not repair the NaN afterwards: it comes back in the gradient, where 0 times NaN is NaN.</details>

# %% test="softmax" points=2
from coursekit import check
import torch

check.close(
    softmax(torch.tensor([2.0, 0.0, 1.0])),
    torch.tensor([0.665241, 0.090031, 0.244728]),
    "the shares in the table above",
)
check.close(
    softmax(torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 2.0]]), dim=0),
    torch.tensor([[0.5, 0.880797, 0.268941], [0.5, 0.119203, 0.731059]]),
    "dim=0: each column sums to one",
)
large = torch.tensor([[10000.0, 9999.0], [-9999.0, -10000.0]])
check.close(
    softmax(large),
    torch.tensor([[0.731059, 0.268941], [0.731059, 0.268941]]),
    "scores of 10,000 and of -10,000, side by side",
)
### BEGIN HIDDEN TESTS
noise = torch.Generator().manual_seed(check.seed(21))
x = 3 * torch.randn(3, 5, 7, generator=noise, dtype=torch.float64)
for dim in (0, 1, 2, -1, -2):
    check.close(softmax(x.clone(), dim=dim), torch.softmax(x, dim), f"three axes, dim={dim}", atol=1e-8, rtol=1e-8)
check.close(softmax(x.clone()), torch.softmax(x, -1), "dim is the last axis when it is not given", atol=1e-8, rtol=1e-8)
check.close(softmax(x.clone() + 1e4, dim=1), torch.softmax(x, 1), "adding 10,000 changes nothing", atol=1e-8, rtol=1e-8)
check.close(
    softmax(x.clone() - 1e4, dim=1), torch.softmax(x, 1), "subtracting 10,000 changes nothing", atol=1e-8, rtol=1e-8
)
single = x.float()
check.close(softmax(single.clone(), dim=0), torch.softmax(single, 0), "float32 in, float32 out", atol=1e-6)
check.close(softmax(x[0].T, dim=0), torch.softmax(x[0].T, 0), "a transposed view", atol=1e-8, rtol=1e-8)
extreme = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, 1.0, 88.0], [1e4, 1e4, -1e4]])
for dim in (0, 1):
    check.close(
        softmax(extreme.clone(), dim=dim), torch.softmax(extreme, dim), f"scores between -10,000 and 10,000, dim={dim}"
    )
check.close(softmax(torch.tensor([[-700.0], [3.0]])), torch.ones(2, 1), "one entry alone gets everything")
check.gradients(lambda x: softmax(x, dim=1), lambda x: torch.softmax(x, 1), [x], "gradients", atol=1e-8)
### END HIDDEN TESTS

# %% test="softmax" points=2
from coursekit import check
import torch

inf = float("inf")
check.close(
    softmax(torch.tensor([0.0, -inf, 0.0])), torch.tensor([0.5, 0.0, 0.5]), "an entry of -inf gets a share of 0"
)
check.close(softmax(torch.full((2, 3), -inf)), torch.zeros(2, 3), "a row of nothing but -inf gets zeros")
check.gradients(
    softmax,
    lambda x: torch.cat([0 * x[:1].clamp(min=0), torch.softmax(x[1:], -1)]),
    [torch.tensor([[-inf, -inf, -inf], [0.0, 1.0, 2.0]])],
    "a row of nothing but -inf has a gradient of zero, and the row beside it its usual one",
)
### BEGIN HIDDEN TESTS
x = 3 * torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(check.seed(22)), dtype=torch.float64)
x[0, 0, 2] = x[1, :4, 3] = -inf
x[2, 3, :] = x[:, 4, 5] = x[1, 0, :5] = -inf


def oracle(x, dim):
    dead = (x == -inf).all(dim=dim, keepdim=True)
    return torch.softmax(x.masked_fill(dead, 0.0), dim).masked_fill(dead, 0.0)


for dim in (0, 1, 2):
    got = softmax(x.clone(), dim=dim)
    check.close(got, oracle(x, dim), f"some entries and some whole slices are -inf, dim={dim}", atol=1e-8, rtol=1e-8)
    check.equal(got[x == -inf], torch.zeros(int((x == -inf).sum()), dtype=x.dtype), "a share of -inf is 0 exactly")
    check.gradients(
        lambda x, dim=dim: softmax(x, dim=dim),
        lambda x, dim=dim: oracle(x, dim),
        [x],
        f"gradients where some entries and some whole slices are -inf, dim={dim}",
        atol=1e-8,
    )
low = torch.tensor([[-1e4, -inf, -1e4], [-inf, -inf, -inf], [1e4, -inf, 1e4 - 1]])
check.close(
    softmax(low.clone()), oracle(low, -1), "-10,000 beside -inf, and a row of -inf between rows of large scores"
)
check.gradients(softmax, lambda x: oracle(x, -1), [low], "gradients of -10,000 beside -inf")
### END HIDDEN TESTS

# %% mistakes="softmax"
{
    "a slice of nothing but -inf ends in -inf - (-inf) or in 0 / 0, which are NaN": (
        ".clamp(min=torch.finfo(x.dtype).min)",
        "",
    ),
    "nothing is subtracted before the exponential, so that large scores overflow": [
        ("torch.exp(x - largest)", "torch.exp(x)"),
        (".clamp(min=1)", ""),
    ],
    "nothing is subtracted before the exponential: a guard on the sum hides what becomes 0, not what overflows": [
        ("torch.exp(x - largest)", "torch.exp(x)"),
        (".clamp(min=1)", ".clamp(min=torch.finfo(x.dtype).tiny)"),
    ],
    "the largest entry of the whole tensor is subtracted, not the largest along dim, and rows far below it become 0 / 0": [
        ("x.amax(dim=dim, keepdim=True).clamp(min=torch.finfo(x.dtype).min)", "x.amax()"),
        (".clamp(min=1)", ""),
    ],
    "the largest entry of the whole tensor is subtracted, not the largest along dim": [
        ("x.amax(dim=dim, keepdim=True)", "x.amax()"),
        (".clamp(min=1)", ".clamp(min=torch.finfo(x.dtype).tiny)"),
    ],
    "keepdim=True is missing, so that a slice meets the largest entry and the sum of another one": [
        (", keepdim=True).clamp(min=torch.finfo(x.dtype).min)", ")"),
        (", keepdim=True).clamp(min=1)", ")"),
    ],
    "the largest entry is found along dim, but the sum is taken along the last axis": [
        ("exponentials.sum(dim=dim", "exponentials.sum(dim=-1"),
        (".clamp(min=1)", ".clamp(min=torch.finfo(x.dtype).tiny)"),
    ],
    "the largest absolute value is subtracted, so that rows of very negative scores vanish": (
        "x.amax(",
        "x.abs().amax(",
    ),
    "the mean is subtracted, which leaves exponents that can still overflow": [
        ("x.amax(dim=dim, keepdim=True).clamp(min=torch.finfo(x.dtype).min)", "x.mean(dim=dim, keepdim=True)"),
        (".clamp(min=1)", ""),
    ],
    "a small number is added to the sum, so that the shares add up to a little less than one": (
        "exponentials.sum(dim=dim, keepdim=True).clamp(min=1)",
        "(exponentials.sum(dim=dim, keepdim=True) + 1e-6)",
    ),
    "the exponentials are divided by the sum over the whole tensor, not along dim": (
        "exponentials.sum(dim=dim, keepdim=True)",
        "exponentials.sum()",
    ),
    "dim is ignored and the shares run along the last axis": ("dim=dim", "dim=-1", "all"),
    "the exponentials are never divided by their sum": (
        "exponentials / exponentials.sum(dim=dim, keepdim=True).clamp(min=1)",
        "exponentials",
    ),
    "only a tensor of nothing but -inf is put aside, not a single slice of it": [
        (
            "largest = x.amax(dim=dim, keepdim=True).clamp(min=torch.finfo(x.dtype).min)",
            "if bool((x == -torch.inf).all()):\n        return torch.zeros_like(x)\n    largest = x.amax(dim=dim, keepdim=True)",
        ),
        (".clamp(min=1)", ""),
    ],
    "x is changed in place: the caller's scores are overwritten, and autograd refuses it": (
        "torch.exp(x - largest)",
        "torch.exp(x.sub_(largest))",
    ),
    "NaN is replaced by 0 at the end: the values are right, the gradients are still NaN": [
        (".clamp(min=torch.finfo(x.dtype).min)", ""),
        (
            "exponentials / exponentials.sum(dim=dim, keepdim=True).clamp(min=1)",
            "torch.nan_to_num(exponentials / exponentials.sum(dim=dim, keepdim=True))",
        ),
    ],
    "-inf is replaced by a large negative number, so that a slice of nothing but -inf shares evenly": (
        "largest = x.amax(",
        "x = x.clamp(min=-1e9)\n    largest = x.amax(",
    ),
}


# %% alternative="softmax"
def softmax(x, dim=-1):
    """The dead slices are found first and put aside."""
    dead = (x == float("-inf")).all(dim=dim, keepdim=True)
    safe = torch.where(dead, torch.zeros_like(x), x)
    e = (safe - safe.max(dim=dim, keepdim=True).values.detach()).exp()
    return torch.where(dead, torch.zeros_like(x), e / e.sum(dim=dim, keepdim=True))


# %% alternative="softmax"
def softmax(x, dim=-1):
    """In float64, axis moved to the end, a tiny number in the denominator."""
    moved = x.double().movedim(dim, -1)
    largest = moved.max(-1, keepdim=True).values
    largest = torch.where(torch.isinf(largest), torch.zeros_like(largest), largest)
    e = torch.exp(moved - largest)
    return (e / (e.sum(-1, keepdim=True) + 1e-12)).movedim(-1, dim).to(x.dtype)


# %% [markdown]
# ## Exercise 3 · `attention`
#
# Put the two together and take the mean of the values, weighted by the shares; from here on the shares are called *weights*.
# Return them too: they can be read like a table, and most pictures of this chapter are drawn from them. A mask says who may
# look where. Build on your own two functions. PyTorch's `scaled_dot_product_attention` is what you are compared with, so it is
# not allowed here.
#
# *Difficulty 3 of 5 · 15 minutes · 5 points*


# %% exercise="attention" difficulty=3 minutes=15 forbid=["scaled_dot_product_attention", "MultiheadAttention", "softmax", "Softmax"]
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every query gets the mean of the values, weighted by how well each key agrees with it.

    Args:
        q: queries, (..., T_q, d_k).
        k: keys, (..., T_k, d_k).
        v: values, (..., T_k, d_v).
        mask: bool, of a shape that broadcasts to (..., T_q, T_k). True means that this query may look at this key.
            A key that may not be looked at counts as if it were not there, however high its score. None: all may.

    Returns:
        ``(output, weights)`` of shapes (..., T_q, d_v) and (..., T_q, T_k), of q's dtype. Each row of the weights sums
        to one; a query that may look at nothing has weights of zero and an output of zero. Gradients flow through both
        results and are never NaN.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.1.
    """
    ### BEGIN SOLUTION
    scores = attention_scores(q, k)  # (..., T_q, T_k)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = softmax(scores, dim=-1)  # (..., T_q, T_k)
    return weights @ v, weights  # (..., T_q, T_k) @ (..., T_k, d_v) -> (..., T_q, d_v)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>The shares of one query must sum to one. Which axis of the scores holds the scores of one
# query?</details>
# <details><summary>A bigger nudge</summary>A forbidden key must not take part in the sum that everything is divided by. So it has to
# be gone <em>before</em> the softmax. Which score has an exponential of exactly 0?</details>

# %% test="attention" points=2
from coursekit import check
import torch

q = torch.tensor([[2.0, 0.0, 0.0, 2.0]])
k = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
v = torch.tensor([[10.0, 1.0], [50.0, 0.0], [30.0, 0.0]])  # the values of the table, and a second column: d_v = 2
wanted = torch.tensor([[18.495792, 0.665241]]), torch.tensor([[0.665241, 0.090031, 0.244728]])
check.close(attention(q, k, v), wanted, "output and weights of the table at the top: about 18.5, and the shares")
eye = torch.eye(2)
for v in (torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([[1.0], [0.0]])):
    # A query of (20, 0) scores 14.1 with the first key and 0 with the second, (0, 20) the other way round.
    check.close(
        attention(20 * eye, eye, v)[0], v, "a query that fits one key alone gets that key's value back", atol=1e-4
    )
### BEGIN HIDDEN TESTS
import torch.nn.functional as F

noise = torch.Generator().manual_seed(check.seed(31))


def random(*shape):
    return torch.randn(*shape, generator=noise, dtype=torch.float64)


def oracle(q, k, v):
    # The weights are what attention gives back when the values are the rows of an identity matrix.
    eye = torch.eye(k.shape[-2], dtype=k.dtype).expand(*k.shape[:-1], k.shape[-2])
    return F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k, eye)


for lead, T_q, T_k, d_k, d_v, what in [
    ((), 63, 41, 60, 13, "63 queries, 41 keys, d_k = 60, d_v = 13"),
    ((3,), 5, 5, 5, 5, "a batch of 3, and every other axis of length 5"),
    ((2, 3), 4, 7, 6, 2, "a batch of 2 with 3 heads"),
    ((1,), 1, 1, 3, 2, "one query and one key"),
]:
    q, k, v = 2 * random(*lead, T_q, d_k), 2 * random(*lead, T_k, d_k), random(*lead, T_k, d_v)
    check.close(attention(q.clone(), k.clone(), v.clone()), oracle(q, k, v), what, atol=1e-7, rtol=1e-7)
q, k, v = random(2, 5, 3), random(2, 4, 3), random(2, 4, 6)
check.close(attention(q.float(), k.float(), v.float()), [t.float() for t in oracle(q, k, v)], "float32 in, float32 out")
check.gradients(attention, oracle, [q, k, v], "gradients reach queries, keys and values", atol=1e-7)
order = torch.tensor([2, 0, 3, 1])
check.close(
    attention(q, k[:, order], v[:, order])[0],
    attention(q, k, v)[0],
    "the order of the entries does not matter",
    atol=1e-7,
)
### END HIDDEN TESTS

# %% test="attention" points=3
from coursekit import check
import torch

q = torch.tensor([[2.0, 0.0, 0.0, 2.0]])
k = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
v = torch.tensor([[10.0], [50.0], [30.0]])
wanted = torch.tensor([[35.378828]]), torch.tensor([[0.0, 0.268941, 0.731059]])
check.close(
    attention(q, k, v, torch.tensor([[False, True, True]])),
    wanted,
    "the first key is masked: the others share everything",
)
wanted = torch.zeros(1, 1), torch.zeros(1, 3)
check.close(
    attention(q, k, v, torch.tensor([[False, False, False]])), wanted, "a query that may look at nothing gets zeros"
)
### BEGIN HIDDEN TESTS
import torch.nn.functional as F

noise = torch.Generator().manual_seed(check.seed(32))


def random(*shape):
    return torch.randn(*shape, generator=noise, dtype=torch.float64)


def oracle(q, k, v, mask):
    mask = mask.expand(*q.shape[:-1], k.shape[-2])
    dead = ~mask.any(dim=-1, keepdim=True)
    eye = torch.eye(k.shape[-2], dtype=k.dtype).expand(*k.shape[:-1], k.shape[-2])
    return tuple(
        F.scaled_dot_product_attention(q, k, x, attn_mask=mask | dead).masked_fill(dead, 0.0) for x in (v, eye)
    )


q, k, v = random(2, 3, 5, 4), random(2, 3, 7, 4), random(2, 3, 7, 6)
for shape in [(5, 7), (7,), (2, 1, 1, 7), (1, 3, 5, 1), (2, 3, 5, 7)]:
    mask = torch.rand(shape, generator=noise) < 0.6
    wanted = oracle(q, k, v, mask)
    check.close(attention(q, k, v, mask.clone()), wanted, f"a random mask of shape {shape}", atol=1e-7, rtol=1e-7)
everything = torch.ones(5, 7, dtype=torch.bool)
check.close(attention(q, k, v, everything), oracle(q, k, v, everything), "a mask that allows everything", atol=1e-7)
mask = torch.rand(5, 7, generator=noise) < 0.6
mask[2], mask[3] = False, torch.arange(7) == 4
check.gradients(
    lambda q, k, v: attention(q, k, v, mask),
    lambda q, k, v: oracle(q, k, v, mask),
    [q, k, v],
    "gradients with a mask, with one query that may look at nothing and one that may look at one key",
    atol=1e-7,
)
square = [random(3, 6, 6) for _ in range(3)]
mask = torch.rand(6, 6, generator=noise) < 0.5
check.close(
    attention(*square, mask),
    oracle(*square, mask),
    "as many queries as keys, and a mask that is not symmetric",
    atol=1e-7,
)
# One masked key has by far the highest score of all, and a value to match.
q, k, v = (x[0, 0].float() for x in (random(1, 1, 5, 4), random(1, 1, 7, 4), random(1, 1, 7, 6)))
q[:, 0], k[3], v[3] = q[:, 0].abs() + 1, torch.tensor([2e4, 0.0, 0.0, 0.0]), 1e4
allowed = torch.tensor([0, 1, 2, 4, 5, 6])
mask = torch.ones(5, 7, dtype=torch.bool)
mask[:, 3] = False
output, weights = attention(q, k, v, mask)
check.close(output, F.scaled_dot_product_attention(q, k[allowed], v[allowed]), "a masked key with a score above 10,000")
check.equal(weights[:, 3], torch.zeros(5), "a masked key with a score above 10,000 has a weight of 0 exactly")
### END HIDDEN TESTS

# %% mistakes="attention"
{
    "the mask is read the wrong way round: True keeps a key out": ("~mask", "mask"),
    "the mask is applied after the softmax, so that the weights no longer sum to one": (
        '    if mask is not None:\n        scores = scores.masked_fill(~mask, float("-inf"))\n    weights = softmax(scores, dim=-1)',
        "    weights = softmax(scores, dim=-1)\n    if mask is not None:\n        weights = weights.masked_fill(~mask, 0.0)",
    ),
    "the mask is applied after the softmax and the rest is scaled up again, which fails when a masked score was far above the others": (
        '    if mask is not None:\n        scores = scores.masked_fill(~mask, float("-inf"))\n    weights = softmax(scores, dim=-1)',
        "    weights = softmax(scores, dim=-1)\n    if mask is not None:\n        weights = weights.masked_fill(~mask, 0.0)\n"
        "        weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)",
    ),
    "a query that may look at nothing ends in 0 / 0 or in -inf - (-inf): in your softmax, or because the mask comes after it": (
        '    if mask is not None:\n        scores = scores.masked_fill(~mask, float("-inf"))\n    weights = softmax(scores, dim=-1)',
        "    weights = softmax(scores, dim=-1)\n    if mask is not None:\n        weights = weights.masked_fill(~mask, 0.0)\n"
        "        weights = weights / weights.sum(dim=-1, keepdim=True)",
    ),
    "a masked row turns to NaN: the mask is multiplied by -inf, and 0 times -inf is NaN, or your softmax meets -inf - (-inf)": (
        'scores.masked_fill(~mask, float("-inf"))',
        'scores + ~mask * float("-inf")',
    ),
    "the mask is added to the scores, as ones and zeros": ('scores.masked_fill(~mask, float("-inf"))', "scores + mask"),
    "the mask is used as an index, which does not broadcast: it must have the shape of the scores for that": (
        'scores = scores.masked_fill(~mask, float("-inf"))',
        'scores[~mask] = float("-inf")',
    ),
    "Python is asked whether the mask is true, which a tensor cannot answer; `mask is not None` is what you want to know": (
        "if mask is not None:",
        "if mask:",
    ),
    "masked scores are set to 0, which is a score like any other": ('float("-inf")', "0.0"),
    "masked scores are set to a large negative number, so that a query that may look at nothing gets the mean of all values": (
        'float("-inf")',
        "-1e9",
    ),
    "the mask is never used": ("mask is not None", "False"),
    "softmax runs over the queries, not over the keys": ("dim=-1", "dim=-2"),
    "softmax runs over axis 1, counted from the front: those are the keys only where there is no batch": (
        "dim=-1",
        "dim=1",
    ),
    "the scores are scaled by the square root of d_v, not of d_k": (
        "attention_scores(q, k)",
        "q @ k.transpose(-2, -1) / math.sqrt(v.shape[-1])",
    ),
    "the scores are divided by d_k: attention_scores does that, or its scores are scaled a second time": (
        "attention_scores(q, k)",
        "attention_scores(q, k) / math.sqrt(q.shape[-1])",
    ),
    "the scores are not scaled at all": ("attention_scores(q, k)", "q @ k.transpose(-2, -1)"),
    "output and weights have changed places": ("weights @ v, weights", "weights, weights @ v"),
    "the scores are returned where the weights should be": ("weights @ v, weights", "weights @ v, scores"),
    "the values are weighted by the scores, without the softmax": ("weights @ v", "scores @ v"),
}


# %% alternative="attention"
def attention(q, k, v, mask=None):
    """With einsum, torch.where and a softmax of its own."""
    logits = torch.einsum("...qd,...kd->...qk", q, k) * q.shape[-1] ** -0.5
    if mask is None:
        mask = torch.ones_like(logits, dtype=torch.bool)
    logits = torch.where(mask, logits, torch.full_like(logits, -torch.inf))
    top = logits.max(dim=-1, keepdim=True).values
    e = torch.where(
        mask, torch.exp(logits - torch.where(top.isinf(), torch.zeros_like(top), top)), torch.zeros_like(logits)
    )
    total = e.sum(dim=-1, keepdim=True)
    weights = e / torch.where(total == 0, torch.ones_like(total), total)
    return torch.einsum("...qk,...kd->...qd", weights, v), weights


# %% alternative="attention"
def attention(q, k, v, mask=None):
    """A query at a time; returns a list."""
    scores = attention_scores(q, k)
    if mask is not None:
        scores = scores + torch.zeros_like(scores).masked_fill(mask.logical_not(), -float("inf"))
    rows = [softmax(scores[..., i, :]) for i in range(scores.shape[-2])]
    outputs = [(row.unsqueeze(-1) * v).sum(dim=-2) for row in rows]
    return [torch.stack(outputs, dim=-2), torch.stack(rows, dim=-2)]


# %% [markdown]
# ## Exercise 4 · `self_attention`
#
# Where do queries, keys and values come from? In *self*-attention from the same sequence `x`, through three learned
# matrices: one for what a position looks for, one for what it is found by, one for what it gives. A text that is written
# from left to right adds a rule: with `causal=True`, a position sees itself and what came before.
#
# *Difficulty 3 of 5 · 10 minutes · 4 points*


# %% exercise="self_attention" difficulty=3 minutes=10 forbid=["scaled_dot_product_attention", "MultiheadAttention", "Linear", "softmax", "Softmax"]
def self_attention(
    x: torch.Tensor, w_q: torch.Tensor, w_k: torch.Tensor, w_v: torch.Tensor, causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """A sequence looks things up in itself.

    Args:
        x: (..., T, d_model), one row for each position.
        w_q, w_k: (d_model, d_k). The queries are ``x @ w_q``, the keys ``x @ w_k``.
        w_v: (d_model, d_v). The values are ``x @ w_v``.
        causal: if True, position t sees the positions 0 to t, itself included, and no later one.

    Returns:
        ``(output, weights)`` of shapes (..., T, d_v) and (..., T, T), as `attention` returns them.
    """
    ### BEGIN SOLUTION
    q, k, v = x @ w_q, x @ w_k, x @ w_v  # (..., T, d_k), (..., T, d_k), (..., T, d_v)
    mask = None
    if causal:
        T = x.shape[-2]
        mask = torch.ones((T, T), dtype=torch.bool, device=x.device).tril()  # row t: True up to and including column t
    return attention(q, k, v, mask)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Three matrix products and one call. The causal mask for T = 3 has 6 entries that are True: draw
# it, rows for queries, columns for keys.</details>
# <details><summary>A bigger nudge</summary>PyTorch can cut a triangle out of a matrix of ones. Check with your drawing which
# triangle, and whether the diagonal belongs to it. `T` is the last axis but one: count from the end, as there may be any
# number of axes in front.</details>

# %% test="self_attention" points=2
from coursekit import check
import torch

x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
w_q, w_k, w_v = torch.eye(2), torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
# Keys (0, 2), (1, 0), (1, 2); values (1, 2), (3, 4), (4, 6); before the division position 1 scores 2, 0 and 2.
weights = torch.tensor([[0.197776, 0.401112, 0.401112], [0.445808, 0.108383, 0.445808], [0.283995, 0.140029, 0.575975]])
output = torch.tensor([[3.005560, 4.406672], [2.554192, 4.000000], [3.007985, 4.583960]])
check.close(self_attention(x, w_q, w_k, w_v), (output, weights), "three positions of two numbers", atol=1e-4)
### BEGIN HIDDEN TESTS
import torch.nn.functional as F

noise = torch.Generator().manual_seed(check.seed(41))


def random(*shape):
    return torch.randn(*shape, generator=noise, dtype=torch.float64)


def oracle(x, w_q, w_k, w_v):
    # F.linear takes its matrix the other way round.
    q, k, v = (F.linear(x, w.T) for w in (w_q, w_k, w_v))
    eye = torch.eye(x.shape[-2], dtype=x.dtype).expand(*x.shape[:-1], x.shape[-2])
    return F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k, eye)


for lead, T, d_model, d_k, d_v, what in [
    ((), 6, 6, 6, 6, "every axis of length 6"),
    ((3,), 63, 10, 6, 7, "a batch of 3, T = 63, d_model = 10, d_k = 6, d_v = 7"),
    ((2, 3), 1, 5, 4, 2, "two leading axes and a single position"),
]:
    x, w_q, w_k, w_v = random(*lead, T, d_model), random(d_model, d_k), random(d_model, d_k), random(d_model, d_v)
    check.close(self_attention(x, w_q, w_k, w_v), oracle(x, w_q, w_k, w_v), what, atol=1e-7, rtol=1e-7)
x, w_q, w_k, w_v = random(2, 5, 4), random(4, 3), random(4, 3), random(4, 6)
check.gradients(self_attention, oracle, [x, w_q, w_k, w_v], "gradients reach x and all three matrices", atol=1e-7)
order = torch.tensor([3, 0, 4, 1, 2])
check.close(
    self_attention(x[:, order], w_q, w_k, w_v)[0],
    self_attention(x, w_q, w_k, w_v)[0][:, order],
    "without a mask, shuffling the positions shuffles the answers and changes nothing else",
    atol=1e-7,
)
### END HIDDEN TESTS

# %% test="self_attention" points=2
from coursekit import check
import torch

# All positions are alike, so that each of them shares evenly among those that it sees.
half = torch.full((2, 1), 0.5)
triangle = torch.tensor([[1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0], [1 / 4, 1 / 4, 1 / 4, 1 / 4]])
check.close(
    self_attention(torch.ones(4, 2), half, half, half, causal=True),
    (torch.ones(4, 1), triangle),
    "four equal positions, causal: row t has t + 1 equal shares",
)
### BEGIN HIDDEN TESTS
import torch.nn.functional as F

noise = torch.Generator().manual_seed(check.seed(42))


def random(*shape):
    return torch.randn(*shape, generator=noise, dtype=torch.float64)


def oracle(x, w_q, w_k, w_v):
    q, k, v = (F.linear(x, w.T) for w in (w_q, w_k, w_v))
    eye = torch.eye(x.shape[-2], dtype=x.dtype).expand(*x.shape[:-1], x.shape[-2])
    return tuple(F.scaled_dot_product_attention(q, k, values, is_causal=True) for values in (v, eye))


for lead, T, d_model, d_k, d_v, what in [
    ((), 6, 6, 6, 6, "causal, every axis of length 6"),
    ((3,), 63, 10, 6, 7, "causal, a batch of 3, T = 63"),
    ((2, 3), 5, 4, 3, 2, "causal, two leading axes"),
    ((2,), 1, 4, 3, 2, "causal, a single position"),
]:
    x, w_q, w_k, w_v = random(*lead, T, d_model), random(d_model, d_k), random(d_model, d_k), random(d_model, d_v)
    check.close(self_attention(x, w_q, w_k, w_v, causal=True), oracle(x, w_q, w_k, w_v), what, atol=1e-7, rtol=1e-7)
x, w_q, w_k, w_v = random(2, 5, 4), random(4, 3), random(4, 3), random(4, 6)
before = self_attention(x, w_q, w_k, w_v, causal=True)[0]
changed = x.clone()
changed[:, 3:] = 10_000 * random(2, 2, 4)
after = self_attention(changed, w_q, w_k, w_v, causal=True)[0]
check.close(after[:, :3], before[:, :3], "changing positions 3 and 4 changes no answer before position 3", atol=1e-9)
check.gradients(
    lambda *inputs: self_attention(*inputs, causal=True), oracle, [x, w_q, w_k, w_v], "gradients, causal", atol=1e-7
)
### END HIDDEN TESTS

# %% mistakes="self_attention"
{
    "a position can also see the one after it: the triangle starts one column too far to the right": (
        ".tril()",
        ".tril(1)",
    ),
    "a position cannot see itself: the diagonal is missing from the triangle": (".tril()", ".tril(-1)"),
    "the triangle is the wrong one: each position sees the future and not the past": (".tril()", ".triu()"),
    "the mask marks what is forbidden, and attention takes it for what is allowed": (".tril()", ".triu(1)"),
    "causal has no effect": ("if causal:", "if False:"),
    "every call is causal, also one with causal=False": ("if causal:", "if True:"),
    "the triangle is cut out of the weights, after the softmax, so that the rows no longer sum to one": (
        "return attention(q, k, v, mask)",
        "weights = attention(q, k, v)[1]\n    weights = weights if mask is None else weights * mask\n    return weights @ v, weights",
    ),
    "T is read from the first axis, which is the batch where there is one": ("T = x.shape[-2]", "T = x.shape[0]"),
    "T is read from the last axis, which holds d_model": ("T = x.shape[-2]", "T = x.shape[-1]"),
    "the keys are made with w_q, and w_k is never used": ("q, k, v = x @ w_q, x @ w_k,", "q, k, v = x @ w_q, x @ w_q,"),
    "queries and keys have changed places": ("attention(q, k, v, mask)", "attention(k, q, v, mask)"),
    "keys and values have changed places": ("x @ w_k, x @ w_v", "x @ w_v, x @ w_k"),
    "the matrices are applied the other way round, as nn.Linear stores them": (
        "x @ w_q, x @ w_k, x @ w_v",
        "x @ w_q.T, x @ w_k.T, x @ w_v.T",
    ),
    "the values are x itself, and w_v is never used": ("x @ w_k, x @ w_v", "x @ w_k, x"),
    "only the output is returned, without the weights": ("attention(q, k, v, mask)", "attention(q, k, v, mask)[0]"),
}


# %% alternative="self_attention"
def self_attention(x, w_q, w_k, w_v, causal=False):
    """The mask by comparing positions, always given."""
    t = torch.arange(x.size(-2))
    mask = (t[:, None] >= t[None, :]) if causal else torch.ones(len(t), len(t), dtype=torch.bool)
    return attention(torch.matmul(x, w_q), torch.matmul(x, w_k), torch.matmul(x, w_v), mask=mask)


# %% [markdown]
# ## Exercise 5 · `attention_cost`
#
# Every position looks at every position, and that is the price. Write it down before you pay it: how many floating-point
# operations does your `self_attention` do, and how many bytes do its attention weights take? You will come back to these four
# lines in the chapters on inference and on kernels. The tests compare you with PyTorch's own counter.
#
# *Difficulty 3 of 5 · 10 minutes · 3 points*


# %% exercise="attention_cost" difficulty=3 minutes=10 forbid=["FlopCounterMode"]
def attention_cost(T: int, d: int, batch: int = 1, bytes_per_value: int = 4) -> dict[str, int]:
    """What self-attention costs for ``batch`` sequences of T positions, where d_model = d_k = d_v = d.

    A product of an (a, b) and a (b, c) matrix costs 2·a·b·c floating-point operations: each of its a·c results takes b
    multiplications and b additions. Only these products are counted. The division by the square root of d, the mask and
    the softmax are left out, as they take few operations beside them. A causal mask saves nothing here: all T·T scores
    are computed, and almost half of them are thrown away. Of the memory, only q, k, v and the attention weights are
    counted: not x, not the matrices w_q, w_k and w_v, not the output, and nothing that is kept for the backward pass.

    Args:
        T: positions in each sequence.
        d: numbers in each row of x, q, k and v.
        batch: number of sequences; each has attention weights of its own, and no sequence looks at another.
        bytes_per_value: 4 for float32, 2 for bfloat16.

    Returns:
        A dict of four whole numbers, each for the whole batch:
        ``projection_flops``: the three products that make q, k and v out of x;
        ``attention_flops``: the two products inside `attention`;
        ``qkv_bytes``: the memory of q, k and v together;
        ``weights_bytes``: the memory of the attention weights, the second result of `attention`.
    """
    ### BEGIN SOLUTION
    return {
        "projection_flops": 3 * 2 * batch * T * d * d,  # three times (T, d) @ (d, d)
        "attention_flops": 2 * 2 * batch * T * T * d,  # (T, d) @ (d, T), then (T, T) @ (T, d)
        "qkv_bytes": 3 * batch * T * d * bytes_per_value,
        "weights_bytes": batch * T * T * bytes_per_value,
    }
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write the shapes of the five matrix products under each other, then use the rule in the docstring
# five times.</details>
# <details><summary>A bigger nudge</summary>Take T = 2, d = 3 and one sequence. The product of q, (2, 3), and the transposed keys,
# (3, 2), has 4 results of 3 multiplications and 3 additions each: 24. The second product also takes 24.</details>

# %% test="attention_cost" points=2
from coursekit import check

names = ["attention_flops", "projection_flops", "qkv_bytes", "weights_bytes"]
check.equal(
    sorted(attention_cost(T=2, d=3)),
    names,
    "a dict of the four names in the docstring, in any order",
    hint="Return a dict with these four keys, spelt like this, and no other.",
)
check.equal(attention_cost(T=2, d=3)["attention_flops"], 48, "T = 2, d = 3: 24 operations for each of the two products")
check.equal(
    attention_cost(T=2, d=3)["projection_flops"], 108, "T = 2, d = 3: 36 operations for each of the three projections"
)
check.equal(attention_cost(T=2, d=3)["weights_bytes"], 16, "T = 2, float32: 2 x 2 weights of 4 bytes")
check.equal(attention_cost(T=2, d=3)["qkv_bytes"], 72, "T = 2, d = 3, float32: 3 times 2 x 3 numbers of 4 bytes")
one, two = attention_cost(T=512, d=64), attention_cost(T=1024, d=64)
check.equal(two["attention_flops"] / one["attention_flops"], 4.0, "twice as long, four times the work inside attention")
check.equal(two["projection_flops"] / one["projection_flops"], 2.0, "twice as long, twice the work for the projections")
### BEGIN HIDDEN TESTS
import torch

dtypes = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}
for T, d, batch, width in [(7, 5, 1, 4), (5, 7, 3, 2), (63, 60, 2, 8), (1, 1, 1, 4), (16, 16, 5, 4)]:
    x = torch.empty(batch, T, d, dtype=dtypes[width])
    cost = attention_cost(T, d, batch, width)
    what = f"T={T}, d={d}, batch={batch}, {width} bytes a number"
    check.equal(cost["weights_bytes"], (x @ x.transpose(1, 2)).nbytes, f"the bytes of the weights: {what}")
    check.equal(cost["qkv_bytes"], 3 * x.nbytes, f"the bytes of q, k and v: {what}")
five = attention_cost(9, 4, batch=5)
for name, value in attention_cost(9, 4).items():
    check.equal(five[name], 5 * value, f"five sequences cost five times as much as one: {name}")
### END HIDDEN TESTS

# %% test="attention_cost" points=1
from coursekit import check
import torch
from torch.utils.flop_counter import FlopCounterMode  # PyTorch counts the operations of what runs inside it

for T, d, batch in [(6, 4, 1), (63, 60, 3), (5, 40, 2)]:
    x = torch.zeros(batch, T, d)
    with FlopCounterMode(display=False) as projections:
        q, k, v = (x @ torch.zeros(d, d) for _ in range(3))
    with FlopCounterMode(display=False) as inside:
        _ = (q @ k.transpose(-2, -1)) @ v
    cost = attention_cost(T, d, batch)
    shape = f"T={T}, d={d}, batch={batch}"
    check.equal(
        cost["projection_flops"], projections.get_total_flops(), f"PyTorch counts the same for the projections: {shape}"
    )
    check.equal(cost["attention_flops"], inside.get_total_flops(), f"PyTorch counts the same inside attention: {shape}")

# %% mistakes="attention_cost"
{
    "a multiplication and the addition after it are counted as one operation": [
        ("3 * 2 * batch", "3 * batch"),
        ("2 * 2 * batch", "2 * batch"),
    ],
    "only one of the two products inside attention is counted": ("2 * 2 * batch", "2 * batch"),
    "only one of the three projections is counted": ("3 * 2 * batch", "2 * batch"),
    "T and d have changed places in the products inside attention": ("batch * T * T * d", "batch * T * d * d"),
    "the weights are counted as T x d numbers, not as T x T": (
        "batch * T * T * bytes_per_value",
        "batch * T * d * bytes_per_value",
    ),
    "a projection is counted as 2 operations for each result, where each result takes 2·d": (
        "batch * T * d * d",
        "batch * T * d",
    ),
    "a fourth matrix is counted among the projections: there are three, for q, k and v": (
        "3 * 2 * batch",
        "4 * 2 * batch",
    ),
    "the matrices w_q, w_k and w_v are counted in the place of the attention weights": (
        "batch * T * T * bytes_per_value",
        "3 * d * d * bytes_per_value",
    ),
    "numbers are counted, not bytes": (" * bytes_per_value", "", "all"),
    "every number is taken to have 4 bytes, whatever bytes_per_value says": (" * bytes_per_value", " * 4", "all"),
    "one sequence is counted, whatever batch says": ("batch * T", "T", "all"),
    "all sequences of the batch are counted as one long sequence, so that the batch is squared too": (
        "batch * T * T",
        "batch * T * batch * T",
        "all",
    ),
    "q, k and v are counted as one tensor, not as three": ("3 * batch * T * d * bytes", "batch * T * d * bytes"),
    "a causal half of the T x T products is counted, though all of it is computed": (
        "2 * 2 * batch * T * T * d",
        "2 * batch * T * (T + 1) * d",
    ),
    "the weights are counted once, not once for each sequence of the batch": (
        '"weights_bytes": batch * ',
        '"weights_bytes": ',
    ),
}


# %% alternative="attention_cost"
def attention_cost(T, d, batch=1, bytes_per_value=4):
    """Counted up in loops, with a product rule of its own."""

    def product(a, b, c):
        return 2 * a * b * c

    cost = dict.fromkeys(["projection_flops", "attention_flops", "qkv_bytes", "weights_bytes"], 0)
    for _ in range(batch):
        cost["projection_flops"] += 3 * product(T, d, d)
        cost["attention_flops"] += product(T, d, T) + product(T, T, d)
        cost["qkv_bytes"] += 3 * T * d * bytes_per_value
        cost["weights_bytes"] += T**2 * bytes_per_value
    return cost


# %% [markdown]
# ## Look at it
#
# ### A dictionary that can spell
#
# Back to `"not fuond"`. Each phrase becomes a vector by a rule simple enough to see through: one axis for every group of
# three letters that occurs, 1 if the phrase has it, 0 if not, and the whole scaled to length 1. There is no training anywhere.
# The keys are the phrases that Python's own `http.HTTPStatus` knows, the values are the codes, the queries are misspelt.
#
# Move the slider: it sets the length of the queries. Then look at the row `timeout`, at every length.
# What does it return, and is that ever an answer? What would the values have to be for a mixture of them to mean something?

# %%
from http import HTTPStatus

phrases = {
    HTTPStatus(code).phrase.lower(): code for code in (400, 401, 403, 404, 405, 408, 409, 429, 500, 502, 503, 504)
}
typos = ["not fuond", "forbiden", "bad getaway", "to many request", "servor eror", "timeout"]


def trigrams(text):
    padded = f"  {text}  "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


axes = sorted(set().union(*(trigrams(text) for text in [*phrases, *typos])))


def spell(texts):
    vectors = torch.tensor([[float(axis in trigrams(text)) for axis in axes] for text in texts])
    return vectors / vectors.norm(dim=-1, keepdim=True)


keys, values = spell(phrases), torch.tensor([[float(code)] for code in phrases.values()])
steps, lengths = [], [0, 25, 50, 100, 200, 400]
for length in lengths:
    answers, weights = attention(length * spell(typos), keys, values)
    rows = [f"{typo} → {answer:.1f}" for typo, answer in zip(typos, answers[:, 0].tolist(), strict=True)]
    # Axis labels stay where they are, and their texts change: a heat map follows its own y values.
    steps.append(
        {
            "method": "update",
            "label": str(length),
            "args": [{"z": [weights.tolist()]}, {"yaxis.ticktext": rows}],
        }
    )
start = lengths.index(200)
figure = go.Figure(
    go.Heatmap(
        z=steps[start]["args"][0]["z"][0],
        x=[f"{phrase} ({code})" for phrase, code in phrases.items()],
        y=list(range(len(typos))),
        customdata=[[typo] * len(phrases) for typo in typos],
        colorscale=plots.WEIGHTS,
        zmin=0,
        zmax=1,
        colorbar={"title": "weight"},
        hovertemplate="%{customdata} looks at %{x}<br>weight %{z:.3f}<extra></extra>",
    )
)
figure.update_layout(
    title="Misspelt queries (rows) look at status phrases (columns)",
    height=460,
    margin={"l": 170, "b": 120},
    sliders=[
        {"steps": steps, "active": start, "currentvalue": {"prefix": "length of the queries: "}, "pad": {"t": 150}}
    ],
)
figure.update_xaxes(title="key", tickangle=40, showgrid=False)
figure.update_yaxes(
    title="query → what it returns",
    autorange="reversed",
    showgrid=False,
    zeroline=False,
    tickvals=list(range(len(typos))),
    ticktext=steps[start]["args"][1]["yaxis.ticktext"],
)
figure.show()

# %% [markdown]
# <details><summary>What we see</summary>With length 0 all keys get the same share, whatever the query: the answer is the mean of all
# codes. The longer the query, the closer attention comes to a dictionary. But <code>timeout</code> agrees with two phrases, and the
# answer lies between their codes: a status that does not exist. Codes are names, and the mean of two names is no name.
# The values in a transformer are therefore vectors in which directions mean something, so that half of one plus half of another is
# still readable: "a timeout, of one kind or the other".</details>
#
# ### A line of code that reads itself
#
# Now self-attention, on the tokens of one line of code. Each distinct token has an axis of its own; the matrices do nothing but
# stretch the queries. Switch between the two buttons. The last `total` looks for `total`: which ones does it find, and could it say
# which came *last*? Look for anything in your five functions that knows the order.

# %%
line = "total = 0 ; for x in xs : total = total + x"
tokens = line.split()
distinct = sorted(set(tokens))
one_hot = torch.eye(len(distinct))[[distinct.index(token) for token in tokens]]
stretch = 4 * math.sqrt(len(distinct)) * torch.eye(len(distinct))
views = {
    name: self_attention(one_hot, stretch, torch.eye(len(distinct)), torch.eye(len(distinct)), causal=causal)[
        1
    ].tolist()
    for name, causal in (("all positions", False), ("causal", True))
}
labels = [f"{position}: {token}" for position, token in enumerate(tokens)]
figure = go.Figure(
    go.Heatmap(
        z=views["all positions"],
        x=labels,
        y=labels,
        colorscale=plots.WEIGHTS,
        zmin=0,
        zmax=1,
        colorbar={"title": "weight"},
        hovertemplate="%{y} looks at %{x}<br>weight %{z:.3f}<extra></extra>",
    )
)
figure.update_layout(
    title="One line of code",
    height=460,
    updatemenus=[
        {
            "type": "buttons",
            "direction": "right",
            "x": 1,
            "xanchor": "right",
            "y": 1.14,
            "buttons": [{"method": "restyle", "label": name, "args": [{"z": [z]}]} for name, z in views.items()],
        }
    ],
)
figure.update_xaxes(title="key", showgrid=False)
figure.update_yaxes(title="query", autorange="reversed", showgrid=False)
figure.show()

# %% [markdown]
# <details><summary>What we see</summary>All three <code>total</code>s get the same share, and nothing else gets much. A weight depends on
# what stands at a position, never on where it stands: shuffle the positions, and you get the same answers in shuffled order. Order
# has to be put into <code>x</code> or into the scores. The causal mask is the only thing here that knows left from right.</details>
#
# ### The bill
#
# Your `attention_cost`, for one sequence with `d = 768`. At which length does attention itself overtake its projections? Derive it
# from your formulas before you read it off, and say why the answer surprises people who have only heard that "attention is quadratic".

# %%
lengths = [2**n for n in range(6, 18)]
bills = [attention_cost(T, 768) for T in lengths]
figure = make_subplots(cols=2, horizontal_spacing=0.16)
for column, (linear, quadratic) in enumerate(
    [("projection_flops", "attention_flops"), ("qkv_bytes", "weights_bytes")], 1
):
    for name, colour in ((linear, plots.COLOURS[0]), (quadratic, plots.COLOURS[1])):
        figure.add_scatter(
            x=lengths,
            y=[bill[name] for bill in bills],
            name=name,
            mode="lines+markers",
            line={"color": colour},
            hovertemplate=f"T = %{{x:,}}<br>{name} %{{y:.3s}}<extra></extra>",
            row=1,
            col=column,
            showlegend=False,
        )
        figure.add_annotation(
            x=math.log10(lengths[-6]),
            y=math.log10(bills[-6][name]),
            text=name,
            showarrow=False,
            xref=f"x{column}",
            yref=f"y{column}",
            font={"color": colour},
            xanchor="right" if name == quadratic else "left",
            yanchor="bottom" if name == quadratic else "top",
        )
figure.update_xaxes(type="log", title="T, positions")
figure.update_yaxes(type="log", title="operations", row=1, col=1)
figure.update_yaxes(type="log", title="bytes", row=1, col=2)
figure.update_layout(title="What grows with T, and what grows with T squared (d = 768)", height=400)
figure.show()
for T in (1_024, 16_384, 131_072):
    bill = attention_cost(T, 768)
    print(
        f"T = {T:>7,}: weights {bill['weights_bytes'] / 2**20:>10,.0f} MiB, q, k and v {bill['qkv_bytes'] / 2**20:>6,.0f} MiB"
    )

# %% [markdown]
# <details><summary>What we see</summary>Attention overtakes its projections where 4·T²·d = 6·T·d², that is at T = 1.5·d: 1,152
# positions for d = 768. Below that, most of the work is linear in T, whatever people say about "quadratic attention". The weights
# outgrow q, k and v where T² = 3·T·d, at T = 3·d: 2,304 positions. And this is one set of weights. With several heads each head
# keeps its own: <a href="lab03_multihead.ipynb">Lab 1.3</a>. (A whole layer has a fourth matrix, after the attention. With that one
# the lengths meet at T = 2·d, as on the page on scaled dot-product attention.)</details>
#
# ## Common mistakes
#
# The dangerous ones raise nothing. The model still trains; it is merely worse, and you blame the learning rate.
#
# - **Softmax along the wrong axis.** With `T_q = T_k` every shape fits. The columns sum to one, the rows do not, and under a causal
#   mask each position's weights depend on positions that it must not see. Check: `weights.sum(-1)` is 1.
# - **A triangle one column too wide.** Each position sees the token that it is asked to predict. The loss falls wonderfully, and the
#   model is worthless. Check: change the future, compare the past.
# - **A mask applied after the softmax.** The forbidden keys get 0, but they have already taken their part of the sum. What is left
#   adds up to less than one.
# - **An inverted mask.** Libraries disagree: in `F.scaled_dot_product_attention` True means *may look*, in
#   `nn.MultiheadAttention` True means *may not*. [Lab 1.4](lab04_pytorch_comparison.ipynb) makes you convert between them.
# - **No scale, or the scale twice.** Shapes, sums and signs are all right. The shares are merely too sharp or too flat, and the more so
#   the larger `d_k` is.
# - **NaN repaired at the end.** `nan_to_num` after the softmax mends the forward pass only: the gradient of the scores is still NaN
#   in a fully masked row. `masked_fill` and `torch.where` happen to stop it there. A mask of 0 and $-\infty$ that is *added* to the
#   scores lets it through to the queries and the keys, and to everything before them. You notice one step later, far from the cause.
# - **A weight of zero does not stop a NaN.** A masked position whose *value* is NaN or infinite still spoils the output: `0 * nan` is
#   `nan`. Fill padding with zeros.
#
# More of these, each with a small program that shows it: [Pitfalls](../../book/ch01_attention/pitfalls.md).
#
# ## Going further
#
# - **One pass.** Your softmax reads each row three times: for the largest entry, for the sum, for the division. Keep a running
#   largest and a running sum instead, and correct the sum whenever the largest changes. Then add a running output, and you can go
#   through the keys in blocks without ever holding a row of weights. (Milakov and Gimelshein, *Online normalizer calculation for
#   softmax*, 2018; Rabe and Staats, *Self-attention Does Not Need O(n²) Memory*, 2021.) Chapter 10 makes a kernel of it.
# - **Where it came from.** Before the dot product, a small network scored each pair. Replace `attention_scores` by theirs and
#   compare its cost with yours. (Bahdanau, Cho and Bengio, *Neural Machine Translation by Jointly Learning to Align and Translate*, 2015.)
#
# Next: [Lab 1.2](lab02_visualization.ipynb) reads the weights of a model that has learned something.
