"""Tries: nothing. The cells stand in the reverse order.

A correct grader: runs them in the lab's order.
"""

EARNS = {"ema": 4, "steps_to": 1}


def NOTEBOOK(content):
    content["cells"].reverse()
    return content
