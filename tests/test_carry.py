"""Carrying an earlier lab's work forward: the learner's own where it passes, else the reference, and always a word."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from coursekit import carry, reference
from tests import learners
from tests.conftest import ROOT

MINE = '''def ema(x, beta, correct_bias=True):
    """Mine."""
    print("mine was called")
    if not 0 <= beta < 1:
        raise ValueError("beta")
    average = torch.zeros_like(x[0])
    rows = []
    for t, row in enumerate(x):
        average = beta * average + (1 - beta) * row
        rows.append(average / (1 - beta ** (t + 1)) if correct_bias else average)
    return torch.stack(rows)
'''
#: Fails a hidden test alone: the visible ones never ask for a beta below zero.
HALF = MINE.replace("0 <= beta", "beta")
WRONG = MINE.replace("t + 1", "t + 2")


@pytest.fixture(autouse=True)
def live(built_course, monkeypatch):
    monkeypatch.setenv("COURSE_ROOT", str(built_course))
    for name in ("COURSE_GRADING", "NBGRADER_EXECUTION"):
        monkeypatch.delenv(name, raising=False)
    reference.load.cache_clear()
    yield
    reference.load.cache_clear()


@pytest.fixture
def own(built_course, tmp_path):
    """Put a learner's notebook of the earlier lab where the labs are worked on."""
    folder = tmp_path / "work" / learners.CHAPTER
    folder.mkdir(parents=True)
    (tmp_path / "work" / "ch91_next").mkdir()
    path = folder / f"{learners.STEM}.ipynb"

    def write(content):
        if isinstance(content, str):
            content = learners.notebook(built_course, {"ema": content})
        if isinstance(content, dict):
            content = json.dumps(content).encode()
        path.write_bytes(content)
        return path

    return write


def is_mine(function):
    return function.__doc__ == "Mine."


def is_reference(function):
    return "along the first axis" in function.__doc__


@pytest.mark.parametrize("start", ["ch90_example", "ch91_next", "."])
def test_your_own_is_taken_beside_this_notebook_or_in_its_chapter_s_folder(own, tmp_path, capsys, monkeypatch, start):
    own(MINE)
    assert is_mine(carry(learners.LAB, "ema", start=tmp_path / "work" / start))
    assert capsys.readouterr().out == "ema: your own, from lab01_ema.ipynb\n"
    monkeypatch.chdir(tmp_path / "work" / start)
    assert is_mine(carry(learners.LAB, "ema")), "the working directory counts where no folder is named"


def test_your_own_works_with_the_cells_that_it_needs(own, tmp_path):
    import torch

    notebook = own(MINE)
    ema = carry(learners.LAB, "ema", start=notebook.parent)
    assert torch.allclose(ema(torch.full((3, 1), 5.0), 0.9), torch.full((3, 1), 5.0))


def test_only_visible_checks_decide(own):
    assert is_mine(carry(learners.LAB, "ema", start=own(HALF).parent))


def test_without_a_notebook_the_reference_comes_and_says_so(tmp_path, capsys):
    assert is_reference(carry(learners.LAB, "ema", start=tmp_path))
    assert capsys.readouterr().out == f"ema: the reference (no notebook of lab {learners.LAB} lies beside this one)\n"


def without(notebook, condition):
    return notebook | {"cells": [cell for cell in notebook["cells"] if not condition(cell)]}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (WRONG, "does not pass its visible checks: What:  a constant"),
        ("def ema(*args, **kwargs):\n    raise NotImplementedError", "is not written yet"),
        (MINE + "    return (", "was never closed"),
        (MINE + "import sys\nsys.exit('enough')\n", "enough"),
        (MINE.replace("def ema", "def my_ema"), "ema is not defined there"),
        ((learners.is_test,), "its check cell is missing"),
        ((learners.is_answer,), "ema is not defined there"),
        (b"", "Expecting value"),
        (b'{"cells": [', "Expecting value"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[]", ""),
        (b"{}", "cells"),
        (b'{"cells": [1, null]}', ""),
        (b'{"cells": [{"cell_type": "code", "source": "", "metadata": {"nbgrader": 3}}]}', ""),
        (bytes(range(256)), "utf-8"),
    ],
    ids=lambda value: f"without {value[0].__name__}" if isinstance(value, tuple) else None,
)
def test_what_does_not_pass_gives_the_reference_and_says_why(own, built_course, capsys, content, why):
    if isinstance(content, tuple):
        content = without(learners.notebook(built_course, {"ema": MINE}), *content)
    assert is_reference(carry(learners.LAB, "ema", start=own(content).parent))
    said = capsys.readouterr().out
    assert said.startswith("ema: the reference (your version in lab01_ema.ipynb ")
    assert why in said
    assert said.count("\n") == 1, "one line, and nothing of what the notebook prints"


def test_a_corrected_notebook_is_read_again(own):
    path = own(WRONG)
    assert is_reference(carry(learners.LAB, "ema", start=path.parent))
    own(MINE)
    os.utime(path, (10**9, 10**9))
    assert is_mine(carry(learners.LAB, "ema", start=path.parent))
    own(WRONG)
    assert is_reference(carry(learners.LAB, "ema", start=path.parent))


@pytest.mark.parametrize("variable", ["COURSE_GRADING", "NBGRADER_EXECUTION"])
def test_while_grading_it_is_always_the_reference(own, monkeypatch, capsys, variable):
    path = own(MINE)
    monkeypatch.setenv(variable, "1")
    assert is_reference(carry(learners.LAB, "ema", start=path.parent))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("grading", [False, True])
@pytest.mark.parametrize(
    ("lab", "name", "message"),
    [
        ("ch90/lab07", "ema", "no lab 'ch90/lab07'"),
        ("ch90", "ema", "no lab 'ch90'"),
        ("../x", "ema", "no lab"),
        (learners.LAB, "emma", "lab ch90/lab01 defines no 'emma'"),
    ],
)
def test_an_unknown_lab_or_name_is_an_error_of_whoever_wrote_the_cell(own, monkeypatch, grading, lab, name, message):
    path = own(MINE)
    if grading:
        monkeypatch.setenv("COURSE_GRADING", "1")
    with pytest.raises(LookupError, match=message):
        carry(lab, name, start=path.parent)


def test_the_notebook_is_only_read(own):
    path = own(MINE)
    before = path.read_bytes(), path.stat().st_mtime_ns
    carry(learners.LAB, "ema", start=path.parent)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_helpers_in_cells_of_your_own_come_along_and_pictures_stay(own, built_course):
    answer = MINE.replace("(1 - beta) * row", "left(beta) * row")
    helpers = "import math\ndef left(beta):\n    return math.fsum([1, -beta])"
    content = learners.notebook(built_course, {"ema": answer}, extra=helpers)
    content["cells"].insert(0, learners.code_cell("raise RuntimeError('a long training run')"))
    assert is_mine(carry(learners.LAB, "ema", start=own(content).parent))


def test_what_a_lab_gives_is_the_labs_own_and_needs_no_word(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_ROOT", str(ROOT))
    here = tmp_path / "ch02_block"
    here.mkdir()
    shutil.copy(ROOT / "release" / "ch02_block" / "lab04_transformer_block.ipynb", here)
    config = carry("ch02/lab04", "BlockConfig", start=here)(d_model=8, n_heads=2, d_ff=16)
    assert (config.d_model, config.norm_first, capsys.readouterr().out) == (8, True, "")
    carry("ch02/lab04", "Block", start=here)
    assert "not written yet" in capsys.readouterr().out
