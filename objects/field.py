"""The one interface of all object fields, the one rule of how a field goes on outside its box, and fields made of two others.

A field is a map from a point in the object's frame to signed distance (negative inside), colour and named channels. A subclass
says only what happens *inside* its box; `Field.forward` continues it to all of space, so that composition, indices and
renderers never meet a point where a field is undefined. Exact solids need no rule: their own distance holds everywhere.

Set operations ask their children by `Field.forward` and `Field.sdf`, so each goes on outside its own box by its own rule, and the
result holds wherever theirs do. A union of exact parts without blend is exact outside. All else is a safe bound (never above the
distance to the surface): a union inside, intersections, differences, and all blends. For true distances to any of them ask
`compose.Composite.closest`. Source: Inigo Quilez, "Smooth minimum", https://iquilezles.org/articles/smin/ (the quadratic polynomial
form, normalised so that ``smooth`` is the range of ``|a - b|`` over which the surfaces blend; it moves the surface by at most
``smooth / 4``).
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

from objects.aabb import Aabb
from objects.warp import Warp

FEATURE = "feature"
# How colour changes with the direction of view: a matrix [3, 3], row by row, that is multiplied by the unit direction of a ray
# (object frame) and added to ``rgb``, the mean over all directions. It is the first degree of spherical harmonics: Ramamoorthi,
# Hanrahan, "An Efficient Representation for Irradiance Environment Maps" (SIGGRAPH 2001).
TINT, TINT_WIDTH = "tint", 9
_TAKEN = ("sdf", "rgb", "owner", "normal")  # names of other parts of samples


class Sample(tuple[Tensor, ...]):
    """A tuple with named parts that also holds channels by name. These are no part of it, so that it unpacks in the same way
    whatever there is; functions of torch that take trees (`vmap`, `functional_call`) know both."""

    names: ClassVar[tuple[str, ...]]
    more: Mapping[str, Float[Tensor, "n c"]] = MappingProxyType({})

    def __init_subclass__(cls) -> None:
        register_pytree_node(
            cls, lambda made: ([*made, dict(made.more)], None), lambda parts, _: cls(*[*parts][:-1], more=[*parts][-1])
        )

    def __new__(cls, *parts: Tensor, more: Mapping[str, Tensor] | None = None) -> Self:
        made = super().__new__(cls, parts)
        if more:
            made.more = more
        return made

    def _replace(self, *, more: Mapping[str, Tensor] | None = None, **parts: Tensor) -> Self:
        """The same sample with some parts exchanged."""
        values = dict(zip(self.names, self, strict=True)) | parts
        return type(self)(*values.values(), more=self.more if more is None else more)

    @property
    def sdf(self) -> Float[Tensor, "n"]:
        return self[0]

    @property
    def rgb(self) -> Float[Tensor, "n 3"]:
        return self[1]

    @property
    def feature(self) -> Float[Tensor, "n f"]:
        return self[2]

    def channel(self, name: str) -> Float[Tensor, "n c"]:
        """A channel by name; ``[n, 0]`` for one that is missing."""
        return self.feature if name == FEATURE else self.more.get(name, self.rgb[..., :0])


class FieldSample(Sample):
    """What a field says of ``n`` points: ``sdf [n]`` (object units, negative inside), ``rgb [n 3]`` (sRGB in 0..1), the channel
    ``feature [n f]`` (``f`` may be 0); and ``more``, the other channels by name, ``[n c]`` each."""

    names = ("sdf", "rgb", "feature")

    def __new__(cls, sdf: Tensor, rgb: Tensor, feature: Tensor, *, more: Mapping[str, Tensor] | None = None) -> Self:
        return super().__new__(cls, sdf, rgb, feature, more=more)

    def rgb_along(self, d_obj: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colours in 0..1 as seen along unit directions (object frame), of a sample that has the channel `TINT`."""
        tint = self.more[TINT].unflatten(-1, (3, 3))
        return (self.rgb + (tint @ d_obj[..., None])[..., 0]).clamp(0, 1)


def channel_fault(widths: Mapping[str, int]) -> str:
    """What is wrong with channels given as widths by name; nothing where they are as they must be."""
    for name, width in widths.items():
        if not (isinstance(name, str) and name.isidentifier() and len(name) <= 64) or name in _TAKEN:
            return f"channels: expected an identifier that is none of {', '.join(_TAKEN)}, got {name!r}"
        if isinstance(width, bool) or not isinstance(width, int) or width < 0:
            return f"channels: expected a whole number of at least 0 for {name}, got {width!r}"
    if widths.get(TINT, 0) not in (0, TINT_WIDTH):
        return f"channels: expected a {TINT} of {TINT_WIDTH}, got {widths[TINT]}"
    return ""


def channel_widths(fields: Iterable[Field]) -> dict[str, int]:
    """The channels of several fields together, each as wide as the widest of that name."""
    widths: dict[str, int] = {}
    for field in fields:
        for name, width in field.channels.items():
            widths[name] = max(width, widths.get(name, 0))
    return dict(sorted(widths.items()))


class Field(nn.Module, ABC):
    """An object as a function of space, in its own frame and units.

    Subclasses implement `inside` (and `inside_sdf`, where distance alone is cheaper) and describe themselves by `kind`,
    `config` and `children_fields`, so that files and batched evaluation need to know nothing else about them. Numbers
    that may differ between two fields of the same make-up are buffers or parameters, never Python attributes: fields
    with equal `structure()` are evaluated in one call with their tensors stacked.

    Args:
        bounds: Box in the object frame. The solid lies strictly inside: ``sdf > 0`` on the faces of the box, at every
            time that the field claims.
        lipschitz: Estimate of the largest gradient length of the distance.
        feature_width: Width of the channel ``feature``.
        channels: Widths of other channels by name.

    Raises:
        ValueError: A channel whose name is no identifier or that of another part of a sample, a negative width, or
            a tint of another width than nine.
    """

    kind: ClassVar[str] = ""
    # Whether `inside` may be asked at any point and is a bound there (never above the distance to the surface, as outside of an
    # exact solid): then it is, and the rule below only keeps it from falling under the distance to the box.
    everywhere: ClassVar[bool] = False
    box_lo: Tensor
    box_hi: Tensor
    lipschitz_estimate: Tensor
    # What a learned field misses, by name, measured where it wasn't learned from (`objects.shaping.errors_of`); files keep it.
    measured: Mapping[str, float] = MappingProxyType({})

    def __init__(
        self, bounds: Aabb, lipschitz: float = 1.0, feature_width: int = 0, channels: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("box_lo", bounds.lo.float().clone())
        self.register_buffer("box_hi", bounds.hi.float().clone())
        self.register_buffer("lipschitz_estimate", torch.tensor(float(lipschitz)))
        widths = {FEATURE: feature_width} | dict(channels or {})
        if fault := channel_fault(widths):
            raise ValueError(fault)
        self._channels = {name: widths[name] for name in sorted(widths) if widths[name]}

    @abstractmethod
    def inside(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"] | None) -> FieldSample:
        """The sample at points inside the box."""

    def inside_sdf(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"] | None) -> Float[Tensor, "n"]:
        """Signed distance alone at points inside the box."""
        return self.inside(p_obj, time).sdf

    def config(self) -> dict[str, Any]:
        """Plain numbers that fix the make-up (layer sizes, frequencies), enough to build an empty copy of this field."""
        return {}

    def children_fields(self) -> list[Field]:
        """The fields that this one is made of."""
        return []

    def own_warp(self) -> Warp | None:
        """The warp through which it sees its child; None for all but `objects.warped.Warped`."""
        return None

    @classmethod
    def empty(cls, config: dict[str, Any], children: list[Field]) -> Self:
        """A field of this kind with the given make-up; its tensors are loaded afterwards."""
        raise ValueError(f"{cls.__name__} cannot be read from a file")

    def check_values(self) -> None:
        """Checks that the tensors of this field (not of its children) make one of its kind; used when a file is read.

        Raises:
            ValueError: Naming the number, what was expected and what came.
        """
        Aabb(self.box_lo, self.box_hi)
        if not 0 < self.lipschitz < float("inf"):
            raise ValueError(f"{self.kind}: lipschitz must be finite and greater than 0, got {self.lipschitz}")

    # -- what every field can do -------------------------------------------------------------------------------------

    @property
    def channels(self) -> dict[str, int]:
        """What it says of a point beside distance and colour: widths by name, in the order of the names."""
        return self._channels

    @property
    def feature_width(self) -> int:
        """Width of the channel ``feature``."""
        return self._channels.get(FEATURE, 0)

    @property
    def grids(self) -> dict[str, Float[Tensor, "x y z"]]:
        """Coarse values over the box, by name, which aren't part of samples (see `SirenField`); of what bends, over the canonical
        one."""
        return {}

    def shape_state(self) -> dict[str, Tensor]:
        """The tensors on which distances depend, by name: an index holds while they stay as they are."""
        return self.state_dict(keep_vars=True)

    @property
    def bounds(self) -> Aabb:
        """The box, in the object frame."""
        return Aabb(self.box_lo, self.box_hi)

    @property
    def lipschitz(self) -> float:
        """Estimate of the largest gradient length of the distance (not a proof)."""
        return float(self.lipschitz_estimate)

    def forward(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"] | None = None) -> FieldSample:
        """Distance, colour and channels at any points.

        Args:
            p_obj: Points in the object frame, object units.
            time: Seconds, one for each point; only deforming fields look at it.

        Returns:
            The sample; differentiable with respect to points, weights and time. Outside the box the distance is
            ``sqrt(|p - q|^2 + max(sdf(q), 0)^2)`` with ``q`` the nearest point of the box, colour and channels are
            those of ``q``. The distance of fields that are known `everywhere` (exact solids and what is made of fields by set
            operations) goes on as it is, at least ``|p - q|``.
        """
        q = p_obj.clamp(self.box_lo, self.box_hi)
        sample = self.inside(q, time)
        if self.everywhere:
            return sample._replace(sdf=_at_least_gap(p_obj, q, self.inside_sdf(p_obj, time)))
        return sample._replace(sdf=_extended(p_obj, q, sample.sdf))

    def sdf(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"] | None = None) -> Float[Tensor, "n"]:
        """Signed distance alone, equal to ``forward(p_obj, time).sdf``."""
        q = p_obj.clamp(self.box_lo, self.box_hi)
        if self.everywhere:
            return _at_least_gap(p_obj, q, self.inside_sdf(p_obj, time))
        return _extended(p_obj, q, self.inside_sdf(q, time))

    def in_double(self) -> Self:
        """A copy in float64, the reference that float32 paths are held against."""
        return copy.deepcopy(self).double()

    @property
    def analytic(self) -> bool:
        """Whether the surface is that of a formula, so that nothing but rounding is wrong with it; learned ones are rough."""
        children = self.children_fields()
        return self.everywhere and all(child.analytic for child in children)

    @property
    def deforms(self) -> bool:
        """Whether the field depends on time. A scene asks only such fields anew at every time."""
        return any(child.deforms for child in self.children_fields())

    @property
    def span(self) -> tuple[float, float] | None:
        """First and last time (seconds) at which it changes; None for a field that depends on time and claims no span, and for
        one that doesn't depend on it. Outside of it the ends hold."""
        spans = [child.span for child in self.children_fields() if child.deforms]
        known = [span for span in spans if span is not None]
        if not known or len(known) < len(spans):
            return None
        return min(start for start, _ in known), max(end for _, end in known)

    def to_mesh(self, tolerance: float | None = None):
        """The surface as a `trimesh.Trimesh` with vertex colours, in the object frame; see `objects.meshing`."""
        from objects.meshing import field_to_mesh

        return field_to_mesh(self, tolerance)

    def __or__(self, other: Field) -> Field:
        return Union(self, other)

    def __and__(self, other: Field) -> Field:
        return Intersection(self, other)

    def __sub__(self, other: Field) -> Field:
        return Difference(self, other)


def structure(field: Field) -> dict[str, Any]:
    """The make-up of a field as a JSON tree: kinds, plain numbers, children, warp. Tensors aside, it is the whole field."""
    tree: dict[str, Any] = {"kind": field.kind, "config": field.config()}
    if children := field.children_fields():
        tree["children"] = [structure(child) for child in children]
    if (warp := field.own_warp()) is not None:
        tree["warp"] = {"kind": warp.kind, "config": warp.config()}
    return tree


def _at_least_gap(p: Tensor, q: Tensor, sdf: Tensor) -> Tensor:
    gap2 = (p - q).square().sum(-1)
    outside = gap2 > 0
    return torch.where(outside & (sdf < (gap := torch.where(outside, gap2, 1).sqrt())), gap, sdf)


def _extended(p: Tensor, q: Tensor, sdf_q: Tensor) -> Tensor:
    gap2 = (p - q).square().sum(-1)
    outside = gap2 > 0
    beyond = torch.where(outside, gap2 + sdf_q.clamp(min=0).square(), torch.ones_like(gap2)).sqrt()
    return torch.where(outside, beyond, sdf_q)


# -- set operations ----------------------------------------------------------------------------------------------------


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
        return FieldSample(self.flip * self.smooth_min(da, db), torch.lerp(b.rgb, a.rgb, share_a), feature, more=mixed)

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
