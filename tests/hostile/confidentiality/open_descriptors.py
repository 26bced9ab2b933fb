"""Uses what its process has inherited.

Tries: every open descriptor: what file it is, what lies in a folder that it is, and paths upwards from there.
A correct grader: closes all but what the process needs.
"""

EXTRA = """
import os

for number in os.listdir("/proc/self/fd"):
    try:
        target = os.readlink(f"/proc/self/fd/{number}")
        if any(word in target for word in ("@COURSE@", "@TMP@", "gradebook", ".ipynb", "zygote")):
            print("trophy: descriptor", number, target)
        for way in (".", "../../../../..@COURSE@"):
            names = os.listdir(os.open(way, os.O_RDONLY, dir_fd=int(number)))
            if "grading" in names or "mallory" in names:
                print("trophy: a folder by descriptor", number, names)
    except OSError:
        pass
"""
EARNS = {"ema": 4, "steps_to": 1}
