"""The surface of each asset for questions of distance: exact solids by formula, all others as triangles in a tree, and an octree
of polynomials of their distances (`compose.cpu.pieces`), so that the tree is seldom asked.

The triangles are the field's zero set: marching cubes with vertices moved onto it (`objects.meshing`, here with the fused kernel
for SIRENs), of ``1 / _CELLS`` of the longest edge, then made fewer where it is flat (manifold3d). Together they stray from the zero
set by less than `TOLERANCE` of the box diagonal but for places thinner than a cell and for sharp rims, which are cut off by up to
half a cell. Set operations of exact solids are cut sharp from meshes of their parts. What was made is kept in the cache folder.

The tree of an asset is implicit, like that of `compose.cpu.bvh`: node ``k`` has children ``2k`` and ``2k + 1``. As triangles are
halved evenly, node ``i`` of depth ``d`` holds those from ``i t >> d`` to ``(i + 1) t >> d`` of all ``t``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import manifold3d
import numpy as np
import safetensors
import safetensors.numpy
import torch

from compose.batch import FieldBatch
from compose.cpu import Bvh, InstanceTransforms
from compose.cpu.distances import (
    BOX,
    CAPSULE,
    CYLINDER,
    NOTHING,
    SPHERE,
    TORUS,
    TRIANGLES,
    UNKNOWN,
    Surfaces,
    distances_to_one,
    nearest_surfaces,
    turned_boxes,
)
from compose.cpu.pieces import octree
from compose.field_cache import FieldCache
from compose.growing import Growing
from objects.cache import cache_folder, content_key
from objects.field import Difference, Field, Intersection, Union
from objects.files import FieldFileError, field_hash, storable, write_atomically
from objects.meshing import zero_set
from objects.placed import Placed
from objects.pose import rotation_from_quat
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
from objects.progress import Bar

TOLERANCE = 1e-3  # of the box diagonal: what `Composite.closest` states for fields that aren't exact

_VERSION = 5  # part of every cache key: raise it when the same field would give another surface
_CELLS = 192  # along the longest edge
_SIMPLER = 2.5e-4  # of the box diagonal: how far simplifying may move the surface
_LEAF = 4  # most triangles of a leaf
_SLACK = 2e-5  # of the box diagonal: how much a search for the nearest triangle may give away
_PLAIN = (
    2.5e-4  # of the box diagonal: how far the polynomials of a cell may be off at its samples; more from `_NEAR` on
)
_NEAR = 0.5  # of the box diagonal
_REACH = 4  # half the edge of the octree's cube, in longest edges of the box
_LEVELS = 5  # of the octree: its smallest cells are 1/16 of the longest edge
_TRIES = 4  # numbers of cells until a surface is a manifold
_CURVED = 256  # segments of a full circle where an exact solid becomes a mesh

_SOLIDS: dict[type[Field], tuple[int, tuple[str, ...]]] = {
    Sphere: (SPHERE, ("radius",)),
    Box: (BOX, ("size", "rounding")),
    Cylinder: (CYLINDER, ("radius", "height")),
    Capsule: (CAPSULE, ("radius", "height")),
    Torus: (TORUS, ("major", "minor")),
}


@dataclass(frozen=True, eq=False)
class AssetSurface:
    """The surface of one asset of ``t`` triangles in a tree of ``2 l`` nodes, relative to ``centre``.

    Args:
        solid: ``[18]`` float64: what it is (`TRIANGLES`, `SPHERE`, ...), then for an exact solid its frame in that of the object
            (rotation row by row, translation, scale) and up to four sizes.
        centre: ``[3]`` float64, of the box.
        node: ``[2 l, 15]`` float32, boxes along the main axes of what is in them: three axes, the middle and half the size along
            each.
        corner: ``[t, 9]`` float32, corners of the triangles, counter-clockwise seen from outside.
        normal: ``[t, 7, 3]`` int16: directions (of length 32767) that tell outside from inside where the nearest point lies on the
            face, on the edges that begin at corners 0, 1, 2, or on these corners (Baerentzen, Aanaes, "Signed Distance
            Computation Using the Angle Weighted Pseudonormal", 2005).
        half: ``[1]``, half the edge of the cube about ``centre`` that the octree divides.
        child, piece: The octree (`compose.cpu.pieces.octree`).
        slack: ``[1]`` object units: how much a search for the nearest triangle may give away.
    """

    solid: np.ndarray
    centre: np.ndarray
    node: np.ndarray
    corner: np.ndarray
    normal: np.ndarray
    half: np.ndarray
    child: np.ndarray
    piece: np.ndarray
    slack: np.ndarray


class SceneSurfaces:
    """The surfaces of the assets of a scene, each made when a search first meets its box nearer than anything found so far.

    What is answered doesn't depend on what was asked before: a search that meets an unknown surface is done again.
    """

    def __init__(self, wanted: Sequence[tuple[Field, float | None]], like: SceneSurfaces | None = None) -> None:
        """Of fields at times; what ``like`` knows of them is shared."""
        self._wanted, self._known = list(wanted), _nothing_known(len(wanted))
        self._lock, self._rows = threading.Lock(), {name: Growing(getattr(self._known, name)) for name in _ROWS}
        if like is None:
            return
        number = {asset: a for a, asset in enumerate(like._wanted)}
        pairs = [(a, number[asset]) for a, asset in enumerate(self._wanted) if asset in number]
        mine, theirs = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        with like._lock:
            old = like._known
            if 2 * old.triangles[theirs].sum() < len(like._rows["corner"].array):  # let go of what is gone
                return
            self._lock, self._rows = like._lock, like._rows
            known = {name: getattr(old, name) for name in _ROWS}
            for name in set(Surfaces._fields) - known.keys():
                column = getattr(self._known, name).copy()
                column[mine] = getattr(old, name)[theirs]
                known[name] = column
        self._known = Surfaces(**known)

    def nearest(self, tree: Bvh, transforms: InstanceTransforms, points: np.ndarray) -> tuple[np.ndarray, ...]:
        """`nearest_surfaces` at points ``[n, 3]`` (world).

        Raises:
            ValueError: A field gives values that are not finite.
        """
        found = nearest_surfaces(tree, transforms, self._known, points)
        while len(rows := np.flatnonzero(found[1] < -1)):
            self._make(np.unique(-2 - found[1][rows]))
            for values, again in zip(found, nearest_surfaces(tree, transforms, self._known, points[rows]), strict=True):
                values[rows] = again
        return found

    def _make(self, assets: np.ndarray) -> None:
        with self._lock:  # two threads may ask at once; either sees `_known` as it was, or with all of an asset
            for a in Bar(assets, desc="surfaces", unit="object"):
                if self._known.solid[a, 0] == UNKNOWN:
                    self._known = self._with(a, surface_of(*self._wanted[a]))

    def _with(self, a: int, surface: AssetSurface) -> Surfaces:
        known, changed = self._known, {}
        for name, at in _ROWS.items():
            first = self._rows[name].append(getattr(surface, name))
            changed[name] = self._rows[name].array
            if at:
                changed[at] = _with_value(getattr(known, at), a, first)
        for name in ("centre", "half", "slack", "solid"):
            changed[name] = _with_value(getattr(known, name), a, getattr(surface, name))
        changed["triangles"] = _with_value(known.triangles, a, len(surface.corner))
        changed["depth"] = _with_value(known.depth, a, _depth(surface))
        return known._replace(**changed)


# Arrays that hold rows of all assets, and the one that says where those of an asset begin ("normal" has the rows of "corner").
_ROWS = {"node": "node_at", "corner": "triangle_at", "normal": "", "child": "child_at", "piece": "piece_at"}


def _nothing_known(a: int) -> Surfaces:
    solid, at = np.zeros((a, 18)), np.zeros(a, dtype=np.int64)
    solid[:, 0] = UNKNOWN
    node, corner, normal = np.zeros((0, 15), np.float32), np.zeros((0, 9), np.float32), np.zeros((0, 7, 3), np.int16)
    child, piece = np.zeros(0, np.int32), np.zeros((0, 12), np.float32)
    number = np.zeros(a)
    return Surfaces(
        solid, np.zeros((a, 3)), at, at, at, at, node, corner, normal, number, at, at, child, piece, number
    )  # fmt: skip


def _with_value(column: np.ndarray, a: int, value: Any) -> np.ndarray:
    """A copy with another row ``a``."""
    column = column.copy()
    column[a : a + 1] = value
    return column


def only(surface: AssetSurface) -> Surfaces:
    """One surface as those of a scene."""
    s, zero = surface, np.zeros(1, dtype=np.int64)
    return Surfaces(
        s.solid[None], s.centre[None], zero, zero, np.array([len(s.corner)]), np.array([_depth(s)]), s.node, s.corner, s.normal,
        s.half, zero, zero, s.child, s.piece, s.slack,
    )  # fmt: skip


def _depth(surface: AssetSurface) -> int:
    """Of its tree."""
    return max(len(surface.node), 2).bit_length() - 2


def surface_of(field: Field, time: float | None = None) -> AssetSurface:
    """The surface of a field at a time, made on first use and again whenever the weights have changed; kept in the cache folder."""
    return _CACHE.of(field, time, lambda: _stored_or_built(field, time))


_CACHE: FieldCache[AssetSurface] = FieldCache()


def _stored_or_built(field: Field, time: float | None) -> AssetSurface:
    solid = _solid(field)
    if solid is not None:
        return _surface(field, solid, np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    if not storable(field):  # of the caller's own making: its numbers don't say all of it
        return _built(field, time)
    key = content_key("surface", _VERSION, _CELLS, _SIMPLER, field_hash(field), time)
    path = cache_folder("surfaces") / f"{key}.safetensors"
    surface = _read(path)
    if surface is None:
        surface = _built(field, time)
        arrays = {f.name: np.ascontiguousarray(getattr(surface, f.name)) for f in fields(surface)}
        with contextlib.suppress(FieldFileError):  # no room: it is made again the next time
            write_atomically(path, safetensors.numpy.save(arrays))
    return surface


def _read(path: Path) -> AssetSurface | None:
    """A stored surface; None where there is none, or none that is whole."""
    try:
        return AssetSurface(**safetensors.numpy.load(path.read_bytes()))
    except (OSError, safetensors.SafetensorError, TypeError):
        return None


# -- exact solids ------------------------------------------------------------------------------------------------------


def _solid(field: Field) -> np.ndarray | None:
    """The row of `AssetSurface.solid` of an exact solid, placed or not; None for other fields."""
    rotation, translation, scale = np.eye(3), np.zeros(3), 1.0
    while type(field) is Placed:
        turn = rotation_from_quat(field.quat_wxyz.double()).numpy()
        translation = translation + scale * rotation @ field.translation.double().numpy()
        rotation, scale, field = rotation @ turn, scale * float(field.scale), cast(Field, field.child)
    if type(field) not in _SOLIDS:
        return None
    kind, names = _SOLIDS[type(field)]
    sizes = np.concatenate([field.get_buffer(name).double().numpy().reshape(-1) for name in names])
    return np.r_[kind, rotation.ravel(), translation, scale, np.pad(sizes, (0, 4 - len(sizes)))]


def manifold_of(field: Field, time: float | None, cells: int = _CELLS, simpler: float = 0.0) -> manifold3d.Manifold:
    """The solid at a time (seconds, where it deforms) as a manifold, in the object frame; empty where it has no inside.

    What is made of exact solids is exact but for the segments of what is round (256 a circle). All else is the zero set by
    marching cubes.

    Args:
        field: Any field.
        time: Seconds; None for 0.
        cells: Along the longest edge of the box of what isn't exact.
        simpler: How far simplifying may move what isn't exact, as a share of its box diagonal.

    Raises:
        ValueError: The field gives values that are not finite, or its surface can't be closed.
    """
    m3 = manifold3d.Manifold
    if type(field) in (Union, Intersection, Difference) and float(field.get_buffer("smooth")) == 0:
        a, b = (manifold_of(cast(Field, child), time, cells, simpler) for child in (field.a, field.b))
        return a + b if type(field) is Union else a ^ b if type(field) is Intersection else a - b
    if type(field) is Placed:
        turn = rotation_from_quat(field.quat_wxyz.double()).numpy()
        pose = np.column_stack([float(field.scale) * turn, field.translation.double().numpy()])
        return manifold_of(cast(Field, field.child), time, cells, simpler).transform(pose)
    if type(field) is Sphere:
        return m3.sphere(float(field.radius), _CURVED)
    if type(field) is Box and float(field.rounding) == 0:
        return m3.cube(field.size.tolist(), True)
    if type(field) is Cylinder:
        radius = float(field.radius)
        return m3.cylinder(float(field.height), radius, radius, _CURVED, True)
    return _sampled(field, time, cells, simpler)


def _sampled(field: Field, time: float | None, cells: int, simpler: float) -> manifold3d.Manifold:
    """The zero set of a field by marching cubes; nothing where it has none. Where an edge is left open, the cells are others."""
    for n in range(cells, cells + 8 * _TRIES, 8):
        made = _marched(field, time, n)
        if made.status() == manifold3d.Error.NoError:
            return made.simplify(simpler * field.bounds.diagonal) if simpler else made
    raise ValueError(f"{type(field).__name__}: its surface could not be closed by marching cubes")


def _marched(field: Field, time: float | None, cells: int) -> manifold3d.Manifold:
    batch = FieldBatch([field])

    def ask(p: torch.Tensor) -> torch.Tensor:
        n = len(p)
        return torch.from_numpy(batch.sdf_sorted(np.zeros(n, np.int64), p.double().numpy(), np.full(n, time or 0.0)))

    try:
        with torch.no_grad():
            vertices, faces = zero_set(field, float(field.bounds.size.max()) / cells, ask)
    except ValueError as error:
        if "no surface" not in str(error):
            raise
        return manifold3d.Manifold()
    return manifold3d.Manifold(manifold3d.Mesh64(vertices.double().numpy(), faces.astype(np.uint64)))


# -- the tree ----------------------------------------------------------------------------------------------------------


def _built(field: Field, time: float | None) -> AssetSurface:
    mesh = manifold_of(field, time, simpler=_SIMPLER).to_mesh64()
    vertices = np.asarray(mesh.vert_properties, dtype=np.float64)[:, :3]
    faces = np.asarray(mesh.tri_verts).astype(np.int64)
    return _surface(field, np.r_[TRIANGLES if len(faces) else NOTHING, np.zeros(17)], vertices, faces)


def _surface(field: Field, solid: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> AssetSurface:
    centre = field.bounds.center.double().numpy()
    vertices = (vertices - centre).astype(np.float32).astype(np.float64)
    order, depth = _halved(vertices[faces].mean(1))
    faces = faces[order]
    corners = vertices[faces]
    corner, normal, slack = corners.reshape(-1, 9).astype(np.float32), _pseudonormals(vertices, faces), np.zeros(1)
    node = turned_boxes(corner, depth) if len(faces) else np.zeros((0, 15), np.float32)
    nothing = np.zeros(1), np.zeros(0, np.int32), np.zeros((0, 12), np.float32)
    bare = AssetSurface(solid, centre, node, corner, normal, *nothing, slack)
    return _with_octree(bare, field) if len(faces) else bare


def _with_octree(bare: AssetSurface, field: Field) -> AssetSurface:
    half, diagonal = _REACH * float(field.bounds.size.max()), field.bounds.diagonal
    bare = replace(bare, slack=np.array([_SLACK * diagonal]))
    exact = only(bare)
    child, piece = octree(
        lambda p: distances_to_one(exact, p + bare.centre), half, _LEVELS, _PLAIN * diagonal, _NEAR * diagonal
    )
    return replace(bare, half=np.array([half]), child=child, piece=piece)


def _halved(centre: np.ndarray) -> tuple[np.ndarray, int]:
    """An order of the triangles in which each node's stand together, and the depth of the tree; nodes are halved along their
    longest axis."""
    t = len(centre)
    depth = max(0, int(np.ceil(np.log2(max(t, 1) / _LEAF))))
    order = np.arange(t)
    for level in range(depth):
        starts = (np.arange(1 << level) * t) >> level
        widths = np.maximum.reduceat(centre[order], starts) - np.minimum.reduceat(centre[order], starts)
        counts = np.diff(np.r_[starts, t])
        axis, node = np.repeat(widths.argmax(1), counts), np.repeat(np.arange(1 << level), counts)
        order = order[np.lexsort((order, centre[order, axis], node))]
    return order, depth


def _pseudonormals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """See `AssetSurface.normal`."""
    corners = vertices[faces]
    ahead = np.roll(corners, -1, 1) - corners  # the edge that begins at each corner
    face = _unit(np.cross(ahead[:, 0], ahead[:, 1]))
    there, back = _unit(ahead), _unit(-np.roll(ahead, 1, 1))
    angle = np.arccos(np.clip((there * back).sum(-1), -1, 1))
    vertex = np.zeros_like(vertices)
    np.add.at(vertex, faces, angle[..., None] * face[:, None])
    pairs = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2), 1)
    _, which = np.unique(pairs[:, 0] * max(len(vertices), 1) + pairs[:, 1], return_inverse=True)
    edge = np.zeros((which.max(initial=-1) + 1, 3))
    np.add.at(edge, which, np.repeat(face, 3, 0))
    normals = np.concatenate([face[:, None], _unit(edge)[which].reshape(-1, 3, 3), _unit(vertex)[faces]], 1)
    return np.rint(32767 * normals).astype(np.int16)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-300)
