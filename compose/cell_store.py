"""The indices of the assets of many composites, end to end in arrays that grow."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np

from compose.asset_cells import AssetCells
from compose.cells import KEPT, CellKey, cells_of_fields, keep_part
from compose.cpu import Cells
from compose.growing import Growing

_STARTS = {
    "block_at": "block",
    "mixed_at": "mask",
    "plane_at": "plane",
    "drift_at": "drift",
}  # where an asset begins in which array
_LONG = (
    "block",
    "mask",
    "inside",
    "first",
    "plane",
    "drift",
)  # arrays in which an asset has many rows; it has one in the others


class CellStore:
    """Indices by asset. Each is made on first use and held once, however many composites use it.

    More than `KEPT` indices of times and intervals that are not asked for any more are let go of.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._let_go()

    def _let_go(self) -> None:
        self._rows: dict[CellKey, int] = {}
        self._parts: dict[CellKey, AssetCells] = {}  # of what has no time
        self._arrays: dict[str, Growing] = {}

    def cells(self, wanted: Sequence[CellKey | None]) -> Cells:
        """The indices of some assets; those that are None must not be read.

        Raises:
            ValueError: As `compose.cells.build_cells`.
        """
        keys = list(dict.fromkeys(key for key in wanted if key is not None))
        with self._lock:
            missing = [key for key in keys if key not in self._rows]
            if missing and sum(time is not None for _, time, _ in self._rows.keys() - set(keys)) > KEPT:
                self._let_go()
                missing = keys
            if missing or not self._arrays:
                self._append(missing)
            rows = (
                np.array([0 if key is None else self._rows[key] for key in wanted], dtype=np.int64)
                if self._rows
                else []
            )
            found = {name: grown.array for name, grown in self._arrays.items()}
        return Cells(**{name: v if name in _LONG or len(rows) == 0 else v[rows] for name, v in found.items()})

    def _append(self, keys: Sequence[CellKey]) -> None:
        more, parts = cells_of_fields(keys)
        for key in keys:
            self._rows[key] = len(self._rows)
        self._parts |= {key: part for key, part in zip(keys, parts, strict=True) if key[1] is None}
        if not self._arrays:
            self._arrays = {name: Growing(array) for name, array in more._asdict().items()}
            return
        starts = {name: getattr(more, name) + len(self._arrays[of].array) for name, of in _STARTS.items()}
        rooms = [grown.room for grown in self._arrays.values()]
        for name, rows in more._replace(**starts)._asdict().items():
            self._arrays[name].append(rows)
        joined = Cells(**{name: grown.array for name, grown in self._arrays.items()})
        moved = any(grown.room is not room for grown, room in zip(self._arrays.values(), rooms, strict=True))
        for key in list(self._parts) if moved else keys:  # so that memory holds them once
            if key in self._parts:
                self._parts[key] = keep_part(key, self._parts[key], joined, self._rows[key])
