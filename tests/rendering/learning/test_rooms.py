"""Places learned from depth, on a small room that the project renders itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from compose import Composite, Instance
from compose.types import Rays
from objects import SE3
from objects.primitives import Box, Sphere
from rendering import Camera, RenderConfig, View, Views, ViewsConfig, fit_views, render
from rendering.learning.backdrop import BACKDROP
from rendering.learning.config import RoomConfig
from rendering.learning.exposure import exposures, smooth
from rendering.learning.hulls import measured_ahead
from rendering.learning.measured import Measured
from rendering.learning.rooms import is_room, learn_room, parts_of

SMALL = RoomConfig(
    width=32, layers=3, color_width=16, color_layers=2, points=1200, steps=300, color_steps=300, color_omega_first=12.0, batch=512,
    surface_pool=4096, pool=8192, color_parts=2, color_pool=4096,
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "cache"))


def place() -> Composite:
    """A room of 3 x 3 m without a ceiling, with a ball on the floor."""
    walls = [((3.4, 3.4, 0.2), (0.0, 0.0, -0.1), (0.5, 0.4, 0.3))]
    walls += [((0.2, 3.0, 2.0), (s * 1.6, 0.0, 1.0), (0.8, 0.3, 0.3)) for s in (-1, 1)]
    walls += [((3.0, 0.2, 2.0), (0.0, s * 1.6, 1.0), (0.3, 0.3, 0.8)) for s in (-1, 1)]
    parts = [
        Instance(str(i), Box(size, color=c), SE3.from_translation(at), lit=False)
        for i, (size, at, c) in enumerate(walls)
    ]
    ball = Sphere(0.35, color=(0.2, 0.8, 0.2))
    return Composite([*parts, Instance("ball", ball, SE3.from_translation((0.5, 0.3, 0.35)), lit=False)])


def cameras(n: int = 24) -> list[Camera]:
    """From a circle about the middle, across it and down."""
    angles = [2 * math.pi * i / n for i in range(n)]
    return [
        Camera.look_at(
            (0.9 * math.cos(a), 0.9 * math.sin(a), 1.2),
            (-1.2 * math.cos(a + 0.4), -1.2 * math.sin(a + 0.4), 0.3),
            80,
            60,
            75.0,
        )
        for a in angles
    ]


def pictures(shots: list[Camera], gains: list[float] | None = None) -> Views:
    scene, views = place(), []
    for k, camera in enumerate(shots):
        frame = render(scene, camera, config=RenderConfig(antialias=1, background=(0.0, 0.0, 0.0)), progress=False)
        depth = torch.where(torch.isfinite(frame.depth), frame.depth, 0.0)
        views.append(
            View(camera, (frame.rgb * (1.0 if gains is None else gains[k])).clamp(0, 1), depth=depth, name=f"{k}.png")
        )
    return Views(views)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIRENSCAPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return learn_room(pictures(cameras()), SMALL, progress=False)


@pytest.fixture(scope="module")
def measured() -> Measured:
    views = pictures(cameras(12))
    return Measured.of(views.cameras, [measured_ahead(view) for view in views])


def held_out(learned, camera):
    config = RenderConfig(antialias=1, background=learned.background)
    return render(Composite(learned.instances), camera, config=config), render(place(), camera, config=config)


def test_held_out_pictures_and_depths_of_a_room_are_right(learned):
    camera = Camera.look_at((0.3, -0.8, 1.1), (-0.2, 1.4, 0.3), 80, 60, 70.0)
    got, want = held_out(learned, camera)
    both = torch.isfinite(want.depth) & torch.isfinite(got.depth)
    assert float(both.float().mean()) > 0.97 * float(torch.isfinite(want.depth).float().mean())
    off = (got.depth - want.depth)[both].abs()
    assert float(off.median()) < 0.006
    assert float((off < 0.05).float().mean()) > 0.97
    assert -10 * math.log10(float((got.rgb - want.rgb)[both].square().mean())) > 24


def test_what_pictures_look_through_is_air(learned):
    scene, truth = Composite(learned.instances), place()
    p = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [2.9, 2.9, 1.5]
    ) - torch.tensor([1.45, 1.45, 0.0])
    clear = truth.query(p).sdf > 0.1
    assert float((scene.query(p[clear]).sdf <= 0).float().mean()) < 1e-3


def test_a_room_without_a_ceiling_stays_open(learned):
    """All its pixels have depth, so there is no backdrop."""
    got, _ = held_out(learned, Camera.look_at((0.0, 0.0, 0.6), (0.05, 0.0, 3.0), 40, 30, 60.0))
    assert not torch.isfinite(got.depth).any()


def test_what_was_not_measured_is_seen_on_a_backdrop():
    """No picture has depth in its upper half: what only is shown there has its colours all the same, and no ray passes all."""
    views = list(pictures(cameras(8)))
    for k, view in enumerate(views):
        assert view.depth is not None
        depth = view.depth.nan_to_num(0.0)
        depth[:30] = 0.0
        views[k] = View(view.camera, view.rgb, depth=depth)
    learned = learn_room(Views(views), dataclasses.replace(SMALL, steps=250, points=100_000), progress=False)
    assert [instance.name for instance in learned.instances] == ["background_0", BACKDROP]
    parts, shot = learned._replace(instances=learned.instances[:1]), cameras(8)[0]
    got, want = held_out(learned, shot)
    past = ~torch.isfinite(held_out(parts, shot)[0].depth)
    assert float(past.float().mean()) > 0.1 and torch.isfinite(got.depth).all()
    off, plain = ((rgb - want.rgb)[past].square().mean() for rgb in (got.rgb, torch.tensor(learned.background)))
    assert float(off) < 0.3 * float(plain)
    up = Camera.look_at((0.0, 0.0, 0.6), (0.05, 0.0, 3.0), 40, 30, 60.0)
    assert torch.isfinite(held_out(learned, up)[0].depth).all()
    assert not torch.isfinite(held_out(parts, up)[0].depth).any()


def test_parts_meet_without_seams(learned):
    """Along lines on the floor and the walls the surface goes on from part to part: within 2 cm, and to 25 degrees."""
    scene = Composite(learned.instances)
    s = torch.linspace(-1.3, 1.3, 400).double()
    zero, one = torch.zeros_like(s), torch.ones_like(s)
    floor = torch.stack([s, -0.6 * one, 0.3 * one], 1), torch.stack([zero, zero, -one], 1)
    wall = torch.stack([1.2 * one, s, 0.7 * one], 1), torch.stack([one, zero, zero], 1)
    for (o, d), ahead in ((floor, 0.3), (wall, 0.3)):
        hits = scene.trace(Rays(o, d))
        assert len(hits.owner.unique()) > 1 and bool((hits.owner >= 0).all())
        assert float((hits.t - ahead).abs().max()) < 0.02
        p = (o + hits.t[:, None] * d).requires_grad_()
        (slope,) = torch.autograd.grad(scene.evaluate(p, hits.owner).sdf.sum(), p)
        cosine = -(torch.nn.functional.normalize(slope.double(), dim=-1) * d).sum(1)
        assert float(cosine.min()) > math.cos(math.radians(25))


def test_the_same_pictures_give_the_same_bits_through_the_cache():
    views = pictures(cameras(6))
    tiny = dataclasses.replace(SMALL, steps=3, color_steps=2, points=100_000)
    first = learn_room(views, tiny, progress=False)
    kept = fit_views(views, config=ViewsConfig(room=tiny), progress=False)
    recalled = fit_views(views, config=ViewsConfig(room=tiny), progress=False)
    p = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    for other in (kept, recalled):
        assert other[1:3] == first[1:3] and other[4:] == first[4:]
        for a, b in zip(first.instances, other.instances, strict=True):
            assert torch.equal(a.field(p).sdf, b.field(p).sdf) and torch.equal(a.field(p).rgb, b.field(p).rgb)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    views = pictures(cameras(6))
    config = ViewsConfig(room=dataclasses.replace(SMALL, steps=3, color_steps=2, points=1500))
    monkeypatch.setattr("rendering.learning.room_shapes._GROUP", 1)
    seen: list[int] = []

    def stop(step: int, loss: float) -> None:
        seen.append(step)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_views(views, config=config, progress=False, on_step=stop)
    again: list[int] = []
    killed = fit_views(views, config=config, progress=False, on_step=lambda step, loss: again.append(step))
    assert len(killed.instances) > 1 and len(again) < 3 * len(killed.instances)
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "whole"))
    whole = fit_views(views, config=config, progress=False)
    p = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    for a, b in zip(whole.instances, killed.instances, strict=True):
        assert torch.equal(a.field(p).sdf, b.field(p).sdf) and torch.equal(a.field(p).rgb, b.field(p).rgb)


def test_boxes_hold_all_points_and_their_own_are_few(measured):
    boxes = parts_of(measured, 2000)
    inside = np.stack([((measured.points > b.lo.numpy()) & (measured.points < b.hi.numpy())).all(1) for b in boxes])
    assert inside.any(0).all()
    assert len(boxes) == 2 ** math.ceil(math.log2(len(measured.points) / 2000))


def test_distances_are_those_of_the_surfaces_before_and_behind_them(measured):
    floor = np.array([[-0.5, -0.4, z] for z in (0.3, 0.05, 0.0, -0.3 * measured.wall)])
    got = measured.signed_distance(floor)
    np.testing.assert_allclose(got[:3], [0.3, 0.05, 0.0], atol=0.01)
    assert got[3] < 0
    assert measured.signed_distance(floor[:1] * [1, 1, -3])[0] > 0  # nobody looked below the floor


def test_where_nobody_knows_the_side_is_minus_the_reach_whatever_float32_makes_of_it(measured):
    outside = np.array([[0.0, 0.0, -9.0]])
    assert measured.side(outside) == -measured.reach
    for share in (0.9, 0.91, 0.92, 0.93):  # of depths: so many reaches
        near = Measured.of(measured.cameras, [share * ahead for ahead in measured.ahead])
        assert near.side(outside) == -near.reach


def test_exposures_of_pictures_are_found():
    gains = [1.0, 0.8, 1.25, 1.0, 0.8, 1.25, 1.0, 0.8, 1.25, 1.0, 0.8, 1.25]
    plain, exposed = (exposures(pictures(cameras(12), some), 0.1) for some in (None, gains))
    assert np.abs(np.log(plain.gain)).max() < 0.02
    found = np.log(exposed.gain.mean(1))
    assert np.corrcoef(found, np.log(gains))[0, 1] > 0.95
    assert found[2] > 0.05 and found[1] < -0.05


def test_the_usual_value_about_a_place_is_that_of_places_near_it():
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, (2000, 3)) + np.where(np.arange(2000) < 1000, 0.0, 5.0)[:, None]
    value = np.where(np.arange(2000) < 1000, -1.0, 2.0)[:, None]
    np.testing.assert_allclose(smooth(p, value, np.ones(2000), 0.3), value, atol=1e-6)
    one = smooth(p, rng.normal(0, 1, (2000, 1)), np.ones(2000), 0.3)
    assert float(one.std()) < 0.3


def test_a_blurred_picture_counts_less():
    views = list(pictures(cameras(12)))
    rgb = torch.nn.functional.avg_pool2d(views[3].rgb.movedim(-1, 0), 25, 1, 12).movedim(0, -1)
    depth = views[3].depth
    views[3] = View(views[3].camera, rgb, depth=None if depth is None else depth.nan_to_num(0.0))
    weight = exposures(Views(views), 0.1).weight
    assert weight[3] < 0.5 * np.median(weight)


def test_a_room_is_seen_from_within_and_measured():
    views = pictures(cameras(4))
    assert is_room(views)
    assert not is_room(Views([View(v.camera, v.rgb) for v in views]))
    outside = [
        Camera.look_at((4.0 * math.cos(a), 4.0 * math.sin(a), 3.0), (0.0, 0.0, 0.0), 40, 30, 45.0)
        for a in (0.0, 2.0, 4.0)
    ]
    assert not is_room(pictures(outside))


def test_what_is_seen_from_the_side_only_is_a_wall_too():
    """A table top that all cameras see at 20 to 30 degrees: what is taught has no hole in it, 2 cm before it and behind it."""
    top = Composite([Instance("top", Box((2.0, 2.0, 0.3)), SE3.from_translation((0.0, 0.0, -0.15)))])
    shots = [Camera.look_at((-1.2, y, 0.35), (1.0, 0.6 * y, 0.0), 160, 120, 60.0) for y in (-0.4, 0.0, 0.4)]
    ahead = []
    for camera in shots:
        depth = render(top, camera, config=RenderConfig(antialias=1), progress=False).depth
        ahead.append(measured_ahead(View(camera, torch.zeros(120, 160, 3), depth=depth.nan_to_num(posinf=0.0))))
    found = Measured.of(shots, ahead)
    x, y = np.meshgrid(np.linspace(-0.6, -0.3, 7), np.linspace(-0.3, 0.3, 13))
    for z, side in ((0.02, 1), (-0.02, -1)):
        p = np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], 1)
        assert (np.sign(found.signed_distance(p)) == side).mean() > 0.99
