"""Which solid triangles mean: bodies, thin sheets, the walls of rooms; and which way their faces look.

Inside is where the generalised winding number is at least 1/2 (Jacobson, Kavan, Sorkine-Hornung 2013). Surfaces around which it
says nothing (flat parts, curtains, pipes cut open) are sheets; closed ones that look inwards are rooms or were turned inside out.
"""

from __future__ import annotations

from typing import NamedTuple

import igl
import numpy as np
import trimesh
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.sparse import coo_array, csgraph

from objects.mesh_files import MeshError

FACING = ("auto", "outwards", "inwards")
_CLOSED_ENOUGH = (
    0.82  # mean winding number behind the faces of an open body; below it they are sheets (half a pipe has 0.75)
)
_ROOM = 0.99  # an inward surface below it is a room that is open somewhere; above, a body inside out
_AGREED = 0.8  # mean step of the winding number through the faces from which on they are believed
_BETTER = 0.05
_DOUBT = 0.25  # where more of the faces had to be turned, no room is seen in the way they look
_CELLS = 96  # for finding what can be reached from outside

Faces = Int[np.ndarray, "f 3"]


class Shape(NamedTuple):
    """Faces of a mesh by what they mean, each turned outwards (walls: into the room), and what was done to find out.

    Attributes:
        bodies: Closed surfaces, one by one.
        open: Faces that enclose a volume with some holes.
        sheets: Without volume, to be thickened to both sides.
        walls: Closed surfaces of rooms, to be thickened outwards.
        notes: For people.
    """

    bodies: list[Faces]
    open: Faces
    sheets: Faces
    walls: Faces
    notes: list[str]


def winding(vertices: np.ndarray, faces: Faces, p: np.ndarray) -> Float[np.ndarray, "n"]:
    """Generalised winding number, by the fast summation of Barill et al. 2018."""
    if len(faces) == 0:
        return np.zeros(len(p))
    return np.asarray(igl.fast_winding_number(vertices, np.ascontiguousarray(faces), np.ascontiguousarray(p)))


def volume(vertices: np.ndarray, faces: Faces) -> float:
    """Signed volume of a closed surface."""
    a, b, c = (vertices[faces[:, i]] - vertices[faces[0, 0]] for i in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def shape_of(vertices: Float[np.ndarray, "v 3"], faces: Faces, facing: str, name: str) -> Shape:
    """Sorts the faces of a mesh whose vertices are joined by position.

    Args:
        vertices, faces: No face without area.
        facing: ``outwards``: bodies, turned if they look inwards; ``inwards``: the outermost surfaces are walls of rooms;
            ``auto``: an inward surface is a room if it holds outward ones or is open somewhere, else it is turned.
        name: What errors call the mesh.

    Raises:
        MeshError: No faces with an area.
    """
    size = float(np.ptp(vertices, 0).max())
    if len(faces) == 0 or trimesh.triangles.area(vertices[faces]).sum() < 1e-12 * size**2:
        raise MeshError(f"{name}: expected triangles with an area, got none")
    notes: list[str] = []
    told = notes  # what is said of the sides, unless the file doesn't say them
    faces = _without_copies(faces)
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    if len(np.unique(directed, axis=0)) < len(directed):
        faces, share = _consistent(faces)
        if share:
            notes.append(f"{100 * share:.0f} % of its faces looked the other way than their neighbours and were turned")
        if share > _DOUBT and facing == "auto":
            facing, told = "outwards", []
    patches = _patches(faces)
    extent = float(np.ptp(vertices[faces].reshape(-1, 3), 0).max())
    closed, rest = [], []
    for patch in patches:
        if not _is_closed(patch) or abs(volume(vertices, patch)) < 1e-7 * extent**3:
            rest.append(patch)
        else:
            closed.append(patch)
    bodies, walls = _closed_surfaces(vertices, closed, rest, facing, told)
    open_, sheets = _open_surfaces(vertices, rest, bodies, facing, told)
    empty = np.zeros((0, 3), np.int64)
    joined = [np.concatenate([empty, *some]) for some in (open_, sheets, walls)]
    return Shape(bodies, joined[0], joined[1], joined[2], notes)


def _consistent(faces: Faces) -> tuple[Faces, float]:
    """Faces that agree with their neighbours, each patch as most of its faces were; and the share of those that were turned."""
    oriented, label = igl.bfs_orient(np.ascontiguousarray(faces))
    label = np.asarray(label)
    turned = (np.asarray(oriented) != faces).any(1)
    most = np.bincount(label, turned) > 0.5 * np.bincount(label)
    turned ^= most[label]
    return np.where(turned[:, None], faces[:, ::-1], faces), float(turned.mean())


def _without_copies(faces: Faces) -> Faces:
    """Each face once; a pair that looks both ways too, unless it belongs to a body (there it cancels itself)."""
    _, first, copy = np.unique(np.sort(faces, 1), axis=0, return_index=True, return_inverse=True)
    if len(first) == len(faces):
        return faces
    once = np.sort(first)
    alone = np.bincount(copy) == 1  # groups of one face
    if not alone.any():
        return faces[once]
    turn = np.argmin(faces, 1)
    rolled = np.stack([np.take_along_axis(faces, ((turn + i) % 3)[:, None], 1)[:, 0] for i in range(3)], 1)
    _, exact = np.unique(rolled, axis=0, return_index=True)
    kept = np.zeros(len(faces), bool)
    kept[exact] = True
    # Faces that are doubled wherever they hang together are a sheet with two sides.
    label = csgraph.connected_components(_shared_edges(faces), directed=False)[1]
    body = np.zeros(label.max() + 1, bool)
    np.logical_or.at(body, label, alone[copy])
    single = np.zeros(len(faces), bool)
    single[first] = True
    return faces[np.where(body[label], kept, single)]


def _shared_edges(faces: Faces) -> coo_array:
    """Graph of faces that share an edge, however many do."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    owner = np.tile(np.arange(len(faces)), 3)
    order = np.lexsort(edges.T)
    same = (edges[order][1:] == edges[order][:-1]).all(1)
    i, j = owner[order][:-1][same], owner[order][1:][same]
    return coo_array((np.ones(len(i)), (i, j)), shape=(len(faces), len(faces)))


def _patches(faces: Faces) -> list[Faces]:
    """Faces that hang together over edges of two faces each."""
    mesh = trimesh.Trimesh(np.zeros((faces.max() + 1, 3)), faces, process=False)
    label = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(faces))
    order = np.argsort(label, kind="stable")
    return np.split(faces[order], np.flatnonzero(np.diff(label[order])) + 1)


def _is_closed(faces: Faces) -> bool:
    """Whether each edge has as many faces on one side as on the other."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward = edges[:, 0] < edges[:, 1]
    _, edge = np.unique(np.sort(edges, 1), axis=0, return_inverse=True)
    return not np.bincount(edge, np.where(forward, 1.0, -1.0)).any()


# -- which way ---------------------------------------------------------------------------------------------------------


def _closed_surfaces(
    vertices: np.ndarray, closed: list[Faces], rest: list[Faces], facing: str, notes: list[str]
) -> tuple[list[Faces], list[Faces]]:
    """Bodies (cavities look inwards) and walls of rooms among closed surfaces."""
    if not closed:
        return [], []
    volumes = [volume(vertices, b) for b in closed]
    middles = np.stack([vertices[b[0]].mean(0) for b in [*closed, *rest]])
    if facing == "inwards":
        large = np.argsort([-abs(v) for v in volumes])[:16]
        held = np.zeros(len(closed), int)
        for i in large:
            within = np.abs(winding(vertices, closed[i], middles[: len(closed)])) > 0.5
            within[i] = False
            held += within
        rooms = np.flatnonzero(held == 0)
    else:
        hosts = [b for b, v in zip(closed, volumes, strict=True) if v > 0]
        doubtful = [i for i, v in enumerate(volumes) if v < 0]
        around = winding(vertices, np.concatenate([np.zeros((0, 3), np.int64), *hosts]), middles[doubtful])
        lone = [i for i, w in zip(doubtful, around, strict=True) if w < 0.5]
        outward = [v > 0 for v in volumes] + [True] * len(rest)
        rooms = [
            i
            for i in lone
            if facing == "auto"
            and _holds(vertices, closed[i], [b for b, v in zip([*closed, *rest], outward, strict=True) if v])
        ]
        turned = [i for i in lone if i not in set(rooms)]
        for i in turned:
            closed[i] = closed[i][:, ::-1].copy()
        if turned:
            what = "all faces look" if len(turned) == len(closed) else f"{len(turned)} of {len(closed)} surfaces look"
            notes.append(
                f"{what} inwards and were turned round (facing=inwards takes the outermost as walls of a room)"
            )
    walls = [closed[i] if volumes[i] < 0 else closed[i][:, ::-1].copy() for i in rooms]
    if len(walls):
        notes.append(
            "the outermost surface looks inwards and is taken as the walls of a room, its inside as air "
            "(facing=outwards takes it as a solid)"
        )
    bodies = [b for i, b in enumerate(closed) if i not in set(rooms)]
    if facing == "inwards" and len(walls):  # what stands in a room is a solid, unless it lies within another
        hosts = np.concatenate([np.zeros((0, 3), np.int64), *(b for b in bodies if volume(vertices, b) > 0)])
        bodies = [
            b[:, ::-1].copy()
            if volume(vertices, b) < 0 and winding(vertices, hosts, vertices[b[0]].mean(0)[None])[0] < 0.5
            else b
            for b in bodies
        ]
    return bodies, walls


def _holds(vertices: np.ndarray, wall: Faces, others: list[Faces]) -> bool:
    """Whether one of the others lies wholly within a closed surface that looks inwards."""
    lo, hi = vertices[wall].reshape(-1, 3).min(0), vertices[wall].reshape(-1, 3).max(0)
    for other in others:
        p = vertices[np.unique(other)]
        if (p >= lo).all() and (p <= hi).all():
            middles = vertices[other[:: max(1, len(other) // 256)]].mean(1)
            if (winding(vertices, wall, middles) < -0.5).mean() > 0.7:  # what stands on the floor touches it
                return True
    return False


def _open_surfaces(
    vertices: np.ndarray, patches: list[Faces], bodies: list[Faces], facing: str, notes: list[str]
) -> tuple[list[Faces], list[Faces]]:
    """Patches that enclose a volume together, and sheets."""
    if not patches:
        return [], []
    label = np.repeat(np.arange(len(patches)), [len(p) for p in patches])
    faces = np.ascontiguousarray(np.concatenate(patches))
    area = trimesh.triangles.area(vertices[faces])
    back, front = _sides(vertices, faces)
    step = float((area * (back.clip(0, 1) - front.clip(0, 1))).sum() / area.sum())
    inward = float((area * ((-front).clip(0, 1) - (-back).clip(0, 1))).sum() / area.sum())
    if max(step, inward) < _AGREED and len(patches) > 1:
        seen = _seen_from_outside(vertices, faces)
        b, f = _sides(vertices, seen)
        if float((area * (b.clip(0, 1) - f.clip(0, 1))).sum() / area.sum()) > max(step, inward) + _BETTER:
            share = (seen != faces).any(1).mean()
            notes.append(f"{100 * share:.0f} % of its faces looked inwards and were turned")
            faces, back, front, inward = seen, b, f, 0.0
    n = len(patches)
    weight = np.maximum(np.bincount(label, area, n), 1e-300)  # a patch may have no area
    behind, before = (np.bincount(label, area * w, n) / weight for w in (back, front))
    mean = 0.5 * (behind + before)
    looks_in = mean < -1e-3
    holds = [b for b in bodies if winding(vertices, faces, vertices[b[0]].mean(0)[None])[0] < -0.5]
    air = float((-front[looks_in[label]] * area[looks_in[label]]).sum() / max(area[looks_in[label]].sum(), 1e-300))
    is_room = facing == "inwards" or (facing == "auto" and inward > step and (air < _ROOM or bool(holds)))
    open_, sheets = [], []
    for k in range(n):
        patch = faces[label == k]
        if max(behind[k], -before[k]) < _CLOSED_ENOUGH or (is_room and looks_in[k]):
            sheets.append(patch)
        else:
            open_.append(patch[:, ::-1].copy() if looks_in[k] else patch)
    turned = looks_in & (-before >= _CLOSED_ENOUGH)
    if turned.any() and is_room:
        notes.append(
            "its faces look into a room that is open or holds things; they are taken as its walls "
            "(facing=outwards takes them as a solid)"
        )
    elif turned.any():
        notes.append("its faces look inwards and were turned round (facing=inwards takes them as the walls of a room)")
    return open_, sheets


def _sides(vertices: np.ndarray, faces: Faces) -> tuple[Float[np.ndarray, "f"], Float[np.ndarray, "f"]]:
    """Winding numbers just behind and just before the middle of each face: 1/2 more and less than that of all others."""
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    step = 1e-4 * cross / np.sqrt(np.maximum(area, 1e-300))[:, None]
    back, front = (winding(vertices, faces, corners.mean(1) + s * step) for s in (-1, 1))
    return back, front


def _seen_from_outside(vertices: np.ndarray, faces: Faces) -> Faces:
    """Faces whose back can be reached from outside, and whose front can't, turned round; by filling cells from a corner."""
    lo, size = vertices[faces].reshape(-1, 3).min(0), np.ptp(vertices[faces].reshape(-1, 3), 0)
    cell = float(size.max()) / _CELLS
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    n = int(min(2_000_000, 12 * mesh.area / cell**2 + 16 * len(faces)))
    points = trimesh.sample.sample_surface(mesh, n, seed=0)[0]
    points = np.concatenate([points, mesh.triangles_center])
    shape = np.ceil(size / cell).astype(int) + 8

    def index(p: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple((((p - lo) / cell).astype(int) + 4).clip(0, shape - 1).T)

    taken = np.zeros(shape, bool)
    taken[index(points)] = True
    free = np.zeros(taken.shape, np.int32)
    ndimage.label(~taken, output=free)
    outside = free == free[0, 0, 0]
    center, normal = mesh.triangles_center, mesh.face_normals
    votes = np.zeros(len(faces), int)
    for k in (1.8, 2.6, 3.4):
        votes += outside[index(center + k * cell * normal)].astype(int) - outside[index(center - k * cell * normal)]
    return np.where((votes < 0)[:, None], faces[:, ::-1], faces)
