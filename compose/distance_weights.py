"""The distance network of a SIREN in float64, and what float32 makes of it.

Rounding of sums: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 3.1.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import numpy as np
from torch import nn

from objects.siren import SirenField

_SUM = 1.0 + 1e-12  # more than the rounding of a sum of thousands of positive terms
_FLOAT32 = 2.0**-24  # unit roundoff of float32
_FLOAT32_SINE = 3e-7  # error of the sine of a float32 kernel, but for the reduction of its argument
_FLOAT32_LARGEST = 2.0**100  # numbers below it are far from overflowing
_FLOAT32_ARGUMENT = 2.0**15  # larger arguments may be reduced wrongly


class Weights(NamedTuple):
    """The distance network of a field in float64, frequencies multiplied in.

    ``first [w 3]``, ``hidden [layers-1 w w]``, ``last [1 w]``, ``bias [layers w]``, ``last_bias [1]``; in the object
    frame the field's ``box_lo``, ``box_hi`` and ``center [3]``, and its ``half_extent`` (object units).
    """

    first: np.ndarray
    hidden: np.ndarray
    last: np.ndarray
    bias: np.ndarray
    last_bias: np.ndarray
    box_lo: np.ndarray
    box_hi: np.ndarray
    center: np.ndarray
    half_extent: float


def weights_of(field: SirenField) -> Weights:
    """The distance network of a field, for the functions below to be called with more than once.

    Raises:
        ValueError: A weight that is not finite.
    """
    net = field.distance
    linears = [
        (linear.weight.detach().double().cpu().numpy(), linear.bias.detach().double().cpu().numpy())
        for linear in cast(list[nn.Linear], list(net.linears))
    ]
    if not all(np.isfinite(part).all() for linear in linears for part in linear):
        raise ValueError("weights_of: expected finite weights")
    width, omegas = net.shape.width, [*net.shape.omegas, 1.0]
    (first, _), *hidden, (last, last_bias) = scaled = [
        (o * w, o * b) for o, (w, b) in zip(omegas, linears, strict=True)
    ]
    return Weights(
        first,
        np.array([weight for weight, _ in hidden]).reshape(-1, width, width),
        last,
        np.array([bias for _, bias in scaled[:-1]]),
        last_bias,
        field.box_lo.double().cpu().numpy(),
        field.box_hi.double().cpu().numpy(),
        field.center.double().cpu().numpy(),
        float(field.half_extent),
    )


def as_weights(field: SirenField | Weights) -> Weights:
    return field if isinstance(field, Weights) else weights_of(field)


def evaluation_error(field: SirenField | Weights) -> float:
    """How far the network, evaluated in float32, can be from itself in exact arithmetic, at points of its box.

    The points are given in float64. It holds for any order of summation, for weights rounded with their frequency
    multiplied in or not, and for a sine whose error is below ``3e-7 + 2^-23 |argument|``. Each layer adds
    ``(n + 6) 2^-24 (|W| |x| + |b|)`` (Higham 2002, section 3.1) and grows what came in by ``|W|``, its Euclidean length by
    the largest singular value of ``W``, of which the smaller counts; a sine passes on no more than it gets.

    Returns:
        The bound, in object units; infinite for weights with which float32 may overflow.
    """
    w = as_weights(field)
    reach = np.maximum(np.abs(w.box_lo - w.center), np.abs(w.box_hi - w.center))
    largest = np.maximum(np.abs(w.box_lo), np.abs(w.box_hi))
    x = reach / w.half_extent
    error = _FLOAT32 * (largest / w.half_extent + 3 * x)  # the point in float32, minus the centre, over the half extent
    length = np.linalg.norm(error)
    for weight, bias in zip([w.first, *w.hidden], w.bias, strict=True):
        error, length, size = _float32_linear(weight, bias, x, error, length)
        if not (size < _FLOAT32_LARGEST).all():
            return math.inf
        of_sine = np.where(size < _FLOAT32_ARGUMENT, _FLOAT32_SINE + 2 * _FLOAT32 * size, 2.0)
        error, length = np.minimum(error + of_sine, 2.0 + _FLOAT32_SINE), length + np.linalg.norm(of_sine)
        x = np.ones(len(weight))
    error, _, size = _float32_linear(w.last, w.last_bias, x, error, length)
    bound = _SUM * w.half_extent * (error + 2 * _FLOAT32 * (size + error))[0]
    return float(bound) if max(1.0, w.half_extent) * size[0] < _FLOAT32_LARGEST else math.inf


def _float32_linear(weight, bias, x, error, length):
    """Errors of the outputs ``[m]`` of a float32 linear layer, their Euclidean length, and how large the outputs can be, from
    those of its inputs ``[n]``."""
    steepest, weight = _largest_stretch(weight), np.abs(weight)
    size = weight @ (x + error) + np.abs(bias)
    rounding = (weight.shape[1] + 6) * _FLOAT32
    rounding = rounding / (1 - rounding) * size
    length = _SUM * (steepest * min(length, np.linalg.norm(error)) + np.linalg.norm(rounding))
    return np.minimum(weight @ error + rounding, length), length, size


def _largest_stretch(weight):
    """An upper bound of the largest singular value of a matrix, by the Frobenius norm of ``(W^T W)^8``."""
    if not (unit := np.abs(weight).max()) > 0:
        return 0.0
    power = weight / unit
    power = power.T @ power
    for _ in range(3):
        power = power @ power
    return unit * np.linalg.norm(power) ** (1 / 16) * (1 + 1e-9)
