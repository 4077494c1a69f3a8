"""How bright each of many pictures of one place is: what cameras change by themselves as they look around.

Places that several pictures show have one colour; each picture multiplies it by a gain for each channel. Both are found in turns,
by least squares whose weights fall with the error. A weak hold on gains of 1 keeps a chain of pictures from drifting away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rendering.views import Views
from rendering.views.types import back_projected, known_depth

_HOLD = 0.1  # weight of a gain of 1, as a share of that of all places
_ROUNDS = 20
_ROBUST = 0.05  # error of sRGB from which on a place counts less
_LEAST = 0.1  # weight of a picture


class Exposures(NamedTuple):
    """Of ``v`` pictures.

    Args:
        gain: What multiplies the colours of the place in each; their geometric mean is 1.
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
    """Of pictures with depth.

    Args:
        cell: Metres; what pictures show within so much is one place.
    """
    places, colors, shown_by = [], [], []
    for k, view in enumerate(views):
        if view.depth is None:
            continue
        pixel = known_depth(view).reshape(-1).nonzero()[:, 0]
        places.append(np.floor(back_projected(view, pixel).numpy() / cell).astype(np.int64))
        colors.append(view.rgb.reshape(-1, 3)[pixel].double().numpy())
        shown_by.append(np.full(len(pixel), k))
    n = len(views)
    place, color, picture = np.concatenate(places), np.concatenate(colors), np.concatenate(shown_by)
    place -= place.min(0)
    size = place.max(0) + 1
    place = np.unique((place[:, 0] * size[1] + place[:, 1]) * size[2] + place[:, 2], return_inverse=True)[1]
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


def _sums(row: np.ndarray, values: np.ndarray, n: int = 0) -> np.ndarray:
    return np.stack([np.bincount(row, values[:, c], n) for c in range(3)], 1)
