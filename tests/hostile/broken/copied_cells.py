"""Tries: nothing. Test and answer cells were copied, names and all.

A correct grader: runs the copies of answers in their order, counts every test once, and says so.
"""

from tests import learners

EARNS = {"ema": 4, "steps_to": 1}
FLAGS = ("stood 2 times",)


def NOTEBOOK(content):
    content["cells"] += [cell for cell in content["cells"] if learners.is_test(cell) or learners.is_answer(cell)]
    return content
