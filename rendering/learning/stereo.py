"""Depths of photos from each other: where a plane that is swept through the view of one picture looks the same in others.

Each pixel's colours about it are compared, by normalised correlation (exposure doesn't count), with those of the pictures that
suit it best, for planes across its optical axis at depths whose inverses are evenly spread; the better half of the pictures
counts, as something may hide the place in the others (Kang, Szeliski, Chai, "Handling Occlusions in Dense Multi-view Stereo", CVPR
2001). Neighbouring pixels then agree on a smooth surface (Hirschmüller, "Stereo Processing by Semiglobal Matching and Mutual
Information", PAMI 2008). A depth is kept where other pictures' depths confirm it, and no more of them
contradict it. What has no texture takes its depth from the plane that it lies on (`flats`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from objects.progress import Bar
from rendering.learning.flats import filled, planes_of
from rendering.learning.overlap import Overlap, Sight, overlap_of
from rendering.views import View, Views

NOISE = 0.02  # share of a depth by which it is usually off
_FEWEST = 3  # photos
_LEAST_SHARE = 0.3  # of the pixels have a depth, in a place that is learned from it
_PIXELS = 120_000  # of a picture, at most; larger ones are matched smaller
_OTHERS = 8  # pictures to compare with
_PLANES = 96
_NEARER, _FARTHER = 0.7, 1.6  # than nearly all features
_ENOUGH = 30  # features of a picture whose depths are its own; else those of all pictures are taken
_AROUND = 3  # pixels beside one that are compared
_NOISE = 1.0  # variance of grey that counts for nothing
_BLANK = -1000.0  # grey beyond a picture
_STEP, _JUMP, _EDGE = (
    0.1,
    2.0,
    10.0,
)  # cost of one plane further, and of more; difference of grey that halves the latter
_AGREE, _CONTRADICT = (
    0.03,
    0.1,
)  # shares of a depth, to which another picture confirms it, and from which on it contradicts
_SPECKLE = 40  # pixels of a lone patch of depths, which is dropped


def place_of_photos(views: Views, progress: bool = True) -> Views | None:
    """Opaque photos without depth and ids, with the depths that are found in them; None for other pictures, and where too few
    are found to learn from."""
    if len(views) < _FEWEST or any({"alpha", "depth", "ids"} & view.stored.keys() for view in views):
        return None
    depths = depths_of_photos(views, progress)
    share = sum((depth > 0).sum() for depth in depths) / sum(depth.size for depth in depths)
    return with_depths(views, depths) if share > _LEAST_SHARE else None


def depths_of_photos(views: Views, progress: bool = True) -> list[Float[np.ndarray, "h w"]]:
    """Depths along the optical axes of pictures without any, metres; 0 where none is confirmed.

    Args:
        views: Opaque pictures of a place that stands still, with their cameras.
        progress: Show bars.
    """
    shrink = [min(1.0, math.sqrt(_PIXELS / v.valid.numel())) for v in views]
    sizes = [(round(v.camera.width * s), round(v.camera.height * s)) for v, s in zip(views, shrink, strict=True)]
    sights = [Sight.of(v.camera.resized(*size)) for v, size in zip(views, sizes, strict=True)]
    greys = [_grey(view, size) for view, size in zip(views, sizes, strict=True)]
    overlap = overlap_of(sights, [grey.clip(0, 255).astype(np.uint8) for grey in greys], progress)

    def found(i: int) -> Float[np.ndarray, "h w"]:
        return _swept(i, sights, greys, overlap)

    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        bar = Bar(
            pool.map(found, range(len(views))), desc="depths", unit="picture", total=len(views), disable=not progress
        )
        depth = list(bar)
    others = [overlap.best(i, _OTHERS) for i in range(len(views))]
    depth = [np.where(_confirmed(i, sights, depth, others[i]), z, 0) for i, z in enumerate(depth)]
    depth = _with_flats(views, sizes, sights, depth, others)
    out = []
    for view, z in zip(views, depth, strict=True):
        size = (view.camera.width, view.camera.height)
        full = cv2.resize(z.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
        out.append(np.where(view.valid.numpy(), full, 0))
    return out


def _with_flats(
    views: Views,
    sizes: Sequence[tuple[int, int]],
    sights: Sequence[Sight],
    depth: Sequence[Float[np.ndarray, "h w"]],
    others: Sequence[Sequence[int]],
) -> list[Float[np.ndarray, "h w"]]:
    """Depths, with those of regions without texture where no more pictures contradict than confirm them."""
    planes, more = planes_of(sights, depth), []
    for view, size, sight, z in zip(views, sizes, sights, depth, strict=True):
        rgb = cv2.resize(view.stored["rgb"].numpy(), size, interpolation=cv2.INTER_AREA)
        more.append(np.where(z > 0, z, filled(rgb, z, sight, planes)))
    out = []
    for i, (z, new) in enumerate(zip(depth, more, strict=True)):
        confirm, contradict = _votes(i, sights, more, others[i])
        out.append(np.where((z > 0) | (contradict <= confirm), new, 0))
    return out


def with_depths(views: Views, depths: Sequence[Float[np.ndarray, "h w"]]) -> Views:
    """The same pictures with these depths."""
    found = []
    for view, depth in zip(views, depths, strict=True):
        layers: dict[str, Any] = view.stored | {"depth": torch.from_numpy(np.ascontiguousarray(depth, np.float32))}
        found.append(View(view.camera, name=view.name, time=view.time, posed=view.posed, **layers))
    return Views(found)


def _grey(view: View, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    grey = cv2.cvtColor(view.stored["rgb"].numpy(), cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey[~view.valid.numpy()] = _BLANK
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def _swept(i: int, sights: Sequence[Sight], greys: Sequence[np.ndarray], overlap: Overlap) -> Float[np.ndarray, "h w"]:
    """Depth of each pixel of a picture; 0 where no other picture suits it."""
    others, grey = overlap.best(i, _OTHERS), greys[i]
    known = overlap.depth[i] if len(overlap.depth[i]) >= _ENOUGH else np.concatenate(overlap.depth)
    if not others or len(known) == 0:
        return np.zeros(grey.shape, np.float32)
    near, far = _NEARER * np.quantile(known, 0.01), _FARTHER * np.quantile(known, 0.99)
    inverse = np.linspace(1 / near, 1 / far, _PLANES)
    cost = np.empty((*grey.shape, _PLANES), np.float32)
    for k, q in enumerate(inverse):
        cost[:, :, k] = _unlike(grey, sights[i], [(greys[j], sights[j]) for j in others], q)
    total = smoothed_costs(cost, grey, np.float32(_STEP), np.float32(_JUMP), np.float32(_EDGE))
    k = total.argmin(2)
    rows, columns = np.indices(grey.shape)
    middle = k.clip(1, _PLANES - 2)
    a, b, c = (total[rows, columns, middle + s] for s in (-1, 0, 1))
    between = np.where(k == middle, 0.5 * (a - c) / np.maximum(a - 2 * b + c, 1e-6), 0.0).clip(-0.5, 0.5)
    depth = 1 / np.interp(k + between, np.arange(_PLANES), inverse)
    return np.where((k == middle) & (grey >= 0), depth, 0).astype(np.float32)


def _unlike(
    grey: np.ndarray, sight: Sight, others: Sequence[tuple[np.ndarray, Sight]], inverse: float
) -> Float[np.ndarray, "h w"]:
    """One minus the correlation (at least 0) of a picture with others as they see the plane at a depth; 1 where none sees it."""
    size, window = (grey.shape[1], grey.shape[0]), (2 * _AROUND + 1,) * 2
    mean = cv2.boxFilter(grey, -1, window)
    spread = np.maximum(cv2.boxFilter(grey * grey, -1, window) - mean * mean, 0) + _NOISE
    found = []
    for other, its in others:
        turn = its.turn @ sight.turn.T
        shift = its.shift - turn @ sight.shift
        plane = its.lens @ (turn + np.outer(shift, [0, 0, inverse])) @ np.linalg.inv(sight.lens)
        how: dict[str, Any] = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_CONSTANT}
        x = cv2.warpPerspective(other, plane, size, borderValue=_BLANK, **how)
        m = cv2.boxFilter(x, -1, window)
        s = np.maximum(cv2.boxFilter(x * x, -1, window) - m * m, 0) + _NOISE
        both = cv2.boxFilter(x * grey, -1, window) - m * mean
        found.append(np.where(m < 0, 1.0, 1 - both / np.sqrt(s * spread)))
    best = np.sort(np.stack(found), axis=0)[: max(len(found) // 2, 1)]
    return np.minimum(best.mean(0), 1.0)


def _confirmed(
    i: int, sights: Sequence[Sight], depth: Sequence[Float[np.ndarray, "h w"]], others: Sequence[int]
) -> Bool[np.ndarray, "h w"]:
    """Where other pictures have the same depths as this one, and not more of them nearer or farther ones."""
    confirm, contradict = _votes(i, sights, depth, others)
    kept = (depth[i] > 0) & (confirm > 0) & (contradict <= confirm)
    label = np.zeros(kept.shape, np.int32)
    ndimage.label(kept, output=label)
    return kept & (np.bincount(label.reshape(-1)) >= _SPECKLE)[label]


def _votes(
    i: int, sights: Sequence[Sight], depth: Sequence[Float[np.ndarray, "h w"]], others: Sequence[int]
) -> tuple[Int[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """How many other pictures have the same depths as this one, and how many nearer or farther ones."""
    z, sight = depth[i], sights[i]
    rows, columns = np.indices(z.shape)
    at = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(sight.lens).T
    p_world = (at * z[..., None] - sight.shift) @ sight.turn
    confirm, contradict = np.zeros(z.shape, np.int64), np.zeros(z.shape, np.int64)
    for j in others:
        x, there = sights[j].seen(p_world)
        x = x.clip(-1e4, 1e4).astype(np.float32)
        read = cv2.remap(
            depth[j].astype(np.float32),
            x[..., 0],
            x[..., 1],
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0.0,
        )
        off, both = np.abs(read - there), (there > 0) & (read > 0)
        confirm += both & (off < _AGREE * there)
        contradict += both & (off > _CONTRADICT * there)
    return confirm, contradict


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def smoothed_costs(cost, grey, step, jump, edge):
    """Mean, over the paths that come to each pixel from eight sides, of the least cost of the planes along them."""
    h, w, n = cost.shape
    total, path = np.zeros((h, w, n), np.float32), np.empty((h, w, n), np.float32)
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)):
        for yy in range(h):
            y = yy if dy >= 0 else h - 1 - yy
            for xx in range(w):
                x = xx if dx >= 0 else w - 1 - xx
                a, b = y - dy, x - dx
                own = path[y, x]
                if a < 0 or a >= h or b < 0 or b >= w:
                    for k in range(n):
                        own[k] = cost[y, x, k]
                else:
                    before = path[a, b]
                    least = before[0]
                    for k in range(1, n):
                        least = min(least, before[k])
                    most = least + max(jump / (1 + abs(grey[y, x] - grey[a, b]) / edge), 1.5 * step)
                    for k in range(n):
                        best = min(before[k], most)
                        if k > 0:
                            best = min(best, before[k - 1] + step)
                        if k < n - 1:
                            best = min(best, before[k + 1] + step)
                        own[k] = cost[y, x, k] + best - least
                for k in range(n):
                    total[y, x, k] += own[k]
    return total / np.float32(8)
