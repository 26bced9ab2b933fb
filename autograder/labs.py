"""Read a lab's source: py:percent with terse cell tags, one file a lab.

# %% exercise="attention" difficulty=3 minutes=15 forbid=["torch.softmax"]
# %% test="attention" points=3
# %% mistakes="attention"        never released: sentence -> edit of the reference
# %% equivalent="attention"      never released: surviving mutant -> why it is equivalent
# %% alternative="attention"     never released: a correct answer written another way; the gates run it
# %% [markdown] manual="self_review" points=10      an answer in words, marked by a person
# %% given                       locked, without points
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from autograder import lab_check, paths
from autograder.lab_model import Cell, Lab, LabError
from coursekit import reference

KINDS = ("exercise", "test", "mistakes", "equivalent", "alternative", "manual")
OPTIONS = {
    "exercise": {"difficulty", "minutes", "forbid"},
    "test": {"points"},
    "mistakes": set(),
    "equivalent": set(),
    "alternative": set(),
    "manual": {"points"},
    "given": {"tags", "side"},
    "plain": {"tags"},
    "markdown": {"tags"},
}
HEADER = {"title": str, "lab": str, "minutes": int, "difficulty": int, "hardware": str, "needs": list, "builds": list}
OPTION_TYPES = {"difficulty": int, "minutes": int, "points": int, "forbid": list, "tags": list, "side": str}


def catalog(root: Path | None = None) -> list[Lab]:
    """Every lab of the course, in order.

    Raises:
        LabError: for the first malformed source.
    """
    folder = (root or paths.root()) / "source_solutions"
    labs = [parse(path) for path in files(folder, "py")]
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
    found = reference.locate(folder, lab_id)
    if found is None:
        known = ", ".join(reference.lab_id(path) for path in files(folder, "py"))
        raise LookupError(f"there is no lab {lab_id!r}; the labs are {known or '(none yet)'}")
    return found


def files(folder: Path, ending: str) -> list[Path]:
    """The labs' files below a folder of chapters, in the order of the course: the capstone closes chapter 4."""
    found = [*folder.glob(f"ch*/lab*.{ending}"), *folder.glob(f"capstone/[a-z]*.{ending}")]
    return sorted(found, key=lambda path: (path.parent.name.replace("capstone", "ch04~"), path.name))


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
    lab_check.check(lab)
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
    expected = reference.lab_id(path)
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
        if (kind == "manual") != (cell.cell_type == "markdown"):
            why = "Only what a person marks is text: `# %% [markdown] manual=…`; all else is code"
            raise LabError(path, line, f"a {kind} cell of the type {cell.cell_type}", why)
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
