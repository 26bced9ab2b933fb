"""The computed parts of the book's reference pages, as HTML for their code cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from autograder import catalog_pages as cp
from autograder import prereq_map

STATE_WORDS = {"ready": "ready", "in part": "being written", "planned": "planned"}


class Html(str):
    """A string that a notebook shows as HTML."""

    def _repr_html_(self) -> str:
        return str(self)


def chapters(root: Path | None = None) -> Html:
    """The chapters with what is written of each, for the front page."""
    rows = []
    for status in cp.statuses(cp.labs(root), cp.pages(root)):
        chapter = status.chapter
        name = escape(chapter.title)
        if status.pages or status.labs:
            target = cp.page_path(status.pages[0]) if status.pages else cp.lab_page(status.labs[0])
            name = f'<a href="{target}">{name}</a>'
        time = cp.hours(status.lab_minutes + status.page_minutes) if status.state != "planned" else ""
        rows.append(
            f'<li class="{_css(status.state)}"><span class="no">{chapter.number or "★"}</span>'
            f'<span class="what"><b>{name}</b><small>{escape(chapter.milestone)}</small></span>'
            f'<span class="state">{STATE_WORDS[status.state]}<small>{time}</small></span></li>'
        )
    return Html(f'<ol class="chapters">{"".join(rows)}</ol>')


def ways(root: Path | None = None) -> Html:
    """The ways through the course, with total times summed over what is written."""
    cards = []
    for total in cp.totals(cp.statuses(cp.labs(root), cp.pages(root))):
        chips = "".join(
            f'<span class="chip {_css(s.state)}" title="{escape(s.chapter.title)}: {STATE_WORDS[s.state]}">'
            f"{escape(s.chapter.number or 'Capstone')}</span>"
            for s in total.statuses
        )
        count = len(total.unwritten)
        todo = (
            f"{count} of {len(total.statuses)} chapters are still to be written." if count else "Everything is written."
        )
        what = "reading" if total.way.pages_only else "reading and labs"
        time = f"<b>{cp.hours(total.minutes)}</b> of {what} so far" if total.minutes else "Nothing to do yet"
        cards.append(
            f'<section class="way"><h3>{escape(total.way.name)}</h3><p>{escape(total.way.whom)}</p>'
            f'<p class="chips" aria-label="Chapters">{chips}</p><p class="sum">{time}. {todo}</p></section>'
        )
    return Html(f'<div class="ways">{"".join(cards)}</div>')


def hours_by_chapter(root: Path | None = None) -> Html:
    """Labs, pages and minutes of each chapter that has any, with the sum."""
    states = [s for s in cp.statuses(cp.labs(root), cp.pages(root)) if s.state != "planned"]
    rows = [
        (
            escape(s.chapter.name),
            f"{len(s.labs)} of {s.chapter.labs}",
            cp.hours(s.lab_minutes),
            f"{len(s.pages)} of {s.chapter.pages}",
            cp.hours(s.page_minutes),
        )
        for s in states
    ]
    return _table(("Chapter", "Labs", "Time", "Pages", "Time"), rows)


def lab_map(root: Path | None = None) -> Html:
    """The prerequisites graph over all labs."""
    return Html(prereq_map.svg(cp.labs(root), _chapter_name))


def lab_table(root: Path | None = None) -> Html:
    """The same as words: every lab, what it needs and builds."""
    found = cp.labs(root)
    by_id = {lab.id: lab for lab in found}
    rows = []
    for lab in found:
        needs = ", ".join(_lab_link(by_id[need]) for need in lab.needs if need in by_id) or "nothing"
        builds = " ".join(f"<code>{escape(name)}</code>" for name in lab.builds)
        rows.append(
            (
                f"{_lab_link(lab)} {escape(lab.title)}",
                f"{lab.minutes}&nbsp;min",
                f"{lab.difficulty}&nbsp;of&nbsp;5",
                escape(lab.hardware),
                needs,
                builds,
            )
        )
    return _table(("Lab", "Time", "Difficulty", "Hardware", "Needs", "Builds"), rows)


def concept_table(root: Path | None = None) -> Html:
    """Each concept, the page that owns it and the labs that practise it."""
    by_id = {lab.id: lab for lab in cp.labs(root)}
    rows = []
    for concept in cp.concepts(cp.pages(root)):
        practised = ", ".join(_lab_link(by_id[lab]) for lab in sorted(concept.labs) if lab in by_id)
        page = f'<a href="{cp.page_path(concept.page)}">{escape(concept.page.title)}</a>'
        rows.append((escape(concept.name), page, practised or "–"))
    return _table(("Concept", "Taught on", "Practised in lab"), rows)


def milestones(root: Path | None = None) -> Html:
    """A checklist of labs and milestones; `book/_look/progress.js` remembers what is ticked."""
    parts = []
    for status in cp.statuses(cp.labs(root), cp.pages(root)):
        chapter, ready = status.chapter, status.state != "planned"
        items = "".join(
            _tick(lab.id, f'<a href="{cp.lab_page(lab)}">Lab {escape(cp.lab_number(lab.id))} · {escape(lab.title)}</a>')
            for lab in status.labs
        )
        goal = _tick(f"milestone/{chapter.key}", f"<b>Milestone.</b> {escape(chapter.milestone)}", ready)
        note = "" if ready else ' <small class="state">planned</small>'
        title = f"<h3>{escape(chapter.name)}{note}</h3>"
        parts.append(f'<section class="{_css(status.state)}">{title}<ul>{items}{goal}</ul></section>')
    return Html(f'<div class="progress-list" data-progress>{"".join(parts)}</div>')


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """A table that scrolls by itself where the page is narrow. Cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return Html(
        f'<div class="wide"><table class="plain"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _tick(key: str, text: str, enabled: bool = True) -> str:
    off = "" if enabled else " disabled"
    return f'<li><label><input type="checkbox" data-key="{escape(key)}"{off}> <span>{text}</span></label></li>'


def _lab_link(lab: cp.Lab) -> str:
    return f'<a href="{cp.lab_page(lab)}">{escape(cp.lab_number(lab.id))}</a>'


def _chapter_name(folder: str) -> str:
    return next((c.name for c in cp.CHAPTERS if c.key == folder.split("_")[0]), folder)


def _css(state: str) -> str:
    return state.replace(" ", "-")
