"""Axis-aligned boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_COARSE = 5e-4  # largest step of float32 beside the extent of an object: that of what a network gets wrong
_LARGEST = 1e30  # coordinates: beyond 3e38 float32 ends, and their products end before


@dataclass(frozen=True, eq=False)
class Aabb:
    """An axis-aligned box ``lo <= p <= hi``, in whatever frame its owner says.

    Raises:
        ValueError: Not two finite 3-vectors, or ``lo`` not below ``hi`` along each axis.
    """

    lo: Float[Tensor, "3"]
    hi: Float[Tensor, "3"]

    def __post_init__(self) -> None:
        for name in ("lo", "hi"):
            value = getattr(self, name)
            value = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
            if value.shape != (3,):
                raise ValueError(f"Aabb: {name} must be a 3-vector, got shape {list(value.shape)}")
            object.__setattr__(self, name, value.detach())
        if not bool((torch.isfinite(self.lo) & torch.isfinite(self.hi) & (self.lo < self.hi)).all()):
            raise ValueError(
                f"Aabb: expected finite lo < hi on each axis, got lo={self.lo.tolist()}, hi={self.hi.tolist()}"
            )

    @property
    def size(self) -> Float[Tensor, "3"]:
        """Edge lengths."""
        return self.hi - self.lo

    @property
    def center(self) -> Float[Tensor, "3"]:
        return 0.5 * (self.lo + self.hi)

    @property
    def diagonal(self) -> float:
        """Length of the space diagonal."""
        return float(self.size.double().norm())

    def corners(self) -> Float[Tensor, "8 3"]:
        pick = torch.tensor(
            [[(i >> k) & 1 for k in range(3)] for i in range(8)], dtype=torch.bool, device=self.lo.device
        )
        return torch.where(pick, self.hi, self.lo)

    def contains(self, p: Float[Tensor, "*b 3"]) -> Bool[Tensor, "*b"]:
        return ((p >= self.lo) & (p <= self.hi)).all(-1)

    def padded(self, margin: float) -> Aabb:
        """Grown by ``margin`` on every side."""
        return Aabb(self.lo - margin, self.hi + margin)

    def union(self, other: Aabb) -> Aabb:
        return Aabb(torch.minimum(self.lo, other.lo), torch.maximum(self.hi, other.hi))

    def axes(self, longest: int, middles: bool = False) -> list[Float[Tensor, "k"]]:
        """Places along each axis: ``longest`` along the longest edge, at least 8; from face to face, or the middles of cells."""
        size = self.size.double()
        n = (size / size.max() * longest - 1e-9).ceil().long().clamp(min=8)
        if middles:
            return [self.lo[c] + size[c] * (torch.arange(int(n[c])) + 0.5) / int(n[c]) for c in range(3)]
        return [torch.linspace(float(self.lo[c]), float(self.hi[c]), int(n[c])) for c in range(3)]


def without_origin(points: np.ndarray, origin: Sequence[float], name: str) -> np.ndarray:
    """Points ``[n, 3]`` minus ``origin`` in float64, if what is left can be told apart in float32.

    Raises:
        ValueError: So far from the origin that steps of float32 are coarse beside the extent of the points, or float32 ends.
    """
    shifted = np.asarray(points, np.float64) - np.asarray(origin, np.float64)
    lo, hi = shifted.min(0), shifted.max(0)
    extent, far = float((hi - lo).max()), float(np.abs([lo, hi]).max())
    if far > _LARGEST:
        raise ValueError(f"{name}: has coordinates of {far:.3g}, which numbers of 32 bits can't hold; check its units")
    step = float(np.spacing(np.float32(far)))
    if extent > 0 and step > _COARSE * extent:
        middle = ",".join(f"{x:.12g}" for x in np.round((lo + hi) / 2 + np.asarray(origin), 1 - int(np.log10(extent))))
        raise ValueError(
            f"{name}: lies {far:,.6g} from the origin, where numbers of 32 bits are {step:.3g} apart, too coarse for a size of "
            f"{extent:.4g}; subtract a place near by from its coordinates, with origin={middle} say"
        )
    return shifted
