"""Reading one posed picture and what lies beside it: depth, mask, instance ids."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from rendering.camera import Camera
from rendering.lens import Lens, Undistortion, undistortion
from rendering.views import View, ViewError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class ReadOptions:
    depth: bool
    masks: Literal["object", "valid"]
    instances: str | None
    depth_unit: float | None


@dataclass(frozen=True)
class Shot:
    """One picture before it is read."""

    name: str
    picture: Path
    camera: Camera
    lens: Lens
    time: float | None = None
    depth: Path | None = None
    depth_unit: float = 0.001
    mask: Path | None = None
    ids: Path | None = None


def read_shot(shot: Shot, options: ReadOptions, root: Path) -> View:
    try:
        return _view(shot, options)
    except ViewError as error:
        name = f"{root}: frame {shot.name}: "
        raise ViewError(str(error) if str(error).startswith(str(root)) else name + str(error)) from None


def _view(shot: Shot, options: ReadOptions) -> View:
    camera = shot.camera
    size = (camera.height, camera.width)
    rgb, alpha = _rgb_alpha(shot.picture)
    valid = depth = ids = None
    if shot.mask is not None:
        mask = _mask(shot.mask, size)
        if options.masks == "valid":
            valid = mask > 0
        else:
            alpha = mask if alpha is None else np.rint(alpha * (mask / 255.0)).astype(np.uint8)
    if shot.depth is not None:
        depth = _depth(shot.depth, size)
    if shot.ids is not None:
        ids = _ids(shot.ids, size)
    if shot.lens.bends:
        found = undistortion(shot.lens, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height)
        rgb, alpha = _smooth(found, rgb, alpha)
        valid = found.valid if valid is None else found.nearest(valid)
        depth = None if depth is None else found.nearest(depth)
        ids = None if ids is None else found.nearest(ids)
    layers = {"alpha": alpha, "depth": depth, "ids": ids, "valid": valid}
    tensors = {key: None if value is None else torch.from_numpy(value) for key, value in layers.items()}
    return View(
        camera,
        torch.from_numpy(rgb),
        name=shot.name,
        time=shot.time,
        depth_unit=options.depth_unit or shot.depth_unit,
        **tensors,
    )


def _smooth(found: Undistortion, rgb: np.ndarray, alpha: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours are mixed by how opaque they are, so that what is transparent doesn't bleed."""
    if alpha is None:
        return np.rint(found.smooth(rgb.astype(np.float32))).astype(np.uint8), None
    weight = alpha[..., None].astype(np.float32)
    mixed = found.smooth(np.concatenate([rgb * weight, weight], -1))
    straight = mixed[..., :3] / np.maximum(mixed[..., 3:], 1e-6)
    return np.rint(straight).clip(0, 255).astype(np.uint8), np.rint(mixed[..., 3]).astype(np.uint8)


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise ViewError(f"{path}: there is no such file; put it back, or take its name out of the frame") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise ViewError(f"{path}: expected a picture ({error})") from None


def _array(image: Image.Image, path: Path) -> np.ndarray:
    try:
        return np.array(image)
    except (OSError, SyntaxError) as error:  # Pillow's words for a picture that is cut off
        raise ViewError(f"{path}: the picture is damaged ({error})") from None


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height."""
    with _open(path) as image:
        return image.size


def _rgb_alpha(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with _open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ViewError(f"{path}: expected a picture with 8 bits a channel, got mode {image.mode}; convert it")
        clear = "A" in image.getbands() or "transparency" in image.info
        try:
            pixels = _array(image.convert("RGBA" if clear else "RGB"), path)
        except (OSError, SyntaxError) as error:
            raise ViewError(f"{path}: the picture is damaged ({error})") from None
    return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3]) if clear else None


def _layer(path: Path) -> np.ndarray:
    """One number for each pixel, as it stands in the file."""
    if path.suffix.lower() == ".npy":
        try:
            values = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise ViewError(f"{path}: there is no such file; put it back, or take its name out of the frame") from None
        except (OSError, ValueError, EOFError) as error:
            raise ViewError(f"{path}: expected an array of numbers ({error})") from None
        values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    else:
        with _open(path) as image:
            values = _array(image, path)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ViewError(f"{path}: expected one number for each pixel, got {list(values.shape)} {values.dtype}")
    return values


def _depth(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Steps of the file, 0 for none. A depth picture of another size but the same shape is enlarged by the nearest pixel."""
    steps = _layer(path)
    if steps.dtype == np.uint8:
        raise ViewError(f"{path}: expected depth with 16 bits, or .npy, got 8 bits: too coarse for depth")
    if steps.dtype.kind == "i" or steps.dtype.itemsize > 4:
        steps = steps.astype(np.float32)
    steps = steps if steps.dtype == np.uint16 else np.nan_to_num(steps.astype(np.float32), posinf=0.0)
    if steps.dtype != np.uint16 and (steps < 0).any():
        raise ViewError(f"{path}: depth must not be negative, got {steps.min():g}; write 0 where it is missing")
    if steps.shape != size:
        (h, w), (height, width) = steps.shape, size
        if abs(h * width - w * height) > max(height, width):
            raise ViewError(f"{path}: the depth has {w}x{h} pixels, the picture {width}x{height}: another shape")
        row, column = ((np.arange(n) + 0.5) * have / n for n, have in ((height, h), (width, w)))
        steps = steps[row.astype(int)[:, None], column.astype(int)]
    return steps


def _mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """0..255; masks of 0 and 1 are stretched."""
    with _open(path) as image:
        mask = _array(image if image.mode in ("L", "I;16") else image.convert("L"), path)
    if mask.dtype == np.uint16:
        mask = (mask > 0).astype(np.uint8)
    _same_size(path, mask, size, "mask")
    return mask * np.uint8(255) if mask.max() <= 1 else mask


def _ids(path: Path, size: tuple[int, int]) -> np.ndarray:
    ids = _layer(path)
    if ids.dtype.kind == "f" or (ids.dtype.kind == "i" and ids.min() < 0):
        raise ViewError(f"{path}: instance ids must be whole numbers of at least 0, got {ids.dtype}, min {ids.min():g}")
    _same_size(path, ids, size, "ids")
    if ids.max() > np.iinfo(np.int32).max:
        raise ViewError(f"{path}: instance ids must be below 2^31, got {ids.max()}")
    return ids.astype(np.uint8 if ids.max() < 256 else np.int32)


def _same_size(path: Path, layer: np.ndarray, size: tuple[int, int], what: str) -> None:
    if layer.shape != size:
        got = f"{layer.shape[1]}x{layer.shape[0]}"
        raise ViewError(f"{path}: the {what} picture has {got} pixels, the picture {size[1]}x{size[0]}: resize it")


def ids_beside(root: Path, name: str, options: ReadOptions) -> Path | None:
    if options.instances is None:
        return None
    folder, stem = root / options.instances, Path(name).stem
    if not folder.is_dir():
        raise ViewError(f"{folder}: there is no such folder for instances={options.instances!r}")
    found = sorted(p for p in folder.glob(f"{glob.escape(stem)}.*") if p.suffix.lower() in (*PICTURES, ".npy"))
    if not found:
        raise ViewError(f"{folder}: has no instance ids for {name} (expected {stem}.png)")
    return found[0]
