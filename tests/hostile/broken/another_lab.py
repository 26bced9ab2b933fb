"""Tries: nothing. The notebook of another lab was saved under this one's name.

A correct grader: gives nothing, and says that the answers are missing.
"""

import json

from tests.hostile import kit

EARNS = {"ema": 0, "steps_to": 0}
STATUSES = {"ema": "missing", "steps_to": "missing"}
FLAGS = ("was missing",)


def FILES(folder, course):
    other = kit.notebook(course, kit.LABS["layer"], kit.LABS["layer"].answers)
    (folder / f"{kit.LABS['ema'].stem}.ipynb").write_text(json.dumps(other))
