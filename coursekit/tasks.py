"""Synthetic tasks: small, endless, and hard for a known reason.

Every function takes a seed and returns integer tensors; equal arguments give equal tensors on every machine. Symbols
are numbered from 0 and each docstring says which numbers mean what. The global random state of torch is not touched.
"""

from __future__ import annotations

import torch

#: What `addition_task` writes: token i is the character ADDITION_SYMBOLS[i].
ADDITION_SYMBOLS = "0123456789+="


def copy_task(seed: int, batch: int = 32, length: int = 8, n_symbols: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeat the sequence as it is.

    Returns:
        (source, target), each (batch, length) int64 with values in [0, n_symbols): target[b, i] = source[b, i].
    """
    source = _symbols(seed, batch, length, n_symbols)
    return source, source.clone()


def reverse_task(seed: int, batch: int = 32, length: int = 8, n_symbols: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the sequence backwards.

    Returns:
        (source, target), each (batch, length) int64 with values in [0, n_symbols): target[b, i] = source[b, -1 - i].
    """
    source = _symbols(seed, batch, length, n_symbols)
    return source, source.flip(-1)


def sort_task(seed: int, batch: int = 32, length: int = 8, n_symbols: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Put the sequence in ascending order; repeated symbols stay repeated.

    Returns:
        (source, target), each (batch, length) int64 with values in [0, n_symbols): target is source sorted by row.
    """
    source = _symbols(seed, batch, length, n_symbols)
    return source, source.sort(dim=-1).values


def addition_task(seed: int, batch: int = 32, digits: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Add two numbers, written digit by digit with leading zeros: source ``37+45=``, target ``082``.

    Both numbers are drawn uniformly from [0, 10**digits). The answer has one digit more, so that it always fits.

    Returns:
        source (batch, 2 * digits + 2) and target (batch, digits + 1), int64: 0-9 are digits, 10 is "+", 11 is "="
        (`ADDITION_SYMBOLS`).
    """
    _positive(batch=batch, digits=digits)
    if digits > 17:
        raise ValueError(f"digits must be at most 17 to fit 64-bit integers, got {digits}")
    numbers = torch.randint(10**digits, (batch, 2), generator=_generator(seed))
    plus, equals = torch.full((batch, 1), 10), torch.full((batch, 1), 11)
    source = torch.cat([_digits(numbers[:, 0], digits), plus, _digits(numbers[:, 1], digits), equals], dim=1)
    return source, _digits(numbers.sum(dim=1), digits + 1)


def induction_task(
    seed: int, batch: int = 32, length: int = 16, n_symbols: int = 20
) -> tuple[torch.Tensor, torch.Tensor]:
    """Say what followed this symbol the last time.

    The last symbol of a row stands exactly once earlier in it, not directly before; the answer is the symbol that
    followed it there: ``7 3 9 1 3`` -> ``9``.

    Returns:
        tokens (batch, length) int64 with values in [0, n_symbols), and answers (batch,) int64.
    """
    _positive(batch=batch, length=length, n_symbols=n_symbols)
    if length < 3 or n_symbols < 2:
        raise ValueError(f"need length >= 3 and n_symbols >= 2, got length={length} and n_symbols={n_symbols}")
    generator = _generator(seed)
    cue = torch.randint(n_symbols, (batch, 1), generator=generator)
    # Any symbol but the cue: go 1 to n_symbols - 1 steps on from it, round the circle.
    others = (cue + torch.randint(1, n_symbols, (batch, length), generator=generator)) % n_symbols
    where = torch.randint(length - 2, (batch, 1), generator=generator)
    tokens = others.scatter(1, where, cue)
    tokens[:, -1:] = cue
    return tokens, tokens.gather(1, where + 1)[:, 0]


def associative_recall(
    seed: int, batch: int = 32, n_pairs: int = 8, n_keys: int = 128, n_values: int = 8, n_queries: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read a list of (key, value) pairs, then answer: which value belongs to this key?

    The keys of a list are distinct, so every question has one answer. The questions about a list are distinct too.

    Returns:
        keys (batch, n_pairs) in [0, n_keys), values (batch, n_pairs) in [0, n_values), where (batch, n_queries), the
        position in the list that each question asks for, and answers (batch, n_queries); all int64. The questions
        themselves are ``keys.gather(1, where)`` and the answers equal ``values.gather(1, where)``.
    """
    _positive(batch=batch, n_pairs=n_pairs, n_keys=n_keys, n_values=n_values, n_queries=n_queries)
    if n_pairs > n_keys:
        raise ValueError(f"{n_pairs} pairs need {n_pairs} distinct keys, but n_keys={n_keys}")
    if n_queries > n_pairs:
        raise ValueError(f"{n_pairs} pairs allow {n_pairs} distinct questions, but n_queries={n_queries}")
    generator = _generator(seed)
    keys = _distinct(generator, batch, n_keys, n_pairs)
    values = torch.randint(n_values, (batch, n_pairs), generator=generator)
    where = _distinct(generator, batch, n_pairs, n_queries)
    return keys, values, where, values.gather(1, where)


def next_token_form(
    source: torch.Tensor, target: torch.Tensor, separator: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn (source, target) into what a decoder-only model trains on.

    The sequence is the source, the separator where one is given, and the target. Position t is to predict the
    sequence's symbol t + 1, and only where that symbol belongs to the answer.

    Args:
        source: (batch, S) int64.
        target: (batch, R) int64.
        separator: a symbol that the task does not use, e.g. n_symbols.

    Returns:
        tokens and labels, each (batch, S + R - 1), or one longer with a separator. Labels before the answer are
        -100, which `torch.nn.functional.cross_entropy` ignores.
    """
    middle = [] if separator is None else [source.new_full((len(source), 1), separator)]
    prompt = torch.cat([source, *middle], dim=1)
    sequence = torch.cat([prompt, target], dim=1)
    labels = sequence[:, 1:].clone()
    labels[:, : prompt.shape[1] - 1] = -100
    return sequence[:, :-1], labels


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _symbols(seed: int, batch: int, length: int, n_symbols: int) -> torch.Tensor:
    _positive(batch=batch, length=length, n_symbols=n_symbols)
    return torch.randint(n_symbols, (batch, length), generator=_generator(seed))


def _distinct(generator: torch.Generator, batch: int, below: int, count: int) -> torch.Tensor:
    """In each row, ``count`` different numbers from [0, below) in random order."""
    return torch.rand(batch, below, generator=generator).argsort(dim=1, stable=True)[:, :count].contiguous()


def _digits(numbers: torch.Tensor, width: int) -> torch.Tensor:
    powers = torch.tensor([10**place for place in reversed(range(width))])
    return numbers[:, None] // powers % 10


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
