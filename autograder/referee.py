"""The process that runs an instructor's test cells. The learner's names are proxies in it (see `autograder.proxy`).

It goes through the notebook in order: the learner's cells and the given ones run in the subject, test cells here, given
ones here too. What it reports has the form of `autograder.execute.run`, so judging does not know the difference.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from pathlib import Path
from typing import Any

import torch

from autograder import execute, proxy
from autograder.channel import Channel
from autograder.subject import settle

#: Seconds that a test cell has here beyond its limit, so that the other side can say first that it took too long.
GRACE = 2 * proxy.GRACE
#: Forbidden calls that are reported.
MAX_FINDS = 100


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run one notebook against a subject.

    Args:
        job: as for `autograder.execute.run`, and ``wire`` (a descriptor), ``names`` (what stands for the learner's
            objects), ``apart`` (ids of given cells that do not run here), ``seed`` (of hidden inputs), ``skip`` (cell
            id -> an error to report without running the cell), ``deadline`` (of the notebook, on the monotonic clock),
            ``notebook_seconds`` (what that was), ``memory_mebibytes`` (that this process may add to a fresh one).

    Returns:
        What `autograder.execute.run` returns, and ``gone``: None, or the ``cell`` at which the subject was lost and
        whether it was ``late``; the cells after that one have not run. ``finds``: forbidden calls that the
        subject says it has noticed, as (exercise or None, line, name).
    """
    start = time.perf_counter()
    _bound_memory(job["memory_mebibytes"])
    os.environ |= {"COURSE_GRADING": "1", "COURSE_ROOT": job["root"], "COURSE_SEED": str(job["seed"])}
    settle(job["folder"])
    torch.set_num_threads(1)
    outputs = execute.Outputs()
    shell = execute.make_shell(outputs)
    signal.signal(signal.SIGALRM, execute.alarm)
    link = proxy.Link(Channel(socket.socket(fileno=job["wire"])))
    proxy.notice_seeds(link)
    reports, gone = [], None
    for cell in job["cells"]:
        if cell["id"] in job["skip"]:
            reports.append(not_run(cell, job["skip"][cell["id"]]))
            continue
        if time.monotonic() >= job["deadline"]:
            reports.append(not_run(cell, no_time_left(job["notebook_seconds"])))
            continue
        report = _run(cell, link, shell, outputs, job)
        if link.broken:
            gone = {"cell": cell["id"], "late": link.late, "why": link.broken}
            break
        reports.append(report)
    return {
        "cells": reports,
        "seconds": time.perf_counter() - start,
        "peak_mebibytes": 0.0,
        "connections": [],
        "gone": gone,
        "finds": [] if link.broken else _finds(link),
    }


def _finds(link: proxy.Link) -> list[list[Any]]:
    link.begin(GRACE)
    try:
        said = link.ask("finds")
    except (Exception, execute.CellTimeout, proxy.SubjectGone):
        return []
    finds = said if isinstance(said, list) else []
    return [
        find
        for find in finds[:MAX_FINDS]
        if isinstance(find, list)
        and len(find) == 3
        and isinstance(find[0], str | None)
        and type(find[1]) is int
        and isinstance(find[2], str)
    ]


def _bound_memory(mebibytes: int) -> None:
    """What the learner's process sends decides how much a test makes of it: ``list(range(n))``."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + (mebibytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def no_time_left(seconds: float) -> dict[str, str]:
    """What is said of the cells that come after the notebook's time is over."""
    return {
        "kind": "CellTimeout",
        "message": f"The notebook ran longer than {seconds:g} s in all, and this did not run",
    }


def not_run(cell: dict[str, Any], error: dict[str, str]) -> dict[str, Any]:
    """The report on a cell that ended the subject when it was tried, or that could not run any more."""
    said = {"output_type": "error", "ename": error["kind"], "evalue": error["message"], "traceback": [error["message"]]}
    described = error | {"what": None, "why": None, "hint": None, "mistakes": [], "frames": []}
    return {"id": cell["id"], "outputs": [said], "seconds": 0.0, "execution_count": None, "error": described}


def _run(
    cell: dict[str, Any], link: proxy.Link, shell: Any, outputs: execute.Outputs, job: dict[str, Any]
) -> dict[str, Any] | None:
    def begin() -> float:
        seconds = max(min(job["cell_seconds"], job["deadline"] - time.monotonic()), 0.001)
        link.begin(seconds)
        return seconds

    begin()
    try:
        report = None if cell["kind"] == "test" else link.run(cell)
        if cell["kind"] == "test" or (cell["kind"] == "given" and cell["id"] not in job["apart"]):
            begin()
            _take_names(link, shell, job["names"])
            here = execute.run_cell(shell, outputs, cell, begin() + GRACE)
            if job["diagnose"]:
                # In both cases the other side is to say first that time is up: an answer that came afterwards would be
                # taken for that to the next question.
                execute.name_mistakes(shell, cell, here, job | {"cell_seconds": begin() + GRACE})
            report = report or here
    except proxy.SubjectGone:
        return None
    return report


def _take_names(link: proxy.Link, shell: Any, names: list[str]) -> None:
    """Let the learner's names stand for what they are now; what is not defined there is not defined here."""
    link.fresh()
    known = link.names(names)
    for name in names:
        shell.user_ns.pop(name, None)
    shell.user_ns.update(known)
