"""What bends in a clip: followed through its frames, put together in the frame of one of them, and given a warp.

Its pixels with depth are points with normals and colours, and optical flow says where many of them go next; `follow_parts`
follows them. What of the motion is rigid goes into the poses of the part, the rest becomes the keys of a warp by nodes. Depths of
all frames are fused in the canonical frame, each cell where its nodes take it in each frame (Newcombe, Fox, Seitz,
"DynamicFusion", CVPR 2015); what no frame saw is closed as for rigid parts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Float32, Int
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.spatial import KDTree

from objects.limbs import AIR, Before, lost_nodes
from objects.node_warp import NodeKeys, NodeWarp
from objects.partial_sequences import Seen, first_frame, follow_parts
from objects.pose import rotation_from_quat
from objects.progress import Bar
from objects.registration import procrustes
from objects.siren import SirenField
from objects.travel import without_rigid
from objects.warp_learning import SequenceConfig, node_keys
from objects.warp_tracking import blend_weights
from objects.warped import Warped, measure_warp
from scenes.video.clip import Clip
from scenes.video.decomposition import Decomposition
from scenes.video.maps import measure
from scenes.video.rigid import inverse
from scenes.video.volume import Grid, Sight, closed, fuse_at, hull, surface

_LEAST, _FEW = 120, 32  # pixels of a frame that can be followed, and points that are left of them
_GRAZING = 0.15  # cosine of the angle of view below which a depth says little
_LOST = 0.01  # mean distance of what a frame shows from where it was carried, a share of the extent: more is told of
_CELLS, _PIXELS = 160, 0.5  # along the longest edge, at most; size of a cell in pixels, at least
_FOLDED = 0.02  # share of the places in a thing or close to it at which its warp folds space: more is told of
_CHUNK = 1 << 16  # cells at a time
_SMALL = 0.01  # nodes of less weight are left out where cells are carried
_AIR = 0.1  # weight of pixels that show other things: thin parts are not always where they were carried
_BLUR = 0.8  # cells
_SPECK = 0.1  # of the largest piece: smaller ones are left out


class Bending(NamedTuple):
    """A thing that bends, as it was followed.

    Attributes:
        poses: Object to world in each frame of the clip: the rigid part of its motion.
        keys: The rest, with a key at each frame.
        canonical: The frame whose shape is the canonical one.
        points: What all frames showed, canonical frame.
        misfit: Mean distance of what a frame shows from where the thing was carried, a share of its extent; NaN where it wasn't
            followed.
    """

    poses: Float[np.ndarray, "f 4 4"]
    keys: NodeKeys
    canonical: int
    points: Float[np.ndarray, "n 3"]
    misfit: Float[np.ndarray, "f"]


def shown(clip: Clip, found: Decomposition, number: int, frames: Int[np.ndarray, "k"]) -> list[Seen]:
    """What some frames show of an object, world frame, and where it goes from each of them to the one before and after."""
    maps = measure(clip.rgb[frames], clip.depth[frames], clip.lens)
    fx, fy, cx, cy = clip.lens
    height, width = clip.depth.shape[1:]
    mine = (found.ids[frames] == number) & (maps.depth > 0) & (maps.normal != 0).any(-1) & (clip.depth[frames] > 0)
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)
    points = ray * maps.depth[..., None].astype(float)
    mine &= -(maps.normal * ray).sum(-1) > _GRAZING * np.linalg.norm(ray, axis=-1)
    every = []
    for k, T in enumerate(found.cameras[frames]):
        y, x = np.nonzero(mine[k])
        ways: list[np.ndarray | None] = []
        for there, flow in ((k - 1, maps.flows[1, k]), (k + 1, maps.flows[0, k])):
            if not 0 <= there < len(frames):
                ways.append(None)
                continue
            to = np.floor(np.stack([u, v], -1)[y, x] + np.nan_to_num(flow[y, x], nan=-1e6)).astype(int)
            within = ((to >= 0) & (to < [width, height])).all(1)
            at = np.where(within[:, None], to, 0)
            within &= mine[there, at[:, 1], at[:, 0]]
            to_world = found.cameras[frames[there]]
            p = points[there, at[:, 1], at[:, 0]] @ to_world[:3, :3].T + to_world[:3, 3]
            ways.append(np.where(within[:, None], p, np.nan))
        p, n = points[k, y, x] @ T[:3, :3].T + T[:3, 3], maps.normal[k, y, x].astype(float) @ T[:3, :3].T
        before = _before(np.where(clip.depth[frames[k]] > 0, maps.depth[k], 0.0), T, clip.lens)
        every.append(Seen(p, n, maps.rgb[k, y, x].astype(float), ways[0], ways[1], before))
    return every


def _before(depth: Float[np.ndarray, "h w"], camera: Float[np.ndarray, "4 4"], lens: Float[np.ndarray, "4"]) -> Before:
    """How far places lie before all that a frame shows within a pixel; of the camera's frame by its pose in theirs."""
    nearest, to_cam = ndimage.minimum_filter(depth, 3), inverse(camera)
    height, width = depth.shape

    def before(p: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        q = p @ to_cam[:3, :3].T + to_cam[:3, 3]
        z = np.maximum(q[:, 2], 1e-6)
        u, v = (lens[0] * q[:, 0] / z + lens[2]), (lens[1] * q[:, 1] / z + lens[3])
        inside = (q[:, 2] > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        row, column = (np.where(inside, x, 0).astype(int) for x in (v, u))
        return np.where(inside, np.maximum(nearest[row, column] - q[:, 2], 0.0), 0.0)

    return before


def followed(
    clip: Clip,
    found: Decomposition,
    number: int,
    frames: Int[np.ndarray, "k"],
    *,
    seed: int = 0,
    config: SequenceConfig | None = None,
) -> Bending | None:
    """Follows an object through the frames that show it; None where fewer than two show enough.

    Args:
        clip, found: The frames; whose pixels are whose, and where the cameras are.
        number: Which object.
        frames: Frames that may be used; the motion of the others lies between, or is that of the first or last of them.
        seed: Of the choice of points.
        config: Numbers of nodes and points, of which half is taken.
    """
    config = SequenceConfig() if config is None else config
    enough = ((found.ids[frames] == number) & (clip.depth[frames] > 0)).sum((1, 2)) >= _LEAST
    frames = frames[enough]
    if len(frames) < 2:
        return None
    seen = shown(clip, found, number, frames)
    if min(len(s.points) for s in seen) < _FEW:
        return None
    template, every, whole = follow_parts(
        seen, clip.times[frames], n_nodes=config.nodes // 2, n_points=config.points // 2, n_dense=config.dense // 2, seed=seed
    )  # fmt: skip
    keys = at_times(node_keys(template, every, clip.times[frames], config.anchors // 2), clip.times)
    misfit = np.full(len(clip), np.nan)
    misfit[frames] = every.misfits
    poses, keys = in_two(keys)
    middle = 0.5 * (keys.anchors.min(0) + keys.anchors.max(0))
    keys = keys._replace(nodes=keys.nodes - middle, anchors=keys.anchors - middle)
    poses = poses.copy()
    poses[:, :3, 3] += poses[:, :3, :3] @ middle
    return Bending(poses, keys, int(frames[first_frame(seen)]), whole.points - middle, misfit)


def at_times(keys: NodeKeys, times: Float[np.ndarray, "t"]) -> NodeKeys:
    """The same motion with other keys: between the old ones a cubic spline, before and after them rest."""
    when = np.clip(times, keys.times[0], keys.times[-1])
    turns = CubicSpline(keys.times, keys.turns, bc_type="natural")(when)
    turns /= np.linalg.norm(turns, axis=-1, keepdims=True)
    return keys._replace(
        times=np.asarray(times), turns=turns, shifts=CubicSpline(keys.times, keys.shifts, bc_type="natural")(when)
    )


def in_two(keys: NodeKeys) -> tuple[Float[np.ndarray, "t 4 4"], NodeKeys]:
    """The rigid motion of all nodes together at each key, as poses, and what is left of the motion."""
    places = keys.nodes + keys.shifts
    turns, shifts = procrustes(np.broadcast_to(keys.nodes, places.shape), places, np.ones(places.shape[:2]))
    poses = np.tile(np.eye(4), (len(keys.times), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = turns, shifts
    return poses, without_rigid(keys, turns, shifts)


def solid_of_bending(
    bending: Bending,
    depth: Float32[np.ndarray, "f h w"],
    trust: Float32[np.ndarray, "f h w"],
    clip: Clip,
    found: Decomposition,
    number: int,
    used: Bool[np.ndarray, "f"],
) -> trimesh.Trimesh | None:
    """The canonical solid that depths show, closed where no frame saw it; None where too little is left.

    Args:
        bending: How it moves.
        depth, trust: What `scenes.video.shapes.seen_far` gives.
        clip, found: The frames, and what moves in them.
        number: Which object.
        used: Frames whose depth is used.
    """
    keys = bending.keys
    lo, hi = np.quantile(bending.points, [0.002, 0.998], axis=0)
    extent = float((hi - lo).max())
    frames = np.flatnonzero(used)
    mine = found.ids[frames] == number
    z = float(np.median(clip.depth[frames][mine & (clip.depth[frames] > 0)]))
    grid = Grid.around(lo, hi, min(max(extent / _CELLS, _PIXELS * z / float(clip.lens[0])), extent / 24), 4.0)
    cells = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).reshape(-1, 3)
    to_cam = inverse(found.cameras[frames]) @ bending.poses[frames]
    sight = Sight(depth[frames], mine, trust[frames], np.ascontiguousarray(to_cam), clip.lens)
    turns = rotation_from_quat(torch.from_numpy(keys.turns)).numpy()
    firm = _firm(keys, turns, frames, to_cam, clip)
    motions = [(turns[t], keys.shifts[t], firm[k]) for k, t in enumerate(frames)]
    value, seen, anchors = np.zeros(len(cells), np.float32), np.zeros(len(cells), np.float32), KDTree(keys.anchors)
    for start in Bar(range(0, len(cells), _CHUNK), desc="fusing what bends", unit="part"):
        some = slice(start, start + _CHUNK)
        places = grid.first + grid.cell * cells[some]
        index = keys.near[keys.homes[anchors.query(places)[1]].astype(int)].astype(int)
        weight = blend_weights(places, keys.nodes[index], keys.spacing)
        where = np.empty((len(frames), len(places), 3), np.float32)
        for k, motion in enumerate(motions):
            args: Any = (places, index, weight, keys.nodes, *motion, to_cam[k], where[k])
            _carry(*args)
        value[some], seen[some] = fuse_at(where, sight, grid.cell, _AIR)
    value, known = value.reshape(grid.shape), seen.reshape(grid.shape) > 0
    value = closed(value, known, hull(grid, value, known))
    return surface(grid, ndimage.gaussian_filter(value, _BLUR), _SPECK)


def _firm(
    keys: NodeKeys, turns: np.ndarray, frames: Int[np.ndarray, "k"], to_cam: Float[np.ndarray, "k 4 4"], clip: Clip
) -> Bool[np.ndarray, "k n"]:
    """Nodes that are where a frame allows: it doesn't look through most of the surface that they carry."""
    index = keys.near[keys.homes.astype(int)].astype(int)
    weight, firm = (
        blend_weights(keys.anchors, keys.nodes[index], keys.spacing),
        np.ones((len(frames), len(keys.nodes)), bool),
    )
    for k, t in enumerate(frames):
        at = np.empty((len(keys.anchors), 3), np.float32)
        args: Any = (keys.anchors, index, weight, keys.nodes, turns[t], keys.shifts[t], firm[k], to_cam[k], at)
        _carry(*args)
        air = _before(clip.depth[t], np.eye(4), clip.lens)(at.astype(float)) > AIR * keys.spacing
        firm[k] = ~lost_nodes(keys.homes.astype(int), len(keys.nodes), air)
    return firm


@numba.njit(cache=True, parallel=True)
def _carry(places, index, weight, nodes, rotation, shift, firm, to_cam, out):
    """Where nodes take places, camera frame; 0 where nodes do that aren't firm."""
    for i in numba.prange(len(places)):
        x = y = z = 0.0
        sure = 0.0
        for a in range(index.shape[1]):
            if firm[index[i, a]]:
                sure += weight[i, a]
        if sure < 0.5:
            out[i] = 0
            continue
        for a in range(index.shape[1]):
            w, k = weight[i, a], index[i, a]
            if w < _SMALL:
                continue
            px, py, pz = places[i, 0] - nodes[k, 0], places[i, 1] - nodes[k, 1], places[i, 2] - nodes[k, 2]
            r = rotation[k]
            x += w * (r[0, 0] * px + r[0, 1] * py + r[0, 2] * pz + nodes[k, 0] + shift[k, 0])
            y += w * (r[1, 0] * px + r[1, 1] * py + r[1, 2] * pz + nodes[k, 1] + shift[k, 1])
            z += w * (r[2, 0] * px + r[2, 1] * py + r[2, 2] * pz + nodes[k, 2] + shift[k, 2])
        for c in range(3):
            out[i, c] = to_cam[c, 0] * x + to_cam[c, 1] * y + to_cam[c, 2] * z + to_cam[c, 3]


def misfits(bending: Bending, clip: Clip) -> list[str]:
    """What to say of frames that the thing could not be carried to, or that don't show it."""
    off = bending.misfit - bending.misfit[bending.canonical]
    lost, gone = np.flatnonzero(off > _LOST), np.flatnonzero(np.isnan(off))
    said = []
    if len(lost):
        words = ", ".join(f"{100 * off[t]:.1f} % in frame {t}" for t in lost[:6]) + (
            " and more" if len(lost) > 6 else ""
        )
        said.append(
            f"in {len(lost)} of {len(off) - len(gone)} frames what is seen of it is off where it was carried, by {words} of its "
            "size: parts that appear, vanish or grow together, or motion too far from one frame to the next"
        )
    if len(gone):
        said.append(
            f"{len(gone)} of {len(off)} frames don't tell how it bends; there it moves from what the others tell"
        )
    return said


def seen_through(field: SirenField, warp: NodeWarp) -> tuple[Warped, list[str]]:
    """A canonical field that bends, and what to say of its warp."""
    measured = measure_warp(field, warp)
    said = []
    if measured.folded > _FOLDED:
        said.append(f"its warp folds space over in {100 * measured.folded:.0f} % of the places in it or close to it")
    return Warped(field, warp, stretch=measured.stretch).requires_grad_(False), said
