"""Jobs give equal results in one process and in several, and go on after a kill."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from objects.environment import shared_out
from objects.jobs import InProcess, Job, Processes, run_jobs

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Config:
    factor: float = 2.0
    shape: tuple[int, ...] = (1, 2)


def job(n, config=Config(), seed=0, **more):
    return Job(("double", 1), n, str(n), config, seed, **more)


def double(jobs):
    return [j.config.factor * j.inputs + j.seed for j in jobs]


def where(folder, jobs):
    """Notes which process did which jobs, waits a little, and keeps what was done."""
    if folder is not None:
        for j in jobs:
            (folder / f"{j.key}.begun").touch()
        time.sleep(0.2)
        for j in jobs:
            (folder / j.key).write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")
    return [os.getpid() for _ in jobs]


def test_a_key_depends_on_all_that_the_result_depends_on_and_on_nothing_else():
    one = job(3)
    assert one.key == job(3).key == Job(("double", 1), "not looked at", "3", Config()).key
    others = [job(4), job(3, Config(3.0)), job(3, seed=1), replace(one, kind=("double", 2)), job(3, options=("x",))]
    assert len({one.key, *(other.key for other in others)}) == 6


def test_jobs_are_done_once_in_the_order_of_their_keys_and_in_groups():
    calls = []

    def work(jobs):
        calls.append([j.key for j in jobs])
        return double(jobs)

    jobs = [job(n) for n in (5, 3, 5, 1, 4)]
    found = run_jobs(jobs, work, group=3)
    assert {j.inputs: found[j.key] for j in jobs} == {1: 2.0, 3: 6.0, 4: 8.0, 5: 10.0}
    assert [len(call) for call in calls] == [3, 1]
    assert [key for call in calls for key in call] == sorted(found)


def test_what_was_done_before_is_recalled():
    jobs = [job(n) for n in range(4)]
    known = {jobs[0].key: -1.0, jobs[2].key: -2.0}
    done = []
    found = run_jobs(jobs, lambda some: done.extend(some) or double(some), recall=lambda j: known.get(j.key))
    assert {j.inputs for j in done} == {1, 3}
    assert [found[j.key] for j in jobs] == [-1.0, 2.0, -2.0, 6.0]


@pytest.mark.parametrize("runner", [InProcess, partial(Processes, 2)])
def test_a_job_that_fails_is_an_error_and_the_runner_is_free_again(runner):
    made = runner()
    with pytest.raises(TypeError):
        run_jobs([job(None)], double, runner=made)
    assert list(run_jobs([job(2)], double, runner=made).values()) == [4.0]


def test_two_processes_give_the_same_results_on_shared_threads(tmp_path):
    jobs = [job(n, seed=n) for n in range(6)]
    assert run_jobs(jobs, double, runner=Processes(2), group=2) == run_jobs(jobs, double, group=2)
    pids = set(run_jobs(jobs, partial(where, tmp_path), runner=Processes(2)).values())
    assert len(pids) == 2 and os.getpid() not in pids
    threads = max(1, int(os.environ["OMP_NUM_THREADS"]) // 2)
    assert {path.read_text().split()[1] for path in tmp_path.glob("*") if not path.suffix} == {str(threads)}
    with pytest.raises(ValueError, match="at least 1"):
        Processes(0)


def test_threads_are_given_back():
    environment = {"OMP_NUM_THREADS": "8", "IGL_NUM_THREADS": "3"}
    with shared_out(4, environment):
        assert (environment["OMP_NUM_THREADS"], environment["IGL_NUM_THREADS"]) == ("2", "1")
        assert int(environment["NUMBA_NUM_THREADS"]) >= 1
    assert environment == {"OMP_NUM_THREADS": "8", "IGL_NUM_THREADS": "3"}


def has_ended(pid: int) -> bool:
    """Whether a process runs no more; nobody may have asked for its exit code yet."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def test_a_killed_run_goes_on_where_it_was_and_its_processes_end(tmp_path):
    code = (
        "import sys; from functools import partial; from pathlib import Path\n"
        "from objects.jobs import Processes, run_jobs; from tests.objects.test_jobs import job, where\n"
        "if __name__ == '__main__':\n"
        "    run_jobs([job(n) for n in range(40)], partial(where, Path(sys.argv[1])), runner=Processes(2))\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    out = tmp_path / "out"
    out.mkdir()
    run = subprocess.Popen(
        [sys.executable, str(script), str(out)], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT
    )

    def done():
        return {path.name: path.read_text() for path in out.iterdir() if not path.suffix and path.read_text()}

    until = time.monotonic() + 60
    while len(done()) < 4 and time.monotonic() < until:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    time.sleep(1.5)
    kept = done()
    assert 4 <= len(kept) < 40
    assert all(has_ended(int(text.split()[0])) for text in kept.values())
    assert done() == kept  # nothing goes on by itself
    jobs = [job(n) for n in range(40)]
    again = []
    found = run_jobs(
        jobs,
        lambda some: again.extend(some) or double(some),
        recall=lambda j: double([j])[0] if j.key in kept else None,
    )
    assert len(again) == 40 - len(kept)
    assert found == run_jobs(jobs, double)
