"""Crashes the interpreter.

Tries: a read of address zero, in a called function.
A correct grader: counts the tests that were running as failed; the other exercise earns what it earns.
"""

ANSWERS = {"ema": "import ctypes\n\n\ndef ema(x, beta, correct_bias=True):\n    return ctypes.string_at(0)\n"}
EARNS = {"ema": 0, "steps_to": 1}
