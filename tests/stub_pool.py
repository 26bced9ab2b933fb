"""Submissions and verdicts without the cost of running anything: for tests of what coordinates the grading."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from autograder import classroom, intake, restore
from autograder.handback import Graded
from autograder.task import Task
from autograder.verdict import Exercise, Verdict, nothing
from tests import learners
from tests.learners import CHAPTER, STEM

CLASS = ["ann", "ben", "eve"]
#: What each of them has when all is well.
FULL = dict.fromkeys(CLASS, 5.0)


def hand_in(root: Path, learner: str, content: Any = None, timestamp: bytes | None = None) -> Path:
    """Put a notebook (JSON, or the bytes of a file) into a learner's folder, and return that folder."""
    place = root / "grading" / "submitted" / learner / CHAPTER
    place.mkdir(parents=True, exist_ok=True)
    if content is not None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (place / f"{STEM}.ipynb").write_bytes(data)
    if timestamp is not None:
        (place / "timestamp.txt").write_bytes(timestamp)
    return place


def make_class(built_course: Path, root: Path) -> Path:
    """The tiny course, with a class of three who have handed in the same."""
    shutil.copytree(built_course, root)
    for name in CLASS:
        hand_in(root, name, learners.notebook(root, learners.reference(root)))
    return root


def grader(course: Path, stub: StubPool) -> Callable[..., dict[str, Graded]]:
    """A function that grades a class in a stub and returns the results by learner; ``stub.tasks`` is of this run."""

    def grade(**options: Any) -> dict[str, Graded]:
        stub.tasks.clear()
        results, _ = classroom.grade(course, CHAPTER, pool=stub, **{"feedback": False} | options)
        return {result.student: result for result in results}

    return grade


def url(course: Path) -> str:
    """The address of a course's gradebook."""
    return classroom.configuration(course).CourseDirectory.db_url


def table(course: Path) -> list[dict[str, str]]:
    """The rows of the CSV."""
    with (course / "grading" / f"{CHAPTER}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def autograded(course: Path, name: str) -> Path:
    """The folder of a learner's autograded notebook."""
    return course / "grading" / "autograded" / name / CHAPTER


class StubPool:
    """In place of `autograder.pool.LocalPool`: what is written has full marks at once, or what a test makes of it.

    Attributes:
        tasks: what was handed to it.
        status, exercise: what becomes of a notebook and of the exercises written in it, from now on.
        ends_after: raise KeyboardInterrupt after so many verdicts.
    """

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.status, self.exercise = "graded", "passed"
        self.ends_after: int | None = None

    def __enter__(self) -> StubPool:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(self, tasks: Iterable[tuple[Any, Task]]) -> Iterator[tuple[Any, Verdict]]:
        for label, task in tasks:
            if self.ends_after == len(self.tasks):
                raise KeyboardInterrupt
            self.tasks.append(task)
            yield label, self.verdict(task)

    def verdict(self, task: Task) -> Verdict:
        try:
            content, flags = restore.read(task.notebook, "notebook")
        except intake.BadNotebook as bad:
            return nothing(task.index, bad.status, str(bad))
        restored = restore.restore(task.index, content)
        cells = [cell | {"outputs": [], "execution_count": None} for cell in restored.cells]
        exercises = []
        for exercise in task.index["exercises"]:
            mine = [cell for cell in cells if cell["exercise"] == exercise["name"]]
            begun = not any("NotImplementedError" in cell["source"] for cell in mine if cell["kind"] == "exercise")
            status = self.exercise if begun else "unwritten"
            right = status == "passed"
            scores = {cell["id"]: float(right * cell["points"]) for cell in mine if cell["kind"] == "test"}
            points = sum(scores.values())
            exercises.append(Exercise(exercise["name"], points, exercise["points"], status, scores=scores))
        return Verdict(task.index["lab"], self.status, exercises, flags + restored.flags, cells)
