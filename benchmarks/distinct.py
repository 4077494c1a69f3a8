"""A scene of a thousand distinct learned objects: `python -m benchmarks.distinct` (after `make thousand`).

Time to load it, memory of an asset all included (field, packed weights, index) and of a further instance, time of a frame.
Memory is what the process occupies (Linux) more than with a scene of one such object: as it is, and after the allocator has
given back what is free. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.scale import HEIGHT, WIDTH
from benchmarks.timing import best_ms, say
from compose import Composite, Instance
from objects import SE3
from rendering import Camera, RenderConfig, render
from scenes import SceneGraph, load_scene, save_scene

COPIES = 10_000
_CONFIG = RenderConfig(antialias=1, normals=False)


def resident(trimmed: bool = False) -> int:
    """Bytes of memory that the process occupies."""
    gc.collect()
    if trimmed:
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def frame_of(scene: Composite, camera: Camera) -> None:
    render(scene, camera.resized(WIDTH, HEIGHT), config=_CONFIG, progress=False)


def measured(folder: Path) -> dict[str, float | int]:
    graph = load_scene(folder)
    camera, scene = graph.camera_at("camera"), graph.at()
    learned = [i for i in scene.instances if i.name.startswith("stand/objects/")]
    frame_of(scene, camera)  # the cache folder has every index from here on
    with tempfile.TemporaryDirectory() as temporary:
        one = SceneGraph()
        one.add("object", learned[0].field, pose=learned[0].T_world_obj, scale=float(learned[0].scale))
        one.add("camera", camera=camera)
        save_scene(one, Path(temporary) / "one.scene")
        del graph, scene, learned, one
        small = load_scene(Path(temporary) / "one.scene")
    frame_of(small.at(), camera)
    before = resident(trimmed=True)
    began = time.perf_counter()
    graph = load_scene(folder)
    seconds = time.perf_counter() - began
    scene = graph.at()
    began = time.perf_counter()
    frame_of(scene, camera)
    first = time.perf_counter() - began
    n = len({id(i.field) for i in scene.instances})
    row: dict[str, float | int] = {
        "instances": len(scene),
        "assets": n,
        "load_s": seconds,
        "first_frame_s": first,
        "asset_kb": (resident() - before) / n / 1000,
        "asset_kb_trimmed": (resident(trimmed=True) - before) / n / 1000,
        "frame_ms": best_ms(lambda: frame_of(scene, camera), 5),
    }
    field = next(i.field for i in scene.instances if i.name.startswith("stand/objects/"))
    before = resident(trimmed=True)
    copies = Composite(
        [
            Instance(f"copy {k}", field, SE3.from_translation((0.2 * (k % 100), 0.2 * (k // 100), 0.0)))
            for k in range(COPIES)
        ]
    )
    frame_of(copies, camera)
    row["further_instance_kb"] = (resident(trimmed=True) - before) / COPIES / 1000
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scene", type=Path, default=Path("out/thousand/thousand.scene"))
    parser.add_argument("--out", type=Path, default=Path("out/bench/distinct.json"))
    arguments = parser.parse_args()
    if sys.platform != "linux":
        say("skipped: memory is measured on Linux alone")
        return
    if not arguments.scene.is_dir():
        say(f"skipped: {arguments.scene} is not there; `make thousand` learns and makes it")
        return
    row = measured(arguments.scene)
    for name, value in row.items():
        say(f"{name:<24}{value:>12.4g}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
