"""How bright each of many pictures of one place is: what cameras change by themselves as they look around.

Places that several pictures show have one colour; each picture multiplies it by a gain for each channel. Both are found in turns,
by least squares whose weights fall with the error. A weak hold on gains of 1 keeps a chain of pictures from drifting away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from rendering.views import Views
from rendering.views.types import back_projected, known_depth

_HOLD = 0.1  # weight of a gain of 1, as a share of that of all places
_ROUNDS = 20
_ROBUST = 0.05  # error of sRGB from which on a place counts less
_LEAST = 0.1  # weight of a picture
_MOST = 100  # cells along an edge, where values are smoothed


class Exposures(NamedTuple):
    """Of ``v`` pictures.

    Args:
        gain: What multiplies the colours of the place in each.
        error: Mean difference (sRGB) to the others where they show the same, gains taken out; NaN where no other shows it.
    """

    gain: Float[np.ndarray, "v 3"]
    error: Float[np.ndarray, "v"]

    @property
    def weight(self) -> Float[np.ndarray, "v"]:
        """How much each picture counts, at most 1: those that fit the others badly (blurred, or wrongly placed) count less."""
        usual = float(np.nanmedian(self.error)) if np.isfinite(self.error).any() else 1.0
        return np.clip((usual / np.maximum(np.nan_to_num(self.error, nan=usual), 1e-6)) ** 2, _LEAST, 1.0)


def exposures(views: Views, cell: float) -> Exposures:
    """Of pictures with depth; the geometric mean of the gains is 1.

    Args:
        cell: Metres; what pictures show within so much is one place.
    """
    places, colors, shown_by = [], [], []
    for k, view in enumerate(views):
        if view.depth is None:
            continue
        pixel = known_depth(view).reshape(-1).nonzero()[:, 0]
        places.append(back_projected(view, pixel).numpy())
        colors.append(view.rgb.reshape(-1, 3)[pixel].double().numpy())
        shown_by.append(np.full(len(pixel), k))
    n = len(views)
    place, color, picture = cells(np.concatenate(places), cell), np.concatenate(colors), np.concatenate(shown_by)
    pair, row, count = np.unique(place * n + picture, return_inverse=True, return_counts=True)
    color = _sums(row, color, len(pair)) / count[:, None]
    place, picture = pair // n, pair % n
    shared = np.bincount(place)[place] > 1
    place, picture, color = np.unique(place[shared], return_inverse=True)[1], picture[shared], color[shared]
    gain, error = np.ones((n, 3)), np.full(n, np.nan)
    if len(place) == 0:
        return Exposures(gain, error)
    for _ in range(_ROUNDS):
        g = gain[picture]
        true = _sums(place, color * g) / _sums(place, g * g)
        away = np.linalg.norm(color - g * true[place], axis=1, keepdims=True)
        weight = _ROBUST / (_ROBUST + away)
        up, down = (_sums(picture, weight * x * true[place], n) for x in (color, true[place]))
        hold = _HOLD * np.bincount(picture, weight[:, 0], n)[:, None] + 1e-9
        gain = (up + hold) / (down + hold)
        gain /= np.exp(np.log(gain).mean(0))
    total = np.bincount(picture, minlength=n)
    error[total > 0] = (np.bincount(picture, away[:, 0], n) / np.maximum(total, 1))[total > 0]
    return Exposures(gain, error)


def cells(p: Float[np.ndarray, "n 3"], size: float) -> Int[np.ndarray, "n"]:
    """In which cell of this size each place is; numbers without gaps."""
    cell = np.floor((p - p.min(0)) / size).astype(np.int64)
    n = cell.max(0) + 1
    return np.unique((cell[:, 0] * n[1] + cell[:, 1]) * n[2] + cell[:, 2], return_inverse=True)[1]


def smooth(
    p: Float[np.ndarray, "n 3"], values: Float[np.ndarray, "n c"], weight: Float[np.ndarray, "n"], sigma: float
) -> Float[np.ndarray, "n c"]:
    """Weighted means of values at places about each of them, by a Gaussian that is this wide."""
    step = np.maximum(sigma, np.ptp(p, axis=0).max() / _MOST)
    at = (p - p.min(0)) / step
    index = np.rint(at).astype(np.int64)
    shape = index.max(0) + 1
    row = np.ravel_multi_index(tuple(index.T), tuple(shape))

    def blurred(v: np.ndarray) -> np.ndarray:
        grid = np.bincount(row, v, int(shape.prod())).reshape(shape)
        grid = ndimage.gaussian_filter(grid, sigma / step, mode="constant", truncate=3.0)
        return ndimage.map_coordinates(grid, at.T, order=1, mode="nearest")

    total = blurred(weight)
    return np.stack([blurred(weight * v) / total for v in values.T], 1)


def _sums(row: np.ndarray, values: np.ndarray, n: int = 0) -> np.ndarray:
    return np.stack([np.bincount(row, values[:, c], n) for c in range(3)], 1)
