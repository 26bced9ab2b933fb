"""What a sudden end costs: `course grade` is killed with SIGKILL at a random moment and started again, over and over.

    python benchmarks/resume.py [--kills 20] [--learners 12] [--seed 0]

Each round grades the same class in a fresh copy of a small course. Afterwards the gradebook has to be, row by row, that
of a run which nobody disturbed: no mark lost, none doubled. What was in the journal before the kill must not have run
again and must have kept its seed, and nothing of the killed run may still be there.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from autograder.build import build  # noqa: E402
from autograder.journal import Journal  # noqa: E402
from autograder.sandbox import missing  # noqa: E402
from coursekit.results import machine  # noqa: E402
from tests import learners  # noqa: E402
from tests.conftest import make_course  # noqa: E402
from tests.learners import CHAPTER, STEM  # noqa: E402
from tests.marks import everything  # noqa: E402
from tests.stub_pool import hand_in  # noqa: E402

#: The learner whose notebook ends in the middle.
UNREADABLE = "truncated"


@dataclass
class Round:
    """One kill.

    Attributes:
        judged: notebooks in the journal when it came.
        recorded: learners with all their marks in the gradebook then.
        reused: notebooks of the journal that did not run again.
        seconds: what the second run took.
    """

    judged: int
    recorded: int
    reused: int
    seconds: float


def make_class(folder: Path, count: int) -> Path:
    """The tiny course with a class: right, half right and unwritten work, and some that cannot be read."""
    root = make_course(folder)
    build(root)
    right = learners.reference(root)
    for number in range(count):
        answers = [right, {"steps_to": right["steps_to"]}, right, {}][number % 4]
        # So that a kill has time to come while something runs.
        content = learners.notebook(root, answers, "import time\ntime.sleep(0.5)")
        hand_in(root, f"learner {number:02}", content, b"2026-11-20 10:00:00 UTC")
    hand_in(root, "nothing")
    hand_in(root, UNREADABLE, json.dumps(learners.notebook(root)).encode()[:-100])
    return root


def start(root: Path) -> subprocess.Popen:
    """`course grade` as an instructor types it."""
    command = [sys.executable, "-m", "autograder.cli", "grade", CHAPTER, "--no-feedback"]
    command += ["--i-trust-this-code"] if missing() else []
    environment = os.environ | {"COURSE_ROOT": str(root), "PYTHONPATH": str(CHECKOUT)}
    with (root / "run.log").open("ab") as log:
        return subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)


def finish(process: subprocess.Popen, root: Path) -> None:
    """Wait for the end of a run; it has to end well."""
    if process.wait(600) != 0:
        raise AssertionError(f"a run ended with {process.returncode}: {(root / 'run.log').read_text()[-2000:]}")


def work_begins(process: subprocess.Popen, root: Path) -> None:
    """Wait for the first record of the journal."""
    while not journal(root) and process.poll() is None:
        time.sleep(0.02)


def journal(root: Path) -> dict[str, tuple[int, int | None]]:
    """When each learner's record was written, and the seed in it."""
    book = Journal(root / "grading" / "journal" / CHAPTER)
    found = {}
    for path in book.folder.glob("*/*.gz"):
        if record := book.read(path.parent.name, STEM):
            found[path.parent.name] = (path.stat().st_mtime_ns, record.seed)
    return found


def outcome(root: Path) -> dict[str, Any]:
    """All that a run leaves: the gradebook's rows, the CSV but for the seeds, the names of the notebooks."""
    with (root / "grading" / f"{CHAPTER}.csv").open(newline="", encoding="utf-8") as file:
        lines = [{key: value for key, value in row.items() if key != "seed"} for row in csv.DictReader(file)]
    folder = root / "grading" / "autograded"
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return everything(f"sqlite:///{root}/grading/gradebook.db") | {"csv": lines, "files": files}


def recorded(root: Path) -> int:
    """Learners who have all their marks in the gradebook."""
    if not (root / "grading" / "gradebook.db").exists():
        return 0
    rows = everything(f"sqlite:///{root}/grading/gradebook.db")["grade"]
    return len({row[0] for row in rows} - {row[0] for row in rows if row[3] is None})


def family(first: int) -> dict[int, str]:
    """The processes below one, each with the moment when it began."""
    parents, begun = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent, *rest = (folder / "stat").read_text().rpartition(")")[2].split()
            if state != "Z":
                parents[int(folder.name)], begun[int(folder.name)] = int(parent), rest[17]
    found, fresh = set(), {first}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return {process: begun[process] for process in found}


def alive(processes: dict[int, str], seconds: float = 5.0) -> set[int]:
    """Which of these processes are still there after a while."""
    end = time.monotonic() + seconds
    while True:
        now = family(1) | family(os.getpid())
        left = {process for process, begun in processes.items() if now.get(process) == begun}
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.05)


def kill_and_resume(root: Path, after: float, undisturbed: dict[str, Any]) -> Round | None:
    """One round: kill a run so many seconds after its first verdict, and run again to the end.

    Returns:
        What was there; None if the run was over before the kill came.

    Raises:
        AssertionError: if a mark was lost or doubled, anything ran that need not, or anything was left behind.
    """
    process = start(root)
    work_begins(process, root)
    time.sleep(after)
    below = family(process.pid)
    process.kill()
    if process.wait() == 0:
        return None
    left = alive(below)
    assert not left, f"processes of the killed run are still there: {left}"
    before, marked = journal(root), recorded(root)
    begun = time.perf_counter()
    finish(start(root), root)
    seconds = time.perf_counter() - begun
    now = outcome(root)
    different = {
        name: [row for row in now[name] if row not in undisturbed[name]]
        for name in now
        if now[name] != undisturbed[name]
    }
    assert not different, f"not as in a run that nobody disturbed: {different}"
    again = journal(root)
    assert all(again[name][1] == seed for name, (_, seed) in before.items()), "a seed has changed"
    reused = {name for name, (written, _) in before.items() if again[name][0] == written}
    # What could not be read takes no time, and is read again.
    assert reused == set(before) - {UNREADABLE}, f"ran again without need: {set(before) - reused}"
    return Round(len(before), marked, len(reused), seconds)


def rounds(template: Path, scratch: Path, kills: int, draw: random.Random) -> Iterator[Round]:
    """So many kills, each in a fresh copy of a course, at random moments between the first verdict and the end.

    Raises:
        AssertionError: as `kill_and_resume`.
    """
    root = Path(shutil.copytree(template, scratch / "undisturbed"))
    process = start(root)
    work_begins(process, root)
    begun = time.perf_counter()
    finish(process, root)
    work, undisturbed = time.perf_counter() - begun, outcome(root)
    done = 0
    while done < kills:
        root = Path(shutil.copytree(template, scratch / "round"))
        result = kill_and_resume(root, draw.uniform(0, work), undisturbed)
        shutil.rmtree(root)
        if result:
            done += 1
            yield result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--learners", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        (scratch / "course").mkdir()
        template = make_class(scratch / "course", options.learners)
        found = []
        for result in rounds(template, scratch, options.kills, random.Random(options.seed)):
            found.append(result)
            print(
                f"kill {len(found):2d}  {result.judged:2d} judged, {result.recorded:2d} in the gradebook; "
                f"resumed in {result.seconds:.1f} s, {result.reused:2d} not run again"
            )
    print(f"class           {options.learners} notebooks that run, 2 that do not")
    print(f"kills           {len(found)}, seed {options.seed}")
    print("marks lost      0; doubled 0: all rows are those of a run that nobody disturbed")
    print(f"not run again   {sum(r.reused for r in found)} of {sum(r.judged for r in found)} in the journals")
    print(f"resumed in      {statistics.median(r.seconds for r in found):.1f} s (median)")
    print(f"machine         {json.dumps(machine())}")


if __name__ == "__main__":
    main()
