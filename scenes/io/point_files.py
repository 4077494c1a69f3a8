"""Point clouds from files."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from objects.ply_file import read_ply

_PLACES = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")


class OrientedPoints(NamedTuple):
    """Points on a surface in the frame and units of their file, with normals, and colours (sRGB in 0..1) if it has any."""

    points: Float[Tensor, "n 3"]  # float64: files may lie far from the origin
    normals: Float[Tensor, "n 3"]
    colors: Float[Tensor, "n 3"] | None


def read_points(path: str | PathLike[str]) -> OrientedPoints:
    """Reads the vertices of a PLY file; faces, if there are any, are left aside. What colours mean: `objects.paint`.

    Raises:
        ValueError: Not a PLY file that can be read, or one without normals.
    """
    notes: list[str] = []
    try:
        file = read_ply(Path(path))
    except ValueError as error:
        raise ValueError(f"points: {str(path)!r} cannot be read as PLY: {error}") from error
    table = file.elements.get("vertex", {})
    if not table:
        raise ValueError(f"points: expected a PLY file with points, {str(path)!r} has none")
    missing = [name for name in (*_PLACES, *_NORMALS) if not isinstance(table.get(name), np.ndarray)]
    if missing:
        raise ValueError(f"points: expected x y z nx ny nz for each point, {str(path)!r} has no {' '.join(missing)}")
    rgb, _ = file.colors("vertex", notes)
    if notes:
        warnings.warn(f"{path}: {'; '.join(notes)}", stacklevel=2)
    with np.errstate(invalid="ignore", over="ignore"):  # what isn't finite is refused where points are learned
        points = np.stack([np.asarray(table[name], np.float64) for name in _PLACES], -1)
        normals = np.stack([np.asarray(table[name], np.float32) for name in _NORMALS], -1)
        colors = None if rgb is None else torch.from_numpy(rgb.astype(np.float32))
    return OrientedPoints(torch.from_numpy(points), torch.from_numpy(normals), colors)
