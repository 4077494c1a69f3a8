import json
import re

import numpy as np
import pytest
from PIL import Image

from rendering import load_views
from rendering.views import ViewError
from scenes.video import Clip, load_clip
from scenes.video.clip import check_for_cuts


def write(folder, n=3, *, size=(16, 12), depth_size=None, times=None, posed=True, blind=()):
    """A folder of small frames in the nerfstudio convention; frame i is grey of level 40 i."""
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    frames = []
    for i in range(n):
        Image.new("RGB", size, (40 * i,) * 3).save(folder / f"rgb/{i}.png")
        level = 0 if i in blind else 1000 + i
        Image.fromarray(np.full((depth_size or size)[::-1], level, np.uint16)).save(folder / f"depth/{i}.png")
        frame = {"file_path": f"rgb/{i}.png", "depth_file_path": f"depth/{i}.png"}
        if times is not None:
            frame["time"] = times[i]
        if posed is True or (posed == "some" and i == 0):
            frame["transform_matrix"] = np.eye(4).tolist()
        frames.append(frame)
    head = {"fl_x": 20.0, "fl_y": 20.0, "cx": size[0] / 2, "cy": size[1] / 2, "w": size[0], "h": size[1]}
    (folder / "transforms.json").write_text(json.dumps({**head, "frames": frames}))
    return folder


def test_a_clip_without_cameras_is_read_and_says_that_they_are_unknown(tmp_path):
    folder = write(tmp_path / "a", times=[0.0, 0.1, 0.2], posed=False)
    clip = load_clip(folder)
    assert clip.cameras is None
    assert clip.rgb.shape == (3, 12, 16, 3) and clip.depth.shape == (3, 12, 16)
    np.testing.assert_allclose(clip.depth[2], 1.002, atol=1e-6)
    with pytest.raises(ViewError, match="has no transform_matrix"):
        load_views(folder)


def test_cameras_come_with_opencv_axes(tmp_path):
    clip = load_clip(write(tmp_path / "a", times=[0.0, 0.1, 0.2]))
    np.testing.assert_allclose(clip.cameras[0], np.diag([1, -1, -1, 1]), atol=1e-12)


def test_frames_out_of_order_are_sorted_and_this_is_said(tmp_path):
    clip = load_clip(write(tmp_path / "a", times=[0.2, 0.0, 0.1]))
    assert clip.rgb[:, 0, 0, 0].tolist() == [40, 80, 0]
    assert any("sorted by their times" in note for note in clip.notes)


def test_frames_without_depth_are_named(tmp_path):
    clip = load_clip(write(tmp_path / "a", times=[0.0, 0.1, 0.2], blind=(1,)))
    assert any("1 frames have no depth, first rgb/1.png" in note for note in clip.notes)


def test_cameras_of_some_frames_alone_are_not_taken(tmp_path):
    clip = load_clip(write(tmp_path / "a", times=[0.0, 0.1, 0.2], posed="some"))
    assert clip.cameras is None
    assert any("some frames have cameras" in note for note in clip.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 1}, "at least 2 frames"),
        ({"blind": (0, 1, 2)}, "no depth in any frame"),
        ({"times": [0.0, 0.1, 0.1]}, "has the time of the frame before it, 0.1 s"),
        ({"depth_size": (16, 16)}, "the depth has 16x16 pixels, the picture 16x12"),
    ],
)
def test_what_is_no_clip_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_clip(write(tmp_path / "a", **{"times": [0.0, 0.1, 0.2], **changes}))


def test_arrays_that_do_not_fit_are_refused():
    rgb, lens, times = np.zeros((2, 4, 4, 3), np.uint8), np.ones(4), np.arange(2.0)
    depth = np.ones((2, 4, 4), np.float32)
    with pytest.raises(ValueError, match="depth must have the frames and pixels of rgb"):
        Clip(rgb, depth[:, :3], lens, times)
    with pytest.raises(ValueError, match="times must be one for each frame, and grow"):
        Clip(rgb, depth, lens, times[::-1])
    with pytest.raises(ValueError, match="depth must be finite"):
        Clip(rgb, depth * np.nan, lens, times)


def test_a_cut_is_found():
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 255, (2, 1, 16, 16, 3), dtype=np.uint8)
    clip = Clip(np.concatenate([one, one, two, two]), np.ones((4, 16, 16), np.float32), np.ones(4), np.arange(4.0))
    flows = np.zeros((2, 4, 16, 16, 2), np.float32)
    check_for_cuts(clip, flows)  # flow that agrees: no cut
    flows[0, 1] = np.nan
    with pytest.raises(ValueError, match="frames 1 and 2 have nothing in common"):
        check_for_cuts(clip, flows)


def test_photos_alone_and_a_misspelt_depth_are_told_apart(tmp_path):
    folder = write(tmp_path / "a")
    with pytest.raises(ViewError, match="photos alone, without depth"):
        load_clip(folder / "rgb")
    text = (folder / "transforms.json").read_text()
    (folder / "transforms.json").write_text(text.replace("depth_file_path", "depth_file_pth"))
    with pytest.raises(
        ViewError, match=r"no depth in any frame.*'depth_file_pth' \(did you mean 'depth_file_path'\?\)"
    ):
        load_clip(folder)


def test_depth_of_another_size_is_taken_and_this_is_said(tmp_path):
    clip = load_clip(write(tmp_path / "a", times=[0.0, 0.1, 0.2], depth_size=(8, 6)))
    assert clip.depth.shape == clip.rgb.shape[:3]
    assert any("depth of 8x6 pixels" in note and "16x12" in note for note in clip.notes)
