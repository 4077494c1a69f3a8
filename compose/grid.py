"""A coarse grid of distances for each asset, from which `compose.contact` seeds its surface points.

The grid stores the field at the vertices of about 48 cells along the longest edge of its box and, for each cell, a bound
on how far the field strays from the trilinear interpolation of its corners. The bound is *sampled*, not proven: the
largest deviation found at 64 points of the cell, doubled, plus float32 noise. A cell whose bound excludes zero holds no surface;
`skip` says how many cells away (Chebyshev) the nearest cell is that may. (Rays use the sparse `compose.cells`.)

Related: Hansson-Soderlund, Evans, Akenine-Moller, "Ray Tracing of Signed Distance Function Grids" (JCGT 2022).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np
import safetensors
import safetensors.numpy
import torch
from scipy.ndimage import distance_transform_cdt

from compose.batch import FieldBatch
from objects.cache import cache_folder, content_key
from objects.field import Field
from objects.files import FieldFileError, field_hash, storable, write_atomically

_VERSION = 1  # part of every cache key: raise it when the same field would give another grid
_CELLS_LONGEST = 48
_CELLS_SHORTEST = 12  # flat objects: the two faces of a plate must not share a cell
_SAFETY = 2.0  # factor on the largest deviation that the samples show
_MIN_BOUND = 1e-5  # of the box diagonal: float32 evaluation noise


@dataclass(frozen=True, eq=False)
class AssetGrid:
    """Cells ``[nx, ny, nz]`` of size ``cell`` from ``lo``, object frame and units.

    Args:
        lo, cell: 3-vectors, float64.
        value: Field at the vertices, ``[nx + 1, ny + 1, nz + 1]`` float32.
        bound: Largest deviation from trilinear interpolation, ``[nx, ny, nz]`` float32.
        skip: 0 where a cell may hold surface, else the Chebyshev distance to the nearest such cell (at most 255), uint8.
        lipschitz: Largest gradient length seen or claimed.
    """

    lo: np.ndarray
    cell: np.ndarray
    value: np.ndarray
    bound: np.ndarray
    skip: np.ndarray
    lipschitz: float


def build_grid(field: Field, time: float | None = None, cells_longest: int = _CELLS_LONGEST) -> AssetGrid:
    """Samples a field into its grid (about a million evaluations)."""
    lo = field.box_lo.detach().double().numpy()
    size = field.box_hi.detach().double().numpy() - lo
    n = np.maximum(np.ceil(size / size.max() * cells_longest - 1e-9).astype(int), _CELLS_SHORTEST)
    cell = size / n
    floor = _MIN_BOUND * float(np.linalg.norm(size))

    batch = FieldBatch([field])

    def ask(p: np.ndarray) -> np.ndarray:
        asset = torch.zeros(len(p), dtype=torch.int64)
        seconds = torch.full((len(p),), 0.0 if time is None else time, dtype=torch.float64)
        with torch.no_grad():
            return batch.sdf(asset, torch.from_numpy(lo + p * cell), seconds).numpy()

    vertices = np.stack(np.meshgrid(*(np.arange(k + 1.0) for k in n), indexing="ij"), -1)
    value = ask(vertices.reshape(-1, 3)).reshape(n + 1)
    if not np.isfinite(value).all():
        raise ValueError(f"{type(field).__name__}: expected finite distances within its box, got NaN or infinite ones")
    corner = np.stack([value[i : i + n[0], j : j + n[1], k : k + n[2]] for i, j, k in np.ndindex(2, 2, 2)], -1)
    slopes = [np.abs(np.diff(value, axis=a)).max() / cell[a] for a in range(3)]
    lipschitz = max(field.lipschitz, *slopes)

    # A cell holds no surface if no corner is as close to it as any point of the cell is to its nearest corner.
    radius = 0.5 * float(np.linalg.norm(cell))
    near = np.abs(corner).min(-1) <= 1.1 * lipschitz * radius + floor
    bound = np.full(n, floor, dtype=np.float64)
    where = np.argwhere(near)
    if len(where):
        offsets = np.stack(np.meshgrid(*[np.array([1, 3, 5, 7]) / 8] * 3, indexing="ij"), -1).reshape(-1, 3)
        weights = np.stack([np.prod(np.where(np.array(c), offsets, 1 - offsets), -1) for c in np.ndindex(2, 2, 2)], -1)
        truth = ask((where[:, None] + offsets).reshape(-1, 3)).reshape(len(where), -1)
        deviation = np.abs(truth - corner[near] @ weights.T).max(-1)
        bound[near] = _SAFETY * deviation + floor
    surface = near & (corner.min(-1) <= bound) & (corner.max(-1) >= -bound)
    if surface.any():
        away = cast(np.ndarray, distance_transform_cdt(~surface, metric="chessboard"))
        skip = np.minimum(away, 255).astype(np.uint8)
    else:
        skip = np.full(n, 255, dtype=np.uint8)
    return AssetGrid(lo, cell, value.astype(np.float32), bound.astype(np.float32), skip, float(lipschitz))


def grid_of(field: Field, time: float | None) -> AssetGrid:
    """The grid of a field at a time, made on first use and again whenever the weights have changed; kept in the cache folder."""
    version = tuple(v._version for v in field.state_dict(keep_vars=True).values())
    grids = _GRIDS.setdefault(field, {})
    if time not in grids or grids[time][0] != version:
        grids[time] = (version, _stored_or_built(field, time))
    return grids[time][1]


_GRIDS: WeakKeyDictionary[Field, dict[float | None, tuple[tuple[int, ...], AssetGrid]]] = WeakKeyDictionary()


def _stored_or_built(field: Field, time: float | None) -> AssetGrid:
    if not storable(field):  # of the caller's own making: its numbers don't say all of it
        return build_grid(field, time)
    key = content_key(_VERSION, _CELLS_LONGEST, field_hash(field), time)
    path = cache_folder("grids") / f"{key}.safetensors"
    grid = _read(path)
    if grid is None:
        grid = build_grid(field, time)
        arrays = {"lo": grid.lo, "cell": grid.cell, "value": grid.value, "bound": grid.bound, "skip": grid.skip}
        arrays["lipschitz"] = np.array([grid.lipschitz])
        with contextlib.suppress(FieldFileError):  # no room: it is made again the next time
            write_atomically(path, safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
    return grid


def _read(path: Path) -> AssetGrid | None:
    """A stored grid; None where there is none, or none that is whole."""
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError):
        return None
    names = {"lo", "cell", "value", "bound", "skip", "lipschitz"}
    if arrays.keys() != names or arrays["value"].shape != tuple(n + 1 for n in arrays["skip"].shape):
        return None
    lipschitz = float(arrays.pop("lipschitz")[0])
    return AssetGrid(**arrays, lipschitz=lipschitz)
