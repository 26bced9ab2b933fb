# ---
# title: The Transformer block
# lab: ch02/lab04
# minutes: 110
# difficulty: 3
# hardware: cpu
# needs: [ch01/lab01, ch01/lab03, ch02/lab01, ch02/lab03]
# builds: [CausalSelfAttention, Block, load_gpt2_block, depth_profile, train_stack]
# ---

# %% [markdown]
# # Lab 2.4 · The Transformer block
#
# ## The idea
#
# You have all the parts: attention moves information between tokens, the feed-forward network works on each token,
# layer normalisation keeps the numbers in range. A block is those parts plus a rule for wiring them: nothing replaces
# the stream of vectors that runs through the model. A part reads the stream, and what it computes is *added*.
#
# One question is left, and it has two answers. Where does the normalisation go?
#
# | | attention | feed-forward |
# |---|---|---|
# | pre-norm (GPT-2) | $x \leftarrow x + \text{attn}(\text{norm}_1(x))$ | $x \leftarrow x + \text{ff}(\text{norm}_2(x))$ |
# | post-norm (2017) | $x \leftarrow \text{norm}_1(x + \text{attn}(x))$ | $x \leftarrow \text{norm}_2(x + \text{ff}(x))$ |
#
# Take one token with two features, $x = (1, 3)$, and make every matrix the identity, with ReLU as activation. A token
# that is alone attends to itself, so the attention returns what it reads. The mean of $x$ is 2 and its standard deviation is 1, so
# $\text{norm}(x) = (-1, 1)$.
#
# - **Pre-norm.** The attention reads $(-1, 1)$ and adds it: $(0, 4)$. The norm of that is $(-1, 1)$ again, ReLU leaves
#   $(0, 1)$, and the block returns $(0, 5)$. You can still see the 3 that came in, and the 1 and 1 that were added.
# - **Post-norm.** The attention reads $(1, 3)$ itself and adds it: $(2, 6)$, normalised $(-1, 1)$. ReLU leaves $(0, 1)$, the sum
#   is $(-1, 2)$, and the block returns $(-1, 1)$. With *any* input $(a, b)$, $a < b$, it would have been $(-1, 1)$.
#
# Same parts, same weights, same shapes, and both train when the model is shallow. What happens when it is deep is the
# subject of the last two exercises. The whole block in pictures, and what each part costs, is on the page
# [The Transformer block](../../book/ch02_block/transformer_block.md). Why there are residuals and norms at all is on
# [Residuals and normalisation](../../book/ch02_block/residuals_and_normalization.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `x` | `(B, T, d_model)` | the stream: one vector for each token, before, inside and after a block |
# | `w_q`, `w_k`, `w_v`, `w_o` | `(d_model, d_model)` | the matrices of the attention, used as `x @ w` |
# | `b_q`, `b_k`, `b_v`, `b_o` | `(d_model,)` | its biases, added after the product |
# | `q`, `k`, `v` | `(B, H, T, d_k)` | after the split, `H = n_heads`, `d_k = d_model // n_heads` |
# | `mask` | broadcasts to `(B, H, T, T)` | bool; `True`: this token *may* look at that one |
# | update | `(B, T, d_model)` | what one part adds to the stream |
# | `stream` | `(L + 1,)` | a number for each depth: before the first of `L` blocks, then after each |

# %% given
import math
from itertools import pairwise

import torch
from torch import nn

from coursekit import carry

# attention(q, k, v, mask=None) -> (output, weights)
# True in the mask means: may look; a row that may look at nothing gives zeros
attention = carry("ch01/lab01", "attention")
# split_heads(x, n_heads): (B, T, d_model) -> (B, H, T, d_k), and merge_heads(x) back
split_heads = carry("ch01/lab03", "split_heads")
merge_heads = carry("ch01/lab03", "merge_heads")
# LayerNorm(d_model, eps=1e-5): weight, bias
LayerNorm = carry("ch02/lab01", "LayerNorm")
# FeedForward(d_model, d_ff, activation="gelu_tanh", seed=0): w_in, b_in, w_out, b_out
FeedForward = carry("ch02/lab03", "FeedForward")

# %% given side="learner"
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockConfig:
    """The settings of a block.

    Attributes:
        d_model: features of a token.
        n_heads: heads of the attention, a divisor of d_model.
        d_ff: features inside the feed-forward network.
        norm_first: True for pre-norm, False for post-norm.
        activation: "relu", "gelu", "gelu_tanh" or "silu".
        dropout: the probability that a number of an update is dropped in training, at least 0 and below 1.
        eps: what layer normalisation adds to the variance.
        seed: decides the first weights.
    """

    d_model: int
    n_heads: int
    d_ff: int
    norm_first: bool = True
    activation: str = "gelu_tanh"
    dropout: float = 0.0
    eps: float = 1e-5
    seed: int = 0


# %% [markdown]
# ## A picture
#
# Before you build a block, watch 32 of PyTorch's. Each line sends the same random tokens through a fresh stack and
# shows the root mean square of the stream at every depth. The third stack has no norm at all. The vertical axis
# counts in powers of ten.

# %%
import plotly.graph_objects as go

from coursekit import plots

torch.manual_seed(0)
tokens = torch.randn(4, 16, 64)
later = torch.ones(16, 16, dtype=torch.bool).triu(1)  # PyTorch's masks: True = may not look
figure = go.Figure()
for name, norm_first, with_norm in (
    ("pre-norm", True, True),
    ("post-norm", False, True),
    ("no norm", False, False),
):
    stream, sizes = tokens, [tokens.square().mean().sqrt().item()]
    for depth in range(32):
        torch.manual_seed(depth)
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True, norm_first=norm_first)
        for parameter in layer.parameters():
            if parameter.ndim == 2:  # as in your labs: an entry has the variance 1 / (number of inputs)
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        if not with_norm:
            layer.norm1, layer.norm2 = nn.Identity(), nn.Identity()
        with torch.no_grad():
            stream = layer(stream, src_mask=later)
        sizes.append(stream.square().mean().sqrt().item())
    figure.add_scatter(x=list(range(33)), y=sizes, name=name, hovertemplate="after %{x} blocks: %{y:.3g}")
figure.update_xaxes(title="blocks")
figure.update_yaxes(title="root mean square of the stream", type="log", exponentformat="power", dtick=1)
figure.update_layout(height=360, hovermode="x unified", legend={"orientation": "h", "y": -0.28}).show()

# %% [markdown]
# Without a norm each part hands on what it reads at about the same size, so the stream grows by a factor with every
# block: exponentially. With post-norm it is put back to 1 twice in each block. With pre-norm each part *reads*
# numbers of size 1 and adds an update of a fixed size, so the stream grows, but slowly. Hover at depth 8 and at
# depth 32. By what power of the depth?
#
# ## Exercise 1 · `CausalSelfAttention`
#
# GPT-2's attention is that of Lab 1.3 with three differences. It is always self-attention, so there is one input. It is
# always causal: a token may look at itself and at earlier ones. And each of its four products is followed by adding a
# bias. `parameter_gradients` is given; the tests use it, so leave it as it is.
#
# *Difficulty 2 of 5 · 15 minutes · 5 points*


# %% exercise="CausalSelfAttention" difficulty=2 minutes=15 forbid=["Linear", "MultiheadAttention", "multi_head_attention_forward", "scaled_dot_product_attention"]
class CausalSelfAttention(nn.Module):
    """Multi-head self-attention with biases, in which no token looks at a later one.

    Args:
        d_model: features of a token.
        n_heads: number of heads H, a positive divisor of d_model.
        seed: the same seed gives the same first weights, another seed gives others.

    State:
        Eight float32 parameters and nothing else, no buffers either: ``w_q``, ``w_k``, ``w_v``, ``w_o`` of shape
        (d_model, d_model), used as ``x @ w``, and ``b_q``, ``b_k``, ``b_v``, ``b_o`` of shape (d_model,), each added
        after the product with the matrix of the same letter. Head h owns the columns from h * d_k up to (h + 1) * d_k of
        w_q, w_k and w_v, as in Lab 1.3. At first the entries of the matrices are independent, with mean 0 and variance
        1 / d_model (normal or uniform), and the biases are 0.

    Raises:
        ValueError: if n_heads is less than 1 or does not divide d_model.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (GPT-2), and its published code.
    """

    def __init__(self, d_model: int, n_heads: int, seed: int = 0):
        super().__init__()
        ### BEGIN SOLUTION
        if n_heads < 1 or d_model % n_heads != 0:
            raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
        self.n_heads = n_heads
        generator = torch.Generator().manual_seed(seed)
        spread = 1 / math.sqrt(d_model)  # a standard deviation: the variance is 1 / d_model
        self.w_q = nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))
        self.w_k = nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))
        self.w_v = nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))
        self.w_o = nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))
        self.b_q = nn.Parameter(torch.zeros(d_model))
        self.b_k = nn.Parameter(torch.zeros(d_model))
        self.b_v = nn.Parameter(torch.zeros(d_model))
        self.b_o = nn.Parameter(torch.zeros(d_model))
        ### END SOLUTION

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Let every token look at itself and at those before it.

        Args:
            x: (B, T, d_model), of the parameters' dtype.
            mask: boolean, True where a token may look, of shape (T, T), or (B, T, T), one for each sequence, or with
                four axes that broadcast to (B, H, T, T). It comes on top of the causal rule: it can forbid more, and
                allow nothing that is forbidden already. None forbids nothing more.

        Returns:
            (B, T, d_model). For a token that may look at nothing the heads give zeros, so the result is b_o.
        """
        ### BEGIN SOLUTION
        length = x.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        if mask is not None:
            if mask.ndim == 3:
                mask = mask.unsqueeze(1)  # (B, T, T) -> (B, 1, T, T)
            allowed = allowed & mask
        q = split_heads(x @ self.w_q + self.b_q, self.n_heads)  # (B, T, d_model) -> (B, H, T, d_k)
        k = split_heads(x @ self.w_k + self.b_k, self.n_heads)
        v = split_heads(x @ self.w_v + self.b_v, self.n_heads)
        heads, _ = attention(q, k, v, allowed)  # (B, H, T, d_k)
        return merge_heads(heads) @ self.w_o + self.b_o  # (B, T, d_model)
        ### END SOLUTION

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% [markdown]
# <details><summary>A nudge</summary>Begin with your class of Lab 1.3. The causal mask depends only on the length of the input, so it can
# be made anew in each call.</details>
# <details><summary>A bigger nudge</summary>Row i of a causal mask says what token i may look at: columns 0 to i. A second mask
# comes on top: a link is allowed if both allow it. Mind the shape of a mask with three axes beside <code>(B, H, T, T)</code>.</details>

# %% test="CausalSelfAttention" points=3
from coursekit import check

import torch
from torch.nn import functional as F

eye, zero = torch.eye(4), torch.zeros(4)
layer = CausalSelfAttention(4, 2)
layer.load_state_dict({f"w_{name}": eye for name in "qkvo"} | {f"b_{name}": zero for name in "qkvo"})
x = torch.tensor([[[1.0, 0.0, 3.0, 0.0], [0.0, 1.0, 2.0, 2.0], [1.0, 1.0, 0.0, 2.0]]])
blocks = [F.scaled_dot_product_attention(part, part, part, is_causal=True) for part in x.chunk(2, dim=-1)]
check.close(layer(x), torch.cat(blocks, dim=-1), "identity matrices: each head is causal attention on its own columns")
changed = torch.cat([x[:, :2], 9 - x[:, 2:]], dim=1)
check.close(layer(changed)[:, :2], layer(x)[:, :2], "another last token changes nothing for the first two")
layer.load_state_dict(
    {f"w_{name}": eye for name in "qko"}
    | {"w_v": 0 * eye, "b_q": zero, "b_k": zero, "b_v": zero + 1, "b_o": torch.tensor([10.0, 20.0, 30.0, 40.0])}
)
check.close(
    layer(x)[0, 1],
    torch.tensor([11.0, 21.0, 31.0, 41.0]),
    "w_v = 0, b_v = 1, b_o = [10, 20, 30, 40]: the values are all 1, and so is their mean; then comes b_o",
)
### BEGIN HIDDEN TESTS
from torch import nn

MATRICES, BIASES = ("w_q", "w_k", "w_v", "w_o"), ("b_q", "b_k", "b_v", "b_o")


def drawn(d_model, dtype, seed):
    noise = torch.Generator().manual_seed(check.seed(seed))
    state = {name: torch.randn(d_model, d_model, generator=noise) / d_model**0.5 for name in MATRICES}
    state |= {name: torch.randn(d_model, generator=noise) for name in BIASES}
    return {name: value.to(dtype) for name, value in state.items()}


def twin_of(state, n_heads):
    twin = nn.MultiheadAttention(len(state["b_o"]), n_heads, batch_first=True, dtype=state["b_o"].dtype)
    twin.load_state_dict(
        {
            "in_proj_weight": torch.cat([state["w_q"].T, state["w_k"].T, state["w_v"].T]),
            "in_proj_bias": torch.cat([state["b_q"], state["b_k"], state["b_v"]]),
            "out_proj.weight": state["w_o"].T,
            "out_proj.bias": state["b_o"],
        }
    )
    return twin


def values(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(seed)))


for batch, length, d_model, n_heads, dtype in (
    (1, 63, 60, 6, torch.float64),
    (3, 63, 60, 1, torch.float32),
    (3, 3, 60, 3, torch.float64),
    (3, 7, 12, 12, torch.float32),
    (1, 1, 12, 2, torch.float64),
):
    layer = CausalSelfAttention(d_model, n_heads)
    layer.to(dtype)
    state = drawn(d_model, dtype, seed=n_heads)
    layer.load_state_dict(state)
    x = values(length, batch, d_model, seed=length).to(dtype).transpose(0, 1)
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    case = f"B={batch}, T={length}, d_model={d_model}, H={n_heads}: the output equals that of nn.MultiheadAttention"
    atol = 1e-10 if dtype == torch.float64 else 1e-5
    check.close(layer(x), twin_of(state, n_heads)(x, x, x, attn_mask=later)[0].detach(), case, atol=atol)

batch, length, d_model, n_heads = 3, 7, 12, 3
state = drawn(d_model, torch.float64, seed=20)
layer, twin = CausalSelfAttention(d_model, n_heads), twin_of(state, n_heads)
layer.double()
layer.load_state_dict(state)
x = values(batch, length, d_model, seed=21)
later = torch.ones(length, length, dtype=torch.bool).triu(1)
for other in (5, 9):
    more = values(batch, other, d_model, seed=other)
    want = twin(more, more, more, attn_mask=torch.ones(other, other, dtype=torch.bool).triu(1))[0].detach()
    check.close(layer(more), want, f"the same layer with {other} tokens, after others with {length}", atol=1e-9)
    check.close(layer(x), twin(x, x, x, attn_mask=later)[0].detach(), f"and with {length} again", atol=1e-9)
far = 1e3 * x
check.close(layer(far), twin(far, far, far, attn_mask=later)[0].detach(), "inputs times 1000", atol=1e-8)
check.gradients(
    layer, lambda x: twin(x, x, x, attn_mask=later)[0], [x], "gradients of causal self-attention", atol=1e-9
)
direction = values(batch, length, d_model, seed=22)
loss = (twin(x, x, x, attn_mask=later)[0] * direction).sum()
w_in, b_in, w_out, b_out = torch.autograd.grad(
    loss, [twin.in_proj_weight, twin.in_proj_bias, twin.out_proj.weight, twin.out_proj.bias]
)
wanted = dict(zip(MATRICES[:3], (part.T for part in w_in.chunk(3)), strict=True)) | {"w_o": w_out.T}
wanted |= dict(zip(BIASES[:3], b_in.chunk(3), strict=True)) | {"b_o": b_out}
found = [layer.parameter_gradients(x, direction) for _ in range(2)][-1]  # asked twice: nothing piles up
for name, gradient in wanted.items():
    check.that(
        found.get(name) is not None, f"a gradient reaches {name}", hint="Look for .data, .detach() or torch.no_grad()."
    )
    check.close(found[name], gradient, f"the gradient of {name}", atol=1e-9)
### END HIDDEN TESTS

# %% test="CausalSelfAttention" points=1
from coursekit import check

import torch

layer = CausalSelfAttention(4, 2)
layer.load_state_dict(
    {"w_q": torch.zeros(4, 4), "w_k": torch.eye(4), "w_v": torch.eye(4), "w_o": torch.eye(4)}
    | {f"b_{name}": torch.zeros(4) for name in "qkvo"}
)
x = torch.tensor([[[4.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0]]])
check.close(
    layer(x),
    torch.tensor([[[4.0, 0, 0, 0], [2, 2, 0, 0], [4 / 3, 4 / 3, 4 / 3, 0]]]),
    "equal scores and no mask: each token is the mean of itself and those before it",
)
not_the_first = torch.tensor([[True, True, True], [False, True, True], [False, True, True]])
check.close(
    layer(x, not_the_first),
    torch.tensor([[[4.0, 0, 0, 0], [0, 4, 0, 0], [0, 2, 2, 0]]]),
    "equal scores, and the first token hidden from the others: each is the mean of what is left to see, the future is not",
)
### BEGIN HIDDEN TESTS
from torch import nn


def values(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(seed)))


def allowed(*shape, seed):
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(check.seed(seed))) < 0.5
    mask[..., 0] = True  # no row is empty
    return mask


batch, length, d_model, n_heads = 3, 7, 12, 3
state = {f"w_{name}": values(d_model, d_model, seed=30 + i) / d_model**0.5 for i, name in enumerate("qkvo")}
state |= {f"b_{name}": values(d_model, seed=40 + i) for i, name in enumerate("qkvo")}
layer = CausalSelfAttention(d_model, n_heads)
layer.double()
layer.load_state_dict(state)
twin = nn.MultiheadAttention(d_model, n_heads, batch_first=True, dtype=torch.float64)
twin.load_state_dict(
    {
        "in_proj_weight": torch.cat([state["w_q"].T, state["w_k"].T, state["w_v"].T]),
        "in_proj_bias": torch.cat([state["b_q"], state["b_k"], state["b_v"]]),
        "out_proj.weight": state["w_o"].T,
        "out_proj.bias": state["b_o"],
    }
)
x = values(batch, length, d_model, seed=31)
causal = torch.ones(length, length, dtype=torch.bool).tril()
masks = {
    "a mask (T, T)": (allowed(length, length, seed=50), lambda m: m),
    "a mask (B, T, T), where B happens to equal H": (allowed(batch, length, length, seed=51), lambda m: m[:, None]),
    "a mask (B, 1, 1, T) that hides padding": (allowed(batch, 1, 1, length, seed=52), lambda m: m),
    "a mask (1, H, T, T) that differs between heads": (allowed(1, n_heads, length, length, seed=53), lambda m: m),
    "a mask that allows everything": (torch.ones(length, length, dtype=torch.bool), lambda m: m),
}
for name, (mask, widen) in masks.items():
    may = (causal & widen(mask)).broadcast_to(batch, n_heads, length, length).reshape(-1, length, length)
    want = twin(x, x, x, attn_mask=~may)[0].detach()
    check.close(layer(x, mask), want, f"{name}, on top of the causal rule", atol=1e-9)
    check.close(layer(x, mask=mask), want, f"{name}, given by name", atol=1e-9)
nothing = torch.ones(length, length, dtype=torch.bool)
nothing[2], nothing[4, :5] = False, False
output = layer(x, nothing)
for row in (2, 4):
    check.close(
        output[:, row], state["b_o"].expand(batch, -1), f"token {row} may look at nothing: b_o alone", atol=1e-9
    )
want = twin(x, x, x, attn_mask=~causal)[0].detach()
check.close(output[:, [0, 1, 3, 5, 6]], want[:, [0, 1, 3, 5, 6]], "the others are not disturbed by that", atol=1e-9)
### END HIDDEN TESTS

# %% test="CausalSelfAttention" points=1
from coursekit import check

import torch

state = CausalSelfAttention(12, 3).state_dict()
names = ["b_k", "b_o", "b_q", "b_v", "w_k", "w_o", "w_q", "w_v"]
check.equal(sorted(state), names, "the names of the state", hint="Eight times nn.Parameter, and no buffer.")
check.raises(ValueError, lambda: CausalSelfAttention(12, 5), "5 heads cannot share 12 features")
### BEGIN HIDDEN TESTS
for n_heads in (0, -3, 24):
    check.raises(
        ValueError, lambda n_heads=n_heads: CausalSelfAttention(12, n_heads), f"{n_heads} heads for 12 features"
    )
d_model = 192
state = CausalSelfAttention(d_model, 3, seed=5).state_dict()
for name, value in state.items():
    check.equal(str(value.dtype), "torch.float32", f"the dtype of {name}")
for name in "qkvo":
    check.close(state[f"b_{name}"], torch.zeros(d_model), f"b_{name} begins as zeros")
    w = state[f"w_{name}"]
    check.equal(list(w.shape), [d_model, d_model], f"the shape of w_{name}")
    # 36,864 entries: the sample variance is within 0.8% of the true one two times in three, so 5% is far outside.
    check.close(
        float(w.var() * d_model),
        1.0,
        f"the variance of the first w_{name}, times d_model",
        atol=0.05,
        hint="a * randn has the variance a**2. Uniform numbers between -a and a have the variance a**2 / 3.",
    )
    check.close(float(w.mean() * d_model**0.5), 0.0, f"the mean of the first w_{name}, times sqrt(d_model)", atol=0.03)
for one, other in ("qk", "qv", "qo", "kv", "ko", "vo"):
    correlation = float((state[f"w_{one}"] * state[f"w_{other}"]).mean() * d_model)
    check.close(correlation, 0.0, f"the first w_{one} and w_{other} are independent (their correlation)", atol=0.05)
again, another = (CausalSelfAttention(d_model, 3, seed=seed).state_dict() for seed in (5, 6))
for name in "qkvo":
    check.equal(
        again[f"w_{name}"],
        state[f"w_{name}"],
        f"the same seed gives the same w_{name}",
        hint="Draw from a torch.Generator that is seeded with seed.",
    )
    check.that(not torch.equal(another[f"w_{name}"], state[f"w_{name}"]), f"another seed gives another w_{name}")
default, zero = CausalSelfAttention(12, 3).state_dict(), CausalSelfAttention(12, 3, 0).state_dict()
check.equal(default["w_q"], zero["w_q"], "the seed is 0 where it is left out")
### END HIDDEN TESTS


# %% alternative="CausalSelfAttention"
class CausalSelfAttention(nn.Module):
    # One head after the other, its own softmax with a maximum taken off, uniform first weights.
    def __init__(self, d_model, n_heads, seed=0):
        super().__init__()
        if n_heads <= 0 or d_model % n_heads:
            raise ValueError(n_heads)
        self.n_heads, self.d_k = n_heads, d_model // n_heads
        torch.manual_seed(seed)
        for letter in "okvq":
            w = nn.Parameter(torch.empty(d_model, d_model))
            setattr(self, f"w_{letter}", nn.init.xavier_uniform_(w))
            setattr(self, f"b_{letter}", nn.Parameter(torch.zeros(d_model)))

    def forward(self, x, mask=None):
        print("attention on", tuple(x.shape))
        batch, length, _ = x.shape
        position = torch.arange(length)
        may = (position[:, None] >= position).expand(batch, self.n_heads, length, length)
        if mask is not None:
            may = may & (mask[:, None] if mask.dim() == 3 else mask)
        output = self.b_o
        for h in range(self.n_heads):
            part = slice(h * self.d_k, (h + 1) * self.d_k)
            q, k, v = (
                torch.einsum("btd,de->bte", x, w[:, part]) + b[part]
                for w, b in ((self.w_q, self.b_q), (self.w_k, self.b_k), (self.w_v, self.b_v))
            )
            scores = (q @ k.mT * self.d_k**-0.5).masked_fill(~may[:, h], -torch.inf)
            weights = torch.softmax(scores.nan_to_num(neginf=-1e300 if x.dtype == torch.float64 else -1e38), -1)
            output = output + (weights * may[:, h]) @ v @ self.w_o[part]
        return output

    def parameter_gradients(self, x, direction):
        loss = (self(x) * direction).sum()
        self.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% mistakes="CausalSelfAttention"
{
    "there is no causal mask, so every token sees the whole future: the training loss looks wonderful": (
        "device=x.device).tril()",
        "device=x.device)",
    ),
    "the triangle is one too wide, so each token sees its successor, the very one it is to predict": (
        ".tril()",
        ".tril(1)",
    ),
    "the triangle is strict, so a token does not see itself": (".tril()", ".tril(-1)"),
    "the triangle lies on the wrong side: a token sees itself and the future": (".tril()", ".triu()"),
    "a mask takes the place of the causal rule, and it should come on top": (
        "allowed = allowed & mask",
        "allowed = mask",
    ),
    "mask and causal rule are joined by `or`, so each allows what the other forbids": (
        "allowed = allowed & mask",
        "allowed = allowed | mask",
    ),
    "the mask is ignored": ("allowed = allowed & mask", "allowed = allowed"),
    "the mask is inverted: True is taken to mean that looking is forbidden": ("allowed & mask", "allowed & ~mask"),
    "a mask (B, T, T) is lined up with the heads and not with the sequences": (
        "mask = mask.unsqueeze(1)",
        "mask = mask",
    ),
    "the bias b_q is never added": (" + self.b_q", ""),
    "the bias b_v is never added": (" + self.b_v", ""),
    "the bias b_o is never added": (" + self.b_o", ""),
    "no bias is added at all": [(" + self.b_q", ""), (" + self.b_k", ""), (" + self.b_v", ""), (" + self.b_o", "")],
    "b_o is added before the product with w_o": (
        "merge_heads(heads) @ self.w_o + self.b_o",
        "(merge_heads(heads) + self.b_o) @ self.w_o",
    ),
    "the biases are added to x, before the products": [
        ("x @ self.w_q + self.b_q", "(x + self.b_q) @ self.w_q"),
        ("x @ self.w_k + self.b_k", "(x + self.b_k) @ self.w_k"),
        ("x @ self.w_v + self.b_v", "(x + self.b_v) @ self.w_v"),
    ],
    "there is no output projection": (" @ self.w_o", ""),
    "the scores are divided by sqrt(d_model) and not by sqrt(d_k)": (
        "attention(q, k, v, allowed)",
        "attention(q / math.sqrt(self.n_heads), k, v, allowed)",
    ),
    "the scores are scaled twice: once here and once in attention": (
        "attention(q, k, v, allowed)",
        "attention(q / math.sqrt(q.shape[-1]), k, v, allowed)",
    ),
    "the causal mask is made once, at the length of the first input, and kept for all that follow": (
        "allowed = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()",
        "self.kept = getattr(self, 'kept', torch.ones(length, length, dtype=torch.bool).tril()); allowed = self.kept",
    ),
    "there is one softmax for all heads together: the split is left out": [
        ("q = split_heads(x @ self.w_q + self.b_q, self.n_heads)", "q = split_heads(x @ self.w_q + self.b_q, 1)"),
        ("k = split_heads(x @ self.w_k + self.b_k, self.n_heads)", "k = split_heads(x @ self.w_k + self.b_k, 1)"),
        ("v = split_heads(x @ self.w_v + self.b_v, self.n_heads)", "v = split_heads(x @ self.w_v + self.b_v, 1)"),
        ("attention(q, k, v, allowed)", "attention(q, k, v, allowed if allowed.ndim == 2 else allowed[:, :1])"),
    ],
    "the heads are merged with a reshape alone": ("merge_heads(heads)", "heads.reshape(x.shape)"),
    "the matrices are used as x @ w.T, the way nn.Linear stores them": [
        ("x @ self.w_q", "x @ self.w_q.T"),
        ("x @ self.w_k", "x @ self.w_k.T"),
        ("x @ self.w_v", "x @ self.w_v.T"),
        ("@ self.w_o +", "@ self.w_o.T +"),
    ],
    "the keys are projected with w_q": ("x @ self.w_k", "x @ self.w_q"),
    "the values are projected with w_k": ("x @ self.w_v", "x @ self.w_k"),
    "the queries and the keys have changed places": ("attention(q, k, v, allowed)", "attention(k, q, v, allowed)"),
    "the input is added to the output, which is the work of the block around the attention": (
        "return merge_heads",
        "return x + merge_heads",
    ),
    "the matrices are used through .data, so they get no gradient and never learn": [
        ("@ self.w_q +", "@ self.w_q.data +"),
        ("@ self.w_k +", "@ self.w_k.data +"),
        ("@ self.w_v +", "@ self.w_v.data +"),
        ("@ self.w_o +", "@ self.w_o.data +"),
    ],
    "a softmax of your own gives NaN for a token that may look at nothing": (
        "heads, _ = attention(q, k, v, allowed)",
        "heads = torch.softmax((q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, -math.inf), -1) @ v",
    ),
    "a softmax of your own puts -1e9 where -inf belongs, so a token that may look at nothing sees everything": (
        "heads, _ = attention(q, k, v, allowed)",
        "heads = torch.softmax((q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, -1e9), -1) @ v",
    ),
    "forward returns the weights beside the output": (
        "return merge_heads(heads) @ self.w_o + self.b_o",
        "return merge_heads(heads) @ self.w_o + self.b_o, _",
    ),
    "the causal mask is a registered buffer, so it is part of the state and has a largest length": [
        (
            "        self.n_heads = n_heads",
            "        self.n_heads = n_heads; self.register_buffer('causal', torch.ones(1024, 1024).tril())",
        ),
    ],
    "the biases are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(torch.zeros(d_model))",
        "torch.zeros(d_model)",
        "all",
    ),
    "the matrices are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))",
        "spread * torch.randn(d_model, d_model, generator=generator)",
        "all",
    ),
    "the biases begin as ones": ("torch.zeros(d_model)", "torch.ones(d_model)", "all"),
    "the biases begin as random numbers": (
        "torch.zeros(d_model)",
        "spread * torch.randn(d_model, generator=generator)",
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
    "every matrix restarts the generator, so all four begin equal": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
        "all",
    ),
    "the seed is ignored": ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
    "an n_heads that does not divide d_model is accepted": (
        "if n_heads < 1 or d_model % n_heads != 0:",
        "if n_heads < 1:",
    ),
}

# %% equivalent="CausalSelfAttention"
{
    "x @ self.w_k + self.b_k -> x @ self.w_k - self.b_k": "b_k adds the same number, q . b_k, to all scores of a query, "
    "and softmax does not see it: no value of b_k changes any output",
}

# %% [markdown]
# A question before you go on. Set `b_k` to anything you like, and nothing changes, not one output and not one gradient.
# Why? Write down the score of query $i$ and key $j$ with the bias in it, and look at what softmax does with a term
# that is the same for all $j$. GPT-2 has the parameter anyway.
#
# ## Exercise 2 · `Block`
#
# Wire the parts together, in both ways of the table above. Dropout belongs to the wiring too: in training, each number
# of an *update* is dropped (set to zero) with probability `dropout`, and the others are divided by `1 - dropout`, so
# that the mean stays what it was. It acts on the update before it is added, never on the stream: what is in the stream
# stays there. In evaluation nothing is dropped, and nothing is scaled.
#
# `Module.train()` and `Module.eval()` set `self.training`. PyTorch's dropout functions and modules are allowed.
#
# *Difficulty 3 of 5 · 25 minutes · 8 points*


# %% exercise="Block" difficulty=3 minutes=25 forbid=["TransformerEncoderLayer", "TransformerDecoderLayer", "MultiheadAttention", "scaled_dot_product_attention"]
class Block(nn.Module):
    """A causal Transformer block: attention and a feed-forward network around one stream.

    Args:
        config: a `BlockConfig`.

    State:
        The four submodules ``norm_1``, ``attention``, ``norm_2``, ``feed_forward``: a `LayerNorm`, a
        `CausalSelfAttention`, another `LayerNorm` and a `FeedForward`, with the sizes, eps and activation of the config,
        and no other parameters or buffers. norm_1 goes with the attention, norm_2 with the feed-forward network.

        The seed decides all first weights. The parts of a block are independent: attention and feed-forward network
        have different seeds, and no part of a block has the seed of a part of a block with another seed.

    Source: Vaswani et al., Attention Is All You Need, 2017 (post-norm); Radford et al., Language Models are Unsupervised
    Multitask Learners, 2019 (pre-norm).
    """

    def __init__(self, config: BlockConfig):
        super().__init__()
        ### BEGIN SOLUTION
        self.norm_first, self.dropout = config.norm_first, config.dropout
        self.norm_1 = LayerNorm(config.d_model, config.eps)
        self.attention = CausalSelfAttention(config.d_model, config.n_heads, seed=2 * config.seed)
        self.norm_2 = LayerNorm(config.d_model, config.eps)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.activation, seed=2 * config.seed + 1)
        ### END SOLUTION

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """One pass of the stream through the block. x itself is not changed.

        With norm_first each part reads the normalised stream, and its update is added to the stream itself. Without, each
        part reads the stream as it is, and the sum of stream and update is normalised. The feed-forward network reads
        what the attention has written. In training mode dropout acts on each of the two updates, with random numbers of
        its own for every number of the update (from PyTorch's global generator); in evaluation mode there is none.

        Args:
            x: (B, T, d_model), of the parameters' dtype.
            mask: as in `CausalSelfAttention.forward`.

        Returns:
            (B, T, d_model).
        """
        ### BEGIN SOLUTION
        if self.norm_first:
            x = x + self._drop(self.attention(self.norm_1(x), mask))
            return x + self._drop(self.feed_forward(self.norm_2(x)))
        x = self.norm_1(x + self._drop(self.attention(x, mask)))
        return self.norm_2(x + self._drop(self.feed_forward(x)))

    def _drop(self, update: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(update, self.dropout, self.training)
        ### END SOLUTION

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% [markdown]
# <details><summary>A nudge</summary>Each row of the table in "The idea" is two lines of code. Write the pre-norm pair, run the check, then the
# post-norm pair.</details>
# <details><summary>A bigger nudge</summary>In pre-norm the stream appears twice in each line: once as it is, to be added to, and once inside the
# norm. <code>nn.functional.dropout(update, p, training)</code> does all of the dropout, if its last argument is right. For the seeds, think
# of even and odd numbers.</details>

# %% test="Block" points=3
from coursekit import check

import torch


def identity_state(d_model):
    """Every matrix the identity, every bias zero, the norms without effect of their own."""
    state = {f"attention.w_{name}": torch.eye(d_model) for name in "qkvo"}
    state |= {f"attention.b_{name}": torch.zeros(d_model) for name in "qkvo"}
    state |= {f"feed_forward.w_{name}": torch.eye(d_model) for name in ("in", "out")}
    state |= {f"feed_forward.b_{name}": torch.zeros(d_model) for name in ("in", "out")}
    return state | {
        f"norm_{i}.{name}": torch.full((d_model,), v) for i in (1, 2) for name, v in (("weight", 1.0), ("bias", 0.0))
    }


state = Block(BlockConfig(4, 2, 8)).state_dict()
parts = sorted({name.split(".")[0] for name in state})
check.equal(parts, ["attention", "feed_forward", "norm_1", "norm_2"], "the names of the four submodules")
token, found = torch.tensor([[[1.0, 3.0]]]), {}
for norm_first in (True, False):
    block = Block(BlockConfig(2, 1, 2, norm_first=norm_first, activation="relu"))
    block.load_state_dict(identity_state(2))
    found[norm_first] = block(token)
check.close(found[True], torch.tensor([[[0.0, 5.0]]]), "pre-norm: the token [1, 3] of the example above", atol=1e-4)
check.close(found[False], torch.tensor([[[-1.0, 1.0]]]), "post-norm: the token [1, 3] of the example above", atol=1e-4)
block = Block(BlockConfig(4, 2, 8))
x = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
changed = torch.cat([x[:, :3], 9 - x[:, 3:]], dim=1)
check.close(block(changed)[:, :3], block(x)[:, :3], "the block is causal: other late tokens change no early one")
### BEGIN HIDDEN TESTS
from functools import partial

from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda hidden: F.gelu(hidden, approximate="tanh"),
    "silu": F.silu,
}
LINEAR = {
    "self_attn.out_proj": ("attention.w_o", "attention.b_o"),
    "linear1": ("feed_forward.w_in", "feed_forward.b_in"),
    "linear2": ("feed_forward.w_out", "feed_forward.b_out"),
}


def drawn(d_model, d_ff, dtype, seed):
    noise = torch.Generator().manual_seed(check.seed(seed))

    def random(*shape):
        return torch.randn(*shape, generator=noise, dtype=torch.float64).to(dtype) / (
            shape[0] ** 0.5 if shape[1:] else 2
        )

    state = {f"attention.w_{name}": random(d_model, d_model) for name in "qkvo"}
    state |= {f"attention.b_{name}": random(d_model) for name in "qkvo"}
    state |= {"feed_forward.w_in": random(d_model, d_ff), "feed_forward.b_in": random(d_ff)}
    state |= {"feed_forward.w_out": random(d_ff, d_model), "feed_forward.b_out": random(d_model)}
    for i in (1, 2):
        state |= {f"norm_{i}.weight": 1 + random(d_model), f"norm_{i}.bias": random(d_model)}
    return state


def twin_of(state, n_heads, norm_first, activation, eps=1e-5):
    d_model, d_ff = state["feed_forward.w_in"].shape
    twin = nn.TransformerEncoderLayer(
        d_model,
        n_heads,
        d_ff,
        0.0,
        ACTIVATIONS[activation],
        eps,
        batch_first=True,
        norm_first=norm_first,
        dtype=state["norm_1.bias"].dtype,
    )
    theirs = {f"{name}.weight": state[w].T for name, (w, _) in LINEAR.items()}
    theirs |= {f"{name}.bias": state[b] for name, (_, b) in LINEAR.items()}
    theirs["self_attn.in_proj_weight"] = torch.cat([state[f"attention.w_{name}"].T for name in "qkv"])
    theirs["self_attn.in_proj_bias"] = torch.cat([state[f"attention.b_{name}"] for name in "qkv"])
    theirs |= {f"norm{i}.{name}": state[f"norm_{i}.{name}"] for i in (1, 2) for name in ("weight", "bias")}
    twin.load_state_dict(theirs)
    return twin


def ours(theirs):
    """Gradients by PyTorch's names, under ours."""
    found = {w: theirs[f"{name}.weight"].T for name, (w, _) in LINEAR.items()}
    found |= {b: theirs[f"{name}.bias"] for name, (_, b) in LINEAR.items()}
    for name, w, b in zip(
        "qkv", theirs["self_attn.in_proj_weight"].chunk(3), theirs["self_attn.in_proj_bias"].chunk(3), strict=True
    ):
        found |= {f"attention.w_{name}": w.T, f"attention.b_{name}": b}
    return found | {f"norm_{i}.{name}": theirs[f"norm{i}.{name}"] for i in (1, 2) for name in ("weight", "bias")}


for norm_first in (True, False):
    for batch, length, d_model, n_heads, d_ff, activation, dtype in (
        (1, 63, 60, 6, 77, "gelu_tanh", torch.float32),
        (3, 7, 12, 3, 20, "relu", torch.float64),
        (2, 5, 8, 1, 32, "silu", torch.float64),
        (3, 1, 8, 8, 4, "gelu", torch.float64),
    ):
        kind = "pre-norm" if norm_first else "post-norm"
        case = f"{kind}, B={batch}, T={length}, d_model={d_model}, H={n_heads}, d_ff={d_ff}, {activation}"
        state = drawn(d_model, d_ff, dtype, seed=length)
        block = Block(BlockConfig(d_model, n_heads, d_ff, norm_first=norm_first, activation=activation))
        block.to(dtype)
        block.load_state_dict(state)
        twin = twin_of(state, n_heads, norm_first, activation)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        noise = torch.Generator().manual_seed(check.seed(d_model))
        x = torch.randn(length, batch, d_model, dtype=torch.float64, generator=noise).to(dtype).transpose(0, 1)
        atol = 2e-5 if dtype == torch.float32 else 1e-9
        check.close(block(x), twin(x, src_mask=later).detach(), f"{case}: PyTorch's block", atol=atol)
        if dtype == torch.float64:
            check.gradients(block, partial(twin, src_mask=later), [x], f"{case}: gradients", atol=1e-8)
            direction = torch.randn(x.shape, dtype=torch.float64, generator=noise)
            loss = (twin(x, src_mask=later) * direction).sum()
            names = [name for name, _ in twin.named_parameters()]
            wanted = ours(dict(zip(names, torch.autograd.grad(loss, list(twin.parameters())), strict=True)))
            found = [block.parameter_gradients(x, direction) for _ in range(2)][-1]  # asked twice: nothing piles up
            for name, gradient in wanted.items():
                check.that(found.get(name) is not None, f"{case}: a gradient reaches {name}")
                check.close(found[name], gradient, f"{case}: the gradient of {name}", atol=1e-8)
    # Tiny inputs: here eps decides.
    state = drawn(8, 16, torch.float64, seed=3)
    block = Block(BlockConfig(8, 2, 16, norm_first=norm_first, activation="relu", eps=0.25))
    block.double()
    block.load_state_dict(state)
    x = 0.1 * torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(4)))
    later = torch.ones(4, 4, dtype=torch.bool).triu(1)
    want = twin_of(state, 2, norm_first, "relu", eps=0.25)(x, src_mask=later).detach()
    check.close(block(x), want, f"norm_first={norm_first}, eps=0.25", atol=1e-9)
    padding = torch.tensor([[True, True, False, True], [True, False, True, True]])
    want = twin_of(state, 2, norm_first, "relu", eps=0.25)(x, src_mask=later, src_key_padding_mask=~padding).detach()
    check.close(
        block(x, padding[:, None, None, :]), want, f"norm_first={norm_first}, a mask that hides padding", atol=1e-9
    )
### END HIDDEN TESTS

# %% test="Block" points=3
from coursekit import check

import torch

block = Block(BlockConfig(8, 2, 16, dropout=0.5, seed=1))
plain = Block(BlockConfig(8, 2, 16, dropout=0.0, seed=1))
x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
block.eval()
check.close(block(x), plain(x), "in evaluation mode there is no dropout")
torch.manual_seed(0)
block.train()
first, second = block(x), block(x)
check.that(not torch.equal(first, second), "in training mode two passes differ", hint="Is dropout there at all?")
### BEGIN HIDDEN TESTS
from torch.nn import functional as F

D, RATE = 32, 0.5


def states():
    """Attention that always adds 3 and a feed-forward network that adds nothing, and the other way round."""
    base = Block(BlockConfig(D, 4, 64)).state_dict()
    silent = {"attention.w_o": torch.zeros(D, D), "attention.b_o": torch.zeros(D)}
    silent |= {"feed_forward.w_out": torch.zeros(64, D), "feed_forward.b_out": torch.zeros(D)}
    base = {name: value.double() for name, value in (base | silent).items()}
    for name in ("attention.b_o", "feed_forward.b_out"):
        yield name.partition(".")[0], base | {name: torch.full((D,), 3.0, dtype=torch.float64)}


def judge(kept, rate, what):
    """What was kept is the share that it should be, and drawn for each number anew."""
    share = kept.double().mean().item()
    # 3,840 numbers: a share strays by 0.008, and 0.08 is ten times that.
    check.close(share, 1 - rate, f"{what}: the share of numbers that is kept", atol=0.08)
    check.that(not torch.equal(kept[0], kept[1]), f"{what}: each sequence draws its own numbers")
    check.that(not torch.equal(kept[:, 0], kept[:, 1]), f"{what}: each token draws its own numbers")
    check.that(not bool((kept == kept[..., :1]).all()), f"{what}: each feature draws its own number")


x = torch.randn(3, 40, D, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(1)))
for part, state in states():
    for rate in (0.25, RATE):
        block = Block(BlockConfig(D, 4, 64, dropout=rate))
        block.double()
        block.load_state_dict(state)
        block.train()
        torch.manual_seed(check.seed(2))
        update = block(x) - x
        kept = update > 1.5
        what = f"pre-norm, dropout {rate}, the update of {part}"
        check.close(update, torch.where(kept, 3 / (1 - rate), 0.0).double(), f"{what}: 0, or 3 / {1 - rate}", atol=1e-9)
        judge(kept, rate, what)
        again = block(x) - x
        check.that(not torch.equal(again > 1.5, kept), f"{what}: the next pass draws anew")
        block.eval()
        check.close(block(x), x + 3, f"{what}: nothing is dropped or scaled in evaluation mode", atol=1e-9)

# Post-norm: updates so large that a kept number is above the mean of its token, and a dropped one below.
for part, state in states():
    block = Block(BlockConfig(D, 4, 64, norm_first=False, dropout=RATE))
    block.double()
    block.load_state_dict({name: 1e4 * value if name.startswith(part) else value for name, value in state.items()})
    block.train()
    torch.manual_seed(check.seed(3))
    output = block(x)
    kept = output > 0
    read = x if part == "attention" else F.layer_norm(x, (D,))
    want = F.layer_norm(read + torch.where(kept, 3e4 / (1 - RATE), 0.0).double(), (D,))
    want = F.layer_norm(want, (D,)) if part == "attention" else want
    what = f"post-norm, dropout {RATE}, the update of {part}"
    check.close(output, want, f"{what}: dropped before the sum is normalised", atol=1e-8)
    judge(kept, RATE, what)
    block.eval()
    full = F.layer_norm(F.layer_norm(x, (D,)), (D,))
    check.close(block(x), full, f"{what}: a constant update, not dropped, changes nothing after the norm", atol=1e-4)

# Both updates at once draw numbers of their own.
block = Block(BlockConfig(D, 4, 64, dropout=RATE))
block.double()
both = dict(zip(("attention", "feed_forward"), (state for _, state in states()), strict=True))
block.load_state_dict(both["attention"] | {"feed_forward.b_out": torch.full((D,), 30.0, dtype=torch.float64)})
block.train()
torch.manual_seed(check.seed(4))
update = (block(x) - x) * (1 - RATE)
levels = [int((update - level).abs().lt(1e-6).sum()) for level in (0.0, 3.0, 30.0, 33.0)]
check.equal(sum(levels), x.numel(), "both updates: each number is 0, 3, 30 or 33, over 1 - dropout")
check.that(
    min(levels) > x.numel() // 8, "both updates: each is dropped on its own, so all four sums occur equally often"
)
### END HIDDEN TESTS

# %% test="Block" points=2
from coursekit import check

import torch

config = BlockConfig(8, 2, 20, seed=3)
shapes = {name: list(value.shape) for name, value in Block(config).state_dict().items()}
check.equal(
    len(shapes), 16, "a block has 16 parameters: 8 of the attention, 4 of the feed-forward network, 2 of each norm"
)
check.equal(shapes["feed_forward.w_in"], [8, 20], "the feed-forward network is d_ff wide")
check.raises(ValueError, lambda: Block(BlockConfig(8, 3, 20)), "3 heads cannot share 8 features")
### BEGIN HIDDEN TESTS


def heads_matter(n_heads):
    block = Block(BlockConfig(12, n_heads, 24, seed=4))
    noise = torch.Generator().manual_seed(check.seed(1))
    return block(torch.randn(2, 5, 12, generator=noise))


outputs = [heads_matter(n_heads) for n_heads in (1, 2, 12)]
check.that(
    all(not torch.allclose(outputs[i], outputs[j], atol=1e-4) for i, j in ((0, 1), (0, 2), (1, 2))),
    "the same weights with 1, 2 and 12 heads compute different things",
)
state = Block(BlockConfig(16, 2, 48, seed=3)).state_dict()
again = Block(BlockConfig(16, 2, 48, seed=3)).state_dict()
for name, value in state.items():
    check.equal(str(value.dtype), "torch.float32", f"the dtype of {name}")
    check.equal(
        again[name],
        value,
        f"the same seed gives the same {name}",
        hint="Draw from a torch.Generator that is seeded with seed.",
    )


def matrices(seed):
    state = Block(BlockConfig(64, 2, 128, seed=seed)).state_dict()
    return {name: value.flatten()[:4096] for name, value in state.items() if value.ndim == 2}


for seed, other in ((0, 1), (1, 2), (0, 100), (0, 1000)):
    here, there = matrices(seed), matrices(other)
    everything = {f"{name}": value for name, value in here.items()}
    everything |= {f"{name} of seed {other}": value for name, value in there.items()}
    names = list(everything)
    stacked = torch.stack([value / value.norm() for value in everything.values()])
    # Independent numbers correlate by 1 / sqrt(4096) = 0.016; the largest of 66 pairs stays far below 0.2.
    overlap = (stacked @ stacked.T).abs().fill_diagonal_(0)
    worst = int(overlap.argmax())
    pair = f"{names[worst // len(names)]} and {names[worst % len(names)]}"
    check.that(
        overlap.max() < 0.2,
        f"all first matrices of the blocks with the seeds {seed} and {other} are independent",
        why=f"{pair} begin alike (correlation {overlap.max():.2f})",
        hint="Attention and feed-forward network need seeds of their own, that no other block uses.",
    )
### END HIDDEN TESTS

# %% equivalent="Block"
{
    "2 * config.seed + 1 -> 2 * config.seed - 1": "another odd number for each block, which no part of another has either",
}


# %% alternative="Block"
class Block(nn.Module):
    # Modules for dropout, one function for both ways of wiring.
    def __init__(self, config):
        super().__init__()
        self.pre = config.norm_first
        self.norm_1, self.norm_2 = (LayerNorm(config.d_model, eps=config.eps) for _ in range(2))
        seeds = (1_000_003 * config.seed + 17, 1_000_003 * config.seed + 500_000)
        self.attention = CausalSelfAttention(config.d_model, config.n_heads, seeds[0])
        self.feed_forward = FeedForward(config.d_model, config.d_ff, activation=config.activation, seed=seeds[1])
        self.drop_1, self.drop_2 = nn.Dropout(config.dropout), nn.Dropout(config.dropout)

    def around(self, x, part, norm, drop):
        read = norm(x) if self.pre else x
        summed = torch.add(drop(part(read)), x)
        return summed if self.pre else norm(summed)

    def forward(self, x, mask=None):
        x = self.around(x, lambda read: self.attention(read, mask=mask), self.norm_1, self.drop_1)
        return self.around(x, self.feed_forward, self.norm_2, self.drop_2)

    def parameter_gradients(self, x, direction):
        loss = (self(x) * direction).sum()
        self.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% alternative="Block"
class Block(nn.Module):
    # Dropout by hand, from random numbers.
    def __init__(self, config):
        super().__init__()
        self.config = config
        for i in (1, 2):
            setattr(self, f"norm_{i}", LayerNorm(config.d_model, config.eps))
        self.attention = CausalSelfAttention(config.d_model, config.n_heads, 10 * config.seed + 7)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.activation, 10 * config.seed + 3)

    def drop(self, update):
        if not self.training:
            return update
        keep = torch.rand(update.shape) >= self.config.dropout
        return torch.where(keep, update, torch.zeros_like(update)) / (1 - self.config.dropout)

    def forward(self, x, mask=None):
        if self.config.norm_first:
            middle = x + self.drop(self.attention(self.norm_1(x), mask))
            out = middle + self.drop(self.feed_forward(self.norm_2(middle)))
        else:
            middle = self.norm_1(x + self.drop(self.attention(x, mask)))
            out = self.norm_2(middle + self.drop(self.feed_forward(middle)))
        print("in", x.std().item(), "out", out.std().item())
        return out

    def parameter_gradients(self, x, direction):
        loss = (self(x) * direction).sum()
        self.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% mistakes="Block"
{
    "dropout is left on in evaluation mode": ("self.dropout, self.training)", "self.dropout, True)"),
    "the normalised stream takes the place of the stream: updates are added to norm(x) and not to x": [
        (
            "x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "x = self.norm_1(x); x = x + self._drop(self.attention(x, mask))",
        ),
        (
            "return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "x = self.norm_2(x); return x + self._drop(self.feed_forward(x))",
        ),
    ],
    "the final residual is missing: the feed-forward network replaces the stream": [
        (
            "return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "return self._drop(self.feed_forward(self.norm_2(x)))",
        ),
        (
            "return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "return self.norm_2(self._drop(self.feed_forward(x)))",
        ),
    ],
    "the first residual is missing: the attention replaces the stream": [
        (
            "x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "x = self._drop(self.attention(self.norm_1(x), mask))",
        ),
        (
            "x = self.norm_1(x + self._drop(self.attention(x, mask)))",
            "x = self.norm_1(self._drop(self.attention(x, mask)))",
        ),
    ],
    "there is no residual connection at all": [
        (
            "x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "x = self._drop(self.attention(self.norm_1(x), mask))",
        ),
        (
            "x = self.norm_1(x + self._drop(self.attention(x, mask)))",
            "x = self.norm_1(self._drop(self.attention(x, mask)))",
        ),
        (
            "return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "return self._drop(self.feed_forward(self.norm_2(x)))",
        ),
        (
            "return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "return self.norm_2(self._drop(self.feed_forward(x)))",
        ),
    ],
    "the setting norm_first is ignored: the block is always pre-norm": ("if self.norm_first:", "if True:"),
    "the setting norm_first is ignored: the block is always post-norm": ("if self.norm_first:", "if False:"),
    "the setting norm_first is read the wrong way round": ("if self.norm_first:", "if not self.norm_first:"),
    "in pre-norm the sum is normalised as well, after the update is added": [
        (
            "x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "x = self.norm_1(x + self._drop(self.attention(self.norm_1(x), mask)))",
        ),
        (
            "return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "return self.norm_2(x + self._drop(self.feed_forward(self.norm_2(x))))",
        ),
    ],
    "in post-norm only the update is normalised, and then added": [
        (
            "x = self.norm_1(x + self._drop(self.attention(x, mask)))",
            "x = x + self.norm_1(self._drop(self.attention(x, mask)))",
        ),
        (
            "return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "return x + self.norm_2(self._drop(self.feed_forward(x)))",
        ),
    ],
    "in post-norm the second norm is missing": (
        "return self.norm_2(x + self._drop(self.feed_forward(x)))",
        "return x + self._drop(self.feed_forward(x))",
    ),
    "the two norms are one and the same module, so they share their weights": (
        "self.norm_2 = LayerNorm(config.d_model, config.eps)",
        "self.norm_2 = self.norm_1",
    ),
    "norm_1 is used in both places, and norm_2 never": ("self.norm_2(", "self.norm_1(", "all"),
    "the two norms have changed places": [
        ("self.norm_1(", "self.norm_0(", "all"),
        ("self.norm_2(", "self.norm_1(", "all"),
        ("self.norm_0(", "self.norm_2(", "all"),
    ],
    "the feed-forward network reads the stream from before the attention (a parallel block)": [
        (
            "            x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "            first = x; x = x + self._drop(self.attention(self.norm_1(x), mask))",
        ),
        ("self.feed_forward(self.norm_2(x))", "self.feed_forward(self.norm_2(first))"),
    ],
    "the feed-forward network comes before the attention": [
        (
            "            x = x + self._drop(self.attention(self.norm_1(x), mask))\n            return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "            x = x + self._drop(self.feed_forward(self.norm_2(x)))\n            return x + self._drop(self.attention(self.norm_1(x), mask))",
        ),
        (
            "        x = self.norm_1(x + self._drop(self.attention(x, mask)))\n        return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "        x = self.norm_2(x + self._drop(self.feed_forward(x)))\n        return self.norm_1(x + self._drop(self.attention(x, mask)))",
        ),
    ],
    "the mask never reaches the attention": (", mask))", "))", "all"),
    "there is no dropout": ("return nn.functional.dropout(update, self.dropout, self.training)", "return update"),
    "dropout acts in evaluation mode only": ("self.training)", "not self.training)"),
    "dropout takes the rate for the share that is kept": (
        "nn.functional.dropout(update, self.dropout, self.training)",
        "nn.functional.dropout(update, 1 - self.dropout if self.dropout else 0.0, self.training)",
    ),
    "what dropout keeps is not scaled up by 1 / (1 - dropout)": (
        "return nn.functional.dropout(update, self.dropout, self.training)",
        "return nn.functional.dropout(update, self.dropout, self.training) * (1 - self.dropout if self.training else 1)",
    ),
    "what dropout keeps is not scaled up, and the updates are scaled down in evaluation mode": (
        "return nn.functional.dropout(update, self.dropout, self.training)",
        "return nn.functional.dropout(update, self.dropout, self.training) * (1 - self.dropout)",
    ),
    "dropout acts on the stream, after the update has been added": [
        (
            "x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "x = self._drop(x + self.attention(self.norm_1(x), mask))",
        ),
        (
            "return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "return self._drop(x + self.feed_forward(self.norm_2(x)))",
        ),
        (
            "x = self.norm_1(x + self._drop(self.attention(x, mask)))",
            "x = self.norm_1(self._drop(x + self.attention(x, mask)))",
        ),
        (
            "return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "return self.norm_2(self._drop(x + self.feed_forward(x)))",
        ),
    ],
    "dropout acts on what the parts read, and not on what they return": [
        ("self._drop(self.attention(self.norm_1(x), mask))", "self.attention(self._drop(self.norm_1(x)), mask)"),
        ("self._drop(self.feed_forward(self.norm_2(x)))", "self.feed_forward(self._drop(self.norm_2(x)))"),
        ("self._drop(self.attention(x, mask))", "self.attention(self._drop(x), mask)"),
        ("self._drop(self.feed_forward(x))", "self.feed_forward(self._drop(x))"),
    ],
    "in post-norm dropout comes after the norm": [
        (
            "x = self.norm_1(x + self._drop(self.attention(x, mask)))",
            "x = self._drop(self.norm_1(x + self.attention(x, mask)))",
        ),
        (
            "return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "return self._drop(self.norm_2(x + self.feed_forward(x)))",
        ),
    ],
    "the update of the attention is never dropped": [
        ("self._drop(self.attention(self.norm_1(x), mask))", "self.attention(self.norm_1(x), mask)"),
        ("self._drop(self.attention(x, mask))", "self.attention(x, mask)"),
    ],
    "the update of the feed-forward network is never dropped": [
        ("self._drop(self.feed_forward(self.norm_2(x)))", "self.feed_forward(self.norm_2(x))"),
        ("self._drop(self.feed_forward(x))", "self.feed_forward(x)"),
    ],
    "dropout draws one number for a whole token": (
        "return nn.functional.dropout(update, self.dropout, self.training)",
        "return update * nn.functional.dropout(torch.ones_like(update[..., :1]), self.dropout, self.training)",
    ),
    "dropout draws the same numbers for all tokens of a sequence": (
        "return nn.functional.dropout(update, self.dropout, self.training)",
        "return update * nn.functional.dropout(torch.ones_like(update[:, :1]), self.dropout, self.training)",
    ),
    "eps is not passed on to the norms": (", config.eps)", ")", "all"),
    "the activation is not passed on to the feed-forward network": (
        "config.d_ff, config.activation, seed",
        "config.d_ff, seed",
    ),
    "the feed-forward network is always four times d_model wide": (
        "config.d_model, config.d_ff,",
        "config.d_model, 4 * config.d_model,",
    ),
    "the attention always has one head": ("config.d_model, config.n_heads,", "config.d_model, 1,"),
    "attention and feed-forward network begin from the same seed, so their first matrices hold the same numbers": (
        "seed=2 * config.seed + 1)",
        "seed=2 * config.seed)",
    ),
    "both parts get the seed of the config as it is, so their first matrices hold the same numbers": [
        ("seed=2 * config.seed + 1)", "seed=config.seed)"),
        ("seed=2 * config.seed)", "seed=config.seed)"),
    ],
    "the feed-forward network of one block has the seed of the next block's attention": [
        ("seed=2 * config.seed + 1)", "seed=config.seed + 1)"),
        ("seed=2 * config.seed)", "seed=config.seed)"),
    ],
    "the second part has the seed of the first part plus 1000, which is the seed of the first part of a later block": [
        ("seed=2 * config.seed + 1)", "seed=config.seed + 1000)"),
        ("seed=2 * config.seed)", "seed=config.seed)"),
    ],
    "the seed of the config is ignored, so all blocks of a model begin alike": [
        ("seed=2 * config.seed + 1)", "seed=1)"),
        ("seed=2 * config.seed)", "seed=0)"),
    ],
    "the parts are detached from the stream: no gradient passes through what they read": [
        ("self.norm_1(x), mask", "self.norm_1(x.detach()), mask"),
        ("self.feed_forward(self.norm_2(x))", "self.feed_forward(self.norm_2(x.detach()))"),
        ("self.attention(x, mask)", "self.attention(x.detach(), mask)"),
        ("self.feed_forward(x)", "self.feed_forward(x.detach())"),
    ],
}

# %% [markdown]
# ## Exercise 3 · `load_gpt2_block`
#
# The proof that your block is GPT-2's: load GPT-2's weights and compute the same numbers. `transformers` keeps a
# block's weights under other names, and in one case in another form: the three projections of the attention are one
# matrix with `3 * d_model` columns, queries first, then keys, then values. Its layer class (`Conv1D`, an odd name for a
# matrix product) computes `x @ weight + bias`, as you do. (`nn.Linear` keeps its matrix turned over.)
#
# A loader that skips what it does not know gives you a model that is half random, and that still writes text of a
# kind. So yours refuses.
#
# *Difficulty 3 of 5 · 20 minutes · 5 points*


# %% exercise="load_gpt2_block" difficulty=3 minutes=20 forbid=["GPT2Block", "GPT2Model"]
def load_gpt2_block(block: Block, state: dict[str, torch.Tensor]) -> None:
    """Copy the weights of a GPT-2 block of transformers into a block of yours.

    Args:
        block: your block, pre-norm, with the activation, eps and number of heads of the other (they are not in the state).
            Its parameters keep their dtype; values of another dtype are converted.
        state: the state dict of a GPT2Block, twelve tensors:

            ========================================  ============================
            ln_1.weight, ln_1.bias                    (d_model,)
            attn.c_attn.weight, attn.c_attn.bias      (d_model, 3 * d_model), (3 * d_model,): q, k, v side by side
            attn.c_proj.weight, attn.c_proj.bias      (d_model, d_model), (d_model,)
            ln_2.weight, ln_2.bias                    (d_model,)
            mlp.c_fc.weight, mlp.c_fc.bias            (d_model, d_ff), (d_ff,)
            mlp.c_proj.weight, mlp.c_proj.bias        (d_ff, d_model), (d_model,)
            ========================================  ============================

            Weights are used as ``x @ weight + bias``. Older files also hold "attn.bias" and "attn.masked_bias". These are
            no biases but the causal mask, and they are ignored.

    Raises:
        ValueError: if a tensor is missing, or unknown, or has another shape than the block needs, with its name in the
            message (for c_attn, that or the name of a part). The block is then what it was before.
    """
    ### BEGIN SOLUTION
    names = {
        "norm_1.weight": "ln_1.weight",
        "norm_1.bias": "ln_1.bias",
        "attention.w_o": "attn.c_proj.weight",
        "attention.b_o": "attn.c_proj.bias",
        "norm_2.weight": "ln_2.weight",
        "norm_2.bias": "ln_2.bias",
        "feed_forward.w_in": "mlp.c_fc.weight",
        "feed_forward.b_in": "mlp.c_fc.bias",
        "feed_forward.w_out": "mlp.c_proj.weight",
        "feed_forward.b_out": "mlp.c_proj.bias",
    }
    wanted = {*names.values(), "attn.c_attn.weight", "attn.c_attn.bias"}
    found = set(state) - {"attn.bias", "attn.masked_bias"}
    if found != wanted:
        raise ValueError(f"missing: {sorted(wanted - found)}, unknown: {sorted(found - wanted)}")
    new = {ours: state[theirs] for ours, theirs in names.items()}
    w_q, w_k, w_v = state["attn.c_attn.weight"].chunk(3, dim=-1)  # three blocks of columns
    b_q, b_k, b_v = state["attn.c_attn.bias"].chunk(3, dim=-1)
    new |= {"attention.w_q": w_q, "attention.w_k": w_k, "attention.w_v": w_v}
    new |= {"attention.b_q": b_q, "attention.b_k": b_k, "attention.b_v": b_v}
    for ours, value in block.state_dict().items():
        if new[ours].shape != value.shape:
            theirs = names.get(ours, "attn.c_attn")
            raise ValueError(f"{theirs} gives {ours} {tuple(new[ours].shape)}, the block has {tuple(value.shape)}")
    block.load_state_dict(new)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Two steps. Write down which name of ours takes which name of theirs; only the fused tensors need more than a
# name. Then compare names and shapes before anything is written.</details>
# <details><summary>A bigger nudge</summary>Build a dict that <code>block.load_state_dict</code> accepts: it has 16 entries, the names of
# <code>block.state_dict()</code>. A set difference in each direction finds the missing and the unknown names.</details>

# %% test="load_gpt2_block" points=2
from coursekit import check

import torch

shapes = {
    "ln_1.weight": (2,),
    "ln_1.bias": (2,),
    "attn.c_attn.weight": (2, 6),
    "attn.c_attn.bias": (6,),
    "attn.c_proj.weight": (2, 2),
    "attn.c_proj.bias": (2,),
    "ln_2.weight": (2,),
    "ln_2.bias": (2,),
    "mlp.c_fc.weight": (2, 3),
    "mlp.c_fc.bias": (3,),
    "mlp.c_proj.weight": (3, 2),
    "mlp.c_proj.bias": (2,),
}
state = {
    name: 100.0 * i + torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    for i, (name, shape) in enumerate(shapes.items())
}
block = Block(BlockConfig(2, 1, 3))
load_gpt2_block(block, state)
loaded = block.state_dict()
check.equal(loaded["attention.w_q"], torch.tensor([[200.0, 201.0], [206.0, 207.0]]), "w_q: columns 0 and 1 of c_attn")
check.equal(loaded["attention.w_v"], torch.tensor([[204.0, 205.0], [210.0, 211.0]]), "w_v: columns 4 and 5 of c_attn")
check.equal(loaded["attention.b_k"], torch.tensor([302.0, 303.0]), "b_k: the middle third of the bias of c_attn")
check.equal(loaded["attention.w_o"], state["attn.c_proj.weight"], "w_o is attn.c_proj.weight, as it is")
check.equal(loaded["norm_2.weight"], state["ln_2.weight"], "norm_2 is ln_2")
check.raises(
    ValueError,
    lambda: load_gpt2_block(block, {name: value for name, value in state.items() if name != "ln_2.bias"}),
    "a tensor is missing",
    match="ln_2.bias",
)
### BEGIN HIDDEN TESTS
ours = {
    "norm_1.weight": state["ln_1.weight"],
    "norm_1.bias": state["ln_1.bias"],
    "attention.w_k": torch.tensor([[202.0, 203.0], [208.0, 209.0]]),
    "attention.b_q": torch.tensor([300.0, 301.0]),
    "attention.b_v": torch.tensor([304.0, 305.0]),
    "attention.b_o": state["attn.c_proj.bias"],
    "norm_2.bias": state["ln_2.bias"],
    "feed_forward.w_in": state["mlp.c_fc.weight"],
    "feed_forward.b_in": state["mlp.c_fc.bias"],
    "feed_forward.w_out": state["mlp.c_proj.weight"],
    "feed_forward.b_out": state["mlp.c_proj.bias"],
}
for name, value in ours.items():
    check.equal(loaded[name], value, f"{name} after loading")
before = Block(BlockConfig(2, 1, 3, seed=1)).state_dict()
bad = {
    "without mlp.c_fc.weight": ({k: v for k, v in state.items() if k != "mlp.c_fc.weight"}, "mlp.c_fc.weight"),
    "without attn.c_attn.bias": ({k: v for k, v in state.items() if k != "attn.c_attn.bias"}, "attn.c_attn.bias"),
    "with a tensor more": (state | {"ln_3.weight": torch.ones(2)}, "ln_3.weight"),
    "with a prefix before one name": (
        {f"h.0.{k}" if k == "ln_1.weight" else k: v for k, v in state.items()},
        "ln_1.weight",
    ),
    "mlp.c_fc.weight transposed": (state | {"mlp.c_fc.weight": torch.ones(3, 2)}, ""),
    "c_attn for a wider model": (state | {"attn.c_attn.weight": torch.ones(2, 9)}, ""),
    "a bias of c_attn that is too long": (state | {"attn.c_attn.bias": torch.ones(9)}, ""),
    "c_proj with one row": (state | {"attn.c_proj.weight": torch.ones(1, 2)}, "c_proj"),
    "ln_2.bias of one number": (state | {"ln_2.bias": torch.ones(1)}, "ln_2.bias"),
}
for what, (wrong, name) in bad.items():
    block = Block(BlockConfig(2, 1, 3, seed=1))
    check.raises(ValueError, lambda block=block, wrong=wrong: load_gpt2_block(block, wrong), what, match=name)
    for key, value in block.state_dict().items():
        check.equal(value, before[key], f"{what}: {key} is what it was before")
block = Block(BlockConfig(2, 1, 3, seed=1))
load_gpt2_block(block, state | {"attn.bias": torch.ones(1, 1, 8, 8), "attn.masked_bias": torch.tensor(-1e4)})
check.equal(block.state_dict()["attention.w_q"], loaded["attention.w_q"], "the masks of older files are ignored")
### END HIDDEN TESTS

# %% test="load_gpt2_block" points=3
from coursekit import check

import torch

state = {"ln_1.weight": (4,), "ln_1.bias": (4,), "attn.c_attn.weight": (4, 12), "attn.c_attn.bias": (12,)}
state |= {"attn.c_proj.weight": (4, 4), "attn.c_proj.bias": (4,), "ln_2.weight": (4,), "ln_2.bias": (4,)}
state |= {"mlp.c_fc.weight": (4, 6), "mlp.c_fc.bias": (6,), "mlp.c_proj.weight": (6, 4), "mlp.c_proj.bias": (4,)}
state = {name: torch.zeros(shape) for name, shape in state.items()}
block = Block(BlockConfig(4, 2, 6))
load_gpt2_block(block, state | {"mlp.c_proj.bias": torch.tensor([1.0, 2.0, 3.0, 4.0])})
x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
check.close(
    block(x), x + torch.tensor([1.0, 2.0, 3.0, 4.0]), "all zeros but mlp.c_proj.bias: that is what the block adds"
)
### BEGIN HIDDEN TESTS
from functools import partial

from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Block


def gpt2_block(d_model, n_heads, d_ff, seed):
    config = GPT2Config(n_embd=d_model, n_head=n_heads, n_inner=d_ff, attn_pdrop=0.0, resid_pdrop=0.0)
    config._attn_implementation = "eager"
    theirs = GPT2Block(config, layer_idx=0).double()
    noise = torch.Generator().manual_seed(check.seed(seed))
    with torch.no_grad():
        for parameter in theirs.parameters():
            size = parameter.shape[0] ** 0.5 if parameter.ndim == 2 else 2
            parameter.copy_(torch.randn(parameter.shape, generator=noise, dtype=torch.float64) / size)
    return theirs


for batch, length, d_model, n_heads, d_ff in ((3, 13, 60, 6, 77), (1, 63, 12, 1, 48), (2, 1, 8, 8, 8)):
    theirs = gpt2_block(d_model, n_heads, d_ff, seed=length)
    state = {name: value.detach() for name, value in theirs.state_dict().items()}
    additive = torch.full((length, length), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]
    x = torch.randn(
        batch, length, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(d_model))
    )
    block = Block(BlockConfig(d_model, n_heads, d_ff))
    block.double()
    load_gpt2_block(block, state)
    case = f"B={batch}, T={length}, d_model={d_model}, H={n_heads}, d_ff={d_ff}"
    want = theirs(x, attention_mask=additive)
    check.close(block(x), want.detach(), f"{case}: the output equals that of GPT2Block", atol=1e-9)
    check.gradients(block, partial(theirs, attention_mask=additive), [x], f"{case}: gradients", atol=1e-8)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(2)))
    names = [name for name, _ in theirs.named_parameters()]
    wanted = torch.autograd.grad((want * direction).sum(), list(theirs.parameters()))
    wanted = dict(zip(names, wanted, strict=True))
    found = block.parameter_gradients(x, direction)
    for name, gradient in zip("qkv", wanted["attn.c_attn.weight"].chunk(3, dim=1), strict=True):
        check.close(found[f"attention.w_{name}"], gradient, f"{case}: the gradient of w_{name}", atol=1e-8)
    for ours, name in (("norm_1.weight", "ln_1.weight"), ("feed_forward.w_out", "mlp.c_proj.weight")):
        check.close(found[ours], wanted[name], f"{case}: the gradient of {ours}", atol=1e-8)
    single = Block(BlockConfig(d_model, n_heads, d_ff))
    load_gpt2_block(single, state)
    check.equal(str(single.state_dict()["attention.w_q"].dtype), "torch.float32", "the parameters keep their dtype")
    check.close(single(x.float()), want.detach().float(), f"{case}: float32, from float64 values", atol=1e-4, rtol=1e-4)
### END HIDDEN TESTS


# %% alternative="load_gpt2_block"
def load_gpt2_block(block, state):
    """Parameter by parameter, with slices."""
    state = {name: value for name, value in state.items() if name not in ("attn.bias", "attn.masked_bias")}
    d = block.norm_1.weight.shape[0]
    table = {}
    for theirs, ours in {
        "ln_1": "norm_1.{}",
        "ln_2": "norm_2.{}",
        "attn.c_proj": "attention.{}_o",
        "mlp.c_fc": "feed_forward.{}_in",
        "mlp.c_proj": "feed_forward.{}_out",
    }.items():
        for kind in ("weight", "bias"):
            table[ours.format(kind if "norm" in ours else kind[0])] = (f"{theirs}.{kind}", None)
    for i, letter in enumerate("qkv"):
        for kind in ("weight", "bias"):
            table[f"attention.{kind[0]}_{letter}"] = (f"attn.c_attn.{kind}", slice(i * d, (i + 1) * d))
    odd = {theirs for theirs, _ in table.values()} ^ set(state)
    if odd:
        raise ValueError(f"missing or unknown: {odd}")
    parameters = dict(block.named_parameters())
    for ours, (theirs, part) in table.items():
        shape = list(parameters[ours].shape)
        if part is not None:
            shape[-1] *= 3
        if list(state[theirs].shape) != shape:
            raise ValueError(f"{theirs} has the shape {list(state[theirs].shape)}, not {shape}")
    with torch.no_grad():
        for ours, (theirs, part) in table.items():
            parameters[ours].copy_(state[theirs] if part is None else state[theirs][..., part])
    print("loaded", len(table), "parameters")


# %% mistakes="load_gpt2_block"
{
    "the columns of c_attn are taken in the order v, k, q": [
        ("w_q, w_k, w_v = state", "w_v, w_k, w_q = state"),
        ("b_q, b_k, b_v = state", "b_v, b_k, b_q = state"),
    ],
    "the columns of c_attn are taken in the order k, q, v": [
        ("w_q, w_k, w_v = state", "w_k, w_q, w_v = state"),
        ("b_q, b_k, b_v = state", "b_k, b_q, b_v = state"),
    ],
    "the biases of c_attn are taken in another order than its weights": (
        "b_q, b_k, b_v = state",
        "b_k, b_v, b_q = state",
    ),
    "c_attn is cut into blocks of rows (after a reshape), and its blocks are columns": (
        'state["attn.c_attn.weight"].chunk(3, dim=-1)',
        'state["attn.c_attn.weight"].reshape(-1, len(state["ln_1.weight"])).chunk(3)',
    ),
    "every third column of c_attn is taken, and its blocks are contiguous": (
        'state["attn.c_attn.weight"].chunk(3, dim=-1)',
        '(state["attn.c_attn.weight"][:, i::3] for i in range(3))',
    ),
    "the square matrices are transposed, as nn.Linear would need it": [
        (
            '"attention.w_q": w_q, "attention.w_k": w_k, "attention.w_v": w_v}',
            '"attention.w_q": w_q.mT, "attention.w_k": w_k.mT, "attention.w_v": w_v.mT, "attention.w_o": new["attention.w_o"].mT}',
        ),
    ],
    "only the output projection is transposed": (
        "    w_q, w_k, w_v = state",
        '    new["attention.w_o"] = new["attention.w_o"].mT\n    w_q, w_k, w_v = state',
    ),
    "ln_1 and ln_2 have changed places": [
        ('"norm_1.weight": "ln_1.weight"', '"norm_1.weight": "ln_2.weight"'),
        ('"norm_1.bias": "ln_1.bias"', '"norm_1.bias": "ln_2.bias"'),
        ('"norm_2.weight": "ln_2.weight"', '"norm_2.weight": "ln_1.weight"'),
        ('"norm_2.bias": "ln_2.bias"', '"norm_2.bias": "ln_1.bias"'),
    ],
    "the two biases of length d_model, attn.c_proj.bias and mlp.c_proj.bias, have changed places": [
        ('"attention.b_o": "attn.c_proj.bias"', '"attention.b_o": "mlp.c_proj.bias"'),
        ('"feed_forward.b_out": "mlp.c_proj.bias"', '"feed_forward.b_out": "attn.c_proj.bias"'),
    ],
    "the biases of q, k and v stay what they were": (
        'new |= {"attention.b_q": b_q, "attention.b_k": b_k, "attention.b_v": b_v}',
        'new |= {n: v for n, v in block.state_dict().items() if n in ("attention.b_q", "attention.b_k", "attention.b_v")}',
    ),
    "a missing tensor is skipped without a word, and the block keeps random numbers in its place": [
        ("if found != wanted:", "if found - wanted:"),
        (
            "{ours: state[theirs] for ours, theirs in names.items()}",
            "{ours: state.get(theirs, block.state_dict()[ours]) for ours, theirs in names.items()}",
        ),
    ],
    "a missing tensor gives a KeyError from somewhere inside": ("if found != wanted:", "if found - wanted:"),
    "an unknown tensor is ignored without a word": ("if found != wanted:", "if wanted - found:"),
    "the masks of older files, attn.bias and attn.masked_bias, are refused as unknown": (
        ' - {"attn.bias", "attn.masked_bias"}',
        "",
    ),
    "shapes are not compared, so a wrong one raises another error, after half of the block is overwritten": (
        "if new[ours].shape != value.shape:",
        "if False:",
    ),
    "the block is overwritten before shapes are compared": (
        "    for ours, value in block.state_dict().items():",
        "    for ours, value in block.state_dict().items():\n        if new[ours].shape == value.shape:\n            value.copy_(new[ours])",
    ),
    "only the number of values is compared, and a tensor of another shape is reshaped until it fits": [
        ("if new[ours].shape != value.shape:", "if new[ours].numel() != value.numel():"),
        (
            "block.load_state_dict(new)",
            "block.load_state_dict({n: new[n].reshape(v.shape) for n, v in block.state_dict().items()})",
        ),
    ],
    "a smaller tensor is broadcast to the shape of the parameter": [
        (
            "if new[ours].shape != value.shape:",
            "if any(a not in (1, b) for a, b in zip(new[ours].shape, value.shape)):",
        ),
        (
            "block.load_state_dict(new)",
            "block.load_state_dict({n: new[n].expand(v.shape) for n, v in block.state_dict().items()})",
        ),
    ],
    "the parameters take on the dtype of the state": (
        "    block.load_state_dict(new)",
        "    block.to(new['norm_1.weight'].dtype).load_state_dict(new)",
    ),
    "nothing is written into the block": ("    block.load_state_dict(new)", "    new.clear()"),
}

# %% [markdown]
# ## Exercise 4 · `depth_profile`
#
# One block is right. What do many do, one after the other? Before a stack is trained it pays to look at two things at every
# depth: how large the stream is on the way forward, and how large the gradient is on the way back. A layer whose
# gradient is a thousand times smaller than another's learns a thousand times more slowly (with plain gradient descent). Write the
# instrument that measures both.
#
# *Difficulty 3 of 5 · 20 minutes · 4 points*


# %% exercise="depth_profile" difficulty=3 minutes=20
def depth_profile(blocks: list[Block], x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sizes of the stream and of its gradients at every depth of a stack of blocks.

    The stack applies the blocks in order: the first reads x, each later one reads what the one before it returns. The loss is
    ``(output * direction).sum()`` for the output of the last block.

    Args:
        blocks: L blocks, at least one, all different objects. They are not changed, and gradients that they may hold from
            earlier do not count.
        x: (B, T, d_model), of the parameters' dtype.
        direction: (B, T, d_model), of the same dtype.

    Returns:
        A dict of four tensors of x's dtype, without gradients of their own:
            "stream" (L + 1,): root mean square of all numbers of the stream: of x, then after each block.
            "update" (L,): root mean square of what each block adds: the stream after it minus the stream before it.
            "gradient" (L + 1,): Euclidean norm of the gradient of the loss for the stream at each depth: for x first; the
                last entry is the norm of ``direction`` itself.
            "parameters" (L,): Euclidean norm of the gradient of the loss for all parameters of a block together, as one
                long vector.
    """
    ### BEGIN SOLUTION
    stream = [x.detach().requires_grad_()]
    for block in blocks:
        stream.append(block(stream[-1]))
    loss = (stream[-1] * direction).sum()
    groups = [list(block.parameters()) for block in blocks]
    flat = [parameter for group in groups for parameter in group]
    gradients = list(torch.autograd.grad(loss, stream + flat))
    stream_gradients, parameter_gradients = gradients[: len(stream)], iter(gradients[len(stream) :])
    with torch.no_grad():
        updates = [after - before for before, after in pairwise(stream)]
        squares = [sum(next(parameter_gradients).square().sum() for _ in group) for group in groups]
        return {
            "stream": torch.stack([value.square().mean().sqrt() for value in stream]),
            "update": torch.stack([value.square().mean().sqrt() for value in updates]),
            "gradient": torch.stack([value.square().sum().sqrt() for value in stream_gradients]),
            "parameters": torch.stack(squares).sqrt(),
        }
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Keep every state of the stream in a list, beginning with x. After one forward pass that list is all that you need for
# three of the four results.</details>
# <details><summary>A bigger nudge</summary><code>torch.autograd.grad(loss, tensors)</code> gives the gradient for each tensor of a list, those in the middle
# of the computation included, and leaves <code>.grad</code> alone. x needs <code>requires_grad</code> first, and better a
# copy of it than x itself. The norm of several tensors as one vector is the root of the sum of all their squares.</details>

# %% test="depth_profile" points=2
from coursekit import check

import torch

# Three blocks that each add 1 to every number, whatever they read.
stack = []
for seed in range(3):
    block = Block(BlockConfig(4, 2, 8, seed=seed))
    silent = {"attention.w_o": torch.zeros(4, 4), "feed_forward.w_out": torch.zeros(8, 4)}
    block.load_state_dict(block.state_dict() | silent | {"attention.b_o": torch.ones(4)})
    stack.append(block)
found = depth_profile(stack, torch.zeros(1, 2, 4), torch.ones(1, 2, 4))
check.equal(sorted(found), ["gradient", "parameters", "stream", "update"], "the names of the results")
check.close(found["stream"], torch.tensor([0.0, 1.0, 2.0, 3.0]), "stream: from zeros, three blocks that add 1")
check.close(found["update"], torch.ones(3), "update: each block adds 1")
check.close(found["gradient"], torch.full((4,), 8**0.5), "gradient: eight ones, which pass through unchanged")
# The gradient of b_o is 1 for each of two tokens, so four times 2; that of b_out is the same; all others are zero.
check.close(found["parameters"], torch.full((3,), 32**0.5), "parameters: the root of 4 * 2**2 + 4 * 2**2")
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(check.seed(1))
x, direction = torch.randn(2, 3, 5, 16, generator=g)
for norm_first in (True, False):
    stack = [Block(BlockConfig(16, 4, 64, norm_first=norm_first, seed=seed)) for seed in range(4)]
    found = depth_profile(stack, x, direction)
    check.close(found["stream"][0], x.square().mean().sqrt(), "the first entry of stream is that of x")
    check.close(found["gradient"][-1], direction.norm(), "the last entry of gradient is the norm of direction")
    if norm_first:
        check.that(found["stream"][-1] > 1.2 * found["stream"][0], "four fresh pre-norm blocks: the stream grows")
    else:
        check.close(found["stream"][1:], torch.ones(4), "fresh post-norm blocks: the stream has the size 1", atol=1e-3)
    again = depth_profile(stack, x, direction)
    for name in ("stream", "update", "gradient", "parameters"):
        check.close(again[name], found[name], f"{name}: the second measurement gives the same")
        check.that(not found[name].requires_grad, f"{name} carries no gradient of its own")
# Left and right of the loss: twice the direction, twice the gradients; the stream is what it was.
twice = depth_profile(stack, x, 2 * direction)
check.close(
    twice["gradient"], 2 * found["gradient"], "twice the direction, twice the gradient of the stream", atol=1e-4
)
check.close(twice["parameters"], 2 * found["parameters"], "and twice that of the parameters", rtol=1e-4)
check.close(twice["stream"], found["stream"], "and the same stream")
### END HIDDEN TESTS

# %% test="depth_profile" points=2
from coursekit import check

import torch

block = Block(BlockConfig(4, 2, 8, seed=2))
x, direction = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
found = depth_profile([block], x, direction)
by_name = block.parameter_gradients(x, direction)
whole = torch.cat([gradient.flatten() for gradient in by_name.values()])
check.close(
    found["parameters"], whole.norm()[None], "one block: the gradients of all its parameters as one long vector"
)
check.close(found["update"][0], (block(x) - x).detach().square().mean().sqrt(), "one block: what it adds")
### BEGIN HIDDEN TESTS
from itertools import pairwise

from torch import nn
from torch.nn import functional as F


def drawn(d_model, d_ff, noise):
    def random(*shape):
        return torch.randn(*shape, generator=noise, dtype=torch.float64) / (shape[0] ** 0.5 if shape[1:] else 2)

    state = {f"attention.w_{name}": random(d_model, d_model) for name in "qkvo"}
    state |= {f"attention.b_{name}": random(d_model) for name in "qkvo"}
    state |= {"feed_forward.w_in": random(d_model, d_ff), "feed_forward.b_in": random(d_ff)}
    state |= {"feed_forward.w_out": random(d_ff, d_model), "feed_forward.b_out": random(d_model)}
    for i in (1, 2):
        state |= {f"norm_{i}.weight": 1 + random(d_model), f"norm_{i}.bias": random(d_model)}
    return state


def twin_of(state, n_heads, norm_first):
    d_model, d_ff = state["feed_forward.w_in"].shape
    twin = nn.TransformerEncoderLayer(
        d_model, n_heads, d_ff, 0.0, F.relu, batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    theirs = {
        "self_attn.in_proj_weight": torch.cat([state[f"attention.w_{name}"].T for name in "qkv"]),
        "self_attn.in_proj_bias": torch.cat([state[f"attention.b_{name}"] for name in "qkv"]),
        "self_attn.out_proj.weight": state["attention.w_o"].T,
        "self_attn.out_proj.bias": state["attention.b_o"],
        "linear1.weight": state["feed_forward.w_in"].T,
        "linear1.bias": state["feed_forward.b_in"],
        "linear2.weight": state["feed_forward.w_out"].T,
        "linear2.bias": state["feed_forward.b_out"],
    }
    theirs |= {f"norm{i}.{name}": state[f"norm_{i}.{name}"] for i in (1, 2) for name in ("weight", "bias")}
    twin.load_state_dict(theirs)
    return twin


for batch, length, d_model, n_heads, d_ff, depth, norm_first in (
    (3, 5, 12, 3, 20, 3, True),
    (1, 7, 10, 1, 40, 2, False),
    (2, 1, 8, 2, 8, 1, True),
):
    noise = torch.Generator().manual_seed(check.seed(length))
    states = [drawn(d_model, d_ff, noise) for _ in range(depth)]
    x, direction = torch.randn(2, length, batch, d_model, generator=noise, dtype=torch.float64).transpose(1, 2)
    stack = []
    for state in states:
        stack.append(Block(BlockConfig(d_model, n_heads, d_ff, norm_first=norm_first, activation="relu")))
        stack[-1].double()
        stack[-1].load_state_dict(state)
    found = depth_profile(stack, x, direction)

    twins = [twin_of(state, n_heads, norm_first) for state in states]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    stream = [x.clone().requires_grad_()]
    for twin in twins:
        stream.append(twin(stream[-1], src_mask=later))
        stream[-1].retain_grad()
    (stream[-1] * direction).sum().backward()
    want = {
        "stream": [s.square().mean().sqrt() for s in stream],
        "update": [(b - a).square().mean().sqrt() for a, b in pairwise(stream)],
        "gradient": [s.grad.norm() for s in stream],
        "parameters": [torch.cat([p.grad.flatten() for p in twin.parameters()]).norm() for twin in twins],
    }
    case = f"{depth} blocks, {'pre' if norm_first else 'post'}-norm, B={batch}, T={length}, d_model={d_model}"
    for name, values in want.items():
        check.close(found[name], torch.stack(values).detach(), f"{case}: {name}", atol=1e-8, rtol=1e-8)
### END HIDDEN TESTS


# %% alternative="depth_profile"
def depth_profile(blocks, x, direction):
    """With backward(), retained gradients, and norms of norms."""
    stream = [x.clone().detach().requires_grad_(True)]
    for block in blocks:
        block.zero_grad()
        after = block(stream[-1])
        after.retain_grad()
        stream.append(after)
    torch.einsum("btd,btd->", stream[-1], direction).backward()
    result = {
        "stream": [s.pow(2).mean() ** 0.5 for s in stream],
        "gradient": [s.grad.norm() for s in stream],
        "update": [(stream[i + 1] - stream[i]).pow(2).mean() ** 0.5 for i in range(len(blocks))],
        "parameters": [torch.stack([p.grad.norm() for p in block.parameters()]).norm() for block in blocks],
    }
    for block in blocks:
        block.zero_grad()
    print({name: len(values) for name, values in result.items()})
    return {name: torch.tensor([float(v) for v in values], dtype=x.dtype) for name, values in result.items()}


# %% mistakes="depth_profile"
{
    "every block reads x, and not what the block before it returns": (
        "stream.append(block(stream[-1]))",
        "stream.append(block(stream[0]))",
    ),
    "the stream is detached between the blocks, so no gradient reaches beyond the last": [
        ("stream.append(block(stream[-1]))", "stream.append(block(stream[-1].detach()))"),
        (
            "torch.autograd.grad(loss, stream + flat)",
            "(g if g is not None else torch.zeros_like(t) for g, t in zip(torch.autograd.grad(loss, stream + flat, allow_unused=True), stream + flat))",
        ),
    ],
    "direction plays no part: the loss is the plain sum of the output": (
        "loss = (stream[-1] * direction).sum()",
        "loss = stream[-1].sum()",
    ),
    "the loss is a mean and not a sum, so all gradients are smaller by the number of values": (
        "(stream[-1] * direction).sum()",
        "(stream[-1] * direction).mean()",
    ),
    "the standard deviation is taken for the root mean square, so an offset of the stream is not seen": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.std(correction=0) for value in stream])',
    ),
    "the Euclidean norm of the stream is given, which grows with the number of tokens": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.norm() for value in stream])',
    ),
    "the mean of the tokens' own root mean squares is given for the stream": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.square().mean(-1).sqrt().mean() for value in stream])',
    ),
    "the root is missing: the mean square of the stream is given": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.square().mean() for value in stream])',
    ),
    "the mean absolute value of the stream is given": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.abs().mean() for value in stream])',
    ),
    "the update is measured from x, and not from the stream before the block": (
        "[after - before for before, after in pairwise(stream)]",
        "[after - stream[0] for after in stream[1:]]",
    ),
    "the update is the growth of the root mean square, and not the size of the difference": (
        '"update": torch.stack([value.square().mean().sqrt() for value in updates])',
        '"update": torch.stack([b.square().mean().sqrt() - a.square().mean().sqrt() for a, b in pairwise(stream)])',
    ),
    "the update is the whole output of the block": ("[after - before for", "[after for"),
    "the gradient of the stream is given as a root mean square and not as a norm": (
        "[value.square().sum().sqrt() for value in stream_gradients]",
        "[value.square().mean().sqrt() for value in stream_gradients]",
    ),
    "the gradients of the stream are in the order of the backward pass, the last depth first": (
        "[value.square().sum().sqrt() for value in stream_gradients]",
        "[value.square().sum().sqrt() for value in reversed(stream_gradients)]",
    ),
    "the norms of a block's parameters are added up, and they are parts of one vector": [
        (
            "sum(next(parameter_gradients).square().sum() for _ in group)",
            "sum(next(parameter_gradients).norm() for _ in group)",
        ),
        ("torch.stack(squares).sqrt()", "torch.stack(squares)"),
    ],
    "the largest norm among a block's parameters is given": [
        (
            "sum(next(parameter_gradients).square().sum() for _ in group)",
            "max(next(parameter_gradients).norm() for _ in group)",
        ),
        ("torch.stack(squares).sqrt()", "torch.stack(squares)"),
    ],
    "the root is missing: the squared norm of the parameters' gradients is given": (
        "torch.stack(squares).sqrt()",
        "torch.stack(squares)",
    ),
    "only the attention's parameters are counted": (
        "groups = [list(block.parameters()) for block in blocks]",
        "groups = [list(block.attention.parameters()) for block in blocks]",
    ),
    "the norms of the parameters themselves are given, and not of their gradients": (
        "sum(next(parameter_gradients).square().sum() for _ in group)",
        "sum(parameter.square().sum() for parameter in group)",
    ),
    "gradients from earlier calls are still there and are added to": [
        (
            "gradients = list(torch.autograd.grad(loss, stream + flat))",
            "[s.retain_grad() for s in stream]; loss.backward(); gradients = [t.grad for t in stream + flat]",
        ),
    ],
    "the stream of x itself is left out, so there is one entry too few": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream[1:]])',
    ),
    "the results still carry gradients": ("with torch.no_grad():", "with torch.enable_grad():"),
}

# %% [markdown]
# For the last exercise a stack needs something to learn. The task of the next cell is one that only attention can solve: every
# token is to become the token before it.


# %% given
def shift_task(n_sequences: int, length: int, d_model: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens and the tokens before them: x and target, both (n_sequences, length, d_model).

    All have mean 0 and root mean square 1, so that the output of a post-norm stack can be equal to the target. The
    first target is the first token itself. The last features of x hold the position, so that a token can find the one before it.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_sequences, length, d_model, generator=generator)
    half = d_model // 2
    angles = torch.arange(length)[:, None] / 1.5 ** torch.arange(half // 2)
    x[..., half : 2 * (half // 2) + half] = torch.cat([angles.sin(), angles.cos()], dim=-1) * 2**0.5
    x = nn.functional.layer_norm(x, (d_model,))
    return x, torch.cat([x[:, :1], x[:, :-1]], dim=1)


# %% [markdown]
# ## Exercise 5 · `train_stack`
#
# Now train stacks of both kinds on it. Write the loop, with a *warm-up*: the learning rate rises in equal steps from `lr / warmup` at the first step to
# `lr`, and stays there. (The schedule of Vaswani et al. falls again afterwards; ours does not.)
#
# *Difficulty 3 of 5 · 15 minutes · 4 points*


# %% exercise="train_stack" difficulty=3 minutes=15
def train_stack(
    blocks: list[Block], x: torch.Tensor, target: torch.Tensor, lr: float, steps: int, warmup: int = 0
) -> list[float]:
    """Train all parameters of a stack of blocks, in place, on one batch, and report the losses.

    The loss is the mean over all numbers of the squared difference between the output of the stack and the target.
    Each step uses the whole batch and one step of ``torch.optim.Adam`` with its default settings, but for the learning rate: at
    step s = 0, 1, ... it is ``lr * min(1, (s + 1) / warmup)``, and ``lr`` where warmup is 0.

    Args:
        blocks: applied in order, all different objects.
        x, target: (B, T, d_model), of the parameters' dtype.
        lr: the learning rate after the warm-up.
        steps: how many steps, 0 included.
        warmup: how many steps the warm-up takes. It may be longer than the training.

    Returns:
        ``steps + 1`` plain floats: the loss before each step, and the loss after the last.
    """
    ### BEGIN SOLUTION
    optimiser = torch.optim.Adam([parameter for block in blocks for parameter in block.parameters()])

    def loss_now() -> torch.Tensor:
        stream = x
        for block in blocks:
            stream = block(stream)
        return (stream - target).square().mean()

    losses = []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / warmup) if warmup else lr
        loss = loss_now()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    losses.append(loss_now().item())
    return losses
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>The loop of Lab 1.3's last cell is almost all of it. What is new is the learning rate, which an optimiser reads at each
# step from <code>param_groups[0]["lr"]</code>.</details>
# <details><summary>A bigger nudge</summary>Three things that go wrong without an error: gradients that nobody sets to zero, an optimiser that knows only some of the
# blocks, and a loss taken after the step when the one before it was asked for. And one loss more than there are steps.</details>

# %% test="train_stack" points=2
from coursekit import check

import torch

x, target = shift_task(8, 6, 16, seed=0)
stack = [Block(BlockConfig(16, 2, 32, seed=seed)) for seed in range(2)]
before = (stack[1](stack[0](x)) - target).square().mean().item()
check.close(train_stack(stack, x, target, lr=0.01, steps=0), [before], "no steps: the loss as it is, and nothing else")
losses = train_stack(stack, x, target, lr=0.01, steps=12)
check.equal(len(losses), 13, "12 steps: a loss before each, and one after the last")
check.close(losses[0], before, "the first loss is that of the untrained stack")
check.that(
    losses[-1] < 0.8 * losses[0],
    "the loss falls by a fifth in 12 steps",
    why=f"it went from {losses[0]:.3f} to {losses[-1]:.3f}",
)
after = (stack[1](stack[0](x)) - target).square().mean().item()
check.close(losses[-1], after, "the last loss is that of the trained stack")
### BEGIN HIDDEN TESTS
for kind in (True, False):
    stack = [Block(BlockConfig(16, 2, 32, norm_first=kind, seed=seed)) for seed in range(3)]
    start = [{name: value.clone() for name, value in block.state_dict().items()} for block in stack]
    noise = torch.Generator().manual_seed(check.seed(5))
    x, target = torch.randn(2, 4, 6, 16, generator=noise)
    losses = train_stack(stack, x, target, 0.01, 2)
    for depth, block in enumerate(stack):
        for name, value in block.state_dict().items():
            if name != "attention.b_k":  # its gradient is nothing but rounding
                check.that(not torch.equal(value, start[depth][name]), f"training changes {name} of block {depth}")
check.that(all(type(loss) is float for loss in losses), "the losses are plain floats")
### END HIDDEN TESTS

# %% test="train_stack" points=2
from coursekit import check

import torch

x, target = shift_task(4, 5, 8, seed=1)


def fresh():
    return [Block(BlockConfig(8, 2, 16, seed=seed)) for seed in range(2)]


# Adam's first step has the size of the learning rate. So the first step of a warm-up over 4 is a step with a quarter of it.
slow = train_stack(fresh(), x, target, lr=0.02, steps=3, warmup=4)
quarter = train_stack(fresh(), x, target, lr=0.005, steps=1)
check.close(slow[:2], quarter, "the first step of a warm-up over four steps is a step with a quarter of the rate")
### BEGIN HIDDEN TESTS
from torch import nn
from torch.nn import functional as F


def drawn(d_model, d_ff, noise):
    def random(*shape):
        return torch.randn(*shape, generator=noise, dtype=torch.float64) / (shape[0] ** 0.5 if shape[1:] else 2)

    state = {f"attention.w_{name}": random(d_model, d_model) for name in "qkvo"}
    state |= {f"attention.b_{name}": random(d_model) for name in "qkvo"}
    state |= {"feed_forward.w_in": random(d_model, d_ff), "feed_forward.b_in": random(d_ff)}
    state |= {"feed_forward.w_out": random(d_ff, d_model), "feed_forward.b_out": random(d_model)}
    for i in (1, 2):
        state |= {f"norm_{i}.weight": 1 + random(d_model), f"norm_{i}.bias": random(d_model)}
    return state


def twin_of(state, n_heads, norm_first):
    d_model, d_ff = state["feed_forward.w_in"].shape
    twin = nn.TransformerEncoderLayer(
        d_model, n_heads, d_ff, 0.0, F.silu, batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    theirs = {
        "self_attn.in_proj_weight": torch.cat([state[f"attention.w_{name}"].T for name in "qkv"]),
        "self_attn.in_proj_bias": torch.cat([state[f"attention.b_{name}"] for name in "qkv"]),
        "self_attn.out_proj.weight": state["attention.w_o"].T,
        "self_attn.out_proj.bias": state["attention.b_o"],
        "linear1.weight": state["feed_forward.w_in"].T,
        "linear1.bias": state["feed_forward.b_in"],
        "linear2.weight": state["feed_forward.w_out"].T,
        "linear2.bias": state["feed_forward.b_out"],
    }
    theirs |= {f"norm{i}.{name}": state[f"norm_{i}.{name}"] for i in (1, 2) for name in ("weight", "bias")}
    twin.load_state_dict(theirs)
    return twin


for norm_first, lr, steps, warmup in ((True, 0.01, 3, 0), (False, 0.02, 4, 2), (True, 0.05, 2, 10)):
    noise = torch.Generator().manual_seed(check.seed(steps))
    states = [drawn(8, 12, noise) for _ in range(2)]
    x, target = torch.randn(2, 3, 5, 8, generator=noise, dtype=torch.float64)
    stack = []
    for state in states:
        stack.append(Block(BlockConfig(8, 2, 12, norm_first=norm_first, activation="silu")))
        stack[-1].double()
        stack[-1].load_state_dict(state)
    found = train_stack(stack, x, target, lr, steps, warmup)

    twins = [twin_of(state, 2, norm_first) for state in states]
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    adam = torch.optim.Adam([p for twin in twins for p in twin.parameters()], lr=1.0)
    factors = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step, lr=lr, warmup=warmup: lr * ((step + 1) / warmup if step < warmup else 1)
    )
    want = []
    for _ in range(steps + 1):
        loss = F.mse_loss(twins[1](twins[0](x, src_mask=later), src_mask=later), target)
        want.append(loss.item())
        adam.zero_grad()
        loss.backward()
        if len(want) <= steps:
            adam.step()
            factors.step()
    case = f"norm_first={norm_first}, lr={lr}, {steps} steps, warmup={warmup}"
    check.close(found, want, f"{case}: the losses of PyTorch's blocks, trained in the same way", atol=1e-6, rtol=1e-6)
    weight = stack[0].state_dict()["feed_forward.w_in"]
    check.close(weight, twins[0].linear1.weight.detach().T, f"{case}: w_in of the first block afterwards", atol=1e-6)
### END HIDDEN TESTS

# %% equivalent="train_stack"
{"0 -> 1": "the default of warmup: a warm-up of one step and none are the same"}


# %% alternative="train_stack"
def train_stack(blocks, x, target, lr, steps, warmup=0):
    """One optimiser for each block, a sequential module, the functional loss."""
    model = nn.Sequential(*blocks)
    optimisers = [torch.optim.Adam(block.parameters(), lr=lr) for block in blocks]
    losses = [nn.functional.mse_loss(model(x), target)]
    for step in range(1, steps + 1):
        model.zero_grad(set_to_none=True)
        losses[-1].backward()
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr * step / warmup if step < warmup else lr
            optimiser.step()
        losses.append(nn.functional.mse_loss(model(x), target))
        print(f"step {step}: {losses[-1].item():.4f}")
    return [float(loss.detach()) for loss in losses]


# %% mistakes="train_stack"
{
    "the gradients are never set to zero, so they pile up from step to step": ("        optimiser.zero_grad()\n", ""),
    "only the last block is trained": (
        "[parameter for block in blocks for parameter in block.parameters()]",
        "list(blocks[-1].parameters())",
    ),
    "only the first block is trained": (
        "[parameter for block in blocks for parameter in block.parameters()]",
        "list(blocks[0].parameters())",
    ),
    "the optimiser is made anew in each step, so Adam forgets its averages": (
        "    for step in range(steps):",
        "    for step in range(steps):\n        optimiser = torch.optim.Adam([parameter for block in blocks for parameter in block.parameters()])",
    ),
    "AdamW is used, which also shrinks the weights": ("torch.optim.Adam(", "torch.optim.AdamW("),
    "plain gradient descent is used and not Adam": ("torch.optim.Adam(", "torch.optim.SGD("),
    "the gradients are clipped to norm 1": (
        "        optimiser.step()",
        "        torch.nn.utils.clip_grad_norm_([p for block in blocks for p in block.parameters()], 1.0)\n        optimiser.step()",
    ),
    "the warm-up is ignored": (" * min(1.0, (step + 1) / warmup) if warmup else lr", ""),
    "the warm-up begins with a learning rate of zero, so the first step is lost": (
        "(step + 1) / warmup",
        "step / warmup",
    ),
    "the learning rate goes on rising after the warm-up": ("min(1.0, (step + 1) / warmup)", "((step + 1) / warmup)"),
    "the warm-up stretches over the whole training": ("(step + 1) / warmup", "(step + 1) / steps"),
    "the learning rate is set after the step, so each step has that of the one before it": [
        ('        optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / warmup) if warmup else lr\n', ""),
        (
            "        optimiser.step()\n",
            '        optimiser.param_groups[0]["lr"] = lr if step == 0 else optimiser.param_groups[0]["lr"]\n        optimiser.step()\n'
            '        optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / warmup) if warmup else lr\n',
        ),
    ],
    "the learning rate falls as one over the step after the warm-up": (
        "lr * min(1.0, (step + 1) / warmup) if warmup else lr",
        "lr * min((step + 1) / warmup, warmup / (step + 1)) if warmup else lr",
    ),
    "the losses are those after each step, so the first is missing": [
        ("        losses.append(loss.item())", "        losses.append(loss_now().item())"),
        ("    losses.append(loss_now().item())\n    return", "    return"),
    ],
    "the loss after the last step is missing": ("    losses.append(loss_now().item())\n    return", "    return"),
    "the squared differences are added up and not averaged": (".square().mean()", ".square().sum()"),
    "the squared differences of a token are added up, and only the tokens averaged": (
        ".square().mean()",
        ".square().sum(-1).mean()",
    ),
    "the absolute difference is taken and not the squared one": (".square().mean()", ".abs().mean()"),
    "every block reads x, and not what the block before it returns": ("stream = block(stream)", "stream = block(x)"),
    "x is added to the output once more: the residuals are in the blocks already": (
        "(stream - target).square()",
        "(x + stream - target).square()",
    ),
    "a copy is trained, and the blocks stay what they were": (
        "    optimiser = torch.optim.Adam(",
        "    import copy\n    blocks = copy.deepcopy(blocks)\n    optimiser = torch.optim.Adam(",
    ),
    "the losses are tensors and not plain floats": [
        ("losses.append(loss.item())", "losses.append(loss.detach())"),
        ("losses.append(loss_now().item())", "losses.append(loss_now().detach())"),
    ],
}

# %% [markdown]
# ## Look at it
#
# First the claim of this lab, on a block of GPT-2's own size: 768 features, 12 heads, 3,072 features in the
# feed-forward network, first weights drawn by `transformers`. Then a look at what each bias is worth: the output with
# one bias set to random numbers, compared with the output before.

# %%
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

torch.set_num_threads(1)
torch.manual_seed(0)
gpt2 = GPT2Config()
gpt2._attn_implementation = "sdpa"  # causal where no mask is given; "eager" is not
theirs = GPT2Block(gpt2, layer_idx=0).eval()
ours = Block(BlockConfig(gpt2.n_embd, gpt2.n_head, 4 * gpt2.n_embd)).eval()
load_gpt2_block(ours, theirs.state_dict())
text = torch.randn(1, 64, gpt2.n_embd)
with torch.no_grad():
    before = ours(text)
    print(
        f"parameters: {sum(p.numel() for p in ours.parameters()):,} and {sum(p.numel() for p in theirs.parameters()):,}"
    )
    print(f"largest difference of the outputs: {(before - theirs(text)).abs().max():.1e}")
    for name in ("b_q", "b_k", "b_v", "b_o"):
        parameter = getattr(ours.attention, name)
        kept = parameter.clone()
        parameter.normal_()
        print(f"{name} random: the output changes by up to {(ours(text) - before).abs().max():.1e}")
        parameter.copy_(kept)

# %% [markdown]
# One of the four changes nothing beyond rounding. You know which, and why.
#
# Next, your instrument on fresh stacks of 32 blocks. Hover to compare the two ways of wiring at the same depth.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

L = 32
g = torch.Generator().manual_seed(1)
x, direction = torch.randn(2, 4, 16, 32, generator=g)
direction /= direction.norm()
kinds = {"pre-norm": True, "post-norm": False}
profiles = {
    kind: depth_profile([Block(BlockConfig(32, 4, 128, norm_first=first, seed=s)) for s in range(L)], x, direction)
    for kind, first in kinds.items()
}
panels = {"stream": "stream", "update": "update", "gradient": "gradient: stream", "parameters": "gradient: parameters"}
figure = make_subplots(
    rows=2, cols=2, subplot_titles=list(panels.values()), horizontal_spacing=0.12, vertical_spacing=0.22
)
for place, name in enumerate(panels):
    for (kind, profile), colour in zip(profiles.items(), plots.COLOURS, strict=False):
        values = profile[name].tolist()
        figure.add_scatter(
            x=list(range(L + 1 - len(values), L + 1)),
            y=values,
            name=kind,
            legendgroup=kind,
            showlegend=place == 0,
            line={"color": colour},
            hovertemplate="block %{x}: %{y:.3g}",
            row=1 + place // 2,
            col=1 + place % 2,
        )
figure.update_yaxes(type="log", tickvals=[0.2, 0.5, 0.7, 1, 1.4, 2, 5, 10, 20, 50, 100, 200, 500])
figure.update_yaxes(title_text="root mean square", row=1, col=1)
figure.update_yaxes(title_text="norm", row=2, col=1)
figure.update_xaxes(title_text="block", row=2)
figure.update_annotations(font_size=13)
figure.update_layout(height=460, hovermode="x", legend={"orientation": "h", "y": -0.2}).show()
for kind, profile in profiles.items():
    first, last = profile["parameters"][[0, -1]].tolist()
    print(f"{kind}: gradient of the parameters, first block {first:.3g}, last block {last:.3g}")

# %% [markdown]
# Neither kind explodes or dies, even at 32 blocks: that is what norms and residuals are for. The trends differ. The
# updates are about as large at depth 32 as at depth 1, in both. In post-norm the stream is put back to 1 after each, so
# an old update fades as new ones arrive. In pre-norm nothing fades: the stream grows, each further update is a smaller part of it, and the
# early blocks, whose updates every later block reads, get the largest gradients. Is a block with a small gradient a block
# that learns slowly? With plain gradient descent, yes. Adam divides each parameter's step by the size of its own
# gradients, and hardly notices.
#
# So the profile of a fresh stack does not decide which kind trains better. Training does. Six blocks of each kind get the task
# at a high learning rate, with and without warm-up, from three different sets of first weights (three lines of a colour).

# %%
depth, steps = 6, 60
figure = go.Figure()
for i, (kind, first) in enumerate(kinds.items()):
    for warmup in (0, 30):
        name = f"{kind}, {f'warm-up {warmup}' if warmup else 'no warm-up'}"
        line = {"color": plots.COLOURS[i], "dash": "dot" if warmup else "solid"}
        last = []
        for seed in range(3):
            x, target = shift_task(16, 8, 32, seed)
            stack = [Block(BlockConfig(32, 4, 64, norm_first=first, seed=100 * seed + s)) for s in range(depth)]
            losses = train_stack(stack, x, target, 1e-2, steps, warmup)
            last.append(losses[-1])
            figure.add_scatter(
                x=list(range(steps + 1)),
                y=losses,
                name=name,
                legendgroup=name,
                showlegend=seed == 0,
                line=line,
                hovertemplate="step %{x}: %{y:.3f}<extra>" + f"{name}, seed {seed}</extra>",
            )
        print(f"{name:22} loss after {steps} steps: " + ", ".join(f"{value:.3f}" for value in last))
figure.update_xaxes(title="step")
figure.update_yaxes(title="mean squared error", type="log", tickvals=[0.2, 0.5, 1, 2, 5, 10])
figure.update_layout(height=420, legend={"orientation": "h", "y": -0.25}).show()

# %% [markdown]
# An output of zeros has a loss of 1. Post-norm without warm-up gets below that and then crawls. With warm-up it
# ends far lower, from each of the three starts, not far from pre-norm. Pre-norm needs no warm-up here: with it, it ends higher,
# because it spends half of the run at low rates. The first Transformer was post-norm, and was trained with a warm-up of 4,000 steps; that pre-norm
# can do without was shown by Ruibin Xiong and others (On Layer Normalization in the Transformer Architecture, 2020). What you see
# is one task, one width and one learning rate. Try `depth` 2 and 12, and a rate of `3e-3`: where does post-norm win?
#
# ## Common mistakes
#
# - **The normalised stream becomes the stream.** `x = norm(x); x = x + attention(x)` looks tidy and is neither pre-
#   nor post-norm: each block throws away the size of what came before. It trains.
# - **Dropout that is never switched off.** The same input gives another output at each call, also in evaluation,
#   and nothing raises an error. `model.eval()` does nothing for a `dropout(x, p)` that ignores `self.training`.
# - **One norm for both places.** `self.norm_2 = self.norm_1` saves two vectors and ties them for ever. The state dict
#   shows both names, so even a strict loader is content.
# - **The causal mask forgotten where a padding mask is given.** With `causal if mask is None else mask`
#   instead of both, the training loss is too good to be true and generation fails: every token has seen its successor.
# - **Blocks that begin alike.** A model that builds its blocks in a loop, each with seed 0, starts with the same weights
#   at every depth, and nothing tells you.
# - **`strict=False`.** The missing tensors keep their random first values, and no error follows.
# - **A pre-norm model without a final norm.** The stream has grown with depth, and the last matrix sees numbers of
#   that size. The blocks are right; the model around them lacks one line. Lab 3.3 has it.
#
# The next lab, [Lab 2.5](lab05_modern_blocks.ipynb), replaces four parts of this block by what Llama uses.
#
# ## Going further
#
# - **Learned gates.** Multiply each update by a learned number that begins at 0, so that a fresh stack of any depth is the identity.
#   Does the gradient still reach the first block? Train 64 blocks of it. (Thomas Bachlechner, Bodhisattwa Prasad Majumder,
#   Huanru Henry Mao, Garrison W. Cottrell, Julian McAuley, ReZero is All You Need: Fast Convergence at Large Depth, 2020.)
# - **Both at once.** Attention and feed-forward network can read the same norm, and both updates are added together:
#   one of the mistakes in this lab, on purpose. It allows the two to run at the same time. Measure what it does to the
#   loss. (Ben Wang, Aran Komatsuzaki, GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model, 2021.)
# - **Deep post-norm.** Scale the stream by a constant before each sum, and the first weights of some matrices down, so that
#   post-norm trains with hundreds of layers. Which constants? (Hongyu Wang, Shuming Ma, Li Dong, Shaohan Huang, Dongdong Zhang, Furu Wei,
#   DeepNet: Scaling Transformers to 1,000 Layers, 2022.)
