"""Reads the environment of the one who grades.

Tries: os.environ, /proc/self/environ as the kernel keeps it, and the environment of every process that can be seen.
A correct grader: starts the process from one that never had that environment.
"""

EXTRA = """
import glob
import os

print(dict(os.environ))
for path in ["/proc/self/environ", *glob.glob("/proc/[0-9]*/environ")]:
    try:
        print(open(path, "rb").read().replace(b"\\0", b" ").decode(errors="replace"))
    except OSError as error:
        print(type(error).__name__)
"""
EARNS = {"ema": 4, "steps_to": 1}
