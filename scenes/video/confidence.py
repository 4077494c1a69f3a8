"""How far poses can be trusted, from what their solution knows of itself."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from scenes.video.maps import Maps
from scenes.video.rigid import joint_equations

# A logistic model of a pose that is off by more than 2 cm or 20 degrees against the first frame, fitted to clips of
# `benchmarks/clips.py` and others like them; wrong poses count 7 times, as they are few: constant, and slopes for the logarithms
# of both deviations and for the share of visible pixels that agree with other frames.
_WRONG, _PER_TURN, _PER_CAMERA, _PER_SHARE = 13.7, 0.768, 0.41, -7.9
_LEAST_TURN, _LEAST_CAMERA = 1e-6, 3e-6  # radians: what is given counts as this certain


def turn_deviations(
    maps: Maps,
    masks: Bool[np.ndarray, "f h w"],
    to_cam: Float[np.ndarray, "f 4 4"],
    have: Bool[np.ndarray, "f"],
    most: int = 300,
) -> Float[np.ndarray, "f"]:
    """Deviation of the rotation of each pose, about its least certain axis, against the first known pose; radians.

    From the inverse of the normal matrix of the joint solution: depth, colour and flow count as there. Residuals are taken for
    independent, so the figures compare poses with each other, and are far too small as they stand.

    Args:
        masks: Pixels of the track, of which ``most`` count in each frame.
        to_cam: Object to camera, where ``have``.
    """
    turn = np.zeros(len(have))
    known = np.flatnonzero(have & masks.any((1, 2)))
    if len(known) < 2:
        return turn
    row = np.full(len(have), -1)
    row[known[1:]] = np.arange(len(known) - 1)
    A = joint_equations(maps, masks, to_cam, known, row, most)
    A[np.diag_indices(len(A))] += 1e-3
    spread = np.linalg.inv(A)
    for t in known[1:].tolist():
        i = 6 * row[t]
        turn[t] = np.sqrt(max(np.linalg.eigvalsh(spread[i : i + 3, i : i + 3])[-1], 0))
    return turn


def confidence(
    turn: Float[np.ndarray, "f"], camera_turn: Float[np.ndarray, "f"], share: Float[np.ndarray, "f"]
) -> Float[np.ndarray, "f"]:
    """How probable it is that poses are right within 2 cm and 20 degrees, 0 to 1.

    Args:
        turn: `turn_deviations` of the track.
        camera_turn: The same of the camera; 0 where it is given.
        share: Of the visible pixels, those that agree with other frames.
    """
    wrong = _WRONG + _PER_TURN * np.log(turn + _LEAST_TURN) + _PER_CAMERA * np.log(camera_turn + _LEAST_CAMERA)
    return 1 / (1 + np.exp(wrong + _PER_SHARE * share))
