"""The local pool: verdicts as they come, a few tasks ahead, and an end when nobody listens any more."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from autograder import pool as module
from autograder.build import index_of
from autograder.pool import LocalPool
from autograder.references import references
from autograder.task import Task
from tests import learners


@pytest.fixture
def task(built_course):
    """A task of the tiny lab with all answers, and with a cell of the learner's own."""
    index = index_of(learners.LAB, built_course)
    right = learners.reference(built_course)

    def make(extra="pass"):
        content = json.dumps(learners.notebook(built_course, right, extra)).encode()
        return Task(index, content, references(index, built_course), seed=7)

    return make


def processes(path):
    """The warm process that listens on a socket, and its forks, which have the same command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(path).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def gone(path, seconds=10.0):
    """Whether they all end within a while."""
    end = time.monotonic() + seconds
    while processes(path) and time.monotonic() < end:
        time.sleep(0.05)
    return not processes(path)


def test_tasks_are_taken_a_few_at_a_time_and_each_has_its_verdict(task):
    taken = []

    def tasks():
        for number in range(7):
            taken.append(number)
            yield number, task()

    with LocalPool(2) as pool:
        ahead = [(label, verdict.points, len(taken)) for label, verdict in pool.run(tasks())]
    assert sorted(label for label, _, _ in ahead) == list(range(7))
    assert {points for _, points, _ in ahead} == {5.0}
    assert ahead[0][2] <= 4


@pytest.fixture
def performed(monkeypatch):
    """The tasks that have been begun."""
    begun, perform = [], module.perform

    def noted(one, zygote):
        begun.append(one)
        return perform(one, zygote)

    monkeypatch.setattr(module, "perform", noted)
    return begun


def test_where_nobody_listens_any_more_nothing_goes_on(task, performed):
    tasks = [("quick", task()), *[("slow", task("import time\ntime.sleep(100)"))] * 3]
    with LocalPool(2) as pool:
        with closing(pool.run(tasks)) as verdicts:
            assert next(verdicts)[0] == "quick"
            listened = time.monotonic()
        assert time.monotonic() - listened < 30, "it does not wait for what nobody wants"
        assert gone(pool.zygote.path)
    assert len(performed) == 3, "what had not begun does not begin"


def test_a_fault_of_the_grader_costs_one_submission(task, monkeypatch):
    sound = module.perform

    def broken(one, zygote):
        if one.seed == 8:
            raise OSError("disk on fire")
        return sound(one, zygote)

    monkeypatch.setattr(module, "perform", broken)
    good = task()
    bad = Task(good.index, good.notebook, good.references, seed=8)
    with LocalPool(2) as pool:
        found = dict(pool.run([("good", good), ("bad", bad)]))
    assert (found["good"].status, found["good"].points) == ("graded", 5.0)
    assert (found["bad"].status, found["bad"].points) == ("internal", 0.0)
    assert found["bad"].exercises[0].message == "grading broke: OSError: disk on fire"
