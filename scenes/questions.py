"""What can be asked of a scene at one time, by the paths that its instances are named by: see `SceneGraph`."""

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
from scenes.track import Vec, vector


class Closest(NamedTuple):
    """The nearest surfaces to ``n`` points: signed distance ``sdf [n]`` (metres, negative inside), its ``gradient [n, 3]`` (unit),
    the ``path`` of the object of each (empty in an empty scene), and the nearest ``point [n, 3]`` of it; world frame."""

    sdf: Float[Tensor, "n"]
    gradient: Float[Tensor, "n 3"]
    path: list[str]
    point: Float[Tensor, "n 3"]


class RayHit(NamedTuple):
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


def in_box(scene: Composite, box: Aabb, among: list[str] | None) -> list[str]:
    """Paths of all objects (of those ``among`` which are asked for) whose box meets a world box."""
    if not isinstance(box, Aabb):
        raise ValueError(f"select: box must be an Aabb, got {type(box).__name__}")
    lo, hi = box.lo.double().numpy(), box.hi.double().numpy()
    meets = np.all((scene.arrays.box_lo <= hi) & (scene.arrays.box_hi >= lo), axis=1)
    found = [name for name, inside in zip(scene.arrays.names, meets.tolist(), strict=True) if inside]
    wanted = set(found if among is None else among)
    return [path for path in found if path in wanted]


def closest(scene: Composite, points: Float[Tensor, "n 3"] | Sequence[Any]) -> Closest:
    p = torch.as_tensor(points, dtype=torch.float64)
    if p.shape == (3,):
        p = p[None]
    if p.dim() != 2 or p.shape[1] != 3:
        raise ValueError(f"closest: expected points [n, 3], such as [[1, 0, 0]], got shape {list(p.shape)}")
    found = scene.closest(p)
    paths = [scene.arrays.names[i] if i >= 0 else "" for i in found.owner.tolist()]
    return Closest(found.sdf, found.gradient, paths, found.point)


def cast(scene: Composite, origins: Any, directions: Any) -> list[RayHit | None]:
    o = torch.as_tensor(origins, dtype=torch.float64)
    d = torch.as_tensor(directions, dtype=torch.float64)
    if o.dim() != 2 or o.shape != d.shape or o.shape[1] != 3:
        raise ValueError(f"cast: expected origins and directions [n, 3], got {list(o.shape)} and {list(d.shape)}")
    length = d.norm(dim=-1, keepdim=True)
    if len(d) and not length.min() > 1e-12:
        raise ValueError("cast: a direction must not have zero length")
    return _seen(scene, Rays(o, d / length))


def pick(scene: Composite, camera: Camera, u: float, v: float) -> RayHit | None:
    uv = torch.tensor([vector((u, v, 0.0), "pick")[:2]], dtype=torch.float64)
    return _seen(scene, camera.rays(uv))[0]


@torch.no_grad()
def _seen(scene: Composite, rays: Rays) -> list[RayHit | None]:
    hits = scene.trace(rays)
    rows = (hits.owner >= 0).nonzero()[:, 0]
    found: list[RayHit | None] = [None] * len(rays)
    if len(rows):
        points = rays.at(torch.where(hits.owner >= 0, hits.t, 0.0))[rows]
        surface = scene.evaluate(points, hits.owner[rows])
        columns = (rows, hits.owner[rows], points, hits.t[rows], surface.normal, surface.rgb)
        for row, i, point, t, normal, rgb in zip(*(c.tolist() for c in columns), strict=True):
            found[row] = RayHit(scene.arrays.names[i], tuple(point), t, tuple(normal), tuple(rgb))
    return found


def overlaps(scene: Composite, min_depth: float, together: Sequence[str] | None = None) -> list[OverlapPair]:
    """With ``together`` (a text for each instance) without pairs of equal texts."""
    from compose.contact import overlaps  # its libraries take a while to load

    names = scene.arrays.names
    numbers = None if together is None else np.unique(together, return_inverse=True)[1]
    found = overlaps(scene, min_depth=min_depth, together=numbers)
    return [OverlapPair(names[first], names[second], depth, point) for first, second, depth, point in found]


def clearance(scene: Composite, first: str, second: str) -> Gap:
    from compose.contact import clearance

    return Gap(*clearance(scene, scene.arrays.names.index(first), scene.arrays.names.index(second)))


def owners(scene: Composite, level: int) -> tuple[list[str], Int[Tensor, "m"]]:
    if not isinstance(level, int) or level < 1:
        raise ValueError(f"owners: level must be a whole number of at least 1, got {level}")
    number: dict[str, int] = {}
    place = [number.setdefault(path_at_level(name, level), len(number)) for name in scene.arrays.names]
    return list(number), torch.tensor(place, dtype=torch.int64)


def path_at_level(path: str, level: int) -> str:
    """The path of what stands above (or at) ``path`` at a level of the hierarchy; 1 is the top."""
    return "/".join(path.split("/")[:level])
