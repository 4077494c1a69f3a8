"""What torch, numba and BLAS read from the environment when they are loaded, set before any of them is: threads, compiled code.

How many threads compute, and how they wait: torch and numba each bring an OpenMP runtime (libgomp) whose threads wait for the
next bit of work by spinning, for about 15 ms at its own defaults. On a machine that does other things as well, those waits take
the cores away from the threads that have the work: a frame of 0.1 s takes seconds. Spinning for 50 us bridges the gaps between
the parts of a frame, and then a thread sleeps.

A torch that was loaded before has read its own defaults. libgomp waits briefly by itself, though, where it knows of more threads
than cores (`gomp_managed_threads` in its wait.h), so one more team of threads is made, which only sleeps.

Compiled kernels are kept in the cache folder, not beside the installed sources. What the user has set stays.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs

_SPINS = "1000"  # about 50 us; what libgomp itself takes where it knows of more threads than cores
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_COUNTS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "IGL_NUM_THREADS")


def set_up(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what isn't set: how threads wait, how many there are (`usable_cores` or ``OMP_NUM_THREADS``), numba's cache folder."""
    if not any(environment.get(key) for key in _WAITING):
        environment["GOMP_SPINCOUNT"] = _SPINS
        if environment is os.environ and "torch" in sys.modules:
            _add_sleeping_team()
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    wanted = int(first) if first.isdecimal() and int(first) > 0 else usable_cores()
    for key in _COUNTS:
        # numba refuses another number once it has threads
        if not environment.get(key) and not (key == "NUMBA_NUM_THREADS" and "numba" in sys.modules):
            environment[key] = str(wanted)
    if not environment.get("NUMBA_CACHE_DIR"):
        environment["NUMBA_CACHE_DIR"] = str(cache_root(environment) / "numba")
        if "numba" in sys.modules:  # it has read the old value
            sys.modules["numba"].core.config.reload_config()


def _add_sleeping_team() -> None:
    """One more OpenMP team of torch's, kept by a thread that sleeps for good."""
    import torch

    ready = threading.Event()

    def keep() -> None:
        torch.zeros(1 << 18).add_(1)  # large enough for several threads
        ready.set()
        threading.Event().wait()

    if torch.get_num_threads() > 1:
        threading.Thread(target=keep, name="sleeping team", daemon=True).start()
        ready.wait(timeout=10.0)


def cache_root(environment: Mapping[str, str] = os.environ) -> Path:
    """``$SIRENSCAPE_CACHE``, else the user's cache folder."""
    return Path(environment.get("SIRENSCAPE_CACHE") or platformdirs.user_cache_dir("sirenscape")).expanduser()


@contextmanager
def shared_out(n: int, environment: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """``n`` processes that start meanwhile share out the threads of this one: their libraries read this when they load."""
    before = {key: environment.get(key) for key in _COUNTS}
    for key, value in before.items():
        threads = int(value) if value and value.isdecimal() else usable_cores()
        environment[key] = str(max(1, threads // n))
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del environment[key]
            else:
                environment[key] = value


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity, and the quota of its container, rounded up."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(allowed, math.ceil(_quota(cgroups))))


def _quota(cgroups: Path) -> float:
    """Cores by the quota of cgroups, version 2 or 1; more than there are where none is set."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = (word for name in files for word in (cgroups / name).read_text().split())
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
        except (OSError, ValueError):  # not there, or of a kind that isn't known
            continue
    return 2**20


set_up()
