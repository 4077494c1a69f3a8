"""From nodes to a composite, with work in proportion to what changed since the last look."""

from __future__ import annotations

import networkx as nx
import numpy as np

from compose.composite import Composite
from compose.types import Instance
from objects.field import Field
from scenes.motion import field_time
from scenes.node import ROOT, Node
from scenes.records import Changes
from scenes.timeline import Timeline


class SceneView:
    """The composite of all visible objects, in the order of their ids, at the time last asked for."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline, self._records = timeline, timeline.records
        self._ids = np.zeros(0, dtype=np.int64)  # of the objects shown
        self._row_of = np.full(16, -1, dtype=np.int64)  # of each id
        self._changed: set[int] = set()  # nodes that came, went or show otherwise, with all beneath them
        self._limited: set[int] = set()  # nodes that are there for a part of the time
        self._deforming: set[int] = set()  # objects shown that look otherwise at another time
        self._composite: Composite | None = None
        self._time: float | None = None
        self._records.observers.append(self._note)

    def refresh(self, field: Field) -> None:
        """The weights of a field may have changed."""
        table = self._composite.arrays.assets.table if self._composite is not None else None
        if table is not None and field in table.rows and not table.batch.unchanged(table.rows[field]):
            self._composite = None

    def at(self, time: float) -> Composite:
        """The composite at ``time``; the same object where nothing changed."""
        try:
            self._composite, self._changed = self._at(time), set()
        except ValueError:
            self._composite = None  # what can't be shown now must not be forgotten
            raise
        return self._composite

    def _at(self, time: float) -> Composite:
        moved = self._timeline.advance(time)
        if time != self._time:
            self._changed |= self._deforming
            self._time = time
        composite, nodes = self._composite, self._records.nodes
        if composite is None:
            return self._built(time)
        self._changed |= self._coming_or_going(time)
        changed = {k for i in self._changed for k in (self._records.subtree(i) if i in nodes else (i,))}
        if 4 * len(changed) > len(self._ids) + 100:
            return self._built(time)
        if changed:
            composite = self._edited(composite, changed, time)
            moved = np.array([i for i in moved.tolist() if i not in changed], dtype=np.int64)
        rows = self._row_of[moved]
        ids, rows = moved[rows >= 0], rows[rows >= 0]
        if len(rows) == 0:
            return composite
        order = np.argsort(rows)
        poses, scale = self._timeline.poses(ids[order])
        same_scale = np.array_equal(scale.numpy(), composite.arrays.transforms.scale[rows[order]])
        return composite.with_poses(rows[order], poses, None if same_scale else scale)

    def _note(self, before: Changes, after: Changes) -> None:
        """Records were exchanged."""
        for i, new in after.items():
            (self._limited.add if new is not None and new.spans else self._limited.discard)(i)
        self._changed.update(i for i, new in after.items() if _shows_otherwise(before[i], new))
        short = max(after, default=0) + 1 - len(self._row_of)
        if short > 0:
            more = np.full(max(short, len(self._row_of)), -1, dtype=np.int64)
            self._row_of = np.concatenate([self._row_of, more])

    def _coming_or_going(self, time: float) -> set[int]:
        """Objects that are shown and not there at ``time``, or the other way round, for reasons of time."""
        records = self._records
        timed = {k for i in self._limited for k in (i, *nx.descendants(records.tree, i))}
        return {
            i
            for i in timed
            if records.nodes[i].field is not None
            and not records.is_hidden(records.nodes[i])
            and records.is_there(records.nodes[i], time) != (self._row_of[i] >= 0)
        }

    def _edited(self, composite: Composite, changed: set[int], time: float) -> Composite:
        """The composite after some nodes changed, in any way but their pose alone."""
        removed = [row for row in self._row_of[sorted(changed)].tolist() if row >= 0]
        kept = np.delete(self._ids, removed)
        nodes = [self._records.nodes[i] for i in sorted(changed) if i in self._records.nodes]
        shown = [
            (n, n.field)
            for n in nodes
            if n.field is not None and not self._records.is_hidden(n) and self._records.is_there(n, time)
        ]
        ids = np.array([node.id for node, _ in shown], dtype=np.int64)
        place = np.searchsorted(kept, ids)
        poses, scale = self._timeline.poses(ids)
        added = {}
        for k, (node, field) in enumerate(shown):
            path, at = self._records.path_to(node.id), field_time(node, time)
            number = int(place[k]) + k
            added[number] = Instance(path, field, poses[k], float(scale[k]), at, node.lit)
        made = composite.edited(removed, added)
        self._deforming = self._deforming - changed | {node.id for node, field in shown if field.deforms}
        self._take_rows(np.insert(kept, place, ids))
        return made

    def _take_rows(self, ids: np.ndarray) -> None:
        self._ids = ids
        self._row_of[:] = -1
        self._row_of[ids] = np.arange(len(ids))

    def _built(self, time: float) -> Composite:
        """All visible objects, in the order of their ids."""
        nodes, tree = self._records.nodes, self._records.tree
        found: list[tuple[int, str]] = []
        todo = [(ROOT, "")]
        while todo:
            parent, prefix = todo.pop()
            for i in tree.succ[parent]:
                node = nodes[i]
                if node.hidden or node.parent != parent:
                    continue
                path = prefix + node.name
                if node.field is not None and (not self._limited or self._records.is_there(node, time)):
                    found.append((i, path))
                if tree.succ[i]:
                    todo.append((i, path + "/"))
        found.sort()
        ids = np.array([i for i, _ in found], dtype=np.int64)
        shown = [nodes[i] for i in ids.tolist()]
        fields = [node.field for node in shown if node.field is not None]
        poses, scale = self._timeline.poses(ids)
        made = Composite.from_columns(
            [path for _, path in found],
            fields,
            poses,
            scale,
            times=[field_time(node, time) for node in shown],
            lit=[node.lit for node in shown],
            like=self._composite,
        )
        self._deforming = {i for i, field in zip(ids.tolist(), fields, strict=True) if field.deforms}
        self._take_rows(ids)
        return made


def _shows_otherwise(old: Node | None, new: Node | None) -> bool:
    """Whether an exchange of records needs another composite, not only other poses."""
    if old is None or new is None:
        one = old or new
        return one is not None and one.field is not None
    return (
        old.field is not new.field
        or old.hidden != new.hidden
        or old.lit != new.lit
        or old.name != new.name
        or old.parent != new.parent
        or old.clock != new.clock
        or old.spans != new.spans
    )
