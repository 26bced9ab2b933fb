"""In the referee: what stands for the learner's objects, and the line to the process that holds them."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from autograder import hearsay, wire
from autograder.channel import Channel, Closed
from autograder.execute import CellTimeout
from autograder.limits import TIME_IS_UP

#: Seconds that the other process has beyond a call's limit to say itself that the limit was passed.
GRACE = 3.0
#: Bytes of the reports on all cells of a notebook; what goes beyond is kept without its outputs.
MAX_OUTPUTS = 32 << 20
TOO_MUCH = {"output_type": "stream", "name": "stderr", "text": "[the notebook's outputs are too large, left out]\n"}


class SubjectGone(BaseException):
    """The learner's process has ended or does not answer. Not an Exception: no test may take it for an answer."""


class Link:
    """Asks the learner's process, one question at a time.

    Attributes:
        broken: why no question can be asked any more; empty while all is well.
        late: whether it is broken because an answer did not come in time.
        deadline: when the running cell's time is over, on the monotonic clock.
    """

    def __init__(self, channel: Channel):
        self.channel = channel
        self.broken, self.late = "", False
        self.deadline = time.monotonic()
        self.random: bytes | None = None
        self.room = MAX_OUTPUTS

    def begin(self, seconds: float) -> None:
        """Start the clock of a cell."""
        self.deadline = time.monotonic() + seconds

    def ask(self, do: str, **values: Any) -> Any:
        """One question and its answer.

        Raises:
            SubjectGone: if the process is gone, is late, or does not keep to the protocol.
            CellTimeout: if the running cell's time is over.
            WireError: if a value cannot cross, or what came is none.
            Exception: what the learner's code raised (see `hearsay.exception`).
        """
        __tracebackhide__ = True
        if self.broken:
            raise SubjectGone(self.broken)
        if time.monotonic() >= self.deadline:
            # Many quick questions, each in time.
            raise CellTimeout(TIME_IS_UP)
        buffers: list[bytes] = []
        asked = {key: wire.encode(value, buffers, _handle_of) for key, value in values.items()}
        answer, buffers = self._exchange({"do": do, "with": asked, "seconds": self.left()}, buffers)
        if isinstance(answer.get("error"), dict):
            try:
                raised = hearsay.exception(answer["error"])
            except Exception:
                raise wire.WireError("a malformed exception came") from None
            raise raised
        if "value" not in answer:
            self.broken = "what came is no answer"
            raise SubjectGone(self.broken)
        return wire.decode(answer["value"], buffers, lambda coded: self._proxy(coded))

    def _exchange(self, question: dict[str, Any], buffers: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        __tracebackhide__ = True
        limit = self.deadline + GRACE
        try:
            self.channel.send(question, buffers, limit)
            return self.channel.receive(limit)
        except Closed as closed:
            self.late = time.monotonic() >= limit
            self.broken = str(closed)
            raise SubjectGone(self.broken) from None
        except wire.WireError:
            raise
        except BaseException:
            # The alarm of this process: what is left of the answer would be taken for the next one.
            self.broken, self.late = "a question was interrupted", True
            raise

    def left(self) -> float:
        """Seconds of the running cell."""
        return max(self.deadline - time.monotonic(), 0.001)

    def run(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Let the learner's process run a cell; its report holds nothing but what a report may hold.

        Raises:
            SubjectGone: also where what comes is no report.
        """
        try:
            raw = self.ask("run", cell=cell, seconds=self.left())
            if not isinstance(raw, bytes):
                raise TypeError
            told = hearsay.report(raw, cell["id"])
        except (Exception, CellTimeout) as error:
            self.broken, self.late = "what came is no report on a cell", isinstance(error, CellTimeout)
            raise SubjectGone(self.broken) from None
        self.room -= len(raw)
        if self.room < 0:
            told["outputs"] = [TOO_MUCH] if told["outputs"] else []
        return told

    def fresh(self) -> None:
        """Let the learner's process forget the results that gradients could still be asked for."""
        with contextlib.suppress(Exception, CellTimeout):
            self.ask("fresh")

    def names(self, names: list[str]) -> dict[str, Any]:
        """Those of the learner's names that are defined and can cross, with what they stand for.

        One by one, so that what cannot cross is missing alone.
        """
        found: dict[str, Any] = {}
        for name in names:
            try:
                answer = self.ask("name", name=name)
            except (Exception, CellTimeout):
                continue
            if isinstance(answer, list) and len(answer) == 1:
                found[name] = answer[0]
        return found

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


def notice_seeds(link: Link) -> None:
    """Let the link know when this process sets a seed.

    Setting the same seed again means the learner's side too, and the state here may not show that anything was done.
    """
    for name in ("manual_seed", "set_rng_state", "seed"):
        setattr(torch, name, _noticed(getattr(torch, name), link))


def _noticed(function: Callable[..., Any], link: Link) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        link.random = None
        return function(*args, **kwargs)

    return call


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
        if isinstance(value, Proxy) and value._kind == "method":
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
        answer = ctx.link.ask("backward", call=ctx.call, grads=list(grads))
        if not isinstance(answer, list) or len(answer) != ctx.count:
            raise wire.WireError("malformed gradients came")
        return (None, None, None, None, *answer, *[None] * len(grads))


def _differentiable(link: Link, result: Any, call: Any, inputs: Any) -> Any:
    """The result of a call, with its differentiable tensors connected to the inputs of the call."""
    outputs = [tensor for tensor in wire.tensors(result) if tensor.requires_grad]
    if not outputs or type(call) is not int or not torch.is_grad_enabled():
        return _replaced(result, {id(tensor): tensor.detach() for tensor in outputs})
    leaves = [tensor for tensor in wire.tensors(inputs) if tensor.requires_grad]
    # Something that needs a gradient even where only the learner's parameters do.
    anchor = torch.zeros((), requires_grad=True)
    connected = _Bridge.apply(link, call, len(leaves), anchor, *leaves, *[tensor.detach() for tensor in outputs])
    return _replaced(result, {id(old): new for old, new in zip(outputs, connected, strict=True)})


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
