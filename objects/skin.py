"""A warp that a mesh drives: linear blend skinning and morph targets, carried into space from the nearest surface.

Each vertex of a rest mesh has up to four joints with weights; joints have affine maps at keys, and offsets of morph targets have
amounts. Near the mesh a point keeps its place beside the surface: the nearest point of the bent mesh says which point of the rest
mesh it belongs to, and its offset from there is turned back by the blended joints and by how morph targets turn the faces. So the
surface is mapped to the surface exactly, parts that meet don't stick together, and each point has one canonical place. Beyond a
reach (canonical units) the offset is cut: what is farther away than that is known to be outside, or deep inside, by as much
(`Warp.reached`).

Sources: Magnenat-Thalmann, Laperriere, Thalmann, "Joint-Dependent Local Deformations for Hand Animation and Object Grasping" (1988)
for the blend; glTF 2.0 specification, 3.7.2.2 and 3.7.3.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from objects.aabb import Aabb
from objects.warp import Warp, safe_inverse

if TYPE_CHECKING:
    import igl

_REACH = 0.04  # how far from the mesh offsets are kept, a share of its diagonal: less than half of what parts at rest are apart
_PAD = 0.06  # room around the bent mesh in the box, a share of the bent mesh's diagonal
_KEPT = 64  # bent meshes that are kept, or more
_KEPT_VERTICES = 1_000_000  # of as many vertices together


class _Pose(NamedTuple):
    """The mesh at one time, and the linear map about each vertex."""

    vertices: Float[np.ndarray, "v 3"]
    linear: Float[np.ndarray, "v 3 3"]
    tree: igl.AABB


_POSING = RLock()
_POSES: WeakKeyDictionary[Skin, OrderedDict[float | None, _Pose]] = WeakKeyDictionary()


class Skin(Warp):
    """Linear blend skinning with morph targets, driven by a rest mesh; see this module.

    Args:
        vertices, faces: The rest mesh, canonical frame.
        joints, weights: ``[v, 4]``; weights of a vertex add up to 1, or to 0: it then stays.
        times: ``[k]`` seconds, increasing.
        matrices: ``[k, j, 3, 4]``, at each key the map of each joint from the canonical to the object frame; linear in between.
        targets: ``[m, v, 3]`` offsets of morph targets.
        amounts: ``[k, m]``, how much of each at each key; linear in between.

    Raises:
        ValueError: Shapes that don't fit together, indices out of range, numbers that are not finite, times that don't increase.
    """

    kind = "skin"
    batched = False
    vertices: Tensor
    faces: Tensor
    joints: Tensor
    weights: Tensor
    times: Tensor
    matrices: Tensor
    targets: Tensor
    amounts: Tensor

    def __init__(
        self,
        vertices: Float[np.ndarray, "v 3"],
        faces: Int[np.ndarray, "f 3"],
        joints: Int[np.ndarray, "v 4"],
        weights: Float[np.ndarray, "v 4"],
        times: Float[np.ndarray, "k"],
        matrices: Float[np.ndarray, "k j 3 4"],
        targets: Float[np.ndarray, "m v 3"] | None = None,
        amounts: Float[np.ndarray, "k m"] | None = None,
    ) -> None:
        unit = torch.ones(3)
        super().__init__(Aabb(-unit, unit), (0.0, 1.0))
        targets = np.zeros((0, len(vertices), 3)) if targets is None else targets
        amounts = np.zeros((len(times), 0)) if amounts is None else amounts
        given = (vertices, faces, joints, weights, times, matrices, targets, amounts)
        for name, values in zip(_NAMES, given, strict=True):
            self.register_buffer(name, torch.from_numpy(np.array(values, dtype=np.float32)))
        self.check_values()
        self.seconds = self.times[[0, -1]].clone()
        posed = np.stack([self._bent(float(t))[0] for t in self.times])
        pad = _PAD * float(np.linalg.norm(np.ptp(posed, axis=1), axis=1).max())
        lo, hi = posed.min((0, 1)) - pad, posed.max((0, 1)) + pad
        self.box_lo, self.box_hi = torch.from_numpy(lo).float(), torch.from_numpy(hi).float()

    def config(self) -> dict[str, Any]:
        counts = (self.vertices, self.faces, self.times, self.matrices[0], self.targets)
        return dict(zip(COUNTS, map(len, counts), strict=True))

    @classmethod
    def empty(cls, config: dict[str, Any]) -> Self:
        warp, unit = cls.__new__(cls), torch.ones(3)
        Warp.__init__(warp, Aabb(-unit, unit), (0.0, 1.0))
        v, f, k, j, m = (config[name] for name in COUNTS)
        shapes = ((v, 3), (f, 3), (v, 4), (v, 4), (k,), (k, j, 3, 4), (m, v, 3), (k, m))
        for name, shape in zip(_NAMES, shapes, strict=True):
            warp.register_buffer(name, torch.zeros(shape))
        return warp

    @staticmethod
    def least_numbers(config: dict[str, Any]) -> int:
        """How many numbers a skin of this make-up has."""
        v, f, k, j, m = (config[name] for name in COUNTS)
        return 11 * v + 3 * f + k + 12 * k * j + 3 * m * v + k * m

    def check_values(self) -> None:
        super().check_values()
        v, j, k, m = len(self.vertices), self.matrices.shape[1], len(self.times), len(self.targets)
        wanted = ((v, 3), (len(self.faces), 3), (v, 4), (v, 4), (k,), (k, j, 3, 4), (m, v, 3), (k, m))
        for name, shape in zip(_NAMES, wanted, strict=True):
            values = getattr(self, name)
            if tuple(values.shape) != shape:
                raise ValueError(f"skin: {name} must have shape {list(shape)}, got {list(values.shape)}")
            if not torch.isfinite(values).all():
                raise ValueError(f"skin: {name} must be finite")
        for name, values, count in (("faces", self.faces, v), ("joints", self.joints, j)):
            if not len(values) or not ((values == values.round()) & (values >= 0) & (values < count)).all():
                raise ValueError(f"skin: {name} must be whole numbers from 0 to {count - 1}")
        total = self.weights.sum(1)
        if (self.weights < 0).any() or not (((total - 1).abs() < 1e-3) | (total == 0)).all():
            raise ValueError("skin: weights must be at least 0 and add up to 1 (or to 0) for each vertex")
        if not (self.times.diff() > 0).all():
            raise ValueError(f"skin: times must increase, got {self.times.tolist()[:8]}")

    # -- maps ------------------------------------------------------------------------------------------------------------

    def backward_map(self, p_obj: Tensor, time: Tensor) -> Tensor:
        return self._reached(p_obj, time)[0]

    def reached(
        self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
        return self._reached(p_obj, self.clamped(time))

    def _reached(self, p_obj: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.empty(len(p_obj), 4, dtype=p_obj.dtype)
        for t, rows in _by_time(time):
            pose, p = self._pose(t), p_obj[rows]
            corners, shares = self._nearest(pose, p)
            posed, linear = torch.from_numpy(pose.vertices).to(p), torch.from_numpy(pose.linear).to(p)
            shares = _shares(p, posed[corners], shares.to(p))
            on = (shares[..., None] * posed[corners]).sum(1)
            blended = safe_inverse((shares.detach()[..., None, None] * linear[corners]).sum(1))
            offset = (blended @ (p - on)[..., None])[..., 0]
            kept = (self.reach / offset.detach().norm(dim=-1).clamp(min=1e-12)).clamp(max=1)
            rest = (shares[..., None] * self.vertices.to(p)[corners]).sum(1)
            part = torch.cat([rest + kept[:, None] * offset, ((1 - kept) * (p - on).norm(dim=-1))[:, None]], 1)
            found = found.index_put((rows,), part)
        return found[:, :3], found[:, 3]

    def forward_map(self, p_canonical: Tensor, time: Tensor) -> Tensor:
        found, rest = torch.empty_like(p_canonical), self._pose(None)
        for t, rows in _by_time(time):
            pose, q = self._pose(t), p_canonical[rows]
            corners, shares = self._nearest(rest, q)
            vertices, linear = self.vertices.to(q), torch.from_numpy(pose.linear).to(q)
            shares = _shares(q, vertices[corners], shares.to(q))
            offset = q - (shares[..., None] * vertices[corners]).sum(1)
            blended = (shares.detach()[..., None, None] * linear[corners]).sum(1)
            on = (shares[..., None] * torch.from_numpy(pose.vertices).to(q)[corners]).sum(1)
            found = found.index_put((rows,), on + (blended @ offset[..., None])[..., 0])
        return found

    @property
    def reach(self) -> float:
        """How far from the mesh offsets are kept, canonical units."""
        return _REACH * float((self.vertices.amax(0) - self.vertices.amin(0)).norm())

    def mesh_at(self, time: float) -> Float[np.ndarray, "v 3"]:
        """The vertices of the mesh at a time (seconds, clamped to the span), object frame."""
        start, end = self.span
        return self._pose(min(max(time, start), end)).vertices.copy()

    def _bent(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Vertices at a time, and the linear maps about them."""
        numbers = {name: getattr(self, name).detach().double().numpy() for name in _NAMES}
        times, weights, joints = numbers["times"], numbers["weights"], numbers["joints"].astype(np.int64)
        i = int(np.clip(np.searchsorted(times, time, "right") - 1, 0, max(len(times) - 2, 0)))
        j = min(i + 1, len(times) - 1)
        share = 0.0 if i == j else float(np.clip((time - times[i]) / (times[j] - times[i]), 0, 1))
        matrices = (1 - share) * numbers["matrices"][i] + share * numbers["matrices"][j]
        amounts = (1 - share) * numbers["amounts"][i] + share * numbers["amounts"][j]
        vertices = numbers["vertices"] + np.tensordot(amounts, numbers["targets"], 1)
        blended = np.einsum("vc,vcab->vab", weights, matrices[joints])
        free = weights.sum(1) == 0
        blended[free] = np.eye(3, 4)
        linear = blended[..., :3]
        posed = np.einsum("vab,vb->va", linear, vertices) + blended[..., 3]
        return posed, linear @ _turns(numbers["vertices"], vertices, self._corners) if amounts.any() else linear

    def _pose(self, time: float | None) -> _Pose:
        """The mesh at a time, at rest for None; the last ones are kept."""
        with _POSING:  # threads may ask at once
            known = _POSES.setdefault(self, OrderedDict())
            if time not in known:
                known[time] = self._posed(time)
                if len(known) > max(_KEPT, _KEPT_VERTICES // len(self.vertices)):
                    known.popitem(last=False)
            known.move_to_end(time)
            return known[time]

    def _posed(self, time: float | None) -> _Pose:
        import igl  # it loads slowly, and scenes without skins don't need it

        rest = self.vertices.detach().double().numpy(), np.broadcast_to(np.eye(3), (len(self.vertices), 3, 3))
        vertices, linear = rest if time is None else self._bent(time)
        tree = igl.AABB()
        tree.init(np.ascontiguousarray(vertices), self._corners)
        return _Pose(np.ascontiguousarray(vertices), linear, tree)

    @property
    def _corners(self) -> Int[np.ndarray, "f 3"]:
        return np.ascontiguousarray(self.faces.detach().numpy().astype(np.int64))

    def _nearest(self, pose: _Pose, p: Tensor) -> tuple[Tensor, Tensor]:
        """Corners ``[n, 3]`` of the faces nearest to points, and the shares ``[n, 3]`` of these in the nearest points."""
        import igl

        faces, points = self._corners, np.ascontiguousarray(p.detach().double().numpy())
        _, face, near = pose.tree.squared_distance(pose.vertices, faces, points)
        corners = faces[np.asarray(face)]
        a, b, c = (np.ascontiguousarray(pose.vertices[corners[:, k]]) for k in range(3))
        shares = np.clip(igl.barycentric_coordinates(near, a, b, c), 0, 1)
        shares /= shares.sum(1, keepdims=True)
        return torch.from_numpy(corners), torch.from_numpy(shares)


_NAMES = ("vertices", "faces", "joints", "weights", "times", "matrices", "targets", "amounts")
COUNTS = ("vertices", "faces", "keys", "joints", "targets")  # what the config of a skin counts


def _turns(rest: np.ndarray, moved: np.ndarray, faces: np.ndarray) -> Float[np.ndarray, "v 3 3"]:
    """The linear maps about vertices that moving them makes: the mean over their faces of what turns and stretches these. Lengths
    along normals grow as the root of areas."""

    def frames(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, c = vertices[faces].transpose(1, 0, 2)
        across = np.cross(b - a, c - a)
        area = np.linalg.norm(across, axis=1)
        return np.stack([b - a, c - a, across / np.sqrt(np.maximum(area, 1e-300))[:, None]], -1), area

    (before, area), after = frames(rest), frames(moved)[0]
    good = area > 1e-9 * area.max()  # a sliver says nothing
    maps = np.zeros_like(before)
    maps[good] = after[good] @ np.linalg.inv(before[good])
    total, share = np.zeros((len(rest), 3, 3)), np.zeros(len(rest))
    np.add.at(total, faces, (area * good)[:, None, None, None] * maps[:, None])
    np.add.at(share, faces, (area * good)[:, None])
    total[share == 0], share[share == 0] = np.eye(3), 1
    return total / share[:, None, None]


def _by_time(time: Tensor) -> list[tuple[float, Tensor]]:
    """The different times, and the rows of each."""
    values, which = time.detach().unique(return_inverse=True)
    return [(float(t), (which == k).nonzero()[:, 0]) for k, t in enumerate(values)]


def _shares(p: Tensor, corners: Tensor, nearest: Tensor) -> Tensor:
    """The shares of corners ``[n, 3, 3]`` in the places of triangles nearest to ``p``, with gradients where these lie within."""
    first = corners[:, 0]
    u, v, w = corners[:, 1] - first, corners[:, 2] - first, p - first
    uu, uv, vv, wu, wv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1), (w * u).sum(-1), (w * v).sum(-1)
    det = uu * vv - uv * uv
    flat = det <= 1e-12 * uu * vv
    det = torch.where(flat, torch.ones_like(det), det)
    second, third = (vv * wu - uv * wv) / det, (uu * wv - uv * wu) / det
    found = torch.stack([1 - second - third, second, third], -1)
    within = ((found >= 0).all(-1) & ~flat)[:, None]
    return torch.where(within, found, nearest)
