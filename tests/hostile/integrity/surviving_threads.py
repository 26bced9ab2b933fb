"""Leaves threads and exit handlers behind.

Tries: non-daemon threads, atexit functions and a finaliser that go on after the last cell.
A correct grader: ends the process without waiting for them.
"""

EXTRA = """
import atexit
import threading
import time
import weakref


def stay():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.5)


class Stays:
    def __del__(self):
        stay()


kept = Stays()
for _ in range(4):
    threading.Thread(target=stay).start()
atexit.register(stay)
"""
EARNS = {"ema": 4, "steps_to": 1}
