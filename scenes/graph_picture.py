"""The graph of a scene drawn as an SVG: the tree, what each node is, when it moves, and who carried it before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from rendering.atomic import replacing
from scenes.graph import SceneGraph
from scenes.node import ROOT, Node
from scenes.presence import told

_ROW, _STEP, _LEFT, _TOP = 22, 26, 20, 34  # pixels: height of a line, indent of a level, margins
_CHARACTER = 7.2  # width of one, pixels
_BAR = 240  # width of the time line
_COLORS = {"object": "#3b6fb5", "light": "#e0a21b", "camera": "#2f8f5b", "group": "#8a8a8a"}
_INK, _FAINT, _HANDED = "#222222", "#aaaaaa", "#b5473b"


def save_graph(graph: SceneGraph, file: Path) -> None:
    """Writes the drawing: a line for each node with its name, what it is, and tags; dashed arcs lead from earlier carriers to what
    they handed on, with the time (seconds) from which on another carried it; bars at the right say when tracks have keys.

    Raises:
        ValueError: It cannot be written.
    """
    records = graph.records()
    row = {node.id: i for i, node in enumerate(records.values())}
    depth = {node.id: path.count("/") for path, node in records.items()}
    users = Counter(id(node.field) for node in records.values())
    labels = {node.id: _label(node, users[id(node.field)]) for node in records.values()}
    text_end = max((_x(depth[i]) + 12 + _CHARACTER * len(text) for i, text in labels.items()), default=100.0)
    moving = any(node.moves for node in records.values())
    arcs = max(
        (_reach(row[n.id], row.get(h.parent, -1)) for n in records.values() for h in n.attachments[:-1]), default=0
    )
    bars = text_end + (arcs + 80 if arcs else 0) + 30
    width, height = bars + (_BAR + 60 if moving else 0), _TOP + _ROW * len(records) + 10
    svg = ElementTree.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        width=f"{width:.0f}",
        height=str(height),
        viewBox=f"0 0 {width:.0f} {height}",
    )
    svg.set("font-family", "sans-serif")
    svg.set("font-size", "13")
    _add(svg, "rect", width="100%", height="100%", fill="white")
    for node in records.values():
        x, y = _x(depth[node.id]), _y(row[node.id])
        if node.parent != ROOT:
            above_x, above_y = _x(depth[node.parent]), _y(row[node.parent])
            _add(svg, "path", d=f"M{above_x} {above_y + 6} V{y} H{x - 6}", fill="none", stroke=_FAINT)
        for kind in _kinds(node):
            _add(svg, "circle", cx=str(x), cy=str(y), r="5", fill=_COLORS[kind])
            x += 12
        _write(svg, x - 2, y + 4, labels[node.id], _FAINT if node.hidden else _INK)
        for before, after in zip(node.attachments, node.attachments[1:], strict=False):
            if before.parent in row:
                _arc(svg, text_end, row[before.parent], row[node.id], f"until {after.start:g} s")
    if moving:
        _times(svg, bars, list(records.values()), graph.span)
    with replacing(file) as part:
        ElementTree.ElementTree(svg).write(part, encoding="utf-8", xml_declaration=True)


def _x(depth: int) -> int:
    return _LEFT + _STEP * depth


def _y(row: int) -> int:
    return _TOP + _ROW * row


def _kinds(node: Node) -> list[str]:
    parts = (("object", node.field), ("light", node.light), ("camera", node.camera))
    return [kind for kind, value in parts if value is not None] or ["group"]


def _label(node: Node, users: int) -> str:
    words = [node.name, *(f"#{tag}" for tag in node.tags)]
    if users > 1 and node.field is not None:
        words.append(f"({users} of this shape)")
    words += [told(node.spans)] * bool(node.spans) + ["hidden"] * node.hidden
    return "  ".join(words)


def _reach(a: int, b: int) -> float:
    """How far an arc between two lines goes to the right."""
    return 0.0 if b < 0 or a == b else min(20 + 4 * abs(a - b), 160)


def _arc(svg: ElementTree.Element, x: float, first: int, last: int, text: str) -> None:
    a, b, out = _y(first), _y(last), x + 1.33 * _reach(first, last)
    d = f"M{x:.0f} {a} C{out:.0f} {a} {out:.0f} {b} {x:.0f} {b}"
    _add(svg, "path", d=d, fill="none", stroke=_HANDED).set("stroke-dasharray", "4 3")
    _add(svg, "path", d=f"M{x:.0f} {b} l6 -4 v8 z", fill=_HANDED)
    _write(svg, x + _reach(first, last) + 6, 0.5 * (a + b) + 4, text, _HANDED, size=10)


def _times(svg: ElementTree.Element, x: float, nodes: list[Node], span: tuple[float, float]) -> None:
    first, last = span

    def at(time: float) -> float:
        return x + _BAR * (time - first) / ((last - first) or 1.0)

    for time in (first, last):
        _write(svg, at(time) - 10, 18, f"{time:g} s", _INK, size=11)
        _add(svg, "path", d=f"M{at(time):.1f} 24 V{_y(len(nodes) - 1) + 8}", stroke=_FAINT).set("stroke-width", "0.5")
    for i, node in enumerate(nodes):
        for attachment in node.attachments:
            if not attachment.track.moves:
                continue
            times = attachment.track.times
            begin, end = (first, last) if attachment.track.end == "loop" else (float(times[0]), float(times[-1]))
            _add(svg, "path", d=f"M{at(begin):.1f} {_y(i)} H{at(end):.1f}", stroke=_COLORS["object"]).set(
                "stroke-width", "3"
            )
            ticks = "".join(f"M{at(t):.1f} {_y(i) - 4} v8 " for t in times[: 2 * _BAR].tolist())
            _add(svg, "path", d=ticks.strip(), stroke=_COLORS["object"])


def _write(svg: ElementTree.Element, x: float, y: float, text: str, color: str, size: int = 0) -> None:
    made = _add(svg, "text", x=f"{x:.0f}", y=f"{y:.0f}", fill=color)
    if size:
        made.set("font-size", str(size))
    made.text = text


def _add(parent: ElementTree.Element, tag: str, **values: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, values)
