"""Split execution: the learner's cells in one process, the test cells in another. In place of `autograder.execute.run`.

The subject knows the learner's cells and nothing else; the referee knows the tests and never runs a line of the
learner's. Where a cell or a call ends the subject, a new one is started that goes without that cell, so that one bad
function costs its own exercise and no other.
"""

from __future__ import annotations

import ast
import os
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autograder import sandbox, subject
from autograder.limits import Limits
from autograder.referee import no_time_left, not_run
from autograder.warm import RunFailed, Running, Zygote

#: How often a notebook may lose its process before the rest is given up.
MAX_LOSSES = 4
TOO_MANY_LOSSES = {
    "kind": "SubjectGone",
    "message": "it did not run: the cells before it have ended their process too often",
}
#: Seconds beyond the notebook's time in which the referee says what there is until then.
SLACK_SECONDS = 20.0
#: Seconds that a subject which is told to end may take.
HANG_UP_SECONDS = 10.0


@dataclass(frozen=True)
class Terms:
    """On which terms somebody's notebook runs.

    Attributes:
        references: path below ``coursekit/solved`` -> text, of this lab and of those it carries from.
        seed: of the hidden tests' random inputs.
        limits: what the learner's process may use.
        sandbox: whether it is confined.
    """

    references: dict[str, str]
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    sandbox: bool = True


def run(job: dict[str, Any], names: list[str], zygote: Zygote, terms: Terms) -> dict[str, Any]:
    """Run one notebook.

    Args:
        job: as for `autograder.execute.run`.
        names: what the lab's exercises define; these stand for the learner's objects in the tests.
        zygote: where both processes are forked from.
        terms: seed, limits, sandbox.

    Returns:
        What `autograder.execute.run` returns.

    Raises:
        RunFailed: if the notebook as a whole takes too long, or the grader itself fails.
    """
    deadline = time.monotonic() + terms.limits.notebook_seconds
    skip: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="course-run-") as folder:
        place = Path(folder)
        subject.write_references(place, terms.references)
        _hand_over(place)
        apart = [cell["id"] for cell in job["cells"] if on_the_learners_side(cell)]
        job = job | {"folder": folder, "root": folder, "names": names, "seed": terms.seed, "apart": apart}
        job |= {"deadline": deadline, "notebook_seconds": terms.limits.notebook_seconds}
        job["memory_mebibytes"] = terms.limits.memory_mebibytes
        while True:
            result, ended = _once(job | {"skip": skip}, zygote, terms, deadline + SLACK_SECONDS)
            gone = result.pop("gone")
            if gone is None:
                return result
            skip[gone["cell"]] = _loss(gone, ended, terms)
            if time.monotonic() >= deadline:
                return _give_up(job, result, skip, no_time_left(terms.limits.notebook_seconds))
            if len(skip) == MAX_LOSSES:
                return _give_up(job, result, skip, TOO_MANY_LOSSES)


def defined(index: dict[str, Any]) -> list[str]:
    """The names that stand for what the learner's process holds: functions, classes and plain variables.

    Those that the exercises define, by the reference solutions, and those of given cells on the learner's side.
    """
    names: dict[str, None] = {}
    for cell in index["cells"]:
        if cell["kind"] != "exercise" and not on_the_learners_side(cell):
            continue
        for node in ast.parse(cell["source"]).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names[node.name] = None
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                names |= {name.id: None for name in ast.walk(node) if isinstance(name, ast.Name) and _stored(name)}
    return list(names)


def on_the_learners_side(cell: dict[str, Any]) -> bool:
    """Whether a given cell runs in the learner's process only: its objects are there for the learner's code to hold."""
    return cell["kind"] == "given" and cell["metadata"].get("course", {}).get("side") == "learner"


def _stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _once(job: dict[str, Any], zygote: Zygote, terms: Terms, deadline: float) -> tuple[dict[str, Any], str]:
    """One subject and one referee: what the referee says, and how the subject ended."""
    solved = f"{job['lab'].partition('/')[0]}_", f"/{job['lab'].partition('/')[2]}_"
    # What this lab asks for is not lent; a learner who looks for it finds nothing.
    lent = {n: t for n, t in terms.references.items() if not (n.startswith(solved[0]) and solved[1] in n)}
    there = {
        "references": lent,
        "limits": terms.limits.to_json(),
        "sandbox": terms.sandbox,
        "root": job["root"],
        "folder": job["folder"],
        "forbid": job.get("forbid", {}),
    }
    subject_end, referee_end = socket.socketpair()
    with subject_end, referee_end, zygote.start("subject", there, subject_end) as learner:
        subject_end.close()
        with zygote.start("referee", job, referee_end) as referee:
            referee_end.close()
            try:
                result = referee.result(deadline - time.monotonic())
            except RunFailed as failure:
                if failure.status != "timeout":
                    # The referee's fault, or the subject's that never came to be: the latter says why.
                    learner.hang_up(HANG_UP_SECONDS)
                    raise
                said = f"the notebook ran longer than {terms.limits.notebook_seconds:.0f} s in all"
                raise RunFailed("timeout", said) from None
        return result, _ending(learner)


def _ending(learner: Running) -> str:
    """How the subject ended. On a busy machine it may not say so in time, and then what the referee said still counts.

    That the one who watches it has died is no fault of the learner's, who cannot reach it, and is raised.
    """
    try:
        return learner.hang_up(HANG_UP_SECONDS)
    except RunFailed as failure:
        if failure.status != "timeout":
            raise
        return "hangup"


def _hand_over(place: Path) -> None:
    """Let the processes of the warm one, which is not root, use a folder that root has made."""
    if os.geteuid() == 0:
        owner = sandbox.nobody()
        for path in (place, *place.rglob("*")):
            os.chown(path, owner, owner)


def _loss(gone: dict[str, Any], ended: str, terms: Terms) -> dict[str, str]:
    if gone["late"] or ended == "cpu":
        seconds = terms.limits.cpu_seconds if ended == "cpu" else terms.limits.cell_seconds
        return {"kind": "CellTimeout", "message": f"It ran longer than {seconds:g} s and could not be interrupted"}
    why = gone["why"] if ended in ("hangup", "done") else sandbox.report(ended, terms.limits)
    return {"kind": "SubjectGone", "message": why}


def _give_up(
    job: dict[str, Any], result: dict[str, Any], skip: dict[str, dict[str, str]], rest: dict[str, str]
) -> dict[str, Any]:
    known = {report["id"] for report in result["cells"]}
    missing = [cell for cell in job["cells"] if cell["id"] not in known]
    result["cells"] += [not_run(cell, skip.get(cell["id"], rest)) for cell in missing]
    return result
