"""Scripts of the book: from the build folder, never from the network, and only on pages that use them.

`course book` fills `_build/vendor` first. Where MathJax is not in it, Sphinx's own default (the network copy) stays.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

VENDOR = Path("_build") / "vendor"
MATHJAX = "mathjax/tex-chtml-full.js"
#: What a page's HTML contains -> the scripts that it needs.
SCRIPTS = {
    "plotly-graph-div": ("plotly/plotly.min.js", "figures.js"),
    'class="lens"': ("lens.js",),
    "data-progress": ("progress.js",),
    'class="prereq-map"': ("map.js",),
}


def digest(paths: list[Path]) -> str:
    """One hash over the contents of files."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def use_vendored(app: Sphinx, config: Config) -> None:
    """Add the vendored scripts to the static folders and let MathJax come from there if it can.

    What these extensions are goes into a setting, so that a change of theirs has all pages written again.
    """
    config.course_extensions = digest(sorted(Path(__file__).parent.glob("course_*.py")))
    vendor = Path(app.confdir) / VENDOR
    if vendor.is_dir():
        config.html_static_path = [*config.html_static_path, str(VENDOR)]
    if (vendor / MATHJAX).is_file():
        config.mathjax_path = MATHJAX


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Add to a page the scripts that its body needs."""
    body = context.get("body", "")
    for mark, scripts in SCRIPTS.items():
        for script in scripts if mark in body else ():
            app.add_js_file(script)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_config_value("course_extensions", "", "html", [str])
    app.connect("config-inited", use_vendored)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
