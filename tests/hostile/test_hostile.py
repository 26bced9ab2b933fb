"""Every hostile and every broken submission, each in a class of honest ones."""

from __future__ import annotations

import sys

import pytest

from tests.hostile import checks
from tests.hostile.case import GROUPS, cases

CASES = cases()


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of parts of Linux")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_earns_what_its_code_earns_and_touches_nobody_else(case, stage):
    outcome = stage.run(case)
    problems = checks.earned(outcome) + checks.honest(outcome, stage) + checks.harmless(outcome, stage)
    if problems:
        pytest.fail("\n".join([case.about, *problems]), pytrace=False)
    if case.after:
        case.after(outcome)


def test_there_are_cases_of_every_group():
    assert len(CASES) >= 60
    assert {case.group for case in CASES} == set(GROUPS)
