"""Colours of learned objects at traced hits, on small scenes that the project renders itself."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from compose import Composite
from objects.files import load_field, save_field
from rendering import Camera, RenderConfig, View, Views, fit_views, render
from rendering.learning.first_shapes import boxes_of
from rendering.learning.fit import lost_by_tracing
from rendering.learning.polish import divide_colors, polish_colors
from rendering.learning.stages import carve_first_shapes
from rendering.learning.state import start
from tests.rendering.learning.small_scene import SMALL, cameras, seen_by, things


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "cache"))


def test_what_tracing_loses_against_the_volume_is_measured():
    """Pixels that show just what fog of a state shows: tracing loses much; where fog has become sharp, little."""
    config = dataclasses.replace(SMALL, hull_steps=60, sharpness=(2.0, 2.0))
    views = seen_by(things()[1:2], cameras(6), depth=True, ids=False, alpha=True)
    state = carve_first_shapes(start(views, *boxes_of(views), config), progress=False)
    rows = torch.arange(len(state.pixels))
    half = torch.full((len(rows), config.n_uniform + config.n_fine), 0.5)
    lost = []
    for sharpness in (2.0, 2000.0):
        now = dataclasses.replace(state, config=dataclasses.replace(config, sharpness=(sharpness, sharpness)))
        with torch.no_grad():
            seen = now.nets.render(now.rays(rows)[0], now.sharpness(config.steps), half)
        rgb = (255 * (seen.rgb + 1 - seen.opacity[:, None])).round().clamp(0, 255).to(torch.uint8)
        opaque = torch.full((len(rows),), 255, dtype=torch.uint8)
        lost.append(
            lost_by_tracing(
                dataclasses.replace(now, pixels=dataclasses.replace(now.pixels, rgb=rgb, alpha=opaque)), now
            )
        )
    assert lost[0] > 10 and lost[1] < lost[0] - 5


def test_colours_that_change_with_the_direction_of_view_are_learned():
    """Held out: a ball whose red depends on where one stands. Without its tint the best is the mean over directions."""
    shots = cameras(16)

    def drawn(camera: Camera) -> View:
        frame = render(Composite(things()[1:2]), camera, config=RenderConfig(antialias=1), progress=False)
        toward = camera.rays().directions.view(30, 40, 3)[..., 0].float()
        rgb = torch.stack([0.5 + 0.4 * toward, 0.5 * torch.ones(30, 40), 0.5 - 0.3 * toward], -1)
        return View(camera, torch.where(frame.alpha[..., None] > 0, rgb, 0.0), alpha=frame.alpha)

    config = dataclasses.replace(SMALL, steps=100, polish=100)
    found = fit_views(Views([drawn(c) for c in shots[1:]]), config=config, progress=False)
    got = render(Composite(found.instances), shots[0], config=RenderConfig(antialias=1), progress=False)
    want = drawn(shots[0])
    both = (got.owner >= 0) & (want.alpha > 0.5)
    assert int(both.sum()) > 30
    assert float((got.rgb - want.rgb)[both].abs().mean()) < 0.06
    assert float((want.rgb[both][:, 0] - 0.5).abs().mean()) > 0.2


def test_networks_that_share_polished_colours_show_stripes_and_come_back_from_a_file(tmp_path):
    scene = Composite(things()[1:2])

    def stripes(p_world):
        return 0.5 + 0.4 * torch.sin(2 * math.pi * p_world[..., 2:] / 0.11).float().expand(-1, 3)

    def drawn(camera: Camera) -> View:
        frame, rays = render(scene, camera, config=RenderConfig(antialias=1), progress=False), camera.rays()
        t = torch.where(torch.isfinite(frame.depth), frame.depth, 0.0).view(-1) / camera.depth_per_t(
            camera.pixel_centers()
        )
        rgb = stripes(rays.origins + t[:, None] * rays.directions).view(*frame.depth.shape, 3)
        return View(camera, rgb, depth=frame.depth.nan_to_num(posinf=0.0), alpha=frame.alpha)

    config = dataclasses.replace(SMALL, polish=200, hull_cells=64, hull_steps=300, part_pixels=4096, part_width=32)
    views = Views([drawn(c.resized(160, 120)) for c in cameras(10)])
    state = divide_colors(carve_first_shapes(start(views, *boxes_of(views), config), progress=False))
    field = polish_colors(state, progress=False).nets.fields[0]
    assert field.config()["color_parts"] > 1
    direction = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    p_world = torch.tensor([-0.4, 0.0, 0.3]) + 0.3 * direction[direction[:, 2].abs() < 0.7]
    p_obj = p_world - state.nets.trans[0, 0]
    assert float((field(p_obj).rgb - stripes(p_world)).abs().mean()) < 0.1  # of one colour, 0.25
    save_field(field, tmp_path / "field.safetensors")
    assert torch.equal(load_field(tmp_path / "field.safetensors")(p_obj).rgb, field(p_obj).rgb)


def test_colours_stay_as_they_were_where_polishing_shows_held_back_pictures_worse():
    views = seen_by(things()[1:2], cameras(16), depth=True, ids=False, alpha=True)
    state = carve_first_shapes(start(views, *boxes_of(views), SMALL), progress=False)
    color = state.nets.color
    for rate, kept in ((100.0, True), (SMALL.polish_rate, False)):
        config = dataclasses.replace(SMALL, polish=20, polish_rate=rate)
        polished = polish_colors(dataclasses.replace(state, config=config), progress=False)
        assert torch.equal(polished.nets.color, color) == kept
