"""What the options of `course generate` allow, beyond what Typer can say by itself."""

from __future__ import annotations

import math

import typer


def _finite(value: float | None, holds: bool, allowed: str) -> float | None:
    if value is not None and not (holds and math.isfinite(value)):
        raise typer.BadParameter(f"{value:g} is not {allowed}.")
    return value


def at_least_0(value: float) -> float:
    return _finite(value, value >= 0, "a number from 0 on (0 takes the most probable token)")


def above_0(value: float) -> float:
    return _finite(value, value > 0, "a number above 0 (1 changes nothing)")


def share(value: float | None) -> float | None:
    return _finite(value, value is None or 0 < value <= 1, "above 0 and at most 1 (1 keeps every token)")


def stops(values: list[str] | None) -> list[str] | None:
    if values and "" in values:
        raise typer.BadParameter("an empty text would end before the first character.")
    return values
