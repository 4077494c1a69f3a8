"""One thread at a time: public methods of a class that run under its lock."""

from __future__ import annotations

import functools
import inspect
import threading
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def one_at_a_time(cls: C) -> C:
    """Has the public methods of a class, and those that it inherits, run under ``self.lock``, an ``RLock`` that each object gets.

    Two threads then never meet within one object; what takes several calls is put into ``with thing.lock:``.
    """
    made = cls.__init__

    @functools.wraps(made)
    def init(self: Any, *arguments: Any, **keys: Any) -> None:
        self.lock = threading.RLock()
        made(self, *arguments, **keys)

    cls.__init__ = init
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_"):
            setattr(cls, name, _locked(method))
    return cls


def _locked(method: Any) -> Any:
    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **keys: Any) -> Any:
        with self.lock:
            return method(self, *arguments, **keys)

    return call
