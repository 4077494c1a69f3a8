"""Colours of a place in parts: those of pixels at the places where their rays hit what was learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from compose.composite import Composite
from compose.types import Hits, Rays
from objects.aabb import Aabb
from objects.coloring import Colors, colors_at, divide, learn_colors
from objects.learned import GREY_RGB, paint_flat
from objects.mesh_samples import FitConfig
from objects.progress import Bar
from objects.siren import SineParts, SirenField
from objects.training import TrainConfig
from rendering.learning.config import RoomConfig
from rendering.learning.exposure import Exposures
from rendering.views import View, Views

_GROUP = 16  # parts whose colours train together
_FEW = 64  # places with colours, from which on there is something to learn
_OFF = 0.05  # a hit that is off a measured depth by more than this share of it shows something else
_UNKNOWN = 0.3  # weight of a pixel without depth, which may show something before what is known
_NEAREST = 0.1  # metres; nearer pixels count no more
_SCORED = 1000  # pixels of each picture


def learn_looks(
    scene: Composite,
    boxes: Sequence[Aabb],
    views: Views,
    light: Exposures,
    cell: float,
    config: RoomConfig,
    *,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Trains the colours of all parts, in place.

    Args:
        scene: The parts, SIRENs whose distances have learned, each in the middle of its box.
        boxes: Of the parts, world frame, metres.
        light: Exposures of the pictures, which are taken out.
        cell: Metres; pixels that hit within so much make one colour.
        config: How.
        seed: Of initial weights and of the choice of places.
        progress: Show bars.
    """
    x, rgb = _places(scene, views, light, cell, progress)
    numbers: dict[str, Any] = config.network_numbers()
    samples = max(config.color_pool // max(config.color_parts // 2, 1), 1)
    fit = FitConfig(**numbers, color_parts=config.color_parts, color_samples=max(samples, 512), color_steps=1.0)
    found: list[tuple[SirenField, Colors]] = []
    for i, (instance, box) in enumerate(zip(scene.instances, boxes, strict=True)):
        field, rng = instance.field, np.random.default_rng((seed, i, 1))
        if not isinstance(field, SirenField):
            continue
        rows = np.flatnonzero(((x > box.lo.numpy()) & (x < box.hi.numpy())).all(1))
        if len(rows) < _FEW:
            paint_flat(field, GREY_RGB)
            continue
        rows = rng.permutation(rows)[: config.color_pool]
        colors = colors_at((x[rows] - box.center.numpy()) / float(field.half_extent), rgb[rows], rng)
        if (n_parts := colors.n_parts(config.color_parts)) > 1:
            generator = torch.Generator().manual_seed(seed + i)
            field.appearance = SineParts(n_parts, config.color_shape(), generator).requires_grad_(False)
            divide(field, colors)
        found.append((field, colors))
    train = TrainConfig(config.color_steps, config.learning_rate, seed=seed, progress=False)
    for a in Bar(range(0, len(found), _GROUP), desc="colours", unit="group", disable=not progress):
        some = found[a : a + _GROUP]
        learn_colors([field for field, _ in some], [colors for _, colors in some], fit, train)


def psnr_of(
    scene: Composite, views: Views, light: Exposures, background: Float[np.ndarray, "3"], seed: int = 0
) -> float:
    """PSNR of some pixels of all pictures, as they are traced, with the exposure of each picture."""
    error, n = 0.0, 0
    for k, view in enumerate(views):
        pixel = view.valid.reshape(-1).nonzero()[:, 0]
        pixel = pixel[torch.randperm(len(pixel), generator=torch.Generator().manual_seed(seed))[:_SCORED]]
        if len(pixel) == 0:
            continue
        hits, p = _hits(scene, view, pixel)
        got = torch.from_numpy(np.tile(background, (len(pixel), 1)))
        at = (hits.owner >= 0).nonzero()[:, 0]
        with torch.no_grad():
            got[at] = scene.evaluate(p[at], hits.owner[at]).rgb.double()
        want = view.rgb.reshape(-1, 3)[pixel].double()
        error += float(((got * torch.from_numpy(light.gain[k])).clamp(0, 1) - want).square().mean(1).sum())
        n += len(pixel)
    return -10 * math.log10(max(error / max(n, 1), 1e-12))


def _hits(scene: Composite, view: View, pixel: torch.Tensor) -> tuple[Hits, Float[torch.Tensor, "n 3"]]:
    """What the rays of pixels hit, and where (world frame, metres)."""
    rays = view.camera.rays(view.camera.pixel_centers(pixel))
    hits = scene.trace(Rays(rays.origins.double(), nn.functional.normalize(rays.directions.double(), dim=-1)))
    return hits, rays.origins + hits.t[:, None] * rays.directions


def _places(
    scene: Composite, views: Views, light: Exposures, cell: float, progress: bool
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Places that pixels' rays hit (world frame), one in a cell, and their mean colours without what exposure did; pictures count
    as they are sharp there."""
    found = []
    for k, view in enumerate(Bar(views, desc="places", unit="picture", disable=not progress)):
        pixel = view.valid.reshape(-1).nonzero()[:, 0]
        hits, p = _hits(scene, view, pixel)
        along = view.camera.depth_per_t(view.camera.pixel_centers(pixel))
        away, fits, weight = hits.t * along, hits.owner >= 0, torch.ones(len(pixel)).double()
        if view.depth is not None:
            z = view.depth.reshape(-1)[pixel]
            fits &= ~((z - away).abs() > _OFF * z)  # also where depth is missing
            weight = torch.where(torch.isfinite(z), weight, _UNKNOWN)
        at = fits.nonzero()[:, 0]
        rgb = view.rgb.reshape(-1, 3)[pixel[at]].double().numpy() / light.gain[k]
        weight = light.weight[k] * (weight[at] / away[at].clamp(min=_NEAREST).square()).numpy()
        found.append((p[at].numpy(), rgb.clip(0, 1), weight))
    x, rgb, weight = (np.concatenate(part) for part in zip(*found, strict=True))
    if len(x) == 0:
        return x, rgb
    step = np.floor((x - x.min(0)) / cell).astype(np.int64)
    n = step.max(0) + 1
    row = np.unique((step[:, 0] * n[1] + step[:, 1]) * n[2] + step[:, 2], return_inverse=True)[1]
    total = np.bincount(row, weight)[:, None]
    x, rgb = (np.stack([np.bincount(row, weight * v[:, c]) for c in range(3)], 1) / total for v in (x, rgb))
    return x, rgb
