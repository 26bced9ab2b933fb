"""Positions: the reference. Generated from source_solutions/ch02_block/lab02_positional.py by `course build`; do not edit."""

# %% given
import math

import torch
from torch import nn

from coursekit import carry

# attention(q, k, v, mask=None) -> (output, weights); True in the mask means: may attend
attention = carry("ch01/lab01", "attention")

# %% exercise="sinusoidal_table"
def sinusoidal_table(T: int, d_model: int, base: float = 10_000.0) -> torch.Tensor:
    """The fixed table of positions of the original transformer.

    Args:
        T: number of positions, at least 1; they are counted from 0.
        d_model: number of features, even and at least 2.
        base: sets the slowest speed; larger than 1.

    Returns:
        float32 tensor of shape (T, d_model). Pair i, counted from 0, turns by base ** (-2 i / d_model) radians for every
        position. Column 2 i holds the sines and column 2 i + 1 the cosines of its angles.

    Raises:
        ValueError: if d_model is odd or less than 2.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.5.
    """
    if d_model < 2 or d_model % 2 != 0:
        raise ValueError(f"d_model must be even and at least 2, got {d_model}")
    positions = torch.arange(T, dtype=torch.float64)  # (T,)
    evens = torch.arange(0, d_model, 2, dtype=torch.float64)  # (d_model / 2,): the numbers 2 i
    speeds = base ** (-evens / d_model)  # (d_model / 2,)
    angles = torch.outer(positions, speeds)  # (T, d_model / 2)
    table = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (T, d_model / 2, 2)
    return table.flatten(1).float()  # (T, d_model)

# %% mistakes="sinusoidal_table"
{
    "the sines and the cosines have changed places": (
        "torch.stack([angles.sin(), angles.cos()], dim=-1)",
        "torch.stack([angles.cos(), angles.sin()], dim=-1)",
    ),
    "all sines come first and then all cosines, and they should alternate": (
        "torch.stack([angles.sin(), angles.cos()], dim=-1)",
        "torch.stack([angles.sin(), angles.cos()], dim=1)",
    ),
    "every column has a speed of its own, so a sine and the cosine beside it are not of the same angle": (
        "table = torch.stack([angles.sin(), angles.cos()], dim=-1)",
        "columns = torch.arange(d_model, dtype=torch.float64)\n    own = torch.outer(positions, base ** (-columns / d_model))\n    table = torch.where(columns % 2 == 0, own.sin(), own.cos()).unsqueeze(-1)",
    ),
    "the exponent is i / d_model and not 2 i / d_model, so the slowest pair is far too fast": (
        "(-evens / d_model)",
        "(-evens / 2 / d_model)",
    ),
    "the exponent is 2 i / (d_model - 2): the slowest speed is exactly 1 / base": (
        "(-evens / d_model)",
        "(-evens / (d_model - 2))",
    ),
    "the pairs are counted from 1, so no pair turns by one radian a position": (
        "(-evens / d_model)",
        "(-(evens + 2) / d_model)",
    ),
    "the exponent has the wrong sign, so the speeds grow and not shrink": ("(-evens / d_model)", "(evens / d_model)"),
    "the positions are counted from 1": ("angles = torch.outer(positions,", "angles = torch.outer(positions + 1,"),
    "the angles are taken for degrees": (
        "angles = torch.outer(positions, speeds)",
        "angles = torch.outer(positions, speeds).deg2rad()",
    ),
    "the speeds are taken for turns, so the angles are too large by a factor of 2 pi": (
        "angles = torch.outer(positions, speeds)",
        "angles = torch.outer(positions, 2 * math.pi * speeds)",
    ),
    "the positions are divided by T, so the row of a token depends on how long the sequence is": (
        "angles = torch.outer(positions,",
        "angles = torch.outer(positions / T,",
    ),
    "the base is always 10,000": ("speeds = base **", "speeds = 10_000.0 **"),
    "the table is divided by sqrt(d_model)": (
        "return table.flatten(1).float()",
        "return table.flatten(1).float() / math.sqrt(d_model)",
    ),
    "the table is float64": ("return table.flatten(1).float()", "return table.flatten(1)"),
    "an odd d_model is accepted, and one column is dropped or left over": (
        "if d_model < 2 or d_model % 2 != 0:",
        "if d_model < 2:",
    ),
}

# %% exercise="LearnedPositions"
class LearnedPositions(nn.Module):
    """A learned vector for each position, added to the tokens.

    Args:
        max_T: number of positions that there are rows for.
        d_model: features of a token.
        seed: the same seed gives the same first table, another seed gives another.

    State:
        One float32 parameter named ``table`` of shape (max_T, d_model), and nothing else. At first its entries are
        independent, with mean 0 and standard deviation 0.02.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (GPT-2); the first values as in the
        transformers library.
    """

    def __init__(self, max_T: int, d_model: int, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(0.02 * torch.randn(max_T, d_model, generator=generator))

    def forward(self, x: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Add to each token the row of its position.

        Args:
            x: (B, T, d_model), of the parameter's dtype.
            start: the position of the first of the T tokens; the others follow.

        Returns:
            Tensor (B, T, d_model): token t of every sequence plus row start + t.

        Raises:
            ValueError: if start is negative, or if there is no row for the last token.
        """
        end, max_T = start + x.shape[1], self.table.shape[0]
        if start < 0 or end > max_T:
            raise ValueError(f"there are rows for positions 0 to {max_T - 1}, asked for {start} to {end - 1}")
        return x + self.table[start:end]  # (B, T, d_model) + (T, d_model)

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor, start: int) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x, start) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="LearnedPositions"
{
    "the rows are chosen by the sequence's place in the batch and not by the token's position": (
        "return x + self.table[start:end]",
        "return x + self.table[start : start + x.shape[0]].unsqueeze(1)",
    ),
    "start is ignored, so a token that is fed alone is always told that it is the first": (
        "return x + self.table[start:end]",
        "return x + self.table[: end - start]",
    ),
    "every token gets the row of the first one": ("self.table[start:end]", "self.table[start]"),
    "the rows are added in reverse order": ("self.table[start:end]", "self.table[start:end].flip(0)"),
    "the rows are those after the right ones: positions are counted from 1": (
        "self.table[start:end]",
        "self.table.roll(-1, 0)[start:end]",
    ),
    "a position beyond the table gets the last row, and no error says so": [
        ("if start < 0 or end > max_T:", "if start < 0:"),
        ("self.table[start:end]", "self.table[torch.arange(start, end).clamp(max=max_T - 1)]"),
    ],
    "a position beyond the table begins again at row 0, and no error says so": [
        ("if start < 0 or end > max_T:", "if start < 0:"),
        ("self.table[start:end]", "self.table[torch.arange(start, end) % max_T]"),
    ],
    "a negative start counts from the end of the table": ("if start < 0 or end > max_T:", "if end > max_T:"),
    "the last row can never be used": ("end > max_T:", "end >= max_T:"),
    "the rows are multiplied with the tokens": ("return x + self.table", "return x * self.table"),
    "only the rows are returned, without the tokens": (
        "return x + self.table[start:end]",
        "return self.table[start:end].expand(x.shape[0], -1, -1)",
    ),
    "the tokens are scaled by sqrt(d_model) first, as the original transformer does and GPT-2 does not": (
        "return x + self.table",
        "return x * x.shape[-1] ** 0.5 + self.table",
    ),
    "the table is a buffer, so it is saved and loaded but never learned": (
        "self.table = nn.Parameter(0.02 * torch.randn(max_T, d_model, generator=generator))",
        'self.register_buffer("table", 0.02 * torch.randn(max_T, d_model, generator=generator))',
    ),
    "the table is a plain tensor, so neither the optimiser nor state_dict knows of it": ("nn.Parameter(", "("),
    "the table is used through .data, so it never learns": ("self.table[start:end]", "self.table.data[start:end]"),
    "the table begins with a standard deviation of 1": ("0.02 * torch.randn", "torch.randn"),
    "the table begins with a variance (not a standard deviation) of 0.02": (
        "0.02 * torch.randn",
        "0.02**0.5 * torch.randn",
    ),
    "the table begins with zeros, so all positions look alike": ("0.02 * torch.randn(", "0.0 * torch.randn("),
    "the table begins uniform between 0 and 1, times 0.02": ("torch.randn(", "torch.rand("),
    "every position begins with the same row": (
        "0.02 * torch.randn(max_T, d_model, generator=generator)",
        "0.02 * torch.randn(d_model, generator=generator).repeat(max_T, 1)",
    ),
    "the seed is ignored": ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
    "the table is stored as (d_model, max_T)": [
        ("torch.randn(max_T, d_model, generator", "torch.randn(d_model, max_T, generator"),
        ("self.table.shape[0]", "self.table.shape[1]"),
        ("self.table[start:end]", "self.table[:, start:end].T"),
    ],
}

# %% exercise="apply_rope"
def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (i, i + d_k / 2) of every token by the angles of its position: RoPE, half-split.

    Args:
        x: queries or keys, floating point of any width, of shape (..., T, d_k), contiguous or not.
        cos, sin: (T, d_k / 2), or any shape that broadcasts to (..., T, d_k / 2): of the angle of each position and pair.
            Usually float32.

    Returns:
        Tensor of x's shape and dtype. A pair (a, b) turned by the angle p is (a cos p - b sin p, a sin p + b cos p), and
        stands where the pair stood. The products and sums are computed in the wider of the dtypes of x and cos; only the
        result is rounded to x's dtype.

    Raises:
        ValueError: if the last axis of x is not twice as long as that of cos.

    Source: Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, section 3.2.2; the pairs as in
        the Llama models of the transformers library.
    """
    if x.shape[-1] != 2 * cos.shape[-1]:
        raise ValueError(f"{x.shape[-1]} features need tables for half as many pairs, got {cos.shape[-1]}")
    first, second = x.chunk(2, dim=-1)  # (..., T, d_k / 2) each
    halves = [first * cos - second * sin, first * sin + second * cos]
    return torch.cat(halves, dim=-1).to(x.dtype)  # (..., T, d_k)


def apply_rope_interleaved(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The same, with neighbours (2 i, 2 i + 1) as pairs; arguments, result and errors as in `apply_rope`."""
    if 2 * sin.shape[-1] != x.shape[-1]:
        raise ValueError(f"{x.shape[-1]} features need tables for half as many pairs, got {sin.shape[-1]}")
    even, odd = x[..., 0::2], x[..., 1::2]  # (..., T, d_k / 2) each
    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)  # (..., T, d_k / 2, 2)
    return pairs.flatten(-2).to(x.dtype)  # (..., T, d_k)


def pair_permutation(d_k: int) -> torch.Tensor:
    """The order of features that makes half-split pairs out of interleaved ones.

    Args:
        d_k: features of a head, even and at least 2.

    Returns:
        int64 tensor ``order`` of shape (d_k,), for which ``x[..., order]`` has at i and i + d_k / 2 what x has at 2 i and
        2 i + 1. So ``apply_rope(x[..., order], cos, sin)`` equals ``apply_rope_interleaved(x, cos, sin)[..., order]``.

    Raises:
        ValueError: if d_k is odd or less than 2.
    """
    if d_k < 2 or d_k % 2 != 0:
        raise ValueError(f"d_k must be even and at least 2, got {d_k}")
    neighbours = torch.arange(d_k).reshape(-1, 2)  # (d_k / 2, 2)
    return neighbours.T.flatten()  # (d_k,)

# %% mistakes="apply_rope"
{
    "the pairs are turned the other way, so scores still depend on the distance but weights from elsewhere do not fit": (
        "halves = [first * cos - second * sin, first * sin + second * cos]",
        "halves = [first * cos + second * sin, second * cos - first * sin]",
    ),
    "apply_rope turns neighbours, as apply_rope_interleaved should": (
        "first, second = x.chunk(2, dim=-1)  # (..., T, d_k / 2) each\n    halves = [first * cos - second * sin, first * sin + second * cos]\n    return torch.cat(halves, dim=-1).to(x.dtype)",
        "return apply_rope_interleaved(x, cos, sin)",
    ),
    "apply_rope_interleaved turns half-split pairs, as apply_rope should": (
        "even, odd = x[..., 0::2], x[..., 1::2]  # (..., T, d_k / 2) each\n    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)  # (..., T, d_k / 2, 2)\n    return pairs.flatten(-2).to(x.dtype)",
        "return apply_rope(x, cos, sin)",
    ),
    "apply_rope turns the right pairs and returns them interleaved: the scores are right, the order is not": (
        "return torch.cat(halves, dim=-1).to(x.dtype)",
        "return torch.stack(halves, dim=-1).flatten(-2).to(x.dtype)",
    ),
    "the interleaved pairs are returned with all first members in front: the scores are right, the order is not": (
        "return pairs.flatten(-2).to(x.dtype)",
        "return pairs.transpose(-1, -2).flatten(-2).to(x.dtype)",
    ),
    "half-split pairs meet interleaved tables: feature i is turned by the angle of pair i // 2": (
        "halves = [first * cos - second * sin, first * sin + second * cos]",
        "cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)\n    halves = [x * cos + torch.cat([-second, first], -1) * sin]",
    ),
    "the second formula of apply_rope uses the first half that was turned already": (
        "halves = [first * cos - second * sin, first * sin + second * cos]",
        "first = first * cos - second * sin; halves = [first, first * sin + second * cos]",
    ),
    "the second formula of apply_rope_interleaved uses the feature that was turned already": (
        "pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)",
        "even = even * cos - odd * sin; pairs = torch.stack([even, even * sin + odd * cos], dim=-1)",
    ),
    "both formulas have a plus, so nothing is turned and lengths change": (
        "first * cos - second * sin",
        "first * cos + second * sin",
    ),
    "the cosines and the sines have changed places in apply_rope": (
        "halves = [first * cos - second * sin, first * sin + second * cos]",
        "halves = [first * sin - second * cos, first * cos + second * sin]",
    ),
    "only the first half of the features is changed": (
        "first * sin + second * cos]\n",
        "second + 0 * cos]\n",
    ),
    "the features are multiplied by the cosines only": (
        "halves = [first * cos - second * sin, first * sin + second * cos]",
        "halves = [first * cos, second * cos]",
    ),
    "the turned vector is added to the old one": (
        "return torch.cat(halves, dim=-1).to(x.dtype)",
        "return x + torch.cat(halves, dim=-1).to(x.dtype)",
    ),
    "the tables are lined up with the heads and not with the tokens": (
        "first, second = x.chunk(2, dim=-1)",
        "cos, sin = (cos[:, None], sin[:, None]) if x.ndim == 4 else (cos, sin)\n    first, second = x.chunk(2, dim=-1)",
    ),
    "the interleaved pairs are turned the other way": (
        "[even * cos - odd * sin, even * sin + odd * cos]",
        "[even * cos + odd * sin, odd * cos - even * sin]",
    ),
    "the cosines and the sines have changed places in apply_rope_interleaved": (
        "[even * cos - odd * sin, even * sin + odd * cos]",
        "[even * sin - odd * cos, even * cos + odd * sin]",
    ),
    "the permutation goes the other way: it makes interleaved pairs out of half-split ones": (
        "return neighbours.T.flatten()",
        "return neighbours.T.flatten().argsort()",
    ),
    "the permutation exchanges the members of each pair": (
        "return neighbours.T.flatten()",
        "return neighbours.flip(1).T.flatten()",
    ),
    "the permutation changes nothing": ("return neighbours.T.flatten()", "return neighbours.flatten()"),
    "the tables are rounded to the dtype of x, so a model in bfloat16 computes with rough angles": (
        "first, second = x.chunk(2, dim=-1)",
        "cos, sin = cos.to(x.dtype), sin.to(x.dtype)\n    first, second = x.chunk(2, dim=-1)",
    ),
    "the result has the dtype of the tables and not that of x": (
        "return torch.cat(halves, dim=-1).to(x.dtype)",
        "return torch.cat(halves, dim=-1)",
    ),
    "a float64 x is computed in float32": (
        "return torch.cat(halves, dim=-1).to(x.dtype)",
        "return torch.cat(halves, dim=-1).float().to(x.dtype)",
    ),
    "apply_rope detaches its result, so no gradient gets through": (
        "return torch.cat(halves, dim=-1).to(x.dtype)",
        "return torch.cat(halves, dim=-1).to(x.dtype).detach()",
    ),
    "tables for one pair only are used for all pairs, and no error says so": (
        "if x.shape[-1] != 2 * cos.shape[-1]:",
        "if x.shape[-1] != 2 * cos.shape[-1] and cos.shape[-1] != 1:",
    ),
}

# %% exercise="rope_tables"
def rope_tables(
    positions: torch.Tensor, d_k: int, base: float = 10_000.0, scaling: tuple[str, float] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of RoPE's angles.

    Args:
        positions: tensor of shape (..., T), of an integer or floating dtype: where each token stands, in any order,
            with repetitions, up to a million and more.
        d_k: features of a head, even and at least 2.
        base: pair i turns by base ** (-2 i / d_k) radians for every position, for i from 0 to d_k / 2 - 1.
        scaling: None; ("linear", s), which divides the positions by s (they need not be whole afterwards); or
            ("ntk", s), which multiplies the base by s ** (d_k / (d_k - 2)). A factor s of 1 changes nothing.

    Returns:
        (cos, sin), two float32 tensors of shape (..., T, d_k / 2). They are within 1e-6 of the true values for positions
        up to a million: compute the angles in float64.

    Raises:
        ValueError: if d_k is odd or less than 2; if the name in ``scaling`` is another one; if s is less than 1; or for
            "ntk" with d_k = 2, where there is no slower pair to stretch.

    Source: Su et al., RoFormer, 2021, section 3.2.2. Linear scaling: Chen et al., Extending Context Window of Large Language
        Models via Positional Interpolation, 2023. NTK-aware: Peng et al., YaRN, 2023, section 3.1.
    """
    if d_k < 2 or d_k % 2 != 0:
        raise ValueError(f"d_k must be even and at least 2, got {d_k}")
    name, factor = scaling or ("linear", 1.0)
    if name not in ("linear", "ntk") or factor < 1:
        raise ValueError(f'scaling must be ("linear", s) or ("ntk", s) with s at least 1, got {scaling}')
    positions = positions.double()  # (..., T)
    if name == "linear":
        positions = positions / factor
    elif d_k == 2:
        raise ValueError("ntk scaling needs at least two pairs, and d_k = 2 has one")
    else:
        base = base * factor ** (d_k / (d_k - 2))
    evens = torch.arange(0, d_k, 2, dtype=torch.float64)  # (d_k / 2,): the numbers 2 i
    speeds = base ** (-evens / d_k)  # (d_k / 2,)
    angles = positions.unsqueeze(-1) * speeds  # (..., T, d_k / 2)
    return angles.cos().float(), angles.sin().float()

# %% mistakes="rope_tables"
{
    "the exponent is i / d_k and not 2 i / d_k, so the slowest pair is far too fast": (
        "(-evens / d_k)",
        "(-evens / 2 / d_k)",
    ),
    "the exponent is 2 i / (d_k - 2): the slowest speed is exactly 1 / base": (
        "(-evens / d_k)",
        "(-evens / max(d_k - 2, 1))",
    ),
    "the pairs are counted from 1, so no pair turns by one radian a position": (
        "(-evens / d_k)",
        "(-(evens + 2) / d_k)",
    ),
    "the speeds come in reverse order, the slowest pair first": ("(-evens / d_k)", "(-evens.flip(0) / d_k)"),
    "the exponent has the wrong sign, so the speeds grow and not shrink": ("(-evens / d_k)", "(evens / d_k)"),
    "the positions are replaced by 0, 1, 2, ...: right for a whole sequence, wrong for a token that is fed alone": (
        "positions = positions.double()",
        "positions = torch.arange(positions.shape[-1]).expand(positions.shape).double()",
    ),
    "the positions are counted from 1": ("positions = positions.double()", "positions = positions.double() + 1"),
    "the angles are computed in float32, so they are blurred at far positions": (
        "angles = positions.unsqueeze(-1) * speeds",
        "angles = positions.float().unsqueeze(-1) * speeds.float()",
    ),
    "only the angles are rounded to float32 before their cosine is taken": (
        "angles = positions.unsqueeze(-1) * speeds",
        "angles = (positions.unsqueeze(-1) * speeds).float()",
    ),
    "the positions are kept in bfloat16, in which there is no number between 256 and 258": (
        "positions = positions.double()",
        "positions = positions.bfloat16().double()",
    ),
    "the cosines and the sines have changed places": (
        "return angles.cos().float(), angles.sin().float()",
        "return angles.sin().float(), angles.cos().float()",
    ),
    "the sines have the wrong sign": ("angles.sin().float()", "-angles.sin().float()"),
    "the angles are taken for degrees": ("* speeds  # (..., T", "* speeds.deg2rad()  # (..., T"),
    "the speeds are taken for turns, so the angles are too large by a factor of 2 pi": (
        "* speeds  # (..., T",
        "* (2 * math.pi * speeds)  # (..., T",
    ),
    "the base is always 10,000": ("    evens = torch", "    base = 10_000.0\n    evens = torch"),
    "the tables are float64": (
        "return angles.cos().float(), angles.sin().float()",
        "return angles.cos(), angles.sin()",
    ),
    "the tables have all d_k columns, each angle twice": (
        "angles = positions.unsqueeze(-1) * speeds",
        "angles = positions.unsqueeze(-1) * torch.cat([speeds, speeds])",
    ),
    "an odd d_k is accepted": ("if d_k < 2 or d_k % 2 != 0:", "if d_k < 2:"),
    "the scaling is ignored": ("name, factor = scaling or", "name, factor ="),
    "linear scaling rounds the positions down to whole numbers, so four neighbours share one angle": (
        "positions = positions / factor",
        "positions = (positions / factor).floor() if factor > 1 else positions",
    ),
    "linear scaling multiplies the positions": ("positions = positions / factor", "positions = positions * factor"),
    "linear scaling divides the base and not the positions": ("positions = positions / factor", "base = base / factor"),
    "linear scaling multiplies the base by s": ("positions = positions / factor", "base = base * factor"),
    "ntk scaling multiplies the base by s alone, without the exponent": (
        "base * factor ** (d_k / (d_k - 2))",
        "base * factor",
    ),
    "the exponent of ntk scaling is (d_k - 2) / d_k, upside down": (
        "factor ** (d_k / (d_k - 2))",
        "factor ** ((d_k - 2) / d_k)",
    ),
    "the exponent of ntk scaling is d_k - 2": ("factor ** (d_k / (d_k - 2))", "factor ** (d_k - 2)"),
    "ntk scaling divides the base, so the slow pairs turn faster": (
        "base = base * factor ** (d_k",
        "base = base / factor ** (d_k",
    ),
    "ntk scaling also divides the positions": (
        "base = base * factor ** (d_k",
        "positions = positions / factor; base = base * factor ** (d_k",
    ),
    "the two kinds of scaling have changed places": ('if name == "linear":', 'if name != "linear" or factor == 1:'),
    "an unknown kind of scaling is ignored without an error": (
        '    if name not in ("linear", "ntk") or factor < 1:',
        '    if name not in ("linear", "ntk"):\n        name, factor = "linear", 1.0\n    if factor < 1:',
    ),
    "an unknown kind of scaling counts as ntk": ('if name not in ("linear", "ntk") or factor < 1:', "if factor < 1:"),
    "a factor below 1 is accepted": (
        'if name not in ("linear", "ntk") or factor < 1:',
        'if name not in ("linear", "ntk"):',
    ),
}

# %% exercise="rope_attention"
def rope_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions_q: torch.Tensor,
    positions_k: torch.Tensor,
    mask: torch.Tensor | None = None,
    base: float = 10_000.0,
    scaling: tuple[str, float] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with rotary positions, half-split pairs.

    Args:
        q: queries (B, H, T_q, d_k), with d_k even.
        k: keys (B, H, T_k, d_k), not turned yet.
        v: values (B, H, T_k, d_v).
        positions_q: where the queries stand: (T_q,) for all sequences alike, or (B, T_q), one row for each sequence.
        positions_k: where the keys stand: (T_k,) or (B, T_k). The two need not have the same number of axes.
        mask: boolean, True where a query may attend to a key; it broadcasts to (B, H, T_q, T_k). None allows everything.
        base, scaling: as in `rope_tables`, the same for queries and keys.

    Returns:
        output (B, H, T_q, d_v) and weights (B, H, T_q, T_k), as `attention` returns them.
    """
    d_k = q.shape[-1]
    # An axis for the heads: (T,) -> (1, T), and (B, T) -> (B, 1, T).
    cos_q, sin_q = rope_tables(positions_q.unsqueeze(-2), d_k, base, scaling)  # (..., 1, T_q, d_k / 2)
    cos_k, sin_k = rope_tables(positions_k.unsqueeze(-2), d_k, base, scaling)  # (..., 1, T_k, d_k / 2)
    turned_q = apply_rope(q, cos_q, sin_q)  # (B, H, T_q, d_k)
    turned_k = apply_rope(k, cos_k, sin_k)  # (B, H, T_k, d_k)
    return attention(turned_q, turned_k, v, mask)

# %% mistakes="rope_attention"
{
    "the values are turned too": (
        "return attention(turned_q, turned_k, v, mask)",
        "return attention(turned_q, turned_k, apply_rope(v, cos_k[..., : v.shape[-1] // 2], sin_k[..., : v.shape[-1] // 2]), mask)",
    ),
    "only the queries are turned, so the scores depend on where the query stands": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(turned_q, k, v, mask)",
    ),
    "only the keys are turned, so the scores depend on where the key stands": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(q, turned_k, v, mask)",
    ),
    "nothing is turned": ("attention(turned_q, turned_k, v, mask)", "attention(q, k, v, mask)"),
    "the queries are turned the other way than the keys, so the sum of the positions counts and not their difference": (
        "apply_rope(q, cos_q, sin_q)",
        "apply_rope(q, cos_q, -sin_q)",
    ),
    "everything is turned the other way: the query sees a key in front as if it were behind": [
        ("apply_rope(q, cos_q, sin_q)", "apply_rope(q, cos_q, -sin_q)"),
        ("apply_rope(k, cos_k, sin_k)", "apply_rope(k, cos_k, -sin_k)"),
    ],
    "the tables of each sequence are lined up with the heads": [
        ("positions_q.unsqueeze(-2)", "positions_q"),
        ("positions_k.unsqueeze(-2)", "positions_k"),
    ],
    "only the positions of the first sequence are used": [
        ("positions_q.unsqueeze(-2)", "(positions_q if positions_q.ndim == 1 else positions_q[0])"),
        ("positions_k.unsqueeze(-2)", "(positions_k if positions_k.ndim == 1 else positions_k[0])"),
    ],
    "the positions are ignored and counted from 0: a single query with a cache is told that it is the first": [
        ("rope_tables(positions_q.unsqueeze(-2)", "rope_tables(torch.arange(q.shape[2])"),
        ("rope_tables(positions_k.unsqueeze(-2)", "rope_tables(torch.arange(k.shape[2])"),
    ],
    "the queries are turned by the last positions of the keys, whatever positions_q says": (
        "rope_tables(positions_q.unsqueeze(-2)",
        "rope_tables(positions_k[..., -q.shape[2] :].unsqueeze(-2)",
    ),
    "both are counted from their own first position": [
        ("rope_tables(positions_q.unsqueeze(-2)", "rope_tables((positions_q - positions_q[..., :1]).unsqueeze(-2)"),
        ("rope_tables(positions_k.unsqueeze(-2)", "rope_tables((positions_k - positions_k[..., :1]).unsqueeze(-2)"),
    ],
    "the pairs are neighbours and not half-split": [
        ("apply_rope(q, cos_q, sin_q)", "apply_rope_interleaved(q, cos_q, sin_q)"),
        ("apply_rope(k, cos_k, sin_k)", "apply_rope_interleaved(k, cos_k, sin_k)"),
    ],
    "the queries are half-split and the keys interleaved": (
        "apply_rope(k, cos_k, sin_k)",
        "apply_rope_interleaved(k, cos_k, sin_k)",
    ),
    "queries and keys are turned twice": [
        ("apply_rope(q, cos_q, sin_q)", "apply_rope(apply_rope(q, cos_q, sin_q), cos_q, sin_q)"),
        ("apply_rope(k, cos_k, sin_k)", "apply_rope(apply_rope(k, cos_k, sin_k), cos_k, sin_k)"),
    ],
    "the scores are scaled twice: once here and once in attention": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(turned_q / d_k**0.5, turned_k, v, mask)",
    ),
    "the mask never reaches the attention": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(turned_q, turned_k, v)",
    ),
    "a causal mask is applied although nobody asked for one": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(turned_q, turned_k, v, torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2]) if mask is None else mask)",
    ),
    "the base is not passed on": ("d_k, base, scaling)", "d_k, 10_000.0, scaling)", "all"),
    "the scaling is not passed on": ("d_k, base, scaling)", "d_k, base)", "all"),
    "only the keys are scaled": (
        "rope_tables(positions_q.unsqueeze(-2), d_k, base, scaling)",
        "rope_tables(positions_q.unsqueeze(-2), d_k, base)",
    ),
    "the output alone is returned": (
        "return attention(turned_q, turned_k, v, mask)",
        "return attention(turned_q, turned_k, v, mask)[0]",
    ),
    "the gradients stop at the turn": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(turned_q.detach(), turned_k.detach(), v, mask)",
    ),
}
