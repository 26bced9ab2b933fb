"""Fixtures of all tests of the sandbox."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

import pytest

from autograder import sandbox
from tests.sandbox.inmates import NORMAL_USER, SMALL, Outcome, Running


@pytest.fixture(scope="module")
def complete():
    if lack := sandbox.missing():
        pytest.skip(f"this machine has no sandbox: {lack}")


@pytest.fixture(params=["as started", "as a normal user"])
def start(request, complete):
    """Start a function in the sandbox; where root runs the tests, also as somebody who never was root."""
    user = NORMAL_USER if request.param == "as a normal user" else None
    if user is not None and os.geteuid() != 0:
        pytest.skip("only root can become somebody else; 'as started' is a normal user here")
    running: list[Running] = []

    def go(function, limits=SMALL, prepare=lambda: None, **more):
        running.append(Running(function, replace(limits, **more), user, prepare))
        return running[-1]

    yield go
    for one in running:
        with contextlib.suppress(ProcessLookupError, ChildProcessError, OSError):
            one.hang_up()


@pytest.fixture
def inside(start):
    """Run a function in the sandbox and return what it returns."""

    def go(function, limits=SMALL, **more):
        outcome: Outcome = start(function, limits, **more).outcome()
        assert not outcome.error, outcome.error
        assert outcome.ended == "done"
        return outcome.value

    return go
