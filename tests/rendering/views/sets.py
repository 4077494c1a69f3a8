"""Small sets of posed pictures that the tests write and read."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from rendering import Camera, Views, load_views

WIDTH, HEIGHT = 80, 60


def around(n=5, width=WIDTH, height=HEIGHT) -> list[Camera]:
    return Camera.orbit((0, 0, 0), 2.0, n, width, height, elevation_deg=30.0)


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def checks(width=WIDTH, height=HEIGHT) -> np.ndarray:
    """A picture without symmetry."""
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([column * 255 // width, row * 255 // height, (column // 8 + row // 8) % 2 * 200], -1).astype(
        np.uint8
    )


def loads_in_silence(folder: Path, **more) -> Views:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_views(folder, **more)
