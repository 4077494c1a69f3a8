"""Things that bend: tracks that are parts of one thing, and what moves but follows no rigid motion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from scenes.video.camera import points_of
from scenes.video.regions import parts_in_space, widened
from scenes.video.rigid import inverse
from scenes.video.state import State

_TOGETHER = 0.85  # share of the common frames in which parts of one thing touch
_COMMON = 0.6  # share of the shorter one's frames that are common
_SEAM = 4  # pixels at which two parts meet, at least
_JUMP = 0.03  # relative difference of depth across a seam
_OPENS = 0.006  # metres, beside the noise, by which a seam may open from frame to frame
_MOVES = 0.004  # metres from frame to frame: slower is rest, which tells nothing
_LEAST_FRAMES = 3
_SHARE = 0.6  # share of the visible pixels that agree, below which a track is no rigid thing
_SEEN_THROUGH = 0.45  # cost under the still world that colour alone doesn't reach
_LEAST, _LASTING = 40, 4  # pixels and frames of something that no track explains


def bending_groups(state: State, kept: Sequence[int]) -> list[list[int]]:
    """Tracks put together into things: those of one list touch all the time, and their seams don't open while they move."""
    parent = {k: k for k in kept}

    def root(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    for i, a in enumerate(kept):
        for b in kept[i + 1 :]:
            if root(a) != root(b) and _one_thing(state, a, b):
                parent[root(b)] = root(a)
    groups: dict[int, list[int]] = {}
    for k in kept:
        groups.setdefault(root(k), []).append(k)
    return [groups[k] for k in sorted(groups)]


def _one_thing(state: State, a: int, b: int) -> bool:
    frames = [np.flatnonzero(state.have[k] & ((state.ids == k).sum((1, 2)) >= 12)) for k in (a, b)]
    both = np.intersect1d(*frames)
    if len(both) < max(_LEAST_FRAMES, _COMMON * min(len(f) for f in frames)):
        return False
    touching, moving, closed = 0, 0, 0
    for t in both.tolist():
        y, x = _seam(state, t, a, b)
        if len(y) < _SEAM:
            continue
        touching += 1
        for s in (t - 1, t + 1):
            if s not in both:
                continue
            p = np.append(points_of(state.maps, t, y, x), np.ones((len(y), 1)), 1)
            at = [(p @ (state.to_cam[k, s] @ inverse(state.to_cam[k, t])).T)[:, :3] for k in (a, b, 0)]
            gone = np.nanmedian(np.linalg.norm(at[0] - at[2], axis=-1))
            if gone < _MOVES:
                continue
            moving += 1
            z = float(np.nanmedian(p[:, 2]))
            limit = _OPENS + 2 * (state.maps.noise[0] + state.maps.noise[1] * z * z)
            closed += np.nanmedian(np.linalg.norm(at[0] - at[1], axis=-1)) < limit
    return touching >= _TOGETHER * len(both) and moving >= _LEAST_FRAMES and closed >= 0.8 * moving


def _seam(state: State, t: int, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of ``a`` in frame t that are beside pixels of ``b`` at about the same depth."""
    ids, depth = state.ids[t], state.maps.depth[t]
    near = ndimage.maximum_filter(np.where(ids == b, depth, 0), 5)
    low = ndimage.minimum_filter(np.where((ids == b) & (depth > 0), depth, np.inf), 5)
    meets = (ids == a) & (near > 0) & (np.minimum(abs(near - depth), abs(low - depth)) < _JUMP * depth)
    return np.nonzero(meets)


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
