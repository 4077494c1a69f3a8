"""A scene that many tests edit, and where its things stand."""

import numpy as np

from objects import Box, Sphere, Torus
from scenes import SceneGraph

BALL, CUBE, RING = Sphere(0.1), Box((0.2, 0.3, 0.1)), Torus(0.2, 0.05)


def places(graph, time=0.0):
    """World matrix (with scale) of every visible object by its path."""
    out = {}
    for i in graph.at(time).instances:
        m = i.T_world_obj.as_matrix().numpy().copy()
        m[:3, :3] *= i.scale
        out[i.name] = m
    return out


def position(graph, path, time=0.0):
    return places(graph, time)[path][:3, 3]


def assert_same_place(a, b, atol=1e-12):
    np.testing.assert_allclose(a, b, atol=atol)


def rebuilt(graph) -> SceneGraph:
    """The same records in a new graph, whose indices and poses are made from scratch."""
    fresh = SceneGraph()
    fresh.go_back(graph.checkpoint()._replace(undo=[], redo=[], log=[]))
    return fresh
