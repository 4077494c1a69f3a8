"""Volume rendering of signed distance along rays, by packed samples.

The distance of the union (its minimum) is asked at the boundaries of intervals (`rendering.sampling`), and the opacity of the
sample between two of them follows from it alone (decision 013):

    alpha_i = max(0, (S(f_i) - S(f_{i+1})) / S(f_i)),   S(f) = 1 / (1 + exp(-sharpness f)).

Source: Wang et al., "NeuS: Learning Neural Implicit Surfaces by Volume Rendering" (NeurIPS 2021), equations 10 to 13. The
product of what is let through telescopes, so the opacity of a surface doesn't depend on where between the boundaries it lies.

`render_rays` takes functions of distance and of colour, as in nerfacc: pictures of composites, learning from pictures and the
correction of poses all go through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from compose.composite import Composite
from compose.segments import segment_reduce
from compose.types import SceneSample
from objects.progress import Bar
from rendering.camera import Camera, pixel_offsets
from rendering.sampling import (
    RayIntervals,
    RaySamples,
    RoutedRays,
    lattices_of_scene,
    route,
    sample_intervals,
    transforms_of_scene,
)

_SHOWN = 1e-3  # samples that stop less light than this are not asked for their colour
_CHUNK = 1 << 13  # rays at once


class Crossings(NamedTuple):
    """The samples that are asked for colour, sorted by owner: ``p_world [s, 3]`` where their light is stopped, the instance that
    stops it, their ray with its frame, and the number of the boundary at which they end."""

    p_world: Float[Tensor, "s 3"]
    owner: Int[Tensor, "s"]
    ray_indices: Int[Tensor, "s"]
    frame: Int[Tensor, "s"]
    end: Int[Tensor, "s"]


DistanceFn = Callable[[Float[Tensor, "k 3"], Int[Tensor, "k"]], Any]
ColorFn = Callable[[Crossings], Float[Tensor, "s 3"]]


class RayRender(NamedTuple):
    """What rays show.

    Args:
        rgb: ``[r, 3]``, without background.
        opacity: ``[r]``.
        intervals: As given; ``samples``: the ``n`` between their boundaries.
        weights: ``[n]``, the share of its ray's light that each stops.
        t: ``[n]``, where it does so, metres; no gradient.
        distances: What the function of distance gave at the boundaries.
        crossings: The samples that were asked for colour.
    """

    rgb: Float[Tensor, "r 3"]
    opacity: Float[Tensor, "r"]
    intervals: RayIntervals
    samples: RaySamples
    weights: Float[Tensor, "n"]
    t: Float[Tensor, "n"]
    distances: Any
    crossings: Crossings


def log_opacities(sdf: Float[Tensor, "k"], samples: RaySamples, sharpness: float | Tensor) -> Float[Tensor, "n"]:
    """``log(1 - alpha)`` of each sample, from the distance of the union at the boundaries (metres).

    Args:
        sharpness: 1 / metres; the width of a surface is a few times its inverse.
    """
    passed = torch.nn.functional.logsigmoid(sharpness * sdf)
    return (passed[samples.first + 1] - passed[samples.first]).clamp(max=0)


def transmittance(stopped: Float[Tensor, "n"], samples: RaySamples) -> Float[Tensor, "n"]:
    """The share of a ray's light that reaches each sample, from ``log(1 - alpha)`` of all."""
    # Sums over the whole pack keep enough digits for each ray only in float64.
    total = stopped.double().cumsum(0)
    before = torch.cat([total.new_zeros(1), total])
    return (before[:-1] - before[samples.offsets[samples.ray_indices]]).to(stopped.dtype).exp()


def sample_weights(sdf: Float[Tensor, "k"], samples: RaySamples, sharpness: float | Tensor) -> Float[Tensor, "n"]:
    """The share of a ray's light that each sample stops: transmittance times opacity."""
    stopped = log_opacities(sdf, samples, sharpness)
    return transmittance(stopped, samples) * -torch.expm1(stopped)


@torch.no_grad()
def zero_crossings(sdf: Float[Tensor, "k"], samples: RaySamples) -> Float[Tensor, "n"]:
    """Where each sample stops its light, metres along the ray: the zero of the distance, taken as linear between the boundaries, or
    the boundary nearest to it."""
    f0, f1 = sdf[samples.first], sdf[samples.first + 1]
    fall = f0 - f1
    share = torch.where(fall > 0, f0 / fall.clamp(min=1e-6), 0.5).clamp(0, 1)
    return torch.lerp(samples.t_starts, samples.t_ends, share.to(samples.t_starts.dtype))


def accumulate_along_rays(
    weights: Float[Tensor, "n"], values: Float[Tensor, "n c"] | None, samples: RaySamples
) -> Float[Tensor, "r c"]:
    """The weighted sum of each ray; that of the weights alone (``c = 1``) where ``values`` is None."""
    packed = weights[:, None] if values is None else weights[:, None] * values
    return segment_reduce(packed, samples.offsets, "sum")


def render_rays(
    rays: RoutedRays,
    intervals: RayIntervals,
    distance: DistanceFn,
    color: ColorFn,
    *,
    sharpness: float | Tensor,
    min_weight: float = _SHOWN,
) -> RayRender:
    """Renders rays as volumes.

    Args:
        rays, intervals: Where to look.
        distance: ``distance(p_world [k, 3], ray_indices [k])`` gives an object with ``sdf [k]`` (metres) and ``owner [k]``, those
            of the union; sums are made in the number type of ``sdf``.
        color: Gives the sRGB of crossings.
        sharpness: 1 / metres.
        min_weight: Samples that stop no more light than this aren't asked for their colour, and count as black.
    """
    samples, ray = intervals.samples(), intervals.ray_indices
    found = distance(_points(rays, ray, intervals.t), ray)
    weights, t = sample_weights(found.sdf, samples, sharpness), zero_crossings(found.sdf, samples)
    owner = found.owner[samples.first + 1]
    rows = ((weights.detach() > min_weight) & (owner >= 0)).nonzero()[:, 0]
    rows = rows[owner[rows].argsort(stable=True)]
    r = samples.ray_indices[rows]
    at = Crossings(_points(rays, r, t[rows]), owner[rows], r, rays.frame[r], samples.first[rows] + 1)
    values = weights.new_zeros(len(weights), 3).index_copy(0, rows, color(at))
    total = accumulate_along_rays(weights, torch.cat([values, values.new_ones(len(values), 1)], 1), samples)
    return RayRender(total[:, :3], total[:, 3], intervals, samples, weights, t, found, at)


def _points(rays: RoutedRays, ray: Int[Tensor, "k"], t: Float[Tensor, "k"]) -> Float[Tensor, "k 3"]:
    return rays.origins[ray] + t[:, None].to(rays.origins.dtype) * rays.directions[ray]


# -- pictures of composites --------------------------------------------------------------------------------------------


class VolumeFrame(NamedTuple):
    """A picture by volume rendering, CPU, float32: ``rgb [h w 3]`` (sRGB on the background), ``depth [h w]`` (metres along the
    optical axis, the mean of where light is stopped; inf where less than half of it is) and ``alpha [h w]``, the opacity."""

    rgb: Float[Tensor, "h w 3"]
    depth: Float[Tensor, "h w"]
    alpha: Float[Tensor, "h w"]


@torch.no_grad()
def render_volume(
    composite: Composite,
    camera: Camera,
    *,
    sharpness: float,
    background: Float[Tensor, "3"] | Sequence[float] = (1.0, 1.0, 1.0),
    n_uniform: int = 16,
    n_fine: int = 48,
    antialias: int = 1,
    progress: bool = True,
) -> VolumeFrame:
    """Renders a composite as a volume, unshaded.

    Args:
        composite: The scene at one time.
        camera: Where from.
        sharpness: 1 / metres; that at which the objects were learned, or as sharp as liked.
        background: sRGB where nothing is.
        n_uniform, n_fine: Most boundaries of intervals on a ray (see `sample_intervals`).
        antialias: Rays along each side of a pixel, spread evenly, whose mean is shown; 1 for one through its centre.
        progress: Show a bar (on a terminal, once it takes longer than 2 s).

    Raises:
        ValueError: A sharpness that is not finite and positive, or ``antialias`` beyond 1..16.
    """
    if not 1 <= antialias <= 16:
        raise ValueError(f"render_volume: antialias must lie in 1..16, got {antialias}")
    if not (math.isfinite(sharpness) and sharpness > 0):
        raise ValueError(f"render_volume: sharpness must be finite and greater than 0, got {sharpness}")
    behind = torch.as_tensor(background, dtype=torch.float32)
    n = camera.width * camera.height
    rgb, depth, alpha = behind.repeat(n, 1), torch.full((n,), math.inf), torch.zeros(n)
    lattices, transforms = lattices_of_scene(composite), transforms_of_scene(composite)

    def distance(p_world: Tensor, ray: Tensor) -> SceneSample:
        found = composite.query(p_world)
        return found._replace(sdf=found.sdf.float())

    with Bar(total=n, desc="render", unit="ray", unit_scale=True, disable=not progress) as bar:
        offsets = pixel_offsets(antialias)
        for pixel in torch.arange(n).split(max(1, _CHUNK // len(offsets))):
            uv = camera.pixel_centers(pixel)
            shot = camera.rays((uv[:, None] + offsets).view(-1, 2))
            rays = route(shot.origins, shot.directions, transforms)
            jitter = torch.full((len(shot.origins), n_uniform + n_fine), 0.5)
            intervals = sample_intervals(
                rays, lattices, transforms, sharpness=sharpness, jitter=jitter, n_uniform=n_uniform
            )

            def color(at: Crossings, ways: Tensor = shot.directions) -> Tensor:
                if len(at.owner) == 0:
                    return torch.zeros(0, 3)
                looked = composite.evaluate(at.p_world, at.owner, ways[at.ray_indices], geometry=False)
                return looked.rgb.float().clamp(0, 1)

            found = render_rays(rays, intervals, distance, color, sharpness=sharpness)
            away = accumulate_along_rays(found.weights, found.t[:, None], found.samples)
            total = torch.cat([found.rgb, away, found.opacity[:, None]], 1).view(len(pixel), -1, 5).mean(1)
            opacity = total[:, 4]
            rgb[pixel] = total[:, :3] + (1 - opacity[:, None]) * behind
            alpha[pixel] = opacity
            along = camera.depth_per_t(uv).float()
            depth[pixel] = torch.where(opacity > 0.5, total[:, 3] / opacity.clamp(min=1e-6) * along, math.inf)
            bar.update(len(pixel))
    h, w = camera.height, camera.width
    return VolumeFrame(rgb.clamp(0, 1).view(h, w, 3), depth.view(h, w), alpha.view(h, w))
