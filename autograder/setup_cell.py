"""The first code cell of every lab."""

from __future__ import annotations

from pathlib import Path

from autograder.links import repository

TEMPLATE = """\
# On Colab: install the course's package, then only what is missing. Anywhere else this does nothing.
import sys

if "google.colab" in sys.modules:
    import subprocess

    package = "attention-to-silicon @ git+{url}@{branch}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", package], check=True)
    from coursekit import colab

    colab.prepare()
"""


def setup_cell(root: Path) -> str:
    """The source of the first code cell."""
    url, branch = repository(root)
    return TEMPLATE.format(url=url, branch=branch)
