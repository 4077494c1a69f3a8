"""Triangle meshes as teachers: find the solid they mean, sample its surface, colour, distance.

Inside is where the generalised winding number is at least 1/2 (Jacobson, Kavan, Sorkine-Hornung 2013, by the fast
summation of Barill et al. 2018), so meshes with holes or of several overlapping bodies have an inside too. Distances are
measured to the surface of that solid: walls buried inside another body, or in a slit between bodies too narrow to be
learned, are no part of it. Flat parts and sheets get a thickness, rooms get walls (`objects.solid` says which is which).
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import igl
import manifold3d
import numpy as np
import trimesh
from jaxtyping import Float, Int
from scipy.sparse import csgraph

from objects.aabb import without_origin
from objects.mesh_files import MAX_FACES, MeshError, Meshlike, MeshPart, read_parts
from objects.paint import GREY, Paint
from objects.solid import Shape, shape_of, volume, winding

_SUBDIVISIONS = 25  # faces are cut to this part of the extent before buried ones are dropped
_MAX_CUT_FACES = 200_000
_MANY = 64  # more bodies are not compared with each other
SLIT = 2e-3  # gaps narrower than this share of the extent count as filled (convex parts that nearly touch)
THICKNESS = 0.02  # of sheets and walls, as a share of the longest edge: what the default network learns as one piece


@dataclass(frozen=True, eq=False)
class _Body:
    """What encloses a volume: its surface, normals outwards.

    Attributes:
        winding: What inside means: vertices and faces before buried walls were dropped.
        slits: Faces left out of the surface because what is before them is a slit, which counts as filled.
        closed: Vertices and faces of closed surfaces that bound it, where it has such.
        one: Whether it is a single closed body, of which pseudonormals give the sign.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    winding: tuple[np.ndarray, np.ndarray]
    slits: Int[np.ndarray, "s 3"]
    closed: tuple[np.ndarray, np.ndarray] | None
    one: bool

    def signed_distance(self, p: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        if self.one:
            kind = igl.SIGNED_DISTANCE_TYPE_PSEUDONORMAL
            return np.asarray(igl.signed_distance(p, self.vertices, self.faces, sign_type=kind)[0])
        squared = np.asarray(igl.point_mesh_squared_distance(p, self.vertices, self.faces)[0])
        inside = winding(*self.winding, p) >= 0.5
        if len(self.slits) and not inside.all():
            in_front = np.asarray(igl.point_mesh_squared_distance(p[~inside], self.vertices, self.slits)[0])
            slit = SLIT * float(np.ptp(self.vertices, 0).max())
            inside[~inside] = in_front < np.minimum(squared[~inside], slit**2)
        return np.where(inside, -1, 1) * np.sqrt(squared)


@dataclass(frozen=True, eq=False)
class MeshSource:
    """A solid given by triangles, with colour; in the units of its file, and in its frame moved by the origin that was taken off.

    Attributes:
        lo, hi: Corners of its box.
        has_color: Whether the file gave colour; without, all is grey.
    """

    lo: Float[np.ndarray, "3"]
    hi: Float[np.ndarray, "3"]
    has_color: bool
    _body: _Body | None
    _vertices: Float[np.ndarray, "v 3"]  # of sheets and walls
    _sheets: Int[np.ndarray, "f 3"]
    _walls: Int[np.ndarray, "f 3"]
    _thickness: float
    _painted: tuple[np.ndarray, np.ndarray]  # vertices and faces that the paints belong to
    _paints: tuple[Paint, ...]
    _paint_counts: tuple[int, ...]

    @property
    def extent(self) -> float:
        """Longest edge of the box."""
        return float((self.hi - self.lo).max())

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
        """``n`` points spread evenly over the area of the surface, and the unit normals there."""
        if self._body is not None and not len(self._sheets) and not len(self._walls):
            return _on_faces(self._body.vertices, self._body.faces, n, rng)
        body = (np.zeros((0, 3)), np.zeros((0, 3), np.int64))
        if self._body is not None:
            body = self._body.vertices, self._body.faces
        pieces = [  # faces, how far the surface is before them
            (*body, 0.0),
            *((self._vertices, f, 0.5 * self._thickness) for f in (self._sheets, self._sheets[:, ::-1])),
            (self._vertices, self._walls, 0.0),
            (self._vertices, self._walls[:, ::-1], self._thickness),
        ]
        areas = [float(trimesh.triangles.area(v[f]).sum()) if len(f) else 0.0 for v, f, _ in pieces]
        rims = _rims(self._sheets)
        ends = self._vertices[rims]
        areas.append(float(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).sum()) * np.pi / 2 * self._thickness)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        total = 0
        for _ in range(20):
            counts = np.ceil(1.3 * n * np.array(areas) / sum(areas)).astype(int)
            some = [
                (p + offset * normal, normal)
                for (v, f, offset), count in zip(pieces, counts, strict=False)
                if count
                for p, normal in [_on_faces(v, f, int(count), rng)]
            ]
            if counts[-1]:
                some.append(_on_rims(ends, 0.5 * self._thickness, int(counts[-1]), rng))
            p, normal = (np.concatenate(x) for x in zip(*some, strict=True))
            kept = self.signed_distance(p) > -1e-3 * self._thickness  # the others are inside another piece
            found.append((p[kept], normal[kept]))
            total += int(kept.sum())
            if total >= n:
                break
        p, normal = (np.concatenate(x) for x in zip(*found, strict=True))
        pick = rng.permutation(len(p))[:n] if len(p) >= n else rng.integers(len(p), size=n)
        return p[pick], normal[pick]

    def signed_distance(self, p: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Distance to the surface of the solid, negative inside (there a bound, where several pieces overlap)."""
        p = np.ascontiguousarray(p)
        distances = [] if self._body is None else [self._body.signed_distance(p)]
        half = 0.5 * self._thickness
        if len(self._sheets):
            distances.append(_distance(self._vertices, self._sheets, p) - half)
        if len(self._walls):
            far = _distance(self._vertices, self._walls, p)
            air = winding(self._vertices, self._walls, p) <= -0.5
            distances.append(np.where(air, far, np.abs(far - half) - half))
        return np.min(distances, 0)

    def colors(self, p: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Colour (sRGB in 0..1) of the closest points of the mesh."""
        if not self.has_color:
            return np.full((len(p), 3), GREY)
        vertices, faces = self._painted
        _, face, closest = map(np.asarray, igl.point_mesh_squared_distance(np.ascontiguousarray(p), vertices, faces))
        barycentric = trimesh.triangles.points_to_barycentric(vertices[faces[face]], closest)
        barycentric = np.nan_to_num(np.clip(barycentric, 0, 1), nan=1 / 3)
        barycentric /= np.maximum(barycentric.sum(1, keepdims=True), 1e-12)
        rgb, first = np.empty((len(p), 3)), 0
        for paint, count in zip(self._paints, self._paint_counts, strict=True):
            mine = (face >= first) & (face < first + count)
            rgb[mine] = paint.at(face[mine] - first, barycentric[mine])
            first += count
        return np.clip(rgb, 0, 1)

    @property
    def triangles(self) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]] | None:
        """Vertices and faces of what encloses a volume, joined by position; None where sheets or walls were made thick."""
        if self._body is None or len(self._sheets) or len(self._walls):
            return None
        return self._body.winding

    @cached_property
    def parts(self) -> tuple[int, int] | None:
        """Connected pieces of the solid and of the space around and within it, as far as the width of slits lets them be told
        apart; None for meshes that are not closed."""
        if self._body is None or self._body.closed is None or len(self._sheets) or len(self._walls):
            return None
        return _parts(*self._body.closed, SLIT * self.extent)

    def content_hash(self) -> str:
        """SHA-256 of geometry and colour."""
        digest = hashlib.sha256()
        body = [] if self._body is None else [self._body.vertices, self._body.faces, *self._body.winding]
        arrays = [*body, self._vertices, self._sheets, self._walls, np.float64(self._thickness), *self._painted]
        arrays += [a for paint in self._paints for a in paint.arrays()]
        for array in arrays:
            array = np.asarray(array)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_mesh(
    mesh: Meshlike,
    argument: str = "mesh",
    *,
    facing: str = "auto",
    thickness: float = THICKNESS,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> MeshSource:
    """Reads and checks a mesh; every part of a scene, with its colours. One warning says how a doubtful one was understood.

    Args:
        mesh: A mesh file, a mesh or scene of trimesh, or parts that were read (`objects.mesh_files.read_parts`).
        argument: What errors call it.
        facing: Which side of its faces is air (see `objects.solid.shape_of`).
        thickness: Of sheets and of the walls of rooms, as a share of the longest edge.
        origin: Taken off all coordinates, in float64.

    Raises:
        MeshError: Missing, empty or unreadable file, no faces, numbers that are not finite, more than ``MAX_FACES``
            faces, no area, or too far from the origin for float32.
    """
    name = f"{argument} {str(mesh)!r}" if isinstance(mesh, str | os.PathLike) else argument
    parts = read_parts(mesh, name)
    vertices, faces = _joined(parts, name)
    used = np.unique(faces)
    size = np.ptp(vertices[used], 0)
    if not size.max() > 0:
        raise MeshError(f"{name}: expected a solid, got triangles that are all in one point")
    try:
        placed = np.zeros(vertices.shape)
        placed[used] = without_origin(vertices[used], origin, name)
    except ValueError as error:
        raise MeshError(str(error)) from error
    solid_v, solid_f = _merged(placed[faces], size.max())
    shape = shape_of(solid_v, solid_f, facing, name)
    try:
        body, sheets = _body(solid_v, shape)
    except (ValueError, IndexError) as error:
        raise MeshError(f"{name}: expected triangles that enclose a volume; reading them failed: {error}") from error
    thick = thickness * float(size.max())
    notes = list(shape.notes)
    if len(sheets):
        what = "all of it is" if body is None and not len(shape.walls) else "parts of it are"
        notes.append(f"{what} flat or open, without volume, and made {thick:.3g} thick (thickness= sets how much)")
    if notes:
        warnings.warn(f"{name}: {'; '.join(notes)}", stacklevel=3)
    around = [(sheets, 0.5 * thick), (shape.walls, thick)]
    corners = [solid_v[f].reshape(-1, 3) + s * grow for f, grow in around if len(f) for s in (-1, 1)]
    corners += [] if body is None else [body.vertices[np.unique(body.faces)]]
    return MeshSource(
        np.min([c.min(0) for c in corners], 0),
        np.max([c.max(0) for c in corners], 0),
        has_color=any(p.paint is not None for p in parts),
        _body=body,
        _vertices=solid_v,
        _sheets=sheets,
        _walls=shape.walls,
        _thickness=thick,
        _painted=(np.ascontiguousarray(placed), faces),
        _paints=tuple(p.paint or Paint.flat((GREY, GREY, GREY), len(p.faces)) for p in parts),
        _paint_counts=tuple(len(p.faces) for p in parts),
    )


def _joined(parts: Sequence[MeshPart], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of all parts, checked."""
    vertices = np.concatenate([p.vertices for p in parts])
    offsets = np.cumsum([0, *(len(p.vertices) for p in parts[:-1])])
    faces = np.concatenate([p.faces + o for p, o in zip(parts, offsets, strict=True)])
    if len(faces) > MAX_FACES:
        raise MeshError(f"{name}: expected at most {MAX_FACES:,} faces, got {len(faces):,}; simplify the mesh first")
    if len(faces) and not (0 <= faces.min() and faces.max() < len(vertices)):
        raise MeshError(f"{name}: faces must index its {len(vertices)} vertices, got {faces.min()}..{faces.max()}")
    if len(faces) == 0 or not np.isfinite(vertices[faces]).all():
        got = "none" if len(faces) == 0 else "vertices that are NaN or infinite"
        raise MeshError(f"{name}: expected triangles with finite vertices, got {got}")
    return vertices, faces


# -- places ------------------------------------------------------------------------------------------------------------


def _on_faces(
    vertices: np.ndarray, faces: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points even over the area of faces, and the normals there."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    cumulative = np.cumsum(area)
    # Stratified along the cumulated area: less uneven than independent draws.
    pick = np.searchsorted(cumulative, (np.arange(n) + rng.random(n)) / n * cumulative[-1], side="right")
    pick = np.minimum(pick, len(area) - 1)
    root, v = np.sqrt(rng.random((n, 1))), rng.random((n, 1))
    points = (1 - root) * a[pick] + root * (1 - v) * b[pick] + root * v * c[pick]
    return points, cross[pick] / np.maximum(area[pick, None], 1e-300)


def _rims(faces: np.ndarray) -> Int[np.ndarray, "e 2"]:
    """Edges of one face only."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    return unique[count == 1]


def _on_rims(ends: np.ndarray, radius: float, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points on tubes around edges ``ends [e, 2, 3]``, and directions from their axes."""
    along = ends[:, 1] - ends[:, 0]
    length = np.linalg.norm(along, axis=1)
    pick = np.minimum(np.searchsorted(np.cumsum(length), rng.random(2 * n) * length.sum()), len(length) - 1)
    axis = along[pick] / length[pick, None]
    normal = rng.normal(size=(2 * n, 3))
    normal -= (normal * axis).sum(1, keepdims=True) * axis
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return ends[pick, 0] + rng.random((2 * n, 1)) * along[pick] + radius * normal, normal


def _distance(vertices: np.ndarray, faces: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.sqrt(igl.point_mesh_squared_distance(p, vertices, np.ascontiguousarray(faces))[0])


# -- the solid -------------------------------------------------------------------------------------------------------


def _merged(corners: Float[np.ndarray, "f 3 3"], extent: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices joined by position (texture seams closed), without faces that have no area."""
    flat = corners.reshape(-1, 3)
    keys = np.round(flat / (extent * 1e-8)).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces = inverse.reshape(-1, 3).astype(np.int64)
    vertices = flat[first]
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return np.ascontiguousarray(vertices), np.ascontiguousarray(faces[distinct])


def _body(vertices: np.ndarray, shape: Shape) -> tuple[_Body | None, np.ndarray]:
    """What encloses a volume, and what is sheets after all."""
    faces = np.concatenate([np.zeros((0, 3), np.int64), *shape.bodies, shape.open])
    if len(faces) == 0:
        return None, shape.sheets
    extent = float(np.ptp(vertices[faces].reshape(-1, 3), 0).max())
    closed = len(shape.open) == 0
    none = np.zeros((0, 3), np.int64)
    if closed and len(shape.bodies) == 1:
        body = _Body(vertices, faces, (vertices, faces), none, (vertices, faces), True)
        # Sign by pseudonormals is exact for surfaces that don't cut themselves, and cheaper; believe it only where it agrees.
        rng = np.random.default_rng(0)
        p, normal = _on_faces(vertices, faces, 2000, rng)
        p = p + normal * rng.normal(0, 0.01 * extent, (len(p), 1))
        if ((body.signed_distance(p) < 0) != (winding(vertices, faces, p) >= 0.5)).any():
            body = replace(body, one=False)
        return body, shape.sheets
    if closed and (union := _united(vertices, shape.bodies)) is not None:
        *surface, slits = _outer_faces(*union, extent, _inside_manifold)
        v, f = surface if len(surface[1]) else union
        return _Body(v, f, union, slits if len(surface[1]) else none, union, False), shape.sheets
    v, f, slits = _outer_faces(vertices, faces, extent, _inside_winding)
    if len(f) == 0:
        return None, np.concatenate([shape.sheets, faces])
    return _Body(v, f, (vertices, faces), slits, (vertices, faces) if closed else None, False), shape.sheets


def _united(vertices: np.ndarray, bodies: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Union of closed bodies; None where there is a cavity or a body is not manifold (then faces are filtered)."""
    solids = []
    for body in bodies:
        if volume(vertices, body) < 0:
            return None
        index, inverse = np.unique(body, return_inverse=True)
        triangles = inverse.reshape(-1, 3).astype(np.uint64)
        solid = manifold3d.Manifold(manifold3d.Mesh64(np.ascontiguousarray(vertices[index]), triangles))
        if solid.status() != manifold3d.Error.NoError:
            return None
        solids.append(solid)
    union = manifold3d.Manifold.batch_boolean(solids, manifold3d.OpType.Add)
    if union.status() != manifold3d.Error.NoError or union.is_empty():
        return None
    mesh = union.to_mesh64()
    v = np.ascontiguousarray(np.asarray(mesh.vert_properties, np.float64)[:, :3])
    return v, np.ascontiguousarray(np.asarray(mesh.tri_verts, np.int64))


def _parts(vertices: np.ndarray, faces: np.ndarray, slit: float) -> tuple[int, int]:
    """How many solids and how many spaces closed surfaces bound; solids nearer than ``slit`` to each other are one."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    label = csgraph.connected_components(mesh.edges_sparse, directed=False)[1]
    label = label[faces[:, 0]]
    bodies = [b for k in np.unique(label) if abs(volume(vertices, b := faces[label == k])) > slit**3]
    solids = [b for b in bodies if volume(vertices, b) > 0]
    if len(solids) > _MANY:
        return len(solids), 1 + len(bodies) - len(solids)
    near = []
    for i, a in enumerate(solids):
        points = trimesh.sample.sample_surface(trimesh.Trimesh(vertices, a, process=False), 2000, seed=0)[0]
        points = np.concatenate([vertices[np.unique(a)], points])
        for j, b in enumerate(solids):
            if i != j and np.min(igl.point_mesh_squared_distance(points, vertices, b)[0]) < slit**2:
                near.append((i, j))
    joined = trimesh.graph.connected_components(near, nodes=np.arange(len(solids)), min_len=1)
    return max(1, len(joined)), 1 + len(bodies) - len(solids)


def _inside_winding(vertices: np.ndarray, faces: np.ndarray, p: np.ndarray) -> np.ndarray:
    return winding(vertices, faces, p) >= 0.5


def _inside_manifold(vertices: np.ndarray, faces: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Sign by pseudonormals: for a closed surface that does not cut itself, several times cheaper than winding numbers."""
    kind = igl.SIGNED_DISTANCE_TYPE_PSEUDONORMAL
    return np.asarray(igl.signed_distance(np.ascontiguousarray(p), vertices, faces, sign_type=kind)[0]) < 0


def _outer_faces(
    vertices: np.ndarray,
    faces: np.ndarray,
    extent: float,
    inside_of: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, and the faces with the solid behind and open space in front of their centroids; wrong ones are turned.

    Large faces are cut up first, as they may be buried in part. Space in front that ends after ``SLIT`` is a slit; its faces
    come third.
    """
    edge = extent / _SUBDIVISIONS
    longest = np.linalg.norm(vertices[faces] - vertices[np.roll(faces, 1, axis=1)], axis=2).max(1)
    v, f = vertices, faces
    if (np.maximum(longest / edge, 1) ** 2).sum() < _MAX_CUT_FACES:
        v, f = trimesh.remesh.subdivide_to_size(vertices, faces, max_edge=edge, max_iter=12)[:2]
    f = np.asarray(f, np.int64)
    a, b, c = (v[f[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    f, center = f[area > 0], ((a + b + c) / 3)[area > 0]
    normal = cross[area > 0] / area[area > 0, None] * extent

    def inside(which: np.ndarray, step: float) -> np.ndarray:
        return inside_of(vertices, faces, center[which] + step * normal[which])

    front, back = inside(np.arange(len(f)), 1e-4), inside(np.arange(len(f)), -1e-4)
    right, wrong = np.flatnonzero(back & ~front), np.flatnonzero(front & ~back)
    narrow = inside(right, SLIT), inside(wrong, -SLIT)
    kept = np.concatenate([f[right[~narrow[0]]], f[wrong[~narrow[1]]][:, ::-1]])
    slits = np.concatenate([f[right[narrow[0]]], f[wrong[narrow[1]]]])
    return np.ascontiguousarray(v), np.ascontiguousarray(kept), np.ascontiguousarray(slits)
