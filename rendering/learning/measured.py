"""What measured depths say of the surfaces of a place: points on them with normals, and signed distances everywhere.

All depths are fused along their rays (`hulls.fused`). A measured surface is the front of a wall of some thickness: behind it nobody
saw anything, and a solid that went on from there would stand in the way of whoever looks from elsewhere. So what no picture
saw is air, and so is all that pictures look through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from rendering.camera import Camera
from rendering.learning.hulls import fused
from rendering.learning.pixels import Lenses

_REACH = 0.04  # of the median depth: how far beside a depth it says something
_WALL = 0.75  # of that: how thick walls are
_SPACING, _FINEST = 0.125, 4.0  # of that: between points; and how many of these it is at least
_SLOPE = 0.4  # of the reach, over which normals are taken
_THIN = 0.1  # of a wall: least distance where nobody knows
_LOOKS = (0.5, 0.25)  # of the reach, before and behind a point, where its surface is looked for
_HALVINGS = 3  # of these, at most


@dataclass(frozen=True, eq=False)
class Measured:
    """Surfaces that depths show; world frame, metres.

    Attributes:
        cameras: Of the pictures.
        ahead: Metres along the ray of each pixel, NaN where unknown.
        reach: How far beside a depth it says something.
        spacing: Between points, at least, metres.
        noise: Share of a depth by which it is usually off, beyond what devices do.
        points, normals: On the surfaces; normals look to where they were seen from.
        tree: The points.
    """

    cameras: Sequence[Camera]
    ahead: Sequence[Float[Tensor, "h w"]]
    reach: float
    spacing: float
    noise: float
    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    tree: KDTree

    @staticmethod
    def of(cameras: Sequence[Camera], ahead: Sequence[Float[Tensor, "h w"]], noise: float = 0.0) -> Measured:
        """Fuses depths.

        Args:
            cameras: Of the pictures.
            ahead: For each picture metres along the ray of each pixel (see `hulls.measured_ahead`).
            noise: See above.
        """
        away = torch.cat([x[torch.isfinite(x)][::7] for x in ahead])
        wide = torch.cat([x[torch.isfinite(x)][::7] / c.fx for x, c in zip(ahead, cameras, strict=True)])
        reach = (_REACH + noise) * float(away.median())
        spacing = max(_SPACING * reach, float(wide.median()))  # pixels of coarse pictures lie further apart
        # Where nobody knows, sides are minus the reach, in float32: it is told by being no more than that.
        reach = float(np.float32(max(reach, _FINEST * spacing)))
        points = _gathered(cameras, ahead, spacing)
        found = Measured(cameras, ahead, reach, spacing, noise, points, np.zeros_like(points), KDTree(points[:1]))
        found = dataclasses.replace(found, normals=found._slopes(_SLOPE * reach))
        for share in _LOOKS:
            found = found._placed(share * reach)
        return dataclasses.replace(found, tree=KDTree(found.points))

    def _slopes(self, h: float) -> Float[np.ndarray, "n 3"]:
        """Unit vectors at the points along which the side grows fastest, by differences over ``h`` to both sides. Noise of single
        depths hardly turns them; normals of planes through neighbours it does."""
        steps = h * np.eye(3)
        slope = np.stack([self.side(self.points + step) - self.side(self.points - step) for step in steps], 1)
        return slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-12)

    def _placed(self, h: float) -> Measured:
        """With points moved along their normals to where the side changes within ``h``, or nearer by (rays that graze a surface run
        far until they are behind it); without those where it doesn't."""
        p, found, left = self.points.copy(), np.zeros(len(self.points), bool), np.arange(len(self.points))
        for near in h * 0.5 ** np.arange(_HALVINGS):
            normal = self.normals[left]
            front, behind = (self.side(p[left] + s * near * normal) for s in (1, -1))
            ends = (front > 0) & (behind < 0) & (behind > -self.reach)
            away = near * (front + behind)[ends] / (front - behind)[ends]
            p[left[ends]] -= away[:, None] * normal[ends]
            found[left[ends]] = True
            left = left[~ends]
        return dataclasses.replace(self, points=p[found], normals=self.normals[found])

    def side(self, p: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m"]:
        """Metres along rays to the surface, cut to the reach, negative behind it; minus the reach where nobody knows."""
        inputs = torch.from_numpy(p), self.cameras, self.ahead, self.reach
        return fused(*inputs).double().numpy()

    @property
    def wall(self) -> float:
        """How thick walls are, metres."""
        return _WALL * self.reach

    def signed_distance(self, p: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m"]:
        """Metres to the nearest surface, negative in walls."""
        distance, nearest = map(np.asarray, self.tree.query(p))
        along = ((p - self.points[nearest]) * self.normals[nearest]).sum(1)
        beside = np.sqrt(np.maximum(distance**2 - along**2, 0))
        beside = np.maximum(beside - self.spacing, 0)  # a point stands for its surroundings
        distance = np.hypot(along, beside)
        side = self.side(p)
        wall = np.abs(distance - self.wall / 2) - self.wall / 2
        # Where nobody knows, a wall goes on behind its points; away from it as from a slab behind the nearest point.
        slab = np.hypot(np.maximum(-along - self.wall, 0), beside)
        behind = np.where(slab > 0, np.maximum(slab, _THIN * self.wall), wall)
        unknown = np.where(along > 0, distance, behind)
        return np.where(side > 0, distance, np.where(side > -self.reach, wall, unknown))


def _gathered(cameras: Sequence[Camera], ahead: Sequence[Tensor], spacing: float) -> Float[np.ndarray, "n 3"]:
    """Measured points, their mean in each cell of ``spacing``."""
    found = []
    for camera, away in zip(cameras, ahead, strict=True):
        pixel = torch.isfinite(away.reshape(-1)).nonzero()[:, 0]
        o, d, _ = Lenses([camera]).rays(torch.zeros_like(pixel), pixel)
        found.append((o + away.reshape(-1)[pixel, None] * d).double().numpy())
    p = np.concatenate(found)
    cell = np.floor((p - p.min(0)) / spacing).astype(np.int64)
    n = cell.max(0) + 1
    row = np.unique((cell[:, 0] * n[1] + cell[:, 1]) * n[2] + cell[:, 2], return_inverse=True)[1]
    return np.stack([np.bincount(row, p[:, c]) for c in range(3)], 1) / np.bincount(row)[:, None]
