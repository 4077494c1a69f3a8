"""A sparse index of each asset's surface, by which rays skip what holds none and meet the rest with a good guess.

The box is divided into blocks of 4 x 4 x 4 cells. A block without surface says so, on which side of the surface it lies and
how many blocks away (Chebyshev) the nearest one with surface is. In the others each cell that may hold surface has a plane,
``f(p) ~ middle + gradient . (p - centre)``, and a bound on how far the field strays from it, packed into 6 bytes. The bound
is *sampled*, not proven: twice the largest deviation found at 27 points of the cell (its corners among them), at 125 where
the field is far from flat, plus what packing adds, plus float32 noise. The number of cells follows from a budget of bytes,
so that flat and simple things get finer ones.

An index may hold over an interval of time: then planes move in time along a line (``drift``), and bounds hold at all of its times.

The index of a `SirenField` can be *certified*: then all that it says is proven for the network as the float32 kernel evaluates
it (`certify.py`), all over each closed cell and a millionth of a cell beyond. Blocks that are proven to have a sign are left
alone; what is left is halved down to the cells.

An index only ever says where a field need not be asked; what is hit, and where, the field itself decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import cast

import einops
import numpy as np

from objects.field import Field

_FEWEST_BLOCKS = 3  # flat objects: the two faces of a plate must not share a cell


@dataclass(frozen=True, eq=False)
class AssetCells:
    """The index of one asset; ``b`` blocks along x, y, z, ``k`` of them with surface, ``r`` cells that may hold some.

    Args:
        cell: Size of a cell, object units, ``[3]`` float64.
        block: ``[bx, by, bz]`` int16: the number of a block with surface; else ``-1 - (2 * away + inside)``.
        mask, inside: ``[k]`` uint64, bit ``16 x + 4 y + z`` of a cell in its block: it may hold surface; it lies inside.
        first: ``[k]`` int32, place of the block's first cell among the planes.
        plane: ``[r, 6]`` int8: gradient (3), bound (as uint8), middle (two bytes, low one first).
        unit: ``[3]`` float64: what 1 stands for in gradient, bound and middle.
        lipschitz: Largest gradient length seen or claimed, ``[1]``. In a certified index: proven in the cells that may hold
            surface, for values that the float32 kernel gives at places at least ``FINE_STEP`` of the box diagonal apart.
        drift: ``[r, 2]`` int8, of an index that holds over an interval of time: how the plane's middle moves from the middle of the
            interval to its end, and (as uint8, in 255ths) how much of the bound is left at one time, for a plane of that time;
            else ``[0, 2]``.
        drift_unit: What 1 stands for in its first column, ``[1]``; 0 for none.
    """

    cell: np.ndarray
    block: np.ndarray
    mask: np.ndarray
    inside: np.ndarray
    first: np.ndarray
    plane: np.ndarray
    unit: np.ndarray
    lipschitz: np.ndarray
    drift: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int8))
    drift_unit: np.ndarray = field(default_factory=lambda: np.zeros(1))

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    def planes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of the cells that may hold surface: place ``[r, 3]`` (in cells), gradient ``[r, 3]``, middle and bound ``[r]``."""
        at, bit = np.nonzero(_bits(self.mask))
        place = 4 * np.argwhere(self.block >= 0)[at] + np.stack(np.unravel_index(bit, (4, 4, 4)), -1)
        middle = self.plane[:, 4:].copy().view("<i2")[:, 0] * self.unit[2]
        return place, self.plane[:, :3] * self.unit[0], middle, self.plane[:, 3].view(np.uint8) * self.unit[1]

    def inside_cells(self) -> np.ndarray:
        """Which cells lie inside, those with surface by their middle, ``[nx, ny, nz]`` bool."""
        inside = np.repeat(((-1 - self.block) % 2 == 1)[..., None], 64, -1)
        inside[self.block >= 0] = _bits(self.inside)
        return einops.rearrange(inside, "nx ny nz (x y z) -> (nx x) (ny y) (nz z)", x=4, y=4, z=4)


def _bits(words: np.ndarray) -> np.ndarray:
    """``[k, 64]`` bool, the lowest first."""
    return (words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1) != 0


def grid(field: Field, cells_longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corner of the box, blocks along each axis, size of a cell."""
    lo = field.box_lo.detach().double().numpy()
    size = field.box_hi.detach().double().numpy() - lo
    n = np.maximum(np.ceil(size / size.max() * cells_longest / 4 - 1e-9).astype(int), _FEWEST_BLOCKS)
    return lo, n, size / (4 * n)


def packed_planes(gradient: np.ndarray, bound: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Planes in units, packed: gradient and middle are rounded, the bound is whole."""
    plane = np.zeros((len(bound), 6), dtype=np.int8)
    plane[:, :3] = np.rint(gradient)
    plane[:, 3] = bound.astype(np.uint8).view(np.int8)
    plane[:, 4:] = np.rint(middle).astype("<i2").view(np.int8).reshape(-1, 2)
    return plane


def assembled(
    cell: np.ndarray,
    mixed: np.ndarray,
    negative: np.ndarray,
    surface: np.ndarray,
    inside: np.ndarray,
    plane: np.ndarray,
    unit: np.ndarray,
    lipschitz: float,
    drift: tuple[np.ndarray, float] | None = None,
) -> AssetCells:
    """An index from what is known of each block ``[bx, by, bz]`` (has it surface, is it inside), the same of each cell of
    those with surface ``[k, 64]``, the planes in their order, and how they drift (in units)."""
    bit = np.uint64(1) << np.arange(64, dtype=np.uint64)
    counts = surface.sum(1)
    from scipy.ndimage import distance_transform_cdt  # takes a while to load

    away = cast(np.ndarray, distance_transform_cdt(~mixed, metric="chessboard")) if mixed.any() else 255
    block = (-1 - (2 * np.minimum(away, 255) + negative)).astype(np.int16)
    block[mixed] = np.arange(int(mixed.sum()))
    return AssetCells(
        cell=cell,
        block=block,
        mask=(surface * bit).sum(1, dtype=np.uint64),
        inside=(inside * bit).sum(1, dtype=np.uint64),
        first=(np.cumsum(counts) - counts).astype(np.int32),
        plane=plane,
        unit=unit,
        lipschitz=np.array([lipschitz]),
        **({} if drift is None else {"drift": drift[0], "drift_unit": np.array([drift[1]])}),
    )


def lattice(n: int) -> np.ndarray:
    """``[n ** 3, 3]`` points of the unit cube, its corners among them."""
    return np.stack(np.meshgrid(*[np.linspace(0, 1, n)] * 3, indexing="ij"), -1).reshape(-1, 3)
