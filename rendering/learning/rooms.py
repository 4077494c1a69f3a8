"""A place whose pictures hold depth, measured or found (`stereo`): as many small networks as its surfaces need, taught by it.

Space is cut where the surfaces are: each part holds an equal share of the points on them, and is a field of its own in a box that
reaches over its neighbours'. Near its faces a field ends, there the neighbour speaks; the index asks few of them at any place.
Many small networks in place of a large one: Reiser et al., "KiloNeRF" (ICCV 2021).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compose.cells import cells_of, keep_cells
from compose.composite import Composite
from compose.types import Instance
from objects.aabb import Aabb
from objects.learned import finish, in_box
from objects.mesh_samples import Pool
from objects.pose import SE3
from objects.siren import SirenField
from objects.training import OnStep
from rendering.learning.backdrop import BACKDROP, backdrop_box, backdrop_pool, is_closed, needs_backdrop
from rendering.learning.config import LearnedViews, RoomConfig
from rendering.learning.exposure import Exposures, exposures
from rendering.learning.hulls import measured_ahead
from rendering.learning.looks import learn_looks, psnr_of
from rendering.learning.measured import Measured
from rendering.learning.room_shapes import MARGIN, end_in_box, learn_shapes, mend
from rendering.learning.sharpness import sharpness
from rendering.learning.state import observe
from rendering.learning.work import Work
from rendering.views import Views

_OVER = 0.06  # of a box beyond the points that are its own, as a share of their extent
_LONGEST = 60.0  # thicknesses of a wall along the edge of a part, at most
_HELD = 1024  # points on the surface that aren't learned from, at most; errors are taken there

_PLACE = 3  # spacings between points, in which what pictures show is one place
_EXPOSED, _DOUBTED = 0.03, 0.5  # standard deviation of exposure (natural logarithm), weight of a picture: told
_BLURRED = -0.8  # sharpness beside other pictures, from which on a picture is told
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
    work = Work(_costs(views, len(boxes), config), "place", progress)
    parts = enumerate(work.over("samples", boxes))
    pools = [pool_of(measured, box, config, np.random.default_rng((seed, i))) for i, box in parts]
    all_boxes, behind = list(boxes), needs_backdrop(views)
    if behind:
        all_boxes.append(backdrop_box(measured))
        pools.append(backdrop_pool(measured, all_boxes[-1], config, np.random.default_rng((seed, len(boxes)))))
    made = [
        SirenField(Aabb(-0.5 * b.size, 0.5 * b.size), config, observed=True, seed=seed + i)
        for i, b in enumerate(all_boxes)
    ]
    fields = [field.requires_grad_(False) for field in made]
    learn_shapes(fields, pools, config, seed, checkpoints, work, on_step)
    removed = mend(fields[: len(boxes)], pools, boxes, measured, config, seed, work)
    for field, pool in zip(fields, pools, strict=True):
        end_in_box(field)
        finish(field, pool.x[:8192] * field.half_extent)
    closed = behind and is_closed(fields[-1], pools[-1])
    if behind and not closed:
        del fields[-1], all_boxes[-1]
    names = [*(f"background_{i}" for i in range(len(boxes))), BACKDROP]
    instances = [
        Instance(name, field, SE3.from_translation(box.center), lit=False)
        for name, field, box in zip(names, fields, all_boxes, strict=False)
    ]
    for field in work.over("indices", fields):
        cells_of(field, None)
    scene = Composite(instances)
    light = learn_looks(scene, all_boxes, views, light, measured, config, work, seed=seed)
    observe([scene] * len(views), views.cameras, [view.valid for view in views])
    for field in fields:
        keep_cells(field)
    work.close()
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
    margin = MARGIN * half
    within = np.flatnonzero(((measured.points > lo + 1.1 * margin) & (measured.points < hi - 1.1 * margin)).all(1))
    held, rest = np.split(rng.permutation(within), [min(_HELD, len(within) // 8)])
    times = -(-config.surface_pool // len(rest))
    on = np.concatenate([held, *(rng.permutation(rest) for _ in range(times))])[: len(held) + config.surface_pool]
    n = config.pool // 2
    near = measured.points[rng.choice(within, n)] + rng.normal(0, 0.5 * measured.wall, (n, 3))
    p = np.clip(np.concatenate([near, in_box(lo, hi, config.pool - n, rng)]), lo, hi)
    p = p[rng.permutation(len(p))]
    edge = np.minimum(p - lo, hi - p).min(1)
    distance = np.maximum(measured.signed_distance(p), margin - edge) / half
    weight = config.falloff / (config.falloff + np.abs(distance))
    x, normal = (measured.points[on] - center) / half, measured.normals[on]
    x_off, n = _tensor((p - center) / half), len(held)
    x, normal = _tensor(x), _tensor(normal)
    return Pool(x[n:], normal[n:], x_off, _tensor(distance[:, None]), _tensor(weight), x[:n], normal[:n], 2 * half)


def _costs(views: Views, parts: int, config: RoomConfig) -> dict[str, float]:
    """What the stages cost, in about seconds of one core."""
    pixels = sum(view.valid.numel() for view in views)
    shapes = 6.6e-11 * parts * config.steps * config.batch * config.layers * config.width**2
    return {
        "samples": 3e-7 * parts * config.pool * len(views),
        "shapes": shapes,
        "mending": 0.33 * shapes,
        "indices": 0.65 * parts,
        "places": 4e-6 * pixels,
        "colours": 2.1e-3 * parts * config.color_steps,
        "end": 3e-6 * pixels,
    }


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
        notes.append(f"fit the others badly (wrongly placed, over-exposed), count less: {_first(doubted)}")
    if not measured.noise:
        blurred = [view.name for view, sharp in zip(views, sharpness(views), strict=True) if sharp < _BLURRED]
        if blurred:
            notes.append(f"less sharp than others that show the same (blurred?): {_first(blurred)}")
    return notes


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
