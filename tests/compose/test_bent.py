"""Fields that bend, in scenes: what the dense reference says of them, at many times and phases."""

import math

import numpy as np
import pytest
import torch

from compose import Composite, Instance, Rays
from compose.batch import FieldBatch
from compose.cells import cells_of
from compose.intervals import Interval, intervals_at
from compose.reference import in_double, query_reference, trace_reference
from objects import SE3, Capsule, Sphere
from objects.analytic_warps import Bend, Twist
from objects.node_warp import NodeKeys, NodeWarp
from objects.placed import Placed
from objects.warped import Warped


@pytest.fixture(scope="module")
def bending(fields):
    """Three networks and a capsule that bend and twist, one of the networks by nodes."""
    first, second = [field for field in fields if field.kind == "siren"][:2]
    rod = Capsule(0.08, 0.7)
    return [
        Warped(rod, Bend(rod.bounds, (0, 0, 1), (1, 0, 0), (0, 0, 0), 0.6, (0, 1, 2), (2.5, -2.5, 2.5))),
        Warped(first, Twist(first.bounds, (0, 0, 1), (0, 0, 0), (0, 1.5), (-1.5, 1.5))),
        Warped(second, Bend(second.bounds, (1, 0, 0), (0, 1, 0), (0, 0, 0), 0.6, (0, 2), (-1, 1))),
        Warped(first, _by_nodes(first)),
    ]


def _by_nodes(field):
    """A loop of two seconds in which nodes along x swing about z."""
    box, times = field.bounds, np.array([0.0, 0.5, 1.0, 1.5])
    x = np.linspace(float(box.lo[0]), float(box.hi[0]), 6)
    nodes, spacing = np.stack([x, 0 * x, 0 * x], 1), x[1] - x[0]
    anchors = (box.lo + torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * box.size).numpy()
    homes = np.abs(anchors[:, :1] - x).argmin(1)
    half = 0.4 * np.sin(math.pi * times)[:, None] * x / np.abs(x).max()
    turns = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], -1)
    shifts = 0.3 * half[..., None] * np.array([0.0, 1.0, 0.0])
    keys = NodeKeys(nodes, np.tile(np.arange(6), (6, 1)), anchors, homes, spacing, times, turns, shifts)
    return NodeWarp(keys, period=2.0)


def _scene(bending, m, seed):
    draw = torch.Generator().manual_seed(seed)
    made = []
    for k in range(m):
        pose = SE3(torch.randn(4, generator=draw), 0.9 * torch.randn(3, generator=draw))
        time = float(2.4 * torch.rand(1, generator=draw) - 0.2)
        made.append(Instance(f"{k}", bending[k % len(bending)], pose, 0.6 + 0.2 * (k % 3), time))
    return [*made, Instance("ball", Sphere(0.3), SE3.identity())]


def _rays(n, seed):
    draw = torch.Generator().manual_seed(seed)
    origins = 4 * torch.nn.functional.normalize(torch.randn(n, 3, generator=draw, dtype=torch.float64), dim=-1)
    aims = 0.5 * torch.randn(n, 3, generator=draw, dtype=torch.float64)
    return Rays(origins, torch.nn.functional.normalize(aims - origins, dim=-1))


@pytest.mark.parametrize(("m", "n", "seed"), [(3, 300, 1), (9, 150, 2)])
def test_trace_equals_the_dense_reference_at_all_phases(bending, m, n, seed):
    instances, rays = _scene(bending, m, seed), _rays(n, seed)
    scene = Composite(instances)
    got, want = scene.trace(rays), trace_reference(in_double(instances), rays)
    gap = torch.where(got.t == want.t, 0.0, (got.t - want.t).abs())
    assert int((want.owner >= 0).sum()) > 0.1 * n
    wrong = ((got.owner != want.owner) & (gap > 1e-6 * scene.size)) | (gap > 1e-4 * scene.size)
    assert int(wrong.sum()) == 0
    assert torch.equal(scene.occluded(rays), torch.isfinite(want.t))
    by_nodes = [isinstance(field.warp, NodeWarp) for field in scene.arrays.assets.fields if isinstance(field, Warped)]
    assert ((scene.traced.warps.of >= 0) <= scene.arrays.assets.used).all()
    assert int((scene.traced.warps.of >= 0).sum()) == sum(by_nodes[4:]) == (m > 3) * (m // 4)


def test_query_equals_the_dense_reference_and_never_exceeds_the_union(bending):
    instances = _scene(bending, 7, 0)
    p = torch.randn(400, 3, dtype=torch.float64)
    want, scene = query_reference(in_double(instances), p), Composite(instances)
    got = scene.query(p)
    assert torch.allclose(got.sdf, want.sdf, atol=1e-5) and (got.owner == want.owner).double().mean() > 0.995
    banded = scene.query(p, band=0.1)
    assert (banded.sdf <= want.sdf + 1e-5).all()
    near = want.sdf < 0.1 - 1e-5
    assert torch.allclose(banded.sdf[near], want.sdf[near], atol=1e-5)


def test_an_index_holds_at_all_times_of_its_interval(bending):
    for field in bending:
        (when,) = intervals_at(field, [0.77])
        assert when.start <= 0.77 < when.end and intervals_at(field, [when.start + 1e-9]) == [when]
        cells = cells_of(field, when)
        lo = field.box_lo.double().numpy()
        place, gradient, middle, bound = cells.planes()
        batch, inside = FieldBatch([field]), cells.inside_cells()
        mixed = np.zeros(inside.shape, dtype=bool)
        mixed[tuple(place.T)] = True
        number = np.full(inside.shape, -1)
        number[tuple(place.T)] = np.arange(len(place))
        draw = np.random.default_rng(0)
        for share in (0.0, 0.21, 0.5, 0.83, 1.0):
            u = draw.random((20_000, 3)) * inside.shape
            cell = u.astype(int)
            time = np.full(len(u), when.start + share * (when.end - when.start))
            value = batch.sdf_sorted(np.zeros(len(u), dtype=np.int64), lo + u * cells.cell, time)
            flat = ~mixed[tuple(cell.T)]
            assert ((value < 0) == inside[tuple(cell.T)])[flat].all()
            k = number[tuple(cell[~flat].T)]
            plane = middle[k] + (gradient[k] * (u[~flat] - cell[~flat] - 0.5) * cells.cell).sum(1)
            plane += cells.drift[k, 0] * cells.drift_unit * when.phase(time[0])
            assert (np.abs(value[~flat] - plane) <= bound[k]).all()
            # At one time a stretch within a cell bends by no more than is said.
            one = place[:, None] + draw.random((2, len(place), 3)).transpose(1, 0, 2)
            ends = np.stack([one[:, 0], one.mean(1), one[:, 1]])
            still = np.zeros(3 * len(place), dtype=np.int64)
            a, between, b = batch.sdf_sorted(
                still, lo + ends.reshape(-1, 3) * cells.cell, np.full(len(still), time[0])
            ).reshape(3, -1)
            dent = bound * cells.drift[:, 1].view(np.uint8) / 255
            assert (np.abs(between - 0.5 * (a + b)) <= 2 * dent).all() and dent.sum() < 0.95 * bound.sum()


def test_instances_of_one_interval_share_an_index_and_memory_is_bounded(bending):
    rod = bending[0]
    times = np.linspace(0.5, 0.9, 60)
    whens = set(intervals_at(rod, times.tolist()))
    assert 2 < len(whens) < 30
    scene = Composite([Instance(f"{k}", rod, SE3.identity(), 1.0, float(t)) for k, t in enumerate(times)])
    assert len(scene.arrays.assets.cells.mask) == sum(len(cells_of(rod, when).mask) for when in whens)
    assert intervals_at(Placed(rod, SE3.identity(), 2.0), [0.5]) != [None]
    assert intervals_at(Sphere(1.0), [None]) == [None]
    still = Warped(rod.field, Twist(rod.field.bounds, (0, 0, 1), (0, 0, 0), (1.0,), (2.0,)))
    assert intervals_at(still, [7.0]) == [Interval(1.0, 1.0)]


def test_the_fused_way_through_a_warp_is_that_of_the_field(bending):
    batch = FieldBatch(bending)
    asset = torch.arange(4).repeat_interleave(2000)
    p = torch.cat([f.box_lo + 1.1 * torch.rand(2000, 3) * f.bounds.size for f in bending]).double()
    time = 2 * torch.rand(8000).double()
    whole = torch.cat([f.sdf(p[asset == k].float(), time[asset == k].float()) for k, f in enumerate(bending)])
    assert torch.allclose(batch.sdf(asset, p, time).float(), whole, atol=2e-6)
    assert batch.bent.serves(np.arange(4)).tolist() == [False, True, True, True]
    got, slope = batch.surface(asset, p, time, geometry=True)
    q = p.clone().requires_grad_(True)
    want = batch.sample(asset, q, time)
    (gradient,) = torch.autograd.grad(want.sdf.sum(), q)
    for value, exact in ((got.sdf, want.sdf), (got.rgb, want.rgb), (slope, gradient)):
        assert torch.allclose(value, exact, atol=2e-4)
    assert torch.allclose(batch.surface(asset, p, time, geometry=False)[0].rgb, want.rgb, atol=1e-4)


def test_without_a_time_a_field_and_a_scene_mean_the_same():
    rod = Capsule(0.08, 0.7)
    p = torch.rand(500, 3) - 0.5
    for times in ((-1.0, 1.0), (0.5, 1.0), (-2.0, -1.0)):
        field = Warped(rod, Twist(rod.bounds, (1, 0, 0), (0, 0, 0), times, (-3.0, 3.0)))
        scene = Composite([Instance("rod", field, SE3.identity())])
        assert torch.allclose(scene.query(p).sdf.float(), field.sdf(p), atol=1e-6)
