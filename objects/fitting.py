"""Objects from meshes: many at once, one batched call for each training step, cached by content.

Each network learns by itself: it sees its own samples, in an order that depends on the seed alone, and the kernel and the
optimiser treat networks apart. So a mesh gets the same bits whether it is learned alone or among others, in any order.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from objects.aabb import Aabb
from objects.cache import cache_folder, content_key
from objects.coloring import Colors, divide, draw_colors, learn_colors
from objects.files import FieldFileError, field_hash, load_field, save_field
from objects.jobs import Job, Runner, run_jobs
from objects.learned import check_sides, face_points, finish
from objects.mending import hard_samples
from objects.mesh import MeshSource, read_mesh
from objects.mesh_files import Meshlike
from objects.mesh_samples import FitConfig, Pool, draw_pool, with_hard
from objects.meshing import grid_cell, sample_grid
from objects.shaping import descend, errors_of, learn_distances
from objects.siren import SirenField, pack, unpack
from objects.training import CheckpointError, FitError, OnStep, TrainConfig

_VERSION = 11  # part of every cache key: raise it when the same input would give other weights
_GROUP = 16  # networks that train together; more would only cost memory
_CLEAR = 0.03  # beyond this distance (half edges of the box) a sample's side must be learned
_MARGIN = 2e-3  # what a draft is moved beyond 0 on the faces of its box, in half edges of it


def fit_mesh(
    mesh: Meshlike,
    *,
    seed: int = 0,
    init: SirenField | None = None,
    config: FitConfig | None = None,
    progress: bool = True,
    on_step: OnStep | None = None,
) -> SirenField:
    """Learns an object from a mesh, or takes it from the cache.

    Args:
        mesh: A mesh file (see `objects.mesh_files`), or a `trimesh.Trimesh` or `trimesh.Scene`; vertex colours, face colours,
            textures; also with holes or of several bodies (inside is where the generalised winding number is >= 1/2).
        seed: Seed of initial weights and samples; same seed, same bits.
        init: A field of the same make-up to start from; takes fewer steps.
        config: How to learn.
        progress: Whether to show a bar (on a terminal, once it lasts 2 s).
        on_step: Called with step and loss after each step in which distances are learned.

    Returns:
        A field in the frame and units of the mesh, with parameters that don't require gradients.

    Raises:
        MeshError: A file that is missing, empty or unreadable, or a mesh that encloses no volume (a ``ValueError``).
        ValueError: ``init`` of another make-up.
        FitError: Learning failed. With fewer steps than the default it is a draft, which is warned of and not cached, as long as
            it has an inside.
    """
    return fit_meshes(
        [mesh], seed=seed, init=None if init is None else [init], config=config, progress=progress, on_step=on_step
    )[0]


def fit_meshes(
    meshes: Sequence[Meshlike],
    *,
    seed: int = 0,
    init: Sequence[SirenField | None] | None = None,
    config: FitConfig | None = None,
    progress: bool = True,
    on_step: OnStep | None = None,
    runner: Runner | None = None,
) -> list[SirenField]:
    """Learns many meshes together: one batched call per training step, for up to 16 networks at a time.

    Each result equals that of `fit_mesh` bit for bit, and the order of ``meshes`` changes nothing. Meshes of equal content
    are learned once. A killed run goes on where it was when called again with the same arguments. Arguments and errors
    are those of `fit_mesh`, with one mesh (and one ``init`` or None) each; ``runner`` says where it is done, in this process by
    default (``on_step`` is for that alone).
    """
    config = FitConfig() if config is None else config
    if isinstance(meshes, str) or not isinstance(meshes, Sequence):
        raise ValueError(f"fit_meshes: meshes must be a list of meshes, got {type(meshes).__name__}")
    starts = [None] * len(meshes) if init is None else list(init)
    if len(starts) != len(meshes):
        raise ValueError(
            f"fit_meshes: init must have one entry for each of the {len(meshes)} meshes, got {len(starts)}"
        )
    for start in starts:
        _check_init(start, config)
    jobs = []
    for i, (mesh, start) in enumerate(zip(meshes, starts, strict=True)):
        argument = "mesh" if len(meshes) == 1 else f"meshes[{i}]"
        source = read_mesh(mesh, argument, facing=config.facing, thickness=config.thickness, origin=config.origin)
        options = (None if start is None else field_hash(start),)
        jobs.append(Job(("mesh", _VERSION), (source, start), source.content_hash(), config, seed, options))
    work = partial(_learn_jobs, progress=progress and runner is None, on_step=on_step)
    bar: dict[str, Any] = {"label": "meshes", "progress": progress and runner is not None}
    learned: dict[str, _Learned] = {}
    for warm in (False, True):  # those of a group make equally many steps
        some = [job for job in jobs if (job.inputs[1] is not None) == warm]
        learned |= run_jobs(some, work, recall=_recalled, runner=runner, group=_GROUP, **bar)
    for i, job in enumerate(jobs):  # what was learned is kept in the cache, and the first failure is told
        argument = "mesh" if len(meshes) == 1 else f"meshes[{i}]"
        name = meshes[i] if isinstance(meshes[i], str | os.PathLike) else argument
        _, error, draft = learned[job.key]
        if error is not None and not draft:
            raise FitError(f"{name}: {error}")
        if error is not None:
            warnings.warn(f"{name}: {error}", stacklevel=2)
    seen: set[str] = set()
    result = []
    for job in jobs:
        field = learned[job.key].field
        result.append(copy.deepcopy(field) if job.key in seen else field)
        seen.add(job.key)
    return result


def _check_init(start: SirenField | None, config: FitConfig) -> None:
    if start is None:
        return
    if not isinstance(start, SirenField):
        raise ValueError(f"init: expected a SirenField, got {type(start).__name__}")
    wanted = SirenField(Aabb(-torch.ones(3), torch.ones(3)), config).config()
    got = {key: value for key, value in start.config().items() if key != "color_parts"}
    if got != wanted:
        raise ValueError(f"init: expected a field with the make-up of config, {wanted}, got {got}")


class _Learned(NamedTuple):
    """A field and what is wrong with it; ``draft`` where it can be used all the same."""

    field: SirenField
    error: str | None = None
    draft: bool = False


def _learn_jobs(jobs: list[Job], progress: bool, on_step: OnStep | None) -> list[_Learned]:
    """Learns up to `_GROUP` meshes side by side, and keeps those that are right."""
    config, warm = jobs[0].config, jobs[0].inputs[1] is not None
    steps, usual = (config.warm_steps, FitConfig.warm_steps) if warm else (config.steps, FitConfig.steps)
    found = []
    learned = _learn([job.inputs for job in jobs], [job.key for job in jobs], jobs[0].seed, config, progress, on_step)
    for job, (field, error) in zip(jobs, learned, strict=True):
        if error is None:
            _keep(field, _file(job))
            found.append(_Learned(field))
        elif steps < usual and _closed(field, job.inputs[0]):
            found.append(_Learned(field, f"a draft, as {steps} steps are few: {error}", draft=True))
        else:
            found.append(_Learned(field, str(error)))
    return found


def _recalled(job: Job) -> _Learned | None:
    if not _file(job).exists():
        return None
    try:
        field = load_field(_file(job))
    except FieldFileError:
        return None  # damaged: learn it again
    return _Learned(field.requires_grad_(False)) if isinstance(field, SirenField) else None


def _file(job: Job) -> Path:
    return cache_folder("fields") / f"{job.key}.safetensors"


def _keep(field: SirenField, path: Path) -> None:
    try:
        save_field(field, path)
    except FieldFileError as error:
        warnings.warn(f"the learned field could not be cached: {error}", stacklevel=7)


# -- learning --------------------------------------------------------------------------------------------------------


def _begin(source: MeshSource, start: SirenField | None, config: FitConfig, seed: int) -> tuple[SirenField, Colors]:
    """A field to begin with, and the colours that it will learn, which say how many networks share them."""
    pad = config.padding * source.extent
    box = Aabb(torch.from_numpy(source.lo - pad), torch.from_numpy(source.hi + pad))
    if start is None:
        colors = draw_colors(source, box.center, 0.5 * box.size.max(), config, seed)
        n_parts = colors.n_parts(config.color_parts)
        field = SirenField(box, config, color_parts=n_parts, seed=seed).requires_grad_(False)
        divide(field, colors)
        return field, colors
    field = copy.deepcopy(start).float().requires_grad_(False)
    field.box_lo.copy_(box.lo)
    field.box_hi.copy_(box.hi)
    return field, draw_colors(source, field.center, field.half_extent, config, seed)


def _learn(
    sources: list[tuple[MeshSource, SirenField | None]],
    keys: list[str],
    seed: int,
    config: FitConfig,
    progress: bool,
    on_step: OnStep | None,
) -> list[tuple[SirenField, FitError | None]]:
    """The learned fields, and what their last check found wrong."""
    begun = [_begin(*source, config, seed) for source in sources]
    fields, colors = [field for field, _ in begun], [colors for _, colors in begun]
    pools = [draw_pool(source, field, config, seed) for (source, _), field in zip(sources, fields, strict=True)]
    files: list[Path] = []

    def checkpoint(some: Sequence[int], stage: str) -> Path:
        files.append(cache_folder("checkpoints") / f"{content_key([*(keys[i] for i in some), stage])}.safetensors")
        return files[-1]

    train = TrainConfig(
        steps=config.steps if sources[0][1] is None else config.warm_steps,
        learning_rate=config.learning_rate,
        seed=seed,
        label="mesh" if len(sources) == 1 else f"{len(sources)} meshes",
        progress=progress,
    )
    try:
        learn_colors(fields, colors, config, replace(train, checkpoint=checkpoint(range(len(keys)), "color")))
        learn_distances(fields, pools, config, train, checkpoint, on_step)
    except CheckpointError:
        for file in files:
            file.unlink(missing_ok=True)
        return _learn(sources, keys, seed, config, progress, on_step)
    errors = [_error_of(f, pool) for f, pool in zip(fields, pools, strict=True)]
    again = replace(
        train,
        steps=max(1, round(config.mend_steps * train.steps)),
        learning_rate=config.mend_rate * config.learning_rate,
    )
    best: dict[int, tuple[int, Tensor]] = {}  # flaws and weights
    for round_ in range(config.mend_rounds + 1):
        flawed: list[int] = []
        for i, field in enumerate(fields):
            if errors[i] is not None or (round_ and i not in best):
                continue
            rng = np.random.default_rng((seed, round_))
            hard = hard_samples(field, sources[i][0], round(config.mend_share * config.pool), rng)
            weights = pack([field.distance])[0]
            if i not in best or (0 if hard is None else hard[0]) < best[i][0]:
                best[i] = (0 if hard is None else hard[0], weights)
            if hard is None:
                continue
            flawed.append(i)
            pools[i] = with_hard(pools[i], fields[i], *hard[1:], config.falloff, rng)
        if not flawed or round_ == config.mend_rounds:
            break
        descend([fields[i] for i in flawed], [pools[i] for i in flawed], config, again)
        for i in flawed:
            errors[i] = _error_of(fields[i], pools[i])
    for i, (_, weights) in best.items():
        if torch.equal(weights, pack([fields[i].distance])[0]):
            continue
        unpack(weights, fields[i].distance)
        errors[i] = _error_of(fields[i], pools[i])
    for field, pool in zip(fields, pools, strict=True):
        field.measured = errors_of(field, pool)
    for file in files:
        file.unlink(missing_ok=True)
    return list(zip(fields, errors, strict=True))


def _error_of(field: SirenField, pool: Pool) -> FitError | None:
    p_obj = pool.x * field.half_extent + field.center
    try:
        finish(field, p_obj[:16384])
        clear = pool.distance[:, 0].abs() > _CLEAR
        check_sides(field, p_obj[clear][:32768], pool.distance[clear, 0][:32768] < 0)
    except FitError as error:
        return error
    return None


def _closed(field: SirenField, source: MeshSource) -> bool:
    """Moves the surface of a field that few steps have left open inwards until its box holds it; whether something is left."""
    p = torch.from_numpy(source.sample(4096, np.random.default_rng(0))[0]).float()
    with torch.no_grad():
        lowest = float(field.sdf(face_points(field.box_lo, field.box_hi, 193)).min())
        if not lowest > 0:
            field.distance.last.bias.add_(_MARGIN - lowest / float(field.half_extent))
    try:
        finish(field, p)
    except FitError:
        return False
    with torch.no_grad():
        return bool((sample_grid(field, grid_cell(field))[0] < 0).any())
