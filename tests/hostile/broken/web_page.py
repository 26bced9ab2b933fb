"""Tries: nothing. A web page was saved in place of the notebook, as browsers do.

A correct grader: says that it is no notebook.
"""

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "not-json"


def NOTEBOOK(content):
    return b"<!DOCTYPE html><html><head><title>lab01_ema.ipynb</title></head><body>Sign in</body></html>"
