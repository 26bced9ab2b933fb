"""Grading a class: the marks of stock nbgrader for honest work, and nothing that one learner hands in stops it."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from nbgrader.api import Gradebook

from autograder import classroom
from autograder.pool import LocalPool
from tests import learners
from tests.learners import CHAPTER, STEM
from tests.marks import COURSE, everything
from tests.nbgrader_shell import nbgrader
from tests.stub_pool import hand_in

HONEST = ["ann", "ben"]
WARNS = "def ema(x, beta, correct_bias=True):\n    import warnings\n\n    warnings.warn('slow', stacklevel=2)"
#: What becomes of the others: status of the notebook, points.
EXPECTED = {
    "ann": ("graded", 5.0),
    "ben": ("graded", 2.0),
    "José Ñandú": ("graded", 5.0),
    "[team] o'neill+2@x.org": ("graded", 5.0),
    "copied": ("graded", 5.0),
    "dated": ("graded", 5.0),
    "deleted": ("graded", 0.0),
    "killer": ("graded", 5.0),
    "misdated": ("graded", 5.0),
    "nothing": ("not-found", 0.0),
    "truncated": ("truncated", 0.0),
    "warns": ("graded", 5.0),
}


def hand_in_odd_work(root):
    right = learners.reference(root)
    full = learners.notebook(root, right)
    copied = learners.notebook(root, right)
    copied["cells"] += [cell for cell in copied["cells"] if learners.is_test(cell) or learners.is_answer(cell)]
    warns = right["ema"].replace(right["ema"].partition("\n")[0], WARNS, 1).replace('"""Exp', 'r"""Exp')
    hand_in(root, "José Ñandú", b"\xef\xbb\xbf" + json.dumps(full).encode())
    hand_in(root, "[team] o'neill+2@x.org", full)
    hand_in(root, "copied", copied)
    hand_in(root, "dated", full, b"2026-11-20 10:00:00 UTC\n")
    hand_in(root, "deleted", full)
    hand_in(root, "killer", learners.notebook(root, right, "import os\nos._exit(0)"))
    hand_in(root, "misdated", full, b"the day after \xff tomorrow")
    hand_in(root, "nothing")
    hand_in(root, "truncated", json.dumps(full).encode()[:3000])
    hand_in(root, "warns", learners.notebook(root, right | {"ema": warns}))


def gradebook(root):
    return Gradebook(classroom.configuration(root).CourseDirectory.db_url, "attention-to-silicon")


def rows(root, names=None):
    """Every mark and comment in a gradebook."""
    with gradebook(root) as book:
        submissions = [s for s in book.assignment_submissions(CHAPTER) if names is None or s.student.id in names]
        notebooks = [(s.student.id, notebook) for s in submissions for notebook in s.notebooks]
        return {
            (name, notebook.name, grade.cell.name): (
                grade.auto_score,
                grade.manual_score,
                grade.extra_credit,
                grade.needs_manual_grade,
                grade.score,
                grade.max_score,
            )
            for name, notebook in notebooks
            for grade in notebook.grades
        } | {
            (name, notebook.name, comment.cell.name, "comment"): (comment.auto_comment, comment.manual_comment)
            for name, notebook in notebooks
            for comment in notebook.comments
        }


def submitted_files(root):
    return {path: path.read_bytes() for path in (root / "grading" / "submitted").rglob("*") if path.is_file()}


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pool():
    """A pool that is warm for all tests of this module."""
    with LocalPool(2) as warm:
        yield nullcontext(warm)


@pytest.fixture(scope="module")
def graded(built_course, nbgrader_class, pool, tmp_path_factory):
    """The class, graded twice; between the two an instructor has set a mark and one learner has handed in again."""
    root = tmp_path_factory.mktemp("classroom") / "course"
    shutil.copytree(built_course, root)
    shutil.copytree(nbgrader_class.root / "grading" / "submitted", root / "grading" / "submitted")
    hand_in_odd_work(root)
    heard = []
    before = submitted_files(root)
    first, _ = classroom.grade(root, CHAPTER, pool=pool, progress=lambda *step: heard.append(step))
    assert submitted_files(root) == before, "submissions are only read"
    first_rows = rows(root)
    with gradebook(root) as book:
        name = next(cell for learner, _, cell, *rest in first_rows if learner == "dated" and not rest)
        grade = book.find_grade(name, STEM, CHAPTER, "dated")
        grade.manual_score, grade.needs_manual_grade = 1.5, False
        book.db.commit()
    without_tests = learners.notebook(root)
    without_tests["cells"] = [cell for cell in without_tests["cells"] if not learners.is_test(cell)]
    hand_in(root, "deleted", without_tests)
    second, table = classroom.grade(root, CHAPTER, pool=pool)
    return SimpleNamespace(
        root=root, first=first, second=second, first_rows=first_rows, table=table, heard=heard, manual=name
    )


def by_name(results):
    return {result.student: result.verdict for result in results}


def test_one_bad_submission_never_stops_the_others(graded):
    found = {name: (verdict.status, verdict.points) for name, verdict in by_name(graded.second).items()}
    assert found == EXPECTED
    assert [result.student for result in graded.second] == sorted(EXPECTED)


def test_honest_work_is_marked_row_by_row_as_by_stock_nbgrader(graded, nbgrader_class):
    stock = rows(nbgrader_class.root)
    assert {name for name, *_ in stock} == set(HONEST)
    assert len(stock) == len(HONEST) * 5, "three marks and two comments each"
    assert rows(graded.root, HONEST) == stock


def test_the_gradebook_holds_what_the_verdicts_say(graded):
    marks = {}
    for (name, _, _, *rest), values in graded.first_rows.items():
        if not rest:
            marks[name] = marks.get(name, 0.0) + values[0]
    assert marks == {name: verdict.points for name, verdict in by_name(graded.first).items()}


def test_another_run_changes_only_what_has_changed(graded):
    again = rows(graded.root)
    changed = {key[0] for key in again | graded.first_rows if again.get(key) != graded.first_rows.get(key)}
    assert changed == {"dated", "deleted"}


def test_a_resubmission_without_test_cells_keeps_no_old_mark(graded):
    assert by_name(graded.first)["deleted"].points == 5.0
    now = [values for key, values in rows(graded.root, ["deleted"]).items() if len(key) == 3]
    assert [auto for auto, *_ in now] == [0.0, 0.0, 0.0]


def test_a_mark_that_an_instructor_has_set_survives_and_needs_no_second_look(graded):
    before = graded.first_rows["dated", STEM, graded.manual]
    auto, manual, _, needs_manual_grade, score, _ = rows(graded.root)["dated", STEM, graded.manual]
    assert (auto, manual, score) == (before[0], 1.5, 1.5)
    assert needs_manual_grade is False, "nothing about the submission has changed"


def test_the_time_of_submission_is_kept_where_it_can_be_read(graded):
    with gradebook(graded.root) as book:
        times = {s.student.id: s.timestamp for s in book.assignment_submissions(CHAPTER)}
    assert str(times["dated"]) == "2026-11-20 10:00:00"
    assert times["misdated"] is None
    flags = {name: verdict.flags for name, verdict in by_name(graded.second).items()}
    assert any("timestamp.txt" in flag for flag in flags["misdated"])
    assert flags["dated"] == []


def test_what_is_odd_is_flagged(graded):
    flags = {name: " ".join(verdict.flags) for name, verdict in by_name(graded.second).items()}
    assert "byte-order mark" in flags["José Ñandú"]
    assert "stood 2 times" in flags["copied"]
    assert "was missing" in flags["deleted"]
    assert [flags[name] for name in HONEST] == ["", ""]


def test_the_table_has_a_row_for_each_learner_and_exercise(graded):
    table = read_csv(graded.table)
    assert list(table[0]) == ["learner", "lab", "exercise", "points", "max", "status", "mistake", "flags", "seed"]
    assert len(table) == 2 * len(EXPECTED)
    totals = dict.fromkeys(EXPECTED, 0.0)
    for row in table:
        totals[row["learner"]] += float(row["points"])
    assert totals == {name: points for name, (_, points) in EXPECTED.items()}
    ben = {row["exercise"]: row for row in table if row["learner"] == "ben"}
    assert (ben["ema"]["points"], ben["ema"]["max"], ben["ema"]["status"]) == ("2.0", "4", "failed")
    assert {row["status"] for row in table if row["learner"] == "truncated"} == {"truncated"}
    seeds = {row["learner"]: row["seed"] for row in table}
    assert [name for name, seed in seeds.items() if not seed] == ["nothing"]
    assert len(set(seeds.values())) == len(EXPECTED)


def test_progress_is_told_to_its_end(graded):
    notebooks = [(done, total) for done, total, label in graded.heard if "feedback" not in label]
    pages = [(done, total) for done, total, label in graded.heard if "feedback" in label]
    assert notebooks == [(number + 1, len(EXPECTED)) for number in range(len(EXPECTED))]
    assert pages == notebooks


@pytest.mark.parametrize("name", EXPECTED)
def test_each_learner_has_a_feedback_page_without_hidden_tests(graded, name):
    status, points = EXPECTED[name]
    if name == "dated":
        points = sum(values[4] for key, values in rows(graded.root, [name]).items() if len(key) == 3)
    text = (graded.root / "grading" / "feedback" / name / CHAPTER / f"{STEM}.html").read_text(encoding="utf-8")
    assert f"Score: {points} / 5" in text
    assert f"({status})" in text
    unseen = learners.HIDDEN + (learners.SOLVED if name in ("deleted", "nothing", "truncated") else [])
    assert [secret for secret in unseen if secret in text] == []
    if name == "killer":
        assert "os._exit(0)" in html.unescape(re.sub(r"<[^>]*>", "", text)), "it shows the learner's own code"
    if name == "warns":
        assert "UserWarning: slow" in text


def test_feedback_can_be_released_with_the_stock_command(graded):
    """`nbgrader release_feedback` finds the submission by these two files."""
    place = graded.root / "grading" / "feedback" / "ann" / CHAPTER
    sent = graded.root / "grading" / "submitted" / "ann" / CHAPTER
    for name in ("timestamp.txt", "submission_secret.txt"):
        assert (place / name).read_bytes() == (sent / name).read_bytes()


def test_what_is_generated_and_committed_is_not_touched(graded, built_course):
    def released(root):
        return {path.name: path.read_bytes() for path in (root / "release").rglob("*.ipynb")}

    assert released(graded.root) == released(built_course)


DUE = "2026-11-20 10:00:00 UTC"
#: Whose work came when, and what of it is right.
TIMES = {
    "early": (b"2026-11-20 09:59:59.5 UTC\n", {"ema", "steps_to"}),
    "late": (b"2026-11-20 12:30:00 Europe/Berlin", {"ema", "steps_to"}),
    "much later": (b"2026-11-22 10:00:00 +0000", {"steps_to"}),
    "undated": (None, {"ema"}),
    "unwritten": (b"2026-11-20 11:00:00", set()),
    "wordless": (b" \n", {"ema"}),
}
#: A rule for late submissions as a course may have it.
RULE = """
from nbgrader.plugins import BasePlugin

class PerHour(BasePlugin):
    def late_submission_penalty(self, student_id, score, total_seconds_late):
        return 1.5 * total_seconds_late / 3600 if score else None
"""


def test_rows_with_late_penalties_are_those_of_stock_nbgrader(built_course, pool, tmp_path):
    root = tmp_path / "stock"
    shutil.copytree(built_course, root)
    (root / "lateness.py").write_text(RULE)
    with (root / "nbgrader_config.py").open("a") as file:
        file.write("c.AssignLatePenalties.plugin_class = 'lateness.PerHour'\n")
    right = learners.reference(root)
    for name, (stamp, written) in TIMES.items():
        hand_in(root, name, learners.notebook(root, {exercise: right[exercise] for exercise in written}), stamp)
    shutil.copytree(root, tmp_path / "ours")
    register = ["generate_assignment", CHAPTER, "--force"], ["db", "assignment", "add", CHAPTER, f"--duedate={DUE}"]
    nbgrader(root, tmp_path / "home", *register, ["autograde", CHAPTER])
    stock = everything(classroom.configuration(root).CourseDirectory.db_url)
    ours = classroom.configuration(tmp_path / "ours").CourseDirectory.db_url
    with Gradebook(ours, COURSE) as book:
        book.add_assignment(CHAPTER, duedate=DUE)
    for _ in range(2):
        classroom.grade(tmp_path / "ours", CHAPTER, pool=pool, feedback=False)
        assert everything(ours) == stock
    penalties = {name: penalty for name, _, _, penalty in stock["submitted_notebook"]}
    late = {"late": 2.25, "much later": 1.0}
    assert penalties == {name: late.get(name) for name in TIMES}, "the comparison is about something"
    assert {comment for *_, comment, _ in stock["comment"]} == {None, "No response."}


@pytest.fixture
def course(built_course, tmp_path):
    """The tiny course with one full submission."""
    root = tmp_path / "course"
    shutil.copytree(built_course, root)
    hand_in(root, "eve", learners.notebook(root, learners.reference(root)))
    return root


def test_a_lab_whose_hidden_test_was_mended_is_graded_again(course, pool):
    assert classroom.grade(course, CHAPTER, pool=pool, feedback=False)[0][0].verdict.points == 5.0
    change(course, "(0.3, 0.5), (0.25, 0.5)", "(0.3, 0.5), (0.25, 0.6)")
    assert classroom.grade(course, CHAPTER, pool=pool, feedback=False)[0][0].verdict.points == 5.0
    change(course, "math.log(beta)) + 1,", "math.log(beta)) + 2,")
    assert classroom.grade(course, CHAPTER, pool=pool, feedback=False)[0][0].verdict.points == 4.0
    assert sorted(values[0] for key, values in rows(course).items() if len(key) == 3) == [0.0, 2.0, 2.0]


def test_a_lab_with_new_test_cells_is_refused_with_a_way_out(course, pool):
    """nbgrader cannot add cells that have marks; what counts is that the old marks stay and the message helps."""
    classroom.grade(course, CHAPTER, pool=pool, feedback=False)
    before = rows(course)
    added = (
        '# %% test="steps_to" points=3\nfrom coursekit import check\n\ncheck.equal(steps_to(0.5, 0.5), 2, "one")\n\n'
    )
    change(course, '# %% mistakes="steps_to"', added + '# %% mistakes="steps_to"')
    with pytest.raises(classroom.CannotGrade, match="nbgrader db assignment remove ch90_example"):
        classroom.grade(course, CHAPTER, pool=pool)
    assert rows(course) == before
    results, _ = classroom.grade(
        course, CHAPTER, pool=pool, db_url=f"sqlite:///{course}/grading/new.db", feedback=False
    )
    assert (results[0].verdict.points, results[0].verdict.max) == (8.0, 8.0)


def change(course, old, new):
    source = course / "source_solutions" / CHAPTER / f"{STEM}.py"
    text = source.read_text(encoding="utf-8")
    assert old in text
    source.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("chapter", "words"),
    [("ch91_other", "there is no chapter 'ch91_other'; the chapters are ch90_example"), (CHAPTER, "LEARNER")],
)
def test_a_wrong_chapter_or_an_empty_folder_is_said_clearly(built_course, chapter, words):
    with pytest.raises(classroom.NothingToGrade) as problem:
        classroom.grade(built_course, chapter)
    assert words in str(problem.value)
    assert not (built_course / "grading" / "gradebook.db").exists()
