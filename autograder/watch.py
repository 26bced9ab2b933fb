"""Notice at run time when a learner's code calls what an exercise forbids.

For use in the learner's own process: the forbidden functions are replaced, where programs find them, by functions that
look who calls and then do the same. What is noticed is a hint for a person. The learner's code could undo all of it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from autograder.meanings import ALIASES

#: The libraries in whose loaded modules bare names are looked for.
LIBRARIES = ("torch", "numpy", "scipy")
#: Classes whose methods a bare name may mean, beside those of torch.nn.
CLASSES = (torch.Tensor, np.ndarray)
#: Methods of a forbidden class that use it.
CLASS_METHODS = ("__init__", "forward", "__enter__")
#: Printing a tensor counts its elements; that is not the learner's doing.
PRINTERS = ("torch._tensor_str", "numpy._core.arrayprint")
_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    type(np.cumsum),
)
_ABSENT = object()


class _Cells(dict[str, tuple[str, str | None] | None]):
    """File name -> (kind, exercise) of a cell, None for other code. What the course carries counts as given."""

    def __missing__(self, filename: str) -> tuple[str, str | None] | None:
        given = PurePath(filename).parent.parts[-2:-1] == ("solved",) or filename in _printers()
        self[filename] = ("given", None) if given else None
        return self[filename]


class Watch:
    """Forbidden functions under watch. A context manager that ends the watch.

    Attributes:
        unwatched: what could not be put under watch: dotted names of things that cannot be replaced (methods of
            NumPy's arrays, universal functions, the distributions of `scipy.stats`), and names that mean nothing here.
    """

    def __init__(self, forbid: dict[str, list[str]]):
        self.unwatched: list[str] = []
        self._cells = _Cells()
        self._finds: dict[tuple[str | None, int, str], None] = {}
        self._wrappers: dict[int, tuple[Callable, dict[str, str]]] = {}
        self._replaced: list[tuple[Any, str, Any]] = []
        originals: dict[str, list[tuple[Any, Callable]]] = {}
        bare = _homes_of_bare({name for names in forbid.values() for name in names if "." not in name})
        for exercise, names in forbid.items():
            for name in names:
                homes = list(_homes(name)) if "." in name else bare[name]
                if not homes:
                    self.unwatched.append(name)
                for owner, attribute in homes:
                    if pair := self._watch(owner, attribute, exercise, name):
                        originals.setdefault(attribute, []).append(pair)
        self._replace_elsewhere(originals)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Put everything back."""
        while self._replaced:
            owner, attribute, before = self._replaced.pop()
            if before is _ABSENT:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, before)

    def cell(self, filename: str, kind: str, exercise: str | None = None) -> None:
        """Say which cell a code's file name belongs to.

        Args:
            filename: the ``co_filename`` of the cell's code.
            kind: exercise, given, or anything else for a cell of the learner's own.
            exercise: which one, for an exercise's cell.
        """
        self._cells[filename] = (kind, exercise)

    def finds(self) -> list[list[Any]]:
        """What was noticed, each once: [exercise, or None for a cell of the learner's own; line; name as forbidden]."""
        return [list(find) for find in self._finds]

    def _watch(self, owner: Any, attribute: str, exercise: str, name: str) -> tuple[Any, Callable] | None:
        """Put one attribute of a module or a class under watch, for one exercise.

        Returns:
            A function of a module and what it was replaced by, for other modules that hold it, too.
        """
        value = inspect.getattr_static(owner, attribute)
        if id(value) in self._wrappers:
            self._wrappers[id(value)][1].setdefault(exercise, name)
        elif isinstance(value, type):
            for method in CLASS_METHODS:
                if isinstance(inspect.getattr_static(value, method, None), types.FunctionType):
                    self._watch(value, method, exercise, name)
                elif method == "__init__":
                    self._give_up(value, method)
        elif not isinstance(value, _FUNCTIONS):
            self._give_up(owner, attribute)
        else:
            rules = {exercise: name}
            wrapper = _wrapper(value, self._noter(rules))
            if self._replace(owner, attribute, wrapper):
                self._wrappers[id(wrapper)] = (wrapper, rules)
                _known_to_script(value, wrapper)
                return (value, wrapper) if isinstance(owner, types.ModuleType) else None
        return None

    def _replace(self, owner: Any, attribute: str, wrapper: Any) -> bool:
        # What a class inherits is replaced in that class alone.
        before = vars(owner).get(attribute, _ABSENT)
        try:
            setattr(owner, attribute, wrapper)
        except (TypeError, AttributeError):
            self._give_up(owner, attribute)
            return False
        self._replaced.append((owner, attribute, before))
        return True

    def _replace_elsewhere(self, originals: dict[str, list[tuple[Any, Callable]]]) -> None:
        """`torch.nn.functional.gelu` is `torch._C._nn.gelu`, too: the same function under the same name."""
        for module in _modules(LIBRARIES):
            scope = vars(module)
            for attribute in originals.keys() & scope.keys():
                for value, wrapper in originals[attribute]:
                    if scope[attribute] is value:
                        self._replace(module, attribute, wrapper)

    def _give_up(self, owner: Any, attribute: str) -> None:
        module = "" if isinstance(owner, types.ModuleType) else f"{owner.__module__}."
        place = f"{module}{owner.__name__}.{attribute}"
        if place not in self.unwatched:
            self.unwatched.append(place)

    def _noter(self, rules: dict[str, str]) -> Callable[[], None]:
        """What to do when something is called that ``rules`` (exercise -> name as forbidden) is about."""
        cells = self._cells

        def note() -> None:
            frame = sys._getframe(2)
            while frame is not None:
                if cells[frame.f_code.co_filename]:
                    self._note(frame, rules)
                    return
                frame = frame.f_back

        return note

    def _note(self, frame: types.FrameType, rules: dict[str, str]) -> None:
        kind, exercise = self._cells[frame.f_code.co_filename]
        if kind == "exercise":
            if exercise in rules:
                self._finds[exercise, frame.f_lineno, rules[exercise]] = None
        elif kind != "given" and (name := self._on_whose_behalf(frame, rules)):
            self._finds[None, frame.f_lineno, name] = None

    def _on_whose_behalf(self, frame: types.FrameType, rules: dict[str, str]) -> str | None:
        """What a cell of the learner's own may not use here; nothing while it is merely run.

        A comparison with PyTorch in such a cell is good practice. A function there that an exercise calls, or that a
        test calls in place of an exercise, answers the exercise.
        """
        outermost = frame
        caller: types.FrameType | None = frame
        while caller is not None:
            kind, exercise = self._cells[caller.f_code.co_filename] or ("", None)
            if kind == "exercise":
                return rules.get(exercise)
            outermost = caller if kind else outermost
            caller = caller.f_back
        return None if outermost.f_code.co_name == "<module>" else next(iter(rules.values()))


def install(forbid: dict[str, list[str]], cells: dict[str, tuple[str, str | None]] | None = None) -> Watch:
    """Put what the exercises forbid under watch in this process.

    Args:
        forbid: exercise -> dotted names (``torch.nn.functional.softmax``, ``F.softmax``, ``scipy.stats`` for all that
            is in a module, ``nn.*`` for all below) or bare ones, which mean every function, method or class of that
            name in the loaded modules of PyTorch, NumPy and SciPy.
        cells: file name -> (kind, exercise) of cells that are known already (see `Watch.cell`).
    """
    watch = Watch(forbid)
    for filename, (kind, exercise) in (cells or {}).items():
        watch.cell(filename, kind, exercise)
    return watch


def _homes(name: str) -> Iterator[tuple[Any, str]]:
    """Where a thing with a dotted name lives: a module or class, and the attribute there."""
    head, _, rest = name.partition(".")
    owner, attribute = _find(f"{ALIASES.get(head, head)}.{rest.removesuffix('.*').removesuffix('*')}".rstrip("."))
    target = getattr(owner, attribute, None) if attribute else owner
    if isinstance(target, types.ModuleType):
        for module in _modules((target.__name__,)) if name.endswith(".*") else [target]:
            yield from _public(module, target.__name__)
    elif target is not None:
        yield owner, attribute


def _public(module: types.ModuleType, package: str) -> Iterator[tuple[Any, str]]:
    """What a module offers and has not from elsewhere."""
    for key, value in list(vars(module).items()):
        own = str(getattr(value, "__module__", None)).startswith(package)
        if callable(value) and own and not key.startswith("_"):
            yield module, key


def _homes_of_bare(names: set[str]) -> dict[str, list[tuple[Any, str]]]:
    """Where things with bare names live: public modules, and classes that are at hand."""
    homes: dict[str, list[tuple[Any, str]]] = {name: [] for name in names}
    for module in _modules(LIBRARIES):
        scope = vars(module)
        for name in names & scope.keys():
            if callable(scope[name]) and "._" not in module.__name__:
                homes[name].append((module, name))
    layers = [cls for cls in vars(torch.nn).values() if isinstance(cls, type)]
    for name, found in homes.items():
        found += [(cls, name) for cls in CLASSES if callable(getattr(cls, name, None))]
        found += [(cls, name) for cls in layers if callable(vars(cls).get(name))]
    return homes


def _find(dotted: str) -> tuple[Any, str]:
    """The object that holds what a dotted name means, and the last part of the name; modules are imported."""
    top, *parts = dotted.split(".")
    owner: Any = None
    try:
        found: Any = importlib.import_module(top)
        path = top
        for part in parts:
            owner, path = found, f"{path}.{part}"
            if not hasattr(found, part) and isinstance(found, types.ModuleType):
                importlib.import_module(path)
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None, ""
    return (owner, parts[-1]) if parts else (found, "")


def _modules(below: tuple[str, ...]) -> Iterator[types.ModuleType]:
    starts = tuple(f"{name}." for name in below)
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and (name in below or name.startswith(starts)):
            yield module


def _wrapper(original: Callable, note: Callable[[], None]) -> Callable:
    """A function that does what the original does, after a note."""

    def call(*args: Any, **kwargs: Any) -> Any:
        note()
        return original(*args, **kwargs)

    # `torch.jit.script` reads the source of the original, and looks up the names in it in the globals of the wrapper.
    scope = getattr(original, "__globals__", call.__globals__)
    wrapper = types.FunctionType(call.__code__, scope, closure=call.__closure__)
    wrapper.__module__ = None  # as for methods written in C, which `update_wrapper` finds no module of
    return functools.update_wrapper(wrapper, original)


def _printers() -> set[str | None]:
    return {getattr(sys.modules.get(name), "__file__", None) for name in PRINTERS}


def _known_to_script(original: Callable, wrapper: Callable) -> None:
    """`torch.jit.script` knows PyTorch's own functions by identity."""
    table = torch.jit._builtins._builtin_table or {}
    if id(original) in table:
        table[id(wrapper)] = table[id(original)]
    if original in torch._jit_internal.boolean_dispatched:
        torch._jit_internal.boolean_dispatched[wrapper] = torch._jit_internal.boolean_dispatched[original]
