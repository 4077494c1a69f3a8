"""A thing hangs together: what a track takes elsewhere isn't a part of it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from scenes.video.camera import points_of
from scenes.video.regions import parts_in_space, widened
from scenes.video.rigid import inverse
from scenes.video.state import State

_GAP = 0.02  # metres, beside the noise, across which nothing hangs together
_SHARE = 0.3  # of the pixels: a part of more is kept
_LEAST, _LARGE = 12, 0.4  # pixels of what stands still beside a thing and joins it; share of the thing's pixels at most
_BESIDE = 0.1  # relative difference of depth of what is about it
_ABOUT, _COST = 0.6, 0.12  # share of what is about it that is the thing; cost a pixel that the thing's motion may add


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


def join_sides(state: State, planes: Bool[np.ndarray, "f h w"]) -> None:
    """Gives parts of the still world that are on no large plane and have mostly one track about them to it, if its motion explains
    them about as well; in place.

    A side of a thing that shows only after the thing has come to rest says nothing of its motion by itself.

    Args:
        planes: `plane_pixels`.
    """
    cost = state.fair_cost()
    for t in range(state.n_frames):
        ids, depth = state.ids[t], state.maps.depth[t]
        parts, n = parts_in_space((ids == 0) & ~planes[t], depth)
        sizes = np.bincount(parts.ravel(), minlength=n + 1)
        for part, box in enumerate(ndimage.find_objects(parts), 1):
            if box is None or sizes[part] < _LEAST:
                continue
            wide = tuple(slice(max(b.start - 3, 0), b.stop + 3) for b in box)
            mine, labels, z = parts[wide] == part, ids[wide], depth[wide]
            near = float(np.median(z[mine]))
            ring = widened(mine, 2) & ~mine & ~planes[t][wide] & (np.abs(z - near) < _BESIDE * near)
            about = np.bincount(labels[ring & (labels > 0)], minlength=1)
            k = int(about.argmax())
            if k == 0 or about[k] < _ABOUT * ring.sum() or sizes[part] > _LARGE * (ids == k).sum():
                continue
            if float((cost[t, k][wide] - cost[t, 0][wide])[mine].mean()) < _COST:
                labels[mine] = k
