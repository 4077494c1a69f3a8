"""Plain formats, the verb `export`, and what bad input says."""

import json
import math

import numpy as np
import pytest
import torch
import trimesh

from objects import Box, Cylinder, Sphere, Warped
from objects.aabb import Aabb
from objects.analytic_warps import Twist
from rendering import PointLight
from scenes import SceneGraph, Track, export_scene, save_scene
from tests.scenes.helpers import at, run, turned

RED, BLUE = (200 / 255, 20 / 255, 30 / 255), (10 / 255, 20 / 255, 250 / 255)


@pytest.fixture
def graph():
    graph = SceneGraph()
    graph.add("shelf", pose=turned(90))
    graph.add("shelf/red box", Box((0.4, 0.2, 0.1), color=RED), pose=at(1, 0, 0.5), scale=2.0, tags=("a",))
    graph.add("blue", Cylinder(0.1, 0.3, color=BLUE))
    graph.animate("blue", Track.keyframes([1, 3], [at(0), at(0, 2)]))
    graph.add("other", graph["blue"].field, pose=at(-1))
    graph.add("lamp", light=PointLight((0, 0, 0)))
    return graph


def test_a_ply_holds_all_objects_in_the_world_at_a_time(graph, tmp_path):
    notes = export_scene(graph, tmp_path / "all.ply", time=2.0)
    mesh = trimesh.load(tmp_path / "all.ply", process=False)
    assert np.allclose(mesh.bounds, [[-1.1, -0.1, -0.15], [0.2, 1.4, 0.6]], atol=1e-3)
    p = torch.tensor(mesh.vertices).float()
    assert float(graph.at(2.0).query(p).sdf.abs().max()) < 1e-3
    colors = {tuple(c) for c in mesh.visual.vertex_colors[:, :3].tolist()}
    assert colors == {(200, 20, 30), (10, 20, 250)}
    assert any("no motion" in note for note in notes) and any("2 groups, lights" in note for note in notes)


def test_an_obj_names_its_objects(graph, tmp_path):
    export_scene(graph, tmp_path / "all.obj", time=1.0)
    text = (tmp_path / "all.obj").read_text()
    assert [line for line in text.splitlines() if line[0] in "og"] == [
        line for name in ("shelf/red_box", "blue", "other") for line in (f"o {name}", f"g {name}")
    ]
    rows = [line.split() for line in text.splitlines() if line.startswith("v ")]
    assert {tuple(np.rint(255 * np.array(row[4:], float)).astype(int)) for row in rows} == {
        (200, 20, 30),
        (10, 20, 250),
    }
    mesh = trimesh.load(tmp_path / "all.obj", force="mesh")
    assert np.allclose(mesh.bounds, [[-1.1, -0.1, -0.15], [0.2, 1.4, 0.6]], atol=1e-3)


def test_a_folder_holds_each_shape_once_and_poses_over_time(graph, tmp_path):
    export_scene(graph, tmp_path / "parts")
    listed = json.loads((tmp_path / "parts/objects.json").read_text())
    assert (listed["time"], listed["span"], listed["up"]) == (1.0, [1.0, 3.0], "z")
    box, blue, other = listed["objects"]
    assert [entry["path"] for entry in listed["objects"]] == ["shelf/red box", "blue", "other"]
    assert sorted(f.name for f in (tmp_path / "parts/meshes").iterdir()) == ["blue.ply", "shelf-red_box.ply"]
    assert blue["mesh"] == other["mesh"] == "meshes/blue.ply" and (box["scale"], box["tags"]) == (2.0, ["a"])
    assert box["translation"] == pytest.approx([0, 1, 0.5]) and "keys" not in box
    assert blue["keys"]["times"] == [1, 3] and blue["keys"]["translation"] == [[0, 0, 0], [0, 2, 0]]
    mesh = trimesh.load(tmp_path / "parts/meshes/shelf-red_box.ply")
    assert np.allclose(mesh.extents, [0.4, 0.2, 0.1]) and mesh.is_watertight


def test_meshes_of_odd_names_get_files_of_their_own(tmp_path):
    graph, path = SceneGraph(), ""
    for name in ("ä" * 150, "b" * 200, "..", "x: y?"):
        path = f"{path}/{name}".strip("/") if name != ".." else path
        if path not in graph:
            graph.add(path)
    for k, name in enumerate(("a b", "a_b", "A b", "a;b")):
        graph.add(f"{path}/{name}", Box((0.1, 0.1, 0.1 + 0.01 * k)))
    export_scene(graph, tmp_path / "parts")
    listed = json.loads((tmp_path / "parts/objects.json").read_text())["objects"]
    files = [entry["mesh"].casefold() for entry in listed]
    assert len(set(files)) == 4 and all((tmp_path / "parts" / entry["mesh"]).is_file() for entry in listed)
    heights = [trimesh.load(tmp_path / "parts" / entry["mesh"]).extents[2] for entry in listed]
    assert np.allclose(heights, [0.1, 0.11, 0.12, 0.13])


def test_a_tolerance_is_metres_in_the_world(tmp_path):
    def faces(scale, tolerance):
        graph = SceneGraph()
        graph.add("a", Sphere(0.5) - Sphere(0.3), scale=scale)
        export_scene(graph, tmp_path / "a.ply", tolerance=tolerance)
        return len(trimesh.load(tmp_path / "a.ply").faces)

    assert faces(10.0, 0.1) == faces(1.0, 0.01) < faces(1.0, 0.001) == faces(10.0, 0.01)


def test_parts_of_a_background_have_half_as_fine_a_tolerance(tmp_path):
    ball = Sphere(0.5)
    edge = float(ball.bounds.size.max())

    def faces(tags, tolerance=None):
        graph = SceneGraph()
        graph.add("place", tags=tags)
        graph.add("place/part", ball)
        export_scene(graph, tmp_path / "a.ply", tolerance=tolerance)
        return len(trimesh.load(tmp_path / "a.ply").faces)

    assert faces([]) == faces([], 0.001 * edge) > faces(["background"]) == faces([], 0.002 * edge)


def test_a_deforming_object_is_shown_as_it_is_at_the_time(tmp_path):
    bar = Box((0.2, 0.2, 1.0), color=RED)
    box = Aabb([-0.3, -0.3, -0.6], [0.3, 0.3, 0.6])
    graph = SceneGraph()
    graph.add("bar", Warped(bar, Twist(box, (0, 0, 1), (0, 0, 0), (0, 1), (0, 1.5))), pose=at(0, 0, 1))
    faces = []
    for time in (0.0, 1.0):
        notes = export_scene(graph, tmp_path / "a.ply", time=time, tolerance=0.004)
        assert sum("deforming objects are shown as they are" in note for note in notes) == 1
        mesh = trimesh.load(tmp_path / "a.ply")
        assert float(graph.at(time).query(torch.tensor(mesh.vertices).float()).sdf.abs().max()) < 4e-3
        faces.append(mesh)
    assert mesh.is_watertight and faces[0].volume == pytest.approx(mesh.volume, rel=0.02)
    assert faces[0].extents[0] < 0.21 < 0.22 < mesh.extents[0]


def test_bad_input_says_what_is_wrong(graph, tmp_path):
    def message(path, scene=graph, **more):
        with pytest.raises(ValueError, match=r".+") as error:
            export_scene(scene, path, **more)
        return str(error.value)

    assert "did you mean '.glb'" in message(tmp_path / "a.gltf")
    assert "expected a name that ends in .glb" in message(tmp_path / "a.scene")
    assert "there is no folder" in message(tmp_path / "none/a.glb")
    (tmp_path / "b.glb").mkdir()
    assert "expected a file, got the folder" in message(tmp_path / "b.glb")
    (tmp_path / "file").touch()
    assert "or a folder, got the file" in message(tmp_path / "file")
    assert "tolerance: expected metres above 0" in message(tmp_path / "a.glb", tolerance=-1)
    assert "tolerance" in message(tmp_path / "a.glb", tolerance=math.nan)
    assert "time" in message(tmp_path / "a.glb", time=math.inf)
    assert "expected a SceneGraph" in message(tmp_path / "a.glb", scene="a.scene")
    assert "no visible nodes" in message(tmp_path / "a.glb", scene=SceneGraph())
    for path in ("shelf", "blue", "other"):
        graph.hide(path)
    assert "no visible objects" in message(tmp_path / "a.ply")
    graph.add("nothing", Sphere(0.1) - Sphere(0.2))
    assert message(tmp_path / "a.glb").startswith("nothing: it has no inside")
    assert not list(tmp_path.glob("a.*"))


def test_the_verb_writes_and_says_what_it_left_out(graph, tmp_path, capsys):
    save_scene(graph, tmp_path / "a.scene")
    scene = f"scene={tmp_path / 'a.scene'}"
    code, out, _ = run(capsys, "export", scene, f"out={tmp_path / 'new/a.glb'}", "tolerance=0.005")
    assert code == 0 and "Back: sirenscape build" in out and (tmp_path / "new/a.glb").is_file()
    code, out, _ = run(capsys, "export", scene, f"out={tmp_path / 'folder'}/", "time=2")
    assert code == 0 and "note: 2 groups, lights and cameras" in out and (tmp_path / "folder/objects.json").is_file()
    for arguments, text in (
        (
            [f"out={tmp_path / 'a.glp'}", scene],
            "out: expected one of .glb, .usda, .usdc, .ply, .obj, got '.glp'; did you mean '.glb'?",
        ),
        ([scene], "out: expected out=NAME.glb"),
        (
            [f"out={tmp_path / 'all'}", scene],
            "out: expected a name that ends in .glb, .usda, .usdc, .ply, .obj, or a folder",
        ),
        ([f"out={tmp_path / 'a.scene/a.glb'}", scene], "outside the scene"),
        ([f"out={tmp_path / 'a.glb'}", f"scene={tmp_path / 'b.scene'}"], "there is no"),
        ([f"out={tmp_path / 'a.glb'}", scene, "tolerance=x"], "tolerance: expected a number"),
    ):
        code, _, err = run(capsys, "export", *arguments)
        assert code == 2 and text in err
