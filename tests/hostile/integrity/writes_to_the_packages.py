"""Writes where Python finds its modules.

Tries: new files in the course's package, in site-packages and beside the interpreter, in a cell and in a called
function.
A correct grader: shows them read-only.
"""

EXTRA = """
import os
import sys
import sysconfig


def spread():
    places = ["@PACKAGE@", sysconfig.get_path("purelib"), sys.prefix]
    places.append(os.path.dirname(sys.executable))
    for place in places:
        try:
            open(f"{place}/@TRACE@.pth", "w").write("")
            print("trophy: wrote to", place)
        except OSError as error:
            print(place, type(error).__name__)


spread()
"""
ANSWERS = {"steps_to": "def steps_to(share, beta):\n    spread()\n    return -1\n"}
EARNS = {"ema": 4, "steps_to": 0}
