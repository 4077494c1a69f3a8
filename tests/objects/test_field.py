import math

import pytest
import torch

from objects.aabb import Aabb
from objects.field import Field, FieldSample, structure
from objects.primitives import Sphere


class Wavy(Field):
    """Not a distance field, inside negative values at some faces included, so that the rule is tested in full."""

    def __init__(self):
        super().__init__(Aabb(torch.tensor([-1.0, -0.5, 0.0]), torch.tensor([1.0, 0.5, 3.0])), feature_width=1)

    def inside(self, p_obj, time):
        assert bool(((p_obj >= self.box_lo) & (p_obj <= self.box_hi)).all())
        sdf = torch.sin(3 * p_obj).sum(-1)
        return FieldSample(sdf, p_obj.sigmoid(), p_obj[:, :1])


def _points(n, seed=0):
    return 4 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_field_goes_on_outside_its_box_by_the_rule():
    field = Wavy().double()
    p = _points(200)
    sample = field(p)
    for i, (x, y, z) in enumerate(p.tolist()):
        q = (min(max(x, -1), 1), min(max(y, -0.5), 0.5), min(max(z, 0), 3))
        f = sum(math.sin(3 * c) for c in q)
        gap = math.dist((x, y, z), q)
        expected = math.sqrt(gap**2 + max(f, 0) ** 2) if gap > 0 else f
        assert float(sample.sdf[i]) == pytest.approx(expected, abs=1e-12)
        assert float(sample.feature[i, 0]) == pytest.approx(q[0], abs=1e-12)
        assert gap == 0 or float(sample.sdf[i]) >= gap - 1e-12
    assert torch.equal(field.sdf(p), sample.sdf)


def test_gradients_are_finite_on_faces_edges_corners_and_far_away():
    field = Wavy().double()
    special = torch.tensor(
        [[1.0, 0, 1], [1, 0.5, 1], [1, 0.5, 3], [1e6, 0, 0], [1 + 1e-200, 0, 0]], dtype=torch.float64
    )
    p = torch.cat([special, _points(50)]).requires_grad_()
    (first,) = torch.autograd.grad(field.sdf(p).sum(), p, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), p)
    assert torch.isfinite(first).all() and torch.isfinite(second).all()


def test_gradients_outside_equal_finite_differences():
    field = Wavy().double()
    p = _points(20, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: field(x).sdf, p, eps=1e-7, atol=1e-5)


def test_by_the_rule_a_ball_in_a_box_of_three_percent_is_safe_within_a_factor_of_root_two():
    ball, p = Sphere(1.0).double(), _points(500)
    q = p.clamp(ball.box_lo, ball.box_hi)
    p, q = (v[p.norm(dim=-1) > 1.1] for v in (p, q))
    by_rule = ((p - q).square().sum(-1) + ball.sdf(q).clamp(min=0).square()).sqrt()
    true = p.norm(dim=-1) - 1
    assert (by_rule <= true + 1e-9).all()
    assert (by_rule >= math.sqrt(0.5) * true).all()
    torch.testing.assert_close(ball.sdf(p), true, atol=1e-12, rtol=0)


def test_in_double_is_a_copy_that_leaves_the_field_alone():
    field = Sphere(1.0)
    double = field.in_double()
    assert double.sdf(_points(3)).dtype == torch.float64
    assert field.box_lo.dtype == torch.float32
    double.radius += 1
    assert float(field.radius) == 1.0


def test_structure_tells_kinds_apart_and_not_sizes():
    assert structure(Sphere(1.0)) == structure(Sphere(2.0, color=(1, 0, 0)))
    assert structure(Sphere(1.0)) != structure(Sphere(1.0, feature=[1.0]))
    union = structure(Sphere(1.0) | Sphere(2.0))
    assert [child["kind"] for child in union["children"]] == ["sphere", "sphere"]


@pytest.mark.parametrize(
    ("lo", "hi"),
    [([0, 0, 0], [1, 0, 1]), ([0, 0, 0], [1, math.inf, 1]), ([math.nan, 0, 0], [1, 1, 1]), ([0, 0], [1, 1])],
)
def test_boxes_without_volume_or_with_bad_numbers_are_refused(lo, hi):
    with pytest.raises(ValueError, match="Aabb"):
        Aabb(torch.tensor(lo), torch.tensor(hi))


def test_box_operations_are_those_of_intervals():
    a, b = (
        Aabb(torch.tensor([0.0, 0, 0]), torch.tensor([1.0, 2, 3])),
        Aabb(torch.tensor([-1.0, 1, 1]), torch.tensor([0.5, 5, 2])),
    )
    both = a.union(b)
    assert both.lo.tolist() == [-1, 0, 0] and both.hi.tolist() == [1, 5, 3]
    assert a.padded(0.5).lo.tolist() == [-0.5] * 3
    assert a.diagonal == pytest.approx(math.sqrt(14))
    assert sorted(a.corners().tolist()) == [[x, y, z] for x in (0, 1) for y in (0, 2) for z in (0, 3)]
    assert a.contains(torch.tensor([[0.0, 0, 0], [1, 2, 3.1]])).tolist() == [True, False]


def test_a_sample_unpacks_into_three_and_keeps_its_channels_when_a_part_is_replaced():
    p = torch.rand(5, 3)
    sample = FieldSample(p[:, 0], p, p[:, :0], more={"semantic": p[:, :2]})
    sdf, rgb, feature = sample
    assert sdf is sample.sdf and rgb is p and feature.shape == (5, 0)
    moved = sample._replace(sdf=sdf + 1)
    assert torch.equal(moved.channel("semantic"), p[:, :2]) and torch.equal(moved.sdf, sdf + 1)
    assert sample._replace(more={}).channel("semantic").shape == (5, 0)
