"""The stage on which hostile submissions are graded: one for all cases, and gone before other tests come."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from autograder import sandbox
from tests.hostile.stage import Stage


@pytest.fixture(scope="package")
def stage():
    if lacking := sandbox.missing():
        pytest.skip(f"this machine cannot confine a submission: {'; '.join(lacking)}")
    # Not below pytest's own folder, which only its owner may enter: here nothing but the sandbox keeps anybody out.
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder, Stage(Path(folder)) as made:
        yield made
