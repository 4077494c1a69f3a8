"""Rigid poses: the group SE(3) as a unit quaternion and a translation.

Conventions: quaternions are ``wxyz``; a pose named ``T_world_obj`` maps object coordinates to world coordinates,
``p_world = T_world_obj @ p_obj``. Batch axes come first, and every operation broadcasts over them and is differentiable.

Source of the closed forms: Sola, Deray, Atchuthan, "A micro Lie theory for state estimation in robotics" (2018),
equations 134-146 (SO(3)) and 172-175 (SE(3)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Below this squared angle the closed forms are replaced by their Taylor series (the first dropped term is < 1e-16).
_SMALL_ANGLE_SQUARED = 1e-6


@dataclass(frozen=True, eq=False, slots=True)
class SE3:
    """A rigid pose, or a batch of them.

    Args:
        quat_wxyz: Rotation as a quaternion, ``[..., 4]``, any length but zero (only its direction counts).
        translation: ``[..., 3]``, metres. The batch axes of both broadcast.

    Raises:
        ValueError: Wrong shapes, a value that is not finite, or a quaternion of zero length.
    """

    quat_wxyz: Float[Tensor, "*b 4"]
    translation: Float[Tensor, "*b 3"]

    def __post_init__(self) -> None:
        quat, translation = _float_tensor(self.quat_wxyz), _float_tensor(self.translation)
        if quat.shape[-1:] != (4,):
            raise ValueError(f"SE3: quat_wxyz must have shape [..., 4], got {list(quat.shape)}")
        if translation.shape[-1:] != (3,):
            raise ValueError(f"SE3: translation must have shape [..., 3], got {list(translation.shape)}")
        if quat.dtype != translation.dtype:
            dtype = torch.promote_types(quat.dtype, translation.dtype)
            quat, translation = quat.to(dtype), translation.to(dtype)
        try:  # numpy's: torch's own loads a second's worth of modules
            batch = np.broadcast_shapes(quat.shape[:-1], translation.shape[:-1])
        except ValueError:
            raise ValueError(
                f"SE3: batch axes must agree, got quat_wxyz {list(quat.shape)} and translation {list(translation.shape)}"
            ) from None
        quat, translation = quat.expand(*batch, 4), translation.expand(*batch, 3)
        object.__setattr__(self, "quat_wxyz", quat)
        object.__setattr__(self, "translation", translation)
        with torch.no_grad():
            length = quat.norm(dim=-1)
            if not (torch.isfinite(length).all() and torch.isfinite(translation).all()):
                raise ValueError(f"SE3: expected finite numbers, got quat_wxyz={quat}, translation={translation}")
            if (length < 1e-12).any():
                raise ValueError("SE3: quat_wxyz must not have zero length")

    @staticmethod
    def unchecked(quat_wxyz: Float[Tensor, "*b 4"], translation: Float[Tensor, "*b 3"]) -> SE3:
        """Without the checks, for numbers that come out of poses: of one floating point type and one batch shape."""
        pose = object.__new__(SE3)
        object.__setattr__(pose, "quat_wxyz", quat_wxyz)
        object.__setattr__(pose, "translation", translation)
        return pose

    # -- making poses ------------------------------------------------------------------------------------------------

    @staticmethod
    def identity(batch: Sequence[int] = (), dtype: torch.dtype = torch.float64) -> SE3:
        """The pose that moves nothing, repeated over ``batch``."""
        quat = torch.zeros(*batch, 4, dtype=dtype)
        quat[..., 0] = 1.0
        return SE3(quat, torch.zeros(*batch, 3, dtype=dtype))

    @staticmethod
    def from_translation(translation: Float[Tensor, "*b 3"] | Sequence[float]) -> SE3:
        """A pure shift by ``translation`` (metres)."""
        t = _float_tensor(translation)
        quat = torch.zeros(*t.shape[:-1], 4, dtype=t.dtype, device=t.device)
        quat[..., 0] = 1.0
        return SE3(quat, t)

    @staticmethod
    def from_axis_angle(axis: Float[Tensor, "*b 3"] | Sequence[float], angle_rad: float | Tensor) -> SE3:
        """A rotation about ``axis`` (any length but zero) by ``angle_rad``, right-handed, about the origin."""
        a = _float_tensor(axis)
        length = a.norm(dim=-1, keepdim=True)
        if (length < 1e-12).any():
            raise ValueError(f"SE3.from_axis_angle: axis must not have zero length, got {axis}")
        half = 0.5 * torch.as_tensor(angle_rad, dtype=a.dtype, device=a.device)[..., None]
        shape = np.broadcast_shapes(half.shape[:-1], a.shape[:-1])
        w, xyz = half.cos().expand(*shape, 1), (half.sin() * a / length).expand(*shape, 3)
        return SE3(torch.cat([w, xyz], -1), torch.zeros(*shape, 3, dtype=a.dtype, device=a.device))

    @staticmethod
    def from_matrix(matrix: Float[Tensor, "*b 4 4"]) -> SE3:
        """From 4x4 homogeneous matrices.

        Raises:
            ValueError: A matrix that is not rigid to 1e-4 (scale, shear, mirror, or a last row other than 0 0 0 1).
        """
        m = _float_tensor(matrix)
        if m.shape[-2:] != (4, 4):
            raise ValueError(f"SE3.from_matrix: matrix must have shape [..., 4, 4], got {list(m.shape)}")
        rot = m[..., :3, :3]
        eye = torch.eye(3, dtype=m.dtype, device=m.device)
        last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=m.dtype, device=m.device)
        with torch.no_grad():
            finite = torch.isfinite(m).all()
            skew = (rot @ rot.mT - eye).abs().max() if finite and m.numel() else 0.0
            if (
                not finite
                or skew > 1e-4
                or (torch.linalg.det(rot) < 0).any()
                or (m[..., 3, :] - last).abs().gt(1e-6).any()
            ):
                raise ValueError(f"SE3.from_matrix: expected rigid 4x4 matrices (rotation and translation), got\n{m}")
        return SE3(_quat_from_rotation(rot), m[..., :3, 3])

    # -- reading poses -----------------------------------------------------------------------------------------------

    def rotation(self) -> Float[Tensor, "*b 3 3"]:
        """Rotation matrices (equal for every length of the quaternion)."""
        return rotation_from_quat(self.quat_wxyz)

    def as_matrix(self) -> Float[Tensor, "*b 4 4"]:
        """Homogeneous 4x4 matrices."""
        rot = self.rotation()
        top = torch.cat([rot, self.translation.expand(rot.shape[:-1])[..., None]], -1)
        bottom = torch.zeros_like(top[..., :1, :])
        bottom[..., 3] = 1.0
        return torch.cat([top, bottom], -2)

    def to(self, dtype: torch.dtype) -> SE3:
        """The same pose in another floating point type."""
        return SE3(self.quat_wxyz.to(dtype), self.translation.to(dtype))

    def __getitem__(self, index) -> SE3:
        return SE3(self.quat_wxyz[index], self.translation[index])

    @staticmethod
    def stack(poses: Sequence[SE3]) -> SE3:
        """Poses of equal batch shape as one batch along a new first axis."""
        return SE3(torch.stack([p.quat_wxyz for p in poses]), torch.stack([p.translation for p in poses]))

    # -- the group ---------------------------------------------------------------------------------------------------

    @overload
    def __matmul__(self, other: SE3) -> SE3: ...

    @overload
    def __matmul__(self, other: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]: ...

    def __matmul__(self, other: SE3 | Tensor) -> SE3 | Tensor:
        """``SE3 @ SE3`` composes (right one first); ``SE3 @ Tensor[..., 3]`` maps points."""
        if isinstance(other, SE3):
            return SE3(_quat_multiply(self.quat_wxyz, other.quat_wxyz), self @ other.translation)
        if isinstance(other, Tensor) and other.shape[-1:] == (3,):
            return (self.rotation() @ other[..., None])[..., 0] + self.translation
        shape = list(other.shape) if isinstance(other, Tensor) else type(other).__name__
        raise ValueError(f"SE3 @ x: x must be an SE3 or a tensor of shape [..., 3], got {shape}")

    def inverse(self) -> SE3:
        """The pose that undoes this one."""
        quat = self.quat_wxyz * self.quat_wxyz.new_tensor([1.0, -1.0, -1.0, -1.0])
        rot = SE3(quat, torch.zeros_like(self.translation))
        return SE3(quat, -(rot @ self.translation))

    @staticmethod
    def exp(tangent: Float[Tensor, "*b 6"]) -> SE3:
        """From a twist ``(v, omega)``: linear part in metres first, then the rotation vector in radians."""
        v, omega = tangent.split(3, -1)
        angle2 = omega.square().sum(-1, keepdim=True)
        small = angle2 < _SMALL_ANGLE_SQUARED
        safe2 = torch.where(small, torch.ones_like(angle2), angle2)
        angle = safe2.sqrt()
        w = torch.where(small, 1 - angle2 / 8, (0.5 * angle).cos())
        k = torch.where(small, 0.5 - angle2 / 48, (0.5 * angle).sin() / angle)
        b = torch.where(small, 0.5 - angle2 / 24, (1 - angle.cos()) / safe2)
        c = torch.where(small, 1 / 6 - angle2 / 120, (angle - angle.sin()) / (safe2 * angle))
        wv = torch.linalg.cross(omega, v)
        return SE3(torch.cat([w, k * omega], -1), v + b * wv + c * torch.linalg.cross(omega, wv))

    def log(self) -> Float[Tensor, "*b 6"]:
        """The twist ``(v, omega)`` with ``exp(log(T)) = T`` and an angle of at most pi."""
        quat = self.quat_wxyz / self.quat_wxyz.norm(dim=-1, keepdim=True)
        quat = torch.where(quat[..., :1] < 0, -quat, quat)
        w, xyz = quat[..., :1], quat[..., 1:]
        sin2 = xyz.square().sum(-1, keepdim=True)
        small = sin2 < _SMALL_ANGLE_SQUARED
        sin = torch.where(small, torch.ones_like(sin2), sin2).sqrt()
        omega = xyz * torch.where(small, 2 + sin2 / 3, 2 * torch.atan2(sin, w) / sin)
        angle2 = omega.square().sum(-1, keepdim=True)
        small = angle2 < _SMALL_ANGLE_SQUARED
        safe2 = torch.where(small, torch.ones_like(angle2), angle2)
        half = 0.5 * safe2.sqrt()
        d = torch.where(small, 1 / 12 + angle2 / 720, (1 - half * half.cos() / half.sin()) / safe2)
        wt = torch.linalg.cross(omega, self.translation)
        v = self.translation - 0.5 * wt + d * torch.linalg.cross(omega, wt)
        return torch.cat([v, omega], -1)

    def interpolate(self, other: SE3, amount: float | Tensor) -> SE3:
        """From this pose (``amount`` 0) to ``other`` (1): rotation by the shorter arc, translation along the line."""
        turn = SE3(_quat_multiply(self._conjugate(), other.quat_wxyz), torch.zeros_like(other.translation)).log()
        a = torch.as_tensor(amount, dtype=turn.dtype, device=turn.device)[..., None]
        step = SE3.exp(torch.cat([torch.zeros_like(turn[..., :3]), turn[..., 3:]], -1) * a)
        quat = _quat_multiply(self.quat_wxyz, step.quat_wxyz)
        return SE3(quat, self.translation + a * (other.translation - self.translation))

    def _conjugate(self) -> Tensor:
        return self.quat_wxyz * self.quat_wxyz.new_tensor([1.0, -1.0, -1.0, -1.0])


def rotation_from_quat(quat_wxyz: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrices of quaternions of any length but zero; checks no values, so it works under `torch.func.vmap`."""
    w, x, y, z = quat_wxyz.unbind(-1)
    s = 2.0 / quat_wxyz.square().sum(-1)
    rows = [
        1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y),
        s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x),
        s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _float_tensor(value) -> Tensor:
    """A floating point tensor; lists and numpy arrays become float64."""
    t = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    return t if t.is_floating_point() else t.to(torch.float64)


def _quat_multiply(a: Tensor, b: Tensor) -> Tensor:
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def _quat_from_rotation(rot: Tensor) -> Tensor:
    """Unit quaternions of rotation matrices, by the largest of the four components (Shepperd's method)."""
    m00, m11, m22 = rot[..., 0, 0], rot[..., 1, 1], rot[..., 2, 2]
    candidates = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, rot[..., 2, 1] - rot[..., 1, 2],
                         rot[..., 0, 2] - rot[..., 2, 0], rot[..., 1, 0] - rot[..., 0, 1]], -1),
            torch.stack([rot[..., 2, 1] - rot[..., 1, 2], 1 + m00 - m11 - m22,
                         rot[..., 1, 0] + rot[..., 0, 1], rot[..., 0, 2] + rot[..., 2, 0]], -1),
            torch.stack([rot[..., 0, 2] - rot[..., 2, 0], rot[..., 1, 0] + rot[..., 0, 1],
                         1 - m00 + m11 - m22, rot[..., 2, 1] + rot[..., 1, 2]], -1),
            torch.stack([rot[..., 1, 0] - rot[..., 0, 1], rot[..., 0, 2] + rot[..., 2, 0],
                         rot[..., 2, 1] + rot[..., 1, 2], 1 - m00 - m11 + m22], -1),
        ],
        -2,
    )  # fmt: skip
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quat = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    quat = quat / quat.norm(dim=-1, keepdim=True)
    return torch.where(quat[..., :1] < 0, -quat, quat)
