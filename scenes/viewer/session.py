"""What all browsers share: the scene, the time, what is selected, how it is shown; and every edit that a browser asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from compose.composite import Composite
from compose.types import Rays
from objects.aabb import Aabb
from rendering import AmbientLight, DirectionalLight, Frame, Light
from scenes.graph import SceneGraph
from scenes.history import Change
from scenes.node_view import NodeView
from scenes.pictures import layer_picture
from scenes.records import UnknownPathError
from scenes.viewer.steps import Steps
from scenes.viewer.stream import Stream, Subject
from scenes.viewer.worker import Worker

Layer = Literal["rgb", "depth_view", "normal", "owner", "seen", "canonical"]
Lighting = Literal["scene", "studio", "none"]
LAYERS: tuple[Layer, ...] = get_args(Layer)
LIGHTINGS: tuple[Lighting, ...] = get_args(Lighting)

_STUDIO: tuple[Light, ...] = (
    AmbientLight(intensity=0.5, ground_color=(0.6, 0.58, 0.55)),
    DirectionalLight((-0.5, 0.7, -1.0), intensity=0.65),
)
_OUTLINE = (1.0, 0.55, 0.1)
_SIZE = 10.0  # about how large a scene is in the browser, whatever it is in metres


@dataclass(frozen=True)
class News:
    """What changed: nodes or their poses, what is selected, the time, how it is shown."""

    nodes: bool = False
    selection: bool = False
    time: bool = False
    look: bool = False


class Session:
    """One scene in all browsers. Everything here runs in the worker's thread, but for `post`.

    Args:
        graph: The scene; edits made elsewhere are followed.
        failed: Told of edits that can't be made and of what else goes wrong.
    """

    def __init__(self, graph: SceneGraph, failed: Callable[[Exception], None]) -> None:
        self.graph = graph
        self.time = graph.span[0]
        self.layer: Layer = "rgb"
        bounds = graph.at(self.time).bounds
        size = 1.0 if bounds is None or not bounds.diagonal > 0 else float(bounds.diagonal)
        self.unit = 10.0 ** round(math.log10(_SIZE / size))  # lengths in the browser for a metre
        self.lighting: Lighting = "scene" if graph.lights_at(self.time) or not _takes_light(graph) else "studio"
        self.selection: tuple[NodeView, ...] = ()  # the last one is what is asked for in numbers
        self.playing = False
        self.axes: Literal["world", "own"] = "world"  # along which the gizmo stands
        self.keying = False  # whether edits of pose set keys at the time
        self._lifted: tuple[NodeView, ...] = ()
        self._subject: Subject | None = None
        self._followers: list[Callable[[News], None]] = []
        self.stream = Stream(self.subject, self.unit, self._drawn)
        self.when_drawn: list[Callable[[int, int], None]] = []
        # What a ray meets that isn't in the pictures, before a distance (metres): a node, or None.
        self.pickers: list[Callable[[Rays, float], NodeView | None]] = []
        self.steps = Steps(graph)
        self.worker = Worker(self.stream.step, failed)
        self._end = graph.subscribe(lambda change: self.worker.post(lambda: self._changed(change)))

    def start(self) -> None:
        self.worker.start()

    def stop(self) -> None:
        self._end()
        self.worker.stop()

    def post(self, job: Callable[[], None]) -> None:
        """Has something done in the session's thread, after all that was posted before."""
        self.worker.post(job)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is left to do or to draw."""
        return self.worker.at_rest and self.stream.at_rest

    def follow(self, follower: Callable[[News], None]) -> None:
        """Has ``follower`` told of what changes."""
        self._followers.append(follower)

    # -- what is shown -------------------------------------------------------------------------------------------------

    def subject(self) -> Subject:
        """What the pictures show now."""
        if self._subject is None:
            composite = self.graph.at(self.time)
            if (rows := np.flatnonzero(self.rows_of(self._lifted, composite))).size:
                composite = composite.edited(rows)
            lights = {"scene": self.graph.lights_at(self.time), "studio": _STUDIO, "none": ()}[self.lighting]
            lights = lights if self.layer == "rgb" else ()
            self._subject = Subject(composite, lights, self.layer == "canonical", self._paint)
        return self._subject

    def rows_of(self, nodes: Sequence[NodeView], composite: Composite) -> Bool[np.ndarray, "m"]:
        """Which instances are nodes of these or hang beneath them."""
        paths = {node.path for node in nodes if is_there(node)}
        below = tuple(f"{path}/" for path in paths)
        return np.array([name in paths or name.startswith(below) for name in composite.arrays.names], dtype=bool)

    def bounds_of(self, nodes: Sequence[NodeView]) -> Aabb | None:
        """The world box of all that is shown of nodes; None where nothing is."""
        composite = self.graph.at(self.time)
        arrays, rows = composite.arrays, self.rows_of(nodes, composite)
        if not rows.any():
            return None
        return Aabb(torch.from_numpy(arrays.box_lo[rows].min(0)), torch.from_numpy(arrays.box_hi[rows].max(0)))

    def _paint(self, frame: Frame, composite: Composite) -> np.ndarray:
        picture = layer_picture(frame, self.layer, self.graph, self.time, 0)
        if self.selection and not self._lifted and len(composite):
            rows = torch.from_numpy(self.rows_of(self.selection, composite))
            mask = (frame.owner >= 0) & rows[frame.owner.clamp(min=0)]
            picture = outlined(picture, mask)
        return (picture.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()

    def _drawn(self, client_id: int, level: int) -> None:
        for follower in self.when_drawn:
            follower(client_id, level)

    # -- changes -------------------------------------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        self.selection = tuple(filter(is_there, self.selection))
        self._tell(News(nodes=True, selection=True))

    def _tell(self, news: News) -> None:
        self._subject = None
        self.stream.invalidate()
        for follower in self._followers:
            follower(news)

    @property
    def selected(self) -> NodeView | None:
        """What was selected last."""
        return self.selection[-1] if self.selection else None

    @property
    def tops(self) -> list[NodeView]:
        """What is selected, without what comes along with another."""
        above = tuple(f"{node.path}/" for node in self.selection)
        return [node for node in self.selection if not node.path.startswith(above)]

    def select(self, *nodes: NodeView | None, more: bool = False) -> None:
        """Selects nodes alone (None: nothing); ``more``: beside the others, and no more where they are among them."""
        found = tuple(node for node in nodes if node is not None)
        if more:
            found = (*(n for n in self.selection if n not in found), *(n for n in found if n not in self.selection))
        if found != self.selection:
            self.selection = found
            self._tell(News(selection=True))

    def show_time(self, time: float) -> None:
        if time != self.time:
            self.time = time
            self._tell(News(time=True))

    def show_layer(self, layer: Layer) -> None:
        self.layer = layer
        self._tell(News(look=True))

    def show_axes(self, axes: Literal["world", "own"]) -> None:
        self.axes = axes
        self._tell(News(selection=True))

    def show_lighting(self, lighting: Lighting) -> None:
        self.lighting = lighting
        self._tell(News(look=True))

    def lift(self, *nodes: NodeView) -> None:
        """Leaves nodes out of the pictures, while something else stands for them; those left out before are put back."""
        if nodes != self._lifted:
            self._lifted = nodes
            self._subject = None
            self.stream.invalidate()

    def click(
        self, origin: Float[np.ndarray, "3"], direction: Float[np.ndarray, "3"], alone: bool = False, more: bool = False
    ) -> None:
        """Selects what a ray (browser's lengths) meets first; where it is selected already, what it is a part of; ``alone``: always
        the object itself; ``more``: the object itself, beside the others, or no longer. What meets nothing selects nothing."""
        d = torch.as_tensor(direction, dtype=torch.float64)
        rays = Rays((torch.as_tensor(origin, dtype=torch.float64) / self.unit)[None], (d / d.norm())[None])
        composite = self.subject().composite
        hits = composite.trace(rays)
        owner = int(hits.owner[0])
        reach = float(hits.t[0]) if owner >= 0 else math.inf
        if (mark := next((node for met in self.pickers if (node := met(rays, reach)) is not None), None)) is not None:
            self.select(mark, more=more)
            return
        if owner < 0:
            self.select(*self.selection if more else ())
            return
        path = composite.arrays.names[owner]
        if more:
            self.select(self.graph[path], more=True)
            return
        chain = ["/".join(path.split("/")[: n + 1]) for n in reversed(range(path.count("/") + 1))]
        now = self.selected.path if self.selected is not None else None
        at = chain.index(now) + 1 if now in chain and not alone else 0
        self.select(self.graph[chain[at % len(chain)]])

    @property
    def key_time(self) -> float | None:
        """The ``time`` of edits of pose."""
        return self.time if self.keying else None


def outlined(picture: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """A picture with a line around what a mask holds."""
    inside = mask[None, None].float()
    wide = 1 + 2 * max(1, round(mask.shape[0] / 500))
    grown = torch.nn.functional.max_pool2d(inside, wide, 1, wide // 2)[0, 0] > 0.5
    edge = (grown & ~mask)[..., None]
    return torch.where(edge, torch.tensor(_OUTLINE), picture)


def is_there(node: NodeView) -> bool:
    """Whether a node is still in its scene."""
    try:
        return node.record is not None
    except UnknownPathError:
        return False


def _takes_light(graph: SceneGraph) -> bool:
    """Whether anything in a scene is shaded by lights."""
    return any(node.field is not None and node.lit for node in graph.records().values())


def rounded(values: list[float]) -> list[float]:
    """To 6 digits: what a hand sets is no finer, and the log can be read."""
    return [float(f"{value:.6g}") for value in values]
