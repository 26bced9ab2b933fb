"""Ends the process inside a called function.

Tries: os._exit(0) in `ema`, so that no failure can be reported.
A correct grader: counts the tests as failed that were running, and the other exercise by what it does.
"""

ANSWERS = {"ema": "import os\n\n\ndef ema(x, beta, correct_bias=True):\n    os._exit(0)\n"}
EARNS = {"ema": 0, "steps_to": 1}
