"""Shapes of meshes: the training of distance networks, for as many steps as each needs, and what they miss in the end.

Steps follow from the error at samples that are not learned from: all networks make the same few steps, then each goes on for as
many as its error says. What a network does depends on its own samples and the seed alone, so it is the same in any company.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objects.fused import surface_l1, weighted_l1
from objects.mesh_samples import DescentConfig, FitConfig, Pool, cut
from objects.siren import SirenField, join_matrices, pack, split_matrices, unpack
from objects.training import OnStep, TrainConfig, fit

_PROBE = 0.2  # of the steps, made at full rate, after which it is known how hard an object is
_AGAIN = 0.02  # of the steps after that, in which the rate rises again


def learn_distances(
    fields: Sequence[SirenField],
    pools: Sequence[Pool],
    config: FitConfig,
    train: TrainConfig,
    checkpoint: Callable[[Sequence[int], str], Path],
    on_step: OnStep | None = None,
) -> None:
    """Trains the distance networks, in place; ``checkpoint`` names a file for some of them and a stage."""
    probe, everyone = max(1, round(_PROBE * train.steps)), range(len(fields))
    first = replace(train, steps=probe, warmup=train.warmup / _PROBE, final_rate=1.0)
    descend(fields, pools, config, replace(first, checkpoint=checkpoint(everyone, "probe")), on_step)
    steps = [steps_for(errors_of(f, p)["normal_deg"], train.steps, config) for f, p in zip(fields, pools, strict=True)]
    for n in sorted(set(steps)):
        some = [i for i in everyone if steps[i] == n]
        rest = replace(train, steps=max(1, n - probe), warmup=_AGAIN, seed=train.seed + 1)
        rest = replace(rest, checkpoint=checkpoint(some, "distance"))
        descend([fields[i] for i in some], [pools[i] for i in some], config, rest, on_step)


def steps_for(normal_deg: float, steps: int, config: FitConfig) -> int:
    """How many steps a network makes whose normals are so many degrees off after the probe."""
    wanted = min(max(normal_deg / config.usual_deg, 1 / config.spread), config.spread)
    return round(steps * 2 ** (round(2 * math.log2(wanted)) / 2))  # few counts, so that most train side by side


def errors_of(field: SirenField, pool: Pool) -> dict[str, float]:
    """What a field misses at points of its surface that it did not learn from: the mean distance in % of the longest edge of the
    object, and the angle between its gradient and the normal in degrees, median and 90th percentile."""
    x = pool.held_x.clone().requires_grad_()
    with torch.enable_grad():
        value = field.distance(x)[:, 0]
        (slope,) = torch.autograd.grad(value.sum(), x)
    unit = torch.nn.functional.normalize(slope.double(), dim=-1)
    degrees = torch.rad2deg(torch.arccos((unit * pool.held_normal).sum(-1).clamp(-1, 1))).numpy()
    found = {
        "distance_pct": 100 * float(value.detach().double().abs().mean()) / pool.extent,
        "normal_deg": float(np.median(degrees)),
        "normal_deg_90": float(np.percentile(degrees, 90)),
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def descend(
    fields: Sequence[SirenField],
    pools: Sequence[Pool],
    config: DescentConfig,
    train: TrainConfig,
    on_step: OnStep | None = None,
) -> None:
    """Trains distance networks side by side, in place."""
    surface_x, normal = torch.stack([p.surface_x for p in pools]), torch.stack([p.normal for p in pools])
    x, distance = torch.stack([p.x for p in pools]), torch.stack([p.distance for p in pools])
    weight, shape = torch.stack([p.weight for p in pools]), config.distance_shape
    n_surface = round(config.surface * config.batch)
    share = n_surface / config.batch
    zeros, ones = torch.zeros(len(fields), n_surface), torch.ones(len(fields), n_surface)
    steep = torch.full_like(ones, config.normal_weight)
    rest, matrices = split_matrices(pack([f.distance for f in fields]), shape)
    params: list[dict[str, Any]] = [{"params": [rest.requires_grad_()]}]
    if shape.layers > 1:
        params.append({"params": [matrices.requires_grad_()], "rate": config.matrix_rate, "muon": True})

    n_threads = torch.get_num_threads()

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        on = cut(surface_x.shape[1], n_surface, generator)
        off = cut(x.shape[1], config.batch - n_surface, generator)
        theta = join_matrices(rest, matrices, shape)
        samples = surface_x[:, on], zeros, ones, normal[:, on], steep
        loss = share * surface_l1(theta, *samples, shape, n_threads=n_threads).sum()
        samples = x[:, off], distance[:, off], weight[:, off]
        return loss + (1 - share) * weighted_l1(theta, *samples, shape, squash=False, n_threads=n_threads).sum()

    # The kernel has threads of its own; torch's, asleep between tiny operations, would spin and take their cores.
    torch.set_num_threads(1)
    try:
        fit(params, loss_fn, train, on_step=on_step)
    finally:
        torch.set_num_threads(n_threads)
    with torch.no_grad():
        for field, row in zip(fields, join_matrices(rest, matrices, shape), strict=True):
            unpack(row, field.distance)
