"""What a submission can see, change and reach: each promise of the sandbox, tried from within."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import multiprocessing.pool
import multiprocessing.popen_fork
import multiprocessing.queues
import multiprocessing.synchronize
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from autograder import kernel, sandbox
from tests.conftest import ROOT
from tests.sandbox.inmates import refusal, system_call

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of parts of Linux")


# What it sees


@pytest.fixture
def public():
    """A folder that everybody may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def below_tmp():
    """What a fresh /tmp holds inside: nothing, or the way to Python and the course where they lie there."""
    return sorted({Path(path).parts[2] for path, _ in sandbox._places() if path.startswith("/tmp/")})


def test_nothing_outside_is_to_be_seen(inside, public):
    secret = public / "gradebook.db"
    secret.write_text("secret")
    paths = [secret, public, "/etc/shadow", "/etc/hosts", "/var", "/run", "/sys/class", "/boot", "/mnt", "/opt", "/srv"]
    paths += [ROOT / name for name in ("source_solutions", "tests", "grading", "release", ".git", "README.md", "build")]
    paths += [Path.home() / name for name in (".bashrc", ".profile", ".ssh", ".cache", ".config")]
    paths += [f"/proc/1/root{secret}", f"/proc/self/root{secret}", f"/sandbox/../{secret}", "/proc/2", "/dev/zero"]
    paths += ["/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/pts", "/dev/fuse", "/dev/kvm"]

    def look():
        link = "/sandbox/work/link"
        os.symlink(secret, link)
        through = [str(path) for path in paths if os.path.lexists(path)]
        return [through, os.path.exists(link), os.listdir("/tmp"), os.listdir("/dev/shm"), os.getcwd()]

    assert inside(look) == [[], False, below_tmp(), [], "/sandbox/work"]


def test_the_root_holds_what_python_needs_and_no_more(inside):
    there = inside(lambda: [os.listdir("/"), os.listdir("/etc"), os.listdir("/dev"), Path("/etc/passwd").read_text()])
    tops = {Path(path).parts[1] for path, _ in sandbox._places()} | {"proc", "sandbox", "tmp", "dev", "etc"}
    assert set(there[0]) <= tops
    assert set(there[1]) <= {"passwd", "ld.so.cache", "localtime", "alternatives", "fonts", "mime.types"}
    assert set(there[2]) == {"null", "full", "urandom", "random", "fd", "shm"}
    assert there[3].count("\n") == 1


def test_the_solutions_beside_the_course_are_hidden(inside):
    import coursekit

    solved = Path(coursekit.__file__).parent / "solved"
    assert list(solved.rglob("*.py")), "there are some to hide"
    assert inside(lambda: list(map(str, solved.rglob("*")))) == []


@pytest.mark.parametrize("prefix", [ROOT, ROOT.parent])
def test_a_course_within_pythons_own_folder_is_refused(start, prefix):
    # As when the virtual environment is the checkout itself: all of it would be to be seen.
    outcome = start(lambda: 1, prepare=lambda: setattr(sys, "prefix", str(prefix))).outcome()
    assert outcome.error.startswith("CannotConfine")
    assert "virtual environment" in outcome.error


def test_it_sees_its_own_processes_only_and_is_the_first_of_them(inside):
    def look():
        return [os.getpid(), os.getppid(), [name for name in os.listdir("/proc") if name.isdigit()], os.getsid(0)]

    assert inside(look) == [1, 0, ["1"], 1]


def test_it_has_a_name_and_a_user_of_its_own(inside):
    before = socket.gethostname()
    value = inside(lambda: [socket.gethostname(), os.getuid(), os.geteuid(), os.getgid(), refusal(os.setuid, 0)])
    assert value == ["sandbox", sandbox.INSIDE_USER, sandbox.INSIDE_USER, sandbox.INSIDE_USER, "EINVAL"]
    assert socket.gethostname() == before


def test_it_has_no_open_files_but_those_it_was_given(inside, tmp_path):
    with (tmp_path / "open").open("w") as file, socket.socket() as connection:
        os.set_inheritable(file.fileno(), True)
        os.set_inheritable(connection.fileno(), True)

        def look():
            found = {}
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    found[int(name)] = os.readlink(f"/proc/self/fd/{name}").split(":")[0]
            return sorted(found.items())

        opened = inside(look)
    assert opened[:3] == [[0, "/dev/null"], [1, "/dev/null"], [2, "/dev/null"]]
    # The pipe that tells the outcome, and the listing itself.
    assert [kind for _, kind in opened[3:] if not kind.startswith("/proc")] == ["pipe"]


def test_it_has_no_privilege_and_can_gain_none(inside):
    def look():
        lines = Path("/proc/self/status").read_text().splitlines()
        return {line.split(":")[0]: line.split()[1] for line in lines if line.split()[1:]}

    status = inside(look)
    assert {int(status[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_no_mount_honours_set_user_id_programs_or_devices(inside):
    def look():
        table = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return [(line[4], line[5].split(",")) for line in table]

    for place, flags in inside(look):
        if not place.startswith("/dev/") or place == "/dev/shm":
            assert "nosuid" in flags or "ro" in flags, place
        if place not in ("/sandbox/scratch", "/sandbox/work", "/sandbox/course", "/tmp", "/dev/shm", "/proc"):
            assert "ro" in flags or place.startswith("/dev/"), place


# What it changes


def test_it_writes_in_its_own_places_and_nowhere_else(inside):
    packages = [str(path) for path, _ in sandbox._places() if os.path.isdir(path)]

    def attempts():
        places = ["/", "/etc", "/dev", "/proc", "/sandbox", "/sandbox/scratch", *packages]
        new = {place: refusal(Path(place, "new").write_text, "x") for place in places}
        files = [__file__, sandbox.__file__, os.__file__, "/proc/self/comm", "/proc/self/oom_score_adj", "/etc/passwd"]
        calls = (
            lambda path: os.open(path, os.O_WRONLY),
            lambda path: os.open(path, os.O_RDWR | os.O_TRUNC),
            lambda path: os.truncate(path, 0),
            os.unlink,
            lambda path: os.rename(path, f"{path}2"),
            lambda path: os.symlink("/tmp", f"{path}2"),
            lambda path: os.link(path, f"{path}2"),
            lambda path: os.mkdir(f"{path}2"),
        )
        old = {f"{path} {n}": refusal(call, path) for path in files for n, call in enumerate(calls)}
        own = [refusal(Path(p, "x").write_text, "x") for p in (sandbox.WORK, sandbox.COURSE, "/tmp", "/dev/shm")]
        return [[place for place, refused in (new | old).items() if refused is None], own]

    assert inside(attempts) == [[], [None] * 4]


def test_what_it_writes_is_gone_afterwards(inside):
    inside(
        lambda: Path("/tmp/trace-of-a-sandbox").write_text("x") and Path("/dev/shm/trace-of-a-sandbox").write_text("x")
    )
    assert not Path("/tmp/trace-of-a-sandbox").exists()
    assert not Path("/dev/shm/trace-of-a-sandbox").exists()
    assert inside(lambda: os.listdir("/tmp")) == below_tmp()


def test_special_files_and_set_user_id_bits_are_of_no_use(inside):
    def attempts():
        device = refusal(os.mknod, "/tmp/device", stat.S_IFCHR | 0o666, os.makedev(1, 1))
        Path("/tmp/program").write_text("#!/bin/sh\nid -u\n")
        os.chmod("/tmp/program", 0o4755)
        done = subprocess.run(["/tmp/program"], capture_output=True, text=True)
        return [device, done.stdout.strip()]

    device, user = inside(attempts)
    assert device in ("EACCES", "EPERM")
    assert user == str(sandbox.INSIDE_USER)


# Whom it reaches


@pytest.fixture
def listeners(public):
    """Sockets that anybody may connect to, and whether somebody did."""
    path = str(public / "socket")
    kinds = {
        "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        "path": (socket.AF_UNIX, socket.SOCK_STREAM, path),
        "abstract": (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0test-sandbox-{os.getpid()}"),
    }
    with contextlib.ExitStack() as stack:
        opened = {}
        for name, (family, kind, address) in kinds.items():
            listener = stack.enter_context(socket.socket(family, kind))
            listener.bind(address)
            listener.setblocking(False)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            opened[name] = listener
        os.chmod(path, 0o777)
        yield opened


def heard(listeners):
    """Which of the listeners somebody has called."""
    called = []
    for name, listener in listeners.items():
        with contextlib.suppress(BlockingIOError):
            listener.accept() if listener.type == socket.SOCK_STREAM else listener.recv(10)
            called.append(name)
    return called


def call_all(addresses):
    for family, kind, address in addresses:
        with contextlib.suppress(OSError), socket.socket(family, kind) as caller:
            caller.settimeout(1)
            caller.connect(address)
            caller.send(b"x")


def test_nobody_is_reached_over_a_network_or_a_socket(inside, listeners):
    addresses = [(one.family, one.type, one.getsockname()) for one in listeners.values()]
    call_all(addresses)
    assert heard(listeners) == ["tcp", "udp", "path", "abstract"], "without a sandbox they can be reached"
    inside(lambda: call_all(addresses))
    assert heard(listeners) == []


def test_it_has_no_network_at_all(inside):
    def look():
        interfaces = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            return [interfaces, refusal(caller.connect, ("127.0.0.1", 9)), refusal(caller.connect, ("1.1.1.1", 9))]

    interfaces, *refusals = inside(look)
    assert interfaces == ["lo"]
    assert refusals == ["ENETUNREACH", "ENETUNREACH"]


def test_sockets_of_unusual_families_are_refused(inside):
    # Netlink, packet, Bluetooth, crypto, virtual machines, express data path.
    def attempts():
        kinds = (socket.SOCK_RAW, socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
        return {
            f: {refusal(socket.socket, f, kind, 0) for kind in kinds} == {"EPERM"} for f in (16, 17, 31, 38, 40, 44)
        }

    assert set(inside(attempts).values()) == {True}


def test_no_process_outside_is_signalled(inside):
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            others = [bystander.pid, os.getpid(), os.getppid()]
            assert set(inside(lambda: [refusal(os.kill, pid, 0) for pid in others if pid > 1])) == {"ESRCH"}
            inside(lambda: refusal(os.kill, -1, signal.SIGTERM))
            assert bystander.poll() is None
        finally:
            bystander.kill()


#: What to call and with what, beside those that are refused by their number alone.
BY_ARGUMENT = {
    "unshare by clone": (kernel._CLONE, kernel.CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0),
    "unshare the network by clone": (kernel._CLONE, kernel.CLONE_NEWNET | signal.SIGCHLD, 0, 0, 0, 0),
    "outlive the one who watches": (kernel._PRCTL, 1, 0, 0, 0, 0),
    "hide what is used": (kernel._PRCTL, 4, 0, 0, 0, 0),
    "shared memory of no file": (kernel._MMAP, 0, 4096, 3, 0x21, -1, 0),
    "shared memory of no file, checked": (kernel._MMAP, 0, 4096, 3, 0x23, -1, 0),
    "a larger socket": (kernel._SETSOCKOPT, 0, 1, 7, 0, 0),
}


def test_dangerous_system_calls_are_refused(inside):
    column = 0 if kernel._X86 else 1
    numbers = {name: numbers[column] for name, numbers in kernel.DENIED.items() if numbers[column] is not None}

    def attempts():
        found = {name: system_call(number, *[-1] * 6) for name, number in numbers.items()}
        found |= {name: system_call(*call) for name, call in BY_ARGUMENT.items()}
        return found | {"clone3": system_call(kernel._CLONE3)}

    found = inside(attempts)
    assert found.pop("clone3") == "ENOSYS"
    assert {name: error for name, error in found.items() if error != "EPERM"} == {}


@pytest.mark.skipif(not kernel._X86, reason="the other interface is that of x86")
def test_the_x32_interface_is_refused(inside):
    assert inside(lambda: system_call(0x40000000 + 39)) == "EPERM"


def test_what_labs_need_is_allowed(inside):
    def attempts():
        async def answer():
            await asyncio.sleep(0)
            return 5

        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x" * 4096)
            file.flush()
            shared = mmap.mmap(file.fileno(), 4096)
            shared[0] = 1
        private = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        private[0] = 1
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            several = pool.map(abs, [-1, 2])
        shell = subprocess.run("echo hello | cat", shell=True, capture_output=True, text=True).stdout
        return [asyncio.run(answer()), several, shell, len(os.urandom(8))]

    assert inside(attempts, processes=40, memory_mebibytes=512) == [5, [1, 2], "hello\n", 8]
