"""Ends the process before any test has run.

Tries: os._exit(0) in a cell of its own, above wrong answers, which might look like a run without failures.
A correct grader: gives nothing for what never ran.
"""

from tests.hostile import kit

EXTRA = "import os\n\nos._exit(0)\n"
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
RUNS = False
EARNS = {"ema": 0, "steps_to": 0}
STATUS = {"graded", "died"}
