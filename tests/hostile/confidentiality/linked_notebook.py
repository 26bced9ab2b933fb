"""Hands in a link in place of a notebook.

Tries: a symbolic link to a classmate's notebook.
A correct grader: does not follow it and says what it found; nobody earns with another's file.
"""

from tests.hostile import kit

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "link"


def FILES(folder, course):
    notebook = folder / f"{kit.LABS['ema'].stem}.ipynb"
    notebook.unlink()
    notebook.symlink_to(folder.parents[1] / "ann" / folder.name / notebook.name)
