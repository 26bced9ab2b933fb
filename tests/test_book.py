"""The built book: complete, executed, offline, with links that lead somewhere, and fit for a phone and the dark."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, unquote, urldefrag, urlparse

import pytest

from autograder import book, catalog_pages, links, paths, vendor
from tests import book_browser

ROOT = paths.root()
#: Tags that load something when the page is opened, and the attribute that says what.
LOADS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}
needs_browser = pytest.mark.skipif(book_browser.find() is None, reason="no Chromium here")


class Found(HTMLParser):
    """Everything that a page loads, everything it links to, and its ids."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the tag loads or links to."""
        about = {key: value or "" for key, value in attrs}
        self.ids.add(about.get("id") or about.get("name") or "")
        if LOADS.get(tag) in about:
            self.loads.append(about[LOADS[tag]])
        if tag == "a" and "href" in about:
            self.links.append(about["href"])


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book; built once, also when tests run in several processes."""
    folder = ROOT / book.OUTPUT
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A learner's first build begins with the page of `course learn` that asks to wait.
        index = folder / "html" / "index.html"
        index.parent.mkdir(exist_ok=True)
        index.write_text("wait", encoding="utf-8")
        book.build(quiet=True, root=ROOT)
    return folder / "html"


def test_the_tests_of_this_file_stay_in_one_process(request):
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@test_book.py")
    assert [mark.args for mark in request.node.iter_markers("xdist_group")] == [("test_book.py",)]


def test_the_index_leads_to_the_front_page(html):
    (target,) = re.findall(r"url=([^\"]+)", (html / "index.html").read_text(encoding="utf-8"))
    assert (html / target).is_file()
    assert "Attention to Silicon" in (html / target).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def pages(html: Path) -> dict[str, Found]:
    """Every page of the contents, parsed."""
    return {page: Found((html / f"{page}.html").read_text(encoding="utf-8")) for page in book.toc_pages(ROOT)}


def is_external(target: str) -> bool:
    """Whether a target leads out of the book."""
    return bool(urlparse(target).scheme or target.startswith("//"))


def test_every_page_of_the_contents_is_written_and_every_page_with_code_ran(html):
    book.check(ROOT)
    assert len(list(html.glob("book/*.html"))) >= 8


def test_figures_of_executed_pages_are_in_the_html(html):
    for page in book.toc_pages(ROOT):
        source = book.source_of(ROOT, page)
        if source.suffix == ".md" and book.CODE_CELL in source.read_text(encoding="utf-8"):
            assert re.search(r'class="[^"]*\bcell_output\b', (html / f"{page}.html").read_text(encoding="utf-8")), page


def test_lab_pages_are_shown_without_execution(pages, html):
    labs = [page for page in pages if page.startswith("release/")]
    assert len(labs) == len(catalog_pages.labs(ROOT))
    for page in labs:
        text = (html / f"{page}.html").read_text(encoding="utf-8")
        assert not re.search(r'class="[^"]*\bcell_output\b', text), page
        assert "NotImplementedError" in text, page
        assert "lab-box" in text, page


def test_no_page_loads_anything_from_the_network(pages, html):
    for page, found in pages.items():
        assert found.loads, page
        outside = [target for target in found.loads if is_external(target) and not target.startswith("data:")]
        if vendor.find_mathjax() is None:
            outside = [target for target in outside if "mathjax" not in target]
        assert not outside, (page, outside)
    for sheet in html.rglob("_static/**/*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_script_and_style_sheet_is_there(pages, html):
    for page, found in pages.items():
        for target in found.loads:
            if not is_external(target):
                path = (html / page).parent / unquote(urlparse(target).path)
                assert path.is_file(), (page, target)


def test_only_pages_with_figures_load_plotly(pages, html):
    with_plotly = {page for page, found in pages.items() if any("plotly.min.js" in target for target in found.loads)}
    drawn = {p for p in pages if "plotly-graph-div" in (html / f"{p}.html").read_text(encoding="utf-8")}
    assert with_plotly == drawn
    assert drawn


def test_links_inside_the_book_lead_to_a_page_and_a_place(pages, html):
    known: dict[Path, Found] = {}
    for page, found in pages.items():
        for link in found.links:
            if is_external(link):
                continue
            address, place = urldefrag(link)
            path = (
                ((html / page).parent / unquote(urlparse(address).path)).resolve() if address else html / f"{page}.html"
            )
            assert path.is_file(), (page, link)
            if place and path.suffix == ".html":
                target = known.setdefault(path, Found(path.read_text(encoding="utf-8")))
                assert unquote(place) in target.ids, (page, link)


def repository_targets(pages: dict[str, Found]) -> Iterator[tuple[str, str, str | None]]:
    """(page, link, path in the tree or None) of each link to the repository, also through Colab and Kaggle."""
    url, branch = links.repository(ROOT)
    slug = url.removeprefix(links.GITHUB)
    colab = f"https://colab.research.google.com/github/{slug}/blob/{branch}/"
    for page, found in pages.items():
        for link in found.links:
            inner = parse_qs(urlparse(link).query).get("src", [link])[0]
            if link.startswith(colab):
                yield page, link, unquote(urlparse(link.removeprefix(colab)).path)
            elif inner.startswith(url):
                rest = inner.removeprefix(url)
                match = re.match(rf"/(?:blob|edit|tree|raw)/{re.escape(branch)}/([^?#]+)", rest)
                title = parse_qs(urlparse(rest).query).get("title", [""])[0]
                about = re.search(r"/(\S+)\.html", title)
                if match:
                    yield page, link, unquote(match[1])
                elif about:
                    source = book.source_of(ROOT, about[1])
                    yield page, link, str(source.relative_to(ROOT)) if source else f"{about[1]} (of an issue)"
                else:
                    yield page, link, None if rest in ("", "/", "/issues") else rest


def test_every_link_into_the_repository_names_a_file_of_the_tree(pages):
    targets = list(repository_targets(pages))
    assert len([path for _, _, path in targets if path]) >= 2 * len(pages)
    for page, link, path in targets:
        assert path is None or (ROOT / path).is_file(), (page, link)


def test_every_page_links_to_its_own_source(pages):
    own = {(page, path) for page, _, path in repository_targets(pages)}
    for page in pages:
        assert (page, str(book.source_of(ROOT, page).relative_to(ROOT))) in own, page


def test_generated_pages_offer_no_edit_link(pages):
    edits = {page for page, link, _ in repository_targets(pages) if "/edit/" in link}
    assert edits == {page for page in pages if not page.startswith("release/")}


def test_launch_buttons_open_the_labs_of_the_page_and_no_page_without_a_lab_has_one(pages):
    by_id = {lab.id: catalog_pages.notebook_path(lab) for lab in catalog_pages.labs(ROOT)}
    opened: dict[str, set[str]] = {page: set() for page in pages}
    for page, link, path in repository_targets(pages):
        if "colab" in link or "kaggle" in link:
            opened[page].add(path)
    for page, paths_opened in opened.items():
        if page.startswith("release/"):
            wanted = {f"{page}.ipynb"}
        else:
            named = catalog_pages.front_matter(ROOT / f"{page}.md").get("labs") or []
            wanted = {by_id[catalog_pages.lab_id(name)] for name in named}
        assert paths_opened == wanted, page
    assert any(len(found) > 1 for found in opened.values())


def test_no_other_launcher_is_offered(pages):
    for page, found in pages.items():
        text = " ".join(found.links)
        assert not re.search(r"mybinder|deepnote|jupyterhub|jupyterlite", text), page


def test_the_address_of_the_repository_stands_in_one_place():
    url, _ = links.repository(ROOT)
    for path in [*ROOT.glob("book/**/*.md"), *ROOT.glob("book/**/*.py"), *ROOT.glob("book/**/*.js"), ROOT / "_toc.yml"]:
        assert url not in path.read_text(encoding="utf-8"), path


@needs_browser
def test_on_a_phone_nothing_overflows_and_everything_is_drawn_without_a_network(html, tmp_path):
    for seen in book_browser.look(html, [f"{page}.html" for page in book.toc_pages(ROOT)], tmp_path):
        assert "error" not in seen, seen
        assert seen["width"] <= seen["frame"] <= 390, seen["page"]
        assert seen["too_wide"] == 0, seen["page"]
        assert seen["plotted"] == seen["figures"], seen["page"]
        if vendor.find_mathjax():
            assert seen["typeset"] >= seen["formulas"], seen["page"]
        outside = [name for name in seen["loaded"] if not name.startswith(("http://127.0.0.1", "data:"))]
        assert not outside or vendor.find_mathjax() is None, outside
        if seen["page"].endswith("intro.html"):
            assert seen["words"] > 10, "the picture on the front page is not drawn"


@needs_browser
def test_figures_are_not_boxed_in_the_dark(html, tmp_path):
    drawn = [p for p in book.toc_pages(ROOT) if "plotly-graph-div" in (html / f"{p}.html").read_text(encoding="utf-8")]
    for seen in book_browser.look(html, [f"{page}.html" for page in drawn], tmp_path, width=1200, theme="dark"):
        assert seen["theme"] == "dark"
        assert seen["figures"] > 0
        assert seen["boxed"] == 0, seen["page"]
        assert seen["too_wide"] == 0, seen["page"]
        assert seen["width"] <= seen["frame"], seen["page"]
