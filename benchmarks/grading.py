"""How fast a class is graded: `course grade`, sandbox and split on, against stock `nbgrader autograde`.

    python benchmarks/grading.py [--lab ch01/lab01] [--class 50] [--rounds 3] [--jobs 2] [--sizes 10,50,100,500]

Both commands grade the same class as an instructor types them, interleaved, each time in a fresh copy of a course that
holds this one lab, with the assignment released and nothing graded. The learners differ: some have every answer, some
have known mistakes, some have left exercises out. Prints medians, the ratio of each pair, whether the gradebooks agree
row by row, what the cells alone take, and the cost of one more submission as the class grows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autograder.build import index_of
from autograder.lab_model import solution_source
from autograder.labs import Lab, find
from autograder.paths import root, use_own_programs
from autograder.references import references
from autograder.split import Terms, defined, run
from autograder.warm import Zygote
from coursekit.reference import apply_edits
from coursekit.results import machine

ROWS = """
select student.id, base_cell.name, grade.auto_score, grade.manual_score, grade.needs_manual_grade, comment.auto_comment
from grade join base_cell on base_cell.id = grade.cell_id
join submitted_notebook on submitted_notebook.id = grade.notebook_id
join submitted_assignment on submitted_assignment.id = submitted_notebook.assignment_id
join student on student.id = submitted_assignment.student_id
left join comment on comment.notebook_id = grade.notebook_id and comment.cell_id = grade.cell_id
order by 1, 2
"""


def course_of(lab: Lab, folder: Path) -> Path:
    """A course that holds one lab, built and registered with nbgrader."""
    home = root()
    folder.mkdir()
    for name in ("_config.yml", "_toc.yml", "nbgrader_config.py"):
        shutil.copy(home / name, folder / name)
    for other in ("source_solutions", "coursekit/solved"):
        # All references, because the lab may carry from others; its own source only, so the assignment is one lab.
        shutil.copytree(home / other, folder / other)
    for source in (folder / "source_solutions" / lab.chapter).glob("*.py"):
        if source.stem != lab.stem:
            source.unlink()
    command(["course", "build"], folder)
    command(["nbgrader", "generate_assignment", lab.chapter, "--force"], folder)
    return folder


def hand_in(lab: Lab, course: Path, count: int) -> None:
    """Submissions of so many learners, the same every time."""
    released = json.loads((course / "release" / lab.chapter / f"{lab.stem}.ipynb").read_text(encoding="utf-8"))
    draw = random.Random(0)
    for number in range(count):
        for cell in released["cells"]:
            marks = cell["metadata"].get("nbgrader", {})
            if marks.get("solution"):
                cell["source"] = answer(lab, marks["grade_id"], draw)
        place = course / "grading" / "submitted" / f"learner{number:04d}" / lab.chapter / f"{lab.stem}.ipynb"
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(released), encoding="utf-8")


def answer(lab: Lab, exercise: str, draw: random.Random) -> str:
    """Mostly right, sometimes a known mistake, sometimes nothing."""
    reference = next(cell.source for cell in lab.exercises if cell.name == exercise)
    luck = draw.random()
    if luck < 0.1:
        return f"def {exercise}(*args, **kwargs):\n    raise NotImplementedError\n"
    edits = draw.choice(list(lab.mistakes(exercise).values())) if luck < 0.3 else []
    return apply_edits(solution_source(reference), edits)


def command(words: list[str], course: Path) -> float:
    """Wall time of one command in a course; it has to succeed."""
    own = Path(sys.executable).parent
    start = time.perf_counter()
    done = subprocess.run(
        [str(own / words[0]), *words[1:]],
        cwd=course,
        capture_output=True,
        text=True,
        env=os.environ | {"COURSE_ROOT": str(course)},
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - start


def rows(course: Path) -> list[tuple]:
    """Every grade in a gradebook."""
    with sqlite3.connect(course / "grading" / "gradebook.db") as database:
        return database.execute(ROWS).fetchall()


def fresh(template: Path, scratch: Path, name: str) -> Path:
    return Path(shutil.copytree(template, scratch / name))


def cells_alone(lab: Lab, jobs: int) -> float:
    """Seconds of the cells of one right notebook, by themselves, shared by so many jobs."""
    index = index_of(lab.id)
    cells = [cell for cell in index["cells"] if cell["kind"] != "markdown"]
    job = {"lab": lab.id, "cells": cells, "cell_seconds": 60, "diagnose": False}
    with Zygote(clean=True) as zygote:
        runs = [run(job, defined(index), zygote, Terms(references(index, root()))) for _ in range(5)]
    return statistics.median(sum(cell["seconds"] for cell in result["cells"]) for result in runs) / jobs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", default="ch01/lab01")
    parser.add_argument("--class", dest="size", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sizes", default="10,50,100,500")
    options = parser.parse_args()
    use_own_programs()
    lab = find(options.lab)
    ours = ["course", "grade", lab.chapter, "--jobs", str(options.jobs), "--no-feedback"]
    stock = ["nbgrader", "autograde", lab.chapter]
    print(f"machine        {json.dumps(machine())}")
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        template = course_of(lab, scratch / "template")
        hand_in(lab, template, options.size)
        pairs, same = [], []
        for number in range(options.rounds):
            one, other = fresh(template, scratch, f"ours{number}"), fresh(template, scratch, f"stock{number}")
            pairs.append((command(ours, one), command(stock, other)))
            same.append(rows(one) == rows(other))
        report(lab, options, pairs, same)
        sizes = [int(size) for size in options.sizes.split(",") if size]
        shutil.rmtree(template / "grading" / "submitted")
        took = []
        for size in sizes:
            course = fresh(template, scratch, f"size{size}")
            hand_in(lab, course, size)
            took.append(command(ours, course))
            print(f"class of {size:4d}  {took[-1]:.1f} s, {took[-1] / size:.3f} s a submission")
        for (small, first), (large, second) in zip(
            zip(sizes, took, strict=True), list(zip(sizes, took, strict=True))[1:], strict=False
        ):
            print(f"one more, from {small} to {large}: {(second - first) / (large - small):.3f} s")


def report(lab: Lab, options: argparse.Namespace, pairs: list[tuple[float, float]], same: list[bool]) -> None:
    """Print what the paired runs say."""
    mine, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [other / one for one, other in pairs]
    alone = cells_alone(lab, options.jobs)
    print(f"lab            {options.lab}, a class of {options.size}, {options.jobs} jobs, {options.rounds} rounds")
    print(f"course grade   {mine:.1f} s, {mine / options.size:.3f} s a submission")
    print(f"autograde      {theirs:.1f} s, {theirs / options.size:.3f} s a submission")
    print(f"ratio          {statistics.median(ratios):.1f} (pairs {min(ratios):.1f} to {max(ratios):.1f})")
    print(f"same rows      {sum(same)} of {len(same)} rounds")
    print(f"cells alone    {alone:.3f} s a submission with {options.jobs} jobs, the limit")


if __name__ == "__main__":
    main()
