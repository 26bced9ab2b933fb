"""Forbidden shortcuts are found however they are written, and nothing else is."""

from __future__ import annotations

import pytest

from autograder.policy import forbidden_calls, imports


def found(source, *forbid, aliases=None):
    return forbidden_calls(source, list(forbid), aliases)


@pytest.mark.parametrize(
    "source",
    [
        "F.softmax(x, -1)",
        "torch.nn.functional.softmax(x, -1)",
        "nn.functional.softmax(x, -1)",
        "import torch.nn.functional as fn; fn.softmax(x, -1)",
        "import torch as t; t.nn.functional.softmax(x, -1)",
        "from torch import nn as n; n.functional.softmax(x, -1)",
        "from torch.nn import functional; functional.softmax(x, -1)",
        "from torch.nn.functional import softmax",
        "from torch.nn.functional import softmax as s",
        "from torch.nn.functional import *",
        "shortcut = F.softmax",
        "partial(F.softmax, dim=-1)(x)",
        "getattr(F, 'softmax')(x, -1)",
        "getattr(getattr(torch.nn, 'functional'), 'softmax', None)(x)",
        "F.softmax.__call__(x, -1)",
        "def f(x):\n    return [F.softmax(row, -1) for row in x]",
    ],
)
def test_a_dotted_name_is_found_however_it_is_reached(source):
    assert {name for _, name in found(source, "F.softmax")} == {"F.softmax"}
    assert {name for _, name in found(source, "torch.nn.functional.softmax")} == {"torch.nn.functional.softmax"}


@pytest.mark.parametrize(
    "source",
    [
        "def softmax(x): ...\nsoftmax(x)",
        "x.softmax(-1)",
        "torch.softmax(x, -1)",
        "my.F.softmax(x)",
        "F.log_softmax(x)",
        "from mine import softmax\nsoftmax(x)",
        "import torch.nn.functional as G\nH.softmax(x)",
        "# F.softmax(x)\n'F.softmax(x)'",
        "getattr(F, name)(x)",
        "getattr(F, 3)",
        "getattr(F)",
        "F.softmax = 1 if",
        "",
    ],
)
def test_a_dotted_name_means_nothing_else(source):
    assert found(source, "F.softmax") == []


@pytest.mark.parametrize(
    "source", ["x.cumsum(0)", "torch.cumsum(x, 0)", "from numpy import cumsum as c\nc(x)", "getattr(x, 'cumsum')(0)"]
)
def test_a_bare_name_is_any_attribute_or_import(source):
    assert found(source, "cumsum")


@pytest.mark.parametrize("source", ["def cumsum(x): ...\ncumsum(x)", "x.cumsum_all(0)", "cumsum = 3", "import cumsum"])
def test_a_function_of_the_learner_s_own_may_have_the_bare_name(source):
    assert found(source, "cumsum") == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("nn.Linear(3, 3)", 1),
        ("torch.nn.Linear(3, 3)", 1),
        ("from torch.nn import Linear as L", 1),
        ("from torch.nn import *", 1),
        ("from torch.nn.functional import linear", 1),
        ("import torch.nn as layers; layers.Linear(3, 3)", 1),
        ("nnx.Linear(3, 3)", 0),
        ("mine.nn.Linear(3, 3)", 0),
        ("torch.linear(x)", 0),
    ],
)
def test_a_star_forbids_all_below(source, count):
    assert len(found(source, "nn.*")) == count


def test_lines_are_named_in_order_each_once():
    source = "a = x.cumsum(0)\n\nb = [x.cumsum(0), x.cumsum(1)]\nc = torch.einsum('i,i', a, a)\n"
    assert found(source, "einsum", "cumsum") == [(1, "cumsum"), (3, "cumsum"), (4, "einsum")]


def test_imports_of_another_cell_count():
    other = imports("import torch.nn.functional as G\nfrom scipy.signal import lfilter as shortcut\nimport os, sys\n")
    assert other == {"G": "torch.nn.functional", "shortcut": "scipy.signal.lfilter"}
    assert found("G.softmax(x)", "F.softmax", aliases=other) == [(1, "F.softmax")]
    assert found("y = 1\nshortcut(x)", "scipy.signal.lfilter", aliases=other) == [(2, "scipy.signal.lfilter")]
    assert found("G.softmax(x)\nshortcut(x)", "F.softmax", "scipy.signal.lfilter") == []


def test_code_that_does_not_parse_is_no_find_and_no_error():
    assert found("def f(:\n    F.softmax(x)", "F.softmax") == []
    assert imports("import (") == {}
