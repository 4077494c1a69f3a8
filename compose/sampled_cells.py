"""The index of a field by samples: about a million evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from compose.asset_cells import AssetCells, assembled, grid, lattice, packed_planes
from compose.batch import FieldBatch
from objects.field import Field

Ask = Callable[[np.ndarray], np.ndarray]  # the field at ``k`` times at points ``[n, 3]``, ``[k, n]``

BYTES = 96_000  # of an asset's index, about
_TRIAL, _FINEST = 24, 96  # cells along the longest edge: of the trial that measures the surface, and at most
_SAFETY = 2.0  # factor on the largest deviation that the samples show
_BENT = 0.008  # a deviation of more than this share of what the distance may change over a cell calls for more samples
_MIN_BOUND = 1e-5  # of the box diagonal: float32 evaluation noise
_CHUNK = 256  # blocks sampled together


def sampled_cells(field: Field, time: float | None) -> AssetCells:
    """The index of a field at a time.

    Raises:
        ValueError: The field is not finite somewhere in its box.
    """
    trial = _build(field, time, _TRIAL)
    finer = _TRIAL * np.sqrt(BYTES / trial.nbytes)  # bytes go with the surface, that with the square
    return _build(field, time, int(np.clip(finer, _TRIAL, _FINEST)))


def _build(field: Field, time: float | None, cells_longest: int) -> AssetCells:
    lo, n, cell = grid(field, cells_longest)
    floor = _MIN_BOUND * float(np.linalg.norm(4 * n * cell))
    ask = asker(field, (time,), lo, cell)

    # A block holds no surface if none of the corners of its cells is as close to one as any point is to its nearest corner.
    corners = np.stack(np.meshgrid(*(np.arange(4 * k + 1.0) for k in n), indexing="ij"), -1)
    value = ask(corners.reshape(-1, 3)).reshape(4 * n + 1)
    lipschitz = max(field.lipschitz, *(np.abs(np.diff(value, axis=a)).max() / cell[a] for a in range(3)))
    clear = 1.1 * lipschitz * 0.5 * float(np.linalg.norm(cell)) + floor
    closest = np.abs(value)
    for a in range(3):  # least of the 5 x 5 x 5 corners of each block
        windows = np.lib.stride_tricks.sliding_window_view(closest, 5, a)
        closest = windows.min(-1)[(slice(None),) * a + (slice(None, None, 4),)]
    sampled = np.argwhere(closest <= clear)

    shares = [_planes(ask, sampled[k : k + _CHUNK], cell) for k in range(0, len(sampled), _CHUNK)]
    nothing = np.zeros((0, 64, 3)), *np.zeros((2, 0, 64))
    gradient, middle, deviation = (np.concatenate(parts) for parts in zip(nothing, *shares, strict=True))
    reach = 0.5 * np.abs(gradient) @ cell
    # Where the field is far from flat there may be an edge between the samples: these cells are looked at more closely.
    bent = (deviation > _BENT * lipschitz * cell.min()) & (np.abs(middle) <= reach + 2 * _SAFETY * deviation + floor)
    at, sub = np.nonzero(bent)
    corner = 4 * sampled[at] + np.stack(np.unravel_index(sub, (4, 4, 4)), -1)
    for k in range(0, len(at), 16 * _CHUNK):
        part = (at[k : k + 16 * _CHUNK], sub[k : k + 16 * _CHUNK])
        middle[part], deviation[part] = _range(ask, corner[k : k + 16 * _CHUNK], cell, gradient[part])
    bound = _SAFETY * deviation + floor

    unit = np.array([np.abs(gradient).max(initial=1e-30) / 127, 1.0, (reach + bound).max(initial=1e-30) / 32767])
    # Packing moves the plane by at most half a unit of each: that goes into the bound, before it is packed itself.
    bound = bound + 0.5 * (unit[0] * 0.5 * cell.sum() + unit[2])
    surface = np.abs(middle) <= reach + bound
    unit[1] = bound[surface].max(initial=1e-30) / 255
    plane = packed_planes(
        gradient[surface] / unit[0],
        np.minimum(np.ceil(bound[surface] / unit[1] - 1e-6), 255),
        np.clip(middle[surface] / unit[2], -32767, 32767),
    )
    mixed = np.zeros(n, dtype=bool)
    mixed[tuple(sampled.T)] = surface.any(1)
    negative = value[:-1:4, :-1:4, :-1:4] < 0
    negative[tuple(sampled.T)] = middle[:, 0] < 0 if len(sampled) else False
    some = surface.any(1)
    return assembled(cell, mixed, negative, surface[some], middle[some] < 0, plane, unit, float(lipschitz))


def asker(field: Field, times: Sequence[float | None], lo: np.ndarray, cell: np.ndarray) -> Ask:
    """The field at each of ``k`` times at points given in cells from ``lo``, ``[k, n]``."""
    batch = FieldBatch([field])

    def ask(p: np.ndarray) -> np.ndarray:
        asset, places = np.zeros(len(p), dtype=np.int64), lo + p * cell
        seconds = (np.full(len(p), 0.0 if time is None else time) for time in times)
        value = np.stack([batch.sdf_sorted(asset, places, at) for at in seconds])
        if not np.isfinite(value).all():
            raise ValueError(
                f"{type(field).__name__}: expected finite distances within its box, got NaN or infinite ones"
            )
        return value

    return ask


def _planes(ask: Ask, blocks: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each cell of each block ``[k, 64]``: gradient ``[k, 64, 3]`` and middle of its plane, largest deviation from it."""
    value = ask_once(ask, 4 * blocks, 9, 2).reshape(len(blocks), 9, 9, 9)
    own = np.lib.stride_tricks.sliding_window_view(value, (3, 3, 3), (1, 2, 3))[:, ::2, ::2, ::2]
    own = own.reshape(len(blocks), 64, 3, 3, 3)
    gradient = np.stack([(own.take(2, 2 + a) - own.take(0, 2 + a)).mean((2, 3)) / cell[a] for a in range(3)], -1)
    rest = own.reshape(len(blocks), 64, 27) - gradient @ ((lattice(3) - 0.5) * cell).T
    return gradient, *middle_and_half(rest)


def _range(ask: Ask, corner: np.ndarray, cell: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and largest deviation of planes with given gradients in cells at ``corner [k, 3]``, at 5 x 5 x 5 points of each."""
    return middle_and_half(ask_once(ask, corner, 5, 4)[0] - gradient @ ((lattice(5) - 0.5) * cell).T)


def ask_once(ask: Ask, corner: np.ndarray, longest: int, steps: int) -> np.ndarray:
    """The field at lattices of ``longest**3`` points, ``steps`` to a cell, from each of the cells at ``corner [k, 3]`` on,
    ``[times, k, longest**3]``; what neighbours share is asked once."""
    point = (steps * corner[:, None] + np.rint((longest - 1) * lattice(longest)).astype(np.int64)).reshape(-1, 3)
    size = point.max(0, initial=0) + 1
    place, which = np.unique((point[:, 0] * size[1] + point[:, 1]) * size[2] + point[:, 2], return_inverse=True)
    rest, z = np.divmod(place, size[2])
    value = ask(np.stack([*np.divmod(rest, size[1]), z], 1) / steps)
    return value[:, which].reshape(len(value), len(corner), longest**3)


def middle_and_half(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the range over the last axis."""
    top, bottom = values.max(-1), values.min(-1)
    return 0.5 * (top + bottom), 0.5 * (top - bottom)
