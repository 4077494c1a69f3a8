"""A drawn kitchen as a hand-held depth camera would see it: noise, holes at edges, blobs without depth, changing exposure, blur.

    from benchmarks.kitchen import kitchen
    views, test = kitchen()

Every fifth picture is held out; those have true depth. Surfaces are exact solids with procedural texture, drawn with four
samples a pixel.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage

from compose import Composite, Instance
from objects import SE3
from objects.primitives import Box, Cylinder, Sphere
from rendering import Camera, RenderConfig, View, Views, render

_OCTAVES = ((2.0, 0.45), (7.0, 0.35), (23.0, 0.25))  # frequency (1/m) and height of the texture
_EXPOSURE, _TINT = 0.06, 0.01  # standard deviation of the logarithm, of all channels and of each
_JITTER = 0.012  # metres and radians by which a hand shakes
_FARTHEST = 5.0  # metres
_LOST, _BLOB = 0.03, 4.0  # share of pixels in blobs without depth, and their radius in pixels
_EDGE = 0.05  # of the depth, from which on neighbours are an edge

# Size, middle (metres) and colour of each box.
_BOXES = (
    ((4.4, 5.4, 0.2), (0.0, 0.0, -0.1), (0.55, 0.42, 0.3)),
    ((0.2, 5.4, 2.6), (-2.1, 0.0, 1.3), (0.85, 0.83, 0.78)),
    ((0.2, 5.4, 2.6), (2.1, 0.0, 1.3), (0.75, 0.8, 0.82)),
    ((4.4, 0.2, 2.6), (0.0, 2.6, 1.3), (0.8, 0.72, 0.6)),
    ((4.4, 0.2, 2.6), (0.0, -2.6, 1.3), (0.7, 0.75, 0.65)),
    ((0.6, 3.0, 0.9), (-1.7, 0.6, 0.45), (0.35, 0.4, 0.5)),
    ((0.64, 3.04, 0.04), (-1.69, 0.6, 0.92), (0.6, 0.55, 0.5)),
    ((0.35, 2.2, 0.7), (-1.82, 0.8, 1.75), (0.65, 0.3, 0.25)),
    ((0.7, 0.7, 1.8), (1.62, 2.1, 0.9), (0.85, 0.85, 0.87)),
    ((0.8, 1.4, 0.04), (0.6, -0.6, 0.74), (0.62, 0.45, 0.28)),
    *(
        ((0.05, 0.05, 0.72), (0.6 + 0.35 * i, -0.6 + 0.65 * j, 0.36), (0.4, 0.28, 0.18))
        for i in (-1, 1)
        for j in (-1, 1)
    ),
    ((0.42, 0.42, 0.04), (-0.3, -1.2, 0.45), (0.3, 0.45, 0.3)),
    ((0.04, 0.42, 0.5), (-0.49, -1.2, 0.7), (0.3, 0.45, 0.3)),
    *(((0.04, 0.04, 0.44), (-0.3 + 0.18 * i, -1.2 + 0.18 * j, 0.22), (0.25, 0.25, 0.25)) for i in (-1, 1) for j in (-1, 1)),
    ((0.25, 0.35, 0.3), (-1.7, -0.4, 1.09), (0.25, 0.25, 0.28)),
    ((0.3, 0.2, 0.12), (0.55, -0.3, 0.82), (0.8, 0.65, 0.2)),
)  # fmt: skip


def kitchen(
    n: int = 50,
    width: int = 213,
    height: int = 160,
    *,
    seed: int = 0,
    noisy: bool = True,
    blurred: tuple[int, ...] = (),
) -> tuple[Views, Views]:
    """Pictures to learn from, and every fifth one (held out, with true depth).

    Args:
        n: Pictures.
        width, height: Pixels.
        seed: Of path, noise and exposure.
        noisy: Whether depth has noise and holes, and exposure changes.
        blurred: Numbers of pictures (among all) that move while they are taken.
    """
    rng, scene = np.random.default_rng(seed), _scene()
    texture = rng.uniform(0, 1, (3, 48, 48, 48)).astype(np.float32)
    train, held = [], []
    for k, camera in enumerate(_path(n, width, height, rng)):
        turns = np.linspace(-0.02, 0.02, 7) if k in blurred else np.zeros(1)
        rgb = np.mean([_colors(scene, _turned(camera, turn), texture) for turn in turns], 0)
        depth = render(scene, camera, antialias=1, progress=False).depth.double().numpy()
        if noisy:
            gain = np.exp(rng.normal(0, _EXPOSURE) + rng.normal(0, _TINT, 3))
            rgb = rgb * gain + rng.normal(0, 0.006, rgb.shape)
        measured = _measured(depth, rng) if noisy else np.where(depth < _FARTHEST, depth, 0)
        out, z = (held, np.where(np.isfinite(depth), depth, 0)) if k % 5 == 2 else (train, measured)
        rgb = torch.from_numpy(np.rint(255 * rgb.clip(0, 1)) / 255).float()
        out.append(View(camera, rgb, depth=torch.from_numpy(z).float(), name=f"{k:03d}.png"))
    return Views(train), Views(held)


def _scene() -> Composite:
    parts = [
        Instance(f"box {i}", Box(size, color=color), SE3.from_translation(at), lit=False)
        for i, (size, at, color) in enumerate(_BOXES)
    ]
    for i, (radius, height, at, color) in enumerate(
        ((0.05, 0.1, (0.5, -0.8, 0.81), (0.8, 0.2, 0.2)), (0.12, 0.2, (-1.65, 1.2, 1.04), (0.6, 0.6, 0.65)))
    ):
        parts.append(Instance(f"pot {i}", Cylinder(radius, height, color=color), SE3.from_translation(at), lit=False))
    ball = Sphere(0.16, color=(0.75, 0.5, 0.15))
    return Composite([*parts, Instance("ball", ball, SE3.from_translation((0.7, -1.0, 0.9)), lit=False)])


def _path(n: int, width: int, height: int, rng: np.random.Generator) -> list[Camera]:
    cameras, shake = [], ndimage.gaussian_filter1d(rng.normal(0, 1, (n, 6)), 1.0, axis=0) * _JITTER
    for k in range(n):
        a = 2 * math.pi * 0.9 * k / n
        eye = (
            np.array([0.45 * math.cos(a) - 0.15, 0.9 * math.sin(a) + 0.2, 1.45 + 0.1 * math.sin(3 * a)]) + shake[k, :3]
        )
        target = eye + np.array([math.cos(a + 0.5), math.sin(a + 0.5), -0.38 + 0.15 * math.sin(2 * a)]) + shake[k, 3:]
        cameras.append(Camera.look_at(tuple(eye), tuple(target), width, height, 50.0))
    return cameras


def _turned(camera: Camera, radians: float) -> Camera:
    turn = SE3.exp(torch.tensor([0.0, 0.0, 0.0, 0.0, radians, 0.0], dtype=torch.float64))
    return dataclasses.replace(camera, T_world_cam=camera.T_world_cam @ turn) if radians else camera


def _colors(scene: Composite, camera: Camera, texture: np.ndarray) -> Float[np.ndarray, "h w 3"]:
    total = np.zeros((camera.height * camera.width, 3))
    for dx, dy in ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25)):
        moved = dataclasses.replace(camera, cx=camera.cx + dx, cy=camera.cy + dy)
        frame = render(scene, moved, config=RenderConfig(antialias=1, background=(0.75, 0.85, 0.95)), progress=False)
        rays = moved.rays()
        away = frame.depth.reshape(-1).double() / moved.depth_per_t(moved.pixel_centers()).reshape(-1)
        hit = torch.isfinite(away)
        p = (rays.origins + torch.where(hit, away, 1.0)[:, None] * rays.directions).double().numpy()
        shade = sum(
            height
            * np.stack([ndimage.map_coordinates(t, (5 + f * p).T, order=1, mode="grid-wrap") for t in texture], 1)
            for f, height in _OCTAVES
        )
        flat = frame.rgb.reshape(-1, 3).double().numpy()
        total += np.where(hit.numpy()[:, None], flat * (0.45 + shade), flat)
    return (total / 4).reshape(camera.height, camera.width, 3)


def _measured(depth: Float[np.ndarray, "h w"], rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Depth as a structured-light camera gives it, 0 where it gives none."""
    z = np.where(np.isfinite(depth), depth, 0)
    found = np.rint(1000 * (z + rng.normal(0, 1, z.shape) * (0.0015 + 0.002 * z**2))) / 1000
    lo, hi = ndimage.minimum_filter(z, 3), ndimage.maximum_filter(z, 3)
    lost = np.asarray(ndimage.binary_dilation(hi - lo > _EDGE * hi, iterations=1), bool)
    lost |= (z <= 0) | (z > _FARTHEST)
    y, x = np.indices(z.shape)
    for _ in range(round(_LOST * z.size / (math.pi * _BLOB**2))):
        lost |= np.hypot(y - rng.uniform(0, z.shape[0]), x - rng.uniform(0, z.shape[1])) < _BLOB
    return np.where(lost, 0, found)
