"""A scene graph from the learned parts of a clip: a node for each, with the track of its poses and who carries it when."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float

from objects.pose import SE3
from rendering.camera import Camera
from rendering.lights import Light
from scenes.checks import BACKGROUND as BACKGROUND_TAG
from scenes.graph import SceneGraph
from scenes.track import Track
from scenes.video.clip import Clip
from scenes.video.decomposition import Carrying, Decomposition
from scenes.video.rigid import inverse, nearest_rigid
from scenes.video.shapes import BACKDROP, BACKGROUND, Part, Shaped

_LINEAR_M, _LINEAR_DEG = 1e-4, 0.02  # a key this near to the line between its neighbours is left out
CAMERA = "camera"


def graph_of(
    clip: Clip, found: Decomposition, shapes: Sequence[Shaped], lights: Sequence[Light]
) -> tuple[SceneGraph, list[str]]:
    """The scene, without history, and notes on what could not be written into it.

    Nodes: ``background`` (with ``background/backdrop``), one for each object by its name, ``camera``, and ``lights/...``.
    """
    graph, notes = SceneGraph(), []
    lit = bool(lights)
    world = {s.part.id: s.part.T_world_obj for s in shapes}
    base = world.get(BACKGROUND, np.tile(np.eye(4), (len(clip), 1, 1)))
    if BACKGROUND not in world:
        graph.add("background", tags=[BACKGROUND_TAG])
    for shape in sorted(shapes, key=lambda s: (s.part.id != BACKGROUND, s.part.id)):
        part = shape.part
        if part.id == BACKDROP:
            track = track_of(clip.times[:1], inverse(base[:1]) @ part.T_world_obj[:1])
            graph.add("background/backdrop", shape.field, track=track, lit=False, tags=[BACKGROUND_TAG])
            continue
        tags = [BACKGROUND_TAG] if part.id == BACKGROUND else []
        graph.add(part.name, shape.shown, track=track_of(clip.times, part.T_world_obj), lit=lit, tags=tags)
        graph.limit(part.name, spans_of(clip.times, part.there))
        notes += _gaps_told(part)
    names = {s.part.id: s.part.name for s in shapes}
    notes += _hand_over(graph, clip, found.carryings, names, world)
    fx, fy, cx, cy = clip.lens.tolist()
    height, width = clip.depth.shape[1:]
    lens = Camera(SE3.identity(), fx, fy, cx, cy, width, height)
    graph.add(CAMERA, camera=lens, track=track_of(clip.times, found.cameras))
    if lights:
        graph.add("lights")
        for light in lights:
            name = type(light).__name__.removesuffix("Light").lower()
            graph.add(f"lights/{name}", light=light)
    graph.forget_history()
    return graph, notes


def spans_of(times: Float[np.ndarray, "f"], there: Bool[np.ndarray, "f"]) -> list[tuple[float, float]]:
    """When a thing is there that some frames show: up to half the way to those that don't; beyond the clip as at its ends."""
    if there.all() or not there.any():
        return []
    middle = np.concatenate([[-np.inf], (times[1:] + times[:-1]) / 2, [np.inf]])
    change = np.diff(there.astype(int), prepend=0, append=0)
    return list(zip(middle[change == 1].tolist(), middle[change == -1].tolist(), strict=True))


def _gaps_told(part: Part) -> list[str]:
    """Frames in which a pose isn't known, and what is shown there."""
    said = []
    for frames, what in ((part.there & ~part.known, "it goes evenly there"), (~part.there, "it isn't shown there")):
        parts = [f"{a}" if a == b else f"{a} to {b}" for a, b in _stretches(frames)]
        if parts:
            said.append(f"{part.name}: its pose isn't known in frames {', '.join(parts)}: {what}")
    return said


def _stretches(mask: Bool[np.ndarray, "f"]) -> list[tuple[int, int]]:
    """First and last frames of what hangs together."""
    change = np.diff(mask.astype(int), prepend=0, append=0)
    return list(zip(np.flatnonzero(change == 1).tolist(), (np.flatnonzero(change == -1) - 1).tolist(), strict=True))


def _hand_over(
    graph: SceneGraph,
    clip: Clip,
    carryings: Sequence[Carrying],
    names: dict[int, str],
    world: dict[int, Float[np.ndarray, "f 4 4"]],
) -> list[str]:
    """Hangs what is carried under its carrier for that time."""
    notes, last = [], {}
    path = dict(names)
    for c in sorted(carryings, key=lambda c: (c.first, c.child)):
        if c.child not in path or c.parent not in path or c.first <= last.get(c.child, -1):
            continue
        frames = slice(max(c.first, 0), c.last + 1)
        relative = inverse(world[c.parent]) @ world[c.child]
        begin = None if c.first == 0 else float(clip.times[c.first])
        before = graph.checkpoint()
        try:
            here = graph.reparent(path[c.child], path[c.parent], start=begin)
            graph.animate(here, track_of(clip.times[frames], relative[frames]))
            if c.last + 1 < len(clip):
                here = graph.reparent(here, "/", start=float(clip.times[c.last + 1]))
                graph.animate(here, track_of(clip.times, world[c.child]))
        except ValueError as error:
            graph.go_back(before)
            notes.append(f"{names[c.parent]} carries {names[c.child]}: not written into the scene ({error})")
            continue
        path[c.child], last[c.child] = here, c.last + 1
    return notes


def track_of(times: Float[np.ndarray, "f"], poses: Float[np.ndarray, "f 4 4"]) -> Track:
    """A key for each frame, without those that lie on the line between others."""
    pose = SE3.from_matrix(torch.from_numpy(nearest_rigid(poses)))
    quats, trans = pose.quat_wxyz.numpy(), pose.translation.numpy()
    kept, start = [0], 0
    while start < len(times) - 1:
        end = start + 1
        while end + 1 < len(times) and _on_line(times, quats, trans, start, end + 1):
            end += 1
        kept.append(end)
        start = end
    if all(_near(quats[0], trans[0], quats[i], trans[i]) for i in kept):
        kept = kept[:1]
    return Track(times[kept], quats[kept], trans[kept])


def _on_line(times: np.ndarray, quats: np.ndarray, trans: np.ndarray, start: int, end: int) -> bool:
    line = Track(times[[start, end]], quats[[start, end]], trans[[start, end]])
    return all(_near(*line.at(float(times[i])), quats[i], trans[i]) for i in range(start + 1, end))


def _near(q: Sequence[float], p: Sequence[float], quat: np.ndarray, trans: np.ndarray) -> bool:
    turned = 2 * np.degrees(np.arccos(min(1.0, abs(float(np.dot(q, quat))))))
    return float(np.linalg.norm(np.subtract(p, trans))) <= _LINEAR_M and turned <= _LINEAR_DEG
