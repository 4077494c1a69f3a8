"""Parts of a thing that were lost between two frames: sought by turning each about where it hangs.

A limb that swings fast, or that is seen end on, is left behind in the air while the rest is followed. The frame tells so: it looks
through where the limb was carried, and shows something where nothing was carried.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csgraph, csr_array
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from objects.warp_surface import Surface
from objects.warp_tracking import Motion, Template, moved

AIR = 0.3  # how far places may lie before what is seen there, in units of the nodes' spacing
_TURNS, _MOST = 600, 2.2  # that are tried, and the largest of them, radians
_HALF = 0.5  # share of a node's points in the air from which it is lost; and of all nodes, which are no limb
_POINTS = 150  # of a limb and of what is shown beside, at most
_REACH = 0.15  # distances count up to this share of the extent
_TURNING = 0.01  # what a turn by 1 radian costs, as a distance, a share of the extent

Before = Callable[[Float[np.ndarray, "n 3"]], Float[np.ndarray, "n"]]
"""How far places lie before what a frame shows there; 0 where it doesn't look through them."""


def in_air(template: Template, places: Float[np.ndarray, "n 3"], before: Before) -> Bool[np.ndarray, "n"]:
    """Which moved points of a template a frame looks through."""
    return before(places) > AIR * template.spacing


def lost_nodes(home: Int[np.ndarray, "n"], k: int, air: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "k"]:
    """Which of ``k`` nodes have most of the points whose home they are in the air."""
    return np.bincount(home, air, minlength=k) > _HALF * np.maximum(np.bincount(home, minlength=k), 1)


def swung(template: Template, motion: Motion, shown: Surface, before: Before) -> Motion | None:
    """The motion with each limb that is in the air turned to where it explains best what is shown beside; None where there is none.

    Args:
        template, motion: The thing and where it was carried.
        shown: What the frame shows.
        before: What it looks through.
    """
    places, _ = moved(template, motion)
    lost = lost_nodes(template.home, len(template.nodes), in_air(template, places, before))
    distance = np.asarray(KDTree(places).query(shown.points)[0])
    beside = shown.points[distance > template.spacing]
    if not lost.any() or len(beside) == 0:
        return None
    i, j = template.edges.T
    within = lost[i] & lost[j]
    k = len(template.nodes)
    graph = csr_array((np.ones(int(within.sum())), (i[within], j[within])), shape=(k, k))
    limb = csgraph.connected_components(graph, directed=False)[1]
    rotation, at, found = motion.rotation.copy(), template.nodes + motion.shift, False
    rng = np.random.default_rng(0)
    for number in np.unique(limb[lost]):
        mine = (limb == number) & lost
        hangs = np.unique(np.concatenate([j[mine[i] & ~lost[j]], i[mine[j] & ~lost[i]]]))
        if mine.sum() < 2 or mine.sum() > _HALF * k or len(hangs) == 0:
            continue
        hinge = at[hangs].mean(0)
        points = places[mine[template.home]]
        turn = _best_turn(
            points[rng.permutation(len(points))[:_POINTS]], hinge, beside[rng.permutation(len(beside))[:_POINTS]],
            before, template.extent,
        )  # fmt: skip
        if turn is not None:
            rotation[mine] = turn @ rotation[mine]
            at[mine] = (at[mine] - hinge) @ turn.T + hinge
            found = True
    return Motion(rotation, at - template.nodes) if found else None


def _best_turn(
    points: Float[np.ndarray, "n 3"],
    hinge: Float[np.ndarray, "3"],
    beside: Float[np.ndarray, "m 3"],
    before: Before,
    extent: float,
) -> Float[np.ndarray, "3 3"] | None:
    """The turn about a hinge after which points lie on what is shown and not in the air; None where none is better than before."""
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(_TURNS, 3))
    angles = np.linspace(0, _MOST, _TURNS)
    turns = Rotation.from_rotvec(angles[:, None] * axes / np.linalg.norm(axes, axis=1, keepdims=True)).as_matrix()
    turned = (points - hinge) @ turns.transpose(0, 2, 1) + hinge
    reach = _REACH * extent
    off = np.array([np.minimum(cdist(beside, places).min(1), reach).mean() for places in turned])
    off += np.minimum(before(turned.reshape(-1, 3)), reach).reshape(_TURNS, -1).mean(1)
    best = int(np.argmin(off + _TURNING * extent * angles))
    return turns[best] if best else None
