"""Plain values between two processes that do not trust each other: JSON and raw bytes, no pickle.

What can cross: numbers, texts, bytes, None, tensors (values, dtype, strides; always on the CPU), NumPy arrays, lists,
tuples, named tuples, dicts, sets, slices, dtypes, devices, plotly figures (as their dicts), and *handles*: numbers that
stand for an object which stays where it is. Whatever comes in is checked before it is used, so the worst a sender can
do is to send wrong values.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch

#: Bytes of all buffers of one message, levels of nesting, and items of all containers in a message.
MAX_BUFFERS, MAX_DEPTH, MAX_ITEMS = 256 << 20, 16, 200_000
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
#: What `numpy.dtype.str` gives for those. NumPy would read far more: whole programs of types, and faults among them.
_NUMPY_DTYPE = re.compile(rf"[<>|=]?[{_NUMPY_KINDS}][0-9]{{1,7}}")
_INTEGER = re.compile(r"-?[0-9]{1,4000}")
#: Axes of a tensor, fields of a named tuple, kinds of named tuples in a message.
MAX_AXES, MAX_FIELDS, MAX_KINDS = 64, 64, 100
_LAST_CHARACTER = 0x10FFFF


class WireError(Exception):
    """A message or a value that cannot cross."""


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
    except Exception as error:
        raise WireError(f"a malformed value came: {type(error).__name__}") from None


class _Encoder:
    def __init__(self, buffers: list[bytes], handle: Callable[[Any], dict[str, Any]]):
        self.buffers, self.handle, self.items = buffers, handle, 0

    def encode(self, value: Any, depth: int) -> Any:
        self.items += 1
        if depth > MAX_DEPTH or self.items > MAX_ITEMS:
            # Counted too, because what contains itself twice has no end before the machine has.
            raise WireError("a value is nested too deeply or has too many parts to cross")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if isinstance(value, int):
            return self._int(int(value))
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
            items = [self.encode(item, depth) for item in value]
            return {"named": type(value).__name__.lstrip("_"), "fields": names, "of": items}
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

    @staticmethod
    def _int(value: int) -> Any:
        if abs(value) < 1 << 53:
            return value
        if value.bit_length() > 13_000:
            raise WireError("an integer of more than 13000 bits cannot cross")
        return {"int": str(value)}

    def _tensor(self, value: torch.Tensor) -> dict[str, Any]:
        try:
            plain = value.detach().cpu()
            plain = plain if plain.layout == torch.strided else plain.to_dense()
            plain = plain.resolve_conj().resolve_neg()
        except (RuntimeError, NotImplementedError) as error:
            # One without values (on the device "meta"), or nested: no fault of the code that made it.
            raise WireError(f"this tensor cannot cross: {error}") from None
        coded = {"tensor": str(plain.dtype).removeprefix("torch."), "shape": list(plain.shape)}
        coded["grad"] = value.requires_grad
        if not plain.is_contiguous():
            plain, coded["strides"] = _spread(plain)
        # Not `reshape`: a single number may have any stride, and then has no view as bytes.
        flat = plain.as_strided((plain.numel(),), (1,))
        raw = flat.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
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
        self.buffers, self.resolve, self.items = dict(enumerate(buffers)), resolve, 0
        self.kinds: set[tuple[str, ...]] = set()

    def decode(self, coded: Any, depth: int) -> Any:
        self.items += 1
        if depth > MAX_DEPTH + 1 or self.items > MAX_ITEMS:
            raise WireError("a value came that is nested too deeply or has too many parts")
        if isinstance(coded, str):
            # JSON may hold half of a pair of surrogates, which no file in UTF-8 can.
            return coded if coded.isascii() else coded.encode("utf-8", "replace").decode()
        if coded is None or isinstance(coded, bool | int | float):
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

    def _raw(self, number: Any) -> bytes:
        # Each once: a message that named one large buffer a thousand times would become a thousand copies.
        return self.buffers.pop(natural(number))

    def _read_int(self, coded, depth):
        if not _INTEGER.fullmatch(coded["int"]):
            raise WireError("a malformed integer came")
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
        kind = (coded["named"], *coded["fields"][: MAX_FIELDS + 1])
        self.kinds.add(kind)
        if len(kind) > MAX_FIELDS + 1 or len(self.kinds) > MAX_KINDS:
            raise WireError("a named tuple came with too many fields, or too many kinds of them")
        return _named(*kind)(*self._all(coded["of"], depth))

    def _read_figure(self, coded, depth):
        content = self.decode(coded["of"], depth)
        if not isinstance(content, dict) or not isinstance(coded["figure"], str):
            raise WireError("a malformed figure came")
        return Figure(content, coded["figure"][:200])

    def _read_bytes(self, coded, depth):
        return self._raw(coded["bytes"])

    def _read_complex(self, coded, depth):
        real, imaginary = coded["complex"]
        if not isinstance(real, int | float) or not isinstance(imaginary, int | float):
            raise WireError("a malformed complex number came")
        return complex(real, imaginary)

    def _read_slice(self, coded, depth):
        start, stop, step = self._all(coded["slice"], depth)
        return slice(start, stop, step)

    def _read_range(self, coded, depth):
        start, stop, step = coded["range"]
        return range(start, stop, step)

    def _read_ellipsis(self, coded, depth):
        return Ellipsis

    def _read_dtype(self, coded, depth):
        return _DTYPES[coded["dtype"]]

    def _read_device(self, coded, depth):
        return torch.device(coded["device"])

    def _read_type(self, coded, depth):
        return _TYPES[coded["type"]]

    def _read_size(self, coded, depth):
        return torch.Size(_shape(coded["size"], 1))

    def _read_tensor(self, coded, depth):
        dtype, raw = _DTYPES[coded["tensor"]], self._raw(coded["at"])
        shape = _shape(coded["shape"], dtype.itemsize)
        strides = [natural(stride) for stride in coded["strides"]] if "strides" in coded else None
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
        if not _NUMPY_DTYPE.fullmatch(coded["array"]):
            raise WireError("an array came with a strange dtype")
        dtype = np.dtype(coded["array"])
        raw, shape = self._raw(coded["at"]), _shape(coded["shape"], dtype.itemsize)
        if dtype.kind == "b" and raw.strip(b"\0\1"):
            raise WireError("a boolean array came that holds other values than 0 and 1")
        if dtype.kind == "U" and raw and np.frombuffer(raw, f"{dtype.byteorder}u4").max() > _LAST_CHARACTER:
            raise WireError("an array of texts came that holds what is no character")
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise WireError(f"an array came with {len(raw)} bytes, its shape needs {math.prod(shape) * dtype.itemsize}")
        made = np.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
        return made[()] if coded.get("scalar") is True and not shape else made


def natural(number: Any) -> int:
    """A number that came, where it can be a size.

    Raises:
        WireError: where it cannot.
    """
    if type(number) is not int or not 0 <= number < 1 << 48:
        raise WireError("a malformed number came")
    return number


def _shape(numbers: Any, size: int) -> list[int]:
    """A shape whose elements, of ``size`` bytes, a message could hold even where all of them were sent.

    A repeated axis (stride 0) costs no bytes on the way, and as many as it says where it is used.
    """
    if not isinstance(numbers, list) or len(numbers) > MAX_AXES:
        raise WireError("a malformed shape came")
    shape = [natural(number) for number in numbers]
    if math.prod(max(number, 1) for number in shape) * size > MAX_BUFFERS:
        raise WireError("a shape came that is too large")
    return shape


@lru_cache(1000)
def _named(name: Any, *fields: Any) -> type:
    # What cannot be a name it refuses itself.
    return collections.namedtuple(name, fields)


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in a value, in the order in which they cross."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors(item)]
    return []
