"""`course check` and `course progress`: one learner, alone, with the hidden tests.

The lab's structure and tests come from the source, so no gradebook is needed and none is touched.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from autograder import labs
from autograder.build import index_of
from autograder.verdict import Verdict, judge
from autograder.warm import RunFailed, Zygote


class CannotCheck(Exception):
    """The lab is unknown, its source is malformed, or the warm process does not start."""


def own_notebook(root: Path, chapter: str, stem: str) -> Path:
    """Where a learner works: the copy that `make learn` puts into work/, else the released notebook."""
    own = root / "work" / chapter / f"{stem}.ipynb"
    return own if own.is_file() else root / "release" / chapter / f"{stem}.ipynb"


def check(root: Path, lab: str, notebook: Path | None = None, *, remember: bool = True) -> Verdict:
    """Grade one notebook and, if it is the learner's own in work/, remember the result for `course progress`.

    Raises:
        CannotCheck: with what to do. A notebook that cannot be read is no error but a verdict with a named status.
    """
    try:
        index = index_of(lab, root)
        own = own_notebook(root, index["chapter"], index["stem"])
        verdict = judge(index, notebook or own, Zygote(shared=True), root=root)
    except (LookupError, labs.LabError, RunFailed) as problem:
        raise CannotCheck(str(problem.args[0])) from None
    if remember and (notebook or own).resolve() == own.resolve():
        _remember(root, verdict)
    return verdict


def progress(root: Path) -> list[dict[str, Any]]:
    """The last check of every lab, and each chapter's milestone, reached when all its labs have full marks."""
    remembered = _load(root)
    rows, chapters = [], {}
    for lab in labs.catalog(root):
        last = remembered.get(lab.id, {})
        rows.append(
            {
                "lab": lab.id,
                "title": lab.title,
                "points": last.get("points"),
                "max": lab.points,
                "checked": last.get("checked"),
            }
        )
        chapters.setdefault(lab.chapter, []).append(last.get("points") == lab.points)
    milestones = [
        {
            "milestone": chapter,
            "labs_done": sum(done),
            "labs": len(done),
            "ready": all(done),
            "command": f"course milestones {chapter[:4]}",
        }
        for chapter, done in chapters.items()
    ]
    return rows + milestones


def _remember(root: Path, verdict: Verdict) -> None:
    if verdict.status != "graded":
        return
    remembered = _load(root)
    remembered[verdict.lab] = {"points": verdict.points, "max": verdict.max, "checked": time.strftime("%Y-%m-%d %H:%M")}
    path = root / "work" / "progress.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(remembered, indent=1) + "\n", encoding="utf-8")


def _load(root: Path) -> dict[str, Any]:
    try:
        remembered = json.loads((root / "work" / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return remembered if isinstance(remembered, dict) and all(isinstance(v, dict) for v in remembered.values()) else {}
