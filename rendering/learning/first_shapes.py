"""What fields that learn from pictures begin with: a box for each object, and its first shape.

Carving (`hulls`) says what the pictures rule out; depths of all pictures, measured or from a voxel field, fused into one
surface, say where within a cell it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import map_coordinates
from torch import Tensor

from objects.aabb import Aabb
from rendering.camera import Camera
from rendering.learning.hulls import BACKGROUND, Carver, distance_from_fused, distance_to_cells, fused
from rendering.views import ViewError, Views

_PLACES, _NEAR = 1 << 18, 0.8  # of each object, from which its first shape is learned; so many of them near its surface
_REACH = 4.0  # cells beside a depth in which it says something
_OVERLAP = 0.08  # of a part of a room over the next


class Surfaces(NamedTuple):
    """What pictures see first: their cameras, metres along each pixel's ray (see `fused`), and how coarse these are (metres)."""

    cameras: Sequence[Camera]
    ahead: Sequence[Float[Tensor, "h w"]]
    cell: float


def first_shape(
    box: Aabb,
    trans: Float[Tensor, "3"],
    label: int,
    longest: int,
    carver: Carver,
    surfaces: Surfaces,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k"]]:
    """Places in the box of an object (most of them near its surface), and its signed distance there; object frame, metres.

    Args:
        box: In the object's frame, which has the world's axes.
        trans: Where that frame stands in the world.
        label: Its instance id.
        longest: Cells along the longest edge, on which the shape is found.
    """
    axes = box.axes(longest, middles=True)
    shape = [len(axis) for axis in axes]
    cell = np.array([float(axis[1] - axis[0]) for axis in axes])
    centers = torch.cartesian_prod(*axes).double() + trans.double()
    support = carver.support(centers, float(cell.max()), label, surfaces.cameras).view(shape).numpy()
    reach = _REACH * max(surfaces.cell, float(cell.max()))
    near = fused(centers, surfaces.cameras, surfaces.ahead, reach).view(shape).numpy()
    distance = np.maximum(distance_to_cells(support > 0, cell), distance_from_fused(near, cell))
    band = np.argwhere(abs(distance) < 3 * cell.max())
    at = torch.rand(_PLACES, 3, generator=generator) * (torch.tensor(shape) - 1)
    if len(band):
        n = int(_NEAR * _PLACES)
        pick = torch.randint(len(band), (n,), generator=generator)
        at[:n] = torch.from_numpy(band)[pick] + torch.rand(n, 3, generator=generator) - 0.5
    at = at[torch.randperm(len(at), generator=generator)]
    value = map_coordinates(distance, at.T.numpy(), order=1, mode="nearest")
    first, step = torch.stack([axis[0] for axis in axes]).float(), torch.from_numpy(cell).float()
    return first + at * step, torch.from_numpy(value).float()


def boxes_of(views: Views) -> tuple[list[Aabb], list[int]]:
    """A box (world frame, metres) for each instance id and the background, and the ids; without ids one box, of id 0.

    An object's box holds its measured points, else what carving leaves of it; the background's is that of the scene.

    Raises:
        ViewError: An id of which nothing is left.
    """
    scene = views.scene_box()
    if all(view.ids is None for view in views):
        parts = _parts(scene.padded(0.05 * float(scene.size.max())), views)
        return parts, [BACKGROUND] * len(parts)
    ids = sorted({int(i) for view in views if view.ids is not None for i in view.ids[view.valid].unique()})
    measured = views.points() if any(view.depth is not None for view in views) else None
    carver = Carver(views)
    boxes, labels = [], []
    for number in ids:
        if number == BACKGROUND:
            parts = _parts(scene.padded(0.1 * float(scene.size.max())), views)
            boxes += parts
            labels += [BACKGROUND] * len(parts)
            continue
        if measured is not None and (measured.ids == number).sum() > 50:
            p = measured.p_world[measured.ids == number].double()
            lo, hi = torch.quantile(p, 0.005, dim=0), torch.quantile(p, 0.995, dim=0)
        else:
            axes = scene.axes(64, middles=True)
            centers = torch.cartesian_prod(*axes).double()
            cell = float(scene.size.max()) / 64
            support = carver.support(centers, cell, number)
            solid = support >= 0.3 * support.max()
            if int(support.max()) < 2:  # one picture doesn't say how far away it is
                raise ViewError(
                    f"fit_views: the masks of instance {number} don't meet in one place; are the cameras right?"
                )
            lo, hi = centers[solid].amin(0) - 0.5 * cell, centers[solid].amax(0) + 0.5 * cell
        boxes.append(Aabb(lo, hi).padded(0.1 * float((hi - lo).max())))
        labels.append(number)
    return boxes, labels


def _parts(box: Aabb, views: Views) -> list[Aabb]:
    """The box of a background; of a room (cameras stand in it, no alpha) two parts along each longer edge, which overlap."""
    inside = [bool(((c.position_world > box.lo) & (c.position_world < box.hi)).all()) for c in views.cameras]
    if sum(inside) < 0.5 * len(inside) or any(view.alpha is not None for view in views):
        return [box]
    n = torch.where(box.size > 0.5 * box.size.max(), 2, 1).tolist()
    step = box.size / torch.tensor(n)
    return [
        Aabb(
            box.lo + at * step - _OVERLAP * step * (at > 0),
            box.lo + (at + 1) * step + _OVERLAP * step * (at + 1 < torch.tensor(n)),
        )
        for at in (torch.tensor(a) for a in np.ndindex(*n))
    ]
