"""The scene graph: what is in a scene, where it stands over time, and every edit with its undo.

Nodes are found by path (``table/tray/mug``). A node hangs under one other at a time, and may be handed from one to another: a cup
that is put on a tray rides along from then. A node is a group, an object (it has a field), a light, a camera, or several of
these; every node may have children.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from compose.composite import Composite
from objects.aabb import Aabb
from objects.field import Field
from objects.pose import SE3
from rendering.camera import Camera
from rendering.lights import Light
from scenes import edits, poses
from scenes.history import Change, Checkpoint, History
from scenes.locking import one_at_a_time
from scenes.node import ROOT, Node, camera_in_world, light_in_world, quoted, shown, word_set
from scenes.node_view import NodeView
from scenes.presence import checked_spans
from scenes.records import Records
from scenes.scene_questions import Point, SceneQuestions
from scenes.scene_view import SceneView
from scenes.timeline import Timeline
from scenes.track import Track, Vec, number, vector


@one_at_a_time
class SceneGraph(SceneQuestions):
    """A scene that changes: over time by its tracks, and by edits, all of which can be undone.

    Edits raise ``ValueError`` and change nothing where a path is unknown (the nearest is suggested), a name is taken, or a value
    makes no sense; one that changes nothing is no step of the history. Lengths are in metres, angles in degrees. ``frame`` says in
    whose axes an edit is meant: the ``world``'s, the ``parent``'s, or the node's ``own``. Questions are asked at a time (seconds);
    nodes that are hidden or not there then don't take part.

    Edits of pose take ``time``: without it the whole track is changed (of a node that changed hands, the last part); with it, a
    key is set at that time. Fields are taken as they are when they are first shown; after training one in place, say `replace`
    with it.

    Several threads may use one scene: each call is whole. What takes several calls is put into ``with scene.lock:``.
    """

    lock: threading.RLock

    def __init__(self) -> None:
        self._records = Records()
        self._timeline = Timeline(self._records)
        self._view = SceneView(self._timeline)
        self._history = History(self._records)

    # -- what is there -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Nodes of all kinds."""
        return len(self._records.nodes) - 1

    def __contains__(self, path: str) -> bool:
        return isinstance(path, str) and self._records.find(path) is not None

    def __getitem__(self, path: str) -> NodeView:
        """The node at a path: name, field, pose, tags and so on, read-only.

        Raises:
            UnknownPathError: No such node, a ``ValueError`` and a ``KeyError``; the nearest path is named.
        """
        return NodeView(self._timeline, self._records.id_at(path))

    def __iter__(self) -> Iterator[str]:
        """All paths, parents before children, siblings in the order in which they were made."""
        return (path for path, _ in self._records.walk())

    def __eq__(self, other: object) -> bool:
        """Equal nodes at equal paths in the same order, with equal tracks, fields (by content), lights, cameras; log aside."""
        return self._records.equals(other._records) if isinstance(other, SceneGraph) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def records(self) -> dict[str, Node]:
        """The record of every node by its path, in the order of the paths: what exporters write.

        Records are frozen: id, name, field, light, camera, and ``attachments``: which node (by id, 0 at the top) carries it from
        when on, with its track and scale there. The last one's parent is the one in the path.
        """
        return {path: self._records.nodes[i] for path, i in self._records.walk()}

    def children(self, path: str = "/") -> list[str]:
        """Paths of the nodes right beneath; ``/`` for those at the top."""
        i = self._records.id_at(path)
        prefix = f"{path.strip('/')}/" if i != ROOT else ""
        return [prefix + name for name, _ in self._records.beneath(i)]

    def path_of(self, node: Node | NodeView) -> str:
        """Where a node is found."""
        return self._records.path_to((node.record if isinstance(node, NodeView) else node).id)

    def pose(self, path: str, time: float = 0.0) -> tuple[SE3, float]:
        """World pose and world scale of a node: ``p_world = pose @ (scale * p_node)``."""
        world = self._timeline.world(self._records.id_at(path), number(time, "time"))
        return world.pose(), world.scale

    @property
    def span(self) -> tuple[float, float]:
        """First and last time (seconds) at which something changes; both 0 in a scene at rest."""
        return self._records.span

    @property
    def fields(self) -> list[Field]:
        """All distinct fields, in the order of the nodes."""
        return self._records.fields

    # -- the scene at one time -----------------------------------------------------------------------------------------

    def at(self, time: float = 0.0) -> Composite:
        """All visible objects at ``time`` (seconds), ready to be rendered and asked; instances are named by their paths.

        What did not change since the last call is shared with its result.
        """
        return self._view.at(number(time, "time"))

    def lights_at(self, time: float = 0.0) -> tuple[Light, ...]:
        """All visible lights, in the world, at ``time``."""
        time = number(time, "time")
        lights = [n for n in self._records.in_order() if n.light is not None and not self._records.is_hidden(n)]
        found = [n for n in lights if self._records.is_there(n, time)]
        return tuple(light_in_world(n.light, self._timeline.world(n.id, time)) for n in found if n.light is not None)

    @property
    def cameras(self) -> list[str]:
        """Paths of the nodes that have a camera."""
        return self._records.cameras

    def camera_at(self, path: str, time: float = 0.0) -> Camera:
        """The camera of a node, in the world, at ``time``.

        Raises:
            ValueError: The node has no camera.
        """
        i, camera = self._records.camera(path)
        return camera_in_world(camera, self._timeline.world(i, number(time, "time")))

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
        self._history.commit(*edits.add(self._records, path, field, pose, track, scale, light, camera, lit, tags))
        return path.strip("/")

    def remove(self, path: str) -> None:
        """Removes a node and all beneath it.

        Raises:
            ValueError: Something that stays had been carried by it at an earlier time.
        """
        self._history.commit(*edits.remove(self._records, path))

    def replace(self, path: str, field: Field) -> None:
        """Gives a node another field; its place, name and children stay."""
        if not isinstance(field, Field):
            raise ValueError(f"replace {path}: expected a Field, got {type(field).__name__}")
        text = f"replace {quoted(path)} with {field.kind or type(field).__name__}"
        draft = edits.put_in(self._records, path, text, field=field)
        self._view.refresh(field)
        self._history.commit(*draft, always=True)  # its weights may be others

    def duplicate(self, path: str, new_path: str) -> str:
        """Copies a node and all beneath it to a new path, standing where the first one stands; weights are shared."""
        self._history.commit(*edits.duplicate(self._timeline, path, new_path))
        return new_path

    def rename(self, path: str, name: str) -> str:
        """Gives a node another name. Returns its new path."""
        return self._found_after(path, edits.rename(self._records, path, name))

    def group(self, path: str, members: Sequence[str]) -> str:
        """Makes a new group and hangs ``members`` under it; they stay where they stand."""
        self._history.commit(*edits.group(self._timeline, path, members))
        return path

    def ungroup(self, path: str) -> None:
        """Removes a plain group; what hung under it goes to its parent and stays where it stands.

        Raises:
            ValueError: The node has a field, a light or a camera, carries something for a part of the time, or a name is taken.
        """
        self._history.commit(*edits.ungroup(self._timeline, path))

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
        draft = edits.reparent(self._timeline, path, "/" if parent is None else parent, start, time)
        return self._found_after(path, draft)

    def include(self, other: SceneGraph, at: str) -> str:
        """Adds a copy of another scene under a new group. Equal fields are kept once; the other scene stays as it is."""
        if not isinstance(other, SceneGraph):
            raise ValueError(f"include: expected a SceneGraph, got {type(other).__name__}")
        self._history.commit(*edits.include(self._records, other._records, at))
        return at

    def hide(self, path: str) -> None:
        """Leaves a node and all beneath it out of pictures, light and questions."""
        self._set(path, f"hide {quoted(path)}", hidden=True)

    def show(self, path: str) -> None:
        """Takes back `hide`."""
        self._set(path, f"show {quoted(path)}", hidden=False)

    def limit(self, path: str, spans: Iterable[Sequence[float]]) -> None:
        """Says when a node is there: in stretches of time (pairs of seconds, both included) one after the other; none for always.

        At other times it, and what it carries then, is left out of pictures, light and questions. The first may begin at
        ``-inf``, the last end at ``inf``.
        """
        new = checked_spans(spans, f"limit {path}")
        text = f"limit {quoted(path)} to {' '.join(shown(t) for span in new for t in span) or 'always'}"
        self._set(path, text, spans=new)

    def set_lit(self, path: str, lit: bool) -> None:
        """Whether lights act on the node's field."""
        if not isinstance(lit, bool):
            raise ValueError(f"set_lit {path}: expected True or False, got {lit!r}")
        self._set(path, f"lit {quoted(path)} {'on' if lit else 'off'}", lit=lit)

    def set_light(self, path: str, light: Light | None) -> None:
        """Gives a node another light, or none."""
        edits.check_kinds(f"set_light {path}", light=light)
        self._set(path, f"light {quoted(path)}", light=light)

    def set_camera(self, path: str, camera: Camera | None) -> None:
        """Gives a node another camera (its ``T_world_cam`` is read as camera to node), or none."""
        edits.check_kinds(f"set_camera {path}", camera=camera)
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

    # -- edits: poses --------------------------------------------------------------------------------------------------

    def move(
        self,
        path: str,
        *,
        by: Point | None = None,
        to: Point | None = None,
        frame: poses.Axes = "world",
        time: float | None = None,
    ) -> None:
        """Shifts a node ``by`` metres, or puts its origin ``to`` a point. What hangs under it comes along."""
        self._history.commit(*poses.move(self._timeline, path, by, to, frame, time))

    def rotate(
        self,
        path: str,
        axis: Point | Literal["x", "y", "z"],
        degrees: float,
        *,
        about: Point | None = None,
        frame: poses.Axes = "world",
        time: float | None = None,
    ) -> None:
        """Turns a node by ``degrees`` around ``axis`` (right-handed), in place or ``about`` a world point."""
        self._history.commit(*poses.rotate(self._timeline, path, axis, degrees, about, frame, time))

    def place(
        self, path: str, pose: SE3, *, frame: Literal["world", "parent"] = "world", time: float | None = None
    ) -> None:
        """Puts a node at a pose: for good (its track ends), or as a key at ``time``."""
        self._history.commit(*poses.place(self._timeline, path, pose, frame, time))

    def animate(self, path: str, track: Track) -> None:
        """Gives a node another track, in its parent's frame."""
        self._history.commit(*poses.animate(self._records, path, track))

    def scale(self, path: str, factor: float) -> None:
        """Makes a node and all beneath it ``factor`` times as large, about its own origin."""
        self._history.commit(*poses.scale(self._records, path, factor))

    def retime(self, path: str, *, shift: float = 0.0, factor: float = 1.0) -> None:
        """Moves what a node and all beneath it do in time, bending too: from ``t`` to ``factor * t + shift`` (seconds)."""
        self._history.commit(*poses.retime(self._records, path, shift, factor))

    def set_clock(
        self, path: str, *, offset: float | None = None, speed: float | None = None, loop: bool | None = None
    ) -> None:
        """Sets when in the span of its field a node is that bends: at ``speed * time + offset`` (seconds), clamped to the span or
        looped. What is None stays. A speed of 0 is a pause."""
        self._history.commit(*poses.set_clock(self._records, path, offset, speed, loop))

    def drop(
        self, path: str, onto: str | None = None, *, direction: Point = (0.0, 0.0, -1.0), time: float | None = None
    ) -> float:
        """Moves a node and all beneath it along a direction until it touches something: what it meets first, or ``onto``.

        It touches to 1e-4 of its own size and overlaps by no more (with exact solids and with learned ones, by their own
        surfaces; plus 1e-6 of the size of what it meets). It is moved and not turned: it may stand on an edge.

        Args:
            onto: An object: it alone counts (of a group, all beneath it), and what is in between is passed. By default all others
                count.
            direction: In the world.
            time: As for `move`; where things stand then decides.

        Returns:
            How far it went, metres.

        Raises:
            ValueError: Nothing lies that way, it overlaps it already, or at its new place it would overlap something else.
        """
        scene = self.at(poses.decisive_time(self._timeline, path, time))
        text, by = poses.fall(self._records, scene, path, onto, direction)
        self._history.commit(*poses.shift(self._timeline, path, text, by.tolist(), time))
        return float(np.linalg.norm(by))

    def place_free(
        self,
        path: str,
        *,
        near: Point | None = None,
        on: str | None = None,
        region: Aabb | None = None,
        gap: float = 0.0,
        seed: int = 0,
        time: float | None = None,
    ) -> Vec:
        """Puts a node, with all beneath it, where it overlaps nothing, near a wanted place; it is moved and not turned.

        Places beside the wanted one are tried, the nearest first (600, in a spiral): at the same height, or, with ``on``, each
        laid onto that node from above (see `drop`) with the middle of the thing above it.

        Args:
            near: Where its origin should be (world, metres); where it is by default.
            on: An object (or a group) to lay it on; its height then follows.
            region: A world box in which its surface must lie.
            gap: Least distance to all others but ``on`` (metres).
            seed: In which direction the search begins.
            time: As for `move`; where things stand then decides.

        Returns:
            Where its origin is now, world.

        Raises:
            ValueError: No free place was found.
        """
        ref = poses.decisive_time(self._timeline, path, time)
        origin = np.array(self._timeline.world(self._records.id_at(path), ref).trans)
        text, by = poses.free_place(self._records, self.at(ref), path, origin, near, on, region, gap, seed)
        self._history.commit(*poses.shift(self._timeline, path, text, by.tolist(), time))
        return vector((origin + by).tolist(), "place_free")

    # -- history -------------------------------------------------------------------------------------------------------

    @property
    def log(self) -> list[str]:
        """A line for each edit, undo and redo; more may be appended."""
        return self._history.log

    @property
    def history(self) -> tuple[list[str], list[str]]:
        """What can be undone (newest last) and redone (next last)."""
        return [e.text for e in self._history.to_undo], [e.text for e in self._history.to_redo]

    def undo(self, steps: int = 1) -> None:
        """Takes back the last edits.

        Raises:
            ValueError: There are not so many.
        """
        self._history.undo(steps)

    def redo(self, steps: int = 1) -> None:
        """Makes undone edits again.

        Raises:
            ValueError: There are not so many.
        """
        self._history.redo(steps)

    def checkpoint(self) -> Checkpoint:
        """All there is, for `go_back`: records, edits to undo and redo, log."""
        return self._history.checkpoint()

    def go_back(self, checkpoint: Checkpoint) -> None:
        """Makes the scene, its history and its log what they were at a `checkpoint`."""
        self._history.go_back(checkpoint)

    def forget_history(self) -> None:
        """From here on nothing before can be undone; the log is emptied, too."""
        self._history.forget()

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Has ``callback`` told of each `Change` of records, after each edit, undone and redone step, and `go_back`.

        Callbacks are called in the order of subscribing, when the change is made. They may read the scene, and even edit it; that
        edit is told after this change. Where one raises, the change stays made and the others are told, then the edit raises
        ``RuntimeError``.

        Returns:
            A function that ends it.
        """
        return self._history.subscribe(callback)

    def _set(self, path: str, text: str, **values: Any) -> None:
        self._history.commit(*edits.put_in(self._records, path, text, **values))

    def _found_after(self, path: str, draft: edits.Draft) -> str:
        """Where the node at ``path`` is found once an edit is made."""
        node = self._records.node_at(path)
        self._history.commit(*draft)
        return self._records.path_to(node.id)
