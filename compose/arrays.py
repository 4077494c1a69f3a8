"""The instances of a scene as arrays: what kernels and questions read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np
import torch

from compose.assets import Assets, AssetTable
from compose.columns import Columns
from compose.cpu import EMPTY, Bvh, InstanceTransforms, build, edit, node_count, place, refit
from compose.types import Instance, Rays
from objects.field import Field
from objects.pose import SE3

_FARTHEST = 1e9  # distance of an instance from the origin in half diagonals of its box


@dataclass(frozen=True, eq=False)
class SceneArrays:
    """``m`` instances column by column, and the index over them. Composites share these arrays: read them, never write.

    Args:
        names: One for each instance.
        lit: ``[m]`` bool.
        field: ``[m]``, the number of each instance's field in ``assets.table``.
        seconds: ``[m]``, the time of each instance, NaN for none.
        quat: ``[m, 4]`` float64, rotations as wxyz, of any length.
        transforms: Rotations, translations, scales (world from object), and the row of ``assets`` that each instance shows.
        tree: The top-level acceleration structure: a tree over the world boxes of instances.
        assets: Fields at their times, with their networks and cells (bottom-level acceleration structures).
        buffer: Memory of what changes when instances move.
        edits: Instances that came since the tree was built.
    """

    names: list[str]
    lit: np.ndarray
    field: np.ndarray
    seconds: np.ndarray
    quat: np.ndarray
    transforms: InstanceTransforms
    tree: Bvh
    assets: Assets
    buffer: _Buffer
    edits: int = 0

    @staticmethod
    def of(columns: Columns, like: SceneArrays | None = None) -> SceneArrays:
        """From columns, which are copied; what is known of fields is shared with ``like``.

        Raises:
            ValueError: A pose that is not finite, or too far from the origin.
        """
        m, fields, scale = len(columns.names), columns.fields, _numbers(columns.scale)
        table = AssetTable(list(dict.fromkeys(fields))) if like is None else like.assets.table.holding(fields)
        table, field = table.trimmed(table.rows_of(fields))
        seconds = _seconds(columns.times)
        assets, asset = Assets.of(table, field, seconds, None if like is None else like.assets)
        buffer = _Buffer.empty(m, node_count(m))
        transforms = InstanceTransforms(buffer.rot, buffer.trans, scale, asset, assets.box_lo, assets.box_hi)
        lo, hi = _placed(buffer, transforms, np.arange(m), columns.poses, columns.names)
        tree, lit = build(lo, hi, buffer.nodes), np.array(columns.lit, dtype=bool)
        return SceneArrays(list(columns.names), lit, field, seconds, buffer.quat, transforms, tree, assets, buffer)

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

    def edited(self, removed: np.ndarray, numbers: np.ndarray, columns: Columns) -> SceneArrays:
        """The same without the instances ``removed [r]`` and with ``k`` others, given as columns, which get the ``numbers [k]``
        in the new scene; both ascend. Costs what these need, and a copy of the arrays.

        Raises:
            ValueError: As `of`.
        """
        source = _sources(len(self.names), removed, numbers)
        table = self.assets.table.holding(columns.fields)
        field, seconds, lit = self.field[source], self.seconds[source], self.lit[source]
        field[numbers], seconds[numbers], lit[numbers] = (
            table.rows_of(columns.fields), _seconds(columns.times), columns.lit
        )  # fmt: skip
        table, field = table.trimmed(field)
        assets, asset = Assets.of(table, field, seconds, self.assets)
        names = self.names.copy()
        for i in removed[::-1]:
            del names[i]
        for i, name in zip(numbers, columns.names, strict=True):
            names.insert(i, name)
        buffer = _Buffer.empty(len(source), len(self.tree.instance))
        buffer.take(self.buffer, source)
        scale = self.transforms.scale[source]
        scale[numbers] = _numbers(columns.scale)
        transforms = InstanceTransforms(buffer.rot, buffer.trans, scale, asset, assets.box_lo, assets.box_hi)
        lo, hi = _placed(buffer, transforms, numbers, columns.poses, names)
        buffer.nodes[:] = self.buffer.nodes
        tree, edits = edit(self.tree, source, numbers, lo, hi, buffer.nodes), self.edits + len(numbers)
        if tree is None or 2 * edits > len(source) + 32:  # it is full, or no longer as tight as it could be
            all_lo, all_hi = self.box_lo[source], self.box_hi[source]
            all_lo[numbers], all_hi[numbers] = lo, hi
            wider = _Buffer.empty(len(source), node_count(len(source)))
            wider.take(buffer, np.arange(len(source)))
            buffer, transforms = wider, transforms._replace(rot=wider.rot, trans=wider.trans)
            tree, edits = build(all_lo, all_hi, buffer.nodes), 0
        return SceneArrays(names, lit, field, seconds, buffer.quat, transforms, tree, assets, buffer, edits)

    @cached_property
    def fields(self) -> list[Field]:
        """The field of each instance."""
        return [self.assets.batch.fields[k] for k in self.field]

    @cached_property
    def times(self) -> list[float | None]:
        """The time of each instance."""
        return [None if np.isnan(t) else t for t in self.seconds.tolist()]

    @cached_property
    def box_lo(self) -> np.ndarray:
        """Lower corners of the world boxes of instances, ``[m, 3]``."""
        return self.tree.lo[self.tree.leaf_of]

    @cached_property
    def box_hi(self) -> np.ndarray:
        """Upper corners, ``[m, 3]``."""
        return self.tree.hi[self.tree.leaf_of]

    @cached_property
    def routed(self) -> Bvh:
        """The tree without instances that coincide with a lower one of the same asset: nothing is ever first met on them."""
        tree, hidden = self.tree, _coincident(self.transforms)
        if len(hidden) == 0:
            return tree
        leaves = tree.leaf_of[hidden]
        lo, hi, instance = tree.lo.copy(), tree.hi.copy(), tree.instance.copy()
        lo[leaves], hi[leaves], instance[leaves] = np.inf, -np.inf, EMPTY
        return tree._replace(lo=lo, hi=hi, instance=instance)

    @property
    def diagonals(self) -> np.ndarray:
        """Diagonal of each instance's box, metres, ``[m]``."""
        t = self.transforms
        return t.scale * np.linalg.norm(t.box_hi - t.box_lo, axis=1)[t.asset]

    @property
    def poses(self) -> SE3:
        """As tensors that share the memory."""
        return SE3.unchecked(torch.from_numpy(self.quat), torch.from_numpy(self.transforms.trans))


class InstancesView(Sequence[Instance]):
    """The instances of a composite, each made from the arrays when it is looked at."""

    def __init__(self, arrays: SceneArrays, poses: SE3, scale: torch.Tensor) -> None:
        """With the poses and scales ``[m]`` that may have graphs."""
        self._arrays, self._poses, self._scale = arrays, poses, scale

    def __len__(self) -> int:
        return len(self._arrays.names)

    @overload
    def __getitem__(self, index: int) -> Instance: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Instance, ...]: ...

    def __getitem__(self, index):  # an int gives an Instance, a slice a tuple of them
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        a, i = self._arrays, range(len(self))[int(index)]
        scale = self._scale[i] if self._scale.requires_grad else float(self._scale[i])
        row = a.transforms.asset[i]
        return Instance(a.names[i], a.assets.fields[row], self._poses[i], scale, a.assets.times[row], bool(a.lit[i]))


def _coincident(transforms: InstanceTransforms) -> np.ndarray:
    """The instances that stand exactly as a lower one of the same asset does."""
    columns = np.column_stack(
        [transforms.asset, transforms.scale, transforms.trans, transforms.rot.reshape(len(transforms.rot), 9)]
    )
    mixed = np.zeros(len(columns))  # equal for equal rows, seldom for others: so that few rows need be compared whole
    for k in range(columns.shape[1]):
        mixed = mixed * 0.618 + columns[:, k]
    ordered = np.sort(mixed)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    rows = np.flatnonzero(np.isin(mixed, again)) if len(again) else np.zeros(0, dtype=np.int64)
    _, first = np.unique(columns[rows], axis=0, return_index=True)
    return np.delete(rows, first)


def _numbers(values: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().numpy())


def _seconds(times: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if time is None else time for time in times], dtype=np.float64)


class _Buffer(NamedTuple):
    """All that changes when one of ``m`` instances moves, in one buffer: copying it is one step, and its memory is used
    again by the next copy."""

    whole: np.ndarray
    quat: np.ndarray  # [m, 4]
    trans: np.ndarray  # [m, 3]
    rot: np.ndarray  # [m, 3, 3]
    nodes: np.ndarray  # [2, k, 3] boxes of the tree

    @staticmethod
    def empty(m: int, n_nodes: int) -> _Buffer:
        """For ``m`` instances and a tree of so many nodes."""
        return _Buffer.of(np.empty(16 * m + 6 * n_nodes), m)

    def take(self, other: _Buffer, source: np.ndarray) -> None:
        """Poses of the instances ``source [m]`` of another buffer."""
        self.quat[:], self.trans[:], self.rot[:] = other.quat[source], other.trans[source], other.rot[source]

    @staticmethod
    def of(whole: np.ndarray, m: int) -> _Buffer:
        return _Buffer(
            whole,
            whole[: 4 * m].reshape(m, 4),
            whole[4 * m : 7 * m].reshape(m, 3),
            whole[7 * m : 16 * m].reshape(m, 3, 3),
            whole[16 * m :].reshape(2, -1, 3),
        )


def _sources(m: int, removed: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Which of ``m`` instances each one of the edited scene was, -1 for new ones; one that stands in the place of another is
    taken for it."""
    old = np.ones(m - len(removed) + len(numbers), dtype=bool)
    old[numbers] = False
    source = np.full(len(old), -1)
    source[old] = np.delete(np.arange(m), removed)
    k = min(len(removed), len(numbers))
    same = numbers[:k][numbers[:k] == removed[:k]]
    source[same] = same
    return source


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


def ray_arrays(rays: Rays) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Origins, directions, ``t_min`` and ``t_max`` as kernels take them."""
    values = (rays.origins, rays.directions, torch.as_tensor(rays.t_min), torch.as_tensor(rays.t_max))
    o, d, t_min, t_max = (np.ascontiguousarray(v.detach().double().numpy()) for v in values)
    return o, d, t_min, t_max
