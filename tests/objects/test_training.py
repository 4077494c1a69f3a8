"""The training loop: exact resumption, determinism, clear failures."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from objects.training import CheckpointError, FitError, TrainConfig, fit

ROOT = Path(__file__).parents[2]
TARGET = torch.linspace(-1, 1, 50)


def _run(config: TrainConfig, stop_at: int | None = None):
    weights = torch.zeros(50, requires_grad=True)

    def loss_fn(step: int, generator: torch.Generator):
        pick = torch.randint(50, (20,), generator=generator)
        return (weights[pick] - TARGET[pick]).square().mean()

    def on_step(step: int, loss: float) -> None:
        if step == stop_at:
            raise KeyboardInterrupt

    result = fit([weights], loss_fn, config, on_step=on_step)
    return weights.detach(), result


def test_fit_finds_the_minimum():
    weights, result = _run(TrainConfig(steps=600, learning_rate=0.05))
    assert (weights - TARGET).abs().max() < 0.01
    assert result.losses[-1] < 1e-3 * result.losses[0]
    assert result.losses.shape == (600,)


def test_same_seed_gives_same_bits_and_another_seed_others():
    first, again, other = (_run(TrainConfig(steps=40, seed=s))[0] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_interrupted_run_resumes_to_the_same_bits(tmp_path):
    config = TrainConfig(steps=100, checkpoint=tmp_path / "run.safetensors", checkpoint_every=30)
    with pytest.raises(KeyboardInterrupt):
        _run(config, stop_at=70)
    weights, result = _run(config)
    expected, whole = _run(TrainConfig(steps=100))
    assert result.resumed_at == 60
    assert torch.equal(weights, expected)
    assert torch.equal(result.losses, whole.losses)


KILLED = """
    import os, signal, sys, torch
    from pathlib import Path
    from objects.training import TrainConfig, fit
    torch.set_num_threads(1)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    def loss_fn(step, generator):
        x = torch.randn(64, 3, generator=generator)
        return (net(x)[:, 0] - x.norm(dim=-1)).abs().mean()
    def on_step(step, loss):
        if step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    config = TrainConfig(steps=80, checkpoint=Path(sys.argv[1]), checkpoint_every=20)
    result = fit(net.parameters(), loss_fn, config, on_step=on_step)
    print(result.resumed_at, torch.cat([p.flatten() for p in net.parameters()]).detach().numpy().tobytes().hex())
"""


def _subprocess(checkpoint: Path, kill_at: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(checkpoint), str(kill_at)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_process_resumes_to_the_same_bits(tmp_path):
    killed = _subprocess(tmp_path / "killed.safetensors", kill_at=55)
    assert killed.returncode == -signal.SIGKILL
    resumed = _subprocess(tmp_path / "killed.safetensors", kill_at=-1).stdout.split()
    whole = _subprocess(tmp_path / "whole.safetensors", kill_at=-1).stdout.split()
    assert resumed[0] == "40"
    assert whole[0] == "0"
    assert resumed[1] == whole[1]


def test_checkpoint_of_another_run_or_damaged_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        _run(TrainConfig(steps=50, checkpoint=path, checkpoint_every=10), stop_at=30)
    with pytest.raises(CheckpointError, match="same run"):
        _run(TrainConfig(steps=60, checkpoint=path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        _run(TrainConfig(steps=50, checkpoint=path))


def test_a_log_gets_lines_and_hears_that_a_run_goes_on(tmp_path, monkeypatch, capsys):
    config = TrainConfig(steps=20, checkpoint=tmp_path / "run.safetensors", checkpoint_every=10, label="thing")
    with pytest.raises(KeyboardInterrupt):
        _run(config, stop_at=15)
    assert capsys.readouterr().err == ""  # nothing within two seconds
    monkeypatch.setattr("objects.progress.FIRST_S", -1.0)
    monkeypatch.setattr("objects.progress.LINE_S", -1.0)
    _run(config)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "thing: going on from step 10 of 20"
    assert lines[1].startswith("thing: step 11 of 20, loss ") and lines[1].endswith(" min left") and len(lines) == 11


def test_loss_that_is_not_finite_raises_and_keeps_the_weights():
    weights = torch.ones(3, requires_grad=True)

    def loss_fn(step: int, generator: torch.Generator):
        return weights.sum() * (math.nan if step == 4 else 1.0)

    before = {}
    with pytest.raises(FitError, match="step 4"):
        fit([weights], loss_fn, TrainConfig(steps=9), on_step=lambda s, _: before.update({s: weights.detach().clone()}))
    assert torch.equal(weights.detach(), before[3])


def test_groups_scale_the_rate():
    slow, fast = (torch.zeros(1, requires_grad=True) for _ in range(2))
    groups = [{"params": [slow], "rate": 0.1}, {"params": [fast]}]
    fit(groups, lambda step, g: -(slow + fast).sum(), TrainConfig(steps=10, learning_rate=1e-3, betas=(0.9, 0.9)))
    assert slow.item() == pytest.approx(0.1 * fast.item(), rel=1e-4)
    assert fast.item() > 0


@pytest.mark.parametrize("bad", [{"steps": 0}, {"learning_rate": math.nan}, {"learning_rate": 0.0}, {"warmup": 1.0}])
def test_bad_config_names_the_setting(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        TrainConfig(**bad)


def test_no_parameters_or_frozen_ones_are_refused():
    for params in ([], [torch.zeros(2)]):
        with pytest.raises(ValueError, match="params"):
            fit(params, lambda step, g: torch.zeros(()), TrainConfig(steps=1))
