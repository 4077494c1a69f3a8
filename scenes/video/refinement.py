"""Poses of things found again by what their own models look like, and labels by what explains each pixel best.

A model is fused outwards from the frame that shows most of a thing: in each next frame the pose is sought at which what the model
looks like agrees with what was observed, then the frame is added to the model. Hidden parts and wrong labels so do no harm, and
errors don't add up along the clip, since each frame is compared with all of those before it.

Newcombe et al., "KinectFusion" (ISMAR 2011); a model that grows with its track: Wen et al., "BundleSDF" (CVPR 2023).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from objects.progress import Bar
from scenes.video.clip import Clip
from scenes.video.confidence import before_camera, with_camera
from scenes.video.decomposition import Decomposition, FoundObject, spread_of_cameras
from scenes.video.filling import fill
from scenes.video.labels import SILENT_WORLD, references, track_costs
from scenes.video.maps import Maps, fewer, flow_of, halved, measure, trust_of
from scenes.video.matching import Match, compare, find_pose, window
from scenes.video.model import Model, fused, stage_of
from scenes.video.motion import rested, surface
from scenes.video.regions import parts_in_space
from scenes.video.rigid import inverse, nearest_rigid, settled, solve_track
from scenes.video.shadows import left_behind
from scenes.video.state import State
from scenes.video.tracks import prune
from scenes.video.volume import Grid

_LEAST = 20  # pixels
_WORK_WIDTH = 160  # pixels to which frames are reduced while poses are sought
_SHARE = 0.5  # of what isn't hidden that must agree
_OWN = 0.8  # cost of the colour up to which a pixel that agrees is the thing's
_SHOWN, _BONUS = 0.5, 0.06  # cost of the colour up to which a pixel shows the model, and what its label then costs less
_NOISY = 0.0009  # metres of noise: neighbours share the errors of smoothed depths, and joint solutions follow them
_SHADOW = 0.15  # cost of a pixel that stays where it is when the thing goes
_GAP = 5  # frames over which a thing is sought
_STILL, _CAMERA_PIXELS = (
    0.25,
    6000,
)  # cost of a pixel up to which it tells the camera's path, and how many of a frame do
_LOST = 0.4  # confidence at most of a pose that doesn't agree with the model


class Retracked(NamedTuple):
    """A thing found again."""

    to_cam: Float[np.ndarray, "f 4 4"]
    known: Bool[np.ndarray, "f"]
    mine: Bool[np.ndarray, "f h w"]
    """Its pixels."""
    shown: Bool[np.ndarray, "f h w"]
    """Pixels that agree with the model of all frames in depth and colour."""


def retrack(
    maps: Maps,
    trust: Float32[np.ndarray, "f h w"],
    masks: Bool[np.ndarray, "f h w"],
    to_cam: Float[np.ndarray, "f 4 4"],
    have: Bool[np.ndarray, "f"],
) -> Retracked | None:
    """Finds a thing again in all frames by a model that grows outwards from one of them; None where too little of it is seen.

    Of the poses that were given, those of the model and, where depth is clean, the joint solutions near both, those are taken
    under which the frames agree best with each other: a model agrees with the poses that it is made of.

    Args:
        trust: Weights of depths.
        masks: Its pixels, as far as they are known.
        to_cam: Object to camera where ``have``.
    """
    size = masks.sum((1, 2)) * have
    anchor = int(np.argmax(ndimage.minimum_filter1d(ndimage.median_filter(size, 3), 3)))
    if size[anchor] < 2 * _LEAST:
        return None
    grid, home, extent = stage_of(maps, masks, anchor, np.flatnonzero(size >= _LEAST))
    # Poses that were given, in the frame of the model.
    at = nearest_rigid(to_cam) @ (inverse(to_cam[anchor]) @ home)
    old = Retracked(at, have & (size >= _LEAST), masks, np.zeros_like(masks))
    new = _grown(maps, trust, old, anchor, grid, extent / 2)
    new = _polished(maps, trust, new, grid, extent / 2)
    known = have | new.known
    paths = [_went_on(at, have, new.to_cam, new.known), _went_on(new.to_cam, new.known, at, have)]
    if maps.noise[0] + maps.noise[1] * np.median(maps.depth[masks]) ** 2 < _NOISY:
        paths += [settled(maps, new.mine, path, known)[0] for path in paths]
    best = nearest_rigid(min(paths, key=lambda path: settled(maps, masks, path, have, rounds=0)[1]))
    new = new._replace(to_cam=best)
    _, shown = _judged(maps, fused(maps, trust, new.mine, best, new.known, grid), new, extent / 2)
    return new._replace(shown=shown)


def _went_on(
    path: Float[np.ndarray, "f 4 4"],
    known: Bool[np.ndarray, "f"],
    other: Float[np.ndarray, "f 4 4"],
    there: Bool[np.ndarray, "f"],
) -> Float[np.ndarray, "f 4 4"]:
    """Poses where they are ``known``, and where only another path is there, as that goes on from the nearest frame of both."""
    out, both = path.copy(), np.flatnonzero(known & there).tolist()
    for t in np.flatnonzero(there & ~known).tolist():
        a = min(both, key=lambda s: (abs(s - t), s))
        out[t] = other[t] @ inverse(other[a]) @ path[a]
    return out


def _grown(
    maps: Maps, trust: Float32[np.ndarray, "f h w"], old: Retracked, anchor: int, grid: Grid, radius: float
) -> Retracked:
    """The thing found by a model that grows from the frame ``anchor`` on, nearest frames first."""
    n = len(maps.depth)
    model = Model(grid)
    new, known, mine = np.tile(np.eye(4), (n, 1, 1)), np.arange(n) == anchor, old.mine.copy()
    new[anchor] = old.to_cam[anchor]
    model.add(maps.depth[anchor], mine[anchor], trust[anchor], maps.rgb[anchor], new[anchor], maps.lens)
    for t in sorted((t for t in range(n) if t != anchor), key=lambda t: (abs(t - anchor), t)):
        way = 1 if t > anchor else -1
        before = [s for s in range(t - way, anchor - way, -way) if known[s]]
        a = before[0]
        if abs(t - a) > _GAP:
            continue
        guesses = [new[a]]
        if old.known[t] and old.known[a]:
            guesses.insert(0, old.to_cam[t] @ inverse(old.to_cam[a]) @ new[a])
        if len(before) > 1:
            times = max(1, round(abs((t - a) / (a - before[1]))))
            guesses.insert(0, np.linalg.matrix_power(new[a] @ inverse(new[before[1]]), times) @ new[a])
        there = window(maps, t, mine[t], guesses, radius)
        if there is None:
            continue
        match = find_pose(there, model, guesses)
        if match.share < _SHARE or match.agrees.sum() < _LEAST:
            continue
        new[t], known[t] = nearest_rigid(match.to_cam[None])[0], True
        mine[t] = _own(old.mine[t], maps.depth[t], there.box, match)
        model.add(maps.depth[t], mine[t], trust[t], maps.rgb[t], new[t], maps.lens)
    return Retracked(new, known, mine, old.shown)


def _own(
    mask: Bool[np.ndarray, "h w"], depth: Float32[np.ndarray, "h w"], box: tuple[slice, slice], match: Match
) -> Bool[np.ndarray, "h w"]:
    """Pixels of a thing: what agrees with its model, and what else was taken for it and hangs together with that."""
    good, free = np.zeros(mask.shape, bool), np.ones(mask.shape, bool)
    good[box] = match.agrees & (match.color < _OWN)
    free[box] = match.view.depth == 0
    parts, _ = parts_in_space(good | (mask & free), depth)
    return good | (mask & free & np.isin(parts, np.unique(parts[good & (parts > 0)])))


def _polished(
    maps: Maps, trust: Float32[np.ndarray, "f h w"], track: Retracked, grid: Grid, radius: float
) -> Retracked:
    """The same with each frame aligned to the model of all."""
    model = fused(maps, trust, track.mine, track.to_cam, track.known, grid)
    new = track.to_cam.copy()
    for t in np.flatnonzero(track.known).tolist():
        there = window(maps, t, track.mine[t], [new[t]], radius)
        if there is not None:
            new[t] = find_pose(there, model, [new[t]], turned=False).to_cam
    return track._replace(to_cam=nearest_rigid(new))


def _judged(
    maps: Maps, model: Model, track: Retracked, radius: float
) -> tuple[Float[np.ndarray, "f"], Bool[np.ndarray, "f h w"]]:
    """Cost of each known frame under a model, NaN elsewhere, and the pixels that agree with it."""
    cost, shown = np.full(len(track.known), np.nan), np.zeros_like(track.mine)
    for t in np.flatnonzero(track.known).tolist():
        there = window(maps, t, track.mine[t], [track.to_cam[t]], radius)
        if there is not None:
            match = compare(there, model, track.to_cam[t])
            cost[t], shown[t][there.box] = match.cost, match.agrees & (match.color < _SHOWN)
    return cost, shown


def refine_motion(clip: Clip, found: Decomposition) -> Decomposition:
    """The decomposition with poses found again by models of the things, and labels by these poses.

    Twice: in frames of about 160 columns, then in all pixels, from better labels. What bends keeps its pixels, and its
    poses before the camera. Cameras that weren't given are aligned anew. A thing that others explain as well goes.
    """
    if not any(thing.rigid for thing in found.objects):
        return found
    step = max(1, round(clip.depth.shape[2] / _WORK_WIDTH))
    flows = flow_of(clip.rgb)
    rgb, depth, lens = halved(clip.rgb, clip.depth, clip.lens, step)
    height, width = (n // step * step for n in clip.depth.shape[1:])
    ids = np.ascontiguousarray(found.ids[:, step // 2 : height : step, step // 2 : width : step])
    few = replace(clip, rgb=rgb, depth=depth, lens=lens)
    coarse = _round(few, fewer(flows, step), replace(found, ids=ids))
    sizes = zip(clip.depth.shape[1:], depth.shape[1:], strict=True)
    rows, columns = (np.minimum(np.arange(n) // step, m - 1) for n, m in sizes)
    full = coarse.ids[:, rows[:, None], columns]
    for thing in found.objects:
        if not thing.rigid:
            full = np.where(full == thing.id, 0, full)
            full[found.ids == thing.id] = thing.id
    return _round(clip, flows, replace(coarse, ids=full))


def _round(clip: Clip, flows: Float32[np.ndarray, "2 f h w 2"], found: Decomposition) -> Decomposition:
    """Poses by models, then labels by poses."""
    maps, trust = measure(clip.rgb, clip.depth, clip.lens, flows), trust_of(clip.depth, clip.lens)
    if clip.cameras is None:
        found = with_cameras(maps, found)
    state = State.start(maps, inverse(found.cameras))
    things = {}
    for thing in Bar(found.objects, desc="refining", unit="object"):
        have = np.array([pose is not None for pose in thing.poses])
        if not thing.rigid or not have.any():
            continue
        poses = np.stack([np.eye(4) if pose is None else pose for pose in thing.poses])
        to_cam, masks = inverse(found.cameras) @ poses, (found.ids == thing.id) & (maps.depth > 0)
        track = retrack(maps, trust, masks, to_cam, have)
        if track is None:
            track = Retracked(to_cam, have, masks, np.zeros_like(masks))
        state.add(track.to_cam, have | track.known, track.mine)
        # What was hidden while a thing moved can't be told from the world by motion; its model knows it from other frames.
        known, world = have | track.known, found.ids == 0
        shadow = left_behind(maps, world, state.to_cam[0], track.mine, track.to_cam, known, state.refs)
        state.cost[:, -1] -= np.where(track.shown & ~shadow, np.minimum(_BONUS, state.cost[:, -1]), 0)
        state.cost[:, -1] += np.where(shadow, _SHADOW, 0)
        things[thing.id] = thing, state.to_cam[-1].copy(), track.known
    state.relabel()
    prune(state)
    order = {
        k: row for row, T in enumerate(state.to_cam) for k, (_, poses, _) in things.items() if np.array_equal(T, poses)
    }
    return _finished(clip, trust, found, state, things, order)


def with_cameras(maps: Maps, found: Decomposition) -> Decomposition:
    """The decomposition with its cameras aligned by the pixels of the background, near and far apart in time; frame 0 stays.

    Things stay where they are before the cameras.
    """
    n = len(maps.depth)
    old, have, first = inverse(found.cameras), np.ones(n, bool), np.arange(n) == 0
    cost = track_costs(maps, old, have, np.arange(n), references(n), silent=SILENT_WORLD)
    still = (found.ids == 0) & (maps.depth > 0) & (maps.normal[..., 2] != 0) & (np.nan_to_num(cost, nan=1) < _STILL)
    offsets = sorted({1, 4, *np.linspace(0, n - 1, 7).round().astype(int)[1:].tolist()})
    new, _ = solve_track(
        maps,
        still,
        old,
        have,
        fixed=first,
        offsets=offsets,
        gates=(0.006,),
        rounds=10,
        most=_CAMERA_PIXELS,
        outlined=False,
    )
    cameras = inverse(nearest_rigid(new))
    move = cameras @ old
    things = []
    for thing in found.objects:
        poses = tuple(None if pose is None else T @ pose for T, pose in zip(move, thing.poses, strict=True))
        things.append(replace(thing, poses=poses))
    return replace(found, cameras=cameras, objects=tuple(things))


def _finished(
    clip: Clip,
    trust: Float32[np.ndarray, "f h w"],
    found: Decomposition,
    state: State,
    things: dict[int, tuple[FoundObject, np.ndarray, np.ndarray]],
    order: dict[int, int],
) -> Decomposition:
    """The decomposition of refined tracks.

    Args:
        trust: Weights of depths.
        things: Those that were refined by their numbers: as they were found, their poses, and frames that agree with their models.
        order: Rows of the tracks of those that are left, by their numbers.
    """
    ids = np.where(state.ids < 0, -1, 0).astype(np.int32)
    for k, row in order.items():
        ids[state.ids == row] = k
    camera = spread_of_cameras(state) if clip.cameras is None else None
    world, kept = found.cameras @ state.to_cam, []
    for thing in found.objects:
        if thing.id not in things:
            ids[found.ids == thing.id] = thing.id
            kept.append(thing)
        elif thing.id in order:
            row, agrees = order[thing.id], things[thing.id][2]
            mine = ids == thing.id
            known = state.have[row] & (mine.sum((1, 2)) >= _LEAST // 2)
            if known.any():
                middle, poses = np.median(surface(state, world, row), axis=0), rested(state, world, row)
                own = before_camera(state.maps, trust, mine, state.to_cam[row], known)
                own = np.where(agrees, own, np.minimum(own, _LOST))
                sure = with_camera(own, camera, poses, middle)
                poses = poses @ inverse(poses[np.argmax(known)])
                placed = tuple(pose if there else None for pose, there in zip(poses, known, strict=True))
                kept.append(replace(thing, poses=placed, confidence=sure, before_camera=own))
    soft = clip.rgb.astype(np.float32) / 255
    full = np.stack([fill(frame, rgb) for frame, rgb in zip(ids, soft, strict=True)]).astype(np.uint8)
    there = {thing.id for thing in kept}
    carryings = tuple(c for c in found.carryings if {c.child, c.parent} <= there)
    return replace(found, ids=full, objects=tuple(kept), carryings=carryings)
