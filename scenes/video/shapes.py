"""Fields from the parts of a clip: the background and each object, gathered in a frame of its own and learned together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import igl
import numpy as np
import trimesh
from jaxtyping import Bool, Float, Float32
from scipy import ndimage
from scipy.spatial.transform import Rotation, Slerp

from objects.field import Field
from objects.fitting import fit_meshes
from objects.mending import labelled
from objects.mesh_samples import FitConfig
from objects.node_warp import NodeWarp
from objects.progress import Bar
from objects.siren import SirenField
from objects.training import FitError
from objects.warped import Warped
from scenes.video.clip import Clip
from scenes.video.decomposition import Decomposition
from scenes.video.flexible import followed, misfits, seen_through, solid_of_bending
from scenes.video.maps import trust_of
from scenes.video.planes import local_planes
from scenes.video.regions import nearest
from scenes.video.rigid import inverse, nearest_rigid
from scenes.video.volume import REACH, Grid, Sight, closed, fuse, hull, surface

BACKGROUND, BACKDROP = 0, -1
_SURE = 0.5  # confidence from which on a frame is learned from
_LEAST_PIXELS = 30
_SHORT = 3  # frames without a pose over which a thing goes evenly; in longer gaps it isn't shown
_OBJECT_CELLS, _BACKGROUND_CELLS = 96, 176  # along the longest edge, at most
_PIXELS = 0.7  # size of a cell of an object in pixels, at least
_OUTER = 0.005  # share of an object's points on each side that its box may leave out
_BLUR = 0.8  # cells
_BEHIND = 1e-3  # weight of what is behind the background's surface
_SKY, _SKY_TRUST, _FAR = 0.02, 0.02, 10.0  # share of a picture at least; weight; times the greatest depth
_EDGE, _EDGE_TRUST, _ON = (
    3,
    0.05,
    (0.9, 1.3),
)  # pixels along an edge whose depth is lost; weight; of the depth beside them
_SPECK_OBJECT, _SPECK_BACKGROUND = 0.1, 0.01  # of the largest piece: smaller ones are left out
_SPREAD = 1.4  # of the steps that hard and easy shapes make (`FitConfig`)


@dataclass(frozen=True, eq=False)
class Part:
    """What is learned as one: the background or an object."""

    id: int
    name: str
    rigid: bool
    T_world_obj: Float[np.ndarray, "f 4 4"]
    """In each frame. Where it isn't known, it goes evenly over short gaps, and else is the last known one. The origin is the middle
    of what was seen."""
    used: Bool[np.ndarray, "f"]
    """Frames from which it is learned."""
    known: Bool[np.ndarray, "f"]
    """Frames in which its pose is known."""

    @property
    def there(self) -> Bool[np.ndarray, "f"]:
        """Frames in which it is shown: those in which its pose is known, and short gaps between these."""
        there = self.known.copy()
        for before, after in short_gaps(self.known):
            there[before:after] = True
        return there


class Shaped(NamedTuple):
    """A part whose shape is learned."""

    part: Part
    field: SirenField
    """Of what bends the canonical one."""
    bent: Warped | None = None
    """The same seen through its warp, whose keys are the frames of the clip; None for what is rigid."""

    @property
    def shown(self) -> Field:
        """What stands in a scene."""
        return self.field if self.bent is None else self.bent

    def time(self, t: int) -> float | None:
        """At which the field is asked in a frame."""
        warp = None if self.bent is None else self.bent.warp
        return float(warp.times[t]) if isinstance(warp, NodeWarp) else None

    def with_field(self, field: SirenField) -> Shaped:
        """The same with another field of the same shape."""
        bent = None if self.bent is None else Warped(field, self.bent.warp, stretch=float(self.bent.stretch))
        return self._replace(field=field, bent=bent)


def parts_of(clip: Clip, found: Decomposition, learned: Bool[np.ndarray, "f"]) -> tuple[list[Part], list[str]]:
    """The background and the objects that enough was seen of, and notes on the others.

    Args:
        clip: The frames.
        found: What moves.
        learned: Frames that shape and appearance may be learned from.
    """
    n = len(clip)
    parts, notes = [], []
    world = np.tile(np.eye(4), (n, 1, 1))
    depth = (clip.depth > 0).any((1, 2))
    everything = [(BACKGROUND, "background", True, world, np.ones(n, bool), learned & depth)]
    for thing in found.objects:
        known = np.array([pose is not None for pose in thing.poses])
        if not known.any():
            notes.append(f"{thing.name}: no pose is known, so nothing is learned of it")
            continue
        poses = _held([np.eye(4) if p is None else p for p in thing.poses], known)
        seen = ((found.ids == thing.id) & (clip.depth > 0)).sum((1, 2)) >= _LEAST_PIXELS
        own = thing.confidence if thing.before_camera is None else thing.before_camera
        sure = known & seen & (own >= _SURE)
        if not (sure & learned).any() and (known & seen).any():
            sure = known & seen
            notes.append(f"{thing.name}: its pose is never sure; it is learned from all frames that show it")
        everything.append((thing.id, thing.name, thing.rigid, poses, known, sure & learned))
    for number, name, rigid, poses, known, used in everything:
        p = _points(clip, found, number, poses, used)
        if len(p) < _LEAST_PIXELS:
            notes.append(f"{name}: too few pixels with depth to learn it")
            continue
        middle = np.eye(4)
        middle[:3, 3] = np.quantile(p, [_OUTER, 1 - _OUTER], axis=0).mean(0)
        parts.append(Part(number, name, rigid, _bridged(nearest_rigid(poses @ middle), known), used, known))
    return parts, notes


def short_gaps(known: Bool[np.ndarray, "f"]) -> list[tuple[int, int]]:
    """Pairs of known frames with a few frames between them in which a pose isn't known."""
    frames = np.flatnonzero(known).tolist()
    return [(a, b) for a, b in pairwise(frames) if 1 < b - a <= _SHORT + 1]


def _held(poses: Sequence[np.ndarray], known: np.ndarray) -> np.ndarray:
    """Poses with those that aren't known in place of the last known one (at the start: the first)."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    return np.stack(poses)[np.where(last < 0, int(np.flatnonzero(known)[0]), last)]


def _bridged(poses: Float[np.ndarray, "f 4 4"], known: Bool[np.ndarray, "f"]) -> Float[np.ndarray, "f 4 4"]:
    """The same, going evenly over short gaps."""
    out = poses.copy()
    for a, b in short_gaps(known):
        share = np.arange(1, b - a) / (b - a)
        turns = Slerp([0, 1], Rotation.from_matrix(poses[[a, b], :3, :3]))(share)
        out[a + 1 : b, :3, :3] = turns.as_matrix()
        out[a + 1 : b, :3, 3] = poses[a, :3, 3] + share[:, None] * (poses[b, :3, 3] - poses[a, :3, 3])
    return out


def _points(
    clip: Clip, found: Decomposition, number: int, poses: Float[np.ndarray, "f 4 4"], used: Bool[np.ndarray, "f"]
) -> Float[np.ndarray, "n 3"]:
    """Measured points of a part, in its frame."""
    fx, fy, cx, cy = clip.lens
    out = [np.zeros((0, 3))]
    for t in np.flatnonzero(used):
        y, x = np.nonzero((found.ids[t] == number) & (clip.depth[t] > 0))
        z = clip.depth[t, y, x].astype(float)
        p = np.stack([(x + 0.5 - cx) / fx * z, (y + 0.5 - cy) / fy * z, z], -1)
        T = inverse(poses[t]) @ found.cameras[t]
        out.append(p @ T[:3, :3].T + T[:3, 3])
    return np.concatenate(out)


def seen_far(
    clip: Clip, found: Decomposition, trust: Float32[np.ndarray, "f h w"]
) -> tuple[Float32[np.ndarray, "f h w"], Float32[np.ndarray, "f h w"]]:
    """Depths and their weights, with the sky far away: large stretches of the background without depth. It says little against what
    was measured. What a sensor lost along an edge against the sky, by its colours, goes on as planes from what it measured."""
    depth, weight = clip.depth.copy(), trust.copy()
    for t in range(len(depth)):
        background = found.ids[t] == BACKGROUND
        lost = labelled((clip.depth[t] == 0) & background)
        sky = np.isin(lost, np.flatnonzero(np.bincount(lost.ravel())[1:] >= _SKY * lost.size) + 1)
        if not sky.any():
            continue
        edge, z = _edge(clip, t, (clip.depth[t] > 0) & background, sky)
        depth[t][sky], weight[t][sky] = _FAR * float(clip.depth.max()), _SKY_TRUST
        depth[t][edge], weight[t][edge] = z, _EDGE_TRUST
    return depth, weight


def _edge(
    clip: Clip, t: int, measured: Bool[np.ndarray, "h w"], sky: Bool[np.ndarray, "h w"]
) -> tuple[Bool[np.ndarray, "h w"], Float32[np.ndarray, "n"]]:
    """Pixels of a frame that were taken for sky and look like what was measured beside them, and their depths on its planes."""
    far, v, u = nearest(measured)
    deep = sky & (far > 2 * _EDGE)
    none = np.zeros_like(sky)
    if not (measured.any() and deep.any()):
        return none, np.zeros(0, np.float32)
    rgb, (_, sv, su) = clip.rgb[t].astype(np.float32), nearest(deep)
    edge = sky & (far <= _EDGE) & (np.abs(rgb - rgb[v, u]).max(-1) < np.abs(rgb - rgb[sv, su]).max(-1))
    smooth, normal, _ = local_planes(clip.depth[t][None], clip.lens, 3, 0.03)
    fx, fy, cx, cy = clip.lens
    ray = np.stack(
        [*((np.indices(sky.shape)[::-1] + 0.5 - [[[cx]], [[cy]]]) / [[[fx]], [[fy]]]), np.ones(sky.shape)], -1
    )
    at = v[edge], u[edge]
    n, z = normal[0][at], np.where(smooth[0][at] > 0, smooth[0][at], clip.depth[t][at])
    ahead, here = ((n * r).sum(-1) for r in (ray[edge], ray[at]))
    share = np.divide(here, ahead, out=np.ones_like(ahead), where=here * ahead > 1e-9)
    return edge, (z * share.clip(*_ON)).astype(np.float32)


def solid_of(
    depth: Float32[np.ndarray, "f h w"],
    trust: Float32[np.ndarray, "f h w"],
    clip: Clip,
    found: Decomposition,
    part: Part,
    things: Sequence[tuple[trimesh.Trimesh, Part]] = (),
) -> trimesh.Trimesh | None:
    """The solid that depth shows of a part, closed where no frame saw it; None where too little is left.

    Args:
        depth, trust: What `seen_far` gives.
        clip, found: The frames, and what moves in them.
        part: Which part.
        things: Solids, where the part isn't at any time that they are there: else what hides a floor for long leaves a bump in it.
    """
    background = part.id == BACKGROUND
    p = _points(clip, found, part.id, part.T_world_obj, part.used)
    lo, hi = np.quantile(p, _OUTER, axis=0), np.quantile(p, 1 - _OUTER, axis=0)
    extent = float((hi - lo).max())
    frames = np.flatnonzero(part.used)
    mine = found.ids[frames] == part.id
    z = float(np.median(clip.depth[frames][mine & (clip.depth[frames] > 0)]))
    most = _BACKGROUND_CELLS if background else _OBJECT_CELLS
    cell = max(extent / most, (1.0 if background else _PIXELS) * z / float(clip.lens[0]) * 0.5)
    if not background:
        cell = min(cell, extent / 24)
    margin = 5 * REACH if background else REACH
    grid = Grid.around(lo, hi, cell, margin)
    to_cam = inverse(found.cameras[frames]) @ part.T_world_obj[frames]
    sight = Sight(depth[frames], mine, trust[frames], np.ascontiguousarray(to_cam), clip.lens)
    value, weight = fuse(grid, sight, _BEHIND if background else 0.0)
    known = weight > 0
    free = _within(grid, part.T_world_obj[0], things)
    value[free], known[free] = 1.0, True
    value = closed(value, known, None if background else hull(grid, value, known))
    return surface(grid, ndimage.gaussian_filter(value, _BLUR), _SPECK_BACKGROUND if background else _SPECK_OBJECT)


def _within(
    grid: Grid, T_world_obj: Float[np.ndarray, "4 4"], things: Sequence[tuple[trimesh.Trimesh, Part]]
) -> Bool[np.ndarray, "x y z"]:
    """Cells of a part at rest that lie inside of things, by more than half a cell, in some frame."""
    inside = np.zeros(grid.shape, bool)
    for mesh, thing in things:
        shrunk = mesh.vertices - 0.5 * grid.cell * mesh.vertex_normals
        for t in np.flatnonzero(thing.used).tolist():
            T = inverse(thing.T_world_obj[t]) @ T_world_obj
            corners = (mesh.bounding_box.vertices - T[:3, 3]) @ T[:3, :3]  # of the thing, in the part's frame
            lo, hi = ((x - grid.first) / grid.cell for x in (corners.min(0), corners.max(0)))
            lo, hi = (np.clip(x, 0, grid.shape).astype(int) for x in (np.ceil(lo), np.floor(hi) + 1))
            box = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
            at = np.argwhere(~inside[box]) + lo
            if len(at):
                p = (grid.first + grid.cell * at) @ T[:3, :3].T + T[:3, 3]
                at = at[np.asarray(igl.fast_winding_number(shrunk, mesh.faces, p)) > 0.5]
                inside[tuple(at.T)] = True
    return inside


def learn_solids(meshes: Sequence[trimesh.Trimesh], *, steps: int, seed: int = 0) -> tuple[list[SirenField], list[str]]:
    """Fields of closed meshes, grey, and what was said of them.

    Raises:
        FitError: Learning failed.
    """
    config = FitConfig(steps=steps, spread=_SPREAD, color_pool=8192)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fields = fit_meshes(meshes, seed=seed, config=config)
    return fields, [str(note.message) for note in said]


def learn_shapes(
    clip: Clip, found: Decomposition, parts: Sequence[Part], *, steps: int, seed: int = 0
) -> tuple[list[Shaped], list[trimesh.Trimesh], list[str]]:
    """Fields of the parts, learned side by side, the solids that they were learned from, and notes on those that couldn't be."""
    notes, kept, meshes, warps = [], [], [], {}
    depth, trust = seen_far(clip, found, trust_of(clip.depth, clip.lens))
    for part in Bar(sorted(parts, key=lambda p: p.id == BACKGROUND), desc="fusing", unit="part"):
        bending = None
        if not part.rigid:
            bending = followed(clip, found, part.id, np.flatnonzero(part.known), seed=seed)
            if bending is None:
                notes.append(f"{part.name}: fewer than two frames show enough of it to tell how it bends")
        if bending is None:
            before = [pair for pair in zip(meshes, kept, strict=True) if part.id == BACKGROUND and pair[1].rigid]
            mesh = solid_of(depth, trust, clip, found, part, before)
        else:
            mesh = solid_of_bending(bending, depth, trust, clip, found, part.id, part.used)
            part = replace(part, T_world_obj=bending.poses)
            warps[part.id] = NodeWarp(bending.keys)
            notes += [f"{part.name}: {note}" for note in misfits(bending, clip)]
        if mesh is None or len(mesh.faces) < 16:
            notes.append(f"{part.name}: its depth leaves no solid, so it is not learned")
            continue
        if not part.rigid and bending is None:
            notes.append(f"{part.name}: it doesn't move rigidly; it is shown as a rigid mean of its frames")
        kept.append(part)
        meshes.append(mesh)
    order = sorted(range(len(kept)), key=lambda i: kept[i].id != BACKGROUND)
    kept, meshes = [kept[i] for i in order], [meshes[i] for i in order]
    try:
        fields, said = learn_solids(meshes, steps=steps, seed=seed)
        notes += said
    except FitError:
        pairs, kept, meshes, fields = list(zip(kept, meshes, strict=True)), [], [], []
        for part, mesh in pairs:
            try:
                learned, said = learn_solids([mesh], steps=steps, seed=seed)
            except FitError as error:
                notes.append(f"{part.name}: its shape could not be learned ({error})")
                continue
            notes += [f"{part.name}: {note}" for note in said]
            fields += learned
            kept.append(part)
            meshes.append(mesh)
    shapes = []
    for part, field in zip(kept, fields, strict=True):
        bent, said = (None, []) if part.id not in warps else seen_through(field, warps[part.id])
        shapes.append(Shaped(part, field, bent))
        notes += [f"{part.name}: {note}" for note in said]
    return shapes, meshes, notes


def places_on(mesh: trimesh.Trimesh, n: int, rng: np.random.Generator) -> Float[np.ndarray, "n 3"]:
    """Random places all over a surface."""
    corners = mesh.triangles[rng.choice(len(mesh.faces), n, p=mesh.area_faces / mesh.area)]
    return np.einsum("nc,ncx->nx", rng.dirichlet(np.ones(3), n), corners)
