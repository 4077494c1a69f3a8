"""From RGB-D video to separate objects: what moves rigidly together is one."""

from __future__ import annotations

import objects  # noqa: F401  (first: it says how many threads torch gets)  # isort: skip
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenes.video.clip import Clip, load_clip
    from scenes.video.decomposition import Carrying, Decomposition, FoundObject, decompose
    from scenes.video.learning import ClipConfig, LearnedClip, decompose_scene, learn_clip
    from scenes.video.masked import learn_masked

__all__ = [
    "Carrying",
    "Clip",
    "ClipConfig",
    "Decomposition",
    "FoundObject",
    "LearnedClip",
    "decompose",
    "decompose_scene",
    "learn_clip",
    "learn_masked",
    "load_clip",
]

_HOME = {
    **dict.fromkeys(("Clip", "load_clip"), "clip"),
    **dict.fromkeys(("Carrying", "Decomposition", "FoundObject", "decompose"), "decomposition"),
    **dict.fromkeys(("ClipConfig", "LearnedClip", "decompose_scene", "learn_clip"), "learning"),
    "learn_masked": "masked",
}


def __getattr__(name: str) -> Any:
    """Loads what is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'scenes.video' has no attribute {name!r}")
    return getattr(import_module(f"scenes.video.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
