"""Hands in tests and metadata of its own.

Tries: test cells that pass, worth a thousand points each, and answers that are marked as tests.
A correct grader: takes tests and points from the release.
"""

from tests import learners
from tests.hostile import kit

ANSWERS = {"ema": kit.WRONG_EMA}
EARNS = {"ema": 0, "steps_to": 1}


def NOTEBOOK(content):
    for cell in content["cells"]:
        if learners.is_test(cell):
            cell["source"] = "pass"
            cell["metadata"]["nbgrader"] |= {"points": 1000, "locked": False}
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "passed"}]
    content["metadata"] |= {"course": {"lab": "ch91/lab01", "points": 5}, "grade": 5}
    return content
