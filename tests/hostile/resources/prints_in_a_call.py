"""Writes without end while a test calls it.

Tries: half a gigabyte in lines, from a called function that is right otherwise.
A correct grader: drops what is beyond its bound without keeping it; the call has its time like any other.
"""

ANSWERS = {
    "steps_to": """def steps_to(share, beta):
    for _ in range(5_000):
        print("x" * 100_000)
    n = 0
    while not beta**n < share:
        n += 1
    return n
"""
}
EARNS = {"ema": 4, "steps_to": 1}
AT_MOST = {"mebibytes": 1500}
