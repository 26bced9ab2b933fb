"""What a test can do with the learner's objects while they are in another process: calls, errors, objects."""

from __future__ import annotations

import math
import operator
import os
import time

import pytest
import torch

from autograder import wire
from autograder.execute import CellTimeout
from autograder.proxy import Proxy
from tests.far_side import started

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork there is no second process")


@pytest.fixture
def learner(zygote, tmp_path):
    with started(zygote, tmp_path) as learner:
        yield learner


# Calls and values


def test_a_function_is_called_with_plain_values_and_gives_some_back(learner):
    f = learner("def f(a, *more, b=2, **named):\n    return {'a': a, 'more': more, 'b': b, 'named': named}", "f")
    x = torch.arange(6.0).reshape(2, 3).T
    result = f(x, [1, "a"], b=(None, True), c={"d": 1.5})
    assert torch.equal(result["a"], x)
    assert result["a"].stride() == x.stride()
    assert result["more"] == ([1, "a"],)
    assert result["b"] == (None, True)
    assert result["named"] == {"c": {"d": 1.5}}


def test_what_a_call_changes_in_its_arguments_stays_there(learner):
    f = learner("def f(x, items):\n    x.add_(1)\n    items.append(1)\n    return x", "f")
    x, items = torch.zeros(3), []
    assert f(x, items).tolist() == [1.0] * 3
    assert x.tolist() == [0.0] * 3
    assert items == []


def test_names_are_those_that_are_defined(learner):
    learner.run("a = 1\nb = None")
    assert learner.link.names(["a", "b", "c"]) == {"a": 1, "b": None}


def test_a_name_that_cannot_cross_is_missing_alone(learner):
    learner.run("a = 1\nb = []\nb.append(b)\nc = 3")
    assert learner.link.names(["a", "b", "c"]) == {"a": 1, "c": 3}


def test_a_test_cannot_pass_what_is_not_plain(learner):
    f = learner("def f(x):\n    return x", "f")
    for value in (object(), len, torch.Generator()):
        with pytest.raises(wire.WireError, match="plain values only"):
            f(value)
    assert f(3) == 3


def test_a_result_that_is_too_large_is_an_error_and_no_end(learner):
    f, g = learner("def f():\n    return 'x' * (9 << 20)\ndef g():\n    return 5", "f", "g")
    with pytest.raises(Exception, match="too large to cross") as refused:
        f()
    assert type(refused.value).__name__ == "WireError"
    assert g() == 5


# Exceptions


def test_an_exception_keeps_its_name_type_message_and_place(learner):
    f = learner("def g(x):\n    raise ValueError(f'bad {x}')\n\ndef f(x):\n    return g(x)", "f")
    with pytest.raises(ValueError, match=r"^bad 3$") as raised:
        f(3)
    assert [(frame["line"], frame["function"]) for frame in raised.value.remote_frames] == [(5, "f"), (2, "g")]
    assert raised.value.remote_frames[-1]["code"] == "raise ValueError(f'bad {x}')"


@pytest.mark.parametrize(
    ("source", "name", "base"),
    [
        ("class Wrong(KeyError): pass\ndef f(): raise Wrong('a')", "Wrong", KeyError),
        ("def f(): raise NotImplementedError('todo')", "NotImplementedError", NotImplementedError),
        ("import sys\ndef f(): sys.exit(0)", "SystemExit", Exception),
        ("def f(): raise KeyboardInterrupt", "KeyboardInterrupt", Exception),
        ("def f(): raise BaseException('a')", "BaseException", Exception),
        ("def f(): raise StopIteration(1)", "StopIteration", Exception),
        ("def f(): raise ExceptionGroup('a', [ValueError(1)])", "ExceptionGroup", Exception),
        ("def f(): 'é'.encode('ascii')", "UnicodeEncodeError", UnicodeEncodeError),
        ("def f(): open('nowhere')", "FileNotFoundError", FileNotFoundError),
        ("def f(): return f()", "RecursionError", RecursionError),
        ("import torch\ndef f(): torch.ones(2) @ torch.ones(3)", "RuntimeError", RuntimeError),
        ("def f(): return [0] * (1 << 60)", "MemoryError", MemoryError),
        ("class Odd(Exception):\n    def __str__(self): raise OSError\ndef f(): raise Odd", "Odd", Exception),
        ("class Odd(Exception):\n    def __init__(self, a, b): pass\ndef f(): raise Odd(1, 2)", "Odd", Exception),
        ("class Odd(Exception):\n    def __str__(self): return 'x' * 10**7\ndef f(): raise Odd", "Odd", Exception),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_whatever_is_raised_comes_back_and_the_next_call_works(learner, source, name, base):
    f, g = learner(f"{source}\ndef g(): return 5", "f", "g")
    with pytest.raises(base) as raised:
        f()
    assert type(raised.value).__name__ == name
    assert isinstance(raised.value, Exception)
    assert len(str(raised.value)) <= 5000
    assert g() == 5


def test_an_argument_too_few_is_the_learners_type_error(learner):
    f = learner("def f(a, b): return a", "f")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        f(1)


@pytest.mark.parametrize(
    "use",
    [lambda p: p.f(), lambda p: p.value, lambda p: len(p), lambda p: p[0], lambda p: next(iter(p)), lambda p: p(1)],
    ids=["method", "property", "len", "item", "iteration", "call"],
)
def test_an_endless_loop_anywhere_ends_in_time_and_the_next_call_works(learner, use):
    source = """
class Slow:
    def f(self):
        while True: pass
    @property
    def value(self): self.f()
    def __len__(self): self.f()
    def __getitem__(self, key): self.f()
    def __iter__(self): self.f()
    def __call__(self, x): self.f()
slow = Slow()
def g(): return 5
"""
    slow, g = learner(source, "slow", "g")
    learner.link.begin(0.2)
    start = time.monotonic()
    with pytest.raises(CellTimeout):
        use(slow)
    assert time.monotonic() - start < 2.5
    learner.link.begin(20.0)
    assert g() == 5


# Objects

MODULES = """
import torch
class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
    def forward(self, x):
        return x * self.weight

class Outer(torch.nn.Module):
    def __init__(self, n, bias=0.0):
        super().__init__()
        self.inner, self.n, self.bias = Inner(), n, bias
        self.drop = torch.nn.Dropout(0.5)
        self.layers = torch.nn.ModuleList([Inner(), Inner()])
    def forward(self, x):
        return self.drop(self.inner(x)) + self.bias
    def make(self):
        return Inner()
    def first(self, other):
        return other.weight
"""


def test_a_class_is_made_called_and_asked(learner):
    outer = learner(MODULES, "Outer")(3, bias=1.5)
    assert isinstance(outer, Proxy)
    assert (outer.n, outer.bias) == (3, 1.5)
    outer.eval()
    assert outer.training is False
    assert outer(torch.tensor([2.0, 3.0])).tolist() == [3.5, 4.5]
    assert outer.forward(torch.tensor([2.0, 3.0])).tolist() == [3.5, 4.5]
    outer.train()
    assert outer.drop.training is True
    outer.bias = 10.0
    outer.eval()
    assert outer(torch.zeros(2)).tolist() == [10.0, 10.0]


def test_its_state_is_read_and_loaded(learner):
    outer = learner(MODULES, "Outer")(1)
    state = outer.state_dict()
    assert sorted(state) == ["inner.weight", "layers.0.weight", "layers.1.weight"]
    outer.load_state_dict({name: torch.full((2,), 7.0) for name in state})
    outer.eval()
    assert outer(torch.ones(2)).tolist() == [7.0, 7.0]
    with pytest.raises(RuntimeError, match="Missing key"):
        outer.load_state_dict({})
    assert {name: tuple(value.shape) for name, value in outer.named_parameters()} == dict.fromkeys(state, (2,))


def test_objects_within_objects_are_reached_and_passed_back(learner):
    outer = learner(MODULES, "Outer")(1)
    assert outer.inner(torch.full((2,), 3.0)).tolist() == [3.0, 3.0]
    assert outer.inner.weight.tolist() == [1.0, 1.0]
    assert len(outer.layers) == 2
    assert outer.layers[1].weight.shape == (2,)
    assert [layer(torch.ones(2)).sum().item() for layer in outer.layers] == [2.0, 2.0]
    made = outer.make()
    assert outer.first(made).tolist() == [1.0, 1.0]
    assert outer.first(other=outer.inner).tolist() == [1.0, 1.0]


def test_what_a_test_calls_a_thousand_times_is_quick(learner):
    source = "class Counter:\n    n = 0\n    def up(self):\n        self.n += 1\n        return self.n"
    counter = learner(source, "Counter")()
    assert [counter.up() for _ in range(1000)][-1] == 1000


def test_private_parts_of_an_object_are_not_reached(learner):
    thing = learner("class Thing:\n    _x = 1\n    y = 2\nthing = Thing()", "thing")
    assert thing.y == 2
    for name in ("_x", "__class__dict__", "__torch_function__", "__array__", "__float__"):
        assert not hasattr(thing, name)
    with pytest.raises(AttributeError):
        _ = thing.nothing


def test_what_is_iterated_is_fetched_item_by_item(learner):
    source = """
class Rows:
    def __iter__(self):
        yield 1
        yield [2]
class Square:
    def __len__(self): return 3
    def __getitem__(self, n):
        if n >= 3: raise IndexError(n)
        return n * n
class Keys(dict):
    pass
def endless():
    n = 0
    while True:
        yield n
        n += 1
def broken():
    yield 1
    raise ValueError("later")
def g(): return 5
"""
    rows, square, endless, broken, g = learner(source, "Rows", "Square", "endless", "broken", "g")
    assert list(rows()) == [1, [2]]
    assert list(square()) == [0, 1, 4]
    assert (len(square()), square()[2]) == (3, 4)
    with pytest.raises(IndexError):
        _ = square()[5]
    endless = iter(endless())
    assert [next(endless) for _ in range(4)] == [0, 1, 2, 3]
    seen = []
    with pytest.raises(ValueError, match="later"):
        seen.extend(broken())
    assert g() == 5


def test_an_endless_generator_ends_with_the_time(learner):
    endless, g = learner("def endless():\n    while True:\n        yield 1\ndef g(): return 5", "endless", "g")
    numbers = endless()
    learner.link.begin(0.2)
    start = time.monotonic()
    with pytest.raises(CellTimeout):
        sum(numbers)
    assert time.monotonic() - start < 2.5
    learner.link.begin(20.0)
    assert g() == 5


# Nothing opaque is ever taken for a value

LIAR = """
class Liar:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __bool__(self): return True
    def __float__(self): return 9.0
    __int__ = __index__ = lambda self: 9
    def __add__(self, other): return 9
    __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __matmul__ = __add__
    def __abs__(self): return 0.0
    def __neg__(self): return self
    def __hash__(self): return hash(9)
    def __contains__(self, item): return True
    def __torch_function__(self, *args, **kwargs): return True
    def __array__(self, *args, **kwargs): import numpy; return numpy.array(9.0)
    def item(self): return 9
def f(x=None): return Liar()
f.__eq__ = lambda *a: True
"""


@pytest.fixture
def liar(learner):
    return learner(LIAR, "f")()


def test_an_object_that_claims_to_equal_everything_equals_nothing(liar):
    for value in (9, 9.0, True, "9", None, torch.tensor(9)):
        assert operator.eq(liar, value) is False
        assert operator.eq(value, liar) is False
        assert operator.ne(liar, value) is True
    assert liar not in [9, 9.0]
    assert liar not in {9: 1}
    assert [liar] != [9]


@pytest.mark.parametrize(
    "use",
    [
        float,
        int,
        abs,
        lambda x: math.isclose(x, 9),
        lambda x: x < 10,
        lambda x: x > 8,
        lambda x: x + 1,
        lambda x: 1 - x,
        lambda x: -x,
        lambda x: torch.ones(2) * x,
        lambda x: torch.allclose(x, torch.tensor(9.0)),
        lambda x: torch.equal(torch.tensor(9.0), x),
        lambda x: torch.isclose(torch.tensor(9.0), x),
        lambda x: torch.testing.assert_close(x, torch.tensor(9.0)),
        lambda x: [1, 2][x],
        lambda x: range(x),
    ],
)
def test_nor_is_it_a_number(liar, use):
    with pytest.raises((TypeError, AttributeError, AssertionError, ValueError)):
        use(liar)


def test_a_function_in_place_of_a_value_is_none_either(learner):
    f = learner("def f():\n    return lambda *a, **k: True", "f")()
    assert operator.eq(f, True) is False
    assert operator.eq(1, f) is False
    with pytest.raises(TypeError):
        float(f)
