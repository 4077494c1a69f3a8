"""The instances of a scene as arrays: what kernels and questions read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from compose.cpu import Bvh, InstanceTransforms, build, node_count, place, refit
from objects.field import Field
from objects.pose import SE3

if TYPE_CHECKING:
    from compose.composite import Assets

_FARTHEST = 1e9  # distance of an instance from the origin in half diagonals of its box


@dataclass(frozen=True, eq=False)
class SceneArrays:
    """``m`` instances column by column, and the index over them. Composites share these arrays: read them, never write.

    Args:
        names, fields, times: One for each instance; see `compose.Instance`.
        lit: ``[m]`` bool.
        quat: ``[m, 4]`` float64, rotations as wxyz, of any length.
        transforms: Rotations, translations, scales (world from object), and the asset that each instance shows.
        tree: The top-level acceleration structure: a tree over the world boxes of instances.
        assets: The distinct fields (at their times) by the rows that ``transforms.asset`` names, with their networks and cells
            (bottom-level acceleration structures).
    """

    names: list[str]
    fields: list[Field]
    times: list[float | None]
    lit: np.ndarray
    quat: np.ndarray
    transforms: InstanceTransforms
    tree: Bvh
    assets: Assets
    buffer: _Buffer

    @staticmethod
    def of(
        names: Sequence[str],
        fields: Sequence[Field],
        times: Sequence[float | None],
        lit: Sequence[bool],
        poses: SE3,
        scale: np.ndarray,
        assets: Assets,
        asset: np.ndarray,
    ) -> SceneArrays:
        """From columns; poses are copied.

        Raises:
            ValueError: A pose that is not finite, or too far from the origin.
        """
        m = len(names)
        buffer = _Buffer.of(np.empty(_Buffer.floats(m)), m)
        transforms = InstanceTransforms(buffer.rot, buffer.trans, scale, asset, assets.box_lo, assets.box_hi)
        lo, hi = _placed(buffer, transforms, np.arange(m), poses, names)
        tree = build(lo, hi, buffer.nodes)
        lit_array = np.array(lit, dtype=bool)
        return SceneArrays(
            list(names), list(fields), list(times), lit_array, buffer.quat, transforms, tree, assets, buffer
        )

    def moved(self, ids: np.ndarray, poses: SE3, scale: np.ndarray) -> SceneArrays:
        """The same with instances ``ids [k]`` at other poses ``[k]``; ``scale [m]`` of all.

        Raises:
            ValueError: As `of`.
        """
        buffer = _Buffer.of(self.buffer.whole.copy(), len(self.names))
        transforms = self.transforms._replace(rot=buffer.rot, trans=buffer.trans, scale=scale)
        lo, hi = _placed(buffer, transforms, ids, poses, self.names)
        tree = refit(self.tree, ids, lo, hi, buffer.nodes)
        return replace(self, quat=buffer.quat, transforms=transforms, tree=tree, buffer=buffer)

    @cached_property
    def box_lo(self) -> np.ndarray:
        """Lower corners of the world boxes of instances, ``[m, 3]``."""
        return self.tree.lo[self.tree.leaf_of]

    @cached_property
    def box_hi(self) -> np.ndarray:
        """Upper corners, ``[m, 3]``."""
        return self.tree.hi[self.tree.leaf_of]

    @property
    def poses(self) -> SE3:
        """As tensors that share the memory."""
        return SE3.unchecked(torch.from_numpy(self.quat), torch.from_numpy(self.transforms.trans))


class _Buffer(NamedTuple):
    """All that changes when one of ``m`` instances moves, in one buffer: copying it is one step, and its memory is used
    again by the next copy."""

    whole: np.ndarray
    quat: np.ndarray  # [m, 4]
    trans: np.ndarray  # [m, 3]
    rot: np.ndarray  # [m, 3, 3]
    nodes: np.ndarray  # [2, k, 3] boxes of the tree

    @staticmethod
    def floats(m: int) -> int:
        """Its length."""
        return 16 * m + 6 * node_count(m)

    @staticmethod
    def of(whole: np.ndarray, m: int) -> _Buffer:
        return _Buffer(
            whole,
            whole[: 4 * m].reshape(m, 4),
            whole[4 * m : 7 * m].reshape(m, 3),
            whole[7 * m : 16 * m].reshape(m, 3, 3),
            whole[16 * m :].reshape(2, -1, 3),
        )


def _placed(
    buffer: _Buffer, transforms: InstanceTransforms, ids: np.ndarray, poses: SE3, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Writes poses of instances (those numbered ``ids``) into the buffer; their world boxes."""
    buffer.quat[ids] = poses.quat_wxyz.detach().double().numpy()
    buffer.trans[ids] = poses.translation.detach().double().numpy()
    lo, hi = np.empty((len(ids), 3)), np.empty((len(ids), 3))
    bad = place(transforms, buffer.quat, ids, _FARTHEST, lo, hi)
    if bad >= 0:
        trans = buffer.trans[bad]
        SE3(buffer.quat[bad], trans)  # says so if it is no pose at all
        raise ValueError(
            f"Composite: an instance may stand at most {_FARTHEST:g} times its own size from the origin (float64 can't "
            f"tell its points apart farther out), got {names[bad]!r} at {trans.tolist()}"
        )
    return lo, hi
