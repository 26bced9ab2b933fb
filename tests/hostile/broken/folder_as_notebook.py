"""Tries: nothing. The notebook's name belongs to a folder, in which the notebook lies.

A correct grader: says what it found, and gives nothing.
"""

from tests.hostile import kit

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "not-a-file"


def FILES(folder, course):
    notebook = folder / f"{kit.LABS['ema'].stem}.ipynb"
    content = notebook.read_bytes()
    notebook.unlink()
    notebook.mkdir()
    (notebook / notebook.name).write_bytes(content)
