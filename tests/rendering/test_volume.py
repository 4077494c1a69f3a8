"""Volume rendering of signed distance: packed samples against padded ones, against fine quadrature, and against tracing."""

from __future__ import annotations

import math

import pytest
import torch

from compose import Composite, Instance
from objects import SE3, Aabb, SirenField
from objects.field import TINT
from objects.primitives import Box, Sphere
from rendering import Camera, RenderConfig, render
from rendering.sampling import RayIntervals, lattices_of_scene, route, sample_intervals, transforms_of_scene
from rendering.volume import accumulate_along_rays, render_volume, sample_weights, zero_crossings

SHARPNESS = 60.0


def ragged(generator: torch.Generator) -> tuple[RayIntervals, torch.Tensor]:
    """Intervals of 5 rays, one of them without any, and distances at them."""
    counts = torch.tensor([4, 0, 9, 2, 30])
    t = torch.cat([torch.rand(int(n), generator=generator).sort().values for n in counts])
    intervals = RayIntervals(t, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
    return intervals, torch.rand(len(t), generator=generator) * 0.2 - 0.05


def intervals_of(scene: Composite, o: torch.Tensor, d: torch.Tensor, **options) -> RayIntervals:
    transforms = transforms_of_scene(scene)
    return sample_intervals(route(o, d, transforms), lattices_of_scene(scene), transforms, **options)


def two_spheres() -> Composite:
    """Two that interpenetrate, radius 0.5, centres 0.6 apart along x."""
    sphere = Sphere(0.5)
    return Composite(
        [
            Instance("left", sphere, SE3.from_translation((-0.3, 0.0, 0.0))),
            Instance("right", sphere, SE3.from_translation((0.3, 0.0, 0.0))),
        ]
    )


def test_packed_weights_equal_those_of_one_ray_after_the_other():
    intervals, sdf = ragged(torch.Generator().manual_seed(0))
    found = sample_weights(sdf, intervals.samples(), SHARPNESS)
    expected = []
    for a, b in zip(intervals.offsets[:-1], intervals.offsets[1:], strict=True):
        s = torch.sigmoid(SHARPNESS * sdf[a:b].double())
        alpha = ((s[:-1] - s[1:]) / s[:-1]).clamp(min=0)
        let_through = torch.cat([alpha.new_ones(1), (1 - alpha).cumprod(0)])[: len(alpha)]
        expected.append(let_through * alpha)
    torch.testing.assert_close(found.double(), torch.cat(expected), atol=2e-6, rtol=1e-5)


def test_gradients_of_packed_weights_equal_finite_differences():
    intervals, sdf = ragged(torch.Generator().manual_seed(1))
    sdf = sdf.double().requires_grad_()
    samples = intervals.samples()
    value = torch.arange(len(samples.first), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: (sample_weights(f, samples, 20.0) * value).sum(), (sdf,), eps=1e-7)


def test_opacity_of_a_surface_does_not_depend_on_where_the_boundaries_lie():
    # From far outside to deep inside, in 1 step or in 60.
    for n in (2, 7, 61):
        t = torch.linspace(0, 1, n)
        intervals = RayIntervals(t, torch.tensor([0, n]))
        weight = sample_weights(0.4 - t, intervals.samples(), SHARPNESS)
        assert float(weight.sum()) == pytest.approx(1.0, abs=1e-6)


def test_light_is_stopped_where_the_distance_is_zero():
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    samples = RayIntervals(t, torch.tensor([0, 4])).samples()
    assert int(sample_weights(0.4 - t, samples, 1e3).argmax()) == 1
    assert float(zero_crossings(0.4 - t, samples)[1]) == pytest.approx(0.4, abs=1e-6)


def test_union_of_two_spheres_against_fine_quadrature():
    """Opacity, depth and the share of each sphere, where rays pass through one, both, or graze them."""
    scene, sharpness = two_spheres(), 300.0  # so that all of the light is stopped within the boxes
    y = torch.linspace(-0.54, 0.54, 25, dtype=torch.float64)
    o = torch.stack([torch.full_like(y, -2.0), y, 0.1 * torch.ones_like(y)], -1)
    d = torch.tensor([[1.0, 0.15, 0.0]], dtype=torch.float64).expand(len(y), 3)
    d = d / d.norm(dim=-1, keepdim=True)
    jitter = torch.full((len(y), 1200), 0.5)
    intervals = intervals_of(scene, o, d, sharpness=sharpness, jitter=jitter, n_uniform=1000)
    samples, ray = intervals.samples(), intervals.ray_indices
    sample = scene.query(o[ray] + intervals.t[:, None] * d[ray])
    weights, at = sample_weights(sample.sdf, samples, sharpness), zero_crossings(sample.sdf, samples)
    left = (sample.owner[samples.first + 1] == 0).double()
    rows = accumulate_along_rays(weights, torch.stack([torch.ones_like(left), left, at.double()], -1), samples)

    # dT/dt = -T max(0, -d log S(s f) / dt), for f the minimum: the density of the union, not the sum of both.
    t = torch.linspace(0, 5, 400_001, dtype=torch.float64)
    for i in range(len(y)):
        p = o[i] + t[:, None] * d[i]
        both = torch.stack([(p - torch.tensor([x, 0.0, 0.0])).norm(dim=-1) - 0.5 for x in (-0.3, 0.3)])
        f, owner = both.min(0)
        passed = torch.nn.functional.logsigmoid(sharpness * f)
        density = (passed[:-1] - passed[1:]).clamp(min=0)
        through = torch.exp(-torch.cat([density.new_zeros(1), density.cumsum(0)]))
        weight = through[:-1] - through[1:]
        middle = 0.5 * (t[:-1] + t[1:])
        expected = torch.stack([weight.sum(), weight[owner[:-1] == 0].sum(), (weight * middle).sum()])
        torch.testing.assert_close(rows[i], expected, atol=4e-3, rtol=4e-3)


def test_volume_pictures_of_sharp_surfaces_equal_traced_ones():
    red, blue = (Box((0.4, 0.5, 0.6), color=c) for c in ((0.9, 0.1, 0.1), (0.1, 0.2, 0.9)))
    scene = Composite(
        [
            Instance("red", red, SE3.from_axis_angle((0.3, 1.0, 0.2), 0.7), scale=1.3),
            Instance("blue", blue, SE3.from_translation((0.3, 0.4, 0.1))),
        ]
    )
    camera = Camera.look_at((2.0, 1.2, 0.9), (0.0, 0.1, 0.0), 64, 48)
    traced = render(scene, camera, config=RenderConfig(antialias=1))
    volume = render_volume(scene, camera, sharpness=2e3)
    same = (volume.rgb - traced.rgb).abs().amax(-1) < 0.02
    assert float(same.float().mean()) > 0.98  # the outline is a pixel wide here and has no width there
    hit = (traced.owner >= 0) & same
    assert float((volume.depth - traced.depth)[hit].abs().max()) < 0.02
    assert float(volume.alpha[hit].min()) > 0.98


@pytest.mark.parametrize("sharpness", [0.0, -1.0, math.nan, math.inf])
def test_a_sharpness_that_is_none_is_refused(sharpness: float):
    with pytest.raises(ValueError, match="sharpness"):
        render_volume(two_spheres(), Camera.look_at((2, 0, 0), (0, 0, 0), 4, 4), sharpness=sharpness)


def test_an_empty_scene_shows_the_background():
    camera = Camera.look_at((2, 0, 0), (0, 0, 0), 4, 4)
    picture = render_volume(Composite([]), camera, sharpness=10.0, background=(0.2, 0.4, 0.6))
    torch.testing.assert_close(picture.rgb, torch.tensor([0.2, 0.4, 0.6]).expand(4, 4, 3))
    assert float(picture.alpha.max()) == 0


def test_more_rays_a_pixel_are_the_mean_of_a_larger_picture():
    camera = Camera.look_at((2.0, 1.2, 0.9), (0.0, 0.1, 0.0), 24, 18)
    fine = render_volume(two_spheres(), camera.resized(48, 36), sharpness=40.0)
    got = render_volume(two_spheres(), camera, sharpness=40.0, antialias=2)

    def halved(x: torch.Tensor) -> torch.Tensor:
        return x.unfold(0, 2, 2).unfold(1, 2, 2).mean((-1, -2))

    torch.testing.assert_close(got.rgb, halved(fine.rgb), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.alpha, halved(fine.alpha), rtol=0, atol=1e-5)
    one = render_volume(two_spheres(), camera, sharpness=40.0)
    assert float((one.rgb - got.rgb).abs().max()) > 0.01


@pytest.mark.parametrize("antialias", [0, 17])
def test_too_many_rays_a_pixel_are_refused(antialias: int):
    camera = Camera.look_at((2, 0, 0), (0, 0, 0), 4, 4)
    with pytest.raises(ValueError, match="antialias"):
        render_volume(two_spheres(), camera, sharpness=10.0, antialias=antialias)


def test_a_tint_is_seen_by_volume_as_by_tracing():
    box = Aabb(torch.full((3,), -0.5), torch.full((3,), 0.5))
    field = SirenField(box, width=8, layers=1, color_width=8, channels={TINT: 9})
    with torch.no_grad():  # nearly a ball: 2.6 - cos x - cos y - cos z; redder from above, greener from below
        for p in field.parameters():
            p.zero_()
        first, last = field.distance.linears
        first.weight[:3], first.bias[:3] = torch.eye(3) / 30, 0.5 * math.pi / 30
        last.weight[0, :3], last.bias[:] = -1.0, 2.6
        field.appearance.linears[-1].bias[3:] = torch.tensor([0.0, 0, -0.4, 0, 0, 0.4, 0, 0, 0])
    scene = Composite([Instance("a", field, SE3.from_axis_angle((1.0, 0.0, 0.0), math.pi), lit=False)])
    shot = Camera.look_at((0.6, 0.3, 2.0), (0.1, 0.1, 0.0), 32, 24, 40.0)
    traced = render(scene, shot, config=RenderConfig(antialias=1))
    volume = render_volume(scene, shot, sharpness=2e3)
    hit = traced.owner >= 0
    assert 20 < int(hit.sum()) < 700
    below = shot.rays().directions.view(24, 32, 3)[..., 2:].float()  # the object stands upside down
    want = 0.5 + below * torch.tensor([0.4, -0.4, 0.0])
    torch.testing.assert_close(traced.rgb[hit], want[hit], rtol=0, atol=1e-3)
    same = (volume.rgb - traced.rgb).abs().amax(-1) < 0.01
    assert float(same.float().mean()) > 0.95
