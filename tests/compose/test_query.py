import gc
import math
import tracemalloc

import numpy as np
import pytest
import torch

from compose import Composite, Instance
from compose.reference import in_double, query_reference
from objects import SE3, Aabb, SirenField
from objects.field import TINT
from objects.primitives import Box, Sphere


def _points(instances, n, seed):
    """Around the scene, near centres, and far away."""
    g = torch.Generator().manual_seed(seed)
    bounds = Composite(instances).bounds
    p = bounds.center + 1.5 * bounds.size * (torch.rand(n, 3, generator=g, dtype=torch.float64) - 0.5)
    centres = torch.stack([i.T_world_obj.translation for i in instances])
    pick = torch.randint(len(instances), (n,), generator=g)
    near = centres[pick] + 0.3 * torch.randn(n, 3, generator=g, dtype=torch.float64)
    which = torch.arange(n) % 10
    p = torch.where((which < 5)[:, None], near, p)
    return torch.where((which == 9)[:, None], 1000 * (p - bounds.center), p)


def _assert_same_as_reference(instances, p):
    reference = in_double(instances)
    got, want = Composite(instances).query(p), query_reference(reference, p)
    # float32 networks: 1e-5 of a box; positions far away: the rounding of float32 in the object frame.
    room = 2e-5 + 2e-6 * want.sdf.abs()
    assert bool(((got.sdf - want.sdf).abs() <= room).all()), float((got.sdf - want.sdf).abs().max())
    same = got.owner == want.owner
    # Another owner only where both are equally far, and then its own look.
    for k in (~same).nonzero()[:, 0].tolist():
        alone = query_reference([reference[int(got.owner[k])]], p[k : k + 1])
        assert abs(float(alone.sdf[0]) - float(want.sdf[k])) <= float(room[k])
    torch.testing.assert_close(got.rgb[same], want.rgb[same], rtol=0, atol=1e-4)
    torch.testing.assert_close(got.feature[same], want.feature[same], rtol=0, atol=1e-3)
    return float(same.double().mean())


@pytest.mark.parametrize(("m", "seed"), [(1, 0), (1, 1), (2, 2), (3, 3), (7, 4), (7, 5), (25, 6), (80, 7), (200, 8)])
def test_query_equals_the_dense_reference(fields, random_instances, m, seed):
    instances = random_instances(fields, m, seed)
    assert _assert_same_as_reference(instances, _points(instances, 400, seed)) > 0.999


@pytest.mark.parametrize("seed", range(4))
def test_query_equals_the_reference_where_everything_overlaps(fields, random_instances, seed):
    instances = random_instances(fields, 15, seed, spread=0.1)
    assert _assert_same_as_reference(instances, _points(instances, 300, seed)) > 0.99


def test_query_equals_the_reference_where_solids_are_nested(solids):
    """Balls in balls, each again in a box: inside, the deepest one wins, whose box is not the nearest."""
    ball, brick = solids[0], Box([2.0, 2.0, 2.0])
    instances = [Instance(f"ball {k}", ball, SE3.identity(), 0.5 + 0.5 * k) for k in range(6)]
    instances += [Instance("brick", brick, SE3.from_translation([0.2, 0.0, 0.0]), 0.4)]
    assert _assert_same_as_reference(instances, _points(instances, 600, 0)) > 0.999


def test_in_float64_query_is_the_reference(fields, random_instances):
    instances = in_double(random_instances(fields, 20, 11))
    p = _points(instances, 300, 11)
    with torch.no_grad():
        got, want = Composite(instances).query(p), query_reference(instances, p)
    assert torch.equal(got.owner, want.owner)
    for a, b in ((got.sdf, want.sdf), (got.rgb, want.rgb), (got.feature, want.feature)):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("band", [0.02, 0.2, 1.5])
@pytest.mark.parametrize("m", [1, 6, 60])
def test_a_band_gives_the_union_within_and_a_lower_bound_beyond(fields, random_instances, m, band):
    instances = in_double(random_instances(fields, m, m))
    p = _points(instances, 250, m)
    with torch.no_grad():
        got, want = Composite(instances).query(p, band=band), query_reference(instances, p)
    within = want.sdf <= band
    assert within.any() and (~within).any()
    torch.testing.assert_close(got.sdf[within], want.sdf[within], rtol=1e-11, atol=1e-11)
    assert torch.equal(got.owner[within], want.owner[within])
    torch.testing.assert_close(got.rgb[within], want.rgb[within], rtol=1e-11, atol=1e-11)
    assert bool((got.owner[~within] == -1).all())
    assert bool((got.rgb[~within] == 0).all()) and bool((got.feature[~within] == 0).all())
    assert bool((got.sdf[~within] <= want.sdf[~within] + 1e-9).all())  # the boxes of instances are a hair wider
    assert bool((got.sdf[~within] > band * (1 - 1e-9)).all())


def _box_distance(instance, p):
    q = (instance.T_world_obj.inverse() @ p) / instance.scale
    return instance.scale * (q - q.clamp(instance.field.box_lo, instance.field.box_hi)).norm(dim=-1)


def test_beyond_its_band_a_query_says_the_least_of_what_was_asked_and_the_nearest_box(solids, random_instances):
    instances = in_double(random_instances(solids, 12, 5))
    p, band = _points(instances, 400, 5), 0.3
    got, want = Composite(instances).query(p, band=band), query_reference(instances, p)
    boxes = torch.stack([_box_distance(i, p) for i in instances])
    each = torch.stack([query_reference([i], p).sdf for i in instances])
    routed = torch.where(boxes < band, each, boxes).min(0).values
    beyond = want.sdf > band
    # The nearest box is always asked, so the answer may be the better bound of the two.
    assert bool((got.sdf[beyond] >= routed[beyond] - 1e-9).all())
    assert bool((got.sdf[beyond] <= want.sdf[beyond] + 1e-9).all())


def test_equal_distances_go_to_the_lower_instance(solids):
    ball, brick, pose = solids[0], solids[1], SE3.from_translation([1.0, 2.0, 3.0])
    instances = [Instance("brick", brick, SE3.identity())] + [Instance(str(k), ball, pose) for k in range(5)]
    p = torch.tensor([1.0, 2.0, 3.0]) + torch.randn(100, 3) * 0.3
    for order in (instances, instances[::-1]):
        owner = Composite(order).query(p.double()).owner
        lowest = min(k for k, i in enumerate(order) if i.field is ball)
        assert bool((owner == lowest).all())


def test_equal_distances_of_two_places_go_to_the_lower_instance():
    ball = Sphere(0.25).double()
    left, right = (Instance(n, ball, SE3.from_translation([x, 0.0, 0.0])) for n, x in (("left", -1.0), ("right", 1.0)))
    between = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, -0.5]], dtype=torch.float64)
    assert Composite([left, right]).query(between).owner.tolist() == [0, 0]
    assert Composite([right, left]).query(between).owner.tolist() == [0, 0]


def test_missing_features_are_zeros_and_the_width_is_the_widest(solids):
    two, none, five = solids[0], solids[4], solids[8]
    scene = Composite(
        [Instance(str(k), f, SE3.from_translation([2.0 * k, 0, 0])) for k, f in enumerate((two, none, five))]
    )
    got = scene.query(torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [4.2, 0.1, 0.1]]))
    assert scene.feature_width == 5 and got.owner.tolist() == [0, 1, 2]
    assert got.feature.tolist() == [[0.5, -1, 0, 0, 0], [0] * 5, [1, 2, 3, 4, 5]]


def test_channels_of_other_names_and_widths_share_a_scene():
    box = Aabb(torch.full((3,), -0.5), torch.full((3,), 0.5))
    fields = [
        SirenField(box, width=8, color_width=8, seed=1, feature_width=2, channels={"semantic": 4}),
        SirenField(box, width=8, color_width=8, seed=2, channels={"semantic": 3, "albedo": 3}),
        Sphere(0.3, feature=torch.tensor([1.0, 2.0, 3.0])),
    ]
    scene = Composite([Instance(str(k), f, SE3.from_translation([3.0 * k, 0, 0])) for k, f in enumerate(fields)])
    assert scene.channels == {"albedo": 3, "feature": 3, "semantic": 4} and scene.feature_width == 3
    p_obj, owner = torch.tensor([[0.1, -0.2, 0.3]]).expand(3, 3), torch.arange(3)
    p_world = p_obj + 3.0 * owner[:, None] * torch.tensor([1.0, 0.0, 0.0])
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            samples = scene.query(p_world), scene.evaluate(p_world, owner)
        for got in (*samples, query_reference(in_double(scene.instances), p_world.double())):
            assert got.channel("unheard").shape == (3, 0)
            for name, width in scene.channels.items():
                want = torch.zeros(3, width)
                for k, field in enumerate(fields):
                    own = field(p_obj[k : k + 1]).channel(name)
                    want[k, : own.shape[1]] = own[0]
                torch.testing.assert_close(got.channel(name), want.double(), rtol=0, atol=1e-5)


def test_grids_are_asked_by_name():
    box = Aabb(torch.full((3,), -0.5), torch.full((3,), 0.5))
    seen = SirenField(box, width=8, color_width=8, observed=True)
    seen.observed[0, 15, 8] = 0.75
    scene = Composite([Instance("seen", seen, SE3.identity(), 2.0), Instance("plain", Sphere(1.0), SE3.identity())])
    p = torch.tensor([[-0.99, 0.99, 0.01], [0.0, 0.0, 0.0], [-0.99, 0.99, 0.01]])
    owner = torch.tensor([0, 0, 1])
    assert scene.observed(p, owner).tolist() == [0.75, 0.0, 1.0]
    assert scene.grid_values("observed", p, owner).tolist() == [0.75, 0.0, 0.0]
    assert scene.grid_values("unheard", p, owner, missing=0.5).tolist() == [0.5] * 3
    with pytest.raises(ValueError, match="owner must be from 0 to 1"):
        scene.observed(p, owner + 1)


def test_an_empty_scene_is_far_from_everything():
    scene = Composite([])
    got = scene.query(torch.zeros(3, 3))
    assert bool((got.sdf == math.inf).all()) and got.owner.tolist() == [-1] * 3
    assert got.rgb.shape == (3, 3) and got.feature.shape == (3, 0)
    assert len(scene) == 0 and scene.bounds is None and scene.size == 0
    moved = scene.with_poses([], SE3.identity((0,)))
    assert len(moved) == 0 and bool((moved.query(torch.zeros(3, 3), band=0.1).sdf == math.inf).all())


def test_no_points_give_no_answers(solids):
    got = Composite([Instance("ball", solids[0], SE3.identity())]).query(torch.zeros(0, 3))
    assert got.sdf.shape == (0,) and got.rgb.shape == (0, 3) and got.feature.shape == (0, 2)


def test_scaled_instances_scale_distances(solids):
    got = Composite([Instance("ball", Sphere(1.0), SE3.from_translation([0, 0, 1.0]), 3.0)]).query(
        torch.tensor([[0.0, 0.0, 1.0], [0.0, 3.5, 1.0], [0.0, 0.0, 3.0]])
    )
    expected = torch.tensor([-3.0, 0.5, -1.0], dtype=torch.float64)
    torch.testing.assert_close(got.sdf, expected, rtol=0, atol=2e-6)


def test_evaluate_gives_the_named_instances_and_unit_normals(fields, random_instances):
    instances = in_double(random_instances(fields, 8, 3))
    p = _points(instances, 200, 3)[:150]
    owner = torch.arange(len(p)) % 8
    got = Composite(instances).evaluate(p, owner)
    for k, instance in enumerate(instances):
        rows = owner == k
        q = p[rows].requires_grad_()
        want = query_reference([instance], q)
        (slope,) = torch.autograd.grad(want.sdf.sum(), q)
        torch.testing.assert_close(got.sdf[rows].detach(), want.sdf.detach(), rtol=1e-11, atol=1e-11)
        normal = slope / slope.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(got.normal[rows].detach(), normal, rtol=1e-8, atol=1e-8)
        width = want.feature.shape[1]
        torch.testing.assert_close(got.feature[rows, :width].detach(), want.feature.detach(), rtol=1e-11, atol=1e-11)


@pytest.fixture(scope="module")
def ball_scene():
    return Composite([Instance("ball", Sphere(0.5), SE3.identity()), Instance("other", Sphere(0.5), SE3.identity())])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.query(torch.full((2, 3), math.nan)), "p_world must be finite"),
        (lambda c: c.query(torch.full((2, 3), math.inf)), "p_world must be finite"),
        (lambda c: c.query(torch.zeros(3)), r"p_world must have shape \[n, 3\], got \[3\]"),
        (lambda c: c.query(torch.zeros(2, 4)), r"p_world must have shape \[n, 3\], got \[2, 4\]"),
        (lambda c: c.query(torch.zeros(1, 3), band=0.0), "band must be greater than 0, got 0"),
        (lambda c: c.query(torch.zeros(1, 3), band=-1.0), "band must be greater than 0, got -1"),
        (lambda c: c.query(torch.zeros(1, 3), band=math.nan), "band must be greater than 0, got nan"),
        (lambda c: c.evaluate(torch.zeros(2, 3), torch.tensor([0, 2])), r"owner must be from 0 to 1, got 0\.\.2"),
        (lambda c: c.evaluate(torch.zeros(2, 3), torch.tensor([-1, 0])), "owner must be from 0 to 1"),
        (lambda c: c.evaluate(torch.zeros(2, 3), torch.tensor([0])), "owner must have shape"),
        (
            lambda c: c.evaluate(torch.zeros(2, 3), torch.tensor([0, 0]), torch.zeros(3)),
            r"directions must have shape \[2, 3\], got \[3\]",
        ),
        (lambda c: c.with_poses([2], SE3.identity((1,))), r"ids must be from 0 to 1, got 2\.\.2"),
        (lambda c: c.with_poses([-1], SE3.identity((1,))), "ids must be from 0 to 1"),
        (lambda c: c.with_poses([0, 0], SE3.identity((2,))), "ids must not repeat"),
        (lambda c: c.with_poses([0, 1], SE3.identity((1,))), "batch of 2 poses"),
        (lambda c: c.with_poses([0], SE3.identity()), "batch of 1 poses"),
        (lambda c: c.with_poses([0.5], SE3.identity((1,))), "ids must be whole numbers"),
        (lambda c: Composite(["ball"]), "instances must be Instance objects, got str"),
    ],
)
def test_bad_questions_are_refused_by_name(ball_scene, call, words):
    with pytest.raises(ValueError, match=words):
        call(ball_scene)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scale": 0.0}, "scale must be finite and greater than 0, got 0"),
        ({"scale": -2.0}, "scale must be finite and greater than 0, got -2"),
        ({"scale": math.nan}, "scale must be finite and greater than 0, got nan"),
        ({"scale": math.inf}, "scale must be finite and greater than 0, got inf"),
        ({"scale": torch.ones(2)}, "scale must be one number"),
        ({"time": math.nan}, "time must be finite"),
        ({"T_world_obj": SE3.identity((2,))}, "must be one pose"),
        ({"T_world_obj": torch.eye(4)}, "T_world_obj must be an SE3, got Tensor"),
        ({"field": "ball"}, "field must be a Field, got str"),
    ],
)
def test_bad_instances_are_refused_by_name(arguments, words):
    good = {"name": "ball", "field": Sphere(1.0), "T_world_obj": SE3.identity()}
    with pytest.raises(ValueError, match=words):
        Instance(**good | arguments)


@pytest.mark.parametrize(
    ("quat", "trans", "words"),
    [
        ((1.0, 0, 0, 0), (math.nan, 0, 0), "expected finite numbers"),
        ((1.0, 0, 0, 0), (0, math.nan, 0), "expected finite numbers"),
        ((1.0, 0, 0, 0), (0, 0, -math.inf), "expected finite numbers"),
        ((math.nan, 0, 0, 0), (0, 0, 0), "expected finite numbers"),
        ((math.inf, 0, 0, 0), (0, 0, 0), "expected finite numbers"),
        ((0.0, 0, 0, 0), (0, 0, 0), "must not have zero length"),
        ((1.0, 0, 0, 0), (0, 0, 1e12), r"at most 1e\+09 times its own size.*'cube' at \[0.0, 0.0, 1000000000000.0\]"),
    ],
)
def test_a_move_to_no_place_is_refused_and_changes_nothing(quat, trans, words):
    scene = Composite([Instance(name, Box((1.0, 1, 1)), SE3.identity()) for name in ("a", "cube")])
    points = torch.tensor([[0.0, 0, 2]], dtype=torch.float64)
    before = scene.query(points).sdf
    pose = SE3.unchecked(*(torch.tensor([v], dtype=torch.float64) for v in (quat, trans)))
    with pytest.raises(ValueError, match=words):
        scene.with_poses([1], pose)
    with pytest.raises(ValueError, match=words):
        Composite.from_columns(["cube"], [Box((1.0, 1, 1))], pose, torch.ones(1))
    assert torch.equal(scene.query(points).sdf, before)


@pytest.mark.parametrize("m", [1, 2, 3, 40])
def test_what_is_moved_holds_the_numbers_of_what_is_built(m):
    generator = torch.Generator().manual_seed(m)
    quat, other = (torch.randn(m, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    trans = torch.randn(m, 3, generator=generator, dtype=torch.float64)
    scale = 0.5 + torch.rand(m, generator=generator, dtype=torch.float64)
    fields = [Box((0.2, 0.3, 0.4))] * m
    names = [str(k) for k in range(m)]
    built = Composite.from_columns(names, fields, SE3(quat, trans), scale)
    old = Composite.from_columns(names, fields, SE3(other, trans + 1), scale)
    kept = [v.copy() for v in (old.arrays.quat, *old.arrays.transforms[:2], old.arrays.tree.lo, old.arrays.tree.hi)]
    moved = old
    for k in range(m):  # one by one, each from the last
        moved = moved.with_poses([k], SE3(quat[k : k + 1].clone(), trans[k : k + 1].clone()))
    assert np.array_equal(moved.arrays.quat, built.arrays.quat)
    for a, b in zip(moved.arrays.transforms, built.arrays.transforms, strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(moved.arrays.box_lo, built.arrays.box_lo) and np.array_equal(
        moved.arrays.box_hi, built.arrays.box_hi
    )
    assert torch.equal(moved.bounds.lo, built.bounds.lo) and torch.equal(moved.bounds.hi, built.bounds.hi)
    now = (old.arrays.quat, *old.arrays.transforms[:2], old.arrays.tree.lo, old.arrays.tree.hi)
    assert all(np.array_equal(a, b) for a, b in zip(now, kept, strict=True))
    torch.testing.assert_close(
        torch.from_numpy(built.arrays.transforms.rot), SE3(quat, trans).rotation(), atol=1e-15, rtol=0
    )
    corners = torch.stack([scale[k] * fields[k].bounds.corners().double() for k in range(m)])
    world = SE3(quat[:, None], trans[:, None]) @ corners
    torch.testing.assert_close(torch.from_numpy(built.arrays.box_lo), world.amin(1), atol=1e-8, rtol=0)
    torch.testing.assert_close(torch.from_numpy(built.arrays.box_hi), world.amax(1), atol=1e-8, rtol=0)
    assert bool((torch.from_numpy(built.arrays.box_lo) <= world.amin(1)).all())


def test_a_composite_keeps_no_hold_of_the_poses_that_it_was_given():
    quat, trans = torch.tensor([[1.0, 0, 0, 0]]).double(), torch.zeros(1, 3).double()
    scene = Composite.from_columns(["a"], [Sphere(1.0)], SE3(quat, trans), torch.ones(1))
    trans += 5
    assert scene.instances[0].T_world_obj.translation.tolist() == [0, 0, 0]


def test_a_further_instance_takes_less_than_500_bytes():
    def size(m):
        gc.collect()
        tracemalloc.start()
        poses = SE3.identity((m,))
        scene = Composite.from_columns([f"number {k}" for k in range(m)], [ball] * m, poses, torch.ones(m))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return taken, len(scene)

    ball = Sphere(1.0)
    size(2)
    assert (size(5000)[0] - size(1000)[0]) / 4000 < 500


def test_a_place_too_far_for_float64_is_refused():
    with pytest.raises(ValueError, match="at most 1e\\+09 times its own size"):
        Composite([Instance("ball", Sphere(1.0), SE3.from_translation([1e300, 0, 0]))])


@pytest.mark.parametrize("grad", [False, True])
def test_a_tint_is_added_along_the_ray_in_the_frame_of_its_object(grad):
    box = Aabb(torch.full((3,), -0.5), torch.full((3,), 0.5))
    tinted = SirenField(box, width=8, color_width=8, feature_width=2, channels={TINT: 9}, seed=1)
    with torch.no_grad():
        tinted.appearance.linears[-1].weight.mul_(0.2)
    plain = SirenField(box, width=8, color_width=8, feature_width=2, seed=2)
    turn = SE3.from_axis_angle((0.3, 1.0, 0.2), 0.7)
    instances = [Instance("a", tinted, turn, 2.0), Instance("b", plain, turn), Instance("c", tinted, SE3.identity())]
    generator = torch.Generator().manual_seed(0)
    p = 0.4 * torch.rand(60, 3, generator=generator)
    d = torch.nn.functional.normalize(torch.randn(60, 3, generator=generator), dim=-1)
    owner = torch.arange(60) % 3
    scene = Composite(instances)
    with torch.set_grad_enabled(grad):
        mean, seen = scene.evaluate(p, owner), scene.evaluate(p, owner, d)
    torch.testing.assert_close(seen.feature, mean.feature)
    assert seen.feature.shape == (60, 2) and not mean.channel(TINT)[owner == 1].any()
    for k, pose in ((0, turn), (2, SE3.identity())):
        rows = owner == k
        tint = mean.channel(TINT)[rows].detach().view(-1, 3, 3)
        d_obj = torch.einsum("ab,nb->na", pose.rotation().double().T, d[rows].double())
        want = (mean.rgb[rows].detach() + torch.einsum("nab,nb->na", tint, d_obj)).clamp(0, 1)
        torch.testing.assert_close(seen.rgb[rows].detach(), want, rtol=0, atol=1e-6)
        assert float((want - mean.rgb[rows].detach()).abs().max()) > 0.01
    assert torch.equal(seen.rgb[owner == 1], mean.rgb[owner == 1])
    if grad:
        seen.rgb.sum().backward()
        assert float(tinted.appearance.linears[-1].weight.grad[5:].abs().sum()) > 0


def test_a_tint_within_a_union_is_not_shown():
    box = Aabb(torch.full((3,), -0.5), torch.full((3,), 0.5))
    tinted = SirenField(box, width=8, color_width=8, channels={TINT: 9})
    scene = Composite([Instance("both", tinted | tinted, SE3.identity())])
    p, owner = 0.1 * torch.ones(1, 3), torch.zeros(1, dtype=torch.int64)
    assert torch.equal(scene.evaluate(p, owner, torch.tensor([[0.0, 0.0, 1.0]])).rgb, scene.evaluate(p, owner).rgb)
