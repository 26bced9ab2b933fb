"""Reads private files of the machine.

Tries: a home folder, keys and tokens, /etc/shadow, and the temporary files and the shared memory of others.
A correct grader: shows the process a file system with what Python needs and nothing else.
"""

EXTRA = """
import glob
import os

places = ["@HOME@/.netrc", "@TMP@/notes.txt", "@SHM@", "/etc/shadow", "/etc/hostname", "/etc/machine-id"]
for pattern in ("~/.ssh/*", "~/.netrc", "/run/secrets/*", "/tmp/**/notes.txt", "/dev/shm/*", "/var/log/*", "/boot/*"):
    places += glob.glob(os.path.expanduser(pattern), recursive=True)
for place in places:
    try:
        print("trophy:", place, open(place, "rb").read(100) if os.path.isfile(place) else os.listdir(place))
    except OSError as error:
        print(place, type(error).__name__)
"""
EARNS = {"ema": 4, "steps_to": 1}
