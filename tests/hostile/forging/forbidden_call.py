"""Uses what the exercise asks to build.

Tries: scipy.signal.lfilter, plainly.
A correct grader: gives the points that the result earns and names the line, neither silently zero nor silently full.
"""

ANSWERS = {
    "ema": """from scipy.signal import lfilter as smooth


def ema(x, beta, correct_bias=True):
    if not 0 <= beta < 1:
        raise ValueError("beta")
    out = torch.from_numpy(smooth([1 - beta], [1, -beta], x.numpy(), axis=0)).to(x.dtype)
    if correct_bias:
        out = out / (1 - beta ** torch.arange(1, len(x) + 1, dtype=x.dtype))[:, None]
    return out
"""
}
EARNS = {"ema": 4, "steps_to": 1}
FLAGS = ("lfilter",)
