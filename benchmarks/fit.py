"""How well and how fast meshes are learned: `python -m benchmarks.fit --data FOLDER --out FILE.json`.

Fits every mesh of a folder alone and all of them in a batch, both with an empty cache and the configuration of one quality, and
scores the extracted meshes with `evaluate_mesh.py` where that is given, in a process of its own; colours and normals on the outer
surface are scored here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from objects import FitConfig, SirenField, fit_mesh, fit_meshes, save_field
from objects.mesh import MeshSource, read_mesh
from objects.mesh_samples import QUALITIES

SHARED = Path(__file__).resolve().parents[2] / "shared"
SUFFIXES = {".obj", ".ply", ".stl", ".glb", ".off"}


def color_error(field: SirenField, path: Path) -> float | None:
    """Mean absolute error of the colour over 50,000 points of the surface; None for meshes without colour."""
    source = read_mesh(path)
    if not source.has_color:
        return None
    p, _ = source.sample(50_000, np.random.default_rng(12345))
    with torch.no_grad():
        rgb = field(torch.from_numpy(p).float()).rgb.numpy()
    return float(np.abs(rgb - source.colors(p)).mean())


def normal_errors(field: SirenField, path: Path) -> dict[str, float]:
    """Degrees between the field's gradient and the normal of the mesh, at 50,000 points of its outer surface; median and 90th
    percentile."""
    degrees, _ = normals_off(field, read_mesh(path))
    return {"normal_deg_median": float(np.median(degrees)), "normal_deg_90": float(np.percentile(degrees, 90))}


def facet_angle(path: Path) -> float:
    """Degrees between the normals of facets and those of the smooth surface through the same vertices, in the median: what a
    perfectly smooth field would be off."""
    mesh: Any = trimesh.load(path, force="mesh", process=True, merge_tex=True, merge_norm=True)
    p, face = trimesh.sample.sample_surface(mesh, 20_000, seed=0)[:2]
    share = trimesh.triangles.points_to_barycentric(mesh.triangles[face], p)
    smooth = (mesh.vertex_normals[mesh.faces[face]] * share[:, :, None]).sum(1)
    smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-12)
    return float(np.median(np.degrees(np.arccos(np.clip((smooth * mesh.face_normals[face]).sum(1), -1, 1)))))


def table_errors(config: FitConfig) -> dict[str, float]:
    """Degrees by which the normals of the demo's table are off, legs and top apart (median and 90th percentile)."""
    import pybullet_data

    from examples.demo import table_mesh

    mesh = table_mesh(Path(pybullet_data.getDataPath()))
    degrees, p = normals_off(fit_mesh(mesh, config=config), read_mesh(mesh))
    legs = p[:, 2] < 0.55
    parts = {"legs": degrees[legs], "top": degrees[~legs]}
    return {f"table_{name}_deg_{q}": float(np.percentile(d, q)) for name, d in parts.items() for q in (50, 90)}


def normals_off(field: SirenField, source: MeshSource) -> tuple[np.ndarray, np.ndarray]:
    """Degrees between gradient and normal, and the 50,000 points they are measured at."""
    p, normal = source.sample(50_000, np.random.default_rng(54321))
    at = torch.from_numpy(p).float().requires_grad_()
    (slope,) = torch.autograd.grad(field.inside_sdf(at, None).sum(), at)
    cosine = (torch.nn.functional.normalize(slope.double(), dim=-1) * torch.from_numpy(normal)).sum(-1)
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))).numpy(), p


def scores(field: SirenField, path: Path, evaluate: Path, folder: Path) -> dict[str, float | int | None]:
    """Quality of one learned field."""
    extracted, file = folder / f"{path.stem}.ply", folder / f"{path.stem}.safetensors"
    began = time.perf_counter()
    field.to_mesh().export(extracted)
    result: dict[str, float | int | None] = {"to_mesh_seconds": time.perf_counter() - began}
    save_field(field, file)
    result["file_bytes"] = file.stat().st_size
    result["color_error"] = color_error(field, path)
    result |= normal_errors(field, path) | {"facet_deg_median": facet_angle(path)}
    if evaluate.is_file():
        done = subprocess.run(
            [sys.executable, str(evaluate), str(extracted), str(path)], capture_output=True, text=True, check=True
        )
        result |= json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "meshes", help="folder of meshes")
    parser.add_argument("--evaluate", type=Path, default=SHARED / "tools" / "evaluate_mesh.py", help="the scoring tool")
    parser.add_argument("--out", type=Path, default=Path("out/bench/fit.json"))
    parser.add_argument("--batch-only", action="store_true", help="don't fit each mesh alone too")
    parser.add_argument("--quality", choices=tuple(QUALITIES), default="normal")
    parser.add_argument("--table", action="store_true", help="score the normals of the demo's table, too")
    parser.add_argument("--only", nargs="*", help="names (without suffix) to take")
    args = parser.parse_args()
    config = FitConfig.of(args.quality)
    paths = sorted(p for p in args.data.glob("*") if p.suffix.lower() in SUFFIXES)
    paths = [p for p in paths if not args.only or p.stem in args.only]
    if not paths:
        parser.error(f"--data: expected a folder with meshes, got {args.data}")
    rows: dict[str, dict] = {p.stem: {} for p in paths}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SIRENSCAPE_CACHE"] = str(Path(folder) / "alone")
        fields = []
        for path in [] if args.batch_only else paths:
            began, load = time.perf_counter(), os.getloadavg()[0]
            cpu = time.process_time()
            fields.append(fit_mesh(path, config=config))
            rows[path.stem] |= {
                "seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time() - cpu,
                "load_before": load,
            }
        os.environ["SIRENSCAPE_CACHE"] = str(Path(folder) / "batch")
        began, cpu = time.perf_counter(), time.process_time()
        batch = fit_meshes(paths, config=config)
        batch_seconds, batch_cpu = time.perf_counter() - began, time.process_time() - cpu
        began = time.perf_counter()
        fit_meshes(paths, config=config)
        cached_seconds = time.perf_counter() - began
        same = all(
            torch.equal(a, b)
            for x, y in zip(fields, batch, strict=False)
            for a, b in zip(x.parameters(), y.parameters(), strict=True)
        )
        for path, field in zip(paths, batch, strict=True):
            rows[path.stem] |= scores(field, path, args.evaluate, Path(folder))
        table = table_errors(config) if args.table else {}

    def column(key: str) -> list[float]:
        return [row[key] for row in rows.values() if row.get(key) is not None]

    summary: dict[str, float | bool | int] = {
        "threads": torch.get_num_threads(),
        "batch_seconds_each": batch_seconds / len(paths),
        "batch_cpu_seconds_each": batch_cpu / len(paths),
        "cached_seconds_each": cached_seconds / len(paths),
        "file_bytes_max": int(max(column("file_bytes"))),
        **table,
    }
    if seconds := column("seconds"):
        summary |= {"seconds_alone_max": max(seconds), "batch_equals_alone": same}
    medians = column("normal_deg_median")
    summary |= {
        "normal_deg_median_of_medians": statistics.median(medians),
        "normal_deg_worst_median": max(medians),
        "facet_deg_median_of_medians": statistics.median(column("facet_deg_median")),
        "normal_deg_median_of_90": statistics.median(column("normal_deg_90")),
    }
    if colors := column("color_error"):
        summary |= {"color_error_median": statistics.median(colors), "color_error_max": max(colors)}
    if column("iou"):
        summary |= {
            "distance_pct_median": statistics.median(column("distance_pct")),
            "distance_pct_max": max(column("distance_pct")),
            "iou_median": statistics.median(column("iou")),
            "iou_min": min(column("iou")),
            "meshes_with_extra_parts": sum(row["parts"] != row["parts_source"] for row in rows.values()),
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"summary": summary, "meshes": rows}, indent=2) + "\n")
    for name, row in rows.items():
        print(f"{name:24s} " + "  ".join(f"{k} {v:.4g}" for k, v in row.items() if v is not None))
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
