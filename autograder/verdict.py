"""Grade one notebook: read, restore, run, judge. The one engine behind `course check` and `course grade`."""

from __future__ import annotations

import ast
import json
import re
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder import intake, paths, policy, restore
from autograder.lab_model import TEXT
from autograder.limits import TIME_IS_UP
from autograder.warm import RunFailed, Zygote

if TYPE_CHECKING:
    from autograder.split import Terms

CELL_SECONDS = 60.0
NOTEBOOK_SECONDS = 300.0


@dataclass
class Exercise:
    """What one exercise earned, and why.

    Attributes:
        id: the exercise's name.
        points, max: earned and possible.
        status: passed, failed, error, timeout, died, unwritten, missing, or the named status of an unreadable notebook.
        message: what, why and what to try; empty when passed. Holds no hidden test and no solution.
        mistake: the sentence of the mistakes table whose result equals the learner's, or None.
        flags: remarks for a person: forbidden calls with their lines.
        scores: points by test cell.
    """

    id: str
    points: float
    max: float
    status: str
    message: str = ""
    mistake: str | None = None
    flags: list[str] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)


@dataclass
class Verdict:
    """What one notebook earned.

    Attributes:
        lab: the lab's id.
        status: graded, or why it could not be: a status of `intake.BadNotebook` or `warm.RunFailed`.
        exercises: one result each, in order.
        flags: what was odd about the notebook as a whole.
        cells: the restored cells with their outputs and errors, for the autograded notebook; empty when nothing could
            be read.
        seconds, peak_mebibytes, connections: what the run took, and addresses it tried to reach (with ``measure``).
    """

    lab: str
    status: str
    exercises: list[Exercise]
    flags: list[str] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    peak_mebibytes: float = 0.0
    connections: list[str] = field(default_factory=list)

    @property
    def points(self) -> float:
        return sum(exercise.points for exercise in self.exercises)

    @property
    def max(self) -> float:
        return sum(exercise.max for exercise in self.exercises)

    def pack(self) -> bytes:
        """All of it as bytes, for a journal or another machine."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Verdict:
        content = json.loads(packed)
        content["exercises"] = [Exercise(**exercise) for exercise in content["exercises"]]
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """The published form: no cells."""
        exercises = [asdict(exercise) for exercise in self.exercises]
        for exercise in exercises:
            del exercise["scores"]
        return {
            "lab": self.lab,
            "status": self.status,
            "points": self.points,
            "max": self.max,
            "exercises": exercises,
            "flags": self.flags,
        }


def judge(
    index: dict[str, Any],
    notebook: Path | bytes,
    zygote: Zygote,
    *,
    everything: bool = False,
    measure: bool = False,
    root: Path | None = None,
    terms: Terms | None = None,
) -> Verdict:
    """Grade one notebook against one lab.

    Args:
        index: the lab's index (`autograder.build.index_of`).
        notebook: the learner's file, which is only read, or its content.
        zygote: where its cells run.
        everything: also run the lab's own pictures and demonstrations, which no mark depends on.
        measure: cut the run off from the network and note what it tries to reach.
        root: the course whose references name mistakes; this process's own where it is left out.
        terms: for other people's notebooks: run their cells apart from the tests, on these terms. A learner's own
            notebook runs in one process.

    Returns:
        The verdict; an unreadable notebook or a run that dies gives a named status, never an exception.
    """
    try:
        raw = notebook if isinstance(notebook, bytes) else intake.read_file(notebook)
        name = f"{index['stem']}.ipynb" if isinstance(notebook, bytes) else notebook.name
        content, flags = restore.read(raw, name)
    except intake.BadNotebook as problem:
        return nothing(index, problem.status, str(problem))
    restored = restore.restore(index, content)
    flags += restored.flags
    chosen = [cell for cell in restored.cells if _is_run(cell, everything)]
    job = {"lab": index["lab"], "cells": chosen, "cell_seconds": CELL_SECONDS, "diagnose": True, "measure": measure}
    try:
        if terms:
            # Made of parts that only Linux has; a learner's own check runs everywhere.
            from autograder import split

            job["forbid"] = {e["name"]: e["forbid"] for e in index["exercises"] if e["forbid"]}
            job["cell_seconds"] = terms.limits.cell_seconds
            ran = split.run(job, split.defined(index), zygote, terms)
        else:
            ran = _together(job | {"root": str(root or paths.root())}, zygote)
    except RunFailed as failure:
        failed = nothing(index, failure.status, str(failure).partition("\n")[0], flags)
        failed.cells = [cell | {"outputs": [], "error": None} for cell in restored.cells]
        return failed
    reports = {report["id"]: report for report in ran["cells"]}
    seconds = job["cell_seconds"]
    for cell in restored.cells:
        report = reports.get(cell["id"])
        cell["outputs"] = report["outputs"] if report else []
        cell["execution_count"] = report["execution_count"] if report else None
        cell["error"] = report["error"] if report else None
    text = policy.Notebook(index["lab"], restored.cells)
    exercises = [_exercise(index, exercise, restored, reports, text, seconds) for exercise in index["exercises"]]
    flags += text.flags_of_own_cells()
    _add_finds(exercises, flags, ran.get("finds", []))
    _point_at_the_first(index, exercises, restored)
    usage = {key: ran[key] for key in ("seconds", "peak_mebibytes", "connections")}
    return Verdict(index["lab"], "graded", exercises, flags, restored.cells, **usage)


def _add_finds(exercises: list[Exercise], flags: list[str], finds: list[list[Any]]) -> None:
    """Flag the forbidden calls that showed when the code ran, where the text has not given them away."""
    by_name = {exercise.id: exercise.flags for exercise in exercises}
    for name, line, used in finds:
        place = by_name.get(name, flags)
        if not any(f"line {line} uses {used}" in flag for flag in place):
            where = "line" if name in by_name else "a cell of their own, line"
            place.append(f"{where} {line} called {used[:200]} when it ran, which the exercise asks to build")


def _together(job: dict[str, Any], zygote: Zygote) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="course-run-") as folder:
        return zygote.call("run", job | {"folder": folder}, NOTEBOOK_SECONDS)


def _is_run(cell: dict[str, Any], everything: bool) -> bool:
    if cell["kind"] in TEXT or cell.get("missing"):
        return False
    return everything or cell["kind"] != "plain"


def nothing(index: dict[str, Any], status: str, message: str, flags: list[str] | None = None) -> Verdict:
    exercises = [
        Exercise(e["name"], 0, e["points"], status, message, scores={c["id"]: 0.0 for c in _tests(index, e["name"])})
        for e in index["exercises"]
    ]
    return Verdict(index["lab"], status, exercises, flags or [])


def _exercise(
    index: dict[str, Any],
    exercise: dict[str, Any],
    restored: restore.Restored,
    reports: dict[str, Any],
    text: policy.Notebook,
    seconds: float,
) -> Exercise:
    name = exercise["name"]
    own = [cell for cell in restored.cells if cell["kind"] == "exercise" and cell["exercise"] == name]
    result = Exercise(name, 0, exercise["points"], "passed", flags=text.flags(name, exercise["forbid"]))
    errors = []
    for test in _tests(index, name):
        error = reports[test["id"]]["error"]
        result.scores[test["id"]] = 0.0 if error else float(test["points"])
        result.points += result.scores[test["id"]]
        if error and result.status == "passed":
            missing = name in restored.missing
            result.status, message = _explain(name, error, own, reports, seconds, missing=missing)
            # A learner's exception may hold what a terminal obeys.
            result.message = "".join(letter if letter.isprintable() else " " for letter in message)
        errors += [error] if error else []
    result.mistake = _cause([error["mistakes"] for error in errors])
    return result


def _cause(found: list[list[str]]) -> str | None:
    """One mistake that explains every failing test; or one for each of them, where two things are wrong."""
    agreed = [sentence for sentence in found[0] if all(sentence in other for other in found)] if found else []
    if agreed:
        return agreed[0]
    if found and all(found):
        return "; and, in another test, when ".join(dict.fromkeys(sentences[0] for sentences in found))
    return None


def _point_at_the_first(index: dict[str, Any], exercises: list[Exercise], restored: restore.Restored) -> None:
    """An exercise that uses earlier ones fails with them: say which to mend first."""
    defines = {exercise["name"]: exercise["defines"] for exercise in index["exercises"]}
    for position, exercise in enumerate(exercises):
        if exercise.status not in ("failed", "error"):
            continue
        own = [c["source"] for c in restored.cells if c["kind"] == "exercise" and c["exercise"] == exercise.id]
        words = _names("\n".join(own))
        for earlier in exercises[:position]:
            used = [name for name in defines[earlier.id] if name in words]
            if earlier.status != "passed" and used:
                end = "" if exercise.message.endswith((".", "!", "?")) else "."
                what = f"the exercise {earlier.id} does not pass yet: mend that first."
                exercise.message += f"{end} It uses {' and '.join(used)}, and {what}"


def _names(source: str) -> set[str]:
    """What a program uses by name, and not what its docstrings and comments speak of."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return set(re.findall(r"\w+", source))
    plain = {node.id for node in nodes if isinstance(node, ast.Name)}
    return plain | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def _tests(index: dict[str, Any], exercise: str) -> list[dict[str, Any]]:
    return [cell for cell in index["cells"] if cell["kind"] == "test" and cell["exercise"] == exercise]


def _explain(
    name: str, error: dict[str, Any], own: list[dict], reports: dict[str, Any], seconds: float, *, missing: bool
) -> tuple[str, str]:
    """The status and the message of a failed test."""
    if error["kind"] == "NotImplementedError":
        return "unwritten", "Not written yet: the cell still raises NotImplementedError."
    broken = next(
        (reports[cell["id"]]["error"] for cell in own if cell["id"] in reports and reports[cell["id"]]["error"]), None
    )
    if "CellTimeout" in (error["kind"], broken and broken["kind"]):
        late = error if error["kind"] == "CellTimeout" else broken
        said = late["message"] if late["message"] != TIME_IS_UP else f"It ran longer than {seconds:g} s"
        return "timeout", f"{said}. Look for a loop that does not end."
    if "SubjectGone" in (error["kind"], broken and broken["kind"]):
        gone = error if error["kind"] == "SubjectGone" else broken
        return "died", f"Your code ended the process that ran it: {gone['message']}."
    if broken:
        said = f"{broken['kind']}: {broken['message'][:300]}"
        return "error", f"Your cell does not run: {said}. Run it in the notebook and mend it first."
    if missing and error["kind"] == "NameError":
        return "missing", "The cell of this exercise is not in the notebook. Take it from a fresh copy of the lab."
    if error["what"]:
        return "failed", f"What: {error['what']}. Why: {error['why'].rstrip('.')}. Try: {error['hint']}"
    # The frames of the test itself are not among them (see `autograder.execute`), so what is left is the learner's.
    inside = [frame for frame in error["frames"] if frame["function"] != "<module>"]
    if error["kind"] == "AssertionError" and not inside:
        return "failed", f"A check did not hold{': ' + error['message'] if error['message'] else ''}."
    if not inside:
        said = f"{error['kind']}: {error['message'][:300]}"
        return "error", f"The check could not work with what your code gave it: {said}"
    tail = ""
    if error["kind"] == "NameError":
        tail = " Only the given cells and your own are run here: what another cell imports, import in yours too."
    place = f"{inside[-1]['function']}, at the line `{inside[-1]['code']}`"
    return "error", f"Your code raised {error['kind']} in {place}: {error['message'][:300].rstrip('.')}.{tail}"
