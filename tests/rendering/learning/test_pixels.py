"""Rays of the pixels of many cameras."""

import dataclasses

import torch

from rendering import Camera
from rendering.learning.pixels import Lenses


def test_cameras_that_were_corrected_keep_their_correction_when_it_is_no_longer_learned():
    cameras = [
        Camera.look_at((1.0, 0.2, 0.5), (0, 0, 0), 8, 6, 40),
        Camera.look_at((0.1, -1.0, 0.4), (0, 0, 0), 8, 6, 40),
    ]
    twist = 0.1 * torch.randn(2, 6, generator=torch.Generator().manual_seed(4))
    lenses = Lenses(cameras).twisted(twist)
    moved = [dataclasses.replace(c, T_world_cam=pose) for c, pose in zip(cameras, lenses.moved(), strict=True)]
    view, pixel = torch.arange(2).repeat_interleave(48), torch.arange(48).repeat(2)
    origins, directions, _ = lenses.rays(view, pixel)
    expected, along, _ = Lenses(moved).rays(view, pixel)
    torch.testing.assert_close(origins, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(directions, along, atol=1e-6, rtol=0)
