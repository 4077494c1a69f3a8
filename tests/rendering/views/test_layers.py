"""Pictures, depth, masks and ids in the number types and formats that other programs write."""

import json
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from rendering import Camera
from rendering.views import View, ViewError
from rendering.views.files import load_views
from rendering.views.photos import upright_folder
from rendering.views.pictures import picture_size

WIDTH, HEIGHT = 8, 6


def pixels(seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def load(folder: Path, entries=None, size=(WIDTH, HEIGHT), **more) -> tuple[View, list[str]]:
    """The first of two views of a.png, and what was said beside that of masks."""
    frames = []
    for camera in Camera.orbit((0, 0, 0), 2.0, 2, *size, elevation_deg=30.0):
        matrix = camera.to_nerfstudio()["transform_matrix"]
        frames.append({"file_path": "a.png", "transform_matrix": matrix, **(entries or {})})
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 10.0, "w": size[0], "h": size[1], "frames": frames}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        view = load_views(folder, **more)[0]
    return view, [str(w.message) for w in caught if "give masks=empty" not in str(w.message)]


@pytest.fixture
def folder(tmp_path) -> Path:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    return tmp_path


# -- masks -------------------------------------------------------------------------------------------------------------

INSIDE = np.zeros((HEIGHT, WIDTH), bool)
INSIDE[1:5, 2:6] = True
STRIPES = np.arange(HEIGHT)[:, None] % 2 + np.zeros((1, WIDTH), int)  # 0 and 1


def palette(index: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(index.astype(np.uint8), mode=None).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([x for color in colors for x in color])
    return image


def with_alpha(rgb: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([rgb, alpha]).astype(np.uint8))


SET = np.where(INSIDE, 255, 0)
ONES = np.full((HEIGHT, WIDTH, 3), 255)
MASKS = {
    "0 and 255": Image.fromarray(SET.astype(np.uint8)),
    "0 and 1": Image.fromarray(INSIDE.astype(np.uint8)),
    "0 and another value": Image.fromarray(np.where(INSIDE, 180, 0).astype(np.uint8)),
    "labels": Image.fromarray(np.where(INSIDE, 1 + STRIPES * 6, 0).astype(np.uint8)),
    "1 bit": Image.fromarray(INSIDE),
    "16 bits": Image.fromarray(np.where(INSIDE, 65535, 0).astype(np.uint16)),
    "16 bits of 0 and 1": Image.fromarray(INSIDE.astype(np.uint16)),
    "16 bits of labels": Image.fromarray(np.where(INSIDE, 300 + STRIPES, 0).astype(np.uint16)),
    "grey in three channels": Image.fromarray(np.repeat(SET[..., None], 3, -1).astype(np.uint8)),
    "grey with alpha": Image.fromarray(np.dstack([SET, np.full_like(SET, 255)]).astype(np.uint8)),
    "white in alpha": with_alpha(ONES, SET),
    "a picture cut out by alpha": with_alpha(pixels(), SET),
    "a picture cut out by alpha, black beside it": with_alpha(pixels() * INSIDE[..., None], SET),
    "white on black, and alpha that is opaque": with_alpha(np.repeat(SET[..., None], 3, -1), np.full_like(SET, 255)),
    "a palette of greys in order": palette(INSIDE, (0, 0, 0), (255, 255, 255)),
    "a palette of greys in reverse": palette(~INSIDE, (255, 255, 255), (0, 0, 0)),
    "a palette of labels": palette(INSIDE * (1 + STRIPES), (0, 0, 0), (128, 0, 0), (0, 0, 90)),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_kind_are_read_as_what_they_show(folder, kind):
    MASKS[kind].save(folder / "m.png")
    view, said = load(folder, {"mask_path": "m.png"})
    assert said == [] and view.alpha is None and (view.valid.numpy() == INSIDE).all()
    view, _ = load(folder, {"mask_path": "m.png"}, masks="empty")
    assert view.valid.all() and (view.alpha.numpy() == INSIDE).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_masks_in_npy_are_read(folder, dtype):
    np.save(folder / "m.npy", INSIDE.astype(dtype))
    assert (load(folder, {"mask_path": "m.npy"})[0].valid.numpy() == INSIDE).all()


def test_levels_of_a_mask_are_opacity_or_all_valid_but_0(folder):
    levels = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8)
    Image.fromarray(levels).save(folder / "m.png")
    assert (load(folder, {"mask_path": "m.png"})[0].valid.numpy() == (levels > 0)).all()
    view, _ = load(folder, {"mask_path": "m.png"}, masks="empty")
    torch.testing.assert_close(view.alpha, torch.from_numpy(levels).float() / 255)
    Image.fromarray(levels.astype(np.uint16) * 257).save(folder / "m.png")
    view, _ = load(folder, {"mask_path": "m.png"}, masks="empty")
    torch.testing.assert_close(view.alpha, torch.from_numpy(levels).float() / 255)


def test_the_noise_of_a_lossy_mask_is_not_learned_from(tmp_path):
    size = (64, 48)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "a.png")
    column, row = np.meshgrid(np.arange(64), np.arange(48))
    inside = np.hypot(column - 30, row - 20) < 15
    Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).save(tmp_path / "m.jpg", quality=60)
    noisy = np.asarray(Image.open(tmp_path / "m.jpg"))
    assert ((noisy > 0) & ~inside).sum() > 50
    view, _ = load(tmp_path, {"mask_path": "m.jpg"}, size)
    assert (view.valid.numpy() != inside).mean() < 0.005


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.fromarray(pixels()), "expected a mask in grey, got colours (labels?)"),
        (palette(INSIDE, (200, 0, 0), (0, 90, 0)), "has a palette of colours whose first isn't black"),
        (with_alpha(np.repeat(255 * STRIPES[..., None], 3, -1), SET), "a mask in colours and another in alpha"),
        (with_alpha(0 * ONES, SET), "a mask in colours and another in alpha"),
        (Image.fromarray(pixels()).convert("CMYK"), "expected a mask in grey, got mode CMYK"),
    ],
)
def test_masks_that_can_be_read_in_two_ways_are_refused_by_name(folder, mask, message):
    mask.save(folder / ("m.tif" if mask.mode == "CMYK" else "m.png"))
    name = "m.tif" if mask.mode == "CMYK" else "m.png"
    with pytest.raises(ViewError, match=re.escape(message)) as error:
        load(folder, {"mask_path": name})
    assert name in str(error.value)


def test_numbers_that_no_mask_has_are_refused(folder):
    for numbers in (np.full((HEIGHT, WIDTH), -1), np.full((HEIGHT, WIDTH), np.nan), np.full((HEIGHT, WIDTH), 7.5)):
        np.save(folder / "m.npy", numbers)
        with pytest.raises(ViewError, match=r"m.npy: a mask holds numbers from 0 on, floats up to 1, got"):
            load(folder, {"mask_path": "m.npy"})


def test_ids_are_the_index_of_a_palette(folder):
    palette(INSIDE * (1 + STRIPES), (0, 0, 0), (128, 0, 0), (0, 0, 90)).save(folder / "i.png")
    view, _ = load(folder, {"instance_path": "i.png"})
    assert (view.ids.numpy() == INSIDE * (1 + STRIPES)).all()


# -- depth -------------------------------------------------------------------------------------------------------------


def save_depth(path: Path, steps: np.ndarray) -> None:
    np.save(path, steps) if path.suffix == ".npy" else Image.fromarray(steps).save(path)


@pytest.mark.parametrize(
    ("name", "dtype", "mark"),
    [
        ("d.png", np.uint16, 65535),
        ("d.tif", np.uint16, 65535),
        ("d.tif", np.int32, 65535),
        ("d.tif", np.int32, 2**31 - 1),
        ("d.tif", np.float32, 65535.0),
        ("d.tif", np.float32, -1.0),
        ("d.tif", np.float32, 1e10),
        ("d.tif", np.float32, np.finfo(np.float32).max),
        ("d.npy", np.uint16, 65535),
        ("d.npy", np.uint32, 2**32 - 1),
        ("d.npy", np.int16, 32767),
        ("d.npy", np.int16, -1),
        ("d.npy", np.float16, np.finfo(np.float16).max),
        ("d.npy", np.float64, -1.0),
        ("d.npy", np.dtype(">u2"), 65535),
    ],
)
def test_marks_of_missing_depth_are_missing_and_said(folder, name, dtype, mark):
    steps = np.full((HEIGHT, WIDTH), 2000, dtype)
    steps[2, 3] = mark
    save_depth(folder / name, steps)
    view, said = load(folder, {"depth_file_path": name})
    assert int(view.depth.isnan().sum()) == 1 and bool(view.depth[2, 3].isnan())
    assert float(view.depth[0, 0]) == pytest.approx(2.0)
    assert len(said) == 1 and f"depth {float(mark):g} is taken as missing in 2 pictures, first a.png" in said[0]


@pytest.mark.parametrize("name", ["d.tif", "d.npy", "d.pfm"])
def test_float_depth_is_read_with_0_nan_and_inf_missing_in_silence(folder, name):
    steps = np.full((HEIGHT, WIDTH), 2.5, np.float32)
    steps[0, :3] = (0, np.nan, np.inf)
    save_depth(folder / name, steps)
    view, said = load(folder, {"depth_file_path": name}, depth_unit=1.0)
    assert said == [] and view.depth[0, :3].isnan().all() and int(view.depth.isnan().sum()) == 3
    assert float(view.depth[1, 1]) == 2.5


def test_depth_of_negated_axes_is_refused(folder):
    np.save(folder / "d.npy", np.full((HEIGHT, WIDTH), -2.0, np.float32))
    with pytest.raises(
        ViewError, match=r"d.npy: depth must not be negative, got -2: the z of OpenGL axes has to be negated"
    ):
        load(folder, {"depth_file_path": "d.npy"})


def test_depth_formats_that_arent_read_say_what_to_write(folder):
    for name in ("d.exr", "d.npz"):
        np.savez(folder / "d.npz", np.ones((HEIGHT, WIDTH)))
        (folder / "d.exr").write_bytes(b"v/1\x01")
        with pytest.raises(ViewError, match=rf"{name}: .*") as error:
            load(folder, {"depth_file_path": name})
    assert "picture" in str(error.value)


# -- pictures ----------------------------------------------------------------------------------------------------------


def grey() -> np.ndarray:
    return pixels()[..., 0]


@pytest.mark.parametrize(
    ("image", "want", "alpha"),
    [
        (Image.fromarray(grey()), np.repeat(grey()[..., None], 3, -1), None),
        (Image.fromarray(np.dstack([grey(), SET]).astype(np.uint8)), np.repeat(grey()[..., None], 3, -1), INSIDE),
        (Image.fromarray(grey().astype(np.uint16) * 257), np.repeat(grey()[..., None], 3, -1), None),
        (Image.fromarray(INSIDE), np.repeat(SET[..., None], 3, -1), None),
        (palette(INSIDE, (9, 8, 7), (1, 2, 3)), np.where(INSIDE[..., None], (1, 2, 3), (9, 8, 7)), None),
        (with_alpha(pixels(), SET), pixels(), INSIDE),
    ],
)
def test_pictures_of_every_mode_are_read_as_what_they_show(folder, image, want, alpha):
    image.save(folder / "a.png")
    view, said = load(folder)
    assert said == [] and ((view.rgb * 255).round().numpy() == want).all()
    assert view.alpha is None if alpha is None else (view.alpha.numpy() == alpha).all()


def test_a_palette_with_a_transparent_colour_has_alpha(folder):
    palette(INSIDE, (9, 8, 7), (1, 2, 3)).save(folder / "a.png", transparency=0)
    assert (load(folder)[0].alpha.numpy() == INSIDE).all()


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "a.tif"), ("LAB", "a.tif"), ("F", "a.tif")])
def test_pictures_in_other_colours_are_refused_by_name(folder, mode, name):
    image = Image.fromarray(pixels())
    (Image.new("LAB", image.size) if mode == "LAB" else image.convert("L" if mode == "F" else mode).convert(mode)).save(
        folder / name
    )
    with pytest.raises(
        ViewError, match=rf"{name}: expected a picture in sRGB with 8 or 16 bits, got mode {mode}; convert it"
    ):
        load(folder, {"file_path": name})


# Of Display P3 (SMPTE EG 432-1): red, green and blue in XYZ of D50, as columns; and of sRGB (IEC 61966-2-1).
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def p3_profile() -> bytes:
    """A profile of three primaries and gamma 2.2, written by hand (ICC.1:2001-04)."""

    def xyz(values) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(65536 * x)) for x in values)

    desc = b"desc" + bytes(4) + struct.pack(">I", 3) + b"P3\0" + bytes(78)
    gamma = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    tags = {b"desc": desc + bytes(-len(desc) % 4), b"wtpt": xyz((0.9642, 1.0, 0.8249)), b"cprt": b"text" + bytes(8)}
    tags |= {b"rXYZ": xyz(P3[:, 0]), b"gXYZ": xyz(P3[:, 1]), b"bXYZ": xyz(P3[:, 2])}
    tags |= {b"rTRC": gamma, b"gTRC": gamma, b"bTRC": gamma}
    head, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        head += name + struct.pack(">II", at + len(body), len(data))
        body += data
    start = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ") + bytes(12)
    start += b"acsp" + bytes(28) + struct.pack(">iii", *(round(65536 * x) for x in (0.9642, 1.0, 0.8249)))
    return start + bytes(128 - len(start)) + head + body


def test_colours_with_a_profile_of_their_own_become_srgb(folder):
    dull = 80 + pixels() // 3  # what sRGB can show, too
    Image.fromarray(dull).save(folder / "a.png", icc_profile=p3_profile())
    linear = (dull / 255.0) ** 2.2 @ P3.T @ np.linalg.inv(SRGB).T
    want = np.where(linear > 0.0031308, 1.055 * linear.clip(0) ** (1 / 2.4) - 0.055, 12.92 * linear)
    view, said = load(folder)
    assert said == [] and np.abs(view.rgb.numpy() - want).max() < 2.5 / 255
    assert np.abs(dull / 255.0 - want).max() > 10 / 255
    profile = p3_profile()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels()).save(folder / "a.png", icc_profile=srgb)
    assert ((load(folder)[0].rgb * 255).round().numpy() == pixels()).all()
    Image.fromarray(pixels()).save(folder / "a.png", icc_profile=profile[: len(profile) // 2])
    assert ((load(folder)[0].rgb * 255).round().numpy() == pixels()).all()  # a damaged profile says nothing


# -- EXIF orientation --------------------------------------------------------------------------------------------------

# What EXIF says with each number: how what was seen is stored.
SEEN_AS = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.transpose(1, 0, 2),
    6: np.rot90,  # turned clockwise it stands
    7: lambda seen: seen[::-1, ::-1].transpose(1, 0, 2),
    8: lambda seen: np.rot90(seen, -1),
}


def save_turned(path: Path, seen: np.ndarray, orientation: int) -> np.ndarray:
    """Stores a picture so that its orientation turns it into what was seen; returns what is stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(SEEN_AS[orientation](seen))
    Image.fromarray(stored).save(path, exif=exif)
    return stored


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_by_its_exif_orientation_where_w_and_h_say_so(tmp_path, orientation):
    seen = pixels()
    stored = save_turned(tmp_path / "a.png", seen, orientation)
    with Image.open(tmp_path / "a.png") as image:
        assert (np.asarray(ImageOps.exif_transpose(image)) == seen).all()  # as the standard's readers have it
    view, said = load(tmp_path, size=(WIDTH, HEIGHT))
    if orientation >= 5:
        assert said == [] and ((view.rgb * 255).round().numpy() == seen).all()
    view, said = load(tmp_path, size=stored.shape[1::-1])
    assert ((view.rgb * 255).round().numpy() == stored).all()
    if orientation in (1, 5, 6, 7, 8):
        assert said == []
    else:  # as COLMAP and nerfstudio read it, which w and h don't contradict
        assert len(said) == 1 and "the EXIF orientation isn't applied, as w and h fit" in said[0]


def test_without_w_and_h_the_optical_axis_says_whether_a_picture_is_turned(tmp_path):
    save_turned(tmp_path / "a.png", pixels(), 6)
    for size, turned in (((WIDTH, HEIGHT), True), ((HEIGHT, WIDTH), False)):
        frames = [{"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}]
        data = {"fl_x": 10.0, "cx": size[0] / 2 + 0.1, "cy": size[1] / 2, "frames": frames}
        (tmp_path / "transforms.json").write_text(json.dumps(data))
        with pytest.warns(UserWarning, match="one view only"):
            view = load_views(tmp_path)[0]
        assert (view.camera.width, view.camera.height) == size
        assert ((view.rgb * 255).round().numpy() == pixels()).all() if turned else view.rgb.shape == (WIDTH, HEIGHT, 3)


def test_w_and_h_that_fit_neither_way_are_refused(tmp_path):
    save_turned(tmp_path / "a.png", pixels(), 6)
    with pytest.raises(ViewError, match="the picture has 6x8 pixels, but w and h say 16x12"):
        load(tmp_path, size=(16, 12))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_photos_are_given_upright_to_those_who_find_their_cameras(tmp_path, orientation):
    save_turned(tmp_path / "a.png", pixels(1), orientation)
    save_turned(tmp_path / "b.png", pixels(2), 1)
    folder = upright_folder(tmp_path, ["a.png", "b.png"], tmp_path / "work")
    for name, seed in (("a.png", 1), ("b.png", 2)):
        assert picture_size(folder / name) == ((WIDTH, HEIGHT), 1)
        with Image.open(folder / name) as image:
            assert (np.asarray(image) == pixels(seed)).all()


def test_photos_that_stand_upright_are_looked_at_where_they_are(tmp_path):
    save_turned(tmp_path / "a.png", pixels(), 1)
    assert upright_folder(tmp_path, ["a.png"], tmp_path / "work") == tmp_path and not (tmp_path / "work").exists()
