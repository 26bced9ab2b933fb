"""A warm process that has only imported, and forks one child for each request.

Importing torch takes over a second; a fork takes milliseconds. The zygote runs no tensor operation itself, because a
child forked after one can hang. It listens on a Unix socket; a request is one JSON line, which may carry an open
socket; a reply is two lines: the child's process id, then the result.

    python -m autograder.zygote SOCKET IDLE_SECONDS             serve until idle that long
    python -m autograder.zygote SOCKET IDLE_SECONDS --private   the same, and end with the process that started it
    python -m autograder.zygote SOCKET IDLE_SECONDS --clean     the same, and give up being root first
    python -m autograder.zygote ... --models            with one of the two: import the models that labs compare with
    python -m autograder.zygote                         one request on standard input, the reply on standard output
"""

from __future__ import annotations

import contextlib
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
    "subject": "autograder.subject:run",
    "referee": "autograder.referee:run",
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
    "autograder.referee",
    "autograder.subject",
    "coursekit.diagnose",
)
#: Where labs find the models that theirs are compared with: two to three seconds. The process that learners share
#: imports them once it is ready and nobody asks for anything.
PRELOAD_MODELS = (
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "transformers.models.bert.modeling_bert",
)
#: For a class it pays to have imported what figures take, too: a second or two for each notebook that draws.
PRELOAD_FIGURES = (
    "matplotlib.pyplot",
    "plotly.subplots",
    "plotly.io._renderers",
    "coursekit.plots",
    "torch.distributions",
)
#: Nobody asks for anything when nobody has for so long.
QUIET_SECONDS = 0.5


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Call the request's target with its job; any exception becomes an ``error`` in the reply."""
    try:
        module, name = TARGETS[request["target"]].split(":")
        return {"result": getattr(importlib.import_module(module), name)(request["job"])}
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def serve(path: str, idle: float, *, private: bool = False, clean: bool = False, models: bool = False) -> None:
    """Listen on ``path`` until no request has come for ``idle`` seconds.

    With ``private``, what has been asked for ends with this process; with ``clean``, this one is never root.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    if clean:
        importlib.import_module("autograder.sandbox").become_nobody()
    for module in PRELOAD + (PRELOAD_MODELS if models else ()) + (PRELOAD_FIGURES if clean else ()):
        importlib.import_module(module)
    if clean:
        _draw_once()
    importlib.import_module("autograder.execute").warm_up()
    listener.listen(64)
    later = () if private else PRELOAD_MODELS
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        listener.settimeout(QUIET_SECONDS if later else idle)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if not later:
                break
            for module in later:
                importlib.import_module(module)
            later = ()
            continue
        # Out of processes or memory: the one who asked sees the connection end, the others are served.
        with connection, contextlib.suppress(OSError):
            if os.fork() == 0:
                listener.close()
                if private:
                    _die_with_parent()
                _child(connection)
    with contextlib.suppress(OSError):
        os.unlink(path)


def _draw_once() -> None:
    """Let plotly read its schemas and templates, which it does at the first figure."""
    import plotly.graph_objects

    plotly.graph_objects.Figure(plotly.graph_objects.Heatmap(z=[[0]])).to_json()


def _child(connection: socket.socket) -> None:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.settimeout(None)
        _silence()
        connection.sendall(f"{os.getpid()}\n".encode())
        request, descriptors = _receive(connection)
        if descriptors:
            request["job"] |= {"wire": descriptors[0], "connection": connection.fileno()}
        connection.sendall(json.dumps(handle(request)).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One request, and the descriptors that came with it."""
    pieces, descriptors = [], []
    while not pieces or not pieces[-1].endswith(b"\n"):
        piece, more, _, _ = socket.recv_fds(connection, 1 << 20, 1)
        if not piece:
            raise ConnectionError("whoever asked has gone")
        pieces.append(piece)
        descriptors += more
    return json.loads(b"".join(pieces)), descriptors


def _silence() -> None:
    """Output that bypasses Python (a C library, a child process) must not reach the terminal of whoever started us."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _die_with_parent() -> None:
    """On Linux, let the kernel end this process when the one that started it ends."""
    if sys.platform == "linux":
        importlib.import_module("autograder.kernel").die_with_parent()


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
        private = len(sys.argv) > 3
        if private:
            _die_with_parent()
        options = {name: f"--{name}" in sys.argv for name in ("clean", "models")}
        serve(sys.argv[1], float(sys.argv[2]), private=private, **options)
