"""Objects from oriented points, by the Eikonal loss of the SIREN paper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from objects.aabb import Aabb
from objects.fitting import GREY_RGB, finish, paint_flat
from objects.siren import SirenField
from objects.training import TrainConfig, fit


@dataclass(frozen=True)
class PointsConfig:
    """How points are learned.

    Attributes:
        width, layers, omega_first, omega_hidden: The distance network (see `SirenField`).
        color_width, color_layers, color_omega_first: The colour network.
        steps, batch: Training steps; points on the surface, and as many off it, for each.
        learning_rate: Peak rate.
        padding: Space between the points and the box, as a share of their longest extent.
        on_weight, normal_weight, eikonal_weight, off_weight, off_alpha: Weights of the terms, for coordinates in [-1, 1]: those
            of section 4.2 of the paper divided by 3,000, but 6 times as much for the length of the gradient, without
            which the inside stays near 0 in a few hundred steps.
    """

    width: int = 72
    layers: int = 3
    omega_first: float = 30.0
    omega_hidden: float = 30.0
    color_width: int = 64
    color_layers: int = 3
    color_omega_first: float = 35.0
    steps: int = 800
    batch: int = 1024
    learning_rate: float = 1e-3
    padding: float = 0.1
    on_weight: float = 1.0
    normal_weight: float = 1 / 30
    eikonal_weight: float = 0.1
    off_weight: float = 1 / 30
    off_alpha: float = 100.0


def fit_points(
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    colors: Float[Tensor, "n 3"] | None = None,
    *,
    seed: int = 0,
    config: PointsConfig | None = None,
    progress: bool = True,
) -> SirenField:
    """Learns an object from points on its surface.

    The loss is that of Sitzmann et al. 2020, equation 6: the distance is 0 on the points, its gradient is the normal there
    and of length 1 everywhere, and it is kept away from 0 elsewhere. Beyond the paper, a distance below half of the
    padding on the faces of the box is punished.

    Args:
        points: Points on the surface, object frame and units; at least 16.
        normals: Outward, any length but zero.
        colors: sRGB in 0..1; grey without.
        seed: Seed of initial weights and samples.
        config: How to learn.
        progress: Whether to show a bar (on a terminal, once it lasts 2 s).

    Raises:
        ValueError: Wrong shapes, too few points, values that are not finite, normals of length 0, colours not in 0..1.
        FitError: Learning failed (normals that point inwards, say).
    """
    config = PointsConfig() if config is None else config
    points, normals = (torch.as_tensor(t).detach().float() for t in (points, normals))
    _check(points, normals, colors)
    extent = float((points.amax(0) - points.amin(0)).max())
    box = Aabb(points.amin(0) - config.padding * extent, points.amax(0) + config.padding * extent)
    field = SirenField(
        box,
        width=config.width,
        layers=config.layers,
        color_width=config.color_width,
        color_layers=config.color_layers,
        omega_first=config.omega_first,
        omega_hidden=config.omega_hidden,
        color_omega_first=config.color_omega_first,
        seed=seed,
    )
    x_on = (points - field.center) / field.half_extent
    x_lo, x_hi = ((corner - field.center) / field.half_extent for corner in (field.box_lo, field.box_hi))
    normals = normals / normals.norm(dim=-1, keepdim=True)
    n = config.batch
    border_least = 0.5 * config.padding * extent / float(field.half_extent)

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(points), (n,), generator=generator)
        off = x_lo + torch.rand(n, 3, generator=generator) * (x_hi - x_lo)
        face = x_lo + torch.rand(n // 4, 3, generator=generator) * (x_hi - x_lo)
        axis = torch.randint(3, (len(face),), generator=generator)
        end = torch.where(torch.rand(len(face), generator=generator) < 0.5, x_lo[axis], x_hi[axis])
        face = face.scatter(1, axis[:, None], end[:, None])
        x = torch.cat([x_on[pick], off, face]).requires_grad_()
        f = field.distance(x)[:, 0]
        (slope,) = torch.autograd.grad(f.sum(), x, create_graph=True)
        on, apart, border = f.split([n, n, len(face)])
        cosine = torch.nn.functional.cosine_similarity(slope[:n], normals[pick], dim=-1)
        return (
            config.on_weight * on.abs().mean()
            + config.normal_weight * (1 - cosine).mean()
            + config.eikonal_weight * (slope.norm(dim=-1) - 1).abs().mean()
            + config.off_weight * (-config.off_alpha * apart.abs()).exp().mean()
            + config.on_weight * (border_least - border).clamp(min=0).mean()
        )

    train = TrainConfig(
        steps=config.steps, learning_rate=config.learning_rate, seed=seed, label="points", progress=progress
    )
    fit(field.distance.parameters(), loss_fn, train)
    if colors is None:
        paint_flat(field, GREY_RGB)
    else:
        rgb = torch.as_tensor(colors).detach().float()

        def color_loss(step: int, generator: torch.Generator) -> Tensor:
            pick = torch.randint(len(points), (n,), generator=generator)
            return (field.appearance(x_on[pick]).sigmoid() - rgb[pick]).abs().mean()

        fit(field.appearance.parameters(), color_loss, train)
    finish(field, points)
    return field.requires_grad_(False)


def _check(points: Tensor, normals: Tensor, colors: Tensor | None) -> None:
    if points.dim() != 2 or points.shape[1] != 3 or len(points) < 16:
        raise ValueError(f"fit_points: points must have shape [n, 3] with n at least 16, got {list(points.shape)}")
    if normals.shape != points.shape:
        raise ValueError(
            f"fit_points: normals must have the shape of points, {list(points.shape)}, got {list(normals.shape)}"
        )
    if not (torch.isfinite(points).all() and torch.isfinite(normals).all()):
        raise ValueError("fit_points: points and normals must be finite")
    if (normals.norm(dim=-1) < 1e-12).any():
        raise ValueError("fit_points: normals must not have length 0")
    size = points.amax(0) - points.amin(0)
    if not float(size.min()) > 1e-5 * float(size.max()):
        raise ValueError(f"fit_points: points must span a solid, got a flat set of size {size.tolist()}")
    if colors is not None:
        rgb = torch.as_tensor(colors)
        if rgb.shape != points.shape or not bool(((rgb >= 0) & (rgb <= 1)).all()):
            raise ValueError(f"fit_points: colors must have the shape of points and lie in 0..1, got {list(rgb.shape)}")
