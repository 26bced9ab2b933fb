"""Every gate runs once for each lab, or for each exercise, that is found; `--lab ch01/lab03` chooses."""

from __future__ import annotations

import json

import pytest

from autograder import gates
from autograder.build import index, source_notebook
from autograder.lab_model import solution_source
from autograder.labs import catalog
from autograder.setup_cell import setup_cell
from autograder.verdict import judge
from coursekit.reference import apply_edits
from tests.conftest import ROOT

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


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory):
    """The source notebook and the index of a lab, built straight from its source."""
    folder, known = tmp_path_factory.mktemp("notebooks"), {}

    def make(lab):
        if lab.id not in known:
            notebook = source_notebook(lab, setup_cell(ROOT))
            path = folder / f"{lab.chapter}-{lab.stem}.ipynb"
            path.write_text(json.dumps(notebook), encoding="utf-8")
            known[lab.id] = path, index(lab, notebook)
        return known[lab.id]

    return make


@pytest.fixture(scope="session")
def handed_in(notebooks, zygote):
    """A released notebook filled in, and its verdict in one process; once for all gates that ask.

    What is filled in: "the reference", nothing ("untouched"), or "one mistake in each exercise".
    """
    known = {}

    def make(lab, what):
        if (lab.id, what) not in known:
            content = json.loads((ROOT / "release" / lab.chapter / f"{lab.stem}.ipynb").read_text(encoding="utf-8"))
            for cell in content["cells"]:
                marks = cell["metadata"].get("nbgrader", {})
                if marks.get("solution") and cell["cell_type"] == "code" and what != "untouched":
                    source = next(c.source for c in lab.exercises if c.name == marks["grade_id"])
                    edits = next(iter(lab.mistakes(marks["grade_id"]).values())) if "mistake" in what else []
                    cell["source"] = apply_edits(solution_source(source), edits)
            raw = json.dumps(content).encode()
            known[lab.id, what] = raw, judge(notebooks(lab)[1], raw, zygote, root=ROOT)
        return known[lab.id, what]

    return make


def pytest_generate_tests(metafunc):
    chosen = metafunc.config.getoption("--lab")
    labs = [lab for lab in catalog() if not chosen or lab.id in chosen]
    if "exercise" in metafunc.fixturenames:
        pairs = [(lab, cell.name) for lab in labs for cell in lab.exercises]
        metafunc.parametrize(("lab", "exercise"), pairs, ids=[f"{lab.id}-{name}" for lab, name in pairs])
    elif "lab" in metafunc.fixturenames:
        metafunc.parametrize("lab", labs, ids=[lab.id for lab in labs])
