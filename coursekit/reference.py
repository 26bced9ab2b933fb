"""The reference of a lab, as `course build` writes it into `coursekit.solved`: given cells, solutions, mistakes.

A solved module is an importable Python file whose cells keep their py:percent headers (`# %% given`,
`# %% exercise="softmax"`, `# %% mistakes="softmax"`), so that one file serves `carry` and `diagnose` alike.
"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

#: An edit of the reference: replace the first text by the second, once (or everywhere).
Edit = tuple[str, str, bool]
_CELL = re.compile(r'^# %% (given|exercise|mistakes)(?:="(\w+)")?$', re.MULTILINE)


@dataclass(frozen=True)
class Reference:
    """One lab's given cells and solutions in order, and its mistakes by exercise."""

    lab: str
    cells: list[tuple[str | None, str]]
    mistakes: dict[str, dict[str, list[Edit]]] = field(default_factory=dict)

    def source(self, exercise: str) -> str:
        """The reference solution cell of one exercise."""
        return next(source for name, source in self.cells if name == exercise)

    def edited(self, exercise: str, edits: list[Edit]) -> str:
        """The solution cell with a mistake put in."""
        return apply_edits(self.source(exercise), edits)

    def names(self, exercise: str) -> list[str]:
        """The names that the exercise defines for its tests: its top-level functions and classes."""
        return defined_names(self.source(exercise))

    def namespace(self, replace: dict[str, str] | None = None) -> dict[str, Any]:
        """Run the given and solution cells in a fresh namespace, with some solution cells replaced."""
        scope: dict[str, Any] = {"__name__": "__main__"}
        for name, source in self.cells:
            text = (replace or {}).get(name, source) if name else source
            exec(compiled(text, f"<{self.lab} {name or 'given'}>"), scope)
        return scope


@lru_cache(maxsize=512)
def compiled(source: str, name: str) -> CodeType:
    """A cell's code. A hundred mistakes are tried with the same tests and the same other cells."""
    return compile(source, name, "exec")


def parse(lab: str, text: str) -> Reference:
    """Split the text of a solved module into its cells."""
    pieces = _CELL.split(text)
    cells: list[tuple[str | None, str]] = []
    mistakes: dict[str, dict[str, list[Edit]]] = {}
    for kind, name, source in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        if kind == "mistakes":
            mistakes[name] = read_mistakes(source)
        else:
            cells.append((name if kind == "exercise" else None, source.strip("\n") + "\n"))
    return Reference(lab, cells, mistakes)


@cache
def load(lab: str) -> Reference:
    """The reference of a lab, by its id.

    Raises:
        LookupError: if `coursekit.solved` has no such lab.
    """
    return parse(lab, solved_path(lab).read_text(encoding="utf-8"))


def solved_path(lab: str) -> Path:
    """The solved module's file for an id such as ``ch01/lab03``; in the course named by COURSE_ROOT, if it is set.

    Raises:
        LookupError: if there is no such lab.
    """
    course = os.environ.get("COURSE_ROOT")
    root = Path(course) / "coursekit" / "solved" if course else Path(__file__).parent / "solved"
    found = locate(root, lab)
    if found is None:
        raise LookupError(
            f"no lab {lab!r} in coursekit.solved; an id looks like 'ch01/lab03', and `course labs` lists them"
        )
    return found


def lab_id(path: Path) -> str:
    """The id of a lab from its file's place: ``ch01/lab03`` for ch01_attention/lab03_multihead.py."""
    chapter = path.parent.name
    return f"{chapter}/{path.stem}" if chapter == "capstone" else f"{chapter[:4]}/{path.stem[:5]}"


def locate(folder: Path, lab: str) -> Path | None:
    """The Python file of a lab's id below a folder of chapters, or None where there is not exactly one."""
    numbered = re.fullmatch(r"(ch\d\d)/(lab\d\d)", lab)
    if numbered:
        pattern = f"{numbered[1]}_*/{numbered[2]}_*.py"
    elif re.fullmatch(r"capstone/[a-z]\w*", lab):
        pattern = f"{lab}.py"
    else:
        return None
    found = list(folder.glob(pattern))
    return found[0] if len(found) == 1 else None


def being_graded() -> bool:
    """Whether a grader runs this process: nbgrader's or the course's own."""
    return bool(os.environ.get("NBGRADER_EXECUTION") or os.environ.get("COURSE_GRADING"))


def read_mistakes(source: str) -> dict[str, list[Edit]]:
    """Read a mistakes table: sentence -> (old, new), (old, new, "all"), or a list of those.

    Raises:
        ValueError: if the table is no such literal.
    """
    try:
        table = ast.literal_eval(source.strip())
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"a mistakes cell holds one literal dict and nothing else: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(sentence, str) for sentence in table):
        raise ValueError("a mistakes cell holds one dict with a sentence for every key")
    result = {}
    for sentence, value in table.items():
        edits = value if isinstance(value, list) else [value]
        for edit in edits:
            good = isinstance(edit, tuple) and len(edit) in (2, 3) and all(isinstance(part, str) for part in edit)
            if not good or (len(edit) == 3 and edit[2] != "all"):
                raise ValueError(f'{sentence!r}: an edit is ("old", "new") or ("old", "new", "all"), got {edit!r}')
        result[sentence] = [(edit[0], edit[1], len(edit) == 3) for edit in edits]
    return result


def apply_edits(source: str, edits: list[Edit]) -> str:
    """Apply the edits of one mistake, in order.

    Raises:
        ValueError: if an old text is not there, or is there more than once without "all".
    """
    for old, new, everywhere in edits:
        count = source.count(old)
        if count == 0 or (count > 1 and not everywhere):
            problem = (
                "matches nothing" if count == 0 else f'matches {count} places (add "all" as a third part, or more text)'
            )
            raise ValueError(f"the edit of {old!r} {problem} in the reference solution")
        source = source.replace(old, new)
    return source


def defined_names(source: str) -> list[str]:
    """Top-level functions and classes that a cell defines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in ast.parse(source).body if isinstance(node, kinds)]
