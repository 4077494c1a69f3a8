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
import compose.drifting_cells as drifting_cells
import compose.sampled_cells as sampled_cells
from compose.asset_cells import AssetCells
from compose.cpu import Cells
from compose.field_cache import FieldCache
from compose.intervals import Interval, When
from objects.cache import cache_folder, content_key
from objects.field import Field
from objects.files import FieldFileError, field_hash, storable, write_atomically
from objects.progress import Bar

_VERSION = 6  # part of every cache key: raise it when the same field would give another index
_JOINED = 64  # indices
KEPT = 512  # so many indices that hold at a time or over an interval only are kept: about 20 MB


def build_cells(field: Field, time: When = None, certify: bool = False) -> AssetCells:
    """Samples a field into its index (about a million evaluations), or proves it.

    Raises:
        ValueError: The field is not finite somewhere in its box; ``certify``, and it can't be certified.
    """
    if certify:
        return certified_cells.certified_cells(field)
    if isinstance(time, Interval):
        return drifting_cells.drifting_cells(field, time)
    return sampled_cells.sampled_cells(field, time)


def cells_of(field: Field, time: When, certify: bool = False) -> AssetCells:
    """The index of a field at a time or over an interval, made on first use and again whenever the weights have changed; kept in
    the cache folder.

    Raises:
        ValueError: As `build_cells`.
    """
    return _CACHE.of(field, time, lambda: _stored_or_built(field, time, certify), certify)


_CACHE: FieldCache[AssetCells] = FieldCache(KEPT, of_shape=True)


def _stored_or_built(field: Field, time: When, certify: bool) -> AssetCells:
    if not storable(field):  # of the caller's own making: its numbers don't say all of it
        return build_cells(field, time, certify)
    path = _file(field, time, certify)
    cells = _read(path)
    if cells is None:
        cells = build_cells(field, time, certify)
        _write(cells, path)
    return cells


def keep_cells(field: Field) -> None:
    """Puts the index of a field into the cache folder once more, under what the field is by now: its colours may have learned."""
    if storable(field) and not (path := _file(field, None, False)).exists():
        _write(cells_of(field, None), path)


def _file(field: Field, time: When, certify: bool) -> Path:
    kind: list[object] = (
        [certified_cells.BYTES, certified_cells.VERSION, "proven"] if certify else [sampled_cells.BYTES]
    )
    if isinstance(time, Interval):
        kind = [drifting_cells.LONGEST, "drifting"]
    return cache_folder("cells") / f"{content_key(_VERSION, *kind, field_hash(field), time)}.safetensors"


def _write(cells: AssetCells, path: Path) -> None:
    arrays = {f.name: np.ascontiguousarray(getattr(cells, f.name)) for f in fields(cells)}
    with contextlib.suppress(FieldFileError):  # no room: it is made again the next time
        write_atomically(path, safetensors.numpy.save(arrays))


def _read(path: Path) -> AssetCells | None:
    """A stored index; None where there is none, or none that is whole."""
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
        return AssetCells(**arrays)
    except (OSError, safetensors.SafetensorError, TypeError):
        return None


CellKey = tuple[Field, When, bool]  # field, time or interval, whether certified


def cells_of_fields(keys: Sequence[CellKey]) -> tuple[Cells, list[AssetCells]]:
    """The indices of many fields one after another, and each of them. What is known of a field without time is kept as a part of
    the joined arrays, so that memory holds it once.

    Raises:
        ValueError: As `build_cells`.
    """
    found: list[AssetCells] = []

    def join(first: int) -> Cells:
        cells = joined_cells(found[first:], [certify for _, _, certify in keys[first : len(found)]])
        for k in range(first, len(found)):
            found[k] = keep_part(keys[k], found[k], cells, k - first)
        return cells

    bar = Bar(keys, desc="indexing", unit="object")
    for n, (field, time, certify) in enumerate(bar, 1):
        found.append(cells_of(field, time, certify))
        if n % _JOINED == 0:  # now and then: small arrays are let go of before many of them have pitted the heap
            join(n - _JOINED)
    return join(0), found


def keep_part(key: CellKey, own: AssetCells, joined: Cells, a: int) -> AssetCells:
    """The index of a field as a part of joined arrays, in which it is number ``a``; what is known of the field is that from now on,
    unless it has a time."""
    field, time, certify = key
    if time is not None:  # few are kept, and must not keep the arrays
        return own
    m, p, k, r = joined.mixed_at[a], joined.plane_at[a], len(own.mask), len(own.plane)
    block = joined.block[joined.block_at[a] : joined.block_at[a] + own.block.size].reshape(own.block.shape)
    mask, inside, first = (v[m : m + k] for v in (joined.mask, joined.inside, joined.first))
    part = replace(own, block=block, mask=mask, inside=inside, first=first, plane=joined.plane[p : p + r])
    _CACHE.exchange(field, time, certify, own, part)
    return part


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
        drift_at=starts([len(a.drift) for a in assets]),
        drift=joined("drift", np.zeros((0, 2), dtype=np.int8)),
        drift_unit=joined("drift_unit", np.zeros(0)),
        phase=np.zeros(len(assets)),
    )
