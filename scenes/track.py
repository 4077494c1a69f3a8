"""Where a node stands in its parent, over time: similarity transforms and keyframed tracks.

Nodes by the ten thousand are edited one at a time here, so this is plain floats and small numpy arrays; `objects.SE3` is the
type at the door.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float

from objects.pose import SE3

Vec = tuple[float, float, float]
Quat = tuple[float, float, float, float]
Interpolation = Literal["linear", "step"]
End = Literal["hold", "loop"]


class Sim3(NamedTuple):
    """A rotation (unit quaternion, wxyz), a translation in metres and a uniform scale: ``p_parent = q * (scale * p) + t``."""

    quat: Quat = (1.0, 0.0, 0.0, 0.0)
    trans: Vec = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def __matmul__(self, other: Sim3) -> Sim3:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Sim3(quat_multiply(self.quat, other.quat), self.apply(other.trans), self.scale * other.scale)

    def apply(self, p: Vec) -> Vec:
        """The point ``p`` in the outer frame."""
        x, y, z = rotate(self.quat, p)
        s, t = self.scale, self.trans
        return (s * x + t[0], s * y + t[1], s * z + t[2])

    def inverse(self) -> Sim3:
        w, x, y, z = self.quat
        if not (1e-300 < self.scale < 1e300):
            raise ValueError(f"scale: expected one that can be undone, got {self.scale}")
        back, s = (w, -x, -y, -z), 1.0 / self.scale
        a, b, c = rotate(back, self.trans)
        return Sim3(back, (-s * a, -s * b, -s * c), s)

    def pose(self) -> SE3:
        """Rotation and translation alone."""
        return SE3(torch.tensor(self.quat, dtype=torch.float64), torch.tensor(self.trans, dtype=torch.float64))


def quat_multiply(a: Quat, b: Quat) -> Quat:
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


def rotate(q: Quat, p: Vec) -> Vec:
    """``p`` turned by the unit quaternion ``q``."""
    w, x, y, z = q
    px, py, pz = p
    tx, ty, tz = 2 * (y * pz - z * py), 2 * (z * px - x * pz), 2 * (x * py - y * px)
    return (
        px + w * tx + (y * tz - z * ty),
        py + w * ty + (z * tx - x * tz),
        pz + w * tz + (x * ty - y * tx),
    )


def unit_quat(q: Sequence[float], what: str = "rotation") -> Quat:
    """``q`` (wxyz) at length 1.

    Raises:
        ValueError: Not four finite numbers, or a length of zero.
    """
    values = _floats(q)
    length = math.hypot(*values) if len(values) == 4 else 0.0
    if not (1e-12 < length < math.inf):
        raise ValueError(f"{what}: expected a quaternion w x y z of a length above 0, got {q!r}")
    if abs(length - 1.0) < 1e-15:
        return values  # pyright: ignore[reportReturnType]
    w, x, y, z = (v / length for v in values)
    return (w, x, y, z)


def number(value: float, what: str) -> float:
    """A finite float.

    Raises:
        ValueError: Anything else; ``what`` names it.
    """
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what}: expected a number, got {value!r}") from None
    if not math.isfinite(found):
        raise ValueError(f"{what}: expected a finite number, got {found}")
    return found


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    """As floats; nothing if they aren't."""
    try:
        return tuple(float(v) for v in values)
    except (TypeError, ValueError, OverflowError):
        return ()


def vector(p: Sequence[float], what: str) -> Vec:
    """Three finite numbers.

    Raises:
        ValueError: Anything else; ``what`` names it.
    """
    values = _floats(p)
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError(f"{what}: expected 3 finite numbers, got {p!r}")
    return values  # pyright: ignore[reportReturnType]


def quat_of(pose: SE3) -> Quat:
    return unit_quat(pose.quat_wxyz.tolist())


def vec_of(pose: SE3) -> Vec:
    return vector(pose.translation.tolist(), "translation")


@dataclass(frozen=True, eq=False, init=False, slots=True)
class Track:
    """A pose over time, in the parent's frame; a single key is a constant pose.

    Between two keys rotation goes by the shorter arc and translation along the line (``linear``, as `SE3.interpolate`), or the
    earlier key holds until the next (``step``). Outside the keys the first and last hold (``hold``), or the keys repeat with
    the period from first to last (``loop``).

    Args:
        times: ``[k]`` seconds, strictly increasing.
        quats: ``[k, 4]`` wxyz; kept at length 1.
        translations: ``[k, 3]`` metres.

    Raises:
        ValueError: No keys, unsorted or repeated times, numbers that aren't finite, a quaternion of length zero, a loop of one key.
    """

    interpolation: Interpolation
    end: End
    _table: Float[np.ndarray, "k 8"]  # times, quats, translations: every node has a track, so it is kept small
    _rows: list[tuple[float, Quat, Vec]] | None = field(repr=False)  # the same for `at`, once it is asked of what moves

    def __init__(
        self,
        times: Float[np.ndarray, "k"],
        quats: Float[np.ndarray, "k 4"],
        translations: Float[np.ndarray, "k 3"],
        interpolation: Interpolation = "linear",
        end: End = "hold",
    ) -> None:
        times, quats, trans = (np.asarray(v, dtype=np.float64) for v in (times, quats, translations))
        k = len(times) if times.ndim == 1 else 0
        if k == 0 or quats.shape != (k, 4) or trans.shape != (k, 3):
            raise ValueError(
                f"Track: expected k >= 1 times, [k, 4] rotations and [k, 3] translations, got shapes {list(times.shape)}, "
                f"{list(quats.shape)} and {list(trans.shape)}"
            )
        table = np.empty((k, 8))
        table[:, 0], table[:, 1:5], table[:, 5:] = times, quats, trans
        self._start(table, interpolation, end)

    def _start(self, table: Float[np.ndarray, "k 8"], interpolation: Interpolation, end: End) -> None:
        """Checks the keys and takes them, the array itself included."""
        if not np.isfinite(table).all():
            raise ValueError("Track: expected finite numbers, got NaN or infinity")
        times, quats = table[:, 0], table[:, 1:5]
        if len(table) == 1:
            times[:] = 0.0  # a constant pose has no time
        elif (np.diff(times) <= 0).any():
            at = int(np.flatnonzero(np.diff(times) <= 0)[0])
            raise ValueError(
                f"Track: times must increase from key to key, got {times[at]:g} followed by {times[at + 1]:g}"
            )
        largest = np.abs(quats).max(1)
        if not ((largest > 1e-12) & (largest < 1e12)).all():
            raise ValueError("Track: a rotation must be a quaternion of a length between 1e-12 and 1e12")
        if interpolation not in get_args(Interpolation):
            raise ValueError(f"Track: interpolation must be linear or step, got {interpolation!r}")
        if end not in get_args(End):
            raise ValueError(f"Track: end must be hold or loop, got {end!r}")
        if end == "loop" and len(table) < 2:
            raise ValueError("Track: a loop needs at least 2 keys")
        length = np.sqrt(np.add.reduce(quats * quats, axis=1, keepdims=True))
        off = np.abs(length - 1.0) >= 1e-15  # so that a stored track reads back to the bit
        np.divide(quats, length, out=quats, where=off)
        table.flags.writeable = False
        for name, value in (("interpolation", interpolation), ("end", end), ("_table", table), ("_rows", None)):
            object.__setattr__(self, name, value)

    @property
    def times(self) -> Float[np.ndarray, "k"]:
        return self._table[:, 0]

    @property
    def quats(self) -> Float[np.ndarray, "k 4"]:
        return self._table[:, 1:5]

    @property
    def translations(self) -> Float[np.ndarray, "k 3"]:
        return self._table[:, 5:]

    @staticmethod
    def constant(pose: SE3 | Sim3) -> Track:
        """The same pose at all times (of a `Sim3` the scale is left out)."""
        quat, trans = (pose.quat, pose.trans) if isinstance(pose, Sim3) else (quat_of(pose), vec_of(pose))
        return Track._of([(0.0, *quat, *trans)], "linear", "hold")

    @staticmethod
    def _of(rows: Sequence[Sequence[float]], interpolation: Interpolation, end: End) -> Track:
        """From keys as rows of time, quaternion and translation."""
        track = object.__new__(Track)
        track._start(np.array(rows, dtype=np.float64), interpolation, end)
        return track

    @staticmethod
    def keyframes(
        times: Sequence[float],
        poses: SE3 | Sequence[SE3],
        *,
        interpolation: Interpolation = "linear",
        end: End = "hold",
    ) -> Track:
        """From poses (one each time), a batch or a list."""
        if not isinstance(poses, SE3) and not (len(poses) and all(isinstance(p, SE3) for p in poses)):
            raise ValueError("Track.keyframes: expected poses, a batch SE3 or a list of them")
        stacked = poses if isinstance(poses, SE3) else SE3.stack([p.to(torch.float64) for p in poses])
        quats, trans = stacked.quat_wxyz.detach().double().numpy(), stacked.translation.detach().double().numpy()
        return Track(np.asarray(times, dtype=np.float64), quats, trans, interpolation, end)

    @property
    def moves(self) -> bool:
        """Whether the pose depends on time."""
        return len(self._table) > 1

    @property
    def _keys(self) -> list[tuple[float, Quat, Vec]]:
        if self._rows is not None:
            return self._rows
        rows = [(t, (w, x, y, z), (a, b, c)) for t, w, x, y, z, a, b, c in self._table.tolist()]
        if self.moves:  # what stands still is seldom asked
            object.__setattr__(self, "_rows", rows)
        return rows

    def at(self, time: float) -> tuple[Quat, Vec]:
        """Rotation and translation at ``time`` (seconds)."""
        keys = self._keys
        if len(keys) == 1:
            return keys[0][1], keys[0][2]
        first, last = keys[0][0], keys[-1][0]
        if self.end == "loop" and not first <= time < last:
            time = first + (time - first) % (last - first)
            time = time if time < last else first  # the remainder may round up to the period
        i = bisect_right(keys, time, key=lambda key: key[0]) - 1
        if i < 0:
            return keys[0][1], keys[0][2]
        if i >= len(keys) - 1 or self.interpolation == "step":
            i = min(i, len(keys) - 1)
            return keys[i][1], keys[i][2]
        (t0, q0, p0), (t1, q1, p1) = keys[i], keys[i + 1]
        a = (time - t0) / (t1 - t0)
        if a == 0.0:
            return q0, p0
        x, y, z = (u + a * (v - u) for u, v in zip(p0, p1, strict=True))
        return slerp(q0, q1, a), (x, y, z)

    def pose(self, time: float = 0.0) -> SE3:
        """The pose at ``time`` (seconds)."""
        return Sim3(*self.at(time)).pose()

    # -- tracks from tracks --------------------------------------------------------------------------------------------

    def moved_into(self, relative: Sim3) -> Track:
        """The same motion seen from another frame: ``relative`` maps the old parent's frame to the new one."""
        rows = [(t, *quat_multiply(relative.quat, quat), *relative.apply(trans)) for t, quat, trans in self._keys]
        return Track._of(rows, self.interpolation, self.end)

    def with_key(self, time: float, quat: Quat, trans: Vec) -> Track:
        """With a key at ``time`` (replaced where there is one), folded into the period of a loop. A constant pose becomes its
        own first key at time 0."""
        if self.end == "loop":
            first, period = float(self.times[0]), float(self.times[-1] - self.times[0])
            time = first + (time - first) % period if not first <= time <= first + period else time
        keys = {key[0]: key[1:] for key in self._keys} | {time: (quat, trans)}
        rows = [(t, *quat, *trans) for t, (quat, trans) in sorted(keys.items())]
        return Track._of(rows, self.interpolation, self.end)

    def retimed(self, shift: float, factor: float) -> Track:
        """Every key at ``factor * time + shift``; ``factor`` must be above 0."""
        if not self.moves:
            return self
        return Track(self.times * factor + shift, self.quats, self.translations, self.interpolation, self.end)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Track)
            and (self.interpolation, self.end) == (other.interpolation, other.end)
            and np.array_equal(self._table, other._table)
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def slerp(a: Quat, b: Quat, amount: float) -> Quat:
    """From ``a`` to ``b`` by the shorter arc at constant speed."""
    dot = sum(u * v for u, v in zip(a, b, strict=True))
    sign = -1.0 if dot < 0 else 1.0
    dot = min(abs(dot), 1.0)
    angle = math.acos(dot)
    if angle < 1e-6:
        u, v = 1.0 - amount, sign * amount
    else:
        u, v = math.sin((1 - amount) * angle) / math.sin(angle), sign * math.sin(amount * angle) / math.sin(angle)
    w, x, y, z = (u * p + v * q for p, q in zip(a, b, strict=True))
    return unit_quat((w, x, y, z))
