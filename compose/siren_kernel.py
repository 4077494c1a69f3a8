"""A fused evaluation of many SIREN distance networks: all layers of a few points at a time, in cache, compiled by numba.

It says what `SirenField.sdf` says, up to float32 rounding, without gradients. Each point is computed by the
same instructions wherever it stands in the input, so equal pairs give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numba
import numpy as np
from torch import nn

from objects.siren import SirenField

# Most points of one asset computed together: long enough loops for the vector units, small enough for the cache.
_LANES = 64


def pack(fields: Sequence[SirenField]) -> np.ndarray:
    """The distance networks of fields of one shape, ``[a, n]`` float32.

    A row holds the box (lo, hi), centre, half extent, then for each layer the bias and the transposed weights, with the
    frequency of a sine layer multiplied in.
    """
    rows = []
    for field in fields:
        net = field.distance
        omegas = [net.omega_first] + [net.omega_hidden] * (len(net.linears) - 2) + [1.0]
        parts = [v.reshape(-1).numpy() for v in (field.box_lo, field.box_hi, field.center, field.half_extent)]
        for linear, omega in zip(cast(list[nn.Linear], list(net.linears)), omegas, strict=True):
            parts += [omega * linear.bias.detach().numpy(), (omega * linear.weight.detach().numpy()).T.ravel()]
        rows.append(np.concatenate(parts).astype(np.float32))
    return np.stack(rows)


def siren_sdf(packed: np.ndarray, width: int, layers: int, slot: np.ndarray, p_obj: np.ndarray) -> np.ndarray:
    """Distance ``[n]`` (object units, float32) of sorted pairs: ``slot [n]`` ascending rows of ``packed``, ``p_obj [n, 3]``
    float64."""
    out = np.empty(len(slot), dtype=np.float32)
    if len(slot):
        _run(packed, width, layers, _runs(slot), slot, p_obj, out)
    return out


@numba.njit(cache=True)
def _runs(slot):
    """Starts of groups of at most ``_LANES`` pairs of one asset, with the end of the input behind them."""
    starts = np.empty(len(slot) + 1, dtype=np.int64)
    n, first = 0, 0
    for k in range(len(slot)):
        if k == 0 or slot[k] != slot[k - 1] or k - first == _LANES:
            starts[n] = k
            n, first = n + 1, k
    starts[n] = len(slot)
    return starts[: n + 1]


@numba.njit(cache=True, parallel=True, fastmath={"contract", "nnan", "ninf", "nsz"})
def _run(packed, width, layers, starts, slot, p_obj, out):
    for r in numba.prange(len(starts) - 1):
        start, count = starts[r], starts[r + 1] - starts[r]
        lanes = (count + 7) // 8 * 8  # whole vector registers; what is too much repeats the last point
        w = packed[slot[start]]
        x, gap2 = np.empty(3 * lanes, dtype=np.float32), np.zeros(lanes, dtype=np.float32)
        h, g = np.empty(width * lanes, dtype=np.float32), np.empty(width * lanes, dtype=np.float32)
        half = w[9]
        for i in range(lanes):
            k = start + min(i, count - 1)
            for a in range(3):
                p = np.float32(p_obj[k, a])
                q = min(max(p, w[a]), w[3 + a])
                gap2[i] += (p - q) * (p - q)
                x[a * lanes + i] = (q - w[6 + a]) / half
        at = _linear(w, 10, x, 3, h, width, lanes)
        _sine(h)
        for _ in range(layers - 1):
            at = _linear(w, at, h, width, g, width, lanes)
            _sine(g)
            h, g = g, h
        _linear(w, at, h, width, x, 1, lanes)
        for i in range(count):
            sdf = x[i] * half
            if gap2[i] > 0:  # the rule of `Field.forward` outside the box
                sdf = np.sqrt(gap2[i] + max(sdf, np.float32(0)) ** 2)
            out[start + i] = sdf


@numba.njit(cache=True, fastmath={"contract", "nnan", "ninf", "nsz"})
def _linear(w, at, x, n_in, out, n_out, lanes):
    """``out = bias + weight x`` for ``lanes`` points side by side; returns where the next layer starts in ``w``."""
    for j in range(n_out):
        out[j * lanes : (j + 1) * lanes] = w[at + j]
    at += n_out
    k = 0
    while k + 4 <= n_in:  # four inputs at a time: one load and store of the sums for four products
        x0, x1 = x[k * lanes : (k + 1) * lanes], x[(k + 1) * lanes : (k + 2) * lanes]
        x2, x3 = x[(k + 2) * lanes : (k + 3) * lanes], x[(k + 3) * lanes : (k + 4) * lanes]
        for j in range(n_out):
            w0, w1 = w[at + j], w[at + n_out + j]
            w2, w3 = w[at + 2 * n_out + j], w[at + 3 * n_out + j]
            o = out[j * lanes : (j + 1) * lanes]
            for i in range(lanes):
                o[i] += w0 * x0[i] + w1 * x1[i] + w2 * x2[i] + w3 * x3[i]
        at += 4 * n_out
        k += 4
    while k < n_in:
        x0 = x[k * lanes : (k + 1) * lanes]
        for j in range(n_out):
            w0, o = w[at + j], out[j * lanes : (j + 1) * lanes]
            for i in range(lanes):
                o[i] += w0 * x0[i]
        at += n_out
        k += 1
    return at


@numba.njit(cache=True, fastmath={"contract", "nnan", "ninf", "nsz"})
def _sine(x):
    """``sin`` in place: reduced to [-pi/2, pi/2] by multiples of pi in two parts, then a Taylor-like polynomial of degree 9
    with minimax coefficients (error below 1e-7)."""
    for i in range(len(x)):
        n = np.floor(x[i] * np.float32(0.3183098861837907) + np.float32(0.5))
        y = x[i] - n * np.float32(3.140625)
        y = y - n * np.float32(0.0009676535897932384)
        odd = n - np.float32(2.0) * np.floor(n * np.float32(0.5))
        y = y - np.float32(2.0) * odd * y
        z = y * y
        s = np.float32(2.6057805e-06)
        s = s * z + np.float32(-1.9809573e-04)
        s = s * z + np.float32(8.3330255e-03)
        s = s * z + np.float32(-1.6666657e-01)
        x[i] = y + y * z * s
