"""`course doctor`: what this machine has, and what will be skipped for want of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "firefox")


def examine(root: Path) -> list[dict[str, Any]]:
    """Findings as dicts with name, found, consequence and state: ok, skip (something will be left out) or problem."""
    findings = [
        _python(),
        *_packages(root),
        _gpu(),
        _data(root),
        _display(),
        _browser(),
        _fork(),
        _sandbox(),
        _postgresql(),
        _mathjax(),
        _disk(root),
    ]
    return [finding for finding in findings if finding]


def _finding(name: str, found: str, consequence: str = "", state: str = "ok") -> dict[str, Any]:
    return {"name": name, "found": found, "consequence": consequence, "state": state}


def _python() -> dict[str, Any]:
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return _finding(
            "python", version, "the course runs on 3.11 to 3.13; make a new .venv with one of them", "problem"
        )
    return _finding("python", f"{version} at {sys.executable}")


def _packages(root: Path) -> list[dict[str, Any]]:
    """Every pinned package of the top level against what is installed."""
    findings = []
    for line in (root / "requirements.in").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line.partition("#")[0].strip())
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(
                _finding(requirement.name, "missing", "run `make learn` again, it installs the pinned set", "problem")
            )
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            findings.append(_finding(requirement.name, installed))
        else:
            note = f"pinned {requirement.specifier}; other versions may work but are not tested"
            findings.append(_finding(requirement.name, installed, note, "skip"))
    return findings


def _gpu() -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        return _finding("GPU", torch.cuda.get_device_name(0), "labs and milestones marked GPU run here")
    return _finding("GPU", "none", "chapters 0 to 9 do not need one; what is marked GPU is skipped and says so", "skip")


def _data(root: Path) -> dict[str, Any]:
    named = os.environ.get("COURSE_DATA")
    places = [Path(named)] if named else [root.parent / "shared" / "data"]
    if any((place / "tiny_shakespeare" / "input.txt").is_file() for place in places):
        return _finding(
            "data",
            str(places[0]),
            "tiny Shakespeare is read from there" if named else "set COURSE_DATA to it to use it",
        )
    return _finding(
        "data", "no local copy", "texts come from the cache, a download, or a small made-up corpus that says so", "skip"
    )


def _display() -> dict[str, Any]:
    if has_display():
        return _finding("display", "yes", "`make learn` opens the browser")
    return _finding("display", "none", "`make learn` prints the address instead of opening a browser", "skip")


def has_display() -> bool:
    """Whether a browser window can open here."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _browser() -> dict[str, Any]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found:
        return _finding("browser", found)
    return _finding("browser", "none found", "tests that open the built book in a browser are skipped", "skip")


def _fork() -> dict[str, Any]:
    if hasattr(os, "fork") and not os.environ.get("COURSE_NO_FORK"):
        return _finding("warm process", "yes", "checks after the first start in milliseconds")
    return _finding("warm process", "no fork here", "every check imports torch anew and takes seconds longer", "skip")


def _sandbox() -> dict[str, Any]:
    consequence = "`course grade` refuses other people's notebooks, unless with --i-trust-this-code"
    if sys.platform != "linux":
        return _finding("sandbox", f"not on {sys.platform}", consequence, "skip")
    from autograder import sandbox

    lacks = sandbox.missing()
    if lacks:
        return _finding("sandbox", "; ".join(lacks), consequence, "skip")
    return _finding("sandbox", sandbox.describe(), "`course grade` runs each notebook in it")


def _postgresql() -> dict[str, Any]:
    places = [*os.environ.get("PATH", "").split(os.pathsep), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    server = shutil.which("initdb", path=os.pathsep.join(places))
    if server:
        return _finding("PostgreSQL", server, "its tests run; a gradebook there is `--db postgresql://…`")
    return _finding("PostgreSQL", "no server here", "its tests are skipped, a remote one can still be used", "skip")


def _mathjax() -> dict[str, Any]:
    try:
        version = importlib.metadata.version("sphinx-mathjax-offline")
    except importlib.metadata.PackageNotFoundError:
        return _finding("MathJax", "missing", "the book loads it from the network", "skip")
    return _finding("MathJax", f"sphinx-mathjax-offline {version}", "the book shows formulas offline")


def _disk(root: Path) -> dict[str, Any]:
    free = shutil.disk_usage(root).free >> 30
    state = "ok" if free >= 2 else "problem"
    return _finding("disk", f"{free} GiB free", "" if free >= 2 else "the installation takes about 2 GiB", state)
