"""The gates that every lab passes, as functions: the tests call them, and so does `course gates LAB`.

The jobs at the end run in a fork of the zygote, on the reference with one thing changed at a time.
"""

from __future__ import annotations

import ast
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autograder import watch
from autograder.mutate import mutants
from coursekit import diagnose
from coursekit.reference import Reference, apply_edits, defined_names

if TYPE_CHECKING:
    from autograder.labs import Lab
    from autograder.warm import Zygote

#: At most this share of a lab's mutants may survive.
SURVIVORS = 0.05
MUTANT_SECONDS = 5.0
JOB_SECONDS = 300.0


@dataclass(frozen=True)
class Survivor:
    """A mutant that no test rejected."""

    exercise: str
    mutant: str
    reason: str | None


@dataclass(frozen=True)
class Trial:
    """What became of an exercise's mistakes.

    Attributes:
        problems: with the mistakes table: each mistake must be rejected, and named by its own sentence.
        kinds: sentence -> for each test of the exercise the kind of error that it ends with, or None.
        seeded: problems under other seeds, which decide no mark. Right answers must pass. A mistake must fail the tests
            that it fails under the plain seeds and no others, those of later exercises included that build on this one.
    """

    problems: list[str]
    kinds: dict[str, list[str | None]]
    seeded: list[str]


def job_for(lab: Lab, exercise: str) -> dict[str, Any]:
    """What the jobs need of a lab, as plain values."""
    from autograder.lab_model import solution_source

    cells = []
    for cell in lab.cells:
        if cell.kind == "given":
            cells.append([None, cell.source])
        elif cell.kind == "exercise":
            cells.append([cell.name, solution_source(cell.source)])
    return {
        "lab": lab.id,
        "exercise": exercise,
        "cells": cells,
        "tests": [cell.source for cell in lab.tests(exercise)],
        "mistakes": lab.mistakes(exercise),
        "alternatives": [solution_source(source) for source in lab.alternatives(exercise)],
        "forbid": {cell.name: cell.options.get("forbid", []) for cell in lab.exercises},
    }


def solutions(lab: Lab, exercise: str, zygote: Zygote) -> list[str]:
    """Problems of the reference and of the lab's alternative answers.

    Each must pass all tests of the exercise, and use nothing that the exercise forbids while it does.
    """
    return zygote.call("solutions", job_for(lab, exercise), JOB_SECONDS)


def mistakes(lab: Lab, exercise: str, seeds: list[int], zygote: Zygote) -> Trial:
    """Try every mistake of an exercise, under the plain seeds and under others (`coursekit.check.seed`)."""
    job = job_for(lab, exercise) | {"seeds": seeds, "later": _tests_of_users(lab, exercise)}
    return Trial(**zygote.call("mistakes", job, JOB_SECONDS))


def _tests_of_users(lab: Lab, exercise: str) -> list[str]:
    """The tests of those later exercises whose answers or tests use this one, themselves or through others."""
    from autograder.lab_model import solution_source

    names, found = set(), []
    for cell in lab.exercises:
        answer, tests = solution_source(cell.source), [test.source for test in lab.tests(cell.name)]
        nodes = (node for source in (answer, *tests) for node in ast.walk(ast.parse(source)))
        if cell.name == exercise or any(isinstance(node, ast.Name) and node.id in names for node in nodes):
            names.update(defined_names(answer))
            found += tests if cell.name != exercise else []
    return found


def survivors(lab: Lab, exercise: str, zygote: Zygote) -> tuple[int, list[Survivor], list[str]]:
    """How many mutants the exercise has, which survive, and listed equivalents that do not (or no longer) survive."""
    result = zygote.call("mutants", job_for(lab, exercise), JOB_SECONDS)
    listed = lab.equivalents(exercise)
    alive = [Survivor(exercise, mutant, listed.get(mutant)) for mutant in result["survivors"]]
    return result["count"], alive, sorted(set(listed) - set(result["survivors"]))


def solutions_job(job: dict[str, Any]) -> list[str]:
    """In the fork: run the tests on the reference and on every alternative."""
    reference = _prepare(job)
    problems = []
    cells = {f"<{job['lab']} {name or 'given'}>": ("exercise" if name else "given", name) for name, _ in job["cells"]}
    for number, replacement in enumerate([None, *job["alternatives"]]):
        label = f"alternative {number}" if number else "the reference"
        with watch.install(job["forbid"], cells) as watching:
            scope = reference.namespace({job["exercise"]: replacement} if replacement else None)
            for index, test in enumerate(job["tests"], 1):
                seen = diagnose.trace(test, scope, [])
                if seen.failure:
                    what = f"{seen.failure[0]}: {seen.failure[1]}"
                    problems.append(f"{job['exercise']}: {label} fails test {index}: {what}")
        problems += [f"{exercise}: {label} uses {name} in line {line}" for exercise, line, name in watching.finds()]
    return problems


def mistakes_job(job: dict[str, Any]) -> dict[str, Any]:
    """In the fork: every mistake against the tests, against every other mistake, and under other seeds."""
    reference, exercise = _prepare(job), job["exercise"]
    names = reference.names(exercise)
    traces, failed, problems = {}, {}, []

    def tried(edits: list[list[str]], names: list[str]) -> tuple[list[diagnose.Trace], list[int]]:
        """What the exercise's own tests say, and the numbers of all that fail, later exercises' included."""
        scope = reference.namespace({exercise: apply_edits(reference.source(exercise), edits)})
        mine = [diagnose.trace(test, scope, names) for test in job["tests"]]
        others = [diagnose.trace(test, scope, []) for test in job["later"]]
        return mine, [number for number, seen in enumerate(mine + others, 1) if seen.failure]

    for sentence, edits in job["mistakes"].items():
        try:
            traces[sentence], failed[sentence] = tried(edits, names)
        except Exception as error:
            problems.append(
                f"{exercise}: {sentence!r} does not even define the exercise: {type(error).__name__}: {error}"
            )
            continue
        if all(seen.failure is None for seen in traces[sentence]):
            problems.append(f"{exercise}: {sentence!r} is not rejected")
    for sentence, mine in traces.items():
        failing = [index for index, seen in enumerate(mine) if seen.failure]
        agreed = [
            s for s, theirs in traces.items() if all(diagnose.same(mine[index], theirs[index]) for index in failing)
        ]
        if failing and agreed[0] != sentence:
            problems.append(f"{exercise}: {sentence!r} would be named {agreed[0]!r}: no test tells them apart")
    kinds = {sentence: [seen.failure and seen.failure[0] for seen in mine] for sentence, mine in traces.items()}
    return {"problems": problems, "kinds": kinds, "seeded": _under_other_seeds(job, tried, failed)}


def _under_other_seeds(job: dict[str, Any], tried: Callable[..., Any], plain: dict[str, list[int]]) -> list[str]:
    problems = []
    for seed in job["seeds"]:
        os.environ["COURSE_SEED"] = str(seed)
        problems += [f"seed {seed}: {problem}" for problem in solutions_job(job)]
        for sentence in plain:
            _, other = tried(job["mistakes"][sentence], [])
            if other != plain[sentence]:
                problems.append(
                    f"seed {seed}: {job['exercise']}: {sentence!r} fails tests {other}, not {plain[sentence]}"
                )
    return problems


def mutants_job(job: dict[str, Any]) -> dict[str, Any]:
    """In the fork: which mutants of the solution do all tests accept?"""
    reference, exercise = _prepare(job), job["exercise"]
    alive, all_mutants = [], mutants(reference.source(exercise))
    # What the tests import is imported before the clock runs.
    scope = reference.namespace()
    for test in job["tests"]:
        diagnose.trace(test, scope, [])
    signal.signal(signal.SIGALRM, _too_long)
    for description, source in all_mutants:
        signal.setitimer(signal.ITIMER_REAL, MUTANT_SECONDS)
        try:
            scope = reference.namespace({exercise: source})
            killed = any(diagnose.trace(test, scope, []).failure for test in job["tests"])
        except (Exception, _TooLong):
            killed = True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not killed:
            alive.append(description)
    return {"count": len(all_mutants), "survivors": alive}


class _TooLong(BaseException):
    pass


def _too_long(number, frame):
    raise _TooLong


def _prepare(job: dict[str, Any]) -> Reference:
    import torch

    os.environ["COURSE_GRADING"] = "1"
    torch.set_num_threads(1)
    return Reference(job["lab"], [(name, source) for name, source in job["cells"]])
