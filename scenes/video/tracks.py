"""Tracks: what moves rigidly is found where the still world fails, followed through the clip, and refined with its labels."""

from __future__ import annotations

import numpy as np

from objects.progress import Bar
from scenes.video.camera import points_of
from scenes.video.flats import plane_pixels
from scenes.video.following import LEAST, extend, follow, guesses_of, moved_guesses, seed_of
from scenes.video.labels import track_costs
from scenes.video.maps import Maps
from scenes.video.regions import parts_in_space, widened
from scenes.video.rigid import align, inverse, judge, solve_track
from scenes.video.state import State

_SAME = 0.04  # difference of costs that says nothing
_GAIN, _GAIN_PIXEL = 60.0, 0.12  # cost that a track must save, over the clip (pixels) and for each of its pixels
_MOST_TRACKS = 24
_CREEPS, _LARGE = 1.5, 0.15  # times the part that fails, and share of the picture: what may creep as a whole
_TRIES = 8  # regions from which nothing comes, one after the other, until the search ends
_GAP = 6  # frames over which a lost track is sought
_OVERLAP = 6  # frames that two parts of one thing may share
_WEAK = 0.25  # of a track's usual pixels
_DRIFT = 0.08  # metres by which two parts of one thing may seem to move differently
_MERGE, JOIN = 0.06, 0.2  # cost a pixel that one motion may add for two tracks at one time, one after the other
_RESTS, _FREE, _SOME = (
    0.5,
    0.02,
    3,
)  # share of the frames; cost a pixel that another camera path may add; of so many frames one
_SPLICE = 0.5  # share of what is visible that must agree where two tracks are joined


def find_tracks(state: State) -> None:
    """Adds tracks until nothing of some size is left unexplained."""
    rng = np.random.default_rng(1)
    planes = plane_pixels(state)
    bar = Bar(range(_MOST_TRACKS), desc="tracks", unit="track")
    for _ in bar:
        if not _grow_one(state, planes, rng):
            break


def _grow_one(state: State, planes: np.ndarray, rng: np.random.Generator) -> bool:
    """Tries the largest unexplained regions until one gives a track; False if none is left.

    Where a region alone gives none, what hangs together with it in space is tried: of a thing that creeps, little fails.
    """
    for _ in range(_TRIES):
        region = _largest_region(state.maps, state.failing())
        if region is None:
            return False
        t, mask = region
        whole, _ = parts_in_space((state.ids[t] == 0) & ~planes[t] | mask, state.maps.depth[t])
        numbers = np.bincount(whole[mask])
        around = (whole == numbers.argmax()) & (whole > 0)
        creeps = around.sum() > _CREEPS * mask.sum() and around.sum() < _LARGE * mask.size
        for seed in (mask, around) if creeps else (mask,):
            if _grown(state, t, seed, rng):
                state.tried[:] = False
                return True
        state.tried[t] |= mask
    return False


def _grown(state: State, t: int, mask: np.ndarray, rng: np.random.Generator) -> bool:
    """Follows the motion of a region [H W] of frame t; whether that gave a track that saves cost."""
    seed = seed_of(state, t, mask, rng)
    if seed is None:
        return False
    to_cam, have, masks = follow(state, t, *seed)
    if have.sum() < 2:
        return False
    to_cam, _ = solve_track(state.maps, masks, to_cam, have, offsets=(1, 2, 4), outlined=False)
    kept, before = (state.cost, state.ids), state.energy()
    state.add(to_cam, have, masks)
    state.relabel()
    if _needed(state, len(state.to_cam) - 1, before - state.energy()) > 1:
        return True
    state.to_cam, state.have, state.share = state.to_cam[:-1], state.have[:-1], state.share[:-1]
    state.shown = state.shown[:, :-1]
    state.cost, state.ids = kept
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


def refine(state: State, *, camera: bool = False) -> None:
    """Poses from labels, then labels from poses; tracks that explain too little go.

    ``camera``: whether the camera's path is refined, too (frame 0 stays).
    """
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
    for k in Bar(range(1, len(state.to_cam)), desc="refining", unit="track"):
        _refine_one(state, k)
    state.relabel()
    prune(state)
    widest = np.array([(state.ids == k).sum((1, 2)).max() for k in range(len(state.to_cam))])
    total = np.array([(state.ids == k).sum() for k in range(len(state.to_cam))])
    gone = [k for k in range(1, len(total)) if widest[k] < LEAST or total[k] < 2 * LEAST]
    if gone:
        state.drop(gone)


def _refine_one(state: State, k: int) -> None:
    """Poses of a track from its pixels, unless they explain these worse than before: a solution may end elsewhere."""
    masks = state.ids == k
    have = state.have[k] & (masks.sum((1, 2)) >= 6)
    kept, before = state.to_cam[k].copy(), float(np.nan_to_num(state.cost[:, k])[masks].sum())
    if have.sum() >= 2:
        state.to_cam[k], share = solve_track(state.maps, masks, kept, have)
        state.recost(k)
        if float(np.nan_to_num(state.cost[:, k])[masks].sum()) <= before + _GAIN:
            state.share[k] = share
            return
        state.to_cam[k] = kept
    state.recost(k)


def _needed(state: State, k: int, gain: float | None = None) -> float:
    """What a track saves against the others on its pixels (or ``gain``), as a multiple of what it must.

    Pixels that cost the same under the still world don't count: of a thing that creeps, most look as if it stood still.
    """
    t, y, x = np.nonzero(state.ids == k)
    cost = np.nan_to_num(state.cost[t, :, y, x])
    if gain is None:
        gain = float((np.delete(cost, k, 1).min(1) - cost[:, k]).sum())
    return gain / max(_GAIN, _GAIN_PIXEL * float((abs(cost[:, 0] - cost[:, k]) > _SAME).sum()))


def prune(state: State) -> None:
    """Drops tracks whose pixels others explain about as well, the least needed first."""
    while len(state.to_cam) > 1:
        loss = [_needed(state, k) for k in range(1, len(state.to_cam))]
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
            if other != k and _joined(state, k, other):
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


def join_world(state: State) -> bool:
    """Makes tracks parts of the still world that rest in it but for errors of the camera's path; whether there was any.

    Where little but parallel stripes stands still, the camera's motion along them isn't known, and what rests seems to move. It
    does rest if the still pixels are explained as well by a camera that goes as this track says.
    """
    sizes = [(state.ids == k).sum() for k in range(len(state.to_cam))]
    for k in sorted(range(1, len(sizes)), key=lambda k: -sizes[k]):
        known = np.flatnonzero(state.have[k] & ((state.ids == k).sum((1, 2)) >= LEAST // 2))
        if len(known) > _RESTS * state.n_frames and _rests(state, k, known):
            state.drop([k])
            join_world(state)
            return True
    return False


def _rests(state: State, k: int, known: np.ndarray) -> bool:
    """Whether a track with pixels in some frames and the still world move as one; then the world has their common motion."""
    world, mine = state.to_cam[0], state.to_cam[k]
    to_cam = world.copy()
    for t in range(known[0] + 1, state.n_frames):
        to_cam[t] = world[t] @ inverse(world[t - 1]) @ to_cam[t - 1]
        if t in known:
            to_cam[t] = mine[t] @ inverse(mine[known[0]]) @ world[known[0]]

    def cost(poses: np.ndarray, have: np.ndarray, where: np.ndarray, frames: np.ndarray) -> float:
        found = track_costs(state.maps, poses, have, frames, state.refs, where[frames])
        return float(np.nan_to_num(found)[where[frames]].sum())

    still, everywhere = state.ids == 0, state.have[0]
    some, every = np.arange(0, state.n_frames, _SOME), np.arange(state.n_frames)
    free = _FREE * still[some].sum()
    if cost(to_cam, everywhere, still, some) - cost(world, everywhere, still, some) > free:
        return False
    masks = still | (state.ids == k)
    first = every == 0
    joint, _ = solve_track(state.maps, masks, to_cam, everywhere, fixed=first, most=1200, rounds=5, outlined=False)
    apart = cost(world, everywhere, still, every) + cost(mine, state.have[k], state.ids == k, every)
    if cost(joint, everywhere, masks, every) - apart > _GAIN + _MERGE * float((state.ids == k).sum()):
        return False
    state.to_cam[0] = joint
    state.recost(0)
    return True


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
    # Either may be the one that moves as the whole does.
    for first, second in ((k, other), (other, k)):
        to_cam = np.where(state.have[first][:, None, None], state.to_cam[first], np.eye(4))
        add = state.have[second] & ~state.have[first]
        to_cam[add] = state.to_cam[second, add] @ inverse(state.to_cam[second, t]) @ state.to_cam[first, t]
        if replaced(state, k, other, to_cam, masks, _MERGE):
            return True
    return False


def _strong(state: State, k: int) -> np.ndarray:
    """[F] where a track is known and shows about as much as it does elsewhere; what is less may be something else."""
    size = np.where(state.have[k], (state.ids == k).sum((1, 2)), 0)
    usual = np.quantile(size[size > 0], 0.8) if size.any() else 0
    return size >= max(LEAST // 2, _WEAK * usual)


def _joined(state: State, k: int, other: int) -> bool:
    """Carries a track on to where another one is, by its own shape, and makes one of both if one motion explains them."""
    mine, new = _strong(state, k), _strong(state, other)
    if (mine & new).sum() > _OVERLAP or not mine.any() or not (new & ~mine).any():
        return False
    masks, theirs = state.ids == k, state.ids == other
    known, wanted = np.flatnonzero(mine), np.flatnonzero(new & ~mine)
    gaps = np.abs(known[:, None] - wanted[None])
    t, s = int(known[gaps.min(1).argmin()]), int(wanted[gaps.min(0).argmin()])
    if abs(s - t) > _GAP:
        return False
    to_cam = state.to_cam[k].copy()
    near = known[np.argsort(np.abs(known - s), kind="stable")][:3].tolist()
    guesses = moved_guesses(state, to_cam, masks, t, s, theirs[s])
    best = None
    for guess in sorted(judge(state.maps, masks, near, s, to_cam, guesses), key=lambda fit: fit.cost)[:6]:
        to_cam[s] = guess.T_s_t
        fit = align(state.maps, masks, near, s, to_cam, most=200)
        if best is None or fit.cost < best.cost:
            best = fit
    if best is None or best.agree < _SPLICE or best.n < LEAST:
        return False
    add = state.have[other] & ~mine
    to_cam = np.where(state.have[k][:, None, None], state.to_cam[k], np.eye(4))
    to_cam[add] = state.to_cam[other, add] @ inverse(state.to_cam[other, s]) @ best.T_s_t
    return replaced(state, k, other, to_cam, (masks & ~add[:, None, None]) | theirs, JOIN)


def replaced(state: State, k: int, other: int, to_cam: np.ndarray, masks: np.ndarray, most: float) -> bool:
    """Makes one of two tracks, with poses like these [F 4 4], if it explains their pixels [F H W] about as well.

    ``most``: cost that it may add, for each pixel of the smaller one.
    """
    cost = np.nan_to_num(state.fair_cost())
    before = float(np.minimum(cost[:, k], cost[:, other])[masks].sum())
    least = min((state.ids == i).sum() for i in (k, other))
    have = (state.have[k] | state.have[other]) & (masks.sum((1, 2)) >= 6)
    kept = state.to_cam[k].copy(), state.have[k].copy(), state.cost[:, k].copy()
    to_cam, share = solve_track(state.maps, masks, to_cam, have, gates=(0.02, 0.008), rounds=5)
    state.to_cam[k], state.have[k] = to_cam, have
    state.recost(k, masks)
    if float(np.nan_to_num(state.fair_cost()[:, k])[masks].sum()) - before <= _GAIN + most * least:
        state.share[k] = share
        state.drop([other])
        return True
    state.to_cam[k], state.have[k], state.cost[:, k] = kept
    return False
