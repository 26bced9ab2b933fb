"""Returns something small that becomes enormous where it is looked at.

Tries: a tensor of one number, expanded to thirty-three million, of which the test makes a list; it is the grader's
memory that fills up.
A correct grader: calls it a wrong result before it has used up the machine.
"""

LAB = "layer"
ANSWERS = {"squash": "def squash(x):\n    return torch.zeros(1).expand(1 << 25)\n"}
EARNS = {"affine": 4, "squash": 0}
LIMITS = {"memory_mebibytes": 512}
AT_MOST = {"mebibytes": 1200}
