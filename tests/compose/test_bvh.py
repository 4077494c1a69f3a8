import numpy as np
import pytest

from compose.cpu import InstanceTransforms, build, edit, nearest, refit, within
from compose.cpu.bvh import EMPTY, INNER, box_distance2, box_span, inverse


def _boxes(m, seed=0, kind="random"):
    rng = np.random.default_rng(seed)
    centre, half = rng.uniform(-1, 1, (m, 3)) * m ** (1 / 3), rng.uniform(0.02, 0.5, (m, 3))
    if kind == "coincident":
        centre[:], half[:] = centre[0], half[0]
    elif kind == "same centre":
        centre[:] = 0.3
    elif kind == "line":
        centre[:, 1:] = 0
    return centre - half, centre + half


def _unturned(lo, hi):
    """Instances that stand unturned where their boxes are: world boxes are object boxes."""
    m = len(lo)
    return InstanceTransforms(np.tile(np.eye(3), (m, 1, 1)), np.zeros((m, 3)), np.ones(m), np.arange(m), lo, hi)


def _distances(lo, hi, points):
    return np.linalg.norm(np.maximum(np.maximum(lo - points[:, None], points[:, None] - hi), 0), axis=-1)


CASES = [(m, "random") for m in (1, 2, 3, 5, 17, 64, 1000)]
CASES += [(m, kind) for m in (2, 7, 100) for kind in ("coincident", "same centre", "line")]


@pytest.mark.parametrize(("m", "kind"), CASES)
def test_every_instance_has_one_leaf_and_parents_hold_their_children(m, kind):
    lo, hi = _boxes(m, kind=kind)
    bvh = build(lo, hi)
    assert sorted(bvh.instance[bvh.instance >= 0]) == list(range(m))
    assert np.array_equal(bvh.instance[bvh.leaf_of], np.arange(m))
    assert np.array_equal(bvh.lo[bvh.leaf_of], lo) and np.array_equal(bvh.hi[bvh.leaf_of], hi)
    for node in np.flatnonzero(bvh.instance == INNER):
        children = [2 * node, 2 * node + 1]
        assert (bvh.instance[children] != EMPTY).all()
        assert np.array_equal(bvh.lo[node], bvh.lo[children].min(0))
        assert np.array_equal(bvh.hi[node], bvh.hi[children].max(0))


@pytest.mark.parametrize(("m", "kind"), CASES)
def test_point_queries_equal_brute_force(m, kind):
    lo, hi = _boxes(m, kind=kind)
    tree, transforms = build(lo, hi), _unturned(lo, hi)
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform(-1.5, 1.5, (100, 3)) * m ** (1 / 3), lo[:20], rng.normal(0, 1e4, (5, 3))])
    distance = _distances(lo, hi, points)
    owner, gap = nearest(tree, transforms, points, 0.0)
    assert np.array_equal(owner, distance.argmin(1))  # numpy gives the first of equal values, too
    np.testing.assert_allclose(gap, distance.min(1), rtol=1e-14)
    beyond = np.where(distance >= 0.4, distance, np.inf)
    owner, gap = nearest(tree, transforms, points, 0.4)
    some = np.isfinite(beyond).any(1)
    np.testing.assert_allclose(gap, beyond.min(1), rtol=1e-14)
    assert np.array_equal(owner, np.where(some, beyond.argmin(1), -1))
    radius = rng.uniform(0, 1.5, len(points))
    offsets, instance = within(tree, transforms, points, radius)
    for k in range(len(points)):
        assert instance[offsets[k] : offsets[k + 1]].tolist() == np.flatnonzero(distance[k] <= radius[k]).tolist()


@pytest.mark.parametrize(("m", "kind"), CASES)
def test_boxes_met_by_rays_equal_brute_force(m, kind):
    """The tree is walked as a trace does, by hand, and no box that a ray meets is left out."""
    lo, hi = _boxes(m, kind=kind)
    bvh = build(lo, hi)
    rng = np.random.default_rng(2)
    origins = rng.uniform(-1, 1, (30, 3)) * m ** (1 / 3)
    directions = rng.normal(size=(30, 3))
    directions[:6, 0], directions[3:9, 1] = 0.0, 0.0  # along faces and axes
    origins[6:12] = lo[rng.integers(m, size=6)]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for o, d in zip(origins, directions, strict=True):
        met, stack = [], [1]
        while stack:
            node = stack.pop()
            enter, leave = box_span(bvh.lo, bvh.hi, node, *o, *map(inverse, d), 0.0, 10.0)
            if enter <= leave:
                i = bvh.instance[node]
                stack += [2 * node, 2 * node + 1] if i == INNER else []
                met += [i] if i >= 0 else []
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (lo - o) / d, (hi - o) / d
        still = np.broadcast_to(d == 0, a.shape)
        enter = np.where(still, -np.inf, np.minimum(a, b)).max(1).clip(min=0)
        leave = np.where(still, np.inf, np.maximum(a, b)).min(1).clip(max=10)
        within = ~still | ((o >= lo) & (o <= hi))
        assert sorted(met) == np.flatnonzero((enter <= leave) & within.all(1)).tolist()


@pytest.mark.parametrize("m", [1, 2, 3, 5, 100, 1000])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_a_refitted_tree_answers_as_a_rebuilt_one_and_leaves_the_old_alone(m, share):
    lo, hi = _boxes(m)
    bvh = build(lo, hi)
    before = bvh.lo.copy(), bvh.hi.copy()
    rng = np.random.default_rng(3)
    moved = rng.permutation(m)[: max(1, int(share * m))]
    new_lo, new_hi = lo.copy(), hi.copy()
    shift = rng.normal(0, 2, (len(moved), 3))
    new_lo[moved] += shift
    new_hi[moved] += shift
    refitted, rebuilt = refit(bvh, moved, new_lo[moved], new_hi[moved]), build(new_lo, new_hi)
    assert np.array_equal(bvh.lo, before[0]) and np.array_equal(bvh.hi, before[1])
    assert np.array_equal(refitted.lo[1], new_lo.min(0)) and np.array_equal(refitted.hi[1], new_hi.max(0))
    points, transforms = rng.uniform(-4, 4, (100, 3)), _unturned(new_lo, new_hi)
    for query in (
        lambda tree: nearest(tree, transforms, points, 0.0),
        lambda tree: nearest(tree, transforms, points, 0.3),
        lambda tree: within(tree, transforms, points, np.full(100, 1.0)),
    ):
        for a, b in zip(query(refitted), query(rebuilt), strict=True):
            assert np.array_equal(a, b)


def test_nothing_moved_is_nothing_changed():
    lo, hi = _boxes(20)
    bvh = build(lo, hi)
    same = refit(bvh, np.zeros(0, dtype=np.int64), np.zeros((0, 3)), np.zeros((0, 3)))
    assert np.array_equal(same.lo, bvh.lo) and np.array_equal(same.hi, bvh.hi)


def test_box_distance_is_zero_inside_and_infinite_for_an_empty_box():
    lo, hi = np.array([-1.0, -2.0, 0.0]), np.array([1.0, 0.0, 3.0])
    assert box_distance2(lo[None], hi[None], 0, 0.5, -1.0, 3.0) == 0.0
    assert box_distance2(lo[None], hi[None], 0, 2.0, 1.0, -1.0) == 3.0
    assert box_distance2(np.full((1, 3), np.inf), np.full((1, 3), -np.inf), 0, 0.0, 0.0, 0.0) == np.inf


def test_box_span_cuts_a_ray_at_the_faces_and_at_its_limits():
    lo, hi = np.zeros((1, 3)), np.array([[1.0, 2.0, 3.0]])

    def span(ox, oy, oz, dx, dy, dz, t_min, t_max):
        return box_span(lo, hi, 0, ox, oy, oz, inverse(dx), inverse(dy), inverse(dz), t_min, t_max)

    assert span(-1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, np.inf) == (1.0, 2.0)
    assert span(0.5, 1.0, 1.0, -1.0, 0.0, 0.0, 0.0, np.inf) == (0.0, 0.5)
    assert span(-1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.25, 1.5) == (1.25, 1.5)
    assert span(-1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, np.inf) == (1.0, 2.0)  # along an edge
    for miss in ([-1.0, 3.0, 1.0, 1.0, 0.0, 0.0], [2.0, 1.0, 1.0, 1.0, 0.0, 0.0], [-1.0, -1.5, 0, 0.6, 0.8, 0]):
        enter, leave = span(*miss, 0.0, np.inf)
        assert (enter <= leave) == (miss[3] == 0.6)


@pytest.mark.parametrize("m", [1, 2, 3, 8, 9, 100])
def test_an_edited_tree_answers_as_a_rebuilt_one_and_leaves_the_old_alone(m):
    rng = np.random.default_rng(m)
    lo, hi = _boxes(m)
    tree, inserted, full = build(lo, hi), 0, 0
    for step in range(60):
        keep = np.flatnonzero(rng.random(len(lo)) > 0.1)
        come = int(rng.integers(0, 3))
        new = np.sort(rng.permutation(len(keep) + come)[:come])
        source = np.insert(keep, new - np.arange(come), -1)
        changed = np.flatnonzero((source < 0) | (rng.random(len(source)) < 0.1))
        after_lo, after_hi = (np.concatenate([v, np.zeros((1, 3))])[source] for v in (lo, hi))
        after_lo[changed], after_hi[changed] = (v[: len(changed)] for v in _boxes(len(changed) + 1, seed=step))
        before = [v.copy() for v in tree]
        edited = edit(tree, source, changed, after_lo[changed], after_hi[changed])
        assert all(np.array_equal(a, b) for a, b in zip(tree, before, strict=True))
        lo, hi, inserted = after_lo, after_hi, inserted + come
        if edited is None:
            full += 1
            edited = build(lo, hi)
        tree = edited
        assert sorted(tree.instance[tree.instance >= 0]) == list(range(len(lo)))
        assert np.array_equal(tree.instance[tree.leaf_of], np.arange(len(lo)))
        assert np.array_equal(tree.lo[tree.leaf_of], lo) and np.array_equal(tree.hi[tree.leaf_of], hi)
        for node in np.flatnonzero(tree.instance == INNER):
            assert np.array_equal(tree.lo[node], tree.lo[[2 * node, 2 * node + 1]].min(0))
            assert np.array_equal(tree.hi[node], tree.hi[[2 * node, 2 * node + 1]].max(0))
        points, transforms = rng.uniform(-4, 4, (50, 3)), _unturned(lo, hi)
        rebuilt = build(lo, hi)
        for query in (
            lambda tree: nearest(tree, transforms, points, 0.0),  # noqa: B023
            lambda tree: within(tree, transforms, points, np.full(50, 1.0)),  # noqa: B023
        ):
            for a, b in zip(query(tree), query(rebuilt), strict=True):
                assert np.array_equal(a, b)
    assert full < 0.5 * inserted or m < 3
