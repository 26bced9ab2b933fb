"""Loops for ever and takes no notice of anything that should stop it.

Tries: a loop that catches every exception, with timers cleared, all signals ignored and blocked.
A correct grader: ends the process from outside; the other exercise earns what it earns.
"""

ANSWERS = {
    "steps_to": """import signal


def steps_to(share, beta):
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)))
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""
}
EARNS = {"ema": 4, "steps_to": 0}
STATUSES = {"steps_to": "timeout"}
SAYS = ("longer than 1 s",)
LIMITS = {"cell_seconds": 1.0}
