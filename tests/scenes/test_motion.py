"""What bends in a scene: clocks, edits of them, files, meshes and followed points."""

import json

import numpy as np
import pytest
import torch

from objects import SE3, Capsule, Sphere
from objects.analytic_warps import Bend
from objects.placed import Placed
from objects.warped import Warped
from rendering import Camera, PointLight, render
from scenes import SceneGraph, Track, load_scene, save_scene
from scenes.clock import Clock
from scenes.script import run_script

ROD = Capsule(0.1, 0.6)
BENDING = Warped(ROD, Bend(ROD.bounds, (0, 0, 1), (1, 0, 0), (0, 0, 0), 0.6, (0, 1), (0, 2)))
POSE = SE3.exp(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64))


@pytest.fixture
def scene():
    graph = SceneGraph()
    graph.add("worm", BENDING, pose=POSE, scale=2.0)
    graph.add("other", BENDING, pose=SE3.identity())
    graph.add("ball", Sphere(0.2))
    return graph


def _times(graph, time):
    scene = graph.at(time)
    return dict(zip(scene.arrays.names, scene.arrays.times, strict=True))


def test_a_clock_clamps_or_loops_and_never_leaves_the_span():
    span = (1.0, 3.0)
    assert Clock().at(2.5, span) == 2.5 and Clock().at(9, span) == 3 and Clock().at(-9, span) == 1
    assert Clock(offset=1, speed=0.5).at(2, span) == 2 and Clock(speed=0, offset=1.5).at(77, span) == 1.5
    looping = Clock(loop=True, speed=-1)
    for time in np.linspace(-20, 20, 101):
        assert 1 <= looping.at(time, span) < 3
        assert looping.at(time, span) == pytest.approx(looping.at(time + 2, span), abs=1e-9) or looping.at(
            time, span
        ) in (1, 3)
    assert Clock().at(5, None) == 5 and Clock(loop=True).at(7, (2.0, 2.0)) == 2
    moved = Clock(offset=0.25, speed=2).retimed(shift=3, factor=4)
    assert moved.at(4 * 0.7 + 3, (-99, 99)) == pytest.approx(Clock(offset=0.25, speed=2).at(0.7, (-99, 99)))
    for bad in ({"offset": float("nan")}, {"speed": "fast"}, {"loop": 1}):
        with pytest.raises(ValueError, match="clock: "):
            Clock(**bad)


def test_one_field_runs_at_several_phases(scene):
    scene.set_clock("other", offset=0.5, speed=2.0, loop=True)
    assert _times(scene, 0.1) == {"worm": 0.1, "other": pytest.approx(0.7), "ball": None}
    assert _times(scene, 0.9) == {"worm": 0.9, "other": pytest.approx(0.3), "ball": None}
    assert _times(scene, 5.0)["worm"] == 1.0
    assert scene.span == (0.0, 1.0)
    scene.undo()
    assert _times(scene, 0.9)["other"] == 0.9
    scene.redo()
    copied = scene.duplicate("other", "third")
    assert scene[copied].clock == Clock(0.5, 2.0, True) == scene["other"].clock


def test_what_bends_is_shown_as_in_a_scene_made_anew(scene):
    scene.at(0.0)
    scene.set_clock("other", offset=0.3)
    shown, anew = scene.at(0.4), SceneGraph()
    anew.include(scene, "all")
    p = torch.randn(200, 3, dtype=torch.float64) * 0.5
    assert torch.equal(shown.query(p).sdf, anew.at(0.4).query(p).sdf)
    assert not torch.equal(scene.at(0.0).query(p).sdf, shown.query(p).sdf)


def test_clocks_are_edited_by_text_and_retimed_with_their_tracks(scene):
    log = run_script(scene, "clock other offset 0.25 loop on; retime other shift 1 factor 2")
    assert log[0] == "clock other offset 0.25 speed 1 loop on"
    assert scene["other"].clock == Clock(-0.25, 0.5, True)
    run_script(scene, log[0])
    assert scene["other"].clock == Clock(0.25, 1.0, True)
    for script, message in (
        ("clock ball offset 1", "expected something that bends"),
        ("clock other", "expected offset or speed or loop"),
        ("clock other loop maybe", "expected on or off"),
    ):
        with pytest.raises(ValueError, match=message):
            run_script(scene, script)


def test_scenes_with_clocks_are_stored_and_those_without_are_as_before(scene, tmp_path):
    save_scene(scene, tmp_path / "a.scene")
    assert json.loads((tmp_path / "a.scene" / "scene.json").read_text())["version"] == 1
    scene.set_clock("other", offset=0.5, speed=-1.5, loop=True)
    save_scene(scene, tmp_path / "a.scene")
    text = json.loads((tmp_path / "a.scene" / "scene.json").read_text())
    assert text["version"] == 2
    again = load_scene(tmp_path / "a.scene")
    assert again == scene and again["other"].clock == Clock(0.5, -1.5, True)
    again.undo()
    assert again["other"].clock == Clock()
    assert _times(again, 0.2)["other"] == 0.2


def test_a_mesh_bends_and_stands_where_its_node_does(scene):
    rest, bent = scene.mesh("worm", 0.0), scene.mesh("worm", 0.8)
    assert bent.is_watertight and len(bent.vertices) == len(rest.vertices)
    vertices = torch.from_numpy(np.array(bent.vertices))
    assert scene.at(0.8).evaluate(vertices, torch.zeros(len(vertices), dtype=torch.int64)).sdf.abs().max() < 2e-3
    assert np.abs(bent.vertices - rest.vertices).max() > 0.1
    ball = scene.mesh("ball", 0.3)
    assert np.allclose(np.linalg.norm(ball.vertices, axis=1), 0.2, atol=1e-3)
    graph = SceneGraph()
    graph.add("a", Placed(BENDING, POSE.to(torch.float32), 2.0))
    assert np.abs(graph.mesh("a", 0.8).vertices - bent.vertices).max() < 1e-5
    graph.add("empty")
    with pytest.raises(ValueError, match="expected an object, got a group"):
        graph.mesh("empty")


def test_points_are_followed_as_vertices_are(scene):
    scene.animate("worm", Track.keyframes([0, 1], [POSE, POSE @ POSE]))
    scene.set_clock("worm", offset=0.1, speed=0.8)
    first, last = (scene.mesh("worm", t).vertices for t in (0.1, 0.9))
    found = scene.follow("worm", first, 0.1, 0.9)
    assert np.abs(found.numpy() - last).max() < 1e-4
    assert torch.allclose(scene.follow("ball", [[1.0, 0, 0]], 0, 1), torch.tensor([[1.0, 0, 0]], dtype=torch.float64))
    with pytest.raises(ValueError, match="points must be finite"):
        scene.follow("worm", [1.0, 2.0, 3.0], 0, 1)
    scene.add("lamp", light=PointLight((0, 0, 0)))
    with pytest.raises(ValueError, match="follow lamp: expected an object, got a light"):
        scene.follow("lamp", [[1.0, 2.0, 3.0]], 0, 1)


def test_canonical_colours_stay_on_the_thing_while_it_moves_and_bends(scene):
    camera = Camera.look_at((3.0, -3.0, 2.0), (0.2, 0.3, 0.3), 64, 48, 40.0)
    frame = render(scene, camera, time=0.8, antialias=1, canonical=True)
    assert not render(scene, camera, time=0.8, antialias=1).canonical.any()
    assert not frame.canonical[frame.owner < 0].any()
    shown = frame.owner == 0
    assert shown.sum() > 20
    rays = camera.rays(camera.pixel_centers(shown.flatten().nonzero()[:, 0]))
    p = rays.at(frame.depth[shown].double() / camera.depth_per_t(camera.pixel_centers(shown.flatten().nonzero()[:, 0])))
    at_start = scene.follow("worm", p, 0.8, 0.1)
    own = scene["worm"].pose(0.1).inverse() @ at_start / 2.0
    canonical = BENDING.canonical(own.float(), torch.full((len(own),), 0.1))
    wanted = (canonical - ROD.box_lo) / ROD.bounds.size
    assert (frame.canonical[shown] - wanted).abs().max() < 1e-3
