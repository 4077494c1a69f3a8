"""Compiled search for contacts: which oriented boxes meet, and which surface points of one instance lie near another."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from compose.cpu.bvh import INNER, STACK, Bvh
from compose.cpu.kernels import InstanceTransforms


class SurfacePoints(NamedTuple):
    """Points on the surfaces of all assets, one after another, and what lies between (`AssetCells.block`)."""

    start: np.ndarray  # [a + 1] first point
    points: np.ndarray
    block_at: np.ndarray  # [a] first block
    block: np.ndarray
    shape: np.ndarray  # [a, 3] blocks
    size: np.ndarray  # [a, 3]


def box_pairs(tree: Bvh, transforms: InstanceTransforms) -> np.ndarray:
    """All pairs ``i < j`` of instances whose oriented boxes meet, ``[k, 2]``, sorted."""
    m = len(tree.leaf_of)
    lo, hi = tree.lo[tree.leaf_of], tree.hi[tree.leaf_of]
    count = np.zeros(m, dtype=np.int64)
    _meetings(tree, transforms, lo, hi, np.full(m, -1), np.empty(0, dtype=np.int64), count)
    second = np.empty(count.sum(), dtype=np.int64)
    _meetings(tree, transforms, lo, hi, np.cumsum(count) - count, second, count)
    first = np.repeat(np.arange(m), count)
    return np.stack([first, second], 1)[np.lexsort((second, first))]


def count_near(
    transforms: InstanceTransforms, points: SurfacePoints, own: np.ndarray, other: np.ndarray, reach: np.ndarray
) -> np.ndarray:
    """How many points `points_near` gives for each row."""
    count = np.zeros(len(own), dtype=np.int64)
    _find_near(transforms, points, own, other, reach, np.full(len(own), -1), np.empty((0, 3)), count)
    return count


def points_near(
    transforms: InstanceTransforms,
    points: SurfacePoints,
    own: np.ndarray,
    other: np.ndarray,
    reach: np.ndarray,
    count: np.ndarray,
) -> np.ndarray:
    """The surface points of ``own [n]`` that may lie within ``reach [n]`` (metres) of the surface of ``other [n]`` or inside it,
    in the world, row after row, as many as ``count [n]`` says."""
    out = np.empty((count.sum(), 3))
    _find_near(transforms, points, own, other, reach, np.cumsum(count) - count, out, count)
    return out


@numba.njit(cache=True, parallel=True)
def _meetings(tree, transforms, lo, hi, offset, out, count):
    """For each instance those above it whose box meets its own, written to ``out`` from ``offset [m]`` on, unless that is
    negative, and counted."""
    for i in numba.prange(len(lo)):
        count[i] = _meeting(tree, transforms, lo, hi, i, offset[i], out)


@numba.njit(cache=True)
def _meeting(tree, transforms, lo, hi, i, out_at, out):
    count = 0
    stack = np.empty(STACK, dtype=np.int64)
    stack[0], top = 1, 1
    while top > 0:
        top -= 1
        node = stack[top]
        apart = False
        for a in range(3):
            if tree.lo[node, a] > hi[i, a] or tree.hi[node, a] < lo[i, a]:
                apart = True
        if apart:
            continue
        j = tree.instance[node]
        if j == INNER:
            stack[top], stack[top + 1] = 2 * node, 2 * node + 1
            top += 2
        elif j > i and _oriented_boxes_meet(transforms, i, j):
            if out_at >= 0:
                out[out_at + count] = j
            count += 1
    return count


@numba.njit(cache=True)
def _oriented_boxes_meet(transforms, i, j):
    """No separating axis among the 6 face normals and 9 products of edges; boxes that touch meet."""
    half_i, half_j, way = np.empty(3), np.empty(3), np.empty(3)
    a, b = transforms.asset[i], transforms.asset[j]
    slack = 0.0
    for r in range(3):
        way[r] = transforms.trans[j, r] - transforms.trans[i, r]
        half_i[r] = 0.5 * transforms.scale[i] * (transforms.box_hi[a, r] - transforms.box_lo[a, r])
        half_j[r] = 0.5 * transforms.scale[j] * (transforms.box_hi[b, r] - transforms.box_lo[b, r])
        slack += 1e-9 * (half_i[r] + half_j[r]) + 1e-15 * (abs(transforms.trans[i, r]) + abs(transforms.trans[j, r]))
        for c in range(3):
            way[r] += (
                0.5
                * transforms.scale[j]
                * transforms.rot[j, r, c]
                * (transforms.box_lo[b, c] + transforms.box_hi[b, c])
            )
            way[r] -= (
                0.5
                * transforms.scale[i]
                * transforms.rot[i, r, c]
                * (transforms.box_lo[a, c] + transforms.box_hi[a, c])
            )
    axis = np.empty(3)
    for k in range(15):
        for r in range(3):
            if k < 3:
                axis[r] = transforms.rot[i, r, k]
            elif k < 6:
                axis[r] = transforms.rot[j, r, k - 3]
            else:
                u, v, s, t = (k - 6) // 3, (k - 6) % 3, (r + 1) % 3, (r + 2) % 3
                axis[r] = (
                    transforms.rot[i, s, u] * transforms.rot[j, t, v]
                    - transforms.rot[i, t, u] * transforms.rot[j, s, v]
                )
        # The product of near parallel edges is near zero, and so are all terms: the slack keeps the boxes together.
        gap, reach = 0.0, slack
        for r in range(3):
            gap += way[r] * axis[r]
            reach_i, reach_j = 0.0, 0.0
            for c in range(3):
                reach_i += transforms.rot[i, c, r] * axis[c]
                reach_j += transforms.rot[j, c, r] * axis[c]
            reach += half_i[r] * abs(reach_i) + half_j[r] * abs(reach_j)
        if abs(gap) > reach:
            return False
    return True


@numba.njit(cache=True, parallel=True)
def _find_near(transforms, tables, own, other, reach, offset, out, count):
    """The surface points of ``own [n]`` that may lie within ``reach [n]`` (metres) of the surface of ``other [n]`` or inside it.

    Those of row ``k`` are written (world frame) to ``out`` from ``offset[k]`` on, unless that is negative, and counted.
    """
    for k in numba.prange(len(own)):
        count[k] = _near(transforms, tables, own[k], other[k], reach[k], offset[k], out)


@numba.njit(cache=True)
def _near(transforms, tables, i, j, reach, out_at, out):
    a, b = transforms.asset[i], transforms.asset[j]
    # From the frame of i to that of j: q = turn p + shift.
    turn, shift, margin = np.zeros((3, 3)), np.zeros(3), reach / transforms.scale[j]
    for r in range(3):
        for c in range(3):
            shift[r] += (
                transforms.rot[j, c, r] * (transforms.trans[i, c] - transforms.trans[j, c]) / transforms.scale[j]
            )
            for e in range(3):
                turn[r, c] += (
                    transforms.rot[j, e, r] * transforms.rot[i, e, c] * transforms.scale[i] / transforms.scale[j]
                )
    count = 0
    rim = np.empty(3)
    for k in range(tables.start[a], tables.start[a + 1]):
        x, y, z = tables.points[k, 0], tables.points[k, 1], tables.points[k, 2]
        near, at = True, 0
        for r in range(3):
            q = turn[r, 0] * x + turn[r, 1] * y + turn[r, 2] * z + shift[r]
            if q < transforms.box_lo[b, r] - margin or q > transforms.box_hi[b, r] + margin:
                near = False
                break
            # Beyond the box, its nearest point is no farther from the surface.
            u = min(max((q - transforms.box_lo[b, r]) / tables.size[b, r], 0.0), float(tables.shape[b, r]))
            place = min(int(u), tables.shape[b, r] - 1)
            rim[r] = min(u - place, place + 1 - u)
            at = at * tables.shape[b, r] + place
        code = -1 - tables.block[tables.block_at[b] + at] if near else -1
        if code >= 0 and code % 2 == 0:  # outside, and no surface in the blocks around up to this many less one
            free = np.inf
            for r in range(3):
                free = min(free, (code // 2 - 1 + rim[r]) * tables.size[b, r])
            near = free <= margin
        if near:
            if out_at >= 0:
                for r in range(3):
                    p = transforms.rot[i, r, 0] * x + transforms.rot[i, r, 1] * y + transforms.rot[i, r, 2] * z
                    out[out_at + count, r] = transforms.scale[i] * p + transforms.trans[i, r]
            count += 1
    return count
