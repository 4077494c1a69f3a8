"""Scenes described in YAML."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh

from objects import SE3, Sphere, save_field
from objects.mesh import read_mesh
from rendering import AmbientLight, DirectionalLight, PointLight
from scenes import SceneGraph, save_scene
from scenes.description import read_description
from scenes.plan import build

ROOM = """
nodes:
  table:
    shape: {kind: box, size: [1, 0.6, 0.1], rounding: 0.01, color: [0.5, 0.3, 0.2]}
    position: [0, 0, 0.5]
    turn: 90
    tags: [wood]
    children:
      tray:
        shape: {kind: torus, major: 0.2, minor: 0.05}
        position: [0.1, 0, 0.2]
        rotation: {axis: [1, 0, 0], degrees: 90}
        scale: 2
  ball:
    shape: {kind: sphere, radius: 0.1}
    keys:
      - {time: 0, position: [0, 1, 0]}
      - {time: 2, position: [1, 1, 0], turn: 90}
    end: loop
    lit: false
  can: {shape: {kind: cylinder, radius: 0.1, height: 0.3}, hidden: true}
  pill: {shape: {kind: capsule, radius: 0.1, height: 0.3}, rotation: [0, 1, 0, 0]}
  lamp: {light: {kind: point, color: [1, 0.9, 0.8], intensity: 2}, position: [0, 0, 2]}
  sun: {light: {kind: directional, direction: [1, 0, -1]}}
  sky: {light: {kind: ambient}}
  eye: {camera: {target: [0, 0, 0.5], width: 320, height: 200, fov_y_deg: 40}, position: [2, -1, 1]}
"""


# Nine values, then eight times as many with each line: 19 million where the aliases are followed.
BOMB = (
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join(8 * [f'*{a}'])}]\n" for a, b in pairwise("abcdefgh"))
    + "nodes: *h"
)


def described(tmp_path, text) -> SceneGraph:
    (tmp_path / "room.yaml").write_text(text)
    return build(read_description(tmp_path / "room.yaml"))


def test_everything_stands_where_it_was_described(tmp_path):
    graph = described(tmp_path, ROOM)
    assert list(graph) == ["table", "table/tray", "ball", "can", "pill", "lamp", "sun", "sky", "eye"]
    pose, scale = graph.pose("table/tray")
    np.testing.assert_allclose(pose.translation, (0, 0.1, 0.7), atol=1e-12)
    want = SE3.from_axis_angle([0, 0, 1.0], math.pi / 2) @ SE3.from_axis_angle([1.0, 0, 0], math.pi / 2)
    torch.testing.assert_close(pose.rotation(), want.rotation(), atol=1e-12, rtol=0)
    assert scale == 2
    np.testing.assert_allclose(graph.pose("ball", 1.0)[0].translation, (0.5, 1, 0), atol=1e-12)
    np.testing.assert_allclose(graph.pose("ball", 3.0)[0].translation, (0.5, 1, 0), atol=1e-12)
    assert [i.name for i in graph.at().instances] == ["table", "table/tray", "ball", "pill"]
    assert graph.at().lit.tolist() == [True, True, False, True]
    assert graph["table"].tags == ("wood",)
    assert graph.lights_at() == (
        PointLight((0, 0, 2), (1, 0.9, 0.8), 2), DirectionalLight((1, 0, -1)), AmbientLight(),
    )  # fmt: skip
    eye = graph.camera_at("eye")
    uv, depth = eye.project(torch.tensor([[0.0, 0, 0.5]]))
    np.testing.assert_allclose(uv[0], (160, 100), atol=1e-9)
    np.testing.assert_allclose(eye.position_world, (2, -1, 1), atol=1e-12)
    assert depth > 0
    assert graph.history == ([], [])


def test_a_cup_is_handed_over_at_its_time(tmp_path):
    graph = described(
        tmp_path,
        """
nodes:
  tray:
    shape: {kind: box, size: [1, 1, 0.1]}
    keys: [{time: 0, position: [0, 0, 0]}, {time: 4, position: [4, 0, 0]}]
  cup:
    shape: {kind: sphere, radius: 0.1}
    position: [1, 0, 0.2]
    carried: [{from: 1, by: tray}]
    children: {spoon: {shape: {kind: sphere, radius: 0.02}, carried: [{from: 3, by: /}]}}
""",
    )
    assert list(graph) == ["tray", "tray/cup", "spoon"]
    for t, x in ((0, 1), (1, 1), (2, 2), (4, 4), (9, 4)):
        np.testing.assert_allclose(graph.pose("tray/cup", t)[0].translation, (x, 0, 0.2), atol=1e-12)
    np.testing.assert_allclose(graph.pose("spoon", 9)[0].translation, (3, 0, 0.2), atol=1e-12)


def test_meshes_are_turned_sized_and_put_on_their_feet_before_they_are_learned(tmp_path):
    mesh = trimesh.creation.box((2, 6, 4))
    mesh.apply_translation((10, 0, 0))
    mesh.export(tmp_path / "tall.ply")
    (tmp_path / "a.yaml").write_text(
        "nodes:\n  a: {mesh: tall.ply}\n  b: {mesh: tall.ply, up: y, size: 3, origin: bottom}\n"
        "  c: {mesh: tall.ply, origin: center}\n  d: {mesh: tall.ply, up: y, size: 3, origin: bottom, position: [1, 0, 0]}\n"
        "  e: {mesh: tall.ply, up: x}\n"
    )
    plans = {plan.path: plan for plan in read_description(tmp_path / "a.yaml")}
    assert plans["a"].shape == tmp_path / "tall.ply"
    assert plans["b"].shape is plans["d"].shape  # learned once

    def box(path):
        source = read_mesh(plans[path].shape)
        return source.vertices.min(0), source.vertices.max(0)

    np.testing.assert_allclose(box("b"), ([-0.5, -1, 0], [0.5, 1, 3]), atol=1e-6)
    np.testing.assert_allclose(box("c"), ([-1, -3, -2], [1, 3, 2]), atol=1e-6)
    np.testing.assert_allclose(box("e"), ([-3, -2, 9], [3, 2, 11]), atol=1e-6)


def test_fields_and_scenes_come_from_files_beside_the_description(tmp_path):
    other = SceneGraph()
    other.add("thing", Sphere(0.3), pose=SE3.from_translation([1.0, 0, 0]))
    save_scene(other, tmp_path / "other.scene")
    save_field(Sphere(0.3), tmp_path / "ball.safetensors")
    graph = described(
        tmp_path,
        "nodes:\n  a: {field: ball.safetensors}\n  b: {scene: other.scene, position: [0, 2, 0], scale: 2, tags: [x]}\n",
    )
    assert list(graph) == ["a", "b", "b/thing"]
    np.testing.assert_allclose(graph.pose("b/thing")[0].translation, (2, 2, 0), atol=1e-12)
    assert graph["a"].field is graph["b/thing"].field
    assert graph["b"].tags == ("x",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expected `object`"),
        ("nodes: 3", "Expected `object`"),
        ("- a", "Expected `object`"),
        ("nodes: {a: {b: [}", "not YAML"),
        ("node: {}", "did you mean 'nodes'"),
        ("nodes: {a: {postion: [0, 0, 0]}}", "did you mean 'position'"),
        ("nodes: {a: {position: [0, 0]}}", "length 3"),
        ("nodes: {a: {position: [0, 0, x]}}", "Expected `float`"),
        ("nodes: {a: {position: [0, 0, .nan]}}", "finite"),
        ("nodes: {a: {shape: {kind: cube}}}", "Invalid value 'cube'"),
        ("nodes: {a: {shape: {kind: sphere, radius: -1}}}", "> 0"),
        ("nodes: {a: {shape: {kind: box, size: [1, 0, 1]}}}", "size"),
        ("nodes: {a: {shape: {kind: sphere, radius: 1, color: [2, 0, 0]}}}", "<= 1"),
        ("nodes: {a: {scale: 0}}", "> 0"),
        ("nodes: {a: {size: 2}}", "belongs to a mesh"),
        ("nodes: {a: {mesh: x.obj, field: y}}", "one of mesh, field, shape and scene"),
        ("nodes: {a: {mesh: x.obj}}", "mesh: no file"),
        ("nodes: {a: {field: x.safetensors}}", "field: no file"),
        ("nodes: {a: {scene: x.scene}}", "found nothing there"),
        ("nodes: {a: {keys: [{time: 1}, {time: 1}]}}", "times must increase"),
        ("nodes: {a: {keys: [{time: 1}], position: [0, 0, 1]}}", "got both"),
        ("nodes: {a: {keys: [{time: 1}], end: loop}}", "at least 2 keys"),
        ("nodes: {a: {rotation: [0, 0, 0, 0]}}", "quaternion"),
        ("nodes: {a/b: {}}", "without '/'"),
        ("nodes: {a: {lit: !!bool maybe}}", "not YAML"),
        ("nodes: !!map [a, b]", "not YAML"),
        ("nodes: {a: {mesh: " + "x" * 300 + "}}", "cannot be read"),
        ("nodes: {a: {tags: [2001-99-99]}}", "not YAML"),
        ("nodes: {a: {}, a: {}}", "'a' is given twice"),
        ("nodes: {a: {carried: [{from: 1, by: b}]}}", "no node 'b'"),
        ("nodes: {a: {carried: [{from: 1, by: a}]}}", "can't carry"),
        ("nodes: {a: {camera: {target: [0, 0, 0]}}}", "eye and target must differ"),
        ("nodes: {a: {light: {kind: point, intensity: -1}}}", "intensity"),
        ("nodes: &x {a: {children: *x}}", "at most 1,000,000"),
        (BOMB, "at most 1,000,000"),
        ("nodes: " + "{a: {children: " * 3000 + "{}" + "}}" * 3000, "nested too deep"),
        ("nodes: !!python/object/apply:os.system ['true']", "not YAML"),
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        described(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_mesh_that_cannot_be_learned_is_named_by_its_node(tmp_path):
    trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]).export(tmp_path / "flat.ply")
    trimesh.creation.box().export(tmp_path / "box.ply")
    with pytest.raises(ValueError, match="b/flat: "):
        described(tmp_path, "nodes: {b: {children: {flat: {mesh: flat.ply}}}}")
