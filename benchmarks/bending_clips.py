"""RGB-D clips of single things that bend, learned from their true masks, and scored against the truth.

    python -m benchmarks.bending_clips [--seeds 0-3]

Meshes of pybullet_data that twist or bend, and a figure with skinned limbs; painted by functions of the resting point,
lit by a sun, seen by a camera that stands or goes around them. Odd seeds have depth like a structured-light camera. Prints one
JSON line a clip: silhouettes (IoU) and colours (dB, where both show it) in held-out frames, points followed from the first
frame (median, a share of the extent, percent), and how far what is seen is from the learned surface.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import igl
import numpy as np
import pybullet_data
import torch
import trimesh
from scipy import ndimage
from scipy.spatial.transform import Rotation
from trimesh.ray.ray_pyembree import RayMeshIntersector

from objects.aabb import Aabb
from objects.analytic_warps import Bend, Twist
from objects.warp import Warp
from rendering.camera import Camera
from rendering.render import render
from scenes.video import Clip, LearnedClip, learn_masked
from scenes.video.masked import NAME, residuals

DATA = Path(pybullet_data.getDataPath())
N, WIDTH, HEIGHT, FOCAL, FPS = 16, 144, 108, 150.0, 20.0
KINDS = ("bunny", "figure", "duck", "teddy")
SUN = np.array([0.4, -0.5, 0.77])


class Bent(NamedTuple):
    """A clip of one thing with its truth: pixels, and vertices in each frame."""

    clip: Clip
    mask: np.ndarray
    vertices: np.ndarray
    faces: np.ndarray


def limbs(rng: np.random.Generator) -> tuple[trimesh.Trimesh, np.ndarray]:
    """A standing figure, 1 m, and where its limbs hang: rows of joint, direction of the limb."""
    make = trimesh.creation.capsule
    parts = [
        make(0.4, 0.11, count=[24, 24]).apply_translation((0, 0, 0.6)),
        trimesh.creation.icosphere(3, 0.09).apply_translation((0, 0, 0.98)),
    ]
    joints = []
    for side in (-1, 1):
        arm = make(0.36, 0.04, count=[24, 24]).apply_transform(
            trimesh.transformations.rotation_matrix(side * np.pi / 2, (0, 1, 0))
        )
        parts.append(arm.apply_translation((side * 0.26, 0, 0.8)))
        parts.append(make(0.42, 0.055, count=[24, 24]).apply_translation((side * 0.08, 0, 0.13)))
        joints += [(side * 0.12, 0, 0.8, side, 0, 0), (side * 0.08, 0, 0.34, 0, 0, -1)]
    mesh = trimesh.boolean.union(parts, engine="manifold")
    vertices, faces = _fine(mesh, 0.04)
    return trimesh.Trimesh(vertices, faces), np.array(joints, float)


def _fine(mesh: Any, edge: float) -> tuple[np.ndarray, np.ndarray]:
    cut: Any = trimesh.remesh.subdivide_to_size(mesh.vertices, mesh.faces, edge)
    return cut[0], cut[1]


def swung(mesh: trimesh.Trimesh, joints: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Vertices of a figure whose limbs are turned about an axis across; weights go smoothly from 0 to 1 past each joint."""
    p = np.asarray(mesh.vertices)
    out = p.copy()
    for (x, y, z, *way), angle in zip(joints, angles, strict=True):
        hinge, way = np.array([x, y, z]), np.array(way)
        along = (p - hinge) @ way
        beside = np.abs(p[:, 0] - x) < 0.09 if way[2] else np.abs(p[:, 2] - z) < 0.08
        share = np.clip(along / 0.06 + 0.5, 0, 1) * (beside & (np.sign(p[:, 0]) == np.sign(x)))
        axis = (0, 1, 0) if way[0] else (1, 0, 0)
        turned = Rotation.from_rotvec(angle * np.array(axis)).apply(p - hinge) + hinge
        out += share[:, None] * (turned - p)
    return out


def bent(seed: int) -> Bent:
    """A clip; the same seed, the same clip."""
    rng = np.random.default_rng(seed)
    kind, t = KINDS[seed % len(KINDS)], np.linspace(0, 1, N)
    phase, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.2)
    wave = np.sin(2 * np.pi * 0.8 * t + phase)
    if kind == "figure":
        mesh, joints = limbs(rng)
        vertices = np.stack([swung(mesh, joints, size * np.array([1, 0.35, -0.8, -0.35]) * w) for w in wave])
        faces = np.asarray(mesh.faces)
    else:
        file = {"bunny": "bunny.obj", "duck": "duck.obj", "teddy": "teddy2_VHACD_CHs.obj"}[kind]
        loaded: Any = trimesh.load(DATA / file, force="mesh")
        rest = np.asarray(loaded.vertices) @ Rotation.from_euler("x", 90, degrees=True).as_matrix().T
        rest = (rest - rest.mean(0)) / np.ptp(rest, axis=0).max()
        rest, faces = _fine(trimesh.Trimesh(rest, loaded.faces, process=False), 0.05)
        box, times = Aabb(torch.from_numpy(rest.min(0)).float(), torch.from_numpy(rest.max(0)).float()), t.tolist()
        warp: Warp = Twist(box, (0, 0, 1), (0, 0, -0.4), times, (1.2 * size * wave).tolist())
        if kind == "teddy":
            warp = Bend(box, (0, 0, 1), (1, 0, 0), (0, 0, 0), 1.0, times, (1.0 * size * wave).tolist())
        vertices = np.stack([_moved(warp, rest, w) for w in times])
    travel = np.stack([0.25 * t * np.cos(phase), 0.25 * t * np.sin(phase), 0.03 * wave], 1)
    vertices = vertices + travel[:, None]
    return _filmed(vertices, faces, rng, noisy=seed % 2 == 1)


def _moved(warp: Warp, p: np.ndarray, time: float) -> np.ndarray:
    q = torch.from_numpy(p).float()
    with torch.no_grad():
        return warp.deformed(q, torch.full((len(q),), time)).double().numpy()


def _filmed(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator, *, noisy: bool) -> Bent:
    rest, low = vertices[0], vertices[..., 2].min() - 0.02
    freq, phase = rng.normal(size=(3, 3, 3)) * 9, rng.uniform(0, 6, (3, 3))
    middle, start, sweep = vertices.mean((0, 1)), rng.uniform(-2.4, -0.7), rng.choice([0.0, 0.5])
    rgb, depth = np.zeros((N, HEIGHT, WIDTH, 3), np.uint8), np.zeros((N, HEIGHT, WIDTH), np.float32)
    mask, cameras = np.zeros((N, HEIGHT, WIDTH), bool), np.zeros((N, 4, 4))
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    ray = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones_like(u)], -1).reshape(-1, 3)
    for k in range(N):
        a = start + sweep * k / N
        camera = Camera.look_at(
            tuple(middle + 2.2 * np.array([np.cos(a), np.sin(a), 0.35])), tuple(middle), WIDTH, HEIGHT, 40
        )
        T = cameras[k] = camera.T_world_cam.as_matrix().double().numpy()
        ways = ray @ T[:3, :3].T
        ways_z = np.where(np.abs(ways[:, 2]) > 1e-9, ways[:, 2], -1e-9)
        floor = (low - T[2, 3]) / ways_z
        z = np.where(floor > 0, floor, 0.0)
        on = T[:3, 3] + z[:, None] * ways
        color = np.where(((np.floor(on[:, :2] / 0.3).sum(1) % 2) > 0)[:, None], 0.55, [0.35, 0.45, 0.4])
        color[z <= 0] = 0.8
        mesh = trimesh.Trimesh(vertices[k], faces, process=False)
        which, rows = RayMeshIntersector(mesh).intersects_id(
            np.broadcast_to(T[:3, 3], ways.shape), ways, multiple_hits=False
        )[:2]
        normal, corner = mesh.face_normals[which], vertices[k][faces[which]]
        dist = ((corner[:, 0] - T[:3, 3]) * normal).sum(1) / (ways[rows] * normal).sum(1)
        p = T[:3, 3] + dist[:, None] * ways[rows]
        at = np.einsum("nc,ncx->nx", trimesh.triangles.points_to_barycentric(corner, p), rest[faces[which]])
        paint = 0.55 + 0.15 * np.sin(np.einsum("cjx,nx->ncj", freq, at) + phase).sum(2)
        color[rows], z[rows] = paint * (0.45 + 0.55 * np.maximum(normal @ SUN, 0))[:, None], dist
        rgb[k] = np.rint(255 * np.clip(color, 0, 1)).reshape(HEIGHT, WIDTH, 3)
        depth[k], found = np.where(z < 8, z, 0).reshape(HEIGHT, WIDTH), np.zeros(HEIGHT * WIDTH, bool)
        found[rows] = True
        mask[k] = found.reshape(HEIGHT, WIDTH)
    if noisy:
        edge = np.abs(np.diff(depth, axis=2, append=depth[..., -1:])) > 0.05
        depth = np.where(ndimage.binary_dilation(edge, np.ones((1, 1, 3))), 0, depth)
        depth = np.where(depth > 0, np.round(depth + rng.normal(size=depth.shape) * (0.0015 + 0.002 * depth**2), 3), 0)
    lens = np.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
    return Bent(Clip(rgb, depth.astype(np.float32), lens, np.arange(N) / FPS, cameras), mask, vertices, faces)


def scored(made: Bent, learned: LearnedClip, held: list[int]) -> dict[str, float]:
    """Figures of a learned clip."""
    clip, graph, errors, ious = made.clip, learned.graph, [], []
    for t in held:
        time_s = float(clip.times[t])
        frame = render(graph, graph.camera_at("camera", time_s), time=time_s, progress=False)
        there, shown = made.mask[t], (frame.alpha >= 0.5).numpy()
        ious.append((there & shown).sum() / (there | shown).sum())
        off = (frame.rgb.numpy() - clip.rgb[t] / 255)[there & (frame.alpha == 1).numpy()]
        errors.append((off**2).mean(1))
    extent = float(np.ptp(made.vertices[0], axis=0).max())
    p = _shown_first(made, 500)
    goal, start = p[1], torch.from_numpy(p[0])
    off = [
        np.linalg.norm(graph.follow(NAME, start, float(clip.times[0]), float(clip.times[t])).numpy() - goal[t], axis=1)
        for t in (N // 2, N - 1)
    ]
    far = 100 * np.concatenate(off) / extent
    return {
        "iou": float(np.mean(ious)),
        "worst_iou": float(min(ious)),
        "held_out_db": float(-10 * np.log10(np.concatenate(errors).mean())),
        "followed_pct": float(np.median(far)),
        "followed_90_pct": float(np.quantile(far, 0.9)),
        "off_pct": float(100 * np.nanmax(residuals(clip, made.mask, learned))),
    }


def _shown_first(made: Bent, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points that the first frame shows, and where they are in all."""
    y, x = np.nonzero(ndimage.binary_erosion(made.mask[0]) & (made.clip.depth[0] > 0))
    pick = np.random.default_rng(0).permutation(len(y))[:n]
    z = made.clip.depth[0, y[pick], x[pick]].astype(float)
    fx, fy, cx, cy = made.clip.lens
    cameras = made.clip.cameras
    if cameras is None:
        raise ValueError("made: expected cameras, got none")
    T = cameras[0]
    p = np.stack([(x[pick] + 0.5 - cx) / fx * z, (y[pick] + 0.5 - cy) / fy * z, z], 1) @ T[:3, :3].T + T[:3, 3]
    nearest: Any = igl.point_mesh_squared_distance(p, made.vertices[0], made.faces.astype(np.int64))
    face, q = np.asarray(nearest[1]), np.asarray(nearest[2])
    share = trimesh.triangles.points_to_barycentric(made.vertices[0][made.faces[face]], q)
    return q, np.einsum("nc,tncx->tnx", share, made.vertices[:, made.faces[face]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-3")
    first, _, last = parser.parse_args().seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        made, held = bent(seed), list(range(3, N - 1, 6))
        begin = time.process_time()
        learned = learn_masked(made.clip, made.mask, frames=[t for t in range(N) if t not in held])
        spent = time.process_time() - begin
        row = {
            "seed": seed,
            "kind": KINDS[seed % len(KINDS)],
            "noisy": seed % 2 == 1,
            **scored(made, learned, held),
            "cpu_s": spent,
        }
        print(
            json.dumps(
                {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} | {"notes": learned.notes}
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
