"""Compiled traversal for rays: tree and cells give candidate stretches, and the networks say where in them a ray hits.

Plain Python functions compiled by numba. A thread takes a tile of neighbouring rays through all stages: it collects the candidates
of each ray, then asks the networks in rounds, the next point of every ray of the tile together, sorted by asset. Rays don't look
at each other: a tile only makes their questions meet. All arithmetic on positions is float64 in the frame of the asset.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from compose.cpu.bvh import EMPTY, INNER, STACK, box_span, inverse
from compose.cpu.kernels import to_object, turn_to_object
from compose.cpu.lean import lean
from compose.cpu.siren_kernel import LANES, distances, widest

TILE = 512  # rays that one thread takes at a time
_PACKET = 64  # neighbouring rays that walk the tree together, if they go about the same way
_LISTED = 128  # most leaves that a packet may meet; beyond, each ray walks alone
# Up to this many cells long, a stretch with different signs at its ends is taken to hold one change of sign.
_SHORT, _SHORT_GRAZING = 1.5, 0.5
_STEEP = 2.0  # a ray grazes where the distance changes by less than this many bounds of the cell over its length
_DENT = 1.0  # how far a distance may dip between two places one cell apart, in bounds of the cell
_VOUCHED = 1 / 3  # the least distance at the end of an uncertain stretch, in sampled bounds of the cell
DEPTH = 16  # of the stack of a search


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


class Asked(NamedTuple):
    """The rays of a trace and what is wanted of them."""

    origins: np.ndarray  # [n, 3]
    directions: np.ndarray  # [n, 3]
    t_min: np.ndarray  # [n]
    t_max: np.ndarray  # [n]
    widen: float  # factor on the bounds of the cells
    any_hit: bool  # whether one hit, not the first, is all that is wanted


class Found(NamedTuple):
    """What is known of each ray."""

    t: np.ndarray  # [n] first hit, inf for none
    owner: np.ndarray  # [n]
    state: np.ndarray  # [n] int8: FINE, FULL (more candidates than room: nothing is known), WRONG (the cells misled)
    rest: Candidates  # [n, room] candidates that are left to others (assets without packed networks), [0, 0] if there can be none
    n_rest: np.ndarray  # [n]
    evaluations: np.ndarray  # [tiles]
    candidates: np.ndarray  # [tiles]


FINE, FULL, WRONG = 0, 1, 2


def room_for(n: int, room: int) -> Candidates:
    """Rows for ``room`` candidates of each of ``n`` rays."""
    return Candidates._make([*np.empty((8, n, room)), np.empty((n, room), dtype=np.int64)])


@intrinsic
def _bits(typingctx, value):
    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


_count_bits: Any = _bits  # as a compiled function calls it: without the context


# -- from the cells of one asset to candidates -----------------------------------------------------------------------------


@lean
def _march(cells, a, stand, ox, oy, oz, qx, qy, qz, t_in, t_out, t_enough, widen, found, k, count, instance):
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
    ux, uy, uz = (ox - stand.box_lo[a, 0]) / cx, (oy - stand.box_lo[a, 1]) / cy, (oz - stand.box_lo[a, 2]) / cz
    dx, dy, dz = qx / cx, qy / cy, qz / cz
    ix, iy, iz = inverse(dx), inverse(dy), inverse(dz)
    ahead_x, ahead_y, ahead_z = dx > 0, dy > 0, dz > 0
    # In t: a ten-millionth of a cell, to be past a border; far away float64 itself is coarser.
    nudge = max(1e-7 / np.sqrt(dx * dx + dy * dy + dz * dz), 4 * np.spacing(max(abs(t_in), abs(t_out))))
    speed = np.sqrt(qx * qx + qy * qy + qz * qz)
    rate, per_cell = cells.lipschitz[a] * speed, _DENT * speed / min(cx, cy, cz)
    g_unit, e_unit, m_unit = cells.unit[a, 0], widen * cells.unit[a, 1], cells.unit[a, 2]
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
        value, change, e, leave, least_leave = 0.0, 0.0, 0.0, 0.0, t
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
                _append(found, k, count, ta, t, fa, fb, guess, slope, dent, rate, instance)
                if fa > 0.0 and fb < 0.0:
                    return t
            sign = after
        if e > 0.0 and (after == 0 or end != after):
            if not opened:
                ta = t if after == 0 else t + (value - after * e) / -change
                # Where no uncertain cell was before, the last certain one vouches for the sign, and this one for the distance.
                opened, fa = True, sign * vouched * e if sign != 0 else np.nan
                guess, slope, dent, least = ta, 0.0, 0.0, np.inf
            dent = max(dent, per_cell * e)
            if slope == 0.0:
                if change < 0.0 and last <= 0.0:
                    guess, slope = t + max(value, 0.0) / -change, change
                elif min(abs(value), abs(last)) < least:
                    least = min(abs(value), abs(last))
                    guess = t if abs(value) < abs(last) else leave
            if end != 0:
                tb = leave - (last - end * e) / change
                opened = False
                _append(found, k, count, ta, tb, fa, end * vouched * e, guess, slope, dent, rate, instance)
                if fa > 0.0 and end < 0:
                    return tb
        if end != 0:
            sign = end
        t = leave
    if opened:
        _append(found, k, count, ta, t_out, fa, np.nan, guess, slope, dent, rate, instance)
    return np.inf


@lean
def _append(found, k, count, ta, tb, fa, fb, guess, slope, dent, rate, instance):
    if fa < 0.0 and fb > 0.0:  # the ray leaves: no hit
        return
    c = count[k]
    count[k] += 1
    if c < found.ta.shape[1]:
        tb = max(ta, tb)
        guess = min(max(guess, ta), tb)
        _put(found, k, c, ta, (tb, fa, fb, guess, slope, dent, rate), instance)


# -- from the tree to candidates -------------------------------------------------------------------------------------------


@lean
def _node_enter(tree, node, ox, oy, oz, ix, iy, iz, t_min, t_max):
    """Where a ray enters a node's box, inf for a miss. Boxes are a hair wider than exact, far more than products with inverses
    are off."""
    enter, leave = box_span(tree.lo, tree.hi, node, ox, oy, oz, ix, iy, iz, t_min, t_max)
    return enter if enter <= leave else np.inf


@lean
def _try(scene, asked, ray, i, certain_t, found, k, count):
    """The candidates of one instance; returns the end of a certain one, or inf."""
    stand, a = scene.stand, scene.stand.asset[i]
    px, py, pz = to_object(stand, i, asked.origins[ray, 0], asked.origins[ray, 1], asked.origins[ray, 2])
    qx, qy, qz = turn_to_object(stand, i, asked.directions[ray, 0], asked.directions[ray, 1], asked.directions[ray, 2])
    enter, leave = box_span(
        stand.box_lo, stand.box_hi, a, px, py, pz, inverse(qx), inverse(qy), inverse(qz), asked.t_min[ray], asked.t_max[ray]
    )  # fmt: skip
    if enter >= leave or enter > certain_t:
        return np.inf
    return _march(
        scene.cells, a, stand, px, py, pz, qx, qy, qz, enter, leave, certain_t, asked.widen, found, k, count, i
    )


@lean
def _find(scene, asked, ray, found, k, count, stay, n_leaves):
    """Candidates of a ray up to the end of its first certain one, nearest boxes first, into row ``k``. Returns whether the ray is
    known to be blocked (``any_hit`` only).

    It tries the ``n_leaves`` leaves that its packet may meet, which are sorted by the least ``t`` at which any ray of it
    may; where there is no such list (-1), it walks the tree.
    """
    tree, stack, stack_t = scene.tree, stay.stack, stay.stack_t
    ox, oy, oz = asked.origins[ray, 0], asked.origins[ray, 1], asked.origins[ray, 2]
    ix = inverse(asked.directions[ray, 0])
    iy = inverse(asked.directions[ray, 1])
    iz = inverse(asked.directions[ray, 2])
    t_min, certain_t = asked.t_min[ray], asked.t_max[ray]
    listed, top = 0, 0
    count[k] = 0
    if n_leaves < 0:
        enter = _node_enter(tree, 1, ox, oy, oz, ix, iy, iz, t_min, certain_t)
        if enter < np.inf:
            stack[0], stack_t[0], top = 1, enter, 1
    while True:
        if n_leaves >= 0:
            if listed == n_leaves or stay.leaf_t[listed] > certain_t:
                return False
            node = stay.leaves[listed]
            listed += 1
            if _node_enter(tree, node, ox, oy, oz, ix, iy, iz, t_min, certain_t) == np.inf:
                continue
        else:
            if top == 0:
                return False
            top -= 1
            node = stack[top]
            if stack_t[top] > certain_t:
                continue
            if tree.instance[node] == INNER:
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
                continue
            if tree.instance[node] == EMPTY:
                continue
        end = _try(scene, asked, ray, tree.instance[node], certain_t, found, k, count)
        certain_t = min(certain_t, end)
        if asked.any_hit and end < np.inf:
            return True


@lean
def _leaves_of_packet(tree, asked, first, last, stack, leaves, leaf_t, bounds):
    """Leaves that any of the rays ``first`` up to before ``last`` may meet, sorted; -1 where there are too many to be worth it.

    Along the packet's main axis all rays go the same way; over a stretch of it their other two coordinates stay between
    lines whose slopes and starts are the extreme ones of the packet. ``bounds [12]`` is room.
    """
    axis = 0
    for c in range(3):
        if abs(asked.directions[first, c]) > abs(asked.directions[first, axis]):
            axis = c
    way = 1.0 if asked.directions[first, axis] > 0 else -1.0
    lo_o, hi_o, lo_s, hi_s = 0, 3, 6, 9  # extreme origins and slopes
    for c in range(3):
        bounds[lo_o + c], bounds[hi_o + c], bounds[lo_s + c], bounds[hi_s + c] = np.inf, -np.inf, np.inf, -np.inf
    fastest, t_min = 0.0, np.inf
    for ray in range(first, last):
        along = way * asked.directions[ray, axis]
        if along < 0.3:
            return -1
        fastest, t_min = max(fastest, along), min(t_min, asked.t_min[ray])
        for c in range(3):
            slope = asked.directions[ray, c] / along
            bounds[lo_o + c] = min(bounds[lo_o + c], asked.origins[ray, c])
            bounds[hi_o + c] = max(bounds[hi_o + c], asked.origins[ray, c])
            bounds[lo_s + c] = min(bounds[lo_s + c], slope)
            bounds[hi_s + c] = max(bounds[hi_s + c], slope)
    if t_min < 0.0:  # some look behind themselves
        return -1
    n, top = 0, 1
    stack[0] = 1
    while top > 0:
        top -= 1
        node = stack[top]
        if tree.instance[node] == EMPTY:
            continue
        # How far along the axis the box begins and ends, for the ray that starts nearest and the one that starts farthest.
        if way > 0:
            near, far = tree.lo[node, axis] - bounds[hi_o + axis], tree.hi[node, axis] - bounds[lo_o + axis]
        else:
            near, far = bounds[lo_o + axis] - tree.hi[node, axis], bounds[hi_o + axis] - tree.lo[node, axis]
        if far < 0.0:
            continue
        near = max(near, 0.0)
        met = True
        for c in range(3):
            if c != axis:
                lo = bounds[lo_o + c] + min(bounds[lo_s + c] * near, bounds[lo_s + c] * far)
                hi = bounds[hi_o + c] + max(bounds[hi_s + c] * near, bounds[hi_s + c] * far)
                margin = 1e-9 * (abs(lo) + abs(hi))
                met = met and hi + margin >= tree.lo[node, c] and lo - margin <= tree.hi[node, c]
        if not met:
            continue
        if tree.instance[node] == INNER:
            stack[top], stack[top + 1] = 2 * node, 2 * node + 1
            top += 2
            continue
        if n == len(leaves):
            return -1
        t = max(near / fastest, t_min) if near > 0.0 else t_min
        place = n
        while place > 0 and leaf_t[place - 1] > t:
            leaves[place], leaf_t[place] = leaves[place - 1], leaf_t[place - 1]
            place -= 1
        leaves[place], leaf_t[place] = node, t
        n += 1
    return n


@lean
def _sort_and_part(scene, candidates, k, n, rest, ray, n_rest, certain_t):
    """Sorts row ``k`` by where its candidates begin; those of assets without packed networks go to ``rest``. Returns how
    many stay."""
    stay = 0
    for c in range(n):
        ta, i = candidates.ta[k, c], candidates.instance[k, c]
        if ta > certain_t:  # behind the end of a certain one
            continue
        row = _row(candidates, k, c)
        if scene.nets.at[scene.stand.asset[i]] < 0:
            _put(rest, ray, n_rest[ray], ta, row, i)
            n_rest[ray] += 1
            continue
        place = stay
        while place > 0 and candidates.ta[k, place - 1] > ta:
            _put(
                candidates,
                k,
                place,
                candidates.ta[k, place - 1],
                _row(candidates, k, place - 1),
                candidates.instance[k, place - 1],
            )
            place -= 1
        _put(candidates, k, place, ta, row, i)
        stay += 1
    return stay


@lean
def _row(candidates, k, c):
    return (
        candidates.tb[k, c], candidates.fa[k, c], candidates.fb[k, c], candidates.guess[k, c], candidates.slope[k, c],
        candidates.dent[k, c], candidates.rate[k, c],
    )  # fmt: skip


@lean
def _put(candidates, k, c, ta, row, instance):
    candidates.ta[k, c], candidates.instance[k, c] = ta, instance
    candidates.tb[k, c], candidates.fa[k, c], candidates.fb[k, c] = row[0], row[1], row[2]
    candidates.guess[k, c], candidates.slope[k, c] = row[3], row[4]
    candidates.dent[k, c], candidates.rate[k, c] = row[5], row[6]


# -- from candidates to hits -------------------------------------------------------------------------------------------------

PROBE, BRACKET, DONE, FAILED = 0, 1, 2, 3


class Search(NamedTuple):
    """The state of searches for a candidate's first change of sign from + to -.

    While probing, ``lo`` is the place up to which there is none, and places ahead of it whose distance is known wait on a
    stack, the nearest on top.
    """

    mode: (
        np.ndarray
    )  # [c] int8: PROBE looks where the sign changes, BRACKET closes in, DONE, FAILED: the cells were wrong
    s: np.ndarray  # [c] where the field is asked next
    lo: np.ndarray  # [c] last place outside
    hi: np.ndarray  # [c] first place inside
    f_lo: np.ndarray  # [c] distance at ``lo``
    seen_lo: np.ndarray  # [c] bool: the field itself said so, not only the cells
    seen_hi: np.ndarray
    s_last: np.ndarray  # [c] where the field was asked last, and what it said; NaN before
    f_last: np.ndarray
    slope: np.ndarray  # [c] change of distance per unit of t; 0 where unknown
    t: np.ndarray  # [c] the result, inf for no hit
    rounds: np.ndarray  # [c] of closing in
    stack_s: np.ndarray  # [c, DEPTH]
    stack_f: np.ndarray
    waiting: np.ndarray  # [c] height of the stack


@numba.njit(cache=True)
def search_of(n):
    """Room for ``n`` searches."""
    return Search(
        np.empty(n, dtype=np.int8), np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n, dtype=np.bool_),
        np.empty(n, dtype=np.bool_), np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n, dtype=np.int64),
        np.empty((n, DEPTH)), np.empty((n, DEPTH)), np.empty(n, dtype=np.int64),
    )  # fmt: skip


@lean
def begin(scene, search, r, candidates, k, c):
    """Sets search ``r`` to candidate ``[k, c]``."""
    search.mode[r], search.t[r], search.rounds[r] = PROBE, np.inf, 0
    search.lo[r], search.f_lo[r], search.seen_lo[r] = candidates.ta[k, c], candidates.fa[k, c], False
    search.stack_s[r, 0], search.stack_f[r, 0], search.waiting[r] = candidates.tb[k, c], candidates.fb[k, c], 1
    search.s_last[r], search.f_last[r], search.slope[r] = np.nan, np.nan, 0.0
    search.seen_hi[r] = False  # while probing: of the lowest on the stack
    if np.isnan(search.f_lo[r]):
        search.s[r] = search.lo[r]
    else:
        _look(scene, search, r, candidates, k, c)


@lean
def _look(scene, search, r, candidates, k, c):
    """Passes over the stretches ahead that can hold no hit, and asks within the first that may, or closes in on a change of sign.

    Between two places of one sign there is taken to be no other sign where the field can't dip (``dent``) or change (``rate``) that
    much: at a share u of a gap, a bend or a crease reaches at most 4 u (1 - u) of the dip in its middle below the line between
    both, so it misses zero where the roots of both distances add up to more than that of 4 dips. Between two of different signs
    there is taken to be one change of sign, if they are not much more than a cell apart and the ray does not graze, else half of
    a cell. With a proven index only what is proven counts (``rate``), else places go on being asked down to the smallest step.
    """
    i = candidates.instance[k, c]
    a = scene.stand.asset[i]
    step = precision(scene, i, candidates.tb[k, c])[1]
    cell = scene.stand.scale[i] * max(scene.cells.cell[a, 0], scene.cells.cell[a, 1], scene.cells.cell[a, 2])
    dent = candidates.dent[k, c]
    short = (_SHORT_GRAZING if -candidates.slope[k, c] < _STEEP * dent else _SHORT) * cell
    if scene.cells.proven[a]:
        dent, short = np.inf, 0.0
    while search.waiting[r] > 0:
        top = search.waiting[r] - 1
        lo, f_lo, hi, f_hi = search.lo[r], search.f_lo[r], search.stack_s[r, top], search.stack_f[r, top]
        if np.isnan(f_hi):
            search.s[r] = hi
            return
        gap = hi - lo
        share = 0.5  # of the gap: where the field may come closest to zero
        if (f_lo > 0.0) == (f_hi > 0.0):
            away_lo, away_hi, dip = abs(f_lo), abs(f_hi), dent * gap
            over = (np.sqrt(away_lo) + np.sqrt(away_hi)) ** 2 > 4.0 * dip
            over = over or away_lo + away_hi > candidates.rate[k, c] * gap
            if 0.0 < dip < np.inf:
                share = min(max(0.5 + 0.125 * (away_lo - away_hi) / dip, 0.2), 0.8)
        else:
            over = gap <= short
        if not over and gap > step and top + 1 < DEPTH:
            guess = candidates.guess[k, c]
            search.s[r] = guess if lo + 0.1 * gap < guess < hi - 0.1 * gap else lo + share * gap
            return
        seen = search.seen_hi[r] or top > 0
        if f_lo > 0.0 and f_hi <= 0.0:
            search.mode[r], search.hi[r], search.seen_hi[r] = BRACKET, hi, seen
            if search.seen_lo[r] and seen:
                search.slope[r] = (f_hi - f_lo) / gap
                search.s_last[r], search.f_last[r] = (lo, f_lo) if abs(f_lo) < abs(f_hi) else (hi, f_hi)
            elif search.seen_lo[r]:
                search.s_last[r], search.f_last[r], search.slope[r] = lo, f_lo, candidates.slope[k, c]
            elif seen:
                search.s_last[r], search.f_last[r], search.slope[r] = hi, f_hi, candidates.slope[k, c]
            else:  # nothing was asked yet
                search.slope[r] = candidates.slope[k, c]
                guess = candidates.guess[k, c]
                search.s[r] = guess if search.slope[r] < 0.0 else 0.5 * (lo + hi)
                return
            _propose(scene, search, r, candidates, k, c, 0.0, 0.0)
            return
        search.lo[r], search.f_lo[r], search.seen_lo[r] = hi, f_hi, seen
        search.waiting[r] = top
    search.mode[r] = DONE


@lean
def take_in(scene, search, r, candidates, k, c, value):
    """Takes in the distance ``value`` found at ``s`` by search ``r`` for candidate ``[k, c]`` and says where to ask next."""
    s = search.s[r]
    if search.mode[r] == PROBE:
        top = search.waiting[r] - 1
        if s == search.lo[r]:
            search.f_lo[r], search.seen_lo[r] = value, True
        elif s == search.stack_s[r, top]:
            search.stack_f[r, top] = value
            search.seen_hi[r] = search.seen_hi[r] or top == 0
        else:
            search.stack_s[r, top + 1], search.stack_f[r, top + 1] = s, value
            search.waiting[r] = top + 2
        _look(scene, search, r, candidates, k, c)
        return
    search.rounds[r] += 1
    if value > 0.0:
        search.lo[r], search.seen_lo[r] = s, True
        if s >= search.hi[r]:
            search.mode[r] = FAILED
            return
    else:
        search.hi[r], search.seen_hi[r] = s, True
        if s <= search.lo[r]:
            search.mode[r] = FAILED
            return
    known, apart = 0.0, s - search.s_last[r]
    if apart != 0.0 and not np.isnan(search.f_last[r]):
        known, search.slope[r] = search.slope[r], (value - search.f_last[r]) / apart
    search.s_last[r], search.f_last[r] = s, value
    _propose(scene, search, r, candidates, k, c, known, abs(apart))


@lean
def _propose(scene, search, r, candidates, k, c, known, apart):
    """Secant step from the last place, kept inside the bracket; an end that only the cells vouch for is asked itself.

    A step is taken unseen where it is short enough, or where the slope, from places ``apart``, is so sure that the rest of
    its error is: it agrees with the one ``known`` before (0 if there was none), and the field can't bend more than its
    cells say.
    """
    lo, hi, s, slope = search.lo[r], search.hi[r], search.s_last[r], search.slope[r]
    i = candidates.instance[k, c]
    tolerance = precision(scene, i, candidates.tb[k, c])[0]
    both = search.seen_lo[r] and search.seen_hi[r]
    if both and hi - lo <= tolerance:
        search.t[r], search.mode[r] = 0.5 * (lo + hi), DONE
        return
    s_new = s - search.f_last[r] / slope if slope < 0.0 else np.inf
    error = abs(s_new - s)
    if known < 0.0 and lo < s_new < hi:
        a = scene.stand.asset[i]
        cell = scene.stand.scale[i] * min(scene.cells.cell[a, 0], scene.cells.cell[a, 1], scene.cells.cell[a, 2])
        # A parabola that strays from its line by the bound over a cell has a second derivative of 8 bounds.
        reach, doubt = (0.5 * apart + error) / cell, abs(slope - known)
        if search.rounds[r] == 2:
            # Known from a cell's plane, so over about a cell: a bend takes an eighth of that at least to make it so wrong.
            doubt *= min(8.0 * reach, 1.0)
        doubt = max(doubt, 8.0 * candidates.dent[k, c] * reach)
        error *= min(doubt / -slope, 1.0)
    if error <= tolerance and search.rounds[r] > 0:
        search.t[r], search.mode[r] = min(max(s_new, lo), hi), DONE
        return
    if search.rounds[r] > 10 or not lo < s_new < hi:
        s_new = 0.5 * (lo + hi) if both else (hi if search.seen_lo[r] else lo)
    search.s[r] = s_new


@lean
def misled(search, r, candidates, k, c):
    """Whether a search that is over shows that the cells were wrong."""
    certain = candidates.fa[k, c] > 0.0 and candidates.fb[k, c] < 0.0
    return search.mode[r] == FAILED or (certain and search.t[r] == np.inf)


@lean
def _next_candidate(scene, search, r, candidates, n, at, best_t):
    """Begins the next candidate of ray ``r`` that can hold a hit before ``best_t``; whether there is one."""
    at[r] += 1
    while at[r] < n[r] and candidates.ta[r, at[r]] <= best_t:
        begin(scene, search, r, candidates, r, at[r])
        if search.mode[r] < DONE:
            return True
        at[r] += 1
    return False


@lean
def precision(scene, instance, tb):
    """Tolerance and smallest step of a search. Far from a ray's origin float64 itself is coarser than the wanted precision:
    a search must still come to its end."""
    finest = 4 * np.spacing(abs(tb))
    return max(scene.tolerance[instance], finest), max(scene.step[instance], finest)


class _Room(NamedTuple):
    """What a thread writes to while it works on a tile."""

    candidates: Candidates  # [TILE, room]
    count: np.ndarray  # [TILE]
    stack: np.ndarray  # [STACK] nodes to visit
    stack_t: np.ndarray  # [STACK] where the ray enters them
    leaves: np.ndarray  # [_LISTED] of the tree that a packet may meet
    leaf_t: np.ndarray  # [_LISTED] where it may at the earliest
    bounds: np.ndarray  # [12]
    search: Search  # [TILE]
    at: np.ndarray  # [TILE] the candidate that is searched
    active: np.ndarray  # [TILE] rays with something to ask
    key: np.ndarray  # [TILE] by which they are sorted
    points: np.ndarray  # [LANES, 3]
    values: np.ndarray  # [LANES]
    layers: np.ndarray  # [3, widest * LANES]


@numba.njit(cache=True)
def _room(scene, room):
    return _Room(
        Candidates(
            np.empty((TILE, room)), np.empty((TILE, room)), np.empty((TILE, room)), np.empty((TILE, room)),
            np.empty((TILE, room)), np.empty((TILE, room)), np.empty((TILE, room)), np.empty((TILE, room)),
            np.empty((TILE, room), dtype=np.int64),
        ),
        np.empty(TILE, dtype=np.int64), np.empty(STACK, dtype=np.int64), np.empty(STACK), np.empty(_LISTED, dtype=np.int64),
        np.empty(_LISTED), np.empty(12), search_of(TILE), np.empty(TILE, dtype=np.int64), np.empty(TILE, dtype=np.int64),
        np.empty(TILE, dtype=np.int64), np.empty((LANES, 3)), np.empty(LANES, dtype=np.float32),
        np.empty((3, widest(scene.nets) * LANES), dtype=np.float32),
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def trace_tiles(scene, asked, room, found, first_tile, last_tile, search=True):
    """Traces the rays of tiles ``first_tile`` up to before ``last_tile``, ``TILE`` rays each, into ``found``. Without
    ``search`` it stops when it has the candidates (to measure what they cost)."""
    stay = _room(scene, room)
    for tile in range(first_tile, last_tile):
        start, size = tile * TILE, min(TILE, len(asked.origins) - tile * TILE)
        found.candidates[tile] = _collect(scene, asked, start, size, room, stay, found)
        if search:
            found.evaluations[tile] = _resolve(scene, asked, start, size, stay, found)


@lean
def _collect(scene, asked, start, size, room, stay, found):
    """The candidates of a tile's rays, sorted; returns how many there are."""
    candidates, count, total, n_leaves = stay.candidates, stay.count, 0, 0
    for k in range(size):
        ray = start + k
        found.t[ray], found.owner[ray], found.state[ray], found.n_rest[ray] = np.inf, -1, FINE, 0
        if k % _PACKET == 0:
            last = min(ray + _PACKET, start + size)
            n_leaves = _leaves_of_packet(
                scene.tree, asked, ray, last, stay.stack, stay.leaves, stay.leaf_t, stay.bounds
            )
        blocked = _find(scene, asked, ray, candidates, k, count, stay, n_leaves)
        if blocked:
            found.t[ray], count[k] = 0.0, 0
            continue
        if count[k] > room:
            found.state[ray], count[k] = FULL, 0
            continue
        certain_t = np.inf
        for c in range(count[k]):
            if candidates.fa[k, c] > 0.0 and candidates.fb[k, c] < 0.0:
                certain_t = min(certain_t, candidates.tb[k, c])
        count[k] = _sort_and_part(scene, candidates, k, count[k], found.rest, ray, found.n_rest, certain_t)
        total += count[k] + found.n_rest[ray]
    return total


@lean
def _resolve(scene, asked, start, size, stay, found):
    """Searches the candidates of a tile's rays, one of each ray at a time, near to far; returns the number of evaluations."""
    stand, candidates, search, at, active = scene.stand, stay.candidates, stay.search, stay.at, stay.active
    n_active, total = size, 0
    for k in range(size):
        at[k], active[k], search.mode[k] = -1, k, DONE
    while True:
        n_next = 0
        for r in range(n_active):
            k = active[r]
            if search.mode[k] < DONE or _next_candidate(
                scene, search, k, candidates, stay.count, at, found.t[start + k]
            ):
                active[n_next] = k
                n_next += 1
        n_active = n_next
        if n_active == 0:
            return total
        total += n_active
        for r in range(n_active):
            k = active[r]
            stay.key[k] = stand.asset[candidates.instance[k, at[k]]] * size + k
        _sort_by_key(active, n_active, stay.key)
        first = 0
        while first < n_active:
            a = stay.key[active[first]] // size
            n = 1
            while first + n < n_active and n < LANES and stay.key[active[first + n]] // size == a:
                n += 1
            for r in range(n):
                k = active[first + r]
                ray, s = start + k, search.s[k]
                stay.points[r, 0], stay.points[r, 1], stay.points[r, 2] = to_object(
                    stand,
                    candidates.instance[k, at[k]],
                    asked.origins[ray, 0] + s * asked.directions[ray, 0],
                    asked.origins[ray, 1] + s * asked.directions[ray, 1],
                    asked.origins[ray, 2] + s * asked.directions[ray, 2],
                )
            distances(scene.nets, a, stay.points, 0, n, stay.layers, stay.values)
            for r in range(n):
                k = active[first + r]
                _step(scene, search, k, candidates, stay.count, at, stay.values[r], found, start + k, asked.any_hit)
            first += n


@lean
def _sort_by_key(order, n, key):
    """Shell's sort; after the first round the order hardly changes."""
    gap = 1
    while 3 * gap + 1 < n:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            moved, j = order[i], i
            while j >= gap and key[order[j - gap]] > key[moved]:
                order[j] = order[j - gap]
                j -= gap
            order[j] = moved
        gap //= 3


@lean
def _step(scene, search, k, candidates, count, at, value, found, ray, any_hit):
    """Takes in one answer for a ray. What is over then has mode DONE; ``at`` is put to the end where no other candidate matters."""
    c = at[k]
    i = candidates.instance[k, c]
    take_in(scene, search, k, candidates, k, c, np.float64(value))
    if search.mode[k] < DONE:
        if search.lo[k] > found.t[ray]:
            search.mode[k] = DONE
    elif misled(search, k, candidates, k, c):
        found.state[ray], at[k], search.mode[k] = WRONG, count[k], DONE
    elif search.t[k] < found.t[ray] or (search.t[k] == found.t[ray] and search.t[k] < np.inf and i < found.owner[ray]):
        found.t[ray], found.owner[ray] = search.t[k], i
        if any_hit:
            at[k] = count[k]


# -- for assets whose fields are asked elsewhere -------------------------------------------------------------------------------


@numba.njit(cache=True)
def begin_all(scene, search, packed):
    """Begins a search for each of the packed candidates ``[1, c]``."""
    for c in range(packed.ta.shape[1]):
        begin(scene, search, c, packed, 0, c)


@numba.njit(cache=True, parallel=True)
def points_asked(stand, search, active, origins, directions, rays, instance):
    """Where the ``active`` searches ask next, in the frames of their instances, ``[n, 3]``."""
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


@numba.njit(cache=True)
def take_in_all(scene, search, packed, active, values, wrong):
    """One round: `take_in` for all ``active`` searches; ``wrong [c]`` marks those that show that the cells misled."""
    for r in range(len(active)):
        c = active[r]
        take_in(scene, search, c, packed, 0, c, values[r])
        wrong[c] = search.mode[c] >= DONE and misled(search, c, packed, 0, c)
