"""One case of the hostile suite: what is handed in, and what must become of it."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
GROUPS = ("forging", "confidentiality", "integrity", "resources", "broken")
#: What every docstring says, each at the beginning of a paragraph.
SAID = ("Tries:", "A correct grader:")


@dataclass(frozen=True)
class Case:
    """One hostile or broken submission.

    Attributes:
        group, name: the folder and the file's name.
        about: the docstring.
        earns: points by exercise; a set where more than one number is right.
        lab: ``ema`` (5 points, functions) or ``layer`` (7 points, a class and gradients).
        learner: the name of the folder that is handed in.
        answers: exercise -> the cell; exercises left out are answered correctly, None leaves one as it was released.
        extra, last: cells of the learner's own, above the first exercise and below the last cell.
        notebook: called with the notebook's JSON once the answers are in it; returns it, or the bytes of the file.
        files: called with the folder that is handed in and the course's root, once the notebook lies there.
        status: of the notebook; a set where more than one is right.
        statuses: of single exercises.
        flags: words that stand in a flag of the notebook or of an exercise; none of them may be missing.
        says: words that stand in a message to the learner.
        limits: where they differ from the usual ones.
        runs: whether ``extra`` and ``last`` run to their end; an attack that breaks off proves nothing.
        at_most: ``processes`` that may live at a time, ``mebibytes`` that the machine's free memory may fall by.
        after: looks at the outcome (`tests.hostile.stage.Outcome`) and raises AssertionError.
    """

    group: str
    name: str
    about: str
    earns: dict[str, float | set[float]]
    lab: str = "ema"
    learner: str = "mallory"
    answers: dict[str, str | None] = field(default_factory=dict)
    extra: str | None = None
    last: str | None = None
    notebook: Callable[[dict[str, Any]], dict[str, Any] | bytes] | None = None
    files: Callable[[Path, Path], None] | None = None
    status: str | set[str] = "graded"
    statuses: dict[str, str | set[str]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    limits: dict[str, Any] = field(default_factory=dict)
    runs: bool = True
    at_most: dict[str, int] = field(default_factory=dict)
    after: Callable[[Any], None] | None = None

    def __str__(self) -> str:
        return f"{self.group}/{self.name}"


def load(path: Path) -> Case:
    """Read one case.

    Raises:
        ValueError: if its docstring or one of its names is not as `tests.hostile` says.
    """
    found = runpy.run_path(str(path))
    given = {name: value for name, value in found.items() if name.isupper()}
    known = {item.name.upper() for item in fields(Case)} - {"GROUP", "NAME", "ABOUT"}
    about = found["__doc__"] or ""
    if missing := [word for word in SAID if not any(line.startswith(word) for line in about.splitlines())]:
        raise ValueError(f"{path}: the docstring has no paragraph that begins with {' or '.join(missing)}")
    if "EARNS" not in given or not given.keys() <= known:
        raise ValueError(f"{path}: EARNS is missing, or one of {sorted(given)} is not among {sorted(known)}")
    return Case(path.parent.name, path.stem, about, **{name.lower(): value for name, value in given.items()})


def cases() -> list[Case]:
    """All of them, by group."""
    return [load(path) for group in GROUPS for path in sorted((FOLDER / group).glob("*.py"))]
