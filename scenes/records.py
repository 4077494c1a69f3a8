"""Nodes and the tree that they make.

The hierarchy is a `networkx.DiGraph` whose edges say which node carries which, at any time; nodes are frozen records, and a
change is a set of records exchanged for others.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import networkx as nx

from objects.field import Field
from objects.files import content_name
from rendering.camera import Camera
from scenes.node import ROOT, Attachment, Node, a_, check_name, checked_scale, is_there, word_set
from scenes.presence import checked_spans, ends_of
from scenes.track import Sim3, Track

MAX_DEPTH = 100  # levels of a scene

Changes = dict[int, Node | None]  # records by id; None where there is no node

_NOTHING: dict = {}  # never written to


class UnknownPathError(ValueError, KeyError):
    """There is no node at a path; the text names the nearest one."""

    __str__ = Exception.__str__  # KeyError shows its text in quotes


class _Tree(nx.DiGraph):
    """Nodes and edges without attributes: one empty dictionary for all of them."""

    node_attr_dict_factory = edge_attr_dict_factory = staticmethod(lambda: _NOTHING)


class Records:
    """The nodes of a scene, found by id or path. `exchange` is the one place where they change.

    Attributes:
        nodes: By id, the nameless `ROOT` above all included.
        children: Ids by name of what is found right beneath each node.
        tree: Who carries whom, at any time.
        next_id: The first that no node ever had.
        observers: Called with the records before and after each exchange.
    """

    def __init__(self) -> None:
        root = Node(ROOT, "", (Attachment(-math.inf, -1, Track.constant(Sim3())),))
        self.nodes: dict[int, Node] = {ROOT: root}
        self.children: dict[int, dict[str, int]] = {ROOT: {}}
        self.tree = _Tree()
        self.tree.add_node(ROOT)
        self.next_id = ROOT + 1
        self.observers: list[Callable[[Changes, Changes], None]] = []

    # -- finding -------------------------------------------------------------------------------------------------------

    def find(self, path: str) -> int | None:
        """The id at a path; None if there is no node."""
        i = ROOT
        for name in path.strip("/").split("/") if path.strip("/") else ():
            found = self.children[i].get(name)
            if found is None:
                return None
            i = found
        return i

    def id_at(self, path: str) -> int:
        """The id at a path; of ``/`` it is `ROOT`.

        Raises:
            UnknownPathError: No such node; the nearest path is named.
        """
        if not isinstance(path, str):
            raise ValueError(f"path: expected text such as 'table/mug', got {type(path).__name__}")
        i = self.find(path)
        if i is None:
            raise UnknownPathError(f"no node {path!r}" + self._suggestion(path))
        return i

    def node_at(self, path: str) -> Node:
        """The node at a path, below the root.

        Raises:
            UnknownPathError: No such node.
            ValueError: The root.
        """
        i = self.id_at(path)
        if i == ROOT:
            raise ValueError(f"path: expected a node below the root, got {path!r}")
        return self.nodes[i]

    def path_to(self, i: int) -> str:
        """Where a node is found."""
        names = []
        while i != ROOT:
            names.append(self.nodes[i].name)
            i = self.nodes[i].parent
        return "/".join(reversed(names))

    def new_place(self, path: str) -> tuple[int, str]:
        """Parent and name of a node to be.

        Raises:
            ValueError: A name that can't be one or is taken, no such parent.
        """
        if not isinstance(path, str):
            raise ValueError(f"path: expected text such as 'table/mug', got {type(path).__name__}")
        above, _, name = path.strip("/").rpartition("/")
        if above.endswith("/"):
            raise ValueError(f"path: expected names with one / between them, got {path!r}")
        check_name(name)
        parent = self.id_at(above)
        self.check_free(parent, name)
        return parent, name

    def check_free(self, parent: int, name: str, allowed: int | None = None) -> None:
        """Whether a node may get this name beneath ``parent``; ``allowed`` may have it already.

        Raises:
            ValueError: It is taken.
        """
        if self.children[parent].get(name, allowed) != allowed:
            where = self.path_to(parent)
            raise ValueError(
                f"{f'{where}/' if where else ''}{name}: this name is taken; choose another or rename what is there"
            )

    def walk(self) -> Iterator[tuple[str, int]]:
        """Paths and ids, parents before children, siblings in the order in which they were made."""
        todo = [(i, name) for name, i in reversed(self.beneath(ROOT))]
        while todo:
            i, path = todo.pop()
            yield path, i
            todo += [(child, f"{path}/{name}") for name, child in reversed(self.beneath(i))]

    def beneath(self, i: int) -> list[tuple[str, int]]:
        """Names and ids of what is found right beneath a node, in the order of making."""
        return sorted(self.children[i].items(), key=lambda item: item[1])

    def in_order(self) -> list[Node]:
        """All nodes in the order of making."""
        return [self.nodes[i] for i in sorted(self.nodes) if i != ROOT]

    def subtree(self, top: int) -> list[int]:
        """Ids of a node and all found beneath it, sorted."""
        found, todo = [top], [top]
        while todo:
            below = self.children[todo.pop()].values()
            found += below
            todo += below
        return sorted(found)

    def carriers(self, i: int) -> set[int]:
        """Ids of all that carry a node at any time, itself counted."""
        return nx.ancestors(self.tree, i) | {i}

    def is_hidden(self, node: Node) -> bool:
        """Whether it or something that it is found under is hidden."""
        while node.id != ROOT:
            if node.hidden:
                return True
            node = self.nodes[node.parent]
        return False

    def is_there(self, node: Node, time: float) -> bool:
        """Whether it and all that carries it at ``time`` (seconds) are there then."""
        return is_there(self.nodes, node, time)

    def visible(self, node: Node, time: float) -> str:
        """Where an object is found.

        Raises:
            ValueError: It has no field, is hidden, or isn't there at ``time`` (seconds).
        """
        why = "" if self.is_there(node, time) else f"it isn't there at {time:g} s"
        why = "it is hidden" if self.is_hidden(node) else why
        why = why if node.field is not None else f"it is {a_(node.what())}"
        if why:
            raise ValueError(f"{self.path_to(node.id)}: expected a visible object, but {why}")
        return self.path_to(node.id)

    @property
    def cameras(self) -> list[str]:
        """Paths of the nodes that have a camera."""
        return [self.path_to(n.id) for n in self.in_order() if n.camera is not None]

    def camera(self, path: str) -> tuple[int, Camera]:
        """The id and camera of a node.

        Raises:
            ValueError: It has no camera.
        """
        node = self.nodes[self.id_at(path)]
        if node.camera is None:
            there = f"; there is {', '.join(self.cameras)}" if self.cameras else "; the scene has none"
            raise ValueError(f"{path}: expected a node with a camera, got {a_(node.what())}{there}")
        return node.id, node.camera

    def tagged(self, tag: str) -> list[str]:
        """Paths of all visible nodes that have a tag or hang under one that has it, in the order of making."""
        chosen: set[int] = set()
        for node in self.in_order():
            if tag in node.tags and not self.is_hidden(node):
                chosen.update(i for i in self.subtree(node.id) if not self.is_hidden(self.nodes[i]))
        return [self.path_to(i) for i in sorted(chosen)]

    @property
    def fields(self) -> list[Field]:
        """All distinct fields, in the order of the nodes."""
        return list({id(n.field): n.field for n in self.in_order() if n.field is not None}.values())

    @property
    def span(self) -> tuple[float, float]:
        """First and last time (seconds) at which something changes; both 0 in a scene at rest."""
        times = []
        for node in self.nodes.values():
            if node.moves:
                times += [attachment.start for attachment in node.attachments[1:]]
                times += [
                    float(t)
                    for attachment in node.attachments
                    if attachment.track.moves
                    for t in attachment.track.times[[0, -1]]
                ]
            times += ends_of(node.spans)
            if node.field is not None and node.field.deforms and (span := node.field.span) is not None:
                times += node.clock.times(span) or ()
        return min(times, default=0.0), max(times, default=0.0)

    def equals(self, other: Records) -> bool:
        """Equal nodes at equal paths in the same order, with equal tracks, fields (by content), lights, cameras."""
        mine, theirs = self.in_order(), other.in_order()
        if len(mine) != len(theirs):
            return False
        hashes = {field: content_name(field) for field in {*self.fields, *other.fields}}

        def same_field(a: Field | None, b: Field | None) -> bool:
            return a is b or (a is not None and b is not None and hashes[a] == hashes[b])

        partner = {a.id: b.id for a, b in zip(mine, theirs, strict=True)} | {ROOT: ROOT}
        return all(
            a.same_as(b, same_field) and [partner[h.parent] for h in a.attachments] == [h.parent for h in b.attachments]
            for a, b in zip(mine, theirs, strict=True)
        )

    def _suggestion(self, path: str) -> str:
        names = path.strip("/").split("/")
        i, known = ROOT, []
        for name in names:
            here = self.children[i]
            if name in here:
                known.append(name)
                i = here[name]
                continue
            close = difflib.get_close_matches(name, here, n=1, cutoff=0.5)
            if close:
                return f"; did you mean {'/'.join([*known, close[0]])!r}?"
            break
        same = [n for n in self.nodes.values() if n.name == names[-1]]
        if same:
            return f"; did you mean {self.path_to(same[0].id)!r}?"
        where = f"in {'/'.join(known)!r}" if known else "at the top"
        there = list(self.children[i])
        listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
        return f"; {where} there is {listed or 'nothing'}"

    # -- exchanging ----------------------------------------------------------------------------------------------------

    def exchange(self, changes: Mapping[int, Node | None]) -> Changes:
        """Puts records in the place of others and brings the indices along; returns what stood there. See `check`.

        All old entries go before new ones come, so that names may be swapped.
        """
        before = {i: self.nodes.get(i) for i in changes}
        for i, node in before.items():
            if node is not None:
                del self.children[node.parent][node.name]
                after = changes[i]
                kept = {h.parent for h in after.attachments} if after is not None else set()
                for parent in {h.parent for h in node.attachments} - kept:
                    self.tree.remove_edge(parent, i)
        for i, node in changes.items():
            if node is None:
                self.nodes.pop(i, None)
                self.children.pop(i, None)
                if i in self.tree:
                    self.tree.remove_node(i)
            else:
                self.nodes[i] = node
                self.children.setdefault(i, {})
        for i, node in changes.items():
            if node is not None:
                self.children[node.parent][node.name] = i
                for attachment in node.attachments:
                    self.tree.add_edge(attachment.parent, i)
        self.next_id = max(self.next_id, max(changes, default=0) + 1)
        for observer in self.observers:
            observer(before, dict(changes))
        return before

    def check(self, changes: Mapping[int, Node | None]) -> None:
        """Whether records may be exchanged: what comes of it must be a sound scene again.

        Raises:
            ValueError: A record or tree that makes no sense.
        """

        def after(i: int) -> Node | None:
            return changes[i] if i in changes else self.nodes.get(i)

        taken: set[tuple[int, str]] = set()
        for i, node in changes.items():
            if node is None:
                for child in map(after, self.tree.succ[i] if i in self.tree else ()):
                    if child is not None and any(attachment.parent == i for attachment in child.attachments):
                        raise ValueError(f"node {i} goes, but carries others that stay")
                continue
            if i == ROOT or i != node.id:
                raise ValueError(f"expected node ids above {ROOT}, got {i}")
            _check_record(node)
            for attachment in node.attachments:
                if attachment.parent != ROOT and after(attachment.parent) is None:
                    raise ValueError(f"{node.name}: hangs under node {attachment.parent}, which isn't there")
            there = self.children.get(node.parent, {}).get(node.name)
            if (node.parent, node.name) in taken or (there is not None and there not in changes):
                raise ValueError(f"{node.name}: this name is used twice in one place")
            taken.add((node.parent, node.name))
        self._check_tree([i for i, node in changes.items() if node is not None], after)

    def _check_tree(self, ids: list[int], after: Callable[[int], Node | None]) -> None:
        """Follows nodes to the top by every way: no cycle, not too deep, no scale out of range."""
        size = {ROOT: 1.0}
        depth = {ROOT: 0}  # of all nodes that were followed to the top by every way
        for i in ids:
            chain, open_ = [i], {i}
            while chain:
                node = after(chain[-1]) if chain[-1] != ROOT else None
                above = [] if node is None else [h.parent for h in node.attachments if h.parent not in depth]
                if node is None or not above:
                    open_.discard(chain.pop())
                    if node is not None:
                        size[node.id] = checked_scale(
                            size[node.parent] * node.scale, f"{node.name}: scale in the world"
                        )
                        depth[node.id] = depth[node.parent] + 1
                        old = self.nodes.get(node.id)
                        below = self._height(node.id) - 1 if old is not None and old.parent != node.parent else 0
                        if depth[node.id] + below > MAX_DEPTH:
                            raise ValueError(f"expected at most {MAX_DEPTH} levels, got {depth[node.id] + below}")
                elif above[0] in open_:
                    raise ValueError(f"{node.name}: hangs under itself")
                else:
                    chain.append(above[0])
                    open_.add(above[0])

    def _height(self, top: int) -> int:
        """Levels from a node down, itself counted."""
        level, n = [top], 1
        while level := [c for i in level for c in self.children[i].values()]:
            n += 1
        return n


def _check_record(node: Node) -> None:
    check_name(node.name)
    word_set(node.tags)
    checked_spans(node.spans, f"{node.name}: spans")
    starts = [attachment.start for attachment in node.attachments]
    if not starts or starts[0] != -math.inf or any(not a < b < math.inf for a, b in pairwise(starts)):
        raise ValueError(f"{node.name}: expected holds one after the other, the first without a start, got {starts}")
    for attachment in node.attachments:
        checked_scale(attachment.scale, f"{node.name}: scale")
        if not isinstance(attachment.track, Track):
            raise ValueError(f"{node.name}: expected a Track, got {type(attachment.track).__name__}")
