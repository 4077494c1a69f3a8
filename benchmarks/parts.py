"""Whether learned solids have as many parts as their source: `python -m benchmarks.parts --out FILE.json`.

Learns the 1,000 small objects of pybullet_data (or the meshes of a folder) with the defaults and counts the closed surfaces of
the learned mesh and of the source: the union of its bodies, where surfaces count as one if they come closer to each other than
the width of a slit that is filled. More than the source has are specks, fewer are parts that grew together or were lost. Volumes
are compared, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from pathlib import Path

import igl
import manifold3d
import numpy as np
import trimesh

from examples.small_objects import find_things, iou, learn_each, read_thing
from objects import FitConfig, MeshError, SirenField
from objects.mesh import SLIT
from objects.mesh_samples import QUALITIES

GROUP = 16


def source_parts(mesh: trimesh.Trimesh) -> int | None:
    """Closed surfaces of the union of all bodies; None where the mesh is not made of closed bodies."""
    merged = trimesh.Trimesh(mesh.vertices, mesh.faces, process=True)
    solids = []
    for body in merged.split(only_watertight=False):
        if body.volume < 0:
            return None
        solid = manifold3d.Manifold(manifold3d.Mesh64(np.asarray(body.vertices), np.asarray(body.faces, np.uint64)))
        if solid.status() != manifold3d.Error.NoError:
            return None
        solids.append(solid)
    union = manifold3d.Manifold.batch_boolean(solids, manifold3d.OpType.Add).to_mesh64()
    triangles = np.asarray(union.tri_verts, np.int64)
    joined = trimesh.Trimesh(np.asarray(union.vert_properties)[:, :3], triangles, process=True)
    surfaces = [s for s in joined.split(only_watertight=False) if len(s.faces) > 3]
    slit = SLIT * float(merged.extents.max())
    near = []
    samples = [np.concatenate([s.vertices, trimesh.sample.sample_surface(s, 2000, seed=0)[0]]) for s in surfaces]
    for i, points in enumerate(samples):
        for j, b in enumerate(surfaces):
            if j != i and np.min(igl.point_mesh_squared_distance(points, b.vertices, b.faces)[0]) < slit**2:
                near.append((i, j))
    return len(trimesh.graph.connected_components(near, nodes=np.arange(len(surfaces)), min_len=1))


def learned_parts(field: SirenField) -> tuple[int, list[float]]:
    """Closed surfaces of the learned mesh, and how large each is beside the largest (ratio of extents)."""
    sizes = sorted((float(s.extents.max()) for s in field.to_mesh().split(only_watertight=False)), reverse=True)
    return len(sizes), [round(s / sizes[0], 4) for s in sizes[1:]]


def read_all(args: argparse.Namespace) -> dict[str, trimesh.Trimesh]:
    if args.data is not None:
        files = [p for p in sorted(args.data.glob("*")) if p.suffix.lower() in {".obj", ".ply", ".stl", ".off", ".glb"}]
        return {p.stem: trimesh.load_mesh(p, process=False) for p in files}
    import pybullet_data

    things = find_things(Path(pybullet_data.getDataPath()) / "random_urdfs")
    if args.only:
        things = [t for t in things if t.name in args.only]
    meshes = {}
    for thing in things[args.first :: args.stride][: args.objects]:
        try:
            meshes[thing.name] = read_thing(thing)
        except MeshError as error:
            print(f"{thing.name}: left out: {error}", file=sys.stderr)
    return meshes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of meshes to take in place of those of pybullet_data")
    parser.add_argument("--objects", type=int, metavar="N", help="take only N objects (default: all)")
    parser.add_argument("--first", type=int, default=0, help="number of the first object (default: 0)")
    parser.add_argument("--stride", type=int, default=1, help="take every so-many-th object (default: 1)")
    parser.add_argument("--only", nargs="*", help="names of objects to take")
    parser.add_argument("--quality", choices=QUALITIES, default="normal")
    parser.add_argument("--out", type=Path, default=Path("out/bench/parts.json"))
    args = parser.parse_args()
    meshes, rows = read_all(args), {}
    names = list(meshes)
    for first in range(0, len(names), GROUP):
        group = names[first : first + GROUP]
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fields = learn_each([meshes[n] for n in group], FitConfig.of(args.quality))
        spent = (time.process_time() - began) / len(group)
        for name, field in zip(group, fields, strict=True):
            row: dict[str, object] = {"cpu_seconds": round(spent, 2)}
            if isinstance(field, Exception):
                row["reason"] = str(field)
            else:
                count, sizes = learned_parts(field)
                row |= {"parts_source": source_parts(meshes[name]), "parts": count, "others": sizes[:8]}
                row |= {"iou": round(iou(field, meshes[name]), 4), "measured": dict(field.measured)}
            rows[name] = row
            print(f"{name:12s} " + "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        report(rows, args.out)


def report(rows: dict[str, dict], out: Path) -> None:
    ious = [r["iou"] for r in rows.values() if "iou" in r]
    counted = {n: r for n, r in rows.items() if r.get("parts_source") is not None}
    summary = {
        "objects": len(rows),
        "counted": len(counted),
        "with_parts_too_many": sum(r["parts"] > r["parts_source"] for r in counted.values()),
        "with_parts_too_few": sum(r["parts"] < r["parts_source"] for r in counted.values()),
        "iou_median": round(statistics.median(ious), 4) if ious else None,
        "iou_worst": min(ious, default=None),
        "iou_under_0.9": sum(x < 0.9 for x in ious),
        "not_learned": sum("reason" in r for r in rows.values()),
        "cpu_seconds_each": round(sum(r["cpu_seconds"] for r in rows.values()) / max(len(rows), 1), 2),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"summary": summary, "objects": rows}, indent=1) + "\n")
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
