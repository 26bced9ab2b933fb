"""The builder of the book: it fails when it should, and says so; its scripts come from packages."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path

import pytest
import yaml

from autograder import book, links, paths, vendor
from tests.extensions import load as extension

ROOT = paths.root()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A book of one page with one cell, with the course's own settings and extensions."""
    shutil.copytree(ROOT / "book" / "_ext", tmp_path / "book" / "_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book" / "_look", tmp_path / "book" / "_look")
    shutil.copytree(ROOT / "autograder", tmp_path / "autograder", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "coursekit", tmp_path / "coursekit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "source_solutions").mkdir()
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "book/intro"}))
    return tmp_path


def write_page(root: Path, code: str, text: str = "Text.") -> None:
    """The one page of the small book."""
    head = (
        "---\njupytext:\n  text_representation: {extension: .md, format_name: myst}\nkernelspec: {name: python3}\n---\n"
    )
    (root / "book" / "intro.md").write_text(f"{head}# Page\n\n{text}\n\n```{{code-cell}}\n{code}\n```\n")


def test_a_cell_that_fails_fails_the_build_and_fails_it_again(small):
    write_page(small, "print('before')\n1 / 0")
    for _ in range(2):
        with pytest.raises(book.BookError, match=r"Executing notebook failed"):
            book.build(quiet=True, root=small)
    write_page(small, "print('mended')")
    assert "mended" in book.build(quiet=True, root=small).read_text(encoding="utf-8")


def test_a_link_to_nothing_fails_the_build(small):
    write_page(small, "1", text="See [that page](nowhere.md) and {ref}`no-such-place`.")
    with pytest.raises(book.BookError, match=r"nowhere"):
        book.build(quiet=True, root=small)


def test_a_page_of_the_contents_without_a_file_is_named_before_anything_runs(small):
    with pytest.raises(book.BookError, match=r"book/intro"):
        book.build(quiet=True, root=small)
    assert not (small / book.OUTPUT / book.LOG).exists()


def test_a_green_build_that_wrote_nothing_is_found(tmp_path):
    (tmp_path / "_toc.yml").write_text(
        yaml.safe_dump({"format": "jb-book", "root": "intro", "chapters": [{"file": "a"}]})
    )
    for page in ("intro", "a"):
        (tmp_path / f"{page}.md").write_text(f"# {page}\n\n{book.CODE_CELL}\n1\n```\n")
    out = tmp_path / book.OUTPUT
    (out / "html").mkdir(parents=True)
    (out / "html" / "intro.html").touch()
    with pytest.raises(book.BookError, match=r"did not write: a$"):
        book.check(tmp_path)
    (out / "html" / "a.html").touch()
    with pytest.raises(book.BookError, match=r"not executed: intro, a"):
        book.check(tmp_path)
    (out / book.EXECUTED).write_text(json.dumps({"intro": True, "a": False}))
    with pytest.raises(book.BookError, match=r"not executed: a$"):
        book.check(tmp_path)
    (out / book.EXECUTED).write_text(json.dumps({"intro": True, "a": True}))
    book.check(tmp_path)


def test_the_contents_are_read_in_order(tmp_path):
    toc = {
        "format": "jb-book",
        "root": "r",
        "parts": [{"caption": "x", "chapters": [{"file": "a", "sections": [{"file": "b"}]}]}],
    }
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    assert book.toc_pages(tmp_path) == ["r", "a", "b"]


def test_scripts_and_their_licences_come_from_packages(tmp_path):
    found = vendor.prepare(tmp_path)
    assert (tmp_path / "plotly" / "plotly.min.js").stat().st_size > 1_000_000
    assert "MIT" in (tmp_path / "plotly" / "LICENSE.txt").read_text(encoding="utf-8")
    if vendor.find_mathjax() is None:
        pytest.skip("sphinx-mathjax-offline is not installed")
    assert found.mathjax
    assert not found.notes
    assert "Apache License, Version 2.0" in (tmp_path / "mathjax" / "LICENSE.txt").read_text(encoding="utf-8")
    assert list((tmp_path / "mathjax").rglob("*.woff"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.js")}
    vendor.prepare(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.js")}, "copied again for nothing"


def test_without_the_package_the_book_falls_back_to_the_network_and_says_so(tmp_path, monkeypatch):
    vendor.prepare(tmp_path / "_build" / "vendor")
    monkeypatch.setattr(vendor, "find_mathjax", lambda: None)
    found = vendor.prepare(tmp_path / "_build" / "vendor")
    assert not found.mathjax
    assert "from the network" in found.notes[0]
    config = types.SimpleNamespace(html_static_path=["look"], mathjax_path="https://a.network/copy.js")
    extension("course_assets").use_vendored(types.SimpleNamespace(confdir=str(tmp_path)), config)
    assert config.mathjax_path == "https://a.network/copy.js"
    assert config.html_static_path == ["look", "_build/vendor"]


def write_config(root: Path, url: str, branch: str = "main") -> Path:
    """A tree whose settings name a repository."""
    (root / "_config.yml").write_text(yaml.safe_dump({"repository": {"url": url, "branch": branch}}))
    return root


def test_every_address_follows_the_one_setting(tmp_path):
    root = write_config(tmp_path, "https://github.com/a/b/", "trunk")
    path = "release/ch01_attention/lab 1.ipynb"
    assert links.repository(root) == ("https://github.com/a/b", "trunk")
    assert links.colab_url(path, root) == (
        "https://colab.research.google.com/github/a/b/blob/trunk/release/ch01_attention/lab%201.ipynb"
    )
    assert links.file_url(path, root) == "https://github.com/a/b/blob/trunk/release/ch01_attention/lab%201.ipynb"
    assert "src=https%3A%2F%2Fgithub.com%2Fa%2Fb%2Fblob%2Ftrunk" in links.kaggle_url(path, root)


def test_colab_needs_github(tmp_path):
    root = write_config(tmp_path, "https://gitlab.com/a/b")
    assert links.colab_url("x.ipynb", root) is None
    assert links.kaggle_url("x.ipynb", root) is None


def test_a_missing_setting_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"repository\.url is not set"):
        links.repository(write_config(tmp_path, ""))
