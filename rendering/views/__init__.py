"""Posed pictures as data: read from folders, checked, and given as `Views`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rendering.views.types import View, ViewError, ViewPoints, Views, split

if TYPE_CHECKING:
    from rendering.views.files import load_views

__all__ = ["View", "ViewError", "ViewPoints", "Views", "load_views", "split"]


def __getattr__(name: str) -> Any:
    """Reading brings in libraries that take long to load: it comes when it is asked for."""
    if name != "load_views":
        raise AttributeError(f"module 'rendering.views' has no attribute {name!r}")
    from rendering.views.files import load_views

    return load_views
