"""Points spread over the surfaces of assets, and how points are moved onto a surface."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from compose.asset_cells import AssetCells
from compose.batch import FieldBatch
from compose.cells import cells_of
from compose.cpu import SurfacePoints
from compose.field_cache import FieldCache
from objects.field import Field

_POINTS, _CORES = 4000, 64  # most points on the surface and in the depth of an asset
CHUNK = 1 << 18  # most points in one call
_FLAT = 0.5  # of what its plane changes over half a cell: where the field may stray less from it, one seed will do
_CORE_ROUNDS = 8  # of the search for the deepest point, each with half the step
ON_SURFACE = 1e-3  # of the box diagonal: farther off, a point counts as not on the surface
DIFFERENCE = 5e-5  # of the box diagonal: step of finite differences, well above float32 noise

# Distances ``[n]`` of points ``[n, 3]`` to the surfaces of their owners ``[n]``.
Ask = Callable[[np.ndarray, np.ndarray], np.ndarray]


def surface_points(field: Field, time: float | None = None) -> np.ndarray:
    """Points spread evenly over the surface of a field, ``[k, 3]`` float64, object frame, at most 4,000.

    Made on first use and again whenever the weights have changed. A field without surface has none.

    Raises:
        ValueError: The field gives values that are not finite.
    """
    return surface_samples(field, time).points.copy()


@dataclass(frozen=True, eq=False)
class SurfaceSamples:
    """What is known of an asset's surface, in its object frame.

    Args:
        points: On the surface, ``[k, 3]``.
        reach: No place of the surface is farther than this from the nearest of them.
        cores: The deepest place of each connected part of the inside (of the deepest parts), ``[c, 3]``.
        block, size: ``AssetCells.block``, and the size of a block, ``[3]``.
    """

    points: np.ndarray
    reach: float
    cores: np.ndarray
    block: np.ndarray
    size: np.ndarray


def surface_samples(field: Field, time: float | None) -> SurfaceSamples:
    """The samples of a field at a time, made on first use and again whenever the weights have changed."""
    return _CACHE.of(field, time, lambda: _sampled(field, time))


_CACHE: FieldCache[SurfaceSamples] = FieldCache()


def _sampled(field: Field, time: float | None) -> SurfaceSamples:
    cells, batch = cells_of(field, time), FieldBatch([field])
    lo, cell = field.box_lo.detach().double().numpy(), cells.cell

    def ask(p: np.ndarray, owner: np.ndarray) -> np.ndarray:
        return batch.sdf_sorted(owner, p, np.full(len(p), 0.0 if time is None else time))

    foot, around = _seeds(cells, lo)
    seeds = np.concatenate([foot, around])
    n = len(seeds)
    diagonal, reach = float(np.linalg.norm(4 * np.array(cells.block.shape) * cell)), float(np.linalg.norm(cell))
    p, f = project(ask, seeds, np.zeros(n, dtype=np.int64), np.full(n, DIFFERENCE * diagonal), np.full(n, reach))
    p, edge = _thinned(p[np.abs(f) < ON_SURFACE * diagonal], 0.5 * float(cell.min()))
    inside = lo + (np.argwhere(cells.inside_cells()) + 0.5) * cell
    cores = _deepest(ask, np.concatenate([inside, around]), lo, cell)
    block = cells.block.copy()  # it may be part of the arrays of a composite, which this must not keep
    return SurfaceSamples(p, max(math.sqrt(3) * edge, reach), cores, block, 4 * cell)


def _seeds(cells: AssetCells, lo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points near the surface: where it is flat, the nearest of the cell's plane ``[k, 3]``; elsewhere four about the middle
    of the cell ``[4 l, 3]``, which find both sides of a thin wall or a sharp edge."""
    corner, gradient, middle, bound = cells.planes()
    centre = lo + (corner + 0.5) * cells.cell
    flat = bound < _FLAT * 0.5 * np.abs(gradient) @ cells.cell
    g = gradient[flat]
    foot = centre[flat] - (middle[flat] / np.square(g).sum(1))[:, None] * g
    return foot, (centre[~flat, None] + 0.3 * _TETRAHEDRON * cells.cell).reshape(-1, 3)


def _deepest(ask: Ask, p: np.ndarray, lo: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The deepest place of each connected part of the cells in which one of ``p [n, 3]`` lies inside, of the ``_CORES``
    deepest parts, ``[c, 3]``."""
    f = asked_in_parts(ask, p, np.zeros(len(p), dtype=np.int64))
    p = p[f < 0][np.argsort(f[f < 0], kind="stable")]
    at = tuple(np.floor((p - lo) / cell).astype(np.int64).T)
    part = np.zeros(np.max(at, axis=1, initial=-1) + 1, dtype=bool)
    part[at] = True
    from scipy.ndimage import label  # takes a while to load

    _, first = np.unique(cast(tuple[np.ndarray, int], label(part))[0][at], return_index=True)
    p = p[np.sort(first)[:_CORES]]
    for k in range(_CORE_ROUNDS):
        around = p[:, None] + 0.5 ** (k + 1) * cell * _NEIGHBOURS
        f = asked_in_parts(ask, around.reshape(-1, 3), np.zeros(around.size // 3, dtype=np.int64))
        p = around[np.arange(len(p)), f.reshape(-1, len(_NEIGHBOURS)).argmin(1)]
    return p


_NEIGHBOURS = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), -1).reshape(-1, 3)


def _thinned(p: np.ndarray, edge: float) -> tuple[np.ndarray, float]:
    """The point nearest to the middle of each voxel, with voxels of an ``edge`` that leaves at most ``_POINTS``; and that edge."""
    while True:
        u = p / edge
        voxel = np.floor(u).astype(np.int64)
        order = np.lexsort((np.square(u - voxel - 0.5).sum(1), *voxel.T))
        rows = voxel[order]
        kept = order[np.r_[True, (rows[1:] != rows[:-1]).any(1)]] if len(p) else order
        if len(kept) <= _POINTS:
            return np.ascontiguousarray(p[np.sort(kept)]), edge
        edge *= 1.02 * math.sqrt(len(kept) / _POINTS)


def gradient(ask: Ask, p: np.ndarray, owner: np.ndarray, h: np.ndarray) -> np.ndarray:
    """``[n, 3]`` by differences over the corners of a tetrahedron of size ``h [n]`` (Quilez, "Normals for an SDF")."""
    around = p[:, None] + h[:, None, None] * _TETRAHEDRON
    f = asked_in_parts(ask, around.reshape(-1, 3), np.repeat(owner, 4)).reshape(-1, 4)
    return f @ _TETRAHEDRON / (4 * h[:, None])


_TETRAHEDRON = np.array([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, 1.0, 1.0]])


def project(
    ask: Ask, p: np.ndarray, owner: np.ndarray, h: np.ndarray, reach: np.ndarray, steps: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Points moved onto the surfaces of their owners by Newton steps of at most ``reach [n]``, and their distances there."""
    f = asked_in_parts(ask, p, owner)
    for _ in range(steps):
        g = gradient(ask, p, owner, h)
        step = -f[:, None] * g / np.maximum(np.square(g).sum(1), 1e-12)[:, None]
        p = p + clipped(step, reach)
        f = asked_in_parts(ask, p, owner)
    return p, f


def asked_in_parts(ask: Ask, p: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """What ``ask`` says of any number of points, ``[n]``."""
    parts = [ask(p[k : k + CHUNK], owner[k : k + CHUNK]) for k in range(0, len(p), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0)


def clipped(v: np.ndarray, longest: np.ndarray) -> np.ndarray:
    """Vectors ``[n, 3]`` made no longer than ``longest [n]``."""
    length = np.linalg.norm(v, axis=1)
    return v * np.minimum(1.0, longest / np.maximum(length, 1e-300))[:, None]


def joined_points(samples: dict[int, SurfaceSamples], n_assets: int) -> SurfacePoints:
    """The points of ``n_assets`` assets for kernels; those that ``samples`` lacks have none."""
    nothing = SurfaceSamples(np.zeros((0, 3)), 0.0, np.zeros((0, 3)), np.zeros((0, 0, 0), np.int16), np.ones(3))
    rows = [samples.get(a, nothing) for a in range(n_assets)]
    return SurfacePoints(
        np.cumsum([0] + [len(c.points) for c in rows]),
        np.concatenate([c.points for c in rows]),
        np.cumsum([0] + [c.block.size for c in rows[:-1]]),
        np.concatenate([c.block.ravel() for c in rows]),
        np.array([c.block.shape for c in rows], dtype=np.int64),
        np.stack([c.size for c in rows]),
    )
