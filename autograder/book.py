"""Build the book: warnings are errors, pages are executed, and what was promised is checked afterwards.

`course book` calls `build`. The work is done by Jupyter Book in a process of its own; this module prepares the scripts
that the book needs offline, shows how far the build is, and does not take exit code 0 for success: every page of the
table of contents must be there, and every page with code must have been executed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from autograder import paths, vendor

OUTPUT = "_build"
LOG = "book.log"
EXECUTED = ".executed.json"
CODE_CELL = "```{code-cell}"
_STEP = re.compile(r"(?P<what>reading sources|writing output)\.\.\. ?\[ *(?P<percent>\d+)%\] (?P<page>\S+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_SAID = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|\w+Error: ")


class BookError(Exception):
    """The book could not be built, or what was built is not the book. The message says which and what to do."""


def build(open_browser: bool = False, quiet: bool = False, root: Path | None = None) -> Path:
    """Build what has changed since the last time.

    Args:
        open_browser: show the front page afterwards.
        quiet: no progress and no notes.
        root: the checkout; found from the working folder if not given.

    Returns:
        The path of the front page.

    Raises:
        BookError: with the warnings of the build, or the pages that are missing or were not executed.
    """
    root = (root or paths.root()).resolve()
    console = Console(stderr=True, quiet=quiet)
    missing = [page for page in toc_pages(root) if source_of(root, page) is None]
    if missing:
        raise BookError(
            f"_toc.yml names pages that are not there: {', '.join(missing)} (labs come from `course build`)"
        )
    for note in vendor.prepare(root / OUTPUT / "vendor").notes:
        console.print(f"[yellow]Note:[/] {note}")
    started = time.perf_counter()
    _run(root, console)
    check(root)
    page = root / OUTPUT / "html" / f"{toc_pages(root)[0]}.html"
    write_index(root)
    console.print(f"The book is built ({time.perf_counter() - started:.0f} s): {page}")
    if open_browser:
        webbrowser.open(page.as_uri())
    return page


def toc_pages(root: Path) -> list[str]:
    """Every page of `_toc.yml`, the root page first, without endings."""

    def walk(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            yield from (str(node[key]) for key in ("root", "file") if key in node)
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    return list(walk(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))))


def write_index(root: Path) -> None:
    """Let the book's index lead to the front page.

    Jupyter Book leaves an index alone that is there already, and `course learn` puts one there that asks to wait.
    """
    front = f"{toc_pages(root)[0]}.html"
    index = root / OUTPUT / "html" / "index.html"
    index.write_text(f'<meta http-equiv="refresh" content="0; url={front}" />\n', encoding="utf-8")


def source_of(root: Path, page: str) -> Path | None:
    """The source file of a page, or None."""
    return next((path for end in (".md", ".ipynb") if (path := root / f"{page}{end}").is_file()), None)


def check(root: Path) -> None:
    """Check the built book against its table of contents.

    Raises:
        BookError: naming the pages that were not written, and those with code that did not run to its end.
    """
    record = root / OUTPUT / EXECUTED
    ran = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    unwritten, idle = [], []
    for page in toc_pages(root):
        source = source_of(root, page)
        if not (root / OUTPUT / "html" / f"{page}.html").is_file():
            unwritten.append(page)
        elif (
            source and source.suffix == ".md" and CODE_CELL in source.read_text(encoding="utf-8") and not ran.get(page)
        ):
            idle.append(page)
    if unwritten:
        raise BookError(f"the build ended well but did not write: {', '.join(unwritten)}")
    if idle:
        raise BookError(f"the build ended well but these pages were not executed: {', '.join(idle)}")


def _run(root: Path, console: Console) -> None:
    """Run Jupyter Book, following its output; the whole of it goes to `_build/book.log`."""
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command += ["build", str(root), "-W", "-n", "--keep-going"]
    environment = {
        **os.environ,
        "COURSE_BOOK": "1",
        "COURSE_ROOT": str(root),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "NO_COLOR": "1",
    }
    lines: list[str] = []
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        text=True,
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("starting Jupyter Book", total=200)
            for line in process.stdout or ():
                lines.append(_COLOURS.sub("", line.rstrip()))
                if step := _STEP.search(lines[-1]):
                    writing = step["what"] == "writing output"
                    verb = "writing" if writing else "reading and running"
                    done = int(step["percent"]) + 100 * writing
                    progress.update(task, completed=done, description=f"{verb} {step['page']}")
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    log = root / OUTPUT / LOG
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if code:
        # Else the next build would take the pages with warnings for read, say nothing, and end well.
        shutil.rmtree(root / OUTPUT / ".doctrees", ignore_errors=True)
        said = [line for line in lines if _SAID.search(line) and not line.startswith("[IPKernelApp]")]
        detail = "\n".join(dict.fromkeys(said)) or "\n".join(lines[-15:])
        raise BookError(f"Jupyter Book ended with code {code}; all it said is in {log}\n{detail}")
