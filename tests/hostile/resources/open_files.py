"""Opens files without end (ten thousand at most).

Tries: descriptors that are never closed.
A correct grader: stops it at its share; the answers still count.
"""

EXTRA = """
import os

opened = []
try:
    for _ in range(10_000):
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    print(type(error).__name__, error.errno)
if len(opened) > 5000:
    print("trophy: opened", len(opened), "files")
for descriptor in opened[-5:]:
    os.close(descriptor)
"""
EARNS = {"ema": 4, "steps_to": 1}
