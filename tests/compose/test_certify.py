"""Bounds of sine networks: they hold (against 80-bit arithmetic), they are tight, and no false sign is certified."""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compose.batch import FieldBatch
from compose.certify import affine_bounds, certified_sign, derivatives, gradient_bounds, sine_line
from compose.distance_weights import evaluation_error, weights_of
from objects import Aabb, SirenField

_CORNERS = np.stack(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]), -1).reshape(-1, 3)


@dataclasses.dataclass(frozen=True)
class _Make:
    """A network with random weights, some of them far from those that are learned."""

    seed: int
    width: int
    layers: int
    omega: float
    scale: float  # of all weights
    offset: float  # of the box from the origin

    def field(self) -> SirenField:
        center = torch.tensor([1.0, -0.7, 0.4]) * self.offset
        half = torch.tensor([0.5, 0.8, 0.3])
        field = SirenField(
            Aabb(center - half, center + half),
            width=self.width,
            layers=self.layers,
            color_width=1,
            color_layers=1,
            omega_first=self.omega,
            omega_hidden=self.omega,
            seed=self.seed,
        )
        with torch.no_grad():
            for p in field.distance.parameters():
                p *= self.scale
        return field


_makes = st.builds(
    _Make,
    seed=st.integers(0, 10_000),
    width=st.sampled_from([1, 2, 7, 16]),
    layers=st.integers(1, 3),
    omega=st.sampled_from([1.0, 30.0, 77.7]),
    scale=st.sampled_from([0.3, 1.0, 1.0, 3.0, 1e3, 1e6]),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
)


def _linears(field: SirenField) -> list[nn.Linear]:
    return cast(list[nn.Linear], list(field.distance.linears))


def _exact(field: SirenField, p: np.ndarray, along: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The network, and its derivative along ``along``, in 80-bit arithmetic; ``p [..., 3]`` in the object frame."""
    net, real = field.distance, np.longdouble
    half = real(float(field.half_extent))
    x = (p.astype(real) - field.center.numpy().astype(real)) / half
    d = (np.zeros_like(x) if along is None else along.astype(real)) / half
    omega = real(net.shape.omega_first)
    for linear in _linears(field):
        w, b = linear.weight.detach().numpy().astype(real), linear.bias.detach().numpy().astype(real)
        x, d = (x[..., None, :] * w).sum(-1) + b, (d[..., None, :] * w).sum(-1)
        if linear is not _linears(field)[-1]:
            x, d = np.sin(omega * x), np.cos(omega * x) * omega * d
            omega = real(net.shape.omega_hidden)
    return x[..., 0] * half, d[..., 0] * half


def _steepness(field: SirenField, p: np.ndarray) -> np.ndarray:
    """Length of the network's gradient."""
    return np.sqrt(sum(_exact(field, p, axis)[1] ** 2 for axis in np.eye(3)))


def _cells(field: SirenField, size: float, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = field.box_lo.numpy(), field.box_hi.numpy()
    return rng.uniform(lo, hi, (n, 3)), size * rng.uniform(0, 1, (n, 3)) * (rng.random((n, 3)) < 0.9)


def _one_unit(weight: float, bias: float, last: float, last_bias: float) -> SirenField:
    """``last sin(weight x + bias) + last_bias`` in the box from -1 to 1."""
    unit = torch.ones(3)
    field = SirenField(Aabb(-unit, unit), width=1, layers=1, color_width=1, color_layers=1, omega_first=1.0)
    values = ([[weight, 0.0, 0.0]], [bias], [[last]], [last_bias])
    with torch.no_grad():
        for p, value in zip(field.distance.parameters(), values, strict=True):
            p.copy_(torch.tensor(value))
    return field


def _learned(width: int, layers: int) -> SirenField:
    """A sphere of radius 0.6, known to 1e-3: the last layer is fitted to random features."""
    unit = torch.ones(3)
    make = {"width": width, "layers": layers, "color_width": 1, "color_layers": 1}
    field = SirenField(Aabb(-unit, unit), **make, omega_first=4.0, omega_hidden=4.0)
    p = torch.rand(6000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        x = p
        for omega, linear in zip(field.distance.shape.omegas, _linears(field), strict=False):
            x = torch.sin(omega * linear(x))
        one = torch.ones(len(p), 1)
        features, target = torch.cat([x, one], 1).double(), p.norm(dim=1).double() - 0.6
        damping = 1e-3 * torch.eye(width + 1).double()
        solved = torch.linalg.solve(features.T @ features + damping, features.T @ target)
        last = _linears(field)[-1]
        last.weight.copy_(solved[None, :-1])
        last.bias.copy_(solved[-1:])
    return field


# -- the line of one sine --------------------------------------------------------------------------------------------


@given(middle=st.floats(-200, 200), radius=st.floats(0, 3.5))
@settings(max_examples=300)
def test_the_line_of_a_sine_holds_and_is_nearly_the_best_line(middle, radius):
    slope, value, miss = sine_line(middle, radius)
    u = np.linspace(-1, 1, 1001).astype(np.longdouble) * radius
    sine = np.sin(np.longdouble(middle) + u)
    assert (abs(sine - (np.longdouble(value) + np.longdouble(slope) * u)) <= miss).all()
    if miss < 1:
        slopes = slope + radius * np.linspace(-0.3, 0.3, 301)
        best = 0.5 * np.ptp(sine.astype(float) - slopes[:, None] * u.astype(float), 1).min()
        assert miss <= 1.02 * best + 1e-3 * radius**2 + 1e-12


def test_the_line_of_a_short_sine_is_the_chord_moved_by_half_of_the_sagitta():
    slope, value, miss = sine_line(0.7, 0.1)
    chord = (np.sin(0.8) - np.sin(0.6)) / 0.2
    touch = np.arccos(chord)
    sagitta = np.sin(touch) - (np.sin(0.6) + chord * (touch - 0.6))
    assert slope == pytest.approx(chord, abs=1e-13)
    assert miss == pytest.approx(0.5 * sagitta, abs=1e-13)
    assert value == pytest.approx(np.sin(0.6) + chord * 0.1 + 0.5 * sagitta, abs=1e-13)


@pytest.mark.parametrize("radius", [0.1, 1.0, 2.0, 3.0])
def test_the_line_of_a_sine_about_zero_touches_on_the_other_side(radius):
    slope, value, miss = sine_line(0.0, radius)
    assert value == 0
    assert miss == pytest.approx(
        abs(np.sin(radius) - slope * radius), rel=0.06
    )  # the ends miss as much as the extremes
    chord = np.sin(radius) / radius
    assert miss < 0.9 * (np.sin(np.arccos(chord)) - chord * np.arccos(chord))


def test_the_line_of_a_long_or_huge_sine_is_all_of_it():
    for middle, radius in [(0.3, 3.2), (0.3, np.inf), (1e20, 0.1), (np.nan, 0.1), (0.1, np.nan)]:
        assert sine_line(middle, radius) == (0, 0, 1)


# -- bounds of networks ----------------------------------------------------------------------------------------------


@given(make=_makes, size=st.sampled_from([0.0, 1e-9, 1e-4, 0.01, 0.1, 1.0]))
@settings(max_examples=120)
def test_bounds_hold_in_boxes_of_all_sizes(make, size):
    field, rng = make.field(), np.random.default_rng(make.seed)
    centre, half = _cells(field, size, 8, rng)
    gradient, middle, error = affine_bounds(field, centre, half)
    u = np.concatenate([_CORNERS, rng.uniform(-1, 1, (56, 3))]).astype(np.longdouble)
    away = u * half[:, None]
    truth = _exact(field, centre[:, None] + away)[0]
    assert (abs(truth - (middle[:, None] + (gradient[:, None] * away).sum(-1))) <= error[:, None]).all()


@pytest.mark.parametrize(("width", "layers"), [(32, 2), (72, 3)])
def test_bounds_of_usual_networks_hold_and_tighten_with_the_square_of_the_size(width, layers):
    field = _Make(3, width, layers, 30.0, 1.0, 1.0).field()
    rng = np.random.default_rng(0)
    centre, half = _cells(field, 0.02, 40, rng)
    u = np.concatenate([_CORNERS, rng.uniform(-1, 1, (60, 3))])
    errors = []
    for size in (1.0, 0.5, 0.25):
        gradient, middle, error = affine_bounds(field, centre, size * half)
        away = size * u * half[:, None]
        truth = _exact(field, centre[:, None] + away)[0]
        assert (abs(truth - (middle[:, None] + (gradient[:, None] * away).sum(-1))) <= error[:, None]).all()
        errors.append(np.median(error))
    assert errors[0] > 3.5 * errors[1] > 12 * errors[2]


def test_bounds_of_a_point_are_its_value_but_for_rounding():
    field = _Make(5, 32, 3, 30.0, 1.0, 1.0).field()
    centre, _ = _cells(field, 0.0, 20, np.random.default_rng(1))
    _, middle, error = affine_bounds(field, centre, np.zeros_like(centre))
    assert (error < 1e-9).all()
    assert (abs(middle - _exact(field, centre)[0]) <= error).all()


@pytest.mark.parametrize(
    "field",
    [
        _one_unit(1e6, 3e5, 1.0, 0.0),  # the argument of the sine is a small difference of large numbers
        _one_unit(1.0, 0.2, 0.5, 1e6),  # so is the distance
    ],
)
def test_the_rounding_of_sums_is_part_of_bounds(field):
    centre = np.zeros((200, 3))
    centre[:, 0] = -0.3 + np.random.default_rng(0).uniform(0, 1e-6, 200)
    _, middle, error = affine_bounds(field, centre, np.zeros_like(centre))
    missed = abs(middle - _exact(field, centre)[0])
    assert missed.max() > 1e-12
    assert (missed <= error).all()


def test_bounds_of_one_unit_are_those_of_its_sine():
    field = _one_unit(2.0, 0.25, 3.0, 0.5)  # 3 sin(2 x + 0.25) + 0.5
    gradient, middle, error = affine_bounds(field, np.array([[0.3, 0.1, 0.2]]), np.array([[0.1, 0.5, 0.5]]))
    slope, value, miss = sine_line(0.85, 0.2)
    assert gradient[0] == pytest.approx([6 * slope, 0, 0], abs=1e-12)
    assert middle[0] == pytest.approx(3 * value + 0.5, abs=1e-12)
    assert error[0] == pytest.approx(3 * miss, rel=1e-9)


def test_two_units_that_cancel_leave_no_error():
    """Their errors are the same symbol after the second layer: what merges them there answers more than rounding."""
    field = _Make(0, 2, 2, 1.0, 1.0, 0.0).field()
    field.requires_grad_(False)
    first, second, last = _linears(field)
    with torch.no_grad():
        second.weight.copy_(torch.tensor([[0.5, 0.3], [0.5, 0.3]]))
        second.bias.zero_()
        last.weight.copy_(torch.tensor([[1.0, -1.0]]))
        first.weight.mul_(0.3)
    _, _, error = affine_bounds(field, np.zeros((1, 3)), np.full((1, 3), 0.2))
    lines = [sine_line(float(first.bias[i]), 0.25 * float(first.weight[i].abs().sum())) for i in range(2)]
    merged = 2 * 0.5 * sum(miss for *_, miss in lines)
    assert error[0] < 0.2 * merged


def test_weights_beyond_reason_give_no_nan():
    for scale in (1e18, 1e36):
        field = _Make(0, 8, 3, 30.0, scale, 1.0).field()
        centre, half = _cells(field, 0.1, 4, np.random.default_rng(0))
        for part in affine_bounds(field, centre, half):
            assert not np.isnan(part).any()
        assert (certified_sign(field, centre, half) == 0).all()
    gradient, middle, error = affine_bounds(field, centre * 1e280, half * 1e280)
    assert (gradient == 0).all() and (middle == 0).all() and np.isinf(error).all()
    assert np.isinf(gradient_bounds(field, centre * 1e280, half * 1e280)).all()


# -- slopes ----------------------------------------------------------------------------------------------------------


@given(make=_makes, size=st.sampled_from([1e-6, 1e-3, 0.01, 0.05, 0.3]))
@settings(max_examples=80)
def test_bounds_of_the_derivatives_hold_all_over_boxes(make, size):
    field, rng = make.field(), np.random.default_rng(make.seed)
    centre, reach = _cells(field, size, 20, rng)
    weights = weights_of(field)
    middle, reach = (centre - weights.center) / weights.half_extent, reach / weights.half_extent
    line, error = derivatives(weights, middle, reach)
    u = np.concatenate([_CORNERS, rng.uniform(-1, 1, (32, 3))]).astype(np.longdouble) * reach[:, None]
    p = weights.center + np.longdouble(weights.half_extent) * (middle[:, None] + u)
    for j, axis in enumerate(np.eye(3)):
        truth = _exact(field, p, axis)[1]
        assert (abs(truth - (line[:, None, j, 0] + (line[:, None, j, 1:] * u).sum(-1))) <= error[:, None, j]).all()


@given(make=_makes, size=st.sampled_from([0.0, 1e-9, 1e-4, 0.01, 0.1, 1.0]))
@settings(max_examples=100)
def test_gradients_in_boxes_of_all_sizes_are_no_longer_than_their_bounds(make, size):
    field, rng = make.field(), np.random.default_rng(make.seed)
    centre, half = _cells(field, size, 8, rng)
    bound = gradient_bounds(field, centre, half)
    u = np.concatenate([_CORNERS, rng.uniform(-1, 1, (56, 3))]).astype(np.longdouble)
    assert (_steepness(field, centre[:, None] + u * half[:, None]) <= bound[:, None]).all()


def test_bounds_of_gradients_are_tight_in_small_boxes():
    field = _Make(3, 32, 2, 30.0, 1.0, 0.0).field()
    centre, half = _cells(field, 0.0, 40, np.random.default_rng(0))
    at_point = gradient_bounds(field, centre, half)
    np.testing.assert_allclose(at_point, _steepness(field, centre).astype(float), rtol=1e-9)
    looseness = [(gradient_bounds(field, centre, half + size) - at_point).max() for size in (4e-3, 2e-3, 1e-3)]
    assert looseness[0] > 1.8 * looseness[1] > 3.2 * looseness[2] > 0


def test_the_gradient_of_one_unit_is_bounded_by_its_cosine():
    field = _one_unit(2.0, 0.0, 1.5, 0.0)  # 1.5 sin(2 x)
    centre, half = np.array([[0.5, 0.1, 0.2]]), np.array([[0.1, 0.5, 0.5]])
    slope, value, miss = sine_line(1.0 + np.pi / 2, 0.2)
    assert gradient_bounds(field, centre, half)[0] == pytest.approx(3 * (value + abs(slope) * 0.2 + miss), rel=1e-9)
    assert 3 * np.cos(0.8) < gradient_bounds(field, centre, half)[0] < 3 * np.cos(0.8) + 0.05


# -- what float32 makes of it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "n"),
    [
        (_Make(0, 32, 2, 30.0, 1.0, 0.0), 1_000_000),
        (_Make(0, 1, 1, 1.0, 1.0, 1000.0), 20_000),  # the rounding of the points
        (_Make(0, 1, 2, 1.0, 30.0, 0.0), 20_000),  # grown by the second layer
        (_Make(2, 1, 1, 4000.0, 1.0, 0.0), 20_000),  # the rounding of large arguments
        (_Make(0, 4, 2, 30.0, 1e5, 0.0), 20_000),  # beyond the range of a float32 sine
    ],
)
def test_no_evaluation_in_float32_is_farther_off_than_promised(make, n):
    field = make.field()
    lo, hi = field.box_lo.double(), field.box_hi.double()
    p = lo + (hi - lo) * torch.rand(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    double = field.in_double()
    promised = evaluation_error(field)
    with torch.no_grad():
        batch = FieldBatch([field])
        for q in p.split(50_000):
            truth = double.sdf(q)
            assert (field.sdf(q.float()).double() - truth).abs().max() <= promised
            assert (batch.sdf(torch.zeros(len(q), dtype=torch.int64), q) - truth).abs().max() <= promised


def test_the_error_of_float32_is_small_for_usual_networks():
    field = _Make(0, 32, 2, 30.0, 1.0, 0.0).field()
    assert 1e-6 < evaluation_error(field) / float(field.half_extent) < 3e-4
    assert evaluation_error(weights_of(field)) == evaluation_error(field)


def test_the_error_of_float32_of_one_unit_is_what_the_text_says():
    """Points to 4 units of rounding; 9 for the sum of 3, 7 for the sum of 1; the sine; the result in object units."""
    unit = 2.0**-24
    sine = 1000 * (4 + 9 + 2) * unit + 3e-7
    assert evaluation_error(_one_unit(1000.0, 0.0, 1.0, 0.0)) == pytest.approx(sine + 9 * unit, rel=2e-3)
    assert evaluation_error(_one_unit(1.0, 0.0, 1.0, 0.0)) == pytest.approx((15 + 9) * unit + 3e-7, rel=1e-4)
    # An argument too large for a float32 sine says nothing.
    assert evaluation_error(_one_unit(1e5, 0.0, 1.0, 0.0)) == pytest.approx(2, rel=1e-5)


def test_nothing_is_promised_of_weights_with_which_float32_may_overflow():
    for huge in ((1e35, 0.0, 1.0, 0.0), (1.0, 1e35, 1.0, 0.0), (1.0, 0.0, 1e35, 0.0), (1.0, 0.0, 1.0, 1e35)):
        assert evaluation_error(_one_unit(*huge)) == np.inf
    assert certified_sign(_one_unit(1.0, 0.0, 1.0, 1e35), np.zeros((1, 3)), np.zeros((1, 3)))[0] == 0


def test_the_error_of_float32_is_that_of_rounded_points_where_the_box_is_far_away():
    """One unit of slope 0.5: points about 1024 move by up to 2^-14 each."""
    field = _Make(0, 1, 1, 1.0, 1.0, 0.0).field()
    near = evaluation_error(field)
    for v in (field.box_lo, field.box_hi, field.center):
        v += 1024.0
    field.requires_grad_(False)
    first, last = _linears(field)
    slope = float((last.weight * first.weight).abs().sum())
    assert evaluation_error(field) - near == pytest.approx(slope * 1024 * 2**-24, rel=0.01)


# -- signs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "layers"), [(32, 2), (24, 3)])
def test_certified_signs_of_a_sphere_are_right_and_leave_only_cells_near_its_surface(width, layers):
    field = _learned(width, layers)
    n = 16
    at = (np.arange(n) + 0.5) / n * 2 - 1
    centre = np.stack(np.meshgrid(at, at, at), -1).reshape(-1, 3)
    half = np.full_like(centre, 1 / n)
    sign = certified_sign(field, centre, half)
    p = torch.from_numpy(centre[:, None] + np.concatenate([_CORNERS, np.zeros((1, 3))]) * half[:, None])
    with torch.no_grad():
        sdf = field.sdf(p.reshape(-1, 3).float()).reshape(len(centre), -1).numpy()
    assert (sdf[sign > 0] > 0).all() and (sdf[sign < 0] < 0).all()
    distance = np.linalg.norm(centre, axis=1) - 0.6
    assert (sign[distance > 0.3] == 1).all() and (sign[distance < -0.3] == -1).all()


def test_a_sheet_between_the_samples_is_not_missed():
    """The field is negative in two sheets; corners, centre and the middles of edges and faces lie outside of them."""
    field = _one_unit(4 * np.pi, np.pi / 2, 1.0, 0.5)  # cos(4 pi x) + 0.5
    centre, half = np.zeros((1, 3)), np.full((1, 3), 0.5)
    samples = np.stack(np.meshgrid(*[[-0.5, 0.0, 0.5]] * 3), -1).reshape(-1, 3)
    assert (_exact(field, samples)[0] > 1).all()
    assert _exact(field, np.array([0.25, 0.0, 0.0]))[0] < 0
    assert certified_sign(field, centre, half)[0] == 0
    assert certified_sign(
        field, np.array([[0.04, 0, 0], [0.25, 0, 0]]), np.array([[0.08, 1, 1], [0.05, 0.9, 0.9]])
    ).tolist() == [1, -1]


def test_no_sign_is_certified_within_the_error_of_float32():
    field = _one_unit(1.0, 0.0, 1.0, 0.0)  # sin x
    margin = evaluation_error(field)
    centre = np.zeros((4, 3))
    centre[:, 0] = [-1.1 * margin, -0.9 * margin, 0.9 * margin, 1.1 * margin]
    assert certified_sign(field, centre, np.zeros((4, 3))).tolist() == [-1, 0, 0, 1]


def test_beyond_its_box_a_field_has_the_sign_of_the_nearest_point_or_is_positive():
    outside, inside = _one_unit(1.0, 0.0, 0.0, 1.0), _one_unit(1.0, 0.0, 0.0, -1.0)
    centre = np.array([[0.0, 0, 0], [0.95, 0, 0], [5.0, 0, 0]])
    half = np.full((3, 3), 0.1)
    assert certified_sign(outside, centre, half).tolist() == [1, 1, 1]
    assert certified_sign(inside, centre, half).tolist() == [-1, 0, 0]
    wave = _one_unit(np.pi / 2, -np.pi / 4, 1.0, 0.0)  # negative below 0.5, and its network again beyond 2.5
    at_three = np.array([[3.0, 0.0, 0.0]])
    assert _exact(wave, at_three)[0] < 0
    assert certified_sign(wave, at_three, half[:1]).tolist() == [1]


# -- wrong input -----------------------------------------------------------------------------------------------------


def test_wrong_input_is_named():
    field = _one_unit(1.0, 0.0, 1.0, 0.0)
    two, three = np.zeros((2, 3)), np.zeros((3, 3))
    for ask in (affine_bounds, certified_sign, gradient_bounds):
        with pytest.raises(ValueError, match=rf"{ask.__name__}: expected two arrays \[n, 3\].*\[2, 3\].*\[3, 3\]"):
            ask(field, two, three)
        with pytest.raises(ValueError, match=f"{ask.__name__}: expected finite"):
            ask(field, two, np.full((2, 3), np.nan))
    for ask in (affine_bounds, certified_sign, gradient_bounds):
        with pytest.raises(ValueError, match=f"{ask.__name__}: expected half sizes of 0 or more"):
            ask(field, two, two - 1)
    with torch.no_grad():
        _linears(field)[0].bias.fill_(torch.inf)
    with pytest.raises(ValueError, match="expected finite weights"):
        weights_of(field)


def test_no_boxes_no_answers():
    field, none = _one_unit(1.0, 0.0, 1.0, 0.0), np.zeros((0, 3))
    assert [len(part) for part in affine_bounds(field, none, none)] == [0, 0, 0]
    assert len(certified_sign(field, none, none)) == len(gradient_bounds(field, none, none)) == 0
