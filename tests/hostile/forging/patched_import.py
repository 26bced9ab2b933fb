"""Replaces the import statement itself, and forgets the true modules.

Tries: a builtins.__import__ and an entry of sys.modules that give the tests a `check` module without checks.
A correct grader: imports in a process of its own.
"""

from tests.hostile import kit

EXTRA = """
import builtins
import sys
import types

import coursekit

empty = types.ModuleType("coursekit.check")
for name in ("close", "equal", "that", "raises", "gradients", "exercise"):
    setattr(empty, name, lambda *_, **__: None)
empty.seed = lambda n: n
honest_import = builtins.__import__


def lying_import(name, *rest, **names):
    module = honest_import(name, *rest, **names)
    if name.startswith("coursekit"):
        coursekit.check = empty
    return module


builtins.__import__ = lying_import
sys.modules["coursekit.check"] = coursekit.check = empty
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
