"""Where all nodes stand in the world, at any time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numba
import numpy as np
import torch

from objects.pose import SE3
from scenes.node import ROOT, Attachment, Node, checked_scale
from scenes.records import Changes, Records
from scenes.track import Sim3


class Timeline:
    """World poses of the nodes of `records`: one table for the time that `advance` was last asked for.

    Node ids index the arrays directly. `_local` and `_parent` are what the tracks say at that time, `_world` what follows;
    `_dirty` holds the nodes whose local pose changed since.
    """

    def __init__(self, records: Records) -> None:
        self.records = records
        self._local = np.zeros((16, 8))  # quaternion wxyz, translation, scale
        self._world = np.zeros((16, 8))
        self._world[ROOT] = self._local[ROOT] = (1, 0, 0, 0, 0, 0, 0, 1)
        self._parent = np.full(16, -1, dtype=np.int64)
        self._stale = np.zeros(16, dtype=np.uint8)
        self._dirty: set[int] = set()
        self._moving: dict[int, None] = {}  # a set that keeps its order
        self._time: float | None = None
        records.observers.append(self._note)

    def advance(self, time: float) -> np.ndarray:
        """Brings the table to ``time``; gives the ids of all nodes that may stand elsewhere than before."""
        if time != self._time:
            self._dirty.update(self._moving)
            self._time = time
        if not self._dirty:
            return np.zeros(0, dtype=np.int64)
        for i in self._dirty:
            node = self.records.nodes[i]
            attachment = node.attachments[node.attachment_number(time)]
            quat, trans = attachment.track.at(time)
            self._local[i] = (*quat, *trans, attachment.scale)
            self._parent[i] = attachment.parent
        affected = self._carried(self._dirty)
        self._dirty = set()
        self._stale[affected] = 1
        _follow(affected, self._parent, self._local, self._world, self._stale)
        return affected

    def poses(self, ids: np.ndarray) -> tuple[SE3, torch.Tensor]:
        """World poses and scales ``[n]`` of nodes ``ids [n]`` at the time of the table."""
        world = self._world[ids]
        quat, trans, scale = (torch.from_numpy(world[:, part].copy()) for part in (slice(0, 4), slice(4, 7), 7))
        return SE3.unchecked(quat, trans), scale

    def world(self, i: int, time: float) -> Sim3:
        """World pose of a node: out of the table where that is of this time, else by `world_pose`, which gives the same bits."""
        if time != self._time or self._dirty:
            return world_pose(self.records.nodes, i, time)
        w, x, y, z, a, b, c, scale = self._world[i].tolist()
        return Sim3((w, x, y, z), (a, b, c), scale)

    def handed_over(self, attachment: Attachment, parent: int, time: float | None = None) -> Attachment:
        """The same place in the world under another parent, at ``time``: when the attachment begins by default, or at 0."""
        if time is None:
            time = attachment.start if math.isfinite(attachment.start) else 0.0
        old, new = self.world(attachment.parent, time), self.world(parent, time)
        if new == old:  # nothing to turn: keep the bits
            return replace(attachment, parent=parent)
        relative = new.inverse() @ old
        scale = checked_scale(attachment.scale * relative.scale, "scale")
        return replace(attachment, parent=parent, track=attachment.track.moved_into(relative), scale=scale)

    def _note(self, before: Changes, after: Changes) -> None:
        """Records were exchanged."""
        for i, new in after.items():
            old = before[i]
            if new is None:
                self._dirty.discard(i)
                self._moving.pop(i, None)
                continue
            self._grow(i)
            if new.moves:
                self._moving[i] = None
            else:
                self._moving.pop(i, None)
            if old is None or old.attachments is not new.attachments:
                self._dirty.add(i)

    def _carried(self, ids: Iterable[int]) -> np.ndarray:
        """These nodes and all that hang under them at any time."""
        seen = dict.fromkeys(ids)
        todo = list(seen)
        while todo:
            for child in self.records.tree.succ[todo.pop()]:
                if child not in seen:
                    seen[child] = None
                    todo.append(child)
        return np.fromiter(seen, dtype=np.int64, count=len(seen))

    def _grow(self, i: int) -> None:
        n = len(self._parent)
        if i < n:
            return
        more = max(2 * n, i + 1) - n
        self._local = np.concatenate([self._local, np.zeros((more, 8))])
        self._world = np.concatenate([self._world, np.zeros((more, 8))])
        self._parent = np.concatenate([self._parent, np.full(more, -1, dtype=np.int64)])
        self._stale = np.concatenate([self._stale, np.zeros(more, dtype=np.uint8)])


def world_pose(nodes: Mapping[int, Node], i: int, time: float) -> Sim3:
    """World pose of a node at ``time``, by the product of all poses down to it: the reference of `Timeline`."""
    chain = []
    while i != ROOT:
        node = nodes[i]
        attachment = node.attachments[node.attachment_number(time)]
        chain.append(Sim3(*attachment.track.at(time), attachment.scale))
        i = attachment.parent
    world = Sim3()
    for local in reversed(chain):
        world = world @ local
    return world


@numba.njit(cache=True)
def _follow(nodes, parent, local, world, stale):
    """World poses of the stale ones among ``nodes``: each is set after the one it hangs under, whatever the order."""
    chain = np.empty(64, dtype=np.int64)
    for start in nodes:
        n, i = 0, start
        while stale[i]:
            if n == len(chain):
                longer = np.empty(2 * n, dtype=np.int64)
                longer[:n] = chain
                chain = longer
            chain[n] = i
            n += 1
            i = parent[i]
        while n > 0:
            n -= 1
            i = chain[n]
            p, a, w = world[parent[i]], local[i], world[i]
            # rotation and translation as in `scenes.track.Sim3`
            w[0] = p[0] * a[0] - p[1] * a[1] - p[2] * a[2] - p[3] * a[3]
            w[1] = p[0] * a[1] + p[1] * a[0] + p[2] * a[3] - p[3] * a[2]
            w[2] = p[0] * a[2] - p[1] * a[3] + p[2] * a[0] + p[3] * a[1]
            w[3] = p[0] * a[3] + p[1] * a[2] - p[2] * a[1] + p[3] * a[0]
            tx = 2 * (p[2] * a[6] - p[3] * a[5])
            ty = 2 * (p[3] * a[4] - p[1] * a[6])
            tz = 2 * (p[1] * a[5] - p[2] * a[4])
            w[4] = p[7] * (a[4] + p[0] * tx + (p[2] * tz - p[3] * ty)) + p[4]
            w[5] = p[7] * (a[5] + p[0] * ty + (p[3] * tx - p[1] * tz)) + p[5]
            w[6] = p[7] * (a[6] + p[0] * tz + (p[1] * ty - p[2] * tx)) + p[6]
            w[7] = p[7] * a[7]
            stale[i] = 0
