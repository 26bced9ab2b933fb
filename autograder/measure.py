"""`course milestones`: run the measuring notebooks with papermill, and keep one JSON of results for each."""

from __future__ import annotations

import ast
import json
import re
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console


class MilestoneError(Exception):
    """There is no such chapter, a parameter is malformed or unknown, or a notebook broke."""


def notebooks(root: Path, *, demonstrations: bool = True) -> list[dict[str, Any]]:
    """Every measuring notebook: path, title, chapter, kind (milestone or demonstration), claim, minutes.

    Raises:
        MilestoneError: for a malformed header.
    """
    found = []
    for path in sorted((root / "notebooks").glob("ch*.py")):
        match = re.match(r"# ---\n((?:#.*\n)+?)# ---\n", path.read_text(encoding="utf-8"))
        try:
            header = yaml.safe_load(re.sub(r"^# ?", "", match[1], flags=re.M)) if match else {}
        except yaml.YAMLError as error:
            raise MilestoneError(f"{path}: the header is no YAML: {error}") from None
        missing = {"title", "chapter", "kind", "claim", "minutes"} - set(header)
        if missing:
            raise MilestoneError(f"{path}: the header lacks {', '.join(sorted(missing))}")
        if demonstrations or header["kind"] == "milestone":
            found.append({"path": path} | header)
    return found


def run(
    root: Path,
    chapters: list[str],
    parameters: list[str],
    console: Console,
    *,
    demonstrations: bool = False,
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Run the notebooks of the named chapters (all where none is named).

    Args:
        root: the checkout.
        chapters: such as ``ch01``.
        parameters: ``name=value`` each; a value is read as a Python literal, else taken as text.
        console: where progress is shown.
        demonstrations: whether to run demonstration notebooks too.
        folder: where the results go; results/ where it is left out.

    Returns:
        For each notebook: notebook, claim, passed, figures, seconds, machine; also written to NAME.json in the folder,
        with the executed notebook beside it.

    Raises:
        MilestoneError: with what to do.
    """
    values = dict(_parameter(text) for text in parameters)
    known = notebooks(root, demonstrations=demonstrations)
    chosen = [item for item in known if not chapters or item["chapter"] in chapters]
    if not chosen or set(chapters) - {item["chapter"] for item in known}:
        there = ", ".join(sorted({item["chapter"] for item in known}))
        raise MilestoneError(
            f"no such chapter among {', '.join(chapters) or '(none)'}; there are milestones for {there or 'none yet'}"
        )
    folder = folder or root / "results"
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for item in chosen:
        with console.status(f"{item['title']} (about {item['minutes']} min)"):
            results.append(_run_one(root, folder, item["path"], values))
    return results


def _run_one(root: Path, folder: Path, path: Path, values: dict[str, Any]) -> dict[str, Any]:
    import jupytext
    import papermill

    name = path.stem
    # From work/, `carry` finds the learner's own notebooks.
    start_in = root / "work" if (root / "work").is_dir() else root
    source, executed, target = (folder / f"{name}{ending}" for ending in (".source.ipynb", ".ipynb", ".json"))
    target.unlink(missing_ok=True)
    start = time.perf_counter()
    try:
        notebook = jupytext.read(path, fmt="py:percent")
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        jupytext.write(notebook, source, fmt="ipynb")
        known = papermill.inspect_notebook(str(source))
        if unknown := set(values) - set(known):
            raise MilestoneError(f"{name} has no parameter {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        papermill.execute_notebook(
            str(source),
            str(executed),
            values | {"result_path": str(target)},
            kernel_name="python3",
            cwd=str(start_in),
            progress_bar=False,
            # The kernel's notes about its transport are nothing that a reader of results can act on.
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
    except papermill.PapermillExecutionError as error:
        raise MilestoneError(f"{name} broke: {error.ename}: {error.evalue}; see {executed}") from None
    finally:
        source.unlink(missing_ok=True)
    if not target.is_file():
        raise MilestoneError(f"{name} ran but saved no result: its last cell calls coursekit.results.save")
    return {"notebook": name, "seconds": time.perf_counter() - start} | json.loads(target.read_text(encoding="utf-8"))


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise MilestoneError(f"{text!r} is no parameter; write name=value, such as -p seed=3")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, {"true": True, "false": False}.get(value.lower(), value)
