"""Ends quietly inside a called function.

Tries: SystemExit(0), raised by `ema` when a test calls it.
A correct grader: counts the test as failed and goes on with the next exercise.
"""

ANSWERS = {"ema": "def ema(x, beta, correct_bias=True):\n    raise SystemExit(0)\n"}
EARNS = {"ema": 0, "steps_to": 1}
