"""What the expressions of a cell stand for, as far as that can be told without running it.

An answer is a set of dotted names (``torch.nn.functional.softmax``), texts (`Text`) and `UNKNOWN`. It errs on the side
of too much: a name stands for everything that is ever assigned to it in its scope, in whatever order.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from autograder.scopes import MARK

#: Usual short names, so that a lab may write `F.softmax` and a learner `torch.nn.functional.softmax`.
ALIASES = {"F": "torch.nn.functional", "nn": "torch.nn", "np": "numpy"}
UNKNOWN = "?"
#: Assignments are followed through at most this many names.
PASSES = 6
#: A name stands for at most so many things; texts are put together of parts up to so many and up to that length.
MOST_VALUES = 16
MOST_TEXTS = 64
MOST_CHARACTERS = 2_000
#: Where a lookup by name takes place if not in an object: among modules, in a scope, or later (`attrgetter`).
MODULES, PACKAGES, SCOPE, LATER = "<modules>", "<packages>", "<scope>", "<later>"
_OBJECT_AND_NAME = {"getattr", "inspect.getattr_static", "object.__getattribute__", "type.__getattribute__"}
_IMPORTS = {"importlib.import_module", "__import__"}
_GETTERS = {"operator.attrgetter", "operator.methodcaller"}
_DICT_READERS = {"get", "pop", "setdefault", "__getitem__"}
#: Calls that give back what they are given, or its items.
_TRANSPARENT = {"functools.partial", "list", "tuple", "set", "sorted", "reversed", "iter", "next"}


@dataclass(frozen=True)
class Text:
    """A string that the code spells out."""

    value: str


Value = str | Text


@dataclass(frozen=True)
class Lookup:
    """An expression that finds something by a name in a string: ``getattr(F, "softmax")``, ``vars(F)["softmax"]``."""

    places: frozenset[str]
    names: tuple[ast.expr, ...]


class Meanings:
    """What names stand for, learnt from the assignments and imports of some code.

    Attributes:
        names: what is assigned to each name (or dotted name), imported under it, or passed by default.
        stars: modules of which everything is imported.
        imported: the names that are imported.
    """

    def __init__(self) -> None:
        self.names: dict[str, set[Value]] = {}
        self.stars: set[str] = set()
        self.imported: set[str] = set()
        self._found: dict[ast.AST, set[Value]] = {}

    def outside(self) -> Meanings:
        """A copy without the local variables of functions: what other cells can see."""
        other = Meanings()
        other.names = {name: set(values) for name, values in self.names.items() if MARK not in name}
        other.stars, other.imported = set(self.stars), set(self.imported)
        return other

    def learn(self, trees: list[ast.Module]) -> None:
        """Take in the assignments and imports of cells whose scopes are told apart (`autograder.scopes`)."""
        for _ in range(PASSES):
            before = {name: len(values) for name, values in self.names.items()}
            for tree in trees:
                for node in ast.walk(tree):
                    self._take_in(node)
            self._found.clear()
            if before == {name: len(values) for name, values in self.names.items()}:
                break

    def of(self, node: ast.expr) -> set[Value]:
        """All that an expression may stand for."""
        if node not in self._found:
            self._found[node] = self._of(node)
        return self._found[node]

    def bound(self, name: str) -> set[Value]:
        """What is assigned to a name, or imported under it."""
        if name in self.names:
            return self.names[name]
        return {f"{module}.{name}" for module in self.stars}

    def dotted(self, node: ast.expr) -> set[str]:
        return {value for value in self.of(node) if isinstance(value, str)}

    def texts(self, node: ast.expr) -> tuple[set[str], bool]:
        """The strings that an expression may be, and whether these are all."""
        values = self.of(node)
        texts = {value.value for value in values if isinstance(value, Text)}
        return texts, bool(texts) and UNKNOWN not in values

    def lookup(self, node: ast.AST) -> Lookup | None:
        """How an expression finds something by a name in a string; None if it does no such thing."""
        if isinstance(node, ast.Subscript):
            places = self._dictionaries(node.value)
            return Lookup(places, (node.slice,)) if places else None
        if not isinstance(node, ast.Call) or not node.args:
            return None
        functions, first = self.functions(node), node.args[0]
        if functions & _OBJECT_AND_NAME and len(node.args) > 1:
            return Lookup(frozenset(self.dotted(first)), (node.args[1],))
        if functions & _IMPORTS:
            return Lookup(frozenset({PACKAGES if "__import__" in functions else MODULES}), (first,))
        if functions & _GETTERS:
            several = "operator.attrgetter" in functions
            return Lookup(frozenset({LATER}), tuple(node.args) if several else (first,))
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in ("__getattribute__", "__getattr__") and len(node.args) == 1:
                return Lookup(frozenset(self.dotted(node.func.value)), (first,))
            if node.func.attr in _DICT_READERS and (places := self._dictionaries(node.func.value)):
                return Lookup(places, (first,))
        return None

    def functions(self, call: ast.Call) -> set[str]:
        """The dotted names of what a call may call."""
        return {name.removeprefix("builtins.").removeprefix("__builtins__.") for name in self.dotted(call.func)}

    def gets_later(self, node: ast.AST) -> set[str]:
        """The names by which a call of an `operator.attrgetter` looks something up."""
        names = self.functions(node) if isinstance(node, ast.Call) and node.args else set()
        return {name.removeprefix(f"{LATER}.") for name in names if name.startswith(f"{LATER}.")}

    def _of(self, node: ast.expr) -> set[Value]:
        if lookup := self.lookup(node):
            return self._looked_up(lookup)
        match node:
            case ast.Constant(value=str() as text):
                return {Text(text)}
            case ast.Name(id=name):
                return self.bound(name) | {ALIASES.get(name, name)}
            case ast.Attribute(value=base, attr=name):
                return self._attribute(self.dotted(base), name)
            case ast.Subscript(value=base, slice=place) if not isinstance(place, ast.Slice):
                return self._items(base)
            case ast.IfExp(body=one, orelse=other):
                return self.of(one) | self.of(other)
            case ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return set().union(*map(self.of, parts))
            case ast.Dict(keys=keys, values=values):
                return set().union(*map(self.of, [*filter(None, keys), *values]))
            case ast.NamedExpr(value=inner) | ast.Starred(value=inner):
                return self.of(inner)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                joined = self._joined([left, right])
                return joined | self.of(left) | self.of(right) if UNKNOWN in joined else joined
            case ast.JoinedStr(values=parts):
                return self._joined(parts)
            case ast.FormattedValue(value=inner, conversion=-1, format_spec=None):
                return self.of(inner)
            case ast.Call():
                return self._called(node)
        return {UNKNOWN}

    def _called(self, node: ast.Call) -> set[Value]:
        functions = self.functions(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("items", "keys", "values"):
            return self._items(node.func.value)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "join" and len(node.args) == 1:
            return self._join(node.func.value, node.args[0])
        if functions & {"globals", "locals"} or ("vars" in functions and not node.args):
            return {"__dict__"}
        if not node.args:
            return {f"{name}()" for name in functions if name == "get_ipython"} or {UNKNOWN}
        if "vars" in functions:
            return {f"{base}.__dict__" for base in self.dotted(node.args[0])}
        if functions & _TRANSPARENT:
            return self.of(node.args[0])
        later = self.gets_later(node)
        return set().union(*(self._attribute(self.dotted(node.args[0]), name) for name in later)) or {UNKNOWN}

    def _looked_up(self, lookup: Lookup) -> set[Value]:
        found: set[Value] = set()
        for expression in lookup.names:
            texts, complete = self.texts(expression)
            for place, text in product(lookup.places, texts):
                if place == MODULES:
                    found.add(text)
                elif place == PACKAGES:  # `__import__("a.b")` gives a, and with a third argument b
                    found |= {text, text.partition(".")[0]}
                elif place == SCOPE:
                    found |= self.bound(text) | {ALIASES.get(text, text)}
                elif place == LATER:
                    found.add(f"{LATER}.{text}")
                else:
                    found |= self._attribute({place}, text)
            found |= set() if complete else {UNKNOWN}
        return found

    def _attribute(self, bases: Iterable[str], name: str) -> set[Value]:
        full = {f"{base}.{name}" for base in bases} or {f"{UNKNOWN}.{name}"}
        return full.union(*(self.names.get(dotted, ()) for dotted in full))

    def _dictionaries(self, node: ast.expr) -> frozenset[str]:
        """Whose attributes a dictionary holds: ``vars(F)``, ``F.__dict__``, ``sys.modules``, ``globals()``."""
        places = set()
        for name in self.dotted(node):
            if name == "sys.modules":
                places.add(MODULES)
            elif name == "__dict__":
                places.add(SCOPE)
            elif name.endswith(".__dict__"):
                places.add(name.removesuffix(".__dict__"))
        return frozenset(places)

    def _items(self, node: ast.expr) -> set[Value]:
        """What there may be in a collection; a text is a collection of characters."""
        values = self.of(node)
        short = [value.value for value in values if isinstance(value, Text) and len(value.value) <= MOST_TEXTS]
        return values | {Text(character) for text in short for character in text}

    def _joined(self, parts: list[ast.expr]) -> set[Value]:
        texts: set[str] = {""}
        for part in parts:
            more, complete = self.texts(part)
            if not complete or len(texts) * len(more) > MOST_TEXTS:
                return {UNKNOWN}
            texts = {one + other for one, other in product(texts, more)}
            if max(map(len, texts)) > MOST_CHARACTERS:
                return {UNKNOWN}
        return {Text(text) for text in texts}

    def _join(self, separator: ast.expr, parts: ast.expr) -> set[Value]:
        if not isinstance(parts, ast.Tuple | ast.List) or not parts.elts:
            return {UNKNOWN}
        mixed = [item for part in parts.elts for item in (separator, part)]
        return self._joined(mixed[1:])

    def _take_in(self, node: ast.AST) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
                self._assign(target, value)
            case ast.AugAssign(target=target, op=op, value=value):
                self._put(target, self.of(value) | self._of(ast.BinOp(target, op, value)))
            case ast.For() | ast.AsyncFor() | ast.comprehension():
                self._loop(node.target, node.iter)
            case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
                self._put(target, {UNKNOWN} | self.of(value))
            case ast.arguments():
                self._parameters(node)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self._name(name, {UNKNOWN})
            case ast.Import(names=names):
                for alias in names:
                    top = alias.name.partition(".")[0]
                    self._name(alias.asname or top, {alias.name if alias.asname else top})
                    self.imported.add(alias.asname or top)
            case ast.ImportFrom(module=str() as module, names=names, level=0):
                for alias in names:
                    if alias.name == "*":
                        self.stars.add(module)
                    else:
                        self._name(alias.asname or alias.name, {f"{module}.{alias.name}"})
                        self.imported.add(alias.asname or alias.name)

    def _parameters(self, node: ast.arguments) -> None:
        plain = [*node.posonlyargs, *node.args]
        defaults = [*[None] * (len(plain) - len(node.defaults)), *node.defaults, *node.kw_defaults]
        for parameter, default in zip([*plain, *node.kwonlyargs], defaults, strict=True):
            self._name(parameter.arg, {UNKNOWN} | (self.of(default) if default else set()))

    def _loop(self, target: ast.expr, source: ast.expr) -> None:
        functions = self.functions(source) if isinstance(source, ast.Call) and source.args else set()
        parts = target.elts if isinstance(target, ast.Tuple | ast.List) else []
        if "enumerate" in functions and len(parts) == 2:
            self._put(parts[0], {UNKNOWN})
            self._loop(parts[1], source.args[0])
        elif "zip" in functions and len(parts) == len(source.args):
            for part, collection in zip(parts, source.args, strict=True):
                self._loop(part, collection)
        else:
            self._put(target, self._items(source))

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        both = (target, value)
        if all(isinstance(side, ast.Tuple | ast.List) for side in both) and len(target.elts) == len(value.elts):
            for one, other in zip(target.elts, value.elts, strict=True):
                self._assign(one, other)
        else:
            self._put(target, self.of(value))

    def _put(self, target: ast.expr, values: set[Value]) -> None:
        match target:
            case ast.Name(id=name):
                self._name(name, values)
            case ast.Attribute(value=base, attr=name):
                for dotted in self.dotted(base):
                    self._name(f"{dotted}.{name}", values)
            case ast.Subscript(value=base):
                self._put(base, values)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part in parts:
                    self._put(part, values)
            case ast.Starred(value=inner):
                self._put(inner, values)

    def _name(self, name: str, values: set[Value]) -> None:
        known = self.names.setdefault(name, set())
        known |= values if len(known) <= MOST_VALUES else {UNKNOWN}
