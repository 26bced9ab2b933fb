"""Tries: nothing. Cells end with exit(), quit(), sys.exit() and raise KeyboardInterrupt, as scripts do.

A correct grader: goes on with the next cell.
"""

from tests import learners

EARNS = {"ema": 4, "steps_to": 1}


def NOTEBOOK(content):
    sources = ["exit()", "quit()", "import sys\n\nsys.exit(1)", "raise KeyboardInterrupt"]
    for number, source in enumerate(sources):
        content["cells"].insert(3, learners.code_cell(source) | {"id": f"leaves{number}"})
    return content
