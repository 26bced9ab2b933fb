"""What there is, counted from the tree: chapters, ways, concept owners. The book's reference pages show it.

Labs come from the sources' headers (`autograder.labs`), pages from the front matter in `book/*/*.md`:

    owns: [softmax saturation]      concepts that this page, and no other, teaches
    labs: [ch01/lab01]              labs that practise them; release/ch01_attention/lab01_x.ipynb means the same
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autograder import paths
from autograder.chapters import CHAPTERS, WAYS, Chapter, Way
from autograder.labs import Lab, catalog
from coursekit import reference

WORDS_PER_MINUTE = 180


@dataclass(frozen=True)
class Page:
    """A page of a chapter and what its front matter says."""

    chapter: str
    stem: str
    title: str
    minutes: int
    owns: tuple[str, ...] = ()
    labs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """How much of a chapter is written."""

    chapter: Chapter
    labs: tuple[Lab, ...]
    pages: tuple[Page, ...]

    @property
    def state(self) -> str:
        """'ready', 'in part' or 'planned'."""
        if len(self.labs) >= self.chapter.labs and len(self.pages) >= self.chapter.pages:
            return "ready"
        return "in part" if self.labs or self.pages else "planned"

    @property
    def lab_minutes(self) -> int:
        """Minutes that the written labs state."""
        return sum(lab.minutes for lab in self.labs)

    @property
    def page_minutes(self) -> int:
        """Minutes that the written pages take to read."""
        return sum(page.minutes for page in self.pages)


@dataclass(frozen=True)
class Total:
    """A way through the course with its sums over what is written."""

    way: Way
    statuses: tuple[Status, ...]

    @property
    def minutes(self) -> int:
        """Labs and pages, or pages alone where the way says so."""
        reading = sum(status.page_minutes for status in self.statuses)
        return reading if self.way.pages_only else reading + sum(status.lab_minutes for status in self.statuses)

    @property
    def unwritten(self) -> tuple[Chapter, ...]:
        """Chapters of the way of which nothing is there yet."""
        return tuple(status.chapter for status in self.statuses if status.state == "planned")


@dataclass(frozen=True)
class Concept:
    """A concept, the page that teaches it and the labs that practise it."""

    name: str
    page: Page
    labs: tuple[str, ...] = field(default=())


class DoubleOwnerError(Exception):
    """Two pages claim the same concept."""


def labs(root: Path | None = None) -> list[Lab]:
    """Every lab of the tree, in order."""
    return list(catalog(root or paths.root()))


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML between the two `---` at the top of a page; empty where there is none."""
    text = path.read_text(encoding="utf-8")
    match = re.match(r"---\n(.*?)\n---\n", text, re.S)
    return (yaml.safe_load(match[1]) or {}) if match else {}


def pages(root: Path | None = None) -> list[Page]:
    """Every page in a chapter folder of the book, in order of its path."""
    book = (root or paths.root()) / "book"
    return [_page(path) for path in sorted(book.glob("*/*.md")) if _key(path.parent.name)]


def statuses(found_labs: Sequence[Lab], found_pages: Sequence[Page]) -> list[Status]:
    """Each chapter of the plan with what is written of it."""
    return [
        Status(
            chapter,
            tuple(lab for lab in found_labs if _key(lab.chapter) == chapter.key),
            tuple(page for page in found_pages if _key(page.chapter) == chapter.key),
        )
        for chapter in CHAPTERS
    ]


def totals(states: Iterable[Status]) -> list[Total]:
    """Each way through the course with its sums."""
    by_key = {status.chapter.key: status for status in states}
    return [Total(way, tuple(by_key[key] for key in way.chapters)) for way in WAYS]


def concepts(found_pages: Iterable[Page]) -> list[Concept]:
    """Every concept with its one owner, in alphabetical order.

    Raises:
        DoubleOwnerError: if two pages own the same concept; capitals do not make two of one.
    """
    owners: dict[str, Concept] = {}
    for page in found_pages:
        for name in page.owns:
            if (first := owners.get(name.lower())) is not None:
                raise DoubleOwnerError(f"both {first.page.stem} and {page.stem} own {name!r}: a concept has one owner")
            owners[name.lower()] = Concept(name, page, page.labs)
    return [owners[key] for key in sorted(owners)]


def notebook_path(lab: Lab) -> str:
    """A lab's notebook as learners get it, as seen from the root of the tree."""
    return f"release/{lab.chapter}/{lab.stem}.ipynb"


def lab_page(lab: Lab) -> str:
    """A lab's page as seen from a page directly in `book/`."""
    return f"../release/{lab.chapter}/{lab.stem}.html"


def page_path(page: Page) -> str:
    """A page as seen from a page directly in `book/`."""
    return f"{page.chapter}/{page.stem}.html"


def lab_id(name: str) -> str:
    """The id of the lab that front matter names by id or by the path of its notebook."""
    return reference.lab_id(Path(name)) if "/" in name else name


def lab_number(lab_id: str) -> str:
    """'1.3' for 'ch01/lab03'; the chapter's name where it has no number."""
    chapter, _, lab = lab_id.partition("/")
    if chapter[2:].isdigit() and lab[3:].isdigit():
        return f"{int(chapter[2:])}.{int(lab[3:])}"
    return chapter.capitalize()


def hours(minutes: int) -> str:
    """Minutes as people say them: '50 min', '2 h', '3 h 25 min'."""
    whole, rest = divmod(minutes, 60)
    return " ".join(part for part in (f"{whole} h" * bool(whole), f"{rest} min" * bool(rest or not whole)) if part)


def fingerprint(root: Path | None = None) -> str:
    """Changes when anything changes that the computed pages show."""
    plain = [
        [lab.id, lab.title, lab.minutes, lab.difficulty, lab.hardware, lab.needs, lab.builds, lab.stem]
        for lab in labs(root)
    ]
    shown = json.dumps([plain, [repr(page) for page in pages(root)], repr(CHAPTERS), repr(WAYS)])
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def _page(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    title = re.search(r"^# (.+)$", text, re.M)
    prose = re.sub(r"^---\n.*?\n---\n|```\{code-cell\}.*?```", "", text, flags=re.S)
    about = front_matter(path)
    return Page(
        chapter=path.parent.name,
        stem=path.stem,
        title=title[1].strip() if title else path.stem,
        minutes=max(1, round(len(prose.split()) / WORDS_PER_MINUTE)),
        owns=tuple(str(name) for name in about.get("owns") or ()),
        labs=tuple(lab_id(str(name)) for name in about.get("labs") or ()),
    )


def _key(folder: str) -> str | None:
    """The chapter's key that a folder's name begins with, or None where it is no chapter."""
    key = folder.split("_")[0]
    return key if any(chapter.key == key for chapter in CHAPTERS) else None
