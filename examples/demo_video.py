"""A film taken apart: things fall, the clip alone becomes a scene, one thing is taken out, and the film is made again.

Physics by pybullet (extra ``demo``), pictures by this project's own renderer. Nothing but colour, depth and cameras of the clip is
given to the decomposition. Results go to ``out/demo-video/``; a second run finds what was learned in the cache.

    python examples/demo_video.py [OUT_FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from objects import SE3, Box, Cylinder, Field
from rendering import (
    AmbientLight,
    Camera,
    DirectionalLight,
    RenderConfig,
    contact_sheet,
    labelled,
    owner_picture,
    save_mp4,
    save_png,
)
from scenes import SceneGraph, Track, save_scene
from scenes.io.dataset import save_dataset
from scenes.video import LearnedClip, learn_clip, load_clip
from scenes.video.report import Rendered, figures_of, rendered, write_report

Part = tuple[Field, list[float]]  # and where its middle is
N, FPS, SIZE = 24, 48, (160, 120)
STEPS = 10  # of the physics in a frame
INKS = ((0.85, 0.25, 0.2), (0.95, 0.85, 0.6), (0.2, 0.4, 0.75), (0.25, 0.6, 0.35), (0.9, 0.6, 0.15), (0.3, 0.25, 0.3))
FLOOR = ((0.62, 0.58, 0.5), (0.42, 0.4, 0.38), (0.54, 0.47, 0.4))


def patches(size: tuple[float, float, float], cells: tuple[int, int, int], inks: tuple[int, ...]) -> list[Part]:
    """A box of patches of different colours."""
    edges, found = [s / n for s, n in zip(size, cells, strict=True)], []
    solids = {ink: Box(edges, color=INKS[ink]) for ink in inks}
    for number, at in enumerate(product(*map(range, cells))):
        middle = [(i + 0.5) * e - 0.5 * s for i, e, s in zip(at, edges, size, strict=True)]
        found.append((solids[inks[(number * 7 + at[0] + 2 * at[1]) % len(inks)]], middle))
    return found


def bands(radius: float, height: float, inks: tuple[int, ...]) -> list[Part]:
    """A can with bands."""
    band = height / len(inks)
    return [
        (Cylinder(radius, band, color=INKS[ink]), [0, 0, (i + 0.5) * band - height / 2]) for i, ink in enumerate(inks)
    ]


def fall() -> tuple[SceneGraph, Tensor]:
    """Three things that fall onto a floor and each other, as a scene; and the times of its frames."""
    import pybullet  # of the extra `demo`

    graph = SceneGraph()
    tiles = [Box((0.1, 0.1, 0.04), color=color) for color in FLOOR]
    graph.add("floor")
    for i, j in product(range(-9, 9), range(-9, 9)):
        place = SE3.from_translation([0.1 * i + 0.05, 0.1 * j + 0.05, -0.02])
        graph.add(f"floor/tile_{i}_{j}", tiles[(i * 5 + j * 3 + i * j) % len(tiles)], pose=place)
    client = pybullet.connect(pybullet.DIRECT)
    pybullet.setGravity(0, 0, -9.81, physicsClientId=client)
    pybullet.setPhysicsEngineParameter(fixedTimeStep=1 / (FPS * STEPS), physicsClientId=client)
    ground = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=[2, 2, 0.5], physicsClientId=client)
    bodies = {"": pybullet.createMultiBody(0, ground, -1, [0, 0, -0.5], physicsClientId=client)}
    things = {
        "crate": patches((0.16, 0.12, 0.1), (4, 3, 2), (0, 1, 4)),
        "book": patches((0.15, 0.1, 0.04), (3, 3, 1), (2, 1, 3)),
        "can": bands(0.037, 0.12, (5, 1, 3, 1, 5)),
    }
    starts = {
        "crate": ([-0.12, 0.03, 0.16], [0.3, 0.1, 0.6], [1.0, 2.0, 0.5]),
        "book": ([0.09, -0.05, 0.22], [0.9, -0.4, 0.2], [-3.0, 2.0, 1.0]),
        "can": ([0.15, 0.13, 0.2], [1.2, 0.5, 0.0], [2.0, -4.0, 1.0]),
    }
    for name, (at, turn, spin) in starts.items():
        if name == "can":
            shape = pybullet.createCollisionShape(
                pybullet.GEOM_CYLINDER, radius=0.037, height=0.12, physicsClientId=client
            )
        else:
            half = [0.08, 0.06, 0.05] if name == "crate" else [0.075, 0.05, 0.02]
            shape = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half, physicsClientId=client)
        quat = pybullet.getQuaternionFromEuler(turn)
        bodies[name] = pybullet.createMultiBody(0.3, shape, -1, at, quat, physicsClientId=client)
        pybullet.resetBaseVelocity(bodies[name], [0, 0, 0], spin, physicsClientId=client)
    for body in bodies.values():
        pybullet.changeDynamics(
            body, -1, lateralFriction=0.5, restitution=0.3, rollingFriction=1e-3, physicsClientId=client
        )
    poses: dict[str, list[SE3]] = {name: [] for name in things}
    for _ in range(N):
        for name, seen in poses.items():
            at, (x, y, z, w) = pybullet.getBasePositionAndOrientation(bodies[name], physicsClientId=client)
            seen.append(SE3(torch.tensor([w, x, y, z]).double(), torch.tensor(at).double()))
        for _ in range(STEPS):
            pybullet.stepSimulation(physicsClientId=client)
    pybullet.disconnect(client)
    times = torch.arange(N, dtype=torch.float64) / FPS
    for name, parts in things.items():
        graph.add(name, track=Track.keyframes(times.tolist(), poses[name]))
        for i, (field, middle) in enumerate(parts):
            graph.add(f"{name}/{i}", field, pose=SE3.from_translation(middle))
    graph.add("sky", light=AmbientLight((0.8, 0.87, 1.0), 0.45))
    graph.add("sun", light=DirectionalLight((-0.5, 0.25, -1.0), (1.0, 0.95, 0.85), 0.75))
    return graph, times


def take(graph: SceneGraph, times: Tensor, folder: Path) -> None:
    """Films a scene from a camera that moves a little, with depth, into a folder in the nerfstudio convention."""
    eyes = [(0.1 + 0.004 * t, -0.72, 0.5) for t in range(len(times))]
    cameras = [Camera.look_at(eye, (0.03, 0.03, 0.06), *SIZE, 45.0) for eye in eyes]
    folder.mkdir(parents=True, exist_ok=True)
    config = RenderConfig(background=(0.75, 0.82, 0.9))
    save_dataset(graph, list(zip(times.tolist(), cameras, strict=True)), "nerfstudio", folder, config=config)


def beside(clip_rgb: np.ndarray, learned: LearnedClip, before: Rendered, after: Rendered) -> Iterator[Tensor]:
    """Input, ids, rendering, and the rendering of the edited scene, frame by frame."""
    for t, rgb in enumerate(clip_rgb):
        ids = owner_picture(torch.from_numpy(learned.found.ids[t].astype(np.int64)) - 1)
        panels = [torch.from_numpy(rgb).float() / 255, ids, before.rgb[t], after.rgb[t]]
        names = ("the clip", "found", "rendered", "without the first")
        yield contact_sheet([labelled(p, name) for p, name in zip(panels, names, strict=True)], 4, 2)


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo-video")
    if find_spec("pybullet") is None:
        sys.exit("demo_video: pybullet is missing; it comes with the extra 'demo': pip install 'sirenscape[demo]'")
    out.mkdir(parents=True, exist_ok=True)
    graph, times = fall()
    take(graph, times, out / "clip")
    clip = load_clip(out / "clip")
    learned = learn_clip(clip)
    for note in learned.notes:
        print(f"note: {note}")
    learned.graph.log.append("decompose from clip")
    save_scene(learned.graph, out / "found.scene")
    before = rendered(clip, learned)
    figures = figures_of(clip, learned, before)
    learned.found.save(out / "found.scene/decomposition")
    write_report(clip, learned, before, figures, out / "found.scene/decomposition")
    after = before
    if learned.found.objects:
        first = next(path for path in learned.graph if path.rsplit("/", 1)[-1] == learned.found.objects[0].name)
        learned.graph.remove(first)
        save_scene(learned.graph, out / "less.scene")
        after = rendered(clip, learned)
    frames = list(beside(clip.rgb, learned, before, after))
    save_mp4(frames, out / "demo-video.mp4", fps=12)
    save_png(contact_sheet(frames[:: max(1, len(frames) // 5)], 1), out / "demo-video.png")
    print(f"{len(learned.found.objects)} things found of 3; " + ", ".join(f"{k} {v:.1f}" for k, v in figures.items()))
    print(f"see {out / 'demo-video.mp4'}, {out / 'demo-video.png'} and {out / 'found.scene/decomposition/report.html'}")


if __name__ == "__main__":
    main()
