"""What lies behind all that depth measures: a closed shell about a place, painted with what pictures show past the rest."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from compose.composite import Composite
from compose.types import Instance, Rays
from objects.aabb import Aabb
from objects.learned import in_box
from objects.mesh_samples import Pool
from objects.primitives import Box
from objects.siren import SirenField
from rendering.learning.config import RoomConfig
from rendering.learning.measured import Measured
from rendering.views import Views

BACKDROP = "background_backdrop"  # name of its instance
_LEAST = 0.002  # share of pixels without depth from which on there is one
_AWAY = 25.0  # reaches, about the median depth: from cameras
_THICK = 0.15  # of half of the longest edge of its box
_MARGIN = 0.2  # likewise: about it
_ROOM, _ROUND = (
    2.0,
    1.0,
)  # reaches: from measured points to its faces, and radius of its edges, which stay behind all points
_RIGHT = 0.99  # share of the samples in it that are inside of what was learned, at least
_HELD = 1024  # samples on its surface of which errors are taken
_FILLED, _LIKE = 8192, 64  # places that nobody saw which get colours, from so many neighbours each


def needs_backdrop(views: Views) -> bool:
    """Whether enough pixels have no depth."""
    missing = sum(int((view.valid if view.depth is None else view.valid & view.depth.isnan()).sum()) for view in views)
    return missing > _LEAST * sum(view.valid.numel() for view in views)


def backdrop_box(measured: Measured) -> Aabb:
    """The box (world frame, metres) of a shell about all measured points, and at some distance about all cameras."""
    eyes = np.stack([camera.position_world.numpy() for camera in measured.cameras])
    away, room = _AWAY * measured.reach, _ROOM * measured.reach
    lo = np.minimum(measured.points.min(0) - room, eyes.min(0) - away)
    hi = np.maximum(measured.points.max(0) + room, eyes.max(0) + away)
    pad = (_THICK + _MARGIN) / (1 - _THICK - _MARGIN) * 0.5 * float((hi - lo).max())
    return Aabb(torch.from_numpy(lo - pad), torch.from_numpy(hi + pad))


def backdrop_pool(measured: Measured, box: Aabb, config: RoomConfig, rng: np.random.Generator) -> Pool:
    """Samples of the shell in its box, in the coordinates of its network."""
    half = 0.5 * float(box.size.max())
    size = box.size / half - 2 * _MARGIN  # outer edges
    middle = Box(size - _THICK, _ROUND * measured.reach / half + 0.5 * _THICK).double()
    end = 0.5 * (box.size / half).numpy()

    def shell(x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return middle.inside_sdf(x, None).abs() - 0.5 * _THICK

    on = torch.from_numpy(in_box(-end, end, config.surface_pool, rng)).requires_grad_()
    off = torch.from_numpy(in_box(-end, end, config.pool, rng)[rng.permutation(config.pool)])
    on = on[torch.from_numpy(rng.permutation(len(on)))]
    (slope,) = torch.autograd.grad(shell(on).sum(), on)
    on = (on - shell(on)[:, None] * slope).detach()
    distance = shell(off).detach()
    weight = config.falloff / (config.falloff + distance.abs())
    x, normal = on.float(), slope.float()
    held = slice(0, _HELD)
    return Pool(x, normal, off.float(), distance[:, None].float(), weight.float(), x[held], normal[held], 2.0)


def is_closed(field: SirenField, pool: Pool) -> bool:
    """Whether a shell was learned; too few steps leave holes, or nothing."""
    x = pool.x[pool.distance[:, 0] < -0.1 * _THICK]
    return bool((field.inside_sdf(x * field.half_extent, None) < 0).float().mean() > _RIGHT)


def inner_side(
    backdrop: Instance, middle: Float[np.ndarray, "3"], rng: np.random.Generator
) -> Float[np.ndarray, "n 3"]:
    """Places on the inner side of a backdrop (world frame), in all directions from a place within."""
    ways = rng.normal(size=(_FILLED, 3))
    d = torch.from_numpy(ways / np.linalg.norm(ways, axis=1, keepdims=True))
    o = torch.from_numpy(middle).double().expand_as(d)
    hits = Composite([backdrop]).trace(Rays(o, d))
    at = hits.owner >= 0
    return (o + hits.t[:, None] * d)[at].numpy()


def filled(
    x: Float[np.ndarray, "n 3"],
    rgb: Float[np.ndarray, "n 3"],
    on: Float[np.ndarray, "m 3"],
    apart: float,
) -> tuple[Float[np.ndarray, "k 3"], Float[np.ndarray, "k 3"]]:
    """Colours of seen places, and of those places of a surface that lie further than ``apart`` from them: a mean of neighbours, by
    the inverse square of their distance."""
    away, near = KDTree(x).query(on, min(_LIKE, len(x)))
    away, near = away.reshape(len(on), -1), near.reshape(len(on), -1)
    some = away[:, 0] > apart
    weight = away[some, :, None] ** -2
    more = (weight * rgb[near[some]]).sum(1) / weight.sum(1)
    return np.concatenate([x, on[some]]), np.concatenate([rgb, more])
