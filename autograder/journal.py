"""What has been judged so far, one file for each learner and lab, so that an interrupted run goes on where it was.

A verdict is on the disk before the gradebook hears of it. The journal also keeps the seed of each learner's hidden
inputs, so that a regrade asks the same questions.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import importlib.metadata
import json
import os
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from autograder.verdict import Verdict

#: What an exercise's verdict may be for the whole to hold for ever; a timeout may go otherwise on a quieter machine.
FACTS = {"passed", "failed", "error", "unwritten", "missing"}
#: Packages that a lab's results come from.
_COMPUTE = ("torch", "numpy", "scipy")


class Locked(Exception):
    """Another process is grading this chapter."""


@dataclass(frozen=True)
class Record:
    """What the journal knows of one notebook.

    Attributes:
        key: of the task that was judged (`autograder.task.Task.key`); empty where nothing could be run.
        seed: of this learner's hidden inputs in this lab; None until a notebook of theirs has run.
        grader: the version of the code that judged (`grader_version`).
        verdict: what came out.
    """

    key: str
    seed: int | None
    grader: str
    verdict: Verdict

    def answers(self, key: str) -> bool:
        """Whether its verdict is what running the task with this key would give."""
        verdict = self.verdict
        facts = verdict.status == "graded" and all(exercise.status in FACTS for exercise in verdict.exercises)
        return facts and (self.key, self.grader) == (key, grader_version())


class Journal:
    """The journal of one chapter, for one process at a time. A context manager.

    Args:
        folder: where its files are; made where it is missing.

    Raises:
        Locked: on entering, while another process has it.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> Journal:
        self.folder.mkdir(parents=True, exist_ok=True)
        # The system lets go of the lock when this process ends, however it ends.
        self.lock = self.folder.with_name(f"{self.folder.name}.lock").open("a+")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.lock.seek(0)
            who = self.lock.read().strip() or "unknown"
            self.lock.close()
            raise Locked(f"process {who}") from None
        self.lock.truncate(0)
        self.lock.write(str(os.getpid()))
        self.lock.flush()
        return self

    def __exit__(self, *exception: object) -> None:
        self.lock.close()

    def read(self, learner: str, notebook: str) -> Record | None:
        """What is known of a learner's notebook; None where that is nothing, or the file is damaged."""
        path = self._path(learner, notebook)
        try:
            head, _, packed = gzip.decompress(path.read_bytes()).partition(b"\n")
            return Record(**json.loads(head), verdict=Verdict.unpack(packed))
        # gzip files end with a checksum; and what an older version of the course wrote may have other fields.
        except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError):
            return None

    def write(self, learner: str, notebook: str, record: Record) -> None:
        """Put a record on the disk; when this returns, not even a loss of power takes it away."""
        head = {"key": record.key, "seed": record.seed, "grader": record.grader}
        path = self._path(learner, notebook)
        new = not path.parent.is_dir()
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            file.write(gzip.compress(json.dumps(head).encode() + b"\n" + record.verdict.pack(), compresslevel=1))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        for folder in [path.parent, self.folder] if new else [path.parent]:
            _synchronise(folder)

    def pages(self, learner: str) -> str:
        """What was noted when a learner's feedback pages were written; empty where nothing was."""
        try:
            return self._path(learner, "feedback").with_suffix(".key").read_text(encoding="utf-8")
        except (OSError, ValueError):
            return ""

    def note_pages(self, learner: str, key: str) -> None:
        """Note that a learner's feedback pages show the state with this key. Lost at worst, they are written again."""
        self._path(learner, "feedback").with_suffix(".key").write_text(key, encoding="utf-8")

    def _path(self, learner: str, notebook: str) -> Path:
        """A learner's name is the name of a folder already, so it can be one here."""
        if learner in ("", "..") or Path(learner).name != learner:
            raise ValueError(f"{learner!r} is not the name of a folder")
        return self.folder / learner / f"{notebook}.gz"


def _synchronise(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        descriptor = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        os.fsync(descriptor)


@cache
def grader_version() -> str:
    """What a verdict depends on beside its task: the course's own code, Python, the packages that labs compute with."""
    digest = hashlib.sha256(f"{sys.version} {[importlib.metadata.version(name) for name in _COMPUTE]}".encode())
    for package in ("autograder", "coursekit"):
        folder = Path(__file__).parents[1] / package
        # The references are part of the task.
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
