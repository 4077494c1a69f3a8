"""Indices of fields (`compose.asset_cells`): made on first use, kept in memory and in the cache folder, joined for kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

import compose.certified_cells as certified_cells
import compose.sampled_cells as sampled_cells
from compose.asset_cells import AssetCells
from compose.cpu import Cells
from compose.field_cache import FieldCache
from objects.cache import cache_folder, content_key
from objects.field import Field
from objects.files import FieldFileError, field_hash, storable, write_atomically
from objects.progress import Bar

_VERSION = 3  # part of every cache key: raise it when the same field would give another index
_JOINED = 64  # indices


def build_cells(field: Field, time: float | None = None, certify: bool = False) -> AssetCells:
    """Samples a field into its index (about a million evaluations), or proves it.

    Raises:
        ValueError: The field is not finite somewhere in its box; ``certify``, and it can't be certified.
    """
    if certify:
        return certified_cells.certified_cells(field)
    return sampled_cells.sampled_cells(field, time)


def cells_of(field: Field, time: float | None, certify: bool = False) -> AssetCells:
    """The index of a field at a time, made on first use and again whenever the weights have changed; kept in the cache folder.

    Raises:
        ValueError: As `build_cells`.
    """
    return _CACHE.of(field, (time, certify), lambda: _stored_or_built(field, time, certify))


_CACHE: FieldCache[tuple[float | None, bool], AssetCells] = FieldCache()


def _stored_or_built(field: Field, time: float | None, certify: bool) -> AssetCells:
    if not storable(field):  # of the caller's own making: its numbers don't say all of it
        return build_cells(field, time, certify)
    kind = [certified_cells.BYTES, "certified"] if certify else [sampled_cells.BYTES]
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


def cells_of_fields(wanted: Sequence[tuple[Field, float | None, bool]]) -> Cells:
    """Of fields at times, certified or not, as `cells_of`. What is known of each is kept as a part of the joined arrays,
    so that memory holds it once.

    Raises:
        ValueError: As `build_cells`.
    """
    found: list[AssetCells] = []

    def join(first: int) -> Cells:
        cells = joined_cells(found[first:], [certify for _, _, certify in wanted[first : len(found)]])
        for k, own in enumerate(found[first:]):
            field, time, certify = wanted[first + k]
            found[first + k] = _part(cells, k, own)
            _CACHE.replace(field, (time, certify), found[first + k])
        return cells

    bar = Bar(wanted, desc="indexing", unit="object")
    for n, (field, time, certify) in enumerate(bar, 1):
        found.append(cells_of(field, time, certify))
        if n % _JOINED == 0:  # now and then: small arrays are let go of before many of them have pitted the heap
            join(n - _JOINED)
    return join(0)


def _part(cells: Cells, a: int, own: AssetCells) -> AssetCells:
    """Asset ``a``, whose index equals ``own``, as views of the joined arrays."""
    m, p, k, r = cells.mixed_at[a], cells.plane_at[a], len(own.mask), len(own.plane)
    block = cells.block[cells.block_at[a] : cells.block_at[a] + own.block.size].reshape(own.block.shape)
    mask, inside, first = (v[m : m + k] for v in (cells.mask, cells.inside, cells.first))
    return replace(own, block=block, mask=mask, inside=inside, first=first, plane=cells.plane[p : p + r])


def joined_cells(assets: Sequence[AssetCells], proven: Sequence[bool]) -> Cells:
    """The indices of all assets one after another."""

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
