"""What is shared between looks at a scene, what it answers, and how its nodes are shown."""

import gc
import math
import tracemalloc

import pytest
import torch

from objects import Aabb, Box, Sphere
from rendering import Camera, PointLight
from scenes import SceneGraph
from tests.scenes.helpers import at
from tests.scenes.rooms import BALL, assert_same_place, places

# -- sharing -----------------------------------------------------------------------------------------------------------


def test_at_gives_the_same_composite_while_nothing_changes(room):
    first = room.at()
    assert room.at() is first
    assert room.at(3.0) is first
    room.tag("table", "x")
    assert room.at() is first
    room.move("lamp", by=(0, 0, 1))
    assert room.at() is first
    room.move("table/tray", by=(0, 0, 1))
    moved = room.at()
    assert moved is not first
    assert moved.arrays.assets is first.arrays.assets
    room.duplicate("table", "table2")
    assert room.at().arrays.assets is first.arrays.assets


def test_an_old_composite_stays_as_it_was(room):
    old = room.at()
    before = [i.T_world_obj.as_matrix() for i in old.instances]
    room.move("table", by=(1, 0, 0))
    room.scale("table", 2)
    room.at()
    for instance, want in zip(old.instances, before, strict=True):
        assert torch.equal(instance.T_world_obj.as_matrix(), want)
        assert instance.scale in (0.5, 1.0, 2.0)


# -- questions ---------------------------------------------------------------------------------------------------------


def test_closest_gives_distance_gradient_and_name():
    graph = SceneGraph()
    graph.add("a", Sphere(0.5))
    graph.add("b", Sphere(0.5), pose=at(4), scale=2.0)
    got = graph.closest([[2.99, 0, 0], [0.0, 0, 0.51], [3.1, 0, 0]])
    assert got.path == ["b", "a", "b"]
    torch.testing.assert_close(got.sdf, torch.tensor([0.01, 0.01, -0.1], dtype=torch.float64), atol=1e-6, rtol=0)
    want = torch.tensor([[-1.0, 0, 0], [0, 0, 1], [-1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(got.gradient, want, atol=1e-4, rtol=0)
    torch.testing.assert_close(got.point, torch.tensor([[3.0, 0, 0], [0, 0, 0.5], [3.0, 0, 0]], dtype=torch.float64))


def test_closest_takes_one_point_and_is_true_far_away():
    graph = SceneGraph()
    graph.add("ball", Sphere(0.5))
    graph.add("shelf", Box((2.0, 0.1, 0.1)), pose=at(0, 3))
    for point, path, distance in (([0.0, 0.0, 40.0], "ball", 39.5), ([-3.0, 2.95, 0.0], "shelf", 2.0)):
        got = graph.closest(point)
        assert got.path == [path]
        assert math.isclose(got.sdf.item(), distance, abs_tol=1e-6)
        assert math.isclose(got.gradient.norm().item(), 1, abs_tol=1e-9)
    with pytest.raises(ValueError, match=r"closest: expected points \[n, 3\]"):
        graph.closest([1.0, 2.0])


def test_pick_and_cast_name_what_is_seen_first():
    graph = SceneGraph()
    graph.add("near", Sphere(0.5))
    graph.add("far", Sphere(0.5), pose=at(0, 3))
    seen = graph.pick(Camera.look_at((0, -3, 0), (0, 0, 0), 64, 48), 32, 24)
    assert seen is not None
    assert seen.path == "near"
    assert_same_place(seen.point, (0, -0.5, 0), atol=1e-4)
    assert_same_place(seen.normal, (0, -1, 0), atol=1e-3)
    hits = graph.cast([[0, 9, 0], [0, 0, 5]], [[0, -2, 0], [0, 1, 0]])
    assert hits[0] is not None
    assert (hits[0].path, hits[1]) == ("far", None)
    assert math.isclose(hits[0].distance, 5.5, abs_tol=1e-4)
    graph.hide("near")
    assert graph.pick(Camera.look_at((0, -3, 0), (0, 0, 0), 64, 48), 32, 24).path == "far"


def test_overlaps_and_clearance_by_name():
    graph = SceneGraph()
    graph.add("a", Sphere(1.0))
    graph.add("a/part", Sphere(0.3), pose=at(0, 0, 1))
    graph.add("b", Sphere(1.0), pose=at(1.5))
    pairs = graph.overlaps()
    assert {(p.first, p.second) for p in pairs} == {("a", "a/part"), ("a", "b")}
    assert math.isclose(next(p.depth for p in pairs if p.second == "b"), 0.5, rel_tol=0.02)
    assert [(p.first, p.second) for p in graph.overlaps(level=1)] == [("a", "b")]
    graph.move("b", by=(2, 0, 0))
    assert math.isclose(graph.clearance("a", "b").distance, 1.5, rel_tol=1e-3)


def test_select_by_tag_and_box(room):
    room.tag("table", "furniture")
    assert room.select(tag="furniture") == ["table", "table/tray", "table/tray/mug"]
    assert room.select(tag="cup") == ["table/tray/mug"]
    box = Aabb(torch.tensor([-2.0, -1, -1]), torch.tensor([-0.5, 1, 1]))
    assert room.select(box=box) == ["stuff/other"]
    assert room.select(tag="cup", box=box) == []
    room.hide("table/tray")
    assert room.select(tag="furniture") == ["table"]


def test_owners_at_a_level_put_whole_things_together(room):
    names, place = room.owners(1)
    assert names == ["table", "stuff"]
    assert place.tolist() == [0, 0, 0, 1]
    assert room.owners(2)[0] == ["table", "table/tray", "stuff/other"]


def test_an_empty_scene_answers():
    graph = SceneGraph()
    assert list(graph) == []
    assert graph.closest([[0.0, 0, 0]]).path == [""]
    assert graph.closest([[0.0, 0, 0]]).sdf.item() == math.inf
    assert graph.cast([[0.0, 0, 0]], [[1.0, 0, 0]]) == [None]
    assert graph.overlaps() == []
    assert graph.span == (0.0, 0.0)
    assert graph.lights_at() == ()


def test_a_further_object_takes_less_than_2_kb_in_a_graph():
    def add(ids):
        for k in ids:
            graph.add(f"object {k}", BALL, pose=at(k))
        graph.forget_history()
        graph.at()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    graph = SceneGraph()
    tracemalloc.start()
    try:
        before = add(range(500))
        assert (add(range(500, 4000)) - before) / 3500 < 2000
    finally:
        tracemalloc.stop()


# -- nodes as they are shown -------------------------------------------------------------------------------------------


def test_a_node_shows_what_it_is_and_follows_edits(room):
    mug = room["table/tray/mug"]
    assert (mug.name, mug.path, mug.tags, mug.lit, mug.hidden, mug.moves) == (
        "mug", "table/tray/mug", ("cup",), True, False, False,
    )  # fmt: skip
    assert mug.field is BALL
    assert mug.parent == room["table/tray"]
    assert room["table"].parent is None
    assert [child.path for child in room["table"].children] == ["table/tray"]
    assert isinstance(room["lamp"].light, PointLight)
    assert room["eye"].camera is not None and room["lamp"].camera is None
    pose, scale = room.pose("table/tray/mug")
    assert_same_place(mug.pose().as_matrix(), pose.as_matrix())
    assert (mug.scale(), mug.scale(frame="parent"), room["table/tray"].scale(frame="parent")) == (scale, 1.0, 2.0)
    assert_same_place(mug.pose(frame="parent").translation, (0, 0.3, 0.1))
    room.move("table/tray/mug", by=(0, 0, 1), frame="parent", time=2.0)
    assert mug.moves
    assert_same_place(mug.pose(2.0, frame="parent").translation, (0, 0.3, 1.1))
    room.rename("table", "desk")
    assert mug.path == "desk/tray/mug"
    room.remove("desk")
    with pytest.raises(KeyError, match="was removed"):
        _ = mug.path
    room.undo()
    assert mug.path == "desk/tray/mug"


def test_a_view_cannot_be_written_to(room):
    with pytest.raises(AttributeError):
        room["table"].name = "desk"


def test_a_path_that_is_not_there_is_a_key_and_a_value_error_with_the_nearest(room):
    for kind in (KeyError, ValueError):
        with pytest.raises(kind, match=r"^no node 'table/tra'; did you mean 'table/tray'\?$"):
            room["table/tra"]
    with pytest.raises(ValueError, match="world or parent"):
        room["table"].pose(frame="own")
    assert "table/tray" in room and "table/tra" not in room
    assert len(room) == len(list(room)) == 7


def test_none_stands_for_the_top(room):
    before = places(room)["table/tray/mug"]
    assert room.reparent("table/tray/mug", None) == "mug"
    assert_same_place(places(room)["mug"], before)
    assert room.log[-1] == "reparent table/tray/mug to /"
