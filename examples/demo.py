"""The main job in one go: learn real objects, compose them in a room, render, move one, render again.

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

from compose import Composite, Instance
from objects import SE3, Aabb, Box, Field, SirenField, fit_meshes, save_field
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

T = TypeVar("T")
SIZE = (640, 480)
CLIP_SIZE, CLIP_FPS, CLIP_SECONDS = (320, 240), 10, 3
TABLE_TOP = 0.625  # metres above the floor
LIGHTS = (
    AmbientLight((1.0, 0.97, 0.93), 0.48, ground_color=(0.62, 0.52, 0.45)),
    PointLight((0.9, -1.0, 2.3), (1.0, 0.93, 0.82), 4.6),
)


@dataclass(frozen=True)
class Thing:
    """A mesh of the package and how it stands: its longest edge in metres, its place, its turn, its colour if it has none."""

    name: str
    file: str
    size: float
    place: tuple[float, float]
    yaw_deg: float = 0.0
    y_up: bool = False
    color: tuple[int, int, int] | None = None
    on_table: bool = True


THINGS = (
    Thing("duck", "duck.obj", 0.26, (-0.40, -0.18), 200, y_up=True),
    Thing("mug", "objects/mug.obj", 0.15, (0.02, -0.27), 30, color=(214, 60, 52)),
    Thing("teddy", "teddy2_VHACD_CHs.obj", 0.30, (-0.12, 0.20), -15, y_up=True, color=(190, 128, 88)),
    Thing("ball", "soccerball.obj", 0.20, (0.27, 0.24)),
    Thing("block-003", "random_urdfs/003/003.obj", 0.17, (0.24, -0.22), 25, color=(52, 108, 196)),
    Thing("ring", "torus/torus_textured.obj", 0.24, (0.52, 0.02), 0, y_up=True),
    Thing("cone", "racecar/meshes/cone.obj", 0.17, (-0.58, 0.16)),
    Thing("block-000", "random_urdfs/000/000.obj", 0.42, (-1.15, -0.55), 35, color=(242, 180, 65), on_table=False),
    Thing("block-007", "random_urdfs/007/007.obj", 0.40, (1.15, -0.50), 120, color=(92, 160, 112), on_table=False),
    Thing("block-042", "random_urdfs/042/042.obj", 0.42, (0.25, -0.95), 70, color=(150, 105, 175), on_table=False),
)


def main() -> int:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo")
    if find_spec("pybullet_data") is None:
        print("The demo's meshes come with pybullet: pip install 'sirenscape[demo]'", file=sys.stderr)
        return 2
    import pybullet_data

    data = Path(pybullet_data.getDataPath())
    (out / "fields").mkdir(parents=True, exist_ok=True)
    clock = Clock()

    meshes = clock.time("read meshes", lambda: {"table": table_mesh(data)} | {t.name: read(data, t) for t in THINGS})
    names = list(meshes)
    fields = clock.time(
        f"learn {len(meshes)} objects (0 s when cached)",
        lambda: dict(zip(names, fit_meshes([meshes[n] for n in names]), strict=True)),
    )
    for name, field in fields.items():
        save_field(field, out / "fields" / f"{name}.safetensors")

    scene = Composite(furniture() + [stand(n, fields[n], meshes[n]) for n in names])
    camera = Camera.look_at((1.25, -2.05, 1.55), (0.0, -0.05, 0.55), *SIZE, fov_y_deg=42)
    sharp = RenderConfig(antialias=2)
    first = render(scene, camera.resized(64, 48), lights=LIGHTS)  # builds the index, so that it is timed apart
    del first
    clock.mark("compile and index")
    before = clock.time(
        "render 640x480, shadows, antialiased", lambda: render(scene, camera, lights=LIGHTS, config=sharp)
    )

    duck = [i.name for i in scene.instances].index("duck")
    pose = scene.instances[duck].T_world_obj
    shift = SE3.from_translation((0.96, -0.10, 0.0)) @ turn_about(pose.translation, 75)
    moved = clock.time("move the duck", lambda: scene.with_poses([duck], SE3.stack([shift @ pose])))
    after = clock.time("render again", lambda: render(moved, camera, lights=LIGHTS, config=sharp))

    save_png(before.rgb, out / "before.png")
    save_png(after.rgb, out / "after.png")
    save_depth_png(before.depth, out / "depth_mm.png")
    layers = {
        "depth": depth_picture(before.depth),
        "normal": normal_picture(before.normal),
        "ids": owner_picture(before.owner),
    }
    for name, picture in layers.items():
        save_png(picture, out / f"{name}.png")
    save_png(contact_sheet([before.rgb, after.rgb, layers["normal"], layers["ids"]], columns=2), out / "overview.png")
    clock.mark("write pictures")
    frames = clock.time(f"orbit clip {CLIP_SIZE[0]}x{CLIP_SIZE[1]}", lambda: orbit(moved, out / "orbit.mp4"))

    report(out, fields, clock, frames)
    return 0


# -- the room ----------------------------------------------------------------------------------------------------------


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


def furniture() -> list[Instance]:
    """The room itself: a floor, and walls all around as one box less another."""
    floor = Box((6.1, 6.1, 0.1), color=(0.74, 0.60, 0.45))
    walls = Box((6.2, 6.2, 3.0), color=(0.86, 0.87, 0.84)) - Box((6.0, 6.0, 3.4), color=(0.86, 0.87, 0.84))
    return [
        Instance("floor", floor, SE3.from_translation((0.0, 0.0, -0.05))),
        Instance("walls", walls, SE3.from_translation((0.0, 0.0, 1.5))),
    ]


def stand(name: str, field: Field, mesh: trimesh.Trimesh) -> Instance:
    """Puts a learned object on its place, so that its lowest point touches the table or the floor."""
    if name == "table":
        return Instance(name, field, SE3.identity())
    thing = next(t for t in THINGS if t.name == name)
    rotation = SE3.from_axis_angle((0.0, 0.0, 1.0), math.radians(thing.yaw_deg))
    if thing.y_up:
        rotation = rotation @ SE3.from_axis_angle((1.0, 0.0, 0.0), math.pi / 2)
    scale = thing.size / float(mesh.extents.max())
    corners = rotation @ torch.as_tensor(mesh.vertices * scale, dtype=torch.float64)
    box = Aabb(corners.amin(0), corners.amax(0))
    ground = TABLE_TOP if thing.on_table else 0.0
    shift = torch.tensor([*thing.place, ground], dtype=torch.float64) - torch.cat([box.center[:2], box.lo[2:]])
    return Instance(name, field, SE3.from_translation(shift) @ rotation, scale)


def turn_about(point: torch.Tensor, degrees: float) -> SE3:
    """A turn about the vertical through a point."""
    there = SE3.from_translation(point)
    return there @ SE3.from_axis_angle((0.0, 0.0, 1.0), math.radians(degrees)) @ there.inverse()


def orbit(scene: Composite, path: Path) -> int:
    n = CLIP_FPS * CLIP_SECONDS
    cameras = Camera.orbit((0.0, 0.0, 0.55), 2.4, n, *CLIP_SIZE, elevation_deg=24, start_deg=-60, fov_y_deg=42)
    plain = RenderConfig(antialias=1)
    bar = tqdm(cameras, desc="orbit", unit="frame", delay=2, leave=False, disable=None)
    return save_mp4((render(scene, c, lights=LIGHTS, config=plain, progress=False).rgb for c in bar), path, CLIP_FPS)


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


def report(out: Path, fields: dict[str, SirenField], clock: Clock, frames: int) -> None:
    rows = []
    for name, field in fields.items():
        file = out / "fields" / f"{name}.safetensors"
        rows.append(
            {"object": name, "parameters": sum(p.numel() for p in field.parameters()), "bytes": file.stat().st_size}
        )
    print(f"\n{'object':<12}{'parameters':>12}{'file':>10}")
    for row in rows:
        print(f"{row['object']:<12}{row['parameters']:>12,}{row['bytes'] / 1000:>7.0f} KB")
    print(f"\n{'part':<44}{'seconds':>9}")
    for part, seconds in clock.parts.items():
        print(f"{part:<44}{seconds:>9.2f}")
    print(f"{'all':<44}{sum(clock.parts.values()):>9.2f}")
    made = sorted(p.relative_to(out).as_posix() for p in out.glob("*.*") if p.suffix in (".png", ".mp4"))
    print(f"\n{frames} frames of orbit; in {out}/: " + ", ".join(made) + ", fields/")
    (out / "summary.json").write_text(json.dumps({"objects": rows, "seconds": clock.parts}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
