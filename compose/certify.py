"""Proven bounds of the distance network of a SIREN over boxes, by affine arithmetic.

A quantity is kept as an affine form: a middle, a coefficient for each symbol of the input (three for a box) and one for
each sine unit so far, every symbol being any number in [-1, 1]. A linear layer maps forms to forms. A sine is a line,
the best one over the range of its argument, plus a new symbol for what the line misses. Nothing is merged on the way
("affine-all").

What is bounded is the network in exact arithmetic, its weights being the numbers that the field holds; the rounding of
the analysis, in float64, is part of each bound. What float32 makes of the network is `evaluation_error`. Outside of its
box a field is not its network (`Field.forward`): `affine_bounds` and `gradient_bounds` speak of the field only inside
its box.

Source: Sharp, Jacobson, "Spelunking the Deep: Guaranteed Queries on General Neural Implicit Surfaces via Range
Analysis" (SIGGRAPH 2022), sections 3.2 and 3.3. Lines for the sine: Chebyshev's alternation theorem. Rounding of sums:
Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 3.1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int8

from compose.distance_weights import Weights, as_weights, evaluation_error
from objects.siren import SirenField

_BLOCK = 32  # inputs that share their working memory
_UNIT = 2.0**-52  # twice the unit roundoff of float64: the bounds below need not be counted to the last operation
_SINE_UNIT = 2.0**-48  # bounds the error of one evaluation of a line of the sine, relative to 1 + |argument|
_SUM = 1.0 + 1e-12  # more than the rounding of a sum of thousands of positive terms
_PI_REST = 1.2246467991473532e-16  # pi - math.pi

_Points = Float[np.ndarray, "n 3"]
_Values = Float[np.ndarray, "n"]
_Signs = Int8[np.ndarray, "n"]


def affine_bounds(field: SirenField | Weights, centre: _Points, half: _Points) -> tuple[_Points, _Values, _Values]:
    """A linear function and its proven error over axis-aligned boxes.

    Args:
        field: The field, or its `weights_of`.
        centre, half: Middle and half size of each box (object frame, object units); half sizes may be 0.

    Returns:
        ``gradient [n 3]``, ``middle [n]`` and ``error [n]`` (object units) such that at each point ``p`` of box k
        ``|sdf(p) - (middle[k] + gradient[k] . (p - centre[k]))| <= error[k]``, where ``sdf`` is the network in exact
        arithmetic. Where numbers overflow, the error is infinite.

    Raises:
        ValueError: Arrays of the wrong shape, numbers that are not finite, or a negative half size.
    """
    weights = as_weights(field)
    centre, half = _boxes("affine_bounds", centre, half)
    middle = (centre - weights.center) / weights.half_extent
    form, error = _affine(weights, middle, half / weights.half_extent)
    return form[:, 1:], form[:, 0] * weights.half_extent, error * weights.half_extent


def gradient_bounds(field: SirenField | Weights, centre: _Points, half: _Points) -> _Values:
    """Proven upper bounds of the length of the gradient over axis-aligned boxes.

    What float32 makes of the network may be steeper over distances in which its `evaluation_error` counts.

    Args:
        field: The field, or its `weights_of`.
        centre, half: Middle and half size of each box (object frame, object units); half sizes may be 0.

    Returns:
        ``[n]``, object units of distance for each object unit; infinite where numbers overflow.

    Raises:
        ValueError: Arrays of the wrong shape, numbers that are not finite, or a negative half size.
    """
    weights = as_weights(field)
    centre, half = _boxes("gradient_bounds", centre, half)
    middle, reach = (centre - weights.center) / weights.half_extent, half / weights.half_extent
    line, error = derivatives(weights, middle, reach)
    # Up to the error the gradient is affine in the box, its length convex: it is largest in a corner.
    corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), -1).reshape(-1, 3)
    away = corners * reach[:, None]
    inner = line[:, None, :, 0] + np.einsum("nij,ncj->nci", line[:, :, 1:], away)
    rounding = 8 * _UNIT * (np.abs(line[:, :, 0]) + (np.abs(line[:, :, 1:]) * reach[:, None]).sum(-1))
    return (np.linalg.norm(inner, axis=-1).max(1) + np.linalg.norm(error + rounding, axis=-1)) * _SUM


def certified_sign(field: SirenField | Weights, centre: _Points, half: _Points) -> _Signs:
    """The sign that the field is proven to have all over axis-aligned boxes, also when evaluated in float32.

    Args:
        field: The field, or its `weights_of`.
        centre, half: Middle and half size of each box (object frame, object units). Boxes may reach out of the
            field's: there the sign is that of the nearest point of the field's box, or positive.

    Returns:
        +1 where the box is proven to lie outside of the object, -1 inside, 0 unknown. A box that touches or leaves the
        field's is never -1.

    Raises:
        ValueError: As `affine_bounds`.
    """
    weights = as_weights(field)
    centre, half = _boxes("certified_sign", centre, half)
    lo, hi = np.nextafter(centre - half, -np.inf), np.nextafter(centre + half, np.inf)
    beyond = ((lo < weights.box_lo) | (hi > weights.box_hi)).any(1)
    lo, hi = np.clip(lo, weights.box_lo, weights.box_hi), np.clip(hi, weights.box_lo, weights.box_hi)
    centre = 0.5 * (lo + hi)
    half = np.nextafter(np.maximum(hi - centre, centre - lo), np.inf)
    gradient, middle, error = affine_bounds(weights, centre, half)
    sign = _sign(middle, (np.abs(gradient) * half).sum(1) + error + evaluation_error(weights))
    return np.where(beyond & (sign < 0), np.int8(0), sign)


def _checked(name: str, **points: np.ndarray) -> list[np.ndarray]:
    arrays = [np.ascontiguousarray(p, dtype=np.float64) for p in points.values()]
    if any(a.ndim != 2 or a.shape[1] != 3 or len(a) != len(arrays[0]) for a in arrays):
        shapes = ", ".join(f"{k} {list(a.shape)}" for k, a in zip(points, arrays, strict=True))
        raise ValueError(f"{name}: expected two arrays [n, 3] of equal length, got {shapes}")
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError(f"{name}: expected finite numbers in {' and '.join(points)}")
    return arrays


def _boxes(name: str, centre: np.ndarray, half: np.ndarray) -> list[np.ndarray]:
    arrays = _checked(name, centre=centre, half=half)
    if (arrays[1] < 0).any():
        raise ValueError(f"{name}: expected half sizes of 0 or more")
    return arrays


def _sign(middle: np.ndarray, spread: np.ndarray) -> np.ndarray:
    spread = spread * _SUM
    return (middle > spread).astype(np.int8) - (middle < -spread).astype(np.int8)


# -- compiled ----------------------------------------------------------------------------------------------------------


class _Form(NamedTuple):
    """The affine forms of a layer, before its sine or after it; ``s`` error symbols come from the layers before.

    Attributes:
        line: ``[4, width]``: the middle, then the coefficients of the three symbols of the input.
        kept: ``[width, >= s]``: coefficients of the error symbols.
        fresh: ``[width]``, before the sine: what no symbol stands for, from rounding; after it: the coefficient of
            each unit's new error symbol.
        rest: ``[width]``, before the sine: the range of everything but ``line``.
        size: ``[width]``, after the sine: bounds the sum of the absolute values of all coefficients.
    """

    line: np.ndarray
    kept: np.ndarray
    fresh: np.ndarray
    rest: np.ndarray
    size: np.ndarray


@numba.njit(cache=True, parallel=True)
def _affine(weights, middle, reach):
    """Bounds of the network at ``x = middle + e``, ``|e_k| <= reach[k]`` (the network's frame).

    Returns ``line [n, 4]`` (the middle, then the slope along each axis) and ``error [n]``.
    """
    n, width = len(middle), weights.bias.shape[1]
    line, error = np.zeros((n, 4)), np.full(n, np.inf)
    for block in numba.prange((n + _BLOCK - 1) // _BLOCK):
        here, there = _new_form(weights, width), _new_form(weights, width)
        for at in range(block * _BLOCK, min(n, (block + 1) * _BLOCK)):
            _first(weights, middle[at], reach[at], here)
            for layer in range(len(weights.hidden)):
                _sine(here, layer, reach[at])
                _linear(weights.hidden[layer], weights.bias[layer + 1], here, layer, there)
                here, there = there, here
            _sine(here, len(weights.hidden), reach[at])
            _linear(weights.last, weights.last_bias, here, len(weights.hidden), there)
            _store(there, 0, line[at], error[at : at + 1])
    return line, error


@numba.njit(cache=True, parallel=True)
def derivatives(weights, middle, reach):
    """Bounds of the network's derivatives along x, y, z at ``x = middle + e``, ``|e_k| <= reach[k]`` (the network's frame).

    The gradient is the product of the matrices of the linear layers and the cosines of what enters the sines, taken from the
    last layer on, in affine forms: one pass gives all three.

    Returns ``line [n, 3, 4]`` and ``error [n, 3]``: the derivative along ``j`` is ``line[j, 0] + sum_k line[j, 1 + k] e_k`` up to
    ``error[j]``.
    """
    n, n_hidden = len(middle), len(weights.hidden)
    width = weights.bias.shape[1]
    none = np.zeros(max(width, 3))
    turned = np.zeros(weights.hidden.shape)
    for layer in range(n_hidden):
        turned[layer] = weights.hidden[layer].T
    first = np.ascontiguousarray(weights.first.T)
    line, error = np.zeros((n, 3, 4)), np.full((n, 3), np.inf)
    for block in numba.prange((n + _BLOCK - 1) // _BLOCK):
        arguments = [_new_form(weights, width) for _ in range(n_hidden + 1)]
        here, there = _new_form(weights, width), _new_form(weights, width)
        spare, out = _new_form(weights, width), _new_form(weights, 3)
        for at in range(block * _BLOCK, min(n, (block + 1) * _BLOCK)):
            _first(weights, middle[at], reach[at], arguments[0])
            for layer in range(n_hidden):
                _copy(arguments[layer], layer, spare)
                _sine(spare, layer, reach[at])
                _linear(weights.hidden[layer], weights.bias[layer + 1], spare, layer, arguments[layer + 1])
            _numbers(weights.last[0], here)
            for step in range(n_hidden):
                _times_cosine(here, arguments[n_hidden - step], step, reach[at])
                _linear(turned[n_hidden - 1 - step], none, here, step, there)
                here, there = there, here
            _times_cosine(here, arguments[0], n_hidden, reach[at])
            _linear(first, none, here, n_hidden, out)
            for j in range(3):
                _store(out, j, line[at, j], error[at, j : j + 1])
    return line, error


@numba.njit(cache=True)
def _new_form(weights, units):
    symbols = weights.bias.size
    return _Form(np.zeros((4, units)), np.zeros((units, symbols)), np.zeros(units), np.zeros(units), np.zeros(units))


@numba.njit(cache=True)
def _copy(form, layer, out):
    """A form before its sine, of the given layer."""
    out.line[:] = form.line
    out.fresh[:] = form.fresh
    out.rest[:] = form.rest
    out.kept[:, : layer * len(form.rest)] = form.kept[:, : layer * len(form.rest)]


@numba.njit(cache=True)
def _numbers(values, out):
    """Numbers, one a unit, as a form."""
    for i in range(len(values)):
        out.line[0, i] = values[i]
        out.line[1, i] = out.line[2, i] = out.line[3, i] = out.fresh[i] = out.rest[i] = 0.0


@numba.njit(cache=True)
def _store(form, unit, line, error):
    """A unit as the answer, unless something overflowed."""
    if np.isfinite(form.rest[unit]) and np.all(np.isfinite(form.line[:, unit])):
        line[:] = form.line[:, unit]
        error[0] = form.rest[unit]


@numba.njit(cache=True)
def _first(weights, middle, reach, out):
    """The first linear layer: no error symbols yet; any number, the inputs included, is rounded 16 times at most."""
    for i in range(len(weights.first)):
        w, bias = weights.first[i], weights.bias[0, i]
        out.line[0, i] = bias + w[0] * middle[0] + w[1] * middle[1] + w[2] * middle[2]
        size = abs(bias) + abs(w[0] * middle[0]) + abs(w[1] * middle[1]) + abs(w[2] * middle[2])
        for k in range(3):
            out.line[1 + k, i] = w[k]
            size += abs(w[k]) * reach[k]
        out.fresh[i] = out.rest[i] = 16 * _UNIT * size


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def _linear(weight, bias, x, layer, out):
    """A linear layer: ``x`` after its sine, of the given layer, to ``out`` before its own."""
    n_out, width = weight.shape
    old = layer * width
    _mix(weight, x.kept, old, out.kept)
    for i in range(n_out):
        w, kept = weight[i], out.kept[i]
        for k in range(len(x.line)):
            total, line = 0.0, x.line[k]
            for j in range(width):
                total += w[j] * line[j]
            out.line[k, i] = total
        out.line[0, i] += bias[i]
        rest = size = 0.0
        for j in range(width):
            new = w[j] * x.fresh[j]
            kept[old + j] = new
            rest += abs(new)
            size += abs(w[j]) * x.size[j]
        for s in range(old):
            rest += abs(kept[s])
        # The rounding of sums of `width` products, and of the few operations that made each factor.
        rounding = (width + 8) * _UNIT * (size + abs(bias[i]))
        out.fresh[i] = rounding
        out.rest[i] = (rest + rounding) * _SUM


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def _mix(weight, x, columns, out):
    """``out = weight x`` in the first ``columns``, two rows and four inputs at a time: few loads for each product."""
    n_out, n_in = weight.shape
    out[:n_out, :columns] = 0.0
    pairs, fours = n_out - n_out % 2, n_in - n_in % 4
    for i in range(0, pairs, 2):
        a, b, out_a, out_b = weight[i], weight[i + 1], out[i], out[i + 1]
        for j in range(0, fours, 4):
            a0, a1, a2, a3 = a[j], a[j + 1], a[j + 2], a[j + 3]
            b0, b1, b2, b3 = b[j], b[j + 1], b[j + 2], b[j + 3]
            x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
            for s in range(columns):
                y0, y1, y2, y3 = x0[s], x1[s], x2[s], x3[s]
                out_a[s] += a0 * y0 + a1 * y1 + a2 * y2 + a3 * y3
                out_b[s] += b0 * y0 + b1 * y1 + b2 * y2 + b3 * y3
    for i in range(n_out):
        for j in range(fours if i < pairs else 0, n_in):
            for s in range(columns):
                out[i, s] += weight[i, j] * x[j, s]


@numba.njit(cache=True)
def _sine(form, layer, reach):
    """The sine of each unit, in place."""
    old = layer * len(form.rest)
    for i in range(len(form.rest)):
        radius = form.rest[i]
        for k in range(len(reach)):
            radius += abs(form.line[1 + k, i]) * reach[k]
        slope, value, miss = sine_line(form.line[0, i], radius * _SUM)
        form.line[0, i] = value
        for k in range(len(reach)):
            form.line[1 + k, i] *= slope
        for s in range(old):
            form.kept[i, s] *= slope
        form.fresh[i] = miss + abs(slope) * form.fresh[i]
        form.size[i] = (abs(value) + abs(slope) * radius + miss) * _SUM


@numba.njit(cache=True)
def _times_cosine(form, argument, layer, reach):
    """Multiplies each unit, in place, by the cosine of the same unit of ``argument``.

    Both are given before their sine. With what no symbol of the input stands for, the product of two forms is ``(m + a . e +
    rest) (value + tilt . e + miss)``: its terms of first order are kept, those of second order bounded.
    """
    old = layer * len(form.rest)
    for i in range(len(form.rest)):
        middle, rest = form.line[0, i], form.rest[i]
        radius, size, turn = argument.rest[i], abs(middle) + rest, 0.0
        for k in range(len(reach)):
            radius += abs(argument.line[1 + k, i]) * reach[k]
        slope, value, miss = sine_line(argument.line[0, i] + 0.5 * math.pi, radius * _SUM)
        miss += abs(slope) * argument.rest[i]  # the cosine is value + slope argument.line[1:] . e, up to this
        shift = bend = 0.0
        for k in range(len(reach)):
            a, tilt = form.line[1 + k, i], slope * argument.line[1 + k, i]
            size += abs(a) * reach[k]
            turn += abs(tilt) * reach[k]
            both = 0.5 * a * tilt * reach[k] * reach[k]  # a tilt e_k^2 is within both of both
            shift += both
            bend += abs(both)
            for j in range(k):
                mixed = a * slope * argument.line[1 + j, i] + form.line[1 + j, i] * tilt
                bend += abs(mixed) * reach[k] * reach[j]
        form.line[0, i] = value * middle + shift
        for k in range(len(reach)):
            form.line[1 + k, i] = value * form.line[1 + k, i] + slope * argument.line[1 + k, i] * middle
        for s in range(old):
            form.kept[i, s] *= value
        rounding = 16 * _UNIT * size * (abs(value) + turn)
        form.fresh[i] = (bend + abs(value) * form.fresh[i] + turn * rest + miss * size + rounding) * _SUM
        form.size[i] = ((abs(value) + turn) * size + form.fresh[i]) * _SUM


@numba.njit(cache=True)
def sine_line(middle, radius):
    """The best line for the sine on ``[middle - radius, middle + radius]``.

    By shifts of pi and a change of sign the middle comes to [0, pi/2]. The best line misses by the same at three
    points, with alternating signs. Mostly these are both ends and an extreme between them: its slope is that of the
    chord. Where the range goes far enough beyond 0, where the sine turns, they are the farther end and two extremes:
    its slope is that of the line through the farther end that touches the sine on the other side of 0.

    Whatever the slope, what the line misses is taken from the extremes of ``sin x - slope x``, at the ends and where
    ``cos x`` is the slope, so that nothing rests on the slope being the best.

    Returns:
        ``slope, value, miss`` with ``|sin x - (value + slope (x - middle))| <= miss``; 0, 0, 1 if that says more.
    """
    if not radius < math.pi:
        return 0.0, 0.0, 1.0
    turns = math.floor(middle / math.pi + 0.5)
    at = (middle - turns * math.pi) - turns * _PI_REST
    sign = 1.0 - 2.0 * (turns - 2.0 * math.floor(0.5 * turns))
    mirror = 1.0 if at >= 0 else -1.0
    at = abs(at)
    lo, hi = at - radius, at + radius
    sin_lo, sin_hi = math.sin(lo), math.sin(hi)
    slope = (sin_hi - sin_lo) / (2 * radius) if radius > 1e-6 else math.cos(at)
    slope = max(0.0, min(1.0, slope))
    extreme = math.acos(slope)  # the next ones are -extreme, and 2 pi - extreme >= hi
    bend = math.sqrt((1.0 - slope) * (1.0 + slope)) - slope * extreme  # sin x - slope x at the extreme
    if -extreme > lo:
        fitted = hi * (0.5 + hi * hi * (-0.0064 - 0.00005 * hi * hi))  # to sin t + sin hi = cos t (t + hi)
        extreme = min(fitted, 0.5 * math.pi)
        slope = math.cos(extreme)
        bend = math.sin(extreme) - slope * extreme
    left, right = sin_lo - slope * lo, sin_hi - slope * hi
    low, high = min(left, right), max(left, right)
    if lo <= extreme <= hi:
        high = max(high, bend)
    if lo <= -extreme:
        low = min(low, -bend)
    miss = 0.5 * (high - low) + _SINE_UNIT * (1.0 + abs(middle) + radius)
    if not miss < 1:
        return 0.0, 0.0, 1.0
    return sign * slope, sign * mirror * (slope * at + 0.5 * (low + high)), miss
