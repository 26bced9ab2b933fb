"""Reads the solutions and the hidden tests in the course's folder.

Tries: sources, built notebooks, indexes and solved modules below the course, the package, and the current folder.
A correct grader: shows the learner's process none of them.
"""

EXTRA = """
import glob
import os

roots = ["@COURSE@", os.path.dirname("@PACKAGE@"), os.getcwd(), os.environ.get("COURSE_ROOT", "/nowhere"), "/course"]
parts = ["source_solutions", "build/source", "build/index", "coursekit/solved", "grading", "tests/data"]
for root in roots:
    for part in parts:
        for path in glob.glob(f"{root}/{part}/**/*lab0*", recursive=True):
            print("trophy:", path, open(path).read() if os.path.isfile(path) else "")
"""
EARNS = {"ema": 4, "steps_to": 1}
