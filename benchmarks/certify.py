"""What proof costs an index of cells and what it finds: `python -m benchmarks.certify`.

Small objects of pybullet_data (learned by networks of 2 layers, 32 wide, on first use and cached), each with a sampled and with a
certified index: sizes, times of building, the share of the box that is proven to lie on one side by boxes of 1/32, 1/64 and
1/128 of its longest edge, the proven bound of the gradient's length against the largest that samples show, and the cells that
the sampled index calls free though the proof fails there, with how many of them a sample of 16^3 points finds to be wrong. Prints
a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.scale import assets
from benchmarks.timing import say
from compose.asset_cells import AssetCells
from compose.batch import FieldBatch
from compose.cells import build_cells
from compose.certify import certified_sign
from compose.cpu import surface
from compose.distance_weights import Weights, weights_of
from objects import FitConfig, SirenField

EDGES = {4: "1/32", 2: "1/64", 1: "1/128"}  # of boxes, in cells
POINTS = 16  # along each edge of a cell that is looked at closely
TOGETHER = 200  # such cells


def proven(
    weights: Weights, lo: np.ndarray, cell: np.ndarray, blocks: Sequence[int]
) -> tuple[np.ndarray, dict[int, float]]:
    """The proven side of each cell (0 for none), by blocks of 4^3 cells that are halved where need be, and the share of the
    box that is proven when boxes have come down to each edge."""
    sign = np.zeros([4 * b for b in blocks], dtype=np.int8)
    corner = 4 * np.argwhere(np.ones(blocks, dtype=bool))
    shares = {}
    for edge in EDGES:
        half = np.tile(0.5 * edge * cell, (len(corner), 1))
        side = certified_sign(weights, lo + corner * cell + half, half)
        inner = np.argwhere(np.ones([edge] * 3, dtype=bool))
        sign[tuple((corner[:, None] + inner).reshape(-1, 3).T)] = np.repeat(side, edge**3)
        shares[edge] = float((sign != 0).mean())
        halves = np.argwhere(np.ones([2] * 3, dtype=bool)) * edge // 2
        corner = (corner[side == 0][:, None] + halves).reshape(-1, 3)
    return sign, shares


def stated(cells: AssetCells) -> np.ndarray:
    """The side on which each cell lies by an index, 0 where it may hold surface."""
    bits = [np.unpackbits(m[:, None].view(np.uint8), axis=1, bitorder="little") for m in (cells.mask, cells.inside)]
    sign = np.where((-1 - cells.block[..., None]) & 1, -1, 1).repeat(64, -1)
    has, inside = bits
    sign[cells.block >= 0] = np.where(has == 1, 0, np.where(inside == 1, -1, 1))
    shape = [4 * b for b in cells.block.shape]
    return sign.reshape(*cells.block.shape, 4, 4, 4).transpose(0, 3, 1, 4, 2, 5).reshape(shape)


def denied(field: SirenField, lo: np.ndarray, cell: np.ndarray, corner: np.ndarray, side: np.ndarray) -> int:
    """How many of the cells at ``corner [n, 3]`` hold a point that is not on the stated ``side``."""
    batch, count = FieldBatch([field]), 0
    inner = np.argwhere(np.ones([POINTS] * 3, dtype=bool)) / (POINTS - 1)
    for k in range(0, len(corner), TOGETHER):
        p = (lo + (corner[k : k + TOGETHER, None] + inner) * cell).reshape(-1, 3)
        value = batch.sdf_sorted(np.zeros(len(p), dtype=np.int64), p, np.zeros(len(p)))
        wrong = value.reshape(-1, len(inner)) * side[k : k + TOGETHER, None] <= 0
        count += int(wrong.any(1).sum())
    return count


def steepest(field: SirenField, lo: np.ndarray, cells: AssetCells) -> float:
    """The longest gradient at 3^3 points of each cell that may hold surface."""
    nets = FieldBatch([field]).nets
    inner = np.argwhere(np.ones([3] * 3, dtype=bool)) / 2
    p = (lo + (np.argwhere(stated(cells) == 0)[:, None] + inner) * cells.cell).reshape(-1, 3)
    gradient = surface(nets, np.zeros(len(p), dtype=np.int64), p, distance=True, gradient=True)[1]
    return float(np.linalg.norm(gradient, axis=1).max(initial=0.0))


def measured(field: SirenField) -> dict[str, float | int]:
    lo = field.box_lo.double().numpy()
    size = field.box_hi.double().numpy() - lo
    weights = weights_of(field)
    row: dict[str, float | int] = {}
    made = {}
    for name in ("sampled", "certified"):
        began = time.perf_counter()
        cells = build_cells(field, None, name == "certified")
        row[f"{name}_s"] = time.perf_counter() - began
        row[f"{name}_cells"] = 4 * max(cells.block.shape)
        row[f"{name}_kb"] = cells.nbytes / 1e3
        row[f"{name}_surface_share"] = len(cells.plane) / (64 * cells.block.size)
        bound = np.median(cells.plane[:, 3].view(np.uint8)) * cells.unit[1] if len(cells.plane) else 0.0
        row[f"{name}_bound_over_cell"] = float(bound / cells.cell.min())
        row[f"{name}_lipschitz"] = float(cells.lipschitz[0])
        made[name] = cells
    row["seen_lipschitz"] = steepest(field, lo, made["certified"])
    blocks = np.ceil(32 * size / size.max() - 1e-6).astype(int)
    shares = proven(weights, lo, size / (4 * blocks), blocks.tolist())[1]
    row |= {f"proven {EDGES[edge]}": share for edge, share in shares.items()}
    sampled = made["sampled"]
    sign = stated(sampled)
    open_cells = (sign != 0) & (proven(weights, lo, sampled.cell, sampled.block.shape)[0] != sign)
    row["free_cells"] = int((sign != 0).sum())
    row["unproven"] = int(open_cells.sum())
    row["wrong"] = denied(field, lo, sampled.cell, np.argwhere(open_cells), sign[open_cells])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench/certify.json"))
    parser.add_argument("--assets", type=int, default=12)
    arguments = parser.parse_args()
    fields = assets(arguments.assets, FitConfig(width=32, layers=2))
    build_cells(fields[0], None, True)  # compiles
    rows = []
    say("object   proven 1/32  1/64  1/128 | sampled: cells  KB     s | certified: cells  KB     s | "
        "unproven wrong | gradient: proven  seen")  # fmt: skip
    for k, field in enumerate(fields):
        r = measured(field)
        rows.append(r)
        say(f"{k:6d}        {r['proven 1/32']:.3f} {r['proven 1/64']:.3f}  {r['proven 1/128']:.3f} | "
            f"{r['sampled_cells']:14d} {r['sampled_kb']:3.0f} {r['sampled_s']:5.2f} | "
            f"{r['certified_cells']:16d} {r['certified_kb']:3.0f} {r['certified_s']:5.2f} | "
            f"{r['unproven']:8d} {r['wrong']:5d} | {r['certified_lipschitz']:16.2f}  {r['seen_lipschitz']:.2f}")  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
