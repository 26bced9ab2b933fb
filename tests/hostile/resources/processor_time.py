"""Uses all processors at once.

Tries: eight children that compute for twenty seconds, while the cell itself sleeps.
A correct grader: counts their processor time together, and ends them.
"""

EXTRA = """
import os
import time

for _ in range(8):
    if os.fork() == 0:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            pass
        os._exit(0)
time.sleep(20)
print("trophy: twenty seconds on all processors")
"""
RUNS = False
EARNS = {"ema": {0, 4}, "steps_to": {0, 1}}
STATUS = {"graded", "died"}
LIMITS = {"cpu_seconds": 3.0}
