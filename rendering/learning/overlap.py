"""Which photos show the same things, and how far away these are: features matched between pictures whose cameras are known.

Features: Lowe, "Distinctive Image Features from Scale-Invariant Keypoints" (IJCV 2004), by OpenCV. Pictures to match with are
chosen by the angles between their rays, as in Schönberger et al., "Pixelwise View Selection for Unstructured Multi-View Stereo"
(ECCV 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from objects.progress import Bar
from rendering.camera import Camera

_FEATURES, _CONTRAST = 1500, 0.02  # of a picture, at most; least contrast
_TURNED, _BESIDE = 60.0, 30  # degrees between optical axes, at most; cameras near each that are tried
_RATIO = 0.8  # of the distance of the second best match, at most
_OFF = 1.5  # pixels off where the triangulated point should be, at most
_LEAST_ANGLE = 1.0  # degrees between the rays of a match, from which on it says something about distance
_BEST_ANGLES = 6.0, 20.0  # degrees: between these, pictures suit each other
_FEW = 6  # matches of two pictures


class Sight(NamedTuple):
    """A camera as matrices, for image coordinates as OpenCV has them (0, 0 is the middle of the first pixel).

    Args:
        lens: From the camera's frame to the picture.
        turn, shift: From the world to the camera's frame.
        eye: Position, world frame, metres.
    """

    lens: Float[np.ndarray, "3 3"]
    turn: Float[np.ndarray, "3 3"]
    shift: Float[np.ndarray, "3"]
    eye: Float[np.ndarray, "3"]

    @staticmethod
    def of(camera: Camera) -> Sight:
        c, pose = camera, camera.T_world_cam.inverse()
        lens = np.array([[c.fx, 0.0, c.cx - 0.5], [0.0, c.fy, c.cy - 0.5], [0.0, 0.0, 1.0]])
        return Sight(lens, pose.rotation().numpy(), pose.translation.numpy(), camera.position_world.numpy())

    def ways(self, x: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """Unit vectors (world frame) from the camera through image coordinates."""
        d = np.c_[x, np.ones(len(x))] @ np.linalg.inv(self.lens).T @ self.turn
        return d / np.linalg.norm(d, axis=1, keepdims=True)

    def seen(self, p_world: Float[np.ndarray, "*n 3"]) -> tuple[Float[np.ndarray, "*n 2"], Float[np.ndarray, "*n"]]:
        """Image coordinates of places, and their depth."""
        p = p_world @ self.turn.T + self.shift
        x = p @ self.lens.T
        return x[..., :2] / np.where(x[..., 2:] == 0, 1e-12, x[..., 2:]), p[..., 2]


class Overlap(NamedTuple):
    """Of ``v`` pictures.

    Args:
        depth: Of the features of each that are found in others, metres along the optical axis.
        suits: How well two pictures suit each other for finding distances; 0 for not at all.
    """

    depth: list[Float[np.ndarray, "_"]]
    suits: Float[np.ndarray, "v v"]

    def best(self, view: int, n: int) -> list[int]:
        """The pictures, at most ``n``, that suit a picture best."""
        order = np.argsort(-self.suits[view], kind="stable")[:n]
        return [int(j) for j in order if self.suits[view, j] > 0]


def overlap_of(sights: Sequence[Sight], greys: Sequence[UInt8[np.ndarray, "h w"]], progress: bool = True) -> Overlap:
    """Matches features of pictures that look the same way from near each other."""
    sift = cv2.SIFT.create(_FEATURES, contrastThreshold=_CONTRAST)
    found = [sift.detectAndCompute(grey, None) for grey in greys]  # pyright: ignore[reportCallIssue, reportArgumentType]
    places = [np.array([point.pt for point in points], np.float64).reshape(-1, 2) for points, _ in found]
    n = len(sights)
    depth: list[list[np.ndarray]] = [[] for _ in range(n)]
    suits = np.zeros((n, n))
    for i, j in Bar(_candidates(sights), desc="pairs", unit="pair", disable=not progress):
        pair = _matched(found[i][1], found[j][1])
        if len(pair) < _FEW:
            continue
        near, angle = _triangulated(sights[i], sights[j], places[i][pair[:, 0]], places[j][pair[:, 1]])
        if len(angle) < _FEW:
            continue
        depth[i].append(near[0])
        depth[j].append(near[1])
        least, most = _BEST_ANGLES
        suits[i, j] = suits[j, i] = (np.minimum(angle / least, 1) * np.minimum(most / angle, 1) ** 2).sum()
    return Overlap([np.concatenate([np.zeros(0), *some]) for some in depth], suits)


def _candidates(sights: Sequence[Sight]) -> list[tuple[int, int]]:
    eyes, axes = np.stack([s.eye for s in sights]), np.stack([s.turn[2] for s in sights])
    away = np.linalg.norm(eyes[:, None] - eyes, axis=-1)
    away[axes @ axes.T < np.cos(np.radians(_TURNED))] = np.inf
    np.fill_diagonal(away, np.inf)
    pairs = set()
    for i, row in enumerate(away):
        for j in np.argsort(row, kind="stable")[:_BESIDE]:
            if row[j] < np.inf:
                pairs.add((min(i, int(j)), max(i, int(j))))
    return sorted(pairs)


def _matched(a: np.ndarray | None, b: np.ndarray | None) -> Int[np.ndarray, "m 2"]:
    """Features of two pictures that are each other's nearest, and clearly so."""
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return np.zeros((0, 2), np.int64)
    matcher = cv2.BFMatcher()
    there = {m.queryIdx: m.trainIdx for m in matcher.match(b, a)}
    kept = [
        (first.queryIdx, first.trainIdx)
        for first, second in matcher.knnMatch(a, b, 2)
        if first.distance < _RATIO * second.distance and there.get(first.trainIdx) == first.queryIdx
    ]
    return np.array(kept, np.int64).reshape(-1, 2)


def _triangulated(a: Sight, b: Sight, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depths ``[2, m]`` in both pictures of matches that meet before both cameras where they should, and angles of their rays
    (degrees)."""
    u, v, apart = a.ways(x), b.ways(y), b.eye - a.eye
    cosine = (u * v).sum(1)
    across = np.maximum(1 - cosine**2, 1e-9)
    along_u, along_v = u @ apart, v @ apart
    s, t = (along_u - cosine * along_v) / across, (cosine * along_u - along_v) / across
    p = 0.5 * (a.eye + s[:, None] * u + b.eye + t[:, None] * v)
    (x_again, z_a), (y_again, z_b) = a.seen(p), b.seen(p)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    right = (np.linalg.norm(x_again - x, axis=1) < _OFF) & (np.linalg.norm(y_again - y, axis=1) < _OFF)
    right &= (s > 0) & (t > 0) & (z_a > 0) & (z_b > 0) & (angle > _LEAST_ANGLE)
    return np.stack([z_a, z_b])[:, right], angle[right]
