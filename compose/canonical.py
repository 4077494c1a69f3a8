"""Canonical coordinates of what is seen: the same place of a thing has the same ones at all times."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import compose.cpu as cpu
from compose.composite import Composite
from objects.warped import Warped


@torch.no_grad()
def canonical_points(
    composite: Composite, p_world: Float[Tensor, "n 3"], owner: Int[Tensor, "n"]
) -> Float[Tensor, "n 3"]:
    """Where world points are in the canonical frames of instances ``owner [n]`` (object units, float64).

    Of an instance that doesn't bend that is its own frame.
    """
    arrays, who = composite.arrays, owner.numpy()
    p = cpu.to_object(arrays.transforms, np.ascontiguousarray(p_world.detach().double().numpy()), who)
    seconds = torch.from_numpy(np.nan_to_num(arrays.seconds[who]))
    return arrays.assets.batch.reached(torch.from_numpy(arrays.field[who]), torch.from_numpy(p), seconds)[:, :3]


def canonical_colors(
    composite: Composite, p_world: Float[Tensor, "n 3"], owner: Int[Tensor, "n"]
) -> Float[Tensor, "n 3"]:
    """Canonical points as colours: x, y and z go from 0 to 1 over the box of the canonical field."""
    batch, number = composite.arrays.assets.batch, composite.arrays.field[owner.numpy()]
    boxes = torch.zeros(2, len(batch.fields), 3, dtype=torch.float64)
    for k in np.unique(number).tolist():
        field = batch.fields[k]
        bounds = (field.field if isinstance(field, Warped) else field).bounds
        boxes[0, k], boxes[1, k] = bounds.lo, bounds.size
    lo, size = boxes[:, torch.from_numpy(number)]
    return ((canonical_points(composite, p_world, owner) - lo) / size).clamp(0, 1)
