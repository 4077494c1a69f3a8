"""The surface of a field as a triangle mesh.

Source: Lewiner, Lopes, Vieira, Tavares, "Efficient implementation of marching cubes' cases with topological guarantees"
(2003), as in scikit-image; the vertices are then moved onto the zero set by secant steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from skimage.measure import marching_cubes
from torch import Tensor

if TYPE_CHECKING:
    from objects.field import Field

# Longest extent over wanted deviation.
_DEFAULT_PARTS = 2000.0
# Most cells along the longest edge of the box.
_MAX_CELLS = 512
# Coarse cells along the longest edge, at least, from which refinement starts.
_COARSE_CELLS = 12
# Points in one call: the activations of a 64-wide network for them stay in the cache of two cores.
_CHUNK = 1 << 14


def field_to_mesh(field: Field, tolerance: float | None = None) -> trimesh.Trimesh:
    """The zero set of a field as a closed mesh with vertex colours.

    The field is sampled on a grid that is refined only where ``|sdf| <= lipschitz * distance`` allows a surface. Nothing
    is smoothed, filled or removed afterwards: parts that float in the air are in the field and stay in the mesh.

    Args:
        field: Any field; asked without gradients, without time, in its own floating point type.
        tolerance: Largest wanted distance of the mesh from the zero set (object units), reached where the radius of
            curvature is above about 1.5 % of the longest edge of the box; sharp edges are cut off by up to half a cell
            (a cell is ``sqrt(tolerance * edge) / 3``). Default: 1/2000 of the edge.

    Returns:
        A mesh in the object frame, watertight, faces outward (counter-clockwise seen from outside).

    Raises:
        ValueError: No surface, values that are not finite, or a tolerance that is not positive or too fine (more than
            512 cells along an edge).
    """
    cell = grid_cell(field, tolerance)
    with torch.no_grad():
        p_obj, faces = zero_set(field, cell, field.sdf)
        rgb = _in_chunks(lambda p: field(p).rgb, p_obj)
    colors = (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return trimesh.Trimesh(p_obj.double().numpy(), faces, vertex_colors=colors, process=False)


def zero_set(
    field: Field, cell: float, ask: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "v 3"], Int[np.ndarray, "t 3"]]:
    """Vertices (object frame) and faces of the mesh of `field_to_mesh`.

    Args:
        field: Says where and how finely to look.
        cell: Edge of the grid's cells, object units.
        ask: The field's distances ``[n]`` at points ``[n, 3]``, in any floating point type.

    Raises:
        ValueError: No surface, or values that are not finite.
    """
    values, first = sample_grid(field, cell, ask)
    if values.min() >= 0:
        raise ValueError("to_mesh: the field has no surface: its distance is nowhere negative inside its box")
    # A value of exactly 0 would put several vertices at one place.
    values[values == 0] = np.finfo(values.dtype).tiny
    # scikit-image's "descent" means faces that look towards higher values; its normals look towards lower ones.
    vertices, faces, normals, _ = marching_cubes(values, 0.0, gradient_direction="descent")
    p_obj = first + cell * torch.as_tensor(vertices.copy()).to(first)
    return _onto_surface(ask, p_obj, -torch.as_tensor(normals.copy()).to(first), 0.5 * cell), faces


def grid_cell(field: Field, tolerance: float | None = None) -> float:
    """Edge of the cells by which `field_to_mesh` reaches a tolerance (arguments and errors are its)."""
    longest = float(field.bounds.size.max())
    tolerance = longest / _DEFAULT_PARTS if tolerance is None else tolerance
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"to_mesh: tolerance must be finite and greater than 0, got {tolerance}")
    # A chord of length h sags by h^2 / 8r on a radius of r; the worst chord of a cell of edge h is sqrt(3) h long.
    cell = min(math.sqrt(tolerance * longest) / 3, longest / 24)
    if longest / cell > _MAX_CELLS:
        least = (3 * longest / _MAX_CELLS) ** 2 / longest
        raise ValueError(
            f"to_mesh: tolerance must be at least {least:.3g} for a box of {longest:.3g}, got {tolerance:.3g}"
        )
    return cell


def sample_grid(
    field: Field, cell: float, ask: Callable[[Tensor], Tensor] | None = None
) -> tuple[Float[np.ndarray, "x y z"], Float[Tensor, "3"]]:
    """Distances at the centres of cubic cells, and the place of the first of them.

    They are the field's own wherever a neighbour may be across the surface; elsewhere the value of a coarser cell that has
    no surface near it, so all signs are right (as far as ``lipschitz`` is). The outermost centres lie outside the box,
    where every field is positive, which closes the mesh. ``ask`` is the field's `sdf`, or a faster way to it.
    """
    size = field.box_hi - field.box_lo
    levels = max(0, int(math.log2(float(size.max()) / cell / _COARSE_CELLS)))
    coarse = cell * 2**levels
    counts = ((size + 1.5 * cell) / coarse).ceil().long()
    corner = field.bounds.center - 0.5 * coarse * counts
    lipschitz = max(1.0, field.lipschitz)

    values = torch.full(counts.tolist(), math.inf, dtype=corner.dtype)
    active = torch.ones_like(values, dtype=torch.bool)
    for level in range(levels + 1):
        edge = cell * 2 ** (levels - level)
        index = active.nonzero()
        found = _in_chunks(ask or field.sdf, corner + edge * (index + 0.5)).to(corner.dtype)
        if not bool(torch.isfinite(found).all()):
            raise ValueError("to_mesh: the field gives distances that are not finite")
        values[active] = found
        if level < levels:
            # Half a diagonal to the corner of the cell, and one fine cell to the neighbour beyond it.
            active &= values.abs() <= lipschitz * (0.5 * math.sqrt(3) * edge + cell)
            values, active = _doubled(values), _doubled(active)
    for axis in range(3):
        for end in (0, -1):
            values.select(axis, end).clamp_(min=0.1 * cell)  # true even where `lipschitz` is too low
    return values.numpy(), corner + 0.5 * cell


def _doubled(grid: Tensor) -> Tensor:
    for axis in range(3):
        grid = grid.repeat_interleave(2, axis)
    return grid


def _onto_surface(
    ask: Callable[[Tensor], Tensor], p_obj: Float[Tensor, "n 3"], direction: Float[Tensor, "n 3"], reach: float
) -> Float[Tensor, "n 3"]:
    """Points moved along their directions, by at most ``reach``, to where the distance is least: two secant steps."""
    t0, f0 = torch.zeros_like(p_obj[:, 0]), _in_chunks(ask, p_obj).to(p_obj.dtype)
    slope = torch.ones_like(f0)
    for _ in range(2):
        t1 = (t0 - f0 / slope).clamp(-reach, reach)
        f1 = _in_chunks(ask, p_obj + t1[:, None] * direction).to(p_obj.dtype)
        step = t1 - t0
        slope = torch.where(step != 0, (f1 - f0) / torch.where(step != 0, step, 1), 1).clamp(0.25, 4.0)
        better = f1.abs() < f0.abs()
        t0, f0 = torch.where(better, t1, t0), torch.where(better, f1, f0)
    return p_obj + t0[:, None] * direction


def _in_chunks(function: Callable[[Tensor], Tensor], points: Float[Tensor, "n 3"]) -> Tensor:
    return torch.cat([function(chunk) for chunk in points.split(_CHUNK)])
