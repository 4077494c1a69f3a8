"""First shapes from colours alone: a voxel radiance field, learned in about a minute, and the depths it gives each picture.

A SIREN that starts from what masks carve out must dig every hollow by gradients at its surface; a grid of densities empties all
of it at once. Its depths, fused over all pictures, take the place of measured ones. Density and colour sit at the vertices that
carving leaves, interpolated, learned by Adam.

Related: Sun, Sun, Chen, "Direct Voxel Grid Optimization" (CVPR 2022). Fused by `rendering.learning.hulls.fused`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_cdt, map_coordinates, maximum_filter
from torch import Tensor, nn

from objects.aabb import Aabb
from objects.fused import spread
from objects.training import TrainConfig, fit
from rendering.camera import Camera
from rendering.learning.hulls import Carver
from rendering.learning.pixels import Lenses, Pixels

EMPTY = -8.0  # logit of density where carving left nothing
_START = -5.5  # logit of density everywhere else, at first
_CLEAR = -6.5  # logit of density below which a vertex is let go, if its neighbours are as clear
_PARTS = 4  # a batch is summed in this many parts whatever the number of threads, so that bits don't depend on it
STEP = 0.5  # of a cell, between the places that are looked at along a ray
_OPAQUE = 1e-3  # light that is left when a ray is given up
_MOST = 512  # places with density on a ray
_HALF = math.log(2.0)  # optical depth that stops half of the light
_RATE = 0.3
_DECIDE = 0.02  # what the entropy of the light that passes all costs a ray, as a squared error of its colour
_LEVELS = (
    (4, 0.25),
    (2, 0.35),
    (1, 0.4),
)  # how many times coarser, and the share of the steps: coarse first, so that nothing floats


class VoxelTraining(NamedTuple):
    """Vertices along the longest edge of the scene, training steps, and rays in each."""

    cells: int = 128
    steps: int = 300
    rays: int = 32768


class Voxels(NamedTuple):
    """Densities and colours at vertices.

    Args:
        index: ``[x, y, z]`` int32, the row of each vertex, -1 for none.
        leap: ``[x-1, y-1, z-1]`` uint8, cells to the nearest cell with a row at one of its corners (at most 255).
        lo: The first vertex, world frame, metres.
        cell: Metres between vertices.
        rows: ``[n, 4]`` float32: logit of the optical depth of a step of half a cell (through softplus), logits of sRGB.
        behind: Logits of sRGB where light passes all voxels, of opaque pictures.
    """

    index: np.ndarray
    leap: np.ndarray
    lo: np.ndarray
    cell: float
    rows: Tensor
    behind: Tensor


def learn_voxels(
    pixels: Pixels,
    lenses: Lenses,
    carver: Carver,
    box: Aabb,
    training: VoxelTraining,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Voxels:
    """Learns a voxel radiance field from pixels.

    Args:
        pixels, lenses: What to learn from.
        carver: Says where anything can be.
        box: Of the scene, world frame, metres.
        training: How fine, and how long.
        seed: Of the choice of rays.
        progress: Show a bar (on a terminal, once it takes longer than 2 s).
    """
    voxels = voxel_grid(carver, box, training.cells // _LEVELS[0][0])
    for coarser, share in _LEVELS:
        if coarser < _LEVELS[0][0]:
            voxels = voxel_grid(carver, box, training.cells // coarser, voxels)
        if len(voxels.rows) == 0:
            break
        steps = max(round(share * training.steps), 1)
        train = TrainConfig(
            steps=steps, learning_rate=_RATE, final_rate=0.1, seed=seed, label="voxels", progress=progress
        )
        voxels = _fitted(voxels, pace_of(carver, voxels), pixels, lenses, training.rays, train)
    return voxels


def voxel_grid(carver: Carver, box: Aabb, cells: int, coarse: Voxels | None = None) -> Voxels:
    """Vertices where carving leaves something, and where a ``coarse`` field has some; its densities and colours, else the first."""
    cell = float(box.size.max()) / max(cells, 8)
    n = (box.size / cell - 1e-9).ceil().long() + 1
    axes = [box.center[c] + cell * (torch.arange(int(n[c])) - 0.5 * (int(n[c]) - 1)) for c in range(3)]
    support = carver.support(torch.cartesian_prod(*axes).double(), cell, None)
    occupied, lo = support.view(*(len(axis) for axis in axes)).numpy() > 0, np.array([float(axis[0]) for axis in axes])
    if coarse is None:
        rows, behind = torch.zeros(int(occupied.sum()), 4), torch.zeros(3)
        rows[:, 0] = _START
    else:
        behind = coarse.behind
        at = (np.argwhere(occupied) * cell + lo - coarse.lo) / coarse.cell
        values, known = _between(coarse, at.T)
        occupied[occupied] = known > 1e-4
        values = torch.from_numpy(values[:, known > 1e-4].T)
        thinner = nn.functional.softplus(values[:, :1].double()) * (cell / coarse.cell)
        rows = torch.cat([thinner.expm1().log().float(), values[:, 1:]], 1)
    index = _numbered(occupied)
    return Voxels(index, leaps_over(index), lo, cell, rows, behind)


def _between(voxels: Voxels, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``[4, k]`` at places ``[3, k]`` between vertices, in cells, and how much of each there is of vertices with a row."""
    present = voxels.index >= 0
    rows = voxels.rows.numpy()

    def look(values: np.ndarray, fill: float) -> np.ndarray:
        grid = np.where(present, values[voxels.index], np.float32(fill))
        return map_coordinates(grid, at, order=1, mode="nearest")

    known = map_coordinates(present.astype(np.float32), at, order=1, mode="nearest")
    density = look(rows[:, 0], EMPTY)
    colors = [look(rows[:, 1 + c], 0.0) / known.clip(min=1e-4) for c in range(3)]
    return np.stack([density, *colors]), known


def pace_of(carver: Carver, voxels: Voxels) -> Float[Tensor, "n 1"]:
    """How fast each row learns: in proportion to the pictures that its vertex is in, so that fog before a single camera doesn't
    explain what that camera sees (Sun, Sun, Chen, as above)."""
    count = carver.shown(torch.from_numpy(np.argwhere(voxels.index >= 0) * voxels.cell + voxels.lo)).float()
    return (count / count.max().clamp(min=1))[:, None]


def _fitted(
    voxels: Voxels, pace: Float[Tensor, "n 1"], pixels: Pixels, lenses: Lenses, rays: int, train: TrainConfig
) -> Voxels:
    """The field after learning at one fineness, without the vertices that light passes."""
    first, moved = voxels.rows, torch.zeros_like(voxels.rows).requires_grad_()
    behind = voxels.behind.clone().requires_grad_()

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        nonlocal voxels
        rows = first + pace * moved
        if step == train.steps // 2:
            voxels = _without_the_clear(voxels._replace(rows=rows.detach()))
        k = torch.randint(len(pixels), (rays,), generator=generator)
        o, d, _ = lenses.rays(pixels.view[k], pixels.pixel[k])
        want, jitter = pixels.rgb[k].float() / 255, torch.rand(rays, generator=generator)
        if pixels.alpha is None:
            back = behind.sigmoid().expand(rays, 3)
        else:
            back = torch.rand(rays, 3, generator=generator)
            want = torch.lerp(back, want, pixels.alpha[k, None].float() / 255)
        return SquaredError.apply(rows, back, voxels, o, d, want, jitter, _DECIDE)  # pyright: ignore[reportReturnType]

    fit([moved, behind], loss_fn, train)
    rows = first + pace * moved
    return _without_the_clear(voxels._replace(rows=rows.detach(), behind=behind.detach()))


def _numbered(occupied: np.ndarray) -> np.ndarray:
    index = np.full(occupied.shape, -1, np.int32)
    index[occupied] = np.arange(occupied.sum())
    return index


def _without_the_clear(voxels: Voxels) -> Voxels:
    """Without vertices that light passes, as it does all around them."""
    index = voxels.index
    depth = np.where(index >= 0, voxels.rows.detach().numpy()[index, 0], EMPTY)
    index = np.where(maximum_filter(depth, 3) < _CLEAR, np.int32(-1), index)
    return voxels._replace(index=index, leap=leaps_over(index))


def leaps_over(index: np.ndarray) -> np.ndarray:
    n = [size - 1 for size in index.shape]
    corners = [index[a : a + n[0], b : b + n[1], c : c + n[2]] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    empty = np.max(corners, axis=0) < 0
    if empty.all():
        return np.full(n, 255, np.uint8)
    return np.asarray(distance_transform_cdt(empty, "chessboard")).clip(0, 255).astype(np.uint8)


class SquaredError(torch.autograd.Function):
    """Mean squared error of the colours of rays, plus ``decide`` thirds of the mean entropy of the light that passes all (of it
    and of the rest, natural logarithm): a ray shall meet something, or nothing. Gradients to the rows and to what is behind."""

    @staticmethod
    def forward(ctx, rows, back, voxels, o, d, want, jitter, decide=0.0):
        n, values = len(o), rows.detach().numpy()
        grads = np.zeros((_PARTS, *values.shape), np.float32)
        g_back = np.zeros((n, 3), np.float32)
        errors = np.zeros(_PARTS)
        arrays: Any = [x.contiguous().numpy() for x in (o, d, want, back.detach(), jitter)]

        def part(k: int) -> None:
            cut = slice(k * n // _PARTS, (k + 1) * n // _PARTS)
            grid = (voxels.index, voxels.leap, voxels.lo, voxels.cell, values)
            inputs: Any = [*(x[cut] for x in arrays), decide, *grid, grads[k], g_back[cut]]
            errors[k] = _learn(*inputs)

        spread(part, range(_PARTS), torch.get_num_threads())
        ctx.save_for_backward(torch.from_numpy(grads.sum(0)), torch.from_numpy(g_back))
        ctx.scale = 1 / (3 * n)
        return rows.new_tensor(errors.sum() * ctx.scale)

    @staticmethod
    def backward(ctx, *grad_outputs):
        g_rows, g_back = ctx.saved_tensors
        scale = 2 * ctx.scale * grad_outputs[0]
        return g_rows * scale, g_back * scale, None, None, None, None, None, None


def depths(voxels: Voxels, cameras: Sequence[Camera]) -> list[Float[Tensor, "h w"]]:
    """Metres along the ray of each pixel to where half of its light is stopped; inf where less is."""
    maps = []
    for camera in cameras:
        n = camera.width * camera.height
        o, d, _ = Lenses([camera]).rays(torch.zeros(n, dtype=torch.int64), torch.arange(n))
        out = np.empty(n, np.float32)
        grid = (voxels.index, voxels.leap, voxels.lo, voxels.cell)
        _stops(o.contiguous().numpy(), d.contiguous().numpy(), *grid, voxels.rows.numpy(), out)
        maps.append(torch.from_numpy(out).view(camera.height, camera.width))
    return maps


# -- kernels -----------------------------------------------------------------------------------------------------------


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _span(o, d, lo, cell, shape):
    """Where a ray is within the grid."""
    enter, leave = 0.0, np.inf
    for c in range(3):
        hi = lo[c] + cell * (shape[c] - 1)
        if d[c] == 0.0:
            if o[c] < lo[c] or o[c] > hi:
                return 0.0, -1.0
        else:
            near, far = (lo[c] - o[c]) / d[c], (hi - o[c]) / d[c]
            enter, leave = max(enter, min(near, far)), min(leave, max(near, far))
    return enter, leave


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _corners(o, d, t, lo, cell, index, leap, corner, share):
    """The cell at ``t``: 0 with the rows of its corners and their shares, or how many steps may be leaped as nothing is near."""
    u, v, w = (o[0] + t * d[0] - lo[0]) / cell, (o[1] + t * d[1] - lo[1]) / cell, (o[2] + t * d[2] - lo[2]) / cell
    i = min(max(int(u), 0), leap.shape[0] - 1)
    j = min(max(int(v), 0), leap.shape[1] - 1)
    k = min(max(int(w), 0), leap.shape[2] - 1)
    far = leap[i, j, k]
    if far > 0:
        most = max(abs(d[0]), abs(d[1]), abs(d[2]))
        return 1 + int((far - 1) / (STEP * most))
    u, v, w = u - i, v - j, w - k
    q = 0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                corner[q] = index[i + a, j + b, k + c]
                share[q] = (u if a else 1 - u) * (v if b else 1 - v) * (w if c else 1 - w)
                q += 1
    return 0


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _learn(origin, direction, want, back, jitter, decide, index, leap, lo, cell, rows, g_rows, g_back):
    """Sum of squared errors of rays, and ``decide`` times the entropy of what passes; adds half of its gradient to ``g_rows``,
    sets half of that of the errors in ``g_back``."""
    corner, share = np.empty((_MOST, 8), np.int32), np.empty((_MOST, 8), np.float32)
    inside, slope, passes = np.empty(_MOST, np.float32), np.empty(_MOST, np.float32), np.empty(_MOST, np.float32)
    rgb = np.empty((_MOST, 3), np.float32)
    g, seen = np.empty(3), np.empty(3)
    total = 0.0
    for ray in range(len(origin)):
        o, d = origin[ray], direction[ray]
        enter, leave = _span(o, d, lo, cell, index.shape)
        t, n, light = enter + STEP * cell * jitter[ray], 0, 1.0
        seen[:] = 0.0
        while t < leave and n < _MOST and light > _OPAQUE:
            leaps = _corners(o, d, t, lo, cell, index, leap, corner[n], share[n])
            t += STEP * cell * max(leaps, 1)
            if leaps:
                continue
            depth, known = 0.0, 0.0
            rgb[n] = 0.0
            for q in range(8):
                row = corner[n, q]
                if row >= 0:
                    known += share[n, q]
                    depth += share[n, q] * rows[row, 0]
                    for c in range(3):
                        rgb[n, c] += share[n, q] * rows[row, 1 + c]
            if known < 1e-4:
                continue
            e = math.exp(min(depth + (1 - known) * EMPTY, 30.0))
            passed = 1 / (1 + e)  # exp(-softplus)
            if passed > 1 - 1e-5:
                continue
            inside[n], slope[n], passes[n] = known, e / (1 + e), passed
            for c in range(3):
                rgb[n, c] = 1 / (1 + math.exp(-rgb[n, c] / known))
                seen[c] += light * (1 - passed) * rgb[n, c]
            light *= passed
            n += 1
        left = min(max(light, 1e-6), 1 - 1e-6)
        total -= decide * (left * math.log(left) + (1 - left) * math.log(1 - left))
        rest = -0.5 * decide * left * math.log(left / (1 - left))
        # of the gradient: what later samples and the background make of the light
        for c in range(3):
            g[c] = seen[c] + light * back[ray, c] - want[ray, c]
            total += g[c] * g[c]
            g_back[ray, c] = light * g[c]
            rest += light * g[c] * back[ray, c]
        for k in range(n - 1, -1, -1):
            light /= passes[k]
            weight = light * (1 - passes[k])
            own = g[0] * rgb[k, 0] + g[1] * rgb[k, 1] + g[2] * rgb[k, 2]
            g_depth = (light * passes[k] * own - rest) * slope[k]
            rest += weight * own
            weight /= inside[k]
            g0 = weight * g[0] * rgb[k, 0] * (1 - rgb[k, 0])
            g1 = weight * g[1] * rgb[k, 1] * (1 - rgb[k, 1])
            g2 = weight * g[2] * rgb[k, 2] * (1 - rgb[k, 2])
            for q in range(8):
                row = corner[k, q]
                if row >= 0:
                    w = share[k, q]
                    g_rows[row, 0] += w * g_depth
                    g_rows[row, 1] += w * g0
                    g_rows[row, 2] += w * g1
                    g_rows[row, 3] += w * g2
    return total


@numba.njit(parallel=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _stops(origin, direction, index, leap, lo, cell, rows, out):
    for ray in numba.prange(len(origin)):
        corner, share = np.empty(8, np.int32), np.empty(8, np.float32)
        o, d = origin[ray], direction[ray]
        enter, leave = _span(o, d, lo, cell, index.shape)
        step = STEP * cell
        t, passed = enter + 0.5 * step, 0.0
        out[ray] = np.inf
        while t < leave:
            leaps = _corners(o, d, t, lo, cell, index, leap, corner, share)
            if leaps:
                t += step * leaps
                continue
            depth = 0.0
            for q in range(8):
                depth += share[q] * (rows[corner[q], 0] if corner[q] >= 0 else EMPTY)
            more = math.log1p(math.exp(min(depth, 30.0)))
            if passed + more > _HALF:
                out[ray] = t + step * ((_HALF - passed) / more - 0.5)
                break
            passed += more
            t += step
