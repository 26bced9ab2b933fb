"""Tries: nothing. An editor has put a byte-order mark before the first brace.

A correct grader: reads it, gives all points, and says what it had to mend.
"""

import json

EARNS = {"ema": 4, "steps_to": 1}
FLAGS = ("byte-order mark",)


def NOTEBOOK(content):
    return b"\xef\xbb\xbf" + json.dumps(content).encode()
