"""Lights, Lambert shading in linear light, and the sRGB transfer function.

A matt surface of albedo ``a`` under an irradiance ``E`` looks ``a * E`` (the factor pi is part of the intensity, so that a
light of intensity 1 that meets a surface head-on shows its own colour).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Rgb = tuple[float, float, float]
_WHITE = (1.0, 1.0, 1.0)


class Light(ABC):
    """What lights a scene. ``color`` is sRGB in 0..1, ``intensity`` a factor on it in linear light, at least 0."""

    @abstractmethod
    def irradiance(self, p_world: Float[Tensor, "n 3"], normal_world: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Linear RGB that reaches surface points with these unit normals, shadows left aside."""

    def toward(self, p_world: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]] | None:
        """Unit directions and distances (metres, may be inf) to the light; None for light that casts no shadow."""
        return None


@dataclass(frozen=True)
class AmbientLight(Light):
    """Light from everywhere.

    Args:
        color: sRGB in 0..1; the light from above where ``ground_color`` is given.
        intensity: Factor in linear light.
        ground_color: sRGB of the light from below (-z); the mix goes linearly with the normal's z. None: as ``color``.

    Raises:
        ValueError: A colour outside 0..1, an intensity that is negative or not finite.
    """

    color: Rgb = _WHITE
    intensity: float = 0.3
    ground_color: Rgb | None = None

    def __post_init__(self) -> None:
        _settle(self, colors=("color", "ground_color"))

    def irradiance(self, p_world: Tensor, normal_world: Tensor) -> Tensor:
        sky = _linear(self.color, p_world)
        ground = sky if self.ground_color is None else _linear(self.ground_color, p_world)
        amount = (0.5 + 0.5 * normal_world[:, 2:]).clamp(0, 1)
        return self.intensity * (ground + amount * (sky - ground))


@dataclass(frozen=True)
class DirectionalLight(Light):
    """Parallel light, like the sun's.

    Args:
        direction: World direction in which the light travels, any length but zero.
        color: sRGB in 0..1.
        intensity: Factor in linear light.

    Raises:
        ValueError: As `AmbientLight`, or a direction that is zero or not finite.
    """

    direction: Rgb
    color: Rgb = _WHITE
    intensity: float = 1.0

    def __post_init__(self) -> None:
        _settle(self, colors=("color",), vectors=("direction",))
        if math.hypot(*self.direction) < 1e-12:
            raise ValueError("DirectionalLight: direction must not have zero length")

    def toward(self, p_world: Tensor) -> tuple[Tensor, Tensor]:
        back = -p_world.new_tensor(self.direction)
        return (back / back.norm()).expand_as(p_world), p_world.new_full(p_world.shape[:1], math.inf)

    def irradiance(self, p_world: Tensor, normal_world: Tensor) -> Tensor:
        cosine = (normal_world * self.toward(p_world)[0]).sum(-1, keepdim=True).clamp(min=0)
        return self.intensity * cosine * _linear(self.color, p_world)


@dataclass(frozen=True)
class PointLight(Light):
    """A small lamp whose light falls off with the square of the distance.

    Args:
        position: World, metres.
        color: sRGB in 0..1.
        intensity: Factor in linear light at a distance of 1 m.

    Raises:
        ValueError: As `AmbientLight`, or a position that is not finite.
    """

    position: Rgb
    color: Rgb = _WHITE
    intensity: float = 1.0

    def __post_init__(self) -> None:
        _settle(self, colors=("color",), vectors=("position",))

    def toward(self, p_world: Tensor) -> tuple[Tensor, Tensor]:
        gap = p_world.new_tensor(self.position) - p_world
        distance = gap.norm(dim=-1)
        return gap / distance.clamp(min=1e-12)[:, None], distance

    def irradiance(self, p_world: Tensor, normal_world: Tensor) -> Tensor:
        direction, distance = self.toward(p_world)
        cosine = (normal_world * direction).sum(-1).clamp(min=0)
        return self.intensity * (cosine / distance.clamp(min=1e-6).square())[:, None] * _linear(self.color, p_world)


def linear_from_srgb(srgb: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """Linear light of sRGB values (IEC 61966-2-1, the exact piecewise curve)."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(linear: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """sRGB values of linear light, the inverse of `linear_from_srgb`."""
    low = 0.04045 / 12.92
    return torch.where(linear <= low, linear * 12.92, 1.055 * linear.clamp(min=low) ** (1 / 2.4) - 0.055)


def _linear(color: Rgb, like: Tensor) -> Tensor:
    return linear_from_srgb(like.new_tensor(color))


def _settle(
    light: AmbientLight | DirectionalLight | PointLight, colors: Sequence[str], vectors: Sequence[str] = ()
) -> None:
    """Check a light, and make its vectors plain tuples, so that equal lights compare equal."""
    kind = type(light).__name__
    for name in (*colors, *vectors):
        value = getattr(light, name)
        if value is None:
            continue
        numbers = tuple(float(x) for x in value)
        if len(numbers) != 3 or not all(math.isfinite(x) for x in numbers):
            raise ValueError(f"{kind}: {name} must be 3 finite numbers, got {value}")
        if name in colors and not all(0 <= x <= 1 for x in numbers):
            raise ValueError(f"{kind}: {name} must be sRGB in 0..1 (brightness is the intensity), got {value}")
        object.__setattr__(light, name, numbers)
    if not (math.isfinite(light.intensity) and light.intensity >= 0):
        raise ValueError(f"{kind}: intensity must be finite and at least 0, got {light.intensity}")
