"""Rewrites the report on its way out of the process.

Tries: a json.dumps in which every error has become None, and a grader's module whose functions see no failure.
A correct grader: takes the marks from a process that the learner's code is not in.
"""

from tests.hostile import kit

EXTRA = """
import json
import sys

honest_dumps = json.dumps


def without_errors(value):
    if isinstance(value, dict):
        return {key: None if key in ("error", "err") else without_errors(item) for key, item in value.items()}
    return [without_errors(item) for item in value] if isinstance(value, list) else value


json.dumps = lambda value, **names: honest_dumps(without_errors(value), **names)
for name, module in list(sys.modules.items()):
    if name.startswith("autograder.") and hasattr(module, "_describe"):
        module._describe = lambda *_: None
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
