import math

import igl
import numpy as np
import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from objects.aabb import Aabb
from objects.field import Difference, Intersection, Union, structure
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Box, Sphere, Torus
from objects.siren import SirenField

POSE = SE3.exp(torch.tensor([0.4, -0.2, 0.1, 0.5, -0.8, 0.3], dtype=torch.float64))
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def _a():
    return Placed(Box((1.0, 0.8, 1.2), color=RED, feature=[1.0]), POSE)


def _b():
    return Sphere(0.6, color=BLUE, feature=[2.0, 3.0])


def _points(field, n=2000, spread=1.0):
    p = torch.rand(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return field.bounds.center.double() + spread * (p - 0.5) * field.bounds.size.double()


def _operation(kind, smooth=0.0):
    return {"union": Union, "intersection": Intersection, "difference": Difference}[kind](_a(), _b(), smooth=smooth)


HARD = {
    "union": torch.minimum,
    "intersection": torch.maximum,
    "difference": lambda a, b: torch.maximum(a, -b),
}
every_kind = pytest.mark.parametrize("kind", HARD)


@every_kind
def test_inside_the_box_the_result_is_the_pointwise_minimum_or_maximum(kind):
    field, a, b = _operation(kind).double(), _a().double(), _b().double()
    p = _points(field)
    torch.testing.assert_close(field.sdf(p), HARD[kind](a.sdf(p), b.sdf(p)), atol=1e-12, rtol=0)
    assert torch.equal(field(p).sdf, field.sdf(p))
    assert (field.sdf(p) < 0).any()


def test_operators_build_the_operations():
    a, b = _a(), _b()
    for field, kind in ((a | b, Union), (a & b, Intersection), (a - b, Difference)):
        assert type(field) is kind
        assert field.children_fields() == [a, b]


@every_kind
@pytest.mark.parametrize("smooth", [0.0, 0.05, 0.5, 3.0])
def test_distance_is_positive_on_the_faces_of_the_box(kind, smooth):
    field = _operation(kind, smooth)
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 31)] * 3)
    faces = field.bounds.center + 0.5 * grid[grid.abs().amax(-1) == 1] * field.bounds.size
    assert float(field.sdf(faces).min()) > 0


@every_kind
def test_smooth_becomes_hard_as_its_width_goes_to_zero(kind):
    hard, p = _operation(kind).double(), _points(_operation(kind))
    worst = []
    for smooth in (1e-1, 1e-2, 1e-4):
        field = _operation(kind, smooth).double()
        change = (field.sdf(p) - hard.sdf(p)).abs()
        worst.append(float(change.max()))
        assert worst[-1] <= smooth / 4 + 1e-9
    assert worst[0] > 0.02
    same = _operation(kind, 1e-6).double()
    agree = (same(p).rgb - hard(p).rgb).abs().amax(-1) < 1e-12
    assert float(agree.double().mean()) > 0.999


@every_kind
def test_smooth_blend_is_the_quadratic_polynomial_minimum(kind):
    k = 0.4
    field, a, b = _operation(kind, k).double(), _a().double(), _b().double()
    p = _points(field)
    da, db = a.sdf(p), b.sdf(p)
    flip_a, flip_b = {"union": (1, 1), "intersection": (-1, -1), "difference": (-1, 1)}[kind]
    x, y = flip_a * da, flip_b * db
    h = (k - (x - y).abs()).clamp(min=0) / k
    torch.testing.assert_close(field.sdf(p), flip_a * (torch.minimum(x, y) - h * h * k / 4), atol=1e-7, rtol=0)


@every_kind
def test_colour_and_features_come_from_the_child_that_decides(kind):
    field, a, b = _operation(kind).double(), _a().double(), _b().double()
    p = _points(field)
    sample, da, db = field(p), a.sdf(p), b.sdf(p)
    from_a = {"union": da < db, "intersection": da > db, "difference": da > -db}[kind]
    for mask, color, feature in ((from_a, RED, [1.0, 0.0]), (~from_a, BLUE, [2.0, 3.0])):
        assert mask.any()
        assert torch.equal(sample.rgb[mask], torch.tensor(color, dtype=torch.float64).expand(int(mask.sum()), 3))
        assert torch.equal(sample.feature[mask], torch.tensor(feature, dtype=torch.float64).expand(int(mask.sum()), 2))


def test_channels_go_by_name_and_a_tint_is_left_out():
    unit = torch.ones(3)
    named = SirenField(Aabb(-unit, unit), width=8, color_width=8, channels={"semantic": 3, "tint": 9})
    both, placed = named | Sphere(0.5, feature=[1.0, 2.0]), Placed(named, SE3.from_translation([0.1, 0.0, 0.0]))
    assert both.channels == {"feature": 2, "semantic": 3} and placed.channels == {"semantic": 3}
    p = torch.rand(20, 3)
    sample, a, b = both(p), named(p), Sphere(0.5, feature=[1.0, 2.0])(p)
    from_a = a.sdf <= b.sdf
    assert torch.equal(sample.channel("semantic"), torch.where(from_a[:, None], a.channel("semantic"), 0.0))
    assert torch.equal(sample.feature, torch.where(from_a[:, None], 0.0, b.feature))
    assert sample.more.keys() == placed(p).more.keys() == {"semantic"}


def test_colours_of_a_blend_are_shared_as_the_gradient_is():
    field = _operation("union", 0.4).double()
    p = _points(field).requires_grad_()
    a, b = field.a(p), field.b(p)
    a_sdf, b_sdf = a.sdf.detach().requires_grad_(), b.sdf.detach().requires_grad_()
    share, _ = torch.autograd.grad(field.smooth_min(a_sdf, b_sdf).sum(), (a_sdf, b_sdf))
    torch.testing.assert_close(field(p).rgb[:, 0], share, atol=1e-9, rtol=0)


@every_kind
@pytest.mark.parametrize("smooth", [0.0, 0.3])
def test_gradients_are_finite_and_within_the_lipschitz_estimate(kind, smooth):
    field = _operation(kind, smooth).double()
    p = torch.cat([_points(field, spread=2.0), torch.zeros(1, 3, dtype=torch.float64)]).requires_grad_()
    (first,) = torch.autograd.grad(field.sdf(p).sum(), p, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), p)
    assert torch.isfinite(first).all() and torch.isfinite(second).all()
    assert float(first.detach().norm(dim=-1).max()) <= field.lipschitz + 1e-6


def test_coincident_solids_have_finite_gradients():
    for field in (_b() | _b(), _b() & _b(), _b() - _b()):
        p = _points(_b()).float().requires_grad_()
        (gradient,) = torch.autograd.grad(field.sdf(p).sum(), p)
        assert torch.isfinite(gradient).all()


def test_placed_moves_turns_and_scales_a_field():
    child, scale = Box((1.0, 0.4, 0.2), color=BLUE).double(), 2.5
    field = Placed(child, POSE, scale).double()
    p_child = _points(child, spread=3.0)
    p = SE3(field.quat_wxyz, field.translation) @ (scale * p_child)
    inside = field.bounds.contains(p)
    torch.testing.assert_close(field.sdf(p)[inside], scale * child.sdf(p_child)[inside], atol=1e-6, rtol=0)
    assert torch.equal(field(p).sdf, field.sdf(p))
    surface = SE3(field.quat_wxyz, field.translation) @ (scale * child.bounds.corners().double())
    assert field.bounds.padded(1e-6).contains(surface).all()
    torch.testing.assert_close(surface.amax(0), field.bounds.hi.double(), atol=1e-5, rtol=0)


def test_unions_and_placed_solids_are_exact_outside_of_all_boxes():
    parts = [Placed(Sphere(0.3), SE3.from_translation([x, 0.1, 0.0]), 1.5) for x in (-1.0, 1.2)]
    field, p = (parts[0] | parts[1]).double(), _points(parts[0] | parts[1], spread=8.0)
    want = torch.stack([(p - torch.tensor([x, 0.1, 0.0])).norm(dim=-1) - 0.45 for x in (-1.0, 1.2)]).amin(0)
    outside = ~field.bounds.contains(p)
    torch.testing.assert_close(field.sdf(p)[outside], want[outside], atol=1e-6, rtol=0)


@pytest.mark.parametrize("smooth", [0.0, 0.3])
@every_kind
def test_far_away_operations_stay_between_the_distances_to_their_box_and_to_their_surface(kind, smooth):
    field = _operation(kind, smooth).double()
    p = _points(field, n=300, spread=10.0)
    p = p[~field.bounds.contains(p)]
    mesh = field.to_mesh(2e-3)
    squared, _, _ = igl.point_mesh_squared_distance(p.numpy(), mesh.vertices, np.asarray(mesh.faces))
    gap = (p - p.clamp(field.box_lo, field.box_hi)).norm(dim=-1)
    assert (field.sdf(p) >= gap - 1e-9).all()
    assert (field.sdf(p) <= torch.from_numpy(np.sqrt(squared)) + 1e-2).all()


def test_nested_operations_equal_the_formula_of_their_parts():
    ring = Torus(0.5, 0.2)
    field = ((_a() | ring) - _b()).double()
    p = _points(field)
    a, r, b = _a().double().sdf(p), ring.double().sdf(p), _b().double().sdf(p)
    torch.testing.assert_close(field.sdf(p), torch.maximum(torch.minimum(a, r), -b), atol=1e-12, rtol=0)


def test_stacked_fields_equal_the_loop():
    def make(i):
        siren = SirenField(Aabb(torch.tensor([-1.0, -1, -1]), torch.tensor([1.0, 1, 1])), width=8, seed=i)
        placed = Placed(siren, SE3.exp(0.1 * (i + 1) * torch.ones(6)), 1.0 + i)
        return Difference(Union(placed, Sphere(1.0 + i, feature=[1.0]), smooth=0.1 * i), Sphere(0.5), smooth=0.2)

    fields = [make(i) for i in range(3)]
    assert all(structure(field) == structure(fields[0]) for field in fields)
    p = 2 * torch.randn(3, 50, 3, generator=torch.Generator().manual_seed(0))
    params, buffers = stack_module_state(fields)
    stacked = vmap(lambda w, b, x: functional_call(fields[0], (w, b), (x,)))(params, buffers, p)
    for i, field in enumerate(fields):
        for got, expected in zip(stacked[:3], field(p[i])[:3], strict=True):
            torch.testing.assert_close(got[i], expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Sphere(1.0) & Placed(Sphere(1.0), SE3.from_translation([5.0, 0, 0])),
            "intersection: a and b must overlap",
        ),
        (lambda: Union(Sphere(1.0), Sphere(1.0), smooth=-0.1), "union: smooth"),
        (lambda: Difference(Sphere(1.0), Sphere(1.0), smooth=math.nan), "difference: smooth"),
        (lambda: Sphere(1.0) | 3, "union: b must be a Field"),  # pyright: ignore[reportOperatorIssue]
        (lambda: Placed(Sphere(1.0), POSE, 0.0), "placed: scale"),
        (lambda: Placed(Sphere(1.0), POSE, math.inf), "placed: scale"),
        (lambda: Placed(Sphere(1.0), SE3.identity((2,))), "placed: T_obj_child must be one pose"),
        (lambda: Placed(SE3.identity(), POSE), "placed: field"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_bad_operands_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
