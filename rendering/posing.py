"""Where known objects stand, from posed pictures: poses corrected by gradient.

The objects are rendered as volumes, as in `rendering.learning`, and compared with the pictures; here the fields stay as they
are and the poses learn. Opacity is blunt at first, so that an object that stands beside its picture is drawn towards it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compose.composite import Composite
from objects.pose import SE3
from objects.training import OnStep, TrainConfig, fit
from rendering.views import ViewError, Views
from rendering.volume import lattices_of, place_knots, places_of, summed, weights_of


@dataclass(frozen=True)
class PosesConfig:
    """How poses are corrected; lengths are shares of the scene's size (the diagonal of all boxes).

    Attributes:
        steps, rays: Steps, and rays in each.
        learning_rate: Peak rate: radians, and shares of the mean size of an object.
        n_uniform, n_fine: Most knots of a ray.
        sharpness: Of opacity at the first and the last step (1 / share).
        ids, depth: Weights of the losses beside that of colour.
    """

    steps: int = 200
    rays: int = 512
    learning_rate: float = 1e-2
    n_uniform: int = 8
    n_fine: int = 12
    sharpness: tuple[float, float] = (60.0, 600.0)
    ids: float = 0.02
    depth: float = 2.0


def refine_poses(
    composite: Composite,
    views: Views,
    *,
    labels: Sequence[int | None] | None = None,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    seed: int = 0,
    config: PosesConfig | None = None,
    progress: bool = True,
    on_step: OnStep | None = None,
) -> Composite:
    """Moves instances to where pictures show them, from poses that are nearly right (some degrees, some hundredths of the scene).

    Args:
        composite: Known objects; ids and depth of the pictures are used where they are there.
        views: Pictures whose cameras are right.
        labels: Of each instance the id that it has in the masks; None for one that stays where it is. By default they are
            numbered as in the composite, the first being the background (id 0), which stays.
        background: sRGB where nothing is.
        seed: Of the choice of rays.
        config: How to go about it.
        progress, on_step: As in `fit`.

    Returns:
        The same scene with corrected poses.

    Raises:
        ViewError: Labels that don't fit the instances, or pictures that show nothing of them.
    """
    config = PosesConfig() if config is None else config
    m = len(composite)
    known = [None if i == 0 else i for i in range(m)] if labels is None else list(labels)
    if len(known) != m or all(label is None for label in known):
        raise ViewError(f"refine_poses: labels must say of each of the {m} instances its id or None, got {labels}")
    moving = torch.tensor([i for i, label in enumerate(known) if label is not None])
    instance_of = {label: i for i, label in enumerate(known) if label is not None}
    start = [composite.instances[int(i)].T_world_obj.to(torch.float64) for i in moving]
    quat, trans = torch.stack([p.quat_wxyz for p in start]), torch.stack([p.translation for p in start])
    size, reach = composite.size, float(composite.diagonals[moving].mean())
    twist = torch.zeros(len(moving), 6, dtype=torch.float64, requires_grad=True)
    lattices = lattices_of(composite)
    behind = torch.as_tensor(background, dtype=torch.float64)

    def placed() -> Composite:
        turn = SE3.exp(torch.cat([torch.zeros_like(twist[:, :3]), twist[:, 3:]], -1))
        turned = turn @ SE3.unchecked(quat, torch.zeros_like(trans))
        return composite.with_poses(moving, SE3.unchecked(turned.quat_wxyz, trans + reach * twist[:, :3]))

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        first, last = config.sharpness
        sharpness = first * (last / first) ** (step / config.steps) / size
        view = views[int(torch.randint(len(views), (), generator=generator))]
        n = view.camera.width * view.camera.height
        pixel = torch.randint(n, (config.rays,), generator=generator)
        pixel = pixel[view.valid.reshape(-1)[pixel]]
        uv = view.camera.pixel_centers(pixel)
        rays = view.camera.rays(uv)
        jitter = torch.rand(len(pixel), config.n_uniform + config.n_fine, generator=generator)
        scene = placed()
        knots = place_knots(
            rays.origins,
            rays.directions,
            lattices,
            places_of(scene),
            sharpness=sharpness,
            jitter=jitter,
            n_uniform=config.n_uniform,
        )
        samples, ray = knots.samples(), knots.ray
        sample = scene.query(rays.origins[ray] + knots.t[:, None].double() * rays.directions[ray])
        weight = weights_of(sample.sdf.double(), samples, sharpness).weight
        after = samples.first + 1
        total = summed(weight, torch.cat([sample.rgb[after].double(), torch.ones(len(after), 1).double()], 1), samples)
        want = view.composited(background).reshape(-1, 3)[pixel].double()
        loss = (total[:, :3] + (1 - total[:, 3:]) * behind - want).square().mean()
        if view.ids is None:
            return loss
        ids = view.ids.reshape(-1)[pixel]
        shown = torch.tensor([instance_of.get(int(i), -1) for i in ids])
        right = (sample.owner[after] == shown[samples.ray_indices]) | (
            (shown[samples.ray_indices] < 0) & ~torch.isin(sample.owner[after], moving)
        )
        share = summed(weight * right, torch.ones(len(after), 1).double(), samples)[:, 0]
        share = torch.where(shown < 0, share + 1 - total[:, 3], share)
        loss = loss - config.ids * share.clamp(1e-3, 1).log().mean()
        if view.depth is not None:
            z = view.depth.reshape(-1)[pixel].double() / view.camera.depth_per_t(uv)
            rows = (torch.isfinite(z) & (shown >= 0)).nonzero()[:, 0]
            if len(rows):
                p_world = rays.origins[rows] + z[rows, None] * rays.directions[rows]
                away = scene.evaluate(p_world, shown[rows]).sdf.abs() / reach
                loss = loss + config.depth * away.clamp(max=0.3).sum() / len(pixel)
        return loss

    train = TrainConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        final_rate=0.02,
        seed=seed,
        label="poses",
        progress=progress,
    )
    fit([twist], loss_fn, train, on_step=on_step)
    with torch.no_grad():
        return placed()
