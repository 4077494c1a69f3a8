"""Masks of pictures: parts, margins, nearest pixels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

_AROUND = np.ones((3, 3), bool)
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


def parts_of(mask: Bool[np.ndarray, "h w"], *, corners: bool = True) -> tuple[Int[np.ndarray, "h w"], int]:
    """Connected parts, numbered from 1, and how many there are; ``corners``: whether pixels touch by corners, too."""
    parts = np.zeros(mask.shape, np.int32)
    n = ndimage.label(mask, _AROUND if corners else _CROSS, output=parts)
    return parts, int(np.asarray(n))


def parts_in_space(
    mask: Bool[np.ndarray, "h w"], depth: Float[np.ndarray, "h w"], gate: float = 0.03
) -> tuple[Int[np.ndarray, "h w"], int]:
    """Parts of a mask, cut where depth jumps by more than ``gate``, relative; the farther side loses its rim."""
    z = np.where(depth > 0, depth, np.inf)
    near = ndimage.minimum_filter(z, footprint=_CROSS)
    return parts_of(mask & (z <= near * (1 + gate)), corners=False)


def widened(mask: Bool[np.ndarray, "*f h w"], pixels: int) -> Bool[np.ndarray, "*f h w"]:
    """The mask, or each of several, with a margin of so many pixels."""
    around = _AROUND if mask.ndim == 2 else _AROUND[None]
    return np.asarray(ndimage.binary_dilation(mask, around, iterations=pixels), bool)


def nearest(
    mask: Bool[np.ndarray, "h w"],
) -> tuple[Float[np.ndarray, "h w"], Int[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """For each pixel the distance to the nearest one of the mask (0 within), its row and its column."""
    found = ndimage.distance_transform_edt(~mask, return_indices=True)
    far, at = np.asarray(found[0]), np.asarray(found[1])  # pyright: ignore[reportOptionalSubscript]
    return far, at[0], at[1]
