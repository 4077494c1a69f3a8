"""What can be asked of a scene, by the names of its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compose.composite import Composite
from compose.types import Rays
from objects.aabb import Aabb
from rendering.camera import Camera
from rendering.lights import Light
from scenes.node import camera_in_world, light_in_world
from scenes.store import NodeStore, a_
from scenes.track import Vec, number, vector


class Closest(NamedTuple):
    """The nearest surfaces to ``n`` points: signed distance ``sdf [n]`` (metres, negative inside), its ``gradient [n, 3]`` (unit),
    the ``path`` of the object of each (empty in an empty scene), and the nearest ``point [n, 3]`` of it; world frame."""

    sdf: Float[Tensor, "n"]
    gradient: Float[Tensor, "n 3"]
    path: list[str]
    point: Float[Tensor, "n 3"]


class Seen(NamedTuple):
    """What a ray meets first: whose it is, where (world, metres), how far along the ray, and the surface's normal and colour."""

    path: str
    point: Vec
    distance: float
    normal: Vec
    rgb: Vec


class OverlapPair(NamedTuple):
    """Two objects that share space: how deep (metres), and where it is deepest (world)."""

    first: str
    second: str
    depth: float
    point: Vec


class Gap(NamedTuple):
    """How far two objects are apart (metres; below 0: minus how deep they overlap), and the two nearest points (world)."""

    distance: float
    first_point: Vec
    second_point: Vec


class Questions(NodeStore):
    """Questions to a scene at a time (seconds); hidden nodes don't take part."""

    # -- the scene at one time -----------------------------------------------------------------------------------------

    def at(self, time: float = 0.0) -> Composite:
        """All visible objects at ``time`` (seconds), ready to be rendered and asked; instances are named by their paths.

        What did not change since the last call is shared with its result.
        """
        return self._view.at(number(time, "time"))

    def lights_at(self, time: float = 0.0) -> tuple[Light, ...]:
        """All visible lights, in the world, at ``time``."""
        found = [n for n in self._sorted() if n.light is not None and not self._is_hidden(n)]
        return tuple(light_in_world(n.light, self._world(n.id, time)) for n in found if n.light is not None)

    @property
    def cameras(self) -> list[str]:
        """Paths of the nodes that have a camera."""
        return [self.path_of(n) for n in self._sorted() if n.camera is not None]

    def camera_at(self, path: str, time: float = 0.0) -> Camera:
        """The camera of a node, in the world, at ``time``.

        Raises:
            ValueError: The node has no camera.
        """
        node = self._nodes[self._id(path)]
        if node.camera is None:
            there = f"; there is {', '.join(self.cameras)}" if self.cameras else "; the scene has none"
            raise ValueError(f"{path}: expected a node with a camera, got {a_(node.what())}{there}")
        return camera_in_world(node.camera, self._world(node.id, number(time, "time")))

    # -- questions -----------------------------------------------------------------------------------------------------

    def select(self, *, tag: str | None = None, box: Aabb | None = None, time: float = 0.0) -> list[str]:
        """Paths of all visible nodes with a tag; or of all objects whose box meets a world box; or both.

        A tag also selects what hangs under the node that has it.
        """
        tagged: list[str] | None = None
        if tag is not None:
            chosen: dict[int, None] = {}
            for node in self._sorted():
                if tag in node.tags and not self._is_hidden(node):
                    chosen |= {i: None for i in self._subtree(node.id) if not self._is_hidden(self._nodes[i])}
            tagged = [self.path_of(self._nodes[i]) for i in sorted(chosen)]
        if box is None:
            if tagged is None:
                raise ValueError("select: expected a tag, a box, or both")
            return tagged
        if not isinstance(box, Aabb):
            raise ValueError(f"select: box must be an Aabb, got {type(box).__name__}")
        scene = self.at(time)
        lo, hi = box.lo.double().numpy(), box.hi.double().numpy()
        meets = np.all((scene._box_lo <= hi) & (scene._box_hi >= lo), axis=1)
        found = [name for name, inside in zip(scene._names, meets.tolist(), strict=True) if inside]
        wanted = set(found if tagged is None else tagged)
        return [path for path in found if path in wanted]

    def closest(self, points: Float[Tensor, "n 3"] | Sequence[Any], time: float = 0.0) -> Closest:
        """True distance to the nearest surface, gradient and closest object at world points (metres) ``[n, 3]``, or at one
        ``[3]``, which counts as ``n = 1``.

        Exact for exact solids, to a thousandth of its size (but for a few points in 10,000) for any other object, whose surface is
        made on the first question, in seconds; see `Composite.closest`. Colours, features and
        gradients with respect to shapes and poses: `Composite.query` of ``at(time)``.

        Raises:
            ValueError: Points of another shape, or that are not finite.
        """
        p = torch.as_tensor(points, dtype=torch.float64)
        if p.shape == (3,):
            p = p[None]
        if p.dim() != 2 or p.shape[1] != 3:
            raise ValueError(f"closest: expected points [n, 3], such as [[1, 0, 0]], got shape {list(p.shape)}")
        scene = self.at(time)
        found = scene.closest(p)
        paths = [scene._names[i] if i >= 0 else "" for i in found.owner.tolist()]
        return Closest(found.sdf, found.gradient, paths, found.point)

    def cast(
        self, origins: Float[Tensor, "n 3"] | Sequence[Sequence[float]], directions: Any, time: float = 0.0
    ) -> list[Seen | None]:
        """What each ray meets first; None for nothing. Directions may have any length but zero."""
        o = torch.as_tensor(origins, dtype=torch.float64)
        d = torch.as_tensor(directions, dtype=torch.float64)
        if o.dim() != 2 or o.shape != d.shape or o.shape[1] != 3:
            raise ValueError(f"cast: expected origins and directions [n, 3], got {list(o.shape)} and {list(d.shape)}")
        length = d.norm(dim=-1, keepdim=True)
        if len(d) and not length.min() > 1e-12:
            raise ValueError("cast: a direction must not have zero length")
        return self._seen(self.at(time), Rays(o, d / length))

    def pick(self, camera: Camera, u: float, v: float, time: float = 0.0) -> Seen | None:
        """What is seen at image point ``(u, v)`` (pixels, the first pixel's centre is 0.5, 0.5) of a camera; None for nothing."""
        uv = torch.tensor([vector((u, v, 0.0), "pick")[:2]], dtype=torch.float64)
        return self._seen(self.at(time), camera.rays(uv))[0]

    @torch.no_grad()
    def _seen(self, scene: Composite, rays: Rays) -> list[Seen | None]:
        hits = scene.trace(rays)
        rows = (hits.owner >= 0).nonzero()[:, 0]
        found: list[Seen | None] = [None] * len(rays)
        if len(rows):
            points = rays.at(torch.where(hits.owner >= 0, hits.t, 0.0))[rows]
            surface = scene.evaluate(points, hits.owner[rows])
            columns = (rows, hits.owner[rows], points, hits.t[rows], surface.normal, surface.rgb)
            for row, i, point, t, normal, rgb in zip(*(c.tolist() for c in columns), strict=True):
                found[row] = Seen(scene._names[i], tuple(point), t, tuple(normal), tuple(rgb))
        return found

    def overlaps(self, time: float = 0.0, *, min_depth: float = 1e-3, level: int | None = None) -> list[OverlapPair]:
        """All pairs of objects that share space more than ``min_depth`` metres deep, deepest first.

        Args:
            level: Pairs within one node of this level (1: the top) are left out, like a chair and its wheels.
        """

        from compose.contact import overlaps  # its libraries take a while to load

        scene = self.at(time)
        pairs = []
        for first, second, depth, point in overlaps(scene, min_depth=min_depth):
            a, b = scene._names[first], scene._names[second]
            if level is None or path_at_level(a, level) != path_at_level(b, level):
                pairs.append(OverlapPair(a, b, depth, point))
        return pairs

    def clearance(self, first: str, second: str, time: float = 0.0) -> Gap:
        """How far two objects are apart, and where they are nearest.

        Raises:
            ValueError: A node that has no field or is hidden.
        """

        from compose.contact import clearance

        if self._id(first) == self._id(second):
            raise ValueError(f"clearance: expected two different objects, got {first!r} twice")
        scene = self.at(time)
        ids = [self._row(scene, path) for path in (first, second)]
        return Gap(*clearance(scene, *ids))

    def owners(self, level: int, time: float = 0.0) -> tuple[list[str], Int[Tensor, "m"]]:
        """Objects put together at a level of the hierarchy (1: the top): paths, and for each ``owner`` number its place among them.

        ``paths, place = graph.owners(1); place[frame.owner]`` (where ``frame.owner >= 0``) is a picture of whole things.
        """
        if not isinstance(level, int) or level < 1:
            raise ValueError(f"owners: level must be a whole number of at least 1, got {level}")
        number: dict[str, int] = {}
        place = [number.setdefault(path_at_level(name, level), len(number)) for name in self.at(time)._names]
        return list(number), torch.tensor(place, dtype=torch.int64)

    def _row(self, scene: Composite, path: str) -> int:
        node = self._nodes[self._id(path, root=False)]
        path = self.path_of(node)
        if path not in scene._names:
            why = "it is hidden" if node.field is not None else f"it is {a_(node.what())}"
            raise ValueError(f"{path}: expected a visible object, but {why}")
        return scene._names.index(path)


def path_at_level(path: str, level: int) -> str:
    """The path of what stands above (or at) ``path`` at a level of the hierarchy; 1 is the top."""
    return "/".join(path.split("/")[:level])
