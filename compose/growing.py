"""Arrays that grow at the price of what is appended."""

from __future__ import annotations

from threading import Lock

import numpy as np

_SPARE = 1.5  # times its length is the room of an array that has outgrown its last one


class Growing:
    """An array to which rows can be appended. What was given out before stays as it is: rows are only written behind it."""

    def __init__(self, array: np.ndarray) -> None:
        self.room, self._length, self._lock = array, len(array), Lock()

    @property
    def array(self) -> np.ndarray:
        """All rows; a part of ``room``, which is exchanged when it is full."""
        return self.room[: self._length]

    def append(self, rows: np.ndarray) -> int:
        """Returns where the new rows begin."""
        with self._lock:
            start, end = self._length, self._length + len(rows)
            if end > len(self.room):
                room = np.empty((int(_SPARE * end), *self.room.shape[1:]), self.room.dtype)
                room[:start] = self.array
                self.room = room
            self.room[start:end] = rows
            self._length = end
            return start
