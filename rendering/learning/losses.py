"""The losses by which fields learn from rays rendered as volumes; each is a scalar."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from compose.segments import segment_reduce
from rendering.learning.bundle import Bundle, Distances, ends_of
from rendering.learning.hulls import BACKGROUND
from rendering.volume import Crossings, RayRender, accumulate_along_rays

MARGIN = 0.02  # by which a field is outside on the faces of its box, of half of its longest edge
_TETRAHEDRON = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, 1.0, 1.0]])


def overlap_loss(at: Distances, labels: Int[Tensor, "m"], size: float) -> Tensor:
    """How deep each other object is where one is solid: what is in one is at least as far outside of the others.

    Args:
        labels: The instance id of each object; parts of one object may overlap.
        size: Metres that count as 1.
    """
    owner = at.owner[at.point]
    other = (labels[at.instance] != labels[owner]).nonzero()[:, 0]
    shared = -(at.pair_sdf[other] + at.sdf[at.point[other]])
    return shared.clamp(min=0).sum() / (size * max(len(at.sdf), 1))


def id_loss(seen: RayRender, ids: Int[Tensor, "r"], labels: Int[Tensor, "m"], size: float) -> Tensor:
    """Cross entropy of the id that a ray shows; the background's is also what is left over.

    Args:
        ids: Of each ray, negative where unknown.
        labels, size: As for `overlap_loss`.
    """
    at: Distances = seen.distances
    owner = at.owner[seen.samples.first + 1]
    label = torch.where(owner >= 0, labels[owner.clamp(min=0)], -2)
    right = label == ids[seen.samples.ray_indices]
    share = accumulate_along_rays(seen.weights * right, None, seen.samples)[:, 0]
    share = torch.where(ids == BACKGROUND, share + 1 - seen.opacity, share)
    loss = -share.clamp(1e-3, 1).log()
    # An object that no sample of its ray belongs to is drawn towards it.
    own = (labels[at.instance] == ids[at.ray]).nonzero()[:, 0]
    own = own[at.ray[own].argsort(stable=True)]
    least = segment_reduce(at.pair_sdf[own], ends_of(at.ray[own], len(ids)), "min")
    pull = torch.where(torch.isfinite(least) & (ids > BACKGROUND), (least / size).clamp(min=0), 0.0)
    return (loss + 2 * pull)[ids >= 0].sum() / len(ids)


def depth_loss(
    seen: RayRender,
    z: Float[Tensor, "r"],
    ids: Int[Tensor, "r"] | None,
    labels: Int[Tensor, "m"],
    half: Float[Tensor, "m"],
    band: float,
) -> Tensor:
    """Free before a measured depth, surface at it, solid just behind it; a hinge on signs, robust as an absolute value.

    Args:
        z: Metres along each ray to what was measured, NaN where unknown.
        ids: Of each ray; None where pictures have none.
        half: Half of the longest edge of each object's box, metres.
        band: Beside a depth, the right sign is asked for this far from it, metres.
    """
    at: Distances = seen.distances
    ahead = z[at.ray] - seen.intervals.t[at.point]  # metres to the surface, along the ray
    half = half[at.instance]
    f = at.pair_sdf / half
    known = torch.isfinite(ahead)
    own = known if ids is None else known & (labels[at.instance] == ids[at.ray])
    if len(labels.unique()) < len(labels):  # parts that are cut off at their faces
        own = own & at.core
    near = own & (ahead.abs() < 0.01 * band)
    free = known & (ahead > 0.5 * band)
    behind = own & (ahead < -0.5 * band) & (ahead > -1.5 * band)
    margin = 0.3 * band / half
    terms = (
        torch.where(near, f.abs(), 0.0)
        + torch.where(free, (margin - f).clamp(min=0), 0.0)
        + torch.where(free & own, (f - ahead / half).clamp(min=0), 0.0)
        + torch.where(behind, (margin + f).clamp(min=0), 0.0)
    )
    return terms.sum() / len(z)


def eikonal_loss(nets: Bundle, near: Crossings, n: int, generator: torch.Generator) -> Tensor:
    """(|gradient| - 1)^2 at ``n`` places near surfaces and ``n`` all over the boxes; and the faces of the boxes lie outside."""
    m = len(nets.fields)
    instance = torch.randint(m, (2 * n,), generator=generator)
    lo, hi = nets.lo / nets.half[:, None], nets.hi / nets.half[:, None]
    x = torch.lerp(lo[instance], hi[instance], torch.rand(2 * n, 3, generator=generator))
    if len(near.owner):
        pick = torch.randint(len(near.owner), (n,), generator=generator)
        instance[:n] = near.owner[pick]
        noise = 0.02 * torch.randn(n, 3, generator=generator)
        x[:n] = nets.in_object(near.p_world[pick].detach(), near.owner[pick], near.frame[pick]).detach() + noise
    faces = slice(2 * n - n // 4, 2 * n)
    axis = torch.randint(3, (n // 4,), generator=generator)
    side = torch.randint(2, (n // 4,), generator=generator)
    rows = torch.arange(n // 4)
    on_face = torch.where(side.bool(), hi[instance[faces]][rows, axis], lo[instance[faces]][rows, axis])
    x[faces] = x[faces].scatter(1, axis[:, None], on_face[:, None])
    face = torch.zeros(2 * n, dtype=torch.bool)
    face[faces] = True
    order = instance.argsort(stable=True)
    x, instance, face = x[order], instance[order], face[order]
    step = 0.01
    x = torch.minimum(
        torch.maximum(x, lo[instance] + 2 * step * ~face[:, None]), hi[instance] - 2 * step * ~face[:, None]
    )
    f = nets.distance((x[:, None] + step * _TETRAHEDRON).reshape(-1, 3), 4 * ends_of(instance, m)).view(-1, 4)
    gradient = f @ _TETRAHEDRON / (4 * step)
    error = ((gradient.square().sum(-1) + 1e-8).sqrt() - 1).square()
    return error[~face].mean() + 10 * (MARGIN - f.mean(1)[face]).clamp(min=0).mean()


def tint_loss(nets: Bundle, near: Crossings, n: int, generator: torch.Generator) -> Tensor:
    """Mean square of the tints at ``n`` of the places that were asked for colour."""
    if len(near.owner) == 0:
        return torch.zeros(())
    rows = torch.randint(len(near.owner), (n,), generator=generator)
    at = Crossings(*(part.detach()[rows] for part in near))
    return nets.look(at)[1].square().mean()
