"""Meshes that stand for objects in the browser: while they are dragged (they hang under the gizmo, so the browser moves them by
itself), and before there is a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import trimesh
import viser

from compose.types import Instance
from objects.field import Field
from objects.pose import SE3
from objects.warped import Warped
from scenes.io.asset_mesh import asset_mesh

_COARSE = 0.02  # of the longest edge of a box: enough to see what goes where
_MOST = 40  # kinds of objects; of a node of more, the first ones are shown

_Shape = tuple[Field, float | None]


def measured_mesh(field: Field, time: float | None) -> trimesh.Trimesh:
    """A coarse mesh of a field at a time, as `asset_mesh` makes and keeps it."""
    vertices, faces, rgb = asset_mesh(field, _COARSE * float(field.bounds.size.max()), time).colored()
    return trimesh.Trimesh(vertices, faces, vertex_colors=np.rint(255 * rgb).astype(np.uint8), process=False)


def plain_mesh(field: Field, time: float | None) -> trimesh.Trimesh:
    """A coarse mesh of a field at a time for which nothing is compiled."""
    if not isinstance(field, Warped) or time is None:
        return field.to_mesh(_COARSE * float(field.bounds.size.max()))
    mesh = plain_mesh(field.field, None)
    with torch.no_grad():
        p = torch.from_numpy(np.array(mesh.vertices)).to(field.box_lo.dtype)
        mesh.vertices = field.deformed(p, p.new_full((len(p),), time)).double().numpy()
    return mesh


class Proxies:
    """The meshes under one scene node of the browser.

    Args:
        name: The node's.
        unit: Lengths in the browser are the world's times this.
        mesh: Makes the mesh of a field at a time.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        name: str,
        unit: float,
        mesh: Callable[[Field, float | None], trimesh.Trimesh] = measured_mesh,
    ) -> None:
        self._server, self._name, self._unit, self._made_by = server, name, unit, mesh
        self._frame = server.scene.add_frame(name, show_axes=False, visible=False)
        self._handles: list[viser.MeshHandle | viser.GlbHandle | viser.BatchedGlbHandle] = []
        self._placed: list[tuple[np.ndarray, np.ndarray]] = []  # scales and places of the instances of each
        self._meshes: dict[_Shape, trimesh.Trimesh] = {}
        self._key: object = None

    @property
    def shown(self) -> bool:
        return bool(self._frame.visible)

    def show(self, visible: bool) -> None:
        self._frame.visible = visible

    def make(self, key: object, instances: Sequence[Instance], pivot: SE3) -> None:
        """Makes them of some instances that hang under a pivot (world); again only if the key is another."""
        if key == self._key:
            return
        self.clear()
        self._key = key
        users: dict[_Shape, list[Instance]] = {}
        for instance in instances:
            users.setdefault((instance.field, instance.time), []).append(instance)
        inverse = pivot.inverse()
        for number, (shape, group) in enumerate(list(users.items())[:_MOST]):
            mesh = self._mesh(shape)
            poses = [inverse @ instance.T_world_obj for instance in group]
            scales = self._unit * np.array([float(instance.scale) for instance in group])
            quats = np.array([pose.quat_wxyz.tolist() for pose in poses])
            places = self._unit * np.array([pose.translation.tolist() for pose in poses])
            name = f"{self._name}/{number}"
            if len(group) == 1:
                handle = self._server.scene.add_mesh_trimesh(
                    name, mesh, scale=float(scales[0]), wxyz=quats[0], position=places[0]
                )
            else:
                handle = self._server.scene.add_batched_meshes_trimesh(
                    name, mesh, batched_wxyzs=quats, batched_positions=places, batched_scales=scales, lod="off"
                )
            self._handles.append(handle)
            self._placed.append((scales, places))

    def scale(self, factor: float) -> None:
        """Shows them larger about the pivot."""
        for handle, (scales, places) in zip(self._handles, self._placed, strict=True):
            moved = factor * places
            if len(scales) == 1:
                handle.scale, handle.position = factor * float(scales[0]), moved[0]
            else:
                handle.batched_scales, handle.batched_positions = factor * scales, moved  # pyright: ignore

    def clear(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._placed, self._key = [], [], None

    def _mesh(self, shape: _Shape) -> trimesh.Trimesh:
        if shape not in self._meshes:
            field, time = shape
            if len(self._meshes) > 200:
                self._meshes.clear()
            try:
                self._meshes[shape] = self._made_by(field, time)
            except ValueError:  # it has no surface that can be meshed
                box = trimesh.creation.box(field.bounds.size.tolist())
                self._meshes[shape] = box.apply_translation(field.bounds.center.tolist())
        return self._meshes[shape]
