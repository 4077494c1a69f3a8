"""A solid put elsewhere in the frame of another: exact everywhere if its child is."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from objects.aabb import Aabb
from objects.field import TINT, Field, FieldSample
from objects.pose import SE3, rotation_from_quat


class Placed(Field):
    """A field put elsewhere: ``p_obj = T_obj_child @ (scale * p_child)``, distances multiplied by ``scale``. A tint is left out.

    Args:
        field: The child.
        T_obj_child: One pose, without batch axes.
        scale: Uniform, greater than 0.

    Raises:
        ValueError: Not a field, a pose with batch axes, or a scale that is not finite and greater than 0.
    """

    kind = "placed"
    everywhere = True
    quat_wxyz: Tensor
    translation: Tensor
    scale: Tensor

    def __init__(self, field: Field, T_obj_child: SE3, scale: float = 1.0) -> None:
        if not isinstance(field, Field):
            raise ValueError(f"placed: field must be a Field, got {type(field).__name__}")
        if T_obj_child.quat_wxyz.shape != (4,) or T_obj_child.translation.shape != (3,):
            raise ValueError(f"placed: T_obj_child must be one pose, got quat_wxyz {list(T_obj_child.quat_wxyz.shape)}")
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"placed: scale must be finite and greater than 0, got {scale}")
        corners = T_obj_child.to(torch.float64) @ (scale * field.bounds.corners().double())
        channels = {name: width for name, width in field.channels.items() if name != TINT}
        super().__init__(Aabb(corners.amin(0), corners.amax(0)), field.lipschitz, channels=channels)
        self.child = field
        quat = T_obj_child.quat_wxyz.detach().double()
        self.register_buffer("quat_wxyz", (quat / quat.norm()).float())
        self.register_buffer("translation", T_obj_child.translation.detach().float().clone())
        self.register_buffer("scale", torch.tensor(float(scale)))

    def inside(self, p_obj: Tensor, time: Tensor | None) -> FieldSample:
        sample = self.child(self._to_child(p_obj), time)
        more = {name: value for name, value in sample.more.items() if name != TINT}
        return sample._replace(sdf=self.scale * sample.sdf, more=more)

    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor:
        return self.scale * self.child.sdf(self._to_child(p_obj), time)

    @property
    def T_obj_child(self) -> SE3:
        """Where the child stands; points of it are multiplied by `size` first."""
        return SE3(self.quat_wxyz, self.translation)

    @property
    def size(self) -> float:
        """The scale as a number."""
        return float(self.scale)

    def _to_child(self, p_obj: Tensor) -> Tensor:
        # Rows times R is R^T times columns: the inverse rotation.
        return (p_obj - self.translation) @ rotation_from_quat(self.quat_wxyz) / self.scale

    def check_values(self) -> None:
        super().check_values()
        if not (math.isfinite(float(self.scale)) and float(self.scale) > 0):
            raise ValueError(f"placed: scale must be finite and greater than 0, got {float(self.scale)}")
        SE3(self.quat_wxyz, self.translation)

    def children_fields(self) -> list[Field]:
        return [self.child]

    @classmethod
    def empty(cls, config: dict[str, Any], children: list[Field]) -> Self:
        return cls(children[0], SE3.identity())
