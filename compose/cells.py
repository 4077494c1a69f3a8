"""A sparse index of each asset's surface, by which rays skip what holds none and meet the rest with a good guess.

The box is divided into blocks of 4 x 4 x 4 cells. A block without surface says so, on which side of the surface it lies and
how many blocks away (Chebyshev) the nearest one with surface is. In the others each cell that may hold surface has a plane,
``f(p) ~ middle + gradient . (p - centre)``, and a bound on how far the field strays from it, packed into 6 bytes. The bound
is *sampled*, not proven: twice the largest deviation found at 27 points of the cell (its corners among them), at 125 where
the field is far from flat, plus what packing adds, plus float32 noise. The number of cells follows from a budget of bytes,
so that flat and simple things get finer ones.

An index only ever says where a field need not be asked; what is hit, and where, the field itself decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np
import safetensors
import safetensors.numpy
from scipy.ndimage import distance_transform_cdt

from compose.batch import FieldBatch
from objects.cache import cache_folder, content_key
from objects.field import Field
from objects.files import FieldFileError, field_hash, storable, write_atomically

_VERSION = 3  # part of every cache key: raise it when the same field would give another index
_BYTES = 96_000  # of an asset's index, about
_TRIAL, _FINEST = 24, 96  # cells along the longest edge: of the trial that measures the surface, and at most
_FEWEST_BLOCKS = 3  # flat objects: the two faces of a plate must not share a cell
_SAFETY = 2.0  # factor on the largest deviation that the samples show
_BENT = 0.008  # a deviation of more than this share of what the distance may change over a cell calls for more samples
_MIN_BOUND = 1e-5  # of the box diagonal: float32 evaluation noise
_CHUNK = 256  # blocks sampled together


@dataclass(frozen=True, eq=False)
class AssetCells:
    """The index of one asset; ``b`` blocks along x, y, z, ``k`` of them with surface, ``r`` cells that may hold some.

    Args:
        cell: Size of a cell, object units, ``[3]`` float64.
        block: ``[bx, by, bz]`` int16: the number of a block with surface; else ``-1 - (2 * away + inside)``.
        mask, inside: ``[k]`` uint64, bit ``16 x + 4 y + z`` of a cell in its block: it may hold surface; it lies inside.
        first: ``[k]`` int32, place of the block's first cell among the planes.
        plane: ``[r, 6]`` int8: gradient (3), bound (as uint8), middle (two bytes, low one first).
        unit: ``[3]`` float64: what 1 stands for in gradient, bound and middle.
        lipschitz: Largest gradient length seen or claimed, ``[1]``.
    """

    cell: np.ndarray
    block: np.ndarray
    mask: np.ndarray
    inside: np.ndarray
    first: np.ndarray
    plane: np.ndarray
    unit: np.ndarray
    lipschitz: np.ndarray

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, f.name).nbytes for f in fields(self))


class Cells(NamedTuple):
    """The indices of all assets, one after another (`AssetCells`)."""

    shape: np.ndarray  # [a, 3] blocks
    cell: np.ndarray  # [a, 3]
    block_at: np.ndarray  # [a] first entry of ``block``
    mixed_at: np.ndarray  # [a] first entry of ``mask``, ``inside`` and ``first``
    plane_at: np.ndarray  # [a] first row of ``plane``
    block: np.ndarray
    mask: np.ndarray
    inside: np.ndarray
    first: np.ndarray
    plane: np.ndarray
    unit: np.ndarray  # [a, 3]
    lipschitz: np.ndarray  # [a]

    @staticmethod
    def of(assets: Sequence[AssetCells]) -> Cells:
        def starts(lengths: list[int]) -> np.ndarray:
            return np.cumsum([0, *lengths], dtype=np.int64)[: len(lengths)]

        def joined(name: str, empty: np.ndarray) -> np.ndarray:
            return np.concatenate([empty, *(getattr(a, name).reshape(-1, *empty.shape[1:]) for a in assets)])

        return Cells(
            shape=np.array([a.block.shape for a in assets], dtype=np.int64).reshape(len(assets), 3),
            cell=joined("cell", np.zeros((0, 3))),
            block_at=starts([a.block.size for a in assets]),
            mixed_at=starts([len(a.mask) for a in assets]),
            plane_at=starts([len(a.plane) for a in assets]),
            block=joined("block", np.zeros(0, dtype=np.int16)),
            mask=joined("mask", np.zeros(0, dtype=np.uint64)),
            inside=joined("inside", np.zeros(0, dtype=np.uint64)),
            first=joined("first", np.zeros(0, dtype=np.int32)),
            plane=joined("plane", np.zeros((0, 6), dtype=np.int8)),
            unit=joined("unit", np.zeros((0, 3))),
            lipschitz=joined("lipschitz", np.zeros(0)),
        )


def build_cells(field: Field, time: float | None = None) -> AssetCells:
    """Samples a field into its index (about a million evaluations).

    Raises:
        ValueError: The field is not finite somewhere in its box.
    """
    trial = _build(field, time, _TRIAL)
    finer = _TRIAL * np.sqrt(_BYTES / trial.nbytes)  # bytes go with the surface, that with the square
    return _build(field, time, int(np.clip(finer, _TRIAL, _FINEST)))


def _build(field: Field, time: float | None, cells_longest: int) -> AssetCells:
    lo = field.box_lo.detach().double().numpy()
    size = field.box_hi.detach().double().numpy() - lo
    n = np.maximum(np.ceil(size / size.max() * cells_longest / 4 - 1e-9).astype(int), _FEWEST_BLOCKS)
    cell = size / (4 * n)
    floor = _MIN_BOUND * float(np.linalg.norm(size))
    ask = _asker(field, time, lo, cell)

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
    nothing = np.zeros((0, 64, 3)), np.zeros((0, 64)), np.zeros((0, 64))
    gradient, middle, deviation = (np.concatenate(parts) for parts in zip(nothing, *shares, strict=True))
    reach = 0.5 * np.abs(gradient) @ cell
    # Where the field is far from flat there may be an edge between the samples: these cells are looked at more closely.
    bent = (deviation > _BENT * lipschitz * cell.min()) & (np.abs(middle) <= reach + 2 * _SAFETY * deviation + floor)
    at, sub = np.nonzero(bent)
    corner = 4.0 * sampled[at] + np.stack(np.unravel_index(sub, (4, 4, 4)), -1)
    for k in range(0, len(at), 16 * _CHUNK):
        part = (at[k : k + 16 * _CHUNK], sub[k : k + 16 * _CHUNK])
        middle[part], deviation[part] = _range(ask, corner[k : k + 16 * _CHUNK], cell, gradient[part])
    bound = _SAFETY * deviation + floor

    unit = np.array([np.abs(gradient).max(initial=1e-30) / 127, 1.0, (reach + bound).max(initial=1e-30) / 32767])
    # Packing moves the plane by at most half a unit of each: that goes into the bound, before it is packed itself.
    bound = bound + 0.5 * (unit[0] * 0.5 * cell.sum() + unit[2])
    surface = np.abs(middle) <= reach + bound
    unit[1] = bound[surface].max(initial=1e-30) / 255
    mixed = surface.any(1)
    plane = np.zeros((int(surface.sum()), 6), dtype=np.int8)
    plane[:, :3] = np.rint(gradient[surface] / unit[0])
    plane[:, 3] = np.minimum(np.ceil(bound[surface] / unit[1] - 1e-6), 255).astype(np.uint8).view(np.int8)
    plane[:, 4:] = np.rint(np.clip(middle[surface] / unit[2], -32767, 32767)).astype("<i2").view(np.int8).reshape(-1, 2)

    bit = np.uint64(1) << np.arange(64, dtype=np.uint64)
    counts = surface[mixed].sum(1)
    block = np.zeros(n, dtype=np.int16)
    free = np.ones(n, dtype=bool)
    free[tuple(sampled[mixed].T)] = False
    negative = value[:-1:4, :-1:4, :-1:4] < 0
    negative[tuple(sampled.T)] = middle[:, 0] < 0 if len(sampled) else False
    away = np.full(n, 255) if free.all() else cast(np.ndarray, distance_transform_cdt(free, metric="chessboard"))
    block[free] = (-1 - (2 * np.minimum(away, 255) + negative))[free]
    block[tuple(sampled[mixed].T)] = np.arange(int(mixed.sum()))
    return AssetCells(
        cell=cell,
        block=block,
        mask=(surface[mixed] * bit).sum(1, dtype=np.uint64),
        inside=((middle[mixed] < 0) * bit).sum(1, dtype=np.uint64),
        first=(np.cumsum(counts) - counts).astype(np.int32),
        plane=plane,
        unit=unit,
        lipschitz=np.array([float(lipschitz)]),
    )


def _asker(field: Field, time: float | None, lo: np.ndarray, cell: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The field at points given in cells from ``lo``."""
    batch = FieldBatch([field])

    def ask(p: np.ndarray) -> np.ndarray:
        seconds = np.full(len(p), 0.0 if time is None else time)
        value = batch.sdf_sorted(np.zeros(len(p), dtype=np.int64), lo + p * cell, seconds)
        if not np.isfinite(value).all():
            raise ValueError(
                f"{type(field).__name__}: expected finite distances within its box, got NaN or infinite ones"
            )
        return value

    return ask


def _planes(ask: Callable, blocks: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each cell of each block ``[k, 64]``: gradient ``[k, 64, 3]`` and middle of its plane, largest deviation at its
    lattice."""
    value = ask((4.0 * (blocks[:, None] + _lattice(9))).reshape(-1, 3)).reshape(len(blocks), 9, 9, 9)
    own = np.lib.stride_tricks.sliding_window_view(value, (3, 3, 3), (1, 2, 3))[:, ::2, ::2, ::2]
    own = own.reshape(len(blocks), 64, 3, 3, 3)
    gradient = np.stack([(own.take(2, 2 + a) - own.take(0, 2 + a)).mean((2, 3)) / cell[a] for a in range(3)], -1)
    rest = own.reshape(len(blocks), 64, 27) - gradient @ ((_lattice(3) - 0.5) * cell).T
    return gradient, *_middle_and_half(rest)


def _range(ask: Callable, corner: np.ndarray, cell: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and largest deviation of planes with given gradients in the cells at ``corner [k, 3]``, at 5 x 5 x 5 points of
    each."""
    value = ask((corner[:, None] + _lattice(5)).reshape(-1, 3)).reshape(len(corner), 125)
    return _middle_and_half(value - gradient @ ((_lattice(5) - 0.5) * cell).T)


def _lattice(n: int) -> np.ndarray:
    """``[n ** 3, 3]`` points of the unit cube, its corners among them."""
    return np.stack(np.meshgrid(*[np.linspace(0, 1, n)] * 3, indexing="ij"), -1).reshape(-1, 3)


def _middle_and_half(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the range over the last axis."""
    top, bottom = values.max(-1), values.min(-1)
    return 0.5 * (top + bottom), 0.5 * (top - bottom)


def cells_of(field: Field, time: float | None) -> AssetCells:
    """The index of a field at a time, made on first use and again whenever the weights have changed; kept in the cache folder."""
    version = tuple(v._version for v in field.state_dict(keep_vars=True).values())
    known = _KNOWN.setdefault(field, {})
    if time not in known or known[time][0] != version:
        known[time] = (version, _stored_or_built(field, time))
    return known[time][1]


_KNOWN: WeakKeyDictionary[Field, dict[float | None, tuple[tuple[int, ...], AssetCells]]] = WeakKeyDictionary()


def _stored_or_built(field: Field, time: float | None) -> AssetCells:
    if not storable(field):  # of the caller's own making: its numbers don't say all of it
        return build_cells(field, time)
    key = content_key(_VERSION, _BYTES, field_hash(field), time)
    path = cache_folder("cells") / f"{key}.safetensors"
    cells = _read(path)
    if cells is None:
        cells = build_cells(field, time)
        arrays = {f.name: np.ascontiguousarray(getattr(cells, f.name)) for f in fields(cells)}
        with contextlib.suppress(FieldFileError):  # no room: it is made again the next time
            write_atomically(path, safetensors.numpy.save(arrays))
    return cells


def _read(path: Path) -> AssetCells | None:
    """A stored index; None where there is none, or none that is whole."""
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
        return AssetCells(**arrays)
    except (OSError, safetensors.SafetensorError, TypeError):
        return None
