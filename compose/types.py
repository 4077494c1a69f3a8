"""What goes into a composite and what comes out: instances, rays, hits, samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from objects.field import Field, Sample
from objects.pose import SE3


@dataclass(frozen=True, eq=False, slots=True)
class Instance:
    """One object standing in the world: ``p_world = T_world_obj @ (scale * p_obj)``, ``sdf_world = scale * sdf``.

    Args:
        name: What people call it.
        field: Its shape and look; many instances may share one field.
        T_world_obj: A single pose.
        scale: Uniform, greater than 0. A float, or a 0-dimensional tensor where gradients are wanted.
        time: Seconds at which a deforming field is asked, or None.
        lit: Whether lights act on it; false where colours hold their light already (fields learned from images).

    Raises:
        ValueError: A scale that is not finite and positive, a pose with batch axes, or a ``time`` that is not finite.
    """

    name: str
    field: Field
    T_world_obj: SE3
    scale: float | Tensor = 1.0
    time: float | None = None
    lit: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.field, Field):
            raise ValueError(f"Instance {self.name!r}: field must be a Field, got {type(self.field).__name__}")
        if not isinstance(self.T_world_obj, SE3):
            raise ValueError(
                f"Instance {self.name!r}: T_world_obj must be an SE3, got {type(self.T_world_obj).__name__}"
            )
        if self.T_world_obj.quat_wxyz.dim() != 1 or self.T_world_obj.translation.dim() != 1:
            raise ValueError(
                f"Instance {self.name!r}: T_world_obj must be one pose, got batch {list(self.T_world_obj.quat_wxyz.shape[:-1])}"
            )
        if isinstance(self.scale, Tensor) and self.scale.dim():
            raise ValueError(f"Instance {self.name!r}: scale must be one number, got shape {list(self.scale.shape)}")
        scale = float(torch.as_tensor(self.scale).detach())
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"Instance {self.name!r}: scale must be finite and greater than 0, got {scale}")
        if self.time is not None and not math.isfinite(self.time):
            raise ValueError(f"Instance {self.name!r}: time must be finite, got {self.time}")

    def with_pose(self, T_world_obj: SE3) -> Instance:
        """The same instance standing elsewhere."""
        return replace(self, T_world_obj=T_world_obj)


@dataclass(frozen=True, eq=False)
class Rays:
    """``n`` rays: points ``origins + t * directions`` with ``t_min <= t <= t_max``, world frame, metres.

    Args:
        origins: ``[n, 3]``.
        directions: ``[n, 3]``, of length 1.
        t_min, t_max: ``[n]`` or one number for all.

    Raises:
        ValueError: Wrong shapes, values that are not finite (``t_max`` may be infinite), directions not of length 1.
    """

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    t_min: Float[Tensor, "n"] | float = 0.0
    t_max: Float[Tensor, "n"] | float = math.inf

    def __post_init__(self) -> None:
        n = self.origins.shape[0] if isinstance(self.origins, Tensor) and self.origins.dim() else -1
        for name in ("origins", "directions"):
            value = getattr(self, name)
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                raise ValueError(
                    f"Rays: {name} must be a floating point tensor, got {getattr(value, 'dtype', type(value))}"
                )
            if value.shape != (n, 3):
                raise ValueError(f"Rays: {name} must have shape [n, 3], got {list(value.shape)} (n = {n} from origins)")
            if not torch.isfinite(value).all():
                raise ValueError(f"Rays: {name} must be finite")
        length = self.directions.detach().norm(dim=-1)
        if n and (length - 1).abs().max() > 1e-3:
            worst = float(length[(length - 1).abs().argmax()])
            raise ValueError(f"Rays: directions must have length 1, got one of length {worst:.4g}; normalise them")
        for name in ("t_min", "t_max"):
            value = torch.as_tensor(getattr(self, name), dtype=self.origins.dtype, device=self.origins.device)
            if value.shape not in ((), (n,)):
                raise ValueError(f"Rays: {name} must be a number or of shape [{n}], got {list(value.shape)}")
            if torch.isnan(value).any():
                raise ValueError(f"Rays: {name} must not be NaN")
            object.__setattr__(self, name, value.expand(n))

    def __len__(self) -> int:
        return self.origins.shape[0]

    def at(self, t: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
        """Points at distance ``t`` along the rays."""
        return self.origins + t[:, None] * self.directions


class Hits(NamedTuple):
    """First hits: ``t [n]`` (metres along the ray, inf for none) and ``owner [n]`` (index of the instance, -1 for none)."""

    t: Float[Tensor, "n"]
    owner: Int[Tensor, "n"]


class SceneSample(Sample):
    """The union of all instances at ``n`` points: ``sdf [n]`` (metres), ``rgb [n 3]``, ``feature [n f]``, ``owner [n]`` (index
    of the closest instance, -1 for none); and ``more``, the other channels by name. A channel is as wide as the widest of its
    name in the scene; what a field doesn't have is 0."""

    names = ("sdf", "rgb", "feature", "owner")

    def __new__(
        cls, sdf: Tensor, rgb: Tensor, feature: Tensor, owner: Tensor, *, more: Mapping[str, Tensor] | None = None
    ) -> Self:
        return super().__new__(cls, sdf, rgb, feature, owner, more=more)

    @property
    def owner(self) -> Int[Tensor, "n"]:
        return self[3]


class SurfaceSample(Sample):
    """Given instances at given points: ``sdf [n]`` (metres), ``rgb [n 3]``, ``feature [n f]``, ``normal [n 3]`` (unit,
    world frame, the direction in which the distance grows); and the other channels by name as in `SceneSample`."""

    names = ("sdf", "rgb", "feature", "normal")

    def __new__(
        cls, sdf: Tensor, rgb: Tensor, feature: Tensor, normal: Tensor, *, more: Mapping[str, Tensor] | None = None
    ) -> Self:
        return super().__new__(cls, sdf, rgb, feature, normal, more=more)

    @property
    def normal(self) -> Float[Tensor, "n 3"]:
        return self[3]


class ClosestSample(NamedTuple):
    """The nearest surfaces to ``n`` points: signed distance ``sdf [n]`` (metres, negative inside), ``owner [n]`` (index of the
    instance, -1 for none), the nearest ``point [n 3]`` of its surface and the ``gradient [n 3]`` of the distance (unit), world
    frame."""

    sdf: Float[Tensor, "n"]
    owner: Int[Tensor, "n"]
    point: Float[Tensor, "n 3"]
    gradient: Float[Tensor, "n 3"]
