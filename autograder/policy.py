"""Find in a learner's code what an exercise forbids. A find is a flag for a person to look at, never a mark.

Everything here reads; what only shows when the code runs is found by `autograder.watch`.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from autograder.meanings import ALIASES, UNKNOWN, Meanings
from autograder.scopes import Scoped, scoped

#: A longer cell, or one of more parts, is not read. No lab asks for a tenth of it.
MOST_CHARACTERS = 200_000
MOST_NODES = 20_000
#: IPython rewrites one magic after the other, each time from the top: no more of them, and no longer cells with any.
MOST_MAGICS = 20
MOST_REWRITTEN = 20_000
#: Code in strings in strings is followed so far.
DEPTH = 3
_RUNS_CODE = {"eval", "exec", "compile"}
_RUNS_CELLS = {f"get_ipython().{name}" for name in ("run_cell", "run_line_magic", "run_cell_magic", "ex", "ev")}
#: Attributes that change how later cells are read, so that their text says nothing.
_CHANGES_READING = {
    "ast_transformers",
    "input_transformer_manager",
    "input_transformers_cleanup",
    "input_transformers_post",
    "register_cell_magic",
    "register_line_magic",
    "register_magic_function",
}
#: What holds the answers of the labs, or leads to them.
_ANSWERS = re.compile(
    r"(coursekit\.(solved|reference|diagnose)|autograder|coursekit\.(\w+\.)*?(?!__(version|name|doc)__\b)_\w+)(?=\.|$)"
)
_COURSE_FILES = re.compile(r"coursekit[/\\]+solved|source_solutions|COURSE_ROOT|/sandbox/course")
#: With one of these a cell can change what another cell uses without naming it.
_PATCHES = {"setattr", "delattr", "exec", "eval", "globals", "vars", "__import__", "get_ipython", "compile"}
COMPUTED = "looks up a name that is computed; a person should look"
UNREADABLE = "is too long or too deeply nested to be checked for shortcuts; a person should look"


@dataclass
class Reading:
    """What the text of one cell says.

    Attributes:
        used: (line, dotted name) of everything it uses.
        computed: lines that look something up by a name, or run code, that the text does not spell out.
        texts: (line, string) of every string but docstrings.
        carried: (line, lab) of every call of `carry`.
        stored, loaded: names that later cells can see, and names that come from elsewhere.
        patches: whether it may change something that it has not made itself.
        unreadable: it was too long or too deep, and nothing is known of it.
    """

    used: list[tuple[int, str]] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)
    texts: list[tuple[int, str]] = field(default_factory=list)
    carried: list[tuple[int, str]] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)
    patches: bool = False
    unreadable: bool = False


class Notebook:
    """The flags that the text of a notebook calls for.

    Args:
        lab: the lab's id.
        cells: the restored cells (`autograder.restore`).
    """

    def __init__(self, lab: str, cells: list[dict[str, Any]]):
        self.lab = lab
        code = [cell for cell in cells if cell["kind"] in ("given", "exercise", "extra")]
        known = meanings(cell["source"] for cell in code)
        self.answers: dict[str, list[Reading]] = {}
        for cell in code:
            if cell["kind"] == "exercise":
                self.answers.setdefault(cell["exercise"], []).append(read(cell["source"], known))
        self.extras = [read(cell["source"], known) for cell in code if cell["kind"] == "extra"]
        self.asked: dict[str, set[str]] = {}
        for cell in cells:
            if cell["kind"] == "test":
                self.asked.setdefault(cell["exercise"], set()).update(_asked(cell["source"]))

    def flags(self, exercise: str, forbid: list[str]) -> list[str]:
        """The flags of one exercise: its own cell, and those cells of the learner's own that it depends on."""
        answers = self.answers.get(exercise, [])
        found = [f"line {line} {what}" for reading in answers for line, what in internals(reading, self.lab)]
        if forbid:
            found += [flag for reading in answers for flag in _shortcuts(reading, forbid, "")]
            helpers = _helpers(self.extras, answers, self.asked.get(exercise, set()))
            found += [flag for reading in helpers for flag in _shortcuts(reading, forbid, "your own cell, ")]
        return list(dict.fromkeys(found))

    def flags_of_own_cells(self) -> list[str]:
        """Flags that belong to no exercise: what the learner's own cells take of the course's own answers."""
        found = [
            f"your own cell, line {line} {what}"
            for reading in self.extras
            for line, what in internals(reading, self.lab)
        ]
        return list(dict.fromkeys(found))


def forbidden_calls(source: str, forbid: list[str], known: Meanings | None = None) -> list[tuple[int, str]]:
    """Where a cell uses something from ``forbid``.

    Args:
        source: the learner's cell.
        forbid: dotted names (``torch.nn.functional.softmax``, ``F.softmax``; ``nn.*`` for all below), or bare names,
            which mean any attribute or import of that name (``softmax`` finds ``x.softmax(-1)`` but not a plain
            function called softmax).
        known: what names stand for in the cells before (see `meanings`).

    Returns:
        (line, name as forbidden), in order of lines; empty for code that does not parse.
    """
    return _forbidden(read(source, known), forbid)


def computed_lookups(source: str, known: Meanings | None = None) -> list[int]:
    """Lines that look something up by a name, or run code, which the text does not spell out: a call may hide there."""
    return sorted(set(read(source, known).computed))


def internals(reading: Reading, lab: str) -> list[tuple[int, str]]:
    """Where a cell reaches for the course's own answers, which no exercise allows: (line, what it does)."""
    found = [
        (line, f"uses {match[0]}, a part of the course that leads to its own answers")
        for line, used in reading.used
        if (match := _ANSWERS.match(used))
    ]
    found += [
        (line, f'carries from "{named}", which is this lab itself') for line, named in reading.carried if named == lab
    ]
    found += [
        (line, f"names files of the course ({match[0]}), which hold its own answers")
        for line, text in reading.texts
        if (match := _COURSE_FILES.search(text))
    ]
    return sorted(set(found))


def meanings(sources: Iterable[str]) -> Meanings:
    """What names stand for after some cells have run."""
    trees = []
    for source in sources:
        # What is too deep to be read here is too deep for `read`, too, and flagged there.
        with contextlib.suppress(*_NOT_READ):
            if cell := _parse(source):
                Meanings().learn([cell.tree])
                trees.append(cell.tree)
    known = Meanings()
    known.learn(trees)
    return known.outside()


def read(source: str, known: Meanings | None = None) -> Reading:
    """Read one cell; it is never run."""
    try:
        cell = _parse(source)
        return _Reader(cell, known or Meanings()).reading if cell else Reading()
    except _NOT_READ:
        return Reading(unreadable=True)


class _TooMuch(Exception):
    """A cell that is too long to be read."""


_NOT_READ = (_TooMuch, RecursionError, MemoryError)


class _Reader:
    def __init__(self, cell: Scoped, known: Meanings):
        self.known = known.outside()
        self.known.learn([cell.tree])
        self.reading = Reading(stored=cell.stored, loaded=cell.loaded)
        self._look(cell.tree, None, DEPTH)
        for node in ast.walk(cell.tree):
            self._note_patches(node)

    def _look(self, tree: ast.Module, line: int | None, depth: int) -> None:
        """Note what a tree uses; code in strings counts for the line on which it is run."""
        docstrings = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            here = line or getattr(node, "lineno", 0)
            self.reading.used += [(here, name) for name in self._names(node)]
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                self.reading.texts.append((here, node.value))
            if (lookup := self.known.lookup(node)) and not all(self.known.texts(name)[1] for name in lookup.names):
                self.reading.computed.append(here)
            if isinstance(node, ast.Call) and node.args:
                self._call(node, here, depth)

    def _names(self, node: ast.AST) -> Iterator[str]:
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                yield from (value for value in self.known.bound(name) if isinstance(value, str))
            case ast.Attribute() | ast.Subscript() | ast.Call():
                if isinstance(node, ast.Attribute) or self.known.lookup(node) or self.known.gets_later(node):
                    yield from self.known.dotted(node)
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str() as module, names=names):
                yield from (f"{module}.{alias.name}" for alias in names)

    def _call(self, node: ast.Call, line: int, depth: int) -> None:
        functions = self.known.functions(node)
        if functions & {"carry", "coursekit.carry", "coursekit.carry.carry"}:
            texts, complete = self.known.texts(node.args[0])
            self.reading.carried += [(line, text) for text in sorted(texts)]
            self.reading.computed += [] if complete else [line]
        runs_cells = bool(functions & _RUNS_CELLS)
        if not functions & _RUNS_CODE and not runs_cells:
            return
        texts, complete = self.known.texts(node.args[-1] if runs_cells else node.args[0])
        self.reading.computed += [] if complete and depth else [line]
        for text in texts if depth else ():
            if inner := _parse(text):
                self.known.learn([inner.tree])
                self._look(inner.tree, line, depth - 1)

    def _note_patches(self, node: ast.AST) -> None:
        """Note whether a node changes an object that the cell has not made itself."""
        if isinstance(node, ast.Name):
            self.reading.patches |= node.id in _PATCHES
        elif isinstance(node, ast.ImportFrom):
            self.reading.patches |= any(alias.name == "*" for alias in node.names)
        elif isinstance(node, ast.Attribute) and node.attr in ("__dict__", "__setattr__", *_CHANGES_READING):
            self.reading.patches = True
        elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
                root = root.func if isinstance(root, ast.Call) else root.value
            found = self.known.dotted(root) - {UNKNOWN}
            tops = {name.partition(".")[0] for name in found}
            self.reading.patches |= any(top in self.known.imported or top not in self.known.names for top in tops)
            # Another cell's own object: whoever uses that depends on this cell.
            self.reading.stored |= tops


def _parse(source: str) -> Scoped | None:
    """A cell as Python; None for what neither Python nor IPython can read, and which therefore never runs."""
    if len(source) > MOST_CHARACTERS:
        raise _TooMuch
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        try:
            tree = ast.parse(_rewritten(source))
        except (SyntaxError, ValueError):
            return None
    if sum(1 for _ in ast.walk(tree)) > MOST_NODES:
        raise _TooMuch
    return scoped(tree)


def _rewritten(source: str) -> str:
    """A cell as IPython runs it: magics, shell commands and indented cells are Python only then."""
    from IPython.core.inputtransformer2 import TransformerManager

    if len(source) > MOST_REWRITTEN:
        raise _TooMuch
    manager = TransformerManager()
    lines = f"{source}\n".splitlines(keepends=True)
    for transform in (*manager.cleanup_transforms, *manager.line_transforms):
        lines = transform(lines)
    for _ in range(MOST_MAGICS):
        changed, lines = manager.do_one_token_transform(lines)
        if not changed:
            return "".join(lines)
    raise _TooMuch


def _asked(test: str) -> set[str]:
    """What a test takes from the cells before it."""
    cell = _parse(test)
    return cell.loaded - cell.stored if cell else set()


def _helpers(extras: list[Reading], answers: list[Reading], asked: set[str]) -> list[Reading]:
    """The learner's own cells that an exercise depends on: a comparison with PyTorch beside it is no shortcut."""
    wanted = asked.union(*(reading.loaded for reading in answers))
    helpers: list[Reading] = []
    waiting = list(extras)
    while found := [cell for cell in waiting if cell.unreadable or cell.patches or cell.stored & wanted]:
        helpers += found
        waiting = [cell for cell in waiting if cell not in found]
        wanted = wanted.union(*(cell.loaded for cell in found))
    return [cell for cell in extras if cell in helpers]


def _shortcuts(reading: Reading, forbid: list[str], where: str) -> list[str]:
    if reading.unreadable:
        return [f"{where.rstrip(', ') or 'the cell'} {UNREADABLE}"]
    found = [
        (line, f"uses {name}, which this exercise asks you to build") for line, name in _forbidden(reading, forbid)
    ]
    found += [(line, COMPUTED) for line in reading.computed]
    found += [
        (line, f"uses {name}, which changes how cells are read; a person should look")
        for line, used in reading.used
        if (name := used.rpartition(".")[2]) in _CHANGES_READING
    ]
    return [f"{where}line {line} {what}" for line, what in sorted(set(found))]


def _forbidden(reading: Reading, forbid: list[str]) -> list[tuple[int, str]]:
    rules = {name: _resolve(name) for name in forbid}
    found = {(line, name) for line, used in reading.used for name, rule in rules.items() if _matches(used, rule)}
    return sorted(found)


def _resolve(name: str) -> str:
    head, dot, rest = name.partition(".")
    return f"{ALIASES.get(head, head)}{dot}{rest}" if dot else name


def _matches(used: str, rule: str) -> bool:
    used = re.sub(r"^torch\.nn\.modules\.(\w+\.)?(?=[A-Z])", "torch.nn.", used)
    if rule.endswith(".*"):
        return used.startswith(rule[:-1])
    if used.endswith(".*"):  # `from module import *` brings in whatever the rule names there
        return rule.startswith(used[:-1])
    if "." in rule:
        return used == rule or used.startswith(f"{rule}.")
    return "." in used and used.rpartition(".")[2] == rule
