"""Tries: nothing. All test cells and one answer were deleted.

A correct grader: runs the tests all the same, and says what was missing.
"""

from tests import learners
from tests.hostile import kit

EARNS = {"ema": 0, "steps_to": 1}
STATUSES = {"ema": "missing"}
FLAGS = ("was missing",)


def NOTEBOOK(content):
    answer = kit.answer_cell(content, "ema")
    content["cells"] = [cell for cell in content["cells"] if cell is not answer and not learners.is_test(cell)]
    return content
