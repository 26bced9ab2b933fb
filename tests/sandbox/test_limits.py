"""What a submission can use up and leave behind: each promise of the sandbox, tried from within."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from autograder import sandbox, warden
from tests.sandbox import inmates

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of parts of Linux")

_libc = ctypes.CDLL(None, use_errno=True)


# What it uses


def test_processes_are_bounded(inside):
    def bomb():
        count = 1
        with contextlib.suppress(BlockingIOError):
            while count < 100:
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
                count += 1
        return count

    assert inside(bomb, processes=8) <= 8


def test_threads_are_bounded(inside):
    def bomb():
        over, count = threading.Event(), 1
        with contextlib.suppress(RuntimeError):
            while count < 100:
                threading.Thread(target=over.wait, daemon=True).start()
                count += 1
        over.set()
        return count

    assert inside(bomb, processes=8, memory_mebibytes=1024) <= 8


def touched(mebibytes):
    """Memory that is used, not only asked for."""
    memory = mmap.mmap(-1, mebibytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, len(memory), 4096):
        memory[place] = 1
    return memory


def test_one_large_piece_of_memory_is_refused(inside):
    def attempt():
        try:
            bytearray(1 << 30)
        except MemoryError:
            return "refused"

    assert inside(attempt) == "refused"


def test_memory_of_all_processes_together_is_bounded(start):
    def spread():
        for _ in range(4):
            if os.fork() == 0:
                memory = touched(30)
                time.sleep(30)
                os._exit(memory[0])
        time.sleep(30)

    outcome = start(spread).outcome()
    assert outcome.ended == "memory", outcome


def test_memory_that_processes_share_counts_once(inside):
    def share():
        memory = touched(40)
        children = []
        for _ in range(4):
            children.append(os.fork())
            if children[-1] == 0:
                time.sleep(0.4)
                os._exit(memory[0] - 1)
        return [os.waitpid(child, 0)[1] for child in children]

    assert inside(share) == [0] * 4


def test_memory_that_is_given_back_makes_no_room_for_more(start):
    # What a process has from the one it was forked from is not counted, but only while it is there.
    inherited = []

    def exchange():
        for _ in range(4):
            if os.fork() == 0:
                inherited[0].close()
                memory = touched(30)
                time.sleep(30)
                os._exit(memory[0])
        time.sleep(30)

    assert start(exchange, prepare=lambda: inherited.append(touched(60))).outcome().ended == "memory"


def test_memory_taken_before_the_first_look_counts(start):
    # What a fresh process has is measured before anything of the inmate's runs, however late the watching begins.
    watch = warden.watch

    def late(*arguments):
        time.sleep(0.3)
        return watch(*arguments)

    def grow():
        if os.fork() == 0:
            time.sleep(0.6)
        memory = touched(40)
        time.sleep(30)
        return memory[0]

    assert start(grow, prepare=lambda: setattr(warden, "watch", late)).outcome().ended == "memory"


def test_processor_time_of_all_processes_together_is_bounded(start):
    def burn():
        for _ in range(2):
            if os.fork() == 0:
                while True:
                    pass
        time.sleep(30)

    outcome = start(burn, cpu_seconds=0.4).outcome()
    assert outcome.ended == "cpu", outcome
    assert outcome.seconds < 10


def test_processor_time_of_children_that_have_ended_counts(start):
    def burn():
        while True:
            child = os.fork()
            if child == 0:
                until = time.process_time() + 0.05
                while time.process_time() < until:
                    pass
                os._exit(0)
            os.waitpid(child, 0)

    assert start(burn, cpu_seconds=0.4).outcome().ended == "cpu"


def fill(places):
    """Bytes that go into some folders together."""
    written = 0
    for place in places:
        with contextlib.suppress(OSError), open(f"{place}/large", "wb", buffering=0) as file:
            while True:
                written += file.write(bytes(1 << 16))
    return written


def test_disk_space_is_bounded_over_all_places(inside):
    places = (sandbox.WORK, "/tmp", "/dev/shm", sandbox.COURSE)
    written = inside(lambda: fill(places), disk_mebibytes=4)
    assert 3 << 20 < written <= 4 << 20


def test_files_are_bounded_over_all_places(inside):
    def many():
        count = 0
        for place in (sandbox.WORK, "/tmp", "/dev/shm", sandbox.COURSE):
            with contextlib.suppress(OSError):
                while count < 1000:
                    os.mkdir(f"{place}/{count}") if count % 2 else Path(f"{place}/{count}").touch()
                    count += 1
        return count

    assert 20 < inside(many, files=40) < 40


def test_open_files_of_a_process_are_bounded(inside):
    def many():
        opened = []
        with contextlib.suppress(OSError):
            while len(opened) < 1000:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        return len(opened)

    assert 20 < inside(many, open_files=40) < 40


def test_open_files_of_all_processes_together_are_bounded(start):
    # What waits in pipes and sockets is memory of no process.
    def many():
        for _ in range(8):
            if os.fork() == 0:
                opened = []
                with contextlib.suppress(OSError):
                    while True:
                        opened.append(socket.socketpair())
                time.sleep(30)
        time.sleep(30)

    assert start(many, open_files=40).outcome().ended == "files"


def test_limits_cannot_be_raised(inside):
    kinds = ("AS", "CPU", "NPROC", "NOFILE", "FSIZE", "CORE", "MEMLOCK", "MSGQUEUE", "SIGPENDING")

    def attempts():
        kept = {}
        for kind in kinds:
            number = getattr(resource, f"RLIMIT_{kind}")
            try:
                resource.setrlimit(number, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            except (OSError, ValueError):
                kept[kind] = resource.getrlimit(number)
        return kept

    kept = inside(attempts)
    assert sorted(kept) == sorted(kinds)
    assert kept["CORE"] == [0, 0]
    assert kept["FSIZE"] == [4 << 20, 4 << 20]


# What it leaves


@pytest.mark.parametrize(
    ("act", "ended"),
    [
        (lambda: os._exit(0), "done"),
        (lambda: os._exit(3), "exit 3"),
        # The first process of a namespace ignores what it sends itself, so libc ends it in another way.
        (lambda: os.abort(), "signal 11"),
        (lambda: ctypes.string_at(8), "signal 11"),
    ],
    ids=["0", "3", "abort", "segmentation fault"],
)
def test_how_it_ended_is_told(start, act, ended):
    outcome = start(act).outcome()
    assert (outcome.ended, outcome.value, outcome.error) == (ended, None, "")


def test_a_daemon_ends_with_the_inmate(start):
    def leave():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for number in range(1, 32):
                    with contextlib.suppress(OSError):
                        signal.signal(number, signal.SIG_IGN)
                # It holds the pipe, so that the outcome is there only when this process is not.
                time.sleep(60)
            os._exit(0)
        os.wait()
        return "left"

    outcome = start(leave).outcome()
    assert (outcome.value, outcome.ended) == ("left", "done")
    assert outcome.seconds < 10


def stubborn():
    """Ignores every signal that can be ignored, in several processes, and tries to outlive whoever watches."""
    for number in range(1, 32):
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    _libc.prctl(1, 0, 0, 0, 0)
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            _libc.prctl(1, 0, 0, 0, 0)
            break
    inmates.tell(b"ready")
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)


def test_a_hang_up_ends_everything(start):
    running = start(stubborn)
    running.wait_for(b"ready")
    running.hang_up()
    outcome = running.outcome()
    assert outcome.ended == "hangup"
    assert outcome.seconds < 10


def test_the_end_of_the_one_who_watches_ends_everything(start):
    running = start(stubborn)
    running.wait_for(b"ready")
    os.kill(running.warden, signal.SIGKILL)
    assert running.outcome().seconds < 10


def test_the_end_of_the_one_who_asked_ends_everything(start):
    # A process between this one and the warden, as the warm one is.
    def nested():
        child = os.fork()
        if child == 0:
            return
        os.waitpid(child, 0)
        os._exit(0)

    running = start(stubborn, prepare=nested)
    running.wait_for(b"ready")
    os.kill(running.warden, signal.SIGKILL)
    assert running.outcome().seconds < 10
