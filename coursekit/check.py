"""Checks for test cells: a failure says what is wrong, why it matters and what to try.

Every check raises `CheckFailed`, an AssertionError, so plain nbgrader counts it like any other failed assertion.
In a notebook the failure is shown as a short block instead of a traceback, with the mistake named where the lab's
mistakes table knows it (see `coursekit.diagnose`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from coursekit.reference import being_graded


class CheckFailed(AssertionError):
    """A check that did not hold.

    Attributes:
        what: what was checked, in the words of the lab.
        why: the evidence: shapes, dtypes, the largest difference and where it is.
        hint: what to try.
        actual: the value that was checked, where there is one.
        mistake: the named mistake, or None while nobody has looked for it.
    """

    def __init__(self, what: str, why: str, hint: str, actual: Any = None):
        self.what, self.why, self.hint, self.actual = what, why, hint, actual
        self.mistake: str | None = None
        super().__init__(what, why, hint)

    def __str__(self) -> str:
        lines = [f"What:  {self.what}", f"Why:   {self.why}"]
        if self.mistake:
            lines.append(f"Cause: Your result is exactly what you get when {self.mistake}.")
        return "\n".join([*lines, f"Try:   {self.hint}"])


def exercise(lab: str, name: str) -> None:
    """Announce which exercise the test cell belongs to; `course build` writes this call into every test cell.

    In a live notebook it turns on the short form of failures. While a notebook is graded it does nothing.
    """
    if being_graded():
        return
    from coursekit import diagnose

    diagnose.explain_failures_in_notebook(lab, name)


def seed(n: int) -> int:
    """The seed of a hidden test's random inputs: ``torch.Generator().manual_seed(check.seed(3))``.

    Where the grader gives each submission numbers of its own (`COURSE_SEED`, read at every call), they cannot be known
    before the submission is handed in, and grading it again with the same seed gives the same result. Visible tests
    keep plain seeds: what a learner sees is what they debug.

    Args:
        n: tells the draws of one lab apart.

    Returns:
        ``n`` itself where COURSE_SEED is unset, empty or 0: in JupyterLab, `course check` and plain nbgrader. Otherwise
        a number in [0, 2**31) mixed from both, the same on every machine and in every version of Python.

    Raises:
        ValueError: if COURSE_SEED is no integer.
    """
    text = os.environ.get("COURSE_SEED") or "0"
    try:
        submission = int(text)
    except ValueError:
        raise ValueError(f"COURSE_SEED is {text!r}; it has to be an integer, or unset") from None
    if submission == 0:
        return n
    digest = hashlib.sha256(f"{submission} {n}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def close(
    actual: Any, expected: Any, what: str, *, atol: float = 1e-5, rtol: float = 1e-5, hint: str | None = None
) -> None:
    """Check that two arrays (or numbers, or equal-length sequences of arrays) hold the same values.

    Args:
        actual: what the learner's code returned: tensor, array, number, or a list or tuple of those.
        expected: the oracle's value, of the same shape. Its dtype is required of tensors too.
        what: one clause that completes "this should hold:".
        atol, rtol: the difference allowed, ``atol + rtol * |expected|``. NaN equals NaN, inf equals inf.
        hint: what to try; a general advice where it is left out.

    Raises:
        CheckFailed: with shapes, dtypes, and where the largest difference is.
    """
    if isinstance(expected, (list, tuple)) and any(isinstance(item, torch.Tensor | np.ndarray) for item in expected):
        if not isinstance(actual, (list, tuple)) or len(actual) != len(expected):
            raise CheckFailed(
                what,
                f"expected {len(expected)} results, got {_describe(actual)}",
                hint or "Return the results in the order that the docstring gives.",
            )
        for index, (got, want) in enumerate(zip(actual, expected, strict=True)):
            close(got, want, f"{what} (result {index + 1} of {len(expected)})", atol=atol, rtol=rtol, hint=hint)
        return
    want = _tensor(expected)
    got = _as_tensor(actual, what, hint)
    if got.shape != want.shape:
        raise CheckFailed(
            what,
            f"the shape is {tuple(got.shape)}, it should be {tuple(want.shape)}",
            hint or "Write the shape of every intermediate value beside its line, then find the first one that is off.",
            actual=list(got.shape),
        )
    if isinstance(expected, torch.Tensor) and isinstance(actual, torch.Tensor) and got.dtype != want.dtype:
        raise CheckFailed(
            what,
            f"the dtype is {got.dtype}, it should be {want.dtype}",
            hint or "Make new tensors with the dtype of the input (torch.zeros_like, x.new_tensor, x.to(y.dtype)).",
        )
    # Without a tolerance compare before widening: float64 cannot tell large integers apart.
    exact = (got == want) | ((got != got) & (want != want)) if atol == rtol == 0 and got.dtype == want.dtype else None
    got, want = _comparable(got, want)
    allowed = exact if exact is not None else torch.isclose(got, want, atol=atol, rtol=rtol, equal_nan=True)
    if bool(allowed.all()):
        return
    why = _largest_difference(got, want, allowed, atol, rtol)
    raise CheckFailed(what, why, hint or _hint_for(got, want), actual=got)


def equal(actual: Any, expected: Any, what: str, *, hint: str | None = None) -> None:
    """Check that two plain values (numbers, strings, lists, tuples, dicts of them) are equal; tensors exactly so.

    NaN equals NaN, and a number out of NumPy equals the same number out of Python.

    Raises:
        CheckFailed: showing both values, shortened.
    """
    if isinstance(expected, torch.Tensor | np.ndarray):
        close(actual, expected, what, atol=0.0, rtol=0.0, hint=hint)
        return
    if not _same(actual, expected):
        raise CheckFailed(
            what,
            f"got {_describe(actual)}, expected {'None' if expected is None else _describe(expected)}",
            hint or "Work the smallest case out by hand and compare it with what your code returns.",
            actual=actual,
        )


def that(condition: Any, what: str, *, why: str | None = None, hint: str | None = None) -> None:
    """Check a property that has no single expected value.

    Args:
        condition: the property; a tensor counts as its single boolean.
        what: the property in words, true when it holds.
        why: the evidence when it does not hold; say it with numbers where you can.
    """
    try:
        holds = bool(condition)
    except Exception:
        holds, why = False, why or f"the property is {_describe(condition)}, which is neither true nor false"
    if not holds:
        raise CheckFailed(
            what,
            why or "this property does not hold for your result",
            hint or "Read the docstring again and print the values for the smallest input.",
            actual=why,
        )


def raises(error: type[BaseException], call: Callable[[], Any], what: str | None = None, *, match: str = "") -> None:
    """Check that ``call()`` raises ``error`` and that its message contains ``match`` (case is ignored)."""
    what = what or f"bad input raises {error.__name__}"
    try:
        result = call()
    except NotImplementedError:
        raise
    except Exception as raised:
        # In split grading the learner's exception arrives as another type that carries the original name.
        said = _text(raised, str)
        names = {cls.__name__ for cls in type(raised).__mro__} | {said.partition(":")[0]}
        if error.__name__ not in names:
            raise CheckFailed(
                what,
                f"it raised {type(raised).__name__}: {said}",
                f"Check the arguments first and raise {error.__name__} with a message that names the bad value.",
            ) from None
        if match.lower() not in said.lower():
            raise CheckFailed(
                what,
                f"the message is {said!r}; it should mention {match!r}",
                "Say in the message what was given and what is allowed.",
            ) from None
        return
    raise CheckFailed(
        what,
        # A function that should have raised may well return nothing otherwise.
        f"nothing was raised; the call returned {'None' if result is None else _describe(result)}",
        f"Check the arguments first and raise {error.__name__}, as the docstring's Raises section says.",
    )


def gradients(
    function: Callable[..., torch.Tensor],
    oracle: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor],
    what: str,
    *,
    atol: float = 1e-5,
    rtol: float = 1e-5,
) -> None:
    """Check that the gradients of ``function`` equal those of ``oracle`` for every floating-point input.

    Both are called with fresh leaves holding the values of ``inputs``; the result (a tensor of any shape, or a
    tuple of tensors) is weighted by fixed random numbers, so that a wrong gradient cannot cancel in a plain sum.

    Raises:
        CheckFailed: naming the input (by position, from 1) whose gradient differs.
    """
    wanted = _input_gradients(oracle, inputs, what)
    for index, (got, want) in enumerate(zip(_input_gradients(function, inputs, what), wanted, strict=True)):
        if want is None:
            continue
        if got is None:
            raise CheckFailed(
                what,
                f"no gradient reaches input {index + 1}",
                "Look for .detach(), .item(), .data, torch.no_grad() or a new tensor built from numbers.",
            )
        which = f"(gradient of input {index + 1}; the outputs are weighted with fixed random numbers)"
        close(got, want, f"{what} {which}", atol=atol, rtol=rtol)


def _input_gradients(function, inputs, what) -> list[torch.Tensor | None]:
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    result = function(*leaves)
    outputs = list(result) if isinstance(result, (list, tuple)) else [result]
    if not all(isinstance(output, torch.Tensor) for output in outputs):
        raise CheckFailed(what, f"expected tensors, got {_describe(result)}", "Return tensors, not numbers or arrays.")
    weighted = torch.zeros((), dtype=torch.float64)
    for seed, output in enumerate(outputs):
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        weighted = weighted + (output.double() * weight).sum()
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    if not weighted.requires_grad:
        return [None] * len(wanted)
    return list(torch.autograd.grad(weighted, wanted, allow_unused=True))


def _as_tensor(value: Any, what: str, hint: str | None) -> torch.Tensor:
    try:
        return _tensor(value)
    except Exception:
        raise CheckFailed(
            what, f"expected numbers, got {_describe(value)}", hint or "Does every path of your code return a value?"
        ) from None


def _tensor(value: Any) -> torch.Tensor:
    """Numbers in any form as a dense tensor on the CPU."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return value if value.layout == torch.strided else value.to_dense()
    if isinstance(value, np.ndarray):
        # Reversed views and foreign byte orders are right answers too, and torch takes neither.
        value = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
    return torch.as_tensor(value)


def _same(actual: Any, expected: Any) -> bool:
    """Whether two plain values are equal; what cannot be compared is not."""
    actual, expected = (value.item() if isinstance(value, np.generic) else value for value in (actual, expected))
    try:
        if isinstance(actual, int | float) and isinstance(expected, int | float):
            return bool(actual == expected or (actual != actual and expected != expected))
        if isinstance(actual, list | tuple) and isinstance(expected, list | tuple):
            return list(actual) == list(expected)
        return type(actual) is type(expected) and bool(actual == expected)
    except Exception:
        return False


def _comparable(got: torch.Tensor, want: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    wide = torch.complex128 if got.is_complex() or want.is_complex() else torch.float64
    return got.detach().cpu().to(wide), want.detach().cpu().to(wide)


def _largest_difference(got, want, allowed, atol, rtol) -> str:
    difference = (got - want).abs()
    wrong = ~allowed
    # A NaN or an infinity on one side only is the worst difference there is, whatever its arithmetic says.
    difference = torch.where(wrong & ~difference.isfinite(), torch.inf, difference).masked_fill(allowed, -1.0)
    where = np.unravel_index(int(difference.argmax()), difference.shape) if difference.ndim else ()
    mine, wanted = _number(got[where]), _number(want[where])
    if mine == wanted:
        mine, wanted = f"{got[where].item():.12g}", f"{want[where].item():.12g}"
    place = " is at [" + ", ".join(str(int(i)) for i in where) + "]" if where else ""
    return (
        f"{int(wrong.sum())} of {wrong.numel()} values differ by more than allowed (atol {atol:g}, rtol {rtol:g}); "
        f"the largest difference{place}: yours {mine}, expected {wanted}"
    )


def _number(value: torch.Tensor) -> str:
    return f"{value.item():.6g}"


def _hint_for(got: torch.Tensor, want: torch.Tensor) -> str:
    if bool(got.isnan().any()) and not bool(want.isnan().any()):
        return "Your result holds NaN. Look for 0/0, inf - inf, or the exponential of a large number."
    if got.ndim >= 2 and bool(torch.isclose(got.transpose(-1, -2), want, atol=1e-6).all() if _square(got) else False):
        return "Your result is the transpose of the expected one: two axes have changed places."
    if bool(torch.isclose(got, want, atol=1e-6, rtol=1e-5, equal_nan=True).all()):
        return "The first digits agree and the later ones do not: is there a float32 on the way of a float64 number?"
    return "Take the smallest input, write down the expected value by hand, and print each step beside it."


def _square(value: torch.Tensor) -> bool:
    return value.shape[-1] == value.shape[-2]


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    if value is None:
        return "None (is a `return` missing?)"
    text = _text(value, repr)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _text(value: Any, how: Callable[[Any], str]) -> str:
    """What an object says of itself, if it can: a check must not fail over its own message."""
    try:
        return how(value)
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"
