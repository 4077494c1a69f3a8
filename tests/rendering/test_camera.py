import json
import math

import pytest
import torch

from objects.pose import SE3
from rendering.camera import Camera, save_transforms


def a_camera(width=31, height=22) -> Camera:
    pose = SE3.exp(torch.tensor([0.4, -1.2, 0.7, 0.9, -0.3, 1.4], dtype=torch.float64))
    return Camera(pose, 40.0, 43.0, 14.2, 12.9, width, height)


def test_look_at_sees_its_target_in_the_middle_with_up_pointing_up():
    camera = Camera.look_at((3, 1, 2), (0.5, -1, 0.3), 64, 48)
    target = torch.tensor([[0.5, -1, 0.3], [0.5, -1, 0.4]], dtype=torch.float64)
    uv, depth = camera.project(target)
    torch.testing.assert_close(uv[0], torch.tensor([32.0, 24.0], dtype=torch.float64))
    torch.testing.assert_close(depth[0], torch.tensor([2.5, 2, 1.7], dtype=torch.float64).norm())
    assert uv[1, 1] < 24 - 1  # higher in the world is higher in the picture: smaller v
    torch.testing.assert_close(uv[1, 0], uv[0, 0])
    right = camera.T_world_cam.rotation()[:, 0]
    assert abs(right[2]) < 1e-12  # level horizon
    assert torch.linalg.det(camera.T_world_cam.rotation()) > 0.999


def test_look_at_field_of_view_spans_the_height():
    camera = Camera.look_at((0, 0, 0), (1, 0, 0), 200, 100, 60.0)
    top = torch.tensor([[1.0, 0.0, math.tan(math.radians(30))]], dtype=torch.float64)
    torch.testing.assert_close(camera.project(top)[0], torch.tensor([[100.0, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("eye", [(0, 0, 2), (0, 0, -2)])
def test_look_at_along_up_falls_back_to_y(eye):
    camera = Camera.look_at(eye, (0, 0, 0), 10, 10)
    up = -camera.T_world_cam.rotation()[:, 1]
    torch.testing.assert_close(up, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


def test_look_at_along_y_with_up_y_falls_back_to_x():
    up = -Camera.look_at((0, 0, 0), (0, 5, 0), 10, 10, up=(0, 1, 0)).T_world_cam.rotation()[:, 1]
    torch.testing.assert_close(up, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))


def test_projection_inverts_rays():
    camera = a_camera()
    generator = torch.Generator().manual_seed(0)
    uv = torch.rand(500, 2, generator=generator, dtype=torch.float64) * 60 - 15  # also beyond the image
    t = torch.rand(500, generator=generator, dtype=torch.float64) * 5 + 0.1
    back, depth = camera.project(camera.rays(uv).at(t))
    torch.testing.assert_close(back, uv)
    torch.testing.assert_close(depth, t * camera.depth_per_t(uv))


def test_rays_have_unit_length_and_go_through_pixel_centres_row_by_row():
    camera = a_camera()
    rays = camera.rays()
    assert len(rays) == 31 * 22
    assert rays.directions.dtype == torch.float64
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(31 * 22, dtype=torch.float64))
    uv, _ = camera.project(rays.at(torch.full((len(rays),), 2.0, dtype=torch.float64)))
    torch.testing.assert_close(uv[31 * 3 + 5], torch.tensor([5.5, 3.5], dtype=torch.float64))


def test_points_behind_the_camera_have_no_image():
    camera = Camera.look_at((0, 0, 0), (1, 0, 0), 8, 8)
    uv, depth = camera.project(torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]]))
    assert torch.isnan(uv[0]).all()
    assert depth[0] < 0
    assert torch.isfinite(uv[1]).all()


def test_projection_is_differentiable_also_with_points_behind():
    camera = a_camera()
    front = camera.rays().at(torch.ones(len(camera.rays()), dtype=torch.float64))[:4]
    p_world = torch.cat([front, 2 * camera.position_world - front]).requires_grad_()
    uv, _ = camera.project(p_world)
    uv[:4].sum().backward()
    assert p_world.grad is not None
    assert torch.isfinite(p_world.grad).all()
    step = 1e-6 * torch.eye(3, dtype=torch.float64)[0]
    change = (camera.project(front + step)[0] - camera.project(front - step)[0]).sum(-1) / 2e-6
    torch.testing.assert_close(p_world.grad[:4, 0], change, rtol=1e-6, atol=1e-6)


def test_resized_camera_sees_the_same_part_of_the_world():
    camera, twice = a_camera(), a_camera().resized(62, 44)
    p = camera.rays().at(torch.full((31 * 22,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(twice.project(p)[0], 2 * camera.project(p)[0])


def test_orbit_goes_round_its_target_at_one_height():
    cameras = Camera.orbit((1, 2, 0.5), 3.0, 8, 20, 10, elevation_deg=30, start_deg=90)
    eyes = torch.stack([c.position_world for c in cameras])
    center = torch.tensor([1, 2, 0.5], dtype=torch.float64)
    torch.testing.assert_close((eyes - center).norm(dim=-1), torch.full((8,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(eyes[:, 2], torch.full((8,), 2.0, dtype=torch.float64))
    first = torch.tensor([1.0, 2 + 3 * math.cos(math.radians(30)), 2.0], dtype=torch.float64)
    torch.testing.assert_close(eyes[0], first)
    torch.testing.assert_close(eyes.mean(0)[:2], center[:2])
    for camera in cameras:
        uv, _ = camera.project(center[None])
        torch.testing.assert_close(uv, torch.tensor([[10.0, 5.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 0}, "width"),
        ({"height": -3}, "height"),
        ({"width": 2.5}, "width"),
        ({"fx": 0.0}, "fx"),
        ({"fy": math.nan}, "fy"),
        ({"cx": math.inf}, "cx"),
        ({"T_world_cam": SE3.identity((2,))}, "T_world_cam"),
    ],
)
def test_impossible_camera_is_refused_by_name(change, named):
    good = {"T_world_cam": SE3.identity(), "fx": 9.0, "fy": 9.0, "cx": 4.0, "cy": 4.0, "width": 8, "height": 8}
    with pytest.raises(ValueError, match=named):
        Camera(**{**good, **change})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (((1, 1, 1), (1, 1, 1), 8, 8), "eye and target"),
        (((1, math.nan, 1), (0, 0, 0), 8, 8), "eye"),
        (((1, 1, 1), (0, 0), 8, 8), "target"),
        (((1, 1, 1), (0, 0, 0), 0, 8), "width"),
        (((1, 1, 1), (0, 0, 0), 8, 0), "height|fx"),
        (((1, 1, 1), (0, 0, 0), 8, 8, 0), "fov_y_deg"),
        (((1, 1, 1), (0, 0, 0), 8, 8, 180), "fov_y_deg"),
        (((1, 1, 1), (0, 0, 0), 8, 8, math.nan), "fov_y_deg"),
    ],
)
def test_impossible_view_is_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        Camera.look_at(*arguments)


def test_zero_up_and_wrong_orbits_are_refused():
    with pytest.raises(ValueError, match="up"):
        Camera.look_at((1, 0, 0), (0, 0, 0), 8, 8, up=(0, 0, 0))
    with pytest.raises(ValueError, match="radius"):
        Camera.orbit((0, 0, 0), 0.0, 4, 8, 8)
    with pytest.raises(ValueError, match="n_cameras"):
        Camera.orbit((0, 0, 0), 1.0, 0, 8, 8)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="uv"):
        a_camera().rays(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="p_world"):
        a_camera().project(torch.zeros(4, 2))


# -- nerfstudio ------------------------------------------------------------------------------------------------------


def test_transforms_hold_what_all_share_once(tmp_path):
    cameras = Camera.orbit((0, 0, 0.2), 1.5, 3, 32, 24)
    path = tmp_path / "transforms.json"
    entries = [{"time": 0.5 * i} for i in range(3)]
    save_transforms(
        path, cameras, ["a.png", "b.png", "c.png"], frame_entries=entries, entries={"depth_unit_scale_factor": 0.001}
    )
    data = json.loads(path.read_text())
    assert data["fl_x"] == cameras[0].fx
    assert "fl_x" not in data["frames"][0]
    assert data["depth_unit_scale_factor"] == 0.001
    assert [frame["file_path"] for frame in data["frames"]] == ["a.png", "b.png", "c.png"]
    assert [frame["time"] for frame in data["frames"]] == [0.0, 0.5, 1.0]
    assert [p.name for p in tmp_path.iterdir()] == ["transforms.json"]


def test_transforms_keep_intrinsics_per_frame(tmp_path):
    cameras = [a_camera(), a_camera(40, 40)]
    save_transforms(tmp_path / "t.json", cameras, ["a.png", "b.png"])
    for camera, frame in zip(cameras, json.loads((tmp_path / "t.json").read_text())["frames"], strict=True):
        assert frame == {"file_path": frame["file_path"], **camera.to_nerfstudio()}


def test_saving_transforms_checks_lengths_and_folder(tmp_path):
    with pytest.raises(ValueError, match="same length"):
        save_transforms(tmp_path / "t.json", [a_camera()], [])
    with pytest.raises(ValueError, match="does not exist"):
        save_transforms(tmp_path / "no" / "t.json", [a_camera()], ["a.png"])
