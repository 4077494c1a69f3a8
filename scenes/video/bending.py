"""Things that bend: tracks that are parts of one thing, and what moves but follows no rigid motion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from scenes.video.camera import points_of
from scenes.video.flats import plane_pixels
from scenes.video.regions import nearest, parts_in_space, widened
from scenes.video.rigid import inverse
from scenes.video.state import State

_TOGETHER = 0.8  # share of the common frames in which parts of one thing touch
_CLOSED = 0.75  # share of the moves in which their seam stays closed
_COMMON = 0.6  # share of the shorter one's frames that are common
_SEAM = 4  # pixels at which two parts meet, at least
_JUMP = 0.03  # relative difference of depth across a seam
_OPENS = 0.006  # metres, beside the noise, by which a seam may open from frame to frame
_BESIDE = 2.0  # pixels by which it is seen beside the place about which its sides turn
_SLIDES = 0.7  # share of the motion that a seam may open by
_MOVES = 0.004  # metres from frame to frame: slower is rest, which tells nothing
_TOLD = 12  # of the noise, that things must move by for a seam to tell
_LEAST_FRAMES = 3
_LEFT, _THERE = 0.03, 0.5  # metres, beside the noise, that two things are apart; share of one that is seen at rest
_SHARE = 0.6  # share of the visible pixels that agree, below which a track is no rigid thing
_SEEN_THROUGH = 0.45  # cost under the still world that colour alone doesn't reach
_LEAST, _THICKNESS = 40, 0.012  # pixels of what no track explains; half its width, a share of the picture's
_LASTING, _LASTING_SHARE = 4, 1 / 3  # frames, and share of the clip, that it lasts: rims come and go
_STILL = 0.4  # of what is seen to move of a thing that bends: a part of it that doesn't isn't larger
_UNEXPLAINED = 0.14  # share of a thing that its motion doesn't explain, above which it bends: wrong poses leave a tenth


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
            if trunk or (_one_thing(state, ids, a, b) and not _came_together(state, ids, a, b)):
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
            turn = np.arccos(np.clip((np.trace(ways[0][:3, :3] @ ways[1][:3, :3].T) - 1) / 2, -1, 1))
            limit = _OPENS + 2 * noise + turn * _BESIDE * z / state.maps.lens[0]
            closed += _apart(ways[0], ways[1], here) < min(limit, _SLIDES * gone)
    # What stands still is labelled as such up to where it begins to bend: that seam opens.
    closed = moving if b == 0 else closed
    return touching >= _TOGETHER * len(both) and moving >= _LEAST_FRAMES and closed >= _CLOSED * moving


def _came_together(state: State, ids: np.ndarray, a: int, b: int) -> bool:
    """Whether one of two tracks that touch comes to the other, or leaves it, where that rests: a thing and what it pushes.

    Before a thing is pushed it is a part of the still world. Where it begins or ends to be a track it is held still in the
    world, and counts in the frames in which it is seen there.
    """
    for mover, rests in ((a, b), (b, a)):
        known = np.flatnonzero(state.have[rests] & (ids == rests).any((1, 2)))
        moving = np.flatnonzero(state.have[mover] & (ids == mover).any((1, 2)))
        for way, others in ((1, moving[moving < known[0]]), (-1, moving[moving > known[-1]])):
            near = known[::way][: _LEAST_FRAMES + 1]
            seams = [(t, _seam(state, ids, t, mover, rests)) for t in near.tolist()]
            seams = [(t, at) for t, at in seams if len(at[0]) >= _SEAM]
            if not seams or len(others) == 0:
                continue
            (t, at), edge = seams[0], near[0]
            seam = points_of(state.maps, t, *at)
            mine = points_of(state.maps, edge, *np.nonzero(ids[edge] == rests))
            noise = state.maps.noise[0] + state.maps.noise[1] * float(np.nanmedian(seam[:, 2])) ** 2
            for s in others.tolist():
                moved = state.to_cam[mover, s] @ inverse(state.to_cam[mover, t])
                still = state.to_cam[0, s] @ inverse(state.to_cam[0, edge])
                held = still @ state.to_cam[rests, edge] @ inverse(state.to_cam[rests, t])
                if _apart(moved, held, seam) > _LEFT + 6 * noise and _is_there(state, mine, still, s):
                    return True
    return False


def _is_there(state: State, points: np.ndarray, motion: np.ndarray, s: int) -> bool:
    """Whether points [n 3] of another frame are mostly seen in frame s after a motion."""
    q = points @ motion[:3, :3].T + motion[:3, 3]
    fx, fy, cx, cy = state.maps.lens
    height, width = state.maps.depth.shape[1:]
    with np.errstate(invalid="ignore"):
        u, v = fx * q[:, 0] / q[:, 2] + cx, fy * q[:, 1] / q[:, 2] + cy
        inside = (q[:, 2] > 0.05) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    d = state.maps.depth[s, v[inside].astype(int), u[inside].astype(int)]
    z = q[inside, 2]
    near = abs(d - z) < 0.005 + 4 * (state.maps.noise[0] + state.maps.noise[1] * z * z)
    return bool((near & (d > 0)).sum() > _THERE * max((d > 0).sum(), 1))


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
    """A mask [F H W] with what no track explains and hangs together with it in space."""
    out = masks.copy()
    bad = state.unexplained() & (state.ids == 0)
    for t in np.flatnonzero(masks.any((1, 2)) & bad.any((1, 2))).tolist():
        depth = state.maps.depth[t]
        parts, _ = parts_in_space(bad[t] | masks[t], depth)
        touched = np.unique(parts[masks[t] & (parts > 0)])
        out[t] |= np.isin(parts, touched) & bad[t]
    return out


def join_still(state: State, masks: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """A mask [F H W] of something that bends, with parts that stand still, are on no plane and have mostly it about them.

    Args:
        planes: [F H W] `plane_pixels`.
    """
    out = masks.copy()
    for t in np.flatnonzero(masks.any((1, 2))).tolist():
        parts, n = parts_in_space((state.ids[t] == 0) & ~planes[t] & ~masks[t], state.maps.depth[t])
        near, _ = parts_in_space(~planes[t] | masks[t], state.maps.depth[t])
        for k in range(1, n + 1):
            part = parts == k
            ring = widened(part, 2) & ~part & np.isin(near, near[part]) & (near > 0)
            if _LEAST / 2 <= part.sum() <= _STILL * masks[t].sum() and masks[t][ring].sum() > 0.5 * ring.sum():
                out[t] |= part
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
            if mask.sum() < _LEAST or nearest(~mask)[0].max() < _THICKNESS * mask.shape[1]:
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
    lasting = max(_LASTING, _LASTING_SHARE * state.n_frames)
    return [c for c in chains if c.any((1, 2)).sum() >= lasting]


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
    """Whether a group of tracks is no rigid thing: several tracks, or one that doesn't explain what hangs together with it."""
    if len(group) > 1:
        return True
    (k,) = group
    mine = (state.ids == k) & state.have[k][:, None, None]
    if not mine.any():
        return True
    left = join_unexplained(state, mine) & ~mine | mine & state.unexplained()
    known = mine.any((1, 2))
    return bool(left.sum() > _UNEXPLAINED * mine.sum() or np.median(state.share[k][known]) <= _SHARE)


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
