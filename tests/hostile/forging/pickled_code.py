"""Returns an object that would run code where it is unpickled.

Tries: __reduce__, an array of objects, __torch_function__ and __getattr__ that make a file in whatever process reads
them.
A correct grader: never unpickles; what is no number is a wrong result.
"""

EXTRA = """
import os
import numpy as np


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/@TRACE@pickled @TMP@/@TRACE@pickled",)


def armed(x):
    return np.array([[Bomb()] * x.shape[1]] * max(x.shape[0], 1), dtype=object)
"""
ANSWERS = {
    "ema": """def ema(x, beta, correct_bias=True):
    if not 0 <= beta < 1:
        raise ValueError("beta")
    return armed(x)
""",
    "steps_to": "def steps_to(share, beta):\n    return Bomb()\n",
}
EARNS = {"ema": 0, "steps_to": 0}
