"""Tries: nothing. The answer warns on every call, as many honest ones do.

A correct grader: gives all points, and no flag.
"""

from tests.hostile import kit

ANSWERS = {
    "ema": kit.EMA.replace("    out =", "    import warnings\n\n    warnings.warn('slow', stacklevel=2)\n    out =")
}
EARNS = {"ema": 4, "steps_to": 1}
