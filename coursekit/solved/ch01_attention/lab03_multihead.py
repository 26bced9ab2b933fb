"""Multi-head attention: the reference. Generated from source_solutions/ch01_attention/lab03_multihead.py by `course build`; do not edit."""

# %% given
import math

import torch
from torch import nn

from coursekit import carry

# attention(q, k, v, mask=None) -> (output, weights); True in the mask means: may attend
attention = carry("ch01/lab01", "attention")

# %% exercise="split_heads"
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
    batch, length, d_model = x.shape
    if n_heads < 1 or d_model % n_heads != 0:
        raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
    blocks = x.reshape(batch, length, n_heads, d_model // n_heads)  # (B, T, H, d_k)
    return blocks.transpose(1, 2)  # (B, H, T, d_k)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """Put the heads side by side again: the inverse of `split_heads`.

    Args:
        x: tensor of shape (B, H, T, d_k), any dtype, contiguous or not.

    Returns:
        Tensor of shape (B, T, H * d_k) and x's dtype: for every token head 0's features, then head 1's, and so on.
    """
    batch, n_heads, length, d_k = x.shape
    side_by_side = x.transpose(1, 2)  # (B, T, H, d_k)
    return side_by_side.reshape(batch, length, n_heads * d_k)  # (B, T, d_model)

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

# %% exercise="MultiHeadAttention"
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

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` in self-attention for every parameter, by name."""
        loss = (self(x)[0] * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
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

# %% exercise="count_parameters"
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


def single_head_width(d_model: int, budget: int, bias: bool = False) -> int:
    """The largest d_k for which an attention with one head of that width has at most ``budget`` parameters.

    Args:
        d_model, bias: as in `count_parameters`.
        budget: how many parameters there may be. The head may well be wider than d_model.

    Raises:
        ValueError: if the budget does not suffice for d_k = 1.
    """
    fixed = d_model if bias else 0  # the bias of the output
    each = 4 * d_model + (3 if bias else 0)  # what one more feature of the head costs
    width = (budget - fixed) // each
    if width < 1:
        raise ValueError(f"a head of width 1 has {fixed + each} parameters, the budget is {budget}")
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

# %% exercise="ablate_head"
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

# %% exercise="head_importance"
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
    whole = (mha(x, mask=mask)[0] - target).square().mean()
    without = [(ablate_head(mha, x, h, mask, baseline) - target).square().mean() for h in range(mha.n_heads)]
    return torch.stack(without) - whole  # (H,)

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
