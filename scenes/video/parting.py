"""A thing hangs together: what a track takes elsewhere isn't a part of it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from scenes.video.camera import points_of
from scenes.video.rigid import inverse
from scenes.video.state import State

_GAP = 0.02  # metres, beside the noise, across which nothing hangs together
_SHARE = 0.3  # of the pixels: a part of more is kept


def keep_together(state: State) -> None:
    """Gives back to the still world what lies apart from a track's largest part in its own frame; in place.

    All pixels of a track are gathered there, over all frames, so that what is seen on both sides of something in front of it
    hangs together by what is seen of it in other frames.
    """
    for k in range(1, len(state.to_cam)):
        t, y, x = np.nonzero((state.ids == k) & state.have[k][:, None, None])
        if len(t):
            apart = ~_together(state, k, t, y, x)
            state.ids[t[apart], y[apart], x[apart]] = 0


def _together(state: State, k: int, t: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[n] whether pixels (frame, row, column; in the order of frames) of a track belong to its large parts in its own frame."""
    back = inverse(state.to_cam[k])
    p = [points_of(state.maps, s, y[t == s], x[t == s]) @ back[s, :3, :3].T + back[s, :3, 3] for s in np.unique(t)]
    points = np.concatenate(p)
    z = float(np.median(state.maps.depth[t, y, x]))
    size = _GAP + 4 * (state.maps.noise[0] + state.maps.noise[1] * z * z) + 1.5 * z / state.maps.lens[0]
    lo, hi = np.quantile(points, 0.001, axis=0), np.quantile(points, 0.999, axis=0)
    cell = np.floor((np.clip(points, lo, hi) - lo) / size).astype(int)
    count = np.zeros(cell.max(0) + 1, np.int32)
    np.add.at(count, tuple(cell.T), 1)
    parts = np.zeros(count.shape, np.int32)
    ndimage.label(count, np.ones((3, 3, 3)), output=parts)
    number = parts[tuple(cell.T)]
    sizes = np.bincount(number)
    return (sizes >= min(sizes.max(), _SHARE * len(t)))[number]
