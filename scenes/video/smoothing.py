"""Compiled: labels of least cost that are smooth where depth, side and colour are."""

from __future__ import annotations

import math

import numba
import numpy as np

_STEPS = np.array([[0, 1], [1, 0], [1, 1], [1, -1]])  # the other four neighbours are these, seen from there


@numba.njit(cache=True, parallel=True)
def neighbour_weights(depth, normal, rgb, gate):
    """[n 4 H W] how strongly each pixel is tied to its neighbours right, below, below right and below left.

    ``gate``: relative difference of depth at which the tie has fallen to 1/e.
    """
    n, height, width = depth.shape
    out = np.zeros((n, 4, height, width), np.float32)
    for job in numba.prange(n * height):
        i, y = job // height, job % height
        for x in range(width):
            z = depth[i, y, x]
            if z <= 0:
                continue
            for k in range(4):
                b, a = y + _STEPS[k, 0], x + _STEPS[k, 1]
                if b >= height or a < 0 or a >= width or depth[i, b, a] <= 0:
                    continue
                d = depth[i, b, a]
                jump = (d - z) / (gate * min(d, z))
                e, c = 0.0, 0.0
                for ch in range(3):
                    e += abs(rgb[i, b, a, ch] - rgb[i, y, x, ch])
                    c += normal[i, b, a, ch] * normal[i, y, x, ch]
                w = math.exp(-jump * jump) * (0.3 + 0.7 * math.exp(-e / 0.2)) * (0.3 + 0.7 * max(0.0, c))
                out[i, k, y, x] = w if k < 2 else 0.7 * w
    return out


@numba.njit(cache=True, parallel=True)
def mean_field(cost, ties, strength, sharp, rounds):
    """Labels [n H W] of the Potts model with these costs and ties, by mean-field rounds; -1 without costs.

    Args:
        cost: [n K H W], NaN without depth.
        ties: [n 4 H W], see `neighbour_weights`.
        strength: Cost of disagreeing with all neighbours.
        sharp: Beliefs are ``exp(-sharp * cost)``.
    """
    n, n_labels, height, width = cost.shape
    ids = np.full((n, height, width), -1, np.int32)
    for i in numba.prange(n):
        Q = np.zeros((height, width, n_labels), np.float32)
        new = np.zeros((height, width, n_labels), np.float32)
        field = np.zeros(n_labels)
        # Pixels that nothing but the first label can hold need no rounds.
        open_ = np.zeros((height, width), np.bool_)
        for m in range(1, n_labels):
            for y in range(height):
                for x in range(width):
                    if cost[i, m, y, x] < 0.999:
                        open_[y, x] = True
        for r in range(rounds + 1):
            for y in range(height):
                for x in range(width):
                    if cost[i, 0, y, x] != cost[i, 0, y, x]:
                        continue
                    if not open_[y, x]:
                        new[y, x, 0] = 1.0
                        continue
                    field[:] = 0.0
                    total = 1e-3
                    if r > 0:
                        for k in range(8):
                            if k < 4:
                                b, a = y + _STEPS[k, 0], x + _STEPS[k, 1]
                            else:
                                b, a = y - _STEPS[k - 4, 0], x - _STEPS[k - 4, 1]
                            if b < 0 or a < 0 or b >= height or a >= width:
                                continue
                            w = ties[i, k, y, x] if k < 4 else ties[i, k - 4, b, a]
                            if w > 0:
                                total += w
                                for m in range(n_labels):
                                    field[m] += w * Q[b, a, m]
                    least = 1e9
                    for m in range(n_labels):
                        field[m] = cost[i, m, y, x] - strength * min(1.0, total) * field[m] / total
                        if field[m] < least:
                            least = field[m]
                    norm = 0.0
                    for m in range(n_labels):
                        field[m] = math.exp(-sharp * (field[m] - least))
                        norm += field[m]
                    for m in range(n_labels):
                        new[y, x, m] = field[m] / norm
            Q, new = new, Q
        for y in range(height):
            for x in range(width):
                if cost[i, 0, y, x] == cost[i, 0, y, x]:
                    ids[i, y, x] = np.argmax(Q[y, x])
    return ids
