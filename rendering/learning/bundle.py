"""The fields of a scene side by side while they learn: their networks are asked together, and rays are rendered as volumes
(`rendering.volume`) through the union of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numba
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from compose.segments import segment_reduce
from objects.aabb import Aabb
from objects.fused import sine_mlps, weighted_l1
from objects.siren import TINT_WIDTH, SirenField
from rendering.volume import Knots, Lattices, Places, Samples, place_knots, summed, weights_of

if TYPE_CHECKING:
    from rendering.learning.fit import ViewsConfig

_CORE = 0.96  # of a box, in which measured depth is looked at: at its faces every field must be outside
_FAR = 1e3  # metres: distance where no box is
_THIN = 3.0  # gradients shorter than this times their mean are thinned out
_SHOWN = 1e-3  # samples that stop less light than this get no colour


class Pairs(NamedTuple):
    """Points within boxes, sorted by instance: ``point``, ``instance [k]``, ``offsets [m + 1]``, distance ``sdf [k]``
    (metres), and whether they lie well within their box."""

    point: Tensor
    instance: Tensor
    offsets: Tensor
    sdf: Tensor
    core: Tensor


class Seen(NamedTuple):
    """What rays saw: of each ray colour (without background) and opacity; of each knot the union's distance (metres) and
    whose it is; of each sample its weight and owner; the surface points that were asked for colour, and whose they are."""

    rgb: Tensor
    opacity: Tensor
    knots: Knots
    samples: Samples
    pairs: Pairs
    sdf: Tensor
    knot_owner: Tensor
    weight: Tensor
    owner: Tensor
    p_world: Tensor
    own: Tensor


class Bundle:
    """Networks of a shape, as rows of parameters that learn: ``theta [m, _]`` of distances, ``color [m, _]``.

    Args:
        boxes: A box for each field, world frame, metres; they aren't turned.
        config: Shapes of the networks, and how rays are sampled.
        seed: Of the first one's weights; the others count on.
    """

    def __init__(self, boxes: Sequence[Aabb], config: ViewsConfig, seed: int = 0) -> None:
        c = self.config = config
        self.fields = [
            SirenField(
                Aabb(-0.5 * box.size, 0.5 * box.size),
                width=c.width,
                layers=c.layers,
                color_width=c.color_width,
                color_layers=c.color_layers,
                omega_first=c.omega_first,
                omega_hidden=c.omega_hidden,
                color_omega_first=c.color_omega_first,
                feature_width=TINT_WIDTH,
                tinted=True,
                observed=True,
                seed=seed + i,
            ).requires_grad_(False)
            for i, box in enumerate(boxes)
        ]
        m = len(boxes)
        for field in self.fields:  # no tint but what polishing finds
            last = cast(nn.Linear, field.appearance.linears[-1])
            last.weight[3:], last.bias[3:] = 0.0, 0.0
        self.half = torch.stack([f.half_extent for f in self.fields])
        self.theta = _flat([f.distance for f in self.fields])
        self.color = _flat([f.appearance for f in self.fields])
        self.trans = torch.stack([box.center for box in boxes]).float()
        self.lo, self.hi = (torch.stack([getattr(f, k) for f in self.fields]) for k in ("box_lo", "box_hi"))
        self.places = Places(np.tile(np.eye(3), (m, 1, 1)), self.trans.double().numpy(), np.ones(m), np.arange(m))
        self.boxes = (self.lo.double().numpy(), self.hi.double().numpy())
        self.size = float(self.half.max())
        self.n_threads = torch.get_num_threads()
        self.refresh()

    def distance(self, x: Tensor, offsets: Tensor, theta: Tensor | None = None) -> Tensor:
        """Distances ``[k]`` at places ``x [k, 3]``, both in halves of the boxes; network ``i`` gets rows ``offsets[i]`` up to
        before ``offsets[i + 1]``."""
        c = self.config
        theta = self.theta if theta is None else theta
        return sine_mlps(
            theta,
            x,
            offsets,
            1,
            width=c.width,
            layers=c.layers,
            omega_first=c.omega_first,
            omega_hidden=c.omega_hidden,
            n_threads=self.n_threads,
        )[:, 0]

    def distance_error(self, theta: Tensor, x: Tensor, target: Tensor, falloff: float) -> Tensor:
        """Sum over networks of the mean absolute error; at distance d it counts falloff / (falloff + |d|)."""
        c = self.config
        return weighted_l1(
            theta,
            x,
            target,
            falloff / (falloff + target[..., 0].abs()),
            width=c.width,
            layers=c.layers,
            omega_first=c.omega_first,
            omega_hidden=c.omega_hidden,
            squash=False,
            n_threads=self.n_threads,
        ).sum()

    def look(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Colours ``[k, 3]``, and their tints ``[k, 3, 3]``."""
        c = self.config
        look = sine_mlps(
            self.color,
            x,
            offsets,
            3 + TINT_WIDTH,
            width=c.color_width,
            layers=c.color_layers,
            omega_first=c.color_omega_first,
            omega_hidden=c.omega_hidden,
            n_threads=self.n_threads,
        )
        return look[:, :3].sigmoid(), look[:, 3:].view(-1, 3, 3)

    def in_object(self, p_world: Tensor, instance: Tensor) -> Tensor:
        """World points in the coordinates of the networks of ``instance [k]``: halves of their boxes."""
        return (p_world - self.trans[instance]) / self.half[instance, None]

    def _pairs(self, p_world: Tensor, generator: torch.Generator | None) -> Pairs:
        p = p_world.detach().double().numpy()
        offsets = np.zeros(len(self.fields) + 1, np.int64)
        _pair_up(p, self.places, self.boxes, np.empty(0, np.int64), offsets)
        point = np.empty(offsets[-1], np.int64)
        _pair_up(p, self.places, self.boxes, point, offsets)
        at, ends = torch.from_numpy(point), torch.from_numpy(offsets)
        instance = torch.repeat_interleave(torch.arange(len(self.fields)), ends.diff())
        x = self.in_object(p_world[at], instance)
        core = ((x * self.half[instance, None]).abs() < _CORE * self.hi[instance]).all(1)
        sdf = _thinned(self.distance(x, ends), generator) * self.half[instance]
        return Pairs(at, instance, ends, sdf, core)

    def _union(self, pairs: Pairs, n: int) -> tuple[Tensor, Tensor]:
        """The least distance at each of ``n`` points, and whose it is (-1 where no box is)."""
        order = pairs.point.argsort(stable=True)
        rows, sdf = pairs.point[order], pairs.sdf[order]
        best = segment_reduce(sdf, ends_of(rows, n), "min").clamp(max=_FAR)
        with torch.no_grad():
            owner = torch.full((n,), -1)
            first = (sdf == best[rows]).nonzero()[:, 0].flip(0)  # of equal ones the lowest number is written last
            owner[rows[first]] = pairs.instance[order][first]
        return best, owner

    def meets(self, o: Tensor, d: Tensor) -> Tensor:
        """Whether rays cross a box."""
        found = torch.zeros(len(o), dtype=torch.bool)
        for i in range(len(self.fields)):
            p = o - self.trans[i]
            a, b = (self.lo[i] - p) / d, (self.hi[i] - p) / d
            found |= torch.minimum(a, b).amax(-1).clamp(min=0) < torch.maximum(a, b).amin(-1)
        return found

    @torch.no_grad()
    def refresh(self) -> None:
        """Makes the lattices anew: the index that says where rays are sampled."""
        value, n_all = [], []
        for i, field in enumerate(self.fields):
            axes = field.bounds.axes(self.config.lattice)
            x = torch.cartesian_prod(*axes) / self.half[i]
            value.append(self.distance(x, torch.tensor([0, len(x)]), self.theta[i : i + 1]) * self.half[i])
            n_all.append([len(axis) for axis in axes])
        n = np.array(n_all, np.int64)
        start = np.cumsum([0, *(len(v) for v in value[:-1])])
        self.lattices = Lattices(torch.cat(value).numpy(), start, n, *self.boxes)

    def see(
        self,
        o: Tensor,
        d: Tensor,
        sharpness: float,
        jitter: Tensor,
        marks: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Seen:
        """Renders rays: colour without background, opacity, and what it was made of. With ``generator`` gradients are thinned."""
        knots = place_knots(
            o,
            d,
            self.lattices,
            self.places,
            sharpness=sharpness,
            jitter=jitter,
            n_uniform=self.config.n_uniform,
            marks=marks,
        )
        samples, ray = knots.samples(), knots.ray
        pairs = self._pairs(o[ray] + knots.t[:, None] * d[ray], generator)
        sdf, owner = self._union(pairs, len(ray))
        weight, t = weights_of(sdf, samples, sharpness)
        knot_owner, owner = owner, owner[samples.first + 1]
        shown = ((weight.detach() > _SHOWN) & (owner >= 0)).nonzero()[:, 0]
        shown = shown[owner[shown].argsort(stable=True)]
        own, r = owner[shown], samples.ray_indices[shown]
        p = o[r] + t[shown, None] * d[r]
        rgb = _thinned(self.look(self.in_object(p, own), ends_of(own, len(self.fields)))[0], generator)
        rgb = torch.zeros(len(weight), 3).index_copy(0, shown, rgb)
        total = summed(weight, torch.cat([rgb, torch.ones(len(rgb), 1)], 1), samples)
        return Seen(total[:, :3], total[:, 3], knots, samples, pairs, sdf, knot_owner, weight, owner, p.detach(), own)

    def spread(self, i: int, n: int, generator: torch.Generator) -> Tensor:
        """Points of an object's box, in the coordinates of its network: a quarter of them on its faces, edges and corners."""
        lo, hi = self.lo[i] / self.half[i], self.hi[i] / self.half[i]
        share, k = torch.rand(n, 3, generator=generator), n // 4
        at = torch.rand(k, 3, generator=generator) < 0.3
        at |= torch.arange(3) == torch.randint(3, (k, 1), generator=generator)
        share[:k] = torch.where(at, share[:k].round(), share[:k])
        return torch.lerp(lo, hi, share)

    def write_back(self) -> None:
        """Puts the rows of parameters into the fields."""
        for i, field in enumerate(self.fields):
            _unflat(self.theta[i], field.distance)
            _unflat(self.color[i], field.appearance)


def ends_of(rows: Int[Tensor, "k"], n: int) -> Int[Tensor, "n_plus_1"]:
    """Offsets of sorted row numbers."""
    count = torch.bincount(rows, minlength=n)
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


class _Thinned(torch.autograd.Function):
    """Its input; of the gradient's rows ``[n, c]`` that are shorter than a few times the mean most become 0, the rest that long, by
    chance (``u [n]`` in 0..1) so that the expectation stays: what gave them isn't asked again for what matters little."""

    @staticmethod
    def forward(ctx, x, u):
        ctx.save_for_backward(u)
        return x.clone()

    @staticmethod
    def backward(ctx, *grad_outputs):
        (u,) = ctx.saved_tensors
        g = grad_outputs[0]
        length = g.reshape(len(g), -1).norm(dim=1)
        least = _THIN * length.mean()
        scale = torch.where(length >= least, 1.0, torch.where(u * least < length, least / length, 0.0))
        return g * (scale if g.dim() == 1 else scale[:, None]), None


def _thinned(x: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None or not x.requires_grad:
        return x
    return cast(Tensor, _Thinned.apply(x, torch.rand(len(x), generator=generator)))


def _flat(nets: Sequence[nn.Module]) -> Tensor:
    return torch.stack([nn.utils.parameters_to_vector(net.parameters()).detach() for net in nets])


def _unflat(theta: Tensor, net: nn.Module) -> None:
    at = 0
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(theta[at : at + p.numel()].view_as(p))  # in place: indices of older weights are known as such
            at += p.numel()


@numba.njit(cache=True)
def _pair_up(p, places, boxes, point, offsets):
    """The points within the box of each instance: counts them, or writes their numbers where ``point`` has room."""
    rot, trans, scale, asset = places
    lo, hi = boxes
    k = 0
    for i in range(len(scale)):
        a = asset[i]
        for j in range(len(p)):
            inside = True
            for c in range(3):
                x = 0.0
                for e in range(3):
                    x += rot[i, e, c] * (p[j, e] - trans[i, e])
                x /= scale[i]
                if x < lo[a, c] or x > hi[a, c]:
                    inside = False
                    break
            if inside:
                if len(point):
                    point[k] = j
                k += 1
        offsets[i + 1] = k
