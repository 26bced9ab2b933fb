# ---
# title: Seeing attention
# lab: ch01/lab02
# minutes: 85
# difficulty: 2
# hardware: cpu
# needs: [ch01/lab01]
# builds: [attention_entropy, top_keys, attention_heatmap, head_grid, pattern_scores]
# ---

# %% [markdown]
# # Lab 1.2 · Seeing attention
#
# ## The idea
#
# In lab 1.1 your attention returned two things: an output and the weights that mixed it. The output is what the next
# layer wants. The weights are for you. They are one of the few places in a neural network where an intermediate value
# can be read as it stands: row $i$ says how much query $i$ took from every key, and it adds up to 1.
#
# That makes them easy to draw and easy to misread. A heat map with its axes swapped still looks like attention. A colour
# range that follows the data makes a bored head look excited. Two tokens of the same name can silently become one row.
# So this lab builds the instruments first, checks them, and only then looks at a trained model.
#
# Three queries over three keys are enough to see what there is to measure:
#
# | query | the | cat | sat | what it does | bits | as if it chose evenly among |
# |---|---|---|---|---|---|---|
# | the | 1 | 0 | 0 | looks at one key | 0 | 1 key |
# | cat | 0.5 | 0.5 | 0 | is torn between two | 1 | 2 keys |
# | sat | 0.5 | 0.25 | 0.25 | has a favourite and two others | 1.5 | 2.8 keys |
#
# The bits are the *entropy* of the row, $H_i = -\sum_j w_{ij} \log_2 w_{ij}$, with a zero weight counting nothing. For the
# last row: $0.5 \cdot 1 + 0.25 \cdot 2 + 0.25 \cdot 2 = 1.5$. Two to the power of the entropy is the number in the last
# column: the *effective number of keys*. One number a query, and a head with a thousand keys can be ranked beside a head
# with ten.
#
# Rows sum to one. Columns do not: the column of "the" holds $1 + 0.5 + 0.5 = 2$. A key may be popular; a query has only one
# unit of attention to give. Most mistakes in this lab come from forgetting which is which. Why the softmax makes it so is on
# the page [scaled dot-product attention](../../book/ch01_attention/scaled_dot_product.md); what the lookup is for, on
# [the intuition](../../book/ch01_attention/attention_intuition.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `weights` | `(..., T_q, T_k)` | attention weights; each row sums to 1, or is all zero where every key was masked |
# | `tokens_q`, `tokens_k` | `T_q`, `T_k` strings | the names of the queries (rows) and of the keys (columns) |
# | `tokens` | `T` strings | both at once, for self-attention |
# | entropy | `(..., T_q)` | one number a query |
# | all heads of a layer | `(H, T, T)` | one square of weights a head |

# %% given
import itertools
import math
import string
import time

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import nn

from coursekit import plots

# %% [markdown]
# ## A picture
#
# The next cell takes the scores of one query, divides them by a temperature and turns them into weights with
# *your* softmax from lab 1.1. Drag the slider. The ranking of the keys never changes. What changes is how many of them count.

# %%
from coursekit import carry

softmax = carry("ch01/lab01", "softmax")

keys = ["the", "cat", "sat", "on", "a", "mat"]
scores = torch.tensor([0.4, 2.0, 0.9, -0.5, 0.2, 1.6], dtype=torch.float64)
temperatures = [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 16.0]

sharpness = go.Figure()
slider_steps = []
for index, temperature in enumerate(temperatures):
    row = softmax(scores / temperature)
    bits = torch.distributions.Categorical(probs=row).entropy().item() / math.log(2)
    title = f"temperature {temperature:g}: {bits:.2f} bits, as if {2**bits:.1f} of {len(keys)} keys"
    sharpness.add_bar(x=keys, y=row.tolist(), marker_color=plots.COLOURS[0], visible=temperature == 1.0, name="weight")
    shown = [other == index for other in range(len(temperatures))]
    slider_steps.append(
        {"label": f"{temperature:g}", "method": "update", "args": [{"visible": shown}, {"title.text": title}]}
    )
    if temperature == 1.0:
        sharpness.update_layout(
            title=title, sliders=[{"active": index, "currentvalue": {"prefix": "temperature "}, "pad": {"t": 45}}]
        )
sharpness.update_layout(height=420, xaxis_title="key", yaxis={"title": "weight", "range": [0, 1]}, showlegend=False)
sharpness.layout.sliders[0].steps = slider_steps
sharpness

# %% [markdown]
# ## Exercise 1 · `attention_entropy`
#
# Turn each row of weights into one number: its entropy in bits. Masked keys have weight exactly zero, so $0 \cdot \log 0$ will
# happen, in the value *and* in the gradient (entropy is used as a training penalty, too). Both have to stay finite. Write it
# from a logarithm and a sum; `torch.distributions`, which the picture above uses, would do the work for you and is not allowed.
#
# *Difficulty 2 of 5 · 10 minutes · 4 points*


# %% exercise="attention_entropy" difficulty=2 minutes=10 forbid=["torch.distributions", "scipy.stats"]
def attention_entropy(weights: torch.Tensor) -> torch.Tensor:
    """Entropy of every query's attention weights, in bits.

    Args:
        weights: float32 or float64 tensor of shape (..., T_q, T_k) with any number of leading axes. Each row sums to 1,
            or is zero throughout (a query that may look at nothing).

    Returns:
        Tensor of shape (..., T_q) and the dtype of ``weights``. A row with all its weight on one key has 0 bits, a row
        spread evenly over n keys has log2(n) bits, a row of zeros has 0. A weight of exactly zero adds nothing, and
        the gradient is finite there. Followed back through a masked softmax, the gradient of the scores is what it would
        be without the masked keys.

    Source: Shannon, A Mathematical Theory of Communication, 1948, section 6.
    """
    ### BEGIN SOLUTION
    # A zero weight is replaced before the logarithm: log2(1) = 0, and no infinity is ever made, forwards or backwards.
    safe = torch.where(weights > 0, weights, torch.ones_like(weights))  # (..., T_q, T_k)
    return -(weights * safe.log2()).sum(dim=-1)  # (..., T_q)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>A base-two logarithm of what, exactly, do you want for a weight of zero, given that it
# is multiplied by zero anyway?</details>
# <details><summary>A bigger nudge</summary>Mending the product after the logarithm mends the value, not the gradient: the
# backward pass still goes through log(0). Change the number that goes <em>into</em> the logarithm, and only where the weight is
# zero: a small number added everywhere shifts the entropy.</details>

# %% test="attention_entropy" points=2
from coursekit import check
import torch

table = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])
check.close(attention_entropy(table), torch.tensor([0.0, 1.0, 1.5]), "the table at the top of the lab, in bits")
even = torch.full((2, 8), 1 / 8)
check.close(
    attention_entropy(even), torch.tensor([3.0, 3.0]), "8 keys looked at evenly are 3 bits, for each of 2 queries"
)
check.close(attention_entropy(torch.zeros(2, 4)), torch.zeros(2), "a row of zeros has entropy 0")
### BEGIN HIDDEN TESTS
import scipy.stats

generator = torch.Generator().manual_seed(check.seed(3))
scores = 3 * torch.randn(3, 2, 7, 13, dtype=torch.float64, generator=generator)
for name, case in {
    "batch and heads, T_q = 7, T_k = 13": scores.softmax(-1),
    "no leading axes": scores[0, 0].softmax(-1),
    "a single query": scores[:1, :1, :1].softmax(-1),
    "a single key": scores[..., :1].softmax(-1),
    "a causal mask": scores[..., :7].masked_fill(~torch.ones(7, 7, dtype=torch.bool).tril(), -torch.inf).softmax(-1),
    "very sharp rows": (1e4 * scores).softmax(-1),
    "weights that are not contiguous": scores.softmax(-2).transpose(-1, -2),
}.items():
    oracle = torch.from_numpy(scipy.stats.entropy(case.numpy(), base=2, axis=-1))
    check.close(attention_entropy(case), oracle, f"entropy in bits: {name}", atol=1e-6)
    check.close(attention_entropy(case.float()), oracle.float(), f"entropy in bits, float32: {name}", atol=1e-5)
mixed = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]])
check.close(attention_entropy(mixed), torch.tensor([0.811278, 0.0]), "a row of zeros beside an ordinary row")
### END HIDDEN TESTS

# %% test="attention_entropy" points=2
from coursekit import check
import math
import torch

leaf = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]], requires_grad=True)
bits = attention_entropy(leaf)
check.that(
    bits.requires_grad,
    "gradients flow from the entropy to the weights",
    hint="Stay with tensors: no .item(), no .detach().",
)
(slope,) = torch.autograd.grad(bits.sum(), leaf)
check.that(
    slope.isfinite().all(),
    "the gradient is finite, also where a weight is exactly zero",
    why=f"the gradient of the rows [1, 0], [0.5, 0.5] and [0, 0] is {slope.tolist()}",
    hint="0 times infinity is NaN in the backward pass, too. What reaches the logarithm where the weight is zero?",
)
### BEGIN HIDDEN TESTS
from torch.distributions import Categorical

scores = torch.randn(2, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(4)))
visible = torch.tensor([True, True, False, True, True, True, False, True, False])
check.gradients(
    lambda scores: attention_entropy(scores.masked_fill(~visible, -torch.inf).softmax(-1)),
    lambda scores: Categorical(logits=scores[..., visible]).entropy() / math.log(2),
    [scores],
    "the gradient through a masked softmax",
    atol=1e-6,
)
check.gradients(
    lambda scores: attention_entropy(scores.softmax(-1)),
    lambda scores: Categorical(logits=scores).entropy() / math.log(2),
    [scores],
    "the gradient through a softmax without a mask",
    atol=1e-6,
)
### END HIDDEN TESTS

# %% mistakes="attention_entropy"
{
    "the logarithm is the natural one: these are nats, not bits": ("safe.log2()", "safe.log()"),
    "the logarithm has base ten": ("safe.log2()", "safe.log10()"),
    "the minus sign is missing": ("return -(", "return ("),
    "the sum runs over the queries, not over the keys": (".sum(dim=-1)", ".sum(dim=-2)"),
    "the terms are averaged over the keys instead of summed": (".sum(dim=-1)", ".mean(dim=-1)"),
    "the entropy is averaged over the queries, so that one number is left of them all": (
        ".sum(dim=-1)",
        ".sum(dim=-1).mean(dim=-1)",
    ),
    "0 · log 0 is computed as it stands, which is NaN": (
        "torch.where(weights > 0, weights, torch.ones_like(weights))",
        "weights",
    ),
    "the slope of w · log w is left as it is at zero, where it is infinite: the values are right, the gradients are not finite": (
        "-(weights * safe.log2()).sum(dim=-1)",
        "torch.special.entr(weights).sum(dim=-1) / math.log(2)",
    ),
    "a small number is added to every weight before the logarithm, which shifts the entropy": (
        "torch.where(weights > 0, weights, torch.ones_like(weights))",
        "weights + 1e-6",
    ),
    "all numbers are summed into one, not each row for itself": (".sum(dim=-1)", ".sum()"),
    "the axis that is summed is kept, with length 1": (".sum(dim=-1)", ".sum(dim=-1, keepdim=True)"),
    "the zeros are mended after the logarithm: the values are right, the gradients are NaN": [
        ("torch.where(weights > 0, weights, torch.ones_like(weights))", "weights"),
        ("return -(weights * safe.log2()).sum", "return -torch.where(weights > 0, weights * safe.log2(), 0).sum"),
    ],
    "the entropy is divided by its largest possible value, so that an even row gives 1": (
        ".sum(dim=-1)",
        ".sum(dim=-1) / max(torch.tensor(float(weights.shape[-1])).log2().item(), 1e-9)",
    ),
    "the logarithms are not weighted: every key counts the same": ("weights * safe.log2()", "safe.log2()"),
    "the weights are cut off from the graph, so no gradient flows": (
        "safe = torch.where(",
        "weights = weights.detach()\n    safe = torch.where(",
    ),
}


# %% alternative="attention_entropy"
def attention_entropy(weights):
    print("entropy of", tuple(weights.shape))
    return -(weights.double() * weights.double().clamp_min(1e-30).log()).sum(-1).to(weights.dtype) / math.log(2)


# %% [markdown]
# ## Exercise 2 · `top_keys`
#
# Entropy says how many keys count, not which. Write the plainest instrument there is: for each query, the `n` strongest keys by
# name, strongest first. Ties are common (think of even weights), and a list that depends on the sorting algorithm is no
# measurement, so equal weights keep the order of their positions.
#
# *Difficulty 1 of 5 · 8 minutes · 2 points*


# %% exercise="top_keys" difficulty=1 minutes=8
def top_keys(weights: torch.Tensor, tokens: list[str], n: int) -> list[list[tuple[str, float]]]:
    """The n keys that each query looks at most.

    Args:
        weights: float tensor of shape (T_q, T_k).
        tokens: the names of the T_k keys; a name may occur more than once.
        n: how many keys to name, n >= 1. With n > T_k all keys are named.

    Returns:
        One list for each query, in order: pairs (token, weight), the largest weight first. Of equal weights the key at
        the earlier position comes first. Weights are plain Python floats, not rounded.

    Raises:
        ValueError: if n < 1, or if ``tokens`` does not name every key.
    """
    ### BEGIN SOLUTION
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if len(tokens) != weights.shape[1]:
        raise ValueError(f"{len(tokens)} tokens for {weights.shape[1]} keys")
    found = []
    for row in weights.tolist():
        # sorted() is stable: positions with equal weights stay in order.
        order = sorted(range(len(row)), key=lambda j: -row[j])
        found.append([(tokens[j], row[j]) for j in order[:n]])
    return found
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Sort positions, not weights: a position gives you both the name and the weight.</details>
# <details><summary>A bigger nudge</summary>`torch.topk` promises nothing about ties. A stable sort does, and reversing its result
# undoes the promise.</details>

# %% test="top_keys" points=2
from coursekit import check
import torch

weights = torch.tensor([[0.125, 0.625, 0.25], [0.25, 0.25, 0.5]])
found = top_keys(weights, ["cat", "dog", "eel"], 2)
check.equal(
    [[token for token, _ in row] for row in found],
    [["dog", "eel"], ["eel", "cat"]],
    "the names of the 2 strongest keys",
)
check.close(
    [[float(w) for _, w in row] for row in found], [[0.625, 0.25], [0.5, 0.25]], "their weights", atol=0.0, rtol=0.0
)
check.that(
    all(type(w) is float for row in found for _, w in row),
    "the weights are plain Python floats",
    why=f"the first one is {found[0][0][1]!r}",
    hint="float() makes a plain number of one weight, .tolist() of all.",
)
even = top_keys(torch.full((1, 6), 1 / 6), list("bfaced"), 3)
check.equal([token for token, _ in even[0]], ["b", "f", "a"], "of equal weights the earlier position comes first")
### BEGIN HIDDEN TESTS
import numpy as np

letters = list("qwertyuiopasdfghjklzxcvbnm")
generator = torch.Generator().manual_seed(check.seed(5))
cases = {
    "5 queries over 26 keys": torch.randn(5, 26, generator=generator).softmax(-1),
    "26 queries and 26 keys": torch.randn(26, 26, generator=generator, dtype=torch.float64).softmax(-1),
    "many ties": torch.randint(0, 4, (40, 26), generator=generator) / 32,
    "rows of zeros": torch.zeros(3, 26),
    "weights that carry gradients": torch.randn(4, 26, generator=generator).requires_grad_().softmax(-1),
    "a transposed view": torch.randn(26, 9, generator=generator).softmax(0).T,
}
for name, case in cases.items():
    values = case.detach().numpy()
    positions = np.arange(values.shape[1])
    for n in (1, 3, 26, 30):
        found = top_keys(case, letters, n)
        order = [np.lexsort((positions, -row))[:n] for row in values]
        wanted = [[letters[j] for j in row] for row in order]
        check.equal([[token for token, _ in row] for row in found], wanted, f"names: {name}, n = {n}")
        strengths = np.array([[float(weight) for _, weight in row] for row in found])
        check.close(
            strengths, np.take_along_axis(values, np.array(order), 1), f"weights: {name}, n = {n}", atol=1e-9, rtol=0.0
        )
twice = top_keys(torch.tensor([[0.375, 0.125, 0.5]]), ["the", "cat", "the"], 2)
check.equal([token for token, _ in twice[0]], ["the", "the"], "a name that occurs twice is listed for each of its keys")
check.close(
    [float(w) for _, w in twice[0]],
    [0.5, 0.375],
    "a name that occurs twice has each key's own weight",
    atol=0.0,
    rtol=0.0,
)
check.raises(ValueError, lambda: top_keys(torch.eye(3), list("abc"), 0), "n = 0 raises ValueError")
check.raises(ValueError, lambda: top_keys(torch.zeros(3, 4), list("abc"), 2), "3 names for 4 keys raise ValueError")
check.raises(ValueError, lambda: top_keys(torch.zeros(4, 3), list("abcd"), 2), "4 names for 3 keys raise ValueError")
### END HIDDEN TESTS

# %% mistakes="top_keys"
{
    "the weakest keys come first": ("key=lambda j: -row[j]", "key=lambda j: row[j]"),
    "of equal weights the later position comes first": ("key=lambda j: -row[j]", "key=lambda j: (-row[j], -j)"),
    "the n keys stand in the order of their positions, not of their weights": (
        "in order[:n]]",
        "in sorted(order[:n])]",
    ),
    "the columns are read as queries": ("weights.tolist()", "weights.T.tolist()"),
    "one key too few is named": ("order[:n]", "order[: n - 1]"),
    "topk or another sort that is not stable decides between equal weights": (
        "sorted(range(len(row)), key=lambda j: -row[j])",
        "torch.tensor(row).topk(min(n, len(row))).indices.tolist()",
    ),
    "the sort is not a stable one: of many equal weights a later position may come first": (
        "sorted(range(len(row)), key=lambda j: -row[j])",
        "torch.tensor(row).argsort(descending=True).tolist()",
    ),
    "the weight is looked up by name, so that all keys of one name get the weight of the first": (
        "(tokens[j], row[j])",
        "(tokens[j], row[tokens.index(tokens[j])])",
    ),
    "the weights are still tensors, where plain floats are asked for": ("in weights.tolist():", "in weights:"),
    "the weights are scaled so that the n of them sum to one": (
        "(tokens[j], row[j])",
        "(tokens[j], row[j] / (sum(row[k] for k in order[:n]) or 1))",
    ),
    "the weights are rounded to two decimals": ("(tokens[j], row[j])", "(tokens[j], round(row[j], 2))"),
    "the names are sorted but the weights are not": (
        "[(tokens[j], row[j]) for j in order[:n]]",
        "[(tokens[j], row[rank]) for rank, j in enumerate(order[:n])]",
    ),
    "of equal weights the token that comes first in the alphabet is named first": (
        "key=lambda j: -row[j]",
        "key=lambda j: (-row[j], tokens[j])",
    ),
}


# %% alternative="top_keys"
def top_keys(weights, tokens, n):
    if n <= 0 or len(tokens) != weights.size(-1):
        raise ValueError("bad n or bad tokens")
    values, positions = weights.detach().sort(dim=-1, descending=True, stable=True)
    rows = zip(values, positions, strict=True)
    return [[(tokens[int(j)], float(w)) for w, j in zip(v[:n], p[:n], strict=True)] for v, p in rows]


# %% [markdown]
# Next come pictures, and pictures need checks, too. `read_heatmaps` comes with the course and reads a figure the way an eye
# does: what stands where, what the axes say, what a cell says when you hover over it. The checks use it, so you can build a
# figure any way you like: with `go.Heatmap` or `plotly.express.imshow`, from lists or from arrays. Call it on your own figure
# when a check puzzles you.

# %% given
from coursekit.figures import hover_names, read_heatmaps


def grid_height(n_rows: int) -> int:
    """A height in pixels that suits a grid with this many rows of panels."""
    return 110 + 210 * n_rows


# %% [markdown]
# ## Exercise 3 · `attention_heatmap`
#
# Now the picture everyone draws: queries down, keys across, colour for weight. It has to be honest in four ways. The first query is
# at the top, as in the matrix. The colour range is 0 to 1 whatever the weights are, so that two pictures can be compared. Two
# tokens of the same name stay two rows and two columns. And hovering over a cell says which query, which key, what weight.
#
# *Difficulty 3 of 5 · 15 minutes · 4 points*


# %% exercise="attention_heatmap" difficulty=3 minutes=15
def attention_heatmap(weights: torch.Tensor, tokens_q: list[str], tokens_k: list[str] | None = None) -> go.Figure:
    """Heat map of one head's attention weights.

    Args:
        weights: float tensor of shape (T_q, T_k); it may carry gradients.
        tokens_q: the names of the T_q queries. A name may occur more than once, and may look like a number.
        tokens_k: the names of the T_k keys; those of the queries where it is left out (self-attention).

    Returns:
        A plotly figure with one heat map of T_q rows and T_k columns:

        - row i from the top is query i, column j from the left is key j, and the cell holds exactly ``weights[i, j]``;
        - tick labels name the tokens; the x axis title says "key", the y axis title says "query";
        - the colour range is fixed at 0 to 1;
        - the hover text of a cell says the words query, key and weight, each before its value,
          for example "query: sat, key: cat, weight: 0.625" (two decimals or more).

    Raises:
        ValueError: if the shape of ``weights`` is not (number of queries, number of keys).
    """
    ### BEGIN SOLUTION
    tokens_k = tokens_q if tokens_k is None else tokens_k
    if tuple(weights.shape) != (len(tokens_q), len(tokens_k)):
        raise ValueError(f"weights {tuple(weights.shape)} for {len(tokens_q)} queries and {len(tokens_k)} keys")
    heatmap = go.Heatmap(
        z=weights.tolist(),  # T_q rows of T_k floats
        zmin=0,
        zmax=1,
        colorscale=plots.WEIGHTS,
        colorbar={"title": {"text": "weight"}},
        hovertemplate="query: %{y}<br>key: %{x}<br>weight: %{z:.3f}<extra></extra>",
    )
    fig = go.Figure(heatmap)
    # The axes count positions and only show names, so that equal names stay apart.
    fig.update_xaxes(title="key", tickvals=list(range(len(tokens_k))), ticktext=tokens_k)
    fig.update_yaxes(title="query", tickvals=list(range(len(tokens_q))), ticktext=tokens_q, autorange="reversed")
    return fig
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>plotly's y axis grows upwards, like any axis in mathematics. A matrix grows downwards.</details>
# <details><summary>A bigger nudge</summary>Names given as the axis's <em>values</em> are categories, and a category exists once. Let the
# axis count positions 0, 1, 2, … and give the names as tick <em>labels</em>: look up `tickvals` and `ticktext`. The colour range of a
# heat map is `zmin` and `zmax`.</details>

# %% test="attention_heatmap" points=2
from coursekit import check
import torch

weights = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.125, 0.625, 0.25]])
panels = read_heatmaps(attention_heatmap(weights, ["ann", "bob", "cid"]))
check.equal(len(panels), 1, "the figure holds one heat map")
seen = panels[0]
check.close(
    seen["values"],
    weights.double(),
    "the cells, read from the top left, are the weights",
    hint="Print read_heatmaps(figure)[0]['values'] beside the weights. Is another row at the top, is a number changed?",
)
check.that(
    all(token in label for token, label in zip(["ann", "bob", "cid"], seen["rows"], strict=True)),
    "the tick labels of the rows name the queries, from the top",
    why=f"the labels are {seen['rows']}",
)
check.that("key" in seen["x_title"].lower(), "the title of the x axis says key", why=f"it says {seen['x_title']!r}")
check.that("query" in seen["y_title"].lower(), "the title of the y axis says query", why=f"it says {seen['y_title']!r}")
check.equal(
    seen["colour_range"],
    (0, 1),
    "the colour range is fixed at 0 to 1",
    hint="Where an end of the range is not given, plotly takes it from the data.",
)
check.that(
    not hover_names(seen["hover"][2][1], "bob", "cid", 0.625),
    "the hover text calls the row the query and the column the key",
    why="over the third query and the second key, it calls the second the query and the third the key",
    hint="In a template, %{y} stands for the row and %{x} for the column.",
)
check.that(
    hover_names(seen["hover"][2][1], "cid", "bob", 0.625),
    "hovering over the third query and the second key names both, and the weight",
    why=f"the hover text is {seen['hover'][2][1]!r}; it should say query … cid, key … bob, weight … 0.625",
)
### BEGIN HIDDEN TESTS
thirds = (torch.arange(1.0, 10.0).reshape(3, 3) ** 2).requires_grad_()
thirds = thirds / thirds.sum(-1, keepdim=True)
seen = read_heatmaps(attention_heatmap(thirds, ["ann", "bob", "cid"]))[0]
check.close(
    seen["values"],
    thirds.detach().double(),
    "weights with many digits, carrying gradients, are shown unchanged",
    atol=1e-7,
)
even = read_heatmaps(attention_heatmap(torch.full((4, 4), 0.25, dtype=torch.float64), list("ijkl")))[0]
check.equal(even["colour_range"], (0, 1), "the colour range stays 0 to 1 when every weight is 0.25")
masked = torch.tensor([[0.0, 0.0], [0.25, 0.75]])
seen = read_heatmaps(attention_heatmap(masked, ["pad", "end"]))[0]
check.close(seen["values"], masked.double(), "a row of zeros is shown as zeros")
check.raises(
    ValueError, lambda: attention_heatmap(torch.eye(3), ["ann", "bob"]), "2 names for 3 queries raise ValueError"
)
check.raises(
    ValueError, lambda: attention_heatmap(torch.eye(3), list("ijk"), list("ij")), "2 names for 3 keys raise ValueError"
)
check.raises(
    ValueError,
    lambda: attention_heatmap(torch.zeros(2, 3, 3), list("ij")),
    "three axes raise ValueError: choose one head first",
)
### END HIDDEN TESTS

# %% test="attention_heatmap" points=2
from coursekit import check
import torch

tokens = ["the", "cat", "saw", "the", "dog"]
weights = torch.rand(5, 5, generator=torch.Generator().manual_seed(6)).softmax(-1)
seen = read_heatmaps(attention_heatmap(weights, tokens))[0]
check.equal(
    list(seen["values"].shape),
    [5, 5],
    "two tokens of the same name stay two rows and two columns",
    hint="Names used as axis values are categories, and a category exists once. Use positions, and names as tick labels.",
)
check.close(seen["values"], weights.double(), "the cells of a sentence with a repeated word", atol=1e-7)
### BEGIN HIDDEN TESTS
queries, keys = ["un", "chien", "dort"], ["ann", "sees", "joy", "sleep", "in"]
cross = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(7))).softmax(-1)
for name, weights, rows, columns in (
    ("3 queries over 5 keys", cross, queries, keys),
    ("5 queries over 3 keys", cross.T / cross.T.sum(-1, keepdim=True), keys, queries),
    ("1 query over 5 keys", cross[:1], queries[:1], keys),
    ("3 queries over 1 key", torch.ones(3, 1), queries, keys[:1]),
    ("tokens that look like numbers", cross[:, :3], ["31", "7", "12"], ["5", "48", "26"]),
):
    seen = read_heatmaps(attention_heatmap(weights, rows, columns))[0]
    check.close(seen["values"], weights.double(), f"cells: {name}", atol=1e-7)
    check.that(
        all(a in b for a, b in zip(rows, seen["rows"], strict=True)),
        f"labels of the queries: {name}",
        why=f"from the top they are {seen['rows']}",
    )
    check.that(
        all(a in b for a, b in zip(columns, seen["columns"], strict=True)),
        f"labels of the keys: {name}",
        why=f"from the left they are {seen['columns']}",
    )
    for i, query in enumerate(rows):
        for j, key in enumerate(columns):
            text = seen["hover"][i][j]
            why = f"row {i}, column {j} says {text!r}"
            check.that(
                not hover_names(text, key, query, weights[i, j].item()),
                f"the hover text calls the row the query and the column the key: {name}",
                why=f"row {i}, column {j} calls the key the query",
            )
            check.that(
                hover_names(text, query, key, weights[i, j].item()),
                f"hover text names query, key and weight: {name}",
                why=why,
            )
### END HIDDEN TESTS

# %% mistakes="attention_heatmap"
{
    "rows and columns have changed places: the queries run across": ("z=weights.tolist()", "z=weights.T.tolist()"),
    "the first query is at the bottom": (', autorange="reversed"', ""),
    "the colour range is taken from the data": ("        zmin=0,\n        zmax=1,\n", ""),
    "the colour range ends at the largest weight": ("zmax=1", "zmax=weights.max().item()"),
    "the weights are normalised per column": ("z=weights.tolist()", "z=(weights / weights.sum(0)).tolist()"),
    "the weights are rounded to two decimals before they are drawn": (
        "z=weights.tolist()",
        "z=weights.detach().numpy().round(2)",
    ),
    "the names are the axes' values, so that two tokens of the same name share one row and one column": [
        ("z=weights.tolist(),", "z=weights.tolist(), x=tokens_k, y=tokens_q,"),
        (", tickvals=list(range(len(tokens_k))), ticktext=tokens_k", ""),
        (", tickvals=list(range(len(tokens_q))), ticktext=tokens_q", ""),
    ],
    "the hover text calls the key query and the query key": ("query: %{y}<br>key: %{x}", "query: %{x}<br>key: %{y}"),
    "the hover text is plotly's own, which calls them x, y and z": (
        '        hovertemplate="query: %{y}<br>key: %{x}<br>weight: %{z:.3f}<extra></extra>",\n',
        "",
    ),
    "the axes have no titles": [('title="key", ', ""), ('title="query", ', "")],
    "the hover text shows positions or tokens but not the weight": ("<br>weight: %{z:.3f}", ""),
    "the axis titles have changed places": [
        ('title="key"', 'title="QUERY"'),
        ('title="query"', 'title="key"'),
        ('title="QUERY"', 'title="query"'),
    ],
    "the labels are in the wrong order: the axis is reversed and so are they": (
        "ticktext=tokens_q",
        "ticktext=tokens_q[::-1]",
    ),
    "the keys are labelled with the tokens of the queries": ("ticktext=tokens_k", "ticktext=tokens_q"),
    "labels that do not fit the weights are accepted": (
        "if tuple(weights.shape) !=",
        "if False and tuple(weights.shape) !=",
    ),
}

# %% alternative="attention_heatmap"
import plotly.express as px


def attention_heatmap(weights, tokens_q, tokens_k=None):
    tokens_k = tokens_k or tokens_q
    if weights.dim() != 2 or weights.size(0) != len(tokens_q) or weights.size(1) != len(tokens_k):
        raise ValueError("the labels do not fit")
    labels = {"x": "key", "y": "query", "color": "weight"}
    fig = px.imshow(weights.detach().numpy(), zmin=0, zmax=1, labels=labels, aspect="auto")
    fig.update_xaxes(tickvals=np.arange(len(tokens_k)), ticktext=tokens_k)
    fig.update_yaxes(tickvals=np.arange(len(tokens_q)), ticktext=tokens_q)
    return fig


# %% alternative="attention_heatmap"
def attention_heatmap(weights, tokens_q, tokens_k=None):
    tokens_k = list(tokens_q if tokens_k is None else tokens_k)
    if weights.shape != (len(tokens_q), len(tokens_k)):
        raise ValueError("the labels do not fit")
    # turned upside down by hand, names made distinct by their position, hover text written out
    values = weights.detach().numpy()[::-1]
    rows = [f"{i}: {token}" for i, token in enumerate(tokens_q)][::-1]
    columns = [f"{j}: {token}" for j, token in enumerate(tokens_k)]
    text = [
        [f"weight {values[i, j]:.1%} from key '{column}' to query '{row}'" for j, column in enumerate(columns)]
        for i, row in enumerate(rows)
    ]
    fig = go.Figure(go.Heatmap(z=values, x=columns, y=rows, text=text, hoverinfo="text", zmin=0.0, zmax=1.0))
    return fig.update_layout(xaxis_title="keys", yaxis_title="queries / query")


# %% [markdown]
# ## Exercise 4 · `head_grid`
#
# A layer has many heads, and the question is usually which of them is worth a closer look. Draw all of them at a glance: one small
# heat map a head, in reading order, with one colour scale for all. What you learnt in exercise 3 has to hold in *every* panel.
# You may build on your `attention_heatmap`, or start afresh. `grid_height`, given above, suggests a height for the figure.
#
# *Difficulty 3 of 5 · 15 minutes · 3 points*


# %% exercise="head_grid" difficulty=3 minutes=15
def head_grid(weights: torch.Tensor, tokens: list[str]) -> go.Figure:
    """All heads of a layer, one panel each.

    Args:
        weights: float tensor of shape (H, T, T), H >= 1.
        tokens: the names of the T tokens, queries and keys alike. A name may occur more than once.

    Returns:
        A plotly figure with H heat maps:

        - in reading order (left to right, then the next row), four in a row: H = 6 makes a row of 4 and a row of 2,
          H = 3 makes one row of 3. There is no empty row;
        - above each panel its title: "head 1" to "head H";
        - each panel shows its head as `attention_heatmap` does: first query at the top, one row and one column a token,
          tick labels that name the tokens, and the words query, key and weight in the hover text;
        - the axis titles say "query" at the panels on the left and "key" at the panels of the bottom row;
        - all panels share one colour scale from 0 to 1, shown by a single colour bar.

    Raises:
        ValueError: if the shape of ``weights`` is not (H, number of tokens, number of tokens).
    """
    ### BEGIN SOLUTION
    n_heads, n_tokens = len(weights), len(tokens)
    if tuple(weights.shape) != (n_heads, n_tokens, n_tokens):
        raise ValueError(f"weights {tuple(weights.shape)} for {n_tokens} tokens")
    n_columns = min(n_heads, 4)
    n_rows = math.ceil(n_heads / n_columns)
    fig = make_subplots(n_rows, n_columns, subplot_titles=[f"head {h + 1}" for h in range(n_heads)])
    hover = "query: %{y}<br>key: %{x}<br>weight: %{z:.3f}<extra></extra>"
    for h, head in enumerate(weights.tolist()):  # T rows of T floats
        panel = go.Heatmap(z=head, coloraxis="coloraxis", hovertemplate=hover)
        fig.add_trace(panel, row=h // n_columns + 1, col=h % n_columns + 1)
    names = {"tickvals": list(range(n_tokens)), "ticktext": tokens}
    fig.update_xaxes(names)
    fig.update_yaxes(names, autorange="reversed")
    fig.update_xaxes(title="key", row=n_rows)
    fig.update_yaxes(title="query", col=1)
    scale = {"cmin": 0, "cmax": 1, "colorscale": plots.WEIGHTS, "colorbar": {"title": {"text": "weight"}}}
    fig.update_layout(coloraxis=scale, height=grid_height(n_rows))
    return fig
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>`make_subplots` makes the grid and its titles. Head h stands in row h // columns and column
# h % columns, and plotly counts rows and columns from 1.</details>
# <details><summary>A bigger nudge</summary>A trace can leave its colours to the figure: give every heat map the same `coloraxis` and
# describe that once in the layout, with `cmin` and `cmax`. `update_yaxes` without a row and a column changes every panel. A trace
# taken from another figure brings its cells and its hover text along, but not that figure's axes.</details>

# %% test="head_grid" points=2
from coursekit import check
import torch

weights = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(8)).softmax(-1)
panels = read_heatmaps(head_grid(weights, ["ann", "bob", "cid"]))
check.equal(len(panels), 2, "two heads make two panels")
check.equal([panel["title"].lower() for panel in panels], ["head 1", "head 2"], "the titles, in reading order")
for h, panel in enumerate(panels):
    check.close(panel["values"], weights[h].double(), f"the cells of head {h + 1}, read from the top left", atol=1e-7)
    check.equal(panel["colour_range"], (0, 1), f"the colour range of head {h + 1}")
### BEGIN HIDDEN TESTS
tokens = ["the", "cat", "saw", "the", "dog"]
weights = (
    3 * torch.randn(6, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(9)))
).softmax(-1)
panels = read_heatmaps(head_grid(weights, tokens))
check.equal(
    [panel["title"].lower() for panel in panels],
    [f"head {h}" for h in range(1, 7)],
    "the titles of 6 heads, in reading order",
)
for h, panel in enumerate(panels):
    check.equal(list(panel["values"].shape), [5, 5], f"a repeated token stays two rows and two columns: head {h + 1}")
    check.close(panel["values"], weights[h], f"the cells of head {h + 1} of 6, read from the top left", atol=1e-7)
tops = [panel["top"] for panel in panels]
check.equal(
    [tops.count(top) for top in sorted(set(tops), reverse=True)], [4, 2], "6 heads make a row of 4 and a row of 2"
)
for h in (1, 3, 4, 5, 8):
    panels = read_heatmaps(head_grid(torch.eye(2).repeat(h, 1, 1), ["ann", "bob"]))
    tops = [panel["top"] for panel in panels]
    counts = [tops.count(top) for top in sorted(set(tops), reverse=True)]
    check.equal(counts, {1: [1], 3: [3], 4: [4], 5: [4, 1], 8: [4, 4]}[h], f"{h} heads: panels in each row")
    lowest = min(panel["bottom"] for panel in panels)
    check.that(
        lowest < 0.15,
        f"{h} heads: there is no empty row",
        why=f"the lowest panel ends at {lowest:.0%} of the figure's height",
    )
check.raises(
    ValueError, lambda: head_grid(torch.zeros(2, 3, 3), ["ann", "bob"]), "2 names for 3 tokens raise ValueError"
)
check.raises(ValueError, lambda: head_grid(torch.eye(2), ["ann", "bob"]), "weights of shape (T, T) raise ValueError")
check.raises(
    ValueError, lambda: head_grid(torch.zeros(2, 2, 3), ["ann", "bob"]), "2 queries over 3 keys raise ValueError"
)
### END HIDDEN TESTS

# %% test="head_grid" points=1
from coursekit import check
import torch

tokens = ["ann", "bob", "cid"]
weights = (2 * torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(10))).softmax(-1)
panels = read_heatmaps(head_grid(weights, tokens))
ranges = [panel["colour_range"] for panel in panels]
bars = {panel["colour_bar"] for panel in panels} - {None}
seen = {"ranges": ranges, "colour bars": len(bars)}
check.equal(
    seen, {"ranges": [(0, 1)] * 5, "colour bars": 1}, "all colours run from 0 to 1, with one colour bar for all"
)
check.equal(len({panel["colour_scale"] for panel in panels}), 1, "all heads use the same colour scale")
### BEGIN HIDDEN TESTS
for h, panel in enumerate(panels):
    for labels, axis in ((panel["rows"], "queries"), (panel["columns"], "keys")):
        named = all(token in label for token, label in zip(tokens, labels, strict=True))
        check.that(named, f"the tick labels of head {h + 1} name the {axis}", why=f"they are {labels}")
    for i, query in enumerate(tokens):
        for j, key in enumerate(tokens):
            why = f"row {i}, column {j} says {panel['hover'][i][j]!r}"
            # The first test compares cells and weights; here the text has to agree with its cell.
            good = hover_names(panel["hover"][i][j], query, key, float(panel["values"][i, j]))
            check.that(good, f"the hover text of head {h + 1} names query, key and weight", why=why)
left, bottom = min(panel["left"] for panel in panels), min(panel["bottom"] for panel in panels)
for panel in panels:
    if panel["left"] == left:
        check.that(
            "query" in panel["y_title"].lower(),
            "the panels on the left call their y axis query",
            why=f"one of them says {panel['y_title']!r}",
        )
    if panel["bottom"] == bottom:
        check.that(
            "key" in panel["x_title"].lower(),
            "the panels of the bottom row call their x axis key",
            why=f"one of them says {panel['x_title']!r}",
        )
### END HIDDEN TESTS

# %% mistakes="head_grid"
{
    "the panels are filled column by column while the titles run along the rows": (
        "row=h // n_columns + 1, col=h % n_columns + 1",
        "row=h % n_rows + 1, col=h // n_rows + 1",
    ),
    "the titles count the heads from 0": ('f"head {h + 1}"', 'f"head {h}"'),
    "every panel has a colour range of its own": ('coloraxis="coloraxis"', "colorscale=plots.WEIGHTS"),
    "the shared colour range is taken from the data": ('"cmin": 0, "cmax": 1, ', ""),
    "every panel brings its own colour bar": ('coloraxis="coloraxis"', "colorscale=plots.WEIGHTS, zmin=0, zmax=1"),
    "only the first panel has its first query at the top": [
        (
            'fig.update_yaxes(names, autorange="reversed")',
            'fig.update_yaxes(names)\n    fig.update_yaxes(autorange="reversed", row=1, col=1)',
        ),
    ],
    "no panel has its first query at the top": (
        'fig.update_yaxes(names, autorange="reversed")',
        "fig.update_yaxes(names)",
    ),
    "rows and columns have changed places in every panel": ("weights.tolist()", "weights.mT.tolist()"),
    "only the first panel names its keys": (
        "fig.update_xaxes(names)",
        "fig.update_xaxes(names, row=1, col=1)",
    ),
    "the panels at the bottom have no axis title": ('    fig.update_xaxes(title="key", row=n_rows)\n', ""),
    "the panels on the left have no axis title": ('    fig.update_yaxes(title="query", col=1)\n', ""),
    "a number of heads that 4 divides gets an empty row": ("math.ceil(n_heads / n_columns)", "n_heads // 4 + 1"),
    "every panel shows the average over the heads": ("z=head", "z=weights.mean(0).tolist()"),
    "every panel shows head 1": ("z=head", "z=weights[0].tolist()"),
    "the heads stand in reverse order": ("weights.tolist()", "weights.flip(0).tolist()"),
    "the names are the axes' values, so that two tokens of the same name share one row and one column": [
        ("z=head,", "z=head, x=tokens, y=tokens,"),
        ("fig.update_xaxes(names)\n", "\n"),
        ("update_yaxes(names, ", "update_yaxes("),
    ],
}

# %% alternative="head_grid"
import plotly.express as px


def head_grid(weights, tokens):
    if weights.dim() != 3 or set(weights.shape[1:]) != {len(tokens)}:
        raise ValueError("the labels do not fit")
    labels = {"x": "key", "y": "query", "color": "weight"}
    columns = 4 if len(weights) > 4 else len(weights)
    fig = px.imshow(weights.detach().numpy(), facet_col=0, facet_col_wrap=columns, zmin=0, zmax=1, labels=labels)
    for note in fig.layout.annotations:
        note.text = f"head {int(note.text.split('=')[1]) + 1}"
    fig.update_xaxes(tickvals=list(range(len(tokens))), ticktext=tokens)
    return fig.update_yaxes(tickvals=list(range(len(tokens))), ticktext=tokens)


# %% [markdown]
# ## Exercise 5 · `pattern_scores`
#
# With two layers of two heads you can look at every picture. With hundreds of heads you need numbers that say what a
# picture would. Take five things a head might do, and measure how much of a query's attention goes there, on average.
# The most interesting one is *induction*: a head that finds where the present token stood before and looks at what came
# **after** it, so that the model can say the same thing next.
#
# *Difficulty 3 of 5 · 15 minutes · 4 points*


# %% exercise="pattern_scores" difficulty=3 minutes=15
def pattern_scores(weights: torch.Tensor, tokens: list[str]) -> dict[str, float]:
    """How much attention one head pays, on average, to five kinds of position.

    For query i (counted from 0) of T, the target keys are:

    - "previous": position i - 1;
    - "same": position i itself;
    - "first": position 0;
    - "reversed": position T - 1 - i;
    - "induction": every position j + 1 such that j < i and ``tokens[j] == tokens[i]``.

    The score of a pattern: for each query that has a target, the sum of its weights on its targets; then the mean over those
    queries. Queries without a target (the first one has no previous position) do not count. 0.0 if no query has a target.

    Args:
        weights: float tensor of shape (T, T), one head; it may carry gradients.
        tokens: the T tokens that the head looked at.

    Returns:
        A dict with the five names above, in that order, and plain Python floats between 0 and 1.

    Raises:
        ValueError: if the shape of ``weights`` is not (number of tokens, number of tokens).

    Source: the induction score follows Olsson et al., In-context Learning and Induction Heads, 2022.
    """
    ### BEGIN SOLUTION
    n_tokens = len(tokens)
    if tuple(weights.shape) != (n_tokens, n_tokens):
        raise ValueError(f"weights {tuple(weights.shape)} for {n_tokens} tokens")
    i = torch.arange(n_tokens)[:, None]  # queries: (T, 1)
    j = torch.arange(n_tokens)[None, :]  # keys: (1, T)
    equal = torch.tensor([[key == query for key in tokens] for query in tokens])  # (T, T)
    targets = {
        "previous": j == i - 1,
        "same": j == i,
        "first": j == torch.zeros_like(i),
        "reversed": j == n_tokens - 1 - i,
        # Where the token stood before, then one step to the right. The last column is False before the step: nothing wraps.
        "induction": (equal & (j < i)).roll(1, dims=1),
    }
    scores = {}
    for name, target in targets.items():
        on_target = (weights * target).sum(dim=1)  # (T,)
        counted = on_target[target.any(dim=1)]
        scores[name] = counted.mean().item() if len(counted) else 0.0
    return scores
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write each pattern as a table of booleans of shape (T, T): True where query i should look
# at key j. Then all five scores are the same three lines.</details>
# <details><summary>A bigger nudge</summary>Which queries count is also in the table: those whose row holds a True. For induction,
# mark the earlier places of the same token first, then move the marks one key to the right.</details>

# %% test="pattern_scores" points=4
from coursekit import check
import torch

names = ["previous", "same", "first", "reversed", "induction"]
weights = torch.tensor(
    [
        [0.5, 0.25, 0.125, 0.125],
        [0.25, 0.5, 0.125, 0.125],
        [0.125, 0.5, 0.25, 0.125],
        [0.0, 0.125, 0.75, 0.125],
    ]
)
scores = pattern_scores(weights, ["a", "b", "a", "b"])
check.equal(list(scores), names, "the names, in order")
check.close(
    scores["previous"], (0.25 + 0.5 + 0.75) / 3, "previous: the first query has no previous position and does not count"
)
check.close(scores["same"], (0.5 + 0.5 + 0.25 + 0.125) / 4, "same: the diagonal")
check.close(scores["first"], (0.5 + 0.25 + 0.125 + 0) / 4, "first: the first key, for every query")
check.close(scores["reversed"], (0.125 + 0.125 + 0.5 + 0) / 4, "reversed: query 0 and the last key, and so on")
check.close(
    scores["induction"],
    (0.5 + 0.75) / 2,
    "induction: the 'a' at 2 stood at 0 before and should look at 1, the 'b' at 3 stood at 1 and should look at 2",
)


### BEGIN HIDDEN TESTS
def by_hand(weights, tokens):
    found = {}
    for name in ("previous", "same", "first", "reversed", "induction"):
        sums = []
        for i in range(len(tokens)):
            keys = {"previous": [i - 1], "same": [i], "first": [0], "reversed": [len(tokens) - 1 - i]}.get(name)
            if keys is None:
                keys = [j + 1 for j in range(i) if tokens[j] == tokens[i]]
            keys = [j for j in keys if j >= 0]
            if keys:
                sums.append(sum(weights[i][j] for j in keys))
        found[name] = sum(sums) / len(sums) if sums else 0.0
    return found


generator = torch.Generator().manual_seed(check.seed(11))
square = (2 * torch.randn(9, 9, dtype=torch.float64, generator=generator)).softmax(-1)
causal = torch.ones(9, 9, dtype=torch.float64).tril()
cases = {
    "tokens that occur three times": (square, list("abcabcabc")),
    "tokens that follow themselves": (square, list("aabbbcada")),
    "no token occurs twice": (square, list("abcdefghi")),
    "all tokens are the same": (square, ["x"] * 9),
    "whole words": (square[:4, :4].contiguous(), ["the", "cat", "the", "mat"]),
    "a head that looks evenly at all it may see": (causal / causal.sum(-1, keepdim=True), list("abcdeabcd")),
    "a query without any weight": (square * (torch.arange(9) != 7)[:, None], list("abcdeabcd")),
    "a transposed view": (square.softmax(0).T, list("abcdabcda")),
    "one token": (torch.ones(1, 1), ["a"]),
}
for name, (weights, tokens) in cases.items():
    scores, wanted = pattern_scores(weights, tokens), by_hand(weights.tolist(), tokens)
    check.equal(list(scores), names, f"the names, in order: {name}")
    for pattern in names:
        check.close(scores[pattern], wanted[pattern], f"{pattern}: {name}", atol=1e-6)
carrying = torch.randn(5, 5, generator=generator).requires_grad_().softmax(-1)
scores = pattern_scores(carrying, list("abcab"))
check.that(
    all(type(score) is float for score in scores.values()), "the scores are plain Python floats", why=str(scores)
)
check.close(scores["same"], carrying.detach().diagonal().mean().item(), "weights that carry gradients")
check.raises(ValueError, lambda: pattern_scores(torch.eye(3), list("ab")), "2 tokens for 3 queries raise ValueError")
check.raises(
    ValueError, lambda: pattern_scores(torch.zeros(2, 3), list("ab")), "weights that are not square raise ValueError"
)
### END HIDDEN TESTS

# %% mistakes="pattern_scores"
{
    "previous looks at the next position": ("j == i - 1", "j == i + 1"),
    "previous wraps around: the first query looks at position -1, which Python takes for the last": (
        "j == i - 1",
        "j == (i - 1) % n_tokens",
    ),
    "same means every place of the same token, not the position itself": ('"same": j == i', '"same": equal'),
    "queries without a target count as zeros": ("on_target[target.any(dim=1)]", "on_target"),
    "rows and columns have changed places: the keys are read as queries": (
        "(weights * target)",
        "(weights.T * target)",
    ),
    "first is the first query, not the first key": (
        '"first": j == torch.zeros_like(i)',
        '"first": i == torch.zeros_like(j)',
    ),
    "induction looks at the earlier token itself, not at the one after it": (".roll(1, dims=1)", ""),
    "induction looks at the token before the earlier one": (".roll(1, dims=1)", ".roll(-1, dims=1)"),
    "induction also takes places that are not earlier": (
        "(equal & (j < i))",
        "(equal & (j != i) & (j < n_tokens - 1))",
    ),
    "induction takes a token's own position for an earlier one": ("(j < i)", "(j <= i) & (j < n_tokens - 1)"),
    "induction takes only the latest of a token's earlier places": (
        "(equal & (j < i))",
        "(equal & (j < i) & (j == (equal * (j < i) * (j + 1)).amax(dim=1, keepdim=True) - 1))",
    ),
    "induction takes only the first of a token's earlier places": (
        "(equal & (j < i))",
        "(equal & (j < i) & ((equal & (j < i)).cumsum(dim=1) == 1))",
    ),
    "induction leaves out a token that follows itself": ("(j < i)", "(j < i - 1)"),
    "a mean is taken even of no queries at all, which is NaN": (" if len(counted) else 0.0", ""),
    "reversed is off by one": ("n_tokens - 1 - i", "n_tokens - i"),
    "the weights on several targets are averaged, not summed": (
        "(weights * target).sum(dim=1)",
        "(weights * target).sum(dim=1) / target.sum(dim=1).clamp(min=1)",
    ),
    "the score is the largest query's, not the mean": ("counted.mean()", "counted.max()"),
}


# %% alternative="pattern_scores"
def pattern_scores(weights, tokens):
    size = len(tokens)
    if weights.shape != (size, size):
        raise ValueError("the tokens do not fit")
    w = weights.detach().double().numpy()
    induction = []
    for query, token in enumerate(tokens):
        earlier = [j for j in range(query) if tokens[j] == token]
        if earlier:
            induction.append(sum(w[query, j + 1] for j in earlier))
    return {
        "previous": float(np.diag(w, -1).mean()) if size > 1 else 0.0,
        "same": float(np.trace(w) / size),
        "first": float(w[:, 0].mean()),
        "reversed": float(np.trace(np.fliplr(w)) / size),
        "induction": float(np.mean(induction)) if induction else 0.0,
    }


# %% [markdown]
# ## Look at it
#
# Instruments ready; now a specimen. The next cell is given: it trains a small attention-only transformer (two heads a layer, no
# feed-forward part) on one of three tasks, and keeps the attention weights on one fixed sequence as training goes on.
#
# | task | given the sequence | say at each position | layers | may look ahead |
# |---|---|---|---|---|
# | copy | twelve random letters | the letter that stands there | 1 | yes |
# | reverse | twelve random letters | the letter at the mirrored position | 1 | yes |
# | induction | a few random letters, then the same again | the next letter | 2 | no |
#
# In the third task the length of the repeated part changes from one sequence to the next, so counting positions does not help. The model
# has to find out, each time, what came after the present letter the last time. How layers like these are put together is for
# [lab 1.3](lab03_multihead.ipynb) and chapter 2; here only the weights matter.

# %% given
TASKS = {"copy": 100, "reverse": 200, "induction": 400}  # training steps
N_LETTERS = T_TASK = 12


class AttentionOnly(nn.Module):
    """Token and position embeddings, then layers of two-head attention with a residual connection, then letters."""

    def __init__(self, n_layers: int, causal: bool, d_model: int = 32, n_heads: int = 2):
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.letter = nn.Embedding(N_LETTERS, d_model)
        self.position = nn.Embedding(T_TASK, d_model)
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(n_layers + 1))
        self.inputs = nn.ModuleList(nn.Linear(d_model, 3 * d_model, bias=False) for _ in range(n_layers))
        self.outputs = nn.ModuleList(nn.Linear(d_model, d_model, bias=False) for _ in range(n_layers))
        self.read_out = nn.Linear(d_model, N_LETTERS)

    def forward(self, letters: torch.Tensor, attend: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, T, letters) and weights (L, B, H, T, T); with ``attend=False`` the heads' outputs are left out."""
        x = self.letter(letters) + self.position.weight
        future = torch.ones(T_TASK, T_TASK, dtype=torch.bool).triu(1)
        seen = []
        for norm, into, out in zip(self.norms, self.inputs, self.outputs, strict=False):
            heads = into(norm(x)).unflatten(-1, (3, self.n_heads, -1))  # (B, T, 3, H, d_k)
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            scores = q @ k.mT / q.shape[-1] ** 0.5
            weights = (scores.masked_fill(future, -torch.inf) if self.causal else scores).softmax(-1)
            x = x + out((weights @ v).transpose(1, 2).flatten(2)) * attend
            seen.append(weights)
        return self.read_out(self.norms[-1](x)), torch.stack(seen)


def task_batch(task: str, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Letters, answers and which answers count, each of shape (size, T)."""
    if task != "induction":
        letters = torch.randint(N_LETTERS, (size, T_TASK), generator=generator)
        return letters, letters if task == "copy" else letters.flip(1), torch.ones_like(letters, dtype=torch.bool)
    period = torch.randint(4, 9, (size, 1), generator=generator)
    once = torch.rand(size, N_LETTERS, generator=generator).argsort(1)  # letters in random order, none of them twice
    place = torch.arange(T_TASK + 1)
    letters = once.gather(1, place % period)
    return letters[:, :-1], letters[:, 1:], place[:-1] >= period


def train_and_watch(task: str, seed: int = 0) -> dict:
    """Train on one task; plain results: what the heads of every layer looked at, and when.

    Returns:
        tokens (T letters), steps (S numbers), weights (S, L, H, T, T) on those tokens, loss (S numbers), accuracy at the end,
        accuracy_without_attention (the same model with the heads' outputs left out), seconds.
    """
    started, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only loses time to a second thread
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AttentionOnly(n_layers=2 if task == "induction" else 1, causal=task == "induction")
    n_steps = TASKS[task]
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=n_steps)
    generator = torch.Generator().manual_seed(seed)
    probe = torch.tensor(
        [[4, 9, 0, 7, 2, 4, 9, 0, 7, 2, 4, 9]] if task == "induction" else [[4, 9, 0, 7, 2, 11, 5, 9, 3, 8, 1, 4]]
    )
    steps, snapshots, losses = [], [], []
    for step in range(n_steps + 1):
        letters, answers, counts = task_batch(task, 64, generator)
        loss = nn.functional.cross_entropy(model(letters)[0][counts], answers[counts])
        if step % (n_steps // 10) == 0:
            steps.append(step)
            losses.append(loss.item())
            snapshots.append(model(probe)[1][:, 0].detach())
        if step < n_steps:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    letters, answers, counts = task_batch(task, 512, generator)
    with torch.no_grad():
        right, right_without = (
            (model(letters, attend)[0].argmax(-1) == answers)[counts].float().mean().item() for attend in (True, False)
        )
    torch.set_num_threads(threads)
    return {
        "tokens": [string.ascii_lowercase[letter] for letter in probe[0]],
        "steps": steps,
        "weights": torch.stack(snapshots),
        "loss": losses,
        "accuracy": right,
        "accuracy_without_attention": right_without,
        "seconds": time.perf_counter() - started,
    }


# %%
runs = {task: train_and_watch(task) for task in TASKS}
print(f"{'task':10} {'seconds':>8} {'loss':>7} {'accuracy':>9} {'without attention':>18}")
for task, run in runs.items():
    numbers = (
        f"{run['seconds']:8.1f} {run['loss'][-1]:7.3f} {run['accuracy']:9.1%} {run['accuracy_without_attention']:18.1%}"
    )
    print(f"{task:10} {numbers}")

# %% [markdown]
# All three are learnt within seconds. The last column switches every head off in the trained model. Reversing and induction fall to about
# one guess in twelve; copying keeps most of its right answers. Keep that in mind. First the model that reverses. Before you run the cell: what
# should the picture be?

# %%
reverse = runs["reverse"]
head_grid(reverse["weights"][-1].flatten(0, 1), reverse["tokens"]).update_layout(title="reverse: layer 1")

# %% [markdown]
# Now induction, with its two layers. Panels 1 and 2 are the heads of layer 1, panels 3 and 4 those of layer 2. The sequence is "ejahc" and then
# the same again. Take the second "e", hover over its row in layer 2, and read off which key it looks at.

# %%
induction = runs["induction"]
head_grid(induction["weights"][-1].flatten(0, 1), induction["tokens"]).update_layout(
    title="induction: layer 1, then layer 2"
)

# %% [markdown]
# Your scores can name what the heads do. A score is worth something only beside what a head gets for doing nothing in particular, so
# each table starts with a head that looks evenly at all it may see, and a head is named after the pattern in which it is furthest ahead of that.

# %%
for task, run in runs.items():
    even = torch.ones(T_TASK, T_TASK)
    even = even.tril() if task == "induction" else even
    even = even / even.sum(-1, keepdim=True)
    baseline = pattern_scores(even, run["tokens"])
    print(f"{task:20}" + "".join(f"{name:>10}" for name in baseline) + f"{'bits':>8}   name")
    heads = {"looking evenly": even}
    for layer, h in itertools.product(*map(range, run["weights"].shape[1:3])):
        heads[f"layer {layer + 1}, head {h + 1}"] = run["weights"][-1, layer, h]
    for name, head in heads.items():
        scores, bits = pattern_scores(head, run["tokens"]), attention_entropy(head).mean().item()
        lead = (
            max(scores, key=lambda pattern: scores[pattern] - baseline[pattern])
            if name != "looking evenly"
            else "(baseline)"
        )
        print(f"{name:20}" + "".join(f"{score:10.2f}" for score in scores.values()) + f"{bits:8.2f}   {lead}")
    print()

# %% [markdown]
# And the names in words: what does the second "e" of the induction run look at, head by head? `top_keys` prints it.

# %%
for layer, h in itertools.product(range(2), range(2)):
    looked_at = top_keys(induction["weights"][-1, layer, h], induction["tokens"], 3)[5]
    print(f"layer {layer + 1}, head {h + 1}: " + ", ".join(f"{token} {weight:.2f}" for token, weight in looked_at))

# %% [markdown]
# Last, time. The head with the highest induction score, from the first step to the last: drag the slider, and watch when the stripe appears. Below it,
# the loss and the mean entropy of that head over the same steps.

# %%
final = induction["weights"][-1].flatten(0, 1)  # (L * H, T, T)
chosen = max(range(len(final)), key=lambda h: pattern_scores(final[h], induction["tokens"])["induction"])
history = induction["weights"].flatten(1, 2)[:, chosen]  # (S, T, T)
titles = [f"layer {chosen // 2 + 1}, head {chosen % 2 + 1} after {step} steps" for step in induction["steps"]]

film = attention_heatmap(history[0], induction["tokens"])
for moment in history[1:]:
    film.add_trace(attention_heatmap(moment, induction["tokens"]).data[0])
film_steps = []
for index, (step, title) in enumerate(zip(induction["steps"], titles, strict=True)):
    film.data[index].visible = index == len(history) - 1
    shown = [other == index for other in range(len(history))]
    film_steps.append({"label": str(step), "method": "update", "args": [{"visible": shown}, {"title.text": title}]})
film.update_layout(
    title=titles[-1],
    height=460,
    sliders=[{"active": len(history) - 1, "steps": film_steps, "currentvalue": {"prefix": "step "}, "pad": {"t": 45}}],
)

# %%
curves = go.Figure()
curves.add_scatter(x=induction["steps"], y=induction["loss"], name="loss (nats)", mode="lines+markers")
curves.add_scatter(
    x=induction["steps"], y=attention_entropy(history).mean(-1).tolist(), name="entropy (bits)", mode="lines+markers"
)
curves.update_layout(
    height=340, xaxis_title="training step", yaxis_title="value", title="The head sharpens as the loss falls"
)

# %% [markdown]
# Questions worth thinking about:
#
# 1. The heads of the model that copies look at the same position more than even heads would. A clear case of copying heads, it seems. But the
#    table above says what happens without them. What does most of the copying, and what would you have written from the scores alone?
# 2. No head in layer 2 of the induction model could do its work if layer 1 did not exist. Why not? What does a key in layer 2 know that
#    its letter alone does not say?
# 3. A causal head that looks evenly has a high "first" score on short sequences. From how many tokens on would you take a score of 0.3 seriously?
# 4. Both heads of the reversing model may show the same stripe. Is the second one needed? Which experiment would tell you?
#
# <details><summary>Thoughts on 1</summary>The residual connection carries every letter past the heads to the output, so the task needs no
# attention at all. The heads learn something that helps a little, because nothing stops them. Weights say where a head looks. They do
# not say how much depends on what it sees.</details>
# <details><summary>Thoughts on 2</summary>The key that should be found is the one <em>after</em> the earlier copy of the letter. For that key to
# match, it has to carry the name of the letter before it, and only a head that looked at the previous position can have put it
# there. Look for that head in layer 1. Elhage et al. (2021) take this circuit apart.</details>
# <details><summary>Thoughts on 3</summary>Query i sees i + 1 keys, so an even head gives the first key the mean of 1/1, 1/2, …, 1/T. The mean is
# above 0.3 up to T = 9 and falls slowly (compute it). A score needs its baseline at the same T.</details>
# <details><summary>Thoughts on 4</summary>The picture cannot tell. Switch one head off and measure: that is <code>ablate_head</code> in
# <a href="lab03_multihead.ipynb">lab 1.3</a>.</details>
#
# ## Common mistakes
#
# - **Axes swapped.** The transpose of a causal map is visibly wrong (the wrong triangle is empty). The transpose of a map without a mask is not.
#   Check that what you call rows sums to one.
# - **A colour range from the data.** A head whose largest weight is 0.1 gets the same full colours as one that is certain. Two such pictures side by side
#   say nothing.
# - **Names as axis values.** The repeated word disappears, the picture has one row fewer, and nothing warns you.
# - **The first query at the bottom.** plotly draws upwards. The map of a reversing head then looks like the map of a copying head.
# - **0 · log 0.** The mask puts exact zeros into the weights. One NaN in a penalty on the entropy, and the whole model is NaN after one step.
# - **Averaging over heads before looking.** One head at the previous token and one at the first token average to a head that does neither.
# - **Averaging entropy over queries of a causal map.** Query 0 has 0 bits whatever the head does: it has only one key.
#
# More mistakes that do not crash are on the page [pitfalls](../../book/ch01_attention/pitfalls.md).
#
# ## Going further
#
# - **Weights are not all.** A key with a large weight and a tiny value vector contributes nothing. Draw $w_{ij} \lVert v_j \rVert$ beside $w_{ij}$ for the copying model and see
#   whether the picture changes (Kobayashi, Kuribayashi, Yokoi and Inui, *Attention is Not Only a Weight: Analyzing Transformers with Vector Norms*, 2020).
#   For the argument about what weights explain, read Jain and Wallace, *Attention is not Explanation*, 2019, and the answer by Wiegreffe and Pinter,
#   *Attention is not not Explanation*, 2019.
# - **Through the layers.** In layer 2 a "key" is no longer a token but a mixture of tokens. Multiply the layers' weights (each averaged with the identity, for the
#   residual) and draw the product for the induction model (Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, 2020). Does it show what the two heads do
#   together?
# - **The circuit.** Elhage et al., *A Mathematical Framework for Transformer Circuits*, 2021, derive induction heads from the weight matrices themselves.
