import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from torch.func import functional_call, stack_module_state, vmap

from objects.field import structure
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus

SPACING = 0.012


def _grid(*ranges):
    """Points of a grid with about `SPACING` between neighbours, its ends included."""
    axes = [np.linspace(lo, hi, max(2, math.ceil((hi - lo) / SPACING) + 1)) for lo, hi in ranges]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(ranges))


def _sphere_points(radius):
    u, v = (_grid((0, math.pi * radius), (0, 2 * math.pi * radius)) / radius).T
    return radius * np.stack([np.sin(u) * np.cos(v), np.sin(u) * np.sin(v), np.cos(u)], -1)


def _box_points(size):
    half = np.asarray(size) / 2
    faces = []
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        for side in (-1, 1):
            face = np.empty((len(flat := _grid(*[(-half[k], half[k]) for k in others])), 3))
            face[:, others], face[:, axis] = flat, side * half[axis]
            faces.append(face)
    return np.concatenate(faces)


def _tube_points(radius, height):
    v, z = _grid((0, 2 * math.pi * radius), (-height / 2, height / 2)).T
    return np.stack([radius * np.cos(v / radius), radius * np.sin(v / radius), z], -1)


def _cylinder_points(radius, height):
    disc = _grid((-radius, radius), (-radius, radius))
    disc = disc[np.hypot(*disc.T) <= radius]
    caps = [np.column_stack([disc, np.full(len(disc), z)]) for z in (-height / 2, height / 2)]
    return np.concatenate([_tube_points(radius, height), *caps])


def _capsule_points(radius, height):
    ball = _sphere_points(radius)
    ends = ball + np.sign(ball[:, 2:]) * [0, 0, height / 2]
    return np.concatenate([_tube_points(radius, height), ends])


def _torus_points(major, minor):
    u, v = _grid((0, 2 * math.pi * (major + minor)), (0, 2 * math.pi * minor)).T
    u, v = u / (major + minor), v / minor
    ring = major + minor * np.cos(v)
    return np.stack([ring * np.cos(u), ring * np.sin(u), minor * np.sin(v)], -1)


# field, dense points of its surface, and whether a point is inside
SOLIDS = {
    "sphere": (Sphere(0.7), _sphere_points(0.7), lambda p: np.linalg.norm(p, axis=1) < 0.7),
    "box": (Box((1.0, 0.4, 0.8)), _box_points((1.0, 0.4, 0.8)), lambda p: (np.abs(p) < [0.5, 0.2, 0.4]).all(1)),
    "cylinder": (
        Cylinder(0.4, 1.0),
        _cylinder_points(0.4, 1.0),
        lambda p: (np.hypot(p[:, 0], p[:, 1]) < 0.4) & (np.abs(p[:, 2]) < 0.5),
    ),
    "capsule": (
        Capsule(0.3, 0.6),
        _capsule_points(0.3, 0.6),
        lambda p: np.hypot(np.hypot(p[:, 0], p[:, 1]), p[:, 2] - np.clip(p[:, 2], -0.3, 0.3)) < 0.3,
    ),
    "torus": (
        Torus(0.6, 0.2),
        _torus_points(0.6, 0.2),
        lambda p: np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.6, p[:, 2]) < 0.2,
    ),
}
EVERY = [field for field, _, _ in SOLIDS.values()] + [Box((1.0, 0.4, 0.8), rounding=0.1)]
every_solid = pytest.mark.parametrize("field", EVERY, ids=[*SOLIDS, "rounded box"])


def _points_in_box(field, n=400, seed=0):
    box = field.bounds
    p = torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return box.lo.double() + p * box.size.double()


@pytest.mark.parametrize("name", SOLIDS)
def test_distances_equal_the_nearest_of_dense_surface_points(name):
    field, surface, is_inside = SOLIDS[name]
    p = _points_in_box(field)
    sdf = field.in_double().sdf(p).numpy()
    nearest, _ = KDTree(surface).query(p.numpy())
    # The nearest sample is up to half a diagonal of the grid beside the true foot point.
    beside = SPACING / math.sqrt(2)
    assert (nearest >= np.abs(sdf) - 1e-6).all()
    assert (nearest <= np.sqrt(sdf**2 + 2.0 * beside**2) + 1e-6).all()
    assert ((sdf < 0) == is_inside(p.numpy())).all()
    assert (sdf < 0).any() and (sdf > 0).any()


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("away", [1.1, 3.0, 30.0])
def test_distances_are_exact_outside_the_box_too(name, away):
    field, surface, _ = SOLIDS[name]
    p = (
        away
        * field.bounds.diagonal
        * torch.nn.functional.normalize(_points_in_box(field) - field.bounds.center, dim=-1)
    )
    nearest, _ = KDTree(surface).query(p.numpy())
    np.testing.assert_allclose(field.in_double().sdf(p).numpy(), nearest, atol=2 * SPACING**2, rtol=0)


@every_solid
def test_distance_is_never_below_that_to_the_box(field):
    p = 3 * torch.randn(2000, 3, generator=torch.Generator().manual_seed(2))
    gap = (p - p.clamp(field.box_lo, field.box_hi)).norm(dim=-1)
    assert ((field.sdf(p) >= gap * (1 - 1e-6)) | (gap == 0)).all()
    assert torch.equal(field(p).sdf, field.sdf(p))


def test_rounded_box_is_the_smaller_box_grown_by_the_rounding():
    size, rounding = np.array([1.0, 0.4, 0.8]), 0.1
    field = Box(size.tolist(), rounding=rounding).in_double()
    inner = size / 2 - rounding
    p = _points_in_box(field)
    to_inner = np.linalg.norm(p.numpy() - np.clip(p.numpy(), -inner, inner), axis=1)
    outside = to_inner > 0
    np.testing.assert_allclose(field.sdf(p).numpy()[outside], to_inner[outside] - rounding, atol=1e-6)
    deep = (np.abs(p.numpy()) - inner).max(1)[~outside] - rounding
    np.testing.assert_allclose(field.sdf(p).numpy()[~outside], deep, atol=1e-6)


@every_solid
def test_gradients_are_finite_everywhere_and_of_length_one_where_smooth(field):
    field = field.in_double()
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 0, 1], dtype=torch.float64)] * 3)
    half = field.bounds.hi.double() / 1.03
    special = torch.cat([corners * half, corners * half * 0.5, corners * torch.tensor([0.6, 0.6, 0.5])])
    p = torch.cat([special, _points_in_box(field, seed=1)]).requires_grad_()
    (first,) = torch.autograd.grad(field.sdf(p).sum(), p, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), p)
    assert torch.isfinite(first).all() and torch.isfinite(second).all()
    length = first[len(special) :].norm(dim=-1)
    torch.testing.assert_close(length, torch.ones_like(length), atol=1e-9, rtol=0)


@every_solid
def test_distance_is_positive_on_the_faces_of_the_box(field):
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 21)] * 3)
    faces = grid[grid.abs().amax(-1) == 1] * field.bounds.hi
    assert float(field.sdf(faces).min()) > 0


@every_solid
def test_float32_follows_float64(field):
    p = _points_in_box(field)
    torch.testing.assert_close(field.sdf(p.float()).double(), field.in_double().sdf(p), atol=1e-6, rtol=0)
    assert [part.dtype for part in field.in_double()(p)[:3]] == [torch.float64] * 3


def test_colour_and_feature_are_the_same_everywhere():
    sample = Torus(1.0, 0.2, color=(0.1, 0.2, 0.3), feature=[4.0, 5.0])(torch.randn(7, 3))
    assert sample.sdf.shape == (7,)
    torch.testing.assert_close(sample.rgb, torch.tensor([0.1, 0.2, 0.3]).expand(7, 3))
    torch.testing.assert_close(sample.feature, torch.tensor([4.0, 5.0]).expand(7, 2))
    assert Sphere(1.0)(torch.zeros(2, 3)).feature.shape == (2, 0)


STACKS = {
    "sphere": [Sphere(r, color=(r / 4, 0, 0), feature=[r]) for r in (1.0, 2.0, 3.0)],
    "box": [Box((1.0, r, 2.0), rounding=0.1 * r) for r in (1.0, 2.0, 3.0)],
    "cylinder": [Cylinder(r, 1 / r) for r in (1.0, 2.0, 3.0)],
    "capsule": [Capsule(r, 1 / r) for r in (1.0, 2.0, 3.0)],
    "torus": [Torus(r, 0.2 * r) for r in (1.0, 2.0, 3.0)],
}


@pytest.mark.parametrize("fields", STACKS.values(), ids=STACKS)
def test_stacked_fields_equal_the_loop(fields):
    assert all(structure(field) == structure(fields[0]) for field in fields)
    p = 2 * torch.randn(3, 50, 3, generator=torch.Generator().manual_seed(0))
    params, buffers = stack_module_state(fields)
    stacked = vmap(lambda w, b, x: functional_call(fields[0], (w, b), (x,)))(params, buffers, p)
    for i, field in enumerate(fields):
        for got, expected in zip(stacked[:3], field(p[i])[:3], strict=True):
            assert torch.equal(got[i], expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sphere(0.0), "sphere: radius"),
        (lambda: Sphere(-1.0), "sphere: radius"),
        (lambda: Sphere(math.nan), "sphere: radius"),
        (lambda: Sphere(math.inf), "sphere: radius"),
        (lambda: Sphere("big"), "sphere: radius"),  # pyright: ignore[reportArgumentType]
        (lambda: Box((1.0, 0.0, 1.0)), "box: size"),
        (lambda: Box((1.0, 1.0)), "box: size must be 3 numbers"),
        (lambda: Box((1.0, 1.0, 1.0), rounding=0.6), "box: rounding"),
        (lambda: Box((1.0, 1.0, 1.0), rounding=-0.1), "box: rounding"),
        (lambda: Cylinder(1.0, 0.0), "cylinder: height"),
        (lambda: Capsule(-1.0, 1.0), "capsule: radius"),
        (lambda: Torus(1.0, 1.0), "torus: minor must be below major"),
        (lambda: Sphere(1.0, color=(1.1, 0, 0)), "sphere: color"),
        (lambda: Sphere(1.0, color=(0.5, 0.5)), "sphere: color"),
        (lambda: Sphere(1.0, color=(math.nan, 0, 0)), "sphere: color"),
        (lambda: Sphere(1.0, color="red"), "sphere: color"),
        (lambda: Sphere(1.0, feature=[math.inf]), "sphere: feature"),
    ],
)
def test_bad_numbers_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
