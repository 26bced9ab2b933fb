"""Returns tensors of every kind that a wire may stumble over.

Tries: sparse, quantised, complex, half-precision, conjugated, meta, nested and endless (expanded to petabytes)
tensors.
A correct grader: calls each a wrong result, without using more memory than allowed, and goes on.
"""

ANSWERS = {
    "ema": """calls = [0]
KINDS = [
    lambda x: torch.zeros(1).expand(1 << 50),
    lambda x: torch.zeros(4, device="meta"),
    lambda x: torch.nested.nested_tensor([x[:1], x]),
    lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    lambda x: torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (1 << 40,)),
]


def ema(x, beta, correct_bias=True):
    calls[0] += 1
    return KINDS[calls[0] % len(KINDS)](x)
""",
    "steps_to": "def steps_to(share, beta):\n    return torch.zeros(2, dtype=torch.complex64).conj()\n",
}
EARNS = {"ema": 0, "steps_to": 0}
