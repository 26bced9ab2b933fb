"""Returns an array that lies about itself.

Tries: a subclass of numpy.ndarray whose ufuncs and functions say that everything is close, with an __array__ and a
__float__ of its own.
A correct grader: sees plain numbers.
"""

EXTRA = """
import numpy as np


class Liar(np.ndarray):
    def __array_ufunc__(self, ufunc, method, *inputs, **names):
        return np.zeros(self.shape) if ufunc.__name__ in ("subtract", "absolute") else np.ones(self.shape, dtype=bool)

    def __array_function__(self, function, types, args, names):
        return True

    def tobytes(self, *_):
        return np.zeros(self.shape, dtype=self.dtype).tobytes()

    def __eq__(self, other):
        return np.ones(self.shape, dtype=bool)
"""
ANSWERS = {
    "ema": """def ema(x, beta, correct_bias=True):
    if not 0 <= beta < 1:
        raise ValueError("beta")
    return x.numpy().view(Liar)
"""
}
EARNS = {"ema": 0, "steps_to": 1}
