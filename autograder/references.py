"""Which references the grading of a lab needs: its own, and those of the labs that it carries work from."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from autograder import labs
from autograder.lab_model import TEXT


def references(index: dict[str, Any], root: Path) -> dict[str, str]:
    """The texts of the solved modules that a lab needs.

    Args:
        index: the lab's index (`autograder.build.index_of`).
        root: the checkout.

    Returns:
        Path below ``coursekit/solved`` -> text: the lab's own module, by which mistakes are named, and those of every
        lab that its cells `carry` from, and of those that these carry from in their turn.

    Raises:
        LookupError: if it carries from a lab that does not exist.
    """
    wanted = {index["lab"]}.union(*(carried(cell["source"]) for cell in index["cells"] if cell["kind"] not in TEXT))
    found: dict[str, str] = {}
    while wanted:
        source = labs.source_path(wanted.pop(), root)
        name = f"{source.parent.name}/{source.name}"
        if name not in found:
            found[name] = (root / "coursekit" / "solved" / name).read_text(encoding="utf-8")
            wanted |= carried(found[name])
    return found


def carried(source: str) -> set[str]:
    """The ids of the labs that some code carries from: the first argument of each call of `carry`."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        # A demonstration with a magic command.
        return set()
    calls = [node for node in nodes if isinstance(node, ast.Call) and node.args]
    named = [
        call.args[0] for call in calls if "carry" in (getattr(call.func, "id", ""), getattr(call.func, "attr", ""))
    ]
    return {argument.value for argument in named if isinstance(argument, ast.Constant)}
