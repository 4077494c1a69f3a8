"""The verbs build, edit, render and info, as a user types them."""

import json
from xml.etree import ElementTree

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from pygltflib import GLTF2

from objects import SE3, Bend, Capsule, Sphere, Twist, Warped, save_field
from rendering import Camera, PointLight, load_depth_png, load_png, render
from scenes import SceneGraph, Track, load_scene, save_scene
from scenes.cli import main
from tests.scenes.helpers import run

ROOM = """
nodes:
  table:
    shape: {kind: box, size: [1, 0.6, 0.1], color: [0.5, 0.3, 0.2]}
    position: [0, 0, 0.5]
    children:
      ball: {shape: {kind: sphere, radius: 0.15, color: [0.9, 0.1, 0.1]}, position: [0.2, 0, 0.2]}
      twin: {shape: {kind: sphere, radius: 0.15, color: [0.9, 0.1, 0.1]}, position: [-0.2, 0, 0.2]}
  lamp: {light: {kind: point, intensity: 4}, position: [1, -1, 2]}
  front: {camera: {target: [0, 0, 0.5], width: 64, height: 48}, position: [0, -2, 1]}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "room.yaml").write_text(ROOM)
    assert main(["build", "scene=room.yaml", "out=room.scene"]) == 0
    return tmp_path


def size(path):
    return tuple(load_png(path).shape[:2])


def test_build_makes_a_scene_of_a_description(folder, capsys):
    code, out, _ = run(capsys, "build", "scene=room.yaml", "out=again.scene", "summary=s.json")
    assert code == 0
    assert "again.scene" in out
    assert "sirenscape render scene=again.scene" in out
    graph = load_scene("again.scene")
    assert list(graph) == ["table", "table/ball", "table/twin", "lamp", "front"]
    assert graph == load_scene("room.scene")
    assert graph.log == ["build from room.yaml"]
    summary = json.loads((folder / "s.json").read_text())
    assert summary["rows"][0]["fields"] == 2


def test_build_takes_a_glb_and_says_what_it_changed(folder, capsys):
    from pygltflib import Camera as GltfCamera
    from pygltflib import Node, Perspective, Scene

    gltf = GLTF2(
        scene=0,
        scenes=[Scene(nodes=[0])],
        nodes=[Node(name="top", children=[1]), Node(name="eye", camera=0, translation=[0, 1, 0])],
        cameras=[GltfCamera(type="perspective", perspective=Perspective(yfov=0.8, znear=0.1, aspectRatio=1.5))],
    )
    gltf.save("small.gltf")
    assert run(capsys, "build", "scene=small.gltf", "out=small.scene")[0] == 0
    graph = load_scene("small.scene")
    assert list(graph) == ["top", "top/eye"]
    np.testing.assert_allclose(graph.camera_at("top/eye").position_world, (0, 0, 1), atol=1e-12)  # y up becomes z up


@pytest.mark.filterwarnings("default:.*changes nothing")  # shown, not raised
def test_edit_says_what_changes_nothing(folder, capsys):
    code, out, err = run(capsys, "edit", "scene=room.scene", "do=hide lamp; hide lamp; show table")
    assert code == 0 and err.count("this changes nothing") == 2 and "note: hide lamp: this" in err
    assert "undo 1" in out and load_scene("room.scene").history[0] == ["hide lamp"]
    code, out, err = run(capsys, "edit", "scene=room.scene", "do=hide lamp")
    assert code == 0 and "note: hide lamp: this changes nothing" in err and "undo" not in out


def test_edit_changes_the_scene_in_place_or_writes_another(folder, capsys):
    before = load_scene("room.scene")
    code, out, _ = run(
        capsys, "edit", "scene=room.scene", "out=b.scene", "do=move table by 0 0 1; rename table/ball to b"
    )
    assert code == 0
    assert "move table by 0 0 1" in out
    assert "do='undo 2'" in out
    assert load_scene("room.scene") == before
    assert "table/b" in load_scene("b.scene")
    assert run(capsys, "edit", "scene=b.scene", "do=undo 2")[0] == 0
    assert load_scene("b.scene") == before
    assert run(capsys, "edit", "scene=b.scene", "do=redo")[0] == 0
    np.testing.assert_allclose(load_scene("b.scene").pose("table")[0].translation, (0, 0, 1.5))


def test_a_long_script_is_no_file_name(folder, capsys):
    assert run(capsys, "edit", "scene=room.scene", "do=" + "move table by 0.01 0 0; " * 60, "summary=s.json")[0] == 0
    assert abs(load_scene("room.scene").pose("table")[0].translation[0] - 0.6) < 1e-9


def test_a_film_of_a_scene_at_a_late_time_starts_there(folder, capsys):
    graph = SceneGraph()
    track = Track.keyframes([1.7e9, 1.7e9 + 2], SE3.from_translation(torch.eye(3, dtype=torch.float64)[:2]))
    graph.add("ball", Sphere(0.3), track=track)
    save_scene(graph, "late.scene")
    small = ["camera.width=16", "camera.height=16", "fps=2"]
    assert run(capsys, "render", "scene=late.scene", "out=l.mp4", *small)[0] == 0
    assert imageio_ffmpeg.count_frames_and_secs("l.mp4")[0] == 4
    code, _, err = run(capsys, "render", "scene=late.scene", "out=m.mp4", "time=0", *small)
    assert code == 2
    assert "time= and seconds=" in err


def test_render_writes_a_picture_of_the_named_camera(folder, capsys):
    assert run(capsys, "render", "scene=room.scene", "out=new/a.png")[0] == 0
    graph = load_scene("room.scene")
    want = render(graph.at(), graph.camera_at("front"), lights=graph.lights_at())
    got = load_png("new/a.png")
    assert size("new/a.png") == (48, 64)
    assert (got - want.rgb).abs().max() < 0.003
    assert got[:, :, 0].std() > 0.1


def test_render_layers_go_to_files_of_their_own(folder, capsys):
    code, out, _ = run(
        capsys, "render", "scene=room.scene", "out=all/", "layers=[rgb,depth,depth_view,normal,owner,alpha]", "level=1"
    )
    assert code == 0, out
    assert sorted(p.name for p in (folder / "all").iterdir()) == [
        "alpha.png", "depth.png", "depth_view.png", "normal.png", "owner.png", "rgb.png", "transforms.json",
    ]  # fmt: skip
    graph = load_scene("room.scene")
    frame = render(graph.at(), graph.camera_at("front"))
    depth = load_depth_png("all/depth.png")
    assert torch.equal(torch.isfinite(depth), torch.isfinite(frame.depth))
    known = torch.isfinite(depth)
    assert (depth[known] - frame.depth[known]).abs().max() < 6e-4
    colours = load_png("all/owner.png").reshape(-1, 3).unique(dim=0)
    assert len(colours) == 2  # level 1: the table with what is on it, and nothing
    run(capsys, "render", "scene=room.scene", "out=b.png", "layers=rgb,owner")
    assert len(load_png("b-owner.png").reshape(-1, 3).unique(dim=0)) == 4
    assert (folder / "b.png").exists()


def test_render_takes_a_view_of_its_own(folder, capsys):
    arguments = [
        "camera.eye=[0,-3,0.5]",
        "camera.target=0,0,0.5",
        "camera.width=80",
        "camera.height=60",
        "camera.fov=30",
    ]
    assert run(capsys, "render", "scene=room.scene", "out=c.png", *arguments)[0] == 0
    want = render(
        load_scene("room.scene").at(),
        Camera.look_at((0, -3, 0.5), (0, 0, 0.5), 80, 60, 30),
        lights=load_scene("room.scene").lights_at(),
    )
    assert (load_png("c.png") - want.rgb).abs().max() < 0.003
    assert run(capsys, "render", "scene=room.scene", "out=d.png", "camera.width=128")[0] == 0
    assert size("d.png") == (96, 128)  # the named camera's shape


def test_a_film_follows_the_scenes_time_or_goes_round(folder, capsys):
    assert run(capsys, "render", "scene=room.scene", "out=o.mp4", "seconds=0.5", "fps=4")[0] == 0
    assert imageio_ffmpeg.count_frames_and_secs("o.mp4")[0] == 2
    run(capsys, "edit", "scene=room.scene", "do=move table/ball by 0 0 1 time 2")
    code, out, _ = run(capsys, "render", "scene=room.scene", "out=t.mp4", "fps=2", "camera.width=32")
    assert code == 0, out
    assert imageio_ffmpeg.count_frames_and_secs("t.mp4")[0] == 4  # two seconds


def test_a_film_of_what_loops_lasts_whole_rounds(folder, capsys):
    bar, bend = Capsule(0.05, 0.4), ((0, 0, 1), (1, 0, 0), (0, 0, 0), 0.3, (0, 1.5), (0, 2))
    graph = SceneGraph()
    graph.add("bar", Warped(bar, Bend(bar.bounds, *bend)))
    small = ["camera.width=16", "camera.height=16", "fps=2"]
    for loop, frames in ((False, 3), (True, 9)):  # 1.5 s; three rounds
        graph.set_clock("bar", loop=loop, offset=0.0 if loop else None, speed=1.0)
        save_scene(graph, "loop.scene")
        assert run(capsys, "render", "scene=loop.scene", "out=l.mp4", *small)[0] == 0
        assert imageio_ffmpeg.count_frames_and_secs("l.mp4")[0] == frames


def test_info_shows_a_field_file(folder, capsys):
    save_field(Sphere(0.5), "my ball.safetensors")
    code, out, _ = run(capsys, "info", "scene=my ball.safetensors")
    assert code == 0 and "my ball.safetensors: a field (sphere)" in out and "box with margin" in out
    bar = Capsule(0.05, 0.4)
    field = Warped(bar, Twist(bar.bounds, (0, 0, 1), (0, 0, 0), (0, 2), (0, 1)))
    field.measured = {"distance_pct": 0.25}
    save_field(field, "bar.safetensors")
    code, out, _ = run(capsys, "info", "scene=bar.safetensors")
    assert code == 0 and "bends from 0 s to 2 s" in out and "measured distance_pct: 0.25" in out
    assert run(capsys, "edit", "scene=room.scene", "do=add thing field 'my ball.safetensors'")[0] == 0
    for arguments, text in (("scene=none.safetensors", "no file"), ("scene=bar.safetensors sheet=a.png", "sheet: ")):
        code, _, err = run(capsys, "info", *arguments.split())
        assert code == 2 and text in err


def test_info_tells_tree_sizes_and_overlaps_and_draws_a_sheet(folder, capsys):
    run(capsys, "edit", "scene=room.scene", "do=move table/ball by 0 0 -0.1; tag table with wood; hide lamp")
    code, out, _ = run(capsys, "info", "scene=room.scene", "sheet=sheet.png", "summary=i.json")
    assert code == 0
    assert "room.scene: 5 nodes, 3 objects, 2 fields, 1 lights, 1 cameras" in out
    assert "table  (object, #wood)\n  ball  (object)\n  twin" in out
    assert "lamp  (light, hidden)" in out
    assert "overlap: table and table/ball, 100.0 mm deep" in out
    details = json.loads((folder / "i.json").read_text())
    assert details["tree"] == ["table", "table/ball", "table/twin", "lamp", "front"]
    assert [row["normal error deg"] for row in details["rows"]] == ["-", "-"]  # nothing was measured
    assert details["overlaps"][0]["first"] == "table"
    sheet = load_png("sheet.png")
    assert sheet.shape[1] == 2 * 320 + 4
    assert sheet[:240, :320].std() > 0.05


def test_info_draws_the_graph(folder, capsys):
    do = "move table/ball by 0 0 1 time 2; reparent table/twin to / from 1.5; tag table with wood <&>; hide lamp"
    code, _, err = run(capsys, "edit", "scene=room.scene", f"do={do}")
    assert code == 0, err
    code, _, err = run(capsys, "info", "scene=room.scene", "graph=pictures/graph.svg")
    assert code == 0, err
    svg = ElementTree.parse(folder / "pictures/graph.svg").getroot()
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    nodes = ["table  #<&>  #wood", "ball  (2 of this shape)", "twin  (2 of this shape)", "lamp  hidden", "front"]
    assert [text for text in texts if text in nodes] == nodes
    assert "until 1.5 s" in texts and "2 s" in texts
    code, _, err = run(capsys, "info", "scene=room.scene", "graph=graph.png")
    assert code == 2 and "graph: expected a name that ends in .svg" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "out=a.scene"], "expected scene=NAME.scene, a .yaml or a .glb"),
        (["build", "scene=roam.yaml", "out=a.scene"], "did you mean 'room.yaml'"),
        (["build", "scene=room.yaml"], "out=NAME.scene"),
        (["build", "scene=room.yaml", "out=a"], "ends in .scene"),
        (["build", "scene=room.txt", "out=a.scene"], "there is no 'room.txt'"),
        (["build", "scene=empty.yaml", "out=a.scene"], "is empty"),
        (["build", "scene=note.txt", "out=a.scene"], "ends in .yaml, .glb or .gltf"),
        (["build", "scene=room.yaml", "out=a.scene", "seed=-1"], "0 or more"),
        (["build", "scene=room.scene", "out=room.scene"], "is also the input"),
        (["edit", "scene=room.scene"], "expected edits"),
        (["edit", "scene=room.yaml", "do=undo"], "build a scene of it first"),
        (["edit", "scene=room.scene", "do=move tabel by 0 0 1"], "did you mean 'table'"),
        (["edit", "scene=room.scene", "do=mve table by 0 0 1"], "did you mean 'move'"),
        (["edit", "scene=room.scene", "do=remove table; remove table"], "no node 'table'"),
        (["edit", "scene=rom.scene", "do=undo"], "did you mean 'room.scene'"),
        (["edit", "scene=.", "do=undo"], "without a scene.json"),
        (["render", "scene=room.scene"], "expected out=FILE.png"),
        (["render", "scene=room.scene", "out=a.jpg"], ".png or .mp4"),
        (["render", "scene=room.scene", "out=room.scene/a.png"], "outside the scene"),
        (["render", "scene=room.scene", "out=a.png", "layers=[rgb,dept]"], "got 'dept'"),
        (["render", "scene=room.scene", "out=a.png", "layers="], "one or more of"),
        (["render", "scene=room.scene", "out=a.mp4", "layers=[rgb,normal]"], "for a film"),
        (["render", "scene=room.scene", "out=a.png", "camera.eye=1,2"], "3 numbers such as [1,2,3]"),
        (["render", "scene=room.scene", "out=a.png", "camera.nam=x"], "did you mean 'camera.name'"),
        (["render", "scene=room.scene", "out=a.png", "camera.name=table"], "there is front"),
        (["render", "scene=room.scene", "out=a.png", "camera.name=front", "camera.eye=1,2,3"], "got both"),
        (["render", "scene=room.scene", "out=a.png", "camera.width=0"], "whole number from 1"),
        (["render", "scene=room.scene", "out=a.png", "antialias=0"], "antialias"),
        (["render", "scene=room.scene", "out=a.png", "background=1,2,3"], "background"),
        (["render", "scene=room.scene", "out=a.mp4", "clip=spin"], "auto, orbit, time, both"),
        (["render", "scene=room.scene", "out=a.mp4", "seconds=-1"], "above 0"),
        (["render", "scene=room.scene", "out=a.png", "level=-1"], "level"),
        (["info", "scene=room.scene", "sheet=a.txt"], "ends in .png"),
        (["info", "scene=room.scene", "sheet=room.scene/a.png"], "outside the scene"),
        (["info", "scene=room.scene", "summary=room.scene/scene.json"], "inside it"),
        (["render", "scene=room.scene", "out=a.png", "summary=a.png"], "is also out="),
        (["render", "scene=room.scene", "out=a.png", "time=soon"], "time: expected a number"),
        (["info", "scene=room.scene", "min_depth=-1"], "0 or more"),
        (["info"], "expected scene=NAME.scene"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_changes_nothing(folder, capsys, arguments, message):
    (folder / "empty.yaml").write_text("")
    (folder / "note.txt").write_text("hello")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    code, out, err = run(capsys, *arguments)
    assert code == 2, out
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_scene_without_camera_or_light_is_seen_whole(folder, capsys):
    graph = SceneGraph()
    graph.add("a", Sphere(0.5, color=(0.2, 0.8, 0.3)), pose=SE3.from_translation([5.0, 0, 0]))
    graph.add("b", Sphere(0.5), pose=SE3.from_translation([9.0, 3, 0]))
    save_scene(graph, "two.scene")
    assert (
        run(capsys, "render", "scene=two.scene", "out=two.png", "layers=owner", "camera.width=120", "camera.height=90")[
            0
        ]
        == 0
    )
    assert len(load_png("two.png").reshape(-1, 3).unique(dim=0)) == 3
    border = torch.cat([load_png("two.png")[[0, -1]].reshape(-1, 3), load_png("two.png")[:, [0, -1]].reshape(-1, 3)])
    assert border.max() == 0  # nothing is cut off
    save_scene(SceneGraph(), "none.scene")
    assert run(capsys, "render", "scene=none.scene", "out=none.png", "camera.width=20", "camera.height=10")[0] == 0
    assert load_png("none.png").min() == 1
    assert run(capsys, "info", "scene=none.scene")[0] == 0


@pytest.mark.parametrize("verb", ["build", "edit", "render", "info"])
def test_help_shows_every_key_with_its_default_and_meaning(verb, capsys):
    from scenes.paths import defaults_of

    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    for key in defaults_of(verb):
        row = next(line for line in out.splitlines() if line.startswith(f"{key} "))
        assert len(row.split()) > 3, row
    if verb == "edit":
        assert "move PATH by|to X Y Z" in out


def test_a_scene_that_moves_on_a_track_is_rendered_at_its_time(folder, capsys):
    graph = SceneGraph()
    track = Track.keyframes([0, 1], SE3.from_translation(torch.tensor([[-1.0, 0, 0], [1, 0, 0]])))
    graph.add("ball", Sphere(0.3), track=track)
    graph.add("lamp", light=PointLight((0, -3, 3)))
    save_scene(graph, "ball.scene")
    view = ["camera.eye=0,-4,0", "camera.target=0,0,0", "camera.width=40", "camera.height=30", "layers=alpha"]
    centre = []
    for time in (0, 0.5, 1):
        assert run(capsys, "render", "scene=ball.scene", "out=t.png", f"time={time}", *view)[0] == 0
        alpha = load_png("t.png")[..., 0]
        centre.append(float((alpha.sum(0) * torch.arange(40)).sum() / alpha.sum()))
    assert centre[0] < 15 < 19 < centre[1] < 20 < 24 < centre[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "mesh=room.yaml", "out=new/deep/"],
        ["fit", "mesh=nothing.obj", "out=new/a.safetensors"],
        ["fit", "images=new", "out=new/deep/"],
        ["build", "scene=bad.yaml", "out=new/a.scene"],
        ["build", "scene=roam.yaml", "out=new/a.scene", "summary=sums/a.json"],
        ["edit", "scene=room.scene", "out=new/a.scene", "do=remove tabel"],
        ["edit", "scene=room.scene", "do=remove tabel", "summary=sums/a.json"],
        ["render", "scene=room.scene", "out=new/a.png", "camera.name=table", "summary=sums/b.json"],
        ["render", "scene=room.scene", "out=new/", "layers=rgb,ids", "background=7,7,7"],
        ["render", "scene=room.scene", "out=new/a.mp4", "camera.eye=1,2"],
        ["render", "scene=room.scene", "out=new/", "dataset=bop", "level=2"],
        ["info", "scene=room.scene", "sheet=new/a.png", "min_depth=-1"],
    ],
)  # fmt: skip
def test_a_refusal_leaves_no_empty_folders(folder, capsys, arguments):
    (folder / "bad.yaml").write_text("nodes: {a: {shape: {kind: sphere}}}")
    before = sorted(folder.rglob("*"))
    assert run(capsys, *arguments)[0] == 2
    assert sorted(folder.rglob("*")) == before


def test_missing_folders_are_made_when_something_is_written(folder, capsys):
    assert run(capsys, "build", "scene=room.yaml", "out=new/deep/a.scene", "summary=sums/a.json")[0] == 0
    assert run(capsys, "render", "scene=new/deep/a.scene", "out=more/", "layers=ids", "camera.width=16")[0] == 0
    assert (folder / "sums/a.json").is_file() and (folder / "more/ids.png").is_file()


def test_after_an_error_only_the_empty_folders_it_made_go(tmp_path):
    from scenes.paths import folder_for

    (tmp_path / "old").mkdir()

    def interrupted():
        with folder_for(tmp_path / "old/new/deep/a.png", tmp_path / "kept/b.png"):
            (tmp_path / "kept/b.png").write_text("done")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "kept",
        "kept/b.png",
        "old",
    ]


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(folder, capsys):
    (folder / "file").write_text("in the way")
    for arguments in (
        ["render", "scene=room.scene", "out=file/a.png"],
        ["build", "scene=room.yaml", "out=file/a.scene"],
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert "a file is in the way" in err
