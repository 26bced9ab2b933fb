"""Rewrites the tests as the notebook reads them.

Tries: an input transformer of IPython that empties every later cell that speaks of `check`.
A correct grader: reads its tests in another process.
"""

from tests.hostile import kit

EXTRA = """
def empty(lines):
    return ["pass"] if any("check." in line for line in lines) else lines


get_ipython().input_transformers_cleanup.append(empty)
get_ipython().input_transformers_post.append(empty)
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
