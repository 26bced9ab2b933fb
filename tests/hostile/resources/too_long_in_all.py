"""Takes a little less than a cell's time, in every cell.

Tries: twelve cells of a second and a half, where the notebook as a whole has five.
A correct grader: ends the notebook when its time is over, and says so.
"""

from tests import learners

EARNS = {"ema": 0, "steps_to": 0}
STATUS = {"graded", "timeout"}
LIMITS = {"cell_seconds": 3.0, "notebook_seconds": 5.0}


def NOTEBOOK(content):
    cells = [learners.code_cell("import time\n\ntime.sleep(1.5)") | {"id": f"slow{n}"} for n in range(12)]
    return content | {"cells": [*content["cells"][:2], *cells, *content["cells"][2:]]}


def AFTER(outcome):
    assert "longer than 5 s" in outcome.messages()
