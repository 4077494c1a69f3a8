"""From candidates to hits: the search for the first change of sign in a stretch, in which only the field speaks."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from compose.cpu.inlined import inlined
from compose.cpu.kernels import to_object

# Up to this many cells long, a stretch with different signs at its ends is taken to hold one change of sign.
_SHORT, _SHORT_GRAZING = 1.5, 0.5
_STEEP = 2.0  # a ray grazes where the distance changes by less than this many bounds of the cell over its length
DEPTH = 16  # of the stack of a search

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


@inlined
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


@inlined
def _look(scene, search, r, candidates, k, c):
    """Passes over the stretches ahead that can hold no hit, and asks within the first that may, or closes in on a change of sign.

    Between two places of one sign there is taken to be no other sign where the field can't dip (``dent``) or change (``rate``) that
    much: at a share u of a gap, a bend or a crease reaches at most 4 u (1 - u) of the dip in its middle below the line between
    both, so it misses zero where the roots of both distances add up to more than that of 4 dips. Between two of different signs
    there is taken to be one change of sign, if they are not much more than a cell apart and the ray does not graze, else half of
    a cell. With a proven index only what is proven counts (``rate``), else places go on being asked down to the smallest step.
    """
    i = candidates.instance[k, c]
    a = scene.transforms.asset[i]
    step = precision(scene, i, candidates.tb[k, c])[1]
    cell = scene.transforms.scale[i] * max(scene.cells.cell[a, 0], scene.cells.cell[a, 1], scene.cells.cell[a, 2])
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


@inlined
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


@inlined
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
        a = scene.transforms.asset[i]
        cell = scene.transforms.scale[i] * min(scene.cells.cell[a, 0], scene.cells.cell[a, 1], scene.cells.cell[a, 2])
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


@inlined
def misled(search, r, candidates, k, c):
    """Whether a search that is over shows that the cells were wrong."""
    certain = candidates.fa[k, c] > 0.0 and candidates.fb[k, c] < 0.0
    return search.mode[r] == FAILED or (certain and search.t[r] == np.inf)


@inlined
def precision(scene, instance, tb):
    """Tolerance and smallest step of a search. Far from a ray's origin float64 itself is coarser than the wanted precision:
    a search must still come to its end."""
    finest = 4 * np.spacing(abs(tb))
    return max(scene.tolerance[instance], finest), max(scene.step[instance], finest)


# -- for fields that have no packed networks


@numba.njit(cache=True)
def begin_all(scene, search, packed):
    """Begins a search for each of the packed candidates ``[1, c]``."""
    for c in range(packed.ta.shape[1]):
        begin(scene, search, c, packed, 0, c)


@numba.njit(cache=True, parallel=True)
def points_asked(transforms, search, active, origins, directions, rays, instance):
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
        out[r, 0], out[r, 1], out[r, 2] = to_object(transforms, instance[c], x, y, z)
    return out


@numba.njit(cache=True)
def take_in_all(scene, search, packed, active, values, wrong):
    """One round: `take_in` for all ``active`` searches; ``wrong [c]`` marks those that show that the cells misled."""
    for r in range(len(active)):
        c = active[r]
        take_in(scene, search, c, packed, 0, c, values[r])
        wrong[c] = search.mode[c] >= DONE and misled(search, c, packed, 0, c)
