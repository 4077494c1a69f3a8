"""Pinhole cameras, and their exchange with the nerfstudio ``transforms.json`` convention.

Inside the code the camera frame has OpenCV axes: x right, y down, z forward. Image coordinates are ``(u, v)`` in pixels, u to
the right, v down, and the centre of the first pixel is ``(0.5, 0.5)``. Depth is measured along the optical axis, in metres.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from compose.types import Rays
from objects.pose import SE3
from rendering.atomic import replacing

# From OpenGL camera axes (x right, y up, z back) to OpenCV ones: half a turn about x, its own inverse.
_HALF_TURN_X = SE3(torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera standing in the world.

    Args:
        T_world_cam: A single pose, camera (OpenCV axes) to world, metres.
        fx, fy: Focal lengths, pixels.
        cx, cy: Where the optical axis meets the image, pixels.
        width, height: Image size, pixels.

    Raises:
        ValueError: A pose with batch axes, an image without pixels, a focal length that is not finite and positive, or a
            principal point that is not finite.
    """

    T_world_cam: SE3
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.T_world_cam.quat_wxyz.dim() != 1 or self.T_world_cam.translation.dim() != 1:
            raise ValueError(
                f"Camera: T_world_cam must be one pose, got batch {list(self.T_world_cam.quat_wxyz.shape[:-1])}"
            )
        object.__setattr__(self, "T_world_cam", self.T_world_cam.to(torch.float64))
        for name in ("width", "height"):
            value = getattr(self, name)
            if not math.isfinite(value) or int(value) != value or value < 1:
                raise ValueError(f"Camera: {name} must be a whole number of at least 1, got {value}")
            object.__setattr__(self, name, int(value))
        for name in ("fx", "fy", "cx", "cy"):
            value = float(getattr(self, name))
            if not math.isfinite(value) or (name.startswith("f") and value <= 0):
                wanted = "finite and greater than 0" if name.startswith("f") else "finite"
                raise ValueError(f"Camera: {name} must be {wanted}, got {value}")
            object.__setattr__(self, name, value)

    # -- making cameras ----------------------------------------------------------------------------------------------

    @staticmethod
    def look_at(
        eye: Float[Tensor, "3"] | Sequence[float],
        target: Float[Tensor, "3"] | Sequence[float],
        width: int,
        height: int,
        fov_y_deg: float = 50.0,
        *,
        up: Float[Tensor, "3"] | Sequence[float] = (0.0, 0.0, 1.0),
    ) -> Camera:
        """A camera at ``eye`` that sees ``target`` in the middle of its picture.

        Args:
            eye, target: World points, metres.
            width, height: Image size, pixels.
            fov_y_deg: Full vertical field of view, degrees, in (0, 180). Pixels are square.
            up: World direction that points up in the picture. Where the view runs along it, +y takes its place, then +x.

        Raises:
            ValueError: ``eye`` equal to ``target``, a value that is not finite, ``up`` of zero length, a field of view
                outside (0, 180), or an image without pixels.
        """
        eye_world, target_world, up_world = _vector(eye, "eye"), _vector(target, "target"), _vector(up, "up")
        if not 0 < fov_y_deg < 180:
            raise ValueError(f"Camera.look_at: fov_y_deg must lie in (0, 180), got {fov_y_deg}")
        forward = target_world - eye_world
        distance = forward.norm()
        # Closer than this, the difference holds rounding only.
        if distance <= 1e-12 * (1 + eye_world.abs().max()):
            raise ValueError(f"Camera.look_at: eye and target must differ, got {eye_world.tolist()} for both")
        if up_world.norm() < 1e-12:
            raise ValueError(f"Camera.look_at: up must not have zero length, got {up_world.tolist()}")
        forward = forward / distance
        choices = torch.stack([up_world / up_world.norm(), *torch.eye(3, dtype=torch.float64)[[1, 0]]])
        right = torch.linalg.cross(forward.expand(3, 3), choices)
        right = right[(right.norm(dim=-1) > 1e-6).nonzero()[0, 0]]
        right = right / right.norm()
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], -1)
        matrix[:3, 3] = eye_world
        focal = 0.5 * height / math.tan(math.radians(fov_y_deg) / 2)
        return Camera(SE3.from_matrix(matrix), focal, focal, 0.5 * width, 0.5 * height, width, height)

    @staticmethod
    def orbit(
        target: Float[Tensor, "3"] | Sequence[float],
        radius: float,
        n_cameras: int,
        width: int,
        height: int,
        *,
        elevation_deg: float = 25.0,
        start_deg: float = 0.0,
        fov_y_deg: float = 50.0,
    ) -> list[Camera]:
        """Cameras in even steps on a full horizontal circle, all looking at ``target``.

        Args:
            target: World point, metres.
            radius: Distance from the target, metres.
            n_cameras: At least 1; the last one stands one step before the first.
            elevation_deg: Height of the cameras above the target as an angle.
            start_deg: Direction of the first camera seen from the target: 0 is +x, 90 is +y.
            width, height, fov_y_deg: As in `look_at`.

        Raises:
            ValueError: As `look_at`, a radius that is not finite and positive, or no cameras.
        """
        if not (math.isfinite(radius) and radius > 0):
            raise ValueError(f"Camera.orbit: radius must be finite and greater than 0, got {radius}")
        if n_cameras < 1:
            raise ValueError(f"Camera.orbit: n_cameras must be at least 1, got {n_cameras}")
        center, elevation = _vector(target, "target"), math.radians(elevation_deg)
        cameras = []
        for i in range(n_cameras):
            turn = math.radians(start_deg) + 2 * math.pi * i / n_cameras
            out = (math.cos(elevation) * math.cos(turn), math.cos(elevation) * math.sin(turn), math.sin(elevation))
            cameras.append(Camera.look_at(center + radius * center.new_tensor(out), center, width, height, fov_y_deg))
        return cameras

    # -- between image and world -------------------------------------------------------------------------------------

    @property
    def position_world(self) -> Float[Tensor, "3"]:
        """The centre of projection, world frame, metres."""
        return self.T_world_cam.translation

    def pixel_centers(self, index: Tensor | None = None) -> Float[Tensor, "n 2"]:
        """Image coordinates of pixel centres, row by row; ``index`` picks some by their row-major number."""
        if index is None:
            index = torch.arange(self.width * self.height)
        column, row = index % self.width, torch.div(index, self.width, rounding_mode="floor")
        return torch.stack([column, row], -1).to(torch.float64) + 0.5

    def rays(self, uv: Float[Tensor, "n 2"] | None = None) -> Rays:
        """The rays that meet image points, float64, world frame.

        Args:
            uv: Image coordinates, pixels, anywhere in the plane of the image; all pixel centres row by row by default.
        """
        p_cam = self._in_front(uv)
        directions = (p_cam / p_cam.norm(dim=-1, keepdim=True)) @ self.T_world_cam.rotation().mT
        return Rays(self.position_world.expand(len(p_cam), 3), directions)

    def depth_per_t(self, uv: Float[Tensor, "n 2"] | None = None) -> Float[Tensor, "n"]:
        """Depth along the optical axis gained with each metre along the rays of `rays`, at most 1."""
        return 1 / self._in_front(uv).norm(dim=-1)

    def project(self, p_world: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n"]]:
        """Image coordinates (pixels) and depth (metres) of world points.

        Differentiable in the points. Points that are not in front of the camera have depth <= 0 and image coordinates NaN.
        """
        if p_world.dim() < 1 or p_world.shape[-1] != 3:
            raise ValueError(f"Camera.project: p_world must have shape [n, 3], got {list(p_world.shape)}")
        p_cam = self.T_world_cam.inverse() @ p_world.to(torch.float64)
        depth = p_cam[..., 2]
        seen = depth > 0
        scaled = p_cam[..., :2] * p_cam.new_tensor([self.fx, self.fy]) / torch.where(seen, depth, 1.0)[..., None]
        uv = scaled + p_cam.new_tensor([self.cx, self.cy])
        return torch.where(seen[..., None], uv, torch.nan), depth

    def resized(self, width: int, height: int) -> Camera:
        """The same view in another image size."""
        x, y = width / self.width, height / self.height
        return Camera(self.T_world_cam, self.fx * x, self.fy * y, self.cx * x, self.cy * y, width, height)

    def _in_front(self, uv: Tensor | None) -> Float[Tensor, "n 3"]:
        """Points of depth 1 in the camera frame."""
        uv = self.pixel_centers() if uv is None else uv.to(torch.float64)
        if uv.dim() != 2 or uv.shape[-1] != 2:
            raise ValueError(f"Camera: uv must have shape [n, 2], got {list(uv.shape)}")
        xy = (uv - uv.new_tensor([self.cx, self.cy])) / uv.new_tensor([self.fx, self.fy])
        return torch.cat([xy, torch.ones_like(xy[:, :1])], -1)

    # -- nerfstudio files --------------------------------------------------------------------------------------------

    def to_nerfstudio(self) -> dict[str, Any]:
        """Intrinsics and ``transform_matrix`` (camera to world, OpenGL camera axes) as plain numbers."""
        matrix = (self.T_world_cam @ _HALF_TURN_X).as_matrix()
        return {**self._intrinsics(), "transform_matrix": matrix.tolist()}

    def _intrinsics(self) -> dict[str, Any]:
        return {
            "camera_model": "PINHOLE",
            "fl_x": self.fx,
            "fl_y": self.fy,
            "cx": self.cx,
            "cy": self.cy,
            "w": self.width,
            "h": self.height,
        }


def save_transforms(
    path: str | os.PathLike[str],
    cameras: Sequence[Camera],
    file_paths: Sequence[str],
    *,
    frame_entries: Sequence[Mapping[str, Any]] | None = None,
    entries: Mapping[str, Any] | None = None,
) -> None:
    """Write a nerfstudio ``transforms.json``. Intrinsics that all cameras share are written once.

    Args:
        path: The file; a whole new file takes its place at once, or nothing changes.
        cameras, file_paths: One image (path relative to the file) for each camera.
        frame_entries: More entries for each frame, such as ``depth_file_path`` or ``time``.
        entries: More entries for all, such as ``depth_unit_scale_factor``.

    Raises:
        ValueError: Lists of different lengths, or a folder that does not exist.
    """
    extra = [{}] * len(cameras) if frame_entries is None else frame_entries
    if not len(cameras) == len(file_paths) == len(extra):
        raise ValueError(
            f"save_transforms: cameras, file_paths and frame_entries must have the same length, "
            f"got {len(cameras)}, {len(file_paths)} and {len(extra)}"
        )
    shared = cameras[0]._intrinsics() if len({tuple(c._intrinsics().values()) for c in cameras}) == 1 else {}
    frames = []
    for camera, file_path, more in zip(cameras, file_paths, extra, strict=True):
        own = {key: value for key, value in camera.to_nerfstudio().items() if key not in shared}
        frames.append({"file_path": str(file_path), **more, **own})
    text = json.dumps({**shared, **(entries or {}), "frames": frames}, indent=1, allow_nan=False)
    with replacing(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def pixel_offsets(n: int) -> Float[Tensor, "k 2"]:
    """``n x n`` places spread evenly over a pixel, from its centre, pixels."""
    steps = (torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).view(-1, 2)


def _vector(value: Tensor | Sequence[float], name: str) -> Float[Tensor, "3"]:
    vector = torch.as_tensor(value, dtype=torch.float64)
    if vector.shape != (3,) or not torch.isfinite(vector).all():
        raise ValueError(f"Camera: {name} must be 3 finite numbers, got {value}")
    return vector
