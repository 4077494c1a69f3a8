"""Compiled: the normal equations of rigid motions that take pixels of one frame to another."""

from __future__ import annotations

import math

import numba
import numpy as np

from scenes.video.planes import sample

_OUTLINE = 1.0  # weight of a pixel's distance from the outline
FIELDS = 5
"""What `residuals` counts for each pair: consistent, violated, hidden, cost, asked."""


@numba.njit(cache=True, parallel=True)
def residuals(
    pairs,
    motions,
    pixels,
    starts,
    outline,
    depth,
    normal,
    rgb,
    slope,
    flows,
    tensor,
    lens,
    noise,
    weights,
):
    """Normal equations of rigid motions for pairs of frames (t, s), from the pixels of frame t that are given.

    Residuals: point to plane against the depth at the projected pixel, colour, for neighbouring frames the optical flow where
    colours tell it, and the outline: what violates free space, or comes to lie where nothing is measured, is drawn to the nearest
    pixel of the object. Weights are those of Tukey (geometry) and Cauchy (all else). The increment multiplies from the left, in
    the camera of s.

    Args:
        pairs: [n 2] frames t, s.
        motions: [n 4 4] T_s_t.
        pixels: [m] numbers of pixels (row * width + column) of all frames in order; ``starts`` [F+1] where each frame's begin.
        slope: [F H W 3 2] derivatives of colour along x and y.
        outline: [F H W 2] from each pixel to the nearest of the object, x and y in pixels; NaN where there is none.
        flows: [2 F H W 2] displacement to the next and to the previous frame, NaN where unknown.
        tensor: [F H W 3] how well colours tell a displacement: the symmetric matrix xx, xy, yy that residuals are multiplied by.
        weights: gate (metres), deviation of colour, deviation of flow (pixels), least cosine of normals, deviation of depth as a
            multiple of the noise.

    Returns:
        ``H`` [n 6 6], ``g`` [n 6] (solve ``H x = -g``, x = rotation, translation) and ``stats`` [n FIELDS].
    """
    n = len(pairs)
    height, width = depth.shape[1:]
    fx, fy, cx, cy = lens
    gate, dev_rgb, dev_flow, least, coarse = weights
    H = np.zeros((n, 6, 6))
    g = np.zeros((n, 6))
    stats = np.zeros((n, FIELDS))
    for i in numba.prange(n):
        t, s = pairs[i]
        T = motions[i]
        J = np.zeros(6)
        color = np.zeros(3)
        for m in range(starts[t], starts[t + 1]):
            y, x = pixels[m] // width, pixels[m] % width
            z = depth[t, y, x]
            if z <= 0:
                continue
            px, py = (x + 0.5 - cx) / fx * z, (y + 0.5 - cy) / fy * z
            qx = T[0, 0] * px + T[0, 1] * py + T[0, 2] * z + T[0, 3]
            qy = T[1, 0] * px + T[1, 1] * py + T[1, 2] * z + T[1, 3]
            qz = T[2, 0] * px + T[2, 1] * py + T[2, 2] * z + T[2, 3]
            if qz < 0.05:
                continue
            u, v = fx * qx / qz + cx, fy * qy / qz + cy
            if not (1 <= u < width - 1 and 1 <= v < height - 1):
                continue
            a, b, c = normal[t, y, x]
            nx = T[0, 0] * a + T[0, 1] * b + T[0, 2] * c
            ny = T[1, 0] * a + T[1, 1] * b + T[1, 2] * c
            nz = T[2, 0] * a + T[2, 1] * b + T[2, 2] * c
            if nx * qx + ny * qy + nz * qz > -0.05 * qz:  # turned away
                continue
            iu, iv = int(u), int(v)
            d = depth[s, iv, iu]
            stats[i, 4] += 1
            # Flow speaks wherever it is known; it pulls from afar.
            if (s == t + 1 or s == t - 1) and dev_flow > 0:
                fu, fv = flows[0 if s == t + 1 else 1, t, y, x]
                if fu == fu:
                    du, dv = u - (x + 0.5 + fu), v - (y + 0.5 + fv)
                    w = 1 / (1 + (du * du + dv * dv) / (9 * dev_flow * dev_flow)) / (dev_flow * dev_flow)
                    sxx, sxy, syy = tensor[t, y, x]
                    _pixel_row(J, qx, qy, qz, fx, fy, sxx, sxy)
                    _add(H, g, i, J, sxx * du + sxy * dv, w)
                    _pixel_row(J, qx, qy, qz, fx, fy, sxy, syy)
                    _add(H, g, i, J, sxy * du + syy * dv, w)
            limit = gate + 3 * (noise[0] + noise[1] * qz * qz)
            nx2, ny2, nz2 = normal[s, iv, iu]
            # The observed point on the ray of q lies on the plane of its pixel; where that is seen at a grazing angle, a small
            # error of the motion is a large one along the ray.
            ox, oy = (iu + 0.5 - cx) / fx * d, (iv + 0.5 - cy) / fy * d
            r = nx2 * (qx - ox) + ny2 * (qy - oy) + nz2 * (qz - d)
            off = abs(qz - d) > limit and (abs(r) > limit or abs(qz - d) > 5 * limit)
            if d <= 0 or (off and qz < d):
                dx, dy = outline[s, iv, iu]
                far = math.sqrt(dx * dx + dy * dy)
                free = 1.0 if d > 0 else 3.0  # pixels without a pull: depth is lost beside edges
                if far == far and free < far < 25:
                    k = (far - free) / far
                    w = _OUTLINE / (1 + (far - free) ** 2 / 9)
                    _pixel_row(J, qx, qy, qz, fx, fy, 1.0, 0.0)
                    _add(H, g, i, J, -k * dx, w)
                    _pixel_row(J, qx, qy, qz, fx, fy, 0.0, 1.0)
                    _add(H, g, i, J, -k * dy, w)
            if d <= 0 or (nx2 == 0 and ny2 == 0 and nz2 == 0):
                continue
            if off:
                if qz < d:
                    stats[i, 1] += 1
                    stats[i, 3] += 1
                else:
                    stats[i, 2] += 1
                continue
            deviation = coarse * (noise[0] + noise[1] * d * d)
            if nx * nx2 + ny * ny2 + nz * nz2 < least:
                stats[i, 3] += 0.5
                continue
            k = r / limit
            w = (1 - k * k) ** 2 if abs(k) < 1 else 0.0
            _jacobian(J, qx, qy, qz, nx2, ny2, nz2)
            _add(H, g, i, J, r, w / (deviation * deviation))
            stats[i, 0] += 1
            stats[i, 3] += min(1.0, k * k)
            if dev_rgb <= 0:
                continue
            sample(rgb, s, u, v, color)
            for ch in range(3):
                r = color[ch] - rgb[t, y, x, ch]
                gx, gy = slope[s, iv, iu, ch, 0], slope[s, iv, iu, ch, 1]
                _jacobian(J, qx, qy, qz, gx * fx / qz, gy * fy / qz, -(gx * fx * qx + gy * fy * qy) / (qz * qz))
                k = r / (3 * dev_rgb)
                w = 1 / (1 + k * k) ** 2
                _add(H, g, i, J, r, w / (dev_rgb * dev_rgb))
                stats[i, 3] += 0.15 * (1 - 1 / (1 + k * k))
        for a in range(6):
            for b in range(a):
                H[i, b, a] = H[i, a, b]
    return H, g, stats


@numba.njit(cache=True, inline="always")
def _jacobian(J, qx, qy, qz, jx, jy, jz):
    """Row of a residual with derivative j by the point q: rotation (q x j), then translation."""
    J[0] = qy * jz - qz * jy
    J[1] = qz * jx - qx * jz
    J[2] = qx * jy - qy * jx
    J[3] = jx
    J[4] = jy
    J[5] = jz


@numba.njit(cache=True, inline="always")
def _pixel_row(J, qx, qy, qz, fx, fy, a, b):
    """Row of ``a u + b v`` of the projected point."""
    _jacobian(J, qx, qy, qz, a * fx / qz, b * fy / qz, -(a * fx * qx + b * fy * qy) / (qz * qz))


@numba.njit(cache=True, inline="always")
def _add(H, g, i, J, r, w):
    for a in range(6):
        wa = w * J[a]
        g[i, a] += wa * r
        for b in range(a + 1):
            H[i, a, b] += wa * J[b]
