"""Run one function on somebody else's behalf: in a private world, within limits, and with nothing left afterwards.

The caller is a fresh fork of the warm process. It becomes the *warden*: it makes the namespaces, forks the *inmate*
into them, watches what the inmate and its children use, and ends them all when a limit is passed, when the inmate is
done, or when whoever asked hangs up. The inmate sees a file system of its own (what Python and the course need,
read-only; no submissions, no tests, no gradebook, no home), no network, no other process, an empty environment, and
has no privilege to lose.

Layers: user, mount, process, network, IPC and host-name namespaces; a root file system by permission, not by
prohibition; Landlock; seccomp; resource limits; the warden. Nothing of it needs root. Started by root, the warm
process has become a user of its own before (see `become_nobody`).
"""

from __future__ import annotations

import os
import pwd
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autograder import kernel, warden
from autograder.limits import Limits

#: Where things are inside.
WORK, COURSE, DATA = "/sandbox/work", "/sandbox/course", "/sandbox/data"
#: The user inside. Outside it is the one who started the warm process, or, for root, a user that owns nothing.
INSIDE_USER = 1000
#: Users that no account has; systemd keeps the range for short-lived services.
_NOBODIES = range(64_900, 65_500)
_MEBIBYTE = 1 << 20
_PAGE = resource.getpagesize()


#: Makes ready, inside, and returns what to do then: a fault of the first part is the grader's, of the second not.
Inmate = Callable[[], Callable[[], None]]


class CannotConfine(Exception):
    """A part of the sandbox could not be set up; nothing of the inmate has run."""


def confine(inmate: Inmate, hangup: socket.socket, keep: list[int], limits: Limits) -> str:
    """Run ``inmate`` in a sandbox; called in a process of its own.

    Args:
        inmate: what to run inside, in two parts (see `Inmate`); it starts in an empty folder.
        hangup: when the other end of this socket closes, everything ends.
        keep: file descriptors that the inmate may use; all others are closed.
        limits: what it may use.

    Returns:
        How it ended: ``done``, ``exit N``, ``signal N``, ``memory``, ``cpu``, ``files`` or ``hangup``. No process of it
        is left.

    Raises:
        CannotConfine: if the machine lacks a part.
    """
    kernel.die_with_parent()
    if not warden.can_watch():
        raise CannotConfine("this kernel does not list the children of a process (CONFIG_PROC_CHILDREN)")
    _keep_course_apart()
    _namespaces()
    ready, tell = os.pipe()
    # Before anything of the inmate's runs, which could make it look larger than it is.
    baseline = warden.anonymous(os.getpid())
    child = os.fork()
    if child == 0:
        _become_inmate(inmate, tell, keep, limits)
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        problem = pipe.read().decode(errors="replace")
    if problem != "ready":
        os.waitpid(child, 0)
        raise CannotConfine(problem or "the process inside ended before it was ready")
    return warden.watch(child, hangup, limits, baseline)


def _keep_course_apart() -> None:
    """All that is below Python's folders is seen inside. A checkout there would be, with solutions and gradebook."""
    import coursekit

    course = Path(coursekit.__file__).parents[1]
    around = [path for path, _ in _places() if course.is_relative_to(path)]
    if around and (course / "source_solutions").exists():
        raise CannotConfine(
            f"the course lies within {around[0]}, which every submission can read because Python is there; "
            "move it, or make its virtual environment in a folder of its own"
        )


def _namespaces() -> None:
    user, group = os.getuid(), os.getgid()
    try:
        kernel.unshare(
            kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
        )
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{INSIDE_USER} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{INSIDE_USER} {group} 1")
    except OSError as error:
        raise CannotConfine(f"user namespaces: {error}") from None


def _become_inmate(inmate: Inmate, tell: int, keep: list[int], limits: Limits) -> None:
    """In the child: never returns."""
    code = 1
    try:
        try:
            kernel.die_with_parent()
            os.setsid()
            socket.sethostname("sandbox")
            kernel.unshare(kernel.CLONE_NEWNS)
            _private_files(limits)
            _close_all_but({tell, *keep})
            _resource_limits(limits)
            kernel.no_new_privileges()
            kernel.landlock(["/"], [WORK, COURSE, "/tmp", "/dev/shm", "/dev/null", "/dev/full"])
            kernel.drop_capabilities()
            kernel.seccomp()
            serve = inmate()
        except Exception as error:
            os.write(tell, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
        os.write(tell, b"ready")
        os.close(tell)
        serve()
        code = 0
    finally:
        os._exit(code)


def _places() -> list[tuple[str, str]]:
    """What is seen inside, as (path inside, path outside)."""
    import coursekit

    package = Path(coursekit.__file__).parent
    paths = ["/usr", "/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/fonts", "/etc/mime.types"]
    # No /dev/zero: a shared mapping of it is memory that no process shows as its own (see `kernel.seccomp`).
    paths += ["/dev/null", "/dev/full", "/dev/urandom", "/dev/random"]
    paths += ["/bin", "/sbin", "/lib", "/lib32", "/lib64"]
    paths += [sys.base_prefix, sys.base_exec_prefix, sys.prefix, str(package), str(Path(__file__).parent)]
    seen: dict[str, str] = {}
    for path in dict.fromkeys(part for name in paths for part in (name, os.path.realpath(name))):
        if os.path.exists(path) and not any(path.startswith(f"{other}/") for other in seen):
            seen[path] = path
    data = os.environ.get("COURSE_DATA")
    if data and os.path.isdir(data):
        seen[DATA] = data
    return list(seen.items())


def _opened(places: list[tuple[str, str]]) -> list[tuple[str, int]]:
    """Handles of the places outside, taken before the folders above them are hidden."""
    return [(inside, os.open(outside, os.O_PATH | os.O_CLOEXEC)) for inside, outside in places]


def _private_files(limits: Limits) -> None:
    """A root file system that holds what is needed, read-only, and a scratch folder in memory of bounded size."""
    import coursekit

    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    # Opened in this mount namespace, as binding asks for, and before a folder above one of them is covered.
    places = _opened(_places())
    new = "/tmp"
    kernel.mount("tmpfs", new, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,nr_inodes=2k,mode=755")
    # First, because Python itself may lie below /tmp.
    _scratch(new, limits)
    for path, handle in places:
        target = Path(new + path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        kernel.mount(f"/proc/self/fd/{handle}", str(target), None, kernel.MS_BIND | kernel.MS_REC)
        if not path.startswith("/dev/"):
            kernel.make_read_only(str(target))
    # Solutions: those that this lab may use are written into the private course folder.
    solved = new + str(Path(coursekit.__file__).parent / "solved")
    if os.path.isdir(solved):
        kernel.mount("tmpfs", solved, "tmpfs", kernel.MS_RDONLY, "size=4k,mode=755")
    Path(new, "etc").mkdir(exist_ok=True)
    Path(new, "etc/passwd").write_text(f"learner:x:{INSIDE_USER}:{INSIDE_USER}::{WORK}:/bin/sh\n")
    os.symlink("/proc/self/fd", f"{new}/dev/fd")
    os.mkdir(f"{new}/proc")
    kernel.mount("proc", f"{new}/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    kernel.mount(None, new, None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID)
    kernel.change_root(new)
    os.chdir(WORK)


def _scratch(new: str, limits: Limits) -> None:
    """One file system in memory, seen in four places, so that one bound holds for all of them."""
    os.makedirs(f"{new}/sandbox/scratch")
    options = f"size={limits.disk_mebibytes}m,nr_inodes={limits.files},mode=755"
    kernel.mount("tmpfs", f"{new}/sandbox/scratch", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    for number, place in enumerate((WORK, "/tmp", "/dev/shm", COURSE)):
        os.mkdir(f"{new}/sandbox/scratch/{number}", 0o700)
        os.makedirs(new + place, exist_ok=True)
        kernel.mount(f"{new}/sandbox/scratch/{number}", new + place, None, kernel.MS_BIND)


def _close_all_but(keep: set[int]) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    last = 3
    for descriptor in sorted(keep):
        os.closerange(last, descriptor)
        last = descriptor + 1
    os.closerange(last, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _resource_limits(limits: Limits) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bounds = {
        resource.RLIMIT_AS: pages * _PAGE + limits.memory_mebibytes * _MEBIBYTE,
        resource.RLIMIT_CPU: int(limits.cpu_seconds) + 1,
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.disk_mebibytes * _MEBIBYTE,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 1 << 20,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 256,
    }
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, bound))


def watch_only(inmate: Inmate, hangup: socket.socket, limits: Limits) -> str:
    """Run ``inmate`` in a process of its own that is watched and not confined: for code that somebody vouches for.

    Returns:
        What `confine` returns. A process that the inmate has detached from itself may survive.
    """
    baseline = warden.anonymous(os.getpid())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            kernel.die_with_parent()
            inmate()()
            code = 0
        finally:
            os._exit(code)
    return warden.watch(child, hangup, limits, baseline)


# Before: root gives up being root


def become_nobody() -> None:
    """Turn a process of root's into one of a user that owns nothing. Does nothing for anybody else.

    Python and the course may lie below a folder that only root can enter, such as /root: in a mount namespace of this
    process's own those folders are replaced by empty ones that hold what is needed.
    """
    if os.geteuid() != 0:
        return
    user = nobody()
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    outside = [path for _, path in _places()]
    closed = {top for path in outside if (top := _closed_to_others(path))}
    places = _opened([(path, path) for path in outside if any(path.startswith(f"{top}/") for top in closed)])
    for top in closed:
        kernel.mount("tmpfs", top, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path, handle in places:
        os.makedirs(path, exist_ok=True)
        kernel.mount(f"/proc/self/fd/{handle}", path, None, kernel.MS_BIND | kernel.MS_REC)
        os.close(handle)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    kernel.be_inspectable()
    # A change of user has cleared it.
    kernel.die_with_parent()


def nobody() -> int:
    """A user number that no account has."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(number for number in _NOBODIES if number not in taken)


def _closed_to_others(path: str) -> str | None:
    """The topmost folder above ``path`` that others may not enter."""
    for parent in reversed(Path(path).parents):
        if not parent.stat().st_mode & 0o001:
            return str(parent)
    return None


def missing() -> list[str]:
    """What this machine lacks for the sandbox, in words; empty where all of it works, which is tried."""
    if sys.platform != "linux":
        return [f"the sandbox is made of parts of Linux, and this is {sys.platform}"]
    command = [sys.executable, "-P", "-m", "autograder.sandbox"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", env={"PATH": "/usr/bin:/bin"})
    if done.returncode == 0:
        return []
    return [line for line in (done.stdout or done.stderr).splitlines() if line][-1:] or ["it does not start"]


def describe() -> str:
    """The parts that this machine has, for `course doctor`."""
    user = f"user {nobody()} in place of root" if os.geteuid() == 0 else "your own user, without its rights"
    return f"namespaces, Landlock version {kernel.landlock_version()}, seccomp, limits; {user}"


def environment() -> dict[str, str]:
    """All that a process inside finds in its environment."""
    kept = {"COURSE_DATA": DATA} if os.environ.get("COURSE_DATA") else {}
    return kept | {
        "HOME": WORK,
        "TMPDIR": "/tmp",
        "IPYTHONDIR": f"{WORK}/.ipython",
        "MPLCONFIGDIR": f"{WORK}/.matplotlib",
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "COURSE_GRADING": "1",
        "COURSE_OFFLINE": "1",
        "COURSE_ROOT": COURSE,
    }


def report(ended: str, limits: Limits) -> str:
    """In a sentence for the learner: why the process that ran their cells is gone."""
    sentences: dict[str, Any] = {
        "memory": f"it used more than {limits.memory_mebibytes} MiB of memory",
        "cpu": f"it used more than {limits.cpu_seconds:g} s of processor time",
        "files": f"its processes had more than {warden.OPEN_FILES * limits.open_files} files open",
        "hangup": "it did not answer in time and was ended",
    }
    return sentences.get(ended, f"the process that ran it ended ({ended}): os._exit, a crash, or out of memory")


def _trial() -> None:
    """Old kernels count a user's processes everywhere, so that there may be no room for any inside."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    try:
        become_nobody()
        ours, theirs = socket.socketpair()
        how = confine(lambda: _trial, ours, [], Limits())
    except (CannotConfine, OSError) as lack:
        how = str(lack)
    if how != "done":
        print(how)
        sys.exit(1)
