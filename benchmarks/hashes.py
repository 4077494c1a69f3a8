"""Hashes of what the product computes, to show that a change of its structure moves no bit: `python -m benchmarks.hashes`.

Learned weights (six meshes, a short `fit_views`), pictures and layers, points, distances, contacts and overlaps of scenes with 1,
100 and 1,000 objects, gradients of traces, volumes, saved scene folders; with ``--room`` the demo's room. Only public names are
used, so the same file runs on an older commit. Prints a line for each, writes JSON; ``--against FILE.json`` names what differs, and
then exits with 1. Compare only runs with the same processor, libraries and numbers of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import trimesh

from compose import Composite, Instance, Rays
from compose.contact import clearance, overlaps
from objects import SE3, Box, Field, FitConfig, SirenField, Sphere, fit_meshes
from rendering import Camera, RenderConfig, ViewsConfig, fit_views, load_views, render, render_volume
from scenes import SceneGraph, load_scene, save_scene

Values = list[torch.Tensor | np.ndarray | str | bytes | float | int | None]


def digest(values: Values) -> str:
    """Of the bytes, shapes and types of all values, in order."""
    state = hashlib.sha256()
    for value in values:
        array = value.detach().cpu().contiguous().numpy() if isinstance(value, torch.Tensor) else value
        if isinstance(array, np.ndarray):
            state.update(f"{array.dtype} {array.shape}".encode())
            array = np.ascontiguousarray(array).tobytes()
        state.update(array if isinstance(array, bytes) else repr(array).encode())
    return state.hexdigest()[:16]


def shapes() -> dict[str, trimesh.Trimesh]:
    """Six meshes of their own, with colours that vary."""
    make = trimesh.creation
    found = {
        "block": make.box((0.3, 0.2, 0.1)),
        "ball": make.icosphere(3, 0.15),
        "ring": make.torus(0.12, 0.04),
        "tube": make.annulus(0.08, 0.12, 0.25),
        "capsule": make.capsule(0.3, 0.06),
        "pair": make.box((0.05, 0.3, 0.05)) + make.icosphere(2, 0.06).apply_translation((0.2, 0, 0)),
    }
    for k, mesh in enumerate(found.values()):
        waves = 0.5 + 0.5 * np.sin(20 * mesh.vertices + k)
        mesh.visual.vertex_colors = np.c_[255 * waves, np.full(len(waves), 255)].astype(np.uint8)
    return found


def weights(field: Field) -> Values:
    return [*(p for p in field.parameters()), field.bounds.lo, field.bounds.hi, field.lipschitz]


def frame_values(scene: Composite, camera: Camera, **options) -> Values:
    frame = render(scene, camera, progress=False, **options)
    return [frame.rgb, frame.depth, frame.normal, frame.owner, frame.alpha, frame.feature]


def asked(scene: Composite, reach: float) -> Iterator[tuple[str, Values]]:
    g = torch.Generator().manual_seed(3)
    p = reach * (2 * torch.rand(4000, 3, generator=g, dtype=torch.float64) - 1)
    for name, band in (("query", float("inf")), ("query within a band", 0.05)):
        found = scene.query(p, band=band)
        yield name, [found.sdf, found.rgb, found.feature, found.owner]
    p.requires_grad_()
    found = scene.query(p[:500])
    (gradient,) = torch.autograd.grad(found.sdf.sum() + found.rgb.sum(), p)
    yield "query's gradient", [gradient]
    yield "overlaps", [repr(pair) for pair in overlaps(scene)]


def traced(scene: Composite, camera: Camera) -> Values:
    rays = camera.resized(80, 60).rays()
    origins = rays.origins.reshape(-1, 3).clone().requires_grad_()
    hits = scene.trace(Rays(origins, rays.directions.reshape(-1, 3)))
    seen = torch.isfinite(hits.t)
    (gradient,) = torch.autograd.grad(hits.t[seen].sum(), origins)
    return [hits.t, hits.owner, gradient]


def many(fields: list[SirenField], m: int) -> tuple[Composite, Camera, float]:
    g = torch.Generator().manual_seed(m)
    spread = 0.3 * m ** (1 / 3)
    instances = []
    for k in range(m):
        quat = torch.randn(4, generator=g, dtype=torch.float64)
        place = spread * (2 * torch.rand(3, generator=g, dtype=torch.float64) - 1)
        field = Sphere(0.1, color=(0.2, 0.5, 0.8)) if k % 10 == 9 else fields[k % len(fields)]
        instances.append(Instance(f"object {k}", field, SE3(quat, place), 0.8 + 0.04 * (k % 10)))
    far = 2.5 * (spread + 0.2)
    return Composite(instances), Camera.look_at((far, 0.4 * far, 0.5 * far), (0, 0, 0), 160, 120, 40), spread


def edited(fields: list[SirenField]) -> SceneGraph:
    graph = SceneGraph()
    graph.add("floor", Box((2.0, 2.0, 0.1)), pose=SE3.from_translation((0, 0, -0.05)))
    graph.add("group")
    for k, field in enumerate(fields):
        graph.add(f"group/thing-{k}", field, pose=SE3.from_translation((0.3 * k - 0.8, 0.1 * k, 0.2)), tags=["thing"])
    graph.duplicate("group/thing-0", "copy")
    graph.move("copy", by=(0, 0.4, 0), time=1.0)
    graph.rotate("group", (0, 0, 1), 30, time=2.0)
    graph.reparent("copy", "group", start=1.5)
    graph.remove("group/thing-1")
    graph.undo()
    graph.add("camera", camera=Camera.look_at((1.8, -1.2, 1.4), (0, 0, 0.1), 160, 120, 45))
    return graph


def folder_values(folder: Path) -> Values:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return [part for p in files for part in (str(p.relative_to(folder)), p.read_bytes())]


def room(folder: Path) -> Iterator[tuple[str, Values]]:
    """The demo's room, before and after its edits, in time, and saved."""
    import pybullet_data

    from examples import demo

    data = Path(pybullet_data.getDataPath())
    meshes = {"table": demo.table_mesh(data)} | {t.path: demo.read(data, t) for t in demo.THINGS}
    fields = dict(zip(meshes, fit_meshes(list(meshes.values()), progress=False), strict=True))
    for name, field in fields.items():
        yield f"room: weights of {name}", weights(field)
    graph = demo.build(fields, meshes)
    camera = graph.camera_at("camera").resized(320, 240)
    yield "room: before", frame_values(graph.at(), camera, lights=graph.lights_at())
    demo.edit(graph)
    demo.put_duck_on_tray(graph)
    for time in (0.0, 1.0, 3.0):
        yield f"room: at {time}", frame_values(graph.at(time), camera, lights=graph.lights_at(time))
    yield "room: overlaps", [repr(pair) for pair in graph.overlaps()]
    yield "room: clearance", [repr(graph.clearance("table/teddy", "table/ball"))]
    save_scene(graph, folder / "room.scene")
    yield "room: files", folder_values(folder / "room.scene")


def from_pictures(folder: Path) -> Iterator[tuple[str, Values]]:
    """What ten pictures teach in a few steps, as a picture with what they saw, as a volume, and poses found again in it."""
    from examples.posed import make

    paths = []
    for name in ("block", "ball"):
        paths.append(str(folder / f"{name}.ply"))
        shapes()[name].export(paths[-1])
    make(folder / "views", paths, n_train=10)
    views = load_views(folder / "views")
    learned = fit_views(views, config=ViewsConfig(steps=60), progress=False)
    for instance in learned.instances:
        yield f"views: weights of {instance.name}", weights(instance.field)
    scene, camera = Composite(learned.instances), learned.cameras[0].resized(80, 60)
    yield "views: picture", frame_values(scene, camera)
    p = 0.3 * torch.randn(500, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    found = scene.query(p)
    yield "views: what pictures saw", [scene.observed(p, found.owner)]
    looked = scene.evaluate(p, found.owner, torch.nn.functional.normalize(p, dim=-1))
    yield "views: colour by direction", [looked.rgb, looked.normal]
    volume = render_volume(scene, camera, sharpness=learned.sharpness)
    yield "views: volume", [volume.rgb, volume.depth, volume.alpha]


def hashes(folder: Path, with_room: bool) -> Iterator[tuple[str, Values]]:
    """Names and values, one after another."""
    fields = fit_meshes(list(shapes().values()), config=FitConfig(steps=600), progress=False)
    for name, field in zip(shapes(), fields, strict=True):
        yield f"weights of {name}", weights(field)
    for m in (1, 100, 1000):
        scene, camera, reach = many(fields, m)
        yield f"{m} objects: picture", frame_values(scene, camera, config=RenderConfig(antialias=2))
        yield f"{m} objects: trace and gradient", traced(scene, camera)
        for name, values in asked(scene, reach):
            yield f"{m} objects: {name}", values
    scene, _, reach = many(fields[:2], 20)
    p = reach * (2 * torch.rand(2000, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 1)
    yield "20 objects: closest", list(scene.closest(p))
    yield "20 objects: clearance", [repr(clearance(scene, 0, k)) for k in range(1, 6)]
    graph = edited(fields)
    for time in (0.0, 0.7, 1.6, 2.0):
        yield f"graph at {time}", frame_values(graph.at(time), graph.camera_at("camera"), lights=graph.lights_at(time))
    yield "graph: log", list(graph.log)
    save_scene(graph, folder / "graph.scene")
    yield "graph: files", folder_values(folder / "graph.scene")
    yield "graph: loaded", frame_values(load_scene(folder / "graph.scene").at(1.6), graph.camera_at("camera"))
    yield from from_pictures(folder)
    if with_room:
        yield from room(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench/hashes.json"))
    parser.add_argument("--against", type=Path, help="what an earlier run wrote: name what differs")
    parser.add_argument("--room", action="store_true", help="the demo's room, too; its meshes come with pybullet_data")
    args = parser.parse_args()
    before = json.loads(args.against.read_text()) if args.against else {}
    found, differ = {}, []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SIRENSCAPE_CACHE"] = folder  # everything is computed, nothing recalled
        for name, values in hashes(Path(folder), args.room):
            found[name] = digest(values)
            changed = before.get(name, found[name]) != found[name]
            differ += [name] if changed else []
            print(f"{found[name]}  {name}{'  DIFFERS' if changed else ''}", flush=True)
    missing = sorted(name for name in before.keys() - found.keys() if args.room or not name.startswith("room: "))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    if args.against:
        print(
            f"{len(found)} hashes, {len(differ)} differ, {len(missing)} are missing: {', '.join(differ + missing) or 'none'}"
        )
    return 1 if differ or missing else 0


if __name__ == "__main__":
    sys.exit(main())
