import math
import re
import warnings

import numpy as np
import pytest
import torch

from objects.pose import SE3
from rendering.camera import Camera
from rendering.views import View, ViewError, Views, split
from rendering.views.checks import check_views

HALF_TURN_X = SE3(torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
WIDTH, HEIGHT = 120, 90


def with_pose(camera: Camera, pose: SE3) -> Camera:
    return Camera(pose, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height)


def sphere_view(camera: Camera, *, depth=True, radius=0.5, **more) -> View:
    """A grey ball about the origin on a floor z = -0.5, by ray casting; colour tells ball from floor."""
    rays = camera.rays()
    o, d = rays.origins, rays.directions
    b, c = (o * d).sum(-1), o.square().sum(-1) - radius**2
    root = (b * b - c).sqrt()  # NaN where the ray misses
    ball = torch.where((-b - root) > 0, -b - root, torch.nan).nan_to_num(math.inf)
    floor = (-0.5 - o[:, 2]) / d[:, 2]
    floor = torch.where((floor > 0) & (floor < 6), floor, math.inf)
    t = torch.minimum(ball, floor)
    size = (camera.height, camera.width)
    on_ball = (ball <= floor) & torch.isfinite(ball)
    rgb = torch.where(on_ball[:, None], torch.tensor([1.0, 0.2, 0.0]), torch.tensor([0.0, 0.6, 0.4]))
    z = (t * camera.depth_per_t()).reshape(size) if depth else None
    return View(camera, rgb.reshape(*size, 3), depth=z, alpha=on_ball.reshape(size).float(), **more)


def around(n=12, radius=2.0, elevation_deg=30.0) -> list[Camera]:
    return Camera.orbit((0, 0, 0), radius, n, WIDTH, HEIGHT, elevation_deg=elevation_deg)


def opaque(view: View, **changes) -> View:
    more = {"depth": view.depth, "name": view.name, **changes}
    return View(more.pop("camera", view.camera), view.stored["rgb"], **more)


def test_missing_depth_is_nan_whether_written_as_zero_infinity_or_nan():
    camera = Camera.look_at((2, 0, 0), (0, 0, 0), 4, 1)
    view = View(camera, torch.zeros(1, 4, 3), depth=torch.tensor([[0.0, math.inf, math.nan, 3.0]]), depth_unit=0.5)
    assert view.depth is not None
    assert view.depth.isnan().tolist() == [[True, True, True, False]]
    assert view.depth[0, 3] == 1.5


def test_colours_stay_apart_from_alpha_until_they_are_composited():
    camera = Camera.look_at((2, 0, 0), (0, 0, 0), 1, 1)
    view = View(camera, torch.tensor([[[1.0, 0.0, 0.4]]]), alpha=torch.tensor([[0.2]]))
    torch.testing.assert_close(view.rgb, torch.tensor([[[1.0, 0.0, 0.4]]]))
    torch.testing.assert_close(view.composited((1, 1, 1)), torch.tensor([[[1.0, 0.8, 0.88]]]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rgb": torch.zeros(2, 4, 3)}, "rgb must have shape [1, 4, 3], got [2, 4, 3]"),
        ({"rgb": torch.full((1, 4, 3), math.nan)}, "without NaN"),
        ({"rgb": torch.full((1, 4, 3), 1.5)}, "0..1"),
        ({"alpha": torch.zeros(4, 1)}, "alpha must have shape"),
        ({"depth": -torch.ones(1, 4)}, "depth must not be negative, got -1.0"),
        ({"depth_unit": 0.0}, "depth_unit must be finite and greater than 0"),
        ({"ids": torch.zeros(1, 4)}, "ids must be whole numbers"),
        ({"ids": -torch.ones(1, 4, dtype=torch.int32)}, "of at least 0"),
        ({"valid": torch.ones(1, 4)}, "valid must be bool"),
        ({"time": math.nan}, "time must be finite"),
    ],
)
def test_a_view_refuses_layers_that_dont_fit(wrong, message):
    camera = Camera.look_at((2, 0, 0), (0, 0, 0), 4, 1)
    with pytest.raises(ViewError, match=re.escape(message)):
        View(camera, **{"rgb": torch.zeros(1, 4, 3), **wrong})


def test_points_lie_on_the_surfaces_and_carry_their_colour():
    views = Views([opaque(sphere_view(c)) for c in around()])
    cloud = views.points(6000)
    assert 5000 < len(cloud.p_world) <= 6000
    on_ball = cloud.rgb[:, 0] > 0.5
    assert on_ball.any() and (~on_ball).any()
    torch.testing.assert_close(cloud.p_world[on_ball].norm(dim=-1), torch.full((int(on_ball.sum()),), 0.5))
    floor = cloud.p_world[~on_ball, 2]
    torch.testing.assert_close(floor, torch.full_like(floor, -0.5), atol=1e-4, rtol=0)
    # A point stands in the pixel that it was taken from.
    for i in (0, 7):
        uv, _ = views[i].camera.project(cloud.p_world[cloud.view == i])
        assert (((uv - 0.5) - (uv - 0.5).round()).abs() < 1e-3).all()


def test_points_leave_out_what_is_transparent_or_not_valid_and_repeat_exactly():
    camera = around()[0]
    half = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    half[:, : WIDTH // 2] = True
    views = Views([sphere_view(camera, valid=half)])
    cloud = views.points()
    assert (cloud.rgb[:, 0] > 0.5).all()  # the floor is transparent
    assert (camera.project(cloud.p_world)[0][:, 0] < WIDTH / 2).all()
    assert torch.equal(cloud.p_world, views.points().p_world)


def test_points_without_depth_are_refused():
    with pytest.raises(ViewError, match="no view has depth"):
        Views([sphere_view(around()[0], depth=False)]).points()


def test_scene_box_holds_the_measured_ball_closely():
    box = Views([sphere_view(c) for c in around()]).scene_box()
    np.testing.assert_allclose(box.hi.numpy(), [0.5, 0.5, 0.5], atol=0.12)
    assert (box.lo[:2] < -0.47).all() and (box.lo[:2] > -0.62).all()


def test_scene_box_without_depth_is_the_visual_hull():
    cameras = around(12) + around(6, elevation_deg=70.0)
    box = Views([sphere_view(c, depth=False) for c in cameras]).scene_box()
    assert (box.hi >= 0.5).all() and (box.lo <= -0.48).all()
    assert (box.size < 1.35).all()


def test_scene_box_without_depth_and_alpha_is_where_the_axes_meet():
    target = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    cameras = Camera.orbit(target, 3.0, 7, WIDTH, HEIGHT, fov_y_deg=40.0)
    box = Views([View(c, torch.zeros(HEIGHT, WIDTH, 3)) for c in cameras]).scene_box()
    torch.testing.assert_close(box.center, target)
    torch.testing.assert_close(
        box.size, torch.full((3,), 6 * math.tan(math.radians(20)) * WIDTH / HEIGHT, dtype=torch.float64)
    )


def test_scene_box_of_axes_that_dont_meet_is_refused():
    cameras = [Camera.look_at((x, 0, 0), (x, 5, 0), WIDTH, HEIGHT) for x in (0.0, 1.0, 2.0)]
    with pytest.raises(ViewError, match="optical axes of these don't meet in front"):
        Views([View(c, torch.zeros(HEIGHT, WIDTH, 3)) for c in cameras]).scene_box()


def test_split_holds_out_every_nth_and_loses_none():
    views = Views([sphere_view(c, depth=False, name=str(i)) for i, c in enumerate(around(11))])
    train, held = split(views, 4)
    assert [v.name for v in held] == ["2", "6", "10"]
    assert [v.name for v in train] == ["0", "1", "3", "4", "5", "7", "8", "9"]
    with pytest.raises(ViewError, match="at least 2, got 1"):
        split(views, 1)
    with pytest.raises(ViewError, match="2 views are too few"):
        split(views[:2], 8)


# -- checks ------------------------------------------------------------------------------------------------------------


def test_honest_views_pass_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_views(Views([opaque(sphere_view(c)) for c in around()]))
        check_views(Views([sphere_view(c, depth=False) for c in around()]))


def test_cameras_turned_on_a_tripod_pass_in_silence():
    cameras = [Camera.look_at((0, 0, 1), (math.cos(a), math.sin(a), 0.4), WIDTH, HEIGHT) for a in np.arange(12) * 0.5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_views(Views([opaque(sphere_view(c, radius=1e-3)) for c in cameras]))


def test_a_sweep_from_the_middle_of_a_room_is_no_error_and_with_depth_no_warning():
    cameras = []
    for angle in np.arange(16) * (2 * math.pi / 16):
        out = np.array([math.cos(angle), math.sin(angle), 0.0])
        eye = 0.5 * out + [0, 0, 1]  # at arm's length around the one who holds it
        cameras.append(Camera.look_at(eye, eye + out - [0, 0, 0.35], WIDTH, HEIGHT, 70.0))
    room = Views([opaque(sphere_view(c, radius=1e-3)) for c in cameras])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_views(room)
    with pytest.warns(UserWarning, match="look away from the point .* right for a sweep"):
        check_views(Views([opaque(v, depth=None) for v in room]))


def test_cameras_with_depth_that_are_turned_away_are_warned_of():
    half_turn_y = SE3.from_axis_angle((0.0, 1.0, 0.0), math.pi)
    views = [opaque(sphere_view(c), camera=with_pose(c, c.T_world_cam @ half_turn_y)) for c in around()]
    with pytest.warns(UserWarning, match="look away from the point"):
        check_views(Views(views))


@pytest.mark.parametrize("depth", [True, False])
def test_opencv_axes_read_as_opengl_are_named(depth):
    cameras = [with_pose(c, c.T_world_cam @ HALF_TURN_X) for c in around()]
    views = [opaque(sphere_view(c), camera=t) for c, t in zip(around(), cameras, strict=True)]
    views = views if depth else [opaque(v, depth=None) for v in views]
    with pytest.raises(ViewError, match=r"OpenCV camera axes .* negate the second and third column"):
        check_views(Views(views))


def test_opencv_axes_are_named_from_depth_alone_where_the_axes_meet_nowhere():
    # At one height above a plane, cameras turned over agree as well: they must differ in height.
    eyes = [(x, 0.3 * x * x, 0.8 + 0.3 * math.sin(5 * x)) for x in np.linspace(-1, 1, 9)]
    cameras = [Camera.look_at(eye, (eye[0], 3, 0.0), WIDTH, HEIGHT) for eye in eyes]
    views = [opaque(sphere_view(c), camera=with_pose(c, c.T_world_cam @ HALF_TURN_X)) for c in cameras]
    with pytest.raises(ViewError, match="depth agrees between the views only when the cameras are turned"):
        check_views(Views(views))


def test_cameras_upside_down_that_nothing_explains_are_warned_of():
    cameras = [Camera.look_at((x, 0, 1), (x, 5, 0), WIDTH, HEIGHT, up=(0, 0, -1)) for x in (0.0, 1.0, 2.0)]
    with pytest.warns(UserWarning, match="hang upside down"):
        check_views(Views([View(c, torch.zeros(HEIGHT, WIDTH, 3)) for c in cameras]))


@pytest.mark.parametrize("scale", [1000, 10, 5, 0.2, 0.1, 0.001])
def test_depth_in_a_wrong_unit_is_named_with_the_right_one(scale):
    # At one height, a floor agrees with itself at any scale.
    views = [sphere_view(c) for c in around(6) + around(6, radius=2.6, elevation_deg=50.0)]
    wrong = Views([opaque(v, depth_unit=0.001, depth=v.depth * scale * 1000) for v in views])
    with pytest.raises(ViewError) as error:
        check_views(wrong)
    size = f"{scale:g} times too large" if scale > 1 else f"{1 / scale:g} times too small"
    assert size in str(error.value)
    assert f"set depth_unit_scale_factor (or load with depth_unit=) to {0.001 / scale:g}, now 0.001" in str(error.value)


def test_depth_whose_right_unit_remains_open_is_warned_of_without_a_factor():
    views = [sphere_view(c) for c in around()]  # all at one height
    with pytest.warns(UserWarning, match="doesn't agree between the views as it is: its unit") as caught:
        check_views(Views([opaque(v, depth=v.depth * 5) for v in views]))
    assert not any("times too" in str(w.message) for w in caught)


def test_depth_in_a_wrong_unit_is_named_where_views_dont_overlap():
    """Close-ups of four sides of a ball: no place is seen twice, but the axes meet."""
    eyes = ((1.0, 0, 0.1), (-1.0, 0.1, 0), (0.1, 1.0, 0), (0, -1.0, 0))
    views = [opaque(sphere_view(Camera.look_at(eye, (0, 0, 0), WIDTH, HEIGHT, 20.0))) for eye in eyes]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_views(Views(views))
    with pytest.raises(ViewError, match=r"1000 times too large \(in the middle .* at which the optical axes meet"):
        check_views(Views([opaque(v, depth=v.depth * 1000) for v in views]))


def test_one_view_is_allowed_with_a_warning():
    with pytest.warns(UserWarning, match="one view only"):
        check_views(Views([sphere_view(around()[0])]))


def test_empty_masks_and_depths_are_warned_of_by_name():
    views = [sphere_view(c, name=f"{i}.png") for i, c in enumerate(around(5))]
    nothing = torch.zeros(HEIGHT, WIDTH)
    views[2] = View(views[2].camera, views[2].stored["rgb"], alpha=nothing, name="2.png")
    views[3] = View(views[3].camera, views[3].stored["rgb"], alpha=nothing, name="3.png")
    views[4] = opaque(views[4], depth=nothing)
    with pytest.warns(UserWarning, match="empty|missing") as caught:
        check_views(Views(views))
    texts = [str(w.message) for w in caught]
    assert any("mask (or alpha) is empty all over in 2 pictures, first 2.png" in text for text in texts)
    assert any("depth is missing all over in 1 picture, first 4.png" in text for text in texts)


def test_views_without_views_are_refused():
    with pytest.raises(ViewError, match="at least one view"):
        Views([])
