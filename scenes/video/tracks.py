"""Tracks: what moves rigidly is found where the still world fails, followed through the clip, and refined with its labels."""

from __future__ import annotations

import numpy as np

from objects.progress import Bar
from scenes.video.camera import points_of
from scenes.video.following import LEAST, extend, follow, guesses_of, moved_guesses, seed_of
from scenes.video.maps import Maps
from scenes.video.regions import parts_in_space, widened
from scenes.video.rigid import align, inverse, judge, solve_track
from scenes.video.state import State

_GAIN, _GAIN_PIXEL = 60.0, 0.12  # cost that a track must save, over the clip (pixels) and for each of its pixels
_MOST_TRACKS = 24
_TRIES = 12  # regions from which nothing comes, one after the other, until the search ends
_GAP = 6  # frames over which a lost track is sought
_OVERLAP = 6  # frames that two parts of one thing may share
_DRIFT = 0.08  # metres by which two parts of one thing may seem to move differently
_MERGE = 0.12  # cost a pixel that one motion for two tracks may add
_SPLICE = 0.65  # share of what is visible that must agree where two tracks are joined


def find_tracks(state: State) -> None:
    """Adds tracks until nothing of some size is left unexplained."""
    rng = np.random.default_rng(1)
    bar = Bar(range(_MOST_TRACKS), desc="tracks", unit="track")
    for _ in bar:
        if not _grow_one(state, rng):
            break


def _grow_one(state: State, rng: np.random.Generator) -> bool:
    """Tries the largest unexplained regions until one gives a track; False if none is left."""
    for _ in range(_TRIES):
        bad = state.failing()
        region = _largest_region(state.maps, bad)
        if region is None:
            return False
        t, mask = region
        seed = seed_of(state, t, mask, rng)
        if seed is not None:
            before = state.energy()
            to_cam, have, masks = follow(state, t, *seed)
            if have.sum() >= 2:
                to_cam, _ = solve_track(state.maps, masks, to_cam, have, offsets=(1, 2, 4), outlined=False)
                kept = state.cost, state.ids
                state.add(to_cam, have, masks)
                state.relabel()
                gain = before - state.energy()
                if gain > max(_GAIN, _GAIN_PIXEL * (state.ids == len(state.to_cam) - 1).sum()):
                    state.tried[:] = False
                    return True
                state.to_cam, state.have, state.share = state.to_cam[:-1], state.have[:-1], state.share[:-1]
                state.cost, state.ids = kept
        state.tried[t] |= mask
    return False


def _largest_region(maps: Maps, bad: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The frame and the mask of the largest connected region, connected in depth, too."""
    best, found = LEAST - 1, None
    for t in range(len(bad)):
        parts, n = parts_in_space(bad[t], maps.depth[t])
        if n == 0:
            continue
        sizes = np.bincount(parts.ravel())[1:]
        if sizes.max() > best:
            best, found = sizes.max(), (t, parts == 1 + np.argmax(sizes))
    return found


def refine(state: State, rounds: int = 2, *, camera: bool = False) -> None:
    """Poses from labels and labels from poses, in turn; tracks that explain too little go.

    ``camera``: whether the camera's path is refined, too (frame 0 stays).
    """
    for _ in Bar(range(rounds), desc="refining", unit="round"):
        if camera:
            still = (state.ids == 0) & (np.nan_to_num(state.cost[:, 0], nan=1) < 0.2)
            fixed = np.arange(state.n_frames) == 0
            state.to_cam[0], _ = solve_track(
                state.maps,
                still,
                state.to_cam[0],
                state.have[0],
                fixed=fixed,
                most=1200,
                gates=(0.006,),
                rounds=5,
                outlined=False,
            )
            state.recost(0)
        for k in range(1, len(state.to_cam)):
            masks = state.ids == k
            have = state.have[k] & (masks.sum((1, 2)) >= 6)
            if have.sum() >= 2:
                state.to_cam[k], state.share[k] = solve_track(state.maps, masks, state.to_cam[k], have)
            state.recost(k)
        state.relabel()
        prune(state)
        widest = np.array([(state.ids == k).sum((1, 2)).max() for k in range(len(state.to_cam))])
        total = np.array([(state.ids == k).sum() for k in range(len(state.to_cam))])
        gone = [k for k in range(1, len(total)) if widest[k] < LEAST or total[k] < 2 * LEAST]
        if gone:
            state.drop(gone)


def prune(state: State) -> None:
    """Drops tracks whose pixels others explain about as well, the least needed first."""
    while len(state.to_cam) > 1:
        cost = np.where(np.isnan(state.cost), 0, state.cost)
        loss = []
        for k in range(1, len(state.to_cam)):
            others = np.delete(cost, k, 1).min(1)
            mine = state.ids == k
            loss.append(float((others - cost[:, k])[mine].sum()) / max(_GAIN, _GAIN_PIXEL * mine.sum()))
        least = int(np.argmin(loss))
        if loss[least] >= 1:
            return
        state.drop([least + 1])


def mend(state: State) -> None:
    """Carries tracks on into frames in which they were lost, where something unexplained, or nothing but the still world, is
    in their way; a track that goes on as another one is joined with it."""
    for k in Bar(range(1, len(state.to_cam)), desc="mending", unit="track"):
        masks = state.ids == k
        state.have[k] &= masks.sum((1, 2)) >= 6
        have, to_cam = state.have[k].copy(), state.to_cam[k].copy()
        if not have.any():
            continue
        bad = state.failing()
        for way in (1, -1):
            for s in range(state.n_frames) if way > 0 else range(state.n_frames - 1, -1, -1):
                t = s - way
                if have[s] or not 0 <= t < state.n_frames:
                    continue
                last = [r for r in range(t, -1 if way > 0 else state.n_frames, -way) if have[r]][:1]
                if not last or abs(s - last[0]) > _GAP:
                    continue
                guesses = moved_guesses(state, to_cam, masks, last[0], s, bad[s])
                if last[0] == t:
                    guesses += guesses_of(state, to_cam, have, masks, s, way)
                if guesses:
                    extend(state, to_cam, have, masks, s, guesses)
        if (have != state.have[k]).any():
            state.to_cam[k], state.have[k] = to_cam, have
            state.recost(k, masks)
            state.relabel()


def splice(state: State) -> None:
    """Joins two tracks that are parts of one thing: the first is carried to where the other is, and the other goes if it isn't
    needed any more."""
    k = 1
    while k < len(state.to_cam):
        for other in range(1, len(state.to_cam)):
            if other == k or (state.have[k] & state.have[other]).sum() > _OVERLAP:
                continue
            if _joined(state, k, other):
                k = 0
                break
        k += 1


def merge(state: State) -> None:
    """Makes one of two tracks that touch and move alike, if one motion explains the pixels of both about as well."""
    k = 1
    while k < len(state.to_cam):
        others = [j for j in range(1, len(state.to_cam)) if j != k and (state.ids == j).sum() <= (state.ids == k).sum()]
        if any(_alike(state, k, j) and _merged(state, k, j) for j in others):
            k = 0  # numbers have changed
        k += 1


def _alike(state: State, k: int, other: int) -> bool:
    """Whether two tracks touch, and take the pixels of ``other`` to about the same places."""
    both = np.flatnonzero(state.have[k] & state.have[other])
    touching, drift, start = 0, 0.0, None
    for t in both.tolist():
        mine, theirs = state.ids[t] == k, state.ids[t] == other
        if theirs.sum() < 6:
            continue
        wide = widened(mine, 2) & theirs
        touching += bool(wide.any())
        y, x = np.nonzero(theirs)
        centre = np.append(np.nanmedian(points_of(state.maps, t, y, x), 0), 1)
        if start is None:
            start = inverse(state.to_cam[other, t]) @ centre, inverse(state.to_cam[k, t]) @ centre
        drift = max(
            drift, float(np.linalg.norm((state.to_cam[other, t] @ start[0] - state.to_cam[k, t] @ start[1])[:3]))
        )
    return touching > 0 and touching >= 0.5 * len(both) and drift < _DRIFT


def _merged(state: State, k: int, other: int) -> bool:
    masks = (state.ids == k) | (state.ids == other)
    both = np.flatnonzero(state.have[k] & state.have[other])
    sizes = ((state.ids[both] == other).sum((1, 2))) * ((state.ids[both] == k).sum((1, 2)))
    t = both[np.argmax(sizes)]
    kept = state.to_cam[k].copy(), state.have[k].copy(), state.cost[:, k].copy()
    cost = np.where(np.isnan(state.cost), 0, state.cost)
    before = np.minimum(cost[:, k], cost[:, other])[masks].sum()
    most = _GAIN + _MERGE * (state.ids == other).sum()
    # Either may be the one that moves as the whole does.
    for first, second in ((k, other), (other, k)):
        to_cam = np.where(state.have[first][:, None, None], state.to_cam[first], 0)
        have = (state.have[first] | state.have[second]) & (masks.sum((1, 2)) >= 6)
        add = state.have[second] & ~state.have[first]
        to_cam[add] = state.to_cam[second, add] @ inverse(state.to_cam[second, t]) @ state.to_cam[first, t]
        to_cam[~have] = np.eye(4)
        to_cam, share = solve_track(state.maps, masks, to_cam, have, gates=(0.02, 0.008), rounds=5)
        state.to_cam[k], state.have[k] = to_cam, have
        state.recost(k, masks)
        after = np.nan_to_num(state.cost[:, k])[masks].sum()
        if after - before <= most:
            state.share[k] = share
            state.drop([other])
            return True
        state.to_cam[k], state.have[k], state.cost[:, k] = kept[0].copy(), kept[1].copy(), kept[2].copy()
    return False


def _joined(state: State, k: int, other: int) -> bool:
    masks, theirs = state.ids == k, state.ids == other
    mine = np.flatnonzero(state.have[k] & (masks.sum((1, 2)) >= LEAST // 2))
    new = np.flatnonzero(state.have[other] & ~state.have[k] & (theirs.sum((1, 2)) >= LEAST // 2))
    if len(mine) == 0 or len(new) == 0:
        return False
    gaps = np.abs(mine[:, None] - new[None])
    t, s = int(mine[gaps.min(1).argmin()]), int(new[gaps.min(0).argmin()])
    if abs(s - t) > _GAP:
        return False
    to_cam = state.to_cam[k].copy()
    near = mine[np.argsort(np.abs(mine - s), kind="stable")][:3].tolist()
    guesses = moved_guesses(state, to_cam, masks, t, s, theirs[s])
    best = None
    for guess in sorted(judge(state.maps, masks, near, s, to_cam, guesses), key=lambda fit: fit.cost)[:6]:
        to_cam[s] = guess.T_s_t
        fit = align(state.maps, masks, near, s, to_cam, most=200)
        if best is None or fit.cost < best.cost:
            best = fit
    if best is None or best.agree < _SPLICE or best.n < LEAST:
        return False
    back = inverse(state.to_cam[other, s]) @ best.T_s_t
    add = state.have[other] & ~state.have[k]
    kept = state.to_cam[k].copy(), state.have[k].copy(), state.cost[:, k].copy()
    state.to_cam[k, add] = state.to_cam[other, add] @ back
    state.have[k] |= add
    state.recost(k, masks | theirs)
    cost = np.where(np.isnan(state.cost), 0, state.cost)
    without = np.delete(cost, other, 1).min(1)
    if (without - cost[:, other])[theirs].sum() > 0.08 * theirs.sum() + _GAIN:
        state.to_cam[k], state.have[k], state.cost[:, k] = kept
        return False
    state.drop([other])
    return True
