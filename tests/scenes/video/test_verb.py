import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from scenes import load_scene
from scenes.cli import main
from scenes.video import learning
from tests.scenes.video.clips import at, clip_of_boxes, looking


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip in which nothing moves, as files."""
    half, poses = np.array([0.06, 0.05, 0.04]), np.stack([at(0, 0, 0.04)] * 3)
    clip, _ = clip_of_boxes([(half, poses)], np.stack([looking((0.35, -0.5, 0.45))] * 3))
    root = tmp_path_factory.mktemp("clip")
    frames = []
    for t in range(3):
        Image.fromarray(clip.rgb[t]).save(root / f"{t}.png")
        Image.fromarray(np.rint(clip.depth[t] * 1000).astype(np.uint16)).save(root / f"d{t}.png")
        pose = (clip.cameras[t] @ np.diag([1, -1, -1, 1])).tolist()
        names = {"file_path": f"{t}.png", "depth_file_path": f"d{t}.png"}
        frames.append({**names, "time": t / 30, "transform_matrix": pose})
    fx, fy, cx, cy = clip.lens.tolist()
    head = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "frames": frames}
    (root / "transforms.json").write_text(json.dumps(head))
    return root


def test_decompose_writes_ids_poses_and_cameras_and_says_what_it_found(folder, tmp_path, capsys):
    out = tmp_path / "a b.scene"
    assert main(["decompose", f"video={folder}", f"out={out}", "until=motion"]) == 0
    said = capsys.readouterr().out
    assert "nothing moves" in said and "3 frames: 0 moving objects" in said
    made = out / "decomposition"
    assert len(list((made / "masks").glob("*.png"))) == 3
    assert json.loads((made / "objects.json").read_text())["objects"] == []
    assert len(json.loads((made / "cameras.json").read_text())["frames"]) == 3
    assert main(["info", f"scene={out}"]) == 2
    assert "holds what decompose found" in capsys.readouterr().err


def test_a_clip_in_which_nothing_moves_becomes_a_scene_of_its_background(folder, tmp_path, capsys, monkeypatch):
    quick = partial(learning.ClipConfig, steps=100, color_steps=50)
    monkeypatch.setattr(learning, "ClipConfig", quick)
    out = tmp_path / "still.scene"
    assert main(["decompose", f"video={folder}", f"out={out}"]) == 0
    said = capsys.readouterr().out
    assert "nothing moves" in said and "psnr: " in said
    assert list(load_scene(out)) == ["background", "camera"]
    names = {file.name for file in (out / "decomposition").iterdir()}
    assert names == {"masks", "objects.json", "cameras.json", "report.html", "side_by_side.mp4"}
    assert main(["info", f"scene={out}"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=a.scene"], "video: expected video=FOLDER"),
        (["video=nowhere", "out=a.scene"], "there is no folder 'nowhere'"),
        (["video=.", "out=a"], "out: expected a name that ends in .scene, got 'a'"),
        (["video=.", "out=a.scene", "until=shapes"], "until: expected one of motion, scene, got 'shapes'"),
        (["video=.", "out=a.scene"], "out: expected a place outside the clip"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["decompose", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
