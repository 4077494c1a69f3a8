"""Colours of meshes: samples on the surface, and the training of the appearance networks.

Where colours change much within a small distance, as on printed labels, many small networks share the surface, each with an equal
share of the changes (`objects.siren.SineParts`): as many numbers in all as one large network, of which a point trains and asks
only a few. Source of the idea: Reiser et al., "KiloNeRF" (ICCV 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from objects.fused import weighted_l1
from objects.learned import paint_flat
from objects.mesh import MeshSource
from objects.mesh_samples import FitConfig, cut
from objects.siren import SineParts, SirenField, join_matrices, pack, split_matrices, unpack
from objects.training import TrainConfig, fit

_STREAM = 1  # of random numbers, apart from that of the distances
_PROBES, _NEIGHBOURS = 24_576, 8  # points at which changes of colour are measured, among so many neighbours
_DETAIL = 0.025  # mean change of colour from which on a mesh gets all parts that it may have
_PASSES = 40  # over the samples: with 100 colours at other points get worse
_LEAST = 4096  # samples for each part
_EVEN = 0.1  # change of colour that counts everywhere, so that even surfaces have a share of the parts
_BLEND = 0.02  # half of the stretch in which parts fade into each other, in half edges of the box


@dataclass(frozen=True, eq=False)
class Colors:
    """Colours of one mesh at points about its surface, in random order and in the coordinates of its field's networks."""

    x: Float[Tensor, "n 3"]
    rgb: Float[Tensor, "n 3"]
    change: Float[np.ndarray, "m"]  # mean difference of the first ``m`` to their neighbours' mean

    @property
    def flat(self) -> Float[Tensor, "3"] | None:
        """The colour of a mesh that has but one: there is nothing to learn."""
        even = bool((self.rgb.amax(0) - self.rgb.amin(0)).max() < 1 / 255)
        return self.rgb.double().mean(0).float() if even else None

    def n_parts(self, most: int) -> int:
        """How many networks should share the surface."""
        wanted = int(np.ceil(most * self.change.mean() / _DETAIL))
        return max(1, min(most, wanted, len(self.x) // _LEAST))


def draw_colors(source: MeshSource, center: Tensor, half: Tensor, config: FitConfig, seed: int) -> Colors:
    """Colours of a mesh at points from which ``center [3]`` is taken off, divided by ``half``; the same seed draws the same."""
    rng = np.random.default_rng((seed, _STREAM))
    p, normal = source.sample(config.color_pool, rng)
    rgb, size = source.colors(p), float(half)
    x = (p + normal * rng.normal(0, config.color_sigma * size, (len(normal), 1)) - center.double().numpy()) / size
    return colors_at(x, rgb, rng)


def colors_at(x: Float[np.ndarray, "n 3"], rgb: Float[np.ndarray, "n 3"], rng: np.random.Generator) -> Colors:
    """Colours at points in the coordinates of the networks."""
    order = rng.permutation(len(x))
    x, rgb = x[order], rgb[order]
    near = KDTree(x[:_PROBES]).query(x[:_PROBES], min(_NEIGHBOURS, len(x)))[1].reshape(len(x[:_PROBES]), -1)
    change = np.abs(rgb[near] - rgb[near].mean(1, keepdims=True)).mean((1, 2))
    return Colors(torch.from_numpy(x).float(), torch.from_numpy(rgb).float(), change)


def divide(field: SirenField, colors: Colors) -> None:
    """Gives every part of a field's appearance its place: an equal share of the changes of colour."""
    look, x = field.appearance, colors.x.numpy()
    if not isinstance(look, SineParts):
        return
    look.tree.split(x[: len(colors.change)], _EVEN + colors.change, _BLEND)
    probes = colors.x[: len(colors.change)]
    share = look.tree(probes)
    for k in range(look.n_parts):
        some = probes[share[:, k] > 0]
        if len(some):
            lo, hi = some.amin(0), some.amax(0)
            look.center[k], look.half_extent[k] = 0.5 * (lo + hi), (0.5 * (hi - lo).max()).clamp(min=_BLEND)


def learn_colors(fields: Sequence[SirenField], pools: Sequence[Colors], config: FitConfig, train: TrainConfig) -> None:
    """Trains the appearance networks of all fields side by side, in place; each sees its own samples only."""
    learned = []
    for field, colors in zip(fields, pools, strict=True):
        if (flat := colors.flat) is None:
            learned.append((field.appearance, colors))
        else:
            paint_flat(field, flat)
    if not learned:
        return
    samples = [some for look, colors in learned for some in _samples(look, colors, config)]
    x, rgb = (torch.stack([some[k] for some in samples]) for k in (0, 1))
    ones = torch.ones(x.shape[:2])
    shape = learned[0][0].shape
    rows = [look.rows() if isinstance(look, SineParts) else pack([look]) for look, _ in learned]
    rest, matrices = split_matrices(torch.cat(rows), shape)
    params: list[dict[str, Any]] = [{"params": [rest.requires_grad_()]}]
    if shape.layers > 1:
        params.append({"params": [matrices.requires_grad_()], "rate": config.color_matrix_rate, "muon": True})
    n_threads = torch.get_num_threads()

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        at = cut(x.shape[1], config.color_batch, generator)
        theta = join_matrices(rest, matrices, shape)
        return weighted_l1(theta, x[:, at], rgb[:, at], ones[:, at], shape, squash=True, n_threads=n_threads).sum()

    train = replace(
        train,
        steps=max(1, round(min(config.color_steps * train.steps, _PASSES * config.color_samples / config.color_batch))),
        learning_rate=config.color_rate * config.learning_rate,
        label=f"{train.label}: colours",
    )
    # The kernel has threads of its own; torch's, asleep between tiny operations, would spin and take their cores.
    torch.set_num_threads(1)
    try:
        fit(params, loss_fn, train)
    finally:
        torch.set_num_threads(n_threads)
    done = join_matrices(rest.detach(), matrices.detach(), shape).split([len(r) for r in rows])
    for (look, _), some in zip(learned, done, strict=True):
        if isinstance(look, SineParts):
            look.set_rows(some)
            look.shorten()
        else:
            unpack(some[0], look)


def _samples(look: torch.nn.Module, colors: Colors, config: FitConfig) -> list[tuple[Tensor, Tensor]]:
    """Equally many points and colours for each network, in its coordinates."""
    n = config.color_samples
    if not isinstance(look, SineParts):
        at = torch.arange(n) % len(colors.x)
        return [(colors.x[at], colors.rgb[at])]
    share, found = look.tree(colors.x), []
    for k in range(look.n_parts):
        mine = (share[:, k] > 0).nonzero()[:, 0]
        at = mine[torch.arange(n) % len(mine)] if len(mine) else torch.arange(n) % len(colors.x)
        found.append(((colors.x[at] - look.center[k]) / look.half_extent[k], colors.rgb[at]))
    return found
