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
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import numba
import numpy as np
import torch

from compose.batch import FieldBatch
from compose.cells import AssetCells, Known, cells_of
from compose.composite import Composite
from compose.cpu.bvh import INNER, STACK
from objects.field import Field
from objects.progress import Bar

_POINTS, _CORES = 4000, 64  # most points on the surface and in the depth of an asset
_CHUNK = 1 << 18  # most points in one call
_FLAT = 0.5  # of what its plane changes over half a cell: where the field may stray less from it, one seed will do
_CORE_ROUNDS = 8  # of the search for the deepest point, each with half the step
_ON_SURFACE = 1e-3  # of the box diagonal: farther off, a point counts as not on the surface
_DIFFERENCE = 5e-5  # of the box diagonal: step of finite differences, well above float32 noise
# What a walk pays for leaving the surface, times the distance there: at a sharp edge of a union or difference, and where a
# learned distance grows too slowly, a step away from the surface is longer than that distance.
_OFF = 4.0
_CANDIDATES = 3  # points that are walked for each ordered pair
_ROUNDS = 16  # of the walk to the deepest point
_STARTS, _CLEARANCE_ROUNDS = 64, 50
_CLOSE = 1e-6  # relative change of a clearance at which its search ends

_Ask = Callable[[np.ndarray, np.ndarray], np.ndarray]


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


def surface_points(field: Field, time: float | None = None) -> np.ndarray:
    """Points spread evenly over the surface of a field, ``[k, 3]`` float64, object frame, at most 4,000.

    Made on first use and again whenever the weights have changed. A field without surface has none.

    Raises:
        ValueError: The field gives values that are not finite.
    """
    return _cover_of(field, time).points.copy()


def overlapping_boxes(composite: Composite) -> np.ndarray:
    """All pairs ``i < j`` of instances whose oriented boxes meet, ``[k, 2]`` int64, sorted."""
    stand, lo, hi = composite._stand, composite._box_lo, composite._box_hi
    count = np.zeros(len(composite), dtype=np.int64)
    _meetings(composite._tree, stand, lo, hi, np.full(len(composite), -1), np.empty(0, dtype=np.int64), count)
    second = np.empty(count.sum(), dtype=np.int64)
    _meetings(composite._tree, stand, lo, hi, np.cumsum(count) - count, second, count)
    first = np.repeat(np.arange(len(composite)), count)
    return np.stack([first, second], 1)[np.lexsort((second, first))]


def overlaps(composite: Composite, *, min_depth: float = 1e-3) -> list[Overlap]:
    """All pairs of instances whose solids overlap, deepest first (equal ones by number).

    The depth of a pair is that of the deepest surface point of one in the other, ``max -sdf_B(x)`` over the surface of A, or the
    other way round, whichever is larger; so an object wholly inside another is found. Where two surfaces
    coincide (to a thousandth of their size) nothing lies deep in the other; there it is the radius of a ball within both.

    Args:
        min_depth: Shallower overlaps are left out (metres).

    Raises:
        ValueError: A ``min_depth`` that is negative or not finite.
    """
    if not (math.isfinite(min_depth) and min_depth >= 0):
        raise ValueError(f"overlaps: min_depth must be finite and at least 0, got {min_depth}")
    pairs = overlapping_boxes(composite)
    depth, point = _depths(composite, pairs, _covers(composite, pairs))
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
    covers = _covers(composite, pair)
    for number in (i, j):
        if len(covers[composite._stand.asset[number]].points) == 0:
            raise ValueError(f"clearance: instance {number} ({composite.instances[number].name!r}) has no surface")
    depth, point = _depths(composite, pair, covers)
    if depth[0] > 0:
        return Clearance(-float(depth[0]), _triple(point[0]), _triple(point[0]))
    x, y = _nearest_points(composite, int(i), int(j), covers)
    return Clearance(float(np.linalg.norm(x - y)), _triple(x), _triple(y))


# -- points on surfaces ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Cover:
    """What is known of an asset's surface, in its object frame.

    Args:
        points: On the surface, ``[k, 3]``.
        reach: No place of the surface is farther than this from the nearest of them.
        cores: The deepest place of each connected part of the inside (of the deepest parts), ``[c, 3]``.
        block, size: ``AssetCells.block``, and the size of a block, ``[3]``.
    """

    points: np.ndarray
    reach: float
    cores: np.ndarray
    block: np.ndarray
    size: np.ndarray


def _cover_of(field: Field, time: float | None) -> _Cover:
    """The cover of a field at a time, made on first use and again whenever the weights have changed."""
    return _COVERS.of(field, time, lambda: _make_cover(field, time))


_COVERS: Known[float | None, _Cover] = Known()


def _make_cover(field: Field, time: float | None) -> _Cover:
    cells, batch = cells_of(field, time), FieldBatch([field])
    lo, cell = field.box_lo.detach().double().numpy(), cells.cell

    def ask(p: np.ndarray, owner: np.ndarray) -> np.ndarray:
        return batch.sdf_sorted(owner, p, np.full(len(p), 0.0 if time is None else time))

    foot, around = _seeds(cells, lo)
    seeds = np.concatenate([foot, around])
    n = len(seeds)
    diagonal, reach = float(np.linalg.norm(4 * np.array(cells.block.shape) * cell)), float(np.linalg.norm(cell))
    p, f = _project(ask, seeds, np.zeros(n, dtype=np.int64), np.full(n, _DIFFERENCE * diagonal), np.full(n, reach))
    p, edge = _thinned(p[np.abs(f) < _ON_SURFACE * diagonal], 0.5 * float(cell.min()))
    inside = lo + (np.argwhere(cells.inside_cells()) + 0.5) * cell
    cores = _deepest(ask, np.concatenate([inside, around]), lo, cell)
    block = cells.block.copy()  # it may be part of the arrays of a composite, which this must not keep
    return _Cover(p, max(math.sqrt(3) * edge, reach), cores, block, 4 * cell)


def _seeds(cells: AssetCells, lo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points near the surface: where it is flat, the nearest of the cell's plane ``[k, 3]``; elsewhere four about the middle
    of the cell ``[4 l, 3]``, which find both sides of a thin wall or a sharp edge."""
    corner, gradient, middle, bound = cells.planes()
    centre = lo + (corner + 0.5) * cells.cell
    flat = bound < _FLAT * 0.5 * np.abs(gradient) @ cells.cell
    g = gradient[flat]
    foot = centre[flat] - (middle[flat] / np.square(g).sum(1))[:, None] * g
    return foot, (centre[~flat, None] + 0.3 * _TETRAHEDRON * cells.cell).reshape(-1, 3)


def _deepest(ask: _Ask, p: np.ndarray, lo: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The deepest place of each connected part of the cells in which one of ``p [n, 3]`` lies inside, of the ``_CORES``
    deepest parts, ``[c, 3]``."""
    f = _asked(ask, p, np.zeros(len(p), dtype=np.int64))
    p = p[f < 0][np.argsort(f[f < 0], kind="stable")]
    at = tuple(np.floor((p - lo) / cell).astype(np.int64).T)
    part = np.zeros(np.max(at, axis=1, initial=-1) + 1, dtype=bool)
    part[at] = True
    from scipy.ndimage import label  # takes a while to load

    _, first = np.unique(cast(tuple[np.ndarray, int], label(part))[0][at], return_index=True)
    p = p[np.sort(first)[:_CORES]]
    for k in range(_CORE_ROUNDS):
        around = p[:, None] + 0.5 ** (k + 1) * cell * _NEIGHBOURS
        f = _asked(ask, around.reshape(-1, 3), np.zeros(around.size // 3, dtype=np.int64))
        p = around[np.arange(len(p)), f.reshape(-1, len(_NEIGHBOURS)).argmin(1)]
    return p


_NEIGHBOURS = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), -1).reshape(-1, 3)


def _thinned(p: np.ndarray, edge: float) -> tuple[np.ndarray, float]:
    """The point nearest to the middle of each voxel, with voxels of an ``edge`` that leaves at most ``_POINTS``; and that edge."""
    while True:
        u = p / edge
        voxel = np.floor(u).astype(np.int64)
        order = np.lexsort((np.square(u - voxel - 0.5).sum(1), *voxel.T))
        rows = voxel[order]
        kept = order[np.r_[True, (rows[1:] != rows[:-1]).any(1)]] if len(p) else order
        if len(kept) <= _POINTS:
            return np.ascontiguousarray(p[np.sort(kept)]), edge
        edge *= 1.02 * math.sqrt(len(kept) / _POINTS)


def _gradient(ask: _Ask, p: np.ndarray, owner: np.ndarray, h: np.ndarray) -> np.ndarray:
    """``[n, 3]`` by differences over the corners of a tetrahedron of size ``h [n]`` (Quilez, "Normals for an SDF")."""
    around = p[:, None] + h[:, None, None] * _TETRAHEDRON
    f = _asked(ask, around.reshape(-1, 3), np.repeat(owner, 4)).reshape(-1, 4)
    return f @ _TETRAHEDRON / (4 * h[:, None])


_TETRAHEDRON = np.array([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, 1.0, 1.0]])


def _project(
    ask: _Ask, p: np.ndarray, owner: np.ndarray, h: np.ndarray, reach: np.ndarray, steps: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Points moved onto the surfaces of their owners by Newton steps of at most ``reach [n]``, and their distances there."""
    f = _asked(ask, p, owner)
    for _ in range(steps):
        g = _gradient(ask, p, owner, h)
        step = -f[:, None] * g / np.maximum(np.square(g).sum(1), 1e-12)[:, None]
        p = p + _clipped(step, reach)
        f = _asked(ask, p, owner)
    return p, f


def _asked(ask: _Ask, p: np.ndarray, owner: np.ndarray) -> np.ndarray:
    parts = [ask(p[k : k + _CHUNK], owner[k : k + _CHUNK]) for k in range(0, len(p), _CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _clipped(v: np.ndarray, longest: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(v, axis=1)
    return v * np.minimum(1.0, longest / np.maximum(length, 1e-300))[:, None]


# -- depths ------------------------------------------------------------------------------------------------------------


def _covers(composite: Composite, pairs: np.ndarray) -> dict[int, _Cover]:
    """The covers of the assets of ``pairs``, by their rows."""
    fields, times = composite._assets.fields, composite._assets.times
    rows = np.unique(composite._stand.asset[pairs]).tolist()
    bar = Bar(rows, desc="surfaces", unit="object")
    return {a: _cover_of(fields[a], times[a]) for a in bar}


class _World(NamedTuple):
    """What the walks ask of a scene: distances, and sizes of instances in metres, ``[m]``."""

    ask: _Ask
    diagonal: np.ndarray
    reach: np.ndarray


def _world(composite: Composite, covers: dict[int, _Cover]) -> _World:
    def ask(p: np.ndarray, owner: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return composite._sdf(p, owner)

    stand = composite._stand
    reach = np.zeros(len(stand.box_lo))
    reach[list(covers)] = [c.reach for c in covers.values()]
    diagonal = np.linalg.norm(stand.box_hi - stand.box_lo, axis=1)
    return _World(ask, stand.scale * diagonal[stand.asset], stand.scale * reach[stand.asset])


def _depths(composite: Composite, pairs: np.ndarray, covers: dict[int, _Cover]) -> tuple[np.ndarray, np.ndarray]:
    """Depth ``[k]`` of each pair (metres, not above 0 where nothing overlaps) and its deepest point ``[k, 3]``."""
    k = len(pairs)
    depth, point = np.full(k, -np.inf), np.zeros((k, 3))
    if k == 0:
        return depth, point
    world = _world(composite, covers)
    own, other = np.r_[pairs[:, 0], pairs[:, 1]], np.r_[pairs[:, 1], pairs[:, 0]]  # ordered pairs: both ways round
    rows, x, f = _deepest_samples(composite, world, covers, own, other)

    # A point is worth walking if what it may gain on the way to the next one makes it the deepest of its pair.
    best = np.zeros(k)
    np.maximum.at(best, rows % k, -f)
    worth = -f + world.reach[own[rows]] >= best[rows % k]
    rows, x = rows[worth], x[worth]
    x, deep = _deepened(world, x, own[rows], other[rows])
    _take(rows % k, deep, x, depth, point)

    shared = np.abs(depth) <= _ON_SURFACE * world.diagonal[pairs].min(1)
    rows, x = _core_points(composite, covers, own, np.flatnonzero(np.r_[shared, shared]))
    deep = np.minimum(-_asked(world.ask, x, own[rows]), -_asked(world.ask, x, other[rows]))
    sure = deep > _ON_SURFACE * world.diagonal[pairs].min(1)[rows % k]
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
    composite: Composite, world: _World, covers: dict[int, _Cover], own: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface points of ``own`` that lie deepest in ``other``: row, world point, distance; a few for each row.

    Points up to ``reach`` outside count: the surface between them may reach in.
    """
    stand = composite._stand
    tables = _tables(covers, len(stand.box_lo))
    reach = world.reach[own]
    count = np.zeros(len(own), dtype=np.int64)
    _find_near(stand, tables, own, other, reach, np.full(len(own), -1), np.empty((0, 3)), count)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    bar = Bar(total=int(count.sum()), desc="contacts", unit="point")
    lo = 0
    while lo < len(own):
        ends = np.cumsum(count[lo : lo + _CHUNK])
        hi = lo + max(int(np.searchsorted(ends, _CHUNK, side="right")), 1)
        offset = np.r_[0, ends[: hi - lo]]
        x = np.empty((offset[-1], 3))
        _find_near(stand, tables, own[lo:hi], other[lo:hi], reach[lo:hi], offset, x, count[lo:hi])
        row = np.repeat(np.arange(lo, hi), count[lo:hi])
        f = _asked(world.ask, x, other[row])
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
    h = _DIFFERENCE * world.diagonal
    depth = -_asked(world.ask, x, other) - _OFF * np.abs(_asked(world.ask, x, own))
    step = world.reach[own]
    x = x.copy()
    for _ in range(_ROUNDS):
        rows = np.flatnonzero(step > h[own])
        if len(rows) == 0:
            break
        a, b, s = own[rows], other[rows], step[rows]
        # Differences as wide as the step see both sides of a ridge, and so the way along it.
        up = -_gradient(world.ask, x[rows], b, np.maximum(0.5 * s, h[b]))
        up /= np.maximum(np.linalg.norm(up, axis=1), 1e-12)[:, None]
        tried, off = _project(world.ask, x[rows] + s[:, None] * up, a, h[a], 2 * s, steps=2)
        deep = -_asked(world.ask, tried, b) - _OFF * np.abs(off)
        better = deep > depth[rows]
        x[rows[better]], depth[rows[better]] = tried[better], deep[better]
        step[rows] *= np.where(better, 1.5, 0.4)
    return x, depth


def _core_points(
    composite: Composite, covers: dict[int, _Cover], own: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The cores of ``own`` for each of ``rows``: row and world point."""
    stand = composite._stand
    found = [np.zeros((0, 3))] + [covers[a].cores for a in stand.asset[own[rows]].tolist()]
    rows = np.repeat(rows, [len(c) for c in found[1:]])
    i = own[rows]
    p = stand.scale[i, None] * np.concatenate(found)
    return rows, (stand.rot[i] @ p[..., None])[..., 0] + stand.trans[i]


# -- clearance -----------------------------------------------------------------------------------------------------------


def _nearest_points(composite: Composite, i: int, j: int, covers: dict[int, _Cover]) -> tuple[np.ndarray, np.ndarray]:
    """The nearest points of two surfaces that do not meet, world frame."""
    stand, world = composite._stand, _world(composite, covers)
    at_i, at_j = (covers[stand.asset[k]].points * stand.scale[k] @ stand.rot[k].T + stand.trans[k] for k in (i, j))
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
    x, f = _project(world.ask, x, a, _DIFFERENCE * world.diagonal[a], world.reach[a])
    y, g = _project(world.ask, y, b, _DIFFERENCE * world.diagonal[b], world.reach[b])
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
    h = _DIFFERENCE * world.diagonal[owner]
    normal = _gradient(world.ask, x, owner, h)
    normal /= np.maximum(np.linalg.norm(normal, axis=1), 1e-12)[:, None]
    along = (y - x) - ((y - x) * normal).sum(1)[:, None] * normal
    return _project(world.ask, x + _clipped(along, step), owner, h, np.maximum(step, h), steps=2)


def _triple(p: np.ndarray) -> tuple[float, float, float]:
    x, y, z = p.tolist()
    return x, y, z


# -- compiled ------------------------------------------------------------------------------------------------------------


@numba.njit(cache=True, parallel=True)
def _meetings(tree, stand, lo, hi, offset, out, count):
    """For each instance those above it whose box meets its own, written to ``out`` from ``offset [m]`` on, unless that is
    negative, and counted."""
    for i in numba.prange(len(lo)):
        count[i] = _meeting(tree, stand, lo, hi, i, offset[i], out)


@numba.njit(cache=True)
def _meeting(tree, stand, lo, hi, i, out_at, out):
    count = 0
    stack = np.empty(STACK, dtype=np.int64)
    stack[0], top = 1, 1
    while top > 0:
        top -= 1
        node = stack[top]
        apart = False
        for a in range(3):
            if tree.lo[node, a] > hi[i, a] or tree.hi[node, a] < lo[i, a]:
                apart = True
        if apart:
            continue
        j = tree.instance[node]
        if j == INNER:
            stack[top], stack[top + 1] = 2 * node, 2 * node + 1
            top += 2
        elif j > i and _oriented_boxes_meet(stand, i, j):
            if out_at >= 0:
                out[out_at + count] = j
            count += 1
    return count


@numba.njit(cache=True)
def _oriented_boxes_meet(stand, i, j):
    """No separating axis among the 6 face normals and 9 products of edges; boxes that touch meet."""
    half_i, half_j, way = np.empty(3), np.empty(3), np.empty(3)
    a, b = stand.asset[i], stand.asset[j]
    slack = 0.0
    for r in range(3):
        way[r] = stand.trans[j, r] - stand.trans[i, r]
        half_i[r] = 0.5 * stand.scale[i] * (stand.box_hi[a, r] - stand.box_lo[a, r])
        half_j[r] = 0.5 * stand.scale[j] * (stand.box_hi[b, r] - stand.box_lo[b, r])
        slack += 1e-9 * (half_i[r] + half_j[r]) + 1e-15 * (abs(stand.trans[i, r]) + abs(stand.trans[j, r]))
        for c in range(3):
            way[r] += 0.5 * stand.scale[j] * stand.rot[j, r, c] * (stand.box_lo[b, c] + stand.box_hi[b, c])
            way[r] -= 0.5 * stand.scale[i] * stand.rot[i, r, c] * (stand.box_lo[a, c] + stand.box_hi[a, c])
    axis = np.empty(3)
    for k in range(15):
        for r in range(3):
            if k < 3:
                axis[r] = stand.rot[i, r, k]
            elif k < 6:
                axis[r] = stand.rot[j, r, k - 3]
            else:
                u, v, s, t = (k - 6) // 3, (k - 6) % 3, (r + 1) % 3, (r + 2) % 3
                axis[r] = stand.rot[i, s, u] * stand.rot[j, t, v] - stand.rot[i, t, u] * stand.rot[j, s, v]
        # The product of near parallel edges is near zero, and so are all terms: the slack keeps the boxes together.
        gap, reach = 0.0, slack
        for r in range(3):
            gap += way[r] * axis[r]
            reach_i, reach_j = 0.0, 0.0
            for c in range(3):
                reach_i += stand.rot[i, c, r] * axis[c]
                reach_j += stand.rot[j, c, r] * axis[c]
            reach += half_i[r] * abs(reach_i) + half_j[r] * abs(reach_j)
        if abs(gap) > reach:
            return False
    return True


class _Tables(NamedTuple):
    """The covers of all assets, one after another; those that are not asked for are empty."""

    start: np.ndarray  # [a + 1] first point
    points: np.ndarray
    block_at: np.ndarray  # [a] first block
    block: np.ndarray
    shape: np.ndarray  # [a, 3] blocks
    size: np.ndarray  # [a, 3]


def _tables(covers: dict[int, _Cover], n_assets: int) -> _Tables:
    nothing = _Cover(np.zeros((0, 3)), 0.0, np.zeros((0, 3)), np.zeros((0, 0, 0), np.int16), np.ones(3))
    rows = [covers.get(a, nothing) for a in range(n_assets)]
    return _Tables(
        np.cumsum([0] + [len(c.points) for c in rows]),
        np.concatenate([c.points for c in rows]),
        np.cumsum([0] + [c.block.size for c in rows[:-1]]),
        np.concatenate([c.block.ravel() for c in rows]),
        np.array([c.block.shape for c in rows], dtype=np.int64),
        np.stack([c.size for c in rows]),
    )


@numba.njit(cache=True, parallel=True)
def _find_near(stand, tables, own, other, reach, offset, out, count):
    """The surface points of ``own [n]`` that may lie within ``reach [n]`` (metres) of the surface of ``other [n]`` or inside it.

    Those of row ``k`` are written (world frame) to ``out`` from ``offset[k]`` on, unless that is negative, and counted.
    """
    for k in numba.prange(len(own)):
        count[k] = _near(stand, tables, own[k], other[k], reach[k], offset[k], out)


@numba.njit(cache=True)
def _near(stand, tables, i, j, reach, out_at, out):
    a, b = stand.asset[i], stand.asset[j]
    # From the frame of i to that of j: q = turn p + shift.
    turn, shift, margin = np.zeros((3, 3)), np.zeros(3), reach / stand.scale[j]
    for r in range(3):
        for c in range(3):
            shift[r] += stand.rot[j, c, r] * (stand.trans[i, c] - stand.trans[j, c]) / stand.scale[j]
            for e in range(3):
                turn[r, c] += stand.rot[j, e, r] * stand.rot[i, e, c] * stand.scale[i] / stand.scale[j]
    count = 0
    rim = np.empty(3)
    for k in range(tables.start[a], tables.start[a + 1]):
        x, y, z = tables.points[k, 0], tables.points[k, 1], tables.points[k, 2]
        near, at = True, 0
        for r in range(3):
            q = turn[r, 0] * x + turn[r, 1] * y + turn[r, 2] * z + shift[r]
            if q < stand.box_lo[b, r] - margin or q > stand.box_hi[b, r] + margin:
                near = False
                break
            # Beyond the box, its nearest point is no farther from the surface.
            u = min(max((q - stand.box_lo[b, r]) / tables.size[b, r], 0.0), float(tables.shape[b, r]))
            place = min(int(u), tables.shape[b, r] - 1)
            rim[r] = min(u - place, place + 1 - u)
            at = at * tables.shape[b, r] + place
        code = -1 - tables.block[tables.block_at[b] + at] if near else -1
        if code >= 0 and code % 2 == 0:  # outside, and no surface in the blocks around up to this many less one
            free = np.inf
            for r in range(3):
                free = min(free, (code // 2 - 1 + rim[r]) * tables.size[b, r])
            near = free <= margin
        if near:
            if out_at >= 0:
                for r in range(3):
                    p = stand.rot[i, r, 0] * x + stand.rot[i, r, 1] * y + stand.rot[i, r, 2] * z
                    out[out_at + count, r] = stand.scale[i] * p + stand.trans[i, r]
            count += 1
    return count
