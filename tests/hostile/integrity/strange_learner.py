"""Hands in under a name that means something to somebody.

Tries: a name with patterns of a shell, a format string, a quotation mark, a percent sign and a leading dash.
A correct grader: takes it for a name.
"""

LEARNER = "-rf [a-z]* {student} %s '; drop table student; --"
EARNS = {"ema": 4, "steps_to": 1}
