"""Grading on a Dask cluster: a scheduler and workers as processes of their own, on this machine."""

from __future__ import annotations

import json
import logging.handlers
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from autograder import cluster
from autograder.build import index_of
from autograder.cluster import ClusterError, DaskPool, grade_bytes
from autograder.journal import grader_version
from autograder.pool import LocalPool
from autograder.references import references
from autograder.task import Task
from tests import learners
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers confine what they run, which takes Linux")

#: Where the machine is busy, one warm process may take that long to start.
TEST_SECONDS = 150
STOCK = ("--dashboard-address", "127.0.0.1:0", "--no-dashboard", "--host", "127.0.0.1")
#: Lets a worker live and no sandbox start, which grants that much locked memory.
NO_LOCKED_MEMORY = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))}


@pytest.fixture(autouse=True)
def bounded():
    def late(*_):
        raise TimeoutError(f"the test ran longer than {TEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)
    return found


@contextmanager
def dask(folder, *arguments, environment=None, **options):
    """A `dask` command in an empty folder, with next to nothing in its environment."""
    folder.mkdir(exist_ok=True)
    environment = {"PATH": "/usr/bin:/bin"} | (environment or {})
    command = [sys.executable, "-P", "-m", "dask", *arguments]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
        )
    try:
        yield process
    finally:
        # Asked first, because a worker that may say goodbye leaves no files.
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Empty folders."""
    top = tmp_path_factory.mktemp("cluster")
    return (top / str(number) for number in count())


@contextmanager
def a_scheduler(places, **options):
    folder = next(places)
    file = folder / "scheduler.json"
    with dask(folder, "scheduler", "--port", "0", "--scheduler-file", file.name, *STOCK, **options) as process:
        # It is written in one go, and is not there before.
        text = wait_for(lambda: file.exists() and file.read_text())
        yield SimpleNamespace(address=json.loads(text)["address"], process=process)


@contextmanager
def a_worker(scheduler, places, **options):
    """A worker that has joined, with nobody who would start it anew."""
    folder = next(places)
    command = ["worker", scheduler.address, "--nthreads", "1", "--no-nanny", *STOCK]
    with dask(folder, *command, **options) as process:
        said = wait_for(lambda: "Registered to" in (text := (folder / "log").read_text()) and text)
        address = next(line.split()[-1] for line in said.splitlines() if "Start worker at:" in line)
        yield SimpleNamespace(address=address, process=process)


@pytest.fixture(scope="module")
def two_workers(places):
    """A scheduler, and two workers as the instructor's page starts them: one that ends is started anew."""
    with a_scheduler(places) as scheduler:
        folder, command = next(places), ["worker", scheduler.address, "--nthreads", "1", "--nworkers", "2", *STOCK]
        with dask(folder, *command):
            wait_for(lambda: (folder / "log").read_text().count("Registered to") == 2)
            yield scheduler


@pytest.fixture(scope="module")
def no_worker(places):
    """A scheduler that tests give workers to, and take them away again."""
    with a_scheduler(places) as scheduler:
        yield scheduler


@pytest.fixture(scope="module")
def task(built_course, tmp_path_factory):
    """Makes tasks; the course that they are from is gone."""
    root = tmp_path_factory.mktemp("gone") / "course"
    shutil.copytree(built_course, root)
    index, texts = index_of(learners.LAB, root), references(index_of(learners.LAB, root), root)
    notebooks = {
        "honest": json.dumps(learners.notebook(root, learners.reference(root))).encode(),
        "blank": json.dumps(learners.notebook(root)).encode(),
        "broken": b'{"cells": [',
    }
    shutil.rmtree(root)
    return lambda kind, **options: Task(index, notebooks[kind], texts, seed=7, **options)


@pytest.fixture(scope="module")
def other_code(tmp_path_factory):
    """The course's packages with one comment more, found before the installed ones."""
    folder = tmp_path_factory.mktemp("other")
    for package in ("autograder", "coursekit"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "coursekit" / "check.py").open("a") as file:
        file.write("# another version\n")
    return folder


@pytest.fixture(scope="module")
def no_course(tmp_path_factory):
    """For a Python that has everything but the course."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'autograder':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
    )
    return folder


@pytest.fixture
def noise():
    """What Dask says in this process. Its loggers hand nothing on, and write to where standard error was at first."""
    handler = logging.handlers.BufferingHandler(10_000)
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.buffer
    for logger in loggers:
        logger.removeHandler(handler)


def facts(verdict):
    """All of a verdict but what differs from run to run."""
    return {key: value for key, value in asdict(verdict).items() if key not in ("seconds", "peak_mebibytes")}


def points(done):
    return sorted((label, verdict.status, verdict.points) for label, verdict in done)


def test_a_cluster_gives_the_verdicts_of_this_machine_without_a_file_of_it(two_workers, task, noise):
    tasks = [("ann", task("honest")), ("ben", task("blank")), ("eve", task("broken")), ("ann's twin", task("honest"))]
    with LocalPool(2) as here, DaskPool(two_workers.address) as there:
        remote = list(there.run(tasks))
        local = list(here.run(tasks))
    assert points(local) == [
        ("ann", "graded", 5.0),
        ("ann's twin", "graded", 5.0),
        ("ben", "graded", 0.0),
        ("eve", "truncated", 0.0),
    ]
    assert len(remote) == len(tasks)
    assert {label: facts(verdict) for label, verdict in remote} == {label: facts(verdict) for label, verdict in local}
    assert noise == []


def test_tasks_whose_workers_have_all_gone_are_sent_to_those_that_come_after(no_worker, places, task):
    with ExitStack() as stack:
        frozen = stack.enter_context(a_worker(no_worker, places))
        pool = stack.enter_context(DaskPool(no_worker.address))
        frozen.process.send_signal(signal.SIGSTOP)

        def replace():
            wait_for(lambda: any(pool.client.processing().values()))
            stack.enter_context(a_worker(no_worker, places))
            frozen.process.kill()

        helper = threading.Thread(target=replace)
        helper.start()
        done = list(pool.run([("ann", task("broken")), ("ben", task("broken"))]))
        helper.join()
    assert points(done) == [("ann", "truncated", 0.0), ("ben", "truncated", 0.0)]


def test_a_task_on_which_every_worker_breaks_costs_that_task_and_says_why(no_worker, places, task):
    with a_worker_without_disk(no_worker, places), DaskPool(no_worker.address) as pool:
        ((_, verdict),) = pool.run([("ann", task("honest"))])
    assert (verdict.status, verdict.points) == ("internal", 0.0)
    assert verdict.exercises[0].message.startswith("grading broke: FileNotFoundError")


@contextmanager
def a_worker_without_disk(scheduler, places):
    """A worker that can make no file once it has joined."""
    temporary = next(places)
    temporary.mkdir()
    with a_worker(scheduler, places, environment={"TMPDIR": str(temporary)}) as worker:
        shutil.rmtree(temporary)
        yield worker


def test_the_warm_process_outlives_the_thread_that_asked_for_it_and_is_started_anew():
    def ask():
        found.append(cluster._warm())
        # It is then that it has asked to die with the thread that started it.
        wait_for(found[0].path.exists)

    found, pids = [], []
    try:
        for _ in range(2):
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            time.sleep(0.5)
            assert found[0].process.poll() is None
            pids.append(found[0].process.pid)
            os.kill(pids[-1], signal.SIGKILL)
            found[0].process.wait()
    finally:
        found[0].close()
        cluster._private.cache_clear()
    assert pids[0] != pids[1]


@pytest.mark.parametrize(
    ("fixture", "words"), [("other_code", "the course's code is"), ("no_course", "No module named 'autograder'")]
)
def test_a_worker_with_another_course_or_none_is_named_before_anything_is_graded(
    no_worker, places, request, fixture, words
):
    with a_worker(no_worker, places, environment={"PYTHONPATH": str(request.getfixturevalue(fixture))}) as other:
        with pytest.raises(ClusterError) as problem, DaskPool(no_worker.address):
            pass
        assert str(problem.value).startswith(f"the worker at {other.address} cannot grade: ")
        assert words in str(problem.value)


def test_a_scheduler_without_the_course_is_named(places, no_course):
    with (
        a_scheduler(places, environment={"PYTHONPATH": str(no_course)}) as scheduler,
        pytest.raises(ClusterError) as problem,
    ):
        DaskPool(scheduler.address).__enter__()
    assert f"the scheduler at {scheduler.address} cannot grade: " in str(problem.value)
    assert "No module named 'autograder'" in str(problem.value)


def test_a_worker_with_another_course_that_comes_late_is_left_out(two_workers, places, task, other_code, caplog):
    with (
        DaskPool(two_workers.address) as pool,
        a_worker(two_workers, places, environment={"PYTHONPATH": str(other_code)}) as other,
    ):
        pool.looked = 0.0
        done = list(pool.run((number, task("honest")) for number in range(4)))
        reply = pool.client.submit(
            grade_bytes, task("honest").pack(), grader_version(), key="to the other", workers=[other.address]
        ).result()
    assert points(done) == [(number, "graded", 5.0) for number in range(4)]
    assert f"the worker at {other.address} is left out: the course's code is" in caplog.text
    head, _, verdict = reply.partition(b"\n")
    assert json.loads(head) == {"worker": other.address, "refused": "the course's code is not the coordinator's"}
    assert verdict == b""


def test_a_worker_without_a_sandbox_is_left_out_and_its_tasks_are_sent_to_others(two_workers, places, task, caplog):
    with a_worker(two_workers, places, **NO_LOCKED_MEMORY) as bare, DaskPool(two_workers.address) as pool:
        said = f"the worker at {bare.address} is left out: it cannot confine"
        assert caplog.text.count(said) == 1
        # As if it had lost its sandbox since it was asked: now it has to refuse tasks itself.
        pool.workers[bare.address].unconfined = None
        done = list(pool.run((number, task("honest")) for number in range(6)))
        assert pool.workers[bare.address].refused
    assert points(done) == [(number, "graded", 5.0) for number in range(6)]
    assert caplog.text.count(said) == 2


def test_without_a_sandbox_only_trusted_work_is_done(no_worker, places, task):
    with a_worker(no_worker, places, **NO_LOCKED_MEMORY) as bare, DaskPool(no_worker.address) as pool:
        pool.patience = 0.5
        with pytest.raises(ClusterError) as problem:
            list(pool.run([("ann", task("honest"))]))
        assert points(pool.run([("eve", task("broken", sandbox=False))])) == [("eve", "truncated", 0.0)]
    assert f"{bare.address}: it cannot confine the learners' code: " in str(problem.value)


def test_a_task_on_which_a_worker_breaks_is_performed_by_another(two_workers, places, task):
    with a_worker_without_disk(two_workers, places), DaskPool(two_workers.address) as pool:
        done = list(pool.run((number, task("honest")) for number in range(6)))
    assert points(done) == [(number, "graded", 5.0) for number in range(6)]


def test_a_worker_that_is_killed_in_the_middle_of_a_task_costs_nothing(two_workers, task):
    labels = [f"learner {number}" for number in range(6)]
    with DaskPool(two_workers.address) as pool:
        done = pool.run((label, task("honest")) for label in labels)
        first = next(done)
        victim, _ = wait_for(lambda: next((item for item in pool.client.processing().items() if item[1]), None))
        pid = pool.client.run(os.getpid, workers=[victim])[victim]
        warm = warm_process_of(pid)
        os.kill(pid, signal.SIGKILL)
        rest = list(done)
    assert points([first, *rest]) == [(label, "graded", 5.0) for label in labels]
    wait_for(lambda: not Path(f"/proc/{warm.pid}").exists())
    shutil.rmtree(warm.folder)


def is_warm_folder(path):
    return path.is_absolute() and path.name.startswith("course-zygote-")


def warm_process_of(pid):
    for status in Path("/proc").glob("[0-9]*/stat"):
        if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
            arguments = (status.parent / "cmdline").read_bytes().decode().split("\0")
            if "autograder.zygote" in arguments:
                # The caller removes it: it has to be a warm process's own folder and can be nothing else.
                (folder,) = {path for text in arguments for path in Path(text).parents if is_warm_folder(path)}
                return SimpleNamespace(pid=int(status.parent.name), folder=folder)
    raise LookupError(f"worker {pid} has no warm process")


def test_a_cluster_without_workers_is_said_to_have_none(no_worker):
    with pytest.raises(ClusterError) as problem:
        DaskPool(no_worker.address, patience=0.5).__enter__()
    assert str(problem.value).startswith("no worker has joined and answered for 0.5 s")
    assert f"`dask worker {no_worker.address} " in str(problem.value)


def test_a_lost_scheduler_ends_the_run_and_keeps_what_is_done(places, task, noise):
    got = {}

    def grade(scheduler):
        with DaskPool(scheduler.address) as pool:
            for label, verdict in pool.run((number, task("broken")) for number in count()):
                got[label] = verdict.status
                if len(got) == 5:
                    scheduler.process.kill()

    with a_scheduler(places) as scheduler, a_worker(scheduler, places), pytest.raises(ClusterError) as problem:
        grade(scheduler)
    assert "the connection to the scheduler was lost" in str(problem.value)
    assert "the same command goes on" in str(problem.value)
    assert len(got) >= 5
    assert set(got.values()) == {"truncated"}
    assert noise == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://127.0.0.1:9", "Timed out"),
        ("my-cluster", "missing port"),
        ("http://127.0.0.1:9", "unknown address scheme"),
        ("tls://127.0.0.1:9", "TLS configuration"),
        ("a web server", ""),
        ("a worker", "the address of a worker"),
    ],
)
def test_an_address_without_a_scheduler_is_said_to_be_one(no_worker, places, address, words, monkeypatch, noise):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    with ExitStack() as stack:
        if address == "a worker":
            address = stack.enter_context(a_worker(no_worker, places)).address
        if address == "a web server":
            address = stack.enter_context(web_server())
        with pytest.raises(ClusterError) as problem:
            DaskPool(address).__enter__()
    assert str(problem.value).startswith(f"there is no Dask scheduler at {address} (")
    assert words in str(problem.value)
    assert "tcp://HOST:8786" in str(problem.value)
    assert noise == []


@contextmanager
def web_server():
    """Something that answers and is no part of Dask."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                connection.recv(1 << 16)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)
