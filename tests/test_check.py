"""The checks of test cells: right answers pass in every form, wrong ones say what, why and what to try."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coursekit import check
from coursekit.check import CheckFailed

INF, NAN = float("inf"), float("nan")
THREE = torch.tensor([0.0, 1.0, 2.0])
SQUARE = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def failure(call):
    """The CheckFailed that a call raises; every failure has its three parts and can be shown."""
    with pytest.raises(CheckFailed) as caught:
        call()
    error = caught.value
    assert all(isinstance(part, str) and part for part in (error.what, error.why, error.hint))
    assert str(error) == f"What:  {error.what}\nWhy:   {error.why}\nTry:   {error.hint}"
    return error


class Hostile:
    """Breaks in everything that a check or its message might ask of it."""

    def __repr__(self):
        raise ValueError("no repr")

    __str__ = __eq__ = __bool__ = __len__ = __getitem__ = __iter__ = __float__ = __array__ = __hash__ = __repr__


class HostileError(Exception):
    def __str__(self):
        raise RuntimeError("no message")


ODD = {
    "None": None,
    "string": "three",
    "dict": {"result": THREE},
    "set": {0, 1, 2},
    "generator": (x for x in (0, 1, 2)),
    "function": len,
    "module": torch,
    "class": torch.nn.Linear,
    "tuple of the wrong length": (THREE, THREE),
    "empty tuple": (),
    "ragged list": [[0], [1, 2]],
    "list of strings": ["0", "1", "2"],
    "nested tensors": [THREE, [THREE]],
    "huge integer": 2**70,
    "array of objects": np.array([object()] * 3),
    "array of strings": np.array(["0", "1", "2"]),
    "tensor without values": THREE.to("meta"),
    "hostile object": Hostile(),
    "list of hostile objects": [Hostile(), Hostile()],
}
odd = pytest.mark.parametrize("value", ODD.values(), ids=ODD)


# close


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (THREE, THREE.clone()),
        (THREE + 5e-6, THREE),
        (THREE.clone().requires_grad_(), THREE),
        (torch.nn.Parameter(THREE), THREE),
        (THREE.expand(4, 3).t(), THREE.repeat(4, 1).t().contiguous()),
        (THREE.to_sparse(), THREE),
        (THREE.double() + 1e-6, THREE.double()),
        (THREE.half(), THREE.half()),
        (torch.tensor(3.0), torch.tensor(3.0)),
        (3, torch.tensor(3.0)),
        (3.0, 3),
        (np.float32(3), 3.0),
        (np.array(3), torch.tensor(3.0)),
        (True, torch.tensor(True)),
        (torch.zeros(0), torch.zeros(0)),
        (torch.zeros(2, 0, 3), torch.zeros(2, 0, 3)),
        ([], torch.zeros(0)),
        ([0, 1, 2], THREE),
        ((0.0, 1.0, 2.0), THREE),
        ([torch.tensor(0.0), torch.tensor(1.0), 2.0], THREE),
        (THREE.numpy(), THREE),
        (THREE, THREE.numpy()),
        (np.array([2.0, 1.0, 0.0])[::-1], THREE),
        (THREE, np.array([2.0, 1.0, 0.0])[::-1]),
        (np.arange(3, dtype=">f8"), THREE),
        (np.arange(3, dtype=np.uint16), THREE),
        (torch.tensor([NAN, INF, -INF]), torch.tensor([NAN, INF, -INF])),
        (torch.tensor([1 + 2j, complex(NAN, 1)]), torch.tensor([1 + 2j, complex(NAN, 1)])),
        (torch.tensor([1, 2]), torch.tensor([1, 2])),
        (torch.tensor([True, False]), torch.tensor([True, False])),
        ((THREE, SQUARE), [THREE, SQUARE]),
        ([THREE.numpy(), 1.0], (THREE, torch.tensor(1.0))),
    ],
)
def test_close_takes_a_right_answer_in_any_form(actual, expected):
    check.close(actual, expected, "values")


@odd
def test_close_explains_what_is_no_array_at_all(value):
    error = failure(lambda: check.close(value, THREE, "the mean"))
    assert error.what == "the mean"
    failure(lambda: check.close(value, (THREE, SQUARE), "two results"))


@pytest.mark.parametrize(
    ("actual", "expected", "why"),
    [
        (THREE[:2], THREE, "the shape is (2,), it should be (3,)"),
        (THREE[None], THREE, "the shape is (1, 3), it should be (3,)"),
        (torch.tensor([0.0]), torch.tensor(0.0), "the shape is (1,), it should be ()"),
        (THREE.double(), THREE, "the dtype is torch.float64, it should be torch.float32"),
        (THREE.long(), THREE, "the dtype is torch.int64, it should be torch.float32"),
        (torch.tensor([0.0, 1.5, 4.0]), THREE, "at [2]: yours 4, expected 2"),
        (torch.tensor([0.0, 1.5, 4.0]), THREE, "2 of 3 values differ"),
        (SQUARE + torch.tensor([[0, 0], [0.1, 0]]), SQUARE, "at [1, 0]: yours 3.1, expected 3"),
        (4, torch.tensor(3.0), "the largest difference: yours 4, expected 3"),
        (torch.tensor([0.0, INF, 9.0]), THREE, "at [1]: yours inf, expected 1"),
        (torch.tensor([NAN, 1.0, 9.0]), THREE, "at [0]: yours nan, expected 0"),
        (torch.tensor([-INF, 9.0]), torch.tensor([INF, 1.0]), "at [0]: yours -inf, expected inf"),
        (torch.tensor([1.0, 9.0]), torch.tensor([NAN, 1.0]), "at [0]: yours 1, expected nan"),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 2j]), "at [0]: yours 1+1j, expected 1+2j"),
        (torch.tensor([True]), torch.tensor([False]), "at [0]: yours 1, expected 0"),
        (None, THREE, "None (is a `return` missing?)"),
        ("three", THREE, "expected numbers, got 'three'"),
        (THREE, (THREE, SQUARE), "expected 2 results, got a Tensor of shape (3,)"),
        ((THREE,), (THREE, SQUARE), "expected 2 results, got (tensor("),
        (Hostile(), THREE, "got a Hostile that cannot be shown"),
    ],
)
def test_close_names_the_evidence(actual, expected, why):
    assert why in failure(lambda: check.close(actual, expected, "values")).why


def test_close_names_which_of_several_results_is_wrong():
    error = failure(lambda: check.close((THREE, SQUARE + 1), (THREE, SQUARE), "output and state"))
    assert error.what == "output and state (result 2 of 2)"


@pytest.mark.parametrize(
    ("actual", "expected", "hint"),
    [
        (SQUARE.t(), SQUARE, "transpose of the expected"),
        (SQUARE.expand(3, 2, 2).transpose(-1, -2), SQUARE.expand(3, 2, 2), "transpose of the expected"),
        (SQUARE * NAN, SQUARE, "holds NaN"),
        (SQUARE + 1, SQUARE, "smallest input"),
        (THREE.double(), THREE, "torch.zeros_like"),
        (THREE[:2], THREE, "shape of every intermediate"),
    ],
)
def test_close_hints_at_what_is_likely_unless_the_lab_knows_better(actual, expected, hint):
    assert hint in failure(lambda: check.close(actual, expected, "values")).hint
    assert failure(lambda: check.close(actual, expected, "values", hint="mind the gap")).hint == "mind the gap"


def test_the_tolerances_are_those_that_were_asked_for():
    far = torch.tensor([100.0, 0.0])
    check.close(far + torch.tensor([0.9, 0.0]), far, "relative", rtol=0.01, atol=0)
    check.close(far + torch.tensor([0.0, 0.9]), far, "absolute", rtol=0, atol=1)
    failure(lambda: check.close(far + torch.tensor([0.0, 0.9]), far, "relative", rtol=0.01, atol=0))
    failure(lambda: check.close(far + torch.tensor([0.0, 2e-5]), far, "the usual"))


def test_close_keeps_what_it_saw_for_the_diagnosis():
    wrong = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
    seen = failure(lambda: check.close(wrong, THREE, "values")).actual
    assert torch.equal(seen, wrong.detach().double())


# equal


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (7, 7),
        (7.0, 7),
        (np.int64(7), 7),
        (7, np.int64(7)),
        (np.float32(0.5), 0.5),
        (True, True),
        (np.bool_(True), True),
        (NAN, NAN),
        (None, None),
        ("abc", "abc"),
        ([1, 2], (1, 2)),
        ((1, 2), [1, 2]),
        ([np.int64(1), 2.0], [1, 2]),
        ({"a": [1]}, {"a": [1]}),
        (torch.tensor([1, 2]), torch.tensor([1, 2])),
        (torch.tensor([NAN, INF]), torch.tensor([NAN, INF])),
        (np.array([1, 2]), torch.tensor([1, 2])),
    ],
)
def test_equal_takes_equal_values(actual, expected):
    check.equal(actual, expected, "values")


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (6, 7),
        ("7", 7),
        (7, "7"),
        (None, 0),
        (0, None),
        ([1, 2], [2, 1]),
        ([1], [1, 2]),
        ({1, 2}, [1, 2]),
        ({"a": 1}, {"a": 2}),
        ([THREE, THREE], [1, 2]),
        ([np.zeros(2)], [0]),
        (torch.tensor(7), 7),
        (NAN, 0.0),
        (torch.tensor([1.0 + 1e-6]), torch.tensor([1.0])),
        (torch.tensor(2**53 + 1), torch.tensor(2**53)),
    ],
)
def test_equal_refuses_what_differs(actual, expected):
    assert failure(lambda: check.equal(actual, expected, "the count")).what == "the count"


@odd
@pytest.mark.parametrize("expected", [7, "seven", [1, 2], {"a": 1}, THREE], ids=type)
def test_equal_explains_odd_values(value, expected):
    failure(lambda: check.equal(value, expected, "values"))


def test_equal_shows_both_values_shortened():
    why = failure(lambda: check.equal(list(range(1000)), [1], "the list")).why
    assert why.startswith("got [0, 1, 2")
    assert why.endswith("..., expected [1]")
    assert len(why) < 160


# that


@pytest.mark.parametrize("condition", [True, 1, torch.tensor(True), torch.tensor([[1.0]]), np.bool_(True), "text"])
def test_that_holds(condition):
    check.that(condition, "a property")


@pytest.mark.parametrize("condition", [False, None, 0, torch.tensor(False), np.array([0.0]), []])
def test_that_fails_with_the_lab_s_evidence(condition):
    error = failure(lambda: check.that(condition, "rows sum to one", why="row 3 sums to 0.5", hint="divide"))
    assert (error.what, error.why, error.hint) == ("rows sum to one", "row 3 sums to 0.5", "divide")
    failure(lambda: check.that(condition, "rows sum to one"))


@pytest.mark.parametrize("condition", [THREE > 0, np.arange(3) > 0, Hostile()], ids=["tensor", "array", "hostile"])
def test_that_explains_a_condition_that_is_neither(condition):
    assert "neither true nor false" in failure(lambda: check.that(condition, "a property")).why


# raises


def throw(error):
    raise error


class TooLate(ValueError):
    pass


@pytest.mark.parametrize(
    "error", [ValueError("bad beta 3"), TooLate("bad beta 3"), RuntimeError("ValueError: bad beta 3")]
)
def test_raises_takes_the_error_its_kinds_and_its_name_from_another_process(error):
    check.raises(ValueError, lambda: throw(error), match="BETA")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: 3, "nothing was raised; the call returned 3"),
        (lambda: None, "the call returned None"),
        (Hostile, "the call returned a Hostile that cannot be shown"),
        (lambda: throw(TypeError("bad beta")), "it raised TypeError: bad beta"),
        (lambda: throw(AssertionError()), "it raised AssertionError: "),
        (lambda: throw(ValueError("bad alpha")), "the message is 'bad alpha'; it should mention 'beta'"),
        (lambda: throw(HostileError()), "it raised HostileError: a HostileError that cannot be shown"),
    ],
)
def test_raises_explains(call, why):
    error = failure(lambda: check.raises(ValueError, call, match="beta"))
    assert error.what == "bad input raises ValueError"
    assert why in error.why
    assert "return` missing" not in error.why
    assert failure(lambda: check.raises(ValueError, call, "beta is checked", match="beta")).what == "beta is checked"


def test_an_unwritten_answer_stays_unwritten():
    with pytest.raises(NotImplementedError):
        check.raises(ValueError, lambda: throw(NotImplementedError()))


# gradients


def square_sum(x, y):
    return (x * x + y).sum(-1)


X, Y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1.0, -1.0])


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: (x**2).sum(-1) + y.sum(),
        lambda x, y: torch.einsum("ij,ij->i", x, x) + y[0] + y[1],
        lambda x, y: square_sum(x.double(), y.double()).float(),
    ],
)
def test_gradients_of_a_right_answer_pass_and_the_inputs_stay_clean(function):
    check.gradients(function, square_sum, [X, Y], "gradients")
    assert X.grad is None
    assert not X.requires_grad


def test_gradients_take_several_results_integers_and_what_the_oracle_ignores():
    index = torch.tensor([1, 0])

    def pick(x, index, unused):
        return x[index], (x * 2).exp()

    check.gradients(pick, pick, [X, index, Y], "gradients")
    check.gradients(lambda *a: list(pick(*a)), pick, [X, index, Y], "gradients")
    check.gradients(lambda x, i, u: (x[i] + 0 * u.sum(), (x * 2).exp()), pick, [X, index, Y], "gradients")


@pytest.mark.parametrize(
    ("function", "what", "why"),
    [
        (lambda x, y: square_sum(x.detach(), y), "gradients", "no gradient reaches input 1"),
        (lambda x, y: square_sum(x, y.detach()), "gradients", "no gradient reaches input 2"),
        (lambda x, y: square_sum(x, y).detach(), "gradients", "no gradient reaches input 1"),
        (lambda x, y: torch.tensor(square_sum(x, y).tolist()), "gradients", "no gradient reaches input 1"),
        (lambda x, y: square_sum(x, y) + x[:, 0] - x[:, 0].detach(), "(gradient of input 1;", "2 of 4 values differ"),
        (lambda x, y: square_sum(x, y) - y.sum() + y.sum().detach(), "(gradient of input 2;", "yours 0"),
        (lambda x, y: square_sum(x, y).sum().item(), "gradients", "expected tensors, got 30.0"),
        (lambda x, y: None, "gradients", "None (is a `return` missing?)"),
        (lambda x, y: (square_sum(x, y), None), "gradients", "expected tensors, got (tensor("),
        (lambda x, y: Hostile(), "gradients", "got a Hostile that cannot be shown"),
    ],
)
def test_gradients_name_the_input_and_what_is_wrong(function, what, why):
    error = failure(lambda: check.gradients(function, square_sum, [X, Y], "gradients"))
    assert what in error.what
    assert why in error.why


def test_a_wrong_gradient_cannot_hide_in_a_sum_that_does_not_change():
    """Softmax sums to one, so the gradient of its plain sum is zero whatever the answer does."""
    with pytest.raises(CheckFailed, match="gradient of input 1"):
        check.gradients(lambda x: torch.softmax(x, -1).detach() + 0 * x, lambda x: torch.softmax(x, -1), [X], "softmax")


# All of them


def test_a_failure_counts_as_a_failed_assertion_and_names_its_cause_once_known():
    error = failure(lambda: check.that(False, "a property"))
    assert isinstance(error, AssertionError), "plain nbgrader gives a failed assertion no points"
    error.mistake = "the mask is missing"
    assert "Cause: Your result is exactly what you get when the mask is missing." in str(error).splitlines()


def test_announcing_an_exercise_outside_a_notebook_or_while_grading_does_nothing(monkeypatch):
    monkeypatch.setattr("coursekit.diagnose.explain_failures_in_notebook", lambda *a: pytest.fail("it was turned on"))
    for name in ("NBGRADER_EXECUTION", "COURSE_GRADING"):
        with monkeypatch.context() as grading:
            grading.setenv(name, "1")
            check.exercise("ch90/lab01", "ema")


@pytest.mark.parametrize("submission", [None, "", "0", "00", " 0 "])
def test_a_seed_is_itself_where_no_submission_is_graded(monkeypatch, submission):
    monkeypatch.delenv("COURSE_SEED", raising=False)
    if submission is not None:
        monkeypatch.setenv("COURSE_SEED", submission)
    assert [check.seed(n) for n in (0, 3, 2**40)] == [0, 3, 2**40]


def test_each_submission_has_seeds_of_its_own(monkeypatch):
    seeds = {}
    for submission in (1, 2, 12, -1, 2**31 - 1, 2**70):
        monkeypatch.setenv("COURSE_SEED", str(submission))
        for n in range(40):
            seeds[submission, n] = check.seed(n)
            assert check.seed(n) == seeds[submission, n], "asked twice, the answer is the same"
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds.values())
    assert len(set(seeds.values())) == len(seeds)
    assert max(seeds.values()) > 2**30, "all 31 bits are used"


def test_seeds_are_the_same_on_every_machine(monkeypatch):
    # sha256("7 3") begins with the bytes that `printf "7 3" | sha256sum` shows; a regrade years later draws the same.
    monkeypatch.setenv("COURSE_SEED", "7")
    assert check.seed(3) == 127853370


def test_a_seed_that_is_no_number_says_so(monkeypatch):
    monkeypatch.setenv("COURSE_SEED", "many")
    with pytest.raises(ValueError, match=r"'many'.*integer"):
        check.seed(1)
