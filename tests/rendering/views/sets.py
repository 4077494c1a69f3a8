"""Small sets of posed pictures that the tests write and read."""

import json
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from rendering import Camera, Views, load_views, save_transforms

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


def write_set(folder: Path, n=5, *, entries=None, frame_entries=None) -> list[Camera]:
    """A small set of pictures, that loads without a word."""
    cameras = around(n)
    names = [f"rgb/{i:02}.png" for i in range(n)]
    for name in names:
        write_png(folder / name, checks())
    save_transforms(folder / "transforms.json", cameras, names, entries=entries, frame_entries=frame_entries)
    return cameras


def edit(folder: Path, change, name="transforms.json") -> None:
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def in_file(**changes):
    return lambda data: data.update(changes)
