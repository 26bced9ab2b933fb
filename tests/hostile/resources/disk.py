"""Fills the disk (1 GiB at most).

Tries: large files in the working folder, in /tmp and in the home folder, one with a hole of a petabyte.
A correct grader: stops it at its share, and removes what was written.
"""

EXTRA = """
import os

written = 0
for folder in (".", "/tmp", os.path.expanduser("~"), "/var/tmp"):
    try:
        with open(f"{folder}/@TRACE@large", "wb", buffering=0) as file:
            for _ in range(256):
                written += file.write(b"x" * (1 << 20))
            file.truncate(1 << 50)
    except OSError as error:
        print(folder, type(error).__name__, error.errno)
if written > 300 << 20:
    print("trophy: wrote", written >> 20, "MiB")
"""
EARNS = {"ema": 4, "steps_to": 1}
LIMITS = {"disk_mebibytes": 128}
