"""One track: from a seed it is followed through the clip, frame by frame, until it is lost."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from scenes.video.camera import largest_motion, lifted_flow, points_of
from scenes.video.labels import labels_of, track_costs
from scenes.video.regions import parts_in_space, parts_of, widened
from scenes.video.rigid import Fit, align, exp, inverse, judge, outline_of
from scenes.video.state import State

LEAST = 24  # pixels of a region that may become a track
_AGREE = 0.6  # share of the visible pixels that must be consistent, else the track is lost
_OPEN = 0.25  # cost above which a pixel may belong to another track
_FAR = 0.12  # metres that a thing may go in a frame
_TURN = 0.25  # radians that a thing may turn by in a frame
_CERTAIN = 0.9  # share at which no other guess is tried

# Rotation vectors within the unit ball, the shortest first: no turn, then a spiral on each of two spheres.
_SPIRAL = np.arccos(1 - (2 * np.arange(12) + 1) / 12), np.arange(12) * np.pi * (1 + 5**0.5)
_SPHERE = np.stack(
    [np.sin(_SPIRAL[0]) * np.cos(_SPIRAL[1]), np.sin(_SPIRAL[0]) * np.sin(_SPIRAL[1]), np.cos(_SPIRAL[0])], -1
)
_TURNS = np.concatenate([np.zeros((1, 3)), 0.5 * _SPHERE, _SPHERE])


def seed_of(
    state: State, t: int, mask: np.ndarray, rng: np.random.Generator
) -> tuple[int, np.ndarray, np.ndarray] | None:
    """The neighbouring frame, the motion to it, and the pixels of the region that follow it."""
    best = None
    for way in (0, 1):
        s = t + 1 - 2 * way
        if not 0 <= s < state.n_frames:
            continue
        at, p, q = lifted_flow(state.maps, t, way, mask)
        if len(p) < 12:
            continue
        T, inside = largest_motion(state.maps, p, q, rng, at)
        if best is None or inside.sum() > best[3]:
            follows = np.zeros(mask.shape, bool)
            follows[tuple(at[inside].T)] = True
            follows = ndimage.binary_closing(follows, np.ones((3, 3))) & mask
            parts, n = parts_of(follows)
            if n == 0:
                continue
            follows = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
            best = (s, T, follows, int(inside.sum()))
    if best is None or best[2].sum() < LEAST // 2:
        return None
    return best[:3]


def follow(
    state: State, t0: int, s0: int, motion: np.ndarray, seed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A track from a seed through the clip, both ways, until it is lost.

    The object's frame is the camera's of frame ``t0``. Returns poses [F 4 4], where they are known [F], and masks [F H W].
    """
    n = state.n_frames
    to_cam = np.tile(np.eye(4), (n, 1, 1))
    have = np.zeros(n, bool)
    masks = np.zeros((n, *seed.shape), bool)
    have[t0] = True
    masks[t0] = seed
    first = 1 if s0 > t0 else -1
    for way in (first, -first):
        s = t0 + way
        while 0 <= s < n:
            guesses = guesses_of(state, to_cam, have, masks, s, way)
            if s == s0:
                guesses.insert(0, motion @ to_cam[t0])
            if not extend(state, to_cam, have, masks, s, guesses):
                break
            s += way
    return to_cam, have, masks


def guesses_of(
    state: State, to_cam: np.ndarray, have: np.ndarray, masks: np.ndarray, s: int, way: int
) -> list[np.ndarray]:
    """Poses to start from in frame s: at rest in the world, on with the last motion, and along the optical flow."""
    t, r = s - way, s - 2 * way
    world = state.to_cam[0]
    now = inverse(world[t]) @ to_cam[t]
    found = [world[s] @ now]
    if 0 <= r < state.n_frames and have[r]:
        last = inverse(world[r]) @ to_cam[r]
        y, x = np.nonzero(masks[t])
        if len(y):
            p = np.nanmean(points_of(state.maps, t, y, x), 0)
            p = inverse(to_cam[t])[:3] @ np.append(p, 1)
            centre, before = now[:3, :3] @ p + now[:3, 3], last[:3, :3] @ p + last[:3, 3]
            go = np.eye(4)
            go[:3, :3] = now[:3, :3] @ last[:3, :3].T
            go[:3, 3] = 2 * centre - before - go[:3, :3] @ centre
            found.append(world[s] @ go @ now)
    _, p, q = lifted_flow(state.maps, t, (1 - way) // 2, masks[t])
    if len(p) >= 8:
        found.append(largest_motion(state.maps, p, q, np.random.default_rng(s))[0] @ to_cam[t])
    return found


def moved_guesses(
    state: State, to_cam: np.ndarray, masks: np.ndarray, t: int, s: int, bad: np.ndarray
) -> list[np.ndarray]:
    """Poses in frame s that put the track, as it stands in frame t, onto each region [H W] that isn't explained, turned by
    angles that a thing may have turned by meanwhile."""
    y, x = np.nonzero(masks[t])
    centre = np.nanmedian(points_of(state.maps, t, y, x), 0)
    world = state.to_cam[0]
    here = world[s] @ inverse(world[t])
    start = here[:3, :3] @ centre + here[:3, 3]
    parts, n = parts_in_space(bad, state.maps.depth[s])
    found = []
    for k in range(1, n + 1):
        v, u = np.nonzero(parts == k)
        if len(v) < LEAST // 2:
            continue
        shift = np.nanmedian(points_of(state.maps, s, v, u), 0) - start
        if np.linalg.norm(shift) < _FAR * max(1, abs(s - t)):
            for turn in _TURNS * min(_TURN * abs(s - t), np.pi):
                move = exp(np.append(turn, [0, 0, 0])) @ here
                move[:3, 3] += start + shift - move[:3, :3] @ centre - move[:3, 3]
                found.append(move @ to_cam[t])
    return found


def extend(
    state: State, to_cam: np.ndarray, have: np.ndarray, masks: np.ndarray, s: int, guesses: list[np.ndarray]
) -> bool:
    """Poses a track in one more frame, and finds its pixels there; False where it is lost."""
    known = np.flatnonzero(have & masks.any((1, 2)))
    near = known[np.argsort(np.abs(known - s), kind="stable")][:3].tolist()
    best: Fit | None = None
    outline = np.full((*masks.shape, 2), np.nan, np.float32)
    outline[s] = outline_of(((_others(state, s) > _OPEN) & (state.maps.depth[s] > 0))[None])[0]
    order = sorted(judge(state.maps, masks, near, s, to_cam, guesses), key=lambda fit: fit.cost)
    for guess in order[:3]:
        to_cam[s] = guess.T_s_t
        fit = align(state.maps, masks, near, s, to_cam, outline=outline, rounds=4, most=200)
        if best is None or fit.cost < best.cost:
            best = fit
        if best.agree > _CERTAIN:
            break
    if best is None or best.agree < _AGREE or best.n < 0.2 * LEAST * len(near):
        return False
    to_cam[s] = best.T_s_t
    have[s] = True
    masks[s] = _own_pixels(state, to_cam, have, masks, s)
    if masks[s].sum() < LEAST // 2:
        have[s] = False
        return False
    return True


def _others(state: State, s: int) -> np.ndarray:
    """[H W] the least cost of each pixel under the tracks that are known; 1 without depth."""
    cost = state.cost[s]
    return np.where(np.isnan(cost), 1.0, cost).min(0).astype(np.float32)


def _own_pixels(state: State, to_cam: np.ndarray, have: np.ndarray, masks: np.ndarray, s: int) -> np.ndarray:
    """Pixels of frame s that the track explains better than all others, near to where its known pixels come to lie."""
    known = np.flatnonzero(have)
    refs = known[np.argsort(np.abs(known - s), kind="stable")][1:9]
    row = np.full((1, 8), -1)
    row[0, : len(refs)] = refs
    height, width = state.maps.depth.shape[1:]
    core = np.zeros((height, width), bool)
    fx, fy, cx, cy = state.maps.lens
    for t in refs[:2]:
        y, x = np.nonzero(masks[t])
        if len(y) == 0:
            continue
        T = to_cam[s] @ inverse(to_cam[t])
        q = points_of(state.maps, t, y, x) @ T[:3, :3].T + T[:3, 3]
        q = q[q[:, 2] > 0.05]
        u = np.floor(fx * q[:, 0] / q[:, 2] + cx).astype(int)
        v = np.floor(fy * q[:, 1] / q[:, 2] + cy).astype(int)
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        u, v, z = u[inside], v[inside], q[inside, 2]
        close = np.abs(state.maps.depth[s, v, u] - z) < 0.02
        core[v[close], u[close]] = True
    reach = widened(core, 3)
    frames = np.array([s])
    mine = track_costs(state.maps, to_cam, have, frames, row, reach[None])
    pair = np.stack([_others(state, s), mine[0]])[None]
    pair[:, :, state.maps.depth[s] <= 0] = np.nan
    won = labels_of(pair, state.ties[frames])[0] == 1
    parts, n = parts_in_space(won & reach, state.maps.depth[s])
    if n == 0:
        return np.zeros_like(won)
    sizes = np.bincount(parts.ravel())
    touches = np.bincount(parts.ravel(), weights=core.ravel().astype(float), minlength=n + 1)
    good = (touches > 0.2 * sizes) & (sizes >= 4)
    good[0] = False
    return good[parts] & won
