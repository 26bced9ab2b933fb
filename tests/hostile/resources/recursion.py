"""Recurs until the stack ends.

Tries: a plain recursion, then one in C without a limit, which ends the process.
A correct grader: counts both as failed; cells before and after are not touched.
"""

ANSWERS = {
    "ema": """def ema(x, beta, correct_bias=True):
    return ema(x, beta, correct_bias)
""",
    "steps_to": """import sys


def steps_to(share, beta):
    sys.setrecursionlimit(10**9)
    deep = []
    for _ in range(10**6):
        deep = [deep]
    return hash(repr(deep))
""",
}
EARNS = {"ema": 0, "steps_to": 0}
