"""First hits of rays: candidates from the tree and the cells, then a search in which only the fields speak."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Timer
from typing import NamedTuple

import numba
import numpy as np
import torch

from compose.cpu.bvh import Bvh
from compose.cpu.kernels import InstanceTransforms, nearest_hits
from compose.cpu.march import Candidates, Cells, room_for
from compose.cpu.search import DONE, begin_all, points_asked, search_of, take_in_all
from compose.cpu.siren_kernel import Nets
from compose.cpu.tiles import FULL, TILE, WRONG, RayQuery, TraceResult, trace_tiles
from compose.cpu.warps import Warps

FINE_STEP = 1 / 2000  # of the box diagonal: the step at which the dense reference marches
# A hit is pinned down to this share of the diagonal of its instance's box (DESIGN: bisected to 1e-6).
_TOLERANCE = 8e-7
# Rounds after which a ray's next candidate is taken up, and how many wait like that; the rest start together.
_STAGGER = 4
_STAGGERED = 4
_ROOM = 8  # candidates of one ray before it is done again with more room
_CHUNK = 1 << 18  # rays at once: bounds the memory
_PATIENCE = 4.0  # seconds before a first trace says why it takes so long
_TILES = 4  # tiles that a thread takes at a time
_MAX_WIDEN = 64.0


# Distances ``[k]`` (object units) that instances ``[k]`` say at points ``[k, 3]`` of their own frames; sorted by asset.
Ask = Callable[[np.ndarray, np.ndarray], np.ndarray]


class TraceScene(NamedTuple):
    """What a trace reads: where instances stand, the tree over them, the cells, the networks and the warps of their assets."""

    transforms: InstanceTransforms
    tree: Bvh
    cells: Cells
    nets: Nets
    warps: Warps
    tolerance: np.ndarray  # [m] wanted precision of a hit, metres
    step: np.ndarray  # [m] smallest step of a search, metres

    @staticmethod
    def of(
        transforms: InstanceTransforms, tree: Bvh, cells: Cells, nets: Nets, warps: Warps, diagonal: np.ndarray
    ) -> TraceScene:
        """From the diagonals ``[m]`` of the instances' boxes, metres."""
        return TraceScene(transforms, tree, cells, nets, warps, _TOLERANCE * diagonal, FINE_STEP * diagonal)


@dataclass
class TraceCount:
    """What a trace cost: rays, candidates, evaluations of fields, rays whose cells misled and were done again."""

    rays: int = 0
    candidates: int = 0
    evaluations: int = 0
    repeated: int = 0


def trace(
    scene: TraceScene,
    ask: Ask,
    origins: np.ndarray,
    directions: np.ndarray,
    t_min: np.ndarray,
    t_max: np.ndarray,
    *,
    count: TraceCount | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """``t [n]`` (inf for none) and ``owner [n]`` (-1 for none) of each ray's first hit.

    Args:
        scene: The scene.
        ask: How fields are asked that have no packed networks.
        origins, directions: ``[n, 3]``, world.
        t_min, t_max: ``[n]``.
        count: What the trace costs is added to it.
    """
    return _first_hits(scene, ask, (origins, directions, t_min, t_max), False, count or TraceCount())


def occluded(
    scene: TraceScene, ask: Ask, origins: np.ndarray, directions: np.ndarray, t_min: np.ndarray, t_max: np.ndarray
) -> np.ndarray:
    """Whether each ray hits anything, ``[n]``; fields are asked only where the cells leave a doubt. Arguments as for `trace`."""
    return np.isfinite(_first_hits(scene, ask, (origins, directions, t_min, t_max), True, TraceCount())[0])


@torch.no_grad()
def _first_hits(
    scene: TraceScene, ask: Ask, rays: tuple[np.ndarray, ...], any_hit: bool, count: TraceCount
) -> tuple[np.ndarray, np.ndarray]:
    n = len(rays[0])
    t, owner = np.full(n, np.inf), np.full(n, -1, dtype=np.int64)
    count.rays += n
    if len(scene.transforms.asset) == 0:
        return t, owner
    for lo in range(0, n, _CHUNK):
        part = slice(lo, lo + _CHUNK)
        query = RayQuery._make([*(v[part] for v in rays), 1.0, any_hit])
        t[part], owner[part] = _trace(scene, ask, query, _ROOM, count)
    return t, owner


@lru_cache(maxsize=1)
def _pool(n_threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="sirenscape-trace")


def _trace(scene: TraceScene, ask: Ask, query: RayQuery, room: int, count: TraceCount) -> tuple[np.ndarray, np.ndarray]:
    found = _attempt(scene, ask, query, room, count)
    for state in (FULL, WRONG):
        again = np.flatnonzero(found.state == state)
        if len(again) == 0:
            continue
        rays = query._replace(
            **{name: getattr(query, name)[again] for name in ("origins", "directions", "t_min", "t_max")}
        )
        if state == FULL:
            found.t[again], found.owner[again] = _trace(scene, ask, rays, room * 8, count)
            continue
        # The cells called a place certain that the field denies: what that hid must be looked at again, with less trust.
        count.repeated += len(again)
        if query.widen >= _MAX_WIDEN:
            raise RuntimeError(
                "a field contradicts its own index of cells; were its weights changed after the composite was made?"
            )
        wider = rays._replace(widen=4 * query.widen)
        found.t[again], found.owner[again] = _trace(scene, ask, wider, room, count)
    return found.t, found.owner


def collect(scene: TraceScene, query: RayQuery) -> TraceResult:
    """The first stage alone, for measurements: candidates, and no networks."""
    return _run(scene, query, _ROOM, search=False)


def _attempt(scene: TraceScene, ask: Ask, query: RayQuery, room: int, count: TraceCount) -> TraceResult:
    found = _run(scene, query, room, search=True)
    count.candidates += int(found.candidates.sum())
    count.evaluations += int(found.evaluations.sum())
    if len(found.rest.ta):
        n = len(query.origins)
        taken = np.arange(room) < found.n_rest[:, None]
        if query.any_hit:
            taken[np.isfinite(found.t)] = False
        taken &= (found.state == 0)[:, None]
        rays = np.repeat(np.arange(n), taken.sum(1))
        packed = Candidates._make(column[taken][None] for column in found.rest)
        if len(rays):
            failed = _search(scene, ask, query, rays, packed, found.t, found.owner, count)
            found.state[failed] = WRONG
    return found


def _run(scene: TraceScene, query: RayQuery, room: int, *, search: bool) -> TraceResult:
    n = len(query.origins)
    others = bool((scene.nets.at[scene.transforms.asset] < 0).any())
    tiles = -(-n // TILE)
    found = TraceResult(
        np.empty(n), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int8), room_for(n if others else 0, room),
        np.zeros(n, dtype=np.int64), np.zeros(tiles, dtype=np.int64), np.zeros(tiles, dtype=np.int64),
    )  # fmt: skip

    def run(first: int) -> None:
        trace_tiles(scene, query, room, found, first, min(first + _TILES, tiles), search)

    notice = Timer(_PATIENCE, _say_compiling) if not trace_tiles.signatures else None
    if notice:
        notice.daemon = True
        notice.start()
    try:
        jobs, n_threads = range(0, tiles, _TILES), numba.get_num_threads()
        list(_pool(n_threads, os.getpid()).map(run, jobs) if n_threads > 1 < len(jobs) else map(run, jobs))
    finally:
        if notice:
            notice.cancel()
    return found


def _say_compiling() -> None:
    if sys.stderr.isatty():
        print("compiling the tracing kernels for this machine: about a minute, only the first time", file=sys.stderr)


def _search(scene, ask, query, rays, packed, best_t, best_owner, count) -> np.ndarray:
    """Searches candidates of fields that are asked through the batch, round by round, all side by side; returns the rays in which
    the cells proved wrong."""
    c = len(rays)
    instance, nearest = packed.instance[0], packed.ta[0]
    asset = scene.transforms.asset[instance]
    search = search_of(c)
    begin_all(scene, search, packed)
    wrong = np.zeros(c, dtype=bool)
    # A ray's candidates are taken up near to far, so that most of the far ones are never asked.
    by_ray = np.lexsort((nearest, rays))
    first = np.flatnonzero(np.r_[True, np.diff(rays[by_ray]) > 0])
    start = np.empty(c, dtype=np.int64)
    start[by_ray] = np.minimum(np.arange(c) - np.repeat(first, np.diff(np.r_[first, c])), _STAGGERED) * _STAGGER
    # Fields meet their points sorted by asset and ray, and by nothing else.
    order = np.lexsort((start, rays, asset))
    place = np.empty(c, dtype=np.int64)
    place[order] = np.arange(c)
    waves = {int(r): order[start[order] == r] for r in np.unique(start)}
    active, turn = np.zeros(0, dtype=np.int64), 0
    while len(active) or waves:
        if turn in waves:
            fresh = waves.pop(turn)
            fresh = fresh[(nearest[fresh] <= best_t[rays[fresh]]) & (search.mode[fresh] < DONE)]
            active = order[np.sort(place[np.concatenate([active, fresh])])]
        turn += 1
        if len(active) == 0:
            continue
        p_obj = points_asked(scene.transforms, search, active, query.origins, query.directions, rays, instance)
        values = ask(instance[active], p_obj)
        count.evaluations += len(active)
        take_in_all(scene, search, packed, active, values, wrong)
        mode = search.mode[active]
        over = active[mode >= DONE]
        nearest_hits(rays[over], instance[over], search.t[over], best_t, best_owner)
        active = active[mode < DONE]
        active = active[search.lo[active] <= best_t[rays[active]]]
    return np.unique(rays[wrong])
