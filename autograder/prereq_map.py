"""The prerequisites graph of the labs as inline SVG: chapters as rows, labs as boxes, an arrow for each direct need.

The colours come from the page's style sheet, so the map follows the theme. An arrow that other arrows imply is left
out. Pointing at a lab lights up everything that it rests on (`book/_look/map.js`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from autograder.catalog_pages import lab_number, lab_page
from autograder.labs import Lab

BOX_WIDTH, BOX_HEIGHT = 140, 72
GAP_X, GAP_Y = 16, 34
HEADER = 30
PER_ROW = 5
WIDTH = PER_ROW * BOX_WIDTH + (PER_ROW - 1) * GAP_X + 20


@dataclass(frozen=True)
class Box:
    """A lab and the left upper corner of its box."""

    lab: Lab
    x: int
    y: int


def ancestors(labs: Sequence[Lab]) -> dict[str, set[str]]:
    """For each lab all labs that it rests on, near or far.

    Raises:
        ValueError: if labs need each other in a circle.
    """
    needs = {lab.id: list(lab.needs) for lab in labs}
    done: dict[str, set[str]] = {}

    def visit(lab_id: str, path: tuple[str, ...]) -> set[str]:
        if lab_id in path:
            raise ValueError(f"labs need each other in a circle: {' -> '.join((*path, lab_id))}")
        if lab_id not in done:
            found: set[str] = set()
            for need in needs.get(lab_id, []):
                found |= {need} | visit(need, (*path, lab_id))
            done[lab_id] = found
        return done[lab_id]

    for lab in labs:
        visit(lab.id, ())
    return done


def direct_edges(labs: Sequence[Lab]) -> list[tuple[str, str]]:
    """(needed lab, lab) for each need that no other need implies and whose lab is there."""
    above, known = ancestors(labs), {lab.id for lab in labs}
    return [
        (need, lab.id)
        for lab in labs
        for need in lab.needs
        if need in known and not any(need in above[other] for other in lab.needs if other != need)
    ]


def layout(labs: Sequence[Lab]) -> tuple[list[Box], list[tuple[str, int]], int]:
    """Boxes, chapter headings as (chapter folder, y), and the height of it all."""
    boxes: list[Box] = []
    headings: list[tuple[str, int]] = []
    y, column, chapter = 4, 0, None
    for lab in labs:
        if lab.chapter != chapter:
            y += (BOX_HEIGHT + GAP_Y) if chapter is not None else 0
            chapter, column = lab.chapter, 0
            headings.append((chapter, y + 16))
            y += HEADER
        elif column == PER_ROW:
            y, column = y + BOX_HEIGHT + GAP_Y, 0
        boxes.append(Box(lab, 10 + column * (BOX_WIDTH + GAP_X), y))
        column += 1
    return boxes, headings, y + BOX_HEIGHT + 40


def svg(labs: Sequence[Lab], chapter_name: Callable[[str], str] = str) -> str:
    """The map. `chapter_name` turns a chapter's folder into its heading."""
    boxes, headings, height = layout(labs)
    place = {box.lab.id: box for box in boxes}
    above = ancestors(labs)
    parts = [
        f'<div class="prereq-map" tabindex="0" role="group" aria-label="Prerequisites of the labs">'
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" xmlns="http://www.w3.org/2000/svg">',
        '<defs><marker id="prereq-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0.6 L8 4 L0 7.4 z" class="tip"/></marker></defs>',
    ]
    parts += [f'<text class="chapter" x="10" y="{y}">{escape(chapter_name(folder))}</text>' for folder, y in headings]
    parts += [_edge(place[start], place[end]) for start, end in direct_edges(labs)]
    parts += [_box(box, above[box.lab.id]) for box in boxes]
    return "".join([*parts, "</svg></div>"])


def _box(box: Box, above: set[str]) -> str:
    lab = box.lab
    number = lab_number(lab.id)
    lines = textwrap.wrap(lab.title, 19)
    if len(lines) > 3:
        lines = [*lines[:2], lines[2][:17].rstrip() + "…"]
    about = f"Lab {number} · {lab.title} · {lab.minutes} min · difficulty {lab.difficulty} of 5 · {lab.hardware}"
    text = "".join(
        f'<text class="name" x="{box.x + 10}" y="{box.y + 34 + 15 * i}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    badge = (
        f'<text class="hardware" x="{box.x + BOX_WIDTH - 8}" y="{box.y + 17}">{escape(lab.hardware.upper())}</text>'
        if lab.hardware != "cpu"
        else f'<text class="minutes" x="{box.x + BOX_WIDTH - 8}" y="{box.y + 17}">{lab.minutes} min</text>'
    )
    return (
        f'<a class="lab" href="{escape(lab_page(lab))}" data-lab="{escape(lab.id)}" '
        f'data-above="{escape(" ".join(sorted(above)))}"><title>{escape(about)}</title>'
        f'<rect x="{box.x}" y="{box.y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7"/>'
        f'<text class="number" x="{box.x + 10}" y="{box.y + 17}">{escape(number)}</text>{badge}{text}</a>'
    )


def _edge(start: Box, end: Box) -> str:
    """Straight to a right-hand neighbour, below the row to a lab further on, downwards to a later row."""
    if start.y == end.y and end.x - start.x == BOX_WIDTH + GAP_X:
        y = start.y + BOX_HEIGHT // 2
        path = f"M{start.x + BOX_WIDTH} {y} L{end.x} {y}"
    elif start.y == end.y:
        x1, x2, y = start.x + BOX_WIDTH - 24, end.x + 24, start.y + BOX_HEIGHT
        path = f"M{x1} {y} C{x1} {y + 26} {x2} {y + 26} {x2} {y}"
    else:
        x1, y1 = start.x + BOX_WIDTH // 2, start.y + BOX_HEIGHT
        x2, y2 = end.x + BOX_WIDTH // 2, end.y
        bend = max(18, (y2 - y1) // 2)
        path = f"M{x1} {y1} C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}"
    return (
        f'<path class="need" d="{path}" marker-end="url(#prereq-tip)" data-from="{escape(start.lab.id)}" '
        f'data-to="{escape(end.lab.id)}"/>'
    )
