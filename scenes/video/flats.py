"""Large planes of the still world: floor, walls, tables. They are no parts of things."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from scenes.video.camera import points_of
from scenes.video.rigid import inverse
from scenes.video.state import State

_PLANE, _MOST_PLANES, _TRIALS = 0.04, 10, 60  # share of the still points that a plane holds
_LEVEL, _ROLL = 0.5, 0.35  # of a floor's normal: least part along a picture's upright, most part across it
_LEVELS = 0.97  # cosine between the normals of level planes
_THICK, _PARALLEL = 0.02, 0.9  # metres, beside the noise, and cosine, within which pixels are on a plane


def large_planes(state: State) -> list[tuple[Float[np.ndarray, "3"], float]]:
    """Normals (towards the cameras) and offsets ``d`` of the large planes ``normal @ p = d`` of the still world, largest first."""
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
    return planes


def plane_pixels(state: State) -> Bool[np.ndarray, "f h w"]:
    """Pixels of the still world on large planes: floor, walls, tables."""
    maps, back, planes = state.maps, inverse(state.to_cam[0]), large_planes(state)
    out = np.zeros(state.ids.shape, bool)
    grid = np.indices(state.ids.shape[1:])
    y, x = grid[0], grid[1]
    for t in range(state.n_frames):
        q = points_of(maps, t, y, x) @ back[t, :3, :3].T + back[t, :3, 3]
        z = maps.depth[t]
        thick = _THICK + 3 * (maps.noise[0] + maps.noise[1] * z * z)
        for normal, d in planes:  # whatever its side: noise turns normals
            out[t] |= abs(q @ normal - d) < thick
    return out


def upright(state: State) -> tuple[Float[np.ndarray, "4 4"], bool]:
    """A world in which z points up, from the world that a clip's tracks are in; and whether a level plane told what is up.

    The largest plane that cameras look down on, held without much roll, is level: a floor, or a table. z = 0 is the lowest such
    plane. Without one, up is the mean upright of the pictures, and z = 0 the first camera. It stands at x = y = 0, looking along y.
    """
    cameras = inverse(state.to_cam[0])
    right, held = cameras[:, :3, 0].mean(0), -cameras[:, :3, 1].mean(0)
    planes = large_planes(state)
    floors = [n for n, _ in planes if n @ held > _LEVEL * np.linalg.norm(held) and abs(n @ right) < _ROLL]
    up = floors[0] if floors else held / np.linalg.norm(held)
    x = np.cross(cameras[0, :3, 2], up)
    if np.linalg.norm(x) < 1e-3:  # looks straight up or down
        x = cameras[0, :3, 0] - (cameras[0, :3, 0] @ up) * up
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3] = np.stack([x, np.cross(up, x), up])
    T[:3, 3] = -T[:3, :3] @ cameras[0, :3, 3]
    if floors:
        T[2, 3] = -min(d for n, d in planes if n @ up > _LEVELS)
    return T, bool(floors)
