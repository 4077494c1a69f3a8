"""Passes of a block of points through a sine network and back, compiled: values, gradients, and second derivatives.

A block is small enough for the caches. Its arrays are ``[layers, BLOCK, width]``, with the width filled up to whole vector
registers; units that fill up have weights of 0 and stay there. A network is first *arranged* (`arrange`): one flat array of weights
with room for this; ``net`` is `views` of it. Gradients are summed in such an array too, and `collect` brings them back.

A gradient by the point is a first pass backwards (`slopes`). Where a loss depends on it, the derivative of the loss by the gradient
is a vector u at each point, and the rest is the derivative of the network along u (Pearlmutter, "Fast Exact Multiplication by
the Hessian", 1994): a pass forward for tangents (`tangents`), and terms in the pass backwards (`back`).
"""

from __future__ import annotations

import numba
import numpy as np

from objects.products import ROWS, padded, product
from objects.siren_layout import layer_at

BLOCK = 32  # points in flight
_layer_at = numba.njit(cache=True)(layer_at)
_padded = numba.njit(cache=True)(padded)
_FAST = {"nogil": True, "fastmath": True, "cache": True, "error_model": "numpy"}


@numba.njit(**_FAST)
def n_inputs(shape):
    """Inputs of a network, filled up to a multiple of `ROWS`."""
    return -(-shape.n_in // ROWS) * ROWS


@numba.njit(**_FAST)
def arranged_size(shape):
    """Numbers in an arranged network."""
    width = _padded(shape.width)
    inner = shape.layers + (shape.layers - 1) * width + shape.n_out + n_inputs(shape)
    return inner * width + _padded(shape.n_out)


@numba.njit(**_FAST)
def views(flat, shape):
    """The parts of an arranged network: first weight ``[n_inputs, width]``, biases ``[layers, width]``, weights of the other sine
    layers ``[layers - 1, width, width]`` (out, in), last weight ``[n_out, width]`` and bias."""
    width, n_in, n_out, layers = _padded(shape.width), n_inputs(shape), shape.n_out, shape.layers
    a = n_in * width
    b = a + layers * width
    c = b + (layers - 1) * width * width
    d = c + n_out * width
    return (
        flat[:a].reshape(n_in, width),
        flat[a:b].reshape(layers, width),
        flat[b:c].reshape(layers - 1, width, width),
        flat[c:d].reshape(n_out, width),
        flat[d : d + n_out],
    )


@numba.njit(**_FAST)
def arrange(theta, shape, flat, flipped):
    """Fills ``flat`` with a row of `objects.siren.pack`, and ``flipped`` with the weights between sine layers, (in, out)."""
    n_in, width, layers, n_out = shape.n_in, shape.width, shape.layers, shape.n_out
    first, bias, hidden, last, last_bias = views(flat, shape)
    for j in range(width):
        for i in range(n_in):
            first[i, j] = theta[j * n_in + i]
        bias[0, j] = theta[n_in * width + j]
    for layer in range(1, layers):
        at = _layer_at(n_in, width, layer)
        weight = theta[at : at + width * width].reshape(width, width)
        hidden[layer - 1, :width, :width] = weight
        flipped[layer - 1, :width, :width] = weight.T
        bias[layer, :width] = theta[at + width * width : at + width * width + width]
    at = _layer_at(n_in, width, layers)
    last[:, :width] = theta[at : at + n_out * width].reshape(n_out, width)
    last_bias[:] = theta[at + n_out * width : at + n_out * width + n_out]


@numba.njit(**_FAST)
def collect(grads, shape, out):
    """Adds gradients in several arranged arrays, ``grads [parts, size]``, to a row ``out`` of `objects.siren.pack`."""
    n_in, width, layers, n_out = shape.n_in, shape.width, shape.layers, shape.n_out
    total = grads[0].copy()
    for k in range(1, len(grads)):
        total += grads[k]
    first, bias, hidden, last, last_bias = views(total, shape)
    for j in range(width):
        for i in range(n_in):
            out[j * n_in + i] += first[i, j]
        out[n_in * width + j] += bias[0, j]
    for layer in range(1, layers):
        at = _layer_at(n_in, width, layer)
        for j in range(width):
            row = out[at + j * width : at + j * width + width]
            row += hidden[layer - 1, j, :width]
        row = out[at + width * width : at + width * width + width]
        row += bias[layer, :width]
    at = _layer_at(n_in, width, layers)
    for o in range(n_out):
        row = out[at + o * width : at + o * width + width]
        row += last[o, :width]
        out[at + n_out * width + o] += last_bias[o]


@numba.njit(**_FAST)
def scratch(shape):
    """An array for a block of points ``[BLOCK, n_inputs]``, and one for the units of all layers ``[layers, BLOCK, width]``."""
    x = np.zeros((BLOCK, n_inputs(shape)), np.float32)
    return x, np.zeros((shape.layers, BLOCK, _padded(shape.width)), np.float32)


@numba.njit(**_FAST)
def _sincos(z, bias, omega, c):
    """``z, c = sin, omega cos`` of ``omega (z + bias)`` to about 3e-6: Cody-Waite reduction by pi, then Taylor polynomials."""
    for p in range(z.shape[0]):
        _sincos_row(z[p], bias, omega, c[p])


@numba.njit(inline="always", **_FAST)
def _sincos_row(z, bias, omega, c):
    for e in range(len(bias)):
        x = omega * (z[e] + bias[e])
        k = np.floor(x * np.float32(0.31830988618) + np.float32(0.5))
        r = (x - k * np.float32(3.140625)) - k * np.float32(9.67653589793e-4)
        half = k * np.float32(0.5)
        sign = np.float32(1.0) - np.float32(4.0) * (half - np.floor(half))
        r2 = r * r
        odd = np.float32(-1.98406e-4) + r2 * np.float32(2.71e-6)
        odd = np.float32(1.0) + r2 * (np.float32(-1.6666666e-1) + r2 * (np.float32(8.3333310e-3) + r2 * odd))
        even = np.float32(-1.388850e-3) + r2 * (np.float32(2.4761e-5) + r2 * np.float32(-2.6e-7))
        even = np.float32(1.0) + r2 * (np.float32(-0.5) + r2 * (np.float32(4.16666418e-2) + r2 * even))
        z[e] = sign * r * odd
        c[e] = omega * sign * even


@numba.njit(**_FAST)
def ahead(net, flipped, x, shape, s, c):
    """Sines ``s`` of all layers at the points ``x [BLOCK, n_inputs]``, and their derivatives ``c`` by the sums."""
    first, bias = net[:2]
    for layer in range(shape.layers):
        omega = np.float32(shape.omega_hidden if layer else shape.omega_first)
        if layer:
            product(s[layer - 1], flipped[layer - 1], s[layer], False)
        else:
            product(x, first, s[layer], False)
        _sincos(s[layer], bias[layer], omega, c[layer])


@numba.njit(**_FAST)
def slopes(net, shape, c, pulled, q):
    """The derivative of the (only) output by each layer's sines, ``pulled``, and by its sums, ``q``."""
    hidden, last = net[2:4]
    for layer in range(shape.layers - 1, -1, -1):
        if layer == shape.layers - 1:
            for p in range(BLOCK):
                for j in range(last.shape[1]):
                    pulled[layer, p, j] = last[0, j]
        else:
            product(q[layer + 1], hidden[layer], pulled[layer], False)
        _multiply(c[layer].reshape(-1), pulled[layer].reshape(-1), q[layer].reshape(-1))


@numba.njit(**_FAST)
def _multiply(a, b, out):
    for e in range(len(out)):
        out[e] = a[e] * b[e]


@numba.njit(**_FAST)
def tangents(net, flipped, u, shape, s, c, pulled, d):
    """Derivatives ``d`` of each layer's sines along ``u [BLOCK, n_inputs]``; what `back` needs of them replaces ``pulled``."""
    for layer in range(shape.layers):
        omega = np.float32(shape.omega_hidden if layer else shape.omega_first)
        if layer:
            product(d[layer - 1], flipped[layer - 1], d[layer], False)
        else:
            product(u, net[0], d[0], False)
        _bend(
            omega * omega, s[layer].reshape(-1), c[layer].reshape(-1), pulled[layer].reshape(-1), d[layer].reshape(-1)
        )


@numba.njit(**_FAST)
def _bend(square, s, c, pulled, d):
    for e in range(len(d)):
        pulled[e] *= square * s[e] * d[e]
        d[e] *= c[e]


@numba.njit(**_FAST)
def back(net, x, shape, s, c, bend, g, r, grads):
    """From ``g [BLOCK, width]``, the gradient by the last sines, to that by all weights before (added to ``grads``, views of an
    arranged array) and by the first sums, ``r [BLOCK, width]``. ``bend`` is what `tangents` leaves, or has no layers. ``g`` is
    overwritten."""
    hidden = net[2]
    for layer in range(shape.layers - 1, -1, -1):
        if len(bend):
            _descend_bent(c[layer].reshape(-1), g.reshape(-1), bend[layer].reshape(-1), r.reshape(-1))
        else:
            _multiply(c[layer].reshape(-1), g.reshape(-1), r.reshape(-1))
        bias = grads[1][layer]
        for p in range(BLOCK):
            for j in range(len(bias)):
                bias[j] += r[p, j]
        if layer:
            product(r.T, s[layer - 1], grads[2][layer - 1], True)
            product(r, hidden[layer - 1], g, False)
        else:
            product(x.T, r, grads[0], True)


@numba.njit(**_FAST)
def _descend_bent(c, g, bend, r):
    for e in range(len(r)):
        r[e] = c[e] * g[e] - bend[e]


@numba.njit(**_FAST)
def take(x, start, m, block):
    """Rows ``start`` to ``start + m`` of ``x`` into a block, zeros after them."""
    block[m:] = 0.0
    for p in range(m):
        for i in range(x.shape[1]):
            block[p, i] = x[start + p, i]
