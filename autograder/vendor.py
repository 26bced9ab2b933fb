"""Third-party scripts of the book, copied at build time from installed Python packages so that it works offline.

Nothing of this is committed: plotly.js comes from the plotly package, MathJax from `sphinx-mathjax-offline`. Where the
latter is missing the book falls back to MathJax's network copy, and the build says so.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

#: What a page needs of MathJax's 24 MB: the combined component with every TeX extension, its fonts, and what its
#: menu loads for readers who have formulas read aloud in English or set in braille.
MATHJAX_PARTS = (
    "tex-chtml-full.js",
    "output/chtml/fonts",
    "a11y",
    "sre/mathmaps/base.json",
    "sre/mathmaps/en.json",
    "sre/mathmaps/nemeth.json",
)
MATHJAX_NOTICE = """\
MathJax {version}, copyright The MathJax Consortium, https://www.mathjax.org
Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
Unmodified; copied by the book's build from the Python package sphinx-mathjax-offline {package}.
"""


@dataclass(frozen=True)
class Vendored:
    """What was found: plotly.js always, MathJax where its package is installed. `notes` are for the reader of a log."""

    folder: Path
    mathjax: bool
    notes: tuple[str, ...]


def find_mathjax() -> Path | None:
    """The folder of MathJax's files in the installed package `sphinx-mathjax-offline`, or None."""
    try:
        spec = importlib.util.find_spec("sphinx-mathjax-offline")
    except (ImportError, ValueError):
        return None
    folder = Path(spec.origin).parent / "static" / "mathjax" if spec and spec.origin else None
    return folder if folder and (folder / MATHJAX_PARTS[0]).is_file() else None


def prepare(folder: Path) -> Vendored:
    """Fill `folder` with plotly.js and MathJax and their licences. Files already there and of equal size are left.

    Raises:
        FileNotFoundError: if the plotly package does not hold plotly.min.js.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _prepare_plotly(folder / "plotly")
    source = find_mathjax()
    if source is None:
        shutil.rmtree(folder / "mathjax", ignore_errors=True)
        note = "sphinx-mathjax-offline is not installed: pages with formulas load MathJax from the network."
        return Vendored(folder, False, (note,))
    for part in MATHJAX_PARTS:
        _copy(source / part, folder / "mathjax" / part)
    head = (source / MATHJAX_PARTS[0]).read_text(encoding="utf-8", errors="replace")
    found = re.search(r'VERSION="(3[\d.]+)"', head)
    notice = MATHJAX_NOTICE.format(
        version=found[1] if found else "3",
        package=metadata.version("sphinx-mathjax-offline"),
    )
    (folder / "mathjax" / "LICENSE.txt").write_text(notice, encoding="utf-8")
    return Vendored(folder, True, ())


def _prepare_plotly(folder: Path) -> None:
    """plotly.min.js (its licence stands in its first lines) and the licence of the package it comes from."""
    import plotly

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    if not script.is_file():
        raise FileNotFoundError(f"{script} is missing: reinstall the plotly package")
    _copy(script, folder / "plotly.min.js")
    for path in metadata.files("plotly") or []:
        if path.name.startswith("LICENSE"):
            _copy(Path(path.locate()), folder / "LICENSE.txt")
            return


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, leaving files of equal size and age alone."""
    if source.is_dir():
        for child in source.iterdir():
            _copy(child, target / child.name)
        return
    if not source.is_file():
        return
    then = source.stat()
    if target.is_file() and (now := target.stat()).st_size == then.st_size and now.st_mtime >= then.st_mtime:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
