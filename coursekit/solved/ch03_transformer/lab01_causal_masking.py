"""Causal masking: the reference. Generated from source_solutions/ch03_transformer/lab01_causal_masking.py by `course build`; do not edit."""

# %% given
import math

import torch
from torch import nn

from coursekit import carry

# attention(q, k, v, mask=None) -> (output, weights); True in the mask means: may look
attention = carry("ch01/lab01", "attention")

# %% exercise="causal_mask"
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
    if T_q < 1 or T_k < 1:
        raise ValueError(f"there must be at least one query and one key, got T_q={T_q} and T_k={T_k}")
    position = torch.arange(T_q) + T_k - T_q  # (T_q,): where each query stands among the keys
    key = torch.arange(T_k)  # (T_k,)
    return key <= position.unsqueeze(-1)  # (T_k,) beside (T_q, 1) -> (T_q, T_k)

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

# %% exercise="sliding_mask"
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
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    position = torch.arange(T_q) + T_k - T_q  # (T_q,)
    near = torch.arange(T_k) > position.unsqueeze(-1) - window  # (T_q, T_k)
    return causal_mask(T_q, T_k) & near


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
    if prefix < 0 or prefix > T_k:
        raise ValueError(f"prefix must be in 0..{T_k}, got {prefix}")
    return causal_mask(T_q, T_k) | (torch.arange(T_k) < prefix)  # (T_q, T_k) beside (T_k,)

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

# %% exercise="padding_mask"
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
    if side not in ("right", "left"):
        raise ValueError(f'side must be "right" or "left", got {side!r}')
    if bool((lengths < 0).any()) or bool((lengths > T).any()):
        raise ValueError(f"lengths must be in 0..{T}, got {lengths.tolist()}")
    place, count = torch.arange(T), lengths.unsqueeze(-1)  # (T,) and (B, 1)
    real = place < count if side == "right" else place >= T - count  # (B, T)
    return real[:, None, None, :]  # (B, 1, 1, T)


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
    past = causal_mask(T_q, T_k) if window is None else sliding_mask(T_q, T_k, window)  # (T_q, T_k)
    return past & padding_mask(lengths, T_k, side)  # (T_q, T_k) & (B, 1, 1, T_k) -> (B, 1, T_q, T_k)

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

# %% exercise="additive_mask"
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
    if mask.dtype != torch.bool or not dtype.is_floating_point:
        raise TypeError(f"expected a bool mask and a floating-point dtype, got {mask.dtype} and {dtype}")
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -math.inf)


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
    empty = ~mask.any(dim=-1, keepdim=True)  # (..., T_q, 1): queries that see nothing
    seen = scores.masked_fill(~mask, -math.inf).masked_fill(empty, 0.0)  # no row is -inf throughout
    return torch.softmax(seen, dim=-1).masked_fill(empty, 0.0)  # (..., T_q, T_k)

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

# %% given
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

# %% exercise="influence"
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


def leaks(model: nn.Module, ids: torch.Tensor, n_symbols: int, atol: float = 1e-5) -> list[tuple[int, int]]:
    """The pairs (i, j) with j > i for which output i depends on token j; empty for a causal model.

    Args:
        model, ids, n_symbols, atol: as in `influence`.

    Returns:
        Pairs of numbers, in ascending order: by i first, then by j.
    """
    future = ~causal_mask(len(ids), len(ids))
    pairs = (influence(model, ids, n_symbols, atol) & future).nonzero()
    return [(int(i), int(j)) for i, j in pairs]

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
