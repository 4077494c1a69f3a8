"""Nodes, the tree that they make, and the history of their changes.

The hierarchy is a `networkx.DiGraph` whose edges say which node carries which, at any time; nodes are frozen records, and a
change is a set of records exchanged for others. So undo is the same exchange the other way round, whatever the edit was.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import networkx as nx

from objects.field import Field
from objects.files import field_hash
from objects.pose import SE3
from scenes.node import ROOT, Hold, Node, checked_scale
from scenes.node_view import NodeView, UnknownPathError
from scenes.track import Sim3, Track, number, quat_of, vec_of
from scenes.view import View

MAX_DEPTH = 100  # levels of a scene
MAX_NAME = 200  # characters of a name

Changes = dict[int, Node | None]  # new records; None for nodes that go


class Edit(NamedTuple):
    """One step of the history: what it was, in the words of ``sirenscape edit``, and the records before and after."""

    text: str
    before: Changes
    after: Changes


_NOTHING: dict = {}  # never written to


class _Tree(nx.DiGraph):
    """Nodes and edges without attributes: one empty dictionary for all of them."""

    node_attr_dict_factory = edge_attr_dict_factory = staticmethod(lambda: _NOTHING)


class NodeStore:
    """Records by path, with undo."""

    def __init__(self) -> None:
        root = Node(ROOT, "", (Hold(-math.inf, -1, Track.constant(Sim3())),))
        self._nodes: dict[int, Node] = {ROOT: root}
        self._children: dict[int, dict[str, int]] = {ROOT: {}}
        self._tree = _Tree()
        self._tree.add_node(ROOT)
        self._next_id = ROOT + 1
        self._undo: list[Edit] = []
        self._redo: list[Edit] = []
        self._view = View(self._nodes, self._tree)
        self.log: list[str] = []

    # -- what is there -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Nodes of all kinds."""
        return len(self._nodes) - 1

    def __contains__(self, path: str) -> bool:
        return isinstance(path, str) and self._find(path) is not None

    def __getitem__(self, path: str) -> NodeView:
        """The node at a path: name, field, pose, tags and so on, read-only.

        Raises:
            UnknownPathError: No such node, a ``ValueError`` and a ``KeyError``; the nearest path is named.
        """
        return NodeView(self, self._id(path))

    def __iter__(self) -> Iterator[str]:
        """All paths, parents before children, siblings in the order in which they were made."""
        todo = [(i, name) for name, i in reversed(self._in_order(ROOT))]
        while todo:
            i, path = todo.pop()
            yield path
            todo += [(child, f"{path}/{name}") for name, child in reversed(self._in_order(i))]

    def children(self, path: str = "/") -> list[str]:
        """Paths of the nodes right beneath; ``/`` for those at the top."""
        i = self._id(path)
        prefix = f"{path.strip('/')}/" if i != ROOT else ""
        return [prefix + name for name, _ in self._in_order(i)]

    def path_of(self, node: Node | NodeView) -> str:
        """Where a node is found."""
        node = node.record if isinstance(node, NodeView) else node
        names = []
        while node.id != ROOT:
            names.append(node.name)
            node = self._nodes[node.parent]
        return "/".join(reversed(names))

    def pose(self, path: str, time: float = 0.0) -> tuple[SE3, float]:
        """World pose and world scale of a node: ``p_world = pose @ (scale * p_node)``."""
        world = self._world(self._id(path), number(time, "time"))
        return world.pose(), world.scale

    @property
    def span(self) -> tuple[float, float]:
        """First and last time (seconds) at which something changes; both 0 in a scene at rest."""
        times = []
        for node in self._nodes.values():
            if node.moves:
                times += [hold.start for hold in node.holds[1:]]
                times += [float(t) for hold in node.holds if hold.track.moves for t in hold.track.times[[0, -1]]]
        return min(times, default=0.0), max(times, default=0.0)

    @property
    def fields(self) -> list[Field]:
        """All distinct fields, in the order of the nodes."""
        return list({id(n.field): n.field for n in self._sorted() if n.field is not None}.values())

    def __eq__(self, other: object) -> bool:
        """Equal nodes at equal paths in the same order, with equal tracks, fields (by content), lights, cameras; log aside."""
        if not isinstance(other, NodeStore):
            return NotImplemented
        mine, theirs = self._sorted(), other._sorted()
        if len(mine) != len(theirs):
            return False
        hashes = {field: field_hash(field) for field in {*self.fields, *other.fields}}

        def same_field(a: Field | None, b: Field | None) -> bool:
            return a is b or (a is not None and b is not None and hashes[a] == hashes[b])

        partner = {a.id: b.id for a, b in zip(mine, theirs, strict=True)} | {ROOT: ROOT}
        return all(
            a.same_as(b, same_field) and [partner[h.parent] for h in a.holds] == [h.parent for h in b.holds]
            for a, b in zip(mine, theirs, strict=True)
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    # -- history -------------------------------------------------------------------------------------------------------

    @property
    def history(self) -> tuple[list[str], list[str]]:
        """What can be undone (newest last) and redone (next last)."""
        return [e.text for e in self._undo], [e.text for e in self._redo]

    def undo(self, steps: int = 1) -> None:
        """Takes back the last edits.

        Raises:
            ValueError: There are not so many.
        """
        self._travel("undo", steps, self._undo, self._redo, lambda edit: edit.before)

    def redo(self, steps: int = 1) -> None:
        """Makes undone edits again.

        Raises:
            ValueError: There are not so many.
        """
        self._travel("redo", steps, self._redo, self._undo, lambda edit: edit.after)

    def checkpoint(self) -> tuple[dict[int, Node], list[Edit], list[Edit], list[str]]:
        """All there is, for `go_back`."""
        return dict(self._nodes), list(self._undo), list(self._redo), list(self.log)

    def go_back(self, checkpoint: tuple[dict[int, Node], list[Edit], list[Edit], list[str]]) -> None:
        """Makes the scene, its history and its log what they were at a `checkpoint`."""
        nodes, undo, redo, log = checkpoint
        both = self._nodes.keys() | nodes.keys()
        self._apply({i: nodes.get(i) for i in both if self._nodes.get(i) is not nodes.get(i)})
        self._undo, self._redo, self.log = list(undo), list(redo), list(log)

    def forget_history(self) -> None:
        """From here on nothing before can be undone; the log is emptied, too."""
        self._undo.clear()
        self._redo.clear()
        self.log.clear()

    def _travel(
        self, verb: str, steps: int, source: list[Edit], target: list[Edit], which: Callable[[Edit], Changes]
    ) -> None:
        if not isinstance(steps, int) or not 1 <= steps <= len(source):
            raise ValueError(
                f"{verb}: expected 1 to {len(source)} steps, got {steps}" if source else f"{verb}: nothing to {verb}"
            )
        for _ in range(steps):
            edit = source.pop()
            self._apply(which(edit))
            target.append(edit)
            self.log.append(f"{verb}: {edit.text}")

    # -- records in and out --------------------------------------------------------------------------------------------

    def _commit(self, text: str, changes: Changes) -> None:
        self._check(changes)
        before = {i: self._nodes.get(i) for i in changes}
        self._apply(changes)
        self._undo.append(Edit(text, before, changes))
        self._redo.clear()
        self.log.append(text)

    def _apply(self, changes: Mapping[int, Node | None]) -> None:
        """Exchanges records and brings the indices along: all old entries go before new ones come, so that names may be swapped."""
        old = {i: self._nodes.get(i) for i in changes}
        for i, node in old.items():
            if node is not None:
                del self._children[node.parent][node.name]
                after = changes[i]
                kept = {h.parent for h in after.holds} if after is not None else set()
                for parent in {h.parent for h in node.holds} - kept:
                    self._tree.remove_edge(parent, i)
        for i, node in changes.items():
            if node is None:
                self._view.note(old[i], None)
                self._nodes.pop(i, None)
                self._children.pop(i, None)
                if i in self._tree:
                    self._tree.remove_node(i)
            else:
                self._nodes[i] = node
                self._children.setdefault(i, {})
        for i, node in changes.items():
            if node is not None:
                self._children[node.parent][node.name] = i
                for hold in node.holds:
                    self._tree.add_edge(hold.parent, i)
                self._view.note(old[i], node)
        self._next_id = max(self._next_id, max(changes, default=0) + 1)

    def _check(self, changes: Mapping[int, Node | None]) -> None:
        """Whether records may be exchanged: what comes of it must be a sound scene again.

        Raises:
            ValueError: A record or tree that makes no sense.
        """

        def after(i: int) -> Node | None:
            return changes[i] if i in changes else self._nodes.get(i)

        taken: set[tuple[int, str]] = set()
        for i, node in changes.items():
            if node is None:
                for child in map(after, self._tree.succ[i] if i in self._tree else ()):
                    if child is not None and any(hold.parent == i for hold in child.holds):
                        raise ValueError(f"node {i} goes, but carries others that stay")
                continue
            if i == ROOT or i != node.id:
                raise ValueError(f"expected node ids above {ROOT}, got {i}")
            check_name(node.name)
            word_set(node.tags)
            starts = [hold.start for hold in node.holds]
            if not starts or starts[0] != -math.inf or any(not a < b < math.inf for a, b in pairwise(starts)):
                raise ValueError(
                    f"{node.name}: expected holds one after the other, the first without a start, got {starts}"
                )
            for hold in node.holds:
                checked_scale(hold.scale, f"{node.name}: scale")
                if not isinstance(hold.track, Track):
                    raise ValueError(f"{node.name}: expected a Track, got {type(hold.track).__name__}")
                if hold.parent != ROOT and after(hold.parent) is None:
                    raise ValueError(f"{node.name}: hangs under node {hold.parent}, which isn't there")
            there = self._children.get(node.parent, {}).get(node.name)
            if (node.parent, node.name) in taken or (there is not None and there not in changes):
                raise ValueError(f"{node.name}: this name is used twice in one place")
            taken.add((node.parent, node.name))
        size = {ROOT: 1.0}
        depth = {ROOT: 0}  # of all nodes that were followed to the top by every way
        for i in [i for i, node in changes.items() if node is not None]:
            chain, open_ = [i], {i}
            while chain:
                node = after(chain[-1]) if chain[-1] != ROOT else None
                above = [] if node is None else [h.parent for h in node.holds if h.parent not in depth]
                if node is None or not above:
                    open_.discard(chain.pop())
                    if node is not None:
                        size[node.id] = checked_scale(
                            size[node.parent] * node.scale, f"{node.name}: scale in the world"
                        )
                        depth[node.id] = depth[node.parent] + 1
                        old = self._nodes.get(node.id)
                        below = self._height(node.id) - 1 if old is not None and old.parent != node.parent else 0
                        if depth[node.id] + below > MAX_DEPTH:
                            raise ValueError(f"expected at most {MAX_DEPTH} levels, got {depth[node.id] + below}")
                elif above[0] in open_:
                    raise ValueError(f"{node.name}: hangs under itself")
                else:
                    chain.append(above[0])
                    open_.add(above[0])

    def _set(self, path: str, text: str, **values: Any) -> None:
        node = self._nodes[self._id(path, root=False)]
        self._commit(text, {node.id: replace(node, **values)})

    # -- finding -------------------------------------------------------------------------------------------------------

    def _find(self, path: str) -> int | None:
        i = ROOT
        for name in path.strip("/").split("/") if path.strip("/") else ():
            found = self._children[i].get(name)
            if found is None:
                return None
            i = found
        return i

    def _id(self, path: str, *, root: bool = True) -> int:
        """The id at a path; ``root=False`` refuses the nameless node above all."""
        if not isinstance(path, str):
            raise ValueError(f"path: expected text such as 'table/mug', got {type(path).__name__}")
        i = self._find(path)
        if i is None:
            raise UnknownPathError(f"no node {path!r}" + self._suggestion(path))
        if i == ROOT and not root:
            raise ValueError(f"path: expected a node below the root, got {path!r}")
        return i

    def _suggestion(self, path: str) -> str:
        names = path.strip("/").split("/")
        i, known = ROOT, []
        for name in names:
            here = self._children[i]
            if name in here:
                known.append(name)
                i = here[name]
                continue
            close = difflib.get_close_matches(name, here, n=1, cutoff=0.5)
            if close:
                return f"; did you mean {'/'.join([*known, close[0]])!r}?"
            break
        same = [n for n in self._nodes.values() if n.name == names[-1]]
        if same:
            return f"; did you mean {self.path_of(same[0])!r}?"
        where = f"in {'/'.join(known)!r}" if known else "at the top"
        there = list(self._children[i])
        listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
        return f"; {where} there is {listed or 'nothing'}"

    def _new_place(self, path: str) -> tuple[int, str]:
        """Parent and name of a node to be."""
        if not isinstance(path, str):
            raise ValueError(f"path: expected text such as 'table/mug', got {type(path).__name__}")
        above, _, name = path.strip("/").rpartition("/")
        if above.endswith("/"):
            raise ValueError(f"path: expected names with one / between them, got {path!r}")
        check_name(name)
        parent = self._id(above)
        self._check_free(parent, name)
        return parent, name

    def _check_free(self, parent: int, name: str, allowed: int | None = None) -> None:
        if self._children[parent].get(name, allowed) != allowed:
            where = self.path_of(self._nodes[parent])
            raise ValueError(
                f"{f'{where}/' if where else ''}{name}: this name is taken; choose another or rename what is there"
            )

    def _height(self, top: int) -> int:
        """Levels from a node down, itself counted."""
        level, n = [top], 1
        while level := [c for i in level for c in self._children[i].values()]:
            n += 1
        return n

    def _in_order(self, i: int) -> list[tuple[str, int]]:
        return sorted(self._children[i].items(), key=lambda item: item[1])

    def _sorted(self) -> list[Node]:
        return [self._nodes[i] for i in sorted(self._nodes) if i != ROOT]

    def _subtree(self, top: int) -> list[int]:
        """Ids of a node and all found beneath it, sorted."""
        found, todo = [top], [top]
        while todo:
            below = self._children[todo.pop()].values()
            found += below
            todo += below
        return sorted(found)

    def _above(self, i: int) -> set[int]:
        """Ids of all that carry a node at any time, itself counted."""
        return nx.ancestors(self._tree, i) | {i}

    def _is_hidden(self, node: Node) -> bool:
        while node.id != ROOT:
            if node.hidden:
                return True
            node = self._nodes[node.parent]
        return False

    # -- places --------------------------------------------------------------------------------------------------

    def _world(self, i: int, time: float) -> Sim3:
        """World pose of a node at ``time``."""
        chain = []
        while i != ROOT:
            node = self._nodes[i]
            hold = node.holds[node.hold_number(time)]
            chain.append(Sim3(*hold.track.at(time), hold.scale))
            i = hold.parent
        world = Sim3()
        for local in reversed(chain):
            world = world @ local
        return world


def one_pose(pose: SE3, what: str) -> Sim3:
    if not isinstance(pose, SE3) or pose.quat_wxyz.dim() != 1:
        raise ValueError(f"{what}: expected a single SE3 as pose, got {type(pose).__name__}")
    return Sim3(quat_of(pose), vec_of(pose))


def check_name(name: str) -> None:
    if not isinstance(name, str) or not name or name in (".", "..") or name != name.strip() or "/" in name:
        raise ValueError(f"name: expected text without '/' or blanks at its ends, got {name!r}")
    if len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"name: expected at most {MAX_NAME} printable characters, got {name[:40]!r}...")


def word_set(tags: Iterable[str]) -> tuple[str, ...]:
    found = [tags] if isinstance(tags, str) else list(tags) if isinstance(tags, Iterable) else [tags]
    for tag in found:
        if not isinstance(tag, str) or not tag or not tag.isprintable() or tag != tag.strip():
            raise ValueError(f"tags: expected words, got {tag!r}")
    return tuple(sorted(set(found)))


def a_(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def shown(value: float) -> str:
    return f"{value:.10g}"


def quoted(path: str) -> str:
    """A path as ``sirenscape edit`` reads it."""
    return path if all(c.isalnum() or c in "_-./+:" for c in path) else "'" + path.replace("'", "'\"'\"'") + "'"
