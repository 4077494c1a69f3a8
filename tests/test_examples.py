"""The examples run and say what they should."""

import re
import runpy
import sys
from pathlib import Path

import torch

from compose import Composite, Instance
from objects import SE3, Cylinder, Torus
from objects.setops import Placed
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
