"""Surfaces as sets of points that know their neighbours along the surface: what sequences are registered by.

Each point carries its normal, and how far the rest of the surface is from it along the surface: quantiles of geodesic distances,
which a motion that keeps lengths doesn't change (Hamza, Krim, "Geodesic matching of triangulated surfaces", 2006, use their
mean). Geodesic distances are those of a graph over the points: the cells of the points on a finer graph (edges of triangles, or
near neighbours of a cloud) that touch each other are joined, so that two parts of the surface that only come close in space stay
apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numba
import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array, csgraph, csr_array
from scipy.spatial import KDTree

from objects.cloud import NEIGHBOURS
from objects.mesh import MeshSource

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
_LANDMARKS = 200  # points from which geodesic distances are measured
_FINE = 90  # edges of triangles are cut to this part of the extent before points are chosen among their ends
_MANY = 40_000  # vertices of the fine graph of a cloud
_DETOUR = 1.25  # neighbours of neighbours are joined where the way over the one between is at most so much longer
_OPPOSED = -0.3  # cosine between normals of points of a cloud that are no neighbours along the surface
_RIM_NEIGHBOURS, _ONE_SIDED = (
    24,
    0.4,
)  # by which the edge of a surface is told: the mean of neighbours is so far, in mean distances
_SLOPE_NEIGHBOURS = 10
_NORMAL = 0.03  # what normals weigh where the nearest point is looked for, a share of the extent


@dataclass(frozen=True, eq=False)
class Surface:
    """Points on a surface, evenly spread, in any frame and units.

    Attributes:
        points, normals: Places, unit normals outwards.
        shape: Quantiles of the geodesic distances to the rest of the surface; of a surface that is known in part its colours,
            times the extent.
        graph: Lengths between neighbours along the surface.
        dense, dense_normals, dense_shape: The same for more points, which describe the surface closely.
        extent: Longest edge of the box.
        rim, dense_rim: Points at the edge of what is known of the surface; none where all of it is.
        dense_slope: Derivatives of ``dense_shape`` along the surface, None where it isn't to be followed by them.
    """

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    shape: Float[np.ndarray, "n q"]
    graph: csr_array
    dense: Float[np.ndarray, "m 3"]
    dense_normals: Float[np.ndarray, "m 3"]
    dense_shape: Float[np.ndarray, "m q"]
    extent: float
    rim: Bool[np.ndarray, "n"]
    dense_rim: Bool[np.ndarray, "m"]
    dense_slope: Float[np.ndarray, "m q 3"] | None = None


class Oriented(Protocol):
    """Points with unit normals outwards."""

    @property
    def points(self) -> Float[np.ndarray, "n 3"]: ...
    @property
    def normals(self) -> Float[np.ndarray, "n 3"]: ...


class Colored(Oriented, Protocol):
    """Points with unit normals outwards and colours in 0..1."""

    @property
    def colors(self) -> Float[np.ndarray, "n 3"]: ...


def part_of(source: Colored, *, n_points: int, n_dense: int, seed: int) -> Surface:
    """A surface that is known in part. Geodesic distances of a part say nothing: points are described by their colours."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(source.points))
    dense, fine = order[:n_dense], order[:_MANY]
    points, normals, edges = _of_points(source.points[fine], source.normals[fine])
    chosen = spread(points, n_points)
    extent = float(np.ptp(source.points[dense], 0).max())
    rim = _rim(source.points[dense])
    nearest = KDTree(source.points[dense]).query(points[chosen])[1]
    colors, places, ways = extent * source.colors[dense], source.points[dense], source.normals[dense]
    return Surface(
        points[chosen], normals[chosen], extent * source.colors[fine[chosen]], _coarse_graph(points, edges, chosen),
        places, ways, colors, extent, rim[nearest], rim, _slopes(places, ways, colors),
    )  # fmt: skip


def _slopes(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], values: Float[np.ndarray, "n q"]
) -> Float[np.ndarray, "n q 3"]:
    """Derivatives of values along a surface: of the linear function that fits best among the neighbours."""
    near = np.asarray(KDTree(points).query(points, k=min(_SLOPE_NEIGHBOURS + 1, len(points)))[1])[:, 1:]
    off = points[near] - points[:, None]
    off -= (off * normals[:, None]).sum(2, keepdims=True) * normals[:, None]
    square = (off**2).sum((1, 2))[:, None, None] / 2
    # Nothing is known along the normal: it gets a large square of its own, and so the derivative 0.
    system = np.einsum("nka,nkb->nab", off, off) + square * (0.05 * np.eye(3) + normals[:, :, None] * normals[:, None])
    right = np.einsum("nka,nkq->naq", off, values[near] - values[:, None])
    return np.linalg.solve(system, right).transpose(0, 2, 1)


def surface_of(source: MeshSource | Oriented, *, n_points: int, n_dense: int, seed: int) -> Surface:
    """The surface of a solid given by triangles, or by points with normals."""
    rng = np.random.default_rng(seed)
    if isinstance(source, MeshSource):
        dense, dense_normals = source.sample(n_dense, rng)
        fine = None if source.triangles is None else _of_triangles(*source.triangles)
    else:
        pick = rng.permutation(len(source.points))[:n_dense]
        dense, dense_normals = source.points[pick], source.normals[pick]
        pick = rng.permutation(len(source.points))[:_MANY]
        fine = _of_points(source.points[pick], source.normals[pick])
    places, normals, edges = _of_points(dense, dense_normals) if fine is None else fine
    chosen = spread(places, n_points)
    graph = _coarse_graph(places, edges, chosen)
    points, normals = places[chosen], normals[chosen]
    shape = _shape(graph)
    extent = float(np.ptp(dense, 0).max())
    weight = _NORMAL * extent
    tree = KDTree(np.concatenate([points, weight * normals], 1))
    nearest = np.asarray(tree.query(np.concatenate([dense, weight * dense_normals], 1))[1])
    whole = np.zeros(len(points), bool), np.zeros(len(dense), bool)
    return Surface(points, normals, shape, graph, dense, dense_normals, shape[nearest], extent, *whole)


def _rim(points: np.ndarray) -> Bool[np.ndarray, "n"]:
    """Points whose neighbours lie to one side."""
    distance, near = map(np.asarray, KDTree(points).query(points, k=min(_RIM_NEIGHBOURS + 1, len(points))))
    off = (points[near[:, 1:]] - points[:, None]).mean(1)
    return np.linalg.norm(off, axis=1) > _ONE_SIDED * distance[:, 1:].mean(1)


@numba.njit(cache=True)
def spread(points, n):
    """Indices of ``n`` points of ``points [m 3]`` (of all if there are fewer), each as far as possible from those before it."""
    n = min(n, len(points))
    least = np.full(len(points), np.inf)
    chosen = np.empty(n, np.int64)
    last = 0
    for k in range(n):
        chosen[k] = last
        farthest, at = -1.0, 0
        for j in range(len(points)):
            d = 0.0
            for c in range(3):
                d += (points[j, c] - points[last, c]) ** 2
            least[j] = min(least[j], d)
            if least[j] > farthest:
                farthest, at = least[j], j
        last = at
    return chosen


def spread_along(graph: csr_array, n: int) -> tuple[Int[np.ndarray, "n"], float]:
    """Indices of ``n`` points of a graph, each as far as possible along it from those before; and the largest distance of any
    point of the graph to the nearest of them (pieces that hold none are left out)."""
    least = np.full(len(graph.indptr) - 1, np.inf)
    chosen = [0]
    while True:
        reach = np.inf if np.isinf(least).any() else float(least.max())
        least = np.minimum(least, csgraph.dijkstra(graph, indices=chosen[-1], limit=reach))
        at = int(np.argmax(least))
        if len(chosen) == n or least[at] == 0:
            return np.array(chosen), float(least[np.isfinite(least)].max())
        chosen.append(at)


# -- graphs ----------------------------------------------------------------------------------------------------------

_Fine = tuple[np.ndarray, np.ndarray, np.ndarray]  # places [n 3], normals [n 3], edges [e 2]


def _of_triangles(vertices: np.ndarray, faces: np.ndarray) -> _Fine:
    edge = float(np.ptp(vertices[faces].reshape(-1, 3), 0).max()) / _FINE
    longest = np.linalg.norm(vertices[faces] - vertices[np.roll(faces, 1, axis=1)], axis=2).max(1)
    if (longest > edge).any():
        vertices, faces = trimesh.remesh.subdivide_to_size(vertices, faces, max_edge=edge, max_iter=12)[:2]
    used, faces = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], faces.reshape(-1, 3)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], cross)
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0)
    return vertices, _unit(normals), edges


def _of_points(points: np.ndarray, normals: np.ndarray) -> _Fine:
    near = np.asarray(KDTree(points).query(points, k=min(NEIGHBOURS + 1, len(points)))[1])
    i, j = np.repeat(np.arange(len(points)), near.shape[1] - 1), near[:, 1:].ravel()
    alike = (normals[i] * normals[j]).sum(1) > _OPPOSED
    return points, normals, np.stack([i[alike], j[alike]], 1)


def _coarse_graph(places: np.ndarray, edges: np.ndarray, chosen: np.ndarray) -> csr_array:
    """Joins chosen points whose cells on the fine graph touch, and neighbours of neighbours about straight over them."""
    n = len(places)
    length = np.linalg.norm(places[edges[:, 0]] - places[edges[:, 1]], axis=1)
    fine = coo_array((np.maximum(length, 1e-12), (edges[:, 0], edges[:, 1])), shape=(n, n)).tocsr()
    _, _, owner = csgraph.dijkstra(fine, directed=False, indices=chosen, min_only=True, return_predecessors=True)
    number = np.full(n, -1)
    number[chosen] = np.arange(len(chosen))
    cell = np.where(owner >= 0, number[np.maximum(owner, 0)], -1)
    i, j = cell[edges[:, 0]], cell[edges[:, 1]]
    across = (i != j) & (i >= 0) & (j >= 0)
    points, k = places[chosen], len(chosen)
    pairs = np.unique(np.sort(np.stack([i[across], j[across]], 1), 1), axis=0)
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    length = np.maximum(np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1), 1e-12)
    graph = csr_array((length, (pairs[:, 0], pairs[:, 1])), shape=(k, k))
    # Ways of two steps: through the rows of the graph.
    start = np.repeat(np.arange(len(pairs)), np.diff(graph.indptr)[pairs[:, 1]])
    offset = np.arange(len(start)) - np.repeat(
        np.cumsum(np.diff(graph.indptr)[pairs[:, 1]]) - np.diff(graph.indptr)[pairs[:, 1]],
        np.diff(graph.indptr)[pairs[:, 1]],
    )
    at = graph.indptr[pairs[start, 1]] + offset
    a, b = pairs[start, 0], graph.indices[at]
    way, straight = length[start] + graph.data[at], np.linalg.norm(points[a] - points[b], axis=1)
    good = (a != b) & (way <= _DETOUR * straight)
    more = csr_array((np.ones(int(good.sum())), (a[good], b[good])), shape=(k, k))
    i, j = (more + graph).nonzero()
    return csr_array((np.maximum(np.linalg.norm(points[i] - points[j], axis=1), 1e-12), (i, j)), shape=(k, k))


def _shape(graph: csr_array) -> Float[np.ndarray, "n q"]:
    """Quantiles of the geodesic distances to points spread over the piece of the surface that a point belongs to."""
    n = len(graph.indptr) - 1
    # The first of points that are spread are spread themselves.
    distance = csgraph.dijkstra(graph, indices=np.arange(min(_LANDMARKS, n)))
    distance = np.sort(distance, axis=0)
    count = np.isfinite(distance).sum(0)
    at = np.round(np.array(QUANTILES)[:, None] * np.maximum(count - 1, 0)).astype(int)
    found = np.take_along_axis(distance, at, axis=0)
    return np.where(count > 0, found, 0.0).T


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300)
