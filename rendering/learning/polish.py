"""Colours of objects once more, with shapes as they are: pixels are compared with what stands where their rays hit, a single place
and not the dozen of a volume.

Many small networks share the colours of an object, each in a part of space (`objects.siren.SineParts`): as many as the colours
need and the pixels bear, and a place asks one or two of them. Only now do colours learn how they change with the direction of
view; while shapes learned, that would have explained what shapes should.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from compose.types import Rays
from objects.coloring import colors_at, divide
from objects.field import TINT, TINT_WIDTH
from objects.fused import sine_mlps
from objects.siren import SineParts, SirenField, pack, unpack
from objects.siren_layout import SineShape
from objects.training import TrainConfig, fit
from rendering.learning.bundle import Numbers, ends_of
from rendering.learning.config import ViewsConfig
from rendering.learning.state import State, one_torch_thread

_MOST = 1 << 20  # pixels that are traced
_CHUNK = 1 << 17  # of them at once
_BATCH = 2048  # pixels in a step
_SHARES = 2  # networks that a place may ask
_ROBUST = 0.1  # error of sRGB from which on a pixel counts less


class Seen(NamedTuple):
    """``n`` pixels: what stands where their rays hit.

    Args:
        x: Places, in the coordinates of the networks of an object.
        owner: Whose they are.
        way: Directions of view, in the frames of the objects.
        rgb: Bytes.
    """

    x: Float[Tensor, "n 3"]
    owner: Int[Tensor, "n"]
    way: Float[Tensor, "n 3"]
    rgb: Int[Tensor, "n 3"]


def polish_colors(state: State, progress: bool = True) -> State:
    """Gives all fields colours in parts, learned at traced surfaces; the state's fields are new ones."""
    c = state.config
    seen = _seen(state)
    if len(seen.rgb) == 0 or c.polish == 0:
        return state
    fields = [_with_parts(field, i, seen, c) for i, field in enumerate(state.nets.fields)]
    nets = dataclasses.replace(state.nets, fields=tuple(fields), color=state.nets.color[:, :0])
    nets.write_back()
    _learn(fields, seen, c, nets.n_threads, progress)
    return dataclasses.replace(state, nets=nets)


def _seen(state: State) -> Seen:
    """What pixels show.

    Left out: pixels that something else should be at (by id, or by depth), and those that are half transparent.
    """
    px, nets, scenes = state.pixels, state.nets, state.scenes()
    band = 2 * state.config.depth_band * float(nets.half.min())
    order = torch.randperm(len(px), generator=torch.Generator().manual_seed(0))[:_MOST].sort().values
    found = []
    for rows in order.split(_CHUNK):
        o, d, length = state.lenses.rays(px.view[rows], px.pixel[rows])
        t, owner, frame = torch.empty(len(rows)).double(), torch.empty_like(rows), state.frames[px.view[rows]]
        for f in frame.unique().tolist():
            part = (frame == f).nonzero()[:, 0]
            t[part], owner[part] = scenes[f].trace(Rays(o[part], nn.functional.normalize(d[part], dim=-1)))
        fits = owner >= 0
        if px.alpha is not None:
            fits &= px.alpha[rows] > 250
        if px.ids is not None:
            fits &= (state.labels[owner.clamp(min=0)] == px.ids[rows]) | (px.ids[rows] < 0)
        if px.depth is not None:
            fits &= ~((px.depth[rows] * length - t).abs() > band)  # also where depth is missing
        at = fits.nonzero()[:, 0]
        i, f = owner[at], frame[at]
        x = nets.in_object(o[at] + t[at, None] * d[at], i, f).float()
        found.append(Seen(x, i, nets.turned_to_object(d[at], i, f).float(), px.rgb[rows[at]]))
    return Seen(*(torch.cat(v) for v in zip(*found, strict=True)))


def _with_parts(field: SirenField, number: int, seen: Seen, config: ViewsConfig) -> SirenField:
    """The same shape, with as many colour networks as its colours need, each in its place."""
    rng = np.random.default_rng(number)
    at = torch.from_numpy(rng.permutation((seen.owner == number).nonzero()[:, 0].numpy()))
    most, colors = min(config.color_parts, len(at) // config.part_pixels), None
    if most > 1:
        colors = colors_at(seen.x[at].double().numpy(), seen.rgb[at].double().numpy() / 255, rng)
    network = dataclasses.replace(
        field.network, color_width=config.part_width, color_omega_first=config.part_omega_first
    )
    made = SirenField(
        field.bounds,
        network,
        channels={TINT: TINT_WIDTH},
        color_parts=1 if colors is None else colors.n_parts(most),
        observed=True,
        seed=number,
    ).requires_grad_(False)
    made.distance = field.distance
    if colors is not None:
        divide(made, colors)
    return made


class _Table(NamedTuple):
    """Which of ``k`` networks answer at pixels, and what they are given.

    Args:
        net: ``[n, 2]``, -1 for none.
        share: ``[n, 2]``, of the pixel's colour.
        center, half: ``[k, 3]``, ``[k]``: what each network takes off a place, and divides it by.
    """

    net: Int[Tensor, "n 2"]
    share: Float[Tensor, "n 2"]
    center: Float[Tensor, "k 3"]
    half: Float[Tensor, "k"]


def _table(fields: list[SirenField], seen: Seen) -> _Table:
    n = len(seen.owner)
    net, share = torch.full((n, _SHARES), -1), torch.zeros(n, _SHARES)
    center, half, first = [], [], 0
    for i, field in enumerate(fields):
        at, look = (seen.owner == i).nonzero()[:, 0], field.appearance
        if isinstance(look, SineParts):
            for some in at.split(_CHUNK):
                weight, part = look.tree(seen.x[some]).topk(_SHARES, 1)
                share[some], net[some] = weight / weight.sum(1, keepdim=True), first + part
            center.append(look.center)
            half.append(look.half_extent)
        else:
            share[at, 0], net[at, 0] = 1.0, first
            center.append(torch.zeros(1, 3))
            half.append(torch.ones(1))
        first += len(half[-1])
    net[share == 0] = -1
    return _Table(net, share, torch.cat(center), torch.cat(half))


def _learn(fields: list[SirenField], seen: Seen, config: ViewsConfig, n_threads: int, progress: bool) -> None:
    """Trains the colours of all fields side by side, in place."""
    table, shape = _table(fields, seen), fields[0].appearance.shape
    rows = [_fresh(field) for field in fields]
    numbers = Numbers(torch.cat(rows), shape)

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        k = torch.randint(len(seen.rgb), (_BATCH,), generator=generator)
        rgb, tint = _pixels(numbers.rows(), shape, seen, table, k, n_threads)
        away = (rgb - seen.rgb[k].float() / 255).square().mean(1)
        return (_ROBUST * (away + _ROBUST**2).sqrt()).mean() + config.tint * tint

    train = TrainConfig(
        steps=config.polish, learning_rate=config.polish_rate, final_rate=0.01, label="colours", progress=progress
    )
    with one_torch_thread():
        fit(numbers.groups(config.matrix_rate), loss_fn, train)
    done = numbers.rows().detach().split([len(r) for r in rows])
    for field, some in zip(fields, done, strict=True):
        look = field.appearance
        if isinstance(look, SineParts):
            look.set_rows(some)
            look.shorten()
        else:
            unpack(some[0], look)


def _fresh(field: SirenField) -> Float[Tensor, "k n_row"]:
    """The numbers of a field's colour networks, without a tint."""
    look = field.appearance
    rows = look.rows() if isinstance(look, SineParts) else pack([look])
    last = look.shape.weight(look.shape.layers)
    rows[:, last.start + 3 * look.shape.width : last.stop] = 0.0
    rows[:, last.stop + 3 : last.stop + look.shape.n_out] = 0.0
    return rows


def _pixels(
    theta: Tensor, shape: SineShape, seen: Seen, table: _Table, k: Int[Tensor, "b"], n_threads: int
) -> tuple[Float[Tensor, "b 3"], Tensor]:
    """Colours of pixels, and the mean square of the tints."""
    pixel, slot = (table.net[k] >= 0).nonzero(as_tuple=True)
    net = table.net[k][pixel, slot]
    order = net.argsort(stable=True)
    pixel, slot, net = pixel[order], slot[order], net[order]
    at = k[pixel]
    x = (seen.x[at] - table.center[net]) / table.half[net, None]
    look = sine_mlps(theta, x, ends_of(net, len(table.half)), shape, n_threads=n_threads)
    tint = look[:, 3:].view(-1, 3, 3)
    rgb = look[:, :3].sigmoid() + (tint @ seen.way[at][..., None])[..., 0]
    return torch.zeros(len(k), 3).index_add(0, pixel, table.share[at, slot, None] * rgb), tint.square().mean()
