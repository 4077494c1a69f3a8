"""Convex hulls that make up a solid, by coacd: Wei, Liu, Ling, Su, "Approximate Convex Decomposition for 3D Meshes with
Collision-Aware Concavity and Tree Search" (SIGGRAPH 2022)."""

from __future__ import annotations

import contextlib

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, Int

from objects.cache import cache_folder, content_key
from objects.field import Field
from objects.files import FieldFileError, field_hash, storable, write_atomically
from scenes.io.asset_mesh import asset_mesh

_VERSION = 1  # part of every cache key: raise it when the same field would give other hulls
_TOLERANCE = 0.01  # of the longest edge: of the mesh that is taken apart
_CONCAVITY = 0.05  # as coacd counts it
_MOST_VERTICES = 64  # of a hull: what physics engines take

Hull = tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "t 3"]]


def convex_hulls(field: Field, time: float | None = None) -> list[Hull]:
    """Convex meshes (object frame) whose union is nearly the solid; kept in the cache folder.

    Raises:
        ValueError: coacd isn't installed, or `asset_mesh` can't make a mesh.
    """
    time = time if field.deforms else None
    if not storable(field):
        return _made(field, time)
    path = cache_folder("hulls") / f"{content_key('hulls', _VERSION, field_hash(field), time)}.safetensors"
    with contextlib.suppress(OSError, safetensors.SafetensorError, KeyError):
        found = safetensors.numpy.load(path.read_bytes())
        return [(found[f"vertices-{i}"], found[f"faces-{i}"]) for i in range(len(found) // 2)]
    hulls = _made(field, time)
    arrays = {
        f"{name}-{i}": a for i, hull in enumerate(hulls) for name, a in zip(("vertices", "faces"), hull, strict=True)
    }
    with contextlib.suppress(FieldFileError):  # no room: they are made again the next time
        write_atomically(path, safetensors.numpy.save(arrays))
    return hulls


def _made(field: Field, time: float | None) -> list[Hull]:
    try:
        import coacd
    except ImportError as error:
        raise ValueError("physics: convex hulls need coacd: pip install 'sirenscape[usd]'") from error
    mesh = asset_mesh(field, _TOLERANCE * float(field.bounds.size.max()), time)
    coacd.set_log_level("error")
    parts = coacd.run_coacd(
        coacd.Mesh(mesh.vertices.astype(np.float64), mesh.faces),
        threshold=_CONCAVITY,
        preprocess_mode="off",  # closed and manifold it is
        decimate=True,
        max_ch_vertex=_MOST_VERTICES,
        seed=0,
    )
    return [(np.array(v, np.float32, order="C"), np.array(f, np.int32, order="C")) for v, f in parts]
