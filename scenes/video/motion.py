"""What the tracks of a clip say together: what rests, what never moves, and who carries whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scenes.video.camera import points_of
from scenes.video.rigid import inverse
from scenes.video.state import State

_STILL_M, _STILL_DEG = 0.01, 4.0  # what moves less is background
_STILL_PIXEL = 0.7  # of a pixel's width, beside the noise: what moves less can't be told from the background
_REST = 0.0012  # metres, beside the noise: what stays within is at rest
_TOGETHER = 0.004  # metres, beside the noise: what stays within moves as one
_MOVED = 0.03  # metres that two things must go together
_TOUCH = 0.03  # metres
_LEAST_FRAMES = 4


def probes(state: State, world: np.ndarray, k: int) -> np.ndarray:
    """Points [8 3] of a track's frame that span what was seen of it: the corners of the box of its pixels' points."""
    p = surface(state, world, k)
    lo, hi = np.quantile(p, 0.02, axis=0), np.quantile(p, 0.98, axis=0)
    return np.array([[(lo, hi)[i >> a & 1][a] for a in range(3)] for i in range(8)])


def surface(state: State, world: np.ndarray, k: int, most: int = 200) -> np.ndarray:
    """Points [n 3] of a track's pixels in its own frame."""
    found = []
    for t in np.flatnonzero(state.have[k]).tolist():
        y, x = np.nonzero(state.ids[t] == k)
        step = max(1, len(y) // most)
        T = inverse(state.to_cam[k, t])
        found.append(points_of(state.maps, t, y[::step], x[::step]) @ T[:3, :3].T + T[:3, 3])
    p = np.concatenate(found) if found else np.zeros((0, 3))
    p = p[np.isfinite(p).all(1)]
    return p if len(p) else np.zeros((1, 3))


def _placed(poses: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.einsum("fij,nj->fni", poses[:, :3, :3], points) + poses[:, None, :3, 3]


def _noise(state: State, k: int) -> float:
    z = np.median(state.to_cam[k, state.have[k], 2, 3]) if state.have[k].any() else 1.0
    seen = state.maps.depth[state.ids == k]
    z = float(np.median(seen[seen > 0])) if (seen > 0).any() else float(z)
    return float(state.maps.noise[0] + state.maps.noise[1] * z * z)


def steady(state: State, world: np.ndarray, k: int, seen: np.ndarray) -> bool:
    """Whether a track never moves: within a centimetre and four degrees all the time, or within what can be told of it."""
    frames = np.flatnonzero(seen)
    if len(frames) < 2:
        return True
    spans = probes(state, world, k)
    at = _placed(world[k, frames], spans).mean(1)
    R = world[k, frames, :3, :3] @ world[k, frames[0], :3, :3].T
    turned = np.degrees(np.arccos(np.clip((np.trace(R, axis1=1, axis2=2) - 1) / 2, -1, 1))).max()
    z = float(np.median(state.to_cam[0, frames] @ np.append(at.mean(0), 1), axis=0)[2])
    least = max(_STILL_M, _STILL_PIXEL * z / state.maps.lens[0] + 3 * _noise(state, k))
    radius = max(float(np.linalg.norm(np.ptp(spans, axis=0))) / 2, 1e-3)
    return bool(np.ptp(at, axis=0).max() < least and turned < max(_STILL_DEG, np.degrees(least / radius)))


def rested(state: State, world: np.ndarray, k: int) -> np.ndarray:
    """The poses [F 4 4] of a track, one and the same over each stretch in which it stays where it is."""
    poses = world[k].copy()
    at = _placed(poses, probes(state, world, k))
    limit = _REST + _noise(state, k)
    known = np.flatnonzero(state.have[k])
    start = 0
    while start < len(known):
        end = start + 1
        while end < len(known) and known[end] == known[end - 1] + 1:
            mean = at[known[start : end + 1]].mean(0)
            if np.linalg.norm(at[known[start : end + 1]] - mean, axis=-1).max() > limit:
                break
            end += 1
        if end - start >= _LEAST_FRAMES:
            stretch = known[start:end]
            U, _, Vt = np.linalg.svd(poses[stretch, :3, :3].sum(0))
            poses[stretch, :3, :3] = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
            poses[stretch, :3, 3] = poses[stretch, :3, 3].mean(0)
        start = max(end, start + 1) if end - start >= _LEAST_FRAMES else start + 1
    return poses


def carried(state: State, world: np.ndarray, kept: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """(child, parent, first, last): stretches in which two tracks touch and move as one; the lower in ``world`` is the parent."""
    spans = {k: surface(state, world, k, 40) for k in kept}
    found = []
    for i, a in enumerate(kept):
        for b in kept[i + 1 :]:
            both = np.flatnonzero(state.have[a] & state.have[b])
            if len(both) < _LEAST_FRAMES:
                continue
            height = [np.median(_placed(world[k, both], spans[k])[..., 2], axis=1) for k in (a, b)]
            parent, child = (a, b) if np.median(height[0] - height[1]) <= 0 else (b, a)
            relative = inverse(world[parent]) @ world[child]
            at = _placed(relative, probes(state, world, child))
            limit = _TOGETHER + 2 * _noise(state, child)
            for first, last in _constant(at, both, limit):
                go = _placed(world[parent, first : last + 1], spans[parent][::7]).mean(1)
                own = _placed(world[child, first : last + 1], spans[child][::7]).mean(1)
                if min(np.ptp(go, axis=0).max(), np.ptp(own, axis=0).max()) < _MOVED:
                    continue
                middle = (first + last) // 2
                p = _placed(relative[middle : middle + 1], spans[child][::3])[0]
                if np.linalg.norm(p[:, None] - spans[parent][None, ::3], axis=-1).min() < _TOUCH:
                    found.append((child, parent, int(first), int(last)))
    return found


def _constant(at: np.ndarray, frames: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """The longest stretches of neighbouring frames in which points [F n 3] stay within a limit of their mean."""
    found, start = [], 0
    while start < len(frames):
        end = start + 1
        while end < len(frames) and frames[end] == frames[end - 1] + 1:
            some = at[frames[start : end + 1]]
            if np.linalg.norm(some - np.median(some, axis=0), axis=-1).mean(1).max() > limit:
                break
            end += 1
        if end - start >= _LEAST_FRAMES:
            found.append((int(frames[start]), int(frames[end - 1])))
            start = end
        else:
            start += 1
    return found
