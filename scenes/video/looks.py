"""Colours of the parts of a clip: what pixels show of their learned shapes; what no frame saw takes those of what is near."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.spatial import KDTree

from compose.composite import Composite
from compose.types import Instance
from objects.coloring import colors_at, divide, learn_colors
from objects.mesh_samples import FitConfig
from objects.pose import SE3
from objects.progress import Bar
from objects.siren import SirenField
from objects.training import TrainConfig
from rendering.camera import Camera
from rendering.learning.state import observe, shown_cells
from scenes.video.clip import Clip
from scenes.video.decomposition import Decomposition
from scenes.video.shapes import Shaped, places_on

_MOST = 600_000  # pixels that colours are learned from
_JITTER = 0.25  # pixels beside the centre at which colours are read, at most
_TOLERANCE, _TOLERANCE_SHARE = 0.006, 0.02  # metres, and of the depth: how far a surface may be from what was measured
_UNSEEN_POINTS, _NEAREST = 20_000, 24
_UNSEEN = 3.0  # spacings of the points that were seen, beyond which a place counts as unseen


class Seen(NamedTuple):
    """Places on learned shapes that pixels show, ``n`` in all."""

    part: Int[np.ndarray, "n"]
    frame: Int[np.ndarray, "n"]
    p_obj: Float[np.ndarray, "n 3"]
    """Of what bends: canonical frame."""
    p_world: Float[np.ndarray, "n 3"]
    normal: Float[np.ndarray, "n 3"]
    """World frame."""
    rgb: Float[np.ndarray, "n 3"]
    """sRGB."""


def camera_at(clip: Clip, found: Decomposition, t: int) -> Camera:
    """The camera of a frame."""
    fx, fy, cx, cy = clip.lens.tolist()
    height, width = clip.depth.shape[1:]
    return Camera(SE3.from_matrix(torch.from_numpy(found.cameras[t])), fx, fy, cx, cy, width, height)


def composite_at(shapes: Sequence[Shaped], t: int) -> Composite:
    """The learned shapes that are there in a frame, as they stand."""
    return Composite(
        [
            Instance(
                s.part.name,
                s.shown,
                SE3.from_matrix(torch.from_numpy(s.part.T_world_obj[t])),
                time=s.time(t),
                lit=False,
            )
            for s in shapes
            if s.part.there[t]
        ]
    )


@torch.no_grad()
def look(clip: Clip, found: Decomposition, shapes: Sequence[Shaped], *, seed: int = 0) -> Seen:
    """What the pixels of the frames show that each part is learned from.

    Left out: pixels that something else should be at (by id, or by depth), and the rims of objects, whose colours are mixed.
    """
    rng = np.random.default_rng(seed)
    n, height, width = clip.depth.shape
    share = min(1.0, _MOST / max(1, n * height * width))
    numbers = np.array([s.part.id for s in shapes])
    stiff = np.array([i for i, s in enumerate(shapes) if s.bent is None], int)
    found_in: list[tuple[np.ndarray, ...]] = []
    for t in Bar(range(n), desc="looking", unit="frame"):
        used = np.array([s.part.used[t] for s in shapes])
        if not used.any():
            continue
        here = np.array([i for i in stiff if shapes[i].part.there[t]], int)
        scene, camera = composite_at([shapes[i] for i in here], t), camera_at(clip, found, t)
        pixel = np.flatnonzero(rng.random(height * width) < share)
        y, x = np.divmod(pixel, width)
        uv = np.stack([x, y], -1) + 0.5 + rng.uniform(-_JITTER, _JITTER, (len(pixel), 2))
        rays = camera.rays(torch.from_numpy(uv))
        hits = scene.trace(rays)
        hit, along = hits.owner.numpy(), hits.t.double()
        owner = np.where(hit >= 0, np.append(here, -1)[hit], -1)
        depth = (along * camera.depth_per_t(torch.from_numpy(uv))).numpy()
        measured = clip.depth[t].ravel()[pixel]
        off = np.abs(measured - depth) > _TOLERANCE + _TOLERANCE_SHARE * measured
        inner = _inner(found.ids[t]).ravel()[pixel]
        fits = (owner >= 0) & used[owner] & (np.maximum(numbers[owner], 0) == found.ids[t].ravel()[pixel])
        fits &= inner & ~((measured > 0) & off)
        at = np.flatnonzero(fits)
        rows, own = torch.from_numpy(at), torch.from_numpy(hit[at])
        p_world = rays.origins[rows] + along[rows, None] * rays.directions[rows]
        normal = scene.evaluate(p_world, own).normal.double().numpy()
        T = np.linalg.inv(np.stack([s.part.T_world_obj[t] for s in shapes]))[owner[at]]
        p_world = p_world.double().numpy()
        p_obj = np.einsum("nij,nj->ni", T[:, :3, :3], p_world) + T[:, :3, 3]
        rgb = _colors(clip, t, uv[at])
        found_in.append((owner[at], np.full(len(at), t), p_obj, p_world, normal, rgb))
        found_in += [
            (np.full(len(p_obj), i), np.full(len(p_obj), t), p_obj, p_world, normal, _colors(clip, t, uv))
            for i, s in enumerate(shapes)
            if s.bent is not None and used[i]
            for p_obj, p_world, normal, uv in [_measured(clip, found, s, t)]
        ]
    return Seen(*(np.concatenate(column) for column in zip(*found_in, strict=True)))


def _colors(clip: Clip, t: int, uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    if not len(uv):
        return np.zeros((0, 3))
    where = uv.astype(np.float32)[None] - 0.5
    rgb = cv2.remap(clip.rgb[t].astype(np.float32), where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return rgb[0] / 255


def _measured(
    clip: Clip, found: Decomposition, shape: Shaped, t: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What bends is seen where its depth was measured: canonical points, world points, normals there, and pixels. Its rays could be
    traced as well, but an index for each frame takes seconds."""
    bent, pose = shape.bent, SE3.from_matrix(torch.from_numpy(shape.part.T_world_obj[t]))
    mine = (found.ids[t] == shape.part.id) & _inner(found.ids[t]) & (clip.depth[t] > 0)
    y, x = np.nonzero(mine)
    uv = np.stack([x, y], -1) + 0.5
    z = torch.from_numpy(clip.depth[t][mine].astype(np.float64))
    camera, at = camera_at(clip, found, t), torch.from_numpy(uv)
    rays = camera.rays(at)
    p_world = rays.origins.double() + (z / camera.depth_per_t(at))[:, None] * rays.directions.double()
    p = (pose.inverse() @ p_world).float()
    time = p.new_full((len(p),), shape.time(t) or 0.0)
    if bent is None or not len(p):
        none = np.zeros((0, 3))
        return none, none, none, none[:, :2]
    with torch.enable_grad():
        p.requires_grad_(True)
        sdf = bent.sdf(p, time)
        (slope,) = torch.autograd.grad(sdf.sum(), p)
    close = sdf.detach().abs() * bent.stretch < _TOLERANCE + _TOLERANCE_SHARE * z.float()
    normal = torch.nn.functional.normalize(slope, dim=1).double() @ pose.rotation().T
    p_canonical = bent.canonical(p.detach(), time).double()
    return p_canonical[close].numpy(), p_world[close].numpy(), normal[close].numpy(), uv[close.numpy()]


def _inner(ids: Int[np.ndarray, "h w"]) -> np.ndarray:
    """Pixels whose neighbours show the same thing."""
    return (ndimage.minimum_filter(ids, 3) == ids) & (ndimage.maximum_filter(ids, 3) == ids)


def mark_seen(clip: Clip, found: Decomposition, shapes: Sequence[Shaped], seen: Seen, frames: Sequence[int]) -> None:
    """Fills the fields' grids of what frames saw (see `observe`); of what bends from the canonical points that pixels show."""
    stiff, bent = ([s for s in shapes if (s.bent is None) == rigid] for rigid in (True, False))
    hidden = np.isin(found.ids, [s.part.id for s in bent])
    if stiff:
        valid = [torch.from_numpy((clip.depth[t] > 0) & ~hidden[t]) for t in frames]
        observe([composite_at(stiff, t) for t in frames], [camera_at(clip, found, t) for t in frames], valid)
    for i, shape in enumerate(shapes):
        if shape.bent is None:
            continue
        count = torch.zeros(shape.field.observed.numel())
        for t in frames:
            p = seen.p_obj[(seen.part == i) & (seen.frame == t)]
            count += shown_cells(shape.field, torch.from_numpy(p).float())
        shape.field.observed.copy_((1 - 0.5**count).view(shape.field.observed.shape))


def learn_looks(
    shapes: Sequence[Shaped], meshes: Sequence[trimesh.Trimesh], seen: Seen, *, steps: int, seed: int = 0
) -> tuple[list[Shaped], list[str]]:
    """The shapes with colours, learned side by side, and notes on what was filled in.

    Args:
        meshes: Their surfaces.
        seen: What pixels show of them.
    """
    fields, pools, notes = [], [], []
    config = FitConfig(color_steps=1.0)
    for i, (shape, mesh) in enumerate(zip(shapes, meshes, strict=True)):
        rng = np.random.default_rng((seed, i))
        mine = seen.part == i
        p, rgb = seen.p_obj[mine], seen.rgb[mine]
        old = shape.field
        if len(p) < 16:
            p, rgb = places_on(mesh, 256, rng), np.full((256, 3), 0.5)
            notes.append(f"{shape.part.name}: no pixel shows it well, so it is grey")
        unseen, filled = fill_in(p, rgb, places_on(mesh, _UNSEEN_POINTS, rng))
        center, half = old.center.double().numpy(), float(old.half_extent)
        every = np.concatenate([p, unseen]), np.concatenate([rgb, filled])
        pool = colors_at((every[0] - center) / half, every[1], rng)
        n_parts = pool.n_parts(config.color_parts)
        field = SirenField(old.bounds, old.network, color_parts=n_parts, observed=True, seed=seed)
        field.requires_grad_(False)
        field.distance.load_state_dict(old.distance.state_dict())
        field.lipschitz_estimate.copy_(old.lipschitz_estimate)
        field.measured = old.measured
        divide(field, pool)
        fields.append(field)
        pools.append(pool)
    train = TrainConfig(steps=steps, learning_rate=config.learning_rate, seed=seed, label="appearance")
    learn_colors(fields, pools, config, train)
    return [shape.with_field(field.requires_grad_(False)) for shape, field in zip(shapes, fields, strict=True)], notes


def fill_in(
    p_seen: Float[np.ndarray, "n 3"], rgb: Float[np.ndarray, "n 3"], p: Float[np.ndarray, "m 3"]
) -> tuple[Float[np.ndarray, "k 3"], Float[np.ndarray, "k 3"]]:
    """Those of some places that no pixel showed, and colours for them: a mean of the nearest that were seen, near ones more."""
    spacing = np.median(KDTree(p_seen).query(p_seen[:: max(1, len(p_seen) // 2000)], 2)[0][:, 1])
    limit = max(_UNSEEN * spacing, _UNSEEN * np.sqrt(np.prod(np.sort(np.ptp(p, axis=0))[1:]) / max(len(p_seen), 1)))
    distance, index = map(np.asarray, KDTree(p_seen).query(p, min(_NEAREST, len(p_seen))))
    far = distance[:, 0] > limit
    weight = 1 / np.maximum(distance[far], 1e-9)
    return p[far], (weight[..., None] * rgb[index[far]]).sum(1) / weight.sum(1, keepdims=True)
