"""Rigid animation of glTF files."""

import math

import numpy as np
import pytest
import trimesh

from scenes.track import Sim3
from tests.scenes.io.glb_files import BOX, Z_UP, about, assert_same_triangles, corners, quat_xyzw


def slerp(a, b, u):
    """Straight from the definition: turn by a part of the angle between."""
    if np.dot(a, b) < 0:
        b = -b
    angle = math.acos(min(np.dot(a, b), 1))
    return a if angle < 1e-9 else (math.sin((1 - u) * angle) * a + math.sin(u * angle) * b) / math.sin(angle)


def assert_pose(plan, time, quat_xyzw, trans):
    """A root's pose is the file's, turned to z up."""
    sim = Sim3(*plan.track.at(time))
    for p in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        matrix = trimesh.transformations.quaternion_matrix(np.roll(quat_xyzw, 1))[:3, :3]
        np.testing.assert_allclose(sim.apply(p), Z_UP @ (matrix @ p + trans), atol=2e-6)


def test_translation_and_rotation_with_keys_of_their_own(maker, tmp_path):
    rng = np.random.default_rng(3)
    turns = np.array([quat_xyzw(rng) for _ in range(4)], np.float32).astype(float)
    turns /= np.linalg.norm(turns, axis=1, keepdims=True)
    turn_times, places = np.array([0.25, 1.0, 2.5, 3.0]), rng.normal(size=(3, 3)).astype(np.float32).astype(float)
    place_times = np.array([0.0, 1.5, 2.0])
    node = maker.node("a", mesh=maker.mesh())
    maker.animate(node, "rotation", turn_times, turns)
    maker.animate(node, "translation", place_times, places)
    (plan,), notes = maker.read(tmp_path)
    assert notes == []
    assert plan.track.times.tolist() == [0, 0.25, 1, 1.5, 2, 2.5, 3]
    for time in (-1, 0, 0.1, 0.25, 0.9, 1.2, 1.5, 1.9, 2.2, 2.7, 3.0, 5.0):
        at = np.clip(time, 0.25, 3)
        i = min(int(np.searchsorted(turn_times, at, "right")) - 1, 2)
        turn = slerp(turns[i], turns[i + 1], (at - turn_times[i]) / (turn_times[i + 1] - turn_times[i]))
        place = [np.interp(time, place_times, places[:, k]) for k in range(3)]
        assert_pose(plan, time, turn, place)


def test_what_is_not_animated_stays(maker, tmp_path):
    node = maker.node("a", translation=[1, 2, 3], rotation=about((0, 0, 1), 40), scale=[2, 2, 2])
    maker.animate(node, "rotation", [0, 1], [about((1, 0, 0), 0), about((1, 0, 0), 90)])
    (plan,), _ = maker.read(tmp_path)
    assert plan.scale == 2
    assert_pose(plan, 0.5, about((1, 0, 0), 45), (1, 2, 3))


def test_normalized_shorts_as_rotations(maker, tmp_path):
    node = maker.node("a")
    quats = np.round(np.array([about((0, 1, 0), 0), about((0, 1, 0), 120)]) * 32767)
    maker.animate(node, "rotation", [0, 2], quats, dtype="<i2", normalized=True)
    (plan,), _ = maker.read(tmp_path)
    np.testing.assert_allclose(Sim3(*plan.track.at(1)).apply((1, 0, 0)), Z_UP @ [0.5, 0, -math.sqrt(0.75)], atol=1e-4)


def test_steps_alone_make_a_track_of_steps(maker, tmp_path):
    node = maker.node("a")
    maker.animate(node, "translation", [0, 1, 2], [[0, 0, 0], [1, 0, 0], [2, 0, 0]], "STEP")
    (plan,), _ = maker.read(tmp_path)
    assert plan.track.interpolation == "step"
    assert [plan.track.at(t)[1][0] for t in (-1, 0, 0.99, 1, 1.5, 2, 9)] == [0, 0, 0, 1, 1, 2, 2]


def test_steps_beside_lines(maker, tmp_path):
    node = maker.node("a")
    maker.animate(node, "translation", [0, 1, 2], [[0, 0, 0], [1, 0, 0], [1, 0, 0]], "STEP")
    maker.animate(node, "rotation", [0, 2], [about((0, 1, 0), 0), about((0, 1, 0), 90)])
    (plan,), _ = maker.read(tmp_path)
    assert plan.track.interpolation == "linear"
    np.testing.assert_allclose(plan.track.times, [0, 1 - 1e-4, 1, 2], atol=1e-12)
    for time, x in ((0.5, 0), (0.9998, 0), (1, 1), (1.7, 1)):
        assert_pose(plan, time, about((0, 1, 0), 45 * time), (x, 0, 0))


def test_cubic_curves_follow_the_formula(maker, tmp_path):
    """One segment of 0.5 s against the polynomial written out in time."""
    v0, m0, v1, m1 = (np.array(v, float) for v in ([0, 0, 0], [4, 0, 1], [1, 2, 3], [0, -2, 0]))
    node = maker.node("a")
    rows = [[9, 9, 9], v0, m0, m1, v1, [9, 9, 9]]
    maker.animate(node, "translation", [1.0, 1.5], rows, "CUBICSPLINE")
    turns = [[0, 0, 0, 0], about((1, 0, 0), 0), [0.3, 0, 0, 0], [0, 0, 0, 0], about((1, 0, 0), 90), [0, 0, 0, 0]]
    maker.animate(node, "rotation", [1.0, 1.5], turns, "CUBICSPLINE")
    (plan,), notes = maker.read(tmp_path)
    assert notes == ["a: its curves were resampled at 30 keys a second"]
    assert len(plan.track.times) == 16
    for time in plan.track.times:
        u, d = (time - 1) / 0.5, 0.5
        h = (2 * u**3 - 3 * u**2 + 1, d * (u**3 - 2 * u**2 + u), -2 * u**3 + 3 * u**2, d * (u**3 - u**2))
        place = h[0] * v0 + h[1] * m0 + h[2] * v1 + h[3] * m1
        turn = sum(w * np.array(turns[k]) for w, k in zip(h, (1, 2, 4, 3), strict=True))
        assert_pose(plan, float(time), turn / np.linalg.norm(turn), place)
    np.testing.assert_allclose(Sim3(*plan.track.at(9)).trans, Z_UP @ v1, atol=1e-6)


def test_animated_scale_is_told(maker, tmp_path):
    node = maker.node("a", mesh=maker.mesh())
    maker.animate(node, "scale", [0, 1, 2], [[0, 0, 0], [2, 2, 2], [3, 3, 3]])
    (plan,), notes = maker.read(tmp_path)
    assert plan.scale == 2 and not plan.track.moves
    assert notes == ["a: animated scale is not rigid; its value at the start was kept"]


def test_keys_of_what_stands_still_are_no_motion(maker, tmp_path):
    """Exporters write them for all properties, below uneven scales as well."""
    top = maker.node("top", scale=[1, 2, 1])
    node = maker.node("a", top, mesh=maker.mesh())
    turn = about((0.6, 0, 0.8), 77)
    maker.animate(node, "rotation", [0, 1, 3], [turn, turn, [-v for v in turn]])
    maker.animate(node, "translation", [0, 2], [[1, 2, 3], [1, 2, 3]])
    maker.animate(node, "scale", [0, 2], [[2, 2, 2], [2, 2, 2]])
    plans, notes = maker.read(tmp_path)
    assert notes == ["top/a: the scale of a node above was baked into its mesh"]
    assert not plans[1].track.moves
    matrix = trimesh.transformations.quaternion_matrix(np.roll(turn, 1))
    matrix[:3, :3] *= 2
    matrix[:3, 3] = 1, 2, 3
    wanted = BOX.copy().apply_transform(np.diag([1.0, 2, 1, 1]) @ matrix).triangles @ Z_UP.T
    assert_same_triangles(corners(plans), {"a": wanted})


def test_the_first_of_two_animations_of_a_node_wins(maker, tmp_path):
    top = maker.node("top")
    a, b = maker.node("a", top), maker.node("b", top)
    maker.animate(a, "translation", [0, 1], [[0, 0, 0], [1, 0, 0]])
    maker.animate(b, "translation", [0, 2], [[0, 0, 0], [0, 1, 0]], animation=1)
    maker.animate(a, "translation", [0, 1], [[5, 0, 0], [9, 0, 0]], animation=1)
    plans, notes = maker.read(tmp_path)
    assert plans[1].track.at(1)[1] == (1, 0, 0) and plans[2].track.at(1)[1] == (0, 0.5, 0)
    assert notes == ["top/a: more than one animation drives it; the first, 'clip 0', was taken"]


def reference(gltf, time):
    """World matrices by name, straight from the definition; LINEAR keys 0 and 1 at the times 0 and 1."""
    moved = {}
    for node, path, first, last in gltf["drives"]:
        moved[node, path] = slerp(first, last, time) if path == "rotation" else first + time * (last - first)

    def local(i, node):
        def value(path, default):
            return np.array(moved.get((i, path), getattr(node, path) or default), float)

        matrix = trimesh.transformations.quaternion_matrix(np.roll(value("rotation", [0, 0, 0, 1]), 1))
        matrix[:3, :3] *= value("scale", [1, 1, 1])
        matrix[:3, 3] = value("translation", [0, 0, 0])
        return matrix

    found, todo = {}, [(i, np.eye(4)) for i in gltf["roots"]]
    while todo:
        i, above = todo.pop()
        node = gltf["nodes"][i]
        found[node.name] = above @ local(i, node)
        todo += [(child, found[node.name]) for child in node.children]
    return found


@pytest.mark.parametrize("time", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("above", [(2, 2, 2), (-1, 1, 1), (-3, -3, -3)])
def test_wheels_turn_beneath_even_and_mirrored_scales(maker, tmp_path, above, time):
    """A wheel with an uneven scale of its own, and a hub that slides in it."""
    mesh = maker.mesh()
    car = maker.node("car", scale=list(above), rotation=about((0, 0, 1), 20), translation=[1, 0, 0], mesh=mesh)
    wheel = maker.node("wheel", car, translation=[1, 1, 0], scale=[1, 2, 1], mesh=mesh)
    hub = maker.node("hub", wheel, rotation=about((1, 0, 0), 30), mesh=mesh)
    turn = [np.float32(about((0, 0, 1), 10)), np.float32(about((0.6, 0.8, 0), 130))]
    slide = [np.float32([0, 0, 1]), np.float32([0, 2, 1])]
    maker.animate(wheel, "rotation", [0, 1], turn)
    maker.animate(hub, "translation", [0, 1], slide)
    plans, _ = maker.read(tmp_path)
    drives = [(wheel, "rotation", *turn), (hub, "translation", *slide)]
    matrices = reference({"drives": drives, "roots": [car], "nodes": maker.gltf.nodes}, time)
    wanted = {}
    for name, matrix in matrices.items():
        moved = BOX.copy().apply_transform(matrix)
        wanted[name] = moved.triangles @ Z_UP.T
    assert_same_triangles(corners(plans, time), wanted)


@pytest.mark.parametrize("scale", [(-1, -1, 1), (-1, 1, 1), (-2, -2, -2), (2, 2, 2)])
def test_what_turns_within_what_turns(maker, tmp_path, scale):
    mesh = maker.mesh()
    outer = maker.node("outer", scale=list(scale), mesh=mesh)
    inner = maker.node("inner", outer, translation=[1, 2, 3], scale=[1, 2, 1], mesh=mesh)
    turns = [[np.float32(about(axis, angle)) for angle in (10, 130)] for axis in ((0.6, 0.8, 0), (0, 0.6, 0.8))]
    drives = [(node, "rotation", *turn) for node, turn in zip((outer, inner), turns, strict=True)]
    for node, path, *turn in drives:
        maker.animate(node, path, [0, 1], turn)
    plans, _ = maker.read(tmp_path)
    matrices = reference({"drives": drives, "roots": [outer], "nodes": maker.gltf.nodes}, 0.3)
    wanted = {name: BOX.copy().apply_transform(matrix).triangles @ Z_UP.T for name, matrix in matrices.items()}
    assert_same_triangles(corners(plans, 0.3), wanted)


def test_turning_beneath_an_uneven_scale_is_an_error(maker, tmp_path):
    top = maker.node("rack", scale=[1, 1, 2])
    maker.animate(maker.node("gear", top), "rotation", [0, 1], [about((1, 0, 0), 0), about((1, 0, 0), 90)])
    with pytest.raises(ValueError, match=r"node 1 'gear': it turns beneath the uneven scale of 'rack'.*modelling tool"):
        maker.read(tmp_path)
