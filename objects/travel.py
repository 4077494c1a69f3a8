"""The rigid motion of a whole thing goes out of its warp, into poses over time; the warp keeps what is left.

At each time the rigid motion is the one that takes the surface at rest nearest to where it is (Kabsch, "A solution for the best
rotation to relate two sets of vectors", 1976). It is given between the keys of the warp, too, so finely that straight lines from
one to the next will do: a fall bends by 0.5 mm away from them at 8 steps of a sixth of a second.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from objects.node_warp import NodeKeys, NodeWarp
from objects.pose import SE3, rotation_from_quat
from objects.registration import procrustes
from objects.warp_learning import continuous, quaternions
from objects.warped import Warped

_STEPS = 8  # poses from one key to the next
_FAR, _TURNED = 0.25, np.radians(30)  # who moves by less (a share of the extent), and turns by less, stays where it is


class Travel(NamedTuple):
    """A thing that bends and travels.

    Attributes:
        times: Of the poses, seconds; of a loop from its start to its end.
        poses: ``[n]``, from the frame of ``field`` to the frame that it was learned in.
        field: The thing, in a frame that goes along with it.
    """

    times: Float[np.ndarray, "n"]
    poses: SE3
    field: Warped


def travel(learned: Warped) -> Travel | None:
    """Divides what a field with a `NodeWarp` does into rigid motion and bending.

    Returns:
        Both, or None for a thing that stays about where it is: it moves by less than a quarter of its extent and turns by less than
        30 degrees, or has no such warp. Together they are what the field was: the same at the keys of the warp, and between them
        up to how rotations are interpolated.
    """
    warp = learned.warp
    if not isinstance(warp, NodeWarp):
        return None
    knots = np.array([*warp.times.tolist(), *([warp.span[1]] if warp.loops else [])])
    steps = np.linspace(knots[:-1], knots[1:], _STEPS, endpoint=False).T.reshape(-1)
    times, rest = np.append(steps, knots[-1]), warp.anchors.double().numpy()
    with torch.no_grad():
        there = torch.stack([warp.deformed(warp.anchors, torch.full_like(warp.anchors[:, 0], t)) for t in times])
    places = there.double().numpy()
    turns, shifts = procrustes(np.broadcast_to(rest, places.shape), places, np.ones(places.shape[:2]))
    apart = np.linalg.norm(np.ptp(places.mean(1), axis=0))
    angles = np.arccos(np.clip((np.trace(turns @ turns[0].T, axis1=1, axis2=2) - 1) / 2, -1, 1))
    if apart <= _FAR * np.ptp(rest, axis=0).max() and angles.max() <= _TURNED:
        return None
    n = len(warp.times)
    keys = NodeKeys(
        nodes=warp.nodes.double().numpy(), near=warp.near.numpy(), anchors=rest, homes=warp.homes.numpy(),
        spacing=float(warp.spacing), times=warp.times.double().numpy(), turns=warp.turns.double().numpy(),
        shifts=warp.shifts.double().numpy(),
    )  # fmt: skip
    keys = without_rigid(keys, turns[::_STEPS][:n], shifts[::_STEPS][:n])
    period = warp.span[1] - warp.span[0] if warp.loops else None
    matrix = np.tile(np.eye(4), (len(times), 1, 1))
    matrix[:, :3, :3], matrix[:, :3, 3] = turns, shifts
    poses = SE3.from_matrix(torch.from_numpy(matrix))
    field = Warped(learned.field, NodeWarp(keys, period=period)).requires_grad_(False)
    field.measured = learned.measured
    return Travel(times, poses, field)


def without_rigid(keys: NodeKeys, turns: Float[np.ndarray, "t 3 3"], shifts: Float[np.ndarray, "t 3"]) -> NodeKeys:
    """What is left of the motion of nodes where a rigid motion of the whole, a rotation and a translation at each key, is taken
    out."""
    own = rotation_from_quat(torch.from_numpy(keys.turns)).numpy()
    left = continuous(np.stack([quaternions(turn) for turn in turns.transpose(0, 2, 1)[:, None] @ own]))
    return keys._replace(turns=left, shifts=(keys.nodes + keys.shifts - shifts[:, None]) @ turns - keys.nodes)
