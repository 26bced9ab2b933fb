"""Freezes the grader.

Tries: SIGSTOP to its parent and to its process group, taken back after some seconds, from a called function.
A correct grader: is not reached by it; wherever the learner's own process stops, its time runs out and the others go
on.
"""

ANSWERS = {
    "ema": """import os
import signal
import time

group = -os.getpgrp()


def ema(x, beta, correct_bias=True):
    parent = os.getppid()
    if os.fork() == 0:
        os.setsid()
        time.sleep(8)
        for stopped in (parent, group) if parent > 1 else (group,):
            os.kill(stopped, signal.SIGCONT)
        os._exit(0)
    if parent > 1:
        os.kill(parent, signal.SIGSTOP)
    os.kill(0, signal.SIGSTOP)
    return x
"""
}
EARNS = {"ema": 0, "steps_to": {0, 1}}
LIMITS = {"cell_seconds": 4.0, "notebook_seconds": 40.0}
