"""What posed pictures rule out: rough first shapes of objects, by carving.

A cell of a box is carved away where a picture shows that the object isn't there: past it, in front of a measured depth, or where
the pixels that it covers belong to something that can't hide it. Pixels that aren't valid rule out nothing. Source: Kutulakos,
Seitz, "A Theory of Shape by Space Carving" (IJCV 2000), with masks and depth in place of colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from rendering.camera import Camera
from rendering.views import View, Views

BACKGROUND = 0  # its instance id
_ANY = -2  # stands for all ids, where pictures have none
_LEAST_SLOPE = 0.3  # of fused distances; less is found only where pictures disagree
_REACH = 8.0  # pixels beside the middle of a cell that are looked at, at most


class Carver:
    """Pictures prepared for carving; alpha, ids and depth are used where they are there."""

    def __init__(self, views: Views) -> None:
        def flat(layers: list[Tensor | None], dtype: torch.dtype, missing: float) -> np.ndarray:
            sizes = [(view.camera.height, view.camera.width) for view in views]
            filled = [torch.full(n, missing) if x is None else x for x, n in zip(layers, sizes, strict=True)]
            return torch.cat([x.reshape(-1).to(dtype) for x in filled]).numpy()

        cameras = views.cameras
        self.has_ids = any(view.ids is not None for view in views)
        self.known = flat([v.valid for v in views], torch.bool, 1)
        self.depth = flat([None if v.depth is None else v.depth.nan_to_num(0.0) for v in views], torch.float32, 0)
        self.ids = flat([view.ids for view in views], torch.int32, _ANY)
        self.opaque = flat([None if v.alpha is None else v.alpha >= 0.5 for v in views], torch.bool, 1)
        self.tells = np.array([view.ids is not None or view.alpha is not None for view in views])
        self.measures = np.array([view.depth is not None for view in views])
        self.sights = _sights(cameras)

    def support(
        self,
        centers: Float[Tensor, "n 3"],
        cell: float,
        wanted: int | None,
        cameras: Sequence[Camera] | None = None,
    ) -> Int[Tensor, "n"]:
        """How many pictures show the object where each cell is; 0 for cells that the pictures rule out, or that none of them shows.

        Pictures that only have depth show the same everywhere: there it is 1 for cells that aren't ruled out.

        Args:
            centers: Middles of the cells, world frame, metres, float64.
            cell: Their size, metres.
            wanted: The instance id of the object; None for any. Of no account where pictures have no ids.
            cameras: Where the pictures' cameras stand to the object, if that moves.
        """
        count = np.zeros(len(centers), dtype=np.int64)
        layers = (self.known, self.depth, self.ids, self.opaque, self.tells, self.measures)
        number = wanted if self.has_ids and wanted is not None else _ANY
        sights = self.sights if cameras is None else _sights(cameras)
        inputs: Any = (centers.double().numpy(), cell, number, *layers, *sights, count)
        _carve(*inputs)
        return torch.from_numpy(count)

    def shown(self, p_world: Float[Tensor, "n 3"]) -> Int[Tensor, "n"]:
        """How many pictures each place would be in, if nothing hid it, at a pixel that is valid."""
        count = np.zeros(len(p_world), dtype=np.int64)
        inputs: Any = (p_world.double().numpy(), self.known, *self.sights, count)
        _count(*inputs)
        return torch.from_numpy(count)


def measured_ahead(view: View) -> Float[Tensor, "h w"]:
    """Metres along the ray of each pixel to what was measured; NaN where nobody knows, inf where alpha says that nothing is."""
    if view.depth is None:
        return torch.full(view.valid.shape, torch.nan)
    along = view.camera.depth_per_t(view.camera.pixel_centers()).view(view.depth.shape)
    ahead = (view.depth.double() / along).float()
    if view.alpha is not None:
        ahead = torch.where(view.alpha < 0.5, torch.inf, ahead)
    return torch.where(view.valid, ahead, torch.nan)


def fused(
    centers: Float[Tensor, "n 3"], cameras: Sequence[Camera], ahead: Sequence[Float[Tensor, "h w"]], reach: float
) -> Float[Tensor, "n"]:
    """Signed distances along the rays of pictures, averaged over those that see so far (Curless, Levoy, "A Volumetric Method for
    Building Complex Models from Range Images", SIGGRAPH 1996). Read between pixels; at an outline, where neighbours differ by more
    than ``reach``, a picture says nothing of what one of them may hide.

    Args:
        centers: Places, world frame, metres.
        cameras: Of the pictures.
        ahead: For each picture metres along the ray of each pixel to the surface, inf where there is none, NaN where unknown.
        reach: Metres; distances are cut to it, and a picture that sees a surface this far before a place says nothing of it.

    Returns:
        Metres, at most ``reach``, negative inside; ``-reach`` where no picture says anything.
    """
    out = np.empty(len(centers), np.float32)
    flat = torch.cat([x.reshape(-1) for x in ahead]).numpy()
    inputs: Any = (centers.double().numpy(), flat, reach, *_sights(cameras), out)
    _fuse(*inputs)
    return torch.from_numpy(out)


def _sights(cameras: Sequence[Camera]) -> tuple[np.ndarray, ...]:
    """Lenses, sizes, first pixels in a table of all, and the rotations and translations from the world to the cameras."""
    to_cam = [camera.T_world_cam.inverse() for camera in cameras]
    return (
        np.array([[c.fx, c.fy, c.cx, c.cy] for c in cameras]),
        np.array([[c.width, c.height] for c in cameras]),
        np.cumsum([0, *(c.width * c.height for c in cameras[:-1])]),
        np.stack([pose.rotation().numpy() for pose in to_cam]),
        np.stack([pose.translation.numpy() for pose in to_cam]),
    )


@numba.njit(cache=True)
def _projected(p_world, lens, size, rot, trans):
    """Column and row (fractions of pixels) in which a picture shows a place, -1 if it doesn't; its depth, and how far it is from
    the camera."""
    x, y, z = trans[0], trans[1], trans[2]
    for c in range(3):
        x += rot[0, c] * p_world[c]
        y += rot[1, c] * p_world[c]
        z += rot[2, c] * p_world[c]
    if z <= 0:
        return -1.0, -1.0, z, 0.0
    column, row = lens[0] * x / z + lens[2], lens[1] * y / z + lens[3]
    if not (0 <= column < size[0] and 0 <= row < size[1]):
        return -1.0, -1.0, z, 0.0
    return column, row, z, np.sqrt(x * x + y * y + z * z)


@numba.njit(parallel=True, cache=True)
def _count(p_world, known, lens, size, start, rot, trans, count):
    for i in numba.prange(len(p_world)):
        for v in range(len(start)):
            u, w, _, _ = _projected(p_world[i], lens[v], size[v], rot[v], trans[v])
            count[i] += u >= 0 and known[start[v] + int(w) * size[v, 0] + int(u)]


@numba.njit(parallel=True, cache=True)
def _carve(centers, cell, wanted, known, depth, ids, opaque, tells, measures, lens, size, start, rot, trans, count):
    telling = tells.any()
    for i in numba.prange(len(centers)):
        shown, hidden, free = 0, 0, False
        for v in range(len(start)):
            u, w, z, _ = _projected(centers[i], lens[v], size[v], rot[v], trans[v])
            if u < 0:
                continue
            width, height = size[v]
            # All pixels that the cell covers and those around: what lies between the middles of two may belong to either.
            reach = min(0.5 * cell * max(lens[v, 0], lens[v, 1]) / z, _REACH)
            mine, other, blank, nearest = False, False, False, np.inf
            for r in range(max(int(np.floor(w - 0.5 - reach)), 0), min(int(np.floor(w + 0.5 + reach)) + 1, height)):
                for q in range(max(int(np.floor(u - 0.5 - reach)), 0), min(int(np.floor(u + 0.5 + reach)) + 1, width)):
                    at = start[v] + r * width + q
                    if not known[at]:
                        blank = True
                        continue
                    if depth[at] > 0:
                        nearest = min(nearest, depth[at])
                    if opaque[at] and (ids[at] == wanted or ids[at] == _ANY or wanted == _ANY):
                        mine = True
                    elif opaque[at] and ids[at] != BACKGROUND:
                        other = True
            if blank and not mine:
                continue  # a pixel that says nothing may show it
            if z < nearest - cell and nearest < np.inf and not blank:
                free = True  # seen through
                break
            if not tells[v]:
                continue
            # Another object may stand in front; the background can't, unless depth says so.
            unsure = z > nearest + 2 * cell if measures[v] else other
            if mine:
                shown += 1
            elif unsure:
                hidden += 1
            else:
                free = True
                break
        if not free and shown >= hidden:
            count[i] = shown if telling else 1


def distance_to_cells(occupied: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Signed distance (negative inside) to the surface of occupied cells ``[x, y, z]``, at their middles; the outermost cells
    count as empty."""
    inside = np.zeros(occupied.shape, dtype=bool)
    inside[1:-1, 1:-1, 1:-1] = occupied[1:-1, 1:-1, 1:-1]
    if not inside.any():
        return np.full(occupied.shape, float(cell.max()))
    outer, inner = (np.asarray(distance_transform_edt(part, sampling=cell)) for part in (~inside, inside))
    return outer - inner + 0.5 * float(cell.min()) * np.where(inside, 1.0, -1.0)


def distance_from_fused(near: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Signed distance from distances along rays (`fused`, cut to a few cells) on a grid ``[x, y, z]``.

    Next to the surface they are divided by their slope, which puts it at its place within a cell; further away it is the
    distance to the cells that are inside.
    """
    distance = distance_to_cells(near < 0, cell)
    slope = np.sqrt(sum(np.square(part) for part in np.gradient(near, *cell)))
    most = 1.5 * float(cell.max())
    sharp = np.clip(near / np.maximum(slope, _LEAST_SLOPE), -most, most)
    return np.where(np.abs(distance) < most, sharp, distance)


@numba.njit(cache=True, error_model="numpy")
def _vote(ahead, start, size, u, v, away, reach):
    """What one picture says of a place at column ``u``, row ``v``: its cut distance to the surface; NaN for nothing.

    Between pixels of one surface depth is linear; where they differ by more than ``reach`` an outline runs, and the picture only
    says that all of them see past the place, or nothing.
    """
    own = ahead[start + int(v) * size[0] + int(u)]
    if np.isnan(own):
        return np.nan
    x, y = max(u - 0.5, 0.0), max(v - 0.5, 0.0)
    i, j = int(x), int(y)
    least, most, mean = np.inf, -np.inf, 0.0
    for b in range(2):
        for a in range(2):
            z = ahead[start + min(j + b, size[1] - 1) * size[0] + min(i + a, size[0] - 1)]
            if np.isnan(z):
                z = own
            least, most = min(least, z), max(most, z)
            mean += z * (x - i if a else 1.0 - (x - i)) * (y - j if b else 1.0 - (y - j))
    if least - away >= reach:
        return reach
    if not most - least < reach or mean - away <= -reach:
        return np.nan
    return mean - away


@numba.njit(parallel=True, cache=True)
def _fuse(centers, ahead, reach, lens, size, start, rot, trans, out):
    for i in numba.prange(len(centers)):
        total, n = 0.0, 0
        for v in range(len(start)):
            column, row, _, away = _projected(centers[i], lens[v], size[v], rot[v], trans[v])
            if column < 0:
                continue
            f = _vote(ahead, start[v], size[v], column, row, away, reach)
            if not np.isnan(f):
                total += min(f, reach)
                n += 1
        out[i] = total / n if n else -reach
