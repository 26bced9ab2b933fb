"""Leaves files where others look.

Tries: /tmp, /var/tmp, /dev/shm, /run, home folders and the root; what it can write to is to be gone afterwards.
A correct grader: gives each run folders of its own, which end with it.
"""

EXTRA = """
import os

places = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", "/", "@HOME@", "@TMP@", os.path.expanduser("~"), "."]
for place in places:
    try:
        open(f"{place}/@TRACE@left", "w").write("mallory was here")
    except OSError as error:
        print(place, type(error).__name__)
"""
EARNS = {"ema": 4, "steps_to": 1}
