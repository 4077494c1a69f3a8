"""The solid that a part of a clip is, from its depth in many frames: fused distances in its own frame, and what no frame saw
closed smoothly.

Fusion: Curless, Levoy, "A Volumetric Method for Building Complex Models from Range Images" (SIGGRAPH 1996). What nothing was seen
of takes the values of the harmonic function between what is known, so surfaces go on as they come (Davis, Marschner, Garr,
Levoy, "Filling Holes in Complex Surfaces using Volumetric Diffusion", 3DPVT 2002).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import trimesh
from jaxtyping import Bool, Float, Float32
from scipy import ndimage
from skimage.measure import marching_cubes

from objects.mending import labelled

REACH = 3.0  # cells beside a measured depth in which it says something
_SWEEPS = 40  # of the harmonic function on each grid
_COARSEST = 8  # cells along the shortest edge
_BLEND = 2  # cells between what is known and what is guessed


class Grid(NamedTuple):
    """Cubic cells about points ``first + cell * index``, object frame, metres."""

    first: Float[np.ndarray, "3"]
    cell: float
    shape: tuple[int, int, int]

    @staticmethod
    def around(lo: Float[np.ndarray, "3"], hi: Float[np.ndarray, "3"], cell: float, margin: float) -> Grid:
        """Cells that hold a box and so many cells around it."""
        n = np.maximum(np.ceil((hi - lo) / cell + 2 * margin), 4).astype(int) + 1
        first = 0.5 * (lo + hi) - 0.5 * cell * (n - 1)
        return Grid(first, float(cell), (int(n[0]), int(n[1]), int(n[2])))


class Sight(NamedTuple):
    """Frames as `fuse` takes them."""

    depth: Float32[np.ndarray, "f h w"]
    """Metres along the optical axis, 0 where missing."""
    mine: Bool[np.ndarray, "f h w"]
    """Pixels that show the part."""
    trust: Float32[np.ndarray, "f h w"]
    """Weight of each pixel's depth."""
    to_cam: Float[np.ndarray, "f 4 4"]
    """Object to camera, OpenCV axes."""
    lens: Float[np.ndarray, "4"]


def fuse(grid: Grid, sight: Sight, behind: float) -> tuple[Float32[np.ndarray, "x y z"], Float32[np.ndarray, "x y z"]]:
    """Signed distances along the rays, in reaches (`REACH` cells), cut to -1..1 and averaged; and how much was seen there, 0 for
    nothing.

    Pixels of other things say that before them is free. Depth is read between pixels (linear in 1 / depth, exact for planes).

    Args:
        behind: Weight of places further than a reach behind the part's own surface, which then count as inside.
    """
    value, weight = (np.zeros(grid.shape, np.float32) for _ in range(2))
    frames = (sight.depth, sight.mine, sight.trust, sight.to_cam, sight.lens)
    args: Any = (grid.first, grid.cell, REACH * grid.cell, behind, *frames, value, weight)
    _fuse(*args)
    return value, weight


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _fuse(first, cell, reach, behind, depth, mine, trust, to_cam, lens, value, weight):
    n, height, width = depth.shape
    for i in numba.prange(value.shape[0]):
        for j in range(value.shape[1]):
            for k in range(value.shape[2]):
                x, y, z = first[0] + cell * i, first[1] + cell * j, first[2] + cell * k
                total, seen = 0.0, 0.0
                for t in range(n):
                    T = to_cam[t]
                    a = T[0, 0] * x + T[0, 1] * y + T[0, 2] * z + T[0, 3]
                    b = T[1, 0] * x + T[1, 1] * y + T[1, 2] * z + T[1, 3]
                    c = T[2, 0] * x + T[2, 1] * y + T[2, 2] * z + T[2, 3]
                    if c <= 1e-6:
                        continue
                    u, v = lens[0] * a / c + lens[2], lens[1] * b / c + lens[3]
                    if not (0 <= u < width and 0 <= v < height):
                        continue
                    p, w = said(depth[t], mine[t], trust[t], u, v, c, reach, behind)
                    total += w * p
                    seen += w
                if seen > 0:
                    value[i, j, k] = total / seen
                    weight[i, j, k] = seen


def fuse_at(
    places: Float32[np.ndarray, "f n 3"], sight: Sight, cell: float, air: float
) -> tuple[Float32[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """As `fuse`, for places that move: where each is in each frame, in the frame of its camera.

    Args:
        air: Weight of pixels of other things, which say that before them is free: less than 1 where places are known less well than
            what is seen of them.
    """
    value, weight = (np.zeros(places.shape[1], np.float32) for _ in range(2))
    args: Any = (places, REACH * cell, air, sight.depth, sight.mine, sight.trust, sight.lens, value, weight)
    _fuse_at(*args)
    return value, weight


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _fuse_at(places, reach, air, depth, mine, trust, lens, value, weight):
    n, height, width = depth.shape
    for i in numba.prange(len(value)):
        total, seen = 0.0, 0.0
        for t in range(n):
            a, b, c = places[t, i]
            if c <= 1e-6:
                continue
            u, v = lens[0] * a / c + lens[2], lens[1] * b / c + lens[3]
            if not (0 <= u < width and 0 <= v < height):
                continue
            p, w = said(depth[t], mine[t], trust[t], u, v, c, reach, 0.0)
            if not mine[t, int(v), int(u)]:
                w *= air
            total += w * p
            seen += w
        if seen > 0:
            value[i], weight[i] = total / seen, seen


@numba.njit(cache=True, error_model="numpy")
def said(depth, mine, trust, u, v, z, reach, behind):
    """What a frame says of a place at column u, row v and depth z: a distance in reaches, and its weight."""
    height, width = depth.shape
    row, column = int(v), int(u)
    q, r = min(max(int(np.floor(u - 0.5)), 0), width - 2), min(max(int(np.floor(v - 0.5)), 0), height - 2)
    fu, fv = min(max(u - 0.5 - q, 0.0), 1.0), min(max(v - 0.5 - r, 0.0), 1.0)
    own, near, far, inverse = 0, np.inf, 0.0, 0.0
    for e in range(2):
        for g in range(2):
            d = depth[r + e, q + g]
            own += mine[r + e, q + g]
            if d > 0:
                near, far = min(near, d), max(far, d)
                inverse += (fu if g else 1 - fu) * (fv if e else 1 - fv) / d
            else:
                far = np.inf
    if own == 0:  # well within another thing
        if far < np.inf:
            return 1.0, 1.0 if z < near - reach else (0.5 if z < near else 0.0)
        return 0.0, 0.0
    if not mine[row, column]:
        return 0.0, 0.0
    d = depth[row, column]
    if d <= 0:
        return 0.0, 0.0
    if own == 4 and far - near < 2 * reach:
        d = 1 / inverse
    s, sure = (d - z) / reach, trust[row, column]
    if s >= 0:
        return min(s, 1.0), sure
    return (s, (1.0 + s) * sure + 1e-6) if s > -1 else (-1.0, behind)


def closed(
    value: Float32[np.ndarray, "x y z"], known: Bool[np.ndarray, "x y z"], guess: Float32[np.ndarray, "x y z"] | None
) -> Float32[np.ndarray, "x y z"]:
    """Values with those that aren't known in place of the harmonic function between the others.

    Args:
        guess: What to take where nothing is known, a little apart from what is; by default nothing.
    """
    if guess is not None:
        apart = np.logical_not(ndimage.binary_dilation(known, iterations=_BLEND))
        value, known = np.where(apart, guess, value), known | apart
    return _harmonic(value.astype(np.float32), known)


def hull(
    grid: Grid, value: Float32[np.ndarray, "x y z"], known: Bool[np.ndarray, "x y z"]
) -> Float32[np.ndarray, "x y z"]:
    """About the distance (in reaches, cut to -1..1) to the convex hull of the surface cells: a thing of which one side was seen is
    taken to be no larger than this."""
    ways = np.asarray(trimesh.creation.icosphere(3).vertices, np.float32)
    at = np.argwhere(known & (np.abs(value) < 1 / REACH)).astype(np.float32)
    if len(at) == 0:
        return np.ones(grid.shape, np.float32)
    most = np.quantile(at[:: max(1, len(at) // 20_000)] @ ways.T, 0.998, axis=0)
    axes = [np.arange(n, dtype=np.float32) for n in grid.shape]
    out = np.empty(grid.shape, np.float32)
    for i in range(grid.shape[0]):
        plane = np.stack(np.meshgrid(axes[0][i], axes[1], axes[2], indexing="ij"), -1).reshape(-1, 3)
        out[i] = (plane @ ways.T - most).max(1).reshape(grid.shape[1:])
    return np.clip(out / REACH, -1, 1)


def _harmonic(value: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not known.any():
        return np.ones_like(value)
    start = np.zeros_like(value)
    if min(value.shape) >= 2 * _COARSEST:
        grow = [(0, n % 2) for n in value.shape]
        v, k = np.pad(value, grow, mode="edge"), np.pad(known, grow, mode="edge")
        blocks = tuple(x for n in v.shape for x in (n // 2, 2))
        count = k.reshape(blocks).sum((1, 3, 5))
        mean = np.where(k, v, 0).reshape(blocks).sum((1, 3, 5)) / np.maximum(count, 1)
        coarse = _harmonic(mean.astype(np.float32), count > 0)
        at = np.meshgrid(*((np.arange(n) - 0.5) / 2 for n in value.shape), indexing="ij")
        start = ndimage.map_coordinates(coarse, at, order=1, mode="nearest").astype(np.float32)
    out = np.where(known, value, start).astype(np.float32)
    args: Any = (out, known, _SWEEPS)
    _relax(*args)
    return out


@numba.njit(cache=True)
def _relax(value, known, sweeps):
    nx, ny, nz = value.shape
    for _ in range(sweeps):
        for i in range(nx):
            for j in range(ny):
                for k in range(nz):
                    if known[i, j, k]:
                        continue
                    total = value[max(i - 1, 0), j, k] + value[min(i + 1, nx - 1), j, k]
                    total += value[i, max(j - 1, 0), k] + value[i, min(j + 1, ny - 1), k]
                    total += value[i, j, max(k - 1, 0)] + value[i, j, min(k + 1, nz - 1)]
                    value[i, j, k] += 1.5 * (total / 6 - value[i, j, k])


def surface(grid: Grid, value: Float32[np.ndarray, "x y z"], speck: float = 0.02) -> trimesh.Trimesh | None:
    """The zero set of values on a grid, closed at the grid's faces, without bubbles and without pieces smaller than this share of
    the largest; None where nothing is inside."""
    solid = labelled(value < 0)
    if not solid.any():
        return None
    sizes = np.bincount(solid.ravel())[1:]
    small = np.flatnonzero(sizes < speck * sizes.max()) + 1
    air = labelled(np.pad(value >= 0, 1, constant_values=True))[1:-1, 1:-1, 1:-1]
    bubbles = (value >= 0) & (air != 1)
    kept = np.where(np.isin(solid, small), np.abs(value), np.where(bubbles, -np.abs(value) - 1e-3, value))
    padded = np.pad(kept, 1, constant_values=1.0)
    vertices, faces, _, _ = marching_cubes(padded, 0.0, gradient_direction="descent")
    mesh = trimesh.Trimesh(grid.first + grid.cell * (vertices - 1), faces.astype(np.int64), process=False)
    if mesh.volume < 0:
        mesh.invert()
    return mesh
