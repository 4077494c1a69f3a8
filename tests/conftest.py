"""Set-up of all tests: fixed seeds, a cache folder of their own, few threads, and a closing line that counts the skips.

Under pytest-xdist (``pytest -n auto``) as many processes run as there are usable cores, each with one thread. They share the
cache folder of the run, which the first process makes and removes, and its compiled kernels.
"""

import os
import random
import re
import shutil
import tempfile
from pathlib import Path

import platformdirs

# What libraries read when they are loaded stands before they are.
_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if _WORKER:
    os.environ["OMP_NUM_THREADS"] = os.environ["IGL_NUM_THREADS"] = "1"
else:
    # Compiled kernels are kept from run to run: they depend on the sources alone, and take more than a minute.
    _kept = os.environ.get("SIRENSCAPE_CACHE") or platformdirs.user_cache_dir("sirenscape")
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(_kept) / "numba"))
    os.environ["SIRENSCAPE_CACHE"] = tempfile.mkdtemp(prefix="sirenscape-test-cache-")
_CACHE = Path(os.environ["SIRENSCAPE_CACHE"])

# isort: off
from objects import progress
from objects.environment import usable_cores

# isort: on
import filelock
import hypothesis
import numba
import numpy as np
import pytest
import torch
from numba.core.dispatcher import Dispatcher

progress.FIRST_S = 1e9  # how long something takes is no part of what a test reads on stderr
_THREADS = 1 if _WORKER else 2
torch.set_num_threads(_THREADS)
numba.set_num_threads(min(_THREADS, numba.config.NUMBA_NUM_THREADS))
# Where one of these is set (CI does), a test that is skipped for such a reason fails.
_REQUIRED = {
    "SIRENSCAPE_REQUIRE_EGL": r"\bEGL\b",
    "SIRENSCAPE_REQUIRE_BROWSER": r"\bChromium\b",
    "SIRENSCAPE_REQUIRE_SCATTER": r"torch[-_ ]scatter",
}

hypothesis.settings.register_profile("sirenscape", deadline=None, derandomize=True, print_blob=True, database=None)
hypothesis.settings.load_profile("sirenscape")


def _one_process_compiles(compile_now=Dispatcher.compile):
    """`Dispatcher.compile`, by one process at a time for each function: the others then find it in numba's cache."""
    locks = {}

    def compile(self, sig):
        name = f"{self.py_func.__module__}.{self.py_func.__qualname__}"
        with locks.setdefault(name, filelock.FileLock(_CACHE / f"{name}.lock")):
            return compile_now(self, sig)

    return compile


if _WORKER:
    Dispatcher.compile = _one_process_compiles()


def pytest_xdist_auto_num_workers():
    return usable_cores()


@pytest.fixture(autouse=True)
def _same_randomness_for_every_test():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (third-party code may draw from the global state)
    torch.manual_seed(0)


def _fail_if_required(report):
    if report.skipped and isinstance(report.longrepr, tuple) and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2]
        for variable, pattern in _REQUIRED.items():
            if os.environ.get(variable) == "1" and re.search(pattern, reason, re.IGNORECASE):
                report.outcome, report.longrepr = "failed", f"{variable}=1 forbids: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _fail_if_required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _fail_if_required((yield))


def pytest_terminal_summary(terminalreporter):
    count = len(terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line(f"{count} test{'s' * (count != 1)} skipped")


def pytest_unconfigure():
    if not _WORKER:
        shutil.rmtree(_CACHE, ignore_errors=True)
