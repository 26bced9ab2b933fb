"""Tries: nothing. The upload broke off in the middle of the file.

A correct grader: says so, gives nothing, and shows no answer.
"""

import json

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "truncated"


def NOTEBOOK(content):
    return json.dumps(content).encode()[:3000]
