"""Writes a report of its own to whatever is open, and ends before the true one is made.

Tries: a reply that says every cell went well, on every open descriptor, from inside the first call that a test makes.
A correct grader: takes what comes from that process as an answer to one call and never as a report.
"""

from tests.hostile import kit

EXTRA = """
import json
import os


def report():
    names = ["test_ema", "test_ema_2", "test_steps_to"]
    cells = [{"id": name, "outputs": [], "error": None, "execution_count": 1, "seconds": 0.0} for name in names]
    result = {"cells": cells, "seconds": 0.1, "peak_mebibytes": 1.0, "connections": [], "ended": "done"}
    for descriptor in range(3, 64):
        try:
            os.set_blocking(descriptor, False)
            os.write(descriptor, json.dumps({"result": result}).encode() + b"\\n")
        except OSError:
            pass
    os._exit(0)
"""
ANSWERS = {"ema": "def ema(x, beta, correct_bias=True):\n    report()\n", "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
