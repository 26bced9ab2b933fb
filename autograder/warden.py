"""Watch what a process and its children use, and end them all when a limit is passed or nobody waits any more."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from pathlib import Path

from autograder.limits import Limits

#: Seconds between two looks.
LOOK = 0.05
#: How often all processes together may have the open files of one.
OPEN_FILES = 4
_MEBIBYTE = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")


def watch(child: int, hangup: socket.socket, limits: Limits, baseline: int) -> str:
    """Wait for a child to end, and see to it that it does.

    Args:
        child: the first process of its namespace, so that its end is the end of all that it started.
        hangup: when the other end of this socket closes, everything ends.
        limits: memory, processor time and open files of all processes together.
        baseline: bytes of memory that each process has from the warm one (see `anonymous`).

    Returns:
        ``done``, ``exit N``, ``signal N``, ``memory``, ``cpu``, ``files`` or ``hangup``.
    """
    handle = os.pidfd_open(child)
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    poller.register(hangup, select.POLLIN)
    verdict = None
    while verdict is None:
        events = dict(poller.poll(LOOK * 1000))
        if handle in events:
            break
        if hangup.fileno() in events and not _still_there(hangup):
            verdict = "hangup"
        else:
            verdict = _excess(child, baseline, limits)
    if verdict:
        os.kill(child, signal.SIGKILL)
    # The first process of a process namespace is gone only when all others in it are.
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if verdict:
        return verdict
    if code == -signal.SIGXCPU:
        return "cpu"
    return "done" if code == 0 else f"signal {-code}" if code < 0 else f"exit {code}"


def can_watch() -> bool:
    """Whether this machine lists the children of a process, without which what they use is not seen."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _still_there(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _excess(first: int, baseline: int, limits: Limits) -> str | None:
    """Which limit all processes together have passed, if any."""
    processes = _family(first)
    if sum(map(_cpu_seconds, processes)) > limits.cpu_seconds:
        return "cpu"
    allowed = limits.memory_mebibytes * _MEBIBYTE
    # The cheap sum counts what processes share once for each of them; only where it is too large, the dear one decides.
    if sum(map(anonymous, processes)) - baseline > allowed and _own(processes, baseline) > allowed:
        return "memory"
    # What waits in pipes and sockets is memory that no process shows: as much as there are open ones.
    if sum(map(_open_files, processes)) > OPEN_FILES * limits.open_files:
        return "files"
    return None


def _family(first: int) -> list[int]:
    """A process and all that descend from it: orphans fall to the first process of their namespace."""
    found = [first]
    for process in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):
                text = Path(f"/proc/{process}/task/{thread}/children").read_text()
                found.extend(map(int, text.split()))
    return found


def _cpu_seconds(process: int) -> float:
    """Processor time of a process and of those children that it has waited for."""
    try:
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


def _open_files(process: int) -> int:
    try:
        return len(os.listdir(f"/proc/{process}/fd"))
    except OSError:
        return 0


def anonymous(process: int) -> int:
    """Bytes of a process that are no file's: its own, and those it still shares with the process it was forked from."""
    return _kibibytes(f"/proc/{process}/status", (b"RssAnon:", b"RssShmem:", b"VmSwap:"))


def _own(processes: list[int], baseline: int) -> int:
    """Bytes of processes together without what they have from the warm one; never too many.

    That is taken off once. Part of it is in truth the warm one's share, so that memory shared among them may count for
    too little; what a process shares with nobody always counts.
    """
    proportional, private = map(sum, zip(*map(_shares, processes), strict=True))
    return max(proportional - baseline, private)


def _shares(process: int) -> tuple[int, int]:
    """Bytes of a process, with what it shares divided among those who share it, and those that it shares with none.

    Where that is denied, the cheap number stands for the first.
    """
    rollup = f"/proc/{process}/smaps_rollup"
    proportional = _kibibytes(rollup, (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:"))
    return proportional or anonymous(process), _kibibytes(rollup, (b"Private_Dirty:",))


def _kibibytes(path: str, labels: tuple[bytes, ...]) -> int:
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(labels)) << 10
