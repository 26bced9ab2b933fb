"""Find what an exercise forbids in a learner's code. A find is a flag for a person to look at, never a mark."""

from __future__ import annotations

import ast

#: Usual short names, so that a lab may write `F.softmax` and a learner `torch.nn.functional.softmax`.
ALIASES = {"F": "torch.nn.functional", "nn": "torch.nn", "np": "numpy"}


def forbidden_calls(source: str, forbid: list[str], aliases: dict[str, str] | None = None) -> list[tuple[int, str]]:
    """Where a cell uses something from ``forbid``.

    Args:
        source: the learner's cell.
        forbid: dotted names (``torch.nn.functional.softmax``, ``F.softmax``; ``nn.*`` for all below), or bare names,
            which mean any attribute or import of that name (``softmax`` finds ``x.softmax(-1)`` but not a plain
            function called softmax).
        aliases: what short names mean in the notebook, beside the usual ones (see `imports`).

    Returns:
        (line, name as forbidden), in order of lines; empty for code that does not parse.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    known = ALIASES | (aliases or {}) | imports(source)
    rules = {name: _resolve(name, ALIASES) for name in forbid}
    found = set()
    for node in ast.walk(tree):
        for dotted in _names_used(node, known):
            found |= {(node.lineno, name) for name, rule in rules.items() if _matches(dotted, rule)}
    return sorted(found)


def imports(source: str) -> dict[str, str]:
    """What the names that a cell imports stand for."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return {}
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _names_used(node: ast.AST, known: dict[str, str]) -> list[str]:
    if isinstance(node, ast.Attribute):
        return [_dotted(node, known)]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in known:
        return [known[node.id]]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [_dotted(node, known)] if _is_getattr(node) else []


def _dotted(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, known)}.{node.attr}"
    if _is_getattr(node):
        return f"{_dotted(node.args[0], known)}.{node.args[1].value}"
    return known.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def _is_getattr(node: ast.AST) -> bool:
    """Whether this is `getattr(x, "name")`, with the name written out."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and len(node.args) >= 2
        and isinstance(node.args[1], ast.Constant)
    )


def _resolve(name: str, aliases: dict[str, str]) -> str:
    head, dot, rest = name.partition(".")
    return f"{aliases.get(head, head)}{dot}{rest}" if dot else name


def _matches(used: str, rule: str) -> bool:
    if rule.endswith(".*"):
        return used.startswith(rule[:-1])
    if used.endswith(".*"):  # `from module import *` brings in whatever the rule names there
        return rule.startswith(used[:-1])
    if "." in rule:
        return used == rule
    return used.rpartition(".")[2] == rule
