"""Fixtures that all tests share: a warm process, and a small course of its own for each test that changes things."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from autograder.paths import use_own_programs

use_own_programs()
ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--lab", action="append", default=[], help="only the gates of this lab, such as ch01/lab03")


# First, because xdist reads the marks in a hook of the same name that otherwise comes before this one.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """With two processes (`course test`): a file stays in one of them, but gates are divided by lab."""
    for item in items:
        is_gate = item.path.parent.name == "gates" and hasattr(item, "callspec")
        lab = item.callspec.params["lab"].id if is_gate else ""
        item.add_marker(pytest.mark.xdist_group(f"gates {lab}" if is_gate else item.path.name))


@pytest.fixture(scope="session")
def zygote():
    from autograder.warm import Zygote

    with Zygote(models=True) as warm:
        yield warm


@pytest.fixture
def tiny_course(tmp_path, monkeypatch):
    """A course of one small lab (exponential moving averages) in a folder of its own."""
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path))
    return make_course(tmp_path)


@pytest.fixture(scope="session")
def built_course(tmp_path_factory):
    """The tiny course, built once for all tests: read it or copy it, but change nothing in it."""
    from autograder.build import build

    root = make_course(tmp_path_factory.mktemp("course"))
    build(root)
    return root


@pytest.fixture(scope="session")
def nbgrader_class(built_course, tmp_path_factory):
    """A term of the tiny course with stock nbgrader and two learners.

    Ann has everything right and hands in over a local exchange. Ben lacks one check in the first exercise, has not
    begun the second, and sends his file.
    """
    from tests import learners
    from tests.nbgrader_shell import nbgrader

    folder = tmp_path_factory.mktemp("nbgrader")
    root, desk, exchange = folder / "course", folder / "desk", f"--Exchange.root={folder / 'exchange'}"
    shutil.copytree(built_course, root)
    for place in (desk, folder / "exchange"):
        place.mkdir()
    (folder / "exchange").chmod(0o777)
    course, chapter, file = ["--course", "attention-to-silicon", exchange], learners.CHAPTER, f"{learners.STEM}.ipynb"
    right = learners.reference(root)
    unchecked = {"ema": right["ema"].replace("not 0 <= beta < 1", "not beta < 1")}
    sent = root / "grading" / "submitted" / "ben" / chapter / file
    sent.parent.mkdir(parents=True)
    for place, answers in ((desk / "solved.ipynb", right), (desk / "untouched.ipynb", {}), (sent, unchecked)):
        place.write_text(json.dumps(learners.notebook(root, answers)), encoding="utf-8")
    terms = [
        (root, ["generate_assignment", chapter, "--force"], ["release_assignment", chapter, exchange]),
        (
            desk,
            ["list", *course],
            ["fetch_assignment", chapter, *course],
            ["validate", f"{chapter}/{file}"],
            ["type in", "solved.ipynb", f"{chapter}/{file}"],
            ["submit", chapter, "--student=ann", *course],
            ["validate", "solved.ipynb"],
        ),
        (
            root,
            ["collect", chapter, exchange],
            ["autograde", chapter],
            ["generate_feedback", chapter],
            ["release_feedback", chapter, "--student=ann", exchange],
            ["export"],
        ),
        (desk, ["fetch_feedback", chapter, "--student=ann", *course]),
    ]
    said = []
    for place, *commands in terms:
        outputs = nbgrader(place, folder / f"home of {place.name}", *commands)
        said += [(command[0], output) for command, output in zip(commands, outputs, strict=True)]
    return SimpleNamespace(root=root, desk=desk, said=said)


def make_course(root: Path) -> Path:
    """Put the sources of the tiny course into an empty folder."""
    for name in ("_config.yml", "_toc.yml", "nbgrader_config.py"):
        shutil.copy(ROOT / name, root / name)
    folder = root / "source_solutions" / "ch90_example"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "data" / "lab01_ema.py", folder / "lab01_ema.py")
    return root
