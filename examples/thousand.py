"""A thousand distinct learned objects in one scene: learn them, set them out, render, lift one out.

The meshes are the small objects of the package pybullet_data (extra ``demo``). Each process learns a batch at a time on one core;
what is learned is kept in OUT/fields/ and listed in OUT/objects.json, so that a killed run goes on where it was.

    python -m examples.thousand [--out out/thousand] [--objects N]
"""

from __future__ import annotations

import argparse
import colorsys
import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import igl
import numpy as np
import torch
import trimesh
from torch import nn
from tqdm import tqdm
from trimesh.visual import ColorVisuals

from compose import Composite, Instance, Rays
from objects import (
    SE3,
    Box,
    FieldFileError,
    FitConfig,
    FitError,
    MeshError,
    SirenField,
    fit_meshes,
    load_field,
    save_field,
)
from objects.cache import content_key
from rendering import AmbientLight, Camera, PointLight, RenderConfig, render, save_mp4, save_png
from rendering.atomic import replacing
from scenes import SceneGraph, load_scene, save_scene

# Small objects of one colour each: a narrow network, few samples, and next to nothing for colour.
SMALL = FitConfig(
    width=48,
    omega_first=20.0,
    steps=1200,
    batch=1024,
    pool=32_768,
    falloff=0.1,
    color_width=8,
    color_layers=1,
    color_pool=1024,
    color_batch=64,
)
IOU_POINTS = 32_768
SIZE, CLIP_SIZE = (640, 480), (320, 240)
CLIP_FRAMES, CLIP_FPS = 48, 24


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--out", type=Path, default=Path("out/thousand"), help="where results go (default: %(default)s)"
    )
    parser.add_argument("--objects", type=int, metavar="N", help="take only the first N objects (default: all)")
    parser.add_argument("--batch", type=int, default=16, help="objects learned side by side (default: %(default)s)")
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that learn (default: one for each core, %(default)s)",
    )
    parser.add_argument(
        "--frames", type=int, default=CLIP_FRAMES, help="frames of the clip, 0 for none (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    for name in ("objects", "batch", "jobs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if find_spec("pybullet_data") is None:
        print("The meshes come with pybullet: pip install 'sirenscape[demo]'", file=sys.stderr)
        return 2
    import pybullet_data

    things = find_things(Path(pybullet_data.getDataPath()) / "random_urdfs")[: args.objects]
    (args.out / "fields").mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    book = learn_all(things, args.out, batch=args.batch, jobs=args.jobs)
    seconds = {"learning and indexing in this run": time.perf_counter() - began}
    rows = {t.name: book.learned[t.name] for t in things if t.name in book.learned}
    if not rows:
        print("None of the objects can be learned", file=sys.stderr)
        return 1

    began = time.perf_counter()
    exhibits = [Exhibit(t.name, load_learned(field_file(args.out, t.name)), t.color) for t in things if t.name in rows]
    graph = build(exhibits)
    if args.frames:
        lift_out(graph, args.frames / CLIP_FPS)
    seconds["composing"] = time.perf_counter() - began
    began = time.perf_counter()
    save_scene(graph, args.out / "thousand.scene")
    seconds["saving the scene"] = time.perf_counter() - began
    began = time.perf_counter()
    graph = load_scene(args.out / "thousand.scene")
    seconds["loading the scene"] = time.perf_counter() - began

    camera, lights = graph.camera_at("camera"), graph.lights_at()
    began = time.perf_counter()
    render(graph.at(), camera.resized(64, 48), lights=lights, config=RenderConfig(antialias=1))
    seconds["compilation"] = time.perf_counter() - began
    began = time.perf_counter()
    frame = render(graph.at(), camera, lights=lights)
    seconds["frame 640x480, shadows, antialiased"] = time.perf_counter() - began
    save_png(frame.rgb, args.out / "room.png")
    names = [i.name for i in graph.at().instances]
    seen = {names[k] for k in frame.owner.unique().tolist() if k >= 0 and names[k].startswith("stand/objects/")}
    if args.frames:
        began = time.perf_counter()
        clip(graph, args.out / "room.mp4", args.frames)
        seconds[f"clip {CLIP_SIZE[0]}x{CLIP_SIZE[1]}, {args.frames} frames"] = time.perf_counter() - began
    report(args.out, rows, book.unusable, seconds, len(seen))
    return 0


# -- meshes ------------------------------------------------------------------------------------------------------------


class Thing(NamedTuple):
    """An object of the package: its mesh file, metres for each unit of it, its colour (sRGB in 0..1)."""

    name: str
    file: Path
    scale: float
    color: tuple[float, float, float]


def find_things(folder: Path) -> list[Thing]:
    """All objects of a folder of ``NAME/NAME.urdf``, which say which mesh they show, how large and in which colour."""
    things = []
    for urdf in sorted(folder.glob("*/*.urdf")):
        visual = ElementTree.parse(urdf).find("link/visual")
        mesh, color = (None, None) if visual is None else (visual.find("geometry/mesh"), visual.find("material/color"))
        if mesh is None or color is None:
            raise ValueError(f"{urdf}: expected a link with a visual mesh and a colour")
        red, green, blue = map(float, color.attrib["rgba"].split()[:3])
        scale = float(mesh.attrib.get("scale", "1").split()[0])
        things.append(Thing(urdf.stem, urdf.parent / mesh.attrib["filename"], scale, (red, green, blue)))
    return things


def read_thing(thing: Thing) -> trimesh.Trimesh:
    """The mesh in metres, painted.

    Raises:
        MeshError: The file holds no triangles, or numbers that are not finite.
    """
    mesh = trimesh.load(thing.file, force="mesh", process=False)
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all():
        raise MeshError(f"{thing.file.name}: expected triangles with finite vertices")
    mesh.apply_scale(thing.scale)
    rgba = np.round(255 * np.array([*thing.color, 1.0])).astype(np.uint8)
    mesh.visual = ColorVisuals(mesh, vertex_colors=np.tile(rgba, (len(mesh.vertices), 1)))
    return mesh


def iou(field: SirenField, mesh: trimesh.Trimesh, n: int = IOU_POINTS) -> float:
    """Volume shared over volume covered by field or mesh, on points uniform in the field's box; inside of the mesh is where its
    generalised winding number is above 1/2."""
    lo, hi = field.box_lo.double().numpy(), field.box_hi.double().numpy()
    p = np.random.default_rng(0).uniform(lo, hi, (n, 3))
    wanted = np.asarray(igl.fast_winding_number(np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int64), p)) > 0.5
    with torch.no_grad():
        got = (field.sdf(torch.from_numpy(p).float()) < 0).numpy()
    return float((got & wanted).sum() / max((got | wanted).sum(), 1))


# -- learning ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Book:
    """What was learned so far (quality, cost and content key of each object), and why the rest was not."""

    learned: dict[str, dict] = dataclasses.field(default_factory=dict)
    unusable: dict[str, dict] = dataclasses.field(default_factory=dict)

    @staticmethod
    def read(file: Path) -> Book:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            return Book(dict(record["learned"]), dict(record["unusable"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Book()  # none yet, or damaged: the fields are in the cache, too

    def write(self, file: Path) -> None:
        text = json.dumps(
            {name: dict(sorted(rows.items())) for name, rows in dataclasses.asdict(self).items()}, indent=1
        )
        with replacing(file) as part:
            part.write_text(text + "\n", encoding="utf-8")


def learn_all(things: Sequence[Thing], out: Path, *, batch: int, jobs: int, config: FitConfig = SMALL) -> Book:
    """Learns what is not in ``out`` yet, a batch for each process at a time."""
    file = out / "objects.json"
    book = Book.read(file)
    keys = {t.name: thing_key(t, config) for t in things}
    known = {n: r for n, r in (book.learned | book.unusable).items() if r.get("key") == keys.get(n)}
    todo = [
        t for t in things if t.name not in known or not (t.name in book.unusable or field_file(out, t.name).is_file())
    ]
    if not todo:
        return book
    jobs = min(jobs, math.ceil(len(todo) / batch))
    batches = [todo[i : i + batch] for i in range(0, len(todo), batch)]
    print(
        f"{len(things) - len(todo)} of {len(things)} objects are there; learning {len(todo)} in {jobs} processes",
        flush=True,
    )
    began, done = time.perf_counter(), 0
    with one_thread_each(), ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(learn_batch, part, out, config) for part in batches]
        for future in as_completed(running):
            for name, row in future.result().items():
                for rows in (book.learned, book.unusable):
                    rows.pop(name, None)
                (book.unusable if "reason" in row else book.learned)[name] = row | {"key": keys[name]}
                done += 1
            book.write(file)
            spent = time.perf_counter() - began
            median = statistics.median([r["iou"] for r in book.learned.values()] or [math.nan])
            left = spent / done * (len(todo) - done) / 60
            print(
                f"{len(things) - len(todo) + done:5d} of {len(things)}  {spent:6.0f} s  {spent / done:5.2f} s each  "
                f"about {left:.0f} min left  median IoU {median:.4f}",
                flush=True,
            )
    return book


def learn_batch(things: Sequence[Thing], out: Path, config: FitConfig) -> dict[str, dict]:
    """One row for each thing: how well it was learned, or the ``reason`` why not. Runs in a process of its own."""
    torch.set_num_threads(1)
    began = time.process_time()
    meshes: dict[str, trimesh.Trimesh] = {}
    rows: dict[str, dict] = {}
    for thing in things:
        try:
            meshes[thing.name] = read_thing(thing)
        except MeshError as error:
            rows[thing.name] = {"reason": str(error)}
    fields: dict[str, SirenField] = {}
    try:
        fields = dict(zip(meshes, fit_meshes(list(meshes.values()), config=config, progress=False), strict=True))
    except (MeshError, FitError):  # one of them: find out which; those that were learned are in the cache
        for name, mesh in meshes.items():
            try:
                fields[name] = fit_meshes([mesh], config=config, progress=False)[0]
            except (MeshError, FitError) as error:
                rows[name] = {"reason": str(error)}
    for name, field in fields.items():
        save_field(field, field_file(out, name))
        rows[name] = {"iou": round(iou(field, meshes[name]), 5), "bytes": field_file(out, name).stat().st_size}
    learned = time.process_time()
    for name, field in fields.items():
        index(name, field)
    indexed = time.process_time()
    cost = {
        "cpu_seconds": round((learned - began) / len(things), 3),
        "index_cpu_seconds": round((indexed - learned) / len(things), 3),
    }
    return {name: row | cost for name, row in rows.items()}


def index(name: str, field: SirenField) -> None:
    """Has the cache filled with what pictures of the field need, by a ray through its middle."""
    lo, hi = field.box_lo.double()[None], field.box_hi.double()[None]
    along = nn.functional.normalize(hi - lo)
    Composite([Instance(name, field, SE3.identity())]).trace(Rays(lo - 0.1 * along, along))


def thing_key(thing: Thing, config: FitConfig) -> str:
    digest = hashlib.sha256(thing.file.read_bytes()).hexdigest()
    return content_key(digest, thing.scale, list(thing.color), dataclasses.asdict(config))


def field_file(out: Path, name: str) -> Path:
    return out / "fields" / f"{name}.safetensors"


def load_learned(file: Path) -> SirenField:
    field = load_field(file)
    if not isinstance(field, SirenField):
        raise FieldFileError(f"{file}: expected a SIREN, got {type(field).__name__}")
    return field


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that start meanwhile keep to one core each: their libraries read this when they load."""
    names = ("OMP_NUM_THREADS", "IGL_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# -- the scene ---------------------------------------------------------------------------------------------------------

ARC = math.radians(72)  # of the stand, seen from its middle
SEGMENTS = 8  # straight pieces of each step
DEPTH, RISE, PITCH = 0.125, 0.09, 0.12  # metres; PITCH is the room for one object along a step
SHORTEST, LONGEST = 0.115, 0.14  # longest edge of an object: those beyond are scaled to it
STONE, FLOOR, WALL = (0.86, 0.84, 0.81), (0.62, 0.52, 0.42), (0.58, 0.66, 0.72)


class Exhibit(NamedTuple):
    name: str
    field: SirenField
    color: tuple[float, float, float]


class Slot(NamedTuple):
    """A place for an object: on which step, and how far along the arc (0..1)."""

    row: int
    along: float


def first_radius(n: int) -> float:
    """Of the lowest step for ``n`` objects, so that the stand always has about the same shape."""
    return max(0.3, 0.075 * math.sqrt(n))


def seats(n: int) -> list[Slot]:
    """``n`` places on as few steps as hold them, spread evenly, from the left to the right."""
    room: list[int] = []
    first = first_radius(n)
    while sum(room) < n:
        room.append(max(1, int(ARC * (first + DEPTH * len(room)) / PITCH)))
    ends = np.round(np.cumsum([0, *room]) * n / sum(room)).astype(int)
    slots = [Slot(row, (i + 0.5) / (b - a)) for row, (a, b) in enumerate(pairwise(ends)) for i in range(b - a)]
    return sorted(slots, key=lambda s: (s.along, s.row))


def on_step(slot: Slot, first: float) -> SE3:
    """The middle of a place on the top of its step, y away from the middle of the stand; ``first`` is its lowest radius."""
    angle = (slot.along - 0.5) * ARC
    piece = ARC / SEGMENTS
    straight = (min(int(slot.along * SEGMENTS), SEGMENTS - 1) + 0.5) * piece - ARC / 2  # the angle that its piece faces
    radius = (first + DEPTH * (slot.row + 0.5)) / math.cos(angle - straight)
    place = (radius * math.sin(angle), radius * math.cos(angle), RISE * (slot.row + 1))
    return SE3.from_translation(place) @ SE3.from_axis_angle((0.0, 0.0, 1.0), -straight)


def upright(field: SirenField, padding: float = SMALL.padding) -> tuple[SE3, float]:
    """Pose on its place and scale: its longest edge upright, its shortest towards the viewer, its lowest point at z = 0."""
    size = field.bounds.size.double()
    longest = float(size.max()) / (1 + 2 * padding)  # without the space that the box leaves around the object
    short, middle, long = size.argsort().tolist()
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.eye(3, dtype=torch.float64)[[middle, short, long]]
    if torch.linalg.det(matrix[:3, :3]) < 0:
        matrix[1, :3] *= -1
    turn = SE3.from_matrix(matrix)
    scale = min(max(longest, SHORTEST), LONGEST) / longest
    middle_world = turn @ (scale * field.bounds.center.double())
    lift = torch.tensor([0.0, 0.0, 0.5 * scale * longest], dtype=torch.float64)
    return SE3.from_translation(lift - middle_world) @ turn, scale


def by_color(exhibits: Sequence[Exhibit], slots: Sequence[Slot]) -> list[tuple[Exhibit, Slot]]:
    """The hue goes round the stand; at each hue the dark ones stand in front."""
    n_rows = 1 + max(s.row for s in slots)
    hues = sorted(exhibits, key=lambda e: (colorsys.rgb_to_hls(*e.color)[0], e.name))
    pairs = []
    for i in range(0, len(hues), n_rows):
        light = sorted(hues[i : i + n_rows], key=lambda e: (colorsys.rgb_to_hls(*e.color)[1], e.name))
        pairs += zip(light, sorted(slots[i : i + n_rows]), strict=True)
    return pairs


def build(exhibits: Sequence[Exhibit]) -> SceneGraph:
    """A stepped stand in a half circle with all exhibits on it, in an open room with two lamps."""
    graph = SceneGraph()
    slots, first = seats(len(exhibits)), first_radius(len(exhibits))
    n_rows = 1 + max(s.row for s in slots)
    outer = first + DEPTH * n_rows
    graph.add("room")
    graph.add("room/floor", Box((30.0, 30.0, 0.1), color=FLOOR), pose=SE3.from_translation((0.0, 0.0, -0.05)))
    graph.add("room/wall", Box((30.0, 0.1, 16.0), color=WALL), pose=SE3.from_translation((0.0, outer + 0.6, 8.0)))
    graph.add("room/sky", light=AmbientLight((0.95, 0.97, 1.0), 0.42, ground_color=(0.74, 0.66, 0.58)))
    # Lamps fall off with the square of the distance, so they grow with the stand.
    reach = outer + 1.0
    lamps = {
        "lamp": ((-0.85, -0.45, 1.15), (1.0, 0.95, 0.86), 1.9),
        "window": ((0.95, -0.35, 0.95), (0.85, 0.92, 1.0), 0.55),
    }
    for name, (place, color, intensity) in lamps.items():
        light = PointLight((0.0, 0.0, 0.0), color, intensity * reach**2)
        graph.add(f"room/{name}", light=light, pose=SE3.from_translation([reach * x for x in place]))
    graph.add("stand")
    graph.add("stand/steps")
    for row in range(n_rows):
        inner, height = first + DEPTH * row, RISE * (row + 1)
        width = 2 * (inner + DEPTH) * math.tan(ARC / SEGMENTS / 2)
        step = Box((width, DEPTH, height), color=STONE)
        for k in range(SEGMENTS):
            turn = SE3.from_axis_angle((0.0, 0.0, 1.0), -((k + 0.5) / SEGMENTS - 0.5) * ARC)
            middle = SE3.from_translation((0.0, inner + 0.5 * DEPTH, 0.5 * height))
            graph.add(f"stand/steps/{row:02d}-{k}", step, pose=turn @ middle)
    graph.add("stand/objects")
    for exhibit, slot in by_color(exhibits, slots):
        pose, scale = upright(exhibit.field)
        graph.add(f"stand/objects/{exhibit.name}", exhibit.field, pose=on_step(slot, first) @ pose, scale=scale)
    places = torch.stack([on_step(s, first).translation for s in slots])
    around = LONGEST * torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0, 1)])
    graph.add("camera", camera=framed((places[:, None] + around).reshape(-1, 3), *SIZE))
    return graph


def framed(
    points: torch.Tensor, width: int, height: int, elevation_deg: float = 36.0, fov_y_deg: float = 34.0
) -> Camera:
    """A camera in front (at negative y) and above that holds all points in its picture, as close as can be."""
    up = math.radians(elevation_deg)
    away = torch.tensor([0.0, -math.cos(up), math.sin(up)], dtype=torch.float64)
    target, distance = 0.5 * (points.amin(0) + points.amax(0)), 20.0
    size = torch.tensor([width, height], dtype=torch.float64)
    for _ in range(20):
        camera = Camera.look_at(target + distance * away, target, width, height, fov_y_deg)
        uv, _ = camera.project(points)
        lo, hi = uv.amin(0), uv.amax(0)
        off = 0.5 * (lo + hi) - 0.5 * size
        right, down = camera.T_world_cam.rotation()[:, 0], camera.T_world_cam.rotation()[:, 1]
        target = target + (off[0] * right + off[1] * down) * distance / camera.fy
        distance = distance * (0.5 + 0.5 * float(((hi - lo) / (0.92 * size)).max()))
    return camera


def lift_out(graph: SceneGraph, seconds: float) -> str:
    """One object of the middle rises from its place, comes towards the camera and turns; all else stays."""
    paths = [p for p in graph if p.startswith("stand/objects/")]
    places = torch.stack([graph.pose(p)[0].translation for p in paths])
    middle = places.median(0).values * torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    path = paths[int((places - middle).norm(dim=1).argmin())]
    start, camera = graph.pose(path)[0].translation, graph.camera_at("camera")
    risen = start + torch.tensor([0.0, 0.0, 1.5 * LONGEST], dtype=torch.float64)
    forward, eye = camera.T_world_cam.rotation()[:, 2], camera.position_world
    near = eye + (0.25 * float((start - eye).norm()) + 3 * LONGEST) * forward
    graph.move(path, by=(0.0, 0.0, 0.0), time=0.1 * seconds)
    graph.move(path, to=risen.tolist(), time=0.3 * seconds)
    graph.move(path, to=near.tolist(), time=0.9 * seconds)
    graph.rotate(path, (0, 0, 1), 150, time=0.9 * seconds)
    return path


# -- pictures and figures ----------------------------------------------------------------------------------------------


def clip(graph: SceneGraph, path: Path, frames: int) -> int:
    camera = graph.camera_at("camera").resized(*CLIP_SIZE)
    bar = tqdm(range(frames), desc="clip", unit="frame", delay=2, leave=False, disable=None)
    times = (i / CLIP_FPS for i in bar)
    pictures = (render(graph.at(t), camera, lights=graph.lights_at(t), progress=False).rgb for t in times)
    return save_mp4(pictures, path, CLIP_FPS)


def report(out: Path, rows: dict[str, dict], unusable: dict[str, dict], seconds: dict[str, float], seen: int) -> None:
    worst = sorted(rows.items(), key=lambda item: item[1]["iou"])[:10]
    cpu = [row["cpu_seconds"] for row in rows.values()]
    scene = [f.stat().st_size for f in (out / "thousand.scene").rglob("*") if f.is_file()]
    figures = {
        "objects learned": f"{len(rows):,}",
        "objects seen in the picture": f"{seen:,}",
        "learning, CPU seconds each": f"{statistics.mean(cpu):.2f}",
        "learning, CPU minutes": f"{sum(cpu) / 60:.1f}",
        "indexing, CPU minutes": f"{sum(row['index_cpu_seconds'] for row in rows.values()) / 60:.1f}",
        "median IoU": f"{statistics.median(row['iou'] for row in rows.values()):.4f}",
        "KB of a field file": f"{statistics.mean(row['bytes'] for row in rows.values()) / 1000:.1f}",
        "MB of the scene on disk": f"{sum(scene) / 1e6:.1f}",
    } | {f"{name}, s": f"{value:.2f}" for name, value in seconds.items()}
    print()
    for name, figure in figures.items():
        print(f"{name:<44}{figure:>10}")
    print("worst: " + ", ".join(f"{name} {row['iou']:.3f}" for name, row in worst))
    for name, row in unusable.items():
        print(f"not usable: {name}: {row['reason']}")
    made = [
        p.name for p in (out / "room.png", out / "room.mp4", out / "thousand.scene", out / "objects.json") if p.exists()
    ]
    print(f"in {out}/: " + ", ".join(made))


if __name__ == "__main__":
    sys.exit(main())
