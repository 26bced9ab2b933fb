"""Makes files without end (twenty thousand at most).

Tries: empty files, which need no room but names.
A correct grader: stops it at its share, and removes what was made.
"""

EXTRA = """
made = 0
try:
    for number in range(20_000):
        open(f"@TRACE@{number}", "w").close()
        made += 1
except OSError as error:
    print(type(error).__name__, error.errno)
if made > 5000:
    print("trophy: made", made, "files")
"""
EARNS = {"ema": 4, "steps_to": 1}
