"""Follows a thing that bends through frames that show a part of its surface each, such as pictures with depth.

What one frame shows is followed through all others; frames that it was carried to are carried back and become one surface, as far
as it was seen (the idea of Newcombe, Fox, Seitz, "DynamicFusion", CVPR 2015); that is followed again, and reaches more of them.
Pairs at the edge of what a frame shows don't count: there the nearest point is not the same point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from objects.warp_following import Followed, distances, evenly
from objects.warp_surface import Surface, part_of
from objects.warp_tracking import Motion, Pairs, Stage, Template, composed, moved, rebased, register, template_of

# From where things would be; then with the first frame's shape at rest.
_NEXT = (Stage(0.2, 0.05, 0.1, 0.08, 0.3, 5, 1.0), Stage(0.1, 0.05, 0.1, 0.05, 0.2, 5, 1.0, 3e-2))
_CLOSER = (Stage(0.1, 0.05, 0.1, 0.04, 0.1, 6, 0.0, 3e-2),)
_NEAR = 1.5  # distance up to which points of a frame belong to the moved surface, in units of the nodes' spacing
_KNOWN = 0.5  # distance up to which the motion of a frame's point is that of a point of the template, in the same units
_PASSES = 3  # through the frames, at most
_APART = 0.02  # share of what a frame shows that may be apart from the moved template in a frame that is put together with others
_FIRM = 2  # points that must fall into a cell of the fused surface, if the first frame shows none there
_CELL = 1 / 120  # edge of these cells, a share of the extent
_SHOWN = 0.95  # share of the most points that a frame shows from which it shows about the most


class Seen(NamedTuple):
    """Points that one frame shows.

    Attributes:
        points, normals: Places; unit normals outwards.
        colors: sRGB in 0..1.
        behind, ahead: Where the same points are in the frames before and after, NaN where that isn't known; None: nowhere.
    """

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    colors: Float[np.ndarray, "n 3"]
    behind: Float[np.ndarray, "n 3"] | None = None
    ahead: Float[np.ndarray, "n 3"] | None = None


def first_frame(frames: Sequence[Seen]) -> int:
    """The frame nearest to the middle among those that show about the most."""
    shown = np.array([len(frame.points) for frame in frames])
    return int(min(np.flatnonzero(shown >= _SHOWN * shown.max()), key=lambda i: abs(i - (len(frames) - 1) / 2)))


def follow_parts(
    frames: Sequence[Seen],
    times: Float[np.ndarray, "t"],
    *,
    n_nodes: int,
    n_points: int,
    n_dense: int,
    seed: int,
    on_frame: Callable[[int], object] = lambda frame: None,
) -> tuple[Template, Followed, Seen]:
    """Follows what frames show, and puts it together at the time of their `first_frame`.

    Returns:
        The surface that was put together, with nodes; its motions to all frames; its points with colours.
    """

    def surface(seen: Seen, number: int) -> Surface:
        return part_of(seen, n_points=n_points, n_dense=n_dense, seed=seed + number)

    first = first_frame(frames)
    surfaces = [surface(frame, i) for i, frame in enumerate(frames)]
    template = template_of(surfaces[first], n_nodes)
    motions, whole, held = [Motion.none(len(template.nodes))] * len(frames), frames[first], [first]
    for number in range(_PASSES):
        motions = _through(template, surfaces, frames, times, first, on_frame if number == 0 else lambda frame: None)
        apart = [_apart(template, m, s) for m, s in zip(motions, surfaces, strict=True)]
        reached = [t for t in range(len(frames)) if t == first or apart[t] <= _APART]
        whole = fused(template, [motions[t] for t in reached], [frames[t] for t in reached], reached.index(first))
        if number == _PASSES - 1 or (number and len(reached) <= len(held)):
            break
        held, template = reached, template_of(surface(whole, number), n_nodes)
    misfits = [_unexplained(template, m, s) for m, s in zip(motions, surfaces, strict=True)]
    return template, Followed(motions, misfits), whole


def fused(template: Template, motions: Sequence[Motion], frames: Sequence[Seen], first: int) -> Seen:
    """All frames carried back to where the template is at rest, one point for each small cell that several points fall into, with
    the colour that the frame nearest to the first one shows: a mean over frames would be blurred by how they drift."""
    parts = []
    for number, (motion, frame) in enumerate(zip(motions, frames, strict=True)):
        places, normals = moved(template, motion)
        distance, at = map(np.asarray, KDTree(places).query(frame.points))
        kept = (distance < _NEAR * template.spacing) & ((normals[at] * frame.normals).sum(1) > 0)
        at, p, n, c = at[kept], frame.points[kept], frame.normals[kept], frame.colors[kept]
        back = np.einsum("nm,nmab->nba", template.weight[at], motion.rotation[template.index[at]])
        parts.append((
            template.points[at] + (back @ (p - places[at])[..., None])[..., 0], (back @ n[..., None])[..., 0], c,
            np.full(len(p), abs(number - first)),
        ))  # fmt: skip
    p, n, c, away = (np.concatenate([part[k] for part in parts]) for k in range(4))
    order = np.argsort(away, kind="stable")
    p, n, c, away = p[order], n[order], c[order], away[order]
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
    axis = np.argmax(np.abs(n), axis=1)
    side = 2 * axis + (np.take_along_axis(n, axis[:, None], 1)[:, 0] > 0)  # both faces of something thin are two cells
    cell = np.concatenate([np.floor(p / (_CELL * template.extent)).astype(int), side[:, None]], 1)
    _, nearest, which, count = np.unique(cell, axis=0, return_index=True, return_inverse=True, return_counts=True)
    which = which.ravel()
    mean = [np.stack([np.bincount(which, x[:, k]) for k in range(3)], 1) / count[:, None] for x in (p, n)]
    firm = (count >= _FIRM) | (away[nearest] == 0)
    p, n, c = mean[0][firm], mean[1][firm], c[nearest][firm]
    return Seen(p, n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9), c)


def _through(
    template: Template,
    surfaces: Sequence[Surface],
    frames: Sequence[Seen],
    times: np.ndarray,
    first: int,
    on_frame: Callable[[int], object],
) -> list[Motion]:
    """Motions to all frames, each from where things would be if they went on as they moved before."""
    none = Motion.none(len(template.nodes))
    found = {first: register(template, none, surfaces[first], _CLOSER)}
    for way, end in ((1, len(frames)), (-1, -1)):
        for frame in range(first + way, end, way):
            last, before = frame - way, frame - 2 * way if frame - way != first else first
            on = 0.0 if before == last else (times[frame] - times[last]) / (times[last] - times[before])
            known = _carried_on(template, found[last], frames[last], way)
            guess = evenly(found[before], found[last], 1 + on)
            step = register(rebased(template, guess), none, surfaces[frame], _NEXT, known)
            found[frame] = register(template, composed(step, guess), surfaces[frame], _CLOSER)
            on_frame(frame)
    return [found[frame] for frame in range(len(frames))]


def _apart(template: Template, motion: Motion, target: Surface) -> float:
    """Share of what a frame shows that is apart from the moved template."""
    distance = np.asarray(KDTree(moved(template, motion)[0]).query(target.points)[0])
    return float((distance > template.spacing).mean())


def _carried_on(template: Template, motion: Motion, frame: Seen, way: int) -> Pairs | None:
    """Where points of the template go from a frame to the next one or the one before, as far as the frame says."""
    there = frame.ahead if way > 0 else frame.behind
    if there is None:
        return None
    known = np.isfinite(there).all(1)
    if not known.any():
        return None
    places, normals = moved(template, motion)
    distance, at = map(np.asarray, KDTree(frame.points[known]).query(places))
    near = (distance < _KNOWN * template.spacing) & ((normals * frame.normals[known][at]).sum(1) > 0)
    at, rows = at[near], np.flatnonzero(near)
    return Pairs(rows, places[rows] + (there - frame.points)[known][at])


def _unexplained(template: Template, motion: Motion, target: Surface) -> float:
    """Mean distance of what a frame shows from the moved template, in units of the extent."""
    return float(distances(template, motion, target)[1].mean()) / template.extent
