"""An answer in words: released without the model answer, marked by a person as in stock nbgrader, and kept."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nbformat
import pytest
from nbgrader.api import Gradebook

from autograder.build import build, index_of
from autograder.checking import check
from autograder.lab_model import LabError
from autograder.labs import find
from tests import learners
from tests.conftest import make_course
from tests.learners import CHAPTER, LAB, STEM
from tests.marks import COURSE, everything
from tests.nbgrader_shell import nbgrader
from tests.stub_pool import StubPool, autograded, grader, hand_in, url

CELL = """
# %% [markdown] manual="self_review" points=6
# **What does beta do to an old value?** Answer in two sentences.
#
# ### BEGIN SOLUTION
# A value's weight falls by the factor beta in each step.
# ### END SOLUTION
"""
MODEL = "falls by the factor"
ANSWER = "It fades.\n\n<script>alert(1)</script> $x$ **bold**"


def add_cell(root, text=CELL):
    path = root / "source_solutions" / CHAPTER / f"{STEM}.py"
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
    return root


def answered(root, answer=None):
    """The released notebook with full marks for the exercises, and an answer in words where one is given."""
    content = learners.notebook(root, learners.reference(root))
    for cell in content["cells"]:
        if learners.grade_id(cell) == "self_review" and answer is not None:
            cell["source"] = answer
    return content


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Ann answers, Ben does not, Cat has lost the cell, and Dan's file is no notebook; graded by us and by nbgrader."""
    root = add_cell(make_course(tmp_path_factory.mktemp("course")))
    build(root)
    lost = answered(root)
    lost["cells"] = [cell for cell in lost["cells"] if learners.grade_id(cell) != "self_review"]
    hand_in(root, "ann", answered(root, ANSWER))
    hand_in(root, "ben", answered(root))
    hand_in(root, "cat", lost)
    hand_in(root, "dan", b"{")
    grade = grader(root, StubPool())
    results = grade(feedback=True)
    stock, home = root / "stock.db", tmp_path_factory.mktemp("home")
    with_db = [f"--CourseDirectory.db_url=sqlite:///{stock}", "--CourseDirectory.autograded_directory=stock"]
    commands = [["autograde", CHAPTER, *with_db, f"--student={name}"] for name in ("ann", "ben")]
    nbgrader(root, home, ["generate_assignment", CHAPTER, "--force", *with_db], *commands)
    return SimpleNamespace(root=root, grade=grade, results=results, stock=f"sqlite:///{stock}")


def marks(root, names):
    """By learner: what a program gave, what a person gave, and whether a person should look."""
    with Gradebook(url(root), COURSE) as book:
        grades = [book.find_grade("self_review", STEM, CHAPTER, name) for name in names]
        return [(grade.auto_score, grade.manual_score, grade.needs_manual_grade) for grade in grades]


def mark(root, name, points):
    """What Formgrader does when an instructor types points."""
    with Gradebook(url(root), COURSE) as book:
        grade = book.find_grade("self_review", STEM, CHAPTER, name)
        grade.manual_score, grade.needs_manual_grade = points, False
        book.db.commit()


def test_learners_get_the_question_without_the_model_answer(course):
    text = (course.root / "release" / CHAPTER / f"{STEM}.ipynb").read_text(encoding="utf-8")
    (cell,) = [cell for cell in json.loads(text)["cells"] if learners.grade_id(cell) == "self_review"]
    assert cell["cell_type"] == "markdown"
    said = "".join(cell["source"])
    assert "What does beta do" in said
    assert "YOUR ANSWER HERE" in said
    assert MODEL not in text
    assert MODEL in (course.root / "build/source" / CHAPTER / f"{STEM}.ipynb").read_text()
    assert "5, and 6 by hand" in text


def test_marks_are_those_of_stock_nbgrader(course):
    ours, stock = everything(url(course.root)), everything(course.stock)
    honest = [row for row in ours["grade"] if row[0] in ("ann", "ben")]
    assert honest == stock["grade"]
    assert len(honest) == 2 * 4
    assert [row for row in ours["comment"] if row[0] in ("ann", "ben")] == stock["comment"]


def test_an_answer_waits_for_a_person_and_none_is_worth_nothing(course):
    assert marks(course.root, ["ann", "ben"]) == [(None, None, True), (0.0, None, False)]
    assert any("self_review is missing" in flag for flag in course.results["cat"].verdict.flags)
    assert course.results["ann"].verdict.max == 5, "what tests give"
    assert course.results["ann"].verdict.flags == []


def test_what_cannot_be_read_shows_no_model_answer(course):
    for name in ("ann", "ben", "cat", "dan"):
        for folder in ("autograded", "feedback"):
            place = course.root / "grading" / folder / name / CHAPTER
            for path in [*place.glob("*.ipynb"), *place.glob("*.html")]:
                assert MODEL not in path.read_text(encoding="utf-8"), path


def test_the_answer_is_shown_to_whoever_marks_it_and_does_no_harm(course):
    notebook = nbformat.read(autograded(course.root, "ann") / f"{STEM}.ipynb", 4)
    (cell,) = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == "self_review"]
    assert cell.cell_type == "markdown"
    assert "It fades" in cell.source
    assert "bold" in cell.source
    assert "<script" not in cell.source
    assert "up to 6 more" in notebook.cells[0].source


def test_a_persons_mark_stays_and_a_new_answer_is_looked_at_again(course):
    mark(course.root, "ann", 4.0)
    course.grade()
    assert marks(course.root, ["ann"]) == [(None, 4.0, False)]
    hand_in(course.root, "ann", answered(course.root, "Another answer."))
    course.grade()
    assert marks(course.root, ["ann"]) == [(None, 4.0, True)]


def test_a_learners_own_check_counts_only_what_tests_give(course):
    place = course.root / "work" / CHAPTER
    place.mkdir(parents=True, exist_ok=True)
    own = place / f"{STEM}.ipynb"
    own.write_text(json.dumps(answered(course.root, ANSWER)), encoding="utf-8")
    verdict = check(course.root, LAB, own, remember=False)
    assert (verdict.points, verdict.max) == (5, 5)


def test_the_index_says_how_many_points_a_person_gives(course):
    cells = index_of(LAB, course.root)["cells"]
    assert [cell["points"] for cell in cells if cell["kind"] == "manual"] == [6]
    lab = find(LAB, course.root)
    assert (lab.points, lab.by_hand) == (5, 6)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (" points=6", "", "has no points"),
        ("# ### BEGIN SOLUTION\n", "", "does not match"),
        (CELL[CELL.index("# ### BEGIN") :], "", "has no solution"),
        ("[markdown] ", "", "cell of the type code"),
        ("self_review", "ema", "stands twice"),
        ("points=6", "points=6 difficulty=1", "unknown tag"),
    ],
)
def test_a_malformed_cell_is_refused_with_the_reason(tiny_course, old, new, said):
    assert old in CELL
    add_cell(tiny_course, CELL.replace(old, new))
    with pytest.raises(LabError, match=said):
        find(LAB, tiny_course)
