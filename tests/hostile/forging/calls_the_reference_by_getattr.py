"""Calls the course's own solution by names that are put together at run time.

Tries: importlib, getattr and strings in pieces; then the file itself, wherever one like it is.
A correct grader: keeps the solution of this lab out of the process, whatever it is called.
"""

ANSWERS = {
    "ema": """import glob
import importlib
import os


def loaded():
    module = importlib.import_module("course" + "kit.ref" + "erence")
    try:
        return getattr(getattr(module, "lo" + "ad")("ch90/lab" + "01"), "name" + "space")()["ema"]
    except Exception:
        pass
    roots = ["@COURSE@", os.environ.get("COURSE_ROOT", "/"), os.getcwd(), "/course", "/tmp"]
    for root in roots:
        for path in glob.glob(root + "/**/lab01_e*.py", recursive=True):
            scope = {"__name__": "__main__"}
            exec(open(path).read(), scope)
            return scope["ema"]


ema = loaded()
"""
}
EARNS = {"ema": 0, "steps_to": 1}
