"""How sharp pictures of one place are beside each other: what moves while it is taken loses contrast along its way.

Where depths say that two pictures show the same surface, the sums of their structure tensors (Förstner and Gülch, 1987) are
compared by their determinants. These don't change as a camera rolls, and fall where contrast along any one direction is lost.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage

from rendering.views import Views
from rendering.views.types import View, back_projected, known_depth

_EVERY = 3  # pixels, of which one is compared
_WINDOW = 7  # pixels, over which contrast is summed
_EDGE = 4  # pixels at the edge that don't count
_SAME = 0.05  # share of a depth by which two pictures of one surface differ at most
_SCALES = 0.7, 1.4  # ratio of depths, between which pictures are compared
_LEAST, _OTHERS = 350, 3  # pixels that two pictures share, and pictures to compare with, at least


def sharpness(views: Views) -> Float[np.ndarray, "v"]:
    """Natural logarithm of the ratio of the determinants, the median over the others that show the same: about 0 for most
    pictures; NaN where too few others show it or there is no depth."""
    tensors = [_tensors(view) for view in views]
    found = np.full((len(views), len(views)), np.nan)
    for i, view in enumerate(views):
        if view.depth is None:
            continue
        pixel = known_depth(view).reshape(-1).nonzero()[:, 0][::_EVERY]
        p, z = back_projected(view, pixel), view.depth.reshape(-1)[pixel].double().numpy()
        for j, other in enumerate(views):
            if i == j or other.depth is None:
                continue
            at, row, far = _shown(other, p, z)
            if len(at) < _LEAST:
                continue
            here = tensors[i].reshape(-1, 3)[pixel.numpy()[at]].sum(0)
            there = (tensors[j].reshape(-1, 3)[row] / far[:, None] ** 2).sum(
                0
            )  # contrast in a pixel grows with distance
            a, b = (t[0] * t[2] - t[1] ** 2 for t in (here, there))
            found[i, j] = np.log(max(a, 1e-12) / max(b, 1e-12))
    known = np.isfinite(found).sum(1) >= _OTHERS
    out = np.full(len(views), np.nan)
    out[known] = np.nanmedian(found[known], 1)
    return out


def _shown(view: View, p: torch.Tensor, z: Float[np.ndarray, "n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which places (world frame; depths in another picture) a picture shows, its pixels there, and the ratios of depths."""
    if view.depth is None:
        raise ValueError("view: expected one with depth")
    uv, away = (x.numpy() for x in view.camera.project(p.double()))
    h, w = view.valid.shape
    column, row = (np.floor(np.nan_to_num(uv[:, k], nan=-1.0, posinf=-1.0, neginf=-1.0)) for k in (0, 1))
    at = np.flatnonzero((away > 0) & (column >= _EDGE) & (column < w - _EDGE) & (row >= _EDGE) & (row < h - _EDGE))
    pixel = row[at].astype(np.int64) * w + column[at].astype(np.int64)
    there, far = view.depth.reshape(-1).double().numpy()[pixel], away[at] / z[at]
    fits = (np.abs(there - away[at]) < _SAME * away[at]) & (far > _SCALES[0]) & (far < _SCALES[1])
    return at[fits], pixel[fits], far[fits]


def _tensors(view: View) -> Float[np.ndarray, "h w 3"]:
    """Structure tensors of the brightness over its mean: xx, xy, yy."""
    grey = view.rgb.double().numpy().mean(2)
    grey /= max(grey.mean(), 1e-6)
    dx, dy = (ndimage.sobel(grey, axis) / 8 for axis in (1, 0))
    return np.stack([ndimage.uniform_filter(v, _WINDOW) for v in (dx * dx, dx * dy, dy * dy)], -1)
