"""The learner's process as tests of split grading use it: the real one, without the sandbox (it has its own tests)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autograder.channel import Channel
from autograder.limits import Limits
from autograder.proxy import Link
from autograder.warm import Zygote


class Learner:
    """The learner's process, and this end of the line to it."""

    def __init__(self, link: Link):
        self.link = link

    def run(self, source: str, seconds: float = 20.0) -> dict[str, Any]:
        """Run a cell; its report."""
        self.link.begin(seconds)
        return self.link.run({"id": "cell", "kind": "extra", "exercise": None, "source": source})

    def __call__(self, source: str, *names: str) -> Any:
        """Run a cell that has to work; what its names stand for."""
        report = self.run(source)
        assert report["error"] is None, report["error"]
        self.link.begin(20.0)
        found = self.link.names(list(names))
        assert list(found) == list(names)
        return found[names[0]] if len(names) == 1 else tuple(found.values())


@contextlib.contextmanager
def started(zygote: Zygote, folder: Path) -> Iterator[Learner]:
    """A learner's process that works in a folder."""
    place = str(folder)
    there = {"references": {}, "limits": Limits().to_json(), "sandbox": False, "forbid": {}}
    there |= {"root": place, "folder": place}
    theirs, ours = socket.socketpair()
    with theirs, ours, zygote.start("subject", there, theirs):
        theirs.close()
        yield Learner(Link(Channel(ours)))
