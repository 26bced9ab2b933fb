"""Returns values of every kind that a wire may stumble over.

Tries: lists that hold themselves, a hundred thousand levels of nesting, half a character, integers of a million
digits, dictionaries with odd keys, and text of a hundred megabytes.
A correct grader: calls each a wrong result and goes on.
"""

ANSWERS = {
    "ema": """calls = [0]


def itself():
    value = []
    value.append(value)
    return value


def deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


KINDS = [itself, deep, lambda: "\\ud800", lambda: {(1, 2): 3, None: float("nan"), b"x": {1}}, lambda: "x" * 10**8]


def ema(x, beta, correct_bias=True):
    calls[0] += 1
    return KINDS[calls[0] % len(KINDS)]()
""",
    "steps_to": "def steps_to(share, beta):\n    return 1 << 3_000_000\n",
}
EARNS = {"ema": 0, "steps_to": 0}
