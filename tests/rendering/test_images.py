import math
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from rendering.images import (
    contact_sheet,
    depth_picture,
    load_depth_png,
    load_png,
    normal_picture,
    owner_picture,
    save_depth_npy,
    save_depth_png,
    save_ids_png,
    save_mask_png,
    save_mp4,
    save_png,
)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [3, 4])
def test_png_reads_back_to_half_a_step(tmp_path, channels):
    rgb = noise(7, 5, channels)
    save_png(rgb, tmp_path / "a.png")
    torch.testing.assert_close(load_png(tmp_path / "a.png"), rgb, rtol=0, atol=0.501 / 255)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_png_clips_what_lies_beyond_the_range(tmp_path):
    save_png(torch.tensor([[[-1.0, 0.5, 2.0]]]), tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[[0, 128, 255]]]


def test_depth_png_reads_back_to_half_a_millimetre(tmp_path):
    depth = 5 * noise(6, 9)
    depth[0, 0], depth[1, 1], depth[2, 2] = math.inf, math.nan, 1e-5
    save_depth_png(depth, tmp_path / "d.png")
    steps = np.asarray(Image.open(tmp_path / "d.png"))
    assert steps.dtype == np.uint16
    assert steps[0, 0] == 0
    assert steps[1, 1] == 0
    assert steps[2, 2] == 1  # near is not none
    read = load_depth_png(tmp_path / "d.png")
    known = torch.isfinite(depth)
    torch.testing.assert_close(read[known], depth[known], rtol=0, atol=1.0e-3 * 1.0001)
    torch.testing.assert_close(read[3:], depth[3:], rtol=0, atol=0.5e-3 * 1.001)
    assert torch.isinf(read[0, 0])


def test_depth_beyond_the_range_is_none_with_a_warning(tmp_path):
    depth = torch.tensor([[65.535, 65.6, 1.0]])
    with pytest.warns(UserWarning, match="1 pixels are farther than 65.535 m"):
        save_depth_png(depth, tmp_path / "d.png")
    assert np.asarray(Image.open(tmp_path / "d.png")).tolist() == [[65535, 0, 1000]]
    save_depth_png(depth, tmp_path / "d.png", unit=0.01)
    assert np.asarray(Image.open(tmp_path / "d.png")).tolist() == [[6554, 6560, 100]]


@pytest.mark.parametrize("size", [(48, 64), (35, 51)])
def test_mp4_reads_back(tmp_path, size):
    h, w = size
    ramp = torch.linspace(0.2, 0.8, w).expand(h, w)
    pictures = [torch.stack([ramp, ramp, torch.full((h, w), 0.1 * i)], -1) for i in range(6)]
    assert save_mp4(iter(pictures), tmp_path / "a.mp4", fps=12) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    h2, w2 = h + h % 2, w + w % 2
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "a.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(command, capture_output=True, check=True)
    told = read.stderr.decode()
    assert "h264" in told
    assert "yuv420p" in told
    assert "12 fps" in told
    assert f"{w2}x{h2}" in told
    frames = np.frombuffer(read.stdout, np.uint8).reshape(6, h2, w2, 3)
    for frame, picture in zip(frames, pictures, strict=True):
        error = np.abs(frame[:h, :w].astype(float) / 255 - picture.numpy())
        assert error.mean() < 0.03


def test_failed_film_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="picture 1 has shape"):
        save_mp4([noise(8, 8, 3), noise(8, 9, 3)], path)
    with pytest.raises(ValueError, match="at least one"):
        save_mp4([], path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_failed_picture_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(torch.zeros(2, 2, 3), path)
    before = path.read_bytes()

    def full_disk(self, file, format):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(ValueError, match="cannot be written: No space"):
        save_png(torch.ones(2, 2, 3), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_wrong_pictures_and_places_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="rgb"):
        save_png(torch.zeros(4, 4), tmp_path / "a.png")
    with pytest.raises(ValueError, match="NaN"):
        save_png(torch.full((2, 2, 3), math.nan), tmp_path / "a.png")
    with pytest.raises(ValueError, match="depth"):
        save_depth_png(torch.zeros(4, 4, 1), tmp_path / "a.png")
    with pytest.raises(ValueError, match="unit"):
        save_depth_png(torch.zeros(4, 4), tmp_path / "a.png", unit=0)
    with pytest.raises(ValueError, match="does not exist"):
        save_png(torch.zeros(2, 2, 3), tmp_path / "none" / "a.png")
    with pytest.raises(ValueError, match="got the folder"):
        save_png(torch.zeros(2, 2, 3), tmp_path)
    with pytest.raises(ValueError, match="fps"):
        save_mp4([noise(8, 8, 3)], tmp_path / "a.mp4", fps=0)
    with pytest.raises(ValueError, match=r"\.mp4"):
        save_mp4([noise(8, 8, 3)], tmp_path / "a.avi")
    with pytest.raises(ValueError, match="expected an image file"):
        load_png(tmp_path / "none.png")
    save_png(torch.zeros(2, 2, 3), tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="one channel"):
        load_depth_png(tmp_path / "rgb.png")
    assert [p.name for p in tmp_path.iterdir()] == ["rgb.png"]


def test_depth_picture_is_bright_near_dark_far_and_black_for_none():
    picture = depth_picture(torch.tensor([[1.0, 2.0, 3.0, math.inf]]))
    brightness = picture[0].sum(-1)
    assert brightness[0] > brightness[1] > brightness[2] > brightness[3] == 0
    assert (depth_picture(torch.full((2, 2), math.inf)) == 0).all()
    assert torch.isfinite(depth_picture(torch.ones(2, 2))).all()  # no range at all


def test_normal_picture_maps_axes_to_colours():
    picture = normal_picture(torch.tensor([[[1.0, 0, 0], [0, 0, -1.0], [0, 0, 0]]]))
    torch.testing.assert_close(picture, torch.tensor([[[1.0, 0.5, 0.5], [0.5, 0.5, 0.0], [0, 0, 0]]]))


def test_owner_picture_tells_objects_apart_the_same_way_in_every_picture():
    colors = owner_picture(torch.arange(-1, 60)[None])[0]
    assert (colors[0] == 0).all()
    gap = torch.cdist(colors, colors) + 10 * torch.eye(61)
    assert gap.min() > 0.02
    next_one = (colors[1:] - colors[:-1]).norm(dim=-1)
    assert next_one.min() > 0.3
    torch.testing.assert_close(owner_picture(torch.tensor([[17]]))[0, 0], colors[18])


def test_contact_sheet_places_pictures_row_by_row():
    pictures = [torch.full((3, 4, 3), 0.1 * i) for i in range(5)]
    sheet = contact_sheet(pictures, columns=3, gap=2)
    assert sheet.shape == (8, 16, 3)
    assert sheet[5, 0, 0] == pytest.approx(0.3)
    assert sheet[0, 6, 0] == pytest.approx(0.1)
    assert sheet[7, 15, 0] == 1.0
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([torch.zeros(2, 2, 3), torch.zeros(2, 3, 3)], 2)
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([], 2)
    with pytest.raises(ValueError, match="columns"):
        contact_sheet(pictures, 0)


def test_depth_as_an_array_is_exact_and_0_where_there_is_none(tmp_path):
    depth = torch.tensor([[0.123456, math.inf], [math.nan, 70000.5]])
    save_depth_npy(depth, tmp_path / "d.npy")
    read = np.load(tmp_path / "d.npy")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.array([[0.123456, 0], [0, 70000.5]], dtype=np.float32))
    with pytest.raises(ValueError, match=r"end in \.npy"):
        save_depth_npy(depth, tmp_path / "d.png")


def test_ids_are_16_bit_numbers(tmp_path):
    ids = torch.tensor([[0, 1], [300, 65535]])
    save_ids_png(ids, tmp_path / "i.png")
    with Image.open(tmp_path / "i.png") as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), ids.numpy())
    for wrong in (torch.tensor([[65536]]), torch.tensor([[-1]]), torch.zeros(0, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="save_ids_png"):
            save_ids_png(wrong, tmp_path / "i.png")


def test_masks_are_black_and_white(tmp_path):
    save_mask_png(torch.tensor([[True, False]]), tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "L" and np.asarray(image).tolist() == [[255, 0]]
