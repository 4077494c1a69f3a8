"""The voxel field that gives first shapes to pictures without depth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compose import Composite, Instance
from objects import SE3, Box, Difference, Placed, Sphere
from objects.aabb import Aabb
from rendering import Camera, RenderConfig, View, Views, render
from rendering.learning.hulls import Carver, fused
from rendering.learning.pixels import Lenses, Pixels
from rendering.learning.voxels import (
    EMPTY,
    STEP,
    SquaredError,
    Voxels,
    VoxelTraining,
    depths,
    leaps_over,
    learn_voxels,
    pace_of,
    voxel_grid,
)


def small_field() -> Voxels:
    """9 x 8 x 10 vertices of 0.1 m about the origin, a third of them carved away, in a lump and here and there."""
    rng = np.random.default_rng(0)
    occupied = rng.random((9, 8, 10)) > 0.1
    occupied[:4, :, :5] = False
    index = np.full(occupied.shape, -1, np.int32)
    index[occupied] = np.arange(occupied.sum())
    rows = torch.from_numpy(rng.normal(size=(int(occupied.sum()), 4)).astype(np.float32))
    rows[:, 0] -= 1
    return Voxels(index, leaps_over(index), np.array([-0.4, -0.35, -0.45]), 0.1, rows, torch.zeros(3))


def rays_at(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    o = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    target = 0.4 * torch.rand(n, 3, generator=generator) - 0.2
    return o, torch.nn.functional.normalize(target - o, dim=-1)


def plainly(voxels: Voxels, rows: torch.Tensor, back: torch.Tensor, o, d, jitter) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours of rays in float64, place by place; and the light that passes each."""
    index, cell, shape = torch.from_numpy(voxels.index).long(), voxels.cell, voxels.index.shape
    lo = torch.from_numpy(voxels.lo)
    out, light_left = [], []
    for r in range(len(o)):
        a, b = (lo - o[r]) / d[r], (lo + cell * (torch.tensor(shape) - 1) - o[r]) / d[r]
        t = float(torch.minimum(a, b).max().clamp(min=0)) + STEP * cell * float(jitter[r])
        end, light, color = float(torch.maximum(a, b).min()), torch.ones(()).double(), torch.zeros(3).double()
        while t < end:
            p = (o[r] + t * d[r] - lo) / cell
            base = p.long().clamp(min=0).minimum(torch.tensor(shape) - 2)
            f, t = p - base, t + STEP * cell
            depth, known, logits = torch.zeros(()).double(), 0.0, torch.zeros(3).double()
            for corner in np.ndindex(2, 2, 2):
                which = torch.tensor(corner)
                w = torch.where(which == 1, f, 1 - f).prod()
                row = int(index[tuple((base + which).tolist())])
                depth = depth + w * (rows[row, 0] if row >= 0 else EMPTY)
                if row >= 0:
                    known, logits = known + w, logits + w * rows[row, 1:]
            if known > 1e-4:
                passed = torch.exp(-torch.nn.functional.softplus(depth))
                color = color + light * (1 - passed) * torch.sigmoid(logits / known)
                light = light * passed
        out.append(color + light * back[r])
        light_left.append(light)
    return torch.stack(out), torch.stack(light_left)


@pytest.mark.parametrize("decide", [0.0, 0.5])
def test_colours_and_gradients_are_those_of_plain_quadrature(decide):
    voxels = small_field()
    o, d = rays_at(40)
    generator = torch.Generator().manual_seed(1)
    back, want = torch.rand(40, 3, generator=generator), torch.rand(40, 3, generator=generator)
    jitter = torch.rand(40, generator=generator)
    rows, behind = voxels.rows.clone().requires_grad_(), back.clone().requires_grad_()
    loss = SquaredError.apply(rows, behind, voxels, o, d, want, jitter, decide)
    got = torch.autograd.grad(loss, [rows, behind])
    rows64, back64 = voxels.rows.double().requires_grad_(), back.double().requires_grad_()
    colors, light = plainly(voxels, rows64, back64, o.double(), d.double(), jitter)
    entropy = torch.special.entr(light) + torch.special.entr(1 - light)
    plain = (colors - want).square().mean() + decide * entropy.mean() / 3
    expected = torch.autograd.grad(plain, [rows64, back64])
    torch.testing.assert_close(loss.double(), plain, atol=1e-4, rtol=1e-3)
    for a, b in zip(got, expected, strict=True):
        assert float((a - b).norm() / b.norm()) < 0.01  # rays are given up at a thousandth of their light
    assert float(expected[0].abs().max()) > 1e-4


def test_leaps_pass_over_nothing():
    voxels = small_field()
    assert voxels.leap.max() > 1
    slow = voxels._replace(leap=np.minimum(voxels.leap, 1))
    o, d = rays_at(500)
    back, want, jitter = torch.rand(3, 500, 3, generator=torch.Generator().manual_seed(0))
    args = (o, d, want, jitter[:, 0].contiguous())
    fast = SquaredError.apply(voxels.rows, back, voxels, *args)
    torch.testing.assert_close(fast, SquaredError.apply(voxels.rows, back, slow, *args), atol=1e-6, rtol=1e-5)


def test_half_of_the_light_is_stopped_before_a_depth():
    voxels = small_field()
    camera = Camera.look_at((1.0, 0.9, 0.8), (0.0, 0.0, 0.0), 16, 12, 45.0)
    (depth,) = depths(voxels, [camera])
    pixel = torch.arange(16 * 12)
    o, d, _ = Lenses([camera]).rays(torch.zeros_like(pixel), pixel)
    none, half = torch.zeros(len(o), 3).double(), torch.full((len(o),), 0.5)
    _, light = plainly(voxels, voxels.rows.double(), none, o.double(), d.double(), half)
    stopped = torch.isfinite(depth.reshape(-1))
    assert torch.equal(stopped, light < 0.5)
    assert 10 < int(stopped.sum()) < len(o)


def bowl() -> tuple[Composite, Views]:
    """Half of a shell with coloured knobs on its inner side, from above and from the sides: the outline of half of a ball."""
    shell = Difference(Sphere(0.5, color=(0.9, 0.7, 0.5)), Sphere(0.4, color=(0.3, 0.5, 0.9)))
    half = Difference(shell, Placed(Box((1.2, 1.2, 0.6)), SE3.from_translation((0.0, 0.0, 0.3))))
    generator = torch.Generator().manual_seed(0)
    instances = [Instance("bowl", half, SE3.identity())]
    for k in range(60):
        way = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
        way[2] = -way[2].abs()
        color = torch.rand(3, generator=generator).tolist()
        instances.append(Instance(f"knob {k}", Sphere(0.06, color=color), SE3.from_translation(0.4 * way.double())))
    scene = Composite(instances)
    views = []
    for i in range(20):
        a, up = 2 * math.pi * i / 20, (0.6, 1.5, 2.2)[i % 3]
        camera = Camera.look_at((1.8 * math.cos(a), 1.8 * math.sin(a), up), (0.0, 0.0, -0.2), 40, 40, 35.0)
        frame = render(scene, camera, config=RenderConfig(antialias=1), progress=False)
        views.append(View(camera, frame.rgb, alpha=frame.alpha))
    return scene, Views(views)


def test_a_hollow_that_no_outline_shows_is_found():
    scene, views = bowl()
    carver, box = Carver(views), Aabb((-0.6,) * 3, (0.6, 0.6, 0.2))
    voxels = learn_voxels(
        Pixels.of(views), Lenses(views.cameras), carver, box, VoxelTraining(40, 100, 4096), progress=False
    )
    p = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([1.2, 1.2, 0.8]) - 0.6
    true = scene.query(p.float()).sdf
    hollow = (p.norm(dim=1) < 0.3) & (p[:, 2] < -0.05)
    assert float((carver.support(p[hollow], 0.03, 0) > 0).float().mean()) > 0.9  # by outlines alone it is full
    found = fused(p, views.cameras, depths(voxels, views.cameras), 3 * voxels.cell)
    assert float((found[hollow] > 0).float().mean()) > 0.95
    inside = (true < -0.01) & (carver.support(p, 0.03, 0) > 0)
    assert float((found[inside] < 0).float().mean()) > 0.7


def test_pictures_that_leave_no_place_give_no_voxels():
    camera = Camera.look_at((1.0, 0.0, 0.0), (0.0, 0.0, 0.0), 8, 8, 40.0)
    views = Views([View(camera, torch.zeros(8, 8, 3), alpha=torch.zeros(8, 8))])
    box = Aabb((-0.2,) * 3, (0.2,) * 3)
    voxels = learn_voxels(
        Pixels.of(views), Lenses(views.cameras), Carver(views), box, VoxelTraining(8, 5, 64), progress=False
    )
    assert len(voxels.rows) == 0
    assert not torch.isfinite(depths(voxels, [camera])[0]).any()


def test_what_few_pictures_show_learns_slowly():
    places = [(2.0, 0.0, 0.0), (0.0, 2.0, 0.0), (-2.0, 0.0, 0.0), (0.0, -2.0, 0.0)]
    cameras = [Camera.look_at(p, (0.0, 0.0, 0.0), 20, 20, 30.0) for p in places]
    carver = Carver(Views([View(camera, torch.zeros(20, 20, 3)) for camera in cameras]))
    voxels = voxel_grid(carver, Aabb((-1.8,) * 3, (1.8,) * 3), 8)
    pace = pace_of(carver, voxels)[:, 0]
    n = len(voxels.index)
    assert float(pace[voxels.index[n // 2, n // 2, n // 2]]) == 1.0  # in all four
    # Just before one camera; the opposite one sees it from afar.
    assert float(pace[voxels.index[n - 1, n // 2, n // 2]]) == 0.5
    assert float(pace[voxels.index[0, 0, 0]]) == 0.0


def test_the_colour_behind_opaque_pictures_is_learned():
    camera = [
        Camera.look_at(p, (0.0, 0.0, 0.0), 24, 24, 60.0) for p in ((1, 0, 0), (0, 1, 0), (0, 0, 1.2), (-1, 0.1, 0))
    ]
    scene = Composite([Instance("ball", Sphere(0.15, color=(0.9, 0.2, 0.1)), SE3.identity())])
    sky = (0.2, 0.5, 0.8)
    views = Views([View(c, render(scene, c, config=RenderConfig(background=sky), progress=False).rgb) for c in camera])
    voxels = learn_voxels(
        Pixels.of(views),
        Lenses(camera),
        Carver(views),
        Aabb((-0.3,) * 3, (0.3,) * 3),
        VoxelTraining(24, 60, 1024),
        progress=False,
    )
    torch.testing.assert_close(voxels.behind.sigmoid(), torch.tensor(sky), atol=0.03, rtol=0)


def test_a_finer_grid_lets_as_much_light_through_as_the_coarser_one():
    """What voxels have learned at one fineness they go on with at the next: a step half as long stops half as much."""
    views, box = bowl()[1], Aabb((-0.6,) * 3, (0.6, 0.6, 0.36))
    carver = Carver(views)
    coarse = voxel_grid(carver, box, 20)
    generator = torch.Generator().manual_seed(0)
    coarse = coarse._replace(rows=torch.randn(coarse.rows.shape, generator=generator))
    fine = voxel_grid(carver, box, 40, coarse)
    assert fine.cell == pytest.approx(coarse.cell / 2)
    assert len(fine.rows) > 4 * len(coarse.rows)
    at = (np.argwhere(fine.index >= 0) * fine.cell + fine.lo - coarse.lo) / coarse.cell
    on = (np.abs(at - at.round()) < 1e-3).all(1)  # fine vertices that are coarse ones
    before = coarse.rows[coarse.index[tuple(at[on].round().astype(int).T)]]
    same = fine.rows[fine.index[fine.index >= 0]][on]
    assert on.sum() > 50
    softplus = torch.nn.functional.softplus
    torch.testing.assert_close(softplus(same[:, 0]), 0.5 * softplus(before[:, 0]), rtol=0, atol=0.01)
    torch.testing.assert_close(same[:, 1:], before[:, 1:], rtol=0, atol=0.01)
