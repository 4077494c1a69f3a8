"""Labels where no depth was measured: by the nearest labels in the picture, and the colours that they have there."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int32

from scenes.video.regions import nearest, parts_of, widened

_REACH = 4.0  # pixels: what lies deeper in a hole belongs to what surrounds it
_PER_PIXEL, _PER_COLOR = 0.5, 8.0


def fill(ids: Int32[np.ndarray, "h w"], rgb: Float32[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "h w"]:
    """Labels for all pixels; -1 marks those without depth. A hole that reaches the picture's edge is background (0) inside: sky."""
    out = ids.copy()
    holes = ids < 0
    if not holes.any():
        return out
    deep = nearest(~holes)[0] > _REACH
    parts, n = parts_of(holes, corners=False)
    for k in range(1, n + 1):
        inside = parts == k
        if not (inside & deep).any():
            continue
        rows, columns = np.nonzero(inside)
        at_edge = (
            rows.min() == 0 or columns.min() == 0 or rows.max() == ids.shape[0] - 1 or columns.max() == ids.shape[1] - 1
        )
        around = out[widened(inside, 1) & ~holes]
        around = around[around >= 0]
        out[inside & deep] = 0 if at_edge or len(around) == 0 else np.bincount(around).argmax()
    rest = out < 0
    near = widened(rest, int(_REACH) + 1)
    present = np.unique(out[near & ~rest])
    if len(present) == 0:
        return np.where(rest, 0, out)
    best = np.full(ids.shape, np.inf)
    choice = np.zeros_like(out)
    for k in present:
        far, v, u = nearest(out == k)
        apart = np.abs(rgb[v, u] - rgb).max(-1)
        score = _PER_PIXEL * far + _PER_COLOR * apart
        better = rest & (score < best)
        best[better], choice[better] = score[better], k
    out[rest] = choice[rest]
    return out
