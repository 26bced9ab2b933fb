"""Returns something that goes on for ever.

Tries: a state_dict whose iterator never ends and gives 64 MiB with every step, up to 4 GiB; it is the grader's memory
that fills up.
A correct grader: ends the test in time and within bounds.
"""

LAB = "layer"
ANSWERS = {
    "affine": """class Endless:
    def __init__(self):
        self.left = 64

    def __iter__(self):
        return self

    def __next__(self):
        self.left -= 1
        return torch.zeros(16 << 20) if self.left >= 0 else 0.0


class Affine(nn.Module):
    def __init__(self, features, start=1.0):
        super().__init__()
        self.start = start

    def forward(self, x):
        return x * self.start

    def state_dict(self):
        return Endless()
"""
}
EARNS = {"affine": 0, "squash": 3}
LIMITS = {"cell_seconds": 5.0, "notebook_seconds": 60.0, "memory_mebibytes": 512}
AT_MOST = {"mebibytes": 1500}
