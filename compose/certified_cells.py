"""The index of a SIREN by proof: affine bounds of the network over boxes (`compose.certify`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import einops
import numpy as np

from compose.asset_cells import AssetCells, assembled, grid, lattice, packed_planes
from compose.certify import Weights, affine_bounds, evaluation_error, gradient_bounds, weights_of
from compose.cpu import FINE_STEP, serves
from objects.field import Field
from objects.progress import Bar
from objects.siren import SirenField

BYTES = 1_000_000  # of an index, about, at most
COARSEST, FINEST = 12, 128  # cells along the longest edge
_SAMPLED = 4096  # cells, by which bytes are estimated
_BEYOND = 1e-6  # of a cell, on each side: what is proven holds there, too, as places in a march are rounded
_SLACK = 1e-9  # of a bound: more than the rounding of what is done to it here, in float64
_BOXES = 4096  # bounded together


def certified_cells(field: Field) -> AssetCells:
    """The index of a `SirenField`, proven.

    Raises:
        ValueError: Any other field, or numbers that don't stay finite.
    """
    if not serves(field):
        raise ValueError(
            f"certify: expected a SirenField (no subclass of it) of float32 numbers, which alone can be certified, "
            f"got {type(field).__name__}"
        )
    weights = weights_of(cast(SirenField, field))
    with Bar(total=0, desc="certifying", unit="box", unit_scale=True) as bar:
        n, noise = FINEST, evaluation_error(weights)
        prover = _Prover(weights, noise, *grid(field, n), bar)
        while n > COARSEST and (most := BYTES / max(6 * prover.expected(), 1)) < 1:
            n = max(min(int(n * np.sqrt(most)), n - 4), COARSEST)
            prover = _Prover(weights, noise, *grid(field, n), bar)
        return prover.cells()


@dataclass(frozen=True, eq=False)
class _Prover:
    """Proves what an index with given cells says; boxes are given by their least corners, in cells from ``lo``, and their edge.

    Args:
        noise: How far the field may be from its network.
        lo, n, cell: As `grid` gives them.
        bar: Counts boxes.
    """

    weights: Weights
    noise: float
    lo: np.ndarray
    n: np.ndarray
    cell: np.ndarray
    bar: Bar

    def cells(self) -> AssetCells:
        corner, sign = self.uncertain()
        gradient, middle, bound = self.planes(corner, 1.0)
        unit = np.array([np.abs(gradient).max(initial=1e-30) / 127, 1.0, np.abs(middle).max(initial=1e-30) / 32767])
        packed_gradient, packed_middle = np.rint(gradient / unit[0]), np.rint(middle / unit[2])
        bound += self.reach(gradient - packed_gradient * unit[0], 1.0) + np.abs(middle - packed_middle * unit[2])
        bound += _SLACK * (bound + np.abs(middle) + self.reach(gradient, 1.0))
        unit[1] = bound.max(initial=1e-30) * (1 + _SLACK) / 255
        place = np.ravel_multi_index(tuple((corner // 4).T), tuple(self.n)) * 64 + (corner % 4) @ [16, 4, 1]
        plane = packed_planes(packed_gradient, np.ceil(bound / unit[1]), packed_middle)[np.argsort(place)]

        nx, ny, nz = (int(k) for k in self.n)
        pattern = "(nx x ny y nz z) -> nx ny nz (x y z)"
        blocks = einops.rearrange(sign.reshape(-1), pattern, nx=nx, ny=ny, nz=nz, x=4, y=4, z=4)
        mixed = (blocks == 0).any(-1)
        # Two float32 values that far apart differ by at most this much more than those of the network itself.
        apart_least = FINE_STEP * float(np.linalg.norm(4 * self.n * self.cell))
        lipschitz = self.steepest(corner) + 2 * self.noise / apart_least
        return assembled(
            self.cell, mixed, blocks[..., 0] < 0, blocks[mixed] == 0, blocks[mixed] < 0, plane, unit, lipschitz
        )

    def expected(self) -> float:
        """About how many cells aren't proven to lie on one side, from some of them."""
        corner = np.random.default_rng(0).integers(0, 4 * self.n, (_SAMPLED, 3))
        gradient, middle, error = self.planes(corner, 1.0)
        return float((_side(gradient, middle, error, self.reach(gradient, 1.0)) == 0).mean() * (4 * self.n).prod())

    def uncertain(self) -> tuple[np.ndarray, np.ndarray]:
        """Cells that aren't proven to lie on one side ``[r, 3]``, and the side of each of the others, from the blocks down."""
        sign = np.zeros(4 * self.n, dtype=np.int8)
        corner = 4 * np.stack(np.meshgrid(*map(np.arange, self.n), indexing="ij"), -1).reshape(-1, 3)
        for edge in (4, 2, 1):
            gradient, middle, error = self.planes(corner, edge)
            side = _side(gradient, middle, error, self.reach(gradient, edge))
            boxes = sign.reshape([k for length in sign.shape for k in (length // edge, edge)])
            i, j, k = (corner // edge).T
            boxes[i, :, j, :, k, :] = side[:, None, None, None]
            corner = corner[side == 0]
            if edge > 1:
                corner = (corner[:, None] + (edge // 2 * lattice(2)).astype(int)).reshape(-1, 3)
        return corner, sign

    def planes(self, corner: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient and middle of a plane for each box, and a bound on how far the field strays from it."""
        shares = [affine_bounds(self.weights, centre, half) for centre, half in self._boxes(corner, edge)]
        gradient, middle, error = (np.concatenate(parts) for parts in zip(*shares, strict=True))
        if not np.isfinite(error + self.noise).all():
            raise ValueError("certify: expected a field whose numbers stay finite in float32, got weights too large")
        return gradient, middle, error + self.noise

    def steepest(self, corner: np.ndarray) -> float:
        """A bound on the length of the network's gradient in cells."""
        bounds = [gradient_bounds(self.weights, centre, half).max(initial=0) for centre, half in self._boxes(corner, 1)]
        return float(max(bounds))

    def _boxes(self, corner: np.ndarray, edge: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Centres and half sizes, some at a time."""
        self.bar.total += len(corner)
        for k in range(0, max(len(corner), 1), _BOXES):
            centre = self.lo + (corner[k : k + _BOXES] + 0.5 * edge) * self.cell
            yield centre, np.tile(self.half(edge), (len(centre), 1))
            self.bar.update(len(centre))

    def reach(self, gradient: np.ndarray, edge: float) -> np.ndarray:
        """How far planes with these gradients go up or down from the middles of boxes."""
        return np.abs(gradient) @ self.half(edge)

    def half(self, edge: float) -> np.ndarray:
        return (0.5 * edge + _BEYOND) * self.cell


def _side(gradient: np.ndarray, middle: np.ndarray, error: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """The proven sign of each box, 0 where unknown."""
    return np.where(np.abs(middle) > (reach + error) * (1 + _SLACK), np.sign(middle), 0).astype(np.int8)
