"""Scenes as plain meshes, z up, in metres: PLY and OBJ (all objects at one time), a folder of meshes with a list of poses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float, Int
from trimesh.exchange.ply import export_ply

from rendering.atomic import replacing
from scenes.io.export import Content, Part
from scenes.track import Sim3, rotate

_LONGEST = 50  # characters of a file's name, which may take four bytes each

_Colored = tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "t 3"], Float[np.ndarray, "n 3"]]


def write_ply(content: Content, target: Path) -> None:
    """All objects as one mesh: binary, float32, colours as 8 bits (sRGB).

    Raises:
        ValueError: No visible object, or a place that can't be written.
    """
    vertices, faces, colors, first = [], [], [], 0
    for _, p_world, corners, rgb in _in_world(content):
        vertices.append(p_world)
        colors.append(rgb)
        faces.append(corners + first)
        first += len(p_world)
    with replacing(target) as part:
        _save_ply(part, np.concatenate(vertices), np.concatenate(faces), np.concatenate(colors))


def write_obj(content: Content, target: Path) -> None:
    """All objects as text; each is an ``o`` and a ``g`` with its path as name, colours (sRGB) stand after the coordinates.

    Raises:
        ValueError: No visible object, or a place that can't be written.
    """
    first = 1
    with replacing(target) as file, file.open("w", encoding="utf-8") as text:
        for part, p_world, faces, rgb in _in_world(content):
            name = part.path.replace(" ", "_")
            text.write(f"o {name}\ng {name}\n")
            np.savetxt(text, np.c_[p_world, rgb], "v %.9g %.9g %.9g %.4g %.4g %.4g")
            np.savetxt(text, faces + first, "f %d %d %d")
            first += len(p_world)


def write_folder(content: Content, target: Path) -> None:
    """``meshes/NAME.ply``, one for each distinct shape, in its own frame and named after its first user; and ``objects.json``: of
    each object mesh, tags, and poses in the world: ``p_world = T_world_obj @ (scale * p_obj)``, with ``quat_wxyz``,
    ``translation`` (metres) and ``scale`` at ``time``, and for what moves at its keys ``times`` (seconds), between which rotations
    go by the shorter arc and the rest in lines, or everything holds (``interpolation: step``). Two keys of one time are a jump.

    Raises:
        ValueError: No visible object, or a place that can't be written.
    """
    objects = _objects(content)
    files: dict[int, str] = {}
    taken: set[str] = set()
    for part in objects:
        if part.mesh not in files:
            stem = re.sub(r"[^\w.-]+", "_", part.path.replace("/", "-"))[-_LONGEST:]
            names = (f"{stem}{'' if n == 1 else f'-{n}'}" for n in range(1, len(objects) + 2))
            name = next(name for name in names if name.casefold() not in taken)  # some folders don't tell A from a
            taken.add(name.casefold())
            files[part.mesh] = f"meshes/{name}.ply"
    try:
        (target / "meshes").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"path: {target} cannot be written: {error.strerror}") from error
    for number, name in files.items():
        with replacing(target / name) as file:
            _save_ply(file, *content.meshes[number].colored())
    entries, motions = [], []
    for part in objects:
        entry: dict[str, Any] = {"path": part.path, "mesh": files[part.mesh], "tags": list(part.node.tags)}
        entry |= _pose(content.world(part))
        if part.node.spans:
            entry["spans"] = [[t if math.isfinite(t) else None for t in span] for span in part.node.spans]
        motion = content.motion(part, in_world=True)
        motions.append((part, motion))
        if motion.moves:
            entry["keys"] = {
                "times": motion.times.tolist(),
                "quat_wxyz": motion.quats.tolist(),
                "translation": motion.translations.tolist(),
                "scale": motion.scales.tolist(),
                "interpolation": motion.interpolation,
            }
        entries.append(entry)
    content.note_motions(motions)
    listed = {"unit": "metre", "up": "z", "time": content.time, "span": list(content.span), "objects": entries}
    with replacing(target / "objects.json") as file:
        file.write_text(json.dumps(listed, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _objects(content: Content) -> list[Part]:
    objects = [part for part in content.parts if part.mesh >= 0]
    if not objects:
        raise ValueError("scene: expected something to write, it has no visible objects")
    if more := len(content.parts) - len(objects):
        content.notes.append(f"{more} groups, lights and cameras were left out: such files hold meshes alone")
    return objects


def _in_world(content: Content) -> Iterator[tuple[Part, np.ndarray, np.ndarray, np.ndarray]]:
    """Vertices in the world, faces and colours of each object."""
    if any(part.node.moves for part in content.parts):
        content.notes.append(f"things stand as they do at {content.time:g} s: such files hold no motion")
    objects = _objects(content)
    if gone := [part.path for part in objects if not content.is_there(part)]:
        content.notes.append(f"not there at {content.time:g} s, so left out: {', '.join(gone)}")
    for part in filter(content.is_there, objects):
        world = content.world(part)
        vertices, faces, rgb = content.meshes[part.mesh].colored()
        scaled = tuple((world.scale * vertices.astype(np.float64)).T)
        p_world = np.stack(rotate(world.quat, scaled), -1) + world.trans  # pyright: ignore[reportArgumentType]
        yield part, p_world, faces, rgb


def _save_ply(file: Path, vertices: np.ndarray, faces: np.ndarray, rgb: np.ndarray) -> None:
    mesh = trimesh.Trimesh(vertices, faces, vertex_colors=np.rint(255 * rgb).astype(np.uint8), process=False)
    file.write_bytes(export_ply(mesh, vertex_normal=False))


def _pose(pose: Sim3) -> dict[str, Any]:
    return {"quat_wxyz": list(pose.quat), "translation": list(pose.trans), "scale": pose.scale}
