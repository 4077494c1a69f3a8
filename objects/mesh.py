"""Triangle meshes as teachers: find the solid they mean, sample its surface, colour, distance.

Inside is where the generalised winding number is at least 1/2 (Jacobson, Kavan, Sorkine-Hornung 2013, by the fast
summation of Barill et al. 2018), so meshes with holes or of several overlapping bodies have an inside too. Distances are
measured to the surface of that solid: walls buried inside another body, or in a slit between bodies too narrow to be
learned, are no part of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import igl
import manifold3d
import numpy as np
import trimesh
from jaxtyping import Float, Int

from objects.mesh_files import MAX_FACES, MeshError, Meshlike, read_parts
from objects.paint import GREY, Paint

_SUBDIVISIONS = 25  # faces are cut to this part of the extent before buried ones are dropped
_MAX_CUT_FACES = 200_000
SLIT = 2e-3  # gaps narrower than this share of the extent count as filled (convex parts that nearly touch)


@dataclass(frozen=True, eq=False)
class MeshSource:
    """A solid given by triangles, with colour; in the frame and units of its file.

    Attributes:
        vertices, faces: The surface of the solid, normals outwards.
        has_color: Whether the file gave colour; without, all is grey.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    has_color: bool
    _winding: tuple[np.ndarray, np.ndarray]  # what inside means: vertices and faces before buried walls were dropped
    _one_body: bool
    _painted: tuple[np.ndarray, np.ndarray]  # vertices and faces that the paints belong to
    _paints: tuple[Paint, ...]
    _paint_counts: tuple[int, ...]

    @property
    def extent(self) -> float:
        """Longest edge of the bounding box."""
        return float(np.ptp(self.vertices, 0).max())

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
        """``n`` points spread evenly over the area of the surface, and the unit normals there."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        cross = np.cross(b - a, c - a)
        area = np.linalg.norm(cross, axis=1)
        cumulative = np.cumsum(area)
        # Stratified along the cumulated area: less uneven than independent draws.
        pick = np.searchsorted(cumulative, (np.arange(n) + rng.random(n)) / n * cumulative[-1], side="right")
        pick = np.minimum(pick, len(area) - 1)
        root, v = np.sqrt(rng.random((n, 1))), rng.random((n, 1))
        points = (1 - root) * a[pick] + root * (1 - v) * b[pick] + root * v * c[pick]
        return points, cross[pick] / np.maximum(area[pick, None], 1e-300)

    def signed_distance(self, p: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Distance to the surface of the solid, negative inside."""
        if self._one_body:
            kind = igl.SIGNED_DISTANCE_TYPE_PSEUDONORMAL
            return np.asarray(igl.signed_distance(p, self.vertices, self.faces, sign_type=kind)[0])
        distance = np.sqrt(igl.point_mesh_squared_distance(p, self.vertices, self.faces)[0])
        return np.where(self.winding(p) >= 0.5, -distance, distance)

    def winding(self, p: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Generalised winding number."""
        return _winding(*self._winding, p)

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

    def content_hash(self) -> str:
        """SHA-256 of geometry and colour."""
        digest = hashlib.sha256()
        arrays = [self.vertices, self.faces, *self._winding, *self._painted]
        arrays += [a for paint in self._paints for a in paint.arrays()]
        for array in arrays:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_mesh(mesh: Meshlike, argument: str = "mesh") -> MeshSource:
    """Reads and checks a mesh; every part of a scene, with its colours.

    Args:
        mesh: A mesh file, a mesh or scene of trimesh, or parts that were read (`objects.mesh_files.read_parts`).
        argument: What errors call it.

    Raises:
        MeshError: Missing, empty or unreadable file, no faces, numbers that are not finite, more than ``MAX_FACES``
            faces, or no volume enclosed.
    """
    name = f"{argument} {str(mesh)!r}" if isinstance(mesh, str | os.PathLike) else argument
    parts = read_parts(mesh, name)
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
    used = vertices[faces].reshape(-1, 3)
    size = np.ptp(used, 0)
    if not size.max() > 0 or size.min() < 1e-5 * size.max():
        raise MeshError(f"{name}: expected a solid, got a flat mesh of size {' x '.join(f'{s:.4g}' for s in size)}")

    corners = vertices[faces]
    solid_v, solid_f = _merged(corners, size.max())
    try:
        surface, winding, one_body = _solid(solid_v, solid_f, name)
    except (ValueError, IndexError) as error:
        if isinstance(error, MeshError):
            raise
        raise MeshError(f"{name}: expected triangles that enclose a volume; reading them failed: {error}") from error
    source = MeshSource(
        *surface,
        has_color=any(p.paint is not None for p in parts),
        _winding=winding,
        _one_body=one_body,
        _painted=(np.ascontiguousarray(vertices), faces),
        _paints=tuple(p.paint or Paint.flat((GREY, GREY, GREY), len(p.faces)) for p in parts),
        _paint_counts=tuple(len(p.faces) for p in parts),
    )
    if one_body:
        # Sign by pseudonormals is exact for surfaces that don't cut themselves, and cheaper; believe it only where it agrees.
        rng = np.random.default_rng(0)
        p, normal = source.sample(2000, rng)
        p = p + normal * rng.normal(0, 0.01 * source.extent, (len(p), 1))
        if ((source.signed_distance(p) < 0) != (source.winding(p) >= 0.5)).any():
            object.__setattr__(source, "_one_body", False)
    return source


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


def _winding(vertices: np.ndarray, faces: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.asarray(igl.fast_winding_number(vertices, faces, np.ascontiguousarray(p)))


def _volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, i]] - vertices.mean(0) for i in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def _solid(vertices: np.ndarray, faces: np.ndarray, name: str):
    """The surface of the solid, what its winding number is taken of, and whether it is a single closed body."""
    if len(faces) == 0:
        raise MeshError(f"{name}: expected triangles with an area, got none")
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    extent = float(np.ptp(vertices, 0).max())
    closed = bool(mesh.is_watertight)
    if closed and not mesh.is_winding_consistent:
        trimesh.repair.fix_winding(mesh)
        faces = np.asarray(mesh.faces, np.int64)
    label = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(faces))
    order = np.argsort(label, kind="stable")
    bodies = np.split(faces[order], np.flatnonzero(np.diff(label[order])) + 1)
    if len(bodies) > 1:
        bodies = _outwards(vertices, bodies)
        faces = np.concatenate(bodies)
    elif _volume(vertices, faces) < 0:
        faces = faces[:, ::-1].copy()
    if closed and abs(_volume(vertices, faces)) < 1e-7 * extent**3:
        raise MeshError(f"{name}: expected a solid, got a closed surface that encloses no volume")
    if closed and len(bodies) == 1:
        return (vertices, faces), (vertices, faces), True
    if closed and (union := _united(vertices, bodies)) is not None:
        surface = _outer_faces(*union, extent, _inside_manifold)
        return (surface if len(surface[1]) else union), union, False
    surface = _outer_faces(vertices, faces, extent, _inside_winding)
    if len(surface[1]) == 0:
        raise MeshError(f"{name}: expected a solid, got {len(faces)} triangles that enclose no volume")
    return surface, (vertices, faces), False


def _outwards(vertices: np.ndarray, bodies: list[np.ndarray]) -> list[np.ndarray]:
    """Bodies turned inside out are turned back, unless they are cavities: negative volume within another body."""
    volumes = [_volume(vertices, b) for b in bodies]
    if sum(volumes) < 0:
        bodies, volumes = [b[:, ::-1].copy() for b in bodies], [-v for v in volumes]
    hosts = np.concatenate([b for b, v in zip(bodies, volumes, strict=True) if v > 0] or [np.zeros((0, 3), np.int64)])
    doubtful = [i for i, v in enumerate(volumes) if v < 0]
    if not doubtful or len(hosts) == 0:
        return bodies
    around = _winding(vertices, hosts, np.stack([vertices[bodies[i][0]].mean(0) for i in doubtful]))
    result = list(bodies)
    for i, winding in zip(doubtful, around, strict=True):
        if winding < 0.5:
            result[i] = bodies[i][:, ::-1].copy()
    return result


def _united(vertices: np.ndarray, bodies: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Union of closed bodies; None where there is a cavity or a body is not manifold (then faces are filtered)."""
    solids = []
    for body in bodies:
        if _volume(vertices, body) < 0:
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


def _inside_winding(vertices: np.ndarray, faces: np.ndarray, p: np.ndarray) -> np.ndarray:
    return _winding(vertices, faces, p) >= 0.5


def _inside_manifold(vertices: np.ndarray, faces: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Sign by pseudonormals: for a closed surface that does not cut itself, several times cheaper than winding numbers."""
    kind = igl.SIGNED_DISTANCE_TYPE_PSEUDONORMAL
    return np.asarray(igl.signed_distance(np.ascontiguousarray(p), vertices, faces, sign_type=kind)[0]) < 0


def _outer_faces(
    vertices: np.ndarray,
    faces: np.ndarray,
    extent: float,
    inside_of: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The faces with the solid behind and open space in front of their centroids; those the wrong way round are turned.

    Large faces are cut up first, as they may be buried in part. Space in front that ends after ``SLIT`` is a slit.
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
    right, wrong = right[~inside(right, SLIT)], wrong[~inside(wrong, -SLIT)]
    kept = np.concatenate([f[right], f[wrong][:, ::-1]])
    return np.ascontiguousarray(v), np.ascontiguousarray(kept)
