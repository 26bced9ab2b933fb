"""Take a learner's files from the folder of submissions, and trust nothing about them.

Whoever hands in may make links, pipes and files that grow. So `fetch` opens every part of the path below the folder of
submissions by itself, follows no link, opens nothing but ordinary files, and reads no more than a limit. It works on
descriptors of folders, so that nothing can change places between a check and the use of what was checked. Python
offers that on Linux and macOS, where grading runs.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from pathlib import Path

#: Larger notebooks are refused; a lab with all its outputs is far below.
MAX_BYTES = 20 << 20

# Without O_NONBLOCK opening a pipe waits for somebody to write; with O_NOCTTY a terminal does not become ours.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class BadNotebook(Exception):
    """A submission that cannot be read. The message says what is wrong, why, and what to try.

    Attributes:
        status: one of not-found, link, not-a-file, too-large, unreadable (of the file); empty, not-json, truncated,
            not-a-notebook, too-large (of its content, see `autograder.restore`).
    """

    def __init__(self, status: str, message: str):
        self.status = status
        super().__init__(message)


def read_file(path: Path) -> bytes:
    """The content of a notebook that its owner names: links on the way are theirs and are followed.

    Args:
        path: the file.

    Raises:
        BadNotebook: with a named status; the file is not changed.
    """
    try:
        _must_be_file(os.stat(path), path.name)
        descriptor = os.open(path, _FILE)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise BadNotebook("not-found", f"there is no file {path}; `course labs` lists the labs") from None
        raise _unreadable(path.name, error) from None
    return _read(descriptor, path.name, MAX_BYTES)[0]


def submissions(submitted: Path, chapter: str) -> list[str]:
    """Who has handed in something for a chapter.

    Args:
        submitted: the folder of submissions, with a folder for each learner.
        chapter: the chapter's folder in each of them.

    Returns:
        The learners' names, sorted. What they have handed in may still be a link or a file where a folder should be:
        `fetch` says so. Hidden folders are left out, and so, with a warning, is one whose name is not text.
    """
    if not submitted.is_dir():
        return []
    learners = []
    for name in os.listdir(submitted):
        if name.startswith(".") or not os.path.lexists(submitted / name / chapter):
            continue
        try:
            name.encode()
        except UnicodeEncodeError:
            warnings.warn(f"the folder {name!a} is left out: its name is not UTF-8; rename it", stacklevel=2)
            continue
        learners.append(name)
    return sorted(learners)


def fetch(submitted: Path, student: str, chapter: str, name: str, limit: int = MAX_BYTES) -> tuple[bytes, list[str]]:
    """The content of one file that a learner has handed in. Never waits, and never reads another file than this one.

    Args:
        submitted: the folder of submissions; links on the way to it are the instructor's and are followed.
        student, chapter, name: what is opened below it, each the name of one entry of a folder.
        limit: how many bytes it may have, also while it grows.

    Returns:
        The content, and remarks for a person.

    Raises:
        BadNotebook: not-found, link (on any part of the path), not-a-file (a folder, pipe, socket or device),
            too-large or unreadable.
        ValueError: if one of the names is not a name but a path.
    """
    for part in (student, chapter, name):
        if part in ("", ".", "..") or os.sep in part:
            raise ValueError(f"{part!r} is not the name of one file or folder")
    folder = _open(os.fspath(submitted), None, _FOLDER)
    for part in (student, chapter):
        try:
            inner = _open(part, folder, _FOLDER | os.O_NOFOLLOW)
        finally:
            os.close(folder)
        folder = inner
    try:
        descriptor = _open(name, folder, _FILE | os.O_NOFOLLOW)
    finally:
        os.close(folder)
    content, links = _read(descriptor, name, limit)
    flags = []
    if links > 1:
        # Git and copying tools make them too; whoever could link to another learner's file could also have copied it.
        flags.append(f"{name} is one file under {links} names (hard links); look at where else it lies")
    return content, flags


def _open(name: str, folder: int | None, flags: int) -> int:
    """Open one part of a path, after a look at what it is: only opening some devices already does something."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=folder is None)
        if stat.S_ISLNK(found.st_mode):
            raise _link(name)
        if flags & os.O_DIRECTORY:
            if not stat.S_ISDIR(found.st_mode):
                raise BadNotebook("not-a-file", f"{name} is no folder, so there is no file in it; hand in a folder")
        else:
            _must_be_file(found, name)
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        raise BadNotebook("not-found", f"there is no {name} in the submission; hand it in under this name") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(name) from None
        raise _unreadable(name, error) from None


def _link(name: str) -> BadNotebook:
    return BadNotebook("link", f"{name} is a link, and a link may lead anywhere; hand in the file or folder itself")


def _unreadable(name: str, error: OSError) -> BadNotebook:
    return BadNotebook("unreadable", f"{name} cannot be read: {error.strerror}; hand it in again")


def _must_be_file(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise BadNotebook("not-a-file", f"{name} is {kind}, not a file; hand in the file that JupyterLab saves")


def _read(descriptor: int, name: str, limit: int) -> tuple[bytes, int]:
    """Read an open file and close it; the content and how many names the file has."""
    try:
        found = os.fstat(descriptor)
        _must_be_file(found, name)
        with open(descriptor, "rb", closefd=False) as file:
            # One byte more than allowed tells enough; the size that the file has now may not be the one it had.
            content = file.read(limit + 1)
    except OSError as error:
        raise _unreadable(name, error) from None
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise BadNotebook(
            "too-large", f"{name} has more than {_size(limit)}; clear its outputs (Edit, Clear Outputs) and save it"
        )
    return content, found.st_nlink


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
