"""What cases share: the two labs, answers to them, and pieces that must never be seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests import learners


@dataclass(frozen=True)
class Lab:
    """A small lab of the tests.

    Attributes:
        id, chapter, stem: where it is.
        answers: a right answer to each exercise, in other words than the solutions.
        hidden, solved: pieces of its hidden tests and of its solutions.
    """

    id: str
    chapter: str
    stem: str
    answers: dict[str, str]
    hidden: list[str]
    solved: list[str]


EMA = """def ema(x, beta, correct_bias=True):
    if beta < 0 or beta >= 1:
        raise ValueError("beta out of range")
    out = torch.zeros_like(x)
    for t in range(len(x)):
        weights = (1 - beta) * beta ** torch.arange(t, -1, -1, dtype=x.dtype)
        out[t] = (weights[:, None] * x[: t + 1]).sum(0)
        if correct_bias:
            out[t] /= 1 - beta ** (t + 1)
    return out
"""
STEPS_TO = """def steps_to(share, beta):
    n = 0
    while not beta**n < share:
        n += 1
    return n
"""
AFFINE = """class Affine(nn.Module):
    def __init__(self, features, start=1.0):
        super().__init__()
        self.scale = nn.Parameter(start * torch.ones(features))
        self.shift = nn.Parameter(torch.zeros(features))

    def forward(self, x):
        return torch.mul(x, self.scale).add(self.shift)
"""
SQUASH = """def squash(x):
    return x.div(x.abs().add(1))
"""
#: Wrong answers, which pass no test. They raise what they should, so that only their values give them away.
WRONG_EMA = """def ema(x, beta, correct_bias=True):
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    return x
"""
WRONG_STEPS = "def steps_to(share, beta):\n    return -1\n"
WRONG_SQUASH = "def squash(x):\n    return x + 1\n"

LABS = {
    "ema": Lab(
        learners.LAB,
        learners.CHAPTER,
        learners.STEM,
        {"ema": EMA, "steps_to": STEPS_TO},
        learners.HIDDEN,
        learners.SOLVED,
    ),
    "layer": Lab(
        "ch91/lab01",
        "ch91_layers",
        "lab01_layer",
        {"affine": AFFINE, "squash": SQUASH},
        ["secret_marker", "import softsign", "assert_allclose(", "HIDDEN TESTS"],
        ["torch.full((features", "x / (1 + x.abs())", "BEGIN SOLUTION"],
    ),
}


def notebook(
    root: Path, lab: Lab, answers: dict[str, str | None], extra: str | None = None, last: str | None = None
) -> dict[str, Any]:
    """The released notebook with answers typed into it, and cells of the learner's own."""
    path = root / "release" / lab.chapter / f"{lab.stem}.ipynb"
    content = json.loads(path.read_text(encoding="utf-8"))
    cells = content["cells"]
    for cell in filter(learners.is_answer, cells):
        answer = answers.get(learners.grade_id(cell))
        cell["source"] = cell["source"] if answer is None else answer
    if extra is not None:
        cells.insert(
            next(number for number, cell in enumerate(cells) if learners.is_answer(cell)), learners.code_cell(extra)
        )
    if last is not None:
        cells.append(learners.code_cell(last) | {"id": "last"})
    return content


def answer_cell(content: dict[str, Any], exercise: str) -> dict[str, Any]:
    """The cell of a notebook that answers an exercise."""
    return next(c for c in content["cells"] if learners.is_answer(c) and learners.grade_id(c) == exercise)


class _Live(HTMLParser):
    """Collects what a browser would run or fetch."""

    def __init__(self, word: str):
        super().__init__(convert_charrefs=True)
        self.word, self.inside, self.found = word, "", []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style"):
            self.inside = tag
        for name, value in attributes:
            link = (
                tag == "a" and name == "href" and not (value or "").strip().lower().startswith(("javascript", "data"))
            )
            if self.word in (value or "") and not link and name not in ("title", "alt", "id"):
                self.found.append(f"<{tag} {name}={value!r}>")

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside and self.word in data:
            self.found.append(f"<{self.inside}>{data[:200]}")


def live(page: str, word: str) -> list[str]:
    """Where ``word`` stands in something that a browser would run or fetch, rather than show: in attributes other than
    those of a plain link, and in scripts and styles."""
    parser = _Live(word)
    parser.feed(page)
    parser.close()
    return parser.found
