"""Compiled traversal for points: which boxes are near. Where instances stand, for all kernels.

Plain Python functions compiled by numba; one iteration of the parallel loop is one point, and none looks at another. All
arithmetic on positions is float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from compose.cpu.bvh import EMPTY, INNER, STACK, box_distance2
from compose.cpu.inlined import inlined


class InstanceTransforms(NamedTuple):
    """Where ``m`` instances stand, ``p_world = rot @ (scale * p_obj) + trans``, and the boxes of the assets that they show."""

    rot: np.ndarray  # [m, 3, 3]
    trans: np.ndarray  # [m, 3]
    scale: np.ndarray  # [m]
    asset: np.ndarray  # [m] row in ``box_lo`` and in all tables of assets
    box_lo: np.ndarray  # [a, 3] object frame
    box_hi: np.ndarray  # [a, 3]


@numba.njit(cache=True)
def place(transforms, quat, ids, farthest, lo, hi):
    """Sets ``transforms.rot`` of the instances ``ids [k]`` from ``quat [m, 4]``, and ``lo, hi [k, 3]`` to world boxes around their
    oriented boxes, a hair wider than exact.

    Returns the number of the first whose pose is not finite, or that stands farther from the origin than ``farthest`` half
    diagonals of its box; -1 for none.
    """
    for k in range(len(ids)):
        i = ids[k]
        r, a, scale = transforms.rot[i], transforms.asset[i], transforms.scale[i]
        w, x, y, z = quat[i, 0], quat[i, 1], quat[i, 2], quat[i, 3]
        length2 = w * w + x * x + y * y + z * z
        if not 1e-24 <= length2 < np.inf:
            return i
        s = 2.0 / length2
        r[0, 0], r[0, 1], r[0, 2] = 1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)
        r[1, 0], r[1, 1], r[1, 2] = s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)
        r[2, 0], r[2, 1], r[2, 2] = s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)
        size2, away = 0.0, 0.0
        for c in range(3):
            centre, reach = transforms.trans[i, c], 0.0
            for d in range(3):
                half = 0.5 * (transforms.box_hi[a, d] - transforms.box_lo[a, d]) * scale
                centre += r[c, d] * (0.5 * (transforms.box_lo[a, d] + transforms.box_hi[a, d]) * scale)
                reach += abs(r[c, d]) * half
                if c == 0:
                    size2 += half * half
            slack = 1e-12 * (abs(centre) + reach) + 1e-9 * reach
            lo[k, c], hi[k, c] = centre - reach - slack, centre + reach + slack
            if abs(centre) > away or np.isnan(centre):  # NaN stays: nothing is greater
                away = abs(centre)
        if not away <= farthest * np.sqrt(size2):
            return i
    return -1


@inlined
def to_object(transforms, i, x, y, z):
    """A world point in the object frame of instance ``i``."""
    x, y, z = x - transforms.trans[i, 0], y - transforms.trans[i, 1], z - transforms.trans[i, 2]
    return turn_to_object(transforms, i, x, y, z)


@inlined
def turn_to_object(transforms, i, x, y, z):
    """A world vector in the object frame (and unit) of instance ``i``."""
    r, s = transforms.rot, 1.0 / transforms.scale[i]
    return (
        s * (r[i, 0, 0] * x + r[i, 1, 0] * y + r[i, 2, 0] * z),
        s * (r[i, 0, 1] * x + r[i, 1, 1] * y + r[i, 2, 1] * z),
        s * (r[i, 0, 2] * x + r[i, 1, 2] * y + r[i, 2, 2] * z),
    )


# -- points ------------------------------------------------------------------------------------------------------------


@inlined
def instance_box_distance(transforms, i, x, y, z):
    """Distance (metres) of a world point to the oriented box of instance ``i``; the object's distance is never less."""
    a = transforms.asset[i]
    px, py, pz = to_object(transforms, i, x, y, z)
    return transforms.scale[i] * np.sqrt(box_distance2(transforms.box_lo, transforms.box_hi, a, px, py, pz))


@numba.njit(cache=True, parallel=True)
def nearest_boxes(tree, transforms, points, at_least):
    """For each point the instance whose box is nearest among those not nearer than ``at_least``, and that distance.

    Equal distances go to the lower instance. Where there is none: -1 and inf.
    """
    n = len(points)
    owner, distance = np.full(n, -1, dtype=np.int64), np.full(n, np.inf)
    for k in numba.prange(n):
        owner[k], distance[k] = _nearest_box(tree, transforms, points[k, 0], points[k, 1], points[k, 2], at_least)
    return owner, distance


@numba.njit(cache=True)
def _nearest_box(tree, transforms, x, y, z, at_least):
    stack, stack_d2 = np.empty(STACK, dtype=np.int64), np.empty(STACK)
    stack[0], stack_d2[0], top = 1, 0.0, 1
    best, owner = np.inf, -1
    while top > 0:
        top -= 1
        node = stack[top]
        if stack_d2[top] > best * best:
            continue
        i = tree.instance[node]
        if i == EMPTY:
            continue
        if i != INNER:
            d = instance_box_distance(transforms, i, x, y, z)
            if d >= at_least and (d < best or (d == best and i < owner)):
                best, owner = d, i
            continue
        near, far = 2 * node, 2 * node + 1
        d_near = box_distance2(tree.lo, tree.hi, near, x, y, z)
        d_far = box_distance2(tree.lo, tree.hi, far, x, y, z)
        if d_far < d_near:
            near, far, d_near, d_far = far, near, d_far, d_near
        stack[top], stack_d2[top] = far, d_far
        stack[top + 1], stack_d2[top + 1] = near, d_near
        top += 2
    return owner, best


@numba.njit(cache=True)
def _boxes_within(tree, transforms, x, y, z, radius, out, out_at):
    """Instances whose box is within ``radius`` of a point, written to ``out`` from ``out_at`` if that is not negative."""
    count = 0
    stack = np.empty(STACK, dtype=np.int64)
    stack[0], top = 1, 1
    while top > 0:
        top -= 1
        node = stack[top]
        if box_distance2(tree.lo, tree.hi, node, x, y, z) > radius * radius:
            continue
        i = tree.instance[node]
        if i == INNER:
            stack[top], stack[top + 1] = 2 * node, 2 * node + 1
            top += 2
        elif i != EMPTY and instance_box_distance(transforms, i, x, y, z) <= radius:
            if out_at >= 0:
                out[out_at + count] = i
            count += 1
    return count


@numba.njit(cache=True, parallel=True)
def boxes_within(tree, transforms, points, radius):
    """All pairs of a point and an instance whose box is within ``radius [n]`` of it, packed.

    Returns ``offsets [n + 1]`` and ``instance [pairs]``, ascending within each point.
    """
    n = len(points)
    offsets = np.zeros(n + 1, dtype=np.int64)
    nowhere = np.empty(0, dtype=np.int64)
    for k in numba.prange(n):
        offsets[k + 1] = _boxes_within(
            tree, transforms, points[k, 0], points[k, 1], points[k, 2], radius[k], nowhere, -1
        )
    for k in range(n):
        offsets[k + 1] += offsets[k]
    instance = np.empty(offsets[n], dtype=np.int64)
    for k in numba.prange(n):
        _boxes_within(tree, transforms, points[k, 0], points[k, 1], points[k, 2], radius[k], instance, offsets[k])
        instance[offsets[k] : offsets[k + 1]].sort()
    return offsets, instance


@numba.njit(cache=True, parallel=True)
def points_to_object(transforms, points, instance):
    """World points ``[n, 3]`` in the frames of ``instance [n]``."""
    out = np.empty_like(points)
    for k in numba.prange(len(points)):
        out[k, 0], out[k, 1], out[k, 2] = to_object(transforms, instance[k], points[k, 0], points[k, 1], points[k, 2])
    return out


@numba.njit(cache=True)
def nearest_hits(ray, instance, t, best_t, best_owner):
    """Takes hits into each ray's nearest; equal distances go to the lower instance."""
    for c in range(len(ray)):
        k = ray[c]
        if t[c] < best_t[k] or (t[c] == best_t[k] and t[c] < np.inf and instance[c] < best_owner[k]):
            best_t[k], best_owner[k] = t[c], instance[c]
