"""The camera's path where it isn't given: the largest rigid motion between neighbouring frames is that of the still world."""

from __future__ import annotations

import numpy as np

from objects.progress import Bar
from scenes.video.labels import SILENT_WORLD, track_costs
from scenes.video.maps import Maps, noise_of
from scenes.video.rigid import align, inverse, kabsch, solve_track

_TRIALS = 200
_NEAR, _DRAWS = 12, 16  # pixels within which pairs are neighbours, and how many of them are drawn
_EVERY, _ENOUGH = 7, 1000  # of the pixels one is compared between frames; so many have to be there
_EDGE = 0.05  # of the depth: what is farther apart is another surface
_STILL = 0.25  # cost of a pixel up to which it is taken for a part of the still world


def points_of(maps: Maps, t: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Camera frame [n 3] of pixels of frame t; NaN where depth is missing."""
    fx, fy, cx, cy = maps.lens
    z = maps.depth[t, y, x].astype(np.float64)
    z = np.where(z > 0, z, np.nan)
    return np.stack([(x + 0.5 - cx) / fx * z, (y + 0.5 - cy) / fy * z, z], -1)


def lifted_flow(maps: Maps, t: int, way: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels [n 2] (y, x) of a mask whose flow is known, their points in frame t and those that the flow leads to in t ± 1.

    ``way``: 0 for the next frame, 1 for the previous one.
    """
    s = t + 1 - 2 * way
    height, width = mask.shape
    y, x = np.nonzero(mask & np.isfinite(maps.flows[way, t, ..., 0]))
    flow = maps.flows[way, t, y, x]
    u, v = np.floor(x + 0.5 + flow[:, 0]), np.floor(y + 0.5 + flow[:, 1])
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    y, x, flow, u, v = y[inside], x[inside], flow[inside], u[inside].astype(int), v[inside].astype(int)
    p, q = points_of(maps, t, y, x), points_of(maps, s, v, u)
    # On the ray of the exact place, at the depth of its pixel.
    fx, fy, cx, cy = maps.lens
    q[:, 0] = (x + 0.5 + flow[:, 0] - cx) / fx * q[:, 2]
    q[:, 1] = (y + 0.5 + flow[:, 1] - cy) / fy * q[:, 2]
    good = np.isfinite(p).all(1) & np.isfinite(q).all(1)
    return np.stack([y, x], -1)[good], p[good], q[good]


def largest_motion(
    maps: Maps, p: np.ndarray, q: np.ndarray, rng: np.random.Generator, near: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rigid motion that most pairs of points follow, and which do (RANSAC with three pairs, then least squares).

    ``near`` [n 2]: pixels; then the three pairs come from one neighbourhood, so that small things have a chance.
    """
    z = p[:, 2]
    tolerance = 0.002 + 3 * (maps.noise[0] + maps.noise[1] * z * z) + 0.7 * z / maps.lens[0]
    n = len(p)
    first = rng.integers(n, size=_TRIALS)
    others = rng.integers(n, size=(_TRIALS, 2)) if near is None else _neighbours(near, z, first, rng)
    triples = np.concatenate([first[:, None], others], 1)
    T = kabsch(p[triples], q[triples])
    some = np.arange(n) if n < 800 else rng.choice(n, 800, replace=False)
    moved = (T[:, :3, :3].reshape(-1, 3) @ p[some].T).reshape(_TRIALS, 3, -1) + T[:, :3, 3:]
    off = ((moved - q[some].T) ** 2).sum(1)
    score = np.clip(1 - off / tolerance[some] ** 2, 0, None).sum(1)
    best = T[np.argmax(score)]
    inside = np.zeros(n, bool)
    for _ in range(4):
        off = np.linalg.norm(p @ best[:3, :3].T + best[:3, 3] - q, axis=-1)
        inside = off < tolerance
        if inside.sum() < 3:
            break
        best = kabsch(p[inside], q[inside])
    return best, inside


def _neighbours(near: np.ndarray, z: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each of some pairs two others [n 2] that are neighbours in the picture and in depth, or itself again."""
    low = near.min(0) - _NEAR
    number = np.full(near.max(0) - low + _NEAR + 1, -1)
    number[tuple((near - low).T)] = np.arange(len(near))
    steps = rng.integers(-_NEAR, _NEAR + 1, (len(first), 2, _DRAWS, 2))
    drawn = number[tuple(np.moveaxis(near[first, None, None] - low + steps, -1, 0))]
    here = z[first, None, None]
    good = (drawn >= 0) & (np.abs(z[drawn] - here) < 0.06 * here)
    pick = np.take_along_axis(drawn, good.argmax(-1)[..., None], -1)[..., 0]
    return np.where(good.any(-1), pick, first[:, None])


def find_cameras(maps: Maps, refs: np.ndarray) -> np.ndarray:
    """World to camera [F 4 4]; the world is the frame of the first camera."""
    n = len(maps.depth)
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (n, 1, 1))
    everything = (maps.depth > 0) & (maps.normal[..., 2] != 0)
    have = np.zeros(n, bool)
    have[0] = True
    still = everything.copy()
    for t in Bar(range(n - 1), desc="cameras", unit="frame"):
        _, p, q = lifted_flow(maps, t, 0, everything[t])
        step, _ = largest_motion(maps, p, q, rng) if len(p) >= 50 else (np.eye(4), None)
        poses[t + 1] = step @ poses[t]
        poses[t + 1] = align(maps, still, [t], t + 1, poses, most=2000, rounds=4).T_s_t
        have[t + 1] = True
    for _ in range(2):
        cost = track_costs(maps, poses, have, np.arange(n), refs, silent=SILENT_WORLD)
        still = everything & (cost < _STILL)
        fixed = np.arange(n) == 0
        poses, _ = solve_track(maps, still, poses, have, fixed=fixed, most=1500, outlined=False)
    return poses


def noise_between(maps: Maps, world_to_cam: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The noise of the depth (`Maps.noise`), at least what the still world shows between frames.

    Errors of a sensor that neighbouring pixels share, such as steps of a disparity or a calibration that is off, don't show within
    a frame. Frames are compared along normals, by medians, so that what moves doesn't count.

    Args:
        world_to_cam: [F 4 4]
        pairs: [n 2] frames that are compared.
    """
    depths, offs = [], []
    fx, fy, cx, cy = maps.lens
    height, width = maps.depth.shape[1:]
    for t, s in pairs.tolist():
        y, x = np.nonzero((maps.depth[t] > 0) & (maps.normal[t, ..., 2] != 0))
        y, x = y[::_EVERY], x[::_EVERY]
        T = world_to_cam[s] @ inverse(world_to_cam[t])
        q = points_of(maps, t, y, x) @ T[:3, :3].T + T[:3, 3]
        q = q[q[:, 2] > 0.05]
        u, v = np.floor(fx * q[:, 0] / q[:, 2] + cx).astype(int), np.floor(fy * q[:, 1] / q[:, 2] + cy).astype(int)
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        u, v, q = u[inside], v[inside], q[inside]
        r = ((q - points_of(maps, s, v, u)) * maps.normal[s, v, u]).sum(-1)
        there = (maps.depth[s, v, u] > 0) & (maps.normal[s, v, u, 2] != 0) & (abs(r) < _EDGE * q[:, 2])
        depths.append(q[there, 2])
        offs.append(r[there] / np.sqrt(2))
    depth, off = np.concatenate(depths), np.concatenate(offs)
    return np.maximum(maps.noise, noise_of(depth, off)) if len(off) > _ENOUGH else maps.noise
