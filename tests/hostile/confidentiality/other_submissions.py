"""Reads what others have handed in.

Tries: lists the folder of submissions from the course, from the current folder upwards, and prints notebooks.
A correct grader: shows the learner's process nobody's work but its own.
"""

EXTRA = """
import glob
import os

here = os.getcwd()
roots = ["@COURSE@/grading", *[os.path.normpath(os.path.join(here, "../" * n)) for n in (1, 2)]]
for root in roots:
    for path in glob.glob(f"{root}/*/ann/*/*.ipynb") + glob.glob(f"{root}/zoe") + glob.glob(f"{root}/*/zoe"):
        print("trophy:", path, open(path).read() if os.path.isfile(path) else os.listdir(path))
    for path in glob.glob(f"{root}/*.txt"):
        print("trophy:", path, open(path).read())
"""
EARNS = {"ema": 4, "steps_to": 1}
