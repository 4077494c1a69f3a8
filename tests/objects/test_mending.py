"""Flaws of learned solids: found by counting parts, on exact solids in place of learned ones."""

from __future__ import annotations

import numpy as np
import trimesh

from objects import SE3, Placed, Sphere
from objects.field import Field
from objects.mending import hard_samples
from objects.mesh import MeshSource, read_mesh


def _sphere(radius: float, x: float = 0.0) -> Field:
    return Placed(Sphere(radius), SE3.from_translation((x, 0.0, 0.0)))


def _source(*balls: tuple[float, float]) -> MeshSource:
    """Balls of a radius at places along x; a negative radius is a cavity."""
    meshes = []
    for radius, x in balls:
        ball = trimesh.creation.icosphere(3, abs(radius))
        ball.apply_translation((x, 0, 0))
        if radius < 0:
            ball.invert()
        meshes.append(ball)
    return read_mesh(trimesh.util.concatenate(meshes))


def _samples(field: Field, source: MeshSource):
    return hard_samples(field, source, 2000, np.random.default_rng(0))


def test_solid_with_the_parts_of_its_source_has_no_flaws():
    assert _samples(_sphere(1), _source((1, 0))) is None
    assert _samples(_sphere(1) | _sphere(0.04, 1.3), _source((1, 0), (0.04, 1.3))) is None
    assert _samples(_sphere(1) - _sphere(0.3), _source((1, 0), (-0.3, 0))) is None


def test_speck_is_to_be_outside():
    found = _samples(_sphere(1) | _sphere(0.04, 1.3), _source((1, 0)))
    assert found is not None
    flaws, p, distance = found
    assert flaws == 1
    speck = np.linalg.norm(p - [1.3, 0, 0], axis=1)
    assert np.median(speck) < 0.1
    assert (distance[speck < 0.04] > 0).all()
    np.testing.assert_allclose(distance, np.linalg.norm(p, axis=1) - 1, atol=0.01)


def test_crumb_of_the_source_that_is_too_thin_to_hang_together_is_to_be_outside_too():
    source = _source((1, 0), (0.04, 1.3))
    object.__setattr__(source, "parts", (1, 1))  # as if a hair joined them
    found = _samples(_sphere(1) | _sphere(0.04, 1.3), source)
    assert found is not None
    _, p, distance = found
    assert (distance[np.linalg.norm(p - [1.3, 0, 0], axis=1) < 0.03] > 0).all()


def test_bubble_is_to_be_inside():
    found = _samples(_sphere(1) - _sphere(0.04, 0.5), _source((1, 0)))
    assert found is not None
    flaws, p, distance = found
    assert flaws == 1
    assert (distance[np.linalg.norm(p - [0.5, 0, 0], axis=1) < 0.1] < 0).all()


def test_part_that_is_missing_is_sampled():
    found = _samples((_sphere(1) | _sphere(0.3, 1.5)) - _sphere(0.4, 1.5), _source((1, 0), (0.3, 1.5)))
    assert found is not None
    flaws, p, distance = found
    assert flaws == 1
    assert (np.linalg.norm(p - [1.5, 0, 0], axis=1) < 0.4).any()
    assert (distance < 0).any()
