"""Returns objects whose attributes lie.

Tries: a layer with a wrong forward, whose __class__, __getattr__, state_dict and __call__ say what suits.
A correct grader: gives nothing for its values; they are compared as numbers.
"""

LAB = "layer"
ANSWERS = {
    "affine": """class Yes:
    def __eq__(self, other):
        return True

    def __getattr__(self, name):
        return self

    def __call__(self, *_, **__):
        return self

    def __iter__(self):
        return iter(["scale", "shift"])

    __hash__ = object.__hash__


class Affine:
    __class__ = torch.Tensor

    def __init__(self, *_, **__):
        pass

    def __getattr__(self, name):
        return Yes()

    def __call__(self, x):
        return Yes()
"""
}
EARNS = {"affine": 0, "squash": 3}
