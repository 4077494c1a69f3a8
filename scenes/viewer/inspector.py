"""What is selected, in numbers that can be typed: name, place, size, light."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import viser
from scipy.spatial.transform import Rotation

from objects.pose import SE3
from rendering import AmbientLight, DirectionalLight, Light, PointLight
from scenes.node import shown
from scenes.node_view import NodeView
from scenes.presence import checked_spans
from scenes.viewer.session import News, Session, is_there, rounded
from scenes.viewer.widgets import listen

_TYPED_S = 0.5  # how long a number rests before it is an edit
_LIGHTS = {"none": None, "ambient": AmbientLight, "directional": DirectionalLight, "point": PointLight}


class Inspector:
    """The folder of the selected node; hidden while there is none."""

    def __init__(self, gui: viser.GuiApi, session: Session) -> None:
        self._session = session
        self._node: NodeView | None = None
        with gui.add_folder("Selected", visible=False) as self._folder:
            self._name = gui.add_text("Name", "")
            self._place = gui.add_vector3("Position", (0.0, 0.0, 0.0), step=0.001, hint="World, metres")
            self._turn = gui.add_vector3(
                "Rotation", (0.0, 0.0, 0.0), step=0.1, hint="About the world's x, y, z, degrees"
            )
            self._size = gui.add_number("Scale", 1.0, min=1e-6, max=1e6, step=0.001)
            self._tags = gui.add_text("Tags", "", hint="Words to select it by, with blanks between them")
            self._spans = gui.add_text(
                "There", "", hint="From and to, seconds; -inf and inf for open ends; empty: always"
            )
            self._lit = gui.add_checkbox("Lit", True, hint="Whether lights act on its colours")
            self._light = gui.add_dropdown("Light", tuple(_LIGHTS))
            self._color = gui.add_rgb("Colour", (255, 255, 255))
            self._intensity = gui.add_number("Intensity", 1.0, min=0.0, max=1e6, step=0.01)
        for widget, take in (
            (self._name, self._take_name),
            (self._place, self._take_place),
            (self._turn, self._take_turn),
            (self._size, self._take_size),
            (self._tags, self._take_tags),
            (self._spans, self._take_spans),
            (self._color, self._take_color),
            (self._intensity, self._take_intensity),
        ):
            self._listen(widget, take, _TYPED_S)
        self._listen(self._lit, self._take_lit, 0.0)
        self._listen(self._light, self._take_light, 0.0)
        session.follow(self._update)

    def _listen(self, widget: Any, take: Any, delay_s: float) -> None:
        def taken(value: Any) -> None:
            if self._node is not None and self._node == self._session.selected and is_there(self._node):
                try:
                    take(self._node, value)
                finally:
                    self._update(News(selection=True))  # what wasn't taken is shown as it is

        listen(widget, self._session, taken, delay_s=delay_s)

    # -- showing -------------------------------------------------------------------------------------------------------

    def _update(self, news: News) -> None:
        node, session = self._session.selected, self._session
        if session.playing and not news.selection:
            return
        if node is None or not is_there(node):
            self._node, self._folder.visible = None, False
            return
        self._node = node
        record, graph = node.record, session.graph
        pose, _ = graph.pose(node.path, session.time)
        self._name.value = record.name
        self._place.value = np.array(rounded(pose.translation.tolist()))
        self._turn.value = np.array(rounded(_angles(pose).tolist()))
        self._size.value = rounded([record.scale])[0]
        self._tags.value = " ".join(record.tags)
        self._spans.value = " ".join(shown(t) for span in record.spans for t in span)
        self._lit.value, self._lit.visible = record.lit, record.field is not None
        light = record.light
        self._light.value = _kind_of(light)
        self._light.visible = light is not None or record.field is None
        self._color.visible = self._intensity.visible = light is not None
        if light is not None:
            self._color.value = tuple(round(255 * channel) for channel in light.color)  # pyright: ignore[reportAttributeAccessIssue]
            self._intensity.value = float(light.intensity)  # pyright: ignore[reportAttributeAccessIssue]
        self._folder.visible = True

    # -- taking --------------------------------------------------------------------------------------------------------

    def _take_name(self, node: NodeView, name: str) -> None:
        if name != node.name:
            self._session.graph.rename(node.path, name)

    def _take_place(self, node: NodeView, place: tuple[float, float, float]) -> None:
        session = self._session
        now = session.graph.pose(node.path, session.time)[0].translation
        if rounded(list(place)) != rounded(now.tolist()):
            session.graph.move(
                node.path, by=(torch.tensor(place, dtype=torch.float64) - now).tolist(), time=session.key_time
            )

    def _take_turn(self, node: NodeView, angles: tuple[float, float, float]) -> None:
        session = self._session
        now = _rotation(session.graph.pose(node.path, session.time)[0])
        by = (Rotation.from_euler("xyz", angles, degrees=True) * now.inv()).as_rotvec(degrees=True)
        degrees = float(np.linalg.norm(by))
        if degrees > 1e-4:
            axis = rounded((by / degrees).tolist())
            session.graph.rotate(node.path, axis, rounded([degrees])[0], time=session.key_time)

    def _take_size(self, node: NodeView, size: float) -> None:
        if rounded([size]) != rounded([node.record.scale]):
            self._session.graph.scale(node.path, size / node.record.scale)

    def _take_tags(self, node: NodeView, text: str) -> None:
        new, graph = set(text.split()), self._session.graph
        if more := sorted(new - set(node.tags)):
            graph.tag(node.path, *more)
        if gone := sorted(set(node.tags) - new):
            graph.untag(node.path, *gone)

    def _take_spans(self, node: NodeView, text: str) -> None:
        words = text.split()
        spans = checked_spans([words[i : i + 2] for i in range(0, len(words), 2)], "There")  # pyright: ignore[reportArgumentType]
        if spans != node.spans:
            self._session.graph.limit(node.path, spans)

    def _take_lit(self, node: NodeView, lit: bool) -> None:
        self._session.graph.set_lit(node.path, lit)

    def _take_light(self, node: NodeView, kind: str) -> None:
        old: Any = node.light
        keep = {} if old is None else {"color": old.color, "intensity": old.intensity}
        made = {
            "none": lambda: None,
            "ambient": lambda: AmbientLight(**keep),
            "directional": lambda: DirectionalLight((0.0, 0.0, -1.0), **keep),
            "point": lambda: PointLight((0.0, 0.0, 0.0), **keep),
        }
        self._session.graph.set_light(node.path, made[kind]())

    def _take_color(self, node: NodeView, rgb: tuple[int, int, int]) -> None:
        self._change_light(node, color=tuple(channel / 255 for channel in rgb))

    def _take_intensity(self, node: NodeView, intensity: float) -> None:
        self._change_light(node, intensity=intensity)

    def _change_light(self, node: NodeView, **values: Any) -> None:
        light: Light | None = node.light
        if light is not None and any(getattr(light, name) != value for name, value in values.items()):
            self._session.graph.set_light(node.path, replace(light, **values))  # pyright: ignore[reportArgumentType]


def _kind_of(light: Light | None) -> str:
    return next((name for name, kind in _LIGHTS.items() if kind is not None and isinstance(light, kind)), "none")


def _rotation(pose: SE3) -> Rotation:
    return Rotation.from_quat(pose.quat_wxyz.numpy(), scalar_first=True)


def _angles(pose: SE3) -> np.ndarray:
    """About the world's x, then y, then z, degrees."""
    rotation = _rotation(pose)
    with np.errstate(all="ignore"):
        return rotation.as_euler("xyz", degrees=True, suppress_warnings=True)
