"""Send work to a warm zygote (see `autograder.zygote`): one that lives on between commands, or a private one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO

#: A zygote that nobody has asked anything for this long ends by itself.
IDLE_SECONDS = 900
START_SECONDS = 60
#: The shortest limit of the systems we know (macOS; Linux has 108).
SOCKET_PATH_BYTES = 103


class RunFailed(Exception):
    """The process that ran the cells gave no result.

    Attributes:
        status: timeout, died, or internal.
    """

    def __init__(self, status: str, message: str):
        self.status = status
        super().__init__(message)


class Zygote:
    """A warm process to run jobs in.

    With ``shared`` it is found again by later commands of the same user and the same code, and ends after a quarter
    of an hour without work. Otherwise it belongs to this process alone; use it as a context manager. With ``clean`` it
    knows nothing of this process's environment, and is not root where this process is: for other people's code. With
    ``models`` it has imported what labs from chapter 2 on compare with, which takes two seconds more.
    """

    def __init__(self, *, shared: bool = False, clean: bool = False, models: bool = False):
        self.shared, self.clean, self.models = shared, clean, models
        self.process: subprocess.Popen | None = None
        self.starting = False
        self.folder = _shared_folder() if shared else Path(tempfile.mkdtemp(prefix="course-zygote-"))
        self.path = self.folder / (f"{_code_key()}.sock" if shared else "sock")

    def __enter__(self) -> Zygote:
        # Started by this thread: a private zygote dies with the thread that started it. Its imports take seconds, which
        # whoever needs it may use; the first call waits for the rest.
        if _can_fork():
            self._launch()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End a private zygote; a shared one lives on."""
        if self.shared:
            return
        if self.process:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, target: str, job: dict[str, Any], timeout: float) -> Any:
        """Run one job in a fresh fork and return its result.

        Raises:
            RunFailed: if it takes longer than ``timeout`` seconds, dies, or breaks.
        """
        if not _can_fork():
            return _result(_ask_once(_request(target, job), timeout))
        with self.start(target, job) as running:
            return running.result(timeout)

    def start(self, target: str, job: dict[str, Any], wire: socket.socket | None = None) -> Running:
        """Start one job in a fresh fork, which also gets the socket ``wire``. A context manager that ends it.

        Raises:
            RunFailed: if there is no warm process to ask.
        """
        connection, stream, child = self._connect()
        request = _request(target, job)
        try:
            connection.settimeout(START_SECONDS)
            sent = socket.send_fds(connection, [request], [wire.fileno()] if wire else [])
            connection.sendall(request[sent:])
        except OSError:
            # It has died at once; the one who waits for the result is told so.
            pass
        return Running(connection, stream, child)

    def _connect(self) -> tuple[socket.socket, BinaryIO, int]:
        """A child to talk to: its connection, the stream to read from, its process id.

        Another notebook may have ended the zygote, so a connection that breaks is tried again with a new one.
        """
        problem: Exception | None = None
        for _ in range(3):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(START_SECONDS)
            try:
                connection.connect(str(self.path))
                stream = connection.makefile("rb")
                return connection, stream, int(stream.readline())
            except (OSError, ValueError) as broken:
                connection.close()
                problem = broken
                self._start()
        raise RunFailed("internal", f"the warm process does not answer: {problem}")

    def _start(self) -> None:
        lock = self.folder / f"{self.path.name}.lock"
        with lock.open("w") as handle:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(str(self.path))
                probe.shutdown(socket.SHUT_RDWR)
                return
            if not self.starting:
                self._launch()
            self.starting = False
            if self.process.stdout.readline() != b"ready\n":
                text = (self.folder / "zygote.log").read_text(errors="replace")
                raise RunFailed("internal", f"the warm process did not start:\n{text[-2000:]}")

    def _launch(self) -> None:
        self.path.unlink(missing_ok=True)
        command = [sys.executable, "-m", "autograder.zygote", str(self.path), str(IDLE_SECONDS)]
        environment = _environment()
        if self.clean:
            environment = _clean_environment() | {"MPLCONFIGDIR": str(self._cache())}
            # -P: what lies in the current folder is no module.
            command[1:1] = ["-P"]
            command.append("--clean")
        elif not self.shared:
            command.append("--private")
        if self.models:
            command.append("--models")
        with (self.folder / "zygote.log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env=environment,
                cwd="/" if self.clean else None,
            )
        self.starting = True

    def _cache(self) -> Path:
        """A folder that the clean process may write to, whoever it is; it goes with the rest."""
        cache = self.folder / "cache"
        cache.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            from autograder import sandbox

            self.folder.chmod(0o711)
            os.chown(cache, sandbox.nobody(), -1)
        return cache


class Running:
    """A job that runs in a fork."""

    def __init__(self, connection: socket.socket, stream: BinaryIO, child: int):
        self.connection, self.stream, self.child = connection, stream, child

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exception: object) -> None:
        _end_group(self.child)
        self.stream.close()
        self.connection.close()

    def result(self, timeout: float) -> Any:
        """What it returned.

        Raises:
            RunFailed: if it takes longer than ``timeout`` seconds, dies, or breaks.
        """
        try:
            self.connection.settimeout(max(timeout, 0.001))
            return _result(self.stream.readline())
        except TimeoutError:
            raise RunFailed("timeout", f"it ran longer than {timeout:.0f} s") from None
        except ConnectionError:
            return _result(b"")

    def hang_up(self, timeout: float) -> Any:
        """Say that nobody waits any more, and return what it says last."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        return self.result(timeout)


def _request(target: str, job: dict[str, Any]) -> bytes:
    return json.dumps({"target": target, "job": job}).encode() + b"\n"


def _result(reply: bytes) -> Any:
    if not reply:
        raise RunFailed("died", "the process that ran the notebook ended early: out of memory, or os._exit was called")
    answer = json.loads(reply)
    if "error" in answer:
        raise RunFailed("internal", f"{answer['error']}\n{answer['traceback']}")
    return answer["result"]


def _ask_once(request: bytes, timeout: float) -> bytes:
    process = subprocess.Popen(
        [sys.executable, "-m", "autograder.zygote"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=_environment(),
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        _end_group(process)

    # Beside the notebook there are the imports.
    alarm = threading.Timer(timeout + START_SECONDS, end)
    alarm.start()
    try:
        process.stdin.write(request)
        process.stdin.close()
        # One line and not all there is: what the notebook has started may hold the pipe open.
        reply = process.stdout.readline()
    except OSError:
        reply = b""
    finally:
        alarm.cancel()
        _end_group(process)
        process.stdout.close()
    if late.is_set():
        raise RunFailed("timeout", f"it ran longer than {timeout:.0f} s")
    return reply


def _end_group(child: int | subprocess.Popen) -> None:
    """End a child, and whatever the notebook in it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child if isinstance(child, int) else child.pid, signal.SIGKILL)
    if isinstance(child, subprocess.Popen):
        child.kill()
        child.wait()


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def _clean_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("COURSE_DATA",) if name in os.environ}
    return kept | {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }


def _can_fork() -> bool:
    return hasattr(os, "fork") and hasattr(socket, "AF_UNIX") and not os.environ.get("COURSE_NO_FORK")


def _shared_folder() -> Path:
    """A folder of this user's alone; anybody else's, or one open to others, is refused."""
    user = os.getuid() if hasattr(os, "getuid") else "me"
    places = [os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), tempfile.gettempdir(), "/tmp"]
    folders = [Path(place) / f"attention-to-silicon-{user}" for place in places]
    # A socket's path has about a hundred bytes; the key and its ending take 21 of them.
    folder = next((folder for folder in folders if len(os.fsencode(folder)) <= SOCKET_PATH_BYTES - 22), folders[-1])
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o077 or folder.is_symlink()):
        raise RunFailed(
            "internal", f"{folder} belongs to somebody else or is open to others; remove it or set XDG_RUNTIME_DIR"
        )
    return folder


def _code_key() -> str:
    """A new key whenever the interpreter or the code that the zygote has imported changes."""
    # The root comes with each job; the other settings are those that the zygote was started with.
    settings = sorted(item for item in os.environ.items() if item[0].startswith("COURSE_") and item[0] != "COURSE_ROOT")
    digest = hashlib.sha256(f"{sys.executable} {sys.version} {settings}".encode())
    for package in ("autograder", "coursekit"):
        folder = Path(__file__).parents[1] / package
        for path in sorted(folder.rglob("*.py")):
            status = path.stat()
            digest.update(f"{path} {status.st_mtime_ns} {status.st_size}".encode())
    return digest.hexdigest()[:16]
