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
        self._session.steps.undo()

    def redo(self) -> None:
        self._session.steps.redo()

    def duplicate(self) -> None:
        """Copies beside what is selected, selected."""
        session, copies = self._session, []
        with session.steps.together():
            for node in self._nodes():
                path = free_path(session.graph, node.path)
                session.graph.duplicate(node.path, path)
                copies.append(session.graph[path])
        session.select(*copies)

    def delete(self) -> None:
        with self._session.steps.together():
            for node in self._nodes():
                self._session.graph.remove(node.path)

    def hide(self) -> None:
        """Hides what is selected, or shows it where all of it is hidden."""
        self.toggle(*self._nodes())

    def toggle(self, *nodes: NodeView) -> None:
        """Hides nodes, or shows them where all are hidden."""
        graph = self._session.graph
        act = graph.show if all(node.hidden for node in nodes) else graph.hide
        with self._session.steps.together():
            for node in nodes:
                act(node.path)

    def group(self) -> None:
        """A new group around what is selected, where the first of it hangs, selected."""
        session, nodes = self._session, self._nodes()
        path = free_path(session.graph, f"{nodes[0].path.rpartition('/')[0]}/group".strip("/"))
        session.graph.group(path, [node.path for node in nodes])
        session.select(session.graph[path])

    def ungroup(self) -> None:
        with self._session.steps.together():
            for node in self._nodes():
                self._session.graph.ungroup(node.path)

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
        self._session.select(self._nodes()[-1].parent)

    def drop(self, node: NodeView, onto: NodeView | None) -> None:
        """Hangs a node (and what is selected with it) under another, or at the top; it stays where it stands."""
        session = self._session
        with session.steps.together():
            for one in session.tops if node in session.tops else [node]:
                session.graph.reparent(one.path, None if onto is None else onto.path, time=session.time)

    def deselect(self) -> None:
        self._session.select(None)

    def _nodes(self) -> list[NodeView]:
        if not (nodes := self._session.tops):
            raise ValueError("nothing is selected: click something in the picture or in the tree")
        return nodes


def free_path(graph: SceneGraph, path: str) -> str:
    """The path itself if it is free, else with the first number behind it that makes it so."""
    if path not in graph:
        return path
    stem = re.sub(r"-\d+$", "", path)
    number = 2
    while f"{stem}-{number}" in graph:
        number += 1
    return f"{stem}-{number}"
