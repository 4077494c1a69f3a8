"""The index of a SIREN by proof: affine bounds of the network over boxes (`compose.certify`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import einops
import numpy as np

from compose.asset_cells import AssetCells, assembled, grid, packed_planes
from compose.certify import affine_bounds, gradient_bounds
from compose.cpu import FINE_STEP, serves
from compose.distance_weights import Weights, evaluation_error, weights_of
from objects.field import Field
from objects.progress import Bar
from objects.siren import SirenField

BYTES = 1_000_000  # of an index, about, at most
VERSION = 2  # raise it when the same field would get another index
COARSEST, FINEST = 12, 128  # cells along the longest edge
_SAMPLED = 4096  # cells, by which bytes are estimated
_BEYOND = 1e-6  # of a cell, on each side: what is proven holds there, too, as places in a march are rounded
_SLACK = 1e-9  # of a bound: more than the rounding of what is done to it here, in float64
_BOXES = 4096  # bounded together

_BLOCK, _SMALL, _CELL = (np.full(3, k) for k in (4, 2, 1))  # edges of boxes, in cells
_HALVED = np.array([[2, 2, 1], [2, 1, 1]])  # a small one halved once, twice

_Planes = tuple[np.ndarray, ...]  # of boxes: gradients, middles, and how far the field strays at most


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
    """Proves what an index with given cells says; boxes are given by their least corners, in cells from ``lo``, and their edges.

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
        corner, sign, (gradient, middle, bound) = self.uncertain()
        unit = np.array([np.abs(gradient).max(initial=1e-30) / 127, 1.0, np.abs(middle).max(initial=1e-30) / 32767])
        packed_gradient, packed_middle = np.rint(gradient / unit[0]), np.rint(middle / unit[2])
        bound += self.reach(gradient - packed_gradient * unit[0], _CELL) + np.abs(middle - packed_middle * unit[2])
        bound += _SLACK * (bound + np.abs(middle) + self.reach(gradient, _CELL))
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
        gradient, middle, error = self.planes(corner, _CELL)
        return float((_side(gradient, middle, error, self.reach(gradient, _CELL)) == 0).mean() * (4 * self.n).prod())

    def uncertain(self) -> tuple[np.ndarray, np.ndarray, _Planes]:
        """Cells that aren't proven to lie on one side ``[r, 3]``, the side of each of the others, and the planes of the former:
        from the blocks down. Halving a box halves the error of its plane about, so that a box of two cells to an edge is halved
        as often as it seems to need."""
        sign = np.zeros(4 * self.n, dtype=np.int8)
        corner = _parts(np.zeros((1, 3), int), 4 * self.n, _BLOCK)
        corner = _parts(self.left(sign, corner, _BLOCK)[0], _BLOCK, _SMALL)
        left, gradient, middle, error = self.left(sign, corner, _SMALL)
        clear = np.maximum(np.abs(middle) - self.reach(gradient, _SMALL), 1e-30)
        halvings, cells = np.ceil(np.log2(error / clear)), []
        for k, shape in enumerate(_HALVED):
            some = _parts(left[np.maximum(halvings, 1) == k + 1], _SMALL, shape)
            cells.append(_parts(self.left(sign, some, shape)[0], shape, _CELL))
        cells.append(_parts(left[halvings > len(_HALVED)], _SMALL, _CELL))
        corner, *planes = self.left(sign, np.concatenate(cells), _CELL)
        return corner, sign, tuple(planes)

    def left(self, sign: np.ndarray, corner: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, ...]:
        """Boxes that aren't proven to lie on one side, and their planes; the sides of the others go into ``sign``."""
        planes = gradient, middle, error = self.planes(corner, edges)
        side = _side(gradient, middle, error, self.reach(gradient, edges))
        sign[tuple(_parts(corner, edges, _CELL).T)] = np.repeat(side, edges.prod())
        return tuple(part[side == 0] for part in (corner, *planes))

    def planes(self, corner: np.ndarray, edges: np.ndarray) -> _Planes:
        """Gradient and middle of a plane for each box, and a bound on how far the field strays from it."""
        shares = [affine_bounds(self.weights, centre, half) for centre, half in self._boxes(corner, edges)]
        gradient, middle, error = (np.concatenate(parts) for parts in zip(*shares, strict=True))
        if not np.isfinite(error + self.noise).all():
            raise ValueError("certify: expected a field whose numbers stay finite in float32, got weights too large")
        return gradient, middle, error + self.noise

    def steepest(self, corner: np.ndarray) -> float:
        """A bound on the length of the network's gradient in cells."""
        bounds = [
            gradient_bounds(self.weights, centre, half).max(initial=0) for centre, half in self._boxes(corner, _CELL)
        ]
        return float(max(bounds))

    def _boxes(self, corner: np.ndarray, edges: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Centres and half sizes, some at a time."""
        self.bar.total += len(corner)
        for k in range(0, max(len(corner), 1), _BOXES):
            centre = self.lo + (corner[k : k + _BOXES] + 0.5 * edges) * self.cell
            yield centre, np.tile(self.half(edges), (len(centre), 1))
            self.bar.update(len(centre))

    def reach(self, gradient: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """How far planes with these gradients go up or down from the middles of boxes."""
        return np.abs(gradient) @ self.half(edges)

    def half(self, edges: np.ndarray) -> np.ndarray:
        return (0.5 * edges + _BEYOND) * self.cell


def _parts(corner: np.ndarray, edges: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The boxes with edges ``by`` that fill boxes with the given edges, ``[n k, 3]``."""
    steps = (np.arange(0, edge, step) for edge, step in zip(edges, by, strict=True))
    inner = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    return (corner[:, None] + inner).reshape(-1, 3)


def _side(gradient: np.ndarray, middle: np.ndarray, error: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """The proven sign of each box, 0 where unknown."""
    return np.where(np.abs(middle) > (reach + error) * (1 + _SLACK), np.sign(middle), 0).astype(np.int8)
