"""What the harness sees of a run from outside: processes, memory, connections, files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36
#: Seconds that processes of a finished run have to be gone.
PATIENCE = 3.0


class Hung(Exception):
    """A run did not end by itself."""


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Within, what outlives its parent below this process becomes a child of this process, so that it is found."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def family() -> set[psutil.Process]:
    """The living processes below this one."""
    return {process for process in psutil.Process().children(recursive=True) if _lives(process)}


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def survivors(before: set[psutil.Process]) -> list[str]:
    """The processes below this one that were not there before and do not end; they are described, and ended."""
    deadline = time.monotonic() + PATIENCE
    while (found := family() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    described = [_described(process) for process in found]
    end(before)
    return described


def end(before: set[psutil.Process]) -> None:
    """Kill all processes below this one that were not there before, until none is left."""
    for _ in range(50):
        found = family() - before
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        _bury(before)
        if not found:
            return
        time.sleep(0.05)


def _bury(before: set[psutil.Process]) -> None:
    """Take notice of the death of adopted children; the others have somebody who waits for them."""
    for process in set(psutil.Process().children()) - before:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def _described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} of user {process.uids().real}: {' '.join(process.cmdline())[:200] or process.name()}"
    return str(process.pid)


class Watch:
    """Samples how many new processes there are, and how much of the machine's free memory is gone. A context manager.

    Free memory is everybody's, so a bound needs room for what else goes on; but it counts what no process owns.

    Attributes:
        processes, mebibytes: the most that was seen.
    """

    def __init__(self, before: set[psutil.Process]):
        self.before, self.processes, self.mebibytes = before, 0, 0
        self.free = psutil.virtual_memory().available
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.over.wait(0.05):
            self.processes = max(self.processes, len(family() - self.before))
            self.mebibytes = max(self.mebibytes, (self.free - psutil.virtual_memory().available) >> 20)


@contextlib.contextmanager
def deadline(seconds: float, before: set[psutil.Process]) -> Iterator[None]:
    """End what runs within: first by killing all that it has started, then by an exception.

    Raises:
        Hung: if neither the work nor its waiting ends by itself.
    """
    alarms = []

    def alarm(number: int, frame: object) -> None:
        alarms.append(number)
        for process in family() - before:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if len(alarms) > 1:
            raise Hung(f"it did not end within {seconds:g} s, nor when all that it had started was killed")

    old = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10)
    try:
        yield
        if alarms:
            raise Hung(f"it did not end within {seconds:g} s, only when all that it had started was killed")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


class Listeners:
    """Sockets of every kind that a submission might reach, and who has called.

    Attributes:
        addresses: the words by which cases name them.
    """

    def __init__(self, folder: Path):
        self.sockets: dict[str, socket.socket] = {}
        path, name = folder / "listening", f"hostile-{os.getpid()}"
        self._listen("TCP", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self._listen("TCP6", socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0))
        self._listen("UDP", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self._listen("ABSTRACT", socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}")
        self._listen("SOCKET", socket.AF_UNIX, socket.SOCK_STREAM, str(path))
        path.chmod(0o777)
        ports = {kind: str(self.sockets[kind].getsockname()[1]) for kind in ("TCP", "UDP")}
        ports["TCP6"] = str(self.sockets["TCP6"].getsockname()[1]) if "TCP6" in self.sockets else "1"
        self.addresses = ports | {"ABSTRACT": name, "SOCKET": str(path)}

    def _listen(self, kind: str, family: int, type_: int, address: object) -> None:
        listener = socket.socket(family, type_)
        try:
            listener.bind(address)
        except OSError:
            # A machine without IPv6 has nothing to be reached there.
            listener.close()
            return
        if type_ == socket.SOCK_STREAM:
            listener.listen(64)
        listener.setblocking(False)
        self.sockets[kind] = listener

    def heard(self) -> list[str]:
        """The kinds of sockets that somebody has called since the last time."""
        called = []
        for kind, listener in self.sockets.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    if listener.type == socket.SOCK_DGRAM:
                        listener.recv(1)
                    else:
                        listener.accept()[0].close()
                    called.append(kind)
        return called

    def close(self) -> None:
        for listener in self.sockets.values():
            listener.close()


def state(root: Path, leave_out: tuple[str, ...]) -> dict[str, tuple]:
    """What there is below a folder, without following links: path -> kind, size, time of change, target."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.startswith(leave_out) or "__pycache__" in name:
            continue
        status = path.lstat()
        # A folder's time changes with every file that comes and goes; those are listed themselves.
        details = () if path.is_dir() else (status.st_size, status.st_mtime_ns)
        found[name] = (status.st_mode, *details, os.readlink(path) if path.is_symlink() else None)
    return found


def traces(word: str, deep: list[Path]) -> list[str]:
    """Files anywhere with ``word`` in their name; they are removed. Looks at whole trees below ``deep``."""
    import autograder
    import coursekit

    packages = [Path(package.__file__).parent for package in (autograder, coursekit, psutil)]
    home = Path.home()
    places = ["/", "/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", tempfile.gettempdir(), home, Path.cwd()]
    places += [home / ".ipython" / "profile_default" / "startup", sys.prefix, Path(sys.executable).parent]
    places += [folder for package in packages for folder in (package, package.parent)]
    found = {path for place in places for path in _named(Path(place), word, "*")}
    found |= {path for place in deep for path in _named(place, word, "**/*")}
    for path in sorted(found, reverse=True):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return sorted(map(str, found))


def _named(place: Path, word: str, pattern: str) -> list[Path]:
    try:
        return [path for path in place.glob(pattern) if word in path.name]
    except OSError:
        return []
