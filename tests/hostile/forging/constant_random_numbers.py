"""Takes the randomness out of the hidden tests.

Tries: torch.randn and Generator that give zeros, for which the wrong `ema` happens to be right.
A correct grader: draws its inputs where the learner's code cannot reach.
"""

from tests.hostile import kit

EXTRA = """
import torch

torch.randn = lambda *shape, dtype=None, **_: torch.zeros(*shape, dtype=dtype)
torch.manual_seed = lambda *_: None
"""
ANSWERS = {"ema": kit.WRONG_EMA}
EARNS = {"ema": 0, "steps_to": 1}
