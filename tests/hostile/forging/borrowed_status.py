"""Raises the grader's own exceptions.

Tries: a CheckFailed, a NotImplementedError and a class called CellTimeout, with messages that speak of full marks and
markup that would run in a browser.
A correct grader: gives nothing, and shows what was said as text.
"""

EXTRA = """
from coursekit.check import CheckFailed


class CellTimeout(Exception):
    pass
"""
ANSWERS = {
    "ema": """def ema(x, beta, correct_bias=True):
    raise CheckFailed("4 of 4 points", "<b onclick=mallory()>full marks</b>", "**5 of 5 points** (graded)")
""",
    "steps_to": 'def steps_to(share, beta):\n    raise CellTimeout("passed")\n',
}
EARNS = {"ema": 0, "steps_to": 0}


def AFTER(outcome):
    assert "<b onclick" not in outcome.page()
