"""Objects that bend, for other programs: one mesh of the canonical field, and where its vertices are at keys over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import manifold3d
import numpy as np
import torch
from jaxtyping import Float

from objects.warped import Warped
from scenes.clock import SCENE_TIME, Clock
from scenes.io.asset_mesh import AssetMesh, asset_mesh, corner_normals, finished, off

MOST_KEYS = 64  # each is a copy of all vertices
_SHARE = 0.5  # of the tolerance: for what is between vertices and between keys
_SHORTEST = 1e-3  # seconds: nothing is looked for between keys this near
_TRACKED = 500  # vertices by which keys are chosen
_PIECES = 8  # of a field's span: a motion that comes back to where it was isn't missed between them
_FINEST = 200_000  # triangles from which on nothing is refined


@dataclass(frozen=True, eq=False)
class Bending:
    """The vertices of a mesh over time; between keys they go in lines.

    Attributes:
        times: ``[k]`` seconds of the scene.
        vertices: ``[k, v, 3]`` float32, object frame.
        normals: ``[k, n, 3]`` float32, of corners.
        cut: Whether keys ran out before lines were right.
    """

    times: Float[np.ndarray, "k"]
    vertices: np.ndarray
    normals: np.ndarray
    cut: bool


def bending_mesh(
    field: Warped, tolerance: float, time: float, span: tuple[float, float], clock: Clock = SCENE_TIME
) -> tuple[AssetMesh, Bending]:
    """A mesh as it is at ``time``, and its vertices over a span.

    Args:
        field: The field.
        tolerance: Object units.
        time: Seconds of the scene.
        span: First and last time (seconds of the scene).
        clock: That of the node.

    Raises:
        ValueError: The canonical field has no inside, or its surface can't be closed.
    """

    def at(p_canonical: np.ndarray, seconds: float) -> np.ndarray:
        p = torch.as_tensor(p_canonical).to(field.box_lo.dtype)
        with torch.no_grad():
            return field.deformed(p, p.new_full((len(p),), clock.at(seconds, field.span))).double().numpy()

    canonical = asset_mesh(field.field, (1 - _SHARE) * tolerance)
    some = canonical.vertices[:: max(len(canonical.vertices) // _TRACKED, 1)].astype(np.float64)
    first = _first_times(field.span, span, clock)
    times, cut = _keys(lambda seconds: at(some, seconds), first, _SHARE * tolerance)
    vertices, faces = _refined(canonical, lambda p: [at(p, t) for t in times[:: max(len(times) // 8, 1)]], tolerance)
    whole = finished(field.field, vertices, faces, 0.0, None)
    placed = np.stack([at(vertices, t) for t in times])
    normals = np.stack([corner_normals(v, faces, whole) for v in placed]).astype(np.float32)
    rest = at(vertices, time)
    strays = max(
        off(field, (v, faces), clock.at(t, field.span))
        for v, t in [(rest, time), *list(zip(placed, times, strict=True))[::8]]
    )
    resting = replace(
        whole,
        vertices=rest.astype(np.float32),
        normals=corner_normals(rest, faces, whole).astype(np.float32),
        strays=np.array([strays]),
    )
    return resting, Bending(np.array(times), placed.astype(np.float32), normals, cut)


def _first_times(own: tuple[float, float], span: tuple[float, float], clock: Clock) -> list[float]:
    """Ends of the span of a scene, and the times between at which a field with the span ``own`` passes each piece of it."""
    if clock.speed == 0 or own[1] == own[0]:
        return [span[0]]
    begin = min((end - clock.offset) / clock.speed for end in own)
    piece = (own[1] - own[0]) / abs(clock.speed) / _PIECES
    first, last = (math.floor((end - begin) / piece) for end in span) if clock.loop else (0, _PIECES)
    n = (last - first) // (MOST_KEYS // 2) | 1  # odd: not the same phase of each round
    times = (begin + k * piece for k in range(first, last + 1, n))
    return sorted({*span} | {time for time in times if span[0] < time < span[1]})


def _keys(place: Callable[[float], np.ndarray], first: list[float], limit: float) -> tuple[list[float], bool]:
    """Times between which vertices go in lines to ``limit``, ``first`` among them, and whether there are too few."""
    times, known, cut = list(first), {}, False

    def at(time: float) -> np.ndarray:
        if time not in known:
            known[time] = place(time)
        return known[time]

    todo = list(pairwise(times))
    while todo:
        a, b = todo.pop(0)  # breadth first, so that keys that run out are spread
        ts = [a + u * (b - a) for u in (0.25, 0.5, 0.75)]
        gaps = [at(t) - (at(a) + (t - a) / (b - a) * (at(b) - at(a))) for t in ts]
        if max(np.linalg.norm(gap, axis=1).max() for gap in gaps) <= limit or b - a < _SHORTEST:
            continue
        if len(times) >= MOST_KEYS:
            cut = True
            break
        times.append(ts[1])
        todo += [(a, ts[1]), (ts[1], b)]
    return sorted(times), cut


def _refined(
    mesh: AssetMesh, placed: Callable[[np.ndarray], list[np.ndarray]], tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Canonical vertices and faces, so fine that edges stay within the tolerance of where they belong when they bend."""
    vertices, faces = mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)
    solid = manifold3d.Manifold(manifold3d.Mesh64(vertices, faces.astype(np.uint64)))
    length = float(np.ptp(vertices, 0).max())
    while solid.status() == manifold3d.Error.NoError and len(faces) < _FINEST:
        edges = np.unique(np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2), 1), axis=0)
        middle, ends = placed(vertices[edges].mean(1)), placed(vertices)
        gap = np.max([np.linalg.norm(m - e[edges].mean(1), axis=1) for m, e in zip(middle, ends, strict=True)], 0)
        if gap.max() <= _SHARE * tolerance:
            break
        # A line's gap falls with the square of its length.
        bad = gap > _SHARE * tolerance
        long = np.linalg.norm(np.subtract(*vertices[edges[bad]].transpose(1, 0, 2)), axis=1)
        length = min(0.5 * length, float((long * np.sqrt(_SHARE * tolerance / gap[bad])).max()))
        fine = solid.refine_to_length(length).to_mesh64()
        vertices = np.array(fine.vert_properties[:, :3], np.float64, order="C")
        faces = np.array(fine.tri_verts, np.int64, order="C")
    return vertices, faces
