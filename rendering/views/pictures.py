"""Reading one posed picture and what lies beside it.

| picture | is read as |
|---|---|
| 8 bits: grey, colours, palette, with or without alpha; 16 bits with colours | sRGB; alpha is opacity |
| 16 bits grey | grey, 65535 is white |
| with a colour profile that isn't sRGB (phones: Display P3; CMYK) | turned into sRGB by it |
| CMYK without a profile, LAB, HSV, floats, 32 bits | refused |
| with an EXIF orientation | as the frame says (`Shot.upright`) |
"""

from __future__ import annotations

import glob
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageCms

from rendering.camera import Camera
from rendering.views.layers import Unreadable, loaded, opened, read_depth, read_ids, read_mask
from rendering.views.lens import Lens, Undistortion, undistortion
from rendering.views.paths import PICTURES
from rendering.views.types import View, ViewError

_ORIENTATION = 0x0112  # in EXIF
_FACTOR_16 = 257  # steps of 16 bits for one of 8


@dataclass(frozen=True)
class ReadOptions:
    depth: bool
    masks: Literal["ignore", "empty"] | None
    instances: str | None
    depth_unit: float | None
    unposed: bool = False


@dataclass(frozen=True)
class Shot:
    """One picture before it is read. ``camera`` is that of the picture turned by its EXIF orientation if ``upright``, else as it is
    stored; layers beside it are then turned by their own."""

    name: str
    picture: Path
    camera: Camera
    lens: Lens
    time: float | None = None
    depth: Path | None = None
    depth_unit: float = 0.001
    mask: Path | None = None
    ids: Path | None = None
    upright: bool = False
    posed: bool = True


class Notes:
    """What is said once for all pictures of a set, and what could not be read."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.layers: dict[str, list[str]] = {}
        """Of each kind of layer why one could not be read, "" where it could, for each picture that names one."""
        self._lost: dict[str, list[tuple[str, str]]] = {}
        self._found: dict[str, list[tuple[str, str]]] = {}

    def add(self, what: str, name: str, error: str = "") -> None:
        """``what`` was found in a picture."""
        self._found.setdefault(what, []).append((name, error))

    def lose(self, why: str, name: str, error: str = "") -> None:
        """A frame is left out."""
        self._lost.setdefault(why, []).append((name, error))

    def lost(self) -> list[tuple[str, str]]:
        """Names of frames that are left out, and the error of each."""
        return [row for rows in self._lost.values() for row in rows]

    def all(self, n_frames: int) -> list[str]:
        """All that is to be said of a set of so many frames."""
        said = list(self.texts)
        for why, rows in self._lost.items():
            said.append(f"left out {len(rows)} of {n_frames} frames, {why}; the first is {_first(rows)}")
        for what, rows in self._found.items():
            said.append(f"{what} in {len(rows)} picture{'s' * (len(rows) > 1)}, first {_first(rows)}")
        return said


def _first(rows: list[tuple[str, str]]) -> str:
    name, error = rows[0]
    return f"{name} ({error})" if error else name


def read_shots(shots: Iterable[Shot], options: ReadOptions, root: Path, notes: Notes) -> list[View]:
    """The pictures that can be read. Those that are missing or damaged are left out, and those whose mask is; where depth or ids
    are, they alone are left out.

    Raises:
        ViewError: Nothing of a kind can be read, or something is not as it must be.
    """
    views = []
    for shot in shots:
        try:
            views.append(_view(shot, options, notes))
        except Unreadable as error:
            notes.lose("whose picture or mask can't be read", shot.name, str(error))
        except ViewError as error:
            name = f"{root}: frame {shot.name}: "
            raise ViewError(str(error) if str(error).startswith(str(root)) else name + str(error)) from None
    if not views:
        lost = notes.lost()
        first = next((error for _, error in lost if error), "")
        raise ViewError(
            f"{root}: none of the {len(lost)} pictures is there and can be read, first {root / lost[0][0]}"
            + (f" ({first})" if first else "")
        )
    for layer, errors in notes.layers.items():
        if all(errors):
            raise ViewError(f"{root}: nothing of the {layer} can be read; first {errors[0]}")
    return views


def _view(shot: Shot, options: ReadOptions, notes: Notes) -> View:
    camera = shot.camera
    size = (camera.height, camera.width)
    rgb, alpha = _rgb_alpha(shot.picture, shot.upright)
    valid = depth = None
    if shot.mask is not None:
        levels, inside = read_mask(shot.mask, size, shot.upright)
        if options.masks == "empty":
            alpha = levels if alpha is None else np.rint(alpha * (levels / 255.0)).astype(np.uint8)
        else:
            valid = inside
    if (found := _if_there(read_depth, shot.depth, "depth", shot, notes)) is not None:
        depth, said = found
        for text in said:
            notes.add(text, shot.name)
    ids = _if_there(read_ids, shot.ids, "instance ids", shot, notes)
    if shot.lens.bends:
        freed = undistortion(shot.lens, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height)
        rgb, alpha = _smooth(freed, rgb, alpha)
        # What ignored pixels are mixed into is ignored, too.
        mixed = None if valid is None else freed.smooth(valid[..., None].astype(np.float32))[..., 0]
        valid = freed.valid if mixed is None else freed.valid & (mixed > 0.999)
        depth = None if depth is None else freed.nearest(depth)
        ids = None if ids is None else freed.nearest(ids)
    layers = {"alpha": alpha, "depth": depth, "ids": ids, "valid": valid}
    tensors = {key: None if value is None else torch.from_numpy(value) for key, value in layers.items()}
    return View(
        camera,
        torch.from_numpy(rgb),
        name=shot.name,
        time=shot.time,
        depth_unit=options.depth_unit or shot.depth_unit,
        posed=shot.posed,
        **tensors,
    )


def _if_there(
    read: Callable[[Path, tuple[int, int], bool], Any], path: Path | None, what: str, shot: Shot, notes: Notes
) -> Any:
    """What ``read`` gives; None without a file, or for one that is missing or damaged."""
    if path is None:
        return None
    errors = notes.layers.setdefault(what, [])
    try:
        layer = read(path, (shot.camera.height, shot.camera.width), shot.upright)
    except Unreadable as error:
        errors.append(str(error))
        notes.add(f"left out {what} that can't be read", shot.name, str(error))
        return None
    errors.append("")
    return layer


def _smooth(found: Undistortion, rgb: np.ndarray, alpha: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours are mixed by how opaque they are, so that what is transparent doesn't bleed."""
    if alpha is None:
        return np.rint(found.smooth(rgb.astype(np.float32))).astype(np.uint8), None
    weight = alpha[..., None].astype(np.float32)
    mixed = found.smooth(np.concatenate([rgb * weight, weight], -1))
    straight = mixed[..., :3] / np.maximum(mixed[..., 3:], 1e-6)
    return np.rint(straight).clip(0, 255).astype(np.uint8), np.rint(mixed[..., 3]).astype(np.uint8)


def picture_size(path: Path) -> tuple[tuple[int, int], int]:
    """Width and height as stored, and the EXIF orientation, 1 for upright (5 to 8 exchange width and height).

    Raises:
        Unreadable: No picture.
    """
    with opened(path) as image:
        if image.format == "TIFF":  # Pillow turns these itself
            return image.size, 1
        if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(
            image.info
        ):  # spares reading its pixels
            return image.size, 1
        try:
            turn = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # noqa: BLE001  damaged EXIF makes Pillow raise anything; without it the picture stands as it is stored
            turn = 1
        return image.size, turn if turn in range(1, 9) else 1


def _rgb_alpha(path: Path, upright: bool) -> tuple[np.ndarray, np.ndarray | None]:
    with opened(path) as image:
        picture = loaded(image, path, upright)
        if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
            grey = np.rint(np.asarray(picture) / _FACTOR_16).astype(np.uint8)
            return np.repeat(grey[..., None], 3, -1), None
        picture = _in_srgb(picture)
        if picture.mode in ("I", "F", "CMYK", "LAB", "HSV"):
            raise ViewError(
                f"{path}: expected a picture in sRGB with 8 or 16 bits, got mode {picture.mode}; convert it"
            )
        clear = "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info
        pixels = np.array(picture.convert("RGBA" if clear else "RGB"))
    return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3]) if clear else None


def _in_srgb(image: Image.Image) -> Image.Image:
    """Colours with a profile of their own as sRGB."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(own).lower():
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        turned = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):  # a damaged profile says nothing
        return image
    return turned if turned is not None else image


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
