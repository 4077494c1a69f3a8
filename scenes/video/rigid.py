"""Rigid motions between frames, and poses of one track over the whole clip, from pixels that belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from scenes.video.maps import Maps
from scenes.video.regions import nearest
from scenes.video.residuals import residuals

_GATES = (0.03, 0.012, 0.006)  # metres, from coarse to fine
_DEVIATION_RGB = 0.04
# Deviations of flow (pixels) and depth (of the noise): flow brings poses near, but slips on things that spin; then depth decides.
_COARSE, _FINE, _FINE_GATE = (0.2, 2.0), (0.5, 1.0), 0.008
_LEAST_COSINE = 0.5
_OFFSETS = (1, 2, 3, 5, 8, 13, 21)  # frames apart that are compared
_HIDDEN = 0.3  # cost of a hidden pixel
_COUNTED = 300  # pixels of a frame that `information` counts, at most
_DAMPING, _LITTLE = 0.01, 1e-5  # at first; mean cost by which poses must become better for another step
_SPOKEN, _OFF_SURFACE = 200, 0.15  # pixels of a frame that speak; metres from a surface to the axis of a turn, at most
_JUDGED = 0.008  # metres, beside the noise: what counts as consistent


class Fit(NamedTuple):
    """How well pixels of one frame agree with another after the motion that was found."""

    T_s_t: np.ndarray
    agree: float
    """Share of what is not hidden that is consistent."""
    n: int
    """Consistent pixels."""
    cost: float
    """Mean cost, 0 to 1; what is hidden costs a little, so that nothing is sought behind things."""


def exp(twist: np.ndarray) -> np.ndarray:
    """Rotation vector and translation as matrices [... 4 4] (first order in the translation, exact in the rotation)."""
    T = np.zeros((*twist.shape[:-1], 4, 4))
    T[..., :3, :3] = Rotation.from_rotvec(twist[..., :3].reshape(-1, 3)).as_matrix().reshape(*twist.shape[:-1], 3, 3)
    T[..., :3, 3] = twist[..., 3:]
    T[..., 3, 3] = 1
    return T


def inverse(T: np.ndarray) -> np.ndarray:
    """Of rigid matrices [... 4 4]."""
    out = np.zeros_like(T)
    R = np.swapaxes(T[..., :3, :3], -1, -2)
    out[..., :3, :3] = R
    out[..., :3, 3] = -np.einsum("...ij,...j->...i", R, T[..., :3, 3])
    out[..., 3, 3] = 1
    return out


def nearest_rigid(poses: np.ndarray) -> np.ndarray:
    """The same matrices [F 4 4] with exact rotations: products of many poses drift."""
    u, _, vt = np.linalg.svd(poses[:, :3, :3])
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
    out = poses.copy()
    out[:, :3, :3] = u @ vt
    return out


def adjoint(T: np.ndarray) -> np.ndarray:
    """[6 6], for twists of rotation, then translation: ``exp(Ad x) T = T exp(x)``."""
    R, p = T[:3, :3], T[:3, 3]
    cross = np.array([[0, -p[2], p[1]], [p[2], 0, -p[0]], [-p[1], p[0], 0]])
    out = np.zeros((6, 6))
    out[:3, :3] = out[3:, 3:] = R
    out[3:, :3] = cross @ R
    return out


def kabsch(p: np.ndarray, q: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The rigid matrices [... 4 4] that take points p [... n 3] to q with the least squares (Kabsch 1976)."""
    w = np.ones(p.shape[:-1]) if weights is None else weights
    w = w / w.sum(-1, keepdims=True)
    a, b = (np.einsum("...n,...ni->...i", w, x) for x in (p, q))
    S = np.einsum("...n,...ni,...nj->...ij", w, p - a[..., None, :], q - b[..., None, :])
    U, _, Vt = np.linalg.svd(S)
    flip = np.ones(S.shape[:-1])
    flip[..., 2] = np.sign(np.linalg.det(U) * np.linalg.det(Vt))
    R = np.einsum("...ji,...j,...kj->...ik", Vt, flip, U)
    T = np.zeros((*S.shape[:-2], 4, 4))
    T[..., :3, :3] = R
    T[..., :3, 3] = b - np.einsum("...ij,...j->...i", R, a)
    T[..., 3, 3] = 1
    return T


class Pixels(NamedTuple):
    """Pixels of all frames, in order."""

    numbers: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, masks: np.ndarray, most: int) -> Pixels:
        """At most ``most`` pixels of each mask [F H W], evenly over the mask."""
        numbers, starts = [], [0]
        for mask in masks:
            found = np.flatnonzero(mask)
            if len(found) > most:
                # Evenly, but not along columns: the fractional part of multiples of the golden ratio orders them.
                order = np.argsort((np.arange(len(found)) * 0.6180339887) % 1.0, kind="stable")[:most]
                found = found[np.sort(order)]
            numbers.append(found)
            starts.append(starts[-1] + len(found))
        return cls(np.concatenate(numbers).astype(np.int64), np.array(starts, np.int64))


def outline_of(masks: np.ndarray) -> np.ndarray:
    """[F H W 2] the way from each pixel to the nearest of the mask, x and y in pixels; NaN where a mask is empty."""
    out = np.full((*masks.shape, 2), np.nan, np.float32)
    v, u = np.indices(masks.shape[1:])
    for t in np.flatnonzero(masks.any((1, 2))):
        _, row, column = nearest(masks[t])
        out[t, ..., 0], out[t, ..., 1] = column - u, row - v
    return out


def _no_outline(maps: Maps) -> np.ndarray:
    """An outline that draws nothing."""
    return np.full((*maps.depth.shape, 2), np.nan, np.float32)


def _normal_equations(
    maps: Maps,
    pixels: Pixels,
    outline: np.ndarray,
    pairs: np.ndarray,
    motions: np.ndarray,
    gate: float,
    *,
    flow: bool,
    color: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dev_flow, dev_depth = _FINE if gate <= _FINE_GATE else _COARSE
    weights = np.array([gate, _DEVIATION_RGB if color else 0.0, dev_flow if flow else 0.0, _LEAST_COSINE, dev_depth])
    return residuals(
        pairs, motions, pixels.numbers, pixels.starts, outline, maps.depth, maps.normal, maps.rgb, maps.slope,
        maps.flows, maps.tensor, maps.lens, maps.noise, weights,
    )  # fmt: skip


def align(
    maps: Maps,
    masks: np.ndarray,
    sources: Sequence[int],
    target: int,
    to_cam: np.ndarray,
    *,
    outline: np.ndarray | None = None,
    rounds: int = 6,
    most: int = 600,
) -> Fit:
    """The pose of a track in one more frame, from pixels of frames in which it is known.

    Args:
        masks: [F H W], pixels of the track in the frames ``sources``.
        to_cam: [F 4 4] object to camera; that of ``target`` is the first guess.
        outline: `outline_of` what the track may cover in ``target``.
    """
    outline = _no_outline(maps) if outline is None else outline
    pixels = Pixels.of(masks, most)
    pairs = np.array([[t, target] for t in sources], np.int64)
    pose = to_cam[target].copy()
    back = np.stack([inverse(to_cam[t]) for t in sources])
    damping = np.diag([1e-6] * 6)
    stats = np.zeros((1, 5))
    for gate in _GATES:
        color = gate < _GATES[0]
        for _ in range(rounds):
            H, g, stats = _normal_equations(maps, pixels, outline, pairs, pose @ back, gate, flow=True, color=color)
            A = H.sum(0)
            step = -np.linalg.solve(A + damping * (1 + np.trace(A)), g.sum(0))
            pose = _moved(pose, step)
            if np.abs(step).max() < 2e-5:
                break
    _, _, stats = _normal_equations(maps, pixels, outline, pairs, pose @ back, _JUDGED, flow=False)
    return _quality(pose, stats.sum(0))


def judge(
    maps: Maps,
    masks: np.ndarray,
    sources: Sequence[int],
    target: int,
    to_cam: np.ndarray,
    guesses: Sequence[np.ndarray],
) -> list[Fit]:
    """How well each pose in ``target`` agrees with the pixels of other frames, as it stands; coarse (centimetres)."""
    if len(guesses) == 0:
        return []
    outline = _no_outline(maps)
    pixels = Pixels.of(masks, 150)
    back = np.stack([inverse(to_cam[t]) for t in sources])
    pairs = np.array([[t, target] for _ in guesses for t in sources], np.int64)
    motions = np.concatenate([guess @ back for guess in guesses])
    _, _, stats = _normal_equations(maps, pixels, outline, pairs, motions, _GATES[0], flow=True)
    sums = stats.reshape(len(guesses), len(sources), -1).sum(1)
    return [_quality(guess, row) for guess, row in zip(guesses, sums, strict=True)]


def _quality(pose: np.ndarray, stats: np.ndarray) -> Fit:
    open_ = max(stats[4] - stats[2], 1.0)
    cost = (stats[3] + _HIDDEN * stats[2]) / max(stats[4], 1.0) if stats[4] > 0 else 1.0
    return Fit(pose, float(stats[0] / open_), int(stats[0]), float(cost))


def _moved(pose: np.ndarray, step: np.ndarray) -> np.ndarray:
    size = np.abs(step[:3]).max()
    return exp(step * min(1.0, 0.3 / max(size, 1e-9))) @ pose


def _pairs(known: np.ndarray, offsets: Sequence[int]) -> np.ndarray:
    """Frames [n 2] that are known and so far apart, both ways."""
    inside = set(known.tolist())
    found = [(t, t + sign * o) for t in known.tolist() for o in offsets for sign in (1, -1) if t + sign * o in inside]
    return np.array(found, np.int64).reshape(-1, 2)


def _joint(
    H: np.ndarray, g: np.ndarray, pairs: np.ndarray, motions: np.ndarray, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normal equations [n 6 n 6] and [n 6] of the poses in rows ``row`` [F] (-1: fixed) from those of pairs of frames."""
    n = row.max() + 1
    A, b = np.zeros((n, 6, n, 6)), np.zeros((n, 6))
    for (t, s), T, h, e in zip(pairs, motions, H, g, strict=True):
        i, j = row[t], row[s]
        Ad = -adjoint(T)
        if j >= 0:
            A[j, :, j] += h
            b[j] += e
        if i >= 0:
            A[i, :, i] += Ad.T @ h @ Ad
            b[i] += Ad.T @ e
        if i >= 0 and j >= 0:
            A[j, :, i] += h @ Ad
            A[i, :, j] += Ad.T @ h
    return A, b


def solve_track(
    maps: Maps,
    masks: np.ndarray,
    to_cam: np.ndarray,
    have: np.ndarray,
    *,
    fixed: np.ndarray | None = None,
    offsets: Sequence[int] = _OFFSETS,
    gates: Sequence[float] = (0.012, 0.006),
    rounds: int = 4,
    most: int = 300,
    outlined: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """All poses of a track at once, so that every frame agrees with its neighbours and with frames farther away.

    Gauss-Newton over the poses of all frames; the residuals of a pair of frames pull at both (`residuals`).

    Args:
        masks: [F H W] pixels of the track.
        to_cam: [F 4 4] first guess, object to camera, where ``have`` [F].
        fixed: [F] frames that stay; by default the known frame with the most pixels.
        outlined: whether the masks are whole, so that they bound the track.

    Returns:
        Poses [F 4 4], and [F] the share of each frame's pixels that agree with the other frames.
    """
    poses = to_cam.copy()
    known = np.flatnonzero(have & masks.any((1, 2)))
    if len(known) < 2:
        return poses, have.astype(float)
    if fixed is None:
        fixed = np.zeros(len(have), bool)
        fixed[known[np.argmax(masks[known].sum((1, 2)))]] = True
    pixels = Pixels.of(masks, most)
    outline = outline_of(masks) if outlined else _no_outline(maps)
    free = np.array([t for t in known if not fixed[t]])
    row = np.full(len(have), -1)
    row[free] = np.arange(len(free))
    pairs = _pairs(known, offsets)
    if len(pairs) == 0:
        return poses, have.astype(float)
    for stage, gate in enumerate(gates):
        # Colours of frames far apart pull from a short way only: first what is near brings poses there.
        pairs = _pairs(known, offsets[:2] if stage < len(gates) - 1 else offsets)
        for _ in range(rounds if len(free) and len(pairs) else 0):
            motions = poses[pairs[:, 1]] @ inverse(poses[pairs[:, 0]])
            H, g, _ = _normal_equations(maps, pixels, outline, pairs, motions, gate, flow=True)
            A, b = _joint(H, g, pairs, motions, row)
            A = A.reshape(6 * len(free), -1)
            A[np.diag_indices(len(A))] += 1e-5 * np.trace(A) / len(A) + 1e-6
            step = -np.linalg.solve(A, b.reshape(-1)).reshape(-1, 6)
            for t, x in zip(free, step, strict=True):
                poses[t] = _moved(poses[t], x)
            if np.abs(step).max() < 3e-5:
                break
    pairs = _pairs(known, offsets)
    motions = poses[pairs[:, 1]] @ inverse(poses[pairs[:, 0]])
    _, _, stats = _normal_equations(maps, pixels, outline, pairs, motions, _JUDGED, flow=False)
    share = np.zeros(len(have))
    for t in known:
        mine = stats[(pairs == t).any(1)].sum(0)
        share[t] = mine[0] / max(mine[4] - mine[2], 1.0)
    return poses, share


def settled(
    maps: Maps, masks: np.ndarray, to_cam: np.ndarray, have: np.ndarray, *, rounds: int = 20
) -> tuple[np.ndarray, float]:
    """Poses near to those of a track [F 4 4] under which its frames agree better, and the mean cost, 0 to 1, of its pixels
    [F H W] as they are taken from frame to frame by depth and colour; ``rounds=0`` asks for the cost alone.

    Levenberg-Marquardt with the equations of `solve_track`: a step that raises the cost isn't made, and the next is shorter. Full
    steps are several times too long where texture is fine or depth is noisy, and lead away from right poses.
    """
    poses, known = to_cam.copy(), np.flatnonzero(have & masks.any((1, 2)))
    pairs, pixels, damping = _pairs(known, _OFFSETS), Pixels.of(masks, _COUNTED), _DAMPING
    if len(pairs) == 0:
        return poses, 1.0
    free = np.delete(known, np.argmax(masks[known].sum((1, 2))))
    row = np.full(len(have), -1)
    row[free] = np.arange(len(free))

    def equations(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        motions = poses[pairs[:, 1]] @ inverse(poses[pairs[:, 0]])
        H, g, stats = _normal_equations(maps, pixels, _no_outline(maps), pairs, motions, _GATES[-1], flow=True)
        A, b = _joint(H, g, pairs, motions, row)
        return A.reshape(6 * len(free), -1), b.reshape(-1), _quality(poses[0], stats.sum(0)).cost

    A, b, cost = equations(poses)
    for _ in range(rounds):
        step = -np.linalg.solve(A + np.diag(damping * np.diag(A) + 1e-6), b).reshape(-1, 6)
        tried = poses.copy()
        for t, x in zip(free, step, strict=True):
            tried[t] = _moved(poses[t], x)
        *next_, least = equations(tried)
        damping *= 0.25 if least < cost else 6.0
        if least < cost:
            gain, poses, cost, (A, b) = cost - least, tried, least, next_
            if gain < _LITTLE:
                break
    return poses, cost


def joint_equations(
    maps: Maps, masks: np.ndarray, to_cam: np.ndarray, known: np.ndarray, row: np.ndarray, most: int
) -> np.ndarray:
    """The normal matrix [6 n 6 n] of `solve_track` at its solution, for the poses with a row (``row`` [F], -1: fixed)."""
    pairs = _pairs(known, _OFFSETS)
    motions = to_cam[pairs[:, 1]] @ inverse(to_cam[pairs[:, 0]])
    pixels = Pixels.of(masks, most)
    H, g, _ = _normal_equations(maps, pixels, _no_outline(maps), pairs, motions, _GATES[-1], flow=True)
    A, _ = _joint(H, g, pairs, motions, row)
    return A.reshape(6 * A.shape[0], -1)


def evidence_between(
    maps: Maps, masks: np.ndarray, to_cam: np.ndarray, have: np.ndarray, turn: float, move: float
) -> tuple[np.ndarray, np.ndarray]:
    """What speaks for the motions of a track between its frames: the pairs of frames [n 2], and for each [n] by how many pixels the
    least cost under another motion is above that under its own; below 0 where another agrees better.

    The others are off by a turn (radians) and by half of it, about the axis that depth and colours tell least of and those across,
    each through the point about which they tell least, or by a move (metres). What turns about its own axis or middle unseen so
    gets nothing.

    Args:
        masks: [F H W] pixels of the track.
        to_cam: [F 4 4] object to camera, where ``have`` [F].
    """
    masks = masks & (maps.depth > 0)
    size = masks.sum((1, 2))
    pairs = _pairs(np.flatnonzero(have & (size > 0)), _OFFSETS)
    if len(pairs) == 0:
        return pairs, np.zeros(0)
    pixels, outline = Pixels.of(masks, _SPOKEN), _no_outline(maps)
    motions = to_cam[pairs[:, 1]] @ inverse(to_cam[pairs[:, 0]])

    def costs(motions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        H, _, stats = _normal_equations(maps, pixels, outline, pairs, motions, _GATES[-1], flow=False)
        return H, stats[:, 4], (stats[:, 3] + _HIDDEN * stats[:, 2]) / np.maximum(stats[:, 4], 1)

    H, asked, cost = costs(motions)
    middles = [_middle(maps.lens, maps.depth[s], masks[s]) for s in pairs[:, 1]]
    others = np.array([_others(*row, turn, move) for row in zip(motions, H, middles, strict=True)])
    least = np.full(len(pairs), np.inf)
    for k in range(others.shape[1]):
        _, n, other = costs(others[:, k])
        least = np.minimum(least, np.where(n > 0.5 * asked, other, 1.0))
    seen = size / np.maximum(np.diff(pixels.starts), 1)  # pixels for each that is counted
    return pairs, (least - cost) * asked * seen[pairs[:, 0]]


def _middle(lens: np.ndarray, depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The median [3] of the points of a mask [H W] before the camera; 0 where there are none."""
    v, u = np.nonzero(mask)
    if not len(v):
        return np.zeros(3)
    (fx, fy, cx, cy), z = lens, depth[mask]
    return np.median(np.stack([(u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy, np.ones(len(v))]) * z, axis=1)


def _others(motion: np.ndarray, H: np.ndarray, middle: np.ndarray, turn: float, move: float) -> list[np.ndarray]:
    """Motions off by a turn or a move in the ways that the normal matrix [6 6] tells least of; ``middle`` is of the surface."""
    about = np.eye(4)
    about[:3, 3] = middle
    Ad = adjoint(about)
    H = Ad.T @ H @ Ad
    spread = np.linalg.inv(H + 1e-6 * np.eye(6))
    damping = 0.01 * np.trace(H[3:, 3:]) / 3 + 1e-6
    goes_along = -np.linalg.solve(H[3:, 3:] + damping * np.eye(3), H[3:, :3])  # the move that a turn costs least with
    out = []
    for axis in np.linalg.eigh(spread[:3, :3])[1].T:
        center = np.cross(axis, goes_along @ axis)
        center = middle + center * min(1.0, _OFF_SURFACE / max(np.linalg.norm(center), 1e-9))
        for angle in (-turn, -0.5 * turn, 0.5 * turn, turn):
            turned = exp(np.concatenate([angle * axis, np.zeros(3)]))
            turned[:3, 3] = center - turned[:3, :3] @ center
            out.append(turned @ motion)
    way = np.linalg.eigh(spread[3:, 3:])[1][:, -1]
    return out + [exp(np.concatenate([np.zeros(3), sign * move * way])) @ motion for sign in (1, -1)]


def information(maps: Maps, mask: np.ndarray, t: int, s: int) -> np.ndarray:
    """The normal matrix [6 6] of a motion from frame t to frame s at rest, by pixels [H W] of frame t: depth and colour.

    The increment (rotation, then translation) multiplies from the left, in the camera of s.
    """
    masks = np.zeros(maps.depth.shape, bool)
    masks[t] = mask
    pairs = np.array([[t, s]], np.int64)
    H, _, _ = _normal_equations(
        maps, Pixels.of(masks, _COUNTED), _no_outline(maps), pairs, np.eye(4)[None], _GATES[-1], flow=False
    )
    return H[0]
