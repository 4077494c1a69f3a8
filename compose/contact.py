"""Which instances touch: pairs whose solids overlap, how deep, and how far apart two instances are.

A scene says where it is solid, not where two solids meet. Here each asset gets points spread over its surface; the points of one
instance that lie near another are asked for their distance there, and the best of them are walked along the
surface to where they are deepest (or closest). Only surfaces and what lies inside of them is used: the distances of a learned
field far from its surface are rough.

Related: Fuhrmann, Sobottka, Gross, "Distance Fields for Rapid Collision Detection in Physically Based Modeling" (2003): points of
one surface asked in the field of the other. Box pairs by separating axes: Gottschalk, Lin, Manocha, "OBBTree" (SIGGRAPH 1996).
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Int

import compose.surface_points as surface_points
from compose.composite import Composite
from compose.cpu import box_pairs, count_near, points_near
from compose.surface_points import (
    DIFFERENCE,
    ON_SURFACE,
    Ask,
    SurfaceSamples,
    asked_in_parts,
    clipped,
    gradient,
    joined_points,
    project,
    surface_samples,
)
from objects.progress import Bar

# What a walk pays for leaving the surface, times the distance there: at a sharp edge of a union or difference, and where a
# learned distance grows too slowly, a step away from the surface is longer than that distance.
_OFF = 4.0
_CANDIDATES = 3  # points that are walked for each ordered pair
_ROUNDS = 16  # of the walk to the deepest point
_STARTS, _CLEARANCE_ROUNDS = 64, 50
_CLOSE = 1e-6  # relative change of a clearance at which its search ends


class Overlap(NamedTuple):
    """Two instances that share space: their numbers (``first < second``), how deep (metres), and the deepest point (world)."""

    first: int
    second: int
    depth: float
    point: tuple[float, float, float]


class Clearance(NamedTuple):
    """How far apart two instances are (metres; negative: minus the depth of their overlap) and where: the nearest point of each
    (world), for an overlap twice the deepest point."""

    distance: float
    point_i: tuple[float, float, float]
    point_j: tuple[float, float, float]


def overlapping_boxes(composite: Composite) -> np.ndarray:
    """All pairs ``i < j`` of instances whose oriented boxes meet, ``[k, 2]`` int64, sorted."""
    return box_pairs(composite.arrays.tree, composite.arrays.transforms)


def overlaps(
    composite: Composite, *, min_depth: float = 1e-3, together: Int[np.ndarray, "n"] | None = None
) -> list[Overlap]:
    """All pairs of instances whose solids overlap, deepest first (equal ones by number).

    The depth of a pair is that of the deepest surface point of one in the other, ``max -sdf_B(x)`` over the surface of A, or the
    other way round, whichever is larger; so an object wholly inside another is found. Where two surfaces
    coincide (to a thousandth of their size) nothing lies deep in the other; there it is the radius of a ball within both.

    Args:
        min_depth: Shallower overlaps are left out (metres).
        together: A number for each instance: pairs of equal numbers aren't looked at.

    Raises:
        ValueError: A ``min_depth`` that is negative or not finite.
    """
    if not (math.isfinite(min_depth) and min_depth >= 0):
        raise ValueError(f"overlaps: min_depth must be finite and at least 0, got {min_depth}")
    pairs = overlapping_boxes(composite)
    if together is not None:
        pairs = pairs[together[pairs[:, 0]] != together[pairs[:, 1]]]
    depth, point = _depths(composite, pairs, _samples(composite, pairs))
    found = np.flatnonzero(depth > min_depth)
    found = found[np.argsort(-depth[found], kind="stable")]
    return [Overlap(int(pairs[k, 0]), int(pairs[k, 1]), float(depth[k]), _triple(point[k])) for k in found]


def clearance(composite: Composite, i: int, j: int) -> Clearance:
    """The distance of two instances and their nearest points; for overlapping ones minus the depth (see `overlaps`).

    The nearest surface points are found and walked towards each other along the surfaces, many starts side by side.

    Raises:
        ValueError: ``i`` or ``j`` is no instance number, both are the same, or an instance has no surface.
    """
    for number in (i, j):
        if int(number) != number or not 0 <= number < len(composite):
            raise ValueError(
                f"clearance: the scene has {len(composite)} instances, expected two of their numbers, got {number}"
            )
    if i == j:
        raise ValueError(f"clearance: expected two different instances, got {i} twice")
    pair = np.array([[i, j]], dtype=np.int64)
    samples = _samples(composite, pair)
    for number in (i, j):
        if len(samples[composite.arrays.transforms.asset[number]].points) == 0:
            raise ValueError(f"clearance: instance {number} ({composite.instances[number].name!r}) has no surface")
    depth, point = _depths(composite, pair, samples)
    if depth[0] > 0:
        return Clearance(-float(depth[0]), _triple(point[0]), _triple(point[0]))
    x, y = _nearest_points(composite, int(i), int(j), samples)
    return Clearance(float(np.linalg.norm(x - y)), _triple(x), _triple(y))


# -- depths ------------------------------------------------------------------------------------------------------------


def _samples(composite: Composite, pairs: np.ndarray) -> dict[int, SurfaceSamples]:
    """Points on the surfaces of the assets of ``pairs``, by their rows."""
    assets = composite.arrays.assets
    rows = np.unique(composite.arrays.transforms.asset[pairs]).tolist()
    bar = Bar(rows, desc="surfaces", unit="object")
    return {a: surface_samples(assets.fields[a], assets.times[a]) for a in bar}


class _World(NamedTuple):
    """What the walks ask of a scene: distances, and sizes of instances in metres, ``[m]``."""

    ask: Ask
    diagonal: np.ndarray
    reach: np.ndarray


def _world(composite: Composite, samples: dict[int, SurfaceSamples]) -> _World:
    transforms = composite.arrays.transforms
    reach = np.zeros(len(transforms.box_lo))
    reach[list(samples)] = [s.reach for s in samples.values()]
    return _World(composite.distances, composite.arrays.diagonals, transforms.scale * reach[transforms.asset])


def _depths(
    composite: Composite, pairs: np.ndarray, samples: dict[int, SurfaceSamples]
) -> tuple[np.ndarray, np.ndarray]:
    """Depth ``[k]`` of each pair (metres, not above 0 where nothing overlaps) and its deepest point ``[k, 3]``."""
    k = len(pairs)
    depth, point = np.full(k, -np.inf), np.zeros((k, 3))
    if k == 0:
        return depth, point
    world = _world(composite, samples)
    own, other = np.r_[pairs[:, 0], pairs[:, 1]], np.r_[pairs[:, 1], pairs[:, 0]]  # ordered pairs: both ways round
    rows, x, f = _deepest_samples(composite, world, samples, own, other)

    # A point is worth walking if what it may gain on the way to the next one makes it the deepest of its pair.
    best = np.zeros(k)
    np.maximum.at(best, rows % k, -f)
    worth = -f + world.reach[own[rows]] >= best[rows % k]
    rows, x = rows[worth], x[worth]
    x, deep = _deepened(world, x, own[rows], other[rows])
    _take(rows % k, deep, x, depth, point)

    shared = np.abs(depth) <= ON_SURFACE * world.diagonal[pairs].min(1)
    rows, x = _core_points(composite, samples, own, np.flatnonzero(np.r_[shared, shared]))
    deep = np.minimum(-asked_in_parts(world.ask, x, own[rows]), -asked_in_parts(world.ask, x, other[rows]))
    sure = deep > ON_SURFACE * world.diagonal[pairs].min(1)[rows % k]
    _take(rows[sure] % k, deep[sure], x[sure], depth, point)
    return depth, point


def _take(pair: np.ndarray, deep: np.ndarray, x: np.ndarray, depth: np.ndarray, point: np.ndarray) -> None:
    """Takes the deepest of the found points into each pair, the first of equal ones."""
    order = np.lexsort((-deep, pair))
    pair, top = np.unique(pair[order], return_index=True)
    top = order[top]
    better = deep[top] > depth[pair]
    depth[pair[better]], point[pair[better]] = deep[top[better]], x[top[better]]


def _deepest_samples(
    composite: Composite, world: _World, samples: dict[int, SurfaceSamples], own: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface points of ``own`` that lie deepest in ``other``: row, world point, distance; a few for each row.

    Points up to ``reach`` outside count: the surface between them may reach in.
    """
    transforms = composite.arrays.transforms
    points = joined_points(samples, len(transforms.box_lo))
    reach = world.reach[own]
    count = count_near(transforms, points, own, other, reach)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    bar = Bar(total=int(count.sum()), desc="contacts", unit="point")
    lo = 0
    while lo < len(own):
        ends = np.cumsum(count[lo : lo + surface_points.CHUNK])
        hi = lo + max(int(np.searchsorted(ends, surface_points.CHUNK, side="right")), 1)
        offset = np.r_[0, ends[: hi - lo]]
        x = points_near(transforms, points, own[lo:hi], other[lo:hi], reach[lo:hi], count[lo:hi])
        row = np.repeat(np.arange(lo, hi), count[lo:hi])
        f = asked_in_parts(world.ask, x, other[row])
        order = np.lexsort((f, row))
        order = order[(np.arange(len(row)) - np.repeat(offset[:-1], count[lo:hi])) < _CANDIDATES]
        order = order[f[order] <= reach[row[order]]]
        found.append((row[order], x[order], f[order]))
        bar.update(len(row))
        lo = hi
    bar.close()
    rows, x, f = (np.concatenate(v) for v in zip(*found, strict=True))
    return rows, x, f


def _deepened(world: _World, x: np.ndarray, own: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points walked over the surfaces of ``own`` to where they lie deepest in ``other``, and that depth.

    Steps go up the depth and back to the surface; they grow while that helps and shrink where it doesn't.
    """
    h = DIFFERENCE * world.diagonal
    depth = -asked_in_parts(world.ask, x, other) - _OFF * np.abs(asked_in_parts(world.ask, x, own))
    step = world.reach[own]
    x = x.copy()
    for _ in range(_ROUNDS):
        rows = np.flatnonzero(step > h[own])
        if len(rows) == 0:
            break
        a, b, s = own[rows], other[rows], step[rows]
        # Differences as wide as the step see both sides of a ridge, and so the way along it.
        up = -gradient(world.ask, x[rows], b, np.maximum(0.5 * s, h[b]))
        up /= np.maximum(np.linalg.norm(up, axis=1), 1e-12)[:, None]
        tried, off = project(world.ask, x[rows] + s[:, None] * up, a, h[a], 2 * s, steps=2)
        deep = -asked_in_parts(world.ask, tried, b) - _OFF * np.abs(off)
        better = deep > depth[rows]
        x[rows[better]], depth[rows[better]] = tried[better], deep[better]
        step[rows] *= np.where(better, 1.5, 0.4)
    return x, depth


def _core_points(
    composite: Composite, samples: dict[int, SurfaceSamples], own: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The cores of ``own`` for each of ``rows``: row and world point."""
    transforms = composite.arrays.transforms
    found = [np.zeros((0, 3))] + [samples[a].cores for a in transforms.asset[own[rows]].tolist()]
    rows = np.repeat(rows, [len(c) for c in found[1:]])
    i = own[rows]
    p = transforms.scale[i, None] * np.concatenate(found)
    return rows, (transforms.rot[i] @ p[..., None])[..., 0] + transforms.trans[i]


# -- clearance -----------------------------------------------------------------------------------------------------------


def _nearest_points(
    composite: Composite, i: int, j: int, samples: dict[int, SurfaceSamples]
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest points of two surfaces that do not meet, world frame."""
    transforms, world = composite.arrays.transforms, _world(composite, samples)
    at_i, at_j = (
        samples[transforms.asset[k]].points * transforms.scale[k] @ transforms.rot[k].T + transforms.trans[k]
        for k in (i, j)
    )
    from scipy.spatial import KDTree  # takes a while to load

    gap, partner = cast(tuple[np.ndarray, np.ndarray], KDTree(at_j).query(at_i))
    order = np.argsort(gap, kind="stable")
    order = order[gap[order] <= gap[order[0]] + 2 * (world.reach[i] + world.reach[j])]
    if len(order) > _STARTS:  # half of them the nearest, half spread over what else may become nearest
        half = _STARTS // 2
        order = np.r_[order[:half], order[np.linspace(half, len(order) - 1, half).astype(int)]]
    x, y = at_i[order], at_j[partner[order]]

    n = len(x)
    a, b = np.full(n, i), np.full(n, j)
    x, f = project(world.ask, x, a, DIFFERENCE * world.diagonal[a], world.reach[a])
    y, g = project(world.ask, y, b, DIFFERENCE * world.diagonal[b], world.reach[b])
    far = np.linalg.norm(x - y, axis=1) + _OFF * (np.abs(f) + np.abs(g))
    step = np.full(n, min(world.diagonal[i], world.diagonal[j]) / 8)
    least = 1e-4 * step
    # The last move of each pair is made again with the next one: side by side, two surfaces show the way to a narrower place
    # only slowly.
    move_x, move_y = np.zeros((n, 3)), np.zeros((n, 3))
    for _ in range(_CLEARANCE_ROUNDS):
        r = np.flatnonzero(step > least)
        if len(r) == 0:
            break
        u, v = x[r] + move_x[r], y[r] + move_y[r]
        u, f = _towards(world, u, v, a[r], step[r])
        v, g = _towards(world, v, u, b[r], step[r])
        new = np.linalg.norm(u - v, axis=1) + _OFF * (np.abs(f) + np.abs(g))
        better, fresh = new < far[r], (move_x[r] == 0).all(1) & (move_y[r] == 0).all(1)
        gained = new < far[r] * (1 - _CLOSE)
        step[r] *= np.where(gained, 1.5, np.where(fresh, 0.4, 1.0))
        move_x[r], move_y[r] = np.where(gained[:, None], u - x[r], 0), np.where(gained[:, None], v - y[r], 0)
        x[r[better]], y[r[better]], far[r[better]] = u[better], v[better], new[better]
    best = int(far.argmin())
    return x[best], y[best]


def _towards(
    world: _World, x: np.ndarray, y: np.ndarray, owner: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points ``x`` moved over their surface towards ``y``, by at most ``step``, and their distances from the surface."""
    h = DIFFERENCE * world.diagonal[owner]
    normal = gradient(world.ask, x, owner, h)
    normal /= np.maximum(np.linalg.norm(normal, axis=1), 1e-12)[:, None]
    along = (y - x) - ((y - x) * normal).sum(1)[:, None] * normal
    return project(world.ask, x + clipped(along, step), owner, h, np.maximum(step, h), steps=2)


def _triple(p: np.ndarray) -> tuple[float, float, float]:
    x, y, z = p.tolist()
    return x, y, z
