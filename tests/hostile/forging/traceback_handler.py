"""Swallows the errors of the tests where IPython would show them.

Tries: a custom exception handler, an empty showtraceback and a post_run_cell hook that clears what went wrong.
A correct grader: learns of a failed check from the process that made it.
"""

from tests.hostile import kit

EXTRA = """
shell = get_ipython()
shell.set_custom_exc((BaseException,), lambda *_, **__: None)
type(shell).showtraceback = lambda *_, **__: None


def all_is_well(result):
    result.error_in_exec = result.error_before_exec = None


shell.events.register("post_run_cell", all_is_well)
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
