"""Leaves a process behind that works for it later.

Tries: a daemon (two forks, a session of its own, all signals ignored) that waits for the next submission and the
gradebook.
A correct grader: ends it with the run.
"""

EXTRA = """
import os
import signal
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 32):
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        for _ in range(60):
            time.sleep(0.5)
            try:
                open("@COURSE@/grading/@TRACE@", "w").write("mallory was here")
            except OSError:
                pass
    os._exit(0)
os.wait()
"""
EARNS = {"ema": 4, "steps_to": 1}
