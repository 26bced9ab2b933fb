"""What learners of the tiny course hand in: its released notebook with answers typed into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autograder.lab_model import solution_source
from autograder.labs import find

LAB = "ch90/lab01"
CHAPTER = "ch90_example"
STEM = "lab01_ema"


def reference(root: Path) -> dict[str, str]:
    """The right answer to each exercise."""
    return {cell.name: solution_source(cell.source) for cell in find(LAB, root).exercises}


def notebook(root: Path, answers: dict[str, str] | None = None, extra: str | None = None) -> dict[str, Any]:
    """The released notebook with some answers in it, and a cell of the learner's own before the first exercise."""
    content = json.loads((root / "release" / CHAPTER / f"{STEM}.ipynb").read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if is_answer(cell) and grade_id(cell) in (answers or {}):
            cell["source"] = answers[grade_id(cell)]
    if extra is not None:
        place = next(number for number, cell in enumerate(content["cells"]) if is_answer(cell))
        content["cells"].insert(place, code_cell(extra))
    return content


def code_cell(source: str, **marks: Any) -> dict[str, Any]:
    """A code cell as JupyterLab writes it."""
    metadata = {"nbgrader": marks} if marks else {}
    return {
        "cell_type": "code",
        "id": "mine",
        "source": source,
        "metadata": metadata,
        "outputs": [],
        "execution_count": None,
    }


def grade_id(cell: dict[str, Any]) -> str | None:
    return cell["metadata"].get("nbgrader", {}).get("grade_id")


def is_answer(cell: dict[str, Any]) -> bool:
    return cell["metadata"].get("nbgrader", {}).get("solution", False)


def is_test(cell: dict[str, Any]) -> bool:
    return cell["metadata"].get("nbgrader", {}).get("grade", False)


#: Pieces of the tiny lab's hidden tests, which no learner may be shown.
HIDDEN = ["secret_marker", "lfilter(", "math.floor", "HIDDEN TESTS"]
#: Pieces of its solutions.
SOLVED = ["average / (1 - beta**t)", "while beta**steps", "BEGIN SOLUTION"]
