"""Every gate runs once for each lab, or for each exercise, that is found; `--lab ch01/lab03` chooses."""

from __future__ import annotations

from autograder.labs import catalog


def pytest_generate_tests(metafunc):
    chosen = metafunc.config.getoption("--lab")
    labs = [lab for lab in catalog() if not chosen or lab.id in chosen]
    if "exercise" in metafunc.fixturenames:
        pairs = [(lab, cell.name) for lab in labs for cell in lab.exercises]
        metafunc.parametrize(("lab", "exercise"), pairs, ids=[f"{lab.id}-{name}" for lab, name in pairs])
    elif "lab" in metafunc.fixturenames:
        metafunc.parametrize("lab", labs, ids=[lab.id for lab in labs])
