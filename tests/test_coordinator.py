"""The coordinator of class grading: what it runs again, what it keeps, and what it does when something goes wrong."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import threading
import weakref

import pytest
from nbgrader.api import Gradebook

from autograder import classroom, gradebook, sandbox
from autograder.journal import Journal
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


def test_a_second_run_runs_nothing_and_changes_nothing(course, grade, stub):
    first = grade()
    assert len(stub.tasks) == 3
    before = marks.everything(url(course)), table(course)
    assert grade() == first
    assert stub.tasks == []
    assert (marks.everything(url(course)), table(course)) == before
    assert marks.points(url(course)) == FULL


def test_each_learner_has_a_seed_of_their_own_that_stays_and_is_shown(course, grade, stub):
    seeds = {name: result.seed for name, result in grade().items()}
    assert len(set(seeds.values())) == 3
    assert all(1 <= seed < 1 << 31 for seed in seeds.values())
    assert {task.seed for task in stub.tasks} == set(seeds.values())
    assert {row["learner"]: int(row["seed"]) for row in table(course)} == seeds
    notebook = json.loads((autograded(course, "ann") / f"{STEM}.ipynb").read_text(encoding="utf-8"))
    assert notebook["metadata"]["course"] == {"lab": learners.LAB, "seed": seeds["ann"]}
    hand_in(course, "ann", learners.notebook(course))
    assert {name: result.seed for name, result in grade(again=True).items()} == seeds
    assert len(stub.tasks) == 3


def test_only_a_new_submission_runs_and_on_the_same_hidden_inputs(course, grade, stub):
    seed = grade()["ben"].seed
    hand_in(course, "ben", learners.notebook(course, {}))
    hand_in(course, "zoe", learners.notebook(course, {}))
    after = grade()
    assert [task.seed for task in stub.tasks] == [seed, after["zoe"].seed]


def test_what_cannot_be_read_costs_no_run_and_no_seed(course, grade, stub):
    seed = grade()["ben"].seed
    (hand_in(course, "ben") / f"{STEM}.ipynb").unlink()
    hand_in(course, "zoe")
    found = grade()
    assert stub.tasks == []
    assert (found["ben"].verdict.status, found["ben"].seed) == ("not-found", seed)
    assert (found["zoe"].verdict.status, found["zoe"].seed) == ("not-found", None)
    assert marks.points(url(course)) == FULL | {"ben": 0.0, "zoe": 0.0}
    with Gradebook(url(course), marks.COURSE) as book:
        mark = book.find_grade("test_ema", STEM, CHAPTER, "zoe")
        mark.manual_score, mark.needs_manual_grade = 1.0, False
        book.db.commit()
    grade(students=["ann"])
    assert marks.points(url(course)) == FULL | {"ben": 0.0, "zoe": 1.0}
    assert {row["learner"]: row["status"] for row in table(course)} == {
        "ann": "passed", "ben": "not-found", "eve": "passed", "zoe": "not-found"
    }  # fmt: skip
    before = marks.everything(url(course))
    grade()
    assert marks.everything(url(course)) == before, "what an instructor did about it stays"
    hand_in(course, "ben", learners.notebook(course))
    assert grade()["ben"].seed == seed


@pytest.mark.parametrize(("status", "exercise"), [("timeout", "timeout"), ("internal", "internal"), ("graded", "died")])
def test_what_may_go_otherwise_next_time_runs_again(course, grade, stub, status, exercise):
    stub.status, stub.exercise = status, exercise
    assert grade()["ann"].verdict.points == 0
    stub.status, stub.exercise = "graded", "passed"
    assert grade()["ann"].verdict.points == 5
    assert len(stub.tasks) == 3
    assert marks.points(url(course)) == FULL


def test_a_fault_of_the_grader_leaves_its_marks_for_a_person_to_see(course, grade, stub):
    stub.status, stub.exercise = "internal", "internal"
    grade()
    assert {row[-1] for row in marks.everything(url(course))["grade"]} == {True}
    stub.status, stub.exercise = "graded", "passed"
    grade()
    assert {row[-1] for row in marks.everything(url(course))["grade"]} == {False}


def test_flagged_exercises_wait_in_formgrader(course, grade, stub, monkeypatch):
    judged = stub.verdict

    def flagged(task):
        verdict = judged(task)
        verdict.exercises[0].flags.append("line 3 uses cumsum")
        return verdict

    monkeypatch.setattr(stub, "verdict", flagged)
    assert grade()["ann"].verdict.points == 5, "flagged, not silently zeroed"
    waiting = {cell: review for _, _, cell, *_, review in marks.everything(url(course))["grade"]}
    assert waiting == {"test_ema": True, "test_ema_2": True, "test_steps_to": False}
    assert "cumsum" in (autograded(course, "ann") / f"{STEM}.ipynb").read_text(encoding="utf-8")


def test_an_interrupted_run_goes_on_where_it_was(course, grade, stub):
    stub.ends_after = 2
    with pytest.raises(KeyboardInterrupt):
        grade()
    assert len(stub.tasks) == 2
    stub.ends_after = None
    grade()
    assert len(stub.tasks) == 1
    assert marks.points(url(course)) == FULL


def test_without_a_gradebook_nothing_is_lost(course, grade, stub, monkeypatch):
    monkeypatch.setattr(gradebook, "BATCH_SECONDS", 0.0)
    put, puts = gradebook.Writer._put, []

    def away(self, entry):
        puts.append(entry.student)
        if len(puts) > 1:
            raise gradebook.Busy("the server is away")
        put(self, entry)

    with monkeypatch.context() as patched:
        patched.setattr(gradebook.Writer, "_put", away)
        with pytest.raises(classroom.CannotGrade, match=r"the server is away.*Nothing is lost.*same command"):
            grade(patience=0.3)
    assert len(stub.tasks) == 2
    assert len(set(puts)) == 2
    grade()
    assert len(stub.tasks) == 1, "both verdicts were in the journal before the gradebook was asked"
    assert marks.points(url(course)) == FULL


def test_a_gradebook_that_is_locked_at_the_start_is_waited_for(course, grade, caplog):
    with Gradebook(url(course), marks.COURSE):
        pass
    connection = sqlite3.connect(url(course).removeprefix("sqlite:///"), check_same_thread=False, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    threading.Timer(1.5, lambda: connection.execute("ROLLBACK")).start()
    heard = []
    grade(db_url=f"{url(course)}?timeout=0.1", progress=lambda done, total, label: heard.append(label))
    assert any("waiting for the gradebook" in label and "locked" in label for label in heard)
    assert [record for record in caplog.records if record.name == "tornado.application"] == []
    connection.close()


def test_a_gradebook_that_is_nowhere_is_said_at_once(course, grade, stub):
    for address in ("sqlite:////proc/none.db", "postgresql://teacher:hunter2@127.0.0.1:1/grades"):
        with pytest.raises(classroom.CannotGrade, match="cannot be reached") as problem:
            grade(db_url=address)
        assert "hunter2" not in str(problem.value)
    assert stub.tasks == []


def test_damage_to_the_journal_costs_a_run_and_nothing_else(course, grade, stub):
    grade()
    paths = sorted((course / "grading" / "journal" / CHAPTER).rglob("*.gz"))
    for path in paths[:2]:
        path.write_bytes(path.read_bytes()[:-20])
    grade()
    assert len(stub.tasks) == 2
    assert marks.points(url(course)) == FULL
    assert all(gzip.decompress(path.read_bytes()) for path in paths)


def test_one_run_at_a_time(course, grade, stub):
    with (
        Journal(course / "grading" / "journal" / CHAPTER),
        pytest.raises(classroom.CannotGrade, match=f"being graded already.*{os.getpid()}"),
    ):
        grade()
    assert stub.tasks == []


def test_one_learner_may_be_graded_alone_and_the_table_keeps_the_whole_class(course, grade, stub):
    grade(students=["ann"])
    assert [row["learner"] for row in table(course)] == ["ann", "ann"]
    everybody = grade()
    hand_in(course, "ben", learners.notebook(course))
    assert list(grade(students=["ben"])) == ["ben"]
    assert len(stub.tasks) == 1
    assert {row["learner"]: int(row["seed"]) for row in table(course)} == {n: r.seed for n, r in everybody.items()}
    assert {row["learner"]: row["status"] for row in table(course)} == dict.fromkeys(CLASS, "passed") | {
        "ben": "unwritten"
    }
    with pytest.raises(classroom.CannotGrade, match="there is no grading/submitted/mal/ch90_example"):
        grade(students=["ann", "mal"])


def test_a_learner_whom_the_gradebook_does_not_take_is_named(course, grade):
    grade(students=["ann"])
    with sqlite3.connect(url(course).removeprefix("sqlite:///")) as connection:
        connection.execute(
            "CREATE TRIGGER no BEFORE INSERT ON student WHEN NEW.id = 'ben' BEGIN SELECT RAISE(ABORT, 'not him'); END"
        )
    found = grade()
    assert {name: result.verdict.status for name, result in found.items()} == {
        "ann": "graded", "ben": "unrecorded", "eve": "graded"
    }  # fmt: skip
    assert "not him" in found["ben"].verdict.flags[-1]
    assert marks.points(url(course)) == {"ann": 5.0, "eve": 5.0}
    assert "not him" in next(row["flags"] for row in table(course) if row["learner"] == "ben")
    with sqlite3.connect(url(course).removeprefix("sqlite:///")) as connection:
        connection.execute("DROP TRIGGER no")
    assert grade()["ben"].verdict.status == "graded"
    assert marks.points(url(course)) == FULL


def test_a_large_class_is_never_in_memory_at_once(course, grade, stub, monkeypatch):
    for number in range(60):
        hand_in(course, f"s{number:02}", learners.notebook(course))
    alive, most, taken = weakref.WeakSet(), [], []
    judged = stub.verdict

    def watched(task):
        verdict = judged(task)
        alive.add(verdict)
        most.append(len(alive))
        taken.append(len(stub.tasks))
        return verdict

    # A set of weak references wants hashable things.
    monkeypatch.setattr("autograder.verdict.Verdict.__hash__", object.__hash__)
    monkeypatch.setattr(stub, "verdict", watched)
    found = grade()
    assert len(found) == 63
    assert max(most) <= 3
    assert all(result.verdict.cells == [] for result in found.values())


def test_without_a_sandbox_it_grades_only_for_who_trusts_the_code(course, stub, monkeypatch):
    monkeypatch.setattr(sandbox, "missing", lambda: ["no user namespaces"])
    monkeypatch.setattr(classroom, "LocalPool", lambda jobs, models: stub)
    with pytest.raises(classroom.CannotGrade, match=r"no user namespaces.*--i-trust-this-code"):
        classroom.grade(course, CHAPTER, feedback=False)
    assert stub.tasks == []
    classroom.grade(course, CHAPTER, feedback=False, trust=True)
    assert [task.sandbox for task in stub.tasks] == [False, False, False]
    classroom.grade(course, CHAPTER, feedback=False, pool=stub)
    assert [task.sandbox for task in stub.tasks[3:]] == [True, True, True], "a cluster looks at its own machines"


def test_a_task_takes_along_what_the_grading_needs(course, grade, stub):
    grade(students=["ann"])
    (task,) = stub.tasks
    assert task.index["lab"] == learners.LAB
    assert list(task.references) == [f"{CHAPTER}/{STEM}.py"]
    assert task.notebook == (hand_in(course, "ann") / f"{STEM}.ipynb").read_bytes()
