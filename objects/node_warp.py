"""A warp by nodes on the canonical surface that move rigidly at each key, blended in space and interpolated in time.

Source: Sumner, Schmid, Pauly, "Embedded Deformation for Shape Manipulation" (SIGGRAPH 2007). Which nodes move a point is decided
along the surface, by its nearest anchor: what only comes close in space (a hand at a hip) isn't moved along. The way back starts
at the nearest anchor where the anchors are at that time, and is closed by Newton's method; where two parts of the surface meet,
the nearer one is taken, as for the distance to a union.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import objects.node_kernel as node_kernel
from objects.aabb import Aabb
from objects.pose import rotation_from_quat
from objects.warp import Warp

BLEND = 0.75  # width of the Gaussian weights of nodes, in units of the spacing
_EXACT = 1e-3  # distance from where a point should be from which one more step is the last, in units of the spacing
_CHUNK = 1 << 15  # points at a time, and in search of the nearest anchor
_FEW = 1 << 12
_BETWEEN = 4  # times between two keys at which the box is measured
_PADDING = 0.05  # space between the thing and its box, a share of the longest edge
_TICK = 1e-4  # seconds between which motion is measured, a share of the span
_KEPT = 256  # times for which the places of the anchors are kept: about 15 MB


AtTime = Callable[[Tensor, Tensor], Tensor]  # points [n, 3] and one time
Search = Callable[..., tuple[np.ndarray, ...]]  # of `node_kernel`


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


_Block = tuple[Float[np.ndarray, "t"], node_kernel.Posed]  # times, and what holds then


class _Kept:
    """What a warp has worked out from its numbers; copies of the warp begin anew. Threads may ask at once."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._numbers: tuple[Tensor, ...] = ()
        self._versions: tuple[int, ...] = ()
        self._made = 0  # blocks
        self._forget()

    def _forget(self) -> None:
        self._rest: node_kernel.Rest | None = None
        self._blocks: dict[int, _Block] = {}  # by number; what was asked for last stands last
        self._block_of: dict[float, int] = {}
        self._spline: tuple[Tensor, Tensor, Tensor] | None = None

    def _renew(self, warp: NodeWarp) -> None:
        """Forgets everything if a number has changed."""
        numbers = (warp.seconds, warp.times, warp.turns, warp.shifts, warp.nodes, warp.near, warp.anchors, warp.homes)
        numbers, versions = (*numbers, warp.spacing), tuple(t._version for t in (*numbers, warp.spacing))
        if versions != self._versions or any(a is not b for a, b in zip(numbers, self._numbers, strict=True)):
            self._numbers, self._versions = numbers, versions
            self._forget()

    def spline(self, warp: NodeWarp) -> tuple[Tensor, Tensor, Tensor]:
        with self._lock:
            self._renew(warp)
            self._spline = self._spline or warp.spline()
            return self._spline

    def posed(
        self, warp: NodeWarp, times: Float[np.ndarray, "t"]
    ) -> tuple[node_kernel.Rest, node_kernel.Posed, Int[np.ndarray, "t"]]:
        """What the compiled search needs at different, ascending times, and the place of each among those that it holds for."""
        with self._lock, torch.no_grad():
            self._renew(warp)
            nodes = warp.nodes.detach().numpy()
            if self._rest is None:
                index = (warp.near.long().numpy(), warp.anchors.detach().numpy(), warp.homes.long().numpy())
                spacing = float(warp.spacing)
                self._rest = node_kernel.rest(nodes, *index, BLEND * spacing, spacing, _EXACT * spacing)
            known = self._block_of.get(float(times[0]), -1)
            if known not in self._blocks or not np.isin(times, self._blocks[known][0]).all():
                turn, shift = warp.motions(torch.from_numpy(times).double())
                made = node_kernel.posed(self._rest, nodes, turn.detach().numpy(), shift.detach().numpy())
                known = self._made = self._made + 1
                self._blocks[known] = times, made
                self._block_of.update(dict.fromkeys(times.tolist(), known))
            held, posed = self._blocks[known] = self._blocks.pop(known)
            while len(self._blocks) > 1 and sum(len(at) for at, _ in self._blocks.values()) > max(_KEPT, len(held)):
                first = next(iter(self._blocks))
                for t in self._blocks.pop(first)[0].tolist():
                    if self._block_of.get(t) == first:
                        del self._block_of[t]
            return self._rest, posed, np.searchsorted(held, times)

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
        if self._compiles(p_canonical) and not self._wants_graph(p_canonical, time):
            return self.compiled(node_kernel.deformed, p_canonical, time)[0]
        return self._by_time(self._deformed_at, p_canonical, time)

    def backward_map(self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
        if self._compiles(p_obj) and not self._wants_graph(p_obj, time):
            return self.compiled(node_kernel.canonical, p_obj, time)[0]
        return self._by_time(self._canonical_at, p_obj, time)

    def reached(
        self, p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
        """As `Warp.reached`. What lies beside a part is taken back with it only as far as that part is the nearest in the canonical
        frame, too; another that is near there and not here isn't seen."""
        time = self.clamped(time)
        if self._compiles(p_obj) and not self._wants_graph(time):
            if torch.is_grad_enabled() and p_obj.requires_grad:
                return cast(tuple[Tensor, Tensor], _Reached.apply(p_obj, time, self))
            found, beyond = self.compiled(node_kernel.reached, p_obj, time)[:2]
            return found, beyond
        part = self._by_time(self._reached_at, p_obj, time)
        return part[:, :3], part[:, 3] if len(part) else part[:, 0]

    @property
    def compiles(self) -> bool:
        """Whether its numbers are those of the compiled search: float32, on the CPU."""
        return self.nodes.dtype == torch.float32 and self.nodes.device.type == "cpu"

    def _compiles(self, p: Tensor) -> bool:
        return self.compiles and p.dtype == torch.float32 and p.device.type == "cpu"

    def _wants_graph(self, *asked: Tensor) -> bool:
        numbers = (*asked, self.nodes, self.anchors, self.turns, self.shifts)
        return torch.is_grad_enabled() and any(t.requires_grad for t in numbers)

    def posed(self, times: Float[np.ndarray, "t"]) -> tuple[node_kernel.Rest, node_kernel.Posed, Int[np.ndarray, "t"]]:
        """What compiled searches need at different, ascending times (seconds, within the span), and the place of each among the
        times that it holds for."""
        return self._kept.posed(self, times)

    def compiled(self, search: Search, p: Float[Tensor, "n 3"], time: Float[Tensor, "n"]) -> list[Tensor]:
        """What a search of `node_kernel` finds for points (float32) at times of their own, within the span; no graph."""
        points, seconds = (x.detach().nan_to_num(0.0, 0.0, 0.0).numpy() for x in (p, time))
        times, which = np.unique(seconds.astype(np.float64), return_inverse=True)
        rest, at, place = self.posed(times if len(times) else self.seconds[:1].double().numpy())
        found, *more = map(torch.from_numpy, search(rest, at, place[which], np.ascontiguousarray(points)))
        sound = torch.isfinite(p.detach()).all(1) & torch.isfinite(time.detach())
        return [torch.where(sound[:, None], found, torch.nan), *more]

    def _by_time(self, function: AtTime, p: Tensor, time: Tensor) -> Tensor:
        """Asks for the points of each time together."""
        if not len(p):
            return p
        times, which = torch.unique(time.detach(), return_inverse=True)
        order = which.argsort(stable=True)
        parts = p[order].split(which.bincount(minlength=len(times)).tolist())
        asked = [function(some, t) for part, t in zip(parts, times, strict=True) for some in part.split(_CHUNK)]
        found = torch.cat(asked)[order.argsort()]
        if torch.is_grad_enabled() and time.requires_grad:
            step = _TICK * (self.seconds[1] - self.seconds[0]).clamp(min=1e-6).to(time)
            with torch.no_grad():
                after, before = ((time + s).clamp(self.seconds[0], self.seconds[1]) for s in (step, -step))
                velocity = self._by_time(function, p, after) - self._by_time(function, p, before)
                velocity = velocity / (after - before)[:, None]
            found = found + velocity * (time - time.detach())[:, None]
        return found

    def _deformed_at(self, p: Tensor, time: Tensor) -> Tensor:
        home = self.homes.long()[_nearest(self.anchors, p)]
        return self._blended(p, home, *self._motion(time))[0]

    def _canonical_at(self, p: Tensor, time: Tensor) -> Tensor:
        turn, shift = self._motion(time)
        with torch.no_grad():
            if self._compiles(p):
                best, anchor = self.compiled(node_kernel.canonical, p, time.expand(len(p)))
            else:
                best, anchor = self._searched(p, turn, shift)
        if not torch.is_grad_enabled():
            return best
        # By the implicit function theorem: with respect to the points, and to all that the forward map reads.
        value, slope = self._blended(best, self.homes.long()[anchor], turn, shift)
        back = _solved(slope, value - p)
        return best - (back - back.detach())

    def _reached_at(self, p: Tensor, time: Tensor) -> Float[Tensor, "n 4"]:
        turn, shift = self._motion(time)
        with torch.no_grad():
            if self._compiles(p):
                _, _, anchor, share = self.compiled(node_kernel.reached, p, time.expand(len(p)))
            else:
                best, anchor = self._searched(p, turn, shift)
                share = self._owned(best, anchor)
        x, at = self._canonical_at(p, time), self.anchors[anchor]
        there, _ = self._blended(at, self.homes.long()[anchor], turn, shift)
        beyond = torch.where(
            share < 1, (1 - share) * ((p - there).square().sum(1) + 1e-20).sqrt(), torch.zeros_like(share)
        )
        kept = torch.where((share < 1)[:, None], at + share[:, None] * (x - at), x)
        return torch.cat([kept, beyond[:, None]], 1)

    def _owned(self, x: Float[Tensor, "n 3"], anchor: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """How much of the way from anchors to canonical points belongs to them: the nearest anchor's home moves what they move."""
        homes, at = self.homes.long(), self.anchors[anchor]
        near, least, most = self.near.long()[homes[anchor]], torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])
        share = most
        for _ in range(node_kernel.HALVINGS):
            home = homes[_nearest(self.anchors, at + share[:, None] * (x - at))]
            mine = (near == home[:, None]).any(1)
            least, most = torch.where(mine, share, least), torch.where(mine, most, share)
            share = 0.5 * (least + most)
        return least

    def _searched(
        self, p: Float[Tensor, "n 3"], turn: Float[Tensor, "k 3 3"], shift: Float[Tensor, "k 3"]
    ) -> tuple[Float[Tensor, "n 3"], Int[Tensor, "n"]]:
        """What `node_kernel.canonical` says, plainly: it is tested against this."""
        anchor = _nearest(self._blended(self.anchors, self.homes.long(), turn, shift)[0], p)
        home, at = self.homes.long()[anchor], self.anchors[anchor]
        there, slope = self._blended(at, home, turn, shift)
        x = at + _solved(slope, p - there)
        best, least = x, torch.full_like(x[:, 0], math.inf)
        for _ in range(node_kernel.ROUNDS + 1):
            value, slope = self._blended(x, home, turn, shift)
            off = (value - p).square().sum(-1)
            best, least = torch.where((off < least)[:, None], x, best), torch.minimum(off, least)
            step = _solved(slope, p - value)
            # Far from where it was found the slope says nothing.
            step = step * (self.spacing / step.norm(dim=-1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
            x = torch.where((least > (_EXACT * self.spacing) ** 2)[:, None], x + step, x)
        value, slope = self._blended(best, home, turn, shift)
        best = torch.where((least > (_EXACT * self.spacing) ** 2)[:, None], best, best + _solved(slope, p - value))
        return best, anchor

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
        turn, shift = self.motions(time.detach().double().reshape(1))
        return turn[0], shift[0]

    def motions(self, times: Float[Tensor, "t"]) -> tuple[Float[Tensor, "t k 3 3"], Float[Tensor, "t k 3"]]:
        """Rotations and translations of all nodes at each of these times (float64, within the span)."""
        share, other = self._shares(times)
        turn = torch.einsum("tj,jka->tka", share, self.turns)
        if self.loops:  # who turns wholly in a period comes back with the other sign
            whole = (self.turns[0] * self.turns[-1]).sum(-1, keepdim=True) < 0
            turn = torch.where(whole, torch.einsum("tj,jka->tka", other, self.turns), turn)
        turn = turn / turn.norm(dim=-1, keepdim=True)
        return rotation_from_quat(turn), torch.einsum("tj,jka->tka", share, self.shifts)

    def _shares(self, times: Float[Tensor, "t"]) -> tuple[Float[Tensor, "t j"], Float[Tensor, "t j"]]:
        """How much each key counts at each time: a cubic spline, natural or periodic; and, in a loop, one that comes back with the
        other sign after a period."""
        if len(self.times) == 1:
            whole = self.times.new_ones(len(times), 1)
            return whole, whole
        knots, one, other = self._kept.spline(self)
        at = (torch.searchsorted(knots, times) - 1).clamp(0, len(knots) - 2)
        u = times - knots[at]
        powers = torch.stack([u**3, u**2, u, torch.ones_like(u)])
        share = torch.einsum("ct,ctj->tj", powers, one[:, at]).to(self.times)
        return share, torch.einsum("ct,ctj->tj", powers, other[:, at]).to(self.times)

    def spline(self) -> tuple[Float[Tensor, "s"], Float[Tensor, "4 s-1 t"], Float[Tensor, "4 s-1 t"]]:
        """Knots and coefficients of the splines that are 1 at one key and 0 at the others, and of those that have changed their
        sign a period later."""
        from scipy.interpolate import CubicSpline  # a fifth of a second, and most fields don't bend

        knots, ones = self.times.double().cpu().numpy(), np.eye(len(self.times))
        if not self.loops:
            one = np.ascontiguousarray(CubicSpline(knots, ones, bc_type="natural").c)
            return torch.from_numpy(knots), torch.from_numpy(one), torch.from_numpy(one)
        end = self.span[1]
        closed = CubicSpline(np.append(knots, end), np.concatenate([ones, ones[:1]]), bc_type="periodic").c
        twice = np.concatenate([knots, knots + end - knots[0], [2 * end - knots[0]]])
        turned = CubicSpline(twice, np.concatenate([ones, -ones, ones[:1]]), bc_type="periodic").c[:, : len(knots)]
        one, other = (torch.from_numpy(np.ascontiguousarray(c)) for c in (closed, turned))
        return torch.from_numpy(np.append(knots, end)), one, other

    def _held_box(self, padding: float | None) -> Aabb:
        """Holds the anchors at the keys and at times between."""
        knots = torch.cat([self.times, self.seconds[1:]]) if self.loops else self.times
        steps = torch.arange(_BETWEEN) / _BETWEEN
        times = torch.cat([torch.lerp(knots[:-1, None], knots[1:, None], steps).reshape(-1), knots[-1:]])
        with torch.no_grad():
            seen = torch.cat([self._blended(self.anchors, self.homes.long(), *self._motion(t))[0] for t in times])
        lo, hi = seen.amin(0), seen.amax(0)
        return Aabb(lo, hi).padded(_PADDING * float((hi - lo).max()) if padding is None else padding)


class _Reached(torch.autograd.Function):
    """`NodeWarp.reached`, compiled, with derivatives by the points (implicit function theorem)."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, time: Tensor, warp: NodeWarp) -> tuple[Tensor, Tensor]:
        found, beyond, _, _, slope = warp.compiled(partial(node_kernel.reached, slopes=True), p, time)
        ctx.save_for_backward(slope)
        return found, beyond

    @staticmethod
    def backward(ctx: Any, *asked: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        by_point, by_beyond = asked
        return (slope[:, :3].mT @ by_point[..., None])[..., 0] + by_beyond[:, None] * slope[:, 3], None, None


@torch.no_grad()
def _nearest(anchors: Tensor, p: Tensor) -> Int[Tensor, "n"]:
    """The nearest anchor of each point."""
    parts = p.split(_FEW)
    return torch.cat([torch.cdist(q, anchors, compute_mode="donot_use_mm_for_euclid_dist").argmin(1) for q in parts])


def _solved(matrix: Float[Tensor, "n 3 3"], vector: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Solutions ``x`` of ``matrix x = vector``, by cofactors; bounded where there is none."""
    a, b, c = matrix.unbind(-1)
    rows = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)
    det = (a * rows[:, 0]).sum(-1)
    det = torch.where(det.abs() < 1e-3, torch.where(det < 0, -1e-3, 1e-3).to(det), det)
    return (rows @ vector[..., None])[..., 0] / det[:, None]
