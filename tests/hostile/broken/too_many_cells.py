"""Tries: nothing, or to keep the grader busy: fifty thousand cells.

A correct grader: refuses it by name, or grades it in its time.
"""

from tests import learners

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "too-large"


def NOTEBOOK(content):
    content["cells"] += [learners.code_cell("1 + 1") | {"id": f"cell{n}"} for n in range(50_000)]
    return content
