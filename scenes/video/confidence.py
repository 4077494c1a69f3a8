"""How far poses can be trusted, from what their solution knows of itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from scenes.video.camera import points_of
from scenes.video.maps import Maps
from scenes.video.rigid import joint_equations


class Doubt(NamedTuple):
    """What the poses of a track [F] rest on."""

    turn: Float[np.ndarray, "f"]
    """Deviation of the rotation about its least certain axis, against the first known frame; radians."""
    shift: Float[np.ndarray, "f"]
    """Deviation of the place of the track's pixels in its least certain direction; metres."""
    axis: Float[np.ndarray, "f 3"]
    """That axis, camera frame."""


def doubt_of(maps: Maps, masks: np.ndarray, to_cam: np.ndarray, have: np.ndarray, *, color: bool = True) -> Doubt:
    """Deviations of all poses of a track against its first one, as the normal equations of the joint solution have them.

    Depth, colour and flow count as in the solution; residuals are taken for independent, so the figures are too small by a common
    factor.

    Args:
        masks: [F H W] pixels of the track.
        to_cam: [F 4 4] object to camera, where ``have`` [F].
    """
    n = len(have)
    turn, shift, axis = np.zeros(n), np.zeros(n), np.zeros((n, 3))
    known = np.flatnonzero(have & masks.any((1, 2)))
    if len(known) < 2:
        return Doubt(turn, shift, axis)
    row = np.full(n, -1)
    row[known[1:]] = np.arange(len(known) - 1)
    A = joint_equations(maps, masks, to_cam, known, row, color=color)
    A[np.diag_indices(len(A))] += 1e-3
    spread = np.linalg.inv(A)
    for t in known[1:].tolist():
        i = 6 * row[t]
        S = spread[i : i + 6, i : i + 6]
        y, x = np.nonzero(masks[t])
        c = np.nanmedian(points_of(maps, t, y, x), 0)
        # A twist moves the centre c by w x c + v.
        J = np.array([[0, c[2], -c[1], 1, 0, 0], [-c[2], 0, c[0], 0, 1, 0], [c[1], -c[0], 0, 0, 0, 1]])
        values, vectors = np.linalg.eigh(S[:3, :3])
        turn[t], axis[t] = np.sqrt(max(values[-1], 0)), vectors[:, -1]
        shift[t] = np.sqrt(max(np.linalg.eigvalsh(J @ S @ J.T)[-1], 0))
    return Doubt(turn, shift, axis)
