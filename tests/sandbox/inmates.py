"""Run functions of a test in the sandbox: in a fork of the process that tests, as it is or as a normal user."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autograder import kernel, sandbox
from autograder.limits import Limits

#: A user that no account has, and that is none of those that stand in for root.
NORMAL_USER = 64_800
#: Small, so that tests that pass a limit are quick.
SMALL = Limits(
    cell_seconds=5, notebook_seconds=20, cpu_seconds=5, memory_mebibytes=64, processes=16, disk_mebibytes=4, files=40
)
#: No test waits longer for a sandbox to end.
PATIENCE = 20.0


@dataclass
class Outcome:
    """What became of an inmate.

    Attributes:
        value: what its function returned; None where it did not come to that.
        error: the traceback of what it raised, or why it could not be confined.
        ended: what `sandbox.confine` returned; empty where it returned nothing.
        seconds: until nothing of it was left.
    """

    value: Any
    error: str
    ended: str
    seconds: float


class Running:
    """An inmate at work. Nothing is left of it when `outcome` returns.

    Attributes:
        warden: the process id of the one that watches it.
    """

    def __init__(self, function: Callable[[], Any], limits: Limits, as_user: int | None, prepare: Callable[[], None]):
        self.started = time.monotonic()
        self.pipe, theirs = os.pipe()
        self.hold, far = socket.socketpair()
        self.said = b""
        self.warden = os.fork()
        if self.warden == 0:
            os.close(self.pipe)
            self.hold.close()
            _be_warden(function, limits, as_user, prepare, far, theirs)
        os.close(theirs)
        far.close()

    def hang_up(self) -> None:
        self.hold.close()

    def wait_for(self, word: bytes) -> None:
        """Until the inmate has written a word to `tell`."""
        while word not in self.said and self._read():
            pass
        assert word in self.said, self.said

    def outcome(self) -> Outcome:
        """Wait until every process that has inherited the pipe is gone, and say what was said."""
        try:
            while self._read():
                pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.warden, signal.SIGKILL)
            os.waitpid(self.warden, 0)
            self.hang_up()
            os.close(self.pipe)
        found: dict[str, Any] = {}
        for line in self.said.splitlines():
            if line.startswith(b"{"):
                found |= json.loads(line)
        seconds = time.monotonic() - self.started
        return Outcome(found.get("value"), found.get("error", ""), found.get("ended", ""), seconds)

    def _read(self) -> bytes:
        left = self.started + PATIENCE - time.monotonic()
        ready, _, _ = select.select([self.pipe], [], [], max(left, 0))
        assert ready, f"after {PATIENCE} s there is still somebody inside; so far: {self.said[-1000:]!r}"
        piece = os.read(self.pipe, 1 << 16)
        self.said += piece
        return piece


#: The end of the pipe that an inmate may write to.
tell: Callable[[bytes], None] = lambda text: None  # noqa: E731


def _be_warden(
    function: Callable[[], Any],
    limits: Limits,
    as_user: int | None,
    prepare: Callable[[], None],
    hangup: socket.socket,
    pipe: int,
) -> None:
    def say(**found: Any) -> None:
        os.write(pipe, b"\n" + json.dumps(found).encode() + b"\n")

    def inmate() -> Callable[[], None]:
        def serve() -> None:
            global tell
            tell = lambda text: os.write(pipe, text)  # noqa: E731
            try:
                say(value=function())
            except BaseException:
                say(error=traceback.format_exc())

        return serve

    try:
        # Not pytest's: what it replaced may write to descriptors that are closed inside.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        if as_user is not None:
            os.setgroups([])
            os.setresgid(as_user, as_user, as_user)
            os.setresuid(as_user, as_user, as_user)
            # A user's own process is; the change of user has cleared it.
            kernel.be_inspectable()
        prepare()
        sandbox.become_nobody()
        say(ended=sandbox.confine(inmate, hangup, [pipe], limits))
    except BaseException as error:
        say(error=f"{type(error).__name__}: {error}")
    finally:
        os._exit(0)


_libc = ctypes.CDLL(None, use_errno=True)


def refusal(call: Callable[..., Any], *arguments: Any) -> str | None:
    """The name of the error that a call gives; None where it works."""
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return None


def system_call(number: int, *arguments: int) -> str | None:
    """The name of the error that a system call gives."""
    ctypes.set_errno(0)
    given = [ctypes.c_long(argument) for argument in (*arguments, *[0] * (6 - len(arguments)))]
    result = _libc.syscall(ctypes.c_long(number), *given)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else None
