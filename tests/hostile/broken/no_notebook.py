"""Tries: nothing. The notebook was saved under another name.

A correct grader: says that it is not there, under the name it should have.
"""

from tests.hostile import kit

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "not-found"


def FILES(folder, course):
    notebook = folder / f"{kit.LABS['ema'].stem}.ipynb"
    notebook.rename(folder / f"{notebook.stem} (1).ipynb")
