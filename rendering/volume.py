"""Volume rendering of signed distance: knots along rays, opacity between them, packed and ragged.

A ray carries *knots* ``t_0 < t_1 < ...``, as many as it needs and none where it meets no object. Between two knots lies a
sample: `Knots.samples` gives them as ``(ray_indices, t_starts, t_ends)``. The distance of the union (its minimum) is asked at
the knots, and the opacity between two of them follows from it alone (decision 013):

    alpha_i = max(0, (S(f_i) - S(f_{i+1})) / S(f_i)),   S(f) = 1 / (1 + exp(-sharpness f)).

Source: Wang et al., "NeuS: Learning Neural Implicit Surfaces by Volume Rendering" (NeurIPS 2021), equations 10 to 13. The
product of what is let through telescopes, so the opacity of a surface doesn't depend on where between the knots it lies.

Where the knots lie is decided by *lattices*, an index of each object: its distance on a regular grid, made anew while it
learns. Rays are walked through them, and knots gather where these say the light is stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compose.composite import Composite
from compose.segments import segment_reduce
from objects.field import Field
from objects.progress import Bar
from rendering.camera import Camera, pixel_offsets

_SEEN = 0.01  # a ray of which the lattices stop less than this gets no fine knots
_SHOWN = 1e-3  # samples that stop less light than this are not asked for their colour
_CHUNK = 1 << 13  # rays at once
_DARK = -12.0  # log of the light that is left where a ray isn't followed any further
_CLEAR = 8.0  # no light is stopped where sharpness times distance is more
_SLOPE = 0.8  # of a distance, the step that surely meets no surface: lattices are that much steeper than 1 at most
_FAR = 1e9  # what stands for the distance where no object's box is


class Lattices(NamedTuple):
    """The distances of ``a`` objects on regular grids over their boxes, object frame and units.

    Args:
        value: All grids one after the other, last axis fastest, float32.
        start: Where each begins in ``value``, ``[a]`` int64.
        n: Vertices along each axis, ``[a, 3]`` int64.
        lo, hi: The boxes, ``[a, 3]`` float64.
    """

    value: np.ndarray
    start: np.ndarray
    n: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


class Places(NamedTuple):
    """Where ``m`` instances stand: ``rot [m, 3, 3]`` and ``trans [m, 3]`` (object to world), ``scale [m]``, float64, and
    ``asset [m]``, the row of their lattice."""

    rot: np.ndarray
    trans: np.ndarray
    scale: np.ndarray
    asset: np.ndarray


class Knots(NamedTuple):
    """Ragged knots of ``r`` rays: ``t [k]`` (metres, rising along a ray), ``offsets [r + 1]``. A ray has none, or at least two."""

    t: Float[Tensor, "k"]
    offsets: Int[Tensor, "r_plus_1"]

    @property
    def ray(self) -> Int[Tensor, "k"]:
        """The ray of each knot."""
        return torch.repeat_interleave(torch.arange(len(self.offsets) - 1), self.offsets.diff())

    def samples(self) -> Samples:
        """The stretches between knots."""
        ray = self.ray
        first = (ray[:-1] == ray[1:]).nonzero()[:, 0] if len(ray) else ray
        count = (self.offsets.diff() - 1).clamp(min=0)
        offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
        return Samples(ray[first], self.t[first], self.t[first + 1], offsets, first)


class Samples(NamedTuple):
    """``n`` stretches of ``r`` rays, those of one ray after the other, in order.

    Args:
        ray_indices: The ray of each.
        t_starts, t_ends: Where it begins and ends, metres.
        offsets: The stretches of ray ``i`` are ``offsets[i]:offsets[i + 1]``.
        first: The number of the knot at which each starts; it ends at the next.
    """

    ray_indices: Int[Tensor, "n"]
    t_starts: Float[Tensor, "n"]
    t_ends: Float[Tensor, "n"]
    offsets: Int[Tensor, "r_plus_1"]
    first: Int[Tensor, "n"]


class Weights(NamedTuple):
    """Of each sample: ``weight [n]``, the share of the ray's light that it stops, and ``t [n]``, where it does so: the zero of
    the distance, taken as linear between the knots, or the knot nearest to it. Only ``weight`` has a gradient."""

    weight: Float[Tensor, "n"]
    t: Float[Tensor, "n"]


def weights_of(sdf: Float[Tensor, "k"], samples: Samples, sharpness: float | Tensor) -> Weights:
    """How much of the light each sample stops, from the distance of the union at the knots (metres).

    Args:
        sdf: At each knot.
        samples: The stretches between them.
        sharpness: 1 / metres; the width of a surface is a few times its inverse.
    """
    passed = torch.nn.functional.logsigmoid(sharpness * sdf)
    f0, f1 = sdf[samples.first], sdf[samples.first + 1]
    stopped = (passed[samples.first + 1] - passed[samples.first]).clamp(max=0)
    # Sums over the whole pack keep enough digits for each ray only in float64.
    total = stopped.double().cumsum(0)
    before = torch.cat([total.new_zeros(1), total])
    until = (before[:-1] - before[samples.offsets[samples.ray_indices]]).to(sdf.dtype)
    weight = until.exp() * -torch.expm1(stopped)
    with torch.no_grad():
        fall = f0 - f1
        share = torch.where(fall > 0, f0 / fall.clamp(min=1e-6), 0.5).clamp(0, 1)
        t = torch.lerp(samples.t_starts, samples.t_ends, share.to(samples.t_starts.dtype))
    return Weights(weight, t)


def summed(weight: Float[Tensor, "n"], values: Float[Tensor, "n c"], samples: Samples) -> Float[Tensor, "r c"]:
    """The weighted sum of each ray."""
    return segment_reduce(weight[:, None] * values, samples.offsets, "sum")


# -- where the knots lie -----------------------------------------------------------------------------------------------


def place_knots(
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    lattices: Lattices,
    places: Places,
    *,
    sharpness: float,
    jitter: Float[Tensor, "r n_uniform_plus_n_fine"],
    n_uniform: int,
    steps: int = 128,
    marks: Float[Tensor, "r m"] | None = None,
) -> Knots:
    """Knots of rays: some spread evenly over what they cross of the boxes, more where the lattices say that light is stopped.

    Args:
        origins, directions: World frame, metres; directions of unit length.
        sharpness: That of the opacity by which the finer knots are drawn (1 / metres). It is made blunter where one step would
            jump over a surface.
        jitter: Random numbers in 0..1, one for each knot; 0.5 everywhere for the same knots each time.
        n_uniform: How many of them are spread evenly; the rest are drawn.
        steps: The lattices are looked at in so many places along a ray.
        marks: Places (metres along the ray) where knots are wanted besides, NaN for none.
    """
    marks = torch.full((len(origins), 0), torch.nan) if marks is None else marks
    width = jitter.shape[1] + marks.shape[1]
    t = np.empty((len(origins), width), np.float32)
    count = np.zeros(len(origins), np.int64)
    _place(
        origins.detach().double().numpy(),
        directions.detach().double().numpy(),
        lattices,
        places,
        float(sharpness),
        jitter.float().numpy(),
        n_uniform,
        steps,
        marks.float().numpy(),
        t,
        count,
    )
    kept = np.arange(width) < count[:, None]
    return Knots(torch.from_numpy(t[kept]), torch.from_numpy(np.concatenate([[0], np.cumsum(count)])))


@numba.njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _lattice_sdf(lattices, a, x, y, z):
    """Trilinear, at a point of the box (object frame)."""
    n = lattices.n[a]
    lo, hi = lattices.lo[a], lattices.hi[a]
    u = (x - lo[0]) / (hi[0] - lo[0]) * (n[0] - 1)
    v = (y - lo[1]) / (hi[1] - lo[1]) * (n[1] - 1)
    w = (z - lo[2]) / (hi[2] - lo[2]) * (n[2] - 1)
    i = min(max(int(u), 0), n[0] - 2)
    j = min(max(int(v), 0), n[1] - 2)
    k = min(max(int(w), 0), n[2] - 2)
    u, v, w = u - i, v - j, w - k
    value = lattices.value
    at = lattices.start[a] + (i * n[1] + j) * n[2] + k
    up, over = n[1] * n[2], n[2]
    near = (value[at] * (1 - w) + value[at + 1] * w) * (1 - v) + (
        value[at + over] * (1 - w) + value[at + over + 1] * w
    ) * v
    at += up
    far = (value[at] * (1 - w) + value[at + 1] * w) * (1 - v) + (
        value[at + over] * (1 - w) + value[at + over + 1] * w
    ) * v
    return near * (1 - u) + far * u


@numba.njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _log_passed(x):
    """log(1 / (1 + exp(-x)))"""
    return min(x, 0.0) - np.log1p(np.exp(-abs(x)))


@numba.njit(parallel=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _place(origin, direction, lattices, places, sharpness, jitter, n_uniform, steps, marks, out, count):
    m = len(places.scale)
    n_fine = jitter.shape[1] - n_uniform
    for ray in numba.prange(len(origin)):
        # Which boxes it crosses, where, and itself in the frames of these objects.
        o, d, which = np.empty((m, 3)), np.empty((m, 3)), np.empty(m, np.int64)
        enter, leave = np.empty(m), np.empty(m)
        met = 0
        begin, end = np.inf, -np.inf
        for i in range(m):
            a = places.asset[i]
            t0, t1 = 0.0, np.inf
            for c in range(3):
                p, q = 0.0, 0.0
                for e in range(3):
                    p += places.rot[i, e, c] * (origin[ray, e] - places.trans[i, e])
                    q += places.rot[i, e, c] * direction[ray, e]
                p, q = p / places.scale[i], q / places.scale[i]
                o[met, c], d[met, c] = p, q
                if q == 0.0:
                    if p < lattices.lo[a, c] or p > lattices.hi[a, c]:
                        t1 = -1.0
                else:
                    near, far = (lattices.lo[a, c] - p) / q, (lattices.hi[a, c] - p) / q
                    t0, t1 = max(t0, min(near, far)), min(t1, max(near, far))
            if t0 < t1:
                which[met], enter[met], leave[met] = i, t0, t1
                begin, end = min(begin, t0), max(end, t1)
                met += 1
        if met == 0:
            continue
        step = (end - begin) / steps
        blunt = min(sharpness, 2.0 / step)
        cdf = np.empty(steps + 1)
        last, passed, total = 0.0, 0.0, 0.0
        far = 0  # as many of the next places are so far outside that no light is stopped there
        for k in range(steps + 1):
            if far > 0 or passed < _DARK:
                cdf[k] = total
                far -= 1
                continue
            t = begin + k * step
            f = _FAR
            for j in range(met):
                if enter[j] <= t <= leave[j]:
                    i = which[j]
                    x, y, z = o[j, 0] + t * d[j, 0], o[j, 1] + t * d[j, 1], o[j, 2] + t * d[j, 2]
                    f = min(f, places.scale[i] * _lattice_sdf(lattices, places.asset[i], x, y, z))
            now = _log_passed(blunt * f)
            if k:
                stopped = min(0.0, now - last)
                total += np.exp(passed) * -np.expm1(stopped)
                passed += stopped
            last = now
            cdf[k] = total
            far = int((_SLOPE * f - _CLEAR / blunt) / step) if f < _FAR else 0
            for j in range(met):
                if enter[j] > t:
                    far = min(far, int((enter[j] - t) / step))
        n = 0
        for k in range(n_uniform):
            out[ray, n] = begin + (k + jitter[ray, k]) / n_uniform * (end - begin)
            n += 1
        if total > _SEEN:
            at = 0
            for k in range(n_fine):
                u = (k + jitter[ray, n_uniform + k]) / n_fine * total
                while at < steps - 1 and cdf[at + 1] < u:
                    at += 1
                rise = cdf[at + 1] - cdf[at]
                out[ray, n] = begin + step * (at + (min(max((u - cdf[at]) / rise, 0.0), 1.0) if rise > 0 else 0.5))
                n += 1
        for k in range(marks.shape[1]):
            if marks[ray, k] > 0:  # not NaN
                out[ray, n] = marks[ray, k]
                n += 1
        for k in range(1, n):  # a few dozen, mostly in order
            t = out[ray, k]
            j = k - 1
            while j >= 0 and out[ray, j] > t:
                out[ray, j + 1] = out[ray, j]
                j -= 1
            out[ray, j + 1] = t
        count[ray] = n


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
    """Renders a composite as a volume, unshaded. Each ray is held against every box: meant for tens of objects, not for thousands.

    Args:
        composite: The scene at one time.
        camera: Where from.
        sharpness: 1 / metres; that at which the objects were learned, or as sharp as liked.
        background: sRGB where nothing is.
        n_uniform, n_fine: Most knots of a ray (see `place_knots`).
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
    lattices, places = lattices_of(composite), places_of(composite)
    with Bar(total=n, desc="render", unit="ray", unit_scale=True, disable=not progress) as bar:
        offsets = pixel_offsets(antialias)
        for pixel in torch.arange(n).split(max(1, _CHUNK // len(offsets))):
            uv = camera.pixel_centers(pixel)
            rays = camera.rays((uv[:, None] + offsets).view(-1, 2))
            jitter = torch.full((len(rays.origins), n_uniform + n_fine), 0.5)
            knots = place_knots(
                rays.origins, rays.directions, lattices, places, sharpness=sharpness, jitter=jitter, n_uniform=n_uniform
            )
            samples, ray = knots.samples(), knots.ray
            sample = composite.query(rays.origins[ray] + knots.t[:, None].double() * rays.directions[ray])
            weight, t = weights_of(sample.sdf.float(), samples, sharpness)
            shown = (weight > _SHOWN).nonzero()[:, 0]
            owner = sample.owner[samples.first + 1][shown]
            r = samples.ray_indices[shown]
            p_world = rays.origins[r] + t[shown, None].double() * rays.directions[r]
            values = torch.zeros(len(weight), 4)
            values[:, 3] = t
            if len(shown):
                values[shown, :3] = (
                    composite.evaluate(p_world, owner, rays.directions[r], geometry=False).rgb.float().clamp(0, 1)
                )
            total = summed(weight, torch.cat([values, torch.ones(len(t), 1)], 1), samples)
            total = total.view(len(pixel), -1, 5).mean(1)
            opacity = total[:, 4]
            rgb[pixel] = total[:, :3] + (1 - opacity[:, None]) * behind
            alpha[pixel] = opacity
            along = camera.depth_per_t(uv).float()
            depth[pixel] = torch.where(opacity > 0.5, total[:, 3] / opacity.clamp(min=1e-6) * along, math.inf)
            bar.update(len(pixel))
    h, w = camera.height, camera.width
    return VolumeFrame(rgb.clamp(0, 1).view(h, w, 3), depth.view(h, w), alpha.view(h, w))


def lattices_of(composite: Composite, longest: int = 64) -> Lattices:
    """The lattices of the fields of a composite, ``longest`` vertices along the longest edge of each box."""
    values, counts, los, his = [], [], [], []
    for field, time in _rows_of(composite):
        axes = field.bounds.axes(longest)
        p = torch.cartesian_prod(*axes).to(field.box_lo.dtype)
        with torch.no_grad():
            values.append(field.sdf(p, None if time is None else torch.full((len(p),), time, dtype=p.dtype)).float())
        counts.append([len(axis) for axis in axes])
        los.append(field.box_lo.double())
        his.append(field.box_hi.double())
    if not values:
        return Lattices(
            np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, 3), np.int64), *np.zeros((2, 0, 3))
        )
    start = np.cumsum([0, *(len(v) for v in values[:-1])])
    boxes = (torch.stack(side).detach().numpy() for side in (los, his))
    return Lattices(torch.cat(values).numpy(), start, np.array(counts, np.int64), *boxes)


def places_of(composite: Composite) -> Places:
    """Where the instances of a composite stand."""
    rows = {(id(field), time): i for i, (field, time) in enumerate(_rows_of(composite))}
    instances = list(composite.instances)
    poses = [instance.T_world_obj.to(torch.float64) for instance in instances]
    rot = torch.stack([pose.rotation().detach() for pose in poses]) if poses else torch.zeros(0, 3, 3).double()
    trans = torch.stack([pose.translation.detach() for pose in poses]) if poses else torch.zeros(0, 3).double()
    scale = np.array([float(instance.scale) for instance in instances], np.float64)
    asset = np.array([rows[id(instance.field), instance.time] for instance in instances], np.int64)
    return Places(rot.numpy(), trans.numpy(), scale, asset)


def _rows_of(composite: Composite) -> list[tuple[Field, float | None]]:
    """The distinct fields, each with the time at which it is asked."""
    return list({(id(i.field), i.time): (i.field, i.time) for i in composite.instances}.values())
