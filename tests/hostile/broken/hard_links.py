"""Tries: nothing. The notebook's file has a second name, as tools that save room make
them; it might be anybody's.

A correct grader: gives the points, and says that the file has several names.
"""

import os

from tests.hostile import kit

EARNS = {"ema": 4, "steps_to": 1}
FLAGS = ("hard link",)


def FILES(folder, course):
    os.link(folder / f"{kit.LABS['ema'].stem}.ipynb", folder / "backup.ipynb")
