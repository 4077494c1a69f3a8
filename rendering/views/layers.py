"""What lies beside a posed picture: depth, masks, instance ids.

| file | is read as |
|---|---|
| depth: PNG or TIFF of 16 or 32 bits, TIFF or PFM of floats, ``.npy`` | steps; 0, NaN, inf and marks are missing |
| depth: 8 bits, colours, EXR, ``.npz`` | refused |
| mask: grey or 1 bit, 8 or 16 bits, ``.npy`` | levels of its type; one value beside 0, or labels (below 128), mean 255 |
| mask: a palette | its greys; of coloured ones the index is a label |
| mask: with alpha | its colours where all is opaque; alpha where the rest has one colour (not black) or a picture's |
| mask: colours, floats beyond 0..1 | refused |
| ids: 8, 16 or 32 bits, palettes (their index), ``.npy`` | whole numbers, 0 for none |

Marks of missing depth: negative numbers, the largest number of an integer type, 65535, 65504 (the largest half), floats from
1e9 on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rendering.views.types import ViewError

_LOSSY = ("JPEG", "MPO", "WEBP")
_HUGE = 1e9  # of floats: Blender and others write 1e10, or the largest float, where there is nothing
_GREY = 24  # the most that the channels of a grey JPEG differ by


class Unreadable(ViewError):
    """A file that is missing or damaged: others may do without it."""


def opened(path: Path) -> Image.Image:
    """A picture whose pixels aren't read yet.

    Raises:
        Unreadable: No such file, or no picture.
    """
    if path.suffix.lower() in (".exr", ".hdr", ".heic", ".heif"):
        raise Unreadable(
            f"{path}: {path.suffix} isn't read here: write PNG or JPEG, and depth as .npy or as 32-bit TIFF"
        )
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise Unreadable(f"{path}: there is no such file; put it back, or take its name out of the frame") from None
    except Exception as error:  # noqa: BLE001  Pillow's readers let damaged files raise anything
        raise Unreadable(f"{path}: expected a picture ({error})") from None


def loaded(image: Image.Image, path: Path, upright: bool) -> Image.Image:
    """The picture with its pixels, turned as its EXIF orientation says if it shall stand upright.

    Raises:
        Unreadable: A damaged picture.
    """
    try:
        image.load()
        turned = ImageOps.exif_transpose(image) if upright else image
    except Exception as error:  # noqa: BLE001  as above
        raise Unreadable(f"{path}: the picture is damaged ({error})") from None
    turned.format = image.format
    return turned


def read_depth(path: Path, size: tuple[int, int], upright: bool) -> tuple[np.ndarray, list[str]]:
    """Steps ``[h, w]``, 0 for none; and notes. Depth of another size but the same shape is enlarged by the nearest pixel."""
    steps = _layer(path, upright)
    if steps.dtype.itemsize == 1:
        raise ViewError(f"{path}: expected depth with 16 bits, or .npy, got 8 bits: too coarse for depth")
    kind = steps.dtype.kind
    if kind == "f":
        steps = steps.astype(np.float64)
        negative = steps < 0
        if negative.sum() > 0.5 * (np.isfinite(steps) & (steps != 0)).sum():
            raise ViewError(
                f"{path}: depth must not be negative, got {np.nanmin(steps):g}: the z of OpenGL axes has to be negated"
            )
        odd = np.isfinite(steps) & (negative | np.isin(steps, (65504.0, 65535.0)) | (steps >= _HUGE))
    else:
        odd = (steps < 0) | np.isin(steps, (65535, np.iinfo(steps.dtype).max))
    said = [f"depth {steps[odd].max():g} is taken as missing"] if odd.any() else []
    steps = np.where(odd, 0, steps)
    if steps.dtype != np.uint16:
        steps = np.nan_to_num(steps, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    if steps.shape != size:
        (h, w), (height, width) = steps.shape, size
        if abs(h * width - w * height) > max(height, width) or 0 in steps.shape:
            raise ViewError(f"{path}: the depth has {w}x{h} pixels, the picture {width}x{height}: another shape")
        row, column = ((np.arange(n) + 0.5) * have / n for n, have in ((height, h), (width, w)))
        steps = steps[row.astype(int)[:, None], column.astype(int)]
        said.append(f"depth of {w}x{h} pixels is taken by the nearest of them where the picture has {width}x{height}")
    return np.ascontiguousarray(steps), said


def read_mask(path: Path, size: tuple[int, int], upright: bool) -> tuple[np.ndarray, np.ndarray]:
    """Levels ``[h, w]``, uint8, and where they are set: above 0, or of lossy pictures above the middle.

    Raises:
        ViewError: Another size, or numbers that can be read in two ways.
    """
    lossy = False
    if path.suffix.lower() == ".npy":
        values = _layer(path, upright)
    else:
        with opened(path) as image:
            picture = loaded(image, path, upright)
            lossy = picture.format in _LOSSY
            values = _mask_values(picture, path)
    _same_size(path, values, size, "mask")
    if values.dtype.kind == "b":
        levels = values * np.uint8(255)
    else:
        if not np.isfinite(values).all() or values.min() < 0 or (values.dtype.kind == "f" and values.max() > 1):
            raise ViewError(
                f"{path}: a mask holds numbers from 0 on, floats up to 1, got {values.min():g} to {values.max():g}"
            )
        levels = _levels(values * 255 if values.dtype.kind == "f" else values)
    return levels, levels >= 128 if lossy else levels > 0


def _levels(values: np.ndarray) -> np.ndarray:
    """0..255; where there is one value beside 0, or where all are small (labels), all but 0 is 255."""
    top = values.max()
    if top < 128 or 255 < top < 32768 or len(np.unique(values[values > 0])) == 1:
        return (values > 0) * np.uint8(255)
    scale = 1 if top <= 255 else 255 / 65535
    return np.where(values > 0, np.rint(values * scale).clip(1, 255), 0).astype(np.uint8)


def _mask_values(image: Image.Image, path: Path) -> np.ndarray:
    """Numbers ``[h, w]`` of what a mask picture means."""
    if "A" in image.getbands() or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"))
        alpha = pixels[..., 3]
        if (alpha == 255).all():
            return _grey(pixels[..., :3], path)
        shown = np.unique(pixels[alpha > 0][:, :3], axis=0)
        if len(shown) > 2 or (len(shown) == 1 and shown.any()) or not alpha.any():
            return alpha
        raise ViewError(
            f"{path}: a mask in colours and another in alpha: which is meant? Write one channel, 0 where it isn't set"
        )
    if image.mode == "P":
        index = np.asarray(image)
        table = image.getpalette("RGB") or []
        colors = np.array([*table, *[0] * (768 - len(table))], dtype=np.uint8).reshape(-1, 3)
        used = colors[np.unique(index)]
        if (used == used[:, :1]).all():
            return colors[index][..., 0]
        if (index == 0).any() and colors[0].any():
            raise ViewError(f"{path}: the mask has a palette of colours whose first isn't black; write it in grey")
        return index
    if image.mode in ("RGB", "RGBX"):
        return _grey(np.asarray(image)[..., :3], path)
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return np.asarray(image)
    raise ViewError(f"{path}: expected a mask in grey, got mode {image.mode}; write one channel")


def _grey(rgb: np.ndarray, path: Path) -> np.ndarray:
    if int((rgb.max(-1) - rgb.min(-1)).max()) > _GREY:
        raise ViewError(
            f"{path}: expected a mask in grey, got colours (labels?); write one channel, 0 where it isn't set"
        )
    return rgb.max(-1)


def read_ids(path: Path, size: tuple[int, int], upright: bool) -> np.ndarray:
    """Instance ids ``[h, w]``, uint8 or int32, 0 for none."""
    ids = _layer(path, upright)
    if ids.dtype.kind in "fb" or (ids.dtype.kind == "i" and ids.min() < 0):
        raise ViewError(f"{path}: instance ids must be whole numbers of at least 0, got {ids.dtype}, min {ids.min():g}")
    _same_size(path, ids, size, "ids")
    if ids.max() > np.iinfo(np.int32).max:
        raise ViewError(f"{path}: instance ids must be below 2^31, got {ids.max()}")
    return ids.astype(np.uint8 if ids.max() < 256 else np.int32)


def _layer(path: Path, upright: bool) -> np.ndarray:
    """One number for each pixel, as it stands in the file."""
    if path.suffix.lower() == ".npy":
        try:
            values = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise Unreadable(f"{path}: there is no such file; put it back, or take its name out of the frame") from None
        except Exception as error:  # noqa: BLE001  a damaged head makes numpy raise anything, of tokens too
            raise Unreadable(f"{path}: expected an array of numbers ({error})") from None
        if not isinstance(values, np.ndarray):
            raise ViewError(f"{path}: expected one array, got several (.npz)")
        values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    else:
        with opened(path) as image:
            values = np.asarray(loaded(image, path, upright))
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "biuf":
        raise ViewError(f"{path}: expected one number for each pixel, got {list(values.shape)} {values.dtype}")
    return values


def _same_size(path: Path, layer: np.ndarray, size: tuple[int, int], what: str) -> None:
    if layer.shape != size:
        got = f"{layer.shape[1]}x{layer.shape[0]}"
        raise ViewError(f"{path}: the {what} picture has {got} pixels, the picture {size[1]}x{size[0]}: resize it")
