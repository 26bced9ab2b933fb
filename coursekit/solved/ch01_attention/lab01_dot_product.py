"""The dot product that looks things up: the reference. Generated from source_solutions/ch01_attention/lab01_dot_product.py by `course build`; do not edit."""

# %% given
import math

import torch

# %% exercise="attention_scores"
def attention_scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The dot product of every query with every key, divided by the square root of d_k.

    Args:
        q: queries, float tensor of shape (..., T_q, d_k).
        k: keys, float tensor of shape (..., T_k, d_k). The leading axes of q and k broadcast, as in ``@``.

    Returns:
        Scores of shape (..., T_q, T_k) and q's dtype: a row for each query, a column for each key.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.1.
    """
    d_k = q.shape[-1]
    return q @ k.transpose(-2, -1) / math.sqrt(d_k)  # (..., T_q, d_k) @ (..., d_k, T_k) -> (..., T_q, T_k)

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

# %% exercise="softmax"
def softmax(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Shares along one axis: ``exp(x)`` divided by its sum, computed so that nothing overflows.

    Args:
        x: float tensor of any shape with at least one axis. Entries are finite or -inf; the axis is not empty.
        dim: the axis along which the shares sum to one.

    Returns:
        Tensor of x's shape and dtype. A slice along ``dim`` sums to one, and adding a constant to it changes nothing.
        An entry of -inf gets exactly 0. A slice of nothing but -inf gets zeros, and gradients of zero: no NaN anywhere.
    """
    # Subtracting the largest entry changes no share, and no exponent is above 0. Where the largest is -inf itself,
    # -inf - (-inf) would be NaN: the lowest finite number does the same job there.
    largest = x.amax(dim=dim, keepdim=True).clamp(min=torch.finfo(x.dtype).min)
    exponentials = torch.exp(x - largest)
    # The largest entry contributes exp(0) = 1, so only a slice of nothing but -inf has a sum below 1.
    return exponentials / exponentials.sum(dim=dim, keepdim=True).clamp(min=1)

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

# %% exercise="attention"
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
    scores = attention_scores(q, k)  # (..., T_q, T_k)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = softmax(scores, dim=-1)  # (..., T_q, T_k)
    return weights @ v, weights  # (..., T_q, T_k) @ (..., T_k, d_v) -> (..., T_q, d_v)

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

# %% exercise="self_attention"
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
    q, k, v = x @ w_q, x @ w_k, x @ w_v  # (..., T, d_k), (..., T, d_k), (..., T, d_v)
    mask = None
    if causal:
        T = x.shape[-2]
        mask = torch.ones((T, T), dtype=torch.bool, device=x.device).tril()  # row t: True up to and including column t
    return attention(q, k, v, mask)

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

# %% exercise="attention_cost"
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
    return {
        "projection_flops": 3 * 2 * batch * T * d * d,  # three times (T, d) @ (d, d)
        "attention_flops": 2 * 2 * batch * T * T * d,  # (T, d) @ (d, T), then (T, T) @ (T, d)
        "qkv_bytes": 3 * batch * T * d * bytes_per_value,
        "weights_bytes": batch * T * T * bytes_per_value,
    }

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
