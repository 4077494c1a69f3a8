"""Mesh files, and meshes of trimesh, as parts: triangles in the frame of the file, each part with its colours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float, Int
from trimesh.visual import ColorVisuals, TextureVisuals

from objects.paint import Paint

MAX_FACES = 5_000_000


class MeshError(ValueError):
    """A mesh that cannot be learned; the message names the argument, what was expected and what came."""


@dataclass(frozen=True, eq=False)
class MeshPart:
    """Triangles with one kind of colour (``paint`` None: the file doesn't say), in the frame and units of their file."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    paint: Paint | None = None

    def transformed(self, matrix: Float[np.ndarray, "4 4"]) -> MeshPart:
        """The part under an affine map; one that mirrors turns the faces round, so that outside stays outside."""
        part = replace(self, vertices=self.vertices @ matrix[:3, :3].T + matrix[:3, 3])
        if np.linalg.det(matrix[:3, :3]) >= 0:
            return part
        return replace(part, faces=self.faces[:, ::-1], paint=None if self.paint is None else self.paint.reversed())


Meshlike = str | os.PathLike[str] | trimesh.Trimesh | trimesh.Scene | Sequence[MeshPart]


def read_parts(mesh: Meshlike, name: str) -> list[MeshPart]:
    """The parts of a mesh file, of a mesh or scene of trimesh, or as they are given.

    Args:
        mesh: What to read.
        name: What errors call it.

    Raises:
        MeshError: Missing, empty or unreadable file, or something else than a mesh.
    """
    if isinstance(mesh, str | os.PathLike):
        path = Path(mesh)
        if not path.is_file():
            raise MeshError(f"{name}: expected a mesh file, got {'a folder' if path.is_dir() else 'no such file'}")
        if path.stat().st_size == 0:
            raise MeshError(f"{name}: expected a mesh file, got an empty one")
        try:
            loaded = trimesh.load(path, process=False)
        except MemoryError:
            raise
        except Exception as error:  # trimesh's readers raise whatever their parsers do
            raise MeshError(
                f"{name}: expected a mesh file that trimesh reads, got {type(error).__name__}: {error}"
            ) from error
    else:
        loaded = mesh
    if isinstance(loaded, trimesh.Trimesh):
        return [_part(loaded)]
    if isinstance(loaded, Sequence) and loaded and all(isinstance(part, MeshPart) for part in loaded):
        return list(loaded)
    if not isinstance(loaded, trimesh.Scene):
        raise MeshError(f"{name}: expected a path, a trimesh.Trimesh or a trimesh.Scene, got {type(loaded).__name__}")
    parts = []
    for node in loaded.graph.nodes_geometry:
        transform, key = loaded.graph[node]
        geometry = loaded.geometry[key]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(_part(geometry).transformed(transform))
    if not parts:
        raise MeshError(f"{name}: expected triangles, got a scene without any")
    return parts


def _part(mesh: trimesh.Trimesh) -> MeshPart:
    return MeshPart(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64), _paint(mesh))


def _paint(mesh: trimesh.Trimesh) -> Paint | None:
    """How a mesh is coloured; None where its file doesn't say."""
    visual, n_faces = mesh.visual, len(mesh.faces)
    if isinstance(visual, ColorVisuals):
        if visual.kind == "vertex":
            return Paint(corner_rgb=_rgb(visual.vertex_colors)[mesh.faces])
        if visual.kind == "face":
            return Paint(corner_rgb=np.repeat(_rgb(visual.face_colors)[:, None], 3, 1))
        return None
    if not isinstance(visual, TextureVisuals):
        return None
    material = visual.material
    image = getattr(material, "baseColorTexture", None)
    if image is None:
        image = getattr(material, "image", None)
    factor = getattr(material, "baseColorFactor", None)
    if image is not None and visual.uv is not None and len(visual.uv) == len(mesh.vertices):
        pixels = np.asarray(image.convert("RGB"), np.float32) / 255
        if factor is not None:
            pixels = pixels * _rgb(np.asarray(factor)[None])[0].astype(np.float32)
        uv = np.nan_to_num(np.asarray(visual.uv, np.float64))[:, :2]
        return Paint(uv=uv[mesh.faces], image=pixels)
    if factor is None:
        factor = getattr(material, "diffuse", None)
    if factor is None:
        return None
    return Paint(corner_rgb=np.broadcast_to(_rgb(np.asarray(factor)[None]), (n_faces, 3, 3)).copy())


def _rgb(colors: np.ndarray) -> Float[np.ndarray, "n 3"]:
    colors = np.asarray(colors)
    scale = 255.0 if colors.dtype.kind in "iu" else 1.0
    return colors[:, :3].astype(np.float64) / scale
