"""From RGB-D video to separate objects: what moves rigidly together is one."""

from __future__ import annotations

import objects  # noqa: F401  (first: it says how many threads torch gets)  # isort: skip
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenes.video.clip import Clip, load_clip
    from scenes.video.decomposition import Carrying, Decomposition, FoundObject, decompose

__all__ = ["Carrying", "Clip", "Decomposition", "FoundObject", "decompose", "load_clip"]

_IN_CLIP = ("Clip", "load_clip")


def __getattr__(name: str) -> Any:
    """Loads what is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'scenes.video' has no attribute {name!r}")
    return getattr(import_module("scenes.video.clip" if name in _IN_CLIP else "scenes.video.decomposition"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
