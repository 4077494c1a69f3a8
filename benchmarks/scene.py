"""What editing a large scene costs: `python -m benchmarks.scene`.

A scene of 10,000 nodes (100 groups of 99 objects of 50 distinct fields): the time of each kind of edit and of its undo, of `at(t)`
after one move and after all moved, of saving and loading. Medians; the same edits in a scene of 100 nodes stand beside them,
so that the ratio tells how a cost grows. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import timed_ms
from objects import SE3, Aabb, Box, Field, Sphere
from objects.field import FieldSample
from scenes import SceneGraph, Track, load_scene, save_scene

SIZES = (100, 10_000)
EDITS = 1000


class Breathing(Field):
    """A ball whose radius goes up and down."""

    @property
    def deforms(self) -> bool:
        return True

    def __init__(self) -> None:
        super().__init__(Aabb(-0.4 * torch.ones(3), 0.4 * torch.ones(3)))

    def inside(self, p_obj: torch.Tensor, time: torch.Tensor | None) -> FieldSample:
        radius = 0.3 if time is None else 0.3 + 0.05 * torch.sin(time)
        return FieldSample(p_obj.norm(dim=-1) - radius, torch.ones_like(p_obj), p_obj[:, :0])


def build(nodes: int, fields: list[Field]) -> SceneGraph:
    """Groups of up to 99 objects on a lattice."""
    graph = SceneGraph()
    per_group = 99 if nodes > 1000 else 9
    for g in range(nodes // (per_group + 1)):
        graph.add(f"g{g}", pose=SE3.from_translation([float(g), 0.0, 0.0]))
        for k in range(per_group):
            graph.add(f"g{g}/o{k}", fields[(g + k) % len(fields)], pose=SE3.from_translation([0.0, float(k), 0.0]))
    graph.forget_history()
    return graph


def measure(nodes: int, fields: list[Field]) -> dict[str, float]:
    began = time.perf_counter()
    graph = build(nodes, fields)
    row = {"build_s": time.perf_counter() - began}
    groups = len(graph.children())
    per_group = len(graph.children("g0"))
    rng = np.random.default_rng(0)

    def somewhere() -> str:
        return f"g{rng.integers(groups)}/o{rng.integers(per_group)}"

    row["first_at_ms"] = timed_ms(graph.at)
    graph.move("g0/o0", by=(0, 0, 0.1))
    graph.at()
    kinds: dict[str, Callable[[int], object]] = {
        "move": lambda k: graph.move(somewhere(), by=rng.normal(size=3).tolist()),
        "rotate": lambda k: graph.rotate(somewhere(), (0, 0, 1), 10.0),
        "scale": lambda k: graph.scale(somewhere(), 1.01),
        "hide": lambda k: graph.hide(somewhere()),
        "duplicate": lambda k: graph.duplicate(somewhere(), f"g0/copy{k}"),
        "rename": lambda k: graph.rename(f"g0/copy{k}", f"new{k}"),
        "reparent": lambda k: graph.reparent(f"g0/new{k}", "g1"),
        "remove": lambda k: graph.remove(f"g1/new{k}"),
    }
    every: list[float] = []
    for name, edit in kinds.items():
        times = [timed_ms(lambda k=k, edit=edit: edit(k)) for k in range(EDITS // len(kinds))]
        row[f"{name}_ms"] = statistics.median(times)
        every += times
    row["edit_ms"], row["edit_worst_ms"] = statistics.median(every), max(every)
    row["undo_ms"] = statistics.median(timed_ms(graph.undo) for _ in range(EDITS))
    graph.at()

    moved, both = [], []
    for _ in range(50):
        edit_ms = timed_ms(lambda: graph.move(somewhere(), by=rng.normal(size=3).tolist()))
        moved.append(timed_ms(graph.at))
        both.append(edit_ms + moved[-1])
    row["at_after_one_move_ms"], row["move_and_at_ms"] = statistics.median(moved), statistics.median(both)
    graph.group("all", graph.children())
    graph.at()
    row["at_after_all_moved_ms"] = statistics.median(
        timed_ms(lambda: (graph.move("all", by=(0, 0, 0.1)), graph.at())) for _ in range(5)
    )
    other = Sphere(0.33)
    for name, change in {
        "hide": lambda k: graph.hide(f"all/g0/o{k}"),
        "show": lambda k: graph.show(f"all/g0/o{k}"),
        "replace": lambda k: graph.replace(f"all/g1/o{k}", other),
        "add": lambda k: graph.add(f"all/g1/new{k}", other),
        "rename": lambda k: graph.rename(f"all/g1/new{k}", f"newer{k}"),
        "remove": lambda k: graph.remove(f"all/g1/newer{k}"),
    }.items():
        row[f"at_after_{name}_ms"] = statistics.median(
            timed_ms(lambda k=k, change=change: (change(k), graph.at())) for k in range(5)
        )
    graph.replace("all/g0/o0", Breathing())
    row["at_new_time_of_one_ms"] = statistics.median(timed_ms(lambda t=t: graph.at(0.1 * t)) for t in range(1, 6))
    graph.undo()
    still = graph.at(0.0)
    row["at_unchanged_ms"] = statistics.median(timed_ms(graph.at) for _ in range(50))
    if graph.at(0.0) is not still:
        raise RuntimeError("an unchanged scene gave another composite")
    track = Track.keyframes([0, 1, 2], SE3.from_translation(torch.eye(3, dtype=torch.float64)), end="loop")
    for path in list(graph):
        if path.count("/") == 2:
            graph.animate(path, track)
    graph.at(0.0)
    row["at_other_time_all_tracks_ms"] = statistics.median(timed_ms(lambda t=t: graph.at(0.1 * t)) for t in range(1, 6))
    graph.forget_history()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.scene"
        row["save_s"] = 1e-3 * timed_ms(lambda: save_scene(graph, path))
        row["load_s"] = 1e-3 * timed_ms(lambda: load_scene(path))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench/scene.json"))
    out: Path = parser.parse_args().out
    fields: list[Field] = [Sphere(0.2 + 0.005 * k) if k % 2 else Box((0.3, 0.2 + 0.01 * k, 0.3)) for k in range(50)]
    build(20, fields).at()  # compiles
    rows = {nodes: measure(nodes, fields) for nodes in SIZES}
    small, large = (rows[n] for n in SIZES)
    print(f"{'':32s}" + "".join(f"{n:>10,} nodes" for n in SIZES) + f"{'ratio':>8s}")
    for name, value in large.items():
        print(f"{name:32s}{small[name]:16.3f}{value:16.3f}{value / max(small[name], 1e-9):8.1f}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({str(n): row for n, row in rows.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
