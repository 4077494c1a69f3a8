"""What all benchmarks share: times of calls, the name of the processor, lines that appear at once."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def say(text: str) -> None:
    print(text, flush=True)


def processor() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def timed_ms(run: Callable[[], object]) -> float:
    """Time of one call in milliseconds."""
    began = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - began)


def median_ms(run: Callable[[], object], repeats: int = 5) -> float:
    """Median time of a call in milliseconds, after one that compiles and fills caches."""
    run()
    return statistics.median(timed_ms(run) for _ in range(repeats))


def best_ms(run: Callable[[], object], repeats: int = 5) -> float:
    """Shortest time of a call in milliseconds, after one that compiles and fills caches: other work on the machine only adds."""
    run()
    return min(timed_ms(run) for _ in range(repeats))
