"""Fused regression of signed distance and its gradient: loss and weight gradients of sine networks in one pass.

The gradient of the network by the point is a first pass backwards; the derivative of the loss by that gradient, a vector ``u`` at
each point, makes the rest of the loss the derivative of the network along ``u`` (Pearlmutter, "Fast Exact Multiplication by
the Hessian", 1994): one pass forward for values and tangents, one backwards. `tests/objects/test_fused.py` holds it against
second derivatives by autograd.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from objects.fused import PARTS, layer_start, sincos, spread
from objects.siren_layout import SineShape

_BLOCK = 64  # points in flight


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _ahead(theta, w_first, x, start, m, shape, s, c, z):
    """Sines (upper half of ``s``) and cosines of all layers for the ``m`` points from ``start`` on."""
    n_in, width = w_first.shape
    block = len(z)
    for p in range(m):
        for j in range(width):
            z[p, j] = w_first[0, j] * x[start + p, 0]
        for i in range(1, n_in):
            for j in range(width):
                z[p, j] += w_first[i, j] * x[start + p, i]
    sincos(z, theta[width * n_in : width * n_in + width], np.float32(shape.omega_first), s[0, :block], c[0])
    for layer in range(1, shape.layers):
        at = layer_start(n_in, width, layer)
        np.dot(s[layer - 1, :block], theta[at : at + width * width].reshape(width, width).T, z)
        bias = theta[at + width * width : at + width * width + width]
        sincos(z, bias, np.float32(shape.omega_hidden), s[layer, :block], c[layer])


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _slopes(theta, w_last, shape, c, pulled, q):
    """The network's derivative by each layer's sines (``pulled``) and by its sums (lower half of ``q``)."""
    n_in, width, layers = shape.n_in, shape.width, shape.layers
    block = c.shape[1]
    for layer in range(layers - 1, -1, -1):
        omega = np.float32(shape.omega_hidden if layer else shape.omega_first)
        if layer == layers - 1:
            for p in range(block):
                for j in range(width):
                    pulled[layer, p, j] = w_last[j]
        else:
            at = layer_start(n_in, width, layer + 1)
            np.dot(q[layer + 1, block:], theta[at : at + width * width].reshape(width, width), pulled[layer])
        for p in range(block):
            for j in range(width):
                q[layer, block + p, j] = omega * c[layer, p, j] * pulled[layer, p, j]


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _tangents(theta, w_first, u, shape, c, tangent, s):
    """Derivatives along ``u`` of each layer's sums (``tangent``) and sines (lower half of ``s``)."""
    n_in, width = w_first.shape
    block = len(u)
    for layer in range(shape.layers):
        omega = np.float32(shape.omega_hidden if layer else shape.omega_first)
        if layer == 0:
            for p in range(block):
                for j in range(width):
                    tangent[0, p, j] = w_first[0, j] * u[p, 0]
                for i in range(1, n_in):
                    for j in range(width):
                        tangent[0, p, j] += w_first[i, j] * u[p, i]
        else:
            at = layer_start(n_in, width, layer)
            np.dot(s[layer - 1, block:], theta[at : at + width * width].reshape(width, width).T, tangent[layer])
        for p in range(block):
            for j in range(width):
                s[layer, block + p, j] = omega * c[layer, p, j] * tangent[layer, p, j]


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _back(theta, w_last, push, u, x, start, m, shape, s, c, pulled, tangent, q, z, g_weight, g_first, grad):
    """Adds the gradient by all weights but the last layer's to ``grad``, the first layer's to ``g_first``."""
    n_in, width = g_first.shape
    layers, block = shape.layers, c.shape[1]
    for layer in range(layers - 1, -1, -1):
        omega = np.float32(shape.omega_hidden if layer else shape.omega_first)
        if layer == layers - 1:
            for p in range(block):
                for j in range(width):
                    z[p, j] = push[p] * w_last[j]
        else:
            at = layer_start(n_in, width, layer + 1)
            np.dot(q[layer + 1, :block], theta[at : at + width * width].reshape(width, width), z)
        for p in range(block):
            for j in range(width):
                bent = omega * s[layer, p, j] * tangent[layer, p, j] * pulled[layer, p, j]
                q[layer, p, j] = omega * (c[layer, p, j] * z[p, j] - bent)
        at = layer_start(n_in, width, layer)
        if layer:
            np.dot(q[layer].T, s[layer - 1], g_weight)  # both halves: by values and by tangents
            flat = g_weight.reshape(-1)
            for i in range(width * width):
                grad[at + i] += flat[i]
            bias_at = at + width * width
        else:
            for p in range(m):
                for i in range(n_in):
                    for j in range(width):
                        g_first[i, j] += q[0, p, j] * x[start + p, i] + q[0, block + p, j] * u[p, i]
            bias_at = width * n_in
        for p in range(m):
            for j in range(width):
                grad[bias_at + j] += q[layer, p, j]


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _regress(theta, x, target, weight, normal, steep, shape, scale, grad):
    """Adds ``scale * d loss / d theta`` to ``grad`` and returns ``scale * loss`` over one part of a batch (see `surface_l1`)."""
    n_points = len(x)
    n_in, width, layers = shape.n_in, shape.width, shape.layers
    block = max(
        8, min(_BLOCK, 131_072 // (width * width) // 8 * 8)
    )  # see `objects.fused`: twice as many rows in one product
    # Values above, derivatives below; zeroed, as rows past the end of a short block must not hold a NaN.
    s = np.zeros((layers, 2 * block, width), np.float32)
    q = np.zeros((layers, 2 * block, width), np.float32)
    c = np.zeros((layers, block, width), np.float32)
    pulled = np.zeros((layers, block, width), np.float32)
    tangent = np.zeros((layers, block, width), np.float32)
    z = np.zeros((block, width), np.float32)
    g_weight, g_first = np.empty((width, width), np.float32), np.zeros((n_in, width), np.float32)
    u, push = np.zeros((block, n_in), np.float32), np.zeros(block, np.float32)
    last = layer_start(n_in, width, layers)
    w_first = theta[: width * n_in].reshape(width, n_in).T.copy()
    w_last = theta[last : last + width]
    total = 0.0
    for start in range(0, n_points, block):
        m = min(block, n_points - start)
        _ahead(theta, w_first, x, start, m, shape, s, c, z)
        _slopes(theta, w_last, shape, c, pulled, q)
        u[:] = 0.0
        push[:] = 0.0
        for p in range(m):
            error = theta[last + width] - target[start + p]
            for j in range(width):
                error += w_last[j] * s[layers - 1, p, j]
            w = weight[start + p] * scale
            total += abs(error) * w
            push[p] = np.sign(error) * w
            length = np.float32(1e-20)
            for i in range(n_in):
                acc = -normal[start + p, i]
                for j in range(width):
                    acc += q[0, block + p, j] * w_first[i, j]
                u[p, i] = acc
                length += acc * acc
            length = np.sqrt(length)
            v = steep[start + p] * scale
            total += v * length
            for i in range(n_in):
                u[p, i] *= v / length
        _tangents(theta, w_first, u, shape, c, tangent, s)
        for p in range(m):
            grad[last + width] += push[p]
            for j in range(width):
                grad[last + j] += push[p] * s[layers - 1, p, j] + s[layers - 1, block + p, j]
        _back(theta, w_last, push, u, x, start, m, shape, s, c, pulled, tangent, q, z, g_weight, g_first, grad)
    grad[: width * n_in] += g_first.T.copy().reshape(-1)
    return total


class _SurfaceL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, x, target, weight, normal, steep, shape, n_threads):
        n_nets, n_points = x.shape[:2]
        grads = np.zeros((n_nets, PARTS, theta.shape[1]), np.float32)
        size = -(-n_points // PARTS)
        th, *samples = (t.detach().numpy() for t in (theta, x, target, weight, normal, steep))

        def part(job: int) -> float:
            k, at = divmod(job, PARTS)
            cut = slice(at * size, min((at + 1) * size, n_points))
            if at * size >= n_points:
                return 0.0
            xs, ts, ws, ns, vs = (v[k, cut] for v in samples)
            return _regress(th[k], xs, ts, ws, ns, vs, shape, np.float32(1 / n_points), grads[k, at])

        losses = spread(part, range(n_nets * PARTS), n_threads)
        ctx.grad = torch.from_numpy(grads.sum(1))
        return torch.tensor(losses).reshape(n_nets, PARTS).sum(1)

    @staticmethod
    def backward(ctx, grad_loss):
        return ctx.grad * grad_loss[:, None].to(ctx.grad.dtype), *[None] * 7


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
    return _SurfaceL1.apply(theta, *samples, shape, n_threads or torch.get_num_threads())
