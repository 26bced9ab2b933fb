"""Loops for ever.

Tries: nothing bad; the commonest of all mistakes.
A correct grader: ends the call in time, says so, and the other exercise earns what it earns.
"""

ANSWERS = {"steps_to": "def steps_to(share, beta):\n    while True:\n        pass\n"}
EARNS = {"ema": 4, "steps_to": 0}
STATUSES = {"steps_to": "timeout"}
SAYS = ("longer than 1 s",)
LIMITS = {"cell_seconds": 1.0}
