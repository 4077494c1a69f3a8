"""The stages in which fields learn from pictures, each from one state to the next: first shapes, volumes, closed boxes; then
`rendering.learning.polish` follows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from objects.aabb import Aabb
from objects.learned import face_points
from objects.pose import SE3
from objects.progress import Bar
from objects.training import TrainConfig, fit
from rendering.camera import Camera
from rendering.learning.bundle import Bundle, Numbers
from rendering.learning.first_shapes import Surfaces, first_shape
from rendering.learning.hulls import Carver, measured_ahead
from rendering.learning.losses import MARGIN, depth_loss, eikonal_loss, id_loss, overlap_loss, tint_loss
from rendering.learning.state import CHUNK, State, one_torch_thread
from rendering.learning.voxels import depths, learn_voxels
from rendering.sampling import sample_intervals
from rendering.views import ViewError

_FIRST_RATE = 2.5e-3  # peak, of first shapes, times the square root of the points of a network over its width
_MOST_LACKING = 5 * MARGIN  # that a field is moved outwards by, where nothing else closes it
_CLOSING_RATES = (3e-4, 1e-3, 3e-3, 3e-3, 3e-3)
_FAR_PIXELS = 0.1  # of the pixels whose rays pass all first shapes are learned from


class LearnStep(NamedTuple):
    """A step of learning: its number, its loss, the mean squared error of its colours (NaN where none were rendered), and the
    state as it is then; None where there is no such state."""

    step: int
    loss: float
    error: float
    state: State | None


OnLearnStep = Callable[[LearnStep], str | None]


# -- first shapes ------------------------------------------------------------------------------------------------------


def carve_first_shapes(state: State, progress: bool = True) -> State:
    """First shapes, carved from the pictures and placed by their depths, taken in by the distance networks.

    Raises:
        ViewError: Things that move, in pictures without depth.
    """
    c, nets, background = state.config, state.nets, state.background
    carver, ahead, finest = Carver(state.views), [measured_ahead(view) for view in state.views], 0.0
    generator = torch.Generator().manual_seed(0)
    if state.pixels.depth is None:
        if nets.moves:
            raise ViewError("first shapes of things that move need pictures with depth, got none")
        scene = Aabb((nets.trans[0] + nets.lo).amin(0), (nets.trans[0] + nets.hi).amax(0))
        voxels = learn_voxels(state.pixels, state.lenses, carver, scene, c.voxels, progress=progress)
        ahead, finest = depths(voxels, state.views.cameras), voxels.cell
        if state.opaque:
            background = voxels.behind.clamp(-4.0, 4.0)
    x_all, target_all = [], []
    for i, field in enumerate(Bar(nets.fields, desc="carve", unit="box", disable=not progress)):
        maps = Surfaces(_cameras_beside(state, i), ahead, finest)
        p, sdf = first_shape(
            field.bounds, nets.trans[0, i], int(state.labels[i]), c.hull_cells, carver, maps, generator
        )
        x_all.append(p / nets.half[i])
        target_all.append(sdf / nets.half[i])
    x, target = torch.stack(x_all), torch.stack(target_all)[..., None]
    theta = nets.theta.clone().requires_grad_()
    n = c.hull_points // len(nets.fields)

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        k = int(torch.randint(x.shape[1] - n, (), generator=generator))
        cut = slice(k, k + n)
        return nets.distance_error(theta, x[:, cut], target[:, cut], 0.02)

    rate = _FIRST_RATE * math.sqrt(n) / c.width
    train = TrainConfig(steps=c.hull_steps, learning_rate=rate, label="first shapes", progress=progress)
    with one_torch_thread():
        fit([theta], loss_fn, train)
    nets = dataclasses.replace(nets, theta=theta.detach()).refreshed()
    return _without_far_pixels(dataclasses.replace(state, nets=nets, background=background), generator)


def _cameras_beside(state: State, i: int) -> list[Camera]:
    """The cameras as they stand to object ``i`` while that stays where it is in the first frame, unturned."""
    cameras, poses = state.views.cameras, state.nets.T_world_obj[i]
    if not state.nets.moves:
        return cameras
    still = SE3.from_translation(poses.translation[0])
    return [
        dataclasses.replace(camera, T_world_cam=still @ poses[f].inverse() @ camera.T_world_cam)
        for camera, f in zip(cameras, state.frames.tolist(), strict=True)
    ]


def _without_far_pixels(state: State, generator: torch.Generator) -> State:
    """Without nine in ten pixels whose rays pass all first shapes: they say little that carving hasn't said."""
    near, index = [], (state.nets.lattices, state.nets.transforms)
    for rows in torch.arange(len(state.pixels)).split(CHUNK):
        half = torch.full((len(rows), 2), 0.5)
        intervals = sample_intervals(
            state.rays(rows)[0], *index, sharpness=state.sharpness(0), jitter=half, n_uniform=1, steps=64
        )
        near.append(intervals.offsets.diff() > 1)
    kept = torch.cat(near) | (torch.rand(len(state.pixels), generator=generator) < _FAR_PIXELS)
    return dataclasses.replace(state, pixels=state.pixels.kept(kept.nonzero()[:, 0]))


# -- volumes -----------------------------------------------------------------------------------------------------------


def learn_volumes(
    state: State,
    *,
    seed: int = 0,
    refine: bool = False,
    checkpoint: Path | None = None,
    progress: bool = True,
    on_step: OnLearnStep | None = None,
) -> State:
    """Shapes and colours learn together, from random pixels rendered as volumes.

    Args:
        seed: Of the choice of rays.
        refine: Whether the cameras learn where they stand.
        checkpoint: See `TrainConfig`.
        progress: Show a bar.
        on_step: Called after each step; what it returns stands in the bar.
    """
    c = state.config
    nets = state.nets
    theta, color = Numbers(nets.theta, nets.shape), Numbers(nets.color, nets.parts.shape)
    rate = c.part_rate if nets.divided else c.color_rate
    background, lenses = state.background.detach().clone(), state.lenses
    groups = [*theta.groups(c.matrix_rate), *color.groups(rate, rate, muon=nets.divided)]
    if state.opaque:
        groups.append({"params": [background.requires_grad_()], "rate": 5.0})
    if refine:
        lenses = lenses.twisted(lenses.twist.clone().requires_grad_())
        groups.append({"params": [lenses.twist], "rate": c.pose_rate * state.nets.size})
    now = dataclasses.replace(state, background=background, lenses=lenses)
    train = TrainConfig(
        steps=c.steps,
        learning_rate=c.learning_rate,
        warmup=0.02,
        final_rate=0.02,
        seed=seed,
        label="learn",
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_every=2 * c.refresh,
    )
    error = math.nan

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        nonlocal now, error
        nets = now.nets.with_numbers(theta.rows(), color.rows())
        if step % c.refresh == 0:  # so are the steps from which a killed run goes on
            nets = nets.refreshed()
        now = dataclasses.replace(now, nets=nets)
        loss, error = view_loss(now, step, generator)
        return loss

    def after(step: int, loss: float) -> str | None:
        return None if on_step is None else on_step(LearnStep(step, loss, error, now))

    with one_torch_thread():  # the kernels spread over threads of their own
        fit(groups, loss_fn, train, on_step=after)
        nets = now.nets.with_numbers(theta.rows().detach(), color.rows().detach()).refreshed()
    lenses = lenses.twisted(lenses.twist.detach())
    return dataclasses.replace(now, nets=nets, background=background.detach(), lenses=lenses)


def view_loss(state: State, step: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """The loss of random rays, and the mean squared error of their colours."""
    c, px, nets = state.config, state.pixels, state.nets
    k = torch.randint(len(px), (c.rays,), generator=generator)
    rays, length = state.rays(k)
    jitter = torch.rand(c.rays, c.n_uniform + c.n_fine, generator=generator)
    band = c.depth_band * float(nets.half.min())
    z, marks = None, None
    if px.depth is not None:
        z = px.depth[k] * length
        marks = z[:, None] + band * torch.tensor([-1.0, 0.0, 1.0])
    seen = nets.render(rays, state.sharpness(step), jitter, marks, generator)
    want = px.rgb[k].float() / 255
    if px.alpha is not None:
        alpha = px.alpha[k].float()[:, None] / 255
        behind = torch.rand(c.rays, 3, generator=generator)
        want = torch.lerp(behind, want, alpha)
    else:
        alpha, behind = None, state.background.sigmoid()
    rgb = seen.rgb + (1 - seen.opacity[:, None]) * behind
    loss = error = (rgb - want).square().mean()
    if alpha is not None:
        opacity = seen.opacity.clamp(1e-3, 1 - 1e-3)
        loss = loss + c.opacity * nn.functional.binary_cross_entropy(opacity, alpha[:, 0])
    ids = None if px.ids is None else px.ids[k]
    if ids is not None:
        loss = loss + c.ids * id_loss(seen, ids, state.labels, nets.size)
    if z is not None:
        loss = loss + c.depth * depth_loss(seen, z, ids, state.labels, nets.half, band)
    if len(state.labels.unique()) > 1:
        loss = loss + c.overlap * overlap_loss(seen.distances, state.labels, nets.size)
    loss = loss + c.eikonal * eikonal_loss(nets, seen.crossings, c.n_eikonal, generator)
    if nets.divided:
        loss = loss + c.tint * tint_loss(nets, seen.crossings, c.n_eikonal, generator)
    return loss, float(error.detach())


# -- the end -----------------------------------------------------------------------------------------------------------


def close_boxes(state: State) -> State:
    """Solids that reach a face of their box are ended there: ``max(f, margin - distance to the faces)`` is learned instead, from
    the field itself, at rising rates until it holds. What is lacking then, a tenth at most, it is moved outwards."""
    nets, theta = state.nets, state.nets.theta.detach().clone()
    for i in range(len(nets.fields)):
        lo, hi = nets.lo[i] / nets.half[i], nets.hi[i] / nets.half[i]
        x = torch.cat([nets.spread(i, 1 << 16, torch.Generator().manual_seed(0)), face_points(lo, hi)])
        edge = torch.minimum(x - lo, hi - x).amin(1)
        for rate in (*_CLOSING_RATES, 0.0):
            with torch.no_grad():
                f = nets.distance(x, torch.tensor([0, len(x)]), theta[i : i + 1])
            lacking = 0.2 * MARGIN - float(f[edge < 1e-6].min())
            if lacking < 0:
                break
            if rate:
                theta[i] = _regressed(nets, theta[i], x, torch.maximum(f, MARGIN - edge), rate)
            elif lacking < _MOST_LACKING:
                theta[i, nets.shape.last_bias] += lacking
    return dataclasses.replace(state, nets=dataclasses.replace(nets, theta=theta))


def _regressed(nets: Bundle, theta: Tensor, x: Tensor, target: Tensor, rate: float) -> Tensor:
    """A distance network that has learned given distances, from the one it starts from."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, target = x[order][None], target[order][None, :, None]
    row = theta[None].clone().requires_grad_()

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        k = int(torch.randint(x.shape[1] - 4096, (), generator=generator))
        cut = slice(k, k + 4096)
        return nets.distance_error(row, x[:, cut], target[:, cut], 0.1)

    with one_torch_thread():
        fit([row], loss_fn, TrainConfig(steps=200, learning_rate=rate, progress=False))
    return row.detach()[0]
