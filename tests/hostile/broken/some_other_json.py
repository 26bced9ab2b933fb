"""Tries: nothing. The file is JSON but no notebook: a list, as some exporters write.

A correct grader: says so and gives nothing.
"""

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "not-a-notebook"


def NOTEBOOK(content):
    return b'[{"cells": []}]'
