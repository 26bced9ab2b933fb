"""Which references a task takes along: exactly those that its cells can ask for."""

from __future__ import annotations

import pytest

from autograder.labs import find
from autograder.references import carried, references
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("source", "labs"),
    [
        ("softmax = carry('ch01/lab01', 'softmax')", {"ch01/lab01"}),
        ("import coursekit\nx = [coursekit.carry('ch01/lab01', 'a'), coursekit.carry('ch02/lab03', 'b')]", None),
        ("def later():\n    return carry('ch01/lab01', 'a')", {"ch01/lab01"}),
        ("# carry('ch01/lab01', 'a')\ntext = \"carry('ch01/lab01', 'a')\"", set()),
        ("carry\ncarry()\nother('ch01/lab01')\ncarry(lab, 'a')", set()),
        ("%time carry('ch01/lab01', 'a')", set()),
    ],
)
def test_carried_labs_are_found_in_code_and_not_in_text(source, labs):
    assert carried(source) == ({"ch01/lab01", "ch02/lab03"} if labs is None else labs)


def carrying(lab, *cells):
    return {"lab": lab, "cells": [{"kind": kind, "source": source} for kind, source in cells]}


@pytest.fixture
def chain(tmp_path):
    """Three labs, each of which carries from the one before, and one beside them."""
    for folder in ("source_solutions", "coursekit/solved"):
        place = tmp_path / folder / "ch01_x"
        place.mkdir(parents=True)
        (place / "lab01_a.py").write_text("a = 1")
        (place / "lab02_b.py").write_text("a = carry('ch01/lab01', 'a')")
        (place / "lab03_c.py").write_text("b = carry('ch01/lab02', 'b')\nc = carry('ch01/lab03', 'c')")
        (place / "lab04_d.py").write_text("d = 1")
    return tmp_path


def test_what_carried_labs_carry_comes_along(chain):
    found = references(carrying("ch01/lab04", ("given", "c = carry('ch01/lab03', 'c')")), chain)
    assert sorted(found) == [f"ch01_x/lab0{number}_{name}.py" for number, name in enumerate("abcd", 1)]
    assert found["ch01_x/lab02_b.py"] == "a = carry('ch01/lab01', 'a')"
    assert sorted(references(carrying("ch01/lab02"), chain)) == ["ch01_x/lab01_a.py", "ch01_x/lab02_b.py"]


def test_a_demonstration_may_carry_and_prose_does_not(chain):
    cells = ("plain", "a = carry('ch01/lab01', 'a')"), ("markdown", "carry('ch01/lab02', 'b')")
    assert sorted(references(carrying("ch01/lab04", *cells), chain)) == ["ch01_x/lab01_a.py", "ch01_x/lab04_d.py"]


def test_a_lab_that_is_not_there_is_named(chain):
    with pytest.raises(LookupError, match="ch07/lab07"):
        references(carrying("ch01/lab01", ("given", "carry('ch07/lab07', 'x')")), chain)


def test_the_labs_of_chapter_1_get_what_they_carry():
    names = {}
    for lab in (find("ch01/lab01", ROOT), find("ch01/lab04", ROOT)):
        found = references(carrying(lab.id, *((cell.kind, cell.source) for cell in lab.cells)), ROOT)
        names[lab.id] = [name.partition("/")[2][:5] for name in sorted(found)]
    assert names == {"ch01/lab01": ["lab01"], "ch01/lab04": ["lab01", "lab03", "lab04"]}
