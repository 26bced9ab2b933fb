"""Write marks into nbgrader's gradebook: nothing else in the course does, and one process at a time.

nbgrader's API commits on each of its calls. Here a batch of submissions becomes one transaction, and what the database
does meanwhile is borne: it may be locked or away for a while, and it may refuse one submission of a batch.
"""

from __future__ import annotations

import hashlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nbformat
from nbgrader.api import (
    Assignment,
    BaseCell,
    Comment,
    Grade,
    Gradebook,
    Notebook,
    SubmittedAssignment,
    SubmittedNotebook,
)
from nbgrader.preprocessors import AssignLatePenalties, SaveAutoGrades, latesubmissions, saveautogrades
from sqlalchemy import Select, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SAWarning
from traitlets.config import Config

#: A batch is written when it has this many submissions, or when this many seconds have passed since the last one.
BATCH_SIZE, BATCH_SECONDS = 32, 2.0
#: How long the gradebook may be locked or away, and the longest pause between two tries.
PATIENCE_SECONDS, LONGEST_PAUSE = 120.0, 8.0


class GradebookAway(Exception):
    """The gradebook's database was locked or away for longer than we wait."""


class Busy(Exception):
    """The gradebook's database is locked or away at the moment; for what learns of it only by a text."""


@dataclass(frozen=True)
class Entry:
    """What the gradebook is told of one notebook.

    Attributes:
        student, chapter, notebook: whose it is, and nbgrader's names of the assignment and the notebook.
        timestamp: when it was handed in, if that is known.
        cells: its test and answer cells, with source and metadata; outputs are not needed.
        scores: points by test cell.
        review: test cells that a person has to look at.
        known: whether this verdict has been written before, so that what an instructor did since stays as it is.
    """

    student: str
    chapter: str
    notebook: str
    timestamp: datetime | None
    cells: list[dict[str, Any]]
    scores: dict[str, float]
    review: frozenset[str] = frozenset()
    known: bool = False


class Writer:
    """Writes entries in batches. A context manager; entries that are not yet written when it is left are written then.

    Args:
        config: the course's nbgrader configuration: which database, which rule for late submissions.
        refused: called with each entry that the gradebook does not take, and why; the others are not affected.
        waiting: called with what the database said when it is locked or away.
        patience: seconds to wait for it.

    Raises:
        GradebookAway: by any method, when the patience has ended; what was not written is lost here.
    """

    def __init__(
        self,
        config: Config,
        refused: Callable[[Entry, str], None],
        waiting: Callable[[str], None] = lambda text: None,
        patience: float = PATIENCE_SECONDS,
    ):
        self.config, self.refused, self.waiting, self.patience = config, refused, waiting, patience
        self.pending: list[Entry] = []
        self.written = time.monotonic()

    def __enter__(self) -> Writer:
        place = self.config.CourseDirectory
        self.gradebook = patiently(lambda: _Batched(place.db_url, place.course_id), self.waiting, self.patience)
        self.save = _SaveScores(config=self.config)
        self.penalise = AssignLatePenalties(config=self.config)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.gradebook.close()

    def add(self, entry: Entry) -> None:
        """Take an entry, and write it and those before it when a batch is full or due."""
        self.pending.append(entry)
        if len(self.pending) >= BATCH_SIZE or time.monotonic() - self.written >= BATCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        batch, self.pending = self.pending, []
        # Who spoils a batch is found by writing its entries one by one.
        if batch and self._write(batch) is not None:
            for entry in batch:
                problem = self._write([entry])
                if problem is not None:
                    self.refused(entry, problem)
        self.written = time.monotonic()

    def _write(self, batch: list[Entry]) -> str | None:
        """Write a batch in one transaction; where that cannot be, write nothing of it and return why."""
        try:
            patiently(lambda: self._transaction(batch), self.waiting, self.patience)
        except GradebookAway:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {_first_line(getattr(error, 'orig', error))}"
        return None

    def _transaction(self, batch: list[Entry]) -> None:
        try:
            with _lent(self.gradebook):
                for entry in batch:
                    self._put(entry)
            self.gradebook.save()
        except BaseException:
            self.gradebook.db.rollback()
            raise

    def _put(self, entry: Entry) -> None:
        stamp = {"timestamp": entry.timestamp} if entry.timestamp else {}
        self.gradebook.update_or_create_student(entry.student)
        self.gradebook.update_or_create_submission(entry.chapter, entry.student, **stamp)
        place = {"notebook": entry.notebook, "assignment": entry.chapter, "student": entry.student, "db_url": None}
        marked = nbformat.from_dict({"cells": entry.cells})
        self.save.entry = entry
        # Else each grade that is looked up would first write the one before.
        self.gradebook.db.flush()
        with self.gradebook.db.no_autoflush:
            self.save.preprocess(marked, {"nbgrader": place})
        self.penalise.preprocess(marked, {"nbgrader": place})


def digests(config: Config, chapter: str) -> dict[str, str]:
    """For each learner, a digest of all that feedback pages take from the gradebook: marks, comments and penalties."""
    found: dict[str, Any] = {}
    with Gradebook(config.CourseDirectory.db_url, config.CourseDirectory.course_id) as book:
        for query in (
            _rows_of(chapter, None, SubmittedNotebook.late_submission_penalty),
            _rows_of(chapter, Grade, Grade.auto_score, Grade.manual_score, Grade.extra_credit),
            _rows_of(chapter, Comment, Comment.auto_comment, Comment.manual_comment),
        ):
            for student, *values in book.db.execute(query):
                found.setdefault(student, hashlib.sha256()).update(repr(values).encode())
    return {student: digest.hexdigest() for student, digest in found.items()}


def _rows_of(chapter: str, table: Any, *columns: Any) -> Select:
    """Columns of a table of cells, or of the notebooks themselves, by learner, notebook and cell."""
    names = [SubmittedAssignment.student_id, Notebook.name, *([BaseCell.name] if table else [])]
    query = select(*names, *columns).select_from(SubmittedNotebook).join(SubmittedNotebook.notebook)
    query = query.join(SubmittedNotebook.assignment).join(SubmittedAssignment.assignment)
    if table:
        query = query.join(table, table.notebook_id == SubmittedNotebook.id).join(
            BaseCell, BaseCell.id == table.cell_id
        )
    return query.where(Assignment.name == chapter).order_by(*names)


class _Batched(Gradebook):
    """nbgrader's gradebook, whose commits wait for `save`, which makes one transaction of them."""

    def __init__(self, url: str, course: str):
        super().__init__(url, course)
        self.save = self.db.commit
        self.db.commit = lambda: None
        self.checksums: dict[tuple[str, ...], str] = {}

    def released(self, *cell: str) -> str:
        """The checksum of a cell (its name, notebook and assignment) as it was released."""
        if cell not in self.checksums:
            self.checksums[cell] = self.find_source_cell(*cell).checksum
        return self.checksums[cell]

    def __exit__(self, *exception: object) -> None:
        """Stay open: nbgrader's preprocessors close what they take for their own."""


@contextmanager
def _lent(gradebook: Gradebook) -> Iterator[None]:
    """Let nbgrader's preprocessors, each of which opens the gradebook anew, use the one that is open."""
    modules = (saveautogrades, latesubmissions)
    try:
        for module in modules:
            module.Gradebook = lambda url: gradebook
        yield
    finally:
        for module in modules:
            module.Gradebook = Gradebook


class _SaveScores(SaveAutoGrades):
    """nbgrader's own rules for what a score means (manual grades, comments), with the scores of our engine."""

    entry: Entry

    def _add_comment(self, cell: Any, resources: dict) -> None:
        """nbgrader says "No response." of an answer that is as it was released, which it knows by a checksum."""
        self._know_the_release(cell)
        super()._add_comment(cell, resources)

    def _know_the_release(self, cell: Any) -> None:
        name = cell.metadata["nbgrader"]["grade_id"]
        released = self.gradebook.released(name, self.notebook_id, self.assignment_id)
        cell.metadata["nbgrader"]["checksum"] = released

    def _add_score(self, cell: Any, resources: dict) -> None:
        name = cell.metadata["nbgrader"]["grade_id"]
        grade = self.gradebook.find_grade(name, self.notebook_id, self.assignment_id, self.student_id)
        if name not in self.entry.scores:
            # A person marks it; untouched, it is worth nothing. What a person has done stays.
            if not (self.entry.known and grade.manual_score is not None):
                self._know_the_release(cell)
                super()._add_score(cell, resources)
            return
        if self.entry.known and grade.auto_score == self.entry.scores[name]:
            return
        grade.auto_score = self.entry.scores[name]
        grade.needs_manual_grade = grade.manual_score is not None or name in self.entry.review


def patiently(call: Callable[[], Any], waiting: Callable[[str], None], patience: float) -> Any:
    """Call something that uses the gradebook, again and again while its database is locked or away.

    Raises:
        GradebookAway: when it still is after ``patience`` seconds.
        Exception: whatever else goes wrong, at once.
    """
    end, pause = time.monotonic() + patience, 0.1
    while True:
        try:
            with _quiet():
                return call()
        except Exception as error:
            said = _passing(error)
            if said is None:
                raise
            if time.monotonic() + pause > end:
                raise GradebookAway(said) from None
        waiting(said)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _passing(error: BaseException | None) -> str | None:
    """What the database said, if an error comes from a state that passes; nbgrader wraps some in its own exceptions."""
    while error is not None:
        if isinstance(error, Busy):
            return str(error)
        if isinstance(error, OperationalError | InterfaceError) or (
            isinstance(error, DBAPIError) and error.connection_invalidated
        ):
            return _first_line(error.orig)
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what nbgrader says of errors that we handle (tracebacks) and of rows that are half made (warnings)."""
    log = logging.getLogger("tornado.application")
    was, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)
            yield
    finally:
        log.disabled = was
