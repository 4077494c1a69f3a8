"""From the cells of one asset to the stretches of a ray in which it may be hit."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from compose.cpu.bvh import inverse
from compose.cpu.inlined import inlined

_DENT = 1.0  # how far a distance may dip between two places one cell apart, in bounds of the cell
_VOUCHED = 1 / 3  # the least distance at the end of an uncertain stretch, in sampled bounds of the cell


class Cells(NamedTuple):
    """The indices of all assets, one after another (`compose.cells.AssetCells`)."""

    shape: np.ndarray  # [a, 3] blocks
    cell: np.ndarray  # [a, 3]
    block_at: np.ndarray  # [a] first entry of ``block``
    mixed_at: np.ndarray  # [a] first entry of ``mask``, ``inside`` and ``first``
    plane_at: np.ndarray  # [a] first row of ``plane``
    block: np.ndarray
    mask: np.ndarray
    inside: np.ndarray
    first: np.ndarray
    plane: np.ndarray
    unit: np.ndarray  # [a, 3]
    lipschitz: np.ndarray  # [a]
    proven: np.ndarray  # [a] bool: certified
    drift_at: np.ndarray  # [a] first row of ``drift``
    drift: np.ndarray
    drift_unit: np.ndarray  # [a] 0 for what has none
    phase: np.ndarray  # [a] from -1 to 1: when in its interval the asset is


class Candidates(NamedTuple):
    """Ray stretches ``[ta, tb]`` in which an instance may be hit.

    ``fa`` and ``fb`` are what the cells vouch for at the ends: above 0 a distance that the field has at least, below 0 one
    that it has at most (object units), NaN where they can't tell. A candidate that is vouched to begin outside and to end
    inside is *certain*. ``guess`` is where the planes cross zero, or come closest to it; ``slope`` the distance's change
    per unit of ``t`` there (0 where they don't cross); ``dent`` how far the distance may dip between two places a unit of
    ``t`` apart; ``rate`` its largest change per unit of ``t``.
    """

    ta: np.ndarray
    tb: np.ndarray
    fa: np.ndarray
    fb: np.ndarray
    guess: np.ndarray
    slope: np.ndarray
    dent: np.ndarray
    rate: np.ndarray
    instance: np.ndarray


def room_for(n: int, room: int) -> Candidates:
    """Rows for ``room`` candidates of each of ``n`` rays."""
    return Candidates._make([*np.empty((8, n, room)), np.empty((n, room), dtype=np.int64)])


@intrinsic
def _bits(typingctx, value):
    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


_count_bits: Any = _bits  # as a compiled function calls it: without the context


@inlined
def march(cells, a, transforms, ox, oy, oz, qx, qy, qz, t_in, t_out, t_enough, widen, found, k, count, instance):
    """Marches one asset's cells along a ray in its object frame and appends candidates to row ``k`` of ``found``.

    From ``t_enough`` on no new candidate matters; one that was begun is finished, so that candidates never depend on what
    other instances hide: coincident instances get equal ones, and equal bits for their hits.

    A stretch is uncertain while the plane of its cell is within the cell's bound of zero; it goes on over the borders of
    cells. The march stops behind the first certain one. ``widen`` scales the bounds. ``count[k]`` may exceed the row: then
    the row is not whole. Returns the end of the certain candidate, or inf.
    """
    nx, ny, nz = cells.shape[a, 0], cells.shape[a, 1], cells.shape[a, 2]
    cx, cy, cz = cells.cell[a, 0], cells.cell[a, 1], cells.cell[a, 2]
    # In cell units: u = o + t d.
    ux, uy, uz = (
        (ox - transforms.box_lo[a, 0]) / cx,
        (oy - transforms.box_lo[a, 1]) / cy,
        (oz - transforms.box_lo[a, 2]) / cz,
    )
    dx, dy, dz = qx / cx, qy / cy, qz / cz
    ix, iy, iz = inverse(dx), inverse(dy), inverse(dz)
    ahead_x, ahead_y, ahead_z = dx > 0, dy > 0, dz > 0
    # In t: a ten-millionth of a cell, to be past a border; far away float64 itself is coarser.
    nudge = max(1e-7 / np.sqrt(dx * dx + dy * dy + dz * dz), 4 * np.spacing(max(abs(t_in), abs(t_out))))
    speed = np.sqrt(qx * qx + qy * qy + qz * qz)
    rate, per_cell = cells.lipschitz[a] * speed, _DENT * speed / min(cx, cy, cz)
    g_unit, e_unit, m_unit = cells.unit[a, 0], widen * cells.unit[a, 1], cells.unit[a, 2]
    drifts, drift = cells.drift_unit[a] > 0.0, cells.drift_unit[a] * cells.phase[a]
    vouched = 1e-9 if cells.proven[a] else _VOUCHED
    sign = 0  # of the last certain stretch
    # An uncertain stretch that has not ended yet; ``least`` is the plane's smallest distance from zero so far.
    opened, ta, fa, guess, slope, dent, least = False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    step_x, step_y, step_z = 1 if ahead_x else -1, 1 if ahead_y else -1, 1 if ahead_z else -1
    block, mask = -1, np.uint64(0)
    i, j, h, bi, bj, bh = 0, 0, 0, 0, 0, 0
    next_x, next_y, next_z = 0.0, 0.0, 0.0
    t = t_in
    while t < t_out and (opened or t <= t_enough):
        after, end = 0, 0  # the sign at the start of this piece and at its end, 0 where unknown
        value, change, e, bend, leave, least_leave = 0.0, 0.0, 0.0, 0.0, 0.0, t
        if block < 0 or (i >> 2) != bi or (j >> 2) != bj or (h >> 2) != bh:  # a block is entered: find out which
            i = min(max(int(np.floor(ux + (t + nudge) * dx)), 0), 4 * nx - 1)
            j = min(max(int(np.floor(uy + (t + nudge) * dy)), 0), 4 * ny - 1)
            h = min(max(int(np.floor(uz + (t + nudge) * dz)), 0), 4 * nz - 1)
            bi, bj, bh, least_leave = i >> 2, j >> 2, h >> 2, t + nudge
            block = np.int64(cells.block[cells.block_at[a] + (bi * ny + bj) * nz + bh])
            if block < 0:
                after = -1 if (-1 - block) & 1 else 1
                away = ((-1 - block) >> 1) - 1
                leave = min(
                    ((bi + 1 + away if ahead_x else bi - away) * 4 - ux) * ix if dx != 0.0 else np.inf,
                    ((bj + 1 + away if ahead_y else bj - away) * 4 - uy) * iy if dy != 0.0 else np.inf,
                    ((bh + 1 + away if ahead_z else bh - away) * 4 - uz) * iz if dz != 0.0 else np.inf,
                )
            else:
                mask = cells.mask[cells.mixed_at[a] + block]
                next_x = ((i + 1 if ahead_x else i) - ux) * ix if dx != 0.0 else np.inf
                next_y = ((j + 1 if ahead_y else j) - uy) * iy if dy != 0.0 else np.inf
                next_z = ((h + 1 if ahead_z else h) - uz) * iz if dz != 0.0 else np.inf
        if block >= 0:
            bit = np.uint64(((i & 3) << 4) | ((j & 3) << 2) | (h & 3))
            leave = min(next_x, next_y, next_z)
            if (mask >> bit) & np.uint64(1):
                below = mask & ((np.uint64(1) << bit) - np.uint64(1))
                row = cells.plane_at[a] + cells.first[cells.mixed_at[a] + block] + np.int64(_count_bits(below))
                gx, gy, gz = cells.plane[row, 0] * g_unit, cells.plane[row, 1] * g_unit, cells.plane[row, 2] * g_unit
                e = np.uint8(cells.plane[row, 3]) * e_unit
                value = ((np.int64(cells.plane[row, 5]) << 8) | np.uint8(cells.plane[row, 4])) * m_unit
                value += gx * cx * (ux + t * dx - i - 0.5) + gy * cy * (uy + t * dy - j - 0.5)
                value += gz * cz * (uz + t * dz - h - 0.5)
                bend = e
                if drifts:
                    row += cells.drift_at[a] - cells.plane_at[a]
                    value += cells.drift[row, 0] * drift
                    bend *= np.uint8(cells.drift[row, 1]) / 255
                change = gx * qx + gy * qy + gz * qz
            else:
                after = -1 if (cells.inside[cells.mixed_at[a] + block] >> bit) & np.uint64(1) else 1
            if leave == next_x:
                i, next_x = i + step_x, next_x + step_x * ix
            elif leave == next_y:
                j, next_y = j + step_y, next_y + step_y * iy
            else:
                h, next_z = h + step_z, next_z + step_z * iz
        leave = min(max(leave, least_leave), t_out)
        last = value + change * (leave - t)
        if e > 0.0:
            after = 1 if value > e else (-1 if value < -e else 0)
            end = 1 if last > e else (-1 if last < -e else 0)
        else:
            end = after
        if after != 0:  # the sign is known where the ray enters
            if not opened and sign > 0 and after < 0:
                # Two certain neighbours that deny each other: the sample misled. The field shall decide.
                opened, ta, fa = True, max(t - (leave - t), t_in), np.nan
                guess, slope, dent = t, 0.0, per_cell * e_unit * 255
            if opened:
                opened = False
                fb = after * vouched * max(e, e_unit)
                append(found, k, count, ta, t, fa, fb, guess, slope, dent, rate, instance)
                if fa > 0.0 and fb < 0.0:
                    return t
            sign = after
        if e > 0.0 and (after == 0 or end != after):
            if not opened:
                ta = t if after == 0 else t + (value - after * e) / -change
                # Where no uncertain cell was before, the last certain one vouches for the sign, and this one for the distance.
                opened, fa = True, sign * vouched * e if sign != 0 else np.nan
                guess, slope, dent, least = ta, 0.0, 0.0, np.inf
            dent = max(dent, per_cell * bend)
            if slope == 0.0:
                if change < 0.0 and last <= 0.0:
                    guess, slope = t + max(value, 0.0) / -change, change
                elif min(abs(value), abs(last)) < least:
                    least = min(abs(value), abs(last))
                    guess = t if abs(value) < abs(last) else leave
            if end != 0:
                tb = leave - (last - end * e) / change
                opened = False
                append(found, k, count, ta, tb, fa, end * vouched * e, guess, slope, dent, rate, instance)
                if fa > 0.0 and end < 0:
                    return tb
        if end != 0:
            sign = end
        t = leave
    if opened:
        append(found, k, count, ta, t_out, fa, np.nan, guess, slope, dent, rate, instance)
    return np.inf


@inlined
def append(found, k, count, ta, tb, fa, fb, guess, slope, dent, rate, instance):
    if fa < 0.0 and fb > 0.0:  # the ray leaves: no hit
        return
    c = count[k]
    count[k] += 1
    if c < found.ta.shape[1]:
        tb = max(ta, tb)
        guess = min(max(guess, ta), tb)
        put(found, k, c, ta, (tb, fa, fb, guess, slope, dent, rate), instance)


@inlined
def row_of(candidates, k, c):
    return (
        candidates.tb[k, c], candidates.fa[k, c], candidates.fb[k, c], candidates.guess[k, c], candidates.slope[k, c],
        candidates.dent[k, c], candidates.rate[k, c],
    )  # fmt: skip


@inlined
def put(candidates, k, c, ta, row, instance):
    candidates.ta[k, c], candidates.instance[k, c] = ta, instance
    candidates.tb[k, c], candidates.fa[k, c], candidates.fb[k, c] = row[0], row[1], row[2]
    candidates.guess[k, c], candidates.slope[k, c] = row[3], row[4]
    candidates.dent[k, c], candidates.rate[k, c] = row[5], row[6]
