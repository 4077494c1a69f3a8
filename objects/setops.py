"""Solids made of solids: union, intersection, difference, their smooth forms, and a solid put elsewhere.

Children are asked by `Field.forward` and `Field.sdf`, so each goes on outside its own box by its own rule, and the result holds
wherever theirs do. What is exact of exact parts: a solid put elsewhere, everywhere; a union without blend, outside. All else is a
safe bound (never above the distance to the surface): a union inside, intersections, differences, and all blends. For true
distances to any of them ask `compose.Composite.closest`.

Source: Inigo Quilez, "Smooth minimum", https://iquilezles.org/articles/smin/ (the quadratic polynomial form, normalised so
that ``smooth`` is the range of ``|a - b|`` over which the surfaces blend; it moves the surface by at most ``smooth / 4``).
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from objects.aabb import Aabb
from objects.field import FEATURE, TINT, Field, FieldSample, channel_widths
from objects.pose import SE3, rotation_from_quat


class _Pair(Field):
    """Two fields, ``a`` and ``b`` (same frame), of which one number decides: the smooth minimum of signed distances.

    Every operation is ``flip * smin(flip * sdf_a, flip_b * sdf_b)``. Colour and channels come from the child that decides the
    distance; within the blend they are mixed by ``d sdf / d sdf_a``, as the normal is. A tint is left out: the result looks the
    same from all sides. Gradients are convex combinations
    of those of the children, so the Lipschitz estimate is the larger of theirs (and at least 1, that of the rule outside).
    """

    everywhere = True
    flip: float
    flip_b: float
    smooth: Tensor

    def __init__(self, a: Field, b: Field, bounds: Aabb, smooth: float) -> None:
        channels = channel_widths((a, b))
        channels.pop(TINT, None)
        super().__init__(bounds, max(1.0, a.lipschitz, b.lipschitz), channels=channels)
        self.a, self.b = a, b
        self.register_buffer("smooth", torch.tensor(float(smooth)))
        self.check_values()

    def inside(self, p_obj: Tensor, time: Tensor | None) -> FieldSample:
        a, b = self.a(p_obj, time), self.b(p_obj, time)
        da, db = self.flip * a.sdf, self.flip_b * b.sdf
        k = torch.where(self.smooth > 0, self.smooth, 1)
        share_a = torch.where(self.smooth > 0, (0.5 + 0.5 * (db - da) / k).clamp(0, 1), (da <= db).to(da.dtype))[
            ..., None
        ]
        mixed = {
            name: torch.lerp(_widened(b.channel(name), width), _widened(a.channel(name), width), share_a)
            for name, width in ({FEATURE: 0} | self.channels).items()
        }
        feature = mixed.pop(FEATURE)
        return FieldSample(self.flip * self.smooth_min(da, db), torch.lerp(b.rgb, a.rgb, share_a), feature, mixed)

    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor:
        da, db = self.flip * self.a.sdf(p_obj, time), self.flip_b * self.b.sdf(p_obj, time)
        return self.flip * self.smooth_min(da, db)

    def smooth_min(self, da: Tensor, db: Tensor) -> Tensor:
        """The smooth minimum of two distances."""
        k = torch.where(self.smooth > 0, self.smooth, 1)
        overlap = (self.smooth - (da - db).abs()).clamp(min=0)
        return torch.minimum(da, db) - overlap.square() / (4 * k)

    def check_values(self) -> None:
        super().check_values()
        _check_smooth(self.kind, float(self.smooth))

    def children_fields(self) -> list[Field]:
        return [self.a, self.b]

    @classmethod
    def empty(cls, config: dict[str, Any], children: list[Field]) -> Self:
        field, unit = cls.__new__(cls), torch.ones(3)
        _Pair.__init__(field, children[0], children[1], Aabb(-unit, unit), 0.0)
        return field


class Union(_Pair):
    """All points in ``a`` or ``b``. Its box holds both boxes, grown by what the blend can add.

    Args:
        a, b: The solids, in one frame.
        smooth: Width of the blend, object units; 0 for none.

    Raises:
        ValueError: Not fields, or a ``smooth`` that is not finite and at least 0.
    """

    kind = "union"
    flip = flip_b = 1.0

    def __init__(self, a: Field, b: Field, *, smooth: float = 0.0) -> None:
        _check_operands(self.kind, a, b, smooth)
        bounds = a.bounds.union(b.bounds)
        super().__init__(a, b, bounds.padded(0.26 * smooth) if smooth else bounds, smooth)


class Intersection(_Pair):
    """All points in both ``a`` and ``b``. Its box is the common part of their boxes.

    Args:
        a, b: The solids, in one frame.
        smooth: Width of the blend, object units; 0 for none.

    Raises:
        ValueError: As `Union`, and where the boxes have no common part.
    """

    kind = "intersection"
    flip = flip_b = -1.0

    def __init__(self, a: Field, b: Field, *, smooth: float = 0.0) -> None:
        _check_operands(self.kind, a, b, smooth)
        lo, hi = torch.maximum(a.box_lo, b.box_lo), torch.minimum(a.box_hi, b.box_hi)
        if not bool((lo < hi).all()):
            raise ValueError(
                f"intersection: a and b must overlap, got boxes {a.box_lo.tolist()}..{a.box_hi.tolist()} "
                f"and {b.box_lo.tolist()}..{b.box_hi.tolist()}"
            )
        super().__init__(a, b, Aabb(lo, hi), smooth)


class Difference(_Pair):
    """All points in ``a`` and not in ``b``; the cut shows the colour of ``b``. Its box is that of ``a``.

    Args:
        a: The solid that is cut.
        b: The solid that is taken away.
        smooth: Width of the blend, object units; 0 for none.

    Raises:
        ValueError: As `Union`.
    """

    kind = "difference"
    flip, flip_b = -1.0, 1.0

    def __init__(self, a: Field, b: Field, *, smooth: float = 0.0) -> None:
        _check_operands(self.kind, a, b, smooth)
        super().__init__(a, b, a.bounds, smooth)


class Placed(Field):
    """A field put elsewhere: ``p_obj = T_obj_child @ (scale * p_child)``, distances multiplied by ``scale``. A tint is left out.

    Args:
        field: The child.
        T_obj_child: One pose, without batch axes.
        scale: Uniform, greater than 0.

    Raises:
        ValueError: Not a field, a pose with batch axes, or a scale that is not finite and greater than 0.
    """

    kind = "placed"
    everywhere = True
    quat_wxyz: Tensor
    translation: Tensor
    scale: Tensor

    def __init__(self, field: Field, T_obj_child: SE3, scale: float = 1.0) -> None:
        if not isinstance(field, Field):
            raise ValueError(f"placed: field must be a Field, got {type(field).__name__}")
        if T_obj_child.quat_wxyz.shape != (4,) or T_obj_child.translation.shape != (3,):
            raise ValueError(f"placed: T_obj_child must be one pose, got quat_wxyz {list(T_obj_child.quat_wxyz.shape)}")
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"placed: scale must be finite and greater than 0, got {scale}")
        corners = T_obj_child.to(torch.float64) @ (scale * field.bounds.corners().double())
        channels = {name: width for name, width in field.channels.items() if name != TINT}
        super().__init__(Aabb(corners.amin(0), corners.amax(0)), field.lipschitz, channels=channels)
        self.child = field
        quat = T_obj_child.quat_wxyz.detach().double()
        self.register_buffer("quat_wxyz", (quat / quat.norm()).float())
        self.register_buffer("translation", T_obj_child.translation.detach().float().clone())
        self.register_buffer("scale", torch.tensor(float(scale)))

    def inside(self, p_obj: Tensor, time: Tensor | None) -> FieldSample:
        sample = self.child(self._to_child(p_obj), time)
        more = {name: value for name, value in sample.more.items() if name != TINT}
        return sample._replace(sdf=self.scale * sample.sdf, more=more)

    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor:
        return self.scale * self.child.sdf(self._to_child(p_obj), time)

    def _to_child(self, p_obj: Tensor) -> Tensor:
        # Rows times R is R^T times columns: the inverse rotation.
        return (p_obj - self.translation) @ rotation_from_quat(self.quat_wxyz) / self.scale

    def check_values(self) -> None:
        super().check_values()
        if not (math.isfinite(float(self.scale)) and float(self.scale) > 0):
            raise ValueError(f"placed: scale must be finite and greater than 0, got {float(self.scale)}")
        SE3(self.quat_wxyz, self.translation)

    def children_fields(self) -> list[Field]:
        return [self.child]

    @classmethod
    def empty(cls, config: dict[str, Any], children: list[Field]) -> Self:
        return cls(children[0], SE3.identity())


def _widened(channel: Tensor, width: int) -> Tensor:
    return nn.functional.pad(channel, (0, width - channel.shape[-1]))


def _check_operands(kind: str, a: Field, b: Field, smooth: float) -> None:
    for name, field in (("a", a), ("b", b)):
        if not isinstance(field, Field):
            raise ValueError(f"{kind}: {name} must be a Field, got {type(field).__name__}")
    _check_smooth(kind, smooth)


def _check_smooth(kind: str, smooth: float) -> None:
    if not (math.isfinite(smooth) and smooth >= 0):
        raise ValueError(f"{kind}: smooth must be finite and at least 0, got {smooth}")
