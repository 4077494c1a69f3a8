"""Large planes of the still world: floor, walls, tables. They are no parts of things."""

from __future__ import annotations

import numpy as np

from scenes.video.camera import points_of
from scenes.video.rigid import inverse
from scenes.video.state import State

_PLANE, _MOST_PLANES, _TRIALS = 0.04, 10, 60  # share of the still points that a plane holds
_THICK, _PARALLEL = 0.02, 0.9  # metres, beside the noise, and cosine, within which pixels are on a plane


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
