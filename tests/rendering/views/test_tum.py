"""Folders in the format of the TUM RGB-D benchmark."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rendering import Camera
from rendering.images import save_depth_png
from rendering.views import ViewError
from rendering.views.files import load_views
from tests.rendering.views.sets import HEIGHT, WIDTH, around, checks, loads_in_silence, write_png


def write_tum(folder: Path, n=5) -> list[Camera]:
    cameras = around(n)
    lines = {"rgb": ["# colour"], "depth": ["# depth"], "groundtruth": ["# timestamp tx ty tz qx qy qz qw"]}
    for i, camera in enumerate(cameras):
        time = 1305031102.0 + 0.1 * i
        rays = camera.rays()
        far = -(rays.origins[:, 2] + 0.5) / rays.directions[:, 2]
        z = torch.where(far > 0, far * camera.depth_per_t(), math.inf).reshape(HEIGHT, WIDTH)
        (folder / "depth").mkdir(parents=True, exist_ok=True)
        save_depth_png(torch.where(z < 8, z, math.inf), folder / f"depth/{i}.png", unit=1 / 5000)
        write_png(folder / f"rgb/{i}.png", checks())
        lines["rgb"].append(f"{time:.6f} rgb/{i}.png")
        lines["depth"].append(f"{time + 0.012:.6f} depth/{i}.png")
        w, x, y, z = camera.T_world_cam.quat_wxyz.tolist()
        place = " ".join(f"{v:.9f}" for v in [*camera.position_world.tolist(), x, y, z, w])
        lines["groundtruth"].append(f"{time - 0.009:.6f} {place}")
    for name, rows in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return cameras


def tum_intrinsics(camera: Camera) -> tuple[float, float, float, float]:
    return camera.fx, camera.fy, camera.cx - 0.5, camera.cy - 0.5


def test_a_tum_folder_is_read_by_the_nearest_times(tmp_path):
    cameras = write_tum(tmp_path)
    views = loads_in_silence(tmp_path, intrinsics=tum_intrinsics(cameras[0]))
    assert [v.name for v in views] == [f"rgb/{i}.png" for i in range(5)]
    assert [v.time for v in views] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-6)
    for view, camera in zip(views, cameras, strict=True):
        torch.testing.assert_close(
            view.camera.T_world_cam.as_matrix(), camera.T_world_cam.as_matrix(), atol=1e-7, rtol=0
        )
        assert view.camera.cx == pytest.approx(camera.cx)
    floor = views.points(2000).p_world[:, 2]
    assert len(floor) > 1000
    torch.testing.assert_close(floor, torch.full_like(floor, -0.5), atol=2e-3, rtol=0)


def test_tum_intrinsics_stand_in_calibration_txt_or_are_asked_for(tmp_path):
    cameras = write_tum(tmp_path)
    with pytest.raises(ViewError, match=r"doesn't tell the focal length: give intrinsics=fx,fy,cx,cy"):
        load_views(tmp_path)
    numbers = " ".join(str(v) for v in tum_intrinsics(cameras[0]))
    (tmp_path / "calibration.txt").write_text(f"# fx fy cx cy\n{numbers} 0.1 0 0 0 0\n")
    views = loads_in_silence(tmp_path)
    assert views[0].camera.fx == pytest.approx(cameras[0].fx)
    assert not torch.equal(views[0].rgb, torch.from_numpy(checks()).float() / 255)  # its k1 was undone
    (tmp_path / "calibration.txt").write_text("525 -525 319.5 239.5\n")
    with pytest.raises(ViewError, match=r"calibration.txt: expected fx fy cx cy .* greater than 0"):
        load_views(tmp_path)


def test_tum_pictures_without_partners_are_left_out_with_a_warning(tmp_path):
    intrinsics = tum_intrinsics(write_tum(tmp_path)[0])
    text = (tmp_path / "depth.txt").read_text()
    (tmp_path / "depth.txt").write_text(
        text.replace("1305031102.212", "1305031102.221")
    )  # 21 ms later than its picture
    with pytest.warns(UserWarning, match=r"left out 1 of 5 frames, without a pose or depth within 20 ms; .* rgb/2.png"):
        views = load_views(tmp_path, intrinsics=intrinsics)
    assert [v.name for v in views] == [f"rgb/{i}.png" for i in (0, 1, 3, 4)]
    assert loads_in_silence(tmp_path, intrinsics=intrinsics, depth=False)[2].depth is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1305031102.0 1 2 3", "groundtruth.txt: line 1: expected a time and 7 more"),
        ("now 0 0 0 0 0 0 1", "groundtruth.txt: line 1: expected a time and 7 more"),
        ("1305031102.0 0 0 0 0 0 0 2", "the quaternion must have length 1, has 2"),
        ("1305031102.0 0 0 up 0 0 0 1", "expected tx ty tz qx qy qz qw: could not convert"),
        ("1305031102.0 nan 0 0 0 0 0 1", "expected tx ty tz qx qy qz qw: "),
        ("", "expected lines with a time and 7 more, got none"),
    ],
)
def test_damaged_tum_poses_are_named(tmp_path, line, message):
    intrinsics = tum_intrinsics(write_tum(tmp_path)[0])
    (tmp_path / "groundtruth.txt").write_text(line + "\n")
    with pytest.raises(ViewError, match=message):
        load_views(tmp_path, intrinsics=intrinsics)


def test_tum_files_of_other_systems_and_with_gaps_are_read(tmp_path):
    intrinsics = tum_intrinsics(write_tum(tmp_path)[0])
    for name in ("rgb", "depth", "groundtruth"):
        text = (tmp_path / f"{name}.txt").read_text().replace("/", "\\")
        text = "% another comment\n// and another\n\n" + text
        (tmp_path / f"{name}.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    steps = np.array(Image.open(tmp_path / "depth/1.png"))
    steps[:5] = 65535
    write_png(tmp_path / "depth/1.png", steps)
    (tmp_path / "depth/3.png").unlink()
    (tmp_path / "rgb/4.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="left out|missing") as caught:
        views = load_views(tmp_path, intrinsics=intrinsics)
    texts = [str(w.message) for w in caught]
    assert [v.name for v in views] == [f"rgb/{i}.png" for i in range(4)]
    assert views[1].depth[:5].isnan().all() and views[3].depth is None and views[2].depth is not None
    assert any("depth 65535 is taken as missing in 1 picture, first rgb/1.png" in text for text in texts)
    assert any("left out depth that can't be read in 1 picture, first rgb/3.png" in text for text in texts)
    assert any("left out 1 of 5 frames" in text and "rgb/4.png: expected a picture" in text for text in texts)
    assert len(caught) == 3
