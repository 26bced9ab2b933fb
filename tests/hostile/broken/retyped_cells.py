"""Tries: nothing. A test became text, and an answer a raw cell, by a keystroke.

A correct grader: runs the test from the release, and takes the answer for what it says.
"""

from tests import learners
from tests.hostile import kit

EARNS = {"ema": {0, 4}, "steps_to": 1}


def NOTEBOOK(content):
    for cell in [kit.answer_cell(content, "ema"), *filter(learners.is_test, content["cells"])]:
        cell["cell_type"] = "raw" if learners.is_answer(cell) else "markdown"
        for name in ("outputs", "execution_count"):
            cell.pop(name, None)
    return content
