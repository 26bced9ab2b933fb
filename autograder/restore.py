"""Turn a submission into cells to run: the lab's structure from the release, the learner's code from the notebook.

Nothing of the submission's metadata is trusted beyond "this text answers that exercise": given and test cells always
come from the lab's index, so a copied, deleted, retyped or reordered cell cannot change what is graded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from autograder.intake import BadNotebook
from autograder.lab_model import ANSWERS

#: What a notebook may hold; a lab has some forty cells and forty thousand characters in them. Lists and objects are
#: counted before they are read, since the shortest take thirty times as much memory as they do in the file.
MAX_CELLS = 2_000
MAX_SOURCE = 2_000_000
MAX_BRACKETS = 200_000
#: How the ids of the learner's own cells begin. No cell of a lab is called like that.
OWN = "extra-"


@dataclass
class Restored:
    """What to run, in order, and what was odd about the notebook.

    Attributes:
        cells: dicts with kind (given, exercise, test, plain, extra, markdown), source, id, exercise, points, metadata.
        flags: remarks for the person who reads the result.
        missing: exercises whose cell is not in the notebook.
    """

    cells: list[dict[str, Any]]
    flags: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read(raw: bytes, name: str) -> tuple[dict[str, Any], list[str]]:
    """Read a notebook whatever its encoding or age.

    Args:
        raw: the file's content.
        name: what messages call it.

    Returns:
        The notebook as nbformat 4 JSON, and remarks on what had to be mended.

    Raises:
        BadNotebook: with a named status.
    """
    if not raw.strip():
        raise BadNotebook("empty", f"{name} is empty; take a fresh copy of the lab and paste your code into it")
    _at_most(MAX_BRACKETS, raw.count(b"[") + raw.count(b"{"), "lists and objects", name)
    flags = []
    try:
        text = raw.decode("utf-8-sig")
        if raw.startswith(b"\xef\xbb\xbf"):
            flags.append("the file began with a byte-order mark; it was read without it")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
        flags.append("the file is not UTF-8; it was read as Latin-1")
    notebook = _parse(text, name)
    major = notebook.get("nbformat")
    if isinstance(major, int) and major < 4:
        notebook = _upgrade(notebook, name)
        flags.append(f"the notebook was in the old format {major}; it was converted")
    cells = notebook.get("cells")
    if not isinstance(cells, list) or not all(_is_cell(cell) for cell in cells):
        raise BadNotebook("not-a-notebook", f"{name} is JSON but no notebook: its cells are missing or malformed")
    _at_most(MAX_CELLS, len(cells), "cells", name)
    for cell in cells:
        if isinstance(cell["source"], list):
            cell["source"] = "".join(cell["source"])
        # JSON can spell half a character (a lone surrogate); neither Python nor a file in UTF-8 takes it.
        cell["source"] = cell["source"].encode("utf-8", "replace").decode("utf-8")
        if not isinstance(cell.get("metadata"), dict):
            cell["metadata"] = {}
    _at_most(MAX_SOURCE, sum(len(cell["source"]) for cell in cells), "characters in its cells", name)
    return notebook, flags


def restore(index: dict[str, Any], notebook: dict[str, Any]) -> Restored:
    """Put the learner's cells into the lab's structure.

    Args:
        index: the lab's index (see `autograder.build.index`).
        notebook: the submission, as `read` returns it.
    """
    template = {cell["id"]: cell for cell in index["cells"]}
    grade_ids = {_grade_id(cell): cell["id"] for cell in index["cells"] if _grade_id(cell)}
    answers: dict[str, list[str]] = {}
    extras: dict[str | None, list[dict[str, Any]]] = {}
    seen: dict[str, int] = {}
    anchor = None
    for cell in notebook["cells"]:
        known = _match(cell, template, grade_ids)
        if known is None:
            extras.setdefault(anchor, []).append(cell)
            continue
        seen[known] = seen.get(known, 0) + 1
        anchor = known
        kind = template[known]["kind"]
        if kind in ANSWERS:
            answers.setdefault(known, []).append(cell["source"])
        elif kind == "plain" and cell["source"] != template[known]["source"]:
            extras.setdefault(known, []).append(cell)
    result = Restored([])
    for cell in index["cells"]:
        _place(cell, answers, result)
        result.cells.extend(_extra(extra) for extra in extras.get(cell["id"], []))
    result.cells[:0] = [_extra(extra) for extra in extras.get(None, [])]
    for number, cell in enumerate(cell for cell in result.cells if cell["id"] is None):
        cell["id"] = f"{OWN}{number + 1}"
    for identifier, cell in template.items():
        if cell["kind"] not in ("exercise", "test", "given", "manual"):
            continue
        if identifier not in seen and cell["kind"] == "manual":
            result.flags.append(f"the answer in words {identifier} is missing")
        elif identifier not in seen and cell["kind"] != "exercise":
            result.flags.append(f"the cell {identifier} was missing; the original was used")
        elif seen.get(identifier, 0) > 1:
            result.flags.append(f"the cell {identifier} stood {seen[identifier]} times; marks count once")
    return result


def _place(cell: dict[str, Any], answers: dict[str, list[str]], result: Restored) -> None:
    copies = answers.get(cell["id"])
    if cell["kind"] == "manual":
        # Who marks it should see all of it, wherever it stands.
        result.cells.append(cell | {"source": "\n\n".join(copies or [])})
        return
    if cell["kind"] != "exercise":
        result.cells.append(dict(cell))
        return
    if copies is None:
        result.missing.append(cell["exercise"])
        result.cells.append(cell | {"source": "", "missing": True})
        return
    # Copies run in their order, so the last definition counts, as it would in the learner's kernel.
    for number, source in enumerate(copies):
        result.cells.append(
            cell | {"source": source, "id": cell["id"] if number == 0 else f"{cell['id']}-copy{number}"}
        )


def _extra(cell: dict[str, Any]) -> dict[str, Any]:
    kind = "markdown" if cell["cell_type"] != "code" else "extra"
    return {"id": None, "kind": kind, "source": cell["source"], "exercise": None, "points": 0, "metadata": {}}


def _match(cell: dict[str, Any], template: dict[str, Any], grade_ids: dict[str, str]) -> str | None:
    grade_id = _grade_id(cell)
    if grade_id in grade_ids:
        return grade_ids[grade_id]
    identifier = cell.get("id")
    return identifier if isinstance(identifier, str) and identifier in template else None


def _grade_id(cell: dict[str, Any]) -> str | None:
    marks = cell["metadata"].get("nbgrader")
    grade_id = marks.get("grade_id") if isinstance(marks, dict) else None
    return grade_id if isinstance(grade_id, str) else None


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        notebook = json.loads(text)
    except json.JSONDecodeError as error:
        at_the_end = error.pos >= len(text.rstrip()) - 1 or "Unterminated" in error.msg
        if text.lstrip().startswith("{") and at_the_end:
            raise BadNotebook(
                "truncated",
                f"{name} ends in the middle (line {error.lineno}); save it again or take it from a checkpoint",
            ) from None
        raise BadNotebook("not-json", f"{name} is no notebook: {error.msg} at line {error.lineno}") from None
    except RecursionError:
        raise BadNotebook("not-json", f"{name} is no notebook: it is nested too deeply") from None
    except ValueError as error:
        # Python reads no integer of more than some thousand digits.
        raise BadNotebook("not-json", f"{name} is no notebook: {error}") from None
    if not isinstance(notebook, dict):
        raise BadNotebook("not-a-notebook", f"{name} is JSON but no notebook")
    return notebook


def _upgrade(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    from nbformat import convert, reader

    try:
        sheets = [notebook, *notebook.get("worksheets", [])]
        # Now already: converting a thousand takes a second.
        _at_most(MAX_CELLS, sum(len(sheet.get("cells", [])) for sheet in sheets), "cells", name)
        # The reader joins the lines of texts, as converting expects them.
        return convert(reader.reads(json.dumps(notebook)), 4)
    except BadNotebook:
        raise
    except Exception as error:
        raise BadNotebook(
            "not-a-notebook", f"{name} is of an old notebook format and cannot be converted: {error}"
        ) from None


def _at_most(limit: int, count: int, what: str, name: str) -> None:
    if count > limit:
        raise BadNotebook(
            "too-large", f"{name} has {count} {what}, the limit is {limit}; paste your answers into a fresh copy"
        )


def _is_cell(cell: Any) -> bool:
    if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
        return False
    source = cell.get("source")
    return isinstance(source, str) or (isinstance(source, list) and all(isinstance(line, str) for line in source))
