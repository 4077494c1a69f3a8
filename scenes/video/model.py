"""The model of a thing while its poses are refined: fused distances and colours in its own frame, and what a camera sees of it.

Fusion: Curless, Levoy, "A Volumetric Method for Building Complex Models from Range Images" (SIGGRAPH 1996). One frame after the
other: Newcombe et al., "KinectFusion" (ISMAR 2011).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from scenes.video.camera import points_of
from scenes.video.maps import Maps
from scenes.video.planes import sample
from scenes.video.volume import REACH, Grid, said

_CELLS, _CELL, _ROOM = (
    (48, 96),
    0.8,
    0.75,
)  # along an edge, which is twice _ROOM times the thing's extent; pixels a cell
_STEPS = 500  # of a ray, at most
_LEAST_STEP, _BLIND, _CAREFUL = (
    0.5,
    2.0,
    0.7,
)  # cells, and where nothing is known; share of the distance that a step goes


class View(NamedTuple):
    """What a camera sees of a model."""

    depth: Float32[np.ndarray, "h w"]
    """Metres along the optical axis, 0 where the model isn't."""
    normal: Float32[np.ndarray, "h w 3"]
    """Camera frame, towards the camera."""
    rgb: Float32[np.ndarray, "h w 3"]
    """sRGB in 0..1."""


class Model:
    """Distances and colours of a thing on a grid in its own frame, averaged over the frames that were added."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.value = np.full(grid.shape, np.nan, np.float32)
        """Signed distances along rays, in reaches (`REACH` cells), cut to -1..1; NaN where nothing is known."""
        self.color = np.zeros((*grid.shape, 3), np.float32)
        self.weight = np.zeros((*grid.shape, 2), np.float32)
        """Of distances and of colours."""

    def add(
        self,
        depth: Float32[np.ndarray, "h w"],
        mine: Bool[np.ndarray, "h w"],
        trust: Float32[np.ndarray, "h w"],
        rgb: Float32[np.ndarray, "h w 3"],
        to_cam: Float[np.ndarray, "4 4"],
        lens: Float[np.ndarray, "4"],
    ) -> None:
        """Fuses one more frame.

        Args:
            depth: Metres along the optical axis, 0 where missing.
            mine: Pixels that show the thing; the others say that before them is free.
            trust: Weights of depths.
            rgb: sRGB in 0..1.
            to_cam: Object to camera, OpenCV axes.
            lens: fx, fy, cx, cy in pixels.
        """
        frame = depth, mine, trust, rgb, to_cam, lens
        args: Any = (
            self.grid.first,
            self.grid.cell,
            REACH * self.grid.cell,
            *frame,
            self.value,
            self.color,
            self.weight,
        )
        _add(*args)

    def seen_by(self, to_cam: Float[np.ndarray, "4 4"], lens: Float[np.ndarray, "4"], shape: tuple[int, int]) -> View:
        """What a camera with ``shape`` rows and columns sees: first changes of sign along the rays of pixel centres."""
        view = View(np.zeros(shape, np.float32), *(np.zeros((*shape, 3), np.float32) for _ in range(2)))
        args: Any = (self.grid.first, self.grid.cell, REACH, self.value, self.color, self.weight, to_cam, lens, *view)
        _cast(*args)
        return view


class Stage(NamedTuple):
    """Where the model of a thing is made."""

    grid: Grid
    home: Float[np.ndarray, "4 4"]
    """Model to camera in the frame that it starts from."""
    extent: float
    """Metres."""


def stage_of(maps: Maps, masks: Bool[np.ndarray, "f h w"], anchor: int, frames: Int[np.ndarray, "n"]) -> Stage:
    """A grid about a thing whose model starts from the frame ``anchor``; some ``frames`` that show it say how large it is."""
    clouds = [points_of(maps, t, *np.nonzero(masks[t])) for t in frames.tolist()]
    spans = [np.linalg.norm(np.ptp(np.quantile(p, [0.02, 0.98], axis=0), axis=0)) for p in clouds]
    extent = float(np.quantile(spans, 0.7))
    half = _ROOM * extent
    middle = np.median(points_of(maps, anchor, *np.nonzero(masks[anchor])), axis=0)
    cells = np.clip(2 * half / (_CELL * middle[2] / maps.lens[0]), *_CELLS)
    home = np.eye(4)
    home[:3, 3] = middle * (1 + 0.15 * extent / np.linalg.norm(middle))
    return Stage(Grid.around(np.full(3, -half), np.full(3, half), 2 * half / cells, 2), home, extent)


def fused(
    maps: Maps,
    trust: Float32[np.ndarray, "f h w"],
    masks: Bool[np.ndarray, "f h w"],
    to_cam: Float[np.ndarray, "f 4 4"],
    known: Bool[np.ndarray, "f"],
    grid: Grid,
) -> Model:
    """The model of all frames in which a thing is known."""
    model = Model(grid)
    for t in np.flatnonzero(known).tolist():
        model.add(maps.depth[t], masks[t], trust[t], maps.rgb[t], to_cam[t], maps.lens)
    return model


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _add(first, cell, reach, depth, mine, trust, rgb, T, lens, value, color, weight):
    height, width = depth.shape
    frames = rgb.reshape((1, height, width, 3))
    for i in numba.prange(value.shape[0]):
        shown = np.zeros(3)
        for j in range(value.shape[1]):
            for k in range(value.shape[2]):
                x, y, z = first[0] + cell * i, first[1] + cell * j, first[2] + cell * k
                c = T[2, 0] * x + T[2, 1] * y + T[2, 2] * z + T[2, 3]
                if c <= 1e-6:
                    continue
                u = lens[0] * (T[0, 0] * x + T[0, 1] * y + T[0, 2] * z + T[0, 3]) / c + lens[2]
                v = lens[1] * (T[1, 0] * x + T[1, 1] * y + T[1, 2] * z + T[1, 3]) / c + lens[3]
                if not (0 <= u < width and 0 <= v < height):
                    continue
                p, w = said(depth, mine, trust, u, v, c, reach, 0.0)
                if w <= 0:
                    continue
                before = weight[i, j, k, 0]
                value[i, j, k] = (before * value[i, j, k] + w * p) / (before + w) if before > 0 else p
                weight[i, j, k, 0] = before + w
                if abs(p) < 1 and mine[int(v), int(u)]:
                    sample(frames, 0, u, v, shown)
                    before = weight[i, j, k, 1]
                    for ch in range(3):
                        color[i, j, k, ch] = (before * color[i, j, k, ch] + w * shown[ch]) / (before + w)
                    weight[i, j, k, 1] = before + w


@numba.njit(cache=True, error_model="numpy", inline="always")
def _distance(value, x, y, z):
    """Between cells, in reaches; NaN where one of the eight isn't known, or outside."""
    i, j, k = int(x), int(y), int(z)
    if x < 0 or y < 0 or z < 0 or i >= value.shape[0] - 1 or j >= value.shape[1] - 1 or k >= value.shape[2] - 1:
        return np.nan
    fx, fy, fz = x - i, y - j, z - k
    low = (1 - fy) * ((1 - fz) * value[i, j, k] + fz * value[i, j, k + 1])
    low += fy * ((1 - fz) * value[i, j + 1, k] + fz * value[i, j + 1, k + 1])
    high = (1 - fy) * ((1 - fz) * value[i + 1, j, k] + fz * value[i + 1, j, k + 1])
    high += fy * ((1 - fz) * value[i + 1, j + 1, k] + fz * value[i + 1, j + 1, k + 1])
    return (1 - fx) * low + fx * high


@numba.njit(cache=True, error_model="numpy")
def _color(color, weight, x, y, z, out):
    """Colour between cells, of those that have one; False where none has."""
    i, j, k = int(x), int(y), int(z)
    share = 0.0
    out[:] = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                if weight[i + a, j + b, k + c, 1] > 0:
                    s = (x - i if a else 1 - x + i) * (y - j if b else 1 - y + j) * (z - k if c else 1 - z + k)
                    share += s
                    for ch in range(3):
                        out[ch] += s * color[i + a, j + b, k + c, ch]
    for ch in range(3):
        out[ch] /= max(share, 1e-9)
    return share > 1e-6


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _cast(first, cell, reach, value, color, weight, T, lens, depth, normal, rgb):
    height, width = depth.shape
    n = value.shape
    eye = np.zeros(3)  # in cells
    for a in range(3):
        eye[a] = (-(T[0, a] * T[0, 3] + T[1, a] * T[1, 3] + T[2, a] * T[2, 3]) - first[a]) / cell
    for y in numba.prange(height):
        ray, shown, grad = np.zeros(3), np.zeros(3), np.zeros(3)
        for x in range(width):
            p, q = (x + 0.5 - lens[2]) / lens[0], (y + 0.5 - lens[3]) / lens[1]
            near, far = 0.0, 1e30  # metres along the optical axis
            for a in range(3):
                ray[a] = (T[0, a] * p + T[1, a] * q + T[2, a]) / cell
                if abs(ray[a]) < 1e-9:
                    ray[a] = 1e-9
                s, e = -eye[a] / ray[a], (n[a] - 1 - eye[a]) / ray[a]
                near, far = max(near, min(s, e)), min(far, max(s, e))
            step = 1 / np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)  # metres along the optical axis a cell
            z, before, last = near, np.nan, near
            for _ in range(_STEPS):
                if z >= far:
                    break
                here = _distance(value, eye[0] + z * ray[0], eye[1] + z * ray[1], eye[2] + z * ray[2])
                if here <= 0 and before > 0:
                    z = last + (z - last) * before / (before - here)
                    px, py, pz = eye[0] + z * ray[0], eye[1] + z * ray[1], eye[2] + z * ray[2]
                    grad[0] = _distance(value, px + 1, py, pz) - _distance(value, px - 1, py, pz)
                    grad[1] = _distance(value, px, py + 1, pz) - _distance(value, px, py - 1, pz)
                    grad[2] = _distance(value, px, py, pz + 1) - _distance(value, px, py, pz - 1)
                    size = np.sqrt(grad[0] ** 2 + grad[1] ** 2 + grad[2] ** 2)
                    if size > 1e-9 and _color(color, weight, px, py, pz, shown):
                        depth[y, x] = z
                        for a in range(3):
                            normal[y, x, a] = (T[a, 0] * grad[0] + T[a, 1] * grad[1] + T[a, 2] * grad[2]) / size
                            rgb[y, x, a] = shown[a]
                    break
                before, last = here, z
                z += step * (max(_LEAST_STEP, _CAREFUL * reach * here) if here == here else _BLIND)
