"""Finds the grader's objects through the garbage collector.

Tries: every module, class and function in the process that has to do with checking, patched through gc and ctypes.
A correct grader: shares no object with the learner's code that a mark depends on.
"""

from tests.hostile import kit

EXTRA = """
import gc
import types


def nothing(*_, **__):
    return None


for thing in gc.get_objects():
    if isinstance(thing, types.FunctionType) and (thing.__module__ or "").startswith(("coursekit", "autograder.judge")):
        if thing.__code__.co_freevars == ():
            thing.__code__ = nothing.__code__
            thing.__defaults__ = thing.__kwdefaults__ = None
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
