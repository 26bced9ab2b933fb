"""Answers with shapes and types that no array has.

Tries: NaN, negative, enormous, boolean and missing sizes, strides that reach outside, buffers that are not there.
A correct grader: calls each a wrong result; nothing outside the message is read.
"""

EXTRA = """
import itertools

from autograder import wire

FORGED = itertools.cycle(
    [
        {"tensor": "float32", "shape": [float("nan")], "grad": False, "at": 0},
        {"tensor": "float32", "shape": [-1, 3], "grad": True, "at": 0},
        {"tensor": "float32", "shape": [1 << 62, 1 << 62], "grad": False, "at": 0},
        {"tensor": "float64", "shape": [3, 1], "strides": [1 << 40, 1], "grad": False, "at": 0},
        {"tensor": "float64", "shape": [3, 1], "strides": [-1, -1], "grad": False, "at": 0},
        {"tensor": "float64", "shape": [True, 1.5], "grad": False, "at": -1},
        {"tensor": "object", "shape": [1], "grad": False, "at": 0},
        {"array": "|O", "shape": [1], "scalar": False, "at": 0},
        {"array": "<f8,(1000000000,)f8", "shape": [3], "scalar": True, "at": 0},
        {"array": "|S2147483647", "shape": [0], "scalar": False, "at": 0},
        {"list": {"a": 1}},
        {"named": "x", "fields": ["class", "__eq__"], "of": [1, 2]},
        {"int": "9" * 100_000},
        {"size": [float("inf")]},
        {},
        [[[]]],
    ]
)


def encode(value, buffers, handle):
    if isinstance(value, dict) and "result" in value:
        buffers.append(b"\\0" * 24)
        return {"dict": [["result", next(FORGED)], ["call", 10**9]]}
    return honest_encode(value, buffers, handle)


honest_encode, wire.encode = wire.encode, encode
"""
EARNS = {"ema": 0, "steps_to": 0}
