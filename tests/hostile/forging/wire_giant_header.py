"""Announces more than it sends, and sends more than anybody can take.

Tries: headers of four gigabytes, of eight megabytes of brackets, and one that lists a billion petabytes of buffers.
A correct grader: refuses each without waiting for it or making room for it.
"""

EXTRA = """
import os
import struct

calls = [0]
MESSAGES = [
    struct.pack(">I", 0xFFFFFFF0),
    struct.pack(">I", (8 << 20) - 16) + b"[" * ((8 << 20) - 16),
    b"".join(struct.pack(">I", len(h)) + h for h in [b'{"value": 1, "buffers": [1000000000000000000000000]}']),
]


def send():
    message = MESSAGES[calls[0] % len(MESSAGES)]
    calls[0] += 1
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, message)
        except OSError:
            pass
"""
ANSWERS = {"ema": "def ema(x, beta, correct_bias=True):\n    send()\n    return x\n"}
EARNS = {"ema": 0, "steps_to": 1}
LIMITS = {"cell_seconds": 4.0}
AT_MOST = {"mebibytes": 1500}
