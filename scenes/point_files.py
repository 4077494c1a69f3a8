"""Point clouds from files."""

from __future__ import annotations

import io
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

_NORMALS = ("nx", "ny", "nz")
_COLORS = ("red", "green", "blue")


class OrientedPoints(NamedTuple):
    """Points on a surface in the frame and units of their file, with normals, and colours (sRGB in 0..1) if it has any."""

    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    colors: Float[Tensor, "n 3"] | None


def read_points(path: str | PathLike[str]) -> OrientedPoints:
    """Reads the vertices of a PLY file; faces, if there are any, are left aside.

    Raises:
        ValueError: Not a PLY file that can be read, or one without normals.
    """
    data = io.BytesIO(Path(path).read_bytes())
    try:
        loaded = trimesh.load(data, file_type="ply", process=False)
    except Exception as error:  # a damaged file makes the reader of trimesh fail in any way
        raise ValueError(f"points: {str(path)!r} cannot be read as PLY: {error}") from error
    raw = getattr(loaded, "metadata", {}).get("_ply_raw", {}).get("vertex", {}).get("data")
    if raw is None:
        raise ValueError(f"points: expected a PLY file with points, {str(path)!r} has none")
    names = raw.keys() if isinstance(raw, dict) else raw.dtype.names

    def columns(wanted: tuple[str, ...]) -> np.ndarray:
        return np.stack([np.ravel(raw[name]) for name in wanted], -1)

    missing = [name for name in ("x", "y", "z", *_NORMALS) if name not in names]
    if missing:
        raise ValueError(f"points: expected x y z nx ny nz for each point, {str(path)!r} has no {' '.join(missing)}")
    colors = None
    if all(name in names for name in _COLORS):
        stored = columns(_COLORS)
        scale = np.iinfo(stored.dtype).max if np.issubdtype(stored.dtype, np.integer) else 1.0
        colors = torch.from_numpy((stored / scale).astype(np.float32))
    points, normals = (torch.from_numpy(columns(c).astype(np.float32)) for c in (("x", "y", "z"), _NORMALS))
    return OrientedPoints(points, normals, colors)
