"""A node as a scene shows it: what ``scene["table/mug"]`` gives."""

from __future__ import annotations

from typing import Literal

from objects.field import Field
from objects.pose import SE3
from rendering.camera import Camera
from rendering.lights import Light
from scenes.clock import Clock
from scenes.node import ROOT, Node
from scenes.presence import Span
from scenes.records import UnknownPathError
from scenes.timeline import Timeline
from scenes.track import Sim3, Track, number


class NodeView:
    """One node of a scene, read-only: it follows the edits of the scene, which are made by path.

    Raises:
        UnknownPathError: On any question after the node was removed.
    """

    __slots__ = ("_id", "_timeline")

    def __init__(self, timeline: Timeline, node_id: int) -> None:
        self._timeline, self._id = timeline, node_id

    def __repr__(self) -> str:
        return f"<{self.what()} {self.path!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeView) and self._timeline is other._timeline and self._id == other._id

    def __hash__(self) -> int:
        return hash((id(self._timeline), self._id))

    @property
    def record(self) -> Node:
        """What is written down of it now."""
        node = self._timeline.records.nodes.get(self._id)
        if node is None:
            raise UnknownPathError("this node was removed from its scene")
        return node

    @property
    def path(self) -> str:
        """Names from the top, joined by ``/``."""
        return self._timeline.records.path_to(self.record.id)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def field(self) -> Field | None:
        """The shape, in the node's frame; None for what has none."""
        return self.record.field

    @property
    def light(self) -> Light | None:
        """In the node's frame; `SceneGraph.lights_at` gives lights in the world."""
        return self.record.light

    @property
    def camera(self) -> Camera | None:
        """Its ``T_world_cam`` is camera to node; `SceneGraph.camera_at` gives it in the world."""
        return self.record.camera

    @property
    def lit(self) -> bool:
        return self.record.lit

    @property
    def hidden(self) -> bool:
        """Whether it is hidden itself; what hangs under a hidden node isn't shown, either."""
        return self.record.hidden

    @property
    def tags(self) -> tuple[str, ...]:
        return self.record.tags

    @property
    def clock(self) -> Clock:
        """When in its span the field is, if it bends."""
        return self.record.clock

    @property
    def spans(self) -> tuple[Span, ...]:
        """Stretches of time (seconds, from and to) in which it and all that it carries then are there; none: always."""
        return self.record.spans

    @property
    def track(self) -> Track:
        """Pose over time under the parent it is found under."""
        return self.record.track

    @property
    def moves(self) -> bool:
        """Whether its place in its parent depends on time."""
        return self.record.moves

    @property
    def parent(self) -> NodeView | None:
        """What it is found under; None at the top."""
        above = self.record.parent
        return None if above <= ROOT else NodeView(self._timeline, above)

    @property
    def children(self) -> tuple[NodeView, ...]:
        """What is found right beneath."""
        return tuple(NodeView(self._timeline, i) for _, i in self._timeline.records.beneath(self.record.id))

    def what(self) -> str:
        """In a word: object, light, camera or group."""
        return self.record.what()

    def pose(self, time: float = 0.0, *, frame: Literal["world", "parent"] = "world") -> SE3:
        """Where it stands at ``time`` (seconds), in the world or in what carries it then."""
        if frame not in ("world", "parent"):
            raise ValueError(f"pose: frame must be world or parent, got {frame!r}")
        if frame == "world":
            return self._timeline.world(self.record.id, number(time, "time")).pose()
        node = self.record
        quat, trans = node.attachments[node.attachment_number(number(time, "time"))].track.at(time)
        return Sim3(quat, trans).pose()

    def scale(self, time: float = 0.0, *, frame: Literal["world", "parent"] = "world") -> float:
        """Its uniform scale at ``time``, all in all or against its parent's: ``p_world = pose() @ (scale() * p_node)``."""
        if frame not in ("world", "parent"):
            raise ValueError(f"scale: frame must be world or parent, got {frame!r}")
        if frame == "world":
            return self._timeline.world(self.record.id, number(time, "time")).scale
        node = self.record
        return node.attachments[node.attachment_number(number(time, "time"))].scale
