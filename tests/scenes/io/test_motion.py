"""Motion under the last carrier as keys: equal to the graph's own answer at any time."""

import math

import numpy as np
import pytest

from objects import Sphere
from scenes import SceneGraph, Track
from scenes.io import motion as module
from scenes.io.motion import EXACT, local_pose, motion_of
from scenes.node import ROOT
from scenes.track import Sim3, slerp
from tests.scenes.helpers import at, turned


def at_time(motion, time):
    """The pose that keys show: lines between them, of two keys at one time the second."""
    k = int(np.searchsorted(motion.times, time, "right")) - 1
    j = min(max(k, 0), len(motion.times) - 1)
    here = Sim3(tuple(motion.quats[j]), tuple(motion.translations[j]), motion.scales[j])
    if k < 0 or k >= len(motion.times) - 1 or motion.interpolation == "step":
        return here
    u = (time - motion.times[k]) / (motion.times[k + 1] - motion.times[k])
    trans = motion.translations[k] + u * (motion.translations[k + 1] - motion.translations[k])
    return Sim3(slerp(here.quat, tuple(motion.quats[k + 1]), u), tuple(trans), here.scale)


def worst(graph, path, motion, under=None, n=501, margin=0.5):
    nodes = {node.id: node for node in graph.records().values()}
    node, most = nodes[graph[path].record.id], 0.0
    corners = np.eye(3)
    for time in np.linspace(graph.span[0] - margin, graph.span[1] + margin, n):
        a, b = at_time(motion, time), local_pose(nodes, node, time, under)
        most = max(most, *(math.dist(a.apply(p), b.apply(p)) for p in corners))
    return most


def motion(graph, path, under=None):
    nodes = {node.id: node for node in graph.records().values()}
    return motion_of(nodes, graph[path].record, graph.span, under)


def test_a_track_is_its_own_keys():
    graph = SceneGraph()
    graph.add("a", Sphere(1.0), track=Track.keyframes([0, 1, 3], [at(0), at(1), turned(90)]), scale=2.0)
    found = motion(graph, "a")
    assert not found.baked and found.interpolation == "linear"
    assert np.array_equal(found.times, [0, 1, 3]) and np.array_equal(found.scales, [2, 2, 2])
    assert worst(graph, "a", found) < 1e-12


@pytest.mark.parametrize("interpolation", ["linear", "step"])
def test_a_loop_is_written_out_over_the_span(interpolation):
    graph = SceneGraph()
    poses = [at(0), at(0, 0.1), turned(70)]
    graph.add("a", Sphere(1.0), track=Track.keyframes([0.3, 0.5, 0.7], poses, interpolation=interpolation, end="loop"))
    graph.add("b", track=Track.keyframes([-1.0, 2.05], [at(0), at(1)]))
    found = motion(graph, "a")
    assert found.times[0] == -1 and found.times[-1] == pytest.approx(2.05) and not found.cut
    assert worst(graph, "a", found, margin=0) < 2 * EXACT


def test_what_is_handed_from_one_still_carrier_to_another_keeps_exact_keys():
    graph = SceneGraph()
    graph.add("table", pose=turned(30))
    graph.add("cup", Sphere(0.1), track=Track.keyframes([0, 2], [at(1), at(1, 1)]))
    graph.reparent("cup", "table", start=1.0)
    found = motion(graph, "table/cup")
    assert found.baked and found.off < 1e-12 and list(found.times) == [0, 1, 2]
    assert worst(graph, "table/cup", found) < 1e-9


def test_what_rides_on_a_turning_carrier_for_a_time_is_baked_until_lines_are_right():
    graph = SceneGraph()
    graph.add("disc", track=Track.keyframes([0, 1, 2], [at(0), turned(120), turned(240)]))
    graph.add("disc/cup", Sphere(0.1), pose=at(0.5))
    graph.reparent("disc/cup", "/", start=1.0)
    found = motion(graph, "cup")
    assert found.baked and 0 < found.off <= EXACT and not found.cut
    assert worst(graph, "cup", found) < 4 * EXACT
    assert list(found.times[found.times > 1.0]) == [2.0]  # at rest from there on: no key is spent


def test_a_jump_has_two_keys_at_one_time():
    graph = SceneGraph()
    graph.add("a", pose=at(0))
    graph.add("b", Sphere(1.0), track=Track.keyframes([0, 1], [at(0), at(1)], end="loop"))
    graph.add("c", track=Track.keyframes([0, 2.5], [at(0), at(1)]))
    found = motion(graph, "b")
    assert list(found.times) == pytest.approx([0, 0, 1, 1, 2, 2, 2.5]) or list(found.times) == pytest.approx(
        [0, 1, 1, 2, 2, 2.5]
    )
    assert worst(graph, "b", found, margin=0) < 2 * EXACT


def test_the_motion_in_the_world_follows_all_carriers():
    graph = SceneGraph()
    graph.add("a", track=Track.keyframes([0, 1], [at(0), turned(90)]), scale=2.0)
    graph.add("a/b", Sphere(1.0), pose=at(1))
    assert not motion(graph, "a/b").moves
    found = motion(graph, "a/b", ROOT)
    assert found.moves and worst(graph, "a/b", found, ROOT) < 4 * EXACT


def test_keys_that_run_out_are_told(monkeypatch):
    monkeypatch.setattr(module, "MAX_KEYS", 200)
    graph = SceneGraph()
    graph.add("a", Sphere(1.0), track=Track.keyframes([0, 0.01], [at(0), at(1)], end="loop"))
    graph.add("b", track=Track.keyframes([0, 1e3], [at(0), at(1)]))
    found = motion(graph, "a")
    assert found.cut and 100 < len(found.times) < 500


def test_rotations_of_neighbours_lie_on_one_side():
    graph = SceneGraph()
    graph.add(
        "a", track=Track(np.arange(3.0), np.array([[1, 0, 0, 0], [-1, 0, 0, 0.1], [1, 0, 0, 0]]), np.zeros((3, 3)))
    )
    quats = motion(graph, "a").quats
    assert ((quats[1:] * quats[:-1]).sum(1) > 0).all()


@pytest.mark.parametrize("offset", [1.7e9, -1e7])
def test_baked_motion_is_the_same_at_late_times(offset):
    def motion(begin):
        graph = SceneGraph()
        graph.add("a", track=Track.keyframes([begin, begin + 2], [at(0), at(2)]))
        graph.add("b", track=Track.keyframes([begin, begin + 4], [at(0, 1), at(0, 3)]))
        graph.reparent("b", "a", start=begin + 1)
        nodes = {node.id: node for node in graph.records().values()}
        return motion_of(nodes, graph["a/b"].record, graph.span)

    now, late = motion(0.0), motion(offset)
    assert np.allclose(late.times - offset, now.times, atol=1e-5)
    assert np.allclose(late.translations, now.translations, atol=1e-5) and late.off < 1e-5
