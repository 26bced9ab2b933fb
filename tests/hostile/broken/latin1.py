"""Tries: nothing. An editor has saved the file as Latin-1.

A correct grader: reads it, gives all points, and says what it had to mend.
"""

import json

from tests.hostile import kit

ANSWERS = {"ema": kit.EMA + "    # moyenne pondérée\n"}
EARNS = {"ema": 4, "steps_to": 1}
FLAGS = ("Latin-1",)


def NOTEBOOK(content):
    return json.dumps(content, ensure_ascii=False).replace("·", "-").encode("latin-1", "replace")
