"""Fused kernels for training sine networks: blocks of points go forward and back through all layers at once.

Training a small SIREN through autograd is bound by memory traffic and by `sin`, not by arithmetic. Here blocks of 64 points
go through all layers while they sit in the first-level cache, with sine and cosine from one polynomial. `weighted_l1` is
regression: loss and weight gradients in one pass. `sine_mlps` is any other use: an autograd function of weights and points,
whose backward pass computes the activations anew. `tests/objects/test_fused.py` holds both against autograd.
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

from objects.siren_layout import SineShape, layer_at

_BLOCK = 64  # points in flight: the activations of three 64-wide layers then fit the caches
_ROWS = 1024  # points of one network in one job
PARTS = 8  # a batch is summed in this many parts whatever the number of threads, so that bits don't depend on it
layer_start = numba.njit(cache=True)(layer_at)


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def sincos(z, bias, omega, s, c):
    """``s, c = sin, cos(omega * (z + bias))`` to about 3e-6: Cody-Waite reduction by pi, then Taylor polynomials."""
    for p in range(z.shape[0]):
        for i in range(z.shape[1]):
            x = omega * (z[p, i] + bias[i])
            k = np.floor(x * np.float32(0.31830988618) + np.float32(0.5))
            r = (x - k * np.float32(3.140625)) - k * np.float32(9.67653589793e-4)
            half = k * np.float32(0.5)
            sign = np.float32(1.0) - np.float32(4.0) * (half - np.floor(half))
            r2 = r * r
            odd = np.float32(-1.98406e-4) + r2 * np.float32(2.71e-6)
            odd = np.float32(1.0) + r2 * (np.float32(-1.6666666e-1) + r2 * (np.float32(8.3333310e-3) + r2 * odd))
            even = np.float32(-1.388850e-3) + r2 * (np.float32(2.4761e-5) + r2 * np.float32(-2.6e-7))
            even = np.float32(1.0) + r2 * (np.float32(-0.5) + r2 * (np.float32(4.16666418e-2) + r2 * even))
            s[p, i] = sign * r * odd
            c[p, i] = sign * even


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _scratch(width, layers, n_in):
    """Room for a block: ``s, c [layers, block, width]``, ``z, g [block, width]``, the gradient of a hidden and of the first layer.

    OpenBLAS keeps to the calling thread up to 2^18 multiplications; beyond, its own threads would wait for each other.
    Zeroed: rows past the end of a short block are multiplied by 0, which must not meet a NaN.
    """
    block = max(8, min(_BLOCK, 262_144 // (width * width) // 8 * 8))
    s = np.zeros((layers, block, width), np.float32)
    c = np.zeros((layers, block, width), np.float32)
    z = np.zeros((block, width), np.float32)
    g = np.zeros((block, width), np.float32)
    return s, c, z, g, np.empty((width, width), np.float32), np.zeros((n_in, width), np.float32)


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _ahead(theta, w_first, x, start, m, shape, s, c, z):
    """Sines ``s`` and cosines ``c`` of all layers for the ``m`` points from ``start`` on."""
    n_in, width = w_first.shape
    omega_first, omega_hidden = np.float32(shape.omega_first), np.float32(shape.omega_hidden)
    for p in range(m):
        for j in range(width):
            z[p, j] = w_first[0, j] * x[start + p, 0]
        for i in range(1, n_in):
            for j in range(width):
                z[p, j] += w_first[i, j] * x[start + p, i]
    sincos(z, theta[width * n_in : width * n_in + width], omega_first, s[0], c[0])
    for layer in range(1, shape.layers):
        at = layer_start(n_in, width, layer)
        np.dot(s[layer - 1], theta[at : at + width * width].reshape(width, width).T, z)
        sincos(z, theta[at + width * width : at + width * width + width], omega_hidden, s[layer], c[layer])


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _back(theta, x, start, m, shape, s, c, z, g, g_weight, g_first, grad):
    """From ``g``, the gradient of the last sines, to those of all weights but the last layer's (added to ``grad``, the first
    layer's to ``g_first``). Returns the gradient at the first layer's sums, ``[block, width]``."""
    n_in, width = g_first.shape
    layers, block = s.shape[0], s.shape[1]
    omega_first, omega_hidden = np.float32(shape.omega_first), np.float32(shape.omega_hidden)
    for layer in range(layers - 1, -1, -1):
        omega = omega_hidden if layer else omega_first
        for p in range(block):
            for j in range(width):
                g[p, j] *= omega * c[layer, p, j]
        at = layer_start(n_in, width, layer)
        if layer:
            np.dot(g.T, s[layer - 1], g_weight)
            flat = g_weight.reshape(-1)
            for i in range(width * width):
                grad[at + i] += flat[i]
            bias_at = at + width * width
        else:
            for p in range(m):
                for i in range(n_in):
                    for j in range(width):
                        g_first[i, j] += g[p, j] * x[start + p, i]
            bias_at = width * n_in
        for p in range(m):
            for j in range(width):
                grad[bias_at + j] += g[p, j]
        if layer:
            np.dot(g, theta[at : at + width * width].reshape(width, width), z)
            g, z = z, g
    return g


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _regress(theta, x, target, weight, shape, squash, scale, grad):
    """Adds ``scale * d loss / d theta`` to ``grad`` and returns ``scale * loss`` over one part of a batch.

    ``loss = sum_p weight_p sum_o |y_po - target_po|`` with ``y`` the output, through a sigmoid if ``squash``. ``theta`` holds
    weight ``[out, in]`` and bias of each layer, one after the other.
    """
    n_points = len(x)
    n_in, n_out, width, layers = shape.n_in, shape.n_out, shape.width, shape.layers
    s, c, z, g, g_weight, g_first = _scratch(width, layers, n_in)
    block = len(z)
    last = layer_start(n_in, width, layers)
    w_first = theta[: width * n_in].reshape(width, n_in).T.copy()
    w_last = theta[last : last + n_out * width].reshape(n_out, width)
    b_last = theta[last + n_out * width :]
    g_last = np.zeros((n_out, width), np.float32)
    total = 0.0
    for start in range(0, n_points, block):
        m = min(block, n_points - start)
        _ahead(theta, w_first, x, start, m, shape, s, c, z)
        # Output, loss and its gradient; rows beyond m keep a gradient of zero.
        g[:] = 0.0
        for p in range(m):
            for o in range(n_out):
                acc = b_last[o]
                for j in range(width):
                    acc += w_last[o, j] * s[layers - 1, p, j]
                slope = np.float32(1.0)
                if squash:
                    acc = np.float32(1.0) / (np.float32(1.0) + np.exp(-acc))
                    slope = acc * (np.float32(1.0) - acc)
                error = acc - target[start + p, o]
                w = weight[start + p] * scale
                total += abs(error) * w
                push = np.sign(error) * w * slope
                grad[last + n_out * width + o] += push
                for j in range(width):
                    g[p, j] += push * w_last[o, j]
                for j in range(width):
                    g_last[o, j] += push * s[layers - 1, p, j]
        _back(theta, x, start, m, shape, s, c, z, g, g_weight, g_first, grad)
    grad[: width * n_in] += g_first.T.copy().reshape(-1)
    grad[last : last + n_out * width] += g_last.reshape(-1)
    return total


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _evaluate(theta, x, shape, out):
    """Writes the outputs of one network at some points."""
    n_points = len(x)
    n_in, n_out, width, layers = shape.n_in, shape.n_out, shape.width, shape.layers
    s, c, z, _g, _g_weight, _g_first = _scratch(width, layers, n_in)
    block = len(z)
    last = layer_start(n_in, width, layers)
    w_first = theta[: width * n_in].reshape(width, n_in).T.copy()
    w_last = theta[last : last + n_out * width].reshape(n_out, width)
    for start in range(0, n_points, block):
        m = min(block, n_points - start)
        _ahead(theta, w_first, x, start, m, shape, s, c, z)
        for p in range(m):
            for o in range(n_out):
                acc = theta[last + n_out * width + o]
                for j in range(width):
                    acc += w_last[o, j] * s[layers - 1, p, j]
                out[start + p, o] = acc


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _pull_back(theta, x, g_out, shape, grad, g_x):
    """Adds to ``grad`` the gradient by the weights, and writes that by the points to ``g_x`` (unless it has no rows)."""
    n_points = len(x)
    n_in, n_out, width, layers = shape.n_in, shape.n_out, shape.width, shape.layers
    s, c, z, g, g_weight, g_first = _scratch(width, layers, n_in)
    block = len(z)
    last = layer_start(n_in, width, layers)
    w_first = theta[: width * n_in].reshape(width, n_in).T.copy()
    w_last = theta[last : last + n_out * width].reshape(n_out, width)
    g_last = np.zeros((n_out, width), np.float32)
    for start in range(0, n_points, block):
        m = min(block, n_points - start)
        _ahead(theta, w_first, x, start, m, shape, s, c, z)
        g[:] = 0.0
        for p in range(m):
            for o in range(n_out):
                push = g_out[start + p, o]
                grad[last + n_out * width + o] += push
                for j in range(width):
                    g[p, j] += push * w_last[o, j]
                for j in range(width):
                    g_last[o, j] += push * s[layers - 1, p, j]
        sums = _back(theta, x, start, m, shape, s, c, z, g, g_weight, g_first, grad)
        if len(g_x):
            for p in range(m):
                for i in range(n_in):
                    acc = np.float32(0.0)
                    for j in range(width):
                        acc += sums[p, j] * w_first[i, j]
                    g_x[start + p, i] = acc
    grad[: width * n_in] += g_first.T.copy().reshape(-1)
    grad[last : last + n_out * width] += g_last.reshape(-1)


@lru_cache(maxsize=1)
def _pool(n_threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="sirenscape-fused")


def spread(part: Callable[[Any], Any], jobs: Sequence[Any], n_threads: int) -> list[Any]:
    """``part`` of each job, on so many threads; only kernels that let go of the interpreter gain by it."""
    return list(map(part, jobs) if n_threads == 1 else _pool(n_threads, os.getpid()).map(part, jobs))


class _WeightedL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, x, target, weight, shape, squash, n_threads):
        n_nets, n_points = x.shape[:2]
        grads = np.zeros((n_nets, PARTS, theta.shape[1]), np.float32)
        size = -(-n_points // PARTS)
        arrays = [t.detach().numpy() for t in (theta, x, target, weight)]

        def part(job: int) -> float:
            k, at = divmod(job, PARTS)
            cut = slice(at * size, min((at + 1) * size, n_points))
            th, xs, ts, ws = arrays[0][k], arrays[1][k, cut], arrays[2][k, cut], arrays[3][k, cut]
            if len(xs) == 0:
                return 0.0
            return _regress(th, xs, ts, ws, shape, squash, np.float32(1 / n_points), grads[k, at])

        jobs = range(n_nets * PARTS)
        losses = spread(part, jobs, n_threads)
        ctx.grad = torch.from_numpy(grads.sum(1))
        return torch.tensor(losses).reshape(n_nets, PARTS).sum(1)

    @staticmethod
    def backward(ctx, grad_loss):
        return ctx.grad * grad_loss[:, None].to(ctx.grad.dtype), None, None, None, None, None, None


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
    return _WeightedL1.apply(theta, x, target, weight, shape, squash, n_threads or torch.get_num_threads())


class _SineMlps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, x, offsets, shape, n_threads):
        th, xs = theta.detach().numpy(), x.detach().numpy()
        out = np.empty((len(xs), shape.n_out), np.float32)

        def part(job: tuple[int, int, int]) -> None:
            k, lo, hi = job
            _evaluate(th[k], xs[lo:hi], shape, out[lo:hi])

        spread(part, _jobs(offsets.numpy()), n_threads)
        ctx.save_for_backward(theta, x, offsets)
        ctx.rest = (shape, n_threads)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx, g_out):
        theta, x, offsets = ctx.saved_tensors
        shape, n_threads = ctx.rest
        pushed = g_out.contiguous().numpy()
        rows = np.flatnonzero(pushed.any(1))  # points that nothing depends on aren't asked again
        pushed, xs = pushed[rows], x.detach().numpy()[rows]
        jobs, th = _jobs(np.searchsorted(rows, offsets.numpy())), theta.detach().numpy()
        wanted = ctx.needs_input_grad[1]
        g_x = np.empty_like(xs) if wanted else xs[:0]
        grads = np.zeros((len(jobs), theta.shape[1]), np.float32)

        def part(number: int) -> None:
            k, lo, hi = jobs[number]
            g = g_x[lo:hi] if wanted else g_x
            _pull_back(th[k], xs[lo:hi], pushed[lo:hi], shape, grads[number], g)

        spread(part, range(len(jobs)), n_threads)
        grad = np.zeros(theta.shape, np.float32)
        for (k, _, _), share in zip(jobs, grads, strict=True):
            grad[k] += share
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
