"""Replaces what compares tensors by functions that always agree.

Tries: torch.isclose, torch.allclose and torch.equal that say yes, before the tests run.
A correct grader: compares in a process in which nothing was replaced. The wrong `ema` earns nothing, the right
`steps_to` its point.
"""

from tests.hostile import kit

EXTRA = """
import torch

torch.isclose = lambda a, b, **_: torch.ones_like(a, dtype=torch.bool)
torch.allclose = torch.equal = lambda *_, **__: True
"""
ANSWERS = {"ema": kit.WRONG_EMA}
EARNS = {"ema": 0, "steps_to": 1}
