"""The gradebook's writer: few transactions, nothing lost by one bad submission, and patience with the database."""

from __future__ import annotations

import sqlite3
import threading
from datetime import datetime

import pytest
from nbgrader.api import Gradebook
from sqlalchemy import event
from traitlets.config import Config

from autograder import gradebook
from autograder.gradebook import Entry, GradebookAway, Writer
from autograder.stock import quiet_api
from tests import marks
from tests.learners import CHAPTER, STEM

SCORES = {"test_ema": 2.0, "test_ema_2": 0.0, "test_steps_to": 1.0}


@pytest.fixture(scope="module")
def registered(built_course, tmp_path_factory):
    """A gradebook that knows the chapter's cells and no learner: the file, and the source of each cell."""
    folder = tmp_path_factory.mktemp("gradebook")
    config = Config()
    config.CourseDirectory.root = str(built_course)
    config.CourseDirectory.source_directory = "build/source"
    config.CourseDirectory.release_directory = str(folder / "release")
    config.CourseDirectory.db_url = f"sqlite:///{folder}/empty.db"
    config.CourseDirectory.course_id = marks.COURSE
    assert quiet_api(config).generate_assignment(CHAPTER, force=True)["success"]
    return folder / "empty.db"


@pytest.fixture
def config(registered, tmp_path):
    """A configuration with a gradebook of its own, whose locks end after a tenth of a second."""
    (tmp_path / "gradebook.db").write_bytes(registered.read_bytes())
    config = Config()
    config.CourseDirectory.db_url = f"sqlite:///{tmp_path}/gradebook.db?timeout=0.1"
    config.CourseDirectory.course_id = marks.COURSE
    return config


@pytest.fixture
def refused():
    return []


@pytest.fixture
def write(config, refused):
    """Write entries; further arguments are the writer's."""

    def call(*entries, waiting=lambda said: None, patience=30.0):
        with Writer(config, lambda entry, why: refused.append((entry.student, why)), waiting, patience) as writer:
            for entry in entries:
                writer.add(entry)

    return call


def entry(student, scores=None, answer="x = 1", **changed):
    scores = SCORES if scores is None else scores

    def cell(name, source, **kind):
        return {"cell_type": "code", "source": source, "metadata": {"nbgrader": {"grade_id": name, **kind}}}

    cells = [cell("ema", answer, solution=True), cell("steps_to", "y = 2", solution=True)]
    cells += [cell(name, "", grade=True, locked=True, points=2) for name in scores]
    return Entry(**{
        "student": student, "chapter": CHAPTER, "notebook": STEM, "timestamp": None, "cells": cells, "scores": scores
    } | changed)  # fmt: skip


def grades(config, student):
    rows = marks.everything(config.CourseDirectory.db_url)["grade"]
    return {cell: (auto, manual, review) for name, _, cell, auto, manual, _, review in rows if name == student}


def url(config):
    return config.CourseDirectory.db_url


def test_an_entry_becomes_the_rows_that_nbgrader_has_for_it(write, config):
    write(entry("ann", timestamp=datetime(2026, 11, 20, 10, 0)))
    found = marks.everything(url(config))
    assert found["student"] == [("ann", None, None, None)]
    assert found["submitted_assignment"] == [("ann", CHAPTER, datetime(2026, 11, 20, 10, 0), None)]
    assert found["submitted_notebook"] == [("ann", STEM, False, None)]
    assert found["grade"] == [("ann", STEM, name, score, None, None, False) for name, score in SCORES.items()]
    assert found["comment"] == [("ann", STEM, name, None, None) for name in ("ema", "steps_to")]


def test_a_batch_is_one_transaction(write, config, monkeypatch):
    commits = []
    opened = gradebook._Batched.__init__

    def watched(self, *rest):
        opened(self, *rest)
        event.listen(self.engine, "commit", commits.append)

    monkeypatch.setattr(gradebook._Batched, "__init__", watched)
    monkeypatch.setattr(gradebook, "BATCH_SECONDS", 600.0)
    write(*(entry(f"s{number:02}") for number in range(2 * gradebook.BATCH_SIZE + 1)))
    assert len(commits) == 3
    assert len(marks.points(url(config))) == 2 * gradebook.BATCH_SIZE + 1


def test_what_comes_slowly_is_written_at_once(config, monkeypatch):
    monkeypatch.setattr(gradebook, "BATCH_SECONDS", 0.0)
    with Writer(config, pytest.fail) as writer:
        writer.add(entry("ann"))
        assert marks.points(url(config)) == {"ann": 3.0}


def test_writing_again_changes_nothing(write, config):
    write(entry("ann"), entry("ben"))
    before = marks.everything(url(config))
    write(entry("ben"), entry("ann"), entry("ann"))
    assert marks.everything(url(config)) == before


def test_an_untouched_answer_gets_nbgrader_s_comment(write, config, registered):
    with Gradebook(f"sqlite:///{registered}", marks.COURSE) as book:
        released = book.find_source_cell("ema", STEM, CHAPTER).source
    write(entry("ann", answer=released))
    assert marks.everything(url(config))["comment"][0] == ("ann", STEM, "ema", "No response.", None)
    write(entry("ann", answer="x = 2"))
    assert marks.everything(url(config))["comment"][0] == ("ann", STEM, "ema", None, None)


def set_mark(config, manual, review=False):
    with Gradebook(url(config), marks.COURSE) as book:
        grade = book.find_grade("test_ema", STEM, CHAPTER, "ann")
        grade.manual_score, grade.needs_manual_grade = manual, review
        book.db.commit()


def test_a_mark_that_an_instructor_has_set_survives_and_a_new_verdict_asks_for_another_look(write, config):
    write(entry("ann"))
    set_mark(config, 1.5)
    write(entry("ann", SCORES | {"test_ema": 0.0}))
    assert grades(config, "ann")["test_ema"] == (0.0, 1.5, True)


def test_a_verdict_that_is_known_changes_nothing_that_an_instructor_did_since(write, config):
    write(entry("ann"))
    set_mark(config, 1.5)
    write(entry("ann", known=True))
    assert grades(config, "ann")["test_ema"] == (2.0, 1.5, False)
    write(entry("ben", known=True))
    assert grades(config, "ben")["test_ema"] == (2.0, None, False), "known to the journal is not yet in the gradebook"


def test_what_a_person_has_to_look_at_waits_for_them_in_formgrader(write, config):
    flagged = entry("ann", review=frozenset({"test_ema"}))
    write(flagged)
    assert grades(config, "ann") == {name: (score, None, name == "test_ema") for name, score in SCORES.items()}
    set_mark(config, None)
    write(Entry(**(vars(flagged) | {"known": True})))
    assert grades(config, "ann")["test_ema"] == (2.0, None, False), "it has been looked at"


def test_one_bad_submission_does_not_spoil_its_batch(write, config, refused):
    write(
        entry("ann"),
        entry("mal", SCORES | {"no such cell": 1.0}),
        entry("ben"),
        entry("lost", notebook="no such notebook"),
        entry("eve"),
    )
    assert marks.points(url(config)) == {"ann": 3.0, "ben": 3.0, "eve": 3.0}
    assert [student for student, _ in refused] == ["mal", "lost"]
    assert "no such cell" in refused[0][1]
    assert all("\n" not in why for _, why in refused)


def test_a_refusal_of_the_database_itself_costs_one_submission(write, config, refused):
    with sqlite3.connect(url(config).removeprefix("sqlite:///").partition("?")[0]) as connection:
        connection.execute(
            "CREATE TRIGGER no BEFORE INSERT ON student WHEN NEW.id = 'mal' BEGIN SELECT RAISE(ABORT, 'not him'); END"
        )
    write(entry("ann"), entry("mal"), entry("ben"))
    assert marks.points(url(config)) == {"ann": 3.0, "ben": 3.0}
    ((student, why),) = refused
    assert (student, "not him" in why) == ("mal", True)


@pytest.fixture
def locked(config):
    """The gradebook, locked by somebody else until the fixture's value is called."""
    path = url(config).removeprefix("sqlite:///").partition("?")[0]
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield lambda: connection.execute("ROLLBACK")
    connection.close()


def test_a_locked_gradebook_is_waited_for(write, config, refused, locked):
    said = []
    threading.Timer(0.8, locked).start()
    write(entry("ann"), entry("ben"), waiting=said.append)
    assert marks.points(url(config)) == {"ann": 3.0, "ben": 3.0}
    assert set(said) == {"database is locked"}
    assert refused == []


def test_patience_has_an_end_that_says_why(write, config, locked, capfd):
    with pytest.raises(GradebookAway, match="database is locked"):
        write(entry("ann"), patience=0.5)
    locked()
    assert marks.points(url(config)) == {}
    assert capfd.readouterr().err == "", "nbgrader's tracebacks say nothing that helps"


def test_what_is_no_lock_is_not_waited_for(write, refused):
    said = []
    write(entry("mal", notebook="no such notebook"), waiting=said.append)
    assert (len(refused), said) == (1, [])


def test_a_run_that_breaks_off_writes_no_half_batch(config):
    def interrupted():
        with Writer(config, pytest.fail) as writer:
            writer.add(entry("ann"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert marks.points(url(config)) == {}


def test_digests_tell_who_has_other_marks_in_a_chapter(write, config):
    write(entry("ann"), entry("ben"))
    before = gradebook.digests(config, CHAPTER)
    assert len(set(before.values())) == 1, "they have the same"
    with Gradebook(url(config), marks.COURSE) as book:
        book.add_assignment("ch91_other")
        book.add_notebook(STEM, "ch91_other")
        book.add_submission("ch91_other", "ben")
    assert gradebook.digests(config, CHAPTER) == before
    set_mark(config, 1.5)
    after = gradebook.digests(config, CHAPTER)
    assert (after["ann"] != before["ann"], after["ben"] == before["ben"]) == (True, True)


def test_nbgrader_s_own_classes_are_themselves_again_afterwards(write, config):
    from nbgrader.preprocessors import latesubmissions, saveautogrades

    write(entry("ann"), entry("lost", notebook="no such notebook"))
    assert (saveautogrades.Gradebook, latesubmissions.Gradebook) == (Gradebook, Gradebook)
