"""The fields of a scene side by side while they learn: their networks are asked together, and rays are rendered as volumes
(`rendering.volume`) through the union of all."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compose.segments import segment_reduce
from objects.aabb import Aabb
from objects.field import TINT, TINT_WIDTH
from objects.fused import sine_mlps, weighted_l1
from objects.pose import SE3
from objects.siren import SirenField, join_matrices, pack, split_matrices, unpack
from objects.siren_layout import SineShape
from rendering.learning.config import ViewsConfig
from rendering.learning.parts import ColorParts, without_tint
from rendering.sampling import (
    FrameTransforms,
    Lattices,
    RoutedRays,
    frame_transforms,
    lattices_of,
    points_in_boxes,
    sample_intervals,
)
from rendering.volume import Crossings, RayRender, render_rays

_CORE = 0.96  # of a box, in which measured depth is looked at: at its faces every field must be outside
_FAR = 1e3  # metres: distance where no box is
_THIN = 3.0  # gradients shorter than this times their mean are thinned out


class Distances(NamedTuple):
    """Distances of ``n`` points along rays: of the union (``sdf [n]``, metres) with whose it is (``owner [n]``, -1 where no box
    is), and of ``k`` pairs of a point and an instance in whose box it lies, sorted by instance.

    Args:
        point, instance, ray: ``[k]``, of each pair.
        pair_sdf: ``[k]``, metres.
        core: ``[k]``, whether the point lies well within the box.
    """

    sdf: Tensor
    owner: Tensor
    point: Tensor
    instance: Tensor
    ray: Tensor
    pair_sdf: Tensor
    core: Tensor


@dataclass(frozen=True, eq=False)
class Bundle:
    """Networks of one shape, as rows of parameters, and where their objects stand.

    Attributes:
        config: Shapes of the networks, and how rays are sampled.
        fields: ``m``, each in a frame of its own, in the middle of its box.
        theta: ``[m, _]``, parameters of distances; they may learn in place.
        color: ``[k, _]``, those of the colour networks of all fields (`parts`).
        T_world_obj: ``[m, f]``, where the objects stand in each of ``f`` frames (metres, float64).
        n_threads: Of the kernels.
        divided: Whether colours are in parts, which also learn how they change with the direction of view.
    """

    config: ViewsConfig
    fields: tuple[SirenField, ...]
    theta: Float[Tensor, "m p"]
    color: Float[Tensor, "k q"]
    T_world_obj: SE3
    n_threads: int
    divided: bool = False

    @staticmethod
    def of(boxes: Sequence[Aabb], config: ViewsConfig, seed: int = 0, T_world_obj: SE3 | None = None) -> Bundle:
        """Fresh networks.

        Args:
            boxes: A box for each, world frame, metres; only their sizes count where ``T_world_obj`` is given.
            seed: Of the first one's weights; the others count on.
            T_world_obj: By default objects stay in the middles of their boxes, in one frame.
        """
        fields = [
            SirenField(
                Aabb(-0.5 * box.size, 0.5 * box.size),
                config,
                channels={TINT: TINT_WIDTH},
                observed=True,
                seed=seed + i,
            ).requires_grad_(False)
            for i, box in enumerate(boxes)
        ]
        if T_world_obj is None:
            T_world_obj = SE3.from_translation(torch.stack([box.center for box in boxes]).float().double()[:, None])
        theta, color = pack([f.distance for f in fields], 1), without_tint(ColorParts.of(fields))
        return Bundle(config, tuple(fields), theta, color, T_world_obj, torch.get_num_threads())

    def with_fields(self, fields: Sequence[SirenField]) -> Bundle:
        """The same shapes, with the colour networks of other fields, in parts."""
        color = without_tint(ColorParts.of(fields))
        return dataclasses.replace(self, fields=tuple(fields), color=color, divided=True)

    # -- where objects stand -----------------------------------------------------------------------------------------

    @cached_property
    def half(self) -> Float[Tensor, "m"]:
        """Half of the longest edge of each box, metres."""
        return torch.stack([field.half_extent for field in self.fields])

    @cached_property
    def lo(self) -> Float[Tensor, "m 3"]:
        """Lower corners of the boxes, object frame; `hi` the upper ones."""
        return torch.stack([field.box_lo for field in self.fields])

    @cached_property
    def hi(self) -> Float[Tensor, "m 3"]:
        return torch.stack([field.box_hi for field in self.fields])

    @cached_property
    def size(self) -> float:
        """The largest half, metres."""
        return float(self.half.max())

    @cached_property
    def trans(self) -> Float[Tensor, "f m 3"]:
        return self.T_world_obj.translation.transpose(0, 1).float()

    @cached_property
    def rot(self) -> Float[Tensor, "f m 3 3"] | None:
        """Object to world; None where nothing is turned in any frame."""
        rot = self.T_world_obj.rotation().transpose(0, 1)
        return None if bool((rot == torch.eye(3, dtype=rot.dtype)).all()) else rot.float()

    @cached_property
    def moves(self) -> bool:
        """Whether an object stands elsewhere in some frame, or turned."""
        return self.rot is not None or not bool((self.trans == self.trans[:1]).all())

    @cached_property
    def transforms(self) -> FrameTransforms:
        rot, trans = self.T_world_obj.rotation().detach(), self.T_world_obj.translation.detach()
        m, boxes = len(self.fields), [field.bounds for field in self.fields]
        return frame_transforms(
            rot.transpose(0, 1).numpy(), trans.transpose(0, 1).numpy(), np.ones(m), np.arange(m), boxes
        )

    def in_object(
        self, p_world: Float[Tensor, "k 3"], instance: Int[Tensor, "k"], frame: Int[Tensor, "k"]
    ) -> Float[Tensor, "k 3"]:
        """World points, each in a frame, in the coordinates of the networks of ``instance``: halves of their boxes."""
        p = self.turned_to_object(p_world - self.trans[frame, instance], instance, frame)
        return p / self.half[instance, None]

    def turned_to_object(
        self, v_world: Float[Tensor, "k 3"], instance: Int[Tensor, "k"], frame: Int[Tensor, "k"]
    ) -> Float[Tensor, "k 3"]:
        """World vectors in the frames of objects."""
        return v_world if self.rot is None else (v_world[:, None] @ self.rot[frame, instance].to(v_world))[:, 0]

    @property
    def shape(self) -> SineShape:
        """Of the distance networks."""
        return self.config.distance_shape

    @cached_property
    def parts(self) -> ColorParts:
        """The colour networks of all fields."""
        return ColorParts.of(self.fields)

    # -- what networks say -----------------------------------------------------------------------------------------------

    def distance(self, x: Tensor, offsets: Tensor, theta: Tensor | None = None) -> Tensor:
        """Distances ``[k]`` at places ``x [k, 3]``, both in halves of the boxes; network ``i`` gets rows ``offsets[i]`` up to
        before ``offsets[i + 1]``."""
        theta = self.theta if theta is None else theta
        return sine_mlps(theta, x, offsets, self.shape, n_threads=self.n_threads)[:, 0]

    def distance_error(self, theta: Tensor, x: Tensor, target: Tensor, falloff: float) -> Tensor:
        """Sum over networks of the mean absolute error; at distance d it counts falloff / (falloff + |d|)."""
        weight = falloff / (falloff + target[..., 0].abs())
        return weighted_l1(theta, x, target, weight, self.shape, squash=False, n_threads=self.n_threads).sum()

    def look(self, at: Crossings) -> tuple[Tensor, Tensor]:
        """Colours ``[s, 3]``, and their tints ``[s, 3, 3]``."""
        x = self.in_object(at.p_world, at.owner, at.frame)
        return self.parts.look(self.color, x, self.parts.shares(x, at.owner), self.n_threads)

    def distances(
        self, rays: RoutedRays, p_world: Tensor, ray_indices: Tensor, generator: torch.Generator | None = None
    ) -> Distances:
        """At points along rays. With ``generator`` gradients are thinned."""
        n = len(p_world)
        point, ends = points_in_boxes(p_world, ray_indices, rays, self.transforms)
        instance = torch.repeat_interleave(torch.arange(len(self.fields)), ends.diff())
        x = self.in_object(p_world[point], instance, rays.frame[ray_indices[point]])
        core = ((x * self.half[instance, None]).abs() < _CORE * self.hi[instance]).all(1)
        pair_sdf = thinned(self.distance(x, ends), generator) * self.half[instance]
        order = point.argsort(stable=True)
        rows, sdf = point[order], pair_sdf[order]
        best = segment_reduce(sdf, ends_of(rows, n), "min").clamp(max=_FAR)
        with torch.no_grad():
            owner = torch.full((n,), -1)
            first = (sdf == best[rows]).nonzero()[:, 0].flip(0)  # of equal ones the lowest number is written last
            owner[rows[first]] = instance[order][first]
        return Distances(best, owner, point, instance, ray_indices[point], pair_sdf, core)

    def meets(self, rays: RoutedRays) -> Tensor:
        """Whether rays cross a box."""
        ray = np.repeat(np.arange(len(rays.origins)), np.diff(rays.offsets))
        ray, i = torch.from_numpy(ray), torch.from_numpy(rays.instance)
        frame = rays.frame[ray]
        p = self.turned_to_object(rays.origins[ray] - self.trans[frame, i], i, frame)
        d = self.turned_to_object(rays.directions[ray], i, frame)
        a, b = (self.lo[i] - p) / d, (self.hi[i] - p) / d
        found = torch.zeros(len(rays.origins), dtype=torch.bool)
        found[ray[torch.minimum(a, b).amax(-1).clamp(min=0) < torch.maximum(a, b).amin(-1)]] = True
        return found

    @cached_property
    def lattices(self) -> Lattices:
        """The index that says where rays are sampled; of the time when it is first asked for."""

        def sdf(i: int, p_obj: Tensor) -> Tensor:
            return (
                self.distance(p_obj / self.half[i], torch.tensor([0, len(p_obj)]), self.theta[i : i + 1]) * self.half[i]
            )

        return lattices_of([field.bounds for field in self.fields], self.config.lattice, sdf)

    def with_numbers(self, theta: Tensor, color: Tensor) -> Bundle:
        """Other parameters, with the lattices as they are."""
        made = copy.copy(self)
        object.__setattr__(made, "theta", theta)
        object.__setattr__(made, "color", color)
        return made

    def refreshed(self) -> Bundle:
        """The same networks, with lattices made anew after parameters have learned."""
        made = dataclasses.replace(self)
        _ = made.lattices
        return made

    def render(
        self,
        rays: RoutedRays,
        sharpness: float,
        jitter: Tensor,
        marks: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> RayRender:
        """Renders rays; its ``distances`` are `Distances`. With ``generator`` gradients are thinned."""
        n = self.config.n_uniform
        intervals = sample_intervals(
            rays, self.lattices, self.transforms, sharpness=sharpness, jitter=jitter, n_uniform=n, marks=marks
        )

        def distance(p_world: Tensor, ray_indices: Tensor) -> Distances:
            return self.distances(rays, p_world, ray_indices, generator)

        def color(at: Crossings) -> Tensor:
            rgb, tint = self.look(at)
            if not self.divided:
                return thinned(rgb, generator)
            way = self.turned_to_object(rays.directions[at.ray_indices], at.owner, at.frame)
            return thinned(rgb + (tint @ way[..., None])[..., 0], generator)

        return render_rays(rays, intervals, distance, color, sharpness=sharpness)

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
            unpack(self.theta[i], field.distance)
        self.parts.write(self.color)


class Numbers:
    """Rows of parameters of networks of one shape while they learn: Muon changes their square matrices, Adam the rest."""

    def __init__(self, rows: Float[Tensor, "m p"], shape: SineShape) -> None:
        rest, matrices = split_matrices(rows.detach(), shape)
        self._shape = shape
        self._rest, self._matrices = (x.contiguous().clone().requires_grad_() for x in (rest, matrices))

    def groups(self, matrix_rate: float, rate: float = 1.0, muon: bool = True) -> list[dict[str, Any]]:
        """What `objects.training.fit` takes; the rates of the matrices and of the rest are multiples of the peak rate."""
        groups: list[dict[str, Any]] = [{"params": [self._rest], "rate": rate}]
        if self._matrices.numel():
            groups.append({"params": [self._matrices], "rate": matrix_rate, "muon": muon})
        return groups

    def rows(self) -> Float[Tensor, "m p"]:
        """The rows as they are now; gradients flow to what learns."""
        return join_matrices(self._rest, self._matrices, self._shape)


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


def thinned(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """``x``, with gradients thinned by chance; unchanged without ``generator``."""
    if generator is None or not x.requires_grad:
        return x
    return cast(Tensor, _Thinned.apply(x, torch.rand(len(x), generator=generator)))
