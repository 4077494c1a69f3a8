"""Where rays are sampled: routed through the tree as by hand, in the frame of each ray."""

from __future__ import annotations

import math

import numpy as np
import torch

from compose import Composite, Instance
from objects import SE3, Aabb
from objects.primitives import Sphere
from rendering.sampling import (
    FrameTransforms,
    RayIntervals,
    frame_transforms,
    lattices_of,
    lattices_of_scene,
    points_in_boxes,
    route,
    sample_intervals,
    transforms_of_scene,
)


def intervals_of(scene: Composite, o: torch.Tensor, d: torch.Tensor, **options) -> RayIntervals:
    transforms = transforms_of_scene(scene)
    return sample_intervals(route(o, d, transforms), lattices_of_scene(scene), transforms, **options)


def scattered(
    m: int = 60, frames: int = 3
) -> tuple[FrameTransforms, list[Aabb], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Instances of two boxes, turned and scaled, elsewhere in each frame; and rays through them, each of some frame."""
    g = torch.Generator().manual_seed(0)
    boxes = [Aabb((-0.1, -0.2, -0.3), (0.2, 0.2, 0.1)), Aabb((-0.2,) * 3, (0.2,) * 3)]
    poses = SE3(torch.randn(frames, m, 4, generator=g).double(), 2 * torch.rand(frames, m, 3, generator=g).double() - 1)
    scale, asset = (0.5 + torch.rand(m, generator=g)).double().numpy(), np.arange(m) % 2
    transforms = frame_transforms(poses.rotation().numpy(), poses.translation.numpy(), scale, asset, boxes)
    o = 4 * torch.nn.functional.normalize(torch.randn(300, 3, generator=g), dim=-1)
    d = torch.nn.functional.normalize(torch.rand(300, 3, generator=g) - 0.5 - o, dim=-1)
    return transforms, boxes, o, d, torch.randint(frames, (300,), generator=g)


def in_box(p: torch.Tensor, i: int, frame: int, transforms: FrameTransforms) -> torch.Tensor:
    rot, trans = (torch.from_numpy(x[frame, i]) for x in transforms[:2])
    p_obj = ((p.double() - trans) @ rot / transforms.scale[i]).numpy()
    a = transforms.asset[i]
    return torch.from_numpy(((p_obj >= transforms.lo[a]) & (p_obj <= transforms.hi[a])).all(-1))


def test_rays_are_routed_to_all_boxes_that_they_cross_in_their_frame_and_to_few_others():
    transforms, _, o, d, frame = scattered()
    rays = route(o, d, transforms, frame)
    t = torch.linspace(0, 8, 4000)[:, None]
    crossed = 0
    for r in range(0, 300, 10):
        found = rays.instance[rays.offsets[r] : rays.offsets[r + 1]].tolist()
        assert found == sorted(found)
        along = o[r] + t * d[r]
        true = [i for i in range(60) if bool(in_box(along, i, int(frame[r]), transforms).any())]
        assert set(true) <= set(found)
        crossed += len(true)
    assert crossed > 60
    assert len(rays.instance) < 0.35 * 300 * 60


def test_points_are_found_in_the_boxes_of_their_frame_as_by_hand():
    transforms, _, o, d, frame = scattered()
    ray = torch.randint(300, (5000,), generator=torch.Generator().manual_seed(1))
    p = o[ray] + (2 + 4 * torch.rand(5000, 1, generator=torch.Generator().manual_seed(2))) * d[ray]
    point, offsets = points_in_boxes(p, ray, route(o, d, transforms, frame), transforms)
    for i in range(60):
        true = torch.zeros(5000, dtype=torch.bool)
        for f in range(3):
            true |= (frame[ray] == f) & in_box(p, i, f, transforms)
        assert point[offsets[i] : offsets[i + 1]].tolist() == true.nonzero()[:, 0].tolist()
    assert len(point) > 1000


def test_samples_in_a_frame_are_those_of_a_scene_that_stands_so():
    transforms, boxes, o, d, frame = scattered()
    lattices = lattices_of(boxes, 16, lambda i, p: p.norm(dim=-1) - 0.08)
    options = {"sharpness": 100.0, "n_uniform": 3, "jitter": torch.full((300, 9), 0.5)}
    moving = sample_intervals(route(o, d, transforms, frame), lattices, transforms, **options)
    for f in range(3):
        still = frame_transforms(transforms.rot[f : f + 1], transforms.trans[f : f + 1], *transforms[2:4], boxes)
        found = sample_intervals(route(o, d, still), lattices, still, **options)
        kept, of = frame[moving.ray_indices] == f, frame[found.ray_indices] == f
        assert torch.equal(moving.ray_indices[kept], found.ray_indices[of])
        assert torch.equal(moving.t[kept], found.t[of])


def test_samples_are_the_intervals_between_the_boundaries_of_a_ray():
    intervals = RayIntervals(torch.tensor([0.0, 1.0, 3.0, 2.0, 5.0]), torch.tensor([0, 3, 3, 5]))
    samples = intervals.samples()
    assert samples.ray_indices.tolist() == [0, 0, 2]
    assert samples.t_starts.tolist() == [0.0, 1.0, 2.0]
    assert samples.t_ends.tolist() == [1.0, 3.0, 5.0]
    assert samples.offsets.tolist() == [0, 2, 2, 3]


def test_boundaries_gather_at_the_surface():
    scene = Composite([Instance("ball", Sphere(0.5), SE3.identity())])
    o, d = torch.tensor([[-2.0, 0.1, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    intervals = intervals_of(scene, o, d, sharpness=1e4, jitter=torch.full((1, 16), 0.5), n_uniform=4)
    hit = 2.0 - math.sqrt(0.25 - 0.01)
    assert len(intervals.t) == 16
    assert bool((intervals.t.diff() >= 0).all())
    assert int(((intervals.t - hit).abs() < 0.03).sum()) >= 11


def test_rays_that_miss_every_box_have_no_samples_and_grazing_ones_only_uniform_ones():
    scene = Composite([Instance("ball", Sphere(0.5), SE3.identity())])
    o = torch.tensor([[-2.0, 3.0, 0.0], [-2.0, 0.499, 0.499]])
    d = torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3)
    intervals = intervals_of(scene, o, d, sharpness=1e4, jitter=torch.full((2, 16), 0.5), n_uniform=4)
    assert intervals.offsets.diff().tolist() == [0, 4]


def test_marks_are_boundaries_and_missing_ones_are_not():
    scene = Composite([Instance("ball", Sphere(0.5), SE3.identity())])
    o, d = torch.tensor([[-2.0, 0.0, 0.0]] * 2), torch.tensor([[1.0, 0.0, 0.0]] * 2)
    marks = torch.tensor([[1.7], [math.nan]])
    jitter = torch.full((2, 8), 0.5)
    intervals = intervals_of(scene, o, d, sharpness=50.0, jitter=jitter, n_uniform=4, marks=marks)
    assert intervals.offsets.diff().tolist() == [9, 8]
    assert np.float32(1.7) in intervals.t[:9].numpy()
