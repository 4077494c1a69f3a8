"""Colours of meshes: samples on the surface, and the training of the appearance networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from objects.fused import weighted_l1
from objects.learned import paint_flat
from objects.mesh import MeshSource
from objects.mesh_samples import FitConfig, cut
from objects.siren import SirenField, pack, unpack
from objects.training import TrainConfig, fit

_STREAM = 1  # of random numbers, apart from that of the distances


@dataclass(frozen=True, eq=False)
class ColorPool:
    """Colours of one mesh at points about its surface, in random order and in the coordinates of its network."""

    x: Float[Tensor, "n 3"]
    rgb: Float[Tensor, "n 3"]
    flat: Float[Tensor, "3"] | None  # where the whole mesh has one colour there is nothing to learn


def draw_colors(source: MeshSource, field: SirenField, config: FitConfig, seed: int) -> ColorPool:
    """Colours of a mesh for a field whose box it stands in; the same seed draws the same."""
    rng = np.random.default_rng((seed, _STREAM))
    center, half = field.center.double().numpy(), float(field.half_extent)
    p, normal = source.sample(config.color_pool, rng)
    rgb = source.colors(p)
    x = (p + normal * rng.normal(0, config.color_sigma * half, (len(normal), 1)) - center) / half
    order = rng.permutation(len(x))
    flat = torch.from_numpy(rgb.mean(0)).float() if np.ptp(rgb, 0).max() < 1 / 255 else None
    return ColorPool(torch.from_numpy(x[order]).float(), torch.from_numpy(rgb[order]).float(), flat)


def learn_colors(
    fields: Sequence[SirenField], pools: Sequence[ColorPool], config: FitConfig, train: TrainConfig
) -> None:
    """Trains the appearance networks side by side, in place."""
    some = [(field, pool) for field, pool in zip(fields, pools, strict=True) if pool.flat is None]
    for field, pool in zip(fields, pools, strict=True):
        if pool.flat is not None:
            paint_flat(field, pool.flat)
    if not some:
        return
    x, rgb = (torch.stack([getattr(pool, name) for _, pool in some]) for name in ("x", "rgb"))
    weight = torch.ones(x.shape[:2])
    theta = pack([field.appearance for field, _ in some]).requires_grad_()
    shape = config.color_shape()
    n_threads = torch.get_num_threads()

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        at = cut(x.shape[1], config.color_batch, generator)
        samples = x[:, at], rgb[:, at], weight[:, at]
        return weighted_l1(theta, *samples, shape, squash=True, n_threads=n_threads).sum()

    train = replace(
        train,
        steps=max(1, round(config.color_steps * train.steps)),
        learning_rate=config.color_rate * config.learning_rate,
        label=f"{train.label}: colours",
    )
    # The kernel has threads of its own; torch's, asleep between tiny operations, would spin and take their cores.
    torch.set_num_threads(1)
    try:
        fit([theta], loss_fn, train)
    finally:
        torch.set_num_threads(n_threads)
    for (field, _), row in zip(some, theta.detach(), strict=True):
        unpack(row, field.appearance)
