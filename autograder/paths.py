"""Where things are: every folder of the course, from the root of the checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def root() -> Path:
    """The checkout: `COURSE_ROOT`, else the nearest folder upwards from here or from the package with a `_toc.yml`.

    Raises:
        FileNotFoundError: if there is none, with what to do.
    """
    named = os.environ.get("COURSE_ROOT")
    starts = [Path(named)] if named else [Path.cwd(), Path(__file__).resolve().parent]
    for start in starts:
        for folder in [start, *start.parents]:
            if (folder / "_toc.yml").is_file() and (folder / "source_solutions").is_dir():
                return folder.resolve()
    raise FileNotFoundError(
        f"no course found at or above {starts[0]}: run `course` inside a checkout, or set COURSE_ROOT to its path"
    )


def use_own_programs() -> None:
    """Put this environment's programs first in PATH: nbgrader calls `alembic` and `jupyter` by name."""
    own = str(Path(sys.executable).parent)
    entries = os.environ.get("PATH", "").split(os.pathsep)
    if entries[0] != own:
        os.environ["PATH"] = os.pathsep.join([own, *entries])
