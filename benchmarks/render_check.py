"""Learned objects rendered by `rendering.render`, against pyrender's picture of the meshes they were learned from.

    python benchmarks/render_check.py --data DIR

Every mesh of DIR stands in one scene, turned at random. Writes ``out/bench/render_check.json`` and ``render_check.png``
(ours, pyrender's, and where they differ). Needs EGL.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import trimesh
from torch import Tensor

from compose import Composite, Instance
from objects import SE3, fit_meshes
from rendering import Camera, Frame, RenderConfig, contact_sheet, depth_picture, owner_picture, render, save_png
from rendering.rasterize import egl_available, rasterize_meshes

SUFFIXES = {".obj", ".ply", ".glb", ".stl", ".off"}
COLUMNS, SPACING = 4, 0.24  # metres
SEED = 7


def grid_of_poses(n: int, generator: torch.Generator) -> list[SE3]:
    """Places on a horizontal grid about the origin, each with a uniformly random rotation."""
    rows = -(-n // COLUMNS)
    poses = []
    for i in range(n):
        row, column = divmod(i, COLUMNS)
        x, y = (column - (COLUMNS - 1) / 2) * SPACING, (row - (rows - 1) / 2) * SPACING
        quat = torch.randn(4, generator=generator, dtype=torch.float64)
        poses.append(SE3(quat, torch.tensor([x, y, 0.0], dtype=torch.float64)))
    return poses


def compare(frame: Frame, depth: Tensor, owner: Tensor, names: list[str], extents: Tensor) -> dict:
    """Scores over the whole picture and for each object; ids and depth where both see an object (the same, for depth)."""
    ours, theirs = frame.owner >= 0, owner >= 0
    both, either, same = ours & theirs, ours | theirs, ours & theirs & (frame.owner == owner)
    error = (frame.depth - depth).abs() / extents[owner.clamp(min=0)]
    objects = {}
    for i, name in enumerate(names):
        a, b = frame.owner == i, owner == i
        seen = a & b
        objects[name] = {
            "pixels": int(b.sum()),
            "iou": float(seen.sum() / (a | b).sum().clamp(min=1)),
            "depth_error_median_pct": float(100 * error[seen].median()) if seen.any() else None,
        }
    return {
        "silhouette_iou": float(both.sum() / either.sum()),
        "depth_error_median_pct": float(100 * error[same].median()),
        "depth_error_p95_pct": float(100 * error[same].double().quantile(0.95)),
        "id_agreement": float(same.sum() / both.sum()),
        "pixels": int(both.sum()),
        "worst_object_iou": min(o["iou"] for o in objects.values()),
        "worst_object_depth_error_median_pct": max(o["depth_error_median_pct"] or 0.0 for o in objects.values()),
        "objects": objects,
    }


def difference_picture(frame: Frame, depth: Tensor, owner: Tensor, extents: Tensor) -> Tensor:
    """Grey: depth differs by 0 (black) to 2 % of the extent (white); red: we alone, green: pyrender alone, blue: other id."""
    error = (frame.depth - depth).abs() / extents[owner.clamp(min=0)]
    picture = (error / 0.02).nan_to_num(0, 0, 0).clamp(0, 1)[..., None].repeat(1, 1, 3)
    ours, theirs = frame.owner >= 0, owner >= 0
    picture[ours & ~theirs] = torch.tensor([1.0, 0.2, 0.2])
    picture[theirs & ~ours] = torch.tensor([0.2, 1.0, 0.2])
    picture[ours & theirs & (frame.owner != owner)] = torch.tensor([0.3, 0.4, 1.0])
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with meshes")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for results")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 240), metavar=("W", "H"))
    options = parser.parse_args()
    paths = sorted(p for p in options.data.glob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        parser.error(f"--data: expected a folder with meshes, got {options.data}")
    if reason := egl_available():
        parser.error(reason)
    options.out.mkdir(parents=True, exist_ok=True)

    started = time.perf_counter()
    fields = fit_meshes(paths)
    fit_s = time.perf_counter() - started
    meshes: list[trimesh.Trimesh] = [trimesh.load_mesh(p) for p in paths]
    names = [p.stem for p in paths]
    extents = torch.tensor([float(m.extents.max()) for m in meshes])
    poses = grid_of_poses(len(paths), torch.Generator().manual_seed(SEED))
    composite = Composite([Instance(n, f, T) for n, f, T in zip(names, fields, poses, strict=True)])
    width, height = options.size
    camera = Camera.look_at((0.0, -1.15, 0.75), (0.0, -0.03, 0.0), width, height, 34.0)
    config = RenderConfig(antialias=1)
    render(composite, camera, config=config)  # the first one builds the index and compiles
    started = time.perf_counter()
    frame = render(composite, camera, config=config)
    render_s = time.perf_counter() - started
    depth, owner, rgb = rasterize_meshes(meshes, poses, camera)

    result = compare(frame, depth, owner, names, extents)
    result |= {"n_objects": len(paths), "size": [width, height], "fit_s": fit_s, "render_s": render_s}
    (options.out / "render_check.json").write_text(json.dumps(result, indent=1) + "\n")
    near, far = float(depth.min()), float(depth[depth.isfinite()].max())
    pictures = [
        frame.rgb, depth_picture(frame.depth, near, far), owner_picture(frame.owner),
        rgb, depth_picture(depth, near, far), owner_picture(owner),
        difference_picture(frame, depth, owner, extents),
    ]  # fmt: skip
    save_png(contact_sheet(pictures, columns=3), options.out / "render_check.png")

    print(f"{'object':24} {'pixels':>7} {'IoU':>7} {'depth median %':>15}")
    for name, o in result["objects"].items():
        print(f"{name:24} {o['pixels']:7d} {o['iou']:7.4f} {o['depth_error_median_pct'] or 0.0:15.4f}")
    targets = (
        ("silhouette IoU", result["silhouette_iou"], ">=", 0.985),
        ("median depth error %", result["depth_error_median_pct"], "<=", 0.3),
        ("id agreement", result["id_agreement"], ">=", 0.99),
    )
    for what, value, relation, target in targets:
        met = value >= target if relation == ">=" else value <= target
        print(f"{what:24} {value:.5f}  (target {relation} {target}: {'met' if met else 'MISSED'})")


if __name__ == "__main__":
    main()
