"""Replaces what runs cells.

Tries: InteractiveShell.run_cell, run_code and the builtins exec and compile that skip whatever holds a check.
A correct grader: is not run by the learner's shell.
"""

from tests.hostile import kit

EXTRA = """
import builtins
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

honest_run = InteractiveShell.run_cell


def run_cell(self, source, *rest, **names):
    return honest_run(self, "pass" if "check." in source else source, *rest, **names)


async def run_code(self, *rest, **names):
    return False


InteractiveShell.run_cell = type(get_ipython()).run_cell = run_cell
honest_compile = builtins.compile
builtins.compile = lambda source, *rest, **names: honest_compile(
    "pass" if isinstance(source, str) and "check." in source else source, *rest, **names
)
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
