"""What has to hold of a lab source beyond its tags, found before anything is built from it."""

from __future__ import annotations

import ast
import re

from autograder.lab_model import TEXT, Cell, Lab, LabError, solution_source
from coursekit import reference

#: What nbgrader takes out between `### BEGIN …` and `### END …`, and the cells where that may stand.
REGIONS = {"SOLUTION": ("exercise", "alternative", "manual"), "HIDDEN TESTS": ("test",)}
CHECK_IMPORT = "from coursekit import check"


def check(lab: Lab) -> None:
    """Check a lab's cells against each other.

    Raises:
        LabError: for the first thing that is wrong.
    """
    seen: dict[str, Cell] = {}
    for cell in lab.cells:
        if cell.kind in ("mistakes", "equivalent"):
            _check_table(lab, cell, seen)
            continue
        if cell.kind == "alternative" and cell.name not in seen:
            what = f"alternative of {cell.name!r}, which is no exercise above it"
            raise LabError(lab.path, cell.line, what, "Is the name misspelt?")
        _check_regions(lab, cell)
        if cell.kind == "manual":
            _check_manual(lab, cell)
        if cell.kind in TEXT:
            continue
        try:
            tree = ast.parse(cell.source)
        except SyntaxError as error:
            if cell.kind == "plain":
                continue
            line = cell.line + (error.lineno or 1)
            raise LabError(
                lab.path, line, f"the cell is no Python: {error.msg}", "A lab must run as it stands"
            ) from None
        if cell.kind == "exercise":
            _check_exercise(lab, cell, seen, tree)
        elif cell.kind == "test":
            _check_test(lab, cell, seen)
    for name, cell in seen.items():
        if not lab.tests(name):
            raise LabError(
                lab.path, cell.line, f"exercise {name!r} has no tests", f'Add a cell `# %% test="{name}" points=…`'
            )
        if not lab.mistakes(name):
            raise LabError(
                lab.path, cell.line, f"exercise {name!r} has no mistakes table", f'Add a cell `# %% mistakes="{name}"`'
            )
    missing = set(lab.builds) - {built for cell in lab.exercises for built in reference.defined_names(cell.source)}
    if missing:
        raise LabError(lab.path, 1, f"builds names {', '.join(sorted(missing))}", "No exercise defines that")


def _check_exercise(lab: Lab, cell: Cell, seen: dict[str, Cell], tree: ast.Module) -> None:
    if cell.name in seen:
        raise LabError(
            lab.path, cell.line, f"exercise {cell.name!r} stands twice", f"First at line {seen[cell.name].line}"
        )
    seen[cell.name] = cell
    if "### BEGIN SOLUTION" not in cell.source:
        raise LabError(
            lab.path,
            cell.line,
            f"exercise {cell.name!r} has no `### BEGIN SOLUTION` and `### END SOLUTION`",
            "What stands between them is replaced by a stub; without them the answer would be released",
        )


def _check_test(lab: Lab, cell: Cell, seen: dict[str, Cell]) -> None:
    points = cell.options.get("points")
    if cell.name not in seen:
        raise LabError(
            lab.path, cell.line, f"test of {cell.name!r}, which is no exercise above it", "Is the name misspelt?"
        )
    if points is None:
        raise LabError(
            lab.path, cell.line, f"the test of {cell.name!r} has no points", "Write points=3: nbgrader needs them"
        )
    if not cell.source.startswith(f"{CHECK_IMPORT}\n"):
        raise LabError(
            lab.path,
            cell.line,
            f"the test of {cell.name!r} does not begin with `{CHECK_IMPORT}`",
            "The build announces the exercise there, so that a failure can name the mistake",
        )


def _check_manual(lab: Lab, cell: Cell) -> None:
    if "points" not in cell.options:
        raise LabError(
            lab.path, cell.line, f"the manual cell {cell.name!r} has no points", "Write points=10: nbgrader needs them"
        )
    if "### BEGIN SOLUTION" not in cell.source:
        why = "What stands between `### BEGIN SOLUTION` and `### END SOLUTION` is yours; learners write there"
        raise LabError(lab.path, cell.line, f"the manual cell {cell.name!r} has no solution", why)
    if any(other.name == cell.name for other in lab.cells if other is not cell):
        raise LabError(lab.path, cell.line, f"the name {cell.name!r} stands twice", "nbgrader wants each name once")


def _check_regions(lab: Lab, cell: Cell) -> None:
    """Every BEGIN has its END, spelt as nbgrader wants it: what it does not recognise, it releases."""
    for region, kinds in REGIONS.items():
        opened = None
        for number, line in enumerate(cell.source.split("\n"), cell.line + 1):
            found = re.match(rf"\s*#+\s*(BEGIN|END)\s+{region.removesuffix('S')}S?\b", line, re.IGNORECASE)
            if not found:
                continue
            word = found[1].upper()
            if line.strip() != f"### {word} {region}":
                problem, why = f"{line.strip()!r} is misspelt", f"Write `### {word} {region}`, or it is released"
            elif cell.kind not in kinds:
                problem, why = f"`{line.strip()}` in a {cell.kind} cell", f"It belongs into: {', '.join(kinds)}"
            elif (word == "BEGIN") == (opened is not None):
                problem, why = f"`{line.strip()}` does not match the one before", "Regions open and close in turn"
            else:
                opened = number if word == "BEGIN" else None
                continue
            raise LabError(lab.path, number, problem, why)
        if opened:
            raise LabError(lab.path, opened, f"`### BEGIN {region}` has no END", "nbgrader cannot tell where it ends")


def _check_table(lab: Lab, cell: Cell, seen: dict[str, Cell]) -> None:
    if cell.name not in seen:
        raise LabError(
            lab.path, cell.line, f"{cell.kind} of {cell.name!r}, which is no exercise above it", "Is it misspelt?"
        )
    first = next(other for other in lab.cells if (other.kind, other.name) == (cell.kind, cell.name))
    if first is not cell:
        why = f"First at line {first.line}; only that one would count"
        raise LabError(lab.path, cell.line, f"the {cell.kind} table of {cell.name!r} stands twice", why)
    try:
        if cell.kind == "equivalent":
            table = ast.literal_eval(cell.source)
            if not isinstance(table, dict) or not all(isinstance(x, str) for pair in table.items() for x in pair):
                raise ValueError("it holds one dict: mutant -> why it is equivalent")
            return
        for sentence, edits in reference.read_mistakes(cell.source).items():
            try:
                reference.apply_edits(solution_source(seen[cell.name].source), edits)
            except ValueError as error:
                raise ValueError(f"mistake {sentence!r}: {error}") from None
    except (ValueError, SyntaxError) as error:
        raise LabError(lab.path, cell.line, f"bad {cell.kind} table of {cell.name!r}", str(error)) from None
