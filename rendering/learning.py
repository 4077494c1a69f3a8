"""Object fields from posed pictures: all objects of a scene in one run, each a SIREN in its own frame.

Rays of random pixels are rendered as volumes (`rendering.volume`) through the union of all objects; colours, opacity, instance
ids and depth are compared with what the pictures show. What is hidden gets no gradient, so an object isn't pushed empty where
another stands before it. Towards the end of a run surfaces are sharp, and `render` shows the same fields by tracing.

Related: Wang et al., "NeuS" (NeurIPS 2021); Wu et al., "ObjectSDF++" (ICCV 2023): distances of all objects, opacity of their
minimum; Kong et al., "vMAP" (CVPR 2023): a network for each object, learned from masked RGB-D side by side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from compose.composite import Composite
from compose.segments import segment_reduce
from compose.types import Instance, Rays
from objects.aabb import Aabb
from objects.cache import cache_folder, content_key
from objects.fitting import face_points, finish
from objects.fused import sine_mlps, weighted_l1
from objects.pose import SE3
from objects.siren import OBSERVED_CELLS, TINT_WIDTH, SirenField
from objects.training import CheckpointError, OnStep, TrainConfig, fit
from rendering.camera import Camera
from rendering.first_shapes import Surfaces, boxes_of, first_shape
from rendering.hulls import BACKGROUND, Carver, measured_ahead
from rendering.images import save_png
from rendering.pixels import Lenses, Pixels
from rendering.posing import align_cameras
from rendering.views import ViewError, Views
from rendering.volume import Knots, Lattices, Places, Samples, place_knots, summed, weights_of
from rendering.voxels import VoxelTraining, depths, learn_voxels

_FIRST_RATE = 2.5e-3  # peak, of first shapes, times the square root of the points of a network over its width
_VERSION = 5  # part of every key: raise it when the same pictures would give other weights
_PREVIEW_S = 5.0
_SHARPENING = 1.2  # surfaces are as sharp as they get after the inverse of this, as a share of the run
_CORE = 0.96  # of a box, in which measured depth is looked at: at its faces every field must be outside
_OBSERVED_PIXELS = 20_000  # of each picture are looked at to say what it saw
_FAR = 1e3  # metres: distance where no box is
_CHUNK = 1 << 14  # rays at once
_MARGIN = 0.02  # by which a field is outside on the faces of its box, of half of its longest edge
_MOST_LACKING = 5 * _MARGIN  # that a field is moved outwards by, where nothing else closes it
_CLOSING_RATES = (3e-4, 1e-3, 3e-3, 3e-3, 3e-3)
_POLISH_PIXELS, _POLISH_POINTS = 1 << 20, 8192  # traced once, and taken in each step
_FAR_PIXELS = 0.1  # of the pixels whose rays pass all first shapes are learned from
_THIN = 3.0  # gradients shorter than this times their mean are thinned out
_SHOWN = 1e-3  # samples that stop less light than this get no colour
_TETRAHEDRON = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, 1.0, 1.0]])


@dataclass(frozen=True)
class ViewsConfig:
    """How objects are learned from pictures; lengths are shares of half of the longest edge of an object's box.

    Attributes:
        width, layers, omega_first, omega_hidden: The distance network (see `SirenField`).
        color_width, color_layers, color_omega_first: The colour network.
        steps, rays: Training steps, and rays in each.
        learning_rate, color_rate: Peak rate, and the colour network's as a multiple of it.
        pose_rate: That of camera poses (radians, and shares of the scene's half) as a multiple of it, where they are refined.
        n_uniform, n_fine: Most knots of a ray: spread evenly, and where the lattices say that light is stopped.
        sharpness: Of opacity at first and at last; it grows geometrically over five sixths of the steps.
        lattice, refresh: Vertices along the longest edge, and steps after which lattices are made anew.
        voxels: How the voxel field is learned from which pictures without depth get first shapes.
        hull_steps, hull_points, hull_cells: Steps in which networks learn their first shapes, places in each, shared by all
            objects, and cells along the longest edge of a box, on which those shapes are carved.
        polish, polish_rate: Further steps, as a share of ``steps``, and their peak rate, in which colours alone learn at the
            end, at the traced surfaces.
        tint: Weight of the tint's square while colours are polished.
        opacity, ids, depth, eikonal, overlap: Weights of the losses beside that of colour.
        n_eikonal: Places near surfaces, and as many all over the boxes, at which slopes are looked at in each step.
        depth_band: Beside a measured depth, the distance is asked to have the right sign this far from it.
    """

    width: int = 128
    layers: int = 3
    omega_first: float = 30.0
    omega_hidden: float = 30.0
    color_width: int = 96
    color_layers: int = 3
    color_omega_first: float = 90.0
    steps: int = 6000
    rays: int = 2048
    learning_rate: float = 1.5e-4
    color_rate: float = 3.0
    pose_rate: float = 5.0
    n_uniform: int = 4
    n_fine: int = 10
    sharpness: tuple[float, float] = (100.0, 500.0)
    lattice: int = 64
    refresh: int = 50
    voxels: VoxelTraining = dataclasses.field(default_factory=VoxelTraining)
    hull_steps: int = 1500
    hull_points: int = 8192
    polish: float = 0.25
    polish_rate: float = 1e-3
    tint: float = 0.01
    hull_cells: int = 128
    opacity: float = 0.01
    ids: float = 0.01
    depth: float = 1.0
    depth_band: float = 0.02
    eikonal: float = 0.04
    n_eikonal: int = 512
    overlap: float = 0.1


class LearnedViews(NamedTuple):
    """What pictures taught.

    Args:
        instances: Objects and background parts, where they stand; not lit, as their colours hold the light of the pictures.
        background: sRGB where nothing is.
        sharpness: Of the opacity at the end (1 / metres), for `render_volume`.
        cameras: Those of the pictures, refined if that was asked for.
    """

    instances: tuple[Instance, ...]
    background: tuple[float, float, float]
    sharpness: float
    cameras: tuple[Camera, ...]


def fit_views(
    views: Views,
    *,
    seed: int = 0,
    config: ViewsConfig | None = None,
    refine: bool = False,
    preview: str | os.PathLike[str] | None = None,
    progress: bool = True,
    on_step: OnStep | None = None,
) -> LearnedViews:
    """Learns what posed pictures show: an object for each instance id and a background, or one object where there are no ids.

    A killed run goes on where it was when it is called again with the same arguments: its state is in the cache folder.

    Args:
        views: Pictures, from `load_views`. Alpha, instance ids and depth are used where they are there.
        seed: Of initial weights and of the choice of rays.
        config: How to learn.
        refine: Whether to correct the poses of the cameras on the way; good for a few degrees and centimetres.
        preview: A PNG that is written every few seconds: a learned picture beside the one it should become.
        progress: Show a bar with loss and PSNR (on a terminal, once it takes longer than 2 s).
        on_step: Called with step and loss after each step.

    Returns:
        Instances whose colours hold the light of the pictures, to be composed, moved and rendered like any others.

    Raises:
        ViewError: Pictures from which nothing can be learned; the message says why and what to do (a ``ValueError``).
        FitError: Learning failed.
    """
    config = ViewsConfig() if config is None else config
    alphas = [view.alpha for view in views]
    if all(alpha is not None and float(alpha.max()) < 0.5 for alpha in alphas):
        raise ViewError(
            "fit_views: alpha (or the object masks) is below 0.5 all over every picture: there is nothing to learn"
        )
    key = content_key("views", _VERSION, _content(views), dataclasses.asdict(config), seed, refine)
    views = align_cameras(views, seed=seed, progress=progress) if refine else views
    boxes, labels = boxes_of(views)
    learner = Learner(views, boxes, labels, config, seed)
    checkpoint = cache_folder("views") / f"{key}.safetensors"
    last, smooth = time.monotonic(), -1.0

    def told(step: int, loss: float) -> str:
        nonlocal last, smooth
        smooth = learner.error if smooth < 0 else smooth + 0.02 * (learner.error - smooth)
        if preview is not None and time.monotonic() - last > _PREVIEW_S:
            save_png(learner.compared(step), preview)
            last = time.monotonic()
        if on_step is not None:
            on_step(step, loss)
        return f"loss {loss:.3g}, {-10 * math.log10(max(smooth, 1e-12)):.1f} dB"

    try:
        learner.learn(told, checkpoint, seed, progress, refine)
    except CheckpointError:  # damaged: from the beginning
        checkpoint.unlink()
        return fit_views(
            views, seed=seed, config=config, refine=refine, preview=preview, progress=progress, on_step=on_step
        )
    if preview is not None:
        save_png(learner.compared(config.steps - 1), preview)
    learned = learner.learned()  # until here a killed run goes on from the checkpoint
    with contextlib.suppress(OSError):
        checkpoint.unlink(missing_ok=True)
    return learned


def _content(views: Views) -> str:
    """A hash of all that is learned from."""
    digest = hashlib.sha256()
    for view in views:
        camera = view.camera
        lens = (camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, view.depth_unit)
        digest.update(repr(lens).encode())
        digest.update(camera.T_world_cam.as_matrix().numpy().tobytes())
        for layer in (view._rgb, view._alpha, view._depth, view._ids, view._valid):
            digest.update(b"-" if layer is None else layer.contiguous().numpy().tobytes())
    return digest.hexdigest()


class _Pairs(NamedTuple):
    """Points within boxes, sorted by instance: ``point``, ``instance [k]``, ``offsets [m + 1]``, distance ``sdf [k]``
    (metres), and whether they lie well within their box."""

    point: Tensor
    instance: Tensor
    offsets: Tensor
    sdf: Tensor
    core: Tensor


class Learner:
    """Fields while they learn.

    Args:
        boxes: A box for each instance, world frame, metres.
        labels: The instance id of each; several may share one (parts of the background).
    """

    def __init__(
        self, views: Views, boxes: Sequence[Aabb], labels: Sequence[int], config: ViewsConfig, seed: int = 0
    ) -> None:
        self.views, self.config = views, config
        self.labels = torch.tensor(labels)
        c = config
        self.fields = [
            SirenField(
                Aabb(-0.5 * box.size, 0.5 * box.size),
                width=c.width,
                layers=c.layers,
                color_width=c.color_width,
                color_layers=c.color_layers,
                omega_first=c.omega_first,
                omega_hidden=c.omega_hidden,
                color_omega_first=c.color_omega_first,
                feature_width=TINT_WIDTH,
                tinted=True,
                observed=True,
                seed=seed + i,
            ).requires_grad_(False)
            for i, box in enumerate(boxes)
        ]
        m = len(boxes)
        for field in self.fields:  # no tint but what polishing finds
            last = cast(nn.Linear, field.appearance.linears[-1])
            last.weight[3:], last.bias[3:] = 0.0, 0.0
        self.half = torch.stack([f.half_extent for f in self.fields])
        self.theta = _flat([f.distance for f in self.fields])
        self.color = _flat([f.appearance for f in self.fields])
        self.trans = torch.stack([box.center for box in boxes]).float()
        self.lo, self.hi = (torch.stack([getattr(f, k) for f in self.fields]) for k in ("box_lo", "box_hi"))
        self.places = Places(np.tile(np.eye(3), (m, 1, 1)), self.trans.double().numpy(), np.ones(m), np.arange(m))
        self.boxes = (self.lo.double().numpy(), self.hi.double().numpy())
        self.size = float(self.half.max())
        self.pixels, self.lenses = Pixels(views), Lenses(views.cameras)
        self.progress = True
        self.background = torch.zeros(3)
        self.opaque = self.pixels.alpha is None
        o, d, _ = self.lenses.rays(self.pixels.view, self.pixels.pixel)
        meets = self._meets(o, d)
        if self.opaque and not meets.all():
            self.background = self.pixels.rgb[~meets].float().mean(0) / 255
        self.pixels.kept(meets.nonzero()[:, 0])
        if len(self.pixels) == 0:
            raise ViewError("fit_views: no pixel looks at a box")
        self.background = torch.logit(self.background.clamp(0.02, 0.98))
        self.n_threads = torch.get_num_threads()
        self.lattices = self._lattices()

    # -- asking the networks -------------------------------------------------------------------------------------------

    def _distance(self, x: Tensor, offsets: Tensor, theta: Tensor | None = None) -> Tensor:
        c = self.config
        theta = self.theta if theta is None else theta
        return sine_mlps(
            theta,
            x,
            offsets,
            1,
            width=c.width,
            layers=c.layers,
            omega_first=c.omega_first,
            omega_hidden=c.omega_hidden,
            n_threads=self.n_threads,
        )[:, 0]

    def _distance_error(self, theta: Tensor, x: Tensor, target: Tensor, falloff: float) -> Tensor:
        """Sum over networks of the mean absolute error; at distance d it counts falloff / (falloff + |d|)."""
        c = self.config
        return weighted_l1(
            theta,
            x,
            target,
            falloff / (falloff + target[..., 0].abs()),
            width=c.width,
            layers=c.layers,
            omega_first=c.omega_first,
            omega_hidden=c.omega_hidden,
            squash=False,
            n_threads=self.n_threads,
        ).sum()

    def _look(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Colours ``[k, 3]``, and their tints ``[k, 3, 3]``."""
        c = self.config
        look = sine_mlps(
            self.color,
            x,
            offsets,
            3 + TINT_WIDTH,
            width=c.color_width,
            layers=c.color_layers,
            omega_first=c.color_omega_first,
            omega_hidden=c.omega_hidden,
            n_threads=self.n_threads,
        )
        return look[:, :3].sigmoid(), look[:, 3:].view(-1, 3, 3)

    def _in_object(self, p_world: Tensor, instance: Tensor) -> Tensor:
        return (p_world - self.trans[instance]) / self.half[instance, None]

    def _pairs(self, p_world: Tensor, generator: torch.Generator | None) -> _Pairs:
        p = p_world.detach().double().numpy()
        offsets = np.zeros(len(self.fields) + 1, np.int64)
        _pair_up(p, self.places, self.boxes, np.empty(0, np.int64), offsets)
        point = np.empty(offsets[-1], np.int64)
        _pair_up(p, self.places, self.boxes, point, offsets)
        at, ends = torch.from_numpy(point), torch.from_numpy(offsets)
        instance = torch.repeat_interleave(torch.arange(len(self.fields)), ends.diff())
        x = self._in_object(p_world[at], instance)
        core = ((x * self.half[instance, None]).abs() < _CORE * self.hi[instance]).all(1)
        sdf = _thinned(self._distance(x, ends), generator) * self.half[instance]
        return _Pairs(at, instance, ends, sdf, core)

    def _union(self, pairs: _Pairs, n: int) -> tuple[Tensor, Tensor]:
        """The least distance at each of ``n`` points, and whose it is (-1 where no box is)."""
        order = pairs.point.argsort(stable=True)
        rows, sdf = pairs.point[order], pairs.sdf[order]
        best = segment_reduce(sdf, _ends(rows, n), "min").clamp(max=_FAR)
        with torch.no_grad():
            owner = torch.full((n,), -1)
            first = (sdf == best[rows]).nonzero()[:, 0].flip(0)  # of equal ones the lowest number is written last
            owner[rows[first]] = pairs.instance[order][first]
        return best, owner

    def _meets(self, o: Tensor, d: Tensor) -> Tensor:
        found = torch.zeros(len(o), dtype=torch.bool)
        for i in range(len(self.fields)):
            p = o - self.trans[i]
            a, b = (self.lo[i] - p) / d, (self.hi[i] - p) / d
            found |= torch.minimum(a, b).amax(-1).clamp(min=0) < torch.maximum(a, b).amin(-1)
        return found

    @torch.no_grad()
    def _lattices(self) -> Lattices:
        value, n_all = [], []
        for i, field in enumerate(self.fields):
            axes = field.bounds.axes(self.config.lattice)
            x = torch.cartesian_prod(*axes) / self.half[i]
            value.append(self._distance(x, torch.tensor([0, len(x)]), self.theta[i : i + 1]) * self.half[i])
            n_all.append([len(axis) for axis in axes])
        n = np.array(n_all, np.int64)
        start = np.cumsum([0, *(len(v) for v in value[:-1])])
        return Lattices(torch.cat(value).numpy(), start, n, *self.boxes)

    # -- rays ----------------------------------------------------------------------------------------------------------

    def see(
        self,
        o: Tensor,
        d: Tensor,
        sharpness: float,
        jitter: Tensor,
        marks: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> _Seen:
        """Renders rays: colour without background, opacity, and what it was made of. With ``generator`` gradients are thinned."""
        knots = place_knots(
            o,
            d,
            self.lattices,
            self.places,
            sharpness=sharpness,
            jitter=jitter,
            n_uniform=self.config.n_uniform,
            marks=marks,
        )
        samples, ray = knots.samples(), knots.ray
        pairs = self._pairs(o[ray] + knots.t[:, None] * d[ray], generator)
        sdf, owner = self._union(pairs, len(ray))
        weight, t = weights_of(sdf, samples, sharpness)
        knot_owner, owner = owner, owner[samples.first + 1]
        shown = ((weight.detach() > _SHOWN) & (owner >= 0)).nonzero()[:, 0]
        shown = shown[owner[shown].argsort(stable=True)]
        own, r = owner[shown], samples.ray_indices[shown]
        p = o[r] + t[shown, None] * d[r]
        rgb = _thinned(self._look(self._in_object(p, own), _ends(own, len(self.fields)))[0], generator)
        rgb = torch.zeros(len(weight), 3).index_copy(0, shown, rgb)
        total = summed(weight, torch.cat([rgb, torch.ones(len(rgb), 1)], 1), samples)
        return _Seen(total[:, :3], total[:, 3], knots, samples, pairs, sdf, knot_owner, weight, owner, p.detach(), own)

    def sharpness(self, step: int) -> float:
        """1 / metres."""
        first, last = self.config.sharpness
        return first * (last / first) ** min(_SHARPENING * step / self.config.steps, 1.0) / self.size

    # -- learning ------------------------------------------------------------------------------------------------------

    def start(self, progress: bool = True) -> None:
        """First shapes, carved from the pictures and placed by their depths, taken in by the distance networks."""
        c = self.config
        carver, ahead, finest = Carver(self.views), [measured_ahead(view) for view in self.views], 0.0
        generator = torch.Generator().manual_seed(0)
        if self.pixels.depth is None:
            scene = Aabb((self.trans + self.lo).amin(0), (self.trans + self.hi).amax(0))
            voxels = learn_voxels(self.pixels, self.lenses, carver, scene, c.voxels, progress=progress)
            ahead, finest = depths(voxels, self.views.cameras), voxels.cell
            if self.opaque:
                self.background = voxels.behind.clamp(-4.0, 4.0)
        maps = Surfaces(self.views.cameras, ahead, finest)
        x_all, target_all = [], []
        for i, field in enumerate(self.fields):
            p, sdf = first_shape(
                field.bounds, self.trans[i], int(self.labels[i]), c.hull_cells, carver, maps, generator
            )
            x_all.append(p / self.half[i])
            target_all.append(sdf / self.half[i])
        x, target = torch.stack(x_all), torch.stack(target_all)[..., None]
        theta = self.theta.clone().requires_grad_()
        n = c.hull_points // len(self.fields)

        def loss_fn(step: int, generator: torch.Generator) -> Tensor:
            k = int(torch.randint(x.shape[1] - n, (), generator=generator))
            cut = slice(k, k + n)
            return self._distance_error(theta, x[:, cut], target[:, cut], 0.02)

        rate = _FIRST_RATE * math.sqrt(n) / c.width
        train = TrainConfig(steps=c.hull_steps, learning_rate=rate, label="first shapes", progress=progress)
        with _one_torch_thread():
            fit([theta], loss_fn, train)
        self.theta = theta.detach()
        self.lattices = self._lattices()
        self._thin_out(generator)

    def _thin_out(self, generator: torch.Generator) -> None:
        """Lets go of nine in ten pixels whose rays pass all first shapes: they say little that carving hasn't said."""
        px, near = self.pixels, []
        for rows in torch.arange(len(px)).split(_CHUNK):
            o, d, _ = self.lenses.rays(px.view[rows], px.pixel[rows])
            half = torch.full((len(rows), 2), 0.5)
            sharpness = self.sharpness(0)
            knots = place_knots(
                o, d, self.lattices, self.places, sharpness=sharpness, jitter=half, n_uniform=1, steps=64
            )
            near.append(knots.offsets.diff() > 1)
        kept = torch.cat(near) | (torch.rand(len(px), generator=generator) < _FAR_PIXELS)
        px.kept(kept.nonzero()[:, 0])

    def learn(
        self,
        on_step: OnStep | None = None,
        checkpoint: Path | None = None,
        seed: int = 0,
        progress: bool = True,
        refine: bool = False,
    ) -> Tensor:
        """Runs all steps; gives the loss of each."""
        c = self.config
        self.progress = progress
        self.start(progress)
        self.theta.requires_grad_()
        self.color.requires_grad_()
        groups: list[dict[str, Any]] = [{"params": [self.theta]}, {"params": [self.color], "rate": c.color_rate}]
        if self.opaque:
            self.background.requires_grad_()
            groups.append({"params": [self.background], "rate": 5.0})
        if refine:
            self.lenses.twist.requires_grad_()
            groups.append({"params": [self.lenses.twist], "rate": c.pose_rate * self.size})
        train = TrainConfig(
            steps=c.steps,
            learning_rate=c.learning_rate,
            warmup=0.02,
            final_rate=0.02,
            seed=seed,
            label="learn",
            progress=progress,
            checkpoint=checkpoint,
            checkpoint_every=10 * c.refresh,
        )
        fresh = False

        def loss_fn(step: int, generator: torch.Generator) -> Tensor:
            nonlocal fresh
            if step % c.refresh == 0 or not fresh:
                self.lattices, fresh = self._lattices(), True
            return self._loss(step, generator)

        with _one_torch_thread():  # the kernels spread over threads of their own
            losses = fit(groups, loss_fn, train, on_step=on_step).losses
            self.lattices = self._lattices()
        self.lenses.twist.requires_grad_(False)
        return losses

    def _loss(self, step: int, generator: torch.Generator) -> Tensor:
        c, px = self.config, self.pixels
        k = torch.randint(len(px), (c.rays,), generator=generator)
        o, d, length = self.lenses.rays(px.view[k], px.pixel[k])
        jitter = torch.rand(c.rays, c.n_uniform + c.n_fine, generator=generator)
        z, marks = None, None
        if px.depth is not None:
            z = px.depth[k] * length
            band = c.depth_band * float(self.half.min())
            marks = z[:, None] + band * torch.tensor([-1.0, 0.0, 1.0])
        seen = self.see(o, d, self.sharpness(step), jitter, marks, generator)
        self.seen = seen
        want = px.rgb[k].float() / 255
        if px.alpha is not None:
            alpha = px.alpha[k].float()[:, None] / 255
            behind = torch.rand(c.rays, 3, generator=generator)
            want = torch.lerp(behind, want, alpha)
        else:
            alpha, behind = None, self.background.sigmoid()
        rgb = seen.rgb + (1 - seen.opacity[:, None]) * behind
        error = (rgb - want).square().mean()
        self.error = float(error.detach())
        loss = error
        if alpha is not None:
            opacity = seen.opacity.clamp(1e-3, 1 - 1e-3)
            loss = loss + c.opacity * nn.functional.binary_cross_entropy(opacity, alpha[:, 0])
        if px.ids is not None:
            loss = loss + c.ids * self._id_loss(seen, px.ids[k])
        if z is not None:
            loss = loss + c.depth * self._depth_loss(seen, z, None if px.ids is None else px.ids[k])
        if len(self.labels.unique()) > 1:
            loss = loss + c.overlap * self._overlap_loss(seen)
        return loss + c.eikonal * self._eikonal_loss(seen, generator)

    def _overlap_loss(self, seen: _Seen) -> Tensor:
        """How deep each other object is where one is solid: what is in one is at least as far outside of the others."""
        pairs = seen.pairs
        owner = seen.knot_owner[pairs.point]
        other = (self.labels[pairs.instance] != self.labels[owner]).nonzero()[:, 0]
        shared = -(pairs.sdf[other] + seen.sdf[pairs.point[other]])
        return shared.clamp(min=0).sum() / (self.size * max(len(seen.sdf), 1))

    def _id_loss(self, seen: _Seen, ids: Tensor) -> Tensor:
        """Cross entropy of the id that a ray shows; the background's is also what is left over."""
        label = torch.where(seen.owner >= 0, self.labels[seen.owner.clamp(min=0)], -2)
        right = label == ids[seen.samples.ray_indices]
        share = summed(seen.weight * right, torch.ones(len(right), 1), seen.samples)[:, 0]
        share = torch.where(ids == BACKGROUND, share + 1 - seen.opacity, share)
        loss = -share.clamp(1e-3, 1).log()
        # An object that no sample of its ray belongs to is drawn towards it.
        pairs = seen.pairs
        ray = seen.knots.ray[pairs.point]
        own = (self.labels[pairs.instance] == ids[ray]).nonzero()[:, 0]
        own = own[ray[own].argsort(stable=True)]
        least = segment_reduce(pairs.sdf[own], _ends(ray[own], len(ids)), "min")
        pull = torch.where(torch.isfinite(least) & (ids > BACKGROUND), (least / self.size).clamp(min=0), 0.0)
        return (loss + 2 * pull)[ids >= 0].sum() / len(ids)

    def _depth_loss(self, seen: _Seen, z: Tensor, ids: Tensor | None) -> Tensor:
        """Free before a measured depth, surface at it, solid just behind it; a hinge on signs, robust as an absolute value."""
        pairs = seen.pairs
        ray = seen.knots.ray[pairs.point]
        ahead = z[ray] - seen.knots.t[pairs.point]  # metres to the surface, along the ray
        half = self.half[pairs.instance]
        f, band = pairs.sdf / half, self.config.depth_band * float(self.half.min())
        known = torch.isfinite(ahead)
        own = known if ids is None else known & (self.labels[pairs.instance] == ids[ray])
        if len(self.labels.unique()) < len(self.labels):  # parts that are cut off at their faces
            own = own & pairs.core
        at = own & (ahead.abs() < 0.01 * band)
        free = known & (ahead > 0.5 * band)
        behind = own & (ahead < -0.5 * band) & (ahead > -1.5 * band)
        margin = 0.3 * band / half
        terms = (
            torch.where(at, f.abs(), 0.0)
            + torch.where(free, (margin - f).clamp(min=0), 0.0)
            + torch.where(free & own, (f - ahead / half).clamp(min=0), 0.0)
            + torch.where(behind, (margin + f).clamp(min=0), 0.0)
        )
        return terms.sum() / len(z)

    def _eikonal_loss(self, seen: _Seen, generator: torch.Generator) -> Tensor:
        """(|gradient| - 1)^2 near the surfaces and all over the boxes; and the faces of the boxes lie outside."""
        n, m = self.config.n_eikonal, len(self.fields)
        instance = torch.randint(m, (2 * n,), generator=generator)
        lo, hi = self.lo / self.half[:, None], self.hi / self.half[:, None]
        x = torch.lerp(lo[instance], hi[instance], torch.rand(2 * n, 3, generator=generator))
        if len(seen.p_world):
            pick = torch.randint(len(seen.p_world), (n,), generator=generator)
            instance[:n] = seen.own[pick]
            noise = 0.02 * torch.randn(n, 3, generator=generator)
            x[:n] = self._in_object(seen.p_world[pick], seen.own[pick]).detach() + noise
        faces = slice(2 * n - n // 4, 2 * n)
        axis = torch.randint(3, (n // 4,), generator=generator)
        side = torch.randint(2, (n // 4,), generator=generator)
        rows = torch.arange(n // 4)
        on_face = torch.where(side.bool(), hi[instance[faces]][rows, axis], lo[instance[faces]][rows, axis])
        x[faces] = x[faces].scatter(1, axis[:, None], on_face[:, None])
        face = torch.zeros(2 * n, dtype=torch.bool)
        face[faces] = True
        order = instance.argsort(stable=True)
        x, instance, face = x[order], instance[order], face[order]
        step = 0.01
        x = torch.minimum(
            torch.maximum(x, lo[instance] + 2 * step * ~face[:, None]), hi[instance] - 2 * step * ~face[:, None]
        )
        f = self._distance((x[:, None] + step * _TETRAHEDRON).reshape(-1, 3), 4 * _ends(instance, m)).view(-1, 4)
        gradient = f @ _TETRAHEDRON / (4 * step)
        error = ((gradient.square().sum(-1) + 1e-8).sqrt() - 1).square()
        return error[~face].mean() + 10 * (_MARGIN - f.mean(1)[face]).clamp(min=0).mean()

    def _spread(self, i: int, n: int, generator: torch.Generator) -> Tensor:
        """Points of an object's box, in the coordinates of its network: a quarter of them on its faces, edges and corners."""
        lo, hi = self.lo[i] / self.half[i], self.hi[i] / self.half[i]
        share, k = torch.rand(n, 3, generator=generator), n // 4
        at = torch.rand(k, 3, generator=generator) < 0.3
        at |= torch.arange(3) == torch.randint(3, (k, 1), generator=generator)
        share[:k] = torch.where(at, share[:k].round(), share[:k])
        return torch.lerp(lo, hi, share)

    def _close(self) -> None:
        """Solids that reach a face of their box are ended there: ``max(f, margin - distance to the faces)`` is learned instead,
        from the field itself, at rising rates until it holds. What is lacking then, a tenth at most, it is moved outwards."""
        theta = self.theta.detach()
        for i in range(len(self.fields)):
            lo, hi = self.lo[i] / self.half[i], self.hi[i] / self.half[i]
            x = torch.cat([self._spread(i, 1 << 16, torch.Generator().manual_seed(0)), face_points(lo, hi)])
            edge = torch.minimum(x - lo, hi - x).amin(1)
            for rate in (*_CLOSING_RATES, 0.0):
                with torch.no_grad():
                    f = self._distance(x, torch.tensor([0, len(x)]), theta[i : i + 1])
                lacking = 0.2 * _MARGIN - float(f[edge < 1e-6].min())
                if lacking < 0:
                    break
                if rate:
                    theta[i] = self._regressed(theta[i], x, torch.maximum(f, _MARGIN - edge), rate)
                elif lacking < _MOST_LACKING:
                    theta[i, -1] += lacking  # the bias of the distance
        self.theta = theta

    def _regressed(self, theta: Tensor, x: Tensor, target: Tensor, rate: float) -> Tensor:
        """A distance network that has learned given distances, from the one it starts from."""
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        x, target = x[order][None], target[order][None, :, None]
        row = theta[None].clone().requires_grad_()

        def loss_fn(step: int, generator: torch.Generator) -> Tensor:
            k = int(torch.randint(x.shape[1] - 4096, (), generator=generator))
            cut = slice(k, k + 4096)
            return self._distance_error(row, x[:, cut], target[:, cut], 0.1)

        with _one_torch_thread():
            fit([row], loss_fn, TrainConfig(steps=200, learning_rate=rate, progress=False))
        return row.detach()[0]

    def _polish(self) -> None:
        """Colours once more, with shapes as they are: at the first hit of each pixel's ray, a single place and not a dozen. Now
        also how they change with the direction of view; while shapes learned, that would have explained what shapes should.

        Left out: pixels that something else should be at (by id, or by depth), and those that are half transparent.
        """
        c, px = self.config, self.pixels
        for theta, field in zip(self.theta, self.fields, strict=True):
            _unflat(theta, field.distance)
        poses = [SE3.from_translation(trans.double()) for trans in self.trans]
        scene = Composite(
            [Instance(str(i), f, pose) for i, (f, pose) in enumerate(zip(self.fields, poses, strict=True))]
        )
        x, own, rows, way = [], [], [], []
        band = 2 * c.depth_band * float(self.half.min())
        order = torch.randperm(len(px), generator=torch.Generator().manual_seed(0))[:_POLISH_PIXELS].sort().values
        for part in order.split(1 << 17):
            o, d, length = self.lenses.rays(px.view[part], px.pixel[part])
            hits = scene.trace(Rays(o, torch.nn.functional.normalize(d, dim=-1)))
            fits = hits.owner >= 0
            if px.alpha is not None:
                fits &= px.alpha[part] > 250
            if px.ids is not None:
                fits &= (self.labels[hits.owner.clamp(min=0)] == px.ids[part]) | (px.ids[part] < 0)
            if px.depth is not None:
                fits &= ~((px.depth[part] * length - hits.t).abs() > band)  # also where depth is missing
            at = fits.nonzero()[:, 0]
            x.append(self._in_object(o[at] + hits.t[at, None] * d[at], hits.owner[at]))
            own.append(hits.owner[at])
            rows.append(part[at])
            way.append(d[at])
        x_all, own_all, rows_all, way_all = torch.cat(x), torch.cat(own), torch.cat(rows), torch.cat(way)
        steps = round(c.polish * c.steps)
        if len(x_all) == 0 or steps == 0:
            return
        want = px.rgb[rows_all]
        self.color = self.color.detach().requires_grad_()

        def loss_fn(step: int, generator: torch.Generator) -> Tensor:
            k = torch.randint(len(x_all), (_POLISH_POINTS,), generator=generator)
            k = k[own_all[k].argsort(stable=True)]
            rgb, tint = self._look(x_all[k], _ends(own_all[k], len(self.fields)))
            seen = rgb + (tint @ way_all[k, :, None])[..., 0]  # objects aren't turned
            return (seen - want[k].float() / 255).square().mean() + c.tint * tint.square().mean()

        train = TrainConfig(steps=steps, learning_rate=c.polish_rate, final_rate=0.01, label="colours")
        with _one_torch_thread():
            fit([self.color], loss_fn, dataclasses.replace(train, progress=self.progress))
        self.color = self.color.detach()

    # -- results -------------------------------------------------------------------------------------------------------

    def learned(self, step: int | None = None) -> LearnedViews:
        """The fields as they are now; ``step`` says how far the run is, its end without.

        Raises:
            FitError: At the end, a distance that isn't finite, or not positive on the faces of a box.
        """
        instances = []
        if step is None:
            self._close()
            self._polish()
        for i, field in enumerate(self.fields):
            _unflat(self.theta[i], field.distance)
            _unflat(self.color[i], field.appearance)
            if step is None:
                finish(field, self._spread(i, 8192, torch.Generator().manual_seed(0)) * field.half_extent)
            label = int(self.labels[i])
            n_parts = int((self.labels == label).sum())
            name = f"object_{label}" if label != BACKGROUND else "object" if self.pixels.ids is None else "background"
            if n_parts > 1:
                name = f"background_{i}"
            pose = SE3.from_translation(self.trans[i].double())
            instances.append(Instance(name, field, pose, lit=False))
        _observe(instances, self.cameras())
        background = (1.0, 1.0, 1.0) if not self.opaque else tuple(self.background.detach().sigmoid().tolist())
        return LearnedViews(
            tuple(instances),
            background,
            self.sharpness(self.config.steps if step is None else step),
            tuple(self.cameras()),
        )

    def cameras(self) -> list[Camera]:
        """The cameras of the pictures, where they are by now."""
        cameras = self.views.cameras
        if not bool(self.lenses.twist.any()):
            return cameras
        return [dataclasses.replace(c, T_world_cam=pose) for c, pose in zip(cameras, self.lenses.moved(), strict=True)]

    @torch.no_grad()
    def picture(self, camera: Camera, sharpness: float, background: Tensor | None = None) -> Float[Tensor, "h w 3"]:
        """A picture by volume rendering."""
        lenses = Lenses([camera])
        n = camera.width * camera.height
        behind = self.background.sigmoid() if background is None else background
        parts = []
        for pixel in torch.arange(n).split(_CHUNK):
            o, d, _ = lenses.rays(torch.zeros(len(pixel), dtype=torch.int64), pixel)
            jitter = torch.full((len(pixel), self.config.n_uniform + self.config.n_fine), 0.5)
            seen = self.see(o, d, sharpness, jitter)
            parts.append(seen.rgb + (1 - seen.opacity[:, None]) * behind)
        return torch.cat(parts).view(camera.height, camera.width, 3)

    def compared(self, step: int) -> Float[Tensor, "h w2 3"]:
        """A learned picture (of about 20,000 pixels) beside what it should become."""
        view = self.views[len(self.views) // 2]
        shrink = min(1.0, math.sqrt(20_000 / (view.camera.width * view.camera.height)))
        size = (max(1, round(view.camera.height * shrink)), max(1, round(view.camera.width * shrink)))
        background = self.background.detach().sigmoid() if self.opaque else torch.ones(3)
        learned = self.picture(view.camera.resized(size[1], size[0]), self.sharpness(step), background)
        wanted = view.composited(background).movedim(-1, 0)[None]
        wanted = nn.functional.interpolate(wanted, size, mode="area")[0].movedim(0, -1)
        return torch.cat([learned, wanted], 1).clamp(0, 1)


@torch.no_grad()
def _observe(instances: Sequence[Instance], cameras: Sequence[Camera]) -> None:
    """Fills the fields' grids of what was seen: 1 - 0.5^n in a cell whose surface ``n`` pictures show."""
    composite = Composite(instances)
    count = [torch.zeros(OBSERVED_CELLS**3) for _ in instances]
    for camera in cameras:
        shrink = min(1.0, math.sqrt(_OBSERVED_PIXELS / (camera.width * camera.height)))
        rays = camera.resized(math.ceil(camera.width * shrink), math.ceil(camera.height * shrink)).rays()
        hits = composite.trace(rays)
        for i, instance in enumerate(instances):
            rows = (hits.owner == i).nonzero()[:, 0]
            field = instance.field
            p = instance.T_world_obj.inverse() @ (rays.origins[rows] + hits.t[rows, None] * rays.directions[rows])
            cell = (
                ((p - field.box_lo) / (field.box_hi - field.box_lo) * OBSERVED_CELLS)
                .long()
                .clamp(0, OBSERVED_CELLS - 1)
            )
            number = (cell[:, 0] * OBSERVED_CELLS + cell[:, 1]) * OBSERVED_CELLS + cell[:, 2]
            count[i][number.unique()] += 1
    for instance, n in zip(instances, count, strict=True):
        grid = cast(SirenField, instance.field).observed
        grid.copy_((1 - 0.5**n).view(grid.shape))


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


class _Thinned(torch.autograd.Function):
    """Its input; of the gradient's rows ``[n, c]`` that are shorter than a few times the mean most become 0, the rest that long, by
    chance (``u [n]`` in 0..1) so that the expectation stays: what gave them isn't asked again for what matters little."""

    @staticmethod
    def forward(ctx, x, u):
        ctx.save_for_backward(u)
        return x.clone()

    @staticmethod
    def backward(ctx, *grad_outputs):
        (u,) = ctx.saved_tensors
        g = grad_outputs[0]
        length = g.reshape(len(g), -1).norm(dim=1)
        least = _THIN * length.mean()
        scale = torch.where(length >= least, 1.0, torch.where(u * least < length, least / length, 0.0))
        return g * (scale if g.dim() == 1 else scale[:, None]), None


def _thinned(x: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None or not x.requires_grad:
        return x
    return cast(Tensor, _Thinned.apply(x, torch.rand(len(x), generator=generator)))


class _Seen(NamedTuple):
    """What rays saw: of each ray colour (without background) and opacity; of each knot the union's distance (metres) and
    whose it is; of each sample its weight and owner; the surface points that were asked for colour, and whose they are."""

    rgb: Tensor
    opacity: Tensor
    knots: Knots
    samples: Samples
    pairs: _Pairs
    sdf: Tensor
    knot_owner: Tensor
    weight: Tensor
    owner: Tensor
    p_world: Tensor
    own: Tensor


def _ends(rows: Int[Tensor, "k"], n: int) -> Int[Tensor, "n_plus_1"]:
    """Offsets of sorted row numbers."""
    count = torch.bincount(rows, minlength=n)
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


def _flat(nets: Sequence[nn.Module]) -> Tensor:
    return torch.stack([nn.utils.parameters_to_vector(net.parameters()).detach() for net in nets])


def _unflat(theta: Tensor, net: nn.Module) -> None:
    at = 0
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(theta[at : at + p.numel()].view_as(p))  # in place: indices of older weights are known as such
            at += p.numel()


@numba.njit(cache=True)
def _pair_up(p, places, boxes, point, offsets):
    """The points within the box of each instance: counts them, or writes their numbers where ``point`` has room."""
    rot, trans, scale, asset = places
    lo, hi = boxes
    k = 0
    for i in range(len(scale)):
        a = asset[i]
        for j in range(len(p)):
            inside = True
            for c in range(3):
                x = 0.0
                for e in range(3):
                    x += rot[i, e, c] * (p[j, e] - trans[i, e])
                x /= scale[i]
                if x < lo[a, c] or x > hi[a, c]:
                    inside = False
                    break
            if inside:
                if len(point):
                    point[k] = j
                k += 1
        offsets[i + 1] = k
