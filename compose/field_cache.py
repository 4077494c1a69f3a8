"""What is computed once from a field and kept as long as it lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from objects.field import Field

K = TypeVar("K")
V = TypeVar("V")


class FieldCache(Generic[K, V]):
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
