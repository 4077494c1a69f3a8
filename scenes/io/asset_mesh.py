"""Meshes of fields for other programs: closed, no finer than a tolerance asks, with normals and vertex colours.

The surface is that of `compose.surfaces.manifold_of`, made finer where it strays (`refining`). manifold3d makes it simpler, where
that costs neither shape nor colour: triangles get a number by their colour, and the library keeps edges between different numbers.
Each mesh is then measured against its field, and places on the field's surface against the mesh.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, fields
from pathlib import Path

import igl
import manifold3d
import numpy as np
import safetensors
import safetensors.numpy
import torch
from jaxtyping import Float, Int

from compose.batch import FieldBatch
from compose.surfaces import manifold_of
from objects.cache import cache_folder, content_key
from objects.field import Field
from objects.files import FieldFileError, field_hash, storable, write_atomically
from objects.meshing import sample_grid
from scenes.io.refining import Triangles, Values, distances, moved_onto, refined

TOLERANCE = 1e-3  # of the longest edge of a field's box, by default

_VERSION = 3  # part of every cache key: raise it when the same field would give another mesh
_COARSEST = 1 / 50  # of the longest edge: a larger tolerance would lose the shape
_MOST_CELLS = 256  # along the longest edge
_TRIES = 10  # from the fewest cells to the most takes 7
_BAND = 16 / 255  # sRGB: colours nearer than that may share a triangle
_CREASE = 30.0  # degrees between faces from which an edge is sharp
_SAMPLES = 20_000
_FAR = 1000  # samples whose slope is asked, those of the largest values
_STEP = 1e-3  # of the longest edge: half of what a slope is measured over
_SEEN_CELLS = 64  # along the longest edge: how densely the surface is looked for
_INSET = 0.01  # of the way to the middle of its triangle, where a corner's own colour is asked
_CHUNK = 1 << 14


@dataclass(frozen=True, eq=False)
class AssetMesh:
    """The surface of a field, object frame and units.

    Attributes:
        vertices, faces: ``[v, 3]`` float32 and ``[t, 3]`` int32: closed, counter-clockwise seen from outside.
        of: ``[n]`` int32: the vertex of each *corner*; a vertex at a sharp edge has several.
        corners: ``[t, 3]`` int32: the corners of each face, in the order of ``faces``.
        normals, rgb: ``[n, 3]`` float32: unit normals and sRGB colours of corners.
        strays: ``[1]`` float64: the largest distance found between it and the field.
    """

    vertices: np.ndarray
    faces: np.ndarray
    of: np.ndarray
    corners: np.ndarray
    normals: np.ndarray
    rgb: np.ndarray
    strays: np.ndarray

    def colored(self) -> tuple[Float[np.ndarray, "m 3"], Int[np.ndarray, "t 3"], Float[np.ndarray, "m 3"]]:
        """Vertices, faces and vertex colours, without normals: parted only where colours are."""
        bytes_ = np.rint(255 * self.rgb).astype(np.int64)
        keys = ((self.of.astype(np.int64) * 256 + bytes_[:, 0]) * 256 + bytes_[:, 1]) * 256 + bytes_[:, 2]
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        return self.vertices[self.of[first]], inverse[self.corners], self.rgb[first]


def asset_mesh(field: Field, tolerance: float | None = None, time: float | None = None) -> AssetMesh:
    """The surface of a field within ``tolerance`` of it, as far as 256 cells along its box can show it: see ``strays``.

    Args:
        field: Any field.
        tolerance: Object units; a thousandth of the longest edge of its box by default, at most a fiftieth.
        time: Seconds, for a field that deforms.

    Raises:
        ValueError: It has no inside, gives values that are not finite, or its surface can't be closed.
    """
    longest = float(field.bounds.size.max())
    tolerance = min(TOLERANCE * longest if tolerance is None else tolerance, _COARSEST * longest)
    time = time if field.deforms else None
    if not storable(field):  # of the caller's own making: its numbers don't say all of it
        return _made(field, tolerance, time)
    path = cache_folder("meshes") / f"{content_key('mesh', _VERSION, field_hash(field), tolerance, time)}.safetensors"
    mesh = _read(path)
    if mesh is None:
        mesh = _made(field, tolerance, time)
        with contextlib.suppress(FieldFileError):  # no room: it is made again the next time
            write_atomically(path, safetensors.numpy.save({f.name: getattr(mesh, f.name) for f in fields(mesh)}))
    return mesh


def _read(path: Path) -> AssetMesh | None:
    try:
        return AssetMesh(**safetensors.numpy.load(path.read_bytes()))
    except (OSError, safetensors.SafetensorError, TypeError):
        return None


def _made(field: Field, tolerance: float, time: float | None) -> AssetMesh:
    """Refining and simplifying each get nearly half of the tolerance. Where a part isn't found, there are more cells next time;
    where simplifying takes more, it is given less."""
    longest = float(field.bounds.size.max())
    ask, seen = _asked(field, time), np.zeros((0, 3))
    # Refining mends what a chord sags, so cells may be coarser than those of `objects.meshing.grid_cell`.
    cells = min(max(math.ceil(2 / math.sqrt(0.5 * tolerance / longest)), 24), _MOST_CELLS)
    simpler, best, whole = 0.4 * tolerance, None, None
    for _ in range(_TRIES):
        if whole is None:
            solid = manifold_of(field, time, cells)
            if solid.is_empty():
                raise ValueError("it has no inside: its distance is nowhere negative within its box")
            whole = refined(ask, _arrays(solid), 0.4 * tolerance)
            seen = seen if len(seen) else _surface_points(field, time)
            first = max(off(field, whole, time), _gap(seen, whole))
            if first > tolerance and cells < _MOST_CELLS:
                cells, whole = min(2 * cells, _MOST_CELLS), None
                continue
            bands = _bands(field, *whole, time)
        part = _simplified(whole, bands, simpler)
        then = max(off(field, part, time), _gap(whole[0], part), _gap(seen, part))
        if best is None or then < best[0]:
            best = then, part
        if then <= tolerance or (first > tolerance and cells >= _MOST_CELLS):
            break
        simpler *= 0.5
    if best is None:  # of so many tries the last ones have the most cells
        raise ValueError("its surface could not be made within the tolerance")
    return finished(field, *best[1], best[0], time)


def _arrays(solid: manifold3d.Manifold) -> Triangles:
    mesh = solid.to_mesh64()
    return np.array(mesh.vert_properties[:, :3], np.float64, order="C"), np.array(mesh.tri_verts, np.int64, order="C")


def _bands(field: Field, vertices: np.ndarray, faces: np.ndarray, time: float | None) -> Int[np.ndarray, "t"]:
    """A number for each face by its colour: equal ones are nearly even."""
    steps = np.floor(_corner_colors(field, vertices, faces, time).mean(1) / _BAND + 0.5).astype(np.uint64)
    return (steps * np.array([1, 256, 65536], np.uint64)).sum(1)


def _simplified(mesh: Triangles, bands: np.ndarray, by: float) -> Triangles:
    """Fewer triangles, moved by less than ``by`` (object units), none of them across colours."""
    vertices, faces = mesh
    numbered = manifold3d.Mesh64(vertices, faces.astype(np.uint64), face_id=bands)
    solid = manifold3d.Manifold(numbered).simplify(by)
    usable = solid.status() == manifold3d.Error.NoError and not solid.is_empty()
    return _arrays(solid) if usable else mesh


def finished(field: Field, vertices: np.ndarray, faces: np.ndarray, strays: float, time: float | None) -> AssetMesh:
    """A mesh with normals, and colours of the field at a time (seconds, if it deforms)."""
    normals = _normals(vertices, faces)
    rgb = _corner_colors(field, vertices, faces, time).reshape(-1, 3)
    key = faces.ravel()
    for values, steps in ((0.5 * normals + 0.5, 100), (rgb, 255)):
        for column in np.rint(steps * values).astype(np.int64).T:
            key = np.unique(key * (steps + 1) + column, return_inverse=True)[1]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return AssetMesh(
        vertices.astype(np.float32),
        faces.astype(np.int32),
        faces.ravel()[first].astype(np.int32),
        inverse.reshape(-1, 3).astype(np.int32),
        normals[first].astype(np.float32),
        rgb[first].astype(np.float32),
        np.array([strays]),
    )


def corner_normals(vertices: np.ndarray, faces: np.ndarray, mesh: AssetMesh) -> Float[np.ndarray, "n 3"]:
    """Normals of a mesh's corners with its vertices elsewhere."""
    first = np.unique(mesh.corners.ravel(), return_index=True)[1]
    return _normals(vertices, faces)[first]


def _normals(vertices: np.ndarray, faces: np.ndarray) -> Float[np.ndarray, "c 3"]:
    """One for each corner of each face: the mean over the faces at its vertex that look about the same way."""
    normals = np.asarray(igl.per_corner_normals(vertices, faces, _CREASE)).reshape(-1, 3)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    good = np.isfinite(length[:, 0]) & (length[:, 0] > 1e-9)  # a sliver has none
    return np.where(good[:, None], normals / np.where(good[:, None], length, 1), [0.0, 0.0, 1.0])


# -- colours and distances ---------------------------------------------------------------------------------------------


def _corner_colors(
    field: Field, vertices: np.ndarray, faces: np.ndarray, time: float | None
) -> Float[np.ndarray, "t 3 3"]:
    """sRGB at the corners of faces. Of what is made of several fields each face asks a little inside of itself: where two
    of another colour meet, a vertex has two colours."""
    if not _joined(field):
        return _colors(field, vertices, time)[faces]
    corners = vertices[faces]
    inset = corners + _INSET * (corners.mean(1, keepdims=True) - corners)
    return _colors(field, inset.reshape(-1, 3), time).reshape(-1, 3, 3)


def _joined(field: Field) -> bool:
    """Whether a field is made of several."""
    children = field.children_fields()
    return len(children) > 1 or any(map(_joined, children))


def _colors(field: Field, p_obj: np.ndarray, time: float | None) -> Float[np.ndarray, "n 3"]:
    found = []
    with torch.no_grad():
        for chunk in torch.as_tensor(p_obj).to(field.box_lo.dtype).split(_CHUNK):
            at = None if time is None else chunk.new_full((len(chunk),), time)
            found.append(field(chunk, at).rgb.clamp(0, 1))
    return torch.cat(found).double().numpy()


def off(field: Field, mesh: Triangles, time: float | None) -> float:
    """The largest distance to the zero set of points all over a mesh, by the field's value over its slope there."""
    vertices, faces = mesh
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    rng = np.random.default_rng(0)
    chosen = corners[rng.choice(len(faces), _SAMPLES, p=area / area.sum())]
    p_obj = np.einsum("nc,ncd->nd", rng.dirichlet(np.ones(3), _SAMPLES), chosen)
    ask = _asked(field, time)
    far = np.argsort(np.abs(ask(p_obj)))[-_FAR:]
    return float(distances(ask, p_obj[far], _STEP * float(field.bounds.size.max())).max())


def _asked(field: Field, time: float | None) -> Values:
    batch = FieldBatch([field])
    return lambda p: batch.sdf_sorted(np.zeros(len(p), np.int64), p, np.full(len(p), 0.0 if time is None else time))


def _surface_points(field: Field, time: float | None) -> Float[np.ndarray, "n 3"]:
    """Places all over the surface: where Newton's method comes to from points near it."""
    ask = _asked(field, time)
    cell = float(field.bounds.size.max()) / _SEEN_CELLS
    values, first = sample_grid(field, cell, lambda p: torch.from_numpy(ask(p.double().numpy())))
    near = np.argwhere(np.abs(values) <= 0.5 * math.sqrt(3) * cell)
    p_obj = moved_onto(ask, first.double().numpy() + cell * near, cell, _STEP * float(field.bounds.size.max()))
    inside = ((p_obj >= field.box_lo.numpy()) & (p_obj <= field.box_hi.numpy())).all(1)
    return p_obj[inside & (np.abs(ask(p_obj)) <= 0.01 * cell)]


def _gap(points: np.ndarray, mesh: Triangles) -> float:
    """The largest distance of some of ``points`` from a mesh."""
    if not len(points):
        return 0.0
    some = points[:: max(len(points) // _SAMPLES, 1)]
    return math.sqrt(float(np.asarray(igl.point_mesh_squared_distance(some, *mesh)[0]).max()))
