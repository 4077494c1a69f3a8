"""Warps by nodes as a trace reads them: those of all assets, and where their nodes are at the times of these, end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from compose.cpu.inlined import inlined
from objects.node_kernel import Posed, Rest, Room, owned, search, solve


class Warps(NamedTuple):
    """Of ``a`` assets those that are networks seen through a warp by nodes; of ``w`` warps all that holds at all times, and what
    holds at each of the times that assets have."""

    of: np.ndarray  # [a] which warp, -1 for none
    time: np.ndarray  # [a] which of the warp's times
    stretch: np.ndarray  # [a] by which distances are divided
    count: np.ndarray  # [w] nodes that move a point
    first: np.ndarray  # [w + 1, 4] where nodes, anchors, starts of leaves and boxes begin
    posed: np.ndarray  # [w, 3] where nodes, anchors and boxes at the first time begin
    number: np.ndarray  # [w, 3] float32: width, step and close of `Rest`
    near: np.ndarray
    homes: np.ndarray
    rest: np.ndarray  # anchors in the canonical frame
    free: np.ndarray
    starts: np.ndarray
    rest_boxes: np.ndarray
    nodes: np.ndarray
    anchors: np.ndarray
    boxes: np.ndarray


def warps_of(known: Sequence[tuple[Rest, Posed]], which: np.ndarray, time: np.ndarray, stretch: np.ndarray) -> Warps:
    """From what is known of each warp, and of each asset ``[a]`` its warp, its place among the times of that and its stretch."""
    widest = max((rest.near.shape[1] for rest, _ in known), default=1)
    sizes = [(len(r.near), len(r.anchors), len(r.starts), len(r.boxes)) for r, _ in known]
    posed = [(n.size // 15, a.size // 3, b.size // 6) for _, (n, a, b) in known]

    def starts(lengths: list[tuple[int, ...]], columns: int) -> np.ndarray:
        return np.cumsum([(0,) * columns, *lengths], axis=0, dtype=np.int64)

    def joined(parts: list[np.ndarray], shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros((0, *shape), dtype), *(part.reshape(-1, *shape) for part in parts)])

    near = [np.pad(rest.near, ((0, 0), (0, widest - rest.near.shape[1]))) for rest, _ in known]
    return Warps(
        of=which, time=time, stretch=stretch,
        count=np.array([rest.near.shape[1] for rest, _ in known], dtype=np.int64),
        first=starts(sizes, 4), posed=starts(posed, 3)[:-1],
        number=joined([np.array([r.width, r.step, r.close]) for r, _ in known], (3,), np.float32),
        near=joined(near, (widest,), np.int64),
        homes=joined([rest.homes for rest, _ in known], (), np.int64),
        rest=joined([rest.anchors for rest, _ in known], (3,), np.float32),
        free=joined([rest.free for rest, _ in known], (), np.float32),
        starts=joined([rest.starts for rest, _ in known], (), np.int64),
        rest_boxes=joined([rest.boxes for rest, _ in known], (6,), np.float32),
        nodes=joined([at.nodes for _, at in known], (15,), np.float32),
        anchors=joined([at.anchors for _, at in known], (3,), np.float32),
        boxes=joined([at.boxes for _, at in known], (6,), np.float32),
    )  # fmt: skip


@inlined
def to_canonical(warps, transforms, a, p, guess, begun, last, room):
    """Takes a point ``p [3]`` in the frame of asset ``a`` to the canonical frame. Returns the nearest anchor, and how far (object
    units) the point is beyond what it was taken from; ``guess`` is an anchor that may be near. ``last [15]`` is where the search
    of a point on the same ray has left the point, its canonical point and the derivative there, if it has ``begun``."""
    w = warps.of[a]
    n, m = warps.first[w], warps.first[w + 1]
    k, c, b, t = m[0] - n[0], m[1] - n[1], m[3] - n[3], warps.time[a]
    rest = Rest(
        warps.near[n[0] : m[0]], warps.homes[:0], warps.homes[n[1] : m[1]], warps.homes[:0], warps.rest[n[1] : m[1]],
        warps.rest[:0], warps.free[n[1] : m[1]], warps.starts[n[2] : m[2]], warps.rest_boxes[n[3] : m[3]], warps.number[w, 0],
        warps.number[w, 1], warps.number[w, 2],
    )  # fmt: skip
    at = warps.posed[w]
    nodes = warps.nodes[at[0] + t * k : at[0] + (t + 1) * k]
    anchors = warps.anchors[at[1] + t * c : at[1] + (t + 1) * c]
    boxes = warps.boxes[at[2] + t * b : at[2] + (t + 1) * b]
    x = np.float32(min(max(p[0], transforms.box_lo[a, 0]), transforms.box_hi[a, 0]))
    y = np.float32(min(max(p[1], transforms.box_lo[a, 1]), transforms.box_hi[a, 1]))
    z = np.float32(min(max(p[2], transforms.box_lo[a, 2]), transforms.box_hi[a, 2]))
    own = Room(
        warps.count[w], room.stack, room.waits, room.nodes, room.weight, room.bits, room.powers, room.x, room.off,
        room.step, room.slope, room.best,
    )  # fmt: skip
    if begun:
        room.off[0], room.off[1], room.off[2] = last[0] - x, last[1] - y, last[2] - z
        solve(last[6:], room.off, room.step)
        length = room.step[0] * room.step[0] + room.step[1] * room.step[1] + room.step[2] * room.step[2]
        begun = length <= rest.step * rest.step
        for d in range(3):
            room.best[d] = last[3 + d] + room.step[d]
    anchor = search(rest, nodes, anchors, boxes, x, y, z, guess, begun, own)
    last[0], last[1], last[2] = x, y, z
    for d in range(3):
        last[3 + d] = room.best[d]
    for d in range(9):
        last[6 + d] = room.slope[d]
    share, beyond = owned(rest, anchor, own), 0.0
    if share < np.float32(1):
        dx, dy, dz = x - anchors[anchor, 0], y - anchors[anchor, 1], z - anchors[anchor, 2]
        beyond = np.float64((np.float32(1) - share) * np.sqrt(dx * dx + dy * dy + dz * dz))
    for d in range(3):
        q = rest.anchors[anchor, d]
        p[d] = np.float64(q + share * (room.best[d] - q) if share < np.float32(1) else room.best[d])
    return anchor, beyond
