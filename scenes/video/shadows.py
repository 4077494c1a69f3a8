"""What goes along with a thing and isn't part of it: the shadow that it throws on the still world."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from scenes.video.camera import points_of
from scenes.video.maps import Maps
from scenes.video.rigid import inverse

_GONE = 0.03  # metres that a thing must have moved before what is seen in its place says anything
_DEPTH, _DEVIATIONS = 0.002, 2.0  # metres, beside so many deviations of the noise, up to which depths are the same
_GAIN, _OFF = (
    (0.2, 1.15),
    0.05,
)  # how much darker light may make a place, and what may be left of the difference in colour
_FRAMES = 2  # in which the place must be seen without the thing


def left_behind(
    maps: Maps,
    world: Bool[np.ndarray, "f h w"],
    world_to_cam: Float[np.ndarray, "f 4 4"],
    mine: Bool[np.ndarray, "f h w"],
    to_cam: Float[np.ndarray, "f 4 4"],
    have: Bool[np.ndarray, "f"],
    refs: Int[np.ndarray, "f r"],
) -> Bool[np.ndarray, "f h w"]:
    """Pixels of a thing whose place is still seen after it has moved away, at the same depth and in the same colour in more light.

    Args:
        world: Pixels of the still world.
        world_to_cam: Cameras, OpenCV axes.
        mine: Pixels taken for the thing.
        to_cam: Object to camera, where ``have``.
        refs: Frames that each is compared with, -1 for none.
    """
    fx, fy, cx, cy = maps.lens
    height, width = maps.depth.shape[1:]
    out = np.zeros_like(mine)
    for t in np.flatnonzero(have & mine.any((1, 2))).tolist():
        y, x = np.nonzero(mine[t] & (maps.depth[t] > 0))
        p, rgb = points_of(maps, t, y, x), maps.rgb[t, y, x]
        seen = np.zeros(len(p), int)
        for s in refs[t][(refs[t] >= 0) & have[refs[t]]].tolist():
            still, along = (T[s] @ inverse(T[t]) for T in (world_to_cam, to_cam))
            q, moved = (p @ T[:3, :3].T + T[:3, 3] for T in (still, along))
            z = np.maximum(q[:, 2], 1e-3)
            u, v = fx * q[:, 0] / z + cx, fy * q[:, 1] / z + cy
            inside = (q[:, 2] > 0.05) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
            at = s, np.where(inside, v, 0).astype(int), np.where(inside, u, 0).astype(int)
            facing = np.abs((maps.normal[at] * q).sum(-1)) / np.linalg.norm(q, axis=-1).clip(1e-6)
            limit = (_DEPTH + _DEVIATIONS * (maps.noise[0] + maps.noise[1] * z * z)) / facing.clip(0.3)
            same = (maps.depth[at] > 0) & (np.abs(maps.depth[at] - z) < limit)
            there = maps.rgb[at]
            gain = ((there * rgb).sum(-1) / ((there**2).sum(-1) + 1e-4)).clip(*_GAIN)
            same &= np.abs(gain[:, None] * there - rgb).max(-1) < _OFF
            seen += inside & world[at] & same & (np.linalg.norm(q - moved, axis=-1) > _GONE)
        out[t, y, x] = seen >= _FRAMES
    return out
