"""Reports on its own cells in the name of the tests.

Tries: reports on own cells below the tests that carry the tests' names, say that all went well, and hold outputs
of kinds that do not exist.
A correct grader: takes each for what it was asked about, an own cell, and keeps the notebook valid.
"""

import nbformat

from tests import learners
from tests.hostile import kit

LAST = """
from autograder import execute

runs = getattr(execute, "run_cell", None) or execute._run_cell
names = iter(["test_ema", "test_ema_2", "test_steps_to"])
ODD = [{"output_type": "stream", "name": "x", "text": 3}, {"output_type": "evil"}, "text", None, [], {}]
ODD += [{"output_type": "display_data", "data": {"text/html": {"a": 1}, "image/png": 7}, "metadata": 3}]


def run_cell(*rest):
    report = runs(*rest)
    report.update(id=next(names, "test_ema"), error=None, outputs=ODD, execution_count=1e9, seconds="none")
    return report


execute.run_cell = execute._run_cell = run_cell
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}


def NOTEBOOK(content):
    content["cells"] += [learners.code_cell("1 + 1") | {"id": f"more{number}"} for number in range(4)]
    return content


def AFTER(outcome):
    nbformat.validate(
        nbformat.from_dict({"cells": outcome.cells(), "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
