"""The place where hostile submissions are graded: a small course, its honest learners, and secrets to be kept."""

from __future__ import annotations

import html
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from nbgrader.api import Gradebook

import coursekit
from autograder import classroom
from autograder.build import build
from autograder.lab_model import solution_source
from autograder.labs import find
from autograder.limits import Limits
from autograder.pool import LocalPool
from autograder.task import Task
from autograder.verdict import Verdict
from tests import learners
from tests.conftest import make_course
from tests.hostile import witness
from tests.hostile.case import Case
from tests.hostile.kit import LABS, Lab, notebook

HONEST = ("ann", "zoe")
#: Bounds of every case, unless it says otherwise: a lab of the tests needs a fraction of a second.
LIMITS: dict[str, Any] = {"cell_seconds": 20.0, "notebook_seconds": 60.0, "cpu_seconds": 60.0}
#: Where secrets lie.
PLACES = ("environment", "classmate", "gradebook", "grading", "home", "temporary", "shared memory")
#: A case that takes longer than this hangs.
CASE_SECONDS = 120.0
#: What grading may make below the course. Everything else there stays as it was.
MADE = ("grading/autograded", "grading/feedback", "grading/journal", "grading/gradebook.db", "grading/ch")


@dataclass
class Outcome:
    """What became of a class.

    Attributes:
        case, lab, root: what was graded, and where it lies.
        verdicts: by learner.
        table: the CSV file.
        survivors: processes that were left.
        changed: paths of the course, and temporary files, that were made, changed or removed.
        traces: files of the submission found anywhere.
        heard: sockets of the harness that were called.
        watch: processes and memory, for cases that bound them.
        hung: what did not end by itself.
        own: the code of the hostile learner's own cells.
    """

    case: Case
    lab: Lab
    root: Path
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    table: Path | None = None
    survivors: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    watch: witness.Watch | None = None
    hung: str = ""
    own: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """Of the hostile learner."""
        return self.verdicts[self.case.learner]

    def messages(self, learner: str | None = None) -> str:
        """Every message and flag of a learner's verdict."""
        verdict = self.verdicts[learner or self.case.learner]
        said = [f"{e.id} {e.status} {e.message} {e.mistake} {e.flags}" for e in verdict.exercises]
        return "\n".join([verdict.status, *verdict.flags, *said])

    def cells(self, learner: str | None = None) -> list[dict[str, Any]]:
        """The cells of a learner's autograded notebook; none where there is no such file."""
        path = self._file("autograded", learner, "ipynb")
        return json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []

    def outputs(self, learner: str | None = None, *, own: bool = False) -> str:
        """The outputs of a learner's autograded notebook as JSON; with ``own`` those of test cells are left out."""
        cells = [cell for cell in self.cells(learner) if not (own and learners.is_test(cell))]
        return json.dumps([cell.get("outputs", []) for cell in cells], ensure_ascii=False)

    def said(self, learner: str | None = None) -> str:
        """All that the cells of a learner's notebook have printed and displayed; no traceback, which quotes code."""
        outputs = [output for cell in self.cells(learner) for output in cell.get("outputs", [])]
        return "\n".join("".join(output.get("text", "")) + json.dumps(output.get("data", {})) for output in outputs)

    def page(self, learner: str | None = None) -> str:
        """A learner's feedback page, as it is; empty where there is none."""
        path = self._file("feedback", learner, "html")
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def page_text(self, learner: str | None = None) -> str:
        """What can be read on it."""
        return html.unescape(re.sub(r"<[^>]*>", "", self.page(learner)))

    def returned(self, learner: str | None = None) -> list[Path]:
        """All that was written for a learner."""
        places = [self.root / "grading" / step / (learner or self.case.learner) for step in ("autograded", "feedback")]
        return [path for place in places for path in sorted(place.rglob("*"))]

    def marks(self, learner: str | None = None) -> dict[str, float]:
        """The points in the gradebook by test cell."""
        with gradebook(self.root) as book:
            found = book.find_submission_notebook(self.lab.stem, self.lab.chapter, learner or self.case.learner)
            return {grade.cell.name: grade.auto_score for grade in found.grades}

    def _file(self, step: str, learner: str | None, ending: str) -> Path:
        place = self.root / "grading" / step / (learner or self.case.learner) / self.lab.chapter
        return place / f"{self.lab.stem}.{ending}"


class _Bounded:
    """A pool that is open already and stays open, with a case's own limits."""

    def __init__(self, pool: LocalPool, case: Case):
        self.pool, self.limits = pool, Limits(**LIMITS | case.limits)

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(self, tasks: Iterable[tuple[Any, Task]]) -> Iterator[tuple[Any, Verdict]]:
        return self.pool.run((label, replace(task, limits=self.limits)) for label, task in tasks)


class Stage:
    """What all cases share. A context manager.

    Attributes:
        canaries: where each secret lies -> the secret. None of them may ever be shown to a learner.
        words: what ``@WORD@`` in the code of a case stands for.
        prepared: a course whose gradebook knows its labs.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.canaries = {place: f"canary{secrets.token_hex(8)}" for place in PLACES}
        self.trace = f"mallory{secrets.token_hex(4)}"
        self.prepared, self.number = folder / "prepared", 0

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            self._hide_secrets(stack)
            self.listeners = stack.enter_context(closing(witness.Listeners(self.folder)))
            self.bystander = self._bystander()
            stack.callback(lambda: self.bystander.kill())
            stack.enter_context(witness.adopting_orphans())
            self.pool = stack.enter_context(LocalPool(2))
            self._prepare()
            self._end = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.close()

    def _hide_secrets(self, stack: ExitStack) -> None:
        self.temporary, self.home = self.folder / "tmp", self.folder / "home"
        for place in (self.temporary, self.home):
            place.mkdir()
        stack.enter_context(
            patch.dict(os.environ, HOSTILE_CANARY=self.canaries["environment"], TMPDIR=str(self.temporary))
        )
        stack.enter_context(patch.object(tempfile, "tempdir", str(self.temporary)))
        (self.home / ".netrc").write_text(self.canaries["home"])
        (self.temporary / "notes.txt").write_text(self.canaries["temporary"])
        self.shared = Path("/dev/shm") / f"hostile-{secrets.token_hex(4)}"
        self.shared.write_text(self.canaries["shared memory"])
        stack.callback(self.shared.unlink)
        for place in (self.folder, self.home, self.temporary, self.shared):
            # Only the sandbox may keep a submission out.
            place.chmod(0o777)

    def _bystander(self) -> subprocess.Popen:
        """A process for submissions to kill."""
        code = "import os, time\nparent = os.getppid()\nwhile os.getppid() == parent: time.sleep(0.5)"
        command = [sys.executable, "-c", code, f"bystander-{self.trace}"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def words(self, root: Path) -> dict[str, str]:
        """What an attacker may know: where the course is, what listens, and how to mark what they make."""
        return self.listeners.addresses | {
            "COURSE": str(root),
            "TMP": str(self.temporary),
            "HOME": str(self.home),
            "SHM": str(self.shared),
            "PACKAGE": str(Path(coursekit.__file__).parent),
            "BYSTANDER": f"bystander-{self.trace}",
            "TRACE": self.trace,
        }

    def _prepare(self) -> None:
        """Build the course, grade the honest learners alone, and leave only the labs in its gradebook."""
        self.prepared.mkdir()
        make_course(self.prepared)
        layers = self.prepared / "source_solutions" / LABS["layer"].chapter
        layers.mkdir()
        shutil.copy(Path(learners.__file__).parent / "data" / "lab01_layer.py", layers)
        build(self.prepared)
        (self.prepared / "grading").mkdir()
        (self.prepared / "grading" / "remarks.txt").write_text(self.canaries["grading"])
        self.alone = {name: self._graded_alone(name, lab) for name, lab in LABS.items()}
        with gradebook(self.prepared) as book:
            for student in HONEST:
                book.remove_student(student)
            book.add_student("newcomer", email=self.canaries["gradebook"])
        for left in ("autograded", "feedback", "journal", "submitted"):
            shutil.rmtree(self.prepared / "grading" / left, ignore_errors=True)

    def _graded_alone(self, name: str, lab: Lab) -> Outcome:
        outcome = Outcome(Case("", "honest", "", {}, lab=name), lab, self.prepared)
        self._hand_in_honest(self.prepared, lab)
        results, outcome.table = classroom.grade(self.prepared, lab.chapter, pool=_Bounded(self.pool, outcome.case))
        outcome.verdicts = {result.student: result.verdict for result in results}
        earned = {student: (verdict.points, verdict.status) for student, verdict in outcome.verdicts.items()}
        if earned != dict.fromkeys(HONEST, (find(lab.id, self.prepared).points, "graded")):
            raise RuntimeError(f"the honest learners do not have everything right: {earned}")
        outcome.root = self.folder / f"{name} alone"
        shutil.copytree(self.prepared, outcome.root)
        return outcome

    def _hand_in_honest(self, root: Path, lab: Lab) -> None:
        exercises = find(lab.id, root).exercises
        answers = {cell.name: f"# {self.canaries['classmate']}\n{solution_source(cell.source)}" for cell in exercises}
        for student in HONEST:
            self._hand_in(root, lab, student, notebook(root, lab, answers))

    def _hand_in(self, root: Path, lab: Lab, student: str, content: dict[str, Any] | bytes) -> Path:
        place = root / "grading" / "submitted" / student / lab.chapter
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{lab.stem}.ipynb").write_bytes(
            content if isinstance(content, bytes) else json.dumps(content).encode()
        )
        return place

    def run(self, case: Case, **options: Any) -> Outcome:
        """Grade a case between the honest learners, and look at all that it might have done.

        Args:
            case: what is handed in.
            options: for `classroom.grade`.
        """
        # Only the last class is kept.
        shutil.rmtree(self.folder / f"course{self.number}", ignore_errors=True)
        self.number += 1
        outcome = Outcome(case, LABS[case.lab], self.folder / f"course{self.number}")
        root, lab = outcome.root, outcome.lab
        shutil.copytree(self.prepared, root)
        self._hand_in_honest(root, lab)
        outcome.own = self._hand_in_hostile(case, lab, root)
        before, files = witness.family(), self._files(root)
        outcome.watch = witness.Watch(before)
        options = {"pool": _Bounded(self.pool, case)} | options
        try:
            with outcome.watch if case.at_most else nullcontext(), witness.deadline(CASE_SECONDS, before):
                results, outcome.table = classroom.grade(root, lab.chapter, **options)
                outcome.verdicts = {result.student: result.verdict for result in results}
        except witness.Hung as problem:
            outcome.hung = str(problem)
        finally:
            outcome.survivors = witness.survivors(before)
        if self.bystander.poll() is not None:
            outcome.survivors.append("not the bystander, who was killed")
            self.bystander = self._bystander()
        outcome.heard = self.listeners.heard()
        outcome.traces = witness.traces(self.trace, [root, self.temporary, self.home])
        after = self._files(root)
        outcome.changed = sorted(name for name in files.keys() | after.keys() if files.get(name) != after.get(name))
        return outcome

    def _hand_in_hostile(self, case: Case, lab: Lab, root: Path) -> list[str]:
        words = self.words(root)

        def filled(text: str | None) -> str | None:
            return text and re.sub(r"@([A-Z0-9]+)@", lambda found: words[found[1]], text)

        answers = {name: filled(text) for name, text in (lab.answers | case.answers).items()}
        extra, last = filled(case.extra), filled(case.last)
        content = notebook(root, lab, answers, extra, last)
        place = self._hand_in(root, lab, case.learner, case.notebook(content) if case.notebook else content)
        if case.files:
            case.files(place, root)
        return [cell for cell in (extra, last) if cell]

    def _files(self, root: Path) -> dict[str, tuple]:
        temporary = witness.state(self.temporary, ("course-zygote-",))
        return witness.state(root, MADE) | {f"temporary: {name}": details for name, details in temporary.items()}


def gradebook(root: Path) -> Gradebook:
    """The course's gradebook."""
    return Gradebook(classroom.configuration(root).CourseDirectory.db_url, "attention-to-silicon")
