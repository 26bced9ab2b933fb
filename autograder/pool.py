"""Where tasks are performed: on this machine, some at a time. Yields verdicts as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from autograder.task import Task, perform
from autograder.verdict import Verdict, nothing
from autograder.warm import Zygote


class LocalPool:
    """Some notebooks at a time, each in fresh forks of one warm process. A context manager.

    Args:
        jobs: how many.
        models: whether their tests import models of the transformers library.
    """

    def __init__(self, jobs: int = 2, *, models: bool = False):
        self.jobs = max(jobs, 1)
        self.zygote = Zygote(clean=True, models=models)

    def __enter__(self) -> LocalPool:
        self.zygote.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.zygote.__exit__(*exception)

    def run(self, tasks: Iterable[tuple[Any, Task]]) -> Iterator[tuple[Any, Verdict]]:
        """Perform labelled tasks and yield each label with its verdict, in the order in which they end.

        Tasks are taken from the iterable by the thread that iterates, and only a few ahead of their turn, so a large
        class is never in memory at once. Where iterating ends early, what still runs is ended too.
        """
        source = iter(tasks)
        running: dict[Future, tuple[Any, Task]] = {}
        threads = ThreadPoolExecutor(self.jobs)
        try:
            while True:
                while len(running) < 2 * self.jobs and (item := next(source, None)) is not None:
                    running[threads.submit(perform, item[1], self.zygote)] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    label, task = running.pop(future)
                    yield label, verdict_of(future, task)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            if running:
                # Nobody waits for them: without the warm process they end now, not when their time is up.
                self.zygote.close()
            threads.shutdown()


def verdict_of(future: Any, task: Task) -> Verdict:
    """The result of a finished task; a fault of the grader costs this submission only, and says so."""
    try:
        return future.result()
    except Exception as error:
        return nothing(task.index, "internal", f"grading broke: {type(error).__name__}: {error}")
