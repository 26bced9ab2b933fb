"""Ratios of times, measured so that a busy machine disturbs both sides alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def ratio(slow: Callable[[], Any], fast: Callable[[], Any], *, rounds: int = 7) -> float:
    """How many times as long ``slow()`` takes as ``fast()``: the median of ``rounds`` interleaved pairs.

    CPU time of this thread (`time.thread_time`) with one torch thread, after one unmeasured call of each.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        slow(), fast()
        return statistics.median(_seconds(slow) / max(_seconds(fast), 1e-9) for _ in range(rounds))
    finally:
        torch.set_num_threads(threads)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start
