"""Exported glTF: read back it is the same scene; the file is sound, shares its meshes, and looks like the scene."""

import json
import math
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from compose import Composite
from objects import SE3, Box, Cylinder, Sphere, Warped
from objects.aabb import Aabb
from objects.analytic_warps import Twist
from rendering import AmbientLight, Camera, DirectionalLight, PointLight, RenderConfig, render
from rendering.lights import linear_from_srgb
from rendering.rasterize import egl_available, rasterize_meshes
from scenes import SceneGraph, Track, export_scene
from scenes.io.glb import read_glb
from scenes.track import Sim3
from tests.scenes.helpers import at, turned

Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def room():
    """Carried and handed-over things, loops, steps, lights and cameras that stand askew in their nodes."""
    graph = SceneGraph()
    graph.add("table", Box((1.0, 0.6, 0.1), color=(0.5, 0.4, 0.3)), pose=turned(20), tags=("furniture", "wood"))
    graph.add("table/tray", Box((0.3, 0.2, 0.02), color=(0.1, 0.6, 0.2)), scale=1.5)
    graph.animate("table/tray", Track.keyframes([0, 1, 2], [at(0, 0, 0.1), at(0.2, 0, 0.1), turned(80)]))
    graph.add("table/tray/cup", Cylinder(0.05, 0.1, color=(0.8, 0.1, 0.1)), pose=at(0.05, 0, 0.07), lit=False)
    graph.add("ball", Sphere(0.1, color=(0.2, 0.3, 0.9)))
    graph.animate("ball", Track.keyframes([0.5, 1.5], [at(0.4, 0, 0.3), at(0.4, 0.2, 0.3)], interpolation="step"))
    graph.reparent("ball", "table/tray", start=1.5)
    graph.add("twin", graph["table/tray/cup"].field, pose=at(-0.4, 0.1, 0.2))
    graph.add("spin", pose=at(0.5, 0.5, 0.2), track=None)
    graph.animate("spin", Track.keyframes([0.0, 0.5], [turned(0), turned(90)], end="loop"))
    graph.add("spin/arm", Box((0.2, 0.02, 0.02)), pose=at(0.1))
    graph.add("lights")
    graph.add("lights/sun", light=DirectionalLight((0.3, -0.5, -1.0), (1.0, 0.9, 0.8), 0.7))
    graph.add("lights/down", light=DirectionalLight((0.0, 0.0, -1.0)))
    graph.add("lights/lamp", light=PointLight((0.5, 0.1, 1.0), intensity=2.5), pose=turned(40, (1, 0, 0)))
    graph.add("view", camera=Camera.look_at((1.2, -1.4, 1.1), (0, 0, 0.1), 160, 120, 40), pose=at(0.1))
    return graph


def content(file):
    data = file.read_bytes()
    assert data[:4] == b"glTF" and struct.unpack("<I", data[8:12])[0] == len(data)
    length = struct.unpack("<I", data[12:16])[0]
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def rows(gltf, blob, index):
    entry = gltf["accessors"][index]
    view = gltf["bufferViews"][entry["bufferView"]]
    kind = {5126: "<f4", 5123: "<u2", 5125: "<u4"}[entry["componentType"]]
    columns = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[entry["type"]]
    return np.frombuffer(blob, kind, entry["count"] * columns, view["byteOffset"]).reshape(-1, columns)


def worlds(plans, time):
    """World pose of each plan."""
    found = {"": Sim3()}
    for plan in plans:
        local = Sim3(*plan.track.at(time), plan.scale)
        found[plan.path] = found[plan.path.rpartition("/")[0]] @ local
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    graph, file = room(), tmp_path_factory.mktemp("glb") / "room.glb"
    return graph, file, export_scene(graph, file)


def test_read_back_it_has_the_same_names_tags_lights_and_cameras(exported):
    graph, file, _ = exported
    plans, notes = read_glb(file)
    assert notes == [] and sorted(plan.path for plan in plans) == sorted(graph)
    for plan in plans:
        node = graph[plan.path]
        assert (plan.tags, plan.lit or node.field is None) == (node.tags, node.lit)
        assert (plan.shape is None) == (node.field is None)
        assert type(plan.light) is type(node.light)
        if node.light is not None:
            assert plan.light.intensity == pytest.approx(node.light.intensity, rel=1e-6)
            assert plan.light.color == pytest.approx(node.light.color, abs=1e-6)
        if isinstance(node.light, PointLight):
            assert plan.light.position == pytest.approx(node.light.position, abs=1e-6)
        if isinstance(node.light, DirectionalLight):
            unit = np.array(node.light.direction) / np.linalg.norm(node.light.direction)
            assert plan.light.direction == pytest.approx(unit, abs=1e-6)
        if node.camera is not None:
            assert (plan.camera.fx, plan.camera.width) == (node.camera.fx, node.camera.width)
            delta = (plan.camera.T_world_cam.inverse() @ node.camera.T_world_cam).as_matrix()
            assert torch.allclose(delta, torch.eye(4, dtype=torch.float64), atol=1e-6)


def test_read_back_everything_stands_where_it_did_at_all_times(exported):
    graph, file, _ = exported
    plans, _ = read_glb(file)
    for time in np.linspace(0, 2, 401)[:-1] + 0.001:
        found = worlds(plans, time)
        for path in graph:
            pose, scale = graph.pose(path, time)
            assert found[path].trans == pytest.approx(pose.translation.tolist(), abs=1e-5)
            assert abs(np.dot(found[path].quat, pose.quat_wxyz.tolist())) > 1 - 1e-9
            assert found[path].scale == pytest.approx(scale, rel=1e-6)
    tracks = {plan.path: plan.track for plan in plans}
    assert tracks["table/tray"].times.tolist() == [0, 1, 2] and not tracks["table"].moves


def test_points_of_the_file_lie_on_the_fields_at_three_times(exported):
    graph, file, _ = exported
    plans, _ = read_glb(file)
    gltf, blob = content(file)
    names = {node["name"]: node["mesh"] for node in gltf["nodes"] if "mesh" in node}
    rng = np.random.default_rng(0)
    for time in (0.0, 0.9, 1.7):
        scene, found = graph.at(time), worlds(plans, time)
        for instance in scene.instances:
            name = instance.name.rpartition("/")[2]
            attributes = gltf["meshes"][names[name]]["primitives"][0]["attributes"]
            some = rng.choice(rows(gltf, blob, attributes["POSITION"]), 100)
            p_world = torch.tensor([found[instance.name].apply(tuple(p)) for p in some.tolist()])
            sdf = Composite([instance]).query(p_world).sdf
            assert float(sdf.abs().max()) < 1e-3 * float(instance.field.bounds.size.max()) * instance.scale + 1e-5


def test_colours_are_linear_and_unlit_objects_say_so(exported):
    graph, file, _ = exported
    gltf, blob = content(file)
    for name, path in (("tray", "table/tray"), ("cup", "table/tray/cup")):
        node = next(n for n in gltf["nodes"] if n["name"] == name)
        primitive = gltf["meshes"][node["mesh"]]["primitives"][0]
        colors = rows(gltf, blob, primitive["attributes"]["COLOR_0"])[:, :3] / 65535
        wanted = linear_from_srgb(graph[path].field.color.double()).numpy()
        assert np.abs(colors - wanted).max() < 1e-4
        unlit = "KHR_materials_unlit" in gltf["materials"][primitive["material"]].get("extensions", {})
        assert unlit == (not graph[path].lit)
    normals = rows(gltf, blob, primitive["attributes"]["NORMAL"])
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)


def test_lit_and_unlit_users_of_a_shape_share_its_numbers(exported):
    gltf, _ = content(exported[1])
    cup, twin = (next(n for n in gltf["nodes"] if n["name"] == name)["mesh"] for name in ("cup", "twin"))
    a, b = (gltf["meshes"][mesh]["primitives"][0] for mesh in (cup, twin))
    assert cup != twin and a["attributes"] == b["attributes"] and a["indices"] == b["indices"]


def test_another_object_of_a_shape_costs_a_node(tmp_path):
    sizes = []
    for n in (1, 101):
        graph = SceneGraph()
        field = Sphere(0.5) - Box((0.4, 0.4, 2.0))
        for i in range(n):
            graph.add(f"ring-{i}", field, pose=at(i))
        export_scene(graph, tmp_path / "a.glb")
        sizes.append((tmp_path / "a.glb").stat().st_size)
    assert sizes[0] > 100_000 and sizes[1] - sizes[0] < 100 * 200


def test_what_the_file_cannot_hold_is_told(tmp_path):
    graph = room()
    graph.add("sky", light=AmbientLight())
    graph.hide("lights")
    graph.retime("table/tray", shift=-1.0)
    camera = graph["view"].camera
    graph.set_camera("view", Camera(camera.T_world_cam, camera.fx, camera.fy, 70.0, camera.cy, 160, 120))
    notes = "\n".join(export_scene(graph, tmp_path / "a.glb"))
    for text in ("4 hidden nodes", "ambient light has no place in glTF, only build reads it back: sky",
                 "loops are written out", "1 s later",
                 "square pixels", "motion beneath others that move was baked"):  # fmt: skip
        assert text in notes
    plans, _ = read_glb(tmp_path / "a.glb")
    assert {plan.path: plan.track for plan in plans}["table/tray"].times.tolist() == [-1, 0, 1]


def test_ambient_light_is_read_back(tmp_path):
    graph = SceneGraph()
    for name, light in (("sky", AmbientLight((0.2, 0.4, 0.6), 0.7, (0.1, 0.1, 0.0))), ("grey", AmbientLight())):
        graph.add(name, light=light, tags=("up",))
    export_scene(graph, tmp_path / "a.glb")
    assert [(plan.light, plan.tags) for plan in read_glb(tmp_path / "a.glb")[0]] == [
        (graph[name].light, ("up",)) for name in graph
    ]
    text = (tmp_path / "a.glb").read_bytes()
    (tmp_path / "b.glb").write_bytes(text.replace(b'"intensity":0.7', b'"intensity":[0]'))
    plans, notes = read_glb(tmp_path / "b.glb")
    assert plans[0].light is None and any("ambient light was left out" in note for note in notes)


def test_read_back_what_bends_keeps_its_times_where_a_file_begins_before_0(tmp_path):
    box = Aabb([-0.3, -0.3, -0.6], [0.3, 0.3, 0.6])
    twist = Twist(box, (0, 0, 1), (0, 0, 0), (-2.0, -1.0), (0, 1.5))
    graph = SceneGraph()
    graph.add("bar", Warped(Box((0.2, 0.2, 1.0)), twist))
    notes = export_scene(graph, tmp_path / "a.glb", tolerance=0.02)
    assert any("2 s later" in note for note in notes)
    (plan,), _ = read_glb(tmp_path / "a.glb")
    assert plan.warp.span == pytest.approx((-2.0, -1.0), abs=1e-5)


def test_late_times_are_kept(tmp_path):
    graph, begin = SceneGraph(), 1.7e9
    graph.add("a", Sphere(0.1), track=Track.keyframes([begin, begin + 0.5, begin + 2], [at(0), at(2), at(1)]))
    notes = export_scene(graph, tmp_path / "a.glb", tolerance=0.01)
    assert notes == ["times in the file are 1.7e+09 s earlier: those of glTF are short numbers"]
    (plan,), _ = read_glb(tmp_path / "a.glb")
    assert plan.track.times.tolist() == [begin, begin + 0.5, begin + 2]
    graph.animate("a", Track.keyframes([0, 1e7], [at(0), at(2)]))
    assert any("are rounded to 1 s" in note for note in export_scene(graph, tmp_path / "a.glb", tolerance=0.01))


def test_the_same_scene_gives_the_same_bytes(exported, tmp_path):
    export_scene(room(), tmp_path / "again.glb")
    assert (tmp_path / "again.glb").read_bytes() == exported[1].read_bytes()


def test_the_file_looks_like_the_scene(exported):
    if reason := egl_available():
        pytest.skip(reason)
    import trimesh

    graph, file, _ = exported
    gltf, blob = content(file)
    plans, _ = read_glb(file)
    found, meshes = worlds(plans, 0.0), []
    for plan in plans:
        if plan.shape is None:
            continue
        node = next(n for n in gltf["nodes"] if n["name"] == plan.path.rpartition("/")[2])
        primitive = gltf["meshes"][node["mesh"]]["primitives"][0]
        p_obj = rows(gltf, blob, primitive["attributes"]["POSITION"]).tolist()
        linear = torch.tensor(rows(gltf, blob, primitive["attributes"]["COLOR_0"])[:, :3] / 65535)
        rgb = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        faces = rows(gltf, blob, primitive["indices"]).reshape(-1, 3)
        p_world = [found[plan.path].apply(tuple(p)) for p in p_obj]
        meshes.append(trimesh.Trimesh(p_world, faces, vertex_colors=(255 * rgb).round().byte().numpy(), process=False))
    camera = graph.camera_at("view", 0.0)
    frame = render(graph.at(0.0), camera, config=RenderConfig(antialias=1))
    depth, owner, rgb = rasterize_meshes(meshes, [SE3.from_translation([0.0, 0.0, 0.0])] * len(meshes), camera)
    ours, theirs = frame.owner >= 0, owner >= 0
    assert float((ours & theirs).sum() / (ours | theirs).sum()) > 0.985
    inner = torch.nn.functional.max_pool2d((~(ours & theirs)).float()[None], 3, 1, 1)[0] == 0
    off = (frame.rgb - rgb).abs().amax(-1)[inner]
    assert float(off.mean()) < 4 / 255 and float((off < 4 / 255).float().mean()) > 0.9
    assert float((frame.depth - depth).abs()[inner].median()) < 1e-3


def _validator():
    """A folder with node_modules/gltf-validator: named by $GLTF_VALIDATOR, or here."""
    folder = Path(os.environ.get("GLTF_VALIDATOR", "."))
    if shutil.which("node") is None or not (folder / "node_modules/gltf-validator").is_dir():
        pytest.skip("no gltf-validator: npm install gltf-validator, and name the folder by GLTF_VALIDATOR")
    return folder


def test_the_khronos_validator_finds_no_errors(exported, tmp_path):
    code = (
        "require('gltf-validator').validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[1])))"
        ".then(report => console.log(JSON.stringify(report.issues)))"
    )
    out = subprocess.run(
        ["node", "-e", code, str(exported[1].resolve())], cwd=_validator(), capture_output=True, text=True, check=True
    )
    issues = json.loads(out.stdout)
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]


def test_half_turns_of_lights_are_right(tmp_path):
    graph = SceneGraph()
    directions = [(0, 0, 1), (1, 0, 0), (0, -1, 0), (0, 1e-9, 1), (0.3, 0.2, 0.999)]
    for i, direction in enumerate(directions):
        graph.add(f"sun-{i}", light=DirectionalLight(direction))
    export_scene(graph, tmp_path / "a.glb")
    for plan, direction in zip(read_glb(tmp_path / "a.glb")[0], directions, strict=True):
        assert plan.light.direction == pytest.approx(np.array(direction) / math.hypot(*direction), abs=1e-6)


def test_what_other_programs_changed_beside_our_extras_counts(exported, tmp_path):
    gltf, blob = content(exported[1])

    def camera(**changes):
        made = json.loads(json.dumps(gltf))
        entry = made["cameras"][0]
        entry["perspective"] |= changes.pop("perspective", {})
        entry["extras"]["sirenscape"] |= changes
        text = json.dumps(made).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob
        (tmp_path / "a.glb").write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return next(plan.camera for plan in read_glb(tmp_path / "a.glb")[0] if plan.camera is not None)

    assert camera().width == 160
    assert camera(perspective={"yfov": 1.0}).fy == pytest.approx(240 / math.tan(0.5))
    for lens in ({"width": "wide"}, {"fx": 0}, {"cx": None}, {"width": 160e6, "height": 120e6, "fx": 1e8, "fy": 1e8}):
        assert camera(**lens).width == 640
