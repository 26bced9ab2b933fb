"""Grade a class: every notebook under the submitted folder, into nbgrader's own gradebook.

Whatever runs cells (`autograder.task`, through a pool) is handed bytes and hands back a verdict, and knows nothing of
nbgrader. This module is the coordinator: it reads submissions, keeps the journal, and lets `autograder.gradebook`
write the marks.
"""

from __future__ import annotations

import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nbgrader.utils import parse_utc
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from traitlets.config import Config, PyFileConfigLoader

from autograder import gradebook, handback, intake, sandbox
from autograder.build import build, index_of
from autograder.handback import Graded
from autograder.journal import Journal, Locked, Record, grader_version
from autograder.lab_model import ANSWERS, TEXT
from autograder.labs import catalog
from autograder.pool import LocalPool
from autograder.references import references
from autograder.stock import quiet_api
from autograder.task import Task
from autograder.verdict import Verdict, nothing

Progress = Callable[[int, int, str], None]
#: nbgrader's own files beside a submission; `nbgrader release_feedback` knows the submission again by them.
TIMESTAMP, SECRET = "timestamp.txt", "submission_secret.txt"
#: Bytes that one of them may have.
SMALL = 1024
#: A name or an offset. Else nbgrader would open any file that a learner names as a zone, such as one of /proc.
_ZONE = re.compile(r"[\w+-]+(/[\w+-]+)*")


class CannotGrade(Exception):
    """The chapter cannot be graded; the message says why and what to do."""


class NothingToGrade(CannotGrade):
    """There is no such chapter, or nobody has submitted anything for it."""


def configuration(root: Path, db_url: str | None = None) -> Config:
    """The course's nbgrader configuration, with another gradebook if one is named.

    Raises:
        CannotGrade: if the address names no database, or one whose driver is not installed.
    """
    # As nbgrader does it, for a plugin of the course's own (a rule for late submissions); but it hides nothing.
    if str(root) not in sys.path:
        sys.path.append(str(root))
    config = Config(PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config())
    if db_url:
        try:
            make_url(db_url).get_dialect().import_dbapi()
        except (ArgumentError, NoSuchModuleError):
            raise CannotGrade(
                f"{db_url!r} is no address of a gradebook; one is sqlite:///FILE or postgresql://USER@HOST/NAME"
            ) from None
        except ModuleNotFoundError as missing:
            raise CannotGrade(
                f"the gradebook at {db_url} needs the Python package {missing.name}; install it and try again"
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
    progress: Progress = lambda done, total, label: None,
    students: list[str] | None = None,
    again: bool = False,
    trust: bool = False,
    pool: AbstractContextManager[Any] | None = None,
    patience: float = gradebook.PATIENCE_SECONDS,
) -> tuple[list[Graded], Path]:
    """Grade the submissions of a chapter. What an earlier run has judged, and nothing has changed in, is not run again.

    Args:
        root: the checkout.
        chapter: its folder, ``ch01_attention``.
        db_url: the gradebook's address; the one of `nbgrader_config.py` where it is left out.
        jobs: how many notebooks run at a time on this machine.
        feedback: whether to write feedback pages too.
        progress: called with (done, total, label) as the work goes on.
        students: whose notebooks; everybody's where it is left out.
        again: run everything anew, on the same hidden inputs.
        trust: run the learners' code without a sandbox.
        pool: where to run instead: a context manager with the method ``run`` of `autograder.pool.LocalPool`.
        patience: seconds that the gradebook may be locked or away.

    Returns:
        The results by learner and lab, and the CSV file, which always has the whole class.

    Raises:
        NothingToGrade: if the chapter is unknown or has no submissions.
        CannotGrade: with what to do. Whatever has been judged by then is in the journal, and the same call goes on.
    """
    config = configuration(root, db_url)
    everybody = _learners(root, chapter, root / config.CourseDirectory.submitted_directory)
    unknown = sorted(set(students or []) - set(everybody))
    if unknown:
        where = config.CourseDirectory.submitted_directory
        raise CannotGrade(f"there is no {where}/{unknown[0]}/{chapter}; learners are named as their folders are")
    chosen = [name for name in everybody if students is None or name in students]
    _reach(config.CourseDirectory.db_url)
    lacking = sandbox.missing() if pool is None and not trust else []
    if lacking:
        raise CannotGrade(
            f"this machine cannot confine the learners' code: {'; '.join(lacking)}. `course doctor` shows what it has; "
            "grade elsewhere (--scheduler names a cluster), or run the code without a sandbox (--i-trust-this-code)"
        )
    try:
        with Journal(root / "grading" / "journal" / chapter) as journal:
            run = _Run(root, chapter, config, journal, again, trust, progress, patience)
            run.judge(chosen, pool or LocalPool(jobs, models=run.needs_models()))
            if feedback:
                run.give_feedback(chosen)
            return run.results, run.write_table(everybody)
    except Locked as busy:
        raise CannotGrade(f"{chapter} is being graded already, by {busy}; wait for it or end it") from None
    except gradebook.GradebookAway as away:
        raise CannotGrade(
            f"the gradebook has not answered for {patience:.0f} s ({away}). Nothing is lost: every verdict so far is "
            f"in grading/journal/{chapter}, and the same command goes on from there"
        ) from None


def _learners(root: Path, chapter: str, submitted: Path) -> list[str]:
    chapters = sorted({lab.chapter for lab in catalog(root)})
    if chapter not in chapters:
        raise NothingToGrade(f"there is no chapter {chapter!r}; the chapters are {', '.join(chapters)}")
    found = intake.submissions(submitted, chapter)
    if not found:
        raise NothingToGrade(
            f"no submissions: put each notebook at {submitted.relative_to(root)}/LEARNER/{chapter}/LAB.ipynb, "
            "as `nbgrader collect` does"
        )
    return found


def _reach(url: str) -> None:
    """Find out at once what no patience mends: a wrong host, password or folder."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite" and engine.url.database:
        # SQLite makes its file, but not the folder for it.
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        engine.connect().close()
    except DBAPIError as problem:
        shown = engine.url.render_as_string(hide_password=True)
        raise CannotGrade(f"the gradebook at {shown} cannot be reached: {str(problem.orig).strip()}") from None
    finally:
        engine.dispose()


@dataclass
class _Run:
    """One run over a class. Submissions and verdicts pass through it; what stays is small."""

    root: Path
    chapter: str
    config: Config
    journal: Journal
    again: bool
    trust: bool
    progress: Progress
    patience: float
    results: list[Graded] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.submitted = self.root / self.config.CourseDirectory.submitted_directory
        self.autograded = self.root / self.config.CourseDirectory.autograded_directory
        self.indexes = [index_of(lab.id, self.root) for lab in catalog(self.root) if lab.chapter == self.chapter]
        self.references = {index["lab"]: references(index, self.root) for index in self.indexes}

    def needs_models(self) -> bool:
        """Whether a test compares with a model of the transformers library."""
        return any("transformers" in cell["source"] for index in self.indexes for cell in index["cells"])

    def judge(self, students: list[str], pool: AbstractContextManager[Any]) -> None:
        """Judge the learners' notebooks and write the marks."""
        self.total = len(students) * len(self.indexes)
        # The pool starts first: its imports take seconds, which the gradebook may use.
        with pool as running:
            gradebook.patiently(self._register, self._wait, self.patience)
            with (
                gradebook.Writer(self.config, self._refused, self._wait, self.patience) as self.writer,
                closing(running.run(self._tasks(students))) as verdicts,
            ):
                for (student, index, flags, task), verdict in verdicts:
                    verdict.flags[:0] = flags
                    record = Record(task.key, task.seed, grader_version(), verdict)
                    self.journal.write(student, index["stem"], record)
                    self._settle(student, index, record)
        self.results.sort(key=lambda result: (result.student, result.verdict.lab))

    def _tasks(self, students: list[str]) -> Iterator[tuple[Any, Task]]:
        """What has to run. The rest is settled on the way: what cannot be read, and what the journal knows."""
        for student in students:
            for index in self.indexes:
                known = self.journal.read(student, index["stem"])
                seed = known.seed if known else None
                try:
                    content, flags = intake.fetch(self.submitted, student, self.chapter, f"{index['stem']}.ipynb")
                except intake.BadNotebook as bad:
                    record = Record("", seed, grader_version(), nothing(index, bad.status, str(bad)))
                    if record != known:
                        self.journal.write(student, index["stem"], record)
                    self._settle(student, index, record, known=record == known)
                    continue
                seed = secrets.randbelow((1 << 31) - 1) + 1 if seed is None else seed
                task = Task(index, content, self.references[index["lab"]], seed, sandbox=not self.trust)
                if known and not self.again and known.answers(task.key):
                    self._settle(student, index, known, known=True)
                else:
                    yield (student, index, flags, task), task

    def _settle(self, student: str, index: dict[str, Any], record: Record, *, known: bool = False) -> None:
        """Write what is in the journal to where people look: the autograded notebook and the gradebook."""
        verdict, stem = record.verdict, index["stem"]
        beside = self._beside(student, verdict)
        stamp = _parsed(beside.get(TIMESTAMP, b""), verdict)
        try:
            self._hand_back(student, index, record, beside)
        except Exception as problem:
            # Nothing that is wrong with one submission may stop the others.
            verdict.flags.append(f"the autograded notebook could not be written: {type(problem).__name__}: {problem}")
        review = {name for exercise in verdict.exercises if exercise.flags for name in exercise.scores}
        scores = {name: score for exercise in verdict.exercises for name, score in exercise.scores.items()}
        if verdict.status == "internal":
            review = set(scores)
        marked = [
            {
                "cell_type": "markdown" if cell["kind"] in TEXT else "code",
                "source": cell["source"],
                "metadata": cell["metadata"],
            }
            for cell in handback.cells_of(index, verdict)
            if cell["kind"] in ("test", *ANSWERS)
        ]
        self.writer.add(gradebook.Entry(student, self.chapter, stem, stamp, marked, scores, frozenset(review), known))
        self.results.append(Graded(student, replace(verdict, cells=[]), record.seed))
        self.progress(len(self.results), self.total, f"{student} {index['lab']}")

    def _beside(self, student: str, verdict: Verdict) -> dict[str, bytes]:
        """nbgrader's own files beside the submission."""
        found = {}
        for name in (TIMESTAMP, SECRET):
            try:
                found[name], flags = intake.fetch(self.submitted, student, self.chapter, name, limit=SMALL)
                verdict.flags += flags
            except intake.BadNotebook as bad:
                if bad.status != "not-found":
                    verdict.flags.append(f"{name} was left out: {bad}")
        return found

    def _hand_back(self, student: str, index: dict[str, Any], record: Record, beside: dict[str, bytes]) -> None:
        folder = self.autograded / student / self.chapter
        folder.mkdir(parents=True, exist_ok=True)
        for name in (TIMESTAMP, SECRET):
            # nbgrader leaves files there that may not be written to.
            (folder / name).unlink(missing_ok=True)
            if name in beside:
                (folder / name).write_bytes(beside[name])
        handback.write_notebook(folder / f"{index['stem']}.ipynb", index, record.verdict, record.seed)

    def give_feedback(self, students: list[str]) -> None:
        """Write the feedback pages that are not as they should be; where that is not possible, the result says so."""
        done = []

        def told(student: str) -> None:
            done.append(student)
            self.progress(len(done), len(students), f"feedback for {student}")

        known = gradebook.patiently(lambda: gradebook.digests(self.config, self.chapter), self._wait, self.patience)
        marks = {student: known.get(student, "") for student in students}
        for student in handback.write_feedback(self.config, self.chapter, marks, self.journal, told):
            mine = next(result.verdict for result in self.results if result.student == student)
            mine.flags.append("nbgrader could not write the feedback pages; `nbgrader generate_feedback` says why")

    def write_table(self, everybody: list[str]) -> Path:
        """Write the CSV: this run's results, and for everybody else what the journal knows."""
        results = {(result.student, result.verdict.lab): result for result in self.results}
        path = self.root / "grading" / f"{self.chapter}.csv"
        handback.write_table(path, (row for student in everybody for row in self._rows(student, results)))
        return path

    def _rows(self, student: str, results: dict[tuple[str, str], Graded]) -> Iterator[Graded]:
        for index in self.indexes:
            if (student, index["lab"]) in results:
                yield results[student, index["lab"]]
            elif record := self.journal.read(student, index["stem"]):
                yield Graded(student, record.verdict, record.seed)

    def _register(self) -> None:
        """Tell the gradebook about the chapter's cells, as `nbgrader generate_assignment` does; release/ stays."""
        sources = self.root / self.config.CourseDirectory.source_directory / self.chapter
        if {path.stem for path in sources.glob("*.ipynb")} != {index["stem"] for index in self.indexes}:
            build(self.root)
        with tempfile.TemporaryDirectory(prefix="course-release-") as scratch:
            quiet = deepcopy(self.config)
            quiet.CourseDirectory.release_directory = scratch
            result = quiet_api(quiet).generate_assignment(self.chapter, force=True)
        if result["success"]:
            return
        said = f"{result.get('log', '')}\n{result['error']}"
        if "OperationalError" in said:
            raise gradebook.Busy(next(line for line in said.splitlines() if "OperationalError" in line).strip())
        if "Cannot add or remove cells" in said:
            raise CannotGrade(
                f"the exercises or test cells of {self.chapter} have changed since it was first graded, and nbgrader "
                "cannot move marks from the old ones to the new: grade with the source as it was, with another "
                f"gradebook (--db), or give up the old marks: `nbgrader db assignment remove {self.chapter} --force`"
            )
        raise RuntimeError(f"nbgrader could not register {self.chapter}: {result['error'].strip().splitlines()[-1]}")

    def _refused(self, entry: gradebook.Entry, why: str) -> None:
        """What to do about a submission that the gradebook does not take: the others have their marks."""
        lab = next(index["lab"] for index in self.indexes if index["stem"] == entry.notebook)
        for result in self.results:
            if (result.student, result.verdict.lab) == (entry.student, lab):
                result.verdict.status = "unrecorded"
                result.verdict.flags.append(f"the marks are not in the gradebook, which does not take them: {why}")

    def _wait(self, said: str) -> None:
        self.progress(len(self.results), self.total, f"waiting for the gradebook: {said}")


def _parsed(content: bytes, verdict: Verdict) -> datetime | None:
    """The time in a learner's timestamp file; it may be anything."""
    try:
        text = content.decode().strip()
        *_, zone = parts = text.split(" ")
        if len(parts) == 3 and not _ZONE.fullmatch(zone):
            raise ValueError(f"{zone} is no time zone")
        return parse_utc(text) if text else None
    except (ValueError, OverflowError):
        verdict.flags.append(f"{TIMESTAMP} holds no date; the time of submission is unknown")
        return None
