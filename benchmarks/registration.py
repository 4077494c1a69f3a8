"""How well two configurations of things are aligned: `python -m benchmarks.registration --out FILE.json`.

Frames 0 and 16 of each sequence of a folder are learned as two fields that know nothing of each other; every pair of fields is
aligned. Of pairs of one thing: the error of matched points (percent of the extent) and of the rotation of the part that moves
rigidly (degrees, beside the rotation that most of the true points share). ``--meshes`` takes the true surfaces, which is quicker.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import combinations
from pathlib import Path

import igl
import numpy as np
import trimesh

from benchmarks.sequences import SHARED, Truth
from objects import fit_mesh
from objects.registration import RegistrationConfig, register_shapes, rigid_part, shape_of

FRAMES = (0, 16)


def true_points(truth: Truth, points: np.ndarray, start: int, end: int) -> np.ndarray:
    """Where points on the surface of one frame are in another."""
    _, face, at = igl.point_mesh_squared_distance(points, truth.vertices[start], truth.faces)
    share = trimesh.triangles.points_to_barycentric(truth.vertices[start][truth.faces[face]], at)
    return (truth.vertices[end][truth.faces[face]] * share[..., None]).sum(1)


def degrees(turn: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "deform_meshes", help="folder of sequences")
    parser.add_argument("--meshes", action="store_true", help="true surfaces in place of learned fields")
    parser.add_argument("--out", type=Path, default=Path("out/bench/registration.json"))
    args = parser.parse_args()
    config = RegistrationConfig()
    truths = {path.parent.name: Truth(path.parent) for path in sorted(args.data.glob("*/sequence.json"))}
    if not truths:
        parser.error(f"--data: expected a folder with sequences, got {args.data}")
    shapes = {}
    for name, truth in truths.items():
        for frame in FRAMES:
            mesh = truth.shuffled(frame)
            shapes[name, frame] = shape_of(mesh if args.meshes else fit_mesh(mesh).to_mesh(), frame, config)
    rows = []
    for a, b in combinations(shapes, 2):
        began = time.process_time()
        found = register_shapes(shapes[a], shapes[b], config)
        row: dict[str, object] = {"a": a, "b": b, "same": a[0] == b[0], "score": round(found.score, 3)}
        row["cpu_seconds"] = round(time.process_time() - began, 1)
        if a[0] == b[0]:
            truth = truths[a[0]]
            p, q = found.points_a.double().numpy(), found.points_b.double().numpy()
            there = true_points(truth, p, a[1], b[1])
            off = 100 * np.linalg.norm(q - there, axis=1) / truth.extent
            turn = rigid_part(p, there, 0.01 * truth.extent)[0]
            row["matched_median"] = round(float(np.median(off)), 3)
            row["matched_90"] = round(float(np.percentile(off, 90)), 3)
            row["rotation_off"] = round(degrees(turn.T @ found.T_b_a.as_matrix()[:3, :3].double().numpy()), 2)
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    same, other = ([row["score"] for row in rows if row["same"] is kind] for kind in (True, False))
    print(f"least score of one thing {min(same)}, largest of two {max(other)}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
