"""Fixtures that all tests share: a warm process, and a small course of its own for each test that changes things."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autograder.paths import use_own_programs

use_own_programs()
ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--lab", action="append", default=[], help="only the gates of this lab, such as ch01/lab03")


@pytest.fixture(scope="session")
def zygote():
    from autograder.warm import Zygote

    with Zygote() as warm:
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


def make_course(root: Path) -> Path:
    """Put the sources of the tiny course into an empty folder."""
    for name in ("_config.yml", "_toc.yml", "nbgrader_config.py"):
        shutil.copy(ROOT / name, root / name)
    folder = root / "source_solutions" / "ch90_example"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "data" / "lab01_ema.py", folder / "lab01_ema.py")
    return root
