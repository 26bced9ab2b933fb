"""Tries: nothing. One answer does not compile.

A correct grader: says so for that exercise, and grades the other.
"""

ANSWERS = {"ema": "def ema(x, beta, correct_bias=True)\n    return x\n"}
EARNS = {"ema": 0, "steps_to": 1}
STATUSES = {"ema": "error"}
SAYS = ("does not run",)
