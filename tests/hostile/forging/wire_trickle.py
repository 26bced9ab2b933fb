"""Answers so slowly that the answer never ends.

Tries: one byte of a message every half second, each of which might start the clock anew.
A correct grader: gives a call its time and no more; the other exercise earns what it earns.
"""

EXTRA = """
import os
import stat
import struct
import time


def trickle():
    sockets = [n for n in range(3, 64) if os.path.exists(f"/proc/self/fd/{n}") and stat.S_ISSOCK(os.fstat(n).st_mode)]
    for byte in struct.pack(">I", 60) + b'{"value": null, "buffers": []}' :
        for descriptor in sockets:
            os.write(descriptor, bytes([byte]))
        time.sleep(0.5)
"""
ANSWERS = {"steps_to": "def steps_to(share, beta):\n    trickle()\n    return 7\n"}
EARNS = {"ema": 4, "steps_to": 0}
LIMITS = {"cell_seconds": 1.0}
