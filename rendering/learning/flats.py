"""Depths of what has no texture, such as white walls: even regions of pictures lie on large planes that textured places show.

Planes are found in all depths together (Fischler, Bolles, "Random Sample Consensus", CACM 1981), the largest first. A region
without edges takes the plane that most depths in it and about its outline lie on; one for which there is none keeps what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from rendering.learning.overlap import Sight

_POINTS, _TRIES = 20_000, 400  # of all depths; planes through three of them, tried for each that is found
_PLANES, _LEAST = 16, 0.02  # at most; share of the points on one, at least
_ON, _LIKE = 0.02, 0.04  # share of a depth by which a place is off its plane, at most: of all, and about a region
_SMOOTHED = 1.0  # pixels, before slopes of colour are taken
_EVEN = 8.0  # levels of colour from pixel to pixel, beyond which an edge runs
_PIXELS, _MISSING, _KNOWN = 150, 50, 30  # of a region; of those, without depth; with depth in it and about it: at least
_RIM = 4  # pixels about a region whose depths count
_SHARE = 0.6  # of these lie on its plane, at least
_FARTHER = 1.5  # than nearly all depths of a picture: no plane is followed further


class Plane(NamedTuple):
    """Places ``p`` with ``normal . p = offset``, world frame, metres."""

    normal: Float[np.ndarray, "3"]
    offset: float

    def depth(self, sight: Sight, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
        """Along the optical axis, at each pixel of a picture of so many columns and rows; not positive where it isn't seen."""
        with np.errstate(divide="ignore"):
            return (self.offset + sight.shift @ (sight.turn @ self.normal)) / (
                _pixels(size) @ np.linalg.inv(sight.lens).T @ sight.turn @ self.normal
            )


def planes_of(sights: Sequence[Sight], depths: Sequence[Float[np.ndarray, "h w"]], seed: int = 0) -> list[Plane]:
    """The large planes of a place, by depths of its pictures (0 where unknown)."""
    rng = np.random.default_rng(seed)
    found = [_points(sight, depth) for sight, depth in zip(sights, depths, strict=True)]
    p, away = np.concatenate(found), np.concatenate([depth[depth > 0] for depth in depths])
    pick = rng.permutation(len(p))[:_POINTS]
    p, away, planes = p[pick], away[pick], []
    least = max(_LEAST * len(p), 3)
    while len(planes) < _PLANES and len(p) >= least:
        on = max((_on_three(p, away, rng) for _ in range(_TRIES)), key=np.count_nonzero)
        middle, normal = np.zeros(3), np.zeros(3)
        for _ in range(3):
            if on.sum() < least:
                return planes
            middle = p[on].mean(0)
            normal = np.linalg.svd(np.cov((p[on] - middle).T))[2][2]
            on = np.abs((p - middle) @ normal) < _ON * away
        planes.append(Plane(normal, float(normal @ middle)))
        p, away = p[~on], away[~on]
    return planes


def filled(
    rgb: UInt8[np.ndarray, "h w 3"], depth: Float[np.ndarray, "h w"], sight: Sight, planes: Sequence[Plane]
) -> Float[np.ndarray, "h w"]:
    """Depths on planes at pixels of even regions that have none, 0 elsewhere.

    Args:
        rgb: A picture.
        depth: Along the optical axis, metres; 0 where unknown.
        sight: Its camera.
        planes: Of the place (`planes_of`).
    """
    out = np.zeros_like(depth)
    if not planes or not (depth > 0).any():
        return out
    size = (depth.shape[1], depth.shape[0])
    on, far = [plane.depth(sight, size) for plane in planes], _FARTHER * np.quantile(depth[depth > 0], 0.99)
    label = _even_regions(rgb)
    for k, box in enumerate(ndimage.find_objects(label), 1):
        at = tuple(slice(max(part.start - _RIM, 0), part.stop + _RIM) for part in box)
        own, z = label[at] == k, depth[at]
        missing = own & (z == 0)
        if own.sum() < _PIXELS or missing.sum() < _MISSING:
            continue
        known = np.asarray(ndimage.binary_dilation(own, iterations=_RIM), bool) & (z > 0)
        if known.sum() < _KNOWN:
            continue
        shares = [(np.abs(plane[at] - z)[known] < _LIKE * z[known]).mean() for plane in on]
        best = int(np.argmax(shares))
        if shares[best] >= _SHARE:
            plane = on[best][at]
            out[at] += np.where(missing & (plane > 0) & (plane < far), plane, 0)
    return out


def _even_regions(rgb: UInt8[np.ndarray, "h w 3"]) -> Int[np.ndarray, "h w"]:
    """Numbers of connected regions without edges, 0 on edges."""
    smooth = cv2.GaussianBlur(rgb, (0, 0), _SMOOTHED).astype(np.float32)
    x, y = (np.abs(cv2.Sobel(smooth, cv2.CV_32F, *way, ksize=3)).max(2) / 8 for way in ((1, 0), (0, 1)))
    label = np.zeros(rgb.shape[:2], np.int32)
    ndimage.label(np.hypot(x, y) < _EVEN, output=label)
    return label


def _on_three(
    p: Float[np.ndarray, "n 3"], away: Float[np.ndarray, "n"], rng: np.random.Generator
) -> Bool[np.ndarray, "n"]:
    """Which points lie on the plane through three of them."""
    a, b, c = p[rng.integers(len(p), size=3)]
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal)
    if length < 1e-12:
        return np.zeros(len(p), bool)
    return np.abs((p - a) @ (normal / length)) < _ON * away


def _points(sight: Sight, depth: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "n 3"]:
    """Where the pixels with depth are, world frame, metres."""
    at = _pixels((depth.shape[1], depth.shape[0]))[depth > 0] @ np.linalg.inv(sight.lens).T
    return (at * depth[depth > 0][:, None] - sight.shift) @ sight.turn


def _pixels(size: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    rows, columns = np.indices((size[1], size[0]))
    return np.stack([columns, rows, np.ones_like(rows)], -1).astype(np.float64)
