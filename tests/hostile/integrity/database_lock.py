"""Locks the gradebook.

Tries: an exclusive transaction on the gradebook, held by a process in the background for the length of the class.
A correct grader: keeps the gradebook out of reach; every mark of the others is written.
"""

EXTRA = """
import os
import sqlite3
import time

if os.fork() == 0:
    os.setsid()
    try:
        book = sqlite3.connect("file:@COURSE@/grading/gradebook.db?mode=rw", uri=True, timeout=1)
        book.execute("begin exclusive")
        time.sleep(30)
    finally:
        os._exit(0)
time.sleep(0.3)
try:
    sqlite3.connect("file:@COURSE@/grading/gradebook.db?mode=rw", uri=True, timeout=0.1).execute("begin exclusive")
    print("trophy: the gradebook")
except sqlite3.OperationalError as error:
    print("trophy: locked the gradebook" if "locked" in str(error) else "no gradebook")
"""
EARNS = {"ema": 4, "steps_to": 1}
