"""Where tasks are performed: on a Dask cluster. Bytes go out and bytes come back; a worker needs no file of ours.

A worker has one warm process of its own, and works only if its code is the coordinator's and its machine can confine
what it runs: it says so when it is asked before the first task, and checks again with every task. What a worker
refuses, or leaves undone because it dies, is sent to another.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import queue
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from distributed import Client, Future, KilledWorker, Security, get_worker, rpc

from autograder import sandbox
from autograder.journal import grader_version
from autograder.verdict import Verdict, nothing
from autograder.warm import Zygote

if TYPE_CHECKING:
    from autograder.task import Task

#: Seconds that the scheduler may take to answer.
CONNECT_SECONDS = 10.0
#: Seconds without any worker that can do the work before the run is given up.
PATIENCE_SECONDS = 30.0
#: Seconds between two looks at which workers there are.
LOOK_SECONDS = 2.0
#: Seconds that a finished verdict may take to come; after that its worker is taken to be gone.
FETCH_SECONDS = 60.0
#: How often a task is performed anew, on another worker if there is one, because the grader itself broke.
RETRIES = 2

_COURSE = "the course's code"
_START = "`dask worker {} --nthreads 1 --nworkers 4 --no-dashboard`, run from the course's environment, starts four"
_LEFT_OUT = "the worker at %s is left out: %s"
_log = logging.getLogger(__name__)


class ClusterError(Exception):
    """The cluster cannot grade; the message says why and what to do."""


# What a worker runs


def grade_bytes(packed: bytes, grader: str) -> bytes:
    """Perform one task.

    Args:
        packed: from `Task.pack`.
        grader: the coordinator's `grader_version`.

    Returns:
        A line of JSON with the worker's address and, where it refuses, the reason; then, from `Verdict.pack`, the
        verdict. A refused task has not been begun.
    """
    refused = None if grader == grader_version() else f"{_COURSE} is not the coordinator's"
    answer = b""
    if not refused:
        # Late, because it imports torch, and whoever asks a worker for its versions should not wait for that.
        from autograder.task import Task, perform

        task = Task.unpack(packed)
        try:
            refused = _cannot_confine(_lacks()) if task.sandbox else None
            answer = b"" if refused else perform(task, _warm()).pack()
        except Exception as error:
            answer = nothing(task.index, "internal", f"grading broke: {type(error).__name__}: {error}").pack()
    return json.dumps({"worker": get_worker().contact_address, "refused": refused}).encode() + b"\n" + answer


async def inspect() -> dict[str, Any]:
    """What a worker says of itself: the versions that a verdict depends on, and what it lacks for the sandbox."""
    # The sandbox is tried, which takes seconds; the worker stays responsive meanwhile.
    return {"versions": versions(), "lacks": await asyncio.to_thread(_lacks)}


def versions() -> dict[str, str]:
    """The versions that a verdict depends on. The last one is a digest over the course's code and all the others."""
    packages = ("torch", "numpy", "scipy")
    return {"Python": sys.version} | {n: version(n) for n in packages} | {_COURSE: grader_version()}


#: One thread that lives as long as the worker, because a private warm process dies with the thread that started it.
_keeper = ThreadPoolExecutor(1, "course-keeper")


def _warm() -> Zygote:
    """This worker's warm process. It is started at the first task, and anew when it has died."""
    return _keeper.submit(_awake).result()


def _awake() -> Zygote:
    zygote = _private()
    if zygote.process is None or zygote.process.poll() is not None:
        zygote.__enter__()
    return zygote


@cache
def _private() -> Zygote:
    zygote = Zygote(clean=True, models=True)
    atexit.register(zygote.close)
    return zygote


@cache
def _lacks() -> tuple[str, ...]:
    return tuple(sandbox.missing())


def _cannot_confine(lacks: Iterable[str]) -> str | None:
    return f"it cannot confine the learners' code: {'; '.join(lacks)}" if lacks else None


# What the coordinator does


@dataclass
class _Worker:
    """A worker of the cluster: how many tasks it runs at a time, why it can do none, and why none in a sandbox."""

    threads: int
    refused: str | None
    unconfined: str | None

    def why_not(self, task: Task) -> str | None:
        return self.refused or (self.unconfined if task.sandbox else None)


@dataclass
class _Sent:
    """A task that is under way, and the workers that may perform it."""

    label: Any
    task: Task
    future: Future
    crew: frozenset[str]
    retries: int


class DaskPool:
    """The workers of a Dask cluster, in place of `autograder.pool.LocalPool`. A context manager.

    Args:
        address: of the scheduler, such as ``tcp://host:8786``.
        patience: seconds without any worker that can do the work before the run is given up.

    Raises:
        ClusterError: on entering, if there is no scheduler, no worker, or a worker with other code.
    """

    def __init__(self, address: str, *, patience: float = PATIENCE_SECONDS):
        self.address, self.patience = address, patience
        self.workers: dict[str, _Worker] = {}
        # Some at a time, because one whose worker has just died takes half a minute.
        self.fetchers = ThreadPoolExecutor(8, "course-fetch")
        #: Of workers that are asked what they are, and have not answered yet.
        self.asked: set[str] = set()
        self.answers: queue.SimpleQueue[tuple[str, dict[str, Any] | Exception]] = queue.SimpleQueue()
        self.looked, self.begun = 0.0, False

    def __enter__(self) -> DaskPool:
        # Dask logs what it retries and what it loses; what of that matters here becomes a `ClusterError`.
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            # A `Client` that cannot connect leaves threads behind, so the address is tried first.
            asyncio.run(_greet(self.address))
            self.client = Client(self.address, timeout=CONNECT_SECONDS, set_as_default=False, name="course-grade")
        # Whatever answers there, if it is no scheduler, may make any exception of it.
        except Exception as problem:
            raise ClusterError(
                f"there is no Dask scheduler at {self.address} ({_said(problem)}). An address looks like "
                "tcp://HOST:8786; `dask scheduler` prints its own when it starts, and a firewall must let it pass"
            ) from None
        try:
            self._ask_scheduler()
            self._wait_for_workers()
        except BaseException:
            self.client.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(Exception):
            self.client.close()
        self.fetchers.shutdown(wait=False)

    def _ask_scheduler(self) -> None:
        """It runs nothing of the course, but reads which function the workers are to call, and must know it."""
        try:
            self.client.run_on_scheduler(versions)
        except Exception as problem:
            raise ClusterError(_other(f"the scheduler at {self.address}", _said(problem))) from None

    def _wait_for_workers(self) -> None:
        deadline = time.monotonic() + self.patience
        while not self.workers or (self.asked and time.monotonic() < deadline):
            if time.monotonic() > deadline:
                raise ClusterError(self._nobody("no worker has joined and answered", []))
            self._look()
            time.sleep(0.1)
        self.begun = True

    def run(self, tasks: Iterable[tuple[Any, Task]]) -> Iterator[tuple[Any, Verdict]]:
        """Perform labelled tasks and yield each label with its verdict, in the order in which they end.

        Tasks are taken from the iterable by the thread that iterates, and only so many ahead that each worker always
        has the next one at hand.

        Raises:
            ClusterError: if the scheduler is lost, or no worker is left. What has been yielded by then holds.
        """
        source = iter(tasks)
        running: dict[str, _Sent] = {}
        ended: queue.SimpleQueue[tuple[str, bytes | Exception]] = queue.SimpleQueue()
        # With a salt, because a cluster knows a task by its key and would not perform the same one again.
        names = (f"course-{secrets.token_hex(8)}-{number}" for number in range(sys.maxsize))

        def send(label: Any, task: Task, retries: int = 0, avoid: str | None = None) -> None:
            crew = self._crew(task, avoid)
            key = f"{next(names)}-{task.key}"
            future = self._submit(key, task, crew)
            running[key] = _Sent(label, task, future, crew, retries)
            future.add_done_callback(lambda done: self.fetchers.submit(lambda: ended.put((key, _fetch(done)))))

        while True:
            self._look()
            for key in [key for key, sent in running.items() if not sent.crew & self.workers.keys()]:
                # Those who may perform it have gone. Whoever is there now was not asked.
                sent = running.pop(key)
                sent.future.cancel()
                send(sent.label, sent.task, sent.retries)
            threads = sum(worker.threads for worker in self.workers.values() if not worker.refused)
            while len(running) < max(2 * threads, 1) and (item := next(source, None)) is not None:
                send(*item)
            if not running:
                return
            try:
                key, reply = ended.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if (sent := running.pop(key, None)) is None:
                continue
            worker, verdict = self._read(reply, sent.task)
            if verdict is None:
                send(sent.label, sent.task, sent.retries, worker)
            elif verdict.status == "internal" and sent.retries < RETRIES:
                send(sent.label, sent.task, sent.retries + 1, worker)
            else:
                yield sent.label, verdict

    def _submit(self, key: str, task: Task, crew: frozenset[str]) -> Future:
        order = task.pack(), grader_version()
        try:
            with warnings.catch_warnings():
                # Dask finds a notebook of more than 10 MB large.
                warnings.simplefilter("ignore", UserWarning)
                return self.client.submit(grade_bytes, *order, key=key, pure=False, workers=sorted(crew))
        except Exception as problem:
            raise ClusterError(self._lost(problem)) from None

    def _read(self, reply: bytes | Exception, task: Task) -> tuple[str | None, Verdict | None]:
        """Who has performed a task that has ended, and the verdict; without one it has to be performed again."""
        if isinstance(reply, TimeoutError):
            return None, nothing(task.index, "internal", f"its verdict did not come within {FETCH_SECONDS:.0f} s")
        if isinstance(reply, KilledWorker):
            said = f"{reply.allowed_failures + 1} workers died while this was their task"
            return None, nothing(task.index, "internal", said)
        if isinstance(reply, Exception):
            raise ClusterError(self._lost(reply))
        head, _, packed = reply.partition(b"\n")
        answer = json.loads(head)
        if not answer["refused"]:
            return answer["worker"], Verdict.unpack(packed)
        self._leave_out(answer["worker"], answer["refused"])
        return answer["worker"], None

    def _crew(self, task: Task, avoid: str | None) -> frozenset[str]:
        """The workers that can perform a task, waited for a while; ``avoid`` is one of them only if it is the last."""
        deadline = time.monotonic() + self.patience
        while True:
            crew = frozenset(address for address, worker in self.workers.items() if not worker.why_not(task))
            if crew:
                return crew - {avoid} or crew
            if time.monotonic() > deadline:
                left_out = [f"{address}: {worker.why_not(task)}" for address, worker in self.workers.items()]
                raise ClusterError(self._nobody("no worker is left that can do the work,", left_out))
            time.sleep(0.1)
            self._look()

    def _look(self) -> None:
        """Find out which workers there are, now and then, and ask the new ones what they are."""
        if self.workers and not self.asked and time.monotonic() < self.looked + LOOK_SECONDS:
            return
        try:
            # While it has no connection, Dask knows of a cluster without any list of workers.
            if (there := self.client.scheduler_info().get("workers")) is None:
                raise ConnectionError
        except Exception as problem:
            raise ClusterError(self._lost(problem)) from None
        self.looked = time.monotonic()
        self.workers = {address: worker for address, worker in self.workers.items() if address in there}
        for address in there.keys() - self.workers.keys() - self.asked:
            self.asked.add(address)
            # A worker that hangs keeps nobody waiting, and its thread not even the end of the program.
            threading.Thread(target=self._ask, args=[address], daemon=True).start()
        with suppress(queue.Empty):
            while True:
                address, answer = self.answers.get_nowait()
                self.asked.discard(address)
                # One that cannot be reached has gone; or, if it is there still, is asked again.
                if address in there and not isinstance(answer, OSError):
                    self._meet(address, there[address]["nthreads"], answer)

    def _ask(self, address: str) -> None:
        try:
            answer = self.client.run(inspect, workers=[address], on_error="return")[address]
        except Exception as problem:
            answer = problem
        self.answers.put((address, answer))

    def _meet(self, address: str, threads: int, answer: dict[str, Any] | Exception) -> None:
        refused = _said(answer) if isinstance(answer, Exception) else _differences(answer["versions"])
        if refused and not self.begun:
            raise ClusterError(_other(f"the worker at {address}", refused))
        unconfined = None if refused else _cannot_confine(answer["lacks"])
        self.workers[address] = _Worker(threads, refused, unconfined)
        if refused or unconfined:
            _log.warning(_LEFT_OUT, address, refused or unconfined)

    def _leave_out(self, address: str, why: str) -> None:
        """Send nothing more to a worker; several of its tasks may come back."""
        if address in self.workers and not self.workers[address].refused:
            self.workers[address].refused = why
            _log.warning(_LEFT_OUT, address, why)

    def _nobody(self, what: str, left_out: list[str]) -> str:
        reasons = "; ".join(["", *left_out])
        return f"{what} for {self.patience:g} s at {self.address}{reasons}. {_START.format(self.address)}"

    def _lost(self, problem: Exception) -> str:
        gone = isinstance(problem, CancelledError | OSError)
        return (
            f"the cluster of {self.address} can no longer be used: "
            f"{'the connection to the scheduler was lost' if gone else _said(problem)}. Look at the scheduler's own "
            "messages. Nothing is lost: what has been graded is kept, and the same command goes on from there"
        )


def _fetch(done: Future) -> bytes | Exception:
    try:
        return done.result(timeout=FETCH_SECONDS)
    except Exception as problem:
        return problem


async def _greet(address: str) -> None:
    terms = Security().get_connection_args("client")
    async with rpc(address, timeout=CONNECT_SECONDS, connection_args=terms) as there:
        kind = (await asyncio.wait_for(there.identity(), 2 * CONNECT_SECONDS))["type"]
    if kind != "Scheduler":
        raise ConnectionError(f"it is the address of a {kind.lower()}")


def _differences(theirs: dict[str, str]) -> str | None:
    pairs = [(name, theirs.get(name), ours) for name, ours in versions().items()]
    other = [f"{name} is {there} there and {here} here" for name, there, here in pairs if there != here]
    # The digest differs whenever anything does; it is worth a word only where nothing else says why.
    return "; ".join(other[:-1] or other) or None


def _other(who: str, why: str) -> str:
    return (
        f"{who} cannot grade: {why}. Nothing has been sent to the cluster. Give it the environment and the course that "
        "are here, start it again, and give the same command again"
    )


def _said(problem: Exception) -> str:
    # What a worker cannot pickle comes as a plain exception that quotes it.
    name = "" if type(problem) is Exception else f"{type(problem).__name__}: "
    return (name + " ".join(str(problem).split())).rstrip(".: ")
