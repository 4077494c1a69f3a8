"""Compiled traversal: points to boxes, rays to candidate intervals, candidate intervals to hits.

Plain Python functions compiled by numba; one iteration of the parallel loop is one point, ray or candidate, and none looks at
another. All arithmetic on positions is float64 in the frame of the instance's asset; networks are asked elsewhere
(`compose.batch`), between two calls of a kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from compose.bvh import INNER, STACK, box_distance2, box_span, inverse

_BLOCK = 64  # rays that one thread takes at a time
_SUB = 8  # linear pieces of the cubic that a trilinear cell shows along a ray


class Stand(NamedTuple):
    """Where ``m`` instances stand: ``p_world = rot @ (scale * p_obj) + trans``."""

    rot: np.ndarray  # [m, 3, 3]
    trans: np.ndarray  # [m, 3]
    scale: np.ndarray  # [m]
    asset: np.ndarray  # [m] row in the asset tables
    box_lo: np.ndarray  # [a, 3] object frame
    box_hi: np.ndarray  # [a, 3]


class Tree(NamedTuple):
    """The arrays of `compose.bvh.Bvh` that a traversal reads."""

    lo: np.ndarray
    hi: np.ndarray
    instance: np.ndarray


class Grids(NamedTuple):
    """The grids of all assets, one after another (`compose.grid.AssetGrid`)."""

    shape: np.ndarray  # [a, 3] cells
    cell: np.ndarray  # [a, 3] cell size
    value_at: np.ndarray  # [a] first vertex
    cell_at: np.ndarray  # [a] first cell
    value: np.ndarray
    bound: np.ndarray
    skip: np.ndarray
    lipschitz: np.ndarray  # [a]


class Candidates(NamedTuple):
    """Ray intervals ``[ta, tb]`` in which an instance may be hit. ``certain`` (1 or 0): outside before, inside after, by
    the grid; ``guess`` and ``slope`` are then the grid's crossing and the distance's change per unit of ``t``."""

    ta: np.ndarray
    tb: np.ndarray
    guess: np.ndarray
    slope: np.ndarray
    instance: np.ndarray
    certain: np.ndarray


@numba.njit(cache=True)
def to_object(stand, i, x, y, z):
    """A world point in the object frame of instance ``i``."""
    x, y, z = x - stand.trans[i, 0], y - stand.trans[i, 1], z - stand.trans[i, 2]
    return turn_to_object(stand, i, x, y, z)


@numba.njit(cache=True)
def turn_to_object(stand, i, x, y, z):
    """A world vector in the object frame (and unit) of instance ``i``."""
    r, s = stand.rot, 1.0 / stand.scale[i]
    return (
        s * (r[i, 0, 0] * x + r[i, 1, 0] * y + r[i, 2, 0] * z),
        s * (r[i, 0, 1] * x + r[i, 1, 1] * y + r[i, 2, 1] * z),
        s * (r[i, 0, 2] * x + r[i, 1, 2] * y + r[i, 2, 2] * z),
    )


# -- points ------------------------------------------------------------------------------------------------------------


@numba.njit(cache=True)
def instance_box_distance(stand, i, x, y, z):
    """Distance (metres) of a world point to the oriented box of instance ``i``; the object's distance is never less."""
    a = stand.asset[i]
    px, py, pz = to_object(stand, i, x, y, z)
    return stand.scale[i] * np.sqrt(box_distance2(stand.box_lo, stand.box_hi, a, px, py, pz))


@numba.njit(cache=True, parallel=True)
def nearest_boxes(tree, stand, points, at_least):
    """For each point the instance whose box is nearest among those not nearer than ``at_least``, and that distance.

    Equal distances go to the lower instance. Where there is none: -1 and inf.
    """
    n = len(points)
    owner, distance = np.full(n, -1, dtype=np.int64), np.full(n, np.inf)
    for k in numba.prange(n):
        owner[k], distance[k] = _nearest_box(tree, stand, points[k, 0], points[k, 1], points[k, 2], at_least)
    return owner, distance


@numba.njit(cache=True)
def _nearest_box(tree, stand, x, y, z, at_least):
    stack, stack_d2 = np.empty(STACK, dtype=np.int64), np.empty(STACK)
    stack[0], stack_d2[0], top = 1, 0.0, 1
    best, owner = np.inf, -1
    while top > 0:
        top -= 1
        node = stack[top]
        if stack_d2[top] > best * best:
            continue
        i = tree.instance[node]
        if i != INNER:
            d = instance_box_distance(stand, i, x, y, z)
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
def _boxes_within(tree, stand, x, y, z, radius, out, out_at):
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
        elif instance_box_distance(stand, i, x, y, z) <= radius:
            if out_at >= 0:
                out[out_at + count] = i
            count += 1
    return count


@numba.njit(cache=True, parallel=True)
def boxes_within(tree, stand, points, radius):
    """All pairs of a point and an instance whose box is within ``radius [n]`` of it, packed.

    Returns ``offsets [n + 1]`` and ``instance [pairs]``, ascending within each point.
    """
    n = len(points)
    offsets = np.zeros(n + 1, dtype=np.int64)
    nowhere = np.empty(0, dtype=np.int64)
    for k in numba.prange(n):
        offsets[k + 1] = _boxes_within(tree, stand, points[k, 0], points[k, 1], points[k, 2], radius[k], nowhere, -1)
    for k in range(n):
        offsets[k + 1] += offsets[k]
    instance = np.empty(offsets[n], dtype=np.int64)
    for k in numba.prange(n):
        _boxes_within(tree, stand, points[k, 0], points[k, 1], points[k, 2], radius[k], instance, offsets[k])
        instance[offsets[k] : offsets[k + 1]].sort()
    return offsets, instance


@numba.njit(cache=True, parallel=True)
def points_to_object(stand, points, instance):
    """World points ``[n, 3]`` in the frames of ``instance [n]``."""
    out = np.empty_like(points)
    for k in numba.prange(len(points)):
        out[k, 0], out[k, 1], out[k, 2] = to_object(stand, instance[k], points[k, 0], points[k, 1], points[k, 2])
    return out


# -- rays: from the tree and the grids to candidates ---------------------------------------------------------------------


@numba.njit(cache=True)
def _march(
    grids,
    a,
    stand,
    ox,
    oy,
    oz,
    dx,
    dy,
    dz,
    ix,
    iy,
    iz,
    t_in,
    t_out,
    t_enough,
    widen,
    piece,
    found,
    k,
    count,
    instance,
    g,
):
    """Marches one asset's grid along a ray in its object frame and appends candidates to row ``k`` of ``found``.

    From ``t_enough`` on no new candidate matters; one that was begun is finished, so that candidates never depend on what
    other instances hide: coincident instances get equal ones, and equal bits for their hits.

    An interval is uncertain while the interpolated value is within the cell's bound of zero; it goes on over the borders of cells.
    One that begins certainly outside and ends certainly inside is certain, and the march stops with it. ``widen`` scales the
    bounds; uncertain candidates are cut to the length ``piece``, so that a ray that slides along a surface is searched side by side
    and not step after step. ``count[k]`` may exceed the row: then the row is not whole. ``g`` is room for ``_SUB + 1`` numbers.
    Returns the end of the certain candidate, or inf.
    """
    nx, ny, nz = grids.shape[a, 0], grids.shape[a, 1], grids.shape[a, 2]
    sx, sy, sz = 1.0 / grids.cell[a, 0], 1.0 / grids.cell[a, 1], 1.0 / grids.cell[a, 2]
    # In cell units: u = o + t d.
    ox, oy, oz = (ox - stand.box_lo[a, 0]) * sx, (oy - stand.box_lo[a, 1]) * sy, (oz - stand.box_lo[a, 2]) * sz
    dx, dy, dz = dx * sx, dy * sy, dz * sz
    ix, iy, iz = ix * grids.cell[a, 0], iy * grids.cell[a, 1], iz * grids.cell[a, 2]
    speed = np.sqrt(dx * dx + dy * dy + dz * dz)
    nudge = 1e-7 / speed  # in t: a ten-millionth of a cell, to be past a border
    opened, open_ta, open_sign = False, 0.0, 0  # an uncertain interval that reaches the end of the last cell
    t = t_in
    while t < t_out and (opened or t <= t_enough):
        u = ox + (t + nudge) * dx
        v = oy + (t + nudge) * dy
        w = oz + (t + nudge) * dz
        i = min(max(int(np.floor(u)), 0), nx - 1)
        j = min(max(int(np.floor(v)), 0), ny - 1)
        h = min(max(int(np.floor(w)), 0), nz - 1)
        at = grids.cell_at[a] + (i * ny + j) * nz + h
        skip = grids.skip[at]
        reach = max(int(skip), 1) - 1
        leave_x = ((i + 1 + reach if dx > 0 else i - reach) - ox) * ix if dx != 0.0 else np.inf
        leave_y = ((j + 1 + reach if dy > 0 else j - reach) - oy) * iy if dy != 0.0 else np.inf
        leave_z = ((h + 1 + reach if dz > 0 else h - reach) - oz) * iz if dz != 0.0 else np.inf
        leave = min(max(min(leave_x, leave_y, leave_z), t + nudge), t_out)
        row = grids.value_at[a] + (i * (ny + 1) + j) * (nz + 1) + h
        if skip > 0:
            if opened:
                opened = False
                v000 = grids.value[row]
                sure = open_sign > 0 and v000 < 0.0
                if open_sign >= 0 or v000 < 0.0:
                    _append(found, k, count, piece, open_ta, t, instance, sure, 0.0, 0.0)
                if sure:
                    return t
            t = leave if leave > t else t_out
            continue

        # The cubic c0 + c1 s + c2 s^2 + c3 s^3 of the trilinear cell along the chord, s from 0 (t) to 1 (leave).
        step_y, step_x = nz + 1, (ny + 1) * (nz + 1)
        v000 = np.float64(grids.value[row])
        v001, v010, v011 = grids.value[row + 1], grids.value[row + step_y], grids.value[row + step_y + 1]
        v100, v101 = grids.value[row + step_x], grids.value[row + step_x + 1]
        v110, v111 = grids.value[row + step_x + step_y], grids.value[row + step_x + step_y + 1]
        kx, ky, kz = v100 - v000, v010 - v000, v001 - v000
        kxy, kxz, kyz = v110 - v100 - v010 + v000, v101 - v100 - v001 + v000, v011 - v010 - v001 + v000
        kxyz = v111 - v110 - v101 - v011 + v100 + v010 + v001 - v000
        length = leave - t
        u0, v0, w0 = ox + t * dx - i, oy + t * dy - j, oz + t * dz - h
        du, dv, dw = length * dx, length * dy, length * dz
        uv0, uv1, uv2 = u0 * v0, u0 * dv + v0 * du, du * dv
        c0 = v000 + kx * u0 + ky * v0 + kz * w0 + kxy * uv0 + kxz * u0 * w0 + kyz * v0 * w0 + kxyz * uv0 * w0
        c1 = kx * du + ky * dv + kz * dw + kxy * uv1 + kxz * (u0 * dw + w0 * du) + kyz * (v0 * dw + w0 * dv)
        c1 += kxyz * (uv1 * w0 + uv0 * dw)
        c2 = kxy * uv2 + kxz * du * dw + kyz * dv * dw + kxyz * (uv2 * w0 + uv1 * dw)
        c3 = kxyz * uv2 * dw
        # A cubic strays from a chord of width h by at most h^2 / 8 max |g''|, and g'' is linear.
        bend = max(abs(2 * c2), abs(2 * c2 + 6 * c3)) / (8.0 * _SUB * _SUB)
        e = widen * grids.bound[at] + bend
        for q in range(_SUB + 1):
            s = q / _SUB
            g[q] = c0 + s * (c1 + s * (c2 + s * c3))

        if opened and abs(g[0]) > e:  # this cell knows the sign at its start
            opened = False
            sure = open_sign > 0 and g[0] < 0.0
            if open_sign >= 0 or g[0] < 0.0:
                _append(found, k, count, piece, open_ta, t, instance, sure, 0.0, 0.0)
            if sure:
                return t
        q = 0
        while q < _SUB:
            if min(g[q], g[q + 1]) > e or max(g[q], g[q + 1]) < -e:
                q += 1
                continue
            if opened:
                ta, sign = open_ta, open_sign
                opened = False
            elif g[q] > e:
                ta, sign = t + length * (q + (g[q] - e) / (g[q] - g[q + 1])) / _SUB, 1
            elif g[q] < -e:
                ta, sign = t + length * (q + (-e - g[q]) / (g[q + 1] - g[q])) / _SUB, -1
            else:
                ta, sign = t + length * q / _SUB, 0
            while q < _SUB and abs(g[q + 1]) <= e:
                q += 1
            if q == _SUB:
                opened, open_ta, open_sign = True, ta, sign
                break
            if g[q + 1] > e:  # certainly outside from here; from inside, that is an exit and no hit
                if sign >= 0:
                    tb = t + length * (q + (e - g[q]) / (g[q + 1] - g[q])) / _SUB
                    _append(found, k, count, piece, ta, tb, instance, False, 0.0, 0.0)
            else:  # certainly inside from here
                tb = t + length * (q + (g[q] + e) / (g[q] - g[q + 1])) / _SUB
                c = q  # the piece in which the cubic crosses zero
                while c > 0 and g[c] < 0.0:
                    c -= 1
                slope = (g[c + 1] - g[c]) * _SUB / length
                guess = t + length * (c + g[c] / (g[c] - g[c + 1])) / _SUB if slope < 0.0 else 0.0
                sure = sign > 0
                _append(found, k, count, piece, ta, tb, instance, sure, guess, slope)
                if sure:
                    return tb
            q += 1
        t = leave if leave > t else t_out
    if opened:
        _append(found, k, count, piece, open_ta, t_out, instance, False, 0.0, 0.0)
    return np.inf


@numba.njit(cache=True)
def _append(found, k, count, piece, ta, tb, instance, certain, guess, slope):
    tb = max(ta, tb)
    pieces = 1 if certain else max(int(np.ceil((tb - ta) / piece)), 1)
    for i in range(pieces):
        c = count[k]
        if c < found.ta.shape[1]:
            found.ta[k, c] = ta + (tb - ta) * i / pieces
            found.tb[k, c] = tb if i == pieces - 1 else ta + (tb - ta) * (i + 1) / pieces
            found.guess[k, c] = min(max(guess, ta), tb) if slope < 0.0 else 0.5 * (ta + tb)
            found.slope[k, c] = min(slope, 0.0)
            found.instance[k, c] = instance
            found.certain[k, c] = 1 if certain else 0
        count[k] += 1


@numba.njit(cache=True, parallel=True)
def find_candidates(
    tree, stand, grids, piece, origins, directions, t_min, t_max, widen, any_hit, found, count, blocked
):
    """All candidates of each ray up to the end of its first certain one, nearest boxes first.

    Row ``k`` of ``found`` takes the candidates of ray ``k``; ``count [n]`` says how many there are, more than the row holds if it
    overflowed. With ``any_hit`` a ray stops at the first certain candidate of any instance and says so in ``blocked``.
    """
    n = len(origins)
    for block in numba.prange((n + _BLOCK - 1) // _BLOCK):
        stack, stack_t, g = np.empty(STACK, dtype=np.int64), np.empty(STACK), np.empty(_SUB + 1)
        for k in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            _find(
                tree, stand, grids, piece, origins, directions, t_min[k], t_max[k], widen, any_hit, found, count, blocked, k,
                stack, stack_t, g,
            )  # fmt: skip


@numba.njit(cache=True)
def _node_enter(tree, node, ox, oy, oz, ix, iy, iz, t_min, t_max):
    """Where a ray enters a node's box, inf for a miss. Boxes are a hair wider than exact, far more than products with inverses
    are off."""
    enter, leave = box_span(tree.lo, tree.hi, node, ox, oy, oz, ix, iy, iz, t_min, t_max)
    return enter if enter <= leave else np.inf


@numba.njit(cache=True)
def _find(
    tree,
    stand,
    grids,
    piece,
    origins,
    directions,
    t_min,
    t_max,
    widen,
    any_hit,
    found,
    count,
    blocked,
    k,
    stack,
    stack_t,
    g,
):
    ox, oy, oz = origins[k, 0], origins[k, 1], origins[k, 2]
    dx, dy, dz = directions[k, 0], directions[k, 1], directions[k, 2]
    ix, iy, iz = inverse(dx), inverse(dy), inverse(dz)
    certain_t, top = t_max, 0
    count[k] = 0
    enter = _node_enter(tree, 1, ox, oy, oz, ix, iy, iz, t_min, certain_t)
    if enter < np.inf:
        stack[0], stack_t[0], top = 1, enter, 1
    while top > 0:
        top -= 1
        node = stack[top]
        if stack_t[top] > certain_t:
            continue
        i = tree.instance[node]
        if i != INNER:
            a = stand.asset[i]
            px, py, pz = to_object(stand, i, ox, oy, oz)
            qx, qy, qz = turn_to_object(stand, i, dx, dy, dz)
            jx, jy, jz = inverse(qx), inverse(qy), inverse(qz)
            enter, leave = box_span(stand.box_lo, stand.box_hi, a, px, py, pz, jx, jy, jz, t_min, t_max)
            if enter < leave:
                end = _march(
                    grids, a, stand, px, py, pz, qx, qy, qz, jx, jy, jz,
                    enter, leave, certain_t, widen, piece[i], found, k, count, i, g,
                )  # fmt: skip
                certain_t = min(certain_t, end)
                if any_hit and end < np.inf:
                    blocked[k] = True
                    return
            continue
        near, far = 2 * node, 2 * node + 1
        t_near = _node_enter(tree, near, ox, oy, oz, ix, iy, iz, t_min, certain_t)
        t_far = _node_enter(tree, far, ox, oy, oz, ix, iy, iz, t_min, certain_t)
        if t_far < t_near:
            near, far, t_near, t_far = far, near, t_far, t_near
        if t_far < np.inf:
            stack[top], stack_t[top] = far, t_far
            top += 1
        if t_near < np.inf:
            stack[top], stack_t[top] = near, t_near
            top += 1


@numba.njit(cache=True)
def pack_candidates(found, count, blocked, rays):
    """The candidates that rays of whole rows still need, packed: ``place [c]`` in ``found`` (flat) and the ray of each.

    What starts behind the end of a ray's first certain candidate can't be its first hit. ``rays [k]`` numbers the rows.
    """
    room = found.ta.shape[1]
    place, ray_of = np.empty(found.ta.size, dtype=np.int64), np.empty(found.ta.size, dtype=np.int64)
    n = 0
    for k in range(len(rays)):
        if blocked[k] or count[k] > room:
            continue
        certain_end = np.inf
        for c in range(count[k]):
            if found.certain[k, c]:
                certain_end = min(certain_end, found.tb[k, c])
        for c in range(count[k]):
            if found.ta[k, c] <= certain_end:
                place[n], ray_of[n] = k * room + c, rays[k]
                n += 1
    return place[:n].copy(), ray_of[:n].copy()


# -- rays: from candidates to hits ---------------------------------------------------------------------------------------

PROBE, BRACKET, DONE, FAILED = 0, 1, 2, 3


class Search(NamedTuple):
    """The state of each candidate's search for its first change of sign from + to -."""

    mode: np.ndarray  # [c] int8: PROBE looks for a negative value, BRACKET closes in, DONE, FAILED: the grid was wrong
    s: np.ndarray  # [c] where the field is asked next
    lo: np.ndarray  # [c] last place outside
    hi: np.ndarray  # [c] first place inside; while probing, the end of the interval
    seen_lo: np.ndarray  # [c] bool: the field itself said so, not only the grid
    seen_hi: np.ndarray
    s_last: np.ndarray  # [c] where the field was asked last, and what it said; NaN before
    f_last: np.ndarray
    slope: np.ndarray  # [c] change of distance per unit of t; 0 where unknown
    t: np.ndarray  # [c] the result, inf for no hit
    rounds: np.ndarray  # [c]


@numba.njit(cache=True, parallel=True)
def points_asked(stand, search, active, origins, directions, rays, instance):
    """Where the ``active`` candidates ask next, in the frames of their instances, ``[n, 3]``."""
    out = np.empty((len(active), 3))
    for r in numba.prange(len(active)):
        c = active[r]
        k, s = rays[c], search.s[c]
        x, y, z = (
            origins[k, 0] + s * directions[k, 0],
            origins[k, 1] + s * directions[k, 1],
            origins[k, 2] + s * directions[k, 2],
        )
        out[r, 0], out[r, 1], out[r, 2] = to_object(stand, instance[c], x, y, z)
    return out


@numba.njit(cache=True, parallel=True)
def advance(search, active, f, tolerance, step, inverse_lipschitz):
    """One round: takes in the distances ``f`` found at ``s`` for the ``active`` candidates and says where to ask next.

    ``tolerance``, ``step`` and ``inverse_lipschitz`` are those of all candidates: the wanted precision of ``t``, the smallest step
    of a probe, and how far a unit of distance lets it go.
    """
    for r in numba.prange(len(active)):
        c = active[r]
        _advance_one(search, c, f[r], tolerance[c], step[c], inverse_lipschitz[c])


@numba.njit(cache=True)
def _advance_one(search, c, value, tolerance, step, inverse_lipschitz):
    s = search.s[c]
    search.rounds[c] += 1
    if search.mode[c] == PROBE:
        if value > 0.0:
            search.lo[c], search.seen_lo[c] = s, True
        elif search.seen_lo[c]:
            search.hi[c], search.seen_hi[c] = s, True
            search.mode[c], search.rounds[c] = BRACKET, 1
        if search.mode[c] == PROBE:
            if s >= search.hi[c]:
                search.mode[c] = DONE
            search.s[c] = min(s + max(abs(value) * inverse_lipschitz, step), search.hi[c])
    elif value > 0.0:
        search.lo[c], search.seen_lo[c] = s, True
        if s >= search.hi[c]:
            search.mode[c] = FAILED
    else:
        search.hi[c], search.seen_hi[c] = s, True
        if s <= search.lo[c]:
            search.mode[c] = FAILED
    if s != search.s_last[c] and not np.isnan(search.f_last[c]):
        search.slope[c] = (value - search.f_last[c]) / (s - search.s_last[c])
    search.s_last[c], search.f_last[c] = s, value
    if search.mode[c] == BRACKET:
        _propose(search, c, tolerance)


@numba.njit(cache=True)
def _propose(search, c, tolerance):
    """Secant step from the last place, kept inside the bracket; an end that only the grid vouches for is asked itself."""
    lo, hi, s, slope = search.lo[c], search.hi[c], search.s_last[c], search.slope[c]
    both = search.seen_lo[c] and search.seen_hi[c]
    if both and hi - lo <= tolerance:
        search.t[c], search.mode[c] = 0.5 * (lo + hi), DONE
        return
    s_new = s - search.f_last[c] / slope if slope < 0.0 else np.inf
    if abs(s_new - s) <= tolerance:
        search.t[c], search.mode[c] = min(max(s_new, lo), hi), DONE
        return
    if search.rounds[c] > 10 or not lo < s_new < hi:
        s_new = 0.5 * (lo + hi) if both else (hi if search.seen_lo[c] else lo)
    search.s[c] = s_new


@numba.njit(cache=True)
def nearest_hits(ray, instance, t, best_t, best_owner):
    """Takes hits into each ray's nearest; equal distances go to the lower instance."""
    for c in range(len(ray)):
        k = ray[c]
        if t[c] < best_t[k] or (t[c] == best_t[k] and t[c] < np.inf and instance[c] < best_owner[k]):
            best_t[k], best_owner[k] = t[c], instance[c]
