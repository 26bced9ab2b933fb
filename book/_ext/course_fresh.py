"""Execute a page again when what it is computed from has changed, not only when its own text has.

jupyter-cache knows a page by its code cells. A page that shows the labs' metadata, or draws with `coursekit`, also
depends on files that stand elsewhere. Before reading, this extension compares a fingerprint of those with that of the
last build; for pages whose fingerprint has changed it drops the cached outputs and has them read again. After the
build it writes down which pages ran.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.application import Sphinx

from autograder import catalog_pages

STORE = ".page_fingerprints.json"
EXECUTED = ".executed.json"
#: A page with this word in its text shows the catalogue.
CATALOG_MARK = "from autograder"
CATALOG_MODULES = ("catalog_html", "catalog_pages", "chapters", "prereq_map")


def digest(paths: Iterable[Path]) -> str:
    """One hash over the contents of files."""
    hashed = hashlib.sha256()
    for path in sorted(paths):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:16]


def kit_modules(root: Path, text: str) -> list[Path]:
    """The files of `coursekit` that a page imports, and those of a chapter from whose labs it carries."""
    named = re.findall(r"from coursekit import (.+)|from coursekit\.(\w+)", text)
    words = {word for pair in named for part in pair for word in re.findall(r"\w+", part)}
    chapters = set(re.findall(r'carry\("(\w+)/', text))
    solved = [path for chapter in sorted(chapters) for path in (root / "coursekit/solved").glob(f"{chapter}*/*.py")]
    return [path for word in sorted(words) if (path := root / "coursekit" / f"{word}.py").is_file()] + solved


def fingerprints(root: Path, docnames: Iterable[str]) -> dict[str, str]:
    """What each page depends on beside its own text; pages that depend on nothing are left out."""
    catalog = (
        f"{digest(root / 'autograder' / f'{name}.py' for name in CATALOG_MODULES)}-{catalog_pages.fingerprint(root)}"
    )
    found = {}
    for name in sorted(docnames):
        if name.startswith("release/"):
            found[name] = catalog
            continue
        source = root / f"{name}.md"
        text = source.read_text(encoding="utf-8") if source.is_file() else ""
        modules_used = kit_modules(root, text)
        parts = [digest(modules_used)] * bool(modules_used) + [catalog] * (CATALOG_MARK in text)
        if parts:
            found[name] = "-".join(parts)
    return found


def stale_pages(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Sphinx asks which pages to read again beyond those whose text has changed."""
    root, store = Path(app.srcdir), Path(app.outdir).parent / STORE
    before = json.loads(store.read_text()) if store.is_file() else {}
    now = fingerprints(root, env.found_docs)
    stale = [name for name in now if before.get(name) != now[name]]
    _forget(Path(env.mystnb_config.execution_cache_path), {str(root / f"{name}.md") for name in stale})
    store.write_text(json.dumps(now, indent=1, sort_keys=True))
    return [name for name in stale if name not in added]


def _forget(cache_folder: Path, sources: set[str]) -> None:
    """Drop the cached outputs of these source files."""
    if not sources or not cache_folder.is_dir():
        return
    cache = get_cache(str(cache_folder))
    for record in cache.list_cache_records():
        if record.uri in sources:
            cache.remove_cache(record.pk)


def record_executions(app: Sphinx, error: Exception | None) -> None:
    """Write down how the execution of each page ended, for `course book` to check."""
    if error is not None:
        return
    ended = {name: NbMetadataCollector.get_exec_data(app.env, name) for name in sorted(app.env.found_docs)}
    ran = {name: bool(data["succeeded"]) for name, data in ended.items() if data}
    (Path(app.outdir).parent / EXECUTED).write_text(json.dumps(ran, indent=1))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("env-get-outdated", stale_pages)
    app.connect("build-finished", record_executions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
