"""Surfaces of objects at a time, and points carried along by what bends and moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from compose.field_cache import FieldCache
from objects.field import Field
from objects.placed import Placed
from objects.warped import Warped
from scenes.node import Node, a_
from scenes.timeline import Timeline
from scenes.track import number

if TYPE_CHECKING:
    import trimesh

_MESHES: FieldCache[trimesh.Trimesh] = FieldCache()


def field_time(node: Node, time: float) -> float | None:
    """The time of a node's field at a time of the scene; None for a field that doesn't depend on it."""
    if node.field is None or not node.field.deforms:
        return None
    return node.clock.at(time, node.field.span)


def surface_mesh(timeline: Timeline, node: Node, path: str, time: float) -> trimesh.Trimesh:
    """The mesh of a node's field in the world."""
    if node.field is None:
        raise ValueError(f"mesh {path}: expected an object, got {a_(node.what())}")
    time = number(time, "time")
    mesh = _mesh_at(node.field, field_time(node, time), path)
    world = timeline.world(node.id, time)
    vertices = world.pose() @ (world.scale * torch.from_numpy(mesh.vertices))
    mesh.vertices = vertices.numpy()
    return mesh


def _mesh_at(field: Field, time: float | None, path: str) -> trimesh.Trimesh:
    if not field.deforms:
        return _MESHES.of(field, None, field.to_mesh).copy()
    if isinstance(field, Warped):
        mesh = _mesh_at(field.field, None, path)
        mesh.vertices = _asked(field.deformed, torch.from_numpy(mesh.vertices), time).numpy()
        return mesh
    if isinstance(field, Placed):
        mesh = _mesh_at(field.child, time, path)
        mesh.vertices = (field.T_obj_child.to(torch.float64) @ (field.size * torch.from_numpy(mesh.vertices))).numpy()
        return mesh
    raise ValueError(
        f"mesh {path}: expected a warped field, or one that doesn't bend, got a {field.kind or type(field).__name__}"
    )


def carried(
    timeline: Timeline, node: Node, path: str, points: Float[Tensor, "n 3"] | Sequence[Any], start: float, end: float
) -> Float[Tensor, "n 3"]:
    """Where points of the world that a node's object carries at ``start`` are at ``end``."""
    if node.field is None:
        raise ValueError(f"follow {path}: expected an object, got {a_(node.what())}")
    p = torch.as_tensor(points, dtype=torch.float64)
    if p.dim() != 2 or p.shape[1] != 3 or not torch.isfinite(p).all():
        raise ValueError(f"follow {path}: points must be finite and of shape [n, 3], got shape {list(p.shape)}")
    start, end = number(start, "start"), number(end, "end")
    before, after = timeline.world(node.id, start), timeline.world(node.id, end)
    own = (before.pose().inverse() @ p) / before.scale
    if node.field.deforms:
        own = _bent(node.field, own, field_time(node, start), field_time(node, end), path)
    return after.pose() @ (after.scale * own)


def _bent(field: Field, p: Tensor, start: float | None, end: float | None, path: str) -> Tensor:
    if isinstance(field, Warped):
        return _asked(field.deformed, _asked(field.canonical, p, start), end)
    if isinstance(field, Placed):
        pose = field.T_obj_child.to(torch.float64)
        return pose @ (field.size * _bent(field.child, (pose.inverse() @ p) / field.size, start, end, path))
    raise ValueError(
        f"follow {path}: expected a warped field, or one that doesn't bend, got a {field.kind or type(field).__name__}"
    )


@torch.no_grad()
def _asked(function: Any, p: Tensor, time: float | None) -> Tensor:
    times = None if time is None else torch.full((len(p),), time, dtype=torch.float32)
    return function(p.float(), times).double()
