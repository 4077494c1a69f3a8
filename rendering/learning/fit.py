"""Object fields from posed pictures: all objects of a scene in one run, each a SIREN in its own frame.

Places whose pictures hold depth are learned from it directly (`rendering.learning.rooms`); so are opaque photos that match each
other well enough to find it (`rendering.learning.stereo`). All else by volumes:

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
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from compose.composite import Composite
from compose.types import Instance, Rays
from objects.cache import cache_folder
from objects.files import FieldFileError, load_field, save_field, write_atomically
from objects.jobs import Job, run_jobs
from objects.learned import finish
from objects.pose import SE3
from objects.training import CheckpointError, OnStep
from rendering.learning.config import LearnedViews, ViewsConfig
from rendering.learning.first_shapes import boxes_of
from rendering.learning.pixels import Lenses
from rendering.learning.polish import divide_colors, polish_colors
from rendering.learning.posing import align_cameras
from rendering.learning.preview import save_preview
from rendering.learning.rooms import is_room, learn_room
from rendering.learning.stages import (
    LearnStep,
    OnLearnStep,
    carve_first_shapes,
    close_boxes,
    learn_volumes,
)
from rendering.learning.state import CHUNK, State, snapshot, start
from rendering.learning.stereo import NOISE, place_of_photos
from rendering.render import RenderConfig, render
from rendering.sampling import route
from rendering.views import ViewError, Views

_VERSION = 17  # part of every key: raise it when the same pictures would give other weights
_PREVIEW_S = 5.0
_COMPARED, _LOST_DB = 4096, 0.7  # pixels that are rendered and traced in the end; worse by so much is told


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
        preview: A PNG that is written every few seconds (where a place is learned from depth, at the end): a learned picture beside
            the one it should become; and a page of the same name (``.html``) that also shows how the run went.
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
    job = Job(("views", _VERSION), views, _content(views), config, seed, (refine,))
    work = partial(_learn, preview=preview, progress=progress, on_step=on_step)
    return run_jobs([job], work, recall=_recalled)[job.key]


def _learn(
    jobs: list[Job], preview: str | os.PathLike[str] | None, progress: bool, on_step: OnStep | None
) -> list[LearnedViews]:
    """Learns one set of pictures after another, and keeps what was learned."""
    return [_learn_one(job, preview, progress, on_step) for job in jobs]


def _learn_one(
    job: Job, preview: str | os.PathLike[str] | None, progress: bool, on_step: OnStep | None
) -> LearnedViews:
    checkpoint = cache_folder("views") / f"{job.key}.safetensors"
    last, smooth = time.monotonic(), -1.0
    curve: list[float] = []

    def after(now: LearnStep) -> str:
        nonlocal last, smooth
        smooth = now.error if smooth < 0 else smooth + 0.02 * (now.error - smooth)
        curve.append(now.loss if now.state is None else _db(smooth))
        due = time.monotonic() - last > _PREVIEW_S or now.step == job.config.steps - 1
        if preview is not None and now.state is not None and due:
            save_preview(_compared(now.state, now.step), curve, "PSNR of the last rays, dB", preview)
            last = time.monotonic()
        if on_step is not None:
            on_step(now.step, now.loss)
        return f"loss {now.loss:.3g}, {_db(smooth):.1f} dB"

    options: dict[str, Any] = {"seed": job.seed, "refine": job.options[0], "progress": progress, "on_step": after}
    try:
        learned = learn_views(job.inputs, job.config, checkpoint=checkpoint, **options)
    except CheckpointError:  # damaged: from the beginning
        _forget(checkpoint)
        learned = learn_views(job.inputs, job.config, checkpoint=checkpoint, **options)
    if math.isnan(learned.psnr_db):
        learned = learned._replace(psnr_db=_db(smooth))
    elif preview is not None:
        save_preview(_traced(job.inputs, learned), curve, "Loss of shapes, group after group", preview)
    # Until here a killed run goes on from the checkpoint.
    with contextlib.suppress(OSError, FieldFileError):  # a full disk loses nothing but the next run's time
        _kept(learned, cache_folder("views") / job.key)
        _forget(checkpoint)
    return learned


def _parts_folder(checkpoint: Path) -> Path:
    """Beside a checkpoint, for the parts of a place; made if need be."""
    folder = checkpoint.with_suffix(".parts")
    folder.mkdir(exist_ok=True)
    return folder


def _forget(checkpoint: Path) -> None:
    checkpoint.unlink(missing_ok=True)
    shutil.rmtree(checkpoint.with_suffix(".parts"), ignore_errors=True)


def learn_views(
    views: Views,
    config: ViewsConfig,
    *,
    seed: int = 0,
    refine: bool = False,
    checkpoint: Path | None = None,
    progress: bool = True,
    on_step: OnLearnStep | None = None,
) -> LearnedViews:
    """The stages of `fit_views` one after another, without its cache.

    Args:
        checkpoint: A file from which a killed run goes on, or beside it a folder ``.parts``; removed by the caller.
        on_step: Called after each step of the volumes with the state, of which `snapshot` makes what is learned so far; where
            a place is learned from depth, after each step in which shapes learn, without a state.

    Raises:
        ViewError: Pictures from which nothing can be learned.
        FitError: Learning failed.
        CheckpointError: A checkpoint that is damaged or of another run.
    """
    views = align_cameras(views, seed=seed, progress=progress) if refine else views
    photos = place_of_photos(views, progress)
    if photos is not None or is_room(views):

        def after(step: int, loss: float) -> str | None:
            return None if on_step is None else on_step(LearnStep(step, loss, math.nan, None))

        folder = None if checkpoint is None else _parts_folder(checkpoint)
        options: dict[str, Any] = {"seed": seed, "checkpoints": folder, "progress": progress, "on_step": after}
        if photos is not None:
            return learn_room(photos, config.room, noise=NOISE, **options)
        return learn_room(views, config.room, **options)
    state = start(views, *boxes_of(views), config, seed=seed)
    state = carve_first_shapes(state, progress)
    if not state.opaque:  # else colours that learn quickly make solids of what is behind, where no picture contradicts
        state = divide_colors(state)
    state = learn_volumes(state, seed=seed, refine=refine, checkpoint=checkpoint, progress=progress, on_step=on_step)
    return finish_views(state, progress)


def finish_views(state: State, progress: bool = True) -> LearnedViews:
    """Boxes closed, colours polished, fields checked: what is learned at the end.

    Raises:
        FitError: A distance that isn't finite, or not positive on the faces of a box.
    """
    volume, state = state, close_boxes(state)
    state = polish_colors(state if state.nets.divided else divide_colors(state), progress)
    state.nets.write_back()
    for i, field in enumerate(state.nets.fields):
        finish(field, state.nets.spread(i, 8192, torch.Generator().manual_seed(0)) * field.half_extent)
    worse = lost_by_tracing(volume, state)
    notes = (f"traced, pictures are {worse:.1f} dB worse than as volumes",) if worse > _LOST_DB else ()
    return snapshot(state, state.config.steps)._replace(notes=notes)


@torch.no_grad()
def lost_by_tracing(volume: State, traced: State) -> float:
    """By how many decibels some pixels are worse as the second state is traced than as the first is rendered as a volume."""
    c, px = volume.config, volume.pixels
    k = torch.randperm(len(px), generator=torch.Generator().manual_seed(0))[:_COMPARED].sort().values
    behind = volume.background.sigmoid() if volume.opaque else torch.ones(3)
    want = px.rgb[k].float() / 255
    if px.alpha is not None:
        want = torch.lerp(behind.expand_as(want), want, px.alpha[k, None].float() / 255)
    half = torch.full((len(k), c.n_uniform + c.n_fine), 0.5)
    seen = volume.nets.render(volume.rays(k)[0], volume.sharpness(c.steps), half)
    o, d, _ = traced.lenses.rays(px.view[k], px.pixel[k])
    o, d, frame = o.double(), nn.functional.normalize(d.double(), dim=-1), traced.frames[px.view[k]]
    shown = behind.repeat(len(k), 1)
    for f, scene in enumerate(traced.scenes()):
        rows = (frame == f).nonzero()[:, 0]
        hits = scene.trace(Rays(o[rows], d[rows]))
        at, hit = rows[hits.owner >= 0], hits.owner >= 0
        shown[at] = scene.evaluate(
            o[at] + hits.t[hit, None] * d[at], hits.owner[hit], d[at], geometry=False
        ).rgb.float()
    as_volume, as_traced = (
        _db(float((rgb - want).square().mean())) for rgb in (seen.rgb + (1 - seen.opacity[:, None]) * behind, shown)
    )
    return as_volume - as_traced


def _traced(views: Views, learned: LearnedViews) -> Float[Tensor, "h w2 3"]:
    """A picture as it is traced, beside what it should be."""
    number = len(views) // 2
    view, config = views[number], RenderConfig(background=learned.background, antialias=1)
    frame = render(Composite(learned.instances), view.camera, config=config, progress=False)
    exposed = frame.rgb * torch.tensor(learned.exposure[number]) if learned.exposure else frame.rgb
    return torch.cat([exposed.clamp(0, 1), view.composited(learned.background)], 1)


@torch.no_grad()
def _compared(state: State, step: int) -> Float[Tensor, "h w2 3"]:
    """A learned picture (of about 20,000 pixels) by volume rendering, beside what it should become."""
    number = len(state.views) // 2
    view, c = state.views[number], state.config
    shrink = min(1.0, math.sqrt(20_000 / (view.camera.width * view.camera.height)))
    h, w = (max(1, round(n * shrink)) for n in (view.camera.height, view.camera.width))
    behind = state.background.sigmoid() if state.opaque else torch.ones(3)
    lenses, learned = Lenses([view.camera.resized(w, h)]), []
    for pixel in torch.arange(w * h).split(CHUNK):
        o, d, _ = lenses.rays(torch.zeros_like(pixel), pixel)
        rays = route(o, d, state.nets.transforms, state.frames[number].expand(len(pixel)))
        seen = state.nets.render(rays, state.sharpness(step), torch.full((len(pixel), c.n_uniform + c.n_fine), 0.5))
        learned.append(seen.rgb + (1 - seen.opacity[:, None]) * behind)
    wanted = nn.functional.interpolate(view.composited(behind).movedim(-1, 0)[None], (h, w), mode="area")
    return torch.cat([torch.cat(learned).view(h, w, 3), wanted[0].movedim(0, -1)], 1).clamp(0, 1)


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
    facts |= {"exposure": learned.exposure, "notes": learned.notes}
    write_atomically(folder / "learned.json", json.dumps(facts).encode())


def _recalled(job: Job) -> LearnedViews | None:
    """What `_kept` wrote; None where there is nothing whole."""
    folder, views = cache_folder("views") / job.key, job.inputs
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
        exposure, notes = tuple(map(tuple, facts["exposure"])), tuple(facts["notes"])
        return LearnedViews(instances, (r, g, b), facts["sharpness"], cameras, facts["psnr_db"], exposure, notes)
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
