"""Colours of a place in parts: those of pixels at the places where their rays hit what was learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from compose.composite import Composite
from compose.types import Hits, Rays
from objects.aabb import Aabb
from objects.coloring import Colors, colors_at, divide, learn_colors
from objects.learned import GREY_RGB, paint_flat
from objects.mesh_samples import FitConfig
from objects.siren import SineParts, SirenField
from objects.training import TrainConfig
from rendering.learning.backdrop import BACKDROP, filled, inner_side
from rendering.learning.config import RoomConfig
from rendering.learning.exposure import Exposures, cells, smooth
from rendering.learning.measured import Measured
from rendering.learning.work import Work
from rendering.views import View, Views

_GROUP = 16  # parts whose colours train together
_FEW = 64  # places with colours, from which on there is something to learn
_OFF = 0.05  # a hit that is off a measured depth by more than this share of it shows something else
_HOLE = 0.1  # weight of a pixel with depth whose ray passes all that was learned and ends on the backdrop
_USUAL = 4.0  # reaches, over which the usual exposure of the pictures about a place is taken
_NEAREST = 0.1  # metres; nearer pixels count no more
_SCORED = 1000  # pixels of each picture


def learn_looks(
    scene: Composite,
    boxes: Sequence[Aabb],
    views: Views,
    light: Exposures,
    measured: Measured,
    config: RoomConfig,
    work: Work,
    *,
    seed: int = 0,
) -> Exposures:
    """Trains the colours of all parts, in place.

    Args:
        scene: The parts, SIRENs whose distances have learned, each in the middle of its box.
        boxes: Of the parts, world frame, metres.
        light: Exposures of the pictures, which are taken out.
        measured: What depths say.
        config: How.
        work: Told of "places" and "colours".
        seed: Of initial weights and of the choice of places.

    Returns:
        The exposures with gains to the colours that were learned: those of the usual exposure of the pictures about a place.
    """
    x, rgb, behind, light = _places(scene, views, light, measured, work)
    numbers: dict[str, Any] = config.network_numbers()
    samples = max(config.color_pool // max(config.color_parts // 2, 1), 1)
    fit = FitConfig(**numbers, color_parts=config.color_parts, color_samples=max(samples, 512), color_steps=1.0)
    found: list[tuple[SirenField, Colors]] = []
    for i, (instance, box) in enumerate(zip(scene.instances, boxes, strict=True)):
        field, rng = instance.field, np.random.default_rng((seed, i, 1))
        if not isinstance(field, SirenField):
            continue
        shell = instance.name == BACKDROP
        rows = np.flatnonzero(((x > box.lo.numpy()) & (x < box.hi.numpy())).all(1) & (behind == shell))
        if len(rows) < _FEW:
            paint_flat(field, GREY_RGB)
            continue
        rows = rng.permutation(rows)[: config.color_pool]
        x_part, rgb_part = x[rows], rgb[rows]
        if shell:
            on = inner_side(instance, np.mean([camera.position_world.numpy() for camera in views.cameras], 0), rng)
            x_part, rgb_part = filled(x_part, rgb_part, on, measured.reach)
        colors = colors_at((x_part - box.center.numpy()) / float(field.half_extent), rgb_part, rng)
        if (n_parts := colors.n_parts(config.color_parts)) > 1:
            generator = torch.Generator().manual_seed(seed + i)
            field.appearance = SineParts(n_parts, config.color_shape(), generator).requires_grad_(False)
            divide(field, colors)
        found.append((field, colors))
    train = TrainConfig(config.color_steps, config.learning_rate, seed=seed, progress=False)
    for a in work.over("colours", range(0, len(found), _GROUP)):
        some = found[a : a + _GROUP]
        learn_colors([field for field, _ in some], [colors for _, colors in some], fit, train)
    return light


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
    scene: Composite, views: Views, light: Exposures, measured: Measured, work: Work
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"], Bool[np.ndarray, "n"], Exposures]:
    """Places that pixels' rays hit (world frame), one in a cell; their mean colours at the usual exposure of the pictures about
    them, to which pictures count as they are sharp there; whether they are on the backdrop; and the gains of the pictures to these
    colours."""
    found = []
    for k, view in enumerate(work.over("places", views)):
        pixel = view.valid.reshape(-1).nonzero()[:, 0]
        hits, p = _hits(scene, view, pixel)
        along = view.camera.depth_per_t(view.camera.pixel_centers(pixel))
        away, fits, weight = hits.t * along, hits.owner >= 0, torch.ones(len(pixel)).double()
        behind = torch.tensor([instance.name == BACKDROP for instance in scene.instances])[hits.owner]
        if view.depth is not None:
            z = view.depth.reshape(-1)[pixel]
            fits &= behind | ~((z - away).abs() > (_OFF + 2 * measured.noise) * z)  # also where depth is missing
            weight = torch.where(torch.isfinite(z) & behind, _HOLE, weight)
        at = fits.nonzero()[:, 0]
        rgb = view.rgb.reshape(-1, 3)[pixel[at]].double().numpy() / light.gain[k]
        weight = light.weight[k] * (weight[at] / away[at].clamp(min=_NEAREST).square()).numpy()
        found.append((p[at].numpy(), rgb.clip(0, 1), weight, behind[at].numpy(), np.full(len(at), k)))
    x, rgb, weight, behind, picture = (np.concatenate(part) for part in zip(*found, strict=True))
    if len(x) == 0:
        return x, rgb, behind, light
    row = cells(x, 0.5 * measured.spacing)
    total = np.bincount(row, weight)
    gain = np.log(light.gain)[picture]
    x, rgb, gain = (
        np.stack([np.bincount(row, weight * v[:, c]) for c in range(3)], 1) / total[:, None] for v in (x, rgb, gain)
    )
    usual = smooth(x, gain, total, _USUAL * measured.reach)
    share = np.bincount(picture, minlength=len(views)).clip(1)[:, None]
    mean = np.stack([np.bincount(picture, usual[row, c], len(views)) for c in range(3)], 1) / share
    light = light._replace(gain=light.gain / np.exp(mean))
    return x, (rgb * np.exp(usual)).clip(0, 1), np.bincount(row, behind) > 0, light
