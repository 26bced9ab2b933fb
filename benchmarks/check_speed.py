"""How long a learner waits: `course check` on a warm machine against `nbgrader validate`, on the same notebook.

    python benchmarks/check_speed.py [--lab ch01/lab01] [--rounds 5]

Both commands run as a learner types them, interleaved, on the released notebook with the reference typed in. validate
runs the visible tests only; check runs the hidden ones too. Prints medians, the ratio of each pair, and the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autograder.labs import find
from autograder.paths import root, use_own_programs
from autograder.worked_example import worked_example
from coursekit.results import machine


def seconds(command: list[str], folder: Path) -> float:
    """Wall time of one command; it has to succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", default="ch01/lab01")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    use_own_programs()
    own = Path(sys.executable).parent
    notebook, _ = worked_example(root(), find(options.lab))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "lab.ipynb"
        path.write_text(json.dumps(notebook), encoding="utf-8")
        check = [str(own / "course"), "check", options.lab, str(path)]
        validate = [str(own / "nbgrader"), "validate", str(path)]
        first = seconds(check, root())
        pairs = [(seconds(check, root()), seconds(validate, root())) for _ in range(options.rounds)]
    ratios = [checked / validated for checked, validated in pairs]
    print(f"lab                     {options.lab}")
    print(f"course check, first     {first:.2f} s (starts the warm process)")
    print(f"course check, warm      {statistics.median(c for c, _ in pairs):.2f} s (median of {options.rounds})")
    print(f"nbgrader validate       {statistics.median(v for _, v in pairs):.2f} s")
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"check / validate        {statistics.median(ratios):.2f} (median of pairs; {spread})")
    print(f"machine                 {json.dumps(machine())}")


if __name__ == "__main__":
    main()
