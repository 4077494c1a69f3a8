import math

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from scipy.spatial import KDTree

from compose import Composite, Instance
from compose.cells import cells_of
from compose.contact import clearance, overlapping_boxes, overlaps
from compose.cpu import count_near, points_near
from compose.surface_points import joined_points, surface_points, surface_samples
from objects import SE3
from objects.aabb import Aabb
from objects.field import Field, FieldSample
from objects.placed import Placed
from objects.primitives import Box, Cylinder, Sphere, Torus

BALL, CUBE = Sphere(1.0), Box([1.0, 1.0, 1.0])
TURN = SE3.from_axis_angle([0.3, -1.0, 0.5], 1.1)


def _at(field, x=0.0, y=0.0, z=0.0, scale=1.0, turn=None):
    quat = torch.tensor([1.0, 0.0, 0.0, 0.0]) if turn is None else turn.quat_wxyz
    return Instance("thing", field, SE3(quat.double(), torch.tensor([x, y, z], dtype=torch.float64)), scale)


def _all_turned(instances):
    """The same scene seen from elsewhere: nothing about contact may change."""
    view = SE3(TURN.quat_wxyz.double(), torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64))
    return Composite([i.with_pose(view @ i.T_world_obj) for i in instances])


def _distance(instance, p_world):
    p = torch.as_tensor(p_world, dtype=torch.float64).reshape(-1, 3)
    p_obj = (instance.T_world_obj.inverse() @ p) / instance.scale
    with torch.no_grad():
        return instance.scale * instance.field.in_double().sdf(p_obj).numpy()


def _no_surface():
    far = Sphere(0.1)
    far.box_lo, far.box_hi = torch.full((3,), 1.0), torch.full((3,), 2.0)
    return far


@pytest.fixture(scope="module")
def some_fields(solids, sirens):
    """A few of each, so that few indices have to be made."""
    return [solids[6], sirens[0], sirens[2]]


# -- surface points ------------------------------------------------------------------------------------------------------


def test_surface_points_lie_on_the_surface(some_fields):
    for field in some_fields:
        p = surface_points(field)
        diagonal = float(field.bounds.diagonal)
        assert p.dtype == np.float64 and 500 < len(p) <= 4000
        off = field.in_double().sdf(torch.from_numpy(p)).detach().abs().numpy()
        assert off.max() < 1.01e-3 * diagonal and np.median(off) < 1e-6 * diagonal


def test_surface_points_leave_no_hole_and_no_crowd():
    p = surface_points(BALL)
    g = torch.nn.functional.normalize(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    nearest = np.linalg.norm(g.numpy()[:, None] - p, axis=-1).min(1)
    # 4,000 points on 4 pi: 0.056 between neighbours.
    assert nearest.max() < 0.08
    octants, counts = np.unique((p > 0) @ [1, 2, 4], return_counts=True)
    assert len(octants) == 8 and counts.max() < 1.2 * counts.min()


def test_surface_points_find_walls_between_the_corners_of_the_cells():
    wall = Box([1.0, 1.0, 0.002])
    walls = Placed(wall, SE3.from_translation([0.0, 0.0, 0.1])) | Placed(wall, SE3.from_translation([0.0, 0.0, 0.4137]))
    cells = cells_of(walls, None)
    corner = np.argwhere(np.ones(4 * np.array(cells.block.shape) + 1))
    assert (walls.sdf(walls.box_lo + torch.from_numpy(corner * cells.cell).float()) > 0).all()
    p = surface_points(walls)
    where = np.random.default_rng(0).uniform(-0.5, 0.5, (300, 2))
    for z in (0.1, 0.4137):
        places = np.c_[where, np.full(300, z)]
        assert KDTree(p).query(places)[0].max() < 0.08


def test_surface_points_follow_the_weights():
    ball = Sphere(0.5)
    before = surface_points(ball)
    assert np.array_equal(before, surface_points(ball))
    ball.radius.mul_(0.5)
    np.testing.assert_allclose(np.linalg.norm(surface_points(ball), axis=1), 0.25, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 0.5, atol=1e-5)


class Growing(Field):
    """A ball whose radius is a tenth of its age."""

    def __init__(self):
        super().__init__(Aabb(-torch.ones(3), torch.ones(3)))

    def inside(self, p_obj, time):
        return FieldSample(p_obj.norm(dim=-1) - 0.1 * time, torch.ones_like(p_obj), p_obj[:, :0])


def test_each_time_has_surface_points_of_its_own():
    field = Growing()
    for time in (2.0, 5.0, 2.0):
        np.testing.assert_allclose(np.linalg.norm(surface_points(field, time), axis=1), 0.1 * time, atol=1e-5)


def test_a_caller_cannot_spoil_the_surface_points():
    ball = Sphere(0.5)
    surface_points(ball)[:] = 7.0
    assert np.abs(surface_points(ball)).max() < 0.6


def test_no_surface_no_points():
    assert surface_points(_no_surface()).shape == (0, 3)


def test_no_surface_point_near_another_instance_is_passed_over(some_fields, random_instances):
    """Whatever lies inside it, or within the reach of one of its own surface points, is found."""
    composite = Composite(random_instances(some_fields, 12, 6, spread=1.2))
    pairs = overlapping_boxes(composite)
    transforms, assets = composite.arrays.transforms, composite.arrays.assets
    samples = {a: surface_samples(assets.fields[a], assets.times[a]) for a in set(transforms.asset[pairs].flat)}
    points = joined_points(samples, len(transforms.box_lo))
    for reach in (0.02, 0.1, 0.3):
        kept = total = 0
        for i, j in pairs.tolist():
            x, y = (
                composite.instances[k].T_world_obj
                @ torch.from_numpy(transforms.scale[k] * samples[transforms.asset[k]].points)
                for k in (i, j)
            )
            row = [np.array([v]) for v in (i, j, reach)]
            count = count_near(transforms, points, *row)
            out = points_near(transforms, points, *row, count)
            near = (_distance(composite.instances[j], x) < 0) | (KDTree(y).query(x)[0] <= reach)
            found = KDTree(out) if count[0] else None
            assert not near.any() or (found is not None and found.query(x[near])[0].max() < 1e-9)
            kept, total = kept + count[0], total + len(x)
        assert kept < 0.9 * total


# -- boxes -----------------------------------------------------------------------------------------------------------------


def _boxes_meet(a, b):
    """Whether two oriented boxes share a point, by least squares over both boxes."""
    turn = [i.scale * i.T_world_obj.rotation().double().numpy() for i in (a, b)]
    bounds = np.concatenate([[i.field.box_lo.numpy(), i.field.box_hi.numpy()] for i in (a, b)], 1).astype(np.float64)
    way = (b.T_world_obj.translation - a.T_world_obj.translation).double().numpy()
    return math.sqrt(2 * lsq_linear(np.c_[turn[0], -turn[1]], way, bounds, tol=1e-14).cost) < 1e-6


@pytest.mark.parametrize(("m", "seed"), [(2, 0), (3, 1), (17, 2), (30, 3)])
def test_boxes_that_meet_are_those_of_brute_force(solids, random_instances, m, seed):
    instances = random_instances(solids, m, seed, spread=0.35 * m ** (1 / 3))
    want = [(i, j) for j in range(m) for i in range(j) if _boxes_meet(instances[i], instances[j])]
    pairs = overlapping_boxes(Composite(instances))
    assert pairs.dtype == np.int64 and pairs.shape == (len(want), 2)
    assert [tuple(p) for p in pairs.tolist()] == sorted(want)
    assert m < 17 or 0 < len(want) < m * (m - 1) / 2


def test_boxes_of_no_instance_and_of_one():
    assert overlapping_boxes(Composite([])).shape == (0, 2)
    assert overlapping_boxes(Composite([_at(BALL)])).shape == (0, 2)


def test_boxes_in_one_place_all_meet_and_far_apart_none():
    pairs = overlapping_boxes(Composite([_at(CUBE, 4.0, turn=TURN)] * 9))
    assert pairs.tolist() == [[i, j] for i in range(9) for j in range(i + 1, 9)]
    assert len(overlapping_boxes(Composite([_at(CUBE, 3.0 * k, turn=TURN) for k in range(50)]))) == 0


def test_boxes_whose_upright_hulls_meet_but_not_they_themselves():
    plank, quarter = Box([2.0, 0.1, 0.1]), SE3.from_axis_angle([0.0, 0.0, 1.0], math.pi / 4)
    composite = Composite([_at(plank, turn=quarter), _at(plank, 0.4, -0.4, turn=quarter)])
    assert bool((composite.arrays.box_lo[0] < composite.arrays.box_hi[1]).all())
    assert bool((composite.arrays.box_lo[1] < composite.arrays.box_hi[0]).all())
    assert len(overlapping_boxes(composite)) == 0


# -- depth -----------------------------------------------------------------------------------------------------------------

TIP = SE3.from_axis_angle([1.0, 1.0, 0.0], math.atan(math.sqrt(2.0)))  # a cube on its corner
EDGE = SE3.from_axis_angle([0.0, 0.0, 1.0], math.pi / 4)
DEEP = [
    ("ball in ball", _at(BALL), _at(BALL, 1.5), 0.5),
    ("balls of two sizes", _at(BALL, scale=0.2), _at(BALL, 1.2, 0.5, scale=1.5), 0.4),
    ("ball deep in ball", _at(BALL), _at(BALL, 0.1, scale=0.3), 1.0 - (0.3 - 0.1)),
    ("face in face", _at(CUBE), _at(CUBE, 0.8, 0.1, 0.2), 0.2),
    ("corner in face", _at(CUBE), _at(CUBE, 0.1, 0.05, 0.5 + math.sqrt(0.75) - 0.05, turn=TIP), 0.05),
    ("corner barely in face", _at(CUBE), _at(CUBE, 0.1, 0.05, 0.5 + math.sqrt(0.75) - 0.004, turn=TIP), 0.004),
    ("edge in face", _at(CUBE), _at(CUBE, 0.5 + math.sqrt(0.5) - 0.02, z=0.1, turn=EDGE), 0.02),
    ("crossed bars", _at(Box([2.0, 0.2, 0.2])), _at(Box([0.2, 2.0, 0.2])), 0.1),
    ("ball in box", _at(Sphere(0.3)), _at(Box([4.0, 4.0, 4.0]), 0.5), 2.0 - 0.5 + 0.3),
    ("small ball on a floor", _at(Sphere(0.05), 1.0, -2.0, 0.04), _at(Box([10.0, 10.0, 1.0]), z=-0.5), 0.01),
    ("rod through ring", _at(Cylinder(0.45, 2.0)), _at(Torus(0.5, 0.1)), 0.05),
]


@pytest.mark.parametrize(("a", "b", "depth"), [c[1:] for c in DEEP], ids=[c[0] for c in DEEP])
def test_depths_known_in_closed_form(a, b, depth):
    for composite in (Composite([a, b]), _all_turned([b, a])):
        (got,) = overlaps(composite)
        assert (got.first, got.second) == (0, 1)
        assert got.depth == pytest.approx(depth, rel=1e-3, abs=1e-4)
        # The point is on the surface of one and that deep in the other.
        at = sorted(float(_distance(i, got.point)[0]) for i in composite.instances)
        assert at == pytest.approx([-got.depth, 0.0], abs=1e-4)
    both = clearance(composite, 1, 0)
    assert both.distance == pytest.approx(-got.depth, abs=1e-6) and both.point_i == both.point_j


APART = [
    ("balls", _at(BALL), _at(BALL, 5.0, 1.0), math.sqrt(26.0) - 2.0),
    ("balls that nearly touch", _at(BALL), _at(BALL, 1.16, 1.16, 1.16), 1.16 * math.sqrt(3.0) - 2.0),
    ("balls of two sizes", _at(BALL, scale=0.1), _at(BALL, 3.0, 1.0, scale=2.0), math.sqrt(10.0) - 2.1),
    ("face to face", _at(CUBE), _at(CUBE, 1.25, 0.4, 0.3), 0.25),
    ("edge to edge", _at(CUBE), _at(CUBE, 1.3, 1.4, 0.3), 0.5),
    ("corner to corner", _at(CUBE), _at(CUBE, 1.3, 1.4, 1.5), math.sqrt(0.5)),
    ("corner over face", _at(CUBE), _at(CUBE, 0.1, 0.05, 0.5 + math.sqrt(0.75) + 0.005, turn=TIP), 0.005),
    ("rod in ring", _at(Cylinder(0.2, 2.0)), _at(Torus(0.5, 0.1)), 0.2),
    ("rod off the middle of a ring", _at(Cylinder(0.2, 2.0), 0.1, 0.1), _at(Torus(0.5, 0.1)), 0.2 - math.sqrt(0.02)),
    ("ball in a shell", _at(Sphere(0.3), 0.1), _at(Sphere(1.0) - Sphere(0.8)), 0.4),
    ("linked rings", _at(Torus(0.5, 0.1)), _at(Torus(0.5, 0.1), 0.5, turn=SE3.from_axis_angle([1.0, 0.0, 0.0], 1.5708)), 0.3),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "gap"), [c[1:] for c in APART], ids=[c[0] for c in APART])
def test_clearances_known_in_closed_form(a, b, gap):
    size = min(i.scale * float(i.field.bounds.diagonal) for i in (a, b))
    composite = _all_turned([a, b])
    assert overlaps(composite, min_depth=0.0) == []
    got = clearance(composite, 1, 0)
    assert got.distance == pytest.approx(gap, abs=2e-4 * size)
    assert np.linalg.norm(np.subtract(got.point_i, got.point_j)) == pytest.approx(got.distance, abs=1e-12)
    assert abs(_distance(composite.instances[1], got.point_i)[0]) < 1e-4 * size
    assert abs(_distance(composite.instances[0], got.point_j)[0]) < 1e-4 * size


@pytest.mark.parametrize("seed", range(3))
def test_clearances_of_boxes_are_those_of_least_squares(seed):
    g = np.random.default_rng(seed)
    shapes = [Box([0.5, 0.3, 0.4]), Box([0.6, 0.4, 0.02])]
    a, b = (
        _at(
            shapes[g.integers(2)],
            0.0,
            1.2 * k,
            0.3 * k,
            g.uniform(0.5, 1.5),
            SE3(torch.tensor(g.normal(size=4)), torch.zeros(3).double()),
        )
        for k in (0, 1)
    )
    turn = [(i.scale * i.T_world_obj.rotation()).numpy() for i in (a, b)]
    half = np.concatenate([i.field.size.double().numpy() / 2 for i in (a, b)])
    way = (b.T_world_obj.translation - a.T_world_obj.translation).numpy()
    want = math.sqrt(2 * lsq_linear(np.c_[turn[0], -turn[1]], way, (-half, half), tol=1e-14).cost)
    assert want > 0.05
    assert clearance(Composite([a, b]), 0, 1).distance == pytest.approx(want, abs=2e-4)


def test_instances_in_one_place_overlap_by_the_ball_that_both_hold():
    for field, depth in ((BALL, 1.0), (Box([1.0, 0.5, 0.2]), 0.1)):
        composite = Composite([_at(field, 1.0, 2.0, 3.0, turn=TURN)] * 3)
        found = overlaps(composite)
        assert [(o.first, o.second) for o in found] == [(0, 1), (0, 2), (1, 2)]
        assert [o.depth for o in found] == pytest.approx([depth] * 3, rel=1e-3)
        assert clearance(composite, 0, 2).distance == pytest.approx(-depth, rel=1e-3)


def test_thin_walls_in_one_place_overlap():
    """Thinner than a cell, thicker than what counts as touching."""
    shell = Sphere(0.5) - Sphere(0.495)
    assert 0.005 < cells_of(shell, None).cell.min()
    (found,) = overlaps(Composite([_at(shell), _at(shell)]))
    assert found.depth == pytest.approx(0.0025, rel=0.05)


def test_solids_that_only_touch_do_not_overlap():
    composite = Composite([_at(CUBE), _at(CUBE, 1.0), _at(CUBE, 0.0, 1.0, 0.2)])
    assert overlaps(composite) == []
    assert clearance(composite, 0, 1).distance == pytest.approx(0.0, abs=1e-6)


# -- lists -------------------------------------------------------------------------------------------------------------------


def test_overlaps_come_deepest_first_and_equal_ones_by_number():
    row = [_at(BALL, x) for x in (0.0, 10.0, 1.5, 11.2, 13.0, 20.0, 21.5)]
    found = overlaps(Composite(row))
    assert [(o.first, o.second) for o in found] == [(1, 3), (0, 2), (5, 6), (3, 4)]
    assert [o.depth for o in found] == pytest.approx([0.8, 0.5, 0.5, 0.2], rel=1e-3)
    deep = overlaps(Composite(row), min_depth=0.3)
    assert [(o.first, o.second) for o in deep] == [(1, 3), (0, 2), (5, 6)]


def test_no_pair_no_overlap():
    assert overlaps(Composite([])) == [] and overlaps(Composite([_at(BALL)])) == []
    assert overlaps(Composite([_at(_no_surface()), _at(_no_surface())])) == []


def test_a_pair_is_the_same_alone_and_in_a_crowd(some_fields, random_instances):
    """Batches of many pairs, cut in chunks, say what each pair says alone."""
    instances = random_instances(some_fields, 25, 3, spread=0.9)
    found = overlaps(Composite(instances))
    depths = {(o.first, o.second): o.depth for o in found}
    assert len(found) > 20 and found == overlaps(Composite(instances))
    assert all(o.first < o.second for o in found)
    pairs = [p for k, p in enumerate(overlapping_boxes(Composite(instances)).tolist()) if k % 5 == 0]
    for i, j in pairs:
        alone = overlaps(Composite([instances[i], instances[j]]))
        assert ([o.depth for o in alone] or [0.0]) == pytest.approx([depths.get((i, j), 0.0)], abs=2e-4), (i, j)


@pytest.mark.parametrize("chunk", [5000, 70_000])
def test_chunks_change_nothing(monkeypatch, some_fields, random_instances, chunk):
    composite = Composite(random_instances(some_fields, 20, 4, spread=0.8))
    want = overlaps(composite)
    monkeypatch.setattr("compose.surface_points.CHUNK", chunk)
    assert overlaps(composite) == want and len(want) > 10


# -- learned fields ------------------------------------------------------------------------------------------------------------


def test_learned_fields_against_many_points_of_their_meshes(sirens):
    """The vertices of fine meshes lie on the surfaces: none is deeper, none nearer than what was found."""
    meshes = {id(f): torch.from_numpy(np.asarray(f.to_mesh(1e-3).vertices)) for f in sirens}
    overlapping = 0
    for k, gap in enumerate([0.15, 0.3, 0.45, 0.6, 0.8, 1.2]):
        turn = SE3.from_axis_angle([1.0, float(k), 0.5], 0.7 * k)
        a, b = _at(sirens[k % 3], scale=1.3), _at(sirens[(k + 1) % 3], gap, 0.1, turn=turn)
        x, y = (i.T_world_obj @ (i.scale * meshes[id(i.field)]) for i in (a, b))
        depth = -min(_distance(b, x).min(), _distance(a, y).min())
        got = clearance(Composite([a, b]), 0, 1)
        if depth > 1e-3:
            overlapping += 1
            (found,) = overlaps(Composite([a, b]))
            assert depth - 1e-3 < found.depth < depth + 5e-3
            assert got.distance == pytest.approx(-found.depth, abs=1e-6)
        elif depth < -1e-3:
            nearest = KDTree(x.numpy()).query(y.numpy())[0].min()
            assert nearest - 5e-3 < got.distance < nearest + 1e-3
            assert overlaps(Composite([a, b])) == []
    assert 2 <= overlapping <= 5


def test_fields_with_gradients_on_can_be_asked(sirens):
    field = sirens[0].in_double().requires_grad_(True)
    composite = Composite([_at(field), _at(field, 0.1)])
    (found,) = overlaps(composite)
    assert found.depth > 0.05


# -- mistakes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("i", "j", "what"), [(0, 2, "2 instances"), (-1, 0, "got -1"), (0.5, 1, "got 0.5"), (1, 1, "twice")]
)
def test_clearance_names_what_is_wrong_with_the_numbers(i, j, what):
    with pytest.raises(ValueError, match=what):
        clearance(Composite([_at(BALL), _at(BALL, 3.0)]), i, j)


def test_clearance_of_something_without_surface():
    with pytest.raises(ValueError, match=r"instance 1 \('thing'\) has no surface"):
        clearance(Composite([_at(BALL), _at(_no_surface(), 3.0)]), 0, 1)


@pytest.mark.parametrize("min_depth", [-1e-3, math.nan, math.inf])
def test_a_least_depth_must_be_a_number_from_zero(min_depth):
    with pytest.raises(ValueError, match="min_depth"):
        overlaps(Composite([]), min_depth=min_depth)
