"""How cost grows with the number of objects: `python -m benchmarks.scale`.

1 to 10,000 instances of 50 distinct learned objects (meshes of pybullet_data, learned on first use and cached), equally
dense, at random poses, seen by 320 x 240 pixels. For each size: the price of an unlit frame and of its parts, network
evaluations, exact point queries, one and all objects moved, and agreement with the dense float64 reference on a sample of the
pixels. At 1,000 the same rays are cast by Embree at marching-cubes meshes of the same fields (64^3), in the same run. Prints
a table, writes JSON and a plot.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image, ImageDraw
from skimage.measure import marching_cubes

from benchmarks.compose import disagreements
from benchmarks.timing import best_ms, say
from compose import Composite, Instance, Rays, cpu
from compose.arrays import ray_arrays
from compose.batch import FieldBatch
from compose.cpu.tiles import RayQuery
from compose.cpu.tracing import collect
from compose.reference import in_double, trace_reference
from objects import SE3, Field, FitConfig, SirenField, fit_meshes
from rendering import Camera, RenderConfig, render
from rendering.render import tiled
from scenes import SceneGraph

SIZES = (1, 10, 100, 1000, 10_000)
WIDTH, HEIGHT = 320, 240
SAMPLE = {1: 1000, 10: 500, 100: 300, 1000: 200, 10_000: 60}  # rays held against the reference
SPACING = 1.0  # metres between neighbours; objects are about 0.7 m across
EMBREE_AT, EMBREE_CELLS = 1000, 64


def assets(n: int, config: FitConfig | None = None) -> list[SirenField]:
    """The first ``n`` small objects of the package, each scaled to a longest edge of 0.7 m before it is learned."""
    if find_spec("pybullet_data") is None:
        raise SystemExit("The benchmark's meshes come with pybullet: pip install 'sirenscape[demo]'")
    import pybullet_data

    folder = Path(pybullet_data.getDataPath()) / "random_urdfs"
    meshes = []
    for k in range(n):
        mesh = trimesh.load(folder / f"{k:03d}/{k:03d}.obj", force="mesh")
        if not isinstance(mesh, trimesh.Trimesh):
            raise TypeError(f"object {k}: expected a mesh")
        mesh.apply_translation(-mesh.bounds.mean(0))
        mesh.apply_scale(0.7 / mesh.extents.max())
        meshes.append(mesh)
    return fit_meshes(meshes, config=config or FitConfig())


def scene_of(fields: Sequence[Field], m: int) -> list[Instance]:
    """Instances in a cube whose volume grows with their number."""
    g = torch.Generator().manual_seed(m)
    spread = 0.5 * SPACING * m ** (1 / 3)
    out = []
    for k in range(m):
        quat = torch.randn(4, generator=g, dtype=torch.float64)
        place = spread * (2 * torch.rand(3, generator=g, dtype=torch.float64) - 1)
        scale = 0.8 + 0.4 * float(torch.rand(1, generator=g))
        out.append(Instance(f"object {k}", fields[k % len(fields)], SE3(quat, place), scale))
    return out


def view(m: int) -> Camera:
    """The middle of the cube of ``m`` objects, filling the picture."""
    half = 0.5 * SPACING * m ** (1 / 3) + 0.4
    return Camera.look_at((3.1 * half, 0.9 * half, 0.7 * half), (0, 0, 0), WIDTH, HEIGHT, 26)


def parts_ms(scene: Composite, rays: Rays) -> dict[str, float]:
    """Shortest times of finding candidates (tree and cells), and of the rest of a trace (searching them with the networks)."""
    traced = scene.traced
    asked = RayQuery._make([*ray_arrays(rays), 1.0, False])
    whole, candidates = best_ms(lambda: scene.trace(rays), 10), best_ms(lambda: collect(traced, asked), 10)
    return {"trace_ms": whole, "candidates_ms": candidates, "search_ms": whole - candidates}


def agreement(scene: Composite, instances: list[Instance], rays: Rays, n: int) -> dict[str, int | float]:
    """A trace of ``n`` of the rays against the dense reference."""
    pick = torch.randperm(len(rays), generator=torch.Generator().manual_seed(0))[:n]
    some = Rays(rays.origins[pick], rays.directions[pick])
    return disagreements(scene.trace(some), trace_reference(in_double(instances), some), scene.size)


def measured(fields: Sequence[Field], m: int) -> dict[str, float | int]:
    instances = scene_of(fields, m)
    began = time.perf_counter()
    scene = Composite(instances)
    row: dict[str, float | int] = {"build_s": time.perf_counter() - began}
    camera, config = view(m), RenderConfig(antialias=1, normals=False)
    rays = camera.rays(camera.pixel_centers(tiled(WIDTH, HEIGHT)))
    row["frame_ms"] = best_ms(lambda: render(scene, camera, config=config, progress=False), 10)
    row |= parts_ms(scene, rays)
    hits, count = scene.trace(rays), scene.trace_count(rays)
    hit = (hits.owner >= 0).nonzero()[:, 0]
    points, owner = rays.at(torch.where(hits.owner >= 0, hits.t, 0.0))[hit], hits.owner[hit]
    with torch.no_grad():
        row["shade_ms"] = best_ms(lambda: scene.evaluate(points, owner, geometry=False))
    row |= {
        "hit_share": len(hit) / len(rays),
        "evaluations_per_hit": count.evaluations / max(len(hit), 1),
        "repeated_rays": count.repeated,
    }
    p = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    p = p * SPACING * m ** (1 / 3)
    with torch.no_grad():
        row["query_us_per_point"] = 1e3 * best_ms(lambda: scene.query(p), 3) / len(p)
    row |= agreement(scene, instances, rays, SAMPLE[m])
    if m == EMBREE_AT:
        row |= embree(instances, rays, scene, owner, points)
    graph = SceneGraph()
    for i in instances:
        graph.add(i.name, i.field, pose=i.T_world_obj, scale=float(i.scale))
    graph.at()
    rng = np.random.default_rng(0)
    row["move_one_ms"] = statistics.median(
        best_ms(lambda: (graph.move(f"object {rng.integers(m)}", by=(0.01, 0, 0)), graph.at()), 1) for _ in range(50)
    )
    graph.group("all", list(graph))
    graph.at()
    row["move_all_ms"] = best_ms(lambda: (graph.move("all", by=(0.01, 0, 0)), graph.at()))
    return row


def embree(
    instances: list[Instance], rays: Rays, scene: Composite, owner: torch.Tensor, points: torch.Tensor
) -> dict[str, float]:
    """The same rays cast at triangles of the same fields, and one fused evaluation of the hit networks."""
    if find_spec("embreex") is None:
        say("embreex is not installed (extra bench): no comparison with Embree")
        return {}
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    surfaces = {id(i.field): surface(i.field) for i in instances}
    stage, faces = EmbreeScene(), 0
    for i in instances:
        vertices, triangles = surfaces[id(i.field)]
        world = (i.T_world_obj @ torch.from_numpy(float(i.scale) * vertices)).numpy().astype(np.float32)
        TriangleMesh(stage, world[triangles])
        faces += len(triangles)
    o = np.ascontiguousarray(rays.origins.numpy().astype(np.float32))
    d = np.ascontiguousarray(rays.directions.numpy().astype(np.float32))
    halves = [slice(0, len(o) // 2), slice(len(o) // 2, len(o))]

    def cast() -> None:
        threads = [threading.Thread(target=stage.run, args=(o[h], d[h]), kwargs={"query": "DISTANCE"}) for h in halves]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    one = best_ms(lambda: stage.run(o, d, query="DISTANCE"))
    two = best_ms(cast)
    order = torch.from_numpy(scene.arrays.transforms.asset)[owner].sort(stable=True).indices
    asset = torch.from_numpy(scene.arrays.transforms.asset)[owner][order].numpy()
    p_obj = cpu.to_object(scene.arrays.transforms, points.numpy(), owner.numpy())[order.numpy()]
    nets = scene.arrays.assets.batch.nets
    return {
        "embree_ms": min(one, two),
        "embree_faces": faces,
        "distance_once_ms": best_ms(
            lambda: scene.arrays.assets.batch.sdf_sorted(asset, p_obj, np.zeros(len(asset))), 10
        ),
        "networks_once_ms": best_ms(lambda: cpu.surface(nets, asset, p_obj, distance=True, gradient=False), 10),
    }


def surface(field: Field) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = field.box_lo.double().numpy(), field.box_hi.double().numpy()
    axes = [np.linspace(lo[a], hi[a], EMBREE_CELLS + 1) for a in range(3)]
    p = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    value = FieldBatch([field]).sdf_sorted(np.zeros(len(p), dtype=np.int64), p, np.zeros(len(p)))
    vertices, triangles, _, _ = marching_cubes(value.reshape([EMBREE_CELLS + 1] * 3), 0.0)
    return lo + vertices * (hi - lo) / EMBREE_CELLS, triangles


def plot(rows: dict[int, dict], path: Path) -> None:
    """Frame time over the number of objects, both logarithmic."""
    w, h, left, bottom = 480, 320, 60, 40
    picture = Image.new("RGB", (w, h), "white")
    draw = ImageDraw.Draw(picture)
    top_ms = 10 ** math.ceil(math.log10(max(r["frame_ms"] for r in rows.values())))

    def place(m: float, ms: float) -> tuple[float, float]:
        return left + (w - left - 20) * math.log10(m) / 4, h - bottom - (h - bottom - 20) * math.log10(ms) / math.log10(
            top_ms
        )

    for k in range(5):
        x, _ = place(10**k, 1)
        draw.line([(x, 20), (x, h - bottom)], fill="#dddddd")
        draw.text((x - 12, h - bottom + 6), f"{10**k:,}", fill="black")
    for k in range(int(math.log10(top_ms)) + 1):
        _, y = place(1, 10**k)
        draw.line([(left, y), (w - 20, y)], fill="#dddddd")
        draw.text((8, y - 6), f"{10**k} ms", fill="black")
    for name, color in (("frame_ms", "#1f6fb4"), ("candidates_ms", "#d9822b"), ("search_ms", "#3a9d5d")):
        points = [place(m, max(r[name], 1)) for m, r in rows.items()]
        draw.line(points, fill=color, width=2)
        draw.text((points[-1][0] - 90, points[-1][1] - 14), name, fill=color)
    draw.text((left, h - 16), "objects in the scene", fill="black")
    picture.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench/scale.json"))
    parser.add_argument("--assets", type=int, default=50)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    arguments = parser.parse_args()
    fields = assets(arguments.assets)
    rows: dict[int, dict] = {}
    for m in arguments.sizes:
        rows[m] = measured(fields, m)
        say(f"{m:6,d} objects  " + "  ".join(f"{k} {v:.4g}" for k, v in rows[m].items()))
    ratios = {}
    if 1000 in rows and "embree_ms" in rows[1000]:
        r = rows[1000]
        for name, once in (("all networks", "networks_once_ms"), ("distance alone", "distance_once_ms")):
            ratios[f"frame over Embree and one evaluation ({name})"] = r["frame_ms"] / (r["embree_ms"] + r[once])
    if {1000, 10_000} <= rows.keys():
        ratios["frame 10,000 over 1,000"] = rows[10_000]["frame_ms"] / rows[1000]["frame_ms"]
        ratios["query 10,000 over 1,000"] = rows[10_000]["query_us_per_point"] / rows[1000]["query_us_per_point"]
    for name, value in ratios.items():
        say(f"{name}: {value:.2f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"rows": rows, "ratios": ratios}, indent=1) + "\n")
    plot(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
