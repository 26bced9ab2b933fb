"""Tries: nothing. An emoji was cut in two by an editor, so that the JSON spells half a character.

A correct grader: reads it and gives all points; what is written can be read by everybody.
"""

from tests.hostile import kit

ANSWERS = {"steps_to": kit.STEPS_TO + "    # done \ud83d\n"}
EXTRA = "print('done \\ud83d', '\\x00 and a null byte')\n"
EARNS = {"ema": 4, "steps_to": 1}
