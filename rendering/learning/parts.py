"""Colours of objects by many small networks, each in a part of space: which answer at a place, and what they say.

Space is divided among them by a tree of planes (`objects.blend_tree`), as in Reiser et al., "KiloNeRF" (ICCV 2021) by a grid; a
place asks the one or two networks that have weight there, so that it costs the same however many there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from objects.coloring import colors_at, divide
from objects.field import TINT, TINT_WIDTH
from objects.fused import sine_mlps
from objects.siren import SineParts, SirenField, pack, unpack
from objects.siren_layout import SineShape
from rendering.learning.config import ViewsConfig

_SHARES = 2  # networks that a place may ask
_CHUNK = 1 << 17  # places at once


class Shares(NamedTuple):
    """Which networks answer at ``n`` places: ``net [n, 2]``, -1 for none, and ``share [n, 2]``, their shares of the colour."""

    net: Int[Tensor, "n 2"]
    share: Float[Tensor, "n 2"]


class ColorParts(NamedTuple):
    """The colour networks of ``m`` fields, ``k`` in all.

    Args:
        fields: Whose they are; they say where each part is, not what its numbers are.
        first: ``[m + 1]``, where those of each field begin.
        center, half: ``[k, 3]``, ``[k]``: what each takes off a place, and divides it by.
        shape: Of each.
    """

    fields: tuple[SirenField, ...]
    first: Int[Tensor, "m_plus_1"]
    center: Float[Tensor, "k 3"]
    half: Float[Tensor, "k"]
    shape: SineShape

    @staticmethod
    def of(fields: Sequence[SirenField]) -> ColorParts:
        """Those of fields whose colour networks have one shape."""
        center, half, count = [], [], [0]
        for field in fields:
            look = field.appearance
            many = isinstance(look, SineParts)
            center.append(look.center if many else torch.zeros(1, 3))
            half.append(look.half_extent if many else torch.ones(1))
            count.append(len(half[-1]))
        first = torch.tensor(count).cumsum(0)
        return ColorParts(tuple(fields), first, torch.cat(center), torch.cat(half), fields[0].appearance.shape)

    @torch.no_grad()
    def shares(self, x: Float[Tensor, "n 3"], owner: Int[Tensor, "n"]) -> Shares:
        """Who answers at places in the coordinates of the networks of their owners."""
        net, share = torch.full((len(x), _SHARES), -1), torch.zeros(len(x), _SHARES)
        for i, field in enumerate(self.fields):
            at, look = (owner == i).nonzero()[:, 0], field.appearance
            if not isinstance(look, SineParts):
                share[at, 0], net[at, 0] = 1.0, self.first[i]
                continue
            for some in at.split(_CHUNK):
                weight, part = look.tree(x[some]).topk(_SHARES, 1)
                share[some], net[some] = weight / weight.sum(1, keepdim=True), self.first[i] + part
        net[share == 0] = -1
        return Shares(net, share)

    def look(
        self, rows: Float[Tensor, "k q"], x: Float[Tensor, "n 3"], shares: Shares, n_threads: int
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3 3"]]:
        """Colours and tints at places.

        Args:
            rows: The numbers of all networks.
        """
        place, slot = (shares.net >= 0).nonzero(as_tuple=True)
        net = shares.net[place, slot]
        order = net.argsort(stable=True)
        place, slot, net = place[order], slot[order], net[order]
        x = (x[place] - self.center[net]) / self.half[net, None]
        ends = torch.searchsorted(net, torch.arange(len(self.half) + 1))
        look = sine_mlps(rows, x, ends, self.shape, n_threads=n_threads)
        shared = shares.share[place, slot, None] * look
        look = look.new_zeros(len(shares.net), look.shape[1]).index_add(0, place, shared)
        return look[:, :3].sigmoid(), look[:, 3:].view(-1, 3, 3)

    def rows(self) -> Float[Tensor, "k q"]:
        """The numbers of all networks as the fields hold them."""
        looks = [field.appearance for field in self.fields]
        return torch.cat([look.rows() if isinstance(look, SineParts) else pack([look]) for look in looks])

    def write(self, rows: Float[Tensor, "k q"], shorten: bool = False) -> None:
        """Puts numbers into the fields; with ``shorten`` those of parts are rounded to what files hold of them."""
        for i, field in enumerate(self.fields):
            some, look = rows[self.first[i] : self.first[i + 1]], field.appearance
            if isinstance(look, SineParts):
                look.set_rows(some)
                if shorten:
                    look.shorten()
            else:
                unpack(some[0], look)


def divided(
    field: SirenField, seed: int, x: Float[Tensor, "n 3"], rgb: Int[Tensor, "n 3"], config: ViewsConfig
) -> SirenField:
    """The same shape, with as many fresh colour networks as its colours need and the pixels that show it bear, each in its place.

    Args:
        x, rgb: Places of the surface, in the coordinates of the networks, and the colours (bytes) that pixels show there.
    """
    rng = np.random.default_rng(seed)
    at = torch.from_numpy(rng.permutation(len(x)))
    most, colors = min(config.color_parts, len(at) // config.part_pixels), None
    if most > 1:
        colors = colors_at(x[at].double().numpy(), rgb[at].double().numpy() / 255, rng)
    network = dataclasses.replace(
        field.network, color_width=config.part_width, color_omega_first=config.part_omega_first
    )
    made = SirenField(
        field.bounds,
        network,
        channels={TINT: TINT_WIDTH},
        color_parts=1 if colors is None else colors.n_parts(most),
        observed=True,
        seed=seed,
    ).requires_grad_(False)
    made.distance = field.distance
    if colors is not None:
        divide(made, colors)
    return made


def without_tint(parts: ColorParts) -> Float[Tensor, "k q"]:
    """The numbers of all networks, made to begin with no change with the direction of view."""
    rows, shape = parts.rows(), parts.shape
    last = shape.weight(shape.layers)
    rows[:, last.start + 3 * shape.width : last.stop] = 0.0
    rows[:, last.stop + 3 : last.stop + shape.n_out] = 0.0
    return rows
