"""Writes to the instructor's terminal.

Tries: control sequences in an error message that would clear the screen, set the title and fake a table of marks.
A correct grader: puts no control character of the learner's into a message.
"""

ANSWERS = {
    "ema": """def ema(x, beta, correct_bias=True):
    raise RuntimeError("\\x1b[2J\\x1b]0;mallory\\x07\\x9b31mmallory 5/5\\r\\x08\\x7f [bold red]markup[/bold red]")
"""
}
EARNS = {"ema": 0, "steps_to": 1}


def AFTER(outcome):
    controls = [character for character in outcome.messages() if not character.isprintable() and character != "\n"]
    assert controls == []
