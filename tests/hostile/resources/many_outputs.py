"""Displays more than anybody can look at.

Tries: twelve thousand displayed objects, one of 30 MB, data that is no JSON, and fifty thousand stream writes.
A correct grader: keeps some of it, and gives the points.
"""

EXTRA = """
import sys
from IPython.display import display

display({"text/html": "<p>" * 10_000_000}, raw=True)
display({"application/json": {"a": object(), 3: float("nan"), "b": b"x"}}, raw=True)
for number in range(12_000):
    display(number)
for number in range(50_000):
    print(number, file=sys.stderr if number % 2 else sys.stdout)
"""
EARNS = {"ema": 4, "steps_to": 1}
LIMITS = {"cell_seconds": 30.0, "notebook_seconds": 60.0}


def AFTER(outcome):
    assert len(outcome.outputs()) < 10_000_000
