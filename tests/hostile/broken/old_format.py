"""Tries: nothing. The notebook was saved in the format of 2014.

A correct grader: converts it, gives all points, and says so.
"""

import json

import nbformat

EARNS = {"ema": 4, "steps_to": 1}
FLAGS = ("old format 3",)


def NOTEBOOK(content):
    notebook = nbformat.reads(json.dumps(content | {"nbformat_minor": 4}), as_version=4)
    return nbformat.writes(nbformat.convert(notebook, 3), 3).encode()
