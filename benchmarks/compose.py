"""What composition costs and whether it is right: `python -m benchmarks.compose`.

Scenes of 1 to 1,000 instances of six quickly learned SIRENs, equally dense, looked at by 320 x 240 rays. Times are medians;
brute force is the dense float64 reference on a sample of the same rays, its evaluations counted. Prints a table and writes
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numba
import torch
from torch import Tensor

from benchmarks.timing import median_ms, say
from compose import Composite, Hits, Instance, Rays
from compose.batch import FieldBatch
from compose.reference import in_double, query_reference, trace_reference
from compose.segments import segment_reduce, torch_scatter_available
from objects import SE3, Aabb, SirenField
from objects.field import Field, Union
from objects.placed import Placed
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
from rendering import Camera

COUNTS = (1, 10, 100, 1000)
WIDTH, HEIGHT = 320, 240
SAMPLE_RAYS = {1: 2000, 10: 1000, 100: 300}  # held against the reference; it grows with the number of instances
SPACING = 1.0  # metres between neighbours; objects are about 0.4 to 1 m across


def learned(shape: Field, seed: int) -> SirenField:
    """A SIREN of the default size that has seen an exact solid for a moment; one thread is enough for so little."""
    half = torch.full((3,), 0.5)
    field, generator = SirenField(Aabb(-half, half), seed=seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(field.distance.parameters(), lr=5e-4)
    for _ in range(200):
        p = torch.rand(1024, 3, generator=generator) - 0.5
        optimizer.zero_grad()
        (field.sdf(p) - shape.sdf(p)).abs().mean().backward()
        optimizer.step()
    return field.requires_grad_(False)


def assets() -> list[SirenField]:
    ball, ring, can = Sphere(0.3), Torus(0.3, 0.1), Cylinder(0.2, 0.6)
    shapes = [ball, ring, can, Box([0.6, 0.4, 0.3], 0.05), Union(ring, Capsule(0.1, 0.5), smooth=0.1)]
    shapes.append(Box([0.6, 0.6, 0.6], 0.02) - Placed(ball, SE3.from_translation([0.2, 0.2, 0.2])))
    return [learned(shape, seed) for seed, shape in enumerate(shapes)]


def scene_of(fields: list[SirenField], m: int) -> list[Instance]:
    """Instances in a cube whose volume grows with their number, each turned and scaled at random."""
    g = torch.Generator().manual_seed(m)
    spread = 0.5 * SPACING * m ** (1 / 3)
    out = []
    for k in range(m):
        quat = torch.randn(4, generator=g, dtype=torch.float64)
        place = spread * (2 * torch.rand(3, generator=g, dtype=torch.float64) - 1)
        scale = 0.7 + 0.6 * float(torch.rand(1, generator=g))
        out.append(Instance(f"object {k}", fields[k % len(fields)], SE3(quat, place), scale))
    return out


def disagreements(got: Hits, want: Hits, size: float) -> dict[str, float | int]:
    """Rays with another owner (ties within 1e-6 of the scene aside) or a depth off by more than 1e-4 of the scene."""
    gap = torch.where(got.t == want.t, 0.0, (got.t - want.t).abs())
    owners = (got.owner != want.owner) & (gap >= 1e-6 * size)
    both = (got.owner == want.owner) & (got.owner >= 0)
    return {
        "sample_rays": len(gap),
        "sample_hits": int((want.owner >= 0).sum()),
        "other_owner": int(owners.sum()),
        "other_depth": int((gap > 1e-4 * size).sum()),
        "depth_error_max_of_size": float((gap[both] / size).max()) if both.any() else 0.0,
    }


def count_evaluations(instances: list[Instance]) -> list[int]:
    """Makes each field of (a copy of) a scene count the points it is asked at; returns where the sum will be found."""
    total = [0]

    def counted(ask: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(p: Tensor, at: Tensor | None = None) -> Tensor:
            total[0] += len(p)
            return ask(p, at)

        return run

    for field in {id(i.field): i.field for i in instances}.values():
        field.sdf = counted(field.sdf)
    return total


def traced(scene: Composite, instances: list[Instance], rays: Rays) -> dict[str, float | int]:
    m, n = len(instances), len(rays)
    ms = median_ms(lambda: scene.trace(rays))
    hits, count = scene.trace(rays), scene.trace_count(rays)
    n_hits = max(int((hits.owner >= 0).sum()), 1)
    row: dict[str, float | int] = {
        "trace_ms": ms,
        "occluded_ms": median_ms(lambda: scene.occluded(rays), 3),
        "hit_rays": n_hits,
        "candidates_per_ray": count.candidates / n,
        "evaluations_per_ray": count.evaluations / n,
        "evaluations_per_hit": count.evaluations / n_hits,
        "repeated_rays": count.repeated,
    }
    if m in SAMPLE_RAYS:
        pick = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: SAMPLE_RAYS[m]]
        some = Rays(rays.origins[pick], rays.directions[pick])
        doubles = in_double(instances)
        total = count_evaluations(doubles)
        began = time.perf_counter()
        want = trace_reference(doubles, some)
        brute_ms = 1e3 * (time.perf_counter() - began)
        row |= disagreements(Hits(hits.t[pick], hits.owner[pick]), want, scene.size)
        row |= {
            "brute_ms_per_1000_rays": 1e3 * brute_ms / len(some),
            "brute_time_ratio": (brute_ms / len(some)) / (ms / n),
            "brute_evaluation_ratio": (total[0] / len(some)) / (count.evaluations / n),
        }
    return row


def queried(scene: Composite, instances: list[Instance]) -> dict[str, float]:
    """Points a second for points all over the scene, and in float32 without an index ("dense")."""
    bounds = scene.bounds
    if bounds is None:
        return {}
    n, n_dense = 20_000, max(50, 20_000 // len(instances))
    p = bounds.lo + bounds.size * torch.rand(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact_ms = median_ms(lambda: scene.query(p), 3)
    band_ms = median_ms(lambda: scene.query(p, band=0.05), 3)
    began = time.perf_counter()
    for instance in instances:
        p_obj = (instance.T_world_obj.inverse() @ p[:n_dense]) / instance.scale
        instance.field(p_obj.float())
    dense_ms = 1e3 * (time.perf_counter() - began)
    doubles, few = in_double(instances), p[: max(20, 2000 // len(instances))]
    error = (scene.query(few).sdf - query_reference(doubles, few).sdf).abs().max()
    return {
        "query_points_per_s": 1e3 * n / exact_ms,
        "query_band_points_per_s": 1e3 * n / band_ms,
        "query_dense_points_per_s": 1e3 * n_dense / dense_ms,
        "query_error_max_m": float(error),
    }


def kernel(fields: list[SirenField]) -> dict[str, float]:
    """The fused kernel against torch on the same packed pairs."""
    batch, g = FieldBatch(fields), torch.Generator().manual_seed(2)
    asset = torch.randint(len(fields), (50_000,), generator=g)
    p = torch.rand(50_000, 3, generator=g, dtype=torch.float64) - 0.5
    fused = median_ms(lambda: batch.sdf(asset, p))
    stacked = median_ms(lambda: batch.sdf(asset, p, fused=False))
    rows = [p[asset == k].float() for k in range(len(fields))]
    loop = median_ms(lambda: [f.sdf(q) for f, q in zip(fields, rows, strict=True)])
    return {
        "fused_points_per_s": 5e7 / fused,
        "torch_stacked_over_fused": stacked / fused,
        "torch_loop_over_fused": loop / fused,
    }


def segments() -> dict[str, float | str]:
    """A million rows of four in segments of ten."""
    n, g = 1_000_000, torch.Generator().manual_seed(3)
    values = torch.randn(n, 4, generator=g)
    cuts = torch.randint(n, (n // 10 - 1,), generator=g).sort().values
    offsets = torch.cat([torch.tensor([0]), cuts, torch.tensor([n])])
    out: dict[str, float | str] = {}
    for reduction in ("sum", "max"):
        out[f"torch_{reduction}_ms"] = median_ms(lambda r=reduction: segment_reduce(values, offsets, r))
        if torch_scatter_available():
            out[f"torch_scatter_{reduction}_ms"] = median_ms(
                lambda r=reduction: segment_reduce(values, offsets, r, backend="torch_scatter")
            )
    if not torch_scatter_available():
        out["torch_scatter"] = "not installed (make test-scatter builds it)"
    return out


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench/compose.json"))
    options = parser.parse_args()
    result: dict = {
        "threads": {"torch": torch.get_num_threads(), "numba": numba.get_num_threads()},
        "load_before": os.getloadavg()[0],
        "size": [WIDTH, HEIGHT],
    }
    began = time.perf_counter()
    torch.set_num_threads(1)
    with torch.enable_grad():
        fields = assets()
    torch.set_num_threads(result["threads"]["torch"])
    say(f"six objects learned in {time.perf_counter() - began:.1f} s")
    result["scenes"] = {}
    for m in COUNTS:
        instances = scene_of(fields, m)
        began = time.perf_counter()
        scene = Composite(instances)
        build_ms = 1e3 * (time.perf_counter() - began)
        reach = scene.size
        centre = (0.5 * (scene.bounds.lo + scene.bounds.hi)).tolist() if scene.bounds else [0.0, 0.0, 0.0]
        eye = [centre[0] + 0.6 * reach, centre[1] - 0.7 * reach, centre[2] + 0.4 * reach]
        rays = Camera.look_at(eye, centre, WIDTH, HEIGHT, 40.0).rays()
        began = time.perf_counter()
        scene.trace(rays)
        row = {"build_ms": build_ms, "first_trace_ms": 1e3 * (time.perf_counter() - began)}
        row |= traced(scene, instances, rays) | queried(scene, instances)
        poses = SE3.stack([instances[0].T_world_obj])
        row["move_one_ms"] = median_ms(lambda s=scene, T=poses: s.with_poses([0], T))
        result["scenes"][str(m)] = row
        say(f"{m:5d} instances  " + "  ".join(f"{k} {v:.4g}" for k, v in row.items()))
    result["kernel"] = kernel(fields)
    result["segments"] = segments()
    for name in ("kernel", "segments"):
        say(f"{name}: {result[name]}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
