"""Instances column by column, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from compose.types import Instance
from objects.field import Field
from objects.pose import SE3


class Columns(NamedTuple):
    """``m`` instances; see `Instance`. Poses and scales are float64 and may have graphs."""

    names: Sequence[str]
    fields: Sequence[Field]
    poses: SE3  # [m]
    scale: Tensor  # [m]
    times: Sequence[float | None]
    lit: Sequence[bool]

    @staticmethod
    def of(instances: Sequence[Instance]) -> Columns:
        """Of single instances.

        Raises:
            ValueError: Something other than an `Instance`.
        """
        for instance in instances:
            if not isinstance(instance, Instance):
                raise ValueError(f"Composite: instances must be Instance objects, got {type(instance).__name__}")
        with torch.enable_grad():  # whether a question wants gradients is decided when it is asked
            poses = _stack_poses([i.T_world_obj for i in instances])
            scale = _stack_scales([i.scale for i in instances])
        names, fields = [i.name for i in instances], [i.field for i in instances]
        return Columns(names, fields, poses, scale, [i.time for i in instances], [i.lit for i in instances])

    def checked(self) -> Columns:
        """The same, in float64.

        Raises:
            ValueError: Columns of different lengths, or scales that `Instance` refuses.
        """
        m = len(self.names)
        quat = self.poses.quat_wxyz
        lengths = {len(self.fields), len(self.scale), len(self.times), len(self.lit), *quat.shape[:-1]}
        if lengths != {m} or quat.dim() != 2:
            raise ValueError(f"Composite.from_columns: expected {m} of each column, got lengths {sorted(lengths)}")
        values = self.scale.detach()
        bad = ~(torch.isfinite(values) & (values > 0))
        if m and bad.any():
            i = int(bad.nonzero()[0, 0])
            raise ValueError(
                f"Composite: {self.names[i]!r}: scale must be finite and greater than 0, got {float(values[i])}"
            )
        return self._replace(poses=self.poses.to(torch.float64), scale=self.scale.double())

    @property
    def has_graph(self) -> bool:
        """Whether poses or scales ask for gradients."""
        return has_graph(self.poses) or self.scale.requires_grad


def has_graph(poses: SE3) -> bool:
    """Whether poses ask for gradients."""
    return poses.quat_wxyz.requires_grad or poses.translation.requires_grad


def _stack_poses(poses: Sequence[SE3]) -> SE3:
    """As one float64 batch (empty for none)."""
    if not poses:
        return SE3.identity((0,))
    return SE3(torch.stack([p.quat_wxyz.double() for p in poses]), torch.stack([p.translation.double() for p in poses]))


def _stack_scales(scales: Sequence[float | Tensor]) -> Tensor:
    """As one float64 tensor."""
    if any(isinstance(s, Tensor) for s in scales):
        return torch.stack([torch.as_tensor(s, dtype=torch.float64) for s in scales])
    return torch.tensor(scales, dtype=torch.float64)  # at once: small tensors take memory that is not given back


def with_rows(all_rows: Tensor, chosen: np.ndarray, rows: Tensor) -> Tensor:
    """A copy in which ``rows`` stand at ``chosen``; keeps graphs, and in a way that allows many backward passes."""
    if not (all_rows.requires_grad or rows.requires_grad):
        copied = all_rows.numpy().copy()  # by numpy: torch's threads cost more than they save here
        copied[chosen] = rows.numpy()
        return torch.from_numpy(copied)
    with torch.enable_grad():
        parts = list(all_rows.unbind(0))
        for i, row in zip(chosen.tolist(), rows.unbind(0), strict=True):
            parts[i] = row
        return torch.stack(parts)


def checked_ids(what: str, ids: Sequence[int] | Tensor | np.ndarray, count: int) -> np.ndarray:
    """Numbers of some of ``count`` instances, ``[k]`` int64.

    Raises:
        ValueError: One that is no such number, or stands twice.
    """
    given = np.asarray(ids).reshape(-1)
    chosen = given.astype(np.int64)
    if given.dtype != np.int64 and not np.array_equal(given, chosen):
        raise ValueError(f"{what} must be whole numbers, got {given.tolist()}")
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= count):
        raise ValueError(f"{what} must be from 0 to {count - 1}, got {chosen.min()}..{chosen.max()}")
    named = np.zeros(count, bool)
    named[chosen] = True
    if np.count_nonzero(named) != len(chosen):
        raise ValueError(f"{what} must not repeat")
    return chosen
