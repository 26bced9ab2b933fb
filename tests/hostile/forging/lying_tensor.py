"""Returns a tensor that lies about itself.

Tries: a subclass of torch.Tensor whose __torch_function__ answers every comparison with yes, and whose numbers change
with every look.
A correct grader: sees plain numbers, whatever class held them.
"""

EXTRA = """
class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        result = super().__torch_function__(function, types, args, kwargs or {})
        if name in ("isclose", "eq", "__eq__", "allclose", "equal", "all"):
            return torch.ones_like(torch.Tensor.as_subclass(result, torch.Tensor)) if name != "equal" else True
        return result

    def __eq__(self, other):
        return torch.ones(self.shape, dtype=torch.bool)

    def __bool__(self):
        return True

    def all(self, *_):
        return torch.tensor(True)
"""
ANSWERS = {
    "ema": """def ema(x, beta, correct_bias=True):
    if not 0 <= beta < 1:
        raise ValueError("beta")
    return x.clone().as_subclass(Liar)
"""
}
EARNS = {"ema": 0, "steps_to": 1}
