"""From nodes to a composite, with work in proportion to what changed since the last look."""

from __future__ import annotations

import numpy as np

from compose.composite import Composite
from objects.field import Field
from scenes.node import ROOT, Node
from scenes.records import Changes
from scenes.timeline import Timeline


class View:
    """The composite of all visible objects at the time last asked for. Node ids index `_row_of` directly."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline, self._records = timeline, timeline.records
        self._row_of = np.full(16, -1, dtype=np.int64)
        self._rebuild = True
        self._fresh: list[Field] = []  # fields to be taken anew, even if they are known
        self._composite: Composite | None = None
        self._time: float | None = None
        self._records.observers.append(self._note)

    def refresh(self, field: Field) -> None:
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
        affected = self._timeline.advance(time)
        deforms = (
            time != self._time and self._composite is not None and any(f.deforms for f in self._composite.arrays.fields)
        )
        self._time = time
        if self._composite is None or self._rebuild or deforms:
            self._composite = self._built(time)
            self._rebuild, self._fresh = False, []
        elif len(affected):
            rows = self._row_of[affected]
            ids, rows = affected[rows >= 0], rows[rows >= 0]
            if len(rows):
                order = np.argsort(rows)
                poses, scale = self._timeline.poses(ids[order])
                same_scale = np.array_equal(scale.numpy(), self._composite.arrays.transforms.scale[rows[order]])
                self._composite = self._composite.with_poses(rows[order], poses, None if same_scale else scale)
        return self._composite

    def _note(self, before: Changes, after: Changes) -> None:
        """Records were exchanged."""
        self._rebuild = self._rebuild or any(_shows_otherwise(before[i], new) for i, new in after.items())
        short = max(after, default=0) + 1 - len(self._row_of)
        if short > 0:
            more = np.full(max(short, len(self._row_of)), -1, dtype=np.int64)
            self._row_of = np.concatenate([self._row_of, more])

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
                if node.field is not None:
                    found.append((i, path))
                if tree.succ[i]:
                    todo.append((i, path + "/"))
        found.sort()
        ids = np.array([i for i, _ in found], dtype=np.int64)
        self._row_of[:] = -1
        self._row_of[ids] = np.arange(len(ids))
        shown = [nodes[i] for i in ids.tolist()]
        fields = [node.field for node in shown if node.field is not None]
        poses, scale = self._timeline.poses(ids)
        known = self._composite
        if self._fresh and known is not None and any(f is g for f in self._fresh for g in known.arrays.assets.fields):
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
    )
