"""Edits that one action of a browser makes of several things: one step to undo there, while the log has each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from scenes.graph import SceneGraph


class Steps:
    """Undo and redo of a scene in whole actions. Edits made elsewhere are steps of one."""

    def __init__(self, graph: SceneGraph) -> None:
        self._graph = graph
        self._together: dict[int, list[str]] = {}  # texts of edits made as one, by how many edits there were after them

    @contextmanager
    def together(self) -> Iterator[None]:
        """The edits made within are one step."""
        with self._graph.lock:
            before = len(self._graph.history[0])
            try:
                yield
            finally:
                done = self._graph.history[0]
                if len(done) > before + 1:
                    self._together[len(done)] = done[before:]

    def undo(self) -> None:
        with self._graph.lock:
            done, _ = self._graph.history
            texts = self._together.get(len(done), [])
            self._graph.undo(len(texts) if texts and done[-len(texts) :] == texts else 1)

    def redo(self) -> None:
        with self._graph.lock:
            done, ahead = self._graph.history
            for n in range(2, len(ahead) + 1):
                if self._together.get(len(done) + n) == ahead[: -n - 1 : -1]:
                    self._graph.redo(n)
                    return
            self._graph.redo()
