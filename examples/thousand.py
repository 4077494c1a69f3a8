"""A thousand distinct learned objects in one scene: learn them, set them out, render, lift one out.

The meshes are the small objects of the package pybullet_data (extra ``demo``). Each process learns a batch at a time; what is
learned is kept in OUT/fields/, so that a killed run goes on where it was.

    python -m examples.thousand [--out out/thousand] [--objects N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from examples.small_objects import find_things, learn_things
from examples.stand import Exhibit, build, lift_out
from objects import SirenField, load_field
from objects.environment import usable_cores
from objects.progress import Bar
from rendering import RenderConfig, render, save_mp4, save_png
from scenes import SceneGraph, load_scene, save_scene

CLIP_SIZE, CLIP_FRAMES, CLIP_FPS = (320, 240), 48, 24


def main(arguments: Sequence[str] | None = None) -> int:
    args = read_arguments(arguments)
    if find_spec("pybullet_data") is None:
        print("The meshes come with pybullet: pip install 'sirenscape[demo]'", file=sys.stderr)
        return 2
    import pybullet_data

    out, seconds = args.out, {}
    things = find_things(Path(pybullet_data.getDataPath()) / "random_urdfs")[: args.objects]
    with timed(seconds, "learning and indexing in this run"):
        rows = learn_things(things, out / "fields", batch=args.batch, processes=args.jobs)
    learned = {thing: rows[thing.name] for thing in things if "file" in rows[thing.name]}
    if not learned:
        print("None of the objects can be learned", file=sys.stderr)
        return 1
    with timed(seconds, "composing"):
        fields = {thing: load_field(row["file"]) for thing, row in learned.items()}
        graph = build([Exhibit(t.name, f, t.color) for t, f in fields.items() if isinstance(f, SirenField)])
        if args.frames:
            lift_out(graph, args.frames / CLIP_FPS)
    with timed(seconds, "saving the scene"):
        save_scene(graph, out / "thousand.scene")
    with timed(seconds, "loading the scene"):
        graph = load_scene(out / "thousand.scene")

    camera, lights = graph.camera_at("camera"), graph.lights_at()
    with timed(seconds, "compilation"):
        render(graph.at(), camera.resized(64, 48), lights=lights, config=RenderConfig(antialias=1))
    with timed(seconds, "frame 640x480, shadows, antialiased"):
        frame = render(graph.at(), camera, lights=lights)
    save_png(frame.rgb, out / "room.png")
    names = [i.name for i in graph.at().instances]
    seen = {names[k] for k in frame.owner.unique().tolist() if k >= 0 and names[k].startswith("stand/objects/")}
    if args.frames:
        with timed(seconds, f"clip {CLIP_SIZE[0]}x{CLIP_SIZE[1]}, {args.frames} frames"):
            clip(graph, out / "room.mp4", args.frames)
    report(out, rows, seconds, len(seen))
    return 0


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("out/thousand"), help="where results go (default: %(default)s)")
    add("--objects", type=int, metavar="N", help="take only the first N objects (default: all)")
    add("--batch", type=int, default=16, help="objects learned side by side (default: %(default)s)")
    add("--jobs", type=int, default=usable_cores(), help="processes that learn (default: a core each, %(default)s)")
    add("--frames", type=int, default=CLIP_FRAMES, help="frames of the clip, 0 for none (default: %(default)s)")
    args = parser.parse_args(arguments)
    for name in ("objects", "batch", "jobs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(args, name)}")
    return args


@contextmanager
def timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Notes how long the block takes."""
    began = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - began


def clip(graph: SceneGraph, path: Path, frames: int) -> int:
    camera = graph.camera_at("camera").resized(*CLIP_SIZE)
    times = (i / CLIP_FPS for i in Bar(range(frames), desc="clip", unit="frame"))
    pictures = (render(graph, camera, time=t, progress=False).rgb for t in times)
    return save_mp4(pictures, path, CLIP_FPS)


def report(out: Path, rows: dict[str, dict[str, Any]], seconds: dict[str, float], seen: int) -> None:
    learned = {name: row for name, row in rows.items() if "file" in row}
    cpu = [row["cpu_seconds"] for row in learned.values()]
    scene = [f.stat().st_size for f in (out / "thousand.scene").rglob("*") if f.is_file()]
    figures = {
        "objects learned": f"{len(learned):,}",
        "objects seen in the picture": f"{seen:,}",
        "learning and indexing, CPU seconds each": f"{statistics.mean(cpu):.2f}",
        "learning and indexing, CPU minutes": f"{sum(cpu) / 60:.1f}",
        "median IoU": f"{statistics.median(row['iou'] for row in learned.values()):.4f}",
        "MB of the scene on disk": f"{sum(scene) / 1e6:.1f}",
    } | {f"{name}, s": f"{value:.2f}" for name, value in seconds.items()}
    print()
    for name, figure in figures.items():
        print(f"{name:<44}{figure:>10}")
    worst = sorted(learned.items(), key=lambda item: item[1]["iou"])[:10]
    print("worst: " + ", ".join(f"{name} {row['iou']:.3f}" for name, row in worst))
    for name, row in rows.items():
        if "reason" in row:
            print(f"not usable: {name}: {row['reason']}")
    print(f"in {out}/: " + ", ".join(p.name for p in sorted(out.iterdir())))


if __name__ == "__main__":
    sys.exit(main())
