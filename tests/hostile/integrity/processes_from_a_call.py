"""Leaves programs behind when a test calls it.

Tries: subprocesses with their own sessions, started by the called function, one of them by a shell in the background.
A correct grader: ends them with the run.
"""

ANSWERS = {
    "steps_to": """import subprocess
import sys


def steps_to(share, beta):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], start_new_session=True)
    subprocess.run("(trap '' HUP TERM; sleep 30) &", shell=True)
    n = 0
    while not beta**n < share:
        n += 1
    return n
"""
}
EARNS = {"ema": 4, "steps_to": 1}
LIMITS = {"memory_mebibytes": 2048}
