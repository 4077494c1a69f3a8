"""Polygons become triangles that cover them and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from objects.polygons import triangulate

U = np.array([[0, 0], [3, 0], [3, 3], [2, 3], [2, 1], [1, 1], [1, 3], [0, 3]], float)
RNG = np.random.default_rng(0)


def star(n: int, inner: float) -> np.ndarray:
    angle = np.arange(n) * 2 * np.pi / n
    return np.stack([np.cos(angle), np.sin(angle)], -1) * np.where(np.arange(n) % 2, inner, 1)[:, None]


def turned(flat: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """A polygon in a plane that lies anywhere."""
    q, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    return np.column_stack([flat, noise * RNG.normal(size=len(flat))]) @ q.T + RNG.normal(size=3)


def area(points: np.ndarray) -> np.ndarray:
    """Areas of triangles ``[t, 3, 3]``."""
    return np.linalg.norm(np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]), axis=1) / 2


def area_of_polygon(flat: np.ndarray) -> float:
    x, y = flat.T
    return abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))) / 2


SHAPES = {
    "quad": np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float),
    "dart": np.array([[0, 0], [2, 2], [4, 0], [2, 1]], float),
    "dart from its notch": np.array([[2, 1], [0, 0], [2, 2], [4, 0]], float)[::-1],
    "quad with a straight corner": np.array([[0, 0], [1, 0], [2, 0], [1, 1]], float),
    "hexagon": star(6, 1.0),
    "U": U,
    "star": star(10, 0.3),
    "many corners": star(200, 0.8),
    "straight corners": np.array([[0, 0], [1, 0], [2, 0], [2, 1], [2, 2], [1, 2], [0, 2], [0, 1]], float),
}


@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("name", SHAPES)
def test_triangles_cover_the_polygon_once(name, start, back, noise):
    flat = np.roll(SHAPES[name], start, axis=0)[:: -1 if back else 1]
    points = turned(flat, noise)
    triangles, polygon = triangulate(points, np.array([len(flat)]))
    assert triangles.shape == (len(flat) - 2, 3) and (polygon == 0).all()
    assert area(points[triangles]).sum() == pytest.approx(area_of_polygon(flat), rel=1e-3)
    # All are turned as the polygon is.
    corners = points[triangles]
    around = np.cross(points, np.roll(points, -1, 0)).sum(0)
    sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) @ around
    assert (sides > -1e-9).all()
    # Each edge of the polygon belongs to one triangle, each inner edge to two.
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 1).sum() == len(flat) and (count == 2).sum() == len(flat) - 3


def test_corners_on_a_straight_edge_give_no_triangles_without_area():
    for name in ("straight corners", "quad with a straight corner"):
        for start in range(len(SHAPES[name])):
            points = turned(np.roll(SHAPES[name], start, axis=0))
            triangles, _ = triangulate(points, np.array([len(points)]))
            assert area(points[triangles]).min() > 1e-3


def test_polygons_far_from_the_origin_keep_their_notches():
    flat = 1e-3 * SHAPES["U"] + np.array([4e5, 5e6])
    points = np.column_stack([flat, np.full(8, 3e2)])
    triangles, _ = triangulate(points, np.array([8]))
    assert area(points[triangles]).sum() == pytest.approx(7e-6, rel=1e-3)


def test_polygons_of_all_sizes_in_one_call():
    shapes = [U, SHAPES["quad"], SHAPES["quad"][:3], U[:2], U[:0], SHAPES["dart"], U]
    points = np.concatenate([turned(shape) for shape in shapes])
    triangles, polygon = triangulate(points, np.array([len(shape) for shape in shapes]))
    assert polygon.tolist() == [0] * 6 + [1] * 2 + [2] + [5] * 2 + [6] * 6
    first = np.cumsum([0, *(len(shape) for shape in shapes)])
    for k, shape in enumerate(shapes):
        mine = triangles[polygon == k]
        assert ((mine >= first[k]) & (mine < first[k + 1])).all()
        assert area(points[mine]).sum() == pytest.approx(area_of_polygon(shape) if len(shape) > 2 else 0)


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((6, 3)),
        np.outer(np.arange(6.0), [1, 2, 3]),
        np.full((5, 3), np.nan),
        np.array([[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0], [0.5, 2, 0]], float),
        np.column_stack([U, np.zeros(8)]) * 1e300,
        np.where(np.arange(15).reshape(5, 3) == 7, np.inf, 1.0),
        np.repeat(np.column_stack([U, np.zeros(8)]), 2, axis=0),
    ],
)
def test_polygons_without_sense_give_as_many_triangles(points):
    triangles, _ = triangulate(points, np.array([len(points)]))
    assert triangles.shape == (len(points) - 2, 3)
    assert triangles.min() >= 0 and triangles.max() < len(points)


def test_nothing():
    triangles, polygon = triangulate(np.zeros((0, 3)), np.zeros(0, np.int64))
    assert triangles.shape == (0, 3) and len(polygon) == 0
