"""From a clip to its moving objects: ids, poses over time, cameras, who carries whom."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from objects.progress import Bar
from rendering.atomic import replacing
from scenes.video.bending import bending_groups, is_bending, join_still, join_unexplained, middles, unexplained_things
from scenes.video.camera import find_cameras, noise_between
from scenes.video.clip import Clip, check_for_cuts
from scenes.video.confidence import Spread, between_frames, spread_of, with_camera
from scenes.video.filling import fill
from scenes.video.flats import plane_pixels, upright
from scenes.video.labels import references
from scenes.video.maps import fewer, flow_of, halved, measure
from scenes.video.motion import carried, rested, steady, surface
from scenes.video.parting import join_sides, keep_together
from scenes.video.rigid import inverse, nearest_rigid
from scenes.video.seeking import seek
from scenes.video.state import BRIEF, State
from scenes.video.tracks import find_tracks, join_world, mend, merge, refine, splice

_LOST = 0.5  # confidence below which a frame is marked as lost
_LEAST = 8  # pixels of an object in a frame in which it has a pose
_WORK_WIDTH = 160  # pixels to which frames are reduced while tracks are sought
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class FoundObject:
    """One thing that moves."""

    id: int
    name: str
    rigid: bool
    poses: tuple[Float[np.ndarray, "4 4"] | None, ...]
    """Object to world in each frame, also where it is lost; None where it isn't known. The object's frame is the world's at its
    first pose."""
    confidence: Float[np.ndarray, "f"]
    """0 to 1: how probably the pose is right within 2 cm and 20 degrees; 0 without a pose. Of what bends: 1 where it is seen."""
    before_camera: Float[np.ndarray, "f"] | None = None
    """The same if the cameras were certain: shapes are learned by it. None for the same numbers."""


@dataclass(frozen=True)
class Carrying:
    """Two objects that move as one in the frames ``first`` to ``last`` (inclusive)."""

    child: int
    parent: int
    first: int
    last: int


@dataclass(frozen=True)
class Decomposition:
    """What moves in a clip, and what doesn't."""

    ids: Int[np.ndarray, "f h w"]
    """Number of the object at each pixel, 0 for the background; uint8."""
    objects: tuple[FoundObject, ...]
    cameras: Float[np.ndarray, "f 4 4"]
    """Camera to world, OpenCV axes. Found cameras: z points up, the first one stands over the origin (`flats.upright`)."""
    carryings: tuple[Carrying, ...]
    notes: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Writes ``masks/``, ``objects.json`` and ``cameras.json`` (OpenGL camera axes) into a folder."""
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        for t, ids in enumerate(self.ids):
            with replacing(folder / f"masks/{t:05d}.png") as path:
                Image.fromarray(ids).save(path, format="png")
        for old in sorted((folder / "masks").glob("*.png")):
            if old.stem.isdecimal() and int(old.stem) >= len(self.ids):
                old.unlink()
        objects = [
            {
                "id": o.id,
                "name": o.name,
                "rigid": o.rigid,
                "poses": [None if pose is None else pose.tolist() for pose in o.poses],
                "confidence": [round(float(c), 4) for c in o.confidence],
                "lost": [t for t, c in enumerate(o.confidence) if c < _LOST],
            }
            for o in self.objects
        ]
        intervals = [{"child": c.child, "parent": c.parent, "from": c.first, "to": c.last} for c in self.carryings]
        data = {"objects": objects, "parent_intervals": intervals, "notes": list(self.notes)}
        _write(folder / "objects.json", data)
        _write(folder / "cameras.json", {"frames": (self.cameras @ _OPENGL).tolist()})


def _write(file: Path, data: dict) -> None:
    with replacing(file) as path:
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def decompose(clip: Clip) -> Decomposition:
    """Finds what moves rigidly in a clip, without masks, boxes or names.

    The still world is the largest rigid motion (the camera's path, where it isn't given). What it can't explain, as it would
    stand in free space, seeds tracks; each is followed through the clip, and poses and labels refine each other.

    Raises:
        ValueError: A cut in the middle of the clip.
    """
    step = max(1, round(clip.depth.shape[2] / _WORK_WIDTH))
    rgb, depth, lens = halved(clip.rgb, clip.depth, clip.lens, step)
    flows = flow_of(clip.rgb)
    maps = measure(rgb, depth, lens, fewer(flows, step))
    check_for_cuts(clip, maps.flows)
    notes = list(clip.notes)
    refs = references(len(clip))
    pairs = np.stack([np.repeat(np.arange(len(clip)), refs.shape[1]), refs.ravel()], -1)[refs.ravel() >= 0]
    if clip.cameras is None:
        world_to_cam = find_cameras(maps, refs)
    else:
        world_to_cam = inverse(clip.cameras)
    maps = maps._replace(noise=noise_between(maps, world_to_cam, pairs))
    state = State.start(maps, world_to_cam)
    find_tracks(state)
    refine(state, camera=clip.cameras is None)
    merge(state)
    mend(state)
    splice(state)
    find_tracks(state)
    refine(state, camera=clip.cameras is None)
    splice(state)
    seek(state)
    refine(state, camera=clip.cameras is None)
    if clip.cameras is None and join_world(state):
        refine(state, camera=True)
    if step > 1:
        maps = measure(clip.rgb, clip.depth, clip.lens, flows)
        maps = maps._replace(noise=noise_between(maps, state.to_cam[0], pairs))
        fine = State.start(maps, state.to_cam[0])
        for k in range(1, len(state.to_cam)):
            fine.add(state.to_cam[k], state.have[k], _enlarged(state.ids == k, fine.ids.shape))
            fine.shown[:, k] = _enlarged(state.shown[:, k], fine.ids.shape)
        fine.relabel()
        state = fine
        refine(state, camera=clip.cameras is None)
    return _finished(clip, state, notes)


def _enlarged(masks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Masks at the size of frames that have more pixels."""
    rows, columns = (np.minimum(np.arange(n) * m // n, m - 1) for n, m in zip(shape[1:], masks.shape[1:], strict=True))
    return masks[:, rows[:, None], columns]


def _things(state: State, cameras: np.ndarray) -> tuple[list[list[int]], list[np.ndarray]]:
    """Tracks that move, put together into things, and the pixels [F H W] of each; what is seen briefly is dropped."""
    keep_together(state)
    join_sides(state, plane_pixels(state))
    world = cameras @ state.to_cam
    kept = []
    for k in range(1, len(world)):
        seen = _frames(state, k)
        if steady(state, world, k, seen):
            state.ids[state.ids == k] = 0
        elif seen.any():
            kept.append(k)
    groups, masks = bending_groups(state, kept)
    brief = [
        k
        for group in groups
        for k in group
        if np.any([_frames(state, j) for j in group], 0).sum() < BRIEF * state.n_frames
    ]
    if not brief:
        return groups, masks
    state.drop(brief)
    return _things(state, cameras)


def _finished(clip: Clip, state: State, notes: list[str]) -> Decomposition:
    state.relabel(fair=True)
    if clip.cameras is None:
        T, floor = upright(state)
        state.to_cam[0] = state.to_cam[0] @ inverse(T)
        told = "z = 0 is the lowest level plane" if floor else "no level plane was found: z points up as they were held"
        notes.append(f"the cameras were found from the pictures; {told}")
    cameras = nearest_rigid(inverse(state.to_cam[0]))
    groups, masks = _things(state, cameras)
    world = cameras @ state.to_cam
    bending = [is_bending(state, group) for group in groups]
    if any(bending):
        planes = plane_pixels(state)
        masks = [
            join_still(state, join_unexplained(state, m), planes) if bends else m
            for m, bends in zip(masks, bending, strict=True)
        ]
    taken = np.any(masks, 0) if masks else np.zeros(state.ids.shape, bool)
    more = unexplained_things(state, taken)
    groups, bending, masks = groups + [[] for _ in more], bending + [True] * len(more), masks + more
    ids = np.where(state.ids < 0, -1, 0).astype(np.int32)
    objects, numbers = [], {}
    camera = spread_of_cameras(state) if clip.cameras is None and groups else None
    for i, (group, bends, mask) in enumerate(zip(groups, bending, masks, strict=True), 1):
        ids[mask] = i
        numbers |= dict.fromkeys(group, i)
        objects.append(_object(state, world, i, group, bends, mask, camera))
    rigid = [group[0] for group, bends in zip(groups, bending, strict=True) if not bends]
    found = carried(state, world, rigid)
    carryings = tuple(Carrying(numbers[child], numbers[parent], first, last) for child, parent, first, last in found)
    soft = clip.rgb.astype(np.float32) / 255
    full = np.stack([fill(frame, rgb) for frame, rgb in zip(ids, Bar(soft, desc="filling", unit="frame"), strict=True)])
    if not objects:
        notes.append("nothing moves: everything is background")
    return Decomposition(full.astype(np.uint8), tuple(objects), cameras, carryings, tuple(notes))


def spread_of_cameras(state: State) -> Spread:
    """How certain the cameras are, by pixels of the still world."""
    still = (state.ids == 0) & (np.nan_to_num(state.cost[:, 0], nan=1) < 0.2) & (state.maps.normal[..., 2] != 0)
    return spread_of(state.maps, still, state.to_cam[0], state.have[0])


def _frames(state: State, k: int) -> np.ndarray:
    """[F] where a track is known and has pixels."""
    return state.have[k] & (state.ids == k).any((1, 2))


def _object(
    state: State,
    world: np.ndarray,
    number: int,
    group: list[int],
    bends: bool,
    mask: np.ndarray,
    camera: Spread | None,
) -> FoundObject:
    """One object of the tracks of a group, with its poses and how far they can be trusted.

    Args:
        world: [K F 4 4] poses of all tracks.
        camera: Of the cameras, where they were found.
    """
    size = mask.sum((1, 2))
    if bends:
        poses, known = middles(state, state.to_cam[0], mask)
        known &= size >= _LEAST
        sure = own = known.astype(float)
    else:
        (k,) = group
        middle = np.median(surface(state, world, k), axis=0)
        world[k] = poses = rested(state, world, k)
        known = state.have[k] & (size >= _LEAST)
        own = between_frames(state.maps, mask, state.to_cam[k], known)
        sure = with_camera(own, camera, poses, middle)
    first = int(np.flatnonzero(known)[0]) if known.any() else 0
    home = inverse(poses[first])
    placed = tuple(pose @ home if there else None for pose, there in zip(poses, known, strict=True))
    return FoundObject(number, f"object_{number}", not bends, placed, sure, own)
