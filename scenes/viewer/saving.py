"""Where a viewed scene may be saved: its own folder, and one folder for others; nothing else is reached from a browser."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from scenes.graph import SceneGraph
from scenes.io.scene_folder import check_target, locked, save_scene

_NAME = re.compile(r"\w[\w .+-]{0,99}")


class AskFirst(ValueError):
    """Saving would overwrite what somebody may want to keep."""


class Saving:
    """The places that were given at the start.

    Args:
        scene: The scene's own folder (``NAME.scene``), which need not exist yet; None if it has none.
        places: A folder for copies under other names; None if there may be none.
    """

    def __init__(self, scene: Path | None, places: Path | None) -> None:
        if scene is not None:
            check_target(scene)
        if places is not None and not (places.is_dir() and os.access(places, os.W_OK)):
            raise ValueError(f"save_as: expected a folder that can be written to, got {str(places)!r}")
        self.scene, self.places = scene, places
        self._seen = None if scene is None else _digest(scene)

    def save(self, graph: SceneGraph, *, overwrite: bool = False) -> Path:
        """Writes the scene to its own folder.

        Raises:
            AskFirst: It was changed there since it was read or saved, and ``overwrite`` is not given.
            ValueError: It has no folder, or can't be written.
        """
        if self.scene is None:
            raise ValueError("save: this scene has no folder of its own; save it under a name")
        if not self.scene.exists():
            check_target(self.scene)
            save_scene(graph, self.scene)
        else:
            with locked(self.scene):
                if not overwrite and _digest(self.scene) != self._seen:
                    raise AskFirst(f"{self.scene.name} was changed on disk meanwhile, by another program")
                save_scene(graph, self.scene)
        self._seen = _digest(self.scene)
        return self.scene

    def save_as(self, graph: SceneGraph, name: str, *, overwrite: bool = False) -> Path:
        """Writes a copy ``NAME.scene`` to the folder for copies.

        Raises:
            AskFirst: There is a scene of that name, and ``overwrite`` is not given.
            ValueError: A name with more than letters, digits, spaces and ``_ . + -``; no folder for copies; it can't be written.
        """
        if self.places is None:
            raise ValueError("save as: no folder for copies was given when the viewer was started (save_as=FOLDER)")
        name = name.strip().removesuffix(".scene")
        if not _NAME.fullmatch(name):
            raise ValueError(f"save as: expected a name of letters, digits, spaces and _ . + -, got {name[:60]!r}")
        target = self.places / f"{name}.scene"
        if target.is_symlink():
            raise ValueError(f"save as: {target.name} is a link to another place")
        if self.scene is not None and target.exists() and self.scene.exists() and target.samefile(self.scene):
            return self.save(graph, overwrite=overwrite)
        if target.exists() and not overwrite:
            raise AskFirst(f"there is a {target.name} already")
        save_scene(graph, target)
        return target


def _digest(folder: Path) -> str | None:
    """What the scene on disk is, in short; None for none."""
    file = folder / "scene.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
