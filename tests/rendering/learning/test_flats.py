"""Depths of what has no texture, on a room of two walls whose depths are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from rendering import Camera
from rendering.learning.flats import filled, planes_of
from rendering.learning.overlap import Sight

SIZE = (120, 90)


def sights() -> list[Sight]:
    eyes = [(-0.9 + 0.2 * i, -0.8 + 0.1 * i, 1.1) for i in range(4)]
    return [Sight.of(Camera.look_at(eye, (1.0, 1.2, 0.7), *SIZE, 65.0)) for eye in eyes]


def depth_and_wall(sight: Sight) -> tuple[np.ndarray, np.ndarray]:
    """Depths of a floor z = 0 and a wall y = 1.5, and which pixels show the wall's white upper part."""
    rows, columns = np.indices(SIZE[::-1])
    way = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(sight.lens).T @ sight.turn
    wall, floor = (1.5 - sight.eye[1]) / way[..., 1], -sight.eye[2] / way[..., 2]
    wall, floor = np.where(wall > 0, wall, np.inf), np.where(floor > 0, floor, np.inf)
    depth = np.minimum(wall, floor)
    return depth, (wall < floor) & (sight.eye[2] + depth * way[..., 2] > 0.5)


@pytest.fixture(scope="module")
def shown() -> tuple[list[Sight], list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Cameras, pictures, known depths (off by 0.5 %; none on white, but at its rim) and true ones."""
    rng, cameras, pictures, known, true = np.random.default_rng(0), sights(), [], [], []
    for camera in cameras:
        depth, white = depth_and_wall(camera)
        picture = rng.integers(0, 255, (*white.shape, 3)).astype(np.uint8)
        picture[white] = 230
        seen = depth * rng.normal(1, 0.005, depth.shape)
        rim = np.pad(white, 3, mode="edge")
        inner = np.all([rim[3 + y : 93 + y, 3 + x : 123 + x] for y in (-3, 3) for x in (-3, 3)], 0)
        pictures.append(picture)
        known.append(np.where(inner, 0, seen))
        true.append(depth)
    return cameras, pictures, known, true


def test_the_planes_of_a_place_are_found(shown):
    cameras, _, known, _ = shown
    planes = planes_of(cameras, known)
    for normal, offset in (((0.0, 0.0, 1.0), 0.0), ((0.0, 1.0, 0.0), 1.5)):
        sides = [np.sign(plane.normal @ normal) for plane in planes]
        angles = [np.degrees(np.arccos(min(abs(plane.normal @ normal), 1.0))) for plane in planes]
        best = int(np.argmin(angles))
        assert angles[best] < 1 and abs(sides[best] * planes[best].offset - offset) < 0.02


def test_a_white_wall_lies_on_the_plane_of_what_is_about_it(shown):
    cameras, pictures, known, true = shown
    planes = planes_of(cameras, known)
    for sight, picture, depth, want in zip(cameras, pictures, known, true, strict=True):
        got = filled(picture, depth, sight, planes)
        assert (got[depth > 0] == 0).all()
        assert (got > 0).sum() > 0.9 * (depth == 0).sum()
        assert (np.abs(got - want)[got > 0] < 0.02 * want[got > 0]).all()


def test_what_lies_on_no_plane_stays_unknown(shown):
    cameras, pictures, known, _ = shown
    planes = planes_of(cameras, known)
    bent = known[0] * np.linspace(0.6, 1.6, SIZE[0])
    assert (filled(pictures[0], bent, cameras[0], planes) == 0).all()
    assert (filled(pictures[0], known[0], cameras[0], []) == 0).all()
    nothing = [np.zeros_like(depth) for depth in known]
    assert planes_of(cameras, nothing) == []
