"""Uses what the exercise asks to build, by a name that is computed.

Tries: scipy.signal.lfilter through importlib, getattr and a string that is turned round, from a helper in another
cell.
A correct grader: gives the points that the result earns, with a flag.
"""

EXTRA = """
import importlib


def helper():
    module = importlib.import_module("langis.ypics"[::-1])
    return getattr(module, "".join(reversed("retlifl")))
"""
ANSWERS = {
    "ema": """def ema(x, beta, correct_bias=True):
    if not 0 <= beta < 1:
        raise ValueError("beta")
    out = torch.from_numpy(helper()([1 - beta], [1, -beta], x.numpy(), axis=0)).to(x.dtype)
    if correct_bias:
        out = out / (1 - beta ** torch.arange(1, len(x) + 1, dtype=x.dtype))[:, None]
    return out
"""
}
EARNS = {"ema": 4, "steps_to": 1}
FLAGS = ("line",)
