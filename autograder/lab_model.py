"""What a lab is: its cells, its tables, and what is said of a source that is malformed."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coursekit import reference

#: Kinds of cells that are no code.
TEXT = ("markdown", "manual")
#: Kinds of cells that learners fill in.
ANSWERS = ("exercise", "manual")


class LabError(Exception):
    """A malformed lab source: file, line, what is wrong and why it matters."""

    def __init__(self, path: Path, line: int, what: str, why: str):
        self.path, self.line, self.what, self.why = path, line, what, why
        super().__init__(f"{path}:{line}: {what}. {why}")


@dataclass(frozen=True)
class Cell:
    """One cell of a lab source. ``line`` is where its header stands, counted from 1."""

    kind: str
    source: str
    line: int
    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lab:
    """One lab: what its header says, and its cells in order."""

    path: Path
    id: str
    title: str
    minutes: int
    difficulty: int
    hardware: str
    needs: list[str]
    builds: list[str]
    cells: list[Cell]

    @property
    def chapter(self) -> str:
        """The chapter's folder, ``ch01_attention``."""
        return self.path.parent.name

    @property
    def stem(self) -> str:
        """The file's name without its ending, ``lab03_multihead``."""
        return self.path.stem

    @property
    def exercises(self) -> list[Cell]:
        """The exercise cells, in order."""
        return [cell for cell in self.cells if cell.kind == "exercise"]

    @property
    def points(self) -> int:
        """The points that tests give."""
        return sum(cell.options["points"] for cell in self.cells if cell.kind == "test")

    @property
    def by_hand(self) -> int:
        """The points that a person gives, in manual cells."""
        return sum(cell.options["points"] for cell in self.cells if cell.kind == "manual")

    def tests(self, exercise: str) -> list[Cell]:
        """The test cells of one exercise, in order."""
        return [cell for cell in self.cells if cell.kind == "test" and cell.name == exercise]

    def mistakes(self, exercise: str) -> dict[str, list[reference.Edit]]:
        """The mistakes table of one exercise."""
        return next((reference.read_mistakes(c.source) for c in self._tagged("mistakes", exercise)), {})

    def equivalents(self, exercise: str) -> dict[str, str]:
        """Mutants of one exercise that no test can reject, with the reason."""
        return next((ast.literal_eval(c.source) for c in self._tagged("equivalent", exercise)), {})

    def alternatives(self, exercise: str) -> list[str]:
        """Correct answers written another way, as whole solution cells."""
        return [cell.source for cell in self._tagged("alternative", exercise)]

    def _tagged(self, kind: str, exercise: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == kind and cell.name == exercise]


def solution_source(source: str) -> str:
    """An exercise cell as the reference runs it: without the lines that mark the solution."""
    return re.sub(r"^[ \t]*### (?:BEGIN|END) SOLUTION[ \t]*\n?", "", source, flags=re.M).rstrip("\n") + "\n"
