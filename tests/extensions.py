"""Load an extension of the book as a module, without Sphinx."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from autograder import paths


def load(name: str) -> ModuleType:
    """The module `book/_ext/NAME.py`."""
    spec = importlib.util.spec_from_file_location(name, paths.root() / "book" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
