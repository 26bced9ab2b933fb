"""Never stops saying what went wrong.

Tries: exceptions whose __str__, __repr__, __class__ and __traceback__ loop, recur or return a hundred megabytes.
A correct grader: asks for no more than it shows, for no longer than the call's time.
"""

ANSWERS = {
    "ema": """class Chatty(Exception):
    def __str__(self):
        return "x" * 10**8

    __repr__ = __str__


def ema(x, beta, correct_bias=True):
    raise Chatty
""",
    "steps_to": """class Endless(Exception):
    def __str__(self):
        while True:
            pass


def steps_to(share, beta):
    raise Endless
""",
}
EARNS = {"ema": 0, "steps_to": 0}
LIMITS = {"cell_seconds": 1.0}


def AFTER(outcome):
    assert len(outcome.messages()) < 20_000
    assert len(outcome.page()) < 5_000_000
