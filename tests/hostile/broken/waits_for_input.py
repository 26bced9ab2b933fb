"""Tries: nothing. Cells wait for somebody: input(), getpass, breakpoint() and a debugger.

A correct grader: does not wait; the cells fail, the answers count.
"""

from tests import learners

EARNS = {"ema": 4, "steps_to": 1}
LIMITS = {"cell_seconds": 8.0}


def NOTEBOOK(content):
    for number, source in enumerate(
        [
            "name = input('name? ')",
            "import getpass\n\ngetpass.getpass()",
            "breakpoint()",
            "import sys\n\nsys.stdin.read()",
            "%debug",
        ]
    ):
        content["cells"].insert(3, learners.code_cell(source) | {"id": f"waits{number}"})
    return content
