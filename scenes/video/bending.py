"""Things that bend: tracks that are parts of one thing, and what moves but follows no rigid motion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from scenes.video.camera import points_of
from scenes.video.regions import parts_in_space, widened
from scenes.video.rigid import inverse
from scenes.video.state import State

_TOGETHER = 0.8  # share of the common frames in which parts of one thing touch
_CLOSED = 0.75  # share of the moves in which their seam stays closed
_COMMON = 0.6  # share of the shorter one's frames that are common
_SEAM = 4  # pixels at which two parts meet, at least
_JUMP = 0.03  # relative difference of depth across a seam
_OPENS = 0.006  # metres, beside the noise, by which a seam may open from frame to frame
_SLIDES = 0.7  # share of the motion that a seam may open by
_MOVES = 0.004  # metres from frame to frame: slower is rest, which tells nothing
_TOLD = 12  # of the noise, that things must move by for a seam to tell
_LEAST_FRAMES = 3
_PLANE, _MOST_PLANES, _TRIALS = 0.04, 10, 60  # share of the still points that a plane holds
_THICK, _PARALLEL = 0.02, 0.9  # metres, beside the noise, and cosine, within which pixels are on a plane
_SHARE = 0.6  # share of the visible pixels that agree, below which a track is no rigid thing
_SEEN_THROUGH = 0.45  # cost under the still world that colour alone doesn't reach
_LEAST, _LASTING = 40, 4  # pixels and frames of something that no track explains


def bending_groups(state: State, kept: Sequence[int]) -> tuple[list[list[int]], list[np.ndarray]]:
    """Tracks put together into things, and the pixels [F H W] of each.

    Tracks of one thing touch all the time, and their seams don't open while they move. Parts that hang on one thing that stands
    still (arms on a trunk) are one thing with it; large planes are no part of things.
    """
    ids = np.where((state.ids == 0) & plane_pixels(state), -2, state.ids)
    parent = {k: k for k in kept}

    def root(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    hung = [k for k in kept if _one_thing(state, ids, k, 0)]
    still = {k: _hanging_together(state, ids, k) for k in hung} if len(hung) > 1 else {}
    for i, a in enumerate(kept):
        for b in kept[i + 1 :]:
            if root(a) == root(b):
                continue
            trunk = a in still and b in still and _same(still[a], still[b])
            if trunk or _one_thing(state, ids, a, b):
                parent[root(b)] = root(a)
    groups: dict[int, list[int]] = {}
    for k in kept:
        groups.setdefault(root(k), []).append(k)
    masks = []
    for group in groups.values():
        mask = np.isin(state.ids, group)
        if len(group) > 1:
            for k in group:
                mask |= still.get(k, False)
        masks.append(mask)
    return list(groups.values()), masks


def plane_pixels(state: State) -> np.ndarray:
    """[F H W] pixels of the still world on large planes: floor, walls, tables."""
    rng = np.random.default_rng(0)
    maps, F = state.maps, state.n_frames
    back = inverse(state.to_cam[0])
    found, normals = [], []
    for t in np.unique(np.linspace(0, F - 1, min(F, 6)).astype(int)).tolist():
        y, x = np.nonzero((state.ids[t] == 0) & (maps.normal[t, ..., 2] != 0))
        pick = rng.permutation(len(y))[:1000]
        y, x = y[pick], x[pick]
        found.append(points_of(maps, t, y, x) @ back[t, :3, :3].T + back[t, :3, 3])
        normals.append(maps.normal[t, y, x] @ back[t, :3, :3].T)
    p, n = np.concatenate(found), np.concatenate(normals)
    rest, planes = np.ones(len(p), bool), []
    while len(planes) < _MOST_PLANES and rest.sum() > _PLANE * len(p):
        start = rng.choice(np.flatnonzero(rest), _TRIALS)
        d = np.einsum("ij,ij->i", n[start], p[start])
        on = (abs(p[rest] @ n[start].T - d) < _THICK) & (n[rest] @ n[start].T > _PARALLEL)
        best = int(on.sum(0).argmax())
        if on[:, best].sum() < _PLANE * len(p):
            break
        mine = np.flatnonzero(rest)[on[:, best]]
        normal = n[mine].mean(0)
        normal /= np.linalg.norm(normal)
        planes.append((normal, float(np.median(p[mine] @ normal))))
        rest[mine] = False
    out = np.zeros(state.ids.shape, bool)
    grid = np.indices(state.ids.shape[1:])
    y, x = grid[0], grid[1]
    for t in range(F):
        q = points_of(maps, t, y, x) @ back[t, :3, :3].T + back[t, :3, 3]
        z = maps.depth[t]
        thick = _THICK + 3 * (maps.noise[0] + maps.noise[1] * z * z)
        for normal, d in planes:  # whatever its side: noise turns normals
            out[t] |= abs(q @ normal - d) < thick
    return out


def _hanging_together(state: State, ids: np.ndarray, k: int) -> np.ndarray:
    """[F H W] what stands still, is no plane, and hangs together in space with a track."""
    out = np.zeros(ids.shape, bool)
    for t in range(state.n_frames):
        mine = ids[t] == k
        if mine.any():
            parts, _ = parts_in_space((ids[t] == 0) | mine, state.maps.depth[t])
            numbers, sizes = np.unique(parts[mine & (parts > 0)], return_counts=True)
            out[t] = np.isin(parts, numbers[sizes >= _SEAM]) & (ids[t] == 0)
    return out


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two sets of pixels are mostly one."""
    return bool((a & b).sum() > 0.5 * min(a.sum(), b.sum()) > 0)


def _one_thing(state: State, ids: np.ndarray, a: int, b: int) -> bool:
    """Whether two tracks (``b`` may be the still world) touch all the time, and meet where both move alike."""
    frames = [np.flatnonzero(state.have[k] & ((ids == k).sum((1, 2)) >= 12)) for k in (a, b)]
    both = np.intersect1d(frames[0], frames[1])
    # What hangs on a trunk does so all the time; what is pushed past something doesn't.
    span = len(frames[1]) if b == 0 else min(len(f) for f in frames)
    if len(both) < max(_LEAST_FRAMES, _COMMON * span):
        return False
    touching, moving, closed = 0, 0, 0
    for t in both.tolist():
        y, x = _seam(state, ids, t, a, b)
        if len(y) < _SEAM:
            continue
        touching += 1
        here, there = points_of(state.maps, t, y, x), points_of(state.maps, t, *np.nonzero(ids[t] == a))
        for s in (t - 1, t + 1):
            if s not in both:
                continue
            ways = [state.to_cam[k, s] @ inverse(state.to_cam[k, t]) for k in (a, b, 0)]
            gone = max(_apart(ways[0], ways[2], there), _apart(ways[1], ways[2], here))
            z = float(np.nanmedian(here[:, 2]))
            noise = state.maps.noise[0] + state.maps.noise[1] * z * z
            if gone < max(_MOVES, _TOLD * noise):
                continue
            moving += 1
            limit = _OPENS + 2 * noise
            closed += _apart(ways[0], ways[1], here) < min(limit, _SLIDES * gone)
    # What stands still is labelled as such up to where it begins to bend: that seam opens.
    closed = moving if b == 0 else closed
    return touching >= _TOGETHER * len(both) and moving >= _LEAST_FRAMES and closed >= _CLOSED * moving


def _apart(A: np.ndarray, B: np.ndarray, points: np.ndarray) -> float:
    """Median distance of points [n 3] under two motions."""
    off = np.linalg.norm(points @ (A - B)[:3, :3].T + (A - B)[:3, 3], axis=-1)
    return float(np.nanmedian(off))


def _seam(state: State, ids: np.ndarray, t: int, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of ``a`` in frame t that are beside pixels of ``b`` at about the same depth."""
    depth, other = state.maps.depth[t], (ids[t] == b) & (state.maps.depth[t] > 0)
    high = ndimage.maximum_filter(np.where(other, depth, 0), 5)
    low = ndimage.minimum_filter(np.where(other, depth, np.inf), 5)
    meets = (ids[t] == a) & (high > 0) & (np.minimum(abs(high - depth), abs(low - depth)) < _JUMP * depth)
    y, x = np.nonzero(meets)
    return y, x


def join_unexplained(state: State, masks: np.ndarray) -> np.ndarray:
    """A mask [F H W] of something that bends, with what no track explains and hangs together with it in space."""
    out = masks.copy()
    bad = state.unexplained() & (state.ids == 0)
    for t in np.flatnonzero(masks.any((1, 2)) & bad.any((1, 2))).tolist():
        depth = state.maps.depth[t]
        parts, _ = parts_in_space(bad[t] | masks[t], depth)
        touched = np.unique(parts[masks[t] & (parts > 0)])
        out[t] |= np.isin(parts, touched) & bad[t]
    return out


def unexplained_things(state: State, taken: np.ndarray) -> list[np.ndarray]:
    """Masks [F H W] of what moves for some frames and follows no track: parts in space, linked by the optical flow.

    Args:
        taken: [F H W] pixels of things that are known.
    """
    # Shadows differ in colour only: what counts is seen through.
    bad = state.unexplained() & ~taken & (state.ids == 0) & (np.nan_to_num(state.cost[:, 0]) > _SEEN_THROUGH)
    chains: list[np.ndarray] = []
    open_: list[int] = []
    for t in range(state.n_frames):
        parts, n = parts_in_space(widened(bad[t], 1) & (state.maps.depth[t] > 0) & ~taken[t], state.maps.depth[t])
        ahead = [_carried(state, chains[c][t - 1], t - 1) for c in open_]
        still_open = []
        for k in range(1, n + 1):
            mask = parts == k
            if mask.sum() < _LEAST:
                continue
            shared = [float((mask & a).sum()) for a in ahead]
            best = int(np.argmax(shared)) if shared else -1
            if best >= 0 and shared[best] > 0.2 * min(mask.sum(), ahead[best].sum()):
                c = open_[best]
            else:
                c = len(chains)
                chains.append(np.zeros_like(taken))
            chains[c][t] |= mask
            still_open.append(c)
        open_ = sorted(set(still_open))
    return [c for c in chains if c.any((1, 2)).sum() >= _LASTING]


def _carried(state: State, mask: np.ndarray, t: int) -> np.ndarray:
    """Where the flow takes a mask from frame t to the next."""
    y, x = np.nonzero(mask)
    flow = np.nan_to_num(state.maps.flows[0, t, y, x])
    v, u = (np.rint(a).astype(int) for a in (y + flow[:, 1], x + flow[:, 0]))
    inside = (v >= 0) & (u >= 0) & (v < mask.shape[0]) & (u < mask.shape[1])
    out = np.zeros_like(mask)
    out[v[inside], u[inside]] = True
    return widened(out, 1)


def is_bending(state: State, group: Sequence[int]) -> bool:
    """Whether a group of tracks is no rigid thing."""
    if len(group) > 1:
        return True
    (k,) = group
    known = state.have[k] & (state.ids == k).any((1, 2))
    return bool(np.median(state.share[k][known]) <= _SHARE) if known.any() else True


def middles(state: State, world_to_cam: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poses [F 4 4] that follow the middle of masks [F H W] in the world without turning, and where there is one [F]."""
    poses = np.tile(np.eye(4), (len(masks), 1, 1))
    have = np.zeros(len(masks), bool)
    for t in np.flatnonzero(masks.any((1, 2))).tolist():
        p = points_of(state.maps, t, *np.nonzero(masks[t]))
        p = p[np.isfinite(p).all(1)]
        if len(p):
            poses[t, :3, 3] = (inverse(world_to_cam[t]) @ np.append(np.median(p, 0), 1))[:3]
            have[t] = True
    return poses, have
