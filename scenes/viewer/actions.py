"""What buttons, keys and rows of the tree do: every edit is one of `SceneGraph`, on what is selected."""

from __future__ import annotations

import re

from objects.pose import SE3
from rendering import PointLight
from scenes.graph import SceneGraph
from scenes.node_view import NodeView
from scenes.viewer.session import Session, rounded


class Actions:
    """Actions by name, run in the session's thread."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def undo(self) -> None:
        self._session.graph.undo()

    def redo(self) -> None:
        self._session.graph.redo()

    def duplicate(self) -> None:
        """A copy beside the selected node, selected."""
        session = self._session
        node = self._node()
        path = free_path(session.graph, node.path)
        session.graph.duplicate(node.path, path)
        session.select(session.graph[path])

    def delete(self) -> None:
        self._session.graph.remove(self._node().path)

    def hide(self) -> None:
        self.toggle(self._node())

    def toggle(self, node: NodeView) -> None:
        """Hides a node, or shows it."""
        (self._session.graph.show if node.hidden else self._session.graph.hide)(node.path)

    def group(self) -> None:
        """A new group around the selected node, selected."""
        session = self._session
        node = self._node()
        path = free_path(session.graph, f"{node.path.rpartition('/')[0]}/group".strip("/"))
        session.graph.group(path, [node.path])
        session.select(session.graph[path])

    def ungroup(self) -> None:
        self._session.graph.ungroup(self._node().path)

    def add_light(self) -> None:
        """A new light above the middle of the scene, selected."""
        session = self._session
        bounds = session.graph.at(session.time).bounds
        place, reach = ([0.0, 0.0, 1.0], 1.0)
        if bounds is not None:
            x, y, _ = bounds.center.tolist()
            reach = max(0.5 * float(bounds.diagonal), 1e-6)
            place = rounded([x, y, float(bounds.hi[2]) + 0.3 * reach])
        path = free_path(session.graph, "light")
        lamp = PointLight((0.0, 0.0, 0.0), intensity=rounded([reach**2])[0])  # about 1 where it falls on the scene
        session.graph.add(path, pose=SE3.from_translation(place), light=lamp)
        session.show_lighting("scene")
        session.select(session.graph[path])

    def parent(self) -> None:
        """Selects what the selected node hangs under."""
        self._session.select(self._node().parent)

    def drop(self, node: NodeView, onto: NodeView | None) -> None:
        """Hangs a node under another, or at the top; it stays where it stands."""
        session = self._session
        session.graph.reparent(node.path, None if onto is None else onto.path, time=session.time)

    def deselect(self) -> None:
        self._session.select(None)

    def _node(self) -> NodeView:
        if self._session.selected is None:
            raise ValueError("nothing is selected: click something in the picture or in the tree")
        return self._session.selected


def free_path(graph: SceneGraph, path: str) -> str:
    """The path itself if it is free, else with the first number behind it that makes it so."""
    if path not in graph:
        return path
    stem = re.sub(r"-\d+$", "", path)
    number = 2
    while f"{stem}-{number}" in graph:
        number += 1
    return f"{stem}-{number}"
