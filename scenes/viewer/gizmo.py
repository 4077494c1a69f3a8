"""The handle with arrows and arcs at what is selected: drags become edits of the scene, one each."""

from __future__ import annotations

import math

import torch
import viser
from viser import TransformControlsEvent

from objects.pose import SE3
from scenes.node_view import NodeView
from scenes.viewer.proxies import Proxies
from scenes.viewer.session import News, Session

_NAME = "/gizmo"
_LARGER = 0.75  # its arrows against the longest edge of what it moves: their tips stand out of it
_STILL_RAD = 1e-6


class Gizmo:
    """Follows the selection. While it is dragged, meshes stand for the node, which the pictures leave out."""

    def __init__(self, server: viser.ViserServer, session: Session) -> None:
        self._session = session
        self._handle = server.scene.add_transform_controls(_NAME, visible=False, line_width=3.0)
        self._proxies = Proxies(server, f"{_NAME}/proxies", session.unit)
        self._node: NodeView | None = None  # what is dragged
        self._pivot = SE3.identity()
        self._released = False
        session.follow(self._update)
        session.when_drawn.append(self._drawn)

        @self._handle.on_update
        async def _(event: TransformControlsEvent) -> None:
            if event.phase == "start":
                session.post(self._start)
            elif event.phase == "end":
                quat, place = event.target.wxyz.tolist(), event.target.position.tolist()
                session.post(lambda: self._end(quat, place))

    # -- following -----------------------------------------------------------------------------------------------------

    def _update(self, news: News) -> None:
        if self._node is not None:  # it is in somebody's hand
            return
        node = self._session.selected
        if node is None:
            self._handle.visible = False
            return
        self._pivot, size = self._place_of(node)
        self._handle.scale = size
        self._handle.wxyz = self._pivot.quat_wxyz.numpy()
        self._handle.position = (self._session.unit * self._pivot.translation).numpy()
        self._handle.visible = True
        self._session.worker.post_later("proxies", 0.15, lambda: self._prepare(node))

    def _place_of(self, node: NodeView) -> tuple[SE3, float]:
        """Where the gizmo stands (world) and how large it is (browser). An object's own origin; the middle of a group."""
        session = self._session
        pose = session.graph.pose(node.path, session.time)[0]
        box = session.bounds_of(node)
        if box is None:
            scene = session.graph.at(session.time).bounds
            return pose, 0.1 * session.unit * (1.0 if scene is None else float(scene.diagonal))
        size = _LARGER * session.unit * float(box.size.max())
        return pose if node.field is not None else SE3(pose.quat_wxyz, box.center.double()), size

    def _prepare(self, node: NodeView) -> None:
        """Meshes for what is selected, before it is dragged."""
        session = self._session
        if node != session.selected or self._node is not None:
            return
        composite = session.graph.at(session.time)
        rows = session.rows_of(node, composite).nonzero()[0].tolist()
        instances = [composite.instances[row] for row in rows]
        local = self._pivot.inverse()
        key = tuple(
            (id(i.field), i.time, float(i.scale), *((local @ i.T_world_obj).log().mul(1e6).round().tolist()))
            for i in instances
        )
        self._proxies.make(key, instances, self._pivot)

    # -- dragging ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        node = self._session.selected
        if node is None:
            return
        self._prepare(node)
        self._node, self._released = node, False
        self._proxies.show(True)
        self._session.lift(node)

    def _end(self, quat: list[float], place: list[float]) -> None:
        node, session = self._node, self._session
        self._node = None
        if node is None:
            return
        try:
            there = SE3(
                torch.tensor(quat, dtype=torch.float64), torch.tensor(place, dtype=torch.float64) / session.unit
            )
            self._apply(node, there)
        finally:
            self._released = True
            session.lift(None)
            self._update(News())

    def _apply(self, node: NodeView, there: SE3) -> None:
        """One edit of what was dragged: a shift, or a turn in place."""
        graph, time = self._session.graph, self._session.key_time
        by = there.translation - self._pivot.translation
        turn = (
            SE3(there.quat_wxyz, torch.zeros(3, dtype=torch.float64))
            @ SE3(self._pivot.quat_wxyz, torch.zeros(3, dtype=torch.float64)).inverse()
        )
        axis = turn.log()[3:]
        angle = float(axis.norm())
        if angle > _STILL_RAD:
            about = None if node.field is not None else self._pivot.translation.tolist()
            graph.rotate(
                node.path, rounded((axis / angle).tolist()), rounded([math.degrees(angle)])[0], about=about, time=time
            )
        elif float(by.norm()) > 0:
            graph.move(node.path, by=rounded(by.tolist()), time=time)

    def _drawn(self, client_id: int, level: int) -> None:
        if self._released and self._node is None:
            self._released = False
            self._proxies.show(False)


def rounded(values: list[float]) -> list[float]:
    """To 6 digits: what a hand sets is no finer, and the log can be read."""
    return [float(f"{value:.6g}") for value in values]
