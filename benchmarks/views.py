"""Learning from posed pictures: quality on held-out views over time, and samples a second.

    python -m benchmarks.views [--set speed posed without-depth disturbed few lego kitchen room room-photos]
        [--lego FOLDER] [--room FOLDER] [--steps N]

``posed``: five meshes on a board, drawn by pyrender (`examples.posed`; --meshes, else those of pybullet), RGB-D with masks; then
one is moved and compared with the true pictures of the moved scene. ``without-depth``: the same from colour and masks.
``disturbed``: as posed, from cameras that are wrong by 2 degrees and 2 cm, refined. ``few``: with 3, 10, 30 and 80 views, with and
without depth. ``lego``, ``room``: posed pictures with alpha, a real RGB-D walk; ``room-photos``: its colours alone;
``kitchen``: a drawn room (`benchmarks.kitchen`). ``speed``: samples a second, forward and backward, packed and padded, and sums
of segments by torch and by torch-scatter. Writes JSON; nothing held out is learned from.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import igl
import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.kitchen import kitchen
from benchmarks.timing import say
from compose import Composite
from compose.segments import segment_reduce, torch_scatter_available
from examples.posed import make, shipped_meshes
from objects import SE3
from objects.fused import sine_mlps
from objects.siren import SineMlp
from objects.siren_layout import NetworkConfig
from rendering import (
    Camera,
    LearnedViews,
    RenderConfig,
    View,
    Views,
    ViewsConfig,
    contact_sheet,
    load_views,
    render,
    render_volume,
    save_png,
)
from rendering.learning.config import RoomConfig
from rendering.learning.fit import learn_views
from rendering.learning.stages import LearnStep
from rendering.learning.state import snapshot
from rendering.views import split

N_SCORES = 6  # times in a run at which held-out views are looked at
FEW = (3, 10, 30, 80)  # views


def psnr(got: torch.Tensor, view: View, background: tuple[float, float, float]) -> float:
    """Over the pixels of a view that are valid."""
    error = (got - view.composited(background))[view.valid]
    return -10 * math.log10(max(float(error.square().mean()), 1e-12))


def learn(
    views: Views, test: Views | None, config: ViewsConfig, refine: bool = False
) -> tuple[LearnedViews, list[dict[str, float]]]:
    """What `fit_views` does, and the quality of some held-out views over time (the time of looking isn't counted)."""
    began = time.monotonic()
    curve: list[dict[str, float]] = []
    apart = 0.0

    def look(now: LearnStep) -> None:
        nonlocal apart
        if test is None or now.state is None or (now.step + 1) % max(config.steps // N_SCORES, 1):
            return
        paused = time.monotonic()
        some = test[:: max(len(test) // 4, 1)]
        found = snapshot(now.state, now.step + 1)
        row = {"step": now.step + 1, "seconds": paused - began - apart}
        row |= {"volume_db": volume_score(found, some)} | traced_score(found, some)
        curve.append(row)
        print("   ".join(f"{key} {value:.1f}" for key, value in row.items()), flush=True)
        apart += time.monotonic() - paused

    return learn_views(views, config, refine=refine, on_step=look), curve


def volume_score(learned: LearnedViews, test: Views) -> float:
    scene = Composite(learned.instances)
    keys = {
        "sharpness": learned.sharpness,
        "background": learned.background,
        "n_uniform": 4,
        "n_fine": 16,
        "antialias": 2,
    }
    found = [
        psnr(render_volume(scene, view.camera, progress=False, **keys).rgb, view, learned.background) for view in test
    ]
    return sum(found) / len(found)


def traced_score(learned: LearnedViews, test: Views) -> dict[str, float]:
    """Colour (antialiased; the mean, the worst, and the mean where each channel of a picture has the gain that suits it best), and
    depth where it was measured: solids that stand before it by a tenth or more; pixels that show nothing are holes."""
    scene, config = Composite(learned.instances), RenderConfig(background=learned.background)
    colors, exposed, errors, before, holes = [], [], [], [], []
    for view in test:
        frame = render(scene, view.camera, config=config, progress=False)
        colors.append(psnr(frame.rgb, view, learned.background))
        want = view.composited(learned.background)
        gain = (frame.rgb * want).sum((0, 1)) / frame.rgb.square().sum((0, 1)).clamp(min=1e-6)
        exposed.append(psnr((frame.rgb * gain).clamp(0, 1), view, learned.background))
        if view.alpha is None:  # else what shows nothing is mostly what should
            holes.append((~torch.isfinite(frame.depth)).float().reshape(-1))
        if view.depth is not None:
            known = torch.isfinite(view.depth)
            errors.append((frame.depth - view.depth)[known].abs())  # inf where there is nothing
            before.append((frame.depth < 0.9 * view.depth)[known].float())
    scores = {
        "traced_db": sum(colors) / len(colors),
        "worst_db": min(colors),
        "exposed_db": sum(exposed) / len(exposed),
    }
    if holes:
        scores |= {"holes_pct": 100 * float(torch.cat(holes).mean())}
    if errors:
        off = torch.cat(errors)
        scores |= {
            "depth_median_mm": 1000 * float(off.median()),
            "within_5_cm_pct": 100 * float((off < 0.05).float().mean()),
        }
        scores |= {"before_pct": 100 * float(torch.cat(before).mean())}
    return scores


def scores_of(learned: LearnedViews, test: Views, curve: list[dict[str, float]]) -> dict[str, Any]:
    return (
        {"volume_db": volume_score(learned, test)}
        | traced_score(learned, test)
        | {"curve": curve, "notes": learned.notes}
    )


def sheet(learned: LearnedViews, test: Views, file: Path) -> None:
    """Two held-out views: true, traced, normals, what was seen."""
    scene, pictures = Composite(learned.instances), []
    for view in (test[0], test[len(test) // 2]):
        frame = render(scene, view.camera, config=RenderConfig(background=learned.background), progress=False)
        seen = frame.seen[..., None].expand(-1, -1, 3)
        pictures += [view.composited(learned.background), frame.rgb, 0.5 * frame.normal + 0.5, seen]
    save_png(contact_sheet(pictures, columns=4), file)


# -- the drawn scene ---------------------------------------------------------------------------------------------------


def surface_distances(learned: LearnedViews, views: Views) -> dict[str, float]:
    """Mean distance of the true surface points that pictures show from the learned surface, per cent of each object's extent."""
    cloud, found = views.points(200_000), {}
    for instance in learned.instances:
        if not instance.name.startswith("object_"):
            continue
        p = cloud.p_world[cloud.ids == int(instance.name.removeprefix("object_"))].double()
        mesh = instance.field.to_mesh()
        p_obj = (instance.T_world_obj.inverse() @ p).numpy()
        squared = igl.point_mesh_squared_distance(p_obj, np.asarray(mesh.vertices), np.asarray(mesh.faces))[0]
        extent = float((p.amax(0) - p.amin(0)).max())
        found[instance.name] = 100 * float(np.sqrt(squared).mean()) / extent
    return found


def moved(learned: LearnedViews, folder: Path) -> LearnedViews:
    """With the thing moved that is moved in the pictures of the moved scene."""
    truth = json.loads((folder.with_name(folder.name + "_truth") / "truth.json").read_text())
    change = SE3.from_matrix(torch.tensor(truth["T_new_old"], dtype=torch.float64))
    instances = [
        i.with_pose(change @ i.T_world_obj) if i.name == f"object_{truth['moved']}" else i for i in learned.instances
    ]
    return learned._replace(instances=tuple(instances))


def disturbed(views: Views, degrees: float = 2.0, metres: float = 0.02) -> Views:
    """Every camera turned by so much about a random axis, and moved by so much in a random direction."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for view in views:
        axis, way = torch.nn.functional.normalize(torch.randn(2, 3, generator=generator, dtype=torch.float64), dim=-1)
        pose = view.camera.T_world_cam @ SE3.from_axis_angle(axis, math.radians(degrees))
        pose = SE3.from_translation(metres * way) @ pose
        out.append(view.with_camera(dataclasses.replace(view.camera, T_world_cam=pose)))
    return Views(out)


def pose_errors(found: tuple[Camera, ...], true: list[Camera]) -> dict[str, float]:
    """Mean errors, after the rigid motion of the whole that brings them closest (the world's own place can't be seen)."""

    def errors(poses: list[SE3]) -> tuple[torch.Tensor, torch.Tensor]:
        away = [a.T_world_cam.inverse() @ b for a, b in zip(true, poses, strict=True)]
        turn = torch.stack([pose.log()[3:].norm() for pose in away])
        return torch.rad2deg(turn), torch.stack([pose.translation.norm() for pose in away])

    poses = [camera.T_world_cam for camera in found]
    a = torch.stack([camera.position_world for camera in true])
    b = torch.stack([camera.position_world for camera in found])
    u, _, vt = torch.linalg.svd((b - b.mean(0)).T @ (a - a.mean(0)))
    flip = torch.diag(torch.tensor([1.0, 1.0, float(torch.sign(torch.det(vt.T @ u.T)))], dtype=torch.float64))
    whole = torch.eye(4, dtype=torch.float64)
    whole[:3, :3] = vt.T @ flip @ u.T
    whole[:3, 3] = a.mean(0) - whole[:3, :3] @ b.mean(0)
    aligned = errors([SE3.from_matrix(whole) @ pose for pose in poses])
    plain = errors(poses)
    return {
        "degrees": float(aligned[0].mean()),
        "mm": 1000 * float(aligned[1].mean()),
        "degrees_unaligned": float(plain[0].mean()),
        "mm_unaligned": 1000 * float(plain[1].mean()),
    }


# -- speed -------------------------------------------------------------------------------------------------------------


def best(function: Any, n: int = 5) -> float:
    """Shortest of some runs, seconds."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def speed() -> dict[str, float]:
    """Millions of samples a second, forward and backward, of 6 distance networks (64 wide, 3 layers) at 40,000 points, shared out
    unevenly as rays do; padded: one batched call of torch with as many rows for each network as the largest has."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([20_000, 9_000, 5_000, 3_000, 2_000, 1_000])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shape = NetworkConfig().distance_shape
    nets = [SineMlp(**shape._asdict(), generator=generator) for _ in counts]
    theta = torch.stack(
        [torch.nn.utils.parameters_to_vector(net.parameters()).detach() for net in nets]
    ).requires_grad_()
    stacked = {
        k: torch.stack([dict(net.named_parameters())[k].detach() for net in nets]).requires_grad_()
        for k, _ in nets[0].named_parameters()
    }
    x = torch.rand(int(offsets[-1]), 3, generator=generator)
    wide = torch.rand(len(counts), int(counts.max()), 3, generator=generator)

    def one(params: dict[str, torch.Tensor], p: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(nets[0], params, (p,))

    def packed() -> None:
        sine_mlps(theta, x, offsets, shape).square().sum().backward()

    def padded() -> None:
        torch.func.vmap(one)(stacked, wide).square().sum().backward()

    def looped() -> None:
        torch.cat(
            [net(part) for net, part in zip(nets, x.split(counts.tolist()), strict=True)]
        ).square().sum().backward()

    for run in (packed, padded, looped):
        run()
    row = {f"{f.__name__}_msamples_s": len(x) / best(f) / 1e6 for f in (packed, padded, looped)}
    values = torch.rand(1_000_000, 4, generator=generator)
    ends = torch.arange(0, 1_000_001, 10)
    row["segments_torch_ms"] = 1000 * best(lambda: segment_reduce(values, ends, "sum"))
    if torch_scatter_available():
        row["segments_torch_scatter_ms"] = 1000 * best(
            lambda: segment_reduce(values, ends, "sum", backend="torch_scatter")
        )
    return row


# -- few views ---------------------------------------------------------------------------------------------------------


def plot_few(results: dict[str, Any], file: Path) -> None:
    """Held-out quality over the number of views (logarithmic), with depth and without."""
    w, h, left, top, bottom = 480, 320, 50, 30, 40
    picture = Image.new("RGB", (w, h), "white")
    draw = ImageDraw.Draw(picture)
    scores = {
        kind: [(n, results[f"few-{n}-{kind}"]["traced_db"]) for n in FEW if f"few-{n}-{kind}" in results]
        for kind in ("rgbd", "rgb")
    }
    known = [db for rows in scores.values() for _, db in rows]
    low, high = 5 * math.floor(min(known) / 5), 5 * math.ceil(max(known) / 5 + 0.01)

    def place(n: int, db: float) -> tuple[float, float]:
        along = math.log(n / FEW[0]) / math.log(FEW[-1] / FEW[0])
        return left + (w - left - 30) * along, h - bottom - (h - bottom - top) * (db - low) / (high - low)

    for n in FEW:
        x, y = place(n, low)
        draw.line([(x, top), (x, y)], fill="#dddddd")
        draw.text((x - 6, y + 6), str(n), fill="black")
    for db in range(low, high + 1, 5):
        x, y = place(FEW[0], db)
        draw.line([(x, y), (w - 30, y)], fill="#dddddd")
        draw.text((8, y - 6), f"{db} dB", fill="black")
    for i, (kind, color) in enumerate((("rgbd", "#1f6fb4"), ("rgb", "#d9822b"))):
        points = [place(n, db) for n, db in scores[kind]]
        draw.line(points, fill=color, width=2)
        draw.text((left + 8 + 140 * i, 8), {"rgbd": "with depth", "rgb": "without depth"}[kind], fill=color)
    draw.text((left, h - 16), "pictures learned from; held-out views, traced", fill="black")
    picture.save(file)


def room_row(learned: LearnedViews, test: Views) -> dict[str, float]:
    """How large a learned place is, and how long a frame of it takes."""
    scene, camera = Composite(learned.instances), test[0].camera.resized(320, 240)
    render(scene, camera, progress=False)
    return {
        "parts": len(learned.instances),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "frame_320x240_ms": 1000 * best(lambda: render(scene, camera, progress=False), 3),
    }


# -- all ---------------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", nargs="*", default=["speed", "posed", "without-depth"])
    parser.add_argument("--lego", type=Path)
    parser.add_argument("--room", type=Path)
    parser.add_argument("--meshes", nargs="*")
    parser.add_argument("--steps", type=int, default=ViewsConfig.steps)
    parser.add_argument("--out", type=Path, default=Path("out/bench/views.json"))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    config = ViewsConfig(steps=args.steps, room=RoomConfig().shortened(args.steps))
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    folder = args.out.parent / "posed"
    if {"posed", "without-depth", "disturbed"} & set(args.set):
        make(folder, args.meshes or shipped_meshes())

    def done(name: str, learned: LearnedViews | None, test: Views | None, row: dict[str, Any]) -> None:
        results[name] = row
        shown = {key: value for key, value in row.items() if key != "curve"}
        say(f"{name}: {json.dumps(shown)}")
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        if learned is not None and test is not None:
            sheet(learned, test, args.out.parent / f"views-{name}.png")

    if "speed" in args.set:
        done("speed", None, None, speed())
    for name in [s for s in ("posed", "without-depth", "disturbed") if s in args.set]:
        exact = load_views(folder, depth=name != "without-depth")
        test = load_views(folder, split="test")
        views = disturbed(exact) if name == "disturbed" else exact
        learned, curve = learn(views, test, config, refine=name == "disturbed")
        row = scores_of(learned, test, curve)
        after, of_moved = moved(learned, folder), load_views(folder.with_name(folder.name + "_moved"))
        sheet(after, of_moved, args.out.parent / f"views-{name}-moved.png")
        row |= {"surface_pct": surface_distances(learned, load_views(folder))}
        row |= {"moved_db": traced_score(after, of_moved)["traced_db"]}
        if name == "disturbed":
            row |= {"before": pose_errors(tuple(views.cameras), exact.cameras)}
            row |= {"after": pose_errors(learned.cameras, exact.cameras)}
        done(name, learned, test, row)
    if "few" in args.set:
        folder = args.out.parent / "few"
        make(folder, args.meshes or shipped_meshes(), n_train=max(FEW))
        test = load_views(folder, split="test")
        for n in FEW:
            for depth in (True, False):
                views = load_views(folder, depth=depth)
                views = views.picked([round(i * (len(views) - 1) / (n - 1)) for i in range(n)])
                learned = learn(views, None, config)[0]
                done(f"few-{n}-{'rgbd' if depth else 'rgb'}", learned, test, traced_score(learned, test))
        plot_few(results, args.out.parent / "views-few.png")
    if "lego" in args.set and args.lego:
        views, test = load_views(args.lego), load_views(args.lego, split="test")
        learned, curve = learn(views, test, config)
        done("lego", learned, test, scores_of(learned, test, curve))
    for name in [s for s in ("kitchen", "room", "room-photos") if s in args.set and (args.room or s == "kitchen")]:
        views, test = kitchen() if name == "kitchen" else split(load_views(args.room), 6)
        if name == "room-photos":
            views = split(load_views(args.room, depth=False), 6)[0]
        began = time.process_time()
        learned, curve = learn(views, test, config)
        row = {"cpu_s": time.process_time() - began} | room_row(learned, test) | scores_of(learned, test, curve)
        done(name, learned, test, row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
