"""What is computed once from a field and kept as long as it lives."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from threading import RLock
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary, ref

from torch import Tensor

from objects.field import Field

TIMES = 64  # so many things that hold at one time only are kept

V = TypeVar("V")


def versions(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Numbers that change when the tensors are written to."""
    return tuple(v._version for v in tensors)


_Key = tuple[Hashable, Hashable]


class FieldCache(Generic[V]):
    """What was computed from fields, for as long as they live and their tensors stay as they are. Of what holds at a time only,
    the last ``keep`` that were asked for. Threads may ask at once."""

    def __init__(self, keep: int = TIMES, *, of_shape: bool = False) -> None:
        """``of_shape``: of what depends on distances alone."""
        self._keep, self._of_shape, self._lock = keep, of_shape, RLock()
        self._of: WeakKeyDictionary[Field, dict[_Key, tuple[tuple[int, ...], V]]] = WeakKeyDictionary()
        self._recent: dict[tuple[ref[Field], _Key], None] = {}  # oldest first

    def of(self, field: Field, time: Hashable, make: Callable[[], V], kind: Hashable = None) -> V:
        """What ``make`` gave for this field, time (None for what holds at all times) and kind, or gives now."""
        state = field.shape_state() if self._of_shape else field.state_dict(keep_vars=True)
        version, key = versions(state.values()), (time, kind)
        with self._lock:
            found = self._of.setdefault(field, {}).get(key)
        if found is None or found[0] != version:
            found = version, make()
        with self._lock:
            self._of[field][key] = found
            if time is not None:
                self._recent.pop((ref(field), key), None)
                self._recent[ref(field), key] = None
                if len(self._recent) > self._keep:
                    old, old_key = next(iter(self._recent))
                    del self._recent[old, old_key]
                    if (old_field := old()) is not None:
                        self._of[old_field].pop(old_key, None)
        return found[1]

    def exchange(self, field: Field, time: Hashable, kind: Hashable, old: V, new: V) -> None:
        """Puts an equal value in the place of ``old``, if that is still what is known."""
        with self._lock:
            version, value = self._of.get(field, {}).get((time, kind), ((), None))
            if value is old:
                self._of[field][time, kind] = (version, new)
