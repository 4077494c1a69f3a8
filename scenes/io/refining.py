"""Triangles made finer where they stray from the surface of a field: at the sharp edges that marching cubes cuts off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

Values = Callable[[Float[np.ndarray, "n 3"]], Float[np.ndarray, "n"]]
Triangles = tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "t 3"]]

FLAT = 0.25  # the least slope of a field that is believed
_ROUNDS = 5  # each halves edges
_NEWTON = 2
_STEP = 0.05  # of the limit: half of what a slope is measured over
_MOST = 400_000  # triangles from which on nothing is refined

# For each set of split edges of a triangle (bit k: the edge from corner k to the next): the triangles that take its place.
# 0, 1, 2 are its corners, 3, 4, 5 the middles of its edges.
_PIECES = (
    ((0, 1, 2),),
    ((0, 3, 2), (3, 1, 2)),
    ((0, 1, 4), (0, 4, 2)),
    ((3, 1, 4), (0, 3, 4), (0, 4, 2)),
    ((0, 1, 5), (5, 1, 2)),
    ((0, 3, 5), (3, 1, 5), (5, 1, 2)),
    ((5, 4, 2), (0, 1, 4), (0, 4, 5)),
    ((0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5)),
)


def refined(ask: Values, mesh: Triangles, limit: float) -> Triangles:
    """A mesh whose edges and faces have their middles within ``limit`` of the surface, as far as a few rounds reach.

    An edge that strays has its middle put onto the surface along the field's gradient; the triangles beside it are divided, so
    that what was closed stays so. At a sharp edge the gradient of the middle of a cut-off corner points to its tip.

    Args:
        ask: Signed distances at points.
        mesh: Vertices and faces, closed.
        limit: Object units.
    """
    vertices, faces = mesh
    new = np.ones(len(faces), dtype=bool)  # what is to be looked at
    for _ in range(_ROUNDS):
        if len(faces) > _MOST:
            break
        edges, of_face = _edges(faces)
        split = _straying(ask, vertices, faces, edges, of_face, new, limit)
        if not split.any():
            break
        number = np.where(split, len(vertices) - 1 + np.cumsum(split), -1)
        ends = vertices[edges[split]]
        reach = 0.5 * np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1, keepdims=True)
        vertices = np.concatenate([vertices, moved_onto(ask, ends.mean(1), reach, _STEP * limit)])
        faces, new = _divided(faces, number[of_face])
    return vertices, faces


def distances(ask: Values, p_obj: Float[np.ndarray, "n 3"], step: float) -> Float[np.ndarray, "n"]:
    """How far points are from the surface: the field's value over its slope there."""
    return np.abs(ask(p_obj)) / np.linalg.norm(_slope(ask, p_obj, step), axis=1).clip(FLAT)


def moved_onto(
    ask: Values, p_obj: Float[np.ndarray, "n 3"], reach: float | Float[np.ndarray, "n 1"], step: float
) -> Float[np.ndarray, "n 3"]:
    """Points moved to the surface by Newton's method along the field's gradient, by at most ``reach``.

    Args:
        step: Half of what a gradient is measured over.
    """
    start = p_obj
    for _ in range(_NEWTON):
        slope = _slope(ask, p_obj, step)
        p_obj = p_obj - ask(p_obj)[:, None] * slope / np.square(slope).sum(1, keepdims=True).clip(FLAT**2)
        moved = p_obj - start
        p_obj = start + moved * np.minimum(1, reach / np.linalg.norm(moved, axis=1, keepdims=True).clip(1e-300))
    return p_obj


def _slope(ask: Values, p_obj: Float[np.ndarray, "n 3"], step: float) -> Float[np.ndarray, "n 3"]:
    moves = step * np.eye(3)[:, None]
    values = ask(np.concatenate([p_obj + moves, p_obj - moves]).reshape(-1, 3)).reshape(2, 3, -1)
    return (values[0] - values[1]).T / (2 * step)


def _edges(faces: Int[np.ndarray, "t 3"]) -> tuple[Int[np.ndarray, "e 2"], Int[np.ndarray, "t 3"]]:
    """Edges, each once, and those of each face."""
    ends = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2), 1)
    keys, of_face = np.unique(ends[:, 0] * (int(faces.max()) + 1) + ends[:, 1], return_inverse=True)
    return np.stack(np.divmod(keys, int(faces.max()) + 1), 1), of_face.reshape(-1, 3)


def _straying(
    ask: Values,
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "t 3"],
    edges: Int[np.ndarray, "e 2"],
    of_face: Int[np.ndarray, "t 3"],
    new: Bool[np.ndarray, "t"],
    limit: float,
) -> Bool[np.ndarray, "e"]:
    """Which edges are to be split: those whose middle strays, and the longest one of each face whose middle does."""
    split = np.zeros(len(edges), dtype=bool)
    asked = np.unique(of_face[new])
    split[asked] = _far(ask, vertices[edges[asked]].mean(1), limit)
    left = np.flatnonzero(new & ~split[of_face].any(1))
    bad = left[_far(ask, vertices[faces[left]].mean(1), limit)]
    corners = vertices[faces[bad]]
    longest = np.linalg.norm(np.roll(corners, -1, 1) - corners, axis=2).argmax(1)
    split[of_face[bad, longest]] = True
    return split


def _far(ask: Values, p_obj: Float[np.ndarray, "n 3"], limit: float) -> Bool[np.ndarray, "n"]:
    far = np.abs(ask(p_obj)) > FLAT * limit
    far[far] = distances(ask, p_obj[far], _STEP * limit) > limit
    return far


def _divided(
    faces: Int[np.ndarray, "t 3"], middles: Int[np.ndarray, "t 3"]
) -> tuple[Int[np.ndarray, "s 3"], Bool[np.ndarray, "s"]]:
    """Faces with some edges halved (``middles``: the vertex there, -1 for none), and which of them are new."""
    kinds = (middles >= 0) @ np.array([1, 2, 4])
    all_six = np.concatenate([faces, middles], 1)
    pieces = [all_six[kinds == kind][:, list(rows)].reshape(-1, 3) for kind, rows in enumerate(_PIECES)]
    new = np.arange(sum(map(len, pieces))) >= len(pieces[0])
    return np.concatenate(pieces), new
