"""Colours of triangles: by corner, or by a texture looked up at texture coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

GREY = 0.7  # colour of a mesh that has none


@dataclass(frozen=True, eq=False)
class Paint:
    """Colour of a run of faces (sRGB in 0..1): by corner (``corner_rgb``), or by an image looked up at the corners' ``uv``."""

    corner_rgb: Float[np.ndarray, "f 3 3"] | None = None
    uv: Float[np.ndarray, "f 3 2"] | None = None
    image: Float[np.ndarray, "h w 3"] | None = None

    def reversed(self) -> Paint:
        """The paint of the same faces with their corners in the opposite order."""
        corner_rgb, uv = (None if a is None else a[:, ::-1] for a in (self.corner_rgb, self.uv))
        return Paint(corner_rgb, uv, self.image)

    def at(self, face: Int[np.ndarray, "n"], barycentric: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        if self.corner_rgb is not None:
            return np.einsum("nc,ncd->nd", barycentric, self.corner_rgb[face])
        if self.uv is None or self.image is None:
            raise ValueError("Paint: expected corner_rgb, or uv and image")
        uv = np.einsum("nc,ncd->nd", barycentric, self.uv[face])
        return _bilinear(self.image, uv)


def _bilinear(image: Float[np.ndarray, "h w 3"], uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """Image at texture coordinates (v up, repeating)."""
    h, w = image.shape[:2]
    x, y = uv[:, 0] * (w - 1), (1 - uv[:, 1]) * (h - 1)
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    x0, y0 = x0.astype(np.int64), y0.astype(np.int64)
    x1, y1 = (x0 + 1) % w, (y0 + 1) % h
    x0, y0 = x0 % w, y0 % h
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    return top * (1 - fy) + (image[y1, x0] * (1 - fx) + image[y1, x1] * fx) * fy
