"""Sequences of meshes or points over time, read from a folder.

Either ``faces.npy [f 3]``, ``vertices.npy [t v 3]`` and, if there are colours, ``colors.npy [v 3]`` (bytes, sRGB); or numbered
mesh files, or PLY files with points and normals. ``sequence.json`` says when: ``times`` in seconds, one for each frame, and
``loop``, whether the motion begins again one frame after the last; without it, ``fps`` must be given.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trimesh

from objects.mesh_files import Meshlike
from objects.ply_file import read_ply
from objects.warp_learning import PointFrame
from scenes.io.point_files import read_points

_SUFFIXES = (".ply", ".obj", ".glb", ".gltf", ".stl", ".off")


class FrameSequence(NamedTuple):
    """Frames with their times (seconds); ``period`` is None where the motion doesn't begin again."""

    frames: list[Meshlike | PointFrame]
    times: list[float]
    period: float | None


def read_sequence(
    folder: str | PathLike[str], frames: Sequence[int] | None = None, *, fps: float | None = None
) -> FrameSequence:
    """Reads the named frames of a sequence, all by default; nothing is read of the others.

    Raises:
        ValueError: No such folder, no frames or no times in it, arrays of other shapes, or frames that it doesn't have.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"sequence: expected a folder, got {str(folder)!r}")
    if (path / "vertices.npy").is_file():
        vertices, faces = _array(path / "vertices.npy"), _array(path / "faces.npy")
        if vertices.ndim != 3 or vertices.shape[2] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
            raise ValueError(
                f"sequence: expected vertices [t, v, 3] and faces [f, 3], got {vertices.shape} and {faces.shape}"
            )
        colors = _array(path / "colors.npy") if (path / "colors.npy").is_file() else None
        if colors is not None and (colors.dtype != np.uint8 or colors.shape != vertices.shape[1:]):
            raise ValueError(f"sequence: expected colors [v, 3] in bytes, got {colors.dtype} {colors.shape}")
        count = len(vertices)
        chosen = _chosen(frames, count)
        found: list[Any] = [
            trimesh.Trimesh(np.array(vertices[i], np.float64), np.array(faces), vertex_colors=colors, process=False)
            for i in chosen
        ]
    else:
        files = _numbered(path)
        count = len(files)
        chosen = _chosen(frames, count)
        found = [_frame(files[i]) for i in chosen]
    times, period = _times(path, count, fps)
    return FrameSequence(found, [times[i] for i in chosen], period)


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"sequence: {str(path)!r} cannot be read: {error}") from error


def _chosen(frames: Sequence[int] | None, count: int) -> list[int]:
    chosen = list(range(count)) if frames is None else list(frames)
    wrong = [i for i in chosen if not 0 <= i < count]
    if wrong:
        raise ValueError(f"frames: expected numbers from 0 to {count - 1}, got {wrong}")
    if any(b <= a for a, b in pairwise(chosen)):
        raise ValueError(f"frames: expected increasing numbers, got {chosen}")
    return chosen


def _numbered(path: Path) -> list[Path]:
    """Mesh files whose names hold a number, by the last number in the name."""
    found: dict[int, Path] = {}
    for file in sorted(path.iterdir()):
        numbers = re.findall(r"\d+", file.stem)
        if file.suffix.lower() in _SUFFIXES and numbers:
            number = int(numbers[-1])
            if number in found:
                raise ValueError(f"sequence: two files have the number {number}: {found[number].name}, {file.name}")
            found[number] = file
    if not found:
        raise ValueError(f"sequence: expected vertices.npy or numbered mesh files, {str(path)!r} has neither")
    return [found[number] for number in sorted(found)]


def _frame(file: Path) -> Meshlike | PointFrame:
    if file.suffix.lower() != ".ply":
        return file
    try:
        table = read_ply(file).elements
    except ValueError:
        return file  # its own reader says what is wrong
    if table.get("face"):
        return file
    points, normals, colors = read_points(file)
    return PointFrame(points.numpy(), normals.numpy(), None if colors is None else colors.numpy())


def _times(path: Path, count: int, fps: float | None) -> tuple[list[float], float | None]:
    file = path / "sequence.json"
    if file.is_file() and fps is not None:
        raise ValueError(f"fps: {str(file)!r} says when frames are; leave fps out, got {fps:g}")
    if not file.is_file():
        if fps is None:
            raise ValueError(f"fps: expected frames per second, as {str(path)!r} has no sequence.json with times")
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps: expected a number above 0, got {fps}")
        return [i / fps for i in range(count)], None
    try:
        said = json.loads(file.read_text("utf-8"))
        times = [float(t) for t in said["times"]]
        loop = said.get("loop", False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"sequence: {str(file)!r}: expected JSON with times in seconds ({error!r})") from error
    if len(times) != count or not all(map(math.isfinite, times)) or any(b <= a for a, b in pairwise(times)):
        raise ValueError(f"sequence: {str(file)!r}: expected {count} finite times that increase, got {len(times)}")
    if loop is not True or count < 2:
        return times, None
    return times, (times[-1] - times[0]) * count / (count - 1)
