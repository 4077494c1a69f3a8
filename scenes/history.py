"""The edits of a scene: undo, redo, and who is told of each change.

An edit is records and what they replaced, so undo is the same exchange the other way round, whatever the edit was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from scenes.node import ROOT, Node, same_record
from scenes.records import Changes, Records


class Edit(NamedTuple):
    """One step of the history: what it was, in the words of ``sirenscape edit``, and the records before and after."""

    text: str
    before: Changes
    after: Changes


class Change(NamedTuple):
    """What a subscriber is told: records that were exchanged for others.

    Attributes:
        action: A new edit, one taken back or made again, or a scene put back as a whole (`SceneGraph.go_back`).
        text: The edit, in the words of the log; empty for ``restore``.
        before, after: Records by node id; None where there was or is no node.
        paths: Where each of these nodes is found now; of those that went, where they were.
    """

    action: Literal["edit", "undo", "redo", "restore"]
    text: str
    before: Changes
    after: Changes
    paths: dict[int, str]


class Checkpoint(NamedTuple):
    """All there is in a scene: records by id (without the root), edits to undo (oldest first) and to redo (next last), log."""

    nodes: dict[int, Node]
    undo: list[Edit]
    redo: list[Edit]
    log: list[str]


class History:
    """Makes changes of records and remembers them.

    Attributes:
        log: A line for each edit, undo and redo.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self.to_undo: list[Edit] = []  # oldest first
        self.to_redo: list[Edit] = []  # next last
        self.log: list[str] = []
        self._subscribers: dict[object, Callable[[Change], None]] = {}
        self._untold: list[Change] = []
        self._telling = False

    def commit(self, text: str, changes: Changes, *, always: bool = False) -> None:
        """Makes an edit; one that changes nothing is no step of the history, unless it is to be told ``always``.

        Raises:
            ValueError: A record or tree that makes no sense; nothing is changed then.
        """
        self._records.check(changes)
        if not always and all(same_record(self._records.nodes.get(i), node) for i, node in changes.items()):
            return
        before = self._records.exchange(changes)
        self.to_undo.append(Edit(text, before, changes))
        self.to_redo.clear()
        self.log.append(text)
        self._note("edit", text, before, changes)
        self._tell()

    def undo(self, steps: int) -> None:
        """Takes back the last edits.

        Raises:
            ValueError: There are not so many.
        """
        for edit in self._steps("undo", steps, self.to_undo, self.to_redo):
            self._records.exchange(edit.before)
            self._note("undo", edit.text, edit.after, edit.before)
        self._tell()

    def redo(self, steps: int) -> None:
        """Makes undone edits again.

        Raises:
            ValueError: There are not so many.
        """
        for edit in self._steps("redo", steps, self.to_redo, self.to_undo):
            self._records.exchange(edit.after)
            self._note("redo", edit.text, edit.before, edit.after)
        self._tell()

    def checkpoint(self) -> Checkpoint:
        """All there is, for `go_back`."""
        nodes = {i: node for i, node in self._records.nodes.items() if i != ROOT}
        return Checkpoint(nodes, list(self.to_undo), list(self.to_redo), list(self.log))

    def go_back(self, checkpoint: Checkpoint) -> None:
        """Makes records, history and log what they were at a `checkpoint`.

        Raises:
            ValueError: Records that make no sense; nothing is changed then.
        """
        now, then = self._records.nodes, checkpoint.nodes
        changes: Changes = {i: node for i, node in then.items() if now.get(i) is not node}
        changes |= dict.fromkeys(i for i in now if i != ROOT and i not in then)
        self._records.check(changes)
        before = self._records.exchange(changes)
        self.to_undo, self.to_redo, self.log = list(checkpoint.undo), list(checkpoint.redo), list(checkpoint.log)
        if changes:
            self._note("restore", "", before, changes)
        self._tell()

    def forget(self) -> None:
        """From here on nothing before can be undone; the log is emptied, too."""
        self.to_undo.clear()
        self.to_redo.clear()
        self.log.clear()

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """See `SceneGraph.subscribe`."""
        key = object()  # the same callback may come twice
        self._subscribers[key] = callback

        def end() -> None:
            self._subscribers.pop(key, None)

        return end

    def _steps(self, verb: str, steps: int, source: list[Edit], target: list[Edit]) -> Iterable[Edit]:
        if not isinstance(steps, int) or not 1 <= steps <= len(source):
            raise ValueError(
                f"{verb}: expected 1 to {len(source)} steps, got {steps}" if source else f"{verb}: nothing to {verb}"
            )
        for _ in range(steps):
            edit = source.pop()
            yield edit
            target.append(edit)
            self.log.append(f"{verb}: {edit.text}")

    # -- subscribers ---------------------------------------------------------------------------------------------------

    def _note(self, action: Literal["edit", "undo", "redo", "restore"], text: str, before: Changes, after: Changes):
        """Has a change told at the next `_tell`. The records are those after it."""
        if not self._subscribers:
            return

        def path(i: int) -> str:
            names = []
            while i != ROOT:
                node = self._records.nodes.get(i) or before[i]
                names.append(node.name if node is not None else "")
                i = node.parent if node is not None else ROOT
            return "/".join(reversed(names))

        self._untold.append(Change(action, text, dict(before), dict(after), {i: path(i) for i in after}))

    def _tell(self) -> None:
        """Tells every subscriber of every change, in order; an edit made by one of them is told after the one it came from.

        Raises:
            RuntimeError: A subscriber raised; the edit is made all the same, and every other subscriber was told.
        """
        if self._telling:
            return
        self._telling, errors = True, []
        try:
            while self._untold:
                change = self._untold.pop(0)
                for subscriber in tuple(self._subscribers.values()):
                    try:
                        subscriber(change)
                    except Exception as error:  # noqa: BLE001 (raised below, once all others were told)
                        errors.append((change, error))
        finally:
            self._telling = False
        for change, error in errors:
            raise RuntimeError(f"a subscriber failed on {change.action} {change.text!r}, which is made") from error
