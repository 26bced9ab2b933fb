"""Uses what the exercise asks to build, by an assignment.

Tries: `running = torch.cumsum`, called in the exercise.
A correct grader: gives the points that the result earns, with a flag that names what was used.
"""

ANSWERS = {
    "ema": """running = torch.cumsum


def ema(x, beta, correct_bias=True):
    if not 0 <= beta < 1:
        raise ValueError("beta")
    if beta == 0:
        return x.clone()
    powers = torch.tensor(beta, dtype=torch.float64) ** torch.arange(1, len(x) + 1)
    out = running(x.double() / powers[:, None], 0) * powers[:, None] * (1 - beta)
    return (out / (1 - powers)[:, None] if correct_bias else out).to(x.dtype)
"""
}
EARNS = {"ema": {2, 4}, "steps_to": 1}
FLAGS = ("cumsum",)
