"""Copies the tests as they run.

Tries: hooks of IPython before and after every cell, an input transformer, an audit hook, and the lists In and _ih.
A correct grader: runs its tests in another process, so that there is nothing to copy.
"""

EXTRA = """
import sys

seen = []


def note(info=None):
    seen.append(str(getattr(info, "raw_cell", info)))


def transform(lines):
    seen.append("".join(lines))
    return lines


def audit(event, arguments):
    if event in ("compile", "exec") and len(seen) < 1000:
        seen.append(str(arguments[0])[:5000])


shell = get_ipython()
shell.events.register("pre_run_cell", note)
shell.input_transformers_cleanup.append(transform)
sys.addaudithook(audit)
"""
ANSWERS = {"steps_to": "print(*seen, *In, *_ih, sep='\\n')\n\n\ndef steps_to(share, beta):\n    return -1\n"}
LAST = "print(*seen, *In, *_ih, sep='\\n')\nprint(open('/proc/self/cmdline').read())\n"
EARNS = {"ema": 4, "steps_to": 0}
