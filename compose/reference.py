"""The dense reference: every instance asked at every point and along every ray, in float64, one after another.

It shares no index, no traversal and no hit code with the fast path, only the fields and the poses, and it is as plain as it
can be. Tests and benchmarks hold the fast path against it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import igl
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compose.types import Hits, Instance, Rays, SceneSample
from objects.field import FEATURE, Field, FieldSample, channel_widths
from objects.primitives import Primitive

_STEPS = 2000  # marching steps along the diagonal of an instance's box
_BLOCK = 64  # of these steps taken in one call
_BISECTED = 1e-6  # of the diagonal


def in_double(instances: Sequence[Instance]) -> list[Instance]:
    """The same scene with float64 copies of its fields (shared ones stay shared)."""
    copies: dict[int, Field] = {}
    out = []
    for i in instances:
        field = copies.setdefault(id(i.field), copy.deepcopy(i.field).double())
        out.append(Instance(i.name, field, i.T_world_obj.to(torch.float64), i.scale, i.time, i.lit))
    return out


def query_reference(instances: Sequence[Instance], p_world: Float[Tensor, "n 3"]) -> SceneSample:
    """The union at points, all instances asked everywhere; differentiable. Fields must be float64 (`in_double`)."""
    n = len(p_world)
    if not instances:
        nothing = p_world.new_zeros(n, 3)
        return SceneSample(p_world.new_full((n,), math.inf), nothing, nothing[:, :0], torch.full((n,), -1))
    samples = [_sample(i, p_world) for i in instances]
    sdf, owner = torch.stack([s.sdf for s in samples]).min(0)  # torch gives the first of equal values
    rgb = torch.stack([s.rgb for s in samples])[owner, torch.arange(n)]
    more = {}
    for name, width in ({FEATURE: 0} | channel_widths(i.field for i in instances)).items():
        padded = [torch.nn.functional.pad(c, (0, width - c.shape[1])) for c in (s.channel(name) for s in samples)]
        more[name] = torch.stack(padded)[owner, torch.arange(n)]
    return SceneSample(sdf, rgb, more.pop(FEATURE), owner, more=more)


@torch.no_grad()
def closest_reference(
    instances: Sequence[Instance], p_world: Float[Tensor, "n 3"], tolerance: float = 2e-5
) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """Signed distance to the nearest surface, and the owner: each field as a fine mesh, libigl's distance to all of it, the sign
    by the field itself. Primitives by their formula. ``tolerance`` of the mesh is a share of the longest edge of the box."""
    each = []
    for i in instances:
        p_obj = (i.T_world_obj.inverse() @ p_world.double()) / i.scale
        sdf = i.field(p_obj).sdf
        if i.field.deforms:
            raise ValueError(f"closest_reference: expected fields that don't bend, got {i.name!r}")
        if not isinstance(i.field, Primitive):
            mesh = i.field.to_mesh(tolerance * float(i.field.bounds.size.max()))
            squared, _, _ = igl.point_mesh_squared_distance(p_obj.numpy(), mesh.vertices, np.asarray(mesh.faces))
            sdf = torch.from_numpy(np.sqrt(squared)) * torch.where(sdf < 0, -1.0, 1.0)
        each.append(sdf.double() * i.scale)
    return torch.stack(each).min(0)


@torch.no_grad()
def trace_reference(instances: Sequence[Instance], rays: Rays) -> Hits:
    """First hits by marching each box at 1/2000 of its diagonal, then bisection. Fields must be float64 (`in_double`)."""
    t = torch.full((len(rays),), math.inf, dtype=torch.float64)
    owner = torch.full((len(rays),), -1)
    for k, instance in enumerate(instances):
        t_k = _first_crossing(instance, rays)
        nearer = t_k < t
        t, owner = torch.where(nearer, t_k, t), torch.where(nearer, torch.full_like(owner, k), owner)
    return Hits(t, owner)


def hit_distance_reference(instances: Sequence[Instance], rays: Rays, hits: Hits) -> Float[Tensor, "n"]:
    """``t`` of known hits as a differentiable function of weights, poses, scales and rays (implicit function theorem)."""
    t = hits.t.clone()
    for k, instance in enumerate(instances):
        rows = (hits.owner == k).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        o, d = rays.origins[rows].double(), rays.directions[rows].double()
        p = o + hits.t[rows, None] * d
        probe = p.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(_sample(instance, probe).sdf.sum(), probe)
        sdf = _sample(instance, p).sdf
        t = t.index_put((rows,), hits.t[rows] - (sdf - sdf.detach()) / (gradient * d.detach()).sum(-1))
    return t


def _sample(instance: Instance, p_world: Tensor) -> FieldSample:
    p_obj = (instance.T_world_obj.inverse() @ p_world.double()) / instance.scale
    time = None if instance.time is None else p_obj.new_full((len(p_obj),), instance.time)
    sample = instance.field(p_obj, time)
    return sample._replace(sdf=sample.sdf * instance.scale)


def _first_crossing(instance: Instance, rays: Rays) -> Tensor:
    """First change of sign from + to - of one instance along each ray; inf for none."""
    inverse = instance.T_world_obj.inverse()
    o = (inverse @ rays.origins.double()) / instance.scale
    d = (inverse.rotation() @ rays.directions.double()[..., None])[..., 0] / instance.scale
    lo, hi = instance.field.box_lo.double(), instance.field.box_hi.double()
    diagonal = float((hi - lo).norm()) * float(instance.scale)
    a, b = (lo - o) / d, (hi - o) / d
    outside = (d == 0) & ((o < lo) | (o > hi))
    enter = torch.where(d == 0, torch.full_like(a, -math.inf), torch.minimum(a, b)).amax(-1)
    leave = torch.where(d == 0, torch.full_like(a, math.inf), torch.maximum(a, b)).amin(-1)
    enter = torch.maximum(enter, torch.as_tensor(rays.t_min).double())
    leave = torch.minimum(leave, torch.as_tensor(rays.t_max).double())
    t = torch.full((len(rays),), math.inf, dtype=torch.float64)
    rows = ((enter <= leave) & ~outside.any(-1)).nonzero()[:, 0]

    def outside_solid(which: Tensor, s: Tensor) -> Tensor:
        p = o[which] + s[:, None] * d[which]
        time = None if instance.time is None else p.new_full((len(p),), instance.time)
        return instance.field.sdf(p, time) > 0

    ahead = diagonal / _STEPS * torch.arange(_BLOCK + 1, dtype=torch.float64)
    start, found, near, far = enter[rows], [], [], []
    while len(rows):
        s = torch.minimum(start[:, None] + ahead, leave[rows, None])
        out = outside_solid(rows.repeat_interleave(_BLOCK + 1), s.flatten()).view_as(s)
        crossed = out[:, :-1] & ~out[:, 1:]
        hit, first = crossed.any(1), crossed.int().argmax(1)
        found.append(rows[hit])
        near.append(s[hit, first[hit]])
        far.append(s[hit, first[hit] + 1])
        going = ~hit & (s[:, -1] < leave[rows])
        rows, start = rows[going], s[going, -1]
    if found:
        found, near, far = torch.cat(found), torch.cat(near), torch.cat(far)
        while len(found) and float((far - near).max()) > _BISECTED * diagonal:
            middle = 0.5 * (near + far)
            out = outside_solid(found, middle)
            near, far = torch.where(out, middle, near), torch.where(out, far, middle)
        t[found] = 0.5 * (near + far)
    return t
