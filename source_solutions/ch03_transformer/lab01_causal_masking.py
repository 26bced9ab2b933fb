# ---
# title: Causal masking
# lab: ch03/lab01
# minutes: 90
# difficulty: 3
# hardware: cpu
# needs: [ch01/lab01]
# builds: [causal_mask, sliding_mask, prefix_mask, padding_mask, decoder_mask, additive_mask, masked_softmax, influence, leaks]
# ---

# %% [markdown]
# # Lab 3.1 · Causal masking
#
# ## The idea
#
# A decoder learns by guessing the next token, at every position of a text at once. One pass over 1,000 tokens is 1,000
# exercises. But the answer to each exercise stands in the input, one place further on. The only thing between a model and
# its answers is a table of True and False: the mask. If it is wrong by one diagonal, the loss is wonderful and the model is
# worthless.
#
# For a square table the rule is easy: query $i$ may look at the keys $0 \dots i$. It gets interesting when the table is
# not square. Say that five tokens are known, three of them were dealt with earlier, and two are new: two queries, five
# keys. The queries are the *last* two tokens. So query 0 stands at position 3, query 1 at position 4:
#
# | | key 0 | key 1 | key 2 | key 3 | key 4 |
# |---|---|---|---|---|---|
# | query 0, position 3 | yes | yes | yes | yes | no |
# | query 1, position 4 | yes | yes | yes | yes | yes |
#
# Take the *first* two rows of the usual triangle instead, and query 1 sees the keys 0 and 1 only. Let its scores be
# $0, 0, 0, 0$ and $\ln 16$: it is mostly interested in itself. The right weights are $1/20$ for each old token and
# $16/20 = 0.8$ for its own. The wrong ones are $1/2$ and $1/2$, on the two oldest tokens. Both rows sum to one, and
# nothing crashes. PyTorch's `is_causal=True` does the second thing, on purpose. The course does the first.
#
# In this lab you write the masks that decoders use, for any number of queries and keys. You turn them into numbers
# without ever producing a NaN. And at the end you build what should stand beside every decoder: a test that finds
# leaks without looking at the mask at all. Why decoders are trained this way is on the page
# [Causal masking](../../book/ch03_transformer/causal_masking.md).
#
# ## Shapes
#
# In all masks True means: this query *may look* at this key.
#
# | name | shape | meaning |
# |---|---|---|
# | `T_q` | a number | queries; they are the last `T_q` of the `T_k` tokens |
# | `T_k` | a number | keys: all tokens that are known |
# | position | `i + T_k - T_q` | where query `i` stands among the keys |
# | causal, sliding or prefix mask | `(T_q, T_k)` | the same for all sequences and heads |
# | `lengths` | `(B,)` | real tokens in each sequence of a batch |
# | padding mask | `(B, 1, 1, T)` | one row of keys for each sequence; the two ones stand for heads and queries |
# | decoder mask | `(B, 1, T_q, T_k)` | causal and padding together |
# | `scores`, `weights` | `(..., T_q, T_k)` | before and after the softmax |
# | influence | `(T, T)` | True at `[i, j]`: output `i` depends on token `j` |

# %% given
import math

import torch
from torch import nn

from coursekit import carry

# attention(q, k, v, mask=None) -> (output, weights); True in the mask means: may look
attention = carry("ch01/lab01", "attention")

# %% [markdown]
# ## A picture
#
# Eight tokens are known. Move the slider to choose how many of them are new, and hover to see who looks at whom. The weights
# are computed from random queries and keys, and nothing is drawn where a key is hidden. With fewer than eight queries the two sides differ.
# With one query, as when a model writes its next token, the newest token sees everything on the left. On the right it
# sees the first token and nothing else.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

T_k, start = 8, 3
draw = torch.Generator().manual_seed(0)
q, k = torch.randn(T_k, 16, generator=draw), torch.randn(T_k, 16, generator=draw)
triangle = torch.ones(T_k, T_k, dtype=torch.bool).tril()
figure = make_subplots(
    rows=1,
    cols=2,
    subplot_titles=["last rows of 8 x 8", "first rows of 8 x 8"],
    shared_yaxes=True,
    horizontal_spacing=0.06,
)
for T_q in range(1, T_k + 1):
    for column, mask in enumerate((triangle[-T_q:], triangle[:T_q]), start=1):
        scores = q[-T_q:] @ k.T / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
        places = [[f"token {T_k - T_q + i}"] * T_k for i in range(T_q)]
        heat = go.Heatmap(
            z=[[w or None for w in row] for row in weights.tolist()],  # None: not drawn
            customdata=places,
            zmin=-0.1,
            zmax=1,
            colorscale=plots.WEIGHTS,
            showscale=column == 2,
            colorbar={"title": "weight", "thickness": 12},
            visible=T_q == start,
            xgap=2,
            ygap=2,
            hovertemplate="query %{y} is %{customdata}<br>key %{x}: weight %{z:.2f}<extra></extra>",
        )
        figure.add_trace(heat, row=1, col=column)
steps = [
    {"label": str(n), "method": "update", "args": [{"visible": [i // 2 == n - 1 for i in range(2 * T_k)]}]}
    for n in range(1, T_k + 1)
]
figure.update_xaxes(title_text="key", dtick=1, range=[-0.5, T_k - 0.5], showgrid=False, zeroline=False)
figure.update_yaxes(dtick=1, range=[T_k - 0.5, -0.5], showgrid=False, zeroline=False)
figure.update_yaxes(title_text="query", col=1)
figure.update_annotations(font_size=12)
figure.update_layout(
    height=430,
    sliders=[{"active": start - 1, "steps": steps, "pad": {"t": 60}, "currentvalue": {"prefix": "queries: "}}],
)
figure.show()

# %% [markdown]
# ## Exercise 1 · `causal_mask`
#
# Write the mask of the picture's left side, for any number of queries and keys. There may even be more queries than
# keys. Then the first queries stand before the first key, and have nothing to look at.
#
# *Difficulty 2 of 5 · 10 minutes · 3 points*


# %% exercise="causal_mask" difficulty=2 minutes=10
def causal_mask(T_q: int, T_k: int) -> torch.Tensor:
    """Who may look at whom, when the queries are the last T_q of T_k tokens.

    Query i stands at position i + T_k - T_q. It may look at the key of its own position and at every key before it. So
    the last query sees all keys. Where T_q > T_k, the first T_q - T_k queries may look at nothing.

    Args:
        T_q, T_k: numbers of queries and of keys, at least 1 each.

    Returns:
        Tensor (T_q, T_k) of dtype bool, True = may look.

    Raises:
        ValueError: if T_q or T_k is less than 1.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.3 (for T_q = T_k).
    """
    ### BEGIN SOLUTION
    if T_q < 1 or T_k < 1:
        raise ValueError(f"there must be at least one query and one key, got T_q={T_q} and T_k={T_k}")
    position = torch.arange(T_q) + T_k - T_q  # (T_q,): where each query stands among the keys
    key = torch.arange(T_k)  # (T_k,)
    return key <= position.unsqueeze(-1)  # (T_k,) beside (T_q, 1) -> (T_q, T_k)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>You need two vectors: the positions of the queries, and those of the keys. A comparison of a
# column with a row gives a table.</details>
# <details><summary>A bigger nudge</summary>Fix the last query first: its position is T_k - 1. From there count backwards to query 0.
# Then decide whether the comparison includes equality: may a token look at itself?</details>

# %% test="causal_mask" points=3
from coursekit import check

import torch

yes, no = True, False
square = torch.tensor([[yes, no, no, no], [yes, yes, no, no], [yes, yes, yes, no], [yes, yes, yes, yes]])
two_new = torch.tensor([[yes, yes, yes, yes, no], [yes, yes, yes, yes, yes]])
early = torch.tensor([[no, no], [yes, no], [yes, yes]])
masks = [causal_mask(4, 4), causal_mask(2, 5), causal_mask(3, 2)]
check.equal(masks[0], square, "four queries, four keys: a triangle with its diagonal")
check.equal(
    masks[1],
    two_new,
    "two queries, five keys: the table at the top of the lab",
    hint="Which token is query 0? Two of five tokens are new, and they are the last two.",
)
check.equal(masks[2], early, "three queries, two keys: the first query stands before all keys")
check.equal(causal_mask(1, 5), torch.ones(1, 5, dtype=torch.bool), "one new token sees everything that is known")
check.raises(ValueError, lambda: causal_mask(0, 3), "a mask without queries")
### BEGIN HIDDEN TESTS
import torch.nn.functional as F
from transformers.masking_utils import add_offsets_to_mask_function, causal_mask_function

for T_q, T_k in ((1, 1), (63, 63), (7, 63), (62, 63), (1, 64), (6, 5), (9, 1)):
    rule = add_offsets_to_mask_function(causal_mask_function, T_k - T_q, 0)
    wanted = rule(0, 0, torch.arange(T_q)[:, None], torch.arange(T_k)[None, :])
    check.equal(causal_mask(T_q, T_k), wanted, f"T_q={T_q}, T_k={T_k}: equal to transformers' causal mask")

noise = torch.Generator().manual_seed(check.seed(1))
q, k, v = torch.randn(3, 2, 3, 13, 8, generator=noise, dtype=torch.float64)  # (B, H, T, d_k) = (2, 3, 13, 8)
full = F.scaled_dot_product_attention(q, k, v, is_causal=True)
for T_q in (1, 5, 12, 13):
    step = F.scaled_dot_product_attention(q[:, :, -T_q:], k, v, attn_mask=causal_mask(T_q, 13))
    what = f"the last {T_q} of 13 tokens, computed alone, equal the last rows of the whole causal attention"
    check.close(step, full[:, :, -T_q:], what, atol=1e-10)
for T_q, T_k in ((3, 0), (-1, 3), (3, -1), (0, 0)):
    check.raises(ValueError, lambda T_q=T_q, T_k=T_k: causal_mask(T_q, T_k), f"T_q={T_q}, T_k={T_k}")
### END HIDDEN TESTS


# %% alternative="causal_mask"
def causal_mask(T_q, T_k):
    if min(T_q, T_k) <= 0:
        raise ValueError("sizes")
    print("a triangle that hangs in the lower right corner")
    return torch.ones(T_q, T_k).tril(diagonal=T_k - T_q).bool()


# %% alternative="causal_mask"
def causal_mask(T_q, T_k):
    if T_q <= 0 or T_k <= 0:
        raise ValueError("sizes")
    mask = torch.zeros((T_q, T_k), dtype=torch.bool)
    for i in range(T_q):
        mask[i, : max(T_k - T_q + i + 1, 0)] = True
    return mask


# %% mistakes="causal_mask"
{
    "every query sees the key after its own too: the answer that it should guess": (
        "key <= position.unsqueeze(-1)",
        "key <= position.unsqueeze(-1) + 1",
    ),
    "the triangle hangs in the upper left corner, so the last query does not see the last key": (
        "torch.arange(T_q) + T_k - T_q",
        "torch.arange(T_q)",
    ),
    "the offset between queries and keys has the wrong sign": (
        "torch.arange(T_q) + T_k - T_q",
        "torch.arange(T_q) + T_q - T_k",
    ),
    "the triangle is strict: no token may look at itself": (
        "key <= position.unsqueeze(-1)",
        "key < position.unsqueeze(-1)",
    ),
    "the triangle is the upper one: queries see the future and not the past": (
        "key <= position.unsqueeze(-1)",
        "key >= position.unsqueeze(-1)",
    ),
    "True means hidden and not visible": ("key <= position.unsqueeze(-1)", "key > position.unsqueeze(-1)"),
    "the mask is a table of 0 and 1, not of booleans": (
        "return key <= position.unsqueeze(-1)",
        "return (key <= position.unsqueeze(-1)).long()",
    ),
    "the mask is additive already: 0 and -inf in place of True and False": (
        "return key <= position.unsqueeze(-1)",
        "return torch.zeros(T_q, T_k).masked_fill(key > position.unsqueeze(-1), -math.inf)",
    ),
    "rows stand for keys and columns for queries": (
        "key <= position.unsqueeze(-1)",
        "key.unsqueeze(-1) <= position",
    ),
    "a query before the first key looks at the first key": (
        "torch.arange(T_q) + T_k - T_q",
        "(torch.arange(T_q) + T_k - T_q).clamp(min=0)",
    ),
    "an empty mask is accepted": ("if T_q < 1 or T_k < 1:", "if False:"),
    "only the number of queries is checked": ("if T_q < 1 or T_k < 1:", "if T_q < 1:"),
}

# %% [markdown]
# ## Exercise 2 · `sliding_mask` and `prefix_mask`
#
# Two relatives of the triangle. In a *sliding window* a query sees itself and the `window - 1` tokens before it, so the
# work for a token no longer grows with the text. With a *prefix* the first tokens, say a question, may be seen by
# everybody, so they also see each other in both directions. What follows is causal.
#
# Build both on your `causal_mask`. One of them removes places from it, and the other adds some.
#
# *Difficulty 2 of 5 · 15 minutes · 4 points*


# %% exercise="sliding_mask" difficulty=2 minutes=15
def sliding_mask(T_q: int, T_k: int, window: int) -> torch.Tensor:
    """A causal mask in which each query sees the last ``window`` tokens, its own counted.

    Args:
        T_q, T_k: as in `causal_mask`: the queries are the last T_q of T_k tokens.
        window: at least 1. With 1 a token sees only itself, with T_k or more this is the causal mask.

    Returns:
        Tensor (T_q, T_k) of dtype bool, True = may look.

    Raises:
        ValueError: if window is less than 1.

    Source: Beltagy, Peters and Cohan, Longformer: The Long-Document Transformer, 2020, section 3.1; the causal form as in
    Jiang et al., Mistral 7B, 2023, section 2.
    """
    ### BEGIN SOLUTION
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    position = torch.arange(T_q) + T_k - T_q  # (T_q,)
    near = torch.arange(T_k) > position.unsqueeze(-1) - window  # (T_q, T_k)
    return causal_mask(T_q, T_k) & near
    ### END SOLUTION


def prefix_mask(T_q: int, T_k: int, prefix: int) -> torch.Tensor:
    """A causal mask to which the first ``prefix`` keys are added: every query may look at them.

    Args:
        T_q, T_k: as in `causal_mask`: the queries are the last T_q of T_k tokens.
        prefix: from 0 to T_k. With 0 this is the causal mask, with T_k everything is visible.

    Returns:
        Tensor (T_q, T_k) of dtype bool, True = may look.

    Raises:
        ValueError: if prefix is less than 0 or more than T_k.

    Source: Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, 2020,
    section 3.2.1.
    """
    ### BEGIN SOLUTION
    if prefix < 0 or prefix > T_k:
        raise ValueError(f"prefix must be in 0..{T_k}, got {prefix}")
    return causal_mask(T_q, T_k) | (torch.arange(T_k) < prefix)  # (T_q, T_k) beside (T_k,)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>"And" takes places away from a mask, "or" adds places. Draw both masks on squared paper for six
# tokens first.</details>
# <details><summary>A bigger nudge</summary>The window is a second condition on the same two numbers, the position of the query and the number of
# the key: how far may the key be behind? Try it with a window of 1. The prefix does not depend on the query at all.</details>

# %% test="sliding_mask" points=2
from coursekit import check

import torch

square = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]).bool()
three = [sliding_mask(5, 5, 2), sliding_mask(2, 5, 3), sliding_mask(4, 4, 1)]
check.equal(three[0], square, "five tokens, a window of 2: each token sees itself and the one before")
check.equal(
    three[1],
    torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]).bool(),
    "the last two of five tokens, a window of 3",
    hint="Query 0 is token 3. Which three tokens end there?",
)
check.equal(three[2], torch.eye(4, dtype=torch.bool), "a window of 1: everybody sees themselves and nobody else")
check.raises(ValueError, lambda: sliding_mask(4, 4, 0), "a window of 0")
### BEGIN HIDDEN TESTS
import torch
from transformers.masking_utils import add_offsets_to_mask_function, sliding_window_causal_mask_function

for T_q, T_k, window in (
    (63, 63, 7),
    (63, 63, 62),
    (1, 63, 5),
    (9, 63, 60),
    (5, 5, 5),
    (4, 9, 100),
    (7, 4, 2),
    (1, 1, 1),
):
    rule = add_offsets_to_mask_function(sliding_window_causal_mask_function(window), T_k - T_q, 0)
    wanted = rule(0, 0, torch.arange(T_q)[:, None], torch.arange(T_k)[None, :])
    what = f"T_q={T_q}, T_k={T_k}, window {window}: equal to transformers' sliding window"
    check.equal(sliding_mask(T_q, T_k, window), wanted, what)
check.raises(ValueError, lambda: sliding_mask(5, 9, -2), "a window of -2")
### END HIDDEN TESTS

# %% test="sliding_mask" points=2
from coursekit import check

import torch

square = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()
two = [prefix_mask(5, 5, 2), prefix_mask(3, 4, 3)]
check.equal(two[0], square, "five tokens, a prefix of 2: token 0 may look at token 1, and the rest is causal")
check.equal(two[1], torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]).bool(), "the last 3 of 4, a prefix of 3")
check.raises(ValueError, lambda: prefix_mask(4, 4, 5), "a prefix of five tokens out of four")
### BEGIN HIDDEN TESTS
from transformers.masking_utils import add_offsets_to_mask_function, causal_mask_function, or_masks

for T_q, T_k, prefix in (
    (63, 63, 10),
    (63, 63, 0),
    (63, 63, 63),
    (7, 63, 60),
    (1, 9, 4),
    (7, 4, 2),
    (1, 1, 1),
    (2, 9, 9),
):
    queries, keys = torch.arange(T_q)[:, None], torch.arange(T_k)[None, :]
    shifted = add_offsets_to_mask_function(causal_mask_function, T_k - T_q, 0)
    wanted = or_masks(shifted, lambda b, h, i, j, prefix=prefix: j < prefix)(0, 0, queries, keys)
    check.equal(prefix_mask(T_q, T_k, prefix), wanted, f"T_q={T_q}, T_k={T_k}, prefix {prefix}")
for prefix in (-1, 10):
    check.raises(ValueError, lambda prefix=prefix: prefix_mask(3, 9, prefix), f"a prefix of {prefix} of nine tokens")
### END HIDDEN TESTS


# %% alternative="sliding_mask"
def sliding_mask(T_q, T_k, window):
    if window <= 0:
        raise ValueError("window")
    offset = T_k - T_q
    return torch.ones(T_q, T_k, dtype=torch.bool).tril(offset).triu(offset - window + 1)


def prefix_mask(T_q, T_k, prefix):
    if not 0 <= prefix <= T_k:
        raise ValueError("prefix")
    mask = torch.ones(T_q, T_k, dtype=torch.bool).tril(T_k - T_q)
    mask[:, :prefix] = True
    return mask


# %% mistakes="sliding_mask"
{
    "the window does not count the token itself, so one token too many is visible": (
        "torch.arange(T_k) > position.unsqueeze(-1) - window",
        "torch.arange(T_k) >= position.unsqueeze(-1) - window",
    ),
    "the window is one token too short": (
        "position.unsqueeze(-1) - window",
        "position.unsqueeze(-1) - window + 1",
    ),
    "the window opens to both sides, so each query sees the future too": (
        "return causal_mask(T_q, T_k) & near",
        "return near & (torch.arange(T_k) < position.unsqueeze(-1) + window)",
    ),
    "the window is measured from the query's number and not from its position among the keys": (
        "position = torch.arange(T_q) + T_k - T_q  # (T_q,)",
        "position = torch.arange(T_q)",
    ),
    "causal and near are joined by or, so the future is visible": (
        "causal_mask(T_q, T_k) & near",
        "causal_mask(T_q, T_k) | near",
    ),
    "the window is the part that is hidden: only tokens far behind are visible": (
        "causal_mask(T_q, T_k) & near",
        "causal_mask(T_q, T_k) & ~near",
    ),
    "the tokens are cut into blocks of the window's size, and nobody sees into the block before": (
        "near = torch.arange(T_k) > position.unsqueeze(-1) - window",
        "near = torch.arange(T_k) // window == position.unsqueeze(-1) // window",
    ),
    "the window is not applied at all": ("causal_mask(T_q, T_k) & near", "causal_mask(T_q, T_k)"),
    "a window of 0 hides everything without a word": ("if window < 1:", "if window < 0:"),
    "the prefix and the triangle are joined by and, so a query sees nothing but the prefix": (
        "causal_mask(T_q, T_k) | (torch.arange(T_k) < prefix)",
        "causal_mask(T_q, T_k) & (torch.arange(T_k) < prefix)",
    ),
    "the prefix is one token too long": ("torch.arange(T_k) < prefix", "torch.arange(T_k) <= prefix"),
    "the queries of the prefix see everything, what follows it included": (
        "return causal_mask(T_q, T_k) | (torch.arange(T_k) < prefix)  # (T_q, T_k) beside (T_k,)",
        "return causal_mask(T_q, T_k) | ((torch.arange(T_q) + T_k - T_q).unsqueeze(-1) < prefix)",
    ),
    "the queries that see the prefix are told by their number and not by their position among the keys": (
        "| (torch.arange(T_k) < prefix)",
        "| ((torch.arange(T_k) < prefix) & (torch.arange(T_q).unsqueeze(-1) < prefix))",
    ),
    "the last tokens are opened to everybody and not the first": (
        "torch.arange(T_k) < prefix",
        "torch.arange(T_k) >= T_k - prefix",
    ),
    "the prefix is not applied at all": ("| (torch.arange(T_k) < prefix)", ""),
    "a prefix longer than the text is accepted": ("if prefix < 0 or prefix > T_k:", "if prefix < 0:"),
    "a negative prefix is accepted": ("if prefix < 0 or prefix > T_k:", "if prefix > T_k:"),
}

# %% [markdown]
# ## Exercise 3 · `padding_mask` and `decoder_mask`
#
# The sequences of a batch have to be of one length, so the shorter ones are filled up. Nobody may look at the filling.
# It can stand on the right or on the left. For training, right is usual. For generation the newest token should be the last
# column in every sequence, so the filling goes to the left.
#
# Write `padding_mask`, and join it with the masks you have. Note what is *not* asked for: the queries of padded places
# keep looking. Nobody reads their outputs, and hiding them would only make rows that see nothing.
#
# *Difficulty 3 of 5 · 20 minutes · 5 points*


# %% exercise="padding_mask" difficulty=3 minutes=20
def padding_mask(lengths: torch.Tensor, T: int, side: str = "right") -> torch.Tensor:
    """Which keys are real tokens, in a batch that was filled up to length T.

    Args:
        lengths: integer tensor (B,): how many real tokens each sequence has, from 0 to T.
        T: the common length.
        side: "right" if the padding stands behind the real tokens, "left" if it stands before them.

    Returns:
        Tensor (B, 1, 1, T) of dtype bool, True = a real token. The axes of size one stand for heads and queries, so
        that it broadcasts to (B, H, T_q, T).

    Raises:
        ValueError: if a length is less than 0 or more than T, or if side is neither "right" nor "left".
    """
    ### BEGIN SOLUTION
    if side not in ("right", "left"):
        raise ValueError(f'side must be "right" or "left", got {side!r}')
    if bool((lengths < 0).any()) or bool((lengths > T).any()):
        raise ValueError(f"lengths must be in 0..{T}, got {lengths.tolist()}")
    place, count = torch.arange(T), lengths.unsqueeze(-1)  # (T,) and (B, 1)
    real = place < count if side == "right" else place >= T - count  # (B, T)
    return real[:, None, None, :]  # (B, 1, 1, T)
    ### END SOLUTION


def decoder_mask(
    lengths: torch.Tensor, T_q: int, T_k: int, side: str = "right", window: int | None = None
) -> torch.Tensor:
    """Causal (or sliding-window) and padding mask together, for a batch.

    A query may look at a key that is a real token *and* lies in its past or at its own position. Queries at padded
    places are treated like any other.

    Args:
        lengths, side: as in `padding_mask`, for the T_k keys.
        T_q, T_k: as in `causal_mask`: the queries are the last T_q of T_k tokens.
        window: as in `sliding_mask`; None for no window.

    Returns:
        Tensor (B, 1, T_q, T_k) of dtype bool, True = may look.

    Raises:
        ValueError: as `padding_mask`, `causal_mask` and `sliding_mask` do.
    """
    ### BEGIN SOLUTION
    past = causal_mask(T_q, T_k) if window is None else sliding_mask(T_q, T_k, window)  # (T_q, T_k)
    return past & padding_mask(lengths, T_k, side)  # (T_q, T_k) & (B, 1, 1, T_k) -> (B, 1, T_q, T_k)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>A column of lengths beside a row of places makes a table (B, T). Where does the first real token stand when
# the filling is on the left?</details>
# <details><summary>A bigger nudge</summary>Broadcasting lines axes up from the right. The last axis of the scores is the keys, so that is
# where the padding belongs; new axes of size one go between the batch and the keys. After that, one operator joins the two
# masks.</details>

# %% test="padding_mask" points=2
from coursekit import check

import torch

lengths = torch.tensor([3, 1, 4])
right = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
left = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]]).bool()
found = [padding_mask(lengths, 4), padding_mask(lengths, 4, side="left")]
check.equal(found[0], right.reshape(3, 1, 1, 4), "3, 1 and 4 tokens, filled up on the right: (B, 1, 1, T)")
check.equal(found[1], left.reshape(3, 1, 1, 4), "the same, filled up on the left")
check.raises(ValueError, lambda: padding_mask(lengths, 3), "four tokens do not fit into length 3")
check.raises(ValueError, lambda: padding_mask(lengths, 4, side="both"), "there is no such side")
### BEGIN HIDDEN TESTS
import torch.nn.functional as F

lengths = torch.randint(1, 63, (9,), generator=torch.Generator().manual_seed(check.seed(2)))
lengths = torch.cat([lengths, torch.tensor([0, 1, 62, 63])])
for batch in (lengths, lengths[:1], lengths[::2], lengths.int()):
    for side in ("right", "left"):
        rows = []
        for n in batch.tolist():
            filling = (0, 63 - n) if side == "right" else (63 - n, 0)
            rows.append(F.pad(torch.ones(n), filling).bool())
        what = f"lengths {batch.tolist()} in T=63, padding on the {side}"
        check.equal(padding_mask(batch, 63, side), torch.stack(rows)[:, None, None], what)
for bad in ([2, -1], [64, 3], [-5], [100]):
    check.raises(ValueError, lambda bad=bad: padding_mask(torch.tensor(bad), 63), f"lengths {bad} in T=63")
check.raises(ValueError, lambda: padding_mask(torch.tensor([1]), 3, "Left"), 'the side is spelt "left"')
### END HIDDEN TESTS

# %% test="padding_mask" points=3
from coursekit import check

import torch

lengths = torch.tensor([2, 3, 1])
triangle = [[[1, 0, 0], [1, 1, 0], [1, 1, 0]], [[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 0, 0], [1, 0, 0]]]
late = [[[0, 1, 0], [0, 1, 1]], [[1, 1, 0], [1, 1, 1]], [[0, 0, 0], [0, 0, 1]]]
found = [decoder_mask(lengths, 3, 3), decoder_mask(lengths, 2, 3, side="left"), decoder_mask(lengths, 3, 3, window=1)]
check.equal(
    found[0], torch.tensor(triangle).bool()[:, None], "2, 3 and 1 tokens, padding on the right: (B, 1, T_q, T_k)"
)
check.equal(found[1], torch.tensor(late).bool()[:, None], "the last two of three places, padding on the left")
check.equal(
    found[2].any(-1)[:, 0],
    torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool(),
    "with a window of 1, a padded place sees nothing, and a real one sees itself",
)
### BEGIN HIDDEN TESTS
import torch.nn.functional as F
from transformers.masking_utils import (
    add_offsets_to_mask_function,
    and_masks,
    causal_mask_function,
    padding_mask_function,
    sliding_window_causal_mask_function,
)

drawn = torch.randint(0, 14, (3,), generator=torch.Generator().manual_seed(check.seed(3)))
for T_q, T_k, batch in (
    (13, 13, torch.cat([drawn, torch.tensor([13, 0, 7])])),
    (4, 13, torch.tensor([12, 5, 1, 0])),
    (1, 13, torch.tensor([6])),
    (3, 3, torch.tensor([2, 3, 1])),
    (6, 4, torch.tensor([4, 2])),
):
    for side in ("right", "left"):
        places = torch.arange(T_k)
        attended = torch.stack([places < n if side == "right" else places.flip(0) < n for n in batch.tolist()])
        for window in (None, 1, 4, 50):
            past = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
            rule = and_masks(add_offsets_to_mask_function(past, T_k - T_q, 0), padding_mask_function(attended))
            b, i = torch.arange(len(batch))[:, None, None, None], torch.arange(T_q)[:, None]
            wanted = rule(b, 0, i, torch.arange(T_k)[None, :])
            what = f"lengths {batch.tolist()}, T_q={T_q}, T_k={T_k}, padding on the {side}, window {window}"
            check.equal(decoder_mask(batch, T_q, T_k, side, window), wanted, f"{what}: equal to transformers' mask")

# What masks are for: a sequence in a padded batch gives what it gives alone, wherever the padding stands.
noise = torch.Generator().manual_seed(check.seed(4))
lengths = torch.tensor([5, 9, 1])
alone = [
    torch.randn(3, 2, n, 8, generator=noise, dtype=torch.float64) for n in lengths.tolist()
]  # q, k, v of (H, n, d)
for side in ("right", "left"):
    q, k, v = torch.full((3, 3, 2, 9, 8), 3.0, dtype=torch.float64)
    real = [slice(0, n) if side == "right" else slice(9 - n, 9) for n in lengths.tolist()]
    for b, parts in enumerate(alone):
        q[b, :, real[b]], k[b, :, real[b]], v[b, :, real[b]] = parts
    together = F.scaled_dot_product_attention(q, k, v, attn_mask=decoder_mask(lengths, 9, 9, side))
    for b, parts in enumerate(alone):
        wanted = F.scaled_dot_product_attention(*parts[:, None], is_causal=True)[0]
        what = f"sequence {b} of a batch with padding on the {side} gives what it gives alone"
        check.close(together[b, :, real[b]], wanted, what, atol=1e-10)
check.raises(ValueError, lambda: decoder_mask(lengths, 8, 8), "nine tokens do not fit into T_k=8")
check.raises(ValueError, lambda: decoder_mask(lengths, 9, 9, window=0), "a window of 0")
### END HIDDEN TESTS


# %% alternative="padding_mask"
def padding_mask(lengths, T, side="right"):
    if side != "left" and side != "right":
        raise ValueError("side")
    mask = torch.zeros(len(lengths), 1, 1, T, dtype=torch.bool)
    for b, n in enumerate(lengths.tolist()):
        if not 0 <= n <= T:
            raise ValueError("length")
        mask[b, ..., slice(n) if side == "right" else slice(T - n, T)] = True
    return mask


def decoder_mask(lengths, T_q, T_k, side="right", window=None):
    real = padding_mask(lengths, T_k, side)
    triangle = sliding_mask(T_q, T_k, T_k if window is None else window)
    return torch.stack([torch.logical_and(triangle, real[b, 0]) for b in range(len(real))]).unsqueeze(1)


# %% mistakes="padding_mask"
{
    "the padding lies along the queries: padded places look at nothing, and everybody looks at them": (
        "return real[:, None, None, :]  # (B, 1, 1, T)",
        "return real[:, None, :, None]",
    ),
    "the mask comes back as (B, T): beside (T_q, T_k) the batch meets the queries": (
        "return real[:, None, None, :]  # (B, 1, 1, T)",
        "return real",
    ),
    "the mask comes back as (B, 1, T): beside (B, H, T_q, T_k) the batch meets the heads": (
        "return real[:, None, None, :]  # (B, 1, 1, T)",
        "return real[:, None, :]",
    ),
    "True means padding and not real": ("return real[:, None, None, :]", "return ~real[:, None, None, :]"),
    "one token of padding behind each sequence stays visible": (
        "place < count if",
        "place <= count if",
    ),
    "decoder_mask does not pass the side on": ("padding_mask(lengths, T_k, side)", "padding_mask(lengths, T_k)"),
    "the padding is taken to be on the right, whatever side says": (
        'place < count if side == "right" else place >= T - count',
        "place < count",
    ),
    "right and left have changed places": ('if side == "right"', 'if side == "left"'),
    "with padding on the left, as many places are hidden as there are real tokens": (
        "else place >= T - count",
        "else place >= count",
    ),
    "with padding on the left, the last token of the padding stays visible": (
        "else place >= T - count",
        "else place >= T - count - 1",
    ),
    "with padding on the left, the first real token is hidden": (
        "else place >= T - count",
        "else place > T - count",
    ),
    "all sequences get the length of the first": (
        "lengths.unsqueeze(-1)",
        "lengths[:1].expand(len(lengths)).unsqueeze(-1)",
    ),
    "a length beyond T is cut off without an error": (
        "if bool((lengths < 0).any()) or bool((lengths > T).any()):",
        "if bool((lengths < 0).any()):",
    ),
    "a negative length is accepted": (
        "if bool((lengths < 0).any()) or bool((lengths > T).any()):",
        "if bool((lengths > T).any()):",
    ),
    "a side that does not exist is taken for left": ('if side not in ("right", "left"):', "if False:"),
    "the two masks are joined by or: a query sees its past, padded or not, and all real tokens of the future": (
        "return past & padding_mask(lengths, T_k, side)",
        "return past | padding_mask(lengths, T_k, side)",
    ),
    "the padding mask alone is returned, so the future is visible": (
        "return past & padding_mask(lengths, T_k, side)",
        "return padding_mask(lengths, T_k, side).expand(-1, -1, T_q, -1).clone()",
    ),
    "the causal mask alone is returned, so the padding is visible": (
        "return past & padding_mask(lengths, T_k, side)",
        "return past.expand(len(lengths), 1, T_q, T_k).clone()",
    ),
    "the queries of padded places are hidden too, which makes rows that see nothing": (
        "return past & padding_mask(lengths, T_k, side)",
        "real = padding_mask(lengths, T_k, side)\n    return past & real & real.mT[:, :, -T_q:]",
    ),
    "every token may look at itself, even where it is padding": (
        "return past & padding_mask(lengths, T_k, side)",
        "return past & (padding_mask(lengths, T_k, side) | torch.ones(T_q, T_k).tril(T_k - T_q).triu(T_k - T_q).bool())",
    ),
    "the first rows of a square triangle are taken and not the last": (
        "past = causal_mask(T_q, T_k) if window is None",
        "past = causal_mask(max(T_q, T_k), T_k)[:T_q] if window is None",
    ),
    "the window is ignored": (
        "causal_mask(T_q, T_k) if window is None else sliding_mask(T_q, T_k, window)",
        "causal_mask(T_q, T_k)",
    ),
}

# %% [markdown]
# ### How small is small enough?
#
# A softmax knows nothing about booleans. The usual trick is to make a hidden score so small that its exponential is
# zero. How small? Two habits are common, and both have a hole. The next cell shows them, on one row that sees two of
# three keys and on one that sees nothing.

# %%
scores = torch.tensor([[2.0, 1.0, 3.0], [2.0, 1.0, 3.0]])
mask = torch.tensor([[True, True, False], [False, False, False]])
print("dtype    hidden scores   sees two keys           sees nothing")
for dtype in (torch.float32, torch.float16):
    for value in (-math.inf, -1e9, -1e4):
        try:
            weights = scores.to(dtype).masked_fill(~mask, value).softmax(-1)
            rows = "   ".join("[" + ", ".join(f"{w:5.3f}" for w in row) + "]" for row in weights.tolist())
        except RuntimeError as error:
            rows = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        print(f"{str(dtype).removeprefix('torch.'):8} {value:13g}   {rows}")

# %% [markdown]
# Minus infinity is exact, but a row that sees nothing is 0/0. A large negative number is quiet there and wrong: it
# attends to everything that was to be hidden. And float16 holds no number beyond 65,504.
#
# ## Exercise 4 · `additive_mask` and `masked_softmax`
#
# Write `additive_mask`, the form that most libraries want: numbers to be added to the scores. Then write
# `masked_softmax`, which has no hole: it is right in all dtypes, for rows that see nothing, whatever stands in the hidden
# places, and in the backward pass.
#
# *Difficulty 4 of 5 · 25 minutes · 5 points*


# %% exercise="additive_mask" difficulty=4 minutes=25 forbid=["scaled_dot_product_attention", "torch.masked.softmax"]
def additive_mask(mask: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The mask as numbers to be added to scores.

    Args:
        mask: bool, any shape, True = may look.
        dtype: a floating-point dtype: float64, float32, bfloat16 or float16.

    Returns:
        Tensor of mask's shape and of that dtype: 0 where the mask is True, -inf where it is False.

    Raises:
        TypeError: if mask is not bool, or if dtype is not a floating-point dtype.
    """
    ### BEGIN SOLUTION
    if mask.dtype != torch.bool or not dtype.is_floating_point:
        raise TypeError(f"expected a bool mask and a floating-point dtype, got {mask.dtype} and {dtype}")
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -math.inf)
    ### END SOLUTION


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis, as if the hidden places were not there at all.

    Args:
        scores: (..., T_q, T_k), of any floating-point dtype. Scores that may be seen are finite, and may be as large or
            as small as the dtype allows. What stands in hidden places is arbitrary: infinities and NaN are possible.
        mask: bool, of a shape that broadcasts to that of scores. True = may look.

    Returns:
        Weights of scores' shape and dtype. The weights that may be seen sum to one in each row; hidden ones are exactly
        zero. A row that sees nothing is zero throughout. Gradients are never NaN: those of hidden scores and of rows that
        see nothing are zero.
    """
    ### BEGIN SOLUTION
    empty = ~mask.any(dim=-1, keepdim=True)  # (..., T_q, 1): queries that see nothing
    seen = scores.masked_fill(~mask, -math.inf).masked_fill(empty, 0.0)  # no row is -inf throughout
    return torch.softmax(seen, dim=-1).masked_fill(empty, 0.0)  # (..., T_q, T_k)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Which rows make trouble? You can find them in the mask, before there is any softmax.</details>
# <details><summary>A bigger nudge</summary>A row that sees nothing can be given any harmless scores before the softmax, and zeros after it. As to what
# stands in hidden places: adding -inf to NaN, or to infinity, gives NaN. Replacing is stronger than adding.</details>

# %% test="additive_mask" points=2
from coursekit import check

import torch

inf = float("inf")
mask = torch.tensor([[True, False, True], [False, False, True]])
found = [additive_mask(mask), additive_mask(mask, torch.float64)]
check.equal(found[0], torch.tensor([[0.0, -inf, 0.0], [-inf, -inf, 0.0]]), "0 where the mask is True, -inf elsewhere")
check.equal(found[1], torch.tensor([[0.0, -inf, 0.0], [-inf, -inf, 0.0]]).double(), "the same in float64")
check.equal(
    additive_mask(mask, torch.float16),
    torch.tensor([[0.0, -inf, 0.0], [-inf, -inf, 0.0]]).half(),
    "the same in float16",
    hint="The largest number of float16 is 65504.",
)
check.raises(TypeError, lambda: additive_mask(mask.long()), "a mask of 0 and 1 is refused")
### BEGIN HIDDEN TESTS
import torch.nn.functional as F

noise = torch.Generator().manual_seed(check.seed(5))
mask = torch.rand(3, 1, 63, 17, generator=noise) < 0.5
mask[..., 0] = True
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    wanted = torch.where(mask, 0.0, -inf).to(dtype)
    check.equal(additive_mask(mask, dtype), wanted, f"a random mask (3, 1, 63, 17) in {dtype}")
    check.equal(additive_mask(mask.mT, dtype), wanted.mT, f"a mask that is not contiguous, in {dtype}")
check.equal(additive_mask(torch.tensor(False)), torch.tensor(-inf), "a mask that is a single False")
q, k, v = (torch.randn(3, 2, T, 8, generator=noise, dtype=torch.float64) for T in (63, 17, 17))
added = F.scaled_dot_product_attention(q, k, v, attn_mask=additive_mask(mask, torch.float64))
check.close(
    added, F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "PyTorch's attention takes both", atol=1e-10
)
check.raises(TypeError, lambda: additive_mask(mask.float()), "a mask of floats is refused")
check.raises(TypeError, lambda: additive_mask(mask, torch.int64), "a dtype of integers is refused")
### END HIDDEN TESTS

# %% test="additive_mask" points=3
from coursekit import check

import torch

scores = torch.tensor([[2.0, 1.0, 3.0], [0.0, 0.0, 0.0], [2.0, 1.0, 3.0]])
mask = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
loud = torch.tensor([[2.0, 1.0, float("nan")], [float("inf"), 0.0, 0.0], [2.0, 1.0, 3.0]])
hidden = torch.tensor([[0.0, 0.0, 500.0]])
wanted = torch.tensor([[0.7310586, 0.2689414, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]])
found = [masked_softmax(values, mask[: len(values)]) for values in (scores, loud, hidden, scores.half())]
check.close(found[0][:2], wanted[:2], "the first two rows: the softmax of the two scores that may be seen")
check.close(found[0][2:], wanted[2:], "the third row sees nothing: its weights are zero")
check.close(
    found[1],
    wanted,
    "what stands in a hidden place, here NaN and infinity, changes nothing",
    hint="Adding -inf to NaN or to infinity gives NaN. Put something in their place instead.",
)
check.close(found[2], torch.tensor([[0.5, 0.5, 0.0]]), "a hidden score of 500 does not drown the others")
check.close(found[3], wanted.half(), "the first three rows in float16", atol=1e-3)
### BEGIN HIDDEN TESTS


def by_rows(scores, mask):
    """The softmax of what may be seen, row by row, in float64."""
    weights = []
    mask = mask.broadcast_to(scores.shape).reshape(-1, scores.shape[-1])
    for row, seen in zip(scores.double().reshape(-1, scores.shape[-1]), mask, strict=True):
        shares = torch.zeros_like(row)
        shares = shares.masked_scatter(seen, torch.softmax(row[seen], dim=0)) if bool(seen.any()) else shares
        weights.append(shares)
    return torch.stack(weights).reshape(scores.shape)


noise = torch.Generator().manual_seed(check.seed(6))
scores = torch.randn(2, 3, 9, 13, generator=noise, dtype=torch.float64)
masks = {
    "a mask (B, 1, T_q, T_k)": torch.rand(2, 1, 9, 13, generator=noise) < 0.5,
    "a mask (B, 1, 1, T_k) for padding": torch.rand(2, 1, 1, 13, generator=noise) < 0.5,
    "a mask (T_q, T_k)": torch.rand(9, 13, generator=noise) < 0.3,
    "a mask that allows everything": torch.ones(1, 1, dtype=torch.bool),
    "a mask that allows nothing": torch.zeros(9, 13, dtype=torch.bool),
}
masks["a mask (T_q, T_k)"][4] = False
masks["a mask (B, 1, T_q, T_k)"][0, 0, 2] = False
for name, mask in masks.items():
    want = by_rows(scores, mask)
    check.close(masked_softmax(scores, mask), want, f"{name}, float64", atol=1e-12)
    check.close(masked_softmax(scores.mT.contiguous().mT, mask), want, f"{name}, not contiguous", atol=1e-12)
    garbage = scores.masked_fill(~mask, float("nan"))
    check.close(masked_softmax(garbage, mask), want, f"{name}, NaN in hidden places", atol=1e-12)
    check.gradients(
        lambda s, mask=mask: masked_softmax(s, mask),
        lambda s, mask=mask: by_rows(s, mask),
        [scores],
        f"{name}: gradients for the scores",
        atol=1e-10,
    )
some = masks["a mask (T_q, T_k)"]
for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)):
    large = 0.9 * torch.finfo(dtype).max
    for name, given in (
        ("scores of ordinary size", scores.to(dtype)),
        ("all scores very large", torch.full((9, 13), large, dtype=dtype)),
        ("all scores very negative", torch.full((9, 13), -large, dtype=dtype)),
        ("hidden scores very large", scores[0, 0].to(dtype).masked_fill(~some, large)),
        ("visible scores very negative", scores[0, 0].to(dtype).masked_fill(some, -large)),
        ("visible scores the lowest there are", scores[0, 0].to(dtype).masked_fill(some, torch.finfo(dtype).min)),
    ):
        want = by_rows(given, some).to(dtype)
        check.close(masked_softmax(given, some), want, f"{dtype}, {name}", atol=tolerance)
### END HIDDEN TESTS


# %% alternative="additive_mask"
def additive_mask(mask, dtype=torch.float32):
    import warnings

    if mask.dtype is not torch.bool or dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise TypeError("bool and float, please")
    warnings.warn("the logarithm of 0 is -inf, and that of 1 is 0", stacklevel=1)
    return mask.to(dtype).log()


def masked_softmax(scores, mask):
    mask = mask.expand_as(scores)
    lowest = torch.finfo(torch.float64).min
    seen = torch.where(mask, scores, 0.0).double()
    largest = torch.where(mask, seen, lowest).amax(-1, keepdim=True).detach()
    powers = torch.where(mask, torch.exp(torch.where(mask, seen - largest, 0.0)), 0.0)
    return (powers / powers.sum(-1, keepdim=True).clamp(min=0.5)).to(scores.dtype)


# %% alternative="additive_mask"
def additive_mask(mask, dtype=torch.float32):
    if mask.dtype != torch.bool or not torch.empty(0, dtype=dtype).is_floating_point():
        raise TypeError("mask or dtype")
    return torch.where(mask, torch.tensor(0.0, dtype=dtype), torch.tensor(-torch.inf, dtype=dtype))


def masked_softmax(scores, mask):
    # Repaired afterwards, and sound: the backward pass of masked_fill puts zeros at all hidden places.
    return torch.nan_to_num(scores.masked_fill(mask.logical_not(), -torch.inf).softmax(-1))


# %% equivalent="additive_mask"
{
    "scores.masked_fill(~mask, -math.inf).masked_fill(empty, 0.0) -> scores.masked_fill(~mask, -math.inf).masked_fill(empty, 1.0)": "any finite score will do in a row that sees nothing, as its weights are set to zero afterwards",
}

# %% mistakes="additive_mask"
{
    "the mask is added as the numbers 1 and 0, which hides nothing": (
        "torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -math.inf)",
        "mask.to(dtype)",
    ),
    "the mask is inverted: what may be seen gets -inf": (
        "masked_fill(~mask, -math.inf)\n",
        "masked_fill(mask, -math.inf)\n",
    ),
    "-1e9 stands for -inf, which float16 cannot hold": (
        "torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -math.inf)",
        "torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -1e9)",
    ),
    "-1e4 stands for -inf: it fits into float16, and scores of that size come through": (
        "torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -math.inf)",
        "torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -1e4)",
    ),
    "the lowest number of the dtype stands for -inf, so a row that sees nothing will look at everything": (
        "torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -math.inf)",
        "torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)",
    ),
    "-inf is multiplied with the mask, and 0 times infinity is NaN": (
        "torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -math.inf)",
        "(~mask).to(dtype) * -math.inf",
    ),
    "the result is float32 whatever dtype says": (
        "torch.zeros(mask.shape, dtype=dtype).masked_fill",
        "torch.zeros(mask.shape).masked_fill",
    ),
    "a mask of 0 and 1 is taken for True and False": (
        "if mask.dtype != torch.bool or not dtype.is_floating_point:",
        "mask = mask.bool()\n    if not dtype.is_floating_point:",
    ),
    "a row that sees nothing gives NaN": (
        ".masked_fill(empty, 0.0)",
        "",
        "all",
    ),
    "-inf is added and the NaN of a row that sees nothing repaired afterwards: its gradient is still NaN": [
        (
            "scores.masked_fill(~mask, -math.inf).masked_fill(empty, 0.0)",
            "scores + torch.zeros(mask.shape, dtype=scores.dtype).masked_fill(~mask, -math.inf)",
        ),
        ("torch.softmax(seen, dim=-1).masked_fill(empty, 0.0)", "torch.softmax(seen, dim=-1).nan_to_num()"),
    ],
    "hidden scores become -1e9, so a row that sees nothing looks at everything alike": (
        "    seen = scores.masked_fill(~mask, -math.inf).masked_fill(empty, 0.0)  # no row is -inf throughout\n    return torch.softmax(seen, dim=-1).masked_fill(empty, 0.0)",
        "    return torch.softmax(scores.masked_fill(~mask, -1e9), dim=-1)",
    ),
    "1e9 is taken off the hidden scores, so a row that sees nothing looks at everything": (
        "    seen = scores.masked_fill(~mask, -math.inf).masked_fill(empty, 0.0)  # no row is -inf throughout\n    return torch.softmax(seen, dim=-1).masked_fill(empty, 0.0)",
        "    return torch.softmax(scores - 1e9 * (~mask), dim=-1).to(scores.dtype)",
    ),
    "hidden scores become -1e9, which very negative scores undercut, and which float16 cannot hold": (
        "scores.masked_fill(~mask, -math.inf)",
        "scores.masked_fill(~mask, -1e9)",
    ),
    "hidden scores are the smallest number of the dtype, and a visible score can be that small too": (
        "    seen = scores.masked_fill(~mask, -math.inf).masked_fill(empty, 0.0)  # no row is -inf throughout\n    return torch.softmax(seen, dim=-1).masked_fill(empty, 0.0)",
        "    seen = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)\n    return torch.softmax(seen, dim=-1).masked_fill(~mask, 0.0)",
    ),
    "a row that sees nothing keeps the even weights that were only meant to avoid the NaN": (
        "torch.softmax(seen, dim=-1).masked_fill(empty, 0.0)",
        "torch.softmax(seen, dim=-1)",
    ),
    "the mask is added to the scores, and NaN plus -inf is NaN": (
        "scores.masked_fill(~mask, -math.inf).masked_fill(empty, 0.0)",
        "(scores + torch.zeros(mask.shape, dtype=scores.dtype).masked_fill(~mask, -math.inf)).masked_fill(empty, 0.0)",
    ),
    "the weights are set to zero after the softmax, and the rest no longer sums to one": (
        "    seen = scores.masked_fill(~mask, -math.inf).masked_fill(empty, 0.0)  # no row is -inf throughout\n    return torch.softmax(seen, dim=-1).masked_fill(empty, 0.0)",
        "    return torch.softmax(scores, dim=-1) * mask",
    ),
    "the weights are set to zero after the softmax and divided by their sum, which is 0 where a hidden score is large": (
        "    seen = scores.masked_fill(~mask, -math.inf).masked_fill(empty, 0.0)  # no row is -inf throughout\n    return torch.softmax(seen, dim=-1).masked_fill(empty, 0.0)",
        "    weights = torch.softmax(scores.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0), dim=-1) * mask\n    return weights / weights.sum(-1, keepdim=True).masked_fill(empty, 1.0)",
    ),
    "hidden scores become 0, which is a score like any other": (
        "scores.masked_fill(~mask, -math.inf)",
        "scores.masked_fill(~mask, 0.0)",
    ),
    "True is taken to mean hidden": (
        "    empty = ~mask.any(dim=-1, keepdim=True)",
        "    mask = ~mask\n    empty = ~mask.any(dim=-1, keepdim=True)",
    ),
    "the softmax runs over the queries": ("torch.softmax(seen, dim=-1)", "torch.softmax(seen, dim=-2)"),
    "the weights come back detached, so nothing is learned": (
        "torch.softmax(seen, dim=-1)",
        "torch.softmax(seen.detach(), dim=-1)",
    ),
    "the weights come back in float32 whatever the dtype of the scores is": (
        "torch.softmax(seen, dim=-1)",
        "torch.softmax(seen.float(), dim=-1)",
    ),
}

# %% [markdown]
# ### A decoder that may be broken
#
# A mask is one line among hundreds. A model can leak with a perfect mask: a mean over the wrong axis is enough. So test
# the model and not the mask. The next cell gives you something to test: one or more layers of attention, then
# probabilities for the next token. It can be built with a fault. Some of the faults are well hidden: one leaks only when a
# certain token turns up, one turns a number into NaN. And one is not a leak but dropout, which changes outputs at random
# while the module is in training mode.


# %% given side="learner"
class TinyDecoder(nn.Module):
    """Given: attention layers that predict the next token; ``fault`` plants a mistake.

    A call takes ids (B, T), int64, with T up to 16, and returns probabilities (B, T, n_symbols).

    The faults: "no mask", "one ahead", "one place", "strict", "strict, NaN", "mask after the softmax", "a mean over the
    tokens", "looks for the last symbol", "NaN when the last symbol comes last", "whisper", "whisper beside 1000" (which
    returns numbers near 1000 and no probabilities) and "dropout". "none" is a sound model.
    """

    def __init__(self, fault: str = "none", layers: int = 1, window: int = 16, n_symbols: int = 5, seed: int = 0):
        super().__init__()
        self.fault, self.window = fault, window
        generator = torch.Generator().manual_seed(seed)
        self.token = nn.Parameter(torch.randn(n_symbols, 16, generator=generator))
        self.place = nn.Parameter(torch.randn(16, 16, generator=generator))
        self.mixing = nn.Parameter(torch.randn(layers, 3, 16, 16, generator=generator) / 4)
        self.head = nn.Parameter(torch.randn(16, n_symbols, generator=generator) / 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        T, last = ids.shape[1], self.token.shape[0] - 1
        x = self.token[ids] + self.place[:T]  # (B, T, 16)
        if self.fault == "a mean over the tokens":
            x = x - x.mean(dim=1, keepdim=True)
        diagonal = {"no mask": T, "one ahead": 1, "strict": -1, "strict, NaN": -1}.get(self.fault, 0)
        mask = torch.ones(T, T, dtype=torch.bool).tril(diagonal).triu(1 - self.window)
        if self.fault == "one place":
            mask[1, 4] = True
        for w_q, w_k, w_v in self.mixing:
            output, weights = attention(x @ w_q / 2, x @ w_k, x @ w_v, mask)
            if self.fault == "mask after the softmax":
                weights = attention(x @ w_q / 2, x @ w_k, x @ w_v)[1] * mask
                output = weights @ (x @ w_v)
            x = 1.5 * torch.tanh(output)  # (B, T, 16)
        if self.fault == "whisper":
            x = x + 1e-3 * (ids == 0).any(dim=1)[:, None, None]
        if self.fault == "dropout":
            x = nn.functional.dropout(x, 0.5, self.training)
        p = (x @ self.head).softmax(dim=-1)  # (B, T, n_symbols)
        if self.fault == "looks for the last symbol":
            p = torch.where((ids == last).any(dim=1)[:, None, None], p.flip(-1), p)
        if self.fault == "whisper beside 1000":
            p = 1000 + 1e-3 * (ids == 0).any(dim=1)[:, None, None].expand_as(p)
        if self.fault == "NaN when the last symbol comes last":
            p = p.masked_fill((ids[:, -1] == last)[:, None, None], math.nan)
        if self.fault == "strict, NaN":
            p = p.index_fill(1, torch.tensor([0]), math.nan)
        return p


# %% [markdown]
# ## Exercise 5 · `influence` and `leaks`
#
# Change one token, and see which outputs move. If an output *before* the changed token moves, the model can see the
# future. Try every symbol at every place. With a small alphabet and a short text this takes milliseconds, and no change of a
# single token is left out.
#
# *Difficulty 3 of 5 · 20 minutes · 5 points*


# %% exercise="influence" difficulty=3 minutes=20
def influence(model: nn.Module, ids: torch.Tensor, n_symbols: int, atol: float = 1e-5) -> torch.Tensor:
    """Which outputs of a model depend on which tokens, found by trying.

    The token at place j is replaced by every symbol in turn, 0 to n_symbols - 1, while the others stay as they are.
    Output i depends on token j if any number of output i changes for any of these symbols. A change of at most atol does
    not count. A number that turns into NaN, or a NaN into a number, is a change; a NaN that stays one is not.

    The model runs in evaluation mode, so that dropout plays no part, and afterwards is in the mode in which it was.
    Neither its parameters nor ids are changed.

    Args:
        model: a module; ``model(ids)`` takes (B, T) and returns (B, T, n_out). Sequences do not affect each other.
        ids: (T,), int64, the sequence to start from.
        n_symbols: how many symbols there are.
        atol: the largest change that counts as none.

    Returns:
        Tensor (T, T) of dtype bool, True at [i, j] if output i depends on token j.
    """
    ### BEGIN SOLUTION
    found = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        before = model(ids.unsqueeze(0))[0]  # (T, n_out)
        for j in range(len(ids)):
            for symbol in range(n_symbols):
                changed = ids.clone()
                changed[j] = symbol
                after = model(changed.unsqueeze(0))[0]  # (T, n_out)
                same = torch.isclose(after, before, rtol=0.0, atol=atol, equal_nan=True)
                found[:, j] |= ~same.all(dim=-1)
    model.train(was_training)
    return found
    ### END SOLUTION


def leaks(model: nn.Module, ids: torch.Tensor, n_symbols: int, atol: float = 1e-5) -> list[tuple[int, int]]:
    """The pairs (i, j) with j > i for which output i depends on token j; empty for a causal model.

    Args:
        model, ids, n_symbols, atol: as in `influence`.

    Returns:
        Pairs of numbers, in ascending order: by i first, then by j.
    """
    ### BEGIN SOLUTION
    future = ~causal_mask(len(ids), len(ids))
    pairs = (influence(model, ids, n_symbols, atol) & future).nonzero()
    return [(int(i), int(j)) for i, j in pairs]
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>One run with the tokens as they are, and one for each place and symbol. A column of the result belongs to a
# changed token.</details>
# <details><summary>A bigger nudge</summary>Change a copy, and start each time from the original. Compare numbers, not the likeliest token, and not
# their sum: probabilities always sum to one. A comparison with NaN is never true, so ask whether values are the <em>same</em>.</details>

# %% test="influence" points=3
from coursekit import check

import torch

ids = torch.tensor([1, 0, 2, 1, 0, 2])
square = torch.ones(6, 6, dtype=torch.bool)
sound, ahead = TinyDecoder(), TinyDecoder("one ahead")
found = [influence(sound, ids, 5), influence(ahead, ids, 5)]
check.equal(found[0], square.tril(), "a causal model: each output depends on its own token and on all before it")
check.equal(found[1], square.tril(1), "a model whose mask is one diagonal too wide")
check.equal(
    influence(TinyDecoder("dropout"), ids, 5),
    square.tril(),
    "a causal model with dropout does not leak",
    hint="In training mode dropout changes every output at random.",
)
### BEGIN HIDDEN TESTS
whisper, quiet = TinyDecoder("whisper"), torch.tensor([1, 3, 2, 1, 3, 2])
check.equal(influence(whisper, quiet, 5), square, "a leak that moves the numbers by less than a thousandth")
check.equal(influence(whisper, quiet, 5, atol=0.01).triu(1), ~square, "the same leak, with atol=0.01")
check.equal(
    influence(TinyDecoder("whisper beside 1000"), quiet, 5),
    square,
    "numbers of 1000 that move by a thousandth, which is more than atol",
)
# The truth is known from how each model is built.
one_place, last_column, strict = square.tril(), square.tril(), square.tril()
one_place[1, 4] = True
last_column[:, 5] = True
strict[0] = strict[1, 1] = False  # nothing to look at, and no choice; later queries still depend on their own token
for fault, wanted in (
    ("no mask", square),
    ("strict", strict),
    ("one place", one_place),
    ("a mean over the tokens", square),
    ("mask after the softmax", square),
    ("looks for the last symbol", square),
    ("NaN when the last symbol comes last", last_column),
):
    check.equal(influence(TinyDecoder(fault), ids, 5), wanted, f"a decoder with the fault: {fault}")
check.equal(
    influence(TinyDecoder("strict, NaN"), ids, 5), strict, "an output that is NaN throughout depends on nothing"
)
for T, window, n_symbols in ((1, 16, 5), (7, 3, 2)):
    start = torch.arange(T) % n_symbols
    wanted = torch.ones(T, T, dtype=torch.bool).tril().triu(1 - window)
    what = f"{T} tokens of {n_symbols} symbols, a window of {window}"
    check.equal(influence(TinyDecoder(window=window, n_symbols=n_symbols), start, n_symbols), wanted, what)
    deep = torch.ones(T, T, dtype=torch.bool).tril().triu(2 - 2 * window)
    model = TinyDecoder(layers=2, window=window, n_symbols=n_symbols)
    check.equal(influence(model, start, n_symbols), deep, f"{what}, two layers")
### END HIDDEN TESTS

# %% test="influence" points=2
from coursekit import check

import torch

ids = torch.tensor([1, 0, 2, 1, 0, 2])
sound, ahead = TinyDecoder(), TinyDecoder("one ahead")
found = [leaks(sound, ids, 5), leaks(ahead, ids, 5)]
check.equal([tuple(pair) for pair in found[0]], [], "a causal model has no leaks")
check.equal(
    [tuple(pair) for pair in found[1]],
    [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)],
    "one diagonal too wide: every output but the last sees the token after it",
)
sound.train()
influence(sound, ids, 5)
check.equal(bool(sound.training), True, "a model that was in training mode is in training mode afterwards")
sound.eval()
influence(sound, ids, 5)
check.equal(bool(sound.training), False, "a model that was in evaluation mode stays in it")
### BEGIN HIDDEN TESTS
for fault, wanted in (
    ("strict, NaN", []),
    ("dropout", []),
    ("one place", [(1, 4)]),
    ("NaN when the last symbol comes last", [(i, 5) for i in range(5)]),
    ("a mean over the tokens", [(i, j) for i in range(6) for j in range(i + 1, 6)]),
):
    check.equal(
        [tuple(pair) for pair in leaks(TinyDecoder(fault), ids, 5)], wanted, f"a decoder with the fault: {fault}"
    )
check.equal([tuple(pair) for pair in leaks(TinyDecoder(), ids[:1], 5)], [], "a single token has no future")
whisper, quiet = TinyDecoder("whisper"), torch.tensor([1, 3, 2])
check.equal([tuple(pair) for pair in leaks(whisper, quiet, 5)], [(0, 1), (0, 2), (1, 2)], "a very small leak")
check.equal([tuple(pair) for pair in leaks(whisper, quiet, 5, 0.01)], [], "a very small leak, with atol=0.01")
### END HIDDEN TESTS


# %% alternative="influence"
def influence(model, ids, n_symbols, atol=1e-5):
    # All changed sequences in one batch.
    T, mode = len(ids), model.training
    variants = ids.expand(T, n_symbols, T).clone()
    for j in range(T):
        variants[j, :, j] = torch.arange(n_symbols)
    model.train(False)
    output = model(torch.cat([ids[None], variants.reshape(-1, T)])).detach()
    model.train(mode)
    before, after = output[0], output[1:].unflatten(0, (T, n_symbols))  # (T, n), (T, n_symbols, T, n)
    moved = (after - before).abs() > atol
    moved |= after.isnan() != before.isnan()
    return moved.any(-1).any(1).T


def leaks(model, ids, n_symbols, atol=1e-5):
    table = influence(model, ids, n_symbols, atol)
    return [[i, j] for i in range(len(ids)) for j in range(i + 1, len(ids)) if table[i, j]]


# %% mistakes="influence"
{
    "the likeliest tokens are compared, so small leaks stay hidden": (
        "same = torch.isclose(after, before, rtol=0.0, atol=atol, equal_nan=True)",
        "same = (after.argmax(-1) == before.argmax(-1)).unsqueeze(-1)",
    ),
    "the sums of the outputs are compared, and probabilities always sum to one": (
        "same = torch.isclose(after, before, rtol=0.0, atol=atol, equal_nan=True)",
        "same = ((after - before).sum(-1, keepdim=True).abs() <= atol)",
    ),
    "the model stays in training mode, so dropout looks like a leak": ("    model.eval()\n", ""),
    "the model is left in evaluation mode": ("    model.train(was_training)\n", ""),
    "the model is put into training mode at the end, whatever it was before": (
        "model.train(was_training)",
        "model.train()",
    ),
    "only the next symbol is tried, so a leak that waits for another symbol is missed": (
        "changed[j] = symbol",
        "changed[j] = (ids[j] + 1) % n_symbols",
    ),
    "every token is replaced by symbol 0 only, and where it stood already nothing changes": (
        "changed[j] = symbol",
        "changed[j] = 0",
    ),
    "the last symbol is never tried": ("for symbol in range(n_symbols):", "for symbol in range(n_symbols - 1):"),
    "a number that turns into NaN counts as no change, because a comparison with NaN is never true": (
        "same = torch.isclose(after, before, rtol=0.0, atol=atol, equal_nan=True)",
        "same = ~((after - before).abs() > atol)",
    ),
    "a NaN that stays NaN counts as a change": (", equal_nan=True", ""),
    "the replaced token is never put back, so the changes pile up": [
        ("        for j in range(len(ids)):", "        changed = ids.clone()\n        for j in range(len(ids)):"),
        ("                changed = ids.clone()\n", ""),
    ],
    "all tokens from place j on are replaced, not the one at j": ("changed[j] = symbol", "changed[j:] = symbol"),
    "rows stand for the changed token and columns for the output": ("found[:, j] |=", "found[j] |="),
    "an output counts as changed only if all its numbers changed": (
        "~same.all(dim=-1)",
        "~same.any(dim=-1)",
    ),
    "only the last symbol that was tried counts": ("found[:, j] |= ~same", "found[:, j] = ~same"),
    "the tolerance is relative, so a change of a large number counts as none": (
        "rtol=0.0, atol=atol",
        "rtol=1.0, atol=atol",
    ),
    "rtol is left at its default, so a small change of a large number counts as none": (
        "rtol=0.0, atol=atol",
        "atol=atol",
    ),
    "leaks does not pass atol on": (
        "influence(model, ids, n_symbols, atol) & future",
        "influence(model, ids, n_symbols) & future",
    ),
    "atol is ignored": ("rtol=0.0, atol=atol", "rtol=0.0, atol=1e-5"),
    "leaks counts a token's own place as future": (
        "future = ~causal_mask(len(ids), len(ids))",
        "future = causal_mask(len(ids), len(ids)).T",
    ),
    "leaks returns what is allowed and not what leaks": (
        "future = ~causal_mask(len(ids), len(ids))",
        "future = causal_mask(len(ids), len(ids))",
    ),
    "leaks returns all pairs of the influence, the past included": (
        "(influence(model, ids, n_symbols, atol) & future).nonzero()",
        "influence(model, ids, n_symbols, atol).nonzero()",
    ),
    "the pairs are written as (token, output) and not as (output, token)": (
        "[(int(i), int(j)) for i, j in pairs]",
        "[(int(j), int(i)) for i, j in pairs]",
    ),
    "the pairs are sorted by the changed token first, and not by the output": (
        "for i, j in pairs]",
        "for i, j in sorted(pairs.tolist(), key=lambda pair: pair[::-1])]",
    ),
    "only the first leak of each output is returned": (
        "return [(int(i), int(j)) for i, j in pairs]",
        "return [(i, min(int(b) for a, b in pairs if a == i)) for i in sorted({int(a) for a, _ in pairs})]",
    ),
}

# %% [markdown]
# ## Look at it
#
# First your test at work, on ten models. Then the same test as a measuring instrument: a sound decoder with a window of
# three tokens, in one, two, three and four layers. How far back does the last output see? Move the slider.

# %%
import plotly.graph_objects as go

from coursekit import plots

ids = torch.tensor([1, 0, 2, 1, 0, 2])
faults = ["none", "strict", "one ahead", "one place", "a mean over the tokens", "mask after the softmax", "whisper"]
for fault in [*faults, "looks for the last symbol", "NaN when the last symbol comes last", "dropout"]:
    found = leaks(TinyDecoder(fault), ids, 5)
    print(f"{fault:36} {len(found):2} leaks   {found[:4]}{' ...' if len(found) > 4 else ''}")
    if fault == "whisper":
        text = torch.tensor([1, 3, 2, 1, 3, 2])
        print(f"{'    in the text 1 3 2 1 3 2':36} {len(leaks(TinyDecoder(fault), text, 5)):2} leaks")

ids, figure = torch.arange(14) % 5, go.Figure()
for layers in (1, 2, 3, 4):
    table = influence(TinyDecoder(layers=layers, window=3), ids, 5)
    print(f"window 3, layers: {layers}. The last output depends on the last {int(table[-1].sum())} tokens")
    figure.add_heatmap(
        z=table.int().tolist(),
        zmin=0,
        zmax=1,
        colorscale=plots.WEIGHTS,
        showscale=False,
        visible=layers == 1,
        xgap=2,
        ygap=2,
        hovertemplate="output %{y}, token %{x}: %{z}<extra></extra>",
    )
steps = [
    {"label": str(n), "method": "update", "args": [{"visible": [n == m for m in (1, 2, 3, 4)]}]} for n in (1, 2, 3, 4)
]
with torch.no_grad():  # how much the last output moves, at most, when one token is changed
    model = TinyDecoder(layers=4, window=3).eval()
    changed = ids.expand(5, 14, 14).clone()
    changed[:, range(14), range(14)] = torch.arange(5).unsqueeze(-1)
    moved = (model(changed.reshape(-1, 14)) - model(ids[None]))[:, -1].abs().amax(-1).reshape(5, 14).amax(0)
print("layers: 4. The last output moves by", " ".join(f"{size:.3f}" for size in moved), "for tokens 0 to 13")
figure.update_xaxes(title_text="token that is changed", dtick=1, showgrid=False, zeroline=False)
figure.update_yaxes(title_text="output that moves", dtick=1, showgrid=False, zeroline=False, autorange="reversed")
figure.update_layout(
    height=460, sliders=[{"active": 0, "steps": steps, "pad": {"t": 50}, "currentvalue": {"prefix": "layers: "}}]
)
figure.show()

# %% [markdown]
# Look at the two lines for "whisper" first. It leaks, and in the text `[1, 0, 2, 1, 0, 2]` your test finds nothing. Find out why, in the code of
# `TinyDecoder`. A test by single changes is exact for the text it starts from, and says nothing about others. So start from more than one.
#
# "strict" has no leaks either, and yet it is a mistake. What can a model with that mask not do, if it has no connection around the attention? Run
# `influence(TinyDecoder("strict"), torch.tensor([1, 0, 2, 1, 0, 2]), 5)` and look at its rows 0 and 1, too.
#
# A window of $w$ does not mean that a model sees $w$ tokens. Each layer hands on what the layer below has gathered, so $L$
# layers reach back $L (w - 1)$ places. Jiang et al. (2023) count on this: a window of 4,096 in 32 layers. What does the picture *not* tell
# you? It says that something arrives, and nothing about how much. The last line printed has the sizes. In this untrained model the nearest token is
# not the one that counts most.
#
# ## Common mistakes
#
# - **One diagonal too many.** `tril(diagonal=1)` shows each token the answer. The loss falls to almost nothing. Nothing else
#   looks wrong until the model has to write.
# - **The triangle in the wrong corner.** With as many queries as keys both corners are the same, so training is right. The
#   fault shows with the first cached token. Test with `T_q != T_k`.
# - **A padding mask on the query axis.** The padded places look at nothing, and all others look at *them*. Shapes fit, because
#   `(B, 1, T, 1)` broadcasts as well as `(B, 1, 1, T)`.
# - **"Or" for "and".** Each mask says what is allowed. A place must be allowed by all of them. The prefix is the exception: it
#   adds places, and it has to be added *before* the padding takes some away.
# - **`-1e9`.** In float32 nobody notices, until a row sees nothing. In float16 the number does not exist.
# - **`nan_to_num` after the softmax.** Where the mask is *added*, the forward pass is clean and the backward pass is not: one padded row makes a
#   whole matrix NaN. Where `masked_fill` puts the mask in, the gradient is safe, by luck.
# - **A window that counts otherwise.** "Each token sees `w` tokens before it" and "each token sees `w` tokens" differ by one. Weights
#   that were trained one way run the other way without complaint.
# - **A leak that no mask shows.** A mean, a norm or a sort over the token axis. Only a test of the whole model finds it.
#
# More about leaks, with the tests that catch them, is on the page [Pitfalls](../../book/ch01_attention/pitfalls.md).
#
# ## Going further
#
# - **Leaks by gradient.** The derivative of output `i` with respect to the *embedding* of token `j` must be zero for `j > i`. One backward pass
#   for each output does for all tokens at once. Write it, and run it on all faults. Which ones does it miss, and why?
# - **Packed sequences.** Instead of padding, several documents are laid end to end in one row, and a document number for each
#   token keeps them apart. Write the mask `(B, 1, T, T)` from the document numbers. What should happen to the positions? (Mario Michael Krell,
#   Matej Kosec, Sergio P. Perez, Andrew Fitzgibbon, Efficient Sequence Packing without Cross-contamination, 2021.)
# - **Other patterns.** Dilated windows, a few global tokens. How many layers until the last output sees everything? (Iz Beltagy,
#   Matthew E. Peters, Arman Cohan, Longformer: The Long-Document Transformer, 2020.)
