"""Compiled search for the nearest surface: over the tree of instances, and in it the octree or the triangles of each asset.

Plain Python functions compiled by numba; a thread takes some points at a time, and none looks at another. Closest point of a
triangle: Ericson, "Real-Time Collision Detection" (2005), section 5.1.5. Distances of solids: see `objects.primitives`.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from compose.cpu.bvh import EMPTY, INNER, STACK, box_distance2
from compose.cpu.inlined import inlined
from compose.cpu.kernels import instance_box_distance, to_object
from compose.cpu.pieces import ABOUT, OFF, ROOTS, distance_said

_POINTS = 64  # that a thread takes at a time
FACE, EDGES, CORNERS = 0, 1, 4  # first rows of `Surfaces.normal` of a triangle
TRIANGLES, SPHERE, BOX, CYLINDER, CAPSULE, TORUS, NOTHING, UNKNOWN = range(8)


class Surfaces(NamedTuple):
    """The surfaces of all assets, one after another in any order (`compose.surfaces.AssetSurface`); `UNKNOWN` ones aren't here."""

    solid: np.ndarray  # [a, 18]
    centre: np.ndarray  # [a, 3]
    node_at: np.ndarray  # [a]
    triangle_at: np.ndarray  # [a]
    triangles: np.ndarray  # [a] how many
    depth: np.ndarray  # [a] of the tree
    node: np.ndarray
    corner: np.ndarray
    normal: np.ndarray
    half: np.ndarray  # [a] of the edge of the cube that the octree divides
    child_at: np.ndarray  # [a]
    piece_at: np.ndarray  # [a]
    child: np.ndarray
    piece: np.ndarray
    slack: np.ndarray  # [a] object units: what a search may give away


@numba.njit(cache=True, parallel=True)
def nearest_surfaces(tree, transforms, surfaces, points):
    """For each of ``points [n, 3]`` (world) the signed distance to the nearest surface of any instance, by branch and bound.

    Inside of solids it is minus the distance to the surface of that in which the point lies deepest. Equal distances go to the
    lower instance.

    Returns ``sdf [n]`` (metres), ``owner [n]``, the nearest point ``[n, 3]`` and the gradient ``[n, 3]`` (unit, world); inf, -1,
    NaN and zeros where there is no surface at all. Where the search met an asset ``a`` whose surface is `UNKNOWN`, owner is
    ``-2 - a`` and the rest says nothing.
    """
    n = len(points)
    sdf, owner = np.full(n, np.inf), np.full(n, -1, dtype=np.int64)
    foot, gradient = np.full((n, 3), np.nan), np.zeros((n, 3))
    for block in numba.prange((n + _POINTS - 1) // _POINTS):
        stack, stack_d2 = np.empty((2, STACK), dtype=np.int64), np.empty((2, STACK))
        for k in range(block * _POINTS, min(n, (block + 1) * _POINTS)):
            x, y, z = points[k, 0], points[k, 1], points[k, 2]
            sdf[k], owner[k], q, g = _nearest_surface(tree, transforms, surfaces, x, y, z, stack, stack_d2)
            i = owner[k]
            if i >= 0:
                for r in range(3):
                    rot = transforms.rot[i, r]
                    foot[k, r] = (
                        transforms.scale[i] * (rot[0] * q[0] + rot[1] * q[1] + rot[2] * q[2]) + transforms.trans[i, r]
                    )
                    gradient[k, r] = rot[0] * g[0] + rot[1] * g[1] + rot[2] * g[2]
    return sdf, owner, foot, gradient


@numba.njit(cache=True, parallel=True)
def distances_to_one(surfaces, points):
    """Signed distances and gradients ``[n, 4]`` of the first asset at ``points [n, 3]`` (object frame), faster where each is near
    the one before."""
    n = len(points)
    out = np.empty((n, 4))
    for block in numba.prange((n + _POINTS - 1) // _POINTS):
        stack, stack_d2 = np.empty(STACK, dtype=np.int64), np.empty(STACK)
        reach, q = np.inf, (0.0, 0.0, 0.0)
        for k in range(block * _POINTS, min(n, (block + 1) * _POINTS)):
            x, y, z = points[k, 0], points[k, 1], points[k, 2]
            if k > block * _POINTS:
                reach = (
                    np.sqrt((x - q[0]) ** 2 + (y - q[1]) ** 2 + (z - q[2]) ** 2) * (1 + 1e-6) + 2 * surfaces.slack[0]
                )
            out[k, 0], q, g = _asset_surface(surfaces, 0, x, y, z, reach, stack, stack_d2)
            out[k, 1], out[k, 2], out[k, 3] = g
    return out


@inlined
def _nearest_surface(tree, transforms, surfaces, x, y, z, stack, stack_d2):
    """Signed distance, owner (see `nearest_surfaces`), and in the owner's frame the nearest point and the gradient."""
    nodes, nodes_d2 = stack[0], stack_d2[0]
    nodes[0], nodes_d2[0], top = 1, box_distance2(tree.lo, tree.hi, 1, x, y, z), 1
    best, owner, q, g = np.inf, -1, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    while top > 0:
        top -= 1
        node = nodes[top]
        if nodes_d2[top] > max(best, 0.0) ** 2:
            continue
        i = tree.instance[node]
        if i == EMPTY:
            continue
        if i == INNER:
            near, far = 2 * node, 2 * node + 1
            d_near = box_distance2(tree.lo, tree.hi, near, x, y, z)
            d_far = box_distance2(tree.lo, tree.hi, far, x, y, z)
            if d_far < d_near:
                near, far, d_near, d_far = far, near, d_far, d_near
            nodes[top], nodes_d2[top] = far, d_far
            nodes[top + 1], nodes_d2[top + 1] = near, d_near
            top += 2
            continue
        away = instance_box_distance(transforms, i, x, y, z)
        if away > max(best, 0.0):
            continue
        if surfaces.solid[transforms.asset[i], 0] == UNKNOWN:
            return np.inf, -2 - transforms.asset[i], q, g
        # In its box it may hold the point, and deeper than anything so far: then its surface must be found wherever it is.
        reach = np.inf if away == 0.0 else best / transforms.scale[i]
        px, py, pz = to_object(transforms, i, x, y, z)
        distance, found_q, found_g = _asset_surface(
            surfaces, transforms.asset[i], px, py, pz, reach, stack[1], stack_d2[1]
        )
        distance *= transforms.scale[i]
        if distance < best or (distance == best and distance < np.inf and i < owner):
            best, owner, q, g = distance, i, found_q, found_g
    return best, owner, q, g


@inlined
def _asset_surface(s, a, x, y, z, reach, stack, stack_d2):
    """Signed distance (object units; inf if it is not within ``reach``), nearest point and gradient of an asset."""
    solid = s.solid[a]
    kind = int(solid[0])
    if kind == NOTHING:
        return np.inf, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    if kind != TRIANGLES:
        x, y, z, scale = x - solid[10], y - solid[11], z - solid[12], solid[13]
        u = (solid[1] * x + solid[4] * y + solid[7] * z) / scale
        v = (solid[2] * x + solid[5] * y + solid[8] * z) / scale
        w = (solid[3] * x + solid[6] * y + solid[9] * z) / scale
        distance, gu, gv, gw = _solid(kind, solid[14], solid[15], solid[16], solid[17], u, v, w)
        distance *= scale
        gx = solid[1] * gu + solid[2] * gv + solid[3] * gw
        gy = solid[4] * gu + solid[5] * gv + solid[6] * gw
        gz = solid[7] * gu + solid[8] * gv + solid[9] * gw
        qx = x - distance * gx + solid[10]
        qy = y - distance * gy + solid[11]
        return distance, (qx, qy, z - distance * gz + solid[12]), (gx, gy, gz)
    cx, cy, cz = s.centre[a, 0], s.centre[a, 1], s.centre[a, 2]
    x, y, z = x - cx, y - cy, z - cz
    bound = np.inf
    code, u, v, w, half = _cell(s, a, x, y, z)
    if code >= 0:
        row = s.piece_at[a] + (code >> 4)
        if code & 14:
            distance, gx, gy, gz = _piecewise(s.piece, row, (code >> 1) & 7, code & 1, u, v, w)
            distance *= half
            return distance, (x - distance * gx + cx, y - distance * gy + cy, z - distance * gz + cz), (gx, gy, gz)
        value = distance_said(_polynomial(s.piece, row, u, v, w), s.piece[row, ABOUT])
        about, off = abs(half * value), s.piece[row, OFF]
        if about - 2.0 * off > reach:
            return np.inf, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        bound = about + off + 2.0 * s.slack[a]
    d2, row, part, qx, qy, qz = _nearest_triangle(s, a, x, y, z, min(reach, bound), stack, stack_d2)
    if row < 0 and bound < reach:
        d2, row, part, qx, qy, qz = _nearest_triangle(s, a, x, y, z, reach, stack, stack_d2)
    if row < 0:
        return np.inf, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    nx, ny, nz = s.normal[row, part, 0] / 32767.0, s.normal[row, part, 1] / 32767.0, s.normal[row, part, 2] / 32767.0
    dx, dy, dz = x - qx, y - qy, z - qz
    distance = np.sqrt(d2)
    if dx * nx + dy * ny + dz * nz < 0.0:
        distance = -distance
    root = s.node[s.node_at[a] + 1]
    if abs(distance) > 2e-6 * (root[12] + root[13] + root[14]):
        nx, ny, nz = dx / distance, dy / distance, dz / distance
    length = np.sqrt(nx * nx + ny * ny + nz * nz)
    return distance, (qx + cx, qy + cy, qz + cz), (nx / length, ny / length, nz / length)


# -- the octree --------------------------------------------------------------------------------------------------------


@inlined
def _cell(s, a, x, y, z):
    """The cell of the octree that a point lies in: its code (-1 beyond the cube; see `compose.cpu.pieces.octree`), where in it, in
    -1..1, and half its edge."""
    half = s.half[a] / ROOTS
    u, v, w = 0.5 * (x / half + ROOTS), 0.5 * (y / half + ROOTS), 0.5 * (z / half + ROOTS)
    if not (0.0 <= u < ROOTS and 0.0 <= v < ROOTS and 0.0 <= w < ROOTS):
        return -1, 0.0, 0.0, 0.0, 0.0
    i, j, k = int(u), int(v), int(w)
    u, v, w = u - i, v - j, w - k
    base = s.child_at[a]
    at = s.child[base + (i * ROOTS + j) * ROOTS + k]
    while at >= 0:
        u, v, w = 2.0 * u, 2.0 * v, 2.0 * w
        i, j, k = int(u), int(v), int(w)
        u, v, w, half = u - i, v - j, w - k, 0.5 * half
        at = s.child[base + at + 4 * i + 2 * j + k]
    return -1 - at, 2.0 * u - 1.0, 2.0 * v - 1.0, 2.0 * w - 1.0, half


@inlined
def _polynomial(piece, row, u, v, w):
    """Distance in half edges of the cell."""
    c = piece[row]
    return c[0] + (c[1] + c[4] * u + c[7] * v + c[8] * w) * u + (c[2] + c[5] * v + c[9] * w) * v + (c[3] + c[6] * w) * w


@inlined
def _piecewise(piece, row, number, greatest, u, v, w):
    """Distance (in half edges of the cell) and unit gradient of the least or greatest polynomial."""
    best, which = _polynomial(piece, row, u, v, w), row
    for k in range(row + 1, row + number):
        value = _polynomial(piece, k, u, v, w)
        if (value > best) == (greatest == 1):
            best, which = value, k
    c = piece[which]
    gx = c[1] + 2.0 * c[4] * u + c[7] * v + c[8] * w
    gy = c[2] + 2.0 * c[5] * v + c[7] * u + c[9] * w
    gz = c[3] + 2.0 * c[6] * w + c[8] * u + c[9] * v
    length = max(np.sqrt(gx * gx + gy * gy + gz * gz), 1e-12)
    return distance_said(best, c[ABOUT]), gx / length, gy / length, gz / length


# -- triangles ---------------------------------------------------------------------------------------------------------


@inlined
def _nearest_triangle(s, a, x, y, z, reach, stack, stack_d2):
    """Squared distance, row, part (face, edge, corner) and nearest point of the nearest triangle closer than ``reach``, up to
    the asset's ``slack``; row -1 for none."""
    best2, slack = reach * reach, s.slack[a]
    cut2 = max(reach - slack, 0.0) ** 2
    depth, base, first = s.depth[a], s.node_at[a], s.triangle_at[a]
    t = s.triangles[a]
    leaves = 1 << depth
    row, part, qx, qy, qz = -1, 0, 0.0, 0.0, 0.0
    stack[0], stack_d2[0], top = 1, _node_distance2(s.node, base + 1, x, y, z), 1
    while top > 0:
        top -= 1
        node = stack[top]
        if stack_d2[top] >= cut2:
            continue
        while node < leaves:
            near, far = 2 * node, 2 * node + 1
            d_near = _node_distance2(s.node, base + near, x, y, z)
            d_far = _node_distance2(s.node, base + far, x, y, z)
            if d_far < d_near:
                near, far, d_near, d_far = far, near, d_far, d_near
            if d_far < cut2:
                stack[top], stack_d2[top] = far, d_far
                top += 1
            if d_near >= cut2:
                break
            node = near
        if node < leaves:
            continue
        i = node - leaves
        for k in range(first + ((i * t) >> depth), first + (((i + 1) * t) >> depth)):
            d2, found, ux, uy, uz = _triangle(s.corner, k, x, y, z)
            if d2 < best2:
                best2, row, part, qx, qy, qz = d2, k, found, ux, uy, uz
                cut2 = max(np.sqrt(d2) - slack, 0.0) ** 2
    return best2, row, part, qx, qy, qz


@inlined
def _node_distance2(node, k, x, y, z):
    c = node[k]
    u = max(abs(c[0] * x + c[1] * y + c[2] * z - c[9]) - c[12], 0.0)
    v = max(abs(c[3] * x + c[4] * y + c[5] * z - c[10]) - c[13], 0.0)
    w = max(abs(c[6] * x + c[7] * y + c[8] * z - c[11]) - c[14], 0.0)
    return u * u + v * v + w * w


def turned_boxes(corner: np.ndarray, depth: int) -> np.ndarray:
    """Boxes of all nodes of a tree over triangles ``corner [t, 9]``, as in `Surfaces.node`.

    They lie along the main axes of the corners in them, so that those of smooth surfaces are thin: of boxes along x, y and z many
    more come as near as the nearest triangle."""
    p = corner.reshape(-1, 3, 3).astype(np.float64)
    moments = np.concatenate([p.sum(1), np.einsum("tci,tcj->tij", p, p).reshape(-1, 9)], 1)
    sums = np.concatenate([np.zeros((1, 12)), moments.cumsum(0)])
    ends = [(np.arange((1 << level) + 1) * len(p)) >> level for level in range(depth + 1)]
    first, behind = (np.concatenate(part) for part in zip(*((e[:-1], e[1:]) for e in ends), strict=True))
    mean = (sums[behind] - sums[first]) / (3.0 * (behind - first))[:, None]
    spread = mean[:, 3:].reshape(-1, 3, 3) - mean[:, :3, None] * mean[:, None, :3]
    node = np.zeros((2 << depth, 15), dtype=np.float32)
    node[1:, :9] = np.linalg.eigh(spread)[1].transpose(0, 2, 1).reshape(-1, 9)
    _extents(corner, first, behind, node)
    return node


@numba.njit(cache=True, parallel=True)
def _extents(corner, first, behind, node):
    """Middles and half sizes of nodes 1, 2, ... along their axes."""
    for k in numba.prange(len(first)):
        row = node[k + 1]
        for a in range(3):
            x, y, z = np.float64(row[3 * a]), np.float64(row[3 * a + 1]), np.float64(row[3 * a + 2])
            lo, hi = np.inf, -np.inf
            for t in range(first[k], behind[k]):
                for c in range(0, 9, 3):
                    along = x * corner[t, c] + y * corner[t, c + 1] + z * corner[t, c + 2]
                    lo, hi = min(lo, along), max(hi, along)
            row[9 + a], row[12 + a] = 0.5 * (lo + hi), 0.5 * (hi - lo)
            row[12 + a] += 1e-6 * (abs(lo) + abs(hi))  # more than what float32 rounds off


@inlined
def _triangle(corner, k, x, y, z):
    """Squared distance of a point to triangle ``k``, which part of it is nearest, and where."""
    ax, ay, az = np.float64(corner[k, 0]), np.float64(corner[k, 1]), np.float64(corner[k, 2])
    ux, uy, uz = corner[k, 3] - ax, corner[k, 4] - ay, corner[k, 5] - az  # from a to b
    vx, vy, vz = corner[k, 6] - ax, corner[k, 7] - ay, corner[k, 8] - az  # from a to c
    px, py, pz = x - ax, y - ay, z - az
    uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
    d1, d2 = ux * px + uy * py + uz * pz, vx * px + vy * py + vz * pz
    d3, d4, d5, d6 = d1 - uu, d2 - uv, d1 - uv, d2 - vv
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    if d1 <= 0.0 and d2 <= 0.0:
        part, s, t = CORNERS, 0.0, 0.0
    elif d3 >= 0.0 and d4 <= d3:
        part, s, t = CORNERS + 1, 1.0, 0.0
    elif d6 >= 0.0 and d5 <= d6:
        part, s, t = CORNERS + 2, 0.0, 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        part, s, t = EDGES, d1 / (d1 - d3), 0.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        part, s, t = EDGES + 2, 0.0, d2 / (d2 - d6)
    elif va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0:
        t = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        part, s = EDGES + 1, 1.0 - t
    else:
        whole = va + vb + vc
        part, s, t = FACE, vb / whole, vc / whole
    qx, qy, qz = ax + s * ux + t * vx, ay + s * uy + t * vy, az + s * uz + t * vz
    dx, dy, dz = x - qx, y - qy, z - qz
    return dx * dx + dy * dy + dz * dz, part, qx, qy, qz


# -- exact solids ------------------------------------------------------------------------------------------------------


@inlined
def _solid(kind, s0, s1, s2, s3, x, y, z):
    """Distance of an exact solid and its unit gradient."""
    if kind == SPHERE:
        return _from_centre(x, y, z, s0)
    if kind == BOX:
        return _from_corner(x, y, z, 0.5 * s0 - s3, 0.5 * s1 - s3, 0.5 * s2 - s3, s3)
    radius = np.sqrt(x * x + y * y)
    cx, cy = (x / radius, y / radius) if radius > 0.0 else (1.0, 0.0)
    if kind == CYLINDER:  # in the half plane of the axis and the point it is a box
        distance, gr, _, gz = _from_corner(radius, 0.0, z, s0, np.inf, 0.5 * s1, 0.0)
    elif kind == CAPSULE:
        distance, gr, _, gz = _from_centre(radius, 0.0, z - min(max(z, -0.5 * s1), 0.5 * s1), s0)
    else:
        distance, gr, _, gz = _from_centre(radius - s0, 0.0, z, s1)
    return distance, cx * gr, cy * gr, gz


@inlined
def _from_centre(x, y, z, radius):
    length = np.sqrt(x * x + y * y + z * z)
    if length > 0.0:
        return length - radius, x / length, y / length, z / length
    return -radius, 1.0, 0.0, 0.0


@inlined
def _from_corner(x, y, z, hx, hy, hz, rounding):
    """A box of half edges ``hx, hy, hz``, grown by ``rounding``."""
    qx, qy, qz = abs(x) - hx, abs(y) - hy, abs(z) - hz
    sx, sy, sz = (1.0 if x >= 0.0 else -1.0), (1.0 if y >= 0.0 else -1.0), (1.0 if z >= 0.0 else -1.0)
    ox, oy, oz = max(qx, 0.0), max(qy, 0.0), max(qz, 0.0)
    length = np.sqrt(ox * ox + oy * oy + oz * oz)
    if length > 0.0:
        return length - rounding, sx * ox / length, sy * oy / length, sz * oz / length
    if qx >= qy and qx >= qz:
        return qx - rounding, sx, 0.0, 0.0
    if qy >= qz:
        return qy - rounding, 0.0, sy, 0.0
    return qz - rounding, 0.0, 0.0, sz
