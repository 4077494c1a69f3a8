"""A field that bends: a canonical field seen through a warp."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from objects.field import TINT, Field, FieldSample
from objects.warp import Warp

_NEAR = 0.1  # how far around its box the canonical field is thought near, a share of the box diagonal
_CLOSE = 0.03  # distance up to which points count as those of the thing, a share of the same
_LOST = 0.01  # distance from where it was, at which a point has not come back, a share of the same
_TIMES = 64  # different times among the samples: warps may have to prepare each
_SAFETY = 1.05  # factor on the largest stretch seen: samples miss the largest


@dataclass(frozen=True)
class WarpMeasure:
    """How a warp treats space near its field, at sampled points and times.

    Attributes:
        stretch: Largest length that `Warp.canonical` makes of a unit step; distances of the canonical field are divided by it.
        folded: Share of the points in the thing or close to it where space is folded over: the Jacobian's determinant isn't above
            0, or a canonical point doesn't come back to within a hundredth of the diagonal from where it is deformed to.
        residual: How far from themselves such canonical points come back; 99 of 100 are within. A share of the diagonal of the
            canonical box.
    """

    stretch: float
    folded: float
    residual: float


def measure_warp(field: Field, warp: Warp, *, n_points: int = 4096, seed: int = 0) -> WarpMeasure:
    """Measures a warp of a canonical field at ``n_points`` points of its box and 16 times of its span.

    Raises:
        ValueError: The warp is not finite somewhere in its box.
    """
    draws = torch.quasirandom.SobolEngine(4, scramble=True, seed=seed).draw(n_points).to(warp.box_lo.dtype)
    p = warp.box_lo + draws[:, :3] * (warp.box_hi - warp.box_lo)
    share = (draws[:, 3] * _TIMES).floor() / (_TIMES - 1)  # some warps pay for each different time
    time = torch.lerp(warp.seconds[0], warp.seconds[1], share)
    jacobian = warp.jacobian(p, time)
    with torch.no_grad():
        q, beyond = warp.reached(p, time)
    if not (torch.isfinite(q).all() and torch.isfinite(jacobian).all()):
        raise ValueError(
            f"{type(warp).__name__}: expected finite canonical points in its box, got NaN or infinite ones"
        )
    near = field.bounds.padded(_NEAR * field.bounds.diagonal).contains(q)
    if not near.any():
        raise ValueError(
            f"{type(warp).__name__}: expected a box that the warp maps to about {field.box_lo.tolist()}..{field.box_hi.tolist()}, "
            f"got {q.amin(0).tolist()}..{q.amax(0).tolist()}"
        )
    with torch.no_grad():
        det = torch.linalg.det(jacobian.double())
        length = det.abs() ** (1 / 3)  # from object to canonical units
        close = near & (field.sdf(q).abs() + length * beyond < _CLOSE * field.bounds.diagonal)
        turned = det[close] * det[close].sum().sign() <= 0  # a mirror folds nothing
        q = field.box_lo + draws[:, :3] * field.bounds.size
        thing = field.sdf(q).abs() < _CLOSE * field.bounds.diagonal
        q, time = q[thing], time[thing]
        off = (warp.canonical(warp.deformed(q, time), time) - q).norm(dim=-1).double() / field.bounds.diagonal
        lost = off > _LOST
    stretch = float(torch.linalg.matrix_norm(jacobian[near].double(), 2).max())
    folded = max(float(values.double().mean()) if len(values) else 0.0 for values in (turned, lost))
    return WarpMeasure(_SAFETY * stretch, folded, float(off.quantile(0.99)) if len(off) else 0.0)


class Warped(Field):
    """A canonical field that bends: its points are those of ``field`` where ``warp`` says they come from.

    The distance is that of the canonical field divided by the warp's ``stretch``: where it is true to that, a bound (never above
    the distance to the surface). Colour and channels are those of the canonical point; a tint is left out.

    Args:
        field: The canonical field, which must not depend on time itself.
        warp: The map to its frame; its box becomes the field's.
        stretch: Largest length that `Warp.canonical` makes of a unit step; measured if it isn't given (`measure_warp`).

    Raises:
        ValueError: Not a field and a warp, a field that depends on time, or a stretch that is not finite and above 0.
    """

    kind = "warped"
    stretch: Tensor

    def __init__(self, field: Field, warp: Warp, *, stretch: float | None = None) -> None:
        if not isinstance(field, Field):
            raise ValueError(f"warped: field must be a Field, got {type(field).__name__}")
        if not isinstance(warp, Warp):
            raise ValueError(f"warped: warp must be a Warp, got {type(warp).__name__}")
        if field.deforms:
            raise ValueError("warped: field must be canonical, got one that depends on time itself")
        channels = {name: width for name, width in field.channels.items() if name != TINT}
        super().__init__(warp.box, field.lipschitz, channels=channels)
        self.field, self.warp = field, warp
        stretch = measure_warp(field, warp).stretch if stretch is None else stretch
        self.register_buffer("stretch", torch.tensor(float(stretch)))
        self.check_values()

    def canonical(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"] | None) -> Float[Tensor, "n 3"]:
        """Where points come from, canonical frame; see `Warp.canonical`. Without a time: at 0 s, clamped as any."""
        return self.warp.canonical(p_obj, self._at(p_obj, time))

    def deformed(self, p_canonical: Float[Tensor, "n 3"], time: Float[Tensor, "n"] | None) -> Float[Tensor, "n 3"]:
        """Where canonical points are, object frame; see `Warp.deformed`."""
        return self.warp.deformed(p_canonical, self._at(p_canonical, time))

    def reached(
        self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"] | None
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
        """As `canonical`, and how far points are beyond where these were taken from; see `Warp.reached`."""
        return self.warp.reached(p_obj, self._at(p_obj, time))

    def inside(self, p_obj: Tensor, time: Tensor | None) -> FieldSample:
        p_canonical, beyond = self.reached(p_obj, time)
        sample = self.field(p_canonical)
        more = {name: value for name, value in sample.more.items() if name != TINT}
        return sample._replace(sdf=self._distance(sample.sdf, beyond), more=more)

    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor:
        p_canonical, beyond = self.reached(p_obj, time)
        return self._distance(self.field.sdf(p_canonical), beyond)

    def _distance(self, sdf: Tensor, beyond: Tensor) -> Tensor:
        return sdf / self.stretch + torch.where(sdf < 0, -beyond, beyond)

    @property
    def deforms(self) -> bool:
        return True

    @property
    def span(self) -> tuple[float, float]:
        return self.warp.span

    def own_warp(self) -> Warp:
        return self.warp

    @property
    def grids(self) -> dict[str, Tensor]:
        """Those of the canonical field, over its box."""
        return self.field.grids

    def shape_state(self) -> dict[str, Tensor]:
        own = {name: value for name, value in super().shape_state().items() if not name.startswith("field.")}
        return own | {f"field.{name}": value for name, value in self.field.shape_state().items()}

    def check_values(self) -> None:
        super().check_values()
        if not (math.isfinite(float(self.stretch)) and float(self.stretch) > 0):
            raise ValueError(f"warped: stretch must be finite and greater than 0, got {float(self.stretch)}")
        if not (torch.equal(self.box_lo, self.warp.box_lo) and torch.equal(self.box_hi, self.warp.box_hi)):
            raise ValueError("warped: expected the box of its warp, got another one")

    def children_fields(self) -> list[Field]:
        return [self.field]

    def _at(self, p: Tensor, time: Tensor | None) -> Tensor:
        return p.new_zeros(len(p)) if time is None else time
