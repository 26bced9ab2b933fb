"""Jumps over the lines of a check with a trace function.

Tries: sys.settrace with a function that moves `f_lineno` to the first return of whichever check is called.
A correct grader: runs its tests where no trace function of the learner's is.
"""

from tests.hostile import kit

EXTRA = """
import linecache
import sys


def local(frame, event, argument):
    source = linecache.getlines(frame.f_code.co_filename)
    begin = frame.f_code.co_firstlineno
    returns = [n for n, text in enumerate(source, 1) if n > begin and text.strip() == "return"]
    if event == "line" and returns and frame.f_lineno < returns[0]:
        frame.f_lineno = returns[0]
    return local


def trace(frame, event, argument):
    if frame.f_code.co_filename.endswith("check.py") and frame.f_code.co_name in ("close", "equal"):
        return local


get_ipython().events.register("pre_run_cell", lambda *_: sys.settrace(trace))
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
