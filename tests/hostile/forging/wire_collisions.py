"""Answers with numbers that all fall into one place of a hash table.

Tries: a set of ten thousand integers with the same hash, which takes its receiver seconds to put together.
A correct grader: is held up for no longer than the notebook's time, and grades the others meanwhile.
"""

ANSWERS = {
    "ema": """class Distinct(int):
    def __hash__(self):
        return id(self)


def ema(x, beta, correct_bias=True):
    return {Distinct(n * ((1 << 61) - 1)) for n in range(1, 10_000)}
"""
}
EARNS = {"ema": 0, "steps_to": {0, 1}}
STATUS = {"graded", "timeout"}
LIMITS = {"cell_seconds": 5.0, "notebook_seconds": 20.0}
