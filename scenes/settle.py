"""Where things come to rest: how far a thing can fall before it touches another, and free places near a wanted one.

How far it falls is the least distance, along the fall, between a point of its surface and what lies below. It is looked for from
the surface points of both sides by rays, and made exact by rays ever closer around the best of them; what overlaps all
the same (a part thinner than the spacing of these points) is found by depth, and backed off from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import KDTree

from compose.composite import Composite
from compose.contact import clearance, overlaps
from compose.surface_points import surface_points
from compose.types import Rays
from objects.aabb import Aabb
from objects.pose import SE3

TOLERANCE = 1e-4  # of the thing's size (the diagonal of what its surface spans): how well a contact is met
_BEST, _ROUNDS, _SHRINK = 32, 18, 0.6  # of the search for the first contact
_PLACES = 600  # that are tried
_GOLDEN = math.pi * (3 - math.sqrt(5))


class Contact(NamedTuple):
    """How far a thing falls (metres, below 0 by no more than the tolerance) and what it meets first (a number in the scene)."""

    distance: float
    owner: int


class Body:
    """What moves as one: the instances ``rows`` of a scene, and points on their surfaces.

    Raises:
        ValueError: None of them has a surface.
    """

    def __init__(self, scene: Composite, rows: list[int], what: str) -> None:
        self.scene, self.rows = scene, rows
        self.points = _points(scene, rows)
        if len(self.points) == 0:
            raise ValueError(f"{what}: expected a visible object, or a group with one")
        self.lo, self.hi = self.points.min(0), self.points.max(0)
        self.size = float(np.linalg.norm(self.hi - self.lo))
        self.tolerance = TOLERANCE * self.size
        self.spacing = 3 * _spacing(self.points)
        self._alone = _part(scene, rows)

    def at(self, shift: np.ndarray) -> Composite:
        """The body alone, shifted."""
        return _shifted(self._alone, list(range(len(self.rows))), shift)

    def scene_at(self, shift: np.ndarray) -> Composite:
        return _shifted(self.scene, self.rows, shift)


class Ground:
    """What a body may come to lie on: the instances ``rows`` of the scene, seen along the unit vector ``down``."""

    def __init__(self, scene: Composite, rows: list[int], down: np.ndarray) -> None:
        self.rows, self.down = rows, down
        self.scene = _part(scene, rows)
        self.across = np.linalg.svd(down[None])[2][1:]  # two axes across the fall, [2, 3]
        self.spans = _spans(self.scene, self.across)
        self._known: dict[int, np.ndarray] = {}

    def points_below(self, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """Surface points that lie within ``lo [2]`` to ``hi [2]`` across the fall, ``[n, 3]``."""
        meets = np.flatnonzero((self.spans[:, 0] <= hi).all(1) & (self.spans[:, 1] >= lo).all(1))
        for k in meets.tolist():
            if k not in self._known:
                self._known[k] = _points(self.scene, [k])
        found = np.concatenate([np.zeros((0, 3)), *(self._known[k] for k in meets.tolist())])
        flat = found @ self.across.T
        return found[((flat >= lo) & (flat <= hi)).all(1)]

    def first(self, p: np.ndarray, start: float) -> tuple[np.ndarray, np.ndarray]:
        """How far points ``[n, 3]`` are above what lies below (inf for nothing), and which instance it is; a point up to ``start``
        within it still sees it."""
        return _cast(self.scene, p - start * self.down, self.down, start)


def fall(body: Body, ground: Ground, shift: np.ndarray, *, exact: bool = True) -> Contact | None:
    """How far a body that stands ``shift [3]`` off its place can go until it touches the ground; None where nothing lies below.

    Args:
        exact: Whether the contact is looked for between the surface points, too (else it is an upper bound).
    """
    down, start = ground.down, body.tolerance
    x = body.points + shift
    distance, owner = ground.first(x, start)
    alone = body.at(shift)
    flat = x @ ground.across.T
    y = ground.points_below(flat.min(0), flat.max(0))
    up, _ = _cast(alone, y + start * down, -down, start)
    met = np.isfinite(up)
    x = np.concatenate([x, y[met] - up[met, None] * down])
    more, other = ground.first(x[len(distance) :], start)
    distance, owner = np.concatenate([distance, more]), np.concatenate([owner, other])
    if not np.isfinite(distance).any():
        return None
    best = np.argsort(distance, kind="stable")[: _BEST if exact else 1]
    x, distance, owner = x[best], distance[best], owner[best]
    if exact:
        x, distance, owner = _refined(alone, ground, body, x, distance, owner)
    k = int(distance.argmin())
    found = Contact(float(distance[k]), ground.rows[int(owner[k])])
    return _backed_off(body, ground, shift, found) if exact else found


def _refined(alone: Composite, ground: Ground, body: Body, x, distance, owner):
    """The best places found by looking around each of ``x [n, 3]`` within ever smaller circles across the fall."""
    radius, down = body.spacing, ground.down
    for k in range(_ROUNDS):
        angle = 2 * math.pi * np.arange(8) / 8 + k
        around = radius * np.stack([np.cos(angle), np.sin(angle)], 1) @ ground.across
        tried = (x[:, None] + around).reshape(-1, 3) + 2 * radius * down
        back, _ = _cast(alone, tried, -down, 0.0, 4 * radius)
        lower = tried - np.where(np.isfinite(back), back, 0.0)[:, None] * down
        gap, other = ground.first(lower, body.tolerance)
        gap = np.where(np.isfinite(back), gap, np.inf).reshape(len(x), 8)
        j = gap.argmin(1)
        row = np.arange(len(x))
        better = gap[row, j] < distance
        x = np.where(better[:, None], lower.reshape(len(x), 8, 3)[row, j], x)
        owner = np.where(better, other.reshape(len(x), 8)[row, j], owner)
        distance = np.minimum(distance, gap[row, j])
        radius *= _SHRINK
    return x, distance, owner


def _backed_off(body: Body, ground: Ground, shift: np.ndarray, found: Contact) -> Contact:
    """A contact without penetration beyond the tolerance."""
    distance, owner = found
    for _ in range(40):
        deep = [
            (d, j) for _, j, d in overlapping(body, ground.rows, shift + distance * ground.down) if d > body.tolerance
        ]
        if not deep:
            return Contact(distance, owner)
        depth, owner = max(deep)
        distance -= depth
    raise ValueError("no place was found where it touches without overlapping; it may stand inside of what lies below")


def overlapping(body: Body, others: list[int], shift: np.ndarray, gap: float = 0.0) -> Iterator[tuple[int, int, float]]:
    """Pairs of an instance of the body and one of ``others`` that come nearer than ``gap`` (metres), and how deep they overlap
    (below 0: minus their distance)."""
    scene = body.scene_at(shift)
    lo, hi = scene.arrays.box_lo - 0.5 * gap, scene.arrays.box_hi + 0.5 * gap
    rest = np.array(others, dtype=np.int64)
    pairs = [(i, j) for i in body.rows for j in rest[((lo[i] <= hi[rest]) & (hi[i] >= lo[rest])).all(1)].tolist()]
    if gap > 0:
        found = [(i, j, -clearance(scene, i, j).distance) for i, j in pairs]
        yield from (pair for pair in found if pair[2] > -gap)
        return
    rows = sorted({row for pair in pairs for row in pair})
    mine = set(body.rows)
    for first, second, depth, _ in overlaps(_part(scene, rows), min_depth=0.0):
        i, j = rows[first], rows[second]
        if (i in mine) != (j in mine):
            yield (i, j, depth) if i in mine else (j, i, depth)


def _offsets(reach: float, seed: int, across: np.ndarray) -> Iterator[np.ndarray]:
    """Offsets in a plane, the nearest first: a spiral that begins in a direction given by the seed (Vogel, "A better way to
    construct the sunflower head", 1979), denser in the middle."""
    phase = np.random.default_rng(seed).uniform(0, 2 * math.pi)
    for k in range(_PLACES):
        radius, angle = reach * k / (_PLACES - 1), phase + k * _GOLDEN
        yield radius * np.array([math.cos(angle), math.sin(angle)]) @ across


def drop_shift(body: Body, ground: Ground) -> np.ndarray:
    """The shift ``[3]`` that lets a body touch the ground.

    Raises:
        ValueError: It overlaps the ground already, or nothing lies below.
    """
    still = np.zeros(3)
    for i, j, depth in overlapping(body, ground.rows, still):
        if depth > body.tolerance:
            names = body.scene.arrays.names
            raise ValueError(f"{names[i]} overlaps {names[j]} already, {1000 * depth:.3g} mm deep; lift it first")
    contact = fall(body, ground, still)
    if contact is None:
        below = "it is not above any of it" if len(ground.rows) < 4 else "nothing lies below it"
        raise ValueError(f"{below}; move it first, or give another direction")
    return contact.distance * ground.down


def find_free(
    body: Body, others: list[int], ground: Ground | None, start: np.ndarray, region: Aabb | None, gap: float, seed: int
) -> np.ndarray | None:
    """The shift ``[3]`` to a free place near the shift ``start [3]``; None if none was found. See `SceneGraph.place_free`."""
    across = np.eye(3)[:2]
    lo, hi = body.lo + start, body.hi + start
    if region is not None:
        lo, hi = np.minimum(lo, region.lo.double().numpy()), np.maximum(hi, region.hi.double().numpy())
    if ground is not None:
        lo, hi = np.minimum(lo, ground.scene.arrays.box_lo.min(0)), np.maximum(hi, ground.scene.arrays.box_hi.max(0))
    reach = 8 * body.size if region is None and ground is None else float(np.linalg.norm((hi - lo)[:2]))
    rest = _part(body.scene, others)
    sample = body.points[:: max(1, len(body.points) // 500)]
    for offset in _offsets(reach, seed, across):
        shift: np.ndarray | None = start + offset
        if ground is not None:
            shift = _laid(body, ground, shift)
        if shift is None or (region is not None and not _within(body, region, shift)):
            continue
        with torch.no_grad():
            lowest = float(rest.query(torch.from_numpy(sample + shift)).sdf.min()) if others else math.inf
        if lowest < -(body.tolerance if ground is None else body.spacing):
            continue
        if ground is not None:  # from a little higher, exactly
            higher = shift - body.spacing * ground.down
            contact = fall(body, ground, higher)
            if contact is None:
                continue
            shift = higher + contact.distance * ground.down
        touched = set(ground.rows) if ground is not None else set()
        near = overlapping(body, others, shift, gap)
        if all(depth <= (body.tolerance if j in touched or gap == 0 else -gap) for _, j, depth in near):
            return shift
    return None


def _laid(body: Body, ground: Ground, shift: np.ndarray) -> np.ndarray | None:
    """The shift that lays a body on the ground from above, roughly; None if its middle isn't above the ground then."""
    down = ground.down
    top = np.minimum(ground.scene.arrays.box_lo.min(0) * down, ground.scene.arrays.box_hi.max(0) * down).sum()
    lifted = shift - (((body.points + shift) @ down).max() - top + body.spacing) * down
    middle = 0.5 * (body.lo + body.hi) + lifted
    if not np.isfinite(ground.first(middle[None], 0.0)[0][0]):
        return None
    contact = fall(body, ground, lifted, exact=False)
    return None if contact is None else lifted + contact.distance * down


def _within(body: Body, region: Aabb, shift: np.ndarray) -> bool:
    lo, hi = region.lo.double().numpy(), region.hi.double().numpy()
    return bool((body.lo + shift >= lo - body.tolerance).all() and (body.hi + shift <= hi + body.tolerance).all())


# -- parts of scenes ---------------------------------------------------------------------------------------------------


def _part(scene: Composite, rows: list[int]) -> Composite:
    poses = SE3.unchecked(
        torch.from_numpy(scene.arrays.quat[rows]), torch.from_numpy(scene.arrays.transforms.trans[rows])
    )
    return Composite.from_columns(
        [scene.arrays.names[i] for i in rows],
        [scene.arrays.fields[i] for i in rows],
        poses,
        torch.from_numpy(scene.arrays.transforms.scale[rows]),
        times=[scene.arrays.times[i] for i in rows],
        like=scene,
    )


def _shifted(scene: Composite, rows: list[int], shift: np.ndarray) -> Composite:
    if not shift.any():
        return scene
    quat = torch.from_numpy(scene.arrays.quat[rows])
    return scene.with_poses(rows, SE3.unchecked(quat, torch.from_numpy(scene.arrays.transforms.trans[rows] + shift)))


def _points(scene: Composite, rows: list[int]) -> np.ndarray:
    """Surface points of instances, world frame, ``[n, 3]``."""
    found = [np.zeros((0, 3))]
    for i in rows:
        p = surface_points(scene.arrays.fields[i], scene.arrays.times[i]) * scene.arrays.transforms.scale[i]
        found.append(p @ scene.arrays.transforms.rot[i].T + scene.arrays.transforms.trans[i])
    return np.concatenate(found)


def _spacing(p: np.ndarray) -> float:
    """The median distance of points to their nearest neighbours."""
    return float(np.median(KDTree(p).query(p, k=2)[0][:, 1])) if len(p) > 1 else 0.0


def _spans(scene: Composite, axes: np.ndarray) -> np.ndarray:
    """From where to where the world boxes of all instances reach along two axes ``[2, 3]``: ``[m, 2, 2]``."""
    middle, half = (
        0.5 * (scene.arrays.box_lo + scene.arrays.box_hi) @ axes.T,
        0.5 * (scene.arrays.box_hi - scene.arrays.box_lo) @ np.abs(axes).T,
    )
    return np.stack([middle - half, middle + half], 1)


def _cast(scene: Composite, origins: np.ndarray, way: np.ndarray, start: float, far: float = math.inf):
    """How far rays go until they hit, less ``start`` (inf for nothing), and what they hit."""
    if len(origins) == 0 or len(scene) == 0:
        return np.full(len(origins), np.inf), np.full(len(origins), -1)
    rays = Rays(torch.from_numpy(origins), torch.from_numpy(np.broadcast_to(way, origins.shape).copy()), 0.0, far)
    with torch.no_grad():
        hits = scene.trace(rays)
    return hits.t.double().numpy() - start, hits.owner.numpy()
