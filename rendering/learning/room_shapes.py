"""Distances of the parts of a place: learned from its samples, ended in their boxes, and freed of what no depth supports."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage

from objects.aabb import Aabb
from objects.files import FieldFileError, load_field, save_field
from objects.learned import face_points
from objects.mesh_samples import Pool, with_hard
from objects.shaping import descend
from objects.siren import SirenField, pack, unpack
from objects.training import CheckpointError, OnStep, TrainConfig
from rendering.learning.config import RoomConfig
from rendering.learning.measured import Measured
from rendering.learning.work import Work

MARGIN = 0.06  # by which a field is outside on the faces of its box, of half of its longest edge
_GROUP = 16  # networks that train together
_ROUNDS, _STEPS, _RATE = 6, 0.25, 0.3  # of mending; share of the steps of each, and of the rate
_LATTICE = 48  # places along the longest edge of a box, among which solids without support are looked for
_CLEAR = 0.3  # distance to be learned at such a solid, at least, in steps of that lattice


def learn_shapes(
    fields: Sequence[SirenField],
    pools: Sequence[Pool],
    config: RoomConfig,
    seed: int,
    checkpoints: Path | None,
    work: Work,
    on_step: OnStep | None,
) -> None:
    """Trains the distances of all parts, in place; those that are among the checkpoints are taken from there. ``work`` is told of
    "shapes"."""
    train = TrainConfig(config.steps, config.learning_rate, seed=seed, progress=False)
    for a in range(0, len(fields), _GROUP):
        some = fields[a : a + _GROUP]
        if checkpoints is not None:
            train = dataclasses.replace(train, checkpoint=checkpoints / f"group_{a}.safetensors")
        if _recalled(some, checkpoints, a):
            work.advance("shapes", len(some) / len(fields))
            continue

        def after(step: int, loss: float, n: int = len(some)) -> None:
            work.advance("shapes", n / (len(fields) * config.steps))
            if on_step is not None:
                on_step(step, loss)

        descend(some, pools[a : a + _GROUP], config, train, after)
        if checkpoints is not None:
            for i, field in enumerate(some, a):
                save_field(field, checkpoints / f"{i}.safetensors")


def _recalled(fields: Sequence[SirenField], checkpoints: Path | None, first: int) -> bool:
    """Whether all these fields, numbered from ``first`` on, have learned their distances in an earlier run: then they have them."""
    files = [] if checkpoints is None else [checkpoints / f"{i}.safetensors" for i in range(first, first + len(fields))]
    if not files or not all(file.is_file() for file in files):
        return False
    try:
        found = [load_field(file) for file in files]
    except FieldFileError as error:
        raise CheckpointError(f"{error}; delete it") from error
    for field, old in zip(fields, found, strict=True):
        if not isinstance(old, SirenField) or old.config() != field.config():
            raise CheckpointError(f"{checkpoints}: expected parts of the same run; delete it")
        unpack(pack([old.distance])[0], field.distance)
    return True


def mend(
    fields: Sequence[SirenField],
    pools: Sequence[Pool],
    boxes: Sequence[Aabb],
    measured: Measured,
    config: RoomConfig,
    seed: int,
    work: Work,
) -> int:
    """Ends fields before the faces of their boxes, and removes solids that no measured point supports; how many there were."""
    steps, removed, todo = max(round(_STEPS * config.steps), 1), 0, list(range(len(fields)))
    for k in work.over("mending", range(_ROUNDS)):
        flawed, hard = [], []
        for i in todo:
            rng = np.random.default_rng((seed, i, k, 2))
            stray, n = _unsupported(fields[i], boxes[i], measured, rng)
            removed += n if k == 0 else 0
            p, distance = (np.concatenate(part) for part in zip(stray, _open_faces(fields[i]), strict=True))
            if len(p):
                pick = rng.integers(len(p), size=len(pools[i].x) // 4)
                flawed.append(i)
                hard.append(with_hard(pools[i], fields[i], p[pick], distance[pick], config.falloff, rng))
        train = TrainConfig(steps, _RATE * config.learning_rate, seed=seed + k + 1, progress=False)
        for a in range(0, len(flawed), _GROUP):
            descend([fields[i] for i in flawed[a : a + _GROUP]], hard[a : a + _GROUP], config, train)
        todo = flawed
    return removed


def end_in_box(field: SirenField) -> None:
    """Moves a field outwards where it isn't outside on the faces of its box."""
    lowest = float(field.inside_sdf(face_points(field.box_lo, field.box_hi), None).min())
    if lowest <= 0:
        field.distance.last.bias.add_(1e-3 - lowest / float(field.half_extent))


_Samples = tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]  # places (object frame) and distances


def _open_faces(field: SirenField) -> _Samples:
    """Places on the faces of a field's box where it is hardly outside or not, if it isn't outside somewhere."""
    p = face_points(field.box_lo, field.box_hi, 65)
    f, wanted = field.inside_sdf(p, None), MARGIN * float(field.half_extent)
    p = p[f < 0.5 * wanted] if bool((f <= 0).any()) else p[:0]
    return p.double().numpy(), np.full(len(p), wanted)


def _unsupported(field: SirenField, box: Aabb, measured: Measured, rng: np.random.Generator) -> tuple[_Samples, int]:
    """Places within connected solids of a field that hold no measured point, and how many such solids there are."""
    axes = field.bounds.axes(_LATTICE, middles=True)
    step = np.array([float(axis[1] - axis[0]) for axis in axes])
    p = torch.cartesian_prod(*axes)
    solid = (field.inside_sdf(p, None) < 0).view([len(axis) for axis in axes]).numpy()
    label = np.zeros(solid.shape, np.int32)
    ndimage.label(solid, np.ones((3, 3, 3)), label)
    at = np.floor((measured.points - box.lo.numpy()) / step).astype(np.int64)
    at = at[((at >= 0) & (at < solid.shape)).all(1)]
    touched = np.zeros(solid.shape, bool)
    touched[tuple(at.T)] = True
    near = np.asarray(ndimage.binary_dilation(touched, np.ones((3, 3, 3))), bool)
    supported = np.unique(label[near])
    stray = np.setdiff1d(np.arange(1, label.max() + 1), supported)
    cells = p.view(*solid.shape, 3).double().numpy()[np.isin(label, stray)]
    if len(cells) == 0:
        return (cells, np.zeros(0)), 0
    places = np.repeat(cells, 8, 0)
    places = places + rng.normal(0, 0.5, places.shape) * step
    places = places.clip(field.box_lo.double().numpy(), field.box_hi.double().numpy())
    distance = measured.signed_distance(places + box.center.numpy())
    return (places, np.where(distance > 0, np.maximum(distance, _CLEAR * step.min()), distance)), len(stray)
