"""Takes memory in many processes, each below the limit (3 GiB at most together).

Tries: twelve children of 256 MiB each.
A correct grader: bounds the sum.
"""

EXTRA = """
import os
import time

for _ in range(12):
    if os.fork() == 0:
        filled = bytearray(256 << 20)
        for place in range(0, len(filled), 4096):
            filled[place] = 1
        time.sleep(20)
        os._exit(0)
time.sleep(4)
"""
RUNS = False
EARNS = {"ema": {0, 4}, "steps_to": {0, 1}}
STATUS = {"graded", "died"}
LIMITS = {"memory_mebibytes": 512}
AT_MOST = {"mebibytes": 1600}
