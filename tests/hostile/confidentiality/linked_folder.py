"""Hands in a link in place of a folder.

Tries: the chapter's folder is a symbolic link to a classmate's.
A correct grader: does not follow it and says what it found.
"""

import shutil

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "link"


def FILES(folder, course):
    shutil.rmtree(folder)
    folder.symlink_to(folder.parents[1] / "ann" / folder.name)
