"""``sirenscape view``: what it says of bad input, and that it serves until Ctrl-C."""

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from objects import Sphere
from scenes import SceneGraph, save_scene
from tests.scenes.helpers import run

ROOT = Path(__file__).resolve().parents[3]


def saved(folder: Path) -> Path:
    scene = SceneGraph()
    scene.add("ball", Sphere(0.5))
    save_scene(scene, folder / "a.scene")
    return folder / "a.scene"


def test_bad_input_is_told_in_one_line(tmp_path, capsys):
    file = saved(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, told in (
            ((), "scene: expected scene=NAME.scene"),
            ((f"scene={tmp_path / 'b.scene'}",), "did you mean"),
            ((f"scene={file}", f"port={port}"), f"port: cannot listen at 127.0.0.1:{port}"),
            ((f"scene={file}", "host=256.1.1.1"), "port: cannot listen at 256.1.1.1"),
            ((f"scene={file}", f"save_as={tmp_path / 'none'}"), "save_as: expected a folder that can be written to"),
        ):
            code, _, err = run(capsys, "view", *arguments)
            assert code == 2
            assert told in err
            assert err.count("\n") == 1


# What a shell runs in the background is started with interrupts ignored.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from scenes.cli import main
sys.exit(main())
"""


def test_it_serves_until_ctrl_c(tmp_path):
    command = [sys.executable, "-c", PROGRAM, "view", f"scene={saved(tmp_path)}", "port=0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        try:
            first = program.stdout.readline()
            assert first.startswith("a.scene is at http://127.0.0.1:")
            with urllib.request.urlopen(first.split()[3], timeout=20) as answer:
                assert b"<html" in answer.read().lower()
            program.send_signal(signal.SIGINT)
            rest, _ = program.communicate(timeout=120)
        finally:
            program.kill()
    assert program.returncode == 0
    assert "not saved" in rest
