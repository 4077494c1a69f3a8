"""Sequences from folders: arrays, numbered files, points; what is odd is refused. And as a scene, by the command line."""

import json

import numpy as np
import pytest
import trimesh

from objects.warp_learning import PointFrame
from scenes import cli, load_scene
from scenes.io.sequence_files import read_sequence


def _boxes(n=4):
    base = trimesh.creation.box((0.2, 0.3, 0.6)).subdivide().subdivide()
    found = []
    for k in range(n):
        vertices = np.array(base.vertices)
        vertices[:, 0] += 0.3 * k / n * vertices[:, 2] ** 2
        found.append(trimesh.Trimesh(vertices, base.faces, process=False))
    return found


def _arrays(folder, n=4, **said):
    meshes = _boxes(n)
    np.save(folder / "vertices.npy", np.stack([m.vertices for m in meshes]).astype(np.float32))
    np.save(folder / "faces.npy", np.asarray(meshes[0].faces, np.int32))
    np.save(folder / "colors.npy", np.full((len(meshes[0].vertices), 3), 99, np.uint8))
    (folder / "sequence.json").write_text(json.dumps({"times": [0.5 * i for i in range(n)], "loop": False} | said))
    return meshes


def test_named_frames_of_arrays_with_their_times(tmp_path):
    meshes = _arrays(tmp_path)
    found = read_sequence(tmp_path, [1, 3])
    assert found.times == [0.5, 1.5]
    assert found.period is None
    assert np.allclose(found.frames[1].vertices, meshes[3].vertices, atol=1e-6)
    assert (found.frames[0].visual.vertex_colors[:, 0] == 99).all()


def test_a_loop_begins_again_one_frame_after_the_last(tmp_path):
    _arrays(tmp_path, loop=True)
    assert read_sequence(tmp_path, [0, 2]).period == pytest.approx(2.0)


def test_numbered_files_come_in_the_order_of_their_numbers(tmp_path):
    for number, mesh in zip((2, 10, 1), _boxes(3), strict=True):
        mesh.export(tmp_path / f"take_{number}.ply")
    found = read_sequence(tmp_path, fps=10)
    assert [path.name for path in found.frames] == ["take_1.ply", "take_2.ply", "take_10.ply"]
    assert found.times == pytest.approx([0.0, 0.1, 0.2])


def test_files_of_points_become_points(tmp_path):
    head = "ply\nformat ascii 1.0\nelement vertex 2\n"
    head += "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz")) + "end_header\n"
    for number in range(2):
        (tmp_path / f"{number}.ply").write_text(head + "0 0 0 0 0 1\n1 0 0 0 0 1\n")
    (frame, _), times, _ = read_sequence(tmp_path, fps=2)
    assert isinstance(frame, PointFrame)
    assert frame.points.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert times == [0.0, 0.5]


@pytest.mark.parametrize(
    ("frames", "said", "words"),
    [
        ([0, 9], {}, "numbers from 0 to 3"),
        ([2, 1], {}, "increasing"),
        (None, {"times": [0, 1]}, "4 finite times"),
        (None, {"times": [0, 1, 1, 2]}, "4 finite times"),
        (None, {"times": "soon"}, "times in seconds"),
    ],
)
def test_odd_sequences_are_refused(tmp_path, frames, said, words):
    _arrays(tmp_path, **said)
    with pytest.raises(ValueError, match=words):
        read_sequence(tmp_path, frames)


def test_frames_a_second_that_contradict_the_times_of_a_sequence_are_refused(tmp_path):
    _arrays(tmp_path)
    with pytest.raises(ValueError, match="leave fps out"):
        read_sequence(tmp_path, fps=10)


def test_a_folder_without_frames_or_times_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has neither"):
        read_sequence(tmp_path)
    _boxes(1)[0].export(tmp_path / "1.ply")
    with pytest.raises(ValueError, match="fps"):
        read_sequence(tmp_path)
    with pytest.raises(ValueError, match="expected a folder"):
        read_sequence(tmp_path / "nowhere")


def test_fit_says_what_a_sequence_lacks(tmp_path, capsys):
    _arrays(tmp_path)
    out = f"out={tmp_path / 'x.scene'}"
    for arguments, words in (
        ([out, "frames=0"], "at least 2 frames"),
        ([out, "frames=0,x"], "whole number"),
        (["out=x.ply"], "ends in .scene"),
        ([out, "width=20"], "not for sequence="),
    ):
        assert cli.main(["fit", f"sequence={tmp_path}", *arguments]) != 0
        assert words in capsys.readouterr().err


def test_fit_writes_a_scene_with_one_object_that_bends(tmp_path, capsys, monkeypatch):
    from objects import warp_learning
    from objects.mesh_samples import FitConfig

    _arrays(tmp_path, n=2)
    small = FitConfig(
        width=32,
        color_width=8,
        steps=500,
        spread=1,
        mend_rounds=0,
        pool=8192,
        batch=256,
        color_pool=512,
        color_batch=32,
    )
    config = warp_learning.SequenceConfig(nodes=12, points=300, dense=1000, anchors=200, mesh=small)
    monkeypatch.setattr("objects.SequenceConfig", lambda **_: config)
    assert (
        cli.main(["fit", f"sequence={tmp_path}", f"out={tmp_path / 'x.scene'}", f"summary={tmp_path / 's.json'}"]) == 0
    )
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert [row["time"] for row in rows] == [0.0, 0.5]
    assert all(row["off_pct"] < 2 for row in rows)
    (instance,) = load_scene(tmp_path / "x.scene").at(0.5).instances
    assert instance.name == "object"
    assert instance.field.own_warp().span == (0.0, 0.5)
