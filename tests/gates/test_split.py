"""Learners run their cells and the tests in one process, graders in two: both must give the same marks.

Otherwise `Validate`, `course check` and `nbgrader autograde` would tell a learner something else than the grader.
"""

from __future__ import annotations

import pytest

from autograder import split
from autograder.lab_model import solution_source
from autograder.references import references
from autograder.verdict import judge
from autograder.warm import Zygote
from coursekit.reference import apply_edits
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def clean_zygote():
    with Zygote(clean=True, models=True) as warm:
        yield warm


def pairs(lab, exercise, lab_index):
    """Cells to run: the references, then each mistake of the exercise followed by the tests of that exercise."""
    tests = [cell for cell in lab_index["cells"] if cell["kind"] == "test" and cell["exercise"] == exercise]
    yield from (cell for cell in lab_index["cells"] if cell["kind"] in ("given", "exercise"))
    (answer,) = [cell for cell in lab_index["cells"] if cell["kind"] == "exercise" and cell["exercise"] == exercise]
    reference = solution_source(next(cell.source for cell in lab.exercises if cell.name == exercise))
    for number, (sentence, edits) in enumerate(lab.mistakes(exercise).items()):
        yield answer | {"source": apply_edits(reference, edits), "id": f"mistake {number}"}
        yield from (test | {"id": f"{sentence}: {test['id']}"} for test in tests)


def outcomes(result):
    return {cell["id"]: cell["error"] and cell["error"]["kind"] for cell in result["cells"]}


def test_every_mistake_costs_the_same(lab, exercise, notebooks, trial, clean_zygote):
    _, lab_index = notebooks(lab)
    cells = list(pairs(lab, exercise, lab_index))
    job = {"lab": lab.id, "cells": cells, "cell_seconds": 60, "diagnose": False}
    apart = split.run(job, split.defined(lab_index), clean_zygote, split.Terms(references(lab_index, ROOT)))
    found = outcomes(apart)
    tests = [cell["id"] for cell in lab_index["cells"] if cell["kind"] == "test" and cell["exercise"] == exercise]
    together = trial(lab, exercise).kinds
    assert together, "no mistake was tried"
    for sentence, kinds in together.items():
        assert [found.pop(f"{sentence}: {test}") for test in tests] == kinds, sentence
    assert {name: kind for name, kind in found.items() if kind} == {}, "a cell that defines something fails"


@pytest.mark.parametrize("what", ["the reference", "untouched", "one mistake in each exercise"])
def test_a_notebook_gets_the_same_verdict(lab, what, notebooks, handed_in, clean_zygote):
    _, lab_index = notebooks(lab)
    raw, together = handed_in(lab, what)
    apart = judge(lab_index, raw, clean_zygote, terms=split.Terms(references(lab_index, ROOT)))
    assert apart.to_json() == together.to_json()
    assert apart.points == {"the reference": lab.points, "untouched": 0}.get(what, apart.points)
