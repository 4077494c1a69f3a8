"""From nodes to a composite, with work in proportion to what changed since the last look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import networkx as nx
import numba
import numpy as np
import torch

from compose.composite import Composite
from objects.field import Field
from objects.pose import SE3
from scenes.node import ROOT, Node


class View:
    """World poses of all nodes at the time last asked for, and the composite made of them.

    Node ids index the arrays directly. `_local` and `_parent` are what the tracks say at that time, `_world` what follows;
    `_dirty` holds the nodes whose local pose changed since.
    """

    def __init__(self, nodes: Mapping[int, Node], tree: nx.DiGraph) -> None:
        self._nodes, self._tree = nodes, tree
        self._local = np.zeros((16, 8))  # quaternion wxyz, translation, scale
        self._world = np.zeros((16, 8))
        self._world[ROOT] = self._local[ROOT] = (1, 0, 0, 0, 0, 0, 0, 1)
        self._parent = np.full(16, -1, dtype=np.int64)
        self._stale = np.zeros(16, dtype=np.uint8)
        self._row_of = np.full(16, -1, dtype=np.int64)
        self._dirty: set[int] = set()
        self._moving: dict[int, None] = {}  # a set that keeps its order
        self._rebuild = True
        self._fresh: list[Field] = []  # fields to be taken anew, even if they are known
        self._composite: Composite | None = None
        self._time: float | None = None

    def note(self, old: Node | None, new: Node | None) -> None:
        """A record was exchanged; ``old`` is None for a node that comes, ``new`` for one that goes."""
        if new is None:
            if old is not None:
                self._dirty.discard(old.id)
                self._moving.pop(old.id, None)
                self._rebuild = self._rebuild or old.field is not None
            return
        self._grow(new.id)
        if new.moves:
            self._moving[new.id] = None
        elif old is not None:
            self._moving.pop(new.id, None)
        if old is None or old.holds is not new.holds:
            self._dirty.add(new.id)
        if old is None:
            self._rebuild = self._rebuild or new.field is not None
        elif (
            old.field is not new.field
            or old.hidden != new.hidden
            or old.lit != new.lit
            or old.name != new.name
            or old.parent != new.parent
        ):
            self._rebuild = True

    def take_anew(self, field: Field) -> None:
        """The weights of a field may have changed."""
        self._fresh.append(field)
        self._rebuild = True

    def at(self, time: float) -> Composite:
        """The composite at ``time``; the same object where nothing changed."""
        try:
            return self._at(time)
        except ValueError:
            self._rebuild = True  # what can't be shown now must not be forgotten
            raise

    def _at(self, time: float) -> Composite:
        if time != self._time:
            self._dirty.update(self._moving)
        affected = self._update(time)
        deforms = time != self._time and self._composite is not None and any(f.deforms for f in self._composite._fields)
        self._time = time
        if self._composite is None or self._rebuild or deforms:
            self._composite = self._built(time)
            self._rebuild, self._fresh = False, []
        elif len(affected):
            rows = self._row_of[affected]
            ids, rows = affected[rows >= 0], rows[rows >= 0]
            if len(rows):
                order = np.argsort(rows)
                poses, scale = self._poses(ids[order])
                same_scale = np.array_equal(scale.numpy(), self._composite._stand.scale[rows[order]])
                self._composite = self._composite.with_poses(rows[order], poses, None if same_scale else scale)
        return self._composite

    # -- inside --------------------------------------------------------------------------------------------------------

    def _update(self, time: float) -> np.ndarray:
        """Brings local and world poses to ``time``; the ids of all nodes that may stand elsewhere than before."""
        if not self._dirty:
            return np.zeros(0, dtype=np.int64)
        for i in self._dirty:
            hold = self._nodes[i].holds[self._nodes[i].hold_number(time)]
            quat, trans = hold.track.at(time)
            self._local[i] = (*quat, *trans, hold.scale)
            self._parent[i] = hold.parent
        affected = self._beneath(self._dirty)
        self._dirty = set()
        self._stale[affected] = 1
        _follow(affected, self._parent, self._local, self._world, self._stale)
        return affected

    def _beneath(self, ids: Iterable[int]) -> np.ndarray:
        """These nodes and all that hang under them at any time."""
        seen = dict.fromkeys(ids)
        todo = list(seen)
        while todo:
            for child in self._tree.succ[todo.pop()]:
                if child not in seen:
                    seen[child] = None
                    todo.append(child)
        return np.fromiter(seen, dtype=np.int64, count=len(seen))

    def _built(self, time: float) -> Composite:
        """All visible objects, in the order of their ids."""
        found: list[tuple[int, str]] = []
        todo = [(ROOT, "")]
        while todo:
            parent, prefix = todo.pop()
            for i in self._tree.succ[parent]:
                node = self._nodes[i]
                if node.hidden or node.parent != parent:
                    continue
                path = prefix + node.name
                if node.field is not None:
                    found.append((i, path))
                if self._tree.succ[i]:
                    todo.append((i, path + "/"))
        found.sort()
        ids = np.array([i for i, _ in found], dtype=np.int64)
        self._row_of[:] = -1
        self._row_of[ids] = np.arange(len(ids))
        shown = [self._nodes[i] for i in ids.tolist()]
        fields = [node.field for node in shown if node.field is not None]
        poses, scale = self._poses(ids)
        known = self._composite
        if self._fresh and known is not None and any(f is g for f in self._fresh for g in known._assets.fields):
            known = None
        return Composite.from_columns(
            [path for _, path in found],
            fields,
            poses,
            scale,
            times=[time if field.deforms else None for field in fields],
            lit=[node.lit for node in shown],
            like=known,
        )

    def _poses(self, ids: np.ndarray) -> tuple[SE3, torch.Tensor]:
        world = self._world[ids]
        quat, trans, scale = (torch.from_numpy(world[:, part].copy()) for part in (slice(0, 4), slice(4, 7), 7))
        return SE3.unchecked(quat, trans), scale

    def _grow(self, i: int) -> None:
        n = len(self._parent)
        if i < n:
            return
        more = max(2 * n, i + 1) - n
        self._local = np.concatenate([self._local, np.zeros((more, 8))])
        self._world = np.concatenate([self._world, np.zeros((more, 8))])
        self._parent = np.concatenate([self._parent, np.full(more, -1, dtype=np.int64)])
        self._row_of = np.concatenate([self._row_of, np.full(more, -1, dtype=np.int64)])
        self._stale = np.concatenate([self._stale, np.zeros(more, dtype=np.uint8)])


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
