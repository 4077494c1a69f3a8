"""Exact signed distances of simple solids, inside and outside and at any distance, each of one colour; oracles of many tests.

Source of the formulas: Inigo Quilez, "Distance functions", https://iquilezles.org/articles/distfunctions/. All solids are
centred at the origin of the object frame; those with an axis have it along z.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from objects.aabb import Aabb
from objects.field import Field, FieldSample

# Sizes whose squares float32 still holds.
_SMALLEST, _LARGEST = 1e-12, 1e12
# Room between solid and box, as a part of the longest half edge.
_PADDING = 0.03
_GREY = (0.7, 0.7, 0.7)


class Primitive(Field):
    """A solid of one colour and one feature vector.

    Args:
        half_size: Half edges of the tight box (object units); the field's box is 3 % of the longest larger on each side.
        sizes: The numbers that give the shape, by name; they become buffers.
        color: sRGB in 0..1.
        feature: Feature vector, the same all over the solid, or None for no channels.

    Raises:
        ValueError: A size that is not within 1e-12..1e12, a colour outside 0..1, a feature that is not a finite vector.
    """

    everywhere = True
    size_names: ClassVar[tuple[str, ...]]
    color: Tensor
    feature: Tensor

    def __init__(
        self,
        half_size: Sequence[float],
        sizes: dict[str, Any],
        color: Sequence[float] | Tensor,
        feature: Sequence[float] | Tensor | None,
    ) -> None:
        half = torch.as_tensor(half_size, dtype=torch.float64)
        half = half + _PADDING * half.max()
        color = _vector(self.kind, "color", color)
        feature = torch.zeros(0) if feature is None else _vector(self.kind, "feature", feature)
        super().__init__(Aabb(-half, half), feature_width=feature.shape[0])
        for name, value in sizes.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).clone())
        self.register_buffer("color", color.float().clone())
        self.register_buffer("feature", feature.float().clone())
        self.check_values()

    @abstractmethod
    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor: ...

    def inside(self, p_obj: Tensor, time: Tensor | None) -> FieldSample:
        n = p_obj.shape[:-1]
        return FieldSample(
            self.inside_sdf(p_obj, time), self.color.expand(*n, 3), self.feature.expand(*n, self.feature_width)
        )

    def check_values(self) -> None:
        super().check_values()
        for name in self.size_names:
            _check_size(self.kind, name, self.get_buffer(name))
        if self.color.shape != (3,) or not bool(((self.color >= 0) & (self.color <= 1)).all()):
            raise ValueError(f"{self.kind}: color must be 3 numbers in 0..1, got {self.color.tolist()}")
        if not bool(torch.isfinite(self.feature).all()):
            raise ValueError(f"{self.kind}: feature must be finite, got {self.feature.tolist()}")

    def config(self) -> dict[str, Any]:
        return {"feature_width": self.feature_width}

    @classmethod
    def empty(cls, config: dict[str, Any], children: list[Field]) -> Self:
        return cls(feature=torch.zeros(config["feature_width"]), **cls._any_sizes())

    @classmethod
    def _any_sizes(cls) -> dict[str, Any]:
        return dict.fromkeys(cls.size_names, 1.0)


class Sphere(Primitive):
    """A ball of ``radius`` (object units)."""

    kind = "sphere"
    size_names = ("radius",)
    radius: Tensor

    def __init__(self, radius: float, color=_GREY, feature=None) -> None:
        _check_size(self.kind, "radius", radius)
        super().__init__([radius] * 3, {"radius": radius}, color, feature)

    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor:
        return _length(p_obj) - self.radius


class Box(Primitive):
    """A box with edges of ``size`` (3-vector, object units), its edges and corners rounded with radius ``rounding``.

    Raises:
        ValueError: As all primitives, and a ``rounding`` that is negative or above half of the shortest edge.
    """

    kind = "box"
    size_names = ("size",)
    size: Tensor
    rounding: Tensor

    def __init__(self, size: Sequence[float] | Tensor, rounding: float = 0.0, color=_GREY, feature=None) -> None:
        edges = _vector(self.kind, "size", size)
        if edges.shape != (3,):
            raise ValueError(f"box: size must be 3 numbers, got {edges.tolist()}")
        _check_size(self.kind, "size", edges)
        super().__init__((0.5 * edges).tolist(), {"size": edges, "rounding": rounding}, color, feature)

    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor:
        q = p_obj.abs() - (0.5 * self.size - self.rounding)
        return _length(q.clamp(min=0)) + q.amax(-1).clamp(max=0) - self.rounding

    def check_values(self) -> None:
        super().check_values()
        if not 0 <= float(self.rounding) <= 0.5 * float(self.size.min()):
            raise ValueError(
                f"box: rounding must be within 0 and half of the shortest edge ({0.5 * float(self.size.min()):.4g}), "
                f"got {float(self.rounding):.4g}"
            )

    @classmethod
    def _any_sizes(cls) -> dict[str, Any]:
        return {"size": (1.0, 1.0, 1.0)}


class Cylinder(Primitive):
    """A solid cylinder of ``radius`` and full ``height`` (object units) along z."""

    kind = "cylinder"
    size_names = ("radius", "height")
    radius: Tensor
    height: Tensor

    def __init__(self, radius: float, height: float, color=_GREY, feature=None) -> None:
        _check_size(self.kind, "radius", radius)
        _check_size(self.kind, "height", height)
        super().__init__([radius, radius, 0.5 * height], {"radius": radius, "height": height}, color, feature)

    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor:
        q = torch.stack([_length(p_obj[..., :2]) - self.radius, p_obj[..., 2].abs() - 0.5 * self.height], -1)
        return _length(q.clamp(min=0)) + q.amax(-1).clamp(max=0)


class Capsule(Primitive):
    """All points within ``radius`` of a straight line of length ``height`` (object units) along z; the whole solid is
    ``height + 2 * radius`` tall."""

    kind = "capsule"
    size_names = ("radius", "height")
    radius: Tensor
    height: Tensor

    def __init__(self, radius: float, height: float, color=_GREY, feature=None) -> None:
        _check_size(self.kind, "radius", radius)
        _check_size(self.kind, "height", height)
        super().__init__([radius, radius, 0.5 * height + radius], {"radius": radius, "height": height}, color, feature)

    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor:
        above = (p_obj[..., 2:].abs() - 0.5 * self.height).clamp(min=0)
        return _length(torch.cat([p_obj[..., :2], above], -1)) - self.radius


class Torus(Primitive):
    """A ring about z: radius ``major`` from the axis to the middle of the tube, ``minor`` that of the tube.

    Raises:
        ValueError: As all primitives, and a ``minor`` that is not below ``major``.
    """

    kind = "torus"
    size_names = ("major", "minor")
    major: Tensor
    minor: Tensor

    def __init__(self, major: float, minor: float, color=_GREY, feature=None) -> None:
        _check_size(self.kind, "major", major)
        _check_size(self.kind, "minor", minor)
        super().__init__([major + minor, major + minor, minor], {"major": major, "minor": minor}, color, feature)

    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor:
        ring = _length(p_obj[..., :2]) - self.major
        return _length(torch.stack([ring, p_obj[..., 2]], -1)) - self.minor

    def check_values(self) -> None:
        super().check_values()
        if not float(self.minor) < float(self.major):
            raise ValueError(
                f"torus: minor must be below major, got {float(self.minor):.4g} and {float(self.major):.4g}"
            )

    @classmethod
    def _any_sizes(cls) -> dict[str, Any]:
        return {"major": 1.0, "minor": 0.5}


def _length(v: Tensor) -> Tensor:
    """Length along the last axis, with gradient 0 (all orders finite) at the zero vector."""
    square = v.square().sum(-1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def _vector(kind: str, name: str, value: Any) -> Tensor:
    try:
        vector = torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        vector = None
    if vector is None or vector.dim() != 1:
        raise ValueError(f"{kind}: {name} must be a list of numbers, got {value!r}")
    return vector


def _check_size(kind: str, name: str, value: Any) -> None:
    try:
        good = bool(((torch.as_tensor(value) >= _SMALLEST) & (torch.as_tensor(value) <= _LARGEST)).all())
    except (TypeError, ValueError, RuntimeError):
        good = False
    if not good:
        value = value.tolist() if isinstance(value, Tensor) else value
        raise ValueError(f"{kind}: {name} must be greater than 0 (within {_SMALLEST:g}..{_LARGEST:g}), got {value!r}")
