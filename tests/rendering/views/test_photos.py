"""Folders of plain photos, whose cameras are found."""

import importlib
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from rendering import Camera
from rendering.views import ViewError, files, photos
from rendering.views.files import load_views
from rendering.views.lens import Lens
from tests.rendering.views.sets import around, checks, write_png


def textured(p: np.ndarray) -> np.ndarray:
    grain = np.random.default_rng(0).random((32, 32, 32, 3))
    mixed = np.zeros((len(p), 3))
    for frequency, part in ((6, 0.4), (14, 0.6)):
        place = (p * frequency).T
        mixed += part * np.stack(
            [ndimage.map_coordinates(grain[..., i], place, order=1, mode="grid-wrap") for i in range(3)], -1
        )
    return np.clip((mixed - 0.5) * 1.8 + 0.5, 0, 1)


def photo(camera: Camera) -> np.ndarray:
    """Textured boxes on a textured floor."""
    boxes = [((-2, -2, -0.2), (2, 2, 0)), ((-0.4, -0.3, 0), (0.1, 0.3, 0.5)), ((0.2, -0.2, 0), (0.6, 0.2, 0.25))]
    rays = camera.rays()
    o, d = rays.origins.numpy(), rays.directions.numpy()
    best = np.full(len(o), np.inf)
    for lo, hi in boxes:
        a, b = (np.array(lo) - o) / d, (np.array(hi) - o) / d
        enter, leave = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
        best = np.where((enter < leave) & (enter > 0) & (enter < best), enter, best)
    hit = np.isfinite(best)
    rgb = np.full((len(o), 3), 0.5)
    rgb[hit] = textured(o[hit] + d[hit] * best[hit, None])
    return (rgb * 255).astype(np.uint8).reshape(camera.height, camera.width, 3)


N_PHOTOS, PHOTO_SIZE = 10, (320, 240)


def test_photos_find_their_cameras_the_same_each_time(tmp_path):
    pytest.importorskip("pycolmap", reason="pycolmap finds the cameras of photos; it is not installed")
    cameras = {}
    for i in range(N_PHOTOS):
        angle = math.radians(-60 + 120 * i / (N_PHOTOS - 1))
        eye = (1.6 * math.cos(angle), 1.6 * math.sin(angle), 0.8 + 0.3 * (i % 2))
        cameras[f"p{i:02}.png"] = Camera.look_at(eye, (0, 0, 0.2), *PHOTO_SIZE, 45.0)
        write_png(tmp_path / f"p{i:02}.png", photo(cameras[f"p{i:02}.png"]))
    views, again = load_views(tmp_path), load_views(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(cameras)  # nothing was written there
    assert [v.name for v in views] == sorted(cameras)
    for a, b in zip(views, again, strict=True):
        assert torch.equal(a.camera.T_world_cam.as_matrix(), b.camera.T_world_cam.as_matrix())
        assert a.camera.fx == b.camera.fx == pytest.approx(cameras[a.name].fx, rel=0.02)
    # The cameras are where they were, but for a similarity.
    found = np.stack([v.camera.position_world.numpy() for v in views])
    true = np.stack([cameras[v.name].position_world.numpy() for v in views])
    p, q = found - found.mean(0), true - true.mean(0)
    u, s, vt = np.linalg.svd(q.T @ p)
    scale = s.sum() / (p**2).sum()
    assert np.linalg.norm(scale * p @ (u @ vt).T - q, axis=1).max() < 0.01
    # As promised: up, centre, unit.
    up = -np.mean([camera.T_world_cam.rotation()[:, 1].numpy() for camera in cameras.values()], axis=0)
    assert (u @ vt)[:, 2] @ (up / np.linalg.norm(up)) > 0.999
    assert np.median(np.linalg.norm(found, axis=1)) == pytest.approx(1, abs=1e-6)
    meeting = np.linalg.inv(u @ vt) @ ((np.array([0, 0, 0.2]) - true.mean(0)) / scale) + found.mean(0)
    assert np.linalg.norm(meeting) < 0.02
    assert views.landmarks is not None and len(views.landmarks) > 100
    box = views.scene_box()
    assert bool((box.lo < 0).all()) and bool((box.hi > 0).all())


def test_photos_held_upright_give_a_world_that_stands_upright_by_their_exif_orientation(tmp_path):
    pytest.importorskip("pycolmap", reason="pycolmap finds the cameras of photos; it is not installed")
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(N_PHOTOS):
        angle = math.radians(-60 + 120 * i / (N_PHOTOS - 1))
        eye = (1.6 * math.cos(angle), 1.6 * math.sin(angle), 0.8 + 0.3 * (i % 2))
        stored = np.rot90(photo(Camera.look_at(eye, (0, 0, 0.2), *PHOTO_SIZE[::-1], 60.0)))
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"p{i:02}.jpg", exif=exif, quality=95)
    views = load_views(tmp_path)
    assert len(views) == N_PHOTOS and tuple(views[0].rgb.shape[:2]) == PHOTO_SIZE
    # Seen from above, cameras that stand around something in a plane all have their tops towards z.
    tops = np.stack([-view.camera.T_world_cam.rotation()[:, 1].numpy() for view in views])
    ahead = np.stack([view.camera.T_world_cam.rotation()[:, 2].numpy() for view in views])
    assert (tops[:, 2] > 0.7).all() and (np.abs(ahead[:, 2]) < 0.6).all()


def test_photos_without_pycolmap_say_what_to_install(tmp_path, monkeypatch):
    real = importlib.import_module

    def absent(name, *more):
        if name == "pycolmap":
            raise ModuleNotFoundError(name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", absent)
    for i in range(3):
        write_png(tmp_path / f"images/{i}.jpg", checks())
    with pytest.raises(
        ViewError, match="finding cameras needs pycolmap, which is not installed: pip install 'sirenscape"
    ):
        load_views(tmp_path)


@pytest.mark.parametrize(
    ("name", "program"), [("cameras_sphere.npz", "IDR and NeuS"), ("meta_data.json", "SDFStudio"), ("sparse", "COLMAP")]
)
def test_cameras_of_other_programs_are_named_where_nothing_else_is_read(tmp_path, name, program):
    (tmp_path / name).mkdir()
    with pytest.raises(ViewError, match=rf"no transforms.json.*; {name} \({program}\) isn't read: convert it"):
        load_views(tmp_path)


def test_what_lies_beside_photos_and_isnt_read_is_said(tmp_path, monkeypatch):
    for i in range(4):
        write_png(tmp_path / f"images/{i}.png", checks())
    whole = (tmp_path / "images/1.png").read_bytes()
    (tmp_path / "images/1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images/IMG_9.HEIC").write_bytes(b"a phone wrote this")
    (tmp_path / "only").mkdir()
    (tmp_path / "only/IMG_9.HEIC").write_bytes(b"a phone wrote this")
    with pytest.raises(ViewError, match=r"no picture \(.png.*; 1 pictures like IMG_9.HEIC aren't read: convert them"):
        load_views(tmp_path / "only")
    (tmp_path / "sparse").mkdir()
    (tmp_path / "masks").mkdir()

    def found(folder, names):
        cameras = {name: (camera, Lens()) for name, camera in zip(names, around(3), strict=True)}
        return photos.FoundCameras(cameras, torch.zeros(0, 3))

    monkeypatch.setattr(files, "find_cameras", found)
    with pytest.warns(UserWarning, match=r"isn't read|aren't read|left out") as caught:
        views = load_views(tmp_path)
    texts = [str(w.message) for w in caught]
    assert [v.name for v in views] == [f"images/{i}.png" for i in (0, 2, 3)] and len(texts) == 4
    assert any("left out 1 pictures in formats that aren't read, first IMG_9.HEIC" in text for text in texts)
    assert any("sparse (COLMAP) isn't read: the cameras were found anew" in text for text in texts)
    assert any("the masks in masks/ aren't read" in text for text in texts)
    assert any("left out 1 of 4 frames" in text and "images/1.png: the picture is damaged" in text for text in texts)


def test_too_few_photos_are_refused(tmp_path):
    write_png(tmp_path / "a.png", checks())
    with pytest.raises(ViewError, match="needs at least 3 photos, got 1"):
        load_views(tmp_path)
