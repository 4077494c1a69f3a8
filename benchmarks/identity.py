"""Every pixel against brute force, and what brute force costs: `python -m benchmarks.identity`.

The scenes and views of `benchmarks.scale`. Brute force takes every instance, nearest box first, marches each ray's way through its
box at 1/2,000 of the box diagonal, takes the first change of sign from + to - and halves it; it shares no traversal and no
search with the trace. It asks the same float32 networks, so pixels that differ are looked at again by the float64 reference,
which says who is right. Up to 1,000 objects all pixels are compared, at 10,000 a random tenth. Prints a table,
writes JSON and for each size a picture in which differing pixels are red.

At 1,000 objects it also counts what sphere tracing of the union would ask, every object at every step.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.compose import disagreements
from benchmarks.scale import HEIGHT, SIZES, WIDTH, assets, scene_of, view
from benchmarks.timing import say
from compose import Composite, Hits, Instance, Rays
from compose.batch import FieldBatch
from compose.reference import in_double, trace_reference
from objects import Field
from rendering import RenderConfig, owner_picture, render, save_png

STEPS = 2000  # in a box diagonal
HALVINGS = 12  # from a step to less than 1e-6 of the diagonal
ROWS = 1 << 21  # evaluations at once
SHARE = {10_000: 0.1}  # of the pixels that are compared, all where nothing is said


def brute_force(instances: list[Instance], rays: Rays) -> tuple[Hits, int]:
    """First hits with no index: all instances, each marched through its whole box; and the number of evaluations.

    Only a hit in front of a box saves marching it, as a field says by its box where it has no surface.
    """
    o, d = rays.origins.numpy(), rays.directions.numpy()
    t, owner, asked = np.full(len(o), np.inf), np.full(len(o), -1, dtype=np.int64), 0
    batches = {id(i.field): FieldBatch([i.field]) for i in instances}
    middle = np.stack([(i.T_world_obj @ (float(i.scale) * i.field.bounds.center.double())).numpy() for i in instances])
    order = np.argsort(np.linalg.norm(middle - o.mean(0), axis=1))
    for k in tqdm(order.tolist(), desc="brute force", unit="object", delay=2, leave=False, disable=None):
        i, scale = instances[k], float(instances[k].scale)
        to_object = i.T_world_obj.inverse()
        p = (to_object @ rays.origins).numpy() / scale
        q = to_object.rotation().numpy() @ d[..., None] / scale
        lo, hi = i.field.box_lo.double().numpy(), i.field.box_hi.double().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([(lo - p) / q[..., 0], (hi - p) / q[..., 0]])
        enter, leave = np.maximum(np.nanmax(ends.min(0), 1), 0.0), np.nanmin(ends.max(0), 1)
        some = np.flatnonzero((enter < leave) & (enter <= t))
        step = float(np.linalg.norm(hi - lo)) * scale / STEPS
        for rows in np.array_split(some, max(1, len(some) * STEPS // ROWS)):
            found, n = _march(batches[id(i.field)], p[rows], q[rows, :, 0], enter[rows], leave[rows], step)
            asked += n
            better = (found < t[rows]) | ((found == t[rows]) & (k < owner[rows]))
            t[rows[better]], owner[rows[better]] = found[better], k
    return Hits(torch.from_numpy(t), torch.from_numpy(owner)), asked


def _march(batch: FieldBatch, p: np.ndarray, q: np.ndarray, enter: np.ndarray, leave: np.ndarray, step: float):
    """The first change of sign along ``p + t q``, inf for none, and the number of evaluations."""

    def ask(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        points = p[rows] + at[:, None] * q[rows]
        return batch.sdf_sorted(np.zeros(len(at), dtype=np.int64), points, np.zeros(len(at)))

    found = np.full(len(p), np.inf)
    counts = np.ceil((leave - enter) / step).astype(int) + 1
    first = np.cumsum(counts) - counts
    row = np.repeat(np.arange(len(p)), counts)
    at = np.minimum(enter[row] + step * (np.arange(len(row)) - first[row]), leave[row])
    if len(row) == 0:
        return found, 0
    sign = ask(row, at) > 0
    change = np.flatnonzero(sign[:-1] & ~sign[1:] & (row[:-1] == row[1:]))
    rows, where = np.unique(row[change], return_index=True)
    lo, hi = at[change[where]], at[change[where] + 1]
    for _ in range(HALVINGS):
        mid = 0.5 * (lo + hi)
        outside = ask(rows, mid) > 0
        lo, hi = np.where(outside, mid, lo), np.where(outside, hi, mid)
    found[rows] = 0.5 * (lo + hi)
    return found, len(row) + HALVINGS * len(rows)


def sphere_tracing_steps(scene: Composite, rays: Rays) -> int:
    """Steps of all rays when each goes as far as the union's distance says, until it is within 1e-4 of the mean box diagonal
    or has left the scene."""
    near = 1e-4 * float(scene.diagonals.mean())
    bounds = scene.bounds
    if bounds is None:
        return 0
    ends = (torch.stack([bounds.lo, bounds.hi])[:, None] - rays.origins) / rays.directions
    t, leave = ends.amin(0).amax(1).clamp(min=0), ends.amax(0).amin(1)
    active, steps = (t < leave).nonzero()[:, 0], 0
    with tqdm(desc="sphere tracing", unit="step", delay=2, leave=False, disable=None) as bar:
        while len(active):
            steps += len(active)
            bar.update(len(active))
            sdf = scene.query(rays.at(t)[active]).sdf
            t[active] += sdf
            active = active[(sdf > near) & (t[active] < leave[active])]
    return steps


def compared(fields: Sequence[Field], m: int, out: Path) -> dict[str, float | int]:
    instances = scene_of(fields, m)
    scene, camera = Composite(instances), view(m)
    pixels = torch.arange(WIDTH * HEIGHT)
    if m in SHARE:
        pixels = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[: int(SHARE[m] * len(pixels))]
    rays = camera.rays(camera.pixel_centers(pixels))
    began = time.perf_counter()
    with torch.no_grad():
        want, asked = brute_force(instances, rays)
    seconds = time.perf_counter() - began
    got, count = scene.trace(rays), scene.trace_count(rays)
    gap = torch.where(got.t == want.t, 0.0, (got.t - want.t).abs())
    differs = ((got.owner != want.owner) & (gap >= 1e-6 * scene.size)) | (gap > 1e-4 * scene.size)
    row: dict[str, float | int] = {
        "pixels": len(pixels),
        "hits": int((want.owner >= 0).sum()),
        "differ": int(differs.sum()),
        "equal_share": 1 - float(differs.float().mean()),
    }
    if differs.any():  # who is right?
        some = Rays(rays.origins[differs], rays.directions[differs])
        exact = trace_reference(in_double(instances), some)
        for name, hits in (("trace", got), ("brute_force", want)):
            mine = Hits(hits.t[differs], hits.owner[differs])
            wrong = disagreements(mine, exact, scene.size)
            row[f"{name}_wrong_of_these"] = max(wrong["other_owner"], wrong["other_depth"])
    hits = max(row["hits"], 1)
    row |= {
        "evaluations_per_hit": count.evaluations / hits,
        "marched_per_hit": asked / hits,
        "marched_over_traced": asked / max(count.evaluations, 1),
        "brute_force_s": seconds,
    }
    if m == 1000:
        with torch.no_grad():
            steps = sphere_tracing_steps(scene, rays)
        row |= {
            "sphere_tracing_steps_per_ray": steps / len(rays),
            "sphere_traced_over_traced": steps * m / count.evaluations,
        }
    frame = render(scene, camera, config=RenderConfig(antialias=1, normals=False), progress=False)
    shown = (0.6 + 0.4 * owner_picture(frame.owner)).view(-1, 3)
    shown[pixels[differs]] = torch.tensor([1.0, 0.0, 0.0])
    save_png(shown.view(HEIGHT, WIDTH, 3), out.with_name(f"{out.stem}-{m}.png"))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench/identity.json"))
    parser.add_argument("--assets", type=int, default=50)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    fields, rows = assets(arguments.assets), {}
    for m in arguments.sizes:
        rows[m] = compared(fields, m, arguments.out)
        say(f"{m:6,d} objects  " + "  ".join(f"{k} {v:.5g}" for k, v in rows[m].items()))
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
