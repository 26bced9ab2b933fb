"""Tries: nothing. The file has the marks of a merge that was not finished.

A correct grader: says that it is no notebook, at which line.
"""

import json

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "not-json"
SAYS = ("line",)


def NOTEBOOK(content):
    lines = json.dumps(content, indent=1).splitlines()
    lines[10:10] = ["<<<<<<< HEAD", "======="]
    return "\n".join(lines).encode()
