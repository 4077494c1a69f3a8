"""What other programs write into a transforms.json: names of keys, lenses, paths, encodings, masks, values of a wrong kind."""

import codecs
import copy
import itertools
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rendering import Camera
from rendering.views import ViewError, Views, keys
from rendering.views.files import load_views

WIDTH, HEIGHT, N = 16, 12, 3


def cameras() -> list[Camera]:
    return Camera.orbit((0, 0, 0), 2.0, N, WIDTH, HEIGHT, elevation_deg=30.0)


def picture(i: int = 0) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def data(tmp_path) -> dict:
    """A transforms.json that loads without a word, before it is written; its pictures, and layers that it doesn't name."""
    shots = cameras()
    for i in range(N):
        write(tmp_path / f"images/r_{i}.png", picture(i))
        write(tmp_path / f"images/d_{i}.png", np.full((HEIGHT, WIDTH), 2000 + i, np.uint16))
        mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
        mask[:3, :4] = 0
        write(tmp_path / f"images/m_{i}.png", mask)
        write(tmp_path / f"images/i_{i}.png", np.full((HEIGHT, WIDTH), 7, np.uint8))
    first = shots[0]
    top = {"fl_x": first.fx, "fl_y": first.fy, "cx": first.cx, "cy": first.cy, "w": WIDTH, "h": HEIGHT}
    frames = [
        {"file_path": f"images/r_{i}.png", "transform_matrix": shot.to_nerfstudio()["transform_matrix"]}
        for i, shot in enumerate(shots)
    ]
    return {**top, "frames": frames}


def load(folder: Path, data: dict, **more) -> tuple[Views, list[str]]:
    """The views, and what was said."""
    (folder / "transforms.json").write_text(json.dumps(data))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        views = load_views(folder, **more)
    return views, [str(w.message) for w in caught]


def in_frames(data: dict, **entries) -> dict:
    """Entries with {i} for the number of the frame, in each."""
    for i, frame in enumerate(data["frames"]):
        frame |= {key: value.format(i=i) if isinstance(value, str) else value for key, value in entries.items()}
    return data


def test_plain_keys_are_read_without_a_word(tmp_path, data):
    views, said = load(tmp_path, data)
    assert len(views) == N and said == []


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["depth_path", "depth", "depth_filename", "depth_file"])
def test_depth_is_read_under_the_names_of_peers_and_that_is_said(tmp_path, data, key):
    views, said = load(tmp_path, in_frames({**data, "integer_depth_scale": 0.0005}, **{key: "images/d_{i}.png"}))
    assert float(views[1].depth[0, 0]) == pytest.approx(2001 * 0.0005)
    assert len(said) == 1
    assert f"read {key} as depth_file_path, integer_depth_scale as depth_unit_scale_factor" in said[0]


def test_depth_that_instant_ngp_wouldnt_load_is_not_loaded_and_a_unit_that_is_guessed_is_said(tmp_path, data):
    in_frames(data, depth_path="images/d_{i}.png")
    views, said = load(tmp_path, {**data, "integer_depth_scale": 0.001, "enable_depth_loading": False})
    assert views[0].depth is None and any("enable_depth_loading is false" in text for text in said)
    views, said = load(tmp_path, data)
    assert float(views[0].depth[0, 0]) == pytest.approx(2.0)
    assert any("depth_path without integer_depth_scale: 0.001 m a step" in text for text in said)


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("mask_filename", "images/m_{i}.png", "mask_path"),
        ("mask_file_path", "images/m_{i}.png", "mask_path"),
        ("mask", "images/m_{i}.png", "mask_path"),
        ("instance_file_path", "images/i_{i}.png", "instance_path"),
        ("instance_mask_path", "images/i_{i}.png", "instance_path"),
    ],
)
def test_masks_and_ids_are_read_under_the_names_of_peers_and_that_is_said(tmp_path, data, key, value, name):
    views, said = load(tmp_path, in_frames(data, **{key: value}))
    assert any(f"read {key} as {name}" in text for text in said)
    if name == "mask_path":
        assert (
            views[0].alpha is None and not views[0].valid[:3, :4].any() and views[0].valid.sum() == WIDTH * HEIGHT - 12
        )
    else:
        assert bool((views[0].ids == 7).all())


def test_a_file_path_under_another_name_is_read(tmp_path, data):
    for frame in data["frames"]:
        frame["rgb_path"] = frame.pop("file_path")
    views, said = load(tmp_path, data)
    assert views[0].name == "images/r_0.png" and "read rgb_path as file_path" in said[0]


FOCAL = 20.0
MATRIX = [[FOCAL, 0.0, 7.5], [0.0, FOCAL, 6.5], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    "entries",
    [
        {"fx": FOCAL, "fy": FOCAL, "c_x": 7.5, "c_y": 6.5},
        {"K": MATRIX},
        {"intrinsic_matrix": [[*row, 0.0] for row in MATRIX] + [[0.0, 0.0, 0.0, 1.0]]},
        {"intrinsics": [x for row in MATRIX for x in row]},
        {"intrinsics": {"fx": FOCAL, "fy": FOCAL, "cx": 7.5, "cy": 6.5, "width": WIDTH, "height": HEIGHT}},
        {"camera": {"fl_x": FOCAL, "cx": 7.5, "cy": 6.5}},
        {"x_fov": math.degrees(2 * math.atan(0.5 * WIDTH / FOCAL)), "cx": 7.5, "cy": 6.5},
        {"camera_angle_x": 2 * math.atan(0.5 * WIDTH / FOCAL), "cx": 7.5, "cy": 6.5},
    ],
)
@pytest.mark.parametrize("place", ["top", "frames"])
def test_focal_lengths_are_read_in_every_form_and_those_of_a_frame_go_before_the_tops(tmp_path, data, entries, place):
    if place == "top":
        data = {key: value for key, value in data.items() if key == "frames"} | entries
    else:
        in_frames(data, **entries)
    views, _ = load(tmp_path, data)
    camera = views[2].camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == pytest.approx((FOCAL, FOCAL, 7.5, 6.5))


def test_a_matrix_with_skew_or_of_another_shape_is_refused(tmp_path, data):
    with pytest.raises(ViewError, match="K must be fx 0 cx, 0 fy cy, 0 0 1, without skew"):
        load(tmp_path, {**data, "K": [[20.0, 3.0, 8.0], [0.0, 20.0, 6.0], [0.0, 0.0, 1.0]]})
    with pytest.raises(ViewError, match=r"K must be a 3x3 matrix, got shape \[2\]"):
        load(tmp_path, {**data, "K": [20.0, 20.0]})


def test_focal_length_and_angle_that_contradict_each_other_are_said(tmp_path, data):
    angle = 2 * math.atan(0.5 * WIDTH / data["fl_x"])
    assert load(tmp_path, {**data, "camera_angle_x": angle})[1] == []
    views, said = load(tmp_path, {**data, "camera_angle_x": 2 * angle})
    assert views[0].camera.fx == data["fl_x"]
    assert len(said) == 1 and re.search("fl_x .* is taken, not camera_angle_x, which means .* in 3 pictures", said[0])


def test_an_optical_axis_outside_of_the_picture_is_said(tmp_path, data):
    _, said = load(tmp_path, {**data, "cx": 4 * WIDTH})
    assert any("the optical axis (cx 64, cy 6) is not in the picture (16x12)" in text for text in said)


@pytest.mark.parametrize(
    ("entries", "model"),
    [
        ({"is_fisheye": True}, "'OPENCV_FISHEYE' (is_fisheye is true)"),
        ({"is_fisheye": 1}, "'OPENCV_FISHEYE'"),
        ({"camera_model": "OPENCV", "is_fisheye": True}, "'OPENCV_FISHEYE'"),
        ({"camera": {"is_fisheye": True}}, "'OPENCV_FISHEYE'"),
        ({"equirectangular": True}, "'EQUIRECTANGULAR'"),
        ({"camera_model": "EQUIRECTANGULAR"}, "'EQUIRECTANGULAR'"),
        ({"camera_model": "THIN_PRISM_FISHEYE"}, "'THIN_PRISM_FISHEYE'"),
        ({"camera_type": "fisheye"}, "'fisheye'"),
        ({"ftheta_p0": 0.1}, "'FTHETA_P0'"),
        ({"camera_model": 7}, "7"),
    ],
)
@pytest.mark.parametrize("place", ["top", "frames"])
def test_other_lenses_are_refused_wherever_they_are_named(tmp_path, data, entries, model, place):
    data = {**data, **entries} if place == "top" else in_frames(data, **copy.deepcopy(entries))
    with pytest.raises(ViewError, match=re.escape(f"camera_model {model}") + ".* is unknown; known are PINHOLE"):
        load(tmp_path, data)


@pytest.mark.parametrize(
    "entries",
    [
        {"is_fisheye": False},
        {"camera_model": "opencv"},
        {"camera_type": "perspective"},
        {"camera_model": "FULL_OPENCV", "k4": 0.0, "k5": 0, "k6": 0},
        {"distortion_params": [0.0, 0.0, 0.0]},
    ],
)
def test_lenses_that_are_none_of_these_are_read(tmp_path, data, entries):
    assert len(load(tmp_path, {**data, **entries})[0]) == N


def test_coefficients_that_arent_read_are_refused_unless_0(tmp_path, data):
    for key, value in (("k4", 0.1), ("k6", 0.1), ("s1", 0.1)):
        with pytest.raises(ViewError, match=f"{key} is 0.1, but camera_model OPENCV has no {key}"):
            load(tmp_path, {**data, key: value})
    with pytest.raises(ViewError, match="distortion_params aren't read"):
        load(tmp_path, {**data, "distortion_params": [0.1, 0.0]})


def test_what_isnt_taken_is_named_in_one_note_at_every_level(tmp_path, data):
    in_frames(data, normal_file_path="n.png", instance_paht="images/i_{i}.png", white_transparent=False)
    _, said = load(tmp_path, {**data, "rolling_shutter": [0, 0, 1], "depht_unit_scale_factor": 0.1, "wobble": {"a": 1}})
    assert len(said) == 1
    for part in (
        "nothing is made of 'rolling_shutter' (all of a picture is taken to be seen from one place)",
        "'normal_file_path' (normals aren't learned from)",
        "'depht_unit_scale_factor' (did you mean 'depth_unit_scale_factor'?)",
        "'instance_paht' (did you mean 'instance_path'?)",
        "'wobble' (it isn't known)",
    ):
        assert part in said[0]
    assert "white_transparent" not in said[0] and "\n" not in said[0]


def test_keys_that_say_nothing_of_the_scene_are_passed_over_in_silence(tmp_path, data):
    in_frames(data, sharpness=20.0, colmap_im_id=3, source_frame=4)
    _, said = load(
        tmp_path,
        {**data, "aabb_scale": 16, "scale": 0.33, "offset": [0.5] * 3, "ply_file_path": "a.ply", "time_note": ""},
    )
    assert said == []


def test_all_keys_stand_in_the_table():
    table = set(re.findall(r"\w+", keys.__doc__))
    written = {f"instance_{word}" for word in ("path", "file_path", "filename", "file")}
    for group in (keys.KNOWN, keys.ALIASES, keys.HARMLESS, keys.MATRIX, keys.INSIDE):
        assert set(group) - written - {"k5", "k6", "s1", "s2", "s3", "s4", "distortion_params"} <= table


def test_poses_with_other_axes_are_refused_or_turned(tmp_path, data):
    with pytest.raises(ViewError, match="from_mitsuba: cameras and world have Mitsuba's axes"):
        load(tmp_path, {**data, "from_mitsuba": True})
    opengl, _ = load(tmp_path, data)
    for frame in data["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ np.diag([1.0, -1, -1, 1])).tolist()
    opencv, _ = load(tmp_path, {**data, "from_na": True})
    for a, b in zip(opengl, opencv, strict=True):
        torch.testing.assert_close(a.camera.T_world_cam.as_matrix(), b.camera.T_world_cam.as_matrix())


def test_applied_scale_multiplies_depth_as_in_nerfstudio_and_is_said(tmp_path, data):
    in_frames(data, depth_file_path="images/d_{i}.png")
    views, said = load(tmp_path, {**data, "applied_scale": 0.5})
    assert float(views[0].depth[0, 0]) == pytest.approx(1.0)
    torch.testing.assert_close(views[0].camera.position_world, cameras()[0].position_world)
    assert any("metres times its applied_scale 0.5, and depth is multiplied by it" in text for text in said)
    with pytest.raises(ViewError, match="applied_scale must be greater than 0"):
        load(tmp_path, {**data, "applied_scale": 0})


def test_lists_of_splits_are_compared_as_paths_and_said_where_they_arent_looked_at(tmp_path, data):
    data["train_filenames"] = ["./images\\r_0.png", "images/r_2.png", "images/r_9.png"]
    views, said = load(tmp_path, data, split="train")
    assert [v.name for v in views] == ["images/r_0.png", "images/r_2.png"]
    assert any("train_filenames names 1 pictures of no frame, first images/r_9.png" in text for text in said)
    views, said = load(tmp_path, data)
    assert len(views) == N and any("train_filenames aren't looked at without split=" in text for text in said)


def test_masks_that_instant_ngp_finds_by_their_names_are_said(tmp_path, data):
    write(tmp_path / "images/dynamic_mask_r_1.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    _, said = load(tmp_path, data)
    assert len(said) == 1 and "dynamic_mask_*.png beside pictures isn't read" in said[0]


# -- masks -------------------------------------------------------------------------------------------------------------


def test_what_a_mask_leaves_is_learned_from_and_alpha_stays_what_is_empty(tmp_path, data):
    for i in range(N):
        alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
        alpha[:, -3:] = 0
        write(tmp_path / f"images/r_{i}.png", np.dstack([picture(i), alpha]))
    in_frames(data, mask_path="images/m_{i}.png")
    view = load(tmp_path, data)[0][0]
    assert not view.valid[:3, :4].any() and view.valid[3:].all()
    assert (view.alpha[:, -3:] == 0).all() and (view.alpha[:, :-3] == 1).all()
    view = load(tmp_path, data, masks="empty")[0][0]
    assert view.valid.all() and (view.alpha[:3, :4] == 0).all() and (view.alpha[:, -3:] == 0).all()


def test_how_a_mask_is_meant_is_said_unless_it_is_given(tmp_path, data):
    in_frames(data, mask_path="images/m_{i}.png")
    _, said = load(tmp_path, data)
    assert len(said) == 1 and "give masks=empty" in said[0]
    assert load(tmp_path, data, masks="ignore")[1] == load(tmp_path, data, masks="empty")[1] == []
    for frame in data["frames"]:
        del frame["mask_path"]
    assert "masks=empty has nothing to say" in load(tmp_path, data, masks="empty")[1][0]


def test_ignored_pixels_arent_mixed_into_others_where_a_lens_is_undone(tmp_path, data):
    for i in range(N):
        spotted = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
        spotted[:3, :4] = 0
        write(tmp_path / f"images/r_{i}.png", spotted)
    in_frames(data, mask_path="images/m_{i}.png")
    view = load(tmp_path, {**data, "k1": 0.05})[0][0]
    assert 0.5 < float(view.valid.float().mean()) < 0.95
    torch.testing.assert_close(view.rgb[view.valid], torch.full_like(view.rgb[view.valid], 200 / 255))


# -- paths and text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "images\\r_{i}.png",
        ".\\images\\r_{i}.png",
        "./images/r_{i}.png",
        "  images/r_{i}.png \n",
        "images//r_{i}.png",
        "images/../images/r_{i}.png",
        "images/r_{i}",
        "images/r_{i}.PNG",
        "Images/R_{i}.png",
        "IMAGES\\R_{i}",
    ],
)
def test_paths_as_other_systems_write_them_lead_to_their_files(tmp_path, data, name):
    layers = {"depth_file_path": "images\\d_{i}.png", "mask_path": " ./images/m_{i}.PNG"}
    views, said = load(tmp_path, in_frames(data, file_path=name, **layers), masks="ignore")
    assert said == [] and len(views) == N
    assert views[1].depth is not None and not views[1].valid.all()


def test_a_suffix_in_upper_case_is_found_for_a_name_without_one(tmp_path, data):
    for i in range(N):
        (tmp_path / f"images/r_{i}.png").rename(tmp_path / f"images/r_{i}.PNG")
    assert len(load(tmp_path, in_frames(data, file_path="images/r_{i}"))[0]) == N


def test_absolute_paths_are_read_where_there_is_a_file_and_refused_elsewhere(tmp_path, data):
    assert len(load(tmp_path, in_frames(data, file_path=f"{tmp_path}/images/r_{{i}}.png"))[0]) == N
    for path in ("/home/someone/images/r_0.png", "C:\\data\\r_0.png", "\\\\server\\share\\r_0.png", "D:/r_0.png"):
        with pytest.raises(
            ViewError, match=r"frames\[0\]: file_path: .* is an absolute path of another machine"
        ) as error:
            load(tmp_path, in_frames(data, file_path=path))
        assert "write paths relative to" in str(error.value)


@pytest.mark.parametrize(
    "path", ["../images/r_{i}.png", "x/../../images/r_{i}.png", "..\\images\\r_{i}.png", "{top}/images/r_{i}.png"]
)
def test_pictures_may_lie_beside_the_folder(tmp_path, data, path):
    inner = tmp_path / "inner"
    inner.mkdir()
    views, _ = load(inner, in_frames(data, file_path=path.replace("{top}", str(tmp_path))))
    assert len(views) == N


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_text_in_any_usual_encoding_is_read(tmp_path, data, encoding):
    (tmp_path / "images").rename(tmp_path / "Büro")
    in_frames(data, file_path="Büro/r_{i}.png")
    (tmp_path / "transforms.json").write_bytes(json.dumps(data, ensure_ascii=False).encode(encoding))
    assert [v.name for v in load_views(tmp_path)] == [f"Büro/r_{i}.png" for i in range(N)]


def test_a_byte_order_mark_before_other_text_is_named(tmp_path):
    (tmp_path / "transforms.json").write_bytes(codecs.BOM_UTF8 + b'{"a": "\xff"}')
    with pytest.raises(ViewError, match="expected text in UTF-8, got other bytes at place"):
        load_views(tmp_path)


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [["a"], {"a": 1}, 3, True, [], [[]]])
def test_a_file_path_that_is_no_text_is_named_with_its_frame(tmp_path, data, value):
    data["frames"][1]["file_path"] = value
    with pytest.raises(ViewError, match=r"frames\[1\]: expected an object with a text 'file_path', got") as error:
        load(tmp_path, data)
    assert str(value) in str(error.value)


def places(value, path=()):
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


ODD = [
    None, [], {}, [[]], "", "text", "\x00", "\ud800", "x" * 5000, 0, -1, 1e308, 10**400, math.nan, math.inf, True, ["a"],
    {"a": 1}, [None], [[None] * 4] * 4,
]  # fmt: skip


def refused(folder: Path, data) -> str | None:
    try:
        load(folder, data, masks="ignore")
    except ViewError as error:
        return str(error)
    return None


def test_every_value_of_a_wrong_kind_is_read_or_refused_in_one_line(tmp_path, data):
    in_frames(data, depth_file_path="images/d_{i}.png", mask_path="images/m_{i}.png", time=0.5)
    data |= {"k1": 0.01, "is_fisheye": False, "applied_scale": 1.0, "applied_transform": np.eye(4)[:3].tolist()}
    data |= {"depth_unit_scale_factor": 0.001, "from_na": False, "camera": {"k2": 0.0}, "K": None}
    data["frames"] = data["frames"][:1]
    n_refused = 0
    for path, odd in itertools.product(list(places(data)), ODD):
        changed = copy.deepcopy(data)
        at = changed
        for key in path[:-1]:
            at = at[key]
        if path:
            at[path[-1]] = odd
        else:
            changed = odd
        refusal = refused(tmp_path, changed)
        n_refused += refusal is not None
        assert refusal is None or (refusal.startswith(str(tmp_path)) and "\n" not in refusal), (path, odd)
    assert n_refused > 300
