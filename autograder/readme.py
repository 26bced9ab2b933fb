"""The README's table of chapters, written from the tree."""

from __future__ import annotations

import re
from pathlib import Path

from autograder import catalog_pages

_TABLE = re.compile(r"(<!-- chapters:.*?-->\n).*?(<!-- end of chapters -->)", re.DOTALL)


def with_chapters(root: Path) -> str:
    """The README's text with its table of chapters as the tree has it now.

    Raises:
        ValueError: if the README has no place for the table.
    """
    text = (root / "README.md").read_text(encoding="utf-8")
    if not _TABLE.search(text):
        raise ValueError("README.md has lost the comments between which its table of chapters stands")
    rows = ["| | Chapter | State | Labs | Hours | Hardware | Milestone to reach |", "|---|---|---|---|---|---|---|"]
    for status in catalog_pages.statuses(catalog_pages.labs(root), catalog_pages.pages(root)):
        chapter = status.chapter
        minutes = status.lab_minutes + status.page_minutes
        time = catalog_pages.hours(minutes) if minutes else ""
        labs = f"{len(status.labs)} of {chapter.labs}"
        cells = [chapter.number, chapter.title, status.state, labs, time, chapter.hardware, chapter.milestone]
        rows.append(f"| {' | '.join(cells)} |")
    table = "\n".join(rows)
    return _TABLE.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)
