"""Objects from oriented points: distances and normals as of meshes, with the sides of the surface known beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from objects.aabb import Aabb, without_origin
from objects.cloud import Cloud, read_cloud
from objects.coloring import Colors, colors_at, divide, learn_colors
from objects.learned import GREY_RGB, check_sides, finish, in_box, paint_flat
from objects.mesh_samples import DescentConfig, FitConfig, Pool
from objects.shaping import descend
from objects.siren import SirenField
from objects.solid import FACING
from objects.training import TrainConfig

_SURFACE = 16_384  # samples of the surface at least


@dataclass(frozen=True)
class PointsConfig(DescentConfig):
    """How points are learned.

    Attributes:
        width ... normal_weight: Networks and steps (see `objects.mesh_samples.DescentConfig`).
        steps: Training steps.
        padding: Space between the points and the box, as a share of their longest extent.
        pool: Points off the surface, drawn once.
        facing: Which side of the points is air (see `objects.cloud.read_cloud`).
        thickness: Walls of a room, as a share of the points' longest extent.
        origin: Subtracted from all coordinates before they become float32; the field lives in the shifted frame.
    """

    width: int = 72
    color_width: int = 32
    color_omega_first: float = 35.0
    steps: int = 1200
    normal_weight: float = 0.1
    padding: float = 0.1
    pool: int = 65_536
    facing: str = "auto"
    thickness: float = 0.02
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.facing not in FACING:
            raise ValueError(f"facing: expected {', '.join(FACING)}, got {self.facing!r}")
        if not 0 < self.thickness < 1:
            raise ValueError(f"thickness: expected a share of the longest edge between 0 and 1, got {self.thickness}")


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

    The distance is 0 on the points and its gradient is the normal there, as in Sitzmann et al. 2020, equation 6. That only keeps
    the distance away from 0 elsewhere, which leaves its sign to chance; here it is that to the nearest point, with the sign of
    the winding number (`objects.cloud`), which counts little within a spacing of the surface, where both are vague.

    Args:
        points: Points on the surface, object frame and units; at least 16. float64 where they are far from the origin.
        normals: Any length but zero; outwards, others are turned with a note.
        colors: sRGB in 0..1; grey without.
        seed: Seed of initial weights and samples.
        config: How to learn.
        progress: Whether to show a bar (on a terminal, once it lasts 2 s).

    Raises:
        ValueError: Wrong shapes, too few points, values that are not finite, normals of length 0 or that agree on no inside,
            colours not in 0..1, points too far from the origin for float32.
        FitError: Learning failed.
    """
    config = PointsConfig() if config is None else config
    points, normals = (torch.as_tensor(t).detach().double() for t in (points, normals))
    _check(points, normals, colors)
    places = without_origin(points.numpy(), config.origin, "points")
    extent = float(np.ptp(places, 0).max())
    cloud = read_cloud(places, normals.numpy(), facing=config.facing, wall=config.thickness * extent, name="points")
    pad = config.padding * extent + cloud.wall
    box = Aabb(torch.from_numpy(places.min(0) - pad), torch.from_numpy(places.max(0) + pad))
    colored = _colored(config)
    painted = None if colors is None else _colors(cloud, box, torch.as_tensor(colors), seed)
    n_parts = 1 if painted is None else painted.n_parts(colored.color_parts)
    field = SirenField(box, config, color_parts=n_parts, seed=seed)
    half = float(field.half_extent)
    x_on = ((torch.from_numpy(cloud.points) - field.center) / half).float()
    x_off, distance = _off_surface(cloud, field, config, seed)
    vague = cloud.spacing / half
    train = TrainConfig(
        steps=config.steps, learning_rate=config.learning_rate, seed=seed, label="points", progress=progress
    )
    pool = _pool(cloud, x_on, x_off, distance, vague, config, seed)
    descend([field.requires_grad_(False)], [pool], config, train)
    if painted is None:
        paint_flat(field, GREY_RGB)
    else:
        divide(field, painted)
        learn_colors([field], [painted], colored, train)
    finish(field, torch.from_numpy(cloud.points).float())
    clear = distance.abs() > 2 * vague
    check_sides(field, (x_off * half + field.center)[clear], distance[clear] < 0)
    return field.requires_grad_(False)


def _pool(
    cloud: Cloud,
    x_on: Float[Tensor, "n 3"],
    x_off: Float[Tensor, "m 3"],
    distance: Float[Tensor, "m"],
    vague: float,
    config: PointsConfig,
    seed: int,
) -> Pool:
    """Samples in random order; those on the surface come more than once where the points are few."""
    rng = np.random.default_rng((seed, 1))
    times = -(-max(config.batch, _SURFACE) // len(x_on))
    on = torch.from_numpy(np.concatenate([rng.permutation(len(x_on)) for _ in range(times)]))
    off = torch.from_numpy(rng.permutation(len(x_off)))
    x, normal, d = x_on[on], torch.from_numpy(cloud.normals).float()[on], distance[off]
    known = d.abs() / (d.abs() + vague)  # within a spacing, nearest points and winding numbers are vague
    weight = known * config.falloff / (config.falloff + d.abs())
    extent = float((x_on.amax(0) - x_on.amin(0)).max())
    return Pool(x, normal, x_off[off], d[:, None], weight, x[:0], normal[:0], extent)


def _colored(config: PointsConfig) -> FitConfig:
    """How colours are learned: as those of meshes."""
    numbers: dict[str, Any] = config.network_numbers()
    return FitConfig(**numbers, color_steps=1.0)


def _colors(cloud: Cloud, box: Aabb, rgb: Tensor, seed: int) -> Colors:
    x = (cloud.points - box.center.double().numpy()) / float(0.5 * box.size.max())
    return colors_at(x, rgb.detach().double().numpy(), np.random.default_rng((seed, 1)))


def _off_surface(cloud: Cloud, field: SirenField, config: PointsConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Points in the box, half of them near the surface, and their signed distances; in the coordinates of the network."""
    rng = np.random.default_rng(seed)
    center, half = field.center.double().numpy(), float(field.half_extent)
    lo, hi = field.box_lo.double().numpy(), field.box_hi.double().numpy()
    near = cloud.points[rng.integers(len(cloud.points), size=config.pool // 2)]
    near = near + rng.normal(0, max(0.05 * half, 2 * cloud.spacing), near.shape)
    p = np.clip(np.concatenate([near, in_box(lo, hi, config.pool - len(near), rng)]), lo, hi)
    x, distance = (p - center) / half, cloud.signed_distance(p) / half
    return torch.from_numpy(x).float(), torch.from_numpy(distance).float()


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
