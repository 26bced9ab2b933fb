"""Replaces the course's own checks.

Tries: coursekit.check.close, equal, that, raises and gradients that do nothing, in the module that the tests import
from.
A correct grader: runs its tests with its own checks; wrong answers earn nothing.
"""

from tests.hostile import kit

EXTRA = """
from coursekit import check

check.close = check.equal = check.that = check.raises = check.gradients = lambda *_, **__: None
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
