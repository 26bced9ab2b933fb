"""All that grading writes into a gradebook, in words that two gradebooks can be compared by."""

from __future__ import annotations

from typing import Any

from nbgrader.api import Comment, Grade, Gradebook, Student, SubmittedAssignment, SubmittedNotebook

#: The course's id in `nbgrader_config.py`.
COURSE = "attention-to-silicon"
_NAMES = {
    Student: lambda row: (row.id,),
    SubmittedAssignment: lambda row: (row.student.id, row.assignment.name),
    SubmittedNotebook: lambda row: (row.student.id, row.name),
    Grade: lambda row: (row.student.id, row.notebook.name, row.cell.name),
    Comment: lambda row: (row.student.id, row.notebook.name, row.cell.name),
}


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the tables that grading writes, and all of each row, with names in place of random ids."""
    with Gradebook(url, COURSE) as book:
        return {table.__tablename__: _rows(book, table) for table in _NAMES}


def points(url: str) -> dict[str, float]:
    """What each learner has in all."""
    total: dict[str, float] = {}
    for student, _, _, auto, manual, extra, _ in everything(url)["grade"]:
        total[student] = total.get(student, 0.0) + ((auto or 0.0) if manual is None else manual) + (extra or 0.0)
    return total


def _rows(book: Gradebook, table: type) -> list[tuple[Any, ...]]:
    values = [column.key for column in table.__table__.columns if not column.name.endswith("id")]
    rows = [(*_NAMES[table](row), *(getattr(row, name) for name in values)) for row in book.db.query(table)]
    return sorted(rows, key=repr)
