"""Write a scene for other programs, with its motion: `python examples/03_export.py [OUT_FOLDER]`."""

import sys
from pathlib import Path

import torch

from objects import SE3, Aabb, Box, Cylinder, Sphere, Warped
from objects.analytic_warps import Bend
from rendering import Camera, PointLight
from scenes import SceneGraph, Track, export_scene

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/examples")
out.mkdir(parents=True, exist_ok=True)

scene = SceneGraph()
scene.add(
    "table", Box((1.2, 0.8, 0.05), color=(0.6, 0.4, 0.3)), pose=SE3.from_translation([0, 0, 0.7]), tags=["static"]
)
scene.add("table/ring", Cylinder(0.1, 0.05) - Cylinder(0.07, 0.1), pose=SE3.from_translation([0.3, 0.2, 0.05]))
ball = Sphere(0.08, color=(0.9, 0.2, 0.1))
scene.add("table/ball", ball, track=Track.keyframes([0, 2], [SE3.from_translation([x, 0, 0.105]) for x in (-0.4, 0.4)]))
scene.add("table/twin", ball, pose=SE3.from_translation([-0.4, 0.25, 0.105]))
size = torch.tensor([0.05, 0.05, 0.26])
reed = Warped(
    Box((0.04, 0.04, 0.5), color=(0.2, 0.6, 0.2)),
    Bend(Aabb(-size, size), (0, 0, 1), (1, 0, 0), (0, 0, -0.25), 0.5, (0, 2), (0, 3)),
)
scene.add("table/reed", reed, pose=SE3.from_translation([0, -0.2, 0.275]))
scene.add("lamp", light=PointLight((0, 0, 0), intensity=3), pose=SE3.from_translation([1, -1, 2]))
scene.add("view", camera=Camera.look_at((1.0, -1.4, 1.6), (0, 0, 0.7), 320, 240))

for name in ("table.glb", "table.obj", "table-parts"):  # "table.usda" needs: pip install 'sirenscape[usd]'
    notes = export_scene(scene, out / name)
    print(name, *notes, sep="\n  ")
