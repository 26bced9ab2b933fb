# ---
# title: Multi-head attention
# lab: ch01/lab03
# minutes: 90
# difficulty: 3
# hardware: cpu
# needs: [ch01/lab01]
# builds: [split_heads, merge_heads, MultiHeadAttention, count_parameters, single_head_width, ablate_head, head_importance]
# ---

# %% [markdown]
# # Lab 1.3 · Multi-head attention
#
# ## The idea
#
# One softmax makes one choice. Suppose a token needs two facts: the value of the token just before it, which is 3,
# and the value of the first token, which is 5. A single head has one row of weights, and that row sums to one. The
# best it can do is half and half, and the result is $0.5 \cdot 3 + 0.5 \cdot 5 = 4$. Had the values been 5 and 3, or
# 4 and 4, the result would be the same 4. The two facts went in; their average came out, and nothing later can take
# it apart.
#
# Two heads keep them apart. Each head has its own weights and works on its own slice of the features. Head 0 puts
# weight 1 on the previous token and returns 3. Head 1 puts weight 1 on the first token and returns 5. The results
# stand side by side, $[3, 5]$, and a last matrix may do with them what it likes: $3 - 5$, $3 + 5$, or only one of
# them.
#
# The mechanism is a cut and a paste. Project once with full-size matrices, cut the columns into `n_heads` blocks of
# `d_k = d_model / n_heads`, run the attention of Lab 1.1 on each block, paste the blocks together and multiply by
# `w_o`:
#
# $$ \text{head}_h = \text{attention}(x\,W_q^{(h)},\; x\,W_k^{(h)},\; x\,W_v^{(h)}) \qquad
# y = [\text{head}_0, \dots, \text{head}_{H-1}]\, W_o = \sum_h \text{head}_h\, W_o^{(h)} $$
#
# Here $W_q^{(h)}$ is a block of *columns* of `w_q`, and $W_o^{(h)}$ is a block of *rows* of `w_o`. The sum on the
# right is worth a second look. Heads do not mix until the very end, and there they only add up. So the share of each
# head in the output can be computed exactly, and taken away again. In the last two exercises you do that, and find
# out which head matters.
#
# Why several heads are worth having at all, and what they tend to specialise in, is on the page [Multi-head
# attention](../../book/ch01_attention/multihead_attention.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `x_q` | `(B, T_q, d_model)` | the tokens that ask |
# | `x_kv` | `(B, T_k, d_model)` | the tokens that are looked up; in self-attention the same as `x_q` |
# | `w_q`, `w_k`, `w_v`, `w_o` | `(d_model, d_model)` | the four matrices, used as `x @ w` |
# | `q` | `(B, H, T_q, d_k)` | queries, `H = n_heads`, `d_k = d_model // n_heads` |
# | `k`, `v` | `(B, H, T_k, d_k)` | keys and values |
# | `weights` | `(B, H, T_q, T_k)` | each row sums to one |
# | `output` | `(B, T_q, d_model)` | the heads merged and multiplied by `w_o` |

# %% given
import math

import torch
from torch import nn

from coursekit import carry

# attention(q, k, v, mask=None) -> (output, weights); True in the mask means: may attend
attention = carry("ch01/lab01", "attention")

# %% [markdown]
# ## A picture
#
# Splitting heads is a matter of moving numbers, and no shape error will warn you if they land in the wrong place.
# Below, a sequence of 4 tokens with 12 features is given to 3 heads in three ways. Each rectangle is one number, at
# its place in `x`; its colour is the head that receives it. Hover to see in which row of that head it ends up. All
# three results have the shape `(1, 3, 4, 4)`, and only the first is right.

# %%
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

length, d_model, n_heads = 4, 12, 3
d_k = d_model // n_heads
place = np.arange(length * d_model)
token, column = place // d_model, place % d_model
destinations = {  # for every number of x: the head and the row within that head that receive it
    "correct: blocks of columns": (column // d_k, token),
    "reshape alone": (place // (length * d_k), place % (length * d_k) // d_k),
    "d_k before H": (column % n_heads, token),
}
steps = [
    [edge, colour] for h, colour in enumerate(plots.COLOURS[:n_heads]) for edge in (h / n_heads, (h + 1) / n_heads)
]
figure = make_subplots(rows=1, cols=3, subplot_titles=list(destinations), horizontal_spacing=0.05, shared_yaxes=True)
for panel, (head, row) in enumerate(destinations.values(), start=1):
    grid = {"z": head.reshape(length, d_model), "customdata": row.reshape(length, d_model)}
    figure.add_trace(
        go.Heatmap(
            **grid,
            zmin=-0.5,
            zmax=n_heads - 0.5,
            colorscale=steps,
            xgap=2,
            ygap=2,
            showscale=panel == 3,
            colorbar={"title": "head", "tickvals": list(range(n_heads)), "thickness": 12},
            hovertemplate="token %{y}, feature %{x}<br>goes to head %{z}, row %{customdata}<extra></extra>",
        ),
        row=1,
        col=panel,
    )
    figure.update_xaxes(title_text="feature", dtick=d_k, showgrid=False, row=1, col=panel)
figure.update_yaxes(autorange="reversed", dtick=1, showgrid=False)
figure.update_yaxes(title_text="token", col=1)
figure.update_layout(height=320)
figure.show()

# %% [markdown]
# In the middle panel head 0 holds the first token and a third of the second, and nothing else. It can never look at
# the last token. Such a module runs, and it trains.
#
# The last panel is a milder case. Each head sees every token, but it takes every third feature, not a block. That is
# only another numbering of the features, so a module trained that way is fine. It becomes a bug when you load weights
# that were trained the other way.
#
# ## Exercise 1 · `split_heads`
#
# Write `split_heads` and its inverse `merge_heads`. Here is a small case: three tokens with four features,
# `[1, 2, 3, 4]`, `[5, 6, 7, 8]` and `[9, 10, 11, 12]`, split into two heads. Head 0 gets
# `[[1, 2], [5, 6], [9, 10]]` and head 1 gets `[[3, 4], [7, 8], [11, 12]]`.
#
# *Difficulty 2 of 5 · 10 minutes · 3 points*


# %% exercise="split_heads" difficulty=2 minutes=10
def split_heads(x: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Cut the features of every token into equal blocks, one for each head.

    Args:
        x: tensor of shape (B, T, d_model), any dtype, contiguous or not.
        n_heads: the number of heads H, a positive divisor of d_model.

    Returns:
        Tensor of shape (B, H, T, d_k) with d_k = d_model / H and x's dtype. Head h holds the columns from h * d_k up to
        (not including) (h + 1) * d_k of every token.

    Raises:
        ValueError: if n_heads is less than 1 or does not divide d_model.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.2.
    """
    ### BEGIN SOLUTION
    batch, length, d_model = x.shape
    if n_heads < 1 or d_model % n_heads != 0:
        raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
    blocks = x.reshape(batch, length, n_heads, d_model // n_heads)  # (B, T, H, d_k)
    return blocks.transpose(1, 2)  # (B, H, T, d_k)
    ### END SOLUTION


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """Put the heads side by side again: the inverse of `split_heads`.

    Args:
        x: tensor of shape (B, H, T, d_k), any dtype, contiguous or not.

    Returns:
        Tensor of shape (B, T, H * d_k) and x's dtype: for every token head 0's features, then head 1's, and so on.
    """
    ### BEGIN SOLUTION
    batch, n_heads, length, d_k = x.shape
    side_by_side = x.transpose(1, 2)  # (B, T, H, d_k)
    return side_by_side.reshape(batch, length, n_heads * d_k)  # (B, T, d_model)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>A reshape never moves a number in memory. It may cut an axis in two, or glue two neighbours
# together. To bring axes into another order takes a transpose.</details>
# <details><summary>A bigger nudge</summary>Cut the last axis in two first. At that point the shape is (B, T, H, d_k): which two axes
# have to change places? To merge, do the same two steps in the opposite order. Memory order then forbids one of PyTorch's two functions for changing
# a shape, and allows the other.</details>

# %% test="split_heads" points=2
from coursekit import check

import torch

tokens = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]])
two_heads = torch.tensor([[[[1, 2], [5, 6], [9, 10]], [[3, 4], [7, 8], [11, 12]]]])
check.equal(split_heads(tokens, 2), two_heads, "three tokens of four features, split into two heads")
check.raises(ValueError, lambda: split_heads(tokens, 3), "three heads cannot share four features")
### BEGIN HIDDEN TESTS
for batch, length, d_model, n_heads in ((3, 63, 60, 6), (1, 6, 60, 6), (2, 5, 12, 1), (2, 5, 12, 12), (6, 6, 36, 6)):
    x = torch.randn(batch, length, d_model, generator=torch.Generator().manual_seed(check.seed(length)))
    d_k = d_model // n_heads
    by_columns = torch.stack([x[:, :, h * d_k : (h + 1) * d_k] for h in range(n_heads)], dim=1)
    check.equal(split_heads(x, n_heads), by_columns, f"B={batch}, T={length}, d_model={d_model} in {n_heads} heads")
numbers = torch.arange(2 * 7 * 12).reshape(7, 12, 2)
check.equal(
    split_heads(numbers.permute(2, 0, 1), 4)[:, 1],
    numbers.permute(2, 0, 1)[:, :, 3:6],
    "head 1 of a non-contiguous integer tensor",
)
for n_heads in (0, -2, 24):
    check.raises(
        ValueError,
        lambda n_heads=n_heads: split_heads(torch.zeros(2, 3, 12), n_heads),
        f"{n_heads} heads for 12 features",
    )
check.gradients(
    lambda x: split_heads(x, 3),
    lambda x: torch.stack(x.chunk(3, dim=-1), dim=1),
    [torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(0)))],
    "gradients of split_heads",
)
### END HIDDEN TESTS

# %% test="split_heads" points=1
from coursekit import check

import torch

tokens = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]])
two_heads = torch.tensor([[[[1, 2], [5, 6], [9, 10]], [[3, 4], [7, 8], [11, 12]]]])
check.equal(merge_heads(two_heads), tokens, "the two heads, merged again")
### BEGIN HIDDEN TESTS
for batch, n_heads, length, d_k in ((3, 6, 63, 10), (1, 6, 6, 10), (2, 1, 5, 12), (2, 12, 5, 1), (4, 4, 4, 4)):
    heads = torch.randn(batch, n_heads, length, d_k, generator=torch.Generator().manual_seed(check.seed(d_k)))
    beside = torch.cat([heads[:, h] for h in range(n_heads)], dim=-1)
    check.equal(merge_heads(heads), beside, f"B={batch}, H={n_heads}, T={length}, d_k={d_k} merged")
    check.equal(merge_heads(split_heads(beside, n_heads)), beside, "split, then merged, is what it was")
numbers = torch.arange(2 * 7 * 3 * 4).reshape(4, 7, 3, 2).permute(3, 2, 1, 0)
check.equal(merge_heads(numbers)[..., 4:8], numbers[:, 1], "the second block of a non-contiguous integer tensor")
check.gradients(
    merge_heads,
    lambda heads: torch.cat(heads.unbind(1), dim=-1),
    [torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(0)))],
    "gradients of merge_heads",
)
### END HIDDEN TESTS


# %% alternative="split_heads"
def split_heads(x, n_heads):
    d_model = x.shape[-1]
    if n_heads <= 0 or d_model % n_heads:
        raise ValueError("bad number of heads")
    print("splitting")
    return torch.einsum("bthk->bhtk", x.unflatten(-1, (n_heads, -1)))


def merge_heads(x):
    return torch.cat([x[:, h] for h in range(x.shape[1])], dim=2)


# %% mistakes="split_heads"
{
    "the heads are split with a reshape alone, so a head holds a few tokens and not a few features": [
        (
            "    return blocks.transpose(1, 2)  # (B, H, T, d_k)",
            "    return blocks.reshape(batch, n_heads, length, d_model // n_heads)",
        )
    ],
    "the features are cut as (d_k, H), so each head takes every H-th feature and not a block": [
        (
            "    return blocks.transpose(1, 2)  # (B, H, T, d_k)",
            "    return x.reshape(batch, length, d_model // n_heads, n_heads).permute(0, 3, 1, 2)",
        )
    ],
    "split_heads stops at (B, T, H, d_k), with the heads behind the tokens": (
        "return blocks.transpose(1, 2)  # (B, H, T, d_k)",
        "return blocks",
    ),
    "the blocks go to the heads in reverse order": (
        "return blocks.transpose(1, 2)  # (B, H, T, d_k)",
        "return blocks.transpose(1, 2).flip(1)",
    ),
    "the heads are stacked along the batch, as (B * H, T, d_k)": (
        "return blocks.transpose(1, 2)  # (B, H, T, d_k)",
        "return blocks.transpose(1, 2).reshape(batch * n_heads, length, d_model // n_heads)",
    ),
    "the features left over when n_heads does not divide d_model are dropped without an error": [
        ("if n_heads < 1 or d_model % n_heads != 0:", "if n_heads < 1:"),
        ("blocks = x.reshape(", "blocks = x[..., : d_model // n_heads * n_heads].reshape("),
    ],
    "split_heads detaches its result, so no gradient gets through": (
        "blocks = x.reshape(",
        "blocks = x.detach().reshape(",
    ),
    "the heads are merged with a reshape alone, so the features of different tokens are mixed": (
        "side_by_side = x.transpose(1, 2)",
        "side_by_side = x",
    ),
    "merge_heads interleaves the heads, feature by feature": [
        ("side_by_side = x.transpose(1, 2)", "side_by_side = x.permute(0, 2, 3, 1)"),
    ],
    "merge_heads exchanges the heads and the features, not the heads and the tokens": (
        "side_by_side = x.transpose(1, 2)",
        "side_by_side = x.transpose(1, 3)",
    ),
    "merge_heads adds the heads up, and they should stand side by side": (
        "return side_by_side.reshape(batch, length, n_heads * d_k)",
        "return x.sum(1).repeat(1, 1, n_heads)",
    ),
    "merge_heads calls view on memory that is in another order": (
        "return side_by_side.reshape(",
        "return side_by_side.view(",
    ),
    "split and merge are both a reshape alone: each undoes the other, and neither is right": [
        (
            "    return blocks.transpose(1, 2)  # (B, H, T, d_k)",
            "    return blocks.reshape(batch, n_heads, length, d_model // n_heads)",
        ),
        ("side_by_side = x.transpose(1, 2)", "side_by_side = x"),
    ],
}

# %% [markdown]
# ## Exercise 2 · `MultiHeadAttention`
#
# Put the parts together: project, split, attend, merge, project. The matrices are plain `nn.Parameter`s, and a row of
# `x` is multiplied from the left: `x @ w`. (`nn.Linear` stores the transpose and computes `x @ w.T`. Lab 1.4 is about
# moving weights between the two.) Use `attention`, carried over from Lab 1.1: it treats all leading axes alike, so it
# needs no change to work on heads. `parameter_gradients` is given; the tests use it, so leave it as it is.
#
# The scale of the first weights matters. If the entries of `x` are independent with variance 1, and those of `w` have
# variance $s$, then an entry of `x @ w` is a sum of `d_model` products and has variance $d_\text{model} \cdot s$.
# With $s = 1/d_\text{model}$ it is 1 again.
#
# *Difficulty 3 of 5 · 25 minutes · 8 points*


# %% exercise="MultiHeadAttention" difficulty=3 minutes=25 forbid=["Linear", "MultiheadAttention", "multi_head_attention_forward", "scaled_dot_product_attention"]
class MultiHeadAttention(nn.Module):
    """Attention in n_heads subspaces of the features, with an output projection and no biases.

    Args:
        d_model: features of a token.
        n_heads: number of heads H, a positive divisor of d_model.
        seed: the same seed gives the same first weights, another seed gives others.

    Attributes:
        n_heads: H. A head has d_k = d_model / H features.

    State:
        Four float32 parameters named ``w_q``, ``w_k``, ``w_v`` and ``w_o``, each of shape (d_model, d_model) and used as
        ``x @ w``, and nothing else. Head h owns the columns from h * d_k up to (h + 1) * d_k of w_q, w_k and w_v, and the
        rows with the same numbers of w_o. At first all entries are independent, with mean 0 and variance 1 / d_model
        (normal or uniform, as you like).

    Raises:
        ValueError: if n_heads is less than 1 or does not divide d_model.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.2.
    """

    def __init__(self, d_model: int, n_heads: int, seed: int = 0):
        super().__init__()
        ### BEGIN SOLUTION
        if n_heads < 1 or d_model % n_heads != 0:
            raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
        self.n_heads = n_heads
        generator = torch.Generator().manual_seed(seed)
        shape = d_model, d_model
        spread = 1 / math.sqrt(d_model)  # a standard deviation: the variance is 1 / d_model
        self.w_q = nn.Parameter(spread * torch.randn(shape, generator=generator))
        self.w_k = nn.Parameter(spread * torch.randn(shape, generator=generator))
        self.w_v = nn.Parameter(spread * torch.randn(shape, generator=generator))
        self.w_o = nn.Parameter(spread * torch.randn(shape, generator=generator))
        ### END SOLUTION

    def forward(
        self, x_q: torch.Tensor, x_kv: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Let every token of x_q look at the tokens of x_kv.

        Args:
            x_q: (B, T_q, d_model), of the parameters' dtype.
            x_kv: (B, T_k, d_model); x_q itself where it is left out (self-attention).
            mask: boolean, True where a query may attend to a key, the same for every head:
                (T_q, T_k) for all sequences alike, or (B, T_q, T_k), one for each sequence. With four axes it
                broadcasts to (B, H, T_q, T_k), and heads may differ. None allows everything.

        Returns:
            output (B, T_q, d_model) and weights (B, H, T_q, T_k). A query that may attend to nothing has weights
            and output of zero.
        """
        ### BEGIN SOLUTION
        if x_kv is None:
            x_kv = x_q
        if mask is not None and mask.ndim == 3:
            mask = mask.unsqueeze(1)  # (B, T_q, T_k) -> (B, 1, T_q, T_k)
        q = split_heads(x_q @ self.w_q, self.n_heads)  # (B, T_q, d_model) -> (B, H, T_q, d_k)
        k = split_heads(x_kv @ self.w_k, self.n_heads)  # (B, T_k, d_model) -> (B, H, T_k, d_k)
        v = split_heads(x_kv @ self.w_v, self.n_heads)  # (B, T_k, d_model) -> (B, H, T_k, d_k)
        heads, weights = attention(q, k, v, mask)  # (B, H, T_q, d_k), (B, H, T_q, T_k)
        merged = merge_heads(heads)  # (B, H, T_q, d_k) -> (B, T_q, d_model)
        output = merged @ self.w_o  # (B, T_q, d_model)
        return output, weights
        ### END SOLUTION

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` in self-attention for every parameter, by name."""
        loss = (self(x)[0] * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% [markdown]
# <details><summary>A nudge</summary>Follow the Shapes table from top to bottom; there is about one line of code for each of its rows. You need no loop over
# heads.</details>
# <details><summary>A bigger nudge</summary><code>attention</code> divides by the square root of the last axis of <code>q</code>. After the split that is already the
# right number. As to the mask: write its shape below <code>(B, H, T_q, T_k)</code>, aligned at the right. With three axes, what does its
# first axis line up with, and what should stand between?</details>

# %% test="MultiHeadAttention" points=3
from coursekit import check

import torch
from torch import nn
from torch.nn import functional as F

# With identity matrices a head is plain attention on its own block of columns.
mha = MultiHeadAttention(6, 2)
mha.load_state_dict({name: torch.eye(6) for name in ("w_q", "w_k", "w_v", "w_o")})
x = torch.tensor([[[1.0, 0, 3, 0, 2, 0], [0, 1, 2, 0, 0, 3], [1, 1, 0, 2, 0, 1], [0, 0, 1, 1, 2, 0]]])
output, weights = mha(x)
blocks = [
    F.scaled_dot_product_attention(x[..., block], x[..., block], x[..., block]) for block in (slice(0, 3), slice(3, 6))
]
check.close(output, torch.cat(blocks, dim=-1), "identity matrices: each head is attention on its own block of columns")
check.close(weights.sum(-1), torch.ones(1, 2, 4), "each row of weights sums to one, for each of the two heads")
### BEGIN HIDDEN TESTS


def torch_twin(state, n_heads):
    d_model = state["w_o"].shape[0]
    twin = nn.MultiheadAttention(d_model, n_heads, bias=False, batch_first=True, dtype=state["w_o"].dtype)
    stacked = torch.cat([state["w_q"].T, state["w_k"].T, state["w_v"].T])
    twin.load_state_dict({"in_proj_weight": stacked, "out_proj.weight": state["w_o"].T})
    return twin


# Weights of the test's own: only the third test is about the first weights.
for batch, length, d_model, n_heads in ((1, 63, 60, 6), (3, 63, 60, 1), (3, 3, 60, 3), (3, 7, 12, 12), (1, 1, 12, 2)):
    drawn = (
        torch.randn(4, d_model, d_model, generator=torch.Generator().manual_seed(check.seed(n_heads))) / d_model**0.5
    )
    state = dict(zip(("w_q", "w_k", "w_v", "w_o"), drawn, strict=True))
    mha = MultiHeadAttention(d_model, n_heads)
    mha.load_state_dict(state)
    twin = torch_twin(state, n_heads)
    x = torch.randn(length, batch, d_model, generator=torch.Generator().manual_seed(check.seed(length))).transpose(0, 1)
    output, weights = mha(x)
    want_output, want_weights = twin(x, x, x, average_attn_weights=False)
    case = f"B={batch}, T={length}, d_model={d_model}, H={n_heads}"
    check.close(
        weights, want_weights.detach(), f"{case}: the weights of every head equal those of nn.MultiheadAttention"
    )
    check.close(output, want_output.detach(), f"{case}: the output equals that of nn.MultiheadAttention")

# Each matrix has its own part: what was loaded is what is used.
state = {
    name: torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(seed)))
    for seed, name in enumerate(("w_q", "w_k", "w_v", "w_o"))
}
mha = MultiHeadAttention(12, 3)
mha.double()
mha.load_state_dict(state)
x = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(9)))
for factor in (1.0, 1e3):
    output, weights = mha(factor * x)
    want_output, want_weights = torch_twin(state, 3)(factor * x, factor * x, factor * x, average_attn_weights=False)
    check.close(
        weights, want_weights.detach(), f"float64, loaded weights, inputs times {factor:g}: the weights", atol=1e-9
    )
    check.close(
        output, want_output.detach(), f"float64, loaded weights, inputs times {factor:g}: the output", atol=1e-9
    )
### END HIDDEN TESTS

# %% test="MultiHeadAttention" points=3
from coursekit import check

import torch
from torch import nn

mha = MultiHeadAttention(6, 3)
drawn = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(1)) / 6**0.5
mha.load_state_dict(dict(zip(("w_q", "w_k", "w_v", "w_o"), drawn, strict=True)))
x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
causal = torch.ones(5, 5, dtype=torch.bool).tril()
changed = torch.cat([x[:, :3], 9 - x[:, 3:]], dim=1)
check.close(
    mha(changed, mask=causal)[0][:, :3], mha(x, mask=causal)[0][:, :3], "under a causal mask the future changes nothing"
)
check.equal(
    list(mha(x, x[:, :4])[1].shape), [2, 3, 5, 4], "five queries look at four other tokens: weights (B, H, T_q, T_k)"
)
### BEGIN HIDDEN TESTS


def torch_twin(state, n_heads):
    d_model = state["w_o"].shape[0]
    twin = nn.MultiheadAttention(d_model, n_heads, bias=False, batch_first=True, dtype=state["w_o"].dtype)
    stacked = torch.cat([state["w_q"].T, state["w_k"].T, state["w_v"].T])
    twin.load_state_dict({"in_proj_weight": stacked, "out_proj.weight": state["w_o"].T})
    return twin


def values(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(seed)))


def allowed(*shape, seed):
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(check.seed(seed))) < 0.6
    mask[..., 0] = True
    return mask


batch, n_heads, t_q, t_k, d_model = 3, 3, 7, 11, 12
state = {
    name: values(d_model, d_model, seed=20 + i) / d_model**0.5 for i, name in enumerate(("w_q", "w_k", "w_v", "w_o"))
}
mha = MultiHeadAttention(d_model, n_heads)
mha.double()
mha.load_state_dict(state)
twin = torch_twin(state, n_heads)
x_q, x_kv = values(batch, t_q, d_model, seed=1), values(batch, t_k, d_model, seed=2)
output, weights = mha(x_q, x_kv)
want_output, want_weights = twin(x_q, x_kv, x_kv, average_attn_weights=False)
check.close(weights, want_weights.detach(), "T_q=7, T_k=11: the weights", atol=1e-9)
check.close(output, want_output.detach(), "T_q=7, T_k=11: the output", atol=1e-9)
check.close(mha(x_q, x_q)[0], mha(x_q)[0].detach(), "x_kv left out means self-attention", atol=1e-9)

masks = {
    "a mask (T_q, T_k)": (allowed(t_q, t_k, seed=3), lambda m: m),
    "a mask (B, T_q, T_k), where B happens to equal H": (allowed(batch, t_q, t_k, seed=4), lambda m: m[:, None]),
    "a mask (B, 1, T_q, T_k)": (allowed(batch, 1, t_q, t_k, seed=5), lambda m: m),
    "a mask (B, 1, 1, T_k) that hides padding": (allowed(batch, 1, 1, t_k, seed=6), lambda m: m),
    "a mask (1, H, T_q, T_k) that differs between heads": (allowed(1, n_heads, t_q, t_k, seed=7), lambda m: m),
}
for name, (mask, widen) in masks.items():
    may_not = ~widen(mask).broadcast_to(batch, n_heads, t_q, t_k).reshape(batch * n_heads, t_q, t_k)
    output, weights = mha(x_q, x_kv, mask)
    want_output, want_weights = twin(x_q, x_kv, x_kv, attn_mask=may_not, average_attn_weights=False)
    check.close(weights, want_weights.detach(), f"{name}: the weights", atol=1e-9)
    check.close(output, want_output.detach(), f"{name}: the output", atol=1e-9)

check.gradients(
    lambda a, b: mha(a, b, masks["a mask (T_q, T_k)"][0]),
    lambda a, b: twin(a, b, b, attn_mask=~masks["a mask (T_q, T_k)"][0], average_attn_weights=False),
    [x_q, x_kv],
    "gradients of the output and of the weights, for x_q and x_kv",
    atol=1e-9,
)
direction = values(batch, t_q, d_model, seed=8)
stacked, projection = torch.autograd.grad((twin(x_q, x_q, x_q)[0] * direction).sum(), list(twin.parameters()))
wanted = {**dict(zip(("w_q", "w_k", "w_v"), (part.T for part in stacked.chunk(3)), strict=True)), "w_o": projection.T}
found = [mha.parameter_gradients(x_q, direction) for _ in range(2)][-1]  # asked twice: nothing piles up
for name, gradient in wanted.items():
    check.that(
        found[name] is not None, f"a gradient reaches {name}", hint="Look for .data, .detach() or torch.no_grad()."
    )
    check.close(found[name], gradient, f"the gradient of {name}", atol=1e-9)

nothing = torch.ones(t_q, t_k, dtype=torch.bool)
nothing[2] = False
output, weights = mha(x_q, x_kv, nothing)
check.close(
    weights[:, :, 2],
    torch.zeros(batch, n_heads, t_k, dtype=torch.float64),
    "weights of a query that may attend to nothing",
)
check.close(
    output[:, 2], torch.zeros(batch, d_model, dtype=torch.float64), "output of a query that may attend to nothing"
)
### END HIDDEN TESTS

# %% test="MultiHeadAttention" points=2
from coursekit import check

import torch

state = MultiHeadAttention(12, 3).state_dict()
check.equal(
    sorted(state), ["w_k", "w_o", "w_q", "w_v"], "the names of the parameters", hint="Wrap each matrix in nn.Parameter."
)
check.equal(getattr(MultiHeadAttention(12, 3), "n_heads", None), 3, "the attribute n_heads")
check.raises(ValueError, lambda: MultiHeadAttention(12, 5), "5 heads cannot share 12 features")
### BEGIN HIDDEN TESTS
for n_heads in (0, -3, 24):
    check.raises(
        ValueError, lambda n_heads=n_heads: MultiHeadAttention(12, n_heads), f"{n_heads} heads for 12 features"
    )
d_model = 192
state = MultiHeadAttention(d_model, 3, seed=5).state_dict()
for name, w in state.items():
    check.equal(list(w.shape), [d_model, d_model], f"the shape of {name}")
    check.equal(str(w.dtype), "torch.float32", f"the dtype of {name}")
    # 36,864 entries: the sample variance is within 0.8% of the true one two times in three, so 5% is far outside.
    check.close(
        float(w.var() * d_model),
        1.0,
        f"the variance of the first {name}, times d_model",
        atol=0.05,
        hint="a * randn has the variance a**2. Uniform numbers between -a and a have the variance a**2 / 3.",
    )
    check.close(float(w.mean() * d_model**0.5), 0.0, f"the mean of the first {name}, times sqrt(d_model)", atol=0.03)
    # Rows of independent entries are nearly orthogonal; copies of each other they are not.
    overlap = (w @ w.T - torch.diag((w * w).sum(1))).abs().max()
    check.that(overlap < 0.5, f"the rows of the first {name} are independent of each other")
for one, other in (("w_q", "w_k"), ("w_q", "w_v"), ("w_q", "w_o"), ("w_k", "w_v"), ("w_k", "w_o"), ("w_v", "w_o")):
    correlation = float((state[one] * state[other]).mean() * d_model)
    check.close(correlation, 0.0, f"the first {one} and {other} are independent (their correlation)", atol=0.05)
again, another = (
    MultiHeadAttention(d_model, 3, seed=5).state_dict(),
    MultiHeadAttention(d_model, 3, seed=6).state_dict(),
)
for name, w in state.items():
    check.equal(
        again[name],
        w,
        f"the same seed gives the same {name}",
        hint="Draw from a torch.Generator that is seeded with seed.",
    )
    check.that(not torch.equal(another[name], w), f"another seed gives another {name}")
default, zero = MultiHeadAttention(12, 3).state_dict(), MultiHeadAttention(12, 3, 0).state_dict()
check.equal(default["w_q"], zero["w_q"], "the seed is 0 where it is left out")
### END HIDDEN TESTS


# %% alternative="MultiHeadAttention"
class MultiHeadAttention(nn.Module):
    # One head at a time, its own softmax, uniform first weights, more attributes than asked for.
    def __init__(self, d_model, n_heads, seed=0):
        super().__init__()
        if n_heads <= 0 or d_model % n_heads:
            raise ValueError(n_heads)
        torch.manual_seed(seed)
        self.d_model, self.n_heads, self.d_k = d_model, n_heads, d_model // n_heads
        for name in ("w_o", "w_v", "w_k", "w_q"):
            setattr(self, name, nn.Parameter(torch.empty(d_model, d_model)))
            nn.init.xavier_uniform_(getattr(self, name))

    def forward(self, x_q, x_kv=None, mask=None):
        import warnings

        warnings.warn("a learner's own warning", stacklevel=1)
        x_kv = x_q if x_kv is None else x_kv
        if mask is None:
            mask = torch.ones(x_q.shape[1], x_kv.shape[1], dtype=torch.bool)
        if mask.ndim == 3:
            mask = mask[:, None]
        mask = mask.expand(x_q.shape[0], self.n_heads, x_q.shape[1], x_kv.shape[1])
        output, weights = 0, []
        for h in range(self.n_heads):
            part = slice(h * self.d_k, h * self.d_k + self.d_k)
            scores = torch.einsum("bid,bjd->bij", x_q @ self.w_q[:, part], x_kv @ self.w_k[:, part]).double()
            scores = (scores * self.d_k**-0.5).masked_fill(~mask[:, h], -torch.inf)
            p = torch.nan_to_num(scores.softmax(-1)).to(x_q.dtype)
            weights.append(p)
            output = output + p @ x_kv @ self.w_v[:, part] @ self.w_o[part]
        return output, torch.stack(weights, dim=1)

    def parameter_gradients(self, x, direction):
        loss = (self(x)[0] * direction).sum()
        self.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% mistakes="MultiHeadAttention"
{
    "the scores are divided by sqrt(d_model) and not by sqrt(d_k)": (
        "attention(q, k, v, mask)",
        "attention(q / math.sqrt(self.n_heads), k, v, mask)",
    ),
    "the scores are scaled twice: once here and once in attention": (
        "attention(q, k, v, mask)",
        "attention(q / math.sqrt(q.shape[-1]), k, v, mask)",
    ),
    "there is no output projection": ("output = merged @ self.w_o", "output = merged"),
    "the heads are merged with a reshape alone": ("merged = merge_heads(heads)", "merged = heads.reshape(x_q.shape)"),
    "the heads are split with a reshape alone": [
        (
            "q = split_heads(x_q @ self.w_q, self.n_heads)",
            "q = (x_q @ self.w_q).reshape(len(x_q), self.n_heads, x_q.shape[1], -1)",
        ),
        (
            "k = split_heads(x_kv @ self.w_k, self.n_heads)",
            "k = (x_kv @ self.w_k).reshape(len(x_q), self.n_heads, x_kv.shape[1], -1)",
        ),
        (
            "v = split_heads(x_kv @ self.w_v, self.n_heads)",
            "v = (x_kv @ self.w_v).reshape(len(x_q), self.n_heads, x_kv.shape[1], -1)",
        ),
    ],
    "each head takes every H-th feature, so the module agrees with itself but not with weights from elsewhere": [
        (
            "q = split_heads(x_q @ self.w_q, self.n_heads)",
            "q = (x_q @ self.w_q).unflatten(-1, (-1, self.n_heads)).permute(0, 3, 1, 2)",
        ),
        (
            "k = split_heads(x_kv @ self.w_k, self.n_heads)",
            "k = (x_kv @ self.w_k).unflatten(-1, (-1, self.n_heads)).permute(0, 3, 1, 2)",
        ),
        (
            "v = split_heads(x_kv @ self.w_v, self.n_heads)",
            "v = (x_kv @ self.w_v).unflatten(-1, (-1, self.n_heads)).permute(0, 3, 1, 2)",
        ),
        ("merged = merge_heads(heads)", "merged = heads.permute(0, 2, 3, 1).flatten(2)"),
    ],
    "all heads share the first head's queries and keys": (
        "heads, weights = attention(q, k, v, mask)",
        "heads, weights = attention(q[:, :1].expand_as(q), k[:, :1].expand_as(k), v, mask)",
    ),
    "all heads share the first head's values": (
        "attention(q, k, v, mask)",
        "attention(q, k, v[:, :1].expand_as(v), mask)",
    ),
    "there is one softmax for all heads together: the attention runs before the split": [
        (
            "heads, weights = attention(q, k, v, mask)",
            "heads, weights = attention(*(merge_heads(part).unsqueeze(1) for part in (q, k, v)), mask)",
        ),
        (
            "merged = merge_heads(heads)",
            "weights = weights.expand(-1, self.n_heads, -1, -1); merged = merge_heads(heads)",
        ),
    ],
    "the weights are averaged over the heads before they meet the values": (
        "merged = merge_heads(heads)",
        "merged = merge_heads(weights.mean(1, keepdim=True) @ v)",
    ),
    "the weights that are returned are averaged over the heads": (
        "return output, weights",
        "return output, weights.mean(1)",
    ),
    "the matrices are used as x @ w.T, the way nn.Linear stores them": [
        ("x_q @ self.w_q", "x_q @ self.w_q.T"),
        ("x_kv @ self.w_k", "x_kv @ self.w_k.T"),
        ("x_kv @ self.w_v", "x_kv @ self.w_v.T"),
        ("merged @ self.w_o", "merged @ self.w_o.T"),
    ],
    "only the output projection is transposed": ("merged @ self.w_o", "merged @ self.w_o.T"),
    "the keys are projected with w_q": ("x_kv @ self.w_k", "x_kv @ self.w_q"),
    "the values are projected with w_k": ("x_kv @ self.w_v", "x_kv @ self.w_k"),
    "the values are not projected": ("x_kv @ self.w_v", "x_kv"),
    "x_kv is ignored: the keys and the values come from x_q": (
        "if x_kv is None:\n            x_kv = x_q",
        "x_kv = x_q",
    ),
    "the values come from x_q and not from x_kv": ("x_kv @ self.w_v", "x_q @ self.w_v"),
    "the mask is inverted: True is taken to mean that attention is forbidden": (
        "attention(q, k, v, mask)",
        "attention(q, k, v, None if mask is None else ~mask)",
    ),
    "the mask never reaches the attention": ("attention(q, k, v, mask)", "attention(q, k, v)"),
    "a mask (B, T_q, T_k) is lined up with the heads and not with the sequences": (
        "mask = mask.unsqueeze(1)",
        "mask = mask",
    ),
    "a causal mask is applied although nobody asked for one": (
        "attention(q, k, v, mask)",
        "attention(q, k, v, torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril() if mask is None else mask)",
    ),
    "the input is added to the output, which is the work of the block around the attention": (
        "output = merged @ self.w_o",
        "output = x_q + merged @ self.w_o",
    ),
    "the weights come back detached, so no gradient flows through them": (
        "return output, weights",
        "return output, weights.detach()",
    ),
    "the matrices are used through .data, so they get no gradient and never learn": [
        ("self.w_q, self.n_heads", "self.w_q.data, self.n_heads"),
        ("self.w_k, self.n_heads", "self.w_k.data, self.n_heads"),
        ("self.w_v, self.n_heads", "self.w_v.data, self.n_heads"),
    ],
    "the matrices are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(",
        "(",
        "all",
    ),
    "the first weights have variance 1": ("spread = 1 / math.sqrt(d_model)", "spread = 1.0"),
    "the first weights have variance 1 / d_k": (
        "spread = 1 / math.sqrt(d_model)",
        "spread = 1 / math.sqrt(d_model // n_heads)",
    ),
    "the first weights have a standard deviation (not a variance) of 1 / d_model": (
        "spread = 1 / math.sqrt(d_model)",
        "spread = 1 / d_model",
    ),
    "the first weights are uniform between 0 and 1, not centred on zero": ("torch.randn(", "torch.rand(", "all"),
    "every matrix restarts the generator, so all four begin equal": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
        "all",
    ),
    "the seed is ignored": ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
    "the first weights are uniform between -1 / sqrt(d_model) and 1 / sqrt(d_model): a third of the variance": (
        "spread * torch.randn(shape, generator=generator)",
        "torch.empty(shape).uniform_(-spread, spread, generator=generator)",
        "all",
    ),
    "an n_heads that does not divide d_model is accepted": (
        "if n_heads < 1 or d_model % n_heads != 0:",
        "if n_heads < 1:",
    ),
    "the attribute n_heads is missing": ("self.n_heads", "self.heads", "all"),
    "split and merge are both a reshape alone": [
        (
            "q = split_heads(x_q @ self.w_q, self.n_heads)",
            "q = (x_q @ self.w_q).reshape(len(x_q), self.n_heads, x_q.shape[1], -1)",
        ),
        (
            "k = split_heads(x_kv @ self.w_k, self.n_heads)",
            "k = (x_kv @ self.w_k).reshape(len(x_q), self.n_heads, x_kv.shape[1], -1)",
        ),
        (
            "v = split_heads(x_kv @ self.w_v, self.n_heads)",
            "v = (x_kv @ self.w_v).reshape(len(x_q), self.n_heads, x_kv.shape[1], -1)",
        ),
        ("merged = merge_heads(heads)", "merged = heads.reshape(x_q.shape)"),
    ],
    "the queries and the keys have changed places": ("attention(q, k, v, mask)", "attention(k, q, v, mask)"),
    "the keys and the values have changed places": ("attention(q, k, v, mask)", "attention(q, v, k, mask)"),
    "the queries come from x_kv and not from x_q": ("x_q @ self.w_q", "x_kv @ self.w_q"),
    "the mask is transposed": ("attention(q, k, v, mask)", "attention(q, k, v, None if mask is None else mask.mT)"),
    "every mask gets a new axis, and only a mask with three axes needs one": (
        "if mask is not None and mask.ndim == 3:",
        "if mask is not None:",
    ),
    "forward returns the output alone": ("return output, weights", "return output"),
    "a softmax of your own gives NaN for a query that may attend to nothing": (
        "heads, weights = attention(q, k, v, mask)  #",
        "scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])\n        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)\n        weights = torch.softmax(scores, dim=-1)\n        heads = weights @ v  #",
    ),
    "a softmax of your own puts -1e9 where -inf belongs, so a query that may attend to nothing attends to everything": (
        "heads, weights = attention(q, k, v, mask)  #",
        "scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])\n        scores = scores if mask is None else scores.masked_fill(~mask, -1e9)\n        weights = torch.softmax(scores, dim=-1)\n        heads = weights @ v  #",
    ),
}

# %% [markdown]
# ## Exercise 3 · `count_parameters`
#
# How much do heads cost? Count the parameters of a multi-head attention, for any width `d_k` of a head. Then turn the
# question round: how wide is the single head that you could have for the same number of parameters?
#
# *Difficulty 2 of 5 · 10 minutes · 2 points*


# %% exercise="count_parameters" difficulty=2 minutes=10 forbid=["Linear", "MultiheadAttention", "numel", "parameters"]
def count_parameters(d_model: int, n_heads: int, d_k: int | None = None, bias: bool = False) -> int:
    """How many numbers a multi-head attention has to learn.

    Args:
        d_model: features of a token.
        n_heads: number of heads H, at least 1.
        d_k: features of a head in q, k and v, at least 1; d_model / H where it is left out. With another d_k, w_q, w_k and
            w_v have the shape (d_model, H * d_k), and w_o has the shape (H * d_k, d_model).
        bias: whether each of the four products is followed by adding a vector.

    Raises:
        ValueError: if n_heads or d_k is less than 1, or if d_k is left out and n_heads does not divide d_model.
    """
    ### BEGIN SOLUTION
    if n_heads < 1 or (d_k is None and d_model % n_heads != 0):
        raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
    if d_k is None:
        d_k = d_model // n_heads
    if d_k < 1:
        raise ValueError(f"d_k must be at least 1, got {d_k}")
    inner = n_heads * d_k  # all heads side by side
    matrices = 3 * d_model * inner + inner * d_model
    vectors = 3 * inner + d_model if bias else 0
    return matrices + vectors
    ### END SOLUTION


def single_head_width(d_model: int, budget: int, bias: bool = False) -> int:
    """The largest d_k for which an attention with one head of that width has at most ``budget`` parameters.

    Args:
        d_model, bias: as in `count_parameters`.
        budget: how many parameters there may be. The head may well be wider than d_model.

    Raises:
        ValueError: if the budget does not suffice for d_k = 1.
    """
    ### BEGIN SOLUTION
    fixed = d_model if bias else 0  # the bias of the output
    each = 4 * d_model + (3 if bias else 0)  # what one more feature of the head costs
    width = (budget - fixed) // each
    if width < 1:
        raise ValueError(f"a head of width 1 has {fixed + each} parameters, the budget is {budget}")
    return width
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write down the shapes of the four matrices. Only <code>n_heads * d_k</code> appears in them, never the two
# apart.</details>
# <details><summary>A bigger nudge</summary>A bias is as long as the output of its product. Three of the four products end in the heads, one ends in the
# model. For the width: the count grows by the same number with each further feature, so one division is enough.</details>

# %% test="count_parameters" points=2
from coursekit import check

import torch
from torch import nn

for n_heads in (1, 12):
    oracle = nn.MultiheadAttention(768, n_heads, bias=False, device="meta")
    check.equal(
        count_parameters(768, n_heads),
        sum(p.numel() for p in oracle.parameters()),
        f"d_model=768, {n_heads} heads, counted by PyTorch",
    )
check.equal(
    single_head_width(768, count_parameters(768, 12)), 768, "one head of full width costs as much as twelve narrow ones"
)
check.equal(count_parameters(10, 3, d_k=4, bias=True), 526, "d_model=10, 3 heads of d_k=4, with biases")
check.raises(ValueError, lambda: count_parameters(768, 7), "7 heads cannot share 768 features")
### BEGIN HIDDEN TESTS
for d_model, n_heads in ((60, 6), (60, 1), (60, 60), (7, 7)):
    for bias in (False, True):
        oracle = nn.MultiheadAttention(d_model, n_heads, bias=bias, device="meta")
        found = count_parameters(d_model, n_heads, bias=bias)
        check.equal(
            found, sum(p.numel() for p in oracle.parameters()), f"d_model={d_model}, {n_heads} heads, bias={bias}"
        )
for d_model, n_heads, d_k in ((60, 6, 60), (60, 7, 4), (5, 3, 11), (60, 1, 1), (1, 2, 3)):
    for bias in (False, True):
        inner = n_heads * d_k
        layers = [nn.Linear(d_model, inner, bias, device="meta") for _ in "qkv"] + [
            nn.Linear(inner, d_model, bias, device="meta")
        ]
        found = count_parameters(d_model, n_heads, d_k, bias)
        check.equal(
            found,
            sum(p.numel() for layer in layers for p in layer.parameters()),
            f"d_model={d_model}, {n_heads} heads of d_k={d_k}, bias={bias}",
        )
for arguments in ((12, 0), (12, -2), (12, 24), (12, 3, 0), (12, 3, -4), (12, 0, 4)):
    check.raises(ValueError, lambda arguments=arguments: count_parameters(*arguments), f"count_parameters{arguments}")
for d_model in (1, 10, 64):
    for bias in (False, True):
        smallest = 4 * d_model + (3 + d_model if bias else 0)
        for budget in (smallest, smallest + 1, 1_234, 5_000, 98_765):
            if budget >= smallest:
                width = single_head_width(d_model, budget, bias)
                fits = [4 * d_model * w + (3 * w + d_model if bias else 0) <= budget for w in (width, width + 1)]
                check.equal(
                    fits,
                    [True, False],
                    f"d_model={d_model}, budget {budget}, bias={bias}: the width fits, and the next does not",
                )
        for budget in (smallest - 1, 0):
            check.raises(
                ValueError,
                lambda budget=budget, d_model=d_model, bias=bias: single_head_width(d_model, budget, bias),
                "the budget does not suffice",
            )
### END HIDDEN TESTS


# %% alternative="count_parameters"
def count_parameters(d_model, n_heads, d_k=None, bias=False):
    if n_heads <= 0:
        raise ValueError("n_heads")
    if d_k is None:
        d_k, rest = divmod(d_model, n_heads)
        if rest:
            raise ValueError("n_heads")
    if d_k <= 0:
        raise ValueError("d_k")
    shapes = [(d_model, n_heads * d_k)] * 3 + [(n_heads * d_k, d_model)]
    return sum(rows * columns + bias * columns for rows, columns in shapes)


def single_head_width(d_model, budget, bias=False):
    width = 0
    while count_parameters(d_model, 1, width + 1, bias) <= budget:
        width += 1
    if not width:
        raise ValueError("budget")
    return width


# %% mistakes="count_parameters"
{
    "the output projection is not counted": (
        "matrices = 3 * d_model * inner + inner * d_model",
        "matrices = 3 * d_model * inner",
    ),
    "every head is counted at full width, d_model": ("        d_k = d_model // n_heads", "        d_k = d_model"),
    "only one head is counted": ("inner = n_heads * d_k", "inner = d_k"),
    "the output projection is counted as (d_model, d_model) whatever d_k is": (
        "+ inner * d_model",
        "+ d_model * d_model",
    ),
    "the given d_k is ignored": (
        "    if d_k is None:\n        d_k = d_model // n_heads",
        "    d_k = d_model // n_heads",
    ),
    "the output bias is counted as long as all heads together": (
        "3 * inner + d_model if bias else 0",
        "4 * inner if bias else 0",
    ),
    "the output bias is left out": ("3 * inner + d_model if bias else 0", "3 * inner if bias else 0"),
    "the biases are always counted": ("vectors = 3 * inner + d_model if bias else 0", "vectors = 3 * inner + d_model"),
    "the biases are never counted": ("vectors = 3 * inner + d_model if bias else 0", "vectors = 0"),
    "an n_heads that does not divide d_model is rounded away": (
        "if n_heads < 1 or (d_k is None and d_model % n_heads != 0):",
        "if n_heads < 1:",
    ),
    "the width is rounded up, so the head is over the budget": (
        "width = (budget - fixed) // each",
        "width = -((fixed - budget) // each)",
    ),
    "the output bias is not taken off the budget before the division": (
        "width = (budget - fixed) // each",
        "width = budget // each",
    ),
    "a width of 0 is returned when the budget is too small": ("if width < 1:", "if width < 0:"),
    "all four biases are counted as long as d_model": (
        "3 * inner + d_model if bias else 0",
        "4 * d_model if bias else 0",
    ),
    "single_head_width forgets the biases": [
        ("fixed = d_model if bias else 0", "fixed = 0"),
        ("each = 4 * d_model + (3 if bias else 0)", "each = 4 * d_model"),
    ],
    "single_head_width lets the output bias grow with d_k": (
        "(3 if bias else 0)",
        "(4 if bias else 0)",
    ),
    "the width is rounded to the nearest, so it may be over the budget": (
        "width = (budget - fixed) // each",
        "width = round((budget - fixed) / each)",
    ),
    "the width that is returned is the first one over the budget": ("return width", "return width + 1"),
    "a head that costs exactly the budget is refused": (
        "width = (budget - fixed) // each",
        "width = (budget - fixed - 1) // each",
    ),
}

# %% [markdown]
# So heads are free, as far as parameters go: only the product `n_heads * d_k` counts. They are not free in memory.
# Each head has attention weights of its own, together `H * T_q * T_k` numbers for each sequence, and in training they are kept for the
# backward pass. Chapter 10 is about not keeping them.
#
# ## Exercise 4 · `ablate_head`
#
# To find out what a head does, take it away and look at what changes. That is called *ablation*. Write `ablate_head`:
# the output of the module with the share of one head left out. There are two ways to leave it out. With zero, the
# share is gone. With the mean, it is replaced by its average over all tokens of the batch: what the head says about
# *this* token is gone, and what it says always stays.
#
# *Difficulty 3 of 5 · 15 minutes · 3 points*


# %% exercise="ablate_head" difficulty=3 minutes=15
def ablate_head(
    mha: MultiHeadAttention, x: torch.Tensor, head: int, mask: torch.Tensor | None = None, baseline: str = "zero"
) -> torch.Tensor:
    """The output of self-attention without the contribution of one head.

    The contribution of head h is its own result (B, T, d_k) times its own rows of w_o; the output is the sum of all
    contributions. The module is not changed: its parameters afterwards are what they were before.

    Args:
        mha: your module.
        x: (B, T, d_model), of the parameters' dtype.
        head: which head, from 0 to H - 1.
        mask: as in `MultiHeadAttention.forward`.
        baseline: what stands in for the contribution: "zero", or "mean", its mean over the batch and the tokens.

    Returns:
        The output (B, T, d_model).

    Raises:
        ValueError: if head is not in 0 .. H - 1, or if baseline is neither "zero" nor "mean".
    """
    ### BEGIN SOLUTION
    if head < 0 or head >= mha.n_heads:
        raise ValueError(f"head must be in 0..{mha.n_heads - 1}, got {head}")
    if baseline not in ("zero", "mean"):
        raise ValueError(f'baseline must be "zero" or "mean", got {baseline!r}')
    output, weights = mha(x, mask=mask)  # (B, T, d_model), (B, H, T, T)
    d_k = x.shape[-1] // mha.n_heads
    block = slice(head * d_k, (head + 1) * d_k)
    found = weights[:, head] @ (x @ mha.w_v[:, block])  # (B, T, T) @ (B, T, d_k) -> (B, T, d_k)
    contribution = found @ mha.w_o[block]  # (B, T, d_k) @ (d_k, d_model) -> (B, T, d_model)
    stand_in = contribution.mean(dim=(0, 1)) if baseline == "mean" else 0.0  # (d_model,)
    return output - contribution + stand_in
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Look at the sum in "The idea": the output is a sum over heads. You have everything that one term of it needs: the
# weights that the module returns, <code>w_v</code> and <code>w_o</code>.</details>
# <details><summary>A bigger nudge</summary>A head owns columns of <code>w_v</code> and rows of <code>w_o</code>. Compute its term, and subtract it from the full
# output.</details>

# %% test="ablate_head" points=3
from coursekit import check

import torch
from torch import nn

# Three heads, every matrix the identity, one token: a head's result is its own block of the token.
mha = MultiHeadAttention(6, 3)
mha.load_state_dict({name: torch.eye(6) for name in ("w_q", "w_k", "w_v", "w_o")})
token = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]])
check.close(
    torch.cat([ablate_head(mha, token, head)[0] for head in range(3)]),
    torch.tensor([[0.0, 0, 3, 4, 5, 6], [1, 2, 0, 0, 5, 6], [1, 2, 3, 4, 0, 0]]),
    "one token through identity matrices, without head 0, 1 and 2 (one row for each)",
)
check.raises(ValueError, lambda: ablate_head(mha, token, 3), "there is no head 3 of three")
check.raises(ValueError, lambda: ablate_head(mha, token, 0, baseline="median"), "there is no such baseline")
### BEGIN HIDDEN TESTS


def without_head(state, n_heads, head, x, mask, baseline):
    d_model = state["w_o"].shape[0]
    d_k = d_model // n_heads
    twin = nn.MultiheadAttention(d_model, n_heads, bias=False, batch_first=True, dtype=x.dtype)
    stacked = torch.cat([state["w_q"].T, state["w_k"].T, state["w_v"].T])
    results = []
    for zeroed in (False, True):
        w_o = state["w_o"].clone()
        if zeroed:
            w_o[head * d_k : (head + 1) * d_k] = 0
        twin.load_state_dict({"in_proj_weight": stacked, "out_proj.weight": w_o.T})
        results.append(twin(x, x, x, attn_mask=None if mask is None else ~mask)[0].detach())
    full, rest = results
    return rest + (full - rest).flatten(0, 1).mean(0) if baseline == "mean" else rest


for batch, length, d_model, n_heads in ((3, 13, 60, 6), (1, 5, 12, 3), (2, 6, 6, 6), (2, 4, 8, 1)):
    drawn = torch.randn(
        4, d_model, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(length))
    )
    state = dict(zip(("w_q", "w_k", "w_v", "w_o"), drawn / d_model**0.5, strict=True))
    mha = MultiHeadAttention(d_model, n_heads)
    mha.double()
    mha.load_state_dict(state)
    x = torch.randn(
        length, batch, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(batch))
    ).transpose(0, 1)
    for mask in (None, torch.ones(length, length, dtype=torch.bool).tril()):
        for head in {0, n_heads // 2, n_heads - 1}:
            for baseline in ("zero", "mean"):
                case = f"B={batch}, T={length}, head {head} of {n_heads}, {'no' if mask is None else 'causal'} mask, baseline {baseline!r}"
                want = without_head(state, n_heads, head, x, mask, baseline)
                check.close(ablate_head(mha, x, head, mask, baseline), want, case, atol=1e-9)
    for name, w in mha.state_dict().items():
        check.equal(w, state[name], f"{name} is what it was before the ablation")
    for bad in (-1, n_heads, n_heads + 1):
        check.raises(ValueError, lambda bad=bad, mha=mha, x=x: ablate_head(mha, x, bad), f"head {bad} of {n_heads}")
mha = MultiHeadAttention(12, 3, seed=1)
x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(check.seed(0)))
check.close(
    ablate_head(mha, x, 1),
    without_head(mha.state_dict(), 3, 1, x, None, "zero"),
    "float32, without head 1; the baseline is zero where it is left out",
)
### END HIDDEN TESTS


# %% alternative="ablate_head"
@torch.no_grad()
def ablate_head(mha, x, head, mask=None, baseline="zero"):
    import copy

    if head not in range(mha.n_heads) or baseline not in {"zero", "mean"}:
        raise ValueError(head, baseline)
    d_k = mha.w_o.shape[0] // mha.n_heads
    other = copy.deepcopy(mha)
    other.w_o.data[head * d_k : (head + 1) * d_k] = 0
    full, rest = mha(x, mask=mask)[0], other(x, mask=mask)[0]
    return rest if baseline == "zero" else rest + (full - rest).flatten(0, 1).mean(0)


# %% mistakes="ablate_head"
{
    "the head's columns of the output are zeroed, but w_o has mixed all heads into every column": (
        "    return output - contribution + stand_in",
        "    output = output.clone(); output[..., block] = 0 if baseline == 'zero' else output[..., block].mean(dim=(0, 1))\n    return output",
    ),
    "the head's weights are made uniform, and they should have no effect at all": (
        "    return output - contribution + stand_in",
        "    uniform = (x @ mha.w_v[:, block]).mean(1, keepdim=True) @ mha.w_o[block]\n    return output - contribution + (uniform if baseline == 'zero' else stand_in)",
    ),
    "the contribution of the head is returned, and not what is left without it": (
        "return output - contribution + stand_in",
        "return contribution - stand_in",
    ),
    "the mask is not passed on to the module": ("mha(x, mask=mask)", "mha(x)"),
    "the mask is passed to the module in the place of x_kv": ("mha(x, mask=mask)", "mha(x, mask)"),
    "the wrong block is taken: heads are counted from 1": (
        "block = slice(head * d_k, (head + 1) * d_k)",
        "block = slice((head - 1) * d_k, head * d_k)",
    ),
    "the head's result is subtracted from its own columns of the output, without w_o": (
        "    return output - contribution + stand_in",
        "    output = output.clone(); output[..., block] -= found - (found.mean(dim=(0, 1)) if baseline == 'mean' else 0.0)\n    return output",
    ),
    "the head's columns of w_o are used, and it owns rows": ("found @ mha.w_o[block]", "found @ mha.w_o[:, block].T"),
    "the head's rows of w_v are used, and it owns columns": ("mha.w_v[:, block]", "mha.w_v[block].T"),
    "every H-th feature is taken, and not the head's block": (
        "block = slice(head * d_k, (head + 1) * d_k)",
        "block = slice(head, None, mha.n_heads)",
    ),
    "the weights are averaged over the heads before they meet the head's values": (
        "weights[:, head] @",
        "weights.mean(1) @",
    ),
    "the remaining heads are scaled up, as dropout would": (
        "return output - contribution + stand_in",
        "return (output - contribution) * (mha.n_heads / max(mha.n_heads - 1, 1)) + stand_in",
    ),
    "the mean is taken over the tokens of each sequence and not over the batch": (
        "contribution.mean(dim=(0, 1))",
        "contribution.mean(dim=1, keepdim=True)",
    ),
    "the mean is taken over the batch and not over the tokens": (
        "contribution.mean(dim=(0, 1))",
        "contribution.mean(dim=0)",
    ),
    "the mean is taken over the features as well, so it is a single number": (
        "contribution.mean(dim=(0, 1))",
        "contribution.mean()",
    ),
    "the contribution is doubled and not removed": (
        "return output - contribution + stand_in",
        "return output + contribution + stand_in",
    ),
    "the mean is that of the whole output and not of the head's contribution": (
        "contribution.mean(dim=(0, 1))",
        "output.mean(dim=(0, 1))",
    ),
    "the baseline is ignored: the contribution is always replaced by zero": ('if baseline == "mean" else 0.0', "* 0.0"),
    "the module's own parameters are overwritten with zeros and never restored": (
        "    return output - contribution + stand_in",
        "    with torch.no_grad():\n        mha.w_o[block] = 0\n    return mha(x, mask=mask)[0] + stand_in",
    ),
    "a negative head counts from the end and raises no error": (
        "if head < 0 or head >= mha.n_heads:",
        "head = head + mha.n_heads if head < 0 else head\n    if head >= mha.n_heads:",
    ),
}

# %% [markdown]
# For the last exercise it helps to have a module in which you know what every head does. The next cell builds one by
# hand, with the task that it solves. Read how each head's four blocks make it do its job.

# %% given
VOCABULARY = LENGTH = 16
HEAD_NAMES = ["previous token, half of it", "previous token, the other half", "same token", "first token"]


def previous_token_task(n_sequences: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random sequences and what should be computed from them: x and target, both (n_sequences, 16, 64).

    Features 0-15 of x name the token (one-hot; every sequence begins with token 0) and 16-31 its position; the rest is zero.
    Features 32-47 of the target are a sum of three parts: 1 at the previous token (the first counts as its own
    predecessor), -0.4 at the token itself, and 0.25 everywhere.
    """
    tokens = torch.randint(1, VOCABULARY, (n_sequences, LENGTH), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    own = torch.eye(VOCABULARY)[tokens]  # (B, T, 16)
    previous = torch.cat([own[:, :1], own[:, :-1]], dim=1)
    x, target = torch.zeros(2, n_sequences, LENGTH, 64)
    x[..., 0:16], x[..., 16:32] = own, torch.eye(LENGTH)
    target[..., 32:48] = previous - 0.4 * own + 0.25
    return x, target


def known_heads() -> dict[str, torch.Tensor]:
    """The state of a MultiHeadAttention(64, 4) that solves the task: each head's job is in HEAD_NAMES.

    A query asks for a position, a key says its position, a value says the token, and w_o writes to features 32-47.
    """
    w_q, w_k, w_v, w_o = torch.zeros(4, 64, 64)
    here, one = torch.arange(LENGTH), torch.eye(VOCABULARY)
    wanted = [(here - 1).clamp(min=0), (here - 1).clamp(min=0), here, torch.zeros_like(here)]
    written = [0.5 * one, 0.5 * one, -0.4 * one, 0.25 * torch.ones(VOCABULARY, VOCABULARY)]
    for h in range(4):
        block = slice(16 * h, 16 * (h + 1))
        w_q[16:32, block] = 100 * torch.eye(LENGTH)[wanted[h]]
        w_k[16:32, block] = torch.eye(LENGTH)
        w_v[0:16, block] = one
        w_o[block, 32:48] = written[h]
    return {"w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": w_o}


# %% [markdown]
# ## Exercise 5 · `head_importance`
#
# A head may change the output a lot and still not matter, because nothing depends on that change. So measure what you
# care about: by how much does the error grow when the head is gone?
#
# *Difficulty 2 of 5 · 10 minutes · 2 points*


# %% exercise="head_importance" difficulty=2 minutes=10
def head_importance(
    mha: MultiHeadAttention,
    x: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    baseline: str = "zero",
) -> torch.Tensor:
    """How much the mean squared error grows when a head is ablated, for each head alone.

    Args:
        mha: your module.
        x: (B, T, d_model), of the parameters' dtype.
        target: (B, T, d_model), what the output of self-attention should be.
        mask, baseline: as in `ablate_head`.

    Returns:
        Tensor (H,) of x's dtype: the error without head h minus the error of the whole module. It is negative for a head
        that does harm. The error is the mean over all numbers of the output.

    Source: Michel, Levy and Neubig, Are Sixteen Heads Really Better than One?, 2019, section 3.
    """
    ### BEGIN SOLUTION
    whole = (mha(x, mask=mask)[0] - target).square().mean()
    without = [(ablate_head(mha, x, h, mask, baseline) - target).square().mean() for h in range(mha.n_heads)]
    return torch.stack(without) - whole  # (H,)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>One error for the whole module, and one for each head that you take away.</details>
# <details><summary>A bigger nudge</summary>Keep the sign: a head that makes things worse has a negative importance. And pass <code>mask</code> and <code>baseline</code>
# on; the whole module takes the mask too.</details>

# %% test="head_importance" points=2
from coursekit import check

import torch
from torch import nn

mha = MultiHeadAttention(64, 4)
mha.load_state_dict(known_heads())
x, target = previous_token_task(4, seed=0)
# Without head 0 each token lacks 0.5 at one of 64 features: an error of 0.25 / 64. Head 2: 0.16 / 64. Head 3: 16 times 0.0625 / 64.
by_hand = torch.tensor([0.25, 0.25, 0.16, 1.0]) / 64
check.close(head_importance(mha, x, target), by_hand, "the four known heads, zero as the baseline", atol=1e-6)
check.close(
    head_importance(mha, x, target, baseline="mean")[3],
    0.0,
    "the first-token head says the same to every token: its mean replaces it",
    atol=1e-6,
)
### BEGIN HIDDEN TESTS


def error_growth(state, n_heads, x, target, mask, baseline):
    d_model = state["w_o"].shape[0]
    d_k = d_model // n_heads
    twin = nn.MultiheadAttention(d_model, n_heads, bias=False, batch_first=True, dtype=x.dtype)
    stacked = torch.cat([state["w_q"].T, state["w_k"].T, state["w_v"].T])

    def output(w_o):
        twin.load_state_dict({"in_proj_weight": stacked, "out_proj.weight": w_o.T})
        return twin(x, x, x, attn_mask=None if mask is None else ~mask)[0].detach()

    full, growth = output(state["w_o"]), []
    for head in range(n_heads):
        w_o = state["w_o"].clone()
        w_o[head * d_k : (head + 1) * d_k] = 0
        rest = output(w_o)
        stand_in = (full - rest).flatten(0, 1).mean(0) if baseline == "mean" else 0
        growth.append(nn.functional.mse_loss(rest + stand_in, target) - nn.functional.mse_loss(full, target))
    return torch.stack(growth)


for batch, length, d_model, n_heads in ((3, 7, 60, 6), (1, 5, 12, 1)):
    drawn = torch.randn(
        4, d_model, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(3))
    )
    state = dict(zip(("w_q", "w_k", "w_v", "w_o"), drawn / d_model**0.5, strict=True))
    mha = MultiHeadAttention(d_model, n_heads)
    mha.double()
    mha.load_state_dict(state)
    x, target = torch.randn(
        2, batch, length, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(4))
    )
    for mask in (None, torch.ones(length, length, dtype=torch.bool).tril()):
        for baseline in ("zero", "mean"):
            case = f"B={batch}, T={length}, {n_heads} heads, {'no' if mask is None else 'causal'} mask, baseline {baseline!r}, random target"
            want = error_growth(state, n_heads, x, target, mask, baseline)
            check.close(head_importance(mha, x, target, mask, baseline), want, case, atol=1e-9)
mha = MultiHeadAttention(12, 3, seed=1)
x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(check.seed(0)))
target = mha(x)[0].detach()
found = head_importance(mha, x, target)
check.close(found, error_growth(mha.state_dict(), 3, x, target, None, "zero"), "float32; the module is its own target")
### END HIDDEN TESTS


# %% alternative="head_importance"
def head_importance(mha, x, target, mask=None, baseline="zero"):
    with torch.no_grad():
        full = nn.functional.mse_loss(mha(x, None, mask)[0], target).item()
        growth = x.new_zeros(mha.n_heads)
        for h in range(mha.n_heads):
            growth[h] = (
                nn.functional.mse_loss(ablate_head(mha, x, h, mask=mask, baseline=baseline), target).item() - full
            )
    return growth


# %% mistakes="head_importance"
{
    "the sign is reversed: whole minus ablated": (
        "return torch.stack(without) - whole",
        "return whole - torch.stack(without)",
    ),
    "the error without the head is returned, with nothing subtracted": (
        "return torch.stack(without) - whole",
        "return torch.stack(without)",
    ),
    "the change of the output is measured, and the target plays no part": (
        "(ablate_head(mha, x, h, mask, baseline) - target).square()",
        "whole + (ablate_head(mha, x, h, mask, baseline) - mha(x, mask=mask)[0]).square()",
    ),
    "the squared errors are added up and not averaged": (".square().mean()", ".square().sum()", "all"),
    "the features are added up and only the tokens averaged": (".square().mean()", ".square().sum(-1).mean()", "all"),
    "the absolute error is taken and not the squared one": (".square().mean()", ".abs().mean()", "all"),
    "the root of the mean squared error is taken": (".square().mean()", ".square().mean().sqrt()", "all"),
    "the importances are scaled to sum to one": (
        "return torch.stack(without) - whole",
        "return (torch.stack(without) - whole) / (torch.stack(without) - whole).sum()",
    ),
    "the sign is thrown away": ("return torch.stack(without) - whole", "return (torch.stack(without) - whole).abs()"),
    "the growth is divided by the error of the whole module": (
        "return torch.stack(without) - whole",
        "return (torch.stack(without) - whole) / whole",
    ),
    "the baseline is not passed on": ("mask, baseline) - target", "mask) - target"),
    "the mask is not passed on to the ablated module": ("x, h, mask, baseline)", "x, h, None, baseline)"),
    "the whole module is run without the mask": ("mha(x, mask=mask)[0] - target", "mha(x)[0] - target"),
    "the mask is ignored": [
        ("mha(x, mask=mask)[0] - target", "mha(x)[0] - target"),
        ("x, h, mask, baseline)", "x, h, None, baseline)"),
    ],
    "the mask is passed to the module in the place of x_kv": (
        "mha(x, mask=mask)[0] - target",
        "mha(x, mask)[0] - target",
    ),
    "the heads are numbered in reverse": ("for h in range(mha.n_heads)", "for h in reversed(range(mha.n_heads))"),
}

# %% [markdown]
# ## Look at it
#
# First the module whose heads you know. Then the same task, learned: a fresh module of the same size is trained on it
# for a few seconds. The bars show what each head is worth under both baselines; hover to see how much of its weight a
# head gives to the previous token, to the same token and to the first.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

torch.set_num_threads(1)
by_hand = MultiHeadAttention(64, 4)
by_hand.load_state_dict(known_heads())

trained = MultiHeadAttention(64, 4, seed=0)
optimiser = torch.optim.Adam(trained.parameters(), lr=3e-3)
for step in range(400):
    x, target = previous_token_task(32, seed=1_000 + step)
    loss = (trained(x)[0] - target).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

x, target = previous_token_task(256, seed=0)
with torch.no_grad():
    modules = {"written by hand": by_hand, "trained": trained}
    figure = make_subplots(rows=1, cols=2, subplot_titles=list(modules), shared_yaxes=True, horizontal_spacing=0.06)
    for panel, (name, module) in enumerate(modules.items(), start=1):
        output, weights = module(x)
        error = (output - target).square().mean()
        print(f"{name}: mean squared error {error:.5f}; it would be {target.square().mean():.5f} for an output of zero")
        late = torch.arange(2, LENGTH)  # from the third token on, previous, same and first are three different tokens
        looks = torch.stack(
            [weights[:, :, late, seen].mean(dim=(0, 2)) for seen in (late - 1, late, 0 * late)], dim=1
        )  # (H, 3)
        jobs = [f"weight on previous {p:.2f}, same {s:.2f}, first {f:.2f}" for p, s, f in looks]
        print("\n".join(f"    head {h}: {job}" for h, job in enumerate(jobs)))
        for colour, baseline in zip(plots.COLOURS, ("zero", "mean"), strict=False):
            grown = head_importance(module, x, target, baseline=baseline)
            print(f"    without one head, {baseline} in its place: " + ", ".join(f"{value:.5f}" for value in grown))
            figure.add_trace(
                go.Bar(
                    x=[0, 1, 2, 3],
                    y=grown,
                    name=f"{baseline} in its place",
                    marker_color=colour,
                    legendgroup=baseline,
                    showlegend=panel == 1,
                    customdata=jobs,
                    hovertemplate="head %{x}<br>%{customdata}<br>error grows by %{y:.5f}<extra></extra>",
                ),
                row=1,
                col=panel,
            )
        figure.update_xaxes(title_text="head", dtick=1, row=1, col=panel)
    figure.update_yaxes(title_text="growth of the mean squared error", col=1)
    figure.update_layout(height=380, barmode="group", legend={"orientation": "h", "y": -0.25})
    figure.show()

    pair = known_heads()
    pair["w_o"][:32] = 0  # both previous-token heads at once
    by_hand.load_state_dict(pair)
    both = (by_hand(x)[0] - target).square().mean()
    by_hand.load_state_dict(known_heads())
    one_each = head_importance(by_hand, x, target)[:2].sum()
    print(f"heads 0 and 1 of the hand-made module: one at a time {one_each:.5f} in sum, both at once {both:.5f}")

# %% [markdown]
# In the hand-made module the first-token head towers over the others under one baseline, and vanishes under the
# other. It looks at the same token always and adds the same vector to every output: it is a bias in disguise. Zero in
# its place breaks the output. Its mean in its place breaks nothing. Which of the two would you report as "the
# importance" of that head?
#
# Then look at the last line. Each previous-token head does half of the job. Taking one away leaves half an error, and
# half squared is a quarter. Taking both away costs twice the sum of the two. Someone who ablates heads one at a time
# and prunes everything below a threshold: what goes wrong here?
#
# In the trained module, is there a head for each job? Change `seed=0` of the module and run the cell again, a few
# times. Is the division of labour a property of the task, or of the seed?
#
# ## Common mistakes
#
# - **A reshape where a transpose is missing.** `x.reshape(B, H, T, d_k)` has the right shape and the wrong content: a
#   head sees a few of the tokens and none of the others. It even survives a round trip, because the wrong merge
#   undoes the wrong split. Test with values, never with shapes alone.
# - **Scaling by `sqrt(d_model)`.** The softmax is flatter than it should be, by a factor of `sqrt(n_heads)` in the
#   scores. The module still trains. With one head there is no difference, so a test with one head is no test.
# - **A `(B, T_q, T_k)` mask beside `(B, H, T_q, T_k)` scores.** Broadcasting lines up axes from the right, so the
#   batch axis meets the head axis. When B differs from H, and neither is 1,
#   you get an error and are lucky. When they are equal, sequence 2's mask is applied to head 2 of all sequences.
# - **Features cut as `(d_k, H)`.** The module agrees with itself and trains well. It disagrees with every set of
#   weights from elsewhere.
# - **No output projection.** The heads stay side by side, and no feature of the output can use two of them.
# - **Four matrices from one seed.** With `w_q` equal to `w_k` the scores start out symmetric: a looks at b as b looks
#   at a, and a token tends to like itself best.
#
# More of these, each with an example that runs, are on the page [Pitfalls](../../book/ch01_attention/pitfalls.md).
# The next lab, [Lab 1.4](lab04_pytorch_comparison.ipynb), puts your module beside PyTorch's.
#
# ## Going further
#
# - **All heads in one backward pass.** Multiply each head's contribution by a gate that is 1, and take the gradient
#   of the error with respect to the gates. To first order it predicts the growth of the error for all heads at once.
#   Compare it with `head_importance`. For which heads is the first order not enough? The module with known heads has
#   an error of almost zero, so its gradients say almost nothing: use a half-trained module. (Paul Michel, Omer Levy,
#   Graham Neubig, Are Sixteen Heads Really Better than One?, 2019.)
# - **Pruning.** Remove the least important head, train on for a few steps, and repeat. How many heads does the task
#   need? (Elena Voita, David Talbot, Fedor Moiseev, Rico Sennrich, Ivan Titov, Analyzing Multi-Head Self-Attention:
#   Specialized Heads Do the Heavy Lifting, the Rest Can Be Pruned, 2019.)
