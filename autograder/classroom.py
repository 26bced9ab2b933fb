"""Grade a class: every notebook under the submitted folder, into nbgrader's own gradebook.

The engine (`autograder.verdict.judge`) runs the cells in other processes and knows nothing of nbgrader; this module
alone writes the gradebook, so a stronger engine can take its place behind the same call.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import SaveAutoGrades
from nbgrader.utils import capture_log, parse_utc
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SAWarning
from traitlets.config import Config, PyFileConfigLoader

from autograder.build import KERNELSPEC, build, index_of
from autograder.labs import catalog
from autograder.stock import quiet_api
from autograder.verdict import Verdict, judge, nothing
from autograder.warm import Zygote


class CannotGrade(Exception):
    """The chapter cannot be graded; the message says why and what to do."""


class NothingToGrade(CannotGrade):
    """There is no such chapter, or nobody has submitted anything for it."""


@dataclass
class Graded:
    """One learner's notebook and what it earned."""

    student: str
    verdict: Verdict


class _SaveScores(SaveAutoGrades):
    """nbgrader's own rules for what a score means (manual grades, comments), with the scores of our engine."""

    def __init__(self, gradebook: Gradebook, scores: dict[str, float]):
        super().__init__()
        self.open_gradebook, self.scores = gradebook, scores

    def preprocess(self, nb: Any, resources: dict) -> tuple[Any, dict]:
        place = resources["nbgrader"]
        self.notebook_id, self.assignment_id, self.student_id = place["notebook"], place["assignment"], place["student"]
        self.gradebook = self.open_gradebook
        for index, cell in enumerate(nb.cells):
            self.preprocess_cell(cell, resources, index)
        return nb, resources

    def _add_comment(self, cell: Any, resources: dict) -> None:
        """nbgrader says "No response." of an answer that is as it was released, which it knows by a checksum."""
        name = cell.metadata["nbgrader"]["grade_id"]
        released = self.gradebook.find_source_cell(name, self.notebook_id, self.assignment_id)
        cell.metadata["nbgrader"]["checksum"] = released.checksum
        super()._add_comment(cell, resources)

    def _add_score(self, cell: Any, resources: dict) -> None:
        name = cell.metadata["nbgrader"]["grade_id"]
        grade = self.gradebook.find_grade(name, self.notebook_id, self.assignment_id, self.student_id)
        grade.auto_score = self.scores[name]
        grade.needs_manual_grade = grade.manual_score is not None


def configuration(root: Path, db_url: str | None = None) -> Config:
    """The course's nbgrader configuration, with another gradebook if one is named."""
    loaded = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    config = Config(loaded)
    if db_url:
        try:
            make_url(db_url).get_dialect().import_dbapi()
        except ArgumentError:
            raise CannotGrade(
                f"{db_url!r} is no address of a gradebook; one is sqlite:///FILE or postgresql://USER@HOST/NAME"
            ) from None
        config.CourseDirectory.db_url = db_url
    return config


def grade(
    root: Path,
    chapter: str,
    *,
    db_url: str | None = None,
    jobs: int = 2,
    feedback: bool = True,
    progress: Callable[[int, int, str], None] = lambda done, total, label: None,
) -> tuple[list[Graded], Path]:
    """Grade all submissions of a chapter.

    Args:
        root: the checkout.
        chapter: its folder, ``ch01_attention``.
        db_url: the gradebook's address; the one of `nbgrader_config.py` where it is left out.
        jobs: how many notebooks run at a time.
        feedback: whether to write feedback pages too.
        progress: called with (done, total, label) as the work goes on.

    Returns:
        The results by learner and lab, and the CSV file that holds them.

    Raises:
        NothingToGrade: if the chapter is unknown or has no submissions.
        CannotGrade: if its labs have other test cells than those that the gradebook holds marks for.
    """
    # nbgrader 0.9 touches half-made rows under SQLAlchemy 2.1; harmless, and nothing a reader can act on.
    warnings.filterwarnings("ignore", category=SAWarning)
    config = configuration(root, db_url)
    submitted = root / config.CourseDirectory.submitted_directory
    known = catalog(root)
    chapters = sorted({lab.chapter for lab in known})
    if chapter not in chapters:
        raise NothingToGrade(f"there is no chapter {chapter!r}; the chapters are {', '.join(chapters)}")
    students = sorted(path.parent.name for path in submitted.glob(f"[!.]*/{chapter}") if path.is_dir())
    if not students:
        raise NothingToGrade(
            f"no submissions: put each notebook at {submitted.relative_to(root)}/LEARNER/{chapter}/LAB.ipynb, "
            "as `nbgrader collect` does"
        )
    results = []
    with Zygote() as zygote:
        indexes = [index_of(lab.id, root) for lab in known if lab.chapter == chapter]
        sources = root / config.CourseDirectory.source_directory / chapter
        if {path.stem for path in sources.glob("*.ipynb")} != {index["stem"] for index in indexes}:
            build(root)
        _ensure_assignment(chapter, config)
        work = list(_submissions(submitted, students, indexes, chapter))
        with Gradebook(config.CourseDirectory.db_url, config.CourseDirectory.course_id) as gradebook:
            for done, (student, index, verdict) in enumerate(_run(work, zygote, jobs, root), 1):
                _record(root, config, gradebook, student, index, verdict)
                results.append(Graded(student, verdict))
                progress(done, len(work), f"{student} {index['lab']}")
    if feedback:
        for student in _without_feedback(config, chapter, students, progress):
            mine = next(result.verdict for result in results if result.student == student)
            mine.flags.append("nbgrader could not write the feedback pages; `nbgrader generate_feedback` says why")
    results.sort(key=lambda result: (result.student, result.verdict.lab))
    return results, _write_csv(root / "grading" / f"{chapter}.csv", results)


def _submissions(
    submitted: Path, students: list[str], indexes: list[dict], chapter: str
) -> Iterator[tuple[str, dict, Path]]:
    for student in students:
        for index in indexes:
            yield student, index, submitted / student / chapter / f"{index['stem']}.ipynb"


def _run(
    work: list[tuple[str, dict, Path]], zygote: Zygote, jobs: int, root: Path
) -> Iterator[tuple[str, dict, Verdict]]:
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        futures = {
            pool.submit(judge, index, path, zygote, everything=True, root=root): (student, index)
            for student, index, path in work
        }
        for future in as_completed(futures):
            student, index = futures[future]
            try:
                verdict = future.result()
            except Exception as error:
                # Nothing that is wrong with one submission may stop the others.
                verdict = nothing(index, "internal", f"grading broke: {type(error).__name__}: {error}")
            yield student, index, verdict


def _ensure_assignment(chapter: str, config: Config) -> None:
    """Tell the gradebook about the chapter's cells, as `nbgrader generate_assignment` does; release/ is not touched."""
    url = config.CourseDirectory.db_url
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="course-release-") as scratch:
        quiet = Config(config)
        quiet.CourseDirectory.release_directory = scratch
        result = quiet_api(quiet).generate_assignment(chapter, force=True)
    if not result["success"]:
        if "Cannot add or remove cells" in result.get("log", ""):
            raise CannotGrade(
                f"the exercises or test cells of {chapter} have changed since it was first graded, and nbgrader cannot "
                "move marks from the old ones to the new: grade with the source as it was, with another gradebook "
                f"(--db), or give up the old marks with `nbgrader db assignment remove {chapter} --force`"
            )
        raise RuntimeError(f"nbgrader could not register {chapter}: {result['error'].strip().splitlines()[-1]}")


def _record(root: Path, config: Config, gradebook: Gradebook, student: str, index: dict, verdict: Verdict) -> None:
    """Write one verdict: marks into the gradebook, the notebook with its outputs into the autograded folder."""
    chapter, stem = index["chapter"], index["stem"]
    folder = root / config.CourseDirectory.submitted_directory / student / chapter
    stamp = _timestamp(folder / "timestamp.txt", verdict)
    gradebook.update_or_create_student(student)
    gradebook.update_or_create_submission(chapter, student, **({"timestamp": stamp} if stamp else {}))
    notebook = _notebook(index, verdict)
    scores = {name: score for exercise in verdict.exercises for name, score in exercise.scores.items()}
    place = {"notebook": stem, "assignment": chapter, "student": student, "db_url": config.CourseDirectory.db_url}
    _SaveScores(gradebook, scores).preprocess(notebook, {"nbgrader": place})
    gradebook.db.commit()
    target = root / config.CourseDirectory.autograded_directory / student / chapter
    target.mkdir(parents=True, exist_ok=True)
    partial = target / f"{stem}.ipynb.part"
    nbformat.write(notebook, partial)
    partial.replace(target / f"{stem}.ipynb")
    # What `nbgrader release_feedback` needs to know the submission again.
    for name in ("timestamp.txt", "submission_secret.txt"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def _timestamp(path: Path, verdict: Verdict) -> Any:
    try:
        return parse_utc(path.read_text(encoding="utf-8").strip()).replace(tzinfo=None) if path.is_file() else None
    except (ValueError, OverflowError, UnicodeDecodeError):
        verdict.flags.append("timestamp.txt holds no date; the time of submission is unknown")
        return None


def _notebook(index: dict, verdict: Verdict) -> Any:
    """The autograded notebook: the lab's structure, the learner's code, the outputs of this run."""
    cells = []
    # Where nothing could be read the answers stay empty: those of the index are the solutions.
    unread = [
        cell | {"outputs": []} | ({"source": ""} if cell["kind"] == "exercise" else {}) for cell in index["cells"]
    ]
    for cell in verdict.cells or unread:
        make = nbformat.v4.new_markdown_cell if cell["kind"] == "markdown" else nbformat.v4.new_code_cell
        made = make(cell["source"], id=cell["id"], metadata=_metadata(cell))
        if made.cell_type == "code":
            made.outputs = [nbformat.from_dict(output) for output in cell["outputs"]]
            made.execution_count = cell.get("execution_count")
        cells.append(made)
    note = [f"- {flag}" for flag in verdict.flags]
    note += [f"- {e.id}: {e.message}" for e in verdict.exercises if e.message]
    note += [f"- {e.id}: your result is exactly what you get when {e.mistake}" for e in verdict.exercises if e.mistake]
    summary = f"**{verdict.points:g} of {verdict.max:g} points** ({verdict.status})\n\n" + "\n".join(note)
    cells.insert(0, nbformat.v4.new_markdown_cell(summary, id="course-summary"))
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC, "course": {"lab": index["lab"]}})


def _metadata(cell: dict) -> dict[str, Any]:
    """A copy of an answer that stood twice keeps its code but not its marks: nbgrader wants each name once."""
    return {} if "-copy" in cell["id"] else json.loads(json.dumps(cell["metadata"]))


class _Feedback(GenerateFeedback):
    """nbgrader's feedback for some learners in one go: its page templates are compiled once, not for each of them."""

    def __init__(self, students: list[str], progress: Callable[[int, int, str], None], **kwargs: Any):
        self.students, self.progress, self.written = set(students), progress, []
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
        self.written.append(student_id)
        self.progress(len(self.written), len(self.students), f"feedback for {student_id}")


def _without_feedback(
    config: Config, chapter: str, students: list[str], progress: Callable[[int, int, str], None]
) -> list[str]:
    """Write the feedback pages and return the learners for whom that was not possible."""
    place = CourseDirectory(config=config, assignment_id=chapter)
    converter = _Feedback(students, progress, coursedir=place, config=config, force=True)
    # It tells what went wrong in the log of the process, which is nbgrader's and not ours to print.
    converter.log.setLevel(logging.CRITICAL)
    capture_log(converter)
    return sorted(converter.students - set(converter.written))


def _write_csv(path: Path, results: list[Graded]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["learner", "lab", "exercise", "points", "max", "status", "mistake", "flags"])
        for result in results:
            for exercise in result.verdict.exercises:
                flags = "; ".join([*exercise.flags, *result.verdict.flags])
                row = [result.student, result.verdict.lab, exercise.id, exercise.points, exercise.max]
                writer.writerow([*row, exercise.status, exercise.mistake or "", flags])
    return path
