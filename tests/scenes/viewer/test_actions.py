"""What buttons and keys do to a scene: edits, each with its undo."""

import pytest

from objects import Sphere
from scenes import SceneGraph
from scenes.viewer.actions import Actions, free_path
from scenes.viewer.session import Session
from tests.scenes.helpers import at


@pytest.fixture
def session():
    scene = SceneGraph()
    scene.add("toys")
    scene.add("toys/ball", Sphere(0.5), pose=at(1, 2, 3))
    return Session(scene, print)


def test_actions_are_edits_of_what_is_selected_and_undo_takes_them_back(session):
    scene, actions = session.graph, Actions(session)
    with pytest.raises(ValueError, match="nothing is selected"):
        actions.duplicate()
    session.select(scene["toys/ball"])
    actions.duplicate()
    actions.duplicate()
    assert session.selected.path == "toys/ball-3"
    actions.group()
    assert session.selected.path == "toys/group"
    assert scene.pose("toys/group/ball-3")[0].translation.tolist() == [1, 2, 3]
    actions.ungroup()
    assert "toys/ball-3" in scene
    session.select(scene["toys/ball"])
    actions.parent()
    assert session.selected.path == "toys"
    actions.hide()
    assert len(scene.at()) == 0
    actions.hide()
    actions.drop(scene["toys/ball-2"], None)
    assert scene.pose("ball-2")[0].translation.tolist() == [1, 2, 3]
    session.select(scene["ball-2"])
    actions.delete()
    assert "ball-2" not in scene
    edits = len(scene.history[0])
    for _ in range(edits - 2):  # all but the two that built it
        actions.undo()
    assert list(scene) == ["toys", "toys/ball"]
    actions.redo()
    assert "toys/ball-2" in scene


def test_what_is_done_to_several_things_is_one_step_to_undo(session):
    scene, actions = session.graph, Actions(session)
    scene.add("toys/car", Sphere(0.2))
    scene.add("lamp")
    before = list(scene)
    session.select(scene["toys"], scene["toys/car"], scene["lamp"])
    assert [node.path for node in session.tops] == ["toys", "lamp"]
    actions.duplicate()
    assert [node.path for node in session.selection] == ["toys-2", "lamp-2"]
    copied = list(scene)
    scene.move("toys-2", by=(1, 0, 0))  # in code: a step of its own
    actions.undo()
    assert scene.pose("toys-2")[0].translation.tolist() == [0, 0, 0]
    actions.undo()
    assert list(scene) == before
    actions.redo()
    assert list(scene) == copied
    session.select(scene["lamp-2"], scene["toys-2"])
    actions.group()
    assert set(scene.children("group")) == {"group/lamp-2", "group/toys-2"}
    actions.ungroup()
    session.select(scene["lamp-2"])
    session.select(scene["toys-2"], more=True)
    actions.delete()
    assert list(scene) == before
    actions.undo()
    session.select(scene["lamp"], scene["lamp-2"])
    actions.drop(scene["lamp"], scene["toys"])
    assert {"toys/lamp", "toys/lamp-2"} <= set(scene)
    actions.undo()
    assert sorted(scene) == sorted(copied)


def test_a_new_light_falls_on_the_scene_and_is_seen_at_once(session):
    assert session.lighting == "studio"
    Actions(session).add_light()
    assert session.lighting == "scene"
    (light,) = session.subject().lights
    top = session.graph.at().bounds
    assert light.position[2] > top.hi[2]
    below = light.irradiance(
        top.center[None].double(), (top.center[None] * 0 + top.center.new_tensor([0, 0, 1])).double()
    )
    assert 0.3 < float(below[0, 0]) < 3


def test_a_free_path_counts_on(session):
    assert free_path(session.graph, "toys/car") == "toys/car"
    assert free_path(session.graph, "toys/ball") == "toys/ball-2"
    session.graph.duplicate("toys/ball", "toys/ball-2")
    assert free_path(session.graph, "toys/ball-2") == "toys/ball-3"
