"""Follows a thing that bends through frames that show a part of its surface each, such as pictures with depth.

What one frame shows is followed outwards, and grows on the way: frames that it was carried to are carried back and become one
surface, as far as it was seen (the idea of Newcombe, Fox, Seitz, "DynamicFusion", CVPR 2015), which goes on to the next. So a
limb that turns its other side is still known there. Parts that a frame looks through are pulled to what it shows, or sought
(`objects.limbs`). Pairs at the edge of what a frame shows don't count: there the nearest point is not the same point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from objects.limbs import Before, in_air, swung
from objects.warp_following import Followed, distances, evenly
from objects.warp_surface import Surface, part_of
from objects.warp_tracking import (
    Motion,
    Pairs,
    Stage,
    Template,
    blend_weights,
    composed,
    moved,
    rebased,
    register,
    template_of,
)

# From where things would be; then with the first frame's shape at rest.
_NEXT = (Stage(0.2, 0.05, 0.1, 0.08, 0.3, 5, 1.0), Stage(0.1, 0.05, 0.1, 0.05, 0.2, 5, 1.0, 3e-2))
_CLOSER = (Stage(0.1, 0.05, 0.1, 0.04, 0.1, 6, 0.3, 3e-2),)
_NEAR = 1.5  # distance up to which points of a frame belong to the moved surface, in units of the nodes' spacing
_FACING = 0.5  # what normals weigh where a frame's points are joined to it, in the same units
_KNOWN = 0.5  # distance up to which the motion of a frame's point is that of a point of the template, in the same units
_GROWS = 0.01  # share of what frames show that lies beside the template, after which it grows
_BESIDE = 0.6  # from this distance on (normals included), in units of the nodes' spacing
_MORE = 1.6  # nodes when it has grown, beside those of the first frame, at most
_APART = 0.02  # share of what a frame shows that may be apart from the moved template in a frame that is put together with others
_ASTRAY = 0.005  # of the same and of the template that is in the air, together: from this on, limbs are sought
_FIRM = 2  # points that must fall into a cell of the fused surface, if the first frame shows none there
_CELL = 1 / 120  # edge of these cells, a share of the extent
_SHOWN = 0.95  # share of the most points that a frame shows from which it shows about the most


class Seen(NamedTuple):
    """Points that one frame shows.

    Attributes:
        points, normals: Places; unit normals outwards.
        colors: sRGB in 0..1.
        behind, ahead: Where the same points are in the frames before and after, NaN where that isn't known; None: nowhere.
        before: What the frame looks through; None: that isn't known.
    """

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    colors: Float[np.ndarray, "n 3"]
    behind: Float[np.ndarray, "n 3"] | None = None
    ahead: Float[np.ndarray, "n 3"] | None = None
    before: Before | None = None


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

    following = _Following(frames, times, n_nodes, n_points, n_dense, seed)
    on_frame(following.first)
    for step in range(1, len(frames)):
        for way in (1, -1):
            frame = following.first + way * step
            if 0 <= frame < len(frames):
                following.reach(frame, way)
                on_frame(frame)
    return following.closed()


class _Following:
    """A template that grows by what the frames that it was carried to show beside it, and its motions so far."""

    def __init__(
        self, frames: Sequence[Seen], times: np.ndarray, n_nodes: int, n_points: int, n_dense: int, seed: int
    ) -> None:
        self.frames, self.times, self.first = frames, times, first_frame(frames)
        self.n_nodes, self.n_points, self.n_dense, self.seed = n_nodes, n_points, n_dense, seed
        self.surfaces = [self._surface(frame, i) for i, frame in enumerate(frames)]
        self.template = template_of(self.surfaces[self.first], n_nodes)
        start = register(self.template, Motion.none(len(self.template.nodes)), self.surfaces[self.first], _CLOSER)
        self.motions, self.held, self.new = {self.first: start}, [self.first], 0.0
        self.whole = self._fused()
        self.per_point = len(self.template.nodes) / len(self.whole.points)

    def reach(self, frame: int, way: int) -> None:
        """The motion to a frame beside one that was reached, from where things would be if they went on as before."""
        template, last, before = self.template, frame - way, frame - 2 * way
        before = before if before in self.motions else last
        on = 0.0 if before == last else (self.times[frame] - self.times[last]) / (self.times[last] - self.times[before])
        known = _carried_on(template, self.motions[last], self.frames[last], way)
        guess = evenly(self.motions[before], self.motions[last], 1 + on)
        none = Motion.none(len(template.nodes))
        step = register(rebased(template, guess), none, self.surfaces[frame], _NEXT, known)
        self.motions[frame] = self._closer(frame, composed(step, guess))
        wrong = self._wrong(frame, self.motions[frame])
        if sum(wrong) > _ASTRAY:
            self._seek(frame, sum(wrong))
            wrong = self._wrong(frame, self.motions[frame])
        if wrong[0] <= _APART:
            self.held.append(frame)
            self.new += _new(template, self.motions[frame], self.surfaces[frame])
            if self.new > _GROWS:
                self.grow()

    def _closer(self, frame: int, motion: Motion) -> Motion:
        """A motion brought closer to a frame; what the frame looks through goes where something is shown."""
        seen, pairs = self.frames[frame], None
        if seen.before is not None:
            places, _ = moved(self.template, motion)
            rows = np.flatnonzero(in_air(self.template, places, seen.before))
            pairs = Pairs(rows, seen.points[np.asarray(KDTree(seen.points).query(places[rows])[1])])
        return register(self.template, motion, self.surfaces[frame], _CLOSER, pairs)

    def _wrong(self, frame: int, motion: Motion) -> tuple[float, float]:
        """Shares of what a frame shows that is apart from the moved template, and of the template that it looks through."""
        before = self.frames[frame].before
        apart = _apart(self.template, motion, self.surfaces[frame])
        if before is None:
            return apart, 0.0
        return apart, float(in_air(self.template, moved(self.template, motion)[0], before).mean())

    def _seek(self, frame: int, wrong: float) -> None:
        """Tries a frame again with lost limbs turned to where they may be."""
        before = self.frames[frame].before
        if before is None:
            return
        guess = swung(self.template, self.motions[frame], self.surfaces[frame], before)
        if guess is None:
            return
        none = Motion.none(len(self.template.nodes))
        step = register(rebased(self.template, guess), none, self.surfaces[frame], _NEXT)
        motion = self._closer(frame, composed(step, guess))
        if sum(self._wrong(frame, motion)) < wrong:
            self.motions[frame] = motion

    def grow(self) -> None:
        """A template of all that was put together so far, which moves as the one before."""
        self.whole, self.new, old = self._fused(), 0.0, self.template
        n_nodes = round(self.per_point * len(self.whole.points))
        n_nodes = min(max(n_nodes, self.n_nodes), round(_MORE * self.n_nodes))
        self.template = template_of(self._surface(self.whole, len(self.motions)), n_nodes)
        self.motions = {frame: _handed_on(old, motion, self.template) for frame, motion in self.motions.items()}

    def closed(self) -> tuple[Template, Followed, Seen]:
        """The last template, carried closer to all frames."""
        self.grow()
        motions = [self._closer(frame, self.motions[frame]) for frame in range(len(self.frames))]
        self.motions = dict(enumerate(motions))
        self.whole = self._fused()
        misfits = [_unexplained(self.template, m, s) for m, s in zip(motions, self.surfaces, strict=True)]
        return self.template, Followed(motions, misfits), self.whole

    def _surface(self, seen: Seen, number: int) -> Surface:
        return part_of(seen, n_points=self.n_points, n_dense=self.n_dense, seed=self.seed + number)

    def _fused(self) -> Seen:
        held = sorted(self.held)
        motions, frames = [self.motions[t] for t in held], [self.frames[t] for t in held]
        return fused(self.template, motions, frames, held.index(self.first))


def _handed_on(old: Template, motion: Motion, new: Template) -> Motion:
    """The motion of a template as that of the nodes of another one, canonical frames being the same."""
    at = np.asarray(KDTree(old.points).query(new.nodes)[1])
    index = old.index[at]
    weight = blend_weights(new.nodes, old.nodes[index], old.spacing)
    rotation = motion.rotation[index]
    off = new.nodes[:, None] - old.nodes[index]
    places = (rotation @ off[..., None])[..., 0] + (old.nodes + motion.shift)[index]
    u, _, vt = np.linalg.svd((weight[..., None, None] * rotation).sum(1))
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
    return Motion(u @ vt, (weight[..., None] * places).sum(1) - new.nodes)


def _new(template: Template, motion: Motion, target: Surface) -> float:
    """Share of what a frame shows that lies beside the moved template."""
    places, normals = moved(template, motion)
    facing = _FACING * template.spacing
    tree = KDTree(np.concatenate([places, facing * normals], 1))
    distance = np.asarray(tree.query(np.concatenate([target.points, facing * target.normals], 1))[0])
    return float((distance > _BESIDE * template.spacing).mean())


def fused(template: Template, motions: Sequence[Motion], frames: Sequence[Seen], first: int) -> Seen:
    """All frames carried back to where the template is at rest, one point for each small cell that several points fall into, with
    the colour that the frame nearest to the first one shows: a mean over frames would be blurred by how they drift."""
    parts = []
    for number, (motion, frame) in enumerate(zip(motions, frames, strict=True)):
        places, normals = moved(template, motion)
        # The other side of something thin belongs to it, where nothing else is near.
        facing = _FACING * template.spacing
        tree = KDTree(np.concatenate([places, facing * normals], 1))
        at = np.asarray(tree.query(np.concatenate([frame.points, facing * frame.normals], 1))[1])
        kept = np.linalg.norm(places[at] - frame.points, axis=1) < _NEAR * template.spacing
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
