"""Compiled search of `objects.node_warp`: nearest anchors and Newton's method, each point by itself, at many times at once.

Anchors hang in a tree of boxes that is made once, in the canonical frame, and refitted to where they are at a time: what is
near on the surface stays near. All is float32; a point's result depends on nothing but the point, its time and the warp.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int

ROUNDS = 8  # of Newton's method
HALVINGS = 6  # of the way on which a canonical point is taken back to what its anchor owns
_LEAF = 8  # anchors in a leaf of the tree, at most
_CHUNK = 64  # points that a thread takes at a time
_DEEP = 64  # boxes that wait in a search
_LEAST = np.float32(1e-3)  # of a determinant
_LOG2E = np.float32(1.4426950408889634)
# Of 2**x on 0..1, by least squares at the nodes of Chebyshev: to 1e-7.
_EXP2 = tuple(np.float32(c) for c in np.polynomial.Chebyshev.interpolate(np.exp2, 6, (0, 1)).convert(
    kind=np.polynomial.Polynomial, domain=(0, 1), window=(0, 1)).coef)  # fmt: skip
_FAST = {
    "contract",
    "nnan",
    "ninf",
    "nsz",
    "reassoc",
    "arcp",
}  # sums run over the nodes of a point, in an order that is always the same
# Of functions that allocate nothing and are put in place of their calls (`compose.cpu.inlined` says why).
_PART: dict[str, Any] = {"_nrt": False, "forceinline": True, "fastmath": _FAST, "error_model": "numpy"}
_part = numba.njit(cache=True, **_PART)


class Rest(NamedTuple):
    """What holds at all times.

    Args:
        near: ``[k, m]``, the nodes that move what belongs to each.
        order: ``[a]``, the number in the warp of each anchor; here they stand in the order of the leaves.
        homes: ``[a]``, a node for each anchor.
        by_home: ``[a]``, the anchors in the order of their homes.
        anchors: ``[a, 3]``, canonical frame.
        weights: ``[a, m]`` of the nodes that move each anchor.
        free: ``[a]``, squared distance from each anchor within which the nearest one is moved by what moves it.
        starts: ``[leaves + 1]``, where each leaf begins.
        boxes: ``[2 leaves - 1, 6]``, lo and hi, as a heap; canonical frame.
        width: Twice the squared width of weights.
        step: Longest step of a search.
        close: Squared distance from where a point should be from which one more step, not looked at, is the last.
    """

    near: Int[np.ndarray, "k m"]
    order: Int[np.ndarray, "a"]
    homes: Int[np.ndarray, "a"]
    by_home: Int[np.ndarray, "a"]
    anchors: Float[np.ndarray, "a 3"]
    weights: Float[np.ndarray, "a m"]
    free: Float[np.ndarray, "a"]
    starts: Int[np.ndarray, "l"]
    boxes: Float[np.ndarray, "b 6"]
    width: np.float32
    step: np.float32
    close: np.float32


class Posed(NamedTuple):
    """What holds at each of ``t`` times.

    Args:
        nodes: ``[t, k, 15]``: rotation (9), where the node is then (3), where it is in the canonical frame (3).
        anchors: ``[t, a, 3]``, in the order of `Rest`.
        boxes: ``[t, 2 leaves - 1, 6]``.
    """

    nodes: Float[np.ndarray, "t k 15"]
    anchors: Float[np.ndarray, "t a 3"]
    boxes: Float[np.ndarray, "t b 6"]


def rest(
    nodes: Float[np.ndarray, "k 3"],
    near: Int[np.ndarray, "k m"],
    anchors: Float[np.ndarray, "a 3"],
    homes: Int[np.ndarray, "a"],
    width: float,
    step: float,
    close: float,
) -> Rest:
    """Of a warp by nodes: ``width`` of the Gaussian weights, longest ``step``, and distance from where a point should be from which
    one more step is the last; canonical units."""
    order, starts = _leaves(anchors)
    anchors = np.ascontiguousarray(anchors[order], np.float32)
    near, homes = np.ascontiguousarray(near, np.int64), np.ascontiguousarray(homes[order], np.int64)
    squared = np.square(anchors[:, None].astype(np.float64) - nodes[near[homes]]).sum(2)
    least = squared.min(1, keepdims=True)
    weights = np.exp(-(squared - least) / (2 * width**2 + least))
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    boxes = np.empty((2 * len(starts) - 3, 6), np.float32)
    _refit(anchors, starts, boxes)
    numbers = (np.float32(2 * width**2), np.float32(step), np.float32(close**2))
    return Rest(
        near,
        order,
        homes,
        np.argsort(homes, kind="stable"),
        anchors,
        weights,
        _free(near, homes, anchors),
        starts,
        boxes,
        *numbers,
    )


def _free(near: np.ndarray, homes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Within half the way to the nearest anchor that others move, none of those is the nearest."""
    from scipy.spatial.distance import cdist  # takes a while to load

    p, free = anchors.astype(np.float64), np.empty(len(homes), np.float32)
    for home in np.unique(homes):
        mine, others = homes == home, p[~np.isin(homes, near[home])]
        apart = cdist(p[mine], others, "sqeuclidean").min(1) if len(others) else 1e30
        free[mine] = 0.25 * (1 - 1e-5) * apart
    return free


def posed(
    rest: Rest,
    nodes: Float[np.ndarray, "k 3"],
    rotation: Float[np.ndarray, "t k 3 3"],
    shift: Float[np.ndarray, "t k 3"],
) -> Posed:
    """Nodes, anchors and boxes at the times that these motions of the nodes belong to."""
    t, k = shift.shape[:2]
    numbers = np.empty((t, k, 15), np.float32)
    numbers[:, :, :9], numbers[:, :, 9:12], numbers[:, :, 12:] = rotation.reshape(t, k, 9), nodes + shift, nodes
    anchors, boxes = np.empty((t, *rest.anchors.shape), np.float32), np.empty((t, *rest.boxes.shape), np.float32)
    _pose(rest, numbers, anchors, boxes)
    return Posed(numbers, anchors, boxes)


def canonical(
    rest: Rest, at: Posed, which: Int[np.ndarray, "n"], p: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "n"]]:
    """Where points ``p`` (float32) at the times ``which`` come from, and the anchor nearest to each (its number in the warp)."""
    found, anchor, nothing = np.empty((len(p), 3), np.float32), np.empty(len(p), np.int64), np.empty(0, np.float32)
    _canonical(rest, at, which, p, found, anchor, nothing, nothing.reshape(0, 9))
    return found, rest.order[anchor]


def reached(
    rest: Rest, at: Posed, which: Int[np.ndarray, "n"], p: Float[np.ndarray, "n 3"], *, slopes: bool = False
) -> tuple[np.ndarray, ...]:
    """What `NodeWarp.reached` says of points: canonical points ``[n, 3]``, and how far ``[n]`` ``p`` are beyond them; then the
    nearest anchors ``[n]``, how much ``[n]`` of the way from each to the canonical point belongs to it, and, where ``slopes`` are
    wanted, the derivatives of both by ``p``, ``[n, 4, 3]``."""
    found, anchor, share = np.empty((len(p), 3), np.float32), np.empty(len(p), np.int64), np.empty(len(p), np.float32)
    slope = np.empty((len(p) if slopes else 0, 9), np.float32)
    _canonical(rest, at, which, p, found, anchor, share, slope)
    beyond, cut = np.zeros(len(p), np.float32), np.flatnonzero(share < 1)
    mine, left = anchor[cut], share[cut, None]
    found[cut] = rest.anchors[mine] + left * (found[cut] - rest.anchors[mine])
    away = p[cut] - at.anchors[which[cut], mine]
    length = np.linalg.norm(away, axis=1)
    beyond[cut] = (1 - share[cut]) * length
    if not slopes:
        return found, beyond, rest.order[anchor], share
    both = np.zeros((len(p), 4, 3), np.float32)
    both[:, :3] = share[:, None, None] * _inverses(slope.reshape(-1, 3, 3))
    both[cut, 3] = (1 - left) * away / np.maximum(length, np.float32(1e-10))[:, None]
    return found, beyond, rest.order[anchor], share, both


def _inverses(matrix: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "n 3 3"]:
    """By cofactors, bounded where there is none (as `solve`)."""
    a, b, c = matrix.transpose(1, 0, 2)
    columns = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], -1)
    det = (a * columns[:, :, 0]).sum(1)
    det = np.where(np.abs(det) < _LEAST, np.where(det < 0, -_LEAST, _LEAST), det)
    return columns / det[:, None, None]


def deformed(
    rest: Rest, at: Posed, which: Int[np.ndarray, "n"], p: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "n"]]:
    """Where canonical points ``p`` (float32) are at the times ``which``, and the anchor nearest to each."""
    found, anchor = np.empty((len(p), 3), np.float32), np.empty(len(p), np.int64)
    _deformed(rest, at, which, p, found, anchor)
    return found, rest.order[anchor]


def _leaves(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order of points in which halves, and halves of these, lie apart along their longest edges; and where leaves start."""
    levels = max(int(np.ceil(np.log2(max(len(p), 1) / _LEAF))), 0)
    parts = [np.arange(len(p))]
    for _ in range(levels):
        halves = []
        for part in parts:
            own = p[part]
            order = np.argsort(own[:, np.ptp(own, axis=0).argmax()], kind="stable") if len(part) else part
            halves += np.split(part[order], [(len(part) + 1) // 2])
        parts = halves
    return np.concatenate(parts), np.cumsum([0, *map(len, parts)])


@numba.njit(cache=True)
def _refit(anchors, starts, boxes):
    n = len(starts) - 1
    for leaf in range(n):
        box = boxes[n - 1 + leaf]
        box[:3], box[3:] = np.float32(np.inf), np.float32(-np.inf)
        for a in range(starts[leaf], starts[leaf + 1]):
            for c in range(3):
                box[c], box[3 + c] = min(box[c], anchors[a, c]), max(box[3 + c], anchors[a, c])
    for b in range(n - 2, -1, -1):
        for c in range(3):
            boxes[b, c] = min(boxes[2 * b + 1, c], boxes[2 * b + 2, c])
            boxes[b, 3 + c] = max(boxes[2 * b + 1, 3 + c], boxes[2 * b + 2, 3 + c])


@numba.njit(cache=True, parallel=True, fastmath=_FAST, error_model="numpy")
def _pose(rest, nodes, anchors, boxes):
    m = rest.near.shape[1]
    for t in numba.prange(len(nodes)):
        room, home = room_for(m), -1
        own = room.nodes
        for i in range(len(rest.homes)):
            a = rest.by_home[i]
            if rest.homes[a] != home:
                home = rest.homes[a]
                _gather(nodes[t], rest.near[home], room)
            weights, x, y, z = rest.weights[a], np.float32(0), np.float32(0), np.float32(0)
            q0, q1, q2 = rest.anchors[a, 0], rest.anchors[a, 1], rest.anchors[a, 2]
            for j in range(m):
                w, d0, d1, d2 = weights[j], q0 - own[12, j], q1 - own[13, j], q2 - own[14, j]
                x += w * (own[0, j] * d0 + own[1, j] * d1 + own[2, j] * d2 + own[9, j])
                y += w * (own[3, j] * d0 + own[4, j] * d1 + own[5, j] * d2 + own[10, j])
                z += w * (own[6, j] * d0 + own[7, j] * d1 + own[8, j] * d2 + own[11, j])
            anchors[t, a, 0], anchors[t, a, 1], anchors[t, a, 2] = x, y, z
        _refit(anchors[t], rest.starts, boxes[t])


@_part
def _apart(box, x, y, z):
    """Squared distance of a point to a box."""
    zero = np.float32(0)
    dx = max(box[0] - x, zero, x - box[3])
    dy = max(box[1] - y, zero, y - box[4])
    dz = max(box[2] - z, zero, z - box[5])
    return dx * dx + dy * dy + dz * dz


@_part
def _squared(anchors, a, x, y, z):
    dx, dy, dz = anchors[a, 0] - x, anchors[a, 1] - y, anchors[a, 2] - z
    return dx * dx + dy * dy + dz * dz


@_part
def nearest_anchor(anchors, starts, boxes, x, y, z, guess, stack, waits):
    """The anchor nearest to a point, of several the first. ``guess``, any anchor, is one that may be near."""
    leaves = len(starts) - 1
    best, found, n = _squared(anchors, guess, x, y, z), guess, 1
    stack[0], waits[0] = 0, np.float32(0)
    while n > 0:
        n -= 1
        b = stack[n]
        if waits[n] > best:
            continue
        while b < leaves - 1:  # down to the leaf on the nearer side
            one, other = 2 * b + 1, 2 * b + 2
            d, e = _apart(boxes[one], x, y, z), _apart(boxes[other], x, y, z)
            if e < d:
                one, other, d, e = other, one, e, d
            if e <= best:
                stack[n], waits[n] = other, e
                n += 1
            b = one
            if d > best:
                break
        if b >= leaves - 1:
            for a in range(starts[b - leaves + 1], starts[b - leaves + 2]):
                d = _squared(anchors, a, x, y, z)
                if d < best or (d == best and a < found):
                    best, found = d, a
    return found


@_part
def _gather(nodes, near, room):
    """The nodes of one home, into ``room.nodes``."""
    for j in range(room.count):
        own = nodes[near[j]]
        for c in range(15):
            room.nodes[c, j] = own[c]


@_part
def _blend(work, width, p0, p1, p2):
    """Where gathered nodes take ``work.x``, less a point, into ``work.off``, and nearly the derivative by it (weights as wide as
    they are there) into ``work.slope``."""
    room, weight, bits, powers, there, slope = work.nodes, work.weight, work.bits, work.powers, work.off, work.slope
    m, x0, x1, x2 = work.count, work.x[0], work.x[1], work.x[2]
    least = np.float32(np.inf)
    for j in range(m):
        d0, d1, d2 = x0 - room[12, j], x1 - room[13, j], x2 - room[14, j]
        weight[j] = d0 * d0 + d1 * d1 + d2 * d2
        least = min(least, weight[j])
    width = width + least
    rate, total = -_LOG2E / width, np.float32(0)
    for j in range(m):
        e = max((weight[j] - least) * rate, np.float32(-120))
        whole = np.floor(e)
        f = e - whole
        bits[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        part = _EXP2[0] + f * (
            _EXP2[1] + f * (_EXP2[2] + f * (_EXP2[3] + f * (_EXP2[4] + f * (_EXP2[5] + f * _EXP2[6]))))
        )
        weight[j] = part
    for j in range(m):
        weight[j] *= powers[j]
        total += weight[j]
    share = np.float32(1) / total
    pull = np.float32(-2) / width
    v0 = v1 = v2 = q0 = q1 = q2 = np.float32(0)
    s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = np.float32(0)
    for j in range(m):
        w = weight[j] * share
        d0, d1, d2 = x0 - room[12, j], x1 - room[13, j], x2 - room[14, j]
        a0 = room[0, j] * d0 + room[1, j] * d1 + room[2, j] * d2 + (room[9, j] - p0)
        a1 = room[3, j] * d0 + room[4, j] * d1 + room[5, j] * d2 + (room[10, j] - p1)
        a2 = room[6, j] * d0 + room[7, j] * d1 + room[8, j] * d2 + (room[11, j] - p2)
        f0, f1, f2 = pull * d0, pull * d1, pull * d2
        v0 += w * a0
        v1 += w * a1
        v2 += w * a2
        q0 += w * f0
        q1 += w * f1
        q2 += w * f2
        s00 += w * (room[0, j] + a0 * f0)
        s01 += w * (room[1, j] + a0 * f1)
        s02 += w * (room[2, j] + a0 * f2)
        s10 += w * (room[3, j] + a1 * f0)
        s11 += w * (room[4, j] + a1 * f1)
        s12 += w * (room[5, j] + a1 * f2)
        s20 += w * (room[6, j] + a2 * f0)
        s21 += w * (room[7, j] + a2 * f1)
        s22 += w * (room[8, j] + a2 * f2)
    there[0], there[1], there[2] = v0, v1, v2
    slope[0], slope[1], slope[2] = s00 - v0 * q0, s01 - v0 * q1, s02 - v0 * q2
    slope[3], slope[4], slope[5] = s10 - v1 * q0, s11 - v1 * q1, s12 - v1 * q2
    slope[6], slope[7], slope[8] = s20 - v2 * q0, s21 - v2 * q1, s22 - v2 * q2


@_part
def solve(m, v, out):
    """``out`` with ``m out = -v``, by cofactors; bounded where there is none."""
    c0, c1, c2 = m[4] * m[8] - m[5] * m[7], m[5] * m[6] - m[3] * m[8], m[3] * m[7] - m[4] * m[6]
    det = m[0] * c0 + m[1] * c1 + m[2] * c2
    if abs(det) < _LEAST:
        det = -_LEAST if det < 0 else _LEAST
    s = np.float32(-1) / det
    out[0] = s * (c0 * v[0] + (m[2] * m[7] - m[1] * m[8]) * v[1] + (m[1] * m[5] - m[2] * m[4]) * v[2])
    out[1] = s * (c1 * v[0] + (m[0] * m[8] - m[2] * m[6]) * v[1] + (m[2] * m[3] - m[0] * m[5]) * v[2])
    out[2] = s * (c2 * v[0] + (m[1] * m[6] - m[0] * m[7]) * v[1] + (m[0] * m[4] - m[1] * m[3]) * v[2])


class Room(NamedTuple):
    """What a search writes to."""

    count: int  # nodes that move a point, at most m
    stack: np.ndarray  # [_DEEP] boxes that wait
    waits: np.ndarray  # [_DEEP] and how far they are
    nodes: np.ndarray  # [15, m] of the home
    weight: np.ndarray  # [m]
    bits: np.ndarray  # [m]
    powers: np.ndarray  # [m] the same memory as float32
    x: np.ndarray  # [3]
    off: np.ndarray  # [3]
    step: np.ndarray  # [3]
    slope: np.ndarray  # [9]
    best: np.ndarray  # [3] the canonical point


@numba.njit(cache=True)
def room_for(m):
    """Room for points that ``m`` nodes move."""
    bits, few = np.empty(m, np.int32), np.empty((4, 3), np.float32)
    return Room(
        m, np.empty(_DEEP, np.int64), np.empty(_DEEP, np.float32), np.empty((15, m), np.float32), np.empty(m, np.float32),
        bits, bits.view(np.float32), few[0], few[1], few[2], np.empty(9, np.float32), few[3],
    )  # fmt: skip


@_part
def search(rest, nodes, anchors, boxes, x, y, z, guess, begun, room):
    """The canonical point of a point, into ``room.best``; returns the nearest anchor. ``nodes``, ``anchors`` and ``boxes`` are
    those at its time; ``guess`` as for `nearest_anchor`. If the search has ``begun``, ``room.best`` is about the canonical point
    where that is moved by what moves ``guess``."""
    a = nearest_anchor(anchors, rest.starts, boxes, x, y, z, guess, room.stack, room.waits)
    to, off, step = room.best, room.off, room.step
    _gather(nodes, rest.near[rest.homes[a]], room)
    least, first = np.float32(np.inf), 0
    if begun and rest.homes[a] == rest.homes[guess]:
        q0, q1, q2, first = to[0], to[1], to[2], 1
    else:
        q0, q1, q2 = rest.anchors[a, 0], rest.anchors[a, 1], rest.anchors[a, 2]
    for k in range(first, ROUNDS + 2):  # at the anchor, at the first guess, and then of the search
        room.x[0], room.x[1], room.x[2] = q0, q1, q2
        _blend(room, rest.width, x, y, z)
        size = off[0] * off[0] + off[1] * off[1] + off[2] * off[2]
        if k > 0 and size < least:
            least = size
            to[0], to[1], to[2] = q0, q1, q2
        if k == ROUNDS + 1:
            break
        solve(room.slope, off, step)
        if k > 0 and size <= rest.close:
            to[0], to[1], to[2] = q0 + step[0], q1 + step[1], q2 + step[2]
            break
        scale = np.float32(1)
        if k > 0:  # far from where it was found the slope says nothing
            length = np.sqrt(step[0] * step[0] + step[1] * step[1] + step[2] * step[2])
            scale = min(rest.step / max(length, np.float32(1e-30)), np.float32(1))
        q0, q1, q2 = q0 + scale * step[0], q1 + scale * step[1], q2 + scale * step[2]
    return a


@_part
def owned(rest, a, room):
    """How much of the way from anchor ``a`` to the canonical point ``room.best`` belongs to it: the nearest anchor's home moves
    what moves it."""
    to = room.best
    away = _squared(rest.anchors, a, to[0], to[1], to[2])
    if away <= rest.free[a]:
        return np.float32(1)
    least, most, at, near = np.float32(0), np.float32(1), np.float32(1), rest.near[rest.homes[a]]
    for _ in range(HALVINGS):
        x = rest.anchors[a, 0] + at * (to[0] - rest.anchors[a, 0])
        y = rest.anchors[a, 1] + at * (to[1] - rest.anchors[a, 1])
        z = rest.anchors[a, 2] + at * (to[2] - rest.anchors[a, 2])
        mine = at * at * away <= rest.free[a]
        if not mine:
            n = nearest_anchor(rest.anchors, rest.starts, rest.boxes, x, y, z, a, room.stack, room.waits)
            for j in range(room.count):
                mine |= near[j] == rest.homes[n]
        if mine:
            least = at
        else:
            most = at
        if least == most:
            break
        at = np.float32(0.5) * (least + most)
    return least


@numba.njit(cache=True, parallel=True, fastmath=_FAST, error_model="numpy")
def _canonical(rest, at, which, p, found, anchor, share, slope):
    """``share [n]`` and ``slope [n, 9]``, that of the way from the canonical frame, may be empty: then they aren't wanted."""
    m, n = rest.near.shape[1], len(p)
    for chunk in numba.prange((n + _CHUNK - 1) // _CHUNK):
        room, a = room_for(m), 0
        for i in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, n)):
            t, to, own = which[i], p[i], found[i]
            a = search(rest, at.nodes[t], at.anchors[t], at.boxes[t], to[0], to[1], to[2], a, False, room)
            anchor[i], own[0], own[1], own[2] = a, room.best[0], room.best[1], room.best[2]
            if len(share):
                share[i] = owned(rest, a, room)
            if len(slope):
                room.x[0], room.x[1], room.x[2] = own[0], own[1], own[2]
                _blend(room, rest.width, to[0], to[1], to[2])
                for c in range(9):
                    slope[i, c] = room.slope[c]


@numba.njit(cache=True, parallel=True, fastmath=_FAST, error_model="numpy")
def _deformed(rest, at, which, p, found, anchor):
    m, n = rest.near.shape[1], len(p)
    for chunk in numba.prange((n + _CHUNK - 1) // _CHUNK):
        room, a = room_for(m), 0
        for i in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, n)):
            x, t = p[i], which[i]
            a = nearest_anchor(rest.anchors, rest.starts, rest.boxes, x[0], x[1], x[2], a, room.stack, room.waits)
            anchor[i] = a
            _gather(at.nodes[t], rest.near[rest.homes[a]], room)
            room.x[0], room.x[1], room.x[2] = x[0], x[1], x[2]
            _blend(room, rest.width, x[0], x[1], x[2])
            for c in range(3):
                found[i, c] = x[c] + room.off[c]
