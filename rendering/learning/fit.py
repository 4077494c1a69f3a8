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
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from compose.composite import Composite
from compose.segments import segment_reduce
from compose.types import Instance, Rays
from objects.aabb import Aabb
from objects.cache import cache_folder, content_key
from objects.files import FieldFileError, load_field, save_field, write_atomically
from objects.fitting import face_points, finish
from objects.pose import SE3
from objects.progress import Bar
from objects.siren import OBSERVED_CELLS, SirenField
from objects.training import CheckpointError, OnStep, TrainConfig, fit
from rendering.camera import Camera
from rendering.images import save_png
from rendering.learning.bundle import Bundle, Distances, ends_of
from rendering.learning.first_shapes import Surfaces, boxes_of, first_shape
from rendering.learning.hulls import BACKGROUND, Carver, measured_ahead
from rendering.learning.pixels import Lenses, Pixels
from rendering.learning.posing import align_cameras
from rendering.learning.voxels import VoxelTraining, depths, learn_voxels
from rendering.sampling import route, sample_intervals
from rendering.views import ViewError, Views
from rendering.volume import RayRender, accumulate_along_rays

_FIRST_RATE = 2.5e-3  # peak, of first shapes, times the square root of the points of a network over its width
_VERSION = 7  # part of every key: raise it when the same pictures would give other weights
_PREVIEW_S = 5.0
_SHARPENING = 1.2  # surfaces are as sharp as they get after the inverse of this, as a share of the run
_OBSERVED_PIXELS = 20_000  # of each picture are looked at to say what it saw
_CHUNK = 1 << 14  # rays at once
_MARGIN = 0.02  # by which a field is outside on the faces of its box, of half of its longest edge
_MOST_LACKING = 5 * _MARGIN  # that a field is moved outwards by, where nothing else closes it
_CLOSING_RATES = (3e-4, 1e-3, 3e-3, 3e-3, 3e-3)
_POLISH_PIXELS, _POLISH_POINTS = 1 << 20, 8192  # traced once, and taken in each step
_FAR_PIXELS = 0.1  # of the pixels whose rays pass all first shapes are learned from
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
        n_uniform, n_fine: Most boundaries of intervals on a ray: spread evenly, and where the lattices say that light is stopped.
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
        psnr_db: Of the last rays that were learned from, rendered as volumes; NaN where nobody looked.
    """

    instances: tuple[Instance, ...]
    background: tuple[float, float, float]
    sharpness: float
    cameras: tuple[Camera, ...]
    psnr_db: float = math.nan


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

    A killed run goes on where it was when it is called again with the same arguments, and what was learned once isn't learned
    again: both are in the cache folder.

    Args:
        views: Pictures, from `load_views`. Alpha, instance ids and depth are used where they are there.
        seed: Of initial weights and of the choice of rays.
        config: How to learn.
        refine: Whether to correct the poses of the cameras on the way; good for a few degrees and centimetres.
        preview: A PNG that is written every few seconds: a learned picture beside the one it should become.
        progress: Show a bar with loss and PSNR (once it takes longer than 2 s; in a log, a line every half minute).
        on_step: Called with step and loss after each step.

    Returns:
        Instances whose colours hold the light of the pictures, to be composed, moved and rendered like any others.

    Raises:
        ViewError: Pictures from which nothing can be learned; the message says why and what to do (a ``ValueError``).
        FitError: Learning failed.
    """
    config = ViewsConfig() if config is None else config
    if not any(bool((view.valid if view.alpha is None else view.valid & (view.alpha >= 0.5)).any()) for view in views):
        raise ViewError("fit_views: alpha (or the masks) leaves nothing of any picture: there is nothing to learn")
    key = content_key("views", _VERSION, _content(views), dataclasses.asdict(config), seed, refine)
    folder = cache_folder("views")
    if (known := _recalled(folder / key, views)) is not None:
        return known
    given, views = views, align_cameras(views, seed=seed, progress=progress) if refine else views
    boxes, labels = boxes_of(views)
    learner = Learner(views, boxes, labels, config, seed)
    checkpoint = folder / f"{key}.safetensors"
    last, smooth = time.monotonic(), -1.0

    def told(step: int, loss: float) -> str:
        nonlocal last, smooth
        smooth = learner.error if smooth < 0 else smooth + 0.02 * (learner.error - smooth)
        if preview is not None and time.monotonic() - last > _PREVIEW_S:
            save_png(learner.compared(step), preview)
            last = time.monotonic()
        if on_step is not None:
            on_step(step, loss)
        return f"loss {loss:.3g}, {_db(smooth):.1f} dB"

    try:
        learner.learn(told, checkpoint, seed, progress, refine)
    except CheckpointError:  # damaged: from the beginning
        checkpoint.unlink()
        return fit_views(
            given, seed=seed, config=config, refine=refine, preview=preview, progress=progress, on_step=on_step
        )
    if preview is not None:
        save_png(learner.compared(config.steps - 1), preview)
    learned = learner.learned()._replace(psnr_db=_db(smooth))  # until here a killed run goes on from the checkpoint
    with contextlib.suppress(OSError, FieldFileError):  # a full disk loses nothing but the next run's time
        _kept(learned, folder / key)
        checkpoint.unlink(missing_ok=True)
    return learned


def _db(error: float) -> float:
    return -10 * math.log10(max(error, 1e-12))


def _kept(learned: LearnedViews, folder: Path) -> None:
    """Writes what was learned; ``learned.json`` comes last, so what is there is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, instance in enumerate(learned.instances):
        save_field(instance.field, folder / f"{i}.safetensors")
    objects = [{"name": i.name, "T_world_obj": _numbers(i.T_world_obj)} for i in learned.instances]
    facts = {"objects": objects, "cameras": [_numbers(camera.T_world_cam) for camera in learned.cameras]}
    facts |= {"background": learned.background, "sharpness": learned.sharpness, "psnr_db": learned.psnr_db}
    write_atomically(folder / "learned.json", json.dumps(facts).encode())


def _recalled(folder: Path, views: Views) -> LearnedViews | None:
    """What `_kept` wrote; None where there is nothing whole."""
    try:
        facts = json.loads((folder / "learned.json").read_text(encoding="utf-8"))
        instances = tuple(
            Instance(row["name"], load_field(folder / f"{i}.safetensors"), _pose_of(row["T_world_obj"]), lit=False)
            for i, row in enumerate(facts["objects"])
        )
        cameras = tuple(
            dataclasses.replace(camera, T_world_cam=_pose_of(pose))
            for camera, pose in zip(views.cameras, facts["cameras"], strict=True)
        )
        r, g, b = facts["background"]
        return LearnedViews(instances, (r, g, b), facts["sharpness"], cameras, facts["psnr_db"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _numbers(pose: SE3) -> list[float]:
    return [*pose.quat_wxyz.tolist(), *pose.translation.tolist()]


def _pose_of(numbers: list[float]) -> SE3:
    return SE3(torch.tensor(numbers[:4], dtype=torch.float64), torch.tensor(numbers[4:], dtype=torch.float64))


def _content(views: Views) -> str:
    """A hash of all that is learned from."""
    digest = hashlib.sha256()
    for view in views:
        camera = view.camera
        lens = (camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, view.depth_unit)
        digest.update(repr(lens).encode())
        digest.update(camera.T_world_cam.as_matrix().numpy().tobytes())
        for layer in map(view.stored.get, ("rgb", "alpha", "depth", "ids", "valid")):
            digest.update(b"-" if layer is None else layer.contiguous().numpy().tobytes())
    return digest.hexdigest()


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
        self.nets = Bundle(boxes, config, seed)
        self.pixels, self.lenses = Pixels(views), Lenses(views.cameras)
        self.progress = True
        self.background = torch.zeros(3)
        self.opaque = self.pixels.alpha is None
        px, meets = self.pixels, []
        for rows in torch.arange(len(px)).split(_CHUNK):
            o, d, _ = self.lenses.rays(px.view[rows], px.pixel[rows])
            meets.append(self.nets.meets(route(o, d, self.nets.transforms)))
        meets = torch.cat(meets)
        if self.opaque and not meets.all():
            self.background = self.pixels.rgb[~meets].float().mean(0) / 255
        self.pixels.kept(meets.nonzero()[:, 0])
        if len(self.pixels) == 0:
            raise ViewError("fit_views: no pixel looks at a box")
        self.background = torch.logit(self.background.clamp(0.02, 0.98))

    def sharpness(self, step: int) -> float:
        """1 / metres."""
        first, last = self.config.sharpness
        return first * (last / first) ** min(_SHARPENING * step / self.config.steps, 1.0) / self.nets.size

    # -- learning ------------------------------------------------------------------------------------------------------

    def start(self, progress: bool = True) -> None:
        """First shapes, carved from the pictures and placed by their depths, taken in by the distance networks."""
        c = self.config
        carver, ahead, finest = Carver(self.views), [measured_ahead(view) for view in self.views], 0.0
        generator = torch.Generator().manual_seed(0)
        if self.pixels.depth is None:
            scene = Aabb((self.nets.trans + self.nets.lo).amin(0), (self.nets.trans + self.nets.hi).amax(0))
            voxels = learn_voxels(self.pixels, self.lenses, carver, scene, c.voxels, progress=progress)
            ahead, finest = depths(voxels, self.views.cameras), voxels.cell
            if self.opaque:
                self.background = voxels.behind.clamp(-4.0, 4.0)
        maps = Surfaces(self.views.cameras, ahead, finest)
        x_all, target_all = [], []
        for i, field in enumerate(Bar(self.nets.fields, desc="carve", unit="box", disable=not progress)):
            p, sdf = first_shape(
                field.bounds, self.nets.trans[i], int(self.labels[i]), c.hull_cells, carver, maps, generator
            )
            x_all.append(p / self.nets.half[i])
            target_all.append(sdf / self.nets.half[i])
        x, target = torch.stack(x_all), torch.stack(target_all)[..., None]
        theta = self.nets.theta.clone().requires_grad_()
        n = c.hull_points // len(self.nets.fields)

        def loss_fn(step: int, generator: torch.Generator) -> Tensor:
            k = int(torch.randint(x.shape[1] - n, (), generator=generator))
            cut = slice(k, k + n)
            return self.nets.distance_error(theta, x[:, cut], target[:, cut], 0.02)

        rate = _FIRST_RATE * math.sqrt(n) / c.width
        train = TrainConfig(steps=c.hull_steps, learning_rate=rate, label="first shapes", progress=progress)
        with _one_torch_thread():
            fit([theta], loss_fn, train)
        self.nets.theta = theta.detach()
        self.nets.refresh()
        self._thin_out(generator)

    def _thin_out(self, generator: torch.Generator) -> None:
        """Lets go of nine in ten pixels whose rays pass all first shapes: they say little that carving hasn't said."""
        px, near = self.pixels, []
        for rows in torch.arange(len(px)).split(_CHUNK):
            o, d, _ = self.lenses.rays(px.view[rows], px.pixel[rows])
            index = (self.nets.lattices, self.nets.transforms)
            half = torch.full((len(rows), 2), 0.5)
            intervals = sample_intervals(
                route(o, d, index[1]), *index, sharpness=self.sharpness(0), jitter=half, n_uniform=1, steps=64
            )
            near.append(intervals.offsets.diff() > 1)
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
        self.nets.theta.requires_grad_()
        self.nets.color.requires_grad_()
        groups: list[dict[str, Any]] = [
            {"params": [self.nets.theta]},
            {"params": [self.nets.color], "rate": c.color_rate},
        ]
        if self.opaque:
            self.background.requires_grad_()
            groups.append({"params": [self.background], "rate": 5.0})
        if refine:
            self.lenses.twist.requires_grad_()
            groups.append({"params": [self.lenses.twist], "rate": c.pose_rate * self.nets.size})
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
        fresh = False

        def loss_fn(step: int, generator: torch.Generator) -> Tensor:
            nonlocal fresh
            if step % c.refresh == 0 or not fresh:
                self.nets.refresh()
                fresh = True
            return self._loss(step, generator)

        with _one_torch_thread():  # the kernels spread over threads of their own
            losses = fit(groups, loss_fn, train, on_step=on_step).losses
            self.nets.refresh()
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
            band = c.depth_band * float(self.nets.half.min())
            marks = z[:, None] + band * torch.tensor([-1.0, 0.0, 1.0])
        seen = self.nets.render(route(o, d, self.nets.transforms), self.sharpness(step), jitter, marks, generator)
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

    def _overlap_loss(self, seen: RayRender) -> Tensor:
        """How deep each other object is where one is solid: what is in one is at least as far outside of the others."""
        at: Distances = seen.distances
        owner = at.owner[at.point]
        other = (self.labels[at.instance] != self.labels[owner]).nonzero()[:, 0]
        shared = -(at.pair_sdf[other] + at.sdf[at.point[other]])
        return shared.clamp(min=0).sum() / (self.nets.size * max(len(at.sdf), 1))

    def _id_loss(self, seen: RayRender, ids: Tensor) -> Tensor:
        """Cross entropy of the id that a ray shows; the background's is also what is left over."""
        at: Distances = seen.distances
        owner = at.owner[seen.samples.first + 1]
        label = torch.where(owner >= 0, self.labels[owner.clamp(min=0)], -2)
        right = label == ids[seen.samples.ray_indices]
        share = accumulate_along_rays(seen.weights * right, None, seen.samples)[:, 0]
        share = torch.where(ids == BACKGROUND, share + 1 - seen.opacity, share)
        loss = -share.clamp(1e-3, 1).log()
        # An object that no sample of its ray belongs to is drawn towards it.
        own = (self.labels[at.instance] == ids[at.ray]).nonzero()[:, 0]
        own = own[at.ray[own].argsort(stable=True)]
        least = segment_reduce(at.pair_sdf[own], ends_of(at.ray[own], len(ids)), "min")
        pull = torch.where(torch.isfinite(least) & (ids > BACKGROUND), (least / self.nets.size).clamp(min=0), 0.0)
        return (loss + 2 * pull)[ids >= 0].sum() / len(ids)

    def _depth_loss(self, seen: RayRender, z: Tensor, ids: Tensor | None) -> Tensor:
        """Free before a measured depth, surface at it, solid just behind it; a hinge on signs, robust as an absolute value."""
        pairs: Distances = seen.distances
        ahead = z[pairs.ray] - seen.intervals.t[pairs.point]  # metres to the surface, along the ray
        half = self.nets.half[pairs.instance]
        f, band = pairs.pair_sdf / half, self.config.depth_band * float(self.nets.half.min())
        known = torch.isfinite(ahead)
        own = known if ids is None else known & (self.labels[pairs.instance] == ids[pairs.ray])
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

    def _eikonal_loss(self, seen: RayRender, generator: torch.Generator) -> Tensor:
        """(|gradient| - 1)^2 near the surfaces and all over the boxes; and the faces of the boxes lie outside."""
        n, m = self.config.n_eikonal, len(self.nets.fields)
        instance = torch.randint(m, (2 * n,), generator=generator)
        lo, hi = self.nets.lo / self.nets.half[:, None], self.nets.hi / self.nets.half[:, None]
        x = torch.lerp(lo[instance], hi[instance], torch.rand(2 * n, 3, generator=generator))
        near = seen.crossings
        if len(near.owner):
            pick = torch.randint(len(near.owner), (n,), generator=generator)
            instance[:n] = near.owner[pick]
            noise = 0.02 * torch.randn(n, 3, generator=generator)
            x[:n] = self.nets.in_object(near.p_world[pick], near.owner[pick]).detach() + noise
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
        f = self.nets.distance((x[:, None] + step * _TETRAHEDRON).reshape(-1, 3), 4 * ends_of(instance, m)).view(-1, 4)
        gradient = f @ _TETRAHEDRON / (4 * step)
        error = ((gradient.square().sum(-1) + 1e-8).sqrt() - 1).square()
        return error[~face].mean() + 10 * (_MARGIN - f.mean(1)[face]).clamp(min=0).mean()

    def _close(self) -> None:
        """Solids that reach a face of their box are ended there: ``max(f, margin - distance to the faces)`` is learned instead,
        from the field itself, at rising rates until it holds. What is lacking then, a tenth at most, it is moved outwards."""
        theta = self.nets.theta.detach()
        for i in range(len(self.nets.fields)):
            lo, hi = self.nets.lo[i] / self.nets.half[i], self.nets.hi[i] / self.nets.half[i]
            x = torch.cat([self.nets.spread(i, 1 << 16, torch.Generator().manual_seed(0)), face_points(lo, hi)])
            edge = torch.minimum(x - lo, hi - x).amin(1)
            for rate in (*_CLOSING_RATES, 0.0):
                with torch.no_grad():
                    f = self.nets.distance(x, torch.tensor([0, len(x)]), theta[i : i + 1])
                lacking = 0.2 * _MARGIN - float(f[edge < 1e-6].min())
                if lacking < 0:
                    break
                if rate:
                    theta[i] = self._regressed(theta[i], x, torch.maximum(f, _MARGIN - edge), rate)
                elif lacking < _MOST_LACKING:
                    theta[i, -1] += lacking  # the bias of the distance
        self.nets.theta = theta

    def _regressed(self, theta: Tensor, x: Tensor, target: Tensor, rate: float) -> Tensor:
        """A distance network that has learned given distances, from the one it starts from."""
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        x, target = x[order][None], target[order][None, :, None]
        row = theta[None].clone().requires_grad_()

        def loss_fn(step: int, generator: torch.Generator) -> Tensor:
            k = int(torch.randint(x.shape[1] - 4096, (), generator=generator))
            cut = slice(k, k + 4096)
            return self.nets.distance_error(row, x[:, cut], target[:, cut], 0.1)

        with _one_torch_thread():
            fit([row], loss_fn, TrainConfig(steps=200, learning_rate=rate, progress=False))
        return row.detach()[0]

    def _polish(self) -> None:
        """Colours once more, with shapes as they are: at the first hit of each pixel's ray, a single place and not a dozen. Now
        also how they change with the direction of view; while shapes learned, that would have explained what shapes should.

        Left out: pixels that something else should be at (by id, or by depth), and those that are half transparent.
        """
        c, px = self.config, self.pixels
        self.nets.write_back()
        poses = [SE3.from_translation(trans.double()) for trans in self.nets.trans]
        scene = Composite(
            [Instance(str(i), f, pose) for i, (f, pose) in enumerate(zip(self.nets.fields, poses, strict=True))]
        )
        x, own, rows, way = [], [], [], []
        band = 2 * c.depth_band * float(self.nets.half.min())
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
            x.append(self.nets.in_object(o[at] + hits.t[at, None] * d[at], hits.owner[at]))
            own.append(hits.owner[at])
            rows.append(part[at])
            way.append(d[at])
        x_all, own_all, rows_all, way_all = torch.cat(x), torch.cat(own), torch.cat(rows), torch.cat(way)
        steps = round(c.polish * c.steps)
        if len(x_all) == 0 or steps == 0:
            return
        want = px.rgb[rows_all]
        self.nets.color = self.nets.color.detach().requires_grad_()

        def loss_fn(step: int, generator: torch.Generator) -> Tensor:
            k = torch.randint(len(x_all), (_POLISH_POINTS,), generator=generator)
            k = k[own_all[k].argsort(stable=True)]
            rgb, tint = self.nets.look(x_all[k], ends_of(own_all[k], len(self.nets.fields)))
            seen = rgb + (tint @ way_all[k, :, None])[..., 0]  # objects aren't turned
            return (seen - want[k].float() / 255).square().mean() + c.tint * tint.square().mean()

        train = TrainConfig(steps=steps, learning_rate=c.polish_rate, final_rate=0.01, label="colours")
        with _one_torch_thread():
            fit([self.nets.color], loss_fn, dataclasses.replace(train, progress=self.progress))
        self.nets.color = self.nets.color.detach()

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
        self.nets.write_back()
        for i, field in enumerate(self.nets.fields):
            if step is None:
                finish(field, self.nets.spread(i, 8192, torch.Generator().manual_seed(0)) * field.half_extent)
            label = int(self.labels[i])
            n_parts = int((self.labels == label).sum())
            name = f"object_{label}" if label != BACKGROUND else "object" if self.pixels.ids is None else "background"
            if n_parts > 1:
                name = f"background_{i}"
            pose = SE3.from_translation(self.nets.trans[i].double())
            instances.append(Instance(name, field, pose, lit=False))
        _observe(instances, self.cameras(), [view.valid for view in self.views])
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
            seen = self.nets.render(route(o, d, self.nets.transforms), sharpness, jitter)
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
def _observe(instances: Sequence[Instance], cameras: Sequence[Camera], valid: Sequence[Bool[Tensor, "h w"]]) -> None:
    """Fills the fields' grids of what was seen: 1 - 0.5^n in a cell whose surface ``n`` pictures show at pixels that are valid."""
    composite = Composite(instances)
    count = [torch.zeros(OBSERVED_CELLS**3) for _ in instances]
    for camera, whole in zip(cameras, valid, strict=True):
        shrink = min(1.0, math.sqrt(_OBSERVED_PIXELS / (camera.width * camera.height)))
        width, height = math.ceil(camera.width * shrink), math.ceil(camera.height * shrink)
        rays = camera.resized(width, height).rays()
        shown = nn.functional.interpolate(whole[None, None].float(), (height, width), mode="nearest-exact") > 0
        hits = composite.trace(rays)
        for i, instance in enumerate(instances):
            rows = ((hits.owner == i) & shown.reshape(-1)).nonzero()[:, 0]
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
