"""The polynomial lens of OpenCV and COLMAP, and pictures freed of it."""

from __future__ import annotations

import functools
from dataclasses import astuple, dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage

LENS_KEYS = ("k1", "k2", "k3", "p1", "p2")


@dataclass(frozen=True)
class Lens:
    """Radial (k) and tangential (p) distortion, OpenCV's names and formula; all 0 for a perfect pinhole.

    Source: OpenCV, "Camera Calibration and 3D Reconstruction", the model without rational terms.
    """

    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    @property
    def bends(self) -> bool:
        return any(astuple(self))

    def distorted(self, xy: Float[np.ndarray, "*b 2"]) -> Float[np.ndarray, "*b 2"]:
        """Where the lens shows points of the plane of depth 1, which a pinhole shows at ``xy``."""
        x, y = xy[..., 0], xy[..., 1]
        r2 = x * x + y * y
        radial = 1 + r2 * (self.k1 + r2 * (self.k2 + r2 * self.k3))
        return np.stack(
            [
                x * radial + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x),
                y * radial + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y,
            ],
            -1,
        )

    def reach(self) -> float:
        """The radius in the plane of depth 1 up to which the radial part grows; beyond it the picture would fold back."""
        roots = np.roots([7 * self.k3, 5 * self.k2, 3 * self.k1, 1.0])
        ends = roots.real[(np.abs(roots.imag) < 1e-12) & (roots.real > 0)]
        return float(np.sqrt(ends.min())) if len(ends) else np.inf


class Undistortion:
    """Where each pixel of the undistorted picture, of the same size and pinhole, is found in the distorted one."""

    def __init__(self, lens: Lens, fx: float, fy: float, cx: float, cy: float, width: int, height: int) -> None:
        column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        xy = np.stack([(column - cx) / fx, (row - cy) / fy], -1)
        uv = lens.distorted(xy) * [fx, fy] + [cx, cy]
        self._rows_columns = uv[..., ::-1].transpose(2, 0, 1) - 0.5
        inside = ((uv >= 0) & (uv <= [width, height])).all(-1)
        self.valid: Bool[np.ndarray, "h w"] = inside & (np.linalg.norm(xy, axis=-1) < lens.reach())

    def smooth(self, picture: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
        """Bilinear; 0 where not valid."""
        planes = [
            ndimage.map_coordinates(picture[..., i], self._rows_columns, order=1, mode="nearest")
            for i in range(picture.shape[-1])
        ]
        return np.stack(planes, -1) * self.valid[..., None]

    def nearest(self, picture: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "h w"]:
        """The nearest pixel, of the same number type; 0 where not valid."""
        row, column = np.clip(np.rint(self._rows_columns).astype(int), 0, np.array(picture.shape)[:, None, None] - 1)
        return np.where(self.valid, picture[row, column], np.zeros((), picture.dtype))


@functools.lru_cache(maxsize=4)
def undistortion(lens: Lens, fx: float, fy: float, cx: float, cy: float, width: int, height: int) -> Undistortion:
    """The same for all pictures of one camera; a few are kept."""
    return Undistortion(lens, fx, fy, cx, cy, width, height)
