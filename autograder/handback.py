"""What a class gets back: the autograded notebook with its outputs, feedback pages, and the table of marks."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbgrader.converters import GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from nbgrader.utils import capture_log
from traitlets.config import Config

from autograder import sanitise
from autograder.build import KERNELSPEC
from autograder.journal import Journal, grader_version
from autograder.lab_model import ANSWERS, TEXT
from autograder.verdict import Verdict


@dataclass
class Graded:
    """One learner's notebook and what it earned.

    Attributes:
        student: the name of the learner's folder.
        verdict: what was earned and why, without the cells.
        seed: of the hidden inputs; None where nothing has run yet.
    """

    student: str
    verdict: Verdict
    seed: int | None = None


def cells_of(index: dict[str, Any], verdict: Verdict) -> list[dict[str, Any]]:
    """The notebook's cells: the lab's structure with the learner's code."""
    # Where nothing could be read the answers stay empty: those of the index are the solutions.
    unread = [cell | {"outputs": []} | ({"source": ""} if cell["kind"] in ANSWERS else {}) for cell in index["cells"]]
    # A copy of an answer that stood twice keeps its code but not its marks: nbgrader wants each name once.
    return [
        cell | {"metadata": {} if "-copy" in cell["id"] else json.loads(json.dumps(cell["metadata"]))}
        for cell in verdict.cells or unread
    ]


def write_notebook(path: Path, index: dict[str, Any], verdict: Verdict, seed: int | None) -> None:
    """Write the autograded notebook: a summary, then the cells with the outputs of this run, safe to look at."""
    by_hand = sum(cell["points"] for cell in index["cells"] if cell["kind"] == "manual")
    cells = [nbformat.v4.new_markdown_cell(_summary(verdict, by_hand), id="course-summary")]
    for cell in cells_of(index, verdict):
        make = nbformat.v4.new_markdown_cell if cell["kind"] in TEXT else nbformat.v4.new_code_cell
        made = make(cell["source"], id=cell["id"], metadata=cell["metadata"])
        if made.cell_type == "code":
            made.outputs, made.execution_count = cell["outputs"], cell.get("execution_count")
        cells.append(made)
    course = {"lab": index["lab"], "seed": seed}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNELSPEC, "course": course})
    # Only now: what a learner's process sent as outputs may be anything until it is sanitised.
    notebook.cells = cells
    partial = path.with_suffix(".part")
    nbformat.write(sanitise.notebook(notebook), partial)
    partial.replace(path)


def _summary(verdict: Verdict, by_hand: int) -> str:
    lines = [f"**{verdict.points:g} of {verdict.max:g} points** ({verdict.status})", ""]
    lines += [f"- up to {by_hand} more for what a person marks"] if by_hand else []
    lines += [f"- {sanitise.text(flag)}" for flag in verdict.flags]
    for exercise in verdict.exercises:
        notes = [note for note in (exercise.message, *exercise.flags) if note]
        if exercise.mistake:
            notes.append(f"Your result is exactly what you get when {exercise.mistake}")
        if notes:
            lines.append(f"- **{exercise.id}**: {exercise.points:g} of {exercise.max:g}")
            lines += [f"  - {sanitise.text(note)}" for note in notes]
    return "\n".join(lines)


class _Feedback(GenerateFeedback):
    """nbgrader's feedback for some learners in one go: its page templates are compiled once, not for each of them."""

    def __init__(self, students: Iterable[str], told: Callable[[str], None], **kwargs: Any):
        self.students, self.told, self.written = set(students), told, set()
        super().__init__(**kwargs)

    def init_notebooks(self) -> None:
        """Without nbgrader's glob patterns, to which a learner's name may mean something else."""
        chapter, step = self.coursedir.assignment_id, self.coursedir.autograded_directory
        places = [Path(self.coursedir.format_path(step, student, chapter)) for student in self.students]
        found = {str(place): sorted(str(path) for path in place.glob("*.ipynb")) for place in places}
        self.assignments = {place: notebooks for place, notebooks in found.items() if notebooks}

    def set_permissions(self, assignment_id: str, student_id: str) -> None:
        """The last step of each learner's pages."""
        super().set_permissions(assignment_id, student_id)
        self.written.add(student_id)
        self.told(student_id)


def write_feedback(
    config: Config, chapter: str, marks: dict[str, str], journal: Journal, told: Callable[[str], None]
) -> list[str]:
    """Write feedback pages with nbgrader's own command, where they are not what they would be.

    Args:
        config: the course's nbgrader configuration.
        chapter: the assignment.
        marks: for whom, and a digest of what the gradebook has of each (`autograder.gradebook.digests`).
        journal: where it is noted what pages show.
        told: called with each name when its pages are there.

    Returns:
        The learners for whom that was not possible.
    """
    place = CourseDirectory(config=config, assignment_id=chapter)
    state = {student: f"{grader_version()} {config} {digest}" for student, digest in marks.items()}
    missing = {student for student in marks if journal.pages(student) != _pages_key(place, student, state[student])}
    for student in marks.keys() - missing:
        told(student)

    def written(student: str) -> None:
        journal.note_pages(student, _pages_key(place, student, state[student]))
        told(student)

    while missing:
        converter = _Feedback(missing, written, coursedir=place, config=config, force=True)
        # It tells what went wrong in the log of the process, which is nbgrader's and not ours to print.
        converter.log.setLevel(logging.CRITICAL)
        capture_log(converter)
        missing -= converter.written
        # nbgrader stops altogether when the gradebook is locked for a while: the rest is worth another try.
        if not converter.written:
            break
    return sorted(missing)


def _pages_key(place: CourseDirectory, student: str, state: str) -> str:
    """A digest of all that a learner's feedback pages are made from, and of which of them are there."""
    digest = hashlib.sha256(state.encode())
    source, target = (
        Path(place.format_path(step, student, place.assignment_id))
        for step in (place.autograded_directory, place.feedback_directory)
    )
    for path in sorted(source.glob("*.ipynb")):
        digest.update(path.read_bytes() + bytes([(target / f"{path.stem}.html").is_file()]))
    return digest.hexdigest()


def write_table(path: Path, results: Iterable[Graded]) -> None:
    """Write one row for each learner and exercise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["learner", "lab", "exercise", "points", "max", "status", "mistake", "flags", "seed"])
        for result in results:
            for exercise in result.verdict.exercises:
                flags = "; ".join([*exercise.flags, *result.verdict.flags])
                texts = (sanitise.csv(text) for text in (exercise.status, exercise.mistake or "", flags))
                row = [sanitise.csv(result.student), result.verdict.lab, exercise.id, exercise.points, exercise.max]
                writer.writerow([*row, *texts, "" if result.seed is None else result.seed])
    partial.replace(path)
