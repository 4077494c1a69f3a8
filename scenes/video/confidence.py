"""How far poses can be trusted, from what speaks for them.

*A thing before the camera*: its model, fused of all frames by its poses, is compared with each frame at its pose and at poses that
would be wrong: off by 20 degrees or 2 cm in the way that the frame tells least of. A can without texture turns about its axis, and
a thing seen as a sliver in every way, without a pixel that speaks against it.

*A camera that was found*: the covariance of the joint normal equations. A camera that sees hardly more than a plain floor slides
along it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from scenes.video.maps import Maps
from scenes.video.matching import compare, evidence, window
from scenes.video.model import fused, stage_of
from scenes.video.rigid import adjoint, evidence_between, inverse, joint_equations, nearest_rigid

WRONG_M, WRONG_RAD = 0.02, np.radians(20.0)  # a pose that is off by more is wrong
# Fitted to clips of `benchmarks/clips.py`: pixels that must speak for a pose, and the deviation of a camera (a share of what is
# wrong) up to which it is sure. Residuals of neighbours aren't independent: deviations are far too small as they stand.
_PIXELS, _DEVIATION = 2.0, 0.0145
_RESISTANCE = 1.0  # between frames, per pixel, from which on a pose is lost
_LEAK = 1e-4  # conductance between all frames, so that parts without a link are lost, too
_SHARP = 6.0  # how quickly cameras become unsure beyond
_LEAST = 8  # pixels of a thing in a frame that is looked at
_COUNTED = 300  # pixels of a frame by which a camera is judged
_PRIOR = 1e-3  # what is known of every camera, so that what no residual tells has a deviation, too


class Spread(NamedTuple):
    """How certain poses are against each other."""

    known: Int[np.ndarray, "n"]
    """Frames that have one."""
    covariance: Float[np.ndarray, "n n 6 6"]
    """Of twists (rotation vector, then translation) in the frame of what moves, as if residuals were independent; that of the first
    known frame is 0."""

    def apart(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n n"]:
        """Deviation of each pose against each other, about its least certain axis and at a point for each (in the frame of what
        moves), as a share of what makes a pose wrong."""
        own = np.einsum("iiab->iab", self.covariance)
        joint = own[:, None] + own[None] - self.covariance - self.covariance.transpose(1, 0, 2, 3)
        joint = 0.5 * (joint + np.swapaxes(joint, -1, -2))
        x, y, z = points.T
        move = np.zeros((len(points), 3, 6))  # of the points by twists: rotation x point + translation
        move[:, [0, 1, 2], [1, 2, 0]], move[:, [1, 2, 0], [0, 1, 2]] = np.stack([z, x, y], 1), -np.stack([z, x, y], 1)
        move[:, :, 3:] = np.eye(3)
        moved = np.einsum("ixa,ijab,iyb->ijxy", move, joint, move)
        largest = [np.linalg.eigvalsh(c)[..., -1].clip(0) for c in (moved, joint[:, :, :3, :3])]
        return np.sqrt(largest[0] / WRONG_M**2 + largest[1] / WRONG_RAD**2)


def spread_of(
    maps: Maps, masks: Bool[np.ndarray, "f h w"], to_cam: Float[np.ndarray, "f 4 4"], have: Bool[np.ndarray, "f"]
) -> Spread:
    """How certain the poses of a track are, from the inverse of the normal matrix of the joint solution: depth, colour and flow
    count as there.

    Args:
        masks: Pixels of the track.
        to_cam: Object to camera, where ``have``.
    """
    known = np.flatnonzero(have & masks.any((1, 2)))
    n = len(known)
    covariance = np.zeros((n, n, 6, 6))
    if n > 1:
        row = np.full(len(have), -1)
        row[known[1:]] = np.arange(n - 1)
        A = joint_equations(maps, masks, to_cam, known, row, _COUNTED)
        A[np.diag_indices(len(A))] += _PRIOR
        covariance[1:, 1:] = np.linalg.inv(A).reshape(n - 1, 6, n - 1, 6).transpose(0, 2, 1, 3)
    own = np.array([adjoint(inverse(to_cam[t])) for t in known]).reshape(-1, 6, 6)
    return Spread(known, np.einsum("iab,ijbc,jdc->ijad", own, covariance, own))


def before_camera(
    maps: Maps,
    trust: Float32[np.ndarray, "f h w"],
    masks: Bool[np.ndarray, "f h w"],
    to_cam: Float[np.ndarray, "f 4 4"],
    known: Bool[np.ndarray, "f"],
) -> Float[np.ndarray, "f"]:
    """How probable it is that poses before the camera are right within 2 cm and 20 degrees, 0 to 1; 0 where there is none.

    Args:
        trust: Weights of depths.
        masks: Pixels of the thing.
        to_cam: Object to camera, where ``known``.
    """
    sure = np.zeros(len(known))
    masks = masks & (maps.depth > 0)
    size = masks.sum((1, 2)) * known
    frames = np.flatnonzero(size >= _LEAST)
    if not len(frames):
        return sure
    anchor = int(size.argmax())
    grid, home, extent = stage_of(maps, masks, anchor, frames)
    placed = nearest_rigid(to_cam) @ (inverse(to_cam[anchor]) @ home)
    model = fused(maps, trust, masks, placed, size >= _LEAST, grid)
    for t in frames.tolist():
        there = window(maps, t, masks[t], [placed[t]], extent / 2)
        if there is not None:
            pixels = evidence(there, model, compare(there, model, placed[t]), WRONG_RAD, WRONG_M)
            sure[t] = 1 / (1 + np.exp(2 * (1 - max(pixels, 0.0) / _PIXELS)))
    return sure


def between_frames(
    maps: Maps, masks: Bool[np.ndarray, "f h w"], to_cam: Float[np.ndarray, "f 4 4"], known: Bool[np.ndarray, "f"]
) -> Float[np.ndarray, "f"]:
    """The same without a model, by what frames say of each other: a model that wrong poses made agrees with them.

    Each pair of frames conducts by the pixels that speak for the motion between them, and the resistance between a frame and the
    surest one is what isn't known of its pose. So doubt adds up over a spin in which every step is nearly right, and what lies
    behind a jump is lost.
    """
    sure = np.zeros(len(known))
    pairs, pixels = evidence_between(maps, masks, to_cam, known, WRONG_RAD, WRONG_M)
    if len(pairs) == 0:
        return sure
    both = np.zeros((len(known), len(known)))
    both[tuple(pairs.T)] = pixels
    frames = np.unique(pairs)
    conducts = np.minimum(both, both.T)[np.ix_(frames, frames)].clip(0)
    inside = np.linalg.inv(np.diag(conducts.sum(1)) - conducts + _LEAK * np.eye(len(frames)))
    resistance = np.diag(inside)[:, None] + np.diag(inside)[None] - 2 * inside
    sure[frames] = 1 / (1 + (resistance[np.median(resistance, 0).argmin()] / _RESISTANCE) ** 2)
    return sure


def with_camera(
    sure: Float[np.ndarray, "f"],
    camera: Spread | None,
    poses: Float[np.ndarray, "f 4 4"],
    middle: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "f"]:
    """The same in the world, where cameras aren't certain, either: against the frame whose camera is surest.

    Args:
        sure: What `before_camera` gives.
        camera: Of the cameras; None where they are given.
        poses: Object to world.
        middle: Of the object, in its frame.
    """
    known = np.flatnonzero(sure)
    if camera is None or not len(known):
        return sure
    rows = np.searchsorted(camera.known, known)
    off = Spread(known, camera.covariance[np.ix_(rows, rows)]).apart((poses[known] @ np.append(middle, 1))[:, :3])
    off = off[:, np.median(off, 0).argmin()]
    out = sure.copy()
    out[known] /= 1 + (off / _DEVIATION) ** _SHARP
    return out
