"""In the referee: what stands for the learner's objects, and the line to the process that holds them."""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from autograder import wire
from autograder.execute import CellTimeout

#: Seconds that the other process has beyond a call's limit to say itself that the limit was passed.
GRACE = 3.0
#: Characters of a text that the other process chose, where a person reads it.
MAX_TEXT = 5_000
#: Bytes of a report on one cell.
MAX_REPORT = 32 << 20


class SubjectGone(BaseException):
    """The learner's process has ended or does not answer. Not an Exception: no test may take it for an answer."""


class Link:
    """Asks the learner's process, one question at a time.

    Attributes:
        broken: why no question can be asked any more; empty while all is well.
        late: whether it is broken because an answer did not come in time.
        deadline: when the running cell's time is over, on the monotonic clock.
    """

    def __init__(self, channel: wire.Channel):
        self.channel = channel
        self.broken, self.late = "", False
        self.deadline = time.monotonic()
        self.random: bytes | None = None

    def begin(self, seconds: float) -> None:
        """Start the clock of a cell."""
        self.deadline = time.monotonic() + seconds

    def ask(self, do: str, **values: Any) -> Any:
        """One question and its answer.

        Raises:
            SubjectGone: if the process is gone, is late, or does not keep to the protocol.
            Exception: what the learner's code raised, as an exception of the same name and, for those that Python
                has, the same type.
        """
        __tracebackhide__ = True
        if self.broken:
            raise SubjectGone(self.broken)
        buffers: list[bytes] = []
        asked = {key: wire.encode(value, buffers, _handle_of) for key, value in values.items()}
        limit = self.deadline + GRACE
        try:
            self.channel.send({"do": do, "with": asked}, buffers, limit)
            answer, buffers = self.channel.receive(limit)
        except wire.Closed as closed:
            self.late = time.monotonic() >= limit
            self.broken = str(closed)
            raise SubjectGone(self.broken) from None
        if isinstance(answer.get("error"), dict):
            raise _raised(answer["error"])
        if "value" not in answer:
            self.broken = "what came is no answer"
            raise SubjectGone(self.broken)
        return wire.decode(answer["value"], buffers, lambda coded: self._proxy(coded))

    def left(self) -> float:
        """Seconds of the running cell."""
        return max(self.deadline - time.monotonic(), 0.001)

    def run(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Let the learner's process run a cell; its report holds nothing but what a report may hold."""
        raw = self.ask("run", cell=cell)
        try:
            if not isinstance(raw, bytes) or len(raw) > MAX_REPORT:
                raise ValueError
            return _plain_report(json.loads(raw), cell["id"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.broken = "what came is no report on a cell"
            raise SubjectGone(self.broken) from None

    def random_state(self) -> torch.Tensor | None:
        """This process's random state where a test has changed it since it was last sent: a seed counts on both sides.

        It never comes back: what the learner's code draws cannot change what a test draws.
        """
        state = torch.get_rng_state()
        raw = state.numpy().tobytes()
        if raw == self.random:
            return None
        self.random = raw
        return state

    def _proxy(self, coded: dict[str, Any]) -> Proxy:
        number, kind, name, methods = (coded.get(key) for key in ("handle", "kind", "name", "methods"))
        texts = isinstance(methods, list) and all(isinstance(method, str) for method in methods)
        if type(number) is not int or number < 0 or not isinstance(name, str) or not texts:
            raise wire.WireError("a malformed object came")
        return Proxy(self, number, str(kind), name[:200], frozenset(methods[:1000]))


class Proxy:
    """Stands for an object in the learner's process. It can be called, asked for attributes and items, no more.

    It has no comparison, arithmetic or conversion: such an object is never taken for a number.
    """

    def __init__(self, link: Link, number: int, kind: str, name: str, methods: frozenset[str]):
        self.__dict__.update(_link=link, _number=number, _kind=kind, _methods=methods, _note=None, remote_name=name)

    def recorded(self, note: Callable[[Any], None]) -> Proxy:
        """One that also notes what its calls, and those of what it constructs, return."""
        copy = Proxy(self._link, self._number, self._kind, self.remote_name, self._methods)
        copy.__dict__["_note"] = note
        return copy

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self._call("", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        if name.startswith("_"):
            raise AttributeError(f"a test may not use {name} of a learner's object")
        value = self._link.ask("get", target=self, name=name)
        if isinstance(value, Proxy) and value._kind == "callable":
            return _Method(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.ask("set", target=self, name=name, value=value)

    def __len__(self) -> int:
        length = self._link.ask("length", target=self)
        return length if isinstance(length, int) else 0

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return self._link.ask("item", target=self, key=key)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._link.ask("iterate", target=self)
        while isinstance(item := self._link.ask("next", target=iterator), list) and item:
            yield item[0]

    def __repr__(self) -> str:
        return f"<{self.remote_name} in the learner's process>"

    def _call(self, method: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        link = self._link
        answer = link.ask(
            "call",
            target=self,
            method=method,
            args=list(args),
            kwargs=kwargs,
            grad=torch.is_grad_enabled(),
            random=link.random_state(),
            seconds=link.left(),
        )
        if not isinstance(answer, dict) or "result" not in answer:
            raise wire.WireError("a malformed result came")
        result = _differentiable(link, answer["result"], answer.get("call"), [args, kwargs])
        if self._note:
            constructs = self._kind == "class" and not method
            if constructs and isinstance(result, Proxy):
                return result.recorded(self._note)
            calls = method or ("__call__" if "__call__" in self._methods else "forward")
            if calls in self._methods or (self._kind == "callable" and not method and not self._methods):
                self._note(result)
        return result


class _Method:
    """A method of a learner's object, bound to it."""

    def __init__(self, owner: Proxy, name: str, value: Proxy):
        self.owner, self.name, self.value = owner, name, value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self.owner._call(self.name, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        # What is callable and has attributes too, such as a module within a module.
        return getattr(self.value, name)


class _Bridge(torch.autograd.Function):
    """Carries gradients to the learner's process: its inputs are leaves here, its outputs the results of one call."""

    @staticmethod
    def forward(ctx, link, call, count, _, *tensors):
        ctx.link, ctx.call, ctx.count = link, call, count
        ctx.set_materialize_grads(False)
        # Clones keep the memory layout, which a test may look at.
        return tuple(tensor.clone() for tensor in tensors[count:])

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        answer = ctx.link.ask("backward", call=ctx.call, grads=list(grads), seconds=ctx.link.left())
        if not isinstance(answer, list) or len(answer) != ctx.count:
            raise wire.WireError("malformed gradients came")
        return (None, None, None, None, *answer, *[None] * len(grads))


def _differentiable(link: Link, result: Any, call: Any, inputs: Any) -> Any:
    """The result of a call, with its differentiable tensors connected to the inputs of the call."""
    outputs = [tensor for tensor in _tensors(result) if tensor.requires_grad]
    if not outputs or type(call) is not int or not torch.is_grad_enabled():
        return _replaced(result, {id(tensor): tensor.detach() for tensor in outputs})
    leaves = [tensor for tensor in _tensors(inputs) if tensor.requires_grad]
    # Something that needs a gradient even where only the learner's parameters do.
    anchor = torch.zeros((), requires_grad=True)
    connected = _Bridge.apply(link, call, len(leaves), anchor, *leaves, *[tensor.detach() for tensor in outputs])
    return _replaced(result, {id(old): new for old, new in zip(outputs, connected, strict=True)})


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _replaced(value: Any, new: dict[int, torch.Tensor]) -> Any:
    """The same structure with some tensors exchanged."""
    if not new:
        return value
    if isinstance(value, torch.Tensor):
        return new.get(id(value), value)
    if isinstance(value, dict):
        return {key: _replaced(item, new) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_replaced(item, new) for item in value])
    if isinstance(value, list | tuple):
        return type(value)(_replaced(item, new) for item in value)
    return value


def _handle_of(value: Any) -> dict[str, Any]:
    if isinstance(value, _Method):
        value = value.value
    if isinstance(value, Proxy):
        return {"handle": value._number}
    raise wire.WireError(f"a test can pass plain values only, and this is a {type(value).__name__}")


def _raised(error: dict[str, Any]) -> BaseException:
    """The learner's exception as one of the same name; its base is the nearest type that Python itself has."""
    kinds = [kind for kind in error.get("kinds") or [] if isinstance(kind, str)][:30]
    kinds = [kind for kind in kinds if kind.isidentifier()] or ["Exception"]
    text = str(error.get("message"))[:MAX_TEXT]
    if kinds[0] == CellTimeout.__name__:
        return CellTimeout(text)
    found = (getattr(builtins, kind, None) for kind in kinds)
    base = next((b for b in found if isinstance(b, type) and issubclass(b, Exception)), Exception)
    # Made without the arguments that some types insist on; the name and the text are what tests and people look at.
    made = type(kinds[0], (base,), {"__init__": lambda self: None, "__str__": lambda self: text})()
    made.remote_frames = [frame for frame in map(_frame, error.get("frames") or []) if frame]
    return made


def _frame(frame: Any) -> dict[str, Any] | None:
    if not isinstance(frame, dict) or not isinstance(frame.get("line"), int):
        return None
    return {"line": frame["line"], "code": _text(frame.get("code"), 500), "function": _text(frame.get("function"), 200)}


def _text(value: Any, limit: int = MAX_TEXT) -> str:
    return str(value)[:limit].encode("utf-8", "replace").decode() if value is not None else ""


def _plain_report(report: dict[str, Any], cell: str) -> dict[str, Any]:
    """A report in which every part has the type that it should have."""
    error = report["error"]
    if error is not None:
        error = {
            "kind": _text(error["kind"], 200),
            "message": _text(error["message"]),
            **dict.fromkeys(("what", "why", "hint")),
            "mistakes": [],
            "frames": [frame for frame in map(_frame, error["frames"][:100]) if frame],
        }
    count, seconds = report.get("execution_count"), report.get("seconds")
    return {
        "id": cell,
        "outputs": [output for output in map(_plain_output, report["outputs"][:10_000]) if output],
        "seconds": float(seconds) if isinstance(seconds, int | float) else 0.0,
        "execution_count": count if isinstance(count, int) and abs(count) < 1 << 31 else None,
        "error": error,
    }


def _plain_output(output: dict[str, Any]) -> dict[str, Any] | None:
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return {"output_type": "stream", "name": name, "text": _text(output.get("text"), MAX_REPORT)}
    if kind == "error":
        lines = output.get("traceback")
        lines = [_text(line) for line in lines[:1000]] if isinstance(lines, list) else []
        named = {key: _text(output.get(key)) for key in ("ename", "evalue")}
        return {"output_type": "error", **named, "traceback": lines}
    if kind in ("display_data", "execute_result"):
        data, metadata = output.get("data"), output.get("metadata")
        data = {str(key)[:200]: value for key, value in data.items()} if isinstance(data, dict) else {}
        metadata = metadata if isinstance(metadata, dict) else {}
        plain = {"output_type": kind, "data": data, "metadata": metadata}
        return plain | ({"execution_count": None} if kind == "execute_result" else {})
    return None
