"""Writes fifty megabytes on one line.

Tries: print, the file descriptors themselves, sys.__stdout__ and a child's output.
A correct grader: keeps a readable beginning, says that it was cut, and gives the points.
"""

EXTRA = """
import os
import sys

print("x" * 50_000_000)
sys.__stdout__.write("x" * 1_000_000)
for descriptor in (1, 2):
    os.write(descriptor, b"x" * 50_000_000)
os.system("head -c 50000000 /dev/zero | tr '\\\\0' x")
"""
EARNS = {"ema": 4, "steps_to": 1}


def AFTER(outcome):
    assert len(outcome.outputs()) < 1_000_000
    assert len(outcome.page()) < 5_000_000
    assert "cut" in outcome.outputs()
