"""Composites that were edited into being against ones made anew."""

import math

import numpy as np
import pytest
import torch

from compose import Composite, Instance, Rays
from compose.contact import overlaps
from objects import SE3, Aabb, Union
from objects.field import Field, FieldSample


class Breathing(Field):
    """A ball whose radius goes up and down."""

    deforms = True

    def __init__(self, size=1.0):
        super().__init__(Aabb(-size * torch.ones(3), size * torch.ones(3)))
        self.register_buffer("size", torch.tensor(size))

    def inside(self, p_obj, time):
        radius = self.size * (0.6 + 0.2 * torch.sin(time))
        return FieldSample(p_obj.norm(dim=-1) - radius, p_obj.clamp(0, 1), p_obj[:, :0])


@pytest.fixture(scope="module")
def pool(solids, sirens):
    both = Union(sirens[0], sirens[1])
    return [*solids[:5], *sirens, both, Breathing(0.5), Breathing(0.4)]


def _instance(rng, pool, number):
    field = pool[rng.integers(len(pool))]
    quat, place = rng.normal(size=4), rng.uniform(-1.2, 1.2, 3)
    time = float(rng.choice([0.0, 0.7, 2.0])) if field.deforms else None
    pose = SE3(torch.from_numpy(quat), torch.from_numpy(place))
    return Instance(f"object {number}", field, pose, float(rng.uniform(0.3, 1.5)), time, bool(rng.integers(2)))


def _edit(rng, instances, pool, number):
    """Some instances fewer and some more, some of them in the place of others: what was removed and added, and the new list."""
    removed = sorted(rng.permutation(len(instances))[: rng.integers(0, 3)].tolist())
    left = [i for k, i in enumerate(instances) if k not in removed]
    m = len(left) + int(rng.integers(0, 3))
    numbers = sorted(rng.permutation(m)[: m - len(left)].tolist())
    if removed and rng.random() < 0.5:  # replaced: as often as removed here and added there
        m, numbers = len(instances), removed
    added = {k: _instance(rng, pool, number + k) for k in numbers}
    for k, instance in added.items():
        left.insert(k, instance)
    return removed, added, left


def _assert_same_arrays(made, fresh):
    a, b = made.arrays, fresh.arrays
    assert a.names == b.names and a.times == b.times and all(x is y for x, y in zip(a.fields, b.fields, strict=True))
    for x, y in ((a.lit, b.lit), (a.quat, b.quat), (a.box_lo, b.box_lo), (a.box_hi, b.box_hi)):
        assert np.array_equal(x, y)
    for name in ("rot", "trans", "scale"):
        assert np.array_equal(getattr(a.transforms, name), getattr(b.transforms, name))
    assert made.channels == fresh.channels
    assert (made.bounds is None) == (fresh.bounds is None)
    if made.bounds is not None:
        assert torch.equal(made.bounds.lo, fresh.bounds.lo) and torch.equal(made.bounds.hi, fresh.bounds.hi)


def _assert_same_answers(made, fresh, seed):
    g = torch.Generator().manual_seed(seed)
    p = 2 * torch.randn(300, 3, generator=g, dtype=torch.float64)
    d = torch.nn.functional.normalize(0.5 * torch.randn(300, 3, generator=g, dtype=torch.float64) - p, dim=-1)
    for band in (math.inf, 0.3):
        for a, b in zip(made.query(p, band=band)[:4], fresh.query(p, band=band)[:4], strict=True):
            assert torch.equal(a, b)
    if len(fresh):
        with torch.enable_grad():
            q = p.clone().requires_grad_()
            slopes = [torch.autograd.grad(scene.query(q).sdf.sum(), q)[0] for scene in (made, fresh)]
        assert torch.equal(*slopes)
    hits, want = made.trace(Rays(p, d)), fresh.trace(Rays(p, d))
    assert torch.equal(hits.t, want.t) and torch.equal(hits.owner, want.owner)
    assert torch.equal(made.occluded(Rays(p, d)), fresh.occluded(Rays(p, d)))
    rows = hits.owner >= 0
    seen = p[rows] + hits.t[rows, None] * d[rows]
    for a, b in zip(made.evaluate(seen, hits.owner[rows])[:4], fresh.evaluate(seen, hits.owner[rows])[:4], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_a_scene_edited_into_place_answers_as_one_made_anew(pool, seed):
    rng = np.random.default_rng(seed)
    instances = [_instance(rng, pool, k) for k in range(seed * 3)]
    made = Composite(instances)
    if seed % 2:
        made.trace(Rays(torch.zeros(1, 3), torch.eye(3)[:1]))  # its index is made before the first edit
    for step in range(1, 41):
        removed, added, instances = _edit(rng, instances, pool, 100 * step)
        made = made.edited(removed, added)
        fresh = Composite(instances)
        _assert_same_arrays(made, fresh)
        if step % 5 == 0:
            with torch.set_grad_enabled(step % 2 == 0):
                _assert_same_answers(made, fresh, step)
    assert overlaps(made) == overlaps(fresh)
    p = torch.randn(100, 3, dtype=torch.float64)
    torch.testing.assert_close(made.closest(p).sdf, fresh.closest(p).sdf, atol=2e-4, rtol=0)
