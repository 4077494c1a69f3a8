"""Marks of what no picture shows: a small camera for each camera, a ball for each lamp, an arrow for light from afar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import trimesh
import viser

from compose.types import Rays
from objects.pose import SE3
from rendering import DirectionalLight, PointLight
from scenes.io.axes import toward
from scenes.node import ROOT, Node
from scenes.node_view import NodeView
from scenes.viewer.session import News, Session

_SHARE = 0.02  # of the scene's diagonal: the radius of a mark
_MOST = 100  # of a scene with more, the first ones are shown
_AFAR = 0.6  # of the scene's diagonal: how far from its middle light from afar has its mark
_CAMERA_COLOR, _CHOSEN_COLOR = (70, 80, 95), (255, 140, 25)


@dataclass(frozen=True, eq=False)
class _Mark:
    node: NodeView
    shape: str  # of `_SHAPES`
    pose: SE3  # world
    color: tuple[int, int, int]


class Marks:
    """The marks in all browsers. They can be clicked, as objects can."""

    def __init__(self, server: viser.ViserServer, session: Session) -> None:
        self._server, self._session = server, session
        self._shown = True
        self._marks: list[_Mark] = []
        self._radius = 0.0  # metres
        self._handles: dict[str, viser.MeshHandle] = {}
        self._shapes: dict[str, object] = {}  # shape and colour of each handle
        self._draw()
        session.pickers.append(self._met)
        session.follow(self._update)

    def show(self, shown: bool) -> None:
        self._shown = shown
        self._draw()

    def _update(self, news: News) -> None:
        self._session.worker.post_once("marks", 0.05, self._draw)

    def _met(self, rays: Rays, reach: float) -> NodeView | None:
        """The mark that the first of some rays (world) meets before a distance, metres."""
        origin, direction = rays.origins[0].double(), rays.directions[0].double()
        found: tuple[float, NodeView] | None = None
        for mark in self._marks:
            to = mark.pose.translation - origin
            along = float(to @ direction)
            beside = float((to - along * direction).norm())
            # One that the eye is in is looked through.
            if beside <= self._radius < along - self._radius < reach and (found is None or along < found[0]):
                found = along, mark.node
        return found[1] if found else None

    def _draw(self) -> None:
        session = self._session
        bounds = session.graph.at(session.time).bounds
        self._radius = _SHARE * (float(bounds.diagonal) if bounds is not None else 10 / session.unit)
        self._marks = self._wanted() if self._shown else []
        unit, names = session.unit, [f"/marks/{mark.node.record.id}" for mark in self._marks]
        for name in self._handles.keys() - set(names):
            self._handles.pop(name).remove()
        for name, mark in zip(names, self._marks, strict=True):
            shape, handle = (mark.shape, mark.color, self._radius), self._handles.get(name)
            if handle is None or self._shapes[name] != shape:
                vertices, faces = _SHAPES[mark.shape]
                handle = self._server.scene.add_mesh_simple(
                    name, unit * self._radius * vertices, faces, color=mark.color, flat_shading=True, cast_shadow=False
                )
                self._handles[name], self._shapes[name] = handle, shape
            handle.position = (unit * mark.pose.translation).numpy()
            handle.wxyz = mark.pose.quat_wxyz.numpy()

    def _wanted(self) -> list[_Mark]:
        session = self._session
        visible, found = {ROOT}, []
        for path, node in session.graph.records().items():
            if node.hidden or node.parent not in visible:
                continue
            visible.add(node.id)
            if (node.camera is not None or node.light is not None) and len(found) < _MOST:
                found += self._marks_of(path, node)
        return found

    def _marks_of(self, path: str, node: Node) -> list[_Mark]:
        """Those of one node: none for light from everywhere."""
        session = self._session
        view, light = session.graph[path], node.light
        chosen = view in session.selection
        pose, scale = session.graph.pose(path, session.time)
        found = []
        if node.camera is not None:
            place = session.graph.camera_at(path, session.time).T_world_cam
            found.append(_Mark(view, "camera", place, _CHOSEN_COLOR if chosen else _CAMERA_COLOR))
        elif isinstance(light, PointLight | DirectionalLight):
            red, green, blue = (round(55 + 200 * channel) for channel in light.color)
            color = _CHOSEN_COLOR if chosen else (red, green, blue)
            if isinstance(light, PointLight):
                place = SE3.from_translation(pose @ (scale * torch.tensor(light.position, dtype=torch.float64)))
                found.append(_Mark(view, "lamp", place, color))
            else:
                found.append(_Mark(view, "arrow", self._afar(pose, light), color))
        return found

    def _afar(self, pose: SE3, light: DirectionalLight) -> SE3:
        """Outside of the scene, where the light comes from, turned to where it goes."""
        session = self._session
        origin = torch.zeros(3, dtype=torch.float64)
        way = SE3(pose.quat_wxyz.double(), origin) @ torch.tensor(light.direction, dtype=torch.float64)
        bounds = session.graph.at(session.time).bounds
        middle = origin if bounds is None else bounds.center.double()
        reach = _AFAR * self._radius / _SHARE
        quat = torch.tensor(toward((float(way[0]), float(way[1]), float(way[2]))), dtype=torch.float64)
        return SE3(quat, middle - reach * way / way.norm())


def _shape(*parts: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    before = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    faces = [part.faces + first for part, first in zip(parts, before, strict=True)]
    return np.concatenate([part.vertices for part in parts]).astype(np.float32), np.concatenate(faces).astype(np.int32)


def _moved(mesh: trimesh.Trimesh, z: float) -> trimesh.Trimesh:
    return mesh.apply_translation([0.0, 0.0, z])


def _cone(radius: float, height: float, z: float) -> trimesh.Trimesh:
    """With its base at ``z`` and its tip below."""
    made = trimesh.creation.cone(radius, height, sections=12)
    return _moved(made.apply_transform(np.diag([1.0, -1.0, -1.0, 1.0])), z)


# Of radius 1. A camera lies behind its eye, so that whoever looks through it doesn't see it; an arrow goes along -z.
_SHAPES = {
    "lamp": _shape(trimesh.creation.icosphere(2, 0.6)),
    "camera": _shape(_moved(trimesh.creation.box([1.1, 0.8, 0.8]), -0.95), _cone(0.45, 0.5, -0.05)),
    "arrow": _shape(_moved(trimesh.creation.cylinder(0.14, 1.2, sections=12), 0.5), _cone(0.4, 0.9, 0.0)),
}
