"""Run the cells of one restored notebook in this process and report what each did. Forked from the zygote.

Never imports nbgrader or the gradebook: what runs here is somebody else's code.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.ultratb import AutoFormattedTB

from autograder.limits import TIME_IS_UP
from coursekit import diagnose
from coursekit.check import CheckFailed

#: Characters of output kept of one cell; what goes beyond is cut with a word.
MAX_OUTPUT = 200_000
#: Characters kept of all figures and other displayed data of one cell.
MAX_DATA = 2_000_000
#: Characters kept of the message of an exception, and of each part of its traceback.
MAX_MESSAGE = 5_000
#: Frames shown at each end of a traceback, and seconds spent on drawing one: drawing an endless recursion takes half a
#: minute otherwise.
SHOWN_FRAMES = 10
SHOW_SECONDS = 3.0
_LEFT_OUT = {"text/plain": "[output too large, left out]"}


class CellTimeout(BaseException):
    """A cell ran longer than allowed. Not an Exception, so that a learner's `except Exception` does not catch it."""


class Outputs:
    """Collects nbformat 4 outputs of the running cell, up to a limit."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> list[dict[str, Any]]:
        done = getattr(self, "items", [])
        self.items: list[dict[str, Any]] = []
        self.room, self.data_room = MAX_OUTPUT, MAX_DATA
        return done

    def text(self, name: str, text: str) -> None:
        if self.room <= 0 or not text:
            return
        if len(text) > self.room:
            text = text[: self.room] + "\n[output cut here]\n"
        self.room -= len(text)
        text = _encodable(text)
        last = self.items[-1] if self.items else {}
        if last.get("output_type") == "stream" and last["name"] == name:
            last["text"] += text
        else:
            self.items.append({"output_type": "stream", "name": name, "text": text})

    def add(self, output: dict[str, Any]) -> None:
        plain = _plain(output)
        if len(plain) > self.data_room:
            plain = _plain(output | {"data": _LEFT_OUT, "metadata": {}})
        if len(plain) <= self.data_room:
            self.data_room -= len(plain)
            self.items.append(json.loads(plain))


def _plain(output: dict[str, Any]) -> str:
    """An output as JSON, whatever a learner has displayed."""
    try:
        return _encodable(json.dumps(output, ensure_ascii=False, skipkeys=True, default=_as_text))
    except (TypeError, ValueError, RecursionError):
        return json.dumps(output | {"data": {"text/plain": "[output that is no plain data, left out]"}, "metadata": {}})


def _as_text(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _encodable(text: str) -> str:
    """Without lone surrogates: Python's texts may hold them, a file in UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def message(error: BaseException) -> str:
    """The message of an exception of the learner's, whose `__str__` may be anything."""
    try:
        return _encodable(str(error)[:MAX_MESSAGE])
    except BaseException:
        return "(its message cannot be read)"


class _Stream(io.TextIOBase):
    def __init__(self, name: str, outputs: Outputs):
        self.label, self.outputs = name, outputs

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.outputs.text(self.label, text)
        return len(text)


class _Publisher(DisplayPublisher):
    sink: Outputs

    def publish(self, data, metadata=None, **kwargs):
        self.sink.add({"output_type": "display_data", "data": dict(data), "metadata": metadata or {}})

    def clear_output(self, wait=False):
        self.sink.items.clear()


class _Hook(DisplayHook):
    sink: Outputs

    def start_displayhook(self):
        pass

    def write_output_prompt(self):
        pass

    def write_format_data(self, format_dict, md_dict=None):
        result = {"output_type": "execute_result", "data": dict(format_dict), "metadata": md_dict or {}}
        self.sink.add(result | {"execution_count": self.shell.execution_count})

    def finish_displayhook(self):
        pass


class _Shell(InteractiveShell):
    def enable_gui(self, gui=None):
        pass

    def showtraceback(self, *args, **kwargs):
        """Draw a traceback; where that takes too long or breaks, say what was raised and no more."""
        error = sys.exc_info()[1]
        signal.setitimer(signal.ITIMER_REAL, SHOW_SECONDS)
        try:
            super().showtraceback(*args, **kwargs)
        except BaseException:
            said = f"{type(error).__name__}: {message(error)}"
            self._showtraceback(type(error), error, [said])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _format_exception_for_storage(self, exception, *args, **kwargs):
        """For IPython's history, which nobody reads here: not drawn a second time."""
        return {"ename": type(exception).__name__, "evalue": message(exception), "traceback": []}

    def _get_exc_info(self, exc_tuple=None):
        kind, error, trace = super()._get_exc_info(exc_tuple)
        return kind, error, _shortened(trace)

    def _showtraceback(self, etype, evalue, stb):
        lines = [_encodable(str(part)[:MAX_MESSAGE]) for part in stb]
        error = {"output_type": "error", "ename": etype.__name__, "evalue": message(evalue), "traceback": lines}
        self.displayhook.sink.items.append(error)


def _shortened(trace: TracebackType | None) -> TracebackType | None:
    """Both ends of a traceback."""
    frames = []
    while trace:
        frames.append(trace)
        trace = trace.tb_next
    if len(frames) > 2 * SHOWN_FRAMES:
        frames = frames[:SHOWN_FRAMES] + frames[-SHOWN_FRAMES:]
    for frame in reversed(frames):
        trace = TracebackType(trace, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return trace


def warm_up() -> None:
    """Draw one traceback, so that no child has to compile what drawing takes. Costs nothing but time if it fails."""
    with contextlib.suppress(Exception):
        try:
            raise LookupError
        except LookupError:
            AutoFormattedTB(mode="Context", theme_name="linux").structured_traceback(*sys.exc_info())


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run one notebook.

    Args:
        job: ``lab`` (its id), ``cells`` (as `autograder.restore` gives them), ``cell_seconds`` (limit of one cell),
            ``folder`` (working directory), ``root`` (of the course, for references), ``diagnose`` (whether to look for
            named mistakes), ``measure`` (whether to refuse and note connections).

    Returns:
        ``cells``: for each cell an id, ``outputs``, ``seconds`` and ``error`` (None, or kind, message, what, why,
        hint, mistakes, frames); ``seconds`` in all, ``peak_mebibytes``, and ``connections`` that were tried.
    """
    start = time.perf_counter()
    os.environ["COURSE_GRADING"] = "1"
    if job.get("root"):
        # A zygote may serve other courses than the one it was started in.
        os.environ["COURSE_ROOT"] = job["root"]
    os.environ.setdefault("MPLBACKEND", "agg")
    os.chdir(job["folder"])
    import torch

    torch.set_num_threads(1)
    connections = _refuse_connections() if job.get("measure") else []
    outputs = Outputs()
    shell = make_shell(outputs)
    saved = sys.stdout, sys.stderr
    signal.signal(signal.SIGALRM, alarm)
    results = []
    try:
        for cell in job["cells"]:
            with _apart(shell) if cell["kind"] == "test" else contextlib.nullcontext():
                report = run_cell(shell, outputs, cell, job["cell_seconds"])
            if job.get("diagnose"):
                name_mistakes(shell, cell, report, job)
            results.append(report)
    finally:
        sys.stdout, sys.stderr = saved
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "cells": results,
        "seconds": time.perf_counter() - start,
        "peak_mebibytes": peak / (1 << 20 if sys.platform == "darwin" else 1 << 10),
        "connections": connections,
    }


@contextlib.contextmanager
def _apart(shell: InteractiveShell) -> Iterator[None]:
    """A namespace of its own for a test cell, as in split grading: the learner's code finds nothing that it imports."""
    module, names = shell.user_module, shell.user_ns
    shell.user_module = ModuleType("__main__")
    shell.user_ns = shell.user_module.__dict__
    shell.user_ns.update(names)
    try:
        yield
    finally:
        shell.user_module, shell.user_ns = module, names


def _refuse_connections() -> list[str]:
    tried: list[str] = []

    def refuse(self, address):
        tried.append(str(address))
        raise OSError(f"a lab runs without a network, and this one tried to reach {address}")

    socket.socket.connect = socket.socket.connect_ex = refuse
    return tried


def make_shell(outputs: Outputs) -> InteractiveShell:
    """A shell without history whose output goes to ``outputs``."""
    _Publisher.sink = _Hook.sink = outputs
    _Shell.clear_instance()
    shell = _Shell.instance(display_pub_class=_Publisher, displayhook_class=_Hook)
    shell.history_manager.enabled = False
    shell.user_ns["__name__"] = "__main__"
    return shell


def run_cell(shell: InteractiveShell, outputs: Outputs, cell: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Run one cell within ``seconds`` and report on it (see `run`)."""
    start = time.perf_counter()
    # Anew for each cell: the one before may have closed or replaced them.
    sys.stdout, sys.stderr = _Stream("stdout", outputs), _Stream("stderr", outputs)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        outcome = shell.run_cell(cell["source"], store_history=True)
        error = outcome.error_before_exec or outcome.error_in_exec
    except BaseException as broken:
        # The cell has broken IPython itself, or the alarm went off there.
        error = broken
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    items = outputs.reset()
    if error is not None and not any(item["output_type"] == "error" for item in items):
        said = message(error)
        items.append({"output_type": "error", "ename": type(error).__name__, "evalue": said, "traceback": [said]})
    report = {"id": cell["id"], "outputs": items, "seconds": time.perf_counter() - start, "error": None}
    report["execution_count"] = shell.execution_count - 1
    if error is not None:
        report["error"] = _describe(error, cell)
    return report


def name_mistakes(shell: InteractiveShell, cell: dict[str, Any], report: dict[str, Any], job: dict[str, Any]) -> None:
    """Add to the report on a failed test which known mistakes give exactly the learner's result."""
    error = report["error"]
    if cell["kind"] != "test" or error is None or error["kind"] in ("CellTimeout", "NotImplementedError"):
        return
    signal.setitimer(signal.ITIMER_REAL, job["cell_seconds"])
    try:
        error["mistakes"] = diagnose.name_mistakes(job["lab"], cell["exercise"], cell["source"], shell.user_ns)
    except BaseException:
        # A learner's function may end in sys.exit() here as it did in the test.
        error["mistakes"] = []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _describe(error: BaseException, cell: dict[str, Any]) -> dict[str, Any]:
    described = {
        "kind": type(error).__name__,
        "message": message(error),
        "what": None,
        "why": None,
        "hint": None,
        "mistakes": [],
    }
    if isinstance(error, CheckFailed):
        described |= {"what": error.what, "why": error.why, "hint": error.hint}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(("<ipython", "/tmp/ipykernel"))
    ]
    if cell["kind"] == "test":
        # What is told to the learner is where their own code broke; the lines of the test itself may be hidden.
        frames = [frame for frame in frames if frame.filename != frames[0].filename]
    described["frames"] = [{"line": frame.lineno, "code": frame.line or "", "function": frame.name} for frame in frames]
    # In split grading the learner's own frames come from their process.
    described["frames"] += getattr(error, "remote_frames", [])
    return described


def alarm(number: int, frame: Any) -> None:
    """The handler of SIGALRM."""
    raise CellTimeout(TIME_IS_UP)
