"""The three questions that are asked of every outcome. Each answers with a list of problems."""

from __future__ import annotations

from typing import Any

from tests.hostile.stage import HONEST, Outcome, Stage


def earned(outcome: Outcome) -> list[str]:
    """Whether the hostile learner has exactly what the code earns, and the remarks that it needs."""
    case = outcome.case
    if case.learner not in outcome.verdicts:
        return [f"{case.learner} has no result"]
    verdict, said, marks = outcome.verdict, outcome.messages(), outcome.marks()
    found = {exercise.id: exercise for exercise in verdict.exercises}
    problems = []
    for name, points in case.earns.items():
        if not _is(found[name].points, points):
            problems.append(f"{name} earned {found[name].points}, not {points}: {found[name].message}")
        recorded = sum(marks[test] for test in found[name].scores)
        if recorded != found[name].points:
            problems.append(f"the gradebook holds {recorded} for {name}, the verdict {found[name].points}")
    statuses = {"the notebook": (verdict.status, case.status)}
    statuses |= {name: (found[name].status, wanted) for name, wanted in case.statuses.items()}
    problems += [
        f"{thing} is {status!r}, not {wanted!r}: {said[:1000]}"
        for thing, (status, wanted) in statuses.items()
        if not _is(status, wanted)
    ]
    if case.runs:
        cells = [cell for cell in outcome.cells() if "".join(cell["source"]) in outcome.own]
        broken = [o["evalue"] for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
        problems += [f"an own cell did not run: {message}" for message in broken]
        if verdict.status == "graded" and len(cells) != len(outcome.own):
            problems.append(f"{len(cells)} of {len(outcome.own)} own cells are in the autograded notebook")
    flags = " | ".join([*verdict.flags, *(flag for exercise in verdict.exercises for flag in exercise.flags)])
    problems += [f"no flag says {word!r}: {flags or 'there is none'}" for word in case.flags if word not in flags]
    return problems + [f"no message says {word!r}: {said[:1000]}" for word in case.says if word not in said]


def _is(found: Any, wanted: Any) -> bool:
    return found in wanted if isinstance(wanted, set) else found == wanted


def honest(outcome: Outcome, stage: Stage) -> list[str]:
    """Whether the others have what they have when they are graded alone."""
    alone = stage.alone[outcome.case.lab]
    problems = []
    for learner in HONEST:
        if learner not in outcome.verdicts:
            problems.append(f"{learner} has no result")
            continue
        for what, now, then in [
            ("verdict", outcome.verdicts[learner].to_json(), alone.verdicts[learner].to_json()),
            ("marks in the gradebook", outcome.marks(learner), alone.marks(learner)),
            ("outputs", outcome.outputs(learner), alone.outputs(learner)),
            ("feedback page", outcome.page_text(learner), alone.page_text(learner)),
        ]:
            if now != then:
                problems.append(f"{learner}'s {what} has changed: {str(now)[:1000]}, it was {str(then)[:1000]}")
    return problems


def harmless(outcome: Outcome, stage: Stage) -> list[str]:
    """Whether nothing leaked and nothing survived."""
    case, watch = outcome.case, outcome.watch
    problems = [outcome.hung] if outcome.hung else []
    problems += [f"a process survived: {process}" for process in outcome.survivors]
    problems += [f"a file outlived the run: {path}" for path in outcome.traces]
    problems += [f"not as it was: {path}" for path in outcome.changed]
    problems += [f"it reached a socket outside: {kind}" for kind in outcome.heard]
    problems += _leaks(outcome, stage)
    problems += [
        f"{seen} {what} were in use at a time, not at most {bound}"
        for what, bound in case.at_most.items()
        if (seen := getattr(watch, what)) > bound
    ]
    return problems


def _leaks(outcome: Outcome, stage: Stage) -> list[str]:
    """Whether what goes back to the hostile learner holds anything that is not theirs."""
    if outcome.case.learner not in outcome.verdicts:
        return []
    lab, said = outcome.lab, outcome.messages()
    places = {
        "messages": said,
        "the outputs of their own cells": outcome.outputs(own=True),
        "the feedback page": outcome.page() + outcome.page_text(),
    }
    secrets = [*lab.hidden, *lab.solved]
    problems = [f"{place} show {secret!r}" for place, text in places.items() for secret in secrets if secret in text]
    won = {"messages": said, "outputs": outcome.said()}
    problems += [f"{place}: {line}" for place, text in won.items() for line in _trophies(text)]
    for path in outcome.returned():
        if path.is_symlink():
            problems.append(f"{path} is a link")
        elif path.is_file():
            content = path.read_bytes()
            problems += [
                f"{path.name} holds the secret of {where}"
                for where, s in stage.canaries.items()
                if s.encode() in content
            ]
    return problems


def _trophies(text: str) -> list[str]:
    return [f"trophy: {piece[:200]}" for piece in text.split("trophy: ")[1:]]
