"""What a scene can be asked at a time, by paths: the half of `SceneGraph` that changes nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from compose.composite import Composite
from objects.aabb import Aabb
from rendering.camera import Camera
from scenes import motion, questions
from scenes.questions import Closest, Gap, OverlapPair, RayHit
from scenes.records import Records
from scenes.timeline import Timeline
from scenes.track import number

if TYPE_CHECKING:
    import trimesh

Point = Sequence[float]  # x, y, z


class SceneQuestions(ABC):
    """Questions to a scene of nodes that stand on a timeline."""

    _records: Records
    _timeline: Timeline

    @abstractmethod
    def at(self, time: float = 0.0) -> Composite:
        """All visible objects at ``time`` (seconds)."""

    def select(self, *, tag: str | None = None, box: Aabb | None = None, time: float = 0.0) -> list[str]:
        """Paths of all visible nodes with a tag; or of all objects whose box meets a world box; or both.

        A tag also selects what hangs under the node that has it.
        """
        tagged = None if tag is None else self._records.tagged(tag)
        if box is None:
            if tagged is None:
                raise ValueError("select: expected a tag, a box, or both")
            return tagged
        return questions.in_box(self.at(time), box, tagged)

    def closest(self, points: Float[Tensor, "n 3"] | Sequence[Any], time: float = 0.0) -> Closest:
        """True distance to the nearest surface, gradient and closest object at world points (metres) ``[n, 3]``, or at one
        ``[3]``, which counts as ``n = 1``.

        Exact for exact solids, to a thousandth of its size (but for a few points in 10,000) for any other object, whose surface is
        made on the first question, in seconds; see `Composite.closest`. Colours, features and
        gradients with respect to shapes and poses: `Composite.query` of ``at(time)``.

        Raises:
            ValueError: Points of another shape, or that are not finite.
        """
        return questions.closest(self.at(time), points)

    def cast(
        self, origins: Float[Tensor, "n 3"] | Sequence[Point], directions: Any, time: float = 0.0
    ) -> list[RayHit | None]:
        """What each ray meets first; None for nothing. Directions may have any length but zero."""
        return questions.cast(self.at(time), origins, directions)

    def pick(self, camera: Camera, u: float, v: float, time: float = 0.0) -> RayHit | None:
        """What is seen at image point ``(u, v)`` (pixels, the first pixel's centre is 0.5, 0.5) of a camera; None for nothing."""
        return questions.pick(self.at(time), camera, u, v)

    def overlaps(self, time: float = 0.0, *, min_depth: float = 1e-3, level: int | None = None) -> list[OverlapPair]:
        """All pairs of objects that share space more than ``min_depth`` metres deep, deepest first.

        Args:
            level: Pairs within one node of this level (1: the top) are left out, like a chair and its wheels.
        """
        scene = self.at(time)
        together = None if level is None else [questions.path_at_level(name, level) for name in scene.arrays.names]
        return questions.overlaps(scene, min_depth, together)

    def clearance(self, first: str, second: str, time: float = 0.0) -> Gap:
        """How far two objects are apart, and where they are nearest.

        Raises:
            ValueError: A node that has no field, is hidden, or isn't there at that time.
        """
        a, b = self._records.node_at(first), self._records.node_at(second)
        if a is b:
            raise ValueError(f"clearance: expected two different objects, got {first!r} twice")
        names = (self._records.visible(node, number(time, "time")) for node in (a, b))
        return questions.clearance(self.at(time), *names)

    def owners(self, level: int, time: float = 0.0) -> tuple[list[str], Int[Tensor, "m"]]:
        """Objects put together at a level of the hierarchy (1: the top): paths, and for each ``owner`` number its place among them.

        ``paths, place = graph.owners(1); place[frame.owner]`` (where ``frame.owner >= 0``) is a picture of whole things.
        """
        return questions.owners(self.at(time), level)

    def mesh(self, path: str, time: float = 0.0) -> trimesh.Trimesh:
        """The surface of a node's own field at ``time``, in the world, with vertex colours.

        Of a field that bends it is the mesh of the canonical field, bent: vertex ``i`` is the same place of the thing at all times.

        Raises:
            ValueError: The node has no field, or a field that depends on time in another way than by a warp.
        """
        return motion.surface_mesh(self._timeline, self._records.node_at(path), path, time)

    def follow(
        self, path: str, points: Float[Tensor, "n 3"] | Sequence[Any], start: float, end: float
    ) -> Float[Tensor, "n 3"]:
        """Where points of the world that an object carries at ``start`` are at ``end`` (seconds): they move and bend with it.

        Args:
            points: ``[n, 3]`` metres, on the thing or near it.

        Returns:
            ``[n, 3]`` float64.

        Raises:
            ValueError: Points of another shape, a node without a field, or one that depends on time in another way than by a warp.
        """
        return motion.carried(self._timeline, self._records.node_at(path), path, points, start, end)
