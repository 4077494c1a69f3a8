"""Scenes: the graph of what is where over time, its edits and files, and the command line."""

from __future__ import annotations

import objects  # noqa: F401  (first: it says how many threads torch gets)  # isort: skip
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenes.graph import SceneGraph
    from scenes.io.export import export_scene
    from scenes.io.scene_folder import SceneFileError, load_scene, save_scene
    from scenes.track import Track
    from scenes.viewer.opening import view

__all__ = ["SceneFileError", "SceneGraph", "Track", "export_scene", "load_scene", "save_scene", "view"]

_HOME = {
    "SceneGraph": "graph",
    "Track": "track",
    "export_scene": "io.export",
    "view": "viewer.opening",
}  # the others live in io.scene_folder


def __getattr__(name: str) -> Any:
    """Loads what is asked for: ``sirenscape --help`` should not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'scenes' has no attribute {name!r}")
    return getattr(import_module(f"scenes.{_HOME.get(name, 'io.scene_folder')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
