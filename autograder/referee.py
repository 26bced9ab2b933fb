"""The process that runs an instructor's test cells. The learner's names are proxies in it (see `autograder.proxy`).

It goes through the notebook in order: the learner's cells and the given ones run in the subject, test cells here, given
ones here too. What it reports has the form of `autograder.execute.run`, so judging does not know the difference.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

import torch

from autograder import execute, proxy, wire

#: Seconds that a test cell has here beyond its limit, so that the other side can say first that it took too long.
GRACE = 2 * proxy.GRACE


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run one notebook against a subject.

    Args:
        job: as for `autograder.execute.run`, and ``wire`` (a descriptor), ``names`` (what the exercises define),
            ``seed`` (of hidden inputs), ``skip`` (cell id -> an error to report without running the cell).

    Returns:
        What `autograder.execute.run` returns, and ``gone``: None, or the ``cell`` at which the subject was lost and
        whether it was ``late``; the cells after that one have not run.
    """
    start = time.perf_counter()
    os.environ |= {"COURSE_GRADING": "1", "COURSE_ROOT": job["root"], "COURSE_SEED": str(job["seed"])}
    os.chdir(job["folder"])
    torch.set_num_threads(1)
    outputs = execute.Outputs()
    shell = execute.make_shell(outputs)
    signal.signal(signal.SIGALRM, execute.alarm)
    link = proxy.Link(wire.Channel(socket.socket(fileno=job["wire"])))
    reports, gone = [], None
    for cell in job["cells"]:
        if cell["id"] in job["skip"]:
            reports.append(not_run(cell, job["skip"][cell["id"]]))
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
    }


def not_run(cell: dict[str, Any], error: dict[str, str]) -> dict[str, Any]:
    """The report on a cell that ended the subject when it was tried, or that could not run any more."""
    said = {"output_type": "error", "ename": error["kind"], "evalue": error["message"], "traceback": [error["message"]]}
    described = error | {"what": None, "why": None, "hint": None, "mistakes": [], "frames": []}
    return {"id": cell["id"], "outputs": [said], "seconds": 0.0, "execution_count": None, "error": described}


def _run(
    cell: dict[str, Any], link: proxy.Link, shell: Any, outputs: execute.Outputs, job: dict[str, Any]
) -> dict[str, Any] | None:
    link.begin(job["cell_seconds"])
    try:
        report = None if cell["kind"] == "test" else link.run(cell)
        if cell["kind"] in ("test", "given"):
            _take_names(link, shell, job["names"])
            link.begin(job["cell_seconds"])
            here = execute.run_cell(shell, outputs, cell, job["cell_seconds"] + GRACE)
            if job["diagnose"]:
                link.begin(job["cell_seconds"])
                execute.name_mistakes(shell, cell, here, job)
            report = report or here
    except proxy.SubjectGone:
        return None
    return report


def _take_names(link: proxy.Link, shell: Any, names: list[str]) -> None:
    """Let the learner's names stand for what they are now; what is not defined there is not defined here."""
    link.ask("fresh")
    try:
        known = link.ask("names", names=names)
    except Exception:
        known = None
    for name in names:
        shell.user_ns.pop(name, None)
    if isinstance(known, dict):
        shell.user_ns.update({name: known[name] for name in names if name in known})
