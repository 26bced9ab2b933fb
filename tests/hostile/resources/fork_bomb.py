"""Starts processes without end (three hundred at most, for the sake of whoever runs this).

Tries: a loop of forks, each of which goes on forking; then the right answers.
A correct grader: lets it have its share of processes and no more, and ends them all.
"""

EXTRA = """
import os
import time

end = time.monotonic() + 2
for _ in range(300):
    try:
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
    except OSError:
        break
else:
    print("trophy: three hundred processes")
"""
RUNS = False
EARNS = {"ema": {0, 4}, "steps_to": {0, 1}}
STATUS = {"graded", "died"}
LIMITS = {"processes": 40}
AT_MOST = {"processes": 70}
