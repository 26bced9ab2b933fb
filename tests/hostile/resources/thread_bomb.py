"""Starts threads without end (six hundred at most).

Tries: a loop of threads that sleep.
A correct grader: lets it have its share and no more; the error that Python then raises costs the cell, not the
answers.
"""

EXTRA = """
import threading
import time

begun = 0
while begun < 600:
    threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
    begun += 1
print("trophy: six hundred threads")
"""
RUNS = False
EARNS = {"ema": 4, "steps_to": 1}
LIMITS = {"processes": 40}
