"""Triangles divided where they stray: closed stays closed, and edges come to where the surface is."""

import numpy as np
import trimesh

from objects import Box
from scenes.io.refining import distances, refined


def cube(p):
    gap = np.abs(p) - 0.5
    return np.linalg.norm(gap.clip(0), axis=1) + gap.max(1).clip(max=0)


def ball(p):
    return np.linalg.norm(p, axis=1) - 1


def test_a_polyhedron_becomes_a_ball_and_stays_closed():
    start = trimesh.creation.icosahedron()
    vertices, faces = refined(ball, (np.array(start.vertices), np.array(start.faces)), 1e-2)
    made = trimesh.Trimesh(vertices, faces, process=False)
    assert made.is_watertight and made.is_winding_consistent
    assert np.abs(np.linalg.norm(made.triangles_center, axis=1) - 1).max() < 1.5e-2
    assert len(np.unique(vertices.round(9), axis=0)) == len(vertices)


def test_a_mesh_that_is_near_enough_stays_as_it_is():
    start = trimesh.creation.icosphere(3)
    vertices, faces = np.array(start.vertices), np.array(start.faces)
    again = refined(ball, (vertices, faces), 1e-2)
    assert np.array_equal(again[0], vertices) and np.array_equal(again[1], faces)


def test_edges_that_marching_cubes_cut_off_come_back():
    cut = Box((1.0, 1.0, 1.0)).to_mesh(5e-3)
    vertices, faces = refined(cube, (np.array(cut.vertices), np.array(cut.faces)), 1e-3)
    made = trimesh.Trimesh(vertices, faces, process=False)
    assert made.is_watertight
    worst = [distances(cube, trimesh.sample.sample_surface(m, 5000, seed=0)[0], 1e-5).max() for m in (cut, made)]
    assert worst[0] > 4e-3 > 2e-3 > worst[1]
