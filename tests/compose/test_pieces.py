from dataclasses import replace

import igl
import numpy as np
import torch

from compose.cpu.distances import distances_to_one
from compose.cpu.pieces import octree
from compose.surfaces import only, surface_of
from objects.primitives import Box


def _spheres(p):
    """Two spheres: on the plane between them the distance has a crease."""
    away = p[:, None] - np.array([[-0.3, 0.0, 0.0], [0.3, 0.1, 0.0]])
    length = np.linalg.norm(away, axis=-1)
    nearest = (length - 0.2).argmin(1)
    rows = np.arange(len(p))
    gradient = away[rows, nearest] / np.maximum(length[rows, nearest], 1e-12)[:, None]
    return np.concatenate([(length[rows, nearest] - 0.2)[:, None], gradient], 1)


def test_a_crease_needs_no_halving_without_end():
    child, piece = octree(_spheres, 4.0, 6, 1e-3)
    number = (-1 - child[child < 0] >> 1) & 7
    assert set(number) >= {1, 2}
    # No polynomial is right about the centres, where the distance has a spike; few samples beyond a crease give none either.
    assert (number == 0).mean() < 0.02
    assert len(piece) < 20_000


def _asked(surface, p):
    """With the octree, and by the tree of triangles alone."""
    exact = replace(surface, half=np.zeros(1), slack=np.zeros(1))
    return distances_to_one(only(surface), p), distances_to_one(only(exact), p)


def test_the_octree_says_what_the_triangles_say(sirens):
    """Near, in all of the cube, and beyond it."""
    for field in sirens[:2]:
        surface, diagonal = surface_of(field), field.bounds.diagonal
        u = 2 * torch.rand(9000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy() - 1
        p = np.repeat([0.6, 3.0, 12.0], 3000)[:, None] * u
        got, want = _asked(surface, p)
        error = np.abs(got[:, 0] - want[:, 0]) / diagonal
        assert error.mean() < 1e-4
        assert (error <= 5e-4).mean() > 0.995
        assert error.max() < 1e-3
        np.testing.assert_allclose(np.linalg.norm(got[:, 1:], axis=1), 1, atol=1e-9)
        assert ((got[:, 1:] * want[:, 1:]).sum(1) > np.cos(np.radians(5))).mean() > 0.99
        assert np.all(np.sign(got[:, 0]) == np.sign(want[:, 0]), where=np.abs(want[:, 0]) > 5e-4 * diagonal)


def test_where_no_polynomial_is_right_the_triangles_are_asked(sirens):
    surface = surface_of(sirens[0])
    code = -1 - surface.child
    none = ((code >> 1) & 7 == 0) & (surface.child < 0)
    assert none.any()
    code[surface.child < 0] &= ~14  # all of them
    coarse = replace(surface, child=np.where(surface.child < 0, -1 - code, surface.child).astype(np.int32))
    p = np.random.default_rng(0).uniform(-0.6, 0.6, (2000, 3))
    got, want = _asked(coarse, p)
    np.testing.assert_allclose(got[:, 0], want[:, 0], atol=2e-4 * sirens[0].bounds.diagonal)


def test_the_tree_says_what_all_triangles_say(sirens):
    for field in (*sirens[:2], Box((1.0, 1.0, 0.4)) - Box((0.6, 0.6, 0.8))):
        surface = surface_of(field)
        exact = only(replace(surface, half=np.zeros(1), slack=np.zeros(1)))
        u = np.random.default_rng(2).uniform(-1, 1, (3000, 3))
        p = np.repeat([0.6, 3.0, 12.0], 1000)[:, None] * u
        corners = surface.corner.reshape(-1, 3).astype(np.float64) + surface.centre
        squared, _, _ = igl.point_mesh_squared_distance(p, corners, np.arange(len(corners)).reshape(-1, 3))
        np.testing.assert_allclose(np.abs(distances_to_one(exact, p)[:, 0]), np.sqrt(squared), atol=1e-6)
