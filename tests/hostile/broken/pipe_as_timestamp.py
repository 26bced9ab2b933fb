"""Tries: nothing, or to stop the class: timestamp.txt and submission_secret.txt are named pipes, beside a socket.

A correct grader: does not wait for them, says so, and gives the points.
"""

import os
import socket

EARNS = {"ema": 4, "steps_to": 1}
FLAGS = ("timestamp.txt", "submission_secret.txt")


def FILES(folder, course):
    for name in ("timestamp.txt", "submission_secret.txt", "notes.ipynb"):
        os.mkfifo(folder / name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
