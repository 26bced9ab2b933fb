"""Tries: nothing, or to stop the class: the notebook is a named pipe that nobody writes to.

A correct grader: does not wait for it, and says what it found.
"""

import os

from tests.hostile import kit

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "not-a-file"


def FILES(folder, course):
    (folder / f"{kit.LABS['ema'].stem}.ipynb").unlink()
    os.mkfifo(folder / f"{kit.LABS['ema'].stem}.ipynb")
