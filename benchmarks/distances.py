"""How true and how fast distances are: `python -m benchmarks.distances --data FOLDER`.

10,000 points around two exact solids and around a desk of seven learned objects: how far `Composite.query` (what the fields say)
and `Composite.closest` (the nearest surface) are from the truth, which is the formula of solids and libigl's distance to fine
meshes of learned fields, and how often they name another object. Times of both with one object moved before each call, for
7 and 1,000 objects. And one object as a cached grid (trilinear, the kind of pytorch_volumetric), for time and error at a few
resolutions, in the same run. Times are medians. Prints tables and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import igl
import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from benchmarks.timing import median_ms, processor, say
from compose import Composite, Instance
from objects import SE3, Box, Field, Sphere, fit_meshes

SHARED = Path(__file__).resolve().parents[2] / "shared"
POINTS = 10_000
DESK = ("009_gelatin_box", "005_tomato_soup_can", "006_mustard_bottle", "035_power_drill", "bunny", "spot", "torus")
SIZE = 0.2  # longest edge of a learned object, metres
OFF = 1e-3  # metres: an error that counts
GRIDS = (32, 64, 128)
FINE = 1 / 10_000  # tolerance of the meshes that are the truth, of the longest edge


def placed(fields: Sequence[Field], m: int, spread: float, seed: int) -> list[Instance]:
    """``m`` instances of the fields, turned at random, centres in a cube of edge ``2 spread``."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for k in range(m):
        field = fields[k % len(fields)]
        place = spread * (2 * torch.rand(3, generator=g, dtype=torch.float64) - 1)
        quat = torch.randn(4, generator=g, dtype=torch.float64)
        out.append(Instance(f"{k}", field, SE3(quat, place), SIZE / float(field.bounds.size.max())))
    return out


def around(scene: Composite, n: int, margin: float, seed: int) -> Tensor:
    bounds = scene.bounds
    if bounds is None:
        raise ValueError("expected a scene with objects")
    u = torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return bounds.lo - margin + u * (bounds.size + 2 * margin)


def truth(instances: Sequence[Instance], p: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance to the nearest surface and its owner, all objects asked everywhere."""
    each = []
    for i in instances:
        q = (i.T_world_obj.inverse() @ p) / i.scale
        with torch.no_grad():
            sdf = i.field.in_double().sdf(q).numpy()
        if not i.field.analytic:
            mesh = i.field.to_mesh(FINE * float(i.field.bounds.size.max()))
            squared, _, _ = igl.point_mesh_squared_distance(q.numpy(), mesh.vertices, np.asarray(mesh.faces))
            sdf = np.sqrt(squared) * np.where(sdf < 0, -1, 1)
        each.append(sdf * float(i.scale))
    return np.min(each, 0), np.argmin(each, 0)


def compared(instances: list[Instance], margin: float) -> dict[str, dict[str, float]]:
    scene = Composite(instances)
    p = around(scene, POINTS, margin, 1)
    want, owner = truth(instances, p)
    probe = p.clone().requires_grad_(True)
    said = scene.query(probe)
    (slope,) = torch.autograd.grad(said.sdf.sum(), probe)
    found = scene.closest(p)
    size = scene.diagonals[torch.from_numpy(owner)].numpy()
    rows = {}
    for name, sdf, who, gradient in (
        ("query", said.sdf.detach(), said.owner, slope),
        ("closest", found.sdf, found.owner, found.gradient),
    ):
        error, length = np.abs(sdf.numpy() - want), gradient.norm(dim=-1)
        rows[name] = {
            "off_share": float((error > OFF).mean()),
            "mean_mm": 1e3 * float(error.mean()),
            "worst_mm": 1e3 * float(error.max()),
            "beyond_tolerance_share": float((error > 1e-3 * size).mean()),
            "wrong_name_share": float((who.numpy() != owner).mean()),
            "gradient_least": float(length.min()),
            "gradient_most": float(length.max()),
        }
    return rows


def times(instances: list[Instance], margin: float, repeats: int) -> dict[str, float]:
    """Seconds of the first call, which makes surfaces that aren't in the cache folder; milliseconds for all points, one object
    moved before each call."""
    scene = Composite(instances)
    p, turn = around(scene, POINTS, margin, 2), iter(range(1 << 20))
    began = time.perf_counter()
    scene.closest(p)
    row = {"first_s": time.perf_counter() - began}

    def moved() -> Composite:
        k = next(turn)
        shift = torch.tensor([[1e-3 * (k % 7), 0.0, 0.0]], dtype=torch.float64)
        pose = instances[k % len(instances)].T_world_obj
        return scene.with_poses([k % len(instances)], SE3(pose.quat_wxyz[None], pose.translation[None] + shift))

    def by_query() -> None:
        probe = p.clone().requires_grad_(True)
        torch.autograd.grad(moved().query(probe).sdf.sum(), probe)

    row["closest_ms"] = median_ms(lambda: moved().closest(p), repeats)
    row["query_with_gradient_ms"] = median_ms(by_query, max(3, repeats // 4))
    return row


def grids(field: Field, repeats: int) -> dict[str, dict[str, float]]:
    """One object, points in its box: a trilinear grid of its true distances against `Composite.closest`."""
    scene = Composite([Instance("one", field, SE3.identity(), SIZE / float(field.bounds.size.max()))])
    p = around(scene, POINTS, 0.0, 3)
    want, _ = truth([scene.instances[0]], p)
    bounds = scene.bounds
    if bounds is None:
        raise ValueError("expected a scene with objects")
    lo, size = bounds.lo.numpy(), bounds.size.numpy()
    found = scene.closest(p).sdf.numpy()
    rows = {
        "closest": {
            "ms": median_ms(lambda: scene.closest(p), repeats),
            "mean_mm": 1e3 * float(np.abs(found - want).mean()),
            "worst_mm": 1e3 * float(np.abs(found - want).max()),
        }
    }
    for n in GRIDS:
        axes = np.stack(np.meshgrid(*[np.linspace(0, 1, n)] * 3, indexing="ij"), -1).reshape(-1, 3)
        values = scene.closest(torch.from_numpy(lo + axes * size)).sdf.numpy().reshape(n, n, n).astype(np.float32)

        def asked(values: np.ndarray = values, n: int = n) -> np.ndarray:
            return map_coordinates(values, ((p.numpy() - lo) / size * (n - 1)).T, order=1)

        error = np.abs(asked() - want)
        rows[f"grid {n}"] = {
            "ms": median_ms(asked, repeats),
            "mean_mm": 1e3 * float(error.mean()),
            "worst_mm": 1e3 * float(error.max()),
            "kilobytes": values.nbytes / 1e3,
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "meshes", help="folder of meshes")
    parser.add_argument("--out", type=Path, default=Path("out/bench/distances.json"))
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    paths = [arguments.data / f"{name}.obj" for name in DESK]
    if not all(path.is_file() for path in paths):
        parser.error(f"--data: expected a folder with {', '.join(path.name for path in paths)}, got {arguments.data}")
    fields = fit_meshes(paths)
    solids = [
        Instance("sphere", Sphere(0.3), SE3.from_translation((-0.5, 0.0, 0.0))),
        Instance("box", Box((0.6, 0.4, 0.3)), SE3.from_translation((0.4, 0.1, 0.0))),
    ]
    desk = placed(fields, len(fields), 0.3, 0)
    result: dict[str, dict] = {"processor": {"name": processor(), "load": os.getloadavg()[0]}}
    result["solids"], result["desk"] = compared(solids, 0.3), compared(desk, 0.1)
    many = placed(fields, 1000, 0.5 * 0.3 * 10, 1)
    result["times"] = {"7": times(desk, 0.1, arguments.repeats), "1000": times(many, 0.0, arguments.repeats)}
    result["grids"] = grids(fields[4], arguments.repeats)
    seven = result["times"]["7"]
    result["ratios"] = {"query over closest, 7 objects": seven["query_with_gradient_ms"] / seven["closest_ms"]}
    for part in ("processor", "solids", "desk", "times", "grids", "ratios"):
        for name, row in result[part].items():
            values = row.items() if isinstance(row, dict) else [("", row)]
            say(
                f"{part:10s} {name:28s}"
                + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values)
            )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
