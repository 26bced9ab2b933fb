"""What crosses between the learner's process and the referee: honest values unharmed, hostile ones refused."""

from __future__ import annotations

import collections
import copy
import enum
import json
import math
import re
import struct

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from autograder import wire
from autograder.wire import WireError

INF, NAN = math.inf, math.nan
Point = collections.namedtuple("Point", "x y")
_Private = collections.namedtuple("_Private", "x")
Color = enum.IntEnum("Color", "RED BLUE")


def no_handle(value):
    raise WireError(f"{type(value).__name__} stays behind")


def no_object(coded):
    raise WireError(f"there is no object {coded}")


def coded(value):
    buffers = []
    return json.loads(json.dumps(wire.encode(value, buffers, no_handle))), buffers


def cross(value):
    return wire.decode(*coded(value), no_object)


def alike(one, other):
    """The same type, structure and values, bit by bit."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and one.requires_grad == other.requires_grad
        return same and bits(one) == bits(other)
    if isinstance(one, np.ndarray | np.generic):
        same = type(one) is type(other) and one.dtype == other.dtype and one.shape == other.shape
        return same and np.asarray(one).tobytes() == np.asarray(other).tobytes()
    if isinstance(one, dict):
        return type(one) is type(other) and alike(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple):
        same = type(one).__name__ == type(other).__name__ and len(one) == len(other)
        return same and all(map(alike, one, other))
    if isinstance(one, float):
        return type(other) is float and struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, complex):
        return type(other) is complex and alike([one.real, one.imag], [other.real, other.imag])
    return type(one) is type(other) and one == other


def bits(tensor):
    plain = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
    copy = torch.empty(plain.numel(), dtype=plain.dtype).copy_(plain)
    return copy.view(torch.uint8).tolist() if plain.numel() else []


def numbers(*shape, dtype=torch.float32):
    return torch.arange(1, math.prod(shape) + 1).reshape(shape).to(dtype)


PLAIN = [
    *(None, True, False, 0, -1, 2**53 - 1, 2**53, -(2**53), 2**64 + 1, -(3**2000)),
    *(0.0, -0.0, 0.1, 5e-324, 1.7e308, INF, -INF, NAN),
    *("", "text", "äöü \U0001f600 \0 \n", "\x7f", 'with "quotes" and \\'),
    *(b"", b"\0\xff" * 10),
    *(1 + 2j, complex(NAN, -INF)),
    *([], [[], [[]]], (), (1,), (1, "a", (None,)), {}, {"a": 1, 2: "b", None: [], (1, "x"): {}, 1.5: True}),
    *({1, "a", (2, 3)}, frozenset({1, 2}), set(), {frozenset({1}), frozenset()}),
    *(slice(None), slice(1, 5, 2), slice(0, None, -1), range(3), range(5, -5, -2), Ellipsis),
    *(torch.float32, torch.bfloat16, torch.bool, torch.device("cpu"), torch.Size([2, 3]), torch.Size([])),
    *(bool, int, float, complex, str, bytes, list, tuple, dict, set),
    *(Point(1, "a"), Point(Point(1, 2), [torch.float32])),
    {"nested": [{"deeper": ({"a": [1, (2.5, None)]},)}]},
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_values_cross_unharmed(value):
    assert alike(value, cross(value))


def test_what_is_nearly_plain_arrives_plain():
    assert alike(cross(Color.BLUE), 2)
    assert alike(cross(collections.OrderedDict(a=1)), {"a": 1})
    assert alike(cross(collections.defaultdict(list, {1: [2]})), {1: [2]})
    assert alike(cross(bytearray(b"abc")), b"abc")
    assert alike(cross("half \ud800 of a pair"), "half ? of a pair")
    assert cross(_Private(3)).x == 3
    assert type(cross([Point(1, 2), Point(3, 4)])[0]) is type(cross(Point(5, 6)))


@pytest.mark.parametrize("dtype", wire._DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)], ids=str)
def test_tensors_of_every_dtype_cross(dtype, shape):
    value = numbers(*shape, dtype=torch.float32).to(dtype)
    assert alike(value, cross(value))


def test_every_ordinary_dtype_of_torch_crosses():
    known = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    # What is left out: quantised numbers, those of a few bits, and halves of complex numbers that torch can hardly use.
    odd = re.compile(r"torch\.(q|bits|u?int[1-7]$|float(4|8)|complex32)")
    assert {dtype for dtype in known if not odd.match(str(dtype))} <= set(wire._DTYPES.values())


SPECIAL = torch.tensor([NAN, INF, -INF, -0.0, 1e-45, 3.4e38])
LAYOUTS = {
    "transposed": lambda x: x.T,
    "permuted": lambda x: x.reshape(2, 2, 5).permute(2, 0, 1),
    "every other": lambda x: x.flatten()[::2],
    "a column": lambda x: x[:, 2],
    "a window": lambda x: x[1:3, 2:5],
    "expanded": lambda x: x[:, :1].expand(4, 3),
    "expanded to the front": lambda x: x[0].expand(5, 2, 5),
    "a number expanded": lambda x: x[1, 1].expand(3, 3),
    "the diagonal": lambda x: x.diagonal(),
    "expanded and sliced": lambda x: x[::2, ::3].unsqueeze(1).expand(2, 7, 2),
    "one row": lambda x: x.T[2:3],
    "channels last": lambda x: x.reshape(1, 2, 2, 5).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex128, torch.bfloat16], ids=str)
def test_a_tensor_keeps_its_strides(layout, dtype):
    value = layout(numbers(4, 5, dtype=dtype))
    crossed = cross(value)
    assert alike(value, crossed)
    assert crossed.stride() == value.stride()
    assert crossed.is_contiguous() == value.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64], ids=str)
def test_a_single_number_crosses_however_it_is_laid_out(dtype):
    number = numbers(4, 5, dtype=dtype)[2, 3]
    for value in (number, number.expand(1), number.expand(1, 1, 1), numbers(4, 5, dtype=dtype)[2:3, ::9]):
        assert alike(value, cross(value))


def test_overlapping_elements_cross_as_values():
    value = numbers(6).as_strided((3, 3), (1, 1))
    assert alike(value.contiguous(), cross(value))


@pytest.mark.parametrize(
    "value",
    [
        SPECIAL,
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
        numbers(3, 3).requires_grad_(),
        torch.nn.Parameter(numbers(2)),
        numbers(3).requires_grad_() * 2,
        numbers(3, 4).requires_grad_().T,
    ],
    ids=["special", "conjugate", "negated", "requires grad", "parameter", "not a leaf", "a view"],
)
def test_tensors_cross_as_leaves_that_know_whether_they_need_gradients(value):
    crossed = cross(value)
    assert alike(value, crossed)
    assert crossed.is_leaf


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_tensors_cross_as_dense_ones():
    dense = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    assert alike(cross(dense.to_sparse()), dense)
    assert alike(cross(dense.to_sparse_csr()), dense)


@pytest.mark.parametrize("value", [numbers(100)[::10], numbers(10, 10)[:, 3], numbers(10, 10).T[2:4]])
def test_nothing_that_lies_between_the_elements_of_a_slice_crosses(value):
    _, (raw,) = coded(value)
    crossed = set(torch.frombuffer(bytearray(raw), dtype=torch.float32).tolist())
    assert crossed - {0.0} == set(value.flatten().tolist())


ARRAYS = {
    **{kind: np.arange(6).reshape(2, 3).astype(kind) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")},
    **{kind: np.array([[0.5, NAN, -INF]]).astype(kind) for kind in ("f2", "f4", "f8", "c8", "c16")},
    "texts": np.array(["", "äöü", "\U0001f600"]),
    "bytes": np.array([b"", b"abc"]),
    "no dimension": np.array(3.5),
    "empty": np.zeros((2, 0, 3)),
    "empty texts": np.array([""]),
    "backwards": np.arange(6)[::-1],
    "backwards in two ways": np.arange(12).reshape(3, 4)[::-1, ::-2],
    "transposed": np.arange(6).reshape(2, 3).T,
    "by columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "repeated": np.broadcast_to(np.arange(3), (2, 3)),
    "a number": np.float32(2.5),
    "an integer": np.int64(-1),
    "a truth": np.bool_(True),
    "a complex number": np.complex64(1 + 2j),
    "a text": np.str_("abc"),
    "an empty text": np.str_(""),
    "some bytes": np.bytes_(b"abc"),
}


@pytest.mark.parametrize("value", ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays_cross_unharmed(value):
    assert alike(value, cross(value))


def test_long_double_crosses():
    value = np.array([1.5, NAN], dtype=np.longdouble)
    assert np.array_equal(cross(value), value, equal_nan=True)


def test_a_figure_crosses_as_its_dict():
    figure = go.Figure(go.Heatmap(z=np.arange(4.0).reshape(2, 2), x=["a", "b"]), layout={"title": {"text": "a"}})
    crossed = cross(figure)
    assert crossed.remote_name == "Figure"
    assert dict(crossed) == figure.to_dict()


def test_other_objects_stay_behind():
    seen = []

    def handle(value):
        seen.append(value)
        return {"handle": len(seen)}

    stays = [object(), np.array([None]), np.zeros(2, dtype="i4,f4"), np.datetime64("2020-01-01"), Color, lambda: 0]
    text = wire.encode([1, *stays], [], handle)
    assert [id(value) for value in seen] == [id(value) for value in stays]
    assert wire.decode(text, [], lambda coded: coded["handle"]) == [1, 1, 2, 3, 4, 5, 6]


def test_what_is_too_much_is_refused_by_the_sender():
    deep = deeper = []
    for _ in range(20):
        deeper.append([])
        deeper = deeper[0]
    wide = [0] * wire.MAX_ITEMS
    itself = []
    itself.extend([itself] * 10)
    for value in (deep, wide, itself, 1 << 20_000, torch.empty(2, device="meta")):
        with pytest.raises(WireError):
            coded(value)


# What nobody honest sends


def tensor(kind="float32", shape=(1,), at=0, **more):
    return {"tensor": kind, "shape": _listed(shape), "grad": False, "at": at} | more


def array(kind="<f4", shape=(1,), at=0, **more):
    return {"array": kind, "shape": _listed(shape), "scalar": False, "at": at} | more


def _listed(shape):
    return list(shape) if isinstance(shape, tuple) else shape


def each(what, make, *values):
    """One hostile value for each of some values of a part of it."""
    return {f"{what} {str(value)[:20]}": make(value) for value in values}


def named(name, *fields):
    return {"named": name, "fields": list(fields), "of": [1] * len(fields)}


def nested(levels):
    value = 1
    for _ in range(levels):
        value = {"list": [value]}
    return value


#: Each with the buffers: 0: four bytes, 1: none, 2: 0xff four times, 3: a seven, 4: eight bytes.
BUFFERS = [b"\0\0\x80?", b"", b"\xff" * 4, b"\7", bytes(8)]
NO_SHAPES = (None, 1, "1", {}, [-1], [1.0], [True], [NAN], ["1"], [None], [[1]])
NO_PLACES = (-1, 5, 1 << 60, True, 0.0, NAN, None, "0", [0], {})
HOSTILE = {
    **each("shape", lambda shape: tensor(shape=shape), *NO_SHAPES),
    **each("array shape", lambda shape: array(shape=shape), *NO_SHAPES),
    **each("buffer", lambda at: tensor(at=at), *NO_PLACES),
    **each("array buffer", lambda at: array(at=at), *NO_PLACES),
    **each("bytes of buffer", lambda at: {"bytes": at}, *NO_PLACES),
    "a shape of more than the bytes": tensor(shape=(2,)),
    "a shape of fewer than the bytes": tensor(shape=(0,)),
    "a huge shape": tensor(shape=(1 << 47,)),
    "a shape that overflows": tensor(shape=(1 << 32, 1 << 32)),
    "an empty shape that overflows": tensor(shape=(0, 1 << 47, 1 << 47), at=1),
    "an empty array that overflows": array(shape=(0, 1 << 47, 1 << 47), at=1),
    "too many axes": tensor(shape=(1,) * 65),
    "an array of too many axes": array(shape=(1,) * 65),
    "four bytes that repeat for terabytes": tensor(shape=(1 << 40,), strides=[0]),
    "four bytes that repeat along two axes": tensor(shape=(1 << 20, 1 << 20), strides=[0, 0]),
    "negative strides": tensor(shape=(1,), strides=[-1]),
    "strides that leave bytes over": tensor(shape=(1,), strides=[1], at=4),
    "strides beyond the bytes": tensor(shape=(2,), strides=[1 << 20]),
    "strides of another number": tensor(shape=(1,), strides=[1, 1]),
    "strides that are none": tensor(strides=5),
    "strides of truths": tensor(strides=[True]),
    **each("dtype", tensor, "float99", "quint8", "object", "__class__", "", 5, None, [], {}),
    **each("array dtype", array, "O", "|O", "O8", "V4", "M8[s]", "m8", "f3", "f4,,", "f4,f4", "(2,)f2", "2f2"),
    **each("array dtype", array, "object", "float32", "f4," * 99, "<U99999999999", "{}", "", 5, None, [], {}),
    "a truth that is 7": tensor("bool", at=3),
    "an array's truth that is 7": array("|b1", at=3),
    "a text of no characters": array("<U1", at=2),
    "one number of no characters": array("<U1", (), at=2, scalar=True),
    "one buffer twice": {"list": [tensor(), tensor()]},
    "one buffer's bytes twice": {"list": [{"bytes": 0}, {"bytes": 0}]},
    "deep nesting": nested(40),
    "too many items": {"list": [0] * (wire.MAX_ITEMS + 1)},
    "too many items in parts": {"list": [{"list": [0] * 1000}] * (wire.MAX_ITEMS // 1000 + 1)},
    **each("integer", lambda text: {"int": text}, "", "1_0", " 1", "\u0663", "0x1", "9" * 5000, 1, INF, None, []),
    **each("complex", lambda parts: {"complex": parts}, ["1", "2"], [1], [1, 2, 3], 5, None, [[], []], [10**400, 1]),
    **each("range", lambda parts: {"range": parts}, [1], [1, 2, 0], [0.5, 1, 1], ["a", "b", "c"], None, 7),
    **each("slice", lambda parts: {"slice": parts}, [1], [1, 2, 3, 4], None, {}),
    **each("size", lambda parts: {"size": parts}, [-1], [1 << 60], [True], None, "ab", [1.5]),
    **each("dict", lambda parts: {"dict": parts}, [1], [[1]], [[1, 2, 3]], [[{"list": []}, 1]], None, 5),
    "a set of lists": {"set": [{"list": []}]},
    "a list that is none": {"list": {"a": 1}},
    "a tuple that is none": {"tuple": None},
    **each("field", lambda field: named("A", field), "__class__", "_replace", "def", "x y", "x=print(1)", "", 5, ["x"]),
    **each("named tuple", lambda name: named(name, "x"), "", "class", "A B", "A.b", 5, None, []),
    "a field twice": named("A", "x", "x"),
    "too many fields": named("A", *(f"x{n}" for n in range(100))),
    "a named tuple with too few items": {"named": "A", "fields": ["x", "y"], "of": [1]},
    "too many kinds of named tuples": {"list": [named(f"A{n}", "x") for n in range(200)]},
    "a figure that is no dict": {"figure": "Figure", "of": 5},
    "a figure whose name is none": {"figure": 5, "of": {"dict": []}},
    **each("device", lambda name: {"device": name}, "", "nowhere", 5, None, "cpu:x"),
    **each("torch dtype", lambda name: {"dtype": name}, "", "Tensor", 5, None, []),
    **each("type", lambda name: {"type": name}, "type", "object", "eval", 5, None, []),
    **each("label", lambda name: {name: 1}, "", "unknown", "__class__", "all", "raw", "x y", "tensor.__init__"),
    "an empty dict": {},
    "a bare list": [1, 2],
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_malformed_value_is_refused(value):
    with pytest.raises(WireError):
        wire.decode(copy.deepcopy(value), list(BUFFERS), no_object)


def test_the_hostile_values_are_malformed_in_one_way_only():
    assert wire.decode(tensor(), list(BUFFERS), no_object).tolist() == [1.0]
    assert wire.decode(array(), list(BUFFERS), no_object).tolist() == [1.0]
    assert wire.decode(tensor(shape=(5,), strides=[0]), list(BUFFERS), no_object).tolist() == [1.0] * 5
    assert wire.decode({"int": "-12"}, [], no_object) == -12
    assert wire.decode({"named": "A", "fields": ["x"], "of": [1]}, [], no_object) == (1,)


def test_only_numbers_that_can_have_gradients_ask_for_them():
    made = wire.decode(tensor("int32", grad=True), [b"\0" * 4], no_object)
    assert not made.requires_grad
    assert not wire.decode(tensor(grad=1), [b"\0" * 4], no_object).requires_grad


def test_a_text_that_no_file_can_hold_is_mended():
    assert wire.decode("\ud800", [], no_object) == "?"
