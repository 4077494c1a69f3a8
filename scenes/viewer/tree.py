"""The tree of the scene in the panel: a click selects, a drag hangs a node under another."""

from __future__ import annotations

import viser

from scenes.node_view import NodeView
from scenes.viewer.channel import escaped
from scenes.viewer.icons import icon
from scenes.viewer.session import News, Session

_OPEN_AT_FIRST = 40  # a scene of more nodes starts with its groups closed
_MOST_ROWS = 300
_TOP = "0"  # the number that stands for the scene itself


class Tree:
    """The nodes as rows of HTML, which is sent again when it looks otherwise."""

    def __init__(self, gui: viser.GuiApi, session: Session) -> None:
        self._session = session
        self._nodes: dict[str, NodeView] = {}  # those that were drawn, by number
        self._open: set[int] = set()
        graph = session.graph
        if len(graph) <= _OPEN_AT_FIRST:
            self._open = {node.id for node in graph.records().values()}
        self._html = gui.add_html("")
        self._content = ""
        self._draw()
        session.follow(self._update)

    def node(self, number: str) -> NodeView | None:
        """The node of a row; None for the scene itself.

        Raises:
            ValueError: There is no such row (any more).
        """
        if number == _TOP:
            return None
        if number not in self._nodes:
            raise ValueError("that row is no longer there")
        return self._nodes[number]

    def fold(self, number: str) -> None:
        """Shows or hides what hangs under a node."""
        node = self.node(number)
        if node is not None:
            self._open ^= {node.record.id}
            self._draw()

    def _update(self, news: News) -> None:
        if news.selection and self._session.selected is not None:
            above = self._session.selected.parent
            while above is not None:  # so that it can be seen
                self._open.add(above.record.id)
                above = above.parent
        if news.nodes or news.selection:
            self._draw()

    def _draw(self) -> None:
        graph, rows, skipped = self._session.graph, [], ""
        self._nodes, left = {}, 0
        with graph.lock:
            for path in graph:
                if skipped and path.startswith(skipped):
                    continue
                node = graph[path]
                children = node.children
                is_open = node.record.id in self._open
                skipped = "" if is_open or not children else f"{path}/"
                if len(rows) < _MOST_ROWS:
                    self._nodes[str(node.record.id)] = node
                    rows.append(self._row(node, path.count("/"), bool(children), is_open))
                else:
                    left += 1
        if left:
            rows.append(
                f'<div class="ss-row"><span class="name">... {left:,} more rows; close some groups</span></div>'
            )
        top = f'<div class="ss-row" data-node="{_TOP}" data-do="select {_TOP}"><span class="name"><i>scene</i></span></div>'
        content = (
            '<div class="ss"><div class="ss-tree" onclick="sirenscape.click(event)" onscroll="sirenscape.top = this.scrollTop" '
            'ondragstart="sirenscape.drag(event)" ondragover="sirenscape.over(event)" ondragend="sirenscape.leave()" '
            f'ondrop="sirenscape.drop(event)">{top}{"".join(rows)}</div></div><style onload="sirenscape.again()"></style>'
        )
        if content != self._content:
            self._html.content = self._content = content

    def _row(self, node: NodeView, depth: int, has_children: bool, is_open: bool) -> str:
        record = node.record
        number, selected = record.id, node in self._session.selection
        marks = " selected" * selected + " hidden" * record.hidden
        kind = (
            "object" if record.field is not None
            else "light" if record.light is not None
            else "camera" if record.camera is not None
            else "folder"
        )  # fmt: skip
        fold = (
            f'<span class="fold" data-do="fold {number}">{"&#9662;" if is_open else "&#9656;"}</span>'
            if has_children
            else ('<span class="fold"></span>')
        )
        eye = icon("eye-off" if record.hidden else "eye")
        eye = f'<span class="eye" data-do="eye {number}" title="Hide or show">{eye}</span>'
        return (
            f'<div class="ss-row{marks}" draggable="true" data-node="{number}" data-do="select {number}" '
            f'style="padding-left: {8 + 14 * depth}px">{fold}{icon(kind)}'
            f'<span class="name">{escaped(record.name)}</span>{eye}</div>'
        )
