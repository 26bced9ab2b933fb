"""The warm process: what runs in it stays apart, ends in time, and takes everything it has started with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from autograder import verdict, warm
from autograder.build import index_of
from autograder.verdict import judge
from autograder.warm import RunFailed, Zygote
from tests import learners
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork there is no warm process")

START = "import subprocess, pathlib\npathlib.Path({!r}).write_text(str(subprocess.Popen(['sleep', '600']).pid))\n"
FORK = "import os, time\nif os.fork() == 0:\n    time.sleep(600)\n"


@pytest.fixture
def run(tmp_path, built_course):
    """Run cells in a warm process and return their reports."""

    def call(zygote, *sources, seconds=60.0, limit=60.0):
        cells = [{"id": str(n), "kind": "extra", "exercise": None, "source": s} for n, s in enumerate(sources)]
        job = {"lab": learners.LAB, "root": str(built_course), "folder": str(tmp_path)}
        return zygote.call("run", job | {"cells": cells, "cell_seconds": seconds}, limit)["cells"]

    return call


def said(report):
    return "".join(output.get("text", "") for output in report["outputs"]).strip()


def is_gone(pid, seconds=20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_each_job_has_a_process_of_its_own_that_leaves_no_trace(zygote, run, monkeypatch):
    monkeypatch.setenv("COURSE_TRACE", "not there")
    run(zygote, "import builtins, os\nbuiltins.trace = 1\nos.environ['TRACE'] = '1'\nos.chdir('/')")
    (report,) = run(zygote, "import os\nprint('trace' in dir(__builtins__), 'TRACE' in os.environ, os.getcwd())")
    assert said(report).startswith("False False ")
    assert not said(report).endswith(" /")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("", None),
        ("os._exit(0)", "died"),
        ("while True:\n    try:\n        sum(range(99))\n    except: pass", "timeout"),
    ],
    ids=["done", "died", "timeout"],
)
def test_what_a_notebook_has_started_ends_with_it(zygote, run, tmp_path, source, status):
    noted = tmp_path / "pid"
    cells = ["import os\n" + START.format(str(noted)), source]
    if status:
        with pytest.raises(RunFailed) as failure:
            run(zygote, *cells, seconds=0.3, limit=1.5)
        assert failure.value.status == status
    else:
        run(zygote, *cells)
    assert is_gone(int(noted.read_text()))


def test_a_notebook_that_ends_the_warm_process_does_not_stop_the_next(run):
    with Zygote() as own:
        with pytest.raises(RunFailed) as failure:
            run(own, "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos._exit(1)")
        assert failure.value.status == "died"
        assert said(run(own, "print('here')")[0]) == "here"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel has no such promise")
def test_a_private_process_ends_with_the_one_that_started_it(tmp_path):
    program = (
        "import os, signal\n"
        "from autograder.warm import Zygote\n"
        "zygote = Zygote().__enter__()\n"
        "print(zygote.process.pid, zygote.process.stdout.readline().decode(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    pid, ready = done.stdout.split()
    assert ready == "ready"
    assert is_gone(pid)


def test_without_fork_the_verdict_is_the_same(zygote, built_course, tmp_path, monkeypatch):
    right = learners.reference(built_course)
    answers = right | {"ema": right["ema"].replace("beta**t", "beta ** (t - 1)")}
    # The child that this cell forks holds the pipe that the result comes through.
    path = tmp_path / "lab01_ema.ipynb"
    path.write_text(json.dumps(learners.notebook(built_course, answers, FORK)))
    index = index_of(learners.LAB, built_course)
    warmly = judge(index, path, zygote, root=built_course)
    assert [exercise.points for exercise in warmly.exercises] == [0.0, 1.0]
    assert warmly.exercises[0].mistake.startswith("steps are counted from 0")
    monkeypatch.setenv("COURSE_NO_FORK", "1")
    monkeypatch.setattr(verdict, "NOTEBOOK_SECONDS", 20.0)
    with Zygote() as cold:
        assert judge(index, path, cold, root=built_course).to_json() == warmly.to_json()
        assert cold.process is None


def test_the_process_that_runs_cells_knows_nothing_of_the_gradebook(zygote, built_course, tmp_path):
    extra = "import sys\nprint(*sorted({name.partition('.')[0] for name in sys.modules} | set(sys.modules)))"
    content = learners.notebook(built_course, {"ema": "def ema(x, beta, correct_bias=True):\n    return x"})
    content["cells"].append(learners.code_cell(extra))
    path = tmp_path / "lab01_ema.ipynb"
    path.write_text(json.dumps(content))
    result = judge(index_of(learners.LAB, built_course), path, zygote, root=built_course)
    loaded = set(said(result.cells[-1]).split())
    assert "autograder.execute" in loaded
    kept_out = {
        "nbgrader",
        "sqlalchemy",
        "alembic",
        "jupytext",
        "nbconvert",
        "autograder.classroom",
        "autograder.stock",
    }
    assert loaded & kept_out == set()


@pytest.fixture
def runtime(monkeypatch):
    """A folder for shared processes that is none of the user's own, with a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder) / f"attention-to-silicon-{os.getuid()}"


def test_a_long_runtime_folder_is_passed_over(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert len(os.fsencode(Zygote(shared=True).path)) <= warm.SOCKET_PATH_BYTES
    assert list(deep.iterdir()) == []


def test_a_shared_process_serves_the_next_command_too(runtime, run, monkeypatch):
    first, second = Zygote(shared=True), Zygote(shared=True)
    try:
        parents = {said(run(one, "import os\nprint(os.getppid())")[0]) for one in (first, second)}
        assert parents == {str(first.process.pid)}
        assert second.process is None
        first.close()
        assert first.process.poll() is None, "it lives on after the command that started it"
        assert runtime.stat().st_mode & 0o777 == 0o700
        monkeypatch.setenv("COURSE_DATA", "/elsewhere")
        assert Zygote(shared=True).path != first.path, "other settings need another process"
    finally:
        first.process.kill()
        first.process.wait()


@pytest.mark.parametrize("wrong", ["open to others", "a link", "somebody else's"])
def test_a_folder_that_others_can_reach_is_refused(runtime, tmp_path, monkeypatch, wrong):
    if wrong == "open to others":
        runtime.mkdir()
        runtime.chmod(0o755)
    elif wrong == "a link":
        (tmp_path / "real").mkdir(mode=0o700)
        runtime.symlink_to(tmp_path / "real")
    else:
        monkeypatch.setattr(warm.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(RunFailed, match="XDG_RUNTIME_DIR") as failure:
        Zygote(shared=True)
    assert failure.value.status == "internal"


def test_an_idle_process_ends_by_itself(tmp_path):
    socket = tmp_path / "sock"
    command = [sys.executable, "-m", "autograder.zygote", str(socket), "0.2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    assert not socket.exists()
