"""Tries: nothing. The file has no byte in it.

A correct grader: says so and gives nothing.
"""

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "empty"


def NOTEBOOK(content):
    return b""
