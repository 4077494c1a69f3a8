"""Mesh files, and meshes of trimesh, as parts: triangles in the frame of the file, each part with its colours.

One reader a format: glTF by `objects.gltf_mesh`, OBJ by `objects.obj_file`, PLY by `objects.ply_file`, STL and OFF by
`objects.plain_files`; whatever else trimesh reads (3MF, DAE and others, where their packages are installed) by trimesh.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import trimesh
from trimesh.visual import ColorVisuals, TextureVisuals

from objects.gltf_file import one_line
from objects.gltf_mesh import gltf_parts
from objects.mesh_parts import MAX_FACES, MeshError, MeshPart
from objects.obj_file import obj_mesh
from objects.paint import Paint, Texture, pixels_of, shares
from objects.plain_files import off_mesh, stl_mesh
from objects.ply_file import ply_mesh

__all__ = ["MAX_FACES", "MeshError", "MeshPart", "Meshlike", "read_parts"]

Meshlike = str | os.PathLike[str] | trimesh.Trimesh | trimesh.Scene | Sequence[MeshPart]

_READERS: dict[str, Callable[[Path, list[str]], list[MeshPart]]] = {
    ".glb": gltf_parts, ".gltf": gltf_parts, ".vrm": gltf_parts, ".obj": obj_mesh, ".ply": ply_mesh, ".stl": stl_mesh,
    ".off": off_mesh, ".coff": off_mesh,
}  # fmt: skip
_PACKAGES = {".dae": "pycollada", ".3mf": "lxml", ".3dxml": "lxml", ".xaml": "lxml"}  # what trimesh needs for them


def read_parts(mesh: Meshlike, name: str) -> list[MeshPart]:
    """The parts of a mesh file, of a mesh or scene of trimesh, or as they are given.

    What a file says that isn't taken is told in one warning for the file (UserWarning, one line).

    Args:
        mesh: What to read.
        name: What errors call it.

    Raises:
        MeshError: Missing, empty or unreadable file, or something else than a mesh.
    """
    if isinstance(mesh, str | os.PathLike):
        return _file(Path(mesh), name)
    if isinstance(mesh, Sequence) and mesh and all(isinstance(part, MeshPart) for part in mesh):
        return list(mesh)
    if not isinstance(mesh, trimesh.Trimesh | trimesh.Scene):
        raise MeshError(f"{name}: expected a path, a trimesh.Trimesh or a trimesh.Scene, got {type(mesh).__name__}")
    notes: list[str] = []
    parts = _from_trimesh(mesh, notes)
    _tell(name, notes)
    if not parts:
        raise MeshError(f"{name}: expected triangles, got a scene without any")
    return parts


def _tell(name: str, notes: list[str]) -> None:
    if notes:
        warnings.warn(f"{name}: {'; '.join(dict.fromkeys(notes))}", stacklevel=3)


def _file(path: Path, name: str) -> list[MeshPart]:
    if not path.is_file():
        raise MeshError(f"{name}: expected a mesh file, got {'a folder' if path.is_dir() else 'no such file'}")
    if path.stat().st_size == 0:
        raise MeshError(f"{name}: expected a mesh file, got an empty one")
    notes: list[str] = []
    try:
        parts = _READERS.get(path.suffix.lower(), _by_trimesh)(path, notes)
    except OSError as error:
        raise MeshError(f"{name}: cannot be read: {error.strerror or one_line(error)}") from error
    except ValueError as error:
        raise MeshError(f"{name}: {one_line(error)}") from error
    if not parts:
        raise MeshError(f"{name}: expected triangles, got none")
    _tell(str(path), notes)
    return parts


# -- by trimesh --------------------------------------------------------------------------------------------------------


def _by_trimesh(path: Path, notes: list[str]) -> list[MeshPart]:
    kind = path.suffix.lower()
    usual = ".glb, .gltf, .obj, .ply, .stl or .off"
    if kind.lstrip(".") not in trimesh.available_formats():
        package = f"; for {kind} install the package {_PACKAGES[kind]}" if kind in _PACKAGES else ""
        raise ValueError(f"expected a mesh file that ends in {usual}, got {kind or 'no ending'!r}{package}")
    try:
        with _silent():
            loaded = trimesh.load(path, process=False)
    except MemoryError:
        raise
    except Exception as error:  # trimesh's readers raise whatever their parsers do
        raise ValueError(f"it cannot be read as {kind}; convert it to {usual} ({one_line(error)[:100]})") from error
    if not isinstance(loaded, trimesh.Trimesh | trimesh.Scene):
        raise ValueError("expected triangles, got none")
    parts = _from_trimesh(loaded, notes)
    if parts and all(part.paint is None for part in parts):
        notes.append(f"colours of {kind} files are not read")
    return parts


@contextmanager
def _silent():
    """Without warnings and lines in the log of trimesh."""
    log = logging.getLogger("trimesh")
    disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = disabled


def _from_trimesh(loaded: trimesh.Trimesh | trimesh.Scene, notes: list[str]) -> list[MeshPart]:
    if isinstance(loaded, trimesh.Trimesh):
        return [_part(loaded, notes)]
    parts = []
    for node in loaded.graph.nodes_geometry:
        transform, key = loaded.graph[node]
        geometry = loaded.geometry[key]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(_part(geometry, notes).transformed(transform))
        elif not isinstance(geometry, trimesh.Trimesh):
            notes.append("its points and lines were left out")
    return parts


def _part(mesh: trimesh.Trimesh, notes: list[str]) -> MeshPart:
    return MeshPart(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64), _paint(mesh, notes))


def _paint(mesh: trimesh.Trimesh, notes: list[str]) -> Paint | None:
    """How a mesh is coloured; None where it doesn't say."""
    visual, n_faces = mesh.visual, len(mesh.faces)
    if isinstance(visual, ColorVisuals):
        if visual.kind == "vertex":
            return Paint(shares(np.asarray(visual.vertex_colors)[:, :3])[0][mesh.faces])
        if visual.kind == "face":
            return Paint(np.repeat(shares(np.asarray(visual.face_colors)[:, :3])[0][:, None], 3, 1))
        return None
    if not isinstance(visual, TextureVisuals):
        return None
    material = visual.material
    image = getattr(material, "baseColorTexture", None)
    image = getattr(material, "image", None) if image is None else image
    factor = getattr(material, "baseColorFactor", None)
    linear = hasattr(material, "baseColorFactor")
    factor = getattr(material, "diffuse", None) if factor is None and image is None else factor
    rgb = None if factor is None else shares(np.asarray(factor).ravel()[:3])[0]
    if image is not None and visual.uv is not None and len(visual.uv) == len(mesh.vertices):
        uv = np.nan_to_num(np.asarray(visual.uv, np.float64))[:, :2] * (1, -1) + (0, 1)
        tint = None if rgb is None or (rgb == 1).all() else Paint.flat(rgb, n_faces).corner_rgb
        return Paint(tint, uv[mesh.faces], Texture(pixels_of(image)), linear)
    if image is not None:
        notes.append("its texture was left out: it has no texture coordinates")
    return None if rgb is None else Paint.flat(rgb, n_faces, linear)
