"""What bending costs: `python -m benchmarks.bend [--json FILE]`.

Two scenes. *Alone*: one object that bends among 1,000 rigid ones: what a new time costs beyond what the field itself is asked, and
what memory does over 1,000 of them. *Crowd*: 1,000 instances of five fields that bend, each at a phase of its own, against 1,000
rigid instances of the same canonical fields at the same poses: the price of a frame, and agreement with the dense reference on a
sample of its pixels. Times are those of the processor (one thread is best); fields are taught for a moment.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.compose import disagreements
from benchmarks.timing import processor, say
from compose import Composite, Instance, Rays
from compose.reference import in_double, trace_reference
from objects import SE3, Bend, Box, Capsule, Field, SirenField, Torus, Twist, Union, Warped
from rendering import Camera, RenderConfig, render
from scenes import SceneGraph

WIDTH, HEIGHT = 320, 240
M = 1000
SAMPLE = 60  # pixels held against the reference


def taught(shape: Field, seed: int) -> SirenField:
    """A network that has seen a solid for a moment."""
    field = SirenField(
        shape.bounds.padded(0.05), width=64, layers=2, color_width=32, color_layers=1, omega_first=12.0, seed=seed
    )
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(field.distance.parameters(), lr=2e-3)
    for _ in range(250):
        p = field.box_lo + torch.rand(1024, 3, generator=generator) * field.bounds.size
        loss = (field.sdf(p) - shape.sdf(p)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return field.requires_grad_(False)


def bending() -> list[Warped]:
    """Five fields that bend or twist over two seconds."""
    shapes = [
        Capsule(0.1, 0.5),
        Torus(0.28, 0.08),
        Box((0.2, 0.12, 0.6), 0.02),
        Union(Capsule(0.08, 0.5), Box((0.4, 0.1, 0.1)), smooth=0.05),
        Union(Capsule(0.07, 0.55), Torus(0.18, 0.05), smooth=0.05),
    ]
    fields = [taught(shape, k) for k, shape in enumerate(shapes)]
    times = (0.0, 0.5, 1.0, 1.5, 2.0)
    made = []
    for k, field in enumerate(fields):
        box, origin = field.bounds, (0.0, 0.0, 0.0)
        if k % 2:
            warp = Twist(box, (0, 0, 1), origin, times, (0, 2.0, 0, -2.0, 0))
        else:
            warp = Bend(box, (0, 0, 1), (1, 0, 0), origin, 0.5, times, (0, 2.0, 0, -2.0, 0))
        made.append(Warped(field, warp))
    return made


def scene_of(fields: Sequence[Field], times: Sequence[float | None]) -> list[Instance]:
    """Instances in a cube, seen by `view`."""
    g = torch.Generator().manual_seed(M)
    spread = 0.5 * M ** (1 / 3)
    made = []
    for k in range(M):
        place = spread * (2 * torch.rand(3, generator=g, dtype=torch.float64) - 1)
        made.append(
            Instance(
                f"{k}",
                fields[k % len(fields)],
                SE3(torch.randn(4, generator=g, dtype=torch.float64), place),
                1.0,
                times[k],
            )
        )
    return made


def view() -> Camera:
    return Camera.look_at((6.0, -11.0, 5.0), (0.0, 0.0, 0.0), WIDTH, HEIGHT, 45.0)


def cpu_ms(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return 1e3 * (time.process_time() - began)


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(fields: list[Warped], n_times: int) -> dict[str, float]:
    """One object that bends among 1,000 rigid ones."""
    graph = SceneGraph()
    for k, instance in enumerate(scene_of([field.field for field in fields], [None] * M)):
        graph.add(f"rigid{k}", instance.field, pose=instance.T_world_obj)
    graph.add("bending", fields[0], pose=SE3.identity())
    graph.set_clock("bending", loop=True)
    rays = view().rays(view().pixel_centers(torch.arange(64)))
    for t in np.linspace(0, 2, 65):  # all intervals: their indices are made once
        graph.at(float(t)).trace(rays)
    new, scene, memory = [], graph.at(0.0), []
    draw = np.random.default_rng(0)
    for k, t in enumerate(draw.uniform(0, 2, n_times)):
        made: list[Composite] = []
        new.append(cpu_ms(lambda t=float(t), made=made: made.append(graph.at(t)) or made[0].traced))
        scene = made[0]
        if k % max(n_times // 10, 1) == 0:
            scene.trace(rays)
            memory.append(resident_mb())
    return {
        "new time ms": float(np.median(new)),
        "new time worst ms": float(np.max(new)),
        "memory growth MB": memory[-1] - memory[1],
        "memory MB": memory[-1],
    }


def crowd(fields: list[Warped]) -> dict[str, float | int]:
    """1,000 instances at phases of their own, against 1,000 rigid ones."""
    draw = np.random.default_rng(1)
    phases = draw.uniform(0, 2, M).tolist()
    config = RenderConfig(antialias=1, shadows=False)
    rigid, bent = scene_of([f.field for f in fields], [None] * M), scene_of(fields, phases)
    rigid_scene = Composite(rigid)
    render(rigid_scene, view(), config=config, progress=False)
    first = cpu_ms(lambda: render(Composite(bent), view(), config=config, progress=False))
    frame = min(cpu_ms(lambda: render(rigid_scene, view(), config=config, progress=False)) for _ in range(3))
    rays = view().rays(view().pixel_centers(torch.arange(WIDTH * HEIGHT)))
    traced = min(cpu_ms(lambda: rigid_scene.trace(rays)) for _ in range(2))
    known = Composite(bent)
    costs, shares = [], []
    for k in range(3):  # all at new phases
        later = [
            Instance(i.name, i.field, i.T_world_obj, i.scale, (float(i.time or 0) + 0.173 * k) % 2.0) for i in bent
        ]
        columns = SE3.stack([i.T_world_obj for i in later])
        made: list[Composite] = []

        def shown(later=later, made=made, columns=columns) -> None:
            made.append(
                Composite.from_columns(
                    [i.name for i in later], [i.field for i in later], columns, torch.ones(M, dtype=torch.float64),
                    times=[i.time for i in later], like=known,
                )
            )  # fmt: skip
            render(made[0], view(), config=config, progress=False)

        costs.append(cpu_ms(shown))
        shares.append(cpu_ms(lambda made=made: made[0].trace(rays)))
    count, plain = known.trace_count(rays), rigid_scene.trace_count(rays)
    pixels = torch.randperm(WIDTH * HEIGHT, generator=torch.Generator().manual_seed(0))[:SAMPLE]
    some = view().rays(view().pixel_centers(pixels))
    some = Rays(some.origins.double(), some.directions.double(), 0.0, 30.0)
    wrong = disagreements(known.trace(some), trace_reference(in_double(bent), some), known.size)
    return {
        "rigid frame ms": frame,
        "bending frame ms": min(costs[1:]),
        "ratio": min(costs[1:]) / frame,
        "rigid trace ms": traced,
        "bending trace ms": min(shares[1:]),
        "first frame s": first / 1e3,
        "evaluations": count.evaluations,
        "rigid evaluations": plain.evaluations,
        "candidates": count.candidates,
        "rigid candidates": plain.candidates,
        "repeated": count.repeated,
        **wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--times", type=int, default=1000)
    given = parser.parse_args()
    fields = bending()
    found = {"processor": processor(), "alone": alone(fields, given.times), "crowd": crowd(fields)}
    for part in ("alone", "crowd"):
        say(f"{part}: " + ", ".join(f"{name} {value:.4g}" for name, value in found[part].items()))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
