"""Answers with handles of objects that are not there, or not its own.

Tries: negative, enormous and foreign numbers, and objects that claim to have __eq__, __bool__ and __class__.
A correct grader: finds no number in them, and gives nothing.
"""

EXTRA = """
import itertools

from autograder import wire

METHODS = ["__eq__", "__bool__", "__class__", "__float__", "__array__", "__torch_function__", "__reduce__", "_call"]
FORGED = itertools.cycle(
    {"handle": number, "kind": kind, "name": name, "methods": METHODS}
    for number, kind, name in [
        (-1, "object", "Tensor"),
        (0, "class", "int"),
        (1 << 70, "callable", "x" * 100_000),
        (3, "callable", "\\ud800"),
        (float("nan"), "object", "int"),
        (True, None, None),
    ]
)


def encode(value, buffers, handle):
    if isinstance(value, dict) and "result" in value:
        return {"dict": [["result", next(FORGED)], ["call", -1]]}
    return honest_encode(value, buffers, handle)


honest_encode, wire.encode = wire.encode, encode
"""
EARNS = {"ema": 0, "steps_to": 0}
