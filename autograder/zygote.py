"""A warm process that has only imported, and forks one child for each request.

Importing torch takes over a second; a fork takes milliseconds. The zygote runs no tensor operation itself, because a
child forked after one can hang. It listens on a Unix socket; a request is one JSON line, a reply two: the child's
process id, then the result.

    python -m autograder.zygote SOCKET IDLE_SECONDS     serve until idle that long
    python -m autograder.zygote                         one request on standard input, the reply on standard output
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

#: What a request may call.
TARGETS = {
    "run": "autograder.execute:run",
    "mistakes": "autograder.gates:mistakes_job",
    "mutants": "autograder.gates:mutants_job",
    "solutions": "autograder.gates:solutions_job",
}
#: `torch._dynamo` is imported by torch's FLOP counter and by its optimisers at their first use, which takes a second;
#: scipy is where labs find independent oracles, and takes half a second in every child that imports it anew.
PRELOAD = (
    "numpy",
    "numpy.testing",
    "scipy.signal",
    "scipy.stats",
    "torch",
    "torch.nn.functional",
    "torch.utils.flop_counter",
    "torch._dynamo",
    "autograder.execute",
    "autograder.gates",
    "coursekit.diagnose",
)
PR_SET_PDEATHSIG = 1


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Call the request's target with its job; any exception becomes an ``error`` in the reply."""
    try:
        module, name = TARGETS[request["target"]].split(":")
        return {"result": getattr(importlib.import_module(module), name)(request["job"])}
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def serve(path: str, idle: float) -> None:
    """Listen on ``path`` until no request has come for ``idle`` seconds."""
    for module in PRELOAD:
        importlib.import_module(module)
    importlib.import_module("autograder.execute").warm_up()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    listener.settimeout(idle)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            break
        # Out of processes or memory: the one who asked sees the connection end, the others are served.
        with connection, contextlib.suppress(OSError):
            if os.fork() == 0:
                listener.close()
                _child(connection)
    os.unlink(path)


def _child(connection: socket.socket) -> None:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.settimeout(None)
        _silence()
        stream = connection.makefile("rwb")
        stream.write(f"{os.getpid()}\n".encode())
        stream.flush()
        reply = handle(json.loads(stream.readline()))
        stream.write(json.dumps(reply).encode() + b"\n")
        stream.flush()
        code = 0
    finally:
        os._exit(code)


def _silence() -> None:
    """Output that bypasses Python (a C library, a child process) must not reach the terminal of whoever started us."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def die_with_parent() -> None:
    """On Linux, let the kernel end this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def once() -> None:
    """Serve one request from standard input, for machines without fork."""
    request = json.loads(sys.stdin.buffer.readline())
    out = os.fdopen(os.dup(1), "wb")
    _silence()
    out.write(json.dumps(handle(request)).encode() + b"\n")
    out.close()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        once()
    else:
        if len(sys.argv) > 3 and sys.argv[3] == "--private":
            die_with_parent()
        serve(sys.argv[1], float(sys.argv[2]))
