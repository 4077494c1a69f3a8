"""A small scene that the project renders itself, and how it is learned in a second."""

from __future__ import annotations

import math

import torch

from compose import Composite, Instance
from objects import SE3
from objects.primitives import Box, Sphere
from rendering import Camera, RenderConfig, View, Views, ViewsConfig, render
from rendering.learning.voxels import VoxelTraining

SMALL = ViewsConfig(
    width=32, layers=2, color_width=32, color_layers=2, omega_first=10.0, color_omega_first=10.0, steps=250, rays=512,
    learning_rate=2e-3, lattice=32, refresh=25, hull_steps=100, hull_cells=32,
    voxels=VoxelTraining(32, 50, 1024), polish=60, part_rate=1.0,
)  # fmt: skip


def things() -> list[Instance]:
    """A floor, a red ball and a blue box that stands before and behind it."""
    floor = Box((2.0, 2.0, 0.2), color=(0.3, 0.6, 0.3))
    return [
        Instance("floor", floor, SE3.from_translation((0.0, 0.0, -0.1)), lit=False),
        Instance("ball", Sphere(0.3, color=(0.9, 0.2, 0.1)), SE3.from_translation((-0.4, 0.0, 0.3)), lit=False),
        Instance("box", Box((0.4, 0.5, 0.4), color=(0.1, 0.3, 0.9)), SE3.from_translation((0.45, 0.1, 0.2)), lit=False),
    ]


def cameras(n: int = 16) -> list[Camera]:
    return [
        Camera.look_at((2.4 * math.cos(a), 2.4 * math.sin(a), 1.3 + 0.5 * (i % 2)), (0.0, 0.0, 0.15), 40, 30, 45.0)
        for i, a in enumerate(2 * math.pi * i / n for i in range(n))
    ]


def seen_by(instances: list[Instance], shots: list[Camera], *, depth: bool, ids: bool, alpha: bool = False) -> Views:
    scene, views = Composite(instances), []
    for camera in shots:
        frame = render(scene, camera, config=RenderConfig(antialias=1), progress=False)
        views.append(
            View(
                camera,
                frame.rgb,
                depth=torch.where(torch.isfinite(frame.depth), frame.depth, 0.0) if depth else None,
                ids=frame.owner.clamp(min=0) if ids else None,
                alpha=frame.alpha if alpha else None,
            )
        )
    return Views(views)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()))
