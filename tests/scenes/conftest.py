"""Fixtures of several tests."""

import pytest

from rendering import Camera, PointLight
from scenes import SceneGraph
from tests.scenes.helpers import at, turned
from tests.scenes.rooms import BALL, CUBE, RING


@pytest.fixture
def room() -> SceneGraph:
    """A tray on a table, a mug on the tray; a lamp and a camera."""
    graph = SceneGraph()
    graph.add("table", CUBE, pose=at(1, 2, 0.5) @ turned(30))
    graph.add("table/tray", RING, pose=at(0.1, 0, 0.2) @ turned(-50), scale=2.0)
    graph.add("table/tray/mug", BALL, pose=at(0, 0.3, 0.1), tags=["cup"])
    graph.add("stuff")
    graph.add("stuff/other", BALL, pose=at(-1), scale=0.5)
    graph.add("lamp", light=PointLight((0, 0, 0.1)), pose=at(0, 0, 3))
    graph.add("eye", camera=Camera.look_at((0, -3, 1), (0, 0, 0.5), 64, 48))
    return graph
