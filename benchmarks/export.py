"""What it costs to write a large scene for other programs: `python -m benchmarks.export`.

1,000 objects of 50 distinct learned ones (as in `benchmarks.scale`), written as glTF and, where usd-core is installed, as USD:
processor time with an empty cache of meshes and again, bytes, and bytes for each further object; triangles, and how far meshes
stray from their fields. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.scale import assets, scene_of
from benchmarks.timing import processor, say
from objects import Field
from scenes import SceneGraph, export_scene
from scenes.io.asset_mesh import asset_mesh


def graph_of(fields: list[Field], m: int) -> SceneGraph:
    graph = SceneGraph()
    for instance in scene_of(fields, m):
        graph.add(instance.name, instance.field, pose=instance.T_world_obj, scale=float(instance.scale))
    graph.forget_history()
    return graph


def measured(graph: SceneGraph, few: SceneGraph, file: Path) -> dict[str, float]:
    """Seconds of processor time and bytes of one format; ``few`` has each shape once."""
    os.environ["SIRENSCAPE_CACHE"] = str(file.parent / f"cache-{file.suffix[1:]}")
    row: dict[str, float] = {}
    for name in ("first_s", "again_s"):
        began = time.process_time()
        export_scene(graph, file)
        row[name] = time.process_time() - began
    row["bytes"] = file.stat().st_size
    export_scene(few, file)
    more = sum(1 for _ in graph) - sum(1 for _ in few)
    return row | {"bytes_per_object": (row["bytes"] - file.stat().st_size) / max(more, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench/export.json"))
    parser.add_argument("--assets", type=int, default=50)
    parser.add_argument("--objects", type=int, default=1000)
    arguments = parser.parse_args()
    fields: list[Field] = list(assets(arguments.assets))
    graph, few = graph_of(fields, arguments.objects), graph_of(fields, len(fields))
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".glb", ".usdc") if find_spec("pxr") else (".glb",):
            rows[suffix] = measured(graph, few, Path(folder) / f"scene{suffix}")
            say(f"{suffix:6s}  " + "  ".join(f"{name} {value:,.1f}" for name, value in rows[suffix].items()))
        meshes = [asset_mesh(field) for field in fields]
    strays = [float(m.strays[0]) / float(f.bounds.size.max()) for m, f in zip(meshes, fields, strict=True)]
    shapes = {"triangles_median": statistics.median(len(mesh.faces) for mesh in meshes), "strays_worst": max(strays)}
    say(f"{shapes['triangles_median']:,.0f} triangles (median), at most {shapes['strays_worst']:.2%} of the edge off")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"processor": processor(), "rows": rows, "shapes": shapes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
