"""Notes on sizes out of all proportion, cameras within solids, and overlaps of a background with itself."""

import pytest
import torch

from objects import Aabb, Box, Sphere, Twist, Warped
from rendering import Camera
from scenes import SceneGraph, save_scene
from scenes.checks import camera_notes, overlaps, size_notes, time_notes
from scenes.cli import main
from tests.scenes.helpers import at


def cups(n=5) -> SceneGraph:
    graph = SceneGraph()
    for k in range(n):
        graph.add(f"cup-{k}", Sphere(0.05 + 0.01 * k), pose=at(0.3 * k, 0, 0.1))
    return graph


@pytest.mark.parametrize(("radius", "word"), [(75.0, "0.001"), (0.00005, "1000")])
def test_one_object_in_other_units_than_the_rest_is_named(radius, word):
    graph = cups()
    graph.add("duck", Sphere(radius), pose=at(200, 0, 0))
    (note,) = size_notes(graph)
    assert note.startswith("duck is ")
    assert f"scale duck by {word}" in note
    graph.scale("duck", 0.05 / radius)
    assert size_notes(graph) == []


def test_of_two_only_the_larger_is_named():
    graph = cups(1)
    graph.add("duck", Sphere(75.0), pose=at(200, 0, 0))
    assert [note.split()[0] for note in size_notes(graph)] == ["duck"]


def test_large_objects_of_usual_rooms_are_not_named():
    graph = cups()
    graph.add("floor", Box((100.0, 100.0, 0.1)), pose=at(0, 0, -0.1))
    graph.add("wall", Box((0.2, 60.0, 30.0)), pose=at(-5, 0, 0))
    graph.add("table", Box((1.6, 0.9, 0.7)), pose=at(5, 5, 0))
    graph.add("room", Box((40.0, 40.0, 20.0)) - Box((39.0, 39.0, 19.0)))
    graph.add("grove", Box((90.0, 90.0, 30.0)), pose=at(300, 0, 0), tags=["background"])
    assert size_notes(graph) == []


def test_a_solid_that_others_are_buried_in_is_no_room():
    graph = cups()
    graph.add("duck", Sphere(75.0))
    assert [note.split()[0] for note in size_notes(graph)] == ["duck"]


def test_hidden_things_and_empty_scenes_say_nothing():
    graph = cups()
    graph.add("duck", Sphere(75.0), pose=at(200, 0, 0))
    graph.hide("duck")
    assert size_notes(graph) == []
    assert size_notes(SceneGraph()) == []
    assert size_notes(cups(1)) == []


def test_a_camera_in_a_solid_is_told_of_with_the_time():
    graph = cups()
    graph.add("cupboard", Box((2.0, 2.0, 2.0)), pose=at(0, 5, 0))
    graph.move("cupboard", to=(0, 5, 0), time=0.0)
    graph.move("cupboard", to=(0, 9, 0), time=2.0)
    inside = Camera.look_at((0, 9.5, 0), (0, 0, 0), 20, 20)
    assert camera_notes(graph, [(0.0, inside)]) == []
    (note,) = camera_notes(graph, [(0.0, inside), (2.0, inside), (2.5, inside)])
    assert "inside of cupboard (time 2)" in note


def test_a_camera_in_a_room_or_at_the_corner_of_a_box_is_fine():
    graph = cups()
    graph.add("room", Box((9.0, 9.0, 9.0)) - Box((8.0, 8.0, 8.0)))
    graph.add("globe", Sphere(1.0), pose=at(0, 2, 0))
    for eye in ((0, -3, 1), (0.95, 2.95, 0.9)):  # in the room's air; in the globe's box, outside of the globe
        assert camera_notes(graph, [(0.0, Camera.look_at(eye, (0, 0, 0), 20, 20))]) == []


def test_parts_of_one_background_do_not_overlap_each_other():
    graph = SceneGraph()
    for k in range(2):
        graph.add(f"background_{k}", Box((1.0, 1.0, 1.0)), pose=at(0.9 * k, 0, 0), tags=["background"])
    graph.add("other")
    graph.add("other/scenery", Box((1.0, 1.0, 1.0)), pose=at(0, 0.9, 0), tags=["background"])
    graph.add("backdrop", tags=["background"])
    for k in range(2):
        graph.add(f"backdrop/part-{k}", Box((1.0, 1.0, 1.0)), pose=at(20 + 0.9 * k, 0, 0))
    graph.add("cup", Sphere(0.2), pose=at(20, 0, 0.5))
    pairs = {frozenset((p.first, p.second)) for p in overlaps(graph)}
    assert pairs == {
        frozenset(("background_0", "other/scenery")),
        frozenset(("background_1", "other/scenery")),
        frozenset(("backdrop/part-0", "cup")),
    }


@pytest.mark.filterwarnings("default")
def test_the_command_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    graph = cups()
    graph.add("duck", Sphere(75.0), pose=at(200, 0, 0))
    save_scene(graph, "a.scene")
    assert main(["info", "scene=a.scene"]) == 0
    assert "note: duck is" in capsys.readouterr().out
    view = ["camera.width=16", "camera.height=12", "camera.target=0,0,0"]
    assert main(["render", "scene=a.scene", "out=a.png", "camera.eye=201,0,0", *view]) == 0
    err = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in err] == [["sirenscape", " note"]] * 2
    assert "inside of duck" in err[0] and "duck is" in err[1]
    (tmp_path / "b.yaml").write_text(
        "nodes: {a: {shape: {kind: sphere, radius: 0.1}}, b: {shape: {kind: sphere, radius: 0.1}}, "
        "c: {shape: {kind: sphere, radius: 90}, position: [500, 0, 0]}}"
    )
    assert main(["build", "scene=b.yaml", "out=b.scene"]) == 0
    assert "note: c is" in capsys.readouterr().out


def test_what_is_over_at_all_times_that_are_shown_is_named_unless_it_loops_or_pauses():
    box = Aabb(torch.full((3,), -0.5), torch.full((3,), 0.5))
    reed = Warped(Box((0.1, 0.1, 0.6)), Twist(box, (0, 0, 1), (0, 0, 0), (0, 2), (0, 1)), stretch=1.5)
    graph = cups(1)
    for name in ("reed", "slow", "round", "paused"):
        graph.add(name, reed)
    graph.set_clock("slow", speed=0.1)
    graph.set_clock("round", loop=True)
    graph.set_clock("paused", offset=1, speed=0)
    assert time_notes(graph, [1.5, 2.5]) == []
    (note,) = time_notes(graph, [2.5, 3.0])
    assert note.startswith("reed bends from 0 to 2 s")
    assert "clock reed loop on" in note
    assert [note.split()[0] for note in time_notes(graph, [30.0])] == ["reed", "slow"]
