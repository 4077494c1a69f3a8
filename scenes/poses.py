"""Edits of where things stand: shifts, turns, whole poses, tracks, falls and free places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from compose.composite import Composite
from objects.aabb import Aabb
from objects.pose import SE3
from scenes.node import Hold, Node, checked_scale
from scenes.questions import Questions
from scenes.store import Changes, one_pose, quoted, shown
from scenes.track import Quat, Sim3, Track, Vec, number, quat_multiply, unit_quat, vector

Frame_ = Literal["world", "parent", "own"]


class Places(Questions):
    """The edits of `SceneGraph` that move things and leave the tree as it is."""

    def move(
        self,
        path: str,
        *,
        by: Sequence[float] | None = None,
        to: Sequence[float] | None = None,
        frame: Frame_ = "world",
        time: float | None = None,
    ) -> None:
        """Shifts a node ``by`` metres, or puts its origin ``to`` a point. What hangs under it comes along."""
        target = to if by is None else by
        if target is None or (by is not None and to is not None):
            raise ValueError(f"move {path}: expected by= or to=, got {'neither' if target is None else 'both'}")
        given = vector(target, f"move {path}: {'by' if to is None else 'to'}")
        node, k, ref, above = self._place(path, time, frame)
        quat, trans = node.holds[k].track.at(ref)
        if to is None:
            turn = {"world": above.inverse(), "parent": Sim3(), "own": Sim3(quat)}[frame]
            dx, dy, dz = turn._replace(trans=(0.0, 0.0, 0.0)).apply(given)
            new = (trans[0] + dx, trans[1] + dy, trans[2] + dz)
        elif frame == "own":
            raise ValueError(f"move {path}: to= needs the frame world or parent")
        else:
            new = above.inverse().apply(given) if frame == "world" else given
        shift = Sim3(trans=(new[0] - trans[0], new[1] - trans[1], new[2] - trans[2]))
        text = f"move {quoted(path)} {'by' if to is None else 'to'} {' '.join(map(shown, given))}"
        self._set_place(node, k, text, frame, time, (quat, new), lambda track: track.moved_into(shift))

    def rotate(
        self,
        path: str,
        axis: Sequence[float] | Literal["x", "y", "z"],
        degrees: float,
        *,
        about: Sequence[float] | None = None,
        frame: Frame_ = "world",
        time: float | None = None,
    ) -> None:
        """Turns a node by ``degrees`` around ``axis`` (right-handed), in place or ``about`` a world point."""
        named = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
        ax, ay, az = vector(named.get(axis, ()) if isinstance(axis, str) else axis, f"rotate {path}: axis")
        degrees = number(degrees, f"rotate {path}: degrees")
        length, half = math.hypot(ax, ay, az), 0.5 * math.radians(degrees)
        if length < 1e-12:
            raise ValueError(f"rotate {path}: axis must not have zero length")
        s = math.sin(half) / length
        turn: Quat = (math.cos(half), s * ax, s * ay, s * az)
        node, k, ref, above = self._place(path, time, frame)
        quat, trans = node.holds[k].track.at(ref)
        if frame == "own":
            turn = quat_multiply(quat_multiply(quat, turn), (quat[0], -quat[1], -quat[2], -quat[3]))
        elif frame == "world":
            back = above.inverse().quat
            turn = quat_multiply(quat_multiply(back, turn), above.quat)
        point = trans if about is None else above.inverse().apply(vector(about, f"rotate {path}: about"))
        whole = Sim3(trans=point) @ Sim3(turn) @ Sim3(trans=(-point[0], -point[1], -point[2]))
        new = whole @ Sim3(quat, trans)

        def turned(track: Track) -> Track:
            if about is not None or not track.moves:
                return track.moved_into(whole)
            in_place = track.moved_into(Sim3(turn))  # every key turns where it stands
            return Track(track.times, in_place.quats, track.translations, track.interpolation, track.end)

        where = "" if about is None else f" pivot {' '.join(map(shown, about))}"
        text = f"rotate {quoted(path)} by {shown(degrees)} about {shown(ax)} {shown(ay)} {shown(az)}{where}"
        self._set_place(node, k, text, frame, time, (unit_quat(new.quat), new.trans), turned)

    def place(
        self, path: str, pose: SE3, *, frame: Literal["world", "parent"] = "world", time: float | None = None
    ) -> None:
        """Puts a node at a pose: for good (its track ends), or as a key at ``time``."""
        target = one_pose(pose, f"place {path}")
        node, k, _, above = self._place(path, time, frame)
        if frame == "own":
            raise ValueError(f"place {path}: expected the frame world or parent, got own")
        local = above.inverse() @ target if frame == "world" else target
        numbers = " ".join(map(shown, (*target.trans, *target.quat)))
        new = (unit_quat(local.quat), local.trans)
        text = f"place {quoted(path)} at {numbers}"
        self._set_place(node, k, text, frame, time, new, lambda _: Track.constant(Sim3(*new)))

    def animate(self, path: str, track: Track) -> None:
        """Gives a node another track, in its parent's frame."""
        if not isinstance(track, Track):
            raise ValueError(f"animate {path}: expected a Track, got {type(track).__name__}")
        node = self._nodes[self._id(path, root=False)]
        k = len(node.holds) - 1
        text = f"animate {quoted(path)} ({len(track.times)} keys)"
        self._commit(text, {node.id: node.with_hold(k, replace(node.holds[k], track=track))})

    def scale(self, path: str, factor: float) -> None:
        """Makes a node and all beneath it ``factor`` times as large, about its own origin."""
        factor = checked_scale(factor, f"scale {path}")
        node = self._nodes[self._id(path, root=False)]
        holds = tuple(replace(h, scale=checked_scale(h.scale * factor, f"scale {path}")) for h in node.holds)
        self._commit(f"scale {quoted(path)} by {shown(factor)}", {node.id: replace(node, holds=holds)})

    def retime(self, path: str, *, shift: float = 0.0, factor: float = 1.0) -> None:
        """Moves what a node and all beneath it do in time: from ``t`` to ``factor * t + shift`` (seconds)."""
        shift, factor = number(shift, f"retime {path}: shift"), checked_scale(factor, f"retime {path}: factor")
        changes: Changes = {}
        for i in self._subtree(self._id(path, root=False)):
            if (node := self._nodes[i]).moves:
                holds = [
                    replace(h, start=h.start * factor + shift, track=h.track.retimed(shift, factor)) for h in node.holds
                ]
                changes[i] = replace(node, holds=tuple(holds))
        if not changes:
            raise ValueError(f"retime {path}: nothing there moves")
        self._commit(f"retime {quoted(path)} shift {shown(shift)} factor {shown(factor)}", changes)

    def drop(
        self,
        path: str,
        onto: str | None = None,
        *,
        direction: Sequence[float] = (0.0, 0.0, -1.0),
        time: float | None = None,
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
        from scenes.settle import Body, Ground, drop_shift, overlapping  # its libraries take a while to load

        ax, ay, az = vector(direction, f"drop {path}: direction")
        length = math.hypot(ax, ay, az)
        if length < 1e-12:
            raise ValueError(f"drop {path}: direction must not have zero length")
        _, _, ref, _ = self._place(path, time, "world")
        scene = self.at(ref)
        mine, others, below = self._sides(scene, path, onto, "drop")
        try:
            body = Body(scene, mine, "drop")
            ground = Ground(scene, below, np.array([ax, ay, az]) / length)
            shift = drop_shift(body, ground)
            rest = [row for row in others if row not in set(below)]
            for i, j, depth in overlapping(body, rest, shift):
                if depth > body.tolerance:
                    raise ValueError(
                        f"there, {scene._names[i]} would overlap {scene._names[j]}, {1000 * depth:.3g} mm deep"
                    )
        except ValueError as error:
            raise ValueError(f"drop {path}{f' onto {onto}' if onto else ''}: {error}") from None
        text = f"drop {quoted(path)}" + (f" onto {quoted(onto)}" if onto is not None else "")
        if (ax, ay, az) != (0, 0, -1):
            text += f" along {' '.join(map(shown, (ax, ay, az)))}"
        self._shift(path, text, shift.tolist(), time)
        return float(np.linalg.norm(shift))

    def place_free(
        self,
        path: str,
        *,
        near: Sequence[float] | None = None,
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
        from scenes.settle import Body, Ground, find_free

        gap = number(gap, f"place_free {path}: gap")
        if gap < 0 or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"place_free {path}: gap and seed must be 0 or more, got {gap:g} and {seed!r}")
        if region is not None and not isinstance(region, Aabb):
            raise ValueError(f"place_free {path}: region must be an Aabb, got {type(region).__name__}")
        node, _, ref, _ = self._place(path, time, "world")
        scene = self.at(ref)
        mine, others, below = self._sides(scene, path, on, "place_free")
        origin = np.array(self._world(node.id, ref).trans)
        start = np.zeros(3) if near is None else np.array(vector(near, f"place_free {path}: near")) - origin
        ground = None if on is None else Ground(scene, below, np.array([0.0, 0.0, -1.0]))
        try:
            shift = find_free(Body(scene, mine, "place_free"), others, ground, start, region, gap, seed)
        except ValueError as error:
            raise ValueError(f"place_free {path}: {error}") from None
        if shift is None:
            raise ValueError(
                f"place_free {path}: no free place was found; give another near=, a larger region= or a smaller gap="
            )
        text = f"put {quoted(path)}"
        text += "" if near is None else f" near {' '.join(map(shown, near))}"
        text += "" if on is None else f" on {quoted(on)}"
        if region is not None:
            text += " within " + " ".join(map(shown, [*region.lo.tolist(), *region.hi.tolist()]))
        text += f" gap {shown(gap)}" * (gap > 0) + f" seed {seed}" * (seed > 0)
        self._shift(path, text, shift.tolist(), time)
        return vector((origin + shift).tolist(), "place_free")

    # -- places --------------------------------------------------------------------------------------------------------

    def _place(self, path: str, time: float | None, frame: str) -> tuple[Node, int, float, Sim3]:
        """Node, number of the hold that an edit means, reference time, and world pose of what carries it then."""
        if frame not in ("world", "parent", "own"):
            raise ValueError(f"{path}: frame must be world, parent or own, got {frame!r}")
        node = self._nodes[self._id(path, root=False)]
        k = node.hold_number(None if time is None else number(time, f"{path}: time"))
        start = node.holds[k].start
        ref = time if time is not None else (start if math.isfinite(start) else 0.0)
        return node, k, ref, self._world(node.holds[k].parent, ref)

    def _sides(
        self, scene: Composite, path: str, onto: str | None, verb: str
    ) -> tuple[list[int], list[int], list[int]]:
        """Instances beneath a node; all others; and those of them that are ``onto``, or beneath it where that is a group."""

        def beneath(node: str) -> list[int]:
            top = self.path_of(self._nodes[self._id(node)])
            return [i for i, name in enumerate(scene._names) if not top or name == top or name.startswith(top + "/")]

        mine = beneath(path)
        if not mine:
            raise ValueError(f"{verb} {path}: expected a visible object, or a group with one")
        others = sorted(set(range(len(scene))) - set(mine))
        below = others
        if onto is not None:
            carries = [i for i in beneath(onto) if i in set(others)]
            below = [i for i in carries if scene._names[i] == self.path_of(self[onto])] or carries
        if not below and (onto is not None or verb == "drop"):
            raise ValueError(f"{verb} {path}: there is no visible object {f'in {onto}' if onto else 'to land on'}")
        return mine, others, below

    def _shift(self, path: str, text: str, shift: Sequence[float], time: float | None) -> None:
        """Commits a shift in the world, described as ``text``."""
        node, k, ref, above = self._place(path, time, "world")
        quat, trans = node.holds[k].track.at(ref)
        dx, dy, dz = above.inverse()._replace(trans=(0.0, 0.0, 0.0)).apply(vector(shift, "shift"))
        new = (trans[0] + dx, trans[1] + dy, trans[2] + dz)
        local = Sim3(trans=(dx, dy, dz))
        self._set_place(node, k, text, "world", time, (quat, new), lambda track: track.moved_into(local))

    def _set_place(
        self,
        node: Node,
        k: int,
        text: str,
        frame: str,
        time: float | None,
        new: tuple[Quat, Vec],
        change: Callable[[Track], Track],
    ) -> None:
        """Commits a new pose: as a key at ``time``, or by a change of the whole track of hold ``k``."""
        hold = node.holds[k]
        track = change(hold.track) if time is None else hold.track.with_key(number(time, "time"), *new)
        text += f" frame {frame}" if frame != "world" else ""
        text += "" if time is None else f" time {shown(time)}"
        self._commit(text, {node.id: node.with_hold(k, replace(hold, track=track))})

    def _handed_over(self, hold: Hold, parent: int, time: float | None = None) -> Hold:
        """The same place in the world under another parent, at ``time``: when the hold begins by default, or at 0."""
        if time is None:
            time = hold.start if math.isfinite(hold.start) else 0.0
        old, new = self._world(hold.parent, time), self._world(parent, time)
        if new == old:  # nothing to turn: keep the bits
            return replace(hold, parent=parent)
        relative = new.inverse() @ old
        scale = checked_scale(hold.scale * relative.scale, "scale")
        return replace(hold, parent=parent, track=hold.track.moved_into(relative), scale=scale)
