"""How a node moves under the one it is found under, as keys with straight lines between them: what other formats know.

A track of one attachment is its own keys. A loop is written out over the span of the scene. Of what changes hands, the motion
under the last carrier is *baked*: keys at all times at which anything it depends on has one, then more until a straight line
between two keys is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from scenes.node import ROOT, Node
from scenes.timeline import world_pose
from scenes.track import Interpolation, Quat, Sim3, Track, Vec, quat_multiply, slerp

EXACT = 5e-6  # metres, and radians: how far baked keys may be off between them, at most
MAX_KEYS = 100_000  # of one node

_SPREAD = 4e-7  # of the distance from the origin, where float32 leaves no more than that
_SHORTEST = 1e-6  # seconds: nothing is looked for between keys this near
_PARTS = (0.25, 0.5, 0.75)  # of a line, where it is compared


@dataclass(frozen=True, eq=False)
class Motion:
    """Keys ``[k]``, one for what stands still; rotations are wxyz, neighbours on one side of the sphere.

    Two keys may share a time: the pose jumps there, from the first to the second.

    Attributes:
        baked: Whether it isn't its track's own keys.
        off: How far a line between keys may be off (metres and radians), as far as it was compared.
        cut: Whether keys ran out before the end.
    """

    times: Float[np.ndarray, "k"]
    quats: Float[np.ndarray, "k 4"]
    translations: Float[np.ndarray, "k 3"]
    scales: Float[np.ndarray, "k"]
    interpolation: Interpolation = "linear"
    baked: bool = False
    off: float = 0.0
    cut: bool = False

    @property
    def moves(self) -> bool:
        return len(self.times) > 1


def local_pose(nodes: Mapping[int, Node], node: Node, time: float, under: int | None = None) -> Sim3:
    """Where a node stands at ``time`` in the frame of another (arguments as of `motion_of`)."""
    under = node.parent if under is None else under
    attachment = node.attachments[node.attachment_number(time)]
    if attachment.parent == under:
        return Sim3(*attachment.track.at(time), attachment.scale)
    world = world_pose(nodes, node.id, time)
    return world if under == ROOT else world_pose(nodes, under, time).inverse() @ world


def motion_of(nodes: Mapping[int, Node], node: Node, span: tuple[float, float], under: int | None = None) -> Motion:
    """The motion of a node in the frame of another.

    Args:
        nodes: All nodes by id.
        node: The one.
        span: First and last time (seconds) for which a loop is written out.
        under: Id of the other; the node that it is found under by default.
    """
    under = node.parent if under is None else under
    involved = [node]
    if len(node.attachments) == 1 and under == node.parent:
        track, scale = node.attachments[0].track, node.attachments[0].scale
        if track.end == "hold" or not track.moves:
            quats = _aligned(track.quats)
            return Motion(track.times, quats, track.translations, np.full(len(quats), scale), track.interpolation)
        if track.interpolation == "step":
            times = _repeated(track, span)
            keys = [(t, Sim3(*track.at(t + _instant(t)), scale)) for t in times]
            return replace(_motion(keys), interpolation="step", cut=_cut(track, span))
    else:
        involved = [nodes[i] for i in _carriers(nodes, node.id) | _carriers(nodes, under)]
    motion = _baked(lambda time: local_pose(nodes, node, time, under), _times_of(involved, span))
    tracks = [attachment.track for one in involved for attachment in one.attachments]
    return replace(motion, cut=motion.cut or any(_cut(track, span) for track in tracks))


def _instant(time: float) -> float:
    """So much from a time on either side a jump is over: more than what rounding does to the phase of a loop."""
    return 1e-9 + 8 * math.ulp(time)


def _cut(track: Track, span: tuple[float, float]) -> bool:
    """Whether a loop has more keys within the span than are written out."""
    return track.end == "loop" and len(track.times) * _rounds(track, span)[1] > MAX_KEYS


def _carriers(nodes: Mapping[int, Node], i: int) -> set[int]:
    """Ids of a node and of all that carry it at any time."""
    found, todo = set(), [i]
    while todo:
        i = todo.pop()
        if i != ROOT and i not in found:
            found.add(i)
            todo += [attachment.parent for attachment in nodes[i].attachments]
    return found


def _times_of(nodes: Sequence[Node], span: tuple[float, float]) -> list[float]:
    """All times at which one of ``nodes`` has a key or changes hands, sorted."""
    times = {attachment.start for node in nodes for attachment in node.attachments if math.isfinite(attachment.start)}
    for node in nodes:
        for attachment in node.attachments:
            if attachment.track.moves:
                times.update(_repeated(attachment.track, span))
    return sorted(times)


def _rounds(track: Track, span: tuple[float, float]) -> tuple[int, int]:
    """Of a loop: the number of its first round within the span (0: that of its keys), and how many there are."""
    first, period = float(track.times[0]), float(track.times[-1] - track.times[0])
    before = math.floor((span[0] - first) / period)
    return before, math.ceil((span[1] - first) / period) - before


def _repeated(track: Track, span: tuple[float, float]) -> list[float]:
    """Key times; of a loop those within the span, and its ends."""
    times = track.times.tolist()
    if track.end == "hold":
        return times
    before, count = _rounds(track, span)
    first, period = times[0], times[-1] - times[0]
    most = max(MAX_KEYS // len(times), 1)
    found = {first + k * period + (t - first) for k in range(before, before + min(count, most)) for t in times}
    return sorted(t for t in found | {*span} if span[0] <= t <= span[1])


def _baked(pose: Callable[[float], Sim3], times: Sequence[float]) -> Motion:
    """Keys of a pose over time, which goes in smooth curves between ``times`` and may jump at each of them."""
    if not times:
        return _motion([(0.0, pose(0.0))])
    keys, worst, end = [], 0.0, times[0]
    for end in times:
        there, after = pose(end), pose(end + _instant(end))
        before = pose(end - _instant(end))
        if _apart(there, after) > EXACT:
            there = after
        jumps = _apart(before, there) > EXACT
        last = (end, before if jumps else there)
        if keys:
            if len(keys) >= MAX_KEYS:
                break
            inner, off = _line(pose, keys[-1], last, MAX_KEYS - len(keys))
            keys, worst = keys + inner, max(worst, off)
        keys += [last, (end, there)] if jumps else [last]
    return replace(_motion(keys), off=worst, cut=end < times[-1])


def _line(
    pose: Callable[[float], Sim3], start: tuple[float, Sim3], end: tuple[float, Sim3], room: int
) -> tuple[list[tuple[float, Sim3]], float]:
    """Keys between two that make lines right, at most ``room``, and how far these are off where they were compared."""
    found, worst, todo = [], 0.0, [(start, end)]
    while todo:
        a, b = todo.pop()
        poses = {u: pose(a[0] + u * (b[0] - a[0])) for u in _PARTS}
        limit = max(EXACT, _SPREAD * max(map(abs, (*a[1].trans, *b[1].trans))))
        off = max(_apart(poses[u], _between(a[1], b[1], u)) for u in _PARTS)
        middle = (0.5 * (a[0] + b[0]), poses[0.5])
        if off > limit and len(found) < room and b[0] - a[0] > _SHORTEST:
            todo += [(middle, b), (a, middle)]  # from left to right
            continue
        worst = max(worst, off)
        found.append(b)
    return found[:-1], worst


def _between(a: Sim3, b: Sim3, u: float) -> Sim3:
    x, y, z = (p + u * (q - p) for p, q in zip(a.trans, b.trans, strict=True))
    return Sim3(slerp(a.quat, b.quat, u), (x, y, z), a.scale + u * (b.scale - a.scale))


def _apart(a: Sim3, b: Sim3) -> float:
    """Metres, radians or share of the scale, whichever is most."""
    w, x, y, z = b.quat
    turn = 2 * math.hypot(*quat_multiply(a.quat, (w, -x, -y, -z))[1:])
    return max(math.dist(a.trans, b.trans), turn, abs(a.scale - b.scale) / a.scale)


def _motion(keys: list[tuple[float, Sim3]]) -> Motion:
    first = keys[0][1]
    if all(_apart(first, pose) < 1e-12 for _, pose in keys):  # carried by what never moves
        keys = keys[:1]
    quats: list[Quat] = [pose.quat for _, pose in keys]
    trans: list[Vec] = [pose.trans for _, pose in keys]
    scales = np.array([pose.scale for _, pose in keys])
    return Motion(np.array([t for t, _ in keys]), _aligned(np.array(quats)), np.array(trans), scales, baked=True)


def _aligned(quats: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, "k 4"]:
    """Each rotation as the quaternion that is nearer to the one before."""
    signs = np.where((quats[1:] * quats[:-1]).sum(1) < 0, -1.0, 1.0)
    return quats * np.cumprod(np.r_[1.0, signs])[:, None]
