"""Calls the course's own solution.

Tries: coursekit.reference, plainly, and carries the same lab's solution.
A correct grader: keeps the solution of this lab out of the process, so that it earns nothing, and says which line
asked.
"""

ANSWERS = {
    "ema": """from coursekit import reference

ema = reference.load("ch90/lab01").namespace()["ema"]
""",
    "steps_to": """from coursekit.carry import carry

steps_to = carry("ch90/lab01", "steps_to")
""",
}
EARNS = {"ema": 0, "steps_to": 0}
FLAGS = ("coursekit.reference", "carries from")
