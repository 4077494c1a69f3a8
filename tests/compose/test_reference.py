"""The reference itself, against closed forms: what everything else is held against must be right by itself."""

import math

import pytest
import torch

from compose import Hits, Instance, Rays
from compose.reference import hit_distance_reference, in_double, query_reference, trace_reference
from objects import SE3
from objects.primitives import Box, Sphere, Torus

OUTSIDE, THROUGH = [[-3.0, 0.2, 0.1]], [[1.0, 0.0, 0.0]]


def _rays(origins, directions, **limits):
    origins, directions = torch.tensor(origins, dtype=torch.float64), torch.tensor(directions, dtype=torch.float64)
    return Rays(origins, torch.nn.functional.normalize(directions, dim=-1), **limits)


def _ball(radius=1.0, place=(0.0, 0.0, 0.0), scale=1.0, **look):
    return Instance(
        "ball", Sphere(radius, **look).double(), SE3(torch.randn(4).double(), torch.tensor(place).double()), scale
    )


def test_the_distance_of_balls_is_that_to_the_nearest_one():
    balls = [
        _ball(0.5, (0.0, 0.0, 0.0), color=(1, 0, 0)),
        _ball(0.5, (3.0, 0.0, 0.0), 2.0, color=(0, 1, 0), feature=[7.0]),
    ]
    # Within each box, where a ball's distance is exact.
    got = query_reference(balls, torch.tensor([[0.4, 0.0, 0.0], [3.0, 0.5, 0.5], [2.5, 0.0, 0.0]]))
    expected = torch.tensor([-0.1, math.sqrt(0.5) - 1, -0.5], dtype=torch.float64)
    torch.testing.assert_close(got.sdf, expected, rtol=0, atol=1e-7)
    assert got.owner.tolist() == [0, 1, 1]
    assert got.rgb.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]] and got.feature.tolist() == [[0], [7], [7]]


def test_a_ball_is_hit_where_the_quadratic_says():
    ball = _ball(0.5, (0.1, -0.2, 0.3), 1.7)
    g = torch.Generator().manual_seed(0)
    origins = 4 * torch.nn.functional.normalize(torch.randn(300, 3, generator=g, dtype=torch.float64), dim=-1)
    rays = _rays(origins.tolist(), (torch.randn(300, 3, generator=g, dtype=torch.float64) * 0.4 - origins).tolist())
    to_centre = ball.T_world_obj.translation - origins
    along = (to_centre * rays.directions).sum(-1)
    chord2 = 0.85**2 - to_centre.square().sum(-1) + along**2
    hits = trace_reference([ball], rays)
    seen = chord2 > 1e-5
    assert 100 < int(seen.sum()) < 300 and not bool(torch.isfinite(hits.t[chord2 < 0]).any())
    torch.testing.assert_close(hits.t[seen], (along - chord2.clamp(min=0).sqrt())[seen], rtol=0, atol=3e-6)


def test_a_ray_from_within_is_no_hit_until_it_comes_in_again():
    ring = Instance("ring", Torus(1.0, 0.25).double(), SE3.identity())
    hits = trace_reference(
        [ring], _rays([[1.0, 0, 0], [0.9, 0, 0], [0, 0, 0.1]], [[-1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    )
    assert hits.owner.tolist() == [0, -1, -1]
    assert float(hits.t[0]) == pytest.approx(1.75, abs=3e-6)


def test_limits_are_kept():
    ball = _ball()
    enter = 3 - math.sqrt(1 - 0.05)
    for limits, hit in [
        ({}, True),
        ({"t_max": enter - 0.01}, False),
        ({"t_min": enter + 0.01}, False),
        ({"t_min": 1.5, "t_max": 1.5}, False),
    ]:
        hits = trace_reference([ball], _rays(OUTSIDE, THROUGH, **limits))
        assert bool(torch.isfinite(hits.t[0])) == hit
        assert not hit or float(hits.t) == pytest.approx(enter, abs=4e-6)


def test_the_nearest_is_hit_and_of_equals_the_first():
    near, far = _ball(0.5, (-1.0, 0.0, 0.0)), _ball(0.5, (1.0, 0.0, 0.0))
    assert trace_reference([far, near], _rays(OUTSIDE, THROUGH)).owner.tolist() == [1]
    assert trace_reference([far, near, near], _rays(OUTSIDE, THROUGH)).owner.tolist() == [1]


def test_axis_parallel_rays_beside_a_box_miss_and_through_it_hit():
    brick = [Instance("brick", Box([1.0, 1.0, 1.0]).double(), SE3.identity())]
    hits = trace_reference(
        brick, _rays([[-3.0, 0.4, 0], [-3.0, 0.6, 0], [0.2, 3.0, -0.4]], [[1.0, 0, 0], [1.0, 0, 0], [0, -1.0, 0]])
    )
    assert hits.owner.tolist() == [0, -1, 0]
    torch.testing.assert_close(hits.t[[0, 2]], torch.tensor([2.5, 2.5]).double(), rtol=0, atol=2e-6)


def test_hit_distances_move_as_finite_differences_say():
    offset = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)

    def hit_distance(translation, radius, lift):
        field = Sphere(0.5).double()
        field.radius = radius
        instance = Instance("ball", field, SE3(torch.tensor([1.0, 0, 0, 0]).double(), translation))
        rays = Rays(torch.tensor(OUTSIDE).double() + lift, torch.tensor(THROUGH).double())
        along = (translation - rays.origins) @ rays.directions[0]
        exact = along - (radius**2 - (translation - rays.origins).square().sum(-1) + along**2).sqrt()
        return hit_distance_reference([instance], rays, Hits(exact.detach(), torch.tensor([0]))), exact

    inputs = [
        offset.clone().requires_grad_(),
        torch.tensor(0.5).double().requires_grad_(),
        torch.zeros(1, 3).double().requires_grad_(),
    ]
    implicit, exact = hit_distance(*inputs)
    for got, want in zip(torch.autograd.grad(implicit, inputs), torch.autograd.grad(exact, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_an_empty_scene_has_no_surface():
    assert trace_reference([], _rays(OUTSIDE, THROUGH)).owner.tolist() == [-1]
    got = query_reference([], torch.zeros(2, 3).double())
    assert bool((got.sdf == math.inf).all()) and got.owner.tolist() == [-1, -1] and got.feature.shape == (2, 0)


def test_shared_fields_stay_shared_in_float64():
    field = Sphere(1.0)
    a, b = in_double([Instance("a", field, SE3.identity()), Instance("b", field, SE3.identity(), 2.0, lit=False)])
    assert a.field is b.field and a.field is not field and a.field.box_lo.dtype == torch.float64
    assert field.box_lo.dtype == torch.float32 and b.scale == 2.0 and not b.lit
