"""Sends what is no message.

Tries: random bytes on every open descriptor when it is called, then an honest-looking answer.
A correct grader: counts the running test as failed; the other exercise earns what it earns.
"""

EXTRA = """
import os


def noise():
    for descriptor in range(3, 64):
        try:
            os.set_blocking(descriptor, False)
            os.write(descriptor, b"\\xff" * 4096 + os.urandom(4096))
        except OSError:
            pass
"""
ANSWERS = {"ema": "def ema(x, beta, correct_bias=True):\n    noise()\n    return x\n"}
EARNS = {"ema": 0, "steps_to": 1}
