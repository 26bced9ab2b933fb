"""What a class gets back, and what lies beside the notebooks: safe to read, and nobody's mark depends on it."""

from __future__ import annotations

import json
import os
import struct

import pytest
from nbgrader.api import Gradebook

from autograder import handback
from tests import learners, marks
from tests.learners import CHAPTER, STEM
from tests.stub_pool import CLASS, FULL, StubPool, autograded, grader, hand_in, make_class, table, url


@pytest.fixture
def course(built_course, tmp_path):
    return make_class(built_course, tmp_path / "course")


@pytest.fixture
def stub():
    return StubPool()


@pytest.fixture
def grade(course, stub):
    return grader(course, stub)


def secret(course):
    path = course / "grading" / "secret"
    path.write_text("2026-11-20 10:00:00 UTC")
    return path


def zone(course):
    """A file that holds a time zone, as the C library has them."""
    path = course / "grading" / "zone"
    path.write_bytes(
        b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb", 0, 0, 0) + b"UTC\0"
    )
    return path


BESIDE = {
    "a date that is none": lambda path, course: path.write_bytes(b"\xff the day after tomorrow"),
    "an impossible date": lambda path, course: path.write_bytes(b"99999999999999999-01-01"),
    "a zone that is a file": lambda path, course: path.write_text(f"2026-11-20 10:00 {zone(course)}"),
    "a zone on the way to a file": lambda path, course: path.write_text(f"2026-11-20 10:00 ../../../..{zone(course)}"),
    "a pipe": lambda path, course: os.mkfifo(path),
    "a folder": lambda path, course: path.mkdir(),
    "a link": lambda path, course: path.symlink_to(secret(course)),
    "another name of a file": lambda path, course: path.hardlink_to(secret(course)),
    "a megabyte": lambda path, course: path.write_bytes(b"2" * (1 << 20)),
}


@pytest.mark.parametrize("make", BESIDE.values(), ids=BESIDE)
def test_a_bad_time_of_submission_is_flagged_and_costs_no_mark(course, grade, make):
    make(hand_in(course, "ben") / "timestamp.txt", course)
    found = grade()
    assert any("timestamp.txt" in flag for flag in found["ben"].verdict.flags)
    assert found["ann"].verdict.flags == []
    assert marks.points(url(course)) == FULL
    if make is BESIDE["a link"]:
        assert not (autograded(course, "ben") / "timestamp.txt").exists()


@pytest.mark.parametrize("make", [BESIDE["a pipe"], BESIDE["a link"], BESIDE["a megabyte"]])
def test_a_bad_secret_is_flagged_and_not_taken_along(course, grade, make):
    place = hand_in(course, "ben")
    (place / "submission_secret.txt").write_text("7" * 40)
    grade()
    (place / "submission_secret.txt").unlink()
    make(place / "submission_secret.txt", course)
    assert any("submission_secret.txt" in flag for flag in grade()["ben"].verdict.flags)
    assert not (autograded(course, "ben") / "submission_secret.txt").exists(), "nor is the old one kept"
    assert marks.points(url(course)) == FULL


def test_what_nbgrader_left_there_is_replaced(course, grade):
    """nbgrader's own autograde makes its files read-only."""
    hand_in(course, "ann", timestamp=b"2026-11-20 10:00:00 UTC")
    folder = autograded(course, "ann")
    folder.mkdir(parents=True)
    for name in ("timestamp.txt", f"{STEM}.ipynb"):
        (folder / name).write_text("old")
        (folder / name).chmod(0o444)
    assert grade()["ann"].verdict.flags == []
    assert (folder / "timestamp.txt").read_text() == "2026-11-20 10:00:00 UTC"


def test_a_notebook_that_cannot_be_written_costs_one_learner_a_page(course, grade):
    autograded(course, "ben").parent.mkdir(parents=True)
    autograded(course, "ben").write_text("in the way")
    found = grade(feedback=True)
    assert [name for name in CLASS if found[name].verdict.flags] == ["ben"]
    assert "autograded notebook could not be written" in found["ben"].verdict.flags[0]
    assert marks.points(url(course)) == FULL
    pages = course / "grading" / "feedback"
    assert [name for name in CLASS if (pages / name / CHAPTER / f"{STEM}.html").is_file()] == ["ann", "eve"]


def page(course, name):
    return course / "grading" / "feedback" / name / CHAPTER / f"{STEM}.html"


def written(course):
    return {name: page(course, name).stat().st_mtime_ns for name in CLASS if page(course, name).is_file()}


def set_mark(course, change):
    with Gradebook(url(course), marks.COURSE) as book:
        change(book)
        book.db.commit()


def in_formgrader(book):
    book.find_grade("test_ema", STEM, CHAPTER, "ben").manual_score = 0.25


def in_words(book):
    book.find_comment("ema", STEM, CHAPTER, "ben").manual_comment = "well done"


def too_late(book):
    book.update_or_create_assignment(CHAPTER, duedate="2000-01-01 00:00:00 UTC")


@pytest.mark.parametrize("change", [in_formgrader, in_words, too_late])
def test_only_feedback_pages_that_would_be_others_are_written_again(course, grade, change):
    with (course / "nbgrader_config.py").open("a") as file:
        file.write("c.LateSubmissionPlugin.penalty_method = 'zero'\n")
    hand_in(course, "ben", timestamp=b"2026-11-20 10:00:00 UTC")
    heard = []
    grade(feedback=True)
    before = written(course)
    assert sorted(before) == CLASS
    grade(feedback=True, progress=lambda *step: heard.append(step))
    assert written(course) == before
    assert [(done, total) for done, total, label in heard if "feedback" in label] == [(1, 3), (2, 3), (3, 3)]
    set_mark(course, change)
    grade(feedback=True)
    assert {name for name in CLASS if written(course)[name] != before[name]} == {"ben"}


def test_a_page_that_is_gone_or_of_an_older_submission_is_written_again(course, grade):
    grade(feedback=True)
    before = written(course)
    page(course, "ann").unlink()
    hand_in(course, "eve", learners.notebook(course, learners.reference(course), "'as good as before'"))
    grade(feedback=True)
    assert {name for name in CLASS if written(course)[name] != before[name]} == {"ann", "eve"}
    assert "as good as before" in page(course, "eve").read_text(encoding="utf-8")


def test_other_settings_write_all_pages_again(course, grade):
    grade(feedback=True)
    before = written(course)
    with (course / "nbgrader_config.py").open("a") as file:
        file.write("c.HTMLExporter.exclude_input_prompt = True\n")
    grade(feedback=True)
    assert {name for name in CLASS if written(course)[name] != before[name]} == set(CLASS)


def test_feedback_goes_on_after_one_learner_s_pages_could_not_be_written(course, grade):
    autograded(course, "ben").mkdir(parents=True)
    (autograded(course, "ben") / "stray.ipynb").write_text("no notebook")
    found = grade(feedback=True)
    assert [name for name in CLASS if found[name].verdict.flags] == ["ben"]
    assert "could not write the feedback" in found["ben"].verdict.flags[0]
    assert (course / "grading" / "feedback" / "eve" / CHAPTER / f"{STEM}.html").is_file()


def test_feedback_is_tried_again_where_nbgrader_gave_up(course, grade, monkeypatch):
    """It stops for good at the first learner for whom the gradebook is locked."""
    start, starts = handback._Feedback.start, []

    def breaks_off(self):
        starts.append(sorted(self.students))
        if len(starts) == 1:
            self.students.discard("eve")
            start(self)
            raise ValueError("locked")
        start(self)

    monkeypatch.setattr(handback._Feedback, "start", breaks_off)
    assert [result.verdict.flags for result in grade(feedback=True).values()] == [[], [], []]
    assert starts == [CLASS, ["eve"]]


def test_nothing_that_a_learner_wrote_is_markup_or_a_formula_for_who_reads_it(course, grade, stub, monkeypatch):
    hostile = "=cmd|' /C calc'!A1 <script>alert(1)</script> [x](javascript:1)"
    judged = stub.verdict

    def said(task):
        verdict = judged(task)
        verdict.exercises[0].message, verdict.exercises[0].mistake = hostile, None
        verdict.flags.append(hostile)
        output = {"output_type": "display_data", "data": {"text/html": hostile}, "metadata": {}}
        next(cell for cell in verdict.cells if cell["kind"] == "exercise")["outputs"] = [output, 7]
        return verdict

    monkeypatch.setattr(stub, "verdict", said)
    hand_in(course, "=1+1", learners.notebook(course))
    found = grade(feedback=True)
    assert found["ann"].verdict.flags == [hostile]
    text = (autograded(course, "ann") / f"{STEM}.ipynb").read_text(encoding="utf-8")
    assert "text/html" not in text
    summary = json.loads(text)["cells"][0]["source"]
    assert ("<script>" in "".join(summary), "5 of 5 points" in "".join(summary)) == (False, True)
    page = (course / "grading" / "feedback" / "ann" / CHAPTER / f"{STEM}.html").read_text(encoding="utf-8")
    assert ("<script>alert" in page, 'href="javascript' in page) == (False, False)
    cells = {value for row in table(course) for value in row.values()}
    assert not [value for value in cells if value.startswith("=")]
    assert "'=1+1" in cells
