"""Threads and the folder of compiled kernels: set before torch and numba are loaded, by whatever is imported first."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import torch

from compose import Composite, Instance
from objects import SE3, SirenField, Sphere
from objects.environment import set_up, usable_cores
from rendering import Camera, PointLight, render

COUNTS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "IGL_NUM_THREADS")


@pytest.mark.parametrize(
    "first", ["objects.fused", "compose", "rendering.volume", "scenes.scene_view", "scenes.io.scene_folder"]
)
def test_all_is_set_before_torch_and_numba_are_loaded_and_kernels_go_to_the_cache_folder(first, tmp_path):
    code = f"""
import os, sys
seen = {{}}
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "numba"):
            seen[name] = (os.environ.get("GOMP_SPINCOUNT"), os.environ.get("NUMBA_NUM_THREADS"))
sys.meta_path.insert(0, Finder())
import {first}
print({{key: seen[key] for key in ("torch", "numba")}})
from numba.core.dispatcher import Dispatcher
ours = [module for name, module in sys.modules.items() if name.split(".")[0] in ("objects", "compose", "rendering", "scenes")]
kernels = [value for module in ours for value in vars(module).values() if isinstance(value, Dispatcher)]
print(len(kernels) > 0, all(kernel.stats.cache_path.startswith({str(tmp_path)!r}) for kernel in kernels))
"""
    unset = (*COUNTS, "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "NUMBA_CACHE_DIR")
    kept = {k: v for k, v in os.environ.items() if k not in unset}
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], env={**kept, "SIRENSCAPE_CACHE": str(tmp_path)}, cwd=root, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    cores = str(usable_cores())
    assert run.stdout.splitlines() == [str({"torch": ("1000", cores), "numba": ("1000", cores)}), "True True"]


@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "7"}])
def test_a_torch_that_was_loaded_before_waits_briefly_too_unless_the_user_said_how(given):
    code = """
import threading, torch
torch.set_num_threads(2)
before = {task.name for task in threading.enumerate()}
import objects.environment
print([task.name for task in threading.enumerate() if task.name not in before])
"""
    kept = {k: v for k, v in os.environ.items() if k not in (*COUNTS, "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ("[]" if given else "['sleeping team']")


def test_what_the_user_set_stays_and_omp_num_threads_is_for_all(monkeypatch):
    monkeypatch.delitem(sys.modules, "numba")
    for waiting in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}):
        environment = {
            **waiting, "OMP_NUM_THREADS": "3,2", "IGL_NUM_THREADS": "5", "NUMBA_CACHE_DIR": "here"
        }  # fmt: skip
        set_up(environment)
        assert environment == {
            **waiting,
            "OMP_NUM_THREADS": "3,2",
            "NUMBA_NUM_THREADS": "3",
            "IGL_NUM_THREADS": "5",
            "NUMBA_CACHE_DIR": "here",
        }


def test_a_numba_that_is_there_already_keeps_its_number():
    environment = {"SIRENSCAPE_CACHE": "there"}
    set_up(environment)
    assert environment["NUMBA_CACHE_DIR"] == str(Path("there/numba"))
    assert "NUMBA_NUM_THREADS" not in environment
    assert environment["OMP_NUM_THREADS"] == str(usable_cores())


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu.max": "nonsense"}, 8),
    ],
)
def test_cores_are_those_of_affinity_and_quota(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert usable_cores(tmp_path) == cores


def test_the_number_of_threads_changes_no_bit():
    torch.manual_seed(0)
    ball = SirenField(Sphere(0.3).bounds, width=16, layers=1)
    fields = [ball, Sphere(0.2), ball]
    placed = [Instance(str(i), f, SE3.from_translation([0.5 * i, 0.0, 0.0])) for i, f in enumerate(fields)]
    camera = Camera.look_at((0.5, -2.5, 0.6), (0.5, 0, 0), 200, 200)
    lights = [PointLight((1, -2, 2))]
    many, torch_threads = numba.get_num_threads(), torch.get_num_threads()
    pictures = []
    try:
        for n in (1, 2):
            numba.set_num_threads(min(n, many))
            torch.set_num_threads(n)
            pictures.append(render(Composite(placed), camera, lights=lights))
    finally:
        numba.set_num_threads(many)
        torch.set_num_threads(torch_threads)
    for layer in ("rgb", "depth", "normal", "owner"):
        assert torch.equal(getattr(pictures[0], layer), getattr(pictures[1], layer))
    assert (pictures[0].owner >= 0).any()
