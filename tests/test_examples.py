"""The examples run and say what they should."""

import runpy
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import trimesh

from examples import demo_bend, demo_video
from examples.small_objects import SMALL, find_things, learn_each, learn_things, read_thing
from examples.stand import Exhibit, build, lift_out
from objects import Aabb, Capsule, FitConfig, SirenField, Twist, Warped, load_field
from rendering import load_png
from scenes.io import read_scene
from scenes.video import ClipConfig
from tests.scenes.video.clips import at, clip_of_boxes, looking

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def test_the_scene_example_moves_the_cup_onto_the_tray(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["01_scene.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "01_scene.py"))
    assert "the same after loading: True" in capsys.readouterr().out
    first, second, third = (load_png(tmp_path / f"cup-{t}s.png") for t in (0, 1, 2))
    assert (first - second).abs().max() > 0.2
    assert (second - third).abs().max() > 0.2


def test_the_questions_example_gives_the_right_answers(capsys):
    runpy.run_path(str(EXAMPLES / "02_questions.py"))
    assert capsys.readouterr().out.splitlines() == [
        "closest: ['ball', 'crate'] [0.005, -0.04]",
        "in the middle of the picture: ball",
        "between ball and crate: 0.200 m",
        "floor and crate overlap by 10 mm",
        "toys in the box: ['crate']",
    ]


def test_the_export_example_writes_files_that_say_what_they_lack(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["03_export.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "03_export.py"))
    names = {file.name for file in tmp_path.rglob("*.*")}
    assert names == {
        "table.glb",
        "table.obj",
        "objects.json",
        *(f"table{n}.ply" for n in ("", "-ring", "-ball", "-reed")),
    }
    assert capsys.readouterr().out.startswith("table.glb\ntable.obj\n  deforming objects")


def test_the_edit_example_moves_undoes_and_remembers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["04_edit.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "04_edit.py"))
    assert capsys.readouterr().out.splitlines() == [
        "the cup fell 22.5 cm",
        "overlaps among cups: 0",
        "dishes: ['table/dishes/cup', 'table/dishes/cup-2', 'table/dishes/cup-3']",
        "after undo: 3 dishes",
        "undone after loading: True",
    ]


def test_the_render_example_writes_layers_a_data_set_and_a_film(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["05_render.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "05_render.py"))
    table, cup, ball, *counts = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in (table, cup, ball)] == ["table", "table/cup", "table/ball"]
    assert counts == ["a set of 8 pictures with depth", "a film of 9 pictures"]
    assert load_png(tmp_path / "layers.png").shape == (364, 484, 3)
    assert (tmp_path / "ball.mp4").stat().st_size > 1000


def test_the_viewer_example_serves_while_the_program_edits(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["06_view.py", "0.7", "0"])
    names = runpy.run_path(str(EXAMPLES / "06_view.py"))
    assert capsys.readouterr().out.startswith("open http://127.0.0.1:")
    assert len(names["scene"].history[0]) > 6


def test_the_decompose_example_takes_a_clip_apart(tmp_path, monkeypatch, capsys):
    half, poses = np.array([0.06, 0.05, 0.04]), np.stack([at(0, 0, 0.04)] * 3)
    clip, _ = clip_of_boxes([(half, poses)], np.stack([looking((0.35, -0.5, 0.45))] * 3))
    monkeypatch.setattr("scenes.video.clip.load_clip", lambda folder: clip)
    monkeypatch.setattr("scenes.video.learning.ClipConfig", partial(ClipConfig, steps=50, color_steps=30))
    monkeypatch.setattr(sys, "argv", ["07_decompose.py", "clip", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "07_decompose.py"))
    assert capsys.readouterr().out.splitlines() == ["nodes: background camera"]
    assert {file.name for file in tmp_path.iterdir()} == {"clip.scene", "clip.png"}


def test_the_film_of_the_demo_shows_three_things_that_fall():
    graph, times = demo_video.fall()
    assert len(times) == demo_video.N
    for name in ("crate", "book", "can"):
        first, last = (graph.pose(name, float(t))[0].translation[2] for t in (times[0], times[-1]))
        assert 0.01 < float(last) < float(first) - 0.03
    assert len(graph.lights_at(0.0)) == 2


def test_the_ducks_of_the_demo_run_at_phases_of_their_own_beside_an_animal_with_a_skin(tmp_path):
    small = FitConfig(width=24, color_width=8, steps=300, spread=1, pool=8192, batch=512, mend_rounds=0)
    demo_bend.write_walker(tmp_path / "walker.glb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few steps make a draft at most
        walker, notes = read_scene(tmp_path / "walker.glb", config=small)
    assert notes == []
    rod = Capsule(0.05, 0.2)
    scene = demo_bend.build(Warped(rod, Twist(rod.bounds, (0, 0, 1), (0, 0, 0), (0, 2), (0, 3))), walker)
    bending = [scene[path] for path in scene if scene[path].field is not None and scene[path].field.deforms]
    assert len(bending) == 23
    assert len({node.clock.offset for node in bending if node.path.startswith("pond/")}) == 20
    (animal,) = [node for node in bending if node.path.startswith("walker")]
    assert animal.clock.loop
    assert animal.field.span == (0.0, 1.0)
    legs = [scene.mesh(animal.path, time).vertices for time in (0.0, 0.25)]
    assert np.abs(legs[1] - legs[0]).max() > 0.05


URDF = """<robot name="x"><link name="baseLink"><visual><geometry><mesh filename="{name}.obj" scale="0.1 0.1 0.1"/></geometry>
<material name="m"><color rgba="{color} 1"/></material></visual></link></robot>"""


def test_small_objects_are_learned_in_processes_once_and_one_that_is_broken_is_named(tmp_path, monkeypatch):
    for name, color in (("ball", "1 0 0"), ("block", "0 0 1"), ("broken", "0 1 0")):
        folder = tmp_path / "urdfs" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.urdf").write_text(URDF.format(name=name, color=color))
        mesh = {"ball": trimesh.creation.icosphere(2), "block": trimesh.creation.box((2, 1, 1))}.get(name)
        text = "v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n" if mesh is None else mesh.export(file_type="obj")
        (folder / f"{name}.obj").write_text(text)
    things = find_things(tmp_path / "urdfs")
    assert things[0][0::2] == ("ball", 0.1)
    config = replace(SMALL, steps=300, mend_rounds=0)
    rows = learn_things(things, tmp_path / "fields", batch=2, processes=2, config=config)
    assert "finite" in rows["broken"]["reason"]
    assert min(rows["ball"]["iou"], rows["block"]["iou"]) > 0.8
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "another cache"))
    (again,) = learn_each([read_thing(things[0])], config)  # alone and in this process: the same bits
    for a, b in zip(again.parameters(), load_field(rows["ball"]["file"]).parameters(), strict=True):
        assert torch.equal(a, b)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "fields").iterdir()}
    assert learn_things(things, tmp_path / "fields", batch=2, processes=2, config=config) == rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "fields").iterdir()} == before


def test_the_stand_holds_all_its_exhibits_in_the_picture():
    fields = [SirenField(Aabb(-torch.ones(3), torch.tensor([1.0, 1.0, 1.0 + 0.1 * k])), width=8) for k in range(30)]
    graph = build([Exhibit(f"{k:02d}", field, (k / 30, 0.5, 0.2)) for k, field in enumerate(fields)])
    paths = graph.children("stand/objects")
    assert len(paths) == 30
    middles = torch.stack([graph.pose(path)[0].translation for path in paths])
    uv, _ = graph.camera_at("camera").project(middles)
    assert bool(((uv > 0) & (uv < torch.tensor([640.0, 480.0]))).all())
    lifted = lift_out(graph, 2.0)
    assert 0.0 <= graph.span[0] < graph.span[1] <= 2.0
    assert graph[lifted].moves
