"""Equal to PyTorch, mask for mask: the reference. Generated from source_solutions/ch01_attention/lab04_pytorch_comparison.py by `course build`; do not edit."""

# %% given
import math

import torch
from torch import nn

from coursekit import carry

softmax = carry("ch01/lab01", "softmax")  # stable, and a row that is -inf throughout gives zeros

# %% exercise="from_torch"
def from_torch(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take the weights out of the state dict of an ``nn.MultiheadAttention``.

    Args:
        state: "in_proj_weight" (3 * d_model, d_model) and "out_proj.weight" (d_model, d_model); with biases also
            "in_proj_bias" (3 * d_model,) and "out_proj.bias" (d_model,). The rows of in_proj belong to q, k and v,
            in this order. PyTorch uses its weights as ``x @ weight.T + bias``.

    Returns:
        "w_q", "w_k", "w_v", "w_o", each (d_model, d_model) and used as ``x @ w``; and, where the state has biases,
        "b_q", "b_k", "b_v", "b_o", each (d_model,). No other keys. Dtypes are kept, and gradients flow to ``state``.

    Raises:
        ValueError: if the state has any other key, as it has with kdim, vdim or add_bias_kv, which we do not support.

    Source: the documentation of torch.nn.MultiheadAttention.
    """
    known = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    unknown = sorted(set(state) - known)
    if unknown:
        raise ValueError(f"cannot use {unknown}; the keys may be {sorted(known)}")
    w_q, w_k, w_v = state["in_proj_weight"].chunk(3)  # each (d_model, d_model), one row per output
    params = {"w_q": w_q.T, "w_k": w_k.T, "w_v": w_v.T, "w_o": state["out_proj.weight"].T}
    if "in_proj_bias" in state:
        params["b_q"], params["b_k"], params["b_v"] = state["in_proj_bias"].chunk(3)  # each (d_model,)
        params["b_o"] = state["out_proj.bias"]
    return params


def to_torch(params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn our weights into a state dict that ``nn.MultiheadAttention.load_state_dict`` accepts.

    Args:
        params: as `from_torch` returns them: four weights, and either all four biases or none.

    Returns:
        "in_proj_weight" and "out_proj.weight"; with biases also "in_proj_bias" and "out_proj.bias". The round trip
        in either direction gives back exactly the same values. Gradients flow to ``params``.
    """
    state = {
        "in_proj_weight": torch.cat([params["w_q"].T, params["w_k"].T, params["w_v"].T]),  # (3 * d_model, d_model)
        "out_proj.weight": params["w_o"].T,  # (d_model, d_model)
    }
    if "b_q" in params:
        state["in_proj_bias"] = torch.cat([params["b_q"], params["b_k"], params["b_v"]])  # (3 * d_model,)
        state["out_proj.bias"] = params["b_o"]
    return state

# %% mistakes="from_torch"
{
    "the blocks of in_proj_weight are taken in the order q, v, k": (
        'w_q, w_k, w_v = state["in_proj_weight"]',
        'w_q, w_v, w_k = state["in_proj_weight"]',
    ),
    "the blocks of in_proj_weight are taken in the order k, q, v": (
        'w_q, w_k, w_v = state["in_proj_weight"]',
        'w_k, w_q, w_v = state["in_proj_weight"]',
    ),
    "no weight is transposed, so PyTorch's rows are used as our rows": [
        (
            '"w_q": w_q.T, "w_k": w_k.T, "w_v": w_v.T, "w_o": state["out_proj.weight"].T',
            '"w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": state["out_proj.weight"]',
        ),
        ('[params["w_q"].T, params["w_k"].T, params["w_v"].T]', '[params["w_q"], params["w_k"], params["w_v"]]'),
        ('params["w_o"].T', 'params["w_o"]'),
    ],
    "from_torch transposes nothing, though to_torch does": (
        '"w_q": w_q.T, "w_k": w_k.T, "w_v": w_v.T, "w_o": state["out_proj.weight"].T',
        '"w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": state["out_proj.weight"]',
    ),
    "the input projections are transposed and the output projection is not": (
        'state["out_proj.weight"].T',
        'state["out_proj.weight"]',
    ),
    "in_proj_weight is cut into columns (after a reshape), not into blocks of rows": (
        '["in_proj_weight"].chunk(3)',
        '["in_proj_weight"].reshape(-1, 3, state["out_proj.weight"].shape[0]).unbind(1)',
    ),
    "the bias of the output projection is left out": (
        'params["b_o"] = state["out_proj.bias"]',
        'params["b_o"] = torch.zeros_like(state["out_proj.bias"])',
    ),
    "the biases of q, k and v are taken in the order q, v, k": (
        'params["b_q"], params["b_k"], params["b_v"] = state',
        'params["b_q"], params["b_v"], params["b_k"] = state',
    ),
    "weights that are not understood (kdim, vdim, bias_k) are dropped without a word": (
        "    if unknown:",
        "    if False:",
    ),
    "a state without biases gets biases of zero, and it should get none": (
        "    return params",
        "    none = torch.zeros(len(w_q))\n    return {f'b_{name}': none for name in 'qkvo'} | params",
    ),
    "the values are detached, so no gradient gets back to the state": (
        "    return params",
        "    return {name: value.detach() for name, value in params.items()}",
    ),
    "to_torch puts the blocks together in the order k, q, v": (
        '[params["w_q"].T, params["w_k"].T',
        '[params["w_k"].T, params["w_q"].T',
    ),
    "to_torch glues the matrices side by side and transposes nothing, then reshapes until it fits": (
        'torch.cat([params["w_q"].T, params["w_k"].T, params["w_v"].T])',
        'torch.cat([params["w_q"], params["w_k"], params["w_v"]], dim=1).reshape(-1, params["w_o"].shape[0])',
    ),
    "to_torch forgets the transpose of the output projection": ('params["w_o"].T', 'params["w_o"]'),
    "to_torch leaves the biases out": ('if "b_q" in params:', "if False:"),
    "the output projection is transposed neither in from_torch nor in to_torch": [
        ('state["out_proj.weight"].T', 'state["out_proj.weight"]'),
        ('params["w_o"].T', 'params["w_o"]'),
    ],
}

# %% exercise="to_additive_mask"
def to_additive_mask(
    query: torch.Tensor,
    key: torch.Tensor,
    key_padding: torch.Tensor | None = None,
    causal: bool = False,
    attn_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """One additive mask that means what PyTorch's masks mean together.

    Args:
        query: (B, T_q, d_model). Only its shape, dtype and device matter.
        key: (B, T_k, d_model). Only its shape matters.
        key_padding: (B, T_k). Boolean: True = no query may see this key. Float: added to the scores of this key.
        causal: if true, query i may see the keys 0 to i and no later one, whatever T_q and T_k are (the meaning
            of ``is_causal`` in ``F.scaled_dot_product_attention``).
        attn_mask: (T_q, T_k), or (B * H, T_q, T_k) for any number of heads H, in which entry b * H + h belongs to
            head h of sequence b. Boolean: True = this query may NOT see this key. Float: added to the scores.

    Returns:
        Float tensor of query's dtype, to be added to the scores before the softmax: 0 where nothing is masked, -inf
        where a key is forbidden, float masks as they are, and sums of these where several masks are given. Shape
        (B, H, T_q, T_k) if attn_mask has three axes, otherwise (B, 1, T_q, T_k).

    Raises:
        TypeError: if a mask is neither boolean nor floating point.
        ValueError: if key_padding is not of shape (B, T_k), or attn_mask has neither of its two shapes.

    Source: the documentation of torch.nn.MultiheadAttention.forward.
    """
    batch, t_q, t_k = query.shape[0], query.shape[1], key.shape[1]

    def additive(mask: torch.Tensor) -> torch.Tensor:
        if mask.dtype == torch.bool:
            return query.new_zeros(mask.shape).masked_fill(mask, -math.inf)
        if not mask.is_floating_point():
            raise TypeError(f"a mask is boolean (True = ignore) or float (added), not {mask.dtype}")
        return mask.to(query.dtype)

    total = query.new_zeros(batch, 1, t_q, t_k)
    if causal:
        future = torch.ones(t_q, t_k, dtype=torch.bool, device=query.device).triu(diagonal=1)
        total = total + additive(future)  # (T_q, T_k) is spread over batch and heads
    if key_padding is not None:
        if key_padding.shape != (batch, t_k):
            raise ValueError(f"key_padding is {tuple(key_padding.shape)}, it should be {(batch, t_k)}")
        total = total + additive(key_padding)[:, None, None, :]  # (B, 1, 1, T_k)
    if attn_mask is not None:
        leading = attn_mask.shape[:-2]
        fits = not leading or (len(leading) == 1 and leading[0] % batch == 0)
        if attn_mask.shape[-2:] != (t_q, t_k) or not fits:
            raise ValueError(f"attn_mask is {tuple(attn_mask.shape)}, it should be {(t_q, t_k)} or (B * H, T_q, T_k)")
        per_head = additive(attn_mask)
        if leading:
            per_head = per_head.reshape(batch, -1, t_q, t_k)  # (B, H, T_q, T_k)
        total = total + per_head
    return total

# %% mistakes="to_additive_mask"
{
    'True is read as "may attend", in every boolean mask': (
        "masked_fill(mask, -math.inf)",
        "masked_fill(~mask, -math.inf)",
    ),
    'True is read as "may attend" in the key padding': (
        "additive(key_padding)",
        "additive(~key_padding if key_padding.dtype == torch.bool else key_padding)",
    ),
    'True is read as "may attend" in the attention mask': (
        "per_head = additive(attn_mask)",
        "per_head = additive(~attn_mask if attn_mask.dtype == torch.bool else attn_mask)",
    ),
    "the padding is laid on the queries (rows) and not on the keys (columns)": (
        "[:, None, None, :]",
        "[:, None, :, None]",
    ),
    "a boolean mask is added as the numbers 0 and 1": (
        "query.new_zeros(mask.shape).masked_fill(mask, -math.inf)",
        "mask.to(query.dtype)",
    ),
    "a boolean mask is multiplied by minus infinity, and 0 times infinity is NaN": (
        "query.new_zeros(mask.shape).masked_fill(mask, -math.inf)",
        "mask.to(query.dtype) * -math.inf",
    ),
    "a large negative number (-1e9) stands where -inf belongs": (
        "masked_fill(mask, -math.inf)",
        "masked_fill(mask, -1e9)",
    ),
    "the smallest number of the dtype (torch.finfo) stands where -inf belongs": (
        "masked_fill(mask, -math.inf)",
        "masked_fill(mask, torch.finfo(query.dtype).min)",
    ),
    "the causal mask hides the present as well as the future": ("triu(diagonal=1)", "triu(diagonal=0)"),
    "the causal mask lets every query see one key of the future": ("triu(diagonal=1)", "triu(diagonal=2)"),
    "the causal mask is transposed: it hides the past": ("triu(diagonal=1)", "tril(diagonal=-1)"),
    "the causal mask is the lower triangle: it hides the past and the present, and shows the future": (
        "triu(diagonal=1)",
        "tril()",
    ),
    "the causal triangle is aligned with the last key, not the first": (
        "triu(diagonal=1)",
        "triu(diagonal=1 + t_k - t_q)",
    ),
    "the first axis of a three-axis mask is taken apart as heads first, then batch": (
        "per_head.reshape(batch, -1, t_q, t_k)",
        "per_head.reshape(-1, batch, t_q, t_k).transpose(0, 1)",
    ),
    "a three-axis mask keeps batch and heads in one axis": ("per_head.reshape(batch, -1, t_q, t_k)", "per_head"),
    "a three-axis mask is averaged over its heads": (
        "per_head.reshape(batch, -1, t_q, t_k)",
        "per_head.reshape(batch, -1, t_q, t_k).mean(dim=1, keepdim=True)",
    ),
    "a float mask is treated as yes or no: every value but zero forbids": (
        "return mask.to(query.dtype)",
        "return query.new_zeros(mask.shape).masked_fill(mask != 0, -math.inf)",
    ),
    "a later mask replaces the earlier ones instead of being added to them": (
        "total = total + per_head",
        "total = per_head.expand(batch, -1, t_q, t_k)",
    ),
    "the causal flag is ignored": ("    if causal:", "    if False:"),
    "the key padding replaces the causal mask instead of being added to it": (
        "total = total + additive(key_padding)[:, None, None, :]",
        "total = (additive(key_padding)[:, None, None, :]).expand(batch, 1, t_q, t_k)",
    ),
    "the attention mask is ignored where causal is set": (
        "    if attn_mask is not None:",
        "    if attn_mask is not None and not causal:",
    ),
    "padded queries are masked too, and not only padded keys": (
        "additive(key_padding)[:, None, None, :]",
        "additive(key_padding)[:, None, None, :] + additive(key_padding)[:, None, :, None]",
    ),
    "a key padding of floats is turned into True and False": ("additive(key_padding)", "additive(key_padding.bool())"),
    "the first axis has size 1 and not B": (
        "query.new_zeros(batch, 1, t_q, t_k)",
        "query.new_zeros(1, 1, t_q, t_k)",
    ),
    "the result is float32 whatever the dtype of query is": [
        ("query.new_zeros(", "torch.zeros(", "all"),
        ("mask.to(query.dtype)", "mask.float()"),
    ],
    "integers are added to the scores as if they were floats": ("if not mask.is_floating_point():", "if False:"),
    "0/1 integers are taken for True and False": (
        "if mask.dtype == torch.bool:",
        "mask = mask.bool() if not mask.is_floating_point() else mask\n        if mask.dtype == torch.bool:",
    ),
}

# %% given
def buggy_padding(q, k, v, padding):
    """Attention in which no query sees a padded key. padding: (B, T), True = padding."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    scores = scores.masked_fill(padding[:, None, :, None], -math.inf)
    weights = softmax(scores, dim=-1)
    return weights @ v, weights


def buggy_boolean(q, k, v, may_attend):
    """Attention along a boolean mask. may_attend: (T_q, T_k), True = this query may see this key."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T_q, T_k)
    scores = scores + may_attend
    weights = softmax(scores, dim=-1)
    return weights @ v, weights


def buggy_causal(q, k, v):
    """Causal self-attention: query i sees the keys 0 to i."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    may_attend = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(diagonal=1)
    scores = scores.masked_fill(~may_attend, -math.inf)
    weights = softmax(scores, dim=-1)
    return weights @ v, weights

# %% exercise="fixed_padding"
def fixed_padding(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, padding: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in which no query sees a padded key.

    Args:
        q, k, v: (B, H, T, d_k).
        padding: (B, T), boolean, True = this token is padding.

    Returns:
        output (B, H, T, d_k) and weights (B, H, T, T). Weights of padded keys are 0; every row sums to 1. Padded
        *queries* attend like any other (nobody reads their outputs). In a sequence that is padding throughout, all
        weights and outputs are 0.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    blocked = padding[:, None, None, :]  # (B, 1, 1, T): the last axis is the keys
    weights = softmax(scores.masked_fill(blocked, -math.inf), dim=-1)
    return weights @ v, weights


def fixed_boolean(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, may_attend: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention along a boolean mask.

    Args:
        q: (B, H, T_q, d_k). k, v: (B, H, T_k, d_k).
        may_attend: (T_q, T_k), boolean, True = this query may see this key.

    Returns:
        output (B, H, T_q, d_k) and weights (B, H, T_q, T_k). Forbidden keys have weight 0 and every row sums to 1,
        however large the scores are. A query that may see no key has weights and output 0.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T_q, T_k)
    weights = softmax(scores.masked_fill(~may_attend, -math.inf), dim=-1)
    return weights @ v, weights


def fixed_causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal self-attention: query i sees the keys 0 to i, itself included, and none after.

    Args:
        q, k, v: (B, H, T, d_k).

    Returns:
        output (B, H, T, d_k) and weights (B, H, T, T).
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    past = torch.ones_like(scores, dtype=torch.bool).tril()  # (B, H, T, T), True where key <= query
    weights = softmax(torch.where(past, scores, -math.inf), dim=-1)
    return weights @ v, weights

# %% mistakes="fixed_padding"
{
    "the padding mask removes rows (queries) and leaves the padded keys visible": (
        "padding[:, None, None, :]",
        "padding[:, None, :, None]",
    ),
    'the padding mask is read as "True = keep"': ("padding[:, None, None, :]", "~padding[:, None, None, :]"),
    "padded queries are masked too, and not only padded keys": (
        "blocked = padding[:, None, None, :]",
        "blocked = padding[:, None, None, :] | padding[:, None, :, None]",
    ),
    "the padding is removed after the softmax, and what is left is not divided by its sum": (
        "softmax(scores.masked_fill(blocked, -math.inf), dim=-1)",
        "softmax(scores, dim=-1).masked_fill(blocked, 0.0)",
    ),
    "padded keys get a large negative number and not -inf, so a sequence of nothing but padding looks evenly at it": (
        "scores.masked_fill(blocked, -math.inf)",
        "scores.masked_fill(blocked, -1e9)",
    ),
    "the padding mask is added to the scores as the numbers 0 and 1": (
        "scores.masked_fill(blocked, -math.inf)",
        "scores + blocked",
    ),
    "the padding mask of the first sequence is used for all of them": (
        "padding[:, None, None, :]",
        "padding[:1, None, None, :]",
    ),
    'the boolean mask is added to the scores, so "may attend" is worth one point and "may not" costs nothing': (
        "scores.masked_fill(~may_attend, -math.inf)",
        "scores + may_attend",
    ),
    "the boolean mask is inverted: the forbidden keys are the visible ones": (
        "masked_fill(~may_attend",
        "masked_fill(may_attend",
    ),
    "the forbidden keys are removed after the softmax, without renormalising": (
        "softmax(scores.masked_fill(~may_attend, -math.inf), dim=-1)",
        "softmax(scores, dim=-1) * may_attend",
    ),
    "the forbidden keys are removed after the softmax, and the row is divided by its sum, which may be 0": (
        "weights = softmax(scores.masked_fill(~may_attend, -math.inf), dim=-1)",
        "weights = softmax(scores, dim=-1) * may_attend\n    weights = weights / weights.sum(-1, keepdim=True)",
    ),
    "the scores are multiplied by the boolean mask, so a forbidden key has the score 0, which is not -inf": (
        "scores.masked_fill(~may_attend, -math.inf)",
        "scores * may_attend",
    ),
    "a forbidden key has -100 added to its score, which is too little when the scores are large": (
        "scores.masked_fill(~may_attend, -math.inf)",
        "scores - 100.0 * ~may_attend",
    ),
    "forbidden keys get a large negative number and not -inf, so a query that may see nothing looks evenly at all keys": (
        "scores.masked_fill(~may_attend, -math.inf)",
        "scores.masked_fill(~may_attend, -1e9)",
    ),
    "a large number is taken off the scores of forbidden keys, so a query that may see nothing looks at all of them": (
        "scores.masked_fill(~may_attend, -math.inf)",
        "scores - 1e9 * ~may_attend",
    ),
    "a query that may see nothing gets NaN, as 0 is divided by 0 there": (
        "softmax(scores.masked_fill(~may_attend, -math.inf), dim=-1)",
        "torch.softmax(scores.masked_fill(~may_attend, -math.inf), dim=-1)",
    ),
    "a sequence of nothing but padding gets NaN, as 0 is divided by 0 there": (
        "softmax(scores.masked_fill(blocked, -math.inf), dim=-1)",
        "torch.softmax(scores.masked_fill(blocked, -math.inf), dim=-1)",
    ),
    "torch.softmax is used throughout, and where nothing may be seen it gives NaN": (
        "softmax(scores.masked_fill(",
        "torch.softmax(scores.masked_fill(",
        "all",
    ),
    "the boolean mask is transposed": ("~may_attend, -math.inf", "~may_attend.mT, -math.inf"),
    "every query still sees the token after it: the triangle is one diagonal too wide": (
        ".tril()",
        ".tril(diagonal=1)",
    ),
    "no query sees itself: the triangle is one diagonal too narrow": (".tril()", ".tril(diagonal=-1)"),
    "the triangle is transposed: queries see the future and not the past": (".tril()", ".triu()"),
    "the future is removed after the softmax, so it still counts in the denominator": (
        "softmax(torch.where(past, scores, -math.inf), dim=-1)",
        "softmax(scores, dim=-1) * past",
    ),
    "the scores of the future are set to 0 and not to -inf": (
        "torch.where(past, scores, -math.inf)",
        "torch.where(past, scores, 0.0)",
    ),
}

# %% exercise="mha_forward"
def mha_forward(
    params: dict[str, torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    n_heads: int,
    mask: torch.Tensor | None = None,
    average_weights: bool = True,
    batch_first: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multi-head attention, equal to ``nn.MultiheadAttention`` with the same weights.

    Args:
        params: "w_q", "w_k", "w_v", "w_o" of shape (d_model, d_model), used as ``x @ w``, and perhaps "b_q", "b_k",
            "b_v", "b_o" of shape (d_model,). A bias that is not there is zero.
        query: (B, T_q, d_model), or (T_q, B, d_model) if batch_first is false.
        key, value: (B, T_k, d_model), or (T_k, B, d_model) if batch_first is false.
        n_heads: H. Head h uses the columns h * d_k to (h + 1) * d_k of w_q, w_k and w_v, where d_k = d_model / H.
        mask: additive float mask that broadcasts to (B, H, T_q, T_k), added to the scaled scores. Batch first always.
        average_weights: return the mean of the weights over the heads, or the weights of every head.
        batch_first: whether query, key, value and output have the batch on their first axis or on their second.

    Returns:
        output: of query's shape, axis order and dtype.
        weights: (B, T_q, T_k) if averaged, else (B, H, T_q, T_k). Batch first always.
        A query whose mask is -inf for every key has zero weights, so its output is b_o; all gradients stay finite.

    Raises:
        TypeError: if mask is boolean. Added as numbers, it would be wrong without a word.
        ValueError: if d_model is not a multiple of n_heads.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.2.
    """
    if mask is not None and mask.dtype == torch.bool:
        raise TypeError("mask must be additive (float); turn a boolean mask into one with to_additive_mask")
    if query.shape[-1] % n_heads:
        raise ValueError(f"d_model = {query.shape[-1]} is not a multiple of n_heads = {n_heads}")
    if not batch_first:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)

    def project(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ params[f"w_{name}"] + params.get(f"b_{name}", 0.0)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)  # (B, T, d_model) -> (B, T, H, d_k) -> (B, H, T, d_k)

    q, k, v = split(project(query, "q")), split(project(key, "k")), split(project(value, "v"))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T_q, T_k)
    if mask is not None:
        scores = scores + mask
    weights = softmax(scores, dim=-1)  # (B, H, T_q, T_k)
    context = (weights @ v).transpose(1, 2).flatten(2)  # (B, H, T_q, d_k) -> (B, T_q, d_model)
    output = project(context, "o")
    if not batch_first:
        output = output.transpose(0, 1)
    return output, weights.mean(dim=1) if average_weights else weights

# %% mistakes="mha_forward"
{
    "the scores are not divided by sqrt(d_k)": (" / math.sqrt(q.shape[-1])", ""),
    "the scores are divided by sqrt(d_model), not by the root of one head's width": (
        "math.sqrt(q.shape[-1])",
        "math.sqrt(query.shape[-1])",
    ),
    "the biases are used only where b_q is there": (
        ' + params.get(f"b_{name}", 0.0)',
        ' + (params[f"b_{name}"] if "b_q" in params else 0.0)',
    ),
    "the biases are dropped": (' + params.get(f"b_{name}", 0.0)', ""),
    "the bias of the output projection is dropped": (
        'output = project(context, "o")',
        'output = context @ params["w_o"]',
    ),
    "the output projection is left out": ('output = project(context, "o")', "output = context"),
    "w is transposed as in PyTorch's layers, though these weights are for x @ w": (
        'x @ params[f"w_{name}"]',
        'x @ params[f"w_{name}"].T',
    ),
    "the keys and the values are computed from query": [
        ('project(key, "k")', 'project(query, "k")'),
        ('project(value, "v")', 'project(query, "v")'),
    ],
    "the values are computed from the keys": ('project(value, "v")', 'project(key, "v")'),
    "queries and keys have changed their projections": (
        'split(project(query, "q")), split(project(key, "k"))',
        'split(project(query, "k")), split(project(key, "q"))',
    ),
    "the heads are cut out with a reshape and no transpose, so they mix tokens": (
        "x.unflatten(-1, (n_heads, -1)).transpose(1, 2)",
        "x.reshape(x.shape[0], n_heads, x.shape[1], -1)",
    ),
    "the heads are put together without moving the head axis back": (
        ".transpose(1, 2).flatten(2)",
        ".reshape(q.shape[0], q.shape[2], -1)",
    ),
    "the heads are cut out and put together by a reshape alone, and no axis ever moves": [
        ("x.unflatten(-1, (n_heads, -1)).transpose(1, 2)", "x.reshape(x.shape[0], n_heads, x.shape[1], -1)"),
        (".transpose(1, 2).flatten(2)", ".reshape(q.shape[0], q.shape[2], -1)"),
    ],
    "view puts the heads together, though memory is in another order": (
        ".transpose(1, 2).flatten(2)",
        ".transpose(1, 2).view(q.shape[0], q.shape[2], -1)",
    ),
    "the features are dealt out to the heads one by one, not in blocks": (
        "x.unflatten(-1, (n_heads, -1)).transpose(1, 2)",
        "x.unflatten(-1, (-1, n_heads)).permute(0, 3, 1, 2)",
    ),
    "the scores are averaged over the heads before the softmax, and the weights returned come from that": (
        "weights.mean(dim=1) if",
        "softmax(scores.mean(dim=1), dim=-1) if",
    ),
    "the weights are summed over the heads, not averaged": ("weights.mean(dim=1)", "weights.sum(dim=1)"),
    "only the first head's weights are returned": ("weights.mean(dim=1)", "weights[:, 0]"),
    "the weights are always averaged": ("weights.mean(dim=1) if average_weights else weights", "weights.mean(dim=1)"),
    "average_weights is ignored: the weights of every head are returned": (
        "weights.mean(dim=1) if average_weights else weights",
        "weights",
    ),
    "the weights are averaged over the batch and not over the heads": ("weights.mean(dim=1)", "weights.mean(dim=0)"),
    "batch_first is read the wrong way round": ("if not batch_first:", "if batch_first:", "all"),
    "batch_first=False is met with a reshape, which moves nothing, and not with a transpose": (
        "query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)",
        "(x.reshape(x.shape[1], x.shape[0], -1) for x in (query, key, value))",
    ),
    "the weights are turned round with batch_first=False, and they are always batch first": (
        "output = output.transpose(0, 1)",
        "output, weights = output.transpose(0, 1), weights.transpose(0, 2)",
    ),
    "batch_first=False is ignored, so attention runs across the batch": ("if not batch_first:", "if False:", "all"),
    "batch_first=False is honoured on the way in and forgotten on the way out": (
        "output = output.transpose(0, 1)",
        "output = output",
    ),
    "the mask is added before the scores are scaled, so float masks are scaled too": [
        (" / math.sqrt(q.shape[-1])  #", "  #"),
        ("weights = softmax(scores, dim=-1)", "weights = softmax(scores / math.sqrt(q.shape[-1]), dim=-1)"),
    ],
    "the mask is only used where it is -inf; finite values are lost": (
        "scores = scores + mask",
        "scores = scores.masked_fill(mask == -math.inf, -math.inf)",
    ),
    "every head gets the mask of the first head": ("scores = scores + mask", "scores = scores + mask[:, :1]"),
    "the mask is ignored": ("scores = scores + mask", "scores = scores + 0 * 0"),
    "the mask is clamped to -1e9, so a query that may see nothing spreads its weight evenly": (
        "scores = scores + mask",
        "scores = scores + mask.clamp(min=-1e9)",
    ),
    "the softmax runs over the queries": ("weights = softmax(scores, dim=-1)", "weights = softmax(scores, dim=-2)"),
    "a row that is -inf throughout becomes NaN in the softmax": (
        "weights = softmax(scores, dim=-1)",
        "weights = torch.softmax(scores, dim=-1)",
    ),
    "NaN is replaced by 0 after the softmax, which mends the values and leaves NaN in the gradients": (
        "weights = softmax(scores, dim=-1)",
        "weights = torch.nan_to_num(torch.softmax(scores, dim=-1))",
    ),
    "NaN is replaced by 0 in the results, which mends the values and leaves NaN in the gradients": [
        ("weights = softmax(scores, dim=-1)", "weights = torch.softmax(scores, dim=-1)"),
        ("context = (weights @ v)", "context = (weights @ v).nan_to_num()"),
        ('output = project(context, "o")', 'output, weights = project(context, "o"), weights.nan_to_num()'),
    ],
    "the returned weights are cut off from the gradient": (
        "if average_weights else weights",
        "if average_weights else weights.detach()",
    ),
    "the weights are detached before they meet the values, so w_q and w_k get no gradient from the output": (
        "(weights @ v)",
        "(weights.detach() @ v)",
    ),
    "a boolean mask is added as the numbers 0 and 1": ("mask.dtype == torch.bool:", "False:"),
}
