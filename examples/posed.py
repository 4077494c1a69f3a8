"""Posed RGB-D pictures of a table with a few things on it, with instance masks, and the truth to score against.

    python -m examples.posed FOLDER [MESH ...]

The meshes (any format that trimesh reads; without any, those of the package pybullet_data) are scaled to 0.2 m and stood on a
patterned board. They are drawn by pyrender, so nothing of the scene is a field of ours. Writes FOLDER (the pictures, nerfstudio
convention, ``transforms_test.json`` for the held-out ones), FOLDER_moved (the test pictures after the second thing was moved) and
FOLDER_truth (the meshes in world coordinates, ``truth.json``).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from tqdm import tqdm

from objects import SE3
from rendering import Camera, save_depth_png, save_png, save_transforms
from rendering.rasterize import rasterize_meshes

WIDTH, HEIGHT, FOV_Y_DEG = 160, 120, 45.0
N_TRAIN, N_TEST = 40, 10
EXTENT = 0.2  # metres, the longest edge of each thing
SHIPPED = ("duck.obj", "objects/mug.obj", "teddy2_VHACD_CHs.obj", "soccerball.obj", "lego/lego.obj")
MOVE = ((0.06, -0.1, 0.0), 40.0)  # metres; degrees about z


def board() -> trimesh.Trimesh:
    """A board of 0.9 m with soft patches of colour; its top is at z = 0."""
    n = 90
    x, y = np.meshgrid(np.linspace(-0.45, 0.45, n), np.linspace(-0.45, 0.45, n), indexing="ij")
    top = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    i = np.arange(n * n).reshape(n, n)
    quads = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]], -1).reshape(-1, 4)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    under = trimesh.creation.box((0.9, 0.9, 0.02))
    under.apply_translation((0, 0, -0.0102))
    wave = [np.sin(a * top[:, 0] + b * top[:, 1] + c) for a, b, c in ((14, 5, 0), (-6, 13, 1), (9, -11, 2))]
    rgb = 150 + 60 * np.stack(wave, -1)
    colors = np.concatenate([rgb, np.full((len(under.vertices), 3), 120.0)]).astype(np.uint8)
    return trimesh.Trimesh(
        np.concatenate([top, under.vertices]),
        np.concatenate([faces, under.faces + len(top)]),
        vertex_colors=colors,
        process=False,
    )


def things(paths: Sequence[str]) -> list[trimesh.Trimesh]:
    """The meshes, centred over the origin, standing on z = 0, ``EXTENT`` long."""
    meshes = []
    for path in paths:
        mesh = trimesh.load(path, force="mesh")
        if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
            raise ValueError(f"{path}: expected a mesh with faces")
        mesh.apply_translation(-mesh.bounds.mean(0))
        mesh.apply_scale(EXTENT / mesh.extents.max())
        mesh.apply_translation((0, 0, -mesh.bounds[0, 2]))
        meshes.append(mesh)
    return meshes


def shipped_meshes() -> list[str]:
    """Five meshes that come with pybullet."""
    if find_spec("pybullet_data") is None:
        raise ValueError("without meshes, those of pybullet are taken: pip install 'sirenscape[demo]'")
    import pybullet_data

    data = Path(pybullet_data.getDataPath())
    return [str(data / name) for name in SHIPPED]


def standing(n: int) -> list[SE3]:
    """Where the things stand: one in the middle, the others around it."""
    poses = []
    for i in range(n):
        angle = 2 * math.pi * (i - 1) / max(n - 1, 1) + 0.4
        place = (0.0, 0.0, 0.0) if i == 0 else (0.24 * math.cos(angle), 0.24 * math.sin(angle), 0.0)
        turned = SE3.from_axis_angle((0.0, 0.0, 1.0), 0.7 * i)
        poses.append(SE3.from_translation(place) @ turned)
    return poses


def cameras(n: int, phase: float) -> list[Camera]:
    """Around the board at three heights, looking at its middle."""
    found = []
    for i in range(n):
        turn = 2 * math.pi * (i + phase) / n * 3
        up = math.radians((25, 42, 60)[i % 3])
        eye = 0.85 * np.array([math.cos(turn) * math.cos(up), math.sin(turn) * math.cos(up), math.sin(up)])
        found.append(Camera.look_at(eye.tolist(), (0.0, 0.0, 0.06), WIDTH, HEIGHT, FOV_Y_DEG))
    return found


def write(folder: Path, name: str, meshes: list[Any], poses: list[SE3], views: list[Camera]) -> None:
    """Pictures, depth and masks of the board (0) and the things (1, 2, ...), and their transforms."""
    for part in ("rgb", "depth", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    stem = "train" if name == "transforms.json" else "test"
    entries, files = [], []
    for i, camera in enumerate(tqdm(views, desc=f"draw {stem}", delay=2, leave=False, disable=None)):
        depth, owner, rgb = rasterize_meshes(meshes, poses, camera)
        file = f"{stem}_{i:03d}.png"
        save_png(rgb, folder / "rgb" / file)
        save_depth_png(depth, folder / "depth" / file, unit=1e-4)
        Image.fromarray(owner.clamp(min=0).to(torch.uint8).numpy()).save(folder / "masks" / file)
        files.append(f"rgb/{file}")
        entries.append({"depth_file_path": f"depth/{file}", "instance_path": f"masks/{file}"})
    save_transforms(folder / name, views, files, frame_entries=entries, entries={"depth_unit_scale_factor": 1e-4})


def make(folder: Path, paths: Sequence[str], n_train: int = N_TRAIN) -> None:
    """Writes the three folders, with ``n_train`` pictures to learn from."""
    objects = things(paths)
    poses = standing(len(objects))
    meshes = [board(), *objects]
    stand = [SE3.identity(), *poses]
    test = cameras(N_TEST, 0.37)
    write(folder, "transforms.json", meshes, stand, cameras(n_train, 0.0))
    write(folder, "transforms_test.json", meshes, stand, test)
    step = SE3.from_translation(MOVE[0]) @ stand[2] @ SE3.from_axis_angle((0.0, 0.0, 1.0), math.radians(MOVE[1]))
    write(folder.with_name(folder.name + "_moved"), "transforms.json", meshes, [*stand[:2], step, *stand[3:]], test)
    truth = folder.with_name(folder.name + "_truth")
    truth.mkdir(parents=True, exist_ok=True)
    for i, (mesh, pose) in enumerate(zip(meshes, stand, strict=True)):
        world = mesh.copy()
        world.apply_transform(pose.as_matrix().numpy())
        world.export(truth / f"{i}.ply")
    change = step @ stand[2].inverse()
    facts = {"meshes": ["board", *(Path(p).stem for p in paths)], "moved": 2, "T_new_old": change.as_matrix().tolist()}
    (truth / "truth.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        make(Path(sys.argv[1]), sys.argv[2:] or shipped_meshes())
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
