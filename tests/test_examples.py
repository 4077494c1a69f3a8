"""The examples run and say what they should."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import torch
import trimesh

from compose import Composite, Instance
from examples.small_objects import SMALL, find_things, learn_each, learn_things, read_thing
from examples.stand import Exhibit, build, lift_out
from objects import SE3, Aabb, Cylinder, SirenField, Torus, load_field
from objects.placed import Placed
from rendering import Camera, load_png, render

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


def test_the_gradient_of_the_readme_finds_where_a_mug_stands(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "SE3.exp(twist)" in block]
    assert code.count("\n") <= 9
    upright = SE3.from_axis_angle([1.0, 0, 0], torch.pi / 2)
    mug = Cylinder(0.04, 0.1) | Placed(Torus(0.03, 0.008), SE3.from_translation([0.05, 0, 0]) @ upright)
    true = SE3.from_translation([0.3, 0.2, 0.7]) @ SE3.from_axis_angle([0, 0, 1.0], 0.4)
    camera = Camera.look_at((0.5, -0.2, 1.0), (0.3, 0.2, 0.7), 80, 60, 25)
    names = {
        "torch": torch, "SE3": SE3, "Composite": Composite, "Instance": Instance, "mug": mug, "camera": camera,
        "depth": render(Composite([Instance("mug", mug, true)]), camera).depth,
        "guess": true @ SE3.from_translation([0.02, -0.015, 0.01]) @ SE3.from_axis_angle([0.3, 1.0, 0.5], 0.25),
    }  # fmt: skip
    (tmp_path / "readme.py").write_text(code)
    left = true.inverse() @ runpy.run_path(str(tmp_path / "readme.py"), names)["pose"]
    assert left.translation.norm() < 1e-3
    assert left.log()[3:].norm() < 0.02
