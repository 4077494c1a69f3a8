"""Scenes read from and written to files: one module a format, chosen by the suffix of a name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objects.mesh_samples import FitConfig
    from scenes.graph import SceneGraph
    from scenes.io.plan import Plan

Read = tuple[
    list["Plan"], list[str]
]  # nodes of a scene, which may still have to be learned; notes on what was left out


def _read_yaml(path: Path) -> Read:
    from scenes.io.description import read_description

    return read_description(path), []


def _read_gltf(path: Path) -> Read:
    from scenes.io.glb import read_glb

    return read_glb(path)


READERS = {".yaml": _read_yaml, ".yml": _read_yaml, ".glb": _read_gltf, ".gltf": _read_gltf}


def read_scene(path: Path, *, seed: int = 0, config: FitConfig | None = None) -> tuple[SceneGraph, list[str]]:
    """The scene that a scene folder or a file holds, and notes on what was left out; what isn't learned yet is learned.

    Raises:
        ValueError: A suffix that isn't known, a file that can't be read, a mesh that can't be learned.
    """
    from scenes.io.plan import build
    from scenes.io.scene_folder import load_scene

    if path.is_dir():
        return load_scene(path), []
    check_suffix(path)
    plans, notes = READERS[path.suffix.lower()](path)
    try:
        graph = build(plans, seed=seed, config=config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    graph.log.append(f"build from {path.name}")
    return graph, notes


def check_suffix(path: Path) -> None:
    """Whether there is a reader for a file.

    Raises:
        ValueError: There is none.
    """
    if path.suffix.lower() not in READERS:
        raise ValueError(f"scene: expected a file that ends in .yaml, .glb or .gltf, got {path.name!r}")
