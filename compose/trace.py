"""First hits of rays: candidates from the tree and the grids, then a search in which only the fields speak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from compose import kernels
from compose.batch import FieldBatch
from compose.kernels import Candidates, Grids, Search, Stand, Tree

# A hit is pinned down to this share of the diagonal of its instance's box (DESIGN: bisected to 1e-6).
_TOLERANCE = 5e-7
# Smallest step of a probe, as a share of the diagonal: the step at which the dense reference marches.
_STEP = 1 / 2000
# Uncertain stretches are cut into pieces of this share, searched side by side.
_PIECE = 16 * _STEP
# Rounds after which a ray's next candidate is taken up, and how many wait like that; the rest start together.
_STAGGER = 4
_STAGGERED = 4
# Up to this many cells long, a certain stretch is taken to hold one change of sign.
_SHORT = 1.5
_ROOM = 8  # candidates of one ray before it is done again with more room
_CHUNK = 1 << 18  # rays at once: bounds the memory
_MAX_WIDEN = 64.0


@dataclass(frozen=True, eq=False)
class TraceScene:
    """What a trace reads: where instances stand, the tree over them, the grids and the fields of their assets."""

    stand: Stand
    tree: Tree
    grids: Grids
    batch: FieldBatch
    time: np.ndarray  # [m] seconds of each instance (0 where it has none)
    diagonal: np.ndarray  # [m] of the instance's box, metres


@dataclass
class TraceCount:
    """What a trace cost: rays, candidates, evaluations of fields, rays whose grid misled and were done again."""

    rays: int = 0
    candidates: int = 0
    evaluations: int = 0
    repeated: int = 0


@torch.no_grad()
def first_hits(
    scene: TraceScene,
    origins: np.ndarray,
    directions: np.ndarray,
    t_min: np.ndarray,
    t_max: np.ndarray,
    count: TraceCount,
) -> tuple[np.ndarray, np.ndarray]:
    """``t [n]`` (inf for none) and ``owner [n]`` (-1 for none) of each ray's first hit."""
    t, owner = np.full(len(origins), np.inf), np.full(len(origins), -1, dtype=np.int64)
    for lo in range(0, len(origins), _CHUNK):
        part = slice(lo, lo + _CHUNK)
        t[part], owner[part] = _hits(
            scene, origins[part], directions[part], t_min[part], t_max[part], 1.0, any_hit=False, count=count
        )
    return t, owner


@torch.no_grad()
def any_hits(
    scene: TraceScene,
    origins: np.ndarray,
    directions: np.ndarray,
    t_min: np.ndarray,
    t_max: np.ndarray,
    count: TraceCount,
) -> np.ndarray:
    """Whether each ray hits anything, ``[n]`` bool. Fields are asked only where the grids leave a doubt."""
    blocked = np.zeros(len(origins), dtype=bool)
    for lo in range(0, len(origins), _CHUNK):
        part = slice(lo, lo + _CHUNK)
        t, _ = _hits(scene, origins[part], directions[part], t_min[part], t_max[part], 1.0, any_hit=True, count=count)
        blocked[part] = np.isfinite(t)
    return blocked


def _hits(scene, origins, directions, t_min, t_max, widen, *, any_hit, count) -> tuple[np.ndarray, np.ndarray]:
    n = len(origins)
    best_t, best_owner = np.full(n, np.inf), np.full(n, -1, dtype=np.int64)
    count.rays += n
    if len(scene.stand.asset) == 0:
        return best_t, best_owner
    rays, found, blocked = _candidates(scene, origins, directions, t_min, t_max, widen, any_hit)
    best_t[blocked] = 0.0
    count.candidates += len(rays)
    if len(rays):
        failed = _search(scene, origins, directions, rays, found, best_t, best_owner, count)
        if len(failed):
            # The grid called a place certain that the field denies: what it hid must be looked at again, with less trust.
            count.repeated += len(failed)
            again = (origins[failed], directions[failed], t_min[failed], t_max[failed])
            if widen >= _MAX_WIDEN:
                raise RuntimeError(
                    "a field contradicts its own distance grid; were its weights changed after the composite was made?"
                )
            best_t[failed], best_owner[failed] = _hits(scene, *again, widen * 4, any_hit=any_hit, count=count)
    return best_t, best_owner


def _candidates(scene, origins, directions, t_min, t_max, widen, any_hit):
    """Packed candidates: the ray of each, their columns, and which rays are known to be blocked (``any_hit`` only)."""
    n = len(origins)
    blocked = np.zeros(n, dtype=bool)
    rays_of, parts = [], []
    todo, room = np.arange(n), _ROOM
    while len(todo):
        k = len(todo)
        ta, tb, guess, slope = np.empty((4, k, room))
        instance, certain = np.empty((k, room), dtype=np.int64), np.empty((k, room), dtype=np.int8)
        found = Candidates(ta, tb, guess, slope, instance, certain)
        counted, stopped = np.zeros(k, dtype=np.int64), np.zeros(k, dtype=bool)
        kernels.find_candidates(
            scene.tree, scene.stand, scene.grids, _PIECE * scene.diagonal,
            origins[todo], directions[todo], t_min[todo], t_max[todo], widen, any_hit, found, counted, stopped,
        )  # fmt: skip
        blocked[todo] = stopped
        place, rays = kernels.pack_candidates(found, counted, stopped, todo)
        rays_of.append(rays)
        parts.append(Candidates._make(values.ravel()[place] for values in found))
        todo, room = todo[(counted > room) & ~stopped], room * 8
    return np.concatenate(rays_of), Candidates._make(map(np.concatenate, zip(*parts, strict=True))), blocked


def _search(scene, origins, directions, rays, found, best_t, best_owner, count) -> np.ndarray:
    """Runs all searches to their end; returns the rays in which the grid proved wrong."""
    c = len(rays)
    asset = scene.stand.asset[found.instance]
    diagonal = scene.diagonal[found.instance]
    scale = scene.stand.scale[found.instance]
    # A stretch that is certain to begin outside and to end inside may hold more than one change of sign: a longer one is
    # probed from its start, so that the first is found.
    certain = found.certain == 1
    short = found.tb - found.ta <= _SHORT * scale * scene.grids.cell.max(1)[asset]
    direct = certain & short
    search = Search(
        mode=np.where(direct, kernels.BRACKET, kernels.PROBE).astype(np.int8),
        s=np.where(direct, found.guess, found.ta),
        lo=found.ta.copy(),
        hi=found.tb.copy(),
        seen_lo=np.zeros(c, dtype=bool),
        seen_hi=np.zeros(c, dtype=bool),
        s_last=np.full(c, np.nan),
        f_last=np.full(c, np.nan),
        slope=np.where(direct, found.slope, 0.0),
        t=np.full(c, np.inf),
        rounds=np.zeros(c, dtype=np.int64),
    )
    # Far from a ray's origin float64 itself is coarser than the wanted precision: a search must still come to its end.
    finest = 4 * np.spacing(np.abs(found.tb))
    tolerance, step = np.maximum(_TOLERANCE * diagonal, finest), np.maximum(_STEP * diagonal, finest)
    inverse_lipschitz = scale / scene.grids.lipschitz[asset]
    # A ray's candidates are taken up near to far, so that most of the far ones are never asked.
    by_ray = np.lexsort((found.ta, rays))
    first = np.flatnonzero(np.r_[True, np.diff(rays[by_ray]) > 0])
    start = np.empty(c, dtype=np.int64)
    start[by_ray] = np.minimum(np.arange(c) - np.repeat(first, np.diff(np.r_[first, c])), _STAGGERED) * _STAGGER
    # Networks meet their points sorted by asset and ray, and by nothing else.
    order = np.lexsort((start, rays, asset))
    place = np.empty(c, dtype=np.int64)
    place[order] = np.arange(c)
    waves = {int(r): order[start[order] == r] for r in np.unique(start)}
    active, failed, turn = np.zeros(0, dtype=np.int64), [], 0
    while len(active) or waves:
        if turn in waves:
            fresh = waves.pop(turn)
            fresh = fresh[found.ta[fresh] <= best_t[rays[fresh]]]
            active = order[np.sort(place[np.concatenate([active, fresh])])]
        turn += 1
        if len(active) == 0:
            continue
        p_obj = kernels.points_asked(scene.stand, search, active, origins, directions, rays, found.instance)
        f = scene.batch.sdf_sorted(asset[active], p_obj, scene.time[found.instance[active]])
        count.evaluations += len(active)
        kernels.advance(search, active, f, tolerance, step, inverse_lipschitz)
        mode = search.mode[active]
        over = active[mode >= kernels.DONE]
        kernels.nearest_hits(rays[over], found.instance[over], search.t[over], best_t, best_owner)
        failed.append(rays[active[mode == kernels.FAILED]])
        failed.append(rays[over[certain[over] & (search.mode[over] == kernels.DONE) & np.isinf(search.t[over])]])
        active = active[mode < kernels.DONE]
        active = active[search.lo[active] <= best_t[rays[active]]]
    return np.unique(np.concatenate(failed)) if failed else np.zeros(0, dtype=np.int64)
