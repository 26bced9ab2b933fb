"""Gradients and seeds across two processes are those of one."""

from __future__ import annotations

import os

import pytest
import torch

from autograder.proxy import notice_seeds
from tests.far_side import started

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork there is no second process")


@pytest.fixture
def learner(zygote, tmp_path):
    with started(zygote, tmp_path) as learner:
        yield learner


def gradients(function, *inputs):
    """Those of a sum of squares of all results, by the inputs."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    results = function(*leaves)
    total = sum((result**2).sum() for result in results) if isinstance(results, tuple) else (results**2).sum()
    return torch.autograd.grad(total, leaves, allow_unused=True)


FUNCTIONS = {
    "one input": "def f(x):\n    return x.sin() * x",
    "two inputs": "def f(x, y):\n    return x * y + y.exp()",
    "an input without effect": "def f(x, y):\n    return y * 3",
    "two results": "def f(x, y):\n    return x * y, x + y",
    "a result without gradient": "def f(x, y):\n    return x * y, x.detach() + 1",
    "the same result twice": "def f(x, y):\n    z = x * y\n    return z, z",
    "an input as it is": "def f(x, y):\n    return x, y * 2",
    "a view of an input": "def f(x, y):\n    return x[1:], y.T",
    "a shared input": "def f(x, y):\n    return x @ x.T, y",
}


@pytest.mark.parametrize("source", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_gradients_are_those_of_the_same_code_in_one_process(learner, source):
    scope = {}
    exec(source, scope)
    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randn(3, 3, dtype=torch.float64, generator=draw) for _ in range(2 if "y" in source else 1)]
    theirs, ours = gradients(learner(source, "f"), *inputs), gradients(scope["f"], *inputs)
    for got, want in zip(theirs, ours, strict=True):
        if want is None:
            # A bridge of several processes cannot tell "no effect" from "none".
            assert got is None or not got.any()
        else:
            assert torch.equal(got, want)


def test_gradients_pass_numerical_checks(learner):
    f = learner("def f(x, w):\n    return (x @ w).tanh()", "f")
    draw = torch.Generator().manual_seed(2)
    inputs = [torch.randn(2, 2, dtype=torch.float64, generator=draw).requires_grad_() for _ in range(2)]
    learner.link.begin(20.0)
    assert torch.autograd.gradcheck(f, inputs)


def test_gradients_reach_parameters_where_no_input_asks_for_them(learner):
    source = """
import torch
class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    def forward(self, x):
        return x * self.w
    def slopes(self):
        return self.w.grad
"""
    scale = learner(source, "Scale")()
    assert scale.slopes() is None
    result = scale(torch.tensor([3.0, 4.0]))
    assert result.requires_grad
    result.sum().backward()
    assert scale.slopes().tolist() == [3.0, 4.0]
    (2 * scale(torch.tensor([3.0, 4.0]))).sum().backward()
    assert scale.slopes().tolist() == [9.0, 12.0]


def test_a_result_that_nobody_uses_gives_its_parameters_no_gradient(learner):
    source = """
import torch
used, unused = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
def f():
    return used * 2, unused * 3
def slopes():
    return used.grad, unused.grad
"""
    f, slopes = learner(source, "f", "slopes")
    f()[0].sum().backward()
    assert slopes() == (torch.tensor([2.0]), None)


def test_gradients_go_through_dicts_lists_and_named_arguments(learner):
    f = learner("def f(*, parts):\n    return {'all': [parts['x'] * 2, (parts['y'] * 3,)], 'text': 'a'}", "f")
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    result = f(parts={"x": x, "y": y})
    (result["all"][0].sum() + result["all"][1][0].sum()).backward()
    assert x.grad.tolist() == [2.0, 2.0]
    assert y.grad.tolist() == [3.0, 3.0]
    assert result["text"] == "a"


def test_gradients_go_through_calls_of_calls(learner):
    f, g = learner("def f(x):\n    return x**2\ndef g(x):\n    return x.exp()", "f", "g")
    x = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    y = (3 * x).sin()
    (g(f(y)) + f(x)).sum().backward()
    own = x.detach().clone().requires_grad_()
    (((3 * own).sin() ** 2).exp() + own**2).sum().backward()
    assert torch.allclose(x.grad, own.grad)


def test_two_calls_have_gradients_of_their_own_in_any_order(learner):
    f = learner("def f(x, n):\n    return x**n", "f")
    x = torch.tensor([2.0], requires_grad=True)
    square, cube = f(x, 2), f(x, 3)
    assert torch.autograd.grad(cube, x)[0].item() == 12.0
    assert torch.autograd.grad(square, x, retain_graph=True)[0].item() == 4.0
    assert torch.autograd.grad(square, x)[0].item() == 4.0


def test_one_input_in_two_places_gets_both_gradients(learner):
    f = learner("def f(x, y):\n    return x * 2 + y * 3", "f")
    x = torch.ones(2, requires_grad=True)
    f(x, x).sum().backward()
    assert x.grad.tolist() == [5.0, 5.0]


def test_without_gradients_there_are_none(learner):
    f = learner("import torch\ndef f(x):\n    return x * 2, torch.is_grad_enabled()", "f")
    x = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        result, enabled = f(x)
    assert (result.requires_grad, enabled) == (False, False)
    result, enabled = f(x)
    assert (result.requires_grad, enabled) == (True, True)
    result, enabled = f(x.detach())
    assert (result.requires_grad, enabled) == (False, True)


def test_an_error_on_the_way_back_is_the_learners(learner):
    source = """
import torch
class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2
    @staticmethod
    def backward(ctx, grad):
        raise ValueError("no way back")
def f(x):
    return Broken.apply(x)
"""
    x = torch.ones(2, requires_grad=True)
    result = learner(source, "f")(x).sum()
    with pytest.raises(ValueError, match="no way back"):
        result.backward()


# Randomness


@pytest.fixture
def noticed(learner, monkeypatch):
    """The referee's way of setting seeds."""
    for name in ("manual_seed", "set_rng_state", "seed"):
        monkeypatch.setattr(torch, name, getattr(torch, name))
    notice_seeds(learner.link)


def test_a_seed_counts_on_both_sides_each_time_it_is_set(learner, noticed):
    f = learner("import torch\ndef f(n):\n    return torch.rand(n)", "f")
    torch.manual_seed(5)
    want = torch.rand(6)
    for _ in range(2):
        # The same seed a second time: the state here looks as if nothing had happened.
        torch.manual_seed(5)
        assert torch.equal(f(6), want)
    assert not torch.equal(f(6), want)
    torch.manual_seed(5)
    assert torch.equal(torch.cat([f(2), f(4)]), want)


def test_a_seed_that_counts_for_a_while_counts_there_too(learner, noticed):
    f = learner("import torch\ndef f(n):\n    return torch.rand(n)", "f")
    torch.manual_seed(5)
    want = torch.rand(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        other = f(3)
        torch.manual_seed(9)
        assert torch.equal(torch.rand(3), other)
    torch.manual_seed(5)
    assert torch.equal(f(3), want)


def test_what_the_learner_draws_or_sets_changes_nothing_here(learner):
    source = """
import torch, random, numpy
def f():
    torch.manual_seed(1)
    torch.set_rng_state(torch.get_rng_state())
    random.seed(1)
    numpy.random.seed(1)
    return torch.rand(3)
"""
    f = learner(source, "f")
    torch.manual_seed(7)
    want = torch.rand(4)
    torch.manual_seed(7)
    f()
    assert torch.equal(torch.rand(4), want)
