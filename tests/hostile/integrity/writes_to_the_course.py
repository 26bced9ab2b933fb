"""Writes where the class lies.

Tries: new files among the submissions, marks, pages and sources of the course, by path and from the current folder.
A correct grader: gives the process nothing of that to write to.
"""

EXTRA = """
import os

roots = ["@COURSE@", os.path.normpath(os.path.join(os.getcwd(), "../.."))]
parts = ["", "grading", "grading/submitted", "grading/submitted/zoe/ch90_example", "grading/autograded", "build/source"]
for root in roots:
    for part in parts:
        try:
            open(f"{root}/{part}/@TRACE@.ipynb", "w").write("mallory was here")
            print("trophy: wrote to", root, part)
        except OSError as error:
            print(type(error).__name__)
"""
EARNS = {"ema": 4, "steps_to": 1}
