"""Carry your own work forward: a later lab uses what you built in an earlier one."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

from coursekit import reference


def carry(lab: str, name: str, *, start: str | Path | None = None) -> Any:
    """Your own function or class from an earlier lab if it passes its visible checks, else the reference.

    Args:
        lab: the earlier lab's id, ``ch01/lab03``.
        name: what to take from it.
        start: the folder of the running notebook; the working directory where it is left out.

    Returns:
        The learner's object when the earlier notebook lies beside this one (in the same chapter's folder, or in that
        chapter's folder next to it) and the visible checks of its exercise pass. Otherwise, and always while grading,
        the reference from `coursekit.solved`, so that an old bug is not punished twice. One line says which. What the
        lab itself has given, such as the class of a configuration, comes from there without a word.

    Raises:
        LookupError: if there is no such lab, or it defines no such name.
    """
    solved = reference.solved_path(lab)
    if reference.being_graded() or _is_given(lab, name):
        return _from_reference(lab, solved, name)
    notebook = _find_notebook(solved, Path(start or Path.cwd()).resolve())
    if notebook is None:
        print(f"{name}: the reference (no notebook of lab {lab} lies beside this one)")
        return _from_reference(lab, solved, name)
    try:
        own = _from_notebook(lab, notebook, name, notebook.stat().st_mtime_ns)
    except NotImplementedError:
        print(f"{name}: the reference (your version in {notebook.name} is not written yet)")
        return _from_reference(lab, solved, name)
    except (Exception, SystemExit) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        print(f"{name}: the reference (your version in {notebook.name} does not pass its visible checks: {reason})")
        return _from_reference(lab, solved, name)
    print(f"{name}: your own, from {notebook.name}")
    return own


def _from_reference(lab: str, solved: Path, name: str) -> Any:
    try:
        return getattr(_solved_module(solved, solved.stat().st_mtime_ns), name)
    except AttributeError:
        raise LookupError(f"lab {lab} defines no {name!r}") from None


@cache
def _solved_module(solved: Path, changed: int) -> Any:
    """The reference as a module, made once for each state of the file (``changed``, its time of change).

    Once, so that what two calls carry from one lab belongs together, and because labs that carry stand on each other.
    """
    spec = importlib.util.spec_from_file_location(f"coursekit.solved.{solved.parent.name}.{solved.stem}", solved)
    module = importlib.util.module_from_spec(spec)
    with contextlib.redirect_stdout(io.StringIO()):
        spec.loader.exec_module(module)
    return module


def _is_given(lab: str, name: str) -> bool:
    """Whether a lab's given cells define a name; learners do not change them."""
    sources = [source for exercise, source in reference.load(lab).cells if exercise is None]
    return any(name in reference.defined_names(source) for source in sources)


def _find_notebook(solved: Path, here: Path) -> Path | None:
    chapter, file = solved.parent.name, f"{solved.stem}.ipynb"
    places = [here / file if here.name == chapter else None, here.parent / chapter / file, here / chapter / file]
    return next((place for place in places if place and place.is_file()), None)


@cache
def _from_notebook(lab: str, notebook: Path, name: str, saved: int) -> Any:
    """Run the notebook's given and solution cells, then the visible checks of the exercise that defines ``name``.

    Once for each state of the file (``saved``, its time of change): naming a mistake runs given cells many times.
    """
    lab_reference = reference.load(lab)
    exercise = next((e for e, source in lab_reference.cells if e and name in reference.defined_names(source)), None)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    scope: dict[str, Any] = {"__name__": "__main__"}
    checks = []
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet):
        for cell in cells:
            marks = cell.get("metadata", {}).get("nbgrader", {})
            source = "".join(cell["source"])
            # The first cell of every lab installs packages on Colab: once is enough.
            if cell["cell_type"] != "code" or marks.get("grade_id") == "setup":
                continue
            if not marks and not _only_defines(source):
                continue
            if marks.get("grade"):
                if exercise and f'check.exercise("{lab}", "{exercise}")' in source:
                    checks.append(source)
                continue
            exec(compile(source, f"<{notebook.name}>", "exec"), scope)
        if name not in scope:
            raise LookupError(f"{name} is not defined there")
        if not checks:
            raise LookupError("its check cell is missing")
        for source in checks:
            exec(compile(source, f"<{notebook.name}>", "exec"), dict(scope))
    return scope[name]


def _only_defines(source: str) -> bool:
    """Whether a cell of the learner's own holds nothing but helpers; pictures and training are not run again."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    return all(isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)) for node in body)
