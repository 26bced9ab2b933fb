"""The linter of a lab's parts: what the lab guide asks for is there, in its order."""

from __future__ import annotations

import re

from autograder.labs import Lab

SECTIONS = ["The idea", "Shapes", "A picture", "Exercise", "Look at it", "Common mistakes", "Going further"]
IDEA_WORDS = (150, 400)
HYPE = re.compile(
    r"\b(amazing|awesome|revolutionary|magical|game.changing|super easy|simply just|blazing(ly)?)\b", re.IGNORECASE
)
#: Seeds of a hidden test that are not the submission's own.
PLAIN_SEED = re.compile(r"\b(manual_seed|default_rng|RandomState|random\.seed)\((?!check\.seed\()[^\n]*")
EMOJI = re.compile("[\U0001f300-\U0001faff\u2728\u2705\u274c\u26a1]|:[a-z_]+:(?=\\s|$)")


def problems(lab: Lab) -> list[str]:
    """What is missing or out of place in a lab; empty when nothing is."""
    prose = [cell.source for cell in lab.cells if cell.kind == "markdown"]
    text = "\n\n".join(prose)
    found = []
    heading = "# Capstone · " if lab.chapter == "capstone" else f"# Lab {int(lab.id[2:4])}.{int(lab.id[8:10])} · "
    if not prose or not re.match(re.escape(heading) + r"\S", prose[0]):
        found.append(f"the first line is `{heading}Title`")
    headings = [
        line.removeprefix("## ").split(" ")[0] if "Exercise" in line else line[3:]
        for line in re.findall(r"^## .+$", text, re.M)
    ]
    order = [heading for index, heading in enumerate(headings) if index == 0 or heading != headings[index - 1]]
    if order != SECTIONS:
        found.append(f"the sections are {order}, not {SECTIONS}")
    idea = re.search(r"^## The idea\n(.*?)(?=^## )", text, re.M | re.S)
    words = len(re.findall(r"\w+", re.sub(r"\$.*?\$|\|.*\|", " ", idea[1], flags=re.S))) if idea else 0
    if not IDEA_WORDS[0] <= words <= IDEA_WORDS[1]:
        found.append(f"The idea has {words} words, not {IDEA_WORDS[0]} to {IDEA_WORDS[1]}")
    if not 3 <= len(lab.exercises) <= 6:
        found.append(f"{len(lab.exercises)} exercises, not 3 to 6")
    if "| " not in text:
        found.append("there is no table of shapes")
    found += [problem for cell in lab.exercises for problem in _exercise(lab, cell.name)]
    found += [
        f"{word!r} is hype or an emoji" for pattern in (HYPE, EMOJI) for word in (m[0] for m in pattern.finditer(text))
    ]
    if not any(cell.kind == "plain" for cell in lab.cells):
        found.append("there is no cell that draws a picture")
    return found


def _exercise(lab: Lab, name: str) -> list[str]:
    position = next(i for i, cell in enumerate(lab.cells) if cell.kind == "exercise" and cell.name == name)
    cell = lab.cells[position]
    first_test = next(i for i, c in enumerate(lab.cells) if c.kind == "test" and c.name == name)
    before = lab.cells[position - 1].source if position else ""
    hints = "\n".join(c.source for c in lab.cells[position:first_test] if c.kind == "markdown")
    found = []
    if not {"difficulty", "minutes"} <= set(cell.options):
        found.append(f"{name}: the cell states difficulty and minutes")
    if "## Exercise" not in before or "minutes" not in before:
        found.append(f"{name}: a task with its difficulty and minutes stands before it")
    if hints.count("<details>") < 2:
        found.append(f"{name}: a nudge and a bigger nudge stand between it and its test")
    if '"""' not in cell.source:
        found.append(f"{name}: the docstring is the specification, and there is none")
    tests = "\n".join(test.source for test in lab.tests(name))
    if "### BEGIN HIDDEN TESTS" not in tests:
        found.append(f"{name}: there are no hidden tests")
    hidden = "\n".join(re.findall(r"### BEGIN HIDDEN TESTS(.*?)### END HIDDEN TESTS", tests, re.S))
    found += [f"{name}: hidden tests draw from check.seed(n), not {m[0]!r}" for m in PLAIN_SEED.finditer(hidden)]
    return found
