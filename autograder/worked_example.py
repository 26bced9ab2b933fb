"""A worked example of a learner's notebook: a released lab with answers typed in, one of them with a known mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autograder.lab_model import solution_source
from autograder.labs import Lab
from coursekit.reference import apply_edits


def worked_example(root: Path, lab: Lab, *, mistaken: str | None = None) -> tuple[dict[str, Any], str | None]:
    """Fill in a released notebook.

    Args:
        root: the checkout, whose release/ has the notebook.
        lab: the lab.
        mistaken: the exercise that gets the first mistake of its table; none where it is left out.

    Returns:
        The notebook, and the sentence of the mistake in it.
    """
    notebook = json.loads((root / "release" / lab.chapter / f"{lab.stem}.ipynb").read_text(encoding="utf-8"))
    answers = {cell.name: solution_source(cell.source) for cell in lab.exercises}
    sentence = None
    if mistaken:
        sentence, edits = next(iter(lab.mistakes(mistaken).items()))
        answers[mistaken] = apply_edits(answers[mistaken], edits)
    for cell in notebook["cells"]:
        marks = cell["metadata"].get("nbgrader", {})
        if marks.get("solution"):
            cell["source"] = answers[marks["grade_id"]]
    return notebook, sentence
