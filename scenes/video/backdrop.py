"""What pixels show that have no depth and look past all shapes, such as sky: a shell far behind everything."""

from __future__ import annotations

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from scenes.video.clip import Clip
from scenes.video.decomposition import Decomposition
from scenes.video.looks import camera_at, composite_at
from scenes.video.shapes import BACKDROP, Part, Shaped, learn_solids
from scenes.video.volume import Grid, surface

_LEAST = 0.002  # share of all pixels
_BEYOND = 1.5  # times the greatest depth
_MARGIN_DEG = 6.0
_CELLS, _THICK = 72, 2.5  # along its edge; cells
_WAYS = 4000


@torch.no_grad()
def past_all(
    clip: Clip, found: Decomposition, shapes: list[Shaped], learned: Bool[np.ndarray, "f"]
) -> Float[np.ndarray, "n 3"]:
    """Directions (world frame) of the pixels of learned frames that show nothing that was measured and look past the shapes."""
    ways = [np.zeros((0, 3))]
    shapes = [s for s in shapes if s.bent is None]
    for t in np.flatnonzero(learned).tolist():
        pixel = np.flatnonzero((found.ids[t] == 0) & (clip.depth[t] == 0))
        camera = camera_at(clip, found, t)
        rays = camera.rays(camera.pixel_centers(torch.from_numpy(pixel)))
        past = composite_at(shapes, t).trace(rays).owner < 0
        ways.append(rays.directions[past].double().numpy())
    return np.concatenate(ways)


def backdrop_part(clip: Clip, found: Decomposition, learned: Bool[np.ndarray, "f"]) -> Part:
    """The backdrop as a part: it stands about the cameras."""
    pose = np.tile(np.eye(4), (len(clip), 1, 1))
    pose[:, :3, 3] = found.cameras[:, :3, 3].mean(0)
    return Part(BACKDROP, "backdrop", True, pose, learned, np.ones(len(clip), bool))


def add_backdrop(
    clip: Clip,
    found: Decomposition,
    shapes: list[Shaped],
    learned: Bool[np.ndarray, "f"],
    *,
    steps: int,
    seed: int = 0,
) -> tuple[list[Shaped], list[trimesh.Trimesh], list[str]]:
    """A backdrop and its surface, where enough pixels show one, and notes; else nothing."""
    ways = past_all(clip, found, shapes, learned)
    if len(ways) < _LEAST * learned.sum() * clip.depth[0].size:
        return [], [], []
    far = _BEYOND * float(clip.depth.max())
    mesh = shell(ways, far)
    if mesh is None:
        return [], [], []
    (field,), said = learn_solids([mesh], steps=steps, seed=seed)
    share = 100 * len(ways) / (learned.sum() * clip.depth[0].size)
    note = (
        f"{share:.0f} % of the pixels show nothing that was measured: they are painted on a backdrop {far:.3g} m away"
    )
    return [Shaped(backdrop_part(clip, found, learned), field)], [mesh], [note, *said]


def shell(ways: Float[np.ndarray, "n 3"], radius: float) -> trimesh.Trimesh | None:
    """The part of a thick sphere about the origin that lies in some unit directions, and a little beside them."""
    some = KDTree(ways[:: max(1, len(ways) // _WAYS)])
    reach = np.radians(_MARGIN_DEG)
    p = radius * some.data
    grid = Grid.around(p.min(0), p.max(0), float(np.ptp(p, axis=0).max()) / _CELLS, 8.0)
    axes = [grid.first[k] + grid.cell * np.arange(grid.shape[k]) for k in range(3)]
    at = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    away = np.linalg.norm(at, axis=-1)
    apart = 2 * np.arcsin(np.minimum(some.query(at / np.maximum(away, 1e-9)[..., None])[0] / 2, 1))
    value = np.maximum(np.abs(away - radius) - _THICK * grid.cell, radius * (apart - reach)) / grid.cell
    return surface(grid, value.astype(np.float32))
