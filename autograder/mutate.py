"""Automatic mutants of a solution: the small changes that a good set of tests must notice.

Operators, comparisons, constants (axes among them), dropped statements, negated conditions, swapped arguments. Texts
that no test should depend on are left alone: docstrings, annotations, decorators and the messages of exceptions.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator

_BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
#: Calls whose first two arguments may change places without changing anything.
_SYMMETRIC = {
    "transpose",
    "swapaxes",
    "isclose",
    "allclose",
    "maximum",
    "minimum",
    "max",
    "min",
    "add",
    "equal",
    "zip",
    "isinstance",
}
_DROPPED = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Raise, ast.Return)


def mutants(source: str) -> list[tuple[str, str]]:
    """Every mutant of a cell, as (description, source); descriptions are unique and stable under reformatting."""
    tree = ast.parse(source)
    result, seen = [], {}
    for number, (description, _) in enumerate(_changes(tree)):
        before, _, after = description.partition(" -> ")
        if before == after:
            continue
        mutated = copy.deepcopy(tree)
        for index, (_, change) in enumerate(_changes(mutated)):
            if index == number:
                change()
                break
        seen[description] = seen.get(description, 0) + 1
        suffix = f" #{seen[description]}" if seen[description] > 1 else ""
        result.append((description + suffix, ast.unparse(ast.fix_missing_locations(mutated))))
    return result


def _changes(tree: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    for parent, attribute, position, node in _walk(tree):
        if isinstance(node, ast.Constant):
            yield from _constant(node, parent)
        else:
            yield from _of_node(node)
        if isinstance(node, _DROPPED) and position is not None and not _is_docstring(node):
            body = getattr(parent, attribute)
            yield f"drop: {_short(node)}", lambda body=body, position=position: body.__setitem__(position, ast.Pass())


def _of_node(node: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    if isinstance(node, ast.BinOp):
        if type(node.op) in _BINARY:
            yield _replace(node, "op", _BINARY[type(node.op)]())
        if isinstance(node.op, ast.MatMult):
            yield _swap(node, "left", "right")
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARE:
        yield _replace(node, "ops", [_COMPARE[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.BoolOp):
        yield _replace(node, "op", ast.And() if isinstance(node.op, ast.Or) else ast.Or())
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        description = f"if {_short(node.test)} -> if not"
        yield description, lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Call) and len(node.args) >= 2 and _name(node.func) not in _SYMMETRIC:
        swapped = [node.args[1], node.args[0], *node.args[2:]]
        if not any(isinstance(argument, ast.Starred) for argument in node.args[:2]):
            yield _replace(node, "args", swapped)


def _constant(node: ast.Constant, parent: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    """A changed number is told by the expression around it: `x[0] -> x[1]` says more than `0 -> 1`."""
    around = parent if isinstance(parent, ast.expr) else node
    if isinstance(node.value, bool):
        yield _replace(node, "value", not node.value, around)
    elif isinstance(node.value, int | float):
        yield _replace(node, "value", node.value + 1, around)


def _replace(
    node: ast.AST, attribute: str, value: object, around: ast.AST | None = None
) -> tuple[str, Callable[[], None]]:
    before = _short(around or node)
    old = getattr(node, attribute)
    setattr(node, attribute, value)
    after = _short(around or node)
    setattr(node, attribute, old)
    return f"{before} -> {after}", lambda: setattr(node, attribute, value)


def _swap(node: ast.AST, one: str, other: str) -> tuple[str, Callable[[], None]]:
    def change() -> None:
        first, second = getattr(node, one), getattr(node, other)
        setattr(node, one, second)
        setattr(node, other, first)

    before = _short(node)
    change()
    after = _short(node)
    change()
    return f"{before} -> {after}", change


def _walk(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Nodes in the order of the text, with where each hangs; what no test should depend on is passed over."""
    for attribute, value in ast.iter_fields(node):
        if attribute in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        children = value if isinstance(value, list) else [value]
        for position, child in enumerate(children):
            if not isinstance(child, ast.AST) or isinstance(child, (ast.JoinedStr, ast.Import, ast.ImportFrom)):
                continue
            yield node, attribute, position if isinstance(value, list) else None, child
            if not isinstance(child, ast.Raise) and not _is_docstring(child):
                yield from _walk(child)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text
