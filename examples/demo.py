"""The main job in one go: learn real objects, build a room as a scene graph, edit it, render it, save it.

The meshes come with the package pybullet_data (extra ``demo``). Results go to ``out/demo/``; learned fields are cached, so a
second run only renders.

    python examples/demo.py [OUT_FOLDER]
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import trimesh
from tqdm import tqdm
from trimesh.visual import ColorVisuals

from objects import SE3, Aabb, Box, Placed, SirenField, fit_meshes
from rendering import (
    AmbientLight,
    Camera,
    PointLight,
    RenderConfig,
    contact_sheet,
    depth_picture,
    normal_picture,
    owner_picture,
    render,
    save_depth_png,
    save_mp4,
    save_png,
)
from scenes import SceneGraph, load_scene, save_scene

T = TypeVar("T")
SIZE = (640, 480)
CLIP_SIZE, CLIP_FPS, CLIP_SECONDS = (320, 240), 10, 3
TABLE_TOP = 0.625  # metres above the floor


@dataclass(frozen=True)
class Thing:
    """A mesh of the package and how it stands: its longest edge in metres, its place in its parent, its turn, its colour if
    it has none."""

    path: str
    file: str
    size: float
    place: tuple[float, float]
    yaw_deg: float = 0.0
    y_up: bool = False
    color: tuple[int, int, int] | None = None


THINGS = (
    Thing("table/duck", "duck.obj", 0.26, (-0.40, -0.18), 200, y_up=True),
    Thing("table/tray/mug", "objects/mug.obj", 0.15, (0.09, 0.03), 30, color=(214, 60, 52)),
    Thing("table/teddy", "teddy2_VHACD_CHs.obj", 0.30, (-0.12, 0.22), -15, y_up=True, color=(190, 128, 88)),
    Thing("table/ball", "soccerball.obj", 0.20, (0.27, 0.27)),
    Thing("table/tray/block", "random_urdfs/003/003.obj", 0.13, (0.06, -0.08), 25, color=(52, 108, 196)),
    Thing("table/ring", "torus/torus_textured.obj", 0.24, (0.55, 0.05), 0, y_up=True),
    Thing("table/cone", "racecar/meshes/cone.obj", 0.17, (-0.58, 0.16)),
    Thing("blocks/yellow", "random_urdfs/000/000.obj", 0.42, (-1.15, -0.55), 35, color=(242, 180, 65)),
    Thing("blocks/green", "random_urdfs/007/007.obj", 0.40, (1.15, -0.50), 120, color=(92, 160, 112)),
    Thing("blocks/violet", "random_urdfs/042/042.obj", 0.42, (0.25, -0.95), 70, color=(150, 105, 175)),
)


def main() -> int:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo")
    if find_spec("pybullet_data") is None:
        print("The demo's meshes come with pybullet: pip install 'sirenscape[demo]'", file=sys.stderr)
        return 2
    import pybullet_data

    data = Path(pybullet_data.getDataPath())
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock()

    meshes = clock.time("read meshes", lambda: {"table": table_mesh(data)} | {t.path: read(data, t) for t in THINGS})
    paths = list(meshes)
    fields = clock.time(
        f"learn {len(meshes)} objects (0 s when cached)",
        lambda: dict(zip(paths, fit_meshes([meshes[p] for p in paths]), strict=True)),
    )

    graph = clock.time("build the scene", lambda: build(fields, meshes))
    first = render(graph.at(), graph.camera_at("camera").resized(64, 48), lights=graph.lights_at())
    del first  # builds the index, so that it is timed apart
    clock.mark("compile and index")
    before = clock.time("render 640x480, shadows, antialiased", lambda: picture(graph))

    clock.time("edit: move the tray, duplicate, remove, undo", lambda: edit(graph))
    after = clock.time("render again", lambda: picture(graph))

    save_png(before.rgb, out / "before.png")
    save_png(after.rgb, out / "after.png")
    save_depth_png(after.depth, out / "depth_mm.png")
    layers = {
        "depth": depth_picture(after.depth),
        "normal": normal_picture(after.normal),
        "ids": owner_picture(after.owner),
    }
    for name, layer in layers.items():
        save_png(layer, out / f"{name}.png")
    save_png(contact_sheet([before.rgb, after.rgb, layers["normal"], layers["ids"]], columns=2), out / "overview.png")
    clock.mark("write pictures")

    put_duck_on_tray(graph)
    frames = clock.time(f"clip {CLIP_SIZE[0]}x{CLIP_SIZE[1]}", lambda: clip(graph, out / "clip.mp4"))
    clock.time("save the scene", lambda: save_scene(graph, out / "room.scene"))
    if load_scene(out / "room.scene") != graph:
        raise RuntimeError("the saved scene differs from the one in memory")
    clock.mark("load it and compare")

    report(out, graph, fields, clock, frames)
    return 0


# -- the scene ---------------------------------------------------------------------------------------------------------


def build(fields: dict[str, SirenField], meshes: dict[str, trimesh.Trimesh]) -> SceneGraph:
    """A room, a table in it, a tray on the table, things on both."""
    graph = SceneGraph()
    walls = Box((6.2, 6.2, 3.0), color=(0.86, 0.87, 0.84)) - Box((6.0, 6.0, 3.4), color=(0.86, 0.87, 0.84))
    graph.add("room")
    graph.add("room/floor", Box((6.1, 6.1, 0.1), color=(0.74, 0.60, 0.45)), pose=SE3.from_translation((0, 0, -0.05)))
    graph.add("room/walls", walls, pose=SE3.from_translation((0, 0, 1.5)))
    graph.add("room/sky", light=AmbientLight((1.0, 0.97, 0.93), 0.48, ground_color=(0.62, 0.52, 0.45)))
    graph.add("room/lamp", light=PointLight((0.9, -1.0, 2.3), (1.0, 0.93, 0.82), 4.6))
    graph.add("blocks")
    graph.add("table", fields["table"], tags=["furniture"])
    tray = Box((0.40, 0.30, 0.032), 0.006, color=(0.80, 0.82, 0.85))
    hollow = Placed(Box((0.36, 0.26, 0.03), 0.004, color=(0.72, 0.75, 0.78)), SE3.from_translation((0, 0, 0.012)))
    graph.add("table/tray", tray - hollow, pose=SE3.from_translation((0.08, -0.22, TABLE_TOP + 0.017)))
    for thing in THINGS:
        pose, scale = stand(thing, meshes[thing.path])
        graph.add(thing.path, fields[thing.path], pose=pose, scale=scale)
    graph.add("camera", camera=Camera.look_at((1.25, -2.05, 1.55), (0.0, -0.05, 0.55), *SIZE, fov_y_deg=42))
    return graph


def edit(graph: SceneGraph) -> None:
    """What people do to a scene; all of it could be undone."""
    graph.move("table/tray", by=(0.30, 0.0, 0.0))  # what is on it comes along
    graph.rotate("table/tray", (0, 0, 1), 20)
    graph.duplicate("table/tray/mug", "table/mug-2")  # shares the weights
    graph.move("table/mug-2", to=(-0.12, -0.28, float(graph.pose("table/mug-2")[0].translation[2]) - 0.014))
    graph.remove("table")  # with all that stands on it
    graph.undo()
    graph.remove("table/cone")


def put_duck_on_tray(graph: SceneGraph) -> None:
    """From 0 to 1.2 s the duck is lifted onto the tray; from then on it rides along, while the tray is pushed and turned."""
    tray, duck = graph.pose("table/tray")[0], graph.pose("table/duck")[0]
    x, y, z = duck.translation.tolist()
    to_x, to_y, _ = (tray @ torch.tensor([-0.08, 0.0, 0.0], dtype=torch.float64)).tolist()
    graph.move("table/duck", to=(0.5 * (x + to_x), 0.5 * (y + to_y), z + 0.30), time=0.6)
    graph.move("table/duck", to=(to_x, to_y, z + 0.002), time=1.2)
    graph.reparent("table/duck", "table/tray", start=1.2)
    graph.move("table/tray", by=(0.0, 0.0, 0.0), time=1.4)
    graph.move("table/tray", by=(-0.45, 0.02, 0.0), time=2.7)
    graph.rotate("table/tray", (0, 0, 1), -70, time=2.7)


# -- meshes ----------------------------------------------------------------------------------------------------------


def read(data: Path, thing: Thing) -> trimesh.Trimesh:
    mesh = trimesh.load(data / thing.file, force="mesh")
    if not isinstance(mesh, trimesh.Trimesh):
        raise ValueError(f"{thing.file}: expected a mesh")
    if thing.color is not None:
        mesh.visual = ColorVisuals(mesh, vertex_colors=np.tile((*thing.color, 255), (len(mesh.vertices), 1)))
    return mesh


def table_mesh(data: Path) -> trimesh.Trimesh:
    """The package's table as its own description puts it together: a top and four legs, each a scaled cube."""
    cube = trimesh.load(data / "table/table.obj", force="mesh")
    if not isinstance(cube, trimesh.Trimesh):
        raise ValueError("table.obj: expected a mesh")
    parts = [((1.5, 1.0, 0.05), (0.0, 0.0, 0.6))]
    parts += [((0.1, 0.1, 0.58), (x, y, 0.29)) for x in (-0.65, 0.65) for y in (-0.4, 0.4)]
    boxes = []
    for size, place in parts:
        boxes.append(cube.copy())
        boxes[-1].apply_scale(size)
        boxes[-1].apply_translation(place)
    return boxes[0] + boxes[1:]


def stand(thing: Thing, mesh: trimesh.Trimesh) -> tuple[SE3, float]:
    """Pose and scale in its parent, so that its lowest point touches the tray, the table or the floor."""
    rotation = SE3.from_axis_angle((0.0, 0.0, 1.0), math.radians(thing.yaw_deg))
    if thing.y_up:
        rotation = rotation @ SE3.from_axis_angle((1.0, 0.0, 0.0), math.pi / 2)
    scale = thing.size / float(mesh.extents.max())
    corners = rotation @ torch.as_tensor(mesh.vertices * scale, dtype=torch.float64)
    box = Aabb(corners.amin(0), corners.amax(0))
    ground = {"table": TABLE_TOP, "table/tray": -0.002, "blocks": 0.0}[thing.path.rpartition("/")[0]]
    shift = torch.tensor([*thing.place, ground], dtype=torch.float64) - torch.cat([box.center[:2], box.lo[2:]])
    return SE3.from_translation(shift) @ rotation, scale


# -- pictures ----------------------------------------------------------------------------------------------------------


def picture(graph: SceneGraph):
    return render(graph.at(), graph.camera_at("camera"), lights=graph.lights_at(), config=RenderConfig(antialias=2))


def clip(graph: SceneGraph, path: Path) -> int:
    """The scene's own time, seen by a camera that goes round it."""
    n = CLIP_FPS * CLIP_SECONDS
    cameras = Camera.orbit((0.05, -0.05, 0.6), 2.2, 3 * n, *CLIP_SIZE, elevation_deg=26, start_deg=-90, fov_y_deg=42)[
        :n
    ]
    plain = RenderConfig(antialias=1)
    bar = tqdm(cameras, desc="clip", unit="frame", delay=2, leave=False, disable=None)
    times = (i / CLIP_FPS for i in range(n))
    frames = (
        render(graph.at(t), camera, lights=graph.lights_at(t), config=plain, progress=False).rgb
        for t, camera in zip(times, bar, strict=True)
    )
    return save_mp4(frames, path, CLIP_FPS)


# -- the report --------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds of each part, in order."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, part: str) -> None:
        now = time.perf_counter()
        self.parts[part], self._last = now - self._last, now

    def time(self, part: str, work: Callable[[], T]) -> T:
        self._last = time.perf_counter()
        result = work()
        self.mark(part)
        return result


def report(out: Path, graph: SceneGraph, fields: dict[str, SirenField], clock: Clock, frames: int) -> None:
    parameters = {path: sum(p.numel() for p in field.parameters()) for path, field in fields.items()}
    files = list((out / "room.scene/fields").iterdir())
    print(f"\n{'learned':<18}{'parameters':>12}")
    for path, count in parameters.items():
        print(f"{path:<18}{count:>12,}")
    print(f"{len(files)} field files, {sum(f.stat().st_size for f in files) / 1000:,.0f} KB\n\nedits")
    for line in graph.log[-18:]:
        print(f"  {line}")
    print(f"\n{'part':<46}{'seconds':>9}")
    for part, seconds in clock.parts.items():
        print(f"{part:<46}{seconds:>9.2f}")
    print(f"{'all':<46}{sum(clock.parts.values()):>9.2f}")
    made = sorted(p.relative_to(out).as_posix() for p in out.glob("*.*") if p.suffix in (".png", ".mp4"))
    print(f"\n{frames} frames of clip; in {out}/: " + ", ".join(made) + ", room.scene/")
    print(f"Next: sirenscape info scene={out}/room.scene sheet={out}/sheet.png")
    (out / "summary.json").write_text(json.dumps({"parameters": parameters, "seconds": clock.parts}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
