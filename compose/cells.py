"""A sparse index of each asset's surface, by which rays skip what holds none and meet the rest with a good guess.

The box is divided into blocks of 4 x 4 x 4 cells. A block without surface says so, on which side of the surface it lies and
how many blocks away (Chebyshev) the nearest one with surface is. In the others each cell that may hold surface has a plane,
``f(p) ~ middle + gradient . (p - centre)``, and a bound on how far the field strays from it, packed into 6 bytes. The bound
is *sampled*, not proven: twice the largest deviation found at 27 points of the cell (its corners among them), at 125 where
the field is far from flat, plus what packing adds, plus float32 noise. The number of cells follows from a budget of bytes,
so that flat and simple things get finer ones.

The index of a `SirenField` can be *certified*: then all that it says is proven for the network as the float32 kernel evaluates
it (`certify.py`), all over each closed cell and a millionth of a cell beyond. Blocks that are proven to have a sign are left
alone; what is left is halved down to the cells, and once more to learn which of these lie on one side after all and how far
the field strays from the planes of the rest.

An index only ever says where a field need not be asked; what is hit, and where, the field itself decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import safetensors
import safetensors.numpy

from compose.batch import FieldBatch
from compose.certify import Weights, affine_bounds, evaluation_error, gradient_bounds, weights_of
from compose.cpu.siren_kernel import serves
from objects.cache import cache_folder, content_key
from objects.field import Field
from objects.files import FieldFileError, field_hash, storable, write_atomically
from objects.progress import Bar
from objects.siren import SirenField

_VERSION = 3  # part of every cache key: raise it when the same field would give another index
_BYTES = 96_000  # of an asset's index, about
_TRIAL, _FINEST = 24, 96  # cells along the longest edge: of the trial that measures the surface, and at most
_FEWEST_BLOCKS = 3  # flat objects: the two faces of a plate must not share a cell
_SAFETY = 2.0  # factor on the largest deviation that the samples show
_BENT = 0.008  # a deviation of more than this share of what the distance may change over a cell calls for more samples
_MIN_BOUND = 1e-5  # of the box diagonal: float32 evaluation noise
_CHUNK = 256  # blocks sampled together
_JOINED = 64  # indices

FINE_STEP = 1 / 2000  # of the box diagonal: the step at which the dense reference marches
_CERTIFIED_BYTES = 400_000  # of a certified index, about
_CERTIFIED_TRIAL, _CERTIFIED_FINEST = 48, 128
_BEYOND = 1e-6  # of a cell, on each side: what is proven holds there, too, as places in a march are rounded
_SLACK = 1e-9  # of a bound: more than the rounding of what is done to it here, in float64
_BOXES = 4096  # bounded together

K = TypeVar("K")
V = TypeVar("V")


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
    """

    cell: np.ndarray
    block: np.ndarray
    mask: np.ndarray
    inside: np.ndarray
    first: np.ndarray
    plane: np.ndarray
    unit: np.ndarray
    lipschitz: np.ndarray

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
        n = self.block.shape
        inside = np.repeat(((-1 - self.block) % 2 == 1)[..., None], 64, -1)
        inside[self.block >= 0] = _bits(self.inside)
        return inside.reshape(*n, 4, 4, 4).transpose(0, 3, 1, 4, 2, 5).reshape([4 * k for k in n])


class Known(Generic[K, V]):
    """What was computed from fields, for as long as they live and their tensors stay as they are."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Field, dict[K, tuple[tuple[int, ...], V]]] = WeakKeyDictionary()

    def of(self, field: Field, key: K, make: Callable[[], V]) -> V:
        version = tuple(v._version for v in field.state_dict(keep_vars=True).values())
        known = self._of.setdefault(field, {})
        if key not in known or known[key][0] != version:
            known[key] = (version, make())
        return known[key][1]

    def replace(self, field: Field, key: K, value: V) -> None:
        """Puts an equal value in the place of a known one."""
        self._of[field][key] = (self._of[field][key][0], value)


class Cells(NamedTuple):
    """The indices of all assets, one after another (`AssetCells`)."""

    shape: np.ndarray  # [a, 3] blocks
    cell: np.ndarray  # [a, 3]
    block_at: np.ndarray  # [a] first entry of ``block``
    mixed_at: np.ndarray  # [a] first entry of ``mask``, ``inside`` and ``first``
    plane_at: np.ndarray  # [a] first row of ``plane``
    block: np.ndarray
    mask: np.ndarray
    inside: np.ndarray
    first: np.ndarray
    plane: np.ndarray
    unit: np.ndarray  # [a, 3]
    lipschitz: np.ndarray  # [a]
    proven: np.ndarray  # [a] bool: certified

    @staticmethod
    def of_fields(wanted: Sequence[tuple[Field, float | None, bool]]) -> Cells:
        """Of fields at times, certified or not, as `cells_of`. What is known of each is kept as a part of the joined arrays,
        so that memory holds it once.

        Raises:
            ValueError: As `build_cells`.
        """
        found: list[AssetCells] = []

        def join(first: int) -> Cells:
            cells = Cells.of(found[first:], [certify for _, _, certify in wanted[first : len(found)]])
            for k, own in enumerate(found[first:]):
                field, time, certify = wanted[first + k]
                found[first + k] = cells.part(k, own)
                _KNOWN.replace(field, (time, certify), found[first + k])
            return cells

        bar = Bar(wanted, desc="indexing", unit="object")
        for n, (field, time, certify) in enumerate(bar, 1):
            found.append(cells_of(field, time, certify))
            if n % _JOINED == 0:  # now and then: small arrays are let go of before many of them have pitted the heap
                join(n - _JOINED)
        return join(0)

    def part(self, a: int, own: AssetCells) -> AssetCells:
        """Asset ``a``, whose index equals ``own``, as views of these arrays."""
        m, p, k, r = self.mixed_at[a], self.plane_at[a], len(own.mask), len(own.plane)
        block = self.block[self.block_at[a] : self.block_at[a] + own.block.size].reshape(own.block.shape)
        mask, inside, first = (v[m : m + k] for v in (self.mask, self.inside, self.first))
        return replace(own, block=block, mask=mask, inside=inside, first=first, plane=self.plane[p : p + r])

    @staticmethod
    def of(assets: Sequence[AssetCells], proven: Sequence[bool]) -> Cells:
        def starts(lengths: list[int]) -> np.ndarray:
            return np.cumsum([0, *lengths], dtype=np.int64)[: len(lengths)]

        def joined(name: str, empty: np.ndarray) -> np.ndarray:
            return np.concatenate([empty, *(getattr(a, name).reshape(-1, *empty.shape[1:]) for a in assets)])

        return Cells(
            shape=np.array([a.block.shape for a in assets], dtype=np.int64).reshape(len(assets), 3),
            cell=joined("cell", np.zeros((0, 3))),
            block_at=starts([a.block.size for a in assets]),
            mixed_at=starts([len(a.mask) for a in assets]),
            plane_at=starts([len(a.plane) for a in assets]),
            block=joined("block", np.zeros(0, dtype=np.int16)),
            mask=joined("mask", np.zeros(0, dtype=np.uint64)),
            inside=joined("inside", np.zeros(0, dtype=np.uint64)),
            first=joined("first", np.zeros(0, dtype=np.int32)),
            plane=joined("plane", np.zeros((0, 6), dtype=np.int8)),
            unit=joined("unit", np.zeros((0, 3))),
            lipschitz=joined("lipschitz", np.zeros(0)),
            proven=np.array(proven, dtype=bool),
        )


def _bits(words: np.ndarray) -> np.ndarray:
    """``[k, 64]`` bool, the lowest first."""
    return (words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1) != 0


def build_cells(field: Field, time: float | None = None, certify: bool = False) -> AssetCells:
    """Samples a field into its index (about a million evaluations), or proves it.

    Raises:
        ValueError: The field is not finite somewhere in its box; ``certify``, and it can't be certified.
    """
    if certify:
        return _certified(field)
    trial = _build(field, time, _TRIAL)
    finer = _TRIAL * np.sqrt(_BYTES / trial.nbytes)  # bytes go with the surface, that with the square
    return _build(field, time, int(np.clip(finer, _TRIAL, _FINEST)))


def _grid(field: Field, cells_longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corner of the box, blocks along each axis, size of a cell."""
    lo = field.box_lo.detach().double().numpy()
    size = field.box_hi.detach().double().numpy() - lo
    n = np.maximum(np.ceil(size / size.max() * cells_longest / 4 - 1e-9).astype(int), _FEWEST_BLOCKS)
    return lo, n, size / (4 * n)


def _build(field: Field, time: float | None, cells_longest: int) -> AssetCells:
    lo, n, cell = _grid(field, cells_longest)
    floor = _MIN_BOUND * float(np.linalg.norm(4 * n * cell))
    ask = _asker(field, time, lo, cell)

    # A block holds no surface if none of the corners of its cells is as close to one as any point is to its nearest corner.
    corners = np.stack(np.meshgrid(*(np.arange(4 * k + 1.0) for k in n), indexing="ij"), -1)
    value = ask(corners.reshape(-1, 3)).reshape(4 * n + 1)
    lipschitz = max(field.lipschitz, *(np.abs(np.diff(value, axis=a)).max() / cell[a] for a in range(3)))
    clear = 1.1 * lipschitz * 0.5 * float(np.linalg.norm(cell)) + floor
    closest = np.abs(value)
    for a in range(3):  # least of the 5 x 5 x 5 corners of each block
        windows = np.lib.stride_tricks.sliding_window_view(closest, 5, a)
        closest = windows.min(-1)[(slice(None),) * a + (slice(None, None, 4),)]
    sampled = np.argwhere(closest <= clear)

    shares = [_planes(ask, sampled[k : k + _CHUNK], cell) for k in range(0, len(sampled), _CHUNK)]
    nothing = np.zeros((0, 64, 3)), np.zeros((0, 64)), np.zeros((0, 64))
    gradient, middle, deviation = (np.concatenate(parts) for parts in zip(nothing, *shares, strict=True))
    reach = 0.5 * np.abs(gradient) @ cell
    # Where the field is far from flat there may be an edge between the samples: these cells are looked at more closely.
    bent = (deviation > _BENT * lipschitz * cell.min()) & (np.abs(middle) <= reach + 2 * _SAFETY * deviation + floor)
    at, sub = np.nonzero(bent)
    corner = 4.0 * sampled[at] + np.stack(np.unravel_index(sub, (4, 4, 4)), -1)
    for k in range(0, len(at), 16 * _CHUNK):
        part = (at[k : k + 16 * _CHUNK], sub[k : k + 16 * _CHUNK])
        middle[part], deviation[part] = _range(ask, corner[k : k + 16 * _CHUNK], cell, gradient[part])
    bound = _SAFETY * deviation + floor

    unit = np.array([np.abs(gradient).max(initial=1e-30) / 127, 1.0, (reach + bound).max(initial=1e-30) / 32767])
    # Packing moves the plane by at most half a unit of each: that goes into the bound, before it is packed itself.
    bound = bound + 0.5 * (unit[0] * 0.5 * cell.sum() + unit[2])
    surface = np.abs(middle) <= reach + bound
    unit[1] = bound[surface].max(initial=1e-30) / 255
    plane = _rows(
        gradient[surface] / unit[0],
        np.minimum(np.ceil(bound[surface] / unit[1] - 1e-6), 255),
        np.clip(middle[surface] / unit[2], -32767, 32767),
    )
    mixed = np.zeros(n, dtype=bool)
    mixed[tuple(sampled.T)] = surface.any(1)
    negative = value[:-1:4, :-1:4, :-1:4] < 0
    negative[tuple(sampled.T)] = middle[:, 0] < 0 if len(sampled) else False
    some = surface.any(1)
    return _assembled(cell, mixed, negative, surface[some], middle[some] < 0, plane, unit, float(lipschitz))


def _rows(gradient: np.ndarray, bound: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Planes in units, packed: gradient and middle are rounded, the bound is whole."""
    plane = np.zeros((len(bound), 6), dtype=np.int8)
    plane[:, :3] = np.rint(gradient)
    plane[:, 3] = bound.astype(np.uint8).view(np.int8)
    plane[:, 4:] = np.rint(middle).astype("<i2").view(np.int8).reshape(-1, 2)
    return plane


def _assembled(
    cell: np.ndarray,
    mixed: np.ndarray,
    negative: np.ndarray,
    surface: np.ndarray,
    inside: np.ndarray,
    plane: np.ndarray,
    unit: np.ndarray,
    lipschitz: float,
) -> AssetCells:
    """An index from what is known of each block ``[bx, by, bz]`` (has it surface, is it inside), the same of each cell of
    those with surface ``[k, 64]``, and the planes in their order."""
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
    )


def _asker(field: Field, time: float | None, lo: np.ndarray, cell: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The field at points given in cells from ``lo``."""
    batch = FieldBatch([field])

    def ask(p: np.ndarray) -> np.ndarray:
        seconds = np.full(len(p), 0.0 if time is None else time)
        value = batch.sdf_sorted(np.zeros(len(p), dtype=np.int64), lo + p * cell, seconds)
        if not np.isfinite(value).all():
            raise ValueError(
                f"{type(field).__name__}: expected finite distances within its box, got NaN or infinite ones"
            )
        return value

    return ask


def _planes(ask: Callable, blocks: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each cell of each block ``[k, 64]``: gradient ``[k, 64, 3]`` and middle of its plane, largest deviation at its
    lattice."""
    value = ask((4.0 * (blocks[:, None] + _lattice(9))).reshape(-1, 3)).reshape(len(blocks), 9, 9, 9)
    own = np.lib.stride_tricks.sliding_window_view(value, (3, 3, 3), (1, 2, 3))[:, ::2, ::2, ::2]
    own = own.reshape(len(blocks), 64, 3, 3, 3)
    gradient = np.stack([(own.take(2, 2 + a) - own.take(0, 2 + a)).mean((2, 3)) / cell[a] for a in range(3)], -1)
    rest = own.reshape(len(blocks), 64, 27) - gradient @ ((_lattice(3) - 0.5) * cell).T
    return gradient, *_middle_and_half(rest)


def _range(ask: Callable, corner: np.ndarray, cell: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and largest deviation of planes with given gradients in the cells at ``corner [k, 3]``, at 5 x 5 x 5 points of
    each."""
    value = ask((corner[:, None] + _lattice(5)).reshape(-1, 3)).reshape(len(corner), 125)
    return _middle_and_half(value - gradient @ ((_lattice(5) - 0.5) * cell).T)


def _lattice(n: int) -> np.ndarray:
    """``[n ** 3, 3]`` points of the unit cube, its corners among them."""
    return np.stack(np.meshgrid(*[np.linspace(0, 1, n)] * 3, indexing="ij"), -1).reshape(-1, 3)


def _middle_and_half(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the range over the last axis."""
    top, bottom = values.max(-1), values.min(-1)
    return 0.5 * (top + bottom), 0.5 * (top - bottom)


def _certified(field: Field) -> AssetCells:
    if not serves(field):
        raise ValueError(
            f"certify: expected a SirenField (no subclass of it) of float32 numbers, which alone can be certified, "
            f"got {type(field).__name__}"
        )
    weights = weights_of(cast(SirenField, field))
    with Bar(total=0, desc="certifying", unit="box", unit_scale=True) as bar:
        prover = _Prover(weights, evaluation_error(weights), *_grid(field, _CERTIFIED_TRIAL), bar)
        trial = 6 * len(prover.uncertain()[0]) + 2 * int(prover.n.prod())  # bytes
        finer = _CERTIFIED_TRIAL * np.sqrt(_CERTIFIED_BYTES / trial)
        grid = _grid(field, int(np.clip(finer, _CERTIFIED_TRIAL // 4, _CERTIFIED_FINEST)))
        return _Prover(weights, prover.noise, *grid, bar).cells()


@dataclass(frozen=True, eq=False)
class _Prover:
    """Proves what an index with given cells says; boxes are given by their least corners, in cells from ``lo``, and their edge.

    Args:
        noise: How far the field may be from its network.
        lo, n, cell: As `_grid` gives them.
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
        # The halves of each cell: are they all on one side, and how far does the field stray from the plane of the cell?
        gradient, middle, _ = self.planes(corner, 1.0)
        offset = _lattice(2) * 0.5
        parts = self.planes((corner[:, None] + offset).reshape(-1, 3), 0.5)
        side = _side(*parts, self.reach(parts[0], 0.5)).reshape(-1, 8)
        sign[tuple(corner.T)] = np.where((side == side[:, :1]).all(1), side[:, 0], 0)
        rest = sign[tuple(corner.T)] == 0
        corner, gradient, middle = corner[rest], gradient[rest], middle[rest]
        part_gradient, part_middle, error = (part.reshape(-1, 8, *part.shape[1:])[rest] for part in parts)
        apart = part_middle - (gradient @ ((offset - 0.25) * self.cell).T)
        apart_reach = self.reach(part_gradient - gradient[:, None], 0.5) + error
        top, bottom = (apart + apart_reach).max(1), (apart - apart_reach).min(1)
        middle, bound = 0.5 * (top + bottom), 0.5 * (top - bottom)

        unit = np.array([np.abs(gradient).max(initial=1e-30) / 127, 1.0, np.abs(middle).max(initial=1e-30) / 32767])
        packed_gradient, packed_middle = np.rint(gradient / unit[0]), np.rint(middle / unit[2])
        bound += self.reach(gradient - packed_gradient * unit[0], 1.0) + np.abs(middle - packed_middle * unit[2])
        bound += _SLACK * (bound + np.abs(middle) + self.reach(gradient, 1.0))
        unit[1] = bound.max(initial=1e-30) * (1 + _SLACK) / 255
        place = np.ravel_multi_index(tuple((corner // 4).T), tuple(self.n)) * 64 + (corner % 4) @ [16, 4, 1]
        plane = _rows(packed_gradient, np.ceil(bound / unit[1]), packed_middle)[np.argsort(place)]

        blocks = sign.reshape(self.n[0], 4, self.n[1], 4, self.n[2], 4).transpose(0, 2, 4, 1, 3, 5).reshape(*self.n, 64)
        mixed = (blocks == 0).any(-1)
        # Two float32 values that far apart differ by at most this much more than those of the network itself.
        apart_least = FINE_STEP * float(np.linalg.norm(4 * self.n * self.cell))
        lipschitz = self.steepest(corner) + 2 * self.noise / apart_least
        return _assembled(
            self.cell, mixed, blocks[..., 0] < 0, blocks[mixed] == 0, blocks[mixed] < 0, plane, unit, lipschitz
        )

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
                corner = (corner[:, None] + (edge // 2 * _lattice(2)).astype(int)).reshape(-1, 3)
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


def cells_of(field: Field, time: float | None, certify: bool = False) -> AssetCells:
    """The index of a field at a time, made on first use and again whenever the weights have changed; kept in the cache folder.

    Raises:
        ValueError: As `build_cells`.
    """
    return _KNOWN.of(field, (time, certify), lambda: _stored_or_built(field, time, certify))


_KNOWN: Known[tuple[float | None, bool], AssetCells] = Known()


def _stored_or_built(field: Field, time: float | None, certify: bool) -> AssetCells:
    if not storable(field):  # of the caller's own making: its numbers don't say all of it
        return build_cells(field, time, certify)
    kind = [_CERTIFIED_BYTES, "certified"] if certify else [_BYTES]
    key = content_key(_VERSION, *kind, field_hash(field), time)
    path = cache_folder("cells") / f"{key}.safetensors"
    cells = _read(path)
    if cells is None:
        cells = build_cells(field, time, certify)
        arrays = {f.name: np.ascontiguousarray(getattr(cells, f.name)) for f in fields(cells)}
        with contextlib.suppress(FieldFileError):  # no room: it is made again the next time
            write_atomically(path, safetensors.numpy.save(arrays))
    return cells


def _read(path: Path) -> AssetCells | None:
    """A stored index; None where there is none, or none that is whole."""
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
        return AssetCells(**arrays)
    except (OSError, safetensors.SafetensorError, TypeError):
        return None
