"""How sharp pictures are beside others that show the same."""

import numpy as np
import torch
from scipy import ndimage

from rendering import Camera
from rendering.learning.sharpness import sharpness
from rendering.views import View, Views


def picture(n: int, turn: float, blur: int = 0) -> View:
    """A wall at x = 2 with a pattern, from a camera that is moved and rolled; blurred along its rows."""
    camera = Camera.look_at((0, 0.05 * n, 0), (2, 0.05 * n, 0), 96, 72, 50, up=(0, np.sin(turn), np.cos(turn)))
    rays = camera.rays()
    p = (rays.origins + (2 / rays.directions[:, :1]) * rays.directions).double().numpy()
    pattern = np.random.default_rng(0).uniform(0, 1, (256, 256))
    grey = ndimage.map_coordinates(pattern, 20 * p[:, 1:].T, order=1, mode="grid-wrap").reshape(72, 96)
    if blur:
        grey = ndimage.uniform_filter1d(grey, blur, axis=1)
    rgb = torch.from_numpy(np.repeat(grey[..., None], 3, 2)).float()
    return View(camera, rgb, depth=torch.full((72, 96), 2.0), name=f"{n}")


def test_a_picture_that_is_blurred_along_one_direction_is_told_from_rolled_and_darker_ones():
    views = [picture(n, 0.3 * n) for n in range(5)] + [picture(5, 0.2, blur=5)]
    dark = View(views[1].camera, 0.5 * views[1].rgb, depth=views[1].depth, name="dark")
    found = sharpness(Views([*views, dark]))
    assert found[5] < -0.85
    assert np.abs(np.delete(found, 5)).max() < 0.4


def test_a_picture_without_depth_or_company_has_no_sharpness():
    alone = View(picture(0, 0).camera, picture(0, 0).rgb, name="a")
    assert np.isnan(sharpness(Views([alone, picture(1, 0)]))).all()
