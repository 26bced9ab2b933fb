"""Kills others.

Tries: SIGKILL to a process of the machine, to its parent, to the first process and to everything it may signal.
A correct grader: runs it where there is nobody else to signal.
"""

EXTRA = """
import glob
import os
import signal

seen = False
for folder in glob.glob("/proc/[0-9]*"):
    try:
        if b"@BYSTANDER@" in open(f"{folder}/cmdline", "rb").read():
            seen = True
            os.kill(int(os.path.basename(folder)), signal.SIGKILL)
            print("trophy: killed a process outside")
    except OSError:
        pass
if not seen and os.getpid() < 100:
    # Only where it is alone: elsewhere this would end the session of whoever runs the test.
    for target in (-1, os.getppid() or -1):
        try:
            os.kill(target, signal.SIGKILL)
        except OSError as error:
            print(target, type(error).__name__)
"""
EARNS = {"ema": 4, "steps_to": 1}
