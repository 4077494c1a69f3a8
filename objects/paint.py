"""What a colour in a file means. Every reader of meshes and points converts its colours here; fields hold sRGB in 0..1.

| format | attribute | number types | space | what happens |
|---|---|---|---|---|
| glTF | ``baseColorFactor``, ``diffuseFactor``, ``emissiveFactor`` | float | linear | multiplied in linear light |
| glTF | ``COLOR_0`` (VEC3, VEC4) | float, shares of 8 or 16 bits | linear | interpolated, multiplied in linear light |
| glTF | base colour, diffuse, emissive texture | 8 bit, 16 bit grey | sRGB | filtered, multiplied in linear light |
| OBJ | ``v x y z r g b`` | text, (1) | sRGB | interpolated as it is |
| MTL | ``Kd``; ``Ke`` where ``Kd`` is black | float 0..1 | sRGB | as it is |
| MTL | ``map_Kd`` | 8 bit, 16 bit grey | sRGB | times ``Kd`` as it is, but for a grey one (2) |
| PLY | red green blue, any usual name, by vertex or face | uint8; others (1) | sRGB | interpolated as it is |
| PLY | ``TextureFile`` | 8 bit, 16 bit grey | sRGB | as it is |
| OFF | after a vertex or a face | integers 0..255, floats 0..1 | sRGB | as it is |
| STL | attribute bytes (VisCAM, Materialise) | 5 bit | sRGB | by face, as it is |
| trimesh | vertex and face colours, ``SimpleMaterial`` | uint8, float 0..1 | sRGB | as it is |
| trimesh | ``PBRMaterial.baseColorFactor`` | uint8, float 0..1 | linear | as in glTF |

(1) By the largest value: 0..1 (floats), else 0..255, 0..65535 or 0..2^32-1 (`shares`); told.
(2) The format multiplies, but exporters write 0, 0.4, 0.64 or 0.8 beside textures that are right as they are; told.

Alpha is left out everywhere: solids are opaque; readers say so where a file uses it. Texture coordinates: the centre of
texel i of w lies at (i + 0.5) / w and gives exactly that texel; u goes right, v goes down from the upper edge (files whose
v goes up are turned by their readers).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

GREY = 0.7  # colour of a mesh that has none

Wrap = Literal["repeat", "clamp", "mirror"]
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "TIFF", "GIF", "PPM", "DDS")
# What pillow raises on pictures that it cannot read.
_BROKEN = (
    OSError, ValueError, KeyError, IndexError, TypeError, SyntaxError, EOFError, NotImplementedError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class PictureError(ValueError):
    """A picture file that cannot be read; the reason in a few words."""


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """sRGB values (IEC 61966-2-1) of linear light; both in 0..1, what lies outside is cut off."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values in 0..1."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0.04045) + 0.055) / 1.055) ** 2.4)


def shares(stored: np.ndarray) -> tuple[Float[np.ndarray, "..."], str]:
    """Colours of a file that doesn't state their range as numbers in 0..1, and a word on what was assumed, if anything.

    Bytes are shares of 255. Other integers, and floats above 1, are shares of the smallest of 255, 65535 and 2^32 - 1 that
    none of them exceeds, for whoever stores 0..255 in an ``int`` or ``float`` means 255. Floats a little above 1 are cut off.
    """
    largest = float(np.nanmax(stored, initial=0.0, where=np.isfinite(stored)))
    exact = stored.dtype == np.uint8
    if stored.dtype.kind == "f" and largest <= 1.5:
        whole = 1.0
    else:
        whole = 255.0 if exact else next((w for w in (255.0, 65535.0) if largest <= w), 4294967295.0)
    usual = exact or whole == 1.0 or (stored.dtype == np.uint16 and whole == 65535.0)
    said = "" if usual else f"its colours ({stored.dtype.name}) were taken as 0..{whole:.0f}"
    return np.clip(np.nan_to_num(stored.astype(np.float64) / whole, nan=0.0), 0, 1), said


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture (sRGB) to be looked up.

    Attributes:
        image: Texels, the upper row first.
        wrap: What lies beyond the edges, for u and v.
        nearest: Whether the nearest texel is taken; else the four around are mixed.
    """

    image: Int[np.ndarray, "h w 3"]
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    nearest: bool = False

    def at(self, uv: Float[np.ndarray, "n 2"], linear: bool) -> Float[np.ndarray, "n 3"]:
        """Colours at texture coordinates; as linear light, and mixed there, where ``linear``."""
        h, w = self.image.shape[:2]
        x, y = uv[:, 0] * w - 0.5, uv[:, 1] * h - 0.5
        if self.nearest:
            return self._texels(np.floor(x + 0.5), np.floor(y + 0.5), linear)
        x0, y0 = np.floor(x), np.floor(y)
        fx, fy = (x - x0)[:, None], (y - y0)[:, None]
        top = self._texels(x0, y0, linear) * (1 - fx) + self._texels(x0 + 1, y0, linear) * fx
        return (
            top * (1 - fy)
            + (self._texels(x0, y0 + 1, linear) * (1 - fx) + self._texels(x0 + 1, y0 + 1, linear) * fx) * fy
        )

    def _texels(self, x: np.ndarray, y: np.ndarray, linear: bool) -> Float[np.ndarray, "n 3"]:
        h, w = self.image.shape[:2]
        texels = self.image[_wrapped(y, h, self.wrap[1]), _wrapped(x, w, self.wrap[0])] / np.iinfo(self.image.dtype).max
        return linear_from_srgb(texels) if linear else texels


def _wrapped(index: np.ndarray, size: int, wrap: Wrap) -> Int[np.ndarray, "n"]:
    index = np.clip(np.nan_to_num(index), -(2.0**52), 2.0**52)
    if wrap == "clamp":
        return np.clip(index, 0, size - 1).astype(np.int64)
    if wrap == "mirror":
        index = np.mod(index, 2 * size)
        return np.where(index < size, index, 2 * size - 1 - index).astype(np.int64)
    return np.mod(index, size).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Paint:
    """Colour of a run of faces: by corner, by a texture looked up at the corners' ``uv``, or the product of both.

    Attributes:
        corner_rgb: 0..1; white without.
        uv: Texture coordinates, v down; where there is a ``texture``.
        linear: Whether ``corner_rgb`` is linear light, and products are taken there; else all is sRGB as it is.
    """

    corner_rgb: Float[np.ndarray, "f 3 3"] | None = None
    uv: Float[np.ndarray, "f 3 2"] | None = None
    texture: Texture | None = None
    linear: bool = False

    def __post_init__(self) -> None:
        if (self.uv is None) != (self.texture is None) or (self.corner_rgb is None and self.uv is None):
            raise ValueError("Paint: expected corner_rgb, or uv and texture, or all of them")

    @staticmethod
    def flat(rgb: Sequence[float] | np.ndarray, n_faces: int, linear: bool = False) -> Paint:
        """One colour for all faces."""
        return Paint(np.broadcast_to(np.asarray(rgb, np.float64), (n_faces, 3, 3)), linear=linear)

    def reversed(self) -> Paint:
        """The paint of the same faces with their corners in the opposite order."""
        corner_rgb, uv = (None if a is None else a[:, ::-1] for a in (self.corner_rgb, self.uv))
        return replace(self, corner_rgb=corner_rgb, uv=uv)

    def at(self, face: Int[np.ndarray, "n"], barycentric: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Colours (sRGB in 0..1) at points of faces."""
        rgb = np.ones((len(face), 3))
        if self.corner_rgb is not None:
            rgb = np.einsum("nc,ncd->nd", barycentric, self.corner_rgb[face])
        if self.uv is not None and self.texture is not None:
            rgb = rgb * self.texture.at(np.einsum("nc,ncd->nd", barycentric, self.uv[face]), self.linear)
        return srgb_from_linear(rgb) if self.linear else np.clip(rgb, 0, 1)

    def arrays(self) -> list[np.ndarray]:
        """All that decides its colours, for a hash."""
        kept = [a for a in (self.corner_rgb, self.uv) if a is not None]
        text = f"{self.linear}"
        if self.texture is not None:
            kept.append(self.texture.image)
            text += f" {self.texture.wrap} {self.texture.nearest}"
        return [*kept, np.frombuffer(text.encode(), np.uint8)]


def read_picture(data: bytes) -> Int[np.ndarray, "h w 3"]:
    """The texels of a picture file, 8 or 16 bits each, sRGB; grey is repeated, palettes are looked up, alpha is left out.

    Raises:
        PictureError: It cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                picture.load()
                return pixels_of(picture)
    except _BROKEN as error:
        reason = "it is no picture of a known kind" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise PictureError(" ".join(reason.split())[:120] or type(error).__name__) from error


def pixels_of(picture: Image.Image) -> Int[np.ndarray, "h w 3"]:
    """The texels of a picture of pillow (see `read_picture`)."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):  # pillow would cut these off at 255
        grey = np.asarray(picture)
        if picture.mode == "F":
            grey = np.clip(np.nan_to_num(grey), 0, 1) * 65535
        texels = np.clip(np.round(grey), 0, 65535).astype(np.uint16)
        return np.repeat(texels[..., None], 3, -1)
    return np.asarray(picture.convert("RGBA" if picture.mode == "P" else "RGB"), np.uint8)[..., :3]
