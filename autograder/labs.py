"""Read a lab's source: py:percent with terse cell tags, one file a lab.

# %% exercise="attention" difficulty=3 minutes=15 forbid=["torch.softmax"]
# %% test="attention" points=3
# %% mistakes="attention"        never released: sentence -> edit of the reference
# %% equivalent="attention"      never released: surviving mutant -> why it is equivalent
# %% alternative="attention"     never released: a correct answer written another way; the gates run it
# %% given                       locked, without points
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autograder import paths
from coursekit import reference

KINDS = ("exercise", "test", "mistakes", "equivalent", "alternative")
OPTIONS = {
    "exercise": {"difficulty", "minutes", "forbid"},
    "test": {"points"},
    "mistakes": set(),
    "equivalent": set(),
    "alternative": set(),
    "given": {"tags", "side"},
    "plain": {"tags"},
    "markdown": {"tags"},
}
HEADER = {"title": str, "lab": str, "minutes": int, "difficulty": int, "hardware": str, "needs": list, "builds": list}
OPTION_TYPES = {"difficulty": int, "minutes": int, "points": int, "forbid": list, "tags": list, "side": str}
#: What nbgrader takes out between `### BEGIN …` and `### END …`, and the cells where that may stand.
REGIONS = {"SOLUTION": ("exercise", "alternative"), "HIDDEN TESTS": ("test",)}
CHECK_IMPORT = "from coursekit import check"


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
        """All points of the lab."""
        return sum(cell.options["points"] for cell in self.cells if cell.kind == "test")

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


def catalog(root: Path | None = None) -> list[Lab]:
    """Every lab of the course, in order.

    Raises:
        LabError: for the first malformed source.
    """
    folder = (root or paths.root()) / "source_solutions"
    labs = [parse(path) for path in sorted(folder.glob("ch*/lab*.py"))]
    known: dict[str, Lab] = {}
    for lab in labs:
        if lab.id in known:
            raise LabError(lab.path, 1, f"lab {lab.id!r} stands twice", f"The other is {known[lab.id].path}")
        known[lab.id] = lab
    for lab in labs:
        for need in lab.needs:
            if need not in known:
                raise LabError(
                    lab.path, 1, f"needs {need!r}, which is no lab", f"The labs are {', '.join(sorted(known))}"
                )
    return labs


def find(lab_id: str, root: Path | None = None) -> Lab:
    """One lab by its id.

    Raises:
        LookupError: with the ids that there are.
        LabError: if its source is malformed.
    """
    path = source_path(lab_id, root)
    return parse(path)


def source_path(lab_id: str, root: Path | None = None) -> Path:
    """The source file of a lab's id, without reading it.

    Raises:
        LookupError: with the ids that there are.
    """
    folder = (root or paths.root()) / "source_solutions"
    match = re.fullmatch(r"(ch\d\d)/(lab\d\d)", lab_id)
    found = sorted(folder.glob(f"{match[1]}_*/{match[2]}_*.py")) if match else []
    if len(found) != 1:
        known = ", ".join(f"{path.parent.name[:4]}/{path.name[:5]}" for path in sorted(folder.glob("ch*/lab*.py")))
        raise LookupError(f"there is no lab {lab_id!r}; the labs are {known or '(none yet)'}")
    return found[0]


def parse(path: Path) -> Lab:
    """Read and check one lab source.

    Raises:
        LabError: with file, line, what and why.
    """
    import jupytext

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise LabError(path, line, "the file is not UTF-8", str(error)) from None
    lines = [number for number, line in enumerate(text.splitlines(), 1) if re.match(r"# %%(\s|$)", line)]
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"(?!# %%)#\s*%%|# %%(given|\[|({'|'.join(KINDS)})=)", line):
            why = "Write `# %%` and a space; else the cell is swallowed by the one above it"
            raise LabError(path, number, f"{line.strip()!r} is no cell header", why)
    cells = jupytext.reads(text, fmt="py:percent").cells
    if not cells or cells[0].cell_type != "raw":
        raise LabError(path, 1, "the YAML header is missing", "It starts with `# ---` and names title, lab, minutes, …")
    header = _header(path, cells[0].source)
    cells = cells[1:]
    if len(lines) != len(cells):
        raise LabError(
            path, 1, f"{len(lines)} cell headers but {len(cells)} cells", "Does text stand before the first `# %%`?"
        )
    lab = Lab(path, **header, cells=[_cell(path, line, cell) for line, cell in zip(lines, cells, strict=True)])
    _check(lab)
    return lab


def _header(path: Path, source: str) -> dict[str, Any]:
    try:
        header = yaml.safe_load(source.strip().strip("-"))
    except yaml.YAMLError as error:
        raise LabError(path, 1, "the header is no YAML", str(error)) from None
    if not isinstance(header, dict) or set(header) != set(HEADER):
        odd = sorted(map(str, set(HEADER) ^ set(header))) if isinstance(header, dict) else sorted(HEADER)
        raise LabError(
            path, 1, f"the header has the wrong keys: {', '.join(odd)}", f"It holds exactly {', '.join(sorted(HEADER))}"
        )
    for key, kind in HEADER.items():
        if not _is_a(header[key], kind):
            raise LabError(path, 1, f"the header's {key} is {header[key]!r}", f"It is {_IN_WORDS[kind]}")
    expected = f"{path.parent.name[:4]}/{path.stem[:5]}"
    if header["lab"] != expected:
        raise LabError(path, 1, f"the header says lab {header['lab']!r}", f"The file's place makes it {expected!r}")
    if header["hardware"] not in ("cpu", "gpu"):
        raise LabError(
            path, 1, f"hardware is {header['hardware']!r}", "It is 'cpu' or 'gpu'; launch buttons depend on it"
        )
    header["id"] = header.pop("lab")
    return header


def _cell(path: Path, line: int, cell: Any) -> Cell:
    options = dict(cell.metadata)
    options.pop("lines_to_next_cell", None)
    title = options.pop("title", None)
    if unreadable := options.get("incorrectly_encoded_metadata"):
        why = 'A tag is name="text", name=3 or name=["a", "b"]'
        raise LabError(path, line, f"the tags {unreadable!r} cannot be read", why)
    kind, name = ("markdown" if cell.cell_type == "markdown" else "plain"), None
    tags = [key for key in KINDS if key in options]
    if len(tags) > 1:
        raise LabError(path, line, f"a cell is both {tags[0]} and {tags[1]}", "Give each cell one tag")
    if tags:
        kind, name = tags[0], options.pop(tags[0])
        if not isinstance(name, str) or not name.isidentifier():
            raise LabError(
                path, line, f"{kind}={name!r} is no name", "Write the exercise's name as an identifier in quotes"
            )
    elif title == "given":
        kind = "given"
    elif title:
        raise LabError(path, line, f"unknown tag {title!r}", f"The tags are given, {', '.join(KINDS)} and [markdown]")
    if cell.cell_type == "raw":
        raise LabError(path, line, "unknown tag '[raw]'", "nbgrader grades code, and readers read markdown")
    unknown = set(options) - OPTIONS[kind]
    if unknown:
        strange = unknown - set(OPTION_TYPES) or unknown
        why = f"A cell that is {kind} may have {', '.join(sorted(OPTIONS[kind])) or 'no other tags'}"
        if kind == "plain":
            why += f"; other kinds are given, {', '.join(KINDS)} and [markdown]"
        raise LabError(path, line, f"unknown tag {', '.join(sorted(strange))}", why)
    for key, value in options.items():
        if not _is_a(value, OPTION_TYPES[key]):
            raise LabError(path, line, f"{key} is {value!r}", f"It is {_IN_WORDS[OPTION_TYPES[key]]}")
    if options.get("side", "learner") != "learner":
        why = 'Given cells run on both sides; side="learner" keeps one, and what it defines, in the learner\'s process'
        raise LabError(path, line, f"side is {options['side']!r}", why)
    return Cell(kind, cell.source, line, name, options)


_IN_WORDS = {str: "a text", int: "a whole number from 1", list: "a list of texts"}


def _is_a(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and value >= 1
    return isinstance(value, kind) and (kind is str or all(isinstance(item, str) for item in value))


def _check(lab: Lab) -> None:
    seen: dict[str, Cell] = {}
    for cell in lab.cells:
        if cell.kind in ("mistakes", "equivalent"):
            _check_table(lab, cell, seen)
            continue
        if cell.kind == "alternative" and cell.name not in seen:
            what = f"alternative of {cell.name!r}, which is no exercise above it"
            raise LabError(lab.path, cell.line, what, "Is the name misspelt?")
        _check_regions(lab, cell)
        if cell.kind == "markdown":
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


def solution_source(source: str) -> str:
    """An exercise cell as the reference runs it: without the lines that mark the solution."""
    return re.sub(r"^[ \t]*### (?:BEGIN|END) SOLUTION[ \t]*\n?", "", source, flags=re.M).rstrip("\n") + "\n"
