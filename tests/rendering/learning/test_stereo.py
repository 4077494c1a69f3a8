"""Depths found in photos, on a small textured room that the project renders itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from compose import Composite, Instance
from objects import SE3
from objects.primitives import Box
from rendering import Camera, RenderConfig, View, Views, ViewsConfig, render
from rendering.learning.backdrop import BACKDROP
from rendering.learning.config import RoomConfig
from rendering.learning.fit import learn_views
from rendering.learning.stereo import depths_of_photos, place_of_photos, smoothed_costs, with_depths

ROOM = RoomConfig(
    width=32, layers=3, color_width=24, color_layers=2, points=100_000, steps=400, color_steps=300, color_omega_first=25.0,
    batch=512, surface_pool=4096, pool=8192, color_parts=2, color_pool=8192,
)  # fmt: skip


def corner() -> Composite:
    """A floor and two walls, with a box on the floor."""
    parts = [
        ((3.0, 3.0, 0.2), (0.0, 0.0, -0.1)),
        ((3.0, 0.2, 2.0), (0.0, 1.5, 1.0)),
        ((0.2, 3.0, 2.0), (1.5, 0.0, 1.0)),
        ((0.6, 0.5, 0.5), (0.7, 0.6, 0.25)),
    ]
    return Composite(
        [Instance(str(i), Box(size), SE3.from_translation(at), lit=False) for i, (size, at) in enumerate(parts)]
    )


def shots(n: int) -> list[Camera]:
    eyes = [
        (-0.9 + 0.25 * math.sin(2.4 * i), -1.0 + 0.3 * math.cos(3.1 * i), 1.1 + 0.2 * math.sin(i)) for i in range(n)
    ]
    return [Camera.look_at(eye, (0.75, 0.65 + 0.1 * math.sin(5 * i), 0.4), 120, 90, 65.0) for i, eye in enumerate(eyes)]


def photographed(camera: Camera, gain: float = 1.0, texture: float = 1.0) -> tuple[View, torch.Tensor]:
    """A photo of the corner, whose colours are noise in space; and its true depth."""
    depth = render(corner(), camera, config=RenderConfig(antialias=1), progress=False).depth
    rays, z = camera.rays(), depth.reshape(-1).double()
    t = torch.where(torch.isfinite(z), z / camera.depth_per_t(camera.pixel_centers()), 0.0)
    p = (rays.origins + t[:, None] * rays.directions).numpy()
    noise = np.random.default_rng(0).uniform(0, 1, (3, 32, 32, 32))
    rgb = np.full((len(p), 3), 0.5)
    for scale, weight in ((4.0, 0.5), (11.0, 0.5)):
        some = [map_coordinates(grid, (scale * p + 5.3).T, order=1, mode="grid-wrap") - 0.5 for grid in noise]
        rgb += texture * weight * np.stack(some, 1)
    colors = torch.from_numpy(gain * rgb).float().clamp(0, 1).view(camera.height, camera.width, 3)
    return View(camera, torch.where(torch.isfinite(depth)[..., None], colors, torch.tensor(0.5))), depth


@pytest.fixture(scope="module")
def photos() -> tuple[Views, list[torch.Tensor]]:
    """Exposed differently."""
    found = [photographed(camera, gain) for camera, gain in zip(shots(10), 5 * [1.0, 0.75], strict=True)]
    return Views([view for view, _ in found]), [depth for _, depth in found]


@pytest.fixture(scope="module")
def depths(photos) -> list[np.ndarray]:
    return depths_of_photos(photos[0], progress=False)


def test_depths_of_most_pixels_are_found_whatever_the_exposure(photos, depths):
    true = torch.stack(photos[1]).numpy()
    found = np.stack(depths)
    known = (found > 0) & np.isfinite(true)
    off = np.abs(found - true)[known] / true[known]
    assert known.sum() > 0.85 * np.isfinite(true).sum()
    assert np.median(off) < 0.015 and (off < 0.05).mean() > 0.93 and (off > 0.2).mean() < 0.01


def test_the_same_photos_give_the_same_depths(photos):
    first, again = (depths_of_photos(photos[0][:3], progress=False) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True)) and (first[0] > 0).any()


def test_pixels_that_arent_valid_have_no_depth(photos):
    views = list(photos[0][:4])
    valid = torch.ones(90, 120, dtype=torch.bool)
    valid[30:60, 20:100] = False
    views[0] = View(views[0].camera, views[0].rgb, valid=valid)
    found = depths_of_photos(Views(views), progress=False)[0]
    assert (found[~valid.numpy()] == 0).all() and (found > 0).any()


def test_pictures_without_texture_or_with_alpha_or_depth_are_no_photos_of_a_place(photos):
    plain = Views([photographed(camera, texture=0.0)[0] for camera in shots(4)])
    assert place_of_photos(plain, progress=False) is None
    some = photos[0][:4]
    assert place_of_photos(with_depths(some, [depth.numpy() for depth in photos[1][:4]]), progress=False) is None
    cut = [View(view.camera, view.rgb, alpha=torch.ones(90, 120)) for view in some]
    assert place_of_photos(Views(cut), progress=False) is None
    assert place_of_photos(some[:2], progress=False) is None  # too few to confirm any depth


def test_photos_of_a_place_are_learned_and_traced_without_holes(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path))
    learned = learn_views(photos[0], ViewsConfig(room=ROOM), progress=False)
    assert [instance.name for instance in learned.instances] == ["background_0", BACKDROP]
    assert "matching the photos" in learned.notes[0]
    camera = Camera.look_at((-0.85, -1.05, 1.15), (0.75, 0.65, 0.4), 120, 90, 65.0)
    got = render(Composite(learned.instances), camera, config=RenderConfig(antialias=1), progress=False)
    want, depth = photographed(camera)
    assert torch.isfinite(got.depth).all()
    known = torch.isfinite(depth)
    assert float(((got.depth - depth).abs() / depth)[known].median()) < 0.02
    gain = (got.rgb * want.rgb).sum() / got.rgb.square().sum()
    assert -10 * math.log10(float((gain * got.rgb - want.rgb)[known].square().mean())) > 22


def test_costs_along_paths_are_the_least_of_all_ways_there():
    """In a picture of one row, of all ways through three planes."""
    rng = np.random.default_rng(0)
    cost, grey = rng.uniform(0, 1, (1, 5, 3)).astype(np.float32), np.zeros((1, 5), np.float32)
    step, jump = np.float32(0.1), np.float32(0.3)

    def path(c: np.ndarray) -> np.ndarray:
        out = [c[0]]
        for own in c[1:]:
            ways = [[out[-1][j] + (0, step, jump)[abs(i - j)] for j in range(3)] for i in range(3)]
            out.append(own + np.min(ways, 1) - out[-1].min())
        return np.stack(out)

    beside = path(cost[0]) + path(cost[0, ::-1])[::-1]
    got = smoothed_costs(cost, grey, step, jump, np.float32(10))
    np.testing.assert_allclose(got[0], (beside + 6 * cost[0]) / 8, rtol=1e-5)
