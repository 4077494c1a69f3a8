"""Jobs: work whose result depends on its inputs, configuration and seed alone, done in this process or in several.

What is done is found again by the job's key, so that a killed run goes on where it was. A runner is two functions, `submit` and
`collect`: another one (of a cluster, say) needs no more.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from objects.cache import content_key
from objects.environment import shared_out, usable_cores
from objects.progress import Bar


@dataclass(frozen=True, eq=False)
class Job:
    """One piece of work.

    Attributes:
        kind: What it is, and the version of how it is done.
        inputs: What is worked on. To be done in another process, it must be something that can be sent there.
        content: A hash of the inputs.
        config: How: a dataclass of plain values.
        seed: Of all randomness.
        options: More plain values that the result depends on.
    """

    kind: tuple[str, int]
    inputs: Any
    content: str
    config: Any
    seed: int = 0
    options: tuple[Any, ...] = ()

    @cached_property
    def key(self) -> str:
        """A hash of all that the result depends on."""
        return content_key(*self.kind, self.content, dataclasses.asdict(self.config), self.seed, *self.options)


Work = Callable[[list[Job]], list[Any]]  # does some jobs in one go: a result for each


class Runner(Protocol):
    """Where jobs are done."""

    def submit(self, work: Work, jobs: list[Job]) -> None:
        """Has some jobs done in one go."""
        ...

    def collect(self) -> Iterator[tuple[list[Job], list[Any]]]:
        """What was submitted and its results, one call of the work after another, as they are done."""
        ...


class InProcess:
    """Does jobs in this process, in the order in which they were submitted."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Work, list[Job]]] = []

    def submit(self, work: Work, jobs: list[Job]) -> None:
        self._waiting.append((work, jobs))

    def collect(self) -> Iterator[tuple[list[Job], list[Any]]]:
        while self._waiting:
            work, jobs = self._waiting.pop(0)
            yield jobs, work(jobs)


class Processes(InProcess):
    """Does jobs in processes of their own (``n`` at most: one for each core by default), which share out the threads.

    Work must be a function of a module (or a `functools.partial` of one), and a script that calls this needs the guard
    ``if __name__ == "__main__"``. The processes end with this one, however it ends.
    """

    def __init__(self, n: int | None = None) -> None:
        super().__init__()
        self.n = usable_cores() if n is None else n
        if self.n < 1:
            raise ValueError(f"Processes: expected at least 1, got {n}")

    def collect(self) -> Iterator[tuple[list[Job], list[Any]]]:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        n = min(self.n, len(waiting))
        spawn = multiprocessing.get_context("spawn")
        with shared_out(n), ProcessPoolExecutor(n, spawn, initializer=_end_with_parent) as pool:
            running = {pool.submit(work, jobs): jobs for work, jobs in waiting}
            try:
                for future in as_completed(running):
                    yield running[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def run_jobs(
    jobs: Sequence[Job],
    work: Work,
    *,
    recall: Callable[[Job], Any] = lambda job: None,
    runner: Runner | None = None,
    group: int = 1,
    label: str = "jobs",
    progress: bool = False,
) -> dict[str, Any]:
    """Does jobs, each key once, and gives their results by key.

    Args:
        work: Does up to ``group`` jobs in one go. It keeps what it did where ``recall`` finds it.
        recall: The result of an earlier run; None where there is none.
        runner: Where the rest is done; in this process by default. Groups are made in the order of the keys.
        label, progress: A bar over all jobs, or lines in a log.
    """
    runner = InProcess() if runner is None else runner
    distinct = {job.key: job for job in jobs}
    results = {key: known for key, job in distinct.items() if (known := recall(job)) is not None}
    todo = [distinct[key] for key in sorted(distinct.keys() - results.keys())]
    for first in range(0, len(todo), group):
        runner.submit(work, todo[first : first + group])
    with Bar(total=len(distinct), initial=len(results), desc=label, unit="job", disable=not progress) as bar:
        for done, found in runner.collect():
            results |= zip([job.key for job in done], found, strict=True)
            bar.update(len(done))
    return results


def _end_with_parent() -> None:
    """Has this process end when the one that started it does: it would wait for more work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
