"""Polygons of files as triangles: concave ones are cut along diagonals that lie inside them."""

from __future__ import annotations

import manifold3d
import numpy as np
from jaxtyping import Float, Int

_LEVEL = 1e-9  # share of a polygon's area below which a triangle counts as without area


def triangulate(
    points: Float[np.ndarray, "c 3"], counts: Int[np.ndarray, "p"]
) -> tuple[Int[np.ndarray, "t 3"], Int[np.ndarray, "t"]]:
    """Cuts polygons, seen along the normal of their best plane (Newell), into ``count - 2`` triangles each.

    Quads are cut along the diagonal that leaves two triangles of the same side out, the one from the first corner where both
    do; convex polygons are fans; others go through manifold3d's ear clipping, which keeps corners on a straight edge.

    Args:
        points: The corners of all polygons, one polygon after another.
        counts: Corners of each polygon; polygons of fewer than 3 give nothing.

    Returns:
        Rows of ``points`` for each triangle, in the order of the polygons; and the polygon of each.
    """
    counts = np.asarray(counts, np.int64)
    first = np.cumsum(counts) - counts
    cut: list[tuple[np.ndarray, np.ndarray]] = []
    for n in np.unique(counts[counts >= 3]):
        which = np.flatnonzero(counts == n)
        rows = first[which, None] + np.arange(n)
        local = _triangles(points[rows], int(n)) if n > 3 else np.broadcast_to(np.arange(3), (len(which), 1, 3))
        triangles = rows[np.arange(len(which))[:, None, None], local]
        cut.append((triangles.reshape(-1, 3), np.repeat(which, n - 2)))
    if not cut:
        return np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
    triangles, polygon = (np.concatenate(part) for part in zip(*cut, strict=True))
    order = np.argsort(polygon, kind="stable")
    return triangles[order], polygon[order]


def _triangles(corners: Float[np.ndarray, "p n 3"], n: int) -> Int[np.ndarray, "p m 3"]:
    """Triangles of polygons of ``n`` corners."""
    corners = np.where(np.isfinite(corners), corners, 0.0)
    corners = corners / np.maximum(np.abs(corners).max((1, 2), keepdims=True), 1e-300)
    corners = corners - corners[:, :1]
    corners = corners / np.maximum(np.abs(corners).max((1, 2), keepdims=True), 1e-300)
    normal = np.cross(corners, np.roll(corners, -1, 1)).sum(1)  # twice the area, along the normal of the best plane
    size = np.linalg.norm(normal, axis=1, keepdims=True)
    normal, level = normal / np.maximum(size, 1e-300), _LEVEL * size

    def area(i: int, j: int, k: int) -> Float[np.ndarray, "p"]:
        cross = np.cross(corners[:, j] - corners[:, i], corners[:, k] - corners[:, i])
        return np.einsum("pd,pd->p", cross, normal)

    fan = np.stack([np.zeros(n - 2, np.int64), np.arange(1, n - 1), np.arange(2, n)], -1)
    result = np.broadcast_to(fan, (len(corners), n - 2, 3)).copy()
    inner = np.stack([area(*row) for row in fan], 1)
    if n == 4:
        other = np.array([[1, 2, 3], [1, 3, 0]])
        better = np.minimum(area(1, 2, 3), area(1, 3, 0)) > inner.min(1)
        result[(inner.min(1) <= level[:, 0]) & better] = other
        return result
    # A fan is right where it turns the same way all along, at every corner and from the first one.
    bends = np.stack([area(i, (i + 1) % n, (i + 2) % n) for i in range(n)], 1) if n <= 64 else inner - np.inf
    convex = (bends > level).all(1) & (inner > level).all(1)
    for row in np.flatnonzero(~convex & (size[:, 0] > 0)):
        found = _clipped(corners[row], normal[row])
        if found.shape == (n - 2, 3):
            result[row] = found
    return result


def _clipped(corners: Float[np.ndarray, "n 3"], normal: Float[np.ndarray, "3"]) -> Int[np.ndarray, "m 3"]:
    side = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    side /= np.linalg.norm(side)
    flat = np.stack([corners @ side, corners @ np.cross(normal, side)], -1)
    return np.asarray(manifold3d.triangulate([flat]), np.int64)
