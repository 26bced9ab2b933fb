"""Answers every call twice.

Tries: a fork inside the called function, so that two processes go on and both answer; the second answer might be taken
for that of the next call.
A correct grader: gives nothing for wrong answers, however many there are.
"""

EXTRA = """
import os


def doubled(value):
    if os.fork() == 0:
        return value + 1
    return value
"""
ANSWERS = {
    "ema": "def ema(x, beta, correct_bias=True):\n    return doubled(x)\n",
    "steps_to": "def steps_to(share, beta):\n    return doubled(-2)\n",
}
EARNS = {"ema": 0, "steps_to": 0}
LIMITS = {"cell_seconds": 2.0}
