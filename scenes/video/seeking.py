"""Tracks are sought by their own shape in frames in which they aren't known: after a loss, and before they began to move.

What a track showed is fused into a model in its own frame. In other frames the model is held against what was observed: first near
the last known pose, at rest and with the last motion, and turned; then on what no other track explains and what stands on planes.
What a frame adds to the model helps in the next one, for a thing that was lost often shows another side.

A thing that rests looks like a part of the still world. It is the model that tells it from that, so pixels that show the model cost
less under its track (`State.shown`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from objects.progress import Bar
from scenes.video.camera import points_of
from scenes.video.flats import plane_pixels
from scenes.video.maps import trust_of
from scenes.video.matching import Match, Window, compare, find_pose, turns_of, window
from scenes.video.model import Model, fused, stage_of
from scenes.video.regions import parts_in_space
from scenes.video.rigid import inverse, nearest_rigid, solve_track
from scenes.video.state import BRIEF, SHOWN_BONUS, State
from scenes.video.tracks import JOIN, replaced

_LEAST = 12  # pixels that must agree
_KNOWN = 0.25  # of a track's usual pixels: less doesn't count as known
_EDGE = 2  # frames before a loss in which a track is found anew: it was already on its way
_SHARE, _COLOR = 0.65, 0.45  # share of what isn't hidden that must agree; mean cost of its colours at most
_OPEN, _COVERS = 0.6, 0.5  # share of what agrees that no other track has; share of a region that must agree
_TAKEN = 0.15  # cost above which a pixel of another track may be this one's
_FEW = 6  # common frames up to which another track may be the same thing
_APART = 3  # frames between those in which a track is sought everywhere
_STEPS = 3  # frames over which a motion goes on
_SHOWN = 0.5  # cost of the colour up to which a pixel shows the model
_WITHIN = 1.1  # radii within which its pixels are
_REGION = (0.3, 3.0)  # size of a region, as a share of the model's at the same distance
_INSIDE = 0.7  # radii that the middle of a thing is behind that of the pixels seen of it
_SURE, _ALL = 0.22, 0.9  # cost, and share that agrees, at which no turns are tried
_TRIED, _DIFFER = 3, 0.15  # turns that are aligned, and how much their rotations differ
_SAME = 0.3  # share of another track's pixels that show the model, above which it may be the same thing
_WEAKENED = 0.7  # share of its pixels, less than which a track must have left to be dropped
_GAIN, _GAIN_PIXEL = 60.0, 0.2  # cost that it must save, over the clip (pixels) and for each of its pixels


class Sought(NamedTuple):
    """A track with the frames in which it was found."""

    to_cam: Float[np.ndarray, "f 4 4"]
    have: Bool[np.ndarray, "f"]
    shown: Bool[np.ndarray, "f h w"]
    """Its pixels in the frames in which it was found: those that agree with the model, and what hangs together with them."""
    share: Float[np.ndarray, "f"]
    """Share of the visible pixels that agree, in these frames; else 0."""


def seek(state: State) -> bool:
    """Seeks the tracks that aren't known in all frames; whether any was found in more of them.

    What other tracks were made of such a thing where it was lost isn't needed any more, and goes.
    """
    left = [k for k in range(1, len(state.have)) if not state.have[k].all()]
    if not left:
        return False
    trust, planes = trust_of(state.maps.depth, state.maps.lens), plane_pixels(state)
    size = np.array([(state.ids == k).sum() for k in range(len(state.have))])
    some, left = False, sorted(left, key=lambda k: -size[k])
    bar = Bar(range(len(left)), desc="seeking", unit="track")
    for _ in bar:
        if not left:
            break
        k = left.pop(0)
        found, ids = sought(state, k, trust, planes), state.ids
        if found is None or not _taken(state, k, found):
            continue
        some = True
        for j in range(len(size) - 1, 0, -1):
            theirs = ids == j
            if j != k and (theirs & found.shown).sum() > _SAME * theirs.sum() and _absorbed(state, k, j, theirs):
                size = np.delete(size, j)
                left = [i - (i > j) for i in left if i != j]
                k -= k > j
    if some:
        _drop_needless(state, size)
    return some


def _absorbed(state: State, k: int, j: int, theirs: np.ndarray) -> bool:
    """Makes track j, whose pixels [F H W] look like the model of k, a part of k: one motion explains both, or j is too brief."""
    if replaced(state, k, j, state.to_cam[k], (state.ids == k) | theirs, JOIN):
        return True
    if state.have[j].sum() >= BRIEF * state.n_frames:
        return False
    state.drop([j])
    state.relabel(fair=True)
    return True


def sought(
    state: State, k: int, trust: Float32[np.ndarray, "f h w"], planes: Bool[np.ndarray, "f h w"]
) -> Sought | None:
    """What is found of track k in frames in which it isn't known; None for nothing.

    Args:
        trust: Weights of depths.
        planes: `plane_pixels`.
    """
    if ((state.ids == k).sum((1, 2)) * state.have[k]).max() < 2 * _LEAST:
        return None
    search = _Search(state, k, trust, planes)
    search.outwards()
    wide = np.zeros(state.n_frames, bool)
    while True:
        have = search.have
        beside = np.abs(np.arange(len(wide))[:, None] - np.flatnonzero(wide)) < _APART
        left = np.flatnonzero(~have & ~beside.any(1))
        if not len(left):
            break
        t = int(left[np.abs(left[:, None] - np.flatnonzero(have)).min(1).argmin()])
        wide[t] = True
        if search.everywhere(t):
            search.outwards()
    return search.result()


class _Search:
    """The search for one track. Poses are those of its model, whose frame is about the middle of the thing."""

    def __init__(self, state: State, k: int, trust: np.ndarray, planes: np.ndarray) -> None:
        maps, masks = state.maps, state.ids == k
        self.state, self.k, self.trust = state, k, trust
        size = masks.sum((1, 2)) * state.have[k]
        known = size >= max(_LEAST, _KNOWN * np.quantile(size[size > 0], 0.8))
        self.anchor = int(size.argmax())
        inner = np.asarray(ndimage.binary_erosion(known, iterations=_EDGE, border_value=1), bool)
        # Frames beside a loss are found anew, if enough others are left.
        self.edge = known & ~inner if inner.sum() >= _EDGE and inner[self.anchor] else np.zeros_like(known)
        self.have = known & ~self.edge
        grid, home, extent = stage_of(maps, masks, self.anchor, np.flatnonzero(self.have))
        self.radius, self.from_model = extent / 2, inverse(state.to_cam[k, self.anchor]) @ home
        self.poses = nearest_rigid(state.to_cam[k]) @ self.from_model
        self.model: Model = fused(maps, trust, masks, self.poses, self.have, grid)
        rivals = [j for j in range(1, len(state.have)) if j != k and (state.have[j] & state.have[k]).sum() > _FEW]
        theirs = np.nan_to_num(state.cost[:, rivals], nan=1).min(1) if rivals else np.ones(masks.shape)
        self.open = (maps.depth > 0) & (~np.isin(state.ids, rivals) | (theirs > _TAKEN))
        self.standing = self.open & ~planes
        self.shown, self.found = np.zeros_like(masks), np.zeros(len(size), bool)
        self.share = np.zeros(len(size))
        self.tried: set[tuple[int, int]] = set()

    def result(self) -> Sought | None:
        """The track in its own frame; None if nothing was found but what was known."""
        state, k = self.state, self.k
        if not (self.found & ~self.edge).any():
            return None
        to_cam = np.where(self.found[:, None, None], self.poses @ inverse(self.from_model), state.to_cam[k])
        return Sought(to_cam, state.have[k] | self.found, self.shown, self.share)

    def outwards(self) -> None:
        """From frames in which it is known to their neighbours, and on over frames in which it is hidden."""
        n = len(self.have)
        for way in (1, -1):
            for t in range(n) if way > 0 else range(n - 1, -1, -1):
                before = [s for s in range(t - way, -1 if way > 0 else n, -way) if self.have[s]][:2]
                if not self.have[t] and before and (t, before[0]) not in self.tried:
                    self.tried.add((t, before[0]))
                    self._take(t, self._near(t, before))

    def everywhere(self, t: int) -> bool:
        """Looks for it on each region of a size that may be its own, as it stood in the nearest frame in which it is known."""
        maps, world, known = self.state.maps, self.state.to_cam[0], np.flatnonzero(self.have)
        a = int(known[np.abs(known - t).argmin()])
        guess = world[t] @ inverse(world[a]) @ self.poses[a]
        size = (self.model.seen_by(self.poses[a], maps.lens, self.open[a].shape).depth > 0).sum() * self.poses[a][
            2, 3
        ] ** 2
        parts, n = parts_in_space(self.standing[t], maps.depth[t])
        for part in range(1, n + 1):
            region = parts == part
            if region.sum() < _LEAST:
                continue
            middle = np.median(points_of(maps, t, *np.nonzero(region)), 0)
            if _REGION[0] * size < region.sum() * middle[2] ** 2 < _REGION[1] * size:
                guess[:3, 3] = middle * (1 + _INSIDE * self.radius / np.linalg.norm(middle))
                if self._take(t, [guess.copy()], region):
                    return True
        return False

    def _near(self, t: int, before: list[int]) -> list[np.ndarray]:
        """Poses in frame t: as it was thought to be, at rest since the last known frame, on with its last motion."""
        world, a = self.state.to_cam[0], before[0]
        guesses = [self.poses[t]] if self.edge[t] else []
        guesses.append(world[t] @ inverse(world[a]) @ self.poses[a])
        if len(before) > 1 and max(abs(t - a), abs(a - before[1])) <= _STEPS:
            now, last = (inverse(world[s]) @ self.poses[s] for s in before)
            times = max(1, round(abs((t - a) / (a - before[1]))))
            go = now.copy()
            go[:3, :3] = np.linalg.matrix_power(now[:3, :3] @ last[:3, :3].T, times) @ now[:3, :3]
            go[:3, 3] += times * (now - last)[:3, 3]
            guesses.append(world[t] @ go)
        return guesses

    def _take(self, t: int, guesses: list[np.ndarray], region: np.ndarray | None = None) -> bool:
        """Finds the pose in a frame, and keeps it if what was observed (in a ``region`` [H W]) agrees."""
        maps = self.state.maps
        there = window(maps, t, self.open[t], guesses, self.radius)
        if there is None:
            return False
        match = _best_pose(there, self.model, guesses)
        if not self._believed(t, there, match, region):
            return False
        self.poses[t] = nearest_rigid(match.to_cam[None])[0]
        self.have[t] = self.found[t] = True
        self.share[t] = match.share
        self.shown[t][there.box] = match.agrees & (match.color < _SHOWN)
        self.shown[t] |= self._beside(t)
        self.model.add(maps.depth[t], self.shown[t], self.trust[t], maps.rgb[t], self.poses[t], maps.lens)
        return True

    def _believed(self, t: int, there: Window, match: Match, region: np.ndarray | None) -> bool:
        n = int(match.agrees.sum())
        if n < _LEAST or match.share < _SHARE or match.color[match.agrees].mean() > _COLOR:
            return False
        if (match.agrees & self.open[t][there.box]).sum() < _OPEN * n:
            return False
        return region is None or (match.agrees & region[there.box]).sum() >= _COVERS * region.sum()

    def _beside(self, t: int) -> Bool[np.ndarray, "h w"]:
        """What hangs together in space with pixels that agree, within the size of the thing; no planes and no other things."""
        maps, near = self.state.maps, np.zeros(self.standing[t].shape, bool)
        y, x = np.nonzero(self.standing[t])
        near[y, x] = np.linalg.norm(points_of(maps, t, y, x) - self.poses[t][:3, 3], axis=-1) < _WITHIN * self.radius
        parts, _ = parts_in_space(near | self.shown[t], maps.depth[t])
        return np.isin(parts, np.unique(parts[self.shown[t] & (parts > 0)])) & (parts > 0)


def _rank(match: Match) -> float:
    """Cost of a pose; one at which hardly anything agrees comes last."""
    return match.cost + (match.agrees.sum() < _LEAST)


def _best_pose(there: Window, model: Model, guesses: list[np.ndarray]) -> Match:
    """The pose at which the model agrees best with a frame, from guesses and, if none will do, from turns that look best."""
    found = [find_pose(there, model, [guess], turned=False) for guess in guesses]
    best = min(found, key=_rank)
    if best.cost < _SURE and best.share > _ALL and best.agrees.sum() >= _LEAST:
        return best
    starts = [best.to_cam] if best.agrees.sum() >= _LEAST else guesses
    picked: list[Match] = []
    for fit in sorted((compare(there, model, T) for start in starts for T in turns_of(start)), key=_rank):
        if all(np.linalg.norm((fit.to_cam - other.to_cam)[:3, :3]) > _DIFFER for other in picked):
            picked.append(fit)
        if len(picked) == _TRIED:
            break
    return min([best, *(find_pose(there, model, [fit.to_cam], turned=False) for fit in picked)], key=_rank)


def _energy(state: State) -> float:
    """Sum of the fair costs of all pixels under their labels, less for those that show a model."""
    labels = np.maximum(state.ids, 0)[:, None]
    cost, shown = (np.take_along_axis(a, labels, 1)[:, 0] for a in (state.fair_cost(), state.shown))
    cost = np.where(shown, np.maximum(cost - SHOWN_BONUS, 0), cost)
    return float(np.nansum(np.where(state.ids >= 0, cost, 0)))


def _taken(state: State, k: int, found: Sought) -> bool:
    """Makes what was found a part of track k, if the clip costs no more with it."""
    before = _energy(state)
    kept = [a[k].copy() for a in (state.to_cam, state.have, state.share)]
    kept += [state.cost[:, k].copy(), state.shown[:, k].copy(), state.ids]
    mine = (state.ids == k) | found.shown
    state.to_cam[k], _ = solve_track(state.maps, mine, found.to_cam, found.have & mine.any((1, 2)), rounds=3)
    state.have[k], state.share[k] = found.have, np.where(found.share > 0, found.share, state.share[k])
    state.shown[:, k] |= found.shown
    state.recost(k, mine)
    state.relabel(fair=True)
    if _energy(state) <= before:
        return True
    state.to_cam[k], state.have[k], state.share[k], state.cost[:, k], state.shown[:, k], state.ids = kept
    return False


def _drop_needless(state: State, before: np.ndarray) -> None:
    """Drops tracks that lost pixels to those that were found, if others explain what is left about as well.

    Args:
        before: [K] their pixels before.
    """
    while True:
        cost = np.nan_to_num(state.fair_cost())
        for k in range(1, len(before)):
            mine = state.ids == k
            more = float((np.delete(cost, k, 1).min(1) - cost[:, k])[mine].sum())
            if mine.sum() < _WEAKENED * before[k] and more < _GAIN + _GAIN_PIXEL * mine.sum():
                state.drop([k])
                state.relabel(fair=True)
                before = np.delete(before, k)
                break
        else:
            return
