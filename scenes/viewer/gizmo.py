"""The handle with arrows, arcs and a knob at what is selected: drags become edits of the scene, one each."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import viser
from viser import SceneNodeDragEvent, TransformControlsEvent

from objects.pose import SE3
from scenes.node_view import NodeView
from scenes.viewer.proxies import Proxies
from scenes.viewer.session import News, Session, is_there, rounded

_NAME = "/gizmo"
_LARGER = 0.95  # its arrows against the longest edge of what it moves: their tips stand out of it
_KNOB = np.array(
    [-0.55, -0.55, 0.55]
)  # where the knob for the size is, against the arrows: away from all other handles
_STILL_RAD = 1e-6
_FACTORS = (0.01, 100.0)  # least and most of one drag


class Gizmo:
    """Follows the selection. While it is dragged, meshes stand for the node, which the pictures leave out."""

    def __init__(self, server: viser.ViserServer, session: Session) -> None:
        self._session = session
        self._handle = server.scene.add_transform_controls(_NAME, visible=False, line_width=3.0)
        self._knob = server.scene.add_icosphere(f"{_NAME}/size", 1.0, color=(125, 60, 230))
        self._proxies = Proxies(server, f"{_NAME}/proxies", session.unit)
        self._nodes: list[NodeView] = []  # what is dragged
        self._pivot = SE3.identity()  # where the gizmo stands while nothing is dragged, world
        self._grabbed = 1.0  # how far from the pivot the knob was taken, browser's lengths
        self._factor = 1.0
        self._released = False
        session.follow(self._update)
        session.when_drawn.append(self._drawn)

        @self._handle.on_update
        async def _(event: TransformControlsEvent) -> None:
            if event.phase == "start":
                session.post(self._start)
            elif event.phase == "end":
                quat, place = event.target.wxyz.tolist(), event.target.position.tolist()
                session.post(lambda: self._end(lambda nodes: self._apply(nodes, quat, place)))

        @self._knob.on_drag("left")
        async def _(event: SceneNodeDragEvent) -> None:
            phase, first, last = event.phase, np.array(event.start_position), np.array(event.end_position)
            session.post(lambda: self._scale(phase, first, last))

    # -- following -----------------------------------------------------------------------------------------------------

    def _update(self, news: News) -> None:
        if self._nodes:  # they are in somebody's hand
            return
        nodes = self._session.tops
        if not nodes:
            self._handle.visible = False
            return
        self._pivot, size = self._place_of(nodes)
        self._handle.scale = size
        self._handle.wxyz = self._pivot.quat_wxyz.numpy()
        self._handle.position = (self._session.unit * self._pivot.translation).numpy()
        self._handle.visible = True
        self._knob.position, self._knob.radius = _KNOB * size, 0.05 * size
        self._session.worker.post_later("proxies", 0.15, lambda: self._prepare(nodes))

    def _place_of(self, nodes: list[NodeView]) -> tuple[SE3, float]:
        """Where the gizmo stands (world) and how large it is (browser): in the middle of what is shown of nodes."""
        session = self._session
        graph = session.graph
        pose = graph.pose(nodes[-1].path, session.time)[0]
        quat = pose.quat_wxyz if session.axes == "own" else SE3.identity().quat_wxyz.double()
        box = session.bounds_of(nodes)
        # What has no shape is where its origin is.
        bare = [
            graph.pose(node.path, session.time)[0].translation for node in nodes if session.bounds_of([node]) is None
        ]
        corners = torch.stack([*bare, *(() if box is None else (box.lo.double(), box.hi.double()))])
        lo, hi = corners.amin(0), corners.amax(0)
        size = float((hi - lo).max())
        if size == 0:
            scene = graph.at(session.time).bounds
            size = 0.1 * (1.0 if scene is None else float(scene.diagonal))
        return SE3(quat, 0.5 * (lo + hi)), _LARGER * session.unit * size

    def _prepare(self, nodes: list[NodeView]) -> None:
        """Meshes for what is selected, before it is dragged."""
        session = self._session
        if self._nodes or nodes != session.tops:
            return
        composite = session.graph.at(session.time)
        rows = session.rows_of(nodes, composite).nonzero()[0].tolist()
        instances = [composite.instances[row] for row in rows]
        local = self._pivot.inverse()
        key = tuple(
            (id(i.field), i.time, float(i.scale), *((local @ i.T_world_obj).log().mul(1e6).round().tolist()))
            for i in instances
        )
        self._proxies.make(key, instances, self._pivot)

    # -- dragging ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        nodes = self._session.tops
        if not nodes:
            return
        self._prepare(nodes)
        self._nodes, self._released, self._factor = nodes, False, 1.0
        self._proxies.show(True)
        self._session.lift(*nodes)

    def _end(self, apply: Callable[[list[NodeView]], None]) -> None:
        nodes, session = self._nodes, self._session
        self._nodes = []
        if not nodes:
            return
        try:
            with session.steps.together():
                apply([node for node in nodes if is_there(node)])
        finally:
            self._released = True
            session.lift()
            self._update(News())

    def _apply(self, nodes: list[NodeView], quat: list[float], place: list[float]) -> None:
        """One edit of each thing that was dragged: a shift, or a turn about the pivot."""
        graph, time = self._session.graph, self._session.key_time
        by = torch.tensor(place, dtype=torch.float64) / self._session.unit - self._pivot.translation
        origin = torch.zeros(3, dtype=torch.float64)
        there = SE3(torch.tensor(quat, dtype=torch.float64), origin)
        axis = (there @ SE3(self._pivot.quat_wxyz, origin).inverse()).log()[3:]
        angle = float(axis.norm())
        if angle > _STILL_RAD:
            way, degrees = rounded((axis / angle).tolist()), rounded([math.degrees(angle)])[0]
            for node in nodes:
                graph.rotate(node.path, way, degrees, about=rounded(self._pivot.translation.tolist()), time=time)
        elif float(by.norm()) > 0:
            for node in nodes:
                graph.move(node.path, by=rounded(by.tolist()), time=time)

    def _scale(self, phase: str, first: np.ndarray, last: np.ndarray) -> None:
        """The knob is dragged: as far from the pivot as it is pulled, as large what is selected becomes about the pivot."""
        middle = self._session.unit * self._pivot.translation.numpy()
        if phase == "start":
            self._start()
            self._grabbed = max(float(np.linalg.norm(first - middle)), 1e-6)
        if not self._nodes:
            return
        self._factor = float(np.clip(np.linalg.norm(last - middle) / self._grabbed, *_FACTORS))
        if phase == "end":
            factor = rounded([self._factor])[0]
            self._end(lambda nodes: scale_about(self._session, nodes, factor, self._pivot.translation))
        else:
            self._proxies.scale(self._factor)

    def _drawn(self, client_id: int, level: int) -> None:
        if self._released and not self._nodes:
            self._released = False
            self._proxies.show(False)
            self._proxies.scale(1.0)


def scale_about(session: Session, nodes: list[NodeView], factor: float, p_world: torch.Tensor) -> None:
    """Scales nodes, each about its own origin, and shifts them so that a point stays where it is."""
    graph = session.graph
    for node in nodes if factor != 1 else ():
        origin = graph.pose(node.path, session.time)[0].translation
        graph.scale(node.path, factor)
        graph.move(node.path, by=rounded(((1 - factor) * (p_world - origin)).tolist()), time=session.key_time)
