"""Name the mistake: which known slip gives exactly the learner's result?

The test cell is run once on the learner's code and once on the reference with each listed mistake put in, recording
what every call returned. Where a record equals the learner's, call by call up to the same failure, that is the cause.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import textwrap
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from coursekit import reference
from coursekit.check import CheckFailed

#: No more seconds than this are spent on looking for a name.
BUDGET = 10.0


@dataclass
class Trace:
    """What a test cell saw: the result of every call of the exercise's names, and how it ended."""

    results: list[Any] = field(default_factory=list)
    failure: tuple[str, str] | None = None
    actual: Any = None


def trace(test_source: str, scope: dict[str, Any], names: list[str]) -> Trace:
    """Run a test cell in a copy of ``scope`` with the calls of ``names`` recorded; nothing is printed."""
    seen = Trace()
    copied = dict(scope)
    for name in names:
        if name in copied:
            copied[name] = _recorded(copied[name], seen.results)
    copied["__name__"] = "__main__"
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            exec(reference.compiled(test_source, "<test>"), copied)
    except CheckFailed as failed:
        seen.failure, seen.actual = ("CheckFailed", failed.what), _frozen(failed.actual)
    except (Exception, SystemExit) as error:
        seen.failure = (type(error).__name__, str(error))
    return seen


def same(one: Trace, other: Trace) -> bool:
    """Whether two traces tell the same story, up to rounding."""
    return (
        one.failure == other.failure
        and len(one.results) == len(other.results)
        and _alike(one.actual, other.actual)
        and all(_alike(a, b) for a, b in zip(one.results, other.results, strict=True))
    )


def name_mistakes(lab: str, exercise: str, test_source: str, scope: dict[str, Any]) -> list[str]:
    """The sentences of all mistakes whose result equals the learner's on this test cell.

    One test may not tell two mistakes apart; what several failing tests agree on is the better answer.

    Args:
        lab: the id, ``ch01/lab03``.
        exercise: the exercise's name.
        test_source: the failing test cell.
        scope: the learner's namespace; it is copied, not changed.

    Returns:
        Sentences in the order of the mistakes table; empty when none matches, or when the time for looking ran out.
    """
    lab_reference = reference.load(lab)
    names = lab_reference.names(exercise)
    deadline = time.monotonic() + BUDGET
    learner = trace(test_source, scope, names)
    if learner.failure is None:
        return []
    found = []
    for sentence, edits in lab_reference.mistakes.get(exercise, {}).items():
        if time.monotonic() > deadline:
            break
        try:
            # Given cells may print, `carry` does; a diagnosis is silent.
            with contextlib.redirect_stdout(io.StringIO()):
                wrong = lab_reference.namespace({exercise: lab_reference.edited(exercise, edits)})
        except Exception:
            continue
        if same(learner, trace(test_source, wrong, names)):
            found.append(sentence)
    return found


def explain_failures_in_notebook(lab: str, exercise: str) -> None:
    """Let the running notebook explain a failing test cell of an exercise; outside IPython do nothing.

    A failed check is shown as a short block instead of a traceback, with the mistake named. Any other exception keeps
    its traceback, and the cause is added below it where the mistakes table knows it.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is None:
        return

    def show(shell, kind, error, traceback, tb_offset=None):
        # Not user_ns["In"]: learners have variables of that name.
        cell = shell.history_manager.input_hist_parsed[-1]
        unwritten = isinstance(error, NotImplementedError)
        if unwritten or f'check.exercise("{lab}", "{exercise}")' not in cell:
            shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)
            return None
        mistake = None
        # A diagnosis that breaks or is interrupted must never hide the failure it was to explain.
        with contextlib.suppress(BaseException):
            named = name_mistakes(lab, exercise, shell.transform_cell(cell), shell.user_ns)
            mistake = named[0] if named else None
        if isinstance(error, CheckFailed):
            error.mistake = mistake
            lines = [f"\x1b[1;31mNot yet: {exercise}\x1b[0m"]
            lines += [textwrap.fill(line, 92, subsequent_indent=" " * 7) for line in str(error).splitlines()]
        else:
            lines = shell.InteractiveTB.structured_traceback(kind, error, traceback, tb_offset=tb_offset)
            lines += [f"\n\x1b[1;31mCause:\x1b[0m this is exactly what happens when {mistake}."] if mistake else []
        shell._showtraceback(kind, error, lines)
        return lines

    shell.set_custom_exc((CheckFailed, RuntimeError, TypeError, ValueError, IndexError), show)


def _recorded(target: Any, log: list[Any]) -> Any:
    if hasattr(type(target), "recorded"):
        # In split grading the learner's object is in another process, and what stands for it keeps its own record.
        return target.recorded(lambda result: log.append(_frozen(result)))
    if isinstance(target, type):
        # Plain functions only: wrapping a static method or a callable attribute would change how it is called.
        inside: list[bool] = []
        methods = {
            name: _logging(value, log, inside)
            for name, value in vars(target).items()
            if isinstance(value, types.FunctionType) and (name == "__call__" or not name.startswith("_"))
        }
        try:
            return types.new_class(target.__name__, (target,), exec_body=lambda scope: scope.update(methods))
        except TypeError:  # a class that cannot be derived from, such as an Enum
            return target
    return _logging(target, log, []) if callable(target) else target


def _logging(function: Callable[..., Any], log: list[Any], inside: list[bool]) -> Callable[..., Any]:
    """Note what the test's own calls return; what a method returns to another method is not the test's to see."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if inside:
            return function(*args, **kwargs)
        inside.append(True)
        try:
            result = function(*args, **kwargs)
        finally:
            inside.clear()
        log.append(_frozen(result))
        return result

    return call


def _frozen(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_frozen(item) for item in value]
    if isinstance(value, dict) and not hasattr(value, "remote_name"):
        return {key: _frozen(item) for key, item in value.items()}
    if isinstance(value, bool | int | float | complex | str | bytes | type(None)):
        return value
    # Figures and other objects: two that look alike differ in a hundred settings, so what a check saw of them decides.
    return getattr(value, "remote_name", None) or type(value).__name__


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor | np.ndarray) or isinstance(other, torch.Tensor | np.ndarray):
        try:
            a, b = torch.as_tensor(one), torch.as_tensor(other)
        except (TypeError, ValueError, RuntimeError):
            return type(one) is type(other) and str(one) == str(other)
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        wide = torch.complex128 if a.is_complex() else torch.float64
        return bool(torch.isclose(a.to(wide), b.to(wide), atol=1e-6, rtol=1e-5, equal_nan=True).all())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        if one == other or (one != one and other != other):
            return True
        return math.isfinite(one) and math.isfinite(other) and abs(one - other) <= 1e-6 + 1e-5 * abs(other)
    return bool(one == other)
