"""First hits of rays: candidates from the tree and the cells, then a search in which only the fields speak."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Timer
from typing import NamedTuple

import numba
import numpy as np
import torch

from compose.batch import FieldBatch
from compose.cells import FINE_STEP, Cells
from compose.cpu import ray_kernels
from compose.cpu.kernels import Stand, Tree, nearest_hits
from compose.cpu.ray_kernels import DONE, FULL, TILE, WRONG, Asked, Candidates, Found
from compose.cpu.siren_kernel import Nets

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


class TraceScene(NamedTuple):
    """What a trace reads: where instances stand, the tree over them, the cells and the networks of their assets."""

    stand: Stand
    tree: Tree
    cells: Cells
    nets: Nets
    tolerance: np.ndarray  # [m] wanted precision of a hit, metres
    step: np.ndarray  # [m] smallest step of a probe, metres

    @staticmethod
    def of(stand: Stand, tree: Tree, cells: Cells, nets: Nets, diagonal: np.ndarray) -> TraceScene:
        """From the diagonals ``[m]`` of the instances' boxes, metres."""
        return TraceScene(stand, tree, cells, nets, _TOLERANCE * diagonal, FINE_STEP * diagonal)


class Elsewhere(NamedTuple):
    """How fields are asked that have no packed networks."""

    batch: FieldBatch
    time: np.ndarray  # [m] seconds of each instance (0 where it has none)


@dataclass
class TraceCount:
    """What a trace cost: rays, candidates, evaluations of fields, rays whose cells misled and were done again."""

    rays: int = 0
    candidates: int = 0
    evaluations: int = 0
    repeated: int = 0


@torch.no_grad()
def trace_rays(
    scene: TraceScene,
    elsewhere: Elsewhere,
    origins: np.ndarray,
    directions: np.ndarray,
    t_min: np.ndarray,
    t_max: np.ndarray,
    *,
    any_hit: bool = False,
    count: TraceCount | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """``t [n]`` (inf for none) and ``owner [n]`` (-1 for none) of each ray's first hit.

    With ``any_hit`` only whether ``t`` is finite means something, and fields are asked only where the cells leave a doubt.
    """
    count = count or TraceCount()
    t, owner = np.full(len(origins), np.inf), np.full(len(origins), -1, dtype=np.int64)
    count.rays += len(origins)
    if len(scene.stand.asset) == 0:
        return t, owner
    for lo in range(0, len(origins), _CHUNK):
        rays = (v[lo : lo + _CHUNK] for v in (origins, directions, t_min, t_max))
        part = slice(lo, lo + _CHUNK)
        t[part], owner[part] = _trace(scene, elsewhere, Asked._make([*rays, 1.0, any_hit]), _ROOM, count)
    return t, owner


@lru_cache(maxsize=1)
def _pool(n_threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="sirenscape-trace")


def _trace(
    scene: TraceScene, elsewhere: Elsewhere, asked: Asked, room: int, count: TraceCount
) -> tuple[np.ndarray, np.ndarray]:
    found = _attempt(scene, elsewhere, asked, room, count)
    for state in (FULL, WRONG):
        again = np.flatnonzero(found.state == state)
        if len(again) == 0:
            continue
        rays = asked._replace(
            **{name: getattr(asked, name)[again] for name in ("origins", "directions", "t_min", "t_max")}
        )
        if state == FULL:
            found.t[again], found.owner[again] = _trace(scene, elsewhere, rays, room * 8, count)
            continue
        # The cells called a place certain that the field denies: what that hid must be looked at again, with less trust.
        count.repeated += len(again)
        if asked.widen >= _MAX_WIDEN:
            raise RuntimeError(
                "a field contradicts its own index of cells; were its weights changed after the composite was made?"
            )
        wider = rays._replace(widen=4 * asked.widen)
        found.t[again], found.owner[again] = _trace(scene, elsewhere, wider, room, count)
    return found.t, found.owner


def collect(scene: TraceScene, asked: Asked) -> Found:
    """The first stage alone, for measurements: candidates, and no networks."""
    return _run(scene, asked, _ROOM, search=False)


def _attempt(scene: TraceScene, elsewhere: Elsewhere, asked: Asked, room: int, count: TraceCount) -> Found:
    found = _run(scene, asked, room, search=True)
    count.candidates += int(found.candidates.sum())
    count.evaluations += int(found.evaluations.sum())
    if (scene.nets.at < 0).any():
        n = len(asked.origins)
        taken = np.arange(room) < found.n_rest[:, None]
        if asked.any_hit:
            taken[np.isfinite(found.t)] = False
        taken &= (found.state == 0)[:, None]
        rays = np.repeat(np.arange(n), taken.sum(1))
        packed = Candidates._make(column[taken][None] for column in found.rest)
        if len(rays):
            failed = _search(scene, elsewhere, asked, rays, packed, found.t, found.owner, count)
            found.state[failed] = WRONG
    return found


def _run(scene: TraceScene, asked: Asked, room: int, *, search: bool) -> Found:
    n = len(asked.origins)
    others = bool((scene.nets.at < 0).any())
    tiles = -(-n // TILE)
    found = Found(
        np.empty(n), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int8), ray_kernels.room_for(n if others else 0, room),
        np.zeros(n, dtype=np.int64), np.zeros(tiles, dtype=np.int64), np.zeros(tiles, dtype=np.int64),
    )  # fmt: skip

    def run(first: int) -> None:
        ray_kernels.trace_tiles(scene, asked, room, found, first, min(first + _TILES, tiles), search)

    notice = Timer(_PATIENCE, _say_compiling) if not ray_kernels.trace_tiles.signatures else None
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


def _search(scene, elsewhere, asked, rays, packed, best_t, best_owner, count) -> np.ndarray:
    """Searches candidates of fields that are asked through the batch, round by round, all side by side; returns the rays in which
    the cells proved wrong."""
    c = len(rays)
    instance, nearest = packed.instance[0], packed.ta[0]
    asset = scene.stand.asset[instance]
    search = ray_kernels.search_of(c)
    ray_kernels.begin_all(scene, search, packed)
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
        p_obj = ray_kernels.points_asked(scene.stand, search, active, asked.origins, asked.directions, rays, instance)
        values = elsewhere.batch.sdf_sorted(asset[active], p_obj, elsewhere.time[instance[active]])
        count.evaluations += len(active)
        ray_kernels.take_in_all(scene, search, packed, active, values, wrong)
        mode = search.mode[active]
        over = active[mode >= DONE]
        nearest_hits(rays[over], instance[over], search.t[over], best_t, best_owner)
        active = active[mode < DONE]
        active = active[search.lo[active] <= best_t[rays[active]]]
    return np.unique(rays[wrong])
