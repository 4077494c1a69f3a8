"""The index of what bends, over an interval of time (`compose.asset_cells`).

It is sampled at both ends of the interval and in its middle. Distances of what bends are divided by the largest stretch of its
warp, so that they change slowly in most places: how far a surface can be is judged by the slopes that are seen nearby, with a
factor for what samples miss, first for blocks by their corners, then for cells by theirs. Where a warp changes at once from one
part of a thing to another, distances jump, and a plane says little: such a cell is left out by its samples alone.
"""

from __future__ import annotations

import numpy as np

from compose.asset_cells import AssetCells, assembled, grid, lattice, packed_planes
from compose.intervals import Interval
from compose.sampled_cells import Ask, ask_once, asker, middle_and_half
from objects.field import Field

LONGEST = 48  # cells along the longest edge
_STEEPER = 1.65  # how much steeper than anywhere seen nearby a field may be
_SAFETY = 2.0  # factor on the largest deviation that the samples show
_BENT = 0.008  # a deviation of more than this share of what the distance may change over a cell calls for more samples
_MIN_BOUND = 1e-5  # of the box diagonal: float32 evaluation noise
_CLEAR = 4.0  # how much steeper than at most of the surface a field may be between samples that are of one sign
_CHUNK = 1 << 13  # cells sampled together


def drifting_cells(field: Field, when: Interval) -> AssetCells:
    """The index of a field over an interval of time.

    Raises:
        ValueError: The field is not finite somewhere in its box.
    """
    from scipy.ndimage import maximum_filter  # takes a while to load

    times = (when.start, 0.5 * (when.start + when.end), when.end) if when.end > when.start else (when.start,)
    lo, n, cell = grid(field, LONGEST)
    floor = _MIN_BOUND * float(np.linalg.norm(4 * n * cell))
    ask = asker(field, times, lo, cell)

    corners = 4 * np.stack(np.meshgrid(*(np.arange(k + 1) for k in n), indexing="ij"), -1).reshape(-1, 3)
    value = ask(corners.astype(float)).reshape(-1, *(n + 1))
    negative = value[0, :-1, :-1, :-1] < 0
    nearest, steepest = _seen(value, 4 * cell)
    steepest = maximum_filter(steepest, 3)
    blocks = np.argwhere(nearest <= _STEEPER * steepest * 0.5 * float(np.linalg.norm(4 * cell)) + floor)

    value = ask_once(ask, 4 * blocks, 5, 1).reshape(len(times), len(blocks), 5, 5, 5)
    nearest, steepest = _seen(value.reshape(-1, 5, 5, 5), cell, len(times))
    steepest = steepest.reshape(len(blocks), 64).max(1)
    near = nearest.reshape(len(blocks), 64) <= _STEEPER * steepest[:, None] * 0.5 * float(np.linalg.norm(cell)) + floor
    inside = value[0, :, :4, :4, :4].reshape(-1, 64) < 0
    lipschitz = max(field.lipschitz, float(steepest.max(initial=0.0)))

    at, sub = np.nonzero(near)
    corner = 4 * blocks[at] + np.stack(np.unravel_index(sub, (4, 4, 4)), -1)
    typical = _typical(steepest, inside)
    shares = [_planes(ask, corner[k : k + _CHUNK], cell, lipschitz, typical, floor) for k in range(0, len(at), _CHUNK)]
    nothing = np.zeros((0, 3)), *np.zeros((4, 0)), np.zeros(0, dtype=bool)
    gradient, drift, middle, bound, dent, clear = (
        np.concatenate(parts) for parts in zip(nothing, *shares, strict=True)
    )

    reach = 0.5 * np.abs(gradient) @ cell + np.abs(drift)
    drift_unit = np.abs(drift).max(initial=0.0) / 127
    unit = np.array([np.abs(gradient).max(initial=1e-30) / 127, 1.0, (reach + bound).max(initial=1e-30) / 32767])
    # Packing moves the plane by at most half a unit of each: that goes into the bound, before it is packed itself.
    packing = 0.5 * (unit[0] * 0.5 * cell.sum() + unit[2] + drift_unit)
    bound, dent = bound + packing, dent + packing
    some = (np.abs(middle) <= reach + bound) & ~clear
    unit[1] = bound[some].max(initial=1e-30) / 255
    packed = np.minimum(np.ceil(bound[some] / unit[1] - 1e-6), 255)
    plane = packed_planes(gradient[some] / unit[0], packed, np.clip(middle[some] / unit[2], -32767, 32767))
    surface = np.zeros((len(blocks), 64), dtype=bool)
    surface[at[some], sub[some]] = True
    inside[at, sub] = middle < 0
    mixed = np.zeros(n, dtype=bool)
    mixed[tuple(blocks.T)] = surface.any(1)
    negative[tuple(blocks.T)] = inside[:, 0]
    kept = surface.any(1)
    steps = None
    if drift_unit > 0:
        share = np.minimum(np.ceil(255 * dent[some] / (packed * unit[1])), 255).astype(np.uint8).view(np.int8)
        steps = np.stack([np.rint(drift[some] / drift_unit).astype(np.int8), share], 1), drift_unit
    return assembled(cell, mixed, negative, surface[kept], inside[kept], plane, unit, lipschitz, steps)


def _seen(value: np.ndarray, cell: np.ndarray, times: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Of lattices ``[t, x, y, z]`` (or of ``[t k, x, y, z]``, ``k`` at each of ``t`` times), for each of their cells: the least
    distance at its corners, less what it may change by between times; and the largest slope along its edges."""
    value = value.reshape(len(value) if times is None else times, -1, *value.shape[1:])
    nearest = np.abs(value).min(0)
    if len(value) > 1:
        nearest -= 0.5 * np.abs(np.diff(value, axis=0)).max(0)
    for a in range(1, 4):
        nearest = np.lib.stride_tricks.sliding_window_view(nearest, 2, a).min(-1)
    steepest = np.zeros_like(nearest)
    for a in range(3):
        slope = np.abs(np.diff(value, axis=a + 2)).max(0) / cell[a]
        for b in {0, 1, 2} - {a}:
            slope = np.lib.stride_tricks.sliding_window_view(slope, 2, b + 1).max(-1)
        steepest = np.maximum(steepest, slope)
    return (nearest[0], steepest[0]) if times is None else (nearest, steepest)


def _typical(steepest: np.ndarray, inside: np.ndarray) -> float:
    """How steep most blocks ``[k]`` are that have cells of both signs, ``inside [k, 64]``."""
    both = inside.any(1) & ~inside.all(1)
    return float(np.median(steepest[both])) if both.any() else np.inf


def _planes(
    ask: Ask, corner: np.ndarray, cell: np.ndarray, lipschitz: float, typical: float, floor: float
) -> tuple[np.ndarray, ...]:
    """Of the cells at ``corner [k, 3]``: gradient ``[k, 3]``, drift and middle of planes, how far the field may stray from them
    at all times, and at one time from a plane of its own; and which are without surface, whatever their planes say."""
    value = ask_once(ask, corner, 3, 2)
    own = value.reshape(len(value), -1, 3, 3, 3)
    slopes = np.stack([(own.take(2, 2 + a) - own.take(0, 2 + a)).mean((2, 3)) / cell[a] for a in range(3)], -1)
    gradient = slopes.mean(0)
    drift = 0.5 * (own[-1] - own[0]).mean((1, 2, 3))
    middle, deviation, dent = _strays(value, slopes, gradient, drift, cell)
    # Where the field is far from flat there may be an edge between the samples: these cells are looked at more closely.
    reach = 0.5 * np.abs(gradient) @ cell + np.abs(drift)
    bent = np.flatnonzero(
        (dent > _BENT * lipschitz * cell.min()) & (np.abs(middle) <= reach + 2 * _SAFETY * deviation + floor)
    )
    clear, margin = np.zeros(len(corner), dtype=bool), _CLEAR * typical * 0.125 * float(np.linalg.norm(cell))
    for k in range(0, len(bent), _CHUNK // 8):
        part = bent[k : k + _CHUNK // 8]
        value = ask_once(ask, corner[part], 5, 4)
        middle[part], deviation[part], dent[part] = _strays(value, slopes[:, part], gradient[part], drift[part], cell)
        nearest = np.abs(value).min(0) - 0.5 * np.abs(np.diff(value, axis=0, prepend=value[:1])).max(0)
        clear[part] = (np.ptp(np.sign(value), axis=(0, 2)) == 0) & (nearest.min(1) > margin)
    return gradient, drift, middle, _SAFETY * deviation + floor, _SAFETY * dent + floor, clear


def _strays(
    value: np.ndarray, slopes: np.ndarray, gradient: np.ndarray, drift: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle of planes and largest deviation from them of values ``[t, k, m ** 3]``, and the largest at one time from a plane with
    the gradients ``slopes [t, k, 3]``."""
    points = ((lattice(round(value.shape[2] ** (1 / 3))) - 0.5) * cell).T
    dent = middle_and_half(value - slopes @ points)[1].max(0)
    phases = np.linspace(-1, 1, len(value)) if len(value) > 1 else np.zeros(1)
    rest = value - gradient @ points - (phases[:, None] * drift)[..., None]
    middle, deviation = middle_and_half(rest.transpose(1, 0, 2).reshape(value.shape[1], -1))
    return middle, deviation, dent
