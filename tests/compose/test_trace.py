import math

import pytest
import torch

from compose import Composite, Instance, Rays
from compose.cells import cells_of
from compose.reference import in_double, trace_reference
from objects import SE3
from objects.aabb import Aabb
from objects.field import Field, FieldSample
from objects.primitives import Box, Sphere, Torus
from objects.siren import SirenField


def _rays(origins, directions, **limits):
    origins, directions = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 3) for v in (origins, directions))
    directions = torch.nn.functional.normalize(directions.expand(len(origins), 3), dim=-1)
    return Rays(origins.expand(len(directions), 3), directions, **limits)


def _disagreements(instances, rays):
    """Rays on which trace and reference differ: another owner (ties within 1e-6 of the scene aside) or depth."""
    scene = Composite(instances)
    got, want = scene.trace(rays), trace_reference(in_double(instances), rays)
    gap = torch.where(got.t == want.t, 0.0, (got.t - want.t).abs())  # both inf: no gap
    tie = gap < 1e-6 * scene.size
    assert torch.equal(got.owner >= 0, torch.isfinite(got.t))
    assert torch.equal(scene.occluded(rays), torch.isfinite(got.t))
    return ((got.owner != want.owner) & ~tie) | (gap > 1e-4 * scene.size), want


@pytest.mark.parametrize(
    ("m", "n", "seed"), [(1, 600, 0), (1, 600, 1), (2, 500, 2), (5, 400, 3), (20, 300, 4), (20, 300, 5), (60, 150, 6)]
)
def test_trace_equals_the_dense_reference(fields, random_instances, random_rays, m, n, seed):
    instances = random_instances(fields, m, seed)
    wrong, want = _disagreements(instances, random_rays(instances, n, seed))
    assert int((want.owner >= 0).sum()) > 0.1 * n
    assert int(wrong.sum()) == 0


def test_trace_equals_the_reference_among_200_instances(fields, random_instances, random_rays):
    instances = random_instances(fields, 200, 7)
    wrong, want = _disagreements(instances, random_rays(instances, 60, 7))
    assert int((want.owner >= 0).sum()) > 20 and int(wrong.sum()) == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trace_equals_the_reference_where_everything_overlaps(fields, random_instances, random_rays, seed):
    """Origins are inside of boxes and of solids here, most of the time."""
    instances = random_instances(fields, 8, seed, spread=0.2)
    wrong, want = _disagreements(instances, random_rays(instances, 300, seed))
    assert int((want.owner >= 0).sum()) > 50 and int(wrong.sum()) == 0


def test_every_field_is_traced_as_its_reference(fields, random_rays):
    n_rays = n_wrong = 0
    for k, field in enumerate(fields):
        instances = [Instance(field.kind, field, SE3(torch.randn(4), torch.randn(3)), 1.5)]
        wrong, want = _disagreements(instances, random_rays(instances, 150, k))
        assert int((want.owner >= 0).sum()) > 10, field.kind
        n_rays, n_wrong = n_rays + len(wrong), n_wrong + int(wrong.sum())
    assert n_rays > 1800 and n_wrong == 0


def test_a_sphere_is_hit_where_the_equation_says():
    """From within its box to 200 m away; precision is 1e-6 of the box, or float32 networks' noise."""
    centre, radius = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), 0.8
    scene = Composite([Instance("ball", Sphere(0.4), SE3(torch.randn(4), centre), 2.0)])
    g = torch.Generator().manual_seed(0)
    away = torch.nn.functional.normalize(torch.randn(500, 3, generator=g, dtype=torch.float64), dim=-1)
    origins = centre + away * (0.81 * 250 ** torch.rand(500, 1, generator=g, dtype=torch.float64))
    aim = centre + 1.2 * radius * (torch.rand(500, 3, generator=g, dtype=torch.float64) - 0.5)
    rays = _rays(origins, aim - origins)
    along = ((centre - origins) * rays.directions).sum(-1)
    chord2 = radius**2 - ((centre - origins).square().sum(-1) - along**2)
    hits = scene.trace(rays)
    assert torch.equal(hits.owner == 0, chord2 > 0) and int((chord2 > 0).sum()) > 400
    hit = chord2 > 1e-4
    torch.testing.assert_close(hits.t[hit], (along - chord2.clamp(min=0).sqrt())[hit], rtol=0, atol=2e-5)


def test_a_ray_that_starts_in_a_solid_sees_nothing_of_it_until_it_has_left():
    ring = Instance("ring", Torus(1.0, 0.3), SE3.identity())
    small = Instance("small", Sphere(0.1), SE3.from_translation([1.0, 0.0, 0.0]))
    start, across = [[1.0, 0.15, 0.0]], [[-1.0, 0.0, 0.0]]
    far_side = -math.sqrt(1.3**2 - 0.15**2), -math.sqrt(0.7**2 - 0.15**2)
    hits = Composite([ring]).trace(_rays(start, across))
    assert hits.owner.tolist() == [0]
    assert float(hits.t) == pytest.approx(1.0 - far_side[1], abs=1e-5)
    # A solid inside of another is seen from between, and its own inside is not.
    scene = Composite([ring, small])
    inwards = scene.trace(_rays([[1.0, 0.25, 0.0], [1.0, 0.05, 0.0]], [[0.0, -1.0, 0.0]]))
    assert inwards.owner.tolist() == [1, -1]
    assert float(inwards.t[0]) == pytest.approx(0.15, abs=1e-5)


def test_nested_solids_are_hit_from_outside_at_the_outermost_and_from_within_at_the_next(random_rays):
    instances = [Instance(str(k), Sphere(1.0), SE3.identity(), s) for k, s in enumerate([0.5, 1.0, 1.5, 2.0])]
    away = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=-1)
    for radius, owner, expected in [(5.0, 3, 3.0), (1.8, 2, 0.3), (1.2, 1, 0.2), (0.7, 0, 0.2), (0.4, -1, math.inf)]:
        hits = Composite(instances).trace(_rays(radius * away, -away))
        assert bool((hits.owner == owner).all())
        torch.testing.assert_close(hits.t, torch.full((200,), expected).double(), rtol=0, atol=1e-5)
    wrong, _ = _disagreements(instances, random_rays(instances, 300, 0))
    assert int(wrong.sum()) == 0


@pytest.mark.parametrize("where", ["first", "last"])
def test_of_coincident_instances_the_lower_one_is_hit(fields, random_rays, where):
    for field in (fields[1], fields[6], fields[-1]):
        pose = SE3(torch.randn(4), torch.randn(3))
        same = [Instance(str(k), field, pose) for k in range(4)]
        other = [Instance("other", fields[0], SE3.from_translation([5.0, 0.0, 0.0]))]
        instances = other + same if where == "first" else same + other
        hits = Composite(instances).trace(random_rays(instances, 400, 0))
        lowest = 1 if where == "first" else 0
        met = set(hits.owner.tolist())
        assert lowest in met and met <= {-1, lowest, 0 if where == "first" else 4}


def test_rays_along_axes_faces_and_edges_equal_the_reference():
    brick = Box([1.0, 0.8, 0.6])
    pair = [Instance("a", brick, SE3.identity()), Instance("b", brick, SE3.from_translation([1.5, 0.0, 0.0]), 0.5)]
    lo, hi = brick.box_lo.double(), brick.box_hi.double()
    origins, directions = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            direction = torch.zeros(3).double()
            direction[axis] = sign
            for place in (lo, hi, 0.5 * lo, torch.zeros(3).double(), torch.tensor([0.5, 0.4, 0.3]).double()):
                for start in (-3.0, 0.0):
                    origin = place.clone()
                    origin[axis] = start * sign
                    origins.append(origin)
                    directions.append(direction)
    rays = _rays(torch.stack(origins), torch.stack(directions))
    wrong, want = _disagreements(pair, rays)
    # Rays exactly along the faces of a solid have sdf = 0 up to rounding all along: not decided by the rule.
    on_face = ((rays.origins.abs() - torch.tensor([0.5, 0.4, 0.3])).abs() < 1e-6).any(-1)
    assert int((~on_face).sum()) >= 40 and int((wrong & ~on_face).sum()) == 0
    assert int((want.owner >= 0).sum()) > 10


def test_nearly_axis_parallel_rays_equal_the_reference(sirens, random_rays):
    instances = [Instance("a", sirens[0], SE3.identity()), Instance("b", sirens[2], SE3.from_translation([0.6, 0, 0]))]
    g = torch.Generator().manual_seed(3)
    origins = torch.rand(300, 3, generator=g, dtype=torch.float64) - 0.5
    origins[:, 2] = 2.0
    directions = torch.zeros(300, 3, dtype=torch.float64)
    directions[:, 2] = -1.0
    directions[:, 0] = 10.0 ** -torch.randint(5, 300, (300,), generator=g).double()
    wrong, want = _disagreements(instances, _rays(origins, directions))
    assert int((want.owner >= 0).sum()) > 30 and int(wrong.sum()) == 0


def test_rays_along_the_borders_of_cells_equal_the_reference(solids):
    """These rays stay on faces, edges and corners of the cells of the ball's index."""
    ball = solids[0]
    cells = cells_of(ball, None)
    lo, cell = ball.box_lo.double(), torch.from_numpy(cells.cell)
    u = torch.randint(0, 4 * min(cells.block.shape) + 1, (300, 3), generator=torch.Generator().manual_seed(0)).double()
    origins = lo + u * cell
    directions = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 1.0], [1.0, -1.0, 1.0]]).double().repeat(75, 1)
    origins = origins - 2.0 * torch.nn.functional.normalize(directions, dim=-1)
    wrong, want = _disagreements([Instance("ball", ball, SE3.identity())], _rays(origins, directions))
    assert int((want.owner >= 0).sum()) > 50 and int(wrong.sum()) == 0


def test_limits_cut_rays(solids):
    scene = Composite([Instance("ball", Sphere(0.5), SE3.identity())])
    start, ahead = [[-2.0, 0.1, 0.0]], [[1.0, 0.0, 0.0]]
    enter, leave = 2 - math.sqrt(0.24), 2 + math.sqrt(0.24)
    for t_min, t_max, hit in [
        (0.0, math.inf, True),
        (0.0, enter + 1e-4, True),
        (0.0, enter - 1e-4, False),
        (enter - 1e-4, enter + 1e-4, True),
        (enter + 1e-4, math.inf, False),
        (leave + 1e-4, math.inf, False),
        (1.7, 1.7, False),
        (3.0, 2.0, False),
        (-5.0, math.inf, True),
        (0.0, 0.0, False),
    ]:
        rays = _rays(start, ahead, t_min=t_min, t_max=t_max)
        hits = scene.trace(rays)
        assert bool(torch.isfinite(hits.t[0])) == hit == bool(scene.occluded(rays)[0]), (t_min, t_max)
        assert not hit or float(hits.t[0]) == pytest.approx(enter, abs=1e-5)


def test_limits_of_their_own_for_each_ray_equal_the_reference(fields, random_instances, random_rays):
    instances = random_instances(fields, 8, 2, spread=0.6)
    rays = random_rays(instances, 300, 2)
    t_min, length = 0.8 * Composite(instances).size * torch.rand(2, 300, dtype=torch.float64)
    rays = Rays(rays.origins, rays.directions, t_min, t_min + length)
    wrong, want = _disagreements(instances, rays)
    assert 20 < int((want.owner >= 0).sum()) < 280 and int(wrong.sum()) == 0


def test_a_negative_t_min_finds_what_lies_behind_the_origin():
    scene = Composite([Instance("ball", Sphere(0.5), SE3.identity())])
    origins = torch.tensor([[3.0, 0.01 * k, 0.0] for k in range(-20, 20)], dtype=torch.float64)
    hits = scene.trace(_rays(origins, [[1.0, 0.0, 0.0]], t_min=-10.0))
    torch.testing.assert_close(hits.t, -3.0 - (0.25 - origins[:, 1] ** 2).sqrt(), rtol=0, atol=1e-5)
    assert torch.isinf(scene.trace(_rays(origins, [[1.0, 0.0, 0.0]])).t).all()


def test_a_ray_that_starts_on_the_surface_leaves_it_without_a_hit():
    """As shadow rays do: outwards nothing is met, neither of the convex solid nor behind it."""
    scene = Composite([Instance("ball", Sphere(0.5), SE3.identity())])
    away = torch.nn.functional.normalize(torch.randn(300, 3, dtype=torch.float64), dim=-1)
    assert not bool(scene.occluded(_rays(0.5 * away, away, t_min=1e-5)).any())
    through = scene.trace(_rays(0.5 * away, -away, t_min=1e-5))
    assert bool((through.owner == -1).all())  # it starts inside and leaves on the other side


@pytest.mark.parametrize("share", [100, 500])
def test_thin_plates_are_not_missed(share, random_rays):
    """Plates thinner than a cell of their index, in a cubic box: rays across are stopped, whatever their angle."""
    plate = Box([1.0, 1.0, 1 / share])
    plate.box_lo, plate.box_hi = torch.full((3,), -0.52), torch.full((3,), 0.52)
    turned = SE3.from_axis_angle([1.0, 2.0, 3.0], 0.4)
    g = torch.Generator().manual_seed(share)
    inside = (torch.rand(2000, 3, generator=g, dtype=torch.float64) - 0.5) * torch.tensor([0.9, 0.9, 0.0])
    directions = torch.nn.functional.normalize(torch.randn(2000, 3, generator=g, dtype=torch.float64), dim=-1)
    slanted = directions[:, 2].abs() > 0.05
    origins = inside[slanted] - 2.0 * directions[slanted]
    hits = Composite([Instance("plate", plate, turned)]).trace(
        _rays(turned @ origins, directions[slanted] @ turned.rotation().T)
    )
    assert bool((hits.owner == 0).all())
    expected = 2.0 - 0.5 / share / directions[slanted, 2].abs()
    torch.testing.assert_close(hits.t, expected, rtol=0, atol=2e-5)


def test_an_empty_scene_and_no_rays_give_no_hits(solids):
    away = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=-1)
    hits = Composite([]).trace(_rays(away, away))
    assert hits.owner.tolist() == [-1] * 20 and bool(torch.isinf(hits.t).all())
    assert not bool(Composite([]).occluded(_rays(away, away)).any())
    none = Composite([Instance("ball", solids[0], SE3.identity())]).trace(_rays(away[:0], away[:0]))
    assert none.t.shape == (0,) and none.owner.shape == (0,)


def test_rays_from_very_far_come_to_an_end_and_hit():
    """Where float64 is coarser along the ray than the wanted precision."""
    scene = Composite([Instance("ball", Sphere(0.5), SE3.identity())])
    distance = torch.tensor([1e4, 1e8, 1e12, 1e15], dtype=torch.float64)
    origins = torch.stack([torch.zeros(4), torch.zeros(4), distance], -1)
    hits = scene.trace(_rays(origins, [[0.0, 0.0, -1.0]]))
    assert hits.owner.tolist()[:3] == [0, 0, 0]
    assert bool(((hits.t - (distance - 0.5)).abs() < 1e-5 + 1e-15 * distance)[:3].all())


@pytest.mark.parametrize("share", [0.02, 1.0])
def test_a_scene_moved_into_place_equals_a_new_one_bit_for_bit(fields, random_instances, random_rays, share):
    before, after = (random_instances(fields, 60, 1), random_instances(fields, 60, 2))
    ids = list(range(0, 60, max(1, int(1 / share / 4))))
    poses = SE3.stack([after[i].T_world_obj for i in ids])
    old = Composite(before)
    rays = random_rays(before, 2000, 0)
    seen = old.trace(rays)
    moved = old.with_poses(ids, poses)
    fresh = Composite([i if k not in ids else i.with_pose(after[k].T_world_obj) for k, i in enumerate(before)])
    for a, b in zip(moved.trace(rays), fresh.trace(rays), strict=True):
        assert torch.equal(a, b)
    p = rays.at(torch.ones(2000, dtype=torch.float64))
    for band in (math.inf, 0.2):
        for a, b in zip(moved.query(p, band=band), fresh.query(p, band=band), strict=True):
            assert torch.equal(a, b)
    again = old.trace(rays)
    assert torch.equal(again.t, seen.t) and torch.equal(again.owner, seen.owner)
    assert not torch.equal(moved.trace(rays).t, seen.t)
    assert moved.arrays.assets is old.arrays.assets  # what did not move is shared


def test_a_scene_built_in_another_order_gives_the_same_bits(fields, random_instances, random_rays):
    instances = random_instances(fields, 50, 4)
    order = torch.randperm(50).tolist()
    rays = random_rays(instances, 2000, 1)
    one, other = Composite(instances), Composite([instances[k] for k in order])
    a, b = one.trace(rays), other.trace(rays)
    assert torch.equal(a.t, b.t)
    back = torch.tensor([*order, -1])  # -1 takes the last
    assert torch.equal(a.owner, back[b.owner])
    p = rays.at(torch.ones(2000, dtype=torch.float64))
    q, r = one.query(p), other.query(p)
    assert torch.equal(q.owner, back[r.owner])
    for x, y in ((q.sdf, r.sdf), (q.rgb, r.rgb), (q.feature, r.feature)):
        assert torch.equal(x, y)


def test_the_same_question_twice_gives_the_same_bits(fields, random_instances, random_rays):
    instances = random_instances(fields, 30, 9)
    rays = random_rays(instances, 2000, 2)
    first, second = Composite(instances).trace(rays), Composite(instances).trace(rays)
    assert torch.equal(first.t, second.t) and torch.equal(first.owner, second.owner)


def test_occluded_equals_a_finite_trace_for_any_limits(fields, random_instances, random_rays):
    instances = random_instances(fields, 40, 5, spread=1.0)
    rays = random_rays(instances, 3000, 3)
    scene = Composite(instances)
    t_min = 2 * torch.rand(3000, dtype=torch.float64)
    rays = Rays(rays.origins, rays.directions, t_min, t_min + 2 * torch.rand(3000, dtype=torch.float64))
    finite = torch.isfinite(scene.trace(rays).t)
    assert 300 < int(finite.sum()) < 2700
    assert torch.equal(scene.occluded(rays), finite)


def test_networks_are_asked_few_times_for_each_hit(sirens, random_instances, random_rays):
    instances = random_instances(sirens, 30, 6)
    rays = random_rays(instances, 3000, 4)
    scene = Composite(instances)
    count = scene.trace_count(rays)
    n_hits = int((scene.trace(rays).owner >= 0).sum())
    assert count.rays >= 3000 and n_hits > 300
    assert count.evaluations < 8 * n_hits and count.candidates < 3 * n_hits
    assert count.repeated < 0.01 * 3000


class Broken(Field):
    """Not a number at one place."""

    def __init__(self):
        super().__init__(Sphere(0.5).bounds)

    def inside(self, p_obj, time):
        sdf = torch.where(p_obj[:, 0] > 0.4, math.nan, p_obj.norm(dim=-1) - 0.5)
        return FieldSample(sdf, torch.ones_like(p_obj), p_obj[:, :0])


def test_a_field_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="Broken: expected finite distances"):
        Composite([Instance("broken", Broken(), SE3.identity())]).trace(_rays([[0.0, 0, 2]], [[0.0, 0, -1]]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"origins": torch.full((2, 3), math.nan)}, "origins must be finite"),
        ({"origins": torch.zeros(2, 2)}, r"origins must have shape \[n, 3\], got \[2, 2\]"),
        ({"origins": torch.tensor(0.0)}, "origins must have shape"),
        ({"origins": [[0.0, 0.0, 0.0]] * 2}, "origins must be a floating point tensor"),
        ({"directions": torch.zeros(2, 3)}, "directions must have length 1, got one of length 0"),
        ({"directions": torch.tensor([[0.0, 0, 1], [0, 0, 2]])}, "directions must have length 1, got one of length 2"),
        ({"directions": torch.tensor([[0.0, 0, 1], [0, 0, math.inf]])}, "directions must be finite"),
        ({"directions": torch.tensor([[0.0, 0, 1]])}, r"directions must have shape \[n, 3\], got \[1, 3\]"),
        (
            {"directions": torch.tensor([[0, 0, 1], [0, 0, 1]])},
            "directions must be a floating point tensor, got torch.int64",
        ),
        ({"t_min": math.nan}, "t_min must not be NaN"),
        ({"t_max": torch.tensor([1.0, math.nan])}, "t_max must not be NaN"),
        ({"t_max": torch.ones(3)}, r"t_max must be a number or of shape \[2\], got \[3\]"),
    ],
)
def test_bad_rays_are_refused_by_name(arguments, words):
    good = {"origins": torch.zeros(2, 3), "directions": torch.tensor([[0.0, 0.0, 1.0]]).repeat(2, 1)}
    with pytest.raises(ValueError, match=words):
        Rays(**good | arguments)


class _Corrugated(Field):
    """A plate with a rippled top: a ray that grazes it goes in and out many times within a few cells of the index."""

    def __init__(self, waves: float) -> None:
        half = torch.tensor([0.5, 0.5, 0.4])
        super().__init__(Aabb(-half, half), lipschitz=1.0 + 0.02 * waves)
        self.waves = waves

    def inside(self, p_obj, time):
        x, y, z = p_obj.unbind(-1)
        top = z.abs() - 0.2 + 0.02 * torch.sin(self.waves * x) * torch.cos(0.7 * self.waves * y)
        side = torch.maximum(x.abs(), y.abs()) - 0.45
        return FieldSample(torch.maximum(top, side), torch.full_like(p_obj, 0.5), p_obj[:, :0])


@pytest.mark.parametrize("waves", [40.0, 60.0])
def test_a_ray_that_goes_in_and_out_within_a_few_cells_hits_where_it_goes_in_first(waves):
    g = torch.Generator().manual_seed(0)

    def between(lo, hi):
        return lo + (hi - lo) * torch.rand(1500, generator=g, dtype=torch.float64)

    far = torch.full((1500,), 2.0, dtype=torch.float64)
    origins = torch.stack([-far, between(-0.6, 0.6), between(0.17, 0.32)], -1)
    targets = torch.stack([far, between(-0.6, 0.6), between(0.1, 0.23)], -1)
    rays, plate = _rays(origins, targets - origins), Instance("plate", _Corrugated(waves), SE3.identity())
    wrong, want = _disagreements([plate], rays)
    assert (want.owner >= 0).sum() > 900
    # The reference looks every 1/2,000 of the diagonal. Where a ray dips into a ripple for less than that, an earlier hit is right
    # if the field, in float64, is positive before and negative at it, to the precision at which depths are compared.
    scene, exact = Composite([plate]), plate.field.in_double()
    t, near = scene.trace(rays).t, 1e-4 * scene.size
    for k in wrong.nonzero()[:, 0]:
        assert t[k] < want.t[k]
        around = t[k] + near * torch.linspace(-1, 1, 201, dtype=torch.float64)
        sdf = exact.sdf(rays.origins[k] + around[:, None] * rays.directions[k])
        assert sdf[0] > 0 and sdf.min() < 0
    assert int(wrong.sum()) <= 1


def _rippled():
    """A slope across x with a ripple that samples of 24 cells along each edge see only at its crests."""
    field = SirenField(
        Aabb(-torch.ones(3), torch.ones(3)), width=2, layers=1, color_width=1, color_layers=1, omega_first=1.0
    )
    values = ([[0.5 * math.pi, 0, 0], [48 * math.pi, 0, 0]], [0, 0.5 * math.pi], [[1.0, 0.05]], [0.0])
    with torch.no_grad():
        for parameter, value in zip(field.distance.parameters(), values, strict=True):
            parameter.copy_(torch.tensor(value))
    return field.requires_grad_(False)


def test_with_a_certified_index_a_trace_finds_ripples_that_hide_from_the_samples(monkeypatch):
    monkeypatch.setattr("compose.sampled_cells.BYTES", 1)  # the coarsest cells: 24
    monkeypatch.setattr("compose.certified_cells.BYTES", 8_000)
    g = torch.Generator().manual_seed(0)
    ends = 2 * torch.rand(2, 200, 3, generator=g, dtype=torch.float64) - 1
    ends[0, :, 0], ends[1, :, 0] = 2.0, -2.0
    rays, instances = _rays(ends[0], ends[1] - ends[0]), [Instance("slope", _rippled(), SE3.identity())]
    want = trace_reference(in_double(instances), rays)
    sampled = Composite(instances)
    certified = sampled.certified()
    gaps = [(scene.trace(rays).t - want.t).abs() > 1e-4 * scene.size for scene in (sampled, certified)]
    assert (want.owner == 0).all() and gaps[0].sum() > 100
    assert not gaps[1].any() and certified.occluded(rays).all()


def test_a_certified_trace_equals_the_reference_and_primitives_stay_sampled(
    fields, random_instances, random_rays, monkeypatch
):
    monkeypatch.setattr("compose.certified_cells.BYTES", 12_000)
    instances = random_instances(fields, 20, 4)
    rays = random_rays(instances, 300, 4)
    scene = Composite(instances).certified()
    got, want = scene.trace(rays), trace_reference(in_double(instances), rays)
    gap = torch.where(got.t == want.t, 0.0, (got.t - want.t).abs())
    tie = gap < 1e-6 * scene.size
    assert int((want.owner >= 0).sum()) > 30
    assert not (((got.owner != want.owner) & ~tie) | (gap > 1e-4 * scene.size)).any()
    proven = scene.arrays.assets.cells.proven
    assert proven.any() and not proven.all()


def test_a_moved_certified_scene_stays_certified(fields):
    scene = Composite([Instance("a", fields[0], SE3.identity())]).certified()
    moved = scene.with_poses([0], SE3.from_translation([(1.0, 0.0, 0.0)]))
    assert moved.arrays.assets is scene.arrays.assets


def test_of_a_thousand_coincident_objects_the_first_is_hit_at_the_price_of_one(fields, random_rays):
    for field in fields:
        pose = SE3(torch.tensor([0.9, 0.1, 0.3, 0.2]), torch.tensor([0.1, 0.2, 0.3]))
        one, many = [Instance("one", field, pose)], [Instance(str(i), field, pose) for i in range(1000)]
        other = Instance("other", field, SE3.from_translation((0.4, 0.0, 0.0)))
        rays = random_rays(one, 100, 0)
        one, many = Composite([*one, other]), Composite([*many, other])
        want, got = one.trace(rays), many.trace(rays)
        assert torch.equal(got.t, want.t) and (want.owner == 0).any()
        assert torch.equal(got.owner, torch.where(want.owner == 1, 1000, want.owner))
        assert many.trace_count(rays).evaluations == one.trace_count(rays).evaluations
        p = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert torch.equal(many.query(p).sdf, one.query(p).sdf)
        # The last steps aside: from then on it is one of its own.
        moved = many.with_poses([999], SE3.from_translation([(5.0, 0.0, 0.0)]))
        side = moved.query(torch.tensor([[5.0, 0.0, 0.0]], dtype=torch.float64))
        assert side.owner.tolist() == [999]
