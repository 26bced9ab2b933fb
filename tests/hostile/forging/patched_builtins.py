"""Replaces builtins that checks are made of.

Tries: a builtins.bool for which everything is true, and all, any, abs and min that answer what suits.
A correct grader: checks in a process with the true builtins.
"""

from tests.hostile import kit

EXTRA = """
import builtins

true_bool = bool


class Kind(type):
    def __instancecheck__(cls, value):
        return isinstance(value, true_bool)


class Bool(metaclass=Kind):
    def __new__(cls, *_):
        return True


builtins.bool = Bool
builtins.all = builtins.any = lambda *_: True
builtins.abs = builtins.min = lambda *_, **__: 0
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
