"""`course learn`: open a lab in JupyterLab with the book beside it, or prove without a screen that all of it works."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autograder import labs
from autograder.build import build
from autograder.doctor import has_display

_WAITING = """<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>The book is being built</title>
<style>body{font:18px/1.5 system-ui,sans-serif;max-width:34em;margin:20vh auto;padding:0 1em}</style>
<h1>The book is being built</h1><p>This page turns into it in a minute or two. The labs are ready already.</p>
<p>If it does not, <code>course book</code> says why.</p>
"""


def open_lab(root: Path, lab_id: str, out: Console) -> int:
    """Build what is missing, start JupyterLab at a lab, and build the book in the background. Returns an exit code.

    Raises:
        LookupError: if there is no such lab.
        labs.LabError: if a source is malformed.
    """
    lab = labs.find(lab_id, root)
    report = build(root)
    for path in report.kept:
        out.print(f"kept a copy of your work: {path}")
    copied = hand_out(root)
    if copied:
        out.print(f"{len(copied)} labs copied to work/, where your answers stay yours")
    port, token = _free_port(), secrets.token_hex(16)
    base = f"http://localhost:{port}"
    page = root / "_build" / "html" / "index.html"
    if not page.is_file():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(_WAITING, encoding="utf-8")
    log = (root / "_build" / "learn.log").open("wb")
    # The lab comes first: the book is built with what it leaves of the processor.
    nice = ["nice", "-n", "15"] if shutil.which("nice") else []
    book = subprocess.Popen([*nice, sys.executable, "-m", "autograder.cli", "book"], cwd=root, stdout=log, stderr=log)
    where = f"work/{lab.chapter}/{lab.stem}.ipynb"
    out.print(f"\n[bold]The lab[/bold]   {base}/lab/tree/{where}?token={token}", highlight=False, soft_wrap=True)
    out.print(f"[bold]The book[/bold]  {base}/static/index.html", highlight=False, soft_wrap=True)
    out.print("The book is also behind the button `Book` above every notebook. Ctrl-C ends both.\n")
    try:
        return subprocess.call(jupyter_command(root, port, token, where, browser=has_display()), cwd=root)
    except KeyboardInterrupt:
        return 0
    finally:
        book.terminate()
        log.close()


def jupyter_command(root: Path, port: int, token: str, where: str, *, browser: bool) -> list[str]:
    """JupyterLab at one notebook, with the built book served beside it and a button that leads there."""
    settings = root / "build" / "lab_settings"
    settings.mkdir(parents=True, exist_ok=True)
    book = {
        "command": "help:open",
        "args": {"text": "The book", "url": f"http://localhost:{port}/static/index.html", "newBrowserTab": True},
    }
    overrides = {
        "@jupyterlab/notebook-extension:panel": {
            "toolbar": [{"name": "course-book", "label": "Book", "rank": 55, **book}]
        },
        # A lab's links to pages open their text for reading, not for editing.
        "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}},
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    (settings / "overrides.json").write_text(json.dumps(overrides, indent=1), encoding="utf-8")
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{where}",
        f"--LabApp.app_settings_dir={settings}",
        f"--ServerApp.extra_static_paths={root / '_build' / 'html'}",
        *([] if sys.platform == "win32" else ["--KernelManager.transport=ipc"]),
        "--ServerApp.log_level=ERROR",
        "--LabApp.log_level=ERROR",
        *([] if browser else ["--no-browser"]),
        *(["--allow-root"] if sys.platform != "win32" and _is_root() else []),
    ]


def hand_out(root: Path) -> list[Path]:
    """Copy every released lab that is not there yet into work/. What is there is never touched."""
    copied = []
    for path in labs.files(root / "release", "ipynb"):
        target = root / "work" / path.parent.name / path.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            copied.append(target)
    return copied


def prove(root: Path, lab_id: str, out: Console) -> bool:
    """Take one lab the whole way without a screen: release, a learner's notebook, check, grade, feedback, JupyterLab.

    Prints a table of the steps. Only what a build writes changes in the checkout; its gradebook is not touched.
    """
    steps: list[tuple[str, bool, str, float]] = []
    with tempfile.TemporaryDirectory(prefix="course-proof-") as scratch:
        proof = _Proof(root, lab_id, Path(scratch))
        for name, step in proof.steps():
            start = time.perf_counter()
            with out.status(name):
                try:
                    done, said = step()
                except Exception as error:
                    done, said = False, f"{type(error).__name__}: {error}"
            steps.append((name, done, said, time.perf_counter() - start))
            if not done:
                break
    table = Table(title=f"The whole path on {lab_id}", title_justify="left")
    for heading in ("step", "result", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for name, done, said, seconds in steps:
        table.add_row(name, f"[{'green' if done else 'red'}]{escape(said)}[/]", f"{seconds:.1f}")
    out.print(table)
    return all(done for _, done, _, _ in steps)


class _Proof:
    """The steps of `prove`, each returning whether it worked and what it showed."""

    def __init__(self, root: Path, lab_id: str, scratch: Path):
        self.root, self.scratch = root, scratch
        self.lab = labs.find(lab_id, root)
        self.mistaken = self.lab.exercises[-1].name
        self.notebook = scratch / f"{self.lab.stem}.ipynb"
        self.expected = self.lab.points - sum(cell.options["points"] for cell in self.lab.tests(self.mistaken))

    def steps(self) -> list[tuple[str, Callable[[], tuple[bool, str]]]]:
        return [
            ("build the release", self.build),
            ("check the untouched notebook", self.untouched),
            ("check a learner's notebook", self.check),
            ("grade it with nbgrader's gradebook", self.grade),
            ("write the feedback page", self.feedback),
            ("start JupyterLab at the lab", self.jupyterlab),
        ]

    def build(self) -> tuple[bool, str]:
        from autograder.worked_example import worked_example

        build(self.root)
        hand_out(self.root)
        notebook, self.sentence = worked_example(self.root, self.lab, mistaken=self.mistaken)
        self.notebook.write_text(json.dumps(notebook), encoding="utf-8")
        count = len(labs.files(self.root / "release", "ipynb"))
        return count > 0, f"{count} labs"

    def untouched(self) -> tuple[bool, str]:
        verdict = self._judge(self.root / "release" / self.lab.chapter / f"{self.lab.stem}.ipynb")
        return verdict.points == 0, f"{verdict.points:g}/{verdict.max:g} points, as it should be"

    def check(self) -> tuple[bool, str]:
        verdict = self._judge(self.notebook)
        failed = next(exercise for exercise in verdict.exercises if exercise.id == self.mistaken)
        named = failed.mistake == self.sentence
        naming = f"the mistake in {self.mistaken} is {'named' if named else 'not named'}: {self.sentence}"
        said = f"{verdict.points:g}/{verdict.max:g} points; {naming}"
        return named and verdict.points >= self.expected and verdict.points < verdict.max, said

    def grade(self) -> tuple[bool, str]:
        from autograder import classroom, sandbox

        self.classroom = self.scratch / "course"
        self.classroom.mkdir()
        for name in ("_config.yml", "_toc.yml", "nbgrader_config.py", "source_solutions", "release"):
            (shutil.copytree if (self.root / name).is_dir() else shutil.copy)(self.root / name, self.classroom / name)
        folder = self.classroom / "grading" / "submitted" / "learner" / self.lab.chapter
        folder.mkdir(parents=True)
        shutil.copy(self.notebook, folder)
        # The notebook holds the course's own answers: where there is no sandbox, it needs none.
        results, _ = classroom.grade(self.classroom, self.lab.chapter, trust=bool(sandbox.missing()))
        graded = next(result.verdict for result in results if result.verdict.lab == self.lab.id)
        return (
            graded.status == "graded" and graded.points >= self.expected,
            f"{graded.points:g}/{graded.max:g} points in the gradebook",
        )

    def feedback(self) -> tuple[bool, str]:
        page = self.classroom / "grading" / "feedback" / "learner" / self.lab.chapter / f"{self.lab.stem}.html"
        text = page.read_text(encoding="utf-8")
        leaks = "BEGIN HIDDEN TESTS" in text
        return (
            not leaks and self.sentence is not None,
            f"{len(text) >> 10} KiB, {'HIDDEN TESTS LEAK' if leaks else 'no hidden test in it'}",
        )

    def jupyterlab(self) -> tuple[bool, str]:
        from urllib.request import urlopen

        port, token = _free_port(), secrets.token_hex(16)
        where = f"work/{self.lab.chapter}/{self.lab.stem}.ipynb"
        server = subprocess.Popen(
            jupyter_command(self.root, port, token, where, browser=False),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            address = f"http://localhost:{port}/api/contents/{where}?token={token}&content=0"
            found = _eventually(lambda: json.load(urlopen(address, timeout=5)))
            return found["type"] == "notebook", f"{where} is served"
        finally:
            server.terminate()
            server.wait(20)

    def _judge(self, notebook: Path) -> Any:
        from autograder.checking import check

        return check(self.root, self.lab.id, notebook, remember=False)


def _eventually(ask: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def _free_port() -> int:
    for port in (8888, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise AssertionError("port 0 is always free")


def _is_root() -> bool:
    import os

    return os.geteuid() == 0
