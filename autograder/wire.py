"""Plain values between two processes that do not trust each other: one JSON header and raw bytes a message, no pickle.

A message is four bytes of length, a JSON header, and the buffers whose lengths the header lists. What can cross:
numbers, texts, bytes, None, tensors (values, dtype, strides; always on the CPU), NumPy arrays, lists, tuples, named
tuples, dicts, sets, slices, dtypes, devices, plotly figures (as their dicts), and *handles*: numbers that stand for an
object which stays where it is. Whatever comes in is checked before it is used, so the worst a sender can do is to send
wrong values.
"""

from __future__ import annotations

import collections
import json
import keyword
import math
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

#: Bytes of a header and of all buffers of one message, levels of nesting, and items of all containers in a message.
MAX_HEADER, MAX_BUFFERS, MAX_DEPTH, MAX_ITEMS = 8 << 20, 256 << 20, 16, 200_000
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.bool, torch.complex64, torch.complex128),
    )
}
_TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set)}
_NUMPY_KINDS = "biufcSU"


class WireError(Exception):
    """A message or a value that cannot cross."""


class Closed(WireError):
    """The other process has ended, or has broken the protocol so badly that nothing it says can be used."""


class Figure(dict):
    """The dict of a figure that stays where it is, and the name of its type there."""

    def __init__(self, content: dict, name: str):
        super().__init__(content)
        self.remote_name = name


def encode(value: Any, buffers: list[bytes], handle: Callable[[Any], dict[str, Any]]) -> Any:
    """A value as JSON and buffers.

    Args:
        value: what to send.
        buffers: raw bytes are added here.
        handle: gives the JSON of an object that stays behind; raises WireError where there is no such thing.
    """
    return _Encoder(buffers, handle).encode(value, 0)


def decode(coded: Any, buffers: list[bytes], resolve: Callable[[dict[str, Any]], Any]) -> Any:
    """The value of some JSON and buffers.

    Args:
        coded: what `encode` made, or what a hostile process made up.
        buffers: the message's buffers.
        resolve: turns the JSON of a handle into what stands for it here.

    Raises:
        WireError: for anything that `encode` could not have made.
    """
    try:
        return _Decoder(buffers, resolve).decode(coded, 0)
    except WireError:
        raise
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise WireError(f"a malformed value came: {type(error).__name__}") from None


class _Encoder:
    def __init__(self, buffers: list[bytes], handle: Callable[[Any], dict[str, Any]]):
        self.buffers, self.handle = buffers, handle

    def encode(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise WireError("a value is nested too deeply to cross")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if isinstance(value, int):
            return {"int": str(int(value))} if abs(value) >= 1 << 53 else int(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, str):
            return str(value).encode("utf-8", "replace").decode()
        return self._other(value, depth + 1)

    def _other(self, value: Any, depth: int) -> Any:
        if isinstance(value, torch.Size):
            return {"size": list(value)}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            names = [str(name) for name in value._fields]
            return {"named": type(value).__name__.lstrip("_"), "fields": names, "of": [self.encode(v, depth) for v in value]}
        for kind, label in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "frozenset")):
            if isinstance(value, kind):
                return {label: [self.encode(item, depth) for item in value]}
        if isinstance(value, dict):
            return {"dict": [[self.encode(key, depth), self.encode(item, depth)] for key, item in value.items()]}
        if isinstance(value, bytes | bytearray):
            return {"bytes": self._add(bytes(value))}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, slice):
            return {"slice": [self.encode(part, depth) for part in (value.start, value.stop, value.step)]}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if value is Ellipsis:
            return {"ellipsis": True}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": str(value)}
        if isinstance(value, type) and _TYPES.get(value.__name__) is value:
            return {"type": value.__name__}
        if type(value).__module__.startswith("plotly.") and hasattr(value, "to_dict"):
            return {"figure": type(value).__name__, "of": self.encode(value.to_dict(), depth)}
        return self.handle(value)

    def _add(self, raw: bytes) -> int:
        self.buffers.append(raw)
        return len(self.buffers) - 1

    def _tensor(self, value: torch.Tensor) -> dict[str, Any]:
        plain = value.detach().cpu()
        plain = plain if plain.layout == torch.strided else plain.to_dense()
        plain = plain.resolve_conj().resolve_neg()
        coded = {"tensor": str(plain.dtype).removeprefix("torch."), "shape": list(plain.shape)}
        coded["grad"] = value.requires_grad
        if not plain.is_contiguous():
            plain, coded["strides"] = _spread(plain)
        raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return coded | {"at": self._add(raw)}

    def _array(self, value: np.ndarray | np.generic) -> dict[str, Any]:
        array = np.asarray(value)
        if array.dtype.kind not in _NUMPY_KINDS:
            return self.handle(value)
        coded = {"array": array.dtype.str, "shape": list(array.shape), "scalar": isinstance(value, np.generic)}
        return coded | {"at": self._add(array.tobytes())}


def _spread(value: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """A tensor's elements at their places in memory, and its strides; what lies between them stays zero."""
    strides = list(value.stride())
    small = value
    for axis, stride in enumerate(strides):
        if stride == 0 and value.shape[axis] > 1:
            small = small.narrow(axis, 0, 1)
    span = _span(small.shape, strides)
    distinct = sorted((s, n) for s, n in zip(strides, small.shape, strict=True) if n > 1)
    reach = 1
    for stride, size in distinct:
        if stride < reach:
            # Elements that overlap in other ways than by repetition: their values cross, their strides do not.
            return value.contiguous().reshape(-1), list(value.contiguous().stride())
        reach = stride * size
    memory = torch.zeros(span, dtype=value.dtype)
    memory.as_strided(small.shape, strides).copy_(small)
    return memory, strides


def _span(shape: Any, strides: list[int]) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if math.prod(shape) else 0


class _Decoder:
    def __init__(self, buffers: list[bytes], resolve: Callable[[dict[str, Any]], Any]):
        self.buffers, self.resolve, self.items = buffers, resolve, 0

    def decode(self, coded: Any, depth: int) -> Any:
        self.items += 1
        if depth > MAX_DEPTH + 1 or self.items > MAX_ITEMS:
            raise WireError("a value came that is nested too deeply or has too many parts")
        if coded is None or isinstance(coded, bool | int | float | str):
            return coded
        if not isinstance(coded, dict) or not coded:
            raise WireError("a malformed value came")
        label = next(iter(coded))
        reader = getattr(self, f"_read_{label}", None) if label.isidentifier() else None
        if reader:
            return reader(coded, depth + 1)
        return self.resolve(coded)

    def _all(self, items: Any, depth: int) -> list[Any]:
        if not isinstance(items, list):
            raise WireError("a malformed list came")
        return [self.decode(item, depth) for item in items]

    def _raw(self, coded: dict[str, Any]) -> bytes:
        return self.buffers[_natural(coded["at"])]

    def _read_int(self, coded, depth):
        return int(coded["int"])

    def _read_list(self, coded, depth):
        return self._all(coded["list"], depth)

    def _read_tuple(self, coded, depth):
        return tuple(self._all(coded["tuple"], depth))

    def _read_set(self, coded, depth):
        return set(self._all(coded["set"], depth))

    def _read_frozenset(self, coded, depth):
        return frozenset(self._all(coded["frozenset"], depth))

    def _read_dict(self, coded, depth):
        return {self.decode(key, depth): self.decode(item, depth) for key, item in coded["dict"]}

    def _read_named(self, coded, depth):
        name, fields = coded["named"], coded["fields"]
        for text in (name, *fields):
            if not (isinstance(text, str) and text.isidentifier() and not keyword.iskeyword(text)) or text[0] == "_":
                raise WireError("a named tuple came with a strange name")
        return collections.namedtuple(name, fields)(*self._all(coded["of"], depth))

    def _read_figure(self, coded, depth):
        content = self.decode(coded["of"], depth)
        if not isinstance(content, dict) or not isinstance(coded["figure"], str):
            raise WireError("a malformed figure came")
        return Figure(content, coded["figure"][:200])

    def _read_bytes(self, coded, depth):
        return self.buffers[_natural(coded["bytes"])]

    def _read_complex(self, coded, depth):
        return complex(*map(float, coded["complex"]))

    def _read_slice(self, coded, depth):
        return slice(*self._all(coded["slice"], depth))

    def _read_range(self, coded, depth):
        return range(*coded["range"])

    def _read_ellipsis(self, coded, depth):
        return Ellipsis

    def _read_dtype(self, coded, depth):
        return _DTYPES[coded["dtype"]]

    def _read_device(self, coded, depth):
        return torch.device(coded["device"])

    def _read_type(self, coded, depth):
        return _TYPES[coded["type"]]

    def _read_size(self, coded, depth):
        return torch.Size([_natural(size) for size in coded["size"]])

    def _read_tensor(self, coded, depth):
        dtype, raw = _DTYPES[coded["tensor"]], self._raw(coded)
        shape = _shape(coded["shape"])
        strides = [_natural(stride) for stride in coded["strides"]] if "strides" in coded else None
        if strides is not None and len(strides) != len(shape):
            raise WireError("a tensor came with other strides than axes")
        wanted = _span(shape, strides) if strides is not None else math.prod(shape)
        if wanted * dtype.itemsize != len(raw):
            raise WireError(f"a tensor came with {len(raw)} bytes, its shape needs {wanted * dtype.itemsize}")
        if dtype == torch.bool and raw.strip(b"\0\1"):
            raise WireError("a boolean tensor came that holds other values than 0 and 1")
        memory = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        made = memory.reshape(shape) if strides is None else memory.as_strided(shape, strides)
        differentiable = coded.get("grad") is True and (dtype.is_floating_point or dtype.is_complex)
        return made.requires_grad_() if differentiable else made

    def _read_array(self, coded, depth):
        dtype = np.dtype(coded["array"]) if isinstance(coded["array"], str) else None
        if dtype is None or dtype.kind not in _NUMPY_KINDS or dtype.subdtype or dtype.itemsize == 0:
            raise WireError("an array came with a strange dtype")
        raw, shape = self._raw(coded), _shape(coded["shape"])
        if dtype.kind == "b" and raw.strip(b"\0\1"):
            raise WireError("a boolean array came that holds other values than 0 and 1")
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise WireError(f"an array came with {len(raw)} bytes, its shape needs {math.prod(shape) * dtype.itemsize}")
        made = np.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
        return made[()] if coded.get("scalar") is True and not shape else made


def _natural(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 48:
        raise WireError("a malformed number came")
    return number


def _shape(numbers: Any) -> list[int]:
    if not isinstance(numbers, list) or len(numbers) > 64:
        raise WireError("a malformed shape came")
    return [_natural(number) for number in numbers]


class Channel:
    """Messages over a connected socket, with a deadline for each."""

    def __init__(self, connection: socket.socket):
        self.connection = connection

    def send(self, header: dict[str, Any], buffers: list[bytes], deadline: float | None = None) -> None:
        """Send one message.

        Raises:
            Closed: if nobody listens (any more), or does not take it in time.
        """
        text = json.dumps(header | {"buffers": [len(buffer) for buffer in buffers]}).encode()
        try:
            self._time(deadline)
            self.connection.sendall(struct.pack(">I", len(text)) + text)
            for buffer in buffers:
                self._time(deadline)
                self.connection.sendall(buffer)
        except OSError as error:
            raise Closed(f"nobody takes what is sent: {error}") from None

    def receive(self, deadline: float | None = None) -> tuple[dict[str, Any], list[bytes]]:
        """Receive one message.

        Raises:
            Closed: if the other end is gone, is late, or sends what is no message.
        """
        (length,) = struct.unpack(">I", self._read(4, deadline))
        if length > MAX_HEADER:
            raise Closed(f"a message came with a header of {length} bytes")
        try:
            header = json.loads(self._read(length, deadline))
            sizes = [_natural(size) for size in header.pop("buffers")]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, WireError):
            raise Closed("what came is no message") from None
        if sum(sizes) > MAX_BUFFERS:
            raise Closed(f"a message came with {sum(sizes)} bytes")
        return header, [self._read(size, deadline) for size in sizes]

    def _read(self, size: int, deadline: float | None) -> bytes:
        pieces, missing = [], size
        while missing:
            try:
                self._time(deadline)
                piece = self.connection.recv(min(missing, 1 << 20))
            except OSError as error:
                raise Closed(f"no answer: {error}") from None
            if not piece:
                raise Closed("the other process has ended")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _time(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("the time is over")
        self.connection.settimeout(left)
