"""Modern blocks: the reference. Generated from source_solutions/ch02_block/lab05_modern_blocks.py by `course build`; do not edit."""

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

# %% given
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

# %% exercise="RMSNorm"
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
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

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
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean_square = wide.square().mean(dim=-1, keepdim=True)  # (..., 1)
        quotient = wide / torch.sqrt(mean_square + self.eps)  # (..., d_model)
        return quotient.to(x.dtype) * self.weight

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

# %% exercise="share_heads"
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
    n_kv_heads = x.shape[1]
    if n_heads < 1 or n_heads % n_kv_heads != 0:
        raise ValueError(f"n_heads must be a positive multiple of the {n_kv_heads} key-value heads, got {n_heads}")
    return x.repeat_interleave(n_heads // n_kv_heads, dim=1)  # (B, H, T, d_k)

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

# %% exercise="GroupedQueryAttention"
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

# %% exercise="LlamaBlock"
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
        even, odd = 2 * config.seed, 2 * config.seed + 1  # no other block has either of them
        self.norm_1 = RMSNorm(config.d_model, config.eps)
        self.attention = GroupedQueryAttention(
            config.d_model, config.n_heads, config.n_kv_heads, config.base, seed=even
        )
        self.norm_2 = RMSNorm(config.d_model, config.eps)
        self.feed_forward = SwiGLU(config.d_model, config.d_ff, seed=odd)

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """One block further.

        Args:
            x: (B, T, d_model), of the parameters' dtype.
            positions: as in `GroupedQueryAttention.forward`.

        Returns:
            Tensor (B, T, d_model) of x's dtype.
        """
        x = x + self.attention(self.norm_1(x), positions)
        return x + self.feed_forward(self.norm_2(x))


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

# %% exercise="matched_d_ff"
def block_parameters(d_model: int, n_heads: int, n_kv_heads: int, d_ff: int) -> dict[str, int]:
    """How many numbers each part of a `LlamaBlock` has to learn.

    Args:
        d_model, n_heads, n_kv_heads, d_ff: as in `LlamaBlockConfig`; they fit each other, and nothing is checked.

    Returns:
        A dict with the keys "norms" (both together), "attention" and "feed_forward", whole numbers.
    """
    narrow = d_model // n_heads * n_kv_heads  # columns of w_k and of w_v
    return {
        "norms": 2 * d_model,
        "attention": 2 * d_model * d_model + 2 * d_model * narrow,
        "feed_forward": 3 * d_model * d_ff,
    }


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
    budget = 4 * (d_model * d_model + d_model) + (8 * d_model * d_model + 5 * d_model) + 4 * d_model
    fixed = sum(block_parameters(d_model, n_heads, n_kv_heads, 0).values())  # norms and attention
    left = budget - fixed
    d_ff = left // (3 * d_model) // multiple_of * multiple_of
    if d_ff == 0:
        raise ValueError(f"the budget allows less than multiple_of={multiple_of} hidden features")
    return d_ff


def cache_bytes(n_layers: int, n_kv_heads: int, d_k: int, length: int, bytes_per_number: int = 2) -> int:
    """The bytes that hold the keys and the values of one sequence of ``length`` tokens, in all layers.

    Args:
        n_layers, n_kv_heads, d_k: of the model; d_k is the width of a head.
        length: tokens seen so far.
        bytes_per_number: 2 for float16 and bfloat16, 4 for float32.
    """
    numbers = 2 * n_layers * n_kv_heads * d_k * length  # keys and values
    return numbers * bytes_per_number

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
