"""The gates of the lab guide, over every lab found: adding a lab is adding one file."""

from __future__ import annotations

import os

from autograder import gates, policy
from autograder.lab_model import solution_source
from autograder.verdict import judge
from tests.gates.anatomy import problems

RUN_SECONDS = 60
RUN_MEBIBYTES = 2048


def test_anatomy(lab):
    assert problems(lab) == []


def test_reference_earns_everything_within_its_limits(lab, notebooks, zygote):
    path, lab_index = notebooks(lab)
    verdict = judge(lab_index, path, zygote, everything=True, measure=True)
    busy = max(1.0, os.getloadavg()[0] / os.cpu_count())  # a machine with other work is given more time
    assert [(e.id, e.status, e.message) for e in verdict.exercises if e.points != e.max] == []
    broken = [(c["id"], c["error"]) for c in verdict.cells if c.get("error")]
    assert broken == [], "a cell of the reference notebook fails"
    assert verdict.points == verdict.max == lab.points
    assert verdict.seconds < RUN_SECONDS * busy
    assert verdict.peak_mebibytes < RUN_MEBIBYTES
    assert verdict.connections == [], "a lab runs without a network"
    assert [flag for e in verdict.exercises for flag in e.flags] == [], "the reference uses what it forbids"


def test_reference_earns_everything_without_its_demonstrations(lab, handed_in):
    _, verdict = handed_in(lab, "the reference")
    assert [(e.id, e.message) for e in verdict.exercises if e.points != e.max] == []
    assert verdict.points == lab.points


def test_untouched_release_earns_nothing(lab, handed_in):
    _, verdict = handed_in(lab, "untouched")
    assert verdict.status == "graded"
    assert verdict.points == 0
    assert {e.status for e in verdict.exercises} == {"unwritten"}


def test_reference_and_alternatives_pass(lab, exercise, zygote):
    assert gates.solutions(lab, exercise, zygote) == []


def test_mistakes_are_rejected_and_named(lab, exercise, trial):
    assert len(lab.mistakes(exercise)) >= 3
    assert trial(lab, exercise).problems == []


def test_other_submissions_draw_other_numbers_and_the_same_holds(lab, exercise, trial):
    assert trial(lab, exercise).seeded == []


def test_mutants_are_rejected(lab, zygote):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda cell: gates.survivors(lab, cell.name, zygote), lab.exercises))
    count = sum(mutants for mutants, _, _ in found)
    alive = [survivor for _, survivors, _ in found for survivor in survivors]
    unexplained = [f"{s.exercise}: {s.mutant}" for s in alive if not s.reason]
    assert unexplained == [], f"survivors without a reason, of {count} mutants"
    assert [stale for _, _, listed in found for stale in listed] == [], "listed as equivalent, but rejected or gone"
    assert len(alive) <= gates.SURVIVORS * count, f"{len(alive)} of {count} mutants survive"


def test_forbidden_shortcuts_are_flagged(lab):
    for cell in lab.exercises:
        forbid = cell.options.get("forbid", [])
        for name in forbid:
            example = name.replace(".*", ".anything") if "." in name else f"x.{name}"
            assert policy.forbidden_calls(f"def cheat(x):\n    return {example}(x)\n", forbid), f"{name} is not found"


def test_honest_code_is_not_flagged(lab, notebooks):
    """Not even where the lab's own pictures and comparisons stand in cells of the learner's own."""
    _, lab_index = notebooks(lab)
    reference = {cell.name: solution_source(cell.source) for cell in lab.exercises}
    answers = [reference]
    answers += [reference | {name: solution_source(text)} for name in reference for text in lab.alternatives(name)]
    for answer in answers:
        cells = []
        for cell in lab_index["cells"]:
            kind = "extra" if cell["kind"] == "plain" else cell["kind"]
            source = answer[cell["exercise"]] if kind == "exercise" else cell["source"]
            cells.append(cell | {"kind": kind, "source": source})
        text = policy.Notebook(lab.id, cells)
        assert [flag for e in lab_index["exercises"] for flag in text.flags(e["name"], e["forbid"])] == []
        assert text.flags_of_own_cells() == []
