"""A place whose pictures hold depth, measured or found (`stereo`): as many small networks as its surfaces need, taught by it.

Space is cut where the surfaces are: each part holds an equal share of the points on them, and is a field of its own in a box that
reaches over its neighbours'. Near its faces a field ends, there the neighbour speaks; the index asks few of them at any place.
Many small networks in place of a large one: Reiser et al., "KiloNeRF" (ICCV 2021).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from compose.cells import keep_cells
from compose.composite import Composite
from compose.types import Instance
from objects.aabb import Aabb
from objects.files import FieldFileError, load_field, save_field
from objects.learned import face_points, finish, in_box
from objects.mesh_samples import Pool, with_hard
from objects.pose import SE3
from objects.progress import Bar
from objects.shaping import descend
from objects.siren import SirenField, pack, unpack
from objects.training import CheckpointError, OnStep, TrainConfig
from rendering.learning.backdrop import BACKDROP, backdrop_box, backdrop_pool, is_closed, needs_backdrop
from rendering.learning.config import LearnedViews, RoomConfig
from rendering.learning.exposure import Exposures, exposures
from rendering.learning.hulls import measured_ahead
from rendering.learning.looks import learn_looks, psnr_of
from rendering.learning.measured import Measured
from rendering.learning.state import observe
from rendering.views import Views

_MARGIN = 0.06  # by which a field is outside on the faces of its box, of half of its longest edge
_OVER = 0.06  # of a box beyond the points that are its own, as a share of their extent
_LONGEST = 60.0  # thicknesses of a wall along the edge of a part, at most
_GROUP = 16  # networks that train together
_ROUNDS, _STEPS, _RATE = 6, 0.25, 0.3  # of mending; share of the steps of each, and of the rate
_LATTICE = 48  # places along the longest edge of a box, among which solids without support are looked for
_CLEAR = 0.3  # distance to be learned at such a solid, at least, in steps of that lattice
_HELD = 1024  # samples on the surface of which errors are taken
_PLACE = 3  # spacings between points, in which what pictures show is one place
_EXPOSED, _DOUBTED = 0.03, 0.5  # standard deviation of exposure (natural logarithm), weight of a picture: told
_SHARP = 2.0  # logistic widths in the thickness of a wall, where a place is rendered as a volume


def is_room(views: Views) -> bool:
    """Whether pictures show a place from within, and measure it: opaque, without ids, half of them or more with depth, and taken
    within the box of what they show."""
    if any(view.alpha is not None or view.ids is not None for view in views):
        return False
    if sum(view.depth is not None for view in views) < 0.5 * len(views):
        return False
    box = views.scene_box()
    return sum(bool(box.contains(camera.position_world)) for camera in views.cameras) >= 0.5 * len(views)


def learn_room(
    views: Views,
    config: RoomConfig,
    *,
    noise: float = 0.0,
    seed: int = 0,
    checkpoints: Path | None = None,
    progress: bool = True,
    on_step: OnStep | None = None,
) -> LearnedViews:
    """Learns a place: surfaces from its depths, then colours from its pixels.

    Args:
        views: Pictures for which `is_room`, or photos with depths that `stereo.place_of_photos` found.
        config: How.
        noise: Share of a depth by which it is usually off, where it wasn't measured.
        seed: Of initial weights and samples.
        checkpoints: A folder for the parts whose shapes have learned, from which a killed run goes on; removed by the caller.
        progress: Show bars.
        on_step: Called with step and loss after each step in which shapes learn, one group of parts after another.

    Raises:
        FitError: Learning failed.
        CheckpointError: A checkpoint that is damaged or of another run.
    """
    measured = Measured.of(views.cameras, [measured_ahead(view) for view in views], noise)
    light = exposures(views, _PLACE * measured.spacing)
    boxes = parts_of(measured, config.points)
    bar = Bar(boxes, desc="samples", unit="part", disable=not progress)
    pools = [pool_of(measured, box, config, np.random.default_rng((seed, i))) for i, box in enumerate(bar)]
    all_boxes, behind = list(boxes), needs_backdrop(views)
    if behind:
        all_boxes.append(backdrop_box(measured))
        pools.append(backdrop_pool(measured, all_boxes[-1], config, np.random.default_rng((seed, len(boxes)))))
    made = [
        SirenField(Aabb(-0.5 * b.size, 0.5 * b.size), config, observed=True, seed=seed + i)
        for i, b in enumerate(all_boxes)
    ]
    fields = [field.requires_grad_(False) for field in made]
    _learn_shapes(fields, pools, config, seed, checkpoints, progress, on_step)
    removed = _mend(fields[: len(boxes)], pools, boxes, measured, config, seed)
    for field, pool in zip(fields, pools, strict=True):
        _end_in_box(field)
        finish(field, pool.x[:8192] * field.half_extent)
    closed = behind and is_closed(fields[-1], pools[-1])
    if behind and not closed:
        del fields[-1], all_boxes[-1]
    names = [*(f"background_{i}" for i in range(len(boxes))), BACKDROP]
    instances = [
        Instance(name, field, SE3.from_translation(box.center), lit=False)
        for name, field, box in zip(names, fields, all_boxes, strict=False)
    ]
    scene = Composite(instances)
    light = learn_looks(scene, all_boxes, views, light, measured, config, seed=seed, progress=progress)
    observe([scene] * len(views), views.cameras, [view.valid for view in views])
    for field in fields:
        keep_cells(field)
    scene = Composite(instances)
    mean = np.mean(
        [view.rgb.mean((0, 1)).double().numpy() / gain for view, gain in zip(views, light.gain, strict=True)], 0
    )
    r, g, b = mean.clip(0, 1).tolist()
    return LearnedViews(
        tuple(instances),
        (r, g, b),
        _SHARP * 2 / measured.wall,
        tuple(views.cameras),
        psnr_of(scene, views, light, mean),
        tuple((r, g, b) for r, g, b in light.gain.tolist()),
        tuple(_notes(views, light, measured, len(boxes), removed, behind, closed)),
    )


def parts_of(measured: Measured, points: int) -> list[Aabb]:
    """Boxes (world frame, metres) that hold all surfaces: halved across the longest edge until none has more than so many points
    of its own, nor an edge beside which walls are too thin to be learned; each reaches over the next."""
    todo, boxes = [np.arange(len(measured.points))], []
    while todo:
        some = todo.pop()
        p = measured.points[some]
        lo, hi = p.min(0), p.max(0)
        if len(some) > points or (hi - lo).max() > _LONGEST * measured.wall:
            order = some[np.argsort(p[:, int(np.argmax(hi - lo))], kind="stable")]
            todo += np.array_split(order, 2)[::-1]
            continue
        pad = 1.5 * measured.wall + _OVER * float((hi - lo).max())
        boxes.append(Aabb(torch.from_numpy(lo - pad), torch.from_numpy(hi + pad)))
    return boxes


def pool_of(measured: Measured, box: Aabb, config: RoomConfig, rng: np.random.Generator) -> Pool:
    """Samples of a part, in the coordinates of its networks: on surfaces, about them, and all over its box."""
    lo, hi, center = box.lo.numpy(), box.hi.numpy(), box.center.numpy()
    half = 0.5 * float(box.size.max())
    margin = _MARGIN * half
    within = np.flatnonzero(((measured.points > lo + 1.1 * margin) & (measured.points < hi - 1.1 * margin)).all(1))
    times = -(-config.surface_pool // len(within))
    on = np.concatenate([rng.permutation(within) for _ in range(times)])[: config.surface_pool]
    n = config.pool // 2
    near = measured.points[rng.choice(within, n)] + rng.normal(0, 0.5 * measured.wall, (n, 3))
    p = np.clip(np.concatenate([near, in_box(lo, hi, config.pool - n, rng)]), lo, hi)
    p = p[rng.permutation(len(p))]
    edge = np.minimum(p - lo, hi - p).min(1)
    distance = np.maximum(measured.signed_distance(p), margin - edge) / half
    weight = config.falloff / (config.falloff + np.abs(distance))
    x, normal = (measured.points[on] - center) / half, measured.normals[on]
    x_off, held = _tensor((p - center) / half), slice(0, _HELD)
    x, normal = _tensor(x), _tensor(normal)
    return Pool(x, normal, x_off, _tensor(distance[:, None]), _tensor(weight), x[held], normal[held], 2 * half)


# -- shapes ------------------------------------------------------------------------------------------------------------


def _learn_shapes(
    fields: Sequence[SirenField],
    pools: Sequence[Pool],
    config: RoomConfig,
    seed: int,
    checkpoints: Path | None,
    progress: bool,
    on_step: OnStep | None,
) -> None:
    """Trains the distances of all parts, in place; those that are among the checkpoints are taken from there."""
    train = TrainConfig(config.steps, config.learning_rate, seed=seed, progress=False)
    with Bar(total=len(fields) * config.steps, desc="shapes", unit="step", disable=not progress) as bar:
        for a in range(0, len(fields), _GROUP):
            some = fields[a : a + _GROUP]
            if checkpoints is not None:
                train = dataclasses.replace(train, checkpoint=checkpoints / f"group_{a}.safetensors")
            if _recalled(some, checkpoints, a):
                bar.update(len(some) * config.steps)
                continue

            def after(step: int, loss: float, n: int = len(some)) -> None:
                bar.update(n)
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


def _mend(
    fields: Sequence[SirenField],
    pools: Sequence[Pool],
    boxes: Sequence[Aabb],
    measured: Measured,
    config: RoomConfig,
    seed: int,
) -> int:
    """Ends fields before the faces of their boxes, and removes solids that no measured point supports; how many there were."""
    steps, removed, todo = max(round(_STEPS * config.steps), 1), 0, list(range(len(fields)))
    for k in range(_ROUNDS):
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


def _end_in_box(field: SirenField) -> None:
    """Moves a field outwards where it isn't outside on the faces of its box."""
    lowest = float(field.inside_sdf(face_points(field.box_lo, field.box_hi), None).min())
    if lowest <= 0:
        field.distance.last.bias.add_(1e-3 - lowest / float(field.half_extent))


_Samples = tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]  # places (object frame) and distances


def _open_faces(field: SirenField) -> _Samples:
    """Places on the faces of a field's box where it is hardly outside or not, if it isn't outside somewhere."""
    p = face_points(field.box_lo, field.box_hi, 65)
    f, wanted = field.inside_sdf(p, None), _MARGIN * float(field.half_extent)
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


def _notes(
    views: Views, light: Exposures, measured: Measured, n: int, removed: int, behind: bool, closed: bool
) -> list[str]:
    notes = [f"the place is {n} parts, from measured depth"]
    if measured.noise:
        share = sum(int(x.isfinite().sum()) for x in measured.ahead) / sum(x.numel() for x in measured.ahead)
        notes = [f"the place is {n} parts, from depths found by matching the photos, at {share:.0%} of their pixels"]
    if closed:
        notes.append(
            "what has no depth is painted on a closed backdrop about the place: hide it to look in from outside"
        )
    elif behind:
        notes.append("the backdrop, for what has no depth, was not learned: it needs more steps")
    if removed:
        notes.append(f"{removed} solids that no measurement supports were removed")
    if np.log(light.gain).std(0).max() > _EXPOSED:
        least, most = light.gain.mean(1).min(), light.gain.mean(1).max()
        notes.append(
            f"exposure differs between the pictures and was taken out in part ({least:.2f} to {most:.2f} times the mean)"
        )
    doubted = [view.name for view, weight in zip(views, light.weight, strict=True) if weight < _DOUBTED]
    if doubted:
        more = f" and {len(doubted) - 3} more" if len(doubted) > 3 else ""
        notes.append(f"blurred or wrongly placed, count less: {', '.join(doubted[:3])}{more}")
    return notes


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
