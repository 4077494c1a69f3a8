"""Scene folders of tests."""

import json
from pathlib import Path

from objects import Box, Sphere
from rendering import AmbientLight, Camera, DirectionalLight, PointLight
from scenes import SceneGraph, Track
from tests.scenes.helpers import at


def texts(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def changed(folder: Path, change) -> None:
    file = folder / "scene.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def node(data, name):
    return next(n for n in data["nodes"] if n["name"] == name)


def mixed_graph() -> SceneGraph:
    """Something of everything that a scene file holds."""
    graph = SceneGraph()
    graph.add("table", Box((1.0, 0.6, 0.1)), pose=at(0, 0, 0.5), tags=["big", "wood"])
    graph.add("table/mug", Sphere(0.1, color=(0.8, 0.2, 0.1)) | Box((0.1, 0.1, 0.1)), pose=at(0.1, 0, 0.15), scale=1.3)
    graph.add("ball", Sphere(0.1), track=Track.keyframes([0, 1 / 3, 2], [at(0), at(1 / 7), at(0, 1)], end="loop"))
    graph.reparent("table/mug", "ball", start=1.1)
    graph.add("lights")
    graph.add("lights/sun", light=DirectionalLight((0.3, 0.1, -1), (1, 0.9, 0.8), 0.7))
    graph.add("lights/lamp", light=PointLight((0, 0, 2)))
    graph.add("lights/sky", light=AmbientLight((0.5, 0.6, 0.7), 0.3, ground_color=(0.2, 0.2, 0.2)))
    graph.add("eye", camera=Camera.look_at((1.3, -2, 1.1), (0, 0, 0.5), 64, 48))
    graph.hide("lights/lamp")
    graph.set_lit("ball", False)
    return graph
