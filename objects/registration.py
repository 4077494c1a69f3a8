"""Aligns two separately learned configurations of one thing: a rigid motion first, then a warp, and how well both match.

The rigid motion is searched from the 60 rotations of an icosahedron, which leave none farther than 45 degrees, by iterated closest
points (Besl, McKay, "A method for registration of 3-D shapes", 1992) that compare place, normal, colour and geodesic quantiles
(`objects.warp_surface`). From the best few the surface is registered by nodes (`objects.warp_tracking`); the one that fits best
with the least bending counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from objects.field import Field
from objects.mesh import read_mesh
from objects.node_warp import NodeKeys, NodeWarp
from objects.pose import SE3
from objects.warp_following import cost, distances
from objects.warp_learning import quaternions, together
from objects.warp_surface import Surface, surface_of
from objects.warp_tracking import FAR, NEAR, Motion, Template, moved, template_of
from objects.warp_tracking import register as register_nodes

_ANCHORS = 1000  # points of the surface that the warp keeps
_FEW, _ROUNDS = 250, 12  # points and steps of the search for a rigid motion
_ALIKE = np.radians(30)  # rotations that differ by less are one
_NORMAL, _COLOR, _SHAPE = 0.1, 0.15, 1.0  # what differences of normals, colours and quantiles weigh in it
_BOUND = 0.15  # distance beyond which a pair hardly counts in it, a share of the extent
_RIGID = 0.01  # the same for the part of the thing that moves rigidly in the end
_CLOSE = 0.02  # distance at which a point counts as half explained, a share of the extent
_SAME = 0.08  # difference of geodesic quantiles at which a pair counts as half alike, a share of the extent
_LENGTH = 0.2  # change of lengths along the surface at which it counts as half kept


@dataclass(frozen=True)
class RegistrationConfig:
    """How things are aligned.

    Attributes:
        nodes: Nodes of the warp.
        points, dense: Points that are matched, and points that describe the other surface.
        tried: Rigid motions from which a warp is searched.
    """

    nodes: int = 150
    points: int = 2000
    dense: int = 6000
    tried: int = 4

    def __post_init__(self) -> None:
        if not (2 <= self.nodes <= self.points <= self.dense and self.tried >= 1):
            raise ValueError(
                "RegistrationConfig: expected 2 <= nodes <= points <= dense and tried above 0, got "
                f"{self.nodes}, {self.points}, {self.dense}, {self.tried}"
            )


class Registration(NamedTuple):
    """How one thing was aligned with another, which is taken to be the same.

    A point of the first is at ``T_b_a @ warp.deformed(p, 1)`` in the frame of the second; at time 0 the warp leaves it where it is.

    Attributes:
        T_b_a: The rigid motion of the part that moves rigidly, from the frame of the first to that of the second.
        warp: What is left, from time 0 to time 1, in the frame of the first.
        points_a, points_b: Matched points, spread on the surface of the first, and where they are in the frame of the second.
        score: How well they match, 0 to 1: the share of both surfaces that lies on the other, times how alike surroundings and
            lengths along the surface are. Above a half for one thing, whichever way it is bent.
    """

    T_b_a: SE3
    warp: NodeWarp
    points_a: Float[Tensor, "n 3"]
    points_b: Float[Tensor, "n 3"]
    score: float

    @torch.no_grad()
    def carried(self, p_a: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Where points of the first thing are in the frame of the second."""
        p = p_a.float()
        return self.T_b_a @ self.warp.deformed(p, torch.ones_like(p[:, 0]))


@dataclass(frozen=True, eq=False)
class Shape:
    """A surface with the colours of its points."""

    surface: Surface
    colors: Float[np.ndarray, "n 3"]


def register(
    field_a: Field, field_b: Field, *, seed: int = 0, config: RegistrationConfig | None = None
) -> Registration:
    """Aligns the thing of one field with that of another, which may be turned, moved and bent; size counts.

    Neither becomes a bent form of the other: both stay what they were learned as. Where a thing is symmetric, colours decide, and
    if they don't, the least rotation.

    Args:
        field_a, field_b: Fields that don't depend on time.
        seed: Seed of all randomness; same seed, same bits.
        config: How to align.

    Raises:
        ValueError: Not a field, one that depends on time, or one without a surface.
    """
    config = RegistrationConfig() if config is None else config
    meshes = [_mesh_of(field, name) for field, name in ((field_a, "field_a"), (field_b, "field_b"))]
    a, b = (shape_of(mesh, seed + k, config) for k, mesh in enumerate(meshes))
    return register_shapes(a, b, config)


def register_shapes(a: Shape, b: Shape, config: RegistrationConfig) -> Registration:
    """As `register`, of surfaces."""
    template = template_of(a.surface, config.nodes)
    tries = []
    for turn, shift in rigid_candidates(a, b, config.tried):
        motion = Motion(
            np.broadcast_to(turn, (len(template.nodes), 3, 3)).copy(), template.nodes @ turn.T + shift - template.nodes
        )
        motion = register_nodes(template, motion, b.surface, FAR + NEAR)
        places = moved(template, motion)[0]
        there = KDTree(b.surface.points).query(places)[1]
        unlike = ((a.colors - b.colors[there]) ** 2).sum(1).mean()
        tries.append((cost(template, motion, b.surface) * (1 + unlike), motion))
    motion = min(tries, key=lambda found: found[0])[1]
    places = moved(template, motion)[0]
    turn, shift = rigid_part(template.points, places, _RIGID * template.extent)
    left = Motion(turn.T @ motion.rotation, (template.nodes + motion.shift - shift) @ turn - template.nodes)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, shift
    return Registration(
        SE3.from_matrix(torch.from_numpy(pose).float()), _warp(template, left), torch.from_numpy(template.points).float(),
        torch.from_numpy(places).float(), match(template, motion, b.surface),
    )  # fmt: skip


def match(template: Template, motion: Motion, target: Surface) -> float:
    """The score of a `Registration`."""
    places, normals = moved(template, motion)
    extent = max(template.extent, target.extent)
    there = KDTree(target.dense).query(places)[1]
    back = KDTree(places).query(target.points)[1]
    facing = np.concatenate([(normals * target.dense_normals[there]).sum(1), (target.normals * normals[back]).sum(1)])
    unlike = np.concatenate([template.shape - target.dense_shape[there], target.shape - template.shape[back]])
    close = 1 / (1 + np.concatenate(distances(template, motion, target)) ** 2 / (_CLOSE * extent) ** 2)
    alike = 1 / (1 + (unlike**2).mean(1) / (_SAME * extent) ** 2)
    a, b = template.edges.T
    nodes = template.nodes + motion.shift
    lengths = np.linalg.norm(nodes[a] - nodes[b], axis=1) / np.linalg.norm(
        template.nodes[a] - template.nodes[b], axis=1
    )
    kept = 1 / (1 + np.log(np.maximum(lengths, 1e-3)) ** 2 / _LENGTH**2)
    return float((close * alike * np.clip(facing, 0, 1)).mean() * kept.mean())


# -- rigid motions -----------------------------------------------------------------------------------------------------


def rigid_candidates(a: Shape, b: Shape, count: int) -> list[tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]]:
    """The best few rigid motions from one surface to another that differ in rotation, best first."""
    extent = max(a.surface.extent, b.surface.extent)
    p, q = a.surface.points[:_FEW], b.surface.points
    told = [
        np.concatenate([_COLOR * extent * shape.colors, _SHAPE * shape.surface.shape[:, 1::2]], 1) for shape in (a, b)
    ]
    tree = KDTree(np.concatenate([q, _NORMAL * extent * b.surface.normals, told[1]], 1))
    turns = Rotation.create_group("I").as_matrix()
    turns = turns[np.argsort(-np.trace(turns, axis1=1, axis2=2), kind="stable")]  # the least rotation first
    shifts = b.surface.dense.mean(0) - np.einsum("rij,j->ri", turns, a.surface.dense.mean(0))
    spent = np.zeros(len(turns))
    for _ in range(_ROUNDS):
        places = np.einsum("rij,nj->rni", turns, p) + shifts[:, None]
        normals = np.einsum("rij,nj->rni", turns, a.surface.normals[:_FEW])
        mine = np.concatenate(
            [
                places,
                _NORMAL * extent * normals,
                np.broadcast_to(told[0][:_FEW], (*places.shape[:2], told[0].shape[1])),
            ],
            2,
        )
        distance, there = tree.query(mine.reshape(-1, mine.shape[2]))
        squared = np.asarray(distance).reshape(places.shape[:2]) ** 2
        bound = (_BOUND * extent) ** 2
        spent = (squared / (1 + squared / bound)).mean(1)
        turns, shifts = procrustes(
            np.broadcast_to(p, places.shape), q[there].reshape(places.shape), (bound / (bound + squared)) ** 2
        )
    chosen: list[int] = []
    for i in np.argsort(np.round(spent / extent**2, 6), kind="stable"):
        angles = [np.arccos(np.clip((np.trace(turns[i] @ turns[j].T) - 1) / 2, -1, 1)) for j in chosen]
        if all(angle > _ALIKE for angle in angles):
            chosen.append(int(i))
        if len(chosen) == count:
            break
    return [(turns[i], shifts[i]) for i in chosen]


def rigid_part(
    p: Float[np.ndarray, "n 3"], q: Float[np.ndarray, "n 3"], reach: float
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """The rotation and translation that most of ``p`` takes to ``q``: weights of Geman and McClure, from wide to ``reach``."""
    weight = np.ones(len(p))
    turn, shift = np.eye(3), np.zeros(3)
    for bound in np.geomspace(8, 1, 12) * reach:
        turns, shifts = procrustes(p[None], q[None], weight[None])
        turn, shift = turns[0], shifts[0]
        weight = (bound**2 / (bound**2 + ((p @ turn.T + shift - q) ** 2).sum(1))) ** 2
    return turn, shift


def procrustes(p: np.ndarray, q: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations ``[r 3 3]`` and translations that take points ``[r n 3]`` to others best (Kabsch, 1976)."""
    share = (weight / weight.sum(1, keepdims=True))[..., None]
    a, b = (share * p).sum(1), (share * q).sum(1)
    u, _, vt = np.linalg.svd((share * (q - b[:, None])).transpose(0, 2, 1) @ (p - a[:, None]))
    sign = np.ones((len(u), 3))
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    turns = (u * sign[:, None]) @ vt
    return turns, b - np.einsum("rij,rj->ri", turns, a)


def _warp(template: Template, motion: Motion) -> NodeWarp:
    one = np.zeros((len(template.nodes), 4))
    one[:, 0] = 1
    turns = quaternions(motion.rotation)
    turns *= np.where(turns[:, :1] < 0, -1, 1)
    shifts = np.stack([np.zeros_like(motion.shift), motion.shift])
    near = together(template, template.nodes + shifts)
    anchors, homes = template.points[:_ANCHORS], template.home[:_ANCHORS]
    times = np.array([0.0, 1.0])
    return NodeWarp(
        NodeKeys(template.nodes, near, anchors, homes, template.spacing, times, np.stack([one, turns]), shifts)
    )


def _mesh_of(field: Field, name: str) -> trimesh.Trimesh:
    if not isinstance(field, Field):
        raise ValueError(f"register: {name} must be a Field, got {type(field).__name__}")
    if field.deforms:
        raise ValueError(f"register: {name}: expected a field that doesn't depend on time, got one that bends")
    mesh = field.to_mesh()
    if not len(mesh.faces):
        raise ValueError(f"register: {name}: expected a field with a surface, got one without")
    return mesh


def shape_of(mesh: trimesh.Trimesh, seed: int, config: RegistrationConfig) -> Shape:
    """The surface of a mesh with colours at its vertices."""
    surface = surface_of(read_mesh(mesh), n_points=config.points, n_dense=config.dense, seed=seed)
    nearest = KDTree(mesh.vertices).query(surface.points)[1]
    colors = np.asarray(getattr(mesh.visual, "vertex_colors", np.full((len(mesh.vertices), 4), 255)))
    return Shape(surface, colors[nearest, :3] / 255.0)
