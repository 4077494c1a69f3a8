"""Edits of where things stand: shifts, turns, whole poses, tracks, falls and free places.

Each gives its text for the log and the records to exchange; what they mean is said at the methods of `SceneGraph` that commit them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from compose.composite import Composite
from objects.aabb import Aabb
from objects.pose import SE3
from scenes.edits import Draft
from scenes.node import Node, checked_scale, one_pose, quoted, shown
from scenes.records import Changes, Records
from scenes.timeline import Timeline
from scenes.track import Quat, Sim3, Track, Vec, number, quat_multiply, unit_quat, vector

Axes = Literal["world", "parent", "own"]


class _Spot(NamedTuple):
    """Where an edit of pose applies: number ``k`` of the attachment it means, the time that decides, and the node's pose and that
    of its carrier then; ``key`` is the time of the key to be set, None for a change of the whole track."""

    node: Node
    k: int
    frame: Axes
    key: float | None
    ref: float
    quat: Quat
    trans: Vec
    above: Sim3

    def draft(self, text: str, new: tuple[Quat, Vec], change: Callable[[Track], Track]) -> Draft:
        """A new pose: as a key, or by a change of the whole track."""
        attachment = self.node.attachments[self.k]
        track = (
            change(attachment.track) if self.key is None else attachment.track.with_key(number(self.key, "time"), *new)
        )
        text += f" frame {self.frame}" if self.frame != "world" else ""
        text += "" if self.key is None else f" time {shown(self.key)}"
        return text, {self.node.id: self.node.with_attachment(self.k, replace(attachment, track=track))}


def _spot(timeline: Timeline, path: str, time: float | None, frame: Axes) -> _Spot:
    if frame not in ("world", "parent", "own"):
        raise ValueError(f"{path}: frame must be world, parent or own, got {frame!r}")
    node = timeline.records.node_at(path)
    k = node.attachment_number(None if time is None else number(time, f"{path}: time"))
    start = node.attachments[k].start
    ref = time if time is not None else (start if math.isfinite(start) else 0.0)
    above = timeline.world(node.attachments[k].parent, ref)
    return _Spot(node, k, frame, time, ref, *node.attachments[k].track.at(ref), above)


def move(
    timeline: Timeline,
    path: str,
    by: Sequence[float] | None,
    to: Sequence[float] | None,
    frame: Axes,
    time: float | None,
) -> Draft:
    target = to if by is None else by
    if target is None or (by is not None and to is not None):
        raise ValueError(f"move {path}: expected by= or to=, got {'neither' if target is None else 'both'}")
    given = vector(target, f"move {path}: {'by' if to is None else 'to'}")
    spot = _spot(timeline, path, time, frame)
    trans, above = spot.trans, spot.above
    if to is None:
        turn = {"world": above.inverse(), "parent": Sim3(), "own": Sim3(spot.quat)}[frame]
        dx, dy, dz = turn._replace(trans=(0.0, 0.0, 0.0)).apply(given)
        new = (trans[0] + dx, trans[1] + dy, trans[2] + dz)
    elif frame == "own":
        raise ValueError(f"move {path}: to= needs the frame world or parent")
    else:
        new = above.inverse().apply(given) if frame == "world" else given
    shift = Sim3(trans=(new[0] - trans[0], new[1] - trans[1], new[2] - trans[2]))
    text = f"move {quoted(path)} {'by' if to is None else 'to'} {' '.join(map(shown, given))}"
    return spot.draft(text, (spot.quat, new), lambda track: track.moved_into(shift))


def rotate(
    timeline: Timeline,
    path: str,
    axis: Sequence[float] | Literal["x", "y", "z"],
    degrees: float,
    about: Sequence[float] | None,
    frame: Axes,
    time: float | None,
) -> Draft:
    named = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
    ax, ay, az = vector(named.get(axis, ()) if isinstance(axis, str) else axis, f"rotate {path}: axis")
    degrees = number(degrees, f"rotate {path}: degrees")
    length, half = math.hypot(ax, ay, az), 0.5 * math.radians(degrees)
    if length < 1e-12:
        raise ValueError(f"rotate {path}: axis must not have zero length")
    s = math.sin(half) / length
    turn: Quat = (math.cos(half), s * ax, s * ay, s * az)
    spot = _spot(timeline, path, time, frame)
    quat, trans, above = spot.quat, spot.trans, spot.above
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
    return spot.draft(text, (unit_quat(new.quat), new.trans), turned)


def place(timeline: Timeline, path: str, pose: SE3, frame: Axes, time: float | None) -> Draft:
    target = one_pose(pose, f"place {path}")
    spot = _spot(timeline, path, time, frame)
    if frame == "own":
        raise ValueError(f"place {path}: expected the frame world or parent, got own")
    local = spot.above.inverse() @ target if frame == "world" else target
    numbers = " ".join(map(shown, (*target.trans, *target.quat)))
    new = (unit_quat(local.quat), local.trans)
    return spot.draft(f"place {quoted(path)} at {numbers}", new, lambda _: Track.constant(Sim3(*new)))


def animate(records: Records, path: str, track: Track) -> Draft:
    if not isinstance(track, Track):
        raise ValueError(f"animate {path}: expected a Track, got {type(track).__name__}")
    node = records.node_at(path)
    k = len(node.attachments) - 1
    text = f"animate {quoted(path)} ({len(track.times)} keys)"
    return text, {node.id: node.with_attachment(k, replace(node.attachments[k], track=track))}


def scale(records: Records, path: str, factor: float) -> Draft:
    factor = checked_scale(factor, f"scale {path}")
    node = records.node_at(path)
    attachments = tuple(replace(h, scale=checked_scale(h.scale * factor, f"scale {path}")) for h in node.attachments)
    return f"scale {quoted(path)} by {shown(factor)}", {node.id: replace(node, attachments=attachments)}


def retime(records: Records, path: str, shift: float, factor: float) -> Draft:
    shift, factor = number(shift, f"retime {path}: shift"), checked_scale(factor, f"retime {path}: factor")
    changes: Changes = {}
    for i in records.subtree(records.node_at(path).id):
        node = records.nodes[i]
        bends = node.field is not None and node.field.deforms
        if node.moves or bends or node.spans:
            attachments = [
                replace(h, start=h.start * factor + shift, track=h.track.retimed(shift, factor))
                for h in node.attachments
            ]
            clock = node.clock.retimed(shift, factor) if bends else node.clock
            spans = tuple((a * factor + shift, b * factor + shift) for a, b in node.spans)
            changes[i] = replace(node, attachments=tuple(attachments), clock=clock, spans=spans)
    if not changes:
        raise ValueError(f"retime {path}: nothing there moves")
    return f"retime {quoted(path)} shift {shown(shift)} factor {shown(factor)}", changes


def set_clock(records: Records, path: str, offset: float | None, speed: float | None, loop: bool | None) -> Draft:
    node = records.node_at(path)
    if node.field is None or not node.field.deforms:
        raise ValueError(f"clock {path}: expected something that bends; this {node.what()} doesn't")
    given = {"offset": offset, "speed": speed, "loop": loop}
    clock = replace(node.clock, **{name: value for name, value in given.items() if value is not None})
    if clock.loop and node.field.span is None:
        raise ValueError(f"clock {path}: its field claims no span of time, so it can't loop")
    text = f"clock {quoted(path)} offset {shown(clock.offset)} speed {shown(clock.speed)} loop {'on' if clock.loop else 'off'}"
    return text, {node.id: replace(node, clock=clock)}


# -- falls and free places ---------------------------------------------------------------------------------------------


def decisive_time(timeline: Timeline, path: str, time: float | None) -> float:
    """When it is that where things stand decides an edit of a node's pose."""
    return _spot(timeline, path, time, "world").ref


def shift(timeline: Timeline, path: str, text: str, by: Sequence[float], time: float | None) -> Draft:
    """A shift in the world, described as ``text``."""
    spot = _spot(timeline, path, time, "world")
    dx, dy, dz = spot.above.inverse()._replace(trans=(0.0, 0.0, 0.0)).apply(vector(by, "shift"))
    new = (spot.trans[0] + dx, spot.trans[1] + dy, spot.trans[2] + dz)
    return spot.draft(text, (spot.quat, new), lambda track: track.moved_into(Sim3(trans=(dx, dy, dz))))


def fall(
    records: Records, scene: Composite, path: str, onto: str | None, direction: Sequence[float]
) -> tuple[str, np.ndarray]:
    """The text of a drop, and the shift ``[3]`` (world) that it is."""
    from scenes.settle import Body, Ground, drop_shift, overlapping  # its libraries take a while to load

    ax, ay, az = vector(direction, f"drop {path}: direction")
    length = math.hypot(ax, ay, az)
    if length < 1e-12:
        raise ValueError(f"drop {path}: direction must not have zero length")
    mine, others, below = _sides(records, scene, path, onto, "drop")
    try:
        body = Body(scene, mine, "drop")
        ground = Ground(scene, below, np.array([ax, ay, az]) / length)
        by = drop_shift(body, ground)
        rest = [row for row in others if row not in set(below)]
        for i, j, depth in overlapping(body, rest, by):
            if depth > body.tolerance:
                raise ValueError(
                    f"there, {scene.arrays.names[i]} would overlap {scene.arrays.names[j]}, {1000 * depth:.3g} mm deep"
                )
    except ValueError as error:
        raise ValueError(f"drop {path}{f' onto {onto}' if onto else ''}: {error}") from None
    text = f"drop {quoted(path)}" + (f" onto {quoted(onto)}" if onto is not None else "")
    if (ax, ay, az) != (0, 0, -1):
        text += f" along {' '.join(map(shown, (ax, ay, az)))}"
    return text, by


def free_place(
    records: Records,
    scene: Composite,
    path: str,
    origin: np.ndarray,
    near: Sequence[float] | None,
    on: str | None,
    region: Aabb | None,
    gap: float,
    seed: int,
) -> tuple[str, np.ndarray]:
    """The text of an edit that puts a node with its ``origin [3]`` (world) in a free place, and the shift ``[3]`` that it is."""
    from scenes.settle import Body, Ground, find_free

    gap = number(gap, f"place_free {path}: gap")
    if gap < 0 or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"place_free {path}: gap and seed must be 0 or more, got {gap:g} and {seed!r}")
    if region is not None and not isinstance(region, Aabb):
        raise ValueError(f"place_free {path}: region must be an Aabb, got {type(region).__name__}")
    mine, others, below = _sides(records, scene, path, on, "place_free")
    start = np.zeros(3) if near is None else np.array(vector(near, f"place_free {path}: near")) - origin
    ground = None if on is None else Ground(scene, below, np.array([0.0, 0.0, -1.0]))
    try:
        by = find_free(Body(scene, mine, "place_free"), others, ground, start, region, gap, seed)
    except ValueError as error:
        raise ValueError(f"place_free {path}: {error}") from None
    if by is None:
        raise ValueError(
            f"place_free {path}: no free place was found; give another near=, a larger region= or a smaller gap="
        )
    text = f"put {quoted(path)}"
    text += "" if near is None else f" near {' '.join(map(shown, near))}"
    text += "" if on is None else f" on {quoted(on)}"
    if region is not None:
        text += " within " + " ".join(map(shown, [*region.lo.tolist(), *region.hi.tolist()]))
    text += f" gap {shown(gap)}" * (gap > 0) + f" seed {seed}" * (seed > 0)
    return text, by


def _sides(
    records: Records, scene: Composite, path: str, onto: str | None, verb: str
) -> tuple[list[int], list[int], list[int]]:
    """Instances beneath a node; all others; and those of them that are ``onto``, or beneath it where that is a group."""

    def beneath(node: str) -> list[int]:
        top = records.path_to(records.id_at(node))
        return [i for i, name in enumerate(scene.arrays.names) if not top or name == top or name.startswith(top + "/")]

    mine = beneath(path)
    if not mine:
        raise ValueError(f"{verb} {path}: expected a visible object, or a group with one")
    others = sorted(set(range(len(scene))) - set(mine))
    below = others
    if onto is not None:
        carries = [i for i in beneath(onto) if i in set(others)]
        below = [i for i in carries if scene.arrays.names[i] == records.path_to(records.id_at(onto))] or carries
    if not below and (onto is not None or verb == "drop"):
        raise ValueError(f"{verb} {path}: there is no visible object {f'in {onto}' if onto else 'to land on'}")
    return mine, others, below
