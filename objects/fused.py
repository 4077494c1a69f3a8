"""Fused kernels for training sine networks: blocks of points go forward and back through all layers at once.

Training a small SIREN through autograd is bound by memory traffic and by `sin`, not by arithmetic. Here blocks of points
go through all layers while they sit in the caches (`objects.sine_passes`). `weighted_l1` and `surface_l1` are regression: loss and
weight gradients in one pass, the latter of distances and their gradients. `sine_mlps` is any other use: an autograd function of
weights and points, whose backward pass computes the activations anew. `tests/objects/test_fused.py` holds all against autograd.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from objects.products import padded, product
from objects.sine_passes import (
    BLOCK,
    ahead,
    arrange,
    arranged_size,
    back,
    collect,
    scratch,
    slopes,
    take,
    tangents,
    views,
)
from objects.siren_layout import SineShape

_ROWS = 1024  # points of one network in one job
_PARTS = 4  # a batch is summed in this many parts whatever the number of threads, so that bits don't depend on it
_FAST = {"nogil": True, "fastmath": True, "cache": True, "error_model": "numpy"}


@numba.njit(inline="always", **_FAST)
def _outputs(net, s, p, o):
    """Output ``o`` of the point in row ``p`` of a block."""
    last, sines = net[3][o], s[p]
    total = np.float32(0.0)
    for j in range(len(last)):
        total += last[j] * sines[j]
    return total + net[4][o]


@numba.njit(inline="always", **_FAST)
def _push(net, s, p, o, push, g, grads):
    """Adds what a gradient ``push`` by an output does: to the last layer's gradients, and to ``g``, that of the last sines."""
    grads[4][o] += push
    last, sines, g_last, g_row = net[3][o], s[p], grads[3][o], g[p]
    for j in range(len(last)):
        g_row[j] += push * last[j]
        g_last[j] += push * sines[j]


@numba.njit(**_FAST)
def _regress(flat, flipped, x, target, weight, shape, squash, scale, grad):
    """Adds ``scale * d loss / d weights`` to ``grad`` (arranged) and returns ``scale * loss`` over one part of a batch.

    ``loss = sum_p weight_p sum_o |y_po - target_po|`` with ``y`` the output, through a sigmoid if ``squash``.
    """
    net, grads = views(flat, shape), views(grad, shape)
    points, s = scratch(shape)
    c = np.zeros_like(s)
    g, r = np.zeros_like(s[0]), np.zeros_like(s[0])
    total = 0.0
    for start in range(0, len(x), BLOCK):
        m = min(BLOCK, len(x) - start)
        take(x, start, m, points)
        ahead(net, flipped, points, shape, s, c)
        g[:] = 0.0  # rows beyond m keep it
        for p in range(m):
            for o in range(shape.n_out):
                value = _outputs(net, s[-1], p, o)
                slope = np.float32(1.0)
                if squash:
                    value = np.float32(1.0) / (np.float32(1.0) + np.exp(-value))
                    slope = value * (np.float32(1.0) - value)
                error = value - target[start + p, o]
                w = weight[start + p] * scale
                total += abs(error) * w
                _push(net, s[-1], p, o, np.sign(error) * w * slope, g, grads)
        back(net, points, shape, s, c, s[:0], g, r, grads)
    return total


@numba.njit(**_FAST)
def _regress_surface(flat, flipped, x, target, weight, normal, steep, shape, scale, grad):
    """As `_regress`, for `surface_l1`."""
    net, grads = views(flat, shape), views(grad, shape)
    first = net[0]
    points, s = scratch(shape)
    c, pulled, q, d = np.zeros_like(s), np.zeros_like(s), np.zeros_like(s), np.zeros_like(s)
    g, r, u = np.zeros_like(s[0]), np.zeros_like(s[0]), np.zeros_like(points)
    total = 0.0
    for start in range(0, len(x), BLOCK):
        m = min(BLOCK, len(x) - start)
        take(x, start, m, points)
        ahead(net, flipped, points, shape, s, c)
        slopes(net, shape, c, pulled, q)
        g[:] = 0.0
        u[:] = 0.0
        for p in range(m):
            error = _outputs(net, s[-1], p, 0) - target[start + p]
            w = weight[start + p] * scale
            total += abs(error) * w
            _push(net, s[-1], p, 0, np.sign(error) * w, g, grads)
            length = np.float32(1e-20)
            sums = q[0, p]
            for i in range(shape.n_in):
                column = first[i]
                off = -normal[start + p, i]
                for j in range(len(sums)):
                    off += sums[j] * column[j]
                u[p, i] = off
                length += off * off
            length = np.sqrt(length)
            v = steep[start + p] * scale
            total += v * length
            for i in range(shape.n_in):
                u[p, i] *= v / length
        tangents(net, flipped, u, shape, s, c, pulled, d)
        back(net, points, shape, s, c, pulled, g, r, grads)
        last = grads[3][0]
        for p in range(m):
            for j in range(len(last)):
                last[j] += d[-1, p, j]
        for layer in range(1, shape.layers):
            product(q[layer].T, d[layer - 1], grads[2][layer - 1], True)
        product(u.T, q[0], grads[0], True)
    return total


@numba.njit(**_FAST)
def _evaluate(flat, flipped, x, shape, out):
    """Writes the outputs of one network at some points."""
    net = views(flat, shape)
    points, s = scratch(shape)
    c = np.zeros_like(s)
    for start in range(0, len(x), BLOCK):
        m = min(BLOCK, len(x) - start)
        take(x, start, m, points)
        ahead(net, flipped, points, shape, s, c)
        for p in range(m):
            for o in range(shape.n_out):
                out[start + p, o] = _outputs(net, s[-1], p, o)


@numba.njit(**_FAST)
def _pull_back(flat, flipped, x, g_out, shape, grad, g_x):
    """Adds to ``grad`` the gradient by the weights, and writes that by the points to ``g_x`` (unless it has no rows)."""
    net, grads = views(flat, shape), views(grad, shape)
    points, s = scratch(shape)
    c = np.zeros_like(s)
    g, r = np.zeros_like(s[0]), np.zeros_like(s[0])
    for start in range(0, len(x), BLOCK):
        m = min(BLOCK, len(x) - start)
        take(x, start, m, points)
        ahead(net, flipped, points, shape, s, c)
        g[:] = 0.0
        for p in range(m):
            for o in range(shape.n_out):
                _push(net, s[-1], p, o, g_out[start + p, o], g, grads)
        back(net, points, shape, s, c, s[:0], g, r, grads)
        if len(g_x):
            for p in range(m):
                for i in range(shape.n_in):
                    sums, column = r[p], net[0][i]
                    total = np.float32(0.0)
                    for j in range(len(sums)):
                        total += sums[j] * column[j]
                    g_x[start + p, i] = total


@lru_cache(maxsize=1)
def _pool(n_threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="sirenscape-fused")


def spread(part: Callable[[Any], Any], jobs: Sequence[Any], n_threads: int) -> list[Any]:
    """``part`` of each job, on so many threads; only kernels that let go of the interpreter gain by it."""
    return list(map(part, jobs) if n_threads == 1 else _pool(n_threads, os.getpid()).map(part, jobs))


class _Arranged:
    """Networks arranged for the kernels, ``flat [k, size]`` and ``flipped [k, layers - 1, width, width]``."""

    def __init__(self, theta: Tensor, shape: SineShape, n_threads: int) -> None:
        rows, width = theta.detach().numpy(), padded(shape.width)
        self.shape, self.n_threads, self.row = shape, n_threads, rows.shape[1]
        self.flat = np.zeros((len(rows), arranged_size(shape)), np.float32)
        self.flipped = np.zeros((len(rows), shape.layers - 1, width, width), np.float32)
        spread(lambda k: arrange(rows[k], shape, self.flat[k], self.flipped[k]), range(len(rows)), n_threads)

    def regressed(
        self, kernel: Callable[..., float], samples: Sequence[Tensor], *options: Any
    ) -> tuple[Tensor, Tensor]:
        """Losses ``[k]`` and their gradients by the rows."""
        n_nets, n_points = samples[0].shape[:2]
        arrays = [t.detach().numpy() for t in samples]
        size = -(-n_points // (_PARTS * BLOCK)) * BLOCK
        grads = np.zeros((n_nets, _PARTS, self.flat.shape[1]), np.float32)
        out = np.zeros((n_nets, self.row), np.float32)

        def part(job: int) -> float:
            k, at = divmod(job, _PARTS)
            mine = [array[k, at * size : (at + 1) * size] for array in arrays]
            if len(mine[0]) == 0:
                return 0.0
            scale = np.float32(1 / n_points)
            return kernel(self.flat[k], self.flipped[k], *mine, self.shape, *options, scale, grads[k, at])

        losses = spread(part, range(n_nets * _PARTS), self.n_threads)
        spread(lambda k: collect(grads[k], self.shape, out[k]), range(n_nets), self.n_threads)
        return torch.tensor(losses).reshape(n_nets, _PARTS).sum(1), torch.from_numpy(out)


class _Regression(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, kernel, samples, shape, options, n_threads):
        loss, ctx.grad = _Arranged(theta, shape, n_threads).regressed(kernel, samples, *options)
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        return ctx.grad * grad_loss[:, None].to(ctx.grad.dtype), *[None] * 5


def weighted_l1(
    theta: Float[Tensor, "k n_params"],
    x: Float[Tensor, "k n 3"],
    target: Float[Tensor, "k n o"],
    weight: Float[Tensor, "k n"],
    shape: SineShape,
    *,
    squash: bool,
    n_threads: int | None = None,
) -> Float[Tensor, "k"]:
    """Mean over the points of ``weight * sum_o |net(x)_o - target_o|`` for ``k`` sine networks of equal shape at once.

    Args:
        theta: Numbers of each network (`objects.siren.pack`), float32 on the CPU; what fills up a row is left alone. The only
            argument that gets a gradient.
        x, target, weight: Points, wanted outputs and weights of each network, float32.
        shape: What the numbers of a network mean.
        squash: Whether the outputs go through a sigmoid.
        n_threads: Threads to use; those of torch without.
    """
    samples = x, target, weight
    return _Regression.apply(theta, _regress, samples, shape, (squash,), n_threads or torch.get_num_threads())


def surface_l1(
    theta: Float[Tensor, "k n_params"],
    x: Float[Tensor, "k n 3"],
    target: Float[Tensor, "k n"],
    weight: Float[Tensor, "k n"],
    gradient: Float[Tensor, "k n 3"],
    gradient_weight: Float[Tensor, "k n"],
    shape: SineShape,
    *,
    n_threads: int | None = None,
) -> Float[Tensor, "k"]:
    """Mean over the points of ``weight * |net(x) - target| + gradient_weight * ||d net / d x - gradient||`` for ``k`` sine
    networks of one output and equal shape at once.

    Args:
        theta: Numbers of each network (`objects.siren.pack`), float32 on the CPU. The only argument that gets a gradient.
        x, target, weight, gradient, gradient_weight: Points, wanted distances and gradients, and what an error weighs; float32.
        shape: What the numbers of a network mean.
        n_threads: Threads to use; those of torch without.
    """
    samples = x, target, weight, gradient, gradient_weight
    return _Regression.apply(theta, _regress_surface, samples, shape, (), n_threads or torch.get_num_threads())


class _SineMlps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, x, offsets, shape, n_threads):
        nets, xs = _Arranged(theta, shape, n_threads), x.detach().numpy()
        out = np.empty((len(xs), shape.n_out), np.float32)

        def part(job: tuple[int, int, int]) -> None:
            k, lo, hi = job
            _evaluate(nets.flat[k], nets.flipped[k], xs[lo:hi], shape, out[lo:hi])

        spread(part, _jobs(offsets.numpy()), n_threads)
        ctx.save_for_backward(theta, x, offsets)
        ctx.nets = nets
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx, g_out):
        theta, x, offsets = ctx.saved_tensors
        nets: _Arranged = ctx.nets
        pushed = g_out.contiguous().numpy()
        rows = np.flatnonzero(pushed.any(1))  # points that nothing depends on aren't asked again
        pushed, xs = pushed[rows], x.detach().numpy()[rows]
        jobs = _jobs(np.searchsorted(rows, offsets.numpy()))
        wanted = ctx.needs_input_grad[1]
        g_x = np.empty_like(xs) if wanted else xs[:0]
        grads = np.zeros((len(jobs), nets.flat.shape[1]), np.float32)

        def part(number: int) -> None:
            k, lo, hi = jobs[number]
            g = g_x[lo:hi] if wanted else g_x
            _pull_back(nets.flat[k], nets.flipped[k], xs[lo:hi], pushed[lo:hi], nets.shape, grads[number], g)

        spread(part, range(len(jobs)), nets.n_threads)
        grad = np.zeros(theta.shape, np.float32)
        for k in range(len(grad)):
            if len(mine := [number for number, job in enumerate(jobs) if job[0] == k]):
                collect(grads[mine[0] : mine[-1] + 1], nets.shape, grad[k])
        g_points = None
        if wanted:
            g_points = torch.zeros_like(x)
            g_points[torch.from_numpy(rows)] = torch.from_numpy(g_x)
        return torch.from_numpy(grad), g_points, None, None, None


def _jobs(offsets: np.ndarray) -> list[tuple[int, int, int]]:
    """Networks and their rows, in pieces."""
    return [
        (k, lo, min(lo + _ROWS, end))
        for k, (begin, end) in enumerate(pairwise(offsets.tolist()))
        for lo in range(begin, end, _ROWS)
    ]


def sine_mlps(
    theta: Float[Tensor, "k n_params"],
    x: Float[Tensor, "n 3"],
    offsets: Int[Tensor, "k_plus_1"],
    shape: SineShape,
    *,
    n_threads: int | None = None,
) -> Float[Tensor, "n {shape.n_out}"]:
    """``k`` sine networks of equal shape, each at its own points.

    Differentiable once by ``theta`` and ``x``. The bits don't depend on the number of threads.

    Args:
        theta: Flat parameters of each network, as in `weighted_l1`.
        x: Points, those of one network after the other, float32 on the CPU.
        offsets: Network ``i`` is asked at ``x[offsets[i]:offsets[i + 1]]``.
        shape: What the numbers of a network mean.
        n_threads: Threads to use; those of torch without.
    """
    return _SineMlps.apply(theta, x, offsets, shape, n_threads or torch.get_num_threads())
