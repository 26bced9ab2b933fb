"""Take a learner's file from the folder of submissions, and trust nothing about it."""

from __future__ import annotations

from pathlib import Path

#: Larger notebooks are refused; a lab with all its outputs is far below.
MAX_BYTES = 20 << 20


class BadNotebook(Exception):
    """A submission that cannot be read.

    Attributes:
        status: one of not-found, too-large, unreadable, empty, not-json, truncated, not-a-notebook.
    """

    def __init__(self, status: str, message: str):
        self.status = status
        super().__init__(message)


def read_file(path: Path) -> bytes:
    """The content of a notebook file.

    Raises:
        BadNotebook: with a named status; the file is not changed.
    """
    if not path.is_file():
        raise BadNotebook("not-found", f"there is no file {path}; `course labs` lists the labs")
    if path.stat().st_size > MAX_BYTES:
        raise BadNotebook(
            "too-large",
            f"{path.name} has {path.stat().st_size >> 20} MiB, the limit is {MAX_BYTES >> 20}; clear its outputs",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadNotebook("unreadable", f"{path.name} cannot be read: {error.strerror}") from None
