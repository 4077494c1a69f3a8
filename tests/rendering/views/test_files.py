import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from compose import Composite, Instance
from objects.pose import SE3
from objects.primitives import Box, Sphere
from rendering import Camera, RenderConfig, render, save_transforms
from rendering.images import save_depth_png, save_png
from rendering.views import ViewError
from rendering.views.files import load_views
from tests.rendering.views.sets import (
    HEIGHT,
    WIDTH,
    around,
    checks,
    edit,
    in_file,
    loads_in_silence,
    write_png,
    write_set,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"


def same_pose(a: Camera, b: Camera) -> None:
    torch.testing.assert_close(a.T_world_cam.as_matrix(), b.T_world_cam.as_matrix(), atol=1e-12, rtol=0)


# -- nerfstudio --------------------------------------------------------------------------------------------------------


def test_a_nerfstudio_set_comes_back_as_it_was_written(tmp_path):
    cameras = write_set(tmp_path, frame_entries=[{"time": 0.25 * i} for i in range(5)])
    views = loads_in_silence(tmp_path)
    assert [v.name for v in views] == [f"rgb/{i:02}.png" for i in range(5)]
    assert [v.time for v in views] == [0.0, 0.25, 0.5, 0.75, 1.0]
    for view, camera in zip(views, cameras, strict=True):
        same_pose(view.camera, camera)
        assert (view.camera.fx, view.camera.cy, view.camera.width) == (camera.fx, camera.cy, WIDTH)
        assert torch.equal((view.rgb * 255).round().to(torch.uint8), torch.from_numpy(checks()))
        assert view.alpha is None and view.depth is None and view.ids is None and view.valid.all()
    assert [v.name for v in load_views(tmp_path / "transforms.json", every=2)] == [f"rgb/0{i}.png" for i in (0, 2, 4)]


def test_a_matrix_has_opengl_axes(tmp_path):
    """The identity looks along -z with y up."""
    write_set(tmp_path)
    lens = {"fl_x": 10, "fl_y": 10, "cx": 40, "cy": 30}
    edit(tmp_path, lambda data: data["frames"][2].update(lens, transform_matrix=np.eye(4).tolist()))
    camera = load_views(tmp_path)[2].camera
    uv, depth = camera.project(torch.tensor([[0.0, 0.0, -2.0], [0.1, 0.2, -1.0]], dtype=torch.float64))
    torch.testing.assert_close(uv, torch.tensor([[40.0, 30.0], [41.0, 28.0]], dtype=torch.float64))
    torch.testing.assert_close(depth, torch.tensor([2.0, 1.0], dtype=torch.float64))


def test_rendered_depth_of_one_view_reprojects_onto_the_others(tmp_path):
    boxes = [Instance("floor", Box([3.0, 3.0, 0.2], color=(0.5, 0.5, 0.5)), SE3.from_translation([0, 0, -0.6]))]
    scene = Composite([Instance("ball", Sphere(0.5, color=(0.8, 0.3, 0.2)), SE3.identity()), *boxes])
    cameras, names = around(12)[:6], [f"{i}.png" for i in range(6)]
    for camera, name in zip(cameras, names, strict=True):
        frame = render(scene, camera, config=RenderConfig(antialias=1), progress=False)
        save_png(frame.rgb, tmp_path / name)
        save_depth_png(frame.depth, tmp_path / f"depth{name}")
        write_png(tmp_path / f"ids{name}", (frame.owner.numpy() + 1).astype(np.uint8))
    more = [{"depth_file_path": f"depth{n}", "instance_path": f"ids{n}"} for n in names]
    save_transforms(tmp_path / "transforms.json", cameras, names, frame_entries=more)
    views = loads_in_silence(tmp_path)
    cloud = views.points(3000)
    ball = cloud.ids == 1
    assert ball.sum() > 300 and (cloud.ids == 2).sum() > 300
    off = (cloud.p_world[ball].norm(dim=-1) - 0.5).abs()
    assert off.max() < 0.005 and off.median() < 5e-4  # steps of 1 mm along rays that graze the ball
    first = cloud.p_world[cloud.view == 0]
    target = views[1]
    uv, z = target.camera.project(first)
    inside = ((uv > 1) & (uv < torch.tensor([WIDTH - 1, HEIGHT - 1]))).all(-1)
    column, row = uv[inside].long().unbind(-1)
    local = target.depth.numpy()
    flat = (
        ndimage.maximum_filter(local, 3) - ndimage.minimum_filter(local, 3) < 0.15
    )  # no edge of the ball within a pixel
    difference = ((z[inside] - target.depth[row, column]) / z[inside])[torch.from_numpy(flat)[row, column]]
    assert len(difference) > 150
    agrees = difference.abs() < 0.03
    assert agrees.float().mean() > 0.7
    assert (difference[~agrees] > 0).float().mean() > 0.95  # the rest is hidden there


def test_each_frame_may_have_its_own_size_and_intrinsics(tmp_path):
    cameras = [*around(4)[:3], around(4, 40, 50)[3]]
    for i, camera in enumerate(cameras):
        write_png(tmp_path / f"{i}.png", checks(camera.width, camera.height))
    save_transforms(tmp_path / "transforms.json", cameras, [f"{i}.png" for i in range(4)])
    views = loads_in_silence(tmp_path)
    assert [(v.camera.width, v.camera.height) for v in views] == [(80, 60)] * 3 + [(40, 50)]
    assert views[3].camera.fx == cameras[3].fx and views[3].camera.cx == 20
    assert tuple(views[3].rgb.shape) == (50, 40, 3)


def nerf_synthetic(folder: Path) -> list[Camera]:
    cameras = around(6)
    for split, chosen in (("train", cameras[:4]), ("test", cameras[4:])):
        frames = []
        for i, camera in enumerate(chosen):
            pixels = np.dstack([checks(), np.where(checks()[..., 2] > 0, 255, 51)]).astype(np.uint8)
            write_png(folder / split / f"r_{i}.png", pixels)
            matrix = camera.to_nerfstudio()["transform_matrix"]
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": matrix})
        angle = 2 * math.atan(0.5 * WIDTH / cameras[0].fx)
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return cameras


def test_nerf_synthetic_splits_angles_suffixes_and_alpha_are_understood(tmp_path):
    cameras = nerf_synthetic(tmp_path)
    train, test = loads_in_silence(tmp_path), load_views(tmp_path, split="test")
    assert len(train) == 4 and len(test) == 2
    same_pose(test[1].camera, cameras[5])
    assert train[0].camera.fx == pytest.approx(cameras[0].fx) and train[0].camera.cx == WIDTH / 2
    alpha, rgb = train[0].alpha, train[0].rgb
    assert sorted(alpha.unique().tolist()) == pytest.approx([0.2, 1.0])
    torch.testing.assert_close(rgb, torch.from_numpy(checks()).float() / 255)  # straight
    with pytest.raises(
        ViewError, match=r"no transforms for split='val'; there are transforms_test.json, transforms_train"
    ):
        load_views(tmp_path, split="val")


def test_a_split_listed_in_transforms_json_is_taken(tmp_path):
    write_set(tmp_path, entries={"train_filenames": ["rgb/01.png", "rgb/03.png", "rgb/04.png"]})
    assert [v.name for v in load_views(tmp_path, split="train")] == ["rgb/01.png", "rgb/03.png", "rgb/04.png"]
    with pytest.raises(ViewError, match="has no list 'test_filenames'"):
        load_views(tmp_path, split="test")


@pytest.mark.parametrize(("entries", "unit"), [({}, 0.001), ({"depth_unit_scale_factor": 0.0002}, 0.0002)])
def test_depth_is_multiplied_by_its_unit(tmp_path, entries, unit):
    steps = np.full((HEIGHT, WIDTH), round(2 / unit), np.uint16)
    steps[0, 0] = 0
    for i in range(5):
        write_png(tmp_path / f"depth/{i}.png", steps)
    write_set(tmp_path, entries=entries, frame_entries=[{"depth_file_path": f"depth/{i}.png"} for i in range(5)])
    edit(tmp_path, lambda data: data.update(frames=data["frames"][:1]))
    with pytest.warns(UserWarning, match="one view only"):
        view = load_views(tmp_path)[0]
    assert math.isnan(view.depth[0, 0]) and view.depth[1, 1] == pytest.approx(2.0)
    with pytest.warns(UserWarning, match="one view only"):
        assert load_views(tmp_path, depth_unit=unit * 2)[0].depth[1, 1] == pytest.approx(4.0)
    with pytest.warns(UserWarning, match="one view only"):
        assert load_views(tmp_path, depth=False)[0].depth is None


def test_a_mask_is_opacity_or_says_what_is_valid(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, :30] = 1  # 0 and 1 mean the same as 0 and 255
    write_png(tmp_path / "mask.png", mask)
    write_set(tmp_path, frame_entries=[{"mask_path": "mask.png"}] * 5)
    view = loads_in_silence(tmp_path, masks="empty")[0]
    assert torch.equal(view.alpha, torch.from_numpy(mask).float()) and view.valid.all()
    view = loads_in_silence(tmp_path, masks="ignore")[0]
    assert view.alpha is None and torch.equal(view.valid, torch.from_numpy(mask).bool())
    with pytest.warns(UserWarning, match=r"a mask is 0 are ignored, as nerfstudio does .* give masks=empty") as caught:
        view = load_views(tmp_path)[0]
    assert len(caught) == 1 and view.alpha is None and torch.equal(view.valid, torch.from_numpy(mask).bool())


def test_instance_ids_are_found_in_a_folder_by_the_name_of_the_picture(tmp_path):
    ids = np.zeros((HEIGHT, WIDTH), np.uint16)
    ids[10:20, 5:9] = 1000
    for i in range(5):
        write_png(tmp_path / f"truth/{i:02}.png", ids)
    write_set(tmp_path)
    view = loads_in_silence(tmp_path, instances="truth")[2]
    assert torch.equal(view.ids, torch.from_numpy(ids.astype(np.int32)))
    (tmp_path / "truth/03.png").unlink()
    with pytest.raises(ViewError, match=r"no instance ids for rgb/03.png \(expected 03.png\)"):
        load_views(tmp_path, instances="truth")
    with pytest.raises(ViewError, match="there is no such folder for instances='lies'"):
        load_views(tmp_path, instances="lies")


def test_applied_transform_is_kept_and_not_undone(tmp_path):
    applied = [[0.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]
    cameras = write_set(tmp_path, entries={"applied_transform": applied})
    views = loads_in_silence(tmp_path)
    assert views.applied_transform.tolist() == applied and views[:2].applied_transform is not None
    same_pose(views[0].camera, cameras[0])


def test_a_misspelt_key_of_frames_is_named_once(tmp_path):
    write_set(tmp_path)
    path = tmp_path / "transforms.json"
    data = json.loads(path.read_text())
    for frame in data["frames"]:
        frame |= {"instance_paht": "ids/00.png", "sharpness": 3.0}
    path.write_text(json.dumps(data))
    with pytest.warns(
        UserWarning, match=r"nothing is made of 'instance_paht' \(did you mean 'instance_path'"
    ) as caught:
        load_views(tmp_path)
    assert len(caught) == 1


def test_frames_without_picture_are_left_out_with_one_warning(tmp_path):
    write_set(tmp_path)
    (tmp_path / "rgb/01.png").unlink()
    (tmp_path / "rgb/04.png").unlink()
    with pytest.warns(
        UserWarning, match="left out 2 of 5 frames, whose picture is absent; the first is rgb/01.png"
    ) as caught:
        views = load_views(tmp_path)
    assert len(caught) == 1 and [v.name for v in views] == ["rgb/00.png", "rgb/02.png", "rgb/03.png"]
    for i in (0, 2, 3):
        (tmp_path / f"rgb/0{i}.png").unlink()
    with pytest.raises(ViewError, match=r"none of the 5 pictures is there and can be read, first .*rgb/00.png"):
        load_views(tmp_path)


def test_all_empty_masks_are_warned_of_by_name(tmp_path):
    write_png(tmp_path / "mask.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    write_set(tmp_path, frame_entries=[{}, {"mask_path": "mask.png"}, {}, {}, {}])
    with pytest.warns(UserWarning, match="empty all over in 1 picture, first rgb/01.png"):
        load_views(tmp_path, masks="empty")
    with pytest.warns(
        UserWarning, match="the mask is 0 all over, so nothing is learned from, in 1 picture, first rgb/01.png"
    ):
        assert not load_views(tmp_path, masks="ignore")[1].valid.any()
    edit(tmp_path, lambda data: [frame.update(mask_path="mask.png") for frame in data["frames"]])
    with pytest.raises(ViewError, match="masks are 0 all over in all 5 pictures: nothing is left"):
        load_views(tmp_path, masks="ignore")


def in_frame(**changes):
    return lambda data: data["frames"][2].update(changes)


def in_matrix(change):
    def apply(data):
        matrix = np.array(data["frames"][2]["transform_matrix"])
        change(matrix)
        data["frames"][2]["transform_matrix"] = matrix.tolist()

    return apply


def scaled(matrix):
    matrix[:3, :3] *= 2.5


def stretched(matrix):
    matrix[:3, 0] *= 1.5


def mirrored(matrix):
    matrix[:3, 0] *= -1


def with_nan(matrix):
    matrix[1, 3] = math.nan


def transposed(matrix):
    matrix[:] = matrix.T.copy()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_matrix(scaled), "not rigid, off by 1.5; it scales by 2.5: divide its 3x3 part by that"),
        (in_matrix(stretched), "it stretches by 1.5, 1, 1: its 3x3 part must be a rotation"),
        (in_matrix(mirrored), "it mirrors (determinant -1)"),
        (in_matrix(with_nan), "transform_matrix[1][3] must be a finite number, got nan"),
        (in_matrix(transposed), "is it transposed?"),
        (in_frame(transform_matrix=[[1, 0], [0, 1]]), "must be 4x4 numbers, got shape [2, 2]"),
        (in_frame(transform_matrix=[["a"]]), "must be 4x4 numbers, got [['a']]"),
        (in_frame(transform_matrix="here"), "must be 4x4 numbers, got 'here'"),
        (lambda data: data["frames"][2].pop("transform_matrix"), "has no transform_matrix"),
        (in_frame(w=0), "the picture has 80x60 pixels, but w and h say 0x60"),
        (in_frame(w=160), "the picture has 80x60 pixels, but w and h say 160x60"),
        (in_frame(camera_model="OPENCV_FISHEYE"), "'OPENCV_FISHEYE' is unknown; known are PINHOLE, SIMPLE_PINHOLE"),
        (in_frame(fl_x=-70.0), "fl_x must be greater than 0, got -70"),
        (in_frame(fl_y="10"), "fl_y must be a finite number, got '10'"),
        (in_frame(fl_y=math.nan), "fl_y must be a finite number, got nan"),
        (in_frame(k1=0.1), "k1 is 0.1, but camera_model PINHOLE has no k1"),
        (in_frame(depth_file_path=3), "depth_file_path must be a text, got 3"),
        (in_frame(time="now"), "time must be a finite number, got 'now'"),
        (in_file(depth_unit_scale_factor=0), "depth_unit_scale_factor (metres for each step) must be greater than 0"),
        (in_file(applied_transform=[[1]]), "applied_transform must be 3x4 finite numbers"),
        (in_file(frames=[]), "expected a list 'frames' with at least one frame, got []"),
        (in_file(frames=[3]), "frames[0]: expected an object with a text 'file_path', got 3"),
        (in_file(frames=[{"file": 3}]), "frames[0]: expected an object with a text 'file_path'"),
        (lambda data: [data.pop(key) for key in ("fl_x", "fl_y")], "there is no focal length: give fl_x"),
    ],
)
def test_what_is_wrong_in_transforms_json_is_named_with_its_place(tmp_path, change, message):
    write_set(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ViewError, match=re.escape(message)) as error:
        load_views(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
    if change.__qualname__.startswith(("in_frame", "in_matrix")):
        assert "frames[2] (rgb/02.png)" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b'{"frames": [\n  {"file_path": }]}', "damaged JSON at line 2, column 17"),
        (b"\xff\xfe\x00", "expected text in UTF-8"),
        (b"{}", "expected a list 'frames' with at least one frame, got nothing"),
        (b"[1, 2]", "expected a list 'frames'"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_transforms_json_is_named_with_the_place(tmp_path, text, message):
    (tmp_path / "transforms.json").write_bytes(text)
    with pytest.raises(ViewError, match=message) as error:
        load_views(tmp_path)
    assert "transforms.json" in str(error.value)


def test_folders_that_hold_nothing_are_refused(tmp_path):
    with pytest.raises(ViewError, match="nowhere: there is no such folder"):
        load_views(tmp_path / "nowhere")
    with pytest.raises(ViewError, match=r"no transforms.json, no TUM rgb.txt and no picture \(.png, .jpg"):
        load_views(tmp_path)
    (tmp_path / "words.txt").write_text("no picture")
    with pytest.raises(ViewError, match=r"expected a folder of pictures or a transforms.json"):
        load_views(tmp_path / "words.txt")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every": 0}, "every must be at least 1"),
        ({"masks": "none"}, "masks must be"),
        ({"depth_unit": 0.0}, "depth_unit"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, wrong, message):
    with pytest.raises(ViewError, match=message):
        load_views(tmp_path, **wrong)


@pytest.mark.parametrize(
    ("pixels", "key", "message"),
    [
        (np.zeros((HEIGHT, WIDTH), np.uint8), "depth_file_path", "expected depth with 16 bits, or .npy, got 8 bits"),
        (np.zeros((HEIGHT, 30), np.uint16), "depth_file_path", "the depth has 30x60 pixels, the picture 80x60"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "depth_file_path", "expected one number for each pixel"),
        (np.zeros((HEIGHT, 30), np.uint8), "mask_path", "the mask picture has 30x60 pixels, the picture 80x60"),
        (np.zeros((HEIGHT, 30), np.uint8), "instance_path", "the ids picture has 30x60 pixels"),
    ],
)
def test_layers_that_dont_fit_their_picture_are_refused(tmp_path, pixels, key, message):
    write_set(tmp_path)
    write_png(tmp_path / "layer.png", pixels)
    edit(tmp_path, in_frame(**{key: "layer.png"}))
    with pytest.raises(ViewError, match=message) as error:
        load_views(tmp_path)
    assert "layer.png" in str(error.value)


def test_pictures_that_are_damaged_are_left_out_with_one_warning(tmp_path):
    write_set(tmp_path)
    whole = (tmp_path / "rgb/02.png").read_bytes()
    (tmp_path / "rgb/02.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "rgb/04.png").write_bytes(whole[: len(whole) // 2])
    why = r"left out 2 of 5 frames, whose picture or mask can't be read; the first is rgb/02.png \(.*: the picture is damaged"
    with pytest.warns(UserWarning, match=why) as caught:
        assert [v.name for v in load_views(tmp_path)] == ["rgb/00.png", "rgb/01.png", "rgb/03.png"]
    assert len(caught) == 1
    (tmp_path / "rgb/04.png").write_bytes(whole)
    (tmp_path / "rgb/02.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"left out 1 of 5 frames.*rgb/02.png: expected a picture"):
        load_views(tmp_path)
    for i in range(5):
        (tmp_path / f"rgb/{i:02}.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ViewError, match=r"none of the 5 pictures is there .*first .*rgb/00.png: the picture is damaged"
    ):
        load_views(tmp_path)


def test_depth_and_ids_that_are_missing_are_left_out_and_a_frame_without_its_mask_too(tmp_path):
    layer, mask = np.full((HEIGHT, WIDTH), 2000, np.uint16), np.full((HEIGHT, WIDTH), 255, np.uint8)
    for i in range(5):
        write_png(tmp_path / f"d{i}.png", layer + 100 * (i % 2))
        write_png(tmp_path / f"m{i}.png", mask)
    more = [{"depth_file_path": f"d{i}.png", "instance_path": f"d{i}.png", "mask_path": f"m{i}.png"} for i in range(5)]
    write_set(tmp_path, frame_entries=more)
    (tmp_path / "d1.png").write_bytes(b"no picture")
    (tmp_path / "m3.png").unlink()
    with pytest.warns(UserWarning, match="left out") as caught:
        views = load_views(tmp_path, masks="ignore")
    texts = [str(w.message) for w in caught]
    assert any("left out depth that can't be read in 1 picture, first rgb/01.png (" in text for text in texts)
    assert any("left out instance ids that can't be read in 1 picture, first rgb/01.png (" in text for text in texts)
    assert any("left out 1 of 5 frames" in text and "m3.png: there is no such file" in text for text in texts)
    assert [v.name for v in views] == [f"rgb/0{i}.png" for i in (0, 1, 2, 4)]
    assert views[1].depth is None and views[1].ids is None and views[0].depth is not None
    for i in range(5):
        (tmp_path / f"d{i}.png").unlink(missing_ok=True)
    with pytest.raises(
        ViewError, match=r"nothing of the depth can be read; first .*d0.png: there is no such file; put it back"
    ):
        load_views(tmp_path, masks="ignore")


def test_depth_in_npy_may_be_smaller_than_the_picture_and_must_not_be_negative(tmp_path):
    write_set(tmp_path)
    np.save(tmp_path / "d.npy", np.array([[1.0, 2.0], [math.nan, math.inf]], np.float32).repeat(15, 0).repeat(20, 1))
    entry = {"depth_file_path": "d.npy", "depth_unit_scale_factor": 1.0}
    edit(tmp_path, lambda data: data.update(frames=[{**data["frames"][0], **entry}]))
    with pytest.warns(UserWarning, match="one view only"), pytest.warns(UserWarning, match="depth of 40x30 pixels"):
        depth = load_views(tmp_path)[0].depth
    assert (depth[:30, :40] == 1).all() and (depth[:30, 40:] == 2).all() and depth[30:].isnan().all()
    np.save(tmp_path / "d.npy", np.full((HEIGHT, WIDTH), -1.0))
    with pytest.raises(ViewError, match=r"d.npy: depth must not be negative, got -1"):
        load_views(tmp_path)


# -- real data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("lego", 80), ("room_hololens", 60), ("clips/fall_moving", 48)])
def test_real_sets_load_in_silence(name, count):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name}: the shared data is not here")
    views = loads_in_silence(SHARED / name)
    assert len(views) == count and views.scene_box().size.min() > 0
