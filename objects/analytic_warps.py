"""Warps by formula, exact in both directions: bend and twist.

Source: Barr, "Global and Local Deformations of Solid Primitives" (SIGGRAPH 1984).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from objects.aabb import Aabb
from objects.warp import Warp, deformed_box

_BETWEEN = 8  # times between two keys at which the box is sampled
_LARGEST_BEND = 1.9 * math.pi  # radians from end to end: at a full turn the ends meet


class _Keyed(Warp):
    """A warp by one number over time, in a frame of its own: ``p_obj = frame @ p_own + origin``.

    The number goes linearly from key to key.
    """

    frame: Tensor
    origin: Tensor
    times: Tensor
    values: Tensor

    def _keep(
        self,
        box: Aabb,
        frame: Float[Tensor, "3 3"],
        origin: Sequence[float],
        times: Sequence[float],
        values: Sequence[float],
    ) -> None:
        """Takes its numbers; ``box`` is that of the canonical thing."""
        at = torch.as_tensor(times, dtype=torch.float32).reshape(-1)
        said = torch.as_tensor(values, dtype=torch.float32).reshape(-1)
        if not len(at) or len(at) != len(said):
            raise ValueError(f"{self.kind}: expected as many values as times, got {len(said)} and {len(at)}")
        self.seconds = at[[0, -1]].clone()
        self.register_buffer("frame", frame.float())
        self.register_buffer("origin", torch.as_tensor(origin, dtype=torch.float32))
        self.register_buffer("times", at)
        self.register_buffer("values", said)
        _Keyed.check_values(self)
        between = torch.lerp(at[:-1, None], at[1:, None], torch.arange(_BETWEEN) / _BETWEEN).reshape(-1)
        held = deformed_box(self.forward_map, box, torch.cat([between, at[-1:]]))
        self.box_lo, self.box_hi = held.lo.float(), held.hi.float()

    def check_values(self) -> None:
        super().check_values()
        if self.origin.shape != (3,) or not torch.isfinite(self.origin).all():
            raise ValueError(f"{self.kind}: origin must be a finite 3-vector, got {self.origin.tolist()}")
        if not torch.allclose(self.frame @ self.frame.mT, torch.eye(3, dtype=self.frame.dtype), atol=1e-4):
            raise ValueError(f"{self.kind}: expected axes at right angles, got {self.frame.tolist()}")
        if not (torch.isfinite(self.times).all() and (self.times.diff() > 0).all()):
            raise ValueError(f"{self.kind}: times must be finite and increase, got {self.times.tolist()}")
        if not torch.isfinite(self.values).all():
            raise ValueError(f"{self.kind}: expected finite values, got {self.values.tolist()}")

    def config(self) -> dict[str, Any]:
        return {"keys": len(self.times)}

    @classmethod
    def empty(cls, config: dict[str, Any]) -> Self:
        warp, ones = cls.__new__(cls), torch.ones(3)
        Warp.__init__(warp, Aabb(-ones, ones), (0.0, 1.0))
        warp.register_buffer("frame", torch.eye(3))
        warp.register_buffer("origin", torch.zeros(3))
        warp.register_buffer("times", torch.arange(float(config["keys"])))
        warp.register_buffer("values", torch.zeros(config["keys"]))
        return warp

    def value(self, time: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The number at times."""
        if len(self.times) == 1:
            return self.values[0].expand(len(time))
        share = ((time[:, None] - self.times[:-1]) / self.times.diff()).clamp(0, 1)
        return self.values[0] + (share * self.values.diff()).sum(-1)

    def _own(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, z = ((p - self.origin) @ self.frame).unbind(-1)
        return x, y, z

    def _out(self, *coordinates: Tensor) -> Tensor:
        return torch.stack(coordinates, -1) @ self.frame.mT + self.origin


class Twist(_Keyed):
    """Turns about an axis, the more the farther along it: by ``angle`` for each unit of length.

    Args:
        box: Of the canonical thing.
        axis: Direction of the axis.
        origin: A point of the axis that stays where it is.
        times: Keys, seconds, increasing.
        angles: At each key, radians per unit of length.

    Raises:
        ValueError: No axis, keys that don't increase, different numbers of times and angles, or numbers that are not finite.
    """

    kind = "twist"

    def __init__(
        self,
        box: Aabb,
        axis: Sequence[float],
        origin: Sequence[float],
        times: Sequence[float],
        angles: Sequence[float],
    ) -> None:
        super().__init__(box, (0.0, 1.0))
        self._keep(box, _frame(self.kind, axis), origin, times, angles)

    def backward_map(self, p_obj: Tensor, time: Tensor) -> Tensor:
        return self._turned(p_obj, -self.value(time))

    def forward_map(self, p_canonical: Tensor, time: Tensor) -> Tensor:
        return self._turned(p_canonical, self.value(time))

    def _turned(self, p: Tensor, rate: Tensor) -> Tensor:
        x, y, z = self._own(p)
        cos, sin = torch.cos(rate * x), torch.sin(rate * x)
        return self._out(x, cos * y - sin * z, sin * y + cos * z)


class Bend(_Keyed):
    """Bends a stretch of an axis to an arc of constant length; what is beyond its ends goes on straight.

    Space on the inner side is folded from the arc's centre on, ``1 / curvature`` away: the thing must be thinner.

    Args:
        box: Of the canonical thing.
        axis: Direction along which it is bent.
        towards: Direction to which its ends bend; the part at right angles to the axis counts.
        origin: Middle of the stretch, which stays where it is.
        length: Of the stretch.
        times: Keys, seconds, increasing.
        curvatures: At each key, radians per unit of length.

    Raises:
        ValueError: As `Twist`, a length that is not above 0, or a bend of nearly a full turn or more.
    """

    kind = "bend"
    length: Tensor

    def __init__(
        self,
        box: Aabb,
        axis: Sequence[float],
        towards: Sequence[float],
        origin: Sequence[float],
        length: float,
        times: Sequence[float],
        curvatures: Sequence[float],
    ) -> None:
        super().__init__(box, (0.0, 1.0))
        self.register_buffer("length", torch.tensor(float(length)))
        self._keep(box, _frame(self.kind, axis, towards), origin, times, curvatures)
        self.check_values()

    def check_values(self) -> None:
        super().check_values()
        if not (math.isfinite(float(self.length)) and float(self.length) > 0):
            raise ValueError(f"bend: length must be finite and greater than 0, got {float(self.length)}")
        most = float(self.values.abs().max() * self.length)
        if most > _LARGEST_BEND:
            raise ValueError(f"bend: expected at most {_LARGEST_BEND:.3g} radians from end to end, got {most:.4g}")

    @classmethod
    def empty(cls, config: dict[str, Any]) -> Self:
        warp = super().empty(config)
        warp.register_buffer("length", torch.tensor(1.0))
        return warp

    def forward_map(self, p_canonical: Tensor, time: Tensor) -> Tensor:
        x, y, z = self._own(p_canonical)
        bent = x.clamp(-0.5 * self.length, 0.5 * self.length)
        (mx, my), (cos, sin) = _arc(self.value(time), bent)
        along = x - bent
        return self._out(mx + cos * along - sin * y, my + sin * along + cos * y, z)

    def backward_map(self, p_obj: Tensor, time: Tensor) -> Tensor:
        x, y, z = self._own(p_obj)
        k = self.value(time)
        straight = k.abs() < 1e-6
        # From the arc's centre the point is seen under this angle; on the line of a straight one at its place.
        angle = torch.atan2(torch.where(straight, torch.zeros_like(k), k * x), 1 - k * y)
        bent = torch.where(straight, x, angle / torch.where(straight, torch.ones_like(k), k))
        bent = bent.clamp(-0.5 * self.length, 0.5 * self.length)
        (mx, my), (cos, sin) = _arc(k, bent)
        dx, dy = x - mx, y - my
        return self._out(bent + cos * dx + sin * dy, cos * dy - sin * dx, z)


def _arc(curvature: Tensor, length: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The place at ``length`` of an arc that starts along x and bends to y, and cosine and sine of its direction there."""
    angle = curvature * length
    half = torch.sinc(0.5 * angle / math.pi)
    return (
        (length * torch.sinc(angle / math.pi), length * torch.sin(0.5 * angle) * half),
        (torch.cos(angle), torch.sin(angle)),
    )


def _frame(kind: str, axis: Sequence[float], towards: Sequence[float] | None = None) -> Float[Tensor, "3 3"]:
    """Right-handed axes as columns: x along ``axis``, y as far as can be along ``towards``."""
    x = torch.as_tensor(axis, dtype=torch.float64)
    if x.shape != (3,) or not torch.isfinite(x).all() or float(x.norm()) < 1e-9:
        raise ValueError(f"{kind}: axis must be a finite 3-vector of a length above 0, got {list(axis)}")
    x = x / x.norm()
    aim = torch.eye(3, dtype=torch.float64)[int(x.abs().argmin())] if towards is None else torch.as_tensor(towards)
    aim = aim.double()
    if aim.shape != (3,) or not torch.isfinite(aim).all():
        raise ValueError(f"{kind}: towards must be a finite 3-vector, got {towards}")
    y = aim - (aim @ x) * x
    if float(y.norm()) < 1e-6:
        raise ValueError(f"{kind}: towards must not lie along the axis, got {towards}")
    y = y / y.norm()
    return torch.stack([x, y, torch.linalg.cross(x, y)], 1)
