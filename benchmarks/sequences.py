"""How well and how fast things that bend are learned: `python -m benchmarks.sequences --out FILE.json`.

Learns each sequence of a folder from its `train_frames`, the vertices of every frame in an order of their own, and scores all
frames. Lengths are in percent of the longest edge of the box of the first frame.

surface: mean of both ways between the true surface and the learned one at that time; "learned" at the frames that were given,
"between" at all others. extracted: the same with the zero set of the field, in place of the canonical mesh carried by the warp.
followed: 500 vertices of the first frame carried to every other frame, median over points and frames.
seen: pictures of some frames from three sides, of the learned field by tracing, of a baseline's mesh by ray casting, against ray
casts of the true mesh: intersection over union of silhouettes (least and mean), mean error of depth where both are hit.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import igl
import numpy as np
import torch
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from benchmarks.registration_baselines import Blended, Pyramids
from compose import Composite, Instance, Rays
from objects import SE3, FitConfig, save_field
from objects.meshing import grid_cell, zero_set
from objects.warp_learning import SequenceConfig, fit_sequence
from objects.warped import Warped
from rendering import Camera

SHARED = Path(__file__).resolve().parents[2] / "shared"
SAMPLES = 20_000
FOLLOWED = 500
SIDES = ((1.0, 0.3, 0.3), (-0.4, 1.0, 0.2), (0.3, -0.5, 1.0))  # from which pictures are taken
PIXELS = 160
SEEN = 6  # frames of which pictures are taken
Look = Callable[[float, Rays], np.ndarray]  # distances along rays at a time (seconds), inf for none


class Truth:
    """A sequence with its correspondences, which nothing that learns may see."""

    def __init__(self, folder: Path) -> None:
        self.vertices = np.load(folder / "vertices.npy").astype(np.float64)
        self.faces = np.load(folder / "faces.npy").astype(np.int64)
        self.colors = np.load(folder / "colors.npy")
        said = json.loads((folder / "sequence.json").read_text())
        self.times, self.train, self.loop = said["times"], said["train_frames"], said["loop"]
        self.extent = float(np.ptp(self.vertices[0], 0).max())
        count = len(self.times)
        self.period = (self.times[-1] - self.times[0]) * count / (count - 1) if self.loop else None

    def mesh(self, frame: int) -> trimesh.Trimesh:
        return trimesh.Trimesh(self.vertices[frame], self.faces, process=False)

    def shuffled(self, frame: int) -> trimesh.Trimesh:
        """A frame whose vertices and faces come in an order of their own."""
        rng = np.random.default_rng(frame)
        order = rng.permutation(len(self.vertices[frame]))
        place = np.argsort(order)
        faces = place[self.faces][rng.permutation(len(self.faces))]
        return trimesh.Trimesh(self.vertices[frame][order], faces, vertex_colors=self.colors[order], process=False)

    def distance(self, mesh: trimesh.Trimesh, frame: int) -> float:
        """Mean distance of surfaces, both ways, in percent."""
        true = self.mesh(frame)
        ways = []
        for a, b in ((mesh, true), (true, mesh)):
            p = np.asarray(trimesh.sample.sample_surface(a, SAMPLES, seed=0)[0])
            ways.append(
                np.sqrt(igl.point_mesh_squared_distance(p, b.vertices, np.asarray(b.faces, np.int64))[0]).mean()
            )
        return 100 * float(np.mean(ways)) / self.extent


def scores(
    truth: Truth,
    mesh_at: Callable[[float], trimesh.Trimesh],
    carry: Callable[[np.ndarray, float, float], np.ndarray],
    frames: list[int],
) -> dict[str, float]:
    """Surface distances and errors of followed points at some frames."""
    seen = {i: truth.distance(mesh_at(truth.times[i]), i) for i in frames}
    end = truth.train[-1] if not truth.loop else len(truth.times) - 1
    pick = np.random.default_rng(0).permutation(truth.vertices.shape[1])[:FOLLOWED]
    start = truth.vertices[0, pick]
    off = {
        i: 100
        * np.linalg.norm(carry(start, truth.times[0], truth.times[i]) - truth.vertices[i, pick], axis=1)
        / truth.extent
        for i in frames
        if i > 0
    }
    learned = [v for i, v in seen.items() if i in truth.train]
    between = [v for i, v in seen.items() if i not in truth.train]
    within = [v for i, v in seen.items() if i not in truth.train and i <= end]
    found = {"surface_learned": np.mean(learned), "surface_learned_worst": np.max(learned)}
    if between:
        found |= {"surface_between": np.mean(between), "surface_between_worst": np.max(between)}
        found |= {"surface_between_within_span": np.mean(within)}
    every = np.concatenate(list(off.values()))
    found |= {"followed_median": np.median(every), "followed_90": np.percentile(every, 90)}
    found |= {"followed_worst_frame": max(float(np.median(e)) for e in off.values())}
    return {key: round(float(value), 4) for key, value in found.items()}


def cast(mesh: trimesh.Trimesh, rays: Rays) -> np.ndarray:
    """Distances along rays to a mesh, inf for none."""
    o, d = rays.origins.numpy(), rays.directions.numpy()
    places, hit, _ = RayMeshIntersector(mesh).intersects_location(o, d, multiple_hits=False)
    t = np.full(len(o), np.inf)
    t[hit] = ((places - o[hit]) * d[hit]).sum(1)
    return t


def pictures(truth: Truth, look: Look) -> dict[str, float]:
    """How pictures of frames that lie evenly over the sequence agree with those of the true meshes."""
    shares, off = [], []
    for i in np.linspace(0, len(truth.times) - 1, SEEN + 1).astype(int)[1:].tolist():
        mesh = truth.mesh(i)
        center, reach = mesh.bounds.mean(0), 2.2 * float(np.ptp(mesh.bounds, axis=0).max())
        for side in np.array(SIDES):
            eye = center + reach * side / np.linalg.norm(side)
            camera = Camera.look_at(tuple(eye), tuple(center), PIXELS, PIXELS, 35.0)
            rays = camera.rays(camera.pixel_centers(torch.arange(PIXELS**2)))
            rays = Rays(rays.origins.double(), rays.directions.double())
            mine, true = look(truth.times[i], rays), cast(mesh, rays)
            a, b = np.isfinite(mine), np.isfinite(true)
            shares.append((a & b).sum() / (a | b).sum())
            off.append(np.abs(mine[a & b] - true[a & b]).mean())
    return {
        "seen_iou": float(np.mean(shares)),
        "seen_iou_least": float(np.min(shares)),
        "seen_depth": 100 * float(np.mean(off)) / truth.extent,
    }


def of_warped(learned: Warped) -> tuple[Callable, Callable, Callable]:
    """The carried mesh and the extracted one at times, and how points are carried."""
    canonical = learned.field.to_mesh()
    points = torch.from_numpy(np.array(canonical.vertices)).float()

    def at(p: torch.Tensor, seconds: float) -> torch.Tensor:
        return p.new_full((len(p),), seconds)

    def mesh_at(seconds: float) -> trimesh.Trimesh:
        with torch.no_grad():
            moved = learned.deformed(points, at(points, seconds)).double().numpy()
        return trimesh.Trimesh(moved, canonical.faces, process=False)

    def extracted_at(seconds: float) -> trimesh.Trimesh:
        cell = grid_cell(learned, 1e-3 * float(learned.bounds.size.max()))
        with torch.no_grad():
            vertices, faces = zero_set(learned, cell, lambda p: learned.sdf(p, at(p, seconds)))
        return trimesh.Trimesh(vertices.double().numpy(), faces, process=False)

    def carry(p: np.ndarray, start: float, end: float) -> np.ndarray:
        q = torch.from_numpy(p).float()
        with torch.no_grad():
            return learned.warp.carried(q, at(q, start), at(q, end)).double().numpy()

    return mesh_at, extracted_at, carry


def round_trip(learned: Warped, truth: Truth) -> dict[str, float]:
    """How far points near the true surfaces come back from themselves, percent of the extent."""
    off = []
    for i in truth.train:
        p = trimesh.sample.sample_surface(truth.mesh(i), 2000, seed=1)[0]
        p = torch.from_numpy(p + np.random.default_rng(i).normal(0, 0.005 * truth.extent, p.shape)).float()
        with torch.no_grad():
            off.append(learned.warp.residual(p, p.new_full((len(p),), truth.times[i])))
    every = 100 * torch.cat(off).double().numpy() / truth.extent
    return {"round_trip_mean": float(every.mean()), "round_trip_99": float(np.percentile(every, 99))}


def config_of(effort: float) -> SequenceConfig:
    """The usual configuration with so many times the nodes, points and steps."""
    usual = SequenceConfig()
    counts = {name: round(effort * getattr(usual, name)) for name in ("nodes", "points", "dense", "anchors")}
    return SequenceConfig(**counts, mesh=FitConfig(steps=round(effort * usual.mesh.steps)))


def score_sequence(truth: Truth, args: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    frames = list(range(0, len(truth.times), args.every))
    meshes = [truth.shuffled(i) for i in truth.train]
    times = [truth.times[i] for i in truth.train]
    rows: dict[str, dict[str, float]] = {}
    began = time.process_time()
    learned = fit_sequence(meshes, times, period=truth.period)
    spent = time.process_time() - began
    mesh_at, extracted_at, carry = of_warped(learned)
    rows["warp"] = {"cpu_seconds": round(spent, 1)} | scores(truth, mesh_at, carry, frames)
    save_field(learned, folder / "warped.safetensors")
    rows["warp"]["file_bytes"] = (folder / "warped.safetensors").stat().st_size
    rows["warp"] |= round_trip(learned, truth) | {"stretch": float(learned.stretch)}
    still = Composite([Instance("object", learned, SE3.identity())])

    def look(seconds: float, rays: Rays) -> np.ndarray:
        instance = Instance("object", learned, SE3.identity(), time=seconds)
        return still.edited([0], {0: instance}).trace(rays).t.numpy()

    rows["warp"] |= pictures(truth, look)
    if args.extract:
        some = frames[:: args.extract]
        rows["warp"]["surface_extracted"] = float(
            np.mean([truth.distance(extracted_at(truth.times[i]), i) for i in some])
        )
    for effort in args.effort:
        began = time.process_time()
        other = fit_sequence(meshes, times, period=truth.period, config=config_of(effort))
        name = f"x {effort:g}"
        rows[name] = {"cpu_seconds": round(time.process_time() - began, 1)}
        mesh_at, _, carry = of_warped(other)
        rows[name] |= scores(truth, mesh_at, carry, frames)
    for name, baseline in (("blended", Blended), ("pyramid", Pyramids)):
        if name in args.baselines:
            began = time.process_time()
            made = baseline(meshes, times)
            rows[name] = {"cpu_seconds": round(time.process_time() - began, 1)}
            rows[name] |= scores(truth, made.mesh_at, made.carry, frames)
            rows[name] |= pictures(truth, lambda seconds, rays, made=made: cast(made.mesh_at(seconds), rays))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "deform_meshes", help="folder of sequences")
    parser.add_argument("--only", nargs="*", help="names of sequences to take")
    parser.add_argument("--every", type=int, default=1, help="score every so-many-th frame (default: 1)")
    parser.add_argument("--extract", type=int, default=0, metavar="N", help="extract every N-th scored frame, too")
    parser.add_argument("--baselines", nargs="*", default=[], choices=["blended", "pyramid"])
    parser.add_argument(
        "--effort",
        nargs="*",
        type=float,
        default=[],
        help="multiples of nodes, points and steps to learn with, too: a curve",
    )
    parser.add_argument("--out", type=Path, default=Path("out/bench/sequences.json"))
    args = parser.parse_args()
    paths = [p.parent for p in sorted(args.data.glob("*/sequence.json")) if not args.only or p.parent.name in args.only]
    if not paths:
        parser.error(f"--data: expected a folder with sequences, got {args.data}")
    found: dict[str, dict] = {}
    for path in paths:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("default")
            found[path.name] = score_sequence(Truth(path), args, Path(folder))
        for name, row in found[path.name].items():
            words = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if math.isfinite(v))
            print(f"{path.name:12s} {name:8s} {words}", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
