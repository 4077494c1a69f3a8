"""Colours of objects at traced hits: a single place for a pixel, and not the dozen of a volume.

Shapes are traced to divide their colours among small networks (`rendering.learning.parts`); at the end colours alone learn,
compared with what stands where rays hit.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from compose.types import Rays
from objects.training import TrainConfig, fit
from rendering.learning.bundle import Numbers
from rendering.learning.parts import Shares, divided
from rendering.learning.state import State, one_torch_thread

_MOST = 1 << 20  # pixels that are traced
_CHUNK = 1 << 17  # of them at once
_BATCH = 2048  # pixels in a step
_HELD = 8  # of so many pictures one is held back
_ROBUST = 0.1  # error of sRGB from which on a pixel counts less


class Seen(NamedTuple):
    """``n`` pixels: what stands where their rays hit.

    Args:
        x: Places, in the coordinates of the networks of an object.
        owner: Whose they are.
        way: Directions of view, in the frames of the objects.
        rgb: Bytes.
        view: Their pictures.
    """

    x: Float[Tensor, "n 3"]
    owner: Int[Tensor, "n"]
    way: Float[Tensor, "n 3"]
    rgb: Int[Tensor, "n 3"]
    view: Int[Tensor, "n"]


def divide_colors(state: State) -> State:
    """Gives all fields fresh colour networks, divided by what pixels show where their rays hit the shapes as they are."""
    seen, fields = _seen(state), []
    for i, field in enumerate(state.nets.fields):
        at = (seen.owner == i).nonzero()[:, 0]
        fields.append(divided(field, i, seen.x[at], seen.rgb[at], state.config))
    return dataclasses.replace(state, nets=state.nets.with_fields(fields))


def polish_colors(state: State, progress: bool = True) -> State:
    """Colours of all fields learn at traced surfaces. Where volumes have taught them, some of many pictures are held back, and if
    these are shown worse after than before, colours stay as they were."""
    c, nets, seen = state.config, state.nets, _seen(state)
    if len(seen.rgb) == 0 or c.polish == 0:
        return state
    shares, numbers = nets.parts.shares(seen.x, seen.owner), Numbers(nets.color, nets.parts.shape)
    held = (seen.view % _HELD == _HELD - 1) & (len(state.views) >= 2 * _HELD and not state.opaque)
    held &= not bool(held.all())
    learned, held = (~held).nonzero()[:, 0], held.nonzero()[:, 0]

    def errors(rows: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        some = Shares(*(part[k] for part in shares))
        rgb, tint = nets.parts.look(rows, seen.x[k], some, nets.n_threads)
        rgb = rgb + (tint @ seen.way[k, :, None])[..., 0]
        return (rgb - seen.rgb[k].float() / 255).square().mean(1), tint

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        k = learned[torch.randint(len(learned), (_BATCH,), generator=generator)]
        away, tint = errors(numbers.rows(), k)
        return (_ROBUST * (away + _ROBUST**2).sqrt()).mean() + c.tint * tint.square().mean()

    train = TrainConfig(
        steps=c.polish, learning_rate=c.polish_rate, final_rate=0.01, label="colours", progress=progress
    )
    with one_torch_thread():
        fit(numbers.groups(1.0), loss_fn, train)
    with torch.no_grad():
        before, after = (
            sum(float(errors(rows, k)[0].sum()) for k in held.split(_CHUNK)) for rows in (nets.color, numbers.rows())
        )
    nets.parts.write(nets.color if before < after else numbers.rows().detach(), shorten=True)
    return dataclasses.replace(state, nets=nets.with_numbers(nets.theta, nets.parts.rows()))


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
        found.append(Seen(x, i, nets.turned_to_object(d[at], i, f).float(), px.rgb[rows[at]], px.view[rows[at]].long()))
    return Seen(*(torch.cat(v) for v in zip(*found, strict=True)))
