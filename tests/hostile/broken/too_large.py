"""Tries: nothing. The notebook holds the output of a training run, 30 MB of it.

A correct grader: refuses it with its size and what to do.
"""

import json

EARNS = {"ema": 0, "steps_to": 0}
STATUS = "too-large"
SAYS = ("clear its outputs",)


def NOTEBOOK(content):
    content["cells"][-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 30_000_000}]
    return json.dumps(content).encode()
