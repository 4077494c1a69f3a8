"""Set-up of all tests: fixed seeds, a cache folder of their own, few threads, and a closing line that counts the skips."""

import os
import random
import re
import shutil
import tempfile
from pathlib import Path

import hypothesis
import numpy as np
import platformdirs
import pytest
import torch

# Compiled kernels are kept from run to run: they depend on the sources alone, and take more than a minute.
_KEPT = os.environ.get("SIRENSCAPE_CACHE") or platformdirs.user_cache_dir("sirenscape")
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(_KEPT) / "numba"))
_CACHE = tempfile.mkdtemp(prefix="sirenscape-test-cache-")
os.environ["SIRENSCAPE_CACHE"] = _CACHE
torch.set_num_threads(2)
# Where one of these is set (CI does), a test that is skipped for such a reason fails.
_REQUIRED = {"SIRENSCAPE_REQUIRE_EGL": r"\bEGL\b", "SIRENSCAPE_REQUIRE_SCATTER": r"torch[-_ ]scatter"}

hypothesis.settings.register_profile("sirenscape", deadline=None, derandomize=True, print_blob=True, database=None)
hypothesis.settings.load_profile("sirenscape")


@pytest.fixture(autouse=True)
def _same_randomness_for_every_test():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (third-party code may draw from the global state)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_progress(monkeypatch):
    """How long something takes is no part of what a test reads on stderr."""
    monkeypatch.setattr("objects.progress.FIRST_S", 1e9)


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
    shutil.rmtree(_CACHE, ignore_errors=True)
