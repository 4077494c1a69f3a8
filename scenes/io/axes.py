"""Axes of lights and cameras in other formats: both look along -z, cameras with y up."""

from __future__ import annotations

import math

from rendering.camera import Camera
from scenes.track import Quat, Sim3, quat_multiply, quat_of, unit_quat, vec_of

_HALF_TURN_X: Quat = (0.0, 1.0, 0.0, 0.0)  # OpenCV axes to OpenGL ones


def camera_pose(camera: Camera) -> Sim3:
    """``T_world_cam`` with OpenGL axes (x right, y up, z back)."""
    pose = camera.T_world_cam
    return Sim3(quat_multiply(quat_of(pose), _HALF_TURN_X), vec_of(pose))


def toward(direction: tuple[float, float, float]) -> Quat:
    """The shortest turn of -z to a direction of any length but zero."""
    x, y, z = (v / math.hypot(*direction) for v in direction)
    return _HALF_TURN_X if z > 1 - 1e-12 else unit_quat((1 - z, y, -x, 0.0))
