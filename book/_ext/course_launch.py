"""Launch buttons that open the right notebook, and a box on each lab's page that says how to do it.

The theme offers a Colab button on every page and points it at the page's own file, which Colab cannot open when that is
Markdown. Here a lab's page opens the lab, a page opens the labs that its front matter names (`labs:`), and any other
page has no launch button. A lab for a GPU has a group of its own. Links in raw HTML are mended on the way.
"""

from __future__ import annotations

import functools
import re
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from autograder import catalog_pages, links

PRIORITY = 600  # after the theme has filled header_buttons
RAW_LINK = re.compile(r"""(\bhref=["']([^"'#?:]+))\.(ipynb|md)(?=["'#])""")


@functools.cache
def all_labs(root: Path) -> tuple[Any, ...]:
    """Every lab, read once a build."""
    return tuple(catalog_pages.labs(root))


def labs_of(pagename: str, root: Path) -> list[Any]:
    """The labs that a page opens: itself where it is one, else those named in its front matter."""
    labs = all_labs(root)
    for lab in labs:
        if f"{pagename}.ipynb" == catalog_pages.notebook_path(lab):
            return [lab]
    source = root / f"{pagename}.md"
    named = catalog_pages.front_matter(source).get("labs") if source.is_file() else None
    wanted = [catalog_pages.lab_id(str(name)) for name in named or ()]
    unknown = set(wanted) - {lab.id for lab in labs}
    if unknown:
        raise ValueError(f"{source}: front matter names labs that are not there: {', '.join(sorted(unknown))}")
    return [lab for lab in labs if lab.id in wanted]


def button(text: str, url: str, icon: str) -> dict[str, str]:
    """One entry of a group as the theme's templates read it."""
    return {"type": "link", "text": text, "tooltip": text, "icon": icon, "url": url}


def groups(labs: list[Any], root: Path) -> list[dict[str, Any]]:
    """The launch groups of a page: one for any machine, one for labs that need a GPU. Empty ones are left out."""
    anywhere, gpu = [], []
    for lab in labs:
        path, name = catalog_pages.notebook_path(lab), f"Lab {catalog_pages.lab_number(lab.id)}"
        colab, kaggle = links.colab_url(path, root), links.kaggle_url(path, root)
        if lab.hardware == "cpu":
            anywhere += [button(f"{name} in Colab", colab, "fas fa-rocket")] if colab else []
        else:
            gpu += [button(f"{name} in Colab (GPU)", colab, "fas fa-rocket")] if colab else []
            gpu += [button(f"{name} in Kaggle (GPU)", kaggle, "fas fa-microchip")] if kaggle else []
    found = []
    if anywhere:
        found.append(_group("Open the lab", "fas fa-rocket", anywhere, "launch-buttons"))
    if gpu:
        found.append(_group("Run on a GPU", "fas fa-microchip", gpu, "gpu-launch-buttons"))
    return found


def _group(tooltip: str, icon: str, buttons: list[dict[str, str]], label: str) -> dict[str, Any]:
    return {"type": "group", "tooltip": tooltip, "icon": icon, "buttons": buttons, "label": label}


def set_buttons(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Replace the theme's launch group; drop "edit" where the file is generated and where there is no file."""
    buttons = context.get("header_buttons")
    if not isinstance(buttons, list):
        return
    root = Path(app.srcdir)
    buttons[:] = [b for b in buttons if not str(b.get("label", "")).endswith("launch-buttons")]
    if doctree is not None:
        buttons[:0] = groups(labs_of(pagename, root), root)
    generated = pagename.startswith("release/")
    for group in buttons:
        if group.get("label") == "source-buttons":
            group["buttons"] = [
                b for b in group["buttons"] if not (generated and b.get("label") == "source-edit-button")
            ]


def add_lab_box(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Under the title of a lab's page: this is for reading, and how to do it."""
    if not docname.startswith("release/"):
        return
    root = Path(app.srcdir)
    title = next(iter(doctree.findall(nodes.title)), None)
    if title is None:
        return
    for lab in labs_of(docname, root):
        path = catalog_pages.notebook_path(lab)
        colab = links.colab_url(path, root)
        opening = f'<a class="do" href="{escape(colab)}">Open in Colab</a>' if colab else ""
        where = path.replace("release/", "work/", 1)
        html = (
            f'<div class="lab-box"><p><b>This page is for reading.</b> To do the lab, run <code>make learn</code> and '
            f"open <code>{escape(where)}</code>, or use Colab. <code>course check {escape(lab.id)}</code> tells you "
            f"where you stand.</p>{opening}</div>"
        )
        title.parent.insert(title.parent.index(title) + 1, nodes.raw("", html, format="html"))


def mend_raw_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Let links inside raw HTML (a folded hint, say) lead to pages. Sphinx mends only those written in Markdown."""
    here = (Path(app.srcdir) / docname).parent

    def mend(link: re.Match[str]) -> str:
        return f"{link[1]}.html" if (here / f"{link[2]}.{link[3]}").is_file() else link[0]

    for node in doctree.findall(nodes.raw):
        if "html" in node.get("format", ""):
            node.children = [nodes.Text(RAW_LINK.sub(mend, node.astext()))]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    all_labs.cache_clear()
    app.connect("html-page-context", set_buttons, priority=PRIORITY)
    app.connect("doctree-resolved", add_lab_box)
    app.connect("doctree-resolved", mend_raw_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
