"""Climbs from the called function into the test that calls it.

Tries: replaces `check` and every tensor in the globals and locals of all frames above.
A correct grader: has no test above the learner's function, only the wire.
"""

EXTRA = """
import sys


class Nothing:
    def __getattr__(self, name):
        return lambda *_, **__: None


def climb():
    frame = sys._getframe(1)
    while frame:
        if "check" in frame.f_globals:
            frame.f_globals["check"] = Nothing()
        for name in list(frame.f_globals):
            if name in ("five", "oracle"):
                frame.f_globals[name] = torch.zeros(3, 1)
        frame = frame.f_back
"""
ANSWERS = {
    "ema": "def ema(x, beta, correct_bias=True):\n    climb()\n    return x\n",
    "steps_to": "def steps_to(share, beta):\n    climb()\n    return -1\n",
}
EARNS = {"ema": 0, "steps_to": 0}
