"""Compiled traversal for rays: tree and cells give candidate stretches, and the networks say where in them a ray hits.

Plain Python functions compiled by numba. A thread takes a tile of neighbouring rays through all stages: it collects the candidates
of each ray, then asks the networks in rounds, the next point of every ray of the tile together, sorted by network. Rays don't look
at each other: a tile only makes their questions meet. All arithmetic on positions is float64 in the frame of the asset.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from compose.cpu.bvh import STACK
from compose.cpu.candidates import candidates_of_ray, leaves_of_packet, sort_and_part
from compose.cpu.inlined import inlined
from compose.cpu.kernels import to_object
from compose.cpu.march import Candidates
from compose.cpu.search import DONE, Search, begin, misled, search_of, take_in
from compose.cpu.siren_kernel import LANES, distances, widest
from compose.cpu.warps import to_canonical
from objects.node_kernel import Room, room_for

TILE = 512  # rays that one thread takes at a time
_PACKET = 64  # neighbouring rays that walk the tree together, if they go about the same way
_LISTED = 128  # most leaves that a packet may meet; beyond, each ray walks alone


class RayQuery(NamedTuple):
    """The rays of a trace and what is wanted of them."""

    origins: np.ndarray  # [n, 3]
    directions: np.ndarray  # [n, 3]
    t_min: np.ndarray  # [n]
    t_max: np.ndarray  # [n]
    widen: float  # factor on the bounds of the cells
    any_hit: bool  # whether one hit, not the first, is all that is wanted


class TraceResult(NamedTuple):
    """What is known of each ray; nothing unless its state is DECIDED."""

    t: np.ndarray  # [n] first hit, inf for none
    owner: np.ndarray  # [n]
    state: np.ndarray  # [n] int8: DECIDED; FULL: more candidates than room; WRONG: the cells misled
    rest: Candidates  # [n, room] candidates that are left to others (assets without packed networks), [0, 0] if there can be none
    n_rest: np.ndarray  # [n]
    evaluations: np.ndarray  # [tiles]
    candidates: np.ndarray  # [tiles]


DECIDED, FULL, WRONG = 0, 1, 2


@inlined
def _next_candidate(scene, search, r, candidates, n, at, best_t):
    """Begins the next candidate of ray ``r`` that can hold a hit before ``best_t``; whether there is one."""
    at[r] += 1
    while at[r] < n[r] and candidates.ta[r, at[r]] <= best_t:
        begin(scene, search, r, candidates, r, at[r])
        if search.mode[r] < DONE:
            return True
        at[r] += 1
    return False


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
    warped: np.ndarray  # [TILE] the instance whose warp was asked last
    anchor: np.ndarray  # [TILE] the anchor that was nearest then
    last: np.ndarray  # [TILE, 15] how that search ended
    beyond: np.ndarray  # [LANES]
    seek: Room
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
        np.empty(TILE, dtype=np.int64), np.empty(TILE, dtype=np.int64), np.empty(TILE, dtype=np.int64),
        np.empty((TILE, 15), dtype=np.float32), np.empty(LANES), room_for(scene.warps.near.shape[1]),
        np.empty((LANES, 3)), np.empty(LANES, dtype=np.float32),
        np.empty((3, widest(scene.nets) * LANES), dtype=np.float32),
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def trace_tiles(scene, query, room, found, first_tile, last_tile, search=True):
    """Traces the rays of tiles ``first_tile`` up to before ``last_tile``, ``TILE`` rays each, into ``found``. Without
    ``search`` it stops when it has the candidates (to measure what they cost)."""
    stay = _room(scene, room)
    for tile in range(first_tile, last_tile):
        start, size = tile * TILE, min(TILE, len(query.origins) - tile * TILE)
        found.candidates[tile] = _collect(scene, query, start, size, room, stay, found)
        if search:
            found.evaluations[tile] = _resolve(scene, query, start, size, stay, found)


@inlined
def _collect(scene, query, start, size, room, stay, found):
    """The candidates of a tile's rays, sorted; returns how many there are."""
    candidates, count, total, n_leaves = stay.candidates, stay.count, 0, 0
    for k in range(size):
        ray = start + k
        found.t[ray], found.owner[ray], found.state[ray], found.n_rest[ray] = np.inf, -1, DECIDED, 0
        if k % _PACKET == 0:
            last = min(ray + _PACKET, start + size)
            n_leaves = leaves_of_packet(scene.tree, query, ray, last, stay.stack, stay.leaves, stay.leaf_t, stay.bounds)
        blocked = candidates_of_ray(scene, query, ray, candidates, k, count, stay, n_leaves)
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
        count[k] = sort_and_part(scene, candidates, k, count[k], found.rest, ray, found.n_rest, certain_t)
        total += count[k] + found.n_rest[ray]
    return total


@inlined
def _resolve(scene, query, start, size, stay, found):
    """Searches the candidates of a tile's rays, one of each ray at a time, near to far; returns the number of evaluations."""
    transforms, candidates, search, at, active = scene.transforms, stay.candidates, stay.search, stay.at, stay.active
    n_active, total = size, 0
    for k in range(size):
        at[k], active[k], search.mode[k], stay.warped[k] = -1, k, DONE, -1
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
            stay.key[k] = scene.nets.at[transforms.asset[candidates.instance[k, at[k]]]] * size + k
        _sort_by_key(active, n_active, stay.key)
        first = 0
        while first < n_active:
            net, n = stay.key[active[first]] // size, 1
            while first + n < n_active and n < LANES and stay.key[active[first + n]] // size == net:
                n += 1
            a = 0
            for r in range(n):
                k = active[first + r]
                ray, s, i = start + k, search.s[k], candidates.instance[k, at[k]]
                a = transforms.asset[i]
                stay.points[r, 0], stay.points[r, 1], stay.points[r, 2] = to_object(
                    transforms,
                    i,
                    query.origins[ray, 0] + s * query.directions[ray, 0],
                    query.origins[ray, 1] + s * query.directions[ray, 1],
                    query.origins[ray, 2] + s * query.directions[ray, 2],
                )
                if scene.warps.of[a] >= 0:
                    before, guess = stay.warped[k], 0
                    if before >= 0 and scene.warps.of[transforms.asset[before]] == scene.warps.of[a]:
                        guess = stay.anchor[k]
                    stay.anchor[k], stay.beyond[r] = to_canonical(
                        scene.warps, transforms, a, stay.points[r], guess, before == i, stay.last[k], stay.seek
                    )
                    stay.warped[k] = i
            distances(scene.nets, a, stay.points, 0, n, stay.layers, stay.values)
            for r in range(n):
                k, value = active[first + r], np.float64(stay.values[r])
                a = transforms.asset[candidates.instance[k, at[k]]]
                if scene.warps.of[a] >= 0:
                    value /= scene.warps.stretch[a]
                    value += -stay.beyond[r] if value < 0 else stay.beyond[r]
                _step(scene, search, k, candidates, stay.count, at, value, found, start + k, query.any_hit)
            first += n


@inlined
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


@inlined
def _step(scene, search, k, candidates, count, at, value, found, ray, any_hit):
    """Takes in one answer for a ray. What is over then has mode DONE; ``at`` is put to the end where no other candidate matters."""
    c = at[k]
    i = candidates.instance[k, c]
    take_in(scene, search, k, candidates, k, c, value)
    if search.mode[k] < DONE:
        if search.lo[k] > found.t[ray]:
            search.mode[k] = DONE
    elif misled(search, k, candidates, k, c):
        found.state[ray], at[k], search.mode[k] = WRONG, count[k], DONE
    elif search.t[k] < found.t[ray] or (search.t[k] == found.t[ray] and search.t[k] < np.inf and i < found.owner[ray]):
        found.t[ray], found.owner[ray] = search.t[k], i
        if any_hit:
            at[k] = count[k]
