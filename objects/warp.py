"""Warps: maps over time between the frame of an object that bends and the frame of its canonical shape.

A warp says where each point of the object frame comes from (`canonical`) and where each canonical point is at a time
(`deformed`). A subclass gives one direction or both, `backward_map` and `forward_map`; the other is found by iteration. A warp
claims a box and a span of seconds: at all times of the span the deformed thing lies within the box. Times outside of the span
are clamped to it, never extrapolated; looping is the matter of who asks.

Source of the iteration: Broyden, "A Class of Methods for Solving Nonlinear Simultaneous Equations" (1965), as used for skinned
fields by Chen et al., "SNARF: Differentiable Forward Skinning for Animating Non-Rigid Neural Implicit Shapes" (ICCV 2021).
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objects.aabb import Aabb

Map = Callable[[Float[Tensor, "n 3"], Float[Tensor, "n"]], Float[Tensor, "n 3"]]

_ROUNDS = 12  # of the search for an inverse; gentle maps need about 5
_STEP = 1e-3  # of finite differences, a share of the diagonal of the box
_FINE = 1e-3  # of a span: what times may be rounded by
_FARTHEST = 200.0  # steps that one move may span


class Warp(nn.Module, ABC):
    """A map between canonical and object frame at each time of a span.

    A subclass gives `backward_map`, `forward_map` or both, and describes itself by `kind` and `config` as fields do; all its
    numbers are buffers or parameters.

    Args:
        box: Object frame; holds the deformed thing at all times of the span.
        span: First and last time, seconds.

    Raises:
        ValueError: A span that is not finite or ends before it begins.
    """

    kind: ClassVar[str] = ""
    # Whether the maps are plain torch operations without choices that depend on values, so that `torch.func.vmap` can run them.
    batched: ClassVar[bool] = True
    box_lo: Tensor
    box_hi: Tensor
    seconds: Tensor

    def __init__(self, box: Aabb, span: tuple[float, float]) -> None:
        super().__init__()
        if type(self).backward_map is Warp.backward_map and type(self).forward_map is Warp.forward_map:
            raise TypeError(f"{type(self).__name__}: expected a backward_map, a forward_map, or both")
        if not isinstance(box, Aabb):
            raise ValueError(
                f"{type(self).__name__}: box: expected an Aabb, such as field.bounds, got {type(box).__name__}"
            )
        self.register_buffer("box_lo", box.lo.float().clone())
        self.register_buffer("box_hi", box.hi.float().clone())
        self.register_buffer("seconds", torch.tensor(span, dtype=torch.float32))
        Warp.check_values(self)

    def backward_map(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
        """Canonical points of points of the object frame, at times within the span; by default the inverse of `forward_map`."""
        return inverted(lambda p: self.forward_map(p, time), p_obj, self._step)

    def forward_map(self, p_canonical: Float[Tensor, "n 3"], time: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
        """Where canonical points are, at times within the span; by default the inverse of `backward_map`."""
        return inverted(lambda p: self.backward_map(p, time), p_canonical, self._step)

    def config(self) -> dict[str, Any]:
        """Plain numbers that fix the make-up (counts of keys, layer sizes), enough to build an empty copy."""
        return {}

    @classmethod
    def empty(cls, config: dict[str, Any]) -> Self:
        """A warp of this kind with the given make-up; its tensors are loaded afterwards."""
        raise ValueError(f"{cls.__name__} cannot be read from a file")

    def check_values(self) -> None:
        """Checks that the tensors make a warp of this kind; used when a file is read.

        Raises:
            ValueError: Naming the number, what was expected and what came.
        """
        Aabb(self.box_lo, self.box_hi)
        if self.seconds.shape != (2,):
            raise ValueError(f"{self.kind}: span must be two times, got shape {list(self.seconds.shape)}")
        start, end = self.span
        if not (math.isfinite(start) and math.isfinite(end) and start <= end):
            raise ValueError(f"{self.kind}: span must be finite and not end before it begins, got {start}..{end}")
        if max(abs(start), abs(end)) * 2.0**-23 > _FINE * (end - start) > 0:
            text = "expected a span near 0 s, as float32 can't tell its times apart; a clock moves it"
            raise ValueError(f"{self.kind}: {text}, got {start}..{end}")

    # -- what every warp can do ----------------------------------------------------------------------------------------

    @property
    def box(self) -> Aabb:
        """Object frame: holds the deformed thing at all times of `span`."""
        return Aabb(self.box_lo, self.box_hi)

    @property
    def span(self) -> tuple[float, float]:
        """First and last time, seconds."""
        start, end = self.seconds.tolist()
        return start, end

    @property
    def _step(self) -> Tensor:
        return _STEP * (self.box_hi - self.box_lo).norm()

    def canonical(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
        """Where points of the object frame come from.

        Args:
            p_obj: Object units.
            time: Seconds, one for each point; clamped to the span.

        Returns:
            Points of the canonical frame; differentiable with respect to points, times and weights.
        """
        return self.backward_map(p_obj, self.clamped(time))

    def reached(
        self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
        """As `canonical`, and how far ``[n]`` (object units) each point is beyond the place that its canonical point was taken
        from: by so much its distance to the surface is larger. 0 but for warps that know space only near their thing."""
        found = self.canonical(p_obj, time)
        return found, torch.zeros_like(found[..., 0])

    def deformed(self, p_canonical: Float[Tensor, "n 3"], time: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
        """Where canonical points are in the object frame; arguments and result as for `canonical`."""
        return self.forward_map(p_canonical, self.clamped(time))

    def carried(
        self, p_obj: Float[Tensor, "n 3"], start: Float[Tensor, "n"], end: Float[Tensor, "n"]
    ) -> Float[Tensor, "n 3"]:
        """Where points of the thing that are at ``p_obj`` at ``start`` are at ``end`` (seconds, one for each point)."""
        return self.deformed(self.canonical(p_obj, start), end)

    def residual(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """How far a point comes back from itself when it goes to the canonical frame and back, object units. Where it is large, the
        warp folds space or an inverse was not found."""
        return (self.deformed(self.canonical(p_obj, time), time) - p_obj).norm(dim=-1)

    def jacobian(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
        """Derivative of `canonical` by ``p_obj``, ``[n, canonical axis, object axis]``; without a graph."""
        with torch.enable_grad():
            p = p_obj.detach().requires_grad_(True)
            q = self.canonical(p, time)
            rows = [torch.autograd.grad(q[:, k].sum(), p, retain_graph=k < 2)[0] for k in range(3)]
        return torch.stack(rows, 1)

    def clamped(self, time: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Times, those outside of the span at its ends."""
        return time.clamp(self.seconds[0], self.seconds[1])


def inverted(
    function: Callable[[Tensor], Tensor], target: Float[Tensor, "n 3"], step: Tensor | float, rounds: int = _ROUNDS
) -> Float[Tensor, "n 3"]:
    """Points ``x`` with ``function(x) = target``, searched from ``x = target`` by Broyden's method.

    Args:
        function: Maps ``[n, 3]`` to ``[n, 3]``, each point by itself, not too far from the identity.
        target: Where it must lead.
        step: Length of finite differences, in the units of the points.
        rounds: Evaluations after the first four.

    Returns:
        The best points seen: nothing says that one was found, see `Warp.residual`. With gradients on they are differentiable with
        respect to the target and to all that ``function`` reads (implicit function theorem).
    """
    with torch.no_grad():
        best = target
        value = function(best)
        off = value - target
        least = off.square().sum(-1)
        inverse = safe_inverse(_differences(function, best, value, step))
        for _ in range(rounds):
            move = -(inverse @ off[..., None])[..., 0]
            # No step is longer than this: far from where they were found, differences say nothing.
            move = move * (_FARTHEST * step / move.norm(dim=-1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
            new = function(best + move) - target
            through = (inverse @ (new - off)[..., None])[..., 0]
            scale = (move * through).sum(-1)
            told = scale.abs() > 1e-30
            share = torch.where(told, 1 / torch.where(told, scale, torch.ones_like(scale)), torch.zeros_like(scale))
            row = (move[..., None, :] @ inverse)[..., 0, :]
            inverse = inverse + share[..., None, None] * (move - through)[..., :, None] * row[..., None, :]
            size = new.square().sum(-1)
            better = (size < least)[..., None]
            best, off = torch.where(better, best + move, best), torch.where(better, new, off)
            least = torch.minimum(size, least)
    if not torch.is_grad_enabled():
        return best
    found = function(best)
    with torch.no_grad():
        inverse = safe_inverse(
            0.5 * (_differences(function, best, found, step) + _differences(function, best, found, -step))
        )
    back = (inverse @ (found - target)[..., None])[..., 0]
    return best - (back - back.detach())


def _differences(function: Callable[[Tensor], Tensor], x: Tensor, value: Tensor, step: Tensor | float) -> Tensor:
    """Jacobian ``[n, 3, 3]`` of a function at ``x``, where it has ``value``, by forward differences."""
    axes = step * torch.eye(3, dtype=x.dtype, device=x.device)
    return torch.stack([(function(x + axes[k]) - value) / step for k in range(3)], -1)


def safe_inverse(matrix: Tensor) -> Tensor:
    """Inverses of matrices ``[n, 3, 3]`` by cofactors; large, not infinite, where there is none."""
    a, b, c = matrix.unbind(-2)
    rows = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1)
    det = (a * rows[..., 0]).sum(-1)
    least = 1e-6 * (matrix.square().sum((-2, -1)) / 3).clamp(min=1e-20) ** 1.5  # whatever the units are
    return rows / torch.where(det.abs() < least, least, det)[..., None, None]


def deformed_box(forward: Map, box: Aabb, times: Float[Tensor, "k"], longest: int = 17) -> Aabb:
    """A box around what a forward map makes of a canonical box at all times between the first and the last.

    Sampled at a lattice and at ``times``, grown by the largest step between neighbours (a point lies within half of it from a
    sample where the map is smooth).
    """
    axes = [torch.linspace(float(box.lo[c]), float(box.hi[c]), longest) for c in range(3)]
    p = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    with torch.no_grad():
        seen = [forward(p.reshape(-1, 3), p.new_full((p[..., 0].numel(),), t)).view_as(p) for t in times.tolist()]
    q = torch.stack(seen).double()
    steps = [q.diff(dim=axis).norm(dim=-1).amax() for axis in range(4) if q.shape[axis] > 1]
    flat = q.reshape(-1, 3)
    return Aabb(flat.amin(0), flat.amax(0)).padded(0.5 * float(torch.stack(steps).norm()))
