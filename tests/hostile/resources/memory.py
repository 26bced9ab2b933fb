"""Takes memory without end (3 GiB at most).

Tries: a called function that fills memory in steps of 64 MiB.
A correct grader: ends that call within bounds; the other exercise earns what it earns.
"""

ANSWERS = {
    "ema": """def ema(x, beta, correct_bias=True):
    kept = [torch.ones(16 << 20) for _ in range(48)]
    return x
"""
}
EARNS = {"ema": 0, "steps_to": 1}
LIMITS = {"memory_mebibytes": 512}
AT_MOST = {"mebibytes": 1500}
