"""Every gate runs once for each lab, or for each exercise, that is found; `--lab ch01/lab03` chooses."""

from __future__ import annotations

import pytest

from autograder import gates
from autograder.labs import catalog

#: Of other submissions: what the numbers that hidden tests draw for them come from.
SEEDS = [2_000_000_011]


@pytest.fixture(scope="session")
def trial(zygote):
    """All mistakes of an exercise tried in one process, as learners would make them; once for all gates that ask."""
    known = {}

    def try_once(lab, exercise):
        if (lab.id, exercise) not in known:
            known[lab.id, exercise] = gates.mistakes(lab, exercise, SEEDS, zygote)
        return known[lab.id, exercise]

    return try_once


def pytest_generate_tests(metafunc):
    chosen = metafunc.config.getoption("--lab")
    labs = [lab for lab in catalog() if not chosen or lab.id in chosen]
    if "exercise" in metafunc.fixturenames:
        pairs = [(lab, cell.name) for lab in labs for cell in lab.exercises]
        metafunc.parametrize(("lab", "exercise"), pairs, ids=[f"{lab.id}-{name}" for lab, name in pairs])
    elif "lab" in metafunc.fixturenames:
        metafunc.parametrize("lab", labs, ids=[lab.id for lab in labs])
