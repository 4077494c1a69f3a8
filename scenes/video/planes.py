"""Compiled: local planes of depth pictures, and colours between pixels."""

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(cache=True, parallel=True)
def local_planes(depth, lens, radius, gate):
    """Least-squares planes about each pixel, as ``1/z`` linear in the picture (exact for planes).

    Returns the depth of the plane at the pixel, the normal, and the pixel's deviation from the plane (NaN where unknown).
    """
    n_frames, height, width = depth.shape
    fx, fy, cx, cy = lens
    smooth = np.zeros_like(depth)
    normal = np.zeros((n_frames, height, width, 3), np.float32)
    off = np.full(depth.shape, np.nan, np.float32)
    for row in numba.prange(n_frames * height):
        t, v = row // height, row % height
        for u in range(width):
            z = depth[t, v, u]
            if z <= 0:
                continue
            su = sv = s1 = suu = suv = svv = sw = suw = svw = 0.0
            for dv in range(-radius, radius + 1):
                for du in range(-radius, radius + 1):
                    y, x = v + dv, u + du
                    if y < 0 or x < 0 or y >= height or x >= width:
                        continue
                    d = depth[t, y, x]
                    if d <= 0 or abs(d - z) > gate * z * (1 + max(abs(du), abs(dv))):
                        continue
                    w = 1.0 / d
                    s1 += 1
                    su += du
                    sv += dv
                    suu += du * du
                    suv += du * dv
                    svv += dv * dv
                    sw += w
                    suw += du * w
                    svw += dv * w
            if s1 < 6:
                continue
            a11, a12, a22 = suu - su * su / s1, suv - su * sv / s1, svv - sv * sv / s1
            b1, b2 = suw - su * sw / s1, svw - sv * sw / s1
            det = a11 * a22 - a12 * a12
            if det < 1e-6 * s1 * s1:
                continue
            gu, gv = (a22 * b1 - a12 * b2) / det, (a11 * b2 - a12 * b1) / det
            w0 = (sw - gu * su - gv * sv) / s1
            if w0 <= 0:
                continue
            # 1/z = n . ray / d: the normal's components are the gradients of 1/z by x/z and y/z, and the rest.
            nx, ny = gu * fx, gv * fy
            nz = w0 - nx * (u + 0.5 - cx) / fx - ny * (v + 0.5 - cy) / fy
            length = math.sqrt(nx * nx + ny * ny + nz * nz)
            smooth[t, v, u] = 1 / w0
            off[t, v, u] = z - 1 / w0
            normal[t, v, u, 0] = -nx / length
            normal[t, v, u, 1] = -ny / length
            normal[t, v, u, 2] = -nz / length
    return smooth, normal, off


@numba.njit(cache=True)
def sample(rgb, t, x, y, out):
    """Bilinear colour at picture coordinates; pixel centres at +0.5."""
    height, width = rgb.shape[1:3]
    fx, fy = min(max(x - 0.5, 0.0), width - 1.001), min(max(y - 0.5, 0.0), height - 1.001)
    ix, iy = int(fx), int(fy)
    ax, ay = fx - ix, fy - iy
    for c in range(3):
        out[c] = (1 - ay) * ((1 - ax) * rgb[t, iy, ix, c] + ax * rgb[t, iy, ix + 1, c]) + ay * (
            (1 - ax) * rgb[t, iy + 1, ix, c] + ax * rgb[t, iy + 1, ix + 1, c]
        )
