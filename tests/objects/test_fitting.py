"""Learned fields: the fused kernel against autograd, quality on analytic solids, cache, resumption, batches, warm start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from objects import FitConfig, FitError, MeshError, PointsConfig, fit_mesh, fit_meshes, fit_points
from objects.fused import weighted_l1
from objects.jobs import Processes
from objects.mesh import read_mesh
from objects.shaping import steps_for
from objects.siren import SineMlp
from objects.siren_layout import SineShape

ROOT = Path(__file__).parents[2]
FAST = FitConfig(
    width=32, layers=2, color_width=16, color_layers=2, steps=200, warm_steps=40, batch=1024, color_batch=512,
    pool=16_384, color_pool=8_192, omega_first=10.0, omega_hidden=10.0, color_omega_first=10.0, learning_rate=1e-2,
    surface=0.3, surface_pool=8_192, near=0.3, mid=0.3, falloff=1.0, spread=1.0, color_steps=1.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "cache"))


def _ball(color: bool = False, x: float = 0.0) -> trimesh.Trimesh:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    if color:
        ball.visual.vertex_colors = np.round((ball.vertices + 0.5) * 255).astype(np.uint8)
    ball.apply_translation((x, 0, 0))
    return ball


def _weights(field) -> torch.Tensor:
    return torch.cat([p.flatten() for p in field.parameters()])


@pytest.mark.parametrize(("n_out", "squash"), [(1, False), (3, True)])
@pytest.mark.parametrize(("width", "layers", "n_points"), [(64, 3, 1000), (24, 1, 64), (16, 2, 5)])
def test_fused_loss_and_gradient_match_autograd_in_double(n_out, squash, width, layers, n_points):
    shape = SineShape(3, n_out, width, layers, 30.0, 20.0)
    nets = [SineMlp(**shape._asdict(), generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, n_points, 3, generator=generator) * 2 - 1
    target, weight = torch.rand(2, n_points, n_out, generator=generator), torch.rand(2, n_points, generator=generator)
    theta = torch.stack([torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]).requires_grad_()
    loss = weighted_l1(theta, x, target, weight, shape, squash=squash)
    (loss * torch.tensor([1.0, 2.0])).sum().backward()
    for k, net in enumerate(nets):
        out = net.double()(x[k].double())
        out = out.sigmoid() if squash else out
        expected = ((out - target[k]).abs().sum(-1) * weight[k]).mean()
        (expected * (k + 1)).backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters()])
        assert loss[k].item() == pytest.approx(expected.item(), rel=1e-5)
        assert (theta.grad[k] - gradient).norm() < 1e-4 * gradient.norm()


def test_fused_bits_do_not_depend_on_threads():
    theta = torch.randn(1, 64 * 3 + 64 + 65, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = torch.rand(1, 3000, 3, generator=torch.Generator().manual_seed(1))
    gradients, before = [], torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            shape = SineShape(3, 1, 64, 1, 5.0, 5.0)
            loss = weighted_l1(theta, x, x[..., :1], torch.ones(1, 3000), shape, squash=False)
            gradients.append(torch.autograd.grad(loss.sum(), theta)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*gradients)


def test_fit_mesh_learns_distance_and_color_of_a_ball():
    field = fit_mesh(_ball(color=True, x=3.0), config=FAST, progress=False)
    direction = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    direction /= direction.norm(dim=-1, keepdim=True)
    center = torch.tensor([3.0, 0, 0])
    sample = field(center + 0.5 * direction)
    assert sample.sdf.abs().mean() < 0.004
    assert (sample.rgb - (0.5 + 0.5 * direction)).abs().mean() < 0.05
    assert (field.sdf(center + 0.35 * direction) < -0.1).all()
    assert not any(p.requires_grad for p in field.parameters())
    assert 0.9 < field.lipschitz < 3
    face = torch.rand(500, 3) * (field.box_hi - field.box_lo) + field.box_lo
    face[:, 0] = field.box_lo[0]
    assert (field.sdf(face) > 0).all()


def test_mesh_of_one_color_gets_exactly_that_color():
    ball = _ball()
    ball.visual.face_colors = [255, 51, 102, 255]
    rgb = fit_mesh(ball, config=FAST, progress=False)(torch.zeros(1, 3)).rgb[0]
    assert torch.allclose(rgb, torch.tensor([1.0, 0.2, 0.4]), atol=2e-4)


def test_batch_gives_the_bits_of_single_fits_in_any_order(tmp_path, monkeypatch):
    meshes = [_ball(color=True), trimesh.creation.box((1, 0.5, 0.4)), _ball()]
    together = fit_meshes([*meshes, meshes[0]], seed=2, config=FAST, progress=False)
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "other"))
    alone = [fit_mesh(mesh, seed=2, config=FAST, progress=False) for mesh in reversed(meshes)][::-1]
    for a, b in zip([*alone, alone[0]], together, strict=True):
        assert torch.equal(_weights(a), _weights(b))
    assert together[0] is not together[3]


def test_hard_objects_make_more_steps_than_easy_ones_and_the_same_alone(tmp_path, monkeypatch):
    rough = _ball()
    rough.vertices *= 1 + 0.15 * np.sin(25 * rough.vertices[:, :1]) * np.sin(25 * rough.vertices[:, 1:2])
    meshes, made = [_ball(), rough], []
    config = replace(FAST, spread=2.0, usual_deg=12.0)
    both = fit_meshes(meshes, config=config, progress=False, on_step=lambda step, _: made.append(step))
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "other"))
    for mesh, field in zip(meshes, both, strict=True):
        steps: list[int] = []
        alone = fit_mesh(mesh, config=config, progress=False, on_step=lambda step, _, s=steps: s.append(step))
        assert torch.equal(_weights(alone), _weights(field))
        assert alone.measured == field.measured
        made.append(len(steps))
    assert FAST.steps / 2 <= made[-2] < made[-1] <= 2 * FAST.steps
    assert max(made[:-2]) < made[-1]


@pytest.mark.parametrize(("normal_deg", "share"), [(6.0, 1.0), (0.0, 0.5), (1e3, 2.0), (9.0, 2**0.5), (6.2, 1.0)])
def test_steps_follow_from_the_error_within_bounds(normal_deg, share):
    config = FitConfig(spread=2.0, usual_deg=6.0)
    assert steps_for(normal_deg, 1000, config) == round(1000 * share)
    assert steps_for(normal_deg, 1000, replace(config, spread=1.0)) == 1000


def test_the_measured_error_is_that_of_the_field(tmp_path):
    field = fit_mesh(_ball(), config=FAST, progress=False)
    p, normal = read_mesh(_ball()).sample(4000, np.random.default_rng(7))
    at = torch.from_numpy(p).float().requires_grad_()
    sdf = field.sdf(at)
    slope = torch.nn.functional.normalize(torch.autograd.grad(sdf.sum(), at)[0], dim=-1)
    degrees = torch.rad2deg(torch.arccos((slope * torch.from_numpy(normal)).sum(-1).clamp(-1, 1)))
    assert field.measured["distance_pct"] == pytest.approx(100 * float(sdf.detach().abs().mean()), rel=0.1)
    assert field.measured["normal_deg"] == pytest.approx(float(degrees.median()), rel=0.1)
    assert field.measured["normal_deg_90"] > field.measured["normal_deg"]
    assert fit_mesh(_ball(), config=FAST, progress=False).measured == field.measured  # from the cache


def test_a_quality_is_a_set_of_settings_that_others_override():
    assert FitConfig.of("normal") == FitConfig()
    assert FitConfig.of("draft").steps < FitConfig().steps < FitConfig.of("fine").steps
    assert FitConfig.of("fine", width=24) == replace(FitConfig.of("fine"), width=24)
    with pytest.raises(ValueError, match="quality: expected draft, normal, fine, got 'best'"):
        FitConfig.of("best")


def test_second_fit_comes_from_the_cache_and_another_seed_does_not():
    steps: list[int] = []

    def fitted(seed: int):
        steps.clear()
        return fit_mesh(_ball(), seed=seed, config=FAST, progress=False, on_step=lambda step, _: steps.append(step))

    first = fitted(0)
    assert len(steps) == FAST.steps
    again = fitted(0)
    assert steps == []
    assert torch.equal(_weights(first), _weights(again))
    assert torch.equal(first.box_lo, again.box_lo)
    assert not any(p.requires_grad for p in again.parameters())
    fitted(1)
    assert len(steps) == FAST.steps


def test_damaged_cache_entry_is_learned_again(tmp_path):
    first = fit_mesh(_ball(), config=FAST, progress=False)
    (entry,) = (tmp_path / "cache" / "fields").glob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:-50])
    assert torch.equal(_weights(first), _weights(fit_mesh(_ball(), config=FAST, progress=False)))


KILLED = """
    import os, signal, sys, trimesh
    from objects import FitConfig, fit_mesh
    config = FitConfig(width=16, layers=2, color_width=16, color_layers=1, steps=300, batch=256, color_batch=256,
                       pool=4096, surface_pool=4096, color_pool=4096, spread=1.5)
    def on_step(step, loss):
        print(step)
        if step == int(sys.argv[1]):
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    field = fit_mesh(trimesh.creation.icosphere(3), config=config, on_step=on_step)
    for p in field.parameters():
        print(p.numpy().tobytes().hex())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_fit_goes_on_to_the_same_bits(tmp_path):
    def run(folder: str, kill_at: int) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SIRENSCAPE_CACHE": str(tmp_path / folder)}
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(kill_at)]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
        )

    assert run("killed", 270).returncode == -signal.SIGKILL
    resumed, whole = run("killed", -1).stdout.split(), run("whole", -1).stdout.split()
    assert resumed[:60] == whole[:60] == [str(step) for step in range(60)]  # what tells how hard it is is short
    assert resumed[60] == "250"
    assert whole[60] == "0"
    assert resumed[-8:] == whole[-8:]
    assert not list((tmp_path / "killed" / "checkpoints").iterdir())


def test_two_processes_learn_the_bits_of_one(monkeypatch, tmp_path):
    balls = [
        trimesh.creation.icosphere(subdivisions=2, radius=0.3 + 0.01 * i) for i in range(18)
    ]  # more than one group
    tiny = replace(
        FAST,
        width=16,
        color_width=8,
        steps=60,
        batch=256,
        color_batch=128,
        pool=4096,
        surface_pool=4096,
        color_pool=2048,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # drafts
        here = fit_meshes(balls, config=tiny, progress=False)
        monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "another"))
        there = fit_meshes(balls, config=tiny, progress=False, runner=Processes(2))
    for a, b in zip(here, there, strict=True):
        assert torch.equal(_weights(a), _weights(b))
        assert a.bounds.lo.equal(b.bounds.lo)


def test_warm_start_reaches_a_similar_shape_in_fewer_steps():
    first = fit_mesh(_ball(), config=FAST, progress=False)
    larger = _ball()
    larger.apply_scale(1.04)
    steps: list[int] = []
    warm = fit_mesh(larger, init=first, config=FAST, progress=False, on_step=lambda step, _: steps.append(step))
    surface = torch.from_numpy(larger.vertices).float()
    assert len(steps) == FAST.warm_steps
    assert warm.sdf(surface).abs().mean() < 0.2 * first.sdf(surface).abs().mean()


def test_warm_start_of_another_make_up_is_refused():
    other = fit_mesh(_ball(), config=FAST, progress=False)
    with pytest.raises(ValueError, match="init"):
        fit_mesh(_ball(), init=other, progress=False)


def test_diverging_fit_is_an_error_and_leaves_no_cache_entry(tmp_path):
    hopeless = FitConfig(**{**vars(FAST), "learning_rate": 1e30})
    with pytest.raises(FitError):
        fit_mesh(_ball(), config=hopeless, progress=False)
    assert not list((tmp_path / "cache" / "fields").iterdir())


def test_a_mesh_that_fails_is_named_and_the_others_are_kept(tmp_path, monkeypatch):
    from objects import fitting

    def finish_left_ones(field, p_obj):
        if float(field.center[0]) > 1:
            raise FitError("not learned")

    monkeypatch.setattr(fitting, "finish", finish_left_ones)
    with pytest.raises(FitError, match=r"meshes\[1\]: not learned"):
        fit_meshes([_ball(), _ball(x=3.0)], config=FAST, progress=False)
    assert len(list((tmp_path / "cache" / "fields").iterdir())) == 1


def test_bad_arguments_are_named():
    with pytest.raises(MeshError, match=r"meshes\[1\]"):
        fit_meshes([_ball(), "nowhere.obj"], config=FAST)
    with pytest.raises(ValueError, match="meshes"):
        fit_meshes("one.obj")
    with pytest.raises(ValueError, match="pool"):
        FitConfig(batch=10, pool=5)
    assert fit_meshes([]) == []


def test_fit_points_learns_a_ball():
    generator = torch.Generator().manual_seed(0)
    normals = torch.randn(3000, 3, generator=generator)
    normals /= normals.norm(dim=-1, keepdim=True)
    config = PointsConfig(
        width=32, layers=2, omega_first=10, omega_hidden=10, color_width=16, color_layers=1, color_omega_first=5,
        steps=300, batch=512, learning_rate=5e-3,
    )  # fmt: skip
    field = fit_points(2 + 0.5 * normals, normals, (normals + 1) / 2, config=config, progress=False)
    sample = field(2 + 0.5 * normals)
    assert sample.sdf.abs().mean() < 0.01
    assert (sample.rgb - (normals + 1) / 2).abs().mean() < 0.1
    radius = torch.linspace(0.3, 0.55, 6)[:, None, None]
    error = field.sdf((2 + radius * normals[:200]).reshape(-1, 3)).reshape(6, 200) - (radius[..., 0] - 0.5)
    assert error.abs().mean() < 0.03


@pytest.mark.parametrize(
    ("points", "normals", "colors", "name"),
    [
        (torch.zeros(30, 2), torch.ones(30, 3), None, "points"),
        (torch.rand(30, 3), torch.ones(29, 3), None, "normals"),
        (torch.rand(30, 3), torch.zeros(30, 3), None, "normals"),
        (torch.full((30, 3), torch.nan), torch.ones(30, 3), None, "finite"),
        (torch.rand(30, 3) * torch.tensor([1, 1, 0.0]), torch.ones(30, 3), None, "flat"),
        (torch.rand(30, 3), torch.ones(30, 3), torch.full((30, 3), 2.0), "colors"),
    ],
)
def test_bad_points_are_named(points, normals, colors, name):
    with pytest.raises(ValueError, match=name):
        fit_points(points, normals, colors)


def test_few_steps_give_a_draft_that_is_told_closed_and_not_kept(tmp_path):
    few = FitConfig(steps=20)
    with pytest.warns(UserWarning, match="mesh: a draft, as 20 steps are few: fit: expected a distance above 0"):
        field = fit_mesh(trimesh.creation.box((1, 1, 1)), config=few, progress=False)
    lo, hi = field.bounds.lo, field.bounds.hi
    p = lo + (hi - lo) * torch.rand(4096, 3, generator=torch.Generator().manual_seed(0))
    axis = torch.arange(4096) % 3
    p[torch.arange(4096), axis] = torch.where(torch.arange(4096) % 2 == 0, lo[axis], hi[axis])
    assert float(field.sdf(p).min()) > 0
    assert field.to_mesh().volume > 0
    assert not list((tmp_path / "cache" / "fields").iterdir())
