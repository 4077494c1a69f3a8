"""Points with normals as teachers: which side is outside, how far away is the surface.

Inside is where the generalised winding number of the oriented points is at least 1/2 (Barill, Dickson, Schmidt, Levin, Jacobson,
"Fast Winding Numbers for Soups and Clouds", SIGGRAPH 2018); the area that a point stands for comes from its neighbours. Normals
that look to different sides are made consistent along a spanning tree of neighbours (Hoppe, DeRose, Duchamp, McDonald, Stuetzle,
"Surface reconstruction from unorganized points", SIGGRAPH 1992).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import igl
import numpy as np
from jaxtyping import Float
from scipy.sparse import coo_array, csgraph
from scipy.spatial import KDTree

NEIGHBOURS = 10
_AGREED = 0.9  # at this score normals are believed as they are
_BETTER = 0.05  # by so much another orientation must score higher
_DOUBTFUL = 0.3  # below it there is no solid to be seen
_OPEN = 0.95  # inward normals that score less when turned round belong to a room, one that is open somewhere


@dataclass(frozen=True, eq=False)
class Cloud:
    """Oriented points on the surface of a solid, in any frame.

    Attributes:
        points, normals: Places; unit normals, outwards.
        spacing: Median distance between neighbours.
        wall: Thickness of the walls where the points are those of a room; 0 for a solid.
    """

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    spacing: float
    wall: float
    _areas: Float[np.ndarray, "n"]
    _tree: KDTree

    def winding(self, p: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m"]:
        """Generalised winding number, blurred within a spacing of the points."""
        return _winding(self.points, self.normals, self._areas, p)

    def signed_distance(self, p: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m"]:
        """Distance to the nearest point, negative inside; up to half a spacing too large, and vague within a spacing."""
        distance = self._tree.query(p, workers=-1)[0]
        winding = self.winding(p)
        if self.wall:
            return np.where(winding <= -0.5, distance, np.abs(distance - self.wall / 2) - self.wall / 2)
        return np.where(winding >= 0.5, -distance, distance)


def read_cloud(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], *, facing: str, wall: float, name: str
) -> Cloud:
    """Finds the solid that points with normals mean, and turns normals that don't fit it.

    Args:
        points, normals: Finite, float64; normals of any length but 0.
        facing: ``outwards``: a solid, whose normals are turned if they look inwards; ``inwards``: as they are, they look into
            the air of a room, and the solid is its walls; ``auto``: found out. What is turned or taken as a room is noted.
        wall: Thickness of the walls of a room, at least twice the spacing of the points is taken.
        name: What notes and errors call the points.

    Raises:
        ValueError: The normals don't agree on an inside, even when made consistent.
    """
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    tree = KDTree(points)
    distance, neighbour = map(np.asarray, tree.query(points, k=min(NEIGHBOURS + 1, len(points)), workers=-1))
    reach = distance[:, -1]
    areas = np.pi * reach**2 / (neighbour.shape[1] - 1)
    spacing = float(np.sqrt(np.median(areas)))
    if not spacing > 0:
        raise ValueError(f"{name}: expected points at different places, most stand at the places of others")

    def score(candidate: np.ndarray) -> float:
        """Mean over the points of how much more inside it is behind a point than in front: 1 for a closed surface."""
        pick = np.linspace(0, len(points) - 1, min(len(points), 2000)).astype(int)
        step = 1.5 * np.sqrt(areas[pick, None]) * candidate[pick]
        back, front = (_winding(points, candidate, areas, points[pick] + s * step) for s in (-1, 1))
        return float((back.clip(0, 1) - front.clip(0, 1)).mean())

    def cloud(turned: np.ndarray, wall: float = 0.0) -> Cloud:
        return Cloud(points, turned, spacing, wall, areas, tree)

    walls = max(wall, 2 * spacing)
    if facing == "inwards":
        return cloud(normals, walls)
    given, turned = score(normals), score(-normals)
    if max(given, turned) < _AGREED:
        mended = _consistent(points, normals, areas, neighbour)
        if (best := score(mended)) > max(given, turned) + _BETTER:
            if best < _DOUBTFUL:
                raise ValueError(f"{name}: expected normals that look away from one solid, got ones without an inside")
            share = float(((mended * normals).sum(1) < 0).mean())
            _note(f"{name}: the normals look to different sides; {100 * share:.0f} % were turned outwards")
            return cloud(mended)
    if max(given, turned) < _DOUBTFUL:
        raise ValueError(
            f"{name}: expected normals that look away from one solid, got ones that don't agree on an inside"
        )
    if given >= turned - _BETTER:
        return cloud(normals)
    if turned < _OPEN and facing == "auto":
        _note(
            f"{name}: the normals look into a room that is open or holds things; taken as walls {walls:.3g} thick around "
            "air (facing=outwards takes them as a solid, thickness= sets the walls)"
        )
        return cloud(normals, walls)
    _note(f"{name}: all normals look inwards and were turned round (facing=inwards takes them as the walls of a room)")
    return cloud(-normals)


def _note(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def _winding(points: np.ndarray, normals: np.ndarray, areas: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.asarray(igl.fast_winding_number(points, normals, areas, np.ascontiguousarray(p, np.float64)))


def _agreement(points: np.ndarray, normals: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Cosine between the normals of neighbours; across creases that of one and the other's mirror image, which has the same sign
    on both sides of a right angle."""
    d = points[j] - points[i]
    d /= np.maximum(np.linalg.norm(d, axis=1, keepdims=True), 1e-300)
    cosine = (normals[i] * normals[j]).sum(1)
    mirrored = cosine - 2 * (normals[i] * d).sum(1) * (normals[j] * d).sum(1)
    return np.where(np.abs(cosine) > 0.5, cosine, 0.5 * mirrored)


def _consistent(points: np.ndarray, normals: np.ndarray, areas: np.ndarray, neighbour: np.ndarray) -> np.ndarray:
    """Normals that agree with their neighbours; each connected set outwards, sets within others inwards (cavities)."""
    n, k = neighbour.shape
    i, j = np.repeat(np.arange(n), k - 1), neighbour[:, 1:].ravel()
    cost = 1.001 - np.abs(_agreement(points, normals, i, j))
    graph = csgraph.minimum_spanning_tree(coo_array((cost, (i, j)), shape=(n, n)).tocsr())
    count, label = csgraph.connected_components(graph, directed=False)
    sign = np.ones(n)
    for part in range(count):
        order, before = csgraph.breadth_first_order(graph, int(np.flatnonzero(label == part)[0]), directed=False)
        order = order[1:]
        same = np.where(_agreement(points, normals, order, before[order]) >= 0, 1.0, -1.0)
        for node, parent, keeps in zip(order.tolist(), before[order].tolist(), same.tolist(), strict=True):
            sign[node] = sign[parent] * keeps
    result = normals * sign[:, None]
    step = 1.5 * np.sqrt(areas[:, None])
    large = [part for part in np.argsort(-np.bincount(label))[:64] if (label == part).sum() > NEIGHBOURS]
    sets = [label == part for part in large]
    for mine in sets:
        args = points[mine], result[mine], areas[mine]
        around = [_winding(*args, points[mine] + s * step[mine] * result[mine]) for s in (-1, 1)]
        if sum(w.mean() for w in around) < 0:
            result[mine] *= -1
    turned = result.copy()
    for mine in sets:
        within = sum(
            int(np.median(_winding(points[o], result[o], areas[o], points[mine])) >= 0.5) for o in sets if o is not mine
        )
        if within % 2:
            turned[mine] *= -1
    return turned
