"""Stays for ever in one call that Python cannot interrupt.

Tries: a regular expression that backtracks, in a cell of its own, and a power of a million digits in a called
function.
A correct grader: ends the process from outside, and does not run that cell again.
"""

EXTRA = """
import re

re.match(r"(a+)+$", "a" * 64 + "b")
"""
ANSWERS = {"steps_to": "def steps_to(share, beta):\n    return 7 ** (7**10) % 2\n"}
RUNS = False
EARNS = {"ema": 4, "steps_to": 0}
LIMITS = {"cell_seconds": 1.0}
