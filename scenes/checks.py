"""What looks like a mistake in a scene, though nothing forbids it: sizes out of all proportion, a camera within a solid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from compose.composite import Composite
from compose.types import Instance
from objects.aabb import Aabb
from rendering.camera import Camera
from scenes import questions
from scenes.graph import SceneGraph
from scenes.node import quoted
from scenes.questions import OverlapPair

BACKGROUND = "background"  # the tag of what things stand in or before
_FAR = 100.0  # times the median of the others
_SOON = 1e-4  # seconds by which a time may miss a span
_FLAT = 0.05  # of its longest edge


def size_notes(graph: SceneGraph, time: float = 0.0) -> list[str]:
    """A line on each object that is a hundred times larger or smaller than the median of the others: wrong units, most likely.

    Floors and walls (flat), what is tagged as background, and rooms (the others stand in its box, but not in its solid) neither
    count nor are named.
    """
    instances = list(graph.at(time).instances)
    behind = set(graph.select(tag=BACKGROUND, time=time))
    things = [i for i in instances if i.name not in behind and not _is_flat(i)]
    sizes = np.array([i.scale * i.field.bounds.diagonal for i in things], dtype=np.float64)
    if len(things) < 2:
        return []
    order = np.sort(sizes)
    rank = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")
    notes = []
    for thing, size, k in zip(things, sizes, rank, strict=True):
        usual = float(np.median(np.delete(order, k)))
        ratio = size / usual
        if not (ratio > _FAR or ratio < 1 / _FAR) or (ratio > _FAR and _is_room(thing, instances)):
            continue
        than = f"{ratio:,.0f} times" if ratio > 1 else f"1/{1 / ratio:,.0f} of"
        notes.append(
            f"{thing.name} is {_length(size)} across, {than} the usual of the other objects ({_length(usual)}): are its units "
            f"right? If not: edit do='scale {quoted(thing.name)} by {0.001 if ratio > 1 else 1000:g}', or by its unit in metres"
        )
    return (
        [notes[int(sizes.argmax())]] if len(notes) == 2 == len(things) else notes
    )  # each is out of proportion to the other


def camera_notes(graph: SceneGraph, views: Iterable[tuple[float, Camera]]) -> list[str]:
    """A line on each object in whose solid a camera stands at its time (it is then not seen from there)."""
    inside: dict[str, float] = {}
    for time, camera in views:
        p_world = camera.position_world
        slack = 1e-9 * (1.0 + float(p_world.abs().max()))
        near = set(graph.select(box=Aabb(p_world - slack, p_world + slack), time=time)) - inside.keys()
        for instance in graph.at(time).instances if near else ():
            if instance.name in near and float(Composite([instance]).query(p_world[None]).sdf) < 0:
                inside[instance.name] = time
    return [
        f"the camera stands inside of {path} (time {time:g}), which is not seen from there: move it (camera.eye=x,y,z), or "
        f"hide {path}"
        for path, time in inside.items()
    ]


def time_notes(graph: SceneGraph, times: Sequence[float]) -> list[str]:
    """A line on what bends, doesn't loop, and has not begun or is over at all of the times (seconds): it stands still there."""
    still: dict[tuple[float, float], list[str]] = {}
    for path in graph:
        node = graph[path]
        span = node.field.span if node.field is not None and node.field.deforms else None
        seen = None if span is None or node.clock.loop else node.clock.times(span)
        if seen is not None and (max(times) < seen[0] - _SOON or min(times) > seen[1] + _SOON):
            still.setdefault(seen, []).append(path)
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''} bends from {start:.4g} to {end:.4g} s and is shown "
        f"as it is at the nearer end; over and over: edit do='clock {quoted(paths[0])} loop on'"
        for (start, end), paths in still.items()
    ]


def overlaps(graph: SceneGraph, time: float = 0.0, min_depth: float = 1e-3) -> list[OverlapPair]:
    """Overlaps but those between the parts of one background: siblings that are tagged as such, or hang under what is."""
    scene, behind = graph.at(time), set(graph.select(tag=BACKGROUND, time=time))
    # A name can't end in a slash: what isn't background is together with nothing.
    together = [f"{name.rpartition('/')[0]}/" if name in behind else name for name in scene.arrays.names]
    return questions.overlaps(scene, min_depth, together)


def _is_flat(instance: Instance) -> bool:
    edges = instance.field.bounds.size
    return float(edges.min()) < _FLAT * float(edges.max())


@torch.no_grad()
def _is_room(instance: Instance, instances: Sequence[Instance]) -> bool:
    """Whether most of the others stand in its box, and most of these not in its solid."""
    others = [i for i in instances if i is not instance]
    middles = torch.stack([i.T_world_obj @ (i.scale * i.field.bounds.center.double()) for i in others])
    p_obj = (instance.T_world_obj.inverse() @ middles) / instance.scale
    box = instance.field.bounds
    within = ((p_obj >= box.lo) & (p_obj <= box.hi)).all(-1)
    if 2 * int(within.sum()) <= len(others):
        return False
    return float((Composite([instance]).query(middles[within]).sdf > 0).double().mean()) > 0.5


def _length(metres: float) -> str:
    return f"{metres:.3g} m" if metres >= 0.1 else f"{1000 * metres:.3g} mm"
