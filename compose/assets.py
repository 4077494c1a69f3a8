"""What instances show: canonical fields, each at the time of its instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

import compose.cpu as cpu
from compose.batch import FieldBatch
from compose.cell_store import CellStore
from compose.cells import CellKey
from compose.intervals import Interval, intervals_at
from objects.field import Field, channel_widths
from objects.node_warp import NodeWarp
from objects.warped import Warped

if TYPE_CHECKING:
    from compose.surfaces import SceneSurfaces


class AssetTable:
    """The canonical fields of composites that were made from one another, and what is made of each once: its place in the
    batch, its packed network, its cells.

    A table never changes; `holding` gives one that shares what is known. Fields are taken as they are when they come in.
    """

    def __init__(self, fields: Sequence[Field], like: AssetTable | None = None) -> None:
        """Of distinct fields; those of ``like`` come first."""
        self.batch = FieldBatch(fields, like=None if like is None else like.batch)
        self.rows = {field: row for row, field in enumerate(self.batch.fields)}
        self.cells = CellStore() if like is None else like.cells

    def holding(self, fields: Sequence[Field]) -> AssetTable:
        """A table that holds these fields, too."""
        more = [field for field in dict.fromkeys(fields) if field not in self.rows]
        return AssetTable(more, self) if more else self

    def rows_of(self, fields: Sequence[Field]) -> np.ndarray:
        """The number of each field in the batch, ``[m]``."""
        return np.array([self.rows[field] for field in fields], dtype=np.int64)

    def trimmed(self, rows: np.ndarray) -> tuple[AssetTable, np.ndarray]:
        """A table for instances of these rows ``[m]``, and their rows in it: this one, unless most of it is unused or has
        channels that the others lack."""
        used = np.bincount(rows, minlength=len(self.rows)) > 0
        if used.all():
            return self, rows
        live = [self.batch.fields[row] for row in np.flatnonzero(used)]
        if len(used) <= 2 * len(live) + 8 and channel_widths(live) == self.batch.channels:
            return self, rows
        return AssetTable(live), (np.cumsum(used) - 1)[rows]


@dataclass(frozen=True, eq=False)
class Assets:
    """The rows that instances name: a canonical field, and the time at which it is asked.

    First come all fields of the table without a time, in its order, then what has a time. What an instance adds to its field,
    such as its time, stands here and nowhere below; later that is a warp, too.

    Args:
        table: The canonical fields.
        field: ``[a]``, the number of each row's field in the table.
        seconds: ``[a]``, NaN where there is no time.
        used: ``[a]`` bool, rows that an instance may show; the others are never asked.
        certify: Whether the cells of SIRENs are proven.
        known_surfaces: Those of the assets that these were made from.
    """

    table: AssetTable
    field: np.ndarray
    seconds: np.ndarray
    used: np.ndarray
    certify: bool = False
    known_surfaces: SceneSurfaces | None = None

    @staticmethod
    def of(
        table: AssetTable, field: np.ndarray, seconds: np.ndarray, known: Assets | None
    ) -> tuple[Assets, np.ndarray]:
        """Of ``m`` instances by their fields' numbers in the table and their times (NaN for none), and the row of each; ``known``
        is given back where it will do."""
        timed = np.flatnonzero(~np.isnan(seconds))
        n, rows = len(table.rows), field
        fields, times = np.arange(n), np.full(n, np.nan)
        if len(timed):
            pairs, which = np.unique(np.stack([field[timed], seconds[timed]], 1), axis=0, return_inverse=True)
            rows = field.copy()
            rows[timed] = n + which.reshape(-1)
            fields, times = np.r_[fields, pairs[:, 0].astype(np.int64)], np.r_[times, pairs[:, 1]]
        used = np.bincount(rows, minlength=len(fields)) > 0
        if (
            known is not None
            and known.table is table
            and np.array_equal(fields, known.field)
            and np.array_equal(times, known.seconds, equal_nan=True)
            and not (used & ~known.used).any()
        ):
            return known, rows
        if known is None:
            return Assets(table, fields, times, used), rows
        return Assets(
            table, fields, times, used, known.certify, vars(known).get("surfaces", known.known_surfaces)
        ), rows

    @property
    def batch(self) -> FieldBatch:
        """The fields, asked by their numbers in the table."""
        return self.table.batch

    @cached_property
    def fields(self) -> list[Field]:
        """The field of each row."""
        return [self.batch.fields[k] for k in self.field]

    @cached_property
    def times(self) -> list[float | None]:
        """The time of each row."""
        return [None if np.isnan(t) else float(t) for t in self.seconds]

    @cached_property
    def box_lo(self) -> np.ndarray:
        """Lower corner of each row's box, object frame, ``[a, 3]``."""
        return self.batch.box_lo[self.field]

    @cached_property
    def box_hi(self) -> np.ndarray:
        """Upper corner, ``[a, 3]``."""
        return self.batch.box_hi[self.field]

    @cached_property
    def nets(self) -> cpu.Nets:
        """The packed network of each row; of those by `warps` the canonical one."""
        nets, bent = self.batch.nets, self.warps.of >= 0
        nets = nets._replace(at=nets.at[self.field], shape=nets.shape[self.field])
        if not bent.any():
            return nets
        more, field = self.batch.bent.nets, self.field[bent]
        nets.at[bent], nets.shape[bent] = len(nets.weights) + more.at[field], more.shape[field]
        return nets._replace(weights=np.concatenate([nets.weights, more.weights]))

    @cached_property
    def warps(self) -> cpu.Warps:
        """How rows that are used are seen through warps by nodes; others that bend are asked through the batch."""
        n, bent = len(self.field), self.batch.bent
        which, place, known = np.full(n, -1), np.zeros(n, dtype=np.int64), []
        for number in np.flatnonzero(bent.by_nodes):
            rows = np.flatnonzero(self.used & (self.field == number))
            if len(rows):
                warp = cast(NodeWarp, cast(Warped, self.batch.fields[number]).warp)
                seconds = warp.clamped(torch.from_numpy(np.nan_to_num(self.seconds[rows])).float()).double().numpy()
                times, row = np.unique(seconds, return_inverse=True)
                rest, at, among = warp.posed(times)
                which[rows], place[rows] = len(known), among[row]
                known.append((rest, at))
        return cpu.warps_of(known, which, place, bent.stretch[self.field])

    @cached_property
    def cells(self) -> cpu.Cells:
        """The index of each row that is used."""
        wanted: list[CellKey | None] = [None] * len(self.field)
        phase = np.zeros(len(self.field))
        for number in np.unique(self.field[self.used]).tolist():
            rows, field = np.flatnonzero(self.used & (self.field == number)).tolist(), self.batch.fields[number]
            proven, times = self.certify and cpu.serves(field), [self.times[row] for row in rows]
            for row, time, when in zip(rows, times, intervals_at(field, times), strict=True):
                wanted[row] = (field, when, proven)
                if isinstance(when, Interval) and time is not None:
                    phase[row] = when.phase(time)
        return self.table.cells.cells(wanted)._replace(phase=phase)

    @cached_property
    def surfaces(self) -> SceneSurfaces:
        """The surface of each row, made when a question first meets it."""
        from compose.surfaces import SceneSurfaces  # its libraries take a while to load

        return SceneSurfaces(list(zip(self.fields, self.times, strict=True)), self.known_surfaces)

    @cached_property
    def certified(self) -> Assets:
        """The same with a proven index of each SIREN."""
        return replace(self, certify=True)
