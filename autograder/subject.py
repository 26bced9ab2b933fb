"""The process that runs a learner's cells, inside the sandbox. It answers a referee and never sees a test.

Everything here may be replaced by the learner's code once that runs, and no mark depends on it: whatever it sends is
checked by the referee (see `autograder.wire`), and all it can send are values.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from autograder import execute, sandbox, watch, wire
from autograder.channel import Channel, Closed
from autograder.limits import Limits

#: Frames of the learner's own code that an error tells of.
MAX_FRAMES = 20


def run(job: dict[str, Any]) -> str:
    """Serve one referee, from the first cell to the hang-up.

    Args:
        job: ``wire`` and ``connection`` (descriptors), ``limits``, ``sandbox`` (whether to confine), ``references``
            (path below coursekit/solved -> text, for `carry`), ``forbid`` (exercise -> what it may not use),
            ``folder`` and ``root`` (only without sandbox).

    Returns:
        How it ended, as `sandbox.confine` says it.
    """
    connection = socket.socket(fileno=os.dup(job["connection"]))
    limits = Limits(**job["limits"])

    def inmate() -> Callable[[], None]:
        if job["sandbox"]:
            os.environ.clear()
            os.environ.update(sandbox.environment())
            tempfile.tempdir = None
            write_references(Path(sandbox.COURSE), job["references"])
        else:
            os.environ |= {"COURSE_GRADING": "1", "COURSE_ROOT": job["root"]}
            settle(job["folder"])
        return Subject(Channel(socket.socket(fileno=job["wire"])), job["forbid"]).serve

    if job["sandbox"]:
        return sandbox.confine(inmate, connection, [job["wire"]], limits)
    return sandbox.watch_only(inmate, connection, limits)


def settle(folder: str) -> None:
    """Work in a folder that is removed afterwards, with all that IPython and others leave behind."""
    os.environ |= {"HOME": folder, "TMPDIR": folder, "IPYTHONDIR": f"{folder}/.ipython"}
    tempfile.tempdir = None
    os.chdir(folder)


def write_references(course: Path, references: dict[str, str]) -> None:
    """Put the solved modules of some labs where `coursekit.reference` looks for them."""
    for name, text in references.items():
        path = course / "coursekit" / "solved" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


class Subject:
    """Runs cells and calls, one after the other, as the referee asks for them."""

    def __init__(self, channel: Channel, forbid: dict[str, list[str]] | None = None):
        self.channel = channel
        # Before the learner's code can take hold of what it may not use.
        self.watch = watch.install(forbid) if forbid else None
        self.outputs = execute.Outputs()
        self.shell = execute.make_shell(self.outputs)
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.calls: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []
        torch.set_num_threads(1)
        signal.signal(signal.SIGALRM, execute.alarm)

    def serve(self) -> None:
        """Answer until the referee hangs up."""
        with contextlib.suppress(Closed):
            while True:
                self._answer(*self.channel.receive())

    def _answer(self, request: dict[str, Any], buffers: list[bytes]) -> None:
        sent: list[bytes] = []
        try:
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])
            try:
                asked = {key: wire.decode(value, buffers, self._object) for key, value in request["with"].items()}
                value = getattr(self, f"do_{request['do']}")(**asked)
                answer = {"value": wire.encode(value, sent, self._handle)}
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                self.outputs.reset()
            self.channel.send(answer, sent)
        except BaseException as error:
            # Also of a value that is too large to be sent; where nobody listens, that is found again.
            self.channel.send({"error": self._error(error)}, [])

    # What the referee may ask for

    def do_run(self, cell: dict[str, Any], seconds: float) -> bytes:
        """Run one cell and report on it, as JSON."""
        filename = f"<ipython-input-{cell['id']}>"
        if self.watch:
            self.watch.cell(filename, cell["kind"], cell["exercise"])
        self.shell.compile.get_code_name = lambda *_: filename
        report = execute.run_cell(self.shell, self.outputs, cell, seconds)
        return json.dumps(report, ensure_ascii=False).encode()

    def do_name(self, name: str) -> list[Any]:
        """What a name stands for, or nothing."""
        scope = self.shell.user_ns
        return [scope[name]] if name in scope else []

    def do_finds(self) -> list[list[Any]]:
        """Which forbidden calls were noticed: exercise or None, line, name."""
        return self.watch.finds() if self.watch else []

    def do_fresh(self) -> None:
        """Forget the results that gradients could still be asked for."""
        self.calls.clear()

    def do_call(
        self,
        target: Any,
        method: str,
        args: list,
        kwargs: dict,
        grad: bool,
        random: torch.Tensor | None,
    ) -> dict[str, Any]:
        """Call an object or one of its methods; remember what gradients will be asked for."""
        function = getattr(target, method) if method else target
        if random is not None:
            torch.set_rng_state(random)
        inputs = [leaf for leaf in wire.tensors([args, kwargs]) if leaf.requires_grad]
        with torch.set_grad_enabled(grad):
            result = function(*args, **kwargs)
        outputs = [tensor for tensor in wire.tensors(result) if tensor.requires_grad]
        if outputs:
            self.calls.append((outputs, inputs))
        return {"result": result, "call": len(self.calls) - 1 if outputs else None}

    def do_backward(self, call: int, grads: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Send gradients back through a call: to its inputs, and into the parameters that took part."""
        outputs, inputs = self.calls[call]
        pairs = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
        for leaf in inputs:
            leaf.grad = None
        torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs], retain_graph=True)
        return [leaf.grad for leaf in inputs]

    def do_get(self, target: Any, name: str) -> Any:
        return getattr(target, name)

    def do_set(self, target: Any, name: str, value: Any) -> None:
        setattr(target, name, value)

    def do_length(self, target: Any) -> int:
        return len(target)

    def do_item(self, target: Any, key: Any) -> Any:
        return target[key]

    def do_iterate(self, target: Any) -> Any:
        # Wrapped, because a list's iterator would cross as a value.
        return _Iterator(iter(target))

    def do_next(self, target: Any) -> list[Any]:
        """The next item, or nothing."""
        for item in target.items:
            return [item]
        return []

    # Objects that stay here

    def _handle(self, value: Any) -> dict[str, Any]:
        # An object that is kept keeps its id.
        number = self.numbers.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            self.objects.append(value)
        described = value if isinstance(value, type) else type(value)
        methods = [
            name
            for name, member in vars(described).items()
            if isinstance(member, types.FunctionType) and (name == "__call__" or not name.startswith("_"))
        ]
        return {
            "handle": number,
            "kind": _kind(value),
            "name": described.__name__,
            "methods": methods,
        }

    def _object(self, coded: dict[str, Any]) -> Any:
        return self.objects[coded["handle"]]

    @staticmethod
    def _error(error: BaseException) -> dict[str, Any]:
        frames = [
            {"line": frame.lineno, "code": frame.line or "", "function": frame.name}
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename.startswith("<ipython")
        ]
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {"kinds": kinds, "message": execute.message(error), "frames": frames[-MAX_FRAMES:]}


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return "class"
    if isinstance(value, types.MethodType | types.BuiltinMethodType):
        return "method"
    return "callable" if callable(value) else "object"


class _Iterator:
    def __init__(self, items: Any):
        self.items = items
