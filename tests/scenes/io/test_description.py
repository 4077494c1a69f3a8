"""Scenes described in YAML."""

import contextlib
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
import yaml

from objects import SE3, Aabb, Box, Sphere, Twist, Warped, save_field
from objects.mesh import read_mesh
from rendering import AmbientLight, DirectionalLight, PointLight
from scenes import SceneGraph, save_scene
from scenes.clock import Clock
from scenes.io import strict_yaml
from scenes.io.description import read_description
from scenes.io.plan import build
from scenes.io.strict_yaml import DescriptionError

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


# Nine nodes, then eight times as many with each line: 19 million where the aliases are followed.
BOMB = (
    "x-a: &a {1: {}, 2: {}, 3: {}, 4: {}, 5: {}, 6: {}, 7: {}, 8: {}, 9: {}}\n"
    + "".join(
        f"x-{b}: &{b} {{{', '.join(f'{k}: {{children: *{a}}}' for k in range(8))}}}\n" for a, b in pairwise("abcdefgh")
    )
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
        return source.lo, source.hi

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


def test_what_bends_gets_a_clock_and_nothing_else_does(tmp_path):
    reed = Warped(
        Box((0.1, 0.1, 1)), Twist(Aabb([-0.2, -0.2, -0.6], [0.2, 0.2, 0.6]), (0, 0, 1), (0, 0, 0), (0, 2), (0, 1))
    )
    save_field(reed, tmp_path / "reed.safetensors")
    save_field(Sphere(0.3), tmp_path / "ball.safetensors")
    text = "nodes:\n  a: {{field: {}.safetensors, clock: {{offset: 0.5, speed: -2, loop: true}}}}\n  b: {{field: {}.safetensors}}\n"
    graph = described(tmp_path, text.format("reed", "reed"))
    assert graph["a"].clock == Clock(0.5, -2.0, True)
    assert graph["b"].clock == Clock()
    with pytest.raises(DescriptionError, match="line 2: a: clock belongs to a field that bends"):
        described(tmp_path, text.format("ball", "reed"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: {a: {clock: {speed: 2}}}", "clock belongs to a field that bends"),
        ("nodes: {a: {clock: {sped: 2}}}", "did you mean 'speed'"),
        ("", "it is empty; expected keys such as nodes"),
        ("nodes: 3", "line 1: nodes: expected names, each with keys of its own, got '3'"),
        ("- a", "line 1: expected keys such as nodes, got a list of 1"),
        ("nodes: {a: {b: [}", "not YAML"),
        ("node: {}", "did you mean 'nodes'"),
        ("nodes: {a: {postion: [0, 0, 0]}}", "did you mean 'position'"),
        ("nodes: {a: {position: [0, 0]}}", "a: position: expected 3 numbers, got 2 values"),
        ("nodes: {a: {position: [0, 0, x]}}", "a: position: expected a number, got 'x'"),
        ("nodes: {a: {position: [0, 0, .nan]}}", "finite"),
        ("nodes: {a: {shape: {kind: cube}}}", "a: shape.kind: expected one of sphere, box, cylinder, capsule, torus, got 'cube'"),
        ("nodes: {a: {shape: {kind: sphere, radius: -1}}}", "a: shape.radius: expected a number above 0, got '-1'"),
        ("nodes: {a: {shape: {kind: box, size: [1, 0, 1]}}}", "size"),
        ("nodes: {a: {shape: {kind: sphere, radius: 1, color: [2, 0, 0]}}}", "expected a number in 0..1, got '2'"),
        ("nodes: {a: {scale: 0}}", "expected a number above 0"),
        ("nodes: {a: {size: 2}}", "belongs to a mesh"),
        ("nodes: {a: {mesh: x.obj, field: y}}", "one of mesh, field, shape and scene"),
        ("nodes: {a: {mesh: x.obj}}", "mesh: no file"),
        ("nodes: {a: {field: x.safetensors}}", "field: no file"),
        ("nodes: {a: {scene: x.scene}}", "scene: no scene folder"),
        ("nodes: {a: {keys: [{time: 1}, {time: 1}]}}", "times must increase"),
        ("nodes: {a: {keys: [{time: 1}], position: [0, 0, 1]}}", "got both"),
        ("nodes: {a: {keys: [{time: 1}], end: loop}}", "at least 2 keys"),
        ("nodes: {a: {rotation: [0, 0, 0, 0]}}", "quaternion"),
        ("nodes: {a/b: {}}", "without '/'"),
        ("nodes: {a: {lit: !!bool maybe}}", "a: lit: expected true or false, got 'maybe'"),
        ("nodes: !!map [a, b]", "nodes: expected names"),
        ("nodes: {a: {mesh: " + "x" * 300 + "}}", "cannot be read"),
        ("nodes: {a: {tags: [[]]}}", "a: tags.0.: expected text, got a list of 0"),
        ("nodes: {a: {}, a: {}}", "'a' is given twice"),
        ("nodes: {a: {carried: [{from: 1, by: b}]}}", "no node 'b'"),
        ("nodes: {a: {carried: [{from: 1, by: a}]}}", "can't carry"),
        ("nodes: {a: {camera: {target: [0, 0, 0]}}}", "eye and target must differ"),
        ("nodes: {a: {light: {kind: point, intensity: -1}}}", "intensity"),
        ("nodes: &x {a: {children: *x}}", "a: children: it holds itself, by an alias"),
        ("nodes: " + "{a: {children: " * 3000 + "{}" + "}}" * 3000, "nested too deep"),
        ("nodes: !!python/object/apply:os.system ['true']", "nodes: expected names"),
        ("nodes: {a: {light: !!python/object:os.system {}}}", "expected plain keys and values"),
        ("nodes: {a: {mesh: !!python/name:os.system x}}", "a: mesh: expected text"),
        ("nodes: {a: {camera: []}}", "a: camera: expected keys such as target, width, height, fov_y_deg, got a list of 0"),
        ("nodes: {a: {camera: {width: 1.e9}}}", "a: camera.width: expected a whole number in 1..16384"),
        ("nodes: {a: {camera: {width: 2.5}}}", "expected a whole number, got 2.5"),
        ("nodes: {a: {shape: {radius: 1}}}", "a: shape: expected a kind: one of sphere"),
        ("nodes: {a: {shape: {kind: sphere}}}", "a: shape: expected radius: a number above 0"),
        ("nodes: {a: {shape: {kind: box, size: [1, 1, 1], radius: 2}}}", "unknown key 'radius'; there is size, rounding, color"),
        ("nodes: {a: {end: lop}}", "a: end: expected one of hold, loop, got 'lop'; did you mean 'loop'"),
        ("nodes: {a: }", "a: expected keys such as mesh, field, shape, scene, got nothing"),
        ("nodes: {a: {position: [1:30, 0, 0]}}", "expected a number, got '1:30'"),
        ("nodes: {[a]: {}}", "expected a word as key, got a list of 1"),
        ("nodes: {a: {light: {kind: point, color: ornge}}}", "got 'ornge'; did you mean 'orange'"),
        ("nodes: {a: {light: {kind: point, color: }}}", "got nothing; '#ff8800' needs quotes"),
        ("nodes: {a: {tags: x}}", "a: tags: expected a list, got 'x'"),
        ("nodes:\n\ta: {}", "line 2, column 1: a tab; indent with blanks"),
        ("nodes: {a: {<<: 3}}", "<< expects keys and values, got '3'"),
        ('nodes: {a: {mesh: "x\\0y"}}', "a: mesh: no file"),
        ("nodes: {}\n---\nnodes: {}", "line 2, column 1"),
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        described(tmp_path, text)
    assert "\n" not in str(error.value)


def test_aliases_are_followed_up_to_a_number_of_values(tmp_path, monkeypatch):
    monkeypatch.setattr(strict_yaml, "MAX_VALUES", 50_000)
    with pytest.raises(ValueError, match=r"room\.yaml: expected at most 50,000 values, got more \(by aliases\)"):
        described(tmp_path, BOMB)


def test_all_mistakes_of_a_file_are_said_at_once_with_their_lines(tmp_path):
    (tmp_path / "table.obj").write_text("")
    text = """nodes:
  table:
    mesh: tabel.obj
    postion: [0, 0, 1]
    children:
      mug: {shape: {kind: spher, radius: 1}, scale: big}
      cup: {shape: {kind: sphere, radius: 1}, carried: [{from: 1, by: tabel}]}
  lamp: {light: {kind: point, intensity: -1}, size: 2, rotation: [0, 0, 0, 0]}
  lamp: {}
"""
    with pytest.raises(DescriptionError) as error:
        described(tmp_path, text)
    assert error.value.mistakes == [
        f"line 3: table: mesh: no file {str(tmp_path / 'tabel.obj')!r}; did you mean {str(tmp_path / 'table.obj')!r}?",
        "line 4: table: unknown key 'postion'; did you mean 'position'?",
        "line 6: table/mug: scale: expected a number above 0, got 'big'",
        "line 6: table/mug: shape.kind: expected one of sphere, box, cylinder, capsule, torus, got 'spher'; did you mean 'sphere'?",
        "line 7: table/cup: carried by no node 'tabel'; did you mean 'table'?",
        "line 8: lamp: PointLight: intensity must be finite and at least 0, got -1.0",
        "line 8: lamp: rotation: expected a quaternion w x y z of a length above 0, got (0.0, 0.0, 0.0, 0.0)",
        "line 8: lamp: size belongs to a mesh; use scale or rotation for what has none",
        "line 9: nodes: 'lamp' is given twice, first in line 8",
    ]
    assert str(error.value).startswith(f"{tmp_path / 'room.yaml'}: 9 mistakes: (1) line 3: table: ")
    assert "\n" not in str(error.value)


def test_words_mean_what_is_expected_at_their_place_and_not_what_yaml_makes_of_them(tmp_path):
    graph = described(
        tmp_path,
        "nodes:\n  on: {lit: off, hidden: yes, shape: {kind: sphere, radius: 1e-1}, position: [010, 1_000, +.5]}\n"
        "  1e3: {lit: on, tags: [no, 7, 2001-01-01]}\n  null: {}\n  2001-01-01: {}\n",
    )
    assert list(graph) == ["on", "1e3", "null", "2001-01-01"]
    assert (graph["on"].lit, graph["on"].hidden, graph["1e3"].lit) == (False, True, True)
    assert graph["1e3"].tags == ("2001-01-01", "7", "no")
    np.testing.assert_allclose(graph.pose("on")[0].translation, (10, 1000, 0.5))
    assert float(graph["on"].field.radius) == pytest.approx(0.1)


def test_merge_keys_fill_in_what_a_node_does_not_say_itself(tmp_path):
    graph = described(
        tmp_path,
        "nodes:\n  a: &a {shape: &s {kind: sphere, radius: 0.5}, position: [1, 0, 0], tags: [x]}\n"
        "  b: {<<: *a, position: [2, 0, 0], shape: {<<: *s, radius: 0.25}}\n",
    )
    np.testing.assert_allclose(graph.pose("b")[0].translation, (2, 0, 0))
    assert graph["b"].tags == ("x",)
    assert float(graph["b"].field.radius) == 0.25


def test_merge_keys_do_not_blow_up(tmp_path):
    lines = "".join(f"  {b}: &{b} {{<<: [{', '.join(9 * [f'*{a}'])}]}}\n" for a, b in pairwise("abcdefghijklmnop"))
    graph = described(tmp_path, "nodes:\n  a: &a {tags: [x]}\n" + lines)
    assert graph["p"].tags == ("x",)


def test_colours_are_numbers_or_words(tmp_path):
    graph = described(
        tmp_path,
        "nodes:\n  a: {shape: {kind: sphere, radius: 1, color: '#ff8000'}}\n"
        "  b: {shape: {kind: sphere, radius: 1, color: Lime}}\n  c: {light: {kind: ambient, color: [0, 0.5, 1]}}\n",
    )
    np.testing.assert_allclose(graph["a"].field.color, (1, 128 / 255, 0), atol=1e-7)
    np.testing.assert_allclose(graph["b"].field.color, (0, 1, 0))
    assert graph["c"].light.color == (0, 0.5, 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark"])
def test_text_is_read_in_every_unicode_encoding(tmp_path, encoding):
    text = "nodes: {Tür: {}}"
    mark = {"utf-16-le-mark": b"\xff\xfe", "utf-16-be-mark": b"\xfe\xff"}.get(encoding, b"")
    (tmp_path / "a.yaml").write_bytes(mark + text.encode(encoding.removesuffix("-mark")))
    assert [plan.path for plan in read_description(tmp_path / "a.yaml")] == ["Tür"]


def test_latin_1_is_read_with_a_note_and_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes("nodes: {Tür: {}}".encode("latin-1"))
    with pytest.warns(UserWarning, match=r"a\.yaml: not UTF-8; read as Windows-1252"):
        assert [plan.path for plan in read_description(tmp_path / "a.yaml")] == ["Tür"]
    (tmp_path / "b.yaml").write_bytes(b"nodes\x81\x00\xff")
    with pytest.raises(ValueError, match=r"b\.yaml: the text is neither UTF-8 nor UTF-16"):
        read_description(tmp_path / "b.yaml")


def test_a_carrier_may_be_named_by_the_path_to_which_it_was_handed(tmp_path):
    graph = described(
        tmp_path,
        "nodes:\n  tray: {}\n  cup: {carried: [{from: 1, by: tray}]}\n  tea: {carried: [{from: 2, by: tray/cup}]}\n",
    )
    assert list(graph) == ["tray", "tray/cup", "tray/cup/tea"]


ODD = (None, [], {}, "", "x", 1e308, -1e308, 1e-320, float("nan"), float("inf"), -1, 0, True, [[]], [[1]], {"a": {}},
       [None], "\0", "../" * 50, 2**70, [1, 2, 3, 4, 5], {"kind": "box"}, {"kind": []}, "a/b", "ü" * 300)  # fmt: skip


def variants(value, top=True):
    """The tree with each of its values replaced by each odd one, each key renamed, each left out."""
    if not top:
        yield from ODD
    if isinstance(value, dict):
        for key in value:
            rest = {k: v for k, v in value.items() if k != key}
            yield rest
            yield {**rest, f"{key}s": value[key]}
            yield {**rest, "": value[key]}
            for other in variants(value[key], False):
                yield {**value, key: other}
    elif isinstance(value, list):
        yield value[1:]
        yield value + value
        for k, item in enumerate(value):
            for other in variants(item, False):
                yield [*value[:k], other, *value[k + 1 :]]


def test_every_value_may_be_wrong_in_every_way_and_the_answer_is_one_clear_line(tmp_path):
    tree = yaml.safe_load(ROOM)
    tree["nodes"] = {name: tree["nodes"][name] for name in ("table", "ball", "sun", "eye")}
    tree["nodes"]["ball"]["carried"] = [{"from": 1, "by": "table/tray"}]
    n, mistakes = 0, []
    for variant in variants(tree):
        n += 1
        (tmp_path / "room.yaml").write_text(json.dumps(variant))
        try:
            plans = read_description(tmp_path / "room.yaml")
        except DescriptionError as error:
            mistakes += error.mistakes
        else:
            with contextlib.suppress(ValueError):
                build(plans)
    assert all(len(m) < 500 and m.startswith("line 1: ") and "\n" not in m for m in mistakes)
    assert n > 1000


def test_a_mesh_that_cannot_be_learned_is_named_by_its_node(tmp_path):
    trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False).export(tmp_path / "line.ply")
    trimesh.creation.box().export(tmp_path / "box.ply")
    with pytest.raises(ValueError, match="b/line: "):
        described(tmp_path, "nodes: {b: {children: {line: {mesh: line.ply}}}}")
