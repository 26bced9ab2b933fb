"""Tries: nothing. timestamp.txt holds no date.

A correct grader: gives the points and says that the time is unknown.
"""

EARNS = {"ema": 4, "steps_to": 1}
FLAGS = ("timestamp.txt",)


def FILES(folder, course):
    (folder / "timestamp.txt").write_bytes(b"the day after \xff tomorrow")
