"""The thread in which everything is computed: edits first, then pictures, then what can wait."""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
import traceback
from collections.abc import Callable

Job = Callable[[], None]


def _STOP() -> None:
    """Ends the thread."""


class Worker:
    """Runs jobs in the order in which they were posted, and draws between them.

    Args:
        draw: Does the next bit of drawing, in about a tenth of a second; False if nothing is left to draw.
        failed: Told of what a job raised.
    """

    def __init__(self, draw: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        self._draw, self._failed = draw, failed
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._later: list[tuple[float, int, str, Job]] = []
        self._due: dict[str, int] = {}  # the last number given out for each key
        self._running = False
        self._idle: dict[str, Job] = {}
        self._number = itertools.count()
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the job that it is at."""
        self._jobs.put(_STOP)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10.0)

    def post(self, job: Job) -> None:
        """From any thread."""
        self._jobs.put(job)

    @property
    def at_rest(self) -> bool:
        """Whether no job is waiting or running."""
        return self._jobs.empty() and not self._running and not self._due

    def post_later(self, key: str, delay_s: float, job: Job) -> None:
        """After a while; a later one of the same key takes its place. From jobs only."""
        number = self._due[key] = next(self._number)
        heapq.heappush(self._later, (time.monotonic() + delay_s, number, key, job))

    def post_once(self, key: str, delay_s: float, job: Job) -> None:
        """Like `post_later`, but where one of the same key is waiting already, that one stays."""
        if key not in self._due:
            self.post_later(key, delay_s, job)

    def post_idle(self, key: str, job: Job) -> None:
        """Once everything is drawn; a later one of the same key takes its place. From jobs only."""
        self._idle[key] = job

    def _run(self) -> None:
        busy = True
        while True:
            job = self._next(busy)
            if job is _STOP:
                return
            if job is not None:
                self._running = True
                self._try(job)
                self._running, busy = False, True
            elif not (busy := bool(self._try(self._draw))) and self._idle:
                self._try(self._idle.pop(next(iter(self._idle))))
                busy = True

    def _next(self, busy: bool) -> Job | None:
        """The next job; None where there is drawing to do first."""
        if (job := self._ready()) is not None:
            return job
        wait = 0.0 if busy else self._until_due()
        try:
            return self._jobs.get_nowait() if wait == 0.0 else self._jobs.get(timeout=wait)
        except queue.Empty:
            return self._ready()

    def _try(self, job: Callable[[], object]) -> object:
        try:
            return job()
        except ValueError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001 (a viewer goes on; what it is goes to the terminal)
            traceback.print_exc()
            self._failed(error)
        return None

    def _until_due(self) -> float | None:
        return None if not self._later else max(self._later[0][0] - time.monotonic(), 1e-3)

    def _ready(self) -> Job | None:
        """The next job whose time has come, if any."""
        while self._later and self._later[0][0] <= time.monotonic():
            _, number, key, job = heapq.heappop(self._later)
            if self._due.get(key) == number:
                del self._due[key]
                return job
        return None
