"""Pictures and what lies beside them, freed of the lens."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize

from rendering import Camera, save_transforms
from rendering.views.files import load_views
from rendering.views.lens import Lens, undistortion
from tests.rendering.views.sets import HEIGHT, WIDTH, around, edit, in_file, loads_in_silence, write_png, write_set

LENS = {"k1": 0.12, "k2": -0.03, "k3": 0.004, "p1": 0.004, "p2": -0.006}


def opencv_distorted(x, y):
    """The formulas as OpenCV's documentation writes them."""
    k1, k2, k3, p1, p2 = LENS.values()
    r = math.hypot(x, y) if np.isscalar(x) else np.hypot(x, y)
    factor = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6
    return x * factor + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2), y * factor + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y


def seen_through_lens(camera: Camera) -> np.ndarray:
    """Undistorted coordinates of each pixel of the distorted picture, by solving the formulas."""
    uv = camera.pixel_centers().numpy()
    bent = (uv - [camera.cx, camera.cy]) / [camera.fx, camera.fy]

    def miss(flat):
        x, y = flat.reshape(2, -1)
        return np.concatenate(opencv_distorted(x, y)) - bent.T.ravel()

    found = optimize.root(miss, bent.T.ravel(), method="krylov", options={"fatol": 1e-10}).x
    return found.reshape(2, camera.height, camera.width)


def smooth_picture(x, y) -> np.ndarray:
    waves = [0.5 + 0.4 * np.sin(5 * x + 2 * y), 0.5 + 0.4 * np.cos(4 * y), 0.5 + 0.2 * x]
    return np.rint(255 * np.stack(waves, -1)).astype(np.uint8)


def test_pictures_and_layers_are_freed_of_the_lens(tmp_path):
    cameras = around(3)
    x, y = seen_through_lens(cameras[0])
    steps = (2000 + 200 * (x > 0.1) + 500 * (y > -0.2)).astype(np.uint16)
    names = [f"{i}.png" for i in range(3)]
    for name in names:
        write_png(tmp_path / name, smooth_picture(x, y))
        write_png(tmp_path / f"depth{name}", steps)
        write_png(tmp_path / f"ids{name}", (1 + (x > 0.1)).astype(np.uint8))
    more = [{"depth_file_path": f"depth{n}", "instance_path": f"ids{n}"} for n in names]
    save_transforms(tmp_path / "transforms.json", cameras, names, frame_entries=more)
    edit(tmp_path, in_file(camera_model="OPENCV", **LENS))
    edit(tmp_path, lambda data: data.update(frames=data["frames"][:1]))
    with pytest.warns(UserWarning, match="one view only"):
        view = load_views(tmp_path)[0]
    uv = view.camera.pixel_centers().numpy().reshape(HEIGHT, WIDTH, 2)
    x, y = (uv[..., 0] - view.camera.cx) / view.camera.fx, (uv[..., 1] - view.camera.cy) / view.camera.fy
    valid = view.valid.numpy()
    assert 0.7 < valid.mean() < 0.999  # the corners lie beyond the picture
    within = ndimage.binary_erosion(valid, iterations=1)  # the outermost half pixel has nothing to interpolate with
    error = np.abs(view.rgb.numpy() * 255 - smooth_picture(x, y))[within]
    assert error.max() < 2.5
    away = valid & (np.abs(x - 0.1) > 0.03) & (np.abs(y + 0.2) > 0.03)
    np.testing.assert_allclose(view.depth.numpy()[away], (2 + 0.2 * (x > 0.1) + 0.5 * (y > -0.2))[away], rtol=1e-6)
    assert (view.ids.numpy()[away] == (1 + (x > 0.1))[away]).all()
    assert view.depth.isnan().numpy()[~valid].all() and (view.ids.numpy()[~valid] == 0).all()


def test_transparent_pixels_dont_bleed_into_a_picture_freed_of_its_lens(tmp_path):
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[:, :25] = (200, 100, 50, 255)  # beside it: transparent black
    write_set(tmp_path)
    for i in range(5):
        write_png(tmp_path / f"rgb/{i:02}.png", pixels)
    edit(tmp_path, in_file(camera_model="OPENCV", k1=-0.2))
    view = loads_in_silence(tmp_path)[0]
    clear = view.alpha > 0.02
    assert ((view.alpha > 0.02) & (view.alpha < 0.98)).any()
    torch.testing.assert_close(
        view.rgb[clear] * 255, torch.tensor([200.0, 100, 50]).expand(int(clear.sum()), 3), atol=1.0, rtol=0
    )


def test_beyond_the_fold_of_a_strong_lens_nothing_is_valid():
    lens = Lens(k1=-0.5)
    assert lens.reach() == pytest.approx(math.sqrt(2 / 3))
    found = undistortion(lens, 40.0, 40.0, 40.0, 30.0, WIDTH, HEIGHT)
    column, row = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    radius = np.hypot(column - 40, row - 30) / 40
    assert not found.valid[radius > 0.82].any() and found.valid[radius < 0.7].all()
    assert Lens(k1=0.5).reach() == math.inf
