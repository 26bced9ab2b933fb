"""Tries: nothing, or to overflow a stack: lists in lists, a hundred thousand deep.

A correct grader: refuses the file by name.
"""

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "not-json"


def NOTEBOOK(content):
    return b'{"cells": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
