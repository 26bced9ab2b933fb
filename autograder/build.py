"""Build everything that is generated from the lab sources, byte for byte the same each time.

build/source/CHAPTER/LAB.ipynb    nbgrader's source notebooks (ignored by git)
build/index/CHAPTER/LAB.json      what grading needs of a lab, readable without any library (ignored)
release/CHAPTER/LAB.ipynb         learner notebooks, made by nbgrader itself (committed)
coursekit/solved/CHAPTER/LAB.py   the reference for `carry` and for naming mistakes (committed)
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autograder import lab_model, labs, paths, readme
from autograder.catalog_pages import lab_number
from autograder.lab_check import CHECK_IMPORT
from autograder.lab_model import TEXT, Lab, solution_source
from autograder.setup_cell import setup_cell
from coursekit import reference

#: Given and plain cells with more lines are folded: they draw and prepare, and a click shows them.
FOLD_LINES = 20
STUB = "raise NotImplementedError  # your code here"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
_SOLVED_INIT = '"""Reference solutions, generated from source_solutions/ by `course build`. Do not edit."""\n'


@dataclass
class Report:
    """What a build wrote, removed, and kept copies of; with ``check``, what is stale."""

    written: list[Path] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    summaries: dict[Path, str] = field(default_factory=dict)

    @property
    def stale(self) -> list[Path]:
        return self.written + self.removed


def build(root: Path | None = None, *, check: bool = False) -> Report:
    """Build everything, or with ``check`` compare what is committed with what a build would write.

    Orphans (generated files without a source) are removed. Nothing is touched while any source is malformed.

    Raises:
        labs.LabError: for a malformed source.
    """
    root = root or paths.root()
    catalog = labs.catalog(root)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="course-build-") as scratch:
        fresh = Path(scratch)
        _generate(catalog, root, fresh)
        folders = (
            ["release", "coursekit/solved"] if check else ["build/source", "build/index", "release", "coursekit/solved"]
        )
        for folder in folders:
            _synchronise(fresh / folder, root / folder, root, report, check)
        if (root / "README.md").is_file():
            _replace(root / "README.md", readme.with_chapters(root).encode(), root, report, check)
    reference.load.cache_clear()
    return report


def index_of(lab_id: str, root: Path | None = None) -> dict[str, Any]:
    """The built index of one lab; built again first if the lab's source or the builder has changed since.

    Raises:
        LookupError: if there is no such lab.
        labs.LabError: if a source is malformed.
    """
    root = root or paths.root()
    source = labs.source_path(lab_id, root)
    place = root / "build" / "index" / source.parent.name / f"{source.stem}.json"
    if place.is_file():
        index = json.loads(place.read_text(encoding="utf-8"))
        if index["key"] == _key(source):
            return index
    build(root)
    return json.loads(place.read_text(encoding="utf-8"))


def source_notebook(lab: Lab, setup: str) -> dict[str, Any]:
    """The nbgrader source notebook of a lab as notebook JSON (nbformat 4.5), with deterministic cell ids."""
    counts: dict[str, int] = {}
    used: set[str] = set()
    cells = []
    for cell in _with_setup(lab, setup):
        if cell.kind in ("mistakes", "equivalent", "alternative"):
            continue
        cells.append(_notebook_cell(lab, cell, counts, used))
    metadata = {
        "kernelspec": KERNELSPEC,
        "language_info": {"name": "python"},
        "course": {"lab": lab.id, "title": lab.title, "hardware": lab.hardware, "minutes": lab.minutes},
    }
    if lab.hardware == "gpu":
        metadata |= {"accelerator": "GPU", "colab": {"gpuType": "T4"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def solved_module(lab: Lab) -> str:
    """The reference of a lab as an importable module that keeps its cell headers."""
    relative = f"source_solutions/{lab.chapter}/{lab.path.name}"
    parts = [f'"""{lab.title}: the reference. Generated from {relative} by `course build`; do not edit."""\n']
    for cell in lab.cells:
        if cell.kind == "given":
            parts.append(f"# %% given\n{cell.source.rstrip()}\n")
        elif cell.kind == "exercise":
            parts.append(f'# %% exercise="{cell.name}"\n{solution_source(cell.source)}')
        elif cell.kind == "mistakes":
            parts.append(f'# %% mistakes="{cell.name}"\n{cell.source.rstrip()}\n')
    return "\n".join(parts)


def index(lab: Lab, notebook: dict[str, Any]) -> dict[str, Any]:
    """What restoring, running and reporting need of a lab, as plain JSON values."""
    exercises = [
        {
            "name": cell.name,
            "defines": reference.defined_names(cell.source),
            "forbid": cell.options.get("forbid", []),
            "points": sum(t.options["points"] for t in lab.tests(cell.name)),
        }
        for cell in lab.exercises
    ]
    cells = [
        {
            "id": cell["id"],
            "kind": kind,
            "exercise": name,
            "points": points,
            "source": cell["source"],
            "metadata": cell["metadata"],
        }
        for cell in notebook["cells"]
        for kind, name, points in [_role(cell)]
    ]
    return {
        "key": _key(lab.path),
        "lab": lab.id,
        "chapter": lab.chapter,
        "stem": lab.stem,
        "title": lab.title,
        "exercises": exercises,
        "cells": cells,
    }


def _generate(catalog: list[Lab], root: Path, fresh: Path) -> None:
    setup = setup_cell(root)
    chapters = []
    for lab in catalog:
        notebook = source_notebook(lab, setup)
        _write(fresh / "build/source" / lab.chapter / f"{lab.stem}.ipynb", _dump(notebook))
        _write(fresh / "build/index" / lab.chapter / f"{lab.stem}.json", _dump(index(lab, notebook)))
        _write(fresh / "coursekit/solved" / lab.chapter / f"{lab.stem}.py", solved_module(lab))
        _write(fresh / "coursekit/solved" / lab.chapter / "__init__.py", _SOLVED_INIT)
        if lab.chapter not in chapters:
            chapters.append(lab.chapter)
    _write(fresh / "coursekit/solved/__init__.py", _SOLVED_INIT)
    for chapter in chapters:
        _release(fresh, chapter)


def _release(fresh: Path, chapter: str) -> None:
    """Let nbgrader make the learner notebooks of a chapter, with a gradebook that is thrown away."""
    from traitlets.config import Config

    from autograder.stock import quiet_api

    config = Config()
    config.CourseDirectory.root = str(fresh)
    config.CourseDirectory.source_directory = "build/source"
    config.CourseDirectory.db_url = f"sqlite:///{fresh}/gradebook.db"
    config.CourseDirectory.course_id = "build"
    config.ClearSolutions.code_stub = {"python": STUB}
    result = quiet_api(config).generate_assignment(chapter, force=True)
    if not result["success"]:
        raise RuntimeError(f"nbgrader could not make the release of {chapter}:\n{result['log']}")


def _with_setup(lab: Lab, setup: str) -> list[labs.Cell]:
    """The lab's cells with the table of facts under the title and the shared first code cell after the opening text."""
    first, *rest = lab.cells
    title, _, text = first.source.partition("\n")
    opening = labs.Cell("markdown", f"{title}\n\n{_facts(lab)}\n{text}".rstrip(), first.line)
    return [opening, labs.Cell("given", setup.rstrip(), first.line, "setup"), *rest]


def _facts(lab: Lab) -> str:
    where = {"cpu": "laptop", "gpu": "GPU"}[lab.hardware]
    needs = ", ".join(_lab_link(lab, need) for need in lab.needs) or "nothing"
    builds = ", ".join(f"`{name}`" for name in lab.builds)
    points = f"{lab.points}, and {lab.by_hand} by hand" if lab.by_hand else str(lab.points)
    return (
        "| Time | Difficulty | Points | Hardware | Needs | Builds |\n|---|---|---|---|---|---|\n"
        f"| {lab.minutes} min | {lab.difficulty} of 5 | {points} | {where} | {needs} | {builds} |\n"
    )


def _lab_link(lab: Lab, need: str) -> str:
    path = labs.source_path(need, lab.path.parents[2])
    folder = "" if path.parent.name == lab.chapter else f"../{path.parent.name}/"
    return f"[Lab {lab_number(need)}]({folder}{path.stem}.ipynb)"


def _notebook_cell(lab: Lab, cell: labs.Cell, counts: dict[str, int], used: set[str]) -> dict[str, Any]:
    source, marks = cell.source.rstrip("\n"), None
    metadata: dict[str, Any] = {"tags": cell.options["tags"]} if "tags" in cell.options else {}
    if cell.kind == "exercise":
        marks = _marks(cell.name, solution=True)
        source = _forbidden(cell) + source
    elif cell.kind == "test":
        counts[cell.name] = counts.get(cell.name, 0) + 1
        suffix = f"_{counts[cell.name]}" if counts[cell.name] > 1 else ""
        marks = _marks(f"test_{cell.name}{suffix}", grade=True, locked=True) | {"points": cell.options["points"]}
        announced = f'{CHECK_IMPORT}\n\ncheck.exercise("{lab.id}", "{cell.name}")\n'
        source = announced + source.removeprefix(f"{CHECK_IMPORT}\n")
    elif cell.kind == "manual":
        marks = _marks(cell.name, grade=True, solution=True) | {"points": cell.options["points"]}
    elif cell.kind == "given":
        counts["given"] = counts.get("given", 0) + (cell.name is None)
        marks = _marks(cell.name or f"given_{counts['given']}", locked=True)
        if "side" in cell.options:
            metadata["course"] = {"side": cell.options["side"]}
    if marks:
        metadata["nbgrader"] = marks
    base = marks["grade_id"] if marks else _short_hash(source)
    identifier, copies = base, 1
    while identifier in used:
        copies += 1
        identifier = f"{base}-{copies}"
    used.add(identifier)
    text = cell.kind in TEXT
    result = {"cell_type": "markdown" if text else "code", "id": identifier, "metadata": metadata}
    if result["cell_type"] == "code":
        result |= {"execution_count": None, "outputs": []}
        if cell.kind in ("given", "plain") and source.count("\n") >= FOLD_LINES:
            # The first is JupyterLab's way to say it, the second the book's, the third Colab's.
            metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}
            metadata["tags"] = [*metadata.get("tags", []), "hide-input"]
    return result | {"source": source}


def _forbidden(cell: labs.Cell) -> str:
    """What learners are told of the calls that would do an exercise's work for them."""
    if not cell.options.get("forbid"):
        return ""
    said = f"Yours to build. Not to be used here: {', '.join(cell.options['forbid'])}"
    return textwrap.fill(said, 110, initial_indent="# ", subsequent_indent="#     ", break_on_hyphens=False) + "\n"


def _marks(grade_id: str, *, grade: bool = False, locked: bool = False, solution: bool = False) -> dict[str, Any]:
    return {
        "grade": grade,
        "grade_id": grade_id,
        "locked": locked,
        "schema_version": 3,
        "solution": solution,
        "task": False,
    }


def _role(cell: dict[str, Any]) -> tuple[str, str | None, int]:
    marks = cell["metadata"].get("nbgrader")
    if cell["cell_type"] == "markdown":
        return ("manual", None, marks["points"]) if marks else ("markdown", None, 0)
    if marks is None:
        return "plain", None, 0
    if marks["grade"]:
        exercise = cell["source"].split('check.exercise("', 1)[1].split('"')[2]
        return "test", exercise, marks["points"]
    return ("exercise", marks["grade_id"], 0) if marks["solution"] else ("given", None, 0)


def _key(source: Path) -> str:
    """What an index depends on: the lab's source, the course's settings and the code that builds from them."""
    digest = hashlib.sha256(source.read_bytes() + (source.parents[2] / "_config.yml").read_bytes())
    for module in (__file__, labs.__file__, lab_model.__file__, Path(__file__).with_name("setup_cell.py")):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _synchronise(fresh: Path, place: Path, root: Path, report: Report, check: bool) -> None:
    """Make ``place`` hold exactly the files of ``fresh``; with ``check`` only report what differs."""
    wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    for relative in sorted(wanted):
        _replace(place / relative, (fresh / relative).read_bytes(), root, report, check)
    for old in sorted(place.rglob("*")) if place.is_dir() else []:
        generated = old.is_file() and "__pycache__" not in old.parts and ".ipynb_checkpoints" not in old.parts
        if generated and old.relative_to(place) not in wanted:
            report.removed.append(old.relative_to(root))
            report.summaries[old.relative_to(root)] = "no source makes it"
            if not check:
                _keep_work(old, old.read_bytes(), root, report)
                old.unlink()
                with contextlib.suppress(OSError):
                    old.parent.rmdir()


def _replace(old: Path, new: bytes, root: Path, report: Report, check: bool) -> None:
    before = old.read_bytes() if old.is_file() else b""
    if old.is_file() and before == new:
        return
    report.written.append(old.relative_to(root))
    report.summaries[old.relative_to(root)] = _difference(before, new)
    if not check:
        _keep_work(old, before, root, report)
        old.parent.mkdir(parents=True, exist_ok=True)
        old.write_bytes(new)


def _keep_work(path: Path, content: bytes, root: Path, report: Report) -> None:
    """Keep a copy of what somebody has made or worked on in release/ before it is replaced or removed."""
    release = root / "release"
    if not content or not path.is_relative_to(release) or (path.suffix == ".ipynb" and _untouched(content)):
        return
    name = f"{path.stem}.kept-{hashlib.sha256(content).hexdigest()[:8]}{path.suffix}"
    kept = root / "work" / "kept" / path.relative_to(release).with_name(name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)
    report.kept.append(kept)


def _untouched(content: bytes) -> bool:
    """Whether a notebook is as some build made it: nbgrader's checksums, and ids that are hashes, still fit."""
    from nbformat import from_dict
    from nbgrader.utils import compute_checksum

    try:
        for cell in json.loads(content)["cells"]:
            cell["source"] = "".join(cell["source"])
            if cell.get("outputs") or cell.get("execution_count") is not None:
                return False
            marks = cell["metadata"].get("nbgrader")
            if marks:
                fits = marks["checksum"] == compute_checksum(from_dict(cell))
            else:
                fits = cell["id"].partition("-")[0] == _short_hash(cell["source"])
            if not fits:
                return False
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _difference(before: bytes, after: bytes) -> str:
    old, new = before.decode("utf-8", "replace").splitlines(), after.decode("utf-8").splitlines()
    added = removed = 0
    for line in difflib.unified_diff(old, new, lineterm="", n=0):
        added += line.startswith("+") and not line.startswith("+++")
        removed += line.startswith("-") and not line.startswith("---")
    return f"+{added} -{removed} lines" if before else "missing"
