"""A warp by nodes on the canonical surface that move rigidly at each key, blended in space and interpolated in time.

Source: Sumner, Schmid, Pauly, "Embedded Deformation for Shape Manipulation" (SIGGRAPH 2007). Which nodes move a point is decided
along the surface, by its nearest anchor: what only comes close in space (a hand at a hip) isn't moved along. The way back starts
at the nearest anchor where the anchors are at that time, and is closed by Newton's method; where two parts of the surface meet,
the nearer one is taken, as for the distance to a union.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from objects.aabb import Aabb
from objects.pose import rotation_from_quat
from objects.warp import Warp

if TYPE_CHECKING:
    from scipy.spatial import KDTree

BLEND = 0.75  # width of the Gaussian weights of nodes, in units of the spacing
_ROUNDS = 8  # of Newton's method
_EXACT = 1e-4  # distance from where a point should be at which it is there, in units of the spacing
_CHUNK = 1 << 15  # points at a time
_BETWEEN = 4  # times between two keys at which the box is measured
_PADDING = 0.05  # space between the thing and its box, a share of the longest edge
_TICK = 1e-4  # seconds between which motion is measured, a share of the span
_KEPT = 64  # times for which the places of the anchors are kept


AtTime = Callable[[Tensor, Tensor], Tensor]  # points [n, 3] and one time


class NodeKeys(NamedTuple):
    """What a warp by nodes is made of; canonical frame and units.

    Attributes:
        nodes: Where the nodes are.
        near: Nodes that may move a point whose home is a node, for each node.
        anchors: Points on the surface.
        homes: The home of each anchor, a node.
        spacing: Scale of the blending, about the largest distance from an anchor to its home.
        times: Keys, seconds, increasing.
        turns, shifts: How the nodes moved at each key, unit quaternions (wxyz) and translations: a node at ``g`` takes ``p``
            to ``turn (p - g) + g + shift``.
    """

    nodes: Float[np.ndarray, "k 3"]
    near: Int[np.ndarray, "k m"]
    anchors: Float[np.ndarray, "a 3"]
    homes: Int[np.ndarray, "a"]
    spacing: float
    times: Float[np.ndarray, "t"]
    turns: Float[np.ndarray, "t k 4"]
    shifts: Float[np.ndarray, "t k 3"]


class _Kept:
    """What a warp has worked out; copies of the warp begin anew."""

    def __init__(self) -> None:
        self.numbers: tuple[Tensor, ...] = ()
        self.versions: tuple[int, ...] = ()
        self.trees: dict[float | None, Any] = {}
        self.times: tuple[float, ...] = ()
        self.spline: tuple[Tensor, Tensor] = (torch.zeros(0), torch.zeros(0))

    def trees_of(self, numbers: tuple[Tensor, ...]) -> dict[float | None, Any]:
        """Trees by time, none if any of the numbers has changed."""
        versions = tuple(t._version for t in numbers)
        if versions != self.versions or any(a is not b for a, b in zip(numbers, self.numbers, strict=False)):
            self.numbers, self.versions, self.trees = numbers, versions, {}
        return self.trees

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()


class NodeWarp(Warp):
    """A warp by nodes with keys.

    Args:
        keys: Nodes, anchors and motions.
        period: Seconds after which the motion begins again (a loop), more than the keys span; None where it doesn't.
        padding: Space around the thing in its box, in its units; a twentieth of the longest edge if it isn't given.

    Raises:
        ValueError: Numbers that don't fit together, are not finite or out of range.
    """

    kind = "nodes"
    batched = False
    nodes: Tensor
    near: Tensor
    anchors: Tensor
    homes: Tensor
    spacing: Tensor
    times: Tensor
    turns: Tensor
    shifts: Tensor

    def __init__(self, keys: NodeKeys, *, period: float | None = None, padding: float | None = None) -> None:
        times = np.asarray(keys.times, np.float64)
        start, end = float(times[0]), float(times[-1])
        if period is not None and not period > end - start:
            raise ValueError(f"nodes: period must be more than the {end - start:g} s that the keys span, got {period}")
        super().__init__(Aabb(-torch.ones(3), torch.ones(3)), (start, end if period is None else start + period))
        self.loops, self._kept = period is not None, _Kept()
        for name, value in keys._asdict().items():
            self.register_buffer(name, torch.as_tensor(np.asarray(value, np.float32)))
        self._check_numbers()
        held = self._held_box(padding)
        self.box_lo, self.box_hi = held.lo.float(), held.hi.float()

    def config(self) -> dict[str, Any]:
        return {
            "keys": len(self.times), "nodes": len(self.nodes), "near": self.near.shape[1], "anchors": len(self.anchors),
            "loops": int(self.loops),
        }  # fmt: skip

    @classmethod
    def empty(cls, config: dict[str, Any]) -> Self:
        t, k, a = config["keys"], config["nodes"], config["anchors"]
        warp, ones = cls.__new__(cls), torch.ones(3)
        Warp.__init__(warp, Aabb(-ones, ones), (0.0, 1.0))
        warp.loops, warp._kept = bool(config["loops"]), _Kept()
        shapes = {
            "nodes": (k, 3), "near": (k, config["near"]), "anchors": (a, 3), "homes": (a,), "spacing": (), "times": (t,),
            "turns": (t, k, 4), "shifts": (t, k, 3),
        }  # fmt: skip
        for name, shape in shapes.items():
            warp.register_buffer(name, torch.zeros(shape))
        return warp

    def check_values(self) -> None:
        super().check_values()
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("nodes", "anchors", "turns", "shifts", "times"):
            if not torch.isfinite(getattr(self, name)).all():
                raise ValueError(f"nodes: expected finite {name}, got NaN or infinite ones")
        k = len(self.nodes)
        for name in ("near", "homes"):
            index = getattr(self, name)
            if not ((index >= 0) & (index < k) & (index == index.round())).all():
                raise ValueError(f"nodes: expected {name} to be numbers of the {k} nodes, got others")
        if not (self.times.diff() > 0).all():
            raise ValueError(f"nodes: times must increase, got {self.times.tolist()}")
        if not (torch.isfinite(self.spacing) and self.spacing > 0):
            raise ValueError(f"nodes: spacing must be finite and greater than 0, got {float(self.spacing)}")
        if not (self.turns.norm(dim=-1) > 0.1).all():
            raise ValueError("nodes: expected unit quaternions, got some of length 0")

    # -- the maps ------------------------------------------------------------------------------------------------------

    def forward_map(self, p_canonical: Float[Tensor, "n 3"], time: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
        return self._by_time(self._deformed_at, p_canonical, time)

    def backward_map(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
        return self._by_time(self._canonical_at, p_obj, time)

    def _by_time(self, function: AtTime, p: Tensor, time: Tensor) -> Tensor:
        """Asks for the points of each time together."""
        if not len(p):
            return p
        times, which = torch.unique(time.detach(), return_inverse=True)
        found = torch.empty_like(p)
        for i in range(len(times)):
            mine = (which == i).nonzero()[:, 0]
            asked = torch.cat([function(part, times[i]) for part in p[mine].split(_CHUNK)])
            found = asked if len(times) == 1 else found.index_copy(0, mine, asked)
        if torch.is_grad_enabled() and time.requires_grad:
            step = _TICK * (self.seconds[1] - self.seconds[0]).clamp(min=1e-6).to(time)
            with torch.no_grad():
                after, before = ((time + s).clamp(self.seconds[0], self.seconds[1]) for s in (step, -step))
                velocity = self._by_time(function, p, after) - self._by_time(function, p, before)
                velocity = velocity / (after - before)[:, None]
            found = found + velocity * (time - time.detach())[:, None]
        return found

    def _deformed_at(self, p: Tensor, time: Tensor) -> Tensor:
        home = self.homes.long()[_nearest(self._tree(None), p)]
        return self._blended(p, home, *self._motion(time))[0]

    def _canonical_at(self, p: Tensor, time: Tensor) -> Tensor:
        turn, shift = self._motion(time)
        with torch.no_grad():
            anchor = _nearest(self._tree(time), p)
            home = self.homes.long()[anchor]
            at = self.anchors[anchor]
            there, slope = self._blended(at, home, turn, shift)
            x = at + _solved(slope, p - there)
            value, slope = self._blended(x, home, turn, shift)
            off, to, near = (value - p).square().sum(-1), p, home
            best, least, best_slope = x.clone(), off.clone(), slope.clone()
            open_ = torch.arange(len(p), device=p.device)
            for _ in range(_ROUNDS):
                going = (off > (_EXACT * self.spacing) ** 2).nonzero()[:, 0]
                if not len(going):
                    break
                open_, x, value, slope, to, near = (t[going] for t in (open_, x, value, slope, to, near))
                step = _solved(slope, to - value)
                # Far from where it was found the slope says nothing.
                step = step * (self.spacing / step.norm(dim=-1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
                x = x + step
                value, slope = self._blended(x, near, turn, shift)
                off = (value - to).square().sum(-1)
                better = off < least[open_]
                mine = open_[better]
                best[mine], best_slope[mine], least[mine] = x[better], slope[better], off[better]
        if not torch.is_grad_enabled():
            return best
        # By the implicit function theorem: with respect to the points, and to all that the forward map reads.
        value, _ = self._blended(best, home, turn, shift)
        back = _solved(best_slope, value - p)
        return best - (back - back.detach())

    def _blended(
        self, x: Float[Tensor, "n 3"], home: Int[Tensor, "n"], turn: Float[Tensor, "k 3 3"], shift: Float[Tensor, "k 3"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3 3"]]:
        """Where the nodes about the homes take points, and (nearly) the derivative by the points, without a graph."""
        index = self.near.long()[home]
        nodes = self.nodes[index]
        off = x[:, None] - nodes
        squared = off.square().sum(-1)
        width = 2 * (BLEND * self.spacing) ** 2 + squared.min(1, keepdim=True).values
        weight = torch.softmax(-squared / width, 1)
        places = (turn[index] @ off[..., None])[..., 0] + nodes + shift[index]
        there = (weight[..., None] * places).sum(1)
        with torch.no_grad():
            slope = (weight[..., None, None] * turn[index]).sum(1)
            pull = -2 * off / width[..., None]
            pull = weight[..., None] * (pull - (weight[..., None] * pull).sum(1, keepdim=True))
            slope = slope + torch.einsum("nma,nmb->nab", places - there[:, None], pull)
        return there, slope

    # -- over time -----------------------------------------------------------------------------------------------------

    def _motion(self, time: Tensor) -> tuple[Float[Tensor, "k 3 3"], Float[Tensor, "k 3"]]:
        """Rotations and translations of all nodes at a time."""
        share = self._shares(time)
        turn = torch.einsum("t,tka->ka", share, self.turns)
        turn = turn / turn.norm(dim=-1, keepdim=True)
        return rotation_from_quat(turn), torch.einsum("t,tka->ka", share, self.shifts)

    def _shares(self, time: Tensor) -> Float[Tensor, "t"]:
        """How much each key counts at a time: a cubic spline, natural or periodic."""
        if len(self.times) == 1:
            return torch.ones_like(self.times)
        knots, pieces = self._spline()
        at = (torch.searchsorted(knots, time.detach().double().reshape(1)) - 1).clamp(0, len(knots) - 2)[0]
        u = time - knots[at].to(time)
        powers = torch.stack([u**3, u**2, u, torch.ones_like(u)])
        return torch.einsum("c,ct->t", powers.to(self.times), pieces[:, at].to(self.times))

    def _spline(self) -> tuple[Float[Tensor, "s"], Float[Tensor, "4 s-1 t"]]:
        """Knots and coefficients of the splines that are 1 at one key and 0 at the others."""
        key = (*self.times.tolist(), *self.span)
        if self._kept.times != key:
            from scipy.interpolate import CubicSpline  # a fifth of a second, and most fields don't bend

            knots, ones = self.times.double().cpu().numpy(), np.eye(len(self.times))
            if self.loops:
                knots, ones = np.append(knots, self.span[1]), np.concatenate([ones, ones[:1]])
            spline = CubicSpline(knots, ones, bc_type="periodic" if self.loops else "natural")
            self._kept.times = key
            self._kept.spline = torch.from_numpy(knots.copy()), torch.from_numpy(np.ascontiguousarray(spline.c))
        return self._kept.spline

    def _tree(self, time: Tensor | None) -> KDTree:
        """The anchors where they are at a time, or where they are in the canonical frame; the last few are kept."""
        from scipy.spatial import KDTree

        numbers = (self.anchors, self.turns, self.shifts)
        trees = self._kept.trees_of(numbers)
        key = None if time is None else float(time)
        if key not in trees:
            at = self.anchors
            if time is not None:
                with torch.no_grad():
                    at = self._blended(at, self.homes.long(), *self._motion(time))[0]
            while len(trees) >= _KEPT:
                trees.pop(next(iter(trees)))
            trees[key] = KDTree(at.detach().double().cpu().numpy())
        return trees[key]

    def _held_box(self, padding: float | None) -> Aabb:
        """Holds the anchors at the keys and at times between."""
        knots = torch.cat([self.times, self.seconds[1:]]) if self.loops else self.times
        steps = torch.arange(_BETWEEN) / _BETWEEN
        times = torch.cat([torch.lerp(knots[:-1, None], knots[1:, None], steps).reshape(-1), knots[-1:]])
        with torch.no_grad():
            seen = torch.cat([self._blended(self.anchors, self.homes.long(), *self._motion(t))[0] for t in times])
        lo, hi = seen.amin(0), seen.amax(0)
        return Aabb(lo, hi).padded(_PADDING * float((hi - lo).max()) if padding is None else padding)


def _nearest(tree: KDTree, p: Tensor) -> Int[Tensor, "n"]:
    return torch.from_numpy(np.asarray(tree.query(p.detach().double().cpu().numpy())[1])).to(p.device)


def _solved(matrix: Float[Tensor, "n 3 3"], vector: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Solutions ``x`` of ``matrix x = vector``, by cofactors; bounded where there is none."""
    a, b, c = matrix.unbind(-1)
    rows = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)
    det = (a * rows[:, 0]).sum(-1)
    det = torch.where(det.abs() < 1e-3, torch.where(det < 0, -1e-3, 1e-3).to(det), det)
    return (rows @ vector[..., None])[..., 0] / det[:, None]
