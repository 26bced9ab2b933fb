"""Tell apart names that are spelt alike: the local variables of every function get names of their own."""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass

#: What stands between a local variable's name and the number of its scope; no name in Python holds it.
MARK = "@"
_NUMBERS = itertools.count(1)
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True)
class Scoped:
    """A cell whose local variables are renamed: `x` in a function is `x@7`.

    Attributes:
        tree: the renamed code.
        loaded: names that it takes from the notebook (or from Python itself).
        stored: names that it gives to the notebook.
    """

    tree: ast.Module
    loaded: set[str]
    stored: set[str]


def scoped(tree: ast.Module) -> Scoped:
    """Rename the local variables of a cell, in place."""
    renamer = _Renamer()
    renamer.visit(tree)
    return Scoped(tree, renamer.loaded, renamer.stored)


class _Renamer(ast.NodeTransformer):
    def __init__(self) -> None:
        self.scopes: list[tuple[bool, dict[str, str]]] = []
        self.loaded: set[str] = set()
        self.stored: set[str] = set()

    def visit_Name(self, node: ast.Name) -> ast.Name:
        loads = isinstance(node.ctx, ast.Load)
        node.id = self._load(node.id) if loads else self._store(node.id)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.name = self._store(node.name)
        node.decorator_list = [self.visit(inner) for inner in node.decorator_list]
        node.returns = self.visit(node.returns) if node.returns else None
        self._function(node, node.body)
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self._function(node, [node.body])
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self._store(node.name)
        for outside in (node.bases, node.keywords, node.decorator_list):
            outside[:] = [self.visit(inner) for inner in outside]
        self._open(_bound(node.body), is_class=True)
        node.body = [self.visit(inner) for inner in node.body]
        self.scopes.pop()
        return node

    def visit_ListComp(self, node: ast.AST) -> ast.AST:
        first = node.generators[0]
        first.iter = self.visit(first.iter)
        self._open(_bound([generator.target for generator in node.generators]))
        for generator in node.generators:
            generator.target = self.visit(generator.target)
            if generator is not first:
                generator.iter = self.visit(generator.iter)
            generator.ifs = [self.visit(inner) for inner in generator.ifs]
        for part in ("elt", "key", "value"):
            if hasattr(node, part):
                setattr(node, part, self.visit(getattr(node, part)))
        self.scopes.pop()
        return node

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> ast.AST:
        for alias in node.names:
            name = alias.asname or alias.name
            if name == "*":
                continue
            known = self._store(name.partition(".")[0])
            # `import a.b` gives the name a to what it always stands for.
            if "." not in name and known != name:
                alias.asname = known
        return node

    visit_ImportFrom = visit_Import

    def visit_ExceptHandler(self, node: ast.AST) -> ast.AST:
        if node.name:
            node.name = self._store(node.name)
        return self.generic_visit(node)

    visit_MatchAs = visit_MatchStar = visit_ExceptHandler

    def visit_MatchMapping(self, node: ast.MatchMapping) -> ast.AST:
        if node.rest:
            node.rest = self._store(node.rest)
        return self.generic_visit(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, body: list[ast.AST]) -> None:
        given = node.args
        given.defaults = [self.visit(inner) for inner in given.defaults]
        given.kw_defaults = [inner and self.visit(inner) for inner in given.kw_defaults]
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
        for parameter in every:
            parameter.annotation = self.visit(parameter.annotation) if parameter.annotation else None
        self._open(_bound(body) | {parameter.arg: True for parameter in every})
        for parameter in every:
            parameter.arg = self._find(parameter.arg)
        body = [self.visit(inner) for inner in body]
        node.body = body[0] if isinstance(node, ast.Lambda) else body
        self.scopes.pop()

    def _open(self, bound: dict[str, bool], *, is_class: bool = False) -> None:
        number = next(_NUMBERS)
        names = {name: f"{name}{MARK}{number}" if local else name for name, local in bound.items()}
        self.scopes.append((is_class, names))

    def _find(self, name: str) -> str:
        for depth, (is_class, names) in enumerate(reversed(self.scopes)):
            # What a class binds is seen in its body, not in its methods.
            if name in names and not (is_class and depth):
                return names[name]
        return name

    def _load(self, name: str) -> str:
        found = self._find(name)
        if found == name:
            self.loaded.add(name)
        return found

    def _store(self, name: str) -> str:
        found = self._find(name)
        if found == name:
            self.stored.add(name)
        return found


def _bound(nodes: list[ast.AST]) -> dict[str, bool]:
    """The names that a piece of code binds, and whether they are its own (False for `global`)."""
    bound: set[str] = set()
    shared: set[str] = set()
    borrowed: set[str] = set()
    waiting: list[ast.AST] = list(nodes)
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                bound.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                imported = {alias.asname or alias.name for alias in names}
                bound |= {name for name in imported if "." not in name}
            case (
                ast.ExceptHandler(name=str() as name)
                | ast.MatchAs(name=str() as name)
                | ast.MatchStar(name=str() as name)
            ):
                bound.add(name)
            case ast.MatchMapping(rest=str() as name):
                bound.add(name)
            case ast.Global(names=names):
                shared |= set(names)
            case ast.Nonlocal(names=names):
                borrowed |= set(names)
        if isinstance(node, _FUNCTIONS | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, _COMPREHENSIONS):
            bound |= {inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)}
        elif not isinstance(node, ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return dict.fromkeys(bound - borrowed, True) | dict.fromkeys(shared, False)
