# ---
# title: Modern blocks
# lab: ch02/lab05
# minutes: 100
# difficulty: 4
# hardware: cpu
# needs: [ch01/lab01, ch01/lab03, ch02/lab02, ch02/lab03, ch02/lab04]
# builds: [RMSNorm, share_heads, GroupedQueryAttention, LlamaBlock, load_llama_block, block_parameters, matched_d_ff, cache_bytes]
# ---

# %% [markdown]
# # Lab 2.5 · Modern blocks
#
# ## The idea
#
# Open the code of Llama, Mistral or Qwen beside that of GPT-2 and you will know your way around. Attention, a
# feed-forward network, two norms, two residual additions: it is the block of [Lab 2.4](lab04_transformer_block.ipynb).
# But nearly every part was exchanged for a cheaper or a better one. Two of the new parts you have already built:
# rotary positions in [Lab 2.2](lab02_positional.ipynb) and SwiGLU in [Lab 2.3](lab03_feed_forward.ipynb). Two are
# left, and both are acts of leaving something out.
#
# **A norm without the mean.** Take a token with the two features $[1, 7]$. LayerNorm subtracts the mean, 4, and divides
# by the standard deviation, 3: the result is $[-1, 1]$. RMSNorm does not subtract. It divides by the root of the mean
# square, $\sqrt{(1 + 49)/2} = 5$, and the result is $[0.2, 1.4]$. The size is under control either way. One reduction
# over the features is saved, and so is the bias.
#
# **Fewer keys and values than queries.** While a model writes text it keeps the keys and values of all earlier
# tokens, for each layer. With many heads, that cache fills the memory. So let heads share. With 4 query heads and 2
# key-value heads, queries 0 and 1 look at key-value head 0, and queries 2 and 3 look at key-value head 1. The cache is
# half as large, and `w_k` and `w_v` have half as many columns. With one key-value head for every query head this is
# the multi-head attention that you know; with a single one for all it is called multi-query attention.
#
# The rest is bookkeeping that has to be exact: no biases, rotation after the split into heads, and numbers in half
# precision rounded in one particular place. Whether you have it all right can be decided. In the fourth exercise you
# load the weights of a Llama layer from the `transformers` library into your block, and get the same outputs.
#
# Which model uses which part, and what is known about why each won, is on the page [The modern
# recipe](../../book/ch02_block/modern_recipe.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `x` | `(B, T, d_model)` | the tokens, before and after the block |
# | `weight` | `(d_model,)` | the scale of `RMSNorm`, one number for each feature |
# | `w_q`, `w_o` | `(d_model, d_model)` | used as `x @ w`, as always |
# | `w_k`, `w_v` | `(d_model, G * d_k)` | `G = n_kv_heads`, `d_k = d_model // n_heads` |
# | `q` | `(B, H, T, d_k)` | queries, `H = n_heads` |
# | `k`, `v` | `(B, G, T, d_k)` | keys and values: this is what a cache would keep |
# | `cos`, `sin` | `(T, d_k / 2)` | the rotation of each position, from Lab 2.2 |
# | `w_gate`, `w_up` | `(d_model, d_ff)` | the two ways into SwiGLU |
# | `w_down` | `(d_ff, d_model)` | the way out |

# %% given
import math

import torch
from torch import nn

from coursekit import carry

# attention(q, k, v, mask=None) -> (output, weights); True in the mask means: may attend
attention = carry("ch01/lab01", "attention")
# split_heads(x, n_heads): (B, T, n_heads * d_k) -> (B, n_heads, T, d_k); merge_heads is its inverse
split_heads = carry("ch01/lab03", "split_heads")
merge_heads = carry("ch01/lab03", "merge_heads")
# rope_tables(positions, d_k, base) -> (cos, sin), each (T, d_k / 2); apply_rope(x, cos, sin) turns (..., T, d_k)
rope_tables = carry("ch02/lab02", "rope_tables")
apply_rope = carry("ch02/lab02", "apply_rope")
# SwiGLU(d_model, d_ff, seed): a module with the parameters w_gate, w_up and w_down
SwiGLU = carry("ch02/lab03", "SwiGLU")

# %% given side="learner"
from dataclasses import dataclass


@dataclass(frozen=True)
class LlamaBlockConfig:
    """The settings of a `LlamaBlock`. ``base`` is that of the rotary positions, ``eps`` that of both norms."""

    d_model: int
    n_heads: int
    n_kv_heads: int
    d_ff: int
    base: float = 10_000.0
    eps: float = 1e-6
    seed: int = 0


def parameter_gradients(module: nn.Module, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradient of ``(module(x) * direction).sum()`` for every parameter, by name. The tests use it."""
    loss = (module(x) * direction).sum()
    module.zero_grad()
    if loss.requires_grad:
        loss.backward()
    return {name: parameter.grad for name, parameter in module.named_parameters()}


# %% [markdown]
# ## A picture
#
# What does RMSNorm keep that LayerNorm takes away? Below are 300 random tokens with three features each, as points in
# space, and where the two norms send them (both with all weights 1). RMSNorm moves a token along its own direction
# until it lies on a sphere. LayerNorm first drops it onto the plane where the features sum to zero, so all that is
# left of the sphere is a circle. Turn the figure; the colour is the mean of the token before the norm.

# %%
import plotly.graph_objects as go

from coursekit import plots

cloud = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.6, 0.2, -0.1])
centred = cloud - cloud.mean(-1, keepdim=True)
sent = {
    "RMSNorm": cloud / cloud.square().mean(-1, keepdim=True).sqrt(),
    "LayerNorm": centred / centred.square().mean(-1, keepdim=True).sqrt(),
    "before": cloud,
}
colours = {
    "color": cloud.mean(-1).tolist(),
    "colorscale": [[0, plots.COLOURS[0]], [0.5, plots.GREY], [1, plots.COLOURS[1]]],
    "cmin": -1.5,
    "cmax": 1.5,
}
figure = go.Figure()
for name, points in sent.items():
    figure.add_scatter3d(
        x=points[:, 0].tolist(),
        y=points[:, 1].tolist(),
        z=points[:, 2].tolist(),
        name=name,
        mode="markers",
        visible=True if name != "before" else "legendonly",
        marker={"size": 3 if name == "RMSNorm" else 4, "symbol": "diamond" if name == "LayerNorm" else "circle"}
        | colours,
        customdata=cloud.mean(-1).tolist(),
        hovertemplate=f"{name}<br>features %{{x:.2f}}, %{{y:.2f}}, %{{z:.2f}}<br>mean before %{{customdata:.2f}}<extra></extra>",
    )
# No colour with transparency here: WebGL mixes it with white, which cannot be seen on a light page and glares on a dark one.
axis = {
    "backgroundcolor": "rgba(0,0,0,0)",
    "gridcolor": plots.GREY,
    "zerolinecolor": plots.GREY,
    "range": [-2.2, 2.2],
    "tickvals": [-2, 0, 2],
}
figure.update_layout(
    height=440,
    margin={"l": 0, "r": 0, "t": 10, "b": 0},
    legend={"orientation": "h", "y": 1.0, "itemsizing": "constant"},
    scene={f"{name}axis": axis | {"title": f"feature {i}"} for i, name in enumerate("xyz")}
    | {
        "aspectmode": "cube",
        "camera": {"eye": {"x": 2.3, "y": -1.9, "z": 0.8}, "center": {"x": -0.1, "y": -0.1, "z": -0.1}},
    },
)
figure.show()
lengths = {name: points.norm(dim=-1) for name, points in sent.items()}
print("\n".join(f"{name:9} lengths {value.min():.3f} to {value.max():.3f}" for name, value in lengths.items()))

# %% [markdown]
# The circle has one dimension less than the sphere. With three features that is a lot; with 4,096 it is one direction of
# 4,096, the one along which all features are equal. RMSNorm does not bother to remove it.
#
# ## Exercise 1 · `RMSNorm`
#
# Write the norm. The formula is one line. What takes care is half precision. A float16 number ends at 65,504, so
# already the square of 300 is infinite there. Llama therefore computes the norm in float32, rounds the *quotient* to
# the input's dtype, and only then multiplies by `weight`. The last bit of many numbers in the model depends on that
# order.
#
# *Difficulty 2 of 5 · 15 minutes · 4 points*


# %% exercise="RMSNorm" difficulty=2 minutes=15 forbid=["rms_norm", "nn.RMSNorm", "layer_norm", "nn.LayerNorm", "normalize"]
class RMSNorm(nn.Module):
    """Divide every token by the root mean square of its features, then scale each feature.

    ``y = x / sqrt(mean(x**2) + eps) * weight``, with the mean over the last axis.

    Args:
        d_model: features of a token.
        eps: added to the mean square, inside the root.

    State:
        One float32 parameter named ``weight`` of shape (d_model,), all ones at first, and nothing else.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, section 4.
    """

    def __init__(self, d_model: int, eps: float = 1e-6):
        super().__init__()
        ### BEGIN SOLUTION
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        ### END SOLUTION

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last axis.

        Args:
            x: (..., d_model), contiguous or not: float16, bfloat16, float32 or float64.

        Returns:
            Tensor of x's shape. For float16 and bfloat16, everything up to and including the division is computed in
            float32, the quotient is rounded to x's dtype, and the rounded quotient is multiplied by ``weight`` as it
            is. So a bfloat16 x gives bfloat16 where ``weight`` is bfloat16 too, and float32 (PyTorch's usual promotion)
            where ``weight`` is float32. float32 and float64 are computed in their own precision.
        """
        ### BEGIN SOLUTION
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean_square = wide.square().mean(dim=-1, keepdim=True)  # (..., 1)
        quotient = wide / torch.sqrt(mean_square + self.eps)  # (..., d_model)
        return quotient.to(x.dtype) * self.weight
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Four steps, from the inside out: square, mean, root, divide. What shape must the mean have to divide every
# feature of its own token?</details>
# <details><summary>A bigger nudge</summary>Keep the last axis when you take the mean. For the precision: widen x at the top if its dtype is a narrow one,
# and find the one line where the result is narrowed again. It is not the last operation.</details>

# %% test="RMSNorm" points=2
from coursekit import check

import torch

norm = RMSNorm(2)
check.close(norm(torch.tensor([1.0, 7.0])), torch.tensor([0.2, 1.4]), "the token [1, 7]: its root mean square is 5")
norm.load_state_dict({"weight": torch.tensor([10.0, -1.0])})
check.close(
    norm(torch.tensor([[[1.0, 7.0], [-3.0, -3.0], [0.0, 0.0]]])),
    torch.tensor([[[2.0, -1.4], [-10.0, 1.0], [0.0, 0.0]]]),
    "three tokens of one sequence, weight [10, -1]",
)
coarse = RMSNorm(2, eps=24.0)
check.close(coarse(torch.tensor([1.0, 7.0])), torch.tensor([1.0, 7.0]) / 7, "eps = 24: the root of 25 + 24 is 7")
### BEGIN HIDDEN TESTS
from torch.nn import functional as F


def values(*shape, seed, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(check.seed(seed)))


check.equal(sorted(RMSNorm(7).state_dict()), ["weight"], "the names of the parameters")
check.equal(RMSNorm(7).state_dict()["weight"], torch.ones(7), "the first weight")
check.equal([name for name, _ in RMSNorm(7).named_parameters()], ["weight"], "what an optimiser is given")
for number, (shape, eps) in enumerate((((3, 63, 60), 1e-5), ((1, 5, 7), 1e-6), ((4, 4, 4, 4), 0.1), ((9,), 1e-6))):
    d_model = shape[-1]
    weight = values(d_model, seed=10 + number)
    norm = RMSNorm(d_model, eps)
    norm.load_state_dict({"weight": weight})
    for scale in (1.0, 1e-3, 1e4):
        x = scale * (values(*shape, seed=number) + 0.5)
        what = f"shape {shape}, eps={eps:g}, inputs times {scale:g}"
        check.close(norm(x), F.rms_norm(x, (d_model,), weight, eps), what)
small = 1e-3 * values(5, 16, seed=20)
check.close(RMSNorm(16)(small), F.rms_norm(small, (16,), None, 1e-6), "eps is 1e-6 where it is left out")
norm = RMSNorm(12, 1e-3)
norm.double()
weight = values(12, seed=21, dtype=torch.float64)
norm.load_state_dict({"weight": weight})
x = values(12, 3, 5, seed=22, dtype=torch.float64).permute(1, 2, 0)
want = F.rms_norm(x, (12,), weight, 1e-3)
check.close(norm(x), want, "float64, not contiguous", atol=1e-12, rtol=1e-12)
check.gradients(norm, lambda x: F.rms_norm(x, (12,), weight, 1e-3), [x], "gradients of RMSNorm", atol=1e-10)
leaf = weight.clone().requires_grad_()
direction = values(3, 5, 12, seed=23, dtype=torch.float64)
(wanted,) = torch.autograd.grad((F.rms_norm(x, (12,), leaf, 1e-3) * direction).sum(), [leaf])
found = [parameter_gradients(norm, x, direction)["weight"] for _ in range(2)][-1]
check.that(found is not None, "a gradient reaches weight", hint="Look for .data, .detach() or torch.no_grad().")
check.close(found, wanted, "the gradient of weight", atol=1e-10)
### END HIDDEN TESTS

# %% test="RMSNorm" points=2
from coursekit import check

import torch

large = torch.tensor([[300.0, 300.0, 300.0, -300.0]], dtype=torch.float16)
half = RMSNorm(4)
half.half()
check.close(half(large), large / 300, "features of 300 in float16, whose square no float16 can hold")
mixed = RMSNorm(64)
mixed.load_state_dict({"weight": torch.linspace(0.5, 1.5, 64)})
product = mixed(torch.linspace(-300, 290, 64).half())
check.equal(str(product.dtype), "torch.float32", "a float16 x and a float32 weight: the dtype of the product")
### BEGIN HIDDEN TESTS
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def share_of_equal(found, wanted):
    return float(torch.isclose(found.double(), wanted.double(), atol=0, rtol=1e-6).double().mean())


hint = "In float32: square, mean, root, division. Then round to x's dtype. Then multiply by weight, as it is."
for number, (dtype, weight_dtype) in enumerate(
    ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16), (torch.bfloat16, torch.float32))
):
    weight = torch.randn(512, generator=torch.Generator().manual_seed(check.seed(number))).to(weight_dtype)
    x = 3 * torch.randn(40, 512, generator=torch.Generator().manual_seed(check.seed(9))).to(dtype)
    llama = LlamaRMSNorm(512, eps=1e-5).to(weight_dtype)
    llama.load_state_dict({"weight": weight})
    norm = RMSNorm(512, 1e-5)
    norm.to(weight_dtype)
    norm.load_state_dict({"weight": weight})
    found, wanted = norm(x), llama(x).detach()
    case = f"x {str(dtype)[6:]}, weight {str(weight_dtype)[6:]}"
    check.close(found, wanted, f"{case}: about the values of LlamaRMSNorm", atol=1e-2, rtol=2e-2)
    # Another order of rounding changes the last bit of about a quarter of the numbers.
    share = share_of_equal(found, wanted)
    check.that(
        share > 0.99,
        f"{case}: the last bit too is that of LlamaRMSNorm",
        why=f"{share:.1%} of 20,480 numbers are equal to the bit; in the order of the docstring it is nearly every one",
        hint=hint,
    )
### END HIDDEN TESTS


# %% alternative="RMSNorm"
class RMSNorm(nn.Module):
    # A norm over the root of the length, everything in float64, rounded where the docstring says.
    def __init__(self, d_model, eps=1e-6):
        super().__init__()
        self.d_model, self.epsilon = d_model, eps
        self.weight = nn.Parameter(torch.ones(d_model, dtype=torch.float32))

    def forward(self, x):
        print("normalising", tuple(x.shape))
        wide = x.double()
        mean_square = torch.einsum("...d,...d->...", wide, wide).unsqueeze(-1) / self.d_model
        return self.weight * (wide * (mean_square + self.epsilon).rsqrt()).to(x.dtype)


# %% mistakes="RMSNorm"
{
    "the mean is subtracted first, as in LayerNorm": (
        "mean_square = wide",
        "wide = wide - wide.mean(dim=-1, keepdim=True)\n        mean_square = wide",
    ),
    "the mean is subtracted last, from the quotient": (
        "return quotient.to(x.dtype)",
        "quotient = quotient - quotient.mean(dim=-1, keepdim=True)\n        return quotient.to(x.dtype)",
    ),
    "the variance takes the place of the mean square: the mean is taken off in the root, but not from x": (
        "wide.square().mean(dim=-1, keepdim=True)",
        "wide.var(dim=-1, keepdim=True, unbiased=False)",
    ),
    "eps is added outside the root": (
        "torch.sqrt(mean_square + self.eps)",
        "(torch.sqrt(mean_square) + self.eps)",
    ),
    "eps is squared before it is added": ("mean_square + self.eps", "mean_square + self.eps**2"),
    "the root mean square is kept from falling below eps, and eps is not added": (
        "torch.sqrt(mean_square + self.eps)",
        "torch.sqrt(mean_square).clamp(min=self.eps)",
    ),
    "the weight is multiplied in float32, before the rounding to x's dtype": (
        "return quotient.to(x.dtype) * self.weight",
        "return (quotient * self.weight).to(torch.promote_types(x.dtype, self.weight.dtype))",
    ),
    "the weight is multiplied before the quotient is rounded, and then the product is rounded to x's dtype": (
        "return quotient.to(x.dtype) * self.weight",
        "return (quotient * self.weight).to(x.dtype)",
    ),
    "the weight is cast to x's dtype before the product": (
        "return quotient.to(x.dtype) * self.weight",
        "return quotient.to(x.dtype) * self.weight.to(x.dtype)",
    ),
    "the quotient is never rounded to x's dtype, so half precision comes back as float32": (
        "quotient.to(x.dtype) * self.weight",
        "quotient * self.weight",
    ),
    "the product is rounded to x's dtype, although the weight is wider": (
        "return quotient.to(x.dtype) * self.weight",
        "return (quotient.to(x.dtype) * self.weight).to(x.dtype)",
    ),
    "the squares are computed in half precision, where 300 squared is infinite": (
        "wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x",
        "wide = x",
    ),
    "only float16 is widened, and bfloat16 is squared as it is": (
        "(torch.float16, torch.bfloat16)",
        "(torch.float16,)",
    ),
    "everything is computed in float32, float64 inputs too": (
        "wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x",
        "wide = x.float()",
    ),
    "the squares are added up and not averaged, so every token has length 1": (
        "wide.square().mean(",
        "wide.square().sum(",
    ),
    "the token is divided by its mean square, without the root": (
        "wide / torch.sqrt(mean_square + self.eps)",
        "wide / (mean_square + self.eps)",
    ),
    "the mean of the absolute values takes the place of the root mean square": (
        "torch.sqrt(mean_square + self.eps)",
        "(wide.abs().mean(dim=-1, keepdim=True) + self.eps)",
    ),
    "the mean runs over all tokens and features together": (
        "mean_square = wide.square().mean(dim=-1, keepdim=True)",
        "mean_square = wide.square().mean()",
    ),
    "the mean runs over the tokens, and it should run over the features of each": (
        "mean_square = wide.square().mean(dim=-1, keepdim=True)",
        "mean_square = wide.square().mean(dim=-2 if x.ndim > 1 else -1, keepdim=True)",
    ),
    "the sum of squares is divided by d_model - 1": (
        "wide.square().mean(dim=-1, keepdim=True)",
        "wide.square().sum(dim=-1, keepdim=True) / (x.shape[-1] - 1)",
    ),
    "the scale is 1 + weight, as Gemma stores it": ("* self.weight", "* (1 + self.weight)"),
    "the weight is left out": ("quotient.to(x.dtype) * self.weight", "quotient.to(x.dtype)"),
    "the first weight is zero, so the model starts out silent": ("torch.ones(d_model)", "torch.zeros(d_model)"),
    "there is a bias too": (
        "self.weight = nn.Parameter(torch.ones(d_model))",
        "self.weight = nn.Parameter(torch.ones(d_model)); self.bias = nn.Parameter(torch.zeros(d_model))",
    ),
    "the weight is a plain tensor, so neither the optimiser nor state_dict knows of it": ("nn.Parameter(", "("),
    "the weight is a buffer, so state_dict has it and no optimiser trains it": (
        "self.weight = nn.Parameter(torch.ones(d_model))",
        'self.register_buffer("weight", torch.ones(d_model))',
    ),
    "the root mean square is detached, so the gradient takes it for a constant": (
        "torch.sqrt(mean_square + self.eps)",
        "torch.sqrt(mean_square + self.eps).detach()",
    ),
    "the weight is used through .data, so it gets no gradient and never learns": (
        "* self.weight",
        "* self.weight.data",
    ),
    "eps is 1e-5 where it is left out": ("eps: float = 1e-6", "eps: float = 1e-5"),
    "eps is ignored, and the default is always used": ("self.eps = eps", "self.eps = 1e-6"),
}

# %% [markdown]
# ## Exercise 2 · `share_heads`
#
# Few key-value heads have to meet many query heads. The simplest way is to repeat each of them. With 4 query heads,
# the key-value heads `a, b` become `a, a, b, b`: heads that share stand next to each other. `a, b, a, b` has the same
# shape, and a model trained that way is fine. Weights from elsewhere are not.
#
# *Difficulty 1 of 5 · 5 minutes · 2 points*


# %% exercise="share_heads" difficulty=1 minutes=5
def share_heads(x: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Repeat key-value heads until there is one for every query head.

    Args:
        x: (B, G, T, d_k), any dtype, contiguous or not, with at least one head.
        n_heads: the number of query heads H, a positive multiple of G.

    Returns:
        Tensor (B, H, T, d_k) of x's dtype. Query heads in the same block of H / G share: head h of the result is head
        h // (H / G) of x.

    Raises:
        ValueError: if n_heads is less than 1 or no multiple of G.

    Source: Ainslie et al., GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints, 2023,
    section 2.2.
    """
    ### BEGIN SOLUTION
    n_kv_heads = x.shape[1]
    if n_heads < 1 or n_heads % n_kv_heads != 0:
        raise ValueError(f"n_heads must be a positive multiple of the {n_kv_heads} key-value heads, got {n_heads}")
    return x.repeat_interleave(n_heads // n_kv_heads, dim=1)  # (B, H, T, d_k)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>PyTorch has two functions for repeating along an axis. One repeats the whole axis, the other each of its
# elements.</details>
# <details><summary>A bigger nudge</summary>Try both on <code>torch.tensor([0, 1])</code>. Or make a list: for each query head, which key-value head is
# it, and what does a list of indices do on axis 1?</details>

# %% test="share_heads" points=2
from coursekit import check

import torch

two_heads = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # (B=1, G=2, T=1, d_k=2)
check.equal(
    share_heads(two_heads, 4),
    torch.tensor([[[[1.0, 2.0]], [[1.0, 2.0]], [[3.0, 4.0]], [[3.0, 4.0]]]]),
    "two key-value heads for four query heads: a, a, b, b",
)
check.raises(ValueError, lambda: share_heads(two_heads, 5), "2 key-value heads cannot serve 5 query heads evenly")
### BEGIN HIDDEN TESTS
from transformers.models.llama.modeling_llama import repeat_kv

for batch, n_kv_heads, n_heads, length, d_k in (
    (3, 2, 6, 7, 10),
    (1, 3, 3, 5, 4),
    (2, 1, 8, 63, 2),
    (4, 4, 8, 4, 4),
    (2, 1, 1, 3, 2),
):
    x = torch.randn(batch, length, n_kv_heads, d_k, generator=torch.Generator().manual_seed(check.seed(length)))
    x = x.transpose(1, 2)
    case = f"B={batch}, {n_kv_heads} key-value heads for {n_heads} query heads, T={length}"
    check.equal(share_heads(x, n_heads), repeat_kv(x, n_heads // n_kv_heads), f"{case}: equal to transformers")
numbers = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
check.equal(share_heads(numbers, 6), numbers[:, [0, 0, 1, 1, 2, 2]], "whole numbers stay whole numbers")
for n_heads in (0, -3, 2, 7):
    check.raises(
        ValueError, lambda n_heads=n_heads: share_heads(numbers, n_heads), f"3 heads for {n_heads} query heads"
    )
check.gradients(
    lambda x: share_heads(x, 6),
    lambda x: x[:, [0, 0, 0, 1, 1, 1]],
    [torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(0)))],
    "gradients: a shared head collects those of all heads that share it",
)
### END HIDDEN TESTS


# %% alternative="share_heads"
def share_heads(x, n_heads):
    if n_heads <= 0 or n_heads % x.shape[1]:
        raise ValueError("heads")
    size = n_heads // x.shape[1]
    return torch.cat([x[:, h // size : h // size + 1] for h in range(n_heads)], dim=1)


# %% mistakes="share_heads"
{
    "the heads are repeated as a, b, a, b, and those that share should stand side by side": (
        "x.repeat_interleave(n_heads // n_kv_heads, dim=1)",
        "x.repeat(1, n_heads // n_kv_heads, 1, 1)",
    ),
    "the tokens are repeated, and not the heads": (
        "return x.repeat_interleave(n_heads // n_kv_heads, dim=1)",
        "return x.repeat_interleave(n_heads // n_kv_heads, dim=2).reshape(x.shape[0], n_heads, *x.shape[2:])",
    ),
    "the heads are repeated n_heads times each": (
        "x.repeat_interleave(n_heads // n_kv_heads, dim=1)",
        "x.repeat_interleave(n_heads, dim=1)",
    ),
    "all query heads get the first key-value head": (
        "return x.repeat_interleave(n_heads // n_kv_heads, dim=1)",
        "return x[:, :1].expand(-1, n_heads, -1, -1)",
    ),
    "all query heads get the mean of the key-value heads": (
        "return x.repeat_interleave(n_heads // n_kv_heads, dim=1)",
        "return x.double().mean(1, keepdim=True).to(x.dtype).expand(-1, n_heads, -1, -1)",
    ),
    "the repeated heads are divided by the number of heads that share them": (
        "return x.repeat_interleave(n_heads // n_kv_heads, dim=1)",
        "return (x / (n_heads // n_kv_heads)).repeat_interleave(n_heads // n_kv_heads, dim=1).to(x.dtype)",
    ),
    "query heads that are left over are dropped without an error": (
        "if n_heads < 1 or n_heads % n_kv_heads != 0:",
        "if n_heads < n_kv_heads:",
    ),
    "zero query heads are accepted": ("if n_heads < 1 or n_heads", "if n_heads < 0 or n_heads"),
    "the result is detached, so neither keys nor values ever learn": (
        "return x.repeat_interleave",
        "return x.detach().repeat_interleave",
    ),
}

# %% [markdown]
# ## Exercise 3 · `GroupedQueryAttention`
#
# Now the attention of a Llama block: project, split, rotate, share, attend, merge, project. It is causal: a token may
# look at itself and at what came before. The rotation goes on `q` and `k` after the split, because each *head* is
# rotated with the frequencies of a vector of length `d_k`. The values are not rotated: positions should decide who
# looks at whom, not what is handed over.
#
# For your own small tests: with rotary positions, adding 100 to every position changes nothing.
#
# *Difficulty 4 of 5 · 25 minutes · 7 points*


# %% exercise="GroupedQueryAttention" difficulty=4 minutes=25 forbid=["Linear", "MultiheadAttention", "scaled_dot_product_attention", "transformers"]
class GroupedQueryAttention(nn.Module):
    """Causal self-attention with rotary positions and fewer key-value heads than query heads; no biases.

    Args:
        d_model: features of a token.
        n_heads: number of query heads H, a positive divisor of d_model. A head has d_k = d_model / H features, an even
            number.
        n_kv_heads: number of key-value heads G, a positive divisor of n_heads.
        base: the base of the rotary frequencies, as in `rope_tables`.
        seed: the same seed gives the same first weights, another seed gives others.

    State:
        Four float32 parameters used as ``x @ w``, and nothing else: ``w_q`` and ``w_o`` of shape (d_model, d_model),
        ``w_k`` and ``w_v`` of shape (d_model, G * d_k). Query head h owns the columns from h * d_k up to (h + 1) * d_k
        of w_q and the rows with the same numbers of w_o; key-value head g owns the columns from g * d_k up to
        (g + 1) * d_k of w_k and w_v. At first all entries of all four are independent, with mean 0 and variance
        1 / d_model (normal or uniform, as you like).

    Raises:
        ValueError: if n_heads is less than 1 or does not divide d_model, if d_k is odd, or if n_kv_heads is less than 1
            or does not divide n_heads.

    Source: Ainslie et al., GQA, 2023, section 2.2; Su et al., RoFormer, 2021, section 3.
    """

    def __init__(self, d_model: int, n_heads: int, n_kv_heads: int, base: float = 10_000.0, seed: int = 0):
        super().__init__()
        ### BEGIN SOLUTION
        if n_heads < 1 or d_model % n_heads != 0:
            raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
        if n_kv_heads < 1 or n_heads % n_kv_heads != 0:
            raise ValueError(f"n_kv_heads must be a positive divisor of n_heads={n_heads}, got {n_kv_heads}")
        d_k = d_model // n_heads
        if d_k % 2 != 0:
            raise ValueError(f"a head must have an even number of features to be rotated, got {d_k}")
        self.n_heads, self.n_kv_heads, self.d_k, self.base = n_heads, n_kv_heads, d_k, base
        generator = torch.Generator().manual_seed(seed)
        spread = 1 / math.sqrt(d_model)  # a standard deviation: the variance is 1 / d_model
        narrow = n_kv_heads * d_k  # all key-value heads side by side
        self.w_q = nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))
        self.w_k = nn.Parameter(spread * torch.randn(d_model, narrow, generator=generator))
        self.w_v = nn.Parameter(spread * torch.randn(d_model, narrow, generator=generator))
        self.w_o = nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))
        ### END SOLUTION

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Let every token look at itself and at the tokens before it.

        Args:
            x: (B, T, d_model), of the parameters' dtype, T at least 1.
            positions: whole numbers (T,), the position of each token, the same for all sequences; 0, 1, ..., T - 1 where
                they are left out. They decide the rotation only. What may be looked at goes by the order in x.

        Returns:
            Tensor (B, T, d_model) of x's dtype. The scores are divided by sqrt(d_k). Queries and keys are rotated after
            the split into heads, in the half-split form of `apply_rope`; values are not rotated. Query head h looks at
            key-value head h // (H / G).
        """
        ### BEGIN SOLUTION
        length = x.shape[1]
        if positions is None:
            positions = torch.arange(length)
        cos, sin = (table.to(x.dtype) for table in rope_tables(positions, self.d_k, self.base))  # each (T, d_k / 2)
        q = split_heads(x @ self.w_q, self.n_heads)  # (B, H, T, d_k)
        k = split_heads(x @ self.w_k, self.n_kv_heads)  # (B, G, T, d_k)
        v = split_heads(x @ self.w_v, self.n_kv_heads)  # (B, G, T, d_k)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        k, v = share_heads(k, self.n_heads), share_heads(v, self.n_heads)  # (B, H, T, d_k)
        heads, _ = attention(q, k, v, causal)  # (B, H, T, d_k)
        return merge_heads(heads) @ self.w_o  # (B, T, d_model)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Follow the seven verbs of the task, in order; write the shape beside each line. Two of the projections are
# narrower than in Lab 1.3, and so are split into fewer heads.</details>
# <details><summary>A bigger nudge</summary>Rotate before you share, or after: the result is the same, but one of the two rotates fewer vectors. The tables are
# float32; if x is not, bring them to its dtype. True in the mask means "may look", so which triangle is it?</details>

# %% test="GroupedQueryAttention" points=3
from coursekit import check

import math
import torch

# Two query heads share one key-value head of d_k = 2. Features 0 and 1 are query and key, 2 and 3 the value.
layer = GroupedQueryAttention(4, 2, 1)
first_two, last_two = torch.eye(4)[:, :2], torch.eye(4)[:, 2:]
layer.load_state_dict({"w_q": torch.cat([first_two] * 2, 1), "w_k": first_two, "w_v": last_two, "w_o": torch.eye(4)})
tokens = torch.tensor([[[1.0, 0, 1, 0], [1, 0, 0, 1]]])
for positions in (None, torch.tensor([0, 3])):
    radians = 1 if positions is None else 3  # the first pair of features turns by one radian for each position
    ratio = math.exp((1 - math.cos(radians)) / math.sqrt(2))  # of the second token's weight to the first one's
    p = 1 / (1 + ratio)
    check.close(
        layer(tokens, positions),
        torch.tensor([[[1.0, 0, 1, 0], [p, 1 - p, p, 1 - p]]]),
        f"two equal tokens, {radians} radian(s) apart: the scores are cos({radians}) and 1, over the root of 2",
    )
### BEGIN HIDDEN TESTS
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding


def llama(state, n_heads, n_kv_heads, base, dtype):
    """LlamaAttention with our weights, as a function of x and the positions."""
    config = LlamaConfig(
        hidden_size=len(state["w_q"]),
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        rope_parameters={"rope_type": "default", "rope_theta": base},
        attention_bias=False,
    )
    config._attn_implementation = "eager"
    layer, rotary = LlamaAttention(config, 0).to(dtype).eval(), LlamaRotaryEmbedding(config)
    layer.load_state_dict({f"{name[2:]}_proj.weight": w.T for name, w in state.items()})

    def call(x, positions):
        length = x.shape[1]
        may_not = torch.full((length, length), torch.finfo(dtype).min, dtype=dtype).triu(1)
        return layer(x, rotary(x, positions[None]), may_not[None, None])[0]

    return call


def values(*shape, seed, dtype):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(check.seed(seed)))


cases = [
    (1, 63, 60, 6, 2, 10_000.0, torch.float32),
    (3, 5, 24, 6, 3, 10_000.0, torch.float64),
    (2, 7, 16, 4, 1, 500.0, torch.float32),
    (3, 3, 12, 3, 3, 10_000.0, torch.float64),
    (4, 4, 32, 4, 2, 500_000.0, torch.float32),
    (1, 1, 8, 2, 1, 10_000.0, torch.float32),
    (2, 5, 6, 1, 1, 10_000.0, torch.float32),
]
for batch, length, d_model, n_heads, n_kv_heads, base, dtype in cases:
    narrow = d_model // n_heads * n_kv_heads
    shapes = {"w_q": d_model, "w_k": narrow, "w_v": narrow, "w_o": d_model}
    state = {
        name: values(d_model, width, seed=20 + i, dtype=dtype) / d_model**0.5
        for i, (name, width) in enumerate(shapes.items())
    }
    layer = GroupedQueryAttention(d_model, n_heads, n_kv_heads, base)
    layer.to(dtype)
    layer.load_state_dict(state)
    twin = llama(state, n_heads, n_kv_heads, base, dtype)
    x = 2 * values(length, batch, d_model, seed=length, dtype=dtype).transpose(0, 1)
    case = f"B={batch}, T={length}, d_model={d_model}, {n_heads} query and {n_kv_heads} key-value heads, base {base:g}"
    check.close(layer(x), twin(x, torch.arange(length)).detach(), f"{case}: equal to LlamaAttention", atol=2e-5)
    apart = 3 + torch.arange(length) + 2 * (torch.arange(length) // 2)
    check.close(
        layer(x, apart), twin(x, apart).detach(), f"{case}, at the positions 3, 4, 7, 8, 11, ...: equal too", atol=5e-5
    )

length = 6
state = {
    name: values(12, width, seed=50 + i, dtype=torch.float64) / 12**0.5
    for i, (name, width) in enumerate({"w_q": 12, "w_k": 6, "w_v": 6, "w_o": 12}.items())
}
layer = GroupedQueryAttention(12, 2, 1)
layer.double()
layer.load_state_dict(state)
twin = llama(state, 2, 1, 10_000.0, torch.float64)
x = values(2, length, 12, seed=54, dtype=torch.float64)
back, same, zero = torch.arange(length).flip(0), torch.full((length,), 2), torch.zeros(length, dtype=torch.int64)
by_order = "What may be looked at goes by the order in x, whatever the positions are."
check.close(
    layer(x, back), twin(x, back).detach(), "at the positions 5, 4, 3, 2, 1, 0: still causal", atol=5e-5, hint=by_order
)
check.close(
    layer(x, same),
    twin(x, zero).detach(),
    "all tokens at position 2: as if all were at position 0, and still causal",
    atol=5e-5,
    hint=by_order,
)
### END HIDDEN TESTS

# %% test="GroupedQueryAttention" points=2
from coursekit import check

import torch

x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
layer = GroupedQueryAttention(16, 4, 2)
changed = torch.cat([x[:, :4], 9 - x[:, 4:]], dim=1)
check.close(layer(changed)[:, :4], layer(x)[:, :4], "the future changes nothing")
check.close(layer(x, 100 + torch.arange(6)), layer(x), "100 positions later changes nothing", atol=1e-4)
### BEGIN HIDDEN TESTS
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding


def values(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(seed)))


for batch, length, d_model, n_heads, n_kv_heads in ((3, 5, 24, 6, 2), (1, 4, 16, 4, 1)):
    narrow = d_model // n_heads * n_kv_heads
    shapes = {"w_q": d_model, "w_k": narrow, "w_v": narrow, "w_o": d_model}
    state = {name: values(d_model, width, seed=30 + i) / d_model**0.5 for i, (name, width) in enumerate(shapes.items())}
    layer = GroupedQueryAttention(d_model, n_heads, n_kv_heads)
    layer.double()
    layer.load_state_dict(state)
    config = LlamaConfig(
        hidden_size=d_model,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        attention_bias=False,
    )
    config._attn_implementation = "eager"
    twin, rotary = LlamaAttention(config, 0).double(), LlamaRotaryEmbedding(config)
    twin.load_state_dict({f"{name[2:]}_proj.weight": w.T for name, w in state.items()})
    may_not = torch.full((length, length), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]

    def wanted(x, twin=twin, rotary=rotary, may_not=may_not):
        return twin(x, rotary(x, torch.arange(x.shape[1])[None]), may_not)[0]

    x, direction = values(batch, length, d_model, seed=1), values(batch, length, d_model, seed=2)
    case = f"B={batch}, T={length}, {n_heads} query heads, {n_kv_heads} key-value heads"
    check.gradients(layer, wanted, [x], f"{case}: the gradient for x")
    grads = torch.autograd.grad((wanted(x) * direction).sum(), [getattr(twin, f"{n}_proj").weight for n in "qkvo"])
    found = [parameter_gradients(layer, x, direction) for _ in range(2)][-1]  # asked twice: nothing piles up
    for name, gradient in zip(shapes, grads, strict=True):
        check.that(
            found[name] is not None, f"a gradient reaches {name}", hint="Look for .data, .detach() or torch.no_grad()."
        )
        check.close(found[name], gradient.T, f"{case}: the gradient of {name}")
### END HIDDEN TESTS

# %% test="GroupedQueryAttention" points=2
from coursekit import check

import torch

state = GroupedQueryAttention(12, 6, 2).state_dict()
check.equal(
    {name: list(w.shape) for name, w in sorted(state.items())},
    {"w_k": [12, 4], "w_o": [12, 12], "w_q": [12, 12], "w_v": [12, 4]},
    "the parameters and their shapes: 12 features, 6 query heads of 2, 2 key-value heads",
)
check.raises(ValueError, lambda: GroupedQueryAttention(12, 6, 4), "6 query heads cannot share 4 key-value heads evenly")
check.raises(ValueError, lambda: GroupedQueryAttention(12, 4, 2), "heads of 3 features cannot be rotated in pairs")
### BEGIN HIDDEN TESTS
for arguments in ((12, 0, 1), (12, -2, 1), (12, 5, 1), (12, 6, 0), (12, 6, -2), (12, 2, 4), (10, 10, 5), (12, 6, 12)):
    check.raises(
        ValueError, lambda arguments=arguments: GroupedQueryAttention(*arguments), f"GroupedQueryAttention{arguments}"
    )
d_model = 192
first = GroupedQueryAttention(d_model, 6, 3, seed=5).state_dict()
for name, w in first.items():
    check.equal(list(w.shape), [d_model, d_model if name in ("w_q", "w_o") else 96], f"the shape of {name}")
    check.equal(str(w.dtype), "torch.float32", f"the dtype of {name}")
    # 18,432 entries or more: the sample variance is within 1.1% of the true one two times in three.
    check.close(
        float(w.var() * d_model),
        1.0,
        f"the variance of the first {name}, times d_model",
        atol=0.06,
        hint="a * randn has the variance a**2. Uniform numbers between -a and a have the variance a**2 / 3.",
    )
    check.close(float(w.mean() * d_model**0.5), 0.0, f"the mean of the first {name}, times sqrt(d_model)", atol=0.04)
    overlap = (w @ w.T - torch.diag((w * w).sum(1))).abs().max()
    check.that(overlap < 0.6, f"the rows of the first {name} are independent of each other")
for one, other in (("w_q", "w_k"), ("w_q", "w_v"), ("w_q", "w_o"), ("w_k", "w_v"), ("w_k", "w_o"), ("w_v", "w_o")):
    size = min(first[one].numel(), first[other].numel())
    pairs = [first[one].flatten()[:size] * first[other].flatten()[:size], first[one][:, :96] * first[other][:, :96]]
    correlation = max(abs(float(product.mean() * d_model)) for product in pairs)
    check.close(correlation, 0.0, f"the first {one} and {other} are independent (their correlation)", atol=0.06)
again = GroupedQueryAttention(d_model, 6, 3, seed=5).state_dict()
another = GroupedQueryAttention(d_model, 6, 3, seed=6).state_dict()
for name, w in first.items():
    check.equal(
        again[name],
        w,
        f"the same seed gives the same {name}",
        hint="Draw from a torch.Generator that is seeded with seed.",
    )
    check.that(not torch.equal(another[name], w), f"another seed gives another {name}")
default, zero = GroupedQueryAttention(12, 6, 2).state_dict(), GroupedQueryAttention(12, 6, 2, seed=0).state_dict()
check.equal(default["w_q"], zero["w_q"], "the seed is 0 where it is left out")
far, x = torch.tensor([0, 100_000]), torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(check.seed(3)))
explicit = GroupedQueryAttention(8, 2, 1, 10_000.0)(x, far).detach()
check.close(GroupedQueryAttention(8, 2, 1)(x, far), explicit, "the base is 10,000 where it is left out")
check.equal(
    sorted(name for name, _ in GroupedQueryAttention(12, 6, 2).named_parameters()),
    ["w_k", "w_o", "w_q", "w_v"],
    "what an optimiser is given",
)
### END HIDDEN TESTS


# %% alternative="GroupedQueryAttention"
class GroupedQueryAttention(nn.Module):
    # One query head at a time; the rotation as a product of complex numbers in float64; its own softmax.
    def __init__(self, d_model, n_heads, n_kv_heads, base=10_000.0, seed=0):
        super().__init__()
        if n_heads <= 0 or n_kv_heads <= 0 or d_model % n_heads or n_heads % n_kv_heads or d_model // n_heads % 2:
            raise ValueError((d_model, n_heads, n_kv_heads))
        torch.manual_seed(seed)
        self.heads, self.groups, self.size, self.theta = n_heads, n_kv_heads, d_model // n_heads, base
        bound = (3 / d_model) ** 0.5
        for name, width in (("o", d_model), ("v", None), ("k", None), ("q", d_model)):
            w = torch.empty(d_model, width or n_kv_heads * self.size).uniform_(-bound, bound)
            setattr(self, f"w_{name}", nn.Parameter(w))

    def turned(self, x, positions):
        half = self.size // 2
        angles = positions.double()[:, None] / self.theta ** (torch.arange(half, dtype=torch.float64) / half)
        z = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([z.real, z.imag], dim=-1)

    def forward(self, x, positions=None):
        positions = torch.arange(x.shape[1]) if positions is None else positions
        output = torch.zeros_like(x)
        for h in range(self.heads):
            g = h * self.groups // self.heads
            mine, theirs = (slice(i * self.size, (i + 1) * self.size) for i in (h, g))
            q = self.turned(x @ self.w_q[:, mine], positions)
            k = self.turned(x @ self.w_k[:, theirs], positions)
            scores = torch.einsum("bid,bjd->bij", q, k) / self.size**0.5
            later = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
            weights = scores.masked_fill(later, -torch.inf).softmax(-1).to(x.dtype)
            output = output + weights @ (x @ self.w_v[:, theirs]) @ self.w_o[mine]
        return output


# %% mistakes="GroupedQueryAttention"
{
    "the queries and keys are rotated before the split, as one long vector of d_model features": [
        ("rope_tables(positions, self.d_k, self.base))  #", "rope_tables(positions, x.shape[-1], self.base))  #"),
        (
            "q = split_heads(x @ self.w_q, self.n_heads)",
            "q = split_heads(apply_rope(x @ self.w_q, cos, sin), self.n_heads)",
        ),
        (
            "k = split_heads(x @ self.w_k, self.n_kv_heads)",
            "narrow = (table.to(x.dtype) for table in rope_tables(positions, self.w_k.shape[-1], self.base))\n        k = split_heads(apply_rope(x @ self.w_k, *narrow), self.n_kv_heads)",
        ),
        ("        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)\n", ""),
    ],
    "the queries are rotated before the split, as one long vector of d_model features, and the keys after it": [
        (
            "q = split_heads(x @ self.w_q, self.n_heads)",
            "wide = (table.to(x.dtype) for table in rope_tables(positions, x.shape[-1], self.base))\n        q = split_heads(apply_rope(x @ self.w_q, *wide), self.n_heads)",
        ),
        ("q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)", "k = apply_rope(k, cos, sin)"),
    ],
    "query heads and key-value heads are matched in turn, a, b, a, b": (
        "k, v = share_heads(k, self.n_heads), share_heads(v, self.n_heads)",
        "k, v = (part.repeat(1, self.n_heads // self.n_kv_heads, 1, 1) for part in (k, v))",
    ),
    "only the keys are shared in blocks; the values are matched in turn": (
        "share_heads(v, self.n_heads)",
        "v.repeat(1, self.n_heads // self.n_kv_heads, 1, 1)",
    ),
    "all query heads look at the first key-value head": (
        "k, v = share_heads(k, self.n_heads), share_heads(v, self.n_heads)",
        "k, v = share_heads(k[:, :1], self.n_heads), share_heads(v[:, :1], self.n_heads)",
    ),
    "the values are rotated too": (
        "apply_rope(k, cos, sin)\n",
        "apply_rope(k, cos, sin)\n        v = apply_rope(v, cos, sin)\n",
    ),
    "the queries are rotated and the keys are not": (
        "q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)",
        "q = apply_rope(q, cos, sin)",
    ),
    "nothing is rotated, so the order of earlier tokens makes no difference": (
        "        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)\n",
        "",
    ),
    "the input x is rotated, before the projections": [
        (
            "q = split_heads(x @ self.w_q",
            "x_turned = merge_heads(apply_rope(split_heads(x, self.n_heads), cos, sin))\n        q = split_heads(x_turned @ self.w_q",
        ),
        ("k = split_heads(x @ self.w_k", "k = split_heads(x_turned @ self.w_k"),
        ("        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)\n", ""),
    ],
    "neighbouring features are rotated as pairs, and Llama's weights in transformers pair feature i with i + d_k / 2": (
        "q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)",
        "q, k = (torch.stack([z[..., ::2] * cos - z[..., 1::2] * sin, z[..., 1::2] * cos + z[..., ::2] * sin], -1).flatten(-2) for z in (q, k))",
    ),
    "queries and keys are rotated in opposite directions, so the sum of two positions counts and not the difference": (
        "apply_rope(k, cos, sin)",
        "apply_rope(k, cos, -sin)",
    ),
    "the keys take the frequencies of another base": (
        "apply_rope(k, cos, sin)",
        "apply_rope(k, *(t.to(x.dtype) for t in rope_tables(positions, self.d_k, 2 * self.base)))",
    ),
    "the frequencies are those of a vector of d_model features": (
        "rope_tables(positions, self.d_k, self.base))  # each (T, d_k / 2)",
        "rope_tables(positions, x.shape[-1], self.base))\n        cos, sin = cos[:, : self.d_k // 2], sin[:, : self.d_k // 2]",
    ),
    "the rotation follows the number of the head and not the position of the token": (
        "q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)",
        "q, k = (apply_rope(z.transpose(1, 2), *(t.to(x.dtype) for t in rope_tables(torch.arange(z.shape[1]), self.d_k, self.base))).transpose(1, 2) for z in (q, k))",
    ),
    "the base is ignored": (
        "self.d_k, self.base = n_heads, n_kv_heads, d_k, base",
        "self.d_k, self.base = n_heads, n_kv_heads, d_k, 10_000.0",
    ),
    "the positions that are given are ignored": ("if positions is None:\n            positions", "positions"),
    "the mask is made of the positions, and not of the order of the tokens": (
        "torch.ones(length, length, dtype=torch.bool).tril()",
        "positions[:, None] >= positions[None, :]",
    ),
    "there is no causal mask: tokens look into the future": ("attention(q, k, v, causal)", "attention(q, k, v)"),
    "a token may not look at itself": (".tril()", ".tril(-1)"),
    "a token may look one step into the future": (".tril()", ".tril(1)"),
    "the mask is the wrong triangle: a token sees what comes after it": (".tril()", ".triu()"),
    "the scores are divided by sqrt(d_model) and not by sqrt(d_k)": (
        "attention(q, k, v, causal)",
        "attention(q / math.sqrt(self.n_heads), k, v, causal)",
    ),
    "the scores are scaled twice: once here and once in attention": (
        "attention(q, k, v, causal)",
        "attention(q / math.sqrt(self.d_k), k, v, causal)",
    ),
    "there is no output projection": ("return merge_heads(heads) @ self.w_o", "return merge_heads(heads)"),
    "the output projection is transposed": ("@ self.w_o  #", "@ self.w_o.T  #"),
    "w_q is used transposed, the way nn.Linear stores it; it is square, so nobody complains": (
        "x @ self.w_q",
        "x @ self.w_q.T",
    ),
    "the heads are merged with a reshape alone": ("merge_heads(heads) @", "heads.reshape(x.shape) @"),
    "the heads are split with a reshape alone": [
        ("split_heads(x @ self.w_q, self.n_heads)", "(x @ self.w_q).reshape(len(x), self.n_heads, length, -1)"),
        ("split_heads(x @ self.w_k, self.n_kv_heads)", "(x @ self.w_k).reshape(len(x), self.n_kv_heads, length, -1)"),
        ("split_heads(x @ self.w_v, self.n_kv_heads)", "(x @ self.w_v).reshape(len(x), self.n_kv_heads, length, -1)"),
    ],
    "the values are projected with w_k": ("x @ self.w_v", "x @ self.w_k"),
    "the input is added to the output, which is the work of the block around the attention": (
        "return merge_heads(heads) @ self.w_o",
        "return x + merge_heads(heads) @ self.w_o",
    ),
    "w_k and w_v have a column for every query head": ("narrow = n_kv_heads * d_k", "narrow = d_model"),
    "the matrices are used through .data, so they get no gradient and never learn": [
        ("x @ self.w_q", "x @ self.w_q.data"),
        ("x @ self.w_k", "x @ self.w_k.data"),
        ("x @ self.w_v", "x @ self.w_v.data"),
    ],
    "the keys are detached, as if they came from a cache": (
        "share_heads(k, self.n_heads)",
        "share_heads(k.detach(), self.n_heads)",
    ),
    "the matrices are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(",
        "(",
        "all",
    ),
    "an n_kv_heads that does not divide n_heads is accepted": (
        "if n_kv_heads < 1 or n_heads % n_kv_heads != 0:",
        "if n_kv_heads < 1:",
    ),
    "an n_heads that does not divide d_model is accepted": (
        "if n_heads < 1 or d_model % n_heads != 0:",
        "if n_heads < 1:",
    ),
    "a head with an odd number of features is accepted": ("if d_k % 2 != 0:", "if d_k < 1:"),
    "the first weights have variance 1": ("spread = 1 / math.sqrt(d_model)", "spread = 1.0"),
    "the first weights have variance 1 / d_k": ("spread = 1 / math.sqrt(d_model)", "spread = 1 / math.sqrt(d_k)"),
    "every matrix restarts the generator, so w_q and w_o begin equal, and so do w_k and w_v": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
        "all",
    ),
    "the seed is ignored": ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
}

# %% [markdown]
# ## Exercise 4 · `LlamaBlock`
#
# Put the block together, norm first, and write `load_llama_block`, which fills it with the weights of a layer from
# the `transformers` library. `nn.Linear` stores a matrix with its outputs as rows, so every matrix has to be turned
# over. For the two square ones, nothing but the numbers will tell you if you forgot.
#
# The names of the submodules are those of Lab 2.4. So are the mistakes that can be made with norms and residuals.
#
# *Difficulty 3 of 5 · 25 minutes · 7 points*


# %% exercise="LlamaBlock" difficulty=3 minutes=25 forbid=["transformers", "Linear", "rms_norm"]
class LlamaBlock(nn.Module):
    """Attention and feed-forward network, each behind a norm and beside a residual connection.

    ``y = x + attention(norm_1(x))``, then ``y + feed_forward(norm_2(y))``.

    Args:
        config: a `LlamaBlockConfig`: d_model, n_heads, n_kv_heads, d_ff, base (of the rotary positions), eps (of both
            norms) and seed.

    State:
        Four submodules, and no parameters beside theirs: ``norm_1`` and ``norm_2`` (`RMSNorm`, each with a weight of its
        own), ``attention`` (`GroupedQueryAttention`) and ``feed_forward`` (`SwiGLU`). The first weights of the two norms
        are ones, those of the other two are drawn by their own seeds. Equal configs give equal blocks. Blocks of
        different seeds share no random numbers, and within a block attention and feed_forward share none.

    Source: Touvron et al., LLaMA: Open and Efficient Foundation Language Models, 2023, section 2.2.
    """

    def __init__(self, config: LlamaBlockConfig):
        super().__init__()
        ### BEGIN SOLUTION
        even, odd = 2 * config.seed, 2 * config.seed + 1  # no other block has either of them
        self.norm_1 = RMSNorm(config.d_model, config.eps)
        self.attention = GroupedQueryAttention(
            config.d_model, config.n_heads, config.n_kv_heads, config.base, seed=even
        )
        self.norm_2 = RMSNorm(config.d_model, config.eps)
        self.feed_forward = SwiGLU(config.d_model, config.d_ff, seed=odd)
        ### END SOLUTION

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """One block further.

        Args:
            x: (B, T, d_model), of the parameters' dtype.
            positions: as in `GroupedQueryAttention.forward`.

        Returns:
            Tensor (B, T, d_model) of x's dtype.
        """
        ### BEGIN SOLUTION
        x = x + self.attention(self.norm_1(x), positions)
        return x + self.feed_forward(self.norm_2(x))
        ### END SOLUTION


def load_llama_block(block: LlamaBlock, state: dict[str, torch.Tensor]) -> None:
    """Fill a block with the weights of a `LlamaDecoderLayer` of transformers.

    Args:
        block: your block; its parameters are overwritten.
        state: the layer's state_dict, nine tensors. ``input_layernorm.weight`` and ``post_attention_layernorm.weight``
            are the weights of the first and the second norm, (d_model,). The matrices are stored as (outputs, inputs):
            ``self_attn.q_proj.weight``, ``self_attn.k_proj.weight``, ``self_attn.v_proj.weight`` and
            ``self_attn.o_proj.weight``; ``mlp.gate_proj.weight``, ``mlp.up_proj.weight`` and ``mlp.down_proj.weight``.

    Raises:
        ValueError: if a name is missing from state, if there is one that is not listed above, or if a tensor does not
            have the shape that the block needs (d_model, n_heads, n_kv_heads or d_ff differ). The block is then what it
            was before.
    """
    ### BEGIN SOLUTION
    places = {
        "norm_1.weight": "input_layernorm.weight",
        "attention.w_q": "self_attn.q_proj.weight",
        "attention.w_k": "self_attn.k_proj.weight",
        "attention.w_v": "self_attn.v_proj.weight",
        "attention.w_o": "self_attn.o_proj.weight",
        "norm_2.weight": "post_attention_layernorm.weight",
        "feed_forward.w_gate": "mlp.gate_proj.weight",
        "feed_forward.w_up": "mlp.up_proj.weight",
        "feed_forward.w_down": "mlp.down_proj.weight",
    }
    if odd := set(state) ^ set(places.values()):
        raise ValueError(f"missing or not known: {sorted(odd)}")
    wanted, found = block.state_dict(), {}
    for ours, theirs in places.items():
        tensor = state[theirs]
        found[ours] = tensor.T if tensor.ndim == 2 else tensor
        if found[ours].shape != wanted[ours].shape:
            raise ValueError(f"{theirs} has the shape {tuple(tensor.shape)}, which does not fit {ours}")
    block.load_state_dict(found)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>The forward pass is two lines. Which value does the second residual addition start from: the block's input, or what the
# first one has made of it? To load, make a dict with your own names and let <code>load_state_dict</code> do the rest.</details>
# <details><summary>A bigger nudge</summary>Write the pairs of names down as a dict, nine lines. Then one loop: look up, turn over if it has two axes, compare
# the shape with that of your own <code>state_dict()</code>. As to the seeds: <code>seed</code> and <code>seed + 1</code> will not do, because
# the next block starts at <code>seed + 1</code>.</details>

# %% test="LlamaBlock" points=3
from coursekit import check

import torch

# One token, so attention hands on its value. Every matrix is the identity, except w_gate: first 0, then 100 on the diagonal.
block = LlamaBlock(LlamaBlockConfig(d_model=2, n_heads=1, n_kv_heads=1, d_ff=2))
one = torch.eye(2)
identity = {f"attention.w_{name}": one for name in "qkvo"}
identity |= {"norm_1.weight": torch.ones(2), "norm_2.weight": torch.ones(2)}
identity |= {"feed_forward.w_up": one, "feed_forward.w_down": one}
block.load_state_dict({**identity, "feed_forward.w_gate": torch.zeros(2, 2)})
token = torch.tensor([[[1.0, 7.0]]])
check.close(block(token), torch.tensor([[[1.2, 8.4]]]), "a closed gate: [1, 7] plus its norm [0.2, 1.4]")
block.load_state_dict({**identity, "feed_forward.w_gate": 100 * one})
# The norm of [1.2, 8.4] is [0.2, 1.4] again; silu(20) and silu(140) are 20 and 140; times [0.2, 1.4] that is [4, 196].
check.close(block(token), torch.tensor([[[5.2, 204.4]]]), "an open gate: [1.2, 8.4] plus [20 * 0.2, 140 * 1.4]")
### BEGIN HIDDEN TESTS
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding


def values(*shape, seed, dtype):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(check.seed(seed)))


def weights(d_model, narrow, d_ff, dtype):
    """Weights under our own names, norms included."""
    shapes = {
        "norm_1.weight": (d_model,),
        "attention.w_q": (d_model, d_model),
        "attention.w_k": (d_model, narrow),
        "attention.w_v": (d_model, narrow),
        "attention.w_o": (d_model, d_model),
        "norm_2.weight": (d_model,),
        "feed_forward.w_gate": (d_model, d_ff),
        "feed_forward.w_up": (d_model, d_ff),
        "feed_forward.w_down": (d_ff, d_model),
    }
    return {
        name: values(*shape, seed=40 + i, dtype=dtype) / (shape[0] ** 0.5 if len(shape) == 2 else 1)
        for i, (name, shape) in enumerate(shapes.items())
    }


theirs = {"norm_1": "input_layernorm", "norm_2": "post_attention_layernorm"}
theirs |= {f"attention.w_{n}": f"self_attn.{n}_proj" for n in "qkvo"}
theirs |= {f"feed_forward.w_{n}": f"mlp.{n}_proj" for n in ("gate", "up", "down")}
cases = [
    (1, 63, 60, 6, 2, 44, 10_000.0, 1e-6, torch.float32),
    (3, 5, 24, 6, 3, 24, 500.0, 1e-2, torch.float64),
    (2, 4, 16, 4, 1, 40, 10_000.0, 1e-5, torch.float64),
    (3, 1, 8, 2, 2, 3, 10_000.0, 0.5, torch.float32),
]
for batch, length, d_model, n_heads, n_kv_heads, d_ff, base, eps, dtype in cases:
    state = weights(d_model, d_model // n_heads * n_kv_heads, d_ff, dtype)
    block = LlamaBlock(LlamaBlockConfig(d_model, n_heads, n_kv_heads, d_ff, base=base, eps=eps))
    block.to(dtype)
    block.load_state_dict(state)
    config = LlamaConfig(
        hidden_size=d_model,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        intermediate_size=d_ff,
        rms_norm_eps=eps,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    config._attn_implementation = "eager"
    layer, rotary = LlamaDecoderLayer(config, 0).to(dtype), LlamaRotaryEmbedding(config)
    places = {ours: f"{theirs[ours.removesuffix('.weight')]}.weight" for ours in state}
    layer.load_state_dict({places[name]: w.T if w.ndim == 2 else w for name, w in state.items()})
    may_not = torch.full((length, length), torch.finfo(dtype).min, dtype=dtype).triu(1)[None, None]

    def wanted(x, positions=None, layer=layer, rotary=rotary, may_not=may_not):
        positions = torch.arange(x.shape[1]) if positions is None else positions
        return layer(x, attention_mask=may_not, position_embeddings=rotary(x, positions[None]))

    x = values(length, batch, d_model, seed=length, dtype=dtype).transpose(0, 1)
    direction = values(batch, length, d_model, seed=5, dtype=dtype)
    case = f"B={batch}, T={length}, d_model={d_model}, {n_heads} and {n_kv_heads} heads, d_ff={d_ff}, eps={eps:g}"
    check.close(block(x), wanted(x).detach(), f"{case}: equal to LlamaDecoderLayer", atol=5e-5)
    if dtype == torch.float64:
        apart = 2 * torch.arange(length) ** 2
        check.close(block(x, apart), wanted(x, apart).detach(), f"{case}, positions 0, 2, 8, ...: equal too", atol=5e-5)
        check.gradients(block, wanted, [x], f"{case}: the gradient for x", atol=5e-5)
        parameters = dict(layer.named_parameters())
        grads = torch.autograd.grad((wanted(x) * direction).sum(), [parameters[places[name]] for name in state])
        found = parameter_gradients(block, x, direction)
        for name, gradient in zip(state, grads, strict=True):
            check.that(found[name] is not None, f"a gradient reaches {name}")
            check.close(found[name], gradient.T if gradient.ndim == 2 else gradient, f"{case}: {name}", atol=5e-5)
### END HIDDEN TESTS

# %% test="LlamaBlock" points=1
from coursekit import check

import torch

block = LlamaBlock(LlamaBlockConfig(d_model=8, n_heads=4, n_kv_heads=2, d_ff=12))
check.equal(
    {name: list(w.shape) for name, w in sorted(block.state_dict().items())},
    {
        "attention.w_k": [8, 4],
        "attention.w_o": [8, 8],
        "attention.w_q": [8, 8],
        "attention.w_v": [8, 4],
        "feed_forward.w_down": [12, 8],
        "feed_forward.w_gate": [8, 12],
        "feed_forward.w_up": [8, 12],
        "norm_1.weight": [8],
        "norm_2.weight": [8],
    },
    "the parameters and their shapes",
)
### BEGIN HIDDEN TESTS
from itertools import combinations

check.equal(
    sorted(name for name, _ in block.named_parameters()),
    sorted(block.state_dict()),
    "nothing is shared: nine parameters for an optimiser",
)


def matrices(seed):
    """All matrices of a block of this seed, by name. The numbers of a matrix are read in the order of its rows."""
    state = LlamaBlock(LlamaBlockConfig(32, 4, 2, 48, seed=seed)).state_dict()
    return {f"{name} of seed {seed}": w.flatten() for name, w in state.items() if w.ndim == 2}


first, again = matrices(1), matrices(1)
for name, w in first.items():
    check.equal(again[name], w, f"equal configs give equal blocks: {name}")
every = {name: w for seed in range(4) for name, w in matrices(seed).items()}
for one, other in combinations(every, 2):
    a, b = (every[name][:512] for name in (one, other))
    correlation = float(torch.corrcoef(torch.stack([a, b]))[0, 1])
    # Independent numbers: below 0.13 in 997 of 1,000 pairs. The same numbers: 1.
    check.that(
        abs(correlation) < 0.5,
        f"{one} and {other} share no random numbers",
        why=f"the first 512 numbers of the two have a correlation of {correlation:.3f}",
        hint="Seeds 0, 1, 2, ... of blocks have to become seeds of parts that never meet.",
    )
### END HIDDEN TESTS

# %% test="LlamaBlock" points=3
from coursekit import check

import torch

layer = {
    "input_layernorm.weight": torch.tensor([1.0, 2.0]),
    "post_attention_layernorm.weight": torch.tensor([3.0, 4.0]),
    "self_attn.q_proj.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "self_attn.k_proj.weight": torch.tensor([[5.0, 6.0], [7.0, 8.0]]),
    "self_attn.v_proj.weight": torch.tensor([[9.0, 10.0], [11.0, 12.0]]),
    "self_attn.o_proj.weight": torch.tensor([[13.0, 14.0], [15.0, 16.0]]),
    "mlp.gate_proj.weight": torch.tensor([[17.0, 18.0], [19.0, 20.0], [21.0, 22.0]]),
    "mlp.up_proj.weight": torch.tensor([[23.0, 24.0], [25.0, 26.0], [27.0, 28.0]]),
    "mlp.down_proj.weight": torch.tensor([[29.0, 30.0, 31.0], [32.0, 33.0, 34.0]]),
}
block = LlamaBlock(LlamaBlockConfig(d_model=2, n_heads=1, n_kv_heads=1, d_ff=3))
load_llama_block(block, layer)
state = block.state_dict()
check.equal(state["attention.w_q"], torch.tensor([[1.0, 3.0], [2.0, 4.0]]), "w_q is q_proj.weight, turned over")
check.equal(state["norm_2.weight"], torch.tensor([3.0, 4.0]), "the second norm")
### BEGIN HIDDEN TESTS
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

for name in ("w_k", "w_v", "w_o"):
    check.equal(
        state[f"attention.{name}"], layer[f"self_attn.{name[2:]}_proj.weight"].T, f"{name} is square, and turned over"
    )
for name in ("w_gate", "w_up", "w_down"):
    check.equal(state[f"feed_forward.{name}"], layer[f"mlp.{name[2:]}_proj.weight"].T, f"{name} is turned over")
check.equal(state["norm_1.weight"], torch.tensor([1.0, 2.0]), "the first norm")
for name in ("mlp.up_proj.weight", "input_layernorm.weight", "self_attn.o_proj.weight"):
    less = {key: value for key, value in layer.items() if key != name}
    check.raises(ValueError, lambda less=less: load_llama_block(block, less), f"{name} is missing")
for name in ("self_attn.q_proj.bias", "mlp.down_proj.bias"):
    more = {**layer, name: torch.zeros(2)}
    check.raises(ValueError, lambda more=more: load_llama_block(block, more), f"{name} has no place in this block")
for name, tensor in layer.items():
    wrong = {**layer, name: torch.cat([tensor, tensor])}
    check.raises(ValueError, lambda wrong=wrong: load_llama_block(block, wrong), f"{name} of another shape")
turned = {**layer, "mlp.up_proj.weight": layer["mlp.up_proj.weight"].T}
check.raises(ValueError, lambda: load_llama_block(block, turned), "a matrix that somebody has turned over already")
row = {**layer, "input_layernorm.weight": torch.ones(1)}
check.raises(ValueError, lambda: load_llama_block(block, row), "one number cannot stand for a weight of two")
doubled = {key: 2 * value for key, value in layer.items()}  # other numbers than the block has by now
before = {key: value.clone() for key, value in block.state_dict().items()}
for name, tensor in layer.items():
    wrong = {**doubled, name: torch.cat([tensor, tensor])}
    check.raises(ValueError, lambda wrong=wrong: load_llama_block(block, wrong), f"{name} of another shape")
    for key, value in block.state_dict().items():
        check.equal(value, before[key], f"{name} of another shape: {key} is what it was before")

for number, (batch, length, d_model, n_heads, n_kv_heads, d_ff) in enumerate(
    ((3, 7, 24, 6, 2, 40), (1, 5, 16, 2, 2, 16))
):
    config = LlamaConfig(
        hidden_size=d_model,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        intermediate_size=d_ff,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    config._attn_implementation = "eager"
    llama, rotary = LlamaDecoderLayer(config, 0), LlamaRotaryEmbedding(config)
    generator = torch.Generator().manual_seed(check.seed(70 + number))
    theirs = {
        name: torch.randn(w.shape, generator=generator) / (w.shape[-1] ** 0.5 if w.ndim == 2 else 1)
        for name, w in llama.state_dict().items()
    }
    llama.load_state_dict(theirs)
    block = LlamaBlock(LlamaBlockConfig(d_model, n_heads, n_kv_heads, d_ff))
    load_llama_block(block, theirs)
    x = torch.randn(batch, length, d_model, generator=generator)
    may_not = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    wanted = llama(x, attention_mask=may_not, position_embeddings=rotary(x, torch.arange(length)[None])).detach()
    case = f"d_model={d_model}, {n_heads} and {n_kv_heads} heads, d_ff={d_ff}"
    check.close(block(x), wanted, f"{case}: the loaded block equals the layer", atol=5e-5)
    for different in (
        LlamaBlockConfig(d_model, n_heads, n_kv_heads, d_ff + 1),
        LlamaBlockConfig(d_model, n_heads, 1, d_ff),
        LlamaBlockConfig(2 * d_model, n_heads, n_kv_heads, d_ff),
    ):
        other = LlamaBlock(different)
        check.raises(
            ValueError, lambda other=other, theirs=theirs: load_llama_block(other, theirs), f"{case}: another block"
        )
### END HIDDEN TESTS


# %% alternative="LlamaBlock"
class LlamaBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        seeds = torch.randint(2**31, (2,), generator=torch.Generator().manual_seed(config.seed + 1_000)).tolist()
        self.feed_forward = SwiGLU(config.d_model, config.d_ff, seeds[0])
        self.attention = GroupedQueryAttention(config.d_model, config.n_heads, config.n_kv_heads, config.base, seeds[1])
        self.norm_1, self.norm_2 = (RMSNorm(config.d_model, eps=config.eps) for _ in "12")

    def forward(self, x, positions=None):
        after = self.attention(self.norm_1(x), positions).add(x)
        print("half way")
        return torch.stack([after, self.feed_forward(self.norm_2(after))]).sum(0)


@torch.no_grad()
def load_llama_block(block, state):
    norms = {"input_layernorm.weight": block.norm_1, "post_attention_layernorm.weight": block.norm_2}
    pairs = {name: norm.weight for name, norm in norms.items()}
    for letter in "qkvo":
        pairs[f"self_attn.{letter}_proj.weight"] = getattr(block.attention, f"w_{letter}")
    for word in ("gate", "up", "down"):
        pairs[f"mlp.{word}_proj.weight"] = getattr(block.feed_forward, f"w_{word}")
    if sorted(pairs) != sorted(state):
        raise ValueError("names")
    values = {name: value.permute(*reversed(range(value.ndim))) for name, value in state.items()}
    if any(values[name].shape != parameter.shape for name, parameter in pairs.items()):
        raise ValueError("shapes")
    for name, parameter in pairs.items():
        parameter.copy_(values[name])


# %% mistakes="LlamaBlock"
{
    "the norms come after the additions, as in the first Transformer (post-norm)": [
        (
            "x = x + self.attention(self.norm_1(x), positions)",
            "x = self.norm_1(x + self.attention(x, positions))",
        ),
        ("return x + self.feed_forward(self.norm_2(x))", "return self.norm_2(x + self.feed_forward(x))"),
    ],
    "each norm is applied to the output of its part, and not to the input": [
        (
            "x = x + self.attention(self.norm_1(x), positions)",
            "x = x + self.norm_1(self.attention(x, positions))",
        ),
        ("return x + self.feed_forward(self.norm_2(x))", "return x + self.norm_2(self.feed_forward(x))"),
    ],
    "the residual carries the normalised token and not the token itself": [
        (
            "x = x + self.attention(self.norm_1(x), positions)",
            "x = self.norm_1(x); x = x + self.attention(x, positions)",
        ),
        ("return x + self.feed_forward(self.norm_2(x))", "x = self.norm_2(x); return x + self.feed_forward(x)"),
    ],
    "one norm serves both places, in the weights too": (
        "self.norm_2 = RMSNorm(config.d_model, config.eps)",
        "self.norm_2 = self.norm_1",
    ),
    "the first norm is used in both places": ("self.norm_2(x)", "self.norm_1(x)"),
    "the two norms have changed places": [
        ("self.norm_1(x)", "self.norm_0(x)"),
        ("self.norm_2(x)", "self.norm_1(x)"),
        ("self.norm_0(x)", "self.norm_2(x)"),
    ],
    "the second residual addition is missing": (
        "return x + self.feed_forward(self.norm_2(x))",
        "return self.feed_forward(self.norm_2(x))",
    ),
    "the first residual addition is missing": (
        "x = x + self.attention(self.norm_1(x), positions)",
        "x = self.attention(self.norm_1(x), positions)",
    ),
    "the second residual addition starts from the block's input and skips the attention": [
        ("x = x + self.attention(self.norm_1(x), positions)", "y = x + self.attention(self.norm_1(x), positions)"),
        ("return x + self.feed_forward(self.norm_2(x))", "return x + self.feed_forward(self.norm_2(y))"),
    ],
    "attention and feed-forward run side by side on the block's input, as in GPT-J": [
        ("x = x + self.attention(self.norm_1(x), positions)", "y = x + self.attention(self.norm_1(x), positions)"),
        ("return x + self.feed_forward(self.norm_2(x))", "return y + self.feed_forward(self.norm_2(x))"),
    ],
    "the feed-forward network gets the token without a norm": (
        "self.feed_forward(self.norm_2(x))",
        "self.feed_forward(x)",
    ),
    "the feed-forward network comes before the attention": [
        ("x = x + self.attention(self.norm_1(x), positions)", "x = x + self.feed_forward(self.norm_2(x))"),
        ("return x + self.feed_forward(self.norm_2(x))", "return x + self.attention(self.norm_1(x), positions)"),
    ],
    "eps is not passed on to the norms": ("RMSNorm(config.d_model, config.eps)", "RMSNorm(config.d_model)", "all"),
    "eps is passed on to the first norm only": (
        "self.norm_2 = RMSNorm(config.d_model, config.eps)",
        "self.norm_2 = RMSNorm(config.d_model)",
    ),
    "the base is not passed on to the attention": (
        "config.n_kv_heads, config.base, seed=even",
        "config.n_kv_heads, seed=even",
    ),
    "n_kv_heads is not passed on: every query head has keys and values of its own": (
        "config.n_kv_heads, config.base",
        "config.n_heads, config.base",
    ),
    "the positions are not passed on to the attention": ("self.norm_1(x), positions)", "self.norm_1(x))"),
    "attention and feed-forward are drawn from the same seed, so w_gate begins with the numbers of w_q": (
        "seed=odd",
        "seed=even",
    ),
    "the seeds are seed and seed + 1, so a block's feed-forward begins with the numbers of the next block's attention": (
        "even, odd = 2 * config.seed, 2 * config.seed + 1",
        "even, odd = config.seed, config.seed + 1",
    ),
    "the seed is ignored, so all blocks of a model begin equal": (
        "even, odd = 2 * config.seed, 2 * config.seed + 1",
        "even, odd = 0, 1",
    ),
    "no matrix is turned over when it is loaded": ("tensor.T if tensor.ndim == 2 else tensor", "tensor"),
    "only the matrices that would not fit otherwise are turned over, and square ones always fit": (
        "tensor.T if tensor.ndim == 2 else tensor",
        "tensor.T if tensor.shape != wanted[ours].shape else tensor",
    ),
    "gate and up have changed places: the activation is on the wrong one": [
        ('"feed_forward.w_gate": "mlp.gate_proj.weight"', '"feed_forward.w_gate": "mlp.up_proj.weight"'),
        ('"feed_forward.w_up": "mlp.up_proj.weight"', '"feed_forward.w_up": "mlp.gate_proj.weight"'),
    ],
    "the keys and the values have changed places when they are loaded": [
        ('"attention.w_k": "self_attn.k_proj.weight"', '"attention.w_k": "self_attn.v_proj.weight"'),
        ('"attention.w_v": "self_attn.v_proj.weight"', '"attention.w_v": "self_attn.k_proj.weight"'),
    ],
    "the two norms are loaded into each other's places": [
        ('"norm_1.weight": "input_layernorm.weight"', '"norm_1.weight": "post_attention_layernorm.weight"'),
        ('"norm_2.weight": "post_attention_layernorm.weight"', '"norm_2.weight": "input_layernorm.weight"'),
    ],
    "the norms are never loaded and stay at one": (
        "    block.load_state_dict(found)",
        '    block.load_state_dict({name: w for name, w in found.items() if "norm" not in name}, strict=False)',
    ),
    "nothing is loaded: the dict is made and not used": ("    block.load_state_dict(found)\n", ""),
    "a tensor that is left over is ignored without a word": (
        "if odd := set(state) ^ set(places.values()):",
        "if odd := set(places.values()) - set(state):",
    ),
    "a tensor that is missing raises KeyError and not ValueError": (
        "if odd := set(state) ^ set(places.values()):",
        "if odd := set(state) - set(places.values()):",
    ),
    "a tensor of another shape is left to load_state_dict, which raises RuntimeError": (
        "if found[ours].shape != wanted[ours].shape:",
        "if False:",
    ),
    "each tensor is written before the next is compared, so an error leaves the block half loaded": [
        ('which does not fit {ours}")\n', 'which does not fit {ours}")\n        wanted[ours].copy_(found[ours])\n'),
        ("    block.load_state_dict(found)\n", ""),
    ],
    "the number of numbers is compared and not the shape": (
        "if found[ours].shape != wanted[ours].shape:",
        "if found[ours].numel() != wanted[ours].numel():",
    ),
}

# %% equivalent="LlamaBlock"
{
    "2 * config.seed + 1 -> 2 * config.seed - 1": "still odd numbers, one for each seed, so no two parts meet",
}

# %% [markdown]
# ## Exercise 5 · `block_parameters`, `matched_d_ff` and `cache_bytes`
#
# Two recipes can be compared only if neither has more parameters than the other. So count. A Llama block has no biases and
# fewer keys and values, but three feed-forward matrices in place of two. How wide may they be for the same total as a
# GPT-2 block of the same `d_model`? Then count what sharing heads is for: the bytes of the cache.
#
# A worked case: a GPT-2 block with `d_model` 8 has $4 \cdot (64 + 8)$ parameters in its attention, $2 \cdot 8 \cdot 32 + 32 + 8$ in
# its feed-forward network and $4 \cdot 8$ in its norms, together 872. A Llama block with 4 query heads and 2 key-value
# heads spends $64 + 32 + 32 + 64$ on attention and 16 on norms. That leaves 664, enough for
# 27 features at 24 parameters each.
#
# *Difficulty 2 of 5 · 15 minutes · 3 points*


# %% exercise="matched_d_ff" difficulty=2 minutes=15 forbid=["numel", "parameters", "Linear", "transformers"]
def block_parameters(d_model: int, n_heads: int, n_kv_heads: int, d_ff: int) -> dict[str, int]:
    """How many numbers each part of a `LlamaBlock` has to learn.

    Args:
        d_model, n_heads, n_kv_heads, d_ff: as in `LlamaBlockConfig`; they fit each other, and nothing is checked.

    Returns:
        A dict with the keys "norms" (both together), "attention" and "feed_forward", whole numbers.
    """
    ### BEGIN SOLUTION
    narrow = d_model // n_heads * n_kv_heads  # columns of w_k and of w_v
    return {
        "norms": 2 * d_model,
        "attention": 2 * d_model * d_model + 2 * d_model * narrow,
        "feed_forward": 3 * d_model * d_ff,
    }
    ### END SOLUTION


def matched_d_ff(d_model: int, n_heads: int, n_kv_heads: int, multiple_of: int = 1) -> int:
    """The largest d_ff for which a Llama block has at most as many parameters as a GPT-2 block of the same d_model.

    The GPT-2 block has two LayerNorms with weight and bias, attention with four (d_model, d_model) matrices and four
    biases, and a feed-forward network with 4 * d_model hidden features and biases in both layers.

    Args:
        d_model, n_heads, n_kv_heads: as in `LlamaBlockConfig`; they fit each other, and nothing is checked.
        multiple_of: the result is a multiple of this number (hardware likes those of 64, 128 or 256).

    Raises:
        ValueError: if not even ``multiple_of`` itself is small enough.
    """
    ### BEGIN SOLUTION
    budget = 4 * (d_model * d_model + d_model) + (8 * d_model * d_model + 5 * d_model) + 4 * d_model
    fixed = sum(block_parameters(d_model, n_heads, n_kv_heads, 0).values())  # norms and attention
    left = budget - fixed
    d_ff = left // (3 * d_model) // multiple_of * multiple_of
    if d_ff == 0:
        raise ValueError(f"the budget allows less than multiple_of={multiple_of} hidden features")
    return d_ff
    ### END SOLUTION


def cache_bytes(n_layers: int, n_kv_heads: int, d_k: int, length: int, bytes_per_number: int = 2) -> int:
    """The bytes that hold the keys and the values of one sequence of ``length`` tokens, in all layers.

    Args:
        n_layers, n_kv_heads, d_k: of the model; d_k is the width of a head.
        length: tokens seen so far.
        bytes_per_number: 2 for float16 and bfloat16, 4 for float32.
    """
    ### BEGIN SOLUTION
    numbers = 2 * n_layers * n_kv_heads * d_k * length  # keys and values
    return numbers * bytes_per_number
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write the nine shapes of Exercise 4 down once more, now as products. For the width: what is left of the budget
# when attention and norms are paid, and what does one more hidden feature cost?</details>
# <details><summary>A bigger nudge</summary>A hidden feature costs a column of <code>w_gate</code>, a column of <code>w_up</code> and a row of
# <code>w_down</code>. Divide rounding down; then round down to the multiple.</details>

# %% test="matched_d_ff" points=2
from coursekit import check

check.equal(
    block_parameters(8, 4, 2, 27), {"norms": 16, "attention": 192, "feed_forward": 648}, "the block of the worked case"
)
check.equal(matched_d_ff(16, 4, 1), 54, "16 features, 4 query heads, 1 key-value head: 2,608 are left, at 48 each")
check.equal(matched_d_ff(8, 4, 2), 27, "the worked case: 664 parameters are left, at 24 each")
check.equal(matched_d_ff(8, 4, 2, multiple_of=8), 24, "the worked case, rounded to a multiple of 8")
### BEGIN HIDDEN TESTS
import torch
from transformers import GPT2Config, LlamaConfig
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


def counted(d_model, n_heads, n_kv_heads, d_ff):
    """The parameters of a LlamaDecoderLayer, by part."""
    config = LlamaConfig(
        hidden_size=d_model, num_attention_heads=n_heads, num_key_value_heads=n_kv_heads, intermediate_size=d_ff
    )
    with torch.device("meta"):
        layer = LlamaDecoderLayer(config, 0)
    parts = {"norms": "layernorm", "attention": "self_attn", "feed_forward": "mlp"}
    return {
        part: sum(p.numel() for name, p in layer.named_parameters() if word in name) for part, word in parts.items()
    }


for sizes in ((60, 6, 2, 44), (4096, 32, 8, 14336), (16, 2, 2, 7), (24, 12, 1, 1)):
    check.equal(block_parameters(*sizes), counted(*sizes), f"d_model, n_heads, n_kv_heads, d_ff = {sizes}")
for d_model, n_heads, n_kv_heads in ((60, 6, 2), (768, 12, 12), (768, 12, 4), (768, 12, 1), (10, 5, 1), (2, 1, 1)):
    with torch.device("meta"):
        gpt2 = GPT2Block(GPT2Config(n_embd=d_model, n_head=n_heads), layer_idx=0)
    budget = sum(p.numel() for p in gpt2.parameters())
    one, two = (sum(counted(d_model, n_heads, n_kv_heads, d_ff).values()) for d_ff in (1, 2))

    def cost(d_ff, one=one, two=two):  # the layer grows evenly with d_ff
        return one + (d_ff - 1) * (two - one)

    for multiple_of in (1, 3, 4, 64, 256):
        case = f"d_model={d_model}, {n_heads} and {n_kv_heads} heads, multiples of {multiple_of}"
        if cost(multiple_of) > budget:
            check.raises(
                ValueError,
                lambda a=(d_model, n_heads, n_kv_heads, multiple_of): matched_d_ff(*a),
                f"{case}: not even one fits",
            )
            continue
        width = matched_d_ff(d_model, n_heads, n_kv_heads, multiple_of)
        check.equal(width % multiple_of, 0, f"{case}: what is left when {width} is divided by {multiple_of}")
        fits = [cost(width) <= budget, cost(width + multiple_of) <= budget]
        check.equal(
            fits, [True, False], f"{case}: {width} fits the budget of {budget:,}, and the next multiple does not"
        )
### END HIDDEN TESTS

# %% test="matched_d_ff" points=1
from coursekit import check

check.equal(
    [cache_bytes(1, 1, 3, 1), cache_bytes(1, 1, 3, 1, bytes_per_number=4)],
    [12, 24],
    "one layer, one head of 3 features, one token: a key and a value, in 16 bits and in 32",
)
### BEGIN HIDDEN TESTS
import torch
from transformers import DynamicCache, LlamaConfig, LlamaModel

for n_layers, n_heads, n_kv_heads, d_k, length in ((3, 4, 2, 6, 5), (1, 2, 1, 4, 7), (2, 3, 3, 2, 1)):
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=n_heads * d_k,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        num_hidden_layers=n_layers,
        intermediate_size=8,
    )
    cache = DynamicCache(config=config)
    with torch.no_grad():
        LlamaModel(config)(torch.zeros(1, length, dtype=torch.long), past_key_values=cache, use_cache=True)
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    for size in (2, 4):
        check.equal(
            cache_bytes(n_layers, n_kv_heads, d_k, length, size),
            numbers * size,
            f"{n_layers} layers, {n_kv_heads} of {n_heads} heads of {d_k}, {length} tokens, {size} bytes: as transformers keeps them",
        )
check.equal(cache_bytes(32, 8, 128, 8_192), 2**30, "Mistral 7B with 8,192 tokens: one gibibyte")
### END HIDDEN TESTS


# %% alternative="matched_d_ff"
def block_parameters(d_model, n_heads, n_kv_heads, d_ff):
    import math

    d_k = d_model // n_heads
    attention = [(d_model, n_heads * d_k), (d_model, n_kv_heads * d_k), (d_model, n_kv_heads * d_k), (d_model, d_model)]
    shapes = {
        "feed_forward": [(d_model, d_ff), (d_model, d_ff), (d_ff, d_model)],
        "attention": attention,
        "norms": [(d_model,)] * 2,
    }
    return {part: sum(math.prod(shape) for shape in own) for part, own in shapes.items()}


def matched_d_ff(d_model, n_heads, n_kv_heads, multiple_of=1):
    width = 0
    while sum(block_parameters(d_model, n_heads, n_kv_heads, width + multiple_of).values()) <= d_model * (
        12 * d_model + 13
    ):
        width += multiple_of
    if width == 0:
        raise ValueError("too coarse")
    return width


def cache_bytes(n_layers, n_kv_heads, d_k, length, bytes_per_number=2):
    return sum(n_kv_heads * d_k * bytes_per_number for _ in range(length) for _ in range(n_layers) for _ in "kv")


# %% mistakes="matched_d_ff"
{
    "w_k and w_v are counted at full width, as if no heads were shared": (
        "narrow = d_model // n_heads * n_kv_heads",
        "narrow = d_model",
    ),
    "all four attention matrices are counted at the width of the key-value heads": (
        "2 * d_model * d_model + 2 * d_model * narrow",
        "4 * d_model * narrow",
    ),
    "a key-value head is counted as a single feature": ("d_model // n_heads * n_kv_heads", "n_kv_heads"),
    "the feed-forward network is counted with two matrices, and SwiGLU has three": [
        ('"feed_forward": 3 * d_model', '"feed_forward": 2 * d_model'),
        ("left // (3 * d_model)", "left // (2 * d_model)"),
    ],
    "the width is computed as if a hidden feature cost two vectors, and it costs three": (
        "left // (3 * d_model)",
        "left // (2 * d_model)",
    ),
    "only one of the two norms is counted": ('"norms": 2 * d_model', '"norms": d_model'),
    "the norms of the Llama block are counted with biases": ('"norms": 2 * d_model', '"norms": 4 * d_model'),
    "the 8/3 rule is applied, which knows nothing of shared heads": (
        "left // (3 * d_model) //",
        "8 * d_model // 3 //",
    ),
    "the biases of GPT-2 are left out of the budget": (
        "4 * (d_model * d_model + d_model) + (8 * d_model * d_model + 5 * d_model) + 4 * d_model",
        "12 * d_model * d_model + 2 * d_model",
    ),
    "the biases of GPT-2's norms are left out of the budget": ("+ 4 * d_model\n", "+ 2 * d_model\n"),
    "the norms are not taken off the budget": ("left = budget - fixed", "left = budget - fixed + 2 * d_model"),
    "the width is rounded up to the next multiple, and is over the budget": (
        "// multiple_of * multiple_of",
        "// -multiple_of * -multiple_of",
    ),
    "the width is rounded to the nearest multiple, so it may be over the budget": (
        "left // (3 * d_model) // multiple_of * multiple_of",
        "round(left / (3 * d_model) / multiple_of) * multiple_of",
    ),
    "multiple_of is ignored": ("left // (3 * d_model) // multiple_of * multiple_of", "left // (3 * d_model)"),
    "a width of 0 is returned where the budget is too small": ("if d_ff == 0:", "if d_ff < 0:"),
    "a block that costs exactly the budget is refused": ("left // (3 * d_model)", "(left - 1) // (3 * d_model)"),
    "only the keys are counted in the cache": (
        "numbers = 2 * n_layers * n_kv_heads",
        "numbers = n_layers * n_kv_heads",
    ),
    "only one layer is counted in the cache": ("2 * n_layers * n_kv_heads", "2 * n_kv_heads"),
    "all key-value heads are counted as one": ("2 * n_layers * n_kv_heads", "2 * n_layers"),
    "the size of a number is always 2 bytes": ("return numbers * bytes_per_number", "return numbers * 2"),
    "numbers are returned and not bytes": ("return numbers * bytes_per_number", "return numbers"),
    "a cached number takes 4 bytes where nothing is said": ("bytes_per_number: int = 2", "bytes_per_number: int = 4"),
}

# %% [markdown]
# ## Look at it
#
# Now the two recipes side by side. One model is made of your GPT-2 blocks from Lab 2.4, with learned positions; the
# other of your Llama blocks, as wide, as deep, and with as many parameters in each block. Both read the same
# characters of Shakespeare in the same order, with the same optimiser and the same learning rate. They take turns,
# one step each, so that a busy machine disturbs both alike; the clock counts processor time. It takes about ten seconds.

# %%
import time

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import data, plots

torch.set_num_threads(1)
Block, BlockConfig = carry("ch02/lab04", "Block"), carry("ch02/lab04", "BlockConfig")
D_MODEL, N_HEADS, N_KV_HEADS, N_LAYERS, CONTEXT, BATCH, STEPS, PEAK = 64, 4, 2, 2, 64, 12, 200, 4e-3

text = data.tiny_shakespeare()
number = {symbol: i for i, symbol in enumerate(sorted(set(text)))}
ids = torch.tensor([number[symbol] for symbol in text])
train, held_out = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
probe = held_out[: 64 * (CONTEXT + 1)].view(64, CONTEXT + 1)  # what both are tested on


class TinyModel(nn.Module):
    """Characters in, scores for the next character out; the embedding table is the head too."""

    def __init__(self, blocks, final_norm, learned_positions, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(1_000 + seed)
        self.embedding = nn.Parameter(0.02 * torch.randn(len(number), D_MODEL, generator=generator))
        if learned_positions:
            self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, D_MODEL, generator=generator))
        self.blocks, self.final_norm = nn.ModuleList(blocks), final_norm

    def forward(self, ids):
        x = nn.functional.embedding(ids, self.embedding)
        if hasattr(self, "positions"):
            x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x) @ self.embedding.T

    def loss(self, rows):
        return nn.functional.cross_entropy(self(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def gpt2(seed):
    blocks = [Block(BlockConfig(D_MODEL, N_HEADS, 4 * D_MODEL, seed=10 * seed + i)) for i in range(N_LAYERS)]
    return TinyModel(blocks, nn.LayerNorm(D_MODEL), True, seed)


def llama(seed):
    d_ff = matched_d_ff(D_MODEL, N_HEADS, N_KV_HEADS)
    sizes = D_MODEL, N_HEADS, N_KV_HEADS, d_ff
    blocks = [LlamaBlock(LlamaBlockConfig(*sizes, seed=10 * seed + i)) for i in range(N_LAYERS)]
    return TinyModel(blocks, RMSNorm(D_MODEL), False, seed)


def side_by_side(seed):
    models = {"GPT-2's recipe": gpt2(seed), "Llama's recipe": llama(seed)}
    settings = {"lr": PEAK, "betas": (0.9, 0.99), "weight_decay": 0.1}
    optimisers = {name: torch.optim.AdamW(model.parameters(), **settings) for name, model in models.items()}
    spent, curves = dict.fromkeys(models, 0.0), {name: [] for name in models}
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS + 1):
        if step % 25 == 0:
            with torch.no_grad():
                for name, model in models.items():
                    curves[name].append((step, spent[name], float(model.loss(probe))))
        starts = torch.randint(len(train) - CONTEXT, (BATCH,), generator=generator)
        rows = train[starts[:, None] + torch.arange(CONTEXT + 1)]
        rate = PEAK * min((step + 1) / 25, 0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        for name, model in models.items():
            begin = time.thread_time()
            optimisers[name].param_groups[0]["lr"] = rate
            loss = model.loss(rows)
            optimisers[name].zero_grad()
            loss.backward()
            optimisers[name].step()
            spent[name] += time.thread_time() - begin
    return models, curves


models, curves = side_by_side(seed=0)
figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05)
for colour, (name, curve) in zip(plots.COLOURS, curves.items(), strict=False):
    steps, seconds, losses = zip(*curve, strict=True)
    for panel, x in enumerate((steps, seconds), start=1):
        figure.add_scatter(
            x=x[1:],
            y=losses[1:],
            name=name,
            mode="lines",
            line={"color": colour, "width": 3},
            legendgroup=name,
            showlegend=panel == 1,
            customdata=list(zip(steps[1:], seconds[1:], strict=True)),
            hovertemplate=f"{name}<br>step %{{customdata[0]}}, %{{customdata[1]:.1f}} s<br>loss %{{y:.3f}}<extra></extra>",
            row=1,
            col=panel,
        )
    size = sum(parameter.numel() for parameter in models[name].parameters())
    in_blocks = sum(parameter.numel() for parameter in models[name].blocks.parameters())
    print(
        f"{name}: {size:,} parameters, {in_blocks:,} of them in blocks; {1e3 * seconds[-1] / STEPS:.1f} ms a step; "
        f"loss on held-out text {losses[-1]:.3f}"
    )
figure.update_xaxes(title_text="steps", row=1, col=1)
figure.update_xaxes(title_text="seconds", row=1, col=2)
figure.update_yaxes(title_text="loss on held-out text", row=1, col=1)
figure.update_layout(height=400, legend={"orientation": "h", "y": -0.25})
figure.show()
kept = [cache_bytes(N_LAYERS, heads, D_MODEL // N_HEADS, CONTEXT) for heads in (N_HEADS, N_KV_HEADS)]
print(
    f"cache for {CONTEXT} tokens in 16 bits: {kept[0]:,} bytes with a key-value head for each query head, {kept[1]:,} as built"
)

# %% [markdown]
# Read the left panel first: which recipe learns more from the same text? The right one charges each recipe for its own
# time, on this machine and with this code: a step is not the same work in both, although the parameters are as many. Does that change your answer? Which parts of
# your code take the time? (PyTorch has fast code of its own for some of these parts; yours is written to be read.)
#
# One seed proves little. Run the cell again with `side_by_side(seed=1)`. Is the gap between the recipes larger than the gap
# between the seeds? And several parts were exchanged at once, so the figure cannot say which of them made the
# difference. Before you look at [the page](../../book/ch02_block/modern_recipe.md), where each part is exchanged alone and
# with three seeds, make a guess. Then test it here: `llama` and `gpt2` are two short functions.
#
# What this small trial cannot show: what happens after a thousand times as many steps, or in a model that is a thousand
# times as large. The recipes are published for those.
#
# ## Common mistakes
#
# - **Heads shared in turn.** `x.repeat(1, 2, 1, 1)` gives `a, b, a, b`, `repeat_interleave` gives `a, a, b, b`. Both
#   train equally well. Only one of them can read the weights of Llama.
# - **Square matrices that were not turned over.** `q_proj` and `o_proj` are square, so forgetting `.T` raises no error.
#   The model writes nonsense, in perfect English letters. Test what you load against the original, with numbers.
# - **Rotation before the split.** The vector that is rotated is then `d_model` long. The two features of a rotated pair
#   lie in different heads, and each head gets only a narrow range of speeds.
# - **Two ways to pair features.** Meta's own files of Llama pair neighbours, (0, 1), (2, 3) and so on; those of
#   `transformers` pair feature `i` with `i + d_k / 2`, and their columns are permuted to suit. Lab 2.2 has the permutation.
#   Mix the two up and every score between different positions is wrong.
# - **Rounding in another place.** Multiply by `weight` before you round, and a bfloat16 model differs in the last bit of
#   many numbers. Nobody will notice, until two implementations are to be compared.
# - **Heads repeated before they are cached.** The results are right, and the cache is as large as ever. Keep the `G` heads;
#   repeat them when they are used.
# - **Another eps.** The 7B model of the first Llama has 1e-6, that of Llama 2 has 1e-5. The difference matters for tokens
#   whose features are small.
# - **Seeds that meet.** With `seed` for one part and `seed + 1` for the next, in blocks numbered 0, 1, 2, a part of each
#   block starts as a copy of a part of the next.
#
# ## Going further
#
# - **From many heads to few.** Take trained attention with as many key-value heads as query heads, replace each group by
#   its mean (the columns of `w_k` and `w_v`), and train on for a little. How much of the loss comes back, and how
#   quickly? (Joshua Ainslie and others, GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints, 2023.)
# - **A norm that commutes with rotations.** With all weights 1, `norm(x @ r)` equals `norm(x) @ r` for every orthogonal
#   matrix `r`. So the features of a whole model can be rotated without changing its outputs, after its norms' weights have
#   been multiplied into the matrices behind them. Show it for your block. Why does it fail for LayerNorm? (Saleh Ashkboos and others, SliceGPT:
#   Compress Large Language Models by Deleting Rows and Columns, 2024.)
# - **Norms inside the attention.** Apply an `RMSNorm` of size `d_k` to the queries and to the keys of every head, before
#   the rotation. Several models that came after Llama do so. How large can a score become then? (Alex Henry and others, Query-Key
#   Normalization for Transformers, 2020.)
