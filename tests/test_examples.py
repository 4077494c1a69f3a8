"""The examples run and say what they should."""

import runpy
import sys
from pathlib import Path

from rendering import load_png

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


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
