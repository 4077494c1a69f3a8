"""The scene graph: what is in a scene, where it stands over time, and every edit with its undo.

Nodes are found by path (``table/tray/mug``). A node hangs under one other at a time, and may be handed from one to another: a cup
that is put on a tray rides along from then. A node is a group, an object (it has a field), a light, a camera, or several of
these; every node may have children.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count

from objects.field import Field
from objects.files import field_hash
from objects.pose import SE3
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight
from scenes.node import ROOT, Hold, Node, checked_scale
from scenes.places import Places
from scenes.store import Changes, a_, check_name, one_pose, quoted, shown, word_set
from scenes.track import Sim3, Track, number


class SceneGraph(Places):
    """A scene that changes: over time by its tracks, and by edits, all of which can be undone.

    Edits raise ``ValueError`` and change nothing where a path is unknown (the nearest is suggested), a name is taken, or a value
    makes no sense. Lengths are in metres, angles in degrees. ``frame`` says in whose axes an edit is meant: the ``world``'s,
    the ``parent``'s, or the node's ``own``.

    Edits of pose take ``time``: without it the whole track is changed (of a node that changed hands, the last part); with it, a
    key is set at that time. Fields are taken as they are when they are first shown; after training one in place, say `replace`
    with it.
    """

    # -- edits: nodes --------------------------------------------------------------------------------------------------

    def add(
        self,
        path: str,
        field: Field | None = None,
        *,
        pose: SE3 | None = None,
        track: Track | None = None,
        scale: float = 1.0,
        light: Light | None = None,
        camera: Camera | None = None,
        lit: bool = True,
        tags: Iterable[str] = (),
    ) -> str:
        """Adds a node: an object if it has a ``field``, a light, a camera, or a plain group. Its parent must be there.

        Args:
            path: Where; the last name is its own.
            field: Its shape, shared with other nodes at will.
            pose: In the parent's frame; the identity by default. Or give a ``track`` over time.
            scale: Uniform, of its shape and of all that will hang under it.
            light: In the node's frame.
            camera: Its ``T_world_cam`` is read as camera to node.
            lit: Whether lights act on the field; false for colours that hold their light already.
            tags: Words to select it by.

        Returns:
            The path.
        """
        if pose is not None and track is not None:
            raise ValueError(f"add {path}: expected a pose or a track, got both")
        if field is not None and not isinstance(field, Field):
            raise ValueError(f"add {path}: field must be a Field, got {type(field).__name__}")
        if light is not None and not isinstance(light, AmbientLight | DirectionalLight | PointLight):
            raise ValueError(f"add {path}: light must be a Light, got {type(light).__name__}")
        if camera is not None and not isinstance(camera, Camera):
            raise ValueError(f"add {path}: camera must be a Camera, got {type(camera).__name__}")
        if track is not None and not isinstance(track, Track):
            raise ValueError(f"add {path}: track must be a Track, got {type(track).__name__}")
        parent, name = self._new_place(path)
        track = track or Track.constant(one_pose(pose, f"add {path}") if pose is not None else Sim3())
        hold = Hold(-math.inf, parent, track, checked_scale(scale, f"add {path}: scale"))
        node = Node(self._next_id, name, (hold,), field, light, camera, bool(lit), tags=word_set(tags))
        self._next_id += 1
        self._commit(f"add {quoted(path)} ({node.what()})", {node.id: node})
        return self.path_of(node)

    def remove(self, path: str) -> None:
        """Removes a node and all beneath it.

        Raises:
            ValueError: Something that stays had been carried by it at an earlier time.
        """
        gone = self._subtree(self._id(path, root=False))
        inside = set(gone)
        for i in gone:
            for other in self._tree.succ[i]:
                if other not in inside:
                    carrier, carried = self.path_of(self._nodes[i]), self.path_of(self._nodes[other])
                    raise ValueError(
                        f"{path}: {carrier} carries {carried} for a while; remove that first, or reparent it for good"
                    )
        self._commit(f"remove {quoted(path)}", dict.fromkeys(gone))

    def replace(self, path: str, field: Field) -> None:
        """Gives a node another field; its place, name and children stay."""
        if not isinstance(field, Field):
            raise ValueError(f"replace {path}: expected a Field, got {type(field).__name__}")
        node = self._nodes[self._id(path, root=False)]
        self._view.take_anew(field)
        self._commit(
            f"replace {quoted(path)} with {field.kind or type(field).__name__}", {node.id: replace(node, field=field)}
        )

    def duplicate(self, path: str, new_path: str) -> str:
        """Copies a node and all beneath it to a new path, standing where the first one stands; weights are shared."""
        source = self._id(path, root=False)
        parent, name = self._new_place(new_path)
        if parent in (inside := self._subtree(source)):
            raise ValueError(f"duplicate {path}: cannot put a copy of it inside itself ({new_path})")
        new_id = dict(zip(inside, count(self._next_id)))
        self._next_id += len(inside)
        changes: Changes = {}
        for i, new in new_id.items():
            node = self._nodes[i]
            holds = tuple(replace(h, parent=new_id.get(h.parent, h.parent)) for h in node.holds)
            changes[new] = replace(node, id=new, holds=holds)
        top = self._nodes[source]
        holds = top.holds if parent == top.parent else (*top.holds[:-1], self._handed_over(top.holds[-1], parent))
        changes[new_id[source]] = replace(top, id=new_id[source], name=name, holds=holds)
        self._commit(f"duplicate {quoted(path)} as {quoted(new_path)}", changes)
        return new_path

    def rename(self, path: str, name: str) -> str:
        """Gives a node another name. Returns its new path."""
        node = self._nodes[self._id(path, root=False)]
        check_name(name)
        self._check_free(node.parent, name, allowed=node.id)
        self._commit(f"rename {quoted(path)} to {quoted(name)}", {node.id: replace(node, name=name)})
        return self.path_of(self._nodes[node.id])

    def group(self, path: str, members: Sequence[str]) -> str:
        """Makes a new group and hangs ``members`` under it; they stay where they stand."""
        parent, name = self._new_place(path)
        members = [members] if isinstance(members, str) else list(members)
        ids = [self._id(member, root=False) for member in members]
        if len(set(ids)) != len(ids):
            raise ValueError(f"group {path}: a member was named twice")
        new = Node(self._next_id, name, (Hold(-math.inf, parent, Track.constant(Sim3())),))
        changes: Changes = {new.id: new}
        taken: dict[str, str] = {}
        for i, member in zip(ids, members, strict=True):
            node = self._nodes[i]
            if i in self._above(parent):
                raise ValueError(f"group {path}: {member} would have to hang under itself")
            if node.name in taken:
                raise ValueError(f"group {path}: {member} and {taken[node.name]} have the same name; rename one first")
            taken[node.name] = member
            last = self._handed_over(node.holds[-1], parent)  # the new group stands where its parent does
            changes[i] = replace(node, holds=(*node.holds[:-1], replace(last, parent=new.id)))
        self._next_id += 1
        self._commit(f"group {' '.join(map(quoted, members))} as {quoted(path)}", changes)
        return path

    def ungroup(self, path: str) -> None:
        """Removes a plain group; what hung under it goes to its parent and stays where it stands.

        Raises:
            ValueError: The node has a field, a light or a camera, carries something for a part of the time, or a name is taken.
        """
        node = self._nodes[self._id(path, root=False)]
        if node.what() != "group":
            raise ValueError(
                f"ungroup {path}: expected a plain group, got {a_(node.what())}; move its children by reparent"
            )
        changes: Changes = {node.id: None}
        siblings = self._children[node.parent]
        for i in self._tree.succ[node.id]:
            child = self._nodes[i]
            if any(hold.parent == node.id for hold in child.holds[:-1]):
                raise ValueError(
                    f"ungroup {path}: it carries {self.path_of(child)} for a part of the time; reparent that without a time first"
                )
            if siblings.get(child.name, node.id) != node.id:
                raise ValueError(f"ungroup {path}: {child.name!r} is already there in its parent; rename one first")
            last = self._handed_over(child.holds[-1], node.parent)
            changes[i] = replace(child, holds=(*child.holds[:-1], last))
        self._commit(f"ungroup {quoted(path)}", changes)

    def reparent(self, path: str, parent: str | None, *, start: float | None = None, time: float = 0.0) -> str:
        """Hangs a node under another one (None or ``/``: at the top); it stays where it stands in the world.

        Without ``start`` this holds for all times (and what had carried it before is forgotten): the pose in the world is
        kept at ``time``, and at all times unless the old or the new parent moves. With ``start`` (seconds), nothing changes before;
        from then on the node follows its new parent. Its own track goes on in the new frame.

        Returns:
            The new path.

        Raises:
            ValueError: The new parent hangs under the node itself at some time, or ``start`` is not after the last change of hands.
        """
        parent = "/" if parent is None else parent
        node, target = self._nodes[self._id(path, root=False)], self._id(parent)
        if node.id in self._above(target):
            raise ValueError(
                f"reparent {path}: {parent} hangs under it at some time; a node can't carry what carries it"
            )
        self._check_free(target, node.name, allowed=node.id)
        if start is not None:
            start = number(start, f"reparent {path}: start")
            if start <= node.holds[-1].start:
                raise ValueError(
                    f"reparent {path}: start must come after {node.holds[-1].start:g} s, when it last changed hands, got {start:g}"
                )
        at = number(time, "time") if start is None else start
        hold = self._handed_over(node.holds[node.hold_number(at)], target, at)
        kept = () if start is None else node.holds
        changed = replace(node, holds=(*kept, replace(hold, start=-math.inf if start is None else start)))
        text = f"reparent {quoted(path)} to {quoted(parent.strip('/') or '/')}"
        self._commit(text + ("" if start is None else f" from {shown(start)}"), {node.id: changed})
        return self.path_of(self._nodes[node.id])

    def include(self, other: SceneGraph, at: str) -> str:
        """Adds a copy of another scene under a new group. Equal fields are kept once; the other scene stays as it is."""
        if not isinstance(other, SceneGraph):
            raise ValueError(f"include: expected a SceneGraph, got {type(other).__name__}")
        parent, name = self._new_place(at)
        known = {field_hash(field): field for field in self.fields}
        ours = {id(field): known.setdefault(field_hash(field), field) for field in other.fields}
        top = Node(self._next_id, name, (Hold(-math.inf, parent, Track.constant(Sim3())),))
        new_id = {ROOT: top.id} | {node.id: top.id + 1 + k for k, node in enumerate(other._sorted())}
        changes: Changes = {top.id: top}
        for node in other._sorted():
            holds = tuple(replace(h, parent=new_id[h.parent]) for h in node.holds)
            field = None if node.field is None else ours[id(node.field)]
            changes[new_id[node.id]] = replace(node, id=new_id[node.id], holds=holds, field=field)
        self._next_id += len(new_id)
        self._commit(f"include {len(other)} nodes at {quoted(at)}", changes)
        return at

    def hide(self, path: str) -> None:
        """Leaves a node and all beneath it out of pictures, light and questions."""
        self._set(path, f"hide {quoted(path)}", hidden=True)

    def show(self, path: str) -> None:
        """Takes back `hide`."""
        self._set(path, f"show {quoted(path)}", hidden=False)

    def set_lit(self, path: str, lit: bool) -> None:
        """Whether lights act on the node's field."""
        if not isinstance(lit, bool):
            raise ValueError(f"set_lit {path}: expected True or False, got {lit!r}")
        self._set(path, f"lit {quoted(path)} {'on' if lit else 'off'}", lit=lit)

    def set_light(self, path: str, light: Light | None) -> None:
        """Gives a node another light, or none."""
        if light is not None and not isinstance(light, AmbientLight | DirectionalLight | PointLight):
            raise ValueError(f"set_light {path}: expected a Light, got {type(light).__name__}")
        self._set(path, f"light {quoted(path)}", light=light)

    def set_camera(self, path: str, camera: Camera | None) -> None:
        """Gives a node another camera (its ``T_world_cam`` is read as camera to node), or none."""
        if camera is not None and not isinstance(camera, Camera):
            raise ValueError(f"set_camera {path}: expected a Camera, got {type(camera).__name__}")
        self._set(path, f"camera {quoted(path)}", camera=camera)

    def tag(self, path: str, *tags: str) -> None:
        """Adds words to select a node by."""
        new = word_set([*self[path].tags, *tags])
        self._set(path, f"tag {quoted(path)} with {' '.join(map(quoted, tags))}", tags=new)

    def untag(self, path: str, *tags: str) -> None:
        """Takes words away."""
        if missing := [t for t in tags if t not in self[path].tags]:
            raise ValueError(f"untag {path}: it has no tag {missing[0]!r}, but {', '.join(self[path].tags) or 'none'}")
        left = tuple(t for t in self[path].tags if t not in tags)
        self._set(path, f"untag {quoted(path)} of {' '.join(map(quoted, tags))}", tags=left)
