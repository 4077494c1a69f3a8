"""Where rays are sampled: intervals along rays, packed and ragged, gathered where light is stopped.

A ray carries interval boundaries ``t_0 < t_1 < ...``, as many as it needs and none where it meets no object; a sample lies between
two of them. Rays are first routed: a tree over the boxes of the instances gives each ray those that it may cross, and nothing
else is asked of the others. Where the boundaries lie is decided by *lattices*: the distance of each object on a regular grid,
made anew while it learns. Rays are walked through them, and boundaries gather where these say the light is stopped (decision 013).

Instances may move: poses are given for each of ``f`` frames, and every ray belongs to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compose.composite import Composite
from compose.cpu import build, refit
from compose.cpu.bvh import EMPTY, INNER, STACK, box_span, inverse
from objects.aabb import Aabb

_OPAQUE = 0.01  # a ray of which the lattices stop less than this gets no fine samples
_DARK = -12.0  # log of the light that is left where a ray isn't followed any further
_CLEAR = 8.0  # no light is stopped where sharpness times distance is more
_SLOPE = 0.8  # of a distance, the step that surely meets no surface: lattices are that much steeper than 1 at most
_FAR = 1e9  # what stands for the distance where no object's box is
_PAD = (
    1e-4  # of the longest half of a world box, by which it is wider in the tree: points on rays are rounded to float32
)


class Lattices(NamedTuple):
    """The distances of ``a`` objects on regular grids over their boxes, object frame and units.

    Args:
        value: All grids one after the other, last axis fastest, float32.
        start: Where each begins in ``value``, ``[a]`` int64.
        n: Vertices along each axis, ``[a, 3]`` int64.
    """

    value: np.ndarray
    start: np.ndarray
    n: np.ndarray


class FrameTransforms(NamedTuple):
    """Where ``m`` instances stand in each of ``f`` frames, with a tree over their world boxes.

    Args:
        rot, trans: ``[f, m, 3, 3]``, ``[f, m, 3]`` (metres), object to world, float64.
        scale: ``[m]``.
        asset: ``[m]``, the row of each one's lattice and box.
        lo, hi: Boxes in the object frame, ``[a, 3]``.
        nodes: ``[f, 2, k, 3]``, corners of the nodes of the tree; ``leaf [k]``, what they hold (`compose.cpu.bvh`).
    """

    rot: np.ndarray
    trans: np.ndarray
    scale: np.ndarray
    asset: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    nodes: np.ndarray
    leaf: np.ndarray


class RoutedRays(NamedTuple):
    """``r`` rays and the instances whose boxes they may cross.

    Args:
        origins, directions: ``[r, 3]`` world frame, metres, directions of unit length; may carry a graph.
        frame: That of each ray, ``[r]``.
        offsets, instance: Ray ``i`` may cross the boxes of ``instance[offsets[i]:offsets[i + 1]]``, and no others.
    """

    origins: Float[Tensor, "r 3"]
    directions: Float[Tensor, "r 3"]
    frame: Int[Tensor, "r"]
    offsets: Int[np.ndarray, "r_plus_1"]
    instance: Int[np.ndarray, "c"]


class RayIntervals(NamedTuple):
    """Ragged boundaries of intervals along ``r`` rays: ``t [k]`` (metres, rising along a ray), ``offsets [r + 1]``. A ray has
    none, or at least two."""

    t: Float[Tensor, "k"]
    offsets: Int[Tensor, "r_plus_1"]

    @property
    def ray_indices(self) -> Int[Tensor, "k"]:
        """The ray of each boundary."""
        return torch.repeat_interleave(torch.arange(len(self.offsets) - 1), self.offsets.diff())

    def samples(self) -> RaySamples:
        """The intervals between the boundaries."""
        ray = self.ray_indices
        first = (ray[:-1] == ray[1:]).nonzero()[:, 0] if len(ray) else ray
        count = (self.offsets.diff() - 1).clamp(min=0)
        offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
        return RaySamples(ray[first], self.t[first], self.t[first + 1], offsets, first)


class RaySamples(NamedTuple):
    """``n`` intervals of ``r`` rays, those of one ray after the other, in order.

    Args:
        ray_indices: The ray of each.
        t_starts, t_ends: Where it begins and ends, metres.
        offsets: The samples of ray ``i`` are ``offsets[i]:offsets[i + 1]``.
        first: The number of the boundary at which each starts; it ends at the next.
    """

    ray_indices: Int[Tensor, "n"]
    t_starts: Float[Tensor, "n"]
    t_ends: Float[Tensor, "n"]
    offsets: Int[Tensor, "r_plus_1"]
    first: Int[Tensor, "n"]


# -- what rays are sampled by ------------------------------------------------------------------------------------------


def lattices_of(boxes: Sequence[Aabb], longest: int, sdf: Callable[[int, Float[Tensor, "k 3"]], Tensor]) -> Lattices:
    """Lattices over boxes, ``longest`` vertices along the longest edge of each.

    Args:
        sdf: Gives the distances of object ``i`` at points of its frame, object units.
    """
    values, counts = [], []
    for i, box in enumerate(boxes):
        axes = box.axes(longest)
        with torch.no_grad():
            values.append(sdf(i, torch.cartesian_prod(*axes)).float())
        counts.append([len(axis) for axis in axes])
    start = np.cumsum([0, *(len(v) for v in values)])[:-1]
    value = torch.cat(values).numpy() if values else np.zeros(0, np.float32)
    return Lattices(value, start, np.array(counts, np.int64).reshape(-1, 3))


def lattices_of_scene(composite: Composite, longest: int = 64) -> Lattices:
    """The lattices of the fields of a composite, in the order of `transforms_of_scene`."""
    arrays = composite.arrays
    shown = np.unique(arrays.transforms.asset, return_index=True)[1]  # an instance of each

    def sdf(i: int, p_obj: Tensor) -> Tensor:
        field, time = arrays.fields[shown[i]], arrays.times[shown[i]]
        p_obj = p_obj.to(field.box_lo.dtype)
        return field.sdf(p_obj, None if time is None else torch.full((len(p_obj),), time, dtype=p_obj.dtype))

    return lattices_of([arrays.fields[k].bounds for k in shown], longest, sdf)


def transforms_of_scene(composite: Composite) -> FrameTransforms:
    """Where the instances of a composite stand, as a single frame."""
    at, tree = composite.arrays.transforms, composite.arrays.tree
    used, row = np.unique(at.asset, return_inverse=True)
    boxes = (at.box_lo[used], at.box_hi[used], np.stack([tree.lo, tree.hi])[None])
    return FrameTransforms(at.rot[None], at.trans[None], at.scale, row, *boxes, tree.instance)


def frame_transforms(
    rot: Float[np.ndarray, "f m 3 3"],
    trans: Float[np.ndarray, "f m 3"],
    scale: Float[np.ndarray, "m"],
    asset: Int[np.ndarray, "m"],
    boxes: Sequence[Aabb],
) -> FrameTransforms:
    """With a tree over the world boxes, one order for all frames (that of the first), refitted to each."""
    lo, hi = (np.array([getattr(box, k).double().numpy() for box in boxes]).reshape(-1, 3) for k in ("lo", "hi"))
    half = (0.5 * (hi - lo))[asset] * scale[:, None]
    middle = (rot @ (0.5 * (lo + hi)[asset] * scale[:, None])[..., None])[..., 0] + trans
    reach = (np.abs(rot) @ half[..., None])[..., 0]
    reach += _PAD * reach.max(-1, keepdims=True) + 1e-6 * np.abs(middle)
    trees = [build((middle - reach)[0], (middle + reach)[0])]
    trees += [
        refit(trees[0], np.arange(len(asset)), a, b) for a, b in zip(middle - reach, middle + reach, strict=True)
    ][1:]
    nodes = np.stack([[tree.lo, tree.hi] for tree in trees])
    rot, trans = np.ascontiguousarray(rot), np.ascontiguousarray(trans)
    return FrameTransforms(rot, trans, scale, asset, lo, hi, nodes, trees[0].instance)


def route(
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    transforms: FrameTransforms,
    frame: Int[Tensor, "r"] | None = None,
) -> RoutedRays:
    """Finds the boxes that rays may cross, by the tree: about the logarithm of their number for each ray.

    Args:
        origins, directions: World frame, metres.
        frame: That of each ray; the first by default.
    """
    frame = torch.zeros(len(origins), dtype=torch.int64) if frame is None else frame
    arrays = (origins.detach().double().numpy(), directions.detach().double().numpy(), frame.numpy())
    offsets = np.zeros(len(origins) + 1, np.int64)
    _route(*arrays, transforms, np.empty(0, np.int64), offsets)
    np.cumsum(offsets, out=offsets)
    instance = np.empty(offsets[-1], np.int64)
    _route(*arrays, transforms, instance, offsets)
    return RoutedRays(origins, directions, frame, offsets, instance)


def sample_intervals(
    rays: RoutedRays,
    lattices: Lattices,
    transforms: FrameTransforms,
    *,
    sharpness: float,
    jitter: Float[Tensor, "r n_uniform_plus_n_fine"],
    n_uniform: int,
    steps: int = 128,
    marks: Float[Tensor, "r m"] | None = None,
) -> RayIntervals:
    """Boundaries of intervals: some spread evenly over what a ray crosses of the boxes, more where the lattices say that light is
    stopped.

    Args:
        rays: Routed through ``transforms``.
        sharpness: That of the opacity by which the finer ones are drawn (1 / metres). It is made blunter where one step would
            jump over a surface.
        jitter: Random numbers in 0..1, one for each boundary; 0.5 everywhere for the same ones each time.
        n_uniform: How many of them are spread evenly; the rest are drawn.
        steps: The lattices are looked at in so many places along a ray.
        marks: Places (metres along the ray) where boundaries are wanted besides, NaN for none.
    """
    n = len(rays.origins)
    marks = torch.full((n, 0), torch.nan) if marks is None else marks
    width = jitter.shape[1] + marks.shape[1]
    t = np.empty((n, width), np.float32)
    count = np.zeros(n, np.int64)
    arrays = (rays.origins.detach().double().numpy(), rays.directions.detach().double().numpy(), *_routes(rays))
    drawn = (float(sharpness), jitter.float().numpy(), n_uniform, steps, marks.float().numpy())
    _sample(*arrays, lattices, transforms, *drawn, t, count)
    kept = np.arange(width) < count[:, None]
    return RayIntervals(torch.from_numpy(t[kept]), torch.from_numpy(np.concatenate([[0], np.cumsum(count)])))


def points_in_boxes(
    p_world: Float[Tensor, "n 3"], ray_indices: Int[Tensor, "n"], rays: RoutedRays, transforms: FrameTransforms
) -> tuple[Int[Tensor, "k"], Int[Tensor, "m_plus_1"]]:
    """Points along rays (``[n, 3]``, world frame, metres) within the box of each instance: their numbers, sorted by instance and
    then by point, and where those of each instance begin."""
    inputs = (p_world.detach().double().numpy(), ray_indices.numpy(), *_routes(rays), transforms)
    offsets = np.zeros(len(transforms.scale) + 1, np.int64)
    _pair_up(*inputs, np.empty(0, np.int64), offsets)
    np.cumsum(offsets, out=offsets)
    point = np.empty(offsets[-1], np.int64)
    _pair_up(*inputs, point, offsets[:-1].copy())
    return torch.from_numpy(point), torch.from_numpy(offsets)


def _routes(rays: RoutedRays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rays.frame.numpy(), rays.offsets, rays.instance


# -- kernels -----------------------------------------------------------------------------------------------------------


@numba.njit(parallel=True, cache=True)
def _route(origin, direction, frame, transforms, instance, offsets):
    """Counts the boxes of each ray in ``offsets[1:]``, or writes their numbers, ascending, where ``instance`` has room."""
    leaf = transforms.leaf
    for ray in numba.prange(len(origin)):
        lo, hi = transforms.nodes[frame[ray], 0], transforms.nodes[frame[ray], 1]
        x, y, z = origin[ray, 0], origin[ray, 1], origin[ray, 2]
        ix, iy, iz = inverse(direction[ray, 0]), inverse(direction[ray, 1]), inverse(direction[ray, 2])
        stack = np.empty(STACK, np.int64)
        stack[0], top, count = 1, 1, 0
        while top > 0:
            top -= 1
            node = stack[top]
            i = leaf[node]
            if i == EMPTY:
                continue
            enter, leave = box_span(lo, hi, node, x, y, z, ix, iy, iz, 0.0, np.inf)
            if enter > leave:
                continue
            if i == INNER:
                stack[top], stack[top + 1] = 2 * node, 2 * node + 1
                top += 2
                continue
            if len(instance):
                instance[offsets[ray] + count] = i
            count += 1
        if len(instance):
            instance[offsets[ray] : offsets[ray] + count].sort()
        else:
            offsets[ray + 1] = count


@numba.njit(cache=True)
def _pair_up(p, ray_of, frame, along, instance, transforms, point, offsets):
    """Counts the points within the box of each instance in ``offsets[1:]``, or writes their numbers from ``offsets`` on where
    ``point`` has room."""
    rot, trans, scale = transforms.rot, transforms.trans, transforms.scale
    for j in range(len(p)):
        ray = ray_of[j]
        f = frame[ray]
        for k in range(along[ray], along[ray + 1]):
            i = instance[k]
            a = transforms.asset[i]
            inside = True
            for c in range(3):
                x = 0.0
                for e in range(3):
                    x += rot[f, i, e, c] * (p[j, e] - trans[f, i, e])
                x /= scale[i]
                if x < transforms.lo[a, c] or x > transforms.hi[a, c]:
                    inside = False
                    break
            if inside and len(point):
                point[offsets[i]] = j
                offsets[i] += 1
            elif inside:
                offsets[i + 1] += 1


@numba.njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _lattice_sdf(lattices, lo, hi, a, x, y, z):
    """Trilinear, at a point of the box (object frame)."""
    n = lattices.n[a]
    u = (x - lo[a, 0]) / (hi[a, 0] - lo[a, 0]) * (n[0] - 1)
    v = (y - lo[a, 1]) / (hi[a, 1] - lo[a, 1]) * (n[1] - 1)
    w = (z - lo[a, 2]) / (hi[a, 2] - lo[a, 2]) * (n[2] - 1)
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
def _sample(
    origin, direction, frame, along, instance, lattices, transforms,
    sharpness, jitter, n_uniform, steps, marks, out, count,
):  # fmt: skip
    rot, trans, scale, lo, hi = transforms.rot, transforms.trans, transforms.scale, transforms.lo, transforms.hi
    n_fine = jitter.shape[1] - n_uniform
    for ray in numba.prange(len(origin)):
        # Which boxes it crosses, where, and itself in the frames of these objects.
        frm, m = frame[ray], along[ray + 1] - along[ray]
        if m == 0:
            continue
        o, d, which = np.empty((m, 3)), np.empty((m, 3)), np.empty(m, np.int64)
        enter, leave = np.empty(m), np.empty(m)
        met = 0
        begin, end = np.inf, -np.inf
        for k in range(along[ray], along[ray + 1]):
            i = instance[k]
            a = transforms.asset[i]
            t0, t1 = 0.0, np.inf
            for c in range(3):
                p, q = 0.0, 0.0
                for e in range(3):
                    p += rot[frm, i, e, c] * (origin[ray, e] - trans[frm, i, e])
                    q += rot[frm, i, e, c] * direction[ray, e]
                p, q = p / scale[i], q / scale[i]
                o[met, c], d[met, c] = p, q
                if q == 0.0:
                    if p < lo[a, c] or p > hi[a, c]:
                        t1 = -1.0
                else:
                    near, far = (lo[a, c] - p) / q, (hi[a, c] - p) / q
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
                    f = min(f, scale[i] * _lattice_sdf(lattices, lo, hi, transforms.asset[i], x, y, z))
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
        if total > _OPAQUE:
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
