"""Compiled: what it costs to hold pixels for parts of tracks, by taking them into other frames."""

from __future__ import annotations

import math

import numba
import numpy as np

from scenes.video.planes import sample

MEAN_COUNTS = 0.6  # share of a cost that is the mean over frames; the rest is violated free space


@numba.njit(cache=True, parallel=True)
def pixel_costs(frames, refs, to_cam, have, region, depth, normal, rgb, slope, sky, lens, noise, slack):
    """What it costs to hold each pixel for a part of a track.

    The pixel is taken along with the track into the frames ``refs``. There it can be consistent (cost by colour and side), hidden
    (nothing is learned), or in front of what was observed (a violation of free space).

    Args:
        frames: [n] frames whose pixels are asked.
        refs: [n r] frames that they are compared with, -1 for none.
        to_cam: [F 4 4] object to camera; ``have`` [F] where the track is known.
        region: [n H W] pixels that are asked; all others cost 1.
        slack: least depth difference of a violation (metres), colour difference that costs all, cost of a frame that says nothing,
            pixels by which colours may be displaced.

    Returns:
        ``cost`` [n H W] in 0..1 (NaN without depth), ``violated`` [n H W] number of frames in which free space is violated, and
        ``seen`` how many frames said anything.
    """
    n = len(frames)
    height, width = depth.shape[1:]
    fx, fy, cx, cy = lens
    cost = np.full((n, height, width), np.nan, np.float32)
    violated = np.zeros((n, height, width), np.float32)
    seen = np.zeros((n, height, width), np.float32)
    n_refs = refs.shape[1]
    for job in numba.prange(n * height):
        i, y = job // height, job % height
        t = frames[i]
        color = np.zeros(3)
        R = np.zeros((3, 3))
        p = np.zeros(3)
        some = False
        for x in range(width):
            if depth[t, y, x] > 0:
                cost[i, y, x] = 1.0
                some = some or region[i, y, x]
        if not (some and have[t]):
            continue
        for x in range(width):
            if region[i, y, x] and depth[t, y, x] > 0:
                cost[i, y, x] = 0.0
        back = to_cam[t]
        asked = 0
        for m in range(n_refs):
            s = refs[i, m]
            if s < 0 or s == t or not have[s]:
                continue
            A = to_cam[s]
            asked += 1
            # T_s_t = A back^-1
            for a in range(3):
                for b in range(3):
                    R[a, b] = A[a, 0] * back[b, 0] + A[a, 1] * back[b, 1] + A[a, 2] * back[b, 2]
                p[a] = A[a, 3] - R[a, 0] * back[0, 3] - R[a, 1] * back[1, 3] - R[a, 2] * back[2, 3]
            for x in range(width):
                z = depth[t, y, x]
                if z <= 0 or not region[i, y, x]:
                    continue
                c, bad, known = _compare(
                    t, s, x, y, z, R, p, depth, normal, rgb, slope, sky, fx, fy, cx, cy, noise, slack, color
                )
                cost[i, y, x] += c
                violated[i, y, x] += bad
                seen[i, y, x] += known
        for x in range(width):
            if depth[t, y, x] > 0 and region[i, y, x]:
                mean = (cost[i, y, x] + slack[2]) / (asked + 1.0)
                cost[i, y, x] = min(1.0, MEAN_COUNTS * mean + (1 - MEAN_COUNTS) * min(1.0, violated[i, y, x] / 3.0))
    return cost, violated, seen


@numba.njit(cache=True)
def _compare(t, s, x, y, z, R, p, depth, normal, rgb, slope, sky, fx, fy, cx, cy, noise, slack, color):
    """Cost, violation of free space and whether anything was said, of one pixel in one other frame."""
    silent = slack[2]
    height, width = depth.shape[1:]
    px, py = (x + 0.5 - cx) / fx * z, (y + 0.5 - cy) / fy * z
    qz = R[2, 0] * px + R[2, 1] * py + R[2, 2] * z + p[2]
    if qz < 0.05:
        return silent, 0.0, 0.0
    qx = R[0, 0] * px + R[0, 1] * py + R[0, 2] * z + p[0]
    qy = R[1, 0] * px + R[1, 1] * py + R[1, 2] * z + p[1]
    u, v = fx * qx / qz + cx, fy * qy / qz + cy
    if not (0 <= u < width and 0 <= v < height):
        return silent, 0.0, 0.0
    tau = slack[0] + 3.5 * (noise[0] + noise[1] * qz * qz)
    iu, iv = int(u), int(v)
    lo, hi, known = 1e9, 0.0, 0
    for dy in range(max(iv - 1, 0), min(iv + 2, height)):
        for dx in range(max(iu - 1, 0), min(iu + 2, width)):
            d = depth[s, dy, dx]
            if d > 0:
                known += 1
                lo = min(lo, d)
                hi = max(hi, d)
    if known == 0:  # sky, which speaks if its colour is another one, or lost
        if not sky[s, iv, iu]:
            return silent, 0.0, 0.0
        far, plain = _differs(t, s, x, y, u, v, rgb, slope, slack, color)
        return (0.5, 0.5, 1.0) if plain > 0.25 else (silent, 0.0, 0.0)
    # Errors of poses move surfaces along their normals: what is seen at a grazing angle may be off by more along the ray.
    facing = abs(normal[s, iv, iu, 0] * qx + normal[s, iv, iu, 1] * qy + normal[s, iv, iu, 2] * qz)
    facing = facing / math.sqrt(qx * qx + qy * qy + qz * qz)
    tau /= min(max(facing, 0.25), 1.0) if facing > 0 else 0.5
    if qz < lo - tau and known >= 3:
        return 1.0, 1.0, 1.0
    d = depth[s, iv, iu]
    if d <= 0 or (abs(d - qz) > tau and not (lo <= qz <= hi and hi - lo < 0.03 * qz)):
        return silent, 0.0, 0.0  # hidden, or beside an edge
    # There is something at this depth: its side and its colour must agree.
    a, b, c = normal[t, y, x]
    nx = R[0, 0] * a + R[0, 1] * b + R[0, 2] * c
    ny = R[1, 0] * a + R[1, 1] * b + R[1, 2] * c
    nz = R[2, 0] * a + R[2, 1] * b + R[2, 2] * c
    if nx * qx + ny * qy + nz * qz > 0.1 * qz:
        return 0.3, 0.0, 1.0
    cosine = nx * normal[s, iv, iu, 0] + ny * normal[s, iv, iu, 1] + nz * normal[s, iv, iu, 2]
    blank = normal[s, iv, iu, 2] == 0
    turned = 0.0 if blank or cosine > 0.7 else min(1.0, (0.7 - cosine) / 0.7)
    far, plain = _differs(t, s, x, y, u, v, rgb, slope, slack, color)
    far = far / slack[1] * 2.0 + 0.3 * min(plain / slack[1], 1.0)
    return min(1.0, 0.45 * min(1.0, far) + 0.5 * turned), 0.0, 1.0


@numba.njit(cache=True)
def _differs(t, s, x, y, u, v, rgb, slope, slack, color):
    """How far the colour of a pixel is from that at a place of another frame, at best under another light and as it is.

    Shadows and shading multiply: a common factor is free in the first.
    """
    iu, iv = int(u), int(v)
    sample(rgb, s, u, v, color)
    dot, square = 0.0, 1e-4
    for ch in range(3):
        dot += color[ch] * rgb[t, y, x, ch]
        square += color[ch] * color[ch]
    gain = min(max(dot / square, 0.5), 2.0)
    far, plain = 0.0, 0.0
    for ch in range(3):
        spread = slack[3] * (abs(slope[s, iv, iu, ch, 0]) + abs(slope[s, iv, iu, ch, 1]))
        far = max(far, abs(gain * color[ch] - rgb[t, y, x, ch]) - spread)
        plain = max(plain, abs(color[ch] - rgb[t, y, x, ch]) - spread)
    return far, plain
