"""Forbidden calls that only show when the code runs are flagged by the grader, and cost nothing."""

from __future__ import annotations

import json

import pytest

from autograder.build import index_of
from autograder.split import Terms
from autograder.verdict import judge
from autograder.warm import Zygote
from tests import learners

COMPUTED = """import torch
def ema(x, beta, correct_bias=True):
    if not 0 <= beta < 1:
        raise ValueError("beta")
    scale = 1 - beta ** torch.arange(1, len(x) + 1, dtype=x.dtype)[:, None]
    weights = [(1 - beta) * beta ** torch.arange(t, -1, -1, dtype=x.dtype)[:, None] for t in range(len(x))]
    steps = [(weight * x[: len(weight)]).sum(0) for weight in weights]
    total = [getattr(torch, n) for n in dir(torch) if n == "".join(["cum", "sum"])][0](x, 0)
    out = torch.stack(steps) if steps else x.clone()
    return out / scale if correct_bias else out
"""


@pytest.fixture(scope="module")
def clean():
    with Zygote(clean=True) as warm:
        yield warm


def verdict(built_course, clean, answer):
    answers = learners.reference(built_course) | ({"ema": answer} if answer else {})
    raw = json.dumps(learners.notebook(built_course, answers)).encode()
    return judge(index_of(learners.LAB, built_course), raw, clean, terms=Terms({}))


def test_a_call_that_the_text_hides_is_flagged_with_its_line(built_course, clean):
    found = verdict(built_course, clean, COMPUTED)
    (ema, _) = found.exercises
    assert ema.points == 4, ema.message
    assert "line 8 called cumsum when it ran, which the exercise asks to build" in ema.flags


def test_honest_code_is_not_flagged(built_course, clean):
    found = verdict(built_course, clean, None)
    assert [exercise.flags for exercise in found.exercises] == [[], []]
    assert found.flags == []


def test_what_the_learners_process_says_of_it_is_checked(built_course, clean):
    lie = "[['ema', 'x', 1], 7, [None, 3, 'y' * 9]]"
    forge = f"\nfrom autograder import subject\nsubject.Subject.do_finds = lambda self: {lie}\n"
    found = verdict(built_course, clean, learners.reference(built_course)["ema"] + forge)
    assert found.points == 5
    assert [flag for flag in found.flags if "called" in flag] == [
        "a cell of their own, line 3 called yyyyyyyyy when it ran, which the exercise asks to build"
    ]
