"""Gives the names of the tests other meanings.

Tries: own definitions of `sorted`, `check`, `np`, `AssertionError` and of the tests' variables in the notebook.
A correct grader: gives the tests a namespace in which only the exercises' names are the learner's.
"""

LAB = "layer"
EXTRA = """
class Nothing:
    def __getattr__(self, name):
        return lambda *_, **__: None


check = np = layer = secret = Nothing()
AssertionError = KeyError


def sorted(_):
    return ["scale", "shift"]
"""
ANSWERS = {
    "affine": """class Affine(nn.Module):
    def __init__(self, features, start=1.0):
        super().__init__()
        self.weight = nn.Parameter(start * torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x):
        return x.mul(self.weight).add(self.bias)
"""
}
EARNS = {"affine": 0, "squash": 3}
